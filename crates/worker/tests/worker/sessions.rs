//! Log-in, log-out, what a session allows, and what the master hears of it.

use std::collections::BTreeMap;
use std::time::Duration;

use papertrader_core::time::WallTime;
use papertrader_protocol::Reason;
use papertrader_protocol::data::WorkerList;
use papertrader_protocol::instruction::{Instruction, State};
use papertrader_protocol::link::SessionPresence;
use papertrader_protocol::returns::{Return, SessionGrant};
use papertrader_protocol::wire::Wire;

use crate::client::Client;
use crate::master::{Link, worker_list};
use crate::{NEVER, Scene, session, soon};

async fn presence(link: &mut Link) -> SessionPresence {
    let message = link.aside(Instruction::SessionPresence).await;
    SessionPresence::from_bytes(&message.data).unwrap()
}

/// The master's answer to this comes back only after everything that it sent before was taken.
async fn settle(client: &mut Client, link: &mut Link) {
    let hash = "ab".repeat(32);
    let request = client.send(Instruction::Register, &["bob", "b@c", &hash]).await;
    let asked = link.expect(Instruction::Register).await;
    link.returned(asked.header.request, &Return::Registered("bob".into())).await;
    client.expect(request, Instruction::RegisterSuccess).await;
}

#[tokio::test]
async fn a_login_passes_through_and_the_list_of_workers_follows() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.client().await;
    let hash = "ab".repeat(32);
    let request = client.send(Instruction::Login, &["alice", &hash, "true"]).await;
    let login = link.expect(Instruction::Login).await;
    assert_eq!(login.text(), format!("alice {hash} true"));
    let client_address = client.address;
    assert_eq!(login.header.link.unwrap().client, client_address);
    link.failed(login.header.request, Instruction::LoginFail, Reason::BadCredentials).await;
    client.expect_refusal(request, Instruction::LoginFail, Reason::BadCredentials).await;

    let request = client.send(Instruction::Login, &["alice", &hash, "true"]).await;
    link.grant(session(1), NEVER).await;
    let granted = client.expect(request, Instruction::SessionId).await;
    assert!(granted.text().starts_with(&session(1).to_hex()));
    let list = client.data(request, Instruction::WorkerList).await;
    assert_eq!(WorkerList::from_bytes(&list), Ok(worker_list()));

    let request = client.send(Instruction::Register, &["bob", "b@c", &hash]).await;
    let register = link.expect(Instruction::Register).await;
    link.failed(register.header.request, Instruction::RegisterFail, Reason::NameTaken).await;
    client.expect_refusal(request, Instruction::RegisterFail, Reason::NameTaken).await;
    scene.end().await;
}

#[tokio::test]
async fn what_needs_a_session_is_refused_without_a_good_one() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.client().await;
    client.refused(Instruction::SwitchState, &["data"], Reason::SessionRequired).await;
    client.refused(Instruction::LoginSession, &[], Reason::SessionRequired).await;
    client.session = session(9);
    client.refused(Instruction::SwitchState, &["data"], Reason::SessionUnknown).await;
    client.refused(Instruction::Logout, &[], Reason::SessionUnknown).await;

    // A session that has already expired when it is used.
    client.session = session(2);
    let request = client.send(Instruction::LoginSession, &[]).await;
    let login = link.grant(session(2), WallTime(1)).await;
    assert_eq!(
        (login.instruction(), login.header.session),
        (Instruction::LoginSession, session(2))
    );
    client.expect(request, Instruction::SessionId).await;
    client.data(request, Instruction::WorkerList).await;
    client.refused(Instruction::SwitchState, &["data"], Reason::SessionExpired).await;
    client.refused(Instruction::SwitchState, &["data"], Reason::SessionUnknown).await;

    // The master ends one, and one is logged out.
    let mut alice = scene.logged_in(&mut link, 3).await;
    alice.switch(State::DataTransfer).await;
    link.end_session(session(3)).await;
    settle(&mut client, &mut link).await;
    alice.refused(Instruction::GetAssetInfo, &["AAPL"], Reason::SessionUnknown).await;
    let mut bob = scene.logged_in(&mut link, 4).await;
    let request = bob.send(Instruction::Logout, &[]).await;
    let logout = link.expect(Instruction::Logout).await;
    assert_eq!(logout.header.session, session(4));
    link.returned(logout.header.request, &Return::LoggedOut).await;
    bob.expect(request, Instruction::LogoutSuccess).await;
    bob.refused(Instruction::SwitchState, &["data"], Reason::SessionUnknown).await;
    scene.end().await;
}

#[tokio::test]
async fn the_master_hears_of_the_first_and_the_last_connection() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let first = scene.logged_in(&mut link, 1).await;
    // Another connection uses the session without a login of its own.
    let mut second = scene.client().await;
    second.session = session(1);
    second.switch(State::DataTransfer).await;
    drop(first);
    drop(second);
    let gone = SessionPresence { session: session(1), present: false };
    assert_eq!(presence(&mut link).await, gone);
    let mut third = scene.client().await;
    third.session = session(1);
    third.switch(State::DataTransfer).await;
    let back = SessionPresence { session: session(1), present: true };
    assert_eq!(presence(&mut link).await, back);
    drop(third);
    assert_eq!(presence(&mut link).await, gone);
    assert!(!link.asides.iter().any(|m| m.instruction() == Instruction::SessionPresence));
    scene.end().await;
}

#[tokio::test]
async fn sessions_in_use_are_resumed_on_a_new_link() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut kept = scene.logged_in(&mut link, 1).await;
    let mut lost = scene.logged_in(&mut link, 2).await;
    let unused = scene.logged_in(&mut link, 3).await;
    drop(unused);
    assert!(!presence(&mut link).await.present);
    drop(link);

    let mut link = scene.master.link().await;
    let mut resumed = Vec::new();
    for _ in 0..2 {
        let login = link.expect(Instruction::LoginSession).await;
        let number = login.header.request;
        resumed.push(login.header.session);
        if login.header.session == session(1) {
            assert_eq!(login.header.link.unwrap().client, kept.address);
            let grant = SessionGrant { session: session(1), expires: NEVER, name: "alice".into() };
            link.returned(number, &Return::Session(grant)).await;
        } else {
            link.failed(number, Instruction::LoginFail, Reason::SessionExpired).await;
        }
    }
    assert!(resumed.contains(&session(1)) && resumed.contains(&session(2)), "{resumed:?}");
    let mut other = scene.client().await;
    settle(&mut other, &mut link).await;
    kept.switch(State::DataTransfer).await;
    lost.refused(Instruction::SwitchState, &["data"], Reason::SessionUnknown).await;
    other.session = session(3);
    other.refused(Instruction::SwitchState, &["data"], Reason::SessionUnknown).await;
    scene.end().await;
}

#[tokio::test]
async fn another_deployment_ends_all_sessions() {
    let (scene, mut link) = Scene::ready(|c| c.ping_interval = Duration::from_millis(10)).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    drop(link);
    let (mut link, _) = scene.master.accept().await;
    link.welcome("deployment-2", 0).await;
    link.push_all(1).await;
    // It is said only after the welcome was taken. No session is resumed before or after it.
    link.aside(Instruction::WorkerStatus).await;
    client.refused(Instruction::SwitchState, &["data"], Reason::SessionUnknown).await;
    settle(&mut client, &mut link).await;
    scene.end().await;
}

#[tokio::test]
async fn a_session_that_the_master_does_not_know_is_forgotten() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    let request = client.send(Instruction::CancelOrder, &["x"]).await;
    let asked = link.expect(Instruction::CancelOrder).await;
    let number = asked.header.request;
    link.failed(number, Instruction::CancelFail, Reason::SessionUnknown).await;
    client.expect_refusal(request, Instruction::CancelFail, Reason::SessionUnknown).await;
    // Refused by the worker itself: the master would not answer.
    client.refused(Instruction::CancelOrder, &["x"], Reason::SessionUnknown).await;
    scene.end().await;
}

#[tokio::test]
async fn a_refused_worker_tries_again() {
    let scene = Scene::unlinked(|_| {}).await;
    let (mut link, _) = scene.master.accept().await;
    link.failed(0, Instruction::LinkRefused, Reason::NotAuthorized).await;
    let link = scene.master.link().await;
    assert!(soon(scene.worker.ready()).await);
    drop(link);
    scene.end().await;
}

#[tokio::test]
async fn the_clients_of_a_refused_worker_are_sent_away() {
    let (scene, mut link) = Scene::ready(|config| {
        config.order_wait = Duration::from_secs(600);
        config.ping_interval = Duration::from_millis(20);
    })
    .await;
    let mut trading = scene.logged_in(&mut link, 1).await;
    let mut looking = scene.client().await;
    let order = trading.send(Instruction::PurchaseAsset, &["AAPL", "1", "x"]).await;
    link.expect(Instruction::PurchaseAsset).await;
    // A link that is only lost sends nobody away.
    drop(link);
    let (mut link, _) = scene.master.accept().await;
    looking.refused(Instruction::LoginSession, &[], Reason::SessionRequired).await;

    link.failed(0, Instruction::LinkRefused, Reason::NotAuthorized).await;
    trading.expect_refusal(order, Instruction::PurchaseFail, Reason::OutcomeUnknown).await;
    for mut client in [trading, looking, scene.client().await] {
        client.expect_refusal(0, Instruction::Goodbye, Reason::Unavailable).await;
        assert!(client.read().await.is_none());
    }

    // When the master thinks better of it, clients are welcome; the order is not sent again.
    let mut link = scene.master.link().await;
    link.status(|_| true).await;
    scene.logged_in(&mut link, 2).await;
    scene.end().await;
}

#[tokio::test]
async fn a_master_that_is_silent_or_breaks_the_protocol_loses_the_link() {
    let (scene, link) = Scene::ready(|c| {
        c.ping_interval = Duration::from_millis(20);
        c.link_timeout = Duration::from_millis(200);
    })
    .await;
    // This link stays open, but nobody answers on it.
    let (mut next, _) = scene.master.accept().await;
    drop(link);
    next.welcome("deployment-1", 0).await;
    next.push_all(5).await;
    // Snapshots ascend; this one does not.
    next.push_change(5, vec![]).await;
    assert!(next.closed().await.is_none());
    let (mut last, _) = scene.master.accept().await;
    // Nothing but a welcome or a refusal may come first.
    last.push_all(1).await;
    assert!(last.closed().await.is_none());
    scene.end().await;
}

#[tokio::test]
async fn a_request_that_the_master_never_answers_ends() {
    let (scene, mut link) = Scene::ready(|c| {
        c.ping_interval = Duration::from_millis(10);
        c.request_timeout = Duration::from_millis(50);
    })
    .await;
    let mut client = scene.client().await;
    let hash = "ab".repeat(32);
    let request = client.send(Instruction::Login, &["alice", &hash, "true"]).await;
    let login = link.expect(Instruction::Login).await;
    client.expect_refusal(request, Instruction::LoginFail, Reason::Unavailable).await;
    // The session comes too late: the master hears that nobody uses it.
    let grant = SessionGrant { session: session(1), expires: NEVER, name: "alice".into() };
    link.returned(login.header.request, &Return::Session(grant)).await;
    let gone = SessionPresence { session: session(1), present: false };
    assert_eq!(presence(&mut link).await, gone);
    scene.end().await;
}

#[tokio::test]
async fn of_what_was_sent_and_changes_something_nothing_is_known_when_the_link_is_lost() {
    use Instruction as I;
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut alice = scene.logged_in(&mut link, 1).await;
    let mut reader = scene.client().await;
    reader.session = session(1);
    reader.switch(State::DataTransfer).await;
    let (old, new) = ("ab".repeat(32), "cd".repeat(32));
    let cases: [(I, &[&str], Reason); 7] = [
        (I::Register, &["bob", "b@c", &old], Reason::OutcomeUnknown),
        (I::ChangePassword, &[&old, &new], Reason::OutcomeUnknown),
        (I::CancelOrder, &["x"], Reason::OutcomeUnknown),
        (I::Logout, &[], Reason::OutcomeUnknown),
        (I::LogoutEverywhere, &[], Reason::OutcomeUnknown),
        (I::Login, &["alice", &old, "true"], Reason::Unavailable),
        (I::LoginSession, &[], Reason::Unavailable),
    ];
    let mut expected = BTreeMap::new();
    for (instruction, arguments, reason) in cases {
        let request = alice.send(instruction, arguments).await;
        link.expect(instruction).await;
        expected.insert(request, (instruction.failure(), reason));
    }
    let read = reader.send(I::GetUserPortfolio, &["alice"]).await;
    link.expect(I::GetUserPortfolio).await;
    drop(link);
    // They are dropped in no order.
    let mut answers = BTreeMap::new();
    for _ in &expected {
        let message = alice.next().await;
        let code = message.text().split(' ').next().unwrap();
        let reason = Reason::from_code(code).unwrap();
        answers.insert(message.header.request, (message.instruction(), reason));
    }
    assert_eq!(answers, expected);
    reader.expect_refusal(read, I::DataFail, Reason::Unavailable).await;
    scene.end().await;
}

#[tokio::test]
async fn a_new_password_and_a_log_out_everywhere_pass_through() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut alice = scene.logged_in(&mut link, 1).await;
    let (old, new) = ("ab".repeat(32), "cd".repeat(32));
    let request = alice.send(Instruction::ChangePassword, &[&old, &new]).await;
    let change = link.expect(Instruction::ChangePassword).await;
    assert_eq!(change.text(), format!("{old} {new}"));
    assert_eq!(change.header.session, session(1));
    assert_eq!(change.header.link.unwrap().client, alice.address);
    let failure = Reason::BadCredentials;
    link.failed(change.header.request, Instruction::PasswordFail, failure).await;
    alice.expect_refusal(request, Instruction::PasswordFail, failure).await;
    let request = alice.send(Instruction::ChangePassword, &[&old, &new]).await;
    let change = link.expect(Instruction::ChangePassword).await;
    link.returned(change.header.request, &Return::PasswordChanged).await;
    alice.expect(request, Instruction::PasswordChanged).await;

    // The session goes on, until it ends with all others.
    let request = alice.send(Instruction::LogoutEverywhere, &[]).await;
    let logout = link.expect(Instruction::LogoutEverywhere).await;
    assert_eq!(logout.header.session, session(1));
    link.returned(logout.header.request, &Return::LoggedOut).await;
    alice.expect(request, Instruction::LogoutSuccess).await;
    alice.refused(Instruction::SwitchState, &["data"], Reason::SessionUnknown).await;
    scene.end().await;
}
