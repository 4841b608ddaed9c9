//! `papertrader bench push`: how long it takes from a snapshot in the master to the answer of the last of
//! many workers that contains it, and how many bytes their links carry for it.
//!
//! Master and workers are processes of this machine; the links go through a [`Forwarder`] that counts
//! the bytes of TLS. A client on each worker asks for a quote, waits for `--poll`, and asks again.
//! A snapshot is in the master at the time that its settlement is stored with: when the prices had come
//! from their source, before anything of them was judged or written. Invariant: a quote that is not the
//! one of its snapshot fails the command.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use papertrader_core::names::Symbol;
use papertrader_market::PriceSource;
use papertrader_node::config::HumanDuration;
use papertrader_protocol::data::AssetValue;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Instruction, SessionId};
use serde::Serialize;

use super::deployment::{self, Deployment, Size};
use super::forwarder::Forwarder;
use super::quotes::Conversation;
use super::stream::Worker;
use super::{BenchError, Scratch, Times, progress, wrong};
use crate::error::CliError;
use crate::output::Output;
use crate::output::table::{Align, Table};

/// How long the next snapshot may take, in intervals.
const PATIENCE: u32 = 30;

#[derive(Debug, Args)]
pub(super) struct PushArgs {
    /// Workers, each with a client
    #[arg(long, default_value_t = 20)]
    workers: u16,
    /// Instruments, all of which change each time
    #[arg(long, default_value_t = 10_000)]
    symbols: u32,
    /// How often prices change
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    interval: HumanDuration,
    /// Snapshots that are measured
    #[arg(long, default_value_t = 40)]
    snapshots: u64,
    /// How long a client waits before it asks again
    #[arg(long, value_name = "DURATION", default_value = "2ms")]
    poll: HumanDuration,
    /// The directory for the servers' data [default: here]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    workers: u16,
    symbols: u32,
    interval_ms: u64,
    poll_ms: u64,
    settings: BTreeMap<&'static str, String>,
    snapshots: u64,
    /// From the time that the settlement is stored with, to an answer that contains it.
    from_taken_ms: Stages,
    /// From the first bytes of it on any link.
    from_wire_ms: Stages,
    /// TLS included, of all that the links carried.
    bytes_per_change: f64,
    bytes_to_workers: u64,
    bytes_to_master: u64,
    checked: u64,
}

#[derive(Debug, Serialize)]
struct Stages {
    first_worker: Quantiles,
    median_worker: Quantiles,
    last_worker: Quantiles,
}

#[derive(Debug, Serialize)]
struct Quantiles {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Quantiles {
    fn of(times: &Times) -> Quantiles {
        let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(|part| times.quantile(part));
        Quantiles { p50, p90, p99, max }
    }
}

pub(super) fn run(args: &PushArgs, output: &Output) -> Result<(), CliError> {
    let report = measure(args, output).map_err(CliError::Bench)?;
    if output.json {
        return output.object(&report);
    }
    output.text(&text(&report))
}

fn measure(args: &PushArgs, output: &Output) -> Result<Report, BenchError> {
    let between = |name, value: u64, least: u64, most: u64| {
        let problem = format!("must be {least} to {most}");
        let fits = (least..=most).contains(&value);
        if fits { Ok(()) } else { Err(BenchError::Option { name, problem }) }
    };
    between("--workers", args.workers.into(), 1, 50)?;
    // Fewer are not told from other messages on a link.
    between("--symbols", args.symbols.into(), 200, 100_000)?;
    between("--snapshots", args.snapshots, 1, 100_000)?;
    between("--interval", args.interval.as_millis(), 200, 600_000)?;
    between("--poll", args.poll.as_millis(), 1, 600_000)?;
    let scratch = Scratch::new(args.dir.as_ref())?;
    let data = scratch.file("data");
    let size = Size {
        connections: 1,
        symbols: args.symbols,
        open: None,
        registering: 0,
        interval: args.interval.duration(),
        plain: true,
        threads: 1,
        eager: true,
    };
    output.note("starting a master and its workers");
    let sessions = deployment::seed(&data, args.workers.into())?;
    let forwarder = Forwarder::start()?;
    let servers = Deployment::start_many(&data, &size, args.workers, Some(&forwarder))?;
    let clients = servers.workers.iter().zip(&sessions);
    let watched =
        watch(args, clients.map(|(worker, session)| (*worker, *session)), &forwarder, output)?;
    servers.end()?;
    report(args, &size, &watched, &forwarder.bursts(), &taken(&data)?)
}

/// An answer that contained a snapshot that the client had not seen yet.
struct Sight {
    at: SystemTime,
    value: AssetValue,
}

/// What the clients have seen.
struct Watched {
    /// By worker, in order of time.
    sights: Vec<Vec<Sight>>,
    /// The snapshots that are measured.
    first: u64,
    last: u64,
    to_workers: u64,
    to_master: u64,
}

/// A client that asks for the same quote again and again.
struct Looking<'a> {
    symbol: Symbol,
    is_over: &'a AtomicBool,
    poll: Duration,
    patience: Duration,
    news: Sender<u64>,
}

impl Looking<'_> {
    fn look(&self, mut client: Conversation) -> Result<Vec<Sight>, BenchError> {
        let mut sights: Vec<Sight> = Vec::new();
        let mut since = Instant::now();
        while !self.is_over.load(Ordering::Relaxed) {
            let quote = Instruction::GetAssetValueCurrent;
            let data = client.ask(quote, self.symbol.as_str().as_bytes(), Instruction::Data)?;
            let at = SystemTime::now();
            let value = AssetValue::from_bytes(&data).map_err(wrong)?;
            let before = sights.last().map_or(0, |sight| sight.value.snapshot);
            if value.snapshot < before {
                return Err(wrong("a quote of an earlier snapshot than the one before"));
            }
            if value.snapshot > before {
                // Nobody listens any more once all is seen.
                let _ = self.news.send(value.snapshot);
                sights.push(Sight { at, value });
                since = Instant::now();
            } else if since.elapsed() > self.patience {
                return Err(wrong("no new snapshot for a long time"));
            }
            thread::sleep(self.poll);
        }
        Ok(sights)
    }
}

fn watch(
    args: &PushArgs,
    workers: impl Iterator<Item = (SocketAddr, SessionId)>,
    forwarder: &Forwarder,
    output: &Output,
) -> Result<Watched, BenchError> {
    // The last instrument, so that it is not looked at sooner than others.
    let source = deployment::source(args.symbols)?;
    let symbol = source.instruments().last().map(|spec| spec.symbol);
    let symbol = symbol.ok_or_else(|| wrong("no instruments"))?;
    let mut clients = Vec::new();
    for (address, session) in workers {
        let worker = Worker { address, certificate: None };
        clients.push(Conversation::quoting(worker, session)?);
    }
    let is_over = AtomicBool::new(false);
    let (poll, patience) = (args.poll.duration(), args.interval.duration() * PATIENCE);
    let (news, heard) = mpsc::channel();
    thread::scope(|scope| {
        let (is_over, mut watching) = (&is_over, Vec::new());
        for client in clients {
            let news = news.clone();
            watching.push(scope.spawn(move || {
                let looking = Looking { symbol, is_over, poll, patience, news };
                let seen = looking.look(client);
                if seen.is_err() {
                    // Nobody waits for it.
                    is_over.store(true, Ordering::Relaxed);
                }
                seen
            }));
        }
        drop(news);
        let bar = progress(output, "snapshots", args.snapshots);
        let all = watching.len();
        // The counting begins and ends between snapshots, when all have seen the one before.
        let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
        let (mut first, mut at_first, mut at_last) = (None, (0, 0), (0, 0));
        for snapshot in heard {
            let count = seen.entry(snapshot).or_default();
            *count += 1;
            if *count < all {
                continue;
            }
            match first {
                // What is left of the start passes by.
                None if seen.len() > 3 => {
                    first = Some(snapshot + 1);
                    at_first = forwarder.carried();
                }
                Some(first) if snapshot + 1 >= first + args.snapshots => {
                    at_last = forwarder.carried();
                    break;
                }
                Some(_) => bar.inc(1),
                None => {}
            }
        }
        is_over.store(true, Ordering::Relaxed);
        bar.finish_and_clear();
        let join = |thread: ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let sights = watching.into_iter().map(join).collect::<Result<Vec<_>, _>>()?;
        let first = first.ok_or_else(|| wrong("too few snapshots were seen by all"))?;
        Ok(Watched {
            sights,
            first,
            last: first + args.snapshots - 1,
            to_workers: at_last.0 - at_first.0,
            to_master: at_last.1 - at_first.1,
        })
    })
}

/// When each snapshot was taken, by its number.
fn taken(data: &Path) -> Result<BTreeMap<u64, SystemTime>, BenchError> {
    let file = data.join("master/papertrader.db");
    let books = rusqlite::Connection::open(file)?;
    let mut statement = books.prepare("SELECT number, wall FROM snapshot")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    rows.map(|row| {
        let (number, wall) = row?;
        let since = Duration::from_nanos(u64::try_from(wall).map_err(wrong)?);
        Ok((u64::try_from(number).map_err(wrong)?, UNIX_EPOCH + since))
    })
    .collect()
}

fn report(
    args: &PushArgs,
    size: &Size,
    watched: &Watched,
    bursts: &[SystemTime],
    taken: &BTreeMap<u64, SystemTime>,
) -> Result<Report, BenchError> {
    let three = || [Times::new(), Times::new(), Times::new()];
    let (mut from_taken, mut from_wire) = (three(), three());
    for number in watched.first..=watched.last {
        let taken = *taken.get(&number).ok_or_else(|| wrong("a snapshot that is not stored"))?;
        let mut sights: Vec<SystemTime> = Vec::new();
        for seen in &watched.sights {
            let sight = seen.iter().find(|sight| sight.value.snapshot >= number);
            sights.push(sight.ok_or_else(|| wrong("a snapshot that was not seen"))?.at);
        }
        sights.sort_unstable();
        let wire = bursts.iter().find(|at| **at >= taken);
        let wire = *wire.ok_or_else(|| wrong("a snapshot that was on no link"))?;
        let stages = [sights.first(), sights.get(sights.len() / 2), sights.last()];
        for (stage, at) in stages.into_iter().flatten().enumerate() {
            for (times, from) in [(&mut from_taken, taken), (&mut from_wire, wire)] {
                let time =
                    at.duration_since(from).map_err(|_| wrong("seen before it was there"))?;
                times[stage].add(time);
            }
        }
    }
    let stages = |[first, median, last]: &[Times; 3]| Stages {
        first_worker: Quantiles::of(first),
        median_worker: Quantiles::of(median),
        last_worker: Quantiles::of(last),
    };
    let changes = args.snapshots * u64::from(args.symbols) * u64::from(args.workers);
    Ok(Report {
        workers: args.workers,
        symbols: args.symbols,
        interval_ms: args.interval.as_millis(),
        poll_ms: args.poll.as_millis(),
        settings: deployment::raised(size),
        snapshots: args.snapshots,
        from_taken_ms: stages(&from_taken),
        from_wire_ms: stages(&from_wire),
        bytes_per_change: watched.to_workers as f64 / changes as f64,
        bytes_to_workers: watched.to_workers,
        bytes_to_master: watched.to_master,
        checked: check(args, watched)?,
    })
}

/// Computes each snapshot's quote a second time; how many were looked at.
fn check(args: &PushArgs, watched: &Watched) -> Result<u64, BenchError> {
    let source = deployment::source(args.symbols)?;
    let mut prices = BTreeMap::new();
    let mut checked = 0;
    for sight in watched.sights.iter().flatten() {
        let AssetValue { price, time, market, .. } = sight.value;
        if let Entry::Vacant(place) = prices.entry(time) {
            let step = source.next(time.plus_nanos(-1)).map_err(wrong)?;
            let step = step.filter(|step| step.time == time);
            place.insert(step.and_then(|step| step.prices.last().map(|last| last.mark.price)));
        }
        if time != market || prices.get(&time) != Some(&Some(price)) {
            return Err(wrong(format!("a wrong quote: {:?}", sight.value)));
        }
        checked += 1;
    }
    Ok(checked)
}

fn text(report: &Report) -> String {
    let mut table = Table::new(&[
        ("milliseconds until an answer contains it", Align::Left),
        ("p50", Align::Right),
        ("p90", Align::Right),
        ("p99", Align::Right),
        ("most", Align::Right),
    ]);
    for (from, stages) in [
        ("from the snapshot in the master", &report.from_taken_ms),
        ("from its first bytes on a link", &report.from_wire_ms),
    ] {
        for (which, times) in [
            ("first", &stages.first_worker),
            ("middle", &stages.median_worker),
            ("last", &stages.last_worker),
        ] {
            let figure = |value: f64| format!("{value:.1}").into();
            let Quantiles { p50, p90, p99, max } = *times;
            table.row([
                format!("{from}: the {which} worker's").into(),
                figure(p50),
                figure(p90),
                figure(p99),
                figure(max),
            ]);
        }
    }
    let mut text = format!(
        "{} workers, {} symbols that all change every {} ms, {} snapshots; a client on each worker asks every \
         {} ms\n",
        report.workers, report.symbols, report.interval_ms, report.snapshots, report.poll_ms
    );
    for (name, value) in &report.settings {
        text += &format!("  set: {name}={value}\n");
    }
    text += &format!("\n{}\n", table.draw(false));
    text += &format!(
        "{:.2} bytes of a link for each changed instrument, TLS and all else on it included\n{} quotes were \
         computed a second time and right\n",
        report.bytes_per_change, report.checked
    );
    text
}
