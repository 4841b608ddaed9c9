//! `papertrader bench`: programs that measure. They print a table and, with `--json`, one object; what
//! they measure is checked for being right, never for being fast.

mod bare;
mod cpu;
mod deployment;
mod forwarder;
mod market;
mod mix;
mod order_id;
mod orders;
mod prices;
mod push;
mod quotes;
mod settle;
mod start;
mod stream;
mod times;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use papertrader_core::books::BrokenBooks;
use papertrader_store::postgres::PostgresStore;
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{CommitError, Store, StoreError};

use crate::error::CliError;
use crate::output::Output;
use times::Times;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Measure the settlement and its database, without a network
    Settle(settle::SettleArgs),
    /// Measure orders of many clients through a worker and a master, and back
    Orders(orders::OrdersArgs),
    /// Measure what idle connections cost a worker, and do to a quote
    Idle(quotes::idle::IdleArgs),
    /// Measure quotes of a worker, beside a Redis and a server that only echoes
    Quotes(quotes::QuotesArgs),
    /// Measure the operations of the DayTrader benchmark, and log-ins beside the bare password hash
    Mix(mix::MixArgs),
    /// Measure how long a snapshot of many prices takes to the clients of many workers
    Push(push::PushArgs),
    /// Measure how long a master takes to be ready on books that are full
    Start(start::StartArgs),
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// An option has a value that means nothing.
    #[error("{name} {problem}")]
    Option {
        /// Which one.
        name: &'static str,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The database could not be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A batch could not be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The books contradict themselves.
    #[error(transparent)]
    Books(#[from] BrokenBooks),
    /// The bare statements failed.
    #[error("the bare statements failed: {0}")]
    Bare(#[from] rusqlite::Error),
    /// What was measured is not what should have been done.
    #[error("what was measured is wrong: {0}")]
    Wrong(String),
    /// A file or directory could not be made.
    #[error("the machine failed: {0}")]
    Machine(#[from] std::io::Error),
}

pub(crate) fn run(args: BenchArgs, output: &Output) -> Result<(), CliError> {
    match args.command {
        BenchCommand::Settle(args) => settle::run(&args, output),
        BenchCommand::Orders(args) => orders::run(&args, output),
        BenchCommand::Idle(args) => quotes::idle::run(&args, output),
        BenchCommand::Quotes(args) => quotes::run(&args, output),
        BenchCommand::Mix(args) => mix::run(&args, output),
        BenchCommand::Push(args) => push::run(&args, output),
        BenchCommand::Start(args) => start::run(&args, output),
    }
}

/// Where the books are kept. A URL may hold a password and never prints itself.
#[derive(Clone)]
enum Place {
    /// A file, as the master's own.
    Sqlite,
    /// The URL of an empty database.
    Postgres(String),
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Place, &'static str> {
        let schemes = ["postgresql://", "postgres://"];
        match text {
            "sqlite" => Ok(Place::Sqlite),
            url if schemes.iter().any(|scheme| url.starts_with(scheme)) => {
                Ok(Place::Postgres(url.to_owned()))
            }
            _ => {
                Err("say sqlite, or the URL of an empty database: postgresql://USER@HOST/DATABASE")
            }
        }
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Place {
    fn name(&self) -> &'static str {
        match self {
            Place::Sqlite => "sqlite",
            Place::Postgres(_) => "postgres",
        }
    }

    /// Opens it; `file` is SQLite's. What somebody has stored there before is not touched.
    fn open(&self, file: &Path) -> Result<Box<dyn Store>, BenchError> {
        let mut store: Box<dyn Store> = match self {
            Place::Sqlite => Box::new(SqliteStore::open(file, "bench")?),
            Place::Postgres(url) => Box::new(PostgresStore::open(url, "bench")?),
        };
        if store.last_batch()?.0 > 0 {
            let problem = "names a database with books in it: make an empty one".into();
            return Err(BenchError::Option { name: "--store", problem });
        }
        Ok(store)
    }
}

/// A directory for a database that is removed in the end, beside what else is on this disk.
struct Scratch(PathBuf);

impl Scratch {
    /// Makes it in `parent`, or in the present directory: a temporary directory may be in memory.
    fn new(parent: Option<&PathBuf>) -> Result<Scratch, BenchError> {
        let parent = parent.cloned().unwrap_or_else(|| PathBuf::from("."));
        let path = parent.join(format!("papertrader-bench-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Scratch(path))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("papertrader: {} could not be removed: {error}", self.0.display());
        }
    }
}

/// A bar for a person who is looking.
fn progress(output: &Output, what: &'static str, steps: u64) -> ProgressBar {
    let is_seen = output.notes && !output.json;
    let target = if is_seen { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(steps), target).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:40} {human_pos}/{human_len} {eta}")
    {
        bar.set_style(style);
    }
    bar
}

/// The middle one.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn wrong(what: impl ToString) -> BenchError {
    BenchError::Wrong(what.to_string())
}
