//! Order streams: who follows the orders of an account, what they are told, and what they have missed
//! (docs/design/0009-streams.md).
//!
//! It decides nothing about orders, and keeps no event: what was missed is read from the store.
//!
//! Invariant: a cursor that was told never claims more than was told before it on the same stream.

use std::collections::HashMap;

use papertrader_core::ids::{AccountId, OrderId};
use papertrader_core::order::{Order, OrderRecord, OrderState};
use papertrader_core::time::{Moment, WallTime};
use papertrader_node::{debug, error};
use papertrader_protocol::data::{OrderCursor, OrderEvent};
use papertrader_protocol::returns::Return;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Failure, Header, Instruction, Reason, SessionId};
use papertrader_store::{Since, StoreError, StoreReader};

use crate::database::Read;
use crate::driver::{Driver, Event};
use crate::reads::order_line;
use crate::workers::{LinkId, Origin};

/// Streams that follow one account at most.
const STREAMS: usize = 16;
/// Orders that one stream has missed at most; whoever missed more asks for all.
const MISSED: usize = 5_000;

/// All streams.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    by_account: HashMap<AccountId, Vec<Stream>>,
    /// Whose each is: a worker ends thousands at a time.
    accounts: HashMap<(LinkId, u64), AccountId>,
}

/// One subscription.
#[derive(Debug)]
struct Stream {
    origin: Origin,
    session: SessionId,
    /// What is to be told after what was missed, while that is being read.
    held: Option<Vec<OrderEvent>>,
}

impl Stream {
    fn is(&self, link: LinkId, request: u64) -> bool {
        self.origin.link == link && self.origin.request == request
    }
}

/// What a stream has missed was read.
pub(crate) struct Missed {
    account: AccountId,
    link: LinkId,
    request: u64,
    since: OrderCursor,
    orders: Result<Vec<OrderRecord>, StoreError>,
}

impl Followers {
    /// A link is gone, and with it its streams.
    pub(crate) fn link_closed(&mut self, link: LinkId) {
        let gone: Vec<_> = self.accounts.extract_if(|(of, _), _| *of == link).collect();
        for ((link, request), account) in gone {
            self.take_out(account, link, request);
        }
    }

    /// Nobody listens to a stream any more.
    pub(crate) fn ended(&mut self, link: LinkId, request: u64) {
        if let Some(account) = self.accounts.remove(&(link, request)) {
            self.take_out(account, link, request);
        }
    }

    fn add(&mut self, account: AccountId, stream: Stream) {
        // A worker that numbers two alike has one of them.
        self.ended(stream.origin.link, stream.origin.request);
        self.accounts.insert((stream.origin.link, stream.origin.request), account);
        self.by_account.entry(account).or_default().push(stream);
    }

    fn take_out(&mut self, account: AccountId, link: LinkId, request: u64) {
        let Some(streams) = self.by_account.get_mut(&account) else { return };
        streams.retain(|stream| !stream.is(link, request));
        if streams.is_empty() {
            self.by_account.remove(&account);
        }
    }
}

impl Driver {
    /// A client follows its account's orders: from now on, or from where it was.
    pub(crate) fn follow(
        &mut self,
        origin: Origin,
        session: SessionId,
        account: AccountId,
        from: Option<OrderCursor>,
    ) -> Result<(), Reason> {
        if self.followers.by_account.get(&account).is_some_and(|all| all.len() >= STREAMS) {
            return Err(Reason::TooManyRequests);
        }
        let held = match from {
            None => {
                let cursor = self.cursor(account, None);
                self.answer(origin, &Return::Subscribed(cursor.to_string()));
                None
            }
            Some(since) => {
                self.read_missed(origin, account, since)?;
                Some(Vec::new())
            }
        };
        let stream = Stream { origin, session, held };
        self.followers.add(account, stream);
        Ok(())
    }

    fn read_missed(
        &mut self,
        origin: Origin,
        account: AccountId,
        cursor: OrderCursor,
    ) -> Result<(), Reason> {
        let events = self.events.clone();
        let since = Since {
            placed: OrderId(cursor.order),
            decided: cursor.decided,
            open: OrderId(cursor.open),
        };
        let run = Box::new(move |reader: &mut dyn StoreReader| {
            let orders = reader.orders_since(account, &since, MISSED + 1);
            let Origin { link, request, .. } = origin;
            let missed = Missed { account, link, request, since: cursor, orders };
            // An error means that the master has ended.
            let _ = events.blocking_send(Event::Missed(Box::new(missed)));
        });
        self.submit_read(Read { origin, run })
    }

    /// What a stream has missed is told, and then what came meanwhile.
    pub(crate) fn tell_missed(&mut self, missed: Missed) {
        let Missed { account, link, request, since, orders } = missed;
        let streams = self.followers.by_account.get_mut(&account);
        let stream = streams.and_then(|all| all.iter_mut().find(|it| it.is(link, request)));
        // It may have ended meanwhile.
        let Some(stream) = stream else { return };
        let (origin, session) = (stream.origin, stream.session);
        let held = stream.held.take().unwrap_or_default();
        let owner = self.accounts.authorize(link, session, self.clock.now());
        if owner != Ok(account) {
            self.followers.ended(link, request);
            return self.refuse(origin, owner.err().unwrap_or(Reason::SessionUnknown));
        }
        let orders = match orders {
            Ok(orders) if orders.len() <= MISSED => orders,
            refused => {
                let why = match refused {
                    Ok(_) => {
                        let words = "too many orders were missed: ask for your orders and history";
                        Failure::new(Reason::RangeTooLarge, words)
                    }
                    Err(error) => {
                        error!(%error, "a read failed");
                        Reason::Unavailable.into()
                    }
                };
                self.followers.ended(link, request);
                return self.refuse(origin, why);
            }
        };
        // Until the last one is told nothing may be claimed, but for the last.
        let instruments = self.assets.instruments();
        let lines: Vec<_> = orders.iter().filter_map(|it| order_line(it, instruments)).collect();
        let is_told = |event: &OrderEvent| {
            let same = lines.iter().find(|line| line.order == event.order.order);
            same.is_some_and(|line| line.decided.is_some() || event.order.decided.is_none())
        };
        let held: Vec<OrderEvent> = held.into_iter().filter(|event| !is_told(event)).collect();
        let last = lines.len();
        // What was held was told to nobody yet: the cursor before it is that of the reading's begin.
        let reached = match held.first() {
            None => self.cursor(account, None),
            Some(_) => since,
        };
        let begin = if last == 0 { reached } else { since };
        self.answer(origin, &Return::Subscribed(begin.to_string()));
        for (at, order) in lines.into_iter().enumerate() {
            let cursor = if at + 1 == last { reached } else { since };
            self.tell(origin, &OrderEvent { number: 0, cursor, order });
        }
        for event in &held {
            self.tell(origin, event);
        }
    }

    /// Tells those who follow an account that its order was placed or decided.
    pub(crate) fn tell_followers(
        &mut self,
        order: &Order,
        state: OrderState,
        decided: Option<Moment>,
    ) {
        let account = order.request.account;
        if !self.followers.by_account.contains_key(&account) {
            return;
        }
        let cursor = self.cursor(account, Some((order.id, decided.map(|at| at.wall))));
        let record = OrderRecord { order: order.clone(), state, decided };
        let Some(order) = order_line(&record, self.assets.instruments()) else { return };
        let event = OrderEvent { number: 0, cursor, order };
        let now = self.clock.now();
        let mut streams = self.followers.by_account.remove(&account).unwrap_or_default();
        streams.retain_mut(|stream| {
            let Origin { link, request, .. } = stream.origin;
            match self.accounts.authorize(stream.origin.link, stream.session, now) {
                Ok(owner) if owner == account => {}
                other => {
                    debug!(account = account.0, "a stream ends with its session");
                    self.followers.accounts.remove(&(link, request));
                    self.refuse(stream.origin, other.err().unwrap_or(Reason::SessionUnknown));
                    return false;
                }
            }
            match &mut stream.held {
                Some(held) => held.push(event.clone()),
                None => self.tell(stream.origin, &event),
            }
            true
        });
        if !streams.is_empty() {
            self.followers.by_account.insert(account, streams);
        }
    }

    fn tell(&mut self, origin: Origin, event: &OrderEvent) {
        let instruction = Instruction::OrderEvent;
        let header = Header::new(instruction.message_type(), instruction as u16, origin.request);
        self.workers.say(origin.link, |out| header.encode_with(out, |out| event.put(out)));
    }

    /// Up to where all of an account's events have been told, once an event is that tells of an order
    /// and the time of its decision.
    fn cursor(
        &self,
        account: AccountId,
        telling: Option<(OrderId, Option<WallTime>)>,
    ) -> OrderCursor {
        // Of what is being written, or told, and of this decision itself, others may come yet.
        let mut decided = self.formed;
        let mut open = OrderId(self.trading.last_placed().0 + 1);
        for settlement in self.trading.untold() {
            decided = decided.min(settlement.moment.wall);
            let first = settlement.decisions.partition_point(|it| it.account < account);
            let own = settlement.decisions.get(first..).unwrap_or_default();
            let own = own.iter().take_while(|it| it.account == account);
            open = own.map(|it| it.order).fold(open, OrderId::min);
        }
        if let Some((_, Some(at))) = telling {
            decided = decided.min(at);
        }
        let still = self.books.open_orders_of(account).iter().map(|it| it.order.id);
        open = still.fold(open, OrderId::min);
        // An order that is told as placed may be decided next.
        if let Some((order, _)) = telling {
            open = open.min(order);
        }
        OrderCursor {
            order: self.trading.last_placed().0,
            decided: decided.plus_nanos(-1),
            open: open.0,
        }
    }
}
