//! What the operator does to the registry of workers while the master runs: who is added gets in,
//! who is not in it any more is cut off, and the list that clients get follows at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use papertrader_core::ids::WorkerId;
use papertrader_core::time::WallTime;
use papertrader_master::admin::message::{
    NewWorker, Status, WorkerAdded, WorkerAdmitted, WorkerBooted, WorkerDetail, WorkerLine,
    WorkerRemoved, WorkerState,
};
use papertrader_master::admin::{AdminReply, AdminRequest, ClientError, SOCKET};
use papertrader_node::clock::Clock;
use papertrader_node::link::{ConnectError, default_id};
use papertrader_node::openpgp::Identity;
use papertrader_protocol::data::WorkerList;
use papertrader_protocol::returns::Return;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Request, SessionId};
use papertrader_store::Store;
use papertrader_store::sqlite::SqliteStore;

use crate::gpg::{DAY, Gpg};
use crate::harness::*;

/// A key of a worker that nobody knows yet.
fn identity(name: &str) -> Arc<Identity> {
    let now = Clock::system(WallTime(0)).now();
    Arc::new(Identity::generate(name, now).unwrap())
}

fn new(name: &str, uuid: Option<WorkerId>, key: &Identity, address: &str) -> NewWorker {
    NewWorker {
        name: name.into(),
        uuid: uuid.map(|uuid| uuid.to_string()),
        key: key.certificate().to_bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
        addresses: vec![address.into()],
    }
}

async fn add(dir: &Path, new: NewWorker) -> WorkerAdded {
    match operator(dir, AdminRequest::AddWorker(new)).await.unwrap() {
        AdminReply::WorkerAdded(added) => added,
        other => panic!("{other:?}"),
    }
}

async fn boot(dir: &Path, name: &str) -> WorkerBooted {
    let request = AdminRequest::BootWorker { name: name.into(), for_ms: None, compromised: false };
    match operator(dir, request).await.unwrap() {
        AdminReply::WorkerBooted(booted) => booted,
        other => panic!("{other:?}"),
    }
}

async fn admit(dir: &Path, name: &str) -> WorkerAdmitted {
    match operator(dir, AdminRequest::AdmitWorker { name: name.into() }).await.unwrap() {
        AdminReply::WorkerAdmitted(admitted) => admitted,
        other => panic!("{other:?}"),
    }
}

async fn show(dir: &Path, name: &str) -> WorkerDetail {
    match operator(dir, AdminRequest::ShowWorker { name: name.into() }).await.unwrap() {
        AdminReply::Worker(worker) => *worker,
        other => panic!("{other:?}"),
    }
}

async fn listed(dir: &Path) -> Vec<WorkerLine> {
    match operator(dir, AdminRequest::ListWorkers {}).await.unwrap() {
        AdminReply::Workers(list) => list.workers,
        other => panic!("{other:?}"),
    }
}

async fn status(dir: &Path) -> Status {
    match operator(dir, AdminRequest::Status {}).await.unwrap() {
        AdminReply::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

async fn refusal(dir: &Path, request: AdminRequest) -> String {
    match operator(dir, request).await {
        Err(ClientError::Refused(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    }
}

/// The names of the workers that a client is told of by the master.
async fn told(master: &TestMaster) -> Vec<String> {
    let mut client = FakeWorker::connect_as_client(master.address).await;
    client.send_as_client(&Request::GetWorkerList).await;
    let list = WorkerList::from_bytes(&client.receive().await.data).unwrap();
    list.workers.into_iter().map(|worker| worker.name).collect()
}

/// Takes what is still said until the link ends.
async fn until_cut(worker: &mut FakeWorker) {
    while worker.try_receive().await.is_some() {}
}

/// Whether the link still answers.
async fn answers(worker: &mut FakeWorker) {
    let pong = worker.ask(SessionId::NONE, &Request::Ping("there".into())).await;
    assert_eq!(pong, Return::Pong("there".into()));
}

async fn is_refused(master: &TestMaster, id: WorkerId, key: &Arc<Identity>) {
    let refused = FakeWorker::try_connect(master.address, &side(id, key)).await;
    assert!(matches!(refused, Err(ConnectError::Refused(_))), "{:?}", refused.err());
}

async fn connect(master: &TestMaster, id: WorkerId, key: &Arc<Identity>) -> FakeWorker {
    FakeWorker::try_connect(master.address, &side(id, key)).await.unwrap().welcomed().await
}

async fn started() -> (TestMaster, PathBuf) {
    TestMaster::start_with_operator(Setup::default()).await
}

#[tokio::test]
async fn who_is_added_gets_in_and_who_is_removed_is_cut_off() {
    let (master, dir) = started().await;
    let mut one = FakeWorker::connect(master.address, WORKERS[0]).await;
    assert_eq!(one.worker_list().await.workers.len(), 1);
    let key = identity("three");
    let id = default_id(key.certificate());
    is_refused(&master, id, &key).await;

    let added = add(&dir, new("three", None, &key, "127.0.0.0/8")).await;
    assert_eq!((&added.uuid, added.replaced, added.link_cut), (&id.to_string(), false, false));
    assert_eq!(show(&dir, "three").await.state, WorkerState::Away);
    let mut three = connect(&master, id, &key).await;
    assert_eq!(one.worker_list().await.workers.len(), 2);
    assert_eq!(told(&master).await, ["three", "worker-0"]);
    let shown = show(&dir, "three").await;
    assert_eq!((shown.state, shown.uuid), (WorkerState::Connected, id.to_string()));
    assert_eq!(shown.key.unwrap().fingerprint, key.certificate().fingerprint().to_string());
    let live = shown.live.unwrap();
    assert_eq!((live.version.as_str(), live.report), ("test", None));
    let now = status(&dir).await;
    assert_eq!((now.workers_connected, now.workers_registered), (2, 3));
    assert_eq!(now.certificate, KEYS.certificate.fingerprint().to_string());
    assert_eq!(now.key, KEYS.master.certificate().fingerprint().to_string());

    let remove = || AdminRequest::RemoveWorker { name: "three".into() };
    let removed = operator(&dir, remove()).await.unwrap();
    let expected = WorkerRemoved { name: "three".into(), uuid: id.to_string(), link_cut: true };
    assert_eq!(removed, AdminReply::WorkerRemoved(expected));
    assert_eq!(told(&master).await, ["worker-0"]);
    assert_eq!(one.worker_list().await.workers.len(), 1);
    until_cut(&mut three).await;
    is_refused(&master, id, &key).await;
    assert_eq!(refusal(&dir, remove()).await, "unknownWorker");
    let names: Vec<String> = listed(&dir).await.into_iter().map(|worker| worker.name).collect();
    assert_eq!(names, ["worker-0", "worker-1"]);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_boot_outlives_a_restart_and_ends_when_the_worker_is_admitted() {
    let (master, path) = started().await;
    let mut one = FakeWorker::connect(master.address, WORKERS[0]).await;
    let mut two = FakeWorker::connect(master.address, WORKERS[1]).await;
    let alice = one.new_session("alice").await;
    let booted = boot(&path, "worker-0").await;
    assert!(booted.link_cut && booted.until.is_none() && !booted.compromised);
    assert_eq!((booted.sessions_ended, booted.passwords_due), (0, 0));
    assert_eq!(told(&master).await, ["worker-1"]);
    until_cut(&mut one).await;
    is_refused(&master, WORKERS[0], &KEYS.workers[0]).await;
    // Nothing is lost by it: the session goes on at the other worker.
    assert!(matches!(two.ask(alice, &Request::LoginSession).await, Return::Session(_)));

    let (dir, result) = master.end().await;
    result.unwrap();
    let mut setup = Setup::default();
    setup.config.admin = Some(path.clone());
    let master = TestMaster::start_in(dir, setup).await;
    is_refused(&master, WORKERS[0], &KEYS.workers[0]).await;
    let shown = show(&path, "worker-0").await;
    assert_eq!(shown.state, WorkerState::Booted);
    assert!(shown.booted.is_some_and(|boot| boot.until.is_none() && !boot.compromised));
    assert_eq!(listed(&path).await[0].state, WorkerState::Booted);

    assert!(admit(&path, "worker-0").await.was_booted);
    assert!(!admit(&path, "worker-0").await.was_booted);
    let mut one = FakeWorker::connect(master.address, WORKERS[0]).await;
    answers(&mut one).await;
    // One with an end says when it is; to be added again ends it too.
    let for_ms = Some(3_600_000);
    let request = AdminRequest::BootWorker { name: "worker-0".into(), for_ms, compromised: false };
    operator(&path, request).await.unwrap();
    until_cut(&mut one).await;
    let line = listed(&path).await.swap_remove(0);
    assert!(line.state == WorkerState::Booted && line.booted_until.is_some(), "{line:?}");
    let again = new("worker-0", Some(WORKERS[0]), &KEYS.workers[0], "127.0.0.1");
    let added = add(&path, again).await;
    assert!(added.replaced && added.boot_lifted && !added.link_cut, "{added:?}");
    FakeWorker::connect(master.address, WORKERS[0]).await;
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_link_ends_when_what_it_rests_on_is_replaced() {
    let (master, dir) = started().await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let own = &KEYS.workers[0];
    // The same again changes nothing.
    let added = add(&dir, new("worker-0", None, own, "127.0.0.1")).await;
    assert!(added.replaced && !added.link_cut, "{added:?}");
    answers(&mut worker).await;

    let added = add(&dir, new("worker-0", None, own, "10.0.0.0/8")).await;
    assert!(added.link_cut);
    until_cut(&mut worker).await;
    is_refused(&master, WORKERS[0], own).await;
    assert!(!add(&dir, new("worker-0", None, own, "127.0.0.1")).await.link_cut);
    let mut worker = connect(&master, WORKERS[0], own).await;

    // Its UUID was chosen by hand, so that it stays with another key.
    let other = identity("worker-0");
    let added = add(&dir, new("worker-0", None, &other, "127.0.0.1")).await;
    assert!(added.link_cut && added.uuid == WORKERS[0].to_string(), "{added:?}");
    until_cut(&mut worker).await;
    assert!(FakeWorker::try_connect(master.address, &side(WORKERS[0], own)).await.is_err());
    let mut worker = connect(&master, WORKERS[0], &other).await;

    let added = add(&dir, new("renamed", Some(WORKERS[0]), &other, "127.0.0.1")).await;
    assert!(added.link_cut && added.replaced, "{added:?}");
    until_cut(&mut worker).await;
    connect(&master, WORKERS[0], &other).await;
    let names: Vec<String> = listed(&dir).await.into_iter().map(|worker| worker.name).collect();
    assert_eq!(names, ["renamed", "worker-1"]);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_link_ends_when_the_subkey_is_revoked_that_it_was_proved_with() {
    let (master, dir) = started().await;
    let mut gpg = Gpg::new();
    let key = gpg.make("ed25519", "cert", "never");
    gpg.add(key, "ed25519", "sign", "never");
    gpg.add(key, "cv25519", "encr", "never");
    let before = Arc::new(gpg.identity(key));
    let id = default_id(before.certificate());
    add(&dir, new("three", None, &before, "127.0.0.1")).await;
    let mut three = connect(&master, id, &before).await;

    // Its owner lost the subkey and made another; the key as a whole is the same.
    gpg.clock(DAY).revoke_subkey(key, 1);
    gpg.add(key, "ed25519", "sign", "never");
    let after = Arc::new(gpg.identity(key));
    assert_eq!(before.certificate().fingerprint(), after.certificate().fingerprint());
    let added = add(&dir, new("three", None, &after, "127.0.0.1")).await;
    assert!(added.replaced && added.link_cut, "{added:?}");
    until_cut(&mut three).await;
    let stolen = FakeWorker::try_connect(master.address, &side(id, &before)).await;
    assert!(stolen.is_err());
    let mut three = connect(&master, id, &after).await;
    answers(&mut three).await;
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_worker_that_was_set_up_anew_takes_its_place_over() {
    let (master, dir) = started().await;
    let (old, anew) = (identity("three"), identity("three"));
    let id = |key: &Identity| default_id(key.certificate());
    add(&dir, new("three", None, &old, "127.0.0.1")).await;
    let mut three = connect(&master, id(&old), &old).await;
    let added = add(&dir, new("three", None, &anew, "127.0.0.1")).await;
    assert_eq!(added.uuid, id(&anew).to_string());
    assert!(added.replaced && added.link_cut, "{added:?}");
    until_cut(&mut three).await;
    is_refused(&master, id(&old), &old).await;
    connect(&master, id(&anew), &anew).await;
    let lines = listed(&dir).await;
    assert_eq!(lines.len(), 3);
    // It is stored as one change.
    let (dir, result) = master.end().await;
    result.unwrap();
    let loaded = SqliteStore::open(&dir.path().join("test.db"), "other").unwrap().load().unwrap();
    assert_eq!(loaded.workers.len(), 3);
    assert!(loaded.workers.iter().any(|row| row.id == id(&anew) && row.name == "three"));
}

#[tokio::test]
async fn what_is_refused_changes_nothing() {
    let (master, dir) = started().await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let before = (listed(&dir).await, status(&dir).await.last_batch);
    let (fresh, own) = (identity("fresh"), &KEYS.workers[0]);
    let third = Some(WorkerId([3; 16]));
    let boot = |name: &str, for_ms| AdminRequest::BootWorker {
        name: name.into(),
        for_ms,
        compromised: true,
    };
    for (request, code) in [
        (AdminRequest::AddWorker(new("a b", third, &fresh, "::1")), "badWorkerName"),
        (AdminRequest::AddWorker(new("worker-0", third, &fresh, "::1")), "workerNameTaken"),
        (AdminRequest::AddWorker(new("three", third, own, "::1")), "keyTaken"),
        (AdminRequest::AddWorker(new("three", third, &KEYS.master, "::1")), "keyTaken"),
        (AdminRequest::AddWorker(new("three", third, &fresh, "home")), "badAddress"),
        (boot("nobody", None), "unknownWorker"),
        (boot("worker-0", Some(0)), "badDuration"),
        (AdminRequest::AdmitWorker { name: "nobody".into() }, "unknownWorker"),
        (AdminRequest::ShowWorker { name: "nobody".into() }, "unknownWorker"),
        (AdminRequest::DisableUser { name: "nobody".into() }, "unknownUser"),
        (AdminRequest::RevokeSession { handle: "0123456789".into() }, "unknownSession"),
    ] {
        assert_eq!(refusal(&dir, request.clone()).await, code, "{request:?}");
    }
    assert_eq!((listed(&dir).await, status(&dir).await.last_batch), before);
    answers(&mut worker).await;
    master.end().await.1.unwrap();
    // A clean end leaves no socket behind.
    assert!(!dir.join(SOCKET).exists());
}
