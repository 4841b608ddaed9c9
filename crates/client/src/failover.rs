//! Finding a server that works: which ones, in which order, with which delay, and taking the
//! session along.
//!
//! The servers of the last list of workers come first, in the order that [`crate::choice`] gives them,
//! then those given at connect; the one that was just lost comes last. A server whose certificate is refused is passed over; it is told only
//! if no other works.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use papertrader_protocol::returns::{Return, SessionGrant, Welcome};
use papertrader_protocol::{Failure, Fingerprint, Instruction, Reason, Request, SessionId};

use crate::address::Address;
use crate::choice::Candidate;
use crate::client::Inner;
use crate::connection::{Connection, Event};
use crate::error::{ClientError, ProtocolError, Tried};
use crate::tls::{NoTls, Policy, Verdict, handshake};
use crate::trust::{How, Learnt, Pins, Worker, Worth};

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
    /// Another may do, but this is what to tell if none does.
    Certificate(ClientError),
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
            let mut refused = None;
            for address in self.candidates() {
                match self.open(&address).await {
                    Ok(connection) => {
                        let connection = Arc::new(connection);
                        self.known().connection = Some(Arc::clone(&connection));
                        return Ok(connection);
                    }
                    Err(Problem::ThisServer(problem)) => {
                        tried.push(Tried { server: address.to_string(), problem });
                    }
                    Err(Problem::Certificate(error)) => {
                        refused.get_or_insert(error);
                    }
                    Err(Problem::AllServers(error)) => return Err(error),
                }
            }
            // Trying again changes no certificate.
            let waited = !(tried.is_empty() && refused.is_some()) && delay.wait(by).await;
            if !waited {
                return Err(refused.unwrap_or(ClientError::NoServer { tried }));
            }
        }
    }

    /// The connection in use, if it still takes requests.
    pub(crate) fn current(&self) -> Option<Arc<Connection>> {
        let known = self.known();
        known.connection.as_ref().filter(|connection| connection.is_open()).cloned()
    }

    /// Every known server.
    pub(crate) fn servers(&self) -> Vec<Address> {
        let mut servers: Vec<Address> = self.listed().addresses().cloned().collect();
        self.add_given(&mut servers);
        servers
    }

    fn add_given(&self, servers: &mut Vec<Address>) {
        for server in &self.given {
            if !servers.contains(server) {
                servers.push(server.clone());
            }
        }
    }

    /// What the last list says, as far as it matters for a choice.
    fn listed_candidates(&self) -> Vec<Candidate> {
        let listed = self.listed();
        let candidate = |worker: &Worker| Candidate {
            address: worker.address.clone(),
            is_home: self.options.region.as_ref().is_some_and(|region| worker.is_in(region)),
            load: worker.load,
        };
        listed.workers().iter().map(candidate).collect()
    }

    /// The servers to try, in order.
    fn candidates(&self) -> Vec<Address> {
        let listed = self.listed_candidates();
        let mut servers = self.choice().ordered(listed);
        self.add_given(&mut servers);
        let known = self.known();
        if let Some(lost) = known.connection.as_ref().map(|connection| connection.address()) {
            servers.sort_by_key(|server| server == lost);
        }
        servers
    }

    /// With a region of its own: goes to a worker of it, unless it is at one already or none takes it.
    /// What is under way is still answered by the other.
    pub(crate) async fn go_home(&self) {
        let Some(present) = self.current().filter(|_| self.options.region.is_some()) else {
            return;
        };
        // The list follows the session on its heels: when this is answered it has been read.
        let asked = exchange(&present, &Request::GetWorkerList, SessionId::NONE);
        if timeout(self.options.answer_timeout, asked).await.is_err() {
            return;
        }
        let _guard = self.connecting.lock().await;
        let mut home = self.listed_candidates();
        home.retain(|candidate| candidate.is_home);
        if home.iter().any(|candidate| candidate.address == *present.address()) {
            return;
        }
        let home = self.choice().ordered(home);
        for address in home {
            if let Ok(connection) = self.open(&address).await {
                self.known().connection = Some(Arc::new(connection));
                return;
            }
        }
    }

    /// A connection on which nothing was sent yet, and what its certificate has taught.
    async fn dial(
        &self,
        address: &Address,
        by: Instant,
    ) -> Result<(Connection, Option<Learnt>), Problem> {
        let late = |what: &str| Problem::ThisServer(what.to_owned());
        let begun = Instant::now();
        let stream = timeout_at(by, tcp(address))
            .await
            .map_err(|_| late("no answer in time"))?
            .map_err(Problem::ThisServer)?;
        self.choice().reached(address, begun.elapsed());
        if address.is_plain() {
            return Ok((self.start(stream, address, Worth::Plain), None));
        }
        let server = address.place();
        let (by_list, is_vouched) = {
            let listed = self.listed();
            let before = || self.options.trust.listed.get(&server).copied();
            match (listed.fingerprint(address), listed.is_vouched()) {
                (Some(print), true) => (Some(print), true),
                // What anybody on the way may have written does not outvote what was believed.
                (hearsay, _) => match before() {
                    Some(print) => (Some(print), true),
                    None => (hearsay, false),
                },
            }
        };
        let pinned = self.known().pins.get(&server);
        // Whoever writes a list must not be able to replace what is known.
        let expected = pinned.or(by_list);
        let trust = &self.options.trust;
        let policy =
            Policy { expected, first_use: trust.first_use, roots: Some(trust.roots.clone()) };
        let (stream, fingerprint, verdict) = timeout_at(by, handshake(stream, address, policy))
            .await
            .map_err(|_| late("the TLS handshake does not end in time"))?
            .map_err(|problem| refusal(problem, &server, expected, by_list))?;
        let how = match verdict {
            Verdict::FirstUse => Some(How::FirstUse),
            Verdict::Authority => Some(How::Authority),
            Verdict::Expected if pinned.is_none() && is_vouched => Some(How::Listed),
            Verdict::Expected => None,
        };
        let worth = if how.is_some() || pinned.is_some() { Worth::Vouched } else { Worth::Hearsay };
        let learnt = how.map(|how| Learnt { server, fingerprint, how });
        Ok((self.start(stream, address, worth), learnt))
    }

    fn start(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        address: &Address,
        worth: Worth,
    ) -> Connection {
        let listed = Arc::clone(&self.listed);
        Connection::start(stream, address.clone(), worth, listed, &self.options)
    }

    async fn open(&self, address: &Address) -> Result<Connection, Problem> {
        let other = |problem: String| Problem::ThisServer(problem);
        let by = Instant::now() + self.options.connect_timeout;
        let (connection, learnt) = self.dial(address, by).await?;
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
            let mut known = self.known();
            // A session ID is a secret of its deployment.
            let expected = known
                .welcome
                .as_ref()
                .map(|welcome| &welcome.deployment)
                .or(self.options.deployment.as_ref());
            if expected.is_some_and(|deployment| *deployment != welcome.deployment) {
                return Err(other("it belongs to another deployment".into()));
            }
            if let Some(learnt) = learnt {
                known.pins.learn(learnt);
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

/// Why a handshake has not led to a connection.
fn refusal(
    problem: NoTls,
    server: &str,
    expected: Option<Fingerprint>,
    by_list: Option<Fingerprint>,
) -> Problem {
    let server = server.to_owned();
    match (problem, expected) {
        (NoTls::Failed(problem), _) => Problem::ThisServer(problem),
        (NoTls::Certificate(seen), Some(expected)) => {
            Problem::Certificate(ClientError::CertificateChanged {
                server,
                expected,
                seen,
                is_listed: by_list == Some(seen),
            })
        }
        (NoTls::Certificate(seen), None) => {
            Problem::Certificate(ClientError::CertificateUnknown { server, seen })
        }
    }
}

/// A TCP connection, or why there is none.
pub(crate) async fn tcp(address: &Address) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address.target()).await.map_err(|error| error.to_string())?;
    // Requests are small and somebody waits for each.
    let _ = stream.set_nodelay(true);
    Ok(stream)
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
            // They come after the answer.
            Some(Event::Values(_) | Event::Order(_)) => continue,
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

/// What is known of the deployment, its servers and the account.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) pins: Pins,
    pub(crate) connection: Option<Arc<Connection>>,
    pub(crate) welcome: Option<Welcome>,
    pub(crate) session: Option<SessionId>,
}
