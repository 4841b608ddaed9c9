//! `papertrader bench mix`: the operations of the DayTrader benchmark, in its mix, of users who each do one
//! at a time, through the worker and the master. What costs a password hash by design (registration,
//! log-in, change of password) is a line of its own, measured in turn with the bare hash.
//!
//! The load comes from one thread of this process. Accounts, positions and sessions are in the books before the
//! start. Invariant: an order that was answered is in the books once, and so is everybody who was
//! registered, or the command fails.

mod hashes;
mod load;
mod member;
mod operation;
mod report;
mod talk;
mod trader;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use papertrader_core::ids::AccountId;
use papertrader_core::names::ClientOrderId;
use papertrader_core::order::OrderState;
use papertrader_market::PriceSource;
use papertrader_node::config::HumanDuration;
use papertrader_protocol::SessionId;
use papertrader_store::{Found, Store};

use super::cpu::Processors;
use super::deployment::{self, Deployment, Size};
use super::market::{self, Ids, Market};
use super::prices::Expected;
use super::stream::Worker;
use super::{BenchError, Scratch, progress, wrong};
use crate::error::CliError;
use crate::output::Output;
use load::{Actor, Load, Seen};
use member::Member;
use operation::{MIX, Operation, parts};
use report::{MixLine, PasswordLine, Report};
use trader::{Known, Trader, World};

/// More requests a second than are to be expected: sessions for the users who come after a logout.
const MOST: u64 = 200_000;
/// Sessions that an account may have.
const SESSIONS: u64 = 32;
/// How long a settlement may take.
const SETTLED: Duration = Duration::from_secs(10);
/// Client order IDs that are looked up at a time.
const LOOKUP: usize = 10_000;

#[derive(Debug, Args)]
pub(super) struct MixArgs {
    /// What is measured [default: both]
    #[arg(long, value_enum, value_delimiter = ',')]
    line: Vec<LineKind>,
    /// Connections, each with a user who does one operation at a time
    #[arg(long, default_value_t = 50)]
    connections: usize,
    /// Users, each with cash and five positions
    #[arg(long, default_value_t = 15_000)]
    users: u32,
    /// Instruments
    #[arg(long, default_value_t = 10_000)]
    instruments: u32,
    /// How often prices change and orders are settled
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    interval: HumanDuration,
    /// For how long each line is measured in a round
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    time: HumanDuration,
    /// For how long the operations are done before that
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    warm: HumanDuration,
    /// How often the lines are measured in turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Plain TCP to the worker instead of TLS
    #[arg(long)]
    plain: bool,
    /// Makes the choice of operations, users and instruments
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The directory for the servers' data: on the disk that is to be measured [default: here]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LineKind {
    /// The mix without what costs a password hash
    Mix,
    /// What costs a password hash, and the bare hash
    Passwords,
}

pub(super) fn run(args: &MixArgs, output: &Output) -> Result<(), CliError> {
    let report = measure(args, output).map_err(CliError::Bench)?;
    if output.json {
        return output.object(&report);
    }
    output.text(&report.text())
}

fn check_options(args: &MixArgs) -> Result<(), BenchError> {
    let between = |name, value: u64, least: u64, most: u64| {
        let problem = format!("must be {least} to {most}");
        if (least..=most).contains(&value) {
            Ok(())
        } else {
            Err(BenchError::Option { name, problem })
        }
    };
    between("--connections", args.connections as u64, 1, 10_000)?;
    between("--users", args.users.into(), 1, 10_000_000)?;
    between("--instruments", args.instruments.into(), 10, 10_000)?;
    between("--rounds", args.rounds as u64, 1, 1_000)?;
    // A client's ID of an order counts its time in 32 bits of microseconds.
    for (name, time) in [("--interval", args.interval), ("--time", args.time)] {
        let problem = "must be 1ms to 10m".into();
        if !(1..=600_000).contains(&time.as_millis()) {
            return Err(BenchError::Option { name, problem });
        }
    }
    Ok(())
}

fn measure(args: &MixArgs, output: &Output) -> Result<Report, BenchError> {
    check_options(args)?;
    let scratch = Scratch::new(args.dir.as_ref())?;
    let data = scratch.file("data");
    let wanted = |kind| args.line.is_empty() || args.line.contains(&kind);
    let (mix, passwords) = (wanted(LineKind::Mix), wanted(LineKind::Passwords));
    let size = Size {
        // Each line has its own.
        connections: args.connections * (usize::from(mix) + usize::from(passwords)),
        symbols: args.instruments,
        open: None,
        interval: args.interval.duration(),
        plain: args.plain,
        threads: 0,
        eager: false,
        registering: if passwords { args.connections } else { 0 },
    };
    let sessions = fill(&data, args, output)?;
    output.note("starting a master and a worker");
    let deployment = Deployment::start(&data, &size)?;
    let source = deployment::source(args.instruments)?;
    let symbols = source.instruments().iter().map(|spec| spec.symbol).collect();
    let expected = Expected::new(source);
    let world = Rc::new(World::new(symbols, sessions, args.users, expected, deployment::now()));
    let worker = Worker { address: deployment.worker, certificate: deployment.certificate };
    let mut first = Trader::new(args.connections, args.seed, &world);
    if mix {
        output.note("waiting for the first prices");
        first.await_prices(worker.connect()?, args.interval.duration() + SETTLED)?;
    }
    // Connected when they are needed first: who shows no session for long is cut off.
    let (mut traders, mut members) = (None, None);
    let threads = papertrader_master::Config::default().password_threads;
    let mut report = Report::new(args, deployment::raised(&size));
    let (mut mixed, mut hashed) = (MixLine::default(), PasswordLine::new(threads));
    for round in 1..=args.rounds {
        if mix {
            output.note(&format!("round {round}: the mix"));
            let trader = |number| Trader::new(number, args.seed, &world);
            let (seen, used) = run_load(args, worker, &deployment, &mut traders, trader)?;
            mixed.add(seen, used)?;
        }
        if passwords {
            output.note(&format!("round {round}: passwords"));
            let member = |number| Member::new(number, args.seed);
            let (seen, used) = run_load(args, worker, &deployment, &mut members, member)?;
            output.note(&format!("round {round}: the bare hash"));
            let bare = hashes::bare(threads, args.time.duration())?;
            hashed.add(seen, used, bare)?;
        }
    }
    output.note("looking every order up");
    deployment.end()?;
    let mut traders = traders.map(Load::into_actors).unwrap_or_default();
    traders.push(first);
    let members = members.map(Load::into_actors).unwrap_or_default();
    check(&data, args, &traders, &members)?;
    if mix {
        mixed.checked = world.checked.get();
        report.mix = Some(mixed.finished()?);
    }
    report.passwords = passwords.then(|| hashed.finished()).transpose()?;
    Ok(report)
}

/// Makes the books: users with positions, and sessions for all who will be needed, in no order.
fn fill(
    data: &Path,
    args: &MixArgs,
    output: &Output,
) -> Result<Vec<(AccountId, SessionId)>, BenchError> {
    let users = args.users;
    let size = market::Size {
        accounts: users,
        symbols: args.instruments,
        ids: Ids::Uuid,
        seed: args.seed,
    };
    let mut market = Market::of(size, &deployment::source(args.instruments)?);
    let mut store = deployment::books(data)?;
    let bar = progress(output, "accounts and orders", u64::from(users) * (1 + market::OWNED));
    market.prepare(&mut store, |done| bar.inc(done))?;
    bar.finish_and_clear();
    let time = (args.time.as_millis() + args.warm.as_millis()) * args.rounds as u64;
    let part = MIX.iter().find(|(operation, _)| *operation == Operation::Logout);
    let logouts = time * MOST / 1_000 * part.map_or(0, |(_, weight)| *weight) / parts(MIX);
    let all = logouts + args.connections as u64 + 1;
    let each = all.div_ceil(users.into()).clamp(1, SESSIONS);
    let mut sessions = deployment::open_sessions(&mut store, users, each as usize)?;
    shuffle(&mut sessions, args.seed);
    Ok(sessions)
}

fn shuffle<T>(all: &mut [T], seed: u64) {
    let mut random = seed;
    for last in (1..all.len()).rev() {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        all.swap(last, ((u128::from(random) * (last as u128 + 1)) >> 64) as usize);
    }
}

/// Lets the actors of all connections do operations, which are connected before the first time.
fn run_load<A: Actor>(
    args: &MixArgs,
    worker: Worker,
    deployment: &Deployment,
    load: &mut Option<Load<A>>,
    actor: impl Fn(usize) -> A,
) -> Result<(Seen, Option<Processors>), BenchError> {
    let load = match load {
        Some(load) => load,
        none => {
            let opened = (0..args.connections).map(|number| Ok((worker.connect()?, actor(number))));
            none.insert(Load::new(opened.collect::<Result<_, BenchError>>()?)?)
        }
    };
    let before = Processors::used(deployment);
    let seen = load.run(args.warm.duration(), args.time.duration())?;
    let used = before.zip(Processors::used(deployment));
    Ok((seen, used.map(|(before, after)| after.since(&before))))
}

/// That the books are right, and hold each order that was answered once, as its user was told, and
/// everybody who was registered.
fn check(
    data: &Path,
    args: &MixArgs,
    traders: &[Trader],
    members: &[Member],
) -> Result<(), BenchError> {
    let mut store = deployment::books(data)?;
    if let Some(mismatch) = store.verify()?.first() {
        return Err(wrong(&mismatch.what));
    }
    let loaded = store.load()?;
    let names: std::collections::HashMap<&str, _> =
        loaded.profiles.iter().map(|profile| (profile.name.as_str(), profile)).collect();
    for name in members.iter().flat_map(Member::names) {
        let profile = names.get(name).ok_or_else(|| wrong(format!("{name} is not stored")))?;
        let stored = profile.pass_hash.as_ref();
        hashes::check(stored.ok_or_else(|| wrong(format!("{name} has no password")))?)?;
    }
    let (mut keys, mut told) = (Vec::new(), Vec::new());
    let (mut answered, mut refused) = (0, 0);
    for trader in traders {
        for (index, order) in trader.sent.iter().enumerate() {
            if order.known == Known::Refused {
                refused += 1;
                continue;
            }
            answered += 1;
            let id = trader.order_id(index).ok_or_else(|| wrong("an order without an ID"))?;
            keys.push((order.account, id.parse().map_err(wrong)?));
            told.push(order.known);
            if keys.len() == LOOKUP {
                compare(&mut store, &mut keys, &mut told)?;
            }
        }
    }
    compare(&mut store, &mut keys, &mut told)?;
    let before = u64::from(args.users) * market::OWNED;
    let stored = loaded.next_order.0 - 1 - before;
    // A refusal may bind its client order ID, and is stored then.
    if stored < answered || stored > answered + refused {
        return Err(wrong(format!("{answered} orders were answered, and {stored} are stored")));
    }
    Ok(())
}

fn compare(
    store: &mut dyn Store,
    keys: &mut Vec<(AccountId, ClientOrderId)>,
    told: &mut Vec<Known>,
) -> Result<(), BenchError> {
    let found = store.find(keys)?;
    for ((key, told), found) in keys.drain(..).zip(told.drain(..)).zip(found) {
        // Who has not heard of the outcome has not waited for it.
        let agrees = match (found, told) {
            (Some(Found::Order(_)), Known::Queued) => true,
            (Some(Found::Order(record)), Known::Filled) => {
                matches!(record.state, OrderState::Filled(_))
            }
            (Some(Found::Order(record)), Known::Failed) => {
                !matches!(record.state, OrderState::Filled(_) | OrderState::Queued(_))
            }
            _ => false,
        };
        if !agrees {
            return Err(wrong(format!("order {} of account {}: not as told", key.1, key.0)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_keeps_everything_and_leaves_little_in_its_place() {
        let mut all: Vec<usize> = (0..1_000).collect();
        shuffle(&mut all, 7);
        let kept = all.iter().enumerate().filter(|(place, one)| place == *one).count();
        assert!(kept < 20, "{kept}");
        all.sort_unstable();
        assert_eq!(all, (0..1_000).collect::<Vec<_>>());
    }
}
