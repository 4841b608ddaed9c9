//! One worker: what goes over the wire, in which order, and what comes of bad answers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod script;

use std::time::Duration;

use papertrader_client::{
    Client, ClientError, Options, Password, Progress, ProtocolError, Undecided, new_order_id,
};
use papertrader_core::order::Side;
use papertrader_core::time::{MarketTime, WallTime};
use papertrader_protocol::data::{AssetList, AssetValue, Bars, WorkerList};
use papertrader_protocol::instruction::State;
use papertrader_protocol::request::{OrderArgs, Span};
use papertrader_protocol::returns::{FilledOrder, QueuedOrder, Return, SessionGrant};
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Frame, Instruction, Reason, Request};
use script::{DEPLOYMENT, Peer, SESSION, Worker, data_frames};

/// More patience than any machine needs here.
fn options() -> Options {
    let patience = Duration::from_secs(60);
    Options { connect_patience: patience, patience, ..Options::default() }
}

/// A client with a session, and the worker's end of its connection.
async fn logged_in(worker: &Worker) -> (Client, Peer) {
    let servers = [worker.address.clone()];
    let (client, mut peer) = tokio::join!(Client::connect(&servers, options()), worker.greet());
    let client = client.unwrap();
    let (resumed, ()) = tokio::join!(client.resume(SESSION), peer.take_session());
    assert_eq!(resumed.unwrap(), script::grant());
    (client, peer)
}

fn value(symbol: &str) -> AssetValue {
    AssetValue {
        symbol: symbol.parse().unwrap(),
        price: "64.78".parse().unwrap(),
        time: MarketTime(5),
        previous_close: None,
        snapshot: 7,
        market: MarketTime(6),
    }
}

fn asset_list() -> AssetList {
    AssetList { market: MarketTime(1), snapshot: 1, ended: false, assets: Vec::new() }
}

fn queued(args: &OrderArgs, side: Side) -> Return {
    Return::OrderQueued(QueuedOrder {
        order: 12,
        client_order_id: args.client_order_id.clone(),
        side,
        symbol: args.symbol,
        quantity: args.quantity,
        hold: "680.19".parse().unwrap(),
        waiting: "-".into(),
    })
}

fn filled(args: &OrderArgs) -> FilledOrder {
    FilledOrder {
        order: 12,
        client_order_id: args.client_order_id.clone(),
        symbol: args.symbol,
        quantity: args.quantity,
        price: "64.78".parse().unwrap(),
        amount: "647.80".parse().unwrap(),
        market: MarketTime(8),
        wall: WallTime(9),
    }
}

#[tokio::test]
async fn a_password_is_changed_by_the_hashes_of_both() {
    let worker = Worker::start().await;
    let (client, mut peer) = logged_in(&worker).await;
    let name = "Alice".parse().unwrap();
    let (old, new) = (Password::new("pw"), Password::new("better"));
    let hashes = [&old, &new].map(|password| password.hashed(DEPLOYMENT, &name));
    let (changed, ()) = tokio::join!(client.change_password(&name, &old, &new), async {
        let asked = peer.next().await;
        assert_eq!(asked.instruction, Instruction::ChangePassword);
        assert_eq!(asked.arguments, [hashes[0].reveal(), hashes[1].reveal()]);
        assert_eq!(asked.session, SESSION);
        peer.answer(&asked, Return::PasswordChanged).await;
    });
    changed.unwrap();
    assert_eq!(client.session(), Some(SESSION));
    let (refused, ()) = tokio::join!(client.change_password(&name, &old, &new), async {
        let asked = peer.next().await;
        peer.refuse(&asked, Reason::BadCredentials).await;
    });
    assert!(
        matches!(&refused, Err(ClientError::Refused(why)) if why.reason == Reason::BadCredentials),
        "{refused:?}"
    );
    // It is not sent a second time, neither when the way behind the worker is lost nor the one to it.
    let what = Undecided::PasswordChange;
    let (unknown, ()) = tokio::join!(client.change_password(&name, &old, &new), async {
        let asked = peer.next().await;
        peer.refuse(&asked, Reason::OutcomeUnknown).await;
    });
    let cause = Box::new(ClientError::Refused(Reason::OutcomeUnknown.into()));
    assert_eq!(unknown, Err(ClientError::OutcomeUnknown { what: what.clone(), cause }));
    let (lost, ()) = tokio::join!(client.change_password(&name, &old, &new), async {
        peer.next().await;
        drop(peer);
    });
    let Err(error @ ClientError::OutcomeUnknown { .. }) = lost else { panic!("{lost:?}") };
    assert!(error.to_string().contains("log in with the new password"), "{error}");
}

/// The first copy has ended the session before its worker lost the master.
#[tokio::test]
async fn a_log_out_everywhere_of_unknown_outcome_is_repeated_until_it_is_known() {
    for reason in [Reason::OutcomeUnknown, Reason::Unavailable] {
        let (worker, other) = (Worker::start().await, Worker::start().await);
        let servers = [worker.address.clone(), other.address.clone()];
        let (client, mut peer) = tokio::join!(Client::connect(&servers, options()), worker.greet());
        let client = client.unwrap();
        let (resumed, ()) = tokio::join!(client.resume(SESSION), peer.take_session());
        resumed.unwrap();
        let leave = client.logout_everywhere();
        let mut leave = std::pin::pin!(leave);
        let script = async {
            for reason in [reason, Reason::SessionUnknown] {
                let asked = peer.expect(Request::LogoutEverywhere).await;
                peer.refuse(&asked, reason).await;
            }
            let asked = peer.expect(Request::LoginSession).await;
            peer.refuse(&asked, Reason::SessionUnknown).await;
        };
        // Whoever takes the first for the end is not waited for in vain.
        let left = tokio::select! {
            left = &mut leave => left,
            () = script => leave.await,
        };
        assert_eq!(left, Ok(()), "{reason:?}");
        assert_eq!(client.session(), None);
    }
}

#[tokio::test]
async fn a_cancel_of_unknown_outcome_is_repeated() {
    let worker = Worker::start().await;
    let (client, mut peer) = logged_in(&worker).await;
    let id = new_order_id();
    let cancel = client.cancel(&id);
    let mut cancel = std::pin::pin!(cancel);
    let script = async {
        let asked = peer.expect(Request::CancelOrder(id.clone())).await;
        peer.refuse(&asked, Reason::OutcomeUnknown).await;
        let asked = peer.expect(Request::CancelOrder(id.clone())).await;
        peer.answer(&asked, Return::Cancelled(id.clone())).await;
    };
    let cancelled = tokio::select! {
        cancelled = &mut cancel => cancelled,
        () = script => cancel.await,
    };
    assert_eq!(cancelled, Ok(()));
}

#[tokio::test]
async fn after_a_log_out_everywhere_the_session_is_forgotten() {
    let worker = Worker::start().await;
    let (client, mut peer) = logged_in(&worker).await;
    let (refused, ()) = tokio::join!(client.logout_everywhere(), async {
        let asked = peer.expect(Request::LogoutEverywhere).await;
        peer.refuse(&asked, Reason::SessionExpired).await;
    });
    // The others may go on.
    assert!(matches!(refused, Err(ClientError::Refused(_))), "{refused:?}");
    assert_eq!(client.session(), Some(SESSION));
    let (left, ()) = tokio::join!(client.logout_everywhere(), async {
        let asked = peer.expect(Request::LogoutEverywhere).await;
        assert_eq!(asked.session, SESSION);
        peer.answer(&asked, Return::LoggedOut).await;
    });
    left.unwrap();
    assert_eq!(client.session(), None);
}

#[tokio::test]
async fn hello_register_and_login() {
    let worker = Worker::start().await;
    let servers = [worker.address.clone()];
    let (client, mut peer) = tokio::join!(Client::connect(&servers, options()), worker.greet());
    let client = client.unwrap();
    assert_eq!(client.welcome(), script::welcome());
    assert_eq!(client.server(), worker.address);

    let name = "Alice".parse().unwrap();
    let email = "a@example.org".parse().unwrap();
    let password = Password::new("pw");
    let hashed = password.hashed(DEPLOYMENT, &name);
    let (registered, ()) = tokio::join!(client.register(&name, &email, &password), async {
        let asked = peer.next().await;
        assert_eq!(asked.instruction, Instruction::Register);
        assert_eq!(asked.arguments, ["Alice", "a@example.org", hashed.reveal()]);
        assert!(asked.session.is_none());
        peer.answer(&asked, Return::Registered("Alice".into())).await;
    });
    assert_eq!(registered.unwrap(), "Alice");

    let (refused, ()) = tokio::join!(client.login(&name, &password, false), async {
        let asked = peer.next().await;
        assert_eq!(asked.arguments, ["Alice", hashed.reveal(), "true"]);
        peer.refuse(&asked, Reason::BadCredentials).await;
    });
    assert_eq!(refused, Err(ClientError::Refused(Reason::BadCredentials.into())));
    assert_eq!(client.asset_list().await, Err(ClientError::NotLoggedIn));

    let (grant, ()) =
        tokio::join!(client.login(&name, &password, true), peer.log_in(&["w1:1", "w2:2"]));
    assert_eq!(grant.unwrap().session, SESSION);
    // The list comes after the session: what is answered after it knows it.
    let (pong, ()) = tokio::join!(client.ping(), async {
        let asked = peer.expect(Request::Ping("ping".into())).await;
        peer.answer(&asked, Return::Pong("ping".into())).await;
    });
    pong.unwrap();
    let expected = ["tcp://w1:1".to_owned(), "tcp://w2:2".to_owned(), worker.address.clone()];
    assert_eq!(client.servers(), expected);
}

#[tokio::test]
async fn the_state_is_switched_before_what_needs_it_without_waiting() {
    let worker = Worker::start().await;
    let (client, mut peer) = logged_in(&worker).await;
    let other = client.clone();
    let data = tokio::spawn(async move { other.asset_value("AAPL".parse().unwrap()).await });
    // Both frames are there before either is answered.
    let to_data = peer.expect(Request::SwitchState(State::DataTransfer)).await;
    let ask_value = peer.expect(Request::AssetValue("AAPL".parse().unwrap())).await;
    assert_eq!((to_data.session, ask_value.session), (SESSION, SESSION));
    // Another of the same state needs no switch; a command does; a ping never.
    let other = client.clone();
    let list = tokio::spawn(async move { other.asset_list().await });
    let ask_list = peer.expect(Request::AssetList).await;
    let other = client.clone();
    let ping = tokio::spawn(async move { other.ping().await });
    let ask_ping = peer.expect(Request::Ping("ping".into())).await;
    assert!(ask_ping.session.is_none());
    let other = client.clone();
    let cancel = tokio::spawn(async move { other.cancel(&"x".parse().unwrap()).await });
    let to_command = peer.expect(Request::SwitchState(State::Command)).await;
    let ask_cancel = peer.expect(Request::CancelOrder("x".parse().unwrap())).await;
    // Answers in another order than the questions.
    peer.answer(&ask_ping, Return::Pong("ping".into())).await;
    peer.answer(&ask_cancel, Return::Cancelled("x".parse().unwrap())).await;
    peer.data(&ask_list, &asset_list()).await;
    peer.answer(&to_data, Return::StateSwitched(State::DataTransfer)).await;
    peer.data(&ask_value, &value("AAPL")).await;
    peer.answer(&to_command, Return::StateSwitched(State::Command)).await;
    ping.await.unwrap().unwrap();
    cancel.await.unwrap().unwrap();
    assert_eq!(list.await.unwrap(), Ok(asset_list()));
    assert_eq!(data.await.unwrap(), Ok(value("AAPL")));
}

#[tokio::test]
async fn a_refused_switch_fails_what_relied_on_it_and_the_state_stays() {
    let worker = Worker::start().await;
    let (client, mut peer) = logged_in(&worker).await;
    let (refused, ()) = tokio::join!(client.asset_list(), async {
        let switch = peer.next().await;
        let ask = peer.next().await;
        peer.refuse(&switch, Reason::SessionExpired).await;
        // What the server then says about the request itself is no news.
        peer.refuse(&ask, Reason::WrongState).await;
    });
    assert_eq!(refused, Err(ClientError::Refused(Reason::SessionExpired.into())));
    // The connection is still in the command state, and the client knows.
    let id: papertrader_core::names::ClientOrderId = "x".parse().unwrap();
    let (cancelled, ()) = tokio::join!(client.cancel(&id), async {
        let ask = peer.expect(Request::CancelOrder("x".parse().unwrap())).await;
        peer.answer(&ask, Return::Cancelled("x".parse().unwrap())).await;
    });
    cancelled.unwrap();
    let (list, ()) = tokio::join!(client.asset_list(), async {
        peer.expect(Request::SwitchState(State::DataTransfer)).await;
        let ask = peer.expect(Request::AssetList).await;
        peer.data(&ask, &asset_list()).await;
    });
    list.unwrap();
}

fn bars(count: usize) -> Bars {
    let bar = |i: usize| papertrader_core::bar::Bar {
        start: MarketTime(i as i64),
        open: "1".parse().unwrap(),
        high: "3".parse().unwrap(),
        low: "1".parse().unwrap(),
        close: "2".parse().unwrap(),
        volume: Default::default(),
    };
    Bars {
        symbol: "AAPL".parse().unwrap(),
        resolution: papertrader_core::bar::Resolution::Day,
        interval: 1,
        market: MarketTime(0),
        source: "test".into(),
        bars: (0..count).map(bar).collect(),
    }
}

#[tokio::test]
async fn packets_are_counted_one_by_one_and_may_be_cut_anywhere() {
    let worker = Worker::start().await;
    let (client, mut peer) = logged_in(&worker).await;
    let sent = bars(1000);
    let mut seen = Vec::new();
    let transfer = client.bars("AAPL".parse().unwrap(), Span::AllTime, |p| seen.push(p));
    let (got, ()) = tokio::join!(transfer, async {
        peer.next().await;
        let ask = peer.next().await;
        for piece in data_frames(ask.number, &sent.to_bytes()).chunks(1001) {
            peer.raw(piece).await;
        }
    });
    assert_eq!(got.unwrap(), sent);
    assert_eq!(seen, (1..=3).map(|n| Progress { received: n, max: 3 }).collect::<Vec<_>>());
}

#[tokio::test]
async fn packets_out_of_order_are_refused() {
    let worker = Worker::start().await;
    let (client, mut peer) = logged_in(&worker).await;
    let transfer = client.bars("AAPL".parse().unwrap(), Span::AllTime, |_| {});
    let (got, ()) = tokio::join!(transfer, async {
        peer.next().await;
        let ask = peer.next().await;
        let bytes = data_frames(ask.number, &bars(1000).to_bytes());
        let (_, first) = Frame::decode(&bytes).unwrap().unwrap();
        peer.raw(&bytes[first..]).await;
    });
    let Err(ClientError::Protocol { problem: ProtocolError::Transfer(error), .. }) = got else {
        panic!("{got:?}");
    };
    assert_eq!(error.to_string(), "packet 2 of 3 came where packet 1 was due");
    assert_eq!(peer.try_next().await, None, "the connection is closed");
}

#[tokio::test]
async fn an_answer_over_the_limit_is_refused() {
    let worker = Worker::start().await;
    let servers = [worker.address.clone()];
    let small = Options { max_answer: 10, ..options() };
    let (client, mut peer) = tokio::join!(Client::connect(&servers, small), worker.greet());
    let client = client.unwrap();
    let (got, ()) = tokio::join!(client.worker_list(), async {
        let ask = peer.expect(Request::GetWorkerList).await;
        let bytes = script::worker_list_frames(ask.number, &["somewhere:1"]);
        peer.raw(&bytes).await;
    });
    assert!(
        matches!(got, Err(ClientError::Protocol { problem: ProtocolError::Transfer(_), .. })),
        "{got:?}"
    );
}

#[tokio::test]
async fn an_order_is_queued_then_filled_while_other_requests_go_on() {
    let worker = Worker::start().await;
    let (client, mut peer) = logged_in(&worker).await;
    let args = OrderArgs {
        symbol: "AAPL".parse().unwrap(),
        quantity: "10".parse().unwrap(),
        client_order_id: new_order_id(),
    };
    let place = client.order(Side::Buy, args.symbol, args.quantity, args.client_order_id.clone());
    let (order, ask_order) = tokio::join!(place, async {
        let ask = peer.expect(Request::PurchaseAsset(args.clone())).await;
        peer.answer(&ask, queued(&args, Side::Buy)).await;
        ask
    });
    let mut order = order.unwrap();
    assert_eq!(order.queued().unwrap().order, 12);
    let (list, ()) = tokio::join!(client.asset_list(), async {
        peer.expect(Request::SwitchState(State::DataTransfer)).await;
        let ask = peer.expect(Request::AssetList).await;
        peer.data(&ask, &asset_list()).await;
    });
    list.unwrap();
    // The outcome comes in the data transfer state too.
    peer.answer(&ask_order, Return::Filled(Side::Buy, filled(&args))).await;
    assert_eq!(order.outcome().await, Ok(filled(&args)));
    assert_eq!(order.outcome().await, Ok(filled(&args)), "it can be asked again");
}

#[tokio::test]
async fn an_order_is_sent_again_with_the_same_id_while_the_server_is_busy_or_does_not_know() {
    let worker = Worker::start().await;
    let (client, mut peer) = logged_in(&worker).await;
    let id = new_order_id();
    let symbol = "AAPL".parse().unwrap();
    let place = client.order(Side::Sell, symbol, "1".parse().unwrap(), id.clone());
    let (order, ()) = tokio::join!(place, async {
        for reason in [Reason::Busy, Reason::OutcomeUnknown] {
            let ask = peer.next().await;
            assert_eq!(ask.arguments, ["AAPL", "1", id.as_str()]);
            peer.refuse(&ask, reason).await;
        }
        let ask = peer.next().await;
        assert_eq!(ask.arguments, ["AAPL", "1", id.as_str()]);
        peer.refuse(&ask, Reason::InsufficientShares).await;
    });
    assert_eq!(order.unwrap_err(), ClientError::Refused(Reason::InsufficientShares.into()));
}

#[tokio::test]
async fn a_refusal_of_a_later_copy_does_not_speak_for_an_order_that_may_be_accepted() {
    let worker = Worker::start().await;
    let (client, mut peer) = logged_in(&worker).await;
    let symbol = "AAPL".parse().unwrap();
    for last in [Reason::SessionExpired, Reason::PasswordChangeRequired, Reason::TooManyAttempts] {
        let id = new_order_id();
        let place = client.order(Side::Buy, symbol, "1".parse().unwrap(), id.clone());
        let mut place = std::pin::pin!(place);
        let script = async {
            // The second copy never left its worker; what became of the first is not said.
            for reason in [Reason::OutcomeUnknown, Reason::DeadlinePassed, last] {
                let ask = peer.next().await;
                assert_eq!(ask.arguments, ["AAPL", "1", id.as_str()]);
                peer.refuse(&ask, reason).await;
            }
        };
        // Whoever takes one of the first two for the end is not waited for in vain.
        let order = tokio::select! {
            order = &mut place => order,
            () = script => place.await,
        };
        let cause = Box::new(ClientError::Refused(last.into()));
        let what = Undecided::Order(id);
        assert_eq!(order.unwrap_err(), ClientError::OutcomeUnknown { what, cause });
    }
    // Of a first copy they are the whole truth.
    for reason in [
        Reason::DeadlinePassed,
        Reason::SessionExpired,
        Reason::PasswordChangeRequired,
        Reason::TooManyAttempts,
    ] {
        let place = client.order(Side::Buy, symbol, "1".parse().unwrap(), new_order_id());
        let (order, ()) = tokio::join!(place, async {
            let ask = peer.next().await;
            peer.refuse(&ask, reason).await;
        });
        assert_eq!(order.unwrap_err(), ClientError::Refused(reason.into()));
    }
}

#[tokio::test]
async fn a_worker_that_does_not_know_the_session_is_shown_it_once() {
    let worker = Worker::start().await;
    let (client, mut peer) = logged_in(&worker).await;
    let (list, ()) = tokio::join!(client.asset_list(), async {
        let switch = peer.expect(Request::SwitchState(State::DataTransfer)).await;
        peer.expect(Request::AssetList).await;
        peer.refuse(&switch, Reason::SessionUnknown).await;
        let resume = peer.expect(Request::LoginSession).await;
        assert_eq!(resume.session, SESSION);
        peer.answer(&resume, Return::Session(script::grant())).await;
        let switch = peer.expect(Request::SwitchState(State::DataTransfer)).await;
        let ask = peer.expect(Request::AssetList).await;
        peer.answer(&switch, Return::StateSwitched(State::DataTransfer)).await;
        peer.data(&ask, &asset_list()).await;
    });
    list.unwrap();
    // If it still does not know it, that is the answer.
    let (list, ()) = tokio::join!(client.asset_list(), async {
        let ask = peer.expect(Request::AssetList).await;
        peer.refuse(&ask, Reason::SessionUnknown).await;
        peer.expect(Request::SwitchState(State::Command)).await;
        let resume = peer.expect(Request::LoginSession).await;
        peer.refuse(&resume, Reason::SessionUnknown).await;
    });
    assert_eq!(list, Err(ClientError::Refused(Reason::SessionUnknown.into())));
}

#[tokio::test]
async fn a_server_that_is_not_there_or_not_ours_is_named() {
    let gone = {
        let worker = Worker::start().await;
        worker.address
    };
    let worker = Worker::start().await;
    let servers = [gone.clone(), worker.address.clone()];
    let ours = Options {
        deployment: Some("another".into()),
        connect_patience: Duration::ZERO,
        ..options()
    };
    let (client, _peer) = tokio::join!(Client::connect(&servers, ours), worker.greet());
    let Err(ClientError::NoServer { tried }) = client else { panic!("{client:?}") };
    assert_eq!(tried.len(), 2);
    assert_eq!(tried[0].server, gone);
    assert_eq!(tried[1].problem, "it belongs to another deployment");
}

#[tokio::test]
async fn goodbye_is_said_and_everything_before_it_is_written() {
    let worker = Worker::start().await;
    let (client, mut peer) = logged_in(&worker).await;
    client.close().await;
    assert_eq!(peer.next().await.instruction, Instruction::Goodbye);
    assert_eq!(peer.try_next().await, None);
}

#[tokio::test]
async fn the_list_of_workers_is_kept_when_asked_for() {
    let worker = Worker::start().await;
    let (client, mut peer) = logged_in(&worker).await;
    let (got, ()) = tokio::join!(client.worker_list(), async {
        let ask = peer.expect(Request::GetWorkerList).await;
        let bytes = script::worker_list_frames(ask.number, &["w1:1"]);
        peer.raw(&bytes).await;
    });
    assert_eq!(got.unwrap(), WorkerList { workers: script::list(&["w1:1"]).workers });
    assert_eq!(client.servers()[0], "tcp://w1:1");
}

#[tokio::test]
async fn an_old_list_of_workers_is_asked_for_anew_beside_a_request() {
    let worker = Worker::start().await;
    let soon = Options { list_age: Duration::ZERO, ..options() };
    let servers = [worker.address.clone()];
    let (client, mut peer) = tokio::join!(Client::connect(&servers, soon), worker.greet());
    let client = client.unwrap();
    let (pong, ()) = tokio::join!(client.ping(), async {
        let asked = peer.expect(Request::Ping("ping".into())).await;
        let list = peer.expect(Request::GetWorkerList).await;
        // Nobody waits for it; it is read before what is answered after it.
        peer.raw(&script::worker_list_frames(list.number, &["w7:1"])).await;
        peer.answer(&asked, Return::Pong("ping".into())).await;
    });
    pong.unwrap();
    assert_eq!(client.servers()[0], "tcp://w7:1");
}

#[tokio::test]
async fn a_name_that_the_server_makes_up_is_not_believed() {
    let worker = Worker::start().await;
    let (client, mut peer) = logged_in(&worker).await;
    let (name, email) = ("alice".parse().unwrap(), "a@example.org".parse().unwrap());
    let password = Password::new("pw");
    // It would stand where people copy a command from.
    for said in ["alice; touch it #", "mallet", ""] {
        let register = client.register(&name, &email, &password);
        let (registered, ()) = tokio::join!(register, async {
            let asked = peer.next().await;
            peer.answer(&asked, Return::Registered(said.into())).await;
        });
        assert!(matches!(registered, Err(ClientError::Protocol { .. })), "{registered:?}");
        let (granted, ()) = tokio::join!(client.login(&name, &password, true), async {
            let asked = peer.next().await;
            let grant = SessionGrant { name: said.into(), ..script::grant() };
            peer.answer(&asked, Return::Session(grant)).await;
        });
        assert!(matches!(granted, Err(ClientError::Protocol { .. })), "{granted:?}");
    }
}
