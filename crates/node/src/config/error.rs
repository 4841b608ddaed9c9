//! What can be wrong with a configuration, in words that help to mend it.
//!
//! Invariant: no error goes without the key, and the file, variable or flag that it stands in.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use figment::error::Kind;

use super::environment::{self, Environment};

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In this file.
    File(PathBuf),
    /// In the environment variable of this name.
    Variable(String),
    /// Among the flags.
    CommandLine,
    /// Among the values that stand for what nobody sets.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path) => write!(f, "in {}", path.display()),
            Origin::Variable(name) => write!(f, "in the environment variable {name}"),
            Origin::CommandLine => f.write_str("on the command line"),
            Origin::Default => f.write_str("among the defaults"),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such file.
    #[error(
        "there is no configuration file {path}; `papertrader init {role} DIR` writes one",
        path = path.display()
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// Which server it is for: `master` or `worker`.
        role: String,
    },
    /// The file cannot be read.
    #[error("the configuration file {path} cannot be read: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {path} is not TOML: {reason}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        reason: String,
    },
    /// There is no such key.
    #[error("unknown key `{key}` {origin}; {}", hint(near))]
    Unknown {
        /// The key, with a dot between nested ones.
        key: String,
        /// Where it stands.
        origin: Origin,
        /// The known keys of the same table that look most like it, or all of them if none does;
        /// for a variable, as variables.
        near: Vec<String>,
    },
    /// A key that must be set is not.
    #[error(
        "the key `{key}` must be set{}, or by the environment variable {variable}",
        place(file)
    )]
    Unset {
        /// The key, with a dot between nested ones.
        key: String,
        /// The file that could hold it.
        file: Option<PathBuf>,
        /// The variable that could hold it.
        variable: String,
    },
    /// A value is not what the key wants.
    #[error("the key `{key}` {origin} has a bad value: {reason}")]
    Value {
        /// The key, with a dot between nested ones; a number counts from 0 in a list.
        key: String,
        /// Where it stands.
        origin: Origin,
        /// What is wrong.
        reason: String,
    },
    /// An environment variable that can be no key.
    #[error("the environment variable {name} cannot be used: {reason}")]
    Variable {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The program's own flags cannot be made into keys.
    #[error("the flags cannot be used as configuration: {reason}")]
    Flags {
        /// What is wrong.
        reason: String,
    },
}

fn hint(near: &[String]) -> String {
    if near.is_empty() {
        return "no key may stand there".to_owned();
    }
    let quoted: Vec<String> = near.iter().map(|key| format!("`{key}`")).collect();
    format!("did you mean {}?", quoted.join(" or "))
}

fn place(file: &Option<PathBuf>) -> String {
    file.as_ref().map(|path| format!(" in {}", path.display())).unwrap_or_default()
}

/// Makes figment's error one of ours.
pub(super) fn explain(
    error: figment::Error,
    file: Option<&Path>,
    environment: &Environment,
) -> ConfigError {
    let source = error.metadata.as_ref().map(|metadata| metadata.name.as_ref());
    let origin = match (source, file) {
        (Some(environment::NAME), _) => Origin::Variable(environment.variable_of(&error.path)),
        (Some(super::FLAGS), _) => Origin::CommandLine,
        (Some(_), Some(path)) => Origin::File(path.to_owned()),
        _ => Origin::Default,
    };
    let key = error.path.join(".");
    match &error.kind {
        Kind::UnknownField(field, expected) => {
            let table = error.path.split_last().map_or(&[][..], |(_, table)| table);
            let near = nearest(field, expected)
                .into_iter()
                .map(|known| {
                    let mut path = table.to_vec();
                    path.push(known.to_owned());
                    if !matches!(origin, Origin::Variable(_)) {
                        return path.join(".");
                    }
                    // One underscore where two should be.
                    let inner = field.strip_prefix(known).and_then(|rest| rest.strip_prefix('_'));
                    path.extend(inner.map(str::to_owned));
                    environment.name_for(&path)
                })
                .collect();
            ConfigError::Unknown { key, origin, near }
        }
        Kind::MissingField(field) => {
            let mut path = error.path.clone();
            path.push(field.to_string());
            let variable = environment.name_for(&path);
            ConfigError::Unset { key: path.join("."), file: file.map(Path::to_owned), variable }
        }
        Kind::InvalidType(found, wanted) => {
            let reason = format!("it is {found}, not {}", in_words(wanted));
            ConfigError::Value { key, origin, reason }
        }
        Kind::InvalidValue(found, wanted) => {
            let reason = format!("it is {found}, not {}", in_words(wanted));
            ConfigError::Value { key, origin, reason }
        }
        kind => ConfigError::Value { key, origin, reason: kind.to_string() },
    }
}

/// The name of a type of Rust, for people who write no Rust.
fn in_words(wanted: &str) -> &str {
    match wanted {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        wanted if wanted.starts_with("struct ") => "a table",
        wanted => wanted,
    }
}

/// The known keys that look most like `wrong`, at most three; all of them if none does.
fn nearest<'a>(wrong: &str, known: &'a [&'a str]) -> Vec<&'a str> {
    const MOST: usize = 3;
    let wrong = wrong.to_lowercase();
    let mut near: Vec<(usize, &str)> = known
        .iter()
        .map(|key| {
            // A part of a longer name, `level` for `log_level`, is near as well.
            let is_part = wrong.len() >= 3 && (key.contains(&wrong) || wrong.contains(*key));
            (if is_part { 1 } else { distance(&wrong, key) }, *key)
        })
        .filter(|(distance, key)| {
            *distance < wrong.len() && *distance <= (wrong.len().max(key.len()) / 3).max(2)
        })
        .collect();
    near.sort();
    near.truncate(MOST);
    if near.is_empty() { known.to_vec() } else { near.into_iter().map(|(_, key)| key).collect() }
}

/// How many letters must be added, removed or replaced to make one word the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (index, from) in a.chars().enumerate() {
        let mut next = vec![index + 1];
        for ((&above, &diagonal), &to) in row.iter().skip(1).zip(&row).zip(&b) {
            let left = next.last().copied().unwrap_or_default();
            next.push((diagonal + usize::from(from != to)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("level", "level", 0),
            ("levle", "level", 2),
            ("keep", "kep", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_keys_come_first_and_without_any_all_are_named() {
        let known = ["file", "memory_entries", "level", "rotate_bytes", "keep"];
        assert_eq!(nearest("Levle", &known), ["level"]);
        assert_eq!(nearest("memory_entires", &known), ["memory_entries"]);
        assert_eq!(nearest("log_level", &known), ["level"]);
        assert_eq!(nearest("rotate", &known), ["rotate_bytes"]);
        assert_eq!(nearest("x", &known), known);
        assert_eq!(nearest("x", &[]), [""; 0]);
    }
}
