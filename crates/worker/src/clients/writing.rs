//! What is being written to one client: a chunk of its outbox, and what TLS holds back of earlier
//! ones. Dropping a future loses nothing.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::outbox::Outbox;
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
    /// Takes the next chunk when the last one is written. The client has as long as `patience` to
    /// take some of what waits.
    pub(super) fn refill(&mut self, outbox: &mut Outbox, now: Instant, patience: Duration) {
        if self.left() == 0 {
            self.chunk = outbox.take_chunk();
            self.written = 0;
        }
        self.deadline = match self.is_busy() {
            true => Some(self.deadline.unwrap_or(now + patience)),
            false => None,
        };
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

    /// Waits until something can be written; how many bytes were. None means that what was held
    /// back is gone.
    pub(super) async fn go_on<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
    ) -> io::Result<usize> {
        let count = poll_fn(|context| {
            let rest = self.chunk.get(self.written..).unwrap_or_default();
            let mut count = 0;
            if !rest.is_empty() {
                count = ready!(Pin::new(&mut *writer).poll_write(context, rest))?;
                if count == 0 {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero)));
                }
            }
            self.written += count;
            self.unflushed = true;
            // What is last must not be held back; before that, more follows anyway.
            if count == rest.len() {
                match Pin::new(&mut *writer).poll_flush(context) {
                    Poll::Ready(result) => {
                        result?;
                        self.unflushed = false;
                    }
                    Poll::Pending if count == 0 => return Poll::Pending,
                    Poll::Pending => {}
                }
            }
            Poll::Ready(Ok(count))
        })
        .await?;
        self.deadline = None;
        Ok(count)
    }
}
