//! The operator's tools for whole books, on real servers that trade meanwhile: a backup is put back
//! elsewhere and gone on with, and an export says what the client's history says.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};

use papertrader_core::money::{Cash, Quantity};
use serde_json::Value;

use crate::cli::{Done, User, program};
use crate::place::{Deployment, Place, edit};
use crate::postgres_server::Server;
use crate::process::Running;

/// Runs an operator's command with options that say where.
fn admin(words: &[&str], at: &[&str]) -> Done {
    Done::of(program().arg("admin").args(words).args(at), "")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Buys until it is told to end; hands out the number of each order that was acknowledged, by its ID.
fn keep_buying(
    user: &User,
    goes_on: &AtomicBool,
    told: &std::sync::mpsc::Sender<(String, u64)>,
) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for n in 0.. {
        if !goes_on.load(Ordering::Relaxed) {
            break;
        }
        let id = format!("order-{n}");
        let order = user.json(&["buy", "AAPL", "1", "--no-wait", "--id", &id]);
        let number = order["order"].as_u64().unwrap();
        all.insert(id.clone(), number);
        told.send((id, number)).unwrap();
    }
    all
}

/// So many acknowledged orders.
fn take(told: &Receiver<(String, u64)>, count: usize) -> Vec<(String, u64)> {
    told.iter().take(count).collect()
}

/// Each of these orders is stored once, with the number that was acknowledged.
fn assert_all_there(user: &User, acknowledged: &[(String, u64)]) {
    let orders = user.json(&["orders"]);
    let orders = orders["orders"].as_array().unwrap();
    for (id, number) in acknowledged {
        let with_id: Vec<_> =
            orders.iter().filter(|order| order["client_order_id"] == id.as_str()).collect();
        assert_eq!(with_id.len(), 1, "{id} in {orders:?}");
        assert_eq!(with_id[0]["order"], *number);
        // Asking again is asking for the same order.
        let again = user.json(&["buy", "AAPL", "1", "--no-wait", "--id", id]);
        assert_eq!(again["order"], *number);
    }
}

fn assert_right(at: &[&str]) -> Value {
    let verified = admin(&["verify", "--json"], at).good().json();
    assert_eq!(verified["right"], true, "{verified}");
    assert_eq!(verified["checked"]["sum"], "0.00");
    verified
}

#[test]
fn a_backup_that_was_made_while_trading_goes_on_is_put_back_elsewhere() {
    let place = Place::new();
    let data = place.data();
    let backup = place.path("backup.db");
    let at_data = ["--data", text(&data)];
    let Deployment { place, mut master, mut workers, addresses } = place.start(&["one"]);
    let alice = User::new(&place.path("users"), "alice", &addresses[0]);
    alice.join();
    let (tell, told) = channel();
    let goes_on = AtomicBool::new(true);
    let (before, all) = std::thread::scope(|scope| {
        let buying = scope.spawn(|| keep_buying(&alice, &goes_on, &tell));
        let before = take(&told, 5);
        // In the middle of the trading, all three at the same time.
        let made = admin(&["backup", text(&backup), "--json"], &at_data).good().json();
        assert_eq!(made["file"], text(&backup));
        assert!(made["checked"]["orders"].as_u64().unwrap() >= 5, "{made}");
        assert_right(&at_data);
        let exported = admin(&["export", "--user", "ALICE"], &at_data).good().out;
        assert!(before.iter().all(|(id, _)| exported.contains(id.as_str())), "{exported}");
        take(&told, 3);
        goes_on.store(false, Ordering::Relaxed);
        (before, buying.join().unwrap())
    });
    assert!(all.len() >= 8);
    let again = admin(&["backup", text(&backup), "--json"], &at_data).ended_with(1);
    assert_eq!(again.error_code(), "fileExists");
    let beside = admin(&["restore", text(&backup), "--json"], &at_data).ended_with(1);
    assert_eq!(beside.error_code(), "masterRuns");

    // The master's machine is gone; what a crash leaves can be read all the same.
    master.kill();
    workers[0].kill();
    assert_right(&at_data);
    admin(&["backup", text(&place.path("after.db"))], &at_data).good();
    let over = admin(&["restore", text(&backup), "--json"], &at_data).ended_with(1);
    assert_eq!(over.error_code(), "notEmpty");

    let new = place.path("new");
    let at_new = ["--data", text(&new)];
    let restored = admin(&["restore", text(&backup), "--json"], &at_new).good().json();
    assert_eq!(restored["missing_keys"].as_array().unwrap().len(), 2, "{restored}");
    assert_right(&at_new);
    for entry in fs::read_dir(&data).unwrap() {
        let entry = entry.unwrap();
        if ["asc", "pem"]
            .iter()
            .any(|ending| entry.path().extension().is_some_and(|it| it == *ending))
        {
            fs::copy(entry.path(), new.join(entry.file_name())).unwrap();
        }
    }
    place.edit_master("#data = \"data\"", &format!("data = \"{}\"", new.display()));
    let master = place.start_master();
    let worker = serve_again(&place);
    let alice = User { server: crate::process::address(&worker.1), ..alice };
    let ended = alice.run(&["portfolio"]).ended_with(4);
    assert!(ended.err.contains("session"), "{ended:?}");
    alice.login();
    assert_all_there(&alice, &before);
    assert_right(&at_new);
    drop((master, worker));
}

/// The worker `one`, with the line that says where.
fn serve_again(place: &Place) -> (Running, String) {
    let mut worker = crate::place::serve("worker", &place.path("one").join("worker.toml"));
    let line = worker.line_with("worker ready on ");
    (worker, line)
}

#[test]
fn an_export_says_what_the_clients_history_says() {
    let place = Place::new();
    let data = place.data();
    let at = ["--data", text(&data)];
    let mut deployment = place.start(&["one"]);
    let place = &deployment.place;
    let alice = User::new(&place.path("users"), "alice", &deployment.addresses[0]);
    alice.join();
    for (id, words) in [
        ("=cmd|'x'!A1", &["buy", "AAPL", "20"][..]),
        ("half", &["sell", "AAPL", "7.5"]),
        ("other", &["buy", "MSFT", "3"]),
    ] {
        alice.json(&[words, &["--id", id]].concat());
    }
    let refused = alice.run(&["buy", "AAPL", "9000000", "--id", "too,much"]).ended_with(1);
    assert!(refused.err.contains("insufficientCash"), "{refused:?}");

    let exported = admin(&["export", "--user", "alice", "--format", "json"], &at).good().json();
    let mut history = alice.json(&["history"])["lines"].as_array().unwrap().clone();
    history.reverse();
    let lines = exported["lines"].as_array().unwrap();
    assert_eq!(lines.len(), history.len(), "{exported}");
    for (line, told) in lines.iter().zip(&history) {
        for (field, value) in told.as_object().unwrap() {
            assert_eq!(&line[field], value, "{field} of {line}");
        }
    }
    // The lines add up to what is there.
    let portfolio = alice.json(&["portfolio"]);
    let cash = lines.iter().fold(Cash::ZERO, |total, line| {
        let amount = line["amount"].as_str().unwrap();
        match amount.strip_prefix('-') {
            Some(paid) => total.minus(paid.parse().unwrap()).unwrap(),
            None => total.plus(amount.parse().unwrap()).unwrap(),
        }
    });
    assert_eq!(portfolio["cash"], cash.to_string());
    for position in portfolio["positions"].as_array().unwrap() {
        let of = lines.iter().filter(|line| line["symbol"] == position["symbol"]);
        let units = of.fold(Quantity::ZERO, |total, line| {
            let units = line["units"].as_str().unwrap();
            match units.strip_prefix('-') {
                Some(sold) => total.minus(sold.parse().unwrap()).unwrap(),
                None => total.plus(units.parse().unwrap()).unwrap(),
            }
        });
        assert_eq!(position["quantity"], units.to_string());
    }

    // A file, never over another one; no cell is a formula.
    let file = place.path("alice.csv");
    let words = ["export", "--user", "alice", "--output", text(&file)];
    let said = admin(&words, &at).good();
    assert!(said.out.contains("5 lines of alice"), "{said:?}");
    let table = fs::read_to_string(&file).unwrap();
    assert!(table.contains(",'=cmd|'x'!A1,") && table.contains(",\"too,much\","), "{table}");
    assert_eq!(table.lines().count(), 6);
    admin(&words, &at).ended_with(1);
    let nobody = place.path("nobody.csv");
    admin(&["export", "--user", "nobody", "--output", text(&nobody)], &at).ended_with(1);
    assert!(!nobody.exists());

    // Without a master it is the same.
    let words = ["export", "--user", "alice", "--format", "csv"];
    deployment.end();
    assert_eq!(admin(&words, &at).good().out, table);
}

#[test]
fn books_move_to_postgresql_and_back() {
    let place = Place::new();
    let database = Server::shared().database();
    let url = database.url();
    let data = place.data();
    let Deployment { place, mut master, mut workers, addresses } = place.start(&["one"]);
    let alice = User::new(&place.path("users"), "alice", &addresses[0]);
    alice.join();
    let bought = alice.json(&["buy", "AAPL", "5", "--id", "first"]);
    let file = place.path("file.db");
    admin(&["backup", text(&file)], &["--data", text(&data)]).good();
    for running in [&mut workers[0], &mut master] {
        assert_eq!(running.end_by("TERM").code(), Some(0), "{running:?}");
    }

    // The same configuration, but for where the books are.
    edit(&place.master, "#database = \"\"", &format!("database = \"{url}\""));
    let at = ["--config", text(&place.master)];
    let restored = admin(&["restore", text(&file), "--json"], &at).good().json();
    assert_eq!(restored["place"], "postgresql");
    assert_eq!(restored["missing_keys"].as_array().unwrap().len(), 0);
    assert_right(&at);
    let mut master = place.start_master();
    let (mut worker, line) = serve_again(&place);
    let alice = User { server: crate::process::address(&line), ..alice };
    alice.login();
    let again = alice.json(&["buy", "AAPL", "5", "--id", "first"]);
    assert_eq!((&again["order"], &again["fill"]), (&bought["order"], &bought["fill"]));
    alice.json(&["sell", "AAPL", "2", "--id", "second"]);
    // Through the master, which knows where they are.
    let moved = place.path("server.db");
    let made = admin(&["backup", text(&moved), "--json"], &["--data", text(&data)]).good().json();
    assert_eq!(made["checked"]["orders"], 2);
    assert_right(&["--data", text(&data)]);
    let table = admin(&["export", "--user", "alice"], &at).good().out;
    for running in [&mut worker, &mut master] {
        assert_eq!(running.end_by("TERM").code(), Some(0), "{running:?}");
    }
    assert_eq!(admin(&["export", "--user", "alice"], &at).good().out, table);

    // And back, into a directory of its own.
    let new = place.path("new");
    let at_new = ["--data", text(&new)];
    admin(&["restore", text(&moved)], &at_new).good();
    assert_right(&at_new);
    assert_eq!(admin(&["export", "--user", "alice"], &at_new).good().out, table);
    // A database that is in use is left alone.
    let over = admin(&["restore", text(&moved), "--json"], &at).ended_with(1);
    assert_eq!(over.error_code(), "notEmpty");
}
