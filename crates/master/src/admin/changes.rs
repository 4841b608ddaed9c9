//! What the operator changes: the registry of workers, sessions, accounts.
//!
//! A change waits at the head of the queue of durable work, and is a batch of its own: it is judged
//! when the batch under way is stored, by what all batches before it have made of the memory.
//!
//! Invariant: registry, links, sessions, accounts and the answer follow the commit, in this order.

use papertrader_core::ids::WorkerId;
use papertrader_core::time::WallTime;
use papertrader_node::info;
use papertrader_node::link::{Network, default_id};
use papertrader_node::openpgp::Certificate;
use papertrader_store::{Boot, Change, WorkerRow};

use super::Answer;
use super::message::{
    AdminError, AdminReply, AdminRequest, MAX_ADDRESSES, NewWorker, SessionsRevoked, Stamp,
    UserDisabled, UserEnabled, WorkerAdded, WorkerAdmitted, WorkerBooted, WorkerRemoved, shown,
};
use crate::access::Asker;
use crate::batch::{Effect, Judging, Work, Writing};
use crate::driver::{Driver, MasterError};
use crate::registry::{Registry, is_booted, stolen_key};
use crate::trading::Known;
use crate::workers::LinkId;

/// Longest name of a worker, in characters.
const MAX_NAME: usize = 32;
/// Shortest boot, in milliseconds.
const SHORTEST_BOOT: u64 = 1_000;

/// A change that is being written.
pub(crate) struct Administering {
    registry: RegistryChange,
    /// What else it does.
    effects: Vec<Effect>,
    reply: Reply,
    answer: Answer,
}

/// Who is taken off the registry, and then who is put into it.
struct RegistryChange {
    remove: Option<WorkerId>,
    put: Option<WorkerRow>,
}

/// The answer once the change is made; it is told whether a link was cut.
type Reply = Box<dyn FnOnce(bool) -> AdminReply + Send>;

/// What becomes of the registry, and what is answered.
type Judged = Result<(RegistryChange, Reply), AdminError>;

impl RegistryChange {
    fn none() -> RegistryChange {
        RegistryChange { remove: None, put: None }
    }

    fn put(row: WorkerRow) -> RegistryChange {
        RegistryChange { remove: None, put: Some(row) }
    }

    /// What is written for it.
    fn changes(&self) -> impl Iterator<Item = Change> {
        let remove = self.remove.map(Change::RemoveWorker);
        let stolen = self.put.as_ref().and_then(stolen_key).map(Change::KeyStolen);
        remove.into_iter().chain(self.put.clone().map(Change::PutWorker)).chain(stolen)
    }

    fn concerns(&self, worker: WorkerId) -> bool {
        self.remove == Some(worker) || self.put.as_ref().is_some_and(|row| row.id == worker)
    }
}

impl Driver {
    /// The operator asks: reads are answered at once, changes wait for their turn.
    pub(crate) fn admin(&mut self, request: AdminRequest, answer: Answer, draining: bool) {
        let reply = match request {
            AdminRequest::Status {} => Ok(self.admin_status()),
            AdminRequest::ListWorkers {} => Ok(self.admin_workers()),
            AdminRequest::ShowWorker { name } => self.admin_worker(&name),
            AdminRequest::ListSessions { user } => self.admin_sessions(user.as_deref()),
            AdminRequest::ListUsers { after } => Ok(self.admin_users(after)),
            AdminRequest::ShowUser { name } => self.admin_user(&name),
            _ if draining => Err(AdminError::ShuttingDown),
            change => {
                // Before everything that workers have sent, and after other changes.
                let at = self.changes_waiting();
                self.queue.insert(at, Work::Admin(Box::new(change), answer));
                return;
            }
        };
        // Whoever does not wait for the answer any more does not need it.
        let _ = answer.send(reply.unwrap_or_else(AdminReply::from));
    }

    /// A change's turn has come.
    pub(crate) fn administer(
        &mut self,
        request: AdminRequest,
        answer: Answer,
    ) -> Result<(), MasterError> {
        let now = self.clock.now();
        let mut judging = Judging::new(now, Known::new(), self.books.next_account());
        match self.judge_admin(request, &mut judging) {
            Err(error) => {
                let _ = answer.send(error.into());
                Ok(())
            }
            Ok((registry, reply)) => {
                let Judging { mut changes, effects, .. } = judging;
                changes.extend(registry.changes());
                let administering = Administering { registry, effects, reply, answer };
                if changes.is_empty() {
                    return self.administered(administering);
                }
                self.commit(changes, now);
                self.writing = Writing::Administering(Box::new(administering));
                Ok(())
            }
        }
    }

    /// A change is durable.
    pub(crate) fn administered(&mut self, done: Administering) -> Result<(), MasterError> {
        let Administering { registry, effects, reply, answer } = done;
        let links = self.workers.links().filter(|(_, link)| registry.concerns(link.worker));
        let links: Vec<LinkId> = links.map(|(id, _)| id).collect();
        let put = registry.put.as_ref().map(|row| row.id);
        let concerned: Vec<WorkerId> = registry.remove.into_iter().chain(put).collect();
        if let Some(id) = registry.remove {
            self.workers.unregister(id);
        }
        if let Some(row) = registry.put {
            let mut unreadable = None;
            self.workers.register(|registry| unreadable = registry.put(row).err());
            if let Some(error) = unreadable {
                // It was read before it was written.
                return Err(MasterError::Writing(format!("the registry of workers: {error}")));
            }
        }
        self.cut_forbidden();
        let cut = links.into_iter().any(|id| self.workers.link(id).is_none());
        for worker in concerned {
            if self.workers.link_of(worker).is_none() {
                self.drop_orders(worker);
            }
        }
        self.take_effect(effects)?;
        let reply = reply(cut);
        info!(?reply, "done for the operator");
        let _ = answer.send(reply);
        Ok(())
    }

    /// A change was not stored: nothing was done.
    pub(crate) fn not_administered(&mut self, done: Administering) {
        for effect in done.effects {
            self.undone(effect);
        }
        let _ = done.answer.send(AdminError::Unavailable.into());
    }

    fn judge_admin(&mut self, request: AdminRequest, judging: &mut Judging) -> Judged {
        match request {
            AdminRequest::AddWorker(new) => self.judge_add(&new, judging),
            AdminRequest::RemoveWorker { name } => {
                let WorkerRow { id, name, .. } = self.registered(&name)?;
                let uuid = id.to_string();
                let reply = move |link_cut| {
                    AdminReply::WorkerRemoved(WorkerRemoved { name, uuid, link_cut })
                };
                Ok((RegistryChange { remove: Some(id), put: None }, Box::new(reply)))
            }
            AdminRequest::BootWorker { name, for_ms, compromised } => {
                self.judge_boot(&name, for_ms, compromised, judging)
            }
            AdminRequest::AdmitWorker { name } => {
                let row = self.registered(&name)?;
                let boot = row.booted.filter(|_| is_booted(&row, judging.now));
                if boot.is_some_and(|boot| boot.compromised) {
                    return Err(AdminError::Compromised(row.name));
                }
                let was_booted = boot.is_some();
                let reply =
                    move |_| AdminReply::WorkerAdmitted(WorkerAdmitted { name, was_booted });
                let row = WorkerRow { booted: None, ..row };
                let registry = RegistryChange { remove: None, put: was_booted.then_some(row) };
                Ok((registry, Box::new(reply)))
            }
            AdminRequest::RevokeSession { handle } => {
                let key = self.accounts.find_session(&handle);
                let key = key.ok_or_else(|| AdminError::UnknownSession(shown(&handle)))?;
                let user = self.accounts.sessions.account(key).map(|id| self.accounts.name(id));
                self.judge_ends(vec![key], Asker::Nobody, judging);
                Ok((RegistryChange::none(), revoked(user.unwrap_or_default(), judging)))
            }
            AdminRequest::RevokeSessions { user } => {
                let account = self.admin_find(&user)?;
                let keys = self.accounts.sessions_of(account).to_vec();
                self.judge_ends(keys, Asker::Nobody, judging);
                Ok((RegistryChange::none(), revoked(self.accounts.name(account), judging)))
            }
            AdminRequest::DisableUser { name } => {
                let account = self.admin_find(&name)?;
                let was_disabled = !self.judge_disabling(account, judging);
                let (orders_cancelled, sessions_ended) = match judging.effects.last() {
                    Some(Effect::Disabled { orders, sessions, .. }) => {
                        (orders.len() as u64, sessions.len() as u64)
                    }
                    _ => (0, 0),
                };
                let user = self.accounts.name(account);
                let done = UserDisabled { user, was_disabled, orders_cancelled, sessions_ended };
                Ok((RegistryChange::none(), Box::new(|_| AdminReply::UserDisabled(done))))
            }
            AdminRequest::EnableUser { name } => {
                let account = self.admin_find(&name)?;
                let was_disabled = self.judge_enabling(account, judging);
                let done = UserEnabled { user: self.accounts.name(account), was_disabled };
                Ok((RegistryChange::none(), Box::new(|_| AdminReply::UserEnabled(done))))
            }
            // Answered at once, never queued.
            AdminRequest::Status {}
            | AdminRequest::Verify {}
            | AdminRequest::BackUp { .. }
            | AdminRequest::Export { .. }
            | AdminRequest::ListWorkers {}
            | AdminRequest::ShowWorker { .. }
            | AdminRequest::ListSessions { .. }
            | AdminRequest::ListUsers { .. }
            | AdminRequest::ShowUser { .. } => Err(AdminError::BadRequest("not a change".into())),
        }
    }

    fn registered(&self, name: &str) -> Result<WorkerRow, AdminError> {
        let registry = self.workers.registry();
        registry.by_name(name).cloned().ok_or_else(|| AdminError::UnknownWorker(shown(name)))
    }

    fn judge_add(&self, new: &NewWorker, judging: &Judging) -> Judged {
        let registry = self.workers.registry();
        let (row, key) = judge_new(new, &registry, judging.now)?;
        let key = key.fingerprint().to_string();
        if key == self.about.key {
            return Err(AdminError::KeyTaken("the master itself".into()));
        }
        if registry.is_stolen(&key) {
            return Err(AdminError::CompromisedKey);
        }
        // Whoever has its UUID or its name is replaced.
        let is_before = |before: &&WorkerRow| before.id == row.id || before.name == row.name;
        let before: Vec<&WorkerRow> = registry.rows().filter(is_before).collect();
        let remove = before.iter().find(|before| before.id != row.id).map(|before| before.id);
        let added = WorkerAdded {
            name: row.name.clone(),
            uuid: row.id.to_string(),
            key,
            addresses: new.addresses.clone(),
            replaced: !before.is_empty(),
            boot_lifted: before.iter().any(|before| is_booted(before, judging.now)),
            link_cut: false,
        };
        let reply = move |link_cut| AdminReply::WorkerAdded(WorkerAdded { link_cut, ..added });
        Ok((RegistryChange { remove, put: Some(row) }, Box::new(reply)))
    }

    fn judge_boot(
        &mut self,
        name: &str,
        for_ms: Option<u64>,
        compromised: bool,
        judging: &mut Judging,
    ) -> Judged {
        let row = self.registered(name)?;
        if for_ms.is_some_and(|ms| ms < SHORTEST_BOOT) {
            return Err(AdminError::BadDuration);
        }
        let (mut sessions_ended, mut passwords_due) = (0, 0);
        if compromised {
            self.judge_compromise(row.id, judging);
            if let Some(Effect::Compromised { accounts, sessions }) = judging.effects.last() {
                sessions_ended = sessions.len() as u64;
                passwords_due = accounts.len() as u64;
            }
        }
        // What is in wrong hands stays there.
        let before = row.booted.filter(|_| is_booted(&row, judging.now));
        let compromised = compromised || before.is_some_and(|boot| boot.compromised);
        // No time makes a stolen key good again.
        let until = for_ms.filter(|_| !compromised).map(|ms| {
            let nanos = i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000_000);
            judging.now.plus_nanos(nanos)
        });
        let booted = WorkerBooted {
            name: row.name.clone(),
            until: until.map(Stamp::from),
            compromised,
            link_cut: false,
            sessions_ended,
            passwords_due,
        };
        let row = WorkerRow { booted: Some(Boot { until, compromised }), ..row };
        let reply = move |link_cut| AdminReply::WorkerBooted(WorkerBooted { link_cut, ..booted });
        Ok((RegistryChange::put(row), Box::new(reply)))
    }
}

fn revoked(user: String, judging: &Judging) -> Reply {
    let sessions_ended = match judging.effects.last() {
        Some(Effect::Ended(keys, _)) => keys.len() as u64,
        _ => 0,
    };
    Box::new(move |_| AdminReply::SessionsRevoked(SessionsRevoked { user, sessions_ended }))
}

/// The row of a worker that is to be registered, and its key.
fn judge_new(
    new: &NewWorker,
    registry: &Registry,
    now: WallTime,
) -> Result<(WorkerRow, Certificate), AdminError> {
    if !is_name(&new.name) {
        return Err(AdminError::BadWorkerName(shown(&new.name)));
    }
    let bad_key = |words: String| AdminError::BadKey(words);
    let key =
        from_hex(&new.key).ok_or_else(|| bad_key("it is not in hexadecimal digits".into()))?;
    let key = Certificate::parse(&key).map_err(|error| bad_key(error.to_string()))?;
    key.usable(now).map_err(|problem| AdminError::UnusableKey(problem.to_string()))?;
    let known = registry.by_name(&new.name);
    let id = match (&new.uuid, known) {
        (Some(text), _) => uuid(text).ok_or_else(|| AdminError::BadUuid(shown(text)))?,
        (None, Some(row)) => replaced_id(row, registry.key(row.id), &key),
        (None, None) => default_id(&key),
    };
    // Who says the UUID means this worker and no other.
    if let Some(other) = known.filter(|row| row.id != id && new.uuid.is_some()) {
        let (name, uuid) = (new.name.clone(), other.id.to_string());
        return Err(AdminError::WorkerNameTaken { name, uuid });
    }
    let has_it =
        |id| registry.key(id).is_some_and(|other| other.fingerprint() == key.fingerprint());
    // Without a UUID a key that is registered under another name is a mistake, not a renaming.
    let is_another = |row: &&WorkerRow| row.id != id || new.uuid.is_none() && row.name != new.name;
    if let Some(other) = registry.rows().filter(is_another).find(|row| has_it(row.id)) {
        return Err(AdminError::KeyTaken(format!("worker '{}'", other.name)));
    }
    if new.addresses.is_empty() || new.addresses.len() > MAX_ADDRESSES {
        return Err(AdminError::AddressesNeeded);
    }
    for text in &new.addresses {
        text.parse::<Network>()
            .map_err(|error| AdminError::BadAddress(shown(&error.to_string())))?;
    }
    let row = WorkerRow {
        id,
        name: new.name.clone(),
        allowed: new.addresses.join(","),
        key: Some(key.to_bytes().to_vec()),
        booted: None,
    };
    Ok((row, key))
}

/// The UUID of a worker that is registered anew under its name, with the key `new`. One that
/// `init worker` chose goes with the key: it is another with another key, because the worker was set
/// up anew. One that was chosen by hand stays.
fn replaced_id(row: &WorkerRow, old: Option<&Certificate>, new: &Certificate) -> WorkerId {
    let is_new =
        old.is_some_and(|old| old.fingerprint() != new.fingerprint() && row.id == default_id(old));
    if is_new { default_id(new) } else { row.id }
}

fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(fits)
}

/// A worker's UUID, in its usual form; the one that is all zero is nobody's.
fn uuid(text: &str) -> Option<WorkerId> {
    let uuid = uuid::Uuid::parse_str(text).ok()?;
    (text.len() == 36 && !uuid.is_nil()).then(|| WorkerId(uuid.into_bytes()))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| Some(char::from(byte).to_digit(16)? as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use papertrader_core::time::SECOND;
    use papertrader_node::openpgp::Identity;

    const NOW: WallTime = WallTime(1_770_000_000 * SECOND);
    const UUID: &str = "0b9a3c52-7f0e-4f3c-9a61-2d1f8a3c4b5d";

    fn key(user_id: &str) -> String {
        let identity = Identity::generate(user_id, NOW).unwrap();
        identity.certificate().to_bytes().iter().map(|byte| format!("{byte:02X}")).collect()
    }

    fn new(name: &str, uuid: Option<&str>, key: &str) -> NewWorker {
        let addresses = vec!["10.0.0.0/8".into(), "::1".into()];
        NewWorker { name: name.into(), uuid: uuid.map(str::to_owned), key: key.into(), addresses }
    }

    fn code(new: &NewWorker, registry: &Registry) -> &'static str {
        judge_new(new, registry, NOW).unwrap_err().code()
    }

    #[test]
    fn what_is_registered_is_checked_before() {
        let mut registry = Registry::default();
        let (one, two) = (key("one"), key("two"));
        let good = new("one", Some(UUID), &one);
        let (row, _) = judge_new(&good, &registry, NOW).unwrap();
        assert_eq!((row.id.to_string().as_str(), row.allowed.as_str()), (UUID, "10.0.0.0/8,::1"));
        registry.put(row).unwrap();

        for bad in ["", "a b", "a/b", "ä", &"x".repeat(33)] {
            assert_eq!(code(&new(bad, Some(UUID), &one), &registry), "badWorkerName", "{bad}");
        }
        let nil = "00000000-0000-0000-0000-000000000000";
        for bad in ["", "1", nil, &UUID.replace('-', "")] {
            assert_eq!(code(&new("two", Some(bad), &two), &registry), "badUuid", "{bad}");
        }
        for bad in ["", "0", "xy", "00ff", &one[..one.len() - 2]] {
            assert_eq!(code(&new("two", Some(UUID), bad), &registry), "badKey", "{bad}");
        }
        let other = UUID.replace('0', "1");
        assert_eq!(code(&new("one", Some(&other), &two), &registry), "workerNameTaken");
        assert_eq!(code(&new("two", Some(&other), &one), &registry), "keyTaken");
        let none = NewWorker { addresses: Vec::new(), ..good.clone() };
        assert_eq!(code(&none, &registry), "addressesNeeded");
        for bad in ["ten", "10.0.0.0/33", "10.0.0.1,10.0.0.2"] {
            let bad = NewWorker { addresses: vec![bad.into()], ..good.clone() };
            assert_eq!(code(&bad, &registry), "badAddress");
        }
        // A key from the future is as unusable as an expired one.
        let early = judge_new(&good, &registry, WallTime(0)).unwrap_err();
        assert_eq!(early.code(), "unusableKey");
    }

    #[test]
    fn a_uuid_comes_from_the_registry_or_from_the_key() {
        let mut registry = Registry::default();
        let (row, _) = judge_new(&new("one", Some(UUID), &key("one")), &registry, NOW).unwrap();
        registry.put(row).unwrap();
        let (row, _) = judge_new(&new("one", None, &key("one anew")), &registry, NOW).unwrap();
        assert_eq!(row.id.to_string(), UUID);
        let (row, two) = judge_new(&new("two", None, &key("two")), &registry, NOW).unwrap();
        assert_eq!(row.id, default_id(&two));
        // What `init worker` chose goes with the key.
        registry.put(row).unwrap();
        let (row, anew) = judge_new(&new("two", None, &key("two anew")), &registry, NOW).unwrap();
        assert_eq!(row.id, default_id(&anew));
        // The same worker under another name.
        let (row, _) = judge_new(&new("eins", Some(UUID), &key("x")), &registry, NOW).unwrap();
        assert_eq!((row.id.to_string().as_str(), row.name.as_str()), (UUID, "eins"));
    }
}
