//! A scripted master: it speaks the link, and does only what the test tells it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use papertrader_core::bar::Bar;
use papertrader_core::ids::WorkerId;
use papertrader_core::time::{MarketTime, WallTime};
use papertrader_node::clock::Clock;
use papertrader_node::connection::Inbox;
use papertrader_node::link::{
    MasterKey, MasterSide, PortStream, Registered, WorkerSide, is_worker,
};
use papertrader_node::openpgp::Identity;
use papertrader_node::tls;
use papertrader_protocol::data::{AssetKind, WorkerLine, WorkerList};
use papertrader_protocol::instruction::Instruction;
use papertrader_protocol::link::{
    LinkHello, LinkInstrument, LinkPing, LinkPong, LinkWelcome, SessionEnded, WorkerStatus,
};
use papertrader_protocol::push::{
    Gaps, PackedStep, PackedTick, SnapshotPush, SnapshotStep, Tick, predicted,
};
use papertrader_protocol::returns::{self, QueuedOrder, Return, SessionGrant};
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Header, Reason, SessionId, transfer};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::soon;

/// A frame with its own data.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) header: Header,
    pub(crate) data: Vec<u8>,
}

impl Message {
    pub(crate) fn instruction(&self) -> Instruction {
        Instruction::from_number(self.header.instruction).unwrap()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.data).unwrap()
    }
}

/// By what workers know the start of this master, and its list of instruments.
pub(crate) const SEQUENCE: u64 = 4;
pub(crate) const LIST: u64 = 5;

/// The UUID of the worker.
pub(crate) const WORKER: WorkerId = WorkerId([7; 16]);

/// Keys and certificate of both, made once.
struct Keys {
    master: MasterSide,
    worker: WorkerSide,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let now = Clock::system(WallTime(0)).now();
    let identity = |name| Arc::new(Identity::generate(name, now).unwrap());
    let directory = tempfile::tempdir().unwrap();
    let protocols = [tls::LINK_PROTOCOL, tls::CLIENT_PROTOCOL];
    let certificate = tls::Certificate::self_made(directory.path(), &protocols).unwrap();
    let master = MasterSide::new(certificate, identity("master"));
    let worker = WorkerSide {
        worker: WORKER,
        identity: identity("worker"),
        master: master.fingerprint(),
        master_key: Arc::new(MasterKey::known(master.key().clone())),
    };
    Keys { master, worker }
});

/// What the worker proves itself with.
pub(crate) fn worker_side() -> WorkerSide {
    KEYS.worker.clone()
}

pub(crate) struct Master {
    listener: TcpListener,
}

impl Master {
    pub(crate) async fn start() -> Master {
        Master { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    /// Takes the next link, up to its hello.
    pub(crate) async fn accept(&self) -> (Link, LinkHello) {
        let (stream, from) = soon(self.listener.accept()).await.unwrap();
        self.proven(stream, from).await.unwrap()
    }

    /// A connection that a worker has made, up to its hello; `None` if it has gone.
    async fn proven(&self, stream: TcpStream, from: SocketAddr) -> Option<(Link, LinkHello)> {
        let mut stream = soon(KEYS.master.accept(stream)).await.ok()?;
        assert!(is_worker(&stream));
        let find = |id| {
            let key = Arc::new(KEYS.worker.identity.certificate().clone());
            let allowed = vec!["127.0.0.1".parse().unwrap()];
            Some(Registered { id, name: "one".into(), allowed, key: Some(key), booted: None })
        };
        let clock = Clock::system(WallTime(0));
        let proven = KEYS.master.prove(&mut stream, from, find, &clock).await.ok()?;
        assert_eq!(proven.worker, WORKER);
        let mut link = Link::new(stream);
        let hello = link.next().await;
        assert_eq!(hello.instruction(), Instruction::LinkHello);
        Some((link, LinkHello::from_bytes(&hello.data).unwrap()))
    }

    /// Takes the next link, says welcome, and pushes prices and the list of workers.
    pub(crate) async fn link(&self) -> Link {
        let (mut link, _) = self.accept().await;
        link.welcome("deployment-1", 0).await;
        link.push_all(1).await;
        link
    }

    /// Takes the link that lasts: a worker of several masters leaves this one's when another was
    /// quicker.
    pub(crate) async fn link_of_many(&self) -> Link {
        loop {
            let (stream, from) = soon(self.listener.accept()).await.unwrap();
            if let Some((mut link, _)) = self.proven(stream, from).await {
                link.welcome("deployment-1", 0).await;
                link.push_all(1).await;
                return link;
            }
        }
    }

    /// Stops listening: the worker cannot connect until [`Master::back`].
    pub(crate) fn away(self) -> std::net::SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(crate) async fn back(address: std::net::SocketAddr) -> Master {
        Master { listener: TcpListener::bind(address).await.unwrap() }
    }
}

/// The prices of the first snapshot: AAPL has one, NONE has none.
pub(crate) fn tick(raw: i64) -> Tick {
    let price = papertrader_core::money::Price::from_raw(raw).unwrap();
    Tick {
        instrument: 1,
        price,
        time: MarketTime(raw),
        day: MarketTime(0),
        open: price,
        high: price,
        low: price,
        volume: papertrader_core::money::Volume::from_raw(5),
        previous_close: None,
    }
}

pub(crate) struct Link {
    inbox: Inbox<ReadHalf<PortStream>>,
    writer: WriteHalf<PortStream>,
    /// By how many nanoseconds this master's clock is ahead.
    pub(crate) ahead: i64,
    /// Presences and states that came in between.
    pub(crate) asides: VecDeque<Message>,
}

impl Link {
    fn new(stream: PortStream) -> Link {
        let (reader, writer) = tokio::io::split(stream);
        Link { inbox: Inbox::new(reader), writer, ahead: 0, asides: VecDeque::new() }
    }

    /// The next message, whatever it is; `None` when the link was closed.
    async fn read(&mut self) -> Option<Message> {
        loop {
            if let Some(frame) = self.inbox.frame().unwrap() {
                return Some(Message { header: frame.header, data: frame.data.to_vec() });
            }
            if !matches!(self.inbox.fill().await, Ok(count) if count > 0) {
                return None;
            }
        }
    }

    /// The next message that is neither a ping nor a state nor a presence, nor a question for prices.
    pub(crate) async fn next(&mut self) -> Message {
        // The whole wait is bounded: pings go on while nothing else comes.
        soon(async {
            loop {
                let message = self.read().await.expect("the link is open");
                match message.instruction() {
                    Instruction::LinkPing => self.pong(&message).await,
                    Instruction::WorkerStatus
                    | Instruction::SessionPresence
                    | Instruction::SnapshotDifference => self.asides.push_back(message),
                    _ => return message,
                }
            }
        })
        .await
    }

    /// The next message of one kind that [`Link::next`] passes over.
    pub(crate) async fn aside(&mut self, instruction: Instruction) -> Message {
        soon(async {
            loop {
                if let Some(at) = self.asides.iter().position(|m| m.instruction() == instruction) {
                    return self.asides.remove(at).unwrap();
                }
                let message = self.read().await.expect("the link is open");
                match message.instruction() {
                    Instruction::LinkPing => self.pong(&message).await,
                    _ => self.asides.push_back(message),
                }
            }
        })
        .await
    }

    /// The next state of the worker of which `condition` is true.
    pub(crate) async fn status(
        &mut self,
        condition: impl Fn(&WorkerStatus) -> bool,
    ) -> WorkerStatus {
        let mut last = None;
        let found = async {
            loop {
                let message = self.aside(Instruction::WorkerStatus).await;
                let status = WorkerStatus::from_bytes(&message.data).unwrap();
                if condition(&status) {
                    return status;
                }
                last = Some(status);
            }
        };
        match tokio::time::timeout(std::time::Duration::from_secs(30), found).await {
            Ok(status) => status,
            Err(_) => panic!("a test hangs at {last:?}"),
        }
    }

    pub(crate) async fn expect(&mut self, instruction: Instruction) -> Message {
        let message = self.next().await;
        assert_eq!(message.instruction(), instruction);
        message
    }

    /// Reads until the worker closes the link; the goodbye that it says before.
    pub(crate) async fn closed(&mut self) -> Option<Message> {
        soon(async {
            let mut last = None;
            while let Some(message) = self.read().await {
                if message.instruction() == Instruction::Goodbye {
                    last = Some(message);
                }
            }
            last
        })
        .await
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        soon(self.writer.write_all(bytes)).await.unwrap();
        soon(self.writer.flush()).await.unwrap();
    }

    pub(crate) async fn returned(&mut self, request: u64, what: &Return) {
        let mut out = Vec::new();
        what.put(request, &mut out);
        self.write(&out).await;
    }

    async fn pong(&mut self, ping: &Message) {
        let sent = LinkPing::from_bytes(&ping.data).unwrap().sent;
        self.push(Instruction::LinkPong, &LinkPong { sent, clock: self.clock() }).await;
    }

    fn clock(&self) -> WallTime {
        papertrader_node::clock::Clock::system(WallTime(0)).now().plus_nanos(self.ahead)
    }

    pub(crate) async fn failed(&mut self, request: u64, under: Instruction, reason: Reason) {
        self.returned(request, &Return::Failed(under, reason.into())).await;
    }

    pub(crate) async fn data(&mut self, request: u64, data: &[u8], is_final: bool) {
        let number = Instruction::Data as u16;
        let mut header = Header::new(Instruction::Data.message_type(), number, request);
        header.is_final = is_final;
        let mut out = Vec::new();
        transfer::encode(header, data, &mut out);
        self.write(&out).await;
    }

    pub(crate) async fn push(&mut self, instruction: Instruction, content: &impl Wire) {
        let header = Header::new(instruction.message_type(), instruction as u16, 0);
        let mut out = Vec::new();
        transfer::encode(header, &content.to_bytes(), &mut out);
        self.write(&out).await;
    }

    /// `ahead` is by how many nanoseconds the master's clock is ahead.
    pub(crate) async fn welcome(&mut self, deployment: &str, ahead: i64) {
        self.ahead = ahead;
        let welcome = LinkWelcome {
            deployment: deployment.into(),
            name: "worker one".into(),
            clock: self.clock(),
            interval: 1,
            bar_interval: 1,
            source: "a test".into(),
        };
        self.push(Instruction::LinkWelcome, &welcome).await;
    }

    /// The full snapshot and the list of workers.
    pub(crate) async fn push_all(&mut self, number: u64) {
        let instrument = |id, symbol: &str| LinkInstrument {
            id,
            symbol: symbol.parse().unwrap(),
            name: symbol.into(),
            kind: AssetKind::Stock,
        };
        let market = MarketTime(77);
        let full = SnapshotPush {
            sequence: SEQUENCE,
            number,
            base: 0,
            market,
            ended: false,
            list: LIST,
            instruments: vec![instrument(1, "AAPL"), instrument(2, "NONE")],
            ticks: PackedTick::all([tick(100)].iter(), market),
        };
        // The list first: when the prices are there, everything is.
        self.push(Instruction::WorkerList, &worker_list()).await;
        self.push(Instruction::Snapshot, &full).await;
    }

    /// The step to snapshot `number` from the one before, with these values.
    pub(crate) async fn push_change(&mut self, number: u64, ticks: Vec<Tick>) {
        self.push_step(number - 1, number, ticks).await;
    }

    /// The step to snapshot `number` in which AAPL, which showed `before`, got a new price by this
    /// bar; what it shows now.
    pub(crate) async fn push_bar(&mut self, number: u64, before: &Tick, bar: &Bar) -> Tick {
        let (base, market) = (MarketTime(75 + number as i64), MarketTime(76 + number as i64));
        let now = predicted(1, Some(before), bar, market);
        let gap = Gaps::default().before(1);
        let steps = vec![PackedStep::of(gap, Some(before), &now, Some(bar), (base, market))];
        let (sequence, ended) = (SEQUENCE, false);
        let step = SnapshotStep { sequence, number, base: number - 1, market, ended, steps };
        self.push(Instruction::SnapshotStep, &step).await;
        now
    }

    pub(crate) async fn push_step(&mut self, base: u64, number: u64, ticks: Vec<Tick>) {
        let market = MarketTime(76 + number as i64);
        let mut gaps = Gaps::default();
        let step = |tick: &Tick| {
            let gap = gaps.before(tick.instrument);
            PackedStep::of(gap, None, tick, None, (market, market))
        };
        let steps = ticks.iter().map(step).collect();
        let (sequence, ended) = (SEQUENCE, false);
        let step = SnapshotStep { sequence, number, base, market, ended, steps };
        self.push(Instruction::SnapshotStep, &step).await;
    }

    /// What changed since `base`.
    pub(crate) async fn push_difference(&mut self, base: u64, number: u64, ticks: Vec<Tick>) {
        let market = MarketTime(76 + number as i64);
        let push = SnapshotPush {
            sequence: SEQUENCE,
            number,
            base,
            market,
            ended: false,
            list: LIST,
            instruments: vec![],
            ticks: PackedTick::all(ticks.iter(), market),
        };
        self.push(Instruction::Snapshot, &push).await;
    }

    pub(crate) async fn end_session(&mut self, session: SessionId) {
        self.push(Instruction::SessionEnded, &SessionEnded { session }).await;
    }

    /// Answers a login that must be the next message.
    pub(crate) async fn grant(&mut self, session: SessionId, expires: WallTime) -> Message {
        let login = self.next().await;
        let instruction = login.instruction();
        assert!(matches!(instruction, Instruction::Login | Instruction::LoginSession));
        let grant = SessionGrant { session, expires, name: "alice".into() };
        self.returned(login.header.request, &Return::Session(grant)).await;
        login
    }

    /// Answers an order with `orderQueued`.
    pub(crate) async fn queue(&mut self, order: &Message) {
        let id = order.text().rsplit(' ').next().unwrap();
        let queued = QueuedOrder {
            order: 1,
            client_order_id: id.parse().unwrap(),
            side: papertrader_core::order::Side::Buy,
            symbol: "AAPL".parse().unwrap(),
            quantity: "1".parse().unwrap(),
            hold: papertrader_core::money::Cash::ZERO,
            waiting: "-".into(),
        };
        self.returned(order.header.request, &Return::OrderQueued(queued)).await;
    }

    /// Answers an order with its outcome, in words of its own.
    pub(crate) async fn fill(&mut self, order: &Message) {
        let words = ["filled".to_owned()];
        let mut out = Vec::new();
        let number = order.header.request;
        let instruction = Instruction::PurchaseSuccess;
        returns::put_args(instruction, &words, number, SessionId::NONE, &mut out);
        self.write(&out).await;
    }
}

pub(crate) fn worker_list() -> WorkerList {
    WorkerList {
        workers: vec![WorkerLine {
            name: "worker one".into(),
            address: "127.0.0.1:2049".into(),
            web: String::new(),
            fingerprint: String::new(),
            region: String::new(),
            load: 1,
        }],
    }
}
