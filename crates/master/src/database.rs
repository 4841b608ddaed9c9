//! The database module (specification 3.1.2): one thread that owns the [`Store`] and writes, and a
//! few that read beside it. The driver never waits for the disk: it hands jobs over and goes on.
//!
//! Invariant: one job of the writer is under way at a time, and its answer comes back as an event.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use papertrader_core::ids::{AccountId, BatchNumber};
use papertrader_core::names::ClientOrderId;
use papertrader_core::order::Order;
use papertrader_node::{error, warn};
use papertrader_store::{
    Batch, CommitError, Found, Intake, Loaded, Store, StoreError, StoreReader,
};

use crate::driver::{Event, Events};
use crate::lease::Tenure;
use crate::lines::Lines;
use crate::workers::Origin;

/// Whose order, and its client order ID.
pub(crate) type OrderKey = (AccountId, ClientOrderId);

/// Where everything is kept, and the right to change it.
pub(crate) struct Database {
    pub(crate) store: Box<dyn Store>,
    pub(crate) tenure: Tenure,
    /// What the store holds.
    pub(crate) loaded: Loaded,
}

/// What the writer is to do.
pub(crate) enum Job {
    /// Look client order IDs up.
    Find(Vec<OrderKey>),
    /// Make a batch durable.
    Commit(Box<Batch>),
}

/// What became of a job.
pub(crate) enum Done {
    /// What is known under those IDs under which something is.
    Found(Vec<(OrderKey, Found)>),
    /// The batch is durable.
    Committed,
    /// Nothing was read or written; the job may be tried again.
    Failed(String),
    /// The master must stop and write nothing more.
    Fatal(String),
    /// The same, for another is the master now: which, in words.
    TakenOver(String),
}

/// Stops the master if the thread that holds it panics: without one of its threads it would go on
/// and never commit, or never have a price, again.
pub(crate) struct Guard {
    pub(crate) events: Events,
    pub(crate) thread: &'static str,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let why = format!("the thread '{}' failed", self.thread);
            let _ = self.events.blocking_send(Event::Database(Done::Fatal(why)));
        }
    }
}

/// The writer's thread.
pub(crate) struct Writer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(store: Box<dyn Store>, events: Events) -> std::io::Result<Writer> {
        let (jobs, inbox) = mpsc::channel();
        let thread = std::thread::Builder::new().name("store-writer".into()).spawn(move || {
            let guard = Guard { events, thread: "store-writer" };
            write_loop(store, &inbox, &guard.events);
        })?;
        Ok(Writer { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Hands a job over. The answer comes as [`Event::Database`].
    pub(crate) fn submit(&self, job: Job) {
        // A thread that has ended has said so with `Fatal` before.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Writer {
    /// Waits until the job under way is finished and the store is closed.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_loop(mut store: Box<dyn Store>, jobs: &Receiver<Job>, events: &Events) {
    while let Ok(job) = jobs.recv() {
        let done = match job {
            Job::Find(keys) => match store.find(&keys) {
                Ok(found) => {
                    let each = keys.into_iter().zip(found);
                    Done::Found(each.filter_map(|(key, found)| Some((key, found?))).collect())
                }
                Err(error @ StoreError::Corrupt(_)) => Done::Fatal(error.to_string()),
                Err(StoreError::TakenOver(by)) => Done::TakenOver(by),
                Err(error) => Done::Failed(error.to_string()),
            },
            Job::Commit(batch) => commit(store.as_mut(), &batch),
        };
        let fatal = matches!(done, Done::Fatal(_) | Done::TakenOver(_));
        if events.blocking_send(Event::Database(done)).is_err() || fatal {
            break;
        }
    }
}

/// Commits, and finds out what happened when the answer to a COMMIT never came.
fn commit(store: &mut dyn Store, batch: &Batch) -> Done {
    let mut delay = Duration::from_millis(50);
    loop {
        let unknown = match store.commit(batch) {
            Ok(()) => return Done::Committed,
            Err(CommitError::NotStored(why)) => return Done::Failed(why),
            Err(error @ (CommitError::Contradiction(_) | CommitError::Disk(_))) => {
                return Done::Fatal(error.to_string());
            }
            Err(CommitError::TakenOver(by)) => return Done::TakenOver(by),
            Err(CommitError::Unknown(why)) => why,
        };
        warn!(batch = batch.number.0, %unknown, "a commit has an unknown result: looking it up");
        // Nothing else is written before it is known: this thread is the only writer.
        loop {
            match store.reconnect().and_then(|()| store.last_batch()) {
                Ok(last) if last == batch.number => return Done::Committed,
                Ok(last) if last.0 + 1 == batch.number.0 => break,
                Ok(last) => {
                    return Done::Fatal(format!(
                        "the store is at batch {last}, but batch {} was being written",
                        batch.number
                    ));
                }
                Err(StoreError::TakenOver(by)) => return Done::TakenOver(by),
                Err(error) => {
                    error!(%error, "the database cannot be reached; trying again");
                    std::thread::sleep(delay);
                    delay = (delay * 2).min(Duration::from_secs(5));
                }
            }
        }
    }
}

/// What the intake is to do.
enum Keep {
    Orders(BatchNumber, Vec<Order>),
    Forget,
}

/// The intake's thread: it keeps orders beside the writer. Each time that it has kept some, or has
/// not, [`Event::Kept`] comes.
pub(crate) struct Keeper {
    jobs: Option<Sender<Keep>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(crate) fn start(mut intake: Box<dyn Intake>, events: Events) -> std::io::Result<Keeper> {
        let (jobs, inbox) = mpsc::channel();
        let thread = std::thread::Builder::new().name("store-intake".into()).spawn(move || {
            let guard = Guard { events, thread: "store-intake" };
            while let Ok(job) = inbox.recv() {
                match job {
                    Keep::Orders(after, orders) => {
                        let kept = intake.keep(after, &orders).map_err(|error| error.to_string());
                        if guard.events.blocking_send(Event::Kept(kept)).is_err() {
                            break;
                        }
                    }
                    // What is left is passed over by whoever reads it.
                    Keep::Forget => {
                        if let Err(error) = intake.forget() {
                            warn!(%error, "the orders' intake could not be emptied");
                        }
                    }
                }
            }
        })?;
        Ok(Keeper { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Keeps orders that were judged good after a batch.
    pub(crate) fn keep(&self, after: BatchNumber, orders: Vec<Order>) {
        self.submit(Keep::Orders(after, orders));
    }

    /// All that was kept is written.
    pub(crate) fn forget(&self) {
        self.submit(Keep::Forget);
    }

    fn submit(&self, job: Keep) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads that may wait; more are told `busy`.
const READS: usize = 1_024;

/// What a reading thread runs.
type Run = Box<dyn FnOnce(&mut dyn StoreReader) + Send>;

/// A read, and who asked for it.
pub(crate) struct Read {
    pub(crate) origin: Origin,
    pub(crate) run: Run,
}

/// Threads that read, with bounded [`Lines`] in front.
pub(crate) struct Readers {
    lines: Arc<Lines<Read>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(crate) fn start(
        readers: Vec<Box<dyn StoreReader>>,
        events: &Events,
    ) -> std::io::Result<Readers> {
        let lines = Arc::new(Lines::<Read>::new(READS));
        let mut threads = Vec::new();
        for mut reader in readers {
            let lines = Arc::clone(&lines);
            let guard = Guard { events: events.clone(), thread: "store-reader" };
            let thread =
                std::thread::Builder::new().name("store-reader".into()).spawn(move || {
                    let _guard = guard;
                    while let Some(read) = lines.next() {
                        (read.run)(reader.as_mut());
                    }
                })?;
            threads.push(thread);
        }
        Ok(Readers { lines, threads })
    }

    /// Hands a read over. If too many wait, says who has no place: this one or another worker's.
    pub(crate) fn submit(&self, read: Read) -> Option<Origin> {
        let left = self.lines.add(read.origin.worker, read);
        left.map(|read| read.origin)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.lines.close();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
