//! The server commands: `up` (everything on this machine), `master`, `worker`, `init`.
//!
//! `up` runs the same `master` and `worker` commands as an operator would, as processes of its
//! own, so that what is tried at home is what runs in production.

mod identity;
mod init;
mod run;
mod settings;
mod up;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::error::INTERRUPTED;
use crate::hint;

pub(crate) use settings::Configured;
pub(crate) use up::{UpArgs, back_from_compromise, default_data, dir_of_worker};

/// The server commands.
#[derive(Debug, Subcommand)]
pub(crate) enum ServerCommand {
    /// Run everything on this machine: master, workers and prices
    Up(UpArgs),
    /// Run the master server
    Master(ServerArgs),
    /// Run a worker server
    Worker(ServerArgs),
    /// Write a commented configuration
    Init(InitArgs),
}

/// What `init` writes.
#[derive(Debug, Clone, Args)]
pub(crate) struct InitArgs {
    /// Which server
    role: Role,
    /// Where to write it
    dir: PathBuf,
    /// Where the worker finds its master; repeated for a standby of it
    #[arg(long = "master", value_name = "HOST:PORT", default_value = "127.0.0.1:2048")]
    masters: Vec<String>,
    /// SHA-256 of the master's certificate, as `init master` and `admin status` print it; asked for
    /// at a terminal
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
    /// The worker's name in the master's registry
    #[arg(long, value_name = "NAME", default_value = "one")]
    name: String,
    /// A secret key made by GnuPG (gpg --export-secret-keys --armor) instead of a new one
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A file whose first line is that key's passphrase; without one it is asked for at a terminal
    #[arg(long, value_name = "FILE", requires = "key")]
    passphrase_file: Option<PathBuf>,
}

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// The master.
    Master,
    /// A worker.
    Worker,
}

/// How a server is started.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// The configuration file; `papertrader init` writes one
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// End when standard input closes, and not at Ctrl-C: for whoever runs this as a part
    #[arg(long, hide = true)]
    supervised: bool,
}

/// Runs a server command to its end.
pub(crate) fn run(command: ServerCommand) -> ExitCode {
    let result = match command {
        ServerCommand::Up(args) => up::up(args),
        ServerCommand::Master(args) => run::master(&args.config, args.supervised),
        ServerCommand::Worker(args) => run::worker(&args.config, args.supervised),
        ServerCommand::Init(args) => init::init(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(ServerError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            remark(&format!("papertrader: {error}"));
            match error {
                ServerError::Interrupted => ExitCode::from(INTERRUPTED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Prints on standard output. `println!` panics when nobody reads any more.
fn say(text: &str) -> Result<(), ServerError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(ServerError::Output)
}

/// Prints on standard error, whether anybody reads it or not.
fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Why a server command failed, in words that say what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] papertrader_node::config::ConfigError),
    /// The data directory of `up` holds a master's books where it does not look for them.
    #[error(
        "{} holds the books of a master, but `up` keeps its own in {own}: restore them there \
         (papertrader admin restore FILE --data {own}), or move papertrader.db and the files ending in \
         .asc and .pem there",
        .data.display(), own = hint::path(.own)
    )]
    Misplaced {
        /// The directory.
        data: PathBuf,
        /// Where they belong.
        own: PathBuf,
    },
    /// A value of the configuration cannot be used.
    #[error("in the configuration, {key} {problem}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An option cannot be used.
    #[error("{name} {problem}")]
    Option {
        /// Which one.
        name: &'static str,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The event log cannot be opened.
    #[error(transparent)]
    Log(#[from] papertrader_node::log::LogError),
    /// The data directory or the database cannot be used.
    #[error(transparent)]
    Store(#[from] papertrader_store::StoreError),
    /// The prices cannot be used.
    #[error("the prices cannot be used: {0}")]
    Source(#[from] papertrader_market::SourceError),
    /// The master has stopped.
    #[error("the master has stopped: {0}")]
    Master(#[from] papertrader_master::MasterError),
    /// The worker has stopped.
    #[error("the worker has stopped: {0}")]
    Worker(#[from] papertrader_worker::WorkerError),
    /// A port is not to be had.
    #[error(
        "cannot listen on {address}: {error}. Is it in use? Choose another port (0 picks a free one): \
         `up` has --master-port and --worker-port, the files of servers have `listen`"
    )]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// Which file.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// An OpenPGP secret key cannot be used.
    #[error("the OpenPGP key {path} cannot be used: {error}")]
    Key {
        /// Its file.
        path: String,
        /// Why.
        error: papertrader_node::openpgp::IdentityError,
    },
    /// An OpenPGP public key cannot be used.
    #[error("the OpenPGP key {path} cannot be used: {error}")]
    PublicKey {
        /// Its file.
        path: String,
        /// Why.
        error: papertrader_node::openpgp::CertificateError,
    },
    /// The certificate of TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] papertrader_node::tls::TlsError),
    /// The workers cannot be registered with the master.
    #[error("the workers cannot be registered: {0}")]
    Register(#[from] papertrader_master::admin::ClientError),
    /// A file cannot be written.
    #[error("cannot write {path}: {error}")]
    Write {
        /// Which file.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file is there already.
    #[error("{0} is there already: remove it, or choose another directory")]
    Exists(String),
    /// There is no place for the data.
    #[error("there is no home directory: say where the data goes with --data DIR")]
    NoHome,
    /// A part of `up` has ended by itself.
    #[error("{0} has ended by itself; its log is {1}")]
    PartEnded(String, String),
    /// Ctrl-C where a passphrase was asked for.
    #[error("interrupted")]
    Interrupted,
    /// The output could not be written.
    #[error("the output could not be written: {0}")]
    Output(std::io::Error),
    /// The machine failed.
    #[error("the machine failed: {0}")]
    Machine(#[from] std::io::Error),
}
