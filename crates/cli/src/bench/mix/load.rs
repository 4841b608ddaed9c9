//! One thread of load: connections that each do one operation at a time, wait until all of it is
//! answered, and begin the next.
//!
//! What is said is decided by an [`Actor`]. An operation that was refused counts by its reason, and for nothing
//! else. Invariant: when [`Load::run`] returns no operation is under way, so that others
//! can be measured in turn.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use papertrader_protocol::Frame;

use super::operation::Operation;
use crate::bench::stream::{Opened, Stream};
use crate::bench::times::Times;
use crate::bench::{BenchError, wrong};

/// What one read may bring.
const READ: usize = 64 * 1024;
/// How long a server may say nothing at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who does operations on a connection.
pub(super) trait Actor {
    /// Appends the first requests of the next operation.
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<Operation, BenchError>;

    /// Takes an answer, and may append more requests of the operation.
    fn hear(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<Heard, BenchError>;
}

/// What an answer leaves.
pub(super) enum Heard {
    /// More to wait for, or it belongs to no operation that is under way.
    More,
    /// The operation is over.
    Done,
    /// The operation is over; the first reason why it did not go well.
    Refused(String),
}

/// What a run has seen.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) seconds: f64,
    /// How long each took that went well.
    pub(super) operations: BTreeMap<Operation, Times>,
    /// `OPERATION REASON`
    pub(super) refused: BTreeMap<String, u64>,
}

impl Seen {
    /// Operations that went well.
    pub(super) fn count(&self) -> u64 {
        self.operations.values().map(Times::count).sum()
    }

    /// Passwords that were hashed for what was seen.
    pub(super) fn hashes(&self) -> u64 {
        self.operations.iter().map(|(operation, times)| operation.hashes() * times.count()).sum()
    }

    /// Adds what another run has seen.
    pub(super) fn join(&mut self, other: Seen) -> Result<(), BenchError> {
        self.seconds += other.seconds;
        for (operation, times) in other.operations {
            self.operations.entry(operation).or_insert_with(Times::new).join(&times)?;
        }
        for (what, count) in other.refused {
            *self.refused.entry(what).or_default() += count;
        }
        Ok(())
    }
}

struct Connection<A> {
    stream: Stream,
    actor: A,
    /// The start of an answer that is not whole.
    rest: Vec<u8>,
    operation: Operation,
    begun: Instant,
    is_busy: bool,
}

/// The connections of a load.
pub(super) struct Load<A> {
    poll: Poll,
    events: Events,
    connections: Vec<Connection<A>>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl<A: Actor> Load<A> {
    pub(super) fn new(opened: Vec<(Opened, A)>) -> Result<Load<A>, BenchError> {
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(opened.len());
        for (number, (opened, actor)) in opened.into_iter().enumerate() {
            let mut stream = Stream::new(opened)?;
            poll.registry().register(stream.socket(), Token(number), Interest::READABLE)?;
            connections.push(Connection {
                stream,
                actor,
                rest: Vec::new(),
                operation: Operation::Enter,
                begun: Instant::now(),
                is_busy: false,
            });
        }
        let events = Events::with_capacity(1_024);
        Ok(Load { poll, events, connections, input: vec![0; READ], output: Vec::new() })
    }

    /// Those who did the operations.
    pub(super) fn into_actors(self) -> Vec<A> {
        self.connections.into_iter().map(|connection| connection.actor).collect()
    }

    /// Lets all do operations for as long as `warm`, then counts those that end within `time`, and waits for
    /// the last.
    pub(super) fn run(&mut self, warm: Duration, time: Duration) -> Result<Seen, BenchError> {
        let mut seen = Seen { seconds: time.as_secs_f64(), ..Seen::default() };
        let begin = Instant::now() + warm;
        let end = begin + time;
        let Load { poll, events, connections, input, output } = self;
        for connection in connections.iter_mut() {
            connection.begin(output)?;
        }
        let mut busy = connections.len();
        while busy > 0 {
            poll.poll(events, Some(PATIENCE))?;
            if events.is_empty() {
                return Err(wrong("the servers have said nothing for half a minute"));
            }
            for event in events.iter() {
                let Some(connection) = connections.get_mut(event.token().0) else { continue };
                let Some(ended) = connection.receive(input, output)? else { continue };
                let now = Instant::now();
                if now >= begin && now < end && connection.operation != Operation::Enter {
                    seen.add(connection.operation, now - connection.begun, ended);
                }
                if now < end {
                    connection.begin(output)?;
                } else {
                    busy -= 1;
                }
            }
        }
        Ok(seen)
    }
}

impl Seen {
    fn add(&mut self, operation: Operation, time: Duration, refused: Option<String>) {
        match refused {
            None => self.operations.entry(operation).or_insert_with(Times::new).add(time),
            Some(reason) => {
                *self.refused.entry(format!("{} {reason}", operation.name())).or_default() += 1;
            }
        }
    }
}

impl<A: Actor> Connection<A> {
    fn begin(&mut self, output: &mut Vec<u8>) -> Result<(), BenchError> {
        output.clear();
        self.operation = self.actor.begin(output)?;
        self.is_busy = true;
        self.begun = Instant::now();
        self.send(output)
    }

    fn send(&mut self, output: &[u8]) -> Result<(), BenchError> {
        // One operation is less than any system takes at once.
        if self.stream.write(output)? < output.len() {
            return Err(wrong("a server does not read what it is asked"));
        }
        Ok(())
    }

    /// Takes what has come. If the operation that was under way is over: whether it was refused, and
    /// why.
    fn receive(
        &mut self,
        input: &mut [u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<Option<String>>, BenchError> {
        let mut ended = None;
        output.clear();
        loop {
            let count = match self.stream.read(input) {
                Ok(0) => return Err(wrong("a server has closed a connection")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            self.rest.extend_from_slice(input.get(..count).unwrap_or_default());
            let mut used = 0;
            while let Some((frame, length)) =
                Frame::decode(self.rest.get(used..).unwrap_or_default()).map_err(wrong)?
            {
                used += length;
                match self.actor.hear(&frame, output)? {
                    Heard::More => continue,
                    Heard::Done => ended = Some(None),
                    Heard::Refused(reason) => ended = Some(Some(reason)),
                }
                if !std::mem::replace(&mut self.is_busy, false) {
                    return Err(wrong("the end of an operation that was not under way"));
                }
            }
            self.rest.drain(..used);
            if self.stream.is_drained(count, input.len()) {
                break;
            }
        }
        if !output.is_empty() {
            self.send(output)?;
        }
        Ok(ended)
    }
}
