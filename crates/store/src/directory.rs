//! The data directory and its lock: one process uses a directory at a time.
//!
//! The lock is the operating system's own on the file `lock`, so it ends with the process that
//! holds it, however that ends. The file itself stays. What else is in the directory is not
//! looked at here.
//!
//! Invariant: while a [`DirectoryLock`] lives, no other process gets one for the same directory.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::StoreError;

/// How often a lock that another process holds is tried again. File locks cannot be waited for
/// with a limit.
const RETRY: Duration = Duration::from_millis(50);

/// The right to use a directory, given back when dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    directory: PathBuf,
    // Closing the file releases the lock.
    _file: File,
}

impl DirectoryLock {
    /// The directory that is locked.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Locks a directory for this process, and makes it (readable by its owner only) when it is
/// missing. Waits up to `wait` for another process that may just be ending.
///
/// Fails with [`StoreError::Directory`] when another process uses the directory, or when it
/// cannot be made or written to.
pub fn lock_directory(dir: &Path, wait: Duration) -> Result<DirectoryLock, StoreError> {
    let failed = |what: &str, error: std::io::Error| {
        StoreError::Directory(format!("{what} {}: {error}", dir.display()))
    };
    let deadline = Instant::now() + wait;
    make_private(dir).map_err(|error| failed("cannot make the directory", error))?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    private(&mut options);
    let mut file = options
        .open(dir.join("lock"))
        .map_err(|error| failed("cannot write in the directory", error))?;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => {
                return Err(failed("cannot lock the directory", error));
            }
            Err(TryLockError::WouldBlock) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(in_use(dir, &mut file));
                }
                std::thread::sleep(RETRY.min(left));
            }
        }
    }
    // Who holds it is only a help for people: failing to write it is no reason to stop.
    let note = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = note {
        tracing::debug!(%error, "the lock file cannot be written");
    }
    Ok(DirectoryLock { directory: dir.to_owned(), _file: file })
}

fn in_use(dir: &Path, file: &mut File) -> StoreError {
    let mut text = String::new();
    let holder = file
        .rewind()
        .and_then(|()| file.take(20).read_to_string(&mut text))
        .ok()
        .and_then(|_| text.trim().parse::<u32>().ok())
        .map_or_else(String::new, |process| format!(" (process {process})"));
    StoreError::Directory(format!(
        "the directory {} is in use by another PaperTrader{holder}: stop that one first, or name \
         another directory",
        dir.display()
    ))
}

fn make_private(dir: &Path) -> std::io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(dir)
}

/// Makes files that these options create readable by their owner only.
pub(crate) fn private(options: &mut OpenOptions) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    #[cfg(not(unix))]
    let _ = options;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_locked_once_and_free_again_after() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("new/data");
        let lock = lock_directory(&dir, Duration::ZERO).unwrap();
        assert_eq!(lock.directory(), dir);
        let refused = lock_directory(&dir, Duration::ZERO).unwrap_err().to_string();
        assert!(refused.contains("is in use by another"), "{refused}");
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(refused.contains(dir.to_str().unwrap()), "{refused}");
        drop(lock);
        lock_directory(&dir, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_lock_that_is_given_back_in_time_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let lock = lock_directory(dir.path(), Duration::ZERO).unwrap();
        let path = dir.path().to_owned();
        let waiting = std::thread::spawn(move || lock_directory(&path, Duration::from_secs(60)));
        drop(lock);
        waiting.join().unwrap().unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn what_is_made_belongs_to_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let _lock = lock_directory(&dir, Duration::ZERO).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join("lock")), 0o600);
    }

    #[test]
    fn a_path_that_is_no_directory_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        std::fs::write(&path, "").unwrap();
        let refused = lock_directory(&path, Duration::ZERO).unwrap_err().to_string();
        assert!(refused.contains(path.to_str().unwrap()), "{refused}");
    }
}
