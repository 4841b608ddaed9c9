//! The clients: each places orders, sends some again, cancels some, and writes down what it hears.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use papertrader_client::{Client, ClientError, Options, Password};
use papertrader_core::names::{ClientOrderId, Symbol};
use papertrader_core::order::Side;
use papertrader_protocol::Reason;
use tokio::time::timeout;

use super::knowledge::{Content, Event, Known, Meaning, Outcome, meaning};
use super::{Counts, Random};

const SYMBOLS: [&str; 4] = ["AAPL", "GOOG", "IBM", "MSFT"];
/// Questions at the same time when all is over.
const AT_ONCE: usize = 32;
/// How long a client leaves servers alone that cannot do what it asks.
const PAUSE: Duration = Duration::from_millis(50);

/// A user, logged in once, with several clients.
pub(crate) struct User {
    pub(crate) number: usize,
    pub(crate) clients: Vec<Client>,
}

/// How long a client waits for the outcome of an order that is queued.
const OUTCOME: Duration = Duration::from_secs(5);
/// For how long a client tries again before it is told that nothing is known.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Makes an account and logs in; one client for each of the lists of servers to connect to.
pub(crate) async fn user(number: usize, servers: &[Vec<String>]) -> Result<User, ClientError> {
    user_with(number, servers, PATIENCE).await
}

/// The same, with another patience.
pub(crate) async fn user_with(
    number: usize,
    servers: &[Vec<String>],
    patience: Duration,
) -> Result<User, ClientError> {
    let name = name(number);
    let email = format!("{name}@example.org").parse().expect("an email address");
    let password = password(number);
    let mut clients: Vec<Client> = Vec::new();
    for servers in servers {
        let client = Client::connect(servers, options(patience)).await?;
        match clients.first().and_then(Client::session) {
            Some(session) => client.resume(session).await?,
            None => {
                client.register(&name, &email, &password).await?;
                client.login(&name, &password, true).await?
            }
        };
        clients.push(client);
    }
    Ok(User { number, clients })
}

fn options(patience: Duration) -> Options {
    Options { patience, ..Options::default() }
}

impl User {
    /// The same user with new clients and [`PATIENCE`].
    pub(crate) async fn patient(&self, servers: &[Vec<String>]) -> Result<User, ClientError> {
        let mut clients = Vec::new();
        for servers in servers {
            let client = Client::connect(servers, options(PATIENCE)).await?;
            let session = self.clients[0].session().ok_or(ClientError::NotLoggedIn)?;
            client.resume(session).await?;
            clients.push(client);
        }
        Ok(User { number: self.number, clients })
    }
}

/// The password of a user.
pub(crate) fn password(number: usize) -> Password {
    Password::new(format!("password of {}", name(number)))
}

/// The name of a user.
pub(crate) fn name(number: usize) -> papertrader_core::names::UserName {
    format!("user-{number}").parse().expect("a user name")
}

/// One task of a user.
pub(crate) struct Trader {
    user: usize,
    task: usize,
    client: Client,
    random: Random,
    known: Arc<Known>,
    events: Sender<Event>,
    placed: u32,
}

impl Trader {
    pub(crate) fn new(
        user: &User,
        task: usize,
        random: Random,
        known: Arc<Known>,
        events: Sender<Event>,
    ) -> Trader {
        let client = user.clients[task % user.clients.len()].clone();
        Trader { user: user.number, task, client, random, known, events, placed: 0 }
    }

    /// Trades until it is told to stop.
    pub(crate) async fn trade(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            match self.random.below(10) {
                0 => self.cancel().await,
                1 => self.again().await,
                _ => self.order().await,
            }
        }
    }

    fn id(&self, number: u32) -> ClientOrderId {
        let id = format!("{}-{}-{number}", self.user, self.task);
        id.parse().expect("a client order ID")
    }

    fn happened(&self, event: Event) {
        // At the end nobody counts any more.
        let _ = self.events.send(event);
    }

    /// A new order; half of them are waited for.
    async fn order(&mut self) {
        self.placed += 1;
        let id = self.id(self.placed);
        let symbol = SYMBOLS[self.random.below(SYMBOLS.len() as u64) as usize];
        let side = if self.random.below(5) < 3 { Side::Buy } else { Side::Sell };
        let quantity = match self.random.below(4) {
            // Fractions too.
            0 => format!("0.{:08}", 1 + self.random.below(99_999_999)),
            _ => (1 + self.random.below(12)).to_string(),
        };
        let symbol: Symbol = symbol.parse().expect("a symbol");
        let quantity = quantity.parse().expect("a quantity");
        let content = Content { user: self.user, side, symbol, quantity };
        let wait = self.random.below(2) == 0;
        // Some clients leave before they hear anything, as if they had died: those orders may be
        // there or not.
        let leaves = self.random.below(4) == 0;
        let after = Duration::from_micros(self.random.below(30_000));
        self.happened(Event::Sent);
        let placing = place(&self.client, &self.known, &id, &content, wait, &self.events);
        if leaves {
            // Whether it was in time is not known, and does not matter.
            let _ = timeout(after, placing).await;
        } else if placing.await {
            self.happened(Event::Placed);
        } else {
            // As a client does that hears of trouble; or it would ask for thousands a second.
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// An order of before, of any task of this user, acknowledged or not.
    async fn again(&mut self) {
        let random = self.random.next();
        let Some((id, told)) = self.known.some_of(self.user, random) else { return };
        place(&self.client, &self.known, &id, &told.content, false, &self.events).await;
    }

    /// The order that this task has placed last, or any other.
    async fn cancel(&mut self) {
        let random = self.random.next();
        let last = self.known.told(&self.id(self.placed));
        let Some((id, told)) = last.or_else(|| self.known.some_of(self.user, random)) else {
            return;
        };
        // One that is not there yet would only be kept from happening.
        if !told.is_acknowledged() {
            return;
        }
        match self.client.cancel(&id).await {
            Ok(()) => self.known.decided(&id, Outcome::Refused(Reason::OrderCancelled)),
            Err(ClientError::Refused(failure)) if failure.reason == Reason::OrderDone => {}
            Err(error) => match meaning(&error) {
                Meaning::Nothing => {}
                Meaning::Final(_) | Meaning::Wrong => {
                    self.known.contradict(format!("cancelling {id} ({told:?}): {error}"));
                }
            },
        }
    }
}

/// Sends an order and writes down what is heard; `true` if a server has answered for it.
pub(crate) async fn place(
    client: &Client,
    known: &Known,
    id: &ClientOrderId,
    content: &Content,
    wait: bool,
    events: &Sender<Event>,
) -> bool {
    known.sent(id, content);
    let placed = client.order(content.side, content.symbol, content.quantity, id.clone()).await;
    let mut placed = match placed {
        Ok(placed) => placed,
        Err(error) => return refused(known, id, &error, events),
    };
    let queued = placed.queued().cloned();
    if let Some(queued) = &queued {
        known.queued(id, queued.order);
    }
    // At the end nobody counts any more.
    let _ = events.send(Event::Acknowledged);
    // One that is not queued is done: then this does not wait.
    if !wait && queued.is_some() {
        return true;
    }
    // Nobody settles while the database is in trouble: who has waited for long looks at another time.
    let Ok(outcome) = timeout(OUTCOME, placed.outcome()).await else { return true };
    match outcome {
        Ok(fill) => known.decided(id, Outcome::Filled(fill)),
        Err(error) => {
            refused(known, id, &error, events);
        }
    }
    let _ = events.send(Event::Decided);
    if queued.is_some() {
        let _ = events.send(Event::Settled);
    }
    true
}

fn refused(known: &Known, id: &ClientOrderId, error: &ClientError, events: &Sender<Event>) -> bool {
    match meaning(error) {
        Meaning::Final(reason) => known.decided(id, Outcome::Refused(reason)),
        Meaning::Nothing => {
            known.unknown(error);
            // At the end nobody counts any more.
            let _ = events.send(Event::Unknown);
            return false;
        }
        Meaning::Wrong => known.contradict(format!("{id} was answered with {error:?}")),
    }
    true
}

/// When nothing is killed any more: asks what became of the orders that nobody answered for, then
/// sends every order once more, through the other worker. Each must be answered for.
pub(crate) async fn ask_about_all(
    users: &[User],
    known: &Arc<Known>,
    counts: &mut Counts,
) -> Result<(), String> {
    let orders = known.orders();
    counts.orders = orders.len();
    counts.acknowledged = orders.values().filter(|told| told.is_acknowledged()).count();
    for (id, told) in orders.iter().filter(|(_, told)| !told.is_acknowledged()) {
        match users[told.content.user].clients[0].order_by_id(id).await {
            Ok(line) => {
                counts.unanswered_stored += 1;
                known.queued(id, line.order);
            }
            Err(ClientError::Refused(failure)) if failure.reason == Reason::OrderNotFound => {
                counts.unanswered_absent += 1;
            }
            Err(error) => return Err(format!("{id} cannot be asked about: {error}")),
        }
    }
    let (events, _heard) = std::sync::mpsc::channel();
    let mut asking = tokio::task::JoinSet::new();
    for (id, told) in orders {
        // The task of an ID has used the one; this is the other.
        let task = id.as_str().split('-').nth(1).and_then(|task| task.parse().ok()).unwrap_or(0);
        let clients = &users[told.content.user].clients;
        let client = clients[(task + 1usize) % clients.len()].clone();
        let (known, events) = (Arc::clone(known), events.clone());
        asking.spawn(async move {
            let answered = place(&client, &known, &id, &told.content, false, &events).await;
            if !answered {
                known.contradict(format!("{id} is not answered for, though all is well"));
            }
        });
        if asking.len() >= AT_ONCE {
            // A panic inside is one of this program, and shows as one.
            asking.join_next().await.transpose().map_err(|error| error.to_string())?;
        }
    }
    while let Some(done) = asking.join_next().await {
        done.map_err(|error| error.to_string())?;
    }
    counts.repeated = known.orders().values().map(|told| told.sent - 1).sum();
    Ok(())
}
