//! Completions for shells.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::error::CliError;
use crate::output::Output;

/// Prints the script that completes this program's command line in `shell`.
pub(crate) fn print(shell: Shell, output: &Output) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "papertrader", &mut script);
    output.write(&String::from_utf8_lossy(&script))
}
