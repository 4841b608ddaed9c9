//! The master is away: what becomes of orders meanwhile, what clients are told, and what they find out
//! when it is back.
//!
//! Invariant: the worker never stops. What is awaited is a line or an answer, never a time.

use std::path::Path;

use papertrader_client::{Client, ClientError, Options, Password};
use papertrader_core::names::ClientOrderId;
use papertrader_core::order::Side;
use papertrader_protocol::Reason;
use tokio::runtime::Runtime;

use crate::cli::{User, program};
use crate::place::{Place, edit, serve};
use crate::process::{Running, address};

/// A master and a worker that keeps orders for so long, and a user at it.
fn scene(order_wait: &str) -> (Place, Running, Running, Client, Runtime) {
    let place = Place::new();
    let master = place.start_master();
    let file = place.worker("one", &[]);
    edit(&file, "#order_wait = \"10s\"", &format!("order_wait = \"{order_wait}\""));
    let mut worker = serve("worker", &file);
    let server = address(&worker.line_with("worker ready on "));
    let runtime = Runtime::new().unwrap();
    let client = runtime.block_on(async {
        let client = Client::connect(&[server], Options::default()).await.unwrap();
        let (name, password) = ("alice".parse().unwrap(), Password::new("secret-pw"));
        client.register(&name, &"alice@example.org".parse().unwrap(), &password).await.unwrap();
        client.login(&name, &password, true).await.unwrap();
        client
    });
    (place, master, worker, client, runtime)
}

fn id(text: &str) -> ClientOrderId {
    text.parse().unwrap()
}

async fn buy(client: &Client, quantity: &str, id: &ClientOrderId) -> Result<u64, ClientError> {
    let (aapl, quantity) = ("AAPL".parse().unwrap(), quantity.parse().unwrap());
    let mut order = client.order(Side::Buy, aapl, quantity, id.clone()).await?;
    match order.queued() {
        Some(queued) => Ok(queued.order),
        None => order.outcome().await.map(|fill| fill.order),
    }
}

#[test]
fn orders_wait_for_the_master_and_go_out_in_order_of_time() {
    let (place, mut master, mut worker, client, runtime) = scene("600s");
    master.kill();
    worker.line_with("the link to the master is lost");
    let ids = [id("first"), id("second"), id("third")];
    let (numbers, _master) = runtime.block_on(async {
        let orders = async {
            tokio::join!(
                buy(&client, "3", &ids[0]),
                buy(&client, "1", &ids[1]),
                buy(&client, "2", &ids[2])
            )
        };
        let back = async {
            // One connection is read in order: the worker has all three when it answers this.
            client.ping().await.unwrap();
            place.start_master()
        };
        tokio::join!(orders, back)
    });
    let numbers = [numbers.0.unwrap(), numbers.1.unwrap(), numbers.2.unwrap()];
    assert!(numbers.is_sorted(), "{numbers:?}");
    for (id, number) in ids.iter().zip(numbers) {
        assert_eq!(runtime.block_on(client.order_by_id(id)).unwrap().order, number);
    }
}

#[test]
fn an_order_that_waited_too_long_is_refused_for_good_and_its_id_is_free() {
    let (place, mut master, mut worker, client, runtime) = scene("500ms");
    let sent = id("before");
    let number = runtime.block_on(buy(&client, "1", &sent)).unwrap();
    master.kill();
    worker.line_with("the link to the master is lost");
    let late = id("late");
    match runtime.block_on(buy(&client, "1", &late)) {
        Err(ClientError::Refused(failure)) => {
            assert_eq!(failure.reason, Reason::DeadlinePassed);
            assert!(failure.text.contains("will not happen"), "{failure:?}");
        }
        other => panic!("{other:?}"),
    }
    let _master = place.start_master();
    worker.line_with("the link to the master is up");
    let order = |id: &ClientOrderId| runtime.block_on(client.order_by_id(id));
    assert_eq!(order(&late), Err(ClientError::Refused(Reason::OrderNotFound.into())));
    assert_eq!(order(&sent).unwrap().order, number);
    let again = runtime.block_on(buy(&client, "1", &late)).unwrap();
    assert!(again > number);
    assert_eq!(order(&late).unwrap().order, again);
}

#[test]
fn whoever_watches_is_told_that_no_new_prices_come_and_when_they_come_again() {
    let place = Place::new();
    let mut master = place.start_master();
    let mut worker = serve("worker", &place.worker("one", &[]));
    let server = address(&worker.line_with("worker ready on "));
    let alice = User::new(&place.path("users"), "alice", &server);
    alice.join();
    let mut watching =
        [watch(&alice.config, &server, &[]), watch(&alice.config, &server, &["--json"])];
    for watching in &mut watching {
        watching.line_with("AAPL");
    }
    master.kill();
    let [people, programs] = &mut watching;
    people.line_with("no new prices come: the servers' master may be away");
    programs.line_with("{\"still\":true,\"snapshot\":");
    let _master = place.start_master();
    people.line_with("new prices come again");
    programs.line_with("{\"still\":false,\"snapshot\":");
    for watching in &mut watching {
        assert_eq!(watching.end_by("INT").code(), Some(0), "{watching:?}");
    }
}

fn watch(config: &Path, server: &str, more: &[&str]) -> Running {
    let mut command = program();
    command.args(["watch", "AAPL", "--server", server]).args(more);
    Running::start(command.arg("--config-dir").arg(config))
}
