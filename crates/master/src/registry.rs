//! The registry of workers (specification 2.4.5): who may have a link.
//!
//! It mirrors the table `worker` of the store: the driver changes it after the commit. The tasks
//! of the port look workers up in a copy that is always the latest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use papertrader_core::ids::WorkerId;
use papertrader_core::time::WallTime;
use papertrader_node::link::{Network, Registered};
use papertrader_node::openpgp::Certificate;
use papertrader_node::warn;
use papertrader_store::WorkerRow;

/// A row that does not mean anything.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadRow {
    /// Its addresses cannot be read.
    #[error("{0}")]
    Network(#[from] papertrader_node::link::NotANetwork),
    /// Its key cannot be read.
    #[error("{0}")]
    Key(String),
}

/// Every registered worker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry {
    workers: BTreeMap<WorkerId, Entry>,
    /// Fingerprints of keys that are in wrong hands, whatever became of their workers.
    stolen: BTreeSet<String>,
}

#[derive(Debug, Clone)]
struct Entry {
    row: WorkerRow,
    registered: Registered,
}

impl Registry {
    /// From what is stored. A worker that cannot be read is kept, but may not connect.
    pub(crate) fn new(rows: Vec<WorkerRow>, stolen_keys: Vec<String>) -> Registry {
        let stolen = stolen_keys.into_iter().collect();
        let mut registry = Registry { workers: BTreeMap::new(), stolen };
        for row in rows {
            let (id, name) = (row.id, row.name.clone());
            if let Err(error) = registry.put(row.clone()) {
                warn!(worker = %name, %error, "a registered worker cannot be read: add it again");
                let registered =
                    Registered { id, name, allowed: Vec::new(), key: None, booted: None };
                registry.workers.insert(id, Entry { row, registered });
            }
        }
        registry
    }

    /// Adds or replaces a worker. The key of a compromised one is stolen from now on.
    pub(crate) fn put(&mut self, row: WorkerRow) -> Result<(), BadRow> {
        let registered = registered(&row)?;
        self.stolen.extend(stolen_key(&row));
        self.workers.insert(row.id, Entry { row, registered });
        Ok(())
    }

    /// Whether the key with this fingerprint is in wrong hands.
    pub(crate) fn is_stolen(&self, fingerprint: &str) -> bool {
        self.stolen.contains(fingerprint)
    }

    /// Takes a worker out.
    pub(crate) fn remove(&mut self, id: WorkerId) {
        self.workers.remove(&id);
    }

    /// A worker as the link judges it.
    pub(crate) fn find(&self, id: WorkerId) -> Option<Registered> {
        self.workers.get(&id).map(|entry| entry.registered.clone())
    }

    /// A worker's key, if it has one that can be read.
    pub(crate) fn key(&self, id: WorkerId) -> Option<&Certificate> {
        self.workers.get(&id)?.registered.key.as_deref()
    }

    /// A worker as it is stored.
    pub(crate) fn row(&self, id: WorkerId) -> Option<&WorkerRow> {
        self.workers.get(&id).map(|entry| &entry.row)
    }

    /// A worker as it is stored, by its name.
    pub(crate) fn by_name(&self, name: &str) -> Option<&WorkerRow> {
        self.rows().find(|row| row.name == name)
    }

    /// All workers as they are stored, in the order of their UUIDs.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &WorkerRow> {
        self.workers.values().map(|entry| &entry.row)
    }

    /// Whether any worker may come from this address now: strangers get fewer places. Who may not
    /// connect is a stranger.
    pub(crate) fn expects(&self, address: std::net::IpAddr, now: WallTime) -> bool {
        let is_booted = |w: &Registered| w.booted.is_some_and(|b| b.is_none_or(|end| now < end));
        let may_connect = |w: &Registered| w.key.is_some() && !is_booted(w);
        let mut workers = self.workers.values().map(|entry| &entry.registered);
        workers.any(|w| may_connect(w) && w.allowed.iter().any(|n| n.contains(address)))
    }
}

/// The fingerprint of a compromised worker's key.
pub(crate) fn stolen_key(row: &WorkerRow) -> Option<String> {
    let key = row.key.as_deref().filter(|_| row.booted.is_some_and(|boot| boot.compromised))?;
    Some(Certificate::parse(key).ok()?.fingerprint().to_string())
}

/// What a row means.
pub(crate) fn registered(row: &WorkerRow) -> Result<Registered, BadRow> {
    let allowed = row.allowed.split(',').map(str::trim).filter(|text| !text.is_empty());
    let allowed = allowed.map(str::parse::<Network>).collect::<Result<_, _>>()?;
    let key = row.key.as_deref().map(Certificate::parse).transpose();
    let key = key.map_err(|problem| BadRow::Key(problem.to_string()))?;
    Ok(Registered {
        id: row.id,
        name: row.name.clone(),
        allowed,
        key: key.map(Arc::new),
        booted: row.booted.map(|boot| boot.until),
    })
}

/// Whether a boot is still in force.
pub(crate) fn is_booted(row: &WorkerRow, now: WallTime) -> bool {
    row.booted.is_some_and(|boot| boot.until.is_none_or(|until| now < until))
}

#[cfg(test)]
mod tests {
    use papertrader_node::openpgp::Identity;
    use papertrader_store::Boot;

    use super::*;

    #[test]
    fn a_stolen_key_stays_stolen_and_its_address_a_strangers() {
        let key = Identity::generate("worker", WallTime(0)).unwrap().certificate().clone();
        let fingerprint = key.fingerprint().to_string();
        let row = WorkerRow {
            id: WorkerId([1; 16]),
            name: "one".into(),
            allowed: "10.0.0.0/8".into(),
            key: Some(key.to_bytes().to_vec()),
            booted: None,
        };
        let mut registry = Registry::new(vec![row.clone()], vec!["OLD".into()]);
        let address = "10.1.2.3".parse().unwrap();
        assert!(registry.is_stolen("OLD") && !registry.is_stolen(&fingerprint));
        let now = WallTime(8);
        assert!(registry.expects(address, now));
        let booted = |until, compromised| WorkerRow {
            booted: Some(Boot { until, compromised }),
            ..row.clone()
        };
        registry.put(booted(Some(WallTime(9)), false)).unwrap();
        assert!(!registry.expects(address, now) && registry.expects(address, WallTime(9)));
        assert!(!registry.is_stolen(&fingerprint));
        registry.put(booted(None, true)).unwrap();
        assert!(!registry.expects(address, now) && registry.is_stolen(&fingerprint));
        registry.remove(row.id);
        assert!(registry.is_stolen(&fingerprint) && registry.is_stolen("OLD"));
    }
}
