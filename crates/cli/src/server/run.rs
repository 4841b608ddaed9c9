//! Runs one server in this process until it is told to end.
//!
//! A server says on standard output one line when it is ready: `master ready on HOST:PORT`. It
//! drains and ends at SIGTERM and Ctrl-C; a supervised one ends when its standard input closes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use papertrader_master::{Entrance, standby};
use papertrader_node::clock::Clock;
use papertrader_node::config::load;
use papertrader_node::log::EventLog;
use papertrader_node::shutdown::{self, Trigger};
use papertrader_node::{info, log, warn};
use papertrader_store::directory::lock_directory;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::settings::{MasterSettings, WorkerSettings};
use super::{ServerError, remark, say};

/// How long to wait for a process that may still be ending to leave the data directory.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(10);
/// After how long a worker that waits for its master says so.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the event log goes to its file, full or not.
const FLUSH: Duration = Duration::from_secs(2);

/// Runs the master.
pub(super) fn master(file: &Path, supervised: bool) -> Result<(), ServerError> {
    let settings: MasterSettings = load(Some(file), "PAPERTRADER_MASTER_", ())?;
    let base = directory_of(file);
    let data = settings.data(base);
    let config = papertrader_master::Config { admin: Some(data.clone()), ..settings.config()? };
    let lock = lock_directory(&data, LOCK_WAIT)?;
    let mut log_config = settings.log.clone();
    log_config.file.get_or_insert_with(|| data.join("master.log"));
    let log = log::init(&log_config)?;
    let source = settings.prices.source()?;
    let deployment = uuid::Uuid::new_v4().to_string();
    let side = settings.side(base)?;
    // What is wrong with a standby's port should be known before it is needed.
    let (store, standby) = if settings.standby {
        drop(
            std::net::TcpListener::bind(settings.listen)
                .map_err(|error| no_port(settings.listen, error))?,
        );
        (None, Some(settings.database.standby(&deployment)?))
    } else {
        (Some(settings.database.open(&data, &deployment)?), None)
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        let (trigger, shutdown) = shutdown::channel();
        watch_for_the_end(trigger, supervised, &log)?;
        let clock = Clock::system(Default::default());
        let store = match (store, standby) {
            (Some(store), _) => store,
            (None, Some(standby)) => {
                let waits = |active: &str| {
                    // Nobody need read it.
                    let _ = say(&format!("master waits as a standby; active is: {active}"));
                };
                let admin = Some(data.as_path());
                match standby::wait(standby, admin, &clock, shutdown.clone(), waits).await? {
                    Some(store) => Box::new(store),
                    None => return Ok(()),
                }
            }
            (None, None) => return Ok(()),
        };
        let listener = TcpListener::bind(settings.listen)
            .await
            .map_err(|error| no_port(settings.listen, error))?;
        let ticks = papertrader_master::Ticks::Every(settings.interval.duration());
        let master = papertrader_master::Master::start(
            config,
            store,
            source,
            Entrance { listener, side },
            clock,
            ticks,
            shutdown,
        )
        .await?;
        info!(address = %master.address(), "the master is ready");
        // Nobody need read it.
        let _ = say(&format!("master ready on {}", master.address()));
        master.ended().await?;
        Ok(())
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    if let Err(error) = &result {
        papertrader_node::error!(%error, "the master stops");
    }
    log.flush()?;
    drop(lock);
    result
}

fn no_port(address: SocketAddr, error: std::io::Error) -> ServerError {
    ServerError::Listen { address: address.to_string(), error }
}

/// Runs a worker.
pub(super) fn worker(file: &Path, supervised: bool) -> Result<(), ServerError> {
    let settings: WorkerSettings = load(Some(file), "PAPERTRADER_WORKER_", ())?;
    let home = directory_of(file);
    let config = settings.config(home)?;
    let mut log_config = settings.log.clone();
    let beside = home.join("worker.log");
    let log_file = log_config.file.get_or_insert(beside).clone();
    let master = settings.master.to_string();
    // What clients remember: they may compare it with this.
    let certificate = config.tls.as_ref().map_or("none".into(), |it| it.fingerprint().to_string());
    let log = log::init(&log_config)?;
    let (trigger, shutdown) = shutdown::channel();
    let worker =
        papertrader_worker::Worker::start(config, Clock::system(Default::default()), shutdown)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        watch_for_the_end(trigger, supervised, &log)?;
        let ready = worker.ready();
        tokio::pin!(ready);
        let ready = tokio::select! {
            ready = &mut ready => ready,
            () = tokio::time::sleep(PATIENCE) => {
                remark(&format!(
                    "waiting for the master at {master}; {} says why",
                    log_file.display()
                ));
                ready.await
            }
        };
        if ready {
            info!(address = %worker.address(), %certificate, "the worker is ready");
            // Nobody need read it.
            let _ = say(&format!("worker ready on {}", worker.address()));
        }
        worker.ended().await;
        Ok::<(), ServerError>(())
    })?;
    let result = worker.join();
    info!("ended");
    log.flush()?;
    Ok(result?)
}

/// Where a configuration stands.
pub(super) fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Pulls the trigger at the first signal (or when standard input closes), and writes the log from
/// time to time and at every signal that can be caught.
fn watch_for_the_end(
    trigger: Trigger,
    supervised: bool,
    log: &EventLog,
) -> Result<(), ServerError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    let log = log.clone();
    tokio::spawn(async move {
        let mut flush = tokio::time::interval(FLUSH);
        let mut stdin = tokio::io::stdin();
        let mut byte = [0];
        loop {
            let name = tokio::select! {
                _ = flush.tick() => {
                    if let Err(error) = log.flush() {
                        warn!(%error, "the event log cannot be written");
                    }
                    continue;
                }
                // Whoever supervises gets the same Ctrl-C and says when it is this part's turn.
                _ = interrupt.recv() => {
                    if supervised {
                        continue;
                    }
                    "SIGINT"
                }
                _ = terminate.recv() => "SIGTERM",
                _ = hangup.recv() => "SIGHUP",
                _ = quit.recv() => "SIGQUIT",
                read = stdin.read(&mut byte), if supervised => match read {
                    Ok(0) | Err(_) => "the supervisor",
                    Ok(_) => continue,
                },
            };
            info!(by = name, "told to end");
            trigger.pull();
            let _ = log.flush();
            if supervised && name == "the supervisor" {
                // Nothing more to read; signals no longer matter.
                return;
            }
        }
    });
    Ok(())
}
