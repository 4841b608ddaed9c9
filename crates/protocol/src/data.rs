//! What data answers hold, field by field, in the order in which the bytes stand.
//!
//! Every answer about prices carries the market time at which it was true; nothing in it is later.

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::money::{Cash, Price, Quantity, Volume};
use papertrader_core::names::Symbol;
use papertrader_core::order::Side;
use papertrader_core::time::{MarketTime, WallTime};

use crate::wire::{DecodeError, Reader, Wire, wire_struct};

impl Wire for Side {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Side::Buy => 1,
            Side::Sell => 2,
        });
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::take(reader)? {
            1 => Ok(Side::Buy),
            2 => Ok(Side::Sell),
            _ => Err(DecodeError::Value("a side")),
        }
    }
}

/// An enum that travels as one byte.
macro_rules! wire_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $number:literal $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$variant_meta])* $variant = $number,)*
        }

        impl $name {
            /// All values.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The stable word for programs.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }

        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                out.push(*self as u8);
            }
            fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                match u8::take(reader)? {
                    $($number => Ok($name::$variant),)*
                    _ => Err(DecodeError::Value(stringify!($name))),
                }
            }
        }
    };
}

wire_enum! {
    /// What kind of thing an asset is.
    pub enum AssetKind {
        /// A stock.
        Stock = 1 "stock",
        /// A made-up instrument.
        Synthetic = 2 "synthetic",
    }
}

wire_enum! {
    /// The state of an order.
    pub enum OrderStatus {
        /// Accepted, durable, waiting for its price.
        Queued = 1 "queued",
        /// Done.
        Filled = 2 "filled",
        /// Refused; it will never happen.
        Rejected = 3 "rejected",
        /// Cancelled by its owner.
        Cancelled = 4 "cancelled",
        /// It waited too long.
        Expired = 5 "expired",
    }
}

wire_enum! {
    /// What a line of the history says.
    pub enum HistoryKind {
        /// Starting cash.
        Grant = 1 "grant",
        /// A purchase was filled.
        Buy = 2 "buy",
        /// A sale was filled.
        Sell = 3 "sell",
        /// A split changed the position.
        Split = 4 "split",
        /// An order was rejected.
        Rejected = 5 "rejected",
        /// An order was cancelled.
        Cancelled = 6 "cancelled",
        /// An order expired.
        Expired = 7 "expired",
    }
}

wire_struct! {
    /// The answer to `getAssetInfo` (2.4.3): today's values so far.
    pub struct AssetInfo {
        /// assetSymbol.
        symbol: Symbol,
        /// The full name.
        name: String,
        /// What it is.
        kind: AssetKind,
        /// Where its prices come from, in words.
        source: String,
        /// openVal: today's first price.
        open: Price,
        /// highVal: today's highest so far.
        high: Price,
        /// lowVal: today's lowest so far.
        low: Price,
        /// closeVal: the latest price.
        close: Price,
        /// volumeVal: today's volume so far.
        volume: Volume,
        /// The last price of the market day before, adjusted for a split today.
        previous_close: Option<Price>,
        /// When the latest price was made.
        time: MarketTime,
        /// The snapshot that brought it.
        snapshot: u64,
        /// The market's time now.
        market: MarketTime,
    }
}

wire_struct! {
    /// The answer to `getAssetValueCurrent`.
    pub struct AssetValue {
        /// Of what.
        symbol: Symbol,
        /// The latest price.
        price: Price,
        /// When it was made.
        time: MarketTime,
        /// The last price of the market day before, adjusted for a split today.
        previous_close: Option<Price>,
        /// The number of the current snapshot.
        snapshot: u64,
        /// The market's time now.
        market: MarketTime,
    }
}

wire_struct! {
    /// The answer to `getAssetValueDay`, …Week, …Month, …Year, …AllTime and `getAssetBars`.
    pub struct Bars {
        /// Of what.
        symbol: Symbol,
        /// What one bar covers.
        resolution: Resolution,
        /// Nanoseconds of market time that one bar of resolution `interval` covers.
        interval: i64,
        /// The market's time now: no bar holds anything later.
        market: MarketTime,
        /// Where the prices come from, in words.
        source: String,
        /// The bars in order of time. The last one may still grow.
        bars: Vec<Bar>,
    }
}

wire_struct! {
    /// One asset of [`AssetList`].
    pub struct AssetLine {
        /// The short name.
        symbol: Symbol,
        /// The full name.
        name: String,
        /// What it is.
        kind: AssetKind,
        /// The latest price, if there ever was one.
        price: Option<Price>,
        /// When it was made.
        time: Option<MarketTime>,
        /// The last price of the market day before, adjusted for a split today.
        previous_close: Option<Price>,
    }
}

wire_struct! {
    /// The answer to `getAssetList`.
    pub struct AssetList {
        /// The market's time now.
        market: MarketTime,
        /// The number of the current snapshot.
        snapshot: u64,
        /// Whether the prices have come to their end.
        ended: bool,
        /// The assets, by symbol.
        assets: Vec<AssetLine>,
    }
}

wire_struct! {
    /// The prediction for one day.
    pub struct PredictedValue {
        /// Market days from now, from 1.
        day: u32,
        /// The lower end of the interval.
        low: Price,
        /// The expected price.
        expected: Price,
        /// The upper end of the interval.
        high: Price,
    }
}

wire_struct! {
    /// The answer to `getAssetValuePredicted`.
    pub struct Prediction {
        /// Of what.
        symbol: Symbol,
        /// The model's name.
        model: String,
        /// How many daily closes it has seen.
        based_on: u32,
        /// How often the outcome should be inside the interval, in hundredths of a per cent.
        confidence: u16,
        /// The latest price.
        last: Price,
        /// The market's time now.
        market: MarketTime,
        /// The days ahead, in order.
        values: Vec<PredictedValue>,
    }
}

wire_struct! {
    /// The part of [`UserInfo`] that only the owner sees.
    pub struct UserInfoPrivate {
        /// The email address.
        email: String,
        /// isPassword: whether the account has a password (2.4.1).
        is_password: bool,
        /// All cash, held or not.
        cash: Cash,
        /// Cash that open buy orders hold.
        held_cash: Cash,
        /// Cash and positions at their latest prices.
        equity: Cash,
        /// The cash that it started with.
        granted: Cash,
        /// How many orders are open.
        open_orders: u32,
    }
}

wire_struct! {
    /// The answer to `getUserInfo`.
    pub struct UserInfo {
        /// The user name as its owner writes it.
        name: String,
        /// When the account was made.
        since: WallTime,
        /// For the owner.
        private: Option<UserInfoPrivate>,
    }
}

wire_struct! {
    /// A position.
    pub struct PositionLine {
        /// Of what.
        symbol: Symbol,
        /// How much.
        quantity: Quantity,
        /// How much of it open sell orders hold.
        held: Quantity,
        /// What was paid for it.
        cost: Cash,
        /// The latest price, if there is one.
        price: Option<Price>,
        /// What it is worth at that price.
        value: Cash,
    }
}

wire_struct! {
    /// The part of [`Portfolio`] that only the owner sees.
    pub struct PortfolioPrivate {
        /// All cash, held or not.
        cash: Cash,
        /// Cash that open buy orders hold.
        held_cash: Cash,
        /// The cash that it started with.
        granted: Cash,
        /// Cash and positions at their latest prices.
        equity: Cash,
        /// The positions, by symbol.
        positions: Vec<PositionLine>,
    }
}

wire_struct! {
    /// The answer to `getUserPortfolio`.
    pub struct Portfolio {
        /// Whose.
        name: String,
        /// The market's time now.
        market: MarketTime,
        /// What was gained or lost since the start, in hundredths of a per cent, rounded down.
        return_bp: i64,
        /// For the owner.
        private: Option<PortfolioPrivate>,
    }
}

wire_struct! {
    /// A line of the history.
    pub struct HistoryLine {
        /// What happened.
        kind: HistoryKind,
        /// The order, where one was the cause.
        order: Option<u64>,
        /// The client's name for it, or empty.
        client_order_id: String,
        /// Buy or sell, where an order was the cause.
        side: Option<Side>,
        /// The asset, where there is one.
        symbol: Option<Symbol>,
        /// How much: of a fill or an order; for a split the change of the position.
        quantity: Quantity,
        /// The price of a fill.
        price: Option<Price>,
        /// The change of cash: negative for a purchase.
        amount: Cash,
        /// The stable word of the reason why an order was not filled, or empty.
        reason: String,
        /// When it went through.
        wall: WallTime,
        /// The market's time when it went through.
        market: MarketTime,
    }
}

wire_struct! {
    /// The part of [`History`] that only the owner sees.
    pub struct HistoryPrivate {
        /// Whether there are older lines that this answer leaves out.
        more: bool,
        /// The lines, newest first.
        lines: Vec<HistoryLine>,
    }
}

wire_struct! {
    /// The answer to `getUserTransactionHistory`.
    pub struct History {
        /// Whose.
        name: String,
        /// For the owner.
        private: Option<HistoryPrivate>,
    }
}

wire_struct! {
    /// The fill of an order.
    pub struct FillLine {
        /// How much.
        quantity: Quantity,
        /// At which price.
        price: Price,
        /// What was paid or got.
        amount: Cash,
        /// The snapshot that had the price.
        snapshot: u64,
    }
}

wire_struct! {
    /// An order: the answer to `getOrder`, and a line of [`Orders`].
    pub struct OrderLine {
        /// The order's ID.
        order: u64,
        /// The client's name for it.
        client_order_id: String,
        /// Buy or sell.
        side: Side,
        /// Of what.
        symbol: Symbol,
        /// How much (after any split).
        quantity: Quantity,
        /// Cash that it holds while it is queued.
        hold: Cash,
        /// Its state.
        status: OrderStatus,
        /// Why it waits or was rejected: a stable word, or empty.
        reason: String,
        /// The fill of a filled order.
        fill: Option<FillLine>,
        /// When it was accepted.
        received: WallTime,
        /// The market's time then.
        received_market: MarketTime,
        /// When it got its final state.
        decided: Option<WallTime>,
        /// The market's time then.
        decided_market: Option<MarketTime>,
    }
}

wire_struct! {
    /// The answer to `getUserOrders`: all open orders and the newest others.
    pub struct Orders {
        /// Whose; only the owner gets an answer with orders.
        name: String,
        /// Whether there are older orders that this answer leaves out.
        more: bool,
        /// The orders, newest first.
        orders: Vec<OrderLine>,
    }
}

/// A load in [`WorkerLine`] that leaves nothing; more counts as this.
pub const FULL: u32 = 1_000;

/// Whether a text can name a region: 1 to 32 letters, digits, `-`, `_` and `.`. Names that differ in
/// case only are the same.
pub fn is_region(text: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=32).contains(&text.len()) && text.bytes().all(is_of_name)
}

wire_struct! {
    /// `assetValues`: the newest values of assets that a client has subscribed to, those that have
    /// changed since it was told.
    pub struct AssetValues {
        /// The values.
        values: Vec<AssetValue>,
    }
}

wire_struct! {
    /// Up to where a client has heard of an account's orders: what it says when it comes again. A client
    /// looks at none of the numbers.
    #[derive(Copy)]
    pub struct OrderCursor {
        /// All orders up to this one were told.
        order: u64,
        /// All decisions up to then were told.
        decided: WallTime,
        /// No order below this one can change any more.
        open: u64,
    }
}

wire_struct! {
    /// `orderEvent`: an order was placed, or has got its final state.
    pub struct OrderEvent {
        /// Ascends by one within a subscription, from 1.
        number: u64,
        /// What to ask for to hear what comes after this.
        cursor: OrderCursor,
        /// The order as it is now.
        order: OrderLine,
    }
}

impl std::fmt::Display for OrderCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.order, self.decided.0, self.open)
    }
}

/// The text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is three numbers with dots between them")]
pub struct NotACursor;

impl std::str::FromStr for OrderCursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<OrderCursor, NotACursor> {
        let mut numbers = text.split('.').map(|digits| {
            // `parse` would take a plus sign.
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| digits.parse::<u64>().ok()).flatten().ok_or(NotACursor)
        });
        let mut next = || numbers.next().ok_or(NotACursor)?;
        let (order, decided, open) = (next()?, next()?, next()?);
        let decided = WallTime(i64::try_from(decided).map_err(|_| NotACursor)?);
        if numbers.next().is_some() {
            return Err(NotACursor);
        }
        Ok(OrderCursor { order, decided, open })
    }
}

wire_struct! {
    /// A worker of [`WorkerList`].
    pub struct WorkerLine {
        /// Its name.
        name: String,
        /// Where clients reach it: `host:port`.
        address: String,
        /// Its web address, or empty.
        web: String,
        /// The SHA-256 fingerprint of its certificate in hexadecimal, or empty without TLS.
        fingerprint: String,
        /// The region that its operator says it is in, or empty.
        region: String,
        /// How much is taken of what it can take, in thousandths: 0 nothing, 1000 all.
        load: u32,
    }
}

wire_struct! {
    /// The list of workers (3.1.5).
    pub struct WorkerList {
        /// The workers that are connected to the master.
        workers: Vec<WorkerLine>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_cut_or_too_long_is_refused() {
        let list = WorkerList {
            workers: vec![WorkerLine {
                name: "one".into(),
                address: "127.0.0.1:2049".into(),
                web: String::new(),
                fingerprint: String::new(),
                region: "eu".into(),
                load: 3,
            }],
        };
        let mut bytes = list.to_bytes();
        assert_eq!(WorkerList::from_bytes(&bytes), Ok(list));
        for cut in 0..bytes.len() {
            assert!(WorkerList::from_bytes(&bytes[..cut]).is_err());
        }
        bytes.push(0);
        assert_eq!(WorkerList::from_bytes(&bytes), Err(DecodeError::Trailing));
        let huge_count = u32::MAX.to_be_bytes();
        assert_eq!(WorkerList::from_bytes(&huge_count), Err(DecodeError::Short));
    }

    #[test]
    fn a_region_is_a_short_word() {
        assert!(["eu", "eu-west.2_b", &"x".repeat(32)].into_iter().all(is_region));
        assert!(!["", "e u", "é", "eu\n", &"x".repeat(33)].into_iter().any(is_region));
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = AssetInfo::from_bytes(&bytes);
            let _ = AssetValue::from_bytes(&bytes);
            let _ = Bars::from_bytes(&bytes);
            let _ = AssetList::from_bytes(&bytes);
            let _ = Prediction::from_bytes(&bytes);
            let _ = UserInfo::from_bytes(&bytes);
            let _ = Portfolio::from_bytes(&bytes);
            let _ = History::from_bytes(&bytes);
            let _ = Orders::from_bytes(&bytes);
            let _ = WorkerList::from_bytes(&bytes);
        }

        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(bytes in proptest::collection::vec(0u8..3, 0..120)) {
            if let Ok(history) = History::from_bytes(&bytes) {
                prop_assert_eq!(history.to_bytes(), bytes.clone());
            }
            if let Ok(orders) = Orders::from_bytes(&bytes) {
                prop_assert_eq!(orders.to_bytes(), bytes.clone());
            }
            if let Ok(list) = WorkerList::from_bytes(&bytes) {
                prop_assert_eq!(list.to_bytes(), bytes);
            }
        }
    }
}
