//! Clients trade while servers are killed with SIGKILL at random moments and started again; at the
//! end everything that a client was told is compared with what is stored.
//!
//! A seed fixes what is asked and when is killed, as far as one process can: the interleaving of
//! several is the machine's. What it holds the program to stands in `knowledge.rs` (what one
//! client may never be told) and `audit.rs` (what must be stored).

pub(crate) mod audit;
pub(crate) mod knowledge;
pub(crate) mod trader;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use papertrader_core::time::WallTime;
use papertrader_master::admin::message::NewWorker;
use papertrader_master::admin::{self, AdminRequest};
use papertrader_node::clock::Clock;
use papertrader_node::openpgp::Identity;

use crate::process::{Running, command, free_address};
use knowledge::{Event, Known};

/// Users, each with clients on two workers.
const USERS: usize = 4;
/// Tasks of each user that place orders at the same time.
const TASKS: usize = 3;
/// Prices change and orders are settled so often.
const INTERVAL: Duration = Duration::from_millis(100);

/// What to do.
pub(crate) struct Plan<'a> {
    /// The `papertrader` to kill.
    pub(crate) program: &'a Path,
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
        self.master_kills + self.worker_kills
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "kills {}: {} of the master, {} of workers\n\
             orders: {}, acknowledged {}, unanswered {} (stored {}, absent {}), sent again {}\n\
             outcomes: filled {}, rejected {}, cancelled {}, expired {}, still queued {}\n\
             splits booked: {}, batches: {}",
            self.kills(),
            self.master_kills,
            self.worker_kills,
            self.orders,
            self.acknowledged,
            self.unanswered_stored + self.unanswered_absent,
            self.unanswered_stored,
            self.unanswered_absent,
            self.repeated,
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
    let mut random = Random::new(plan.seed);
    let mut servers = Servers::start(plan.program, dir);
    let known = Arc::new(Known::default());
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let (events, heard) = channel();
    let workers = servers.workers();
    // The second client prefers the other worker.
    let each = [workers.clone(), workers.iter().rev().cloned().collect()];
    let mut users = Vec::new();
    for number in 0..USERS {
        let user = runtime.block_on(trader::user(number, &each));
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
    drop(events);

    let mut counts = Counts::default();
    for round in 1..=plan.rounds {
        for victim in servers.round(&mut random, &heard)? {
            match victim {
                0 => counts.master_kills += 1,
                _ => counts.worker_kills += 1,
            }
        }
        known.contradictions()?;
        if plan.talk && (round % 10 == 0 || round == plan.rounds) {
            println!("round {round}: {} orders", known.count());
        }
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        runtime.block_on(task).map_err(|error| format!("a trader failed: {error}"))?;
    }
    known.contradictions()?;
    // Nothing is killed any more: whatever is asked now must be answered.
    runtime.block_on(trader::ask_about_all(&users, &known, &mut counts))?;
    known.contradictions()?;
    drop(users);
    servers.end()?;
    audit::audit(&dir.join("data/papertrader.db"), &known, &mut counts)?;
    Ok(counts)
}

/// The master, then the workers.
struct Servers {
    program: PathBuf,
    dir: PathBuf,
    addresses: Vec<String>,
    running: Vec<Running>,
}

fn uuid(n: usize) -> String {
    format!("00000000-0000-4000-8000-00000000000{n}")
}

const ROLES: [&str; 3] = ["master", "worker", "worker"];

impl Servers {
    fn start(program: &Path, dir: &Path) -> Servers {
        let addresses: Vec<String> = ROLES.iter().map(|_| free_address()).collect();
        let init = |role: &str, more: &[&str]| {
            let output = command(program).args(["init", role]).arg(dir).args(more).output();
            let output = output.expect("init runs");
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).expect("text")
        };
        let said = init("master", &[]);
        let fingerprint =
            said.split("--fingerprint ").nth(1).and_then(|rest| rest.split_whitespace().next());
        let fingerprint = fingerprint.expect("a fingerprint");
        // A split comes after the first market day, which lasts 14 intervals. The traders never rest,
        // and in the end ask for all orders again.
        let text = format!(
            "listen = \"{}\"\ndata = \"{}\"\ninterval = \"1h\"\nstarting_cash = \"20000.00\"\n\
             [prices]\nstart = \"2005-02-25\"\n\
             [limits]\norders_account = {{ burst = 1, every = \"0s\" }}\n",
            addresses[0],
            dir.join("data").display(),
        );
        std::fs::write(dir.join("0.toml"), text).expect("it can be written");
        for n in 1..ROLES.len() {
            let text = format!(
                "master = \"{}\"\nmaster_certificate = \"{fingerprint}\"\nuuid = \"{}\"\n\
                 listen = \"{}\"\n[openpgp]\nkey = \"{n}.asc\"\n[log]\nfile = \"{}\"\n",
                addresses[0],
                uuid(n),
                addresses[n],
                dir.join(format!("{n}.log")).display(),
            );
            std::fs::write(dir.join(format!("{n}.toml")), text).expect("it can be written");
        }
        let mut servers =
            Servers { program: program.into(), dir: dir.into(), addresses, running: Vec::new() };
        for n in 0..ROLES.len() {
            if n > 0 {
                servers.register(n);
            }
            let running = servers.serve(n);
            servers.running.push(running);
        }
        servers
    }

    /// Makes a worker's key and has the master know it.
    fn register(&self, n: usize) {
        let now = Clock::system(WallTime(0)).now();
        let key = Identity::generate(&format!("worker {n}"), now).expect("a key");
        let secret = key.to_armored_secret(None).expect("a key");
        std::fs::write(self.dir.join(format!("{n}.asc")), secret).expect("it can be written");
        let worker = NewWorker {
            name: n.to_string(),
            uuid: Some(uuid(n)),
            key: key.certificate().to_bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
            addresses: vec!["127.0.0.1".into()],
        };
        let mut master = admin::Client::connect(&self.dir.join("data")).expect("the socket");
        master.ask(&AdminRequest::AddWorker(worker)).expect("it is registered");
    }

    /// Starts one and waits until it is ready.
    fn serve(&self, n: usize) -> Running {
        let config = self.dir.join(format!("{n}.toml"));
        let mut running =
            Running::start(command(&self.program).arg(ROLES[n]).arg("--config").arg(config));
        running.line_with(" ready on ");
        running
    }

    /// Starts the master again with the interval of the plan, so that market time begins to run
    /// when the users are there.
    fn open_the_market(&mut self) -> Result<(), String> {
        let file = self.dir.join("0.toml");
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let interval = format!("interval = \"{}ms\"", INTERVAL.as_millis());
        std::fs::write(&file, text.replace("interval = \"1h\"", &interval))
            .map_err(|error| error.to_string())?;
        self.running[0].end_by("TERM");
        self.running[0] = self.serve(0);
        Ok(())
    }

    /// As clients name them.
    fn workers(&self) -> Vec<String> {
        self.addresses[1..].to_vec()
    }

    /// Waits for a moment, kills some, starts them again, and says which.
    fn round(
        &mut self,
        random: &mut Random,
        heard: &Receiver<Event>,
    ) -> Result<Vec<usize>, String> {
        // What is left from the round before does not count.
        while heard.try_recv().is_ok() {}
        let worker = 1 + random.below(2) as usize;
        let victims = match random.below(6) {
            0 => vec![worker],
            // What a worker keeps for a master that is away is gone with it.
            1 => vec![0, worker],
            _ => vec![0],
        };
        let wanted = [Event::Sent, Event::Acknowledged, Event::Decided][random.below(3) as usize];
        let mut left = 1 + random.below(150);
        while left > 0 {
            let event = heard
                .recv_timeout(Duration::from_secs(120))
                .map_err(|_| "the traders have stopped trading".to_owned())?;
            left -= u64::from(event == wanted);
        }
        if random.below(2) == 0 {
            // A moment that no event marks: inside a commit, a settlement, an answer.
            let most = INTERVAL.as_micros() as u64;
            std::thread::sleep(Duration::from_micros(random.below(most)));
        }
        for victim in &victims {
            self.running[*victim].kill();
        }
        for victim in &victims {
            self.running[*victim] = self.serve(*victim);
        }
        Ok(victims)
    }

    /// Ends all, as an operator does.
    fn end(&mut self) -> Result<(), String> {
        for running in self.running.iter_mut().rev() {
            let status = running.end_by("TERM");
            if !status.success() {
                return Err(format!("a server ended with {status}: {running:?}"));
            }
        }
        Ok(())
    }
}

/// Numbers that a seed chooses (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0, less than `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn child(&mut self) -> Random {
        Random(self.next())
    }
}
