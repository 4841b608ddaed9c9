//! The authorization tunnel (specification 3.2.4): credentials pass through it to the master, and
//! the sessions that come back are remembered here, so that messages can be verified without
//! asking the master again.
//!
//! It does not decide who may log in: that is the master's. Invariants: a session is in the table
//! only after the master granted or confirmed it on the present link, or it has waited through a
//! lost link with a client connected; an [`Attachment`] is one connection's use of a session, and
//! the count of them is what the master is told as presence.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use papertrader_core::time::WallTime;
use papertrader_protocol::instruction::Instruction;
use papertrader_protocol::returns::SessionGrant;
use papertrader_protocol::{Reason, SessionId};
use tokio::sync::Notify;

const SHARDS: usize = 16;
/// Sessions that are kept although no client here uses them.
const MAX_IDLE_PER_SHARD: usize = 8_192;

/// Whether an instruction goes through the tunnel whatever session it names: the master decides.
pub(crate) fn is_tunnelled(instruction: Instruction) -> bool {
    matches!(instruction, Instruction::Login | Instruction::LoginSession | Instruction::Register)
}

/// A session that the master has verified.
#[derive(Debug)]
pub(crate) struct Session {
    id: SessionId,
    /// Whose it is; kept for those who look at the table.
    name: String,
    expires: AtomicI64,
    ended: AtomicBool,
}

impl Session {
    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    /// Whether it can be used now.
    pub(crate) fn check(&self, now: WallTime) -> Result<(), Reason> {
        if self.ended.load(Ordering::Acquire) {
            Err(Reason::SessionUnknown)
        } else if now.0 >= self.expires.load(Ordering::Relaxed) {
            Err(Reason::SessionExpired)
        } else {
            Ok(())
        }
    }
}

#[derive(Debug)]
struct Entry {
    session: Arc<Session>,
    connections: u32,
    /// What the master believes: whether a client with this session is connected here.
    announced: bool,
    /// Where its client was last seen.
    client: SocketAddr,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<SessionId, Entry>,
    /// Sessions whose presence may differ from what was announced.
    changed: Vec<SessionId>,
}

/// The table of verified sessions, shared by all threads.
#[derive(Debug)]
pub(crate) struct Sessions {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    /// Wakes the uplink: a presence changed.
    pub(crate) changed: Notify,
}

impl Sessions {
    pub(crate) fn new() -> Sessions {
        Sessions {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            changed: Notify::new(),
        }
    }

    fn shard(&self, id: SessionId) -> MutexGuard<'_, Shard> {
        let index = self.hasher.hash_one(id) as usize % SHARDS;
        lock(&self.shards[index])
    }

    /// A connection starts to use a session.
    pub(crate) fn attach(
        self: &Arc<Self>,
        id: SessionId,
        client: SocketAddr,
        now: WallTime,
    ) -> Result<Attachment, Reason> {
        let mut shard = self.shard(id);
        let entry = shard.entries.get_mut(&id).ok_or(Reason::SessionUnknown)?;
        if let Err(reason) = entry.session.check(now) {
            shard.entries.remove(&id);
            return Err(reason);
        }
        entry.connections += 1;
        entry.client = client;
        let session = Arc::clone(&entry.session);
        if entry.connections == 1 && !entry.announced {
            shard.changed.push(id);
            self.changed.notify_one();
        }
        Ok(Attachment { session, table: Arc::clone(self) })
    }

    /// The master granted a session to a connection: a login, which tells the master of its
    /// presence too.
    pub(crate) fn grant(self: &Arc<Self>, grant: &SessionGrant, client: SocketAddr) -> Attachment {
        let mut shard = self.shard(grant.session);
        let entry = shard.entries.entry(grant.session).or_insert_with(|| Entry {
            session: Arc::new(Session {
                id: grant.session,
                name: grant.name.clone(),
                expires: AtomicI64::new(grant.expires.0),
                ended: AtomicBool::new(false),
            }),
            connections: 0,
            announced: true,
            client,
        });
        entry.session.expires.store(grant.expires.0, Ordering::Relaxed);
        entry.announced = true;
        entry.connections += 1;
        entry.client = client;
        Attachment { session: Arc::clone(&entry.session), table: Arc::clone(self) }
    }

    /// The master confirmed a session that was resumed on a new link.
    pub(crate) fn confirm(&self, grant: &SessionGrant) {
        if let Some(entry) = self.shard(grant.session).entries.get(&grant.session) {
            entry.session.expires.store(grant.expires.0, Ordering::Relaxed);
        }
    }

    /// Forgets a session: it was logged out, revoked, has expired, or the master does not know it.
    pub(crate) fn end(&self, id: SessionId) {
        if let Some(entry) = self.shard(id).entries.remove(&id) {
            entry.session.ended.store(true, Ordering::Release);
            papertrader_node::debug!(user = %entry.session.name, "a session has ended");
        }
    }

    /// Forgets all sessions: they belong to another deployment.
    pub(crate) fn end_all(&self) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            for (_, entry) in shard.entries.drain() {
                entry.session.ended.store(true, Ordering::Release);
            }
            shard.changed.clear();
        }
    }

    /// A new link was made: the sessions to resume on it, with their clients. Those that no client
    /// uses are forgotten: the new link does not know them.
    pub(crate) fn resume(&self, now: WallTime) -> Vec<(SessionId, SocketAddr)> {
        let mut resumed = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.changed.clear();
            shard.entries.retain(|id, entry| {
                let keep = entry.connections > 0 && entry.session.check(now).is_ok();
                if keep {
                    entry.announced = true;
                    resumed.push((*id, entry.client));
                } else {
                    entry.session.ended.store(true, Ordering::Release);
                }
                keep
            });
        }
        resumed
    }

    /// Presences that differ from what the master was told last; counts them as told.
    pub(crate) fn take_changes(&self) -> Vec<(SessionId, bool)> {
        let mut changes = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            for id in std::mem::take(&mut shard.changed) {
                let Some(entry) = shard.entries.get_mut(&id) else { continue };
                let present = entry.connections > 0;
                if entry.announced != present {
                    entry.announced = present;
                    changes.push((id, present));
                }
            }
        }
        changes
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).entries.len()).sum()
    }

    /// Forgets unused sessions that have expired, and any beyond the number that is kept. Those
    /// that the master still takes for used stay until it was told.
    pub(crate) fn sweep(&self, now: WallTime) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let mut idle = 0;
            shard.entries.retain(|_, entry| {
                if entry.connections > 0 || entry.announced {
                    return true;
                }
                idle += 1;
                idle <= MAX_IDLE_PER_SHARD && entry.session.check(now).is_ok()
            });
        }
    }

    fn detach(&self, session: &Session) {
        let mut shard = self.shard(session.id);
        let Some(entry) = shard.entries.get_mut(&session.id) else { return };
        // The entry may be of a later grant of the same ID.
        if !std::ptr::eq(Arc::as_ptr(&entry.session), session) {
            return;
        }
        entry.connections = entry.connections.saturating_sub(1);
        if entry.connections == 0 && entry.announced {
            shard.changed.push(session.id);
            self.changed.notify_one();
        }
    }
}

/// The critical sections only move values: a panic cannot leave them half done.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection's use of a session; dropping it ends the use.
#[derive(Debug)]
pub(crate) struct Attachment {
    session: Arc<Session>,
    table: Arc<Sessions>,
}

impl Attachment {
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.table.detach(&self.session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(byte: u8, expires: i64) -> SessionGrant {
        SessionGrant {
            session: SessionId::from_bytes([byte; 16]),
            expires: WallTime(expires),
            name: "alice".into(),
        }
    }

    fn client() -> SocketAddr {
        "127.0.0.1:9".parse().unwrap()
    }

    #[test]
    fn presence_follows_the_first_and_the_last_connection() {
        let sessions = Arc::new(Sessions::new());
        let grant = grant(1, 100);
        let first = sessions.grant(&grant, client());
        let second = sessions.attach(grant.session, client(), WallTime(1)).unwrap();
        drop(first);
        assert_eq!(sessions.take_changes(), vec![]);
        drop(second);
        assert_eq!(sessions.take_changes(), vec![(grant.session, false)]);
        let third = sessions.attach(grant.session, client(), WallTime(1)).unwrap();
        assert_eq!(sessions.take_changes(), vec![(grant.session, true)]);
        // Back and forth before anybody was told: nothing to tell.
        drop(third);
        let fourth = sessions.attach(grant.session, client(), WallTime(1)).unwrap();
        assert_eq!(sessions.take_changes(), vec![]);
        drop(fourth);
    }

    #[test]
    fn expired_and_ended_sessions_are_refused_and_forgotten() {
        let sessions = Arc::new(Sessions::new());
        let one = sessions.grant(&grant(1, 100), client());
        let two = sessions.grant(&grant(2, 100), client());
        let id = |byte| SessionId::from_bytes([byte; 16]);
        let refusal = |id, now| sessions.attach(id, client(), WallTime(now)).map(drop);
        assert_eq!(refusal(id(1), 99), Ok(()));
        assert_eq!(refusal(id(1), 100), Err(Reason::SessionExpired));
        assert_eq!(refusal(id(1), 1), Err(Reason::SessionUnknown));
        sessions.end(id(2));
        assert_eq!(refusal(id(2), 1), Err(Reason::SessionUnknown));
        assert_eq!(two.session().check(WallTime(1)), Err(Reason::SessionUnknown));
        drop((one, two));
        assert_eq!(sessions.take_changes(), vec![]);
    }

    #[test]
    fn a_session_whose_last_client_left_is_kept_until_the_master_was_told() {
        let sessions = Arc::new(Sessions::new());
        let left = grant(1, 100);
        drop(sessions.grant(&left, client()));
        sessions.sweep(WallTime(100));
        assert_eq!(sessions.take_changes(), vec![(left.session, false)]);
        sessions.sweep(WallTime(100));
        assert_eq!(sessions.len(), 0);
        // More than are kept without use: the master hears of each of them all the same.
        let many = SHARDS * MAX_IDLE_PER_SHARD + 1;
        for number in 0..many as u128 {
            let session = SessionId::from_bytes(number.to_be_bytes());
            let one = SessionGrant { session, expires: WallTime(100), name: String::new() };
            drop(sessions.grant(&one, client()));
        }
        sessions.sweep(WallTime(1));
        assert_eq!(sessions.take_changes().len(), many);
        sessions.sweep(WallTime(1));
        assert!(sessions.len() < many);
    }

    #[test]
    fn only_sessions_in_use_are_resumed() {
        let sessions = Arc::new(Sessions::new());
        let used = sessions.grant(&grant(1, 100), client());
        drop(sessions.grant(&grant(2, 100), client()));
        let id = SessionId::from_bytes([1; 16]);
        assert_eq!(sessions.resume(WallTime(1)), vec![(id, client())]);
        assert_eq!(sessions.take_changes(), vec![]);
        drop(used);
        assert_eq!(sessions.take_changes(), vec![(id, false)]);
        let unused = SessionId::from_bytes([2; 16]);
        assert!(sessions.attach(unused, client(), WallTime(1)).is_err());
    }
}
