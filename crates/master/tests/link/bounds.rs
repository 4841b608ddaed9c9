//! What the port takes, what the log is told of strangers; and that the
//! operator sees it all.

use std::path::Path;

use papertrader_core::ids::WorkerId;
use papertrader_master::admin::message::{LimitsInForce, RateLimit, Status};
use papertrader_master::admin::{AdminReply, AdminRequest};
use papertrader_node::link::ConnectError;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::events;
use crate::harness::*;
use crate::hostile::started;

async fn status(dir: &Path) -> Status {
    match operator(dir, AdminRequest::Status {}).await.unwrap() {
        AdminReply::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

/// Waits until so many places of the port are taken.
async fn until_taken(dir: &Path, expected: u64, strangers: u64) {
    loop {
        let port = status(dir).await.port;
        if (port.expected, port.strangers) == (expected, strangers) {
            return;
        }
    }
}

async fn boot(dir: &Path, name: &str, for_ms: Option<u64>) {
    let boot = AdminRequest::BootWorker { name: name.into(), for_ms, compromised: false };
    let reply = operator(dir, boot).await.unwrap();
    assert!(matches!(reply, AdminReply::WorkerBooted(_)), "{reply:?}");
}

#[tokio::test]
async fn the_operator_sees_the_limits_and_the_places_of_the_port() {
    let mut setup = Setup::default();
    setup.config.port.expected = 3;
    setup.config.port.strangers = 1;
    setup.config.limits.login_worker.burst = 77;
    let limits = LimitsInForce::from(&setup.config);
    let (master, dir, _one, _two) = started(setup).await;
    let seen = status(&dir).await;
    assert_eq!(seen.limits, limits);
    assert_eq!(seen.limits.login_worker, RateLimit { burst: 77, every_ms: 50 });
    assert_eq!((seen.limits.port.expected, seen.limits.port.stay_ms), (3, 120_000));
    assert_eq!((seen.port.expected, seen.port.strangers), (2, 0));

    let third = TcpStream::connect(master.address).await.unwrap();
    let mut fourth = TcpStream::connect(master.address).await.unwrap();
    assert!(!matches!(fourth.read(&mut [0]).await, Ok(1..)));
    let seen = status(&dir).await.port;
    assert_eq!((seen.expected, seen.expected_turned_away), (3, 1));
    drop(third);

    // Where all are booted, be it for a time, everybody is a stranger.
    boot(&dir, "worker-0", Some(3_600_000)).await;
    boot(&dir, "worker-1", None).await;
    until_taken(&dir, 0, 0).await;
    let _stranger = FakeWorker::connect_as_client(master.address).await;
    let mut other = TcpStream::connect(master.address).await.unwrap();
    assert!(!matches!(other.read(&mut [0]).await, Ok(1..)));
    let seen = status(&dir).await.port;
    assert_eq!((seen.expected, seen.strangers), (0, 1));
    assert_eq!((seen.expected_turned_away, seen.strangers_turned_away), (1, 1));
    master.pass_time(3_600);
    FakeWorker::connect_in_time_of(&master, WORKERS[0]).await;
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn many_strangers_do_not_fill_the_log_nor_hide_why_a_worker_is_refused() {
    let (master, dir, _one, _two) = started(Setup::default()).await;
    boot(&dir, "worker-1", None).await;
    master.pass_time(3_600);
    let refused = async |id| {
        let side = side(id, &KEYS.workers[1]);
        let told = FakeWorker::try_connect(master.address, &side).await.err();
        assert!(matches!(told, Some(ConnectError::Refused(_))), "{told:?}");
    };
    let written = async |texts: &[&str]| {
        while !events::written(texts) {
            tokio::task::yield_now().await;
        }
    };
    let unknown = WorkerId([77; 16]);
    for _ in 0..57 {
        refused(unknown).await;
    }
    until_taken(&dir, 1, 0).await;
    let name = unknown.to_string();
    assert_eq!(events::about(&name).len(), 20);
    refused(WORKERS[1]).await;
    written(&["a worker was refused", "worker worker-1 was booted"]).await;
    master.pass_time(60);
    refused(unknown).await;
    written(&["more refusals were left out", "of=strangers", "number=37"]).await;
    until_taken(&dir, 1, 0).await;
    assert_eq!(events::about(&name).len(), 21);
    master.end().await.1.unwrap();
}
