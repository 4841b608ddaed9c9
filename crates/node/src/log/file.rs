//! The log file: appended to in whole batches, rotated by size.
//!
//! It does not know what an entry is and keeps nothing in memory. Invariants: the file is made
//! readable for its owner only; a batch stands in one file, whole or (after a failure) not at all
//! as far as the disk lets it be taken back; what follows a torn line starts on a line of its own.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file that is appended to. It is opened again when it was moved away or deleted.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    rotate_bytes: u64,
    keep: usize,
    open: Option<File>,
    rotation_failed: bool,
}

impl LogFile {
    /// Opens or makes the file. `rotate_bytes` 0 never rotates; `keep` is how many old files stay.
    pub(super) fn open(path: PathBuf, rotate_bytes: u64, keep: usize) -> io::Result<LogFile> {
        let file = open_for_append(&path)?;
        Ok(LogFile { path, rotate_bytes, keep, open: Some(file), rotation_failed: false })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a batch of lines in one write, after a rotation if the file would grow beyond its
    /// size. A batch larger than that size is still one batch in one file.
    pub(super) fn append(&mut self, batch: &[u8]) -> io::Result<()> {
        let mut file = self.current()?;
        let mut length = file.metadata()?.len();
        let grown = length.saturating_add(batch.len() as u64);
        if self.rotate_bytes > 0 && length > 0 && grown > self.rotate_bytes {
            file = self.rotate(file)?;
            length = file.metadata()?.len();
        }
        if let Err(error) = file.write_all(batch) {
            // The part that was written would be there twice after the next attempt. If it cannot
            // be taken back, opening the file again ends the torn line.
            let _ = file.set_len(length);
            return Err(error);
        }
        self.open = Some(file);
        Ok(())
    }

    /// The open file, if the path still names it; opened again otherwise.
    fn current(&mut self) -> io::Result<File> {
        match (self.open.take(), fs::metadata(&self.path)) {
            (Some(file), Ok(at_path)) if is_same(&file.metadata()?, &at_path) => Ok(file),
            _ => open_for_append(&self.path),
        }
    }

    /// Moves the file to `.1`, `.1` to `.2` and so on, and opens a new one. Where that is
    /// impossible (a directory that may not be written to) the old one goes on: a long log is
    /// better than none.
    fn rotate(&mut self, file: File) -> io::Result<File> {
        match self.shift() {
            Ok(()) => {
                self.rotation_failed = false;
                drop(file);
                open_for_append(&self.path)
            }
            Err(error) => {
                if !self.rotation_failed {
                    self.rotation_failed = true;
                    super::complain(&format!(
                        "the log file {} cannot be rotated and will grow: {error}",
                        self.path.display()
                    ));
                }
                Ok(file)
            }
        }
    }

    fn shift(&self) -> io::Result<()> {
        if self.keep == 0 {
            return fs::remove_file(&self.path);
        }
        let mut last = 1;
        while last < self.keep && self.old(last).try_exists()? {
            last += 1;
        }
        for number in (1..last).rev() {
            fs::rename(self.old(number), self.old(number + 1))?;
        }
        fs::rename(&self.path, self.old(1))
    }

    fn old(&self, number: usize) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }
}

/// Opens or makes a file to append to, and ends a torn last line.
pub(super) fn open_for_append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

#[cfg(unix)]
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Elsewhere an open file cannot be moved away.
#[cfg(not(unix))]
fn is_same(_: &Metadata, _: &Metadata) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: impl AsRef<Path>) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn rotation_keeps_the_newest_and_no_more_than_configured() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(path.clone(), 11, 4).unwrap();
        for batch in [
            "the oldest\n",
            "the first\n",
            "the second\n",
            "three\n",
            "four\n",
            "long line\n",
            "six\n",
        ] {
            log.append(batch.as_bytes()).unwrap();
        }
        assert_eq!(read(&path), "six\n");
        assert_eq!(read(log.old(1)), "long line\n");
        assert_eq!(read(log.old(2)), "three\nfour\n");
        assert_eq!(read(log.old(3)), "the second\n");
        assert_eq!(read(log.old(4)), "the first\n", "the oldest is gone");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
    }

    #[test]
    fn no_old_file_is_kept_when_none_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(path.clone(), 6, 0).unwrap();
        log.append(b"one\n").unwrap();
        log.append(b"two\n").unwrap();
        assert_eq!(read(&path), "two\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_batch_larger_than_the_size_stays_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(path.clone(), 4, 5).unwrap();
        log.append(b"one\ntwo\nthree\n").unwrap();
        assert_eq!(read(&path), "one\ntwo\nthree\n");
        assert!(!log.old(1).exists(), "an empty file is not rotated");
    }

    #[test]
    fn where_rotation_is_impossible_the_file_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(path.clone(), 4, 1).unwrap();
        // A directory that is not empty cannot be replaced by a file.
        fs::create_dir_all(log.old(1).join("inside")).unwrap();
        log.append(b"one\n").unwrap();
        log.append(b"two\n").unwrap();
        assert_eq!(read(&path), "one\ntwo\n");
    }

    #[test]
    fn a_torn_line_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "whole\nto").unwrap();
        LogFile::open(path.clone(), 0, 1).unwrap().append(b"next\n").unwrap();
        assert_eq!(read(&path), "whole\nto\nnext\n");
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_its_owners_and_comes_back_after_it_was_moved_away() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(path.clone(), 0, 1).unwrap();
        log.append(b"one\n").unwrap();
        fs::rename(&path, dir.path().join("away")).unwrap();
        log.append(b"two\n").unwrap();
        assert_eq!(read(&path), "two\n");
        assert_eq!(read(dir.path().join("away")), "one\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_failure_leaves_a_file_that_can_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let mut log = LogFile::open(inner.join("log"), 0, 1).unwrap();
        fs::remove_dir_all(&inner).unwrap();
        log.append(b"one\n").unwrap_err();
        fs::create_dir(&inner).unwrap();
        log.append(b"two\n").unwrap();
        assert_eq!(read(inner.join("log")), "two\n");
    }
}
