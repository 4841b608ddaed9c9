//! Reading: everything at start, what is known under client order IDs, bars and histories.
//!
//! Each function expects to run inside one read transaction when it asks more than one question,
//! so that its answers fit together. Nothing here writes.

use papertrader_core::account::{Account, Position};
use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::books::{Books, Head};
use papertrader_core::ids::{AccountId, BatchNumber, InstrumentId, OrderId, WorkerId};
use papertrader_core::ledger::NamedAccounts;
use papertrader_core::money::{Cash, Quantity};
use papertrader_core::names::ClientOrderId;
use papertrader_core::order::{OrderRecord, OrderState};
use papertrader_core::snapshot::Mark;
use papertrader_core::time::{MarketTime, WallTime};
use rusqlite::{Connection, Params, Row, Transaction, params};

use super::failure::of_read;
use super::rows::{self, BAR_COLUMNS, JOURNAL_COLUMNS, Reading, SELECT_ORDER};
use super::{SharedIndex, read_index};
use crate::index::{Index, Open, OrderKey, generation};
use crate::{
    Boot, Found, HistoryRow, InstrumentRow, Loaded, PassHash, Profile, SessionKey, StoreError,
    StoreReader, StoredSession, WorkerRow,
};

/// The rows of a query, each converted.
pub(super) fn rows<T>(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    convert: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut all = Vec::new();
    let mut convert = convert;
    for_each(connection, sql, values, |row| {
        all.push(convert(row)?);
        Ok(())
    })?;
    Ok(all)
}

/// Hands each row of a query to a function.
pub(super) fn for_each(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    mut each: impl FnMut(&Row<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(of_read)?;
    let mut rows = statement.query(values).map_err(of_read)?;
    while let Some(row) = rows.next().map_err(of_read)? {
        each(row)?;
    }
    Ok(())
}

/// The first row of a query, converted.
fn first<T>(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    convert: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    Ok(rows(connection, sql, values, convert)?.into_iter().next())
}

/// Everything that the master keeps in memory.
pub(super) fn load(connection: &Connection) -> Result<Loaded, StoreError> {
    let meta = meta(connection)?;
    let instruments = instruments(connection)?;
    let (profiles, accounts) = accounts(connection)?;
    let books = books(connection, accounts)?;
    let known =
        |instrument: InstrumentId| (1..=instruments.len()).contains(&(instrument.0 as usize));
    if let Some(unknown) = books.named().market_units.keys().find(|id| !known(**id)) {
        return Err(StoreError::Corrupt(format!(
            "table named_account, row market, {unknown}: there is no such instrument"
        )));
    }
    Ok(Loaded {
        deployment: meta.deployment,
        last_batch: meta.last_batch,
        last_wall: meta.last_wall,
        next_order: next_order(connection)?,
        books,
        profiles,
        sessions: sessions(connection)?,
        instruments,
        workers: workers(connection)?,
        exposures: exposures(connection)?,
        stolen_keys: stolen_keys(connection)?,
    })
}

/// The row of `meta`.
pub(super) struct Meta {
    deployment: String,
    pub(super) last_batch: BatchNumber,
    pub(super) last_wall: WallTime,
    pub(super) settled_order: OrderId,
}

/// Reads the row of `meta`.
pub(super) fn meta(connection: &Connection) -> Result<Meta, StoreError> {
    let sql = "SELECT one, deployment, last_batch, last_wall, settled_order FROM meta";
    first(connection, sql, [], |row| {
        let row = Reading::new(row, "meta", 1);
        Ok(Meta {
            deployment: row.text(1)?.to_owned(),
            last_batch: BatchNumber(row.number(2)?),
            last_wall: row.wall(3)?,
            settled_order: OrderId(row.number(4)?),
        })
    })?
    .ok_or_else(|| StoreError::Corrupt("table meta: its row is missing".to_owned()))
}

fn next_order(connection: &Connection) -> Result<OrderId, StoreError> {
    let last = first(connection, "SELECT coalesce(max(id), 0) FROM order_", [], |row| {
        Reading::new(row, "order_", 1).number::<u64>(0)
    })?;
    Ok(OrderId(last.unwrap_or(0) + 1))
}

/// All instruments; their IDs have no gaps.
pub(super) fn instruments(connection: &Connection) -> Result<Vec<InstrumentRow>, StoreError> {
    let mut expected = 0;
    rows(connection, "SELECT id, symbol, name, kind FROM instrument ORDER BY id", [], |row| {
        let row = Reading::new(row, "instrument", 1);
        expected += 1;
        let id = row.instrument(0)?;
        if id.0 != expected {
            return Err(row.corrupt(format_args!("instrument {expected} is missing before it")));
        }
        let name = row.text(2)?.to_owned();
        Ok(InstrumentRow { id, symbol: row.parsed(1)?, name, kind: row.number(3)? })
    })
}

/// All profiles and accounts, without positions; their IDs have no gaps.
fn accounts(connection: &Connection) -> Result<(Vec<Profile>, Vec<Account>), StoreError> {
    let sql = "SELECT a.id, a.name, a.name_key, a.email, a.pass_hash, a.since, b.cash, b.granted,
                      a.disabled, a.password_due
               FROM account a LEFT JOIN balance b ON b.account = a.id ORDER BY a.id";
    let mut expected = 0;
    let all = rows(connection, sql, [], |row| {
        let row = Reading::new(row, "account", 1);
        expected += 1;
        if row.account(0)?.0 != expected {
            return Err(row.corrupt(format_args!("account {expected} is missing before it")));
        }
        let profile = Profile {
            name: row.parsed(1)?,
            email: row.parsed(3)?,
            pass_hash: row.optional_text(4)?.map(|hash| PassHash(hash.to_owned())),
            password_due: row.flag(9)?,
            since: row.wall(5)?,
        };
        if profile.name.key() != row.text(2)? {
            return Err(row.corrupt("name_key is not the name in lower case"));
        }
        let account = Account {
            cash: row.cash(6)?,
            granted: Cash::from_cents(row.integer(7)?),
            disabled: row.flag(8)?,
            ..Account::default()
        };
        Ok((profile, account))
    })?;
    Ok(all.into_iter().unzip())
}

fn books(connection: &Connection, mut accounts: Vec<Account>) -> Result<Books, StoreError> {
    let sql = "SELECT account, instrument, quantity, cost FROM position
               ORDER BY account, instrument";
    for_each(connection, sql, [], |row| {
        let row = Reading::new(row, "position", 2);
        let position = Position {
            instrument: row.instrument(1)?,
            quantity: row.quantity(2)?,
            held: Quantity::ZERO,
            cost: row.cash(3)?,
        };
        let index = (row.account(0)?.0 as usize).checked_sub(1);
        let account = index.and_then(|index| accounts.get_mut(index));
        let account = account.ok_or_else(|| row.corrupt("there is no such account"))?;
        account.positions.push(position);
        Ok(())
    })?;
    let mut books = Books::new();
    for account in accounts {
        books.restore_account(account);
    }
    for_each(connection, "SELECT instrument, price, time FROM price", [], |row| {
        let row = Reading::new(row, "price", 1);
        let mark = Mark { price: row.price(1)?, time: row.market(2)? };
        books.restore_mark(row.instrument(0)?, mark);
        Ok(())
    })?;
    books.restore_head(head(connection)?, named_accounts(connection)?);
    for record in open_orders(connection)? {
        let waiting = match record.state {
            OrderState::Queued(waiting) => waiting,
            _ => {
                let what = format!("table order_, row {}: it is open and decided", record.order.id);
                return Err(StoreError::Corrupt(what));
            }
        };
        books.accept(record.order, waiting).map_err(broken)?;
    }
    books.check().map_err(broken)?;
    Ok(books)
}

fn broken(error: papertrader_core::books::BrokenBooks) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

/// All open orders, in the order of their numbers, without a look at those that were decided.
fn open_orders(connection: &Connection) -> Result<Vec<OrderRecord>, StoreError> {
    let sql = format!("{SELECT_ORDER} WHERE o.id IN (SELECT id FROM waiting) ORDER BY o.id");
    let mut open = rows(connection, &sql, [], rows::order)?;
    let sql = format!(
        "{SELECT_ORDER} WHERE o.id > (SELECT settled_order FROM meta) AND c.id IS NULL
         AND w.id IS NULL ORDER BY o.id"
    );
    open.extend(rows(connection, &sql, [], rows::order)?);
    open.sort_unstable_by_key(|record| record.order.id);
    Ok(open)
}

/// The index of what is stored.
pub(super) fn index(connection: &Connection) -> Result<Index, StoreError> {
    let count = |sql: &str, table: &'static str| {
        let last = first(connection, sql, [], |row| Reading::new(row, table, 1).number::<u32>(0))?;
        Ok::<u32, StoreError>(last.unwrap_or(0))
    };
    let accounts = count("SELECT coalesce(max(id), 0) FROM account", "account")?;
    let instruments = count("SELECT coalesce(max(id), 0) FROM instrument", "instrument")?;
    let mut index = Index::new(accounts, instruments, next_order(connection)?.0 - 1);
    let waiting: std::collections::HashSet<OrderId> =
        rows(connection, "SELECT id FROM waiting", [], |row| {
            Reading::new(row, "waiting", 1).number(0).map(OrderId)
        })?
        .into_iter()
        .collect();
    for record in open_orders(connection)? {
        let order = &record.order;
        let open = Open {
            waits: waiting.contains(&order.id),
            asked: (order.request.quantity != order.asked).then_some(order.request.quantity),
            ..Open::new(order)
        };
        index.add_open(order.id, open);
    }
    for_each(connection, "SELECT account, hash FROM order_key", [], |row| {
        let row = Reading::new(row, "order_key", 4);
        let hash = row.integer(1)?.cast_unsigned();
        index.add_known(OrderKey { account: row.account(0)?, hash });
        Ok(())
    })?;
    for_each(connection, "SELECT account, client_order_id FROM cancel_mark", [], |row| {
        let row = Reading::new(row, "cancel_mark", 2);
        index.add_known(OrderKey::new(row.account(0)?, &row.parsed(1)?));
        Ok(())
    })?;
    Ok(index)
}

fn head(connection: &Connection) -> Result<Head, StoreError> {
    let sql = "SELECT number, market, day, last_action, ended FROM snapshot
               ORDER BY number DESC LIMIT 1";
    let head = first(connection, sql, [], |row| {
        let row = Reading::new(row, "snapshot", 1);
        Ok(Head {
            snapshot: row.number(0)?,
            market: row.market(1)?,
            day: row.number(2)?,
            last_action: row.integer(3)?.cast_unsigned(),
            ended: row.flag(4)?,
        })
    })?;
    Ok(head.unwrap_or_default())
}

/// The named accounts as they are stored.
pub(super) fn named_accounts(connection: &Connection) -> Result<NamedAccounts, StoreError> {
    let mut named = NamedAccounts::default();
    let mut cash_rows = 0;
    for_each(connection, "SELECT name, instrument, amount FROM named_account", [], |row| {
        let row = Reading::new(row, "named_account", 2);
        let instrument = row.instrument(1)?;
        let amount: i128 = row.parsed(2)?;
        match (row.text(0)?, instrument.0) {
            ("market", 0) => named.market = amount,
            ("grants", 0) => named.grants = amount,
            ("fractions", 0) => named.fractions = amount,
            ("market", _) => {
                named.market_units.insert(instrument, amount);
                return Ok(());
            }
            _ => return Err(row.corrupt("there is no such named account")),
        }
        cash_rows += 1;
        Ok(())
    })?;
    if cash_rows != 3 {
        return Err(StoreError::Corrupt("table named_account: a row is missing".to_owned()));
    }
    Ok(named)
}

fn sessions(connection: &Connection) -> Result<Vec<StoredSession>, StoreError> {
    let sql = "SELECT key, account, expires, expirable, client, started, used FROM session
               ORDER BY key";
    rows(connection, sql, [], |row| {
        let row = Reading::new(row, "session", 1);
        Ok(StoredSession {
            key: SessionKey(row.bytes(0)?),
            account: row.account(1)?,
            expires: row.wall(2)?,
            expirable: row.flag(3)?,
            client: row.parsed(4)?,
            started: row.wall(5)?,
            used: row.wall(6)?,
        })
    })
}

fn workers(connection: &Connection) -> Result<Vec<WorkerRow>, StoreError> {
    let sql = "SELECT id, name, allowed, key, booted, booted_until, compromised FROM worker
               ORDER BY id";
    rows(connection, sql, [], |row| {
        let row = Reading::new(row, "worker", 1);
        let boot = Boot { until: row.optional(5)?.map(WallTime), compromised: row.flag(6)? };
        let booted = row.flag(4)?;
        if !booted && boot != Boot::default() {
            return Err(row.corrupt("it is not booted, but how is stored"));
        }
        Ok(WorkerRow {
            id: WorkerId(row.bytes(0)?),
            name: row.text(1)?.to_owned(),
            allowed: row.text(2)?.to_owned(),
            key: row.optional_bytes(3)?.map(<[u8]>::to_vec),
            booted: booted.then_some(boot),
        })
    })
}

fn exposures(connection: &Connection) -> Result<Vec<(AccountId, WorkerId)>, StoreError> {
    let sql = "SELECT account, worker FROM exposure ORDER BY account, worker";
    rows(connection, sql, [], |row| {
        let row = Reading::new(row, "exposure", 2);
        Ok((row.account(0)?, WorkerId(row.bytes(1)?)))
    })
}

fn stolen_keys(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT fingerprint FROM stolen_key ORDER BY fingerprint";
    rows(connection, sql, [], |row| Ok(Reading::new(row, "stolen_key", 1).text(0)?.to_owned()))
}

/// What is known under one client order ID. `recent` are the open orders with its key, and whether
/// there may be others or a mark.
pub(super) fn find(
    connection: &Connection,
    account: AccountId,
    client_order_id: &ClientOrderId,
    recent: (impl IntoIterator<Item = OrderId>, bool),
) -> Result<Option<Found>, StoreError> {
    match find_recent(connection, recent.0, client_order_id)? {
        None if recent.1 => {
            find_known(connection, OrderKey::new(account, client_order_id), client_order_id)
        }
        found => Ok(found),
    }
}

/// The one of some orders that has this client order ID. Those that are not stored are passed over.
pub(super) fn find_recent(
    connection: &Connection,
    orders: impl IntoIterator<Item = OrderId>,
    client_order_id: &ClientOrderId,
) -> Result<Option<Found>, StoreError> {
    for order in orders {
        let found = by_id(connection, order)?;
        if let Some(record) = found.filter(|r| r.order.request.client_order_id == *client_order_id)
        {
            return Ok(Some(Found::Order(record)));
        }
    }
    Ok(None)
}

/// What the database knows under a key, but for open orders: those with the newest keys first.
pub(super) fn find_known(
    connection: &Connection,
    key: OrderKey,
    client_order_id: &ClientOrderId,
) -> Result<Option<Found>, StoreError> {
    let sql = "SELECT id FROM order_key WHERE generation = ?1 AND account = ?2 AND hash = ?3";
    for generation in generations(connection)? {
        let values = params![generation, key.account.0, key.hash.cast_signed()];
        let orders = rows(connection, sql, values, order_id)?;
        let found = find_recent(connection, orders, client_order_id)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    let sql = "SELECT 1 FROM cancel_mark WHERE account = ?1 AND client_order_id = ?2";
    let values = params![key.account.0, client_order_id.as_str()];
    first(connection, sql, values, |_| Ok(Found::Mark))
}

/// All generations of keys, the newest first.
fn generations(connection: &Connection) -> Result<impl Iterator<Item = i64>, StoreError> {
    let newest = generation(OrderId(next_order(connection)?.0 - 1));
    let newest = i64::try_from(newest).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    Ok((0..=newest).rev())
}

fn order_id(row: &Row<'_>) -> Result<OrderId, StoreError> {
    Reading::new(row, "order_key", 4).number(0).map(OrderId)
}

fn by_id(connection: &Connection, order: OrderId) -> Result<Option<OrderRecord>, StoreError> {
    let sql = format!("{SELECT_ORDER} WHERE o.id = ?1");
    first(connection, &sql, [order.0.cast_signed()], rows::order)
}

/// The newest decided orders of an account, at most `limit`, newest first.
fn decided(
    connection: &Connection,
    account: AccountId,
    limit: usize,
) -> Result<Vec<OrderRecord>, StoreError> {
    let sql = "SELECT id FROM order_key WHERE generation = ?1 AND account = ?2";
    let mut orders = Vec::new();
    for generation in generations(connection)? {
        if orders.len() >= limit {
            break;
        }
        let mut ids = rows(connection, sql, params![generation, account.0], order_id)?;
        ids.sort_unstable_by(|a, b| b.cmp(a));
        for id in ids.into_iter().take(limit - orders.len()) {
            let missing = || {
                StoreError::Corrupt(format!("table order_key, order {id}: there is no such order"))
            };
            orders.push(by_id(connection, id)?.ok_or_else(missing)?);
        }
    }
    Ok(orders)
}

/// The second view: a connection of its own that cannot write.
///
/// It looks into the index before its transaction begins: what was open then and is decided
/// meanwhile is seen as decided.
pub(super) struct Reader {
    connection: Connection,
    index: SharedIndex,
}

impl Reader {
    /// Reads through a connection.
    pub(super) fn new(connection: Connection, index: SharedIndex) -> Reader {
        Reader { connection, index }
    }

    fn begin(&mut self) -> Result<Transaction<'_>, StoreError> {
        self.connection.transaction().map_err(of_read)
    }
}

impl StoreReader for Reader {
    fn bars(
        &mut self,
        instrument: InstrumentId,
        resolution: Resolution,
        from: MarketTime,
        to: MarketTime,
        limit: usize,
    ) -> Result<Vec<Bar>, StoreError> {
        let sql = format!(
            "SELECT {BAR_COLUMNS} FROM bar
             WHERE instrument = ?1 AND resolution = ?2 AND start >= ?3 AND start < ?4
             ORDER BY start LIMIT ?5"
        );
        let values = params![instrument.0, resolution as u8, from.0, to.0, sql_limit(limit)];
        rows(&self.connection, &sql, values, rows::bar)
    }

    fn last_bar(
        &mut self,
        instrument: InstrumentId,
        resolution: Resolution,
        before: MarketTime,
    ) -> Result<Option<Bar>, StoreError> {
        let sql = format!(
            "SELECT {BAR_COLUMNS} FROM bar
             WHERE instrument = ?1 AND resolution = ?2 AND start < ?3
             ORDER BY start DESC LIMIT 1"
        );
        let values = params![instrument.0, resolution as u8, before.0];
        Ok(rows(&self.connection, &sql, values, rows::bar)?.pop())
    }

    fn history(&mut self, account: AccountId, limit: usize) -> Result<Vec<HistoryRow>, StoreError> {
        let transaction = self.begin()?;
        let orders = decided(&transaction, account, limit)?;
        let sql = format!(
            "SELECT {JOURNAL_COLUMNS} FROM journal WHERE account = ?1 ORDER BY id DESC LIMIT ?2"
        );
        let entries = rows(&transaction, &sql, params_of(account, limit), rows::journal)?;
        let mut orders = orders.into_iter().peekable();
        let mut entries = entries.into_iter().peekable();
        let mut history = Vec::new();
        while history.len() < limit {
            // An order stands where it was received.
            let order_is_newer = match (orders.peek(), entries.peek()) {
                (Some(record), Some(row)) => record.order.received.wall >= row.moment.wall,
                (Some(_), None) => true,
                (None, _) => false,
            };
            let line = if order_is_newer {
                orders.next().map(HistoryRow::Order)
            } else {
                entries.next().map(|row| HistoryRow::Journal(row.entry, row.moment))
            };
            let Some(line) = line else { break };
            history.push(line);
        }
        Ok(history)
    }

    fn orders(&mut self, account: AccountId, limit: usize) -> Result<Vec<OrderRecord>, StoreError> {
        let open = read_index(&self.index).open_of(account).to_vec();
        let transaction = self.begin()?;
        let mut orders = Vec::new();
        for id in open.into_iter().rev() {
            let record = by_id(&transaction, id)?;
            if let Some(open) = record.filter(|record| record.decided.is_none()) {
                orders.push(open);
            }
            if orders.len() >= limit {
                break;
            }
        }
        orders.truncate(limit);
        let left = limit - orders.len();
        orders.extend(decided(&transaction, account, left)?);
        orders.sort_unstable_by_key(|record| std::cmp::Reverse(record.order.id));
        Ok(orders)
    }

    fn order(
        &mut self,
        account: AccountId,
        client_order_id: &ClientOrderId,
    ) -> Result<Option<Found>, StoreError> {
        let key = OrderKey::new(account, client_order_id);
        let open: Vec<OrderId> = read_index(&self.index).open_with(key).collect();
        let transaction = self.begin()?;
        find(&transaction, account, client_order_id, (open, true))
    }
}

fn params_of(account: AccountId, limit: usize) -> (u32, i64) {
    (account.0, sql_limit(limit))
}

/// A limit as SQL has it. What does not fit is no limit at all.
fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
