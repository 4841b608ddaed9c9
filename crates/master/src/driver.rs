//! The driver (specification 3.1.1): one loop that owns all state, takes commands from the workers
//! and routes them to the module they are for.
//!
//! Everything that blocks — the store, passwords, the price source, the network — runs beside the
//! loop and reports back as an `Event`. Work that must be durable stands in one queue, in order
//! of arrival: commands that arrived together form one batch, a snapshot's settlement another.
//! One batch is written at a time; what arrives meanwhile forms the next. New orders are judged
//! before the writer is free (`ahead`).
//!
//! Invariants: memory changes only after the commit, in the order of the commits; a command that
//! arrived before a snapshot is judged before it is settled; one that arrived after is judged after,
//! or so that it holds before and after.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use papertrader_core::books::{Books, BrokenBooks};
use papertrader_core::ids::{AccountId, BatchNumber, SnapshotNumber, WorkerId};
use papertrader_core::order::{Order, OrderRecord};
use papertrader_core::time::{MarketTime, Moment, WallTime};
use papertrader_market::{PriceSource, SourceError, Step};
use papertrader_node::clock::Clock;
use papertrader_node::link::MasterSide;
use papertrader_node::shutdown::Shutdown;
use papertrader_node::{error, info, warn};
use papertrader_protocol::link::{LinkPing, LinkPong, LinkWelcome, SessionPresence, WorkerStatus};
use papertrader_protocol::push::SnapshotDifference;
use papertrader_protocol::returns::Return;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Failure, Header, Instruction, Reason, Request};
use papertrader_store::{Batch, Change, CommitError, Loaded, Store, StoreError};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::accounts::Accounts;
use crate::admin::{self, AdminRequest, AdminSocket, Answer, SocketError};
use crate::ahead::{Ahead, Look};
use crate::assets::{Assets, preparation};
use crate::batch::{BATCH, Command, Work, Writing};
use crate::config::Config;
use crate::database::{Database, Done, Keeper, Readers, Writer};
use crate::followers::{Followers, Missed};
use crate::hasher::{Hasher, PasswordDone};
use crate::lease::Tenure;
use crate::limits::OrderRate;
use crate::port::{self, OwnedFrame, Places, Port, Refusals};
use crate::registry::Registry;
use crate::trading::{Placing, Trading};
use crate::workers::{Arrival, LinkId, Misconduct, Origin, PublicView, Workers};

/// Events, or frames in them, after which a turn of the loop takes no more before it answers.
const TURN: usize = 4_096;

/// Why the master stops.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(StoreError),
    /// The store cannot be written to any more, or a thread that the master needs has failed.
    #[error("nothing more can be written: {0}")]
    Writing(String),
    /// Another process is the master now.
    #[error(
        "another master has taken over ({0}): this one has stored nothing since, and must not go on. \
         With `standby = true` in its configuration it waits for that one's end when it is started \
         again"
    )]
    TakenOver(String),
    /// The price source cannot be used.
    #[error("the price source failed: {0}")]
    Source(#[from] SourceError),
    /// The source has nothing at all after its start.
    #[error("the price source has no prices after its start")]
    NoPrices,
    /// The books contradict themselves.
    #[error(transparent)]
    Books(#[from] BrokenBooks),
    /// The data directory is no place for the operator's socket.
    #[error(transparent)]
    Admin(#[from] SocketError),
    /// A thread, a socket or the machine's randomness failed.
    #[error("the machine failed: {0}")]
    Machine(#[from] std::io::Error),
}

impl From<StoreError> for MasterError {
    fn from(error: StoreError) -> MasterError {
        match error {
            StoreError::TakenOver(by) => MasterError::TakenOver(by),
            error => MasterError::Store(error),
        }
    }
}

/// When snapshots are taken.
#[derive(Debug)]
pub enum Ticks {
    /// At an interval of wall time (2.3.4).
    Every(Duration),
    /// When told to, for tests: a snapshot for each message.
    Manual(mpsc::Receiver<()>),
}

/// Where workers come in, and how the master proves to them who it is.
#[derive(Debug)]
pub struct Entrance {
    /// The port.
    pub listener: TcpListener,
    /// Its certificate and key.
    pub side: MasterSide,
}

/// A running master.
#[derive(Debug)]
pub struct Master {
    address: SocketAddr,
    running: JoinHandle<Result<(), MasterError>>,
}

impl Master {
    /// Loads the store, prepares it, and starts to serve `entrance`. Returns when workers can
    /// connect and the first prices are there.
    pub async fn start(
        config: Config,
        mut store: Box<dyn Store>,
        source: Arc<dyn PriceSource>,
        entrance: Entrance,
        clock: Clock,
        ticks: Ticks,
        shutdown: Shutdown,
    ) -> Result<Master, MasterError> {
        let Entrance { listener, side } = entrance;
        let admin = config.admin.as_deref().map(AdminSocket::open).transpose()?.flatten();
        let books = Arc::new(admin::Books::new(store.location()));
        let limits = config.port;
        let places = Arc::new(Places::new(limits));
        let about = About {
            places: Arc::clone(&places),
            started: clock.now(),
            certificate: side.fingerprint().to_string(),
            key: side.key().fingerprint().to_string(),
        };
        let address = listener.local_addr()?;
        let port_clock = clock.clone();
        let (events, inbox) = mpsc::channel(TURN);
        let sender = events.clone();
        // Loading may take longer than the lease lasts.
        let tenure = Tenure::begin(store.lease(), &events)?;
        let held = tenure.held();
        let interval = match &ticks {
            Ticks::Every(interval) => i64::try_from(interval.as_nanos()).unwrap_or(i64::MAX),
            Ticks::Manual(_) => 0,
        };
        let driver = tokio::task::spawn_blocking(move || {
            let loaded = prepare(store.as_mut(), source.as_ref(), &clock)?;
            let database = Database { store, tenure, loaded };
            Driver::new(config, database, source, clock, interval, about, sender)
        })
        .await
        .map_err(std::io::Error::other)??;
        let mut view = driver.workers.view();
        let registry = driver.workers.registered();
        let running = tokio::spawn(driver.run(inbox, ticks, shutdown));
        // The first prices: a fresh store has none until its first settlement. If the driver ends
        // before, its view closes.
        if view.wait_for(|view| view.snapshot > 0).await.is_err() {
            running.await.map_err(std::io::Error::other)??;
            return Err(MasterError::NoPrices);
        }
        let admin = admin.map(|socket| {
            let (socket, events) = (Arc::new(socket), events.clone());
            let (accepting, whole) = (Arc::clone(&socket), Arc::clone(&books));
            (socket, tokio::spawn(async move { accepting.accept(events, whole).await }))
        });
        let (clock, refusals) = (port_clock, Mutex::new(Refusals::default()));
        let port = Port { side, registry, view, clock, events, places, held, limits, refusals };
        let accepting = tokio::spawn(port::accept(listener, Arc::new(port)));
        let running = tokio::spawn(async move {
            let result = running.await;
            accepting.abort();
            books.end();
            if let Some((socket, accepting)) = admin {
                accepting.abort();
                socket.remove();
            }
            result.map_err(std::io::Error::other)?
        });
        Ok(Master { address, running })
    }

    /// Where workers connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the end, clean or not.
    pub async fn ended(self) -> Result<(), MasterError> {
        self.running.await.map_err(std::io::Error::other)?
    }
}

/// Stores what must be there before the first command: instruments with their history. Returns what
/// is stored then.
fn prepare(
    store: &mut dyn Store,
    source: &dyn PriceSource,
    clock: &Clock,
) -> Result<Loaded, MasterError> {
    let loaded = store.load()?;
    clock.raise(loaded.last_wall);
    let mut last = loaded.last_batch;
    let mut commit = |store: &mut dyn Store, changes: Vec<Change>| {
        last.0 += 1;
        let batch = Batch { number: last, wall: clock.now(), changes };
        store.commit(&batch).map_err(|error| match error {
            CommitError::TakenOver(by) => MasterError::TakenOver(by),
            error => MasterError::Writing(error.to_string()),
        })
    };
    // What a master has promised that ended before it could write it.
    if let Some(mut intake) = store.intake()? {
        let promised = intake.kept(loaded.next_order, loaded.last_batch)?;
        if !promised.is_empty() {
            info!(orders = promised.len(), "orders are written that were promised before the end");
            // Nothing of them is written if the books cannot hold them all.
            let mut books = loaded.books.clone();
            for order in &promised {
                clock.raise(order.received.wall);
                books.accept(order.clone(), None)?;
            }
            for orders in promised.chunks(BATCH) {
                let place = |order: &Order| Change::PlaceOrder(OrderRecord::queued(order.clone()));
                commit(store, orders.iter().map(place).collect())?;
            }
        }
        intake.forget()?;
    }
    let changes = preparation(source, &loaded)?;
    if !changes.is_empty() {
        commit(store, changes)?;
    }
    // Much is loaded: a second time only if it changed.
    if last == loaded.last_batch {
        return Ok(loaded);
    }
    drop(loaded);
    Ok(store.load()?)
}

/// What reports to the driver.
pub(crate) type Events = mpsc::Sender<Event>;

/// Everything that can happen to the master.
pub(crate) enum Event {
    /// A worker has proved who it is.
    LinkOpened(LinkId, Box<Arrival>),
    /// A worker says something, in this order.
    Frames(LinkId, Vec<OwnedFrame>),
    /// A link is gone.
    LinkClosed(LinkId),
    /// A worker that has proved its key says what cannot be framed, or no `linkHello`; in words.
    Misspoke(WorkerId, String),
    /// The store's writer has finished its job.
    Database(Done),
    /// The intake has kept the orders that it was given, or not: why.
    Kept(Result<(), String>),
    /// A password is checked or hashed.
    Password(PasswordDone),
    /// The price source has answered.
    Step(Result<Option<Step>, SourceError>),
    /// A read is finished: its answer for a link.
    Answer(LinkId, Vec<u8>),
    /// What an order stream has missed was read.
    Missed(Box<Missed>),
    /// The operator asks for something.
    Admin(AdminRequest, Answer),
    /// What failed is tried again.
    Retry,
}

impl Event {
    /// How many commands it may bring.
    fn weight(&self) -> usize {
        match self {
            Event::Frames(_, frames) => frames.len(),
            _ => 1,
        }
    }
}

/// What the operator is told of the master itself.
pub(crate) struct About {
    pub(crate) started: WallTime,
    /// The fingerprint of its TLS certificate.
    pub(crate) certificate: String,
    /// The fingerprint of its OpenPGP key.
    pub(crate) key: String,
    /// Who is connected to its port.
    pub(crate) places: Arc<Places>,
}

/// The master's state.
pub(crate) struct Driver {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) books: Books,
    pub(crate) accounts: Accounts,
    pub(crate) workers: Workers,
    pub(crate) assets: Assets,
    pub(crate) trading: Trading,
    pub(crate) ahead: Ahead,
    pub(crate) followers: Followers,
    pub(crate) readers: Readers,
    pub(crate) events: Events,
    pub(crate) writer: Writer,
    pub(crate) about: About,
    /// The right to be the master.
    pub(crate) tenure: Tenure,
    pub(crate) deployment: String,
    pub(crate) interval: i64,
    pub(crate) last_batch: BatchNumber,
    /// The time of the batch that was made last.
    pub(crate) formed: WallTime,
    /// The number of the latest snapshot that was taken, settled or not.
    last_taken: u64,
    /// The market's time of the latest snapshot that was taken.
    last_time: MarketTime,
    pub(crate) queue: VecDeque<Work>,
    /// How many commands in the queue came through each worker.
    pub(crate) waiting: HashMap<WorkerId, usize>,
    pub(crate) writing: Writing,
}

impl Driver {
    fn new(
        config: Config,
        database: Database,
        source: Arc<dyn PriceSource>,
        clock: Clock,
        interval: i64,
        about: About,
        events: Events,
    ) -> Result<Driver, MasterError> {
        let Database { mut store, tenure, loaded } = database;
        let mut readers = Vec::new();
        for _ in 0..config.read_threads.max(1) {
            readers.push(store.reader()?);
        }
        let assets = {
            let mut reader = store.reader()?;
            // No two starts are in the same nanosecond: the clock is past all that was stored.
            let sequence = u64::try_from(clock.now().0).unwrap_or(1);
            Assets::new(source, &loaded, reader.as_mut(), sequence, events.clone())?
        };
        let sieve = store.sieve()?;
        let keeper = store.intake()?.map(|intake| Keeper::start(intake, events.clone()));
        let ahead = Ahead::new(sieve, keeper.transpose()?);
        let hasher = Hasher::start(config.password_threads, config.password_queue, &events)?;
        let now = clock.now();
        let accounts = Accounts::new(
            loaded.profiles,
            loaded.sessions,
            loaded.exposures,
            hasher,
            config.limits,
            now,
        )
        .map_err(std::io::Error::other)?;
        let mut clamped: HashMap<WorkerId, WallTime> = HashMap::new();
        for open in loaded.books.open_orders() {
            let last = clamped.entry(open.order.worker).or_default();
            *last = (*last).max(open.order.worker_time);
        }
        let head = loaded.books.head();
        let registry = Registry::new(loaded.workers, loaded.stolen_keys);
        let view = PublicView {
            deployment: loaded.deployment.clone(),
            interval,
            market: head.market,
            snapshot: head.snapshot,
            ..PublicView::default()
        };
        info!(
            accounts = loaded.books.accounts().count(),
            open_orders = loaded.books.open_orders().count(),
            snapshot = head.snapshot,
            batch = loaded.last_batch.0,
            "the store is loaded"
        );
        Ok(Driver {
            trading: Trading::new(loaded.next_order, clamped, OrderRate::new(&config.limits)),
            ahead,
            followers: Followers::default(),
            workers: Workers::new(registry, view),
            readers: Readers::start(readers, &events)?,
            writer: Writer::start(store, events.clone())?,
            about,
            tenure,
            deployment: loaded.deployment,
            last_batch: loaded.last_batch,
            formed: now,
            last_taken: head.snapshot,
            last_time: head.market,
            books: loaded.books,
            queue: VecDeque::new(),
            waiting: HashMap::new(),
            writing: Writing::Nothing,
            config,
            clock,
            accounts,
            assets,
            events,
            interval,
        })
    }

    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Event>,
        mut ticks: Ticks,
        mut shutdown: Shutdown,
    ) -> Result<(), MasterError> {
        let mut timer = tokio::time::interval(match &ticks {
            Ticks::Every(interval) => (*interval).max(Duration::from_millis(1)),
            Ticks::Manual(_) => Duration::from_secs(86_400),
        });
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        timer.reset();
        let mut housekeeping = tokio::time::interval(Duration::from_secs(1));
        let mut draining = false;
        if self.books.head().snapshot == 0 {
            self.last_time = self.assets.source().start();
            self.poll();
        }
        loop {
            tokio::select! {
                event = inbox.recv() => match event {
                    Some(event) => {
                        // Before anything is answered: this process may have been stopped for long.
                        self.tend_lease();
                        self.handle(event, draining)?;
                    }
                    // The driver itself holds a sender.
                    None => return Ok(()),
                },
                () = ticks.next(&mut timer), if !draining => self.poll(),
                // There is something to tell: nothing is waited for.
                () = std::future::ready(()), if self.trading.has_outcomes() => self.tend_lease(),
                _ = housekeeping.tick() => {
                    self.tend_lease();
                    self.tend_sessions();
                    self.cut_forbidden();
                }
                () = shutdown.wait(), if !draining => {
                    draining = true;
                    info!(waiting = self.queue.len(), "draining");
                }
            }
            let mut taken = 0;
            while taken < TURN {
                let Ok(event) = inbox.try_recv() else { break };
                taken += event.weight();
                self.handle(event, draining)?;
            }
            self.advance()?;
            self.tell_outcomes();
            if draining && self.is_drained() {
                let goodbye = Return::Goodbye(Reason::ShuttingDown.into());
                let mut bytes = Vec::new();
                goodbye.put(0, &mut bytes);
                self.workers.say_to_all(&bytes);
                self.workers.flush();
                info!("ended");
                return Ok(());
            }
            self.workers.catch_up(self.assets.pushes());
            for deaf in self.workers.flush() {
                self.workers.cut(deaf);
                self.close_link(deaf);
            }
            if self.trading.has_outcomes() {
                // What was said must be written before there is more of it.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Nothing is under way any more, or it cannot be written: what is queued was not promised.
    fn is_drained(&self) -> bool {
        if self.trading.has_outcomes() || self.ahead.is_keeping() {
            return false;
        }
        match self.writing {
            Writing::Nothing => self.queue.is_empty(),
            Writing::Waiting(_) => true,
            _ => false,
        }
    }

    /// Asks for the next snapshot, unless one waits to be settled.
    fn poll(&mut self) {
        let waits = self.queue.iter().any(|work| matches!(work, Work::Settle(_)));
        if !waits && !self.writing.is_settling() && !self.books.head().ended {
            self.assets.poll(self.last_time);
        }
    }

    fn handle(&mut self, event: Event, draining: bool) -> Result<(), MasterError> {
        match event {
            Event::Frames(link, frames) if !draining => {
                for frame in frames {
                    self.frame(link, frame);
                }
            }
            Event::Frames(..) => {}
            Event::LinkOpened(link, arrival) => self.open_link(link, *arrival),
            Event::LinkClosed(link) => self.close_link(link),
            Event::Misspoke(worker, words) => {
                self.workers.note(worker, Misconduct::Malformed, &words, self.clock.now());
            }
            Event::Database(done) => self.written(done)?,
            Event::Kept(outcome) => self.kept(outcome),
            Event::Password(done) => self.password(done),
            Event::Step(step) => self.step(step)?,
            Event::Answer(link, bytes) => {
                self.workers.say(link, |out| out.extend_from_slice(&bytes));
            }
            Event::Missed(missed) => self.tell_missed(*missed),
            Event::Admin(request, answer) => self.admin(request, answer, draining),
            Event::Retry => self.retry(),
        }
        Ok(())
    }

    // Links.

    fn open_link(&mut self, id: LinkId, arrival: Arrival) {
        if !self.tenure.is_held() {
            // Dropping it closes the connection: there may be another master by now.
            return;
        }
        let (refusal, peer) = (arrival.queue.clone(), arrival.peer);
        match self.workers.admit(id, arrival, self.clock.now()) {
            Ok(older) => {
                if let Some(older) = older {
                    warn!(
                        worker = self.workers.name(id),
                        "it had a link already: the older one is cut"
                    );
                    // At once: what still comes on it must not take up the driver's time.
                    self.workers.cut(older);
                    self.forget_link(older);
                }
                let welcome = LinkWelcome {
                    deployment: self.deployment.clone(),
                    name: self.workers.name(id).to_owned(),
                    clock: self.clock.now(),
                    interval: self.interval,
                    bar_interval: self.assets.source().interval(),
                    source: self.assets.source().label().to_owned(),
                };
                let instruction = Instruction::LinkWelcome;
                let header = Header::new(instruction.message_type(), instruction as u16, 0);
                self.workers.say(id, |out| header.encode(&welcome.to_bytes(), out));
                self.announce_workers();
            }
            Err(denied) => {
                warn!(%peer, %denied, "a worker was refused");
                let failure = Failure::new(denied.reason(), denied.to_string());
                let mut bytes = Vec::new();
                Return::Failed(Instruction::LinkRefused, failure).put(0, &mut bytes);
                // The queue is new, so that there is room; dropping it closes the connection.
                let _ = refusal.add(bytes.into());
            }
        }
    }

    /// Cuts the links that may not be any more, at once.
    pub(crate) fn cut_forbidden(&mut self) {
        for (id, why) in self.workers.forbidden(self.clock.now()) {
            warn!(%why, "a link is cut");
            self.workers.cut(id);
            self.close_link(id);
        }
    }

    pub(crate) fn close_link(&mut self, id: LinkId) {
        if self.forget_link(id) {
            self.announce_workers();
        }
    }

    /// True if the list of workers has changed by it.
    fn forget_link(&mut self, id: LinkId) -> bool {
        let was_there = self.workers.remove(id);
        if was_there {
            self.accounts.link_closed(id, self.clock.now());
            self.trading.link_closed(id);
            self.followers.link_closed(id);
        }
        was_there
    }

    fn announce_workers(&mut self) {
        self.workers.announce(self.clock.now());
    }

    /// Routes what a worker says.
    fn frame(&mut self, id: LinkId, frame: OwnedFrame) {
        let Some(link) = self.workers.link(id) else { return };
        let header = frame.header;
        let request = header.request;
        let proven = link.worker;
        let now = self.clock.now();
        let Some(instruction) = Instruction::from_number(header.instruction) else {
            self.workers.misconduct(id, Misconduct::Malformed, "an unknown instruction", now);
            self.refuse_on(id, request, Instruction::CommandFail, Reason::UnknownInstruction);
            return;
        };
        let failure = instruction.failure();
        // Each message of a worker carries its UUID (4.1), and it must be the one it proved.
        let link_header = match header.link {
            Some(link_header) if link_header.worker == proven => link_header,
            _ => {
                let words = format!("{} without its own UUID", instruction.name());
                self.workers.misconduct(id, Misconduct::ForeignFrame, &words, now);
                self.refuse_on(id, request, failure, Reason::NotAuthorized);
                return;
            }
        };
        if header.message_type != instruction.message_type() || header.max != 1 {
            self.malformed(id, instruction);
            self.refuse_on(id, request, failure, Reason::BadFrame);
            return;
        }
        // What the worker says for itself.
        match instruction {
            Instruction::SessionPresence => {
                match SessionPresence::from_bytes(&frame.data) {
                    Ok(said) if self.accounts.presence(id, said.session, said.present, now) => {}
                    Ok(_) => self.foreign_session(id, instruction),
                    Err(_) => self.malformed(id, instruction),
                }
                return;
            }
            Instruction::WorkerStatus => {
                match WorkerStatus::from_bytes(&frame.data) {
                    Ok(status) => {
                        if self.workers.set_status(id, status, now) {
                            self.announce_workers();
                        }
                    }
                    Err(_) => self.malformed(id, instruction),
                }
                return;
            }
            Instruction::SnapshotDifference => {
                match SnapshotDifference::from_bytes(&frame.data) {
                    Ok(have) => self.workers.ask_prices(id, have),
                    Err(_) => self.malformed(id, instruction),
                }
                return;
            }
            Instruction::LinkPing => {
                match LinkPing::from_bytes(&frame.data) {
                    Ok(ping) => {
                        let pong = LinkPong { sent: ping.sent, clock: now }.to_bytes();
                        let instruction = Instruction::LinkPong;
                        let number = instruction as u16;
                        let header = Header::new(instruction.message_type(), number, request);
                        self.workers.say(id, |out| header.encode(&pong, out));
                    }
                    Err(_) => self.malformed(id, instruction),
                }
                return;
            }
            Instruction::StreamEnded => return self.followers.ended(id, request),
            Instruction::Pong => return,
            Instruction::Goodbye => {
                // It does not wait for what it was still to be told.
                self.workers.cut(id);
                return self.close_link(id);
            }
            _ => {}
        }
        let client = link_header.client;
        let origin = Origin { link: id, worker: proven, request, instruction, client };
        let parsed = Request::parse(instruction, header.argument_count, &frame.data);
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(reason) => {
                // A good worker has refused it before.
                self.malformed(id, instruction);
                return self.refuse(origin, reason);
            }
        };
        if let Err(failure) = self.request(origin, parsed, header, link_header) {
            // Of `loginSession` a worker cannot know better.
            if failure.reason == Reason::SessionUnknown && instruction != Instruction::LoginSession
            {
                self.foreign_session(id, instruction);
            }
            self.refuse(origin, failure);
        }
    }

    fn malformed(&mut self, id: LinkId, instruction: Instruction) {
        let words = format!("{} that is not as the protocol says", instruction.name());
        self.workers.misconduct(id, Misconduct::Malformed, &words, self.clock.now());
    }

    fn foreign_session(&mut self, id: LinkId, instruction: Instruction) {
        let words = format!("{} for a session that it has not shown", instruction.name());
        self.workers.misconduct(id, Misconduct::ForeignSession, &words, self.clock.now());
    }

    /// Starts to serve a request, or says why not.
    fn request(
        &mut self,
        origin: Origin,
        request: Request,
        header: Header,
        link: papertrader_protocol::frame::LinkHeader,
    ) -> Result<(), Failure> {
        let now = self.clock.now();
        let session = header.session;
        let account = |driver: &Driver| driver.accounts.authorize(origin.link, session, now);
        match request {
            Request::Login { name, pass, expirable } => {
                self.login(origin, &name, pass, expirable)?;
            }
            Request::LoginSession => self.resume(origin, session)?,
            Request::Register { name, email, pass } => {
                self.register(origin, name, email, pass)?;
            }
            Request::ChangePassword { old, new } => {
                self.change_password(origin, session, old, new)?;
            }
            Request::Logout => self.logout(origin, session)?,
            Request::LogoutEverywhere => self.logout_everywhere(origin, session)?,
            Request::PurchaseAsset(args) | Request::SellAsset(args) => {
                use papertrader_core::order::Side;
                let account = account(self)?;
                let buy = origin.instruction == Instruction::PurchaseAsset;
                let side = if buy { Side::Buy } else { Side::Sell };
                let received = Moment { wall: now, market: self.last_time };
                self.room(origin.worker)?;
                let placing = Placing { origin, account, side, args, received, link };
                self.place(placing);
            }
            Request::CancelOrder(client_order_id) => {
                let account = account(self)?;
                self.room(origin.worker)?;
                self.ahead.waits(account);
                self.enqueue(Command::Cancel { origin, account, client_order_id });
            }
            Request::SubscribeOrders(from) => {
                let account = account(self)?;
                self.follow(origin, session, account, from)?;
            }
            Request::Ping(text) => self.answer(origin, &Return::Pong(text)),
            Request::Bars(symbol, span) => self.read_bars(origin, symbol, span)?,
            Request::Predicted(symbol, days) => self.read_prediction(origin, symbol, days)?,
            Request::UserInfo(_)
            | Request::Portfolio(_)
            | Request::History(_)
            | Request::Orders(_)
            | Request::Order(_) => {
                let viewer = account(self)?;
                if self.ahead.has_promised(viewer) {
                    self.look_later(Look { origin, viewer, request })?;
                } else {
                    self.show(origin, viewer, request)?;
                }
            }
            // A worker answers these itself.
            Request::SwitchState(_)
            | Request::GetWorkerList
            | Request::AssetInfo(_)
            | Request::AssetValue(_)
            | Request::AssetList
            | Request::SubscribeAssets(_)
            | Request::UnsubscribeAssets(_)
            | Request::Hello
            | Request::Goodbye => {
                self.malformed(origin.link, origin.instruction);
                return Err(Reason::NotAuthorized.into());
            }
        }
        Ok(())
    }

    /// Answers what an account may see.
    pub(crate) fn show(
        &mut self,
        origin: Origin,
        viewer: AccountId,
        request: Request,
    ) -> Result<(), Failure> {
        match request {
            Request::UserInfo(name) => self.user_info(origin, viewer, &name)?,
            Request::Portfolio(name) => self.portfolio(origin, viewer, &name)?,
            Request::History(name) => self.read_history(origin, viewer, &name)?,
            Request::Orders(name) => self.read_orders(origin, viewer, &name)?,
            Request::Order(client_order_id) => self.read_order(origin, viewer, client_order_id)?,
            _ => return Err(Reason::BadFrame.into()),
        }
        Ok(())
    }

    /// Whether one more command may wait that comes through a worker. Nobody may have more places
    /// than are left, so that there are always some for others.
    pub(crate) fn room(&self, worker: WorkerId) -> Result<(), Reason> {
        let free = self.config.command_queue.saturating_sub(self.queue.len());
        let own = self.waiting.get(&worker).copied().unwrap_or(0);
        if own < free { Ok(()) } else { Err(Reason::Busy) }
    }

    pub(crate) fn enqueue(&mut self, command: Command) {
        if let Some(worker) = command.worker() {
            *self.waiting.entry(worker).or_default() += 1;
        }
        self.queue.push_back(Work::Command(command));
    }

    /// Says a return to whoever asked, if the link is still there.
    pub(crate) fn answer(&mut self, origin: Origin, answer: &Return) {
        self.workers.say(origin.link, |out| answer.put(origin.request, out));
    }

    pub(crate) fn refuse(&mut self, origin: Origin, why: impl Into<Failure>) {
        self.refuse_on(origin.link, origin.request, origin.instruction.failure(), why);
    }

    fn refuse_on(
        &mut self,
        link: LinkId,
        request: u64,
        failure: Instruction,
        why: impl Into<Failure>,
    ) {
        let answer = Return::Failed(failure, why.into());
        self.workers.say(link, |out| answer.put(request, out));
    }

    /// The price source has answered.
    fn step(&mut self, step: Result<Option<Step>, SourceError>) -> Result<(), MasterError> {
        self.assets.polled();
        match step {
            Ok(Some(step)) => {
                self.last_taken += 1;
                self.last_time = step.time;
                let number = SnapshotNumber(self.last_taken);
                let retrieved = self.assets.retrieve(step, number);
                self.queue.push_back(Work::Settle(Box::new(retrieved)));
            }
            // There will never be a first price: nobody could ever trade.
            Ok(None) if self.last_taken == 0 => return Err(MasterError::NoPrices),
            Ok(None) => warn!("the price source has no more prices"),
            Err(error) => error!(%error, "the price source failed; asking again"),
        }
        Ok(())
    }
}

impl Ticks {
    async fn next(&mut self, timer: &mut tokio::time::Interval) {
        match self {
            Ticks::Every(_) => {
                timer.tick().await;
            }
            Ticks::Manual(ticks) => {
                if ticks.recv().await.is_none() {
                    std::future::pending().await
                }
            }
        }
    }
}
