//! The long form of the kill loop: servers are killed while clients trade, then everything that a
//! client was told is compared with what is stored. It prints what it has counted; if anything
//! does not agree it says what, prints its seed, keeps the data, and ends with exit code 1.
//!
//! `cargo run --release -p papertrader-cli --example kill_loop -- --seed 1 --rounds 200`
//!
//! It builds the program first. `--program FILE` names another one. `--store postgres` keeps the books in
//! a PostgreSQL server of its own, and kills that too.

mod built;
#[path = "../tests/program/kill_loop/mod.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod kill_loop;
#[path = "../../store/tests/postgres/server.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "the store's tests use more of it, and are tests")]
mod postgres_server;
#[path = "../tests/program/process.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod process;

use std::path::PathBuf;
use std::process::ExitCode;

use kill_loop::servers::Books;
use kill_loop::{Plan, run};

fn main() -> ExitCode {
    match arguments().and_then(|(program, books, seed, rounds)| {
        println!("seed {seed}, {rounds} rounds, {books:?}, {}", program.display());
        run(&Plan { program: &program, books, seed, rounds, talk: true })
    }) {
        Ok(counts) => {
            println!("{counts}\nall agrees");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<(PathBuf, Books, u64, u32), String> {
    const USAGE: &str = "usage: kill_loop [--seed N] [--rounds N] [--store sqlite|postgres] \
                         [--program FILE]";
    let (mut seed, mut rounds, mut books, mut program) = (1, 200, Books::Sqlite, None);
    let mut given = std::env::args().skip(1);
    while let Some(option) = given.next() {
        let value = given.next().ok_or(USAGE)?;
        match option.as_str() {
            "--seed" => seed = value.parse().map_err(|_| USAGE)?,
            "--rounds" => rounds = value.parse().map_err(|_| USAGE)?,
            "--store" => {
                books = match value.as_str() {
                    "sqlite" => Books::Sqlite,
                    "postgres" => Books::Postgres,
                    _ => return Err(USAGE.to_owned()),
                }
            }
            "--program" => program = Some(PathBuf::from(value)),
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok((program.map_or_else(built::program, Ok)?, books, seed, rounds))
}
