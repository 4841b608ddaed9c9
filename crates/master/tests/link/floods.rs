//! Floods of a hostile worker, of each kind: others are served all the same, and so is the operator.

use std::time::Duration;

use papertrader_core::bar::Resolution;
use papertrader_core::time::MarketTime;
use papertrader_master::admin::message::WorkerState;
use papertrader_master::admin::{AdminReply, AdminRequest};
use papertrader_protocol::data::{Bars, History};
use papertrader_protocol::instruction::MessageType;
use papertrader_protocol::link::SessionPresence;
use papertrader_protocol::request::Span;
use papertrader_protocol::returns::Return;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Instruction, Reason, Request, SessionId};

use crate::events;
use crate::harness::*;
use crate::hostile::{conduct, encoded, listed, send_from, shown, started};

/// Floods a link until it is cut.
async fn flood(mut worker: FakeWorker, bytes: Vec<u8>) {
    while worker.try_send_bytes(&bytes).await {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_flood_of_frames_stops_nobody_and_the_operator_cuts_it() {
    let (master, dir, mut honest, hostile) = started(Setup::default()).await;
    let alice = honest.new_session("alice").await;
    // A frame that is counted and not answered, many times over.
    let said = SessionPresence { session: alice, present: false }.to_bytes();
    let link = Some(hostile.link_header());
    let number = Instruction::SessionPresence as u16;
    let bytes = encoded(number, MessageType::Control, link, 0, &said).repeat(1_000);
    let flooding = tokio::spawn(flood(hostile, bytes));
    for n in 0..50 {
        let queued = honest.ask(alice, &buy("AAPL", "1", &format!("n{n}"))).await;
        assert!(matches!(queued, Return::OrderQueued(_)), "{queued:?}");
    }
    while conduct(&dir).await.foreign_sessions < 100_000 {}
    let boot =
        AdminRequest::BootWorker { name: "worker-1".into(), for_ms: None, compromised: false };
    let booted = operator(&dir, boot).await.unwrap();
    assert!(matches!(&booted, AdminReply::WorkerBooted(booted) if booted.link_cut), "{booted:?}");
    assert_eq!(listed(&master).await.workers.len(), 1);
    flooding.await.unwrap();
    let seen = shown(&dir).await;
    assert_eq!(seen.state, WorkerState::Booted);
    assert!(events::written(&["a worker does what it should not", "worker-1", "sessionPresence"]));
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_flood_of_commands_leaves_places_for_others_and_for_the_operator() {
    let mut setup = Setup::default();
    setup.config.command_queue = 64;
    // The bound of the account would come before that of the queue.
    setup.config.limits.orders_account.every = Duration::ZERO;
    let (master, dir, mut honest, mut hostile) = started(setup).await;
    let alice = honest.new_session("alice").await;
    let mallory = hostile.new_session("mallory").await;
    let mut numbers = Vec::new();
    let mut mine = Vec::new();
    for n in 0..3_000 {
        let cancel = Request::CancelOrder(format!("none-{n}").parse().unwrap());
        numbers.push(hostile.send(mallory, &cancel).await);
        if n % 100 == 0 {
            mine.push(honest.send(alice, &buy("AAPL", "1", &format!("n{n}"))).await);
            let enable = AdminRequest::EnableUser { name: "alice".into() };
            let reply = operator(&dir, enable).await.unwrap();
            assert!(matches!(reply, AdminReply::UserEnabled(_)), "{reply:?}");
        }
    }
    for number in mine {
        let queued = honest.answer(number).await;
        assert!(matches!(queued, Return::OrderQueued(_)), "{queued:?}");
    }
    let mut busy = 0;
    for number in numbers {
        match hostile.answer(number).await {
            Return::Cancelled(_) => {}
            Return::Failed(_, failure) if failure.reason == Reason::Busy => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(busy > 0, "the queue was never full");
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_flood_of_log_ins_leaves_places_for_others() {
    let mut setup = Setup::default();
    (setup.config.password_queue, setup.config.password_threads) = (8, 1);
    let (master, _, mut honest, mut hostile) = started(setup).await;
    honest.ask(SessionId::NONE, &register("alice")).await;
    hostile.ask(SessionId::NONE, &register("mallory")).await;
    // Right passwords are not limited, as long as they seem to come from many places at once, and
    // cost as much as wrong ones.
    let mut numbers = Vec::new();
    for round in 0..5 {
        for n in 0..40 {
            let client = format!("198.51.{round}.{n}");
            numbers.push(send_from(&mut hostile, &client, &login("mallory", false)).await);
        }
        honest.login("alice", false).await;
    }
    let mut busy = 0;
    for number in numbers {
        match hostile.answer(number).await {
            Return::Session(_) => {}
            Return::Failed(_, failure) if failure.reason == Reason::Busy => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(busy > 0, "the queue was never full");
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_flood_of_questions_leaves_places_for_others() {
    let (master, _, mut honest, mut hostile) = started(Setup::default()).await;
    let alice = honest.new_session("alice").await;
    let question = Request::Predicted("AAPL".parse().unwrap(), 60);
    let mut numbers = Vec::new();
    for _ in 0..3_000 {
        numbers.push(hostile.send(SessionId::NONE, &question).await);
    }
    let history = Request::History("alice".parse().unwrap());
    let own: History = honest.ask_data(alice, &history).await;
    assert!(own.private.is_some());
    let mut busy = 0;
    for number in numbers {
        let received = hostile.receive_where(|r| r.header.request == number).await;
        if let Some(Return::Failed(_, failure)) = received.said {
            assert_eq!(failure.reason, Reason::Busy);
            busy += 1;
        }
    }
    assert!(busy > 0, "the queue was never full");
    master.end().await.1.unwrap();
}

/// A short question with a long answer.
fn all_bars() -> Request {
    let (from, to) = (MarketTime(i64::MIN), MarketTime(i64::MAX));
    Request::Bars("AAPL".parse().unwrap(), Span::Bars(Resolution::Interval, from, to))
}

/// Long questions that one asks without reading their answers.
const UNREAD: usize = 32;

/// Asks, and reads nothing; `other` waits until all is answered.
async fn ask_without_reading(worker: &mut FakeWorker, other: &mut FakeWorker) {
    for _ in 0..UNREAD {
        worker.send(SessionId::NONE, &all_bars()).await;
    }
    let pong = worker.ask(SessionId::NONE, &Request::Ping("x".into())).await;
    assert_eq!(pong, Return::Pong("x".into()));
    // One thread reads, for each worker in turn.
    for _ in 0..=UNREAD {
        let month = Request::Bars("AAPL".parse().unwrap(), Span::AllTime);
        other.ask_data::<Bars>(SessionId::NONE, &month).await;
    }
}

/// Bytes of answers that still come, once the master holds the link for over.
async fn still_answered(master: &TestMaster, worker: &mut FakeWorker) -> usize {
    while listed(master).await.workers.len() > 1 {}
    let mut bytes = 0;
    while let Some(received) = worker.try_receive().await {
        bytes += received.data.len();
    }
    bytes
}

#[tokio::test]
async fn what_nobody_reads_is_not_kept_when_the_link_is_over() {
    let mut setup = Setup::default();
    setup.config.read_threads = 1;
    let (master, _, mut honest, mut hostile) = started(setup).await;
    let number = honest.send(SessionId::NONE, &all_bars()).await;
    let half = honest.data(number).await.len() * UNREAD / 2;
    assert!(half > 10 << 20, "{half}: it may be all on the way");
    // It closes its half, so that it may come again and do the same.
    ask_without_reading(&mut hostile, &mut honest).await;
    hostile.close_half().await;
    assert!(still_answered(&master, &mut hostile).await < half);
    // It says goodbye, and keeps its half open.
    let mut hostile = FakeWorker::connect(master.address, WORKERS[1]).await;
    ask_without_reading(&mut hostile, &mut honest).await;
    hostile.send(SessionId::NONE, &Request::Goodbye).await;
    assert!(still_answered(&master, &mut hostile).await < half);
    master.end().await.1.unwrap();
}
