//! Client management (specification 3.2.3): keeps track of the connected clients and of the
//! sessions that they use, judges what they send, and answers it.
//!
//! A connection lives on one thread. Each thread has a [`Hub`], which starts connections, brings
//! them the master's answers and ends them. `connection` moves bytes, `judge` decides whether a
//! message is listened to, `serve` answers it, `subscription` says what comes unasked, `outbox` holds what waits to be written and
//! `writing` what is on its way; `allowance` bounds how fast a client may ask.

mod allowance;
mod connection;
mod judge;
mod outbox;
mod serve;
mod subscription;
mod writing;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use papertrader_node::shutdown::Shutdown;
use papertrader_node::tls::ServerStream;
use papertrader_node::{debug, warn};
use papertrader_protocol::{Failure, Reason};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::courtesy::Courtesy;
use crate::driver::Shared;
use crate::records::Followed;
use crate::seats::Seat;
use crate::uplink::{Delivery, Uplink};
use connection::{Connection, Line};

pub(crate) use connection::refuse;

/// Answers that are handed to connections before anything else gets its turn.
const DELIVERIES_AT_ONCE: usize = 1_024;
/// How often idle clients are looked for: the shortest and the longest time between.
const SWEEP: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(5));

/// A client that was let in: its socket, and its place among those that are let in.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) socket: Socket,
    pub(crate) peer: SocketAddr,
    pub(crate) seat: Seat,
}

/// The socket of a client on its way to the thread that will serve it.
#[derive(Debug)]
pub(crate) enum Socket {
    Plain(std::net::TcpStream),
    /// After the handshake.
    Tls(Box<TlsStream>),
}

/// TLS to a client.
pub(crate) type TlsStream = ServerStream<Followed>;

/// The right to one more turn.
type Turn<'a> = SemaphorePermit<'a>;

/// The connections of one thread.
struct Hub {
    thread: usize,
    shared: Arc<Shared>,
    uplink: Arc<Uplink>,
    connections: RefCell<HashMap<u64, Rc<Connection>>>,
    /// Those that want to hear of new prices.
    subscribed: RefCell<BTreeSet<u64>>,
    next: Cell<u64>,
    /// Bytes that wait for one of these clients alone.
    own_memory: Cell<usize>,
    /// Whoever wants more than one turn at a time waits for it: they have them one after the other,
    /// and all others between.
    turns: Semaphore,
    courtesy: Courtesy,
}

/// Serves clients on this thread until `stop`, and then until all of them are gone.
pub(crate) async fn run(
    thread: usize,
    shared: Arc<Shared>,
    uplink: Arc<Uplink>,
    mut arrivals: mpsc::Receiver<Arrival>,
    mut deliveries: mpsc::Receiver<Vec<Delivery>>,
    mut stop: Shutdown,
) {
    let connections = RefCell::default();
    let mut sweep = interval((shared.config.idle_timeout / 4).clamp(SWEEP.0, SWEEP.1));
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (next, own_memory) = (Cell::new(1), Cell::new(0));
    let mut refused = shared.refused.subscribe();
    let turns = Semaphore::new(1);
    let courtesy = Courtesy::default();
    let subscribed = RefCell::default();
    let mut prices = shared.priced.subscribe();
    let hub =
        Hub { thread, shared, uplink, connections, subscribed, next, own_memory, turns, courtesy };
    let hub = Rc::new(hub);
    let mut tasks = JoinSet::new();
    let mut stopping = false;
    loop {
        if stopping && tasks.is_empty() {
            return;
        }
        tokio::select! {
            biased;
            delivery = deliveries.recv() => match delivery {
                Some(first) => {
                    let mut count = hub.deliver(first);
                    while count < DELIVERIES_AT_ONCE {
                        let Ok(more) = deliveries.try_recv() else { break };
                        count += hub.deliver(more);
                    }
                }
                // The uplink has ended: nothing that waits for it can be answered.
                None => {
                    hub.end_all(Reason::ShuttingDown, Instant::now());
                    while tasks.join_next().await.is_some() {}
                    return;
                }
            },
            () = stop.wait(), if !stopping => {
                stopping = true;
                let deadline = Instant::now() + hub.shared.config.drain + connection::LINGER;
                hub.end_all(Reason::ShuttingDown, deadline);
            }
            // The sender is in `shared`, which is not dropped before this.
            Ok(()) = refused.changed() => {
                if *refused.borrow_and_update() {
                    hub.end_all(Reason::Unavailable, Instant::now() + hub.shared.config.drain);
                }
            }
            // As with `refused`.
            Ok(()) = prices.changed() => hub.tell_prices(),
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                if let Err(error) = ended {
                    warn!(%error, "a connection ended in a fault of the worker");
                }
            }
            _ = sweep.tick() => hub.end_idle(),
            // One that came in between is closed: the others were sent away already.
            Some(arrival) = arrivals.recv(), if !stopping => if !*hub.shared.refused.borrow() {
                hub.welcome(arrival, &mut tasks);
            },
        }
    }
}

impl Hub {
    fn welcome(self: &Rc<Self>, arrival: Arrival, tasks: &mut JoinSet<()>) {
        let Arrival { socket, peer, seat } = arrival;
        let id = self.next.get();
        self.next.set(id + 1);
        let connection = Rc::new(Connection::new(id, peer));
        self.connections.borrow_mut().insert(id, Rc::clone(&connection));
        let listed = Listed { hub: Rc::clone(self), id, _seat: seat };
        // Everything is named once here: what an asynchronous function is given by value would be in a
        // task twice, and there are many.
        tasks.spawn_local(async move {
            let (hub, connection) = (&*listed.hub, &*connection);
            let peer = &connection.peer;
            let gone = |error: &io::Error| debug!(%peer, %error, "a client left at once");
            match socket {
                Socket::Plain(socket) => {
                    let Ok(stream) = TcpStream::from_std(socket).inspect_err(gone) else { return };
                    Line::new(hub, connection, stream, None).run().await;
                }
                Socket::Tls(mut stream) => {
                    let Ok(()) = stream.get_mut().0.join().inspect_err(gone) else { return };
                    let records = stream.get_ref().0.records();
                    Line::new(hub, connection, stream, Some(records)).run().await;
                }
            }
        });
    }

    /// Says goodbye to the clients that use no session.
    fn end_idle(&self) {
        let (shared, now) = (&self.shared, Instant::now());
        let (wall, config) = (shared.clock.now(), &shared.config);
        for connection in self.connections.borrow().values() {
            if connection.is_idle(now, config.idle_timeout, wall) {
                debug!(peer = %connection.peer, "a client is idle");
                shared.counters.cut.add_one();
                let why = Failure::new(Reason::Idle, "no session was used for too long");
                connection.say_goodbye(why, now + config.write_timeout);
            }
        }
    }

    /// Ends a connection's turn, and waits for its next one until all that came meanwhile was looked
    /// at, and those who waited before it had theirs. The processor is offered to other threads.
    async fn another_turn<'a>(&'a self, turn: Option<Turn<'a>>) -> Option<Turn<'a>> {
        drop(turn);
        self.courtesy.offer();
        yield_now().await;
        // It is never closed.
        self.turns.acquire().await.ok()
    }

    /// For a connection: what it has waiting that no other has.
    fn own_memory(&self) -> OwnMemory<'_> {
        OwnMemory { hub: self, bytes: 0 }
    }

    /// Hands answers to their connections; how many there were.
    fn deliver(&self, deliveries: Vec<Delivery>) -> usize {
        let count = deliveries.len();
        for delivery in deliveries {
            let connection = self.connections.borrow().get(&delivery.route.connection).cloned();
            if let Some(connection) = connection {
                serve::deliver(self, &connection, delivery);
            }
        }
        count
    }

    fn note_subscribed(&self, connection: u64, is_subscribed: bool) {
        let mut subscribed = self.subscribed.borrow_mut();
        if is_subscribed {
            subscribed.insert(connection);
        } else {
            subscribed.remove(&connection);
        }
    }

    /// There are new prices: wakes those that want to hear of them.
    fn tell_prices(&self) {
        let connections = self.connections.borrow();
        for id in self.subscribed.borrow().iter() {
            if let Some(connection) = connections.get(id) {
                connection.wake();
            }
        }
    }

    /// Says goodbye to all clients; what is not answered at `deadline` will not be.
    fn end_all(&self, reason: Reason, deadline: Instant) {
        for connection in self.connections.borrow().values() {
            connection.say_goodbye(reason, deadline);
        }
    }
}

/// A connection's part of the memory for what waits; nothing when it is dropped.
struct OwnMemory<'a> {
    hub: &'a Hub,
    bytes: usize,
}

impl OwnMemory<'_> {
    fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            let all = self.hub.own_memory.get() - self.bytes + bytes;
            self.bytes = bytes;
            self.hub.own_memory.set(all);
            self.hub.shared.outgoing.set_own(self.hub.thread, all);
        }
    }
}

impl Drop for OwnMemory<'_> {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A connection's place in its hub's table.
struct Listed {
    hub: Rc<Hub>,
    id: u64,
    _seat: Seat,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.hub.subscribed.borrow_mut().remove(&self.id);
        let connection = self.hub.connections.borrow_mut().remove(&self.id);
        // Its attachments end here, outside the borrow.
        drop(connection);
    }
}
