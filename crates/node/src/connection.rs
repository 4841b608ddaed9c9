//! Reading frames from a stream, and writing them from many places.
//!
//! One read may bring many frames, and many answers leave in one write. Memory is bounded: the
//! buffer never holds more than one unfinished frame and what one read brought. What is read lands in
//! a buffer that the thread lends; an inbox that waits gives it back, and keeps the bytes of its
//! unfinished frame and no more.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use papertrader_protocol::frame::MAX_FRAME;
use papertrader_protocol::{Frame, FrameError};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::mpsc;

/// How much one read may bring.
const READ: usize = 16 * 1024;
/// A buffer that is lent: room for a read behind the longest unfinished frame.
const ROOM: usize = READ + MAX_FRAME;
/// Buffers that a thread keeps to lend. More are made when more are needed.
const SPARE: usize = 8;

thread_local! {
    static SPARES: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

fn lend() -> Box<[u8]> {
    let spare = SPARES.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| vec![0; ROOM].into_boxed_slice())
}

fn give_back(buffer: Box<[u8]>) {
    SPARES.with_borrow_mut(|spares| {
        if buffer.len() == ROOM && spares.len() < SPARE {
            spares.push(buffer);
        }
    });
}

/// Frames as they arrive.
#[derive(Debug)]
pub struct Inbox<R> {
    reader: R,
    /// One that is lent, or just large enough for what waits.
    buffer: Box<[u8]>,
    /// Where what has arrived begins and ends in it.
    start: usize,
    end: usize,
    /// Bytes of the frame that [`Inbox::frame`] returned last.
    used: usize,
}

impl<R> Inbox<R> {
    /// Reads from `reader`.
    pub fn new(reader: R) -> Inbox<R> {
        Inbox { reader, buffer: Box::default(), start: 0, end: 0, used: 0 }
    }

    /// What is read from.
    pub fn reader(&mut self) -> &mut R {
        &mut self.reader
    }

    /// Forgets everything that has arrived.
    pub fn clear(&mut self) {
        (self.start, self.end, self.used) = (0, 0, 0);
    }

    /// The bytes that have arrived, for who knows a shorter way than [`Inbox::frame`].
    pub fn bytes(&mut self) -> &[u8] {
        self.release();
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// The first `count` of them are taken care of.
    pub fn consume(&mut self, count: usize) {
        self.used = count.min(self.end - self.start);
    }

    /// The next whole frame that has arrived.
    pub fn frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        self.release();
        match Frame::decode(self.buffer.get(self.start..self.end).unwrap_or_default())? {
            Some((frame, used)) => {
                self.used = used;
                Ok(Some(frame))
            }
            None => Ok(None),
        }
    }

    /// Whether part of a frame has arrived whose rest is missing.
    pub fn has_partial(&self) -> bool {
        self.end > self.start + self.used
    }

    fn release(&mut self) {
        self.start += self.used;
        self.used = 0;
    }
}

impl<R: AsyncRead + Unpin> Inbox<R> {
    /// Waits for more bytes; 0 means that the other end has closed. Dropping the future loses
    /// nothing. Call it when [`Inbox::frame`] has returned `None`.
    pub async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|context| self.poll_fill(context)).await
    }

    /// [`Inbox::fill`], looked at once.
    pub fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.release();
        let waits = self.end - self.start;
        debug_assert!(waits < MAX_FRAME);
        if self.buffer.len() < ROOM {
            let mut lent = lend();
            let kept = self.buffer.get(self.start..self.end).unwrap_or_default();
            if let Some(place) = lent.get_mut(..waits) {
                place.copy_from_slice(kept);
            }
            self.buffer = lent;
        } else if waits > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
        }
        (self.start, self.end) = (0, waits);
        let mut read = ReadBuf::new(self.buffer.get_mut(waits..waits + READ).unwrap_or_default());
        match Pin::new(&mut self.reader).poll_read(context, &mut read) {
            Poll::Ready(Ok(())) => {
                let count = read.filled().len();
                self.end += count;
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let kept = self.buffer.get(..waits).unwrap_or_default().into();
                give_back(std::mem::replace(&mut self.buffer, kept));
                Poll::Pending
            }
        }
    }
}

/// Writes what comes through the channel until it is closed; what waits together leaves in one
/// write. Counts `unsent` down by what was written. Returns when everything is written, or at the
/// first error: also when the other end takes nothing for as long as `patience`.
pub async fn write_all_from<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut outgoing: mpsc::Receiver<Bytes>,
    patience: Duration,
    unsent: &AtomicUsize,
) -> io::Result<()> {
    while let Some(mut bytes) = outgoing.recv().await {
        // What waits alone may be shared with others, and is not copied.
        if let Ok(second) = outgoing.try_recv() {
            let mut together = [&bytes[..], &second[..]].concat();
            while together.len() < 256 * 1024 {
                match outgoing.try_recv() {
                    Ok(more) => together.extend_from_slice(&more),
                    Err(_) => break,
                }
            }
            bytes = together.into();
        }
        write_patiently(&mut writer, &bytes, patience).await?;
        unsent.fetch_sub(bytes.len(), Ordering::Relaxed);
    }
    writer.shutdown().await
}

/// Writes everything, unless the other end takes nothing for as long as `patience`.
pub async fn write_patiently<W: AsyncWrite + Unpin>(
    writer: &mut W,
    mut bytes: &[u8],
    patience: Duration,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = tokio::time::timeout(patience, writer.write(bytes));
        match written.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => bytes = bytes.get(count..).unwrap_or_default(),
        }
    }
    // What TLS has taken may still be with it.
    let flushed = tokio::time::timeout(patience, writer.flush());
    flushed.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use papertrader_protocol::{Header, Instruction};
    use std::sync::Arc;

    fn ping(request: u64, text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let instruction = Instruction::Ping;
        let mut header = Header::new(instruction.message_type(), instruction as u16, request);
        header.argument_count = 1;
        header.encode(text.as_bytes(), &mut out);
        out
    }

    #[tokio::test]
    async fn frames_arrive_whole_however_they_are_cut() {
        let mut sent = Vec::new();
        for n in 0..50 {
            sent.extend(ping(n, &"x".repeat(n as usize * 7)));
        }
        for piece in [1, 3, 39, 40, 41, 1000, sent.len()] {
            let (client, server) = tokio::io::duplex(64 * 1024);
            let bytes = sent.clone();
            tokio::spawn(async move {
                let mut client = client;
                for chunk in bytes.chunks(piece) {
                    client.write_all(chunk).await.unwrap();
                }
            });
            let mut inbox = Inbox::new(server);
            let mut numbers = Vec::new();
            loop {
                while let Some(frame) = inbox.frame().unwrap() {
                    assert_eq!(frame.data.len(), frame.header.request as usize * 7);
                    numbers.push(frame.header.request);
                }
                if inbox.fill().await.unwrap() == 0 {
                    break;
                }
            }
            assert!(!inbox.has_partial());
            assert_eq!(numbers, (0..50).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn everything_sent_is_written_in_order() {
        let (client, server) = tokio::io::duplex(64);
        let (sender, receiver) = mpsc::channel(4);
        let unsent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&unsent);
        let patience = Duration::from_secs(60);
        let writer =
            tokio::spawn(async move { write_all_from(client, receiver, patience, &count).await });
        let count = Arc::clone(&unsent);
        let feeder = tokio::spawn(async move {
            for n in 0..20 {
                let bytes = ping(n, "text");
                count.fetch_add(bytes.len(), Ordering::Relaxed);
                sender.send(bytes.into()).await.unwrap();
            }
        });
        let mut inbox = Inbox::new(server);
        let mut next = 0;
        while inbox.fill().await.unwrap() > 0 {
            while let Some(frame) = inbox.frame().unwrap() {
                assert_eq!(frame.header.request, next);
                next += 1;
            }
        }
        assert_eq!(next, 20);
        feeder.await.unwrap();
        writer.await.unwrap().unwrap();
        assert_eq!(unsent.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn who_takes_nothing_is_given_up() {
        let (mut client, _server) = tokio::io::duplex(64);
        let written = write_patiently(&mut client, &[0; 65], Duration::from_millis(1)).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
