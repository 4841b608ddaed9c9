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

    /// A worker says whether a session has a connection there. False if the session is there but
    /// not the link's to speak of: nothing is changed. One that has just ended is nobody's fault.
    pub(crate) fn presence(
        &mut self,
        link: LinkId,
        id: SessionId,
        present: bool,
        now: WallTime,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(&session_key(&id)) else { return true };
        if !session.honoured.contains(&link) {
            return false;
        }
        if present {
            session.present.insert(link);
            session.alone_since = None;
        } else {
            session.leave(link, now);
        }
        true
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
            present: session.links(),
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

    /// The links on which it has a connection, in order.
    fn links(&self) -> Vec<LinkId> {
        let mut links: Vec<LinkId> = self.present.iter().copied().collect();
        links.sort_unstable();
        links
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

#[cfg(test)]
mod tests {
    use papertrader_core::time::SECOND;

    use super::*;

    const ALICE: AccountId = AccountId(1);
    const WORKER: WorkerId = WorkerId([1; 16]);
    const HOUR: i64 = 3_600;
    const DAY: i64 = 24 * HOUR;
    const LIFETIMES: Lifetimes =
        Lifetimes { idle: Duration::from_secs(7 * DAY as u64), grace: Duration::from_secs(30) };

    fn at(seconds: i64) -> WallTime {
        WallTime(seconds * SECOND)
    }

    fn id(byte: u8) -> SessionId {
        SessionId::from_bytes([byte; 16])
    }

    fn key(byte: u8) -> SessionKey {
        session_key(&id(byte))
    }

    fn stored(byte: u8, expirable: bool, now: WallTime) -> StoredSession {
        StoredSession {
            key: key(byte),
            account: ALICE,
            expires: now.plus_nanos(30 * DAY * SECOND),
            expirable,
            client: "192.0.2.1".parse().unwrap(),
            started: now,
            used: now,
        }
    }

    fn start(sessions: &mut Sessions, byte: u8, expirable: bool, link: u64, now: WallTime) {
        let session = stored(byte, expirable, now);
        sessions.started(id(byte), session, Some(LinkId(link)), WORKER, now);
    }

    #[test]
    fn a_session_is_over_when_nobody_used_it_for_too_long() {
        let mut sessions = Sessions::default();
        start(&mut sessions, 1, false, 7, at(0));
        // As long as it has a connection it is in use, for days.
        assert_eq!(sessions.due(LIFETIMES, at(20 * DAY)).over, []);
        sessions.presence(LinkId(7), id(1), false, at(20 * DAY));
        let end = 27 * DAY;
        assert_eq!(sessions.due(LIFETIMES, at(end - 1)).over, []);
        // Another connection, and it begins anew.
        sessions.presence(LinkId(7), id(1), true, at(end - 1));
        assert_eq!(sessions.due(LIFETIMES, at(end)).over, []);
        sessions.presence(LinkId(7), id(1), false, at(end));
        // It expires before it was idle for long enough.
        assert_eq!(sessions.due(LIFETIMES, at(30 * DAY - 1)).over, []);
        assert_eq!(sessions.due(LIFETIMES, at(30 * DAY)).over, [key(1)]);
        // It is named once.
        assert_eq!(sessions.due(LIFETIMES, at(30 * DAY)), Due::default());
    }

    #[test]
    fn an_idle_session_cannot_be_resumed_and_an_expirable_one_only_in_its_grace() {
        let mut sessions = Sessions::default();
        start(&mut sessions, 1, false, 7, at(0));
        start(&mut sessions, 2, true, 7, at(0));
        sessions.link_closed(LinkId(7), at(10));
        let mut resume = |byte, now| {
            let resumed = sessions.resume(LinkId(8), WORKER, id(byte), LIFETIMES, now);
            sessions.link_closed(LinkId(8), now);
            resumed.map(|(account, _)| account)
        };
        assert_eq!(resume(2, at(39)), Ok(ALICE));
        assert_eq!(resume(2, at(69)), Err(Reason::SessionExpired));
        assert_eq!(resume(1, at(10 + 7 * DAY - 1)), Ok(ALICE));
        assert_eq!(resume(1, at(10 + 14 * DAY - 1)), Err(Reason::SessionExpired));
        assert_eq!(resume(3, at(0)), Err(Reason::SessionUnknown));
    }

    #[test]
    fn uses_are_stored_now_and_then() {
        let mut sessions = Sessions::default();
        start(&mut sessions, 1, false, 7, at(0));
        start(&mut sessions, 2, true, 7, at(0));
        let used = |sessions: &mut Sessions, now| sessions.due(LIFETIMES, at(now)).used;
        // Hourly while there is a connection; of an expirable session it does not matter.
        assert_eq!(used(&mut sessions, HOUR), []);
        assert_eq!(used(&mut sessions, HOUR + 1), [(key(1), at(HOUR + 1))]);
        assert_eq!(used(&mut sessions, HOUR + 2), []);
        // When the last connection leaves.
        sessions.presence(LinkId(7), id(1), false, at(HOUR + 300));
        assert_eq!(used(&mut sessions, HOUR + 301), [(key(1), at(HOUR + 300))]);
        assert_eq!(used(&mut sessions, 3 * HOUR), []);
        // Coming and going within a minute is no news.
        sessions.presence(LinkId(7), id(1), true, at(HOUR + 310));
        sessions.presence(LinkId(7), id(1), false, at(HOUR + 320));
        assert_eq!(used(&mut sessions, 4 * HOUR), []);
        // Where sessions may be idle only shortly, they are stored accordingly oftener.
        let shortly = Lifetimes { idle: Duration::from_secs(40), ..LIFETIMES };
        sessions.presence(LinkId(7), id(1), true, at(4 * HOUR));
        assert_eq!(sessions.due(shortly, at(4 * HOUR)).used, [(key(1), at(4 * HOUR))]);
        assert_eq!(sessions.due(shortly, at(4 * HOUR + 10)).used, []);
        assert_eq!(sessions.due(shortly, at(4 * HOUR + 11)).used.len(), 1);
    }

    #[test]
    fn a_restart_forgets_neither_use_nor_grace() {
        let mut sessions = Sessions::default();
        sessions.restore(stored(1, false, at(0)), vec![], at(6 * DAY));
        sessions.restore(stored(2, true, at(0)), vec![], at(6 * DAY));
        assert_eq!(sessions.due(LIFETIMES, at(6 * DAY + 29)), Due::default());
        assert_eq!(sessions.due(LIFETIMES, at(6 * DAY + 30)).over, [key(2)]);
        assert_eq!(sessions.due(LIFETIMES, at(7 * DAY - 1)).over, []);
        assert_eq!(sessions.due(LIFETIMES, at(7 * DAY)).over, [key(1)]);
    }

    #[test]
    fn of_too_many_sessions_the_one_unused_for_longest_ends() {
        let mut sessions = Sessions::default();
        for byte in 1..=4 {
            start(&mut sessions, byte, false, 7, at(byte.into()));
        }
        sessions.presence(LinkId(7), id(3), false, at(10));
        sessions.presence(LinkId(7), id(2), false, at(20));
        assert_eq!(sessions.surplus(ALICE, 4, at(30)), []);
        assert_eq!(sessions.surplus(ALICE, 3, at(30)), [key(3)]);
        // That one is ending: it counts no more.
        assert_eq!(sessions.surplus(ALICE, 3, at(30)), []);
        assert_eq!(sessions.surplus(ALICE, 0, at(30)), [key(2), key(1)]);
        assert!(sessions.goes_on(key(4)));
        sessions.end_failed(key(1));
        assert_eq!(sessions.surplus(ALICE, 1, at(30)), [key(1)]);
        assert_eq!(sessions.surplus(AccountId(2), 1, at(30)), []);
    }

    #[test]
    fn only_links_that_proved_a_session_may_use_it_and_are_told_of_its_end() {
        let mut sessions = Sessions::default();
        start(&mut sessions, 1, false, 7, at(0));
        let identify = |sessions: &Sessions, link, byte| {
            sessions.identify(LinkId(link), id(byte), at(1)).map(|(account, _)| account)
        };
        assert_eq!(identify(&sessions, 7, 1), Ok(ALICE));
        assert_eq!(identify(&sessions, 8, 1), Err(Reason::SessionUnknown));
        assert_eq!(identify(&sessions, 7, 2), Err(Reason::SessionUnknown));
        assert_eq!(identify(&sessions, 7, 0), Err(Reason::SessionRequired));
        let other = WorkerId([2; 16]);
        sessions.resume(LinkId(8), other, id(1), LIFETIMES, at(1)).unwrap();
        assert_eq!(identify(&sessions, 8, 1), Ok(ALICE));
        assert_eq!(sessions.seen_by(key(1)), [WORKER, other]);
        assert_eq!(sessions.known_to(other).collect::<Vec<_>>(), [ALICE]);
        sessions.link_closed(LinkId(7), at(2));
        assert_eq!(identify(&sessions, 7, 1), Err(Reason::SessionUnknown));
        // The worker is gone, but it has seen the session.
        assert_eq!(sessions.seen_by(key(1)), [WORKER, other]);
        assert!(sessions.end(key(1)) && !sessions.end(key(1)));
        assert_eq!(identify(&sessions, 8, 1), Err(Reason::SessionExpired));
        assert_eq!(sessions.ended(key(1)), Some((id(1), vec![LinkId(8)])));
        assert_eq!(sessions.ended(key(1)), None);
        assert_eq!(sessions.of(ALICE), []);
        assert_eq!(identify(&sessions, 8, 1), Err(Reason::SessionUnknown));
    }

    #[test]
    fn the_operator_names_a_session_by_its_handle() {
        let mut sessions = Sessions::default();
        start(&mut sessions, 1, true, 7, at(5));
        let view = SessionView {
            handle: handle(&key(1)),
            account: ALICE,
            started: at(5),
            used: at(9),
            expires: at(5 + 30 * DAY),
            expirable: true,
            client: "192.0.2.1".parse().unwrap(),
            present: vec![LinkId(7)],
        };
        assert_eq!(sessions.list(at(9)).collect::<Vec<_>>(), std::slice::from_ref(&view));
        assert_eq!(view.handle.len(), 10);
        // Nothing of the ID is in it.
        assert!(!id(1).to_hex().contains(&view.handle));
        assert_eq!(sessions.find(&view.handle), Some(key(1)));
        assert_eq!(sessions.find(&view.handle[..9]), None);
        assert_eq!(sessions.find(""), None);
        let mut twin = stored(1, true, at(5));
        twin.key.0[31] ^= 1;
        sessions.restore(twin, vec![], at(5));
        assert_eq!(sessions.find(&view.handle), None);
        sessions.link_closed(LinkId(7), at(8));
        let alone = SessionView { used: at(8), present: vec![], ..view };
        assert!(sessions.list(at(9)).any(|view| view == alone));
    }
}
