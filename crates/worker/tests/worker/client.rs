//! A client that speaks raw frames.

use std::net::SocketAddr;

use papertrader_node::connection::Inbox;
use papertrader_node::tls;
use papertrader_protocol::instruction::{Instruction, State};
use papertrader_protocol::returns::Return;
use papertrader_protocol::transfer::Assembly;
use papertrader_protocol::{Fingerprint, Frame, Header, Reason, SessionId, args};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::master::Message;
use crate::soon;

pub(crate) struct Client {
    inbox: Inbox<Box<dyn AsyncRead + Send + Unpin>>,
    pub(crate) writer: Box<dyn AsyncWrite + Send + Unpin>,
    pub(crate) address: SocketAddr,
    pub(crate) session: SessionId,
    next: u64,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Client {
        let stream = soon(TcpStream::connect(address)).await.unwrap();
        Client::on(stream.local_addr().unwrap(), stream)
    }

    /// From another address of this machine.
    pub(crate) async fn connect_from(from: &str, address: SocketAddr) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        let stream = soon(socket.connect(address)).await.unwrap();
        Client::on(stream.local_addr().unwrap(), stream)
    }

    /// Over TLS, to the server with this certificate.
    pub(crate) async fn connect_tls(address: SocketAddr, certificate: Fingerprint) -> Client {
        let stream = soon(TcpStream::connect(address)).await.unwrap();
        let local = stream.local_addr().unwrap();
        let stream = tls::connect(stream, certificate, tls::CLIENT_PROTOCOL);
        Client::on(local, soon(stream).await.unwrap())
    }

    /// On any stream to a worker.
    pub(crate) fn on<S>(address: SocketAddr, stream: S) -> Client
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (reader, writer) = tokio::io::split(stream);
        let inbox = Inbox::new(Box::new(reader) as Box<dyn AsyncRead + Send + Unpin>);
        Client { inbox, writer: Box::new(writer), address, session: SessionId::NONE, next: 1 }
    }

    pub(crate) fn encode(
        &mut self,
        instruction: Instruction,
        arguments: &[&str],
    ) -> (u64, Vec<u8>) {
        let request = self.next;
        self.next += 1;
        let number = instruction as u16;
        let mut header = Header::new(instruction.message_type(), number, request);
        header.argument_count = arguments.len() as u16;
        if instruction.needs_session() {
            header.session = self.session;
        }
        let mut out = Vec::new();
        header.encode(args::join(arguments).as_bytes(), &mut out);
        (request, out)
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        soon(self.writer.write_all(bytes)).await.unwrap();
        soon(self.writer.flush()).await.unwrap();
    }

    /// Sends a request; its number.
    pub(crate) async fn send(&mut self, instruction: Instruction, arguments: &[&str]) -> u64 {
        let (request, bytes) = self.encode(instruction, arguments);
        self.write(&bytes).await;
        request
    }

    /// The next message; `None` when the worker has closed the connection.
    pub(crate) async fn read(&mut self) -> Option<Message> {
        loop {
            if let Some(frame) = self.inbox.frame().unwrap() {
                return Some(Message { header: frame.header, data: frame.data.to_vec() });
            }
            if !matches!(soon(self.inbox.fill()).await, Ok(count) if count > 0) {
                return None;
            }
        }
    }

    /// Reads until the worker has closed its end; how many bytes came. An error if it was not
    /// closed in order.
    pub(crate) async fn read_to_end(&mut self) -> std::io::Result<usize> {
        let mut bytes = 0;
        loop {
            match soon(self.inbox.fill()).await? {
                0 => return Ok(bytes),
                count => bytes += count,
            }
            self.inbox.clear();
        }
    }

    pub(crate) async fn next(&mut self) -> Message {
        self.read().await.expect("the connection is open")
    }

    /// The next message, which must be this return to this request.
    pub(crate) async fn expect(&mut self, request: u64, instruction: Instruction) -> Message {
        let message = self.next().await;
        let got = (message.header.request, message.instruction());
        assert_eq!(got, (request, instruction));
        message
    }

    /// The next message, which must be this refusal of this request.
    pub(crate) async fn expect_refusal(
        &mut self,
        request: u64,
        instruction: Instruction,
        reason: Reason,
    ) {
        let message = self.expect(request, instruction).await;
        let frame = Frame { header: message.header, data: &message.data };
        match Return::parse(&frame) {
            Ok(Some(Return::Failed(_, failure) | Return::Goodbye(failure))) => {
                assert_eq!(failure.reason, reason, "{}", failure.text);
            }
            other => panic!("{other:?} is no refusal"),
        }
    }

    /// Sends a request that must be refused.
    pub(crate) async fn refused(
        &mut self,
        instruction: Instruction,
        arguments: &[&str],
        reason: Reason,
    ) {
        let request = self.send(instruction, arguments).await;
        self.expect_refusal(request, instruction.failure(), reason).await;
    }

    /// All packets of the data that must come next.
    pub(crate) async fn data(&mut self, request: u64, instruction: Instruction) -> Vec<u8> {
        let (message, data) = self.transfer(instruction).await;
        assert_eq!(message.header.request, request);
        data
    }

    /// All packets of the data that comes next, and to which request.
    pub(crate) async fn any_data(&mut self) -> (u64, Vec<u8>) {
        let (message, data) = self.transfer(Instruction::Data).await;
        (message.header.request, data)
    }

    async fn transfer(&mut self, instruction: Instruction) -> (Message, Vec<u8>) {
        let mut assembly = Assembly::default();
        loop {
            let message = self.next().await;
            assert_eq!(message.instruction(), instruction);
            let frame = Frame { header: message.header, data: &message.data };
            assembly.push(&frame, usize::MAX).unwrap();
            match assembly.finished() {
                Ok(data) => return (message, data),
                Err(unfinished) => assembly = unfinished,
            }
        }
    }

    pub(crate) async fn switch(&mut self, state: State) {
        let request = self.send(Instruction::SwitchState, &[state.name()]).await;
        self.expect(request, Instruction::StateSwitchSuccess).await;
    }
}
