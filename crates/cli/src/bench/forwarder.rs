//! Stands between the workers and the master, and counts what their links carry: the bytes of TLS, as
//! they are in the packets.
//!
//! It passes bytes on as they come and understands none of them. It costs each way a copy and a
//! thread's turn, which what is measured through it includes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

/// What one read may bring.
const READ: usize = 64 * 1024;
/// What is longer is prices: nothing else of the master's is, on links without orders.
const BURST: usize = 1_024;
/// Snapshots are further apart than this.
const APART: Duration = Duration::from_millis(100);

/// A port that leads to the master.
pub(super) struct Forwarder {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    master: OnceLock<SocketAddr>,
    to_workers: AtomicU64,
    to_master: AtomicU64,
    /// When the first bytes of each snapshot came from the master, on any link.
    bursts: Mutex<Vec<SystemTime>>,
}

impl Forwarder {
    /// Listens. It ends with this process.
    pub(super) fn start() -> io::Result<Forwarder> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        std::thread::Builder::new().name("forwarder".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who cannot be served comes again.
                let _ = own.serve(stream);
            }
        })?;
        Ok(Forwarder { address, shared })
    }

    /// Says where the master is. Connections wait until then.
    pub(super) fn lead_to(&self, master: SocketAddr) {
        let _ = self.shared.master.set(master);
    }

    /// Bytes that went to the workers, and from them, so far.
    pub(super) fn carried(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.shared.to_workers), read(&self.shared.to_master))
    }

    /// When each snapshot was first seen on a wire.
    pub(super) fn bursts(&self) -> Vec<SystemTime> {
        self.shared.bursts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    fn serve(self: &Arc<Shared>, worker: TcpStream) -> io::Result<()> {
        let master = TcpStream::connect(self.master.wait())?;
        for stream in [&worker, &master] {
            stream.set_nodelay(true)?;
        }
        let (from_worker, to_master) = (worker.try_clone()?, master.try_clone()?);
        let (down, up) = (Arc::clone(self), Arc::clone(self));
        let thread = || std::thread::Builder::new().name("forwarder".into());
        thread().spawn(move || {
            pass(master, worker, |count| {
                down.to_workers.fetch_add(count as u64, Ordering::Relaxed);
                if count >= BURST {
                    down.burst();
                }
            })
        })?;
        thread().spawn(move || {
            pass(from_worker, to_master, |count| {
                up.to_master.fetch_add(count as u64, Ordering::Relaxed);
            })
        })?;
        Ok(())
    }

    fn burst(&self) {
        let now = SystemTime::now();
        let mut bursts = self.bursts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |last: &SystemTime| now.duration_since(*last).unwrap_or_default() < APART;
        if !bursts.last().is_some_and(is_same) {
            bursts.push(now);
        }
    }
}

/// Passes bytes on until either end closes, and closes both.
fn pass(mut from: TcpStream, mut to: TcpStream, count: impl Fn(usize)) {
    let mut buffer = vec![0; READ];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        count(read);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}
