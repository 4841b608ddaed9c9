//! `papertrader up`: the tour of a new user, signals, restarts, and parts that are killed.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use papertrader_core::money::{Cash, Price, Quantity};
use serde_json::{Value, json};

use crate::cli::{Done, Server, Up, User, program};
use crate::process::{Running, is_alive, signal, until_gone};

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no text '{key}' in {value}"))
}

fn cash(value: &Value, key: &str) -> Cash {
    let text = text(value, key);
    match text.strip_prefix('-') {
        // Only a change of cash is negative; what users type never is.
        Some(digits) => Cash::ZERO.minus(digits.parse().unwrap()).unwrap(),
        None => text.parse().unwrap(),
    }
}

fn time(value: &Value, key: &str) -> jiff::Timestamp {
    text(value, key).parse().unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The starting cash, less what was paid, and what was got, and what the shares have cost.
struct Folded {
    cash: Cash,
    quantity: Quantity,
    cost: Cash,
}

/// Folds a history (newest first) of one symbol without splits.
fn fold(history: &Value) -> Folded {
    let mut sum = Folded { cash: Cash::ZERO, quantity: Quantity::ZERO, cost: Cash::ZERO };
    for line in history["lines"].as_array().unwrap().iter().rev() {
        let amount = cash(line, "amount");
        sum.cash = sum.cash.plus(amount).unwrap();
        let quantity: Quantity = text(line, "quantity").parse().unwrap();
        match text(line, "kind") {
            "grant" => {}
            "rejected" => assert_eq!(amount, Cash::ZERO),
            "buy" => {
                sum.quantity = sum.quantity.plus(quantity).unwrap();
                sum.cost = sum.cost.minus(amount).unwrap();
            }
            "sell" => {
                let left = sum.cost.share(quantity, sum.quantity).unwrap();
                sum.cost = sum.cost.minus(left).unwrap();
                sum.quantity = sum.quantity.minus(quantity).unwrap();
            }
            kind => panic!("no {kind} was expected"),
        }
    }
    sum
}

/// The fill of an order, which must be at the first price after its acceptance.
fn check_fill(user: &User, order: &Value) {
    let fill = &order["fill"];
    assert!(time(fill, "market_time") > time(order, "received_market_time"), "{order}");
    assert!(time(fill, "wall_time") >= time(order, "received_time"), "{order}");
    assert_eq!(fill["market_time"], order["decided_market_time"]);
    // The bars of the interval say which price came first. A day's prices are the open of its
    // first bar, at its start, then the close of each bar, at its end.
    let date = &text(order, "received_market_time")[..10];
    let symbol = text(order, "symbol");
    let chart = user.json(&["chart", symbol, "--bars", "interval", "--from", date]);
    let received = time(order, "received_market_time");
    let mut bars = chart["bars"].as_array().unwrap().iter();
    let next = bars.find(|bar| time(bar, "start") >= received);
    let next = next.unwrap_or_else(|| panic!("no bar after {order} in {chart}"));
    let start = time(next, "start");
    let (price, made) = if start == received {
        (&next["close"], start + std::time::Duration::from_secs(1_800))
    } else {
        (&next["open"], start)
    };
    assert_eq!(&fill["price"], price, "{order} {chart}");
    assert_eq!(time(fill, "market_time"), made, "{order} {chart}");
    let price: Price = text(fill, "price").parse().unwrap();
    let quantity = text(fill, "quantity").parse().unwrap();
    let amount = match text(order, "side") {
        "buy" => price.cost_of(quantity),
        _ => price.proceeds_of(quantity),
    };
    assert_eq!(cash(fill, "amount"), amount.unwrap());
}

#[test]
fn the_tour_of_a_new_user() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut up = Up::start(&data, &[], &[]);
    // After the line that begins with `ready` it says what to type.
    let next = up.running.line_with("papertrader register");
    assert!(next.ends_with(&format!("--server {}", up.workers[0].address)), "{next}");
    let alice = up.user(dir.path(), "alice");
    let bob = up.user(dir.path(), "bob");

    alice.run(&["portfolio"]).ended_with(4);
    let registered =
        alice.run(&["register", "alice", "--email", "a@example.org", "--password-stdin"]).good();
    let login = format!(
        "papertrader login alice --server {} --config-dir {}\n",
        alice.server,
        alice.config.display()
    );
    assert_eq!(registered.out, format!("registered alice; log in with: {login}"));
    let taken = ["register", "ALICE", "--email", "b@example.org", "--password-stdin", "--json"];
    assert_eq!(alice.run(&taken).ended_with(1).error_code(), "nameTaken");
    alice.login();
    assert_eq!(mode(&alice.config), 0o700);
    assert_eq!(mode(&alice.config.join("session.json")), 0o600);
    bob.join();

    let bought = alice.run_by_memory(&["buy", "AAPL", "10"]).good();
    assert!(bought.out.starts_with("bought 10 AAPL at "), "{bought:?}");
    let portfolio = alice.json(&["portfolio"]);
    let positions = portfolio["positions"].as_array().unwrap();
    assert_eq!(positions.len(), 1);
    assert_eq!(positions[0]["quantity"], "10");
    let granted = cash(&portfolio, "granted");
    assert_eq!(granted.to_string(), "100000.00");
    assert_eq!(cash(&portfolio, "cash").plus(cash(&positions[0], "cost")).unwrap(), granted);

    let sold = alice.json(&["sell", "AAPL", "4"]);
    assert_eq!((&sold["state"], &sold["quantity"]), (&json!("filled"), &json!("4")));
    let orders = alice.json(&["orders"]);
    let orders = orders["orders"].as_array().unwrap();
    assert_eq!(orders.len(), 2);
    orders.iter().for_each(|order| check_fill(&alice, order));
    assert_eq!(orders[0]["fill"], sold["fill"]);

    let history = alice.json(&["history"]);
    let kinds: Vec<&str> =
        history["lines"].as_array().unwrap().iter().map(|line| text(line, "kind")).collect();
    assert_eq!(kinds, ["sell", "buy", "grant"]);
    let portfolio = alice.json(&["portfolio"]);
    let folded = fold(&history);
    assert_eq!(cash(&portfolio, "cash"), folded.cash);
    assert_eq!(cash(&portfolio, "held_cash"), Cash::ZERO);
    let position = &portfolio["positions"][0];
    assert_eq!(position["quantity"], folded.quantity.to_string());
    assert_eq!(folded.quantity.to_string(), "6");
    assert_eq!(cash(position, "cost"), folded.cost);
    let equity = cash(&portfolio, "cash").plus(cash(position, "value")).unwrap();
    assert_eq!(cash(&portfolio, "equity"), equity);

    the_public_part(&alice, &bob);
    the_market(&alice);
    refusals(&alice, dir.path());

    let processes = up.processes();
    assert!(processes.iter().all(|process| is_alive(*process)));
    let status = up.running.end_by("TERM");
    assert_eq!(status.code(), Some(0), "{:?}", up.running);
    assert_eq!(up.running.text("err"), "");
    assert!(!processes.iter().any(|process| is_alive(*process)));
    alice.run(&["portfolio"]).ended_with(3);

    again_on_the_same_data(&data, &alice, &folded);
}

/// What bob sees of alice.
fn the_public_part(alice: &User, bob: &User) {
    let user = bob.json(&["user", "alice"]);
    let private =
        ["email", "has_password", "cash", "held_cash", "equity", "granted", "open_orders"];
    let mut expected = json!({ "user": "alice", "since": alice.json(&["user"])["since"] });
    for key in private {
        expected[key] = Value::Null;
    }
    assert_eq!(user, expected);

    let portfolio = bob.json(&["portfolio", "alice"]);
    let open = ["market_time", "return_percent", "user"];
    let closed = ["cash", "equity", "granted", "held_cash", "positions"];
    let mut all = [&open[..], &closed[..]].concat();
    all.sort_unstable();
    assert_eq!(keys(&portfolio), all);
    assert_eq!(portfolio["user"], "alice");
    assert!(closed.iter().all(|key| portfolio[key].is_null()), "{portfolio}");
    assert!(open.iter().all(|key| portfolio[key].is_string()), "{portfolio}");

    let history = bob.json(&["history", "alice"]);
    assert_eq!(keys(&history), ["lines", "more", "user"]);
    assert_eq!(history["user"], "alice");
    assert!(history["lines"].is_null() && history["more"].is_null(), "{history}");
    let nobody = bob.run(&["portfolio", "nobody", "--json"]).ended_with(1);
    assert_eq!(nobody.error_code(), "unknownUser");
}

fn the_market(alice: &User) {
    let quote = alice.json(&["quote", "AAPL", "msft"]);
    let quotes = quote["quotes"].as_array().unwrap();
    assert_eq!(quotes.len(), 2);
    assert_eq!((&quotes[0]["symbol"], &quotes[1]["symbol"]), (&json!("AAPL"), &json!("MSFT")));
    assert!(text(&quotes[0], "source").contains("recorded"), "{quote}");
    for (range, resolution, least) in [
        ("day", "interval", 1),
        ("week", "day", 2),
        ("month", "day", 10),
        ("year", "month", 12),
        ("all", "month", 50),
    ] {
        let chart = alice.json(&["chart", "AAPL", "--range", range]);
        assert_eq!(chart["resolution"], resolution);
        let bars = chart["bars"].as_array().unwrap();
        assert!(bars.len() >= least, "{range}: {chart}");
        let market = time(&chart, "market_time");
        assert!(bars.iter().all(|bar| time(bar, "start") <= market), "{range}: {chart}");
        assert!(bars.is_sorted_by(|a, b| time(a, "start") < time(b, "start")), "{range}: {chart}");
    }
    let drawn = alice.run_by_memory(&["chart", "AAPL", "--range", "year"]).good();
    assert!(drawn.out.starts_with("AAPL, year to "), "{drawn:?}");
    let user = alice.json(&["user"]);
    assert_eq!((&user["email"], &user["has_password"]), (&json!("a@example.org"), &json!(true)));
    let workers = alice.json(&["workers"]);
    assert_eq!(workers["workers"].as_array().unwrap().len(), 1, "{workers}");
    assert_eq!(workers["workers"][0]["name"], "worker-1");
    let forecast = alice.json(&["forecast", "AAPL", "--days", "3"]);
    assert_eq!(forecast["values"].as_array().unwrap().len(), 3);
    assert!(text(&forecast, "model").contains("baseline"), "{forecast}");
    let assets = alice.json(&["assets"]);
    let symbols: Vec<&str> =
        assets["assets"].as_array().unwrap().iter().map(|asset| text(asset, "symbol")).collect();
    assert_eq!(symbols, ["AAPL", "FB", "GOOG", "IBM", "MSFT"]);
    let watched = alice.run_by_memory(&["watch", "AAPL", "--count", "3", "--json"]).good();
    let times: Vec<jiff::Timestamp> = watched
        .out
        .lines()
        .map(|line| time(&serde_json::from_str(line).unwrap(), "time"))
        .collect();
    assert_eq!(times.len(), 3);
    assert!(times.is_sorted_by(|a, b| a < b), "{watched:?}");
}

fn refusals(alice: &User, home: &Path) {
    let code = |arguments: &[&str], exit: i32| {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        alice.run_by_memory(&arguments).ended_with(exit).error_code()
    };
    assert_eq!(code(&["buy", "AAPL", "1000000"], 1), "insufficientCash");
    assert_eq!(code(&["sell", "AAPL", "7"], 1), "insufficientShares");
    assert_eq!(code(&["buy", "FB", "1"], 1), "noPrice");
    assert_eq!(code(&["quote", "NOPE"], 1), "unknownAsset");
    assert_eq!(code(&["buy", "AAPL", "0"], 2), "badQuantity");
    assert_eq!(code(&["buy", "AAPL", "-3"], 2), "badQuantity");
    assert_eq!(code(&["buy", "AAPL", "ten"], 2), "badQuantity");
    // The newest order is filled.
    let done = alice.json(&["orders"])["orders"][0]["client_order_id"].as_str().unwrap().to_owned();
    assert_eq!(code(&["cancel", &done], 1), "orderDone");
    // What never came will never come.
    assert!(alice.json(&["cancel", "not-yet"])["order"].is_null());
    assert_eq!(code(&["buy", "AAPL", "1", "--id", "not-yet"], 1), "orderCancelled");
    let line = alice.run_by_memory(&["quote", "NOPE"]).ended_with(1);
    assert_eq!(line.err, "refused: NOPE: there is no such asset (unknownAsset)\n");
    alice.run_by_memory(&["buy", "AAPL"]).ended_with(2);
    alice.run_by_memory(&["no-such-command"]).ended_with(2);
    let nowhere = User::new(home, "alice", &crate::process::free_address());
    assert_eq!(nowhere.run(&["quote", "AAPL", "--json"]).ended_with(3).error_code(), "noServer");
    let stranger = User { config: home.join("nobody"), ..alice.clone() };
    assert_eq!(
        stranger.run(&["quote", "AAPL", "--json"]).ended_with(4).error_code(),
        "notLoggedIn"
    );
}

/// Everything is there after a restart; the remembered session too, at a new address.
fn again_on_the_same_data(data: &Path, alice: &User, before: &Folded) {
    let mut up = Up::start(data, &[], &[]);
    let alice = User::new(alice.config.parent().unwrap(), "alice", &up.workers[0].address);
    let portfolio = alice.run(&["portfolio", "--json"]).good().json();
    assert_eq!(cash(&portfolio, "cash"), before.cash);
    assert_eq!(portfolio["positions"][0]["quantity"], before.quantity.to_string());
    assert_eq!(cash(&portfolio["positions"][0], "cost"), before.cost);
    // The command before has kept the new address.
    let history = alice.json(&["history"]);
    assert_eq!(fold(&history).cash, before.cash);
    let bought = alice.json(&["buy", "MSFT", "0.5"]);
    assert_eq!(bought["state"], "filled");
    alice.run_by_memory(&["logout"]).good();
    alice.run(&["portfolio"]).ended_with(4);
    let status = up.running.end_by("INT");
    assert_eq!(status.code(), Some(0), "{:?}", up.running);
    assert!(!up.processes().into_iter().any(is_alive));
}

/// At an interval that no test reaches, an order stays open.
#[test]
fn an_open_order_holds_its_cash_outlives_a_kill_and_is_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let long = ["--interval", "1h"];
    let mut up = Up::start(&data, &long, &[]);
    let alice = up.user(dir.path(), "alice");
    alice.join();
    let queued = alice.json(&["buy", "IBM", "100", "--no-wait", "--id", "to-cancel"]);
    assert_eq!(queued["state"], "queued");
    assert_eq!(queued["client_order_id"], "to-cancel");
    let waited = alice.json(&["buy", "IBM", "1", "--wait", "0", "--id", "to-keep"]);
    assert_eq!(waited["state"], "queued");
    let held = cash(&queued, "hold").plus(cash(&waited, "hold")).unwrap();
    let portfolio = alice.json(&["portfolio"]);
    assert_eq!(cash(&portfolio, "held_cash"), held);
    assert_eq!(portfolio["cash"], "100000.00");

    up.running.kill();
    up.running.hear_out();
    let mut up = Up::start(&data, &long, &[]);
    let alice = up.user(dir.path(), "alice");
    let portfolio = alice.run(&["portfolio", "--json"]).good().json();
    assert_eq!(cash(&portfolio, "held_cash"), held);
    // The number of an order names it too.
    let number = queued["order"].to_string();
    let cancelled = alice.json(&["cancel", &number]);
    let order = queued["order"].clone();
    assert_eq!(cancelled, json!({ "client_order_id": "to-cancel", "order": order }));
    assert_eq!(cash(&alice.json(&["portfolio"]), "held_cash"), cash(&waited, "hold"));
    let orders = alice.json(&["orders"]);
    let states: Vec<_> = orders["orders"]
        .as_array()
        .unwrap()
        .iter()
        .map(|order| (text(order, "client_order_id"), text(order, "state")))
        .collect();
    assert_eq!(states, [("to-keep", "queued"), ("to-cancel", "cancelled")]);

    // The same ID means the same order, for ever.
    let code = |arguments: &[&str]| alice.run_by_memory(arguments).ended_with(1).error_code();
    assert_eq!(alice.json(&["cancel", "to-cancel"]), cancelled);
    assert_eq!(code(&["buy", "IBM", "100", "--id", "to-cancel", "--json"]), "orderCancelled");
    assert_eq!(code(&["buy", "IBM", "2", "--id", "to-keep", "--json"]), "clientOrderIdConflict");
    let again = alice.json(&["buy", "IBM", "1", "--no-wait", "--id", "to-keep"]);
    assert_eq!(again["order"], waited["order"]);
    assert_eq!(up.running.end_by("TERM").code(), Some(0));
}

#[test]
fn a_data_directory_is_used_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut up = Up::start(&data, &[], &[]);
    let mut second = Running::start(&mut Up::command(&data, &[]));
    let status = second.wait();
    assert_eq!(status.code(), Some(1), "{second:?}");
    let said = second.text("err");
    let in_use =
        format!("papertrader: the directory {} is in use by another PaperTrader", data.display(),);
    assert!(said.contains(&in_use), "{said}");
    // The first has not noticed.
    let alice = up.user(dir.path(), "alice");
    alice.join();
    assert_eq!(alice.json(&["buy", "AAPL", "1"])["state"], "filled");
    assert_eq!(up.running.end_by("TERM").code(), Some(0));
}

#[test]
fn books_that_lie_where_up_does_not_look_are_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut up = Up::start(&data, &[], &[]);
    assert_eq!(up.running.end_by("TERM").code(), Some(0));
    // As a restore into this directory would leave them.
    let (own, here) = (data.join("master"), data.join("papertrader.db"));
    std::fs::rename(own.join("papertrader.db"), &here).unwrap();
    let mut second = Running::start(&mut Up::command(&data, &[]));
    assert_eq!(second.wait().code(), Some(1), "{second:?}");
    let said = second.text("err");
    assert!(said.contains(&format!("--data {}", own.display())), "{said}");
    assert!(!own.join("papertrader.db").exists());
    std::fs::rename(&here, own.join("papertrader.db")).unwrap();
    let mut third = Up::start(&data, &[], &[]);
    assert_eq!(third.running.end_by("TERM").code(), Some(0));
}

#[test]
fn a_worker_that_is_killed_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut up = Up::start(&dir.path().join("data"), &[], &[]);
    let alice = up.user(dir.path(), "alice");
    alice.join();
    let worker = up.workers[0].clone();
    signal(worker.process, "KILL");
    up.running.line_with("worker-1 has ended");
    let again = Server::of(&up.running.line_with("worker-1 ready on "));
    assert_eq!(again.address, worker.address);
    assert_ne!(again.process, worker.process);
    // With the session of before.
    assert_eq!(alice.json(&["buy", "AAPL", "2"])["state"], "filled");
    assert_eq!(up.running.end_by("TERM").code(), Some(0));
    assert!(!is_alive(again.process));
}

#[test]
fn when_up_is_killed_its_servers_end_by_themselves_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut up = Up::start(&data, &["--workers", "2"], &[]);
    let alice = up.user(dir.path(), "alice");
    alice.join();
    let bought = alice.json(&["buy", "AAPL", "3"]);
    let processes = up.processes();
    assert_eq!(processes.len(), 3);
    up.running.kill();
    // The servers hold its standard error open until they have ended.
    up.running.hear_out();
    processes.into_iter().for_each(until_gone);
    let up = Up::start(&data, &["--workers", "2"], &[]);
    let alice = up.user(dir.path(), "alice");
    let orders = alice.run(&["orders", "--json"]).good().json();
    assert_eq!(orders["orders"][0]["fill"], bought["fill"]);
}

#[test]
fn when_the_master_dies_everything_ends_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut up = Up::start(&data, &[], &[]);
    signal(up.master.process, "KILL");
    let status = up.running.wait();
    assert_eq!(status.code(), Some(1), "{:?}", up.running);
    assert!(up.running.text("err").contains("master has ended by itself"), "{:?}", up.running);
    assert!(!up.processes().into_iter().any(is_alive));
}

#[test]
fn when_nobody_reads_what_it_says_everything_ends_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let mut up = Up::command(&dir.path().join("data"), &[])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(up.stdout.take().unwrap());
    let mut first = String::new();
    said.read_line(&mut first).unwrap();
    assert!(first.starts_with("data in "), "{first}");
    drop(said);
    // The servers hold its standard error open until they have ended.
    let output = up.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), err.as_str()), (Some(0), ""));
}

#[test]
fn a_compromised_worker_comes_back_without_its_directory_as_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let worker = data.join("worker-1");
    let back = format!("remove {}, and start it again", worker.display());
    let admin = |words: &[&str]| {
        Done::of(program().arg("admin").args(words).arg("--data").arg(&data), "").good().out
    };
    let mut up = Up::start(&data, &[], &[]);
    let booted = admin(&["workers", "boot", "worker-1", "--compromised"]);
    assert!(booted.contains(&back), "{booted}");
    let shown = admin(&["workers", "show", "worker-1"]);
    assert!(shown.contains(&back), "{shown}");
    assert_eq!(up.running.end_by("TERM").code(), Some(0));

    let mut up = Running::start(&mut Up::command(&data, &[]));
    let refused = up.line_with("worker-1 is refused: it was booted as compromised");
    assert!(refused.contains(&back), "{refused}");
    assert_eq!(up.end_by("TERM").code(), Some(0), "{up:?}");
    std::fs::remove_dir_all(&worker).unwrap();
    let mut up = Up::start(&data, &[], &[]);

    // A boot that is no more than that is lifted by a command.
    admin(&["workers", "boot", "worker-1"]);
    assert_eq!(up.running.end_by("TERM").code(), Some(0));
    let mut up = Running::start(&mut Up::command(&data, &[]));
    let refused = up.line_with("worker-1 is refused: it was booted; to let it in: ");
    let (_, words) = refused.rsplit_once("papertrader ").unwrap();
    Done::of(program().args(words.split(' ')), "").good();
    up.line_with("worker-1 ready on ");
    assert_eq!(up.end_by("TERM").code(), Some(0), "{up:?}");
}
