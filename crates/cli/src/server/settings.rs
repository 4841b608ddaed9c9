//! The configuration files of the servers: every key, its default, and what it becomes.
//!
//! `templates/master.toml` and `templates/worker.toml` say the same to people; a test holds them
//! to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use papertrader_core::books::Rules;
use papertrader_core::ids::WorkerId;
use papertrader_core::money::{Cash, MAX_CASH};
use papertrader_core::time::Date;
use papertrader_market::{PriceSource, Replay, ReplayConfig, Synthetic, SyntheticConfig};
use papertrader_master::PortLimits;
use papertrader_master::limits::{Backoff, Limits, Rate};
use papertrader_node::config::{ByteSize, HumanDuration, load};
use papertrader_node::link::{MasterKey, MasterSide, WorkerSide};
use papertrader_node::log::LogConfig;
use papertrader_node::tls;
use papertrader_store::lease::LEASE;
use papertrader_store::postgres::{PostgresStore, Standby};
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{Location, Store};
use serde::Deserialize;

use super::ServerError;
use super::identity::{OpenPgpSettings, TlsSettings, public_key};

/// The file with the books in a data directory.
const BOOKS: &str = "papertrader.db";

/// `master.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct MasterSettings {
    pub(super) listen: SocketAddr,
    pub(super) data: PathBuf,
    pub(super) database: DatabaseUrl,
    pub(super) standby: bool,
    pub(super) interval: HumanDuration,
    pub(super) starting_cash: String,
    pub(super) session_lifetime: HumanDuration,
    pub(super) session_idle: HumanDuration,
    pub(super) session_grace: HumanDuration,
    pub(super) sessions_per_account: usize,
    pub(super) password_threads: usize,
    pub(super) trading: TradingSettings,
    pub(super) prices: PriceSettings,
    pub(super) limits: MasterLimits,
    pub(super) port: PortSettings,
    pub(super) openpgp: OpenPgpSettings,
    pub(super) tls: TlsSettings,
    pub(super) log: LogConfig,
}

/// Where the books are kept: nothing for a file in the data directory. It may hold a password and
/// never prints itself.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct DatabaseUrl(String);

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseUrl(hidden)")
    }
}

impl DatabaseUrl {
    /// Opens the database. A new one gets the deployment ID `deployment`.
    pub(super) fn open(
        &self,
        data: &Path,
        deployment: &str,
    ) -> Result<Box<dyn Store>, ServerError> {
        if self.0.is_empty() {
            let store = SqliteStore::open(&data.join(BOOKS), deployment)?;
            return Ok(Box::new(store));
        }
        Ok(Box::new(PostgresStore::open(self.postgres()?, deployment)?))
    }

    /// What waits for the database. A new one gets the deployment ID `deployment`.
    pub(super) fn standby(&self, deployment: &str) -> Result<Standby, ServerError> {
        if self.0.is_empty() {
            let problem = "needs the books in PostgreSQL, which two machines can reach: set \
                           `database`, or leave `standby` out"
                .into();
            return Err(ServerError::Value { key: "standby", problem });
        }
        Ok(Standby::new(self.postgres()?, deployment, LEASE)?)
    }

    fn postgres(&self) -> Result<&str, ServerError> {
        if ["postgresql://", "postgres://"].iter().any(|scheme| self.0.starts_with(scheme)) {
            return Ok(&self.0);
        }
        // It may be a password at the wrong place: it is not repeated.
        let problem = "begins with postgresql://, or is left out for a file".into();
        Err(ServerError::Value { key: "database", problem })
    }

    /// Where the books are, opened or not.
    fn location(&self, data: &Path) -> Result<Location, ServerError> {
        if self.0.is_empty() {
            return Ok(Location::file(&data.join(BOOKS)));
        }
        Ok(Location::server(self.postgres()?)?)
    }
}

/// What a master's configuration says of its books.
#[derive(Debug)]
pub(crate) struct Configured {
    /// The data directory.
    pub(crate) data: PathBuf,
    /// Where the books are.
    pub(crate) location: Location,
    /// They are not in the data directory.
    pub(crate) is_server: bool,
    /// The master makes its keys in the data directory.
    pub(crate) own_keys: bool,
}

impl Configured {
    /// Reads a `master.toml`.
    pub(crate) fn read(file: &Path) -> Result<Configured, ServerError> {
        let settings: MasterSettings = load(Some(file), "PAPERTRADER_MASTER_", ())?;
        let data = settings.data(super::run::directory_of(file));
        Ok(Configured {
            location: settings.database.location(&data)?,
            is_server: !settings.database.0.is_empty(),
            own_keys: settings.openpgp.key.is_none() && settings.tls.key.is_none(),
            data,
        })
    }

    /// Where the books are, in words without a password.
    pub(crate) fn place(&self) -> String {
        match self.is_server {
            true => "postgresql".to_owned(),
            false => self.data.join(BOOKS).display().to_string(),
        }
    }
}

/// `[trading]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TradingSettings {
    pub(super) max_open_orders: u32,
    pub(super) max_price_age: HumanDuration,
    pub(super) expire_after_days: u32,
    pub(super) clamp_window: HumanDuration,
}

/// `[prices]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PriceSettings {
    pub(super) source: Source,
    pub(super) start: String,
    pub(super) step: HumanDuration,
    pub(super) seed: u64,
    pub(super) instruments: usize,
}

/// `[limits]` of the master: wrong passwords, registrations, orders, and what may wait.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct MasterLimits {
    login_name_and_address: BackoffSettings,
    login_address: BackoffSettings,
    login_name: BackoffSettings,
    login_worker: RateSettings,
    register_address: RateSettings,
    register_worker: RateSettings,
    orders_account: RateSettings,
    password_queue: usize,
    command_queue: usize,
}

/// `[port]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PortSettings {
    expected: usize,
    expected_per_address: usize,
    strangers: usize,
    strangers_per_address: usize,
    silence: HumanDuration,
    stay: HumanDuration,
}

/// So many failures without a delay, then a growing one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackoffSettings {
    free: u32,
    first: HumanDuration,
    longest: HumanDuration,
    forget: HumanDuration,
}

/// So many at once, then one after each interval.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateSettings {
    burst: u32,
    every: HumanDuration,
}

impl From<Backoff> for BackoffSettings {
    fn from(backoff: Backoff) -> BackoffSettings {
        let Backoff { free, first, longest, forget } = backoff;
        let [first, longest, forget] = [first, longest, forget].map(HumanDuration::from);
        BackoffSettings { free, first, longest, forget }
    }
}

impl BackoffSettings {
    fn backoff(&self) -> Backoff {
        Backoff {
            free: self.free,
            first: self.first.duration(),
            longest: self.longest.duration(),
            forget: self.forget.duration(),
        }
    }
}

impl From<Rate> for RateSettings {
    fn from(rate: Rate) -> RateSettings {
        RateSettings { burst: rate.burst, every: rate.every.into() }
    }
}

impl RateSettings {
    fn rate(&self) -> Rate {
        Rate { burst: self.burst, every: self.every.duration() }
    }
}

impl Default for MasterLimits {
    fn default() -> MasterLimits {
        let config = papertrader_master::Config::default();
        let limits = config.limits;
        MasterLimits {
            login_name_and_address: limits.login_name_and_address.into(),
            login_address: limits.login_address.into(),
            login_name: limits.login_name.into(),
            login_worker: limits.login_worker.into(),
            register_address: limits.register_address.into(),
            register_worker: limits.register_worker.into(),
            orders_account: limits.orders_account.into(),
            password_queue: config.password_queue,
            command_queue: config.command_queue,
        }
    }
}

impl MasterLimits {
    fn limits(&self) -> Limits {
        Limits {
            login_name_and_address: self.login_name_and_address.backoff(),
            login_address: self.login_address.backoff(),
            login_name: self.login_name.backoff(),
            login_worker: self.login_worker.rate(),
            register_address: self.register_address.rate(),
            register_worker: self.register_worker.rate(),
            orders_account: self.orders_account.rate(),
            ..Limits::default()
        }
    }
}

impl Default for PortSettings {
    fn default() -> PortSettings {
        let limits = PortLimits::default();
        PortSettings {
            expected: limits.expected,
            expected_per_address: limits.expected_per_address,
            strangers: limits.strangers,
            strangers_per_address: limits.strangers_per_address,
            silence: limits.silence.into(),
            stay: limits.stay.into(),
        }
    }
}

impl PortSettings {
    fn limits(&self) -> PortLimits {
        PortLimits {
            expected: self.expected,
            expected_per_address: self.expected_per_address,
            strangers: self.strangers,
            strangers_per_address: self.strangers_per_address,
            silence: self.silence.duration(),
            stay: self.stay.duration(),
        }
    }
}

/// Where prices come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// Recorded prices of 2000 to 2013
    Replay,
    /// Made-up instruments
    Synthetic,
}

impl Default for MasterSettings {
    fn default() -> MasterSettings {
        let config = papertrader_master::Config::default();
        MasterSettings {
            listen: SocketAddr::from(([0, 0, 0, 0], 2048)),
            data: "data".into(),
            database: DatabaseUrl::default(),
            standby: false,
            interval: HumanDuration::from_secs(5),
            starting_cash: config.starting_cash.to_string(),
            session_lifetime: HumanDuration::from_secs(config.session_lifetime.as_secs()),
            session_idle: HumanDuration::from_secs(config.session_idle.as_secs()),
            session_grace: HumanDuration::from_secs(config.session_grace.as_secs()),
            sessions_per_account: config.sessions_per_account,
            password_threads: config.password_threads,
            trading: TradingSettings::default(),
            prices: PriceSettings::default(),
            limits: MasterLimits::default(),
            port: PortSettings::default(),
            openpgp: OpenPgpSettings::default(),
            tls: TlsSettings::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for TradingSettings {
    fn default() -> TradingSettings {
        let rules = Rules::default();
        let clamp_window = papertrader_master::Config::default().clamp_window;
        TradingSettings {
            max_open_orders: rules.max_open_orders,
            max_price_age: HumanDuration::from_secs(900),
            expire_after_days: rules.expire_after_days,
            clamp_window: HumanDuration::from_secs(clamp_window.as_secs()),
        }
    }
}

impl Default for PriceSettings {
    fn default() -> PriceSettings {
        PriceSettings {
            source: Source::Replay,
            start: ReplayConfig::default().start.to_string(),
            step: HumanDuration::from_secs(1_800),
            seed: 0,
            instruments: 100,
        }
    }
}

impl MasterSettings {
    /// Where everything is kept. A relative path begins where the configuration stands.
    pub(super) fn data(&self, base: &Path) -> PathBuf {
        base.join(&self.data)
    }

    /// The master's keys; those that are not configured are in its data directory, and are made
    /// there.
    pub(super) fn side(&self, base: &Path) -> Result<MasterSide, ServerError> {
        let data = self.data(base);
        let protocols = [tls::CLIENT_PROTOCOL, tls::LINK_PROTOCOL];
        let certificate = self.tls.certificate(base, &data, &protocols)?;
        let identity = self.openpgp.identity(base, &data, "papertrader master")?;
        Ok(MasterSide::new(certificate, identity))
    }

    /// What the master is started with.
    pub(super) fn config(&self) -> Result<papertrader_master::Config, ServerError> {
        let bad = |key, problem: String| ServerError::Value { key, problem };
        let starting_cash: Cash =
            self.starting_cash.parse().map_err(|error| bad("starting_cash", format!("{error}")))?;
        if starting_cash > MAX_CASH || starting_cash == Cash::ZERO {
            return Err(bad("starting_cash", "must be above zero".into()));
        }
        if self.interval.as_millis() == 0 {
            return Err(bad("interval", "must be above zero".into()));
        }
        // With these at zero nobody could connect, or nothing could be done.
        for (key, number) in [
            ("limits.password_queue", self.limits.password_queue as u64),
            ("limits.command_queue", self.limits.command_queue as u64),
            ("port.expected", self.port.expected as u64),
            ("port.expected_per_address", self.port.expected_per_address as u64),
            ("port.silence", self.port.silence.as_millis()),
        ] {
            if number == 0 {
                return Err(bad(key, "must be above zero".into()));
            }
        }
        Ok(papertrader_master::Config {
            starting_cash,
            rules: Rules {
                max_open_orders: self.trading.max_open_orders,
                max_price_age: nanos(self.trading.max_price_age),
                expire_after_days: self.trading.expire_after_days,
            },
            clamp_window: self.trading.clamp_window.duration(),
            session_lifetime: self.session_lifetime.duration(),
            session_idle: self.session_idle.duration(),
            session_grace: self.session_grace.duration(),
            sessions_per_account: self.sessions_per_account,
            limits: self.limits.limits(),
            password_queue: self.limits.password_queue,
            command_queue: self.limits.command_queue,
            port: self.port.limits(),
            password_threads: self.password_threads,
            ..papertrader_master::Config::default()
        })
    }
}

impl PriceSettings {
    /// The source that these settings describe.
    pub(super) fn source(&self) -> Result<Arc<dyn PriceSource>, ServerError> {
        let bad =
            |problem: &str| ServerError::Value { key: "prices.start", problem: problem.into() };
        let start = Date::parse(&self.start).ok_or_else(|| bad("is not a date (YYYY-MM-DD)"))?;
        let step = nanos(self.step);
        let seed = self.seed;
        Ok(match self.source {
            Source::Replay => Arc::new(Replay::bundled(ReplayConfig { start, step, seed })?),
            Source::Synthetic => {
                let instruments = self.instruments;
                Arc::new(Synthetic::new(SyntheticConfig { instruments, seed, start, step })?)
            }
        })
    }
}

/// Where a worker keeps the master's OpenPGP key.
pub(super) const MASTER_KEY: &str = "master-key.asc";

/// `worker.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkerSettings {
    pub(super) master: Masters,
    master_certificate: String,
    #[serde(default)]
    master_key: Option<PathBuf>,
    uuid: String,
    #[serde(default = "default_worker_listen")]
    pub(super) listen: SocketAddr,
    #[serde(default)]
    advertise: Option<String>,
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    threads: usize,
    #[serde(default = "default_order_wait")]
    order_wait: HumanDuration,
    #[serde(default = "default_cache")]
    cache: ByteSize,
    #[serde(default = "default_max_clients")]
    max_clients: usize,
    #[serde(default)]
    plain: bool,
    #[serde(default)]
    limits: ClientLimits,
    #[serde(default)]
    openpgp: OpenPgpSettings,
    #[serde(default)]
    tls: TlsSettings,
    #[serde(default)]
    pub(super) log: LogConfig,
}

/// Where the master is: an address, or a list of them when there are standbys.
#[derive(Debug)]
pub(super) struct Masters(Vec<String>);

impl std::fmt::Display for Masters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(" or "))
    }
}

impl<'de> Deserialize<'de> for Masters {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Masters, D::Error> {
        struct OneOrMore;
        impl<'de> serde::de::Visitor<'de> for OneOrMore {
            type Value = Masters;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"HOST:PORT\", or a list of such addresses")
            }
            fn visit_str<E>(self, text: &str) -> Result<Masters, E> {
                Ok(Masters(vec![text.to_owned()]))
            }
            fn visit_seq<A>(self, mut list: A) -> Result<Masters, A::Error>
            where
                A: serde::de::SeqAccess<'de>,
            {
                let mut masters = Vec::new();
                while let Some(master) = list.next_element()? {
                    masters.push(master);
                }
                if masters.is_empty() {
                    return Err(serde::de::Error::invalid_length(0, &self));
                }
                Ok(Masters(masters))
            }
        }
        deserializer.deserialize_any(OneOrMore)
    }
}

/// `[limits]` of a worker: what one client, one address, and all clients together may take.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ClientLimits {
    clients_per_address: usize,
    requests_per_second: u32,
    orders: usize,
    outcomes_per_client: usize,
    outgoing_per_client: ByteSize,
    outgoing_total: ByteSize,
    handshake_timeout: HumanDuration,
    frame_timeout: HumanDuration,
    write_timeout: HumanDuration,
    idle_timeout: HumanDuration,
}

impl Default for ClientLimits {
    fn default() -> ClientLimits {
        ClientLimits {
            clients_per_address: 256,
            requests_per_second: 10_000,
            orders: 65_536,
            outcomes_per_client: 1_024,
            outgoing_per_client: ByteSize(32 << 20),
            outgoing_total: ByteSize(512 << 20),
            handshake_timeout: HumanDuration::from_secs(10),
            frame_timeout: HumanDuration::from_secs(10),
            write_timeout: HumanDuration::from_secs(30),
            idle_timeout: HumanDuration::from_secs(60),
        }
    }
}

impl ClientLimits {
    fn apply(&self, config: &mut papertrader_worker::Config) {
        config.max_connections_per_address = self.clients_per_address;
        config.max_requests_per_second = self.requests_per_second;
        config.max_orders = self.orders;
        config.max_outcomes_per_connection = self.outcomes_per_client;
        config.max_outgoing_bytes =
            usize::try_from(self.outgoing_per_client.bytes()).unwrap_or(usize::MAX);
        config.max_outgoing_total = self.outgoing_total.bytes();
        config.handshake_timeout = self.handshake_timeout.duration();
        config.frame_timeout = self.frame_timeout.duration();
        config.write_timeout = self.write_timeout.duration();
        config.idle_timeout = self.idle_timeout.duration();
    }
}

fn default_worker_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 2049))
}

fn default_order_wait() -> HumanDuration {
    HumanDuration::from_secs(10)
}

fn default_cache() -> ByteSize {
    ByteSize(64 << 20)
}

fn default_max_clients() -> usize {
    15_000
}

impl WorkerSettings {
    /// What the worker is started with. `home` is where its configuration stands: keys that are
    /// not there are made there.
    pub(super) fn config(&self, home: &Path) -> Result<papertrader_worker::Config, ServerError> {
        let bad = |key, problem: String| ServerError::Value { key, problem };
        let worker = worker_id(&self.uuid)
            .ok_or_else(|| bad("uuid", format!("'{}' is not a UUID", self.uuid)))?;
        let master = self.master_certificate.parse().map_err(|error| {
            let hint = "`papertrader admin status` on the master's machine says it";
            bad("master_certificate", format!("is wrong: {error}; {hint}"))
        })?;
        // One that the operator names must be there; the usual one is made at the first link.
        let usual = home.join(MASTER_KEY);
        let master_key = match &self.master_key {
            Some(file) => MasterKey::known(public_key(&home.join(file))?),
            None if usual.exists() => MasterKey::known(public_key(&usual)?),
            None => MasterKey::first_seen(usual),
        };
        let identity = self.openpgp.identity(home, home, &worker_user_id(&self.uuid))?;
        let link = WorkerSide { worker, identity, master, master_key: Arc::new(master_key) };
        let mut config = papertrader_worker::Config::new(link, "");
        config.follow(self.master.0.clone());
        config.listen = self.listen;
        config.advertise.clone_from(&self.advertise);
        // A variable that is set to nothing names none.
        config.region = self.region.clone().filter(|region| !region.is_empty());
        config.threads = self.threads;
        config.order_wait = self.order_wait.duration();
        config.cache_bytes = self.cache.bytes();
        config.max_connections = self.max_clients;
        self.limits.apply(&mut config);
        if !self.plain {
            config.tls = Some(self.tls.certificate(home, home, &[tls::CLIENT_PROTOCOL])?);
        }
        Ok(config)
    }
}

/// What a worker's key is called.
pub(super) fn worker_user_id(uuid: &str) -> String {
    format!("papertrader worker {uuid}")
}

/// A TOML string.
pub(super) fn toml_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Makes a directory that is its owner's alone, if it is not there.
pub(super) fn make_private_dir(dir: &Path) -> Result<(), ServerError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| ServerError::Write { path: dir.display().to_string(), error })
}

fn worker_id(text: &str) -> Option<WorkerId> {
    Some(WorkerId(uuid::Uuid::parse_str(text).ok()?.into_bytes()))
}

fn nanos(duration: HumanDuration) -> i64 {
    i64::try_from(duration.duration().as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_worker_has_one_master_or_a_list() {
        let masters = |value: &str| {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("worker.toml");
            let text = format!("master = {value}\nmaster_certificate = \"\"\nuuid = \"\"\n");
            std::fs::write(&file, text).unwrap();
            let loaded = papertrader_node::config::load(Some(&file), "PAPERTRADER_TEST_NONE_", ());
            loaded.map(|it: WorkerSettings| it.master.0).map_err(|error| error.to_string())
        };
        assert_eq!(masters("\"a:1\"").unwrap(), ["a:1"]);
        assert_eq!(masters("[\"a:1\", \"b:1\"]").unwrap(), ["a:1", "b:1"]);
        for wrong in ["[]", "1", "[1]"] {
            let said = masters(wrong).unwrap_err();
            assert!(said.contains("master"), "{said}");
            println!("{said}");
        }
    }

    #[test]
    fn a_standby_is_for_a_database_that_two_can_reach() {
        let refused = DatabaseUrl(String::new()).standby("one").unwrap_err().to_string();
        assert!(refused.contains("standby needs the books in PostgreSQL"), "{refused}");
        let refused = DatabaseUrl("hunter2".into()).standby("one").unwrap_err().to_string();
        assert!(refused.contains("postgresql://") && !refused.contains("hunter2"), "{refused}");
        DatabaseUrl("postgresql://me@db/books".into()).standby("one").unwrap();
    }

    #[test]
    fn a_bound_that_would_keep_everybody_out_is_refused_by_name() {
        let refused = |change: fn(&mut MasterSettings)| {
            let mut settings = MasterSettings::default();
            change(&mut settings);
            settings.config().unwrap_err().to_string()
        };
        assert!(refused(|s| s.port.expected = 0).contains("port.expected must"));
        assert!(refused(|s| s.port.silence = HumanDuration::from_secs(0)).contains("port.silence"));
        assert!(refused(|s| s.limits.command_queue = 0).contains("limits.command_queue"));
        // No strangers, and no limit on orders, are choices.
        let mut settings = MasterSettings::default();
        settings.port.strangers = 0;
        settings.limits.orders_account = Rate { burst: 1, every: Duration::ZERO }.into();
        let config = settings.config().unwrap();
        assert_eq!(config.port, PortLimits { strangers: 0, ..PortLimits::default() });
        assert_eq!(config.limits.orders_account.every, Duration::ZERO);
    }
}
