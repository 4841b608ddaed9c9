//! Verification: folds every stored grant, fill and split anew ([`Fold`]), and compares with the
//! balances that are stored beside them. The same for every database.
//!
//! Rows that cannot be read are named like wrong balances; only a database that does not answer is
//! an error. Orders and their keys are read side by side, a generation at a time, so that what is
//! held in memory does not grow with what was ever traded, but with what the balances do not have yet.

use std::collections::{BTreeMap, HashMap, HashSet};

use papertrader_core::books::Books;
use papertrader_core::ids::{AccountId, InstrumentId, OrderId};
use papertrader_core::order::{OrderRecord, OrderState, Side};
use papertrader_core::time::MarketTime;

use crate::bars::{self, Series};
use crate::behind::Horizon;
use crate::fold::{Fold, Folded, Holding};
use crate::index::{GENERATION_BITS, OrderKey, generation};
use crate::read::{self, Ask, rows};
use crate::rows::{self, BAR_COLUMNS, Cells, JOURNAL_COLUMNS, Reading, SELECT_ORDER, Value};
use crate::{Mismatch, Report, StoreError};

/// Contradictions that are kept in full; more are counted.
const MOST: usize = 1_000;

/// Each column that names a row of another table, and that table, with the key of the row. Foreign
/// keys keep some of them right as long as nobody switches them off.
const REFERENCES: [(&str, &str, &str, &str); 10] = [
    ("order_", "id", "account", "account"),
    ("order_", "id", "instrument", "instrument"),
    ("cancel_mark", "account, client_order_id", "account", "account"),
    ("journal", "id", "account", "account"),
    ("journal", "id", "instrument", "instrument"),
    ("session", "key", "account", "account"),
    ("price", "instrument", "instrument", "instrument"),
    ("bar", "instrument, resolution, start", "instrument", "instrument"),
    ("bar_chunk", "instrument, resolution, first", "instrument", "instrument"),
    ("exposure", "account, worker", "account", "account"),
];

/// Everything that is wrong, and what there is. Expects to run inside one read transaction.
pub(crate) fn verify(ask: &dyn Ask) -> Result<Report, StoreError> {
    let mut check = Check {
        ask,
        report: Report::default(),
        fold: Fold::default(),
        open: HashMap::new(),
        disabled: HashSet::new(),
        marks: HashSet::new(),
        acted: HashSet::new(),
        decided: 0,
        market: i64::MAX,
        books: None,
        written: HashMap::new(),
        doubtful: HashSet::new(),
        horizon: Horizon::default(),
    };
    for what in ask.structure()? {
        check.wrong(what);
    }
    let loaded = read::load(ask).map(|(loaded, _)| check.books = Some(loaded.books));
    check.keep(loaded)?;
    check.references()?;
    check.snapshots()?;
    check.journal()?;
    check.disabled()?;
    check.horizons()?;
    check.orders()?;
    check.order_tables()?;
    check.bars()?;
    check.marks()?;
    check.names()?;
    check.fold.finish();
    check.accounts()?;
    check.positions()?;
    check.loaded();
    check.named_accounts()?;
    check.sessions_and_prices()?;
    check.meta()?;
    Ok(check.report)
}

struct Check<'c> {
    ask: &'c dyn Ask,
    report: Report,
    fold: Fold,
    /// The open orders by their keys.
    open: HashMap<OrderKey, OrderId>,
    /// The accounts that may have no open order.
    disabled: HashSet<AccountId>,
    /// The keys of the marks.
    marks: HashSet<OrderKey>,
    /// The snapshots that brought corporate actions.
    acted: HashSet<u64>,
    /// How many orders have an outcome.
    decided: u64,
    /// The market's time; before the first snapshot anything goes.
    market: i64,
    /// What a start makes of it all, if it can.
    books: Option<Books>,
    /// The settlements that wrote the balances.
    written: HashMap<AccountId, u64>,
    /// Holdings of which a fill is wrong in itself: what follows from it says nothing more.
    doubtful: HashSet<Holding>,
    /// What no start looks behind.
    horizon: Horizon,
}

impl Check<'_> {
    fn wrong(&mut self, what: String) {
        self.mismatch(Mismatch::new(what));
    }

    /// Something about an order, whose owner is named too.
    fn wrong_order(&mut self, record: &OrderRecord, what: &str) {
        let (id, account) = (record.order.id, record.order.request.account.0);
        self.mismatch(Mismatch::new(format!("table order_, row {id}: {what}")).of(account));
    }

    fn mismatch(&mut self, mismatch: Mismatch) {
        match self.report.mismatches.len() {
            ..MOST => self.report.mismatches.push(mismatch),
            _ => self.report.more += 1,
        }
    }

    /// Notes a row that cannot be read, and goes on; other errors end the verification.
    fn keep(&mut self, result: Result<(), StoreError>) -> Result<(), StoreError> {
        match result {
            Err(StoreError::Corrupt(what)) => {
                // The same row may be read twice.
                if !self.report.mismatches.iter().any(|mismatch| mismatch.what == what) {
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
        let (mut wall, mut market, mut day) = (i64::MIN, i64::MIN, 0);
        let mut action = None;
        let sql = "SELECT number, wall, market, day, last_action, ended FROM snapshot
                   ORDER BY number";
        ask.for_each(sql, &[], &mut |row| {
            self.report.snapshots += 1;
            let row = Reading::new(row, "snapshot", 1);
            let result = row.number(0).and_then(|number| {
                self.fold.snapshots.insert(number);
                self.fold.seen(row.wall(1)?);
                let wall_before = std::mem::replace(&mut wall, row.wall(1)?.0);
                let market_before = std::mem::replace(&mut market, row.market(2)?.0);
                let day_before = std::mem::replace(&mut day, row.number::<u32>(3)?);
                let last_action = row.integer(4)?;
                if action.replace(last_action) != Some(last_action) {
                    self.acted.insert(number);
                }
                row.flag(5)?;
                if market_before > market {
                    return Err(row.corrupt("market time goes back"));
                }
                if wall_before >= wall {
                    return Err(row.corrupt("wall time goes back"));
                }
                if day_before > day {
                    return Err(row.corrupt("days go back"));
                }
                Ok(())
            });
            self.keep(result)
        })?;
        if self.report.snapshots > 0 {
            self.market = market;
        }
        Ok(())
    }

    /// That no row names one that is missing.
    fn references(&mut self) -> Result<(), StoreError> {
        let ask = self.ask;
        for (table, key, column, parent) in REFERENCES {
            let sql = format!(
                "SELECT {key} FROM {table} AS t WHERE t.{column} IS NOT NULL
                 AND NOT EXISTS (SELECT 1 FROM {parent} AS p WHERE p.id = t.{column})"
            );
            let columns = key.split(',').count();
            ask.for_each(&sql, &[], &mut |row| {
                let row = Reading::new(row, table, columns);
                self.wrong(row.says(format_args!("it names a row of {parent} that is missing")));
                Ok(())
            })?;
        }
        Ok(())
    }

    fn journal(&mut self) -> Result<(), StoreError> {
        let ask = self.ask;
        let sql = format!("SELECT {JOURNAL_COLUMNS} FROM journal ORDER BY id");
        let mut before = i64::MIN;
        ask.for_each(&sql, &[], &mut |row| {
            self.report.entries += 1;
            let result = rows::journal(row).map(|row| {
                self.fold.seen(row.moment.wall);
                self.fold.entry(&row);
                let snapshot = row.snapshot;
                let mut wrong = Vec::new();
                if std::mem::replace(&mut before, row.moment.wall.0) > row.moment.wall.0 {
                    wrong.push("it is earlier than the one before".to_owned());
                }
                if row.moment.market.0 > self.market {
                    wrong.push("it is later than the market's time".to_owned());
                }
                if snapshot != 0 && !self.fold.snapshots.contains(&snapshot) {
                    wrong.push(format!("snapshot {snapshot} is missing"));
                } else if snapshot != 0 && !self.acted.contains(&snapshot) {
                    wrong.push(format!("snapshot {snapshot} brought no corporate action"));
                }
                let (id, account) = (row.id, row.entry.account().0);
                for what in wrong {
                    let what = format!("table journal, row {id}: {what}");
                    self.mismatch(Mismatch::new(what).of(account));
                }
            });
            self.keep(result)
        })
    }

    fn disabled(&mut self) -> Result<(), StoreError> {
        let ask = self.ask;
        ask.for_each("SELECT id FROM account WHERE disabled <> 0", &[], &mut |row| {
            let account = Reading::new(row, "account", 1).account(0);
            let account = account.map(|account| {
                self.disabled.insert(account);
            });
            self.keep(account)
        })
    }

    /// Up to where balances and positions have what was decided.
    fn horizons(&mut self) -> Result<(), StoreError> {
        let ask = self.ask;
        let last = self.fold.snapshots.iter().copied().max().unwrap_or(0);
        // What is wrong with it otherwise was said when it was loaded.
        if let Ok(meta) = read::meta(ask) {
            self.horizon = meta.horizon;
            if meta.horizon.snapshot > last {
                self.wrong("table meta: folded_snapshot is later than the last one".to_owned());
            }
            if meta.horizon.generation > generation(meta.settled_order) {
                self.wrong("table meta: folded_generation is later than the last one".to_owned());
            }
        }
        ask.for_each("SELECT account, snapshot FROM balance", &[], &mut |row| {
            let row = Reading::new(row, "balance", 1);
            let written = row.account(0).and_then(|account| {
                let snapshot = row.number(1)?;
                self.written.insert(account, snapshot);
                if snapshot > last {
                    return Err(row.corrupt("its snapshot is later than the last one"));
                }
                Ok(())
            });
            self.keep(written)
        })
    }

    /// Whether the tables have what a filled order moved; otherwise a start adds it.
    fn is_stored(&self, record: &OrderRecord, snapshot: u64) -> bool {
        let written = self.written.get(&record.order.request.account).copied().unwrap_or(0);
        snapshot <= written.max(self.horizon.snapshot)
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
                self.report.orders += 1;
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
            self.wrong_order(record, "hash is not that of its owner's name");
        }
        // Its outcome was found by it.
        if record.decided.is_some() {
            return;
        }
        if self.disabled.contains(&request.account) {
            self.wrong_order(record, "it is open, but its owner is disabled");
        }
        if !is_loaded {
            let what = format!("table waiting, row {id}: it lacks this order, which is open");
            self.mismatch(Mismatch::new(what).of(request.account.0));
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
                self.wrong(row.says("it belongs to nothing"));
                Ok(())
            })?;
        }
        // As many as orders were found to have: then each has its order, and none need be looked for.
        let outcomes = rows(ask, "SELECT count(*) FROM outcome", &[], |row| {
            Reading::new(row, "outcome", 0).number(0)
        })?;
        self.report.outcomes = outcomes.first().copied().unwrap_or(0);
        let sql = "SELECT id FROM outcome AS c WHERE NOT EXISTS
                   (SELECT 1 FROM order_ AS o WHERE o.id = c.id AND o.account = c.account
                    AND o.hash = c.hash AND o.id >> 18 = c.generation)";
        if self.report.outcomes != self.decided {
            ask.for_each(sql, &[], &mut |row| {
                self.wrong(Reading::new(row, "outcome", 1).says("it belongs to nothing"));
                Ok(())
            })?;
        }
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
        self.fold.seen(order.received.wall);
        if let Some(decided) = record.decided {
            self.decided += 1;
            self.fold.seen(decided.wall);
            if decided.wall < order.received.wall {
                self.wrong_order(record, "it was decided before it was received");
            }
        }
        if order.request.side == Side::Sell && order.hold.cents() != 0 {
            self.wrong_order(record, "a sale holds cash");
        }
        let OrderState::Filled(fill) = &record.state else { return };
        self.report.fills += 1;
        let snapshot = fill.snapshot.0;
        let is_stored = self.is_stored(record, snapshot);
        self.fold.fill(record, fill, is_stored);
        if !is_stored && generation(order.id) < self.horizon.generation {
            self.wrong_order(record, "balance and position lack it, and no start looks for it");
        }
        if !self.fold.snapshots.contains(&snapshot) {
            self.wrong_order(record, &format!("snapshot {snapshot} is missing"));
        }
        // What had been taken when it came need not be stored: then its number is used again.
        let market = record.decided.map_or(i64::MIN, |decided| decided.market.0);
        if snapshot <= order.seen.0 || market <= order.received.market.0 {
            self.wrong_order(record, "it was filled by a snapshot that it had seen");
        }
        if fill.quantity != order.request.quantity && !self.acted.contains(&snapshot) {
            self.wrong_order(record, "what was filled is not what was asked");
        }
        let (amount, basis_fits) = match order.request.side {
            Side::Buy => (fill.price.cost_of(fill.quantity), fill.basis == fill.amount),
            Side::Sell => (fill.price.proceeds_of(fill.quantity), true),
        };
        if amount != Some(fill.amount) || !basis_fits {
            self.doubtful.insert((order.request.account, order.request.instrument));
        }
        if amount != Some(fill.amount) {
            self.wrong_order(record, "amount is not price times quantity");
        }
        if !basis_fits {
            self.wrong_order(record, "basis is not what the purchase cost");
        }
    }

    fn accounts(&mut self) -> Result<(), StoreError> {
        let ask = self.ask;
        let sql = "SELECT a.id, b.cash, b.granted, a.since
                   FROM account a LEFT JOIN balance b ON b.account = a.id";
        ask.for_each(sql, &[], &mut |row| {
            self.report.accounts += 1;
            let row = Reading::new(row, "account", 1);
            let result = (|| {
                let id = row.account(0)?;
                let cash = self.fold.cash.remove(&id).unwrap_or(0);
                let granted = self.fold.granted.remove(&id).unwrap_or(0);
                self.report.cash += cash;
                let name = |column| format!("table balance, row {id}: {column}");
                let missing = self.fold.missing_cash.get(&id).copied().unwrap_or(0);
                self.differs(&name("cash"), i128::from(row.integer(1)?) + missing, cash);
                if let Some(account) = self.books.as_ref().and_then(|books| books.account(id)) {
                    let loaded = i128::from(account.cash.cents());
                    self.differs(&name("cash after a start"), loaded, cash);
                }
                self.differs(&name("granted"), i128::from(row.integer(2)?), granted);
                self.fold.seen(row.wall(3)?);
                Ok(())
            })();
            self.keep(result)
        })?;
        for (id, cash) in std::mem::take(&mut self.fold.cash) {
            self.report.cash += cash;
            let what = format!("it is missing, but its entries add up to {cash}");
            self.wrong(format!("table account, row {id}: {what}"));
        }
        Ok(())
    }

    fn positions(&mut self) -> Result<(), StoreError> {
        let ask = self.ask;
        let mut left = self.fold.positions.clone();
        let mut unreadable = HashSet::new();
        let sql = "SELECT account, positions FROM balance";
        ask.for_each(sql, &[], &mut |row| {
            let row = Reading::new(row, "balance", 1);
            let result = (|| {
                let account = row.account(0)?;
                for position in row.positions(1)? {
                    let instrument = position.instrument;
                    let key = (account, instrument);
                    let folded = left.remove(&key).unwrap_or_default();
                    let missing = self.fold.missing.get(&key).copied().unwrap_or_default();
                    let units = i128::from(position.quantity.raw()) + missing.units;
                    let cost = i128::from(position.cost.cents()) + missing.cost;
                    let row = format!("table balance, row {account}");
                    let what = format!("{row}: quantity of instrument {instrument}");
                    self.differs(&what, units, folded.units);
                    let what = format!("{row}: cost of instrument {instrument}");
                    self.differs(&what, cost, folded.cost);
                    if (units, cost) == (folded.units, folded.cost) {
                        let units = i128::from(position.quantity.raw());
                        let cost = i128::from(position.cost.cents());
                        self.sales(key, Folded { units, cost });
                    } else {
                        self.doubtful.insert(key);
                    }
                }
                Ok(())
            })();
            if result.is_err() {
                unreadable.insert(row.account(0).ok());
            }
            self.keep(result)
        })?;
        for key in self.fold.not_stored() {
            if !unreadable.contains(&Some(key.0)) {
                self.sales(key, Folded::default());
            }
        }
        for (key @ (account, instrument), mut folded) in left {
            let missing = self.fold.missing.get(&key).copied().unwrap_or_default();
            folded.units -= missing.units;
            folded.cost -= missing.cost;
            if folded.units != 0 || folded.cost != 0 {
                self.wrong(format!(
                    "table balance, row {account}: there is no position of instrument \
                     {instrument}, but its entries add up to {} units that cost {}",
                    folded.units, folded.cost
                ));
            }
        }
        Ok(())
    }

    /// Names the sales that the tables do not have yet and that are wrong in themselves.
    fn sales(&mut self, key: Holding, stored: Folded) {
        if self.doubtful.contains(&key) {
            return;
        }
        for order in self.fold.unfair_sales(key, stored) {
            let what = "basis is not the share of the cost that was sold";
            let what = format!("table outcome, row {order}: {what}");
            self.mismatch(Mismatch::new(what).of(key.0.0));
        }
    }

    /// That a start would give each account the positions that its entries add up to.
    fn loaded(&mut self) {
        let has_some = |folded: &&Folded| folded.units != 0 || folded.cost != 0;
        let expected = self.fold.positions.values().filter(has_some).count();
        self.report.positions = expected as u64;
        let Some(books) = self.books.take() else { return };
        let mut loaded = 0;
        for (id, account) in books.accounts() {
            for position in &account.positions {
                loaded += 1;
                let instrument = position.instrument;
                let folded = self.fold.positions.get(&(id, instrument)).copied();
                let folded = folded.unwrap_or_default();
                let name = |column| {
                    format!("table balance, row {id}: {column} of {instrument} after a start")
                };
                let units = i128::from(position.quantity.raw());
                self.differs(&name("quantity"), units, folded.units);
                self.differs(&name("cost"), i128::from(position.cost.cents()), folded.cost);
            }
        }
        if loaded != expected {
            self.wrong(format!(
                "table balance: a start finds {loaded} positions, but the entries make {expected}"
            ));
        }
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
        let report = &mut self.report;
        (report.market, report.grants) = (self.fold.market, -granted);
        report.fractions = self.fold.fractions;
        for (name, stored, folded) in [
            ("market", stored.market, self.fold.market),
            ("grants", stored.grants, -granted),
            ("fractions", stored.fractions, self.fold.fractions),
        ] {
            self.differs(&format!("table named_account, row {name}, 0: cash"), stored, folded);
        }
        let mut units: BTreeMap<InstrumentId, i128> = BTreeMap::new();
        for ((_, instrument), folded) in &self.fold.positions {
            *units.entry(*instrument).or_default() -= folded.units;
        }
        for instrument in stored.market_units.keys() {
            units.entry(*instrument).or_default();
        }
        for (instrument, folded) in units {
            let stored = stored.market_units.get(&instrument).copied().unwrap_or(0);
            let what = format!("table named_account, row market, {instrument}: units");
            self.differs(&what, stored, folded);
        }
        Ok(())
    }

    fn bars(&mut self) -> Result<(), StoreError> {
        let ask = self.ask;
        let sql = format!("SELECT {BAR_COLUMNS} FROM bar");
        ask.for_each(&sql, &[], &mut |row| {
            self.report.bars += 1;
            let result = rows::bar(row).map(|_| ());
            self.keep(result)
        })?;
        let mut before: Option<(Series, MarketTime)> = None;
        read::chunks(ask, &mut |chunk| {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(why) => return self.keep(Err(why)),
            };
            let (series, bars) = chunk;
            self.report.bars += bars.len() as u64;
            let (first, last) = (bars.first(), bars.last());
            if let (Some(first), Some((other, end))) = (first, before)
                && other == series
                && first.start < end
            {
                let (start, (instrument, resolution)) = (first.start.0, series);
                self.wrong(format!(
                    "table bar_chunk, row {instrument}, {}, {start}: it begins before the one before \
                     it ends",
                    resolution as u8,
                ));
            }
            before = last.map(|last| (series, last.start));
            Ok(())
        })?;
        let (mut first, mut last, mut count) = (None, 0, 0);
        let taped = read::tape(ask, &mut |_, number, _| {
            (first, last, count) = (first.or(Some(number)), number, count + 1);
            Ok(())
        });
        let expected = bars::rows_up_to(last);
        if taped.is_ok() && (first, count) != (expected.clone().next(), expected.clone().count()) {
            let all = expected.count();
            self.wrong(format!("table bar_tape: of {all} rows up to row {last} {count} are there"));
        }
        self.keep(taped)?;
        let instruments = read::instruments(ask).map_or(0, |all| all.len() as u32);
        match read::tails(ask, instruments) {
            Ok(tails) => self.report.bars += tails.count() as u64,
            Err(why) => self.keep(Err(why))?,
        }
        Ok(())
    }

    fn marks(&mut self) -> Result<(), StoreError> {
        let ask = self.ask;
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

    fn sessions_and_prices(&mut self) -> Result<(), StoreError> {
        let ask = self.ask;
        let sql = "SELECT key, started, used FROM session";
        ask.for_each(sql, &[], &mut |row| {
            let row = Reading::new(row, "session", 1);
            let result = (|| {
                let (started, used) = (row.wall(1)?, row.wall(2)?);
                self.fold.seen(started);
                if used < started {
                    return Err(row.corrupt("it was used before it was started"));
                }
                Ok(())
            })();
            self.keep(result)
        })?;
        ask.for_each("SELECT instrument, time FROM price", &[], &mut |row| {
            let row = Reading::new(row, "price", 1);
            let result = row.integer(1).and_then(|time| match time > self.market {
                true => Err(row.corrupt("it is later than the market's time")),
                false => Ok(()),
            });
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
        if meta.deployment.is_empty() {
            self.wrong("table meta: deployment is empty".to_owned());
        }
        Ok(())
    }
}
