//! What is being written to one client: a chunk of its outbox, and what TLS holds back of earlier
//! ones.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::outbox::{self, Outbox};
use crate::handshakes::TLS_BUFFER;

/// The state of writing.
#[derive(Debug, Default)]
pub(super) struct Writing {
    chunk: Vec<u8>,
    /// How much of it is written.
    written: usize,
    /// Whether the stream holds back some of what was written.
    unflushed: bool,
    deadline: Option<Instant>,
}

impl Writing {
    /// Takes the next chunk when the last one is written.
    pub(super) fn refill(&mut self, outbox: &mut Outbox) {
        if self.left() == 0 {
            self.chunk = outbox.take_chunk();
            self.written = 0;
        }
    }

    /// Bytes that are not written.
    pub(super) fn left(&self) -> usize {
        self.chunk.len() - self.written
    }

    /// Whether the client has not been given everything that was taken.
    pub(super) fn is_busy(&self) -> bool {
        self.left() > 0 || self.unflushed
    }

    /// Bytes of memory that this takes.
    pub(super) fn memory(&self) -> usize {
        self.chunk.capacity() + if self.unflushed { TLS_BUFFER } else { 0 }
    }

    /// When the client has taken nothing for too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Writes what can be written now of what was taken; how many bytes that were. None means that
    /// what was held back is gone. The client has as long as `patience` to take more.
    pub(super) fn poll<W: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        writer: &mut W,
        patience: Duration,
    ) -> Poll<io::Result<usize>> {
        let polled = self.poll_once(context, writer);
        if polled.is_pending() {
            self.deadline.get_or_insert_with(|| Instant::now() + patience);
            if outbox::settle(&mut self.chunk, self.written) {
                self.written = 0;
            }
        } else {
            self.deadline = None;
        }
        polled
    }

    fn poll_once<W: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<usize>> {
        let rest = self.chunk.get(self.written..).unwrap_or_default();
        let mut count = 0;
        if !rest.is_empty() {
            count = match Pin::new(&mut *writer).poll_write(context, rest)? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(count) => count,
                Poll::Pending => return Poll::Pending,
            };
        }
        let is_last = count == rest.len();
        self.written += count;
        self.unflushed = true;
        // What is last must not be held back; before that, more follows anyway.
        if is_last {
            outbox::give_back(std::mem::take(&mut self.chunk));
            self.written = 0;
            match Pin::new(&mut *writer).poll_flush(context)? {
                Poll::Ready(()) => self.unflushed = false,
                Poll::Pending if count == 0 => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        Poll::Ready(Ok(count))
    }
}
