//! Order streams on their way through this worker (docs/design/0009-streams.md): which connection each
//! belongs to, and up to where it was told.
//!
//! It does not send; it says what must be sent. Invariant: over all links, the events of a stream are
//! numbered without a gap, and a stream goes on where its last event on any link was.

use std::collections::HashMap;

use papertrader_protocol::SessionId;
use papertrader_protocol::data::OrderCursor;
use papertrader_protocol::wire::{Reader, Wire};

use super::{Ask, Route};

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
