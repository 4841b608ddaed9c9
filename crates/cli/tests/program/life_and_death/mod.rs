//! Life and death of servers under clients that trade: workers are killed with SIGKILL and started
//! again, the master is ended and killed, and after each event it is measured how long every client
//! takes until something that it began after the event has succeeded.
//!
//! It asserts no time: it waits until every client goes on, and says how long that took. In the end
//! every order is accounted for as the kill loop does it (`kill_loop/audit.rs`), and the books are added
//! up by `papertrader admin verify`.
//!
//! Invariant: an operation counts for an event only if it began when the killed process was gone, and
//! its time is counted from before the signal.

pub(crate) mod life;
pub(crate) mod seeding;
pub(crate) mod stopwatch;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::kill_loop::audit::audit_store;
use crate::kill_loop::knowledge::Known;
use crate::kill_loop::servers::{Books, Servers, Setup, Victim};
use crate::kill_loop::trader::{PATIENCE, User, ask_about_all};
use crate::kill_loop::{Counts, Random};
use crate::process::command;
use life::Life;
use stopwatch::{Stopwatch, Times};

/// Workers, of which all but one are dead at times.
const WORKERS: usize = 3;
/// Clients that connect at the same time at the start.
const AT_ONCE: usize = 64;
/// Prices that change each second and never end.
const MARKET: &str = "interval = \"1s\"\n\
     [prices]\nsource = \"synthetic\"\ninstruments = 4\nstep = \"1m\"\n\
     [limits]\norders_account = { burst = 1, every = \"0s\" }\n";

/// What to do.
pub(crate) struct Plan<'a> {
    /// The `papertrader` to start.
    pub(crate) program: &'a Path,
    pub(crate) clients: usize,
    /// Chooses everything that is chosen.
    pub(crate) seed: u64,
    /// Whether to say how it goes.
    pub(crate) talk: bool,
}

/// What happened at one event.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) event: &'static str,
    /// How long the server that was started was not ready, if one was.
    pub(crate) away_ms: Option<u64>,
    pub(crate) times: Times,
    /// Clients by server, in the order of the workers, when all had gone on.
    pub(crate) clients: Vec<usize>,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) counts: Counts,
    /// What clients were told when a quote did not succeed, by its words.
    pub(crate) failed_quotes: BTreeMap<String, usize>,
    pub(crate) quotes: usize,
}

/// Runs the plan. The error names everything that does not agree, and the seed.
pub(crate) fn run(plan: &Plan<'_>) -> Result<Report, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let report = run_in(plan, dir.path());
    if report.is_err() {
        // The books are the evidence.
        let kept = dir.keep();
        eprintln!("the data is kept in {}", kept.display());
    }
    report.map_err(|problem| format!("seed {}: {problem}", plan.seed))
}

fn run_in(plan: &Plan<'_>, dir: &Path) -> Result<Report, String> {
    let mut scene = Scene::start(plan, dir)?;
    let mut rows = Vec::new();
    for event in EVENTS {
        let row = scene.happens(event)?;
        if plan.talk {
            println!("{}", row.line());
        }
        rows.push(row);
    }
    scene.end(plan, rows)
}

/// What happens to the servers.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// Nothing: what is measured is how often a client asks.
    Calm,
    Kill(usize),
    Start(&'static [usize]),
    /// Ended as an operator does it, and started again.
    RestartMaster,
    KillMaster,
}

const EVENTS: [Event; 11] = [
    Event::Calm,
    Event::Kill(1),
    Event::Calm,
    Event::Kill(2),
    Event::Start(&[1, 2]),
    Event::Calm,
    Event::RestartMaster,
    Event::KillMaster,
    Event::Calm,
    Event::Kill(3),
    Event::Start(&[3]),
];

impl Event {
    fn name(self) -> &'static str {
        match self {
            Event::Calm => "nothing happens",
            Event::Kill(1) => "kill -9 worker 1",
            Event::Kill(2) => "kill -9 worker 2",
            Event::Kill(_) => "kill -9 worker 3",
            Event::Start([_, _]) => "start workers 1 and 2",
            Event::Start(_) => "start worker 3",
            Event::RestartMaster => "restart the master",
            Event::KillMaster => "kill -9 the master, start it",
        }
    }
}

/// Servers, and clients that trade through them until the end.
struct Scene {
    servers: Servers,
    runtime: Runtime,
    users: Vec<User>,
    known: Arc<Known>,
    stopwatch: Arc<Stopwatch>,
    stop: Arc<AtomicBool>,
    lives: JoinSet<()>,
}

impl Scene {
    fn start(plan: &Plan<'_>, dir: &Path) -> Result<Scene, String> {
        let limit = format!("[limits]\nclients_per_address = {}\n", plan.clients + 50);
        let setup = Setup {
            program: plan.program,
            books: Books::Sqlite,
            workers: WORKERS,
            market: MARKET,
            patience: PATIENCE,
            worker_keys: &limit,
            hears: false,
        };
        let mut servers = Servers::prepare(&setup, dir);
        let sessions = seeding::seed(&servers.data(), plan.clients)?;
        servers.run();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let mut random = Random::new(plan.seed);
        let users = runtime.block_on(life::connect_all(
            &servers.workers(),
            sessions,
            AT_ONCE,
            &mut random,
        ))?;
        let known = Arc::new(Known::default());
        let stop = Arc::new(AtomicBool::new(false));
        let stopwatch = Arc::new(Stopwatch::new(users.len()));
        let mut lives = JoinSet::new();
        for user in &users {
            let (quotes, orders) = (random.child(), random.child());
            let (known, stopwatch) = (Arc::clone(&known), Arc::clone(&stopwatch));
            let life = Arc::new(Life::new(user, known, stopwatch, Arc::clone(&stop)));
            lives.spawn_on(Arc::clone(&life).ask_quotes(quotes), runtime.handle());
            lives.spawn_on(life.place_orders(orders), runtime.handle());
        }
        Ok(Scene { servers, runtime, users, known, stopwatch, stop, lives })
    }

    /// Lets something happen, and waits until every client has gone on.
    fn happens(&mut self, event: Event) -> Result<Row, String> {
        let at = Instant::now();
        let away_ms = match event {
            Event::Calm => {
                self.stopwatch.begin(at);
                None
            }
            Event::Kill(n) => {
                self.servers.kill_one(Victim::Worker(n));
                self.stopwatch.begin(at);
                None
            }
            Event::Start(workers) => {
                self.stopwatch.begin(at);
                let workers: Vec<Victim> = workers.iter().map(|n| Victim::Worker(*n)).collect();
                self.servers.serve_again(&workers);
                Some(at)
            }
            Event::RestartMaster => {
                let status = self.servers.master().end_by("TERM");
                if !status.success() {
                    return Err(format!("the master ended with {status}"));
                }
                self.stopwatch.begin(at);
                self.servers.serve_again(&[Victim::Master]);
                Some(at)
            }
            Event::KillMaster => {
                self.servers.kill_one(Victim::Master);
                self.stopwatch.begin(at);
                self.servers.serve_again(&[Victim::Master]);
                Some(at)
            }
        };
        let away_ms = away_ms.map(|at| at.elapsed().as_millis() as u64);
        let times = self.stopwatch.all_have_gone_on(event.name())?;
        self.known.contradictions()?;
        let workers = self.servers.workers().swap_remove(0);
        let mut clients = vec![0; workers.len()];
        for user in &self.users {
            let server = user.clients[0].server();
            if let Some(n) = workers.iter().position(|worker| *worker == server) {
                clients[n] += 1;
            }
        }
        Ok(Row { event: event.name(), away_ms, times, clients })
    }

    /// Lets the clients end, asks about every order, adds the books up beside the master and after
    /// it, and compares all that was told with what is stored.
    fn end(mut self, plan: &Plan<'_>, rows: Vec<Row>) -> Result<Report, String> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.runtime.block_on(self.lives.join_next()) {
            ended.map_err(|error| format!("a client failed: {error}"))?;
        }
        self.servers.all_alive()?;
        let mut counts = Counts::default();
        self.runtime.block_on(ask_about_all(&self.users, &self.known, &mut counts))?;
        self.known.contradictions()?;
        self.users.clear();
        verify(plan.program, &self.servers.data())?;
        self.servers.end()?;
        for row in &rows {
            counts.worker_kills += u32::from(row.event.starts_with("kill -9 worker"));
            counts.master_kills += u32::from(row.event.starts_with("kill -9 the master"));
        }
        counts.refused = self.known.refused();
        let mut books = self.servers.books().map_err(|error| error.to_string())?;
        audit_store(books.as_mut(), &self.known, &mut counts)?;
        let (quotes, failed_quotes) = self.stopwatch.quotes();
        Ok(Report { rows, counts, failed_quotes, quotes })
    }
}

/// `papertrader admin verify`, beside the running master.
fn verify(program: &Path, data: &Path) -> Result<(), String> {
    let mut verify: Command = command(program);
    let output = verify.args(["admin", "verify", "--data"]).arg(data).output();
    let output = output.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.success() && said.contains("the books are right") {
        true => Ok(()),
        false => Err(format!("admin verify: {output:?}")),
    }
}

impl Row {
    /// A line of the table.
    pub(crate) fn line(&self) -> String {
        let away = self.away_ms.map(|millis| format!("{millis}")).unwrap_or_default();
        let clients: Vec<String> = self.clients.iter().map(usize::to_string).collect();
        format!(
            "{:<28} {:>6}  {}  {}  {}",
            self.event,
            away,
            self.times.quotes.columns(),
            self.times.orders.columns(),
            clients.join("/"),
        )
    }
}
