//! A worker with a registered key that means harm: what it tries is refused or bounded, disturbs
//! nobody else, and stands where the operator looks.
//!
//! The first of the registered workers is honest here, the second is hostile.

use std::path::{Path, PathBuf};

use papertrader_core::ids::{AccountId, WorkerId};
use papertrader_core::order::OrderState;
use papertrader_core::time::{SECOND, WallTime};
use papertrader_master::Limits;
use papertrader_master::admin::message::{
    Status, UserDetail, WorkerConduct, WorkerDetail, WorkerState,
};
use papertrader_master::admin::{AdminReply, AdminRequest};
use papertrader_protocol::data::{FULL, History, Orders, Portfolio, UserInfo, WorkerList};
use papertrader_protocol::frame::LinkHeader;
use papertrader_protocol::instruction::MessageType;
use papertrader_protocol::link::{LinkHello, SessionEnded, SessionPresence, WorkerStatus};
use papertrader_protocol::push::{SnapshotPush, SnapshotStep};
use papertrader_protocol::request::HashedPass;
use papertrader_protocol::request::Symbols;
use papertrader_protocol::returns::Return;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Header, Instruction, Reason, Request, SessionId};
use papertrader_store::Store;
use papertrader_store::sqlite::SqliteStore;

use crate::events;
use crate::harness::*;

const HONEST: WorkerId = WORKERS[0];
const HOSTILE: WorkerId = WORKERS[1];

/// A master, where its operator reaches it, and both workers.
pub(crate) async fn started(setup: Setup) -> (TestMaster, PathBuf, FakeWorker, FakeWorker) {
    events::keep();
    let (master, dir) = TestMaster::start_with_operator(setup).await;
    let honest = FakeWorker::connect(master.address, HONEST).await;
    let hostile = FakeWorker::connect(master.address, HOSTILE).await;
    (master, dir, honest, hostile)
}

/// What the operator sees of the hostile worker.
pub(crate) async fn shown(dir: &Path) -> WorkerDetail {
    let show = AdminRequest::ShowWorker { name: "worker-1".into() };
    match operator(dir, show).await.unwrap() {
        AdminReply::Worker(detail) => *detail,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn conduct(dir: &Path) -> WorkerConduct {
    shown(dir).await.conduct
}

/// Foreign frames, malformed ones, foreign sessions.
fn counts(conduct: &WorkerConduct) -> (u64, u64, u64) {
    (conduct.foreign_frames, conduct.malformed, conduct.foreign_sessions)
}

async fn status(dir: &Path) -> Status {
    match operator(dir, AdminRequest::Status {}).await.unwrap() {
        AdminReply::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

async fn user(dir: &Path, name: &str) -> UserDetail {
    match operator(dir, AdminRequest::ShowUser { name: name.into() }).await.unwrap() {
        AdminReply::User(detail) => *detail,
        other => panic!("{other:?}"),
    }
}

/// The list that a client gets which asks the master itself.
pub(crate) async fn listed(master: &TestMaster) -> WorkerList {
    let mut client = FakeWorker::connect_as_client(master.address).await;
    client.send_as_client(&Request::GetWorkerList).await;
    WorkerList::from_bytes(&client.receive().await.data).unwrap()
}

/// Everything that was said before on this link has been dealt with.
async fn settled(worker: &mut FakeWorker) {
    let pong = worker.ask(SessionId::NONE, &Request::Ping("x".into())).await;
    assert_eq!(pong, Return::Pong("x".into()));
}

pub(crate) fn encoded(
    instruction: u16,
    message_type: MessageType,
    link: Option<LinkHeader>,
    request: u64,
    data: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = Header { link, ..Header::new(message_type, instruction, request) };
    header.encode(data, &mut bytes);
    bytes
}

fn wrong(name: &str) -> Request {
    let pass = HashedPass::parse(&"9".repeat(64)).unwrap();
    Request::Login { name: name.parse().unwrap(), pass, expirable: false }
}

pub(crate) async fn send_from(worker: &mut FakeWorker, client: &str, request: &Request) -> u64 {
    let mut link = worker.link_header();
    link.client = format!("{client}:5000").parse().unwrap();
    worker.send_with(SessionId::NONE, request, link).await
}

#[tokio::test]
async fn a_session_that_never_passed_through_it_is_of_no_use() {
    let (master, dir, mut honest, mut hostile) = started(Setup::default()).await;
    let alice = honest.new_session("alice").await;
    let name = || "alice".parse().unwrap();
    let id = || "a".parse().unwrap();
    let queued = honest.ask(alice, &buy("AAPL", "1", "a")).await;
    assert!(matches!(queued, Return::OrderQueued(_)), "{queued:?}");
    let new = HashedPass::parse(&"7".repeat(64)).unwrap();
    let tries = [
        buy("AAPL", "1", "b"),
        sell("AAPL", "1", "c"),
        Request::CancelOrder(id()),
        Request::UserInfo(name()),
        Request::Portfolio(name()),
        Request::History(name()),
        Request::Orders(name()),
        Request::Order(id()),
        Request::ChangePassword { old: pass("alice"), new },
        Request::Logout,
        Request::LogoutEverywhere,
    ];
    for request in &tries {
        let number = hostile.send(alice, request).await;
        assert_eq!(hostile.refusal(number).await, Reason::SessionUnknown, "{request:?}");
    }
    let seen = conduct(&dir).await;
    assert_eq!(counts(&seen), (0, 0, tries.len() as u64));
    let last = "logoutEverywhere for a session that it has not shown";
    assert_eq!(seen.last.as_deref(), Some(last));
    assert!(events::written(&["a worker does what it should not", "worker-1", "purchaseAsset"]));
    // Nothing has changed for its owner.
    let orders: Orders = honest.ask_data(alice, &Request::Orders(name())).await;
    let ids: Vec<String> =
        orders.orders.iter().map(|line| line.client_order_id.to_string()).collect();
    assert_eq!(ids, ["a"]);
    honest.login("alice", false).await;
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn it_neither_keeps_nor_ends_the_sessions_of_others_by_speaking_of_them() {
    let (master, dir, mut honest, mut hostile) = started(Setup::default()).await;
    honest.ask(SessionId::NONE, &register("alice")).await;
    let left = honest.login("alice", true).await;
    let used = honest.login("alice", true).await;
    let of_mine = hostile.new_session("mallory").await;
    honest.leave(left).await;
    settled(&mut honest).await;
    for (session, present) in [(left, true), (used, false)] {
        let said = SessionPresence { session, present };
        hostile.send_control(Instruction::SessionPresence, &said.to_bytes()).await;
    }
    // Neither of its own nor of nobody's is there anything to say.
    for session in [of_mine, SessionId::from_bytes([9; 16]), SessionId::NONE] {
        let said = SessionPresence { session, present: true };
        hostile.send_control(Instruction::SessionPresence, &said.to_bytes()).await;
    }
    settled(&mut hostile).await;
    let seen = conduct(&dir).await;
    assert_eq!(counts(&seen), (0, 0, 2));
    let last = "sessionPresence for a session that it has not shown";
    assert_eq!(seen.last.as_deref(), Some(last));
    master.pass_time(31);
    assert_eq!(honest.session_ended().await, left);
    master.pass_time(3_600);
    let name = "alice".parse().unwrap();
    honest.ask_data::<UserInfo>(used, &Request::UserInfo(name)).await;
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn with_an_honest_session_it_sees_the_public_part_of_others() {
    let (master, _, mut honest, mut hostile) = started(Setup::default()).await;
    let alice = honest.new_session("alice").await;
    for id in ["a", "b"] {
        let queued = honest.ask(alice, &buy("AAPL", "1", id)).await;
        assert!(matches!(queued, Return::OrderQueued(_)), "{queued:?}");
        master.tick().await;
        honest.snapshot().await;
    }
    let mallory = hostile.new_session("mallory").await;
    let name = || "Alice".parse().unwrap();
    let info: UserInfo = hostile.ask_data(mallory, &Request::UserInfo(name())).await;
    assert!(info.private.is_none());
    let portfolio: Portfolio = hostile.ask_data(mallory, &Request::Portfolio(name())).await;
    assert!(portfolio.private.is_none());
    let history: History = hostile.ask_data(mallory, &Request::History(name())).await;
    assert!(history.private.is_none());
    let orders: Orders = hostile.ask_data(mallory, &Request::Orders(name())).await;
    assert!(orders.orders.is_empty() && !orders.more);
    // Client order IDs are each account's own.
    let number = hostile.send(mallory, &Request::Order("a".parse().unwrap())).await;
    assert_eq!(hostile.refusal(number).await, Reason::OrderNotFound);
    // And it is told of nothing that happens to others.
    let told = hostile.aside.iter().filter(|received| received.said.is_some()).count();
    assert_eq!(told, 0, "{:?}", hostile.aside);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn forged_addresses_get_it_few_guesses_and_lock_nobody_out() {
    let (master, dir, mut honest, mut hostile) = started(Setup::default()).await;
    let home = "192.0.2.7";
    let number = send_from(&mut honest, home, &register("alice")).await;
    assert!(matches!(honest.answer(number).await, Return::Registered(_)));
    let number = send_from(&mut honest, home, &login("alice", false)).await;
    assert!(matches!(honest.answer(number).await, Return::Session(_)));
    // Time stands still, so that no delay is over before the last guess.
    master.pass_time(3_600);
    // From everywhere, and from where the owner lives.
    let mut numbers = Vec::new();
    for n in 0..600_u32 {
        let somewhere = std::net::Ipv4Addr::from(0xC633_6400 + n).to_string();
        let client = if n % 10 == 0 { home } else { &somewhere };
        numbers.push(send_from(&mut hostile, client, &wrong("alice")).await);
        // As many at once as there are places for passwords.
        if numbers.len() == 60 {
            for number in numbers.drain(..) {
                let reason = hostile.refusal(number).await;
                let expected = [Reason::BadCredentials, Reason::TooManyAttempts];
                assert!(expected.contains(&reason), "{reason:?}");
            }
        }
    }
    let Limits { login_name, .. } = Limits::default();
    let checked = conduct(&dir).await.wrong_passwords;
    assert_eq!(checked, u64::from(login_name.free));
    assert_eq!(status(&dir).await.attempts.refused, 600 - checked);
    // Whoever lives there but is not known yet gets in, too.
    honest.ask(SessionId::NONE, &register("bob")).await;
    for name in ["alice", "bob"] {
        let number = send_from(&mut honest, home, &login(name, false)).await;
        let owner = honest.answer(number).await;
        assert!(matches!(owner, Return::Session(_)), "{name}: {owner:?}");
    }
    // Many names instead of one: then the worker's own limit holds, and is told.
    let mut refused = 0;
    for n in 0..300_u32 {
        let client = std::net::Ipv4Addr::from(0x0A00_0000 + n).to_string();
        let number = send_from(&mut hostile, &client, &wrong(&format!("user{n}"))).await;
        refused += usize::from(hostile.refusal(number).await == Reason::TooManyAttempts);
    }
    assert_eq!(
        conduct(&dir).await.wrong_passwords,
        u64::from(Limits::default().login_worker.burst)
    );
    assert_eq!(refused, 200);
    assert!(events::written(&["too many passwords are wrong through this worker", "worker-1"]));
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn one_order_under_many_ids_is_bounded_by_the_account_and_names_the_worker() {
    let mut setup = Setup::default();
    setup.config.rules.max_open_orders = 20;
    let (master, dir, mut honest, mut hostile) = started(setup).await;
    let alice = honest.new_session("alice").await;
    let mallory = hostile.new_session("mallory").await;
    let rich = hostile.new_session("rich").await;
    // The session of a client that has come to the wrong worker.
    assert!(matches!(hostile.ask(alice, &Request::LoginSession).await, Return::Session(_)));
    let mut tries = Vec::new();
    for n in 0..100 {
        for (session, quantity) in [(mallory, "1"), (rich, "200"), (alice, "1")] {
            let order = buy("AAPL", quantity, &format!("order-{n}"));
            tries.push((session, hostile.send(session, &order).await));
        }
    }
    let mut accepted = std::collections::HashMap::new();
    for (session, number) in tries {
        match hostile.answer(number).await {
            Return::OrderQueued(_) => *accepted.entry(session.to_hex()).or_insert(0) += 1,
            Return::Failed(_, failure) => {
                let bound = if session == rich {
                    Reason::InsufficientCash
                } else {
                    Reason::TooManyOpenOrders
                };
                assert_eq!(failure.reason, bound);
            }
            other => panic!("{other:?}"),
        }
    }
    // 200 × about 89 × 1.05 each, of 100,000.
    let expected = [(mallory, 20), (rich, 5), (alice, 20)].map(|(s, n)| (s.to_hex(), n));
    assert_eq!(accepted, expected.into());
    for (name, open) in [("mallory", 20), ("rich", 5), ("alice", 20)] {
        assert_eq!(user(&dir, name).await.open_orders, open);
    }
    let number = honest.send(alice, &buy("AAPL", "1", "mine")).await;
    assert_eq!(honest.refusal(number).await, Reason::TooManyOpenOrders);
    let (dir, result) = master.end().await;
    result.unwrap();
    let mut store = SqliteStore::open(&dir.path().join("test.db"), "other").unwrap();
    assert_eq!(store.verify().unwrap(), []);
    let mut through = [0, 0];
    for account in 1..=3 {
        for record in store.reader().unwrap().orders(AccountId(account), 1_000).unwrap() {
            let id = &record.order.request.client_order_id;
            let honest = id.to_string() == "mine";
            assert_eq!(record.order.worker, if honest { HONEST } else { HOSTILE }, "{id}");
            through[usize::from(!honest)] += 1;
        }
    }
    assert_eq!(through, [1, 300]);
}

#[tokio::test]
async fn frames_in_the_name_of_others_or_of_nobody_are_refused() {
    let (master, dir, mut honest, mut hostile) = started(Setup::default()).await;
    let mallory = hostile.new_session("mallory").await;
    let alice = honest.new_session("alice").await;
    let own = hostile.link_header();
    let forged = [
        Some(LinkHeader { worker: HONEST, ..own }),
        Some(LinkHeader { worker: WorkerId([0; 16]), ..own }),
        Some(LinkHeader { worker: WorkerId([0xff; 16]), ..own }),
        None,
    ];
    let (instruction, arguments) = buy("AAPL", "1", "forged").encode();
    let data = papertrader_protocol::args::join(&arguments);
    let mut sent = 0;
    for (n, link) in forged.into_iter().enumerate() {
        for session in [mallory, alice] {
            let mut bytes = Vec::new();
            let mut header =
                Header::new(instruction.message_type(), instruction as u16, 1_000 + n as u64);
            (header.session, header.link) = (session, link);
            header.argument_count = arguments.len() as u16;
            header.encode(data.as_bytes(), &mut bytes);
            hostile.send_bytes(&bytes).await;
            assert_eq!(hostile.refusal(1_000 + n as u64).await, Reason::NotAuthorized);
            sent += 1;
        }
        // What the honest worker would say of itself and its sessions.
        let kind = MessageType::Control;
        let left = SessionPresence { session: alice, present: false }.to_bytes();
        for (control, data) in [
            (Instruction::SessionPresence, left),
            (Instruction::WorkerStatus, nonsense().to_bytes()),
            (Instruction::Goodbye, Vec::new()),
        ] {
            let bytes = encoded(control as u16, kind, link, 2_000, &data);
            hostile.send_bytes(&bytes).await;
            assert_eq!(hostile.refusal(2_000).await, Reason::NotAuthorized);
            sent += 1;
        }
    }
    let seen = conduct(&dir).await;
    assert_eq!(counts(&seen), (sent, 0, 0));
    assert_eq!(seen.last.as_deref(), Some("goodbye without its own UUID"));
    assert!(events::written(&["a worker does what it should not", "worker-1", "purchaseAsset"]));
    for name in ["mallory", "alice"] {
        assert_eq!(user(&dir, name).await.open_orders, 0);
    }
    let workers = listed(&master).await.workers;
    assert_eq!(workers.iter().map(|line| line.load).collect::<Vec<_>>(), [0, 0]);
    let queued = honest.ask(alice, &buy("AAPL", "1", "a")).await;
    assert!(matches!(queued, Return::OrderQueued(_)), "{queued:?}");
    master.end().await.1.unwrap();
}

fn nonsense() -> WorkerStatus {
    WorkerStatus {
        started: WallTime(i64::MIN),
        clients: u32::MAX,
        load: u32::MAX,
        sessions: u32::MAX,
        orders: u32::MAX,
        cache_bytes: u64::MAX,
        cache_limit: 0,
        cache_hits: u64::MAX,
        cache_misses: u64::MAX,
        cache_evictions: u64::MAX,
        outgoing_bytes: u64::MAX,
        refused_connections: u64::MAX,
        cut_connections: u64::MAX,
        throttled_requests: u64::MAX,
        round_trip: i64::MIN,
        clock_offset: i64::MIN,
    }
}

#[tokio::test]
async fn messages_that_mean_nothing_or_are_the_masters_change_nothing() {
    let (master, dir, mut honest, mut hostile) = started(Setup::default()).await;
    let alice = honest.new_session("alice").await;
    honest.snapshot_aside();
    let mut malformed = 0;
    // What only the master says, what only a client says to a worker, and what belongs to the
    // opening: whole and well made, by the right number and type.
    let is_own = |instruction: &Instruction| {
        use Instruction as I;
        matches!(
            instruction,
            I::SessionPresence
                | I::WorkerStatus
                | I::LinkPing
                | I::Pong
                | I::Goodbye
                | I::SnapshotDifference
                | I::StreamEnded
        )
    };
    let ended = SessionEnded { session: alice }.to_bytes();
    let market = papertrader_core::time::MarketTime(i64::MAX);
    let (sequence, number, base, list) = (u64::MAX, u64::MAX, 0, 0);
    let (instruments, ticks, steps) = (Vec::new(), Vec::new(), Vec::new());
    let snapshot =
        SnapshotPush { sequence, number, base, market, ended: true, list, instruments, ticks };
    let step = SnapshotStep { sequence, number, base, market, ended: true, steps };
    for instruction in Instruction::ALL.iter().copied().filter(|i| !is_own(i)) {
        let data = match instruction {
            Instruction::SessionEnded => ended.clone(),
            Instruction::Snapshot => snapshot.to_bytes(),
            Instruction::SnapshotStep => step.to_bytes(),
            Instruction::LinkHello => hello(HONEST).to_bytes(),
            // Requests without arguments mean something.
            _ => b"x".to_vec(),
        };
        let link = Some(hostile.link_header());
        let number = instruction as u16;
        let bytes = encoded(number, instruction.message_type(), link, 5_000, &data);
        hostile.send_bytes(&bytes).await;
        let reason = hostile.refusal(5_000).await;
        let request = Request::parse(instruction, 0, &data);
        assert_eq!(Err(reason), request, "{}", instruction.name());
        malformed += 1;
    }
    // Requests that each worker answers itself.
    let streams =
        [Request::SubscribeAssets(Symbols::All), Request::UnsubscribeAssets(Symbols::All)];
    let others = [Request::GetWorkerList, Request::AssetList, Request::Hello];
    for request in streams.into_iter().chain(others) {
        let number = hostile.send(SessionId::NONE, &request).await;
        assert_eq!(hostile.refusal(number).await, Reason::NotAuthorized, "{request:?}");
        malformed += 1;
    }
    // The wrong type, a packet of two, an unknown number.
    let link = Some(hostile.link_header());
    let ping = Instruction::Ping as u16;
    for kind in [MessageType::Command, MessageType::DataTransfer, MessageType::ServerReturn] {
        hostile.send_bytes(&encoded(ping, kind, link, 6_000, b"x")).await;
        assert_eq!(hostile.refusal(6_000).await, Reason::BadFrame);
        malformed += 1;
    }
    let mut bytes = Vec::new();
    let header = Header::new(MessageType::Control, ping, 6_001);
    Header { max: 2, link, argument_count: 1, ..header }.encode(b"x", &mut bytes);
    hostile.send_bytes(&bytes).await;
    assert_eq!(hostile.refusal(6_001).await, Reason::BadFrame);
    for number in [0, 0x00ff, 0x7fff, 0xffff] {
        hostile.send_bytes(&encoded(number, MessageType::Command, link, 6_002, b"")).await;
        assert_eq!(hostile.refusal(6_002).await, Reason::UnknownInstruction);
    }
    malformed += 5;
    // Its own messages, cut short or with something left over.
    for (instruction, mut data) in [
        (Instruction::SessionPresence, ended),
        (Instruction::WorkerStatus, nonsense().to_bytes()),
        (Instruction::SnapshotDifference, vec![0; 25]),
        (Instruction::LinkPing, vec![0; 9]),
    ] {
        hostile.send_control(instruction, &data).await;
        data.truncate(data.len() / 2);
        hostile.send_control(instruction, &data).await;
        malformed += if instruction == Instruction::WorkerStatus { 1 } else { 2 };
    }
    settled(&mut hostile).await;
    let seen = conduct(&dir).await;
    assert_eq!(counts(&seen), (0, malformed, 0));
    let last = "linkPing that is not as the protocol says";
    assert_eq!(seen.last.as_deref(), Some(last));

    // The honest worker heard of nothing but the nonsensical load.
    settled(&mut honest).await;
    let heard = honest.aside.iter().map(|received| received.header.instruction);
    let list = Instruction::WorkerList as u16;
    assert_eq!(heard.filter(|it| *it != list).collect::<Vec<_>>(), Vec::<u16>::new());
    let queued = honest.ask(alice, &buy("AAPL", "1", "a")).await;
    assert!(matches!(queued, Return::OrderQueued(_)), "{queued:?}");

    // What is no frame ends the link, and is said of the worker by name.
    hostile.send_bytes(&[0xff; 200]).await;
    while hostile.try_receive().await.is_some() {}
    let seen = shown(&dir).await;
    assert_eq!(seen.state, WorkerState::Away);
    assert_eq!(counts(&seen.conduct), (0, malformed + 1, 0));
    let last = "bytes that are no frame: protocol version 255 is not spoken here";
    assert_eq!(seen.conduct.last.as_deref(), Some(last));
    assert!(events::written(&["bytes that are no frame", &HOSTILE.to_string()]));
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn nonsense_of_its_state_is_shown_as_it_is() {
    let (master, dir, mut honest, mut hostile) = started(Setup::default()).await;
    hostile.send_control(Instruction::WorkerStatus, &nonsense().to_bytes()).await;
    settled(&mut hostile).await;
    let report = shown(&dir).await.live.unwrap().report.unwrap();
    assert_eq!((report.clients, report.cache_hits), (u32::MAX, u64::MAX));
    assert_eq!(report.clock_offset_us, Some(i64::MIN / 1_000));
    let lines = operator(&dir, AdminRequest::ListWorkers {}).await.unwrap();
    assert!(matches!(&lines, AdminReply::Workers(lines) if lines.workers.len() == 2));
    let loads: Vec<u32> = listed(&master).await.workers.iter().map(|line| line.load).collect();
    assert_eq!(loads, [0, FULL]);
    settled(&mut honest).await;
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_load_is_told_to_all_when_it_has_changed_noticeably_and_not_more_often() {
    let (master, dir, mut honest, mut busy) = started(Setup::default()).await;
    // The lists that tell of the workers themselves.
    for _ in 0..2 {
        honest.worker_list().await;
    }
    let loads = |list: WorkerList| list.workers.iter().map(|it| it.load).collect::<Vec<_>>();
    let said = |load| WorkerStatus { load, ..nonsense() }.to_bytes();
    master.pass_time(2);
    busy.send_control(Instruction::WorkerStatus, &said(500)).await;
    assert_eq!(loads(honest.worker_list().await), [0, 500]);
    // At once again, then too little: whoever asks is told, the workers are not.
    for load in [900, 510] {
        busy.send_control(Instruction::WorkerStatus, &said(load)).await;
        settled(&mut busy).await;
        assert_eq!(loads(listed(&master).await), [0, load]);
        master.pass_time(2);
    }
    busy.send_control(Instruction::WorkerStatus, &said(0)).await;
    assert_eq!(loads(honest.worker_list().await), [0, 0]);
    assert_eq!(shown(&dir).await.live.unwrap().region, "here");
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn what_it_says_of_itself_is_checked_before_anybody_sees_it() {
    events::keep();
    let (master, dir) = TestMaster::start_with_operator(Setup::default()).await;
    let mut honest = FakeWorker::connect(master.address, HONEST).await;
    assert_eq!(honest.worker_list().await.workers.len(), 1);
    let long = "x".repeat(5_000);
    type Change = fn(&mut LinkHello, &str);
    let set: [(Change, &str); 5] = [
        (|hello, text| hello.version = text.into(), "its version"),
        (|hello, text| hello.address = text.into(), "its address"),
        (|hello, text| hello.web = text.into(), "its web address"),
        (|hello, text| hello.fingerprint = text.into(), "the fingerprint"),
        (|hello, text| hello.region = text.into(), "its region"),
    ];
    let mut bad = 0;
    for (change, what) in set {
        for text in ["evil\x1b[2J:1", "evil\r\n:1", "http://evil\0", "evil\u{202e}:1", &long] {
            let mut said = hello(HOSTILE);
            change(&mut said, text);
            let mut hostile = FakeWorker::connect_raw(master.address, HOSTILE).await;
            hostile.send_control(Instruction::LinkHello, &said.to_bytes()).await;
            match hostile.receive().await.said {
                Some(Return::Failed(Instruction::LinkRefused, failure)) => {
                    assert_eq!(failure.reason, Reason::BadArguments);
                    assert!(failure.text.contains(what), "{}", failure.text);
                    assert!(!failure.text.contains("evil"), "{}", failure.text);
                }
                other => panic!("{other:?}"),
            }
            assert!(hostile.try_receive().await.is_none());
            bad += 1;
            let seen = shown(&dir).await;
            assert_eq!((seen.state, seen.conduct.malformed), (WorkerState::Away, bad));
            assert!(seen.conduct.last.unwrap().contains(what));
        }
        assert!(events::written(&["a worker was refused", "linkHello of worker worker-1", what]));
    }
    // One that is longer than a frame may be, and something else than a hello.
    let mut header = encoded(Instruction::LinkHello as u16, MessageType::Control, None, 0, b"");
    header[4..8].copy_from_slice(&60_000_u32.to_be_bytes());
    header.extend_from_slice(&[b'x'; 60_000]);
    let ping = encoded(Instruction::Ping as u16, MessageType::Control, None, 0, b"x");
    for first in [header, ping] {
        let mut hostile = FakeWorker::connect_raw(master.address, HOSTILE).await;
        // The master may close before it has all.
        hostile.try_send_bytes(&first).await;
        assert!(hostile.try_receive().await.is_none());
        bad += 1;
        let seen = conduct(&dir).await;
        assert_eq!(seen.malformed, bad);
        assert_eq!(seen.last.as_deref(), Some("something else than linkHello after the proof"));
    }
    // As another worker, while its own first link stands.
    let mut first = FakeWorker::connect(master.address, HOSTILE).await;
    let mut hostile = FakeWorker::connect_raw(master.address, HOSTILE).await;
    hostile.send_control(Instruction::LinkHello, &hello(HONEST).to_bytes()).await;
    match hostile.receive().await.said {
        Some(Return::Failed(Instruction::LinkRefused, failure)) => {
            assert_eq!(failure.reason, Reason::NotAuthorized);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(counts(&conduct(&dir).await), (1, bad, 0));
    settled(&mut first).await;

    let names: Vec<String> =
        listed(&master).await.workers.iter().map(|line| line.address.clone()).collect();
    assert_eq!(names, ["127.0.0.1:4001", "127.0.0.1:4002"]);
    // Workers were told of the one good arrival and of nothing else.
    settled(&mut honest).await;
    assert_eq!(honest.worker_list().await.workers.len(), 2);
    let list = Instruction::WorkerList as u16;
    assert!(honest.aside.iter().all(|received| received.header.instruction != list));
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_second_link_with_its_key_cuts_the_first_and_inherits_nothing() {
    let (master, _, _honest, mut first) = started(Setup::default()).await;
    let mallory = first.new_session("mallory").await;
    let mut second = FakeWorker::connect(master.address, HOSTILE).await;
    while first.try_receive().await.is_some() {}
    assert!(events::written(&["the older one is cut", "worker-1"]));
    assert_eq!(listed(&master).await.workers.len(), 2);
    let number = second.send(mallory, &buy("AAPL", "1", "a")).await;
    assert_eq!(second.refusal(number).await, Reason::SessionUnknown);
    assert!(matches!(second.ask(mallory, &Request::LoginSession).await, Return::Session(_)));
    let queued = second.ask(mallory, &buy("AAPL", "1", "a")).await;
    assert!(matches!(queued, Return::OrderQueued(_)), "{queued:?}");
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn forged_times_give_no_earlier_price_and_no_better_place_than_the_window() {
    let (master, _, _, mut hostile) = started(Setup::default()).await;
    let mallory = hostile.new_session("mallory").await;
    let window = Setup::default().config.clamp_window.as_nanos() as i64;
    hostile.snapshot().await;
    master.tick().await;
    let current = hostile.snapshot().await;
    let own = hostile.link_header();
    let hour = 3_600 * SECOND;
    let forged = [
        (WallTime(i64::MIN), 0),
        (WallTime(0), u64::MAX),
        (own.received_at.plus_nanos(-hour), 7),
        (own.received_at, 3),
        (own.received_at.plus_nanos(hour), 3),
        (WallTime(i64::MAX), i64::MAX as u64 + 1),
    ];
    let mut numbers = Vec::new();
    for (n, (received_at, sequence)) in forged.into_iter().enumerate() {
        // The longest deadline is none.
        let deadline = WallTime(if n % 2 == 0 { i64::MAX } else { 0 });
        let link = LinkHeader { received_at, sequence, deadline, ..own };
        let order = buy("AAPL", "1", &format!("n{n}"));
        numbers.push(hostile.send_with(mallory, &order, link).await);
        let queued = hostile.answer(numbers[n]).await;
        assert!(matches!(queued, Return::OrderQueued(_)), "{queued:?}");
    }
    for deadline in [WallTime(i64::MIN), WallTime(1)] {
        let link = LinkHeader { deadline, ..own };
        let number = hostile.send_with(mallory, &buy("AAPL", "1", "late"), link).await;
        assert_eq!(hostile.refusal(number).await, Reason::DeadlinePassed);
    }
    master.tick().await;
    let next = hostile.snapshot().await;
    for number in numbers {
        match hostile.answer(number).await {
            Return::Filled(_, fill) => {
                assert_eq!(fill.market, next.market);
                assert!(next.ticks.iter().any(|tick| tick.price == fill.price));
            }
            other => panic!("{other:?}"),
        }
    }
    let (dir, result) = master.end().await;
    result.unwrap();
    let mut store = SqliteStore::open(&dir.path().join("test.db"), "other").unwrap();
    assert_eq!(store.verify().unwrap(), []);
    let mut records = store.reader().unwrap().orders(AccountId(1), 100).unwrap();
    records.sort_by_key(|record| record.order.id);
    assert_eq!(records.len(), forged.len());
    let mut previous = WallTime(0);
    for (record, (_, sequence)) in records.iter().zip(forged) {
        let order = &record.order;
        assert!(matches!(record.state, OrderState::Filled(_)), "{record:?}");
        assert_eq!(order.seen.0, current.number);
        assert_eq!(order.received.market, current.market);
        let received = order.received.wall;
        let earliest = received.plus_nanos(-window).max(previous);
        assert!((earliest..=received).contains(&order.worker_time), "{order:?}");
        assert_eq!(order.worker_sequence, sequence);
        previous = order.worker_time;
    }
}

#[tokio::test]
async fn who_logs_in_through_it_while_it_is_found_out_needs_a_new_password() {
    let mut setup = Setup::default();
    setup.config.password_threads = 1;
    let (master, dir, mut honest, mut hostile) = started(setup).await;
    let elsewhere = honest.new_session("alice").await;
    // Alice's password waits behind others to be checked.
    for n in 0..30 {
        send_from(&mut hostile, &format!("198.51.100.{n}"), &wrong(&format!("user{n}"))).await;
    }
    hostile.send(SessionId::NONE, &login("alice", false)).await;
    hostile.send(SessionId::NONE, &register("bob")).await;
    settled(&mut hostile).await;
    let boot =
        AdminRequest::BootWorker { name: "worker-1".into(), for_ms: None, compromised: true };
    operator(&dir, boot).await.unwrap();
    assert_eq!(honest.session_ended().await, elsewhere);
    let seen = user(&dir, "alice").await;
    assert_eq!((seen.password_due, seen.sessions), (true, 0));
    // Nobody gets an account whose password it has chosen or seen.
    let number = honest.send(SessionId::NONE, &register("bob")).await;
    assert!(matches!(honest.answer(number).await, Return::Registered(_)));
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn nobody_puts_a_certificate_in_the_place_of_anothers() {
    let (master, _, mut honest, hostile) = started(Setup::default()).await;
    drop(hostile);
    let mut hostile = FakeWorker::connect_raw(master.address, HOSTILE).await;
    let said = LinkHello {
        address: hello(HONEST).address,
        fingerprint: "ab".repeat(32),
        ..hello(HOSTILE)
    };
    hostile.send_control(Instruction::LinkHello, &said.to_bytes()).await;
    assert_eq!(hostile.receive().await.header.instruction, Instruction::LinkWelcome as u16);
    // Lists are told as they change; in none of them is the other's certificate.
    for _ in 0..2 {
        let list = honest.worker_list().await;
        assert!(list.workers.iter().all(|line| line.fingerprint.is_empty()), "{list:?}");
    }
    let list = hostile.worker_list().await;
    let names: Vec<&str> = list.workers.iter().map(|line| line.name.as_str()).collect();
    assert_eq!(names, ["worker-0"]);
    assert!(events::written(&["only the first is listed", "worker-1", "worker-0"]));
    master.end().await.1.unwrap();
}
