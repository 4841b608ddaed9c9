//! The limits in force and the places on the port, as the operator is told of them.
//!
//! The names are those of `master.toml`. Durations are in milliseconds, rounded up; a limit whose
//! time is 0 is none.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Config, PortLimits};
use crate::limits::{Backoff, Rate};
use crate::port::PlaceCounts;

/// Connections on the master's port: those from addresses that a worker may have now are expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Places that are taken by expected connections.
    pub expected: u64,
    /// Places that are taken by strangers.
    pub strangers: u64,
    /// Expected connections that got no place, since the master's start.
    pub expected_turned_away: u64,
    /// Strangers' connections that got no place, since the master's start.
    pub strangers_turned_away: u64,
}

/// The limits in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsInForce {
    /// Wrong passwords for one name from one address.
    pub login_name_and_address: BackoffLimit,
    /// Wrong passwords from one address.
    pub login_address: BackoffLimit,
    /// Wrong passwords for one name, from wherever it was not logged in before.
    pub login_name: BackoffLimit,
    /// Wrong passwords through one worker.
    pub login_worker: RateLimit,
    /// Registrations from one address.
    pub register_address: RateLimit,
    /// Registrations through one worker.
    pub register_worker: RateLimit,
    /// Orders and cancellations of one account.
    pub orders_account: RateLimit,
    /// Log-ins and registrations that may wait for the hashing of passwords.
    pub password_queue: u64,
    /// Commands that may wait to be stored.
    pub command_queue: u64,
    /// Sessions of one account.
    pub sessions_per_account: u64,
    /// Connections on the master's port.
    pub port: PortPlaces,
}

/// A delay that grows with failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackoffLimit {
    /// Failures without any delay.
    pub free: u32,
    /// The delay after one failure more; each further one doubles it.
    pub first_ms: u64,
    /// The longest delay.
    pub longest_ms: u64,
    /// After how long one failure is forgotten.
    pub forget_ms: u64,
}

/// So many at once, and then one after each interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// How many at once.
    pub burst: u32,
    /// The interval.
    pub every_ms: u64,
}

/// How many places the port has, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortPlaces {
    /// For expected connections.
    pub expected: u64,
    /// Of them, for one address.
    pub expected_per_address: u64,
    /// For strangers.
    pub strangers: u64,
    /// Of them, for one address.
    pub strangers_per_address: u64,
    /// How long the other end may be silent.
    pub silence_ms: u64,
    /// How long a client may stay.
    pub stay_ms: u64,
}

impl From<&Config> for LimitsInForce {
    fn from(config: &Config) -> LimitsInForce {
        let limits = &config.limits;
        LimitsInForce {
            login_name_and_address: limits.login_name_and_address.into(),
            login_address: limits.login_address.into(),
            login_name: limits.login_name.into(),
            login_worker: limits.login_worker.into(),
            register_address: limits.register_address.into(),
            register_worker: limits.register_worker.into(),
            orders_account: limits.orders_account.into(),
            password_queue: config.password_queue as u64,
            command_queue: config.command_queue as u64,
            sessions_per_account: config.sessions_per_account as u64,
            port: config.port.into(),
        }
    }
}

impl From<Backoff> for BackoffLimit {
    fn from(limit: Backoff) -> BackoffLimit {
        let Backoff { free, first, longest, forget } = limit;
        let [first_ms, longest_ms, forget_ms] = [first, longest, forget].map(millis);
        BackoffLimit { free, first_ms, longest_ms, forget_ms }
    }
}

impl From<Rate> for RateLimit {
    fn from(limit: Rate) -> RateLimit {
        RateLimit { burst: limit.burst, every_ms: millis(limit.every) }
    }
}

impl From<PortLimits> for PortPlaces {
    fn from(limits: PortLimits) -> PortPlaces {
        PortPlaces {
            expected: limits.expected as u64,
            expected_per_address: limits.expected_per_address as u64,
            strangers: limits.strangers as u64,
            strangers_per_address: limits.strangers_per_address as u64,
            silence_ms: millis(limits.silence),
            stay_ms: millis(limits.stay),
        }
    }
}

impl From<PlaceCounts> for PortStatus {
    fn from(counts: PlaceCounts) -> PortStatus {
        PortStatus {
            expected: counts.expected as u64,
            strangers: counts.strangers as u64,
            expected_turned_away: counts.expected_turned_away,
            strangers_turned_away: counts.strangers_turned_away,
        }
    }
}

/// Rounded up, so that a limit never looks like none.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
