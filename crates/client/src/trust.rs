//! Which certificates are believed: what the application knows, what was met on the way, and, where
//! neither says anything, what a list of workers says.
//!
//! Nothing is stored here: the application keeps what [`crate::Client::learnt`] says and gives it
//! back in [`Trust::known`]. Invariants: what is known of an address is neither replaced nor
//! outvoted by what a list of workers says; a list alone teaches nothing, only a connection does; a
//! worker without a certificate is used only if the list came without TLS
//! itself, so that nobody is led from TLS to plain TCP; what anybody on the way may have written is
//! never learnt.

use std::collections::HashMap;

use papertrader_protocol::Fingerprint;
use papertrader_protocol::data::WorkerList;

use crate::address::Address;

/// The most workers of one list that are used.
const MAX_LISTED: usize = 1_000;

/// Which certificates a client takes. A server must prove with TLS that it has the key of its
/// certificate; then the first that holds decides:
///
/// 1. the fingerprint is the one that is known of this address or, if none is, the one that the list
///    of workers says: taken, whatever the certificate's names and dates are;
/// 2. the certificate is valid for the host by the [`Roots`]: taken;
/// 3. nothing is known of the address, no list names it, and [`Trust::first_use`] is set: taken and learnt;
/// 4. else [`crate::ClientError::CertificateChanged`] or
///    [`crate::ClientError::CertificateUnknown`]: nothing was sent.
#[derive(Debug, Clone)]
pub struct Trust {
    /// The fingerprints that are known, by `host:port` (see [`Address::place`]).
    pub known: HashMap<String, Fingerprint>,
    /// What an earlier client's [`crate::Client::listed_certificates`] said, by `host:port`: it counts as
    /// a list does, until one that is believed names the address.
    pub listed: HashMap<String, Fingerprint>,
    /// Whether the certificate of an address of which nothing is known is taken and learnt.
    /// Default: `true`.
    pub first_use: bool,
    /// Whose signatures under certificates count. Default: the system's.
    pub roots: Roots,
}

impl Default for Trust {
    fn default() -> Trust {
        Trust {
            known: HashMap::new(),
            listed: HashMap::new(),
            first_use: true,
            roots: Roots::System,
        }
    }
}

/// The authorities whose certificates are valid without being known.
#[derive(Debug, Clone, Default)]
pub enum Roots {
    /// Those of this system. They are read once, when the first certificate asks for them.
    #[default]
    System,
    /// These only, each a certificate in DER: an operator's own authority.
    These(Vec<Vec<u8>>),
}

/// A certificate to remember for an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learnt {
    /// The `host:port`.
    pub server: String,
    /// Of its certificate.
    pub fingerprint: Fingerprint,
    /// Why it is believed.
    pub how: How,
}

/// Why a certificate is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Nothing was known of the address: it was seen for the first time.
    FirstUse,
    /// A list of workers names it, and the server at the address has shown it; the list came over TLS
    /// from a server that is believed.
    Listed,
    /// The roots vouch for it. It may follow another one: it was renewed. Remembering it keeps a
    /// certificate that nobody vouches for from passing as a first use.
    Authority,
}

/// What a client knows of certificates.
#[derive(Debug)]
pub(crate) struct Pins {
    known: HashMap<String, Fingerprint>,
    learnt: Vec<Learnt>,
}

impl Pins {
    pub(crate) fn new(known: HashMap<String, Fingerprint>) -> Pins {
        Pins { known, learnt: Vec::new() }
    }

    pub(crate) fn get(&self, place: &str) -> Option<Fingerprint> {
        self.known.get(place).copied()
    }

    /// Takes note of a server that was used.
    pub(crate) fn learn(&mut self, learnt: Learnt) {
        if self.known.insert(learnt.server.clone(), learnt.fingerprint) == Some(learnt.fingerprint)
        {
            return;
        }
        self.learnt.retain(|before| before.server != learnt.server);
        self.learnt.push(learnt);
    }

    /// Everything that was learnt.
    pub(crate) fn learnt(&self) -> Vec<Learnt> {
        self.learnt.clone()
    }
}

/// What a connection, and a list of workers that comes over it, is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Worth {
    /// Plain TCP: anybody on the way may have written it.
    #[default]
    Plain,
    /// TLS, with a certificate that only a list that came over plain TCP has named.
    Hearsay,
    /// TLS, with a certificate that is believed.
    Vouched,
}

/// The last list of workers, as far as it may be used.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    workers: Vec<Worker>,
    worth: Worth,
}

/// A worker of the list.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) address: Address,
    /// Plain addresses have none, the others have one.
    fingerprint: Option<Fingerprint>,
    region: String,
    pub(crate) load: u32,
}

impl Worker {
    /// Whether it says that it is in this region.
    pub(crate) fn is_in(&self, region: &str) -> bool {
        self.region.eq_ignore_ascii_case(region)
    }
}

impl Listed {
    /// Takes a new list. One without usable workers is no reason to forget the last.
    pub(crate) fn take(&mut self, list: &WorkerList, worth: Worth) {
        let mut workers: Vec<Worker> = Vec::new();
        for line in &list.workers {
            if workers.len() == MAX_LISTED {
                break;
            }
            let plain = line.fingerprint.is_empty();
            if plain && worth != Worth::Plain {
                continue;
            }
            let Ok(address) = Address::at(&line.address, plain) else { continue };
            let fingerprint = if plain {
                None
            } else {
                // A fingerprint that cannot be read cannot be compared.
                let Ok(fingerprint) = line.fingerprint.parse() else { continue };
                Some(fingerprint)
            };
            if workers.iter().all(|other| other.address != address) {
                let (region, load) = (line.region.clone(), line.load);
                workers.push(Worker { address, fingerprint, region, load });
            }
        }
        if !workers.is_empty() {
            *self = Listed { workers, worth };
        }
    }

    /// Whether its fingerprints are believed.
    pub(crate) fn is_vouched(&self) -> bool {
        self.worth == Worth::Vouched
    }

    pub(crate) fn workers(&self) -> &[Worker] {
        &self.workers
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.workers.iter().map(|worker| &worker.address)
    }

    /// The fingerprints, by `host:port`; none if they are not believed.
    pub(crate) fn certificates(&self) -> HashMap<String, Fingerprint> {
        let believed = self.workers.iter().filter(|_| self.is_vouched());
        let named =
            |worker: &Worker| worker.fingerprint.map(|print| (worker.address.place(), print));
        believed.filter_map(named).collect()
    }

    pub(crate) fn fingerprint(&self, address: &Address) -> Option<Fingerprint> {
        let line = self.workers.iter().find(|worker| worker.address == *address);
        line.and_then(|worker| worker.fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use papertrader_protocol::data::WorkerLine;

    fn list(lines: &[(&str, &str)]) -> WorkerList {
        let line = |(address, fingerprint): &(&str, &str)| WorkerLine {
            name: "w".into(),
            address: (*address).into(),
            web: String::new(),
            fingerprint: (*fingerprint).into(),
            region: String::new(),
            load: 0,
        };
        WorkerList { workers: lines.iter().map(line).collect() }
    }

    fn taken(lines: &[(&str, &str)], worth: Worth) -> Vec<String> {
        let mut listed = Listed::default();
        listed.take(&list(lines), worth);
        listed.addresses().map(Address::to_string).collect()
    }

    fn print(byte: u8) -> Fingerprint {
        Fingerprint([byte; 32])
    }

    #[test]
    fn a_list_over_tls_leads_nobody_to_plain_tcp() {
        let print = print(1).to_string();
        let lines = [("a:1", print.as_str()), ("b:2", ""), ("c:3", "nonsense"), ("tcp://d:4", "")];
        assert_eq!(taken(&lines, Worth::Vouched), ["a:1"]);
        assert_eq!(taken(&lines, Worth::Hearsay), ["a:1"]);
        assert_eq!(taken(&lines, Worth::Plain), ["a:1", "tcp://b:2"]);
    }

    #[test]
    fn a_list_is_used_up_to_its_limit_and_without_repetitions() {
        let many: Vec<String> = (1..=2_000).map(|port| format!("h:{port}")).collect();
        let lines: Vec<(&str, &str)> = many.iter().map(|place| (place.as_str(), "")).collect();
        assert_eq!(taken(&lines, Worth::Plain).len(), MAX_LISTED);
        assert_eq!(taken(&[("a:1", ""), ("A:1", "")], Worth::Plain), ["tcp://a:1"]);
    }

    #[test]
    fn a_list_without_usable_workers_is_no_reason_to_forget() {
        let mut listed = Listed::default();
        listed.take(&list(&[("a:1", &print(1).to_string())]), Worth::Vouched);
        listed.take(&list(&[("b:1", "")]), Worth::Vouched);
        listed.take(&list(&[]), Worth::Vouched);
        assert_eq!(listed.fingerprint(&"a:1".parse().unwrap()), Some(print(1)));
    }

    #[test]
    fn what_is_learnt_is_told_once_and_the_last_word_counts() {
        let mut pins = Pins::new(HashMap::from([("a:1".to_owned(), print(1))]));
        let learnt = |byte, how| Learnt { server: "a:1".into(), fingerprint: print(byte), how };
        pins.learn(learnt(1, How::Authority));
        assert_eq!(pins.learnt(), [], "it was known");
        for byte in [2, 3, 3] {
            pins.learn(learnt(byte, How::Authority));
        }
        assert_eq!(pins.learnt(), [learnt(3, How::Authority)]);
        assert_eq!(pins.get("a:1"), Some(print(3)));
    }
}
