//! Orders that are judged while the writer writes something else (`docs/design/0006-intake.md`).
//!
//! While a batch of new orders is written, the orders behind it are judged already, with what that
//! batch holds counted in: they are the next batch, and the writer never waits for the driver. While
//! a settlement is written, an order that is good whatever becomes of it is kept in the store's
//! intake and promised at once; it is written after the settlement.
//!
//! Only orders with a new client order ID are judged so. All else waits for its turn, and so does what
//! comes after it.
//!
//! Invariants: judged orders are written in the order of their IDs, and before all that waits in the
//! queue; what was handed to the intake is written, however often that takes.

use std::collections::VecDeque;
use std::hash::Hash;

use papertrader_core::books::InFlight;
use papertrader_core::ids::{AccountId, OrderId, WorkerId};
use papertrader_core::money::Cash;
use papertrader_core::order::{Order, OrderRecord, OrderRequest, OrderState};
use papertrader_node::{error, warn};
use papertrader_protocol::{Reason, Request};
use papertrader_store::{Change, Sieve, order_hash};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::batch::{BATCH, Command, Work, Writing};
use crate::database::Keeper;
use crate::driver::{Driver, MasterError};
use crate::trading::Placing;
use crate::workers::Origin;

/// Orders that are promised and not written at most; more wait.
const PROMISES: usize = 100_000;
/// Questions that wait at most until what their account was promised is written.
const LOOKS: usize = 1_024;

/// What the module keeps between turns.
pub(crate) struct Ahead {
    sieve: Sieve,
    /// Where orders are kept that are promised before they are written.
    keeper: Option<Keeper>,
    /// What orders hold that are judged and not in the books yet.
    in_flight: InFlight,
    /// By what they are found: account and hash of the client order ID.
    keys: FxHashSet<(AccountId, u64)>,
    /// Batches that wait for the writer, none empty.
    judged: VecDeque<Judged>,
    promises: Promises,
    /// What accounts ask to see that were promised what is not in the books: they see it then.
    looks: Vec<Look>,
}

/// A question about an account's own affairs.
pub(crate) struct Look {
    pub(crate) origin: Origin,
    pub(crate) viewer: AccountId,
    pub(crate) request: Request,
}

/// Orders that are judged, a batch of them, by ID.
pub(crate) struct Judged {
    orders: Vec<Early>,
    /// They were handed to the intake.
    is_promised: bool,
}

/// A judged order.
struct Early {
    record: OrderRecord,
    origin: Origin,
    /// Its client knows.
    is_told: bool,
}

/// What can be promised of an order.
struct Promise {
    /// By what it is found.
    key: (AccountId, u64),
    request: OrderRequest,
    hold: Cash,
    /// The market day on which it counts as received.
    day: u32,
}

/// What is promised while a settlement is written.
#[derive(Default)]
struct Promises {
    /// How many orders each account was promised that are not in the books.
    accounts: FxHashMap<AccountId, usize>,
    /// How many came through each worker.
    workers: FxHashMap<WorkerId, usize>,
    /// How many that are.
    count: usize,
    /// To be handed to the intake.
    next: Vec<Order>,
    /// The last order of those that the intake is keeping now.
    keeping: Option<OrderId>,
    /// The intake has something that it need not have any more, once all is written.
    is_dirty: bool,
    /// The intake has failed: nothing more is promised before the next settlement.
    has_failed: bool,
    /// Accounts of which something waits in the queue: what they send waits behind it.
    behind: FxHashSet<AccountId>,
}

impl Ahead {
    pub(crate) fn new(sieve: Sieve, keeper: Option<Keeper>) -> Ahead {
        Ahead {
            sieve,
            keeper,
            in_flight: InFlight::default(),
            keys: FxHashSet::default(),
            judged: VecDeque::new(),
            promises: Promises::default(),
            looks: Vec::new(),
        }
    }

    /// The next batch for the writer.
    pub(crate) fn next(&mut self) -> Option<Judged> {
        self.judged.pop_front()
    }

    /// Whether an account was promised what is not in the books yet.
    pub(crate) fn has_promised(&self, account: AccountId) -> bool {
        self.promises.accounts.contains_key(&account)
    }

    /// Whether the intake is keeping something now.
    pub(crate) fn is_keeping(&self) -> bool {
        self.promises.keeping.is_some()
    }

    /// Something of an account waits: what comes of it waits behind.
    pub(crate) fn waits(&mut self, account: AccountId) {
        self.promises.behind.insert(account);
    }

    /// By what an order is found, if nothing is known under it for sure.
    fn key(&self, placing: &Placing) -> Option<(AccountId, u64)> {
        let account = placing.account;
        let key = (account, order_hash(account.0, placing.args.client_order_id.as_str()));
        let is_new = !self.keys.contains(&key) && self.sieve.is_new(key.0, key.1);
        is_new.then_some(key)
    }

    /// Adds a judged order to the last batch, or to a new one.
    fn add(&mut self, key: (AccountId, u64), early: Early, is_promised: bool) {
        self.keys.insert(key);
        let fits =
            |last: &&mut Judged| last.orders.len() < BATCH && last.is_promised == is_promised;
        match self.judged.back_mut().filter(fits) {
            Some(last) => last.orders.push(early),
            None => self.judged.push_back(Judged { orders: vec![early], is_promised }),
        }
    }

    /// An order is in the books, or will never be.
    fn leaves(&mut self, record: &OrderRecord, worker: WorkerId, is_promised: bool) {
        let Order { request, .. } = &record.order;
        let account = request.account;
        self.keys.remove(&(account, order_hash(account.0, request.client_order_id.as_str())));
        if matches!(record.state, OrderState::Queued(_)) {
            self.in_flight.release(&record.order);
        }
        if is_promised {
            self.promises.count -= 1;
            one_less(&mut self.promises.accounts, account);
            one_less(&mut self.promises.workers, worker);
        }
    }
}

/// Counts one less under a key.
fn one_less<K: Eq + Hash>(counts: &mut FxHashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

impl Promises {
    /// Whether one more order may be promised that comes through a worker. Nobody may have more
    /// places than are left.
    fn has_room(&self, worker: WorkerId) -> bool {
        self.workers.get(&worker).copied().unwrap_or(0) < PROMISES.saturating_sub(self.count)
    }
}

impl Judged {
    /// What is to be written.
    pub(crate) fn changes(&self) -> Vec<Change> {
        self.orders.iter().map(|early| Change::PlaceOrder(early.record.clone())).collect()
    }

    /// The orders that are not told yet, up to `last`.
    fn untold(&mut self, last: OrderId) -> impl Iterator<Item = &mut Early> {
        let end = self.orders.partition_point(|early| early.record.order.id <= last);
        self.orders[..end].iter_mut().filter(|early| !early.is_told)
    }
}

impl Driver {
    /// Judges the orders at the head of the queue, unless something other than orders is written.
    pub(crate) fn judge_ahead(&mut self) {
        if !matches!(self.writing, Writing::Nothing | Writing::Placing(_)) {
            return;
        }
        let has_room = |ahead: &Ahead| {
            ahead.judged.len() < 2 && ahead.judged.back().is_none_or(|it| it.orders.len() < BATCH)
        };
        while has_room(&self.ahead)
            && let Some(Work::Command(Command::Place(placing))) = self.queue.front()
            && let Some(key) = self.ahead.key(placing)
        {
            let Some(Work::Command(Command::Place(placing))) = self.queue.pop_front() else {
                break;
            };
            self.left(placing.origin.worker);
            self.judge_early(placing, key);
        }
    }

    fn judge_early(&mut self, placing: Placing, key: (AccountId, u64)) {
        let (now, origin) = (self.clock.now(), placing.origin);
        let instrument = match self.admissible(&placing, now) {
            Ok(instrument) => instrument,
            Err(why) => return self.refuse(origin, why),
        };
        let request = placing.request(instrument);
        let verdict = self.books.judge(&request, &self.ahead.in_flight, &self.config.rules);
        if let Ok(hold) = verdict {
            self.ahead.in_flight.add(&request, hold);
        }
        let record = self.record(&placing, request, verdict, now);
        self.ahead.add(key, Early { record, origin, is_told: false }, false);
    }

    /// Takes an order that has just come: promises it, or puts it into the queue.
    pub(crate) fn place(&mut self, placing: Placing) {
        if let Some(promise) = self.can_promise(&placing) {
            return self.promise(&placing, promise);
        }
        if self.writing.is_settling() {
            self.ahead.waits(placing.account);
        }
        self.enqueue(Command::Place(placing));
    }

    /// What can be promised of an order while a settlement is written.
    fn can_promise(&mut self, placing: &Placing) -> Option<Promise> {
        let Writing::Settling(_, settlement) = &self.writing else { return None };
        let (account, promises) = (placing.account, &self.ahead.promises);
        // What the operator wants comes first: it may be that this worker is sent away.
        let operator_waits = matches!(self.queue.front(), Some(Work::Admin(..)));
        if self.ahead.keeper.is_none()
            || promises.has_failed
            || operator_waits
            || !promises.has_room(placing.origin.worker)
            || promises.behind.contains(&account)
        {
            return None;
        }
        let key = self.ahead.key(placing)?;
        let request = placing.request(self.assets.find(placing.args.symbol)?);
        let (in_flight, rules) = (&self.ahead.in_flight, &self.config.rules);
        let hold = self.books.judge_beside(settlement, &request, in_flight, rules)?;
        let day = settlement.head.day;
        // Last, for it charges. What it says no to is told why in its turn.
        self.admissible(placing, self.clock.now()).ok()?;
        Some(Promise { key, request, hold, day })
    }

    fn promise(&mut self, placing: &Placing, promise: Promise) {
        let Promise { key, request, hold, day } = promise;
        let now = self.clock.now();
        self.ahead.in_flight.add(&request, hold);
        let mut record = self.record(placing, request, Ok(hold), now);
        // It came after the snapshot that is being settled.
        record.order.day = day;
        let promises = &mut self.ahead.promises;
        promises.next.push(record.order.clone());
        promises.count += 1;
        *promises.accounts.entry(placing.account).or_default() += 1;
        *promises.workers.entry(placing.origin.worker).or_default() += 1;
        self.ahead.add(key, Early { record, origin: placing.origin, is_told: false }, true);
    }

    /// A settlement begins to be written.
    pub(crate) fn settling_begins(&mut self) {
        let promises = &mut self.ahead.promises;
        promises.has_failed = false;
        promises.behind.clear();
        for work in &self.queue {
            if let Work::Command(
                Command::Place(Placing { account, .. }) | Command::Cancel { account, .. },
            ) = work
            {
                promises.behind.insert(*account);
            }
        }
    }

    /// Hands what is promised to the intake, if that has nothing to do.
    pub(crate) fn keep_promises(&mut self) {
        let promises = &mut self.ahead.promises;
        let Some(keeper) = &self.ahead.keeper else { return };
        if promises.keeping.is_some() {
            return;
        }
        let next = std::mem::take(&mut promises.next);
        if let Some(last) = next.last() {
            promises.keeping = Some(last.id);
            promises.is_dirty = true;
            keeper.keep(self.last_batch, next);
        } else if promises.count == 0 && promises.is_dirty {
            promises.is_dirty = false;
            keeper.forget();
        }
    }

    /// The intake has kept what it was given, or has not: then it is written all the same, for it may
    /// be there, and told when it is.
    pub(crate) fn kept(&mut self, outcome: Result<(), String>) {
        let Some(last) = self.ahead.promises.keeping.take() else { return };
        if let Err(why) = outcome {
            warn!(%why, "orders cannot be promised while a settlement is written: they wait for it");
            self.ahead.promises.has_failed = true;
            // Whatever it would say of these, what it has failed to keep comes before them.
            self.ahead.promises.next.clear();
            return;
        }
        let mut told = Vec::new();
        let under_way = match &mut self.writing {
            Writing::Placing(judged) => Some(judged),
            _ => None,
        };
        for judged in under_way.into_iter().chain(&mut self.ahead.judged) {
            for early in judged.untold(last) {
                early.is_told = true;
                told.push((early.record.clone(), early.origin));
            }
        }
        for (record, origin) in told {
            self.present(&record, origin);
        }
    }

    /// A batch of judged orders is durable: they enter the books, and their clients are told.
    pub(crate) fn take_in(&mut self, judged: Judged) -> Result<(), MasterError> {
        let mut last = OrderId(0);
        for Early { record, origin, is_told } in judged.orders {
            last = record.order.id;
            self.ahead.leaves(&record, origin.worker, judged.is_promised);
            if !is_told {
                self.present(&record, origin);
            }
            if let OrderState::Queued(waiting) = record.state {
                self.books.accept(record.order.clone(), waiting)?;
            }
            self.is_placed(&record.order, record.state, record.decided);
        }
        // They are in the database: the intake need not have them.
        self.ahead.promises.next.retain(|order| order.id > last);
        if judged.is_promised {
            self.look();
        }
        Ok(())
    }

    /// Lets a question about an account's own affairs wait until what it was promised is in the books.
    pub(crate) fn look_later(&mut self, look: Look) -> Result<(), Reason> {
        let looks = &mut self.ahead.looks;
        let own = looks.iter().filter(|it| it.origin.worker == look.origin.worker).count();
        // As in the queue: nobody may have more places than are left.
        if own >= LOOKS - looks.len().min(LOOKS) {
            return Err(Reason::Busy);
        }
        looks.push(look);
        Ok(())
    }

    /// Answers the questions whose turn has come.
    fn look(&mut self) {
        let (later, now) = std::mem::take(&mut self.ahead.looks)
            .into_iter()
            .partition(|look| self.ahead.has_promised(look.viewer));
        self.ahead.looks = later;
        for Look { origin, viewer, request } in now {
            if let Err(why) = self.show(origin, viewer, request) {
                self.refuse(origin, why);
            }
        }
    }

    /// A batch of judged orders was not stored. What was promised is tried again; all others, with
    /// those that were judged after them, are refused.
    pub(crate) fn not_taken_in(&mut self, judged: Judged, why: &str) {
        if judged.is_promised {
            error!(%why, "orders that are promised were not stored: they are tried again");
            self.ahead.judged.push_front(judged);
            self.writing = Writing::Waiting(None);
            return self.retry_later();
        }
        let behind = std::mem::take(&mut self.ahead.judged);
        let all = || std::iter::once(judged).chain(behind);
        let orders: Vec<Early> = all().flat_map(|judged| judged.orders).collect();
        error!(%why, orders = orders.len(), "orders were not stored: they are refused");
        for Early { record, origin, .. } in orders {
            self.ahead.leaves(&record, origin.worker, false);
            self.refuse(origin, Reason::Unavailable);
        }
    }
}
