//! The normal client: it asks for one price at a time, steadily, and notes how long each answer
//! takes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use papertrader_node::connection::Inbox;
use papertrader_node::tls;
use papertrader_protocol::instruction::{Instruction, State};
use papertrader_protocol::returns::Return;
use papertrader_protocol::{Fingerprint, Header, SessionId, args};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{MissedTickBehavior, interval};

use crate::{Arguments, Problem};

/// How the normal client gets its session.
pub(crate) enum Login {
    Session(SessionId),
    /// A name, and the client's hash of the password.
    User(String, String),
}

/// Any connection to the server.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// Connects from `from`; over TLS if the certificate is known.
pub(crate) async fn connect(
    from: SocketAddr,
    server: SocketAddr,
    fingerprint: Option<Fingerprint>,
) -> std::io::Result<Box<dyn Stream>> {
    let stream = connect_plain(from, server).await?;
    Ok(match fingerprint {
        None => Box::new(stream),
        Some(fingerprint) => {
            Box::new(tls::connect(stream, fingerprint, tls::CLIENT_PROTOCOL).await?)
        }
    })
}

pub(crate) async fn connect_plain(
    from: SocketAddr,
    server: SocketAddr,
) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(from)?;
    let stream = socket.connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A request in bytes.
pub(crate) fn request(
    instruction: Instruction,
    arguments: &[&str],
    number: u64,
    session: SessionId,
) -> Vec<u8> {
    let mut header = Header::new(instruction.message_type(), instruction as u16, number);
    header.argument_count = arguments.len() as u16;
    if instruction.needs_session() {
        header.session = session;
    }
    let mut out = Vec::new();
    header.encode(args::join(arguments).as_bytes(), &mut out);
    out
}

/// What was measured; times in microseconds.
pub(crate) struct Figures {
    pub(crate) requests: usize,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) longest: f64,
}

impl Figures {
    fn of(mut times: Vec<Duration>) -> Result<Figures, Problem> {
        times.sort_unstable();
        let at = |place: usize| times.get(place).map(|time| time.as_secs_f64() * 1e6);
        let (requests, none) = (times.len(), "nothing was measured: take more time");
        Ok(Figures {
            requests,
            p50: at(requests / 2).ok_or(none)?,
            p99: at(requests * 99 / 100).ok_or(none)?,
            longest: at(requests.saturating_sub(1)).ok_or(none)?,
        })
    }

    pub(crate) fn json(&self) -> String {
        let Figures { requests, p50, p99, longest } = self;
        format!(
            "{{\"requests\":{requests},\"p50_us\":{p50:.1},\"p99_us\":{p99:.1},\
             \"longest_us\":{longest:.1}}}"
        )
    }
}

/// The normal client.
pub(crate) struct Normal {
    inbox: Inbox<tokio::io::ReadHalf<Box<dyn Stream>>>,
    writer: tokio::io::WriteHalf<Box<dyn Stream>>,
    session: SessionId,
    symbol: String,
    next: u64,
    rate: u32,
}

impl Normal {
    /// Connects, logs in, and goes to the data transfer state.
    pub(crate) async fn connect(arguments: &Arguments) -> Result<Normal, Problem> {
        let from = SocketAddr::from(([127, 0, 0, 1], 0));
        let stream = connect(from, arguments.server, arguments.fingerprint).await?;
        let (reader, writer) = tokio::io::split(stream);
        let (inbox, symbol) = (Inbox::new(reader), arguments.symbol.clone());
        let (session, rate) = (SessionId::NONE, arguments.rate);
        let mut normal = Normal { inbox, writer, session, symbol, next: 1, rate };
        match &arguments.login {
            Some(Login::Session(session)) => {
                normal.session = *session;
                normal.ask(Instruction::LoginSession, &[]).await?;
            }
            Some(Login::User(name, hash)) => {
                let answer = normal.ask(Instruction::Login, &[name, hash, "false"]).await?;
                let Some(session) = answer else { return Err("login gave no session".into()) };
                normal.session = session;
            }
            None => return Err("who is the normal client?".into()),
        }
        normal.ask(Instruction::SwitchState, &[State::DataTransfer.name()]).await?;
        Ok(normal)
    }

    pub(crate) fn session(&self) -> SessionId {
        self.session
    }

    /// Asks steadily for as long as `time`.
    pub(crate) async fn measure(&mut self, time: Duration) -> Result<Figures, Problem> {
        let mut turn = interval(Duration::from_secs(1) / self.rate);
        turn.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (start, mut times) = (Instant::now(), Vec::new());
        let symbol = self.symbol.clone();
        while start.elapsed() < time {
            turn.tick().await;
            let asked = Instant::now();
            self.ask(Instruction::GetAssetValueCurrent, &[&symbol]).await?;
            times.push(asked.elapsed());
        }
        Figures::of(times)
    }

    /// Asks, and waits for the first answer; a session, if that is what it says.
    async fn ask(
        &mut self,
        instruction: Instruction,
        arguments: &[&str],
    ) -> Result<Option<SessionId>, Problem> {
        let number = self.next;
        self.next += 1;
        let bytes = request(instruction, arguments, number, self.session);
        self.writer.write_all(&bytes).await?;
        self.writer.flush().await?;
        loop {
            while let Some(frame) = self.inbox.frame()? {
                match Return::parse(&frame) {
                    Ok(Some(Return::Failed(_, failure) | Return::Goodbye(failure))) => {
                        return Err(format!("{}: {failure}", instruction.name()).into());
                    }
                    Ok(Some(Return::Session(grant))) if frame.header.request == number => {
                        return Ok(Some(grant.session));
                    }
                    _ if frame.header.request == number => return Ok(None),
                    // The list of workers that follows a login.
                    _ => {}
                }
            }
            if self.inbox.fill().await? == 0 {
                return Err("the server has closed the normal client's connection".into());
            }
        }
    }
}
