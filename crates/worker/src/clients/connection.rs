//! One client's connection: moves bytes, keeps the state of 4.2, and bounds everything.
//!
//! What a frame means is decided in `judge` and `serve`. Invariants: all answers to what one read
//! brought leave in one write; no client keeps the thread from the others for long, nor do many that
//! want much together; a client that
//! does not read is not read from, nor is one that asks faster than it may; a client that stops in
//! the middle of a message, takes nothing of what is sent, or uses no session, whatever else it
//! says, is cut off after a time.
//!
//! ```text
//!   open ── goodbye, or its end of the connection closed ──▶ draining ── all answered ──▶ closed
//!    │  ╲── goodbye shuttingDown, or idle ───────────────────▲   │ time over               ▲
//!    ╰───── bytes that cannot be framed ──▶ closing ─────────────┴── all written ──────────╯
//! ```

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use papertrader_core::time::WallTime;
use papertrader_node::connection::Inbox;
use papertrader_node::debug;
use papertrader_protocol::instruction::{Instruction, State};
use papertrader_protocol::returns::Return;
use papertrader_protocol::{Failure, FrameError, Reason};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::allowance::Allowance;
use super::outbox::Outbox;
use super::writing::Writing;
use super::{Hub, serve};
use crate::auth::Attachment;
use crate::records::Records;

/// While more than this waits to be written, nothing is read.
const PAUSE: usize = 16 * 1024;
/// Who has less waiting is not cut off when all clients together have too much. It is more than a
/// client can get by small answers, which stop at [`PAUSE`] and are not longer than a message.
const LITTLE: usize = 64 * 1024;
/// After so many bytes the other connections of the thread get their turn.
const TURN: usize = 8 * 1024;
/// After so many messages of one client the others get their turn: what one read brought may be ten
/// times as many.
const MESSAGES: usize = 32;
/// How long the client's end of a closed connection is awaited, so that the last words arrive.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing more is read; what was asked is answered, until the time is over.
    Draining,
    /// Only what waits is written.
    Closing,
}

/// A connection as its thread sees it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) peer: SocketAddr,
    phase: Cell<Phase>,
    /// When it ends at the latest, whatever waits: set once nothing more is read.
    deadline: Cell<Option<Instant>>,
    /// When it was last seen to use a valid session, or when it began.
    used: Cell<Instant>,
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
            deadline: Cell::new(None),
            used: Cell::new(Instant::now()),
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
            self.phase.set(Phase::Draining);
        }
        self.end_by(deadline);
    }

    /// Ends at `deadline`, if not before.
    fn end_by(&self, deadline: Instant) {
        let before = self.deadline.get();
        self.deadline.set(Some(before.map_or(deadline, |before| before.min(deadline))));
    }

    /// Ends as soon as everything is written.
    pub(super) fn close(&self) {
        self.phase.set(Phase::Closing);
    }

    pub(super) fn say_goodbye(&self, why: impl Into<Failure>, deadline: Instant) {
        if self.phase.get() == Phase::Open {
            let goodbye = Return::Goodbye(why.into());
            self.inner.borrow_mut().out.put(|out| goodbye.put(0, out));
        }
        self.drain(deadline);
        self.wake();
    }

    /// A message used a session that is valid, or got one.
    pub(super) fn note_use(&self, now: Instant) {
        self.used.set(now);
    }

    /// Whether it has used no valid session for as long as `patience`, and waits for no answer
    /// and no outcome: a login may be under way. What else it says does not count, nor what it does not read.
    pub(super) fn is_idle(&self, now: Instant, patience: Duration, wall: WallTime) -> bool {
        let inner = self.inner.borrow();
        if inner.sessions.iter().any(|used| used.session().check(wall).is_ok()) {
            self.note_use(now);
        }
        let is_unused = now.saturating_duration_since(self.used.get()) >= patience;
        is_unused && self.is_open() && inner.waiting == 0 && inner.outcomes == 0
    }

    fn is_open(&self) -> bool {
        self.phase.get() == Phase::Open
    }

    /// Whether nothing is left to do, once everything is written.
    fn is_finished(&self) -> bool {
        match self.phase.get() {
            Phase::Open => false,
            Phase::Draining => {
                let inner = self.inner.borrow();
                let is_over = self.deadline.get().is_some_and(|at| Instant::now() >= at);
                (inner.waiting == 0 && inner.transfers.waiting() == 0) || is_over
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

/// Serves one connection until it ends. `records` are those of TLS, if `reader` is TLS.
pub(super) async fn run<R, W>(
    hub: &Hub,
    connection: &Connection,
    reader: R,
    mut writer: W,
    records: &Records,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let config = &hub.shared.config;
    let mut inbox = Inbox::new(reader);
    let mut own = hub.own_memory();
    let mut allowance = Allowance::new(config.max_requests_per_second, Instant::now());
    let mut writing = Writing::default();
    let mut waited_before = 0;
    // Until when nothing is read because it asked too fast.
    let mut throttled: Option<Instant> = None;
    let mut frame_deadline = None;
    let mut client_closed = false;
    // Held by one that has had a turn already, and wants more.
    let mut turn = None;
    loop {
        let now = Instant::now();
        let mut paused = writing.is_busy() && hub.shared.is_full();
        let mut moment = None;
        let mut messages = 0;
        throttled = throttled.filter(|until| now < *until);
        allowance.refill(now);
        while connection.is_open() && !paused && throttled.is_none() {
            if writing.left() + connection.inner.borrow().out.bytes() >= PAUSE {
                paused = true;
                break;
            }
            if allowance.is_empty() && inbox.has_partial() {
                hub.shared.counters.throttled.add_one();
                throttled = Some(allowance.next());
                break;
            }
            match inbox.frame() {
                Ok(Some(frame)) => {
                    frame_deadline = None;
                    allowance.spend();
                    let read = || serve::Now { wall: hub.shared.clock.now(), instant: now };
                    serve::handle(hub, connection, &frame, *moment.get_or_insert_with(read));
                    messages += 1;
                    if messages % MESSAGES == 0 {
                        turn = hub.another_turn(turn).await;
                        // A session may have come to its end meanwhile.
                        moment = None;
                    }
                }
                Ok(None) => break,
                Err(error) => connection.refuse_bytes(error),
            }
        }
        // Waiting for a turn takes time, which is not the client's.
        let now = Instant::now();
        let reads = !paused && throttled.is_none() && connection.is_open();
        if !reads || !(inbox.has_partial() || records.has_partial()) {
            frame_deadline = None;
        } else if frame_deadline.is_none() {
            frame_deadline = Some(now + config.frame_timeout);
        }
        writing.refill(&mut connection.inner.borrow_mut().out, now, config.write_timeout);
        if !writing.is_busy() && connection.is_finished() {
            break;
        }
        let waits = {
            let out = &connection.inner.borrow().out;
            own.set(writing.memory() + out.own_bytes());
            writing.left() + out.bytes()
        };
        let too_much = waits > config.max_outgoing_bytes
            || waits > waited_before.max(LITTLE) && hub.shared.is_full();
        if too_much {
            debug!(peer = %connection.peer, bytes = waits, "a client asks for more than it reads");
            hub.shared.counters.cut.add_one();
            return;
        }
        waited_before = waits;
        let drain_deadline = connection.deadline.get();
        let write_deadline = writing.deadline();
        let due = [frame_deadline, write_deadline, drain_deadline, throttled];
        let due = due.into_iter().flatten().min();
        let mut moved = 0;
        drop(turn.take());
        tokio::select! {
            biased;
            result = writing.go_on(&mut writer), if writing.is_busy() => match result {
                Ok(count) => moved = count,
                Err(_) => return,
            },
            result = inbox.fill(), if reads => match result {
                Ok(0) => {
                    client_closed = true;
                    if inbox.has_partial() {
                        connection.close();
                    } else {
                        connection.drain(Instant::now() + config.write_timeout);
                    }
                }
                Ok(count) => moved = count,
                Err(_) => return,
            },
            // A record that was begun brings nothing to read yet, but its time runs.
            () = if_now(|| records.has_partial()), if reads && frame_deadline.is_none() => {}
            () = connection.wake.notified() => {}
            () = sleep_until(due.unwrap_or(now)), if due.is_some() => {
                let now = Instant::now();
                let is_over = |deadline: Option<Instant>| deadline.is_some_and(|at| now >= at);
                // What was begun may have been finished without a message in it.
                let is_late = is_over(frame_deadline)
                    && (inbox.has_partial() || records.has_partial());
                if is_late || is_over(write_deadline) {
                    debug!(peer = %connection.peer, "a client took too long");
                    hub.shared.counters.cut.add_one();
                    return;
                }
                if is_over(drain_deadline) {
                    return;
                }
            }
        }
        if moved >= TURN {
            turn = hub.another_turn(turn).await;
        }
    }
    drop((own, turn));
    // The last words arrive only if the client's are read to their end: closing a socket with
    // unread bytes in it would take back what is still on its way.
    let _ = timeout(LINGER.min(config.drain), async {
        if writer.shutdown().await.is_err() || client_closed {
            return;
        }
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

/// Ready when `condition` holds at the time that it is looked at: whoever waits for it waits for
/// something else beside it that changes the condition.
async fn if_now(condition: impl Fn() -> bool) {
    poll_fn(|_| if condition() { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Tells a client for which there is no room why.
pub(crate) async fn refuse(mut stream: TcpStream, reason: Reason) {
    let mut out = Vec::new();
    Return::Goodbye(reason.into()).put(0, &mut out);
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
