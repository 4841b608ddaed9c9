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
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use papertrader_core::time::WallTime;
use papertrader_node::connection::Inbox;
use papertrader_node::debug;
use papertrader_protocol::instruction::{Instruction, State};
use papertrader_protocol::returns::Return;
use papertrader_protocol::{Failure, FrameError, Reason};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::allowance::Allowance;
use super::outbox::Outbox;
use super::subscription::{Subscription, Told};
use super::writing::Writing;
use super::{Hub, OwnMemory, serve};
use crate::auth::Attachment;
use crate::records::Records;

/// While more than this waits to be written, nothing is read.
const PAUSE: usize = 16 * 1024;
/// Who has less waiting is not cut off when all clients together have too much. It is more than a
/// client can get by small answers, which stop at [`PAUSE`] and are not longer than a message.
const LITTLE: usize = 64 * 1024;
/// After so many bytes the other connections of the thread get their turn.
const TURN: usize = 8 * 1024;
/// After so many messages of one client the others get their turn: what one read brought may be five
/// times as many.
const MESSAGES: usize = 64;
/// So many quotes are answered before it is looked at again how much waits to be written.
const QUOTES: usize = 32;
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
    /// Whether something was put into the outbox from outside of its own task, and who waits for it.
    woken: Cell<bool>,
    waker: RefCell<Option<Waker>>,
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
    /// What it hears of prices, if it wants to.
    pub(super) subscription: Option<Box<Subscription>>,
}

/// Data transfers under way, and the answers to `switchState` that wait for them. Most connections have
/// neither, and no memory for them.
#[derive(Debug, Default)]
pub(super) struct Transfers(Option<Box<Pending>>);

#[derive(Debug, Default)]
struct Pending {
    /// The number of the transfer that began last.
    last: u64,
    open: BTreeSet<u64>,
    switches: VecDeque<(u64, u64, State)>,
}

impl Transfers {
    /// A transfer begins; the number under which it ends.
    pub(super) fn begin(&mut self) -> u64 {
        let pending = self.0.get_or_insert_default();
        pending.last += 1;
        pending.open.insert(pending.last);
        pending.last
    }

    /// A transfer has ended.
    pub(super) fn end(&mut self, number: u64) {
        if let Some(pending) = &mut self.0 {
            pending.open.remove(&number);
        }
        self.shrink();
    }

    /// A `switchState` whose answer waits for the transfers that began before it.
    pub(super) fn switch(&mut self, request: u64, state: State) {
        let pending = self.0.get_or_insert_default();
        pending.switches.push_back((pending.last, request, state));
    }

    /// How many answers wait.
    pub(super) fn waiting(&self) -> usize {
        self.0.as_ref().map_or(0, |pending| pending.switches.len())
    }

    /// The next `switchState` that can be answered.
    pub(super) fn ready(&mut self) -> Option<(u64, State)> {
        let pending = self.0.as_mut()?;
        let (after, request, state) = *pending.switches.front()?;
        if pending.open.first().is_some_and(|first| *first <= after) {
            return None;
        }
        pending.switches.pop_front();
        self.shrink();
        Some((request, state))
    }

    /// No number is in use: counting may begin anew.
    fn shrink(&mut self) {
        self.0.take_if(|pending| pending.open.is_empty() && pending.switches.is_empty());
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
            subscription: None,
        };
        Connection {
            id,
            peer,
            phase: Cell::new(Phase::Open),
            deadline: Cell::new(None),
            used: Cell::new(Instant::now()),
            woken: Cell::new(false),
            waker: RefCell::new(None),
            alive: Arc::new(()),
            inner: RefCell::new(inner),
        }
    }

    pub(super) fn alive(&self) -> Weak<()> {
        Arc::downgrade(&self.alive)
    }

    /// Something was put into the outbox from outside of its own task.
    pub(super) fn wake(&self) {
        self.woken.set(true);
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ready once after each time that it was woken. One task waits for it.
    fn poll_woken(&self, context: &Context<'_>) -> Poll<()> {
        if self.woken.take() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
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

/// The connection is cut off: there is nothing more to say on it.
struct Cut;

/// What a connection waited for.
enum Event {
    /// So many bytes were read and written.
    Moved(usize),
    /// The client has closed its end.
    Closed,
    /// Something was put into the outbox, or a record was begun.
    Woken,
    /// A time is over.
    Due,
    Failed,
}

/// A connection and its stream.
pub(super) struct Line<'a, S> {
    hub: &'a Hub,
    connection: &'a Connection,
    /// Those of TLS, if the stream is TLS.
    records: Option<Arc<Records>>,
    inbox: Inbox<S>,
    writing: Writing,
    allowance: Allowance,
    own: OwnMemory<'a>,
    /// How much waited to be written when that was looked at last.
    waited_before: usize,
    /// Until when nothing is read because it asked too fast.
    throttled: Option<Instant>,
    frame_deadline: Option<Instant>,
    client_closed: bool,
    /// There is more to tell of prices than there was room for.
    is_telling: bool,
    /// Most connections never need one.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Line<'a, S> {
    pub(super) fn new(
        hub: &'a Hub,
        connection: &'a Connection,
        stream: S,
        records: Option<Arc<Records>>,
    ) -> Line<'a, S> {
        let config = &hub.shared.config;
        Line {
            hub,
            connection,
            records,
            inbox: Inbox::new(stream),
            writing: Writing::default(),
            allowance: Allowance::new(config.max_requests_per_second, Instant::now()),
            own: hub.own_memory(),
            waited_before: 0,
            throttled: None,
            frame_deadline: None,
            client_closed: false,
            is_telling: false,
            timer: None,
        }
    }

    /// Serves the connection until it ends.
    pub(super) async fn run(&mut self) {
        if self.serve().await.is_ok() {
            let longest = LINGER.min(self.hub.shared.config.drain);
            let _ = timeout(longest, self.linger()).await;
        }
    }

    /// Whether part of a record of TLS has arrived whose rest is missing.
    fn has_partial_record(&self) -> bool {
        self.records.as_ref().is_some_and(|records| records.has_partial())
    }

    /// Until everything is said.
    async fn serve(&mut self) -> Result<(), Cut> {
        let (hub, connection) = (self.hub, self.connection);
        let config = &hub.shared.config;
        // Held by one that has had a turn already, and wants more.
        let mut turn = None;
        loop {
            let mut now = Instant::now();
            let mut paused = self.writing.is_busy() && hub.shared.is_full();
            let mut moment = None;
            let mut messages = 0;
            self.throttled = self.throttled.filter(|until| now < *until);
            self.allowance.refill(now);
            while connection.is_open() && !paused && self.throttled.is_none() {
                if self.writing.left() + connection.inner.borrow().out.bytes() >= PAUSE {
                    paused = true;
                    break;
                }
                if self.allowance.is_empty() && self.inbox.has_partial() {
                    hub.shared.counters.throttled.add_one();
                    self.throttled = Some(self.allowance.next());
                    break;
                }
                if messages == MESSAGES && self.inbox.has_partial() {
                    // A session may come to its end meanwhile.
                    moment = None;
                    turn = hub.another_turn(turn).await;
                    // Waiting for a turn takes time, which is not the client's.
                    (messages, now) = (0, Instant::now());
                }
                if !self.inbox.has_partial() {
                    break;
                }
                let moment = moment.get_or_insert_with(|| serve::Moment::now(hub, now));
                let most = self.allowance.left().min(MESSAGES - messages).min(QUOTES);
                let (quotes, bytes) = serve::quotes(connection, self.inbox.bytes(), most, moment);
                if quotes > 0 {
                    self.frame_deadline = None;
                    self.allowance.spend(quotes);
                    self.inbox.consume(bytes);
                    messages += quotes;
                    continue;
                }
                match self.inbox.frame() {
                    Ok(Some(frame)) => {
                        self.frame_deadline = None;
                        self.allowance.spend(1);
                        serve::handle(hub, connection, &frame, moment);
                        messages += 1;
                    }
                    Ok(None) => break,
                    Err(error) => connection.refuse_bytes(error),
                }
            }
            // No snapshot is held while this waits.
            drop(moment);
            let reads = !paused && self.throttled.is_none() && connection.is_open();
            if !reads || !(self.inbox.has_partial() || self.has_partial_record()) {
                self.frame_deadline = None;
            } else if self.frame_deadline.is_none() {
                self.frame_deadline = Some(now + config.frame_timeout);
            }
            if connection.is_open() {
                self.tell_prices();
            }
            self.writing.refill(&mut connection.inner.borrow_mut().out);
            if !self.writing.is_busy() && connection.is_finished() {
                return Ok(());
            }
            self.bound_memory()?;
            drop(turn.take());
            match poll_fn(|context| self.poll(context, reads)).await {
                Event::Moved(count) if count >= TURN => turn = hub.another_turn(turn).await,
                Event::Moved(_) | Event::Woken => {}
                Event::Closed => {
                    self.client_closed = true;
                    if self.inbox.has_partial() {
                        connection.close();
                    } else {
                        connection.drain(Instant::now() + config.write_timeout);
                    }
                }
                Event::Due => self.end_late()?,
                Event::Failed => return Err(Cut),
            }
        }
    }

    /// Closes the stream. The last words arrive only if the client's are read to their end: closing a
    /// socket with unread bytes in it would take back what is still on its way.
    async fn linger(&mut self) {
        self.own.set(0);
        if self.inbox.reader().shutdown().await.is_err() || self.client_closed {
            return;
        }
        loop {
            self.inbox.clear();
            match self.inbox.fill().await {
                Ok(count) if count > 0 => {}
                _ => return,
            }
        }
    }

    /// Tells what the client wants to hear of prices, as far as there is room.
    fn tell_prices(&mut self) {
        let mut inner = self.connection.inner.borrow_mut();
        let Inner { subscription, out, sessions, .. } = &mut *inner;
        self.is_telling = false;
        let Some(subscribed) = subscription else { return };
        let shared = &self.hub.shared;
        let left = self.writing.left();
        let has_room = |out: &Outbox| left + out.bytes() < PAUSE;
        let prices = shared.prices.load();
        let Some(prices) = prices.as_ref() else { return };
        let told = subscribed.tell(prices, sessions, shared.clock.now(), out, has_room);
        self.is_telling = told == Told::Some;
        if told == Told::Ended {
            *subscription = None;
            self.hub.subscribed.borrow_mut().remove(&self.connection.id);
        }
    }

    /// Writes what can be written and, if it `reads`, takes what has arrived; waits if that is nothing.
    fn poll(&mut self, context: &mut Context<'_>, reads: bool) -> Poll<Event> {
        let (connection, patience) = (self.connection, self.hub.shared.config.write_timeout);
        let mut moved = 0;
        if self.writing.is_busy() {
            match self.writing.poll(context, self.inbox.reader(), patience) {
                Poll::Ready(Ok(count)) => moved = count,
                Poll::Ready(Err(_)) => return Poll::Ready(Event::Failed),
                Poll::Pending => {}
            }
            self.set_own();
            let is_quiet = reads
                && !self.is_telling
                && moved < TURN
                && !self.writing.is_busy()
                && connection.inner.borrow().out.bytes() == 0;
            if moved > 0 && !is_quiet {
                return Poll::Ready(Event::Moved(moved));
            }
        }
        if reads {
            match self.inbox.poll_fill(context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Event::Closed),
                Poll::Ready(Ok(count)) => return Poll::Ready(Event::Moved(moved.max(count))),
                Poll::Ready(Err(_)) => return Poll::Ready(Event::Failed),
                Poll::Pending => {}
            }
            // A record that was begun brings nothing to read yet, but its time runs.
            if self.frame_deadline.is_none() && self.has_partial_record() {
                return Poll::Ready(Event::Woken);
            }
        }
        if connection.poll_woken(context).is_ready() {
            return Poll::Ready(Event::Woken);
        }
        connection.inner.borrow_mut().out.settle();
        self.poll_due(context)
    }

    /// Ready when the first of its times is over.
    fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        let (write_deadline, drain_deadline) =
            (self.writing.deadline(), self.connection.deadline.get());
        let all = [self.frame_deadline, write_deadline, drain_deadline, self.throttled];
        let Some(due) = all.into_iter().flatten().min() else {
            self.timer = None;
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(context).map(|()| Event::Due)
    }

    /// Cuts off who took too long.
    fn end_late(&self) -> Result<(), Cut> {
        let now = Instant::now();
        let is_over = |deadline: Option<Instant>| deadline.is_some_and(|at| now >= at);
        // What was begun may have been finished without a message in it.
        let is_late =
            is_over(self.frame_deadline) && (self.inbox.has_partial() || self.has_partial_record());
        if is_late || is_over(self.writing.deadline()) {
            debug!(peer = %self.connection.peer, "a client took too long");
            self.hub.shared.counters.cut.add_one();
            return Err(Cut);
        }
        if is_over(self.connection.deadline.get()) {
            return Err(Cut);
        }
        Ok(())
    }

    /// Cuts off who asks for more than it reads.
    fn bound_memory(&mut self) -> Result<(), Cut> {
        self.set_own();
        let shared = &self.hub.shared;
        let waits = self.writing.left() + self.connection.inner.borrow().out.bytes();
        let too_much = waits > shared.config.max_outgoing_bytes
            || waits > self.waited_before.max(LITTLE) && shared.is_full();
        if too_much {
            debug!(peer = %self.connection.peer, bytes = waits, "a client asks for more than it reads");
            shared.counters.cut.add_one();
            return Err(Cut);
        }
        self.waited_before = waits;
        Ok(())
    }

    fn set_own(&mut self) {
        let out = self.connection.inner.borrow().out.own_bytes();
        self.own.set(self.writing.memory() + out);
    }
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
        // Nothing is left, and it begins anew.
        assert!(transfers.0.is_none());
        let first = transfers.begin();
        transfers.switch(5, State::Command);
        assert_eq!(transfers.ready(), None);
        transfers.end(first);
        assert_eq!(transfers.ready(), Some((5, State::Command)));
        assert!(transfers.0.is_none());
    }
}
