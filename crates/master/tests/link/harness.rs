//! A real master on loopback with a real store, and a worker written out by hand.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use papertrader_core::ids::WorkerId;
use papertrader_core::time::{Date, MarketTime, SECOND, WallTime};
use papertrader_market::{PriceSource, Replay, ReplayConfig};
use papertrader_master::admin::{AdminReply, AdminRequest, Client, ClientError};
use papertrader_master::{Config, Entrance, Master, MasterError, Ticks};
use papertrader_node::clock::Clock;
use papertrader_node::connection::Inbox;
use papertrader_node::link::{ConnectError, LinkStream, MasterKey, MasterSide, WorkerSide};
use papertrader_node::openpgp::Identity;
use papertrader_node::shutdown::{self, Trigger};
use papertrader_node::tls;
use papertrader_protocol::data::WorkerList;
use papertrader_protocol::frame::LinkHeader;
use papertrader_protocol::link::{
    LinkHello, LinkInstrument, LinkWelcome, SessionEnded, SessionPresence,
};
use papertrader_protocol::push::{SnapshotDifference, SnapshotPush, SnapshotStep, Tick};
use papertrader_protocol::returns::Return;
use papertrader_protocol::transfer::Assembly;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Header, Instruction, Reason, Request, SessionId, args};
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{Batch, Change, Store, WorkerRow};
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// The UUIDs of the workers that the master knows.
pub(crate) const WORKERS: [WorkerId; 2] = [WorkerId([1; 16]), WorkerId([2; 16])];

/// The keys of the master and of the workers, made once.
pub(crate) struct Keys {
    pub(crate) master: Arc<Identity>,
    pub(crate) workers: [Arc<Identity>; 2],
    pub(crate) certificate: tls::Certificate,
}

pub(crate) static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let now = Clock::system(WallTime(0)).now();
    let identity = |name| Arc::new(Identity::generate(name, now).unwrap());
    let directory = tempfile::tempdir().unwrap();
    let protocols = [tls::LINK_PROTOCOL, tls::CLIENT_PROTOCOL];
    let certificate = tls::Certificate::self_made(directory.path(), &protocols).unwrap();
    let workers = [identity("worker-0"), identity("worker-1")];
    Keys { master: identity("master"), workers, certificate }
});

/// What a worker proves itself with.
pub(crate) fn side(id: WorkerId, identity: &Arc<Identity>) -> WorkerSide {
    WorkerSide {
        worker: id,
        identity: Arc::clone(identity),
        master: KEYS.certificate.fingerprint(),
        master_key: Arc::new(MasterKey::known(KEYS.master.certificate().clone())),
    }
}

/// A master, its store's directory, and the means to move its market.
pub(crate) struct TestMaster {
    pub(crate) dir: TempDir,
    pub(crate) address: SocketAddr,
    /// The master's clock: raised far beyond now, it stands almost still.
    pub(crate) clock: Clock,
    ticks: mpsc::Sender<()>,
    trigger: Trigger,
    master: Option<Master>,
}

/// What a test may change.
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) start: &'static str,
    pub(crate) step: i64,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { config: Config::default(), start: "2005-02-25", step: 1_800 * SECOND }
    }
}

impl TestMaster {
    pub(crate) async fn start(setup: Setup) -> TestMaster {
        TestMaster::start_in(tempfile::tempdir().unwrap(), setup).await
    }

    pub(crate) async fn start_in(dir: TempDir, setup: Setup) -> TestMaster {
        let start = Date::parse(setup.start).unwrap();
        let replay = Replay::bundled(ReplayConfig { start, step: setup.step, seed: 7 }).unwrap();
        TestMaster::start_with(dir, setup.config, Arc::new(replay)).await
    }

    /// Starts one that the operator can reach in its directory.
    pub(crate) async fn start_with_operator(mut setup: Setup) -> (TestMaster, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        setup.config.admin = Some(path.clone());
        (TestMaster::start_in(dir, setup).await, path)
    }

    pub(crate) async fn start_with(
        dir: TempDir,
        config: Config,
        source: Arc<dyn PriceSource>,
    ) -> TestMaster {
        let store = Box::new(TestMaster::store_in(&dir));
        TestMaster::start_on(dir, config, source, store).await
    }

    /// The store of a master, with the workers in its registry.
    pub(crate) fn store_in(dir: &TempDir) -> SqliteStore {
        let mut store = SqliteStore::open(&dir.path().join("test.db"), "deployment").unwrap();
        register_workers(&mut store);
        store
    }

    pub(crate) async fn start_on(
        dir: TempDir,
        config: Config,
        source: Arc<dyn PriceSource>,
        store: Box<dyn Store>,
    ) -> TestMaster {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let clock = Clock::system(WallTime(0));
        let (trigger, shutdown) = shutdown::channel();
        let (ticks, manual) = mpsc::channel(1_000);
        let master = Master::start(
            config,
            store,
            source,
            Entrance {
                listener,
                side: MasterSide::new(KEYS.certificate.clone(), Arc::clone(&KEYS.master)),
            },
            clock.clone(),
            Ticks::Manual(manual),
            shutdown,
        )
        .await
        .unwrap();
        let address = master.address();
        TestMaster { dir, address, clock, ticks, trigger, master: Some(master) }
    }

    /// Lets time pass, and then stand almost still.
    pub(crate) fn pass_time(&self, seconds: i64) {
        self.clock.raise(self.clock.now().plus_nanos(seconds * SECOND));
    }

    /// Lets the master take its next snapshot.
    pub(crate) async fn tick(&self) {
        self.ticks.send(()).await.unwrap();
    }

    /// Waits for an end that nobody asked for.
    pub(crate) async fn ended_by_itself(mut self) -> Result<(), MasterError> {
        self.master.take().unwrap().ended().await
    }

    /// Ends it cleanly and gives its directory back.
    pub(crate) async fn end(mut self) -> (TempDir, Result<(), MasterError>) {
        self.trigger.pull();
        let result = self.master.take().unwrap().ended().await;
        (self.dir, result)
    }
}

/// What the operator is told by the master in a directory.
pub(crate) async fn operator(dir: &Path, request: AdminRequest) -> Result<AdminReply, ClientError> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || Client::connect(&dir)?.ask(&request)).await.unwrap()
}

/// Puts the workers into the registry of a new store.
fn register_workers(store: &mut SqliteStore) {
    let loaded = store.load().unwrap();
    if !loaded.workers.is_empty() {
        return;
    }
    let rows = (0..2).map(|n| WorkerRow {
        id: WORKERS[n],
        name: format!("worker-{n}"),
        allowed: "127.0.0.1".into(),
        key: Some(KEYS.workers[n].certificate().to_bytes().to_vec()),
        booted: None,
    });
    let mut number = loaded.last_batch;
    number.0 += 1;
    let changes = rows.map(Change::PutWorker).collect();
    let wall = loaded.last_wall.plus_nanos(1);
    store.commit(&Batch { number, wall, changes }).unwrap();
}

/// A frame of the master, taken out of the buffer.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) header: Header,
    pub(crate) data: Vec<u8>,
    pub(crate) said: Option<Return>,
}

impl Received {
    fn of(frame: &papertrader_protocol::Frame<'_>) -> Received {
        let said = Return::parse(frame).unwrap();
        Received { header: frame.header, data: frame.data.into(), said }
    }
}

/// What a worker is told of prices, with the values that it shows then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) number: u64,
    /// The snapshot that it builds upon; 0 for none.
    pub(crate) base: u64,
    pub(crate) market: MarketTime,
    pub(crate) instruments: Vec<LinkInstrument>,
    /// What changed, or everything.
    pub(crate) ticks: Vec<Tick>,
}

fn is_prices(received: &Received) -> bool {
    let of = [Instruction::Snapshot as u16, Instruction::SnapshotStep as u16];
    of.contains(&received.header.instruction)
}

/// A link to the master.
pub(crate) struct FakeWorker {
    id: WorkerId,
    inbox: Inbox<ReadHalf<LinkStream>>,
    writer: WriteHalf<LinkStream>,
    next_request: u64,
    sequence: AtomicU64,
    /// What arrived while something was sent.
    early: VecDeque<Received>,
    /// What arrived while something else was awaited.
    pub(crate) aside: Vec<Received>,
    /// What it shows.
    pub(crate) shown: BTreeMap<u32, Tick>,
    market: MarketTime,
    /// What it has.
    pub(crate) have: SnapshotDifference,
}

impl FakeWorker {
    pub(crate) async fn connect(address: SocketAddr, id: WorkerId) -> FakeWorker {
        FakeWorker::connect_raw(address, id).await.welcomed().await
    }

    /// Connects to a master whose clock was raised, as one whose own goes like it.
    pub(crate) async fn connect_in_time_of(master: &TestMaster, id: WorkerId) -> FakeWorker {
        let nth = WORKERS.iter().position(|known| *known == id).unwrap_or(0);
        let side = side(id, &KEYS.workers[nth]);
        let (stream, _) = side.connect(master.address, &master.clock).await.unwrap();
        FakeWorker::over(stream, id).welcomed().await
    }

    /// Says hello, and is let in.
    pub(crate) async fn welcomed(self) -> FakeWorker {
        let mut worker = self.let_in().await;
        let nothing = SnapshotDifference { sequence: 0, number: 0, list: 0 };
        worker.ask_prices(&nothing).await;
        worker
    }

    /// A link that has asked for no prices.
    pub(crate) async fn connect_silent(address: SocketAddr, id: WorkerId) -> FakeWorker {
        FakeWorker::connect_raw(address, id).await.let_in().await
    }

    async fn let_in(self) -> FakeWorker {
        let mut worker = self;
        let hello = hello(worker.id);
        worker.send_control(Instruction::LinkHello, &hello.to_bytes()).await;
        let welcome = worker.receive().await;
        assert_eq!(welcome.header.instruction, Instruction::LinkWelcome as u16, "{welcome:?}");
        let welcome = LinkWelcome::from_bytes(&welcome.data).unwrap();
        assert_eq!(welcome.deployment, "deployment");
        worker
    }

    /// Asks for the prices that it has not, and waits until the answer is there.
    pub(crate) async fn ask_prices(&mut self, have: &SnapshotDifference) {
        self.send_control(Instruction::SnapshotDifference, &have.to_bytes()).await;
        let mut is_there = false;
        while !is_there {
            let received = self.receive().await;
            is_there = is_prices(&received);
            self.aside.push(received);
        }
    }

    /// A link whose proof is done, without a hello.
    pub(crate) async fn connect_raw(address: SocketAddr, id: WorkerId) -> FakeWorker {
        let nth = WORKERS.iter().position(|known| *known == id).unwrap_or(0);
        FakeWorker::try_connect(address, &side(id, &KEYS.workers[nth])).await.unwrap()
    }

    /// The proof of whoever `side` is.
    pub(crate) async fn try_connect(
        address: SocketAddr,
        side: &WorkerSide,
    ) -> Result<FakeWorker, ConnectError> {
        let (stream, _) = side.connect(address, &Clock::system(WallTime(0))).await?;
        Ok(FakeWorker::over(stream, side.worker))
    }

    /// A client that speaks to the master itself.
    pub(crate) async fn connect_as_client(address: SocketAddr) -> FakeWorker {
        let stream = TcpStream::connect(address).await.unwrap();
        let expected = KEYS.certificate.fingerprint();
        let stream = tls::connect(stream, expected, tls::CLIENT_PROTOCOL).await.unwrap();
        FakeWorker::over(stream, WORKERS[0])
    }

    fn over(stream: LinkStream, id: WorkerId) -> FakeWorker {
        let (reader, writer) = tokio::io::split(stream);
        FakeWorker {
            id,
            inbox: Inbox::new(reader),
            writer,
            next_request: 1,
            sequence: AtomicU64::new(1),
            aside: Vec::new(),
            early: VecDeque::new(),
            shown: BTreeMap::new(),
            market: MarketTime(0),
            have: SnapshotDifference { sequence: 0, number: 0, list: 0 },
        }
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        let FakeWorker { inbox, writer, early, .. } = self;
        let sending = async {
            writer.write_all(bytes).await?;
            writer.flush().await
        };
        tokio::pin!(sending);
        // Whoever only sends, and reads nothing, comes to stand still: so does the other end.
        loop {
            tokio::select! {
                biased;
                sent = &mut sending => return sent.unwrap(),
                read = inbox.fill() => {
                    if !matches!(read, Ok(1..)) {
                        return sending.await.unwrap();
                    }
                    while let Some(frame) = inbox.frame().unwrap() {
                        early.push_back(Received::of(&frame));
                    }
                }
            }
        }
    }

    /// False if the master has closed the link.
    pub(crate) async fn try_send_bytes(&mut self, bytes: &[u8]) -> bool {
        self.writer.write_all(bytes).await.is_ok() && self.writer.flush().await.is_ok()
    }

    /// Says nothing more, and could still read.
    pub(crate) async fn close_half(&mut self) {
        self.writer.shutdown().await.unwrap();
    }

    pub(crate) async fn send_control(&mut self, instruction: Instruction, data: &[u8]) {
        let mut bytes = Vec::new();
        let mut header = Header::new(instruction.message_type(), instruction as u16, 0);
        header.link = (instruction != Instruction::LinkHello).then(|| self.link_header());
        header.encode(data, &mut bytes);
        self.send_bytes(&bytes).await;
    }

    pub(crate) fn link_header(&self) -> LinkHeader {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64;
        LinkHeader {
            worker: self.id,
            received_at: WallTime(now),
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
            deadline: WallTime(0),
            client: "127.0.0.1:5000".parse().unwrap(),
        }
    }

    /// Sends a client's request and returns its number.
    pub(crate) async fn send(&mut self, session: SessionId, request: &Request) -> u64 {
        let link = self.link_header();
        self.send_with(session, request, link).await
    }

    /// Sends a request as a client does that speaks to the master itself.
    pub(crate) async fn send_as_client(&mut self, request: &Request) -> u64 {
        let (instruction, arguments) = request.encode();
        let number = self.next_request;
        self.next_request += 1;
        let mut bytes = Vec::new();
        papertrader_protocol::returns::put_args(
            instruction,
            &arguments,
            number,
            SessionId::NONE,
            &mut bytes,
        );
        self.send_bytes(&bytes).await;
        number
    }

    pub(crate) async fn send_with(
        &mut self,
        session: SessionId,
        request: &Request,
        link: LinkHeader,
    ) -> u64 {
        let (instruction, arguments) = request.encode();
        let number = self.next_request;
        self.next_request += 1;
        let mut header = Header::new(instruction.message_type(), instruction as u16, number);
        header.argument_count = arguments.len() as u16;
        header.session = session;
        header.link = Some(link);
        let mut bytes = Vec::new();
        header.encode(args::join(&arguments).as_bytes(), &mut bytes);
        self.send_bytes(&bytes).await;
        number
    }

    /// The next frame, whatever it is.
    pub(crate) async fn receive(&mut self) -> Received {
        self.try_receive().await.expect("the master closed the link")
    }

    /// The next frame; `None` when the master closes.
    pub(crate) async fn try_receive(&mut self) -> Option<Received> {
        if let Some(received) = self.early.pop_front() {
            return Some(received);
        }
        loop {
            if let Some(frame) = self.inbox.frame().unwrap() {
                return Some(Received::of(&frame));
            }
            if self.inbox.fill().await.ok()? == 0 {
                return None;
            }
        }
    }

    /// The next frame for which `wanted` holds; others are put aside.
    pub(crate) async fn receive_where(&mut self, wanted: impl Fn(&Received) -> bool) -> Received {
        if let Some(at) = self.aside.iter().position(&wanted) {
            return self.aside.remove(at);
        }
        loop {
            let received = self.receive().await;
            if wanted(&received) {
                return received;
            }
            self.aside.push(received);
        }
    }

    /// The next return to a request.
    pub(crate) async fn answer(&mut self, request: u64) -> Return {
        let received = self.receive_where(|r| r.header.request == request).await;
        received.said.unwrap_or_else(|| panic!("not a return: {:?}", received.header))
    }

    /// The reason with which a request is refused.
    pub(crate) async fn refusal(&mut self, request: u64) -> Reason {
        match self.answer(request).await {
            Return::Failed(_, failure) => failure.reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// The data that answers a request, put together.
    pub(crate) async fn data(&mut self, request: u64) -> Vec<u8> {
        let mut assembly = Assembly::default();
        loop {
            let received = self.receive_where(|r| r.header.request == request).await;
            assert_eq!(
                received.header.instruction,
                Instruction::Data as u16,
                "{:?}",
                received.said
            );
            let frame =
                papertrader_protocol::Frame { header: received.header, data: &received.data };
            assembly.push(&frame, usize::MAX).unwrap();
            match assembly.finished() {
                Ok(data) => return data,
                Err(unfinished) => assembly = unfinished,
            }
        }
    }

    pub(crate) async fn ask(&mut self, session: SessionId, request: &Request) -> Return {
        let number = self.send(session, request).await;
        self.answer(number).await
    }

    pub(crate) async fn ask_data<T: Wire>(&mut self, session: SessionId, request: &Request) -> T {
        let number = self.send(session, request).await;
        T::from_bytes(&self.data(number).await).unwrap()
    }

    /// The next snapshot that is told.
    pub(crate) async fn snapshot(&mut self) -> Told {
        let received = self.receive_where(is_prices).await;
        assert_eq!(received.header.max, 1);
        if received.header.instruction == Instruction::SnapshotStep as u16 {
            let step = SnapshotStep::from_bytes(&received.data).unwrap();
            assert_eq!((step.sequence, step.base), (self.have.sequence, self.have.number));
            let times = (self.market, step.market);
            let mut ticks = Vec::new();
            for entry in step.entries() {
                let (id, packed) = entry.unwrap();
                let (tick, _) = packed.onto(id, self.shown.get(&id), times).unwrap();
                self.shown.insert(id, tick);
                ticks.push(tick);
            }
            self.have.number = step.number;
            self.market = step.market;
            let (number, base, market) = (step.number, step.base, step.market);
            return Told { number, base, market, instruments: Vec::new(), ticks };
        }
        let push = SnapshotPush::from_bytes(&received.data).unwrap();
        if push.base == 0 {
            self.shown.clear();
        } else {
            assert_eq!((push.sequence, push.base), (self.have.sequence, self.have.number));
        }
        let ticks: Vec<Tick> = push.ticks().map(Result::unwrap).collect();
        self.shown.extend(ticks.iter().map(|tick| (tick.instrument, *tick)));
        let (sequence, number, list) = (push.sequence, push.number, push.list);
        self.have = SnapshotDifference { sequence, number, list };
        self.market = push.market;
        let SnapshotPush { base, market, instruments, .. } = push;
        Told { number, base, market, instruments, ticks }
    }

    /// Forgets pushes that were put aside.
    pub(crate) fn snapshot_aside(&mut self) {
        self.aside.clear();
    }

    /// The next list of workers that is pushed.
    pub(crate) async fn worker_list(&mut self) -> WorkerList {
        let wanted = |r: &Received| r.header.instruction == Instruction::WorkerList as u16;
        WorkerList::from_bytes(&self.receive_where(wanted).await.data).unwrap()
    }

    /// The next session that the master says has ended.
    pub(crate) async fn session_ended(&mut self) -> SessionId {
        let wanted = |r: &Received| r.header.instruction == Instruction::SessionEnded as u16;
        SessionEnded::from_bytes(&self.receive_where(wanted).await.data).unwrap().session
    }

    /// Says that the last connection with a session has closed here.
    pub(crate) async fn leave(&mut self, session: SessionId) {
        let left = SessionPresence { session, present: false };
        self.send_control(Instruction::SessionPresence, &left.to_bytes()).await;
    }

    /// Registers and logs in.
    pub(crate) async fn new_session(&mut self, name: &str) -> SessionId {
        let registered = self.ask(SessionId::NONE, &register(name)).await;
        assert_eq!(registered, Return::Registered(name.into()));
        self.login(name, false).await
    }

    pub(crate) async fn login(&mut self, name: &str, expirable: bool) -> SessionId {
        match self.ask(SessionId::NONE, &login(name, expirable)).await {
            Return::Session(grant) => {
                assert_eq!(grant.name, name);
                grant.session
            }
            other => panic!("not logged in: {other:?}"),
        }
    }
}

pub(crate) fn register(name: &str) -> Request {
    Request::Register {
        name: name.parse().unwrap(),
        email: format!("{name}@example.org").parse().unwrap(),
        pass: pass(name),
    }
}

pub(crate) fn login(name: &str, expirable: bool) -> Request {
    Request::Login { name: name.parse().unwrap(), pass: pass(name), expirable }
}

pub(crate) fn pass(name: &str) -> papertrader_protocol::request::HashedPass {
    let digit = (b'a' + (name.len() % 6) as u8) as char;
    papertrader_protocol::request::HashedPass::parse(&digit.to_string().repeat(64)).unwrap()
}

/// What a worker says of itself.
pub(crate) fn hello(id: WorkerId) -> LinkHello {
    // An address of its own, whatever its key: of two workers with the same, one is listed.
    let address = match WORKERS.contains(&id) {
        true => format!("127.0.0.1:{}", 4000 + u16::from(id.0[0])),
        false => format!("[{}]:2049", Ipv6Addr::from(id.0)),
    };
    LinkHello {
        worker: id,
        version: "test".into(),
        address,
        web: String::new(),
        fingerprint: String::new(),
        region: "here".into(),
        clock: WallTime(0),
    }
}

fn order(symbol: &str, quantity: &str, id: &str) -> papertrader_protocol::request::OrderArgs {
    papertrader_protocol::request::OrderArgs {
        symbol: symbol.parse().unwrap(),
        quantity: quantity.parse().unwrap(),
        client_order_id: id.parse().unwrap(),
    }
}

pub(crate) fn buy(symbol: &str, quantity: &str, id: &str) -> Request {
    Request::PurchaseAsset(order(symbol, quantity, id))
}

pub(crate) fn sell(symbol: &str, quantity: &str, id: &str) -> Request {
    Request::SellAsset(order(symbol, quantity, id))
}
