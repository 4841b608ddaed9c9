//! The driver (specification 3.2.1): starts the threads, connects them, and ends them.
//!
//! Threads: one listens and hands accepted sockets to the client threads in turn, over TLS by way of
//! one that makes the handshakes; one talks to the master; the others serve clients. Each has its
//! own single-threaded runtime. When one of them
//! ends in a fault the whole worker ends, and [`Worker::join`] says so.

use std::io;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use papertrader_core::time::WallTime;
use papertrader_node::clock::Clock;
use papertrader_node::shutdown::{self, Shutdown, Trigger};
use papertrader_node::{debug, error, info, warn};
use papertrader_protocol::Reason;
use papertrader_protocol::data::{FULL, WorkerList};
use papertrader_protocol::link::LinkWelcome;
use papertrader_protocol::wire::Wire;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet, spawn_local};

use crate::auth::Sessions;
use crate::cache::Prices;
use crate::cache::history::History;
use crate::clients::{self, Arrival, Socket};
use crate::config::{Config, ConfigError};
use crate::counters::{Counters, Outgoing};
use crate::handshakes;
use crate::seats::{Full, Seats};
use crate::uplink::{self, Uplink};

/// Accepted sockets that wait for a client thread.
const ARRIVALS: usize = 256;
/// Batches of answers that wait for a client thread: each what one read from the master brought.
const DELIVERIES: usize = 64;
/// Clients without a place that are being told so.
const REFUSALS: usize = 64;
/// How long to wait when the system has no more sockets to give.
const NO_SOCKETS: Duration = Duration::from_millis(50);

/// Why a worker does not run.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The configuration cannot work.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The address cannot be listened at.
    #[error(
        "cannot listen at {address}: {error}. Is it in use? `listen` in worker.toml names another"
    )]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The system does not give what a thread needs.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// A thread ended in a fault; the event log has it.
    #[error("the worker ended because its thread '{0}' failed")]
    Failed(String),
}

/// What all threads of a worker share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    /// Where clients reach this worker.
    pub(crate) advertised: String,
    /// What the master said when it accepted this worker last.
    pub(crate) welcome: ArcSwapOption<LinkWelcome>,
    pub(crate) prices: ArcSwapOption<Prices>,
    /// Says each time that these are new.
    pub(crate) priced: watch::Sender<()>,
    pub(crate) history: History,
    /// The data of the last `workerList`.
    pub(crate) worker_list: ArcSwap<Vec<u8>>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) ready: watch::Sender<bool>,
    /// The master refuses this worker: clients must go to another one.
    pub(crate) refused: watch::Sender<bool>,
    pub(crate) started: WallTime,
    pub(crate) counters: Counters,
    pub(crate) outgoing: Outgoing,
    seats: Arc<Seats>,
}

impl Shared {
    /// How many clients are connected.
    pub(crate) fn clients(&self) -> usize {
        self.seats.taken()
    }

    /// Bytes of memory for what waits for clients, without what the cache holds anyway.
    pub(crate) fn outgoing_bytes(&self) -> u64 {
        self.outgoing.bytes().saturating_sub(self.history.bytes())
    }

    /// Whether that is more than it may be.
    pub(crate) fn is_full(&self) -> bool {
        let most = self.config.max_outgoing_total;
        self.outgoing.bytes() > most && self.outgoing_bytes() > most
    }

    /// How much is taken of what this worker can take, in thousandths.
    pub(crate) fn load(&self, orders: usize) -> u32 {
        let config = &self.config;
        let parts = [
            (self.clients() as u64, config.max_connections as u64),
            (orders as u64, config.max_orders as u64),
            (self.outgoing_bytes(), config.max_outgoing_total),
        ];
        // What has no room at all is full.
        let of = |(taken, most): (u64, u64)| {
            let part = u128::from(taken) * u128::from(FULL);
            part.div_ceil(u128::from(most).max(1)).min(u128::from(FULL)) as u32
        };
        parts.into_iter().map(of).max().unwrap_or(0)
    }
}

/// A running worker. Dropping it does not end it: the [`Shutdown`] that it was started with does.
#[derive(Debug)]
pub struct Worker {
    address: SocketAddr,
    ready: watch::Receiver<bool>,
    ended: watch::Receiver<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Worker {
    /// Binds the listener of `config`, starts all threads, and returns. The master need not be
    /// there: the worker goes on trying to reach it. Blocks no longer than binding takes.
    pub fn start(config: Config, clock: Clock, shutdown: Shutdown) -> Result<Worker, WorkerError> {
        config.check()?;
        let listen_error = |error| WorkerError::Listen { address: config.listen, error };
        let listener = std::net::TcpListener::bind(config.listen).map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        listener.set_nonblocking(true).map_err(listen_error)?;
        limit_send_buffer(&listener, config.send_buffer).map_err(listen_error)?;

        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            some => some,
        };
        let (ready_sender, ready) = watch::channel(false);
        let shared = Arc::new(Shared {
            advertised: config.advertise.clone().unwrap_or_else(|| address.to_string()),
            history: History::new(config.cache_bytes),
            config,
            clock: clock.clone(),
            welcome: ArcSwapOption::empty(),
            prices: ArcSwapOption::empty(),
            priced: watch::Sender::new(()),
            worker_list: ArcSwap::from_pointee(WorkerList { workers: Vec::new() }.to_bytes()),
            sessions: Arc::new(Sessions::new()),
            ready: ready_sender,
            refused: watch::Sender::new(false),
            started: clock.now(),
            counters: Counters::default(),
            outgoing: Outgoing::new(threads),
            seats: Arc::default(),
        });
        if address.ip().is_unspecified() && shared.config.advertise.is_none() {
            warn!(%address, "clients cannot reach a worker at this address: configure 'advertise'");
        }
        if shared.config.tls.is_none() {
            warn!(%address, "clients are met without TLS, as configured: what they send can be read on the way");
        }
        info!(%address, threads, worker = %shared.config.worker(), "the worker starts");

        // The worker's own end: pulled by the caller's, or by a thread that fails.
        let (trigger, stop) = shutdown::channel();
        let (ended_sender, ended) = watch::channel(());
        let mut crew = Crew { trigger, ended: ended_sender, threads: Vec::new() };
        let (uplink, asks) = Uplink::new(clock);
        let uplink = Arc::new(uplink);
        let (mut arrivals, mut deliveries) = (Vec::new(), Vec::new());
        for index in 0..threads {
            let (arrival_sender, arrival) = mpsc::channel(ARRIVALS);
            let (delivery_sender, delivery) = mpsc::channel(DELIVERIES);
            arrivals.push(arrival_sender);
            deliveries.push(delivery_sender);
            let (shared, uplink, stop) = (Arc::clone(&shared), Arc::clone(&uplink), stop.clone());
            crew.start(format!("clients-{index}"), move || {
                clients::run(index, shared, uplink, arrival, delivery, stop)
            })?;
        }
        drop(uplink);
        let (own, stop_link) = (Arc::clone(&shared), stop.clone());
        crew.start("uplink".to_owned(), move || uplink::run(own, asks, deliveries, stop_link))?;
        if shared.config.tls.is_some() {
            let (sender, waiting) = mpsc::channel(ARRIVALS);
            let threads = std::mem::replace(&mut arrivals, vec![sender]);
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            crew.start("handshakes".to_owned(), move || {
                handshakes::run(shared, waiting, threads, stop)
            })?;
        }
        let trigger = crew.trigger.clone();
        crew.start("listener".to_owned(), move || async move {
            listen(listener, &shared, arrivals, shutdown, stop).await;
            trigger.pull();
        })?;
        Ok(Worker { address, ready, ended, threads: crew.threads })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the master has accepted the worker and has sent the first prices. False if the
    /// worker ends before that.
    pub async fn ready(&self) -> bool {
        self.ready.clone().wait_for(|ready| *ready).await.is_ok()
    }

    /// Waits until all threads have ended. [`Worker::join`] then returns at once.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// Waits, blocking, until all threads have ended. An error if one of them failed.
    pub fn join(self) -> Result<(), WorkerError> {
        let mut result = Ok(());
        for thread in self.threads {
            let name = thread.thread().name().unwrap_or("?").to_owned();
            if thread.join().is_err() {
                result = Err(WorkerError::Failed(name));
            }
        }
        result
    }
}

/// The threads that were started.
struct Crew {
    trigger: Trigger,
    ended: watch::Sender<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// Starts a thread that runs the future which `make` makes there. If this fails, the threads
    /// that run already are told to end.
    fn start<F, T>(&mut self, name: String, make: F) -> Result<(), WorkerError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Future<Output = ()> + 'static,
    {
        let (trigger, ended) = (self.trigger.clone(), self.ended.clone());
        let started =
            runtime::Builder::new_current_thread().enable_io().enable_time().build().and_then(
                |runtime| {
                    std::thread::Builder::new().name(name.clone()).spawn(move || {
                        let _ended = ended;
                        let failure = Failure { name, trigger };
                        // A task of its own: what a set waits for itself is looked at each time that
                        // anything happens.
                        let all = async { spawn_local(make()).await };
                        if let Err(error) = LocalSet::new().block_on(&runtime, all)
                            && error.is_panic()
                        {
                            resume_unwind(error.into_panic());
                        }
                        drop(failure);
                    })
                },
            );
        match started {
            Ok(thread) => self.threads.push(thread),
            Err(error) => {
                self.trigger.pull();
                return Err(WorkerError::Thread(error));
            }
        }
        Ok(())
    }
}

/// Ends the worker when its thread panics.
struct Failure {
    name: String,
    trigger: Trigger,
}

impl Drop for Failure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            error!(thread = %self.name, "a thread failed: the worker ends");
            self.trigger.pull();
        }
    }
}

/// Accepts clients until the end, and hands them to the next threads in turn.
async fn listen(
    listener: std::net::TcpListener,
    shared: &Shared,
    arrivals: Vec<mpsc::Sender<Arrival>>,
    mut shutdown: Shutdown,
    mut stop: Shutdown,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return error!(%error, "cannot listen"),
    };
    let mut refusals = JoinSet::new();
    let mut turn = 0;
    loop {
        let accepted = tokio::select! {
            () = shutdown.wait() => break,
            () = stop.wait() => break,
            Some(_) = refusals.join_next(), if !refusals.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a client");
                tokio::time::sleep(NO_SOCKETS).await;
                continue;
            }
        };
        let config = &shared.config;
        let (most, most_per_address) = (config.max_connections, config.max_connections_per_address);
        let seat = if *shared.refused.borrow() {
            Err(Reason::Unavailable)
        } else {
            shared.seats.take(peer.ip(), most, most_per_address).map_err(|full| match full {
                Full::All => Reason::Busy,
                Full::Address => Reason::TooManyConnections,
            })
        };
        let seat = match seat {
            Ok(seat) => seat,
            Err(reason) => {
                debug!(%peer, reason = reason.code(), "a client is not let in");
                shared.counters.refused.add_one();
                // Over TLS the words would cost a handshake: the connection is closed at once.
                if config.tls.is_none() && refusals.len() < REFUSALS {
                    refusals.spawn_local(clients::refuse(stream, reason));
                }
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let Ok(socket) = stream.into_std() else { continue };
        turn = (turn + 1) % arrivals.len().max(1);
        if let Some(thread) = arrivals.get(turn) {
            // An error means that the thread has ended; so will this worker.
            let socket = Socket::Plain(socket);
            let _ = thread.send(Arrival { socket, peer, seat }).await;
        }
    }
    info!("the worker stops taking clients");
}

/// Sets how much the system holds for each client on its way. Accepted sockets have it from the
/// listener.
#[cfg(unix)]
fn limit_send_buffer(listener: &std::net::TcpListener, bytes: u32) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    // Another handle of the same socket, in the only type that lets the size be set.
    let handle = std::os::fd::OwnedFd::from(listener.try_clone()?);
    tokio::net::TcpSocket::from_std_stream(handle.into()).set_send_buffer_size(bytes)
}

#[cfg(not(unix))]
fn limit_send_buffer(_: &std::net::TcpListener, _: u32) -> io::Result<()> {
    Ok(())
}
