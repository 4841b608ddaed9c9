//! Finding a server that works: which ones, in which order, with which delay, and taking the
//! session along.
//!
//! The servers of the last list of workers come first, then those given at connect; the one that
//! was just lost comes last.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use papertrader_protocol::returns::{Return, SessionGrant, Welcome};
use papertrader_protocol::{Failure, Instruction, Reason, Request, SessionId};

use crate::client::Inner;
use crate::connection::{Connection, Event};
use crate::error::{ClientError, ProtocolError, Tried};

/// A delay that doubles, from 50 ms to 2 s.
#[derive(Debug)]
pub(crate) struct Delay(Duration);

impl Delay {
    pub(crate) fn new() -> Delay {
        Delay(Duration::from_millis(50))
    }

    /// Waits, unless that would pass `by`; then `false`.
    pub(crate) async fn wait(&mut self, by: Instant) -> bool {
        if Instant::now() + self.0 >= by {
            return false;
        }
        sleep(self.0).await;
        self.0 = (self.0 * 2).min(Duration::from_secs(2));
        true
    }
}

/// Why a server was not taken.
enum Problem {
    /// Another may do.
    ThisServer(String),
    /// None will do: the session has ended.
    AllServers(ClientError),
}

impl Inner {
    /// The open connection, or a new one before `by`. Each server is tried once at least.
    pub(crate) async fn connected(&self, by: Instant) -> Result<Arc<Connection>, ClientError> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        // One at a time: the others find what it has made.
        let Ok(_guard) = timeout_at(by, self.connecting.lock()).await else {
            return Err(ClientError::NoServer { tried: Vec::new() });
        };
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let mut delay = Delay::new();
        loop {
            let mut tried = Vec::new();
            for server in self.candidates() {
                match self.open(&server).await {
                    Ok(connection) => {
                        let connection = Arc::new(connection);
                        self.known().connection = Some(Arc::clone(&connection));
                        return Ok(connection);
                    }
                    Err(Problem::ThisServer(problem)) => tried.push(Tried { server, problem }),
                    Err(Problem::AllServers(error)) => return Err(error),
                }
            }
            if !delay.wait(by).await {
                return Err(ClientError::NoServer { tried });
            }
        }
    }

    /// The connection in use, if it still takes requests.
    pub(crate) fn current(&self) -> Option<Arc<Connection>> {
        let known = self.known();
        known.connection.as_ref().filter(|connection| connection.is_open()).cloned()
    }

    /// The servers to try, in order.
    pub(crate) fn candidates(&self) -> Vec<String> {
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut servers: Vec<String> = Vec::new();
        for server in listed.into_iter().chain(self.given.iter().cloned()) {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        let known = self.known();
        if let Some(lost) = known.connection.as_ref().map(|connection| connection.server()) {
            servers.sort_by_key(|server| server == lost);
        }
        servers
    }

    async fn open(&self, server: &str) -> Result<Connection, Problem> {
        let other = |problem: String| Problem::ThisServer(problem);
        let by = Instant::now() + self.options.connect_timeout;
        let stream = timeout_at(by, TcpStream::connect(server))
            .await
            .map_err(|_| other("no answer in time".into()))?
            .map_err(|error| other(error.to_string()))?;
        let listed = Arc::clone(&self.listed);
        let connection = Connection::start(stream, server.to_owned(), listed, &self.options);
        let asked = exchange(&connection, &Request::Hello, SessionId::NONE);
        let welcome = match timeout_at(by, asked).await {
            Err(_) => return Err(other("it does not say welcome in time".into())),
            Ok(Answer::Return(Return::Welcome(welcome))) => welcome,
            Ok(Answer::Return(Return::Failed(_, failure))) => return Err(other(failure.text)),
            Ok(Answer::Lost(why)) => return Err(other(why)),
            Ok(Answer::Broken(problem)) => return Err(other(problem.to_string())),
            Ok(_) => return Err(other(ProtocolError::unexpected(Instruction::Hello).to_string())),
        };
        let session = {
            let known = self.known();
            // A session ID is a secret of its deployment.
            let expected = known
                .welcome
                .as_ref()
                .map(|welcome| &welcome.deployment)
                .or(self.options.deployment.as_ref());
            if expected.is_some_and(|deployment| *deployment != welcome.deployment) {
                return Err(other("it belongs to another deployment".into()));
            }
            known.session
        };
        if let Some(session) = session {
            match timeout(self.options.answer_timeout, resume(&connection, session)).await {
                Ok(Ok(_)) => {}
                Ok(Err(ClientError::Refused(failure))) if is_passing(&failure) => {
                    return Err(other(failure.text));
                }
                Ok(Err(error @ ClientError::Refused(_))) => {
                    return Err(Problem::AllServers(error));
                }
                Ok(Err(error)) => return Err(other(error.to_string())),
                Err(_) => return Err(other("it does not answer in time".into())),
            }
        }
        self.known().welcome = Some(welcome);
        Ok(connection)
    }
}

/// Whether the same request may go well in a moment, or at another server.
pub(crate) fn is_passing(failure: &Failure) -> bool {
    matches!(
        failure.reason,
        Reason::Busy | Reason::Unavailable | Reason::ShuttingDown | Reason::TooManyRequests
    )
}

/// Takes the session into use on this connection.
pub(crate) async fn resume(
    connection: &Connection,
    session: SessionId,
) -> Result<SessionGrant, ClientError> {
    let server = connection.server().to_owned();
    let unexpected = ProtocolError::unexpected(Instruction::LoginSession);
    match exchange(connection, &Request::LoginSession, session).await {
        Answer::Return(Return::Session(grant)) => Ok(grant),
        Answer::Return(Return::Failed(_, failure)) => Err(ClientError::Refused(failure)),
        Answer::Lost(why) => Err(ClientError::ConnectionLost { server, why }),
        Answer::Broken(problem) => Err(ClientError::Protocol { server, problem }),
        _ => Err(ClientError::Protocol { server, problem: unexpected }),
    }
}

/// The first whole answer to a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Return(Return),
    Data(Vec<u8>),
    Broken(ProtocolError),
    Lost(String),
}

/// The next whole answer; progress goes to `progress`.
pub(crate) async fn next(
    events: &mut UnboundedReceiver<Event>,
    mut progress: impl FnMut(papertrader_protocol::transfer::Progress),
    silence: Option<Duration>,
) -> Answer {
    loop {
        let event = match silence {
            None => events.recv().await,
            Some(silence) => match timeout(silence, events.recv()).await {
                Ok(event) => event,
                Err(_) => return Answer::Lost("it does not answer".to_owned()),
            },
        };
        return match event {
            Some(Event::Progress(packets)) => {
                progress(packets);
                continue;
            }
            Some(Event::Return(answer)) => Answer::Return(answer),
            Some(Event::Data(data)) => Answer::Data(data),
            Some(Event::Broken(problem)) => Answer::Broken(problem),
            Some(Event::Lost(why)) => Answer::Lost(why),
            None => Answer::Lost("closed".to_owned()),
        };
    }
}

async fn exchange(connection: &Connection, request: &Request, session: SessionId) -> Answer {
    match connection.send(request, session) {
        Ok(mut events) => next(&mut events, |_| {}, None).await,
        Err(closed) => Answer::Lost(closed.0),
    }
}

/// What is known of the deployment and the account.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) connection: Option<Arc<Connection>>,
    pub(crate) welcome: Option<Welcome>,
    pub(crate) session: Option<SessionId>,
}
