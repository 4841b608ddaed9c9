//! What nobody may find after `up`: passwords, their hashes and session IDs, in any log or output.
//! `secrets.rs` does the same with servers of their own, their keys and the operator's commands.

use std::path::{Path, PathBuf};

use papertrader_client::Password;

use crate::cli::{PASSWORD, Up, User};

/// All files below a directory.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// What is kept of a user's log-in.
pub(crate) fn session(user: &User) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(user.config.join("session.json")).unwrap()).unwrap()
}

#[test]
fn no_secret_is_in_a_log_or_on_an_output() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let environment = [
        ("PAPERTRADER_MASTER_LOG__LEVEL", "trace"),
        ("PAPERTRADER_WORKER_LOG__LEVEL", "trace"),
        ("PAPERTRADER_MASTER_LOG__STDERR", "true"),
        ("PAPERTRADER_WORKER_LOG__STDERR", "true"),
        ("RUST_LOG", "trace"),
    ];
    let mut up = Up::start(&data, &["--workers", "2"], &environment);
    let users = dir.path().join("users");
    let alice = User::new(&users, "alice", &up.workers[0].address);
    let mut said = String::new();
    let mut secrets = vec![("the password", PASSWORD.to_owned())];
    let mut do_all = |user: &User, commands: &[&[&str]], code: i32| {
        for command in commands {
            let done = user.run(command).ended_with(code);
            said += &done.out;
            said += &done.err;
        }
    };
    let register: &[&str] = &["register", "alice", "--email", "a@example.org", "--password-stdin"];
    let login: &[&str] = &["login", "alice", "--password-stdin"];
    do_all(&alice, &[register, login], 0);
    let first = session(&alice);
    // Refused ones too: what is wrong is written about more than what is right.
    do_all(&alice, &[register, &["login", "nobody", "--password-stdin"], &["sell", "IBM", "1"]], 1);
    let tour: &[&[&str]] = &[
        &["buy", "AAPL", "10"],
        &["sell", "AAPL", "4", "--json"],
        &["portfolio"],
        &["history"],
        &["user"],
        &["quote", "AAPL"],
        &["watch", "AAPL", "--count", "2"],
    ];
    do_all(&alice, tour, 0);
    // Through the other worker, with the session that only the master knows there.
    let other = User { server: up.workers[1].address.clone(), ..alice.clone() };
    do_all(&other, &[&["orders"], &["buy", "AAPL", "1"]], 0);
    // A second log-in, and one that ends.
    do_all(&alice, &[login], 0);
    let second = session(&alice);
    do_all(&alice, &[&["logout"]], 0);
    do_all(&alice, &[&["portfolio"]], 4);

    for kept in [&first, &second] {
        secrets.push(("a session ID", kept["session"].as_str().unwrap().to_owned()));
    }
    assert_ne!(secrets[1].1, secrets[2].1);
    let deployment = first["deployment"].as_str().unwrap();
    let hashed = Password::new(PASSWORD).hashed(deployment, &"alice".parse().unwrap());
    secrets.push(("the client's hash", hashed.reveal().to_owned()));
    secrets.push(("an Argon2 hash", "$argon2".to_owned()));
    for (_, secret) in &mut secrets {
        *secret = secret.to_lowercase();
    }

    assert_eq!(up.running.end_by("TERM").code(), Some(0));
    let mut places = vec![
        ("standard output of up".to_owned(), up.running.text("out")),
        ("standard error of up".to_owned(), up.running.text("err")),
        ("output of the commands".to_owned(), said),
    ];
    let mut logs = 0;
    for file in files(&data) {
        let name = file.display().to_string();
        // The database is where the Argon2 hash belongs.
        if name.contains("papertrader.db") {
            continue;
        }
        logs += usize::from(name.contains(".log"));
        places.push((name, String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned()));
    }
    assert!(logs >= 3, "a log of the master and of each worker: {places:?}");
    for (place, text) in &places {
        let text = text.to_lowercase();
        for (what, secret) in &secrets {
            if let Some(at) = text.find(secret.as_str()) {
                let line = text[..at].lines().count();
                panic!("{what} is in {place}, line {line}");
            }
        }
    }
    // The search can find something: the levels were in force, and the database has the hash.
    let log_of = |name: &str| &places.iter().find(|(place, _)| place.ends_with(name)).unwrap().1;
    assert!(log_of("master.log").contains("a worker is connected"));
    assert!(up.running.text("err").contains("the master is ready"));
    let database = std::fs::read(data.join("master/papertrader.db")).unwrap();
    let hash = b"$argon2";
    assert!(database.windows(hash.len()).any(|bytes| bytes == hash));
    // Nor is the database a place for a session ID or the client's hash.
    let database = String::from_utf8_lossy(&database).to_lowercase();
    for (what, secret) in secrets.iter().filter(|(what, _)| *what != "an Argon2 hash") {
        assert!(!database.contains(secret.as_str()), "{what} is in the database");
    }
}
