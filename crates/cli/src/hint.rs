//! Commands that the user is told to type next.
//!
//! They work as they stand when they are pasted into the same shell: they carry the options of this
//! command that the next one needs too. What came from the environment is there for the next one as
//! well, so only what was typed is repeated.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::arguments::Global;

/// The options to repeat.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hints {
    servers: Vec<String>,
    config_dir: Option<PathBuf>,
}

impl Hints {
    /// Those of a command line.
    pub(crate) fn of(global: &Global) -> Hints {
        Hints { servers: global.server.clone(), config_dir: global.config_dir.clone() }
    }

    /// A client's command: its words, and the options.
    pub(crate) fn command(&self, words: &str) -> String {
        self.at(&self.servers, words)
    }

    /// The same with these servers, whatever was typed.
    pub(crate) fn at(&self, servers: &[String], words: &str) -> String {
        let mut text = format!("papertrader {words}");
        for server in servers {
            let _ = write!(text, " --server {}", word(server));
        }
        text + &self.directory()
    }

    /// A command that names its server itself.
    pub(crate) fn serverless(&self, words: &str) -> String {
        self.at(&[], words)
    }

    fn directory(&self) -> String {
        let option = |dir: &PathBuf| format!(" --config-dir {}", path(dir));
        self.config_dir.as_ref().map(option).unwrap_or_default()
    }
}

/// A path as one word of a shell, from wherever the next command is typed.
pub(crate) fn path(path: &Path) -> String {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    word(&whole.display().to_string())
}

/// A text as one word of a shell.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@%+=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Arguments;
    use clap::Parser;

    fn hints(line: &[&str]) -> Hints {
        Hints::of(&Arguments::try_parse_from(line).unwrap().global)
    }

    #[test]
    fn what_was_typed_is_repeated_wherever_it_stood() {
        let hints = hints(&[
            "papertrader",
            "--server",
            "a:1,tcp://b:2",
            "logout",
            "--config-dir",
            "/home/me/my dir",
        ]);
        assert_eq!(
            hints.command("login alice"),
            "papertrader login alice --server a:1 --server tcp://b:2 --config-dir '/home/me/my dir'"
        );
        assert_eq!(
            hints.serverless("trust c:3"),
            "papertrader trust c:3 --config-dir '/home/me/my dir'"
        );
    }

    #[test]
    fn any_text_is_one_word() {
        for (text, shown) in
            [("a", "a"), ("[::1]:2049", "'[::1]:2049'"), ("", "''"), ("it's $x", r"'it'\''s $x'")]
        {
            assert_eq!(word(text), shown);
        }
        assert_eq!(hints(&["papertrader", "orders"]).command("orders"), "papertrader orders");
        assert!(path(Path::new("here")).starts_with('/'));
    }
}
