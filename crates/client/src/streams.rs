//! Streams: prices and order events that come without being asked for again (`subscribeAssets`,
//! `subscribeOrders`).
//!
//! A stream outlives its connection: when that is lost it goes on at the next server, from where it
//! was.
//!
//! Invariants: who reads prices slowly gets the newest of each asset and never an older one, and they
//! take no more memory than there are assets; of one's orders no event is left out. Each order's come in the
//! order in which they happened; what was missed while a connection was lost comes by the orders' numbers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use papertrader_core::names::Symbol;
use papertrader_protocol::data::{AssetValue, OrderCursor, OrderEvent, OrderLine, OrderStatus};
use papertrader_protocol::request::{MAX_SUBSCRIBED, MAX_SYMBOLS, Symbols};
use papertrader_protocol::returns::Return;
use papertrader_protocol::{Failure, Reason, Request};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::client::{Again, Client, First};
use crate::connection::{Connection, Event};
use crate::error::ClientError;
use crate::failover::Answer;

/// Events that are remembered as told: after a lost connection some may come again.
const REMEMBERED: usize = 16_384;

/// What an order is when it changes no more.
const FINAL: [OrderStatus; 4] =
    [OrderStatus::Filled, OrderStatus::Rejected, OrderStatus::Cancelled, OrderStatus::Expired];

/// The newest values that nobody has read yet.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    values: Mutex<HashMap<Symbol, AssetValue>>,
}

impl Newest {
    /// Adds values. True if there were none before.
    pub(crate) fn add(&self, values: Vec<AssetValue>) -> bool {
        let mut newest = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = newest.is_empty();
        newest.extend(values.into_iter().map(|value| (value.symbol, value)));
        was_empty
    }

    fn take(&self) -> HashMap<Symbol, AssetValue> {
        std::mem::take(&mut *self.values.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A subscription on one connection.
#[derive(Debug)]
struct Open {
    /// Kept, or it would be closed.
    connection: Arc<Connection>,
    events: UnboundedReceiver<Event>,
}

/// Prices as they change. Made by [`Client::watch_prices`].
#[derive(Debug)]
pub struct PriceStream {
    client: Client,
    symbols: Symbols,
    /// Those that are given, if not all: a stream that took this one's place may bring others.
    wanted: Option<HashSet<Symbol>>,
    open: Option<Open>,
    /// The snapshot of the value that was given last of each.
    given: HashMap<Symbol, u64>,
}

/// What happens to one's orders. Made by [`Client::watch_orders`].
#[derive(Debug)]
pub struct OrderStream {
    client: Client,
    cursor: Option<OrderCursor>,
    open: Option<Open>,
    told: HashSet<(u64, OrderStatus)>,
    /// The same, oldest first.
    order: VecDeque<(u64, OrderStatus)>,
}

impl Client {
    /// Prices of some assets as they change, at first all of them. A client has one such stream: the
    /// next one takes its place.
    pub async fn watch_prices(&self, symbols: &[Symbol]) -> Result<PriceStream, ClientError> {
        if symbols.is_empty() {
            let why = Failure::new(Reason::BadArguments, "no asset is named to watch");
            return Err(ClientError::Refused(why));
        }
        let wanted = Some(symbols.iter().copied().collect());
        // So many are not subscribed to by name.
        let asked = match symbols.len() <= MAX_SUBSCRIBED {
            true => Symbols::These(symbols.to_vec()),
            false => Symbols::All,
        };
        self.price_stream(asked, wanted).await
    }

    /// Prices of all assets as they change.
    pub async fn watch_all_prices(&self) -> Result<PriceStream, ClientError> {
        self.price_stream(Symbols::All, None).await
    }

    async fn price_stream(
        &self,
        symbols: Symbols,
        wanted: Option<HashSet<Symbol>>,
    ) -> Result<PriceStream, ClientError> {
        let (client, given) = (self.clone(), HashMap::new());
        let mut stream = PriceStream { client, symbols, wanted, open: None, given };
        stream.open().await?;
        Ok(stream)
    }

    /// What happens to the orders of the session's account, from now on, or after the event with a
    /// cursor: whoever places them and wherever. A client has one such stream: the next one takes its
    /// place, and the one before then ends with `tooManyRequests`.
    pub async fn watch_orders(
        &self,
        after: Option<OrderCursor>,
    ) -> Result<OrderStream, ClientError> {
        let mut stream = OrderStream {
            client: self.clone(),
            cursor: after,
            open: None,
            told: HashSet::new(),
            order: VecDeque::new(),
        };
        stream.open().await?;
        Ok(stream)
    }

    async fn subscribe(&self, request: &Request) -> Result<(Open, String), ClientError> {
        // A server that just began resumes thousands, and may be busy.
        let again = Again::Unsettled;
        let First { answer, events, connection } = self.first(request, again, |_| {}).await?;
        match answer {
            Answer::Return(Return::Subscribed(to)) => Ok((Open { connection, events }, to)),
            _ => Err(self.unexpected(request)),
        }
    }
}

/// What ended a subscription: an error, if it is not worth trying again.
fn ended(failure: Failure) -> Result<(), ClientError> {
    match failure.reason {
        // It is shown again to the server.
        Reason::SessionUnknown | Reason::Unavailable | Reason::ShuttingDown | Reason::Busy => {
            Ok(())
        }
        _ => Err(ClientError::Refused(failure)),
    }
}

impl PriceStream {
    /// The values that have changed since the last call, each the newest; waits until there are some.
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Vec<AssetValue>, ClientError> {
        loop {
            let Some(open) = &mut self.open else {
                self.open().await?;
                continue;
            };
            match open.events.recv().await {
                Some(Event::Values(newest)) => {
                    let mut values: Vec<AssetValue> = newest.take().into_values().collect();
                    // Another worker may be a little behind.
                    if let Some(wanted) = &self.wanted {
                        values.retain(|value| wanted.contains(&value.symbol));
                    }
                    values.retain(|value| {
                        let last = self.given.entry(value.symbol).or_default();
                        let is_newer = value.snapshot > *last;
                        *last = value.snapshot.max(*last);
                        is_newer
                    });
                    values.sort_unstable_by_key(|value| value.symbol);
                    if !values.is_empty() {
                        return Ok(values);
                    }
                }
                Some(Event::Return(Return::Failed(_, failure))) => {
                    self.open = None;
                    ended(failure)?;
                }
                Some(Event::Return(_)) => {}
                _ => self.open = None,
            }
        }
    }

    async fn open(&mut self) -> Result<(), ClientError> {
        loop {
            let nothing = Request::UnsubscribeAssets(Symbols::All);
            let mut on = self.client.first(&nothing, Again::Unsettled, |_| {}).await?.connection;
            let (mut is_one, mut last) = (true, None);
            for part in self.parts() {
                let (open, _) = self.client.subscribe(&Request::SubscribeAssets(part)).await?;
                is_one &= Arc::ptr_eq(&on, &open.connection);
                on = Arc::clone(&open.connection);
                // The pushes come under its number.
                last = Some(open);
            }
            // A part was asked for on a connection that was lost: all of it is, on the next. It is open
            // with all its parts or not at all, wherever this ends.
            if is_one {
                self.open = last;
                return Ok(());
            }
        }
    }

    fn parts(&self) -> Vec<Symbols> {
        match &self.symbols {
            Symbols::All => vec![Symbols::All],
            Symbols::These(all) => {
                all.chunks(MAX_SYMBOLS).map(|chunk| Symbols::These(chunk.to_vec())).collect()
            }
        }
    }
}

impl OrderStream {
    /// The next event: an order that was placed, or that has got its final state. Dropping the future
    /// loses nothing.
    pub async fn next(&mut self) -> Result<OrderLine, ClientError> {
        loop {
            let Some(open) = &mut self.open else {
                self.open().await?;
                continue;
            };
            match open.events.recv().await {
                Some(Event::Order(event)) => {
                    let OrderEvent { cursor, order, .. } = *event;
                    self.cursor = Some(cursor);
                    if self.is_new((order.order, order.status)) {
                        return Ok(order);
                    }
                }
                Some(Event::Return(Return::Failed(_, failure))) => {
                    self.open = None;
                    ended(failure)?;
                }
                Some(Event::Return(_)) => {}
                _ => self.open = None,
            }
        }
    }

    /// Up to where it has been read: what [`Client::watch_orders`] takes to go on later.
    pub fn cursor(&self) -> Option<OrderCursor> {
        self.cursor
    }

    fn is_new(&mut self, event: (u64, OrderStatus)) -> bool {
        let (order, status) = event;
        let is_over = |told| self.told.contains(&(order, told));
        // What was missed is told as it is now, and may come before what it was.
        if status == OrderStatus::Queued && FINAL.into_iter().any(is_over) {
            return false;
        }
        if !self.told.insert(event) {
            return false;
        }
        self.order.push_back(event);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.told.remove(&oldest);
        }
        true
    }

    async fn open(&mut self) -> Result<(), ClientError> {
        let (open, to) = self.client.subscribe(&Request::SubscribeOrders(self.cursor)).await?;
        // The server claims no more than what it told before: a connection that is lost before the first
        // event loses nothing either.
        self.cursor = to.parse().ok().or(self.cursor);
        self.open = Some(open);
        Ok(())
    }
}
