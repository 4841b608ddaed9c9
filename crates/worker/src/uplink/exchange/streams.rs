//! Order streams on their way through this worker (docs/design/0009-streams.md): which connection each
//! belongs to, and up to where it was told.
//!
//! Invariant: over all links, the events of a stream are
//! numbered without a gap, and a stream goes on where its last event on any link was.

use std::collections::HashMap;

use papertrader_core::time::WallTime;
use papertrader_node::error;
use papertrader_protocol::data::OrderCursor;
use papertrader_protocol::frame::Frame;
use papertrader_protocol::instruction::Instruction;
use papertrader_protocol::wire::{Reader, Wire};
use papertrader_protocol::{Reason, SessionId};

use super::{Exchange, as_it_came, client_header, refusal};
use crate::uplink::{Ask, Content, Route, Step};

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
        let is_first = self.cursor.is_none();
        // What it was told on an earlier link may be more.
        self.cursor.get_or_insert(cursor);
        is_first
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
}

impl Streams {
    /// A new one, and the number of an older one whose place it takes.
    pub(super) fn begin(&mut self, number: u64, ask: Ask) -> Option<(u64, Stream)> {
        let same = |route: &Route, session: SessionId| {
            let mine = (ask.route.thread, ask.route.connection);
            (route.thread, route.connection) == mine && session == ask.session
        };
        let older = self.by_number.iter().find(|(_, it)| same(&it.ask.route, it.ask.session));
        let older = older.map(|(number, _)| *number);
        let older = older.and_then(|old| self.by_number.remove_entry(&old));
        self.by_number.insert(number, Stream { ask, cursor: None, last: 0 });
        older
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Stream> {
        self.by_number.get_mut(&number)
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Stream> {
        self.by_number.remove(&number)
    }

    /// Takes out those that nobody listens to.
    pub(super) fn take_dead(&mut self) -> Vec<u64> {
        self.by_number
            .extract_if(|_, it| it.ask.route.is_dead())
            .map(|(number, _)| number)
            .collect()
    }

    /// The link is lost: takes out those that the master has not accepted.
    pub(super) fn take_unaccepted(&mut self) -> Vec<Stream> {
        self.by_number.extract_if(|_, it| !it.is_accepted()).map(|(_, stream)| stream).collect()
    }

    /// A new link: each gets a new number, and says from where on it goes on.
    pub(super) fn renumber(&mut self, mut next: impl FnMut() -> u64) -> Vec<u64> {
        let mut numbers = Vec::new();
        for (_, mut stream) in std::mem::take(&mut self.by_number) {
            let Some(cursor) = stream.cursor.filter(|_| !stream.ask.route.is_dead()) else {
                continue;
            };
            let number = next();
            stream.ask.data = cursor.to_string().into_bytes().into();
            self.by_number.insert(number, stream);
            numbers.push(number);
        }
        numbers
    }
}

impl Exchange {
    pub(super) fn take_stream(&mut self, ask: Ask) {
        let number = self.number();
        self.send(number, &ask, WallTime(0));
        if let Some((older, stream)) = self.streams.begin(number, ask) {
            self.end_stream(older);
            if !stream.is_accepted() {
                let ask = stream.ask;
                self.refuse(ask.route, ask.instruction, Step::Only, Reason::TooManyRequests);
            }
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
                match cursor.map(|cursor| stream.accept(cursor)) {
                    Some(true) => self.deliver(route, Step::Only, as_it_came(instruction, frame)),
                    Some(false) => {}
                    None => error!("the master's subscribed is not as the protocol says"),
                }
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
                let step = if stream.is_accepted() { Step::Push } else { Step::Only };
                self.streams.remove(number);
                self.forget_if_unknown(session, refusal(instruction, frame));
                self.deliver(route, step, as_it_came(instruction, frame));
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
        for number in self.streams.renumber(number) {
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
