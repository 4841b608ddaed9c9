//! Verification: folds every stored grant, fill and split anew, and compares with the balances
//! that are stored beside them.
//!
//! The fold is written here a second time, in 128 bits and without the core's settlement, so that
//! a mistake there is found too. Rows that cannot be read are named like wrong balances; only a
//! database that does not answer is an error.
//!
//! Cost basis: a purchase adds what it paid, a sale takes off the basis that it recorded, a split
//! keeps it. A position that a split leaves without units is gone, and its cost with it.

use std::collections::{BTreeMap, HashMap, HashSet};

use papertrader_core::ids::{AccountId, InstrumentId};
use papertrader_core::ledger::JournalEntry;
use papertrader_core::order::{Fill, OrderRecord, OrderState, Side};
use papertrader_core::time::WallTime;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};

use super::failure::of_read;
use super::read::{self, for_each};
use super::rows::{self, BAR_COLUMNS, JOURNAL_COLUMNS, JournalRow, Reading, SELECT_ORDER};
use crate::index::{OrderKey, generation};
use crate::{Mismatch, StoreError};

/// Everything that is wrong. Expects to run inside one read transaction.
pub(super) fn verify(connection: &Connection) -> Result<Vec<Mismatch>, StoreError> {
    let mut check =
        Check { connection, found: Vec::new(), fold: Fold::default(), open: HashSet::new() };
    check.file()?;
    let loaded = read::load(connection).map(|_| ());
    check.keep(loaded)?;
    check.snapshots()?;
    check.journal()?;
    check.orders()?;
    check.order_tables()?;
    check.fold.finish();
    check.accounts()?;
    check.positions()?;
    check.named_accounts()?;
    check.marks_and_bars()?;
    check.meta()?;
    Ok(check.found)
}

type Holding = (AccountId, InstrumentId);

/// What the entries add up to.
#[derive(Default)]
struct Fold {
    cash: BTreeMap<AccountId, i128>,
    granted: HashMap<AccountId, i128>,
    positions: BTreeMap<Holding, Folded>,
    market: i128,
    fractions: i128,
    /// Positions that were split, with their entries by snapshot: there the order matters.
    split: HashMap<Holding, Vec<Event>>,
    snapshots: HashSet<u64>,
    last_wall: WallTime,
    rows: bool,
}

#[derive(Default, Clone, Copy)]
struct Folded {
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
    fn entry(&mut self, row: &JournalRow) {
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

    fn fill(&mut self, record: &OrderRecord, fill: &Fill) {
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
        if let Some(events) = self.split.get_mut(&key) {
            let change = EventChange::Fill { units, cost };
            events.push(Event { snapshot: fill.snapshot.0, change });
        } else {
            let folded = self.positions.entry(key).or_default();
            folded.units += units;
            folded.cost += cost;
        }
    }

    /// Folds the positions that were split: a snapshot's splits come before its fills.
    fn finish(&mut self) {
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

    fn seen(&mut self, wall: WallTime) {
        self.last_wall = self.last_wall.max(wall);
        self.rows = true;
    }
}

struct Check<'c> {
    connection: &'c Connection,
    found: Vec<Mismatch>,
    fold: Fold,
    /// The keys of the open orders.
    open: HashSet<OrderKey>,
}

impl Check<'_> {
    fn wrong(&mut self, what: String) {
        self.found.push(Mismatch { what });
    }

    /// Notes a row that cannot be read, and goes on; other errors end the verification.
    fn keep(&mut self, result: Result<(), StoreError>) -> Result<(), StoreError> {
        match result {
            Err(StoreError::Corrupt(what)) => {
                // The same row may be read twice.
                if !self.found.iter().any(|mismatch| mismatch.what == what) {
                    self.wrong(what);
                }
                Ok(())
            }
            result => result,
        }
    }

    fn differs(&mut self, what: &str, stored: i128, folded: i128) {
        if stored != folded {
            self.wrong(format!("{what} is {stored}, but its entries add up to {folded}"));
        }
    }

    /// The file's own structure: indexes, constraints, references.
    fn file(&mut self) -> Result<(), StoreError> {
        let mut found = Vec::new();
        for_each(self.connection, "PRAGMA integrity_check", [], |row| {
            let what: String = row.get(0).map_err(of_read)?;
            if what != "ok" {
                found.push(Mismatch { what: format!("the file: {what}") });
            }
            Ok(())
        })?;
        for_each(self.connection, "PRAGMA foreign_key_check", [], |row| {
            let (table, parent): (String, String) =
                (row.get(0).map_err(of_read)?, row.get(2).map_err(of_read)?);
            let id: Option<i64> = row.get(1).map_err(of_read)?;
            let id = id.map_or_else(String::new, |id| format!(", row {id}"));
            let what = format!("table {table}{id}: it names a row of {parent} that is missing");
            found.push(Mismatch { what });
            Ok(())
        })?;
        self.found.append(&mut found);
        Ok(())
    }

    fn snapshots(&mut self) -> Result<(), StoreError> {
        let connection = self.connection;
        let mut market = i64::MIN;
        let sql = "SELECT number, wall, market, day, last_action, ended FROM snapshot
                   ORDER BY number";
        for_each(connection, sql, [], |row| {
            let row = Reading::new(row, "snapshot", 1);
            let result = row.number(0).and_then(|number| {
                self.fold.snapshots.insert(number);
                self.fold.seen(row.wall(1)?);
                let before = std::mem::replace(&mut market, row.market(2)?.0);
                row.number::<u32>(3)?;
                row.flag(5)?;
                if before > market {
                    return Err(row.corrupt("market time goes back"));
                }
                Ok(())
            });
            self.keep(result)
        })
    }

    fn journal(&mut self) -> Result<(), StoreError> {
        let connection = self.connection;
        let sql = format!("SELECT {JOURNAL_COLUMNS} FROM journal ORDER BY id");
        for_each(connection, &sql, [], |row| {
            let result = rows::journal(row).map(|row| {
                self.fold.seen(row.moment.wall);
                self.fold.entry(&row);
                if row.snapshot != 0 && !self.fold.snapshots.contains(&row.snapshot) {
                    let (id, snapshot) = (row.id, row.snapshot);
                    self.wrong(format!("table journal, row {id}: snapshot {snapshot} is missing"));
                }
            });
            self.keep(result)
        })
    }

    fn orders(&mut self) -> Result<(), StoreError> {
        let connection = self.connection;
        // What is wrong with it is said below.
        let settled = read::meta(connection).map_or(u64::MAX, |meta| meta.settled_order.0);
        let sql = format!("{SELECT_ORDER} ORDER BY o.id");
        for_each(connection, &sql, [], |row| {
            let result = rows::order(row).and_then(|record| {
                let waits = row.get_ref(14).map_err(of_read)? != ValueRef::Null;
                self.order(&record);
                self.find_again(&record, waits || record.order.id.0 > settled)
            });
            self.keep(result)
        })
    }

    /// That an order can be found by its client order ID, it alone; and, if it is open, by a start.
    fn find_again(&mut self, record: &OrderRecord, is_loaded: bool) -> Result<(), StoreError> {
        let (order, request) = (&record.order, &record.order.request);
        let id = order.id;
        let key = OrderKey::new(request.account, &request.client_order_id);
        if record.decided.is_some() {
            let mut found = false;
            let sql = "SELECT 1 FROM order_key
                       WHERE generation = ?1 AND account = ?2 AND hash = ?3 AND id = ?4";
            let generation = generation(id).cast_signed();
            let (hash, number) = (key.hash.cast_signed(), id.0.cast_signed());
            let values = params![generation, request.account.0, hash, number];
            for_each(self.connection, sql, values, |_| {
                found = true;
                Ok(())
            })?;
            if !found {
                self.wrong(format!("table order_key: it lacks order {id}"));
            }
            return Ok(());
        }
        if !is_loaded {
            self.wrong(format!("table waiting: it lacks order {id}, which is open"));
        }
        let other = read::find_known(self.connection, key, &request.client_order_id)?;
        if other.is_some() || !self.open.insert(key) {
            self.wrong(format!("table order_, row {id}: its client order ID is there twice"));
        }
        Ok(())
    }

    /// That each row beside `order_` belongs to an order, and that no two decided orders have one
    /// client order ID.
    fn order_tables(&mut self) -> Result<(), StoreError> {
        let connection = self.connection;
        for (table, sql) in [
            ("outcome", "SELECT id FROM outcome WHERE id NOT IN (SELECT id FROM order_)"),
            ("waiting", "SELECT id FROM waiting WHERE id NOT IN (SELECT id FROM order_)"),
            ("order_key", "SELECT id FROM order_key WHERE id NOT IN (SELECT id FROM outcome)"),
            (
                "balance",
                "SELECT account FROM balance WHERE account NOT IN (SELECT id FROM account)",
            ),
        ] {
            for_each(connection, sql, [], |row| {
                let id: i64 = row.get(0).map_err(of_read)?;
                self.wrong(format!("table {table}, row {id}: it belongs to nothing"));
                Ok(())
            })?;
        }
        // Of equal hashes the names may still differ.
        let sql = "SELECT k.id, o.account, o.client_order_id
                   FROM (SELECT account, hash FROM order_key GROUP BY 1, 2 HAVING count(*) > 1) AS d
                   JOIN order_key k ON k.account = d.account AND k.hash = d.hash
                   JOIN order_ o ON o.id = k.id ORDER BY 1";
        let mut names = HashSet::new();
        for_each(connection, sql, [], |row| {
            let (id, account): (i64, i64) =
                (row.get(0).map_err(of_read)?, row.get(1).map_err(of_read)?);
            let name: String = row.get(2).map_err(of_read)?;
            if !names.insert((account, name)) {
                self.wrong(format!("table order_, row {id}: its client order ID is there twice"));
            }
            Ok(())
        })
    }

    fn order(&mut self, record: &OrderRecord) {
        let order = &record.order;
        let id = order.id;
        self.fold.seen(order.received.wall);
        if let Some(decided) = record.decided {
            self.fold.seen(decided.wall);
        }
        if order.request.side == Side::Sell && order.hold.cents() != 0 {
            self.wrong(format!("table order_, row {id}: a sale holds cash"));
        }
        let OrderState::Filled(fill) = &record.state else { return };
        self.fold.fill(record, fill);
        if !self.fold.snapshots.contains(&fill.snapshot.0) {
            self.wrong(format!("table order_, row {id}: snapshot {} is missing", fill.snapshot));
        }
        let (amount, basis_fits) = match order.request.side {
            Side::Buy => (fill.price.cost_of(fill.quantity), fill.basis == fill.amount),
            Side::Sell => (fill.price.proceeds_of(fill.quantity), true),
        };
        if amount != Some(fill.amount) {
            self.wrong(format!("table order_, row {id}: amount is not price times quantity"));
        }
        if !basis_fits {
            self.wrong(format!("table order_, row {id}: basis is not what the purchase cost"));
        }
    }

    fn accounts(&mut self) -> Result<(), StoreError> {
        let connection = self.connection;
        let sql = "SELECT a.id, b.cash, b.granted, a.since
                   FROM account a LEFT JOIN balance b ON b.account = a.id";
        for_each(connection, sql, [], |row| {
            let row = Reading::new(row, "account", 1);
            let result = (|| {
                let id = row.account(0)?;
                let cash = self.fold.cash.remove(&id).unwrap_or(0);
                let granted = self.fold.granted.remove(&id).unwrap_or(0);
                let name = |column| format!("account {id}: {column}");
                self.differs(&name("cash"), i128::from(row.integer(1)?), cash);
                self.differs(&name("granted"), i128::from(row.integer(2)?), granted);
                self.fold.seen(row.wall(3)?);
                Ok(())
            })();
            self.keep(result)
        })?;
        for (id, cash) in std::mem::take(&mut self.fold.cash) {
            self.wrong(format!("account {id} is missing, but its entries add up to {cash}"));
        }
        Ok(())
    }

    fn positions(&mut self) -> Result<(), StoreError> {
        let connection = self.connection;
        let mut left = self.fold.positions.clone();
        let sql = "SELECT account, instrument, quantity, cost FROM position";
        for_each(connection, sql, [], |row| {
            let row = Reading::new(row, "position", 2);
            let result = (|| {
                let key = (row.account(0)?, row.instrument(1)?);
                let folded = left.remove(&key).unwrap_or_default();
                let name = |column| format!("account {}, instrument {}: {column}", key.0, key.1);
                self.differs(&name("quantity"), i128::from(row.integer(2)?), folded.units);
                self.differs(&name("cost"), i128::from(row.integer(3)?), folded.cost);
                Ok(())
            })();
            self.keep(result)
        })?;
        for ((account, instrument), folded) in left {
            if folded.units != 0 || folded.cost != 0 {
                self.wrong(format!(
                    "account {account}, instrument {instrument}: there is no position, but its \
                     entries add up to {} units that cost {}",
                    folded.units, folded.cost
                ));
            }
        }
        Ok(())
    }

    /// The named accounts, and with them that all postings sum to zero: what the traders have was
    /// compared above, and what the named accounts have must be the other side of it.
    fn named_accounts(&mut self) -> Result<(), StoreError> {
        let stored = match read::named_accounts(self.connection) {
            Ok(stored) => stored,
            Err(error) => return self.keep(Err(error)),
        };
        let mut granted = 0;
        for_each(self.connection, "SELECT cash FROM journal WHERE kind = 1", [], |row| {
            granted += i128::from(row.get::<_, i64>(0).map_err(of_read)?);
            Ok(())
        })?;
        self.differs("named account market: cash", stored.market, self.fold.market);
        self.differs("named account grants: cash", stored.grants, -granted);
        self.differs("named account fractions: cash", stored.fractions, self.fold.fractions);
        let mut units: BTreeMap<InstrumentId, i128> = BTreeMap::new();
        for ((_, instrument), folded) in &self.fold.positions {
            *units.entry(*instrument).or_default() -= folded.units;
        }
        for instrument in stored.market_units.keys() {
            units.entry(*instrument).or_default();
        }
        for (instrument, folded) in units {
            let stored = stored.market_units.get(&instrument).copied().unwrap_or(0);
            let what = format!("named account market: units of instrument {instrument}");
            self.differs(&what, stored, folded);
        }
        Ok(())
    }

    fn marks_and_bars(&mut self) -> Result<(), StoreError> {
        let connection = self.connection;
        let sql = format!("SELECT {BAR_COLUMNS} FROM bar");
        for_each(connection, &sql, [], |row| {
            let result = rows::bar(row).map(|_| ());
            self.keep(result)
        })?;
        let sql = "SELECT account, client_order_id, wall FROM cancel_mark";
        for_each(connection, sql, [], |row| {
            let row = Reading::new(row, "cancel_mark", 2);
            let result = (|| {
                self.fold.seen(row.wall(2)?);
                let id = row.parsed(1)?;
                let key = OrderKey::new(row.account(0)?, &id);
                match read::find_known(connection, key, &id)? {
                    Some(crate::Found::Order(order)) => {
                        Err(row.corrupt(format_args!("it marks what order {} has", order.order.id)))
                    }
                    _ if self.open.contains(&key) => Err(row.corrupt("it marks an open order")),
                    _ => Ok(()),
                }
            })();
            self.keep(result)
        })
    }

    fn meta(&mut self) -> Result<(), StoreError> {
        let meta = match read::meta(self.connection) {
            Ok(meta) => meta,
            Err(error) => return self.keep(Err(error)),
        };
        if self.fold.rows && meta.last_batch.0 == 0 {
            self.wrong("table meta: no batch was stored, but there are rows".to_owned());
        }
        if self.fold.last_wall > meta.last_wall {
            let (stored, seen) = (meta.last_wall.0, self.fold.last_wall.0);
            self.wrong(format!("table meta: last_wall is {stored}, but a row has {seen}"));
        }
        Ok(())
    }
}
