//! Verification: folds every stored grant, fill and split anew ([`Fold`]), and compares with the
//! balances that are stored beside them. The same for every database.
//!
//! Rows that cannot be read are named like wrong balances; only a database that does not answer is
//! an error. Orders and their keys are read side by side, a generation at a time, so that what is
//! held in memory does not grow with what was ever traded.

use std::collections::{BTreeMap, HashMap, HashSet};

use papertrader_core::ids::{InstrumentId, OrderId};
use papertrader_core::order::{OrderRecord, OrderState, Side};

use crate::fold::Fold;
use crate::index::{GENERATION_BITS, OrderKey};
use crate::read::{self, Ask, rows};
use crate::rows::{self, BAR_COLUMNS, Cells, JOURNAL_COLUMNS, Reading, SELECT_ORDER, Value};
use crate::{Mismatch, StoreError};

/// Everything that is wrong. Expects to run inside one read transaction.
pub(crate) fn verify(ask: &dyn Ask) -> Result<Vec<Mismatch>, StoreError> {
    let mut check = Check {
        ask,
        found: Vec::new(),
        fold: Fold::default(),
        open: HashMap::new(),
        marks: HashSet::new(),
    };
    for what in ask.structure()? {
        check.wrong(what);
    }
    let loaded = read::load(ask).map(|_| ());
    check.keep(loaded)?;
    check.snapshots()?;
    check.journal()?;
    check.orders()?;
    check.order_tables()?;
    check.marks_and_bars()?;
    check.names()?;
    check.fold.finish();
    check.accounts()?;
    check.positions()?;
    check.named_accounts()?;
    check.meta()?;
    Ok(check.found)
}

struct Check<'c> {
    ask: &'c dyn Ask,
    found: Vec<Mismatch>,
    fold: Fold,
    /// The open orders by their keys.
    open: HashMap<OrderKey, OrderId>,
    /// The keys of the marks.
    marks: HashSet<OrderKey>,
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

    fn snapshots(&mut self) -> Result<(), StoreError> {
        let ask = self.ask;
        let mut market = i64::MIN;
        let sql = "SELECT number, wall, market, day, last_action, ended FROM snapshot
                   ORDER BY number";
        ask.for_each(sql, &[], &mut |row| {
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
        let ask = self.ask;
        let sql = format!("SELECT {JOURNAL_COLUMNS} FROM journal ORDER BY id");
        ask.for_each(&sql, &[], &mut |row| {
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

    /// All orders with their keys, a generation at a time.
    fn orders(&mut self) -> Result<(), StoreError> {
        let ask = self.ask;
        // What is wrong with it is said below.
        let settled = read::meta(ask).map_or(u64::MAX, |meta| meta.settled_order.0);
        let mut next = Some(i64::MIN);
        while let Some(from) = next {
            let sql = "SELECT id FROM order_ WHERE id >= ?1 ORDER BY id LIMIT 1";
            let order = |row: &dyn Cells| Reading::new(row, "order_", 1).integer(0);
            let Some(first) = rows(ask, sql, &[from.into()], order)?.pop() else { break };
            // Orders have no negative numbers: what is wrong with one is said when it is read.
            let last = first.max(0) | ((1 << GENERATION_BITS) - 1);
            let sql = format!("{SELECT_ORDER} WHERE o.id >= ?1 AND o.id <= ?2 ORDER BY o.id");
            ask.for_each(&sql, &[first.into(), last.into()], &mut |row| {
                let result = rows::order(row).and_then(|record| {
                    let waits = row.cell(14)? != Value::Null;
                    self.order(&record);
                    let hash = Reading::new(row, "order_", 1).integer(27)?;
                    self.find_again(&record, hash, waits || record.order.id.0 > settled);
                    Ok(())
                });
                self.keep(result)
            })?;
            next = last.checked_add(1);
        }
        Ok(())
    }

    /// That an order can be found by its client order ID, or, if it is open, by a start.
    fn find_again(&mut self, record: &OrderRecord, hash: i64, is_loaded: bool) {
        let (id, request) = (record.order.id, &record.order.request);
        let key = OrderKey::new(request.account, &request.client_order_id);
        if hash != key.hash.cast_signed() {
            self.wrong(format!("table order_, row {id}: hash is not that of its owner's name"));
        }
        // Its outcome was found by it.
        if record.decided.is_some() {
            return;
        }
        if !is_loaded {
            self.wrong(format!("table waiting: it lacks order {id}, which is open"));
        }
        if self.open.insert(key, id).is_some() {
            self.is_there_twice(id);
        }
    }

    fn is_there_twice(&mut self, order: OrderId) {
        self.wrong(format!("table order_, row {order}: its client order ID is there twice"));
    }

    /// That each row beside `order_` belongs to an order, and that no two decided orders have one
    /// client order ID.
    fn order_tables(&mut self) -> Result<(), StoreError> {
        let ask = self.ask;
        for (table, key, parent) in [("waiting", "id", "order_"), ("balance", "account", "account")]
        {
            let sql = format!(
                "SELECT {key} FROM {table} AS t
                 WHERE NOT EXISTS (SELECT 1 FROM {parent} AS p WHERE p.id = t.{key})"
            );
            ask.for_each(&sql, &[], &mut |row| {
                let row = Reading::new(row, table, 1);
                self.found.push(Mismatch { what: row.says("it belongs to nothing") });
                Ok(())
            })?;
        }
        let sql = "SELECT id FROM outcome AS c WHERE NOT EXISTS
                   (SELECT 1 FROM order_ AS o WHERE o.id = c.id AND o.account = c.account
                    AND o.hash = c.hash AND o.id >> 18 = c.generation)";
        ask.for_each(sql, &[], &mut |row| {
            let what = Reading::new(row, "outcome", 1).says("it belongs to nothing");
            self.found.push(Mismatch { what });
            Ok(())
        })?;
        // Of equal hashes the names may still differ.
        let sql = "SELECT k.id, o.account, o.client_order_id
                   FROM (SELECT account, hash FROM outcome GROUP BY 1, 2 HAVING count(*) > 1) AS d
                   JOIN outcome k ON k.account = d.account AND k.hash = d.hash
                   JOIN order_ o ON o.id = k.id ORDER BY 1";
        let mut names = HashSet::new();
        ask.for_each(sql, &[], &mut |row| {
            let row = Reading::new(row, "order_", 1);
            if !names.insert((row.integer(1)?, row.text(2)?.to_owned())) {
                self.is_there_twice(OrderId(row.integer(0)?.cast_unsigned()));
            }
            Ok(())
        })
    }

    /// That no decided order has the client order ID of an open one, or of a mark.
    fn names(&mut self) -> Result<(), StoreError> {
        let ask = self.ask;
        let mut decided = Vec::new();
        ask.for_each("SELECT account, hash, id FROM outcome", &[], &mut |row| {
            let row = Reading::new(row, "outcome", 3);
            let result = (|| {
                let hash = row.integer(1)?.cast_unsigned();
                let key = OrderKey { account: row.account(0)?, hash };
                if self.open.contains_key(&key) || self.marks.contains(&key) {
                    decided.push((key, OrderId(row.number(2)?)));
                }
                Ok(())
            })();
            self.keep(result)
        })?;
        for (key, id) in decided {
            let result = self.name(key, id);
            self.keep(result)?;
        }
        Ok(())
    }

    /// Compares the name of a decided order with those that have the same hash.
    fn name(&mut self, key: OrderKey, id: OrderId) -> Result<(), StoreError> {
        let ask = self.ask;
        let Some(record) = ask.orders(&[id])?.pop() else { return Ok(()) };
        let name = &record.order.request.client_order_id;
        if let Some(open) = self.open.get(&key).copied()
            && read::find_recent(ask, &[open], name)?.is_some()
        {
            self.is_there_twice(open);
        }
        if read::is_marked(ask, key.account, name)? {
            let account = key.account;
            self.wrong(format!(
                "table cancel_mark, row {account}, {name}: it marks what order {id} has"
            ));
        }
        Ok(())
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
        let ask = self.ask;
        let sql = "SELECT a.id, b.cash, b.granted, a.since
                   FROM account a LEFT JOIN balance b ON b.account = a.id";
        ask.for_each(sql, &[], &mut |row| {
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
        let ask = self.ask;
        let mut left = self.fold.positions.clone();
        let sql = "SELECT account, instrument, quantity, cost FROM position";
        ask.for_each(sql, &[], &mut |row| {
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
        let ask = self.ask;
        let stored = match read::named_accounts(ask) {
            Ok(stored) => stored,
            Err(error) => return self.keep(Err(error)),
        };
        let mut granted = 0;
        ask.for_each("SELECT cash FROM journal WHERE kind = 1", &[], &mut |row| {
            granted += i128::from(Reading::new(row, "journal", 0).integer(0)?);
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
        let ask = self.ask;
        let sql = format!("SELECT {BAR_COLUMNS} FROM bar");
        ask.for_each(&sql, &[], &mut |row| {
            let result = rows::bar(row).map(|_| ());
            self.keep(result)
        })?;
        let sql = "SELECT account, client_order_id, wall FROM cancel_mark";
        ask.for_each(sql, &[], &mut |row| {
            let row = Reading::new(row, "cancel_mark", 2);
            let result = (|| {
                self.fold.seen(row.wall(2)?);
                let key = OrderKey::new(row.account(0)?, &row.parsed(1)?);
                self.marks.insert(key);
                if self.open.contains_key(&key) {
                    return Err(row.corrupt("it marks an open order"));
                }
                Ok(())
            })();
            self.keep(result)
        })
    }

    fn meta(&mut self) -> Result<(), StoreError> {
        let meta = match read::meta(self.ask) {
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
