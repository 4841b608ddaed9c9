//! The file that keeps the session between two commands.
//!
//! It is a secret: whoever reads it is the user. Invariants: it has mode 0600 from its creation
//! on and stands in a directory of mode 0700 if that is made here; it is replaced as a whole or
//! not at all.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

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
    /// The servers that were given at log-in.
    pub(crate) servers: Vec<String>,
    /// The server that was used last, then those of the last list of workers.
    pub(crate) workers: Vec<String>,
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
    directory: PathBuf,
}

const NAME: &str = "session.json";

impl SessionFile {
    /// In `directory`, or in the user's config directory.
    pub(crate) fn locate(directory: Option<&Path>) -> Result<SessionFile, CliError> {
        if let Some(directory) = directory {
            return Ok(SessionFile { directory: directory.to_owned() });
        }
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let base = set("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            // A relative path there has no meaning.
            .filter(|path| path.is_absolute())
            .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".config")))
            .ok_or(CliError::NoConfigDir)?;
        Ok(SessionFile { directory: base.join("papertrader") })
    }

    fn path(&self) -> PathBuf {
        self.directory.join(NAME)
    }

    fn failed(&self, problem: io::Error) -> CliError {
        CliError::SessionFile { path: self.path(), problem }
    }

    /// What is kept, if anything.
    pub(crate) fn load(&self) -> Result<Option<SavedSession>, CliError> {
        let text = match fs::read(self.path()) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed(error)),
        };
        let saved = serde_json::from_slice(&text)
            .map_err(|problem| CliError::SessionContent { path: self.path(), problem })?;
        Ok(Some(saved))
    }

    /// Keeps this instead of what was kept.
    pub(crate) fn save(&self, saved: &SavedSession) -> Result<(), CliError> {
        self.replace(saved).map_err(|error| self.failed(error))
    }

    /// Keeps nothing.
    pub(crate) fn remove(&self) -> Result<(), CliError> {
        match fs::remove_file(self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(error)),
            _ => Ok(()),
        }
    }

    fn replace(&self, saved: &SavedSession) -> io::Result<()> {
        make_directory(&self.directory)?;
        let mut text = serde_json::to_vec_pretty(saved)?;
        text.push(b'\n');
        let temporary = self.directory.join(format!(".{NAME}.{}", Uuid::new_v4()));
        let written =
            write_secret(&temporary, &text).and_then(|()| fs::rename(&temporary, self.path()));
        if written.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn write_secret(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(unix)]
    use std::os::unix::fs::PermissionsExt;

    fn saved(user: &str) -> SavedSession {
        SavedSession {
            session: "5e".repeat(16),
            user: user.into(),
            deployment: "d".into(),
            servers: vec!["127.0.0.1:2049".into()],
            workers: vec![],
        }
    }

    #[cfg(unix)]
    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    #[cfg(unix)]
    fn it_is_readable_by_its_owner_only() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("config/papertrader");
        let file = SessionFile::locate(Some(&directory)).unwrap();
        assert_eq!(file.load().unwrap(), None);
        file.save(&saved("alice")).unwrap();
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&file.path()), 0o600);
        assert_eq!(file.load().unwrap(), Some(saved("alice")));
        // A file that somebody opened up is closed again by the next save.
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
        file.save(&saved("bob")).unwrap();
        assert_eq!(mode(&file.path()), 0o600);
    }

    #[test]
    fn it_is_replaced_as_a_whole() {
        let home = tempfile::tempdir().unwrap();
        let file = SessionFile::locate(Some(home.path())).unwrap();
        file.save(&saved("alice")).unwrap();
        // Whoever has the old file open goes on reading the old content.
        let mut open = fs::File::open(file.path()).unwrap();
        file.save(&saved("bob")).unwrap();
        let mut text = String::new();
        io::Read::read_to_string(&mut open, &mut text).unwrap();
        assert_eq!(serde_json::from_str::<SavedSession>(&text).unwrap(), saved("alice"));
        assert_eq!(file.load().unwrap(), Some(saved("bob")));
        let names: Vec<_> = fs::read_dir(home.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "no temporary file is left: {names:?}");
    }

    #[test]
    fn a_failed_save_leaves_nothing_behind() {
        let home = tempfile::tempdir().unwrap();
        let file = SessionFile::locate(Some(home.path())).unwrap();
        // A directory in the way cannot be replaced by a file.
        fs::create_dir(file.path()).unwrap();
        assert!(matches!(file.save(&saved("alice")), Err(CliError::SessionFile { .. })));
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_session_is_named() {
        let home = tempfile::tempdir().unwrap();
        let file = SessionFile::locate(Some(home.path())).unwrap();
        fs::write(file.path(), "{}").unwrap();
        assert!(matches!(file.load(), Err(CliError::SessionContent { .. })));
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(file.load().unwrap(), None);
    }
}
