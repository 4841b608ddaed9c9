//! Trouble with the database under a master that runs on: a disk that is full, a file that another
//! process has locked, connections that are cut, a server that is away. Clients place orders through
//! two workers all the while, each with an ID of its own.
//!
//! In the end all that the clients were told is compared with what is stored, as the kill loop does.
//! How long clients wait is not asserted. A disk that fails to keep what it has taken is no trouble
//! that a master outlives, and is not here.
//!
//! Invariant: the master is never started again. It says in its event log what the trouble is, clients
//! are told `unavailable` or that the outcome is unknown, and when the trouble ends all goes on.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::kill_loop::knowledge::Event;
use crate::kill_loop::servers::{Books, Setup};
use crate::kill_loop::{Counts, MARKET, Scene};
use crate::postgres_server::Server;

/// The data directory's size, in MiB: the log grows to about 40 before it is begun anew.
const DISK: u32 = 64;
/// Names a number of seconds that the file is kept locked for; without it, until clients were told.
const LOCKED: &str = "TROUBLE_LOCKED_SECONDS";

#[test]
fn a_disk_that_is_full_is_said_and_orders_go_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(&dir.path().join("data")) else { return };
    let mut trouble = Trouble::start(Books::Sqlite, dir.path());
    trouble.orders_are_taken();
    for _ in 0..2 {
        let filler = disk.fill();
        trouble.clients_are_told();
        trouble.is_logged("database or disk is full");
        std::fs::remove_file(filler).unwrap();
        trouble.orders_are_taken();
    }
    trouble.end();
}

#[test]
fn a_file_that_another_process_has_locked_is_said_and_orders_go_on_when_it_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let mut trouble = Trouble::start(Books::Sqlite, dir.path());
    trouble.orders_are_taken();
    let other = rusqlite::Connection::open(trouble.scene.servers.file()).unwrap();
    for begin in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"] {
        // The master writes so often that the lock must be waited for.
        other.busy_timeout(Duration::from_secs(60)).unwrap();
        other.execute_batch(begin).unwrap();
        trouble.clients_are_told();
        if let Ok(seconds) = std::env::var(LOCKED) {
            std::thread::sleep(Duration::from_secs(seconds.parse().unwrap()));
        }
        trouble.is_logged("database is locked");
        other.execute_batch("ROLLBACK").unwrap();
        trouble.orders_are_taken();
    }
    drop(other);
    trouble.end();
}

#[test]
fn connections_that_are_cut_are_said_and_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut trouble = Trouble::start(Books::Postgres, dir.path());
    trouble.orders_are_taken();
    let mut raw = trouble.scene.servers.database.as_ref().unwrap().raw();
    let sql = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()
               AND backend_type = 'client backend'";
    for round in 0..10 {
        // At other moments of what the master does.
        trouble.until([Event::Sent, Event::Acknowledged, Event::Decided][round % 3], 7);
        let cut: i64 = raw.query_one(sql, &[]).unwrap().get(0);
        assert!(cut > 0, "the master has no connections");
        trouble.orders_are_taken();
    }
    trouble.is_logged("terminating connection due to administrator command");
    trouble.end();
}

#[test]
fn a_database_server_that_is_away_is_said_and_orders_go_on_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut trouble = Trouble::start(Books::Postgres, dir.path());
    trouble.orders_are_taken();
    trouble.server().kill();
    trouble.clients_are_told();
    // Away for so long that there might be another master by now.
    trouble.is_logged("the lease on the database could not be renewed");
    trouble.clients_are_told();
    trouble.server().run();
    trouble.is_logged("the lease on the database is held: workers are served");
    trouble.orders_are_taken();
    trouble.end();
}

/// Servers and clients, and the master that must outlive everything.
struct Trouble {
    scene: Scene,
    master: u32,
}

impl Trouble {
    fn start(books: Books, dir: &Path) -> Trouble {
        let setup = Setup {
            program: Path::new(env!("CARGO_BIN_EXE_papertrader")),
            books,
            workers: 2,
            market: MARKET,
            patience: Duration::from_millis(200),
            worker_keys: "order_wait = \"2s\"",
            hears: true,
        };
        let mut scene = Scene::start(&setup, dir, 20_261_128).unwrap();
        let master = scene.servers.master().id();
        Trouble { scene, master }
    }

    fn server(&mut self) -> &mut Server {
        &mut self.scene.servers.database.as_mut().unwrap().server
    }

    fn until(&self, event: Event, count: u64) {
        self.scene.until(event, count).unwrap_or_else(|problem| panic!("{problem}"));
    }

    /// New orders are written and settled.
    fn orders_are_taken(&self) {
        self.until(Event::Placed, 60);
        self.until(Event::Settled, 10);
        self.scene.known.contradictions().unwrap();
        self.scene.servers.verify().unwrap();
    }

    /// Clients hear that nothing is known of their orders.
    fn clients_are_told(&self) {
        self.until(Event::Unknown, 30);
    }

    /// The master's event log says so, or will.
    fn is_logged(&mut self, words: &str) {
        let line = self.scene.servers.master().line_with(words);
        println!("{line}");
    }

    fn end(mut self) {
        self.scene.be_patient().unwrap();
        let counts =
            self.scene.end(Counts::default()).unwrap_or_else(|problem| panic!("{problem}"));
        println!("{counts}");
        assert_eq!(self.scene.servers.master().id(), self.master);
        assert!(counts.acknowledged > 50 && counts.filled > 50, "{counts}");
    }
}

/// A small file system that is gone when this is dropped.
struct Disk(PathBuf);

impl Disk {
    /// `None`, said loudly, where this user may mount nothing.
    fn mount(at: &Path) -> Option<Disk> {
        std::fs::create_dir(at).unwrap();
        let options = format!("size={DISK}m,mode=700");
        let mut mount = Command::new("mount");
        match mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output() {
            Ok(output) if output.status.success() => Some(Disk(at.to_owned())),
            problem => {
                eprintln!(
                    "NOT TESTED: a full disk, for no file system can be mounted: {problem:?}"
                );
                None
            }
        }
    }

    /// Takes all the room that is left, and says with which file.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = File::create(&path).unwrap();
        file.set_permissions(Permissions::from_mode(0o600)).unwrap();
        for size in [1 << 20, 1 << 12] {
            let piece = vec![1; size];
            loop {
                match file.write_all(&piece) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The servers have ended, or are ending: it goes when the last of them has.
        let status = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(status.unwrap().success() || std::thread::panicking(), "{}", self.0.display());
    }
}
