//! Accounts and authorization (specification 3.1.3): names, passwords, sessions.
//!
//! Passwords are hashed with Argon2id over the client's hash, on a few threads with a bounded
//! queue: when it is full, the answer is `busy`. A log-in takes the same time whether the name
//! exists or not. Session IDs are kept and looked up only as their SHA-256.
//!
//! What this module does not do: it does not write. The driver stores accounts and sessions and
//! calls back here after the commit.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use papertrader_core::ids::AccountId;
use papertrader_core::names::UserName;
use papertrader_core::time::WallTime;
use papertrader_protocol::request::HashedPass;
use papertrader_protocol::{Reason, SessionId};
use papertrader_store::{PassHash, Profile, SessionKey, StoredSession};
use sha2::{Digest, Sha256};

use crate::database::Guard;
use crate::driver::{Event, Events};
use crate::workers::LinkId;

/// The key under which a session is stored.
pub(crate) fn session_key(session: &SessionId) -> SessionKey {
    SessionKey(Sha256::digest(session.bytes()).into())
}

/// All accounts and sessions.
pub(crate) struct Accounts {
    profiles: Vec<Profile>,
    by_name: HashMap<String, AccountId>,
    sessions: HashMap<SessionKey, Session>,
    on_link: HashMap<LinkId, HashSet<SessionKey>>,
    /// Names that are being registered: hashed or written, not in `by_name` yet.
    hasher: Hasher,
    /// A hash that no password has: what an unknown name is checked against.
    nobody: Arc<str>,
}

/// An active session (2.4.2).
struct Session {
    stored: StoredSession,
    /// The ID itself, for telling workers; known once a link has used it.
    id: Option<SessionId>,
    /// Links that it was proved through: only they may use it.
    honoured: HashSet<LinkId>,
    /// Links on which it has a connection.
    present: HashSet<LinkId>,
    /// Since when it has no connection at all.
    alone_since: Option<WallTime>,
    /// Its end is being written.
    ending: bool,
}

impl Accounts {
    pub(crate) fn new(
        profiles: Vec<Profile>,
        sessions: Vec<StoredSession>,
        hasher: Hasher,
        now: WallTime,
    ) -> Result<Accounts, argon2::password_hash::Error> {
        let nobody = Argon2::default().hash_password(b"no client's hash looks like this")?;
        let ids = (1..).map(AccountId);
        let by_name = ids.zip(&profiles).map(|(id, p)| (p.name.key(), id)).collect();
        let sessions =
            sessions.into_iter().map(|stored| (stored.key, Session::alone(stored, now))).collect();
        Ok(Accounts {
            profiles,
            by_name,
            sessions,
            on_link: HashMap::new(),
            hasher,
            nobody: nobody.to_string().into(),
        })
    }

    /// Who has a name.
    pub(crate) fn find(&self, name: &UserName) -> Option<AccountId> {
        self.by_name.get(&name.key()).copied()
    }

    /// The profile of an account.
    pub(crate) fn profile(&self, id: AccountId) -> Option<&Profile> {
        self.profiles.get((id.0 as usize).checked_sub(1)?)
    }

    /// Starts to check a password. The answer comes as [`Event::Password`].
    pub(crate) fn verify(
        &self,
        name: &UserName,
        pass: HashedPass,
        ticket: Ticket,
    ) -> Result<(), Reason> {
        let account = self.find(name);
        let stored = account.and_then(|id| self.profile(id)?.pass_hash.as_ref());
        let against: Arc<str> =
            stored.map_or_else(|| Arc::clone(&self.nobody), |hash| Arc::from(hash.0.as_str()));
        let account = stored.and(account);
        self.hasher.submit(PasswordJob { ticket, pass, task: Task::Verify { against, account } })
    }

    /// Starts to hash a password. The answer comes as [`Event::Password`].
    pub(crate) fn hash(&self, pass: HashedPass, ticket: Ticket) -> Result<(), Reason> {
        self.hasher.submit(PasswordJob { ticket, pass, task: Task::Hash })
    }

    /// Adds an account after it was stored.
    pub(crate) fn opened(&mut self, id: AccountId, profile: Profile) {
        self.by_name.insert(profile.name.key(), id);
        self.profiles.push(profile);
    }

    /// Adds a session after it was stored: it was proved through `link` and is used there.
    pub(crate) fn started(&mut self, id: SessionId, stored: StoredSession, link: LinkId) {
        self.on_link.entry(link).or_default().insert(stored.key);
        let links = HashSet::from([link]);
        let session = Session {
            id: Some(id),
            honoured: links.clone(),
            present: links,
            alone_since: None,
            ending: false,
            stored,
        };
        self.sessions.insert(session.stored.key, session);
    }

    /// Adds a session whose client was gone before it could be told.
    pub(crate) fn started_unheard(&mut self, stored: StoredSession, now: WallTime) {
        self.sessions.insert(stored.key, Session::alone(stored, now));
    }

    /// Proves a session through a link: from now on the link may use it.
    pub(crate) fn resume(
        &mut self,
        link: LinkId,
        id: SessionId,
        now: WallTime,
    ) -> Result<(AccountId, WallTime), Reason> {
        let session = self.sessions.get_mut(&session_key(&id)).ok_or(Reason::SessionUnknown)?;
        if session.ending || session.stored.expires <= now {
            return Err(Reason::SessionExpired);
        }
        session.id = Some(id);
        session.honoured.insert(link);
        session.present.insert(link);
        session.alone_since = None;
        self.on_link.entry(link).or_default().insert(session.stored.key);
        Ok((session.stored.account, session.stored.expires))
    }

    /// The account that a frame on a link speaks for.
    pub(crate) fn authorize(
        &self,
        link: LinkId,
        id: SessionId,
        now: WallTime,
    ) -> Result<(AccountId, SessionKey), Reason> {
        if id.is_none() {
            return Err(Reason::SessionRequired);
        }
        let key = session_key(&id);
        let session = self.sessions.get(&key).ok_or(Reason::SessionUnknown)?;
        if !session.honoured.contains(&link) {
            return Err(Reason::SessionUnknown);
        }
        if session.ending || session.stored.expires <= now {
            return Err(Reason::SessionExpired);
        }
        Ok((session.stored.account, key))
    }

    /// A worker says whether a session has a connection there.
    pub(crate) fn presence(&mut self, link: LinkId, id: SessionId, present: bool, now: WallTime) {
        let Some(session) = self.sessions.get_mut(&session_key(&id)) else { return };
        if !session.honoured.contains(&link) {
            return;
        }
        if present {
            session.present.insert(link);
            session.alone_since = None;
        } else {
            session.leave(link, now);
        }
    }

    /// A link is gone, and with it every connection of its sessions.
    pub(crate) fn link_closed(&mut self, link: LinkId, now: WallTime) {
        for key in self.on_link.remove(&link).unwrap_or_default() {
            if let Some(session) = self.sessions.get_mut(&key) {
                session.honoured.remove(&link);
                session.leave(link, now);
            }
        }
    }

    /// Sessions whose time is over, and which therefore are to be ended. Each is named once.
    pub(crate) fn over(&mut self, now: WallTime, grace: Duration) -> Vec<SessionKey> {
        let grace = i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX);
        let mut over = Vec::new();
        for (key, session) in &mut self.sessions {
            let left = session.stored.expirable
                && session.alone_since.is_some_and(|since| since.plus_nanos(grace) <= now);
            if !session.ending && (left || session.stored.expires <= now) {
                session.ending = true;
                over.push(*key);
            }
        }
        over
    }

    /// Marks a session as ending. False if it already is.
    pub(crate) fn end(&mut self, key: SessionKey) -> bool {
        self.sessions.get_mut(&key).is_some_and(|s| !std::mem::replace(&mut s.ending, true))
    }

    /// The end of a session could not be stored: it goes on.
    pub(crate) fn end_failed(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.ending = false;
        }
    }

    /// Forgets a session after its end was stored. Returns its ID and the links to tell.
    pub(crate) fn ended(&mut self, key: SessionKey) -> Option<(SessionId, Vec<LinkId>)> {
        let session = self.sessions.remove(&key)?;
        for link in &session.honoured {
            if let Some(keys) = self.on_link.get_mut(link) {
                keys.remove(&key);
            }
        }
        Some((session.id?, session.honoured.into_iter().collect()))
    }
}

impl Session {
    /// A session without a connection.
    fn alone(stored: StoredSession, now: WallTime) -> Session {
        Session {
            id: None,
            honoured: HashSet::new(),
            present: HashSet::new(),
            alone_since: Some(now),
            ending: false,
            stored,
        }
    }

    fn leave(&mut self, link: LinkId, now: WallTime) {
        self.present.remove(&link);
        if self.present.is_empty() && self.alone_since.is_none() {
            self.alone_since = Some(now);
        }
    }
}

/// What the driver wants back with the answer.
#[derive(Debug)]
pub(crate) enum Ticket {
    /// A log-in.
    Login {
        /// Who asked.
        origin: crate::workers::Origin,
        /// isExpirable.
        expirable: bool,
    },
    /// A registration.
    Register {
        /// Who asked.
        origin: crate::workers::Origin,
        /// The new user's name.
        name: UserName,
        /// Where mail reaches them.
        email: papertrader_core::names::Email,
    },
}

/// A checked or hashed password.
pub(crate) struct PasswordDone {
    pub(crate) ticket: Ticket,
    pub(crate) result: PasswordResult,
}

pub(crate) enum PasswordResult {
    /// The password is right, and whose it is; or it is wrong.
    Verified(Option<AccountId>),
    /// The hash in PHC form.
    Hashed(PassHash),
    /// The machine could not do it.
    Failed,
}

struct PasswordJob {
    ticket: Ticket,
    pass: HashedPass,
    task: Task,
}

enum Task {
    Hash,
    Verify { against: Arc<str>, account: Option<AccountId> },
}

/// Threads that hash, with a bounded queue in front.
pub(crate) struct Hasher {
    queue: Option<SyncSender<PasswordJob>>,
    threads: Vec<JoinHandle<()>>,
}

impl Hasher {
    pub(crate) fn start(threads: usize, queue: usize, events: &Events) -> std::io::Result<Hasher> {
        let (sender, inbox) = mpsc::sync_channel(queue.max(1));
        let inbox = Arc::new(Mutex::new(inbox));
        let threads = (0..threads.max(1))
            .map(|_| {
                let (inbox, events) = (Arc::clone(&inbox), events.clone());
                std::thread::Builder::new()
                    .name("passwords".into())
                    .spawn(move || hash_loop(&inbox, events))
            })
            .collect::<Result<_, _>>()?;
        Ok(Hasher { queue: Some(sender), threads })
    }

    fn submit(&self, job: PasswordJob) -> Result<(), Reason> {
        let queue = self.queue.as_ref().ok_or(Reason::ShuttingDown)?;
        queue.try_send(job).map_err(|_| Reason::Busy)
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn hash_loop(inbox: &Mutex<Receiver<PasswordJob>>, events: Events) {
    let Guard { events, .. } = &Guard { events, thread: "passwords" };
    let argon2 = Argon2::default();
    loop {
        let Ok(guard) = inbox.lock() else { return };
        let Ok(PasswordJob { ticket, pass, task }) = guard.recv() else { return };
        drop(guard);
        let pass = pass.reveal().as_bytes();
        let result = match task {
            Task::Hash => match argon2.hash_password(pass) {
                Ok(hash) => PasswordResult::Hashed(PassHash(hash.to_string())),
                Err(_) => PasswordResult::Failed,
            },
            Task::Verify { against, account } => match PasswordHash::new(&against) {
                Ok(hash) => {
                    let right = argon2.verify_password(pass, &hash).is_ok();
                    PasswordResult::Verified(account.filter(|_| right))
                }
                Err(_) => PasswordResult::Failed,
            },
        };
        if events.blocking_send(Event::Password(PasswordDone { ticket, result })).is_err() {
            return;
        }
    }
}
