//! What the operator does to accounts and sessions: disabling, revoking, and the boot of a worker in
//! wrong hands.

use std::path::PathBuf;

use papertrader_master::admin::message::{
    NewWorker, SessionsRevoked, UserDisabled, UserEnabled, WorkerBooted, WorkerDetail,
};
use papertrader_master::admin::{AdminReply, AdminRequest, ClientError};
use papertrader_protocol::data::UserInfo;
use papertrader_protocol::request::HashedPass;
use papertrader_protocol::returns::Return;
use papertrader_protocol::{Reason, Request, SessionId};
use papertrader_store::Store;
use papertrader_store::sqlite::SqliteStore;

use crate::harness::*;

async fn started() -> (TestMaster, PathBuf) {
    TestMaster::start_with_operator(Setup::default()).await
}

async fn is_cut(worker: &mut FakeWorker) -> bool {
    while let Some(received) = worker.try_receive().await {
        worker.aside.push(received);
    }
    true
}

#[tokio::test]
async fn a_disabled_account_has_no_orders_and_no_sessions_until_it_is_enabled() {
    let (master, dir) = started().await;
    let mut one = FakeWorker::connect(master.address, WORKERS[0]).await;
    let mut two = FakeWorker::connect(master.address, WORKERS[1]).await;
    let alice = one.new_session("alice").await;
    let bob = one.new_session("bob").await;
    let elsewhere = two.login("alice", false).await;
    let mut held = Vec::new();
    for (session, id) in [(alice, "a"), (alice, "b"), (bob, "c")] {
        held.push(one.send(session, &buy("AAPL", "1", id)).await);
        let queued = one.answer(held[held.len() - 1]).await;
        assert!(matches!(queued, Return::OrderQueued(_)), "{queued:?}");
    }
    let disable = || AdminRequest::DisableUser { name: "Alice".into() };
    let expected = |was_disabled, orders_cancelled, sessions_ended| UserDisabled {
        user: "alice".into(),
        was_disabled,
        orders_cancelled,
        sessions_ended,
    };
    let reply = operator(&dir, disable()).await.unwrap();
    assert_eq!(reply, AdminReply::UserDisabled(expected(false, 2, 2)));
    for number in &held[..2] {
        assert_eq!(one.refusal(*number).await, Reason::OrderCancelled);
    }
    assert_eq!(one.session_ended().await, alice);
    assert_eq!(two.session_ended().await, elsewhere);
    let number = two.send(SessionId::NONE, &login("alice", false)).await;
    assert_eq!(two.refusal(number).await, Reason::AccountDisabled);
    let reply = operator(&dir, disable()).await.unwrap();
    assert_eq!(reply, AdminReply::UserDisabled(expected(true, 0, 0)));
    // Bob's order is still there, and fills.
    master.tick().await;
    let filled = one.answer(held[2]).await;
    assert!(matches!(filled, Return::Filled(..)), "{filled:?}");
    let reply = operator(&dir, AdminRequest::EnableUser { name: "alice".into() }).await.unwrap();
    let enabled = UserEnabled { user: "alice".into(), was_disabled: true };
    assert_eq!(reply, AdminReply::UserEnabled(enabled));
    let alice = two.login("alice", false).await;
    let number = two.send(alice, &buy("AAPL", "1", "d")).await;
    assert!(matches!(two.answer(number).await, Return::OrderQueued(_)));
    let (dir, result) = master.end().await;
    result.unwrap();
    let mut store = SqliteStore::open(&dir.path().join("test.db"), "other").unwrap();
    assert_eq!(store.verify().unwrap(), []);
    assert_eq!(store.load().unwrap().sessions.len(), 2);
}

#[tokio::test]
async fn a_session_is_revoked_by_its_handle_and_its_workers_hear_of_it() {
    let (master, dir) = started().await;
    let mut one = FakeWorker::connect(master.address, WORKERS[0]).await;
    let mut two = FakeWorker::connect(master.address, WORKERS[1]).await;
    let alice = one.new_session("alice").await;
    let other = one.login("alice", true).await;
    two.ask(alice, &Request::LoginSession).await;
    let list = AdminRequest::ListSessions { user: Some("alice".into()) };
    let AdminReply::Sessions(lines) = operator(&dir, list).await.unwrap() else { panic!() };
    assert_eq!(lines.sessions.len(), 2);
    let kept = lines.sessions.iter().find(|line| !line.expirable).unwrap();
    let revoke = || AdminRequest::RevokeSession { handle: kept.handle.clone() };
    let reply = operator(&dir, revoke()).await.unwrap();
    let revoked = SessionsRevoked { user: "alice".into(), sessions_ended: 1 };
    assert_eq!(reply, AdminReply::SessionsRevoked(revoked));
    assert_eq!(one.session_ended().await, alice);
    assert_eq!(two.session_ended().await, alice);
    let refused = operator(&dir, revoke()).await;
    assert!(matches!(refused, Err(ClientError::Refused(_))), "{refused:?}");
    assert!(matches!(one.ask(other, &Request::LoginSession).await, Return::Session(_)));
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn who_passed_through_a_worker_in_wrong_hands_is_put_out_and_needs_a_new_password() {
    let (master, dir) = started().await;
    let mut bad = FakeWorker::connect(master.address, WORKERS[0]).await;
    let mut good = FakeWorker::connect(master.address, WORKERS[1]).await;
    // Alice once registered there; a session of Bob's was shown to it; Carol was never there.
    bad.ask(SessionId::NONE, &register("alice")).await;
    let alice = good.login("alice", false).await;
    let bob = good.new_session("bob").await;
    bad.ask(bob, &Request::LoginSession).await;
    let carol = good.new_session("carol").await;
    let wrong = Request::Login {
        name: "carol".parse().unwrap(),
        pass: HashedPass::parse(&"9".repeat(64)).unwrap(),
        expirable: false,
    };
    let number = bad.send(SessionId::NONE, &wrong).await;
    assert_eq!(bad.refusal(number).await, Reason::BadCredentials);
    let show = AdminRequest::ShowWorker { name: "worker-0".into() };
    let AdminReply::Worker(detail) = operator(&dir, show).await.unwrap() else { panic!() };
    let WorkerDetail { conduct, .. } = *detail;
    assert_eq!(conduct.wrong_passwords, 1);
    let AdminReply::Status(status) = operator(&dir, AdminRequest::Status {}).await.unwrap() else {
        panic!()
    };
    assert_eq!((status.attempts.right, status.attempts.wrong), (3, 1));

    // No time makes a stolen key good again.
    let for_ms = Some(3_600_000);
    let boot = AdminRequest::BootWorker { name: "worker-0".into(), for_ms, compromised: true };
    let reply = operator(&dir, boot).await.unwrap();
    let AdminReply::WorkerBooted(WorkerBooted {
        sessions_ended,
        passwords_due,
        link_cut,
        until,
        ..
    }) = reply
    else {
        panic!("{reply:?}")
    };
    assert_eq!((sessions_ended, passwords_due, link_cut, until), (2, 2, true, None));
    let key = |identity: &papertrader_node::openpgp::Identity| -> String {
        identity.certificate().to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    for (name, uuid, code) in [
        ("worker-0", Some(WORKERS[0].to_string()), "compromisedKey"),
        ("worker-0-again", Some(WORKERS[0].to_string()), "compromisedKey"),
        ("worker-9", None, "keyTaken"),
    ] {
        let again = NewWorker {
            name: name.into(),
            uuid,
            key: key(&KEYS.workers[0]),
            addresses: vec!["127.0.0.1".into()],
        };
        match operator(&dir, AdminRequest::AddWorker(again)).await {
            Err(ClientError::Refused(refusal)) => assert_eq!(refusal.code, code),
            other => panic!("{other:?}"),
        }
    }
    assert!(is_cut(&mut bad).await);
    let mut ended = [good.session_ended().await, good.session_ended().await];
    ended.sort_by_key(SessionId::to_hex);
    let mut expected = [alice, bob];
    expected.sort_by_key(SessionId::to_hex);
    assert_eq!(ended, expected);

    // The same after a restart: it was one batch with the boot.
    let (dir, result) = master.end().await;
    result.unwrap();
    let loaded = SqliteStore::open(&dir.path().join("test.db"), "other").unwrap().load().unwrap();
    let due: Vec<bool> = loaded.profiles.iter().map(|profile| profile.password_due).collect();
    assert_eq!(due, [true, true, false]);
    assert_eq!(loaded.sessions.len(), 1);
    assert!(loaded.workers[0].booted.is_some_and(|boot| boot.compromised));
    let master = TestMaster::start_in(dir, Setup::default()).await;
    let mut good = FakeWorker::connect(master.address, WORKERS[1]).await;
    let alice = good.login("alice", false).await;
    let info = |name: &str| Request::UserInfo(name.parse().unwrap());
    let number = good.send(alice, &info("alice")).await;
    assert_eq!(good.refusal(number).await, Reason::PasswordChangeRequired);
    let new = HashedPass::parse(&"1".repeat(64)).unwrap();
    let change = Request::ChangePassword { old: pass("alice"), new };
    assert_eq!(good.ask(alice, &change).await, Return::PasswordChanged);
    good.ask_data::<UserInfo>(alice, &info("alice")).await;
    assert!(matches!(good.ask(carol, &Request::LoginSession).await, Return::Session(_)));
    good.ask_data::<UserInfo>(carol, &info("carol")).await;
    let (dir, result) = master.end().await;
    result.unwrap();
    // Nobody would have to change it again.
    let loaded = SqliteStore::open(&dir.path().join("test.db"), "other").unwrap().load().unwrap();
    let through = |worker| {
        loaded.exposures.iter().filter(move |(_, id)| *id == worker).map(|(account, _)| account.0)
    };
    assert_eq!(through(WORKERS[0]).collect::<Vec<_>>(), [2]);
    assert_eq!(through(WORKERS[1]).collect::<Vec<_>>(), [1, 2, 3]);
}
