//! A master and its workers as an operator sets them up: `init` writes their files, and what it
//! prints is what is typed next.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::{Done, program};
use crate::process::{Running, address, free_address};

/// A directory with the configuration of a master and its workers, one directory each.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    pub(crate) master: PathBuf,
    /// What `init master` has printed.
    said: String,
}

impl Place {
    /// `papertrader init master`, and an address that the master can come back to.
    pub(crate) fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let said = init(&["init", "master"], &dir.path().join("m"));
        let master = dir.path().join("m/master.toml");
        assert!(said.contains(&format!("papertrader master --config {}", master.display())));
        let place = Place { master, dir, said };
        place
            .edit_master("#listen = \"0.0.0.0:2048\"", &format!("listen = \"{}\"", free_address()));
        place.edit_master("#interval = \"5s\"", "interval = \"200ms\"");
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The master's data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.path("m/data")
    }

    pub(crate) fn edit_master(&self, from: &str, to: &str) {
        edit(&self.master, from, to);
    }

    /// The address that the master's configuration names.
    pub(crate) fn master_address(&self) -> String {
        let text = fs::read_to_string(&self.master).unwrap();
        let line = text.lines().find(|line| line.starts_with("listen")).unwrap();
        line.split('"').nth(1).unwrap().to_owned()
    }

    /// Starts the master, or starts it again.
    pub(crate) fn start_master(&self) -> Running {
        let mut master = serve("master", &self.master);
        assert_eq!(address(&master.line_with("master ready on ")), self.master_address());
        master
    }

    /// Makes a worker as `init master` has said, with `more` on its command, and tells the running
    /// master of it as `init worker` says. Returns its configuration.
    pub(crate) fn worker(&self, name: &str, more: &[&str]) -> PathBuf {
        let (file, said) = self.init_worker(name, more);
        let line = said.lines().find(|line| line.contains("papertrader admin")).unwrap();
        let line = line.replace("ADDRESS", "127.0.0.1").replace("DATA", self.data_as_printed());
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        // Where the copy of the key is.
        let output = program().args(&words).current_dir(self.path(name)).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        file
    }

    /// A worker that the master does not know.
    pub(crate) fn stranger(&self, name: &str) -> PathBuf {
        self.init_worker(name, &[]).0
    }

    fn init_worker(&self, name: &str, more: &[&str]) -> (PathBuf, String) {
        let line = self.said.lines().find(|line| line.contains("papertrader init worker")).unwrap();
        let line = line
            .replace("NAME", name)
            .replace("HOST:2048", &self.master_address())
            .replace(" DIR ", " ");
        let words: Vec<&str> =
            line.split_whitespace().skip(1).chain(more.iter().copied()).collect();
        let said = init(&words, &self.path(name));
        let file = self.path(name).join("worker.toml");
        assert!(said.contains(&format!("papertrader worker --config {}", file.display())));
        edit(&file, "#listen = \"0.0.0.0:2049\"", "listen = \"127.0.0.1:0\"");
        (file, said)
    }

    fn data_as_printed(&self) -> &str {
        self.said.rsplit_once("--data ").unwrap().1.trim_end()
    }

    /// Runs an operator's command.
    pub(crate) fn run_admin(&self, words: &[&str]) -> Done {
        Done::of(program().arg("admin").args(words).arg("--data").arg(self.data()), "")
    }

    /// The JSON of an operator's command that succeeds.
    pub(crate) fn admin(&self, words: &[&str]) -> Value {
        self.run_admin(&[words, &["--json"]].concat()).good().json()
    }

    /// Starts the master, makes workers with these names, and waits until all are ready.
    pub(crate) fn start(self, names: &[&str]) -> Deployment {
        let master = self.start_master();
        let mut deployment = Deployment { place: self, master, workers: vec![], addresses: vec![] };
        for name in names {
            let mut worker = serve("worker", &deployment.place.worker(name, &[]));
            deployment.addresses.push(address(&worker.line_with("worker ready on ")));
            deployment.workers.push(worker);
        }
        deployment
    }
}

/// A master and its workers that run.
pub(crate) struct Deployment {
    pub(crate) place: Place,
    pub(crate) master: Running,
    pub(crate) workers: Vec<Running>,
    /// Of the workers.
    pub(crate) addresses: Vec<String>,
}

impl Deployment {
    /// Ends all as an operator does: the workers, then the master.
    pub(crate) fn end(&mut self) {
        for running in self.workers.iter_mut().chain([&mut self.master]) {
            assert_eq!(running.end_by("TERM").code(), Some(0), "{running:?}");
        }
    }
}

fn init(words: &[&str], dir: &Path) -> String {
    let output = program().args(words).arg(dir).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Replaces the one place in a file.
pub(crate) fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
    fs::write(file, text.replace(from, to)).unwrap();
}

/// A server whose event log is heard too.
pub(crate) fn serve(role: &str, config: &Path) -> Running {
    let stderr = format!("PAPERTRADER_{}_LOG__STDERR", role.to_uppercase());
    Running::start(program().arg(role).arg("--config").arg(config).env(stderr, "true"))
}
