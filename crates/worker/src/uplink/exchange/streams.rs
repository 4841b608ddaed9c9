//! Order streams on their way through this worker (docs/design/0009-streams.md): which connection each
//! belongs to, and up to where it was told.
//!
//! Invariant: over all links, the events of a stream are
//! numbered without a gap, and a stream goes on where its last event on any link was. No more than some
//! hundred are resumed at a time: the master reads for each what it missed.

use std::collections::{HashMap, HashSet, VecDeque};

use papertrader_core::time::WallTime;
use papertrader_node::error;
use papertrader_protocol::data::OrderCursor;
use papertrader_protocol::frame::Frame;
use papertrader_protocol::instruction::Instruction;
use papertrader_protocol::wire::{Reader, Wire};
use papertrader_protocol::{Reason, SessionId};

use super::{Exchange, as_it_came, client_header, refusal};
use crate::uplink::{Ask, Content, Route, Step};

/// Streams that the master is asked to resume at a time.
const RESUMING: usize = 256;

/// A subscription of a client.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) ask: Ask,
    /// Up to where it was told. `None` until the master has accepted it.
    cursor: Option<OrderCursor>,
    /// The number of its last event.
    last: u64,
}

impl Stream {
    /// Whether the client has its first answer.
    pub(super) fn is_accepted(&self) -> bool {
        self.cursor.is_some()
    }

    /// The master has accepted it. Whether the client must be told.
    pub(super) fn accept(&mut self, cursor: OrderCursor) -> bool {
        // It claims no more than what was told before it.
        self.cursor.replace(cursor).is_none()
    }

    /// Numbers an event, the bytes of an `OrderEvent`. False if it is none.
    pub(super) fn number(&mut self, event: &mut [u8]) -> bool {
        let mut reader = Reader::new(event);
        let heads = (u64::take(&mut reader), OrderCursor::take(&mut reader));
        let (Ok(_), Ok(cursor)) = heads else { return false };
        let Some(place) = event.first_chunk_mut() else { return false };
        self.last += 1;
        self.cursor = Some(cursor);
        *place = self.last.to_be_bytes();
        true
    }
}

/// All of them, by the numbers that they have on the present link.
#[derive(Debug, Default)]
pub(super) struct Streams {
    by_number: HashMap<u64, Stream>,
    /// The numbers of a session's: a few.
    by_session: HashMap<SessionId, Vec<u64>>,
    /// Those that are to be resumed, and how many the master is asked to resume.
    waiting: VecDeque<u64>,
    resuming: HashSet<u64>,
}

impl Streams {
    fn insert(&mut self, number: u64, stream: Stream) {
        self.by_session.entry(stream.ask.session).or_default().push(number);
        self.by_number.insert(number, stream);
    }

    /// The one that a connection has under a session.
    pub(super) fn of(&self, route: &Route, session: SessionId) -> Option<u64> {
        let is_its = |number: &&u64| {
            self.by_number.get(*number).is_some_and(|it| {
                let of = &it.ask.route;
                (of.thread, of.connection) == (route.thread, route.connection)
            })
        };
        self.by_session.get(&session)?.iter().find(is_its).copied()
    }

    /// Those of a session.
    pub(super) fn of_session(&self, session: SessionId) -> Vec<u64> {
        self.by_session.get(&session).cloned().unwrap_or_default()
    }

    /// A new one.
    pub(super) fn begin(&mut self, number: u64, ask: Ask) {
        self.insert(number, Stream { ask, cursor: None, last: 0 });
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Stream> {
        self.by_number.get_mut(&number)
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Stream> {
        let stream = self.by_number.remove(&number)?;
        self.resuming.remove(&number);
        if let Some(numbers) = self.by_session.get_mut(&stream.ask.session) {
            numbers.retain(|it| *it != number);
            if numbers.is_empty() {
                self.by_session.remove(&stream.ask.session);
            }
        }
        Some(stream)
    }

    /// Takes out those that nobody listens to.
    pub(super) fn take_dead(&mut self) -> Vec<u64> {
        let is_dead = |(_, it): &(&u64, &Stream)| it.ask.route.is_dead();
        let dead: Vec<u64> = self.by_number.iter().filter(is_dead).map(|(n, _)| *n).collect();
        dead.into_iter().filter(|number| self.remove(*number).is_some()).collect()
    }

    /// The link is lost: takes out those that the master has not accepted.
    pub(super) fn take_unaccepted(&mut self) -> Vec<Stream> {
        let is_new = |(_, it): &(&u64, &Stream)| !it.is_accepted();
        let new: Vec<u64> = self.by_number.iter().filter(is_new).map(|(n, _)| *n).collect();
        new.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    /// A new link: each gets a new number, and waits to be resumed.
    pub(super) fn renumber(&mut self, mut next: impl FnMut() -> u64) {
        let before = std::mem::take(self);
        for stream in before.by_number.into_values() {
            if stream.is_accepted() && !stream.ask.route.is_dead() {
                let number = next();
                self.insert(number, stream);
                self.waiting.push_back(number);
            }
        }
    }

    /// The master does not take it up just now: it is resumed later.
    fn put_off(&mut self, number: u64) {
        self.resuming.remove(&number);
        self.waiting.push_back(number);
    }

    /// The next one to be resumed, which says from where on it goes on.
    fn resume_next(&mut self) -> Option<u64> {
        while self.resuming.len() < RESUMING {
            let number = self.waiting.pop_front()?;
            // It may have ended meanwhile.
            let Some(stream) = self.by_number.get_mut(&number) else { continue };
            let Some(cursor) = stream.cursor else { continue };
            stream.ask.data = cursor.to_string().into_bytes().into();
            self.resuming.insert(number);
            return Some(number);
        }
        None
    }
}

impl Exchange {
    pub(super) fn take_stream(&mut self, ask: Ask) {
        if let Some(older) = self.streams.of(&ask.route, ask.session) {
            // What the master is still reading for is not asked for a second time.
            if self.streams.get_mut(older).is_some_and(|stream| !stream.is_accepted()) {
                let reason = Reason::TooManyRequests;
                return self.refuse(ask.route, ask.instruction, Step::Only, reason);
            }
            self.displace(older, Reason::TooManyRequests);
        }
        let number = self.number();
        self.send(number, &ask, WallTime(0));
        self.streams.begin(number, ask);
    }

    /// Ends a stream here and at the master, and tells its client why.
    fn displace(&mut self, number: u64, reason: Reason) {
        let Some(stream) = self.streams.remove(number) else { return };
        self.end_stream(number);
        let step = if stream.is_accepted() { Step::Push } else { Step::Only };
        self.refuse(stream.ask.route, stream.ask.instruction, step, reason);
    }

    /// The master has ended a session, and its streams with it.
    pub(super) fn end_streams_of(&mut self, session: SessionId) {
        for number in self.streams.of_session(session) {
            self.displace(number, Reason::SessionUnknown);
        }
    }

    /// Tells the master that nobody listens to a stream.
    pub(super) fn end_stream(&mut self, number: u64) {
        let mut header = self.own_header(Instruction::StreamEnded);
        header.request = number;
        header.encode(&[], &mut self.output);
    }

    /// False if there is no such stream.
    pub(super) fn stream_told(
        &mut self,
        number: u64,
        instruction: Instruction,
        frame: &Frame<'_>,
    ) -> bool {
        let Some(stream) = self.streams.get_mut(number) else { return false };
        let (route, session) = (stream.ask.route.clone(), stream.ask.session);
        match instruction {
            Instruction::Subscribed => {
                let cursor = std::str::from_utf8(frame.data).ok().and_then(|it| it.parse().ok());
                let taken = cursor.map(|cursor| stream.accept(cursor));
                self.streams.resuming.remove(&number);
                match taken {
                    Some(true) => self.deliver(route, Step::Only, as_it_came(instruction, frame)),
                    Some(false) => {}
                    None => error!("the master's subscribed is not as the protocol says"),
                }
                self.resume_more();
            }
            Instruction::OrderEvent if route.is_dead() => {
                self.streams.remove(number);
                self.end_stream(number);
            }
            Instruction::OrderEvent => {
                let mut data: Box<[u8]> = frame.data.into();
                if stream.number(&mut data) {
                    let content = Content::Return { instruction, arguments: 0, data };
                    self.deliver(route, Step::Push, content);
                } else {
                    error!("the master's orderEvent is not as the protocol says");
                }
            }
            _ => {
                let refused = refusal(instruction, frame);
                let is_later = matches!(refused, Some(Reason::Busy | Reason::Unavailable));
                // Its client need not know of it.
                if is_later && stream.is_accepted() {
                    self.streams.put_off(number);
                    return true;
                }
                let step = if stream.is_accepted() { Step::Push } else { Step::Only };
                self.streams.remove(number);
                self.forget_if_unknown(session, refused);
                self.deliver(route, step, as_it_came(instruction, frame));
                self.resume_more();
            }
        }
        true
    }

    /// A new link: streams go on where they were.
    pub(super) fn resume_streams(&mut self) {
        let next = &mut self.next_number;
        let number = || {
            *next += 1;
            *next - 1
        };
        self.streams.renumber(number);
        self.resume_more();
    }

    /// Asks the master to resume as many as it is asked for at a time.
    pub(super) fn resume_more(&mut self) {
        while let Some(number) = self.streams.resume_next() {
            if let Some(stream) = self.streams.get_mut(number) {
                let header = client_header(&self.shared, number, &stream.ask, WallTime(0));
                header.encode(&stream.ask.data, &mut self.output);
            }
        }
    }

    /// The link is lost: streams that the master has not accepted are refused.
    pub(super) fn drop_unaccepted_streams(&mut self) {
        for stream in self.streams.take_unaccepted() {
            let ask = stream.ask;
            self.refuse(ask.route, ask.instruction, Step::Only, Reason::Unavailable);
        }
    }
}
