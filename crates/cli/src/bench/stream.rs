//! Connections of the loads: opened while waiting, over TLS or without, and then asked without waiting.
//!
//! What is said on them is decided elsewhere. Invariant: a stream that is asked never blocks.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::time::Duration;

use mio::net::TcpStream;
use papertrader_node::tls::{self, BlockingStream};
use papertrader_protocol::Fingerprint;

use super::BenchError;

/// How long a server may take for one answer while a connection is opened.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where clients are served.
#[derive(Debug, Clone, Copy)]
pub(super) struct Worker {
    pub(super) address: SocketAddr,
    /// `None` for plain TCP.
    pub(super) certificate: Option<Fingerprint>,
}

impl Worker {
    /// A connection on which nothing was said.
    pub(super) fn connect(self) -> Result<Opened, BenchError> {
        let stream = plain(self.address)?;
        Ok(match self.certificate {
            None => Opened::Plain(stream),
            Some(certificate) => {
                Opened::Tls(tls::connect_blocking(stream, certificate, tls::CLIENT_PROTOCOL)?)
            }
        })
    }
}

/// A connection without TLS to any server.
pub(super) fn plain(address: SocketAddr) -> Result<StdStream, BenchError> {
    let stream = StdStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A connection to a server.
#[expect(clippy::large_enum_variant, reason = "there are few, and each is one or the other")]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(BlockingStream<TcpStream>),
}

/// A connection on which what comes first was said.
#[expect(clippy::large_enum_variant, reason = "there are few, and each is one or the other")]
pub(super) enum Opened {
    Plain(StdStream),
    Tls(BlockingStream<StdStream>),
}

impl Read for Opened {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Opened::Plain(stream) => stream.read(into),
            Opened::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Opened {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Opened::Plain(stream) => stream.write(bytes),
            Opened::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Opened::Plain(stream) => stream.flush(),
            Opened::Tls(stream) => stream.flush(),
        }
    }
}

impl Stream {
    pub(super) fn new(opened: Opened) -> io::Result<Stream> {
        let ready = |stream: StdStream| {
            stream.set_nonblocking(true)?;
            io::Result::Ok(TcpStream::from_std(stream))
        };
        Ok(match opened {
            Opened::Plain(stream) => Stream::Plain(ready(stream)?),
            Opened::Tls(BlockingStream { conn, sock }) => {
                Stream::Tls(BlockingStream::new(conn, ready(sock)?))
            }
        })
    }

    pub(super) fn socket(&mut self) -> &mut TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &mut stream.sock,
        }
    }

    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(into),
            Stream::Tls(stream) => stream.read(into),
        }
    }

    /// Whether a read that brought so much less than it might has brought all there is.
    pub(super) fn is_drained(&self, count: usize, most: usize) -> bool {
        matches!(self, Stream::Plain(_)) && count < most
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Tls(stream) => {
                let count = stream.write(bytes)?;
                stream.flush()?;
                Ok(count)
            }
        }
    }
}
