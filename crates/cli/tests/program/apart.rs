//! Master and workers as an operator runs them: each with its configuration, each by itself. One
//! of them dies, and clients go on.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::{User, program};
use crate::process::{Running, address, free_address};

/// A directory with the configuration of a master and its workers.
struct Place {
    dir: tempfile::TempDir,
    master: PathBuf,
}

impl Place {
    /// `papertrader init master`, and an address that the master can come back to.
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let said = init("master", &dir.path().join("m"));
        let master = dir.path().join("m/master.toml");
        assert!(said.contains(&format!("papertrader master --config {}", master.display())));
        let place = Place { master, dir };
        place
            .edit_master("#listen = \"0.0.0.0:2048\"", &format!("listen = \"{}\"", free_address()));
        let data = place.path("m/data");
        place.edit_master("#data = \"data\"", &format!("data = \"{}\"", data.display()));
        place.edit_master("#interval = \"5s\"", "interval = \"200ms\"");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn edit_master(&self, from: &str, to: &str) {
        edit(&self.master, from, to);
    }

    /// The address that the master's configuration names.
    fn master_address(&self) -> String {
        let text = fs::read_to_string(&self.master).unwrap();
        let line = text.lines().find(|line| line.starts_with("listen")).unwrap();
        line.split('"').nth(1).unwrap().to_owned()
    }

    /// `papertrader init worker`; `known` is whether the master is told of it.
    fn add_worker(&self, name: &str, known: bool) -> PathBuf {
        let said = init("worker", &self.path(name));
        if known {
            // What it prints is what the master needs.
            let start = said.find("[[workers]]").unwrap();
            let end = said[start..].find("\n\n").unwrap();
            let entry = said[start..start + end].replace("\"one\"", &format!("\"{name}\""));
            let text = fs::read_to_string(&self.master).unwrap();
            fs::write(&self.master, format!("{text}\n{entry}\n")).unwrap();
        }
        let file = self.path(name).join("worker.toml");
        edit(&file, "127.0.0.1:2048", &self.master_address());
        edit(&file, "#listen = \"0.0.0.0:2049\"", "listen = \"127.0.0.1:0\"");
        file
    }

    fn start_master(&self) -> Running {
        let mut master = serve("master", &self.master);
        assert_eq!(address(&master.line_with("master ready on ")), self.master_address());
        master
    }
}

fn init(role: &str, dir: &Path) -> String {
    let output = program().arg("init").arg(role).arg(dir).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
    fs::write(file, text.replace(from, to)).unwrap();
}

/// A server whose event log is heard too.
fn serve(role: &str, config: &Path) -> Running {
    let stderr = format!("PAPERTRADER_{}_LOG__STDERR", role.to_uppercase());
    Running::start(program().arg(role).arg("--config").arg(config).env(stderr, "true"))
}

#[test]
fn a_client_outlives_its_worker_and_the_master() {
    let place = Place::new();
    let (one, two) = (place.add_worker("one", true), place.add_worker("two", true));
    let mut master = place.start_master();
    let mut one = serve("worker", &one);
    let first = address(&one.line_with("worker ready on "));
    let mut two = serve("worker", &two);
    let second = address(&two.line_with("worker ready on "));

    let alice = User::new(&place.path("users"), "alice", &first);
    alice.join();
    let mut listed: Vec<String> = alice.json(&["workers"])["workers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|worker| worker["address"].as_str().unwrap().to_owned())
        .collect();
    let mut expected = vec![first.clone(), second.clone()];
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    let bought = alice.json(&["buy", "AAPL", "10", "--id", "over-two-workers"]);
    let session = || fs::read_to_string(alice.config.join("session.json")).unwrap();
    let kept: serde_json::Value = serde_json::from_str(&session()).unwrap();
    assert_eq!(kept["workers"][0], first);

    // The next command goes through the second worker with the same session.
    one.kill();
    let portfolio = alice.json(&["portfolio"]);
    assert_eq!(portfolio["positions"][0]["quantity"], "10");
    let now: serde_json::Value = serde_json::from_str(&session()).unwrap();
    assert_eq!(now["session"], kept["session"]);
    assert_eq!(now["workers"][0], second);
    // The same order through another worker is the same order.
    let again = alice.json(&["buy", "AAPL", "10", "--id", "over-two-workers"]);
    assert_eq!((&again["order"], &again["fill"]), (&bought["order"], &bought["fill"]));

    // The worker says that it is alone, and comes back by itself.
    master.kill();
    two.line_with("the master cannot be reached");
    let mut master = place.start_master();
    master.line_ever("a worker is connected");
    let sold = alice.json(&["sell", "AAPL", "4"]);
    assert_eq!(sold["state"], "filled");
    assert_eq!(alice.json(&["portfolio"])["positions"][0]["quantity"], "6");

    assert_eq!(two.end_by("TERM").code(), Some(0), "{two:?}");
    assert_eq!(master.end_by("INT").code(), Some(0), "{master:?}");
}

#[test]
fn a_command_outlives_the_master_that_it_waits_for() {
    let place = Place::new();
    let worker = place.add_worker("one", true);
    let mut master = place.start_master();
    let mut worker = serve("worker", &worker);
    let alice = User::new(&place.path("users"), "alice", &address(&worker.line_with("ready on ")));
    alice.join();
    master.kill();
    worker.line_with("the link to the master is lost");
    // The order is sent while there is no master; the worker keeps it until there is one.
    let mut buying = Running::start(
        program()
            .args(["buy", "AAPL", "2", "--json", "--server", &alice.server])
            .arg("--config-dir")
            .arg(&alice.config),
    );
    let master = place.start_master();
    assert_eq!(buying.wait().code(), Some(0), "{buying:?}");
    let bought: serde_json::Value = serde_json::from_str(&buying.text("out")).unwrap();
    assert_eq!((&bought["state"], &bought["quantity"]), (&"filled".into(), &"2".into()));
    let orders = alice.json(&["orders"]);
    assert_eq!(orders["orders"].as_array().unwrap().len(), 1, "{orders}");
    drop(master);
}

#[test]
fn a_key_that_does_not_exist_is_named() {
    let place = Place::new();
    place.edit_master("\n[trading]", "\nintervall = \"1s\"\n[trading]");
    let mut master = serve("master", &place.master);
    assert_eq!(master.wait().code(), Some(1));
    let said = master.text("err");
    assert!(said.contains("intervall") && said.contains("master.toml"), "{said}");
    let worker = place.add_worker("one", false);
    edit(&worker, "\n[log]", "\nmax_client = 5\n[log]");
    let mut worker = serve("worker", &worker);
    assert_eq!(worker.wait().code(), Some(1));
    let said = worker.text("err");
    assert!(said.contains("max_client") && said.contains("worker.toml"), "{said}");
    // In the environment too.
    let place = Place::new();
    let mut master = Running::start(
        program()
            .args(["master", "--config"])
            .arg(&place.master)
            .env("PAPERTRADER_MASTER_PRICES__STEPS", "1m"),
    );
    assert_eq!(master.wait().code(), Some(1));
    let said = master.text("err");
    assert!(said.contains("PAPERTRADER_MASTER_PRICES__STEPS"), "{said}");
}

#[test]
fn a_worker_that_the_master_does_not_know_is_refused() {
    let place = Place::new();
    let stranger = place.add_worker("stranger", false);
    let mut master = place.start_master();
    let mut worker = serve("worker", &stranger);
    worker.line_with("the master refuses this worker");
    master.line_ever("a worker was refused");
    assert!(!worker.text("out").contains("ready"), "{worker:?}");
    assert_eq!(worker.end_by("TERM").code(), Some(0), "{worker:?}");
}

#[test]
fn a_port_that_is_in_use_is_named() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    place.edit_master(&place.master_address(), &taken);
    let mut master = serve("master", &place.master);
    assert_eq!(master.wait().code(), Some(1), "{master:?}");
    assert!(master.text("err").contains(&format!("cannot listen on {taken}")), "{master:?}");
}
