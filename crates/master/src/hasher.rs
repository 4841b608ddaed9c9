//! The password hashers: a few threads that run Argon2id over the client's hash, with bounded
//! [`Lines`] in front. Who has no place is answered `busy`.
//!
//! Each thread keeps the 19 MiB that a hash takes, so their number bounds the memory. What was asked goes
//! into a [`Ticket`] that comes back with the answer; what it means is decided elsewhere.

use std::sync::Arc;
use std::thread::JoinHandle;

use argon2::password_hash::Error;
use papertrader_core::ids::AccountId;
use papertrader_core::names::{Email, UserName};
use papertrader_node::error;
use papertrader_protocol::request::HashedPass;
use papertrader_store::{PassHash, SessionKey};

use crate::argon::Argon;
use crate::database::Guard;
use crate::driver::{Event, Events};
use crate::limits::{Attempt, Registration};
use crate::lines::Lines;
use crate::workers::Origin;

/// Whose password is checked, and against what.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) account: AccountId,
    pub(crate) against: PassHash,
}

/// What the driver wants back with the answer.
#[derive(Debug)]
pub(crate) enum Ticket {
    /// A log-in.
    Login {
        /// Who asked.
        origin: Origin,
        attempt: Attempt,
        /// `None` for a name that nobody has, or whose account has no password.
        checked: Option<Checked>,
        /// isExpirable.
        expirable: bool,
    },
    /// A registration.
    Register {
        /// Who asked.
        origin: Origin,
        charge: Registration,
        /// The new user's name.
        name: UserName,
        /// Where mail reaches them.
        email: Email,
    },
    /// A change of a password.
    Change {
        /// Who asked.
        origin: Origin,
        /// With which session.
        session: SessionKey,
        attempt: Attempt,
        /// `None` if the account has no password.
        checked: Option<Checked>,
    },
}

impl Ticket {
    /// Who asked.
    pub(crate) fn origin(&self) -> Origin {
        match self {
            Ticket::Login { origin, .. }
            | Ticket::Register { origin, .. }
            | Ticket::Change { origin, .. } => *origin,
        }
    }
}

/// A checked or hashed password.
pub(crate) struct PasswordDone {
    pub(crate) ticket: Box<Ticket>,
    pub(crate) result: PasswordResult,
}

pub(crate) enum PasswordResult {
    /// Whether the password is right.
    Verified(bool),
    /// The hash of a new password; none if the old one was to be right and is not.
    Hashed(Option<PassHash>),
    /// The machine could not do it.
    Failed,
}

/// What a thread is to do.
pub(crate) enum Task {
    /// Hash a new password.
    Hash(HashedPass),
    /// Check a password.
    Verify(HashedPass, PassHash),
    /// Check the old password, and hash the new one if it is right.
    Change(HashedPass, PassHash, HashedPass),
}

/// A task, and what comes back with its result.
pub(crate) struct PasswordJob {
    pub(crate) ticket: Box<Ticket>,
    pub(crate) task: Task,
}

/// The threads.
pub(crate) struct Hasher {
    lines: Arc<Lines<PasswordJob>>,
    threads: Vec<JoinHandle<()>>,
}

impl Hasher {
    pub(crate) fn start(threads: usize, queue: usize, events: &Events) -> std::io::Result<Hasher> {
        let lines = Arc::new(Lines::new(queue));
        let threads = (0..threads.max(1))
            .map(|_| {
                let (lines, events) = (Arc::clone(&lines), events.clone());
                std::thread::Builder::new()
                    .name("passwords".into())
                    .spawn(move || hash_loop(&lines, events))
            })
            .collect::<Result<_, _>>()?;
        Ok(Hasher { lines, threads })
    }

    /// Hands a job over. The answer comes as [`Event::Password`]. If there are too many, the ticket
    /// of one that has no place comes back at once: of this job, or of another worker's.
    pub(crate) fn submit(&self, job: PasswordJob) -> Option<Box<Ticket>> {
        let left = self.lines.add(job.ticket.origin().worker, job);
        left.map(|job| job.ticket)
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        self.lines.close();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A hash that no client's hash has: what an unknown name is checked against.
pub(crate) fn hash_of_nobody() -> Result<PassHash, Error> {
    Argon::default().hash(b"no client's hash looks like this")
}

fn hash_loop(lines: &Lines<PasswordJob>, events: Events) {
    let Guard { events, .. } = &Guard { events, thread: "passwords" };
    let mut argon = Argon::default();
    while let Some(PasswordJob { ticket, task }) = lines.next() {
        let result = run(&mut argon, task).unwrap_or(PasswordResult::Failed);
        if events.blocking_send(Event::Password(PasswordDone { ticket, result })).is_err() {
            return;
        }
    }
}

fn run(argon: &mut Argon, task: Task) -> Result<PasswordResult, Error> {
    Ok(match task {
        Task::Hash(pass) => PasswordResult::Hashed(Some(argon.hash(pass.reveal().as_bytes())?)),
        Task::Verify(pass, against) => PasswordResult::Verified(is_right(argon, &pass, &against)?),
        Task::Change(old, against, new) => {
            let is_right = is_right(argon, &old, &against)?;
            let new = is_right.then(|| argon.hash(new.reveal().as_bytes())).transpose()?;
            PasswordResult::Hashed(new)
        }
    })
}

/// Whether a password is right. No password is that of a stored hash that cannot be one, and it takes
/// as long to say so.
fn is_right(argon: &mut Argon, pass: &HashedPass, against: &PassHash) -> Result<bool, Error> {
    let pass = pass.reveal().as_bytes();
    match argon.is_right(pass, against) {
        Err(Error::OutOfMemory) => Err(Error::OutOfMemory),
        Err(why) => {
            error!(%why, "a stored password hash is none: no password opens its account");
            argon.hash(pass)?;
            Ok(false)
        }
        is_right => is_right,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_that_of_a_hash_that_is_none() {
        let pass = || HashedPass::parse(&"7".repeat(64)).unwrap();
        let mut argon = Argon::default();
        let verify = Task::Verify(pass(), PassHash("none".to_owned()));
        assert!(matches!(run(&mut argon, verify), Ok(PasswordResult::Verified(false))));
        let change = Task::Change(pass(), PassHash("none".to_owned()), pass());
        assert!(matches!(run(&mut argon, change), Ok(PasswordResult::Hashed(None))));
    }
}
