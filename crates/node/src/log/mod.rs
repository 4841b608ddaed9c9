//! The event log (specification 3.1.4, 2.4.4, 2.3.3): message, date, time, file, function, line.
//!
//! Events go through `tracing`, so that libraries' events are in the log too. Use the macros of
//! this crate ([`error!`](crate::error), [`warn!`](crate::warn), [`info!`](crate::info),
//! [`debug!`](crate::debug)): they add the function's name.
//!
//! Entries stay in memory until it is full, then all go to the file in one write. They go earlier
//! when [`EventLog::flush`] is called, when an [`EventLog`] is dropped, and when any thread panics.
//! The log has no timer and handles no signals: the server calls `flush` every few seconds, and at
//! its end, to which SIGTERM, SIGINT, SIGHUP and SIGQUIT lead it through `tokio`. SIGKILL, an
//! abort, `std::process::exit` without a `flush`, and a crash of the machine lose what memory holds.
//!
//! Invariants: memory never holds more entries than configured; a disk that fails neither stops
//! the caller nor grows memory; an entry is one line. The write that a full memory causes is done
//! by the thread that filled it, while others that log wait.

mod entry;
mod file;
mod layer;
mod memory;

use std::io::{self, Write};
use std::panic::{self, PanicHookInfo};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub use entry::{LogEntry, MAX_TEXT, TimeOfDay};
pub use layer::EventLogLayer;
/// For the macros, so that their users need not depend on it.
#[doc(hidden)]
pub use tracing;

use entry::{Budget, now};
use file::LogFile;
use memory::Memory;

/// The `[log]` table of a server's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// The file, in a directory that exists; it is made with mode 0600. Without one, entries are
    /// only in memory (and on stderr). Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The memory size of the log: how many entries it holds before they go to the file, at least
    /// 1. Smaller asks more of the disk, larger takes more memory. Default: 1000.
    pub memory_entries: usize,
    /// What is recorded: `error`, `warn`, `info`, `debug`, `trace` or `off`, and exceptions for
    /// parts of the program, such as `info,papertrader_master=debug`. Default: `info`.
    pub level: String,
    /// The size in bytes at which the file becomes `FILE.1` and a new one begins, as a number or
    /// as text such as `"10MiB"`; 0 is never. Default: 10 MiB.
    #[serde(with = "crate::config::byte_size")]
    pub rotate_bytes: u64,
    /// How many old files stay. Default: 5.
    pub keep: usize,
    /// Whether entries are also printed to stderr, for people. Default: false.
    pub stderr: bool,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            file: None,
            memory_entries: 1000,
            level: "info".to_owned(),
            rotate_bytes: 10 << 20,
            keep: 5,
            stderr: false,
        }
    }
}

/// Why the event log could not start or be written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log file cannot be opened or written.
    #[error("the log file {path} cannot be used: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The level is not one.
    #[error(
        "log level `{level}`: {reason} (write `error`, `warn`, `info`, `debug`, `trace` or `off`, \
         or with exceptions `info,papertrader_master=debug`)"
    )]
    Level {
        /// As configured.
        level: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A memory of no entries.
    #[error("the log's memory_entries must be at least 1")]
    NoMemory,
    /// This process has an event log already.
    #[error("this process already has an event log")]
    AlreadyInstalled,
}

/// Makes the event log of this process: from here on events are recorded, and a panic in any
/// thread is recorded too and writes what memory holds to the file, before the panic hook that was
/// there does its work.
///
/// # Errors
/// See [`LogError`]; nothing is installed then. A process can have one event log.
pub fn init(config: &LogConfig) -> Result<EventLog, LogError> {
    let filter = filter(&config.level)?;
    let log = EventLog::open(config)?;
    tracing_subscriber::registry()
        .with(filter)
        .with(log.layer())
        .try_init()
        .map_err(|_| LogError::AlreadyInstalled)?;
    let shared = Arc::clone(&log.shared);
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        shared.record_panic(about_panic(info));
        previous(info);
    }));
    Ok(log)
}

/// The event log. Clones are the same log; dropping one writes what memory holds to the file.
#[derive(Debug, Clone)]
pub struct EventLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    memory: Mutex<Memory>,
    path: Option<PathBuf>,
    stderr: bool,
}

impl EventLog {
    /// A log that nothing records to until its [`layer`](EventLog::layer) is part of a subscriber.
    /// It does not apply [`LogConfig::level`]. Servers use [`init`].
    ///
    /// # Errors
    /// [`LogError::File`] if the file cannot be opened, [`LogError::NoMemory`].
    pub fn open(config: &LogConfig) -> Result<EventLog, LogError> {
        if config.memory_entries == 0 {
            return Err(LogError::NoMemory);
        }
        let open = |path: &PathBuf| {
            LogFile::open(path.clone(), config.rotate_bytes, config.keep)
                .map_err(|source| LogError::File { path: path.clone(), source })
        };
        let file = config.file.as_ref().map(open).transpose()?;
        let memory = Mutex::new(Memory::new(config.memory_entries, file));
        let (path, stderr) = (config.file.clone(), config.stderr);
        Ok(EventLog { shared: Arc::new(Shared { memory, path, stderr }) })
    }

    /// What records events to this log.
    pub fn layer(&self) -> EventLogLayer {
        EventLogLayer { log: self.clone() }
    }

    /// Records an entry that did not come through `tracing`.
    pub fn record(&self, entry: LogEntry) {
        if self.shared.stderr {
            let mut line = String::new();
            entry.write_human(&mut line);
            // Nobody may be reading; that is no reason to stop.
            let _ = io::stderr().write_all(line.as_bytes());
        }
        self.shared.lock().push(entry);
    }

    /// Writes what memory holds to the file. Does not wait for the disk itself (no fsync).
    ///
    /// # Errors
    /// [`LogError::File`]: the entries stay in memory for the next attempt. It has been told on
    /// stderr, so a caller that flushes regularly may ignore it.
    pub fn flush(&self) -> Result<(), LogError> {
        let written = self.shared.lock().write();
        let path = || self.shared.path.clone().unwrap_or_default();
        written.map_err(|source| LogError::File { path: path(), source })
    }

    /// The last `count` entries that memory holds, oldest first, whether or not they are in the
    /// file already.
    pub fn recent(&self, count: usize) -> Vec<LogEntry> {
        self.shared.lock().recent(count)
    }

    /// How many entries were lost since the start because the file could not be written.
    pub fn lost(&self) -> u64 {
        self.shared.lock().lost_in_all()
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        // A failure has been told on stderr.
        let _ = self.flush();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        // A panic while it was held leaves it usable: each step in `Memory` stands alone.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the entry of a panic and writes all that memory holds. It waits a moment for a
    /// thread that is writing, but not for ever: that may be the thread that panics. In that case
    /// the entry goes to the file by itself.
    fn record_panic(&self, entry: LogEntry) {
        const ATTEMPTS: u32 = 100;
        const PAUSE: Duration = Duration::from_millis(5);
        for _ in 0..ATTEMPTS {
            let mut memory = match self.memory.try_lock() {
                Ok(memory) => memory,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
            };
            memory.push(entry);
            // A failure has been told on stderr.
            let _ = memory.write();
            return;
        }
        if let Some(path) = &self.path {
            let mut line = String::new();
            entry.write_line(&mut line);
            let _ =
                file::open_for_append(path).and_then(|mut file| file.write_all(line.as_bytes()));
        }
    }
}

fn about_panic(info: &PanicHookInfo<'_>) -> LogEntry {
    let payload = info.payload();
    let words = payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no words)");
    let mut budget = Budget::new();
    let message = budget.take(format_args!("panic: {words}"));
    let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
    let mut fields = vec![("thread".into(), thread)];
    // Empty unless RUST_BACKTRACE asks for one.
    let trace = std::backtrace::Backtrace::capture();
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        fields.push(("backtrace".into(), budget.take(format_args!("{trace}"))));
    }
    LogEntry {
        at: now(),
        level: tracing::Level::ERROR,
        target: "panic".into(),
        file: info.location().map(|location| location.file().to_owned().into()),
        // The standard library does not tell.
        function: "panic".into(),
        line: info.location().map(|location| location.line()),
        message,
        fields,
    }
}

/// Reads a level. A word that is no level would be taken for a part of the program and silence all
/// others, so it is refused.
fn filter(level: &str) -> Result<EnvFilter, LogError> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let bad = |reason: String| LogError::Level { level: level.to_owned(), reason };
    let mut directives = level.to_owned();
    // A span's directive (`[span{field=1,other=2}]`) may hold commas of its own.
    if !level.contains('[') {
        let parts: Vec<&str> = level.split(',').map(str::trim).collect();
        for part in &parts {
            let is_level = LEVELS.iter().any(|known| known.eq_ignore_ascii_case(part));
            if !part.contains('=') && !is_level {
                return Err(bad(format!("`{part}` is not a level")));
            }
        }
        directives = parts.join(",");
    }
    let filter = EnvFilter::builder().parse(directives).map_err(|error| bad(error.to_string()))?;
    // The OpenPGP library writes what it reads into its events: whoever sends it malformed bytes
    // would fill the log.
    let silenced = "pgp=off".parse().map_err(|_| bad("pgp=off".into()))?;
    Ok(filter.add_directive(silenced))
}

/// Tells the operator what the log itself cannot.
fn complain(words: &str) {
    // Not `eprintln!`, which panics when nobody reads; but the tests' harness captures only that.
    #[cfg(not(test))]
    let _ = writeln!(io::stderr(), "papertrader: {words}");
    #[cfg(test)]
    eprintln!("papertrader: {words}");
}

/// The path of the function in which it is used.
#[macro_export]
macro_rules! function {
    () => {{
        fn here() {}
        $crate::log::function_name(::std::any::type_name_of_val(&here))
    }};
}

/// Records an event at level ERROR. The syntax is that of `tracing::error!`.
#[macro_export]
macro_rules! error {
    ($($rest:tt)*) => { $crate::log::tracing::error!(function = $crate::function!(), $($rest)*) };
}

/// Records an event at level WARN. The syntax is that of `tracing::warn!`.
#[macro_export]
macro_rules! warn {
    ($($rest:tt)*) => { $crate::log::tracing::warn!(function = $crate::function!(), $($rest)*) };
}

/// Records an event at level INFO. The syntax is that of `tracing::info!`.
#[macro_export]
macro_rules! info {
    ($($rest:tt)*) => { $crate::log::tracing::info!(function = $crate::function!(), $($rest)*) };
}

/// Records an event at level DEBUG. The syntax is that of `tracing::debug!`.
#[macro_export]
macro_rules! debug {
    ($($rest:tt)*) => { $crate::log::tracing::debug!(function = $crate::function!(), $($rest)*) };
}

/// Takes the name of a function out of the type name of a function inside it.
#[doc(hidden)]
pub fn function_name(inner: &'static str) -> &'static str {
    let mut name = inner.strip_suffix("::here").unwrap_or(inner);
    while let Some(outer) = name.strip_suffix("::{{closure}}") {
        name = outer;
    }
    name
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::entry::tests::entry;
    use super::*;

    fn config(dir: &tempfile::TempDir) -> LogConfig {
        LogConfig { file: Some(dir.path().join("log")), ..LogConfig::default() }
    }

    fn lines(config: &LogConfig) -> Vec<String> {
        let text = fs::read_to_string(config.file.as_ref().unwrap()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn dropping_the_log_or_flushing_it_writes_the_entries_once() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        let log = EventLog::open(&config).unwrap();
        log.record(entry("a"));
        assert_eq!(lines(&config).len(), 0);
        log.flush().unwrap();
        log.flush().unwrap();
        assert_eq!(lines(&config).len(), 1);
        log.record(entry("b"));
        drop(log);
        assert_eq!(lines(&config).len(), 2);
    }

    #[test]
    fn threads_that_log_at_once_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let config = LogConfig { memory_entries: 7, rotate_bytes: 0, ..config(&dir) };
        let log = EventLog::open(&config).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let log = &log;
                scope.spawn(move || {
                    for number in 0..100 {
                        log.record(entry(&format!("{thread}/{number}")));
                    }
                });
            }
        });
        drop(log);
        let mut lines = lines(&config);
        lines.sort();
        lines.dedup();
        assert_eq!(lines.len(), 400);
    }

    #[test]
    fn a_panic_while_another_holds_the_log_is_still_written() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        let log = EventLog::open(&config).unwrap();
        log.record(entry("before"));
        let held = log.shared.lock();
        log.shared.record_panic(entry("panic: held"));
        drop(held);
        drop(log);
        let lines = lines(&config);
        assert!(lines[0].ends_with(" panic: held"), "{lines:?}");
        assert!(lines[1].ends_with(" before"), "{lines:?}");
    }

    #[test]
    fn a_log_whose_holder_panicked_goes_on() {
        let log = EventLog::open(&LogConfig::default()).unwrap();
        let other = log.clone();
        let panicked = std::thread::spawn(move || {
            let _held = other.shared.lock();
            panic!("on purpose");
        });
        panicked.join().unwrap_err();
        assert!(log.shared.memory.is_poisoned());
        log.record(entry("a"));
        log.shared.record_panic(entry("b"));
        assert_eq!(log.recent(9).len(), 2);
    }

    #[test]
    fn what_cannot_work_is_refused_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing").join("log");
        let config = LogConfig { file: Some(path.clone()), ..LogConfig::default() };
        let error = EventLog::open(&config).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        let config = LogConfig { memory_entries: 0, ..LogConfig::default() };
        assert!(matches!(EventLog::open(&config), Err(LogError::NoMemory)));
    }

    #[test]
    fn a_written_configuration_reads_back() {
        let config = LogConfig { rotate_bytes: 3_000, keep: 0, ..LogConfig::default() };
        let written = figment::value::Value::serialize(&config).unwrap();
        assert_eq!(written.find_ref("rotate_bytes").unwrap().as_str(), Some("3KB"));
        assert_eq!(written.deserialize::<LogConfig>().unwrap(), config);
    }

    #[test]
    fn levels() {
        for level in ["info", "OFF", "info,papertrader_master=debug", "warn, a::b=trace"] {
            filter(level).unwrap();
        }
        for level in ["", "inffo", "info,", "info,worker", "a=loud"] {
            let error = filter(level).unwrap_err();
            assert!(error.to_string().contains(&format!("`{level}`")), "{error}");
        }
    }
}
