//! The books at the end, read from the database itself, against what the clients were told.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use papertrader_core::ids::{AccountId, InstrumentId};
use papertrader_core::ledger::JournalEntry;
use papertrader_core::money::Cash;
use papertrader_core::names::ClientOrderId;
use papertrader_core::order::{OrderRecord, OrderState, Side};
use papertrader_protocol::Reason;
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{HistoryRow, Loaded, Store, StoreError};

use super::Counts;
use super::knowledge::{Known, Outcome, Told};
use super::trader::name;

/// More lines than there are.
const ALL: usize = 100_000_000;

/// Cash, units and cost bases: what the entries add up to.
#[derive(Debug, Default)]
struct Folded {
    cash: i64,
    held: i64,
    /// Units and cost of each instrument.
    positions: BTreeMap<InstrumentId, (i64, i64)>,
}

/// Compares a file; the error names everything that does not agree.
pub(crate) fn audit(database: &Path, known: &Known, counts: &mut Counts) -> Result<(), String> {
    let mut store = SqliteStore::open(database, "never made anew").map_err(words)?;
    audit_store(&mut store, known, counts)
}

/// The same of any store.
pub(crate) fn audit_store(
    store: &mut dyn Store,
    known: &Known,
    counts: &mut Counts,
) -> Result<(), String> {
    let mut wrong: Vec<String> =
        store.verify().map_err(words)?.into_iter().map(|mismatch| mismatch.what).collect();
    let loaded = store.load().map_err(words)?;
    if let Err(broken) = loaded.books.check() {
        wrong.push(format!("the books contradict themselves: {broken}"));
    }
    counts.batches = loaded.last_batch.0;
    let mut reader = store.reader().map_err(words)?;
    let told = known.orders();
    let mut stored = 0;
    for (index, profile) in loaded.profiles.iter().enumerate() {
        let account = AccountId(index as u32 + 1);
        let mut records = HashMap::new();
        for record in reader.orders(account, ALL).map_err(words)? {
            count(&record, counts);
            let id = record.order.request.client_order_id.clone();
            if let Some(twice) = records.insert(id, record) {
                wrong.push(format!("there twice: {twice:?}"));
            }
        }
        stored += records.len();
        for (id, record) in &records {
            match told.get(id) {
                None => wrong.push(format!("nobody has asked for {record:?}")),
                Some(told) => wrong.extend(disagreement(id, told, record, &loaded)),
            }
        }
        // All were answered for in the end, so all must be there.
        for (id, told) in told.iter().filter(|(_, told)| name(told.content.user) == profile.name) {
            if !records.contains_key(id) {
                wrong.push(format!("{id} is missing: {told:?}"));
            }
        }
        let journal = reader.history(account, ALL).map_err(words)?;
        let folded = fold(records.values(), &journal, counts);
        wrong.extend(unbalanced(account, &folded, &loaded));
    }
    if stored != told.len() {
        wrong.push(format!("{stored} orders are stored, {} were asked for", told.len()));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn words(error: StoreError) -> String {
    error.to_string()
}

fn count(record: &OrderRecord, counts: &mut Counts) {
    match record.state {
        OrderState::Queued(_) => counts.queued += 1,
        OrderState::Filled(_) => counts.filled += 1,
        OrderState::Rejected(_) => counts.rejected += 1,
        OrderState::Cancelled => counts.cancelled += 1,
        OrderState::Expired => counts.expired += 1,
    }
}

/// What is stored of an order, against what was asked and what was told.
fn disagreement(
    id: &ClientOrderId,
    told: &Told,
    record: &OrderRecord,
    loaded: &Loaded,
) -> Option<String> {
    let order = &record.order;
    let content = &told.content;
    let instrument = loaded.instruments.iter().find(|row| row.symbol == content.symbol);
    let is_content = instrument.is_some_and(|row| row.id == order.request.instrument)
        && order.request.side == content.side
        && order.asked == content.quantity;
    let is_number = told.number.is_none_or(|number| number == order.id.0);
    let is_outcome = match (&told.outcome, record.state) {
        (None, _) => true,
        (Some(Outcome::Filled(fill)), OrderState::Filled(is)) => {
            (fill.quantity, fill.price, fill.amount) == (is.quantity, is.price, is.amount)
                && fill.order == order.id.0
                && record.decided.is_some_and(|decided| decided.wall == fill.wall)
        }
        (Some(Outcome::Refused(reason)), OrderState::Rejected(refusal)) => {
            *reason == Reason::from(refusal)
        }
        (Some(Outcome::Refused(reason)), OrderState::Cancelled) => {
            *reason == Reason::OrderCancelled
        }
        (Some(Outcome::Refused(reason)), OrderState::Expired) => *reason == Reason::OrderExpired,
        _ => false,
    };
    // Whatever was killed in between: never at a price that was there before the order.
    let is_later = match (record.state, record.decided) {
        (OrderState::Filled(fill), Some(decided)) => {
            fill.snapshot > order.seen && decided.market > order.received.market
        }
        _ => true,
    };
    let is_right = is_content && is_number && is_outcome && is_later;
    (!is_right).then(|| format!("{id} was told {told:?}, stored is {record:?}"))
}

fn fold<'a>(
    records: impl Iterator<Item = &'a OrderRecord>,
    history: &[HistoryRow],
    counts: &mut Counts,
) -> Folded {
    let mut folded = Folded::default();
    for record in records {
        let instrument = record.order.request.instrument;
        let side = record.order.request.side;
        match record.state {
            OrderState::Filled(fill) => {
                let (units, cost) = folded.positions.entry(instrument).or_default();
                let sign = match side {
                    Side::Buy => 1,
                    Side::Sell => -1,
                };
                folded.cash -= sign * fill.amount.cents();
                *units += sign * fill.quantity.raw();
                *cost += sign * fill.basis.cents();
            }
            OrderState::Queued(_) => folded.held += record.order.hold.cents(),
            OrderState::Rejected(_) | OrderState::Cancelled | OrderState::Expired => {}
        }
    }
    for row in history {
        match row {
            HistoryRow::Journal(JournalEntry::Grant { cash, .. }, _) => {
                folded.cash += cash.cents();
            }
            HistoryRow::Journal(JournalEntry::Split { instrument, quantity, cash, .. }, _) => {
                counts.splits += 1;
                folded.cash += cash.cents();
                folded.positions.entry(*instrument).or_default().0 += quantity.raw();
            }
            HistoryRow::Order(_) => {}
        }
    }
    folded
}

/// The stored balances against the folded ones.
fn unbalanced(account: AccountId, folded: &Folded, loaded: &Loaded) -> Option<String> {
    let Some(books) = loaded.books.account(account) else {
        return Some(format!("account {account} has no books"));
    };
    let cash = |cents| Cash::from_cents(cents);
    let positions: BTreeMap<InstrumentId, (i64, i64)> = books
        .positions
        .iter()
        .map(|position| (position.instrument, (position.quantity.raw(), position.cost.cents())))
        .collect();
    let kept: BTreeMap<InstrumentId, (i64, i64)> = folded
        .positions
        .iter()
        .filter(|(_, (units, _))| *units != 0)
        .map(|(k, v)| (*k, *v))
        .collect();
    let is_right = books.cash == cash(folded.cash)
        && books.held_cash == cash(folded.held)
        && positions == kept;
    (!is_right).then(|| format!("account {account} holds {books:?}, its entries make {folded:?}"))
}
