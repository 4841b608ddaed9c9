//! A worker that does what a test's script says: it accepts, shows each frame that arrives, and
//! sends what it is told, well-formed or not. It speaks plain TCP or TLS.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use papertrader_core::time::{MarketTime, WallTime};
use papertrader_protocol::args;
use papertrader_protocol::data::{WorkerLine, WorkerList};
use papertrader_protocol::instruction::MessageType;
use papertrader_protocol::returns::{Return, SessionGrant, Welcome};
use papertrader_protocol::transfer;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Frame, Header, Instruction, Reason, Request, SessionId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use certificate::Identity;

#[path = "certificate.rs"]
pub(crate) mod certificate;

/// The session that the scripts give out.
pub(crate) const SESSION: SessionId = SessionId::from_bytes([0x5e; 16]);
/// The deployment that the scripts belong to.
pub(crate) const DEPLOYMENT: &str = "deployment-1";

/// Listens on a free port of the loopback.
pub(crate) struct Worker {
    listener: TcpListener,
    /// As a client names it.
    pub(crate) address: String,
    acceptor: Option<TlsAcceptor>,
}

/// A frame from the client.
#[derive(Debug, PartialEq)]
pub(crate) struct Asked {
    pub(crate) number: u64,
    pub(crate) session: SessionId,
    pub(crate) instruction: Instruction,
    pub(crate) arguments: Vec<String>,
    pub(crate) request: Request,
}

/// One accepted connection.
pub(crate) struct Peer {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    /// Whether to answer the pings of a client that waits, instead of showing them.
    pub(crate) answers_pings: bool,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A handshake that the client did not finish.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) why: std::io::Error,
    /// What the client sent after it.
    pub(crate) rest: Vec<u8>,
}

impl Worker {
    /// One that speaks plain TCP.
    pub(crate) async fn start() -> Worker {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        Worker { listener, address, acceptor: None }
    }

    /// One that speaks TLS.
    pub(crate) async fn start_tls(identity: &Identity) -> Worker {
        let mut worker = Worker::start().await;
        worker.address = worker.place();
        worker.present(identity);
        worker
    }

    /// Shows another certificate from now on.
    pub(crate) fn present(&mut self, identity: &Identity) {
        self.acceptor = Some(identity.acceptor());
    }

    /// The `host:port` that lists of workers name.
    pub(crate) fn place(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    /// The bare connection.
    pub(crate) async fn accept_tcp(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    /// Makes TLS of the next connection.
    pub(crate) async fn accept_tls(&self) -> Result<TlsStream<TcpStream>, Broken> {
        let acceptor = self.acceptor.as_ref().expect("this worker speaks plain TCP");
        let stream = self.accept_tcp().await;
        match acceptor.accept(stream).into_fallible().await {
            Ok(stream) => Ok(stream),
            Err((why, mut stream)) => {
                let mut rest = Vec::new();
                // It may have been cut off.
                let _ = stream.read_to_end(&mut rest).await;
                Err(Broken { why, rest })
            }
        }
    }

    pub(crate) async fn accept(&self) -> Peer {
        self.try_accept().await.unwrap()
    }

    /// The next connection, unless the client breaks off its handshake.
    pub(crate) async fn try_accept(&self) -> Result<Peer, Broken> {
        let stream: Box<dyn Stream> = match self.acceptor {
            Some(_) => Box::new(self.accept_tls().await?),
            None => Box::new(self.accept_tcp().await),
        };
        Ok(Peer { stream, buffer: Vec::new(), answers_pings: true })
    }

    /// Fails if a connection was made that nobody has accepted.
    pub(crate) fn expect_no_more(self) {
        let listener = self.listener.into_std().unwrap();
        let kind = listener.accept().map(|_| ()).map_err(|error| error.kind());
        assert_eq!(kind, Err(std::io::ErrorKind::WouldBlock));
    }

    /// Accepts, and answers `hello`.
    pub(crate) async fn greet(&self) -> Peer {
        let mut peer = self.accept().await;
        peer.welcome().await;
        peer
    }

    /// Accepts, answers `hello`, and takes the session back.
    pub(crate) async fn greet_resumed(&self) -> Peer {
        let mut peer = self.greet().await;
        peer.take_session().await;
        peer
    }
}

impl Peer {
    /// The next frame, or `None` when the client has closed.
    pub(crate) async fn try_next(&mut self) -> Option<Asked> {
        loop {
            if let Some((frame, used)) = Frame::decode(&self.buffer).unwrap() {
                let asked = read(&frame);
                self.buffer.drain(..used);
                if self.answers_pings && asked.request == Request::Ping(String::new()) {
                    self.answer(&asked, Return::Pong(String::new())).await;
                    continue;
                }
                return Some(asked);
            }
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Asked {
        self.try_next().await.expect("the client closed where a frame was due")
    }

    /// The next frame, which must be this request.
    pub(crate) async fn expect(&mut self, request: Request) -> Asked {
        let asked = self.next().await;
        assert_eq!(asked.request, request);
        asked
    }

    pub(crate) async fn welcome(&mut self) {
        let hello = self.expect(Request::Hello).await;
        self.answer(&hello, Return::Welcome(welcome())).await;
    }

    /// Answers the resuming of the session.
    pub(crate) async fn take_session(&mut self) {
        let asked = self.expect(Request::LoginSession).await;
        assert_eq!(asked.session, SESSION);
        self.answer(&asked, Return::Session(grant())).await;
    }

    /// Answers a login, and sends the list of workers after it.
    pub(crate) async fn log_in(&mut self, workers: &[&str]) {
        self.log_in_listing(&list(workers)).await;
    }

    /// The same with any list.
    pub(crate) async fn log_in_listing(&mut self, list: &WorkerList) {
        let asked = self.next().await;
        assert_eq!(asked.instruction, Instruction::Login);
        let mut bytes = Vec::new();
        Return::Session(grant()).put(asked.number, &mut bytes);
        bytes.extend(list_frames(asked.number, list));
        self.raw(&bytes).await;
    }

    pub(crate) async fn answer(&mut self, to: &Asked, answer: Return) {
        let mut bytes = Vec::new();
        answer.put(to.number, &mut bytes);
        self.raw(&bytes).await;
    }

    /// Refuses with the failure return that belongs to the request.
    pub(crate) async fn refuse(&mut self, to: &Asked, reason: Reason) {
        self.answer(to, Return::Failed(to.instruction.failure(), reason.into())).await;
    }

    pub(crate) async fn data(&mut self, to: &Asked, data: &impl Wire) {
        let bytes = data_frames(to.number, &data.to_bytes());
        self.raw(&bytes).await;
    }

    /// What comes of a subscription.
    pub(crate) async fn push(&mut self, to: &Asked, instruction: Instruction, data: &impl Wire) {
        let mut bytes = Vec::new();
        let header = Header::new(MessageType::Control, instruction as u16, to.number);
        header.encode(&data.to_bytes(), &mut bytes);
        self.raw(&bytes).await;
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }
}

/// The frames of a `data` answer.
pub(crate) fn data_frames(number: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = Header::new(MessageType::DataTransfer, Instruction::Data as u16, number);
    transfer::encode(header, data, &mut bytes);
    bytes
}

/// The frames of a list of workers without TLS.
pub(crate) fn worker_list_frames(number: u64, addresses: &[&str]) -> Vec<u8> {
    list_frames(number, &list(addresses))
}

/// The frames of a list of workers.
pub(crate) fn list_frames(number: u64, list: &WorkerList) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = Header::new(MessageType::DataTransfer, Instruction::WorkerList as u16, number);
    transfer::encode(header, &list.to_bytes(), &mut bytes);
    bytes
}

pub(crate) fn welcome() -> Welcome {
    Welcome {
        version: 1,
        deployment: DEPLOYMENT.into(),
        interval: 1_000_000_000,
        market: MarketTime(1_109_678_400_000_000_000),
        server: "a worker".into(),
    }
}

pub(crate) fn grant() -> SessionGrant {
    let expires = WallTime(4_102_444_800_000_000_000);
    SessionGrant { session: SESSION, expires, name: "alice".into() }
}

/// A list of workers without TLS.
pub(crate) fn list(addresses: &[&str]) -> WorkerList {
    let lines: Vec<(&str, &str)> = addresses.iter().map(|address| (*address, "")).collect();
    listed(&lines)
}

/// A list of workers: the address of each, with or without `tcp://`, and its fingerprint.
pub(crate) fn listed(lines: &[(&str, &str)]) -> WorkerList {
    let line = |(i, (address, fingerprint)): (usize, &(&str, &str))| WorkerLine {
        name: format!("worker-{}", i + 1),
        // On the wire the fingerprint alone says whether it speaks TLS.
        address: address.strip_prefix("tcp://").unwrap_or(address).to_owned(),
        web: String::new(),
        fingerprint: (*fingerprint).to_owned(),
        region: String::new(),
        load: 1,
    };
    WorkerList { workers: lines.iter().enumerate().map(line).collect() }
}

fn read(frame: &Frame<'_>) -> Asked {
    let Header { request: number, session, instruction, argument_count, .. } = frame.header;
    let instruction = Instruction::from_number(instruction).unwrap();
    assert_eq!(frame.header.message_type, instruction.message_type());
    assert_eq!(frame.header.link, None);
    let arguments =
        args::split(frame.data, argument_count).unwrap().into_iter().map(str::to_owned).collect();
    let request = Request::parse(instruction, argument_count, frame.data).unwrap();
    Asked { number, session, instruction, arguments, request }
}
