//! A run of the program against a scripted worker: what it prints and its exit code.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a run of the program left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs the program with a config directory, against the server at `address`.
pub(crate) async fn run(config: &Path, address: &str, arguments: &[&str], input: &str) -> Ran {
    let mut command = program(config, address);
    command.args(arguments);
    finish(command, input).await
}

/// The program in an environment of its own.
pub(crate) fn program(config: &Path, address: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_papertrader"));
    command
        .env_clear()
        .env("PAPERTRADER_CONFIG_DIR", config)
        .env("PAPERTRADER_SERVER", address)
        .env("TZ", "UTC");
    command
}

/// Runs a command to its end.
pub(crate) async fn finish(mut command: Command, input: &str) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_owned();
    let run = move || {
        let mut child = command.spawn().unwrap();
        // A command that reads no input may end before it is written.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    Ran {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
