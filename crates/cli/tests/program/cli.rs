//! The program as a user has it: `up`, and the client's commands with a configuration directory
//! for each user.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::process::{Running, address, command};

pub(crate) const PASSWORD: &str = "secret-pw-of-a-test";

/// The program of this build.
pub(crate) fn program() -> Command {
    command(Path::new(env!("CARGO_BIN_EXE_papertrader")))
}

/// A running `papertrader up`.
pub(crate) struct Up {
    pub(crate) running: Running,
    pub(crate) master: Server,
    pub(crate) workers: Vec<Server>,
}

/// A server that `up` has started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) process: u32,
}

impl Server {
    /// From `NAME ready on HOST:PORT (process ID)`.
    pub(crate) fn of(line: &str) -> Server {
        let process = line
            .rsplit_once("(process ")
            .and_then(|(_, rest)| rest.strip_suffix(')')?.parse().ok())
            .unwrap_or_else(|| panic!("no process ID in '{line}'"));
        Server { address: address(line), process }
    }
}

impl Up {
    /// Starts it on free ports and waits until it is ready.
    pub(crate) fn start(data: &Path, more: &[&str], environment: &[(&str, &str)]) -> Up {
        let mut running = Running::start(Up::command(data, more).envs(environment.iter().copied()));
        let count = more.iter().position(|option| *option == "--workers");
        let count = count.map_or(1, |at| more[at + 1].parse().unwrap());
        let master = Server::of(&running.line_with("master ready on "));
        let mut workers = Vec::new();
        while workers.len() < count {
            workers.push(running.line_with(" ready on "));
        }
        // In the order of their names.
        workers.sort();
        let workers = workers.iter().map(|line| Server::of(line)).collect();
        let up = Up { running, master, workers };
        up.until_ready()
    }

    pub(crate) fn command(data: &Path, more: &[&str]) -> Command {
        let mut command = program();
        command.arg("up").arg("--data").arg(data);
        command.args(["--worker-port", "0", "--master-port", "0"]).args(more);
        if !more.contains(&"--interval") {
            command.args(["--interval", "200ms"]);
        }
        command
    }

    fn until_ready(mut self) -> Up {
        // Not any line with the word: a server's log on the other output has it too.
        let line = self.running.line_with("ready master=");
        let workers: Vec<&str> =
            self.workers.iter().map(|server| server.address.as_str()).collect();
        let expected =
            format!("ready master={} workers={}", self.master.address, workers.join(","));
        assert_eq!(line, expected);
        self
    }

    /// The processes of all its servers.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let servers = std::iter::once(&self.master).chain(&self.workers);
        servers.map(|server| server.process).collect()
    }

    /// A user of its first worker, who has not done anything yet.
    pub(crate) fn user(&self, home: &Path, name: &str) -> User {
        User::new(home, name, &self.workers[0].address)
    }
}

/// Somebody at a terminal.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) config: PathBuf,
    pub(crate) server: String,
}

/// What a command has left behind.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl User {
    /// Of the worker at `address`.
    pub(crate) fn new(home: &Path, name: &str, address: &str) -> User {
        User { name: name.into(), config: home.join(name), server: address.into() }
    }

    /// Runs a command that names the server.
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        self.execute(arguments, Some(&self.server), PASSWORD)
    }

    /// The same with other lines on its standard input than the password.
    pub(crate) fn run_saying(&self, arguments: &[&str], lines: &str) -> Done {
        self.execute(arguments, Some(&self.server), lines)
    }

    /// Runs a command that finds its servers in what was kept at log-in.
    pub(crate) fn run_by_memory(&self, arguments: &[&str]) -> Done {
        self.execute(arguments, None, PASSWORD)
    }

    fn execute(&self, arguments: &[&str], server: Option<&str>, lines: &str) -> Done {
        let mut command = program();
        command.args(arguments).arg("--config-dir").arg(&self.config);
        if let Some(server) = server {
            command.args(["--server", server]);
        }
        Done::of(&mut command, lines)
    }

    /// Makes the account and logs in.
    pub(crate) fn join(&self) {
        let email = format!("{}@example.org", self.name);
        self.run(&["register", &self.name, "--email", &email, "--password-stdin"]).good();
        self.login();
    }

    pub(crate) fn login(&self) {
        self.run(&["login", &self.name, "--password-stdin"]).good();
    }

    /// The JSON of a command that succeeds; servers as kept at log-in.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        self.run_by_memory(&arguments).good().json()
    }
}

impl Done {
    /// Runs a command to its end, with these lines on its standard input.
    pub(crate) fn of(command: &mut Command, lines: &str) -> Done {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that needs no password does not read it.
        let _ = writeln!(child.stdin.take().unwrap(), "{lines}");
        let output = child.wait_with_output().unwrap();
        Done {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn good(self) -> Done {
        self.ended_with(0)
    }

    #[track_caller]
    pub(crate) fn ended_with(self, code: i32) -> Done {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The stable word of a failure that was asked for with `--json`.
    #[track_caller]
    pub(crate) fn error_code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }
}
