//! Worker management (specification 3.1.5): the registry, the links, the list given to clients.
//!
//! Each connection on the master's port has a task that reads and one that writes; the driver
//! owns what they mean. Which kind it is stands in its TLS handshake: a worker proves its key before
//! the driver hears of it, a client may ask for the list of workers and for nothing else.
//!
//! Invariants: the driver never waits for a link; a link whose queue is full is cut, and so is one
//! whose worker may not have it any more.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use papertrader_core::books::Head;
use papertrader_core::ids::WorkerId;
use papertrader_core::time::{MarketTime, WallTime};
use papertrader_node::clock::Clock;
use papertrader_node::connection::{Inbox, write_all_from, write_patiently};
use papertrader_node::link::{Denied, MasterSide, PortStream, Proven, admissible, is_worker};
use papertrader_node::{debug, info, warn};
use papertrader_protocol::data::{WorkerLine, WorkerList};
use papertrader_protocol::frame::VERSION;
use papertrader_protocol::link::{LinkHello, WorkerStatus};
use papertrader_protocol::returns::{Return, Welcome};
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{
    Failure, Frame, FrameError, Header, Instruction, Reason, Request, transfer,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};

use crate::driver::{Event, Events};
use crate::registry::Registry;

/// Chunks that may wait to be written to one link.
const LINK_QUEUE: usize = 1_024;
/// When so many bytes wait to be written to one link, no more are added.
const MAX_UNSENT: usize = 64 * 1024 * 1024;
/// About how many bytes are answered to a client before it must have taken them.
const CLIENT_CHUNK: usize = 64 * 1024;
/// How long a new connection may take to say who it is, a client to say the next thing, and either
/// to take some of what is said to it.
const SILENCE: Duration = Duration::from_secs(30);

/// A connection on the master's port, numbered in order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u64);

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The link that asked.
    pub(crate) link: LinkId,
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

/// What the tasks of the port need.
pub(crate) struct Port {
    pub(crate) side: MasterSide,
    pub(crate) registry: watch::Receiver<Registry>,
    pub(crate) view: watch::Receiver<PublicView>,
    pub(crate) clock: Clock,
    pub(crate) events: Events,
}

/// All links, and who may have one.
pub(crate) struct Workers {
    registry: watch::Sender<Registry>,
    links: BTreeMap<LinkId, Link>,
    conduct: BTreeMap<WorkerId, Conduct>,
    view: watch::Sender<PublicView>,
}

pub(crate) struct Link {
    pub(crate) worker: WorkerId,
    pub(crate) name: String,
    /// Where it comes from.
    pub(crate) peer: SocketAddr,
    /// Since when.
    pub(crate) since: WallTime,
    /// What it said of itself when it came.
    pub(crate) hello: LinkHello,
    /// What it said of itself last.
    pub(crate) status: Option<WorkerStatus>,
    /// The fingerprint of the key that it proved.
    pub(crate) key: String,
    /// When a key expires that its proof rests on.
    valid_until: Option<WallTime>,
    queue: LinkQueue,
    /// What the present turn of the driver has to say.
    out: Vec<u8>,
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
    chunks: mpsc::Sender<Vec<u8>>,
    unsent: Arc<AtomicUsize>,
    cut: Arc<Notify>,
}

impl LinkQueue {
    /// Adds a chunk; false if the other end is too slow for it.
    pub(crate) fn add(&self, chunk: Vec<u8>) -> bool {
        if self.unsent.load(Ordering::Relaxed) > MAX_UNSENT {
            return false;
        }
        self.unsent.fetch_add(chunk.len(), Ordering::Relaxed);
        self.chunks.try_send(chunk).is_ok()
    }
}

impl Workers {
    pub(crate) fn new(registry: Registry, view: PublicView) -> Workers {
        let workers = Workers {
            registry: watch::Sender::new(registry),
            links: BTreeMap::new(),
            conduct: BTreeMap::new(),
            view: watch::Sender::new(view),
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

    /// Links that may not be any more, with the reason: their worker was removed or booted, has
    /// another key or other addresses now, or a key has expired.
    pub(crate) fn forbidden(&self, now: WallTime) -> Vec<(LinkId, String)> {
        let mut forbidden = Vec::new();
        let registry = self.registry.borrow();
        for (id, link) in &self.links {
            let why = match admissible(registry.find(link.worker), link.worker, link.peer, now) {
                Err(denied) => denied.to_string(),
                Ok((_, key)) if key.fingerprint().to_string() != link.key => {
                    format!("worker {} has another key now", link.name)
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

    /// Lets a worker in that has proved its key, unless it may not be any more. An older link of
    /// the same worker is to be cut: it is dead, or somebody runs the worker twice.
    pub(crate) fn admit(
        &mut self,
        id: LinkId,
        arrival: Arrival,
        now: WallTime,
    ) -> Result<Option<LinkId>, Denied> {
        let Arrival { proven, hello, peer, queue } = arrival;
        let registered = self.registry.borrow().find(proven.worker);
        let (worker, key) = admissible(registered, proven.worker, peer, now)?;
        if key.fingerprint().to_string() != proven.key || hello.worker != proven.worker {
            return Err(Denied::Protocol("linkHello"));
        }
        let older = self.links.iter().find(|(_, l)| l.worker == worker.id).map(|(id, _)| *id);
        info!(worker = %worker.name, %peer, version = %hello.version, "a worker is connected");
        let link = Link {
            worker: worker.id,
            name: worker.name,
            peer,
            since: now,
            hello,
            status: None,
            key: proven.key,
            valid_until: proven.valid_until,
            queue,
            out: Vec::new(),
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

    pub(crate) fn link(&self, id: LinkId) -> Option<&Link> {
        self.links.get(&id)
    }

    /// The link of a worker.
    pub(crate) fn link_of(&self, worker: WorkerId) -> Option<(LinkId, &Link)> {
        let link = self.links.iter().find(|(_, link)| link.worker == worker);
        link.map(|(id, link)| (*id, link))
    }

    pub(crate) fn set_status(&mut self, id: LinkId, status: WorkerStatus) {
        if let Some(link) = self.links.get_mut(&id) {
            let clients = link.status.as_ref().map_or(0, |before| before.clients);
            let load_changed = clients != status.clients;
            link.status = Some(status);
            if load_changed {
                self.publish();
            }
        }
    }

    /// What a worker did that a good one does not do.
    pub(crate) fn conduct(&self, worker: WorkerId) -> Conduct {
        self.conduct.get(&worker).cloned().unwrap_or_default()
    }

    /// Notes something that a good worker does not do. The first of each kind, and then each
    /// thousandth, stands in the log.
    pub(crate) fn misconduct(&mut self, id: LinkId, kind: Misconduct, words: &str, now: WallTime) {
        let Some(link) = self.links.get(&id) else { return };
        // Only registered workers have links, so that this is bounded.
        let conduct = self.conduct.entry(link.worker).or_default();
        let count = match kind {
            Misconduct::ForeignFrame => &mut conduct.foreign_frames,
            Misconduct::Malformed => &mut conduct.malformed,
            Misconduct::ForeignSession => &mut conduct.foreign_sessions,
        };
        *count += 1;
        if *count % 1_000 == 1 {
            warn!(worker = %link.name, count = *count, what = words, "a worker does what it should not");
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

    /// The end of a turn: everything said leaves. Returns the links that are too slow to listen.
    pub(crate) fn flush(&mut self) -> Vec<LinkId> {
        let mut deaf = Vec::new();
        for (id, link) in &mut self.links {
            if link.out.is_empty() {
                continue;
            }
            if !link.queue.add(std::mem::take(&mut link.out)) {
                warn!(worker = %link.name, "a worker does not read what it is told: cutting its link");
                deaf.push(*id);
            }
        }
        deaf
    }

    /// The frames that carry the list of workers, under request number `request`.
    pub(crate) fn list_frames(&self, request: u64, out: &mut Vec<u8>) {
        worker_list_frames(&self.view.borrow().list, request, out);
    }

    /// Makes the list anew for everybody who asks.
    pub(crate) fn publish(&self) {
        let mut workers: Vec<WorkerLine> = self
            .links
            .values()
            .map(|link| WorkerLine {
                name: link.name.clone(),
                address: link.hello.address.clone(),
                web: link.hello.web.clone(),
                fingerprint: link.hello.fingerprint.clone(),
                load: link.status.as_ref().map_or(0, |status| status.clients),
            })
            .collect();
        workers.sort_by(|a, b| a.name.cmp(&b.name));
        let list = Arc::new(WorkerList { workers }.to_bytes());
        self.view.send_modify(|view| view.list = list);
    }
}

/// Appends the frames of a list of workers.
fn worker_list_frames(list: &[u8], request: u64, out: &mut Vec<u8>) {
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

/// Serves one connection on the master's port until it closes.
pub(crate) async fn serve(id: LinkId, stream: TcpStream, peer: SocketAddr, port: Arc<Port>) {
    let mut stream = match port.side.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => return debug!(%peer, %error, "no TLS on the master's port"),
    };
    if !is_worker(&stream) {
        let (reader, mut writer) = tokio::io::split(stream);
        answer_clients(&mut Inbox::new(reader), &mut writer, peer, &port.view).await;
        let _ = tokio::time::timeout(SILENCE, writer.shutdown()).await;
        return;
    }
    let find = |worker| port.registry.borrow().find(worker);
    let proven = match port.side.prove(&mut stream, peer, find, &port.clock).await {
        Ok(proven) => proven,
        Err(denied) => return warn!(%peer, %denied, "a worker was refused"),
    };
    let (reader, writer) = tokio::io::split(stream);
    let mut inbox = Inbox::new(reader);
    let Ok(Some(hello)) = tokio::time::timeout(SILENCE, first_words(&mut inbox)).await else {
        return warn!(%peer, "a worker proved its key but did not say linkHello");
    };
    let (chunks, outgoing) = mpsc::channel(LINK_QUEUE);
    let (unsent, cut) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let queue = LinkQueue { chunks, unsent: Arc::clone(&unsent), cut: Arc::clone(&cut) };
    let arrival = Arrival { proven, hello, peer, queue };
    if port.events.send(Event::LinkOpened(id, Box::new(arrival))).await.is_ok() {
        let mut writing =
            tokio::spawn(async move { write_all_from(writer, outgoing, SILENCE, &unsent).await });
        let reading = read_link(id, &mut inbox, &port.events);
        // The driver ends a link by dropping its queue, which ends the writing, or cuts it.
        tokio::select! {
            () = reading => {}
            _ = &mut writing => {}
            () = cut.notified() => writing.abort(),
        }
        let _ = port.events.send(Event::LinkClosed(id)).await;
    }
}

type LinkInbox = Inbox<tokio::io::ReadHalf<PortStream>>;

/// The hello of a worker; `None` if it says something else.
async fn first_words(inbox: &mut LinkInbox) -> Option<LinkHello> {
    loop {
        if let Some(frame) = inbox.frame().ok()? {
            let due = Instruction::LinkHello;
            let is_hello = frame.header.instruction == due as u16
                && frame.header.message_type == due.message_type()
                && frame.header.max == 1;
            return LinkHello::from_bytes(frame.data).ok().filter(|_| is_hello);
        }
        if inbox.fill().await.ok()? == 0 {
            return None;
        }
    }
}

/// Answers a client until it closes. What was answered must be taken before more is read, so that
/// nobody can make the master hold more than a chunk for them.
async fn answer_clients<R, W>(
    inbox: &mut Inbox<R>,
    writer: &mut W,
    peer: SocketAddr,
    view: &watch::Receiver<PublicView>,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        let mut out = Vec::new();
        let mut close = false;
        while out.len() < CLIENT_CHUNK {
            let frame = match inbox.frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    debug!(%peer, %error, "bytes that are no frame on the master's port");
                    refuse_bytes(&error, &mut out);
                    close = true;
                    break;
                }
            };
            let request = frame.header.request;
            let known = Instruction::from_number(frame.header.instruction);
            let whole = frame.header.max == 1 && frame.header.link.is_none();
            if known.is_some_and(|i| i.message_type() != frame.header.message_type) || !whole {
                fail(Reason::BadFrame, request, &mut out);
                continue;
            }
            match known {
                Some(instruction) => {
                    close = answer_client(instruction, &frame, view, &mut out);
                    if close {
                        break;
                    }
                }
                None => fail(Reason::UnknownInstruction, request, &mut out),
            }
        }
        let is_full = out.len() >= CLIENT_CHUNK;
        if write_patiently(writer, &out, SILENCE).await.is_err() || close {
            return;
        }
        if is_full {
            continue;
        }
        match tokio::time::timeout(SILENCE, inbox.fill()).await {
            Ok(Ok(read)) if read > 0 => {}
            _ => return,
        }
    }
}

/// Answers what a client may ask the master. True if the connection is to close.
fn answer_client(
    instruction: Instruction,
    frame: &Frame<'_>,
    view: &watch::Receiver<PublicView>,
    out: &mut Vec<u8>,
) -> bool {
    let request = frame.header.request;
    match Request::parse(instruction, frame.header.argument_count, frame.data) {
        Ok(Request::Hello) => {
            let view = view.borrow();
            Return::Welcome(Welcome {
                version: VERSION,
                deployment: view.deployment.clone(),
                interval: view.interval,
                market: view.market,
                server: "master".into(),
            })
            .put(request, out);
        }
        Ok(Request::Ping(text)) => Return::Pong(text).put(request, out),
        Ok(Request::GetWorkerList) => worker_list_frames(&view.borrow().list, request, out),
        Ok(Request::Goodbye) => return true,
        Ok(_) => {
            let text = "the master answers clients only the list of workers: ask a worker";
            let failure = Failure::new(Reason::NotAuthorized, text);
            Return::Failed(Instruction::CommandFail, failure).put(request, out);
        }
        Err(reason) => fail(reason, request, out),
    }
    false
}

fn fail(reason: Reason, request: u64, out: &mut Vec<u8>) {
    Return::Failed(Instruction::CommandFail, reason.into()).put(request, out);
}

fn refuse_bytes(error: &FrameError, out: &mut Vec<u8>) {
    let reason = match error {
        FrameError::Version(_) => Reason::BadVersion,
        FrameError::TooLarge(_) => Reason::FrameTooLarge,
        FrameError::Field(_) => Reason::BadFrame,
    };
    fail(reason, 0, out);
}

/// A frame of a worker, taken out of the buffer. Its data may be a secret: it never prints itself.
pub(crate) struct OwnedFrame {
    pub(crate) header: Header,
    pub(crate) data: Box<[u8]>,
}

async fn read_link(id: LinkId, inbox: &mut LinkInbox, events: &Events) {
    loop {
        loop {
            match inbox.frame() {
                Ok(Some(frame)) => {
                    let frame = OwnedFrame { header: frame.header, data: frame.data.into() };
                    if events.send(Event::Frame(id, frame)).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    warn!(link = id.0, %error, "a worker sent bytes that are no frame: cutting its link");
                    return;
                }
            }
        }
        match inbox.fill().await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use papertrader_protocol::SessionId;
    use papertrader_protocol::returns::put_args;

    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_read_is_not_read_from() {
        let (mut client, server) = tokio::io::duplex(4_096);
        let (reader, mut writer) = tokio::io::split(server);
        let mut inbox = Inbox::new(reader);
        let list = Arc::new(WorkerList { workers: Vec::new() }.to_bytes());
        let view = watch::Sender::new(PublicView { list, ..PublicView::default() });
        let view = view.subscribe();
        let peer = "127.0.0.1:1".parse().unwrap();
        let mut request = Vec::new();
        put_args(Instruction::GetWorkerList, &[], 1, SessionId::NONE, &mut request);
        let sent = Cell::new(0);
        let flood = async {
            while client.write_all(&request).await.is_ok() {
                sent.set(sent.get() + request.len());
            }
        };
        // Either goes on as far as it can.
        let turns = async {
            for _ in 0..20_000 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = answer_clients(&mut inbox, &mut writer, peer, &view) => panic!("it gave up"),
            () = flood => panic!("it closed"),
            () = turns => {}
        }
        // What one chunk of answers takes, and the buffers on the way.
        assert!(sent.get() > 4_096 && sent.get() < 2 * CLIENT_CHUNK, "{}", sent.get());
    }

    #[test]
    fn bytes_that_wait_for_a_link_are_bounded() {
        let (chunks, outgoing) = mpsc::channel(LINK_QUEUE);
        let queue = LinkQueue { chunks, unsent: Arc::default(), cut: Arc::default() };
        // A single answer may be as long as it likes.
        assert!(queue.add(vec![0; MAX_UNSENT]));
        assert!(queue.add(vec![0; 1]));
        assert!(!queue.add(vec![0; 1]));
        assert_eq!(outgoing.len(), 2);
    }
}
