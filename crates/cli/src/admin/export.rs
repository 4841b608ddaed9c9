//! `papertrader admin export`: all that a user ever did, as a table for a spreadsheet or as JSON.
//!
//! Lines come in parts from the running master, or from the books themselves where none runs; no more
//! than a part is held in memory. Amounts are exact decimals, times RFC 3339 in UTC.
//!
//! Invariant: no cell of the table is taken for a formula: a text that begins like one gets an
//! apostrophe before it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use papertrader_master::admin::message::{AdminError, ExportCursor, ExportLine, ExportPage, Stamp};
use papertrader_master::admin::{AdminReply, AdminRequest, Client, books};
use papertrader_store::Location;
use papertrader_store::directory::DirectoryLock;
use serde::Serialize;

use super::text::count;
use super::{Master, not_understood};
use crate::error::CliError;
use crate::output::time::Nanos;

/// What is exported, and how.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Whose
    #[arg(long, value_name = "NAME")]
    user: String,
    /// For a spreadsheet, or for a program
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// A new file for it, readable by its owner only [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// One line of text for each order and entry, the names of the columns first
    Csv,
    /// One object
    Json,
}

/// What `--output` has made.
#[derive(Debug, Serialize)]
struct Exported {
    user: String,
    account: u32,
    lines: u64,
    format: Format,
    file: String,
}

pub(super) fn run(master: &Master, args: &ExportArgs) -> Result<(), CliError> {
    let usual =
        if master.output.json && args.output.is_none() { Format::Json } else { Format::Csv };
    let format = args.format.unwrap_or(usual);
    let mut source = match master.connect()? {
        Some(client) => Source::Master(client),
        None => {
            let (lock, location) = master.at_rest()?;
            Source::Books(location, lock)
        }
    };
    // Nothing is made for a user who is not there.
    let first = source.page(&args.user, ExportCursor::default())?;
    let Some(file) = &args.output else {
        let mut out = BufWriter::new(io::stdout().lock());
        write(&mut source, first, format, &mut out)?;
        return Ok(out.flush()?);
    };
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => AdminError::FileExists(format!(
            "{} is there already, and nothing is written over: choose another name",
            file.display()
        )),
        _ => AdminError::File(format!("{}: {error}", file.display())),
    };
    let (user, account) = (first.user.clone(), first.account);
    let mut out = BufWriter::new(create(file).map_err(failed)?);
    let lines = write(&mut source, first, format, &mut out)
        .and_then(|lines| {
            out.flush()?;
            out.get_ref().sync_all()?;
            Ok(lines)
        })
        .map_err(|error| {
            // A part of it would pass for all.
            let _ = std::fs::remove_file(file);
            match error {
                CliError::Output(error) => failed(error).into(),
                error => error,
            }
        })?;
    let file = file.display().to_string();
    master.show(&Exported { user, account, lines, format, file }, |done| {
        let (lines, user, file) = (count(done.lines, "line"), &done.user, &done.file);
        format!("exported {lines} of {user} to {file}")
    })
}

fn create(file: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)
}

/// Where lines come from.
enum Source {
    Master(Client),
    Books(Location, #[expect(dead_code, reason = "it is held")] Option<DirectoryLock>),
}

impl Source {
    fn page(&mut self, user: &str, after: ExportCursor) -> Result<ExportPage, CliError> {
        match self {
            Source::Books(location, _) => Ok(books::export(location, user, after)?),
            Source::Master(client) => {
                let request = AdminRequest::Export { user: user.to_owned(), after };
                match client.ask(&request)? {
                    AdminReply::Exported(page) => Ok(page),
                    _ => Err(not_understood()),
                }
            }
        }
    }
}

/// Writes all lines, beginning with those of the first part; returns how many there are.
fn write(
    source: &mut Source,
    mut page: ExportPage,
    format: Format,
    out: &mut impl Write,
) -> Result<u64, CliError> {
    let mut lines = 0;
    match format {
        Format::Csv => csv_line(out, COLUMNS.map(|name| Cell::Plain(name.to_owned())))?,
        Format::Json => {
            let user = json(&page.user)?;
            write!(out, "{{\"user\":{user},\"account\":{},\"lines\":[", page.account)?;
        }
    }
    loop {
        for line in &page.lines {
            match format {
                Format::Csv => csv_line(out, cells(line))?,
                Format::Json => {
                    let before = if lines == 0 { "\n" } else { ",\n" };
                    write!(out, "{before}{}", json(line)?)?;
                }
            }
            lines += 1;
        }
        if !page.more {
            break;
        }
        page = source.page(&page.user, page.next)?;
    }
    if format == Format::Json {
        writeln!(out, "\n]}}")?;
    }
    Ok(lines)
}

fn json(value: &impl Serialize) -> Result<String, CliError> {
    Ok(serde_json::to_string(value).map_err(io::Error::from)?)
}

/// The names of the columns: those of the fields in JSON.
const COLUMNS: [&str; 16] = [
    "kind",
    "wall_time",
    "market_time",
    "symbol",
    "side",
    "quantity",
    "price",
    "amount",
    "units",
    "basis",
    "reason",
    "order",
    "client_order_id",
    "asked",
    "received_wall_time",
    "received_market_time",
];

/// What stands in a column.
enum Cell {
    /// A number, a time or a word of ours.
    Plain(String),
    /// What somebody else has written.
    Foreign(String),
}

fn cells(line: &ExportLine) -> [Cell; 16] {
    let plain = |text: &str| Cell::Plain(text.to_owned());
    let some = |text: &Option<String>| Cell::Plain(text.clone().unwrap_or_default());
    let foreign = |text: &Option<String>| Cell::Foreign(text.clone().unwrap_or_default());
    let time = |stamp: Option<Stamp>| Cell::Plain(stamp.map(Nanos::rfc3339).unwrap_or_default());
    [
        plain(&line.kind),
        time(line.wall_time),
        time(line.market_time),
        foreign(&line.symbol),
        some(&line.side),
        plain(&line.quantity),
        some(&line.price),
        plain(&line.amount),
        plain(&line.units),
        some(&line.basis),
        some(&line.reason),
        Cell::Plain(line.order.map(|order| order.to_string()).unwrap_or_default()),
        foreign(&line.client_order_id),
        some(&line.asked),
        time(line.received_wall_time),
        time(line.received_market_time),
    ]
}

/// A line as RFC 4180 has it.
fn csv_line(out: &mut impl Write, cells: [Cell; 16]) -> io::Result<()> {
    for (column, cell) in cells.into_iter().enumerate() {
        let comma = if column == 0 { "" } else { "," };
        write!(out, "{comma}{}", csv_cell(cell))?;
    }
    out.write_all(b"\r\n")
}

fn csv_cell(cell: Cell) -> String {
    let text = match cell {
        Cell::Plain(text) => text,
        Cell::Foreign(text) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => {
            format!("'{text}")
        }
        Cell::Foreign(text) => text,
    };
    match text.contains([',', '"', '\r', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_quoted_where_it_must_be_and_never_a_formula() {
        for (text, cell) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("=cmd|'/c',\"x\"", "\"'=cmd|'/c',\"\"x\"\"\""),
            ("", ""),
        ] {
            assert_eq!(csv_cell(Cell::Foreign(text.into())), cell);
        }
        // A number stays a number.
        assert_eq!(csv_cell(Cell::Plain("-12.50".into())), "-12.50");
    }
}
