//! What is said about whole books: how they were verified and backed up, and what an account did.
//!
//! Without a running master the operator's program makes the same answers of the books themselves.
//! Amounts are exact decimal strings.

use papertrader_core::ledger::JournalEntry;
use papertrader_core::money::{Cash, Quantity};
use papertrader_core::order::{OrderRecord, OrderState, Side};
use papertrader_protocol::Reason;
use papertrader_protocol::data::HistoryKind;
use papertrader_store::{Activity, Cursor, Doing, Page, Report, Restored};
use serde::{Deserialize, Serialize};

use super::Stamp;

/// Most lines of an export in one reply; the next are asked for.
pub const LINES: usize = 2_000;

/// How far something long is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is done to the books: `verifying` or `copying`.
    pub doing: String,
    /// Rows, or pieces of a file.
    pub done: u64,
    /// Of how many, where that is known.
    pub of: Option<u64>,
}

impl From<papertrader_store::Progress> for Progress {
    fn from(progress: papertrader_store::Progress) -> Progress {
        let doing = match progress.doing {
            Doing::Verifying => "verifying",
            Doing::Copying => "copying",
        };
        Progress { doing: doing.into(), done: progress.done, of: progress.of }
    }
}

/// What was compared, and what it adds up to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Accounts whose cash was compared.
    pub accounts: u64,
    /// Positions that were compared.
    pub positions: u64,
    /// Orders.
    pub orders: u64,
    /// Outcomes of orders.
    pub outcomes: u64,
    /// Those among them that are fills.
    pub fills: u64,
    /// Entries of the journal: grants, and what splits did.
    pub entries: u64,
    /// Settlements.
    pub snapshots: u64,
    /// Bars of prices.
    pub bars: u64,
    /// All cash of the traders, as the entries make it.
    pub cash: String,
    /// The cash of the named account *market*.
    pub market: String,
    /// That of *grants*.
    pub grants: String,
    /// That of *fractions*.
    pub fractions: String,
    /// All four: zero, or something is wrong.
    pub sum: String,
}

/// Whether the books are right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Whether nothing contradicts anything.
    pub right: bool,
    /// What was compared.
    pub checked: Checked,
    /// Each contradiction.
    pub contradictions: Vec<Contradiction>,
    /// How many more there are.
    pub more: u64,
}

/// Rows that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contradiction {
    /// In which table, where that can be told.
    pub table: Option<String>,
    /// Whose row it is, where that can be told.
    pub account: Option<u32>,
    /// Which order it is about, where that can be told.
    pub order: Option<u64>,
    /// What does not agree.
    pub what: String,
}

impl From<&Report> for Checked {
    fn from(report: &Report) -> Checked {
        let Report { cash, market, grants, fractions, .. } = *report;
        Checked {
            accounts: report.accounts,
            positions: report.positions,
            orders: report.orders,
            outcomes: report.outcomes,
            fills: report.fills,
            entries: report.entries,
            snapshots: report.snapshots,
            bars: report.bars,
            cash: decimal(cash),
            market: decimal(market),
            grants: decimal(grants),
            fractions: decimal(fractions),
            sum: decimal(cash + market + grants + fractions),
        }
    }
}

impl From<Report> for Verified {
    fn from(report: Report) -> Verified {
        let checked = Checked::from(&report);
        let each = report.mismatches.into_iter().map(|mismatch| Contradiction {
            table: mismatch.table,
            account: mismatch.account,
            order: mismatch.order,
            what: super::shown(&mismatch.what),
        });
        let contradictions: Vec<_> = each.collect();
        Verified { right: contradictions.is_empty(), checked, contradictions, more: report.more }
    }
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackedUp {
    /// Where.
    pub file: String,
    /// How large it is.
    pub bytes: u64,
    /// What was verified in it.
    pub checked: Checked,
}

/// Books that were restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BooksRestored {
    /// Where: a file, or `postgresql`.
    pub place: String,
    /// The deployment's ID.
    pub deployment: String,
    /// The last batch that is there.
    pub last_batch: u64,
    /// Until when.
    pub until: Stamp,
    /// What was verified.
    pub checked: Checked,
    /// Keys of the master that are not in its data directory: new ones would be made at the start.
    pub missing_keys: Vec<String>,
}

impl BooksRestored {
    /// Of what the store says.
    pub fn new(place: String, restored: &Restored, missing_keys: Vec<String>) -> BooksRestored {
        BooksRestored {
            place,
            deployment: restored.deployment.clone(),
            last_batch: restored.last_batch.0,
            until: restored.last_wall.into(),
            checked: (&restored.report).into(),
            missing_keys,
        }
    }
}

/// How far an export has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportCursor {
    /// The last order that was given.
    pub order: u64,
    /// The number of the last entry that was given.
    pub entry: i64,
}

impl From<ExportCursor> for Cursor {
    fn from(ExportCursor { order, entry }: ExportCursor) -> Cursor {
        Cursor { order, entry }
    }
}

/// A part of what an account did, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportPage {
    /// Whose, as they write their name.
    pub user: String,
    /// The account's number.
    pub account: u32,
    /// At most [`LINES`].
    pub lines: Vec<ExportLine>,
    /// Where the next part begins.
    pub next: ExportCursor,
    /// Whether there is one.
    pub more: bool,
}

/// An order and what became of it, or what moved cash or shares otherwise. Where the client's history
/// has such a line, the fields of the same name are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportLine {
    /// `buy`, `sell`, `rejected`, `cancelled`, `expired`, `grant`, `split`; `queued` for an open order.
    pub kind: String,
    /// When it was decided or booked; of an open order nothing yet.
    pub wall_time: Option<Stamp>,
    /// The market's time then.
    pub market_time: Option<Stamp>,
    /// Of what.
    pub symbol: Option<String>,
    /// Of an order: `buy` or `sell`.
    pub side: Option<String>,
    /// What was filled or, of any other order, asked; how a split changed the position.
    pub quantity: String,
    /// Of a fill.
    pub price: Option<String>,
    /// How the cash changed. All amounts add up to the account's cash.
    pub amount: String,
    /// How the position changed. All of one symbol add up to the position.
    pub units: String,
    /// Of a purchase what it cost, of a sale what the units sold had cost.
    pub basis: Option<String>,
    /// Why an order was rejected, expired, or waits.
    pub reason: Option<String>,
    /// The order's number.
    pub order: Option<u64>,
    /// The owner's name for the order.
    pub client_order_id: Option<String>,
    /// What was asked at first.
    pub asked: Option<String>,
    /// When the order was received.
    pub received_wall_time: Option<Stamp>,
    /// The market's time then.
    pub received_market_time: Option<Stamp>,
}

impl ExportPage {
    /// Of what the store gives.
    pub fn new(user: String, account: u32, page: Page) -> ExportPage {
        let Page { lines, next, more } = page;
        ExportPage {
            user,
            account,
            lines: lines.iter().map(ExportLine::from).collect(),
            next: ExportCursor { order: next.order, entry: next.entry },
            more,
        }
    }
}

impl From<&Activity> for ExportLine {
    fn from(activity: &Activity) -> ExportLine {
        match activity {
            Activity::Order(record, symbol) => order_line(record, symbol.to_string()),
            Activity::Entry(entry, moment, symbol) => {
                let (kind, quantity, cash) = match *entry {
                    JournalEntry::Grant { cash, .. } => (HistoryKind::Grant, Quantity::ZERO, cash),
                    JournalEntry::Split { quantity, cash, .. } => {
                        (HistoryKind::Split, quantity, cash)
                    }
                };
                ExportLine {
                    kind: kind.name().into(),
                    wall_time: Some(moment.wall.into()),
                    market_time: Some(moment.market.into()),
                    symbol: symbol.as_ref().map(ToString::to_string),
                    side: None,
                    quantity: quantity.to_string(),
                    price: None,
                    amount: cash.to_string(),
                    units: quantity.to_string(),
                    basis: None,
                    reason: None,
                    order: None,
                    client_order_id: None,
                    asked: None,
                    received_wall_time: None,
                    received_market_time: None,
                }
            }
        }
    }
}

fn order_line(record: &OrderRecord, symbol: String) -> ExportLine {
    let order = &record.order;
    let request = &order.request;
    let side = match request.side {
        Side::Buy => HistoryKind::Buy,
        Side::Sell => HistoryKind::Sell,
    };
    let mut line = ExportLine {
        kind: "queued".into(),
        wall_time: record.decided.map(|decided| decided.wall.into()),
        market_time: record.decided.map(|decided| decided.market.into()),
        symbol: Some(symbol),
        side: Some(side.name().into()),
        quantity: request.quantity.to_string(),
        price: None,
        amount: Cash::ZERO.to_string(),
        units: Quantity::ZERO.to_string(),
        basis: None,
        reason: None,
        order: Some(order.id.0),
        client_order_id: Some(request.client_order_id.to_string()),
        asked: Some(order.asked.to_string()),
        received_wall_time: Some(order.received.wall.into()),
        received_market_time: Some(order.received.market.into()),
    };
    let rejected = |kind: HistoryKind, reason: Option<Reason>| {
        (kind.name().to_owned(), reason.map(|reason| reason.code().to_owned()))
    };
    match record.state {
        OrderState::Queued(waiting) => line.reason = waiting.map(|reason| reason.code().to_owned()),
        OrderState::Filled(fill) => {
            line.kind = side.name().into();
            line.quantity = fill.quantity.to_string();
            line.price = Some(fill.price.to_string());
            line.basis = Some(fill.basis.to_string());
            // Both are bounded by constants far below what the type holds.
            let (amount, units) = match request.side {
                Side::Buy => (fill.amount.negated(), Some(fill.quantity)),
                Side::Sell => (Some(fill.amount), fill.quantity.negated()),
            };
            line.amount = amount.unwrap_or(Cash::ZERO).to_string();
            line.units = units.unwrap_or(Quantity::ZERO).to_string();
        }
        OrderState::Rejected(refusal) => {
            (line.kind, line.reason) = rejected(HistoryKind::Rejected, Some(refusal.into()));
        }
        OrderState::Cancelled => {
            (line.kind, line.reason) = rejected(HistoryKind::Cancelled, None);
        }
        OrderState::Expired => {
            (line.kind, line.reason) = rejected(HistoryKind::Expired, Some(Reason::OrderExpired));
        }
    }
    line
}

/// Cents, which all together may not fit the type of one account's.
fn decimal(cents: i128) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let cents = cents.unsigned_abs();
    format!("{sign}{}.{:02}", cents / 100, cents % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact_decimals() {
        for (cents, text) in [(0, "0.00"), (-5, "-0.05"), (12_345, "123.45"), (-100, "-1.00")] {
            assert_eq!(decimal(cents), text);
        }
        assert_eq!(decimal(i128::from(i64::MAX) * 100), "9223372036854775807.00");
    }
}
