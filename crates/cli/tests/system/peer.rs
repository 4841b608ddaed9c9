//! A client that speaks the protocol frame by frame, right or wrong.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;

use papertrader_core::time::MarketTime;
use papertrader_node::connection::Inbox;
use papertrader_protocol::data::WorkerList;
use papertrader_protocol::instruction::State;
use papertrader_protocol::returns::{FilledOrder, QueuedOrder, Return, SessionGrant};
use papertrader_protocol::transfer::Assembly;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Frame, Header, Instruction, Reason, SessionId, args};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::scene::soon;

/// A frame of a server, taken out of the buffer.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) header: Header,
    pub(crate) instruction: Instruction,
    pub(crate) data: Vec<u8>,
    pub(crate) said: Option<Return>,
}

/// A connection to a worker.
pub(crate) struct Peer {
    inbox: Inbox<OwnedReadHalf>,
    writer: Option<OwnedWriteHalf>,
    pub(crate) session: SessionId,
    next: u64,
    /// What arrived while something else was awaited.
    aside: VecDeque<Message>,
    /// Every instruction that a server said here.
    pub(crate) heard: BTreeSet<u16>,
}

impl Peer {
    pub(crate) async fn connect(address: SocketAddr) -> Peer {
        let stream = soon(TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (reader, writer) = stream.into_split();
        Peer {
            inbox: Inbox::new(reader),
            writer: Some(writer),
            session: SessionId::NONE,
            next: 1,
            aside: VecDeque::new(),
            heard: BTreeSet::new(),
        }
    }

    // Saying.

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        soon(self.writer.as_mut().unwrap().write_all(bytes)).await.unwrap();
    }

    /// Writes as much as the server takes.
    pub(crate) async fn try_write(&mut self, bytes: &[u8]) {
        let _ = soon(self.writer.as_mut().unwrap().write_all(bytes)).await;
    }

    /// Closes this end for writing.
    pub(crate) fn finish(&mut self) {
        self.writer = None;
    }

    /// A header as a well-behaved client makes it.
    pub(crate) fn header(&mut self, instruction: Instruction, arguments: usize) -> Header {
        let request = self.next;
        self.next += 1;
        let mut header = Header::new(instruction.message_type(), instruction as u16, request);
        header.argument_count = arguments as u16;
        if instruction.needs_session() {
            header.session = self.session;
        }
        header
    }

    /// Sends a header and data as they are; its request number.
    pub(crate) async fn send_frame(&mut self, header: Header, data: &[u8]) -> u64 {
        let mut bytes = Vec::new();
        header.encode(data, &mut bytes);
        self.write(&bytes).await;
        header.request
    }

    /// Sends a request; its number.
    pub(crate) async fn send(&mut self, instruction: Instruction, arguments: &[&str]) -> u64 {
        let header = self.header(instruction, arguments.len());
        self.send_frame(header, args::join(arguments).as_bytes()).await
    }

    // Hearing.

    async fn read(&mut self) -> Option<Message> {
        loop {
            if let Some(frame) = self.inbox.frame().unwrap() {
                let number = frame.header.instruction;
                let instruction = Instruction::from_number(number).unwrap();
                assert_eq!(frame.header.message_type, instruction.message_type());
                assert_eq!(frame.header.link, None);
                let said = Return::parse(&frame).unwrap();
                self.heard.insert(number);
                let (header, data) = (frame.header, frame.data.to_vec());
                return Some(Message { header, instruction, data, said });
            }
            if !matches!(soon(self.inbox.fill()).await, Ok(count) if count > 0) {
                return None;
            }
        }
    }

    /// Everything that comes until the server closes.
    pub(crate) async fn rest(&mut self) -> Vec<Message> {
        let mut rest: Vec<Message> = self.aside.drain(..).collect();
        while let Some(message) = self.read().await {
            rest.push(message);
        }
        rest
    }

    /// The next message about a request.
    pub(crate) async fn message(&mut self, request: u64) -> Message {
        if let Some(at) = self.aside.iter().position(|m| m.header.request == request) {
            return self.aside.remove(at).unwrap();
        }
        loop {
            let message = self.read().await.expect("the connection is open");
            if message.header.request == request {
                return message;
            }
            self.aside.push_back(message);
        }
    }

    /// The next return to a request.
    pub(crate) async fn answer(&mut self, request: u64) -> Return {
        let message = self.message(request).await;
        message.said.clone().unwrap_or_else(|| panic!("not a return: {message:?}"))
    }

    /// All packets of the next answer to a request, which must be this instruction, numbered 1…n
    /// of n.
    pub(crate) async fn packets(&mut self, request: u64, instruction: Instruction) -> Vec<Message> {
        let mut packets = Vec::new();
        loop {
            let message = self.message(request).await;
            assert_eq!(message.instruction, instruction, "{:?}", message.said);
            let max = message.header.max;
            packets.push(message);
            if packets.len() == usize::from(max) {
                break;
            }
        }
        for (expected, packet) in (1..).zip(&packets) {
            let Header { number, max, .. } = packet.header;
            assert_eq!((number, usize::from(max)), (expected, packets.len()));
        }
        packets
    }

    /// The data of an answer in packets.
    pub(crate) async fn bytes(&mut self, request: u64, instruction: Instruction) -> Vec<u8> {
        let mut assembly = Assembly::default();
        for packet in self.packets(request, instruction).await {
            let frame = Frame { header: packet.header, data: &packet.data };
            assembly.push(&frame, usize::MAX).unwrap();
        }
        assembly.finished().unwrap()
    }

    pub(crate) async fn list(&mut self, request: u64) -> WorkerList {
        let bytes = self.bytes(request, Instruction::WorkerList).await;
        WorkerList::from_bytes(&bytes).unwrap()
    }

    // Both.

    pub(crate) async fn ask(&mut self, instruction: Instruction, arguments: &[&str]) -> Return {
        let request = self.send(instruction, arguments).await;
        self.answer(request).await
    }

    /// Asks for data.
    pub(crate) async fn data<T: Wire>(&mut self, what: Instruction, arguments: &[&str]) -> T {
        let request = self.send(what, arguments).await;
        T::from_bytes(&self.bytes(request, Instruction::Data).await).unwrap()
    }

    /// The answer to a request must be its own failure return with this reason.
    pub(crate) async fn refusal(&mut self, request: u64, asked: Instruction, reason: Reason) {
        let answer = self.answer(request).await;
        let Return::Failed(instruction, failure) = answer else {
            panic!("{asked:?} was to be refused with {reason:?}, but: {answer:?}")
        };
        let got = (instruction, failure.reason);
        assert_eq!(got, (asked.failure(), reason), "{asked:?}: {}", failure.text);
        assert!(!failure.text.is_empty());
    }

    pub(crate) async fn refused(&mut self, asked: Instruction, arguments: &[&str], why: Reason) {
        let request = self.send(asked, arguments).await;
        self.refusal(request, asked, why).await;
    }

    /// Connects to nothing new: what the server says of the market's time.
    pub(crate) async fn market(&mut self) -> MarketTime {
        match self.ask(Instruction::Hello, &["1"]).await {
            Return::Welcome(welcome) => welcome.market,
            other => panic!("not welcome: {other:?}"),
        }
    }

    pub(crate) async fn switch(&mut self, state: State) {
        let answer = self.ask(Instruction::SwitchState, &[state.name()]).await;
        assert_eq!(answer, Return::StateSwitched(state));
    }

    pub(crate) async fn register(&mut self, name: &str) {
        let email = format!("{name}@example.org");
        let answer = self.ask(Instruction::Register, &[name, &email, &pass(name)]).await;
        assert_eq!(answer, Return::Registered(name.to_owned()));
    }

    /// Logs in, takes the session into use, and hears the list of workers after it.
    pub(crate) async fn login(&mut self, name: &str) -> SessionGrant {
        let request = self.send(Instruction::Login, &[name, &pass(name), "false"]).await;
        self.granted(request).await
    }

    /// Takes a session of elsewhere into use here.
    pub(crate) async fn resume(&mut self, session: SessionId) -> SessionGrant {
        self.session = session;
        let request = self.send(Instruction::LoginSession, &[]).await;
        self.granted(request).await
    }

    async fn granted(&mut self, request: u64) -> SessionGrant {
        let Return::Session(grant) = self.answer(request).await else { panic!("no session") };
        // The next message is the list, whatever else is under way.
        assert!(!self.list(request).await.workers.is_empty());
        self.session = grant.session;
        grant
    }

    /// Places an order that must be queued; its request number and what the server said.
    pub(crate) async fn place(
        &mut self,
        side: Instruction,
        symbol: &str,
        quantity: &str,
        id: &str,
    ) -> (u64, QueuedOrder) {
        let request = self.send(side, &[symbol, quantity, id]).await;
        match self.answer(request).await {
            Return::OrderQueued(queued) => (request, queued),
            other => panic!("not queued: {other:?}"),
        }
    }

    /// The fill of a queued order.
    pub(crate) async fn fill(&mut self, request: u64) -> FilledOrder {
        match self.answer(request).await {
            Return::Filled(_, fill) => fill,
            other => panic!("not filled: {other:?}"),
        }
    }
}

/// A client's hash of a password, for the protocol alone.
pub(crate) fn pass(name: &str) -> String {
    let digit = char::from(b'a' + (name.len() % 6) as u8);
    digit.to_string().repeat(64)
}
