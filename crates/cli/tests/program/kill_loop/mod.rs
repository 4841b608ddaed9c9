//! Clients trade while servers are killed with SIGKILL at random moments and started again; at the
//! end everything that a client was told is compared with what is stored.
//!
//! A seed fixes what is asked and when is killed, as far as one process can: the interleaving of
//! several is the machine's. What it holds the program to stands in `knowledge.rs` (what one
//! client may never be told) and `audit.rs` (what must be stored).

pub(crate) mod audit;
pub(crate) mod knowledge;
pub(crate) mod servers;
pub(crate) mod trader;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use knowledge::{Event, Known};
use servers::{Books, Servers, Setup, Victim};
use trader::User;

/// Users, each with clients on two workers.
const USERS: usize = 4;
/// Tasks of each user that place orders at the same time.
const TASKS: usize = 3;
/// Prices change and orders are settled so often.
const INTERVAL: Duration = Duration::from_millis(100);

/// A split comes after the first market day, which lasts 14 intervals. The traders never rest, and in
/// the end ask for all orders again.
pub(crate) const MARKET: &str = "interval = \"1h\"\nstarting_cash = \"20000.00\"\n\
     [prices]\nstart = \"2005-02-25\"\n\
     [limits]\norders_account = { burst = 1, every = \"0s\" }\n";

/// What to do.
pub(crate) struct Plan<'a> {
    /// The `papertrader` to kill.
    pub(crate) program: &'a Path,
    /// Where the master keeps its books.
    pub(crate) books: Books,
    /// Chooses everything that is chosen.
    pub(crate) seed: u64,
    /// How often something is killed.
    pub(crate) rounds: u32,
    /// Whether to say how it goes.
    pub(crate) talk: bool,
}

/// What has happened.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) master_kills: u32,
    pub(crate) worker_kills: u32,
    /// Of the database server.
    pub(crate) database_kills: u32,
    /// Orders that clients have tried to place.
    pub(crate) orders: usize,
    /// Those that a server has answered for before the end.
    pub(crate) acknowledged: usize,
    /// Those that nobody answered for, and that were stored all the same.
    pub(crate) unanswered_stored: usize,
    /// Those that nobody answered for, and that were not stored.
    pub(crate) unanswered_absent: usize,
    /// Times that an order was sent again under its ID.
    pub(crate) repeated: usize,
    /// Answers that say nothing of the order, by their words.
    pub(crate) refused: BTreeMap<String, usize>,
    pub(crate) filled: usize,
    pub(crate) rejected: usize,
    pub(crate) cancelled: usize,
    pub(crate) expired: usize,
    pub(crate) queued: usize,
    /// Journal entries for splits.
    pub(crate) splits: usize,
    /// Batches that were committed.
    pub(crate) batches: u64,
}

impl Counts {
    /// How often a server was killed.
    pub(crate) fn kills(&self) -> u32 {
        self.master_kills + self.worker_kills + self.database_kills
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "kills {}: {} of the master, {} of workers, {} of the database server\n\
             orders: {}, acknowledged {}, unanswered {} (stored {}, absent {}), sent again {}\n\
             answers that leave an order open: {:?}\n\
             outcomes: filled {}, rejected {}, cancelled {}, expired {}, still queued {}\n\
             splits booked: {}, batches: {}",
            self.kills(),
            self.master_kills,
            self.worker_kills,
            self.database_kills,
            self.orders,
            self.acknowledged,
            self.unanswered_stored + self.unanswered_absent,
            self.unanswered_stored,
            self.unanswered_absent,
            self.repeated,
            self.refused,
            self.filled,
            self.rejected,
            self.cancelled,
            self.expired,
            self.queued,
            self.splits,
            self.batches,
        )
    }
}

/// Runs the plan. The error names every contradiction, and the seed.
pub(crate) fn run(plan: &Plan<'_>) -> Result<Counts, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let counts = run_in(plan, dir.path());
    if counts.is_err() {
        // The books are the evidence.
        let kept = dir.keep();
        eprintln!("the data is kept in {}", kept.display());
    }
    counts.map_err(|problem| format!("seed {}: {problem}", plan.seed))
}

fn run_in(plan: &Plan<'_>, dir: &Path) -> Result<Counts, String> {
    let setup = Setup {
        program: plan.program,
        books: plan.books,
        workers: 2,
        market: MARKET,
        patience: trader::PATIENCE,
        worker_keys: "",
        hears: false,
    };
    let mut scene = Scene::start(&setup, dir, plan.seed)?;
    let counts = kill(plan, &mut scene).and_then(|counts| scene.end(counts));
    if counts.is_err()
        && let Some(database) = &mut scene.servers.database
    {
        let kept = database.server.keep();
        eprintln!("the database server's files are kept in {}", kept.display());
    }
    counts
}

fn kill(plan: &Plan<'_>, scene: &mut Scene) -> Result<Counts, String> {
    let mut counts = Counts::default();
    for round in 1..=plan.rounds {
        for victim in scene.round(plan.books)? {
            match victim {
                Victim::Database => counts.database_kills += 1,
                Victim::Master => counts.master_kills += 1,
                Victim::Worker(_) => counts.worker_kills += 1,
            }
        }
        scene.known.contradictions()?;
        scene.servers.verify()?;
        if plan.talk && (round % 10 == 0 || round == plan.rounds) {
            println!("round {round}: {} orders", scene.known.count());
        }
    }
    Ok(counts)
}

/// Servers, and clients that trade through them until the end.
pub(crate) struct Scene {
    pub(crate) servers: Servers,
    pub(crate) known: Arc<Known>,
    random: Random,
    runtime: Runtime,
    users: Vec<User>,
    heard: Receiver<Event>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Scene {
    /// All of it, in a directory.
    pub(crate) fn start(setup: &Setup<'_>, dir: &Path, seed: u64) -> Result<Scene, String> {
        let mut random = Random::new(seed);
        let mut servers = Servers::start(setup, dir);
        let known = Arc::new(Known::default());
        let stop = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let (events, heard) = channel();
        let each = servers.workers();
        let mut users = Vec::new();
        for number in 0..USERS {
            let user = runtime.block_on(trader::user_with(number, &each, setup.patience));
            users.push(user.map_err(|error| format!("a user cannot log in: {error}"))?);
        }
        servers.open_the_market()?;
        let mut tasks = Vec::new();
        for user in &users {
            for task in 0..TASKS {
                let random = random.child();
                let (known, stop) = (Arc::clone(&known), Arc::clone(&stop));
                let trader = trader::Trader::new(user, task, random, known, events.clone());
                tasks.push(runtime.spawn(trader.trade(stop)));
            }
        }
        Ok(Scene { servers, known, random, runtime, users, heard, stop, tasks })
    }

    /// Waits until so many more of these have happened.
    pub(crate) fn until(&self, wanted: Event, count: u64) -> Result<(), String> {
        // What is left from before does not count.
        while self.heard.try_recv().is_ok() {}
        let mut left = count;
        while left > 0 {
            let event = self
                .heard
                .recv_timeout(Duration::from_secs(120))
                .map_err(|_| format!("the traders have stopped trading: no more {wanted:?}"))?;
            left -= u64::from(event == wanted);
        }
        Ok(())
    }

    /// Waits for a moment, kills some, starts them again, and says which.
    fn round(&mut self, books: Books) -> Result<Vec<Victim>, String> {
        let random = &mut self.random;
        let worker = Victim::Worker(1 + random.below(2) as usize);
        let kinds = match books {
            Books::Sqlite => 6,
            Books::Postgres => 10,
        };
        let victims = match random.below(kinds) {
            0 => vec![worker],
            // What a worker keeps for a master that is away is gone with it.
            1 => vec![Victim::Master, worker],
            2..6 => vec![Victim::Master],
            // The master goes on, and its database comes back.
            6..8 => vec![Victim::Database],
            8 => vec![Victim::Database, Victim::Master],
            _ => vec![Victim::Master, Victim::Database, worker],
        };
        let wanted = [Event::Sent, Event::Acknowledged, Event::Decided][random.below(3) as usize];
        let count = 1 + random.below(150);
        // A moment that no event marks: inside a commit, a settlement, an answer.
        let more = (random.below(2) == 0).then(|| random.below(INTERVAL.as_micros() as u64));
        self.until(wanted, count)?;
        if let Some(more) = more {
            std::thread::sleep(Duration::from_micros(more));
        }
        self.servers.all_alive()?;
        self.servers.kill(&victims);
        Ok(victims)
    }

    /// Gives each user new clients that wait for their answers, now that there is no trouble any more.
    pub(crate) fn be_patient(&mut self) -> Result<(), String> {
        let each = self.servers.workers();
        for user in &mut self.users {
            let patient = self.runtime.block_on(user.patient(&each));
            *user = patient.map_err(|error| format!("a user cannot come back: {error}"))?;
        }
        Ok(())
    }

    /// Lets the traders end, asks about every order, ends the servers, and compares all that was told
    /// with what is stored. Nothing may be in trouble any more.
    pub(crate) fn end(&mut self, mut counts: Counts) -> Result<Counts, String> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            self.runtime.block_on(task).map_err(|error| format!("a trader failed: {error}"))?;
        }
        self.known.contradictions()?;
        // Whatever is asked now must be answered.
        self.runtime.block_on(trader::ask_about_all(&self.users, &self.known, &mut counts))?;
        self.known.contradictions()?;
        self.users.clear();
        self.servers.all_alive()?;
        self.servers.end()?;
        counts.refused = self.known.refused();
        let mut books = self.servers.books().map_err(|error| error.to_string())?;
        audit::audit_store(books.as_mut(), &self.known, &mut counts)?;
        Ok(counts)
    }
}

/// Numbers that a seed chooses (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0, less than `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn child(&mut self) -> Random {
        Random(self.next())
    }
}
