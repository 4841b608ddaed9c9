//! `papertrader bench idle`: what connections cost that only are there, each with a session, and what
//! they do to a quote on a connection that is used.
//!
//! Invariant: every one of them is asked for a quote at the end, and must give it.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use papertrader_core::names::Symbol;
use papertrader_market::PriceSource;
use papertrader_node::config::HumanDuration;
use papertrader_protocol::SessionId;
use serde::Serialize;

use super::load::{Load, Seen};
use super::opening::Conversation;
use super::talk::Quotes;
use crate::bench::deployment::{self, Deployment, Size};
use crate::bench::prices::Expected;
use crate::bench::stream::Worker;
use crate::bench::{BenchError, Scratch, wrong};
use crate::error::CliError;
use crate::output::Output;
use crate::output::table::{Align, Table};

/// Instruments; how many does not matter here.
const SYMBOLS: u32 = 500;

#[derive(Debug, Args)]
pub(in crate::bench) struct IdleArgs {
    /// Connections that only are there, each with a session of its own
    #[arg(long, default_value_t = 15_000)]
    connections: usize,
    /// TLS to the worker
    #[arg(long)]
    tls: bool,
    /// For how long the used connection asks, before and while the others are there
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    time: HumanDuration,
    /// How often it is measured, before and after
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The directory for the servers' data [default: here]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What was seen.
#[derive(Debug, Serialize)]
struct Report {
    connections: usize,
    tls: bool,
    /// What was raised above the defaults.
    set: std::collections::BTreeMap<&'static str, String>,
    /// Resident memory of the worker, in bytes.
    before: u64,
    with: u64,
    bytes_each: f64,
    alone: Vec<Quantiles>,
    among: Vec<Quantiles>,
    /// The median of the p99 among the others, in that of alone.
    p99_ratio: f64,
}

/// Microseconds of a quote.
#[derive(Debug, Serialize)]
struct Quantiles {
    p50: f64,
    p99: f64,
    rate: f64,
}

impl Quantiles {
    fn of(seen: &Seen) -> Quantiles {
        Quantiles { p50: seen.quantile(0.5), p99: seen.quantile(0.99), rate: seen.rate() }
    }
}

pub(in crate::bench) fn run(args: &IdleArgs, output: &Output) -> Result<(), CliError> {
    let report = measure(args, output).map_err(CliError::Bench)?;
    if output.json {
        return output.object(&report);
    }
    output.text(&report.text())
}

fn measure(args: &IdleArgs, output: &Output) -> Result<Report, BenchError> {
    let option = |name, problem: &str| BenchError::Option { name, problem: problem.to_owned() };
    if !(1..=100_000).contains(&args.connections) {
        return Err(option("--connections", "must be 1 to 100000"));
    }
    if !(1..=1_000).contains(&args.rounds) {
        return Err(option("--rounds", "must be 1 to 1000"));
    }
    let scratch = Scratch::new(args.dir.as_ref())?;
    let data = scratch.file("data");
    let size = Size {
        connections: args.connections + 1,
        symbols: SYMBOLS,
        open: None,
        interval: Duration::from_secs(1),
        plain: !args.tls,
        threads: 1,
        eager: true,
        registering: 0,
    };
    output.note("starting a master and a worker");
    let sessions = deployment::seed(&data, args.connections + 1)?;
    let deployment = Deployment::start(&data, &size)?;
    let worker = Worker { address: deployment.worker, certificate: deployment.certificate };
    let resident = || resident(deployment.worker_process);
    let (own, others) = sessions.split_first().ok_or_else(|| wrong("no session"))?;
    let mut used = asking(worker, *own)?;
    let ask = |used: &mut Load<Quotes>, when: &str| {
        let mut all = Vec::new();
        for round in 1..=args.rounds {
            output.note(&format!("{when}, round {round}"));
            let warm = Duration::from_millis(500);
            all.push(Quantiles::of(&used.run(1, warm, args.time.duration())?));
        }
        Ok::<_, BenchError>(all)
    };
    let alone = ask(&mut used, "alone")?;
    let before = resident()?;
    let mut idle = Vec::with_capacity(others.len());
    for (number, session) in others.iter().enumerate() {
        if number % 1_000 == 0 {
            output.note(&format!("{number} connections are there"));
        }
        idle.push(Conversation::quoting(worker, *session)?);
    }
    let with = resident()?;
    let among = ask(&mut used, "among the others")?;
    let symbol = first_symbol()?;
    for conversation in &mut idle {
        conversation.quote(symbol.as_str())?;
    }
    drop(idle);
    deployment.end()?;
    let p99_ratio = median(&among) / median(&alone);
    Ok(Report {
        connections: args.connections,
        tls: args.tls,
        set: deployment::raised(&size),
        before,
        with,
        bytes_each: (with.saturating_sub(before)) as f64 / args.connections as f64,
        alone,
        among,
        p99_ratio,
    })
}

/// The connection that is used.
fn asking(worker: Worker, session: SessionId) -> Result<Load<Quotes>, BenchError> {
    let source = deployment::source(SYMBOLS)?;
    let symbols: Vec<Symbol> = source.instruments().iter().map(|spec| spec.symbol).collect();
    let expected = Rc::new(RefCell::new(Expected::new(source)));
    let talk = Quotes::new(1, symbols.into(), session, expected);
    Load::new(vec![(super::opening::quoting(worker, session)?, talk)])
}

fn first_symbol() -> Result<Symbol, BenchError> {
    let source = deployment::source(SYMBOLS)?;
    let first = source.instruments().first().map(|spec| spec.symbol);
    first.ok_or_else(|| wrong("no instrument"))
}

/// The median of the p99.
fn median(all: &[Quantiles]) -> f64 {
    let mut p99: Vec<f64> = all.iter().map(|it| it.p99).collect();
    p99.sort_by(f64::total_cmp);
    p99.get(p99.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Bytes of memory that a process really has. Linux only.
fn resident(process: u32) -> Result<u64, BenchError> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib * 1_024).ok_or_else(|| wrong("the system does not say how much memory"))
}

impl Report {
    fn text(&self) -> String {
        let how = if self.tls { "over TLS" } else { "over plain TCP" };
        let mut text = format!("{} connections {how} that only are there\n", self.connections);
        for (name, value) in &self.set {
            text += &format!("  set: {name}={value}\n");
        }
        text += &format!(
            "\nthe worker's resident memory: {:.1} MiB before, {:.1} MiB with them: {:.0} bytes each\n\n",
            self.before as f64 / 1_048_576.0,
            self.with as f64 / 1_048_576.0,
            self.bytes_each
        );
        let mut table = Table::new(&[
            ("a quote at a time", Align::Left),
            ("a second", Align::Right),
            ("p50 µs", Align::Right),
            ("p99 µs", Align::Right),
        ]);
        for (name, all) in [("alone", &self.alone), ("among them", &self.among)] {
            for it in all {
                table.row([
                    name.to_owned().into(),
                    format!("{:.0}", it.rate).into(),
                    format!("{:.0}", it.p50).into(),
                    format!("{:.0}", it.p99).into(),
                ]);
            }
        }
        text += &table.draw(false);
        text + &format!("\np99 among them, median: {:.2} of that alone", self.p99_ratio)
    }
}
