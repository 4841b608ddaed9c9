//! How clients get in: log-ins, registrations, resumed sessions and changes of passwords, and how
//! they leave.
//!
//! A request is charged against the limits, goes through the hashers if a password is in it, and
//! becomes a command; `access` judges that.
//!
//! Invariant: a name that nobody has, an account without a password and a wrong password take the
//! same way to the same answer.

use papertrader_core::ids::AccountId;
use papertrader_core::names::{Email, UserName};
use papertrader_node::{error, warn};
use papertrader_protocol::request::HashedPass;
use papertrader_protocol::returns::{Return, SessionGrant};
use papertrader_protocol::{Failure, Reason, SessionId};

use crate::access::{Asker, NewPassword};
use crate::batch::Command;
use crate::driver::Driver;
use crate::hasher::{Checked, PasswordDone, PasswordJob, PasswordResult, Task, Ticket};
use crate::limits::{Attempt, Place, TooMany};
use crate::workers::Origin;

impl Driver {
    /// Starts a log-in.
    pub(crate) fn login(
        &mut self,
        origin: Origin,
        name: &UserName,
        pass: HashedPass,
        expirable: bool,
    ) -> Result<(), Failure> {
        let account = self.accounts.find(name);
        let attempt = self.attempt(origin, name, account)?;
        let (against, checked) = self.accounts.check_of(account);
        let ticket = Ticket::Login { origin, attempt, checked, expirable };
        self.hash(ticket, Task::Verify(pass, against))
    }

    /// Starts a registration.
    pub(crate) fn register(
        &mut self,
        origin: Origin,
        name: UserName,
        email: Email,
        pass: HashedPass,
    ) -> Result<(), Failure> {
        let place = Place { client: origin.client.ip(), worker: origin.worker };
        let now = self.clock.now();
        let charge = self.accounts.limits.registration(place, now)?;
        if self.accounts.find(&name).is_some() {
            self.accounts.limits.give_registration_back(charge, now);
            return Err(Reason::NameTaken.into());
        }
        let ticket = Ticket::Register { origin, charge, name, email };
        self.hash(ticket, Task::Hash(pass))
    }

    /// Starts to change a password.
    pub(crate) fn change_password(
        &mut self,
        origin: Origin,
        session: SessionId,
        old: HashedPass,
        new: HashedPass,
    ) -> Result<(), Failure> {
        let now = self.clock.now();
        let (account, session) = self.accounts.sessions.identify(origin.link, session, now)?;
        if old == new {
            return Err(Reason::SamePassword.into());
        }
        let profile = self.accounts.profile(account).ok_or(Reason::UnknownUser)?;
        let name = profile.name.clone();
        let attempt = self.attempt(origin, &name, Some(account))?;
        let (against, checked) = self.accounts.check_of(Some(account));
        let ticket = Ticket::Change { origin, session, attempt, checked };
        self.hash(ticket, Task::Change(old, against, new))
    }

    /// Charges an attempt at a password.
    fn attempt(
        &mut self,
        origin: Origin,
        name: &UserName,
        account: Option<AccountId>,
    ) -> Result<Attempt, TooMany> {
        let place = Place { client: origin.client.ip(), worker: origin.worker };
        let charged = self.accounts.limits.attempt(name, account, place, self.clock.now());
        if let Err(TooMany { say_of_worker: true, .. }) = charged {
            let worker = self.workers.name(origin.link);
            warn!(worker, "too many passwords are wrong through this worker: refusing log-ins");
        }
        charged
    }

    /// Hands a job to the hashers. If they are busy, what was charged is given back for the job that
    /// has no place: this one, or one of a worker with more.
    fn hash(&mut self, ticket: Ticket, task: Task) -> Result<(), Failure> {
        let worker = ticket.origin().worker;
        let job = PasswordJob { ticket: Box::new(ticket), task };
        let Some(left) = self.accounts.hasher.submit(job) else { return Ok(()) };
        let (origin, now) = (left.origin(), self.clock.now());
        match *left {
            Ticket::Login { attempt, .. } | Ticket::Change { attempt, .. } => {
                self.accounts.limits.give_back(attempt, now);
            }
            Ticket::Register { charge, .. } => {
                self.accounts.limits.give_registration_back(charge, now);
            }
        }
        if origin.worker == worker {
            return Err(Reason::Busy.into());
        }
        self.refuse(origin, Reason::Busy);
        Ok(())
    }

    /// Proves a session through a worker's link.
    pub(crate) fn resume(&mut self, origin: Origin, session: SessionId) -> Result<(), Failure> {
        let (lifetimes, now) = (self.lifetimes(), self.clock.now());
        self.room(origin.worker)?;
        let sessions = &mut self.accounts.sessions;
        let (account, expires) =
            sessions.resume(origin.link, origin.worker, session, lifetimes, now)?;
        if !self.accounts.is_exposed(account, origin.worker) {
            self.enqueue(Command::Expose { account, worker: origin.worker });
        }
        let name = self.accounts.name(account);
        self.answer(origin, &Return::Session(SessionGrant { session, expires, name }));
        Ok(())
    }

    /// Ends one session.
    pub(crate) fn logout(&mut self, origin: Origin, session: SessionId) -> Result<(), Failure> {
        let now = self.clock.now();
        let (_, key) = self.accounts.sessions.identify(origin.link, session, now)?;
        if !self.accounts.sessions.end(key) {
            return Err(Reason::SessionExpired.into());
        }
        self.enqueue(Command::EndSessions { keys: vec![key], asker: Asker::Link(origin) });
        Ok(())
    }

    /// Ends all sessions of the account.
    pub(crate) fn logout_everywhere(
        &mut self,
        origin: Origin,
        session: SessionId,
    ) -> Result<(), Failure> {
        let now = self.clock.now();
        let (account, _) = self.accounts.sessions.identify(origin.link, session, now)?;
        self.room(origin.worker)?;
        self.enqueue(Command::EndAllSessions { account, asker: Asker::Link(origin) });
        Ok(())
    }

    /// A password is checked or hashed.
    pub(crate) fn password(&mut self, done: PasswordDone) {
        let origin = done.ticket.origin();
        match self.command_of(done) {
            Ok(command) => match self.room(origin.worker) {
                Ok(()) => self.enqueue(command),
                Err(busy) => {
                    // The worker has seen the right password all the same. There is one such row
                    // for an account and a worker, however often it is busy.
                    if let Command::StartSession { checked: Checked { account, .. }, .. } = command
                        && !self.accounts.is_exposed(account, origin.worker)
                    {
                        self.enqueue(Command::Expose { account, worker: origin.worker });
                    }
                    self.refuse(origin, busy);
                }
            },
            Err(reason) => self.refuse(origin, reason),
        }
    }

    /// What a checked or hashed password is good for.
    fn command_of(&mut self, done: PasswordDone) -> Result<Command, Reason> {
        let (limits, now) = (&mut self.accounts.limits, self.clock.now());
        match (*done.ticket, done.result) {
            (
                Ticket::Login { origin, attempt, checked: Some(checked), expirable },
                PasswordResult::Verified(true),
            ) => {
                limits.succeeded(attempt, checked.account, now);
                Ok(Command::StartSession { origin, checked, expirable })
            }
            (
                Ticket::Change { origin, session, attempt, checked: Some(checked) },
                PasswordResult::Hashed(Some(pass_hash)),
            ) => {
                limits.succeeded(attempt, checked.account, now);
                let new = NewPassword { origin, session, checked, pass_hash };
                Ok(Command::ChangePassword(Box::new(new)))
            }
            (
                Ticket::Register { origin, name, email, .. },
                PasswordResult::Hashed(Some(pass_hash)),
            ) => Ok(Command::Register { origin, name, email, pass_hash }),
            (Ticket::Login { attempt, .. }, PasswordResult::Verified(_))
            | (Ticket::Change { attempt, .. }, PasswordResult::Hashed(_)) => {
                limits.failed(attempt);
                Err(Reason::BadCredentials)
            }
            (Ticket::Login { attempt, .. } | Ticket::Change { attempt, .. }, _) => {
                error!("a password could not be checked");
                limits.give_back(attempt, now);
                Err(Reason::Unavailable)
            }
            (Ticket::Register { .. }, _) => {
                error!("a password could not be hashed");
                Err(Reason::Unavailable)
            }
        }
    }
}
