//! What the operator can decide about a worker. Reading files and the environment is the program's.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use papertrader_core::ids::WorkerId;
use papertrader_node::link::WorkerSide;
use papertrader_node::tls::Certificate;
use papertrader_protocol::data::is_region;

/// The configuration of a worker. `link` and `masters` have no default.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who this worker is, and by what it knows the master.
    pub link: WorkerSide,
    /// The name that clients see. Default: the name in the master's registry.
    pub name: Option<String>,
    /// Where the master is: `host:port`. Several if there are standbys: one of them is the master, and
    /// all have the same keys. See [`Config::follow`].
    pub masters: Vec<String>,
    /// Where clients are awaited. Port 0 takes any free port.
    pub listen: SocketAddr,
    /// Where clients reach this worker, `host:port`, as the list of workers says. Default: the
    /// address that it listens at.
    pub advertise: Option<String>,
    /// The web address as the list of workers says; empty without one.
    pub web: String,
    /// The region that this worker is in, as the list of workers says (see
    /// [`papertrader_protocol::data::is_region`]). Clients prefer their own. Default: none.
    pub region: Option<String>,
    /// With which certificate clients are met over TLS 1.3. `None` is plain TCP: everybody on the
    /// way can read along and take sessions, so it is a choice of the operator. Default: `None`.
    pub tls: Option<Certificate>,
    /// Threads that serve clients. 0 takes one per core.
    pub threads: usize,
    /// How long the master may take to answer anything but an order. 30 seconds.
    pub request_timeout: Duration,
    /// How long an order may wait for the master before it will not happen. 10 seconds.
    pub order_wait: Duration,
    /// Bytes of memory for answers about the past. 64 MiB.
    pub cache_bytes: u64,
    /// The longest answer that is taken from the master, in bytes. 32 MiB.
    pub max_answer_bytes: usize,
    /// Most clients at the same time; more are told `busy`, or over TLS closed at once. 100,000.
    pub max_connections: usize,
    /// Most clients from one address at the same time (of IPv6: from one /64); more are told
    /// `tooManyConnections`, or over TLS closed at once. 256.
    pub max_connections_per_address: usize,
    /// Most requests of one client in a second, over time; one second's may come at once. What
    /// comes faster is not refused but read later. 0 sets no bound. 10,000.
    pub max_requests_per_second: u32,
    /// Most requests of one client that wait for the master. 256.
    pub max_requests_per_connection: usize,
    /// Most queued orders of one client whose outcome it will be told. 1,024.
    pub max_outcomes_per_connection: usize,
    /// Most orders in the cache, of all clients. 65,536.
    pub max_orders: usize,
    /// Most bytes that wait for one client to read them; beyond, it is cut off. 32 MiB.
    pub max_outgoing_bytes: usize,
    /// Most bytes of memory for what waits for all clients together, counting what many wait for
    /// once. Beyond, nobody is read from who has not read everything himself, and who asks for
    /// more than a little is cut off. 512 MiB.
    pub max_outgoing_total: u64,
    /// Bytes that the system may hold for one client on their way; it takes up to twice as much
    /// memory for them. 0 leaves it to the system, which may take several MiB. 128 KiB.
    pub send_buffer: u32,
    /// How long a client may take none of what is sent to it. 30 seconds.
    pub write_timeout: Duration,
    /// How long a client may take to finish a message (or a record of TLS) that it began.
    /// 10 seconds.
    pub frame_timeout: Duration,
    /// How long a client may take for the handshake of TLS, in all. 10 seconds.
    pub handshake_timeout: Duration,
    /// How long a client may use no valid session, whatever else it says; then it is told `idle`
    /// and closed. 60 seconds.
    pub idle_timeout: Duration,
    /// How often the master is told how this worker is, and asked whether it is there. 5 seconds.
    pub ping_interval: Duration,
    /// After how long without a word from the master the link counts as lost. 15 seconds.
    pub link_timeout: Duration,
    /// How long to wait before the first try to reach the master again; each further try waits
    /// twice as long. 100 ms.
    pub reconnect_delay_min: Duration,
    /// The longest such wait: what clients lose when the master is back, beside its start. To knock at
    /// a port that is closed costs nobody much. 500 ms.
    pub reconnect_delay_max: Duration,
    /// How long to wait after a refusal, where somebody must do something first. 5 seconds.
    pub refused_delay: Duration,
    /// How long the end of the worker waits for answers that are on their way. 5 seconds.
    pub drain: Duration,
}

impl Config {
    /// Defaults for a worker of the master at `master` (`host:port`).
    pub fn new(link: WorkerSide, master: impl Into<String>) -> Config {
        Config {
            link,
            name: None,
            masters: vec![master.into()],
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 2049)),
            advertise: None,
            web: String::new(),
            region: None,
            tls: None,
            threads: 0,
            request_timeout: Duration::from_secs(30),
            order_wait: Duration::from_secs(10),
            cache_bytes: 64 * 1024 * 1024,
            max_answer_bytes: 32 * 1024 * 1024,
            max_connections: 100_000,
            max_connections_per_address: 256,
            max_requests_per_second: 10_000,
            max_requests_per_connection: 256,
            max_outcomes_per_connection: 1_024,
            max_orders: 65_536,
            max_outgoing_bytes: 32 * 1024 * 1024,
            max_outgoing_total: 512 * 1024 * 1024,
            send_buffer: 128 * 1024,
            write_timeout: Duration::from_secs(30),
            frame_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_secs(5),
            link_timeout: Duration::from_secs(15),
            reconnect_delay_min: Duration::from_millis(100),
            reconnect_delay_max: Duration::from_millis(500),
            refused_delay: Duration::from_secs(5),
            drain: Duration::from_secs(5),
        }
    }
}

/// With several masters: how often the one is asked, and after how long another is looked for. A
/// standby takes over within about 8 seconds.
const FOLLOWING: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(6));

/// A configuration that cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value is zero that must not be.
    #[error("the worker's {0} must be above zero")]
    Zero(&'static str),
    /// There is nobody to connect to.
    #[error("the worker needs the address of a master")]
    NoMaster,
    /// Something that no master would take.
    #[error("the worker's region must be 1 to 32 letters, digits, '-', '_' and '.'")]
    Region,
    /// Every link would count as lost before the master could answer a ping.
    #[error("the worker's link_timeout must be longer than its ping_interval")]
    LinkTimeout,
    /// Whoever asks for the longest answer would be cut off.
    #[error("the worker's max_outgoing_bytes must be at least its max_answer_bytes")]
    OutgoingBytes,
    /// One client could use up what is for all.
    #[error("the worker's max_outgoing_total must be at least its max_outgoing_bytes")]
    OutgoingTotal,
}

impl Config {
    /// The masters to choose from. If there are several, a silent one is given up sooner.
    pub fn follow(&mut self, masters: Vec<String>) {
        if masters.len() > 1 {
            (self.ping_interval, self.link_timeout) = FOLLOWING;
        }
        self.masters = masters;
    }

    /// The UUID under which the master knows this worker.
    pub(crate) fn worker(&self) -> WorkerId {
        self.link.worker
    }

    /// The fingerprint of the certificate, as the list of workers says it; empty without TLS.
    pub fn fingerprint(&self) -> String {
        self.tls.as_ref().map_or_else(String::new, |tls| tls.fingerprint().to_string())
    }

    /// Whether the values fit together.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let above_zero = [
            ("ping_interval", !self.ping_interval.is_zero()),
            ("reconnect_delay_min", !self.reconnect_delay_min.is_zero()),
            ("reconnect_delay_max", !self.reconnect_delay_max.is_zero()),
            ("refused_delay", !self.refused_delay.is_zero()),
            ("max_connections", self.max_connections > 0),
            ("max_connections_per_address", self.max_connections_per_address > 0),
            ("write_timeout", !self.write_timeout.is_zero()),
            ("frame_timeout", !self.frame_timeout.is_zero()),
            ("handshake_timeout", !self.handshake_timeout.is_zero()),
            ("idle_timeout", !self.idle_timeout.is_zero()),
            ("max_requests_per_connection", self.max_requests_per_connection > 0),
        ];
        if let Some((name, _)) = above_zero.into_iter().find(|(_, good)| !good) {
            return Err(ConfigError::Zero(name));
        }
        if self.masters.is_empty() {
            return Err(ConfigError::NoMaster);
        }
        if self.region.as_deref().is_some_and(|region| !is_region(region)) {
            return Err(ConfigError::Region);
        }
        if self.link_timeout <= self.ping_interval {
            return Err(ConfigError::LinkTimeout);
        }
        if self.max_outgoing_bytes < self.max_answer_bytes {
            return Err(ConfigError::OutgoingBytes);
        }
        if self.max_outgoing_total < self.max_outgoing_bytes as u64 {
            return Err(ConfigError::OutgoingTotal);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use papertrader_core::time::WallTime;
    use papertrader_node::link::MasterKey;
    use papertrader_node::openpgp::Identity;
    use papertrader_protocol::Fingerprint;

    use super::*;

    fn side() -> WorkerSide {
        let identity = Identity::generate("worker", WallTime(0)).unwrap();
        WorkerSide {
            worker: WorkerId([1; 16]),
            identity: Arc::new(identity),
            master: Fingerprint([0; 32]),
            master_key: Arc::new(MasterKey::first_seen("nowhere".into())),
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let good = Config::new(side(), "a:1");
        assert_eq!(good.check(), Ok(()));
        let lonely = Config { masters: vec![], ..good.clone() };
        assert_eq!(lonely.check(), Err(ConfigError::NoMaster));
        let nowhere = Config { region: Some("no where".into()), ..good.clone() };
        assert_eq!(nowhere.check(), Err(ConfigError::Region));
        let mut following = good.clone();
        following.follow(vec!["a:1".into(), "b:1".into()]);
        assert_eq!(following.check(), Ok(()));
        let still = Config { ping_interval: Duration::ZERO, ..good.clone() };
        assert_eq!(still.check(), Err(ConfigError::Zero("ping_interval")));
        let hasty = Config { link_timeout: good.ping_interval, ..good.clone() };
        assert_eq!(hasty.check(), Err(ConfigError::LinkTimeout));
        let long = Config { max_answer_bytes: good.max_outgoing_bytes + 1, ..good.clone() };
        assert_eq!(long.check(), Err(ConfigError::OutgoingBytes));
        let little = good.max_outgoing_bytes as u64 - 1;
        let greedy = Config { max_outgoing_total: little, ..good };
        assert_eq!(greedy.check(), Err(ConfigError::OutgoingTotal));
    }
}
