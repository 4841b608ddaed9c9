//! The right to be the master: a thread that renews the lease, until when the master may believe that
//! nobody else has it, and what it does when that time is over.
//!
//! Nothing here keeps anybody from writing: the store does that. What depends on the lease are answers
//! from memory, which would be old if another master had written meanwhile.
//!
//! Invariant: [`Held::is_held`] is false before anybody else may take the lease, whatever becomes of this
//! process, its thread and the network: it is counted from before the renewal was asked for, by a
//! clock that goes on while the process is stopped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use papertrader_node::{error, info, warn};
use papertrader_store::StoreError;
use papertrader_store::lease::{Lease, RENEWAL};

use crate::database::{Done, Guard};
use crate::driver::{Driver, Event, Events};
use crate::workers::LinkId;

/// Until when the lease is held. Clones speak of the same.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    /// In milliseconds since the process began to count; `None` where there is no lease: for ever.
    until: Option<Arc<AtomicU64>>,
}

impl Held {
    /// Whether nobody else can be the master now.
    pub(crate) fn is_held(&self) -> bool {
        self.until
            .as_ref()
            .is_none_or(|until| millis(Instant::now()) < until.load(Ordering::Acquire))
    }

    /// It lasts until then.
    fn lasts(&self, until: Instant) {
        if let Some(held) = &self.until {
            held.store(millis(until), Ordering::Release);
        }
    }
}

/// What has changed about the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is over.
    Lapsed,
    /// It is held again.
    Renewed,
}

/// The lease, renewed as long as this lives.
pub(crate) struct Tenure {
    held: Held,
    /// What was last known of it.
    was_held: bool,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Tenure {
    /// Starts to renew a lease that was taken a moment ago. That it is another's comes as
    /// [`Event::Database`].
    pub(crate) fn begin(lease: Option<Box<dyn Lease>>, events: &Events) -> std::io::Result<Tenure> {
        let Some(lease) = lease else {
            let held = Held { until: None };
            return Ok(Tenure { held, was_held: true, stop: None, thread: None });
        };
        // Not from its taking, which may be long ago, but from its first renewal.
        let held = Held { until: Some(Arc::default()) };
        let (stop, stopped) = channel();
        let guard = Guard { events: events.clone(), thread: "store-lease" };
        let own = held.clone();
        let thread = std::thread::Builder::new().name("store-lease".into()).spawn(move || {
            renew(lease, &own, &guard.events, |time| {
                stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
            });
        })?;
        Ok(Tenure { held, was_held: false, stop: Some(stop), thread: Some(thread) })
    }

    /// For whoever else must know.
    pub(crate) fn held(&self) -> Held {
        self.held.clone()
    }

    /// Whether nobody else can be the master now.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_held()
    }

    /// What has changed since this was asked last.
    pub(crate) fn turn(&mut self) -> Option<Turn> {
        let is_held = self.is_held();
        match (std::mem::replace(&mut self.was_held, is_held), is_held) {
            (true, false) => Some(Turn::Lapsed),
            (false, true) => Some(Turn::Renewed),
            _ => None,
        }
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Driver {
    /// Whoever does not know whether there is another master by now must answer nobody: the workers
    /// are sent to look for the other.
    pub(crate) fn tend_lease(&mut self) {
        match self.tenure.turn() {
            Some(Turn::Lapsed) => {
                error!(
                    "the lease on the database could not be renewed: no worker is served until it is"
                );
                let links: Vec<LinkId> = self.workers.links().map(|(id, _)| id).collect();
                for id in links {
                    self.workers.cut(id);
                    self.close_link(id);
                }
            }
            Some(Turn::Renewed) => info!("the lease on the database is held: workers are served"),
            None => {}
        }
    }
}

/// Renews until the lease is another's, or `wait` says that it is over.
fn renew(mut lease: Box<dyn Lease>, held: &Held, events: &Events, wait: impl Fn(Duration) -> bool) {
    let mut failed = false;
    loop {
        let asked = Instant::now();
        match lease.renew() {
            Ok(()) => {
                held.lasts(asked + lease.length());
                failed = false;
            }
            Err(StoreError::TakenOver(by)) => {
                let _ = events.blocking_send(Event::Database(Done::TakenOver(by)));
                return;
            }
            Err(error) => {
                if !std::mem::replace(&mut failed, true) {
                    warn!(%error, "the lease on the database cannot be renewed; trying again");
                }
            }
        }
        // One that failed is worth another try soon: the time is short.
        let pause = if failed { RENEWAL / 4 } else { RENEWAL };
        if !wait(pause.saturating_sub(asked.elapsed())) {
            return;
        }
    }
}

fn millis(at: Instant) -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    u64::try_from(at.saturating_duration_since(start).as_millis()).unwrap_or(u64::MAX)
}
