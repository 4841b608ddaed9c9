//! A PostgreSQL server for tests alone, on a Unix socket in a directory of its own.
//!
//! It is started through a shell that waits for the end of its input, whatever signals come, and then
//! stops it: however this program ends, the server ends with it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use papertrader_store::postgres::PostgresStore;
use tempfile::TempDir;

/// The name of the superuser.
const USER: &str = "papertrader";

/// A server that runs as long as this does.
pub(crate) struct Server {
    dir: TempDir,
    bin: PathBuf,
    /// Of the socket's name as well.
    port: u16,
    /// The shell removes its directory.
    is_shared: bool,
    guard: Option<Child>,
    databases: AtomicU32,
}

impl Server {
    /// The one that most tests share.
    pub(crate) fn shared() -> &'static Server {
        static SHARED: OnceLock<Server> = OnceLock::new();
        // It is never dropped: the shell sees the end of this program, and cleans up.
        SHARED.get_or_init(|| Server::make(None, None, true))
    }

    /// Makes one and starts it.
    pub(crate) fn start() -> Server {
        Server::start_with(None, None)
    }

    /// Makes one and starts it, on a port of this machine too, and with a certificate and its key.
    pub(crate) fn start_with(port: Option<u16>, certificate: Option<(&str, &str)>) -> Server {
        Server::make(port, certificate, false)
    }

    fn make(port: Option<u16>, certificate: Option<(&str, &str)>, is_shared: bool) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let databases = AtomicU32::new(0);
        let name = port.unwrap_or(5432);
        let mut server =
            Server { dir, bin: binaries(), port: name, is_shared, guard: None, databases };
        run(Command::new("chmod").arg("755").arg(server.dir.path()));
        let home = server.path("home");
        std::fs::create_dir(&home).unwrap();
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(&home));
        }
        run(server
            .command("initdb")
            .args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"])
            .arg(format!("--username={USER}"))
            .arg(server.data()));
        // What is tested is what the program does when the server dies, not when its machine does:
        // then nothing of the system's cache is lost.
        let mut lines = format!(
            "listen_addresses = '{}'\nport = {name}\nunix_socket_directories = '{}'\n\
             max_connections = 200\nfsync = off\nsynchronous_commit = off\n",
            if port.is_some() { "127.0.0.1" } else { "" },
            home.display()
        );
        if let Some((certificate, key)) = certificate {
            for (name, text) in [("server.crt", certificate), ("server.key", key)] {
                let path = server.data().join(name);
                std::fs::write(&path, text).unwrap();
                run(Command::new("chmod").arg("600").arg(&path));
                if is_root() {
                    run(Command::new("chown").arg("postgres").arg(&path));
                }
            }
            lines.push_str("ssl = on\n");
        }
        let path = server.data().join("postgresql.auto.conf");
        std::fs::write(&path, lines).unwrap();
        run(Command::new("chmod").arg("644").arg(&path));
        server.run();
        server
    }

    /// Starts it (again), and waits until it takes connections.
    pub(crate) fn run(&mut self) {
        let script = "trap '' INT TERM HUP; dir=$1 data=$2 log=$3; shift 3
                      \"$@\" -D \"$data\" -l \"$log\" -w start >/dev/null 2>&1 ||
                        { cat \"$log\" >&2; exit 1; }
                      echo ready; read line
                      \"$@\" -D \"$data\" -m immediate stop >/dev/null 2>&1
                      [ -z \"$dir\" ] || rm -rf \"$dir\"";
        let removed = self.dir.path().to_owned();
        let removed = if self.is_shared { removed } else { PathBuf::new() };
        let pg_ctl = self.command("pg_ctl");
        let mut guard = Command::new("sh")
            .args(["-c", script, "sh"])
            .args([removed, self.data(), self.path("home/log")])
            .arg(pg_ctl.get_program())
            .args(pg_ctl.get_args())
            .current_dir("/")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(guard.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the server did not start");
        self.guard = Some(guard);
    }

    /// Kills all its processes at once, and waits until they are gone.
    pub(crate) fn kill(&mut self) {
        let file = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        let main = file.lines().next().unwrap().to_owned();
        let children = format!("/proc/{main}/task/{main}/children");
        // The first, so that it starts none anew.
        run(Command::new("kill").args(["-STOP", &main]));
        let children = std::fs::read_to_string(children).unwrap();
        let mut all = vec![main.as_str()];
        all.extend(children.split_whitespace());
        let _ = Command::new("kill").arg("-KILL").args(&all).stderr(Stdio::null()).status();
        for process in all {
            let args = [&format!("--pid={process}"), "-s", "0.01", "-f", "/dev/null"];
            run(Command::new("tail").args(args));
        }
        // The shell's end of input would stop a server that is gone: it says so and ends.
        self.stop();
    }

    /// Stops it, and leaves its files where they are.
    #[allow(dead_code, reason = "the program's kill loop uses it")]
    pub(crate) fn keep(&mut self) -> &Path {
        self.stop();
        self.dir.disable_cleanup(true);
        self.dir.path()
    }

    /// A new database.
    pub(crate) fn database(&self) -> Database<'_> {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("books{number}");
        self.raw("postgres").batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        self.known(&name)
    }

    /// A database that was made before.
    pub(crate) fn known(&self, name: &str) -> Database<'_> {
        Database { server: self, name: name.to_owned() }
    }

    /// A connection past the store.
    pub(crate) fn raw(&self, database: &str) -> postgres::Client {
        let mut config = postgres::Config::new();
        config.host_path(self.socket()).port(self.port).user(USER).dbname(database);
        config.connect(postgres::NoTls).unwrap()
    }

    /// Where its socket is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("home")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where its data is.
    pub(crate) fn data(&self) -> PathBuf {
        self.path("home/data")
    }

    /// One of the server's programs, as a user who may run it.
    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]);
            command.arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir("/").env("LC_ALL", "C");
        command
    }

    fn stop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A database for one case.
pub(crate) struct Database<'s> {
    server: &'s Server,
    pub(crate) name: String,
}

impl Database<'_> {
    /// Its URL.
    pub(crate) fn url(&self) -> String {
        let socket = self.server.socket().display().to_string().replace('/', "%2F");
        format!("postgresql://{USER}@{socket}/{}", self.name)
    }

    pub(crate) fn store(&self) -> PostgresStore {
        PostgresStore::open(&self.url(), "one").unwrap()
    }

    /// A connection past the store.
    pub(crate) fn raw(&self) -> postgres::Client {
        self.server.raw(&self.name)
    }
}

/// The directory of the newest server that is installed.
fn binaries() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        let version = entry.file_name().to_str().and_then(|name| name.parse().ok());
        found.extend(version.map(|version| (version, entry.path().join("bin"))));
    }
    found.sort();
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&on_path).map(|path| (0, path)).collect::<Vec<_>>();
    let has_all =
        |path: &Path| ["initdb", "pg_ctl", "postgres"].iter().all(|p| path.join(p).exists());
    let mut all = found.into_iter().rev().chain(on_path);
    match all.find(|(_, path)| has_all(path)) {
        Some((_, path)) => path,
        None => panic!(
            "PostgreSQL's server is missing, which these tests start: install it (on Debian: \
             apt-get install postgresql), or run ./test, which does"
        ),
    }
}

/// A server refuses to run as root.
fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {words}");
}
