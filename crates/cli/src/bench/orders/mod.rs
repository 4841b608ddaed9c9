//! `papertrader bench orders`: orders of many clients through the worker, the master and its disk, and
//! back. Three loads, each against servers of its own: as many orders as are taken (`throughput`), the
//! wait of clients who send one at a time (`latency`), and their wait while a large settlement is
//! written (`settlement`).
//!
//! The load comes from one thread of this process. Nothing is left out of what is measured but the
//! passwords: TLS, the session, both servers, a commit on the disk. Invariant: in the end each order
//! that was acknowledged is looked up in the books, or the command fails.

mod client;
mod report;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use papertrader_core::ids::AccountId;
use papertrader_core::names::Symbol;
use papertrader_core::order::OrderState;
use papertrader_market::PriceSource;
use papertrader_node::config::HumanDuration;
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{Found, Store};
use tokio::task::{JoinSet, LocalSet};

use super::cpu::Processors;
use super::deployment::{self, Deployment, Size};
use super::times::{Latencies, Times};
use super::{BenchError, Scratch, wrong};
use crate::error::CliError;
use crate::output::Output;
use client::{Client, Known, Load, Manner};
use report::{LatencyReport, Report, SettlementReport, ThroughputReport};

/// Sessions that one connection may use.
const SESSIONS: usize = 8;
/// As fast as it goes.
const NO_PACE: Duration = Duration::ZERO;
/// Between two orders of a client who sends one at a time while the queue is filled: they are to
/// measure, not to fill it.
const PACE: Duration = Duration::from_millis(20);
/// Orders that the servers have room for.
const ROOM: u64 = 4_000_000;
/// Client order IDs that are looked up at a time.
const LOOKUP: usize = 10_000;

#[derive(Debug, Args)]
pub(super) struct OrdersArgs {
    /// What is measured [default: all three]
    #[arg(long, value_enum, value_delimiter = ',')]
    load: Vec<LoadKind>,
    /// Clients, each with a connection
    #[arg(long, default_value_t = 50)]
    connections: usize,
    /// Accounts of each connection, with a session each: 1 to 8
    #[arg(long, default_value_t = SESSIONS)]
    accounts: usize,
    /// Instruments
    #[arg(long, default_value_t = 100)]
    symbols: u32,
    /// How often orders are settled
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    interval: HumanDuration,
    /// Throughput: orders in all
    #[arg(long, default_value_t = 500_000)]
    orders: u64,
    /// Throughput: orders of one connection that wait for their acknowledgement, at most 256
    #[arg(long, default_value_t = 256)]
    window: usize,
    /// Latency: for how long
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    time: HumanDuration,
    /// Settlement: orders that it decides
    #[arg(long, default_value_t = 100_000)]
    queued: u64,
    /// Settlement: how often
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Settlement: its interval, long enough for the orders to be queued
    #[arg(long, value_name = "DURATION", default_value = "8s")]
    pause: HumanDuration,
    /// Plain TCP to the worker instead of TLS
    #[arg(long)]
    plain: bool,
    /// The directory for the servers' data: on the disk that is to be measured [default: here]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LoadKind {
    /// As many orders as are taken
    Throughput,
    /// Clients who send one order at a time
    Latency,
    /// The same while a large settlement is written
    Settlement,
}

pub(super) fn run(args: &OrdersArgs, output: &Output) -> Result<(), CliError> {
    let report = measure(args, output).map_err(CliError::Bench)?;
    if output.json {
        return output.object(&report);
    }
    output.text(&report.text())
}

fn measure(args: &OrdersArgs, output: &Output) -> Result<Report, BenchError> {
    check_options(args)?;
    let scratch = Scratch::new(args.dir.as_ref())?;
    let source = deployment::source(args.symbols)?;
    let symbols = source.instruments().iter().map(|spec| spec.symbol).collect();
    let bench = Bench { args, output, scratch: &scratch, symbols };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let wanted = |kind| args.load.is_empty() || args.load.contains(&kind);
    let mut report = Report::new(args, deployment::raised(&bench.size(args.interval)));
    if wanted(LoadKind::Latency) {
        report.latency = Some(bench.latency(&runtime)?);
    }
    if wanted(LoadKind::Throughput) {
        report.throughput = Some(bench.throughput(&runtime)?);
    }
    if wanted(LoadKind::Settlement) {
        report.settlement = Some(bench.settlement(&runtime)?);
    }
    Ok(report)
}

fn check_options(args: &OrdersArgs) -> Result<(), BenchError> {
    let between = |name, value: u64, most: u64| {
        let problem = format!("must be 1 to {most}");
        if (1..=most).contains(&value) { Ok(()) } else { Err(BenchError::Option { name, problem }) }
    };
    between("--connections", args.connections as u64, 10_000)?;
    between("--accounts", args.accounts as u64, SESSIONS as u64)?;
    between("--symbols", args.symbols.into(), 10_000)?;
    between("--orders", args.orders, u32::MAX.into())?;
    between("--window", args.window as u64, 256)?;
    between("--queued", args.queued, u32::MAX.into())?;
    between("--rounds", args.rounds.into(), 1_000)?;
    // The load counts its time in 32 bits of microseconds.
    for (name, time) in
        [("--interval", args.interval), ("--time", args.time), ("--pause", args.pause)]
    {
        let problem = "must be 1ms to 10m".into();
        if !(1..=600_000).contains(&time.as_millis()) {
            return Err(BenchError::Option { name, problem });
        }
    }
    Ok(())
}

struct Bench<'a> {
    args: &'a OrdersArgs,
    output: &'a Output,
    scratch: &'a Scratch,
    symbols: Vec<Symbol>,
}

/// What a load left.
struct Ended {
    load: Rc<Load>,
    clients: Vec<Client>,
    processors: Option<Processors>,
    /// How long it took, the outcomes included.
    time: Duration,
}

impl Bench<'_> {
    fn size(&self, interval: HumanDuration) -> Size {
        let args = self.args;
        // Those who fill the queue for a settlement are clients too.
        let connections = args.connections * 2;
        Size {
            connections,
            symbols: args.symbols,
            open: usize::try_from(ROOM.max(args.orders).max(args.queued * 2)).ok(),
            interval: interval.duration(),
            plain: args.plain,
            threads: 0,
            eager: false,
            registering: 0,
        }
    }

    /// Starts servers, lets `drive` put load on them with as many clients, ends the servers, and
    /// checks.
    fn against<F>(
        &self,
        runtime: &tokio::runtime::Runtime,
        name: &str,
        interval: HumanDuration,
        connections: usize,
        drive: F,
    ) -> Result<Ended, BenchError>
    where
        F: AsyncFnOnce(Rc<Load>, Vec<Client>) -> Result<Vec<Client>, BenchError>,
    {
        self.output.note(&format!("{name}: starting a master and a worker"));
        let (data, size) = (self.scratch.file(name), self.size(interval));
        let sessions = deployment::seed(&data, size.connections * self.args.accounts)?;
        let deployment = Deployment::start(&data, &size)?;
        let load = Rc::new(Load::new(self.symbols.clone()));
        let per_client = self.args.accounts;
        let ended = runtime.block_on(async {
            let mut clients = Vec::new();
            for (number, sessions) in sessions.chunks(per_client).take(connections).enumerate() {
                let (server, certificate) = (deployment.worker, deployment.certificate);
                let first = (number * per_client) as u32 + 1;
                let symbols = self.symbols.len();
                let client = Client::connect(number, server, certificate, sessions, first, symbols);
                clients.push(client.await?);
            }
            self.output.note(&format!("{name}: measuring"));
            let before = Processors::used(&deployment);
            let begun = Instant::now();
            let clients = LocalSet::new().run_until(drive(Rc::clone(&load), clients)).await?;
            let time = begun.elapsed();
            let processors = before
                .zip(Processors::used(&deployment))
                .map(|(before, after)| after.since(&before));
            Ok::<Ended, BenchError>(Ended { load, clients, processors, time })
        })?;
        self.output.note(&format!("{name}: looking every order up"));
        deployment.end()?;
        let mut store = deployment::books(&data)?;
        check(&mut store, &ended)?;
        drop(store);
        std::fs::remove_dir_all(self.scratch.file(name))?;
        Ok(ended)
    }

    fn throughput(
        &self,
        runtime: &tokio::runtime::Runtime,
    ) -> Result<ThroughputReport, BenchError> {
        let args = self.args;
        let connections = args.connections;
        let drive = async |load: Rc<Load>, clients| {
            load.left.set(args.orders);
            trade(&load, clients, Manner { window: args.window, pace: NO_PACE }).await
        };
        let ended = self.against(runtime, "throughput", args.interval, connections, drive)?;
        let sent = || ended.clients.iter().flat_map(|client| &client.sent);
        let queued = || sent().filter(|order| order.known != Known::Refused);
        let first = sent().map(|order| order.at).min().unwrap_or(0);
        let rate = |count: usize, last: Option<u32>| {
            let micros = last.unwrap_or(0).saturating_sub(first).max(1);
            count as f64 * 1e6 / f64::from(micros)
        };
        let filled = sent().filter(|order| order.known == Known::Filled).count();
        let mut times = Times::new();
        queued().for_each(|order| times.add(micros(order.queued - order.at)));
        let refused = ended.load.seen.refused.borrow().clone();
        Ok(ThroughputReport {
            orders: queued().count() as u64,
            acknowledged_per_second: rate(queued().count(), queued().map(|o| o.queued).max()),
            settled_per_second: rate(filled, sent().map(|o| o.decided).max()),
            seconds: ended.time.as_secs_f64(),
            settlements: ended.load.seen.settlements.borrow().len() as u64,
            acknowledged_ms: Latencies::of(&times),
            refused,
            processors: ended.processors,
        })
    }

    fn latency(&self, runtime: &tokio::runtime::Runtime) -> Result<LatencyReport, BenchError> {
        let args = self.args;
        let drive = async |load: Rc<Load>, clients| {
            load.left.set(u64::MAX);
            load.until.set(Some(Instant::now() + args.time.duration()));
            trade(&load, clients, Manner { window: 1, pace: NO_PACE }).await
        };
        let ended = self.against(runtime, "latency", args.interval, args.connections, drive)?;
        let mut times = Times::new();
        let orders = ended.clients.iter().flat_map(|client| &client.sent);
        for order in orders.filter(|order| order.known != Known::Refused) {
            times.add(micros(order.queued - order.at));
        }
        Ok(LatencyReport {
            orders: times.count(),
            acknowledged_ms: Latencies::of(&times),
            refused: ended.load.seen.refused.borrow().clone(),
            processors: ended.processors,
        })
    }

    /// Half of the clients fill the queue, at once after a settlement; the others send one order at a
    /// time all the while.
    fn settlement(
        &self,
        runtime: &tokio::runtime::Runtime,
    ) -> Result<SettlementReport, BenchError> {
        let args = self.args;
        let all = args.connections * 2;
        let drive = async |load: Rc<Load>, mut clients: Vec<Client>| {
            let mut fillers = clients.split_off(args.connections);
            let filling = Rc::new(load.filling());
            let fast = Manner { window: args.window, pace: NO_PACE };
            load.left.set(u64::MAX);
            let steady = tokio::task::spawn_local({
                let load = Rc::clone(&load);
                async move { trade(&load, clients, Manner { window: 1, pace: PACE }).await }
            });
            for _ in 0..args.rounds {
                load.settled().await;
                filling.left.set(args.queued);
                fillers = trade(&filling, fillers, fast).await?;
            }
            load.left.set(0);
            let mut clients = steady.await.map_err(wrong)??;
            clients.append(&mut fillers);
            Ok(clients)
        };
        let ended = self.against(runtime, "settlement", args.pause, all, drive)?;
        let settlements = ended.load.seen.settlements.borrow();
        let large: Vec<(u32, u32, u64)> = settlements
            .iter()
            .filter(|(_, seen)| seen.filling >= args.queued)
            .map(|(wall, seen)| (ended.load.since_start(*wall), seen.first, seen.orders))
            .collect();
        if large.is_empty() {
            let most = settlements.values().map(|seen| seen.filling).max().unwrap_or(0);
            let problem = format!(
                "is too short: of {} orders at most {most} were queued within it",
                args.queued
            );
            return Err(BenchError::Option { name: "--pause", problem });
        }
        let (mut waited, mut written) = (Times::new(), Times::new());
        for (begun, told, _) in &large {
            written.add(micros(told.saturating_sub(*begun)));
            for order in ended.clients.iter().take(args.connections).flat_map(|it| &it.sent) {
                if order.known != Known::Refused && order.at <= *told && order.queued >= *begun {
                    waited.add(micros(order.queued - order.at));
                }
            }
        }
        Ok(SettlementReport {
            rounds: args.rounds.into(),
            settlements: large.len() as u64,
            decided: large.iter().map(|(_, _, orders)| *orders).max().unwrap_or(0),
            written_ms: Latencies::of(&written),
            orders: waited.count(),
            acknowledged_ms: Latencies::of(&waited),
            refused: ended.load.seen.refused.borrow().clone(),
            processors: ended.processors,
        })
    }
}

fn micros(micros: u32) -> Duration {
    Duration::from_micros(micros.into())
}

/// Lets all clients trade until the load is over and everything is decided.
async fn trade(
    load: &Rc<Load>,
    clients: Vec<Client>,
    how: Manner,
) -> Result<Vec<Client>, BenchError> {
    let mut tasks = JoinSet::new();
    for mut client in clients {
        let load = Rc::clone(load);
        tasks.spawn_local(async move {
            client.trade(&load, how).await?;
            Ok::<Client, BenchError>(client)
        });
    }
    let mut ended = Vec::new();
    while let Some(client) = tasks.join_next().await {
        ended.push(client.map_err(wrong)??);
    }
    ended.sort_by_key(|client| client.number);
    Ok(ended)
}

/// That the books are right, and hold each acknowledged order once, as its client was told.
fn check(store: &mut SqliteStore, ended: &Ended) -> Result<(), BenchError> {
    if let Some(mismatch) = store.verify()?.first() {
        return Err(wrong(&mismatch.what));
    }
    let stored = store.load()?.next_order.0 - 1;
    let (mut keys, mut told, mut count) = (Vec::new(), Vec::new(), 0);
    for client in &ended.clients {
        for (index, order) in client.sent.iter().enumerate() {
            if order.known == Known::Refused {
                continue;
            }
            let (account, id) = client.key(&ended.load, index).ok_or_else(|| wrong("no ID"))?;
            keys.push((AccountId(account), id.parse().map_err(wrong)?));
            told.push(order.known);
            count += 1;
            if keys.len() == LOOKUP {
                compare(store, &mut keys, &mut told)?;
            }
        }
    }
    compare(store, &mut keys, &mut told)?;
    let refused: u64 = ended.load.seen.refused.borrow().values().sum();
    // A refusal may bind its client order ID, and is stored then.
    if stored < count || stored > count + refused {
        return Err(wrong(format!("{count} orders were acknowledged, and {stored} are stored")));
    }
    Ok(())
}

fn compare(
    store: &mut SqliteStore,
    keys: &mut Vec<(AccountId, papertrader_core::names::ClientOrderId)>,
    told: &mut Vec<Known>,
) -> Result<(), BenchError> {
    let found = store.find(keys)?;
    for ((key, told), found) in keys.drain(..).zip(told.drain(..)).zip(found) {
        let agrees = match found {
            Some(Found::Order(record)) => match record.state {
                OrderState::Filled(_) => told == Known::Filled,
                OrderState::Queued(_) => told == Known::Queued,
                _ => told == Known::Failed,
            },
            _ => false,
        };
        if !agrees {
            return Err(wrong(format!("order {} of account {}: not as told", key.1, key.0)));
        }
    }
    Ok(())
}
