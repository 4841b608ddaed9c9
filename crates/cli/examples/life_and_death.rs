//! The long form of life and death: three workers and a master are killed and started again while a
//! thousand clients trade. It prints how long the clients took after each event until a quote, and until
//! an order, succeeded that they began after it; then it accounts for every order.
//!
//! `cargo run --release -p papertrader-cli --example life_and_death -- --clients 1000 --seed 1`
//!
//! It builds the program first. `--program FILE` names another one; `--json` prints one object for
//! programs. The exit code is 1 if a client took longer than three seconds, if an order is not accounted
//! for exactly once, or if the books are wrong.

mod built;
#[path = "../tests/program/kill_loop/mod.rs"]
#[allow(dead_code, reason = "the kill loop and the tests use more of it")]
mod kill_loop;
#[path = "../tests/program/life_and_death/mod.rs"]
mod life_and_death;
#[path = "../../store/tests/postgres/server.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "the store's tests use more of it, and are tests")]
mod postgres_server;
#[path = "../tests/program/process.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod process;

use std::path::PathBuf;
use std::process::ExitCode;

use life_and_death::stopwatch::{Column, LONG};
use life_and_death::{Plan, Report, Row, run};
use serde_json::{Value, json};

struct Arguments {
    clients: usize,
    seed: u64,
    program: PathBuf,
    json: bool,
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::FAILURE;
        }
    };
    let Arguments { clients, seed, program, json } = &arguments;
    if !json {
        println!("seed {seed}, {clients} clients, {}", program.display());
        println!(
            "{:<28} {:>6}  {:>26}  {:>26}  clients at\n{:<28} {:>6}  {}  {}  1/2/3",
            "",
            "not",
            "first quote after it, ms",
            "first order after it, ms",
            "event",
            "ready",
            HEAD,
            HEAD,
        );
    }
    match run(&Plan { program, clients: *clients, seed: *seed, talk: !json }) {
        Ok(report) => {
            let late = print(&report, *json, *seed, *clients);
            if late == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

const HEAD: &str = "   p50    p99    max  >3 s";

/// Prints what was counted; how often a client took too long.
fn print(report: &Report, json: bool, seed: u64, clients: usize) -> usize {
    let late = |row: &Row| row.times.quotes.long() + row.times.orders.long();
    let late: usize = report.rows.iter().map(late).sum();
    let counts = &report.counts;
    if json {
        let rows: Vec<Value> = report.rows.iter().map(row).collect();
        let object = json!({
            "seed": seed,
            "clients": clients,
            "longest_allowed_ms": LONG.as_millis() as u64,
            "events": rows,
            "late": late,
            "quotes": report.quotes,
            "failed_quotes": report.failed_quotes,
            "orders": counts.orders,
            "acknowledged": counts.acknowledged,
            "unanswered_stored": counts.unanswered_stored,
            "unanswered_absent": counts.unanswered_absent,
            "repeated": counts.repeated,
            "left_open": counts.refused,
            "filled": counts.filled,
            "rejected": counts.rejected,
            "accounted_for": true,
        });
        println!("{object}");
        return late;
    }
    println!("quotes {}, not given {:?}", report.quotes, report.failed_quotes);
    println!("{counts}");
    println!("every order is accounted for exactly once, and the books are right");
    if late > 0 {
        println!("{late} times a client took longer than 3 s");
    }
    late
}

fn row(row: &Row) -> Value {
    let column = |column: &Column| {
        let millis = |percent| column.percentile(percent).as_micros() as f64 / 1_000.0;
        json!({
            "p50_ms": millis(50), "p99_ms": millis(99), "max_ms": millis(100), "late": column.long(),
        })
    };
    json!({
        "event": row.event,
        "not_ready_ms": row.away_ms,
        "quotes": column(&row.times.quotes),
        "orders": column(&row.times.orders),
        "clients_at": row.clients,
    })
}

fn arguments() -> Result<Arguments, String> {
    const USAGE: &str = "usage: life_and_death [--clients N] [--seed N] [--program FILE] [--json]";
    let (mut clients, mut seed, mut program, mut json) = (1_000, 1, None, false);
    let mut given = std::env::args().skip(1);
    while let Some(option) = given.next() {
        if option == "--json" {
            json = true;
            continue;
        }
        let value = given.next().ok_or(USAGE)?;
        match option.as_str() {
            "--clients" => clients = value.parse().map_err(|_| USAGE)?,
            "--seed" => seed = value.parse().map_err(|_| USAGE)?,
            "--program" => program = Some(PathBuf::from(value)),
            _ => return Err(USAGE.to_owned()),
        }
    }
    if clients == 0 {
        return Err(USAGE.to_owned());
    }
    let program = program.map_or_else(built::program, Ok)?;
    Ok(Arguments { clients, seed, program, json })
}
