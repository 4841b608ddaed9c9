//! The clients: each asks quotes and places small orders, continuously, with the SDK as it comes.
//!
//! What it is told of its orders is written down as the kill loop does it. Invariant: whatever fails is
//! asked again after a short pause, as a program does whose user is waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use papertrader_client::{Client, ClientError, Options};
use papertrader_core::names::{ClientOrderId, Symbol};
use papertrader_core::order::Side;
use papertrader_protocol::SessionId;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::stopwatch::{Kind, Stopwatch};
use crate::kill_loop::Random;
use crate::kill_loop::knowledge::{Content, Event, Known};
use crate::kill_loop::trader::{User, place};

/// Pauses between quotes, and between orders, in milliseconds: from, and up to so many more.
const QUOTES: (u64, u64) = (100, 300);
const ORDERS: (u64, u64) = (300, 700);
/// After a failure.
const PAUSE: Duration = Duration::from_millis(50);

/// One client.
pub(crate) struct Life {
    user: usize,
    client: Client,
    symbols: Vec<Symbol>,
    known: Arc<Known>,
    stopwatch: Arc<Stopwatch>,
    stop: Arc<AtomicBool>,
    /// Nobody listens: the stopwatch is told instead.
    events: Sender<Event>,
}

/// Connects a client for each session, each with its own list of servers in turn.
pub(crate) async fn connect_all(
    servers: &[Vec<String>],
    sessions: Vec<SessionId>,
    at_once: usize,
    random: &mut Random,
) -> Result<Vec<User>, String> {
    let mut connecting = JoinSet::new();
    let mut users = Vec::new();
    for (number, session) in sessions.into_iter().enumerate() {
        let servers = servers[number % servers.len()].clone();
        let options = Options { seed: Some(random.next()), ..Options::default() };
        connecting.spawn(async move {
            let client = Client::connect(&servers, options).await?;
            client.resume(session).await?;
            Ok::<_, ClientError>(User { number, clients: vec![client] })
        });
        if connecting.len() >= at_once {
            users.extend(connecting.join_next().await);
        }
    }
    while let Some(user) = connecting.join_next().await {
        users.push(user);
    }
    let each = users.into_iter().map(|user| {
        let user = user.map_err(|error| error.to_string())?;
        user.map_err(|error| format!("a client cannot connect: {error}"))
    });
    let mut users = each.collect::<Result<Vec<User>, String>>()?;
    users.sort_by_key(|user| user.number);
    Ok(users)
}

impl Life {
    pub(crate) fn new(
        user: &User,
        known: Arc<Known>,
        stopwatch: Arc<Stopwatch>,
        stop: Arc<AtomicBool>,
    ) -> Life {
        let symbols = (1..=4).map(|n| format!("SYN{n:04}").parse().expect("a symbol")).collect();
        let (events, _) = channel();
        let client = user.clients[0].clone();
        Life { user: user.number, client, symbols, known, stopwatch, stop, events }
    }

    /// Asks until it is told to stop.
    pub(crate) async fn ask_quotes(self: Arc<Self>, mut random: Random) {
        while !self.stop.load(Ordering::Relaxed) {
            let symbol = self.symbol(&mut random);
            let since = self.stopwatch.now();
            match self.client.asset_value(symbol).await {
                Ok(_) => {
                    self.stopwatch.succeeded(self.user, Kind::Quote, since);
                    pause(&mut random, QUOTES).await;
                }
                Err(error) => {
                    self.stopwatch.failed(words(&error));
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Trades until it is told to stop.
    pub(crate) async fn place_orders(self: Arc<Self>, mut random: Random) {
        let mut placed = 0;
        while !self.stop.load(Ordering::Relaxed) {
            placed += 1;
            let id = format!("{}-0-{placed}", self.user);
            let id: ClientOrderId = id.parse().expect("a client order ID");
            let side = if random.below(5) < 3 { Side::Buy } else { Side::Sell };
            let quantity = format!("{}.5", random.below(3)).parse().expect("a quantity");
            let symbol = self.symbol(&mut random);
            let content = Content { user: self.user, side, symbol, quantity };
            let since = self.stopwatch.now();
            if !self.place(&id, &content, false).await {
                sleep(PAUSE).await;
                continue;
            }
            self.stopwatch.succeeded(self.user, Kind::Order, since);
            // Some are sent again, and waited for.
            if random.below(4) == 0 {
                self.place(&id, &content, true).await;
            }
            pause(&mut random, ORDERS).await;
        }
    }

    async fn place(&self, id: &ClientOrderId, content: &Content, wait: bool) -> bool {
        place(&self.client, &self.known, id, content, wait, &self.events).await
    }

    fn symbol(&self, random: &mut Random) -> Symbol {
        self.symbols[random.below(self.symbols.len() as u64) as usize]
    }
}

async fn pause(random: &mut Random, (from, more): (u64, u64)) {
    sleep(Duration::from_millis(from + random.below(more))).await;
}

fn words(error: &ClientError) -> String {
    match error {
        ClientError::Refused(failure) => failure.reason.code().to_owned(),
        ClientError::NoServer { .. } => "no server".to_owned(),
        ClientError::ConnectionLost { .. } => "connection lost".to_owned(),
        other => other.to_string(),
    }
}
