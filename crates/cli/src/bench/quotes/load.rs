//! One thread of load: connections that each send a burst of questions in one write, wait for all of
//! its answers, and send the next. Every server is asked by this same code.
//!
//! It waits for the system's word that a connection can be read; nothing is allocated for a message.
//! Invariant: when [`Load::run`] returns no question is open, so that servers can be asked in turn.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};

use super::talk::Talk;
use crate::bench::stream::{Opened, Stream};
use crate::bench::{BenchError, wrong};

/// What one read may bring.
const READ: usize = 256 * 1024;
/// How long a server may say nothing at all.
const PATIENCE: Duration = Duration::from_secs(10);

struct Connection<T> {
    stream: Stream,
    talk: T,
    /// The start of an answer that is not whole.
    rest: Vec<u8>,
    sent_at: Instant,
    /// Answers that are still to come.
    open: usize,
}

/// What a run has seen.
pub(super) struct Seen {
    pub(super) answers: u64,
    pub(super) seconds: f64,
    /// Nanoseconds from sending a burst to its last answer, for each question of it.
    pub(super) waits: Histogram<u64>,
}

impl Seen {
    fn new() -> Seen {
        // Three digits, up to a minute: these bounds are valid.
        let waits = Histogram::new_with_bounds(1, 60_000_000_000, 3);
        let waits = waits.unwrap_or_else(|_| unreachable!("the bounds are constants"));
        Seen { answers: 0, seconds: 0.0, waits }
    }

    /// Adds what another thread has seen at the same time.
    pub(super) fn join(&mut self, other: &Seen) -> Result<(), BenchError> {
        self.answers += other.answers;
        self.seconds = self.seconds.max(other.seconds);
        self.waits.add(&other.waits).map_err(wrong)
    }

    pub(super) fn rate(&self) -> f64 {
        self.answers as f64 / self.seconds
    }

    /// Microseconds.
    pub(super) fn quantile(&self, part: f64) -> f64 {
        self.waits.value_at_quantile(part) as f64 / 1_000.0
    }
}

/// The connections of a thread to one server.
pub(super) struct Load<T> {
    poll: Poll,
    events: Events,
    connections: Vec<Connection<T>>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl<T: Talk> Load<T> {
    pub(super) fn new(opened: Vec<(Opened, T)>) -> Result<Load<T>, BenchError> {
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(opened.len());
        for (number, (opened, talk)) in opened.into_iter().enumerate() {
            let mut stream = Stream::new(opened)?;
            poll.registry().register(stream.socket(), Token(number), Interest::READABLE)?;
            let (rest, sent_at) = (Vec::new(), Instant::now());
            connections.push(Connection { stream, talk, rest, sent_at, open: 0 });
        }
        let events = Events::with_capacity(1_024);
        Ok(Load { poll, events, connections, input: vec![0; READ], output: Vec::new() })
    }

    /// What was said on each connection.
    pub(super) fn talks(&self) -> impl Iterator<Item = &T> {
        self.connections.iter().map(|connection| &connection.talk)
    }

    /// Sends bursts of `depth` for as long as `warm`, then counts for as long as `time`.
    pub(super) fn run(
        &mut self,
        depth: usize,
        warm: Duration,
        time: Duration,
    ) -> Result<Seen, BenchError> {
        let mut seen = Seen::new();
        let begin = Instant::now() + warm;
        let end = begin + time;
        let mut counted = None;
        let Load { poll, events, connections, input, output } = self;
        for connection in connections.iter_mut() {
            connection.send(depth, output)?;
        }
        let mut busy = connections.len();
        let mut last = begin;
        while busy > 0 {
            poll.poll(events, Some(PATIENCE))?;
            if events.is_empty() {
                return Err(wrong("a server has not answered for ten seconds"));
            }
            for event in events.iter() {
                let Some(connection) = connections.get_mut(event.token().0) else { continue };
                if !connection.receive(input)? || connection.open > 0 {
                    continue;
                }
                let now = Instant::now();
                if now >= begin && now < end {
                    if counted.is_none() {
                        counted = Some(now);
                    } else {
                        let wait = now - connection.sent_at;
                        let wait = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
                        seen.waits.saturating_record_n(wait.max(1), depth as u64);
                        seen.answers += depth as u64;
                        last = now;
                    }
                }
                if now < end {
                    connection.send(depth, output)?;
                } else {
                    busy -= 1;
                }
            }
        }
        let first = counted.ok_or_else(|| wrong("a server has not answered in time"))?;
        seen.seconds = (last - first).as_secs_f64();
        Ok(seen)
    }
}

impl<T: Talk> Connection<T> {
    fn send(&mut self, depth: usize, output: &mut Vec<u8>) -> Result<(), BenchError> {
        output.clear();
        for _ in 0..depth {
            self.talk.ask(output);
        }
        self.open = depth;
        self.sent_at = Instant::now();
        let written = self.stream.write(output)?;
        if written < output.len() {
            let problem = "is more than the system takes in one write".into();
            return Err(BenchError::Option { name: "--depth", problem });
        }
        Ok(())
    }

    /// Takes what has come; false if it was nothing.
    fn receive(&mut self, input: &mut [u8]) -> Result<bool, BenchError> {
        let mut has_any = false;
        loop {
            let count = match self.stream.read(input) {
                Ok(0) => return Err(wrong("a server has closed a connection")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(has_any),
                Err(error) => return Err(error.into()),
            };
            has_any = true;
            self.take(input.get(..count).unwrap_or_default())?;
            if self.stream.is_drained(count, input.len()) {
                return Ok(true);
            }
        }
    }

    fn take(&mut self, new: &[u8]) -> Result<(), BenchError> {
        if self.rest.is_empty() {
            let used = hear_all(&mut self.talk, &mut self.open, new)?;
            self.rest.extend_from_slice(new.get(used..).unwrap_or_default());
        } else {
            self.rest.extend_from_slice(new);
            let used = hear_all(&mut self.talk, &mut self.open, &self.rest)?;
            self.rest.drain(..used);
        }
        Ok(())
    }
}

fn hear_all(talk: &mut impl Talk, open: &mut usize, input: &[u8]) -> Result<usize, BenchError> {
    let mut used = 0;
    while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) {
        let Some(length) = talk.hear(rest)? else { break };
        *open = open.checked_sub(1).ok_or_else(|| wrong("an answer to no question"))?;
        used += length;
    }
    Ok(used)
}
