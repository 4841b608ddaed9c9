//! Master and workers as an operator runs them: each with its configuration, each by itself. One
//! of them dies, and clients go on.

use std::fs;

use crate::cli::{User, program};
use crate::place::{Place, edit, serve};
use crate::process::{Running, address};

#[test]
fn a_client_outlives_its_worker_and_the_master() {
    let place = Place::new();
    let mut master = place.start_master();
    let mut one = serve("worker", &place.worker("one", &[]));
    let first = address(&one.line_with("worker ready on "));
    let mut two = serve("worker", &place.worker("two", &[]));
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
    two.line_with("there is no link to the master");
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
    let mut master = place.start_master();
    let mut worker = serve("worker", &place.worker("one", &[]));
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
    let worker = place.stranger("one");
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
    let mut master = place.start_master();
    let mut worker = serve("worker", &place.stranger("stranger"));
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
