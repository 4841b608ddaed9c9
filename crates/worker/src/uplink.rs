//! Master communication (specification 3.2.2): the only module that talks to the master.
//!
//! [`Uplink`] is what client threads hold: it stamps what they ask and queues it. [`run`] owns the
//! link: it connects, sends, receives, and connects again. What the frames mean is decided in
//! [`exchange`], without I/O; where a link is looked for, in [`attempts`].
//!
//! Invariants: stamps ascend in the order in which requests are queued, so the orders of this
//! worker go to the master in order of (time, sequence); what waits to be written to the master is
//! bounded, and a full queue answers `busy`.

mod attempts;
pub(crate) mod exchange;
mod orders;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use papertrader_core::time::WallTime;
use papertrader_node::clock::Clock;
use papertrader_node::connection::Inbox;
use papertrader_node::link::LinkStream;
use papertrader_node::shutdown::Shutdown;
use papertrader_node::{error, info, warn};
use papertrader_protocol::instruction::Instruction;
use papertrader_protocol::returns::SessionGrant;
use papertrader_protocol::{FrameError, Reason, SessionId};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::auth::Attachment;
use crate::cache::SnapshotFault;
use crate::cache::history::{Answer, Question};
use crate::driver::Shared;
use attempts::{Attempts, Made};
use exchange::Exchange;

/// Requests of all clients that wait to be taken by the uplink: what some fifty bring at once who
/// have as many under way as each may.
const QUEUE: usize = 16_384;
/// Bytes that wait to be written to the master; beyond, no request is taken.
const MAX_UNSENT: usize = 1024 * 1024;
/// How long the last bytes to the master may take when the worker ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where an answer goes.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// Which client thread.
    pub(crate) thread: usize,
    /// Which connection there.
    pub(crate) connection: u64,
    /// The client's number for its request.
    pub(crate) request: u64,
    /// Where a data request stands among those of its connection.
    pub(crate) transfer: Option<u64>,
    /// Gone when the connection is.
    pub(crate) alive: Weak<()>,
}

impl Route {
    fn is_dead(&self) -> bool {
        self.alive.strong_count() == 0
    }
}

/// A request of a client for the master. Its data may be a password's hash: it never prints itself.
pub(crate) struct Ask {
    pub(crate) route: Route,
    pub(crate) instruction: Instruction,
    pub(crate) arguments: u16,
    pub(crate) data: Box<[u8]>,
    pub(crate) session: SessionId,
    pub(crate) client: SocketAddr,
    /// Set for what can be answered to many at once.
    pub(crate) question: Option<Question>,
    /// When the worker received it: set by [`Uplink::ask`].
    pub(crate) received_at: WallTime,
    /// The worker's own number: set by [`Uplink::ask`].
    pub(crate) sequence: u64,
}

/// An answer for a connection.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) route: Route,
    pub(crate) step: Step,
    pub(crate) content: Content,
}

/// Which answer to a request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The only one.
    Only,
    /// The first; an outcome will follow.
    First,
    /// The outcome, after the first.
    Outcome,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ask")
            .field("route", &self.route)
            .field("instruction", &self.instruction)
            .field("data", &format_args!("{} bytes", self.data.len()))
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

/// What an answer says. It may be a session ID or somebody's portfolio: it never prints itself.
pub(crate) enum Content {
    /// A return of the master, as it came.
    Return { instruction: Instruction, arguments: u16, data: Box<[u8]> },
    /// A refusal by this worker.
    Refused(Instruction, Reason),
    /// Data.
    Data(Answer),
    /// A session, and the connection's use of it.
    Session(SessionGrant, Attachment),
    /// Nothing can be said any more.
    Nothing,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Content::Return { instruction, data, .. } => {
                write!(f, "Return({}, {} bytes)", instruction.name(), data.len())
            }
            Content::Refused(instruction, reason) => {
                write!(f, "Refused({}, {})", instruction.name(), reason.code())
            }
            Content::Data(answer) => write!(f, "Data({} bytes)", answer.data.len()),
            Content::Session(..) => f.write_str("Session(secret)"),
            Content::Nothing => f.write_str("Nothing"),
        }
    }
}

/// How client threads reach the master. When the last one is dropped, the link is closed.
#[derive(Debug)]
pub(crate) struct Uplink {
    queue: mpsc::Sender<Ask>,
    last_sequence: Mutex<u64>,
    clock: Clock,
}

impl Uplink {
    pub(crate) fn new(clock: Clock) -> (Uplink, mpsc::Receiver<Ask>) {
        let (queue, asks) = mpsc::channel(QUEUE);
        (Uplink { queue, last_sequence: Mutex::new(0), clock }, asks)
    }

    /// Stamps a request and queues it. The answer comes as a [`Delivery`].
    pub(crate) fn ask(&self, mut ask: Ask) -> Result<(), Reason> {
        // One lock around stamping and queueing: the queue is in the order of the stamps.
        let mut last = self.last_sequence.lock().unwrap_or_else(PoisonError::into_inner);
        ask.received_at = self.clock.now();
        let from_clock = u64::try_from(ask.received_at.0).unwrap_or(0);
        ask.sequence = from_clock.max(*last + 1);
        *last = ask.sequence;
        self.queue.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Reason::Busy,
            mpsc::error::TrySendError::Closed(_) => Reason::Unavailable,
        })
    }
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the master closed the link")]
    Closed,
    #[error("the master said nothing for too long")]
    Silent,
    #[error("a key has expired that the link rests on")]
    Expired,
    #[error("the master says goodbye: {0}")]
    Goodbye(String),
    #[error("the master refuses this worker: {0}")]
    Refused(String),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Snapshot(#[from] SnapshotFault),
    #[error("the master's {0} is not as the protocol says")]
    Malformed(&'static str),
}

/// Why [`Link::linked`] returned.
enum End {
    /// The worker ends.
    Ended,
    /// The link was lost.
    Lost(LinkError),
}

/// Runs the link until all client threads have ended.
pub(crate) async fn run(
    shared: Arc<Shared>,
    asks: mpsc::Receiver<Ask>,
    threads: Vec<mpsc::Sender<Vec<Delivery>>>,
    stop: Shutdown,
) {
    let exchange = Exchange::new(Arc::clone(&shared));
    Link { shared, asks, threads, exchange, stop, drain: None, gave_up: false }.run().await;
}

struct Link {
    shared: Arc<Shared>,
    asks: mpsc::Receiver<Ask>,
    threads: Vec<mpsc::Sender<Vec<Delivery>>>,
    exchange: Exchange,
    stop: Shutdown,
    /// Set at the start of the end: when what is left is answered.
    drain: Option<Instant>,
    /// Whether what was left has been answered.
    gave_up: bool,
}

impl Link {
    async fn run(mut self) {
        let least = self.shared.config.reconnect_delay_min;
        let most = self.shared.config.reconnect_delay_max;
        // The very first try is made at once.
        let mut delay = Duration::ZERO;
        loop {
            let Some(Made { master, stream, until }) = self.away(delay).await else { return };
            let error = match self.linked(stream, until).await {
                End::Ended => return,
                End::Lost(error) => error,
            };
            // A link that was up is worth a quick second try; others wait longer each time.
            delay = if self.exchange.is_up() { least } else { (delay * 2).clamp(least, most) };
            let is_refused = matches!(error, LinkError::Refused(_));
            if let LinkError::Refused(reason) = &error {
                delay = self.shared.config.refused_delay;
                error!(%master, %reason, "the master refuses this worker");
            } else {
                warn!(%master, %error, "the link to the master is lost");
            }
            self.exchange.lost(self.shared.clock.now());
            self.deliver().await;
            if is_refused {
                self.send_clients_away().await;
            }
        }
    }

    /// Without a link: tries to make one, and answers what comes meanwhile. `None` at the end.
    async fn away(&mut self, first_delay: Duration) -> Option<Made> {
        let config = self.shared.config.clone();
        let mut attempts = Attempts::new(&config, &self.shared.clock, first_delay);
        loop {
            let due = self.exchange.next_deadline().map(|at| self.instant_of(at));
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    Some(ask) => self.exchange.take(ask),
                    None => return None,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.exchange.expire(self.shared.clock.now());
                }
                () = until_drained(&mut self.stop, &mut self.drain, config.drain),
                    if !self.gave_up =>
                {
                    self.gave_up = true;
                    self.exchange.give_up();
                }
                made = attempts.next() => match made {
                    Ok(made) => return Some(made),
                    // Somebody must do something.
                    Err(is_away) => if !is_away {
                        self.send_clients_away().await;
                    },
                },
            }
            self.deliver().await;
        }
    }

    /// With a link: sends and receives until it is lost, or until the end.
    /// It ends `until`, when a key expires that it rests on.
    async fn linked(&mut self, stream: LinkStream, until: Option<WallTime>) -> End {
        let (reader, mut writer) = tokio::io::split(stream);
        let mut inbox = Inbox::new(reader);
        let (every, patience) = (self.shared.config.ping_interval, self.shared.config.link_timeout);
        let (drain, now) = (self.shared.config.drain, Instant::now());
        let mut ping = now + every;
        let mut silence = now + patience;
        // What is being written, and how much of it is.
        let (mut chunk, mut written) = (Vec::new(), 0);
        // What TLS has taken may still be with it.
        let mut flushing = false;
        let expiry = until.map(|until| self.instant_of(until));
        self.exchange.opened();
        loop {
            if written == chunk.len() {
                chunk = self.exchange.take_output();
                written = 0;
            }
            let may_take = self.exchange.unsent() < MAX_UNSENT;
            let due = self.exchange.next_deadline().map(|at| self.instant_of(at));
            tokio::select! {
                biased;
                result = write_or_flush(&mut writer, &chunk[written..]),
                    if flushing || !chunk.is_empty() => match result
                {
                    Ok(None) => flushing = false,
                    Ok(Some(0)) => return End::Lost(LinkError::Closed),
                    Ok(Some(count)) => {
                        written += count;
                        flushing = true;
                    }
                    Err(error) => return End::Lost(error.into()),
                },
                result = inbox.fill() => {
                    match result {
                        Ok(0) => return End::Lost(LinkError::Closed),
                        Ok(_) => silence = Instant::now() + patience,
                        Err(error) => return End::Lost(error.into()),
                    }
                    loop {
                        let received = match inbox.frame() {
                            Ok(Some(frame)) => self.exchange.received(&frame),
                            Ok(None) => break,
                            Err(error) => Err(error.into()),
                        };
                        if let Err(error) = received {
                            self.deliver().await;
                            return End::Lost(error);
                        }
                    }
                }
                ask = self.asks.recv(), if may_take => match ask {
                    Some(ask) => {
                        self.exchange.take(ask);
                        while self.exchange.unsent() < MAX_UNSENT
                            && let Ok(ask) = self.asks.try_recv()
                        {
                            self.exchange.take(ask);
                        }
                    }
                    None => {
                        let mut last = chunk.split_off(written);
                        last.extend(self.exchange.last_words());
                        let _ = timeout(LAST_WORDS, async {
                            writer.write_all(&last).await?;
                            writer.shutdown().await
                        })
                        .await;
                        info!("the link to the master is closed");
                        return End::Ended;
                    }
                },
                () = self.shared.sessions.changed.notified(), if may_take => {
                    self.exchange.tell_presence();
                }
                () = sleep_until(ping) => {
                    ping = Instant::now() + every;
                    self.exchange.tick();
                }
                () = sleep_until(due.unwrap_or(silence)), if due.is_some() => {
                    self.exchange.expire(self.shared.clock.now());
                }
                () = until_drained(&mut self.stop, &mut self.drain, drain), if !self.gave_up => {
                    self.gave_up = true;
                    self.exchange.give_up();
                }
                () = sleep_until(silence) => return End::Lost(LinkError::Silent),
                () = sleep_until(expiry.unwrap_or(silence)), if expiry.is_some() => {
                    return End::Lost(LinkError::Expired);
                }
            }
            self.deliver().await;
        }
    }

    /// There will be no link until somebody does something: what clients wait for is answered, and
    /// then they are told to go to another worker, as is whoever comes before the next link is up.
    async fn send_clients_away(&mut self) {
        self.exchange.refused();
        self.deliver().await;
        if !self.shared.refused.send_replace(true) {
            info!("the clients are sent to other workers");
        }
    }

    /// Hands the answers to the client threads. These never wait for anything when they take one,
    /// so this waits only for the processor.
    async fn deliver(&mut self) {
        let mut all = self.exchange.take_deliveries();
        for (index, thread) in self.threads.iter().enumerate() {
            let (own, others) = all.into_iter().partition(|it| it.route.thread == index);
            all = others;
            // An error means that the thread has ended, and with it the connection.
            if !Vec::is_empty(&own) {
                let _ = thread.send(own).await;
            }
        }
    }

    fn instant_of(&self, at: WallTime) -> Instant {
        let left = at.0.saturating_sub(self.shared.clock.now().0);
        Instant::now() + Duration::from_nanos(u64::try_from(left).unwrap_or(0))
    }
}

/// Writes some of `rest`, and says how much; without a rest, sees that everything is on its way.
/// Dropping the future loses nothing.
async fn write_or_flush<W>(writer: &mut W, rest: &[u8]) -> io::Result<Option<usize>>
where
    W: AsyncWrite + Unpin,
{
    if rest.is_empty() {
        return writer.flush().await.map(|()| None);
    }
    writer.write(rest).await.map(Some)
}

/// Returns when the end has started and the time for answers on their way is over.
async fn until_drained(stop: &mut Shutdown, drain: &mut Option<Instant>, limit: Duration) {
    if drain.is_none() {
        stop.wait().await;
    }
    let at = *drain.get_or_insert_with(|| Instant::now() + limit);
    sleep_until(at).await;
}
