//! Assets buy and sell (specification 3.1.7): judging orders, the queue, cancelling, and what each
//! client is told when a settlement has decided.
//!
//! Precedence for an order: what is known under its client order ID; its deadline; an unknown
//! asset; then the refusals of [`papertrader_core::order::OrderRefusal`], which bind the ID.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use papertrader_core::ids::{AccountId, InstrumentId, OrderId, WorkerId};
use papertrader_core::money::Cash;
use papertrader_core::names::ClientOrderId;
use papertrader_core::order::{
    Order, OrderRecord, OrderRefusal, OrderRequest, OrderState, Side, clamp,
};
use papertrader_core::settle::Settlement;
use papertrader_core::time::{Moment, WallTime};
use papertrader_protocol::frame::LinkHeader;
use papertrader_protocol::request::OrderArgs;
use papertrader_protocol::returns::{FilledOrder, QueuedOrder, Return};
use papertrader_protocol::{Failure, Instruction, Reason};
use papertrader_store::{Change, Found};
use rustc_hash::FxHashMap;

use crate::batch::{Effect, Judging};
use crate::driver::{Driver, MasterError};
use crate::limits::OrderRate;
use crate::workers::Origin;

/// Clients that are told of one order's outcome; more find it in their history.
const WAITERS: usize = 16;

/// An order as it came, authorized but not judged.
#[derive(Debug)]
pub(crate) struct Placing {
    pub(crate) origin: Origin,
    pub(crate) account: AccountId,
    pub(crate) side: Side,
    pub(crate) args: OrderArgs,
    /// When the master received it.
    pub(crate) received: Moment,
    pub(crate) link: LinkHeader,
}

impl Placing {
    /// What is asked, of an instrument that its symbol names.
    pub(crate) fn request(&self, instrument: InstrumentId) -> OrderRequest {
        let OrderArgs { quantity, client_order_id, .. } = &self.args;
        OrderRequest {
            account: self.account,
            client_order_id: client_order_id.clone(),
            side: self.side,
            instrument,
            quantity: *quantity,
        }
    }
}

/// What the module keeps between turns.
pub(crate) struct Trading {
    /// How many orders and cancellations an account may bring.
    pub(crate) rate: OrderRate,
    next_order: u64,
    /// The last order that is in the books, or was decided at once: all before it are too.
    last_placed: OrderId,
    /// The clamped time of each worker's last order.
    clamped: HashMap<WorkerId, WallTime>,
    /// Who is told of an open order's outcome.
    waiters: FxHashMap<OrderId, Waiters>,
    /// What is to be told, the oldest settlement first.
    outcomes: VecDeque<Outcomes>,
    /// Some of whose outcomes are being told.
    telling: Option<Arc<Settlement>>,
}

/// Outcomes that are told at a time.
const OUTCOMES: usize = 2_048;

/// What a settlement has decided, and is to be told.
struct Outcomes {
    settlement: Arc<Settlement>,
    /// The orders of the decisions that are not told yet.
    orders: std::vec::IntoIter<Order>,
    /// How many are.
    told: usize,
}

/// Who is told of an order's outcome: nearly always one.
pub(crate) struct Waiters {
    first: Origin,
    more: Vec<Origin>,
}

impl Waiters {
    fn into_iter(self) -> impl Iterator<Item = Origin> {
        std::iter::once(self.first).chain(self.more)
    }
}

/// What is known under a client order ID, counting what is judged in the same batch.
pub(crate) type Known = HashMap<(AccountId, ClientOrderId), Found>;

impl Trading {
    pub(crate) fn new(
        next_order: OrderId,
        clamped: HashMap<WorkerId, WallTime>,
        rate: OrderRate,
    ) -> Trading {
        Trading {
            rate,
            next_order: next_order.0,
            last_placed: OrderId(next_order.0.saturating_sub(1)),
            clamped,
            waiters: FxHashMap::default(),
            outcomes: VecDeque::new(),
            telling: None,
        }
    }

    /// A settlement is in the books: its outcomes are to be told.
    pub(crate) fn decided(&mut self, settlement: Arc<Settlement>, orders: Vec<Order>) {
        if !orders.is_empty() {
            self.outcomes.push_back(Outcomes { settlement, orders: orders.into_iter(), told: 0 });
        }
    }

    /// Whether there are outcomes to be told.
    pub(crate) fn has_outcomes(&self) -> bool {
        !self.outcomes.is_empty()
    }

    /// The settlements of which not all outcomes are told.
    pub(crate) fn untold(&self) -> impl Iterator<Item = &Settlement> {
        let waiting = self.outcomes.iter().map(|outcomes| &outcomes.settlement);
        self.telling.iter().chain(waiting).map(AsRef::as_ref)
    }

    pub(crate) fn last_placed(&self) -> OrderId {
        self.last_placed
    }

    pub(crate) fn wait_for(&mut self, order: OrderId, origin: Origin) {
        match self.waiters.entry(order) {
            Entry::Vacant(nobody) => {
                nobody.insert(Waiters { first: origin, more: Vec::new() });
            }
            Entry::Occupied(mut others) => {
                let more = &mut others.get_mut().more;
                if more.len() + 1 < WAITERS {
                    more.push(origin);
                }
            }
        }
    }

    /// Links close; nobody waits on them any more.
    pub(crate) fn link_closed(&mut self, link: crate::workers::LinkId) {
        self.waiters.retain(|_, Waiters { first, more }| {
            more.retain(|origin| origin.link != link);
            if first.link != link {
                return true;
            }
            let next = (!more.is_empty()).then(|| more.remove(0));
            next.map(|next| *first = next).is_some()
        });
    }

    pub(crate) fn take_waiters(&mut self, order: OrderId) -> Option<Waiters> {
        self.waiters.remove(&order)
    }
}

impl Driver {
    /// Judges one order; `known` holds every ID that this batch asks about.
    pub(crate) fn judge_order(&mut self, placing: Placing, judging: &mut Judging) {
        let Judging { now, known, in_flight, changes, effects, .. } = judging;
        let (now, origin) = (*now, placing.origin);
        let key = (placing.account, placing.args.client_order_id.clone());
        match known.get(&key) {
            Some(Found::Order(record)) => {
                let request = &record.order.request;
                let same = request.side == placing.side
                    && Some(request.instrument) == self.assets.find(placing.args.symbol)
                    && record.order.asked == placing.args.quantity;
                effects.push(if same {
                    Effect::Present(Box::new(record.clone()), origin)
                } else {
                    Effect::Refuse(origin, Reason::ClientOrderIdConflict.into())
                });
                return;
            }
            Some(Found::Mark) => {
                effects.push(Effect::Refuse(origin, Reason::OrderCancelled.into()));
                return;
            }
            None => {}
        }
        let instrument = match self.admissible(&placing, now) {
            Ok(instrument) => instrument,
            Err(why) => return effects.push(Effect::Refuse(origin, why)),
        };
        let request = placing.request(instrument);
        let verdict = self.books.judge(&request, in_flight, &self.config.rules);
        if let Ok(hold) = verdict {
            in_flight.add(&request, hold);
        }
        let record = self.record(&placing, request, verdict, now);
        known.insert(key, Found::Order(record.clone()));
        changes.push(Change::PlaceOrder(record.clone()));
        effects.push(Effect::Placed(Box::new(record), origin));
    }

    /// The instrument of an order that may be judged. It is charged for.
    pub(crate) fn admissible(
        &mut self,
        placing: &Placing,
        now: WallTime,
    ) -> Result<InstrumentId, Failure> {
        let deadline = placing.link.deadline;
        if deadline != WallTime(0) && now > deadline {
            return Err(Reason::DeadlinePassed.into());
        }
        let instrument = self.assets.find(placing.args.symbol).ok_or(Reason::UnknownAsset)?;
        // What is known was charged when it was new: a worker asks again after a lost link.
        self.trading.rate.charge(placing.account, now)?;
        Ok(instrument)
    }

    /// The record of an order that was judged now: what it holds, or why it is refused.
    pub(crate) fn record(
        &mut self,
        placing: &Placing,
        request: OrderRequest,
        verdict: Result<Cash, OrderRefusal>,
        now: WallTime,
    ) -> OrderRecord {
        let Placing { received, link, .. } = placing;
        let window = i64::try_from(self.config.clamp_window.as_nanos()).unwrap_or(i64::MAX);
        let previous = self.trading.clamped.get(&link.worker).copied().unwrap_or_default();
        let worker_time = clamp(link.received_at, received.wall, window, previous);
        self.trading.clamped.insert(link.worker, worker_time);
        let head = self.books.head();
        let (state, hold, decided) = match verdict {
            Ok(hold) => (OrderState::Queued(None), hold, None),
            Err(refusal) => {
                let decided = Moment { wall: now, market: head.market };
                (OrderState::Rejected(refusal), Cash::ZERO, Some(decided))
            }
        };
        let order = Order {
            id: OrderId(self.trading.next_order),
            asked: request.quantity,
            request,
            hold,
            received: *received,
            seen: head.number(),
            day: head.day,
            worker: link.worker,
            worker_time,
            worker_sequence: link.sequence,
        };
        self.trading.next_order += 1;
        OrderRecord { order, state, decided }
    }

    /// Judges the cancelling of an order.
    pub(crate) fn judge_cancel(
        &mut self,
        origin: Origin,
        account: AccountId,
        client_order_id: ClientOrderId,
        judging: &mut Judging,
    ) {
        let Judging { now, known, in_flight, changes, effects, .. } = judging;
        let now = *now;
        let moment = Moment { wall: now, market: self.books.head().market };
        let key = (account, client_order_id.clone());
        let cancelled = Return::Cancelled(client_order_id.clone());
        let is_written = match known.get(&key) {
            Some(Found::Order(record)) => matches!(record.state, OrderState::Queued(_)),
            Some(Found::Mark) => false,
            None => true,
        };
        if is_written && let Err(too_many) = self.trading.rate.charge(account, now) {
            effects.push(Effect::Refuse(origin, too_many.into()));
            return;
        }
        match known.get_mut(&key) {
            Some(Found::Order(record)) => match record.state {
                OrderState::Queued(_) => {
                    let order = record.order.id;
                    record.state = OrderState::Cancelled;
                    record.decided = Some(moment);
                    in_flight.release(&record.order);
                    changes.push(Change::CancelOrder { order, moment });
                    effects.push(Effect::Cancelled(order, origin, client_order_id));
                }
                OrderState::Cancelled => effects.push(Effect::Answer(origin, cancelled)),
                OrderState::Filled(_) | OrderState::Rejected(_) | OrderState::Expired => {
                    effects.push(Effect::Refuse(origin, Reason::OrderDone.into()));
                }
            },
            Some(Found::Mark) => effects.push(Effect::Answer(origin, cancelled)),
            None => {
                known.insert(key, Found::Mark);
                changes.push(Change::MarkCancelled { account, client_order_id, moment });
                effects.push(Effect::Answer(origin, cancelled));
            }
        }
    }

    /// An order is durable: it enters the books, and its client is told.
    pub(crate) fn placed(
        &mut self,
        record: &OrderRecord,
        origin: Origin,
    ) -> Result<(), MasterError> {
        if let OrderState::Queued(waiting) = record.state {
            self.books.accept(record.order.clone(), waiting)?;
        }
        self.present(record, origin);
        self.is_placed(&record.order, record.state, record.decided);
        Ok(())
    }

    /// An order is in the books, or was decided at once.
    pub(crate) fn is_placed(&mut self, order: &Order, state: OrderState, decided: Option<Moment>) {
        self.trading.last_placed = order.id;
        self.tell_followers(order, state, decided);
    }

    /// Tells a client the state of an order, and the outcome of an open one later.
    pub(crate) fn present(&mut self, record: &OrderRecord, origin: Origin) {
        if matches!(record.state, OrderState::Queued(_)) {
            self.trading.wait_for(record.order.id, origin);
        }
        if let Some(answer) = self.outcome(&record.order, record.state, record.decided) {
            self.answer(origin, &answer);
        }
    }

    /// The return that says what state an order is in.
    fn outcome(&self, order: &Order, state: OrderState, decided: Option<Moment>) -> Option<Return> {
        let request = &order.request;
        let symbol = self.assets.symbol(request.instrument)?;
        let client_order_id = request.client_order_id.clone();
        let failed = |reason: Reason| {
            let instruction = match request.side {
                Side::Buy => Instruction::PurchaseFail,
                Side::Sell => Instruction::SellFail,
            };
            let text = format!("order {}: {}", order.id, reason.text());
            Return::Failed(instruction, Failure::new(reason, text))
        };
        Some(match state {
            OrderState::Queued(waiting) => Return::OrderQueued(QueuedOrder {
                order: order.id.0,
                client_order_id,
                side: request.side,
                symbol,
                quantity: request.quantity,
                hold: order.hold,
                waiting: waiting.map_or("-", |reason| reason.code()).to_owned(),
            }),
            OrderState::Filled(fill) => {
                let decided = decided.unwrap_or_default();
                Return::Filled(
                    request.side,
                    FilledOrder {
                        order: order.id.0,
                        client_order_id,
                        symbol,
                        quantity: fill.quantity,
                        price: fill.price,
                        amount: fill.amount,
                        market: decided.market,
                        wall: decided.wall,
                    },
                )
            }
            OrderState::Rejected(refusal) => failed(refusal.into()),
            OrderState::Cancelled => failed(Reason::OrderCancelled),
            OrderState::Expired => failed(Reason::OrderExpired),
        })
    }

    /// An order is cancelled: its holds are released, and all who wait for it are told.
    pub(crate) fn cancelled(
        &mut self,
        id: OrderId,
        origin: Origin,
        client_order_id: ClientOrderId,
    ) -> Result<(), MasterError> {
        self.answer(origin, &Return::Cancelled(client_order_id));
        self.cancelled_by_master(id)
    }

    /// An order is cancelled without its client having asked for it.
    pub(crate) fn cancelled_by_master(&mut self, id: OrderId) -> Result<(), MasterError> {
        // Nothing was judged since.
        let moment = Moment { wall: self.formed, market: self.books.head().market };
        if let Some(order) = self.books.cancel(id)? {
            self.tell_waiters(&order, OrderState::Cancelled, None);
            self.tell_followers(&order, OrderState::Cancelled, Some(moment));
        }
        Ok(())
    }

    /// Some of what committed settlements decided is told to those who wait for it: orders that come
    /// meanwhile do not wait for all of it.
    pub(crate) fn tell_outcomes(&mut self) {
        let Some(mut outcomes) = self.trading.outcomes.pop_front() else { return };
        let Outcomes { settlement, orders, told } = &mut outcomes;
        let moment = settlement.moment;
        self.trading.telling = Some(Arc::clone(settlement));
        let decisions = settlement.decisions.get(*told..).unwrap_or_default();
        for (decision, order) in decisions.iter().zip(orders).take(OUTCOMES) {
            *told += 1;
            self.tell_followers(&order, decision.state, Some(moment));
            let Some(waiters) = self.trading.take_waiters(decision.order) else { continue };
            if let Some(answer) = self.outcome(&order, decision.state, Some(moment)) {
                for origin in waiters.into_iter() {
                    self.answer(origin, &answer);
                }
            }
        }
        self.trading.telling = None;
        if outcomes.told < outcomes.settlement.decisions.len() {
            self.trading.outcomes.push_front(outcomes);
        }
    }

    fn tell_waiters(&mut self, order: &Order, state: OrderState, decided: Option<Moment>) {
        let Some(waiters) = self.trading.take_waiters(order.id) else { return };
        if let Some(answer) = self.outcome(order, state, decided) {
            for origin in waiters.into_iter() {
                self.answer(origin, &answer);
            }
        }
    }
}
