//! Configuration: a TOML file, overridden by the environment, overridden by flags.
//!
//! It does not know which keys a server has: that is a type of the server's with serde's
//! `deny_unknown_fields`, whose defaults stand for what nobody sets. Invariants: a later source
//! replaces an earlier one key by key (a list as a whole); a key that the type does not have is an
//! error that says where it stands; every error names the key and the file, variable or flag.
//!
//! In the environment, `__` stands between nested keys: with the prefix `PAPERTRADER_MASTER_`,
//! `PAPERTRADER_MASTER_LOG__LEVEL` is the key `log.level`. Case does not matter in a variable's
//! name. A value is a number, a boolean, a list such as `[1,2]`, or text, which needs no quotes; text
//! that looks like a number is text where the key wants text.

mod environment;
mod error;
mod units;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use figment::error::Kind;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::{ConfigError, Origin};
pub use units::{ByteSize, HumanDuration, UnitError, byte_size};

use environment::Environment;
use error::explain;

/// Reads a configuration: `file` if there is one, then the variables whose names begin with
/// `env_prefix` (such as `PAPERTRADER_MASTER_`, with the underscore at its end), then `overrides`:
/// the flags, as anything that serializes to a map, or `()` for none. In `overrides`, `None` means
/// that the flag was not given.
///
/// The type `T` and every table in it must have serde's `deny_unknown_fields`.
///
/// # Errors
/// See [`ConfigError`]: a file that is missing or is not TOML, a key that is unknown, missing, or
/// has a bad value, in the file or in the environment.
pub fn load<T: DeserializeOwned>(
    file: Option<&Path>,
    env_prefix: &str,
    overrides: impl Serialize,
) -> Result<T, ConfigError> {
    load_from(file, env_prefix, std::env::vars_os(), overrides)
}

/// [`load`] with the variables given.
fn load_from<T: DeserializeOwned>(
    file: Option<&Path>,
    env_prefix: &str,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    overrides: impl Serialize,
) -> Result<T, ConfigError> {
    let mut base = Figment::new();
    if let Some(path) = file {
        base = base.merge(read(path, env_prefix)?);
    }
    let flags = Flags::new(overrides)?;
    let mut environment = Environment::read(env_prefix, variables)?;
    loop {
        let figment = base.clone().merge(environment.provider()?).merge(flags.clone());
        let error = match figment.extract::<T>() {
            Ok(config) => return Ok(config),
            Err(error) => error,
        };
        // A name or a password may look like a number. Each round makes one more variable text, so
        // this ends.
        let wants_text =
            matches!(&error.kind, Kind::InvalidType(_, wanted) if wanted.contains("string"));
        let from_environment = origin_name(&error) == Some(environment::NAME);
        if wants_text && from_environment && environment.take_literally(&error.path) {
            continue;
        }
        return Err(explain(error, file, &environment));
    }
}

const FLAGS: &str = "command line";

fn origin_name(error: &figment::Error) -> Option<&str> {
    error.metadata.as_ref().map(|metadata| metadata.name.as_ref())
}

/// Reads a TOML file. It is read here so that a missing file is an error.
fn read(path: &Path, env_prefix: &str) -> Result<Figment, ConfigError> {
    let path_buf = || path.to_owned();
    let text = fs::read_to_string(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => {
            let role = env_prefix.trim_start_matches("PAPERTRADER_").trim_matches('_');
            ConfigError::Missing { path: path_buf(), role: role.to_lowercase() }
        }
        _ => ConfigError::Read { path: path_buf(), source },
    })?;
    Toml::from_str::<Dict>(&text).map_err(|error| ConfigError::Syntax {
        path: path_buf(),
        reason: error.to_string().trim_end().to_owned(),
    })?;
    Ok(Figment::from(Toml::string(&text)))
}

/// The flags that were given.
#[derive(Debug, Clone)]
struct Flags(Dict);

impl Flags {
    fn new(overrides: impl Serialize) -> Result<Flags, ConfigError> {
        let value = Value::serialize(overrides)
            .map_err(|error| ConfigError::Flags { reason: error.to_string() })?;
        match value {
            Value::Dict(_, dict) => Ok(Flags(without_unset(dict))),
            Value::Empty(..) => Ok(Flags(Dict::new())),
            _ => Err(ConfigError::Flags { reason: "they are not a map".to_owned() }),
        }
    }
}

fn without_unset(dict: Dict) -> Dict {
    dict.into_iter()
        .filter_map(|(key, value)| match value {
            Value::Empty(..) => None,
            Value::Dict(tag, inner) => Some((key, Value::Dict(tag, without_unset(inner)))),
            value => Some((key, value)),
        })
        .collect()
}

impl Provider for Flags {
    fn metadata(&self) -> Metadata {
        Metadata::named(FLAGS)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Serialized::defaults(&self.0).data()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::log::LogConfig;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Server {
        name: String,
        #[serde(default = "five_seconds")]
        interval: HumanDuration,
        #[serde(default)]
        cache: Option<ByteSize>,
        #[serde(default)]
        workers: Vec<u16>,
        #[serde(default)]
        log: LogConfig,
    }

    fn five_seconds() -> HumanDuration {
        HumanDuration::from_secs(5)
    }

    struct Case {
        dir: tempfile::TempDir,
        variables: Vec<(OsString, OsString)>,
    }

    impl Case {
        fn new(toml: &str) -> Case {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("master.toml"), toml).unwrap();
            Case { dir, variables: Vec::new() }
        }

        fn env(mut self, name: &str, value: &str) -> Case {
            self.variables.push((name.into(), value.into()));
            self
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("master.toml")
        }

        fn load(&self) -> Result<Server, ConfigError> {
            self.load_with(())
        }

        fn load_with(&self, flags: impl Serialize) -> Result<Server, ConfigError> {
            let variables = self.variables.clone();
            load_from(Some(&self.path()), "PAPERTRADER_MASTER_", variables, flags)
        }

        /// The words of the error, which must name all of `parts`, and the file as FILE.
        #[track_caller]
        fn fails_naming(&self, parts: &[&str]) {
            let words = self.load().unwrap_err().to_string();
            let words = words.replace(self.path().to_str().unwrap(), "FILE");
            for part in parts {
                assert!(words.contains(part), "{part} is not in: {words}");
            }
        }
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let toml = "name = 'a'\ninterval = '1m'\nworkers = [1, 2]\n\
                    [log]\nlevel = 'warn'\nkeep = 2\nrotate_bytes = '1KiB'";
        let case = Case::new(toml);
        let server = case.load().unwrap();
        assert_eq!(server.interval, HumanDuration::from_secs(60));
        assert_eq!((server.log.level.as_str(), server.log.keep), ("warn", 2));
        assert_eq!((server.log.rotate_bytes, server.log.memory_entries), (1024, 1000));

        let case = case
            .env("PAPERTRADER_MASTER_LOG__LEVEL", "info,tokio=warn")
            .env("PAPERTRADER_MASTER_LOG__STDERR", "true")
            .env("papertrader_master_interval", "500ms")
            .env("PAPERTRADER_MASTER_WORKERS", "[3]")
            .env("PAPERTRADER_MASTER_CACHE", "4096")
            .env("PAPERTRADER_MASTERS", "not ours")
            .env("PAPERTRADER_WORKER_NAME", "not ours");
        let server = case.load().unwrap();
        assert_eq!((server.log.level.as_str(), server.log.keep), ("info,tokio=warn", 2));
        assert!(server.log.stderr);
        assert_eq!(server.interval, HumanDuration::from_millis(500));
        assert_eq!((server.workers.as_slice(), server.name.as_str()), (&[3][..], "a"));
        assert_eq!(server.cache, Some(ByteSize(4096)));

        #[derive(Serialize)]
        struct FlagsOfLog {
            level: Option<&'static str>,
            keep: Option<usize>,
        }
        #[derive(Serialize)]
        struct AllFlags {
            name: Option<&'static str>,
            interval: Option<HumanDuration>,
            log: FlagsOfLog,
        }
        let log = FlagsOfLog { level: Some("debug"), keep: None };
        let flags = AllFlags { name: None, interval: Some(HumanDuration::from_secs(7200)), log };
        let server = case.load_with(flags).unwrap();
        assert_eq!(server.name, "a");
        assert_eq!(server.interval, HumanDuration::from_secs(7200));
        assert_eq!((server.log.level.as_str(), server.log.keep), ("debug", 2));
    }

    #[test]
    fn a_server_can_be_configured_without_a_file() {
        let variables = [("PAPERTRADER_WORKER_NAME".into(), "eu".into())];
        let server: Server = load_from(None, "PAPERTRADER_WORKER_", variables, ()).unwrap();
        assert_eq!((server.name.as_str(), server.interval), ("eu", five_seconds()));
    }

    #[test]
    fn text_that_looks_like_something_else_is_text_where_text_is_wanted() {
        for text in ["2026", "true", "1.50", "[1]", "007", "", " a b ", "a,b"] {
            let case = Case::new("").env("PAPERTRADER_MASTER_NAME", text);
            let case = case.env("PAPERTRADER_MASTER_LOG__LEVEL", "3");
            let server = case.load().unwrap();
            assert_eq!((server.name.as_str(), server.log.level.as_str()), (text, "3"));
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_file_and_its_nearest_neighbours() {
        let case = Case::new("name = 'a'\n[log]\nlevle = 'info'");
        case.fails_naming(&["`log.levle`", "FILE", "`log.level`"]);
        assert!(matches!(case.load(), Err(ConfigError::Unknown { key, .. }) if key == "log.levle"));
        Case::new("name = 'a'\nintervall = '5s'").fails_naming(&["`intervall`", "`interval`"]);
        Case::new("name = 'a'\nzzzzzzz = 1").fails_naming(&[
            "`zzzzzzz`",
            "`name`",
            "`interval`",
            "`cache`",
            "`workers`",
            "`log`",
        ]);
    }

    #[test]
    fn an_unknown_variable_is_named() {
        let case = Case::new("name = 'a'").env("PAPERTRADER_MASTER_LOG__Levle", "info");
        case.fails_naming(&["PAPERTRADER_MASTER_LOG__Levle", "PAPERTRADER_MASTER_LOG__LEVEL"]);
        let case = Case::new("name = 'a'").env("PAPERTRADER_MASTER_LOG_LEVEL", "info");
        case.fails_naming(&["PAPERTRADER_MASTER_LOG_LEVEL", "PAPERTRADER_MASTER_LOG__LEVEL"]);
        for name in ["PAPERTRADER_MASTER_", "PAPERTRADER_MASTER_LOG__", "PAPERTRADER_MASTER___X"] {
            Case::new("name = 'a'").env(name, "1").fails_naming(&[name]);
        }
    }

    #[test]
    fn variables_that_contradict_each_other_are_named() {
        let case = Case::new("name = 'a'")
            .env("PAPERTRADER_MASTER_LOG", "x")
            .env("PAPERTRADER_MASTER_LOG__LEVEL", "info");
        case.fails_naming(&["PAPERTRADER_MASTER_LOG__LEVEL"]);
        let case =
            Case::new("").env("PAPERTRADER_MASTER_NAME", "a").env("papertrader_master_name", "b");
        case.fails_naming(&["PAPERTRADER_MASTER_NAME", "papertrader_master_name"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_variable_that_is_not_text_is_named() {
        use std::os::unix::ffi::OsStringExt;
        let mut case = Case::new("name = 'a'");
        let value = OsString::from_vec(vec![0xff]);
        case.variables.push(("PAPERTRADER_MASTER_NAME".into(), value));
        case.fails_naming(&["PAPERTRADER_MASTER_NAME"]);
    }

    #[test]
    fn a_missing_file_is_named_with_the_command_that_writes_one() {
        let path = Path::new("/nowhere/worker.toml");
        for (prefix, command) in [
            ("PAPERTRADER_MASTER_", "papertrader init master DIR"),
            ("PAPERTRADER_WORKER_", "papertrader init worker DIR"),
        ] {
            let error = load::<Server>(Some(path), prefix, ()).unwrap_err().to_string();
            assert!(error.contains("/nowhere/worker.toml") && error.contains(command), "{error}");
        }
        let dir = tempfile::tempdir().unwrap();
        let error = load::<Server>(Some(dir.path()), "X_", ()).unwrap_err();
        assert!(matches!(error, ConfigError::Read { .. }), "{error}");
    }

    #[test]
    fn bad_values_are_named_with_the_place_they_come_from() {
        Case::new("name = 'a'\nname = 'b'").fails_naming(&["FILE", "line 2", "duplicate key"]);
        Case::new("name = ").fails_naming(&["FILE", "line 1"]);
        Case::new("").fails_naming(&["`name`", "FILE", "PAPERTRADER_MASTER_NAME"]);
        Case::new("name = 5").fails_naming(&["`name`", "FILE", "a string"]);
        Case::new("name = 'a'\ninterval = '5 parsecs'").fails_naming(&[
            "`interval`",
            "FILE",
            "5 parsecs",
        ]);
        Case::new("name = 'a'\nworkers = [1, 70000]").fails_naming(&["`workers.1`", "FILE"]);
        Case::new("name = 'a'\n[log]\nrotate_bytes = -1").fails_naming(&["`log.rotate_bytes`"]);
        Case::new("name = 'a'").env("PAPERTRADER_MASTER_LOG__KEEP", "many").fails_naming(&[
            "PAPERTRADER_MASTER_LOG__KEEP",
            "many",
            "a whole number",
        ]);
        Case::new("name = 'a'\nlog = 3").fails_naming(&["`log`", "not a table"]);
        let error = Case::new("").load_with(Map::from([("name", 5)])).unwrap_err().to_string();
        assert!(error.contains("`name`") && error.contains("command line"), "{error}");
        let error = Case::new("").load_with("words").unwrap_err();
        assert!(matches!(error, ConfigError::Flags { .. }), "{error}");
    }
}
