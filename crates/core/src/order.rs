//! Orders: what was asked, when it was accepted, what became of it, and why orders are refused.

use crate::ids::{AccountId, InstrumentId, OrderId, SnapshotNumber, WorkerId};
use crate::money::{Cash, Price, Quantity};
use crate::names::ClientOrderId;
use crate::time::{Moment, WallTime};

/// Buy or sell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// purchaseAsset.
    Buy,
    /// sellAsset.
    Sell,
}

/// What the owner asked for. Two requests with the same ID and an equal content are the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRequest {
    /// The owner.
    pub account: AccountId,
    /// The owner's name for it: the idempotency key.
    pub client_order_id: ClientOrderId,
    /// Buy or sell.
    pub side: Side,
    /// Of what.
    pub instrument: InstrumentId,
    /// How much; positive and at most [`crate::money::MAX_QUANTITY`].
    pub quantity: Quantity,
}

/// Where an order stands among the others of a settlement. Orders are taken in this order.
///
/// The time is the worker's, moved into a small window before the master's receipt, and never
/// earlier than that of the same worker's order before: see [`clamp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueKey {
    /// The clamped time at which the worker received it.
    pub time: WallTime,
    /// The worker's own sequence.
    pub sequence: u64,
    /// The order.
    pub order: OrderId,
}

/// Moves a worker's time into `[receipt - window, receipt]`, but never before `previous`, the
/// clamped time of the same worker's order before, so that clamping never reorders one worker's
/// orders. `window` is in nanoseconds.
pub fn clamp(time: WallTime, receipt: WallTime, window: i64, previous: WallTime) -> WallTime {
    let earliest = receipt.plus_nanos(-window).max(previous);
    time.min(receipt).max(earliest)
}

/// An order that was judged: accepted, or refused in a way that binds its ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its number.
    pub id: OrderId,
    /// What was asked. A split changes the quantity while the order is open.
    pub request: OrderRequest,
    /// What was asked at first, before any split: what a repeated request is compared with.
    pub asked: Quantity,
    /// Cash held for a buy; zero for a sell, which holds its shares instead.
    pub hold: Cash,
    /// When the master received it, on both clocks.
    pub received: Moment,
    /// The snapshot that was current then: only later ones may fill it.
    pub seen: SnapshotNumber,
    /// The market day it was accepted on, counted by the master, for its expiry.
    pub day: u32,
    /// The worker that brought it.
    pub worker: WorkerId,
    /// The clamped time at which that worker received it.
    pub worker_time: WallTime,
    /// That worker's own sequence.
    pub worker_sequence: u64,
}

impl Order {
    /// Where it stands in the queue.
    pub fn key(&self) -> QueueKey {
        QueueKey { time: self.worker_time, sequence: self.worker_sequence, order: self.id }
    }
}

/// What became of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderState {
    /// Open: it waits for the next price, or for the reason given.
    Queued(Option<WaitReason>),
    /// Done.
    Filled(Fill),
    /// Refused, at once or at the fill. It will never happen.
    Rejected(OrderRefusal),
    /// Cancelled by its owner before it filled.
    Cancelled,
    /// It waited longer than the configured number of market days.
    Expired,
}

/// An order with its present state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRecord {
    /// The order.
    pub order: Order,
    /// Its state.
    pub state: OrderState,
    /// When it got a final state; `None` while it is queued.
    pub decided: Option<Moment>,
}

impl OrderRecord {
    /// Of an order that was just found good.
    pub fn queued(order: Order) -> OrderRecord {
        OrderRecord { order, state: OrderState::Queued(None), decided: None }
    }
}

/// At what an order was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// How much.
    pub quantity: Quantity,
    /// At which price.
    pub price: Price,
    /// What the buyer paid or the seller got: never negative.
    pub amount: Cash,
    /// Cost basis that left the position with a sale; for a purchase equal to `amount`.
    pub basis: Cash,
    /// The snapshot that had the price.
    pub snapshot: SnapshotNumber,
}

/// Why an open order is not filled yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum WaitReason {
    /// The market is closed.
    MarketClosed = 1,
    /// The instrument has no new enough price.
    PriceStale = 2,
}

impl WaitReason {
    /// From the number in the store and on the wire.
    pub fn from_number(number: u8) -> Option<WaitReason> {
        [WaitReason::MarketClosed, WaitReason::PriceStale].into_iter().find(|r| *r as u8 == number)
    }

    /// The stable word for programs.
    pub fn code(self) -> &'static str {
        match self {
            WaitReason::MarketClosed => "marketClosed",
            WaitReason::PriceStale => "priceStale",
        }
    }
}

/// Why an order is refused. These bind the client order ID: the same ID gets the same answer.
/// When several apply, the first in this list is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum OrderRefusal {
    /// The account may not trade.
    #[error("this account is disabled")]
    AccountDisabled = 1,
    /// The price source has come to the end of its data.
    #[error("the market has come to the end of its prices: there is no next price to fill at")]
    MarketEnded = 2,
    /// The instrument has no price yet.
    #[error("this asset has no price yet")]
    NoPrice = 3,
    /// The account has too many open orders.
    #[error("too many open orders: wait for some to fill, or cancel them")]
    TooManyOpenOrders = 4,
    /// The order's value, or the balance after it, is above the largest accepted.
    #[error("this order is larger than the largest accepted amount")]
    OrderTooLarge = 5,
    /// A buy that the cash which no open order holds does not cover.
    #[error("not enough cash that is not held by open orders")]
    InsufficientCash = 6,
    /// A sale of more than is owned and not held by open orders.
    #[error("not enough shares that are not held by open orders")]
    InsufficientShares = 7,
    /// A split left nothing of the order's quantity.
    #[error("a split left nothing of this order")]
    NothingLeft = 8,
}

impl OrderRefusal {
    /// All, in order of precedence.
    pub const ALL: [OrderRefusal; 8] = [
        OrderRefusal::AccountDisabled,
        OrderRefusal::MarketEnded,
        OrderRefusal::NoPrice,
        OrderRefusal::TooManyOpenOrders,
        OrderRefusal::OrderTooLarge,
        OrderRefusal::InsufficientCash,
        OrderRefusal::InsufficientShares,
        OrderRefusal::NothingLeft,
    ];

    /// From the number in the store.
    pub fn from_number(number: u8) -> Option<OrderRefusal> {
        OrderRefusal::ALL.into_iter().find(|r| *r as u8 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clamping_keeps_times_near_the_receipt_and_one_workers_orders_in_order() {
        let at = WallTime;
        let cases = [
            // (worker's, receipt, previous) -> clamped, window 10
            (95, 100, 0, 95),
            (150, 100, 0, 100),
            (20, 100, 0, 90),
            (92, 100, 97, 97),
            (100, 100, 100, 100),
        ];
        for (time, receipt, previous, expected) in cases {
            assert_eq!(clamp(at(time), at(receipt), 10, at(previous)), at(expected));
        }
    }
}
