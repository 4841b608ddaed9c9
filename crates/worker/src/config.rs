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
    /// How long the master may take to answer anything but an order. 30 seconds.
    #[serde(rename = "request_timeout_ms", default = "default::patience", with = "milliseconds")]
    pub request_timeout: Duration,
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
            request_timeout: default::patience(),
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

/// A configuration that cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value is zero that must not be.
    #[error("the worker's {0} must be above zero")]
    Zero(&'static str),
    /// Every link would count as lost before the master could answer a ping.
    #[error("the worker's link_timeout_ms must be longer than its ping_interval_ms")]
    LinkTimeout,
}

impl Config {
    /// Whether the values fit together.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let above_zero = [
            ("ping_interval_ms", !self.ping_interval.is_zero()),
            ("reconnect_delay_min_ms", !self.reconnect_delay_min.is_zero()),
            ("reconnect_delay_max_ms", !self.reconnect_delay_max.is_zero()),
            ("max_connections", self.max_connections > 0),
            ("max_requests_per_connection", self.max_requests_per_connection > 0),
        ];
        if let Some((name, _)) = above_zero.into_iter().find(|(_, good)| !good) {
            return Err(ConfigError::Zero(name));
        }
        if self.link_timeout <= self.ping_interval {
            return Err(ConfigError::LinkTimeout);
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        use serde::de::value::{Error, MapDeserializer};
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Config::deserialize(MapDeserializer::<_, Error>::new(pairs)).map_err(|e| e.to_string())
    }

    const ID: &str = "00112233-4455-6677-8899-aabbccddeeff";

    #[test]
    fn what_is_not_said_has_a_default_and_what_is_unknown_is_named() {
        let config = parse(&format!("worker={ID}\nmaster=example.org:2048")).unwrap();
        assert_eq!(config.worker.to_string(), ID);
        assert_eq!(config.listen.port(), 2049);
        assert_eq!(config.order_wait, Duration::from_secs(10));
        let error = parse(&format!("worker={ID}\nmaster=a:1\ncolour=red")).unwrap_err();
        assert!(error.contains("colour"), "{error}");
        let error = parse("worker=seven\nmaster=a:1").unwrap_err();
        assert!(error.contains("'seven'"), "{error}");
        assert!(parse("master=a:1").unwrap_err().contains("worker"));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let good = Config::new(WorkerId([1; 16]), "a:1");
        assert_eq!(good.check(), Ok(()));
        let still = Config { ping_interval: Duration::ZERO, ..good.clone() };
        assert_eq!(still.check(), Err(ConfigError::Zero("ping_interval_ms")));
        let hasty = Config { link_timeout: good.ping_interval, ..good };
        assert_eq!(hasty.check(), Err(ConfigError::LinkTimeout));
    }
}
