//! New passwords, passwords that are due, accounts that are disabled or have none, and what is kept
//! of who has seen whose.

use papertrader_core::ids::{AccountId, WorkerId};
use papertrader_core::money::Cash;
use papertrader_core::names::UserName;
use papertrader_core::time::Moment;
use papertrader_protocol::request::{HashedPass, Span};
use papertrader_protocol::returns::Return;
use papertrader_protocol::{Reason, Request, SessionId};
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{Batch, Change, Loaded, NewAccount, Profile, Store};
use tempfile::TempDir;

use crate::harness::*;

const ALICE: AccountId = AccountId(1);

fn hashed(digit: char) -> HashedPass {
    HashedPass::parse(&digit.to_string().repeat(64)).unwrap()
}

fn login_with(pass: HashedPass) -> Request {
    Request::Login { name: "alice".parse().unwrap(), pass, expirable: false }
}

/// Alice's password becomes that of another digit.
fn change(old: HashedPass, new: char) -> Request {
    Request::ChangePassword { old, new: hashed(new) }
}

fn store(dir: &TempDir) -> SqliteStore {
    SqliteStore::open(&dir.path().join("test.db"), "other").unwrap()
}

fn load(dir: &TempDir) -> Loaded {
    store(dir).load().unwrap()
}

/// Changes what is stored, while no master runs.
fn alter(dir: &TempDir, changes: Vec<Change>) {
    let mut store = store(dir);
    let loaded = store.load().unwrap();
    let mut number = loaded.last_batch;
    number.0 += 1;
    store.commit(&Batch { number, wall: loaded.last_wall.plus_nanos(1), changes }).unwrap();
}

#[tokio::test]
async fn a_new_password_ends_all_other_sessions() {
    let master = TestMaster::start(Setup::default()).await;
    let mut one = FakeWorker::connect(master.address, WORKERS[0]).await;
    let mut two = FakeWorker::connect(master.address, WORKERS[1]).await;
    let kept = one.new_session("alice").await;
    let bob = one.new_session("bob").await;
    let beside = one.login("alice", true).await;
    let elsewhere = two.login("alice", false).await;
    let answer = one.ask(kept, &change(pass("alice"), '1')).await;
    assert_eq!(answer, Return::PasswordChanged);
    assert_eq!(one.session_ended().await, beside);
    assert_eq!(two.session_ended().await, elsewhere);
    let number = two.send(elsewhere, &buy("AAPL", "1", "a")).await;
    assert_eq!(two.refusal(number).await, Reason::SessionUnknown);
    // The session that asked goes on, and so do other people's.
    for session in [kept, bob] {
        assert!(matches!(one.ask(session, &Request::LoginSession).await, Return::Session(_)));
    }
    let number = one.send(SessionId::NONE, &login_with(pass("alice"))).await;
    assert_eq!(one.refusal(number).await, Reason::BadCredentials);
    let new = one.ask(SessionId::NONE, &login_with(hashed('1'))).await;
    assert!(matches!(new, Return::Session(_)), "{new:?}");
    // After a restart too.
    let (dir, result) = master.end().await;
    result.unwrap();
    let master = TestMaster::start_in(dir, Setup::default()).await;
    let mut one = FakeWorker::connect(master.address, WORKERS[0]).await;
    let new = one.ask(SessionId::NONE, &login_with(hashed('1'))).await;
    assert!(matches!(new, Return::Session(_)), "{new:?}");
    let number = one.send(beside, &Request::LoginSession).await;
    assert_eq!(one.refusal(number).await, Reason::SessionUnknown);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_password_is_not_changed_without_the_old_one_nor_into_the_same() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let session = worker.new_session("alice").await;
    let other = worker.login("alice", false).await;
    let refused = [
        (session, change(hashed('9'), '1'), Reason::BadCredentials),
        (session, change(hashed('1'), '1'), Reason::SamePassword),
        (SessionId::NONE, change(pass("alice"), '1'), Reason::SessionRequired),
        (SessionId::from_bytes([7; 16]), change(pass("alice"), '1'), Reason::SessionUnknown),
    ];
    for (session, request, reason) in refused {
        let number = worker.send(session, &request).await;
        match worker.answer(number).await {
            Return::Failed(instruction, failure) => {
                assert_eq!(instruction, papertrader_protocol::Instruction::PasswordFail);
                assert_eq!(failure.reason, reason);
            }
            other => panic!("{other:?}"),
        }
    }
    // Nothing has changed, and nobody was put out.
    assert!(matches!(worker.ask(other, &Request::LoginSession).await, Return::Session(_)));
    worker.login("alice", false).await;
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn of_changes_that_are_checked_at_the_same_time_the_first_counts() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let session = worker.new_session("alice").await;
    let first = worker.send(session, &change(pass("alice"), '1')).await;
    let second = worker.send(session, &change(pass("alice"), '2')).await;
    let late = worker.send(SessionId::NONE, &login_with(pass("alice"))).await;
    let answers = [worker.answer(first).await, worker.answer(second).await];
    let changed = answers.iter().filter(|answer| **answer == Return::PasswordChanged).count();
    assert_eq!(changed, 1, "{answers:?}");
    let refused = answers.iter().any(
        |answer| matches!(answer, Return::Failed(_, why) if why.reason == Reason::BadCredentials),
    );
    assert!(refused, "{answers:?}");
    // A log-in with the old password leaves no session, whenever it was judged.
    match worker.answer(late).await {
        Return::Session(grant) => {
            let number = worker.send(grant.session, &Request::LoginSession).await;
            assert_eq!(worker.refusal(number).await, Reason::SessionUnknown);
        }
        Return::Failed(_, failure) => assert_eq!(failure.reason, Reason::BadCredentials),
        other => panic!("{other:?}"),
    }
    let (dir, _) = master.end().await;
    assert_eq!(load(&dir).sessions.len(), 1);
}

#[tokio::test]
async fn who_must_change_the_password_can_do_nothing_else() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let old = worker.new_session("alice").await;
    let bob = worker.new_session("bob").await;
    let (dir, result) = master.end().await;
    result.unwrap();
    alter(&dir, vec![Change::RequirePassword(ALICE)]);

    let master = TestMaster::start_in(dir, Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    for session in [old, bob] {
        assert!(matches!(worker.ask(session, &Request::LoginSession).await, Return::Session(_)));
    }
    let session = worker.login("alice", false).await;
    let name = || "alice".parse::<UserName>().unwrap();
    let id = || "a".parse().unwrap();
    let refused = [
        buy("AAPL", "1", "a"),
        sell("AAPL", "1", "b"),
        Request::CancelOrder(id()),
        Request::UserInfo(name()),
        Request::Portfolio(name()),
        Request::History(name()),
        Request::Orders(name()),
        Request::Order(id()),
    ];
    for request in &refused {
        let number = worker.send(session, request).await;
        assert_eq!(worker.refusal(number).await, Reason::PasswordChangeRequired, "{request:?}");
    }
    // Others see her as ever, the market is open to all, and she may leave.
    let info: papertrader_protocol::data::UserInfo =
        worker.ask_data(bob, &Request::UserInfo(name())).await;
    assert_eq!(info.name, "alice");
    let bars = Request::Bars("AAPL".parse().unwrap(), Span::AllTime);
    worker.ask_data::<papertrader_protocol::data::Bars>(session, &bars).await;
    assert_eq!(worker.ask(old, &Request::Logout).await, Return::LoggedOut);

    let answer = worker.ask(session, &change(pass("alice"), '1')).await;
    assert_eq!(answer, Return::PasswordChanged);
    worker.ask_data::<papertrader_protocol::data::UserInfo>(session, &refused[3]).await;
    let (dir, result) = master.end().await;
    result.unwrap();
    assert!(!load(&dir).profiles[0].password_due);
}

#[tokio::test]
async fn that_an_account_is_disabled_is_told_only_to_who_knows_its_password() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    worker.new_session("alice").await;
    let (dir, result) = master.end().await;
    result.unwrap();
    alter(&dir, vec![Change::DisableAccount(ALICE)]);
    let master = TestMaster::start_in(dir, Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let number = worker.send(SessionId::NONE, &login_with(hashed('9'))).await;
    assert_eq!(worker.refusal(number).await, Reason::BadCredentials);
    let number = worker.send(SessionId::NONE, &login("alice", false)).await;
    assert_eq!(worker.refusal(number).await, Reason::AccountDisabled);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn an_account_without_a_password_is_like_a_name_that_nobody_has() {
    let master = TestMaster::start(Setup::default()).await;
    let (dir, result) = master.end().await;
    result.unwrap();
    let wall = load(&dir).last_wall;
    let profile = Profile {
        name: "alice".parse().unwrap(),
        email: "a@b".parse().unwrap(),
        pass_hash: None,
        password_due: false,
        since: wall,
    };
    let moment = Moment { wall, ..Moment::default() };
    let account = NewAccount { id: ALICE, profile, grant: Cash::ZERO, moment };
    alter(&dir, vec![Change::OpenAccount(account)]);
    let master = TestMaster::start_in(dir, Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    // The same answer, and after the same number of attempts the same refusal. Time stands still.
    master.pass_time(3_600);
    for name in ["alice", "nobody"] {
        for n in 0..6 {
            let number = worker.send(SessionId::NONE, &login(name, false)).await;
            let expected = if n < 5 { Reason::BadCredentials } else { Reason::TooManyAttempts };
            assert_eq!(worker.refusal(number).await, expected, "{name}, attempt {n}");
        }
    }
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn it_is_kept_which_workers_have_seen_whose_password_or_session() {
    let exposures = |pairs: &[(u32, usize)]| -> Vec<(AccountId, WorkerId)> {
        pairs.iter().map(|(account, worker)| (AccountId(*account), WORKERS[*worker])).collect()
    };
    let master = TestMaster::start(Setup::default()).await;
    let mut one = FakeWorker::connect(master.address, WORKERS[0]).await;
    let mut two = FakeWorker::connect(master.address, WORKERS[1]).await;
    // A registration, a log-in and a resumption; nothing that fails.
    one.ask(SessionId::NONE, &register("alice")).await;
    let bob = one.new_session("bob").await;
    let alice = two.login("alice", false).await;
    two.ask(bob, &Request::LoginSession).await;
    let number = two.send(SessionId::NONE, &login_with(hashed('9'))).await;
    two.refusal(number).await;
    let (dir, result) = master.end().await;
    result.unwrap();
    assert_eq!(load(&dir).exposures, exposures(&[(1, 0), (1, 1), (2, 0), (2, 1)]));

    // A session from before may have passed through each of them.
    let master = TestMaster::start_in(dir, Setup::default()).await;
    let mut one = FakeWorker::connect(master.address, WORKERS[0]).await;
    one.ask(alice, &Request::LoginSession).await;
    let new = one.login("alice", false).await;
    assert_eq!(one.ask(alice, &change(pass("alice"), '1')).await, Return::PasswordChanged);
    assert_eq!(one.session_ended().await, new);
    let (dir, result) = master.end().await;
    result.unwrap();
    assert_eq!(load(&dir).exposures, exposures(&[(1, 0), (1, 1), (2, 0), (2, 1)]));
    // One that is known not to have left this worker keeps the others out.
    let master = TestMaster::start_in(dir, Setup::default()).await;
    let mut one = FakeWorker::connect(master.address, WORKERS[0]).await;
    let fresh = one.ask(SessionId::NONE, &login_with(hashed('1'))).await;
    let Return::Session(grant) = fresh else { panic!("{fresh:?}") };
    let answer = one.ask(grant.session, &change(hashed('1'), '2')).await;
    assert_eq!(answer, Return::PasswordChanged);
    let (dir, result) = master.end().await;
    result.unwrap();
    assert_eq!(load(&dir).exposures, exposures(&[(1, 0), (2, 0), (2, 1)]));
}
