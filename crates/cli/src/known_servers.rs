//! The file that remembers the certificates of servers between two commands.
//!
//! It holds no secret, but who can write it decides whom the user believes. Invariants: what is
//! remembered of a server is replaced only by the user, or by a certificate for which an authority
//! vouches, and that is told; two commands at the same time lose nothing of each other; a file that
//! cannot be understood is an error, never an empty one.

use std::collections::BTreeMap;
use std::{fs, io};

use papertrader_client::{ClientError, Fingerprint, How, Learnt};
use serde::{Deserialize, Serialize};

use crate::config_dir::ConfigDir;
use crate::error::CliError;

/// By `host:port`.
type Known = BTreeMap<String, Fingerprint>;

/// What the file holds.
#[derive(Serialize, Deserialize)]
struct Content {
    /// The fingerprint of the certificate, by `host:port`.
    servers: BTreeMap<String, String>,
}

/// What the user should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// It was seen for the first time, and nobody vouches for it.
    FirstUse(Learnt),
    /// An authority vouches for it, and it took the place of this one.
    Renewed(Learnt, Fingerprint),
}

/// Where it is kept.
#[derive(Debug, Clone)]
pub(crate) struct KnownServers {
    config: ConfigDir,
}

const NAME: &str = "known_servers.json";
/// Whoever changes the file holds this one. The file itself is replaced: its lock would be lost.
const LOCK: &str = ".known_servers.lock";
/// The most servers that are remembered.
const MOST: usize = 1_000;
/// More than the longest names of so many servers need.
const LIMIT: u64 = 512 * 1024;

impl KnownServers {
    /// In this directory.
    pub(crate) fn of(config: &ConfigDir) -> KnownServers {
        KnownServers { config: config.clone() }
    }

    /// What is remembered.
    pub(crate) fn load(&self) -> Result<Known, CliError> {
        let Some(text) = self.config.read(NAME, LIMIT).map_err(|error| self.failed(error))? else {
            return Ok(Known::new());
        };
        let content: Content =
            serde_json::from_slice(&text).map_err(|problem| self.not_understood(&problem))?;
        let read = |(server, fingerprint): (String, String)| {
            let fingerprint = fingerprint.parse().map_err(|problem| self.not_understood(&problem));
            Ok((server, fingerprint?))
        };
        content.servers.into_iter().map(read).collect()
    }

    /// Remembers what a client has learnt, and returns what the user should hear of it.
    pub(crate) fn learn(&self, learnt: Vec<Learnt>) -> Result<Vec<News>, CliError> {
        if learnt.is_empty() {
            return Ok(Vec::new());
        }
        let _lock = self.lock()?;
        // Another command may have written it since this one began.
        let mut known = self.load()?;
        let mut news = Vec::new();
        let mut is_new = false;
        for learnt in learnt {
            let Learnt { server, fingerprint, how } = &learnt;
            let is_full = known.len() >= MOST;
            match (known.get(server), how) {
                (Some(kept), _) if kept == fingerprint => continue,
                // Two commands at the same time saw two certificates.
                (Some(kept), How::FirstUse | How::Listed) => {
                    return Err(CliError::Client(ClientError::CertificateChanged {
                        server: server.clone(),
                        expected: *kept,
                        seen: *fingerprint,
                        is_listed: *how == How::Listed,
                    }));
                }
                (None, How::FirstUse) if is_full => return Err(self.full()),
                // The next list says it again, and so does the authority.
                (None, _) if is_full => continue,
                (Some(_), How::Authority) | (None, _) => {}
            }
            is_new = true;
            match (known.insert(server.clone(), *fingerprint), how) {
                (Some(before), _) => news.push(News::Renewed(learnt, before)),
                (None, How::FirstUse) => news.push(News::FirstUse(learnt)),
                (None, How::Listed | How::Authority) => {}
            }
        }
        if is_new {
            self.save(&known)?;
        }
        Ok(news)
    }

    /// Remembers what the user has decided.
    pub(crate) fn trust(&self, server: &str, fingerprint: Fingerprint) -> Result<(), CliError> {
        let _lock = self.lock()?;
        let mut known = self.load()?;
        if !known.contains_key(server) && known.len() >= MOST {
            return Err(self.full());
        }
        if known.insert(server.to_owned(), fingerprint) != Some(fingerprint) {
            self.save(&known)?;
        }
        Ok(())
    }

    /// Waits until nobody else changes the file, and keeps others from it until it is dropped.
    fn lock(&self) -> Result<fs::File, CliError> {
        let failed = |problem| CliError::KnownServersFile { path: self.config.path(LOCK), problem };
        self.config.lock(LOCK).map_err(failed)
    }

    fn save(&self, known: &Known) -> Result<(), CliError> {
        let text = |(server, fingerprint): (&String, &Fingerprint)| {
            (server.clone(), fingerprint.to_string())
        };
        let content = Content { servers: known.iter().map(text).collect() };
        let mut text = serde_json::to_vec_pretty(&content).map_err(|e| self.failed(e.into()))?;
        text.push(b'\n');
        self.config.replace(NAME, &text).map_err(|error| self.failed(error))
    }

    fn failed(&self, problem: io::Error) -> CliError {
        CliError::KnownServersFile { path: self.config.path(NAME), problem }
    }

    fn not_understood(&self, problem: &dyn std::error::Error) -> CliError {
        let (path, problem) = (self.config.path(NAME), problem.to_string());
        CliError::KnownServersContent { path, problem }
    }

    fn full(&self) -> CliError {
        CliError::KnownServersFull { path: self.config.path(NAME), most: MOST }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(byte: u8) -> Fingerprint {
        Fingerprint([byte; 32])
    }

    fn learnt(server: &str, byte: u8, how: How) -> Learnt {
        Learnt { server: server.into(), fingerprint: print(byte), how }
    }

    fn file() -> (tempfile::TempDir, ConfigDir, KnownServers) {
        let home = tempfile::tempdir().unwrap();
        let config = ConfigDir::locate(Some(home.path())).unwrap();
        let known = KnownServers::of(&config);
        (home, config, known)
    }

    #[test]
    fn what_is_remembered_stays_unless_an_authority_or_the_user_says_otherwise() {
        let (_home, _, known) = file();
        let all = vec![
            learnt("a:1", 1, How::FirstUse),
            learnt("b:1", 2, How::Listed),
            learnt("c:1", 3, How::Authority),
        ];
        assert_eq!(known.learn(all.clone()).unwrap(), [News::FirstUse(all[0].clone())]);
        assert_eq!(known.learn(all).unwrap(), []);
        for how in [How::Listed, How::FirstUse] {
            let error = known.learn(vec![learnt("a:1", 9, how)]).unwrap_err();
            assert_eq!((error.exit_code(), error.code()), (3, "certificateChanged"));
        }
        let renewed = learnt("c:1", 4, How::Authority);
        let news = known.learn(vec![renewed.clone()]).unwrap();
        assert_eq!(news, [News::Renewed(renewed, print(3))]);
        known.trust("b:1", print(5)).unwrap();
        let kept: Vec<(String, Fingerprint)> = known.load().unwrap().into_iter().collect();
        let expected = [("a:1", 1), ("b:1", 5), ("c:1", 4)];
        assert_eq!(kept, expected.map(|(server, byte)| (server.to_owned(), print(byte))));
    }

    #[test]
    fn commands_at_the_same_time_lose_nothing_of_each_other() {
        let (_home, _, known) = file();
        let all = |by: usize| (0..20).map(move |n| format!("{by}-{n}:1"));
        std::thread::scope(|scope| {
            for by in 0..8 {
                let known = &known;
                scope.spawn(move || {
                    for (n, server) in all(by).enumerate() {
                        if n % 2 == 0 {
                            known.trust(&server, print(1)).unwrap();
                        } else {
                            known.learn(vec![learnt(&server, 1, How::FirstUse)]).unwrap();
                        }
                    }
                });
            }
        });
        let mut expected: Vec<String> = (0..8).flat_map(all).collect();
        expected.sort();
        assert_eq!(known.load().unwrap().into_keys().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn no_more_servers_are_remembered_than_fit() {
        let (_home, _, known) = file();
        let name = |n: usize| format!("{}{n:04}:65535", "x".repeat(249));
        let many: Vec<Learnt> = (0..MOST + 9).map(|n| learnt(&name(n), 1, How::Listed)).collect();
        known.learn(many).unwrap();
        assert_eq!(known.load().unwrap().len(), MOST);
        let full = known.learn(vec![learnt("new:1", 1, How::FirstUse)]).unwrap_err();
        assert_eq!(full.exit_code(), 5);
        assert!(matches!(known.trust("new:1", print(1)), Err(CliError::KnownServersFull { .. })));
        // Those that are there can still be changed.
        known.trust(&name(0), print(2)).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_understood_is_no_empty_one() {
        let (_home, config, known) = file();
        for text in ["", "{}", r#"{"servers":{"a:1":"zz"}}"#, r#"{"servers":["a:1"]}"#] {
            config.replace(NAME, text.as_bytes()).unwrap();
            let error = known.load().unwrap_err();
            assert!(matches!(error, CliError::KnownServersContent { .. }), "{text}");
            assert!(known.learn(vec![learnt("a:1", 1, How::FirstUse)]).is_err());
            assert!(known.trust("a:1", print(1)).is_err());
        }
        config.replace(NAME, &vec![b' '; LIMIT as usize + 1]).unwrap();
        assert!(matches!(known.load(), Err(CliError::KnownServersFile { .. })));
    }
}
