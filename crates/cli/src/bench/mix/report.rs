//! What `bench mix` has measured, as one object and as text.

use std::collections::BTreeMap;

use serde::Serialize;

use super::MixArgs;
use super::hashes;
use super::load::Seen;
use super::operation::{MIX, Operation, PASSWORDS, Weights, parts};
use crate::bench::cpu::Processors;
use crate::bench::times::{Latencies, Times};
use crate::bench::{BenchError, median};
use crate::output::table::{Align, Table};

/// All of it. What was not wanted is `null`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    tls: bool,
    connections: usize,
    users: u32,
    instruments: u32,
    interval_ms: u64,
    seconds: f64,
    rounds: usize,
    seed: u64,
    /// What is raised above the servers' defaults, by its environment variable.
    settings: BTreeMap<&'static str, String>,
    pub(super) mix: Option<MixReport>,
    pub(super) passwords: Option<PasswordReport>,
    /// That every order that was answered was found in the books, and these are right.
    verified: bool,
}

/// What needs no password.
#[derive(Debug, Serialize)]
pub(super) struct MixReport {
    /// The median of the rounds.
    requests_per_second: f64,
    rounds: Vec<f64>,
    operations: Vec<Line>,
    all_ms: Latencies,
    /// `OPERATION REASON`
    refused: BTreeMap<String, u64>,
    /// Answers whose content was looked at.
    checked: u64,
    /// Of each round, warming included.
    processors: Vec<Option<Processors>>,
}

/// What costs password hashes.
#[derive(Debug, Serialize)]
pub(super) struct PasswordReport {
    threads: usize,
    parameters: String,
    /// The medians of the rounds.
    requests_per_second: f64,
    hashes_per_second: f64,
    bare_per_second: f64,
    /// The median of the rounds' ratios.
    of_bare: f64,
    rounds: Vec<PasswordRound>,
    operations: Vec<Line>,
    all_ms: Latencies,
    refused: BTreeMap<String, u64>,
    processors: Vec<Option<Processors>>,
}

/// One measurement of both.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct PasswordRound {
    requests_per_second: f64,
    hashes_per_second: f64,
    bare_per_second: f64,
}

/// An operation, over all rounds.
#[derive(Debug, Serialize)]
struct Line {
    operation: Operation,
    /// Of DayTrader's hundred.
    parts: u64,
    count: u64,
    ms: Latencies,
}

/// The mix as it is measured.
#[derive(Default)]
pub(super) struct MixLine {
    rounds: Vec<f64>,
    seen: Seen,
    processors: Vec<Option<Processors>>,
    pub(super) checked: u64,
}

impl MixLine {
    pub(super) fn add(&mut self, seen: Seen, used: Option<Processors>) -> Result<(), BenchError> {
        self.rounds.push(seen.count() as f64 / seen.seconds);
        self.processors.push(used);
        self.seen.join(seen)
    }

    pub(super) fn finished(self) -> Result<MixReport, BenchError> {
        let (operations, all_ms) = lines(MIX, &self.seen)?;
        Ok(MixReport {
            requests_per_second: median(&self.rounds),
            rounds: self.rounds,
            operations,
            all_ms,
            refused: self.seen.refused,
            checked: self.checked,
            processors: self.processors,
        })
    }
}

/// Passwords as they are measured.
pub(super) struct PasswordLine {
    threads: usize,
    rounds: Vec<PasswordRound>,
    seen: Seen,
    processors: Vec<Option<Processors>>,
}

impl PasswordLine {
    pub(super) fn new(threads: usize) -> PasswordLine {
        PasswordLine { threads, rounds: Vec::new(), seen: Seen::default(), processors: Vec::new() }
    }

    pub(super) fn add(
        &mut self,
        seen: Seen,
        used: Option<Processors>,
        bare_per_second: f64,
    ) -> Result<(), BenchError> {
        self.rounds.push(PasswordRound {
            requests_per_second: seen.count() as f64 / seen.seconds,
            hashes_per_second: seen.hashes() as f64 / seen.seconds,
            bare_per_second,
        });
        self.processors.push(used);
        self.seen.join(seen)
    }

    pub(super) fn finished(self) -> Result<PasswordReport, BenchError> {
        let (operations, all_ms) = lines(PASSWORDS, &self.seen)?;
        let middle = |figure: &dyn Fn(&PasswordRound) -> f64| {
            median(&self.rounds.iter().map(figure).collect::<Vec<_>>())
        };
        Ok(PasswordReport {
            threads: self.threads,
            parameters: hashes::parameters(),
            requests_per_second: middle(&|round| round.requests_per_second),
            hashes_per_second: middle(&|round| round.hashes_per_second),
            bare_per_second: middle(&|round| round.bare_per_second),
            of_bare: middle(&|round| round.hashes_per_second / round.bare_per_second),
            operations,
            all_ms,
            refused: self.seen.refused,
            processors: self.processors,
            rounds: self.rounds,
        })
    }
}

fn lines(weights: &Weights, seen: &Seen) -> Result<(Vec<Line>, Latencies), BenchError> {
    let (mut all, mut lines) = (Times::new(), Vec::new());
    for (operation, parts) in weights {
        let none = Times::new();
        let times = seen.operations.get(operation).unwrap_or(&none);
        all.join(times)?;
        lines.push(Line {
            operation: *operation,
            parts: *parts,
            count: times.count(),
            ms: Latencies::of(times),
        });
    }
    Ok((lines, Latencies::of(&all)))
}

impl Report {
    pub(super) fn new(args: &MixArgs, settings: BTreeMap<&'static str, String>) -> Report {
        Report {
            tls: !args.plain,
            connections: args.connections,
            users: args.users,
            instruments: args.instruments,
            interval_ms: args.interval.as_millis(),
            seconds: args.time.duration().as_secs_f64(),
            rounds: args.rounds,
            seed: args.seed,
            settings,
            mix: None,
            passwords: None,
            verified: true,
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{} users and {} instruments, {} connections over {}, one operation at a time on each, settled \
             every {} ms, {} × {} s\n",
            self.users,
            self.instruments,
            self.connections,
            if self.tls { "TLS" } else { "plain TCP" },
            self.interval_ms,
            self.rounds,
            self.seconds,
        );
        for (name, value) in &self.settings {
            text += &format!("  set: {name}={value}\n");
        }
        if let Some(mix) = &self.mix {
            let each: Vec<String> = mix.rounds.iter().map(|rate| format!("{rate:.0}")).collect();
            text += &format!(
                "\nmix: {:.0} requests/s, the median of {}\n\n",
                mix.requests_per_second,
                each.join(", ")
            );
            text += &table(MIX, &mix.operations, &mix.all_ms);
            text += &rest(&mix.refused, mix.processors.last());
            text += &format!("  {} answers were looked at closely\n", mix.checked);
        }
        if let Some(line) = &self.passwords {
            let of_bare = |round: &PasswordRound| {
                format!("{:.2}", round.hashes_per_second / round.bare_per_second)
            };
            let each: Vec<String> = line.rounds.iter().map(of_bare).collect();
            text += &format!(
                "\npasswords: {:.1} requests/s, for which {:.1} hashes/s; the bare hash ({}, {} threads): \
                 {:.1}/s\n  {:.2} of the bare hash, the median of {}\n\n",
                line.requests_per_second,
                line.hashes_per_second,
                line.parameters.trim_matches('$'),
                line.threads,
                line.bare_per_second,
                line.of_bare,
                each.join(", ")
            );
            text += &table(PASSWORDS, &line.operations, &line.all_ms);
            text += &rest(&line.refused, line.processors.last());
        }
        text + "\nevery order that was answered is in the books once, and they are right\n"
    }
}

fn table(weights: &Weights, lines: &[Line], all: &Latencies) -> String {
    let mut table = Table::new(&[
        ("", Align::Left),
        ("p50 ms", Align::Right),
        ("p90 ms", Align::Right),
        ("p99 ms", Align::Right),
        ("p99.9 ms", Align::Right),
        ("max ms", Align::Right),
    ]);
    let parts = parts(weights);
    for line in lines {
        let share = 100.0 * line.parts as f64 / parts as f64;
        let name = format!("{} ({share:.1} %, {} times)", line.operation.name(), line.count);
        line.ms.row(&mut table, name);
    }
    all.row(&mut table, "all".to_owned());
    table.draw(false)
}

fn rest(refused: &BTreeMap<String, u64>, processors: Option<&Option<Processors>>) -> String {
    let mut text = String::new();
    for (what, count) in refused {
        text += &format!("  refused, {what}: {count}\n");
    }
    text + &processors.and_then(Option::as_ref).map(Processors::text).unwrap_or_default()
}
