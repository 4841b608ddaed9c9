//! The `papertrader` program: reads the command line, runs one command, and ends with an exit code
//! that means something (`docs/cli.md`).
//!
//! What the commands do stands in [`command`], how results look in [`output`].

mod admin;
mod arguments;
mod bench;
mod command;
mod config_dir;
mod error;
mod hint;
mod known_servers;
mod output;
mod prompt;
mod server;
mod session_file;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
use hint::Hints;
use output::Output;

/// A settlement frees what as many threads made as there are orders in it: the system's own allocator
/// takes longer for that than the orders take.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let hints = Hints::of(&arguments.global);
    let output = Output::new(arguments.global.json);
    let result = match arguments.command {
        Command::Server(server) => return server::run(server),
        Command::Client(client) => command::run(client, &arguments.global, &hints, &output),
        Command::Admin(args) => admin::run(args, &output),
        Command::Bench(args) => bench::run(args, &output),
        Command::Completions { shell } => command::completions::print(shell, &output),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error, &hints);
            ExitCode::from(error.exit_code())
        }
    }
}
