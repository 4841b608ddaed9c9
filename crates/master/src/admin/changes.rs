//! What the operator changes: the registry of workers.
//!
//! A change waits in the queue of durable work like a command, and is a batch of its own: it is
//! judged when its turn comes, by what all batches before it have made of the registry.
//!
//! Invariant: the registry in memory, the links and the answer follow the commit, in this order.

use papertrader_core::ids::WorkerId;
use papertrader_core::time::WallTime;
use papertrader_node::info;
use papertrader_node::link::{Network, default_id};
use papertrader_node::openpgp::Certificate;
use papertrader_store::{Boot, Change, WorkerRow};

use super::Answer;
use super::message::{
    AdminError, AdminReply, AdminRequest, MAX_ADDRESSES, NewWorker, Stamp, WorkerAdded,
    WorkerAdmitted, WorkerBooted, WorkerRemoved, shown,
};
use crate::batch::{Effect, Work, Writing};
use crate::driver::{Driver, MasterError};
use crate::registry::{Registry, is_booted};

/// Longest name of a worker, in characters.
const MAX_NAME: usize = 32;

/// A change of the operator's, judged.
struct Judged {
    /// What is written; nothing if all is as it should be already.
    changes: Vec<Change>,
    /// What it does once it is written.
    done: Done,
}

/// A change of the operator's that is being written.
pub(crate) struct Administering {
    done: Done,
    answer: Answer,
}

/// What a change does to the memory.
struct Done {
    registry: Option<RegistryChange>,
    /// What else it does.
    effects: Vec<Effect>,
    /// The answer; it is told whether a link was cut.
    reply: Box<dyn FnOnce(bool) -> AdminReply + Send>,
}

enum RegistryChange {
    Put(WorkerRow),
    Remove(WorkerId),
}

impl RegistryChange {
    fn worker(&self) -> WorkerId {
        match self {
            RegistryChange::Put(row) => row.id,
            RegistryChange::Remove(id) => *id,
        }
    }
}

impl Driver {
    /// The operator asks: reads are answered at once, changes wait for their turn.
    pub(crate) fn admin(&mut self, request: AdminRequest, answer: Answer, draining: bool) {
        let reply = match request {
            AdminRequest::Status {} => Ok(self.admin_status()),
            AdminRequest::ListWorkers {} => Ok(self.admin_workers()),
            AdminRequest::ShowWorker { name } => self.admin_worker(&name),
            _ if draining => Err(AdminError::ShuttingDown),
            change if self.room().is_ok() => {
                self.queue.push_back(Work::Admin(Box::new(change), answer));
                return;
            }
            _ => Err(AdminError::Busy),
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
        match self.judge_admin(request, now) {
            Err(error) => {
                let _ = answer.send(error.into());
                Ok(())
            }
            Ok(Judged { changes, done }) => {
                let administering = Administering { done, answer };
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
        let Administering { done: Done { registry, effects, reply }, answer } = done;
        let mut cut = false;
        if let Some(change) = registry {
            let worker = change.worker();
            let before = self.workers.link_of(worker).map(|(id, _)| id);
            let mut unreadable = None;
            self.workers.register(|registry| match change {
                RegistryChange::Put(row) => unreadable = registry.put(row).err(),
                RegistryChange::Remove(id) => registry.remove(id),
            });
            if let Some(error) = unreadable {
                // It was read before it was written.
                return Err(MasterError::Writing(format!("the registry of workers: {error}")));
            }
            self.cut_forbidden();
            cut = before.is_some_and(|id| self.workers.link(id).is_none());
        }
        self.take_effect(effects)?;
        let reply = reply(cut);
        info!(?reply, "done for the operator");
        let _ = answer.send(reply);
        Ok(())
    }

    /// A change was not stored: nothing was done.
    pub(crate) fn not_administered(&mut self, done: Administering) {
        for effect in done.done.effects {
            self.undone(effect);
        }
        let _ = done.answer.send(AdminError::Unavailable.into());
    }

    fn judge_admin(&mut self, request: AdminRequest, now: WallTime) -> Result<Judged, AdminError> {
        match request {
            AdminRequest::AddWorker(new) => self.judge_add(new, now),
            AdminRequest::RemoveWorker { name } => {
                let row = self.registered(&name)?;
                let (id, uuid) = (row.id, row.id.to_string());
                Ok(Judged {
                    changes: vec![Change::RemoveWorker(id)],
                    done: Done {
                        registry: Some(RegistryChange::Remove(id)),
                        effects: Vec::new(),
                        reply: Box::new(move |link_cut| {
                            AdminReply::WorkerRemoved(WorkerRemoved { name, uuid, link_cut })
                        }),
                    },
                })
            }
            AdminRequest::BootWorker { name, for_ms, compromised } => {
                self.judge_boot(name, for_ms, compromised, now)
            }
            AdminRequest::AdmitWorker { name } => {
                let row = self.registered(&name)?;
                let was_booted = is_booted(&row, now);
                if was_booted && row.booted.is_some_and(|boot| boot.compromised) {
                    return Err(AdminError::Compromised(name));
                }
                let row = WorkerRow { booted: None, ..row };
                Ok(Judged {
                    changes: if was_booted { vec![Change::PutWorker(row.clone())] } else { vec![] },
                    done: Done {
                        registry: was_booted.then_some(RegistryChange::Put(row)),
                        effects: Vec::new(),
                        reply: Box::new(move |_| {
                            AdminReply::WorkerAdmitted(WorkerAdmitted { name, was_booted })
                        }),
                    },
                })
            }
            // Answered at once.
            AdminRequest::Status {}
            | AdminRequest::ListWorkers {}
            | AdminRequest::ShowWorker { .. } => Err(AdminError::BadRequest("not a change".into())),
        }
    }

    fn registered(&self, name: &str) -> Result<WorkerRow, AdminError> {
        let registry = self.workers.registry();
        registry.by_name(name).cloned().ok_or_else(|| AdminError::UnknownWorker(shown(name)))
    }

    fn judge_add(&self, new: NewWorker, now: WallTime) -> Result<Judged, AdminError> {
        let registry = self.workers.registry();
        let before = |id| registry.rows().find(|row| row.id == id);
        let (row, key) = judge_new(&new, &registry, now)?;
        let key = key.fingerprint().to_string();
        if key == self.about.key {
            return Err(AdminError::KeyTaken("the master itself".into()));
        }
        let before = before(row.id);
        let added = WorkerAdded {
            name: row.name.clone(),
            uuid: row.id.to_string(),
            key,
            addresses: row.allowed.split(',').map(str::to_owned).collect(),
            replaced: before.is_some(),
            boot_lifted: before.is_some_and(|row| is_booted(row, now)),
            link_cut: false,
        };
        Ok(Judged {
            changes: vec![Change::PutWorker(row.clone())],
            done: Done {
                registry: Some(RegistryChange::Put(row)),
                effects: Vec::new(),
                reply: Box::new(move |link_cut| {
                    AdminReply::WorkerAdded(WorkerAdded { link_cut, ..added })
                }),
            },
        })
    }

    fn judge_boot(
        &mut self,
        name: String,
        for_ms: Option<u64>,
        compromised: bool,
        now: WallTime,
    ) -> Result<Judged, AdminError> {
        let row = self.registered(&name)?;
        let until = match for_ms {
            Some(..1_000) => return Err(AdminError::BadDuration),
            Some(ms) => {
                let nanos = i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000_000);
                Some(now.plus_nanos(nanos))
            }
            None => None,
        };
        // What is in wrong hands stays there.
        let known = row.booted.filter(|_| is_booted(&row, now));
        let compromised = compromised || known.is_some_and(|boot| boot.compromised);
        let row = WorkerRow { booted: Some(Boot { until, compromised }), ..row };
        let changes = vec![Change::PutWorker(row.clone())];
        let booted = WorkerBooted {
            name,
            until: until.map(Stamp::from),
            compromised,
            link_cut: false,
            sessions_ended: 0,
            passwords_due: 0,
        };
        Ok(Judged {
            changes,
            done: Done {
                registry: Some(RegistryChange::Put(row)),
                effects: Vec::new(),
                reply: Box::new(move |link_cut| {
                    AdminReply::WorkerBooted(WorkerBooted { link_cut, ..booted })
                }),
            },
        })
    }
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
    let key = from_hex(&new.key)
        .ok_or_else(|| AdminError::BadKey("it is not sent in hexadecimal digits".into()))?;
    let key = Certificate::parse(&key).map_err(|error| AdminError::BadKey(error.to_string()))?;
    key.usable(now).map_err(|problem| AdminError::UnusableKey(problem.to_string()))?;
    let known = registry.by_name(&new.name);
    let id = match &new.uuid {
        Some(text) => uuid(text).ok_or_else(|| AdminError::BadUuid(shown(text)))?,
        None => known.map_or_else(|| default_id(&key), |row| row.id),
    };
    if let Some(other) = known.filter(|row| row.id != id) {
        let (name, uuid) = (new.name.clone(), other.id.to_string());
        return Err(AdminError::WorkerNameTaken { name, uuid });
    }
    let other = registry.rows().find(|row| {
        row.id != id && registry.key(row.id).is_some_and(|k| k.fingerprint() == key.fingerprint())
    });
    if let Some(other) = other {
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

fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(fits)
}

/// A worker's UUID; that of no worker is none.
fn uuid(text: &str) -> Option<WorkerId> {
    let uuid = uuid::Uuid::parse_str(text).ok().filter(|uuid| !uuid.is_nil())?;
    Some(WorkerId(uuid.into_bytes()))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| Some(char::from(byte).to_digit(16)? as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}
