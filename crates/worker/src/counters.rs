//! What a worker counts of itself for its operator, and the memory of what waits for clients.
//!
//! Invariants: memory that many clients wait for is counted once, for as long as anybody holds
//! it; each client thread writes its own number only, so that counting costs no two of them a
//! wait for each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Connections for which there was no place.
    pub(crate) refused: Count,
    /// Connections cut off: too slow, too greedy, or idle.
    pub(crate) cut: Count,
    /// Times that a connection had to wait because it asked too much at once.
    pub(crate) throttled: Count,
}

/// One of them.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Memory of what waits for clients to read it.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Of each client thread: what is one client's alone.
    own: Box<[Own]>,
    /// What several may wait for.
    shared: Arc<AtomicUsize>,
}

/// In a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Own(AtomicUsize);

impl Outgoing {
    pub(crate) fn new(threads: usize) -> Outgoing {
        Outgoing { own: (0..threads).map(|_| Own::default()).collect(), shared: Arc::default() }
    }

    /// What the clients of a thread have waiting for each of them alone. Only that thread says so.
    pub(crate) fn set_own(&self, thread: usize, bytes: usize) {
        if let Some(own) = self.own.get(thread) {
            own.0.store(bytes, Ordering::Relaxed);
        }
    }

    /// Data that is counted for as long as anybody holds a part of it.
    pub(crate) fn share(&self, data: Vec<u8>) -> Bytes {
        self.shared.fetch_add(data.len(), Ordering::Relaxed);
        Bytes::from_owner(Shared { data, count: Arc::clone(&self.shared) })
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> u64 {
        let own: usize = self.own.iter().map(|own| own.0.load(Ordering::Relaxed)).sum();
        (own + self.shared.load(Ordering::Relaxed)) as u64
    }
}

struct Shared {
    data: Vec<u8>,
    count: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.count.fetch_sub(self.data.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_data_counts_once_until_the_last_part_is_dropped() {
        let outgoing = Outgoing::new(2);
        outgoing.set_own(0, 5);
        outgoing.set_own(1, 7);
        let whole = outgoing.share(vec![1; 100]);
        let part = whole.slice(10..20);
        let other = whole.clone();
        assert_eq!(outgoing.bytes(), 112);
        drop((whole, other));
        assert_eq!(outgoing.bytes(), 112);
        drop(part);
        outgoing.set_own(1, 0);
        assert_eq!(outgoing.bytes(), 5);
    }
}
