//! A master and its workers, started together, moved tick by tick, and ended with a check.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use papertrader_core::ids::WorkerId;
use papertrader_core::time::{Date, MarketTime, SECOND, WallTime};
use papertrader_market::{PriceSource, Replay, ReplayConfig, Synthetic, SyntheticConfig};
use papertrader_master::{Entrance, Master, Ticks};
use papertrader_node::clock::Clock;
use papertrader_node::link::{MasterKey, MasterSide, WorkerSide};
use papertrader_node::openpgp::Identity;
use papertrader_node::shutdown::{self, Trigger};
use papertrader_node::tls;
use papertrader_protocol::Instruction;
use papertrader_protocol::data::WorkerList;
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{Batch, Change, Store, WorkerRow};
use papertrader_worker::Worker;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::peer::Peer;

/// The market time between steps that most tests use.
pub(crate) const HALF_HOUR: i64 = 1_800 * SECOND;

/// Fails a test that would hang; says nothing about speed.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), future).await.expect("a test hangs")
}

/// What a test may choose.
pub(crate) struct Setup {
    pub(crate) master: papertrader_master::Config,
    pub(crate) start: &'static str,
    pub(crate) step: i64,
    pub(crate) workers: u8,
    /// How many synthetic instruments there are; 0 for the recorded ones.
    pub(crate) synthetic: usize,
}

impl Default for Setup {
    fn default() -> Setup {
        let master = papertrader_master::Config::default();
        Setup { master, start: "2005-02-25", step: HALF_HOUR, workers: 1, synthetic: 0 }
    }
}

struct Running {
    worker: Worker,
    trigger: Trigger,
    probe: Peer,
}

/// A trader who buys the smallest quantity at each step.
struct Metronome {
    worker: usize,
    peer: Peer,
    orders: u32,
    open: Option<u64>,
}

/// A running system.
pub(crate) struct Scene {
    dir: TempDir,
    ticks: mpsc::Sender<()>,
    trigger: Trigger,
    master: Master,
    workers: Vec<Option<Running>>,
    /// Whose order is open while a step is under way: its fill says that the step was settled.
    metronome: Option<Metronome>,
    metronomes: u32,
    /// What the metronome buys.
    symbol: &'static str,
    /// A worker that is registered and does not run: a test may be it.
    pub(crate) outside: WorkerSide,
    /// The market time that every worker has reached.
    pub(crate) market: MarketTime,
}

impl Scene {
    /// Starts everything and waits until every worker knows of every other.
    pub(crate) async fn start(setup: Setup) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let mut store = SqliteStore::open(&dir.path().join("store.db"), "deployment").unwrap();
        let keys: Vec<Arc<Identity>> =
            (1..=setup.workers + 1).map(|n| key(&worker_name(n))).collect();
        register(&mut store, &keys);
        let protocols = [tls::CLIENT_PROTOCOL, tls::LINK_PROTOCOL];
        let certificate = tls::Certificate::self_made(dir.path(), &protocols).unwrap();
        let side = MasterSide::new(certificate, key("master"));
        let (fingerprint, master_key) = (side.fingerprint(), side.key().clone());
        let start = Date::parse(setup.start).unwrap();
        let (step, seed, instruments) = (setup.step, 7, setup.synthetic);
        let source: Arc<dyn PriceSource> = if instruments > 0 {
            let config = SyntheticConfig { instruments, seed, start, step };
            Arc::new(Synthetic::new(config).unwrap())
        } else {
            Arc::new(Replay::bundled(ReplayConfig { start, step, seed }).unwrap())
        };
        let symbol = if instruments > 0 { "SYN0001" } else { "AAPL" };
        let config = setup.master;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (trigger, stop) = shutdown::channel();
        let (ticks, manual) = mpsc::channel(16);
        let master = Master::start(
            config,
            Box::new(store),
            source,
            Entrance { listener, side },
            Clock::system(WallTime(0)),
            Ticks::Manual(manual),
            stop,
        )
        .await
        .unwrap();

        let mut sides: Vec<WorkerSide> = (1..)
            .zip(keys)
            .map(|(number, identity)| WorkerSide {
                worker: WorkerId([number; 16]),
                identity,
                master: fingerprint,
                master_key: Arc::new(MasterKey::known(master_key.clone())),
            })
            .collect();
        let outside = sides.pop().unwrap();
        let mut workers = Vec::new();
        for (number, link) in (1..).zip(sides) {
            let mut config = papertrader_worker::Config::new(link, master.address().to_string());
            config.listen = "127.0.0.1:0".parse().unwrap();
            config.threads = 2;
            config.region = Some(region(number));
            config.drain = Duration::from_millis(200);
            let (trigger, stop) = shutdown::channel();
            let worker = Worker::start(config, Clock::system(WallTime(0)), stop).unwrap();
            assert!(soon(worker.ready()).await);
            let probe = Peer::connect(worker.address()).await;
            workers.push(Some(Running { worker, trigger, probe }));
        }
        let market = MarketTime(i64::MIN);
        let (metronome, metronomes) = (None, 0);
        let mut scene = Scene {
            dir,
            ticks,
            trigger,
            master,
            workers,
            metronome,
            metronomes,
            symbol,
            outside,
            market,
        };
        scene.wait_for_lists(usize::from(setup.workers)).await;
        scene.wait_for_market().await;
        scene
    }

    /// Where a worker listens.
    pub(crate) fn address(&self, worker: usize) -> SocketAddr {
        self.workers[worker].as_ref().unwrap().worker.address()
    }

    /// Where workers come to.
    pub(crate) fn master(&self) -> SocketAddr {
        self.master.address()
    }

    /// The same for the SDK: the workers here speak plain TCP.
    pub(crate) fn server(&self, worker: usize) -> String {
        format!("tcp://{}", self.address(worker))
    }

    /// A client without a session.
    pub(crate) async fn peer(&self, worker: usize) -> Peer {
        Peer::connect(self.address(worker)).await
    }

    /// A client with a new account and a session.
    pub(crate) async fn trader(&self, worker: usize, name: &str) -> Peer {
        let mut peer = self.peer(worker).await;
        peer.register(name).await;
        peer.login(name).await;
        peer
    }

    /// Lets the master take its next snapshot, without waiting for it.
    pub(crate) async fn start_tick(&mut self) {
        if self.metronome.is_none() {
            let worker = self.workers.iter().position(Option::is_some).unwrap();
            self.metronomes += 1;
            let peer = self.trader(worker, &format!("metronome-{}", self.metronomes)).await;
            self.metronome = Some(Metronome { worker, peer, orders: 0, open: None });
        }
        let metronome = self.metronome.as_mut().unwrap();
        metronome.orders += 1;
        let id = metronome.orders.to_string();
        let (what, symbol) = (Instruction::PurchaseAsset, self.symbol);
        let bought = metronome.peer.place(what, symbol, "0.00000001", &id);
        metronome.open = Some(bought.await.0);
        self.ticks.send(()).await.unwrap();
    }

    /// Waits until every worker has a later snapshot than before.
    pub(crate) async fn wait_for_market(&mut self) -> MarketTime {
        if let Some(metronome) = &mut self.metronome
            && let Some(request) = metronome.open.take()
        {
            metronome.peer.fill(request).await;
        }
        // The new prices follow right after the outcomes of the orders.
        let mut reached = MarketTime(i64::MIN);
        for running in self.workers.iter_mut().flatten() {
            loop {
                let market = running.probe.market().await;
                if market > self.market && market >= reached {
                    reached = market;
                    break;
                }
            }
        }
        self.market = reached;
        reached
    }

    /// Lets the master take its next snapshot, and waits until every worker has it.
    pub(crate) async fn tick(&mut self) -> MarketTime {
        self.start_tick().await;
        soon(self.wait_for_market()).await
    }

    /// Waits until every worker's list holds so many workers.
    pub(crate) async fn wait_for_lists(&mut self, count: usize) {
        for running in self.workers.iter_mut().flatten() {
            let asked = async {
                loop {
                    let request = running.probe.send(Instruction::GetWorkerList, &[]).await;
                    let list = running.probe.list(request).await;
                    if list.workers.len() == count {
                        return list;
                    }
                }
            };
            let list: WorkerList = soon(asked).await;
            assert!(
                list.workers
                    .iter()
                    .any(|entry| { entry.address == running.worker.address().to_string() })
            );
        }
    }

    /// Ends one worker.
    pub(crate) async fn stop_worker(&mut self, number: usize) {
        let Running { worker, trigger, probe } = self.workers[number].take().unwrap();
        drop(probe);
        if self.metronome.as_ref().is_some_and(|metronome| metronome.worker == number) {
            self.metronome = None;
        }
        trigger.pull();
        soon(worker.ended()).await;
        worker.join().unwrap();
    }

    /// Ends everything cleanly; then the stored books must agree with their own entries.
    pub(crate) async fn end(mut self) {
        for worker in 0..self.workers.len() {
            if self.workers[worker].is_some() {
                self.stop_worker(worker).await;
            }
        }
        self.trigger.pull();
        soon(self.master.ended()).await.unwrap();
        let path = self.dir.path().join("store.db");
        let mut store = SqliteStore::open(&path, "deployment").unwrap();
        assert_eq!(store.verify().unwrap(), []);
        store.load().unwrap().books.check().unwrap();
    }
}

/// Each worker is in a region of its own, numbered from 1.
pub(crate) fn region(number: u8) -> String {
    format!("region-{number}")
}

fn worker_name(number: u8) -> String {
    format!("worker-{number}")
}

fn key(name: &str) -> Arc<Identity> {
    Arc::new(Identity::generate(name, Clock::system(WallTime(0)).now()).unwrap())
}

/// Puts the workers into the registry.
fn register(store: &mut SqliteStore, keys: &[Arc<Identity>]) {
    let loaded = store.load().unwrap();
    let rows = (1..).zip(keys).map(|(number, key)| WorkerRow {
        id: WorkerId([number; 16]),
        name: worker_name(number),
        allowed: "127.0.0.1".into(),
        key: Some(key.certificate().to_bytes().to_vec()),
        booted: None,
    });
    let mut number = loaded.last_batch;
    number.0 += 1;
    let changes = rows.map(Change::PutWorker).collect();
    store.commit(&Batch { number, wall: loaded.last_wall.plus_nanos(1), changes }).unwrap();
}
