//! Everything that can end a command badly, its exit code and its stable word.

use std::io;
use std::path::PathBuf;

use papertrader_client::{ClientError, Fingerprint, Tried, Undecided};
use papertrader_master::admin;
use papertrader_node::openpgp::CertificateError;
use papertrader_protocol::fingerprint::NotAFingerprint;
use papertrader_protocol::{Failure, Reason};

use crate::bench::BenchError;
use crate::hint::Hints;
use crate::server::ServerError;

/// The exit code of a command that Ctrl-C has ended.
pub(crate) const INTERRUPTED: u8 = 130;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// What the server or the way to it said.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What the master said to its operator, or the way to it.
    #[error(transparent)]
    Admin(#[from] admin::ClientError),
    /// An argument that cannot be what it should be.
    #[error("{} ({})", .0.text, .0.reason.code())]
    Input(Failure),
    /// There is no session.
    #[error("not logged in")]
    NotLoggedIn,
    /// There was a session, but it has ended.
    #[error("the session of {user} has ended")]
    SessionEnded {
        /// Whose it was.
        user: String,
    },
    /// The two passwords that were typed differ.
    #[error("the two passwords differ")]
    PasswordsDiffer,
    /// No password was given.
    #[error("the password is empty")]
    PasswordEmpty,
    /// The password could not be read.
    #[error("the password could not be read (--password-stdin reads it from standard input): {0}")]
    PasswordInput(io::Error),
    /// Ctrl-C where a password was asked for.
    #[error("interrupted: nothing was done")]
    Interrupted,
    /// No directory for the session is known.
    #[error("neither XDG_CONFIG_HOME nor HOME is set: say --config-dir DIR")]
    NoConfigDir,
    /// The session's file could not be read or written.
    #[error("{path}: {problem}")]
    SessionFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: io::Error,
    },
    /// The session's file holds something else.
    #[error("{path} is not a session: {problem}; remove it and log in again")]
    SessionContent {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: serde_json::Error,
    },
    /// The file of known servers could not be read or written.
    #[error("{path}: {problem}")]
    KnownServersFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: io::Error,
    },
    /// The file of known servers holds something else.
    #[error(
        "{path} is no list of known servers: {problem}; mend it, or remove it: \
         then every server counts as new"
    )]
    KnownServersContent {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// No more servers can be remembered.
    #[error("{path} holds {most} servers, the most that are remembered: remove some from it")]
    KnownServersFull {
        /// The file.
        path: PathBuf,
        /// How many.
        most: usize,
    },
    /// What was given is no fingerprint.
    #[error("{0}")]
    NotAFingerprint(NotAFingerprint),
    /// The certificate is not the one whose fingerprint was given.
    #[error(
        "the certificate of {server} has the SHA-256 fingerprint {seen}, not {given}: it is not \
         trusted; somebody may be listening in, or this is another server"
    )]
    FingerprintDiffers {
        /// The `host:port`.
        server: String,
        /// What the user gave.
        given: Fingerprint,
        /// What the server showed.
        seen: Fingerprint,
    },
    /// Nobody can be asked whether the certificate is the right one.
    #[error(
        "the certificate of {server} has the SHA-256 fingerprint {seen}; without a terminal \
         nobody can be asked whether that is right: compare it with the one that the operator gives"
    )]
    FingerprintNeeded {
        /// The `host:port`.
        server: String,
        /// What the server showed.
        seen: Fingerprint,
    },
    /// The user does not want the certificate.
    #[error("the certificate of {server} is not trusted; nothing was changed")]
    NotTrusted {
        /// The `host:port`.
        server: String,
    },
    /// The answer to a question could not be read.
    #[error("the answer could not be read: {0}")]
    Answer(io::Error),
    /// There is no place where the data could be.
    #[error("there is no home directory: say where the master's data is with --data DIR")]
    NoDataDir,
    /// What was to be done to whole books without a master failed.
    #[error(transparent)]
    Books(#[from] admin::AdminError),
    /// The books contradict themselves, as was said in full.
    #[error("the books are wrong")]
    BooksWrong,
    /// There is nothing to read.
    #[error(
        "no master is running with {}, and there are no books in it; if they are in PostgreSQL, name \
         the master's configuration (--config FILE)", .0.display()
    )]
    NoBooks(PathBuf),
    /// What must not happen beside a master.
    #[error("a master is running with {}: stop it first", .0.display())]
    MasterRuns(PathBuf),
    /// The master's configuration cannot be used.
    #[error(transparent)]
    Config(Box<ServerError>),
    /// The file of a key could not be read.
    #[error("{path}: {problem}")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: io::Error,
    },
    /// The file is no public key.
    #[error("{path}: {problem}")]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: CertificateError,
    },
    /// Nothing was measured.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// The output could not be written.
    #[error("the output could not be written: {0}")]
    Output(#[from] io::Error),
    /// The runtime could not be started.
    #[error("the program could not start: {0}")]
    Start(io::Error),
}

impl CliError {
    /// A malformed argument, in the words of the protocol.
    pub(crate) fn input(reason: Reason) -> CliError {
        CliError::Input(reason.into())
    }

    /// 1 refused, 2 usage, 3 no server, 4 not logged in, 5 this machine; 130 as shells have it.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            CliError::Client(ClientError::Refused(failure)) if is_about_session(failure) => 4,
            CliError::Client(ClientError::Refused(failure)) if is_unknown(failure) => 3,
            CliError::Client(ClientError::Refused(_)) => 1,
            CliError::Client(ClientError::NotLoggedIn)
            | CliError::NotLoggedIn
            | CliError::SessionEnded { .. } => 4,
            CliError::Client(ClientError::Address { .. }) => 2,
            CliError::Client(_) | CliError::FingerprintDiffers { .. } => 3,
            CliError::NotTrusted { .. }
            | CliError::Admin(admin::ClientError::Refused(_))
            | CliError::Books(_)
            | CliError::BooksWrong
            | CliError::MasterRuns(_) => 1,
            CliError::Admin(admin::ClientError::NotYours(_)) => 5,
            CliError::Admin(_) | CliError::NoBooks(_) => 3,
            CliError::Bench(BenchError::Option { .. })
            | CliError::Input(_)
            | CliError::NotAKey { .. }
            | CliError::PasswordsDiffer
            | CliError::PasswordEmpty
            | CliError::NotAFingerprint(_)
            | CliError::FingerprintNeeded { .. } => 2,
            CliError::Interrupted => INTERRUPTED,
            // Whoever read the output has seen enough.
            CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            CliError::PasswordInput(_)
            | CliError::NoConfigDir
            | CliError::SessionFile { .. }
            | CliError::SessionContent { .. }
            | CliError::KnownServersFile { .. }
            | CliError::KnownServersContent { .. }
            | CliError::KnownServersFull { .. }
            | CliError::Answer(_)
            | CliError::NoDataDir
            | CliError::Config(_)
            | CliError::KeyFile { .. }
            | CliError::Bench(_)
            | CliError::Output(_)
            | CliError::Start(_) => 5,
        }
    }

    /// The stable word for programs.
    pub(crate) fn code(&self) -> &str {
        match self {
            CliError::Client(ClientError::Refused(failure)) => failure.reason.code(),
            CliError::Client(ClientError::ConnectionLost { .. }) => "connectionLost",
            CliError::Client(ClientError::NoServer { .. }) => "noServer",
            CliError::Client(ClientError::CertificateChanged { .. }) => "certificateChanged",
            CliError::Client(ClientError::CertificateUnknown { .. }) => "certificateUnknown",
            CliError::Client(ClientError::Address { .. }) => "badAddress",
            CliError::Client(ClientError::OutcomeUnknown { .. }) => "outcomeUnknown",
            CliError::Client(ClientError::Protocol { .. }) => "protocolError",
            CliError::Client(ClientError::NotLoggedIn) | CliError::NotLoggedIn => "notLoggedIn",
            CliError::SessionEnded { .. } => "sessionEnded",
            CliError::Input(failure) => failure.reason.code(),
            CliError::PasswordsDiffer => "passwordsDiffer",
            CliError::PasswordEmpty => "passwordEmpty",
            CliError::PasswordInput(_) => "passwordInput",
            CliError::Interrupted => "interrupted",
            CliError::NoConfigDir
            | CliError::SessionFile { .. }
            | CliError::SessionContent { .. } => "sessionFile",
            CliError::KnownServersFile { .. }
            | CliError::KnownServersContent { .. }
            | CliError::KnownServersFull { .. } => "knownServers",
            CliError::NotAFingerprint(_) => "badFingerprint",
            CliError::FingerprintDiffers { .. } => "fingerprintDiffers",
            CliError::FingerprintNeeded { .. } => "fingerprintNeeded",
            CliError::NotTrusted { .. } => "notTrusted",
            CliError::Answer(_) => "answer",
            CliError::Admin(error) => error.code(),
            CliError::NoDataDir => "noDataDir",
            CliError::Books(error) => error.code(),
            CliError::BooksWrong => "booksWrong",
            CliError::NoBooks(_) => "noBooks",
            CliError::MasterRuns(_) => "masterRuns",
            CliError::Config(_) => "configuration",
            CliError::KeyFile { .. } => "keyFile",
            CliError::NotAKey { .. } => "badKey",
            CliError::Bench(_) => "bench",
            CliError::Output(_) => "output",
            CliError::Start(_) => "start",
        }
    }

    /// The line for people.
    pub(crate) fn line(&self, hints: &Hints) -> String {
        match self {
            CliError::Client(ClientError::Refused(failure)) if !is_unknown(failure) => {
                format!("refused: {} ({})", self.text(hints), failure.reason.code())
            }
            CliError::Admin(error @ admin::ClientError::Refused(_)) => {
                format!("refused: {error} ({})", error.code())
            }
            CliError::Books(error) => format!("refused: {error} ({})", error.code()),
            CliError::Input(_) => self.to_string(),
            _ => self.text(hints),
        }
    }

    /// The words without the stable word, and the command that helps.
    pub(crate) fn text(&self, hints: &Hints) -> String {
        match self {
            CliError::NotLoggedIn => format!("{self}: {}", hints.command("login NAME")),
            CliError::Client(ClientError::NoServer { tried }) => {
                let is_here = |tried: &Tried| {
                    tried.server.contains("127.0.0.1:") || tried.server.contains("[::1]:")
                };
                let start = match tried.iter().all(is_here) {
                    true => "start one on this machine with `papertrader up`",
                    false => "see that it runs and that nothing is in the way",
                };
                format!("{self}: {start}, or name another with --server HOST:PORT")
            }
            CliError::SessionEnded { user } => {
                format!("{self}: {}", hints.command(&format!("login {user}")))
            }
            CliError::FingerprintNeeded { server, .. } => {
                let trust = format!("trust {server} --fingerprint HEX");
                format!("{self}, then: {}", hints.serverless(&trust))
            }
            CliError::Client(ClientError::Refused(failure))
                if failure.reason == Reason::PasswordChangeRequired =>
            {
                format!("{}: {}", failure.text, hints.command("password"))
            }
            // The protocol's own words are about orders.
            CliError::Client(ClientError::Refused(failure)) if is_unknown(failure) => {
                "it is not known whether this was done: give the same command again".to_owned()
            }
            CliError::Client(ClientError::OutcomeUnknown {
                what: Undecided::Order(id), ..
            }) => {
                format!(
                    "it is not known whether order {id} was accepted: give the same command again \
                     with --id {id}"
                )
            }
            CliError::Client(ClientError::Refused(failure)) | CliError::Input(failure) => {
                failure.text.clone()
            }
            CliError::Client(
                error @ (ClientError::CertificateChanged { server, seen, .. }
                | ClientError::CertificateUnknown { server, seen }),
            ) => {
                let trust = format!("trust {server} --fingerprint {seen}");
                let trust = hints.serverless(&trust);
                format!("{error}, and only if they are equal accept it: {trust}")
            }
            _ => self.to_string(),
        }
    }
}

/// Whether the server refuses because the session has ended.
pub(crate) fn is_about_session(failure: &Failure) -> bool {
    matches!(
        failure.reason,
        Reason::SessionUnknown | Reason::SessionExpired | Reason::SessionRequired
    )
}

/// Whether the server itself does not know. Orders, registrations and changes of passwords are then
/// [`ClientError::OutcomeUnknown`]; everything else may be asked again.
fn is_unknown(failure: &Failure) -> bool {
    failure.reason == Reason::OutcomeUnknown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_has_its_exit_code_and_line() {
        let refused = |reason: Reason| CliError::from(ClientError::Refused(reason.into()));
        assert_eq!(refused(Reason::InsufficientCash).exit_code(), 1);
        assert_eq!(
            refused(Reason::InsufficientCash).line(&Hints::default()),
            "refused: not enough cash that is not held by open orders (insufficientCash)"
        );
        assert_eq!(refused(Reason::SessionExpired).exit_code(), 4);
        assert_eq!(refused(Reason::PasswordChangeRequired).exit_code(), 1);
        assert_eq!(
            refused(Reason::PasswordChangeRequired).line(&Hints::default()),
            "refused: this account needs a new password before anything else: \
             papertrader password (passwordChangeRequired)"
        );
        let unknown = refused(Reason::OutcomeUnknown);
        assert_eq!((unknown.exit_code(), unknown.code()), (3, "outcomeUnknown"));
        assert_eq!(
            unknown.line(&Hints::default()),
            "it is not known whether this was done: give the same command again"
        );
        assert_eq!(CliError::input(Reason::BadQuantity).exit_code(), 2);
        assert_eq!(CliError::input(Reason::BadQuantity).code(), "badQuantity");
        let none = CliError::from(ClientError::NoServer { tried: Vec::new() });
        assert_eq!(none.exit_code(), 3);
        let tried = |server: &str| Tried { server: server.into(), problem: "refused".into() };
        for (server, next) in [("127.0.0.1:2049", "papertrader up"), ("a.example:1", "see that")] {
            let none = CliError::from(ClientError::NoServer { tried: vec![tried(server)] });
            let line = none.line(&Hints::default());
            assert!(line.contains(next) && line.contains("--server HOST:PORT"), "{line}");
        }
        assert_eq!(CliError::NotLoggedIn.exit_code(), 4);
        assert_eq!(CliError::NoConfigDir.exit_code(), 5);
        let closed = CliError::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!(closed.exit_code(), 0);
    }
}
