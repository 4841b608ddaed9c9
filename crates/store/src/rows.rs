//! Rows and what they mean: strict conversions between columns and the core's types.
//!
//! Reading takes nothing on trust: a value that this program cannot have written is
//! [`StoreError::Corrupt`], with the table, the row and the column.

use std::fmt::Display;
use std::str::FromStr;

use papertrader_core::account::Position;
use papertrader_core::bar::Bar;
use papertrader_core::ids::{AccountId, InstrumentId, OrderId, SnapshotNumber, WorkerId};
use papertrader_core::ledger::JournalEntry;
use papertrader_core::money::{Cash, Price, Quantity, Volume};
use papertrader_core::order::{
    Fill, Order, OrderRecord, OrderRefusal, OrderRequest, OrderState, Side, WaitReason,
};
use papertrader_core::time::{MarketTime, Moment, WallTime};

use crate::StoreError;
use crate::held;

/// A value of a column or a parameter, as every database has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Value<'a> {
    Null,
    Integer(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// An integer, or NULL for nothing.
    pub(crate) fn optional(number: Option<i64>) -> Value<'a> {
        number.map_or(Value::Null, Value::Integer)
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Value::Integer(number)
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Value::Integer(i64::from(number))
    }
}

/// A row of a database's answer.
pub(crate) trait Cells {
    /// What stands in a column. Fails on a type that no column of ours has.
    fn cell(&self, column: usize) -> Result<Value<'_>, StoreError>;

    /// What a column is called.
    fn column_name(&self, column: usize) -> &str;
}

/// Selects what [`order`] reads; a condition on `o` (the order) follows.
pub(crate) const SELECT_ORDER: &str = "SELECT o.id, o.account, o.client_order_id, o.side, \
    o.instrument, o.quantity, o.hold, o.received_wall, o.received_market, o.seen, o.day, o.worker, \
    o.worker_time, o.worker_sequence, w.id, w.quantity, w.reason, c.state, c.reason, c.asked, \
    c.quantity, c.price, c.amount, c.basis, c.snapshot, \
    coalesce(c.wall, s.wall) AS decided_wall, coalesce(c.market, s.market) AS decided_market, o.hash \
    FROM order_ o LEFT JOIN outcome c ON c.generation = o.id >> 18 \
    AND c.account = o.account AND c.hash = o.hash AND c.id = o.id \
    LEFT JOIN waiting w ON w.id = o.id LEFT JOIN snapshot s ON s.number = c.snapshot";

/// The columns that [`journal`] reads, in its order.
pub(crate) const JOURNAL_COLUMNS: &str =
    "id, account, kind, instrument, action, snapshot, quantity, cash, wall, market";

/// The columns that [`bar`] reads, in its order.
pub(crate) const BAR_COLUMNS: &str =
    "instrument, resolution, start, open, high, low, close, volume";

/// `outcome.state` of a filled order.
pub(crate) const FILLED: i64 = 1;
/// `outcome.state` of a rejected order.
pub(crate) const REJECTED: i64 = 2;
/// `outcome.state` of a cancelled order.
pub(crate) const CANCELLED: i64 = 3;
/// `outcome.state` of an expired order.
pub(crate) const EXPIRED: i64 = 4;

/// `journal.kind` of a grant.
pub(crate) const GRANT: i64 = 1;
/// `journal.kind` of a split.
pub(crate) const SPLIT: i64 = 2;

/// The number of a side.
pub(crate) fn side_number(side: Side) -> i64 {
    match side {
        Side::Buy => 0,
        Side::Sell => 1,
    }
}

/// A row that is being read, and what to call it in an error.
pub(crate) struct Reading<'a> {
    row: &'a dyn Cells,
    table: &'static str,
    key_columns: usize,
}

impl<'a> Reading<'a> {
    /// A row of a table whose first `key_columns` columns name it.
    pub(crate) fn new(row: &'a dyn Cells, table: &'static str, key_columns: usize) -> Reading<'a> {
        Reading { row, table, key_columns }
    }

    /// The error that this row cannot be what this program wrote.
    pub(crate) fn corrupt(&self, what: impl Display) -> StoreError {
        StoreError::Corrupt(self.says(what))
    }

    /// Something about this row, with its name before it.
    pub(crate) fn says(&self, what: impl Display) -> String {
        let shown = |value: Value<'_>| match value {
            Value::Null => "NULL".to_owned(),
            Value::Integer(number) => number.to_string(),
            Value::Text(text) => text.to_owned(),
            Value::Bytes(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        let key: Vec<String> =
            (0..self.key_columns).filter_map(|i| self.row.cell(i).ok()).map(shown).collect();
        format!("table {}, row {}: {what}", self.table, key.join(", "))
    }

    fn wrong(&self, column: usize, what: &str) -> StoreError {
        let name = self.row.column_name(column);
        self.corrupt(format_args!("{name} {what}"))
    }

    fn value(&self, column: usize) -> Result<Value<'a>, StoreError> {
        self.row.cell(column)
    }

    /// An integer, or nothing for NULL.
    pub(crate) fn optional(&self, column: usize) -> Result<Option<i64>, StoreError> {
        match self.value(column)? {
            Value::Null => Ok(None),
            Value::Integer(number) => Ok(Some(number)),
            _ => Err(self.wrong(column, "is not an integer")),
        }
    }

    /// An integer.
    pub(crate) fn integer(&self, column: usize) -> Result<i64, StoreError> {
        self.optional(column)?.ok_or_else(|| self.wrong(column, "is missing"))
    }

    /// An integer that fits a smaller type.
    pub(crate) fn number<T: TryFrom<i64>>(&self, column: usize) -> Result<T, StoreError> {
        T::try_from(self.integer(column)?).map_err(|_| self.wrong(column, "is out of range"))
    }

    /// An integer that is not negative.
    pub(crate) fn natural(&self, column: usize) -> Result<i64, StoreError> {
        let number = self.integer(column)?;
        if number < 0 { Err(self.wrong(column, "is negative")) } else { Ok(number) }
    }

    /// 0 or 1.
    pub(crate) fn flag(&self, column: usize) -> Result<bool, StoreError> {
        match self.integer(column)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.wrong(column, "is neither 0 nor 1")),
        }
    }

    /// Text, or nothing for NULL.
    pub(crate) fn optional_text(&self, column: usize) -> Result<Option<&'a str>, StoreError> {
        match self.value(column)? {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            _ => Err(self.wrong(column, "is not text")),
        }
    }

    /// Text.
    pub(crate) fn text(&self, column: usize) -> Result<&'a str, StoreError> {
        self.optional_text(column)?.ok_or_else(|| self.wrong(column, "is missing"))
    }

    /// Text with a grammar.
    pub(crate) fn parsed<T: FromStr>(&self, column: usize) -> Result<T, StoreError>
    where
        T::Err: Display,
    {
        self.text(column)?.parse().map_err(|error: T::Err| {
            let name = self.row.column_name(column);
            self.corrupt(format_args!("{name}: {error}"))
        })
    }

    /// Bytes.
    pub(crate) fn blob(&self, column: usize) -> Result<&'a [u8], StoreError> {
        match self.value(column)? {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong(column, "is not bytes")),
        }
    }

    /// Bytes of a fixed length.
    pub(crate) fn bytes<const N: usize>(&self, column: usize) -> Result<[u8; N], StoreError> {
        match self.value(column)? {
            Value::Bytes(bytes) => {
                bytes.try_into().map_err(|_| self.wrong(column, "has the wrong length"))
            }
            _ => Err(self.wrong(column, "is not bytes")),
        }
    }

    /// Bytes of any length, or nothing for NULL.
    pub(crate) fn optional_bytes(&self, column: usize) -> Result<Option<&'a [u8]>, StoreError> {
        match self.value(column)? {
            Value::Null => Ok(None),
            Value::Bytes(bytes) => Ok(Some(bytes)),
            _ => Err(self.wrong(column, "is not bytes")),
        }
    }

    /// An account's ID.
    pub(crate) fn account(&self, column: usize) -> Result<AccountId, StoreError> {
        self.number(column).map(AccountId)
    }

    /// An instrument's ID.
    pub(crate) fn instrument(&self, column: usize) -> Result<InstrumentId, StoreError> {
        self.number(column).map(InstrumentId)
    }

    /// Cash that is not negative.
    pub(crate) fn cash(&self, column: usize) -> Result<Cash, StoreError> {
        self.natural(column).map(Cash::from_cents)
    }

    /// What an account owns.
    pub(crate) fn positions(&self, column: usize) -> Result<Vec<Position>, StoreError> {
        held::read(self.text(column)?).map_err(|what| self.corrupt(what))
    }

    /// Buy or sell.
    pub(crate) fn side(&self, column: usize) -> Result<Side, StoreError> {
        match self.integer(column)? {
            0 => Ok(Side::Buy),
            1 => Ok(Side::Sell),
            _ => Err(self.wrong(column, "is neither buy nor sell")),
        }
    }

    /// A quantity that is not negative.
    pub(crate) fn quantity(&self, column: usize) -> Result<Quantity, StoreError> {
        self.natural(column).map(Quantity::from_raw)
    }

    /// A price.
    pub(crate) fn price(&self, column: usize) -> Result<Price, StoreError> {
        Price::from_raw(self.integer(column)?).ok_or_else(|| self.wrong(column, "is not a price"))
    }

    /// A wall time.
    pub(crate) fn wall(&self, column: usize) -> Result<WallTime, StoreError> {
        self.integer(column).map(WallTime)
    }

    /// A market time.
    pub(crate) fn market(&self, column: usize) -> Result<MarketTime, StoreError> {
        self.integer(column).map(MarketTime)
    }

    /// A wall time followed by a market time.
    pub(crate) fn moment(&self, column: usize) -> Result<Moment, StoreError> {
        Ok(Moment { wall: self.wall(column)?, market: self.market(column + 1)? })
    }
}

/// An order with its state, from [`SELECT_ORDER`].
pub(crate) fn order(row: &dyn Cells) -> Result<OrderRecord, StoreError> {
    let (outcome, waiting) = (Reading::new(row, "outcome", 1), Reading::new(row, "waiting", 1));
    let row = Reading::new(row, "order_", 1);
    let side = row.side(3)?;
    let asked = row.quantity(5)?;
    let state = outcome.optional(17)?;
    let is_waiting = waiting.optional(14)?.is_some();
    if state.is_some() && is_waiting {
        return Err(waiting.corrupt("the order is decided"));
    }
    let changed = match state {
        Some(_) => outcome.optional(19)?.map(|_| outcome.quantity(19)),
        None => waiting.optional(15)?.map(|_| waiting.quantity(15)),
    };
    let order = Order {
        id: OrderId(row.number(0)?),
        request: OrderRequest {
            account: row.account(1)?,
            client_order_id: row.parsed(2)?,
            side,
            instrument: row.instrument(4)?,
            quantity: changed.transpose()?.unwrap_or(asked),
        },
        asked,
        hold: row.cash(6)?,
        received: row.moment(7)?,
        seen: SnapshotNumber(row.number(9)?),
        day: row.number(10)?,
        worker: WorkerId(row.bytes(11)?),
        worker_time: row.wall(12)?,
        worker_sequence: row.integer(13)?.cast_unsigned(),
    };
    let number = |reason: i64| u8::try_from(reason).ok();
    let Some(state) = state else {
        let reason = waiting.optional(16)?.map(|reason| {
            let known = number(reason).and_then(WaitReason::from_number);
            known.ok_or_else(|| waiting.wrong(16, "is not a known reason"))
        });
        let state = OrderState::Queued(reason.transpose()?);
        return Ok(OrderRecord { order, state, decided: None });
    };
    if !matches!(state, FILLED | REJECTED | CANCELLED | EXPIRED) {
        return Err(outcome.wrong(17, "is not a known state"));
    }
    let is_filled = state == FILLED;
    for column in 20..24 {
        if outcome.optional(column)?.is_some() != is_filled {
            return Err(outcome.wrong(column, "does not fit the state"));
        }
    }
    let reason = outcome.optional(18)?;
    if (state == REJECTED) != reason.is_some() {
        return Err(outcome.wrong(18, "does not fit the state"));
    }
    let state = match state {
        FILLED => OrderState::Filled(Fill {
            quantity: outcome.quantity(20)?,
            price: outcome.price(21)?,
            amount: outcome.cash(22)?,
            basis: outcome.cash(23)?,
            snapshot: SnapshotNumber(outcome.number(24)?),
        }),
        REJECTED => {
            let known = reason.and_then(number).and_then(OrderRefusal::from_number);
            let unknown = || outcome.wrong(18, "is not a known reason");
            OrderState::Rejected(known.ok_or_else(unknown)?)
        }
        CANCELLED => OrderState::Cancelled,
        EXPIRED => OrderState::Expired,
        _ => return Err(outcome.wrong(17, "is not a known state")),
    };
    if let (Some(snapshot), None) = (outcome.optional(24)?, outcome.optional(25)?) {
        return Err(outcome.corrupt(format_args!("snapshot {snapshot} is missing")));
    }
    Ok(OrderRecord { order, state, decided: Some(outcome.moment(25)?) })
}

/// A journal entry as it is stored.
pub(crate) struct JournalRow {
    /// The row's number.
    pub(crate) id: i64,
    /// The entry.
    pub(crate) entry: JournalEntry,
    /// The snapshot that brought a split; 0 for a grant.
    pub(crate) snapshot: u64,
    /// When.
    pub(crate) moment: Moment,
}

/// A journal entry, from [`JOURNAL_COLUMNS`].
pub(crate) fn journal(row: &dyn Cells) -> Result<JournalRow, StoreError> {
    let row = Reading::new(row, "journal", 1);
    let account = row.account(1)?;
    let cash = row.cash(7)?;
    let (entry, snapshot) = match row.integer(2)? {
        GRANT => (JournalEntry::Grant { account, cash }, 0),
        SPLIT => {
            let action = row.integer(4)?.cast_unsigned();
            let quantity = Quantity::from_raw(row.integer(6)?);
            let instrument = row.instrument(3)?;
            (JournalEntry::Split { account, instrument, action, quantity, cash }, row.number(5)?)
        }
        _ => return Err(row.wrong(2, "is not a known kind")),
    };
    Ok(JournalRow { id: row.integer(0)?, entry, snapshot, moment: row.moment(8)? })
}

/// A bar, from [`BAR_COLUMNS`].
pub(crate) fn bar(row: &dyn Cells) -> Result<Bar, StoreError> {
    let row = Reading::new(row, "bar", 3);
    let bar = Bar {
        start: row.market(2)?,
        open: row.price(3)?,
        high: row.price(4)?,
        low: row.price(5)?,
        close: row.price(6)?,
        volume: Volume::from_raw(row.integer(7)?),
    };
    if !bar.is_consistent() {
        return Err(row.corrupt("the prices do not lie between low and high"));
    }
    Ok(bar)
}
