//! Writes a file that is its owner's alone: a private key, or a key that is trusted from now on.
//!
//! It does not make directories, and does not read. Invariant: what lay at the path before, also a
//! symbolic link, is replaced and never written through; the file is there whole or not at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Writes `text` to a file at `path`, readable by its owner only.
pub(crate) fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    // A name that nobody can have put something under.
    let new = path.with_extension(format!("{:016x}.new", rand::random::<u64>()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&new)?;
    let written = file.write_all(text).and_then(|()| file.sync_all());
    drop(file);
    let moved = written.and_then(|()| fs::rename(&new, path));
    if moved.is_err() {
        // What is left of it is of no use to anybody.
        let _ = fs::remove_file(&new);
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        write(&path, b"the first, which is longer").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        // What cannot be moved to its place is taken away again.
        let taken = directory.path().join("taken");
        fs::create_dir_all(taken.join("inside")).unwrap();
        write(&taken, b"third").unwrap_err();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_is_replaced_and_its_target_is_not_touched() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let directory = tempfile::tempdir().unwrap();
        let (path, target) = (directory.path().join("key.pem"), directory.path().join("target"));
        fs::write(&target, "untouched").unwrap();
        symlink(&target, &path).unwrap();
        write(&path, b"secret").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"untouched");
        let written = fs::symlink_metadata(&path).unwrap();
        assert!(written.is_file());
        assert_eq!(written.permissions().mode() & 0o777, 0o600);
    }
}
