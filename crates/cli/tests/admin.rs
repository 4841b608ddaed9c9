//! The operator's commands against a scripted master: what they print and their exit codes.
//!
//! Every example of `docs/admin.md` is run here and must print what the page says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use papertrader_core::time::{SECOND, WallTime};
use papertrader_master::Config;
use papertrader_master::admin::message::{
    Attempts, BackedUp, Checked, ExportCursor, ExportLine, ExportPage, LimitsInForce, LiveWorker,
    PortStatus, SessionLine, SessionLines, SessionsRevoked, Stamp, Status, UserDetail,
    UserDisabled, UserEnabled, UserLine, UserLines, Verified, WorkerAdded, WorkerAdmitted,
    WorkerBoot, WorkerBooted, WorkerConduct, WorkerDetail, WorkerKey, WorkerLine, WorkerLines,
    WorkerRemoved, WorkerReport, WorkerState,
};
use papertrader_master::admin::{AdminError, AdminReply, AdminRequest, SOCKET};
use papertrader_node::openpgp::{Certificate, Identity};

/// 2026-02-03T10:00:00Z.
const NOW: i64 = 1_770_112_800 * SECOND;
const UUID: &str = "c1d9a6f4-5f0e-8b3c-9a61-2d1f8a3c4b5d";
const SOUTH: &str = "0b9a3c52-7f0e-8f3c-9a61-2d1f8a3c4b5d";
const KEY: &str = "DB2C0C3AEEAD6D3121F09458B5473E7337C88A38";
/// The fingerprint of a certificate.
const PRINT: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn after(seconds: i64) -> Stamp {
    Stamp(NOW + seconds * SECOND)
}

/// Answers as the master of a small deployment would.
fn answer(request: AdminRequest) -> AdminReply {
    let unknown = |name: &str| AdminError::UnknownWorker(name.into()).into();
    match request {
        AdminRequest::Status {} => AdminReply::Status(Box::new(status())),
        AdminRequest::ListWorkers {} => AdminReply::Workers(WorkerLines { workers: lines() }),
        AdminRequest::ShowWorker { name } => match name.as_str() {
            "east" => AdminReply::Worker(Box::new(east())),
            "south" => AdminReply::Worker(Box::new(south())),
            name => unknown(name),
        },
        AdminRequest::AddWorker(new) => {
            let key: Vec<u8> = (0..new.key.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&new.key[at..at + 2], 16).unwrap())
                .collect();
            Certificate::parse(&key).unwrap();
            let uuid = if new.name == "south" { SOUTH } else { UUID };
            AdminReply::WorkerAdded(WorkerAdded {
                name: new.name.clone(),
                uuid: new.uuid.unwrap_or_else(|| uuid.into()),
                key: KEY.into(),
                addresses: new.addresses,
                replaced: new.name != "east",
                boot_lifted: new.name == "south",
                link_cut: new.name == "west",
            })
        }
        AdminRequest::RemoveWorker { name } => {
            AdminReply::WorkerRemoved(WorkerRemoved { name, uuid: UUID.into(), link_cut: true })
        }
        AdminRequest::BootWorker { name, for_ms, compromised } => {
            AdminReply::WorkerBooted(WorkerBooted {
                name,
                until: for_ms.map(|ms| after(ms as i64 / 1_000)),
                compromised,
                link_cut: true,
                sessions_ended: if compromised { 12 } else { 0 },
                passwords_due: if compromised { 9 } else { 0 },
            })
        }
        AdminRequest::AdmitWorker { name } => {
            AdminReply::WorkerAdmitted(WorkerAdmitted { was_booted: name == "east", name })
        }
        AdminRequest::ListSessions { user } => AdminReply::Sessions(sessions(user.as_deref())),
        AdminRequest::RevokeSession { handle } => match handle.as_str() {
            "3f0a91c2d7" => revoked(1),
            other => AdminError::UnknownSession(other.into()).into(),
        },
        AdminRequest::RevokeSessions { .. } => revoked(2),
        // In two pages.
        AdminRequest::ListUsers { after } => {
            let mut users = users();
            users.retain(|user| user.id > after);
            let more = users.len() > 1;
            users.truncate(1);
            AdminReply::Users(UserLines { users, more })
        }
        AdminRequest::ShowUser { name } => match name.as_str() {
            "alice" => AdminReply::User(Box::new(alice())),
            name => AdminError::UnknownUser(name.into()).into(),
        },
        AdminRequest::DisableUser { name } => AdminReply::UserDisabled(UserDisabled {
            was_disabled: name != "alice",
            orders_cancelled: u64::from(name == "alice"),
            sessions_ended: if name == "alice" { 2 } else { 0 },
            user: name,
        }),
        AdminRequest::EnableUser { name } => {
            AdminReply::UserEnabled(UserEnabled { was_disabled: name == "alice", user: name })
        }
        AdminRequest::Verify {} => AdminReply::Verified(Verified {
            right: true,
            checked: checked(),
            contradictions: Vec::new(),
            more: 0,
        }),
        AdminRequest::BackUp { file, .. } if file.ends_with("tuesday.db") => {
            AdminError::FileExists("/var/lib/papertrader/tuesday.db is there already".into()).into()
        }
        AdminRequest::BackUp { file, device, inode } => {
            assert!(file.starts_with('/') && file.ends_with("/monday.db"), "{file}");
            assert!(device > 0 && inode > 0);
            AdminReply::BackedUp(BackedUp {
                file: "/var/lib/papertrader/monday.db".into(),
                bytes: 12_910_592,
                checked: checked(),
            })
        }
        AdminRequest::Export { user, after } => match user.as_str() {
            "alice" => AdminReply::Exported(page(after)),
            name => AdminError::UnknownUser(name.into()).into(),
        },
    }
}

fn checked() -> Checked {
    Checked {
        accounts: 31,
        positions: 58,
        orders: 4_711,
        outcomes: 4_707,
        fills: 4_412,
        entries: 43,
        snapshots: 4_711,
        bars: 60_210,
        cash: "2310448.17".into(),
        market: "789551.83".into(),
        grants: "-3100000.00".into(),
        fractions: "0.00".into(),
        sum: "0.00".into(),
    }
}

/// In two parts.
fn page(after: ExportCursor) -> ExportPage {
    let line = |kind: &str, wall| ExportLine {
        kind: kind.into(),
        wall_time: Some(after_start(wall)),
        market_time: Some(Stamp(1_109_691_000 * SECOND)),
        symbol: None,
        side: None,
        quantity: "0".into(),
        price: None,
        amount: "0.00".into(),
        units: "0".into(),
        basis: None,
        reason: None,
        order: None,
        client_order_id: None,
        asked: None,
        received_wall_time: None,
        received_market_time: None,
    };
    let lines = [
        ExportLine { amount: "100000.00".into(), ..line("grant", 0) },
        ExportLine {
            symbol: Some("AAPL".into()),
            side: Some("buy".into()),
            quantity: "10".into(),
            price: Some("64.78".into()),
            amount: "-647.80".into(),
            units: "10".into(),
            basis: Some("647.80".into()),
            order: Some(17),
            client_order_id: Some("=first,one".into()),
            asked: Some("10".into()),
            received_wall_time: Some(after_start(60)),
            received_market_time: Some(Stamp(1_109_689_200 * SECOND)),
            ..line("buy", 62)
        },
    ];
    let at = usize::from(after.entry > 0);
    ExportPage {
        user: "alice".into(),
        account: 1,
        lines: vec![lines[at].clone()],
        next: ExportCursor { order: 0, entry: 1 },
        more: at == 0,
    }
}

fn after_start(seconds: i64) -> Stamp {
    after(seconds - 864_000)
}

fn revoked(sessions_ended: u64) -> AdminReply {
    AdminReply::SessionsRevoked(SessionsRevoked { user: "alice".into(), sessions_ended })
}

fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        started: after(-93_784),
        uptime_seconds: 93_784,
        deployment: "8dff662b-805b-4364-b82d-3937d615c115".into(),
        certificate: PRINT.into(),
        key: "674B68AFEE973FE4FE44E80212CD1850575F04CD".into(),
        market_time: Stamp(1_109_691_000 * SECOND),
        snapshot: 4711,
        ended: false,
        source: "replay of recorded daily bars".into(),
        interval_ms: 5_000,
        accounts: 31,
        open_orders: 4,
        sessions: 12,
        workers_connected: 1,
        workers_registered: 3,
        queue: 0,
        last_batch: 51_201,
        database: None,
        port: PortStatus {
            expected: 1,
            strangers: 2,
            expected_turned_away: 0,
            strangers_turned_away: 5,
        },
        attempts: Attempts {
            right: 420,
            wrong: 17,
            refused: 3,
            registrations_refused: 0,
            orders_refused: 250,
        },
        limits: LimitsInForce::from(&Config::default()),
    }
}

fn lines() -> Vec<WorkerLine> {
    let away = WorkerLine {
        name: "north".into(),
        uuid: "7e57ab1e-0000-8000-9000-000000000003".into(),
        state: WorkerState::Away,
        booted_until: None,
        region: None,
        clients: None,
        load: None,
        round_trip_us: None,
        clock_offset_us: None,
        address: None,
    };
    let east = WorkerLine {
        name: "east".into(),
        uuid: UUID.into(),
        state: WorkerState::Connected,
        region: Some("eu-west".into()),
        clients: Some(27),
        load: Some(2),
        round_trip_us: Some(8_412),
        clock_offset_us: Some(-350),
        address: Some("east.example.org:2049".into()),
        ..away.clone()
    };
    let south = WorkerLine {
        name: "south".into(),
        uuid: SOUTH.into(),
        state: WorkerState::Booted,
        booted_until: Some(after(3_600)),
        ..away.clone()
    };
    vec![east, away, south]
}

fn east() -> WorkerDetail {
    WorkerDetail {
        name: "east".into(),
        uuid: UUID.into(),
        state: WorkerState::Connected,
        addresses: vec!["10.0.1.1".into(), "10.2.0.0/16".into()],
        key: Some(WorkerKey {
            fingerprint: KEY.into(),
            user_id: "papertrader worker east".into(),
            valid_until: Some(after(31_536_000)),
            problem: None,
        }),
        booted: None,
        live: Some(LiveWorker {
            since: after(-7_200),
            peer: "10.0.1.1:41522".into(),
            version: "0.1.0".into(),
            address: "east.example.org:2049".into(),
            web: String::new(),
            certificate: PRINT.into(),
            region: "eu-west".into(),
            report: Some(WorkerReport {
                started: after(-90_000),
                uptime_seconds: 90_000,
                clients: 27,
                load: 2,
                sessions: 21,
                orders: 2,
                cache_bytes: 12_582_912,
                cache_limit: 67_108_864,
                cache_hits: 900,
                cache_misses: 100,
                cache_evictions: 7,
                outgoing_bytes: 2_048,
                refused_connections: 1,
                cut_connections: 0,
                throttled_requests: 14,
                round_trip_us: Some(8_412),
                clock_offset_us: Some(-350),
            }),
        }),
        conduct: WorkerConduct {
            foreign_frames: 0,
            malformed: 0,
            foreign_sessions: 1,
            wrong_passwords: 3,
            last: Some("getPortfolio for a session that it has not shown".into()),
            last_time: Some(after(-600)),
        },
    }
}

fn south() -> WorkerDetail {
    WorkerDetail {
        name: "south".into(),
        uuid: SOUTH.into(),
        state: WorkerState::Booted,
        addresses: vec!["10.0.3.1".into()],
        key: Some(WorkerKey {
            fingerprint: KEY.into(),
            user_id: "papertrader worker south".into(),
            valid_until: None,
            problem: None,
        }),
        booted: Some(WorkerBoot { until: None, compromised: true }),
        live: None,
        conduct: WorkerConduct {
            foreign_frames: 0,
            malformed: 0,
            foreign_sessions: 0,
            wrong_passwords: 0,
            last: None,
            last_time: None,
        },
    }
}

fn sessions(user: Option<&str>) -> SessionLines {
    let line = |handle: &str, name: &str, used, worker: Option<&str>| SessionLine {
        handle: handle.into(),
        user: name.into(),
        client: "203.0.113.7".into(),
        started: after(-86_400),
        used: after(used),
        expires: after(2_505_600),
        expirable: false,
        workers: worker.map(str::to_owned).into_iter().collect(),
    };
    let mut sessions = vec![
        line("3f0a91c2d7", "alice", 0, Some("east")),
        line("b81c44e09a", "bob", -5_400, None),
        line("07d2e6f155", "alice", -40_000, None),
    ];
    sessions.retain(|session| user.is_none_or(|user| session.user == user));
    SessionLines { sessions, more: 0 }
}

fn users() -> Vec<UserLine> {
    let alice = UserLine {
        id: 1,
        user: "alice".into(),
        since: after(-864_000),
        open_orders: 1,
        sessions: 2,
        password_due: false,
        disabled: false,
    };
    let bob = UserLine {
        id: 2,
        user: "bob".into(),
        open_orders: 0,
        sessions: 1,
        password_due: true,
        ..alice.clone()
    };
    vec![alice, bob]
}

fn alice() -> UserDetail {
    UserDetail {
        id: 1,
        user: "alice".into(),
        email: "a@example.org".into(),
        since: after(-864_000),
        cash: "99352.20".into(),
        held_cash: "680.19".into(),
        equity: "100012.00".into(),
        positions: 1,
        open_orders: 1,
        sessions: 2,
        is_password: true,
        password_due: false,
        disabled: false,
    }
}

/// A home with the data directory that `up` would use, a scripted master in it, and a worker's key
/// beside it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        let home = Home::empty();
        let listener = UnixListener::bind(home.master().join(SOCKET)).unwrap();
        // Ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut writer = stream.try_clone().unwrap();
                for line in BufReader::new(stream).lines() {
                    let request = serde_json::from_str(&line.unwrap()).unwrap();
                    let mut reply = serde_json::to_vec(&answer(request)).unwrap();
                    reply.push(b'\n');
                    writer.write_all(&reply).unwrap();
                }
            }
        });
        home
    }

    /// Without a master.
    fn empty() -> Home {
        let home = Home(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(home.master()).unwrap();
        let key = Identity::generate("papertrader worker east", WallTime(NOW)).unwrap();
        let file = home.0.path().join("openpgp-public.asc");
        std::fs::write(file, key.certificate().to_armored()).unwrap();
        home
    }

    fn master(&self) -> PathBuf {
        self.0.path().join("papertrader/master")
    }

    /// Runs the program: its exit code, and all that it prints on its two outputs.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_papertrader"))
            .args(arguments)
            .current_dir(&self.0)
            .env_clear()
            .env("XDG_DATA_HOME", self.0.path())
            .env("TZ", "UTC")
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}

#[test]
fn every_example_of_the_page_prints_what_the_page_says() {
    let home = Home::new();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/admin.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut ran = BTreeSet::new();
    for block in page.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let (first, expected) = block.split_once('\n').unwrap();
        let arguments: Vec<&str> =
            first.strip_prefix("$ papertrader ").unwrap().split(' ').collect();
        let (_, out, err) = home.run(&arguments);
        // A table for a spreadsheet has ends of lines of its own.
        let printed = (out + &err).replace("\r\n", "\n");
        if arguments.contains(&"--json") {
            let json = |text: &str| -> serde_json::Value {
                serde_json::from_str(text).unwrap_or_else(|e| panic!("{first}: {e}: {text}"))
            };
            assert_eq!(json(&printed), json(expected), "{first}");
        } else {
            assert_eq!(printed, expected, "{first}");
        }
        ran.insert(arguments[1..arguments.len().min(3)].join(" "));
    }
    for command in [
        "status",
        "workers list",
        "workers show",
        "workers add",
        "workers remove",
        "workers boot",
        "workers admit",
        "sessions list",
        "sessions revoke",
        "users list",
        "users show",
        "users disable",
        "users enable",
        "verify",
        "backup",
        "export",
    ] {
        assert!(ran.iter().any(|ran| ran.starts_with(command)), "{command} has no example");
    }
}

#[test]
fn what_goes_wrong_has_its_exit_code_and_says_what_to_do() {
    let home = Home::new();
    let refused = |arguments: &[&str], code: i32, word: &str, part: &str| {
        let (got, out, err) = home.run(arguments);
        assert_eq!((got, out.as_str()), (code, ""), "{arguments:?}: {err}");
        assert!(err.contains(part), "{arguments:?}: {err}");
        let (got, out, err) = home.run(&[arguments, &["--json"]].concat());
        assert_eq!((got, err.as_str()), (code, ""), "{arguments:?}: {out}");
        let object: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(object["error"]["code"], word, "{arguments:?}");
    };
    let add = ["admin", "workers", "add", "east", "--address", "10.0.1.1", "--key"];
    let add = |file| [&add[..], &[file]].concat();
    refused(&["admin", "workers", "show", "nobody"], 1, "unknownWorker", "no worker is called");
    refused(&["admin", "sessions", "revoke", "ab"], 1, "unknownSession", "sessions list");
    refused(&add("none.asc"), 5, "keyFile", "none.asc");
    std::fs::write(home.0.path().join("text.asc"), "no key").unwrap();
    refused(&add("text.asc"), 2, "badKey", "text.asc");
    refused(&["admin", "backup", "tuesday.db"], 1, "fileExists", "is there already");
    refused(&["admin", "backup", "nowhere/monday.db"], 1, "file", "nowhere: No such file");
    refused(&["admin", "restore", "monday.db"], 1, "masterRuns", "stop it first");
    refused(&["admin", "export", "--user", "nobody"], 1, "unknownUser", "users list");
    let taken = ["admin", "export", "--user", "alice", "--output", "text.asc"];
    refused(&taken, 1, "fileExists", "text.asc is there already");
    for command in [&["verify"][..], &["backup", "monday.db"], &["export", "--user", "alice"]] {
        let arguments = [&["admin"][..], command, &["--data", "nowhere"]].concat();
        refused(&arguments, 3, "noBooks", "name the master's configuration (--config FILE)");
    }
    refused(&["admin", "verify", "--config", "none.toml"], 5, "configuration", "none.toml");
    let elsewhere = ["admin", "status", "--data", "nowhere"];
    refused(&elsewhere, 3, "noMaster", "no master is running with nowhere");
    // What the parser does not take.
    for arguments in [
        &["admin", "sessions", "revoke", "--json"][..],
        &["admin", "sessions", "revoke", "ab", "--user", "alice"],
        &["admin", "workers", "boot", "east", "--for", "5"],
        &["admin", "workers", "add", "east", "--key", "openpgp-public.asc"],
    ] {
        assert_eq!(home.run(arguments).0, 2, "{arguments:?}");
    }
}

#[test]
fn a_master_that_is_gone_is_said_to_be_gone() {
    let home = Home::empty();
    let (code, _, err) = home.run(&["admin", "status"]);
    let expected = format!("no master is running with {}\n", home.master().display());
    assert_eq!((code, err.as_str()), (3, expected.as_str()));
    // As after a crash: the socket is there, and nobody listens.
    drop(UnixListener::bind(home.master().join(SOCKET)).unwrap());
    let (code, _, err) = home.run(&["admin", "status"]);
    assert_eq!((code, err.as_str()), (3, expected.as_str()));
    // Its own directory is taken as well as that of `up`.
    let own = home.master();
    let (code, _, err) = home.run(&["admin", "status", "--data", own.to_str().unwrap()]);
    assert_eq!((code, err.as_str()), (3, expected.as_str()));
}
