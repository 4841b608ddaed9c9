//! `papertrader admin`: the operator's commands, over the socket in the master's data directory.
//!
//! Each group of commands has its file. What `--json` prints is the master's own answer
//! ([`papertrader_master::admin::message`]); what people see is made of it here. Only what
//! concerns whole books ([`books`], [`export`]) is done without a running master too.

mod books;
mod export;
mod limits;
mod text;
mod users;
mod workers;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use papertrader_master::admin::message::{StandbyStatus, Status};
use papertrader_master::admin::{AdminReply, AdminRequest, Client, ClientError};
use papertrader_node::config::HumanDuration;

use crate::error::CliError;
use crate::hint;
use crate::output::Output;
use crate::output::time::Nanos;
use crate::server::{Configured, default_data};
use text::{Fields, span};

/// `papertrader admin`
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    /// The data directory of the master, or of `up` [default: papertrader in the user's data directory]
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The master's configuration instead: it says where its data is, and its books
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "data")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: AdminCommand,
}

/// What the operator can do.
#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Show how the master is
    Status,
    /// The workers: who may connect, and who does
    #[command(subcommand)]
    Workers(WorkersCommand),
    /// The sessions of users
    #[command(subcommand)]
    Sessions(SessionsCommand),
    /// The users
    #[command(subcommand)]
    Users(UsersCommand),
    /// Add up everything that is stored and compare it with cash and positions, while trading goes on
    Verify,
    /// Copy the books into a new file, while trading goes on
    Backup {
        /// The file; there must be none yet
        file: PathBuf,
    },
    /// Put the books of a backup where there are none; no master may be running
    Restore {
        /// What `admin backup` has made
        file: PathBuf,
    },
    /// Write all that a user ever did: orders with what became of them, grants, splits
    Export(export::ExportArgs),
}

#[derive(Debug, Subcommand)]
enum WorkersCommand {
    /// List all registered workers
    List,
    /// Show everything about a worker
    Show {
        /// Its name
        name: String,
    },
    /// Register a worker, or replace its key and addresses; lifts a boot
    Add {
        /// 1 to 32 letters, digits, '-', '_' and '.'
        name: String,
        /// Its OpenPGP public key, armored or binary
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// An address or a network (10.0.0.0/8) that it connects from; may be repeated
        #[arg(long = "address", value_name = "CIDR", required = true, num_args = 1..)]
        addresses: Vec<String>,
        /// Its UUID [default: that of the worker with this name, or the one that `init worker` makes of the key]
        #[arg(long)]
        uuid: Option<String>,
    },
    /// Take a worker off the registry and cut its link
    Remove {
        /// Its name
        name: String,
    },
    /// Send a worker away: cut its link and let it in no more
    Boot {
        /// Its name
        name: String,
        /// For so long, such as 30m [default: until `workers admit` or `workers add`]
        #[arg(long = "for", value_name = "DURATION")]
        duration: Option<HumanDuration>,
        /// It is in wrong hands: end the sessions that it has seen, and have their owners choose new passwords
        #[arg(long)]
        compromised: bool,
    },
    /// Let a worker in again that was booted
    Admit {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    /// List sessions, those used last first
    List {
        /// Only those of this user
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// End a session, or all of a user
    #[command(arg_required_else_help = true)]
    Revoke {
        /// The handle, as the list shows it
        #[arg(required_unless_present = "user", conflicts_with = "user")]
        handle: Option<String>,
        /// All sessions of this user
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum UsersCommand {
    /// List all users
    List,
    /// Show everything about a user
    Show {
        /// The name
        name: String,
    },
    /// Cancel a user's open orders, end the sessions, and let nobody in
    Disable {
        /// The name
        name: String,
    },
    /// Let a user in again
    Enable {
        /// The name
        name: String,
    },
}

/// Runs an operator's command to its end.
pub(crate) fn run(args: AdminArgs, output: &Output) -> Result<(), CliError> {
    let option = |name: &str, path: &PathBuf| format!(" --{name} {}", hint::path(path));
    let data = args.data.as_ref().map(|path| option("data", path));
    let config = args.config.as_ref().map(|path| option("config", path));
    let option = data.or(config).unwrap_or_default();
    let configured = match &args.config {
        Some(file) => Some(Configured::read(file).map_err(|error| CliError::Config(error.into()))?),
        None => None,
    };
    let dir = match &configured {
        Some(configured) => configured.data.clone(),
        None => directory(&args.data.or_else(default_data).ok_or(CliError::NoDataDir)?),
    };
    let master = Master { dir, output: *output, option, configured };
    match args.command {
        AdminCommand::Status => master.status(),
        AdminCommand::Workers(command) => workers::run(&master, command),
        AdminCommand::Sessions(command) => users::sessions(&master, command),
        AdminCommand::Users(command) => users::users(&master, command),
        AdminCommand::Verify => books::verify(&master),
        AdminCommand::Backup { file } => books::backup(&master, &file),
        AdminCommand::Restore { file } => books::restore(&master, &file),
        AdminCommand::Export(args) => export::run(&master, &args),
    }
}

/// The master's own directory: that of `up` has it inside.
fn directory(data: &Path) -> PathBuf {
    let inside = data.join("master");
    let places = [data.to_owned(), inside.clone(), inside.join("data"), data.join("data")];
    let has_books = |dir: &&PathBuf| dir.join("papertrader.db").exists();
    let usual = || if inside.is_dir() { inside.clone() } else { data.to_owned() };
    places.iter().find(has_books).cloned().unwrap_or_else(usual)
}

/// The master that is asked.
struct Master {
    dir: PathBuf,
    output: Output,
    /// What the next command needs to find it.
    option: String,
    /// What its configuration says, if that was named.
    configured: Option<Configured>,
}

impl Master {
    /// Asks one thing.
    fn ask(&self, request: AdminRequest) -> Result<AdminReply, CliError> {
        Ok(Client::connect(&self.dir)?.ask(&request)?)
    }

    /// Prints an answer: the object itself for programs, its text for people.
    fn show<T: serde::Serialize>(
        &self,
        reply: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), CliError> {
        if self.output.json {
            return self.output.object(reply);
        }
        self.output.text(&text(reply))
    }

    fn status(&self) -> Result<(), CliError> {
        match self.ask(AdminRequest::Status {})? {
            AdminReply::Status(status) => self.show(&status, |status| status_text(status)),
            AdminReply::Standby(status) => self.show(&status, standby_text),
            _ => Err(not_understood()),
        }
    }
}

/// The answer is not one to the request.
fn not_understood() -> CliError {
    ClientError::NotUnderstood.into()
}

fn status_text(status: &Status) -> String {
    let mut fields = Fields::default();
    let ended = if status.ended { ", the end of the prices" } else { "" };
    fields.put("deployment", &status.deployment);
    fields.put("certificate", &status.certificate);
    fields.put("OpenPGP key", &status.key);
    let market = status.market_time.local();
    fields.put("market time", format!("{market}, snapshot {}{ended}", status.snapshot));
    let interval = HumanDuration::from_millis(status.interval_ms.unsigned_abs());
    fields.put("prices", format!("{}, every {interval}", status.source));
    fields.put("accounts", status.accounts);
    fields.put("open orders", status.open_orders);
    fields.put("sessions", status.sessions);
    let (connected, registered) = (status.workers_connected, status.workers_registered);
    fields.put("workers", format!("{connected} connected of {registered} registered"));
    fields.put("port", limits::port_text(status));
    fields.put("waiting", format!("{} to be stored", status.queue));
    fields.put("last batch", status.last_batch);
    if let Some(problem) = &status.database {
        fields.put("database", problem);
    }
    let attempts = &status.attempts;
    let (right, wrong, refused) = (attempts.right, attempts.wrong, attempts.refused);
    fields.put("passwords", format!("{right} right, {wrong} wrong, {refused} refused by a limit"));
    fields.put("registrations", format!("{} refused by a limit", attempts.registrations_refused));
    fields.put("orders", format!("{} refused by a limit", attempts.orders_refused));
    let started = status.started.local();
    let up = span(status.uptime_seconds);
    let (fields, limits) = (fields.text(), limits::text(&status.limits));
    format!("papertrader {}, since {started} ({up})\n{fields}\n{limits}", status.version)
}

fn standby_text(status: &StandbyStatus) -> String {
    let mut fields = Fields::default();
    fields.put("role", "standby: it waits for the active master's end");
    fields.put("active", status.active.as_deref().unwrap_or("not known"));
    if let Some(ago) = status.renewed_ms_ago {
        fields.put("last heard of", format!("{:.1} s ago", ago as f64 / 1_000.0));
    }
    if let Some(problem) = &status.problem {
        fields.put("database", problem);
    }
    let started = status.started.local();
    let up = span(status.uptime_seconds);
    format!("papertrader {}, since {started} ({up})\n{}", status.version, fields.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_masters_directory_is_found_in_that_of_up() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(directory(dir.path()), dir.path());
        for inside in ["data", "master/data", "master"] {
            let inside = dir.path().join(inside);
            std::fs::create_dir_all(&inside).unwrap();
            std::fs::write(inside.join("papertrader.db"), "").unwrap();
            assert_eq!(directory(dir.path()), inside);
            assert_eq!(directory(&inside), inside);
        }
    }
}
