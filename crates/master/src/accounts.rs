//! Accounts and authorization (specification 3.1.3): names, passwords, and which workers have seen
//! whose.
//!
//! A log-in costs the same whether the name exists or not, and whether its account has a password
//! or not. What this module does not do: it does not write. The driver stores what changes and
//! calls back here after the commit.

use std::collections::{BTreeSet, HashMap, HashSet};

use papertrader_core::ids::{AccountId, WorkerId};
use papertrader_core::names::UserName;
use papertrader_core::time::WallTime;
use papertrader_protocol::{Reason, SessionId};
use papertrader_store::{PassHash, Profile, SessionKey, StoredSession};

use crate::hasher::{self, Checked, Hasher};
use crate::limits::{Limiter, Limits, Place};
use crate::sessions::{SessionView, Sessions};
use crate::workers::LinkId;

/// All accounts and sessions.
pub(crate) struct Accounts {
    profiles: Vec<Profile>,
    by_name: HashMap<String, AccountId>,
    pub(crate) sessions: Sessions,
    /// Whose password or session passed through a worker.
    exposures: HashMap<WorkerId, HashSet<AccountId>>,
    pub(crate) hasher: Hasher,
    pub(crate) limits: Limiter,
    /// What an unknown name is checked against.
    nobody: PassHash,
}

impl Accounts {
    pub(crate) fn new(
        profiles: Vec<Profile>,
        sessions: Vec<StoredSession>,
        exposures: Vec<(AccountId, WorkerId)>,
        hasher: Hasher,
        limits: Limits,
        now: WallTime,
    ) -> Result<Accounts, argon2::password_hash::Error> {
        let ids = (1..).map(AccountId);
        let by_name = ids.zip(&profiles).map(|(id, p)| (p.name.key(), id)).collect();
        let mut accounts = Accounts {
            profiles,
            by_name,
            sessions: Sessions::default(),
            exposures: HashMap::new(),
            hasher,
            limits: Limiter::new(limits),
            nobody: hasher::hash_of_nobody()?,
        };
        let mut workers: HashMap<AccountId, Vec<WorkerId>> = HashMap::new();
        for (account, worker) in exposures {
            accounts.exposed(account, worker);
            workers.entry(account).or_default().push(worker);
        }
        for stored in sessions {
            // Which of the account's workers saw this session is not stored: any may have.
            let seen_by = workers.get(&stored.account).cloned().unwrap_or_default();
            for worker in &seen_by {
                let place = Place { client: stored.client, worker: *worker };
                accounts.limits.remember(stored.account, place);
            }
            accounts.sessions.restore(stored, seen_by, now);
        }
        Ok(accounts)
    }

    /// Who has a name.
    pub(crate) fn find(&self, name: &UserName) -> Option<AccountId> {
        self.by_name.get(&name.key()).copied()
    }

    /// The profile of an account.
    pub(crate) fn profile(&self, id: AccountId) -> Option<&Profile> {
        self.profiles.get((id.0 as usize).checked_sub(1)?)
    }

    /// The name of an account as its owner writes it.
    pub(crate) fn name(&self, id: AccountId) -> String {
        self.profile(id).map(|profile| profile.name.to_string()).unwrap_or_default()
    }

    /// What the password of an account is checked against. For nobody's, and for an account
    /// without a password, it is a hash that no password has, so that the check takes as long.
    pub(crate) fn check_of(&self, account: Option<AccountId>) -> (PassHash, Option<Checked>) {
        let stored = account.and_then(|id| Some((id, self.profile(id)?.pass_hash.clone()?)));
        match stored {
            Some((account, against)) => (against.clone(), Some(Checked { account, against })),
            None => (self.nobody.clone(), None),
        }
    }

    /// Whether a password that was checked is still the account's.
    pub(crate) fn is_current(&self, checked: &Checked) -> bool {
        let profile = self.profile(checked.account);
        profile.is_some_and(|profile| profile.pass_hash.as_ref() == Some(&checked.against))
    }

    /// The account that a frame on a link speaks for, if it may do anything.
    pub(crate) fn authorize(
        &self,
        link: LinkId,
        id: SessionId,
        now: WallTime,
    ) -> Result<AccountId, Reason> {
        let (account, _) = self.sessions.identify(link, id, now)?;
        if self.profile(account).is_none_or(|profile| profile.password_due) {
            return Err(Reason::PasswordChangeRequired);
        }
        Ok(account)
    }

    /// A worker says whether a session has a connection there. False if the session is not the
    /// link's to speak of.
    pub(crate) fn presence(
        &mut self,
        link: LinkId,
        id: SessionId,
        present: bool,
        now: WallTime,
    ) -> bool {
        self.sessions.presence(link, id, present, now)
    }

    /// A link is gone, and with it every connection of its sessions.
    pub(crate) fn link_closed(&mut self, link: LinkId, now: WallTime) {
        self.sessions.link_closed(link, now);
    }

    // Taking over what was stored.

    /// Adds an account.
    pub(crate) fn opened(&mut self, id: AccountId, profile: Profile) {
        self.by_name.insert(profile.name.key(), id);
        self.profiles.push(profile);
    }

    /// Notes that an account's password or session passed through a worker.
    pub(crate) fn exposed(&mut self, account: AccountId, worker: WorkerId) {
        self.exposures.entry(worker).or_default().insert(account);
    }

    /// Takes a new password over. Only `through` have seen it, or a session that goes on.
    pub(crate) fn password_set(
        &mut self,
        account: AccountId,
        pass_hash: PassHash,
        through: &[WorkerId],
    ) {
        if let Some(profile) = self.profile_mut(account) {
            profile.pass_hash = Some(pass_hash);
            profile.password_due = false;
        }
        for accounts in self.exposures.values_mut() {
            accounts.remove(&account);
        }
        self.exposures.retain(|_, accounts| !accounts.is_empty());
        for worker in through {
            self.exposed(account, *worker);
        }
    }

    /// Notes that an account must change its password.
    pub(crate) fn password_required(&mut self, account: AccountId) {
        if let Some(profile) = self.profile_mut(account) {
            profile.password_due = true;
        }
    }

    fn profile_mut(&mut self, id: AccountId) -> Option<&mut Profile> {
        self.profiles.get_mut((id.0 as usize).checked_sub(1)?)
    }

    // For the operator.

    /// Whether it is known that an account's password or session passed through a worker.
    pub(crate) fn is_exposed(&self, account: AccountId, worker: WorkerId) -> bool {
        self.exposures.get(&worker).is_some_and(|accounts| accounts.contains(&account))
    }

    /// Whose password or session passed through a worker, in ascending order.
    pub(crate) fn compromised(&self, worker: WorkerId) -> Vec<AccountId> {
        let stored = self.exposures.get(&worker).into_iter().flatten().copied();
        let all: BTreeSet<AccountId> = stored.chain(self.sessions.known_to(worker)).collect();
        all.into_iter().collect()
    }

    /// All sessions.
    pub(crate) fn list_sessions(&self, now: WallTime) -> impl Iterator<Item = SessionView> {
        self.sessions.list(now)
    }

    /// The one session with a handle. Two with the same are not told apart.
    pub(crate) fn find_session(&self, handle: &str) -> Option<SessionKey> {
        self.sessions.find(handle)
    }

    /// All sessions of an account, those too whose end is under way.
    pub(crate) fn sessions_of(&self, account: AccountId) -> &[SessionKey] {
        self.sessions.of(account)
    }
}
