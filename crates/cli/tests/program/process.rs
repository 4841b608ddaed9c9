//! Real processes: started, listened to, signalled, and ended when the test ends.
//!
//! Nothing here sleeps: whoever waits, waits for a line or for the end of a process. The limit on
//! each wait only turns a hang into a failure. Only processes that were started here (or that say
//! their own ID on a line) are ever signalled.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Longer than anything that works can take.
const LIMIT: Duration = Duration::from_secs(120);

/// A command with nothing of the developer's own settings.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PAPERTRADER_") {
            command.env_remove(name);
        }
    }
    command
}

/// What a process says.
enum Said {
    Line(&'static str, String),
    Closed,
}

/// A process that runs. Dropping it kills it.
pub(crate) struct Running {
    name: String,
    child: Child,
    said: Receiver<Said>,
    /// Everything it has said, `out` or `err` before each line.
    pub(crate) heard: Vec<(&'static str, String)>,
    open: usize,
}

impl Running {
    /// Starts a command and listens to both of its outputs.
    pub(crate) fn start(command: &mut Command) -> Running {
        let name = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let (sender, said) = channel();
        listen("out", child.stdout.take().expect("it is piped"), sender.clone());
        listen("err", child.stderr.take().expect("it is piped"), sender);
        Running { name, child, said, heard: Vec::new(), open: 2 }
    }

    /// Its process ID.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line that holds `part`, on either output.
    pub(crate) fn line_with(&mut self, part: &str) -> String {
        let until = Instant::now() + LIMIT;
        while self.open > 0 {
            if let Some(line) = self.hear(until, part)
                && line.contains(part)
            {
                return line;
            }
        }
        panic!("{} has closed its outputs without saying '{part}'; it said {self:?}", self.name);
    }

    /// A line that holds `part`, heard already or to come: the two outputs have no order.
    pub(crate) fn line_ever(&mut self, part: &str) -> String {
        match self.heard.iter().find(|(_, line)| line.contains(part)) {
            Some((_, line)) => line.clone(),
            None => self.line_with(part),
        }
    }

    /// Hears until both outputs are closed: by this process and by all that have inherited them.
    pub(crate) fn hear_out(&mut self) {
        let until = Instant::now() + LIMIT;
        while self.open > 0 {
            self.hear(until, "nothing more");
        }
    }

    fn hear(&mut self, until: Instant, wanted: &str) -> Option<String> {
        match self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Said::Line(output, line)) => {
                self.heard.push((output, line.clone()));
                Some(line)
            }
            Ok(Said::Closed) => {
                self.open -= 1;
                None
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                panic!("{} does not say '{wanted}'; it said {self:?}", self.name)
            }
        }
    }

    /// Waits for its end, and for the last of what it says.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.hear_out();
        self.child.wait().expect("a child can be waited for")
    }

    /// Sends a signal that can be caught, and waits for the end.
    pub(crate) fn end_by(&mut self, name: &str) -> ExitStatus {
        signal(self.id(), name);
        self.wait()
    }

    /// `kill -9`, and waits for the end of this process alone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Everything it has said on one of its outputs.
    pub(crate) fn text(&self, output: &str) -> String {
        let lines = self.heard.iter().filter(|(from, _)| *from == output);
        lines.map(|(_, line)| format!("{line}\n")).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.heard).finish()
    }
}

fn listen(output: &'static str, from: impl Read + Send + 'static, sender: Sender<Said>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { break };
            if sender.send(Said::Line(output, line)).is_err() {
                return;
            }
        }
        // Nobody may be left to hear it.
        let _ = sender.send(Said::Closed);
    });
}

/// Sends a signal by its name.
pub(crate) fn signal(process: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &process.to_string()]).status();
    assert!(status.expect("kill runs").success(), "process {process} cannot be sent {name}");
}

/// Whether a process runs: it is there and has not ended already.
pub(crate) fn is_alive(process: u32) -> bool {
    let Ok(stat) =
        std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat"))
    else {
        return false;
    };
    // The name, in brackets, may hold anything; the state stands after it.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Waits for the last steps of a process that has closed its outputs: a process that is nobody's
/// child here cannot be waited for otherwise.
pub(crate) fn until_gone(process: u32) {
    let until = Instant::now() + LIMIT;
    while is_alive(process) {
        assert!(Instant::now() < until, "process {process} does not end");
        std::thread::yield_now();
    }
}

/// The address in a line `… ready on HOST:PORT`.
pub(crate) fn address(line: &str) -> String {
    let (_, rest) = line.split_once(" ready on ").expect("a line that says ready");
    rest.split_whitespace().next().expect("an address").to_owned()
}

/// An address with a port that was free a moment ago, for a server that must come back to it.
///
/// It lies below the ports that systems give out by themselves: while the server is away, no
/// connection that somebody makes can get this port as its own (not even one to this very port).
pub(crate) fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    for _ in 0..COUNT {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        // Several test programs may run at the same time.
        let port = FIRST + (std::process::id().wrapping_mul(61).wrapping_add(nth)) % COUNT;
        let address = format!("127.0.0.1:{port}");
        if std::net::TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
    panic!("no port is free");
}
