//! The user's directory for what is kept between two commands.
//!
//! What stands in the files is not known here. Invariants: a file has mode 0600 from its creation
//! on and stands in a directory of mode 0700 if that is made here; it is replaced as a whole or
//! not at all; no more of it is read than its limit.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::error::CliError;

/// The directory.
#[derive(Debug, Clone)]
pub(crate) struct ConfigDir {
    directory: PathBuf,
}

impl ConfigDir {
    /// This one, or the user's own.
    pub(crate) fn locate(directory: Option<&Path>) -> Result<ConfigDir, CliError> {
        if let Some(directory) = directory {
            return Ok(ConfigDir { directory: directory.to_owned() });
        }
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let base = set("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            // A relative path there has no meaning.
            .filter(|path| path.is_absolute())
            .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".config")))
            .ok_or(CliError::NoConfigDir)?;
        Ok(ConfigDir { directory: base.join("papertrader") })
    }

    /// Where a file of this name is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What the file holds, if there is one. One that is longer than `limit` bytes is an error.
    pub(crate) fn read(&self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match fs::File::open(self.path(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(limit + 1).read_to_end(&mut text)?;
        if text.len() as u64 > limit {
            return Err(io::Error::other(format!("it is longer than {limit} bytes")));
        }
        Ok(Some(text))
    }

    /// Makes this the content of the file.
    pub(crate) fn replace(&self, name: &str, text: &[u8]) -> io::Result<()> {
        make_directory(&self.directory)?;
        let temporary = self.path(&format!(".{name}.{}", Uuid::new_v4()));
        let written =
            write_secret(&temporary, text).and_then(|()| fs::rename(&temporary, self.path(name)));
        if written.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Waits for the lock that this file stands for; it is free again when what is returned is dropped.
    /// The file stays, empty.
    pub(crate) fn lock(&self, name: &str) -> io::Result<fs::File> {
        make_directory(&self.directory)?;
        let file = secret().create(true).truncate(false).open(self.path(name))?;
        file.lock()?;
        Ok(file)
    }

    /// Removes the file if there is one.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// For writing; a file that is made is its owner's alone.
fn secret() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn write_secret(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = secret().create_new(true).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(unix)]
    use std::os::unix::fs::PermissionsExt;

    const NAME: &str = "file.json";

    #[test]
    #[cfg(unix)]
    fn a_file_is_readable_by_its_owner_only() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("config/papertrader");
        let config = ConfigDir::locate(Some(&directory)).unwrap();
        assert_eq!(config.read(NAME, 9).unwrap(), None);
        config.replace(NAME, b"one").unwrap();
        let path = config.path(NAME);
        assert_eq!((mode(&directory), mode(&path)), (0o700, 0o600));
        // A file that somebody opened up is closed again by the next one.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        config.replace(NAME, b"two").unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(config.read(NAME, 9).unwrap().unwrap(), b"two");
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let home = tempfile::tempdir().unwrap();
        let config = ConfigDir::locate(Some(home.path())).unwrap();
        config.replace(NAME, b"one").unwrap();
        // Whoever has the old file open goes on reading the old content.
        let mut open = fs::File::open(config.path(NAME)).unwrap();
        config.replace(NAME, b"two").unwrap();
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one");
        let names: Vec<_> = fs::read_dir(home.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "no temporary file is left: {names:?}");
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let home = tempfile::tempdir().unwrap();
        let config = ConfigDir::locate(Some(home.path())).unwrap();
        // A directory in the way cannot be replaced by a file.
        fs::create_dir(config.path(NAME)).unwrap();
        config.replace(NAME, b"one").unwrap_err();
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn no_more_is_read_than_the_limit() {
        let home = tempfile::tempdir().unwrap();
        let config = ConfigDir::locate(Some(home.path())).unwrap();
        config.replace(NAME, b"12345").unwrap();
        assert_eq!(config.read(NAME, 5).unwrap().unwrap().len(), 5);
        config.read(NAME, 4).unwrap_err();
        config.remove(NAME).unwrap();
        config.remove(NAME).unwrap();
        assert_eq!(config.read(NAME, 5).unwrap(), None);
    }
}
