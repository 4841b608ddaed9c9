//! The master's port (specification 4.3.1): who comes, and their bytes.
//!
//! Each connection has a task that reads and one that writes; the driver owns what they mean. Which
//! kind it is stands in its TLS handshake: a worker proves its key before the driver hears of it, a
//! client may ask for the list of workers (3.1.5) and for nothing else.
//!
//! Who gets a place is `places`', which refusals are written into the log is `refusals`'.
//!
//! Invariant: what a connection is answered is bounded, and so is the time that it stays without a
//! proof.

mod places;
mod refusals;

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use papertrader_core::ids::WorkerId;
use papertrader_node::clock::Clock;
use papertrader_node::connection::{Inbox, write_all_from, write_patiently};
use papertrader_node::link::{Denied, MasterSide, PortStream, is_worker};
use papertrader_node::{debug, warn};
use papertrader_protocol::frame::VERSION;
use papertrader_protocol::link::LinkHello;
use papertrader_protocol::returns::{Return, Welcome};
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Failure, Frame, FrameError, Header, Instruction, Reason, Request};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};

use crate::config::PortLimits;
use crate::driver::{Event, Events};
use crate::lease::Held;
use crate::registry::Registry;
use crate::workers::{Arrival, LinkId, LinkQueue, PublicView, worker_list_frames};

pub(crate) use places::{PlaceCounts, Places};
pub(crate) use refusals::Refusals;
use refusals::{LeftOut, Subject};

/// Chunks that may wait to be written to one link.
const LINK_QUEUE: usize = 1_024;
/// About how many bytes are answered to a client before it must have taken them.
const CLIENT_CHUNK: usize = 64 * 1024;

/// What the tasks of the port need.
pub(crate) struct Port {
    pub(crate) side: MasterSide,
    pub(crate) registry: watch::Receiver<Registry>,
    pub(crate) view: watch::Receiver<PublicView>,
    pub(crate) clock: Clock,
    pub(crate) events: Events,
    pub(crate) places: Arc<Places>,
    pub(crate) held: Held,
    pub(crate) limits: PortLimits,
    pub(crate) refusals: Mutex<Refusals>,
}

impl Port {
    /// Notes that a worker was refused; the log gets all of it, or its number later.
    fn refused(&self, peer: SocketAddr, denied: &Denied) {
        let now = self.clock.now();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = refusals.note(Subject::of(denied), now);
        drop(refusals);
        if let Some(left_out) = noted.left_out {
            say_left_out(&left_out);
        }
        if noted.write {
            warn!(%peer, %denied, "a worker was refused");
        }
    }

    /// Says how many refusals were left out of the log, once their minute is over.
    fn tell_refusals(&self) {
        let now = self.clock.now();
        let over = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).over(now);
        over.iter().for_each(say_left_out);
    }
}

fn say_left_out(LeftOut { subject, number }: &LeftOut) {
    warn!(of = %subject, number, "more refusals were left out of this log");
}

/// Takes connections until it is aborted.
pub(crate) async fn accept(listener: TcpListener, port: Arc<Port>) {
    let mut next = 0;
    let mut minutes = tokio::time::interval(Duration::from_secs(60));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = minutes.tick() => {
                port.tell_refusals();
                continue;
            }
        };
        match accepted {
            // Who comes is to look for the other master.
            Ok(_) if !port.held.is_held() => {}
            Ok((stream, peer)) => {
                let expected = port.registry.borrow().expects(peer.ip(), port.clock.now());
                let Some(place) = port.places.take(peer.ip(), expected) else {
                    debug!(%peer, expected, "no place on the master's port");
                    continue;
                };
                next += 1;
                let serving = serve(LinkId(next), stream, peer, Arc::clone(&port));
                tokio::spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, usually: others must close before it can go on.
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one connection on the master's port until it closes.
pub(crate) async fn serve(id: LinkId, stream: TcpStream, peer: SocketAddr, port: Arc<Port>) {
    let PortLimits { silence, stay, .. } = port.limits;
    let mut stream = match port.side.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => return debug!(%peer, %error, "no TLS on the master's port"),
    };
    if !is_worker(&stream) {
        let (reader, mut writer) = tokio::io::split(stream);
        let mut inbox = Inbox::new(reader);
        within(stay, answer_in_turn(&mut inbox, &mut writer, peer, &port.view, silence)).await;
        let _ = tokio::time::timeout(silence, writer.shutdown()).await;
        return;
    }
    let find = |worker| port.registry.borrow().find(worker);
    let proven = match port.side.prove(&mut stream, peer, find, &port.clock).await {
        Ok(proven) => proven,
        Err(denied) => return port.refused(peer, &denied),
    };
    let (reader, writer) = tokio::io::split(stream);
    let mut inbox = Inbox::new(reader);
    let worker = proven.worker;
    let hello = match tokio::time::timeout(silence, first_words(&mut inbox)).await {
        Ok(FirstWords::Hello(hello)) => hello,
        Ok(FirstWords::Others) => {
            warn!(%peer, %worker, "a worker proved its key and said something else than linkHello");
            let words = "something else than linkHello after the proof".into();
            let _ = port.events.send(Event::Misspoke(worker, words)).await;
            return;
        }
        Ok(FirstWords::None) | Err(_) => {
            return warn!(%peer, %worker, "a worker proved its key but did not say linkHello");
        }
    };
    let (chunks, outgoing) = mpsc::channel(LINK_QUEUE);
    let (unsent, cut) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let queue = LinkQueue { chunks, unsent: Arc::clone(&unsent), cut: Arc::clone(&cut) };
    let arrival = Arrival { proven, hello, peer, queue };
    if port.events.send(Event::LinkOpened(id, Box::new(arrival))).await.is_ok() {
        let mut writing =
            tokio::spawn(async move { write_all_from(writer, outgoing, silence, &unsent).await });
        let reading = read_link(id, worker, &mut inbox, &port.events);
        // The driver ends a link by dropping its queue, which ends the writing, or cuts it. Who
        // says nothing more is told nothing more: what a hostile one does not read is not kept.
        tokio::select! {
            said = reading => if said == Said::All { writing.abort() },
            _ = &mut writing => {}
            () = cut.notified() => writing.abort(),
        }
        let _ = port.events.send(Event::LinkClosed(id)).await;
    }
}

type LinkInbox = Inbox<tokio::io::ReadHalf<PortStream>>;

/// What a worker says first.
enum FirstWords {
    Hello(LinkHello),
    /// Something else.
    Others,
    /// It has gone.
    None,
}

async fn first_words(inbox: &mut LinkInbox) -> FirstWords {
    loop {
        match inbox.frame() {
            Ok(Some(frame)) => {
                let due = Instruction::LinkHello;
                let is_hello = frame.header.instruction == due as u16
                    && frame.header.message_type == due.message_type()
                    && frame.header.max == 1;
                let hello = LinkHello::from_bytes(frame.data).ok().filter(|_| is_hello);
                return hello.map_or(FirstWords::Others, FirstWords::Hello);
            }
            Ok(None) => {}
            Err(_) => return FirstWords::Others,
        }
        match inbox.fill().await {
            Ok(read) if read > 0 => {}
            _ => return FirstWords::None,
        }
    }
}

/// Serves a client until it closes, or has been here for as long as `stay`, whatever it does.
async fn within(stay: Duration, serving: impl Future<Output = ()>) {
    let _ = tokio::time::timeout(stay, serving).await;
}

/// Answers a client until it closes, or is silent for too long. What was answered must be taken
/// before more is read, so that nobody can make the master hold more than a chunk for them.
async fn answer_in_turn<R, W>(
    inbox: &mut Inbox<R>,
    writer: &mut W,
    peer: SocketAddr,
    view: &watch::Receiver<PublicView>,
    silence: Duration,
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
        if write_patiently(writer, &out, silence).await.is_err() || close {
            return;
        }
        if is_full {
            continue;
        }
        match tokio::time::timeout(silence, inbox.fill()).await {
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

/// Why nothing more is read from a link.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// The worker says nothing more, or nothing that can be read.
    All,
    /// The driver has ended, and listens no more.
    ToNobody,
}

async fn read_link(id: LinkId, worker: WorkerId, inbox: &mut LinkInbox, events: &Events) -> Said {
    loop {
        // What one read brought is one event.
        let mut frames = Vec::new();
        let wrong = loop {
            match inbox.frame() {
                Ok(Some(frame)) => {
                    frames.push(OwnedFrame { header: frame.header, data: frame.data.into() });
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        if !frames.is_empty() && events.send(Event::Frames(id, frames)).await.is_err() {
            return Said::ToNobody;
        }
        if let Some(error) = wrong {
            warn!(%worker, %error, "a worker sent bytes that are no frame: cutting its link");
            let words = format!("bytes that are no frame: {error}");
            let _ = events.send(Event::Misspoke(worker, words)).await;
            return Said::All;
        }
        match inbox.fill().await {
            Ok(read) if read > 0 => {}
            _ => return Said::All,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use papertrader_protocol::SessionId;
    use papertrader_protocol::data::WorkerList;
    use papertrader_protocol::returns::put_args;

    use super::*;

    const SILENCE: Duration = Duration::from_secs(30);

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
            () = answer_in_turn(&mut inbox, &mut writer, peer, &view, SILENCE) => panic!("it gave up"),
            () = flood => panic!("it closed"),
            () = turns => {}
        }
        // What one chunk of answers takes, and the buffers on the way.
        assert!(sent.get() > 4_096 && sent.get() < 2 * CLIENT_CHUNK, "{}", sent.get());
    }

    #[tokio::test]
    async fn a_client_that_sends_a_byte_now_and_then_does_not_stay() {
        let (mut client, server) = tokio::io::duplex(4_096);
        let (reader, mut writer) = tokio::io::split(server);
        let view = watch::Sender::new(PublicView::default()).subscribe();
        let peer = "127.0.0.1:1".parse().unwrap();
        let stay = Duration::from_millis(1);
        tokio::spawn(async move {
            let mut inbox = Inbox::new(reader);
            within(stay, answer_in_turn(&mut inbox, &mut writer, peer, &view, SILENCE)).await;
        });
        let mut requests = Vec::new();
        while requests.len() < 1 << 20 {
            put_args(Instruction::Ping, &["x".repeat(16_000)], 1, SessionId::NONE, &mut requests);
        }
        // It reads what it is told, and is never silent.
        let mut pongs = [0; 4_096];
        for byte in requests.iter().cycle() {
            if client.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::select! {
                biased;
                read = tokio::io::AsyncReadExt::read(&mut client, &mut pongs) => {
                    if !matches!(read, Ok(1..)) {
                        break;
                    }
                }
                () = tokio::task::yield_now() => {}
            }
        }
    }
}
