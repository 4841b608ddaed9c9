//! What nobody may find after master and workers have run at trace level, whatever users, operator
//! and strangers did: passwords, their hashes, session IDs, secret keys and a passphrase, written
//! in any way that a log or an error is likely to write them.

use std::collections::HashMap;
use std::path::Path;

use papertrader_client::Password;
use papertrader_core::time::WallTime;
use papertrader_node::clock::Clock;
use papertrader_node::openpgp::{Identity, Passphrase};

use crate::capture::from_hex;
use crate::cli::{Done, PASSWORD, User};
use crate::logs::{files, session};
use crate::place::{Place, edit, serve};
use crate::process::{Running, address};

const WRONG: &str = "wrong-pw-of-a-test";
const NEW: &str = "second-pw-of-a-test";
const PASSPHRASE: &str = "passphrase-of-a-test";

/// How many bytes of a pattern are looked up.
const HEAD: usize = 4;

/// What is searched for, without regard to capitals.
#[derive(Default)]
struct Secrets {
    by_head: HashMap<[u8; HEAD], Vec<(String, Vec<u8>)>>,
    /// The first two bytes of any.
    begins: Vec<bool>,
    count: usize,
}

impl Secrets {
    fn pattern(&mut self, what: &str, bytes: &[u8]) {
        assert!(bytes.len() >= 8, "{what} is too short to be told from chance");
        let bytes = bytes.to_ascii_lowercase();
        let head = bytes[..HEAD].try_into().unwrap();
        self.begins.resize(1 << 16, false);
        self.begins[usize::from(bytes[0]) << 8 | usize::from(bytes[1])] = true;
        self.by_head.entry(head).or_default().push((what.to_owned(), bytes));
        self.count += 1;
    }

    /// A text that is secret as it stands.
    fn text(&mut self, what: &str, text: &str) {
        self.pattern(what, text.as_bytes());
    }

    /// Bytes that are secret: themselves, as hexadecimal digits, and as a list of numbers.
    fn bytes(&mut self, what: &str, bytes: &[u8]) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let list: Vec<String> = bytes.iter().map(ToString::to_string).collect();
        self.pattern(what, bytes);
        self.pattern(&format!("{what} in hexadecimal digits"), hex.as_bytes());
        self.pattern(&format!("{what} as a list"), list.join(", ").as_bytes());
    }

    /// A key in armor or PEM: the lines of its body, and of its bytes what does not stand in the
    /// public half too. A field of a key is longer than two of these pieces.
    fn key(&mut self, secret: &Path, public: &Path) {
        let what = secret.file_name().unwrap().to_string_lossy().into_owned();
        let (secret, public) = (body(secret), body(public));
        for line in secret.iter().filter(|line| line.len() >= 32 && !public.contains(line)) {
            self.text(&format!("a line of {what}"), line);
        }
        let (secret, public) = (from_base64(&secret.concat()), from_base64(&public.concat()));
        for piece in secret.chunks_exact(12) {
            if !public.windows(piece.len()).any(|window| window == piece) {
                self.bytes(&format!("a piece of {what}"), piece);
            }
        }
    }

    /// What stands in this text, and where.
    fn find(&self, text: &[u8]) -> Vec<(&str, usize)> {
        let text = text.to_ascii_lowercase();
        let mut found = Vec::new();
        for at in 0..text.len().saturating_sub(HEAD - 1) {
            if !self.begins[usize::from(text[at]) << 8 | usize::from(text[at + 1])] {
                continue;
            }
            let head: [u8; HEAD] = text[at..at + HEAD].try_into().unwrap();
            for (what, bytes) in self.by_head.get(&head).into_iter().flatten() {
                if text[at..].starts_with(bytes) {
                    found.push((what.as_str(), at));
                }
            }
        }
        found
    }

    /// All patterns, with what they are.
    fn all(&self) -> impl Iterator<Item = &(String, Vec<u8>)> {
        self.by_head.values().flatten()
    }
}

/// The lines of base64 in an armored or PEM file.
fn body(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let is_base64 =
        |line: &&str| line.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
    // An armor's checksum begins with =.
    let lines = text.lines().filter(is_base64).filter(|line| !line.starts_with('='));
    let lines: Vec<String> = lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();
    assert!(lines.len() > 1, "{}", file.display());
    lines
}

fn from_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        let digit = DIGITS.iter().position(|digit| *digit == byte).unwrap();
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

/// All that was said and printed, by whom.
#[derive(Default)]
struct Said(Vec<(String, Vec<u8>)>);

impl Said {
    fn command(&mut self, words: &[&str], done: Done) {
        self.0.push((words.join(" "), [done.out, done.err].concat().into_bytes()));
    }

    fn server(&mut self, name: &str, running: &Running) {
        let all = running.text("out") + &running.text("err");
        self.0.push((format!("the outputs of {name}"), all.into_bytes()));
    }
}

fn trace(config: &Path) {
    edit(config, "#level = \"info\"", "level = \"trace\"");
}

/// A key with a passphrase, as an operator brings one along.
fn armored_key(file: &Path) {
    let identity = Identity::generate("a worker", Clock::system(WallTime(0)).now()).unwrap();
    let passphrase = Passphrase::new(PASSPHRASE).unwrap();
    std::fs::write(file, identity.to_armored_secret(Some(&passphrase)).unwrap()).unwrap();
}

/// Waits for the end of a server that cannot start.
fn fails(name: &str, config: &Path, why: &str, said: &mut Said) {
    let mut running = serve("worker", config);
    assert_eq!(running.wait().code(), Some(1), "{running:?}");
    assert!(running.text("err").contains(why), "{running:?}");
    said.server(name, &running);
}

#[test]
fn no_secret_is_in_any_log_output_or_error_of_a_whole_run_at_trace_level() {
    let place = Place::new();
    trace(&place.master);
    let key = place.path("two-secret.asc");
    armored_key(&key);
    let passphrase_file = place.path("passphrase");
    std::fs::write(&passphrase_file, format!("{PASSPHRASE}\n")).unwrap();
    let given =
        ["--key", key.to_str().unwrap(), "--passphrase-file", passphrase_file.to_str().unwrap()];

    let mut all = place.start(&[]);
    let place = &all.place;
    let mut said = Said::default();
    for (name, more) in [("one", &[][..]), ("two", &given)] {
        let file = place.worker(name, more);
        trace(&file);
        let mut worker = serve("worker", &file);
        all.addresses.push(address(&worker.line_with("worker ready on ")));
        all.workers.push(worker);
    }
    // A stranger, one with a wrong passphrase, one whose key is none.
    let stranger = place.stranger("stranger");
    trace(&stranger);
    let mut refused = serve("worker", &stranger);
    refused.line_with("the master refuses this worker");
    let (two, bad) = (place.path("two/worker.toml"), place.path("two/bad.toml"));
    let (right, wrong) = (passphrase_file.to_str().unwrap(), place.path("wrong"));
    std::fs::write(&wrong, format!("{WRONG}\n")).unwrap();
    std::fs::copy(&two, &bad).unwrap();
    edit(&bad, right, wrong.to_str().unwrap());
    fails("a worker with a wrong passphrase", &bad, "cannot be used", &mut said);
    let torn = std::fs::read_to_string(&key).unwrap();
    std::fs::write(place.path("torn.asc"), &torn[..torn.len() / 2]).unwrap();
    std::fs::copy(&two, &bad).unwrap();
    edit(&bad, key.to_str().unwrap(), place.path("torn.asc").to_str().unwrap());
    fails("a worker with half a key", &bad, "cannot be used", &mut said);

    let mut secrets = Secrets::default();
    users(place, &all.addresses, &mut secrets, &mut said);
    operator(place, &mut said);
    all.workers[1].line_ever("the clients are sent to other workers");

    assert_eq!(refused.end_by("TERM").code(), Some(0), "{refused:?}");
    said.server("the stranger", &refused);
    all.end();
    let place = &all.place;
    said.server("the master", &all.master);
    for (name, worker) in ["one", "two"].iter().zip(&all.workers) {
        said.server(name, worker);
    }
    secrets.text("the passphrase", PASSPHRASE);
    for (dir, name) in [("m/data", "openpgp"), ("one", "openpgp"), ("stranger", "openpgp")] {
        let dir = place.path(dir);
        secrets
            .key(&dir.join(format!("{name}-secret.asc")), &dir.join(format!("{name}-public.asc")));
    }
    secrets.key(&key, &place.path("two/openpgp-public.asc"));
    for dir in ["m/data", "one", "two", "stranger"] {
        let dir = place.path(dir);
        secrets.key(&dir.join("tls-key.pem"), &dir.join("tls-certificate.pem"));
    }

    let mut logs = Vec::new();
    for file in files(&place.path("")) {
        let name = file.display().to_string();
        // Where they belong: the keys, the kept session, the database's own hash of a hash.
        let is_home = name.ends_with("-secret.asc")
            || ["tls-key.pem", "torn.asc", "passphrase", "wrong", "session.json"]
                .iter()
                .any(|home| name.ends_with(home));
        if is_home {
            continue;
        }
        let content = std::fs::read(&file).unwrap();
        if name.ends_with(".log") {
            let is_detailed = String::from_utf8_lossy(&content).contains(" DEBUG ");
            logs.push((name.clone(), is_detailed));
        }
        said.0.push((name, content));
    }
    // By default nothing below INFO is there; whatever says more than DEBUG is there too. Of the
    // stranger there is little to say.
    for log in ["m/data/master.log", "one/worker.log", "two/worker.log"] {
        assert!(logs.iter().any(|(name, detailed)| name.ends_with(log) && *detailed), "{logs:?}");
    }
    assert_eq!(logs.len(), 4, "{logs:?}");
    search(&secrets, &said);
}

/// What users do, rightly and wrongly; their secrets.
fn users(place: &Place, workers: &[String], secrets: &mut Secrets, said: &mut Said) {
    let users = place.path("users");
    let alice = User::new(&users, "alice", &workers[0]);
    let elsewhere = User::new(&users, "elsewhere", &workers[1]);
    let mut run = |user: &User, words: &[&str], lines: &str, code: i32| {
        said.command(words, user.run_saying(words, lines).ended_with(code));
    };
    let login = ["login", "alice", "--password-stdin"];
    let register = ["register", "alice", "--email", "a@example.org", "--password-stdin"];
    let mut sessions = Vec::new();
    run(&alice, &register, PASSWORD, 0);
    run(&alice, &register, PASSWORD, 1);
    run(&alice, &login, WRONG, 1);
    run(&alice, &login, PASSWORD, 0);
    sessions.push(session(&alice));
    run(&elsewhere, &login, PASSWORD, 0);
    sessions.push(session(&elsewhere));
    run(&alice, &["buy", "AAPL", "3"], "", 0);
    run(&alice, &["buy", "AAPL", "1000000"], "", 1);
    let password = ["password", "--password-stdin"];
    run(&alice, &password, &format!("{WRONG}\n{NEW}"), 1);
    run(&alice, &password, &format!("{PASSWORD}\n{NEW}"), 0);
    // The other session has ended with the old password.
    run(&elsewhere, &["portfolio"], "", 4);
    run(&elsewhere, &login, NEW, 0);
    sessions.push(session(&elsewhere));
    // Through the other worker with the same session.
    let moved = User { server: workers[1].clone(), ..alice.clone() };
    for look in [&["portfolio"][..], &["history", "--json"], &["user"], &["quote", "AAPL"]] {
        run(&moved, look, "", 0);
    }
    run(&alice, &["logout", "--everywhere"], "", 0);
    run(&elsewhere, &["orders"], "", 4);
    run(&elsewhere, &login, NEW, 0);
    sessions.push(session(&elsewhere));

    let deployment = sessions[0]["deployment"].as_str().unwrap();
    for (what, text) in [("the password", PASSWORD), ("a wrong one", WRONG), ("the new one", NEW)] {
        secrets.text(what, text);
        let hash = Password::new(text).hashed(deployment, &"alice".parse().unwrap());
        secrets.bytes(&format!("the client's hash of {what}"), &from_hex(hash.reveal()));
    }
    for session in &sessions {
        secrets.bytes("a session ID", &from_hex(session["session"].as_str().unwrap()));
    }
}

/// What the operator does; the session of a user is there to be seen.
fn operator(place: &Place, said: &mut Said) {
    let sessions = place.admin(&["sessions", "list"]);
    let handle = sessions["sessions"][0]["handle"].as_str().unwrap().to_owned();
    let secret = place.path("one/openpgp-secret.asc");
    let secret = secret.to_str().unwrap();
    let commands: &[(&[&str], i32)] = &[
        (&["status"], 0),
        (&["status", "--json"], 0),
        (&["workers", "list"], 0),
        (&["workers", "show", "two", "--json"], 0),
        (&["workers", "show", "two"], 0),
        (&["sessions", "list"], 0),
        (&["sessions", "list", "--json"], 0),
        (&["users", "list"], 0),
        (&["users", "show", "alice"], 0),
        (&["sessions", "revoke", &handle], 0),
        (&["users", "disable", "alice"], 0),
        (&["users", "enable", "alice"], 0),
        (&["workers", "boot", "two", "--for", "1h"], 0),
        (&["workers", "admit", "two"], 0),
        (&["workers", "boot", "two", "--compromised"], 0),
        (&["workers", "remove", "two"], 0),
        // By mistake.
        (&["workers", "add", "three", "--key", secret, "--address", "127.0.0.1"], 2),
    ];
    for (words, code) in commands {
        said.command(words, place.run_admin(words).ended_with(*code));
    }
}

/// Searches everything; and shows that the search finds each of the secrets where it is.
fn search(secrets: &Secrets, said: &Said) {
    let mut leaks = Vec::new();
    for (place, text) in &said.0 {
        for (what, at) in secrets.find(text) {
            let line = text[..at].split(|byte| *byte == b'\n').count();
            leaks.push(format!("{what} is in {place}, line {line}"));
        }
    }
    leaks.dedup();
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
    assert!(secrets.count > 100, "{}", secrets.count);
    for (what, bytes) in secrets.all() {
        let planted = [b"INFO \"", &bytes.to_ascii_uppercase()[..], b"\"\n"].concat();
        assert!(secrets.find(&planted).iter().any(|(found, _)| found == what), "{what}");
    }
    // What was heard is what was said.
    let heard = |place: &str, words: &str| {
        let (_, text) = said.0.iter().find(|(name, _)| name.ends_with(place)).unwrap();
        assert!(String::from_utf8_lossy(text).contains(words), "'{words}' in {place}");
    };
    heard("master.log", "a worker was refused");
    heard("the outputs of the master", "a worker is connected");
    heard("one/worker.log", "the link to the master is up");
    heard("the outputs of two", "the clients are sent to other workers");
    heard("sessions list", "alice");
}
