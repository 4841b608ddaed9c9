//! Follows the records of TLS (RFC 8446, 5.1) as they arrive, beneath TLS itself: bytes of a
//! record that is not whole yet are held there unseen, and a client must not keep them waiting.
//!
//! It reads lengths only, and judges nothing: what is no record fails in TLS.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes before a record's content; the last two are its length.
const HEADER: usize = 5;

/// How far the present record has arrived.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// Bytes of its header, while that is not whole.
    header: Cell<usize>,
    length: Cell<u16>,
    /// Bytes of its content that have not arrived.
    missing: Cell<usize>,
}

impl Records {
    /// Whether part of a record has arrived whose rest is missing.
    pub(super) fn has_partial(&self) -> bool {
        self.header.get() > 0 || self.missing.get() > 0
    }

    fn arrived(&self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            let missing = self.missing.get();
            if missing > 0 {
                let here = missing.min(bytes.len());
                self.missing.set(missing - here);
                bytes = bytes.get(here..).unwrap_or_default();
                continue;
            }
            self.length.set(self.length.get() << 8 | u16::from(*first));
            self.header.set((self.header.get() + 1) % HEADER);
            if self.header.get() == 0 {
                self.missing.set(usize::from(self.length.get()));
            }
            bytes = rest;
        }
    }
}

/// A stream whose records are followed.
#[derive(Debug)]
pub(super) struct Followed<S> {
    stream: S,
    records: Rc<Records>,
}

impl<S> Followed<S> {
    pub(super) fn new(stream: S, records: Rc<Records>) -> Followed<S> {
        Followed { stream, records }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Followed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.records.arrived(buffer.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Followed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_whole_when_its_last_byte_is_there_however_it_is_cut() {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for length in [1_u16, 300, 0, 16_640, 2] {
            bytes.extend([23, 3, 3]);
            bytes.extend(length.to_be_bytes());
            bytes.extend(vec![0xff; usize::from(length)]);
            ends.push(bytes.len());
        }
        for size in [1, 2, 4, 5, 6, 7, 1_000, 4_096, bytes.len()] {
            let records = Records::default();
            let mut arrived = 0;
            for chunk in bytes.chunks(size) {
                records.arrived(chunk);
                arrived += chunk.len();
                assert_eq!(records.has_partial(), !ends.contains(&arrived), "{size} {arrived}");
            }
        }
    }
}
