//! The link between a worker and the master (specification 4.3.1): how it is made and who is let
//! in.
//!
//! TLS 1.3 first, in which the worker knows the master by its certificate's fingerprint; then both
//! prove their OpenPGP keys inside it (`proof`). What is above sees only a [`LinkStream`] and who
//! is at its other end.
//!
//! Invariant: of a connection from an address that no worker may have, nothing is read but one
//! small frame, and no key is touched for it.

mod network;
mod proof;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use papertrader_core::ids::WorkerId;
use papertrader_core::time::WallTime;
use papertrader_protocol::Fingerprint;
use sha2::{Digest, Sha256};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::openpgp::{Certificate, Identity, KeyProblem, OpenError};
use crate::{private_file, tls};

pub use network::{Network, NotANetwork};

/// The worker's end of a link.
pub type LinkStream = tls::ClientStream<TcpStream>;
/// The master's end of a connection on its port.
pub type PortStream = tls::ServerStream<TcpStream>;

/// How long the handshake of TLS may take, and the proof after it, each.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// What a refused worker is told, whatever the cause.
const REFUSED: &str = "it was sent away, or its UUID, its address or its key is not as registered; the \
                       master's log says which, and `papertrader admin workers` changes it";
/// Proofs that the master works at at the same time; others wait their turn.
const PROOFS: usize = 4;

/// A worker that the master knows.
#[derive(Debug, Clone)]
pub struct Registered {
    /// Its UUID.
    pub id: WorkerId,
    /// Its name.
    pub name: String,
    /// Where it may connect from.
    pub allowed: Vec<Network>,
    /// Its OpenPGP public key. Without one it cannot connect.
    pub key: Option<Arc<Certificate>>,
    /// Set while it may not connect: until when, or until it is registered anew.
    pub booted: Option<Option<WallTime>>,
}

/// Why a worker is not let in, in words for the master's operator.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// Its UUID is not registered.
    #[error("worker UUID {0} is not registered")]
    UnknownWorker(WorkerId),
    /// It comes from an address that is not on its list.
    #[error("worker {0} is not allowed to connect from {1}")]
    ForeignAddress(String, IpAddr),
    /// It was booted.
    #[error("worker {0} was booted")]
    Booted(String),
    /// No key is registered.
    #[error("worker {0} has no OpenPGP key in the registry: add it again with its key")]
    NoKey(String),
    /// Its registered key cannot be used now.
    #[error("the key of worker {0} cannot be used: {1}")]
    Key(String, KeyProblem),
    /// What it sent is not sealed as it should be: it has not got the key.
    #[error("the proof of worker {0} is not good: {1}")]
    Proof(String, OpenError),
    /// What it signed is not about this link.
    #[error("the proof of worker {0} is about another {1}: it was replayed or relayed")]
    Statement(String, &'static str),
    /// The master's own key cannot be used.
    #[error("the master's own key cannot be used: {0}")]
    OwnKey(String),
    /// It does not speak as a worker does.
    #[error("the message that should be {0} is not as the protocol says")]
    Protocol(&'static str),
    /// It left, or was too slow, after it was challenged: it cannot read the challenge, or does not
    /// take this master for its own.
    #[error(
        "worker {0} was challenged and did not answer ({1}): has it another key than the registered \
         one, or another master?"
    )]
    Unproven(String, io::Error),
    /// The connection ended, or was too slow, before it said who it is.
    #[error("the connection ended before linkOpen: {0}")]
    Ended(#[from] io::Error),
}

/// Why a worker has no link.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The master cannot be reached, or is not the one whose certificate is configured.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The master says no.
    #[error("the master refuses this worker: {0}")]
    Refused(String),
    /// The master has another OpenPGP key than it should.
    #[error(
        "the master's OpenPGP key is {seen}, not {expected}: somebody else has its TLS key, or \
             the operator has replaced it"
    )]
    MasterKey {
        /// The fingerprint of the known key.
        expected: String,
        /// The fingerprint of the one it shows.
        seen: String,
    },
    /// The master's key is no key, or cannot be used.
    #[error("the master's OpenPGP key cannot be used: {0}")]
    MasterKeyProblem(String),
    /// The master's proof is not good.
    #[error("the master's proof is not good: {0}")]
    Proof(#[from] OpenError),
    /// What the master signed is not about this link.
    #[error("the master's proof is about another {0}: it was replayed or relayed")]
    Statement(&'static str),
    /// This worker's own key cannot be used.
    #[error("this worker's own key cannot be used: {0}")]
    OwnKey(String),
    /// The master's key was accepted but cannot be kept.
    #[error("cannot write {0}: {1}")]
    Keep(PathBuf, io::Error),
    /// It does not speak as the master does.
    #[error("the master's {0} is not as the protocol says")]
    Protocol(&'static str),
}

/// Who is at the other end of a proven link.
#[derive(Debug, Clone)]
pub struct Proven {
    /// The worker's UUID.
    pub worker: WorkerId,
    /// Its key, as it was registered when it was proved.
    pub key: Arc<Certificate>,
    /// When one of the keys expires that this proof rests on: the link must end then.
    pub valid_until: Option<WallTime>,
}

/// What the master proves itself with, and the proofs that it works at.
#[derive(Debug)]
pub struct MasterSide {
    certificate: tls::Certificate,
    identity: Arc<Identity>,
    proofs: Semaphore,
}

impl MasterSide {
    /// From the certificate of its TLS (for [`tls::LINK_PROTOCOL`] and [`tls::CLIENT_PROTOCOL`])
    /// and its OpenPGP key.
    pub fn new(certificate: tls::Certificate, identity: Arc<Identity>) -> MasterSide {
        MasterSide { certificate, identity, proofs: Semaphore::new(PROOFS) }
    }

    /// By which workers know its TLS.
    pub fn fingerprint(&self) -> Fingerprint {
        self.certificate.fingerprint()
    }

    /// Its OpenPGP key.
    pub fn key(&self) -> &Certificate {
        self.identity.certificate()
    }

    /// Takes a connection: the TLS handshake, within [`HANDSHAKE`].
    pub async fn accept(&self, stream: TcpStream) -> io::Result<PortStream> {
        stream.set_nodelay(true)?;
        match timeout(HANDSHAKE, self.certificate.accept(stream)).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Lets a worker prove who it is, within [`HANDSHAKE`]. `find` looks a worker up in the
    /// registry. If it is denied it has been told so, but not why.
    pub async fn prove(
        &self,
        stream: &mut PortStream,
        from: SocketAddr,
        find: impl Fn(WorkerId) -> Option<Registered>,
        clock: &Clock,
    ) -> Result<Proven, Denied> {
        match timeout(HANDSHAKE, proof::master(self, stream, from, find, clock)).await {
            Ok(result) => result,
            Err(_) => Err(Denied::Ended(io::ErrorKind::TimedOut.into())),
        }
    }
}

/// Whether a connection on the master's port says that it is a worker.
pub fn is_worker(stream: &PortStream) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(tls::LINK_PROTOCOL)
}

/// Decides whether a worker may use the link at all, before any proof: its UUID, its address, and
/// that it was not booted.
pub fn admissible(
    worker: Option<Registered>,
    id: WorkerId,
    from: SocketAddr,
    now: WallTime,
) -> Result<(Registered, Arc<Certificate>), Denied> {
    let worker = worker.ok_or(Denied::UnknownWorker(id))?;
    let address = from.ip().to_canonical();
    if !worker.allowed.iter().any(|network| network.contains(address)) {
        return Err(Denied::ForeignAddress(worker.name, address));
    }
    if worker.booted.is_some_and(|until| until.is_none_or(|until| now < until)) {
        return Err(Denied::Booted(worker.name));
    }
    match worker.key.clone() {
        Some(key) => Ok((worker, key)),
        None => Err(Denied::NoKey(worker.name)),
    }
}

/// The UUID that a worker has unless its operator chose another: version 8 (RFC 9562), made of its
/// key's fingerprint, so that the key alone says which worker it is.
pub fn default_id(key: &Certificate) -> WorkerId {
    let mut hash = Sha256::new();
    hash.update(b"papertrader-worker-v1");
    hash.update(key.fingerprint().to_string());
    let digest = hash.finalize();
    let mut id: [u8; 16] = std::array::from_fn(|n| digest[n]);
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    WorkerId(id)
}

/// What a worker proves itself with, and by what it knows the master.
#[derive(Debug, Clone)]
pub struct WorkerSide {
    /// The worker's UUID.
    pub worker: WorkerId,
    /// Its OpenPGP key.
    pub identity: Arc<Identity>,
    /// The fingerprint of the certificate of the master's TLS.
    pub master: Fingerprint,
    /// The master's OpenPGP key.
    pub master_key: Arc<MasterKey>,
}

/// The master's OpenPGP key as a worker knows it: from the operator, or from the first proof inside
/// the TLS of the configured certificate; from then on it stays.
#[derive(Debug)]
pub struct MasterKey {
    known: Mutex<Option<Certificate>>,
    /// Where it is kept.
    file: Option<PathBuf>,
}

impl MasterKey {
    /// A key that the operator gave, or was kept.
    pub fn known(key: Certificate) -> MasterKey {
        MasterKey { known: Mutex::new(Some(key)), file: None }
    }

    /// None yet: the first that proves itself is kept in `file`.
    pub fn first_seen(file: PathBuf) -> MasterKey {
        MasterKey { known: Mutex::new(None), file: Some(file) }
    }

    /// Whether this may be the master's.
    fn check(&self, shown: &Certificate) -> Result<(), ConnectError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.as_ref().map(|known| known.fingerprint()) {
            Some(expected) if expected != shown.fingerprint() => Err(ConnectError::MasterKey {
                expected: expected.to_string(),
                seen: shown.fingerprint().to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// It has proved itself: it is the master's from now on.
    fn keep(&self, proven: &Certificate) -> Result<(), ConnectError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_some() {
            return Ok(());
        }
        if let Some(file) = &self.file {
            private_file::write(file, proven.to_armored().as_bytes())
                .map_err(|e| ConnectError::Keep(file.clone(), e))?;
            crate::info!(file = %file.display(), key = %proven.fingerprint(),
                "the master's OpenPGP key was seen for the first time: it is kept");
        }
        *known = Some(proven.clone());
        Ok(())
    }
}

impl WorkerSide {
    /// Opens a link and proves both ends. Returns when the keys expire that the proof rests on.
    pub async fn connect(
        &self,
        address: impl ToSocketAddrs,
        clock: &Clock,
    ) -> Result<(LinkStream, Option<WallTime>), ConnectError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut stream = tls::connect(stream, self.master, tls::LINK_PROTOCOL).await?;
        let valid_until = proof::worker(self, &mut stream, clock).await?;
        Ok((stream, valid_until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn the_masters_key_is_kept_in_a_file_of_its_own() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let (file, victim) = (directory.path().join("master.asc"), directory.path().join("victim"));
        std::fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, &file).unwrap();
        let identity = Identity::generate("master", WallTime(0)).unwrap();
        let known = MasterKey::first_seen(file.clone());
        known.keep(identity.certificate()).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"untouched");
        let kept = std::fs::symlink_metadata(&file).unwrap();
        assert!(kept.is_file());
        assert_eq!(kept.permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), identity.certificate().to_armored());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn only_registered_workers_from_their_addresses_that_were_not_booted() {
        let id = WorkerId([1; 16]);
        let key = Identity::generate("worker", WallTime(0)).unwrap().certificate().clone();
        let worker = Registered {
            id,
            name: "one".into(),
            allowed: vec!["127.0.0.1".parse().unwrap()],
            key: Some(Arc::new(key)),
            booted: None,
        };
        let judged = |worker: &Registered, from: &str, now: i64| {
            admissible(Some(worker.clone()), id, from.parse().unwrap(), WallTime(now))
        };
        assert!(judged(&worker, "127.0.0.1:5", 0).is_ok());
        assert!(judged(&worker, "[::ffff:127.0.0.1]:5", 0).is_ok());
        assert!(matches!(judged(&worker, "127.0.0.2:5", 0), Err(Denied::ForeignAddress(..))));
        let nobody = admissible(None, id, "127.0.0.1:5".parse().unwrap(), WallTime(0));
        assert!(matches!(nobody, Err(Denied::UnknownWorker(_))));
        let booted = Registered { booted: Some(Some(WallTime(10))), ..worker.clone() };
        assert!(matches!(judged(&booted, "127.0.0.1:5", 9), Err(Denied::Booted(_))));
        assert!(judged(&booted, "127.0.0.1:5", 10).is_ok());
        let for_ever = Registered { booted: Some(None), ..worker.clone() };
        assert!(matches!(judged(&for_ever, "127.0.0.1:5", 10), Err(Denied::Booted(_))));
        let keyless = Registered { key: None, ..worker };
        assert!(matches!(judged(&keyless, "127.0.0.1:5", 0), Err(Denied::NoKey(_))));
    }
}
