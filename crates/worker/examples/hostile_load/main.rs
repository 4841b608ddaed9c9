//! How well a normal client is served while others do their worst: measured quiet first, and then
//! in the same run while thousands of slow and deaf connections are held open.
//!
//! `cargo run --release -p papertrader-worker --example hostile_load -- --server 127.0.0.1:2049
//! --fingerprint HEX --user NAME --pass-hash HEX`
//!
//! Slow connections send one byte a second: half of them bare, so that no handshake ever ends, half
//! inside TLS, so that no message ever does. Deaf ones send requests as fast as they are taken and
//! read nothing. Each address of 127.0.0.0/8 that is used has one of each. Whoever is cut off
//! connects again a second later. The attackers are a process of their own with the lowest
//! priority that offers the processor after each step, so that what is measured is the server and
//! not this program. Linux only: elsewhere loopback has one address.

mod attack;
mod measure;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use papertrader_protocol::{Fingerprint, SessionId};

use attack::Held;
use measure::{Figures, Login, Normal};

const USAGE: &str = "\
usage: hostile_load --server HOST:PORT (--fingerprint HEX | --plain)
                    (--session HEX | --user NAME --pass-hash HEX)
                    [--symbol AAPL] [--quiet SECONDS] [--load SECONDS] [--rate PER_SECOND]
                    [--slow N] [--deaf N] [--pid PID] [--json]";

/// Any problem, in words.
type Problem = Box<dyn std::error::Error>;

/// What was asked for.
struct Arguments {
    server: SocketAddr,
    /// `None` for plain TCP.
    fingerprint: Option<Fingerprint>,
    login: Option<Login>,
    symbol: String,
    quiet: Duration,
    load: Duration,
    /// Requests of the normal client in a second.
    rate: u32,
    slow: usize,
    deaf: usize,
    /// The server's process, to see its memory.
    pid: Option<u32>,
    json: bool,
    /// This is the process of the attackers.
    attack: bool,
}

fn main() -> ExitCode {
    let result = arguments().and_then(|arguments| match arguments.attack {
        true => attack::run(&arguments),
        false => run(&arguments),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut normal = runtime.block_on(Normal::connect(arguments))?;
    // A little first that is not counted: caches and clocks of the processor are cold.
    runtime.block_on(normal.measure(Duration::from_secs(1)))?;
    let quiet = runtime.block_on(normal.measure(arguments.quiet))?;
    let quiet_memory = resident(arguments.pid);

    let attackers = Attackers::start(normal.session())?;
    let memory = Peak::watch(arguments.pid);
    let load = runtime.block_on(normal.measure(arguments.load))?;
    let held = attackers.stop()?;
    let load_memory = memory.end();

    let ratio = load.p99 / quiet.p99;
    if arguments.json {
        println!(
            "{{\"quiet\":{},\"load\":{},\"ratio_p99\":{ratio:.2},\"attackers\":{},\
             \"resident_quiet\":{},\"resident_peak\":{}}}",
            quiet.json(),
            load.json(),
            held.json(),
            number(quiet_memory),
            number(load_memory),
        );
    } else {
        println!("{:<8}{:>10}{:>12}{:>12}{:>12}", "", "requests", "p50", "p99", "longest");
        print_row("quiet", &quiet);
        print_row("load", &load);
        println!("p99 under load / quiet: {ratio:.2}");
        println!(
            "attackers: {} wanted, {} to {} connected during the load, {} connections made, {} \
             cut off, {} refused",
            held.wanted, held.fewest, held.most, held.made, held.cut, held.refused
        );
        if let (Some(quiet), Some(load)) = (quiet_memory, load_memory) {
            println!("resident memory: {} MiB quiet, {} MiB at most", quiet >> 20, load >> 20);
        }
    }
    Ok(())
}

fn print_row(name: &str, figures: &Figures) {
    let Figures { requests, p50, p99, longest } = figures;
    println!("{name:<8}{requests:>10}{p50:>9.1} us{p99:>9.1} us{longest:>9.1} us");
}

fn number(value: Option<u64>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| value.to_string())
}

/// The process of the attackers.
struct Attackers {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Attackers {
    /// Starts them, and waits until all are connected.
    fn start(session: SessionId) -> Result<Attackers, Problem> {
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]).arg(std::env::current_exe()?).arg("--attack");
        command.args(std::env::args_os().skip(1));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        // The session is no argument: those are for everybody to see.
        if let Some(input) = &mut child.stdin {
            writeln!(input, "{}", session.to_hex())?;
        }
        let output = child.stdout.take().ok_or("the attackers have no output")?;
        let mut attackers = Attackers { child, said: BufReader::new(output) };
        match attackers.line()?.as_str() {
            "held" => Ok(attackers),
            other => Err(format!("the attackers do not begin: {other}").into()),
        }
    }

    /// Ends them; what they have counted.
    fn stop(mut self) -> Result<Held, Problem> {
        drop(self.child.stdin.take());
        let held = Held::parse(&self.line()?).ok_or("the attackers' figures cannot be read")?;
        self.child.wait()?;
        Ok(held)
    }

    fn line(&mut self) -> Result<String, Problem> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Resident memory of a process, in bytes.
fn resident(pid: Option<u32>) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid?)).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Looks at the memory of a process once a second.
struct Peak {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<Option<u64>>,
}

impl Peak {
    fn watch(pid: Option<u32>) -> Peak {
        let (stop, stopped) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut peak = resident(pid);
            while stopped.recv_timeout(Duration::from_secs(1)).is_err() {
                peak = peak.max(resident(pid));
            }
            peak
        });
        Peak { stop, thread }
    }

    fn end(self) -> Option<u64> {
        let _ = self.stop.send(());
        self.thread.join().ok().flatten()
    }
}

fn arguments() -> Result<Arguments, Problem> {
    let mut server = None;
    let (mut session, mut user, mut pass) = (None, None, None);
    let mut plain = false;
    let mut made = Arguments {
        server: SocketAddr::from(([127, 0, 0, 1], 2049)),
        fingerprint: None,
        login: None,
        symbol: "AAPL".to_owned(),
        quiet: Duration::from_secs(20),
        load: Duration::from_secs(60),
        rate: 500,
        slow: 2_000,
        deaf: 2_000,
        pid: None,
        json: false,
        attack: false,
    };
    let mut given = std::env::args().skip(1);
    while let Some(option) = given.next() {
        match option.as_str() {
            "--plain" => plain = true,
            "--json" => made.json = true,
            "--attack" => made.attack = true,
            _ => {
                let value = given.next().ok_or(USAGE)?;
                match option.as_str() {
                    "--server" => server = Some(value.parse()?),
                    "--fingerprint" => made.fingerprint = Some(value.parse()?),
                    "--session" => session = Some(session_id(&value).ok_or(USAGE)?),
                    "--user" => user = Some(value),
                    "--pass-hash" => pass = Some(value),
                    "--symbol" => made.symbol = value,
                    "--quiet" => made.quiet = Duration::from_secs(value.parse()?),
                    "--load" => made.load = Duration::from_secs(value.parse()?),
                    "--rate" => made.rate = value.parse::<u32>()?.max(1),
                    "--slow" => made.slow = value.parse()?,
                    "--deaf" => made.deaf = value.parse()?,
                    "--pid" => made.pid = Some(value.parse()?),
                    _ => return Err(USAGE.into()),
                }
            }
        }
    }
    made.login = match (session, user, pass) {
        (Some(session), None, None) => Some(Login::Session(session)),
        (None, Some(user), Some(pass)) => Some(Login::User(user, pass)),
        _ => return Err(USAGE.into()),
    };
    made.server = server.ok_or(USAGE)?;
    if plain == made.fingerprint.is_some() {
        return Err(USAGE.into());
    }
    Ok(made)
}

/// From its 32 hexadecimal digits.
fn session_id(text: &str) -> Option<SessionId> {
    let mut bytes = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(SessionId::from_bytes(bytes))
}
