//! What the operator's program and the master say to each other: one JSON object a line.
//!
//! The replies are also what `papertrader admin … --json` prints, so they follow the rules of
//! `docs/cli.md`: a published field keeps its name and its meaning, times are RFC 3339, money is a
//! decimal string.
//!
//! Invariant: no reply holds a session ID, a password's hash or a secret key, and no text of a
//! worker or a key in a reply holds a control character or is longer than [`MAX_SHOWN`].

mod books;
mod error;
mod limits;
mod standby;

use std::fmt;

use papertrader_core::time::{MarketTime, WallTime};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use books::{
    BackedUp, BooksRestored, Checked, Contradiction, ExportCursor, ExportLine, ExportPage, LINES,
    Progress, Verified,
};
pub use error::AdminError;
pub use limits::{BackoffLimit, LimitsInForce, PortPlaces, PortStatus, RateLimit};
pub use standby::StandbyStatus;

/// Longest request, in bytes, its line's end included.
pub const MAX_REQUEST: usize = 64 * 1024;
/// Longest reply, in bytes, its line's end included.
pub const MAX_REPLY: usize = 4 * 1024 * 1024;
/// Most users in one reply; the next are asked for.
pub const USERS: usize = 1_000;
/// Most sessions in one reply, those used last; the others are only counted.
pub const SESSIONS: usize = 5_000;
/// Most addresses and networks of one worker.
pub const MAX_ADDRESSES: usize = 64;
/// Most characters of a foreign text that are shown.
pub const MAX_SHOWN: usize = 256;

/// What the operator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "camelCase", deny_unknown_fields)]
pub enum AdminRequest {
    /// How the master is. Answer: [`AdminReply::Status`], or [`AdminReply::Standby`] of one that waits.
    Status {},
    /// All registered workers. Answer: [`AdminReply::Workers`].
    ListWorkers {},
    /// Everything about one. Answer: [`AdminReply::Worker`].
    ShowWorker {
        /// Its name.
        name: String,
    },
    /// Registers a worker, or replaces what is registered, and lifts a boot. Answer:
    /// [`AdminReply::WorkerAdded`].
    AddWorker(NewWorker),
    /// Takes a worker off the registry and cuts its link. Answer: [`AdminReply::WorkerRemoved`].
    RemoveWorker {
        /// Its name.
        name: String,
    },
    /// Sends a worker away: cuts its link. Answer: [`AdminReply::WorkerBooted`].
    BootWorker {
        /// Its name.
        name: String,
        /// For so many milliseconds; without it until it is added or admitted. A compromised one
        /// stays away until it is added with a new key.
        for_ms: Option<u64>,
        /// What passed through it is in wrong hands: its sessions end and their owners must choose
        /// new passwords.
        compromised: bool,
    },
    /// Lifts a boot. Answer: [`AdminReply::WorkerAdmitted`].
    AdmitWorker {
        /// Its name.
        name: String,
    },
    /// Sessions, those used last first. Answer: [`AdminReply::Sessions`].
    ListSessions {
        /// Only those of this user.
        user: Option<String>,
    },
    /// Ends a session. Answer: [`AdminReply::SessionsRevoked`].
    RevokeSession {
        /// Its handle, from the list.
        handle: String,
    },
    /// Ends all sessions of a user. Answer: [`AdminReply::SessionsRevoked`].
    RevokeSessions {
        /// Whose.
        user: String,
    },
    /// Users in the order of their account numbers. Answer: [`AdminReply::Users`].
    ListUsers {
        /// Those whose account number is higher; 0 for the first.
        after: u32,
    },
    /// Everything about one. Answer: [`AdminReply::User`].
    ShowUser {
        /// The name.
        name: String,
    },
    /// Cancels a user's open orders, ends the sessions, and lets nobody in. Answer:
    /// [`AdminReply::UserDisabled`].
    DisableUser {
        /// The name.
        name: String,
    },
    /// Lets a user in again. Answer: [`AdminReply::UserEnabled`].
    EnableUser {
        /// The name.
        name: String,
    },
    /// Folds all that is stored and compares. Answer: [`AdminReply::Verified`], after any number of
    /// [`AdminReply::Progress`].
    Verify {},
    /// Copies the books into a new file. Answer: [`AdminReply::BackedUp`], after any number of
    /// [`AdminReply::Progress`].
    BackUp {
        /// Its path, absolute.
        file: String,
        /// The device of the directory that it is to be in, as whoever asks sees it.
        device: u64,
        /// The directory's number on that device.
        inode: u64,
    },
    /// What an account ever did, oldest first, a part at a time. Answer: [`AdminReply::Exported`].
    Export {
        /// Whose.
        user: String,
        /// Where it begins.
        after: ExportCursor,
    },
}

/// A worker to register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewWorker {
    /// 1 to 32 letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Its UUID. Without it that of the worker which has the name, if it was chosen by hand; else
    /// the one that `init worker` makes of the key.
    pub uuid: Option<String>,
    /// Its OpenPGP public key, binary, in hexadecimal digits.
    pub key: String,
    /// Addresses and networks that it may connect from; at least one.
    pub addresses: Vec<String>,
}

/// What the master answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AdminReply {
    /// See [`AdminRequest::Status`].
    Status(Box<Status>),
    /// See [`AdminRequest::Status`].
    Standby(StandbyStatus),
    /// See [`AdminRequest::ListWorkers`].
    Workers(WorkerLines),
    /// See [`AdminRequest::ShowWorker`].
    Worker(Box<WorkerDetail>),
    /// See [`AdminRequest::AddWorker`].
    WorkerAdded(WorkerAdded),
    /// See [`AdminRequest::RemoveWorker`].
    WorkerRemoved(WorkerRemoved),
    /// See [`AdminRequest::BootWorker`].
    WorkerBooted(WorkerBooted),
    /// See [`AdminRequest::AdmitWorker`].
    WorkerAdmitted(WorkerAdmitted),
    /// See [`AdminRequest::ListSessions`].
    Sessions(SessionLines),
    /// See [`AdminRequest::RevokeSession`] and [`AdminRequest::RevokeSessions`].
    SessionsRevoked(SessionsRevoked),
    /// See [`AdminRequest::ListUsers`].
    Users(UserLines),
    /// See [`AdminRequest::ShowUser`].
    User(Box<UserDetail>),
    /// See [`AdminRequest::DisableUser`].
    UserDisabled(UserDisabled),
    /// See [`AdminRequest::EnableUser`].
    UserEnabled(UserEnabled),
    /// How far something is; the answer follows.
    Progress(Progress),
    /// See [`AdminRequest::Verify`].
    Verified(Verified),
    /// See [`AdminRequest::BackUp`].
    BackedUp(BackedUp),
    /// See [`AdminRequest::Export`].
    Exported(ExportPage),
    /// Nothing was done, or nothing can be said.
    Refused(AdminRefusal),
}

/// Why the master does not do what it is asked, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct AdminRefusal {
    /// The stable word: [`AdminError::code`].
    pub code: String,
    /// The words for people.
    pub text: String,
}

/// A time on either clock, in nanoseconds since 1970. In JSON it is RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub i64);

impl From<WallTime> for Stamp {
    fn from(time: WallTime) -> Stamp {
        Stamp(time.0)
    }
}

impl From<MarketTime> for Stamp {
    fn from(time: MarketTime) -> Stamp {
        Stamp(time.0)
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Every 64-bit count of nanoseconds is in the calendar's range.
        let time = jiff::Timestamp::from_nanosecond(i128::from(self.0)).unwrap_or_default();
        serializer.collect_str(&time)
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Stamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        let nanos = i64::try_from(time.as_nanosecond()).map_err(serde::de::Error::custom)?;
        Ok(Stamp(nanos))
    }
}

/// How the master is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its software version.
    pub version: String,
    /// When it was started.
    pub started: Stamp,
    /// How long ago that is.
    pub uptime_seconds: i64,
    /// The deployment's ID.
    pub deployment: String,
    /// The SHA-256 fingerprint of its TLS certificate: workers are configured with it.
    pub certificate: String,
    /// The fingerprint of its OpenPGP key.
    pub key: String,
    /// The market's time.
    pub market_time: Stamp,
    /// The number of the latest settled snapshot.
    pub snapshot: u64,
    /// Whether the prices have come to their end.
    pub ended: bool,
    /// Where prices come from, in words.
    pub source: String,
    /// Wall time from one snapshot to the next.
    pub interval_ms: i64,
    /// How many accounts there are.
    pub accounts: u64,
    /// How many orders are open.
    pub open_orders: u64,
    /// How many sessions have not ended.
    pub sessions: u64,
    /// How many workers are connected.
    pub workers_connected: u64,
    /// How many workers are registered.
    pub workers_registered: u64,
    /// Commands and settlements that wait to be stored.
    pub queue: u64,
    /// The number of the last stored batch.
    pub last_batch: u64,
    /// What is wrong with the database, and what follows from it.
    pub database: Option<String>,
    /// Connections on the master's port.
    pub port: PortStatus,
    /// What the limits have counted, since the master's start.
    pub attempts: Attempts,
    /// The limits in force.
    pub limits: LimitsInForce,
}

/// What the limits on attempts have counted, since the master's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempts {
    /// Passwords that were right, at log-ins and changes of passwords.
    pub right: u64,
    /// Passwords that were wrong.
    pub wrong: u64,
    /// Attempts that a limit refused, before anything was checked.
    pub refused: u64,
    /// Registrations that a limit refused.
    pub registrations_refused: u64,
    /// Orders and cancellations that a limit refused.
    pub orders_refused: u64,
}

/// Whether a worker is there, and if not, whether it could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WorkerState {
    /// It has a link.
    Connected,
    /// It has none, but may have one.
    Away,
    /// It was sent away.
    Booted,
    /// It has no key that can be used: it cannot connect.
    BadKey,
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WorkerState::Connected => "connected",
            WorkerState::Away => "away",
            WorkerState::Booted => "booted",
            WorkerState::BadKey => "key unusable",
        })
    }
}

/// All workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerLines {
    /// By name.
    pub workers: Vec<WorkerLine>,
}

/// A worker in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerLine {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Whether it is there.
    pub state: WorkerState,
    /// Until when it is booted; `None` as well if that has no end.
    pub booted_until: Option<Stamp>,
    /// The region that it is in, as it says.
    pub region: Option<String>,
    /// How many clients it has, as it says.
    pub clients: Option<u32>,
    /// How much is taken of what it can take, in thousandths, as it says.
    pub load: Option<u32>,
    /// How long its last ping took, in microseconds.
    pub round_trip_us: Option<i64>,
    /// The master's clock minus the worker's, in microseconds.
    pub clock_offset_us: Option<i64>,
    /// Where clients reach it, as it says.
    pub address: Option<String>,
}

/// Everything about a worker: what is stored, and what it reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerDetail {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Whether it is there.
    pub state: WorkerState,
    /// Addresses and networks that it may connect from.
    pub addresses: Vec<String>,
    /// Its key; `None` if none is registered or it cannot be read.
    pub key: Option<WorkerKey>,
    /// Set while it may not connect.
    pub booted: Option<WorkerBoot>,
    /// Its link, if it has one.
    pub live: Option<LiveWorker>,
    /// What it did that a good worker does not do.
    pub conduct: WorkerConduct,
}

/// A worker's registered key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerKey {
    /// Its fingerprint.
    pub fingerprint: String,
    /// The name that its owner gave it.
    pub user_id: String,
    /// Until when it can be used; `None` if that has no end, or it cannot be used now.
    pub valid_until: Option<Stamp>,
    /// Why it cannot be used now.
    pub problem: Option<String>,
}

/// A boot that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerBoot {
    /// Until when; without it until the worker is added or admitted.
    pub until: Option<Stamp>,
    /// What passed through it is in wrong hands.
    pub compromised: bool,
}

/// A worker's link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveWorker {
    /// Since when.
    pub since: Stamp,
    /// Where it comes from.
    pub peer: String,
    /// Its software version, as it says.
    pub version: String,
    /// Where clients reach it, as it says.
    pub address: String,
    /// Its web address, as it says; may be empty.
    pub web: String,
    /// The fingerprint of the certificate that it shows to clients, as it says; may be empty.
    pub certificate: String,
    /// The region that it is in, as it says; may be empty.
    pub region: String,
    /// What it said of itself last.
    pub report: Option<WorkerReport>,
}

/// What a worker says of itself. Counters begin with its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// When it was started.
    pub started: Stamp,
    /// How long ago that is.
    pub uptime_seconds: i64,
    /// Connected clients.
    pub clients: u32,
    /// How much is taken of what it can take, in thousandths.
    pub load: u32,
    /// Sessions that it holds as verified.
    pub sessions: u32,
    /// Orders that wait for an answer of the master.
    pub orders: u32,
    /// Bytes in its cache.
    pub cache_bytes: u64,
    /// The most that it may hold.
    pub cache_limit: u64,
    /// Questions answered from the cache.
    pub cache_hits: u64,
    /// Questions that the master had to answer.
    pub cache_misses: u64,
    /// Answers that had to make room for others.
    pub cache_evictions: u64,
    /// Bytes that wait for clients to read them.
    pub outgoing_bytes: u64,
    /// Connections refused because there were too many.
    pub refused_connections: u64,
    /// Connections cut off: too slow, too greedy, or idle.
    pub cut_connections: u64,
    /// Requests that had to wait because their connection asked too many at once.
    pub throttled_requests: u64,
    /// How long the last ping took, in microseconds; `None` before the first.
    pub round_trip_us: Option<i64>,
    /// The master's clock minus the worker's, in microseconds; `None` before the first ping.
    pub clock_offset_us: Option<i64>,
}

/// What a worker did that a good one does not do, since the master's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerConduct {
    /// Frames without its own UUID.
    pub foreign_frames: u64,
    /// Frames that mean nothing.
    pub malformed: u64,
    /// Requests for sessions that did not pass through it.
    pub foreign_sessions: u64,
    /// Wrong passwords that came through it. Some are its clients' own mistakes.
    pub wrong_passwords: u64,
    /// The latest of the first three, in words.
    pub last: Option<String>,
    /// When that was.
    pub last_time: Option<Stamp>,
}

/// A worker was registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerAdded {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// The fingerprint of its key.
    pub key: String,
    /// Addresses and networks that it may connect from.
    pub addresses: Vec<String>,
    /// Whether its UUID or its name was registered before.
    pub replaced: bool,
    /// Whether a boot was lifted.
    pub boot_lifted: bool,
    /// Whether a link was cut, because of the new key, name or addresses.
    pub link_cut: bool,
}

/// A worker was taken off the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRemoved {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Whether it had a link.
    pub link_cut: bool,
}

/// A worker was sent away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerBooted {
    /// Its name.
    pub name: String,
    /// Until when; without it until it is added or admitted.
    pub until: Option<Stamp>,
    /// What passed through it is in wrong hands.
    pub compromised: bool,
    /// Whether it had a link.
    pub link_cut: bool,
    /// How many sessions were ended.
    pub sessions_ended: u64,
    /// How many accounts must choose a new password.
    pub passwords_due: u64,
}

/// A boot was lifted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerAdmitted {
    /// Its name.
    pub name: String,
    /// Whether it was booted at all.
    pub was_booted: bool,
}

/// Sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLines {
    /// Those used last first.
    pub sessions: Vec<SessionLine>,
    /// How many are left out.
    pub more: u64,
}

/// A session. Its ID is nobody's but its user's to know: a handle names it here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLine {
    /// By what it is revoked.
    pub handle: String,
    /// Whose it is.
    pub user: String,
    /// The address that it was started from.
    pub client: String,
    /// When it was started.
    pub started: Stamp,
    /// When it was used last: now, while it has a connection.
    pub used: Stamp,
    /// When it ends at the latest.
    pub expires: Stamp,
    /// Whether it ends soon after its last connection.
    pub expirable: bool,
    /// The workers on which it has a connection, by name.
    pub workers: Vec<String>,
}

/// Sessions were ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsRevoked {
    /// Whose they were.
    pub user: String,
    /// How many.
    pub sessions_ended: u64,
}

/// Users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserLines {
    /// In the order of their account numbers.
    pub users: Vec<UserLine>,
    /// Whether there are more.
    pub more: bool,
}

/// A user in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserLine {
    /// The account's number.
    pub id: u32,
    /// The name.
    pub user: String,
    /// When the account was made.
    pub since: Stamp,
    /// How many orders are open.
    pub open_orders: u32,
    /// How many sessions have not ended.
    pub sessions: u64,
    /// Whether the owner must choose a new password.
    pub password_due: bool,
    /// Whether the user may not log in or trade.
    pub disabled: bool,
}

/// Everything about a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDetail {
    /// The account's number.
    pub id: u32,
    /// The name.
    pub user: String,
    /// Where mail reaches them.
    pub email: String,
    /// When the account was made.
    pub since: Stamp,
    /// All cash, a decimal string.
    pub cash: String,
    /// Cash that open buy orders hold.
    pub held_cash: String,
    /// Cash and positions at the latest prices.
    pub equity: String,
    /// How many assets are held.
    pub positions: u64,
    /// How many orders are open.
    pub open_orders: u32,
    /// How many sessions have not ended.
    pub sessions: u64,
    /// Whether there is a password at all.
    pub is_password: bool,
    /// Whether the owner must choose a new password.
    pub password_due: bool,
    /// Whether the user may not log in or trade.
    pub disabled: bool,
}

/// A user may not log in or trade any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDisabled {
    /// The name.
    pub user: String,
    /// Whether that was so before; nothing has changed then.
    pub was_disabled: bool,
    /// How many open orders were cancelled.
    pub orders_cancelled: u64,
    /// How many sessions were ended.
    pub sessions_ended: u64,
}

/// A user may log in and trade again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserEnabled {
    /// The name.
    pub user: String,
    /// Whether the user was disabled at all; nothing has changed otherwise.
    pub was_disabled: bool,
}

/// A foreign text, made harmless for a terminal.
pub(crate) fn shown(text: &str) -> String {
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(shown).take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_one_form_and_no_other_fields() {
        let boot = AdminRequest::BootWorker {
            name: "one".into(),
            for_ms: Some(60_000),
            compromised: true,
        };
        let line = r#"{"command":"bootWorker","name":"one","for_ms":60000,"compromised":true}"#;
        assert_eq!(serde_json::to_string(&boot).unwrap(), line);
        assert_eq!(serde_json::from_str::<AdminRequest>(line).unwrap(), boot);
        for bad in [
            "",
            "{}",
            "null",
            r#"{"command":"format"}"#,
            r#"{"command":"status","now":true}"#,
            r#"{"command":"showWorker"}"#,
            r#"{"command":"bootWorker","name":"one","for_ms":-1,"compromised":true}"#,
        ] {
            assert!(serde_json::from_str::<AdminRequest>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        let stamp = Stamp(1_109_691_000_000_000_005);
        let text = "\"2005-03-01T15:30:00.000000005Z\"";
        assert_eq!(serde_json::to_string(&stamp).unwrap(), text);
        assert_eq!(serde_json::from_str::<Stamp>(text).unwrap(), stamp);
        for edge in [i64::MIN, i64::MAX] {
            let text = serde_json::to_string(&Stamp(edge)).unwrap();
            assert_eq!(serde_json::from_str::<Stamp>(&text).unwrap(), Stamp(edge), "{text}");
        }
    }

    #[test]
    fn a_worker_cannot_play_with_the_operators_terminal() {
        assert_eq!(shown("v1\x1b[2J\r\n"), "v1\u{fffd}[2J\u{fffd}\u{fffd}");
        assert_eq!(shown(&"x".repeat(1_000)).len(), MAX_SHOWN);
    }
}
