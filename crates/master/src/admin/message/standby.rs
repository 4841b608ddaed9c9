//! What the operator is told by a master that waits.
//!
//! Invariant: a field of which nothing is known any more is `null`, not old.

use serde::{Deserialize, Serialize};

use super::Stamp;

/// How a master is that waits for another's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyStatus {
    /// Its software version.
    pub version: String,
    /// Always `standby`.
    pub role: String,
    /// When it was started.
    pub started: Stamp,
    /// How long ago that is.
    pub uptime_seconds: i64,
    /// Where the active master runs; `None` if the database does not say, or cannot be asked.
    pub active: Option<String>,
    /// How long ago the active master last said that it lives, by the database's clock.
    pub renewed_ms_ago: Option<u64>,
    /// Why the database cannot be asked, if it cannot.
    pub problem: Option<String>,
}
