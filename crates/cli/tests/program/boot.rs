//! The operator sends a worker away while clients trade through it: they go on at the other one,
//! nothing that was accepted is lost, and what passed through a compromised one is worth nothing
//! any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use papertrader_client::{Client, ClientError, Options, new_order_id};
use papertrader_core::order::Side;
use papertrader_protocol::Reason;
use papertrader_protocol::data::OrderStatus;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::kill_loop::audit::audit;
use crate::kill_loop::knowledge::{Event, Known};
use crate::kill_loop::trader::{Trader, User, ask_about_all, name, password, user};
use crate::kill_loop::{Counts, Random};
use crate::place::Place;

/// Accounts that trade.
const ACCOUNTS: usize = 10;
/// Clients of each.
const CLIENTS: usize = 10;
/// Orders that are awaited before the boot, and after it.
const ORDERS: usize = 300;

/// Waits until a server has answered for this many orders more.
fn acknowledged(heard: &Receiver<Event>, count: usize) {
    // What is left from before does not count.
    while heard.try_recv().is_ok() {}
    let mut left = count;
    while left > 0 {
        let event = heard.recv_timeout(Duration::from_secs(120)).expect("the clients trade");
        left -= usize::from(event == Event::Acknowledged);
    }
}

/// The addresses of the workers that a client is told of, by a worker or by the master itself.
async fn list_from(server: &str) -> Vec<String> {
    let client = Client::connect(&[server.to_owned()], Options::default()).await.unwrap();
    let list = client.worker_list().await.unwrap();
    list.workers.into_iter().map(|worker| worker.address).collect()
}

fn reason<T>(result: Result<T, ClientError>) -> Reason {
    match result {
        Err(ClientError::Refused(failure)) => failure.reason,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it is not refused"),
    }
}

#[test]
fn a_hundred_clients_of_a_booted_worker_go_on_at_the_other_and_no_order_is_lost() {
    let mut all = Place::new().start(&["one", "two"]);
    let [first, second] = all.addresses.clone().try_into().unwrap();
    let alone = std::slice::from_ref(&second);
    let runtime = Runtime::new().unwrap();
    let servers = vec![vec![first.clone()]; CLIENTS];
    let users: Vec<User> = runtime.block_on(async {
        let users = (0..ACCOUNTS).map(|number| user(number, &servers));
        let mut made = Vec::new();
        for user in users {
            made.push(user.await.unwrap());
        }
        made
    });
    let clients: Vec<&Client> = users.iter().flat_map(|user| &user.clients).collect();
    assert_eq!(clients.len(), 100);
    for client in &clients {
        assert_eq!(client.server(), first);
        // The list comes after the session, and before this.
        runtime.block_on(client.ping()).unwrap();
        assert_eq!(client.listed().len(), 2, "{:?}", client.listed());
    }

    let (known, stop) = (Arc::new(Known::default()), Arc::new(AtomicBool::new(false)));
    let (events, heard) = channel();
    let mut random = Random::new(20_260_203);
    let mut tasks = Vec::new();
    for user in &users {
        for task in 0..CLIENTS {
            let (known, events) = (Arc::clone(&known), events.clone());
            let trader = Trader::new(user, task, random.child(), known, events);
            tasks.push(runtime.spawn(trader.trade(Arc::clone(&stop))));
        }
    }
    drop(events);
    acknowledged(&heard, ORDERS);

    let booted = all.place.admin(&["workers", "boot", "one"]);
    assert_eq!((&booted["link_cut"], &booted["compromised"]), (&json!(true), &json!(false)));
    // At once: the answer comes after it.
    let shown = all.place.admin(&["workers", "show", "one"]);
    assert_eq!((&shown["state"], &shown["live"]), (&json!("booted"), &Value::Null), "{shown}");
    let master = all.place.master_address();
    assert_eq!(runtime.block_on(list_from(&master)), alone);
    all.workers[0].line_with("the link to the master is lost");
    all.workers[0].line_with("the master refuses this worker");
    all.workers[0].line_with("the clients are sent to other workers");

    acknowledged(&heard, ORDERS);
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    for user in &users {
        for client in &user.clients {
            let info = runtime.block_on(client.user_info(&name(user.number))).unwrap();
            assert_eq!(info.name, name(user.number).as_str());
            assert_eq!(client.server(), second);
            assert_eq!(client.listed(), alone);
        }
    }
    assert_eq!(runtime.block_on(list_from(&second)), alone);
    // Nor does the booted one take anybody new.
    let refused = runtime.block_on(Client::connect(&[first], Options::default()));
    assert!(matches!(refused, Err(ClientError::NoServer { .. })), "{refused:?}");

    known.contradictions().unwrap();
    let mut counts = Counts::default();
    runtime.block_on(ask_about_all(&users, &known, &mut counts)).unwrap();
    known.contradictions().unwrap();
    drop(users);
    all.end();
    let audited = audit(&all.place.data().join("papertrader.db"), &known, &mut counts);
    audited.unwrap_or_else(|problem| panic!("{problem}\n{counts}"));
    // It would prove nothing if nothing had happened.
    assert!(counts.acknowledged >= 2 * ORDERS && counts.filled > ORDERS, "{counts}");
}

#[test]
fn what_passed_through_a_compromised_worker_ends_everywhere_and_nothing_else() {
    let mut all = Place::new().start(&["one", "two"]);
    let [first, second] = all.addresses.clone().try_into().unwrap();
    let runtime = Runtime::new().unwrap();
    let (victim, other) = runtime.block_on(async {
        // One client on each worker, with the same session.
        let victim = user(0, &[vec![first.clone()], vec![second.clone()]]).await.unwrap();
        let other = user(1, &[vec![second.clone()]]).await.unwrap();
        (victim, other)
    });
    let [through_one, through_two] = &victim.clients[..] else { panic!() };
    let (symbol, one) = ("AAPL".parse().unwrap(), "1".parse().unwrap());
    let id = new_order_id();
    let mut placed =
        runtime.block_on(through_one.order(Side::Buy, symbol, one, id.clone())).unwrap();
    let fill = runtime.block_on(placed.outcome()).unwrap();
    drop(placed);

    let booted = all.place.admin(&["workers", "boot", "one", "--compromised"]);
    let expected = json!([true, true, 1, 1]);
    let names = ["link_cut", "compromised", "sessions_ended", "passwords_due"];
    assert_eq!(Value::from_iter(names.map(|name| booted[name].clone())), expected, "{booted}");

    all.workers[0].line_with("the clients are sent to other workers");
    // The one learns at the other worker what the other learns there.
    for client in [through_one, through_two] {
        let why = reason(runtime.block_on(client.user_info(&name(0))));
        assert!(matches!(why, Reason::SessionUnknown | Reason::SessionExpired), "{why:?}");
    }
    // The old password is good for a new one, and for nothing else.
    runtime.block_on(async {
        through_two.login(&name(0), &password(0), true).await.unwrap();
        let refused = through_two.user_info(&name(0)).await;
        assert_eq!(reason(refused), Reason::PasswordChangeRequired);
        let refused = through_two.order(Side::Buy, symbol, one, new_order_id()).await;
        assert_eq!(reason(refused), Reason::PasswordChangeRequired);
    });
    // Who never came near it has not noticed anything.
    let mut placed =
        runtime.block_on(other.clients[0].order(Side::Buy, symbol, one, new_order_id())).unwrap();
    runtime.block_on(placed.outcome()).unwrap();
    runtime.block_on(other.clients[0].login(&name(1), &password(1), true)).unwrap();

    // With a new password all is there.
    runtime.block_on(async {
        let new = papertrader_client::Password::new("another password");
        through_two.change_password(&name(0), &password(0), &new).await.unwrap();
        let refused = through_two.login(&name(0), &password(0), true).await;
        assert_eq!(reason(refused), Reason::BadCredentials);
        through_two.login(&name(0), &new, true).await.unwrap();
        let orders = through_two.orders(&name(0)).await.unwrap().orders;
        let [order] = &orders[..] else { panic!("{orders:?}") };
        assert_eq!((order.client_order_id.as_str(), order.order), (id.as_str(), fill.order));
        assert_eq!(order.status, OrderStatus::Filled);
    });
    all.end();
}
