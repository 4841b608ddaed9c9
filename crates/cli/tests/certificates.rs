//! The program and the certificates of servers: what it remembers, what it refuses, what it says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod run;
#[path = "../../client/tests/script/mod.rs"]
mod script;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use papertrader_core::time::WallTime;
use papertrader_protocol::data::UserInfo;
use papertrader_protocol::returns::Return;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Failure, Reason, Request};
use run::{Ran, finish, program, run};
use script::Worker;
use script::certificate::{Authority, Identity};
use serde_json::{Value, json};

const OTHER: &str = "trade.example.org:2049";

fn remembered(config: &Path) -> Value {
    let text = std::fs::read_to_string(config.join("known_servers.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Runs a command that the worker serves; its list names another worker too.
async fn served(worker: &Worker, print: &str, config: &Path, arguments: &[&str]) -> Ran {
    let mut command = program(config, &worker.address);
    command.args(arguments);
    served_to(command, worker, print).await
}

async fn served_to(command: Command, worker: &Worker, print: &str) -> Ran {
    let lines = [(worker.address.as_str(), print), (OTHER, print)];
    let server = async {
        let mut peer = worker.greet().await;
        while let Some(asked) = peer.try_next().await {
            let mut bytes = Vec::new();
            match &asked.request {
                Request::Login { .. } => {
                    Return::Session(script::grant()).put(asked.number, &mut bytes);
                }
                Request::GetWorkerList => {
                    bytes = script::list_frames(asked.number, &script::listed(&lines));
                }
                Request::SwitchState(state) => {
                    Return::StateSwitched(*state).put(asked.number, &mut bytes);
                }
                Request::UserInfo(name) => {
                    let info =
                        UserInfo { name: name.to_string(), since: WallTime(0), private: None };
                    bytes = script::data_frames(asked.number, &info.to_bytes());
                }
                Request::Goodbye => return,
                _ => panic!("{asked:?} was not expected"),
            }
            peer.raw(&bytes).await;
        }
    };
    let (ran, ()) = tokio::join!(finish(command, "pw\n"), server);
    ran
}

/// Runs a command that refuses the worker, which sees nothing but the handshake.
async fn refused(worker: &Worker, config: &Path, arguments: &[&str]) -> Ran {
    let (ran, broken) =
        tokio::join!(run(config, &worker.address, arguments, "pw\n"), worker.try_accept());
    assert!(broken.err().expect("the handshake is broken off").rest.is_empty());
    ran
}

/// Runs `trust`, which looks at the certificate and sends nothing.
async fn trust(worker: &Worker, config: &Path, more: &[&str]) -> Ran {
    let arguments = [&["trust", &worker.address], more].concat();
    // No server but the one that is named is asked.
    let (ran, next) = tokio::join!(run(config, "127.0.0.1:1", &arguments, ""), async {
        worker.accept().await.try_next().await
    });
    assert_eq!(next, None);
    ran
}

fn error_code(ran: &Ran) -> String {
    let object: Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    assert_eq!(ran.err, "");
    object["error"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_first_use_is_said_once_and_remembered() {
    let identity = Identity::self_made();
    let print = identity.fingerprint().to_string();
    let worker = Worker::start_tls(&identity).await;
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("papertrader");
    let ran = served(&worker, &print, &config, &["workers"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let address = &worker.address;
    let expected =
        format!("{address} is new here: its certificate SHA-256 {print} is remembered\n");
    assert_eq!(ran.err, expected);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&config), mode(&config.join("known_servers.json"))), (0o700, 0o600));
    // A list alone teaches nothing.
    assert_eq!(remembered(&config), json!({ "servers": { address: print } }));
    let again = served(&worker, &print, &config, &["workers"]).await;
    assert_eq!((again.code, again.err.as_str()), (0, ""));

    // For programs nothing is on standard error, and it is remembered all the same.
    let home = tempfile::tempdir().unwrap();
    let ran = served(&worker, &print, home.path(), &["workers", "--json"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(remembered(home.path())["servers"][address], print);
}

#[tokio::test]
async fn a_changed_certificate_is_refused_until_the_user_trusts_it() {
    let (old, new) = (Identity::self_made(), Identity::self_made());
    let (before, now) = (old.fingerprint().to_string(), new.fingerprint().to_string());
    let mut worker = Worker::start_tls(&old).await;
    let home = tempfile::tempdir().unwrap();
    let config = home.path();
    let place = worker.place();
    served(&worker, &before, config, &["workers"]).await;
    let file = remembered(config);

    worker.present(&new);
    let login = ["login", "alice", "--password-stdin"];
    let ran = refused(&worker, config, &login).await;
    assert_eq!((ran.code, ran.out.as_str()), (3, ""));
    let command = format!("papertrader trust {place} --fingerprint {now}\n");
    for part in [&format!("expected SHA-256 {before}, seen {now}"), "listening in", &command] {
        assert!(ran.err.contains(part), "{ran:?}");
    }
    assert_eq!(ran.err.lines().count(), 1);
    let ran = refused(&worker, config, &["workers", "--json"]).await;
    assert_eq!((ran.code, error_code(&ran).as_str()), (3, "certificateChanged"));

    // Nobody is there to be asked.
    let ran = trust(&worker, config, &[]).await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains(&now) && ran.err.contains("--fingerprint HEX"), "{ran:?}");
    let ran = trust(&worker, config, &["--json"]).await;
    assert_eq!((ran.code, error_code(&ran).as_str()), (2, "fingerprintNeeded"));
    // What the operator gives is something else.
    let ran = trust(&worker, config, &["--fingerprint", &before]).await;
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains(&now) && ran.err.contains(&before), "{ran:?}");
    let ran = trust(&worker, config, &["--json", "--fingerprint", &before]).await;
    assert_eq!((ran.code, error_code(&ran).as_str()), (3, "fingerprintDiffers"));
    assert_eq!(remembered(config), file, "nothing has changed yet");

    // As other programs write it.
    let pairs: Vec<&str> = (0..32).map(|i| &now[2 * i..2 * i + 2]).collect();
    let written = pairs.join(":").to_uppercase();
    let ran = trust(&worker, config, &["--json", "--fingerprint", &written]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let expected = json!({ "server": place, "fingerprint": now, "before": before });
    assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap(), expected);
    assert_eq!(remembered(config)["servers"][&place], now);
    // Nothing is new any more: nobody need be asked.
    let ran = trust(&worker, config, &[]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = served(&worker, &now, config, &login).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[tokio::test]
async fn a_renewed_certificate_is_said_once_and_remembered() {
    let (old, authority) = (Identity::self_made(), Authority::new());
    let new = authority.vouch_for("127.0.0.1");
    let (before, now) = (old.fingerprint().to_string(), new.fingerprint().to_string());
    let mut worker = Worker::start_tls(&old).await;
    let home = tempfile::tempdir().unwrap();
    let roots = home.path().join("roots.pem");
    std::fs::write(&roots, authority.root_pem()).unwrap();
    let address = worker.address.clone();
    for (json, line) in [
        (
            false,
            format!(
                "{address} has another certificate, for which an authority of this system vouches: \
             SHA-256 {now} is remembered instead of {before}\n"
            ),
        ),
        (true, String::new()),
    ] {
        let config = home.path().join(if json { "program" } else { "person" });
        worker.present(&old);
        served(&worker, &before, &config, &["workers"]).await;
        worker.present(&new);
        let workers = || {
            let mut command = program(&config, &address);
            command.arg("workers").args(json.then_some("--json")).env("SSL_CERT_FILE", &roots);
            command
        };
        let ran = served_to(workers(), &worker, &now).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, line.as_str()));
        assert_eq!(remembered(&config)["servers"][&address], now);
        let ran = served_to(workers(), &worker, &now).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    }
}

/// A terminal would obey what a server writes into its texts.
#[tokio::test]
async fn texts_of_servers_do_not_steer_the_terminal() {
    const EVIL: &str = "a\u{1b}]0;x\u{7}\u{9b}2J\u{202e}b:1";
    const HARMLESS: &str = "a\u{fffd}]0;x\u{fffd}\u{fffd}2J\u{fffd}b:1";
    let worker = Worker::start().await;
    let home = tempfile::tempdir().unwrap();
    let server = async |refuses: bool| {
        let mut peer = worker.greet().await;
        while let Some(asked) = peer.try_next().await {
            match asked.request {
                Request::GetWorkerList if refuses => {
                    let failure = Failure::new(Reason::Busy, EVIL);
                    let answer = Return::Failed(asked.instruction.failure(), failure);
                    peer.answer(&asked, answer).await;
                }
                Request::GetWorkerList => {
                    let list = script::listed(&[(EVIL, "")]);
                    peer.raw(&script::list_frames(asked.number, &list)).await;
                }
                _ => return,
            }
        }
    };
    for json in [false, true] {
        let arguments: &[&str] = if json { &["workers", "--json"] } else { &["workers"] };
        for refuses in [false, true] {
            let run = run(home.path(), &worker.address, arguments, "");
            let (ran, ()) = tokio::join!(run, server(refuses));
            let said = format!("{}{}", ran.out, ran.err);
            let harmful =
                |c: char| c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c);
            assert!(!said.contains(harmful), "{said:?}");
            assert!(said.contains(if json { "\\u202e" } else { HARMLESS }), "{said:?}");
        }
    }
}

#[tokio::test]
async fn a_login_over_plain_tcp_keeps_saying_so() {
    let worker = Worker::start().await;
    let home = tempfile::tempdir().unwrap();
    let ran = served(&worker, "", home.path(), &["login", "alice", "--password-stdin"]).await;
    let warning = format!("warning: the connection to {} is not encrypted", worker.address);
    assert!(ran.code == 0 && ran.err.starts_with(&warning), "{ran:?}");
    assert_eq!(ran.err.lines().count(), 1);
    let text = std::fs::read_to_string(home.path().join("session.json")).unwrap();
    let saved: Value = serde_json::from_str(&text).unwrap();
    let plain = format!("tcp://{OTHER}");
    assert_eq!(saved["servers"], json!([worker.address]));
    assert_eq!(saved["workers"], json!([worker.address, plain]));
    assert!(!home.path().join("known_servers.json").exists());
    // What the list shows can be pasted.
    let ran = served(&worker, "", home.path(), &["workers"]).await;
    assert!(ran.out.contains(&format!("  {plain}  ")), "{ran:?}");
    let ran = served(&worker, "", home.path(), &["workers", "--json"]).await;
    assert!(ran.out.contains(&format!("\"{OTHER}\"")) && ran.err.is_empty(), "{ran:?}");
}

#[tokio::test]
async fn what_cannot_be_understood_stops_the_command_before_it_connects() {
    let worker = Worker::start_tls(&Identity::self_made()).await;
    let home = tempfile::tempdir().unwrap();
    let run = |server: &str, arguments: &'static [&'static str]| {
        let server = server.to_owned();
        let config = home.path().to_owned();
        async move { run(&config, &server, arguments, "").await }
    };
    let ran = run("tls://somewhere:1", &["workers", "--json"]).await;
    assert_eq!((ran.code, error_code(&ran).as_str()), (2, "badAddress"));
    let ran = run(&worker.address, &["trust", "somewhere", "--json"]).await;
    assert_eq!((ran.code, error_code(&ran).as_str()), (2, "badAddress"));
    let ran = run("", &["trust", "somewhere:1", "--fingerprint", "ab", "--json"]).await;
    assert_eq!((ran.code, error_code(&ran).as_str()), (2, "badFingerprint"));

    let file = home.path().join("known_servers.json");
    std::fs::write(&file, "nonsense").unwrap();
    let ran = run(&worker.address, &["workers", "--json"]).await;
    assert_eq!((ran.code, error_code(&ran).as_str()), (5, "knownServers"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "nonsense");
    worker.expect_no_more();
}
