//! Everything that can go wrong for a client, with the words that a user needs.

use papertrader_core::names::ClientOrderId;
use papertrader_protocol::returns::BadReturn;
use papertrader_protocol::transfer::TransferError;
use papertrader_protocol::wire::DecodeError;
use papertrader_protocol::{Failure, Fingerprint, FrameError, Instruction};

use crate::address::BadAddress;

/// Why a request has no good answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The server refused, with a stable word and words for people.
    #[error("{} ({})", .0.text, .0.reason.code())]
    Refused(Failure),
    /// The connection was lost, and the request must not be sent again or patience has ended. For
    /// orders, registrations and changes of passwords that were sent it is
    /// [`ClientError::OutcomeUnknown`].
    #[error("the connection to {server} was lost: {why}")]
    ConnectionLost {
        /// The server.
        server: String,
        /// What happened.
        why: String,
    },
    /// No server of the list could be used.
    #[error("no server could be reached: {}", list(.tried))]
    NoServer {
        /// The servers of the last round, and what was wrong with each.
        tried: Vec<Tried>,
    },
    /// A server showed another certificate than the one that is known of it, and nobody vouches for
    /// it. Nothing was sent to it, and no other server could be used. Only a person can tell a
    /// renewed certificate from somebody who is listening in.
    #[error(
        "the certificate of {server} is not the one that is known: expected SHA-256 {expected}, \
         seen {seen}; nothing was sent: somebody may be listening in, or the operator renewed it{}; \
         compare what was seen with the fingerprint that the operator gives",
        if *.is_listed { " (probably: a list of workers names what was seen)" } else { "" }
    )]
    CertificateChanged {
        /// The `host:port`.
        server: String,
        /// The fingerprint that is known; of an address of which nothing is known, the one that the
        /// list of workers says.
        expected: Fingerprint,
        /// The fingerprint of the certificate that was shown.
        seen: Fingerprint,
        /// Whether the list of workers names what was seen. Then the operator probably renewed it, if
        /// the list's author is honest.
        is_listed: bool,
    },
    /// Nothing is known of the certificate of a server, nobody vouches for it, and
    /// [`crate::Trust::first_use`] is off. Nothing was sent to it, and no other server could be
    /// used.
    #[error(
        "the certificate of {server}, SHA-256 {seen}, is not known and nobody vouches for it; \
         nothing was sent; compare it with the fingerprint that the operator gives"
    )]
    CertificateUnknown {
        /// The `host:port`.
        server: String,
        /// The fingerprint of the certificate that was shown.
        seen: Fingerprint,
    },
    /// A server was given that cannot be one.
    #[error("'{address}' is not a server: {problem}")]
    Address {
        /// What was given.
        address: String,
        /// What it should be.
        problem: BadAddress,
    },
    /// A request was sent that may not be sent again just so, and nobody said what became of it: it
    /// may have been carried out or not.
    #[error("it is not known whether {} ({cause}): {}", .what.words().0, .what.words().1)]
    OutcomeUnknown {
        /// What was asked for.
        what: Undecided,
        /// What happened last.
        cause: Box<ClientError>,
    },
    /// The request needs a session, and there is none.
    #[error("not logged in")]
    NotLoggedIn,
    /// The server said something that the protocol does not allow.
    #[error("{server} does not speak the protocol: {problem}")]
    Protocol {
        /// The server.
        server: String,
        /// What it said.
        problem: ProtocolError,
    },
}

/// What may have been carried out or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undecided {
    /// This order was accepted. Asking again with the same client order ID is safe and tells.
    Order(ClientOrderId),
    /// The account was made. A log-in tells.
    Registration,
    /// The password was changed. A log-in with the new one tells.
    PasswordChange,
}

impl Undecided {
    /// What is not known, and what to do.
    fn words(&self) -> (String, &'static str) {
        match self {
            Undecided::Order(id) => {
                (format!("order {id} was accepted"), "ask again with the same client order ID")
            }
            Undecided::Registration => {
                ("the account was made".to_owned(), "log in; if that is refused, register again")
            }
            Undecided::PasswordChange => (
                "the password was changed".to_owned(),
                "log in with the new password; if that is refused, with the old one",
            ),
        }
    }
}

/// A server that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Its address.
    pub server: String,
    /// What was wrong, in words.
    pub problem: String,
}

/// What a server said against the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Bytes that cannot be framed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Packets that do not follow each other, or too many.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// A return with the wrong arguments.
    #[error(transparent)]
    Return(#[from] BadReturn),
    /// Data that cannot be read.
    #[error("the data cannot be read: {0}")]
    Data(#[from] DecodeError),
    /// An answer of the wrong kind.
    #[error("{0} was answered with something else than its returns")]
    Unexpected(&'static str),
}

impl ProtocolError {
    pub(crate) fn unexpected(to: Instruction) -> ProtocolError {
        ProtocolError::Unexpected(to.name())
    }
}

fn list(tried: &[Tried]) -> String {
    let each: Vec<String> =
        tried.iter().map(|tried| format!("{}: {}", tried.server, tried.problem)).collect();
    if each.is_empty() { "there is no server to try".to_owned() } else { each.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use papertrader_protocol::Reason;

    #[test]
    fn errors_say_what_a_user_needs() {
        let refused = ClientError::Refused(Reason::NameTaken.into());
        assert_eq!(refused.to_string(), "this user name is taken (nameTaken)");
        let tried = vec![
            Tried { server: "a:1".into(), problem: "connection refused".into() },
            Tried { server: "b:2".into(), problem: "no answer".into() },
        ];
        assert_eq!(
            ClientError::NoServer { tried }.to_string(),
            "no server could be reached: a:1: connection refused; b:2: no answer"
        );
    }
}
