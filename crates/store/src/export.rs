//! All that an account ever did, oldest first, a page at a time: its orders with what became of them,
//! and the journal entries that moved its cash and shares otherwise.
//!
//! A page is of one moment; between two pages time goes on, so that no old state of the database has to
//! be kept for a slow reader. An order that is open in one page stays so in the export. What comes
//! meanwhile stands at the end.
//!
//! Invariant: each order and each entry stands in exactly one page.

use std::collections::HashMap;

use papertrader_core::ids::{AccountId, InstrumentId, OrderId};
use papertrader_core::ledger::JournalEntry;
use papertrader_core::names::{Symbol, UserName};
use papertrader_core::order::OrderRecord;
use papertrader_core::time::Moment;

use crate::StoreError;
use crate::index::{GENERATION_BITS, generation};
use crate::read::{self, Ask, rows};
use crate::rows::{self, JOURNAL_COLUMNS, Reading, SELECT_ORDER, Value};

/// Orders of one generation that are found one by one; of more all of the generation are looked at.
const FEW: usize = 4_096;

/// Up to where an account's export has come: the beginning by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// The last order that was given.
    pub order: u64,
    /// The number of the last journal entry that was given.
    pub entry: i64,
}

/// A part of an account's export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Oldest first: an order stands where it was received, an entry where it was booked.
    pub lines: Vec<Activity>,
    /// Where the next page begins.
    pub next: Cursor,
    /// Whether there is a next page.
    pub more: bool,
}

/// What an account did, or what was done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activity {
    /// An order, in its present state.
    Order(Box<OrderRecord>, Symbol),
    /// Cash or shares that moved otherwise; of a split, of what.
    Entry(JournalEntry, Moment, Option<Symbol>),
}

/// Whose a name is, without regard to case, and how its owner writes it.
pub(crate) fn account(
    ask: &dyn Ask,
    name: &UserName,
) -> Result<Option<(AccountId, UserName)>, StoreError> {
    let key = name.key();
    let sql = "SELECT id, name FROM account WHERE name_key = ?1";
    let found = rows(ask, sql, &[Value::Text(&key)], |row| {
        let row = Reading::new(row, "account", 1);
        Ok((row.account(0)?, row.parsed(1)?))
    })?;
    Ok(found.into_iter().next())
}

/// The lines after a cursor, at most `limit`. Expects to run inside one read transaction.
pub(crate) fn page(
    ask: &dyn Ask,
    account: AccountId,
    after: Cursor,
    limit: usize,
) -> Result<Page, StoreError> {
    // One more of each tells whether there is more.
    let wanted = limit.saturating_add(1);
    let mut orders = orders(ask, account, after.order, wanted)?.into_iter().peekable();
    let sql = format!(
        "SELECT {JOURNAL_COLUMNS} FROM journal WHERE account = ?1 AND id > ?2
         ORDER BY id LIMIT ?3"
    );
    let values = [account.0.into(), after.entry.into(), read::sql_limit(wanted).into()];
    let mut entries = rows(ask, &sql, &values, rows::journal)?.into_iter().peekable();
    let mut symbols = Symbols { ask, known: HashMap::new() };
    let (mut lines, mut next) = (Vec::new(), after);
    while lines.len() < limit {
        let order_is_older = match (orders.peek(), entries.peek()) {
            (Some(record), Some(row)) => record.order.received.wall < row.moment.wall,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if order_is_older && let Some(record) = orders.next() {
            next.order = record.order.id.0;
            let symbol = symbols.of(record.order.request.instrument)?;
            lines.push(Activity::Order(Box::new(record), symbol));
        } else if let Some(row) = entries.next() {
            next.entry = row.id;
            let symbol = match row.entry {
                JournalEntry::Split { instrument, .. } => Some(symbols.of(instrument)?),
                JournalEntry::Grant { .. } => None,
            };
            lines.push(Activity::Entry(row.entry, row.moment, symbol));
        } else {
            break;
        }
    }
    let more = orders.peek().is_some() || entries.peek().is_some();
    Ok(Page { lines, next, more })
}

/// An account's orders after one, in the order of their numbers, at most `limit`.
///
/// `order_` has no index by account. Decided ones are found by the account's outcomes, generation by
/// generation, and open ones are few.
fn orders(
    ask: &dyn Ask,
    account: AccountId,
    after: u64,
    limit: usize,
) -> Result<Vec<OrderRecord>, StoreError> {
    let open = open(ask, account, after)?;
    let mut found: Vec<OrderRecord> = Vec::new();
    let mut from = OrderId(after.saturating_add(1));
    let end = read::generations(ask)?;
    while generation(from) < end && found.len() < limit {
        let this = generation(from);
        let last = OrderId(from.0 | ((1 << GENERATION_BITS) - 1));
        let decided = ask.keys(this..this + 1, account, None, FEW + 1)?;
        let left = limit - found.len();
        if decided.len() <= FEW {
            let is_here = |id: &OrderId| (from..=last).contains(id);
            let mut ids: Vec<OrderId> = decided.into_iter().filter(is_here).collect();
            ids.extend(open.iter().copied().filter(is_here));
            ids.sort_unstable();
            ids.dedup();
            ids.truncate(left);
            found.extend(ask.orders(&ids)?);
        } else {
            let sql = format!(
                "{SELECT_ORDER} WHERE o.id >= ?1 AND o.id <= ?2 AND o.account = ?3
                 ORDER BY o.id LIMIT ?4"
            );
            let [first, last] = [from, last].map(|id| id.0.cast_signed().into());
            let values = [first, last, account.0.into(), read::sql_limit(left).into()];
            found.extend(rows(ask, &sql, &values, rows::order)?);
        }
        from = OrderId(last.0.saturating_add(1));
    }
    Ok(found)
}

/// The numbers of an account's open orders after one.
fn open(ask: &dyn Ask, account: AccountId, after: u64) -> Result<Vec<OrderId>, StoreError> {
    let of = "o.account = ?1 AND o.id > ?2";
    let values = [account.0.into(), after.cast_signed().into()];
    let id = |row: &dyn rows::Cells| Reading::new(row, "order_", 1).number(0).map(OrderId);
    let sql = format!("SELECT o.id FROM waiting w JOIN order_ o ON o.id = w.id WHERE {of}");
    let mut open = rows(ask, &sql, &values, id)?;
    // Of those after the last settlement some are decided already: they are looked at anyway.
    let sql =
        format!("SELECT o.id FROM order_ o WHERE o.id > (SELECT settled_order FROM meta) AND {of}");
    open.extend(rows(ask, &sql, &values, id)?);
    Ok(open)
}

/// The symbols of instruments, each read once.
struct Symbols<'a> {
    ask: &'a dyn Ask,
    known: HashMap<InstrumentId, Symbol>,
}

impl Symbols<'_> {
    fn of(&mut self, instrument: InstrumentId) -> Result<Symbol, StoreError> {
        if let Some(symbol) = self.known.get(&instrument) {
            return Ok(*symbol);
        }
        let sql = "SELECT id, symbol FROM instrument WHERE id = ?1";
        let symbol = rows(self.ask, sql, &[instrument.0.into()], |row| {
            Reading::new(row, "instrument", 1).parsed(1)
        })?;
        let missing =
            || StoreError::Corrupt(format!("table instrument: row {instrument} is missing"));
        let symbol = symbol.into_iter().next().ok_or_else(missing)?;
        self.known.insert(instrument, symbol);
        Ok(symbol)
    }
}
