//! The fold that verification compares with: what every stored grant, fill and split adds up to. It
//! is written here a second time, in 128 bits and without the core's settlement, so that a mistake
//! there is found too. It reads nothing, and compares only what nothing else says: the basis of sales
//! that the tables of balances do not have yet.
//!
//! Cost basis: a purchase adds what it paid, a sale takes off the basis that it recorded, a split
//! keeps it. A position that a split leaves without units is gone, and its cost with it.

use std::collections::{BTreeMap, HashMap, HashSet};

use papertrader_core::ids::{AccountId, InstrumentId, OrderId};
use papertrader_core::ledger::JournalEntry;
use papertrader_core::order::{Fill, OrderRecord, QueueKey, Side};
use papertrader_core::time::WallTime;

use crate::rows::JournalRow;

/// Whose, and of what.
pub(crate) type Holding = (AccountId, InstrumentId);

/// What the entries add up to.
#[derive(Default)]
pub(crate) struct Fold {
    pub(crate) cash: BTreeMap<AccountId, i128>,
    pub(crate) granted: HashMap<AccountId, i128>,
    pub(crate) positions: BTreeMap<Holding, Folded>,
    /// What of it is not in the tables yet, of cash and of positions.
    pub(crate) missing_cash: HashMap<AccountId, i128>,
    pub(crate) missing: HashMap<Holding, Folded>,
    /// The fills that this is the sum of.
    turns: HashMap<Holding, Vec<Turn>>,
    pub(crate) market: i128,
    pub(crate) fractions: i128,
    /// Positions that were split, with their entries by snapshot: there the order matters.
    split: HashMap<Holding, Vec<Event>>,
    pub(crate) snapshots: HashSet<u64>,
    pub(crate) last_wall: WallTime,
    /// There are rows at all.
    pub(crate) rows: bool,
}

#[derive(Default, Clone, Copy)]
pub(crate) struct Folded {
    pub(crate) units: i128,
    pub(crate) cost: i128,
}

/// A fill that is not in the tables yet.
struct Turn {
    /// Its settlement, and its place there.
    place: (u64, QueueKey),
    /// Bought; negative if sold.
    units: i128,
    cost: i128,
}

struct Event {
    snapshot: u64,
    change: EventChange,
}

enum EventChange {
    Split { units: i128 },
    Fill { units: i128, cost: i128 },
}

impl Fold {
    /// Adds a grant or a split.
    pub(crate) fn entry(&mut self, row: &JournalRow) {
        match row.entry {
            JournalEntry::Grant { account, cash } => {
                let cash = i128::from(cash.cents());
                *self.cash.entry(account).or_default() += cash;
                *self.granted.entry(account).or_default() += cash;
            }
            JournalEntry::Split { account, instrument, quantity, cash, .. } => {
                let cash = i128::from(cash.cents());
                *self.cash.entry(account).or_default() += cash;
                self.fractions -= cash;
                let change = EventChange::Split { units: i128::from(quantity.raw()) };
                let event = Event { snapshot: row.snapshot, change };
                self.split.entry((account, instrument)).or_default().push(event);
            }
        }
    }

    /// Adds what a filled order moved. `is_stored`: the tables of balances and positions have it.
    pub(crate) fn fill(&mut self, record: &OrderRecord, fill: &Fill, is_stored: bool) {
        let request = &record.order.request;
        let sign = match request.side {
            Side::Buy => 1,
            Side::Sell => -1,
        };
        let paid = sign * i128::from(fill.amount.cents());
        *self.cash.entry(request.account).or_default() -= paid;
        self.market += paid;
        let units = sign * i128::from(fill.quantity.raw());
        let cost = match request.side {
            Side::Buy => i128::from(fill.amount.cents()),
            Side::Sell => -i128::from(fill.basis.cents()),
        };
        let key = (request.account, request.instrument);
        if !is_stored {
            *self.missing_cash.entry(request.account).or_default() -= paid;
            let missing = self.missing.entry(key).or_default();
            missing.units += units;
            missing.cost += cost;
            let place = (fill.snapshot.0, record.order.key());
            self.turns.entry(key).or_default().push(Turn { place, units, cost });
        }
        if let Some(events) = self.split.get_mut(&key) {
            let change = EventChange::Fill { units, cost };
            events.push(Event { snapshot: fill.snapshot.0, change });
        } else {
            let folded = self.positions.entry(key).or_default();
            folded.units += units;
            folded.cost += cost;
        }
    }

    /// The sales that are not in the tables yet and do not take off the share of the cost that they
    /// sold. `stored` is what the tables have of a position. Of each position this is asked once:
    /// what the tables lack is nowhere else.
    pub(crate) fn unfair_sales(&mut self, key: Holding, stored: Folded) -> Vec<OrderId> {
        let mut turns = self.turns.remove(&key).unwrap_or_default();
        turns.sort_unstable_by_key(|turn| turn.place);
        let Folded { mut units, mut cost } = stored;
        let mut unfair = Vec::new();
        for turn in turns {
            let mut moved = turn.cost;
            if turn.units < 0 {
                let share = cost.checked_mul(turn.units);
                let share = share.and_then(|product| product.checked_div(units));
                if share != Some(moved) {
                    unfair.push(turn.place.1.order);
                    // Those after it are compared with what it should have taken off.
                    moved = share.unwrap_or(moved);
                }
            }
            units += turn.units;
            cost += moved;
        }
        unfair
    }

    /// Positions of which the tables lack something, and have nothing.
    pub(crate) fn not_stored(&self) -> Vec<Holding> {
        self.turns.keys().copied().collect()
    }

    /// Folds the positions that were split: a snapshot's splits come before its fills.
    pub(crate) fn finish(&mut self) {
        for (key, mut events) in self.split.drain() {
            events.sort_by_key(|event| {
                (event.snapshot, matches!(event.change, EventChange::Fill { .. }))
            });
            let folded = self.positions.entry(key).or_default();
            for event in events {
                match event.change {
                    EventChange::Split { units } => {
                        folded.units += units;
                        if folded.units == 0 {
                            folded.cost = 0;
                        }
                    }
                    EventChange::Fill { units, cost } => {
                        folded.units += units;
                        folded.cost += cost;
                    }
                }
            }
        }
    }

    /// Notes the time of a row.
    pub(crate) fn seen(&mut self, wall: WallTime) {
        self.last_wall = self.last_wall.max(wall);
        self.rows = true;
    }
}
