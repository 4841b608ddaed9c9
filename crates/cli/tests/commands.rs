//! The program against a scripted worker: what it prints, which exit code it has, what it keeps.
//!
//! Every example of `docs/cli.md` is run here and must print what the page says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod run;
#[path = "../../client/tests/script/mod.rs"]
mod script;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use papertrader_client::Password;
use papertrader_core::bar::Bar;
use papertrader_core::money::{Cash, Volume};
use papertrader_core::order::Side;
use papertrader_core::time::{Date, MarketTime, SECOND, WallTime};
use papertrader_protocol::data::{
    AssetInfo, AssetKind, AssetLine, AssetList, AssetValue, AssetValues, Bars, FillLine, History,
    HistoryKind, HistoryLine, HistoryPrivate, OrderCursor, OrderEvent, OrderLine, OrderStatus,
    Orders, Portfolio, PortfolioPrivate, PositionLine, PredictedValue, Prediction, UserInfo,
    UserInfoPrivate,
};
use papertrader_protocol::request::{OrderArgs, Span};
use papertrader_protocol::returns::{FilledOrder, QueuedOrder, Return};
use papertrader_protocol::{Instruction, Reason, Request};
use run::run;
use script::certificate::Identity;
use script::{Peer, Worker};

/// 2005-03-01T15:30:00Z in the market.
const MARKET: MarketTime = MarketTime(1_109_691_000 * SECOND);
/// 2026-02-03T10:00:00.25Z on the wall.
const WALL: WallTime = WallTime(1_770_112_800 * SECOND + 250_000_000);
const ID: &str = "0190f7a2-0000-7000-8000-00000000000c";
/// The fingerprint on the page.
const PRINT: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// Answers every connection as a small deployment with one user, alice, would. Ends with the
/// runtime.
async fn serve(worker: Worker, print: String) {
    loop {
        // A client may look at the certificate and go.
        let Ok(mut peer) = worker.try_accept().await else { continue };
        let here = (worker.address.clone(), print.clone());
        tokio::spawn(async move { while answer(&mut peer, &here).await.is_some() {} });
    }
}

/// `here` is the address of the worker and the fingerprint of its certificate.
async fn answer(peer: &mut Peer, here: &(String, String)) -> Option<()> {
    let asked = peer.try_next().await?;
    let refuse = |reason| Return::Failed(asked.instruction.failure(), Reason::into(reason));
    match &asked.request {
        Request::Hello => peer.answer(&asked, Return::Welcome(script::welcome())).await,
        Request::Register { name, .. } if name.as_str() == "taken" => {
            peer.answer(&asked, refuse(Reason::NameTaken)).await;
        }
        Request::Register { name, .. } => {
            peer.answer(&asked, Return::Registered(name.to_string())).await;
        }
        Request::Login { name, .. } if !["alice", "due"].contains(&name.as_str()) => {
            peer.answer(&asked, refuse(Reason::BadCredentials)).await;
        }
        Request::LoginSession if asked.session != script::SESSION => {
            peer.answer(&asked, refuse(Reason::SessionExpired)).await;
        }
        request @ (Request::Login { .. } | Request::LoginSession) => {
            let mut grant = script::grant();
            if let Request::Login { name, .. } = request {
                grant.name = name.to_string();
            }
            peer.answer(&asked, Return::Session(grant)).await;
            let list = script::listed(&[(&here.0, &here.1)]);
            peer.raw(&script::list_frames(asked.number, &list)).await;
        }
        Request::GetWorkerList => {
            let list = script::listed(&[("trade.example.org:2049", PRINT)]);
            peer.raw(&script::list_frames(asked.number, &list)).await;
        }
        Request::SwitchState(state) => peer.answer(&asked, Return::StateSwitched(*state)).await,
        Request::Logout | Request::LogoutEverywhere => {
            peer.answer(&asked, Return::LoggedOut).await;
        }
        Request::ChangePassword { old, new } => {
            let [right, other] = ["secret-pw", "better-pw"].map(|text| {
                Password::new(text).hashed(script::DEPLOYMENT, &"alice".parse().unwrap())
            });
            let answer = match (*old == right, *new == right, *new == other) {
                (false, ..) => refuse(Reason::BadCredentials),
                (_, true, _) => refuse(Reason::SamePassword),
                (_, _, true) => Return::PasswordChanged,
                _ => refuse(Reason::BadPasswordHash),
            };
            peer.answer(&asked, answer).await;
        }
        Request::Goodbye => {}
        Request::PurchaseAsset(args) => order(peer, &asked, Side::Buy, args).await,
        Request::SellAsset(args) => order(peer, &asked, Side::Sell, args).await,
        Request::CancelOrder(id) if id.as_str() == "gone" => {
            peer.answer(&asked, refuse(Reason::OrderDone)).await;
        }
        Request::CancelOrder(id) => peer.answer(&asked, Return::Cancelled(id.clone())).await,
        Request::AssetInfo(symbol) | Request::AssetValue(symbol) | Request::Bars(symbol, _)
            if symbol.as_str() != "AAPL" =>
        {
            peer.answer(&asked, refuse(Reason::UnknownAsset)).await;
        }
        Request::AssetInfo(_) => peer.data(&asked, &info()).await,
        Request::AssetValue(_) => peer.data(&asked, &value()).await,
        Request::AssetList => peer.data(&asked, &assets()).await,
        Request::Bars(_, span) => peer.data(&asked, &bars(*span)).await,
        Request::Predicted(_, days) => peer.data(&asked, &prediction(*days)).await,
        Request::UserInfo(name) if name.as_str() == "due" => {
            peer.answer(&asked, refuse(Reason::PasswordChangeRequired)).await;
        }
        Request::UserInfo(name) => peer.data(&asked, &user(name.as_str())).await,
        Request::Portfolio(name) => peer.data(&asked, &portfolio(name.as_str())).await,
        Request::History(name) => peer.data(&asked, &history(name.as_str())).await,
        Request::Orders(_) => peer.data(&asked, &orders()).await,
        Request::Order(id) => {
            let orders = orders().orders;
            match orders.iter().find(|line| line.client_order_id == id.as_str()) {
                Some(line) => peer.data(&asked, line).await,
                None => peer.answer(&asked, refuse(Reason::OrderNotFound)).await,
            }
        }
        Request::SubscribeAssets(_) => {
            peer.answer(&asked, Return::Subscribed("2".into())).await;
            peer.push(&asked, Instruction::AssetValues, &AssetValues { values: vec![value()] })
                .await;
        }
        Request::UnsubscribeAssets(_) => {
            peer.answer(&asked, Return::Subscribed("0".into())).await;
        }
        Request::SubscribeOrders(_) => {
            peer.answer(&asked, Return::Subscribed("1.2.3".into())).await;
            for order in orders().orders {
                let cursor = OrderCursor { order: 1, decided: WallTime(2), open: 3 };
                let event = OrderEvent { number: 1, cursor, order };
                peer.push(&asked, Instruction::OrderEvent, &event).await;
            }
        }
        Request::Ping(text) => peer.answer(&asked, Return::Pong(text.clone())).await,
    }
    Some(())
}

async fn order(peer: &mut Peer, asked: &script::Asked, side: Side, args: &OrderArgs) {
    let many = "1000".parse().unwrap();
    if args.quantity > many {
        peer.refuse(asked, Reason::InsufficientCash).await;
        return;
    }
    let queued = QueuedOrder {
        order: 12,
        client_order_id: args.client_order_id.clone(),
        side,
        symbol: args.symbol,
        quantity: args.quantity,
        hold: "680.19".parse().unwrap(),
        waiting: "-".into(),
    };
    peer.answer(asked, Return::OrderQueued(queued)).await;
    // An order for exactly 1000 waits for ever.
    if args.quantity < many {
        let fill = FilledOrder {
            order: 12,
            client_order_id: args.client_order_id.clone(),
            symbol: args.symbol,
            quantity: args.quantity,
            price: "64.78".parse().unwrap(),
            amount: "64.78"
                .parse::<papertrader_core::money::Price>()
                .unwrap()
                .cost_of(args.quantity)
                .unwrap(),
            market: MARKET,
            wall: WALL,
        };
        peer.answer(asked, Return::Filled(side, fill)).await;
    }
}

fn info() -> AssetInfo {
    AssetInfo {
        symbol: "AAPL".parse().unwrap(),
        name: "Apple Inc.".into(),
        kind: AssetKind::Stock,
        source: "replay of recorded daily bars; intraday prices are derived from them".into(),
        open: "64.20".parse().unwrap(),
        high: "65.10".parse().unwrap(),
        low: "63.95".parse().unwrap(),
        close: "64.78".parse().unwrap(),
        volume: Volume::from_units(1_204_300),
        previous_close: Some("64.12".parse().unwrap()),
        time: MARKET,
        snapshot: 4711,
        market: MARKET,
    }
}

fn value() -> AssetValue {
    let AssetInfo { symbol, close: price, time, previous_close, snapshot, market, .. } = info();
    AssetValue { symbol, price, time, previous_close, snapshot, market }
}

fn assets() -> AssetList {
    let AssetInfo { symbol, name, kind, close, time, previous_close, snapshot, market, .. } =
        info();
    let line =
        AssetLine { symbol, name, kind, price: Some(close), time: Some(time), previous_close };
    AssetList { market, snapshot, ended: false, assets: vec![line] }
}

fn bars(span: Span) -> Bars {
    let closes = ["44.10", "47.50", "52.25", "58.00", "64.78"];
    let bar = |(i, close): (usize, &&str)| Bar {
        start: match span {
            Span::Year(_) => Date::new(2004, 8 + i as u8, 1).unwrap().start(),
            _ => Date::new(2005, 2, 23 + i as u8).unwrap().start(),
        },
        open: "44.00".parse().unwrap(),
        high: close.parse().unwrap(),
        low: "43.50".parse().unwrap(),
        close: close.parse().unwrap(),
        volume: Volume::from_units(1_000_000),
    };
    Bars {
        symbol: "AAPL".parse().unwrap(),
        resolution: span.window().resolution,
        interval: 60 * SECOND,
        market: MARKET,
        source: "recorded daily bars".into(),
        bars: closes.iter().enumerate().map(bar).collect(),
    }
}

fn prediction(days: u32) -> Prediction {
    let value = |day: u32| PredictedValue {
        day,
        low: "60.11".parse().unwrap(),
        expected: "64.90".parse().unwrap(),
        high: "70.02".parse().unwrap(),
    };
    Prediction {
        symbol: "AAPL".parse().unwrap(),
        model: "random walk with drift (baseline)".into(),
        based_on: 250,
        confidence: 9500,
        last: "64.78".parse().unwrap(),
        market: MARKET,
        values: (1..=days).map(value).collect(),
    }
}

fn user(name: &str) -> UserInfo {
    let private = UserInfoPrivate {
        email: "a@example.org".into(),
        is_password: true,
        cash: "99352.20".parse().unwrap(),
        held_cash: Cash::ZERO,
        equity: "100000.00".parse().unwrap(),
        granted: "100000.00".parse().unwrap(),
        open_orders: 0,
    };
    UserInfo { name: name.into(), since: WALL, private: (name == "alice").then_some(private) }
}

fn portfolio(name: &str) -> Portfolio {
    let private = PortfolioPrivate {
        cash: "99352.20".parse().unwrap(),
        held_cash: Cash::ZERO,
        granted: "100000.00".parse().unwrap(),
        equity: "99990.00".parse().unwrap(),
        positions: vec![PositionLine {
            symbol: "AAPL".parse().unwrap(),
            quantity: "10".parse().unwrap(),
            held: Default::default(),
            cost: "647.80".parse().unwrap(),
            price: Some("63.78".parse().unwrap()),
            value: "637.80".parse().unwrap(),
        }],
    };
    Portfolio {
        name: name.into(),
        market: MARKET,
        return_bp: -1,
        private: (name == "alice").then_some(private),
    }
}

fn history(name: &str) -> History {
    let grant = HistoryLine {
        kind: HistoryKind::Grant,
        order: None,
        client_order_id: String::new(),
        side: None,
        symbol: None,
        quantity: Default::default(),
        price: None,
        amount: "100000.00".parse().unwrap(),
        reason: String::new(),
        wall: WALL,
        market: MARKET,
    };
    let buy = HistoryLine {
        kind: HistoryKind::Buy,
        order: Some(12),
        client_order_id: ID.into(),
        side: Some(Side::Buy),
        symbol: Some("AAPL".parse().unwrap()),
        quantity: "10".parse().unwrap(),
        price: Some("64.78".parse().unwrap()),
        amount: "647.80".parse::<Cash>().unwrap().negated().unwrap(),
        ..grant.clone()
    };
    let private = HistoryPrivate { more: false, lines: vec![buy, grant] };
    History { name: name.into(), private: (name == "alice").then_some(private) }
}

fn orders() -> Orders {
    let order = OrderLine {
        order: 12,
        client_order_id: ID.into(),
        side: Side::Buy,
        symbol: "AAPL".parse().unwrap(),
        quantity: "10".parse().unwrap(),
        hold: Cash::ZERO,
        status: OrderStatus::Filled,
        reason: String::new(),
        fill: Some(FillLine {
            quantity: "10".parse().unwrap(),
            price: "64.78".parse().unwrap(),
            amount: "647.80".parse().unwrap(),
            snapshot: 4711,
        }),
        received: WALL,
        received_market: MARKET,
        decided: Some(WALL),
        decided_market: Some(MARKET),
    };
    Orders { name: "alice".into(), more: false, orders: vec![order] }
}

/// A running worker.
struct Server {
    address: String,
    print: String,
}

async fn server() -> Server {
    let identity = Identity::self_made();
    let worker = Worker::start_tls(&identity).await;
    let print = identity.fingerprint().to_string();
    let address = worker.address.clone();
    tokio::spawn(serve(worker, print.clone()));
    Server { address, print }
}

impl Server {
    /// Remembers its certificate.
    fn known_in(&self, config: &Path) {
        let known = serde_json::json!({ "servers": { &self.address: self.print } });
        std::fs::write(config.join("known_servers.json"), known.to_string()).unwrap();
    }
}

/// A running worker's address and a config directory with a session on it.
async fn logged_in() -> (Server, tempfile::TempDir) {
    let server = server().await;
    let config = tempfile::tempdir().unwrap();
    let saved = serde_json::json!({
        "session": script::SESSION.to_hex(), "user": "alice", "deployment": script::DEPLOYMENT,
        "servers": [server.address], "workers": [server.address],
    });
    std::fs::write(config.path().join("session.json"), saved.to_string()).unwrap();
    server.known_in(config.path());
    (server, config)
}

#[tokio::test]
async fn every_example_of_the_page_prints_what_the_page_says() {
    let (server, config) = logged_in().await;
    let address = &server.address;
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md"))
            .unwrap();
    let mut ran: HashMap<String, u32> = HashMap::new();
    for block in page.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let (first, expected) = block.split_once('\n').unwrap();
        let line = first.strip_prefix("$ ").unwrap();
        let (input, line) = match line.split_once(" | ") {
            Some((print, line)) => {
                let typed = print.strip_prefix("printf '").unwrap().strip_suffix('\'').unwrap();
                (typed.replace("\\n", "\n"), line)
            }
            None => (String::new(), line),
        };
        let line = line.replace("127.0.0.1:2049", address).replace(PRINT, &server.print);
        let arguments: Vec<&str> = line.split(' ').skip(1).collect();
        let got = run(config.path(), address, &arguments, &input).await;
        let printed = got.out.replace(address, "127.0.0.1:2049") + &got.err;
        let printed = printed.replace(&server.print, PRINT);
        if arguments.contains(&"--json") {
            let json = |text: &str| -> serde_json::Value {
                serde_json::from_str(text).unwrap_or_else(|e| panic!("{first}: {e}: {text}"))
            };
            assert_eq!(json(&printed), json(expected), "{first}");
        } else {
            assert_eq!(printed, expected, "{first}");
        }
        if arguments[0] == "logout" {
            let (_, fresh) = logged_in().await;
            let name = "session.json";
            std::fs::copy(fresh.path().join(name), config.path().join(name)).unwrap();
        }
        *ran.entry(arguments[0].to_owned()).or_default() += 1;
    }
    for command in [
        "register",
        "login",
        "logout",
        "password",
        "buy",
        "sell",
        "portfolio",
        "history",
        "user",
        "assets",
        "quote",
        "chart",
        "forecast",
        "orders",
        "cancel",
        "workers",
        "watch",
        "trust",
    ] {
        assert!(ran.contains_key(command), "{command} has no example");
    }
}

#[tokio::test]
async fn a_login_keeps_a_session_that_others_cannot_read() {
    let Server { address, .. } = server().await;
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("papertrader");
    let early = run(&config, &address, &["portfolio"], "").await;
    assert_eq!((early.code, early.err.as_str()), (4, "not logged in: papertrader login NAME\n"));

    let login = ["login", "alice", "--password-stdin"];
    let got = run(&config, &address, &login, "secret-pw\n").await;
    assert_eq!(got.code, 0, "{got:?}");
    let file = config.join("session.json");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&config), mode(&file)), (0o700, 0o600));
    let text = std::fs::read_to_string(&file).unwrap();
    let saved: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(saved["session"], script::SESSION.to_hex());
    assert_eq!(saved["workers"], serde_json::json!([address, "trade.example.org:2049"]));
    assert!(!got.out.contains(&script::SESSION.to_hex()) && !text.contains("secret-pw"));

    let got = run(&config, &address, &["logout"], "").await;
    assert_eq!(got.code, 0, "{got:?}");
    assert!(!file.exists());
}

#[tokio::test]
async fn what_is_to_be_typed_next_works_as_it_stands() {
    let Server { address, .. } = server().await;
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("my files");
    let options = ["--server", &address, "--config-dir", config.to_str().unwrap()];
    let typed = format!(" --server {address} --config-dir '{}'", config.display());
    // Neither the directory nor the server of the environment.
    let run = async |words: &[&str], input: &str| {
        run(home.path(), "127.0.0.1:1", &[words, &options].concat(), input).await
    };
    let got = run(&["orders"], "").await;
    assert_eq!(got.err, format!("not logged in: papertrader login NAME{typed}\n"));
    let register = ["register", "alice", "--email", "a@example.org", "--password-stdin"];
    let got = run(&register, "secret-pw\n").await;
    let login = format!("log in with: papertrader login alice{typed}\n");
    assert_eq!(got.out, format!("registered alice; {login}"));
    let got = run(&["login", "alice", "--password-stdin"], "secret-pw\n").await;
    assert_eq!(got.code, 0, "{got:?}");
    let got = run(&["buy", "AAPL", "1000", "--no-wait"], "").await;
    assert!(got.out.ends_with(&format!("look at it with: papertrader orders{typed}\n")), "{got:?}");
    let got = run(&["user", "due"], "").await;
    assert!(got.err.contains(&format!("papertrader password{typed} (")), "{got:?}");
    let got = run(&["logout"], "").await;
    assert_eq!(
        got.out,
        format!("logged out alice; log in again with: papertrader login alice{typed}\n")
    );
}

/// The next log-in does not know any more where the last one was.
#[tokio::test]
async fn a_log_out_says_where_one_was_logged_in() {
    let (Server { address, .. }, config) = logged_in().await;
    let got = run(config.path(), "", &["logout"], "").await;
    let login = format!("papertrader login alice --server {address}");
    assert_eq!(got.out, format!("logged out alice; log in again with: {login}\n"));
}

#[tokio::test]
async fn a_log_in_says_that_a_new_password_is_due() {
    let (Server { address, .. }, config) = logged_in().await;
    let login = ["login", "due", "--password-stdin"];
    let got = run(config.path(), &address, &login, "secret-pw\n").await;
    let due = "a new password is due before anything else, as others may know this one: \
               papertrader password\n";
    assert_eq!((got.code, got.err.as_str()), (0, due));
    assert!(got.out.starts_with("logged in as "), "{got:?}");
    let json = [&login[..], &["--json"]].concat();
    let got = run(config.path(), &address, &json, "secret-pw\n").await;
    let object: serde_json::Value = serde_json::from_str(&got.out).unwrap();
    assert_eq!((got.code, got.err.as_str(), &object["password_due"]), (0, "", &true.into()));
}

#[tokio::test]
async fn a_command_whose_output_nobody_reads_ends_quietly() {
    let (Server { address, .. }, config) = logged_in().await;
    for arguments in [&["portfolio"][..], &["watch", "AAPL"], &["quote", "NOPE", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = run::program(config.path(), &address);
        command.args(arguments).stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        // A failure that could not be said in JSON is said in words.
        let said = String::from_utf8(output.stderr).unwrap();
        let expected = match arguments.contains(&"--json") {
            true => (Some(1), "refused: NOPE: there is no such asset (unknownAsset)\n"),
            false => (Some(0), ""),
        };
        assert_eq!((output.status.code(), said.as_str()), expected, "{arguments:?}");
    }
}

#[tokio::test]
async fn a_wrong_command_line_names_nothing_that_the_environment_says() {
    let home = tempfile::tempdir().unwrap();
    let got = run(home.path(), "127.0.0.1:1", &["login"], "").await;
    assert!(got.code == 2 && got.err.contains("Usage: papertrader login <NAME>\n"), "{got:?}");
}

#[tokio::test]
async fn refusals_are_one_line_and_an_exit_code() {
    let (Server { address, .. }, config) = logged_in().await;
    let cases: &[(&[&str], i32, &str)] = &[
        (
            &["buy", "AAPL", "1001"],
            1,
            "refused: not enough cash that is not held by open orders (insufficientCash)\n",
        ),
        (&["quote", "AAPL", "NOPE"], 1, "refused: NOPE: there is no such asset (unknownAsset)\n"),
        (
            &["cancel", "gone"],
            1,
            "refused: this order is done and cannot be cancelled (orderDone)\n",
        ),
        (
            &["buy", "AAPL", "-5"],
            2,
            "a quantity is a number above zero, at most 1000000000, with at most 8 decimals \
             (badQuantity)\n",
        ),
        (
            &["user", "due"],
            1,
            "refused: this account needs a new password before anything else: \
             papertrader password (passwordChangeRequired)\n",
        ),
        (
            &["register", "a b", "--email", "a@b", "--password-stdin"],
            2,
            "a user name is 1 to 24 letters, digits, '_', '-' and '.' (badUserName)\n",
        ),
    ];
    for (arguments, code, line) in cases {
        let got = run(config.path(), &address, arguments, "pw\n").await;
        assert_eq!((got.code, got.err.as_str()), (*code, *line), "{arguments:?}");
        assert_eq!(got.out, "", "{arguments:?}");
        let json: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let got = run(config.path(), &address, &json, "pw\n").await;
        let object: serde_json::Value = serde_json::from_str(&got.out).unwrap();
        let word = object["error"]["code"].as_str().unwrap();
        assert!(line.trim_end().ends_with(&format!("({word})")), "{object}");
        assert_eq!((got.code, got.err.as_str()), (*code, ""), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_session_that_has_ended_and_a_server_that_is_away_have_their_exit_codes() {
    let (Server { address, .. }, config) = logged_in().await;
    let file = config.path().join("session.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&script::SESSION.to_hex(), &"ab".repeat(16))).unwrap();
    let got = run(config.path(), &address, &["orders"], "").await;
    assert_eq!(got.code, 4);
    assert_eq!(got.err, "the session of alice has ended: papertrader login alice\n");
    // Another deployment never gets to see the session.
    std::fs::write(&file, text.replace(script::DEPLOYMENT, "another")).unwrap();
    let got = run(config.path(), &address, &["orders"], "").await;
    assert_eq!(got.code, 3);
    assert!(got.err.contains("it belongs to another deployment"), "{got:?}");

    let gone = Worker::start().await.address;
    let got = run(config.path(), &gone, &["orders", "--json"], "").await;
    assert_eq!(got.code, 3);
    let object: serde_json::Value = serde_json::from_str(&got.out).unwrap();
    assert_eq!(object["error"]["code"], "noServer");

    std::fs::write(&file, "nonsense").unwrap();
    let got = run(config.path(), &address, &["orders"], "").await;
    assert_eq!(got.code, 5);
}

#[tokio::test]
async fn an_order_that_does_not_fill_in_time_is_still_queued() {
    let (Server { address, .. }, config) = logged_in().await;
    for arguments in [
        ["buy", "aapl", "1000", "--wait", "0", "--json"].as_slice(),
        ["buy", "aapl", "1000", "--no-wait", "--json"].as_slice(),
    ] {
        let got = run(config.path(), &address, arguments, "").await;
        assert_eq!(got.code, 0, "{got:?}");
        let object: serde_json::Value = serde_json::from_str(&got.out).unwrap();
        assert_eq!(object["state"], "queued");
        assert_eq!(object["symbol"], "AAPL");
        assert_eq!(object["hold"], "680.19");
        assert_eq!(object["fill"], serde_json::Value::Null);
        // A UUID of version 7.
        assert_eq!(object["client_order_id"].as_str().unwrap().as_bytes()[14], b'7');
    }
    let got = run(config.path(), &address, &["buy", "AAPL", "1000", "--no-wait"], "").await;
    assert_eq!(got.out, "order 12 is queued: buy 1000 AAPL; look at it with: papertrader orders\n");
}

#[tokio::test]
async fn the_completions_know_the_commands() {
    let home = tempfile::tempdir().unwrap();
    let got = run(home.path(), "", &["completions", "bash"], "").await;
    assert_eq!(got.code, 0, "{got:?}");
    assert!(got.out.contains("portfolio") && got.out.contains("--password-stdin"));
    let usage = run(home.path(), "", &["dance"], "").await;
    assert_eq!(usage.code, 2);
}

#[tokio::test]
async fn the_next_command_goes_on_at_another_worker_and_remembers_it() {
    let (Server { address, .. }, config) = logged_in().await;
    let gone = Worker::start().await.address;
    let file = config.path().join("session.json");
    let read = || -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap()
    };
    let mut saved = read();
    saved["workers"] = serde_json::json!([gone, address]);
    saved["servers"] = serde_json::json!([gone]);
    std::fs::write(&file, saved.to_string()).unwrap();
    // No server is named: those that are kept are used.
    let got = run(config.path(), "", &["portfolio", "--json"], "").await;
    assert_eq!(got.code, 0, "{got:?}");
    assert_eq!(read()["workers"], serde_json::json!([address]));
    assert_eq!(read()["servers"], serde_json::json!([gone]));
}

#[tokio::test]
async fn an_interrupted_watch_ends_well() {
    let (Server { address, .. }, config) = logged_in().await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_papertrader"))
        .args(["watch", "AAPL", "--json", "--server", &address])
        .env("PAPERTRADER_CONFIG_DIR", config.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let watched = move || {
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        std::io::BufRead::read_line(&mut lines, &mut first).unwrap();
        let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(signal.unwrap().success());
        (first, child.wait().unwrap().code())
    };
    let (first, code) = tokio::task::spawn_blocking(watched).await.unwrap();
    let object: serde_json::Value = serde_json::from_str(&first).unwrap();
    assert_eq!((&object["symbol"], &object["price"]), (&"AAPL".into(), &"64.78".into()));
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn a_password_is_changed_by_two_lines_and_refused_in_one() {
    let (Server { address, .. }, config) = logged_in().await;
    let cases = [
        ("secret-pw\nbetter-pw\n", 0, ""),
        ("secret-pw\r\nbetter-pw", 0, ""),
        ("wrong-pw\nbetter-pw\n", 1, "refused: wrong user name or password (badCredentials)\n"),
        ("secret-pw\nsecret-pw\n", 1, "refused: the new password is the old one (samePassword)\n"),
        ("secret-pw\n", 2, "the password is empty\n"),
        ("", 2, "the password is empty\n"),
    ];
    for (typed, code, line) in cases {
        let got = run(config.path(), &address, &["password", "--password-stdin"], typed).await;
        assert_eq!((got.code, got.err.as_str()), (code, line), "{typed:?}");
        // The session goes on.
        assert!(config.path().join("session.json").exists());
    }
}

#[tokio::test]
async fn a_log_out_everywhere_needs_a_session() {
    let (Server { address, .. }, config) = logged_in().await;
    let file = config.path().join("session.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&script::SESSION.to_hex(), &"ab".repeat(16))).unwrap();
    let got = run(config.path(), &address, &["logout", "--everywhere"], "").await;
    let ended = "the session of alice has ended: papertrader login alice\n";
    assert_eq!((got.code, got.err.as_str()), (4, ended));
    assert!(file.exists());
    std::fs::write(&file, text).unwrap();
    let got = run(config.path(), &address, &["logout", "--everywhere"], "").await;
    assert_eq!(
        (got.code, got.out.as_str()),
        (0, "logged out alice everywhere; log in again with: papertrader login alice\n")
    );
    assert!(!file.exists());
}

#[tokio::test]
async fn a_benchmark_checks_what_it_measured_and_leaves_nothing_behind() {
    let config = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let size = ["--orders", "400", "--batch", "200", "--accounts", "30", "--symbols", "10"];
    let bench = [&["bench", "settle", "--bare", "--json", "--dir", place][..], &size].concat();
    let got = run(config.path(), "", &bench, "").await;
    assert_eq!(got.code, 0, "{got:?}");
    let report: serde_json::Value = serde_json::from_str(&got.out).unwrap();
    assert_eq!((&report["verified"], &report["batch"]), (&true.into(), &200.into()));
    for rate in ["settled_per_second", "bare_per_second", "of_bare", "placed_per_second"] {
        assert!(report[rate].as_f64().unwrap() > 0.0, "{got:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let got = run(config.path(), "", &["bench", "settle", "--batch", "0"], "").await;
    assert_eq!((got.code, got.err.as_str()), (2, "--batch must be at least 1\n"));
}

#[tokio::test]
async fn a_benchmark_of_starts_starts_the_servers_on_the_books_that_it_made() {
    let config = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let size = ["--accounts", "30", "--fills", "200", "--symbols", "10", "--rounds", "2"];
    let bench = [&["bench", "start", "--json", "--dir", place][..], &size].concat();
    let got = run(config.path(), "", &bench, "").await;
    assert_eq!(got.code, 0, "{got:?}");
    let report: serde_json::Value = serde_json::from_str(&got.out).unwrap();
    assert_eq!((&report["verified"], &report["fills"]), (&true.into(), &200.into()));
    let times = report["ready_seconds"].as_array().unwrap();
    assert!(times.len() == 2 && times.iter().all(|time| time.as_f64() > Some(0.0)), "{got:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let few = run(config.path(), "", &["bench", "start", "--fills", "1"], "").await;
    assert_eq!(few.err, "--fills must be at least five for each account\n");
}

#[tokio::test]
async fn a_benchmark_says_which_store_it_cannot_use() {
    let config = tempfile::tempdir().unwrap();
    let place = config.path().to_str().unwrap();
    let bench = ["bench", "settle", "--bare", "--dir", place, "--store"];
    let bare = [&bench[..], &["postgresql://nobody:secret@localhost/none"]].concat();
    let got = run(config.path(), "", &bare, "").await;
    assert_eq!((got.code, got.err.as_str()), (2, "--bare is for SQLite only\n"));
    let other = [&bench[..], &["mysql://localhost"]].concat();
    let got = run(config.path(), "", &other, "").await;
    assert!(got.code == 2 && got.err.contains("say sqlite, or the URL"), "{got:?}");
}

/// What a Redis does with the two commands that the benchmark sends; `lies` when it is asked.
async fn serve_values(listener: tokio::net::TcpListener, lies: bool) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let values = std::sync::Arc::new(std::sync::Mutex::new(std::collections::HashMap::new()));
    while let Ok((mut stream, _)) = listener.accept().await {
        let values = std::sync::Arc::clone(&values);
        tokio::spawn(async move {
            loop {
                let mut start = [0; 34];
                if stream.read_exact(&mut start).await.is_err() {
                    return;
                }
                let mut reply = Vec::new();
                if start.starts_with(b"*3\r\n$3\r\nSET\r\n$16\r\n") {
                    let mut rest = [0; 57];
                    stream.read_exact(&mut rest).await.unwrap();
                    values.lock().unwrap().insert(start[18..34].to_vec(), rest[7..55].to_vec());
                    reply.extend_from_slice(b"+OK\r\n");
                } else {
                    assert!(start.starts_with(b"*2\r\n$3\r\nGET\r\n$16\r\n"), "{start:?}");
                    stream.read_exact(&mut [0; 2]).await.unwrap();
                    let mut value = values.lock().unwrap()[&start[18..34]].clone();
                    value[15] += u8::from(lies);
                    reply = [&b"$48\r\n"[..], &value, b"\r\n"].concat();
                }
                stream.write_all(&reply).await.unwrap();
            }
        });
    }
}

#[tokio::test]
async fn a_benchmark_of_quotes_looks_at_what_it_gets() {
    let config = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let mut redis = Vec::new();
    for lies in [false, false, true] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        redis.push(listener.local_addr().unwrap().to_string());
        tokio::spawn(serve_values(listener, lies));
    }
    let both = redis[..2].join(",");
    let size = ["--connections", "3", "--symbols", "4", "--depth", "1,5", "--rounds", "2"];
    let time = ["--time", "100ms", "--warm", "1ms", "--interval", "50ms"];
    let bench = [&["bench", "quotes", "--json", "--dir", place][..], &size, &time].concat();
    for how in [&["--tls"][..], &["--threads", "2", "--redis", &both]] {
        let got = run(config.path(), "", &[&bench, how].concat(), "").await;
        assert_eq!(got.code, 0, "{got:?}");
        let report: serde_json::Value = serde_json::from_str(&got.out).unwrap();
        let tls = how == ["--tls"];
        assert_eq!(report["tls"], tls);
        assert!(report["checked"].as_u64() > Some(0) && report["snapshots"].as_u64() > Some(0));
        let settings = &report["settings"];
        assert_eq!(settings["PAPERTRADER_WORKER_LIMITS__REQUESTS_PER_SECOND"], "0", "{got:?}");
        let servers = if tls { 2 } else { 3 };
        let runs = report["runs"].as_array().unwrap();
        assert_eq!(runs.len(), 2 * servers, "{got:?}");
        for run in runs {
            assert!(run["per_second"].as_f64() > Some(0.0), "{got:?}");
            let is_own = run["server"] == "papertrader";
            assert!(!is_own || run["rate_ratio"] == 1.0, "{got:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    let got = run(config.path(), "", &[&bench[..], &["--redis", &redis[2]]].concat(), "").await;
    assert!(got.code == 5 && got.out.contains("Redis gave another value"), "{got:?}");
    let got = run(config.path(), "", &["bench", "quotes", "--redis", &both], "").await;
    assert_eq!((got.code, got.err.as_str()), (2, "--redis must name one for each thread\n"));
}

#[tokio::test]
async fn a_benchmark_of_the_mix_does_every_operation_and_counts_the_hashes() {
    let config = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let size = ["--connections", "3", "--users", "20", "--instruments", "30", "--rounds", "2"];
    let time = ["--time", "1s", "--warm", "100ms", "--interval", "200ms"];
    let bench = [&["bench", "mix", "--json", "--dir", place][..], &size, &time].concat();
    let got = run(config.path(), "", &bench, "").await;
    assert_eq!(got.code, 0, "{got:?}");
    let report: serde_json::Value = serde_json::from_str(&got.out).unwrap();
    assert_eq!((&report["verified"], &report["tls"]), (&true.into(), &true.into()));
    let settings: Vec<&String> = report["settings"].as_object().unwrap().keys().collect();
    let raised = ["LOGIN_ADDRESS", "LOGIN_WORKER", "REGISTER_ADDRESS", "REGISTER_WORKER"]
        .map(|of| format!("PAPERTRADER_MASTER_LIMITS__{of}"));
    assert_eq!(settings, raised.iter().collect::<Vec<_>>());
    let (mix, passwords) = (&report["mix"], &report["passwords"]);
    for (line, names) in [
        (mix, &["home", "quote", "account", "portfolio", "buy", "sell", "logout"][..]),
        (passwords, &["register", "login", "update"]),
    ] {
        assert!(line["requests_per_second"].as_f64() > Some(0.0), "{got:?}");
        assert_eq!(line["rounds"].as_array().unwrap().len(), 2);
        assert_eq!(line["refused"], serde_json::json!({}));
        let operations = line["operations"].as_array().unwrap();
        assert!(operations.iter().map(|one| &one["operation"]).eq(names), "{got:?}");
        assert!(operations.iter().any(|one| one["count"].as_u64() > Some(0)), "{got:?}");
    }
    assert!(mix["checked"].as_u64() > Some(0), "{got:?}");
    assert_eq!(passwords["parameters"], "$argon2id$v=19$m=19456,t=2,p=1$");
    assert!(passwords["of_bare"].as_f64() > Some(0.0), "{got:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let one =
        ["bench", "mix", "--json", "--dir", place, "--line", "mix", "--plain", "--rounds", "1"];
    let one = [&one[..], &size[..6], &time].concat();
    let got = run(config.path(), "", &one, "").await;
    assert_eq!(got.code, 0, "{got:?}");
    let report: serde_json::Value = serde_json::from_str(&got.out).unwrap();
    assert!(report["passwords"].is_null() && report["mix"].is_object(), "{got:?}");
    assert_eq!(report["settings"], serde_json::json!({"PAPERTRADER_WORKER_PLAIN": "true"}));
    let got = run(config.path(), "", &["bench", "mix", "--instruments", "9"], "").await;
    assert_eq!((got.code, got.err.as_str()), (2, "--instruments must be 10 to 10000\n"));
}

#[tokio::test]
async fn a_benchmark_of_orders_finds_every_one_in_the_books() {
    let config = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    for plain in [&[][..], &["--plain", "--load", "throughput"]] {
        let size = ["--connections", "3", "--accounts", "2", "--symbols", "4", "--window", "8"];
        let loads = ["--orders", "300", "--interval", "100ms", "--time", "200ms"];
        let queue = ["--queued", "6", "--rounds", "1", "--pause", "2s"];
        let bench = [&["bench", "orders", "--json", "--dir", place][..], &size, &loads, &queue];
        let got = run(config.path(), "", &[&bench.concat(), plain].concat(), "").await;
        assert_eq!(got.code, 0, "{got:?}");
        let report: serde_json::Value = serde_json::from_str(&got.out).unwrap();
        assert_eq!((&report["verified"], &report["tls"]), (&true.into(), &plain.is_empty().into()));
        let throughput = &report["throughput"];
        assert_eq!(
            (&throughput["orders"], &throughput["refused"]),
            (&300.into(), &serde_json::json!({}))
        );
        for rate in ["acknowledged_per_second", "settled_per_second"] {
            assert!(throughput[rate].as_f64().unwrap() > 0.0, "{got:?}");
        }
        let count = |load: &str, what: &str| report[load][what].as_u64();
        if plain.is_empty() {
            assert!(count("latency", "orders") > Some(0), "{got:?}");
            assert_eq!(count("settlement", "settlements"), Some(1), "{got:?}");
            assert!(count("settlement", "decided") >= Some(6), "{got:?}");
        } else {
            assert_eq!((count("latency", "orders"), count("settlement", "orders")), (None, None));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    let got = run(config.path(), "", &["bench", "orders", "--accounts", "9"], "").await;
    assert_eq!((got.code, got.err.as_str()), (2, "--accounts must be 1 to 8\n"));
}
