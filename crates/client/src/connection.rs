//! One connection to one server: numbers the requests, keeps the connection's state, and hands
//! each answer to whoever waits for it.
//!
//! A connection never reconnects and never sends anything twice: that is `failover`'s and
//! `client`'s part. A writer task writes what is queued; a reader task takes what arrives.
//!
//! Invariants: a request and the `switchState` that it needs are queued under one lock, so the
//! server, which judges frames in the order of arrival, sees every request in its state; every
//! request gets its answers or [`Event::Lost`], and nothing after that.
//!
//! ```text
//!            data request: "switchState data" first
//!   command ────────────────────────────────────────▶ data transfer
//!           ◀────────────────────────────────────────
//!            command: "switchState command" first
//! ```

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use papertrader_protocol::data::{AssetValues, OrderEvent, WorkerList};
use papertrader_protocol::instruction::{MessageType, State};
use papertrader_protocol::returns::{Return, put_args};
use papertrader_protocol::transfer::{Assembly, Progress};
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Failure, Frame, Instruction, Request, SessionId};

use crate::address::Address;
use crate::error::ProtocolError;
use crate::options::Options;
use crate::streams::Newest;
use crate::trust::{Listed, Worth};

/// The most bytes of a pushed list of workers that are taken.
const MAX_LIST: usize = 4 * 1024 * 1024;
/// How much one read may bring.
const READ: usize = 16 * 1024;
/// How an alert of TLS begins; no frame begins so.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

/// What happens to a request.
#[derive(Debug)]
pub(crate) enum Event {
    /// A text return.
    Return(Return),
    /// One more packet of a longer answer.
    Progress(Progress),
    /// The whole data.
    Data(Vec<u8>),
    /// There are values of assets that were subscribed to. Comes once until they are taken.
    Values(Arc<Newest>),
    /// Something happened to an order of the account.
    Order(Box<OrderEvent>),
    /// The answer is against the protocol; the connection ends.
    Broken(ProtocolError),
    /// The connection ended. What it says is why.
    Lost(String),
}

/// The connection ended before anything was sent.
#[derive(Debug)]
pub(crate) struct Closed(pub(crate) String);

/// A connection. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    address: Address,
    worth: Worth,
    server: String,
    lines: Mutex<Lines>,
    listed: Arc<Mutex<Listed>>,
    max_answer: usize,
    list_age: Duration,
}

#[derive(Debug)]
struct Lines {
    /// `None` once the connection has ended.
    outgoing: Option<UnboundedSender<Vec<u8>>>,
    waiting: HashMap<u64, Waiting>,
    last_request: u64,
    /// The state in which the server will be when it has read what is queued.
    state: State,
    /// The state that the server's answers have confirmed last.
    confirmed: State,
    /// The number of the last `switchState`; 0 for none.
    last_switch: u64,
    /// The server said goodbye, or must not be asked any more.
    leaving: bool,
    /// Why the connection ended, or what the server said before it closes it.
    why: Option<String>,
    /// A list of workers that comes unasked, and the request number it comes under.
    push: Option<(u64, Assembly)>,
    /// When a list of workers was asked for, or came with the session.
    list_asked: Instant,
}

#[derive(Debug)]
struct Waiting {
    instruction: Instruction,
    /// The switch that this request relies on.
    switch: u64,
    /// `None` for a `switchState`, a `ping` and a `getWorkerList` of our own.
    events: Option<UnboundedSender<Event>>,
    assembly: Assembly,
    newest: Option<Arc<Newest>>,
    /// `orderQueued` came: only the outcome is still to come.
    queued: bool,
}

impl Connection {
    /// Takes a stream into use, plain TCP or TLS. Lists of workers that come along are written to
    /// `listed`.
    pub(crate) fn start(
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        address: Address,
        worth: Worth,
        listed: Arc<Mutex<Listed>>,
        options: &Options,
    ) -> Connection {
        let (read, write) = split(stream);
        let (outgoing, queue) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            server: address.to_string(),
            address,
            worth,
            lines: Mutex::new(Lines {
                outgoing: Some(outgoing),
                waiting: HashMap::new(),
                last_request: 0,
                state: State::Command,
                confirmed: State::Command,
                last_switch: 0,
                leaving: false,
                why: None,
                push: None,
                list_asked: Instant::now(),
            }),
            listed,
            max_answer: options.max_answer,
            list_age: options.list_age,
        });
        let writer = tokio::spawn(write_all(write, queue, Arc::clone(&shared)));
        let reader = tokio::spawn(read_all(read, Arc::clone(&shared), options.silence));
        Connection { shared, reader, writer: Mutex::new(Some(writer)) }
    }

    /// The address that was connected to.
    pub(crate) fn address(&self) -> &Address {
        &self.shared.address
    }

    /// The same as text.
    pub(crate) fn server(&self) -> &str {
        &self.shared.server
    }

    /// Whether it takes requests.
    pub(crate) fn is_open(&self) -> bool {
        let lines = self.shared.lines();
        lines.outgoing.is_some() && !lines.leaving
    }

    /// The state in which the server will be when it has read what was sent.
    pub(crate) fn state(&self) -> State {
        self.shared.lines().state
    }

    /// Sends nothing more here; what is under way may still be answered.
    pub(crate) fn leave(&self) {
        self.shared.lines().leaving = true;
    }

    /// Ends it at once: everything that waits is lost.
    pub(crate) fn close(&self, why: &str) {
        self.shared.close(why);
    }

    /// Says goodbye and returns when everything is written.
    pub(crate) async fn finish(&self) {
        self.shared.say(&Request::Goodbye);
        self.shared.close("closed");
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.await;
        }
    }

    /// Queues a request, and before it the switch of state that it needs.
    pub(crate) fn send(
        &self,
        request: &Request,
        session: SessionId,
    ) -> Result<UnboundedReceiver<Event>, Closed> {
        let mut lines = self.shared.lines();
        if lines.leaving {
            return Err(Closed("the server is going away".to_owned()));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        lines.queue(request, session, Some(sender))?;
        let is_late = lines.list_asked.elapsed() >= self.shared.list_age;
        if is_late && !matches!(request, Request::Hello | Request::GetWorkerList) {
            lines.list_asked = Instant::now();
            lines.queue(&Request::GetWorkerList, SessionId::NONE, None)?;
        }
        Ok(receiver)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.close("closed");
        self.reader.abort();
    }
}

impl Lines {
    fn queue(
        &mut self,
        request: &Request,
        session: SessionId,
        events: Option<UnboundedSender<Event>>,
    ) -> Result<(), Closed> {
        let Some(outgoing) = self.outgoing.clone() else {
            return Err(Closed(self.why.clone().unwrap_or_default()));
        };
        let (instruction, arguments) = request.encode();
        let mut bytes = Vec::new();
        let other = match self.state {
            State::Command => State::DataTransfer,
            State::DataTransfer => State::Command,
        };
        if !instruction.states().allow(self.state) && instruction.states().allow(other) {
            let (switch, argument) = Request::SwitchState(other).encode();
            self.last_switch = self.number(switch, None);
            put_args(switch, &argument, self.last_switch, session, &mut bytes);
            self.state = other;
        }
        let number = self.number(instruction, events);
        let session = if instruction.needs_session() { session } else { SessionId::NONE };
        put_args(instruction, &arguments, number, session, &mut bytes);
        // The writer ends only with the connection, which tells everybody who waits.
        let _ = outgoing.send(bytes);
        Ok(())
    }

    fn number(&mut self, instruction: Instruction, events: Option<UnboundedSender<Event>>) -> u64 {
        self.last_request += 1;
        let waiting = Waiting {
            instruction,
            switch: self.last_switch,
            events,
            assembly: Assembly::default(),
            newest: (instruction == Instruction::SubscribeAssets).then(Arc::default),
            queued: false,
        };
        self.waiting.insert(self.last_request, waiting);
        self.last_request
    }

    /// A `switchState` was refused: what relied on it fails with its reason.
    fn switch_refused(&mut self, switch: u64, failure: &Failure) {
        if self.last_switch == switch {
            self.state = self.confirmed;
        }
        self.waiting.retain(|_, waiting| {
            if waiting.switch != switch || waiting.queued {
                return true;
            }
            let states = waiting.instruction.states();
            if states.allow(State::Command) && states.allow(State::DataTransfer) {
                return true;
            }
            waiting.tell(Event::Return(Return::Failed(
                waiting.instruction.failure(),
                failure.clone(),
            )));
            false
        });
    }
}

impl Waiting {
    /// What comes of a subscription.
    fn pushed(&self, frame: &Frame<'_>) -> Result<(), ProtocolError> {
        match (&self.newest, Instruction::from_number(frame.header.instruction)) {
            (Some(newest), Some(Instruction::AssetValues)) => {
                let AssetValues { values } = AssetValues::from_bytes(frame.data)?;
                if newest.add(values) {
                    self.tell(Event::Values(Arc::clone(newest)));
                }
                Ok(())
            }
            (None, Some(Instruction::OrderEvent)) => {
                self.tell(Event::Order(Box::new(OrderEvent::from_bytes(frame.data)?)));
                Ok(())
            }
            _ => Err(ProtocolError::unexpected(self.instruction)),
        }
    }

    fn tell(&self, event: Event) {
        if let Some(events) = &self.events {
            // Whoever asked may have given up waiting.
            let _ = events.send(event);
        }
    }
}

impl Shared {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues something whose answer nobody waits for.
    fn say(&self, request: &Request) {
        let _ = self.lines().queue(request, SessionId::NONE, None);
    }

    fn close(&self, why: &str) {
        let mut lines = self.lines();
        lines.outgoing = None;
        // What the server said before it closed tells more than that it closed.
        let why = lines.why.get_or_insert_with(|| why.to_owned()).clone();
        for (_, waiting) in lines.waiting.drain() {
            waiting.tell(Event::Lost(why.clone()));
        }
    }

    /// Takes one frame. An error ends the connection.
    fn take(&self, frame: &Frame<'_>) -> Result<(), ProtocolError> {
        let mut lines = self.lines();
        let request = frame.header.request;
        let Some(mut waiting) = lines.waiting.remove(&request) else {
            return self.take_unasked(&mut lines, frame);
        };
        match self.answer(&mut lines, &mut waiting, frame) {
            Ok(true) => {}
            Ok(false) => {
                lines.waiting.insert(request, waiting);
            }
            Err(problem) => {
                waiting.tell(Event::Broken(problem));
                return Err(problem);
            }
        }
        Ok(())
    }

    /// Hands a frame to who waits for it; `true` if it was the last.
    fn answer(
        &self,
        lines: &mut Lines,
        waiting: &mut Waiting,
        frame: &Frame<'_>,
    ) -> Result<bool, ProtocolError> {
        let asked = waiting.instruction;
        let unexpected = ProtocolError::unexpected(asked);
        if frame.header.message_type == MessageType::DataTransfer {
            let is_list = asked == Instruction::GetWorkerList;
            let due = if is_list { Instruction::WorkerList } else { Instruction::Data };
            let is_data_request = asked.message_type() == MessageType::DataTransfer;
            if frame.header.instruction != due as u16 || !(is_list || is_data_request) {
                return Err(unexpected);
            }
            let progress = waiting.assembly.push(frame, self.max_answer)?;
            waiting.tell(Event::Progress(progress));
            if progress.received < progress.max {
                return Ok(false);
            }
            let assembly = std::mem::take(&mut waiting.assembly);
            let Ok(data) = assembly.finished() else { return Err(unexpected) };
            if is_list {
                self.remember(&data)?;
            }
            waiting.tell(Event::Data(data));
            return Ok(true);
        }
        if frame.header.message_type == MessageType::Control
            && matches!(asked, Instruction::SubscribeAssets | Instruction::SubscribeOrders)
        {
            waiting.pushed(frame)?;
            return Ok(false);
        }
        let answer = Return::parse(frame)?.ok_or(unexpected)?;
        if asked == Instruction::SwitchState {
            match &answer {
                Return::StateSwitched(state) => lines.confirmed = *state,
                Return::Failed(_, failure) => lines.switch_refused(frame.header.request, failure),
                _ => return Err(unexpected),
            }
        }
        let is_order = matches!(asked, Instruction::PurchaseAsset | Instruction::SellAsset);
        let is_queued = matches!(answer, Return::OrderQueued(_));
        if is_queued && (!is_order || waiting.queued) {
            return Err(unexpected);
        }
        waiting.queued = is_queued;
        let is_subscribed = matches!(answer, Return::Subscribed(_))
            && matches!(asked, Instruction::SubscribeAssets | Instruction::SubscribeOrders);
        waiting.tell(Event::Return(answer));
        Ok(!is_queued && !is_subscribed)
    }

    /// Takes what comes under a number that nobody waits for: pushes, and answers to requests
    /// that have failed already with the switch that they relied on.
    fn take_unasked(&self, lines: &mut Lines, frame: &Frame<'_>) -> Result<(), ProtocolError> {
        if frame.header.instruction == Instruction::WorkerList as u16 {
            let request = frame.header.request;
            let mut assembly = match lines.push.take() {
                Some((number, assembly)) if number == request && frame.header.number > 1 => {
                    assembly
                }
                _ => Assembly::default(),
            };
            assembly.push(frame, MAX_LIST)?;
            match assembly.finished() {
                Ok(data) => self.remember(&data)?,
                Err(rest) => lines.push = Some((request, rest)),
            }
            return Ok(());
        }
        if frame.header.message_type == MessageType::DataTransfer {
            return Ok(());
        }
        match Return::parse(frame)? {
            Some(Return::Goodbye(failure)) => {
                lines.leaving = true;
                lines.why = Some(failure.text);
            }
            Some(Return::Failed(_, failure)) if frame.header.request == 0 => {
                lines.why = Some(failure.text);
            }
            _ => {}
        }
        Ok(())
    }

    /// Keeps the servers of a list of workers.
    fn remember(&self, data: &[u8]) -> Result<(), ProtocolError> {
        let list = WorkerList::from_bytes(data)?;
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        listed.take(&list, self.worth);
        Ok(())
    }
}

async fn write_all(
    mut half: WriteHalf<impl AsyncWrite>,
    mut queue: UnboundedReceiver<Vec<u8>>,
    shared: Arc<Shared>,
) {
    while let Some(mut bytes) = queue.recv().await {
        // What was queued together leaves together.
        while let Ok(more) = queue.try_recv() {
            bytes.extend_from_slice(&more);
        }
        // TLS may keep a part of what was written until it is told to send it.
        let written = match half.write_all(&bytes).await {
            Ok(()) => half.flush().await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            shared.close(&error.to_string());
            return;
        }
    }
    let _ = half.shutdown().await;
}

async fn read_all(mut half: ReadHalf<impl AsyncRead>, shared: Arc<Shared>, silence: Duration) {
    let mut buffer = BytesMut::new();
    let mut asked = false;
    let why = loop {
        buffer.reserve(READ);
        match timeout(silence, half.read_buf(&mut buffer)).await {
            Err(_) if asked => break "it does not answer any more".to_owned(),
            Err(_) => {
                asked = true;
                shared.say(&Request::Ping(String::new()));
            }
            Ok(Ok(0)) => break "the server closed it".to_owned(),
            Ok(Ok(_)) => {
                asked = false;
                if shared.worth == Worth::Plain && buffer.starts_with(&TLS_ALERT) {
                    break "it speaks TLS: leave out tcp://".to_owned();
                }
                if let Err(problem) = take_all(&shared, &mut buffer) {
                    break problem.to_string();
                }
            }
            // The end of TLS without its goodbye: frames say themselves whether they are whole.
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                break "the server closed it".to_owned();
            }
            Ok(Err(error)) => break error.to_string(),
        }
    };
    shared.close(&why);
}

/// Takes the whole frames of the buffer and leaves the rest.
fn take_all(shared: &Shared, buffer: &mut BytesMut) -> Result<(), ProtocolError> {
    while let Some((frame, used)) = Frame::decode(buffer)? {
        shared.take(&frame)?;
        buffer.advance(used);
    }
    Ok(())
}
