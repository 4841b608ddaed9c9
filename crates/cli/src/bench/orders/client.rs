//! One connection of the load: it brings orders of its accounts, keeps a number of them without an
//! answer, and writes down what became of each.
//!
//! It speaks the protocol and nothing more: no retries, no failing over. What it is told is judged
//! at once: an answer that no order of its can have is an error.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BytesMut};
use papertrader_core::names::Symbol;
use papertrader_node::tls;
use papertrader_protocol::{Fingerprint, Frame, Header, Instruction, SessionId, args};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::bench::order_id::put_id;
use crate::bench::{BenchError, wrong};

/// The request number of a connection's first order.
const FIRST: u64 = 1_000;
/// How much one read may bring.
const READ: usize = 64 * 1024;
/// About how much is put together before it is written.
const WRITE: usize = 64 * 1024;

/// Any connection to the server.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// How a load sends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Orders of one connection without an answer.
    pub(super) window: usize,
    /// The shortest time from one order of a connection to its next.
    pub(super) pace: Duration,
}

/// What all connections of a load share.
pub(super) struct Load {
    start: Instant,
    /// The wall time of the start, in nanoseconds.
    pub(super) start_wall: i64,
    pub(super) symbols: Vec<Symbol>,
    /// Orders that may still be sent.
    pub(super) left: Cell<u64>,
    /// When no more are sent, whatever is left.
    pub(super) until: Cell<Option<Instant>>,
    pub(super) seen: Rc<Seen>,
    /// Whether it fills the queue for others to wait.
    fills: bool,
}

/// What the clients of loads at the same time were told.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) settlements: RefCell<BTreeMap<i64, Settlement>>,
    /// Whenever a settlement is seen for the first time.
    settled: Notify,
    pub(super) refused: RefCell<BTreeMap<String, u64>>,
}

/// What was seen of a settlement, under its wall time. Microseconds since the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settlement {
    pub(super) first: u32,
    pub(super) orders: u64,
    /// Of them, those that filled the queue.
    pub(super) filling: u64,
}

impl Load {
    pub(super) fn new(symbols: Vec<Symbol>) -> Load {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Load {
            start: Instant::now(),
            start_wall: i64::try_from(wall.as_nanos()).unwrap_or(i64::MAX),
            symbols,
            left: Cell::new(0),
            until: Cell::new(None),
            seen: Rc::default(),
            fills: false,
        }
    }

    /// One more at the same time, with orders of its own, that fills the queue.
    pub(super) fn filling(&self) -> Load {
        Load {
            symbols: self.symbols.clone(),
            left: Cell::new(0),
            until: Cell::new(None),
            seen: Rc::clone(&self.seen),
            fills: true,
            ..*self
        }
    }

    /// Waits for the next settlement.
    pub(super) async fn settled(&self) {
        self.seen.settled.notified().await;
    }

    /// Microseconds from the start to a wall time.
    pub(super) fn since_start(&self, wall: i64) -> u32 {
        u32::try_from(wall.saturating_sub(self.start_wall) / 1_000).unwrap_or(0)
    }

    /// Microseconds since the start.
    pub(super) fn now(&self) -> u32 {
        u32::try_from(self.start.elapsed().as_micros()).unwrap_or(u32::MAX)
    }

    fn is_over(&self) -> bool {
        self.left.get() == 0 || self.until.get().is_some_and(|until| Instant::now() >= until)
    }

    fn outcome(&self, wall: i64, now: u32) {
        let mut all = self.seen.settlements.borrow_mut();
        let seen = all.entry(wall).or_insert_with(|| {
            self.seen.settled.notify_waiters();
            Settlement { first: now, orders: 0, filling: 0 }
        });
        seen.orders += 1;
        seen.filling += u64::from(self.fills);
    }
}

/// What is known of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    Sent,
    Queued,
    Filled,
    /// It was queued, and then not filled.
    Failed,
    /// It was never queued.
    Refused,
}

/// An order that was sent. Times are microseconds since the start of the load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) at: u32,
    pub(super) queued: u32,
    pub(super) decided: u32,
    symbol: u16,
    account: u8,
    is_sale: bool,
    pub(super) known: Known,
}

/// A connection.
pub(super) struct Client {
    pub(super) number: usize,
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    input: BytesMut,
    output: Vec<u8>,
    written: usize,
    unflushed: bool,
    sessions: Vec<SessionId>,
    first_account: u32,
    pub(super) sent: Vec<Sent>,
    waiting: usize,
    open: usize,
    /// How many units each account can sell of each symbol.
    owned: Vec<u32>,
    random: u64,
}

impl Client {
    /// Connects, and shows its sessions, which are those of the accounts from `first_account` on.
    pub(super) async fn connect(
        number: usize,
        server: SocketAddr,
        certificate: Option<Fingerprint>,
        sessions: &[SessionId],
        first_account: u32,
        symbols: usize,
    ) -> Result<Client, BenchError> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match certificate {
            None => Box::new(stream),
            Some(certificate) => {
                Box::new(tls::connect(stream, certificate, tls::CLIENT_PROTOCOL).await?)
            }
        };
        let (reader, writer) = split(stream);
        let mut client = Client {
            number,
            reader,
            writer,
            input: BytesMut::new(),
            output: Vec::new(),
            written: 0,
            unflushed: false,
            sessions: sessions.to_vec(),
            first_account,
            sent: Vec::new(),
            waiting: 0,
            open: 0,
            owned: vec![0; sessions.len() * symbols],
            random: (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        client.log_in().await?;
        Ok(client)
    }

    async fn log_in(&mut self) -> Result<(), BenchError> {
        let instruction = Instruction::LoginSession;
        for (request, session) in (1..).zip(&self.sessions) {
            let mut header = Header::new(instruction.message_type(), instruction as u16, request);
            header.session = *session;
            header.encode(&[], &mut self.output);
        }
        self.writer.write_all(&self.output).await?;
        self.writer.flush().await?;
        self.output.clear();
        let mut left = self.sessions.len();
        while left > 0 {
            self.read().await?;
            while let Some((frame, used)) = Frame::decode(&self.input).map_err(wrong)? {
                match Instruction::from_number(frame.header.instruction) {
                    Some(Instruction::SessionId) => left -= 1,
                    Some(Instruction::WorkerList) => {}
                    _ => return Err(wrong(format!("no session: {}", words(&frame)))),
                }
                self.input.advance(used);
            }
        }
        Ok(())
    }

    /// Brings orders until the load is over and each has its outcome.
    pub(super) async fn trade(&mut self, load: &Load, how: Manner) -> Result<(), BenchError> {
        let mut next = tokio::time::Instant::now();
        loop {
            let now = tokio::time::Instant::now();
            if now >= next && self.fill(load, how.window) {
                next = now + how.pace;
            }
            let writes = self.written < self.output.len() || self.unflushed;
            if !writes && self.waiting == 0 && self.open == 0 && load.is_over() {
                return Ok(());
            }
            let rest = self.output.get(self.written..).unwrap_or_default();
            self.input.reserve(READ);
            tokio::select! {
                biased;
                read = self.reader.read_buf(&mut self.input) => {
                    closed_if_nothing(read?)?;
                    self.take_all(load)?;
                }
                written = write_or_flush(&mut self.writer, rest), if writes => match written? {
                    None => self.unflushed = false,
                    Some(count) => {
                        self.written += count;
                        self.unflushed = true;
                    }
                },
                () = tokio::time::sleep_until(next), if next > now => {}
            }
        }
    }

    async fn read(&mut self) -> Result<(), BenchError> {
        self.input.reserve(READ);
        closed_if_nothing(self.reader.read_buf(&mut self.input).await?)
    }

    /// Puts as many orders together as may be sent now. False if there was none.
    fn fill(&mut self, load: &Load, window: usize) -> bool {
        if self.written < self.output.len() || self.waiting >= window {
            return false;
        }
        self.output.clear();
        self.written = 0;
        let now = load.now();
        while self.waiting < window && self.output.len() < WRITE && !load.is_over() {
            load.left.set(load.left.get() - 1);
            self.put_order(load, now);
            self.waiting += 1;
        }
        !self.output.is_empty()
    }

    fn put_order(&mut self, load: &Load, now: u32) {
        let index = self.sent.len();
        let account = index % self.sessions.len();
        let random = self.next_random();
        let symbol = (random >> 8) as usize % load.symbols.len();
        let owned = &mut self.owned[account * load.symbols.len() + symbol];
        let is_sale = random.is_multiple_of(3) && *owned > 0;
        if is_sale {
            *owned -= 1;
        }
        let sent = Sent {
            at: now,
            queued: 0,
            decided: 0,
            symbol: symbol as u16,
            account: account as u8,
            is_sale,
            known: Known::Sent,
        };
        let mut data = Vec::with_capacity(64);
        data.extend_from_slice(load.symbols[symbol].as_str().as_bytes());
        data.extend_from_slice(b" 1 ");
        put_id(load.start_wall, now, self.number, index, &mut data);
        let instruction = if is_sale { Instruction::SellAsset } else { Instruction::PurchaseAsset };
        let request = FIRST + index as u64;
        let mut header = Header::new(instruction.message_type(), instruction as u16, request);
        header.argument_count = 3;
        header.session = self.sessions[account];
        header.encode(&data, &mut self.output);
        self.sent.push(sent);
    }

    /// The account of an order and its client order ID.
    pub(super) fn key(&self, load: &Load, index: usize) -> Option<(u32, String)> {
        let sent = self.sent.get(index)?;
        let mut id = Vec::new();
        put_id(load.start_wall, sent.at, self.number, index, &mut id);
        Some((self.first_account + u32::from(sent.account), String::from_utf8(id).ok()?))
    }

    fn take_all(&mut self, load: &Load) -> Result<(), BenchError> {
        let now = load.now();
        let mut input = std::mem::take(&mut self.input);
        while let Some((frame, used)) = Frame::decode(&input).map_err(wrong)? {
            self.take(load, &frame, now)?;
            input.advance(used);
        }
        self.input = input;
        Ok(())
    }

    fn take(&mut self, load: &Load, frame: &Frame<'_>, now: u32) -> Result<(), BenchError> {
        use Instruction as I;
        let unexpected = || wrong(format!("an answer that should not be: {}", words(frame)));
        let index = frame.header.request.checked_sub(FIRST);
        let index = index.and_then(|index| usize::try_from(index).ok()).ok_or_else(unexpected)?;
        let sent = self.sent.get_mut(index).ok_or_else(unexpected)?;
        let instruction = I::from_number(frame.header.instruction);
        let is_own = match instruction {
            Some(I::PurchaseSuccess | I::PurchaseFail) => !sent.is_sale,
            Some(I::SellSuccess | I::SellFail) => sent.is_sale,
            _ => true,
        };
        let owned = usize::from(sent.account) * load.symbols.len() + usize::from(sent.symbol);
        match (sent.known, instruction) {
            (Known::Sent, Some(I::OrderQueued)) => {
                sent.known = Known::Queued;
                sent.queued = now;
                self.waiting -= 1;
                self.open += 1;
            }
            (Known::Sent, Some(I::PurchaseFail | I::SellFail)) if is_own => {
                sent.known = Known::Refused;
                self.owned[owned] += u32::from(sent.is_sale);
                self.waiting -= 1;
                let words = words(frame);
                let code = words.split(' ').next().unwrap_or_default().to_owned();
                *load.seen.refused.borrow_mut().entry(code).or_default() += 1;
            }
            (Known::Queued, Some(I::PurchaseSuccess | I::SellSuccess)) if is_own => {
                sent.known = Known::Filled;
                sent.decided = now;
                self.owned[owned] += u32::from(!sent.is_sale);
                self.open -= 1;
                let wall = frame.data.rsplit(|byte| *byte == b' ').next();
                let wall = wall.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
                load.outcome(wall.ok_or_else(unexpected)?, now);
            }
            (Known::Queued, Some(I::PurchaseFail | I::SellFail)) if is_own => {
                sent.known = Known::Failed;
                sent.decided = now;
                self.owned[owned] += u32::from(sent.is_sale);
                self.open -= 1;
            }
            _ => return Err(unexpected()),
        }
        Ok(())
    }

    /// SplitMix64.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Writes some of `rest`, and says how much; without a rest, sees that all of it is on its way.
async fn write_or_flush<W: AsyncWrite + Unpin>(
    writer: &mut W,
    rest: &[u8],
) -> std::io::Result<Option<usize>> {
    if rest.is_empty() {
        return writer.flush().await.map(|()| None);
    }
    writer.write(rest).await.map(Some)
}

fn closed_if_nothing(count: usize) -> Result<(), BenchError> {
    if count == 0 { Err(wrong("the worker closed a connection")) } else { Ok(()) }
}

/// What a frame says, for people. No return of a server that comes here is a secret.
fn words(frame: &Frame<'_>) -> String {
    let name = Instruction::from_number(frame.header.instruction).map_or("?", Instruction::name);
    match args::split(frame.data, frame.header.argument_count) {
        Ok(arguments) if !arguments.is_empty() => arguments.join(" "),
        _ => name.to_owned(),
    }
}
