//! What the operator decides about the master.

use std::path::PathBuf;
use std::time::Duration;

use papertrader_core::books::Rules;
use papertrader_core::money::Cash;

use crate::limits::Limits;

/// The master's settings. The configuration file has the same in words.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cash that a new account starts with.
    pub starting_cash: Cash,
    /// What the operator decides about trading.
    pub rules: Rules,
    /// How far before the master's receipt a worker's time may lie; it is moved otherwise.
    pub clamp_window: Duration,
    /// How long a session lives.
    pub session_lifetime: Duration,
    /// How long a session lives without any connection.
    pub session_idle: Duration,
    /// How long an `isExpirable` session outlives its last connection.
    pub session_grace: Duration,
    /// Sessions that an account may have, at least 1: when it starts another, the one that was
    /// unused for longest ends.
    pub sessions_per_account: usize,
    /// Threads that hash passwords, each with 19 MiB.
    pub password_threads: usize,
    /// Log-ins and registrations that may wait for them; more are told `busy`, those first whose
    /// worker has most.
    pub password_queue: usize,
    /// How often passwords may be tried, accounts made and orders placed.
    pub limits: Limits,
    /// How many connections the port takes, and how long.
    pub port: PortLimits,
    /// Threads that read history from the store.
    pub read_threads: usize,
    /// Commands that may wait for the store. A worker that has as many waiting as are left free is
    /// told `busy`.
    pub command_queue: usize,
    /// The directory, closed to other users, in which the socket for the operator's commands is
    /// made; `None` for no socket. It is locked by this process.
    pub admin: Option<PathBuf>,
}

/// The bounds of the master's port. Connections from addresses that a worker may have now are
/// expected, all others are strangers'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortLimits {
    /// Expected connections at a time. Default: 512.
    pub expected: usize,
    /// Expected connections from one address: some run many workers on one machine. Default: 128.
    pub expected_per_address: usize,
    /// Connections of strangers at a time. Default: 512.
    pub strangers: usize,
    /// Connections of strangers from one address (of IPv6: /64). Default: 16.
    pub strangers_per_address: usize,
    /// How long a proven worker may take to say hello, a client to say the next thing, and either
    /// to take some of what is said to it. Default: 30 s.
    pub silence: Duration,
    /// How long a client may stay in all: it can ask for little, and places are few. Default: 2 min.
    pub stay: Duration,
}

impl Default for PortLimits {
    fn default() -> PortLimits {
        PortLimits {
            expected: 512,
            expected_per_address: 128,
            strangers: 512,
            strangers_per_address: 16,
            silence: Duration::from_secs(30),
            stay: Duration::from_secs(120),
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            starting_cash: Cash::from_cents(10_000_000),
            rules: Rules::default(),
            clamp_window: Duration::from_secs(2),
            session_lifetime: Duration::from_secs(30 * 86_400),
            session_idle: Duration::from_secs(7 * 86_400),
            session_grace: Duration::from_secs(30),
            sessions_per_account: 32,
            password_threads: 2,
            password_queue: 64,
            limits: Limits::default(),
            port: PortLimits::default(),
            read_threads: 2,
            command_queue: 100_000,
            admin: None,
        }
    }
}
