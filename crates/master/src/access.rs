//! Who may do what: the driver's part of accounts and authorization.
//!
//! Commands that start and end sessions, change passwords, disable and enable accounts are judged
//! here, and their effects taken after the commit. Those that change what others are judged by
//! (`Command::is_alone`) have a batch to themselves, so that memory is all that must be looked at
//! to judge them.
//!
//! Invariant: a session starts, and a password changes, only if the password that was checked is
//! still the account's when the command is judged; no session starts and no account is made through
//! a worker that is known to be in wrong hands.

use papertrader_core::ids::{AccountId, OrderId, WorkerId};
use papertrader_core::time::Moment;
use papertrader_node::info;
use papertrader_protocol::link::SessionEnded;
use papertrader_protocol::returns::{Return, SessionGrant};
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Header, Instruction, Reason, SessionId};
use papertrader_store::{Change, NewAccount, PassHash, Profile, SessionKey, StoredSession};

use crate::batch::{Command, Effect, Judging};
use crate::driver::{Driver, MasterError};
use crate::hasher::Checked;
use crate::sessions::{Lifetimes, session_key};
use crate::workers::Origin;

/// Who is told what became of a command.
#[derive(Debug)]
pub(crate) enum Asker {
    /// A client, over its worker's link.
    Link(Origin),
    /// Nobody: the master itself wants it, or the operator, who is answered by `admin`.
    Nobody,
}

/// A new password that is to replace the one that was checked.
#[derive(Debug)]
pub(crate) struct NewPassword {
    pub(crate) origin: Origin,
    /// With which session, which goes on.
    pub(crate) session: SessionKey,
    pub(crate) checked: Checked,
    pub(crate) pass_hash: PassHash,
}

impl Driver {
    /// From time to time: sessions whose time is over end, and uses are stored.
    pub(crate) fn tend_sessions(&mut self) {
        let due = self.accounts.sessions.due(self.lifetimes(), self.clock.now());
        if !due.over.is_empty() {
            self.enqueue(Command::EndSessions { keys: due.over, asker: Asker::Nobody });
        }
        if !due.used.is_empty() {
            self.enqueue(Command::UseSessions(due.used));
        }
    }

    pub(crate) fn lifetimes(&self) -> Lifetimes {
        Lifetimes { idle: self.config.session_idle, grace: self.config.session_grace }
    }

    // Judging.

    /// Judges a registration.
    pub(crate) fn judge_registration(
        &mut self,
        origin: Origin,
        mut profile: Profile,
        judging: &mut Judging,
    ) {
        if self.workers.is_compromised(origin.worker, judging.now) {
            // Whoever has the worker has the password.
            return judging.effects.push(Effect::Refuse(origin, Reason::NotAuthorized.into()));
        }
        if self.accounts.find(&profile.name).is_some() || !judging.names.insert(profile.name.key())
        {
            return judging.effects.push(Effect::Refuse(origin, Reason::NameTaken.into()));
        }
        profile.since = judging.now;
        let moment = Moment { wall: judging.now, market: self.books.head().market };
        let id = judging.next_account;
        judging.next_account = AccountId(id.0 + 1);
        let account = NewAccount { id, profile, grant: self.config.starting_cash, moment };
        judging.changes.push(Change::OpenAccount(account.clone()));
        judging.changes.push(Change::Expose { account: id, worker: origin.worker });
        judging.effects.push(Effect::Opened(Box::new(account), origin));
    }

    /// Judges a log-in whose password was right.
    pub(crate) fn judge_login(
        &mut self,
        origin: Origin,
        checked: &Checked,
        expirable: bool,
        judging: &mut Judging,
    ) -> Result<(), MasterError> {
        let account = checked.account;
        let mut refuse =
            |reason: Reason| judging.effects.push(Effect::Refuse(origin, reason.into()));
        if !self.accounts.is_current(checked) {
            refuse(Reason::BadCredentials);
            return Ok(());
        }
        if self.workers.is_compromised(origin.worker, judging.now) {
            // The password was still being checked when the worker was booted: it has seen it too.
            refuse(Reason::NotAuthorized);
            let sessions = self.end_in(self.accounts.sessions.of(account).to_vec(), judging);
            judging.changes.push(Change::RequirePassword(account));
            let accounts = vec![account];
            judging.effects.push(Effect::Compromised { accounts, sessions });
            return Ok(());
        }
        // Whatever becomes of the log-in, the worker has seen the right password.
        if !self.accounts.is_exposed(account, origin.worker) {
            judging.changes.push(Change::Expose { account, worker: origin.worker });
            judging.effects.push(Effect::Exposed(account, origin.worker));
        }
        if self.books.account(account).is_none_or(|account| account.disabled) {
            let disabled = Reason::AccountDisabled.into();
            judging.effects.push(Effect::Refuse(origin, disabled));
            return Ok(());
        }
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        let id = SessionId::from_bytes(bytes);
        let life = i64::try_from(self.config.session_lifetime.as_nanos()).unwrap_or(i64::MAX);
        let session = StoredSession {
            key: session_key(&id),
            account,
            expires: judging.now.plus_nanos(life),
            expirable,
            client: origin.client.ip(),
            started: judging.now,
            used: judging.now,
        };
        judging.changes.push(Change::StartSession(session.clone()));
        judging.effects.push(Effect::Started(id, Box::new(session), origin));
        Ok(())
    }

    /// Judges the end of sessions.
    pub(crate) fn judge_ends(
        &mut self,
        keys: Vec<SessionKey>,
        asker: Asker,
        judging: &mut Judging,
    ) {
        let keys = self.end_in(keys, judging);
        judging.effects.push(Effect::Ended(keys, asker));
    }

    /// Ends those of the sessions that are there, and are not ended in this batch already.
    fn end_in(&mut self, mut keys: Vec<SessionKey>, judging: &mut Judging) -> Vec<SessionKey> {
        let sessions = &mut self.accounts.sessions;
        keys.retain(|key| sessions.is_there(*key) && judging.ended.insert(*key));
        for key in &keys {
            sessions.end(*key);
            judging.changes.push(Change::EndSession(*key));
        }
        keys
    }

    /// Judges a new password.
    pub(crate) fn judge_password(&mut self, new: Box<NewPassword>, judging: &mut Judging) {
        let refuse = |judging: &mut Judging, reason: Reason| {
            judging.effects.push(Effect::Refuse(new.origin, reason.into()));
        };
        let account = new.checked.account;
        if !self.accounts.sessions.goes_on(new.session) {
            return refuse(judging, Reason::SessionExpired);
        }
        if !self.accounts.is_current(&new.checked) {
            return refuse(judging, Reason::BadCredentials);
        }
        judging.changes.push(Change::SetPassword {
            account,
            pass_hash: new.pass_hash.clone(),
            through: Some(new.origin.worker),
        });
        // The session that goes on may have passed through others before.
        for worker in self.accounts.sessions.seen_by(new.session) {
            if *worker != new.origin.worker {
                judging.changes.push(Change::Expose { account, worker: *worker });
            }
        }
        let mut others = self.accounts.sessions.of(account).to_vec();
        others.retain(|key| *key != new.session);
        let others = self.end_in(others, judging);
        judging.effects.push(Effect::PasswordSet(new, others));
    }

    /// Judges the disabling of an account: first its orders are cancelled and its sessions end.
    /// False if it is disabled already. For work that has its batch to itself.
    pub(crate) fn judge_disabling(&mut self, account: AccountId, judging: &mut Judging) -> bool {
        if self.books.account(account).is_none_or(|account| account.disabled) {
            return false;
        }
        let moment = Moment { wall: judging.now, market: self.books.head().market };
        let open = self.books.open_orders_of(account);
        let orders: Vec<OrderId> = open.iter().map(|open| open.order.id).collect();
        for order in &orders {
            judging.changes.push(Change::CancelOrder { order: *order, moment });
        }
        let sessions = self.end_in(self.accounts.sessions.of(account).to_vec(), judging);
        judging.changes.push(Change::DisableAccount(account));
        judging.effects.push(Effect::Disabled { account, orders, sessions });
        true
    }

    /// Judges the enabling of an account. False if it is not disabled. For work that has its batch
    /// to itself.
    pub(crate) fn judge_enabling(&mut self, account: AccountId, judging: &mut Judging) -> bool {
        if self.books.account(account).is_none_or(|account| !account.disabled) {
            return false;
        }
        judging.changes.push(Change::EnableAccount(account));
        judging.effects.push(Effect::Enabled(account));
        true
    }

    /// Judges that a worker is in wrong hands: the sessions of everybody who was exposed to it end,
    /// and they must choose new passwords. For work that has its batch to itself, together with the
    /// worker's boot.
    pub(crate) fn judge_compromise(&mut self, worker: WorkerId, judging: &mut Judging) {
        let mut accounts = self.accounts.compromised(worker);
        let keys = accounts.iter().flat_map(|account| self.accounts.sessions.of(*account));
        let sessions = self.end_in(keys.copied().collect(), judging);
        // Who has no password has none to change.
        accounts.retain(|id| self.accounts.profile(*id).is_some_and(|p| p.pass_hash.is_some()));
        judging.changes.extend(accounts.iter().copied().map(Change::RequirePassword));
        judging.effects.push(Effect::Compromised { accounts, sessions });
    }

    // Taking effect.

    /// An account is stored.
    pub(crate) fn opened(
        &mut self,
        account: NewAccount,
        origin: Origin,
    ) -> Result<(), MasterError> {
        self.books.open_account(account.grant)?;
        let name = account.profile.name.to_string();
        self.accounts.opened(account.id, account.profile);
        self.accounts.exposed(account.id, origin.worker);
        self.answer(origin, &Return::Registered(name));
        Ok(())
    }

    /// A session is stored.
    pub(crate) fn started(&mut self, id: SessionId, session: StoredSession, origin: Origin) {
        let (account, expires, now) = (session.account, session.expires, self.clock.now());
        // Without its link nobody is told its ID: it ends like any session without a connection.
        let link = self.workers.link(origin.link).map(|_| origin.link);
        self.accounts.sessions.started(id, session, link, origin.worker, now);
        let most = self.config.sessions_per_account;
        let surplus = self.accounts.sessions.surplus(account, most, now);
        if !surplus.is_empty() {
            self.enqueue(Command::EndSessions { keys: surplus, asker: Asker::Nobody });
        }
        let name = self.accounts.name(account);
        self.answer(origin, &Return::Session(SessionGrant { session: id, expires, name }));
    }

    /// The ends of sessions are stored: all workers that know them are told.
    pub(crate) fn ended(&mut self, keys: Vec<SessionKey>) {
        for key in keys {
            let Some((session, links)) = self.accounts.sessions.ended(key) else { continue };
            let instruction = Instruction::SessionEnded;
            let header = Header::new(instruction.message_type(), instruction as u16, 0);
            let data = SessionEnded { session }.to_bytes();
            for link in links {
                self.workers.say(link, |out| header.encode(&data, out));
            }
        }
    }

    /// A new password is stored.
    pub(crate) fn password_set(&mut self, new: NewPassword, others: Vec<SessionKey>) {
        let mut through = self.accounts.sessions.seen_by(new.session).to_vec();
        through.push(new.origin.worker);
        self.accounts.password_set(new.checked.account, new.pass_hash, &through);
        self.ended(others);
        self.answer(new.origin, &Return::PasswordChanged);
    }

    /// The disabling of an account is stored.
    pub(crate) fn disabled(
        &mut self,
        account: AccountId,
        orders: Vec<OrderId>,
        sessions: Vec<SessionKey>,
    ) -> Result<(), MasterError> {
        for order in orders {
            self.cancelled_by_master(order)?;
        }
        self.ended(sessions);
        self.books.disable(account)?;
        info!(account = account.0, "an account is disabled");
        Ok(())
    }

    /// What follows from a compromised worker is stored.
    pub(crate) fn compromised(&mut self, accounts: Vec<AccountId>, sessions: Vec<SessionKey>) {
        info!(
            accounts = accounts.len(),
            sessions = sessions.len(),
            "sessions have ended and new passwords are due: their worker is in wrong hands"
        );
        for account in accounts {
            self.accounts.password_required(account);
        }
        self.ended(sessions);
    }

    /// The ends of sessions could not be stored.
    pub(crate) fn go_on(&mut self, keys: &[SessionKey]) {
        for key in keys {
            self.accounts.sessions.end_failed(*key);
        }
    }

    /// Tells whoever asked for an end of sessions that it is stored.
    pub(crate) fn logged_out(&mut self, asker: Asker) {
        if let Asker::Link(origin) = asker {
            self.answer(origin, &Return::LoggedOut);
        }
    }

    /// Tells whoever asked that nothing was stored.
    pub(crate) fn not_stored(&mut self, asker: Asker) {
        if let Asker::Link(origin) = asker {
            self.refuse(origin, Reason::Unavailable);
        }
    }
}
