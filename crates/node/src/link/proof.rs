//! The proof of both OpenPGP keys, inside TLS: four messages, one at a time.
//!
//! ```text
//! worker                                master
//!   linkOpen(worker, nonce)      ──▶      address and registry are checked, then the key's policy
//!                                ◀──      linkChallenge(key, sealed statement with its nonce)
//!   linkProof(sealed statement)  ──▶
//!                                ◀──      linkProven
//! ```
//!
//! Each statement is signed by its author and encrypted for the other, and names everything that
//! makes this link this one. Invariants: the master's nonce travels only sealed, so a worker that
//! returns it owns its encryption key; both take the exporter and the certificate from their own TLS
//! session and never from the message, so that a statement of another session, replayed or relayed,
//! differs.

use std::net::SocketAddr;
use std::sync::Arc;

use papertrader_core::ids::WorkerId;
use papertrader_core::time::WallTime;
use papertrader_protocol::link::{LinkChallenge, LinkOpen, LinkProof, LinkStatement, Nonce};
use papertrader_protocol::returns::Return;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Failure, Header, Instruction, Reason};
use rand::RngCore;
use rand::rngs::OsRng;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::{
    ConnectError, Denied, MasterSide, PortStream, Proven, Registered, WorkerSide, admissible,
};
use crate::clock::Clock;
use crate::connection::Inbox;
use crate::openpgp::{Certificate, Identity, OpenError, open, seal};
use crate::tls::ClientStream;

/// What both sign under.
const LABEL: &str = "papertrader-link-v1";
/// Of the exporter (RFC 8446, 7.5).
const EXPORTER: &[u8] = b"EXPORTER-papertrader-link-v1";

/// The master's side.
pub(super) async fn master(
    side: &MasterSide,
    stream: &mut PortStream,
    from: SocketAddr,
    find: impl Fn(WorkerId) -> Option<Registered>,
    clock: &Clock,
) -> Result<Proven, Denied> {
    let result = converse(side, stream, from, find, clock).await;
    if let Err(denied) = &result
        && !matches!(denied, Denied::Ended(_) | Denied::Unproven(..))
    {
        // The cause is the operator's to know, and stands in the master's log.
        let failure = Failure::new(Reason::NotAuthorized, super::REFUSED);
        let mut bytes = Vec::new();
        Return::Failed(Instruction::LinkRefused, failure).put(0, &mut bytes);
        // It may be gone; the log has it in any case.
        let _ = write(stream, &bytes).await;
        let _ = stream.shutdown().await;
    }
    result
}

async fn converse(
    side: &MasterSide,
    stream: &mut PortStream,
    from: SocketAddr,
    find: impl Fn(WorkerId) -> Option<Registered>,
    clock: &Clock,
) -> Result<Proven, Denied> {
    let opened = message::<LinkOpen>(stream, Instruction::LinkOpen).await?;
    let opened = opened.map_err(|_| Denied::Protocol("linkOpen"))?;
    let (worker, key) = admissible(find(opened.worker), opened.worker, from, clock.now())?;
    let name = worker.name;
    // What follows costs work of the processor: in turns, and beside the network's threads. Nobody
    // has a turn while the other end is awaited, or a few silent ones would keep all others out.
    let turn = side.proofs.acquire().await.map_err(|_| Denied::Protocol("linkOpen"))?;
    let until = key.usable(clock.now()).map_err(|p| Denied::Key(name.clone(), p))?.valid_until();
    let own = side.identity.certificate();
    let own_until = own.usable(clock.now()).map_err(|p| Denied::OwnKey(p.to_string()))?;
    let own_until = own_until.valid_until();
    let mut statement = LinkStatement {
        label: LABEL.into(),
        role: "master".into(),
        worker: opened.worker,
        worker_key: key.fingerprint().to_string(),
        master_key: own.fingerprint().to_string(),
        certificate: side.fingerprint(),
        worker_nonce: opened.nonce,
        master_nonce: fresh(),
        exporter: export(stream.get_ref().1.export_keying_material([0; 32], EXPORTER, None))?,
    };
    let sealed = sealed(&side.identity, &key, &statement, clock.now()).await;
    let sealed = sealed.map_err(Denied::OwnKey)?;
    drop(turn);
    let shown = own.to_bytes().to_vec();
    say(stream, Instruction::LinkChallenge, &LinkChallenge { key: shown, sealed }).await?;

    let proof = message::<LinkProof>(stream, Instruction::LinkProof).await;
    let proof = proof.map_err(|error| Denied::Unproven(name.clone(), error))?;
    let proof = proof.map_err(|_| Denied::Protocol("linkProof"))?;
    let turn = side.proofs.acquire().await.map_err(|_| Denied::Protocol("linkProof"))?;
    let said = opened_by(&side.identity, &key, proof.sealed, clock.now()).await;
    drop(turn);
    let said = said.map_err(|error| Denied::Proof(name.clone(), error))?;
    statement.role = "worker".into();
    if let Some(other) = difference(&said, &statement) {
        return Err(Denied::Statement(name, other));
    }
    say(stream, Instruction::LinkProven, &Nothing).await?;
    let valid_until = [until, own_until].into_iter().flatten().min();
    Ok(Proven { worker: opened.worker, key, valid_until })
}

/// The worker's side. Returns when a key expires that it rests on.
pub(super) async fn worker<S>(
    side: &WorkerSide,
    stream: &mut ClientStream<S>,
    clock: &Clock,
) -> Result<Option<WallTime>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let nonce = fresh();
    say(stream, Instruction::LinkOpen, &LinkOpen { worker: side.worker, nonce }).await?;
    let challenge = message::<LinkChallenge>(stream, Instruction::LinkChallenge).await?;
    let challenge = challenge.map_err(|unexpected| unexpected.of("linkChallenge"))?;
    let problem = |p: &dyn std::fmt::Display| ConnectError::MasterKeyProblem(p.to_string());
    let key = Certificate::parse(&challenge.key).map_err(|p| problem(&p))?;
    side.master_key.check(&key)?;
    let until = key.usable(clock.now()).map_err(|p| problem(&p))?.valid_until();
    let key = Arc::new(key);
    let own = side.identity.certificate();
    let own_until = own.usable(clock.now());
    let own_until = own_until.map_err(|p| ConnectError::OwnKey(p.to_string()))?.valid_until();
    let said = opened_by(&side.identity, &key, challenge.sealed, clock.now()).await?;
    let mut statement = LinkStatement {
        label: LABEL.into(),
        role: "master".into(),
        worker: side.worker,
        worker_key: own.fingerprint().to_string(),
        master_key: key.fingerprint().to_string(),
        certificate: side.master,
        worker_nonce: nonce,
        // Only the master could know it.
        master_nonce: said.master_nonce,
        exporter: export(stream.get_ref().1.export_keying_material([0; 32], EXPORTER, None))?,
    };
    if let Some(other) = difference(&said, &statement) {
        return Err(ConnectError::Statement(other));
    }
    statement.role = "worker".into();
    let sealed = sealed(&side.identity, &key, &statement, clock.now()).await;
    let sealed = sealed.map_err(ConnectError::OwnKey)?;
    say(stream, Instruction::LinkProof, &LinkProof { sealed }).await?;
    let proven = message::<Nothing>(stream, Instruction::LinkProven).await?;
    proven.map_err(|unexpected| unexpected.of("linkProven"))?;
    side.master_key.keep(&key)?;
    Ok([until, own_until].into_iter().flatten().min())
}

/// The first field in which two statements differ.
fn difference(said: &LinkStatement, expected: &LinkStatement) -> Option<&'static str> {
    let same = |a: &Nonce, b: &Nonce| bool::from(a.0.ct_eq(&b.0));
    let fields = [
        ("label", said.label == expected.label),
        ("role", said.role == expected.role),
        ("worker", said.worker == expected.worker),
        ("key of the worker", said.worker_key == expected.worker_key),
        ("key of the master", said.master_key == expected.master_key),
        ("certificate", said.certificate == expected.certificate),
        ("nonce of the worker", same(&said.worker_nonce, &expected.worker_nonce)),
        ("nonce of the master", same(&said.master_nonce, &expected.master_nonce)),
        ("TLS session", same(&said.exporter, &expected.exporter)),
    ];
    fields.into_iter().find(|(_, same)| !same).map(|(name, _)| name)
}

/// Signs and encrypts, beside the network's threads.
async fn sealed(
    identity: &Arc<Identity>,
    to: &Arc<Certificate>,
    statement: &LinkStatement,
    now: WallTime,
) -> Result<Vec<u8>, String> {
    let (identity, to, plain) = (Arc::clone(identity), Arc::clone(to), statement.to_bytes());
    tokio::task::spawn_blocking(move || {
        seal(&identity, &to, &plain, now).map_err(|error| error.to_string())
    })
    .await
    .map_err(|error| error.to_string())?
}

/// Decrypts and verifies, beside the network's threads.
async fn opened_by(
    identity: &Arc<Identity>,
    from: &Arc<Certificate>,
    sealed: Vec<u8>,
    now: WallTime,
) -> Result<LinkStatement, OpenError> {
    let (identity, from) = (Arc::clone(identity), Arc::clone(from));
    let task = tokio::task::spawn_blocking(move || open(&identity, &from, &sealed, now));
    let plain = task.await.map_err(|_| OpenError::Malformed)??;
    LinkStatement::from_bytes(&plain).map_err(|_| OpenError::Malformed)
}

fn fresh() -> Nonce {
    let mut bytes = [0; 32];
    OsRng.fill_bytes(&mut bytes);
    Nonce(bytes)
}

fn export(result: Result<[u8; 32], rustls::Error>) -> std::io::Result<Nonce> {
    result.map(Nonce).map_err(std::io::Error::other)
}

/// A message without content.
struct Nothing;

impl Wire for Nothing {
    fn put(&self, _: &mut Vec<u8>) {}
    fn take(
        _: &mut papertrader_protocol::wire::Reader<'_>,
    ) -> Result<Nothing, papertrader_protocol::wire::DecodeError> {
        Ok(Nothing)
    }
}

/// Another message than the one that is due.
enum Unexpected {
    /// `linkRefused`, with its words.
    Refused(String),
    Malformed,
}

impl Unexpected {
    fn of(self, due: &'static str) -> ConnectError {
        match self {
            Unexpected::Refused(words) => ConnectError::Refused(words),
            Unexpected::Malformed => ConnectError::Protocol(due),
        }
    }
}

/// Awaits the one message that is due. The other end says nothing more until it is answered, so
/// that nothing is read beyond it.
async fn message<T: Wire>(
    stream: &mut (impl AsyncRead + Unpin),
    due: Instruction,
) -> std::io::Result<Result<T, Unexpected>> {
    let mut inbox = Inbox::new(stream);
    loop {
        match inbox.frame() {
            Ok(None) => {}
            Ok(Some(frame)) => {
                let header = frame.header;
                let number = header.instruction;
                if number == Instruction::LinkRefused as u16
                    && let Ok(Some(Return::Failed(_, failure))) = Return::parse(&frame)
                {
                    return Ok(Err(Unexpected::Refused(failure.text)));
                }
                let is_due = number == due as u16
                    && header.message_type == due.message_type()
                    && header.max == 1
                    && header.link.is_none();
                let content = T::from_bytes(frame.data).ok().filter(|_| is_due);
                let content = content.filter(|_| !inbox.has_partial());
                return Ok(content.ok_or(Unexpected::Malformed));
            }
            Err(_) => return Ok(Err(Unexpected::Malformed)),
        }
        if inbox.fill().await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn say(
    stream: &mut (impl AsyncWrite + Unpin),
    instruction: Instruction,
    content: &impl Wire,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let header = Header::new(instruction.message_type(), instruction as u16, 0);
    header.encode(&content.to_bytes(), &mut bytes);
    write(stream, &bytes).await
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use papertrader_protocol::Fingerprint;

    use super::*;

    #[test]
    fn every_field_counts() {
        let one = LinkStatement {
            label: LABEL.into(),
            role: "worker".into(),
            worker: WorkerId([1; 16]),
            worker_key: "A".into(),
            master_key: "B".into(),
            certificate: Fingerprint([2; 32]),
            worker_nonce: Nonce([3; 32]),
            master_nonce: Nonce([4; 32]),
            exporter: Nonce([5; 32]),
        };
        assert_eq!(difference(&one, &one), None);
        let other = |change: fn(&mut LinkStatement)| {
            let mut other = one.clone();
            change(&mut other);
            difference(&other, &one)
        };
        assert_eq!(other(|s| s.label.push('x')), Some("label"));
        assert_eq!(other(|s| s.role = "master".into()), Some("role"));
        assert_eq!(other(|s| s.worker.0[15] ^= 1), Some("worker"));
        assert_eq!(other(|s| s.worker_key.push('x')), Some("key of the worker"));
        assert_eq!(other(|s| s.master_key.clear()), Some("key of the master"));
        assert_eq!(other(|s| s.certificate.0[0] ^= 1), Some("certificate"));
        assert_eq!(other(|s| s.worker_nonce.0[31] ^= 1), Some("nonce of the worker"));
        assert_eq!(other(|s| s.master_nonce.0[31] ^= 1), Some("nonce of the master"));
        assert_eq!(other(|s| s.exporter.0[31] ^= 1), Some("TLS session"));
    }
}
