//! `papertrader bench quotes`: quotes that a worker gives under a session, a second, and how long they
//! are waited for; beside them, in turn and from the same load, a server that only sends bytes of the
//! same sizes back, and a Redis if there is one.
//!
//! The prices change all the while. Invariant: a wrong quote, a quote to another question, or one under
//! a session that has ended fails the command.

mod echo;
pub(super) mod idle;
mod load;
mod opening;
mod report;
mod talk;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;
use papertrader_core::names::Symbol;
use papertrader_market::PriceSource;
use papertrader_node::config::HumanDuration;
use papertrader_protocol::SessionId;
use papertrader_protocol::data::AssetValue;
use papertrader_protocol::frame::HEADER;
use papertrader_protocol::wire::Wire;

use super::deployment::{self, Deployment, Size};
use super::prices::Expected;
use super::stream::{Opened, Worker, plain};
use super::{BenchError, Scratch, wrong};
use crate::error::CliError;
use crate::output::Output;
use load::{Load, Seen};
pub(super) use opening::Conversation;
use report::{Report, Server};
use talk::{Echoes, Quotes, Sizes, Talk, Values};

#[derive(Debug, Args)]
pub(super) struct QuotesArgs {
    /// Connections to each server, each with a session of its own
    #[arg(long, default_value_t = 50)]
    connections: usize,
    /// Questions that a connection sends at once before it waits for their answers; may be repeated
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    depth: Vec<usize>,
    /// Instruments
    #[arg(long, default_value_t = 500)]
    symbols: u32,
    /// Threads of the worker that serve clients, and threads of the load
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Each thread of the load asks all threads of a server, not one alone
    #[arg(long)]
    crossed: bool,
    /// How often prices change
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    interval: HumanDuration,
    /// For how long each server is measured in a round
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    time: HumanDuration,
    /// For how long it is asked before that
    #[arg(long, value_name = "DURATION", default_value = "700ms")]
    warm: HumanDuration,
    /// How often all servers are measured in turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// TLS to the worker; the others are asked without all the same
    #[arg(long)]
    tls: bool,
    /// A Redis, one for each thread, which is filled with values; may be repeated
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    redis: Vec<SocketAddr>,
    /// Makes the choice of symbols
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The directory for the servers' data [default: here]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &QuotesArgs, output: &Output) -> Result<(), CliError> {
    let report = measure(args, output).map_err(CliError::Bench)?;
    if output.json {
        return output.object(&report);
    }
    output.text(&report.text())
}

fn check_options(args: &QuotesArgs) -> Result<(), BenchError> {
    let between = |name, value: u64, most: u64| {
        let problem = format!("must be 1 to {most}");
        if (1..=most).contains(&value) { Ok(()) } else { Err(BenchError::Option { name, problem }) }
    };
    between("--connections", args.connections as u64, 10_000)?;
    between("--threads", args.threads as u64, 64)?;
    between("--symbols", args.symbols.into(), 10_000)?;
    between("--rounds", args.rounds as u64, 1_000)?;
    for depth in &args.depth {
        between("--depth", *depth as u64, 1_000)?;
    }
    for (name, time) in [("--interval", args.interval), ("--time", args.time)] {
        between(name, time.as_millis(), 600_000)?;
    }
    if args.connections < args.threads {
        let problem = "must be at least one for each thread".into();
        return Err(BenchError::Option { name: "--connections", problem });
    }
    if !args.redis.is_empty() && args.redis.len() != args.threads {
        let problem = "must name one for each thread".into();
        return Err(BenchError::Option { name: "--redis", problem });
    }
    Ok(())
}

fn measure(args: &QuotesArgs, output: &Output) -> Result<Report, BenchError> {
    check_options(args)?;
    let scratch = Scratch::new(args.dir.as_ref())?;
    let data = scratch.file("data");
    let size = Size {
        connections: args.connections,
        symbols: args.symbols,
        open: None,
        interval: args.interval.duration(),
        plain: !args.tls,
        threads: args.threads,
        eager: true,
        registering: 0,
    };
    output.note("starting a master and a worker");
    let sessions = deployment::seed(&data, args.connections + 1)?;
    let deployment = Deployment::start(&data, &size)?;
    let worker = Worker { address: deployment.worker, certificate: deployment.certificate };
    let source = deployment::source(args.symbols)?;
    let symbols: Vec<Symbol> = source.instruments().iter().map(|spec| spec.symbol).collect();
    let sizes = sizes(worker, &sessions, &symbols)?;
    for redis in &args.redis {
        fill(*redis, symbols.len())?;
    }
    let echoes: Vec<SocketAddr> =
        (0..args.threads).map(|_| echo::start(sizes)).collect::<Result<_, _>>()?;
    // One after the other: the worker gives its threads connections in turn, so that connection N is
    // with its thread N modulo their number, as it is with the others' servers.
    let mut shares: Vec<Share> = (0..args.threads).map(|_| Vec::new()).collect();
    for (number, session) in sessions.iter().take(args.connections).enumerate() {
        let opened = opening::quoting(worker, *session)?;
        if let Some(share) = shares.get_mut(asker(args, number)) {
            share.push((number, opened));
        }
    }
    let mut report = Report::new(args, sizes, deployment::raised(&size));
    let plan =
        Plan { args, worker, sessions: &sessions, symbols: &symbols, sizes, echoes: &echoes };
    let together = Together { start: Barrier::new(args.threads), failed: AtomicBool::new(false) };
    let seen = thread::scope(|scope| {
        let (plan, together) = (&plan, &together);
        let mut shares = shares.into_iter().enumerate();
        let own = shares.next();
        let other =
            |(number, share)| scope.spawn(move || plan.thread(number, share, together, output));
        let others: Vec<_> = shares.map(other).collect();
        let mut all: Vec<_> = own
            .map(|(number, share)| plan.thread(number, share, together, output))
            .into_iter()
            .collect();
        for other in others {
            all.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all.into_iter().collect::<Result<Vec<_>, _>>()
    })?;
    deployment.end()?;
    for thread in &seen {
        report.checked += thread.checked;
        report.snapshots = report.snapshots.max(thread.snapshots);
    }
    report.add(seen.into_iter().map(|thread| thread.runs).collect())?;
    Ok(report)
}

/// What the threads of the load wait for, and whether one of them has failed.
struct Together {
    start: Barrier,
    failed: AtomicBool,
}

impl Together {
    /// Waits for all others. False if one of them cannot go on.
    fn wait(&self) -> bool {
        self.start.wait();
        !self.failed.load(Ordering::Acquire)
    }

    /// A result, of which the others hear if it is none.
    fn keep<T>(&self, result: Result<T, BenchError>) -> Result<T, BenchError> {
        if result.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        result
    }
}

/// How long a question and its answer are, found by asking one.
fn sizes(worker: Worker, sessions: &[SessionId], symbols: &[Symbol]) -> Result<Sizes, BenchError> {
    let (Some(session), Some(symbol)) = (sessions.first(), symbols.first()) else {
        return Err(wrong("nothing to ask for"));
    };
    let bytes = opening::one_quote(worker, *session, symbol.as_str())?;
    AssetValue::from_bytes(&bytes).map_err(wrong)?;
    Ok(Sizes { question: HEADER + symbol.as_str().len(), answer: HEADER + bytes.len() })
}

/// Puts the values into a Redis.
fn fill(redis: SocketAddr, keys: usize) -> Result<(), BenchError> {
    let mut stream = plain(redis)?;
    stream.write_all(&talk::fill_redis(keys))?;
    let mut said = vec![0; 5 * keys];
    stream.read_exact(&mut said)?;
    if said.chunks_exact(5).all(|reply| reply == b"+OK\r\n") {
        return Ok(());
    }
    Err(wrong(format!("Redis said: {}", String::from_utf8_lossy(&said))))
}

/// The connections of one thread of the load to the worker, by number.
type Share = Vec<(usize, Opened)>;

/// The thread of the load that asks on a connection: the one with the number of the server's thread, or, if
/// `crossed`, each on as many to each of these.
fn asker(args: &QuotesArgs, connection: usize) -> usize {
    let turn = if args.crossed { connection / args.threads } else { connection };
    turn % args.threads
}

/// What all threads of the load do.
struct Plan<'a> {
    args: &'a QuotesArgs,
    worker: Worker,
    sessions: &'a [SessionId],
    symbols: &'a [Symbol],
    sizes: Sizes,
    echoes: &'a [SocketAddr],
}

/// One measurement of one thread.
struct Run {
    server: Server,
    depth: usize,
    seen: Seen,
}

/// What a thread has seen.
struct ThreadSeen {
    runs: Vec<Run>,
    checked: u64,
    snapshots: u64,
}

impl Plan<'_> {
    /// Asks all servers in turn, each at the same time as the other threads do.
    fn thread(
        &self,
        thread: usize,
        share: Share,
        together: &Together,
        output: &Output,
    ) -> Result<ThreadSeen, BenchError> {
        let loads = together.keep(self.loads(share));
        let mut seen = ThreadSeen { runs: Vec::new(), checked: 0, snapshots: 0 };
        let mut goes_on = together.wait();
        let mut loads = loads?;
        for round in 1..=self.args.rounds {
            for depth in self.args.depth.iter().copied() {
                for server in loads.servers() {
                    if !goes_on {
                        // Another thread says why.
                        return Ok(seen);
                    }
                    if thread == 0 {
                        output.note(&format!("round {round}, {depth} at once: {}", server.name()));
                    }
                    let is_first = thread == 0 && seen.runs.is_empty();
                    let run = together.keep(self.run(&mut loads, server, depth, is_first));
                    // Who fails says so before the others go on.
                    goes_on = together.wait();
                    seen.runs.push(Run { server, depth, seen: run? });
                }
            }
        }
        for quotes in loads.quotes.talks() {
            seen.checked += quotes.checked;
            seen.snapshots = seen.snapshots.max(quotes.snapshots);
        }
        Ok(seen)
    }

    fn run(
        &self,
        loads: &mut Loads,
        server: Server,
        depth: usize,
        is_first: bool,
    ) -> Result<Seen, BenchError> {
        let (warm, time) = (self.args.warm.duration(), self.args.time.duration());
        if !is_first {
            return loads.run(server, depth, warm, time);
        }
        thread::scope(|scope| {
            // While it is measured a session ends.
            let revoking = scope.spawn(|| {
                let (Some(session), Some(symbol)) = (self.sessions.last(), self.symbols.first())
                else {
                    return Err(wrong("nothing to ask for"));
                };
                opening::revoke(self.worker, *session, symbol.as_str())
            });
            let seen = loads.run(server, depth, warm, time);
            revoking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            seen
        })
    }

    /// A thread's connections, of which those to the worker are open.
    fn loads(&self, share: Share) -> Result<Loads, BenchError> {
        let seed = |number: usize| self.args.seed.wrapping_add(number as u64 * 1_000_003);
        let numbers: Vec<usize> = share.iter().map(|(number, _)| *number).collect();
        let symbols: Rc<[Symbol]> = self.symbols.into();
        let expected = Expected::new(deployment::source(self.args.symbols)?);
        let expected = Rc::new(RefCell::new(expected));
        let quotes = share.into_iter().map(|(number, opened)| {
            let session = self.sessions.get(number).copied().unwrap_or(SessionId::NONE);
            let (symbols, expected) = (Rc::clone(&symbols), Rc::clone(&expected));
            (opened, Quotes::new(seed(number), symbols, session, expected))
        });
        let quotes = Load::new(quotes.collect())?;
        let echoes = self.others(&numbers, self.echoes, |_| Echoes::new(self.sizes))?;
        let keys = self.symbols.len();
        let values = match &self.args.redis[..] {
            [] => None,
            all => Some(self.others(&numbers, all, |number| Values::new(seed(number), keys))?),
        };
        Ok(Loads { quotes, echoes, values })
    }

    /// Connections to servers of one thread each.
    fn others<T: Talk>(
        &self,
        numbers: &[usize],
        servers: &[SocketAddr],
        talk: impl Fn(usize) -> T,
    ) -> Result<Load<T>, BenchError> {
        let open = |number: &usize| {
            let server = servers.get(number % self.args.threads);
            let server = *server.ok_or_else(|| wrong("a server for each thread is needed"))?;
            Ok((Opened::Plain(plain(server)?), talk(*number)))
        };
        Load::new(numbers.iter().map(open).collect::<Result<_, BenchError>>()?)
    }
}

/// A thread's connections to each server.
struct Loads {
    quotes: Load<Quotes>,
    echoes: Load<Echoes>,
    values: Option<Load<Values>>,
}

impl Loads {
    fn servers(&self) -> impl Iterator<Item = Server> + use<> {
        let redis = self.values.is_some().then_some(Server::Redis);
        [Server::Papertrader, Server::Echo].into_iter().chain(redis)
    }

    fn run(
        &mut self,
        server: Server,
        depth: usize,
        warm: Duration,
        time: Duration,
    ) -> Result<Seen, BenchError> {
        match (server, &mut self.values) {
            (Server::Papertrader, _) => self.quotes.run(depth, warm, time),
            (Server::Redis, Some(values)) => values.run(depth, warm, time),
            (Server::Echo | Server::Redis, _) => self.echoes.run(depth, warm, time),
        }
    }
}
