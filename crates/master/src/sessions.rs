//! The sessions (specification 2.4.2): who is logged in, through which links, and since when nobody
//! has used it.
//!
//! Session IDs are kept and looked up only as their SHA-256. A session ends when its time is over,
//! when it was idle for too long, soon after its last connection if it is `isExpirable`, when its
//! account has too many, or when somebody ends it. Nothing is written here: the driver stores
//! starts, ends and uses, and calls back after the commit.
//!
//! Invariant: a link may use a session only after the session was proved through that link.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use papertrader_core::ids::{AccountId, WorkerId};
use papertrader_core::time::WallTime;
use papertrader_protocol::{Reason, SessionId};
use papertrader_store::{SessionKey, StoredSession};
use sha2::{Digest, Sha256};

use crate::workers::LinkId;

/// While a session has a connection, its use is stored so often, or oftener if sessions may be idle
/// only shortly.
const STORED_WHILE_PRESENT: Duration = Duration::from_secs(3_600);
/// When its last connection leaves, its use is stored unless that is so little news.
const STORED_WHEN_LEFT: Duration = Duration::from_secs(60);
/// Uses that are stored at once; others follow a second later.
const USES: usize = 2_000;

/// The key under which a session is stored.
pub(crate) fn session_key(session: &SessionId) -> SessionKey {
    SessionKey(Sha256::digest(session.bytes()).into())
}

/// How long sessions live.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lifetimes {
    /// Without any connection.
    pub(crate) idle: Duration,
    /// Without any connection, if it is `isExpirable`.
    pub(crate) grace: Duration,
}

/// A session as the operator sees it: by a handle that names it and gives nothing away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionView {
    /// The first ten hexadecimal digits of its key.
    pub(crate) handle: String,
    /// Whose.
    pub(crate) account: AccountId,
    /// When it was started.
    pub(crate) started: WallTime,
    /// When it was used last: now, while it has a connection.
    pub(crate) used: WallTime,
    /// When it ends at the latest.
    pub(crate) expires: WallTime,
    /// isExpirable.
    pub(crate) expirable: bool,
    /// Where it was started from.
    pub(crate) client: IpAddr,
    /// The links on which it has a connection.
    pub(crate) present: Vec<LinkId>,
}

/// What is to be done about sessions from time to time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// They are over, and to be ended. Each is named once.
    pub(crate) over: Vec<SessionKey>,
    /// Their use is to be stored.
    pub(crate) used: Vec<(SessionKey, WallTime)>,
}

/// All sessions that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    sessions: HashMap<SessionKey, Session>,
    on_link: HashMap<LinkId, HashSet<SessionKey>>,
    of_account: HashMap<AccountId, Vec<SessionKey>>,
}

#[derive(Debug)]
struct Session {
    /// As it was stored; its `used` is what was stored last.
    stored: StoredSession,
    /// The ID itself, for telling workers; known once a link has used it.
    id: Option<SessionId>,
    /// Links that it was proved through: only they may use it.
    honoured: HashSet<LinkId>,
    /// Links on which it has a connection.
    present: HashSet<LinkId>,
    /// Workers that may know its ID.
    seen_by: Vec<WorkerId>,
    /// When it was last known to have a connection, if it has none.
    used: WallTime,
    /// Since when it has no connection: since the master started, at the longest.
    alone_since: Option<WallTime>,
    /// Its end is being written.
    ending: bool,
}

impl Sessions {
    /// Takes a stored session over at start. `seen_by`: the workers that may know its ID.
    pub(crate) fn restore(&mut self, stored: StoredSession, seen_by: Vec<WorkerId>, now: WallTime) {
        let session = Session::alone(stored, seen_by, now);
        self.insert(session);
    }

    /// Adds a session after it was stored: it was proved through `link` and is used there. Without
    /// a link its client was gone before it could be told.
    pub(crate) fn started(
        &mut self,
        id: SessionId,
        stored: StoredSession,
        link: Option<LinkId>,
        worker: WorkerId,
        now: WallTime,
    ) {
        let mut session = Session::alone(stored, vec![worker], now);
        if let Some(link) = link {
            self.on_link.entry(link).or_default().insert(session.stored.key);
            session.prove(link, id);
        }
        self.insert(session);
    }

    fn insert(&mut self, session: Session) {
        let key = session.stored.key;
        self.of_account.entry(session.stored.account).or_default().push(key);
        self.sessions.insert(key, session);
    }

    /// Proves a session through a link: from now on the link may use it.
    pub(crate) fn resume(
        &mut self,
        link: LinkId,
        worker: WorkerId,
        id: SessionId,
        lifetimes: Lifetimes,
        now: WallTime,
    ) -> Result<(AccountId, WallTime), Reason> {
        let session = self.sessions.get_mut(&session_key(&id)).ok_or(Reason::SessionUnknown)?;
        if session.ending || session.is_over(lifetimes, now) {
            return Err(Reason::SessionExpired);
        }
        session.prove(link, id);
        if !session.seen_by.contains(&worker) {
            session.seen_by.push(worker);
        }
        self.on_link.entry(link).or_default().insert(session.stored.key);
        Ok((session.stored.account, session.stored.expires))
    }

    /// The account that a frame on a link speaks for.
    pub(crate) fn identify(
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

    /// Sessions that are over, and uses that are to be stored. Those are counted as stored.
    pub(crate) fn due(&mut self, lifetimes: Lifetimes, now: WallTime) -> Due {
        let quarter = lifetimes.idle / 4;
        let while_present = nanos(STORED_WHILE_PRESENT.min(quarter));
        let when_left = nanos(STORED_WHEN_LEFT.min(quarter));
        let mut due = Due::default();
        for (key, session) in &mut self.sessions {
            if session.ending {
                continue;
            }
            if session.is_over(lifetimes, now) {
                session.ending = true;
                due.over.push(*key);
                continue;
            }
            // An expirable session is never idle for long.
            if session.stored.expirable || due.used.len() >= USES {
                continue;
            }
            let used = session.used(now);
            let news = if session.present.is_empty() { when_left } else { while_present };
            if used > session.stored.used.plus_nanos(news) {
                session.stored.used = used;
                due.used.push((*key, used));
            }
        }
        due
    }

    /// The sessions of an account beyond the number that it may have, those first that were unused
    /// for longest; they are to be ended. Each is named once.
    pub(crate) fn surplus(
        &mut self,
        account: AccountId,
        most: usize,
        now: WallTime,
    ) -> Vec<SessionKey> {
        let mut keys = self.of(account).to_vec();
        keys.retain(|key| self.sessions.get(key).is_some_and(|session| !session.ending));
        let beyond = keys.len().saturating_sub(most.max(1));
        keys.sort_by_key(|key| self.sessions.get(key).map(|session| session.age(now)));
        keys.truncate(beyond);
        keys.into_iter().filter(|key| self.end(*key)).collect()
    }

    /// Marks a session as ending. False if it already is, or is not there.
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
        if let Some(keys) = self.of_account.get_mut(&session.stored.account) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.of_account.remove(&session.stored.account);
            }
        }
        Some((session.id?, session.honoured.into_iter().collect()))
    }

    /// Whether a session has not ended, though its end may be under way.
    pub(crate) fn is_there(&self, key: SessionKey) -> bool {
        self.sessions.contains_key(&key)
    }

    /// Whether a session is there and nobody is ending it.
    pub(crate) fn goes_on(&self, key: SessionKey) -> bool {
        self.sessions.get(&key).is_some_and(|session| !session.ending)
    }

    /// Whose a session is.
    pub(crate) fn account(&self, key: SessionKey) -> Option<AccountId> {
        Some(self.sessions.get(&key)?.stored.account)
    }

    /// The workers that may know a session's ID.
    pub(crate) fn seen_by(&self, key: SessionKey) -> &[WorkerId] {
        self.sessions.get(&key).map_or(&[], |session| &session.seen_by)
    }

    /// Whose sessions a worker may know.
    pub(crate) fn known_to(&self, worker: WorkerId) -> impl Iterator<Item = AccountId> {
        let known = move |session: &&Session| session.seen_by.contains(&worker);
        self.sessions.values().filter(known).map(|session| session.stored.account)
    }

    /// All sessions of an account, those too whose end is under way.
    pub(crate) fn of(&self, account: AccountId) -> &[SessionKey] {
        self.of_account.get(&account).map_or(&[], Vec::as_slice)
    }

    /// All sessions, for the operator.
    pub(crate) fn list(&self, now: WallTime) -> impl Iterator<Item = SessionView> {
        self.sessions.iter().map(move |(key, session)| SessionView {
            handle: handle(key),
            account: session.stored.account,
            started: session.stored.started,
            used: session.used(now),
            expires: session.stored.expires,
            expirable: session.stored.expirable,
            client: session.stored.client,
            present: session.present.iter().copied().collect(),
        })
    }

    /// The one session with a handle. Two with the same are not told apart.
    pub(crate) fn find(&self, wanted: &str) -> Option<SessionKey> {
        let mut found = self.sessions.keys().filter(|key| handle(key) == wanted);
        let key = found.next()?;
        found.next().is_none().then_some(*key)
    }
}

fn handle(key: &SessionKey) -> String {
    key.0[..5].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Session {
    /// A session without a connection.
    fn alone(stored: StoredSession, seen_by: Vec<WorkerId>, now: WallTime) -> Session {
        Session {
            id: None,
            honoured: HashSet::new(),
            present: HashSet::new(),
            seen_by,
            used: stored.used,
            alone_since: Some(now),
            ending: false,
            stored,
        }
    }

    fn prove(&mut self, link: LinkId, id: SessionId) {
        self.id = Some(id);
        self.honoured.insert(link);
        self.present.insert(link);
        self.alone_since = None;
    }

    fn leave(&mut self, link: LinkId, now: WallTime) {
        if self.present.remove(&link) && self.present.is_empty() {
            self.used = now;
            self.alone_since = Some(now);
        }
    }

    fn used(&self, now: WallTime) -> WallTime {
        if self.present.is_empty() { self.used } else { now }
    }

    /// What is unused for longest comes first; of those in use, the oldest.
    fn age(&self, now: WallTime) -> (WallTime, WallTime) {
        (self.used(now), self.stored.started)
    }

    fn is_over(&self, lifetimes: Lifetimes, now: WallTime) -> bool {
        let left = self.stored.expirable
            && self
                .alone_since
                .is_some_and(|since| since.plus_nanos(nanos(lifetimes.grace)) <= now);
        let idle = self.present.is_empty() && self.used.plus_nanos(nanos(lifetimes.idle)) <= now;
        left || idle || self.stored.expires <= now
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
