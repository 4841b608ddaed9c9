//! The servers that `bench orders`, `quotes`, `mix` and `start` measure: `papertrader up` of this same program,
//! with a data directory of its own, on free ports of this machine.
//!
//! Accounts and sessions are put into the books before the master starts, so that nothing waits for
//! thousands of passwords to be hashed. What is raised beyond the defaults stands in [`raised`].
//!
//! Invariant: the servers end when this is dropped, and when this process ends, however it ends.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use papertrader_core::ids::{AccountId, BatchNumber};
use papertrader_core::money::Cash;
use papertrader_core::time::{DAY, Date, MarketTime, Moment, SECOND, WallTime};
use papertrader_market::{Synthetic, SyntheticConfig};
use papertrader_protocol::{Fingerprint, SessionId};
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{Batch, Change, NewAccount, Profile, SessionKey, Store, StoredSession};
use sha2::{Digest, Sha256};

use super::forwarder::Forwarder;
use super::{BenchError, wrong};

/// Accounts that are opened in one batch.
const CHUNK: usize = 10_000;
/// What each account has, in units: nobody runs out of it.
const GRANT: i64 = 10_000_000_000;

/// Passwords that may wait to be hashed unless more is said.
const QUEUE: usize = 64;

/// Clients that a worker takes unless more is said.
const CLIENTS: usize = 15_000;

/// What is started.
pub(super) struct Size {
    pub(super) connections: usize,
    pub(super) symbols: u32,
    /// Orders that may be open at a time, far more than the defaults allow.
    pub(super) open: Option<usize>,
    pub(super) interval: Duration,
    pub(super) plain: bool,
    /// Threads of the worker that serve clients; 0 for its default.
    pub(super) threads: usize,
    /// Whether a client may ask as fast as it likes.
    pub(super) eager: bool,
    /// Connections from this one address that register and log in; 0 for what a user does.
    pub(super) registering: usize,
}

/// The market that the servers have.
pub(super) fn source(symbols: u32) -> Result<Synthetic, BenchError> {
    let date = Date::parse("2005-01-03");
    let config = SyntheticConfig {
        instruments: symbols as usize,
        seed: 0,
        start: date.ok_or_else(|| wrong("a date that is none"))?,
        step: 60 * SECOND,
    };
    Synthetic::new(config).map_err(wrong)
}

/// Running servers.
pub(super) struct Deployment {
    child: Child,
    /// The servers end when it closes.
    stdin: Option<ChildStdin>,
    pub(super) worker: SocketAddr,
    /// All workers, that one first.
    pub(super) workers: Vec<SocketAddr>,
    /// `None` for plain TCP.
    pub(super) certificate: Option<Fingerprint>,
    pub(super) master_process: u32,
    pub(super) worker_process: u32,
    /// How long the master took from the start of the program until it was ready.
    pub(super) master_took: Duration,
}

/// The settings that are not the defaults, by the environment variables that set them.
pub(super) fn raised(size: &Size) -> BTreeMap<&'static str, String> {
    let mut all = BTreeMap::new();
    let unlimited = "{burst=1,every=\"0s\"}".to_owned();
    if let Some(open) = size.open {
        // A few accounts bring the orders of many people.
        all.insert("PAPERTRADER_MASTER_LIMITS__ORDERS_ACCOUNT", unlimited.clone());
        all.insert("PAPERTRADER_MASTER_TRADING__MAX_OPEN_ORDERS", u32::MAX.to_string());
        all.insert("PAPERTRADER_WORKER_LIMITS__ORDERS", open.to_string());
        all.insert("PAPERTRADER_WORKER_LIMITS__OUTCOMES_PER_CLIENT", open.to_string());
    }
    if size.registering > 0 {
        let address = "{free=30,first=\"1s\",longest=\"1m\",forget=\"0s\"}".to_owned();
        all.insert("PAPERTRADER_MASTER_LIMITS__LOGIN_ADDRESS", address);
        all.insert("PAPERTRADER_MASTER_LIMITS__LOGIN_WORKER", unlimited.clone());
        all.insert("PAPERTRADER_MASTER_LIMITS__REGISTER_ADDRESS", unlimited.clone());
        all.insert("PAPERTRADER_MASTER_LIMITS__REGISTER_WORKER", unlimited);
        if size.registering > QUEUE {
            let queue = size.registering.to_string();
            all.insert("PAPERTRADER_MASTER_LIMITS__PASSWORD_QUEUE", queue);
        }
    }
    if size.connections > 200 {
        let clients = (size.connections + 50).to_string();
        all.insert("PAPERTRADER_WORKER_LIMITS__CLIENTS_PER_ADDRESS", clients.clone());
        if size.connections > CLIENTS {
            all.insert("PAPERTRADER_WORKER_MAX_CLIENTS", clients);
        }
    }
    if size.plain {
        all.insert("PAPERTRADER_WORKER_PLAIN", "true".to_owned());
    }
    if size.threads > 0 {
        all.insert("PAPERTRADER_WORKER_THREADS", size.threads.to_string());
    }
    if size.eager {
        all.insert("PAPERTRADER_WORKER_LIMITS__REQUESTS_PER_SECOND", "0".to_owned());
    }
    all
}

impl Deployment {
    /// Starts the servers in `data` and waits until they are ready.
    pub(super) fn start(data: &Path, size: &Size) -> Result<Deployment, BenchError> {
        Deployment::start_many(data, size, 1, None)
    }

    /// The same with several workers, which reach the master through `between`.
    pub(super) fn start_many(
        data: &Path,
        size: &Size,
        workers: u16,
        between: Option<&Forwarder>,
    ) -> Result<Deployment, BenchError> {
        let mut command = Command::new(std::env::current_exe()?);
        for (name, _) in std::env::vars_os() {
            // What the user has set for other servers is not meant for these.
            if name.to_string_lossy().to_ascii_uppercase().starts_with("PAPERTRADER_") {
                command.env_remove(name);
            }
        }
        if let Some(between) = between {
            command.env("PAPERTRADER_WORKER_MASTER", between.address.to_string());
        }
        let interval = format!("{}ms", size.interval.as_millis());
        let symbols = size.symbols.to_string();
        let begun = Instant::now();
        let mut child = command
            .envs(raised(size))
            .args(["up", "--supervised", "--master-port", "0", "--worker-port", "0"])
            .args(["--workers", &workers.to_string(), "--source", "synthetic"])
            .args(["--instruments", &symbols, "--interval", &interval])
            .arg("--data")
            .arg(data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let mut made = Deployment {
            child,
            stdin,
            worker: SocketAddr::from(([127, 0, 0, 1], 0)),
            workers: vec![SocketAddr::from(([127, 0, 0, 1], 0)); workers.into()],
            certificate: None,
            master_process: 0,
            worker_process: 0,
            master_took: Duration::ZERO,
        };
        let stdout = stdout.ok_or_else(|| wrong("the servers have no output"))?;
        let mut lines = BufReader::new(stdout).lines();
        made.await_ready(&mut lines, size.plain, begun, between)?;
        // What they still say must be taken, or they could not say it.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(made)
    }

    fn await_ready(
        &mut self,
        lines: &mut Lines<BufReader<ChildStdout>>,
        plain: bool,
        begun: Instant,
        between: Option<&Forwarder>,
    ) -> Result<(), BenchError> {
        let mut said = Vec::new();
        for line in lines {
            let line = line?;
            if let Some((address, process)) = address_and_process(&line, "master ready on ") {
                self.master_process = process;
                self.master_took = begun.elapsed();
                if let Some(between) = between {
                    between.lead_to(address);
                }
            } else if let Some((number, address, process)) = worker_ready(&line) {
                if number == 1 {
                    self.worker = address;
                    self.worker_process = process;
                }
                if let Some(place) = self.workers.get_mut(number - 1) {
                    *place = address;
                }
            } else if let Some(hex) = line.trim().strip_prefix("certificate ") {
                // Only the first worker's clients need it.
                if !plain && self.certificate.is_none() {
                    self.certificate = hex.parse().ok();
                }
            } else if line.starts_with("ready ") {
                if self.workers.iter().any(|worker| worker.port() == 0)
                    || plain == self.certificate.is_some()
                {
                    break;
                }
                return Ok(());
            }
            said.push(line);
        }
        Err(wrong(format!("the servers did not start: {}", said.join("; "))))
    }

    /// Ends the servers, the worker first.
    pub(super) fn end(mut self) -> Result<(), BenchError> {
        self.stdin = None;
        let status = self.child.wait()?;
        if !status.success() {
            return Err(wrong(format!("the servers ended badly ({status})")));
        }
        Ok(())
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }
}

/// `worker-N ready on ADDRESS (process NUMBER)`
fn worker_ready(line: &str) -> Option<(usize, SocketAddr, u32)> {
    let (number, _) = line.strip_prefix("worker-")?.split_once(' ')?;
    let number = number.parse().ok().filter(|number| *number > 0)?;
    let (address, process) = address_and_process(line, &format!("worker-{number} ready on "))?;
    Some((number, address, process))
}

/// `PREFIX ADDRESS (process NUMBER)`
fn address_and_process(line: &str, prefix: &str) -> Option<(SocketAddr, u32)> {
    let (address, process) = line.strip_prefix(prefix)?.split_once(" (process ")?;
    Some((address.parse().ok()?, process.strip_suffix(')')?.parse().ok()?))
}

/// The books of the servers in `data`, made if there are none.
pub(super) fn books(data: &Path) -> Result<SqliteStore, BenchError> {
    let directory = data.join("master");
    // As `up` makes it: its owner's alone.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    let deployment = uuid::Uuid::new_v4().to_string();
    Ok(SqliteStore::open(&directory.join("papertrader.db"), &deployment)?)
}

/// Opens so many sessions of each account in the books in `data`, the accounts in turn.
pub(super) fn open_sessions(
    store: &mut SqliteStore,
    accounts: u32,
    each: usize,
) -> Result<Vec<(AccountId, SessionId)>, BenchError> {
    let mut number = store.last_batch()?.0;
    let mut wall = now();
    let (mut sessions, mut changes) = (Vec::new(), Vec::new());
    let all = accounts as usize * each;
    for account in (0..each).flat_map(|_| (1..=accounts).map(AccountId)) {
        let session = SessionId::from_bytes(uuid::Uuid::new_v4().into_bytes());
        changes.push(start_session(account, session, WallTime(wall)));
        sessions.push((account, session));
        if changes.len() >= CHUNK || sessions.len() == all {
            number += 1;
            wall += 1;
            let changes = std::mem::take(&mut changes);
            let batch = Batch { number: BatchNumber(number), wall: WallTime(wall), changes };
            store.commit(&batch)?;
        }
    }
    Ok(sessions)
}

/// Opens accounts in new books in `data`, each with a session.
pub(super) fn seed(data: &Path, accounts: usize) -> Result<Vec<SessionId>, BenchError> {
    let mut store = books(data)?;
    let mut wall = now();
    let grant = Cash::from_units(GRANT).ok_or_else(|| wrong("a grant that is too large"))?;
    let (mut sessions, mut changes, mut number) = (Vec::new(), Vec::new(), 0);
    for n in 1..=accounts {
        let id = AccountId(u32::try_from(n).map_err(wrong)?);
        wall += 1;
        let since = WallTime(wall);
        let profile = Profile {
            name: format!("trader-{n}").parse().map_err(wrong)?,
            email: format!("{n}@example.org").parse().map_err(wrong)?,
            pass_hash: None,
            password_due: false,
            since,
        };
        let moment = Moment { wall: since, market: MarketTime(0) };
        changes.push(Change::OpenAccount(NewAccount { id, profile, grant, moment }));
        let session = SessionId::from_bytes(uuid::Uuid::new_v4().into_bytes());
        changes.push(start_session(id, session, since));
        sessions.push(session);
        if changes.len() >= CHUNK || n == accounts {
            number += 1;
            wall += 1;
            let changes = std::mem::take(&mut changes);
            let batch = Batch { number: BatchNumber(number), wall: WallTime(wall), changes };
            store.commit(&batch)?;
        }
    }
    Ok(sessions)
}

/// A session that lasts for a day, as the master stores it.
fn start_session(account: AccountId, session: SessionId, since: WallTime) -> Change {
    Change::StartSession(StoredSession {
        // As the master looks it up.
        key: SessionKey(Sha256::digest(session.bytes()).into()),
        account,
        expires: since.plus_nanos(DAY),
        expirable: false,
        client: [127, 0, 0, 1].into(),
        started: since,
        used: since,
    })
}

/// Wall time, in nanoseconds.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
