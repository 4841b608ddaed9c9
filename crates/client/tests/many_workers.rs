//! Workers that die, drain and come back: what is asked again, where, and what is not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod script;

use std::time::Duration;

use papertrader_client::{Client, ClientError, Options, Password, Undecided, new_order_id};
use papertrader_core::names::ClientOrderId;
use papertrader_core::order::Side;
use papertrader_core::time::{MarketTime, WallTime};
use papertrader_protocol::data::{AssetList, OrderLine, OrderStatus};
use papertrader_protocol::instruction::State;
use papertrader_protocol::request::OrderArgs;
use papertrader_protocol::returns::{FilledOrder, QueuedOrder, Return};
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Reason, Request};
use script::{Peer, SESSION, Worker, data_frames};

fn options() -> Options {
    let patience = Duration::from_secs(60);
    // By this chance the first of two is tried first.
    Options { connect_patience: patience, patience, seed: Some(1), ..Options::default() }
}

/// A client on the first worker that has been told of the second.
async fn on_first(first: &Worker, second: &Worker, options: Options) -> (Client, Peer) {
    let servers = [first.address.clone()];
    let (client, mut peer) = tokio::join!(Client::connect(&servers, options), first.greet());
    let client = client.unwrap();
    let workers = [first.address.as_str(), second.address.as_str()];
    let (resumed, ()) = tokio::join!(client.resume(SESSION), async {
        peer.take_session().await;
        // The list follows the session; it comes before the answer to what is asked next.
        peer.raw(&script::worker_list_frames(0, &workers)).await;
    });
    resumed.unwrap();
    let (pong, ()) = tokio::join!(client.ping(), async {
        let asked = peer.next().await;
        peer.answer(&asked, Return::Pong("ping".into())).await;
    });
    pong.unwrap();
    (client, peer)
}

fn asset_list() -> AssetList {
    AssetList { market: MarketTime(1), snapshot: 1, ended: false, assets: Vec::new() }
}

fn args(id: ClientOrderId) -> OrderArgs {
    OrderArgs {
        symbol: "AAPL".parse().unwrap(),
        quantity: "10".parse().unwrap(),
        client_order_id: id,
    }
}

fn queued(args: &OrderArgs) -> Return {
    Return::OrderQueued(QueuedOrder {
        order: 12,
        client_order_id: args.client_order_id.clone(),
        side: Side::Buy,
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

async fn serve_list(peer: &mut Peer) {
    peer.expect(Request::SwitchState(State::DataTransfer)).await;
    let ask = peer.expect(Request::AssetList).await;
    peer.data(&ask, &asset_list()).await;
}

#[tokio::test]
async fn a_read_goes_on_at_the_next_worker_with_the_same_session() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    let (client, mut peer) = on_first(&first, &second, options()).await;
    let (list, _peer) = tokio::join!(client.asset_list(), async {
        peer.next().await;
        let ask = peer.expect(Request::AssetList).await;
        // Half a frame, then the end.
        let bytes = data_frames(ask.number, &asset_list().to_bytes());
        peer.raw(&bytes[..bytes.len() / 2]).await;
        drop(peer);
        let mut peer = second.greet_resumed().await;
        serve_list(&mut peer).await;
        peer
    });
    assert_eq!(list, Ok(asset_list()));
    assert_eq!(client.server(), second.address);
}

#[tokio::test]
async fn whoever_names_a_region_goes_to_a_worker_of_it_if_it_takes_them() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    for takes in [true, false] {
        let home = Options { region: Some("EU-west".into()), ..options() };
        let servers = [first.address.clone()];
        let (client, mut peer) = tokio::join!(Client::connect(&servers, home), first.greet());
        let client = client.unwrap();
        let mut list = script::list(&[first.address.as_str(), second.address.as_str()]);
        list.workers[1].region = "eu-west".into();
        // It says that it is full, and is preferred all the same.
        list.workers[1].load = 1_000;
        let (resumed, home) = tokio::join!(client.resume(SESSION), async {
            peer.take_session().await;
            let asked = peer.expect(Request::GetWorkerList).await;
            peer.raw(&script::list_frames(asked.number, &list)).await;
            match takes {
                true => Some(second.greet_resumed().await),
                false => {
                    drop(second.accept().await);
                    None
                }
            }
        });
        resumed.unwrap();
        let (at, peer) = match home {
            Some(home) => (&second, home),
            None => (&first, peer),
        };
        assert_eq!(client.server(), at.address);
        let mut peer = peer;
        let (pong, ()) = tokio::join!(client.ping(), async {
            let asked = peer.expect(Request::Ping("ping".into())).await;
            peer.answer(&asked, Return::Pong("ping".into())).await;
        });
        pong.unwrap();
    }
    first.expect_no_more();
    second.expect_no_more();
}

#[tokio::test]
async fn a_worker_that_says_goodbye_gets_nothing_more() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    let (client, mut peer) = on_first(&first, &second, options()).await;
    // The request is answered, and the goodbye before it is heeded by the next.
    let (list, ()) = tokio::join!(client.asset_list(), async {
        peer.expect(Request::SwitchState(State::DataTransfer)).await;
        let ask = peer.expect(Request::AssetList).await;
        let mut bytes = Vec::new();
        Return::Goodbye(Reason::ShuttingDown.into()).put(0, &mut bytes);
        peer.raw(&bytes).await;
        peer.data(&ask, &asset_list()).await;
    });
    list.unwrap();
    let (list, _peer) = tokio::join!(client.asset_list(), async {
        let mut peer = second.greet_resumed().await;
        serve_list(&mut peer).await;
        peer
    });
    list.unwrap();
}

#[tokio::test]
async fn bytes_that_cannot_be_framed_cost_the_connection_only() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    let (client, mut peer) = on_first(&first, &second, options()).await;
    let (list, _peer) = tokio::join!(client.asset_list(), async {
        peer.next().await;
        peer.raw(&[0xff; 200]).await;
        let mut peer = second.greet_resumed().await;
        serve_list(&mut peer).await;
        peer
    });
    list.unwrap();
}

#[tokio::test]
async fn a_silent_worker_is_asked_once_and_then_left() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    let quiet = Options { silence: Duration::from_millis(500), ..options() };
    let (client, mut peer) = on_first(&first, &second, quiet).await;
    let (list, ()) = tokio::join!(client.asset_list(), async {
        peer.expect(Request::SwitchState(State::DataTransfer)).await;
        peer.expect(Request::AssetList).await;
        peer.answers_pings = false;
        peer.expect(Request::Ping(String::new())).await;
        // No answer.
        let mut next = second.greet_resumed().await;
        serve_list(&mut next).await;
    });
    list.unwrap();
}

#[tokio::test]
async fn an_order_whose_answer_is_lost_is_sent_again_under_its_id() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    let (client, mut peer) = on_first(&first, &second, options()).await;
    let args = args(new_order_id());
    let id = args.client_order_id.clone();
    let place = client.order(Side::Buy, args.symbol, args.quantity, id);
    let (order, ()) = tokio::join!(place, async {
        peer.expect(Request::PurchaseAsset(args.clone())).await;
        drop(peer);
        let mut peer = second.greet_resumed().await;
        let ask = peer.expect(Request::PurchaseAsset(args.clone())).await;
        // It was done already.
        peer.answer(&ask, Return::Filled(Side::Buy, filled(&args))).await;
    });
    let mut order = order.unwrap();
    assert_eq!(order.queued(), None);
    assert_eq!(order.outcome().await, Ok(filled(&args)));
}

#[tokio::test]
async fn an_outcome_is_asked_for_again_at_the_next_worker() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    let (client, mut peer) = on_first(&first, &second, options()).await;
    let args = args(new_order_id());
    let place = client.order(Side::Buy, args.symbol, args.quantity, args.client_order_id.clone());
    let (order, ()) = tokio::join!(place, async {
        let ask = peer.expect(Request::PurchaseAsset(args.clone())).await;
        peer.answer(&ask, queued(&args)).await;
    });
    let mut order = order.unwrap();
    drop(peer);
    let (outcome, ()) = tokio::join!(order.outcome(), async {
        let mut peer = second.greet_resumed().await;
        let ask = peer.expect(Request::PurchaseAsset(args.clone())).await;
        peer.answer(&ask, queued(&args)).await;
        peer.answer(&ask, Return::Filled(Side::Buy, filled(&args))).await;
    });
    assert_eq!(outcome, Ok(filled(&args)));
}

#[tokio::test]
async fn an_order_that_nobody_answers_is_unknown_and_names_its_id() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    let hasty = Options { patience: Duration::ZERO, ..options() };
    let (client, mut peer) = on_first(&first, &second, hasty).await;
    let args = args("my-id".parse().unwrap());
    let place = client.order(Side::Buy, args.symbol, args.quantity, args.client_order_id.clone());
    let (order, ()) = tokio::join!(place, async {
        peer.next().await;
        drop(peer);
    });
    let Err(ClientError::OutcomeUnknown { what, .. }) = order else {
        panic!("{order:?}");
    };
    assert_eq!(what, Undecided::Order("my-id".parse().unwrap()));
}

#[tokio::test]
async fn login_and_register_are_not_sent_twice() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    let (client, mut peer) = on_first(&first, &second, options()).await;
    let name = "alice".parse().unwrap();
    let email = "a@b".parse().unwrap();
    let password = Password::new("pw");
    let (registered, ()) = tokio::join!(client.register(&name, &email, &password), async {
        peer.next().await;
        drop(peer);
    });
    let what = Undecided::Registration;
    assert!(
        matches!(&registered, Err(ClientError::OutcomeUnknown { what: w, .. }) if *w == what),
        "{registered:?}"
    );
    // The connection is known to be lost: nothing of this login has been sent before.
    let (grant, ()) = tokio::join!(client.login(&name, &password, true), async {
        second.greet().await.log_in(&[]).await;
    });
    grant.unwrap();
}

#[tokio::test]
async fn a_login_in_the_data_transfer_state_uses_a_new_connection() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    let (client, mut peer) = on_first(&first, &second, options()).await;
    tokio::join!(async { client.asset_list().await.unwrap() }, serve_list(&mut peer));
    let name = "alice".parse().unwrap();
    let password = Password::new("pw");
    let (grant, ()) = tokio::join!(client.login(&name, &password, true), async {
        second.greet().await.log_in(&[]).await;
    });
    grant.unwrap();
}

#[tokio::test]
async fn a_session_that_has_ended_is_not_tried_elsewhere() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    let (client, peer) = on_first(&first, &second, options()).await;
    client.close().await;
    drop(peer);
    let (list, ()) = tokio::join!(client.asset_list(), async {
        let mut peer = first.greet().await;
        let ask = peer.expect(Request::LoginSession).await;
        peer.refuse(&ask, Reason::SessionExpired).await;
    });
    assert_eq!(list, Err(ClientError::Refused(Reason::SessionExpired.into())));
}

#[tokio::test]
async fn a_worker_without_its_master_is_passed_over() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    let (client, peer) = on_first(&first, &second, options()).await;
    client.close().await;
    drop(peer);
    let (list, ()) = tokio::join!(client.asset_list(), async {
        let mut peer = first.greet().await;
        let ask = peer.expect(Request::LoginSession).await;
        peer.refuse(&ask, Reason::Unavailable).await;
        let mut peer = second.greet_resumed().await;
        serve_list(&mut peer).await;
    });
    list.unwrap();
}

/// It may have lost its master, or may have been sent away and keep its clients.
#[tokio::test]
async fn a_worker_that_goes_on_being_unavailable_is_left_with_orders_and_reads() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    let (client, mut peer) = on_first(&first, &second, options()).await;
    let waiting = args(new_order_id());
    let id = waiting.client_order_id.clone();
    let (placed, ()) =
        tokio::join!(client.order(Side::Buy, waiting.symbol, waiting.quantity, id), async {
            let ask = peer.expect(Request::PurchaseAsset(waiting.clone())).await;
            peer.answer(&ask, queued(&waiting)).await;
        });
    let mut placed = placed.unwrap();
    let (list, mut peer) = tokio::join!(client.asset_list(), async {
        peer.expect(Request::SwitchState(State::DataTransfer)).await;
        for _ in 0..3 {
            let ask = peer.expect(Request::AssetList).await;
            peer.refuse(&ask, Reason::Unavailable).await;
        }
        let mut peer = second.greet_resumed().await;
        serve_list(&mut peer).await;
        peer
    });
    list.unwrap();
    assert_eq!(client.server(), second.address);
    // What the first one would have told is asked for here.
    let (outcome, ()) = tokio::join!(placed.outcome(), async {
        peer.expect(Request::SwitchState(State::Command)).await;
        let ask = peer.expect(Request::PurchaseAsset(waiting.clone())).await;
        peer.answer(&ask, Return::Filled(Side::Buy, filled(&waiting))).await;
    });
    assert_eq!(outcome, Ok(filled(&waiting)));

    let args = args(new_order_id());
    let id = args.client_order_id.clone();
    let (placed, ()) =
        tokio::join!(client.order(Side::Buy, args.symbol, args.quantity, id), async {
            for _ in 0..3 {
                let ask = peer.expect(Request::PurchaseAsset(args.clone())).await;
                peer.refuse(&ask, Reason::Unavailable).await;
            }
            let mut peer = first.greet_resumed().await;
            let ask = peer.expect(Request::PurchaseAsset(args.clone())).await;
            peer.answer(&ask, queued(&args)).await;
        });
    assert_eq!(placed.unwrap().queued().unwrap().order, 12);
    assert_eq!(client.server(), first.address);
}

/// A worker that was started again does not know the session, and without its master it never will.
#[tokio::test]
async fn a_worker_that_can_neither_know_nor_resume_a_session_is_left() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    let (client, mut peer) = on_first(&first, &second, options()).await;
    let (list, ()) = tokio::join!(client.asset_list(), async {
        for _ in 0..3 {
            peer.expect(Request::SwitchState(State::DataTransfer)).await;
            let ask = peer.expect(Request::AssetList).await;
            peer.refuse(&ask, Reason::SessionUnknown).await;
            peer.expect(Request::SwitchState(State::Command)).await;
            let ask = peer.expect(Request::LoginSession).await;
            peer.refuse(&ask, Reason::Unavailable).await;
        }
        let mut peer = second.greet_resumed().await;
        serve_list(&mut peer).await;
    });
    list.unwrap();
}

#[tokio::test]
async fn a_login_that_a_worker_has_no_master_for_goes_to_another_when_it_is_repeated() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    let (client, mut peer) = on_first(&first, &second, options()).await;
    let (name, password) = ("alice".parse().unwrap(), Password::new("pw"));
    let (refused, ()) = tokio::join!(client.login(&name, &password, true), async {
        let ask = peer.next().await;
        peer.refuse(&ask, Reason::Unavailable).await;
    });
    assert_eq!(refused, Err(ClientError::Refused(Reason::Unavailable.into())));
    let (grant, ()) = tokio::join!(client.login(&name, &password, true), async {
        second.greet().await.log_in(&[]).await;
    });
    grant.unwrap();
}

#[tokio::test]
async fn a_cancel_that_was_carried_out_before_the_connection_was_lost_is_a_success() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    let (client, mut peer) = on_first(&first, &second, options()).await;
    let id: ClientOrderId = "x".parse().unwrap();
    let (cancelled, ()) = tokio::join!(client.cancel(&id), async {
        peer.expect(Request::CancelOrder(id.clone())).await;
        drop(peer);
        let mut peer = second.greet_resumed().await;
        let ask = peer.expect(Request::CancelOrder(id.clone())).await;
        peer.refuse(&ask, Reason::OrderDone).await;
        peer.expect(Request::SwitchState(State::DataTransfer)).await;
        let ask = peer.expect(Request::Order(id.clone())).await;
        let order = OrderLine {
            order: 1,
            client_order_id: "x".into(),
            side: Side::Buy,
            symbol: "AAPL".parse().unwrap(),
            quantity: "1".parse().unwrap(),
            hold: Default::default(),
            status: OrderStatus::Cancelled,
            reason: String::new(),
            fill: None,
            received: WallTime(1),
            received_market: MarketTime(1),
            decided: Some(WallTime(2)),
            decided_market: Some(MarketTime(2)),
        };
        peer.data(&ask, &order).await;
    });
    cancelled.unwrap();
}

#[tokio::test]
async fn logging_out_of_a_session_that_has_ended_is_a_success() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    let (client, mut peer) = on_first(&first, &second, options()).await;
    let (left, ()) = tokio::join!(client.logout(), async {
        peer.expect(Request::Logout).await;
        drop(peer);
        let mut peer = second.greet().await;
        let ask = peer.expect(Request::LoginSession).await;
        peer.refuse(&ask, Reason::SessionUnknown).await;
    });
    left.unwrap();
    assert_eq!(client.session(), None);
}

/// A stream of more symbols than one message holds, whose connection is lost between the messages.
#[tokio::test]
async fn a_price_stream_that_moves_while_it_is_opened_has_all_its_symbols() {
    use papertrader_protocol::request::Symbols;
    let symbols: Vec<papertrader_core::names::Symbol> =
        (0..600).map(|n| format!("S{n}").parse().unwrap()).collect();
    let (first, second) = (Worker::start().await, Worker::start().await);
    let (client, mut peer) = on_first(&first, &second, options()).await;
    let mut heard = Vec::new();
    let serving = async {
        let asked = peer.expect(Request::UnsubscribeAssets(Symbols::All)).await;
        peer.answer(&asked, Return::Subscribed("0".into())).await;
        let asked = peer.next().await;
        peer.answer(&asked, Return::Subscribed("500".into())).await;
        // The second message comes, and the worker dies.
        peer.next().await;
        drop(peer);
        let mut peer = second.greet_resumed().await;
        // Whatever it asks the second worker for is granted.
        loop {
            let asked = peer.next().await;
            match &asked.request {
                Request::SubscribeAssets(Symbols::These(some)) => {
                    heard.extend(some.iter().copied())
                }
                _ => heard.clear(),
            }
            let count = heard.len().to_string();
            peer.answer(&asked, Return::Subscribed(count)).await;
        }
    };
    tokio::select! {
        stream = client.watch_prices(&symbols) => drop(stream.unwrap()),
        () = serving => {}
    }
    assert_eq!(heard, symbols, "what the second worker was asked for");
}

/// A part of it is refused: the next call begins anew, and does not go on with the other parts.
#[tokio::test]
async fn a_price_stream_is_open_with_all_its_parts_or_not_at_all() {
    use papertrader_protocol::request::Symbols;
    let symbols: Vec<papertrader_core::names::Symbol> =
        (0..600).map(|n| format!("S{n}").parse().unwrap()).collect();
    let (first, second) = (Worker::start().await, Worker::start().await);
    let (client, mut peer) = on_first(&first, &second, options()).await;
    let grant = |count: &str| Return::Subscribed(count.into());
    let (stream, ()) = tokio::join!(client.watch_prices(&symbols), async {
        for count in ["0", "500", "600"] {
            let asked = peer.next().await;
            peer.answer(&asked, grant(count)).await;
        }
    });
    let mut stream = stream.unwrap();
    drop(peer);
    let (refused, mut peer) = tokio::join!(stream.next(), async {
        let mut peer = second.greet_resumed().await;
        for count in ["0", "500"] {
            let asked = peer.next().await;
            peer.answer(&asked, grant(count)).await;
        }
        let asked = peer.next().await;
        let why = Reason::UnknownAsset.into();
        peer.answer(&asked, Return::Failed(papertrader_protocol::Instruction::SubscribeFail, why))
            .await;
        peer
    });
    assert!(matches!(refused, Err(ClientError::Refused(_))), "{refused:?}");
    // What is asked next, of the stream and of a ping behind it.
    tokio::select! {
        biased;
        next = stream.next() => panic!("it goes on with a part: {next:?}"),
        pong = client.ping() => panic!("nobody has answered: {pong:?}"),
        asked = peer.next() => assert_eq!(asked.request, Request::UnsubscribeAssets(Symbols::All)),
    }
}

#[tokio::test]
async fn to_watch_nothing_is_refused() {
    let (first, second) = (Worker::start().await, Worker::start().await);
    let (client, _peer) = on_first(&first, &second, options()).await;
    let refused = client.watch_prices(&[]).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused(why) if why.reason == Reason::BadArguments));
}
