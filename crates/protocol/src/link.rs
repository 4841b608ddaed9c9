//! What only master and worker say to each other, over the link (4.3.1).
//!
//! A link has no states: it starts with the proof of both keys (`linkOpen`, `linkChallenge`,
//! `linkProof`, `linkProven`), then `linkHello` and `linkWelcome` or `linkRefused`, then carries
//! the clients' own instructions with a link header each, their returns, and the control messages
//! here. Their content is binary. Keys and what is sealed are bytes here: nothing is proved in this
//! crate.

use papertrader_core::ids::WorkerId;
use papertrader_core::names::Symbol;
use papertrader_core::time::WallTime;

use crate::data::AssetKind;
use crate::fingerprint::Fingerprint;
use crate::session::SessionId;
use crate::wire::{DecodeError, Reader, Wire, wire_struct};

/// 32 bytes that nobody can guess. They never print themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 32]);

impl std::fmt::Debug for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nonce(32 bytes)")
    }
}

impl Wire for Nonce {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Nonce(reader.array()?))
    }
}

impl Wire for Fingerprint {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Fingerprint(reader.array()?))
    }
}

wire_struct! {
    /// `linkOpen`: the first message of a worker.
    pub struct LinkOpen {
        /// The worker's UUID.
        worker: WorkerId,
        /// Fresh random bytes.
        nonce: Nonce,
    }
}

wire_struct! {
    /// `linkChallenge`: the master's proof.
    pub struct LinkChallenge {
        /// The master's OpenPGP public key.
        key: Vec<u8>,
        /// A [`LinkStatement`] of the master, signed with its key and encrypted for the worker.
        sealed: Vec<u8>,
    }
}

wire_struct! {
    /// `linkProof`: the worker's proof.
    pub struct LinkProof {
        /// A [`LinkStatement`] of the worker, signed with its key and encrypted for the master.
        sealed: Vec<u8>,
    }
}

wire_struct! {
    /// What both sign: everything that makes this link this link.
    pub struct LinkStatement {
        /// `papertrader-link-v1`.
        label: String,
        /// Who signs: `master` or `worker`.
        role: String,
        /// The worker's UUID.
        worker: WorkerId,
        /// The fingerprint of the worker's OpenPGP key, in capital hexadecimal digits.
        worker_key: String,
        /// The fingerprint of the master's OpenPGP key, in capital hexadecimal digits.
        master_key: String,
        /// The SHA-256 of the certificate of the master's TLS.
        certificate: Fingerprint,
        /// The nonce of `linkOpen`.
        worker_nonce: Nonce,
        /// Fresh random bytes of the master; they travel only sealed, so that to know them is to
        /// own the worker's key.
        master_nonce: Nonce,
        /// Keying material of this TLS session (RFC 8446, 7.5), label
        /// `EXPORTER-papertrader-link-v1`, no context.
        exporter: Nonce,
    }
}

wire_struct! {
    /// `linkPing`: asked every few seconds.
    pub struct LinkPing {
        /// The worker's clock.
        sent: WallTime,
    }
}

wire_struct! {
    /// `linkPong`: the answer.
    pub struct LinkPong {
        /// `sent` of the `linkPing`.
        sent: WallTime,
        /// The master's clock.
        clock: WallTime,
    }
}

wire_struct! {
    /// `linkHello`: the first message of a worker after the proof.
    pub struct LinkHello {
        /// The worker's UUID: the proven one.
        worker: WorkerId,
        /// Its software version, for the operator.
        version: String,
        /// Where clients reach it: `host:port`.
        address: String,
        /// Its web address, or empty.
        web: String,
        /// The fingerprint of its certificate, or empty.
        fingerprint: String,
        /// The region that it is in, or empty.
        region: String,
        /// Its clock, for the operator.
        clock: WallTime,
    }
}

wire_struct! {
    /// `linkWelcome`: the worker is accepted.
    pub struct LinkWelcome {
        /// The deployment's ID, a UUID as text: passwords are salted with it.
        deployment: String,
        /// The worker's name in the registry.
        name: String,
        /// The master's clock.
        clock: WallTime,
        /// Nanoseconds of wall time between snapshots (2.3.4).
        interval: i64,
        /// Nanoseconds of market time that one bar of resolution `interval` covers.
        bar_interval: i64,
        /// Where prices come from, in words.
        source: String,
    }
}

wire_struct! {
    /// An instrument, sent where a worker has another list of them.
    pub struct LinkInstrument {
        /// Its number in this deployment.
        id: u32,
        /// The short name.
        symbol: Symbol,
        /// The full name.
        name: String,
        /// What it is.
        kind: AssetKind,
    }
}

wire_struct! {
    /// `sessionPresence`: whether a session still has a connection at this worker.
    pub struct SessionPresence {
        /// Which session.
        session: SessionId,
        /// True when its first connection opened, false when its last closed.
        present: bool,
    }
}

wire_struct! {
    /// `sessionEnded`: the worker must forget a session at once.
    pub struct SessionEnded {
        /// Which session.
        session: SessionId,
    }
}

wire_struct! {
    /// `workerStatus`: what the worker reports of itself. Counters begin with its start.
    pub struct WorkerStatus {
        /// When it was started.
        started: WallTime,
        /// Connected clients.
        clients: u32,
        /// How much is taken of what it can take, in thousandths: of its places for clients, of those
        /// for orders, or of its memory for answers, whichever is nearest to its end.
        load: u32,
        /// Sessions that it holds as verified.
        sessions: u32,
        /// Orders that wait for an answer of the master.
        orders: u32,
        /// Bytes of answers in its cache.
        cache_bytes: u64,
        /// The most that it may hold.
        cache_limit: u64,
        /// Questions answered from the cache.
        cache_hits: u64,
        /// Questions that the master had to answer.
        cache_misses: u64,
        /// Answers that had to make room for others.
        cache_evictions: u64,
        /// Bytes that wait for clients to read them.
        outgoing_bytes: u64,
        /// Connections refused because there were too many, of one address or of all.
        refused_connections: u64,
        /// Connections cut off: too slow, too greedy, or idle.
        cut_connections: u64,
        /// Requests that had to wait because their connection asked too many at once.
        throttled_requests: u64,
        /// How long the last `linkPing` took, in nanoseconds; 0 before the first.
        round_trip: i64,
        /// The master's clock minus the worker's, in nanoseconds.
        clock_offset: i64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_prints_none_of_its_secrets() {
        let statement = LinkStatement {
            label: "papertrader-link-v1".into(),
            role: "master".into(),
            worker: WorkerId([1; 16]),
            worker_key: "AA".into(),
            master_key: "BB".into(),
            certificate: Fingerprint([2; 32]),
            worker_nonce: Nonce([213; 32]),
            master_nonce: Nonce([214; 32]),
            exporter: Nonce([215; 32]),
        };
        let printed = format!("{statement:?}");
        assert!(printed.contains("papertrader-link-v1"));
        for secret in ["213", "214", "215", "d5", "d6", "d7"] {
            assert!(!printed.contains(secret), "{printed}");
        }
    }
}
