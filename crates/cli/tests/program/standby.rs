//! A standby master, with real processes and a PostgreSQL server of the test's own: clients place
//! orders without a pause while the active master is killed, stopped or told to end, and in the end all
//! that they were told is compared with what is stored.
//!
//! How long a take-over takes is printed, not asserted.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use papertrader_store::postgres::PostgresStore;
use tokio::task::JoinHandle;

use crate::cli::{Done, program};
use crate::kill_loop::audit::audit_store;
use crate::kill_loop::knowledge::{Event, Known};
use crate::kill_loop::trader::{Trader, User, ask_about_all, user};
use crate::kill_loop::{Counts, Random};
use crate::place::{Place, edit, serve};
use crate::postgres_server::{Database, Server};
use crate::process::{Running, address, free_address, signal};

/// Tasks that place orders at the same time.
const TASKS: usize = 4;

/// Two masters on one database and a worker that knows both.
struct Pair {
    place: Place,
    /// The configurations of the masters.
    masters: [PathBuf; 2],
    database: Database<'static>,
    worker: Running,
    worker_address: String,
}

impl Pair {
    /// The pair, and its processes: the active master, and the standby.
    fn start() -> (Pair, Running, Running) {
        let database = Server::shared().database();
        let url = database.url();
        Pair::start_on(database, &url)
    }

    /// The same; the active master reaches the database at a URL of its own.
    fn start_on(database: Database<'static>, url: &str) -> (Pair, Running, Running) {
        let place = Place::new();
        place.edit_master("#database = \"\"", &format!("database = \"{}\"", database.url()));
        place.edit_master("#standby = false", "standby = true");
        place.edit_master(
            "#orders_account = { burst = 1000, every = \"20ms\" }",
            "orders_account = { burst = 1, every = \"0s\" }",
        );
        // The standby is a copy: it has the same keys.
        let second = place.path("s");
        let copied = Command::new("cp").arg("-a").args([place.path("m"), second.clone()]).status();
        assert!(copied.unwrap().success());
        let second = second.join("master.toml");
        let elsewhere = free_address();
        edit(&second, &place.master_address(), &elsewhere);
        edit(&place.master, &database.url(), url);
        let masters = [place.master.clone(), second];
        let mut active = serve("master", &masters[0]);
        active.line_with("master ready on ");
        let standby = wait_beside(&masters[1], &active);
        let worker = place.worker("east", &["--master", &elsewhere]);
        let mut worker = serve("worker", &worker);
        let worker_address = address(&worker.line_with("worker ready on "));
        (Pair { place, masters, database, worker, worker_address }, active, standby)
    }

    /// Ends what runs, and compares what is stored with what was told.
    fn end(mut self, mut active: Running, known: &Known, mut counts: Counts) {
        for running in [&mut self.worker, &mut active] {
            assert_eq!(running.end_by("TERM").code(), Some(0), "{running:?}");
        }
        let mut store = PostgresStore::open(&self.database.url(), "never made anew").unwrap();
        audit_store(&mut store, known, &mut counts).unwrap_or_else(|problem| panic!("{problem}"));
        assert!(counts.acknowledged > 20 && counts.filled > 20, "{counts}");
        // The prices went on where they had stopped.
        let sql = "SELECT count(*) FILTER (WHERE market <= before), count(*), max(number)
                   FROM (SELECT number, market, lag(market) OVER (ORDER BY number) AS before
                         FROM snapshot) AS each";
        let row = self.database.raw().query_one(sql, &[]).unwrap();
        let (back, snapshots, last): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        assert_eq!((back, snapshots), (0, last));
    }
}

/// Starts a master that finds another one.
fn wait_beside(master: &Path, active: &Running) -> Running {
    let mut standby = serve("master", master);
    let line = standby.line_with("master waits as a standby");
    assert!(line.contains(&format!("process {}", active.id())), "{line}");
    standby
}

/// Clients that place orders until they are told to stop.
struct Traders {
    runtime: tokio::runtime::Runtime,
    users: Vec<User>,
    known: Arc<Known>,
    heard: Receiver<Event>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Traders {
    fn start(worker: &str) -> Traders {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let servers = [vec![worker.to_owned()], vec![worker.to_owned()]];
        let users = vec![runtime.block_on(user(0, &servers)).unwrap()];
        let (known, stop) = (Arc::new(Known::default()), Arc::new(AtomicBool::new(false)));
        let (events, heard) = channel();
        let mut random = Random::new(20_261_128);
        let tasks = (0..TASKS).map(|task| {
            let (known, events) = (Arc::clone(&known), events.clone());
            let trader = Trader::new(&users[0], task, random.child(), known, events);
            runtime.spawn(trader.trade(Arc::clone(&stop)))
        });
        let tasks = tasks.collect();
        Traders { runtime, users, known, heard, stop, tasks }
    }

    /// Waits for so many more of these events.
    fn until(&self, wanted: Event, mut count: usize) {
        while count > 0 {
            let event = self.heard.recv_timeout(Duration::from_secs(120));
            count -= usize::from(event.expect("the traders trade") == wanted);
        }
    }

    /// Does something to a master, and says how long no order was acknowledged then.
    fn interrupted_by(&self, what: &str, act: impl FnOnce()) {
        let begin = Instant::now();
        act();
        while self.heard.try_recv().is_ok() {}
        self.until(Event::Acknowledged, 1);
        println!(
            "{what}: the next acknowledgement came after {:.2} s",
            begin.elapsed().as_secs_f64()
        );
        self.known.contradictions().unwrap();
    }

    /// Lets them end, and asks about every order.
    fn end(self) -> (Arc<Known>, Counts) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            self.runtime.block_on(task).unwrap();
        }
        let mut counts = Counts::default();
        self.runtime.block_on(ask_about_all(&self.users, &self.known, &mut counts)).unwrap();
        self.known.contradictions().unwrap();
        (self.known, counts)
    }
}

/// A line to the database's server that can be cut: then nothing passes, and nobody is told.
struct Line {
    address: String,
    cut: Arc<(Mutex<bool>, Condvar)>,
}

impl Line {
    fn to(server: &Server) -> Line {
        let socket = server.socket().join(".s.PGSQL.5432");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let cut = Arc::<(Mutex<bool>, Condvar)>::default();
        let own = Arc::clone(&cut);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (near, far) = (stream.unwrap(), UnixStream::connect(&socket).unwrap());
                let (from_near, from_far) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let ended = near.try_clone().unwrap();
                let (there, here) = (Arc::clone(&own), Arc::clone(&own));
                std::thread::spawn(move || pass(from_near, far, &there));
                std::thread::spawn(move || {
                    pass(from_far, near, &here);
                    // The server has closed it. The other end may be gone already.
                    let _ = ended.shutdown(Shutdown::Both);
                });
            }
        });
        Line { address, cut }
    }

    fn set(&self, cut: bool) {
        *self.cut.0.lock().unwrap() = cut;
        self.cut.1.notify_all();
    }
}

/// Passes bytes on, while the line is whole.
fn pass(mut from: impl Read, mut to: impl Write, cut: &(Mutex<bool>, Condvar)) {
    let mut bytes = [0; 8_192];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let whole = cut.1.wait_while(cut.0.lock().unwrap(), |cut| *cut);
        drop(whole.unwrap());
        if to.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}

#[test]
fn what_was_answered_outlives_the_active_master_and_nothing_is_done_twice() {
    let (pair, mut first, mut second) = Pair::start();
    let traders = Traders::start(&pair.worker_address);
    traders.until(Event::Decided, 30);
    traders.interrupted_by("killed", || first.kill());
    second.line_ever("master ready on ");
    traders.until(Event::Decided, 30);
    // The one that comes back waits, and its turn comes again.
    let mut first = wait_beside(&pair.masters[0], &second);
    traders.interrupted_by("told to end", || {
        assert_eq!(second.end_by("TERM").code(), Some(0));
    });
    first.line_ever("master ready on ");
    traders.until(Event::Decided, 30);
    let (known, counts) = traders.end();
    pair.end(first, &known, counts);
}

#[test]
fn a_master_that_was_stopped_for_long_writes_nothing_more_and_ends() {
    let (pair, mut first, mut second) = Pair::start();
    let traders = Traders::start(&pair.worker_address);
    traders.until(Event::Decided, 30);
    traders.interrupted_by("stopped", || signal(first.id(), "STOP"));
    second.line_ever("master ready on ");
    traders.until(Event::Decided, 30);
    signal(first.id(), "CONT");
    assert_eq!(first.wait().code(), Some(1));
    let said = first.text("err");
    let by = format!("process {})", second.id());
    assert!(said.contains("another master has taken over (") && said.contains(&by), "{said}");
    traders.until(Event::Decided, 30);
    let (known, counts) = traders.end();
    pair.end(second, &known, counts);
}

#[test]
fn a_master_that_is_cut_off_from_the_database_sends_its_workers_away_and_ends() {
    let database = Server::shared().database();
    let line = Line::to(Server::shared());
    let url = format!("postgresql://papertrader@{}/{}", line.address, database.name);
    let (pair, mut first, mut second) = Pair::start_on(database, &url);
    let traders = Traders::start(&pair.worker_address);
    traders.until(Event::Decided, 30);
    traders.interrupted_by("cut off from the database", || line.set(true));
    first.line_ever("no worker is served until it is");
    second.line_ever("master ready on ");
    traders.until(Event::Decided, 30);
    line.set(false);
    assert_eq!(first.wait().code(), Some(1));
    assert!(first.text("err").contains("another master has taken over ("), "{first:?}");
    let (known, counts) = traders.end();
    pair.end(second, &known, counts);
}

#[test]
fn a_standby_says_that_it_waits_and_for_whom() {
    let (mut pair, mut first, mut second) = Pair::start();
    let data = pair.masters[1].with_file_name("data");
    let ask = |words: &[&str]| {
        let mut command = program();
        Done::of(command.arg("admin").args(words).arg("--data").arg(&data), "")
    };
    let status = ask(&["status", "--json"]).good().json();
    assert_eq!(status["role"], "standby");
    assert!(status["active"].as_str().unwrap().contains(&format!("process {}", first.id())));
    assert!(status["renewed_ms_ago"].is_u64() && status["problem"].is_null(), "{status}");
    let text = ask(&["status"]).good().out;
    assert!(text.contains("standby") && text.contains("last heard of"), "{text}");
    let refused = ask(&["workers", "list", "--json"]);
    assert_eq!(refused.error_code(), "standby");
    // The active one is asked as always.
    assert_eq!(pair.place.admin(&["status"])["workers_connected"], 1);
    // It has no port: the second address of the worker is nobody's.
    let text = std::fs::read_to_string(&pair.masters[1]).unwrap();
    let listen = text.lines().find(|line| line.starts_with("listen")).unwrap();
    TcpStream::connect(listen.split('"').nth(1).unwrap()).unwrap_err();
    for running in [&mut second, &mut pair.worker, &mut first] {
        assert_eq!(running.end_by("TERM").code(), Some(0), "{running:?}");
    }
}

#[test]
fn a_standby_needs_a_database_that_two_can_reach() {
    let place = Place::new();
    place.edit_master("#standby = false", "standby = true");
    let done = Done::of(program().arg("master").arg("--config").arg(&place.master), "");
    let done = done.ended_with(1);
    assert!(done.err.contains("standby needs the books in PostgreSQL"), "{}", done.err);
}
