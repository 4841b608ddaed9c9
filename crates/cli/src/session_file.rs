//! The file that keeps the session between two commands.
//!
//! It is a secret: whoever reads it is the user. Invariant: the session ID is in the file and never
//! in what is printed.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use crate::config_dir::ConfigDir;
use crate::error::CliError;

/// What is kept. The session ID never prints itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedSession {
    /// The session ID in hexadecimal.
    pub(crate) session: String,
    /// Whose it is.
    pub(crate) user: String,
    /// The deployment that gave it.
    pub(crate) deployment: String,
    /// The servers that were given at log-in; `tcp://` stands before those that are spoken to
    /// without TLS.
    pub(crate) servers: Vec<String>,
    /// The server that was used last, then those of the last list of workers; the same form.
    pub(crate) workers: Vec<String>,
    /// The fingerprints of their certificates as that list said them, by address.
    #[serde(default)]
    pub(crate) certificates: BTreeMap<String, String>,
}

impl std::fmt::Debug for SavedSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedSession")
            .field("user", &self.user)
            .field("deployment", &self.deployment)
            .finish_non_exhaustive()
    }
}

/// Where it is kept.
#[derive(Debug, Clone)]
pub(crate) struct SessionFile {
    config: ConfigDir,
}

const NAME: &str = "session.json";
/// A list of workers has a thousand at most.
const LIMIT: u64 = 1024 * 1024;

impl SessionFile {
    /// In this directory.
    pub(crate) fn of(config: &ConfigDir) -> SessionFile {
        SessionFile { config: config.clone() }
    }

    fn failed(&self, problem: io::Error) -> CliError {
        CliError::SessionFile { path: self.config.path(NAME), problem }
    }

    /// What is kept, if anything.
    pub(crate) fn load(&self) -> Result<Option<SavedSession>, CliError> {
        let Some(text) = self.config.read(NAME, LIMIT).map_err(|error| self.failed(error))? else {
            return Ok(None);
        };
        let saved = serde_json::from_slice(&text).map_err(|problem| CliError::SessionContent {
            path: self.config.path(NAME),
            problem,
        })?;
        Ok(Some(saved))
    }

    /// Keeps this instead of what was kept.
    pub(crate) fn save(&self, saved: &SavedSession) -> Result<(), CliError> {
        let mut text = serde_json::to_vec_pretty(saved).map_err(|e| self.failed(e.into()))?;
        text.push(b'\n');
        self.config.replace(NAME, &text).map_err(|error| self.failed(error))
    }

    /// Keeps nothing.
    pub(crate) fn remove(&self) -> Result<(), CliError> {
        self.config.remove(NAME).map_err(|error| self.failed(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(user: &str) -> SavedSession {
        SavedSession {
            session: "5e".repeat(16),
            user: user.into(),
            deployment: "d".into(),
            servers: vec!["127.0.0.1:2049".into()],
            workers: vec!["tcp://127.0.0.1:2050".into()],
            certificates: BTreeMap::from([("127.0.0.1:2051".into(), "07".repeat(32))]),
        }
    }

    #[test]
    fn it_is_kept_until_it_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let file = SessionFile::of(&ConfigDir::locate(Some(home.path())).unwrap());
        assert_eq!(file.load().unwrap(), None);
        file.save(&saved("alice")).unwrap();
        file.save(&saved("bob")).unwrap();
        assert_eq!(file.load().unwrap(), Some(saved("bob")));
        assert!(!format!("{:?}", saved("bob")).contains("5e5e"));
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(file.load().unwrap(), None);
    }

    #[test]
    fn what_is_no_session_is_named() {
        let home = tempfile::tempdir().unwrap();
        let config = ConfigDir::locate(Some(home.path())).unwrap();
        let file = SessionFile::of(&config);
        config.replace(NAME, b"{}").unwrap();
        assert!(matches!(file.load(), Err(CliError::SessionContent { .. })));
        // A directory in the way cannot be replaced by a file.
        file.remove().unwrap();
        std::fs::create_dir(config.path(NAME)).unwrap();
        assert!(matches!(file.save(&saved("alice")), Err(CliError::SessionFile { .. })));
    }
}
