//! Where the program is that an example starts.
//!
//! It builds nothing unless Cargo runs the example.

use std::path::PathBuf;
use std::process::Command;

/// The program of the same build as this one, made anew if Cargo runs this.
pub(crate) fn program() -> Result<PathBuf, String> {
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "papertrader-cli", "--bin", "papertrader"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        if !build.status().map_err(|error| error.to_string())?.success() {
            return Err("the program cannot be built".to_owned());
        }
    }
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    // Examples stand in a directory of their own beside the program.
    let program =
        here.parent().and_then(|examples| examples.parent()).map(|d| d.join("papertrader"));
    program
        .filter(|program| program.exists())
        .ok_or_else(|| "there is no program: name it with --program FILE".to_owned())
}
