//! Who gets in, who may ask what, and when sessions end.

use std::time::Duration;

use papertrader_core::time::WallTime;
use papertrader_node::link::ConnectError;
use papertrader_protocol::data::{History, Orders, Portfolio, UserInfo};
use papertrader_protocol::link::{LinkHello, SessionEnded, SessionPresence};
use papertrader_protocol::returns::Return;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Instruction, Reason, Request, SessionId};

use crate::harness::*;

#[tokio::test]
async fn only_registered_workers_are_let_in() {
    let master = TestMaster::start(Setup::default()).await;
    let stranger = side(papertrader_core::ids::WorkerId([9; 16]), &KEYS.workers[0]);
    let refused = FakeWorker::try_connect(master.address, &stranger).await;
    assert!(matches!(refused, Err(ConnectError::Refused(_))));
    // The right key under the UUID of another worker, and the other way round.
    let other = side(WORKERS[1], &KEYS.workers[0]);
    let refused = FakeWorker::try_connect(master.address, &other).await;
    assert!(refused.is_err());
    // Proved, but then under another name.
    let mut worker = FakeWorker::connect_raw(master.address, WORKERS[0]).await;
    let hello = LinkHello {
        worker: WORKERS[1],
        version: String::new(),
        address: String::new(),
        web: String::new(),
        fingerprint: String::new(),
        region: String::new(),
        clock: WallTime(0),
    };
    worker.send_control(Instruction::LinkHello, &hello.to_bytes()).await;
    match worker.receive().await.said {
        Some(Return::Failed(Instruction::LinkRefused, failure)) => {
            assert_eq!(failure.reason, Reason::NotAuthorized);
        }
        other => panic!("{other:?}"),
    }
    assert!(worker.try_receive().await.is_none());
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_client_gets_the_list_of_workers_from_the_master_and_nothing_else() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    assert_eq!(worker.worker_list().await.workers.len(), 1);
    let mut client = FakeWorker::connect_as_client(master.address).await;
    let number = client.send_as_client(&Request::GetWorkerList).await;
    let list = client.receive().await;
    assert_eq!(list.header.request, number);
    let list = papertrader_protocol::data::WorkerList::from_bytes(&list.data).unwrap();
    assert_eq!(list.workers[0].name, "worker-0");
    assert_eq!(list.workers[0].address, "127.0.0.1:4001");
    let number = client.send_as_client(&login("alice", false)).await;
    assert_eq!(client.refusal(number).await, Reason::NotAuthorized);
    drop(client);
    let mut noise = FakeWorker::connect_as_client(master.address).await;
    noise.send_bytes(&[0xff; 200]).await;
    match noise.receive().await.said {
        Some(Return::Failed(_, failure)) => assert_eq!(failure.reason, Reason::BadVersion),
        other => panic!("{other:?}"),
    }
    assert!(noise.try_receive().await.is_none());
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn names_and_passwords_are_checked() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    worker.new_session("alice").await;
    let number = worker.send(SessionId::NONE, &register("ALICE")).await;
    assert_eq!(worker.refusal(number).await, Reason::NameTaken);
    let wrong = Request::Login {
        name: "alice".parse().unwrap(),
        pass: pass("other.password"),
        expirable: true,
    };
    let number = worker.send(SessionId::NONE, &wrong).await;
    assert_eq!(worker.refusal(number).await, Reason::BadCredentials);
    let number = worker.send(SessionId::NONE, &login("nobody", true)).await;
    assert_eq!(worker.refusal(number).await, Reason::BadCredentials);
    // Two registrations of one name at the same time: one wins.
    let a = worker.send(SessionId::NONE, &register("bob")).await;
    let b = worker.send(SessionId::NONE, &register("Bob")).await;
    let answers = [worker.answer(a).await, worker.answer(b).await];
    let won = answers.iter().filter(|answer| matches!(answer, Return::Registered(_))).count();
    assert_eq!(won, 1, "{answers:?}");
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn others_see_only_the_public_part() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let alice = worker.new_session("alice").await;
    let bob = worker.new_session("bob").await;
    let name = || "Alice".parse().unwrap();
    let own: UserInfo = worker.ask_data(alice, &Request::UserInfo(name())).await;
    assert_eq!(own.private.unwrap().email, "alice@example.org");
    let info: UserInfo = worker.ask_data(bob, &Request::UserInfo(name())).await;
    assert!(info.private.is_none() && info.name == "alice");
    let portfolio: Portfolio = worker.ask_data(bob, &Request::Portfolio(name())).await;
    assert!(portfolio.private.is_none());
    let history: History = worker.ask_data(bob, &Request::History(name())).await;
    assert!(history.private.is_none());
    let orders: Orders = worker.ask_data(bob, &Request::Orders(name())).await;
    assert!(orders.orders.is_empty());
    let number = worker.send(bob, &Request::UserInfo("nobody".parse().unwrap())).await;
    assert_eq!(worker.refusal(number).await, Reason::UnknownUser);
    let number = worker.send(SessionId::NONE, &Request::UserInfo(name())).await;
    assert_eq!(worker.refusal(number).await, Reason::SessionRequired);
    let guessed = SessionId::from_bytes([5; 16]);
    let number = worker.send(guessed, &Request::UserInfo(name())).await;
    assert_eq!(worker.refusal(number).await, Reason::SessionUnknown);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_log_out_reaches_every_worker_that_has_the_session() {
    let master = TestMaster::start(Setup::default()).await;
    let mut one = FakeWorker::connect(master.address, WORKERS[0]).await;
    let mut two = FakeWorker::connect(master.address, WORKERS[1]).await;
    let session = one.new_session("alice").await;
    two.ask(session, &Request::LoginSession).await;
    assert_eq!(one.ask(session, &Request::Logout).await, Return::LoggedOut);
    let wanted = |r: &Received| r.header.instruction == Instruction::SessionEnded as u16;
    let told = two.receive_where(wanted).await;
    assert_eq!(SessionEnded::from_bytes(&told.data).unwrap().session, session);
    let number = two.send(session, &Request::LoginSession).await;
    assert_eq!(two.refusal(number).await, Reason::SessionUnknown);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn an_expirable_session_ends_after_its_last_connection_and_a_remembered_one_stays() {
    let mut setup = Setup::default();
    setup.config.session_grace = Duration::from_millis(1);
    let master = TestMaster::start(setup).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let kept = worker.new_session("alice").await;
    let expirable = worker.login("alice", true).await;
    for session in [kept, expirable] {
        let left = SessionPresence { session, present: false };
        worker.send_control(Instruction::SessionPresence, &left.to_bytes()).await;
    }
    let wanted = |r: &Received| r.header.instruction == Instruction::SessionEnded as u16;
    let told = worker.receive_where(wanted).await;
    assert_eq!(SessionEnded::from_bytes(&told.data).unwrap().session, expirable);
    assert!(matches!(worker.ask(kept, &Request::LoginSession).await, Return::Session(_)));
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_session_expires() {
    let mut setup = Setup::default();
    setup.config.session_lifetime = Duration::ZERO;
    let master = TestMaster::start(setup).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let session = worker.new_session("alice").await;
    let number = worker.send(session, &buy("AAPL", "1", "a")).await;
    let reason = worker.refusal(number).await;
    // The master may have swept it out already.
    assert!([Reason::SessionExpired, Reason::SessionUnknown].contains(&reason), "{reason:?}");
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_frame_with_another_workers_uuid_is_refused() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let session = worker.new_session("alice").await;
    let mut forged = worker.link_header();
    forged.worker = WORKERS[1];
    let number = worker.send_with(session, &buy("AAPL", "1", "a"), forged).await;
    assert_eq!(worker.refusal(number).await, Reason::NotAuthorized);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_log_out_everywhere_ends_all_sessions_of_the_account_and_no_others() {
    let master = TestMaster::start(Setup::default()).await;
    let mut one = FakeWorker::connect(master.address, WORKERS[0]).await;
    let mut two = FakeWorker::connect(master.address, WORKERS[1]).await;
    let asking = one.new_session("alice").await;
    let bob = one.new_session("bob").await;
    let elsewhere = two.login("alice", true).await;
    two.ask(asking, &Request::LoginSession).await;
    assert_eq!(one.ask(asking, &Request::LogoutEverywhere).await, Return::LoggedOut);
    assert_eq!(one.session_ended().await, asking);
    let mut told = [two.session_ended().await, two.session_ended().await].map(|id| id.to_hex());
    told.sort();
    let mut expected = [asking, elsewhere].map(|id| id.to_hex());
    expected.sort();
    assert_eq!(told, expected);
    for session in [asking, elsewhere] {
        let number = one.send(session, &Request::LoginSession).await;
        assert_eq!(one.refusal(number).await, Reason::SessionUnknown);
    }
    assert!(matches!(one.ask(bob, &Request::LoginSession).await, Return::Session(_)));
    let number = one.send(asking, &Request::LogoutEverywhere).await;
    assert_eq!(one.refusal(number).await, Reason::SessionUnknown);
    one.login("alice", false).await;
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn when_an_account_has_too_many_sessions_the_one_unused_for_longest_ends() {
    let mut setup = Setup::default();
    setup.config.sessions_per_account = 2;
    let master = TestMaster::start(setup).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let first = worker.new_session("alice").await;
    let second = worker.login("alice", false).await;
    worker.leave(second).await;
    let third = worker.login("alice", false).await;
    assert_eq!(worker.session_ended().await, second);
    let fourth = worker.login("alice", false).await;
    // Both are in use: the older one ends.
    assert_eq!(worker.session_ended().await, first);
    for session in [third, fourth] {
        assert!(matches!(worker.ask(session, &Request::LoginSession).await, Return::Session(_)));
    }
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_session_that_nobody_uses_ends_and_a_restart_does_not_forget_its_use() {
    const DAY: i64 = 86_400;
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let used = worker.new_session("alice").await;
    let unused = worker.login("alice", false).await;
    worker.leave(unused).await;
    let expirable = worker.login("alice", true).await;
    // Six days with a connection.
    master.pass_time(6 * DAY);
    worker.leave(used).await;
    worker.leave(expirable).await;
    worker.ask(used, &Request::Ping("x".into())).await;
    master.pass_time(31);
    // Uses are stored at the latest with the end of the expirable one.
    assert_eq!(worker.session_ended().await, expirable);
    // A day later nobody has used the other one for seven days.
    master.pass_time(DAY);
    assert_eq!(worker.session_ended().await, unused);
    let (dir, result) = master.end().await;
    result.unwrap();

    let master = TestMaster::start_in(dir, Setup::default()).await;
    let mut worker = FakeWorker::connect_in_time_of(&master, WORKERS[0]).await;
    master.pass_time(5 * DAY);
    assert!(matches!(worker.ask(used, &Request::LoginSession).await, Return::Session(_)));
    worker.leave(used).await;
    worker.ask(used, &Request::Ping("x".into())).await;
    master.pass_time(7 * DAY);
    let number = worker.send(used, &Request::LoginSession).await;
    let reason = worker.refusal(number).await;
    // The master may have swept it out already.
    assert!([Reason::SessionExpired, Reason::SessionUnknown].contains(&reason), "{reason:?}");
    master.end().await.1.unwrap();
}
