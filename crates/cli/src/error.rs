//! Everything that can end a command badly, its exit code and its stable word.

use std::io;
use std::path::PathBuf;

use papertrader_client::ClientError;
use papertrader_protocol::{Failure, Reason};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// What the server or the way to it said.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An argument that cannot be what it should be.
    #[error("{} ({})", .0.text, .0.reason.code())]
    Input(Failure),
    /// There is no session.
    #[error("not logged in: papertrader login NAME")]
    NotLoggedIn,
    /// There was a session, but it has ended.
    #[error("the session of {user} has ended: papertrader login {user}")]
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

    /// 1 refused, 2 usage, 3 no server, 4 not logged in, 5 this machine.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            CliError::Client(ClientError::Refused(failure)) if is_about_session(failure) => 4,
            CliError::Client(ClientError::Refused(_)) => 1,
            CliError::Client(ClientError::NotLoggedIn)
            | CliError::NotLoggedIn
            | CliError::SessionEnded { .. } => 4,
            CliError::Client(_) => 3,
            CliError::Input(_) | CliError::PasswordsDiffer | CliError::PasswordEmpty => 2,
            // Whoever read the output has seen enough.
            CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            CliError::PasswordInput(_)
            | CliError::NoConfigDir
            | CliError::SessionFile { .. }
            | CliError::SessionContent { .. }
            | CliError::Output(_)
            | CliError::Start(_) => 5,
        }
    }

    /// The stable word for programs.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            CliError::Client(ClientError::Refused(failure)) => failure.reason.code(),
            CliError::Client(ClientError::ConnectionLost { .. }) => "connectionLost",
            CliError::Client(ClientError::NoServer { .. }) => "noServer",
            CliError::Client(ClientError::OutcomeUnknown { .. }) => "outcomeUnknown",
            CliError::Client(ClientError::Protocol { .. }) => "protocolError",
            CliError::Client(ClientError::NotLoggedIn) | CliError::NotLoggedIn => "notLoggedIn",
            CliError::SessionEnded { .. } => "sessionEnded",
            CliError::Input(failure) => failure.reason.code(),
            CliError::PasswordsDiffer => "passwordsDiffer",
            CliError::PasswordEmpty => "passwordEmpty",
            CliError::PasswordInput(_) => "passwordInput",
            CliError::NoConfigDir
            | CliError::SessionFile { .. }
            | CliError::SessionContent { .. } => "sessionFile",
            CliError::Output(_) => "output",
            CliError::Start(_) => "start",
        }
    }

    /// The line for people.
    pub(crate) fn line(&self) -> String {
        match self {
            CliError::Client(ClientError::Refused(_)) => format!("refused: {self}"),
            _ => self.to_string(),
        }
    }

    /// The words without the stable word.
    pub(crate) fn text(&self) -> String {
        match self {
            CliError::Client(ClientError::Refused(failure)) | CliError::Input(failure) => {
                failure.text.clone()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_has_its_exit_code_and_line() {
        let refused = |reason: Reason| CliError::from(ClientError::Refused(reason.into()));
        assert_eq!(refused(Reason::InsufficientCash).exit_code(), 1);
        assert_eq!(
            refused(Reason::InsufficientCash).line(),
            "refused: not enough cash that is not held by open orders (insufficientCash)"
        );
        assert_eq!(refused(Reason::SessionExpired).exit_code(), 4);
        assert_eq!(CliError::input(Reason::BadQuantity).exit_code(), 2);
        assert_eq!(CliError::input(Reason::BadQuantity).code(), "badQuantity");
        let none = CliError::from(ClientError::NoServer { tried: Vec::new() });
        assert_eq!(none.exit_code(), 3);
        assert_eq!(CliError::NotLoggedIn.exit_code(), 4);
        assert_eq!(CliError::NoConfigDir.exit_code(), 5);
        let closed = CliError::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!(closed.exit_code(), 0);
    }
}
