//! Worker management (specification 3.1.5): the registry, the links, the list given to clients.
//!
//! How connections come to be, and their bytes, is [`crate::port`]'s.
//!
//! Invariants: the driver never waits for a link; a link whose queue is full is cut, and so is one
//! whose worker may not have it any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use papertrader_core::books::Head;
use papertrader_core::ids::WorkerId;
use papertrader_core::time::{MarketTime, WallTime};
use papertrader_node::link::{Denied, Proven, admissible};
use papertrader_node::openpgp::Certificate;
use papertrader_node::{info, warn};
use papertrader_protocol::data::{FULL, WorkerLine, WorkerList};
use papertrader_protocol::link::{LinkHello, WorkerStatus};
use papertrader_protocol::push::SnapshotDifference;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Header, Instruction, Reason, transfer};
use papertrader_store::WorkerRow;
use tokio::sync::{Notify, mpsc, watch};

use crate::hello::{BadHello, Hello};
use crate::pushes::{Pushes, Step};
use crate::registry::{Registry, is_booted};

/// A change of load that workers are told: at least so many thousandths, and a part of the larger.
const NOTICEABLE: (u32, u32) = (5, 4);
/// The shortest time between two lists that are told because of a load, in nanoseconds: whatever
/// workers say of theirs, the others hear no more often.
const LOADS_EVERY: i64 = 1_000_000_000;

/// When so many bytes wait to be written to one link, no more are added.
const MAX_UNSENT: usize = 64 * 1024 * 1024;
/// When so many bytes wait to be written to one link, it is told no prices: it gets the difference
/// when it has read.
const MAX_BEHIND: usize = 1024 * 1024;

/// A connection on the master's port, numbered in order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u64);

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The link that asked.
    pub(crate) link: LinkId,
    /// Whose link it is.
    pub(crate) worker: WorkerId,
    /// Its number for the request.
    pub(crate) request: u64,
    /// What it asked.
    pub(crate) instruction: Instruction,
    /// Where the client is.
    pub(crate) client: SocketAddr,
}

/// What a worker is allowed to know and a client may ask the master for.
#[derive(Debug, Clone, Default)]
pub(crate) struct PublicView {
    pub(crate) deployment: String,
    pub(crate) interval: i64,
    pub(crate) market: MarketTime,
    /// The number of the last settled snapshot.
    pub(crate) snapshot: u64,
    pub(crate) list: Arc<Vec<u8>>,
}

/// All links, and who may have one.
pub(crate) struct Workers {
    registry: watch::Sender<Registry>,
    links: BTreeMap<LinkId, Link>,
    conduct: BTreeMap<WorkerId, Conduct>,
    view: watch::Sender<PublicView>,
    /// When all workers were told the list last.
    told: WallTime,
}

pub(crate) struct Link {
    pub(crate) worker: WorkerId,
    pub(crate) name: String,
    /// Where it comes from.
    pub(crate) peer: SocketAddr,
    /// Since when.
    pub(crate) since: WallTime,
    /// What it said of itself when it came.
    pub(crate) hello: Hello,
    /// What it said of itself last.
    pub(crate) status: Option<WorkerStatus>,
    /// Its load in the list that all workers were told last.
    told_load: u32,
    /// The key that it proved, as it was registered then.
    key: Arc<Certificate>,
    /// When a key expires that its proof rests on.
    valid_until: Option<WallTime>,
    queue: LinkQueue,
    /// What the present turn of the driver has to say, after `shared`.
    out: Vec<u8>,
    /// What it has to say before that, in order.
    shared: Vec<Bytes>,
    prices: PricesTold,
}

/// What a link was told of prices.
#[derive(Debug, Default)]
struct PricesTold {
    /// The number of the last snapshot that it was told; none before it has asked.
    number: Option<u64>,
    /// What it says that it has, if it asks.
    asked: Option<SnapshotDifference>,
    /// The number of the snapshot at which it was answered last: one answer for each is enough.
    answered: u64,
}

/// What a worker did that a good one does not do, since the master's start. A few of some kinds
/// happen to good ones: a session can end while a request is on its way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conduct {
    /// Frames without its own UUID.
    pub(crate) foreign_frames: u64,
    /// Frames that mean nothing.
    pub(crate) malformed: u64,
    /// Requests for sessions that did not pass through it.
    pub(crate) foreign_sessions: u64,
    /// The latest of all these, in words, and when.
    pub(crate) last: Option<(WallTime, String)>,
}

/// Why a worker that has proved its key is not let in, in words for both operators.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdmitted {
    /// It may not have a link any more.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Its key was replaced while it proved the old one.
    #[error("worker {0} has another key now")]
    OtherKey(String),
    /// What it says of itself cannot be taken.
    #[error("the linkHello of worker {0} is not taken: {1}")]
    Hello(String, BadHello),
}

impl NotAdmitted {
    /// The word for programs.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            NotAdmitted::Denied(_)
            | NotAdmitted::OtherKey(_)
            | NotAdmitted::Hello(_, BadHello::OtherWorker) => Reason::NotAuthorized,
            NotAdmitted::Hello(..) => Reason::BadArguments,
        }
    }
}

/// Something that a good worker does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misconduct {
    ForeignFrame,
    Malformed,
    ForeignSession,
}

/// What waits to be written to a link. Dropping it closes the link when all is written.
#[derive(Debug, Clone)]
pub(crate) struct LinkQueue {
    pub(crate) chunks: mpsc::Sender<Bytes>,
    pub(crate) unsent: Arc<AtomicUsize>,
    pub(crate) cut: Arc<Notify>,
}

impl LinkQueue {
    /// Adds a chunk; false if the other end is too slow for it.
    pub(crate) fn add(&self, chunk: Bytes) -> bool {
        if self.unsent.load(Ordering::Relaxed) > MAX_UNSENT {
            return false;
        }
        self.unsent.fetch_add(chunk.len(), Ordering::Relaxed);
        self.chunks.try_send(chunk).is_ok()
    }

    /// Whether there is too much for prices, which can be told later.
    fn is_behind(&self) -> bool {
        self.unsent.load(Ordering::Relaxed) > MAX_BEHIND
    }
}

impl Link {
    /// Says what others hear too.
    fn share(&mut self, frames: &Bytes) {
        if !self.out.is_empty() {
            self.shared.push(std::mem::take(&mut self.out).into());
        }
        self.shared.push(frames.clone());
    }
}

impl PricesTold {
    /// Whether a step is the next thing to be told, now. It counts as told then.
    fn takes(&mut self, step: &Step, queue: &LinkQueue) -> bool {
        let is_next = self.number == Some(step.base) && !queue.is_behind();
        if is_next {
            self.number = Some(step.number);
        }
        is_next
    }

    /// From where the difference to the present is to be told, if it is, and now. It counts as
    /// told then.
    fn lacks(&mut self, pushes: &Pushes, queue: &LinkQueue) -> Option<SnapshotDifference> {
        if queue.is_behind() {
            return None;
        }
        let present = pushes.number();
        let have = match (self.number, &self.asked) {
            (_, Some(_)) if self.answered < present => {
                self.answered = present;
                self.asked.take()
            }
            (Some(number), None) if number < present => Some(pushes.since(number)),
            _ => None,
        };
        if have.is_some() {
            self.number = Some(present);
        }
        have
    }
}

impl Workers {
    pub(crate) fn new(registry: Registry, view: PublicView) -> Workers {
        let workers = Workers {
            registry: watch::Sender::new(registry),
            links: BTreeMap::new(),
            conduct: BTreeMap::new(),
            view: watch::Sender::new(view),
            told: WallTime(0),
        };
        workers.publish();
        workers
    }

    /// What connections that are not workers see.
    pub(crate) fn view(&self) -> watch::Receiver<PublicView> {
        self.view.subscribe()
    }

    /// Who may have a link, as the tasks of the port see it.
    pub(crate) fn registered(&self) -> watch::Receiver<Registry> {
        self.registry.subscribe()
    }

    /// Who may have a link.
    pub(crate) fn registry(&self) -> watch::Ref<'_, Registry> {
        self.registry.borrow()
    }

    /// Changes who may have a link. The driver then cuts the links that may not be any more.
    pub(crate) fn register(&mut self, change: impl FnOnce(&mut Registry)) {
        self.registry.send_modify(change);
    }

    /// Takes a worker off the registry and forgets what it did. The driver then cuts its link.
    pub(crate) fn unregister(&mut self, worker: WorkerId) {
        self.registry.send_modify(|registry| registry.remove(worker));
        self.conduct.remove(&worker);
    }

    /// Links that may not be any more, with the reason: their worker was removed or booted, has
    /// another name, key or other addresses now, or a key has expired.
    pub(crate) fn forbidden(&self, now: WallTime) -> Vec<(LinkId, String)> {
        let mut forbidden = Vec::new();
        let registry = self.registry.borrow();
        for (id, link) in &self.links {
            let why = match admissible(registry.find(link.worker), link.worker, link.peer, now) {
                Err(denied) => denied.to_string(),
                Ok((worker, _)) if worker.name != link.name => {
                    format!("worker {} is called {} now", link.name, worker.name)
                }
                // Also if it is the same key with other subkeys, or without some.
                Ok((_, key)) if key != link.key => {
                    format!("worker {} has another key now, or other subkeys", link.name)
                }
                Ok(_) if link.valid_until.is_some_and(|until| until <= now) => {
                    format!("a key has expired that the link of worker {} rests on", link.name)
                }
                Ok(_) => continue,
            };
            forbidden.push((*id, why));
        }
        forbidden
    }

    /// The market has moved.
    pub(crate) fn moved(&self, head: Head) {
        self.view.send_modify(|view| {
            view.market = head.market;
            view.snapshot = head.snapshot;
        });
    }

    /// Lets a worker in that has proved its key, unless it may not be any more or what it says of
    /// itself cannot be taken. An older link of the same worker is to be cut: it is dead, or
    /// somebody runs the worker twice.
    pub(crate) fn admit(
        &mut self,
        id: LinkId,
        arrival: Arrival,
        now: WallTime,
    ) -> Result<Option<LinkId>, NotAdmitted> {
        let Arrival { proven, hello, peer, queue } = arrival;
        let registered = self.registry.borrow().find(proven.worker);
        let (worker, key) = admissible(registered, proven.worker, peer, now)?;
        if key != proven.key {
            return Err(NotAdmitted::OtherKey(worker.name));
        }
        let hello = match Hello::check(hello, worker.id) {
            Ok(hello) => hello,
            Err(problem) => {
                let kind = match problem {
                    BadHello::OtherWorker => Misconduct::ForeignFrame,
                    _ => Misconduct::Malformed,
                };
                self.note(worker.id, kind, &format!("linkHello: {problem}"), now);
                return Err(NotAdmitted::Hello(worker.name, problem));
            }
        };
        let older = self.links.iter().find(|(_, l)| l.worker == worker.id).map(|(id, _)| *id);
        info!(worker = %worker.name, %peer, version = hello.version(), "a worker is connected");
        let same = |l: &&Link| l.worker != worker.id && l.hello.address() == hello.address();
        if let Some(other) = self.links.values().find(same) {
            warn!(
                worker = %worker.name, first = %other.name, address = hello.address(),
                "two workers say that clients reach them here: only the first is listed"
            );
        }
        let link = Link {
            worker: worker.id,
            name: worker.name,
            peer,
            since: now,
            hello,
            status: None,
            told_load: 0,
            key: proven.key,
            valid_until: proven.valid_until,
            queue,
            out: Vec::new(),
            shared: Vec::new(),
            prices: PricesTold::default(),
        };
        self.links.insert(id, link);
        Ok(older)
    }

    /// Forgets a link; its connection closes once what was said is written.
    pub(crate) fn remove(&mut self, id: LinkId) -> bool {
        let Some(link) = self.links.remove(&id) else { return false };
        info!(worker = %link.name, "a worker is gone");
        true
    }

    /// Ends a link at once: what was not written yet will not be.
    pub(crate) fn cut(&self, id: LinkId) {
        if let Some(link) = self.links.get(&id) {
            link.queue.cut.notify_one();
        }
    }

    /// All links.
    pub(crate) fn links(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.links.iter().map(|(id, link)| (*id, link))
    }

    /// The name of a link's worker; empty if the link is gone.
    pub(crate) fn name(&self, id: LinkId) -> &str {
        self.links.get(&id).map_or("", |link| &link.name)
    }

    pub(crate) fn link(&self, id: LinkId) -> Option<&Link> {
        self.links.get(&id)
    }

    /// The link of a worker.
    pub(crate) fn link_of(&self, worker: WorkerId) -> Option<(LinkId, &Link)> {
        let link = self.links.iter().find(|(_, link)| link.worker == worker);
        link.map(|(id, link)| (*id, link))
    }

    /// Takes what a worker says of itself; whether its load has changed so much that all must hear.
    pub(crate) fn set_status(&mut self, id: LinkId, status: WorkerStatus, now: WallTime) -> bool {
        let Some(link) = self.links.get_mut(&id) else { return false };
        let before = link.load();
        link.status = Some(status);
        let (told, load) = (link.told_load, link.load());
        if load != before {
            self.publish();
        }
        is_noticeable(told, load) && self.told.plus_nanos(LOADS_EVERY) <= now
    }

    /// Whether a worker is booted because it is in wrong hands.
    pub(crate) fn is_compromised(&self, worker: WorkerId, now: WallTime) -> bool {
        let registry = self.registry.borrow();
        let is_so = |row: &WorkerRow| {
            row.booted.is_some_and(|boot| boot.compromised) && is_booted(row, now)
        };
        registry.row(worker).is_some_and(is_so)
    }

    /// What a worker did that a good one does not do.
    pub(crate) fn conduct(&self, worker: WorkerId) -> Conduct {
        self.conduct.get(&worker).cloned().unwrap_or_default()
    }

    /// Notes something that a good worker does not do on its link.
    pub(crate) fn misconduct(&mut self, id: LinkId, kind: Misconduct, words: &str, now: WallTime) {
        if let Some(link) = self.links.get(&id) {
            self.note(link.worker, kind, words, now);
        }
    }

    /// Notes something that a good worker does not do. The first of each kind, and then each
    /// thousandth, stands in the log. `words` are this program's own.
    pub(crate) fn note(&mut self, worker: WorkerId, kind: Misconduct, words: &str, now: WallTime) {
        let registry = self.registry.borrow();
        // Only of registered workers, so that this is bounded.
        let Some(row) = registry.row(worker) else { return };
        let conduct = self.conduct.entry(worker).or_default();
        let count = match kind {
            Misconduct::ForeignFrame => &mut conduct.foreign_frames,
            Misconduct::Malformed => &mut conduct.malformed,
            Misconduct::ForeignSession => &mut conduct.foreign_sessions,
        };
        *count += 1;
        if *count % 1_000 == 1 {
            warn!(worker = %row.name, count = *count, what = words, "a worker does what it should not");
        }
        conduct.last = Some((now, words.to_owned()));
    }

    /// Says something to one link; it leaves at the end of the turn.
    pub(crate) fn say(&mut self, id: LinkId, say: impl FnOnce(&mut Vec<u8>)) {
        if let Some(link) = self.links.get_mut(&id) {
            say(&mut link.out);
        }
    }

    /// Says the same to every link.
    pub(crate) fn say_to_all(&mut self, bytes: &[u8]) {
        for link in self.links.values_mut() {
            link.out.extend_from_slice(bytes);
        }
    }

    /// A worker asks for the prices that it has not. The answer leaves at the end of a turn.
    pub(crate) fn ask_prices(&mut self, id: LinkId, have: SnapshotDifference) {
        if let Some(link) = self.links.get_mut(&id) {
            link.prices.asked = Some(have);
        }
    }

    /// A settlement: who was told everything before it is told it too.
    pub(crate) fn step(&mut self, step: &Step) {
        for link in self.links.values_mut() {
            if link.prices.takes(step, &link.queue) {
                link.share(&step.frames);
            }
        }
    }

    /// Brings who asks, and who could not be told in time, to the present snapshot.
    pub(crate) fn catch_up(&mut self, pushes: &mut Pushes) {
        for link in self.links.values_mut() {
            if let Some(have) = link.prices.lacks(pushes, &link.queue) {
                link.share(&pushes.difference(&have));
            }
        }
    }

    /// The end of a turn: everything said leaves. Returns the links that are too slow to listen.
    pub(crate) fn flush(&mut self) -> Vec<LinkId> {
        let mut deaf = Vec::new();
        for (id, link) in &mut self.links {
            let mut said = std::mem::take(&mut link.shared);
            if !link.out.is_empty() {
                said.push(std::mem::take(&mut link.out).into());
            }
            if !said.into_iter().all(|chunk| link.queue.add(chunk)) {
                warn!(worker = %link.name, "a worker does not read what it is told: cutting its link");
                deaf.push(*id);
            }
        }
        deaf
    }

    /// Makes the list anew and tells it to all workers.
    pub(crate) fn announce(&mut self, now: WallTime) {
        self.publish();
        let mut frames = Vec::new();
        worker_list_frames(&self.view.borrow().list, 0, &mut frames);
        self.say_to_all(&frames);
        self.told = now;
        for link in self.links.values_mut() {
            link.told_load = link.load();
        }
    }

    /// Makes the list anew for everybody who asks.
    fn publish(&self) {
        let mut taken = BTreeSet::new();
        let mut workers: Vec<WorkerLine> = self
            .links
            .values()
            // An address is the first one's who came with it: nobody puts their certificate in the
            // place of another's.
            .filter(|link| taken.insert(link.hello.address()))
            .map(|link| WorkerLine {
                name: link.name.clone(),
                address: link.hello.address().to_owned(),
                web: link.hello.web().to_owned(),
                fingerprint: link.hello.fingerprint().to_owned(),
                region: link.hello.region().to_owned(),
                load: link.load(),
            })
            .collect();
        workers.sort_by(|a, b| a.name.cmp(&b.name));
        let list = Arc::new(WorkerList { workers }.to_bytes());
        self.view.send_modify(|view| view.list = list);
    }
}

impl Link {
    /// Its load as it says, but never more than all.
    pub(crate) fn load(&self) -> u32 {
        self.status.as_ref().map_or(0, |status| status.load.min(FULL))
    }
}

/// Whether workers must hear of a load that was `told` and is another `now`.
fn is_noticeable(told: u32, now: u32) -> bool {
    let (least, part) = NOTICEABLE;
    let change = told.abs_diff(now);
    let is_part = change.saturating_mul(part) >= told.max(now);
    change >= least && is_part || (told == FULL) != (now == FULL)
}

/// Appends the frames of a list of workers.
pub(crate) fn worker_list_frames(list: &[u8], request: u64, out: &mut Vec<u8>) {
    let instruction = Instruction::WorkerList;
    let header = Header::new(instruction.message_type(), instruction as u16, request);
    transfer::encode(header, list, out);
}

/// A worker that has proved its key and has said hello.
pub(crate) struct Arrival {
    pub(crate) proven: Proven,
    pub(crate) hello: LinkHello,
    pub(crate) peer: SocketAddr,
    pub(crate) queue: LinkQueue,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_change_of_load_is_not_told() {
        for (told, now) in [(0, 5), (22, 33), (33, 0), (1_000, 999), (990, 1_000)] {
            assert!(is_noticeable(told, now) && is_noticeable(now, told), "{told} {now}");
        }
        for (told, now) in [(0, 0), (0, 4), (1, 2), (100, 120), (800, 999)] {
            assert!(!is_noticeable(told, now) && !is_noticeable(now, told), "{told} {now}");
        }
    }

    #[test]
    fn bytes_that_wait_for_a_link_are_bounded() {
        let (chunks, outgoing) = mpsc::channel(8);
        let queue = LinkQueue { chunks, unsent: Arc::default(), cut: Arc::default() };
        // A single answer may be as long as it likes.
        assert!(queue.add(vec![0; MAX_UNSENT].into()));
        assert!(queue.add(vec![0; 1].into()));
        assert!(!queue.add(vec![0; 1].into()));
        assert_eq!(outgoing.len(), 2);
    }

    /// Snapshots that have no prices in them.
    fn settled(pushes: &mut Pushes) -> Step {
        let snapshot = pushes.number() + 1;
        pushes.settled(Head { snapshot, ..Head::default() }, std::iter::empty())
    }

    #[test]
    fn who_does_not_read_is_told_the_difference_when_it_has_read() {
        let (chunks, mut outgoing) = mpsc::channel(8);
        let queue = LinkQueue { chunks, unsent: Arc::default(), cut: Arc::default() };
        let mut pushes = Pushes::new(3, Vec::new(), Head::default(), |_| None);
        let mut told = PricesTold::default();
        // Who has not asked is told nothing.
        let step = settled(&mut pushes);
        assert!(!told.takes(&step, &queue));
        assert_eq!(told.lacks(&pushes, &queue), None);
        let nothing = SnapshotDifference { sequence: 0, number: 0, list: 0 };
        told.asked = Some(nothing.clone());
        assert_eq!(told.lacks(&pushes, &queue), Some(nothing.clone()));
        assert_eq!(told.lacks(&pushes, &queue), None);
        let step = settled(&mut pushes);
        assert!(told.takes(&step, &queue));
        // It does not read: nothing is added for it, however many snapshots come.
        assert!(queue.add(vec![0; MAX_BEHIND + 1].into()));
        for _ in 0..100 {
            let step = settled(&mut pushes);
            assert!(!told.takes(&step, &queue));
            assert_eq!(told.lacks(&pushes, &queue), None);
        }
        let read = outgoing.try_recv().unwrap();
        queue.unsent.fetch_sub(read.len(), Ordering::Relaxed);
        assert_eq!(told.lacks(&pushes, &queue), Some(pushes.since(2)));
        assert_eq!(told.lacks(&pushes, &queue), None);
        let step = settled(&mut pushes);
        assert!(told.takes(&step, &queue));
        // One answer for each snapshot, however often it asks.
        told.asked = Some(nothing.clone());
        assert_eq!(told.lacks(&pushes, &queue), Some(nothing.clone()));
        told.asked = Some(nothing.clone());
        assert_eq!(told.lacks(&pushes, &queue), None);
        settled(&mut pushes);
        assert_eq!(told.lacks(&pushes, &queue), Some(nothing));
    }
}
