//! A socket beneath TLS: it follows the records (RFC 8446, 5.1) as they arrive, because the bytes
//! of one that is not whole yet are held in TLS unseen, and a client must not keep them waiting;
//! and it can move from one thread's runtime to another's.
//!
//! It reads lengths only, and judges nothing: what is no record fails in TLS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes before a record's content; the last two are its length.
const HEADER: usize = 5;

/// How far the present record has arrived. One thread at a time writes it.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// Bytes of its header, while that is not whole.
    header: AtomicUsize,
    length: AtomicUsize,
    /// Bytes of its content that have not arrived.
    missing: AtomicUsize,
}

impl Records {
    /// Whether part of a record has arrived whose rest is missing.
    pub(crate) fn has_partial(&self) -> bool {
        self.header.load(Relaxed) > 0 || self.missing.load(Relaxed) > 0
    }

    fn arrived(&self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            let missing = self.missing.load(Relaxed);
            if missing > 0 {
                let here = missing.min(bytes.len());
                self.missing.store(missing - here, Relaxed);
                bytes = bytes.get(here..).unwrap_or_default();
                continue;
            }
            let length = (self.length.load(Relaxed) << 8 | usize::from(*first)) & 0xffff;
            let header = (self.header.load(Relaxed) + 1) % HEADER;
            self.length.store(length, Relaxed);
            self.header.store(header, Relaxed);
            if header == 0 {
                self.missing.store(length, Relaxed);
            }
            bytes = rest;
        }
    }
}

/// A socket whose records are followed.
#[derive(Debug)]
pub(crate) struct Followed {
    socket: Socket,
    records: Arc<Records>,
}

#[derive(Debug)]
enum Socket {
    /// With the runtime of this thread.
    Here(TcpStream),
    /// On the way to another.
    Moving(std::net::TcpStream),
    Lost,
}

impl Followed {
    /// A socket on its way to the runtime that will serve it.
    pub(crate) fn new(socket: std::net::TcpStream) -> Followed {
        Followed { socket: Socket::Moving(socket), records: Arc::default() }
    }

    /// How its records arrive.
    pub(crate) fn records(&self) -> Arc<Records> {
        Arc::clone(&self.records)
    }

    /// Leaves the runtime of this thread.
    pub(crate) fn leave(&mut self) -> io::Result<()> {
        if let Socket::Here(socket) = std::mem::replace(&mut self.socket, Socket::Lost) {
            self.socket = Socket::Moving(socket.into_std()?);
        }
        Ok(())
    }

    /// Joins the runtime of this thread.
    pub(crate) fn join(&mut self) -> io::Result<()> {
        if let Socket::Moving(socket) = std::mem::replace(&mut self.socket, Socket::Lost) {
            self.socket = Socket::Here(TcpStream::from_std(socket)?);
        }
        Ok(())
    }

    fn here(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        match &mut self.socket {
            Socket::Here(socket) => Ok(Pin::new(socket)),
            Socket::Moving(_) | Socket::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for Followed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.here()?.poll_read(context, buffer))?;
        self.records.arrived(buffer.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Followed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.here()?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.here()?.poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.here()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.here()?.poll_shutdown(context)
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
