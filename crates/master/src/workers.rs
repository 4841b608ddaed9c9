//! Worker management (specification 3.1.5): the registry, the links, the list given to clients.
//!
//! Each connection on the master's port has a task that reads and one that writes; the driver
//! owns what they mean. A connection whose first message is not a worker's is a client's: it may
//! ask for the list of workers and for nothing else.
//!
//! Invariant: the driver never waits for a link. A link whose queue is full is cut.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use papertrader_core::books::Head;
use papertrader_core::ids::WorkerId;
use papertrader_core::time::MarketTime;
use papertrader_node::connection::{Inbox, write_all_from, write_patiently};
use papertrader_node::link::{self, LinkStream, Registered};
use papertrader_node::{debug, info, warn};
use papertrader_protocol::data::{WorkerLine, WorkerList};
use papertrader_protocol::frame::VERSION;
use papertrader_protocol::link::LinkHello;
use papertrader_protocol::returns::{Return, Welcome};
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{
    Failure, Frame, FrameError, Header, Instruction, Reason, Request, transfer,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use crate::driver::{Event, Events};

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

/// All links, and who may have one.
pub(crate) struct Workers {
    registry: Vec<Registered>,
    links: BTreeMap<LinkId, Link>,
    view: watch::Sender<PublicView>,
}

pub(crate) struct Link {
    pub(crate) worker: WorkerId,
    pub(crate) name: String,
    address: String,
    web: String,
    fingerprint: String,
    clients: u32,
    queue: LinkQueue,
    /// What the present turn of the driver has to say.
    out: Vec<u8>,
}

/// What waits to be written to a link. Dropping it closes the link when all is written.
#[derive(Debug, Clone)]
pub(crate) struct LinkQueue {
    chunks: mpsc::Sender<Vec<u8>>,
    unsent: Arc<AtomicUsize>,
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
    pub(crate) fn new(registry: Vec<Registered>, view: PublicView) -> Workers {
        let workers = Workers { registry, links: BTreeMap::new(), view: watch::Sender::new(view) };
        workers.publish();
        workers
    }

    /// What connections that are not workers see.
    pub(crate) fn view(&self) -> watch::Receiver<PublicView> {
        self.view.subscribe()
    }

    /// The market has moved.
    pub(crate) fn moved(&self, head: Head) {
        self.view.send_modify(|view| {
            view.market = head.market;
            view.snapshot = head.snapshot;
        });
    }

    /// Lets a worker in, or says why not. An older link of the same worker is cut: it is dead, or
    /// somebody runs the worker twice.
    pub(crate) fn admit(
        &mut self,
        id: LinkId,
        hello: LinkHello,
        peer: SocketAddr,
        queue: LinkQueue,
    ) -> Result<Option<LinkId>, link::Denied> {
        let worker = link::authenticate(&self.registry, hello.worker, peer)?;
        let older = self.links.iter().find(|(_, l)| l.worker == worker.id).map(|(id, _)| *id);
        info!(worker = %worker.name, %peer, version = %hello.version, "a worker is connected");
        let link = Link {
            worker: worker.id,
            name: worker.name.clone(),
            address: hello.address,
            web: hello.web,
            fingerprint: hello.fingerprint,
            clients: 0,
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

    pub(crate) fn link(&self, id: LinkId) -> Option<&Link> {
        self.links.get(&id)
    }

    pub(crate) fn set_clients(&mut self, id: LinkId, clients: u32) {
        if let Some(link) = self.links.get_mut(&id) {
            link.clients = clients;
            self.publish();
        }
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
                address: link.address.clone(),
                web: link.web.clone(),
                fingerprint: link.fingerprint.clone(),
                load: link.clients,
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

/// Serves one connection on the master's port until it closes.
pub(crate) async fn serve(
    id: LinkId,
    stream: TcpStream,
    peer: SocketAddr,
    events: Events,
    view: watch::Receiver<PublicView>,
) {
    let Ok(stream) = link::accept(stream).await else { return };
    let (reader, mut writer) = tokio::io::split(stream);
    let mut inbox = Inbox::new(reader);
    let Some(hello) = first_words(&mut inbox, &mut writer, peer, &view).await else {
        let _ = tokio::time::timeout(SILENCE, writer.shutdown()).await;
        return;
    };
    let (chunks, outgoing) = mpsc::channel(LINK_QUEUE);
    let unsent = Arc::new(AtomicUsize::new(0));
    let queue = LinkQueue { chunks, unsent: Arc::clone(&unsent) };
    let opened = Event::LinkOpened { link: id, hello, peer, queue };
    if events.send(opened).await.is_ok() {
        let writing =
            tokio::spawn(async move { write_all_from(writer, outgoing, SILENCE, &unsent).await });
        let reading = read_link(id, &mut inbox, &events);
        // The driver cuts a link by dropping its queue, which ends the writing.
        tokio::select! {
            () = reading => {}
            _ = writing => {}
        }
        let _ = events.send(Event::LinkClosed(id)).await;
    }
}

type LinkInbox = Inbox<tokio::io::ReadHalf<LinkStream>>;

/// Answers a client until it closes, or returns a worker's hello. What was answered must be taken
/// before more is read, so that nobody can make the master hold more than a chunk for them.
async fn first_words(
    inbox: &mut LinkInbox,
    writer: &mut tokio::io::WriteHalf<LinkStream>,
    peer: SocketAddr,
    view: &watch::Receiver<PublicView>,
) -> Option<LinkHello> {
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
                Some(Instruction::LinkHello) => match LinkHello::from_bytes(frame.data) {
                    Ok(hello) => return Some(hello),
                    Err(error) => {
                        let failure = Failure::new(Reason::BadArguments, error.to_string());
                        Return::Failed(Instruction::LinkRefused, failure).put(request, &mut out);
                        close = true;
                        break;
                    }
                },
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
            return None;
        }
        if is_full {
            continue;
        }
        match tokio::time::timeout(SILENCE, inbox.fill()).await {
            Ok(Ok(read)) if read > 0 => {}
            _ => return None,
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
        let server: LinkStream = Box::new(server);
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
            _ = first_words(&mut inbox, &mut writer, peer, &view) => panic!("it gave up"),
            () = flood => panic!("it closed"),
            () = turns => {}
        }
        // What one chunk of answers takes, and the buffers on the way.
        assert!(sent.get() > 4_096 && sent.get() < 2 * CLIENT_CHUNK, "{}", sent.get());
    }

    #[test]
    fn bytes_that_wait_for_a_link_are_bounded() {
        let (chunks, outgoing) = mpsc::channel(LINK_QUEUE);
        let queue = LinkQueue { chunks, unsent: Arc::default() };
        // A single answer may be as long as it likes.
        assert!(queue.add(vec![0; MAX_UNSENT]));
        assert!(queue.add(vec![0; 1]));
        assert!(!queue.add(vec![0; 1]));
        assert_eq!(outgoing.len(), 2);
    }
}
