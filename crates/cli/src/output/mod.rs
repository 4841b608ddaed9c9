//! How results reach people and programs: text or JSON on standard output, notes and errors on
//! standard error.
//!
//! Colour is used only when standard output is a terminal and `NO_COLOR` is unset. Nothing here
//! asks a server. Invariant: only [`Output::write`] prints control characters that somebody else may
//! have written; the others take them out.

pub(crate) mod chart;
mod clean;
pub(crate) mod json;
pub(crate) mod money;
pub(crate) mod table;
pub(crate) mod time;

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::error::CliError;
use crate::hint::Hints;
use json::ErrorObject;

/// A load of thousandths, as people read it: `6.6%`.
pub(crate) fn thousandths(load: u32) -> String {
    format!("{}.{}%", load / 10, load % 10)
}

/// Where and how to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON is wanted.
    pub(crate) json: bool,
    /// Standard output is a terminal.
    pub(crate) terminal: bool,
    /// Standard error is a terminal: progress and notes are welcome.
    pub(crate) notes: bool,
    /// Colours are welcome.
    pub(crate) colour: bool,
}

impl Output {
    /// As the surroundings ask for it.
    pub(crate) fn new(json: bool) -> Output {
        let terminal = io::stdout().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Output {
            json,
            terminal,
            notes: io::stderr().is_terminal(),
            colour: terminal && !no_colour && !json,
        }
    }

    /// Prints one object on a line of its own.
    pub(crate) fn object(&self, object: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string(object).map_err(io::Error::from)?;
        let mut text = clean::json(&text);
        text.push('\n');
        self.write(&text)
    }

    /// Prints lines for people.
    pub(crate) fn text(&self, text: &str) -> Result<(), CliError> {
        let mut text = clean::lines(text.trim_end_matches('\n'), self.colour);
        text.push('\n');
        self.write(&text)
    }

    /// Prints exactly this.
    pub(crate) fn write(&self, text: &str) -> Result<(), CliError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        Ok(())
    }

    /// Says something on the way, to a person who is looking.
    pub(crate) fn note(&self, text: &str) {
        if self.notes && !self.json {
            // A note that cannot be shown is no reason to fail.
            let _ = writeln!(io::stderr(), "{}", clean::line(text));
        }
    }

    /// Says something that a person should know, looking or not.
    pub(crate) fn notice(&self, text: &str) {
        if !self.json {
            // What cannot be shown is no reason to fail.
            let _ = writeln!(io::stderr(), "{}", clean::line(text));
        }
    }

    /// Says why the command failed.
    pub(crate) fn error(&self, error: &CliError, hints: &Hints) {
        if error.exit_code() == 0 {
            return;
        }
        // The one object was the report.
        if self.json && matches!(error, CliError::BooksWrong) {
            return;
        }
        if self.json {
            let object = ErrorObject::new(error.code(), error.text(hints));
            if self.object(&object).is_ok() {
                return;
            }
        }
        let _ = writeln!(io::stderr(), "{}", clean::line(&error.line(hints)));
    }

    /// Columns and rows of the terminal, or 80 by 24.
    pub(crate) fn size(&self) -> (usize, usize) {
        match terminal_size::terminal_size() {
            Some((width, height)) if self.terminal => (usize::from(width.0), usize::from(height.0)),
            _ => (80, 24),
        }
    }
}
