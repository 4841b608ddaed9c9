//! One client's connection: moves bytes, keeps the state of 4.2, and bounds everything.
//!
//! What a frame means is decided in `judge` and `serve`. Invariants: all answers to what one read
//! brought leave in one write; a client that does not read is not read from; a client that stops
//! in the middle of a message, or takes nothing of what is sent, is cut off after a time.
//!
//! ```text
//!   open ── goodbye, or its end of the connection closed ──▶ draining ── all answered ──▶ closed
//!    │  ╲── the worker ends: goodbye shuttingDown ───────────▲   │ time over               ▲
//!    ╰───── bytes that cannot be framed ──▶ closing ─────────────┴── all written ──────────╯
//! ```

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use papertrader_node::connection::Inbox;
use papertrader_node::debug;
use papertrader_protocol::instruction::{Instruction, State};
use papertrader_protocol::returns::Return;
use papertrader_protocol::{Failure, FrameError, Reason};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::outbox::Outbox;
use super::{Hub, serve};
use crate::auth::Attachment;

/// While more than this waits to be written, nothing is read.
const PAUSE: usize = 256 * 1024;
/// How long the client's end of a closed connection is awaited, so that the last words arrive.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing more is read; what was asked is answered, until the time is over.
    Draining(Instant),
    /// Only what waits is written.
    Closing,
}

/// A connection as its thread sees it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) peer: SocketAddr,
    phase: Cell<Phase>,
    wake: Notify,
    /// Whoever holds a weak reference to it can see that the connection is gone.
    alive: Arc<()>,
    pub(super) inner: RefCell<Inner>,
}

/// What changes while it is served.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) state: State,
    pub(super) out: Outbox,
    /// Requests that wait for their first answer.
    pub(super) waiting: usize,
    /// Queued orders whose outcome will come.
    pub(super) outcomes: usize,
    /// The sessions that it uses, the last one used last.
    pub(super) sessions: Vec<Attachment>,
    pub(super) transfers: Transfers,
}

/// Data transfers under way, and the answers to `switchState` that wait for them.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    next: u64,
    open: BTreeSet<u64>,
    switches: VecDeque<(u64, u64, State)>,
}

impl Transfers {
    /// A transfer begins; the number under which it ends.
    pub(super) fn begin(&mut self) -> u64 {
        self.next += 1;
        self.open.insert(self.next);
        self.next
    }

    /// A transfer has ended.
    pub(super) fn end(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// A `switchState` whose answer waits for the transfers that began before it.
    pub(super) fn switch(&mut self, request: u64, state: State) {
        self.switches.push_back((self.next, request, state));
    }

    /// How many answers wait.
    pub(super) fn waiting(&self) -> usize {
        self.switches.len()
    }

    /// The next `switchState` that can be answered.
    pub(super) fn ready(&mut self) -> Option<(u64, State)> {
        let (after, request, state) = *self.switches.front()?;
        if self.open.first().is_some_and(|first| *first <= after) {
            return None;
        }
        self.switches.pop_front();
        Some((request, state))
    }
}

impl Connection {
    pub(super) fn new(id: u64, peer: SocketAddr) -> Connection {
        let inner = Inner {
            state: State::Command,
            out: Outbox::default(),
            waiting: 0,
            outcomes: 0,
            sessions: Vec::new(),
            transfers: Transfers::default(),
        };
        Connection {
            id,
            peer,
            phase: Cell::new(Phase::Open),
            wake: Notify::new(),
            alive: Arc::new(()),
            inner: RefCell::new(inner),
        }
    }

    pub(super) fn alive(&self) -> Weak<()> {
        Arc::downgrade(&self.alive)
    }

    /// Something was put into the outbox from outside of its own task.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Nothing more is read; ends when everything is answered, or at `deadline`.
    pub(super) fn drain(&self, deadline: Instant) {
        if self.phase.get() == Phase::Open {
            self.phase.set(Phase::Draining(deadline));
        }
    }

    /// Ends as soon as everything is written.
    pub(super) fn close(&self) {
        self.phase.set(Phase::Closing);
    }

    pub(super) fn say_goodbye(&self, reason: Reason, deadline: Instant) {
        if self.phase.get() == Phase::Open {
            let goodbye = Return::Goodbye(reason.into());
            self.inner.borrow_mut().out.put(|out| goodbye.put(0, out));
        }
        self.phase.set(match self.phase.get() {
            Phase::Open => Phase::Draining(deadline),
            Phase::Draining(before) => Phase::Draining(before.min(deadline)),
            Phase::Closing => Phase::Closing,
        });
        self.wake();
    }

    fn is_open(&self) -> bool {
        self.phase.get() == Phase::Open
    }

    /// Whether nothing is left to do, once everything is written.
    fn is_finished(&self) -> bool {
        match self.phase.get() {
            Phase::Open => false,
            Phase::Draining(deadline) => {
                let inner = self.inner.borrow();
                (inner.waiting == 0 && inner.transfers.waiting() == 0) || Instant::now() >= deadline
            }
            Phase::Closing => true,
        }
    }

    fn refuse_bytes(&self, error: FrameError) {
        let reason = match error {
            FrameError::Version(_) => Reason::BadVersion,
            FrameError::TooLarge(_) => Reason::FrameTooLarge,
            FrameError::Field(_) => Reason::BadFrame,
        };
        let failure = Failure::new(reason, error.to_string());
        let refusal = Return::Failed(Instruction::CommandFail, failure);
        self.inner.borrow_mut().out.put(|out| refusal.put(0, out));
        self.close();
    }
}

/// Serves one connection until it ends.
pub(super) async fn run<R, W>(hub: &Rc<Hub>, connection: &Rc<Connection>, reader: R, mut writer: W)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let config = &hub.shared.config;
    let mut inbox = Inbox::new(reader);
    // What is being written, and how much of it is.
    let (mut chunk, mut written) = (Vec::new(), 0);
    let mut frame_deadline = None;
    let mut write_deadline = None;
    let mut client_closed = false;
    loop {
        let mut paused = false;
        let mut now = None;
        while connection.is_open() {
            if connection.inner.borrow().out.bytes() >= PAUSE {
                paused = true;
                break;
            }
            match inbox.frame() {
                Ok(Some(frame)) => {
                    frame_deadline = None;
                    let now = *now.get_or_insert_with(|| hub.shared.clock.now());
                    serve::handle(hub, connection, &frame, now);
                }
                Ok(None) => break,
                Err(error) => connection.refuse_bytes(error),
            }
        }
        if paused || !connection.is_open() || !inbox.has_partial() {
            frame_deadline = None;
        } else if frame_deadline.is_none() {
            frame_deadline = Some(Instant::now() + config.frame_timeout);
        }
        if written == chunk.len() {
            chunk = connection.inner.borrow_mut().out.take_chunk();
            written = 0;
            write_deadline =
                if chunk.is_empty() { None } else { Some(Instant::now() + config.write_timeout) };
        }
        if chunk.is_empty() && connection.is_finished() {
            break;
        }
        if connection.inner.borrow().out.bytes() > config.max_outgoing_bytes {
            debug!(peer = %connection.peer, "a client asks for more than it reads");
            return;
        }
        let drain_deadline = match connection.phase.get() {
            Phase::Draining(deadline) => Some(deadline),
            _ => None,
        };
        let due = [frame_deadline, write_deadline, drain_deadline].into_iter().flatten().min();
        tokio::select! {
            biased;
            result = writer.write(&chunk[written..]), if !chunk.is_empty() => match result {
                Ok(count) if count > 0 => {
                    written += count;
                    write_deadline = Some(Instant::now() + config.write_timeout);
                }
                _ => return,
            },
            result = inbox.fill(), if !paused && connection.is_open() => match result {
                Ok(0) => {
                    client_closed = true;
                    if inbox.has_partial() {
                        connection.close();
                    } else {
                        connection.drain(Instant::now() + config.write_timeout);
                    }
                }
                Ok(_) => {}
                Err(_) => return,
            },
            () = connection.wake.notified() => {}
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                debug!(peer = %connection.peer, "a client took too long");
                return;
            }
        }
    }
    // The last words arrive only if the client's are read to their end: closing a socket with
    // unread bytes in it would take back what is still on its way.
    if writer.shutdown().await.is_ok() && !client_closed {
        let _ = timeout(LINGER.min(config.drain), async {
            loop {
                inbox.clear();
                match inbox.fill().await {
                    Ok(count) if count > 0 => {}
                    _ => return,
                }
            }
        })
        .await;
    }
}

/// Tells a client for which there is no room to try another worker.
pub(crate) async fn refuse(mut stream: TcpStream) {
    let mut out = Vec::new();
    Return::Goodbye(Reason::Busy.into()).put(0, &mut out);
    let _ = timeout(LINGER, async {
        stream.write_all(&out).await?;
        stream.shutdown().await
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_waits_for_the_transfers_before_it_and_for_no_other() {
        let mut transfers = Transfers::default();
        transfers.switch(1, State::DataTransfer);
        assert_eq!(transfers.ready(), Some((1, State::DataTransfer)));
        let (a, b) = (transfers.begin(), transfers.begin());
        transfers.switch(2, State::Command);
        transfers.switch(3, State::DataTransfer);
        let c = transfers.begin();
        transfers.switch(4, State::Command);
        transfers.end(b);
        assert_eq!(transfers.ready(), None);
        transfers.end(a);
        assert_eq!(transfers.ready(), Some((2, State::Command)));
        assert_eq!(transfers.ready(), Some((3, State::DataTransfer)));
        assert_eq!(transfers.ready(), None);
        transfers.end(c);
        assert_eq!(transfers.ready(), Some((4, State::Command)));
        assert_eq!(transfers.ready(), None);
    }
}
