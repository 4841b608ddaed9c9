//! `papertrader init`: writes a commented configuration, and says what to do with it.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use super::{Role, ServerError};

/// The master's configuration with every key and its default.
pub(super) const MASTER: &str = include_str!("templates/master.toml");
/// A worker's configuration with every key and its default.
pub(super) const WORKER: &str = include_str!("templates/worker.toml");

/// What stands for the worker's UUID in its template.
const UUID: &str = "00000000-0000-0000-0000-000000000000";

pub(super) fn init(role: Role, dir: &Path) -> Result<(), ServerError> {
    let write_failed =
        |path: &Path, error| ServerError::Write { path: path.display().to_string(), error };
    std::fs::create_dir_all(dir).map_err(|error| write_failed(dir, error))?;
    let (name, text, uuid) = match role {
        Role::Master => ("master.toml", MASTER.to_owned(), None),
        Role::Worker => {
            let uuid = uuid::Uuid::new_v4().to_string();
            ("worker.toml", WORKER.replace(UUID, &uuid), Some(uuid))
        }
    };
    let path = dir.join(name);
    // Never over a file that is there. A worker is known by its UUID: it is nobody else's to read.
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let opened = options.open(&path);
    let mut file = opened.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => ServerError::Exists(path.display().to_string()),
        _ => write_failed(&path, error),
    })?;
    file.write_all(text.as_bytes()).map_err(|error| write_failed(&path, error))?;
    println!("wrote {}", path.display());
    match uuid {
        None => println!("start it with: papertrader master --config {}", path.display()),
        Some(uuid) => {
            println!("add this to the master's master.toml and start the master again:\n");
            println!("[[workers]]\nname = \"one\"\nuuid = \"{uuid}\"\nallowed = [\"127.0.0.1\"]\n");
            println!("then start it with: papertrader worker --config {}", path.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::settings::{MasterSettings, WorkerSettings};
    use super::*;
    use papertrader_node::config::load;

    fn written(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    /// Takes the comment sign from every line that is a key.
    fn uncommented(template: &str) -> String {
        template
            .lines()
            .map(|line| match line.strip_prefix("#") {
                Some(key) if !key.starts_with(' ') => key,
                _ => line,
            })
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn the_templates_are_the_defaults() {
        let (_dir, path) = written("master.toml", &uncommented(MASTER));
        let all: MasterSettings = load(Some(&path), "PAPERTRADER_TEST_NONE_", ()).unwrap();
        let defaults = MasterSettings { workers: Vec::new(), ..MasterSettings::default() };
        let all = MasterSettings { workers: Vec::new(), ..all };
        assert_eq!(format!("{all:?}"), format!("{defaults:?}"));
    }

    #[test]
    fn the_template_of_a_worker_names_only_keys_that_exist() {
        let (_dir, path) = written("worker.toml", &uncommented(WORKER));
        let all: WorkerSettings = load(Some(&path), "PAPERTRADER_TEST_NONE_", ()).unwrap();
        let (_dir, path) = written("worker.toml", WORKER);
        let least: WorkerSettings = load(Some(&path), "PAPERTRADER_TEST_NONE_", ()).unwrap();
        assert_eq!(format!("{all:?}"), format!("{least:?}"));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_written_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        for (role, name) in [(Role::Master, "master.toml"), (Role::Worker, "worker.toml")] {
            init(role, dir.path()).unwrap();
            let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn init_never_writes_over_a_file() {
        let dir = tempfile::tempdir().unwrap();
        init(Role::Worker, dir.path()).unwrap();
        let first = std::fs::read(dir.path().join("worker.toml")).unwrap();
        assert!(matches!(init(Role::Worker, dir.path()), Err(ServerError::Exists(_))));
        assert_eq!(std::fs::read(dir.path().join("worker.toml")).unwrap(), first);
    }
}
