//! What `bench quotes` has measured, as one object and as text.

use std::collections::BTreeMap;

use serde::Serialize;

use super::talk::Sizes;
use super::{QuotesArgs, Run};
use crate::bench::{BenchError, median, wrong};
use crate::output::table::{Align, Table};

/// Who was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Server {
    Papertrader,
    /// The server that sends bytes back.
    Echo,
    Redis,
}

impl Server {
    pub(super) fn name(self) -> &'static str {
        match self {
            Server::Papertrader => "papertrader",
            Server::Echo => "bare echo",
            Server::Redis => "Redis",
        }
    }
}

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    tls: bool,
    connections: usize,
    threads: usize,
    /// Each thread of the load asked all threads of a server.
    crossed: bool,
    symbols: u32,
    interval_ms: u64,
    seconds: f64,
    rounds: usize,
    seed: u64,
    question_bytes: usize,
    answer_bytes: usize,
    /// What is raised above the servers' defaults, by its environment variable.
    settings: BTreeMap<&'static str, String>,
    /// Medians of the rounds.
    runs: Vec<Line>,
    /// Quotes whose symbol and price were looked at; all had the right number.
    pub(super) checked: u64,
    /// Different snapshots that one connection saw.
    pub(super) snapshots: u64,
    /// That a session which ended while quotes were measured was refused from then on.
    ended_session_refused: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    depth: usize,
    server: Server,
    per_second: f64,
    /// Microseconds, from sending a burst to its last answer.
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    /// PaperTrader's figures divided by these, within a round.
    rate_ratio: f64,
    p99_ratio: f64,
}

impl Report {
    pub(super) fn new(
        args: &QuotesArgs,
        sizes: Sizes,
        settings: BTreeMap<&'static str, String>,
    ) -> Report {
        Report {
            tls: args.tls,
            connections: args.connections,
            threads: args.threads,
            crossed: args.crossed,
            symbols: args.symbols,
            interval_ms: args.interval.as_millis(),
            seconds: args.time.duration().as_secs_f64(),
            rounds: args.rounds,
            seed: args.seed,
            question_bytes: sizes.question,
            answer_bytes: sizes.answer,
            settings,
            runs: Vec::new(),
            checked: 0,
            snapshots: 0,
            ended_session_refused: true,
        }
    }

    /// Which thread asks which.
    fn pairing(&self) -> String {
        match (self.threads, self.crossed) {
            (1, _) => "one thread each for the load and a server".to_owned(),
            (some, false) => {
                format!("{some} threads of the load, each of which asks one of a server")
            }
            (some, true) => {
                format!("{some} threads of the load, each of which asks all of a server")
            }
        }
    }

    /// Adds what the threads have seen, each the same runs in the same order.
    pub(super) fn add(&mut self, threads: Vec<Vec<Run>>) -> Result<(), BenchError> {
        let mut threads = threads.into_iter();
        let mut all = threads.next().unwrap_or_default();
        for other in threads {
            if other.len() != all.len() {
                return Err(wrong("the threads have not done the same"));
            }
            for (run, other) in all.iter_mut().zip(&other) {
                run.seen.join(&other.seen)?;
            }
        }
        let mut rounds: BTreeMap<(usize, Server), Vec<&Run>> = BTreeMap::new();
        for run in &all {
            rounds.entry((run.depth, run.server)).or_default().push(run);
        }
        for ((depth, server), runs) in &rounds {
            let own = rounds.get(&(*depth, Server::Papertrader)).unwrap_or(runs);
            let middle = |figure: &dyn Fn(&Run) -> f64| {
                median(&runs.iter().map(|run| figure(run)).collect::<Vec<_>>())
            };
            let ratio = |figure: &dyn Fn(&Run) -> f64| {
                let each = own.iter().zip(runs).map(|(own, run)| figure(own) / figure(run));
                median(&each.collect::<Vec<_>>())
            };
            self.runs.push(Line {
                depth: *depth,
                server: *server,
                per_second: middle(&|run| run.seen.rate()),
                p50_us: middle(&|run| run.seen.quantile(0.5)),
                p99_us: middle(&|run| run.seen.quantile(0.99)),
                p999_us: middle(&|run| run.seen.quantile(0.999)),
                rate_ratio: ratio(&|run| run.seen.rate()),
                p99_ratio: ratio(&|run| run.seen.quantile(0.99)),
            });
        }
        Ok(())
    }

    pub(super) fn text(&self) -> String {
        let mut table = Table::new(&[
            ("at once", Align::Right),
            ("", Align::Left),
            ("a second", Align::Right),
            ("p50 µs", Align::Right),
            ("p99 µs", Align::Right),
            ("p99.9 µs", Align::Right),
            ("PaperTrader's rate", Align::Right),
            ("its p99", Align::Right),
        ]);
        for line in &self.runs {
            let is_own = line.server == Server::Papertrader;
            let ratio =
                |ratio: f64| if is_own { String::new() } else { format!("{ratio:.2} of it") };
            table.row([
                line.depth.to_string().into(),
                line.server.name().into(),
                format!("{:.0}", line.per_second).into(),
                format!("{:.0}", line.p50_us).into(),
                format!("{:.0}", line.p99_us).into(),
                format!("{:.0}", line.p999_us).into(),
                ratio(line.rate_ratio).into(),
                ratio(line.p99_ratio).into(),
            ]);
        }
        let mut text = format!(
            "{} connections {}, {}, {} symbols that change every {} ms, medians of {} × {} s\n\
             a question has {} bytes, a quote {}\n",
            self.connections,
            if self.tls { "over TLS to the worker, plain to the others" } else { "over plain TCP" },
            self.pairing(),
            self.symbols,
            self.interval_ms,
            self.rounds,
            self.seconds,
            self.question_bytes,
            self.answer_bytes,
        );
        for (name, value) in &self.settings {
            text += &format!("  set: {name}={value}\n");
        }
        text += &format!("\n{}\n", table.draw(false));
        text += &format!(
            "every answer was to its question; {} quotes were computed a second time and right, over {} \
             snapshots; a session that ended was refused\n",
            self.checked, self.snapshots
        );
        text
    }
}
