//! What the operator can decide about a worker. Reading files and the environment is the command
//! line's; an unknown key is an error that names it. Durations are whole milliseconds.

use std::net::SocketAddr;
use std::time::Duration;

use papertrader_core::ids::WorkerId;
use serde::Deserialize;

/// The configuration of a worker. `worker` and `master` have no default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The UUID under which the master knows this worker.
    #[serde(deserialize_with = "worker_id")]
    pub worker: WorkerId,
    /// The name that clients see. Default: the name in the master's registry.
    #[serde(default)]
    pub name: Option<String>,
    /// Where the master is: `host:port`.
    pub master: String,
    /// Where clients are awaited. Port 0 takes any free port.
    #[serde(default = "default::listen")]
    pub listen: SocketAddr,
    /// Where clients reach this worker, `host:port`, as the list of workers says. Default: the
    /// address that it listens at.
    #[serde(default)]
    pub advertise: Option<String>,
    /// The web address as the list of workers says; empty without one.
    #[serde(default)]
    pub web: String,
    /// The fingerprint of the certificate as the list of workers says; empty without TLS.
    #[serde(default)]
    pub fingerprint: String,
    /// Threads that serve clients. 0 takes one per core.
    #[serde(default)]
    pub threads: usize,
    /// How long an order may wait for the master before it will not happen. 10 seconds.
    #[serde(rename = "order_wait_ms", default = "default::order_wait", with = "milliseconds")]
    pub order_wait: Duration,
    /// Bytes of memory for answers about the past. 64 MiB.
    #[serde(default = "default::cache_bytes")]
    pub cache_bytes: u64,
    /// The longest answer that is taken from the master, in bytes. 32 MiB.
    #[serde(default = "default::max_answer_bytes")]
    pub max_answer_bytes: usize,
    /// Most clients at the same time; more are told `busy`. 100,000.
    #[serde(default = "default::max_connections")]
    pub max_connections: usize,
    /// Most requests of one client that wait for the master. 256.
    #[serde(default = "default::max_requests")]
    pub max_requests_per_connection: usize,
    /// Most queued orders of one client whose outcome it will be told. 1,024.
    #[serde(default = "default::max_outcomes")]
    pub max_outcomes_per_connection: usize,
    /// Most orders in the cache, of all clients. 65,536.
    #[serde(default = "default::max_orders")]
    pub max_orders: usize,
    /// Most bytes that wait for one client to read them; beyond, it is cut off. 64 MiB.
    #[serde(default = "default::max_outgoing_bytes")]
    pub max_outgoing_bytes: usize,
    /// How long a client may take none of what is sent to it. 30 seconds.
    #[serde(rename = "write_timeout_ms", default = "default::patience", with = "milliseconds")]
    pub write_timeout: Duration,
    /// How long a client may take to finish a message that it began. 30 seconds.
    #[serde(rename = "frame_timeout_ms", default = "default::patience", with = "milliseconds")]
    pub frame_timeout: Duration,
    /// How often the master is told how this worker is, and asked whether it is there. 5 seconds.
    #[serde(
        rename = "ping_interval_ms",
        default = "default::ping_interval",
        with = "milliseconds"
    )]
    pub ping_interval: Duration,
    /// After how long without a word from the master the link counts as lost. 15 seconds.
    #[serde(rename = "link_timeout_ms", default = "default::link_timeout", with = "milliseconds")]
    pub link_timeout: Duration,
    /// How long to wait before the first try to reach the master again; each further try waits
    /// twice as long. 100 ms.
    #[serde(
        rename = "reconnect_delay_min_ms",
        default = "default::reconnect_min",
        with = "milliseconds"
    )]
    pub reconnect_delay_min: Duration,
    /// The longest such wait, and the one after a refusal. 5 seconds.
    #[serde(
        rename = "reconnect_delay_max_ms",
        default = "default::reconnect_max",
        with = "milliseconds"
    )]
    pub reconnect_delay_max: Duration,
    /// How long the end of the worker waits for answers that are on their way. 5 seconds.
    #[serde(rename = "drain_ms", default = "default::drain", with = "milliseconds")]
    pub drain: Duration,
}

impl Config {
    /// Defaults for the worker `worker` of the master at `master` (`host:port`).
    pub fn new(worker: WorkerId, master: impl Into<String>) -> Config {
        Config {
            worker,
            name: None,
            master: master.into(),
            listen: default::listen(),
            advertise: None,
            web: String::new(),
            fingerprint: String::new(),
            threads: 0,
            order_wait: default::order_wait(),
            cache_bytes: default::cache_bytes(),
            max_answer_bytes: default::max_answer_bytes(),
            max_connections: default::max_connections(),
            max_requests_per_connection: default::max_requests(),
            max_outcomes_per_connection: default::max_outcomes(),
            max_orders: default::max_orders(),
            max_outgoing_bytes: default::max_outgoing_bytes(),
            write_timeout: default::patience(),
            frame_timeout: default::patience(),
            ping_interval: default::ping_interval(),
            link_timeout: default::link_timeout(),
            reconnect_delay_min: default::reconnect_min(),
            reconnect_delay_max: default::reconnect_max(),
            drain: default::drain(),
        }
    }
}

mod default {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Duration;

    /// The port of the specification (4.3.2).
    pub(super) fn listen() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 2049))
    }
    pub(super) fn order_wait() -> Duration {
        Duration::from_secs(10)
    }
    pub(super) fn cache_bytes() -> u64 {
        64 * 1024 * 1024
    }
    pub(super) fn max_answer_bytes() -> usize {
        32 * 1024 * 1024
    }
    pub(super) fn max_connections() -> usize {
        100_000
    }
    pub(super) fn max_requests() -> usize {
        256
    }
    pub(super) fn max_outcomes() -> usize {
        1_024
    }
    pub(super) fn max_orders() -> usize {
        65_536
    }
    pub(super) fn max_outgoing_bytes() -> usize {
        64 * 1024 * 1024
    }
    pub(super) fn patience() -> Duration {
        Duration::from_secs(30)
    }
    pub(super) fn ping_interval() -> Duration {
        Duration::from_secs(5)
    }
    pub(super) fn link_timeout() -> Duration {
        Duration::from_secs(15)
    }
    pub(super) fn reconnect_min() -> Duration {
        Duration::from_millis(100)
    }
    pub(super) fn reconnect_max() -> Duration {
        Duration::from_secs(5)
    }
    pub(super) fn drain() -> Duration {
        Duration::from_secs(5)
    }
}

mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

fn worker_id<'de, D: serde::Deserializer<'de>>(from: D) -> Result<WorkerId, D::Error> {
    let text = String::deserialize(from)?;
    match uuid::Uuid::parse_str(&text) {
        Ok(id) => Ok(WorkerId(id.into_bytes())),
        Err(_) => Err(serde::de::Error::custom(format!("'{text}' is not a worker's UUID"))),
    }
}
