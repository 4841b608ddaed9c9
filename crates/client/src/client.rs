//! The client: every request of the protocol as one async method.
//!
//! Each method sends one request, and as often again as it safely may: what only reads is asked
//! again at the next server when a connection is lost, and so is what may be done twice without
//! harm; `register` and `login` are sent once. A worker that does not know the session (it was
//! started again) is shown it once more, then the request is repeated.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, timeout};

use papertrader_core::names::{ClientOrderId, Email, Symbol, UserName};
use papertrader_protocol::data::{
    AssetInfo, AssetList, AssetValue, Bars, History, OrderLine, OrderStatus, Orders, Portfolio,
    Prediction, UserInfo, WorkerList,
};
use papertrader_protocol::instruction::State;
use papertrader_protocol::request::{HashedPass, Span};
use papertrader_protocol::returns::{Return, SessionGrant, Welcome};
use papertrader_protocol::transfer::Progress;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Failure, Fingerprint, Reason, Request, SessionId};

use crate::address::Address;
use crate::choice::Choice;
use crate::connection::{Connection, Event};
use crate::error::{ClientError, ProtocolError, Tried, Undecided};
use crate::failover::{Answer, Delay, Known, is_passing, next, resume, tcp};
use crate::options::Options;
use crate::password::Password;
use crate::tls::{NoTls, Policy, handshake};
use crate::trust::{Learnt, Listed, Pins};

/// A client of one deployment. Clones share the connection and the session; many requests may be
/// under way at once.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) given: Vec<Address>,
    pub(crate) listed: Arc<Mutex<Listed>>,
    pub(crate) known: Mutex<Known>,
    pub(crate) connecting: tokio::sync::Mutex<()>,
    choice: Mutex<Choice>,
    in_flight: Semaphore,
}

impl Inner {
    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections lock it too: where both are needed, [`Inner::known`] is locked first.
    pub(crate) fn listed(&self) -> MutexGuard<'_, Listed> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing else is locked while it is.
    pub(crate) fn choice(&self) -> MutexGuard<'_, Choice> {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a server may say `unavailable` to one request before another server is asked: its master
/// may be away for a moment only, or may have sent this server away.
const UNAVAILABLE: u32 = 3;

/// When a request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Only if it was not sent.
    Unsent,
    /// Whenever the connection is lost or the server does not know, and at another server when this
    /// one is unavailable.
    Lost,
    /// Whenever the connection is lost, and when the server is busy or does not know: an order, and a
    /// session that is resumed.
    Unsettled,
}

/// A first answer, and where more may come from.
pub(crate) struct First {
    pub(crate) answer: Answer,
    pub(crate) events: UnboundedReceiver<Event>,
    pub(crate) connection: Arc<Connection>,
}

/// Whether this is a user's name, and that of `expected` if there is one: a server that says
/// otherwise is not believed, as the name stands where people copy it from.
fn is_name(said: &str, expected: Option<&UserName>) -> bool {
    let said = said.parse::<UserName>();
    said.is_ok_and(|said| expected.is_none_or(|expected| said.key() == expected.key()))
}

impl Client {
    /// Connects to the first of `servers` that answers `hello`: `HOST:PORT` with TLS,
    /// `tcp://HOST:PORT` without. They are tried in order, round after round, for
    /// [`Options::connect_patience`].
    pub async fn connect(servers: &[String], options: Options) -> Result<Client, ClientError> {
        let by = Instant::now() + options.connect_patience;
        let pins = Pins::new(options.trust.known.clone());
        let given = servers.iter().map(|server| address(server)).collect::<Result<_, _>>()?;
        let inner = Inner {
            in_flight: Semaphore::new(options.in_flight.max(1)),
            choice: Mutex::new(Choice::new(options.seed)),
            options,
            given,
            listed: Arc::default(),
            known: Mutex::new(Known { pins, connection: None, welcome: None, session: None }),
            connecting: tokio::sync::Mutex::new(()),
        };
        inner.connected(by).await?;
        Ok(Client { inner: Arc::new(inner) })
    }

    /// What the server in use said when it was connected: the deployment, the interval, and the
    /// market's time at that moment.
    pub fn welcome(&self) -> Welcome {
        self.inner.known().welcome.clone().unwrap_or_else(|| Welcome {
            version: 0,
            deployment: String::new(),
            interval: 0,
            market: Default::default(),
            server: String::new(),
        })
    }

    /// The fingerprint of the certificate that the server at `server` (`HOST:PORT`) shows, to
    /// compare it with the one that its operator gives. Any certificate is taken, but the server
    /// proves that it has its key. Nothing is sent but the handshake, nothing is remembered.
    pub async fn certificate_of(
        server: &str,
        options: &Options,
    ) -> Result<Fingerprint, ClientError> {
        let address = address(server)?;
        let failed = |problem: String| ClientError::NoServer {
            tried: vec![Tried { server: address.to_string(), problem }],
        };
        if address.is_plain() {
            return Err(failed("plain TCP has no certificates".to_owned()));
        }
        let shown = async {
            let policy = Policy { expected: None, first_use: true, roots: None };
            match handshake(tcp(&address).await?, &address, policy).await {
                Ok((mut stream, seen, _)) => {
                    // A goodbye that cannot be said changes nothing of what was seen.
                    let _ = stream.shutdown().await;
                    Ok(seen)
                }
                Err(NoTls::Certificate(seen)) => Err(format!("its certificate {seen} is refused")),
                Err(NoTls::Failed(problem)) => Err(problem),
            }
        };
        timeout(options.connect_timeout, shown)
            .await
            .unwrap_or_else(|_| Err("no answer in time".to_owned()))
            .map_err(failed)
    }

    /// The address of the server in use, or of the last one.
    pub fn server(&self) -> String {
        let known = self.inner.known();
        known.connection.as_ref().map(|c| c.server().to_owned()).unwrap_or_default()
    }

    /// Every known server: the last list of workers, then those given to [`Client::connect`]. Which
    /// of the list is tried first is decided when one is lost: by region, nearness, room and chance.
    pub fn servers(&self) -> Vec<String> {
        self.inner.servers().iter().map(Address::to_string).collect()
    }

    /// The servers of the last list of workers that may be used; empty before the first list. A
    /// worker without TLS may not be used if the list came over TLS.
    pub fn listed(&self) -> Vec<String> {
        self.inner.listed().addresses().map(Address::to_string).collect()
    }

    /// What the last list of workers says of their certificates, by `host:port`, if it came from a
    /// server that is believed. An application that keeps the servers keeps this with them and gives
    /// it back in [`crate::Trust::listed`]: else whoever is at the address of one that was
    /// never used passes as a first use.
    pub fn listed_certificates(&self) -> HashMap<String, Fingerprint> {
        self.inner.listed().certificates()
    }

    /// What is to be remembered of certificates, and was not in [`crate::Trust::known`]: those of
    /// servers that were used. An application that keeps it and gives it back finds out when a server
    /// is not what it was.
    pub fn learnt(&self) -> Vec<Learnt> {
        self.inner.known().pins.learnt()
    }

    /// The session in use.
    pub fn session(&self) -> Option<SessionId> {
        self.inner.known().session
    }

    /// Makes an account. Sent once: after [`ClientError::OutcomeUnknown`] it may exist or not.
    /// Returns the name as the server keeps it.
    pub async fn register(
        &self,
        name: &UserName,
        email: &Email,
        password: &Password,
    ) -> Result<String, ClientError> {
        self.to_command_state();
        let pass = self.hashed(name, password).await;
        let request = Request::Register { name: name.clone(), email: email.clone(), pass };
        match self.ask(&request, Again::Unsent).await? {
            Return::Registered(kept) if is_name(&kept, Some(name)) => Ok(kept),
            _ => Err(self.unexpected(&request)),
        }
    }

    /// Logs in and uses the new session from now on; the session before is forgotten here, not
    /// ended. A session that is not to be remembered ends soon after its last connection. Sent
    /// once.
    pub async fn login(
        &self,
        name: &UserName,
        password: &Password,
        remember: bool,
    ) -> Result<SessionGrant, ClientError> {
        self.to_command_state();
        self.inner.known().session = None;
        let pass = self.hashed(name, password).await;
        let request = Request::Login { name: name.clone(), pass, expirable: !remember };
        match self.ask(&request, Again::Unsent).await? {
            Return::Session(grant) if is_name(&grant.name, Some(name)) => {
                let grant = self.adopt(grant);
                self.inner.go_home().await;
                Ok(grant)
            }
            _ => Err(self.unexpected(&request)),
        }
    }

    /// Uses a session of earlier.
    pub async fn resume(&self, session: SessionId) -> Result<SessionGrant, ClientError> {
        let before = self.inner.known().session.replace(session);
        let request = Request::LoginSession;
        // It comes before everything else: a master that is being started again is waited for.
        match self.ask(&request, Again::Unsettled).await {
            Ok(Return::Session(grant)) if is_name(&grant.name, None) => {
                let grant = self.adopt(grant);
                self.inner.go_home().await;
                Ok(grant)
            }
            Ok(_) => Err(self.unexpected(&request)),
            Err(error) => {
                self.inner.known().session = before;
                Err(error)
            }
        }
    }

    /// Ends the session on the server and forgets it. A session that had ended already is as good.
    pub async fn logout(&self) -> Result<(), ClientError> {
        let ended = match self.first(&Request::Logout, Again::Lost, |_| {}).await {
            Ok(First { answer: Answer::Return(Return::LoggedOut), .. }) => Ok(()),
            Ok(_) => Err(self.unexpected(&Request::Logout)),
            Err(ClientError::Refused(Failure {
                reason: Reason::SessionUnknown | Reason::SessionExpired,
                ..
            })) => Ok(()),
            Err(error) => Err(error),
        };
        if ended.is_ok() {
            self.inner.known().session = None;
        }
        ended
    }

    /// Ends all sessions of the account, on all devices, and forgets this one. Fails if this one has
    /// ended already: then the others may go on.
    pub async fn logout_everywhere(&self) -> Result<(), ClientError> {
        let request = Request::LogoutEverywhere;
        let mut repeated = false;
        match self.first_noting(&request, Again::Lost, |_| {}, &mut repeated).await {
            Ok(First { answer: Answer::Return(Return::LoggedOut), .. }) => {}
            Ok(_) => return Err(self.unexpected(&request)),
            // The first copy ended it before the connection was lost, to the worker or behind it.
            Err(ClientError::Refused(Failure {
                reason: Reason::SessionUnknown | Reason::SessionExpired,
                ..
            })) if repeated => {}
            Err(error) => return Err(error),
        }
        self.inner.known().session = None;
        Ok(())
    }

    /// Changes the password of the account whose session is in use; `name` is the account's. All
    /// its other sessions end. Sent once: after [`ClientError::OutcomeUnknown`] either password may
    /// be the right one.
    pub async fn change_password(
        &self,
        name: &UserName,
        old: &Password,
        new: &Password,
    ) -> Result<(), ClientError> {
        let old = self.hashed(name, old).await;
        let new = self.hashed(name, new).await;
        let request = Request::ChangePassword { old, new };
        match self.ask(&request, Again::Unsent).await? {
            Return::PasswordChanged => Ok(()),
            _ => Err(self.unexpected(&request)),
        }
    }

    /// Cancels an open order. The order will not happen, even if a late copy of it arrives.
    pub async fn cancel(&self, id: &ClientOrderId) -> Result<(), ClientError> {
        let request = Request::CancelOrder(id.clone());
        let mut repeated = false;
        let answer = self.first_noting(&request, Again::Lost, |_| {}, &mut repeated).await;
        match answer {
            Ok(First { answer: Answer::Return(Return::Cancelled(_)), .. }) => Ok(()),
            Ok(_) => Err(self.unexpected(&request)),
            // The first copy may have cancelled it before the connection was lost.
            Err(ClientError::Refused(failure))
                if repeated && failure.reason == Reason::OrderDone =>
            {
                match self.order_by_id(id).await {
                    Ok(order) if order.status == OrderStatus::Cancelled => Ok(()),
                    _ => Err(ClientError::Refused(failure)),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Today's values of an asset so far.
    pub async fn asset_info(&self, symbol: Symbol) -> Result<AssetInfo, ClientError> {
        self.data(&Request::AssetInfo(symbol), |_| {}).await
    }

    /// The latest price of an asset.
    pub async fn asset_value(&self, symbol: Symbol) -> Result<AssetValue, ClientError> {
        self.data(&Request::AssetValue(symbol), |_| {}).await
    }

    /// All assets with their latest prices.
    pub async fn asset_list(&self) -> Result<AssetList, ClientError> {
        self.data(&Request::AssetList, |_| {}).await
    }

    /// The history of an asset. `progress` hears of every packet; it starts over at 1 when the
    /// transfer does, at another server.
    pub async fn bars(
        &self,
        symbol: Symbol,
        span: Span,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<Bars, ClientError> {
        self.data(&Request::Bars(symbol, span), progress).await
    }

    /// The prediction for the next 1 to 60 market days.
    pub async fn predicted(&self, symbol: Symbol, days: u32) -> Result<Prediction, ClientError> {
        self.data(&Request::Predicted(symbol, days), |_| {}).await
    }

    /// A user's account; of others the public part.
    pub async fn user_info(&self, name: &UserName) -> Result<UserInfo, ClientError> {
        self.data(&Request::UserInfo(name.clone()), |_| {}).await
    }

    /// A user's portfolio; of others the public part.
    pub async fn portfolio(&self, name: &UserName) -> Result<Portfolio, ClientError> {
        self.data(&Request::Portfolio(name.clone()), |_| {}).await
    }

    /// A user's history; of others the public part.
    pub async fn history(&self, name: &UserName) -> Result<History, ClientError> {
        self.data(&Request::History(name.clone()), |_| {}).await
    }

    /// A user's open and recent orders.
    pub async fn orders(&self, name: &UserName) -> Result<Orders, ClientError> {
        self.data(&Request::Orders(name.clone()), |_| {}).await
    }

    /// The present state of one's own order.
    pub async fn order_by_id(&self, id: &ClientOrderId) -> Result<OrderLine, ClientError> {
        self.data(&Request::Order(id.clone()), |_| {}).await
    }

    /// The workers that clients can use. Needs no session.
    pub async fn worker_list(&self) -> Result<WorkerList, ClientError> {
        self.data(&Request::GetWorkerList, |_| {}).await
    }

    /// There and back.
    pub async fn ping(&self) -> Result<(), ClientError> {
        let request = Request::Ping("ping".to_owned());
        match self.ask(&request, Again::Lost).await? {
            Return::Pong(text) if text == "ping" => Ok(()),
            _ => Err(self.unexpected(&request)),
        }
    }

    /// Says goodbye and closes the connection when everything is written. Orders that are under
    /// way go on at the server; a later request connects again.
    pub async fn close(&self) {
        let connection = self.inner.known().connection.take();
        if let Some(connection) = connection {
            connection.finish().await;
        }
    }

    /// Sends a request until it has a first answer that is not a failure to be retried.
    pub(crate) async fn first(
        &self,
        request: &Request,
        again: Again,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<First, ClientError> {
        self.first_noting(request, again, progress, &mut false).await
    }

    /// The same; `repeated` is whether an earlier copy may have been carried out.
    pub(crate) async fn first_noting(
        &self,
        request: &Request,
        again: Again,
        mut progress: impl FnMut(Progress) + Send,
        repeated: &mut bool,
    ) -> Result<First, ClientError> {
        let (instruction, _) = request.encode();
        let inner = &self.inner;
        let answer_timeout = Some(inner.options.answer_timeout);
        // A closed semaphore cannot be: it is never closed.
        let _permit = inner.in_flight.acquire().await.ok();
        let mut resumed = false;
        let mut delay = Delay::new();
        // Patience begins with the first trouble, not with a long transfer.
        let mut patience: Option<Instant> = None;
        let mut by = || *patience.get_or_insert_with(|| Instant::now() + inner.options.patience);
        let (mut losses, mut unavailable) = (0, 0);
        loop {
            let connection = match inner.current() {
                Some(connection) => connection,
                None => inner
                    .connected(by())
                    .await
                    .map_err(|error| unknown(request, *repeated, error))?,
            };
            let session = inner.known().session;
            if instruction.needs_session() && session.is_none() {
                return Err(ClientError::NotLoggedIn);
            }
            let server = connection.server().to_owned();
            let lost = |why| ClientError::ConnectionLost { server: server.clone(), why };
            let why = match connection.send(request, session.unwrap_or(SessionId::NONE)) {
                // Nothing was sent: try at the next server.
                Err(closed) => closed.0,
                Ok(mut events) => {
                    match next(&mut events, &mut progress, answer_timeout).await {
                        Answer::Return(Return::Failed(_, mut failure)) => {
                            if failure.reason == Reason::SessionUnknown
                                && instruction.needs_session()
                                && *request != Request::LoginSession
                                && !resumed
                                && let Some(session) = session
                            {
                                match resume(&connection, session).await {
                                    Ok(_) | Err(ClientError::ConnectionLost { .. }) => {
                                        resumed = true;
                                        continue;
                                    }
                                    // Nothing is known of the session: it may do elsewhere.
                                    Err(ClientError::Refused(why)) if is_passing(&why) => {
                                        failure = why;
                                    }
                                    Err(error) => return Err(unknown(request, *repeated, error)),
                                }
                            }
                            let is_ending = failure.reason == Reason::ShuttingDown;
                            let is_unavailable =
                                failure.reason == Reason::Unavailable && inner.servers().len() > 1;
                            unavailable += u32::from(is_unavailable);
                            // What is sent only once is for the next one to do elsewhere.
                            if is_ending || is_unavailable && again == Again::Unsent {
                                connection.leave();
                            }
                            // Nor will it tell anything to others who wait.
                            if is_unavailable && unavailable % UNAVAILABLE == 0 {
                                connection.close("it cannot reach its master");
                            }
                            let is_unknown = failure.reason == Reason::OutcomeUnknown;
                            *repeated |= is_unknown
                                || again == Again::Lost && failure.reason == Reason::Unavailable;
                            let retried = match again {
                                Again::Unsent => false,
                                Again::Lost => is_ending || is_unavailable || is_unknown,
                                Again::Unsettled => {
                                    // Of an earlier copy a deadline says nothing.
                                    let late = failure.reason == Reason::DeadlinePassed;
                                    is_passing(&failure) || is_unknown || late && *repeated
                                }
                            };
                            if retried && delay.wait(by()).await {
                                continue;
                            }
                            let open = !decides(&failure);
                            let error = ClientError::Refused(failure);
                            return Err(if open {
                                unknown(request, *repeated, error)
                            } else {
                                error
                            });
                        }
                        Answer::Broken(problem) => {
                            return Err(ClientError::Protocol { server, problem });
                        }
                        Answer::Lost(why) => {
                            // After too long a silence the connection is still there.
                            connection.close(&why);
                            if again == Again::Unsent {
                                return Err(unknown(request, true, lost(why)));
                            }
                            *repeated = true;
                            why
                        }
                        answer => {
                            return Ok(First { answer, events, connection });
                        }
                    }
                }
            };
            // The first time another server is tried at once.
            losses += 1;
            if Instant::now() >= by() || (losses > 1 && !delay.wait(by()).await) {
                return Err(unknown(request, *repeated, lost(why)));
            }
        }
    }

    async fn ask(&self, request: &Request, again: Again) -> Result<Return, ClientError> {
        match self.first(request, again, |_| {}).await?.answer {
            Answer::Return(answer) => Ok(answer),
            _ => Err(self.unexpected(request)),
        }
    }

    async fn data<T: Wire>(
        &self,
        request: &Request,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<T, ClientError> {
        let first = self.first(request, Again::Lost, progress).await?;
        let server = first.connection.server().to_owned();
        match first.answer {
            Answer::Data(data) => T::from_bytes(&data)
                .map_err(|error| ClientError::Protocol { server, problem: error.into() }),
            _ => Err(self.unexpected(request)),
        }
    }

    fn adopt(&self, grant: SessionGrant) -> SessionGrant {
        self.inner.known().session = Some(grant.session);
        grant
    }

    /// A connection in the data transfer state takes `login` and `register` only after a switch,
    /// and a switch only with a session that is active: a new connection needs neither.
    fn to_command_state(&self) {
        if let Some(connection) = self.inner.current()
            && connection.state() != State::Command
        {
            connection.leave();
        }
    }

    async fn hashed(&self, name: &UserName, password: &Password) -> HashedPass {
        let (name, password) = (name.clone(), password.clone());
        let deployment = self.welcome().deployment;
        let other = (name.clone(), password.clone(), deployment.clone());
        match tokio::task::spawn_blocking(move || password.hashed(&deployment, &name)).await {
            Ok(pass) => pass,
            // Only a runtime that is ending refuses to run it.
            Err(_) => other.1.hashed(&other.2, &other.0),
        }
    }

    pub(crate) fn unexpected(&self, request: &Request) -> ClientError {
        let problem = ProtocolError::unexpected(request.encode().0);
        ClientError::Protocol { server: self.server(), problem }
    }
}

fn address(text: &str) -> Result<Address, ClientError> {
    text.parse().map_err(|problem| ClientError::Address { address: text.to_owned(), problem })
}

/// Whether a refusal says what became of a request, and not only that this copy of it was not
/// listened to: of an earlier copy, which may have been carried out, the others say nothing.
fn decides(failure: &Failure) -> bool {
    let unheard = matches!(
        failure.reason,
        Reason::OutcomeUnknown
            | Reason::DeadlinePassed
            | Reason::SessionRequired
            | Reason::SessionUnknown
            | Reason::SessionExpired
            | Reason::NotAuthorized
            | Reason::PasswordChangeRequired
            | Reason::TooManyAttempts
    );
    !unheard && !is_passing(failure)
}

/// What may have been carried out, and may not be sent again just so, is more than a lost connection.
fn unknown(request: &Request, repeated: bool, error: ClientError) -> ClientError {
    let what = match request {
        _ if !repeated => return error,
        Request::PurchaseAsset(args) | Request::SellAsset(args) => {
            Undecided::Order(args.client_order_id.clone())
        }
        Request::Register { .. } => Undecided::Registration,
        Request::ChangePassword { .. } => Undecided::PasswordChange,
        _ => return error,
    };
    ClientError::OutcomeUnknown { what, cause: Box::new(error) }
}
