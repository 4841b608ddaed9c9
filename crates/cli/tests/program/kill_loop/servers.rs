//! Servers that are killed: a master, some workers, and where the master keeps its books. Each has a
//! port or a socket that it comes back to.
//!
//! What is killed and when is decided elsewhere (`mod.rs`).
//!
//! Invariant: nothing that is killed here was started elsewhere.

use std::path::{Path, PathBuf};
use std::time::Duration;

use papertrader_core::time::WallTime;
use papertrader_master::admin::message::NewWorker;
use papertrader_master::admin::{self, AdminRequest};
use papertrader_node::clock::Clock;
use papertrader_node::openpgp::Identity;
use papertrader_store::postgres::PostgresStore;
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{Location, Store, StoreError};

use super::INTERVAL;
use crate::postgres_server::Server;
use crate::process::{Running, command, free_address, is_alive};

/// The database system that keeps the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Books {
    Sqlite,
    /// A server of the loop's own, which can be killed too.
    Postgres,
}

/// What can be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    /// The database server: all its processes.
    Database,
    Master,
    /// From 1.
    Worker(usize),
}

/// A database server, and the name of the database.
pub(crate) struct Database {
    pub(crate) server: Server,
    name: String,
}

impl Database {
    fn start() -> Database {
        let server = Server::start();
        let name = server.database().name;
        Database { server, name }
    }

    pub(crate) fn url(&self) -> String {
        self.server.known(&self.name).url()
    }

    /// A connection past the store.
    pub(crate) fn raw(&self) -> postgres::Client {
        self.server.raw(&self.name)
    }
}

/// How servers are set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) program: &'a Path,
    pub(crate) books: Books,
    /// How many workers.
    pub(crate) workers: usize,
    /// The master's configuration, but for its addresses.
    pub(crate) market: &'a str,
    /// How long clients try again before they are told that nothing is known.
    pub(crate) patience: Duration,
    /// More keys of the workers' configuration.
    pub(crate) worker_keys: &'a str,
    /// Whether the master's event log is heard.
    pub(crate) hears: bool,
}

/// The master, then the workers.
pub(crate) struct Servers {
    program: PathBuf,
    dir: PathBuf,
    hears: bool,
    pub(crate) database: Option<Database>,
    addresses: Vec<String>,
    running: Vec<Running>,
}

fn role(n: usize) -> &'static str {
    if n == 0 { "master" } else { "worker" }
}

fn uuid(n: usize) -> String {
    format!("00000000-0000-4000-8000-00000000000{n}")
}

impl Servers {
    /// All of them, in a directory.
    pub(crate) fn start(setup: &Setup<'_>, dir: &Path) -> Servers {
        let mut servers = Servers::prepare(setup, dir);
        servers.run();
        servers
    }

    /// Writes down how they are set up: nothing runs yet.
    pub(crate) fn prepare(setup: &Setup<'_>, dir: &Path) -> Servers {
        let program = setup.program;
        let database = (setup.books == Books::Postgres).then(Database::start);
        let addresses: Vec<String> = (0..=setup.workers).map(|_| free_address()).collect();
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
        let text = format!(
            "listen = \"{}\"\ndata = \"{}\"\ndatabase = \"{}\"\n{}",
            addresses[0],
            dir.join("data").display(),
            // Nothing stands for a file in the data directory.
            database.as_ref().map(Database::url).unwrap_or_default(),
            setup.market,
        );
        std::fs::write(dir.join("0.toml"), text).expect("it can be written");
        for n in 1..=setup.workers {
            let text = format!(
                "master = \"{}\"\nmaster_certificate = \"{fingerprint}\"\nuuid = \"{}\"\n\
                 listen = \"{}\"\n{}\n[openpgp]\nkey = \"{n}.asc\"\n[log]\nfile = \"{}\"\n",
                addresses[0],
                uuid(n),
                addresses[n],
                setup.worker_keys,
                dir.join(format!("{n}.log")).display(),
            );
            std::fs::write(dir.join(format!("{n}.toml")), text).expect("it can be written");
        }
        Servers {
            program: program.into(),
            dir: dir.into(),
            hears: setup.hears,
            database,
            addresses,
            running: Vec::new(),
        }
    }

    /// Starts the master, then the workers that it gets to know.
    pub(crate) fn run(&mut self) {
        for n in 0..self.addresses.len() {
            if n > 0 {
                self.register(n);
            }
            let running = self.serve(n);
            self.running.push(running);
        }
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
        let mut command = command(&self.program);
        command.arg(role(n)).arg("--config").arg(config);
        if self.hears && n == 0 {
            command.env("PAPERTRADER_MASTER_LOG__STDERR", "true");
        }
        let mut running = Running::start(&mut command);
        running.line_with(" ready on ");
        running
    }

    /// Starts the master again with the interval of the plan, so that market time begins to run
    /// when the users are there.
    pub(crate) fn open_the_market(&mut self) -> Result<(), String> {
        let file = self.dir.join("0.toml");
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let interval = format!("interval = \"{}ms\"", INTERVAL.as_millis());
        std::fs::write(&file, text.replace("interval = \"1h\"", &interval))
            .map_err(|error| error.to_string())?;
        self.running[0].end_by("TERM");
        self.running[0] = self.serve(0);
        Ok(())
    }

    /// As clients name them: each client prefers another worker.
    pub(crate) fn workers(&self) -> Vec<Vec<String>> {
        let from = |first: usize| {
            let mut workers = self.addresses[1..].to_vec();
            workers.rotate_left(first);
            workers
        };
        (0..self.addresses.len() - 1).map(from).collect()
    }

    /// Where the master keeps what is its own.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The master's process.
    pub(crate) fn master(&mut self) -> &mut Running {
        &mut self.running[0]
    }

    /// An error if one has ended that nobody has ended.
    pub(crate) fn all_alive(&self) -> Result<(), String> {
        for (n, running) in self.running.iter().enumerate() {
            if !is_alive(running.id()) {
                return Err(format!("a {} has ended by itself: {running:?}", role(n)));
            }
        }
        Ok(())
    }

    /// Kills these, in order, and starts them again.
    pub(crate) fn kill(&mut self, victims: &[Victim]) {
        for victim in victims {
            self.kill_one(*victim);
        }
        // A master that begins needs its database, and waits for none.
        if victims.contains(&Victim::Database) {
            self.server().run();
        }
        self.serve_again(victims);
    }

    /// Kills one, which stays away.
    pub(crate) fn kill_one(&mut self, victim: Victim) {
        match victim {
            Victim::Database => self.server().kill(),
            Victim::Master => self.running[0].kill(),
            Victim::Worker(n) => self.running[n].kill(),
        }
    }

    /// Starts those again that are away, and waits until they are ready.
    pub(crate) fn serve_again(&mut self, victims: &[Victim]) {
        for victim in victims {
            let n = match victim {
                Victim::Database => continue,
                Victim::Master => 0,
                Victim::Worker(n) => *n,
            };
            self.running[n] = self.serve(n);
        }
    }

    fn server(&mut self) -> &mut Server {
        &mut self.database.as_mut().expect("a database server").server
    }

    /// Adds the books up beside the running master: what was told comes later (`audit.rs`).
    pub(crate) fn verify(&self) -> Result<(), String> {
        let location = match &self.database {
            None => Ok(Location::file(&self.file())),
            Some(database) => Location::server(&database.url()),
        };
        let verified = location
            .and_then(|books| books.verify(&mut |_| std::ops::ControlFlow::Continue(())))
            .map_err(|error| format!("the books cannot be verified: {error}"))?;
        match verified.mismatches.as_slice() {
            [] => Ok(()),
            wrong => Err(format!("the books are wrong: {wrong:?}")),
        }
    }

    /// The books, when the master has ended.
    pub(crate) fn books(&self) -> Result<Box<dyn Store>, StoreError> {
        let none = "never made anew";
        Ok(match &self.database {
            None => Box::new(SqliteStore::open(&self.file(), none)?),
            Some(database) => Box::new(PostgresStore::open(&database.url(), none)?),
        })
    }

    /// Where SQLite has them.
    pub(crate) fn file(&self) -> PathBuf {
        self.data().join("papertrader.db")
    }

    /// Ends all, as an operator does.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        for running in self.running.iter_mut().rev() {
            let status = running.end_by("TERM");
            if !status.success() {
                return Err(format!("a server ended with {status}: {running:?}"));
            }
        }
        Ok(())
    }
}
