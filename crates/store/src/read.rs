//! Reading: everything at start, what is known under client order IDs, bars and histories. The same
//! for every database: each gives [`Ask`] for one connection, and [`Consistent`] for a reader.
//!
//! Each function expects to run inside one read transaction when it asks more than one question,
//! so that its answers fit together. Nothing here writes, and no question is asked while another
//! one's rows are still read.

mod bars;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use papertrader_core::account::Account;
use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::books::{Books, Head};
use papertrader_core::ids::{AccountId, BatchNumber, InstrumentId, OrderId, WorkerId};
use papertrader_core::ledger::NamedAccounts;
use papertrader_core::money::Cash;
use papertrader_core::names::ClientOrderId;
use papertrader_core::order::{OrderRecord, OrderState};
use papertrader_core::snapshot::Mark;
use papertrader_core::time::{MarketTime, WallTime};

use bars::Wanted;
pub(crate) use bars::{chunks, tails, tape};

use crate::behind::{self, Behind, Horizon};
use crate::index::{Index, Open, OrderKey, generation};
use crate::past;
use crate::rows::{self, Cells, JOURNAL_COLUMNS, Reading, SELECT_ORDER, Value};
use crate::{
    Boot, Found, HistoryRow, InstrumentRow, Loaded, PassHash, Profile, SessionKey, Since,
    StoreError, StoreReader, StoredSession, WorkerRow,
};

/// Generations of keys that are asked for at once, at most.
const GENERATIONS: u64 = 64;
/// Accounts for which memory is reserved before they are read, at most.
const MOST_RESERVED: usize = 10_000_000;

/// What is done with each row of an answer.
pub(crate) type Each<'e> = dyn FnMut(&dyn Cells) -> Result<(), StoreError> + 'e;

/// A connection that answers questions.
pub(crate) trait Ask {
    /// Hands each row of a query to a function, which must not ask anything. Parameters are written
    /// `?1`, `?2`, …
    fn for_each(
        &self,
        sql: &str,
        values: &[Value<'_>],
        each: &mut Each<'_>,
    ) -> Result<(), StoreError>;

    /// The orders with an account's keys in some generations: those with a hash or all, the newest
    /// first, at most `limit`.
    fn keys(
        &self,
        generations: Range<u64>,
        account: AccountId,
        hash: Option<u64>,
        limit: usize,
    ) -> Result<Vec<OrderId>, StoreError>;

    /// Those of some orders that are stored, in the same order.
    fn orders(&self, ids: &[OrderId]) -> Result<Vec<OrderRecord>, StoreError>;

    /// What is wrong with the database's own structure: indexes, constraints, references.
    fn structure(&self) -> Result<Vec<String>, StoreError>;
}

/// Connections of a reader of its own.
pub(crate) trait Consistent: Send {
    /// Asks in one read transaction. May ask all of it a second time, on a new connection, if the
    /// old one turns out to be lost.
    fn consistent<T>(
        &mut self,
        ask: impl FnMut(&dyn Ask) -> Result<T, StoreError>,
    ) -> Result<T, StoreError>;
}

/// The index, for the writer and the readers.
pub(crate) type SharedIndex = Arc<RwLock<Index>>;

/// Looks into the index.
pub(crate) fn read_index(index: &SharedIndex) -> RwLockReadGuard<'_, Index> {
    index.read().unwrap_or_else(PoisonError::into_inner)
}

/// The rows of a query, each converted.
pub(crate) fn rows<T>(
    ask: &dyn Ask,
    sql: &str,
    values: &[Value<'_>],
    mut convert: impl FnMut(&dyn Cells) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut all = Vec::new();
    ask.for_each(sql, values, &mut |row| {
        all.push(convert(row)?);
        Ok(())
    })?;
    Ok(all)
}

/// The first row of a query, converted.
fn first<T>(
    ask: &dyn Ask,
    sql: &str,
    values: &[Value<'_>],
    convert: impl FnMut(&dyn Cells) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    Ok(rows(ask, sql, values, convert)?.into_iter().next())
}

/// Everything that the master keeps in memory, and what of it is not in its table yet.
pub(crate) fn load(ask: &dyn Ask) -> Result<(Loaded, Behind), StoreError> {
    let meta = meta(ask)?;
    let instruments = instruments(ask)?;
    let Owners { profiles, mut accounts, written } = owners(ask)?;
    let head = head(ask)?;
    let generation = generation(meta.settled_order);
    let now = Horizon { snapshot: head.snapshot, generation };
    let behind = behind::bring_forward(ask, &mut accounts, &written, meta.horizon, now)?;
    let books = books(ask, accounts, head)?;
    let known =
        |instrument: InstrumentId| (1..=instruments.len()).contains(&(instrument.0 as usize));
    if let Some(unknown) = books.named().market_units.keys().find(|id| !known(**id)) {
        return Err(StoreError::Corrupt(format!(
            "table named_account, row market, {unknown}: there is no such instrument"
        )));
    }
    let loaded = Loaded {
        deployment: meta.deployment,
        last_batch: meta.last_batch,
        last_wall: meta.last_wall,
        next_order: next_order(ask)?,
        books,
        profiles,
        sessions: sessions(ask)?,
        instruments,
        workers: workers(ask)?,
        exposures: exposures(ask)?,
        stolen_keys: stolen_keys(ask)?,
    };
    Ok((loaded, behind))
}

/// The row of `meta`.
pub(crate) struct Meta {
    pub(crate) deployment: String,
    pub(crate) last_batch: BatchNumber,
    pub(crate) last_wall: WallTime,
    pub(crate) settled_order: OrderId,
    pub(crate) horizon: Horizon,
}

/// Reads the row of `meta`.
pub(crate) fn meta(ask: &dyn Ask) -> Result<Meta, StoreError> {
    let sql = "SELECT one, deployment, last_batch, last_wall, settled_order, folded_snapshot,
                      folded_generation
               FROM meta";
    first(ask, sql, &[], |row| {
        let row = Reading::new(row, "meta", 1);
        if row.integer(0)? != 1 {
            return Err(row.corrupt("one is not 1"));
        }
        Ok(Meta {
            deployment: row.text(1)?.to_owned(),
            last_batch: BatchNumber(row.number(2)?),
            last_wall: row.wall(3)?,
            settled_order: OrderId(row.number(4)?),
            horizon: Horizon { snapshot: row.number(5)?, generation: row.number(6)? },
        })
    })?
    .ok_or_else(|| StoreError::Corrupt("table meta: its row is missing".to_owned()))
}

fn next_order(ask: &dyn Ask) -> Result<OrderId, StoreError> {
    let last = first(ask, "SELECT coalesce(max(id), 0) FROM order_", &[], |row| {
        Reading::new(row, "order_", 1).number::<u64>(0)
    })?;
    Ok(OrderId(last.unwrap_or(0) + 1))
}

/// All instruments; their IDs have no gaps.
pub(crate) fn instruments(ask: &dyn Ask) -> Result<Vec<InstrumentRow>, StoreError> {
    let mut expected = 0;
    rows(ask, "SELECT id, symbol, name, kind FROM instrument ORDER BY id", &[], |row| {
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

/// All accounts, by their IDs, which have no gaps.
struct Owners {
    profiles: Vec<Profile>,
    accounts: Vec<Account>,
    /// The settlements that wrote their balances.
    written: Vec<u64>,
}

fn owners(ask: &dyn Ask) -> Result<Owners, StoreError> {
    let count = highest(ask, "SELECT coalesce(max(id), 0) FROM account", "account")? as usize;
    // A number too high is found below; until then it reserves nothing that is not needed.
    let room = count.min(MOST_RESERVED);
    let (mut profiles, mut accounts) = (Vec::with_capacity(room), Vec::with_capacity(room));
    let sql = "SELECT id, name, name_key, email, pass_hash, since, disabled, password_due
               FROM account ORDER BY id";
    ask.for_each(sql, &[], &mut |row| {
        let row = Reading::new(row, "account", 1);
        let expected = profiles.len() + 1;
        if row.account(0)?.0 as usize != expected {
            return Err(row.corrupt(format_args!("account {expected} is missing before it")));
        }
        let profile = Profile {
            name: row.parsed(1)?,
            email: row.parsed(3)?,
            pass_hash: row.optional_text(4)?.map(|hash| PassHash(hash.to_owned())),
            password_due: row.flag(7)?,
            since: row.wall(5)?,
        };
        if !profile.name.has_key(row.text(2)?) {
            return Err(row.corrupt("name_key is not the name in lower case"));
        }
        accounts.push(Account { disabled: row.flag(6)?, ..Account::default() });
        profiles.push(profile);
        Ok(())
    })?;
    // Side by side, for to look for a million rows one by one takes longer than to read them.
    let mut written = Vec::with_capacity(accounts.len());
    let sql = "SELECT account, cash, granted, snapshot, positions FROM balance ORDER BY account";
    ask.for_each(sql, &[], &mut |row| {
        let row = Reading::new(row, "balance", 1);
        let (account, expected) = (row.account(0)?.0 as usize, written.len() + 1);
        if account > accounts.len() {
            return Err(row.corrupt("there is no such account"));
        }
        let Some(account) = accounts.get_mut(written.len()).filter(|_| account == expected) else {
            return Err(
                row.corrupt(format_args!("that of account {expected} is missing before it"))
            );
        };
        account.cash = row.cash(1)?;
        account.granted = Cash::from_cents(row.integer(2)?);
        account.positions = row.positions(4)?;
        written.push(row.number(3)?);
        Ok(())
    })?;
    if written.len() < accounts.len() {
        let what = format!("table balance: that of account {} is missing", written.len() + 1);
        return Err(StoreError::Corrupt(what));
    }
    Ok(Owners { profiles, accounts, written })
}

/// What a query for the highest number of a table says.
fn highest(ask: &dyn Ask, sql: &str, table: &'static str) -> Result<u32, StoreError> {
    let last = first(ask, sql, &[], |row| Reading::new(row, table, 1).number::<u32>(0))?;
    Ok(last.unwrap_or(0))
}

fn books(ask: &dyn Ask, accounts: Vec<Account>, head: Head) -> Result<Books, StoreError> {
    let mut books = Books::new();
    for account in accounts {
        books.restore_account(account);
    }
    ask.for_each("SELECT instrument, price, time FROM price", &[], &mut |row| {
        let row = Reading::new(row, "price", 1);
        let mark = Mark { price: row.price(1)?, time: row.market(2)? };
        books.restore_mark(row.instrument(0)?, mark);
        Ok(())
    })?;
    books.restore_head(head, named_accounts(ask)?);
    for record in open_orders(ask)? {
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
fn open_orders(ask: &dyn Ask) -> Result<Vec<OrderRecord>, StoreError> {
    let sql = format!("{SELECT_ORDER} WHERE o.id IN (SELECT id FROM waiting) ORDER BY o.id");
    let mut open = rows(ask, &sql, &[], rows::order)?;
    let sql = format!(
        "{SELECT_ORDER} WHERE o.id > (SELECT settled_order FROM meta) AND c.id IS NULL
         AND w.id IS NULL ORDER BY o.id"
    );
    open.extend(rows(ask, &sql, &[], rows::order)?);
    open.sort_unstable_by_key(|record| record.order.id);
    Ok(open)
}

/// The index of what is stored. Of many orders it does not know the past yet.
pub(crate) fn index(ask: &dyn Ask) -> Result<Index, StoreError> {
    let accounts = highest(ask, "SELECT coalesce(max(id), 0) FROM account", "account")?;
    let instruments = highest(ask, "SELECT coalesce(max(id), 0) FROM instrument", "instrument")?;
    let mut index = Index::new(accounts, instruments, next_order(ask)?.0 - 1);
    let waiting: HashSet<OrderId> = rows(ask, "SELECT id FROM waiting", &[], |row| {
        Reading::new(row, "waiting", 1).number(0).map(OrderId)
    })?
    .into_iter()
    .collect();
    for record in open_orders(ask)? {
        let order = &record.order;
        let open = Open {
            waits: waiting.contains(&order.id),
            asked: (order.request.quantity != order.asked).then_some(order.request.quantity),
            ..Open::new(order)
        };
        index.add_open(order.id, open);
    }
    index.tails = bars::tails(ask, instruments)?;
    past::fill_if_few(&index, ask)?;
    Ok(index)
}

/// The hashes of the keys of all decided orders of a generation.
pub(crate) fn decided_keys(ask: &dyn Ask, generation: u64) -> Result<Vec<u64>, StoreError> {
    let values = [generation.cast_signed().into()];
    rows(ask, "SELECT hash FROM outcome WHERE generation = ?1", &values, |row| {
        Ok(Reading::new(row, "outcome", 0).integer(0)?.cast_unsigned())
    })
}

/// Whose client order ID was cancelled before an order with it came.
pub(crate) type MarkKey = (AccountId, ClientOrderId);

/// The hashes of the keys of the marks after one, or of the first ones, at most `limit`, and the last
/// of these marks.
pub(crate) fn marks(
    ask: &dyn Ask,
    after: Option<&MarkKey>,
    limit: usize,
) -> Result<(Vec<u64>, Option<MarkKey>), StoreError> {
    let sql = "SELECT account, client_order_id FROM cancel_mark
               WHERE (account, client_order_id) > (?1, ?2)
               ORDER BY account, client_order_id LIMIT ?3";
    // No account has the number 0.
    let (account, id) = after.map_or((0, ""), |(account, id)| (account.0, id.as_str()));
    let values = [account.into(), Value::Text(id), sql_limit(limit).into()];
    let (mut hashes, mut last) = (Vec::new(), None);
    ask.for_each(sql, &values, &mut |row| {
        let row = Reading::new(row, "cancel_mark", 2);
        let mark = (row.account(0)?, row.parsed(1)?);
        hashes.push(OrderKey::new(mark.0, &mark.1).hash);
        last = Some(mark);
        Ok(())
    })?;
    Ok((hashes, last))
}

fn head(ask: &dyn Ask) -> Result<Head, StoreError> {
    let sql = "SELECT number, market, day, last_action, ended FROM snapshot
               ORDER BY number DESC LIMIT 1";
    let head = first(ask, sql, &[], |row| {
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
pub(crate) fn named_accounts(ask: &dyn Ask) -> Result<NamedAccounts, StoreError> {
    let mut named = NamedAccounts::default();
    let mut cash_rows = 0;
    ask.for_each("SELECT name, instrument, amount FROM named_account", &[], &mut |row| {
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

fn sessions(ask: &dyn Ask) -> Result<Vec<StoredSession>, StoreError> {
    let sql = "SELECT key, account, expires, expirable, client, started, used FROM session
               ORDER BY key";
    rows(ask, sql, &[], |row| {
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

fn workers(ask: &dyn Ask) -> Result<Vec<WorkerRow>, StoreError> {
    let sql = "SELECT id, name, allowed, key, booted, booted_until, compromised FROM worker
               ORDER BY id";
    rows(ask, sql, &[], |row| {
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

fn exposures(ask: &dyn Ask) -> Result<Vec<(AccountId, WorkerId)>, StoreError> {
    let sql = "SELECT account, worker FROM exposure ORDER BY account, worker";
    rows(ask, sql, &[], |row| {
        let row = Reading::new(row, "exposure", 2);
        Ok((row.account(0)?, WorkerId(row.bytes(1)?)))
    })
}

fn stolen_keys(ask: &dyn Ask) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT fingerprint FROM stolen_key";
    let convert = |row: &dyn Cells| Ok(Reading::new(row, "stolen_key", 1).text(0)?.to_owned());
    let mut keys: Vec<String> = rows(ask, sql, &[], convert)?;
    // A database may have an alphabet of its own.
    keys.sort_unstable();
    Ok(keys)
}

/// What is known under client order IDs, in the same order.
pub(crate) fn find(
    ask: &dyn Ask,
    index: &Index,
    keys: &[(AccountId, ClientOrderId)],
) -> Result<Vec<Option<Found>>, StoreError> {
    let order_keys: Vec<OrderKey> =
        keys.iter().map(|(account, id)| OrderKey::new(*account, id)).collect();
    let open: Vec<OrderId> = order_keys.iter().flat_map(|key| index.open_with(*key)).collect();
    let mut found = HashMap::new();
    for record in ask.orders(&open)? {
        let request = &record.order.request;
        found.insert((request.account, request.client_order_id.clone()), record);
    }
    let find = |(key, named): (&OrderKey, &(AccountId, ClientOrderId))| match found.get(named) {
        Some(record) => Ok(Some(Found::Order(record.clone()))),
        None if index.may_know(*key) => find_known(ask, *key, &named.1),
        None => Ok(None),
    };
    order_keys.iter().zip(keys).map(find).collect()
}

/// The one of some orders that has this client order ID. Those that are not stored are passed over.
pub(crate) fn find_recent(
    ask: &dyn Ask,
    orders: &[OrderId],
    client_order_id: &ClientOrderId,
) -> Result<Option<Found>, StoreError> {
    let mut found = ask.orders(orders)?.into_iter();
    let found = found.find(|record| record.order.request.client_order_id == *client_order_id);
    Ok(found.map(Found::Order))
}

/// What the database knows under a key, but for open orders: those with the newest keys first.
pub(crate) fn find_known(
    ask: &dyn Ask,
    key: OrderKey,
    client_order_id: &ClientOrderId,
) -> Result<Option<Found>, StoreError> {
    let orders = ask.keys(0..generations(ask)?, key.account, Some(key.hash), usize::MAX)?;
    match find_recent(ask, &orders, client_order_id)? {
        None if is_marked(ask, key.account, client_order_id)? => Ok(Some(Found::Mark)),
        found => Ok(found),
    }
}

/// Whether a client order ID was cancelled before an order with it came.
pub(crate) fn is_marked(
    ask: &dyn Ask,
    account: AccountId,
    client_order_id: &ClientOrderId,
) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM cancel_mark WHERE account = ?1 AND client_order_id = ?2";
    let values = [account.0.into(), Value::Text(client_order_id.as_str())];
    Ok(first(ask, sql, &values, |_| Ok(()))?.is_some())
}

/// How many generations of keys there may be.
pub(crate) fn generations(ask: &dyn Ask) -> Result<u64, StoreError> {
    Ok(generation(OrderId(next_order(ask)?.0 - 1)) + 1)
}

/// The newest decided orders of an account, at most `limit`, newest first.
fn decided(
    ask: &dyn Ask,
    account: AccountId,
    limit: usize,
) -> Result<Vec<OrderRecord>, StoreError> {
    let (mut end, mut asked) = (generations(ask)?, 1);
    let mut ids = Vec::new();
    // Most are found in the newest generations: of older ones more are asked for at once.
    while ids.len() < limit && end > 0 {
        let start = end.saturating_sub(asked);
        ids.extend(ask.keys(start..end, account, None, limit - ids.len())?);
        (end, asked) = (start, GENERATIONS.min(asked * 2));
    }
    let orders = ask.orders(&ids)?;
    let mut stored = orders.iter().map(|record| record.order.id);
    match ids.iter().find(|id| stored.next() != Some(**id)) {
        None => Ok(orders),
        Some(id) => {
            let what = format!("table outcome, order {id}: there is no such order");
            Err(StoreError::Corrupt(what))
        }
    }
}

/// The orders that somebody knows as open and that were decided since, at most `limit`.
fn decided_since(
    ask: &dyn Ask,
    account: AccountId,
    since: &Since,
    limit: usize,
) -> Result<Vec<OrderId>, StoreError> {
    let Since { placed, decided, open } = since;
    let mut ids = Vec::new();
    if open > placed {
        return Ok(ids);
    }
    // Their walls ascend with their numbers, and are in an index.
    let sql = "SELECT number FROM snapshot WHERE wall <= ?1 ORDER BY wall DESC LIMIT 1";
    let settled =
        first(ask, sql, &[decided.0.into()], |row| Reading::new(row, "snapshot", 0).integer(0))?;
    let sql =
        "SELECT id FROM outcome WHERE generation = ?1 AND account = ?2 AND id BETWEEN ?3 AND ?4
               AND (wall > ?5 OR snapshot > ?6) LIMIT ?7";
    let last = generation(*placed).min(generations(ask)?);
    for generation in generation(*open)..=last {
        let values = [
            generation.cast_signed().into(),
            account.0.into(),
            open.0.cast_signed().into(),
            placed.0.cast_signed().into(),
            decided.0.into(),
            settled.unwrap_or(0).into(),
            sql_limit(limit - ids.len()).into(),
        ];
        ids.extend(rows(ask, sql, &values, |row| {
            Reading::new(row, "outcome", 1).number(0).map(OrderId)
        })?);
    }
    Ok(ids)
}

/// The second view: connections of its own that cannot write.
///
/// It looks into the index before its transaction begins: what was open then and is decided
/// meanwhile is seen as decided.
pub(crate) struct Reader<C> {
    connection: C,
    index: SharedIndex,
}

impl<C: Consistent> Reader<C> {
    /// Reads through connections.
    pub(crate) fn new(connection: C, index: SharedIndex) -> Reader<C> {
        Reader { connection, index }
    }

    /// The bars that are in no row of their own series. What is committed after this is read is in the
    /// database.
    fn tail(&self, instrument: InstrumentId, resolution: Resolution) -> Vec<Bar> {
        read_index(&self.index).tails.of((instrument, resolution)).to_vec()
    }
}

impl<C: Consistent> StoreReader for Reader<C> {
    fn bars(
        &mut self,
        instrument: InstrumentId,
        resolution: Resolution,
        from: MarketTime,
        to: MarketTime,
        limit: usize,
    ) -> Result<Vec<Bar>, StoreError> {
        let tail = self.tail(instrument, resolution);
        let wanted = Wanted { instrument, resolution, from, to, limit };
        self.connection.consistent(|ask| bars::read(ask, &wanted, &tail))
    }

    fn last_bar(
        &mut self,
        instrument: InstrumentId,
        resolution: Resolution,
        before: MarketTime,
    ) -> Result<Option<Bar>, StoreError> {
        let tail = self.tail(instrument, resolution);
        self.connection.consistent(|ask| bars::last(ask, instrument, resolution, before, &tail))
    }

    fn history(&mut self, account: AccountId, limit: usize) -> Result<Vec<HistoryRow>, StoreError> {
        let sql = format!(
            "SELECT {JOURNAL_COLUMNS} FROM journal WHERE account = ?1 ORDER BY id DESC LIMIT ?2"
        );
        let values = [account.0.into(), sql_limit(limit).into()];
        let (orders, entries) = self.connection.consistent(|ask| {
            let orders = decided(ask, account, limit)?;
            Ok((orders, rows(ask, &sql, &values, rows::journal)?))
        })?;
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
        let mut open = read_index(&self.index).open_of(account).to_vec();
        open.reverse();
        let mut orders = self.connection.consistent(|ask| {
            let mut orders = ask.orders(&open)?;
            orders.retain(|record| record.decided.is_none());
            orders.truncate(limit);
            orders.extend(decided(ask, account, limit - orders.len())?);
            Ok(orders)
        })?;
        orders.sort_unstable_by_key(|record| std::cmp::Reverse(record.order.id));
        Ok(orders)
    }

    fn orders_since(
        &mut self,
        account: AccountId,
        since: &Since,
        limit: usize,
    ) -> Result<Vec<OrderRecord>, StoreError> {
        let mut ids = read_index(&self.index).open_of(account).to_vec();
        ids.retain(|id| *id > since.placed);
        self.connection.consistent(|ask| {
            let newer = generation(since.placed)..generations(ask)?;
            let mut ids = ids.clone();
            ids.extend(ask.keys(newer, account, None, limit)?);
            ids.retain(|id| *id > since.placed);
            // What was open is decided meanwhile, and then named twice: once it counts.
            ids.sort_unstable();
            ids.dedup();
            ids.truncate(limit);
            ids.extend(decided_since(ask, account, since, limit - ids.len())?);
            ids.sort_unstable();
            ids.dedup();
            ask.orders(&ids)
        })
    }

    fn order(
        &mut self,
        account: AccountId,
        client_order_id: &ClientOrderId,
    ) -> Result<Option<Found>, StoreError> {
        let key = OrderKey::new(account, client_order_id);
        let open: Vec<OrderId> = read_index(&self.index).open_with(key).collect();
        self.connection.consistent(|ask| match find_recent(ask, &open, client_order_id)? {
            None => find_known(ask, key, client_order_id),
            found => Ok(found),
        })
    }
}

/// A limit as SQL has it. What does not fit is no limit at all.
pub(crate) fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use papertrader_core::ids::SnapshotNumber;
    use papertrader_core::money::{Cash, Quantity};
    use papertrader_core::order::{Order, OrderRefusal, OrderRequest, Side};
    use papertrader_core::time::Moment;

    use super::*;
    use crate::index::Open;

    /// A database in which an account's orders 1..=so many are all decided.
    struct Decided(u64);

    struct Row(i64);

    impl Cells for Row {
        fn cell(&self, _: usize) -> Result<Value<'_>, StoreError> {
            Ok(Value::Integer(self.0))
        }
        fn column_name(&self, _: usize) -> &str {
            "max"
        }
    }

    fn record(id: u64) -> OrderRecord {
        let quantity = Quantity::from_raw(1);
        let request = OrderRequest {
            account: AccountId(1),
            client_order_id: format!("o{id}").parse().unwrap(),
            side: Side::Buy,
            instrument: InstrumentId(1),
            quantity,
        };
        let order = Order {
            id: OrderId(id),
            request,
            asked: quantity,
            hold: Cash::ZERO,
            received: Moment::default(),
            seen: SnapshotNumber(1),
            day: 1,
            worker: WorkerId([1; 16]),
            worker_time: WallTime(1),
            worker_sequence: id,
        };
        let state = OrderState::Rejected(OrderRefusal::InsufficientCash);
        OrderRecord { order, state, decided: Some(Moment::default()) }
    }

    impl Ask for Decided {
        fn for_each(
            &self,
            sql: &str,
            _: &[Value<'_>],
            each: &mut Each<'_>,
        ) -> Result<(), StoreError> {
            if sql.contains("max(id)") { each(&Row(self.0 as i64)) } else { Ok(()) }
        }
        fn keys(
            &self,
            _: Range<u64>,
            _: AccountId,
            _: Option<u64>,
            limit: usize,
        ) -> Result<Vec<OrderId>, StoreError> {
            Ok((1..=self.0).rev().map(OrderId).take(limit).collect())
        }
        fn orders(&self, ids: &[OrderId]) -> Result<Vec<OrderRecord>, StoreError> {
            Ok(ids.iter().map(|id| record(id.0)).collect())
        }
        fn structure(&self) -> Result<Vec<String>, StoreError> {
            Ok(Vec::new())
        }
    }

    impl Consistent for Decided {
        fn consistent<T>(
            &mut self,
            mut ask: impl FnMut(&dyn Ask) -> Result<T, StoreError>,
        ) -> Result<T, StoreError> {
            ask(self)
        }
    }

    /// The newest hundred were open when the index was looked at, and are decided in the transaction.
    #[test]
    fn more_than_the_limit_is_never_taken_for_all_there_is() {
        let mut index = Index::new(1, 1, 6_000);
        for id in 5_901..=6_000 {
            index.add_open(OrderId(id), Open::new(&record(id).order));
        }
        let mut reader = Reader::new(Decided(6_000), Arc::new(RwLock::new(index)));
        let since = Since { placed: OrderId(0), decided: WallTime(0), open: OrderId(1) };
        let limit = 5_001;
        let found = reader.orders_since(AccountId(1), &since, limit).unwrap();
        assert_eq!(found.len(), limit, "6,000 were missed: who asks takes fewer for all of them");
    }
}
