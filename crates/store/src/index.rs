//! What a store keeps in memory of its orders, so that a new order costs no question to the database:
//! the open orders, by number and by account, and a filter of the keys of all others
//! (`docs/design/0003-ledger.md`). The same for every database.
//!
//! It reads and writes no database, and is rebuilt from one at each connection.
//!
//! Invariant: an [`Index`] is what was committed. A batch stages its changes in [`Staged`], which sees
//! its own; they are applied after the commit, or forgotten.

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::{Arc, OnceLock};

use fastbloom::BloomFilter;
use papertrader_core::ids::{AccountId, InstrumentId, OrderId};
use papertrader_core::money::Quantity;
use papertrader_core::names::ClientOrderId;
use papertrader_core::order::{Order, Side};
use rustc_hash::{FxHashMap, FxHashSet};
use siphasher::sip::SipHasher24;

use crate::bars::{self, Tails};

/// Keys for which a filter is made at first; each further one has room for twice as many.
const FIRST_FILTER: usize = 1 << 20;
/// How often a filter is made twice as large as the one before.
const MOST_DOUBLINGS: usize = 8;
/// How often a filter says "perhaps" of a key that it does not have.
const FALSE_POSITIVES: f64 = 0.000_1;

/// What an order is found by: its owner, and a hash of the owner's name for it. Two names may have
/// the same: whoever finds an order by it compares the whole name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct OrderKey {
    pub(crate) account: AccountId,
    /// [`order_hash`].
    pub(crate) hash: u64,
}

impl OrderKey {
    pub(crate) fn new(account: AccountId, client_order_id: &ClientOrderId) -> OrderKey {
        OrderKey { account, hash: order_hash(account.0, client_order_id.as_str()) }
    }
}

/// What orders are found by in the database: SipHash-2-4 with key 0 of the account (four bytes,
/// big-endian) and the client order ID's bytes. It is stored: it never changes.
pub fn order_hash(account: u32, client_order_id: &str) -> u64 {
    let mut hasher = SipHasher24::new();
    hasher.write(&account.to_be_bytes());
    hasher.write(client_order_id.as_bytes());
    hasher.finish()
}

/// Orders whose numbers differ in these bits only are of one generation.
pub(crate) const GENERATION_BITS: u32 = 18;

/// The generation in which an order's key is stored.
pub(crate) fn generation(order: OrderId) -> u64 {
    order.0 >> GENERATION_BITS
}

/// An open order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) key: OrderKey,
    pub(crate) side: Side,
    pub(crate) instrument: InstrumentId,
    /// It has a row in `waiting`.
    pub(crate) waits: bool,
    /// What is asked now, if a split has changed it.
    pub(crate) asked: Option<Quantity>,
}

impl Open {
    /// An order that was just accepted.
    pub(crate) fn new(order: &Order) -> Open {
        let request = &order.request;
        Open {
            key: OrderKey::new(request.account, &request.client_order_id),
            side: request.side,
            instrument: request.instrument,
            waits: false,
            asked: None,
        }
    }
}

/// What was committed.
#[derive(Debug)]
pub(crate) struct Index {
    /// How many accounts there are: their numbers have no gaps.
    pub(crate) accounts: u32,
    /// How many instruments there are: their numbers have no gaps.
    pub(crate) instruments: u32,
    /// The number of the last order.
    pub(crate) last_order: u64,
    /// The bars of settlements that are on the tape only.
    pub(crate) tails: Tails,
    open: FxHashMap<OrderId, Open>,
    by_account: FxHashMap<AccountId, Vec<OrderId>>,
    /// Open orders that came after the last settlement: those that may have no row in `waiting`.
    fresh: Vec<OrderId>,
    /// The keys of what was decided or marked since the index was made.
    known: Filter,
    /// The keys of what was decided or marked before, once they were read.
    past: Arc<OnceLock<Filter>>,
}

impl Index {
    pub(crate) fn new(accounts: u32, instruments: u32, last_order: u64) -> Index {
        Index {
            accounts,
            instruments,
            last_order,
            tails: Tails::default(),
            open: HashMap::default(),
            by_account: HashMap::default(),
            fresh: Vec::new(),
            known: Filter::default(),
            past: Arc::default(),
        }
    }

    /// An order that the database holds as open.
    pub(crate) fn add_open(&mut self, order: OrderId, open: Open) {
        self.by_account.entry(open.key.account).or_default().push(order);
        if !open.waits {
            self.fresh.push(order);
        }
        self.open.insert(order, open);
    }

    /// Where the keys of the past are put once they were read.
    pub(crate) fn past(&self) -> Arc<OnceLock<Filter>> {
        Arc::clone(&self.past)
    }

    /// The keys of the past were read.
    pub(crate) fn learn_past(&self, filter: Filter) {
        // Once only: what is there is complete.
        let _ = self.past.set(filter);
    }

    pub(crate) fn knows_past(&self) -> bool {
        self.past.get().is_some()
    }

    /// The open orders of an account, in order of their numbers.
    pub(crate) fn open_of(&self, account: AccountId) -> &[OrderId] {
        self.by_account.get(&account).map_or(&[], Vec::as_slice)
    }

    /// The open orders with a key: at most one, but for two names with the same hash.
    pub(crate) fn open_with(&self, key: OrderKey) -> impl Iterator<Item = OrderId> {
        let has_key = move |order: &OrderId| self.open.get(order).is_some_and(|o| o.key == key);
        self.open_of(key.account).iter().copied().filter(has_key)
    }

    /// False if no decided order and no mark has this key. Always true while the past is unknown.
    pub(crate) fn may_know(&self, key: OrderKey) -> bool {
        let may_have = |filter: &Filter| filter.may_have(key.hash);
        may_have(&self.known) || self.past.get().is_none_or(may_have)
    }

    /// Takes over what was committed.
    pub(crate) fn apply(&mut self, staged: Changes) {
        self.accounts += staged.accounts;
        self.instruments += staged.instruments;
        for (order, open) in staged.placed {
            self.last_order = self.last_order.max(order.0);
            if let Some(open) = open {
                self.add_open(order, open);
            }
        }
        for (order, (waits, asked)) in staged.waits {
            if let Some(open) = self.open.get_mut(&order) {
                (open.waits, open.asked) = (waits, asked);
            }
        }
        self.close(&staged.closed);
        for key in staged.known {
            self.known.insert(key.hash);
        }
        if staged.settled {
            self.fresh.clear();
        }
        if let Some(row) = staged.row {
            self.tails.apply(row);
        }
    }

    /// Orders that were open, each of them, are not any more.
    fn close(&mut self, closed: &FxHashSet<OrderId>) {
        debug_assert!(closed.iter().all(|order| self.open.contains_key(order)));
        if closed.len() == self.open.len() {
            // A settlement mostly decides all there are: then none is looked for.
            for open in self.open.values() {
                self.known.insert(open.key.hash);
            }
            self.open.clear();
            self.by_account.clear();
            return;
        }
        let mut touched = FxHashSet::default();
        for order in closed {
            if let Some(open) = self.open.remove(order) {
                self.known.insert(open.key.hash);
                touched.insert(open.key.account);
            }
        }
        for account in touched {
            if let Some(orders) = self.by_account.get_mut(&account) {
                orders.retain(|order| !closed.contains(order));
                if orders.is_empty() {
                    self.by_account.remove(&account);
                }
            }
        }
    }
}

/// What a batch changes.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    accounts: u32,
    instruments: u32,
    /// Orders, in ascending order; `None` for one that is not open.
    placed: Vec<(OrderId, Option<Open>)>,
    placed_open: FxHashMap<OrderId, usize>,
    placed_keys: FxHashMap<OrderKey, Vec<OrderId>>,
    waits: FxHashMap<OrderId, (bool, Option<Quantity>)>,
    closed: FxHashSet<OrderId>,
    known: Vec<OrderKey>,
    settled: bool,
    /// What it brings to the tape.
    row: Option<bars::Row>,
}

impl Changes {
    /// How many orders it closes.
    pub(crate) fn closed(&self) -> usize {
        self.closed.len()
    }
}

/// The index as a batch sees it that is being written.
#[derive(Debug)]
pub(crate) struct Staged<'a> {
    index: &'a Index,
    changes: Changes,
}

impl<'a> Staged<'a> {
    pub(crate) fn new(index: &'a Index) -> Staged<'a> {
        Staged { index, changes: Changes::default() }
    }

    /// What is to be applied once it is committed.
    pub(crate) fn into_changes(self) -> Changes {
        self.changes
    }

    pub(crate) fn accounts(&self) -> u32 {
        self.index.accounts + self.changes.accounts
    }

    pub(crate) fn instruments(&self) -> u32 {
        self.index.instruments + self.changes.instruments
    }

    pub(crate) fn has_account(&self, account: AccountId) -> bool {
        (1..=self.accounts()).contains(&account.0)
    }

    pub(crate) fn has_instrument(&self, instrument: InstrumentId) -> bool {
        (1..=self.instruments()).contains(&instrument.0)
    }

    pub(crate) fn last_order(&self) -> u64 {
        self.changes.placed.last().map_or(self.index.last_order, |(order, _)| order.0)
    }

    pub(crate) fn account_opened(&mut self) {
        self.changes.accounts += 1;
    }

    pub(crate) fn instrument_added(&mut self) {
        self.changes.instruments += 1;
    }

    /// An open order.
    pub(crate) fn open(&self, order: OrderId) -> Option<Open> {
        if self.changes.closed.contains(&order) {
            return None;
        }
        let placed = self.changes.placed_open.get(&order);
        let placed = placed.and_then(|at| self.changes.placed.get(*at)?.1);
        let mut open = placed.or_else(|| self.index.open.get(&order).copied())?;
        if let Some((waits, asked)) = self.changes.waits.get(&order) {
            (open.waits, open.asked) = (*waits, *asked);
        }
        Some(open)
    }

    /// How many orders of an account are open.
    pub(crate) fn count_open(&self, account: AccountId) -> usize {
        let is_open = |order: &&OrderId| self.open(**order).is_some();
        let before = self.index.open_of(account).iter().filter(is_open).count();
        let of_account = |(order, open): &&(OrderId, Option<Open>)| {
            open.is_some_and(|open| open.key.account == account) && self.open(*order).is_some()
        };
        before + self.changes.placed.iter().filter(of_account).count()
    }

    /// Orders with a key that were open before the batch, or were placed by it.
    pub(crate) fn recent_with(&self, key: OrderKey) -> impl Iterator<Item = OrderId> {
        let placed = self.changes.placed_keys.get(&key).into_iter().flatten().copied();
        self.index.open_with(key).chain(placed)
    }

    /// False if no order that was decided before the batch, and no mark, has this key.
    pub(crate) fn may_know(&self, key: OrderKey) -> bool {
        self.index.may_know(key) || self.changes.known.contains(&key)
    }

    /// An order is stored; `open` if it is open.
    pub(crate) fn place(&mut self, order: OrderId, key: OrderKey, open: Option<Open>) {
        if open.is_some() {
            self.changes.placed_open.insert(order, self.changes.placed.len());
        } else {
            self.changes.known.push(key);
        }
        self.changes.placed.push((order, open));
        self.changes.placed_keys.entry(key).or_default().push(order);
    }

    /// So many open orders will get an outcome.
    pub(crate) fn expect_closed(&mut self, orders: usize) {
        self.changes.closed.reserve(orders);
    }

    /// An order that is open has an outcome now.
    pub(crate) fn close(&mut self, order: OrderId) {
        self.changes.closed.insert(order);
    }

    /// An open order has a row in `waiting` now.
    pub(crate) fn wait(&mut self, order: OrderId, asked: Option<Quantity>) {
        self.changes.waits.insert(order, (true, asked));
    }

    /// A mark is stored under this key.
    pub(crate) fn mark(&mut self, key: OrderKey) {
        self.changes.known.push(key);
    }

    /// What is on the tape alone.
    pub(crate) fn tails(&self) -> &Tails {
        &self.index.tails
    }

    /// It is stored, once in a batch.
    pub(crate) fn taped(&mut self, row: bars::Row) {
        self.changes.row = Some(row);
    }

    /// A settlement is stored. Returns the open orders that have no row in `waiting` yet.
    pub(crate) fn settle(&mut self) -> Vec<OrderId> {
        self.changes.settled = true;
        let placed = self.changes.placed.iter().map(|(order, _)| *order);
        let fresh = self.index.fresh.iter().copied().chain(placed);
        fresh.filter(|order| self.open(*order).is_some_and(|open| !open.waits)).collect()
    }
}

/// Keys that may be known, by their hashes. It grows by further filters, so that none is ever made
/// anew.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    filters: Vec<BloomFilter>,
    /// Room left in the last one.
    room: usize,
}

impl Filter {
    pub(crate) fn insert(&mut self, hash: u64) {
        if self.room == 0 {
            self.room = FIRST_FILTER << self.filters.len().min(MOST_DOUBLINGS);
            // A fixed seed: what is inserted is hashed well already.
            let filter = BloomFilter::with_false_pos(FALSE_POSITIVES).seed(&0);
            self.filters.push(filter.expected_items(self.room));
        }
        if let Some(last) = self.filters.last_mut() {
            last.insert_hash(hash);
            self.room -= 1;
        }
    }

    pub(crate) fn may_have(&self, hash: u64) -> bool {
        self.filters.iter().rev().any(|filter| filter.contains_hash(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(account: u32, id: &str) -> OrderKey {
        OrderKey::new(AccountId(account), &id.parse().unwrap())
    }

    fn open(account: u32, id: &str) -> Open {
        let (side, instrument) = (Side::Buy, InstrumentId(1));
        Open { key: key(account, id), side, instrument, waits: false, asked: None }
    }

    #[test]
    fn the_hash_is_stored_and_never_changes() {
        // From another implementation of SipHash-2-4.
        assert_eq!(order_hash(1, "a"), 0x1288_caf3_312d_7160);
        let uuid = "018f3a7c-0000-7000-8000-000000000001";
        assert_eq!(order_hash(7, uuid), 0x8b09_2993_b61e_71ac);
        assert_ne!(order_hash(1, "a"), order_hash(2, "a"));
    }

    #[test]
    fn a_batch_sees_its_own_changes_and_the_index_only_what_is_applied() {
        let mut index = Index::new(2, 1, 1);
        assert!(index.may_know(key(1, "a")), "the past is not known yet");
        index.learn_past(Filter::default());
        index.add_open(OrderId(1), open(1, "a"));
        let mut staged = Staged::new(&index);
        staged.place(OrderId(2), key(1, "b"), Some(open(1, "b")));
        staged.place(OrderId(3), key(2, "c"), None);
        staged.close(OrderId(1));
        assert_eq!(staged.open(OrderId(1)), None);
        assert_eq!((staged.count_open(AccountId(1)), staged.last_order()), (1, 3));
        assert_eq!(staged.recent_with(key(1, "b")).collect::<Vec<_>>(), [OrderId(2)]);
        assert!(staged.may_know(key(2, "c")));
        let changes = staged.into_changes();
        assert_eq!((index.open_of(AccountId(1)), index.last_order), (&[OrderId(1)][..], 1));
        assert!(!index.may_know(key(1, "a")));

        index.apply(changes);
        assert_eq!((index.open_of(AccountId(1)), index.last_order), (&[OrderId(2)][..], 3));
        assert!(index.may_know(key(1, "a")) && index.may_know(key(2, "c")));
        assert_eq!(index.open_with(key(1, "b")).collect::<Vec<_>>(), [OrderId(2)]);
        assert_eq!(index.open_of(AccountId(2)), []);
    }

    #[test]
    fn a_settlement_names_those_that_it_leaves_open_once() {
        let mut index = Index::new(1, 1, 0);
        let mut staged = Staged::new(&index);
        for n in 1..=3 {
            let open = open(1, &n.to_string());
            staged.place(OrderId(n), open.key, Some(open));
        }
        index.apply(staged.into_changes());
        let mut staged = Staged::new(&index);
        staged.close(OrderId(1));
        staged.wait(OrderId(2), None);
        assert_eq!(staged.settle(), [OrderId(3)]);
        staged.wait(OrderId(3), None);
        index.apply(staged.into_changes());
        assert_eq!(Staged::new(&index).settle(), []);
    }

    #[test]
    fn the_filter_forgets_nothing_and_says_perhaps_of_few_others() {
        let mut filter = Filter::default();
        let account = AccountId(7);
        let keys = |from: u64| {
            (from..from + 200_000)
                .map(move |n| OrderKey { account, hash: (n << 32) | (n * 0x9e37) })
        };
        for key in keys(0) {
            filter.insert(key.hash);
        }
        assert!(keys(0).all(|key| filter.may_have(key.hash)));
        let wrong = keys(1 << 20).filter(|key| filter.may_have(key.hash)).count();
        assert!(wrong < 200, "{wrong} of 200,000");
    }
}
