//! Why the master does not do what its operator asks: words that say what to do, and a stable word for
//! programs.
//!
//! Without a running master the operator's program has the same errors of whole books.

use super::{AdminRefusal, AdminReply, MAX_ADDRESSES, MAX_REPLY, MAX_REQUEST};

/// Why the master does not do what it is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// The line is no request.
    #[error("this is no request: {0}")]
    BadRequest(String),
    /// The line is longer than [`MAX_REQUEST`].
    #[error("a request has at most {MAX_REQUEST} bytes")]
    RequestTooLong,
    /// The answer would be longer than [`MAX_REPLY`].
    #[error("the answer has more than {MAX_REPLY} bytes")]
    ReplyTooLong,
    /// Too many connections on the admin socket.
    #[error("too many operator commands are running: wait until some have ended")]
    TooManyConnections,
    /// The database did not take the change.
    #[error("the change could not be stored; the master's log says why")]
    Unavailable,
    /// The master is on its way out.
    #[error("the master is shutting down")]
    ShuttingDown,
    /// This master waits for another's end.
    #[error("this master is a standby, and waits: ask the one that is active ({0})")]
    Standby(String),
    /// No worker has this name.
    #[error("no worker is called '{0}': `papertrader admin workers list` shows them all")]
    UnknownWorker(String),
    /// Not a name.
    #[error("'{0}' is no name for a worker: 1 to 32 letters, digits, '-', '_' and '.'")]
    BadWorkerName(String),
    /// Another worker has the name.
    #[error(
        "the worker with UUID {uuid} is called '{name}': take it off the registry first \
         (`papertrader admin workers remove {name}`), or choose another name"
    )]
    WorkerNameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        uuid: String,
    },
    /// Not a UUID.
    #[error("'{0}' is not the UUID of a worker: it stands in the worker's worker.toml")]
    BadUuid(String),
    /// Not an address or network.
    #[error("{0}")]
    BadAddress(String),
    /// No address, or too many.
    #[error("say where the worker connects from: 1 to {MAX_ADDRESSES} addresses or networks")]
    AddressesNeeded,
    /// Not an OpenPGP public key.
    #[error("the key cannot be taken: {0}")]
    BadKey(String),
    /// A key that may not be used.
    #[error("the key cannot be used: {0}")]
    UnusableKey(String),
    /// Somebody else has the key.
    #[error("the key is already that of {0}: each needs its own")]
    KeyTaken(String),
    /// Its key is in wrong hands.
    #[error(
        "worker '{0}' was booted as compromised: make it a new key and add it again \
         (`papertrader admin workers add`)"
    )]
    Compromised(String),
    /// The key to register is one that a worker had when it was compromised.
    #[error(
        "this key was in a worker that was compromised: whoever broke in has it. Make a new one \
         (`papertrader init worker`)"
    )]
    CompromisedKey,
    /// Nobody has this name.
    #[error("no user is called '{0}': `papertrader admin users list` shows them all")]
    UnknownUser(String),
    /// No session has this handle.
    #[error("no session has the handle '{0}': `papertrader admin sessions list` shows them")]
    UnknownSession(String),
    /// A boot must last.
    #[error("a boot lasts at least one second")]
    BadDuration,
    /// Something that takes long is being done already.
    #[error("the books are being verified or backed up already: wait until that has ended")]
    Busy,
    /// The books cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// A file that is to be made is there.
    #[error("{0}")]
    FileExists(String),
    /// A file cannot be made, read or written.
    #[error("{0}")]
    File(String),
    /// The master sees another directory.
    #[error(
        "the master sees another directory at {0} than you do: under systemd it may have a /tmp of its \
         own (PrivateTmp). Name a directory that both see, such as one beside its data"
    )]
    OtherDirectory(String),
    /// There are books where some are to be restored.
    #[error("{0}")]
    NotEmpty(String),
    /// Orders stand beside the books.
    #[error(
        "{0} orders were accepted that are not in the books yet, for the master ended before it could \
         write them: start it once, which does it"
    )]
    NotWritten(u64),
    /// What was copied is not right.
    #[error(
        "the books contradict themselves, and nothing was kept of the copy: {0}; \
         `papertrader admin verify` shows all"
    )]
    Contradiction(String),
    /// Nobody waited for it any more, or the master ends.
    #[error("it was stopped before its end; nothing was kept")]
    Stopped,
}

impl AdminError {
    /// The stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            AdminError::BadRequest(_) => "badRequest",
            AdminError::RequestTooLong => "requestTooLong",
            AdminError::ReplyTooLong => "replyTooLong",
            AdminError::TooManyConnections => "tooManyConnections",
            AdminError::Unavailable => "unavailable",
            AdminError::ShuttingDown => "shuttingDown",
            AdminError::Standby(_) => "standby",
            AdminError::NotWritten(_) => "notWritten",
            AdminError::UnknownWorker(_) => "unknownWorker",
            AdminError::BadWorkerName(_) => "badWorkerName",
            AdminError::WorkerNameTaken { .. } => "workerNameTaken",
            AdminError::BadUuid(_) => "badUuid",
            AdminError::BadAddress(_) => "badAddress",
            AdminError::AddressesNeeded => "addressesNeeded",
            AdminError::BadKey(_) => "badKey",
            AdminError::UnusableKey(_) => "unusableKey",
            AdminError::KeyTaken(_) => "keyTaken",
            AdminError::Compromised(_) => "compromised",
            AdminError::CompromisedKey => "compromisedKey",
            AdminError::UnknownUser(_) => "unknownUser",
            AdminError::UnknownSession(_) => "unknownSession",
            AdminError::BadDuration => "badDuration",
            AdminError::Busy => "busy",
            AdminError::Unreadable(_) => "booksUnreadable",
            AdminError::FileExists(_) => "fileExists",
            AdminError::File(_) => "file",
            AdminError::OtherDirectory(_) => "otherDirectory",
            AdminError::NotEmpty(_) => "notEmpty",
            AdminError::Contradiction(_) => "contradiction",
            AdminError::Stopped => "stopped",
        }
    }
}

impl From<AdminError> for AdminReply {
    fn from(error: AdminError) -> AdminReply {
        AdminReply::Refused(AdminRefusal { code: error.code().into(), text: error.to_string() })
    }
}
