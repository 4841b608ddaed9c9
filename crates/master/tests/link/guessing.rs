//! Guessers: however many try, few passwords are checked, and owners get in.

use papertrader_master::{Backoff, Rate};
use papertrader_protocol::request::HashedPass;
use papertrader_protocol::returns::Return;
use papertrader_protocol::{Failure, Reason, Request, SessionId};

use crate::harness::*;

/// Requests that are under way at the same time.
const AT_ONCE: usize = 500;

fn wrong(name: &str) -> Request {
    let pass = HashedPass::parse(&"9".repeat(64)).unwrap();
    Request::Login { name: name.parse().unwrap(), pass, expirable: false }
}

async fn send_from(worker: &mut FakeWorker, client: &str, request: &Request) -> u64 {
    let mut link = worker.link_header();
    link.client = format!("{client}:5000").parse().unwrap();
    worker.send_with(SessionId::NONE, request, link).await
}

async fn ask_from(worker: &mut FakeWorker, client: &str, request: &Request) -> Return {
    let number = send_from(worker, client, request).await;
    worker.answer(number).await
}

async fn refusal_from(worker: &mut FakeWorker, client: &str, request: &Request) -> Failure {
    match ask_from(worker, client, request).await {
        Return::Failed(_, failure) => failure,
        other => panic!("not refused: {other:?}"),
    }
}

/// How many of many wrong passwords were checked; the others are refused by a limit.
async fn guess(worker: &mut FakeWorker, name: &str, client: &str, times: usize) -> usize {
    let mut checked = 0;
    for begun in (0..times).step_by(AT_ONCE) {
        let mut numbers = Vec::new();
        for _ in begun..times.min(begun + AT_ONCE) {
            numbers.push(send_from(worker, client, &wrong(name)).await);
        }
        for number in numbers {
            match worker.refusal(number).await {
                Reason::BadCredentials => checked += 1,
                reason => assert_eq!(reason, Reason::TooManyAttempts),
            }
        }
    }
    checked
}

#[tokio::test]
async fn of_ten_thousand_guesses_five_are_checked_and_the_owner_gets_in() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    worker.ask(SessionId::NONE, &register("alice")).await;
    // Time stands still, so that no delay is over before the last guess.
    master.pass_time(3_600);
    assert_eq!(guess(&mut worker, "alice", "198.51.100.1", 10_000).await, 5);
    let owner = ask_from(&mut worker, "192.0.2.1", &login("alice", false)).await;
    assert!(matches!(owner, Return::Session(_)), "{owner:?}");
    // Even the right password does not help the guesser before the time that is told.
    let refused = refusal_from(&mut worker, "198.51.100.1", &login("alice", false)).await;
    assert_eq!(refused.text, "too many attempts: try again in 1 second");
    master.pass_time(1);
    let late = ask_from(&mut worker, "198.51.100.1", &login("alice", false)).await;
    assert!(matches!(late, Return::Session(_)), "{late:?}");
    // A right password is a new beginning.
    assert_eq!(guess(&mut worker, "alice", "198.51.100.1", 10).await, 5);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn an_unknown_name_is_refused_like_a_known_one() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    worker.ask(SessionId::NONE, &register("alice")).await;
    master.pass_time(3_600);
    for name in ["alice", "nobody"] {
        let mut said = Vec::new();
        for _ in 0..7 {
            let failure = refusal_from(&mut worker, "198.51.100.1", &wrong(name)).await;
            said.push((failure.reason, failure.text));
            if said.len() == 6 {
                master.pass_time(1);
            }
        }
        let reasons: Vec<Reason> = said.iter().map(|(reason, _)| *reason).collect();
        let mut expected = vec![Reason::BadCredentials; 7];
        expected[5] = Reason::TooManyAttempts;
        assert_eq!(reasons, expected, "{name}");
        assert_eq!(said[5].1, "too many attempts: try again in 1 second", "{name}");
        let next = refusal_from(&mut worker, "198.51.100.1", &wrong(name)).await;
        assert_eq!(next.text, "too many attempts: try again in 2 seconds", "{name}");
    }
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn guessers_everywhere_do_not_lock_the_owner_out_even_after_a_restart() {
    let setup = || {
        let mut setup = Setup::default();
        setup.config.limits.login_name = Backoff { free: 3, ..setup.config.limits.login_name };
        setup
    };
    let master = TestMaster::start(setup()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    worker.ask(SessionId::NONE, &register("alice")).await;
    let home = ask_from(&mut worker, "192.0.2.1", &login("alice", false)).await;
    assert!(matches!(home, Return::Session(_)), "{home:?}");
    let (dir, result) = master.end().await;
    result.unwrap();

    let master = TestMaster::start_in(dir, setup()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let mut other = FakeWorker::connect(master.address, WORKERS[1]).await;
    master.pass_time(3_600);
    for n in 0..5 {
        let client = format!("198.51.100.{n}");
        let refused = refusal_from(&mut worker, &client, &wrong("alice")).await.reason;
        let expected = if n < 3 { Reason::BadCredentials } else { Reason::TooManyAttempts };
        assert_eq!(refused, expected, "from {client}");
    }
    // The same address through another worker, which may have made it up, is no way in.
    let refused = refusal_from(&mut other, "192.0.2.1", &login("alice", false)).await;
    assert_eq!(refused.reason, Reason::TooManyAttempts);
    let home = ask_from(&mut worker, "192.0.2.1", &login("alice", false)).await;
    assert!(matches!(home, Return::Session(_)), "{home:?}");
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_worker_that_makes_addresses_up_is_bounded_and_others_are_not() {
    let mut setup = Setup::default();
    setup.config.limits.login_worker = Rate { burst: 20, ..setup.config.limits.login_worker };
    let master = TestMaster::start(setup).await;
    let mut bad = FakeWorker::connect(master.address, WORKERS[0]).await;
    let mut good = FakeWorker::connect(master.address, WORKERS[1]).await;
    good.ask(SessionId::NONE, &register("alice")).await;
    master.pass_time(3_600);
    let mut checked = 0;
    for n in 0..200_u32 {
        let client = std::net::Ipv4Addr::from(n.wrapping_mul(0x9E37_79B9)).to_string();
        let request = wrong(&format!("user{n}"));
        checked += usize::from(
            refusal_from(&mut bad, &client, &request).await.reason == Reason::BadCredentials,
        );
    }
    assert_eq!(checked, 20);
    good.login("alice", false).await;
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_change_of_the_password_is_no_way_to_guess() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let session = worker.new_session("alice").await;
    master.pass_time(3_600);
    let change = |old: char| Request::ChangePassword {
        old: HashedPass::parse(&old.to_string().repeat(64)).unwrap(),
        new: HashedPass::parse(&"0".repeat(64)).unwrap(),
    };
    for digit in '1'..='5' {
        let number = worker.send(session, &change(digit)).await;
        assert_eq!(worker.refusal(number).await, Reason::BadCredentials);
    }
    let number = worker.send(session, &change('6')).await;
    assert_eq!(worker.refusal(number).await, Reason::TooManyAttempts);
    let number = worker.send(SessionId::NONE, &login("alice", false)).await;
    assert_eq!(worker.refusal(number).await, Reason::TooManyAttempts);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn accounts_are_not_made_by_the_thousand() {
    let mut setup = Setup::default();
    let limits = &mut setup.config.limits;
    limits.register_address = Rate { burst: 3, ..limits.register_address };
    limits.register_worker = Rate { burst: 5, ..limits.register_worker };
    let master = TestMaster::start(setup).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let mut other = FakeWorker::connect(master.address, WORKERS[1]).await;
    master.pass_time(3_600);
    for n in 0..3 {
        let made = ask_from(&mut worker, "192.0.2.1", &register(&format!("a{n}"))).await;
        assert!(matches!(made, Return::Registered(_)), "{made:?}");
        // A name that is taken costs nothing, and is not counted.
        if n < 2 {
            let taken = refusal_from(&mut worker, "192.0.2.1", &register(&format!("A{n}"))).await;
            assert_eq!(taken.reason, Reason::NameTaken);
        }
    }
    let refused = refusal_from(&mut worker, "192.0.2.1", &register("b")).await;
    assert_eq!(refused.reason, Reason::TooManyAttempts);
    assert_eq!(refused.text, "too many attempts: try again in 20 seconds");
    for n in 0..2 {
        let client = format!("192.0.2.{}", 10 + n);
        let made = ask_from(&mut worker, &client, &register(&format!("c{n}"))).await;
        assert!(matches!(made, Return::Registered(_)), "{made:?}");
    }
    let refused = refusal_from(&mut worker, "192.0.2.20", &register("d")).await;
    assert_eq!(refused.reason, Reason::TooManyAttempts);
    let made = ask_from(&mut other, "192.0.2.20", &register("d")).await;
    assert!(matches!(made, Return::Registered(_)), "{made:?}");
    master.pass_time(20);
    let made = ask_from(&mut worker, "192.0.2.1", &register("b")).await;
    assert!(matches!(made, Return::Registered(_)), "{made:?}");
    master.end().await.1.unwrap();
}
