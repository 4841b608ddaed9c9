//! Durable work: how commands and snapshots become batches, and batches become memory.
//!
//! Work stands in one queue in order of arrival. Commands that wait together form one batch: the
//! client order IDs that it asks about are looked up, then each command is judged in order, seeing
//! those before it, and all is written in one SQL transaction. A snapshot's settlement is a batch
//! of its own, and so is a change of the operator's (`admin`), which comes before all that waits:
//! workers that flood the queue cannot keep the operator from booting them. When a batch is durable
//! its effects are taken, in order; when it is not stored, nothing was changed and nothing has to be
//! undone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use papertrader_core::books::InFlight;
use papertrader_core::ids::{AccountId, BatchNumber, OrderId, WorkerId};
use papertrader_core::names::{ClientOrderId, Email, UserName};
use papertrader_core::order::OrderRecord;
use papertrader_core::settle::{Settlement, settle};
use papertrader_core::time::WallTime;
use papertrader_node::{error, warn};
use papertrader_protocol::returns::Return;
use papertrader_protocol::{Failure, Reason, SessionId};
use papertrader_store::{Batch, Change, NewAccount, PassHash, Profile, SessionKey, StoredSession};

use crate::access::{Asker, NewPassword};
use crate::admin::changes::Administering;
use crate::admin::{AdminRequest, Answer};
use crate::ahead::Judged;
use crate::assets::Retrieved;
use crate::database::{Done, Job, OrderKey};
use crate::driver::{Driver, Event, MasterError};
use crate::hasher::Checked;
use crate::trading::{Known, Placing};
use crate::workers::Origin;

/// Commands that one batch holds at most.
pub(crate) const BATCH: usize = 10_000;
/// How long a settlement that could not be written waits until it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Something that waits to be made durable.
pub(crate) enum Work {
    Command(Command),
    Settle(Box<Retrieved>),
    /// A change of the operator's, and where the answer goes.
    Admin(Box<AdminRequest>, Answer),
}

/// A command that changes something durable.
pub(crate) enum Command {
    Place(Placing),
    Cancel {
        origin: Origin,
        account: AccountId,
        client_order_id: ClientOrderId,
    },
    Register {
        origin: Origin,
        name: UserName,
        email: Email,
        pass_hash: PassHash,
    },
    StartSession {
        origin: Origin,
        checked: Checked,
        expirable: bool,
    },
    /// Ends sessions that are marked as ending.
    EndSessions {
        keys: Vec<SessionKey>,
        asker: Asker,
    },
    /// Ends all sessions that an account has when this is judged.
    EndAllSessions {
        account: AccountId,
        asker: Asker,
    },
    UseSessions(Vec<(SessionKey, WallTime)>),
    Expose {
        account: AccountId,
        worker: WorkerId,
    },
    ChangePassword(Box<NewPassword>),
}

impl Command {
    /// Whether it has a batch to itself, because commands beside it would be judged by what it
    /// changes.
    fn is_alone(&self) -> bool {
        matches!(self, Command::EndAllSessions { .. } | Command::ChangePassword(_))
    }

    /// The worker that it came through, if it came through one.
    pub(crate) fn worker(&self) -> Option<WorkerId> {
        match self {
            Command::Place(Placing { origin, .. })
            | Command::Cancel { origin, .. }
            | Command::Register { origin, .. }
            | Command::StartSession { origin, .. }
            | Command::EndSessions { asker: Asker::Link(origin), .. }
            | Command::EndAllSessions { asker: Asker::Link(origin), .. } => Some(origin.worker),
            Command::ChangePassword(new) => Some(new.origin.worker),
            Command::Expose { worker, .. } => Some(*worker),
            Command::EndSessions { .. }
            | Command::EndAllSessions { .. }
            | Command::UseSessions(_) => None,
        }
    }
}

/// What a batch does to the memory, and says, once it is durable. In order.
pub(crate) enum Effect {
    Answer(Origin, Return),
    Refuse(Origin, Failure),
    Present(Box<OrderRecord>, Origin),
    Placed(Box<OrderRecord>, Origin),
    Cancelled(OrderId, Origin, ClientOrderId),
    Opened(Box<NewAccount>, Origin),
    Started(SessionId, Box<StoredSession>, Origin),
    Ended(Vec<SessionKey>, Asker),
    Exposed(AccountId, WorkerId),
    /// A new password, and the sessions that end with the old one.
    PasswordSet(Box<NewPassword>, Vec<SessionKey>),
    Disabled {
        account: AccountId,
        orders: Vec<OrderId>,
        sessions: Vec<SessionKey>,
    },
    Enabled(AccountId),
    /// A worker is in wrong hands: who must choose a new password, and what ends.
    Compromised {
        accounts: Vec<AccountId>,
        sessions: Vec<SessionKey>,
    },
}

/// What the writer is doing.
pub(crate) enum Writing {
    Nothing,
    /// Looking up the client order IDs of these commands.
    Finding(Vec<Command>),
    /// Writing new orders that were judged ahead.
    Placing(Judged),
    /// Writing a batch of other commands with these effects.
    Committing(Vec<Effect>),
    /// Writing a change of the operator's.
    Administering(Box<Administering>),
    /// Writing the settlement of this snapshot.
    Settling(Box<Retrieved>, Arc<Settlement>),
    /// What must be written could not be: it is tried again. The snapshot whose settlement it was, or
    /// orders that are promised.
    Waiting(Option<Box<Retrieved>>),
}

/// A batch of commands while it is judged.
pub(crate) struct Judging {
    /// When it is judged.
    pub(crate) now: WallTime,
    /// What is known under the client order IDs that it asks about.
    pub(crate) known: Known,
    /// What its own orders hold.
    pub(crate) in_flight: InFlight,
    /// The ID that the next account gets.
    pub(crate) next_account: AccountId,
    /// Names that it registers.
    pub(crate) names: HashSet<String>,
    /// Sessions that it ends.
    pub(crate) ended: HashSet<SessionKey>,
    /// What is to be written.
    pub(crate) changes: Vec<Change>,
    /// What is to be done afterwards.
    pub(crate) effects: Vec<Effect>,
}

impl Judging {
    pub(crate) fn new(now: WallTime, known: Known, next_account: AccountId) -> Judging {
        Judging {
            now,
            known,
            in_flight: InFlight::default(),
            next_account,
            names: HashSet::new(),
            ended: HashSet::new(),
            changes: Vec::new(),
            effects: Vec::new(),
        }
    }
}

impl Writing {
    pub(crate) fn is_busy(&self) -> bool {
        !matches!(self, Writing::Nothing)
    }

    pub(crate) fn is_settling(&self) -> bool {
        matches!(self, Writing::Settling(..) | Writing::Waiting(_))
    }
}

impl Driver {
    /// Gives the writer its next job, if it has none.
    pub(crate) fn advance(&mut self) -> Result<(), MasterError> {
        self.keep_promises();
        loop {
            self.judge_ahead();
            if self.writing.is_busy() {
                return Ok(());
            }
            if let Some(judged) = self.ahead.next() {
                self.commit(judged.changes(), self.clock.now());
                self.writing = Writing::Placing(judged);
                continue;
            }
            match self.queue.pop_front() {
                None => return Ok(()),
                Some(Work::Settle(retrieved)) => self.settle(retrieved)?,
                Some(Work::Admin(request, answer)) => self.administer(*request, answer)?,
                Some(Work::Command(first)) => {
                    let is_alone = first.is_alone();
                    let mut commands = vec![first];
                    while !is_alone
                        && commands.len() < BATCH
                        && matches!(
                            self.queue.front(),
                            Some(Work::Command(next)) if !next.is_alone()
                        )
                    {
                        if let Some(Work::Command(next)) = self.queue.pop_front() {
                            commands.push(next);
                        }
                    }
                    for worker in commands.iter().filter_map(Command::worker) {
                        self.left(worker);
                    }
                    self.find(commands)?;
                }
            }
        }
    }

    /// What a worker that may not connect any more has sent of orders, over whichever link, and is
    /// not judged yet, was not promised to anybody and does not happen. Log-ins are judged: they say
    /// whose password a worker has seen.
    pub(crate) fn drop_orders(&mut self, worker: WorkerId) {
        let mut left = Vec::new();
        self.queue.retain(|work| match work {
            Work::Command(
                Command::Place(Placing { origin, .. }) | Command::Cancel { origin, .. },
            ) if origin.worker == worker => {
                left.push(origin.worker);
                false
            }
            _ => true,
        });
        for worker in left {
            self.left(worker);
        }
    }

    /// A worker's command waits no more.
    pub(crate) fn left(&mut self, worker: WorkerId) {
        match self.waiting.get_mut(&worker) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.waiting.remove(&worker)),
        }
    }

    /// What could not be written is tried again after a while.
    pub(crate) fn retry_later(&self) {
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(RETRY).await;
            let _ = events.send(Event::Retry).await;
        });
    }

    /// A settlement that could not be written is next again, but for promised orders and what the
    /// operator wants.
    pub(crate) fn retry(&mut self) {
        match std::mem::replace(&mut self.writing, Writing::Nothing) {
            Writing::Waiting(None) => {}
            Writing::Waiting(Some(retrieved)) => {
                self.queue.insert(self.changes_waiting(), Work::Settle(retrieved));
            }
            other => self.writing = other,
        }
    }

    /// How many changes of the operator's wait: they are the first in the queue. There are no more
    /// of them than connections of operators.
    pub(crate) fn changes_waiting(&self) -> usize {
        self.queue.iter().take_while(|work| matches!(work, Work::Admin(..))).count()
    }

    fn settle(&mut self, retrieved: Box<Retrieved>) -> Result<(), MasterError> {
        let now = self.clock.now();
        let settlement = settle(&self.books, &retrieved.snapshot, now, &self.config.rules)?;
        let (settlement, bars) = (Arc::new(settlement), retrieved.rows.clone());
        self.commit(vec![Change::Settle { settlement: Arc::clone(&settlement), bars }], now);
        self.writing = Writing::Settling(retrieved, settlement);
        self.settling_begins();
        Ok(())
    }

    /// The first half of a batch of commands: looks up the client order IDs that memory does not
    /// know.
    fn find(&mut self, commands: Vec<Command>) -> Result<(), MasterError> {
        let mut keys: Vec<OrderKey> = Vec::with_capacity(commands.len());
        for command in &commands {
            match command {
                Command::Place(placing) => {
                    keys.push((placing.account, placing.args.client_order_id.clone()));
                }
                Command::Cancel { account, client_order_id, .. } => {
                    keys.push((*account, client_order_id.clone()));
                }
                _ => {}
            }
        }
        if keys.is_empty() {
            return self.judge(commands, Known::new());
        }
        self.writer.submit(Job::Find(keys));
        self.writing = Writing::Finding(commands);
        Ok(())
    }

    /// The second half: judges the commands in order and writes what they change.
    fn judge(&mut self, commands: Vec<Command>, known: Known) -> Result<(), MasterError> {
        let now = self.clock.now();
        let mut judging = Judging::new(now, known, self.books.next_account());
        for command in commands {
            match command {
                Command::Place(placing) => self.judge_order(placing, &mut judging),
                Command::Cancel { origin, account, client_order_id } => {
                    self.judge_cancel(origin, account, client_order_id, &mut judging);
                }
                Command::Register { origin, name, email, pass_hash } => {
                    let pass_hash = Some(pass_hash);
                    let profile =
                        Profile { name, email, pass_hash, password_due: false, since: now };
                    self.judge_registration(origin, profile, &mut judging);
                }
                Command::StartSession { origin, checked, expirable } => {
                    self.judge_login(origin, &checked, expirable, &mut judging)?;
                }
                Command::EndSessions { keys, asker } => self.judge_ends(keys, asker, &mut judging),
                Command::EndAllSessions { account, asker } => {
                    let keys = self.accounts.sessions_of(account).to_vec();
                    self.judge_ends(keys, asker, &mut judging);
                }
                Command::UseSessions(used) => judging.changes.push(Change::UseSessions(used)),
                Command::Expose { account, worker } => {
                    judging.changes.push(Change::Expose { account, worker });
                    judging.effects.push(Effect::Exposed(account, worker));
                }
                Command::ChangePassword(new) => self.judge_password(new, &mut judging),
            }
        }
        if judging.changes.is_empty() {
            return self.take_effect(judging.effects);
        }
        self.commit(judging.changes, now);
        self.writing = Writing::Committing(judging.effects);
        Ok(())
    }

    pub(crate) fn commit(&mut self, changes: Vec<Change>, wall: WallTime) {
        let number = BatchNumber(self.last_batch.0 + 1);
        self.formed = wall;
        self.writer.submit(Job::Commit(Box::new(Batch { number, wall, changes })));
    }

    /// The writer has finished.
    pub(crate) fn written(&mut self, done: Done) -> Result<(), MasterError> {
        let writing = std::mem::replace(&mut self.writing, Writing::Nothing);
        match (writing, done) {
            (_, Done::Fatal(why)) => return Err(MasterError::Writing(why)),
            (_, Done::TakenOver(by)) => return Err(MasterError::TakenOver(by)),
            (Writing::Finding(commands), Done::Found(found)) => {
                self.judge(commands, found.into_iter().collect())?;
            }
            (Writing::Placing(judged), Done::Committed) => {
                self.last_batch.0 += 1;
                // The writer does not wait until this one's orders are in the books.
                if let Some(next) = self.ahead.next() {
                    self.commit(next.changes(), self.clock.now());
                    self.writing = Writing::Placing(next);
                }
                self.take_in(judged)?;
            }
            (Writing::Committing(effects), Done::Committed) => {
                self.last_batch.0 += 1;
                self.take_effect(effects)?;
            }
            (Writing::Administering(change), Done::Committed) => {
                self.last_batch.0 += 1;
                self.administered(*change)?;
            }
            (Writing::Settling(retrieved, settlement), Done::Committed) => {
                self.last_batch.0 += 1;
                self.settled(settlement, *retrieved)?;
            }
            (Writing::Finding(commands), Done::Failed(why)) => {
                error!(%why, commands = commands.len(), "the store cannot be read: refusing");
                for command in commands {
                    self.unavailable(command);
                }
            }
            (Writing::Placing(judged), Done::Failed(why)) => self.not_taken_in(judged, &why),
            (Writing::Committing(effects), Done::Failed(why)) => {
                error!(%why, "a batch was not stored: its commands are refused");
                for effect in effects {
                    self.undone(effect);
                }
            }
            (Writing::Administering(change), Done::Failed(why)) => {
                error!(%why, "a change of the operator's was not stored");
                self.not_administered(*change);
            }
            (Writing::Settling(retrieved, _), Done::Failed(why)) => {
                error!(%why, "a settlement was not stored: it is tried again");
                self.writing = Writing::Waiting(Some(retrieved));
                self.retry_later();
            }
            (_, Done::Found(_) | Done::Committed | Done::Failed(_)) => {
                return Err(MasterError::Writing("an answer to a job that nobody gave".into()));
            }
        }
        Ok(())
    }

    pub(crate) fn take_effect(&mut self, effects: Vec<Effect>) -> Result<(), MasterError> {
        for effect in effects {
            match effect {
                Effect::Answer(origin, answer) => self.answer(origin, &answer),
                Effect::Refuse(origin, failure) => {
                    let answer = Return::Failed(origin.instruction.failure(), failure);
                    self.answer(origin, &answer);
                }
                Effect::Present(record, origin) => self.present(&record, origin),
                Effect::Placed(record, origin) => self.placed(&record, origin)?,
                Effect::Cancelled(order, origin, id) => self.cancelled(order, origin, id)?,
                Effect::Opened(account, origin) => self.opened(*account, origin)?,
                Effect::Started(id, session, origin) => {
                    self.started(id, *session, origin);
                }
                Effect::Ended(keys, asker) => {
                    self.ended(keys);
                    self.logged_out(asker);
                }
                Effect::Exposed(account, worker) => self.accounts.exposed(account, worker),
                Effect::PasswordSet(new, others) => self.password_set(*new, others),
                Effect::Disabled { account, orders, sessions } => {
                    self.disabled(account, orders, sessions)?;
                }
                Effect::Enabled(account) => self.books.enable(account)?,
                Effect::Compromised { accounts, sessions } => self.compromised(accounts, sessions),
            }
        }
        Ok(())
    }

    /// A batch was not stored: whoever asked for something is told so.
    pub(crate) fn undone(&mut self, effect: Effect) {
        match effect {
            Effect::Answer(origin, _)
            | Effect::Refuse(origin, _)
            | Effect::Present(_, origin)
            | Effect::Placed(_, origin)
            | Effect::Cancelled(_, origin, _)
            | Effect::Opened(_, origin)
            | Effect::Started(_, _, origin) => self.refuse(origin, Reason::Unavailable),
            Effect::Ended(keys, asker) => {
                self.go_on(&keys);
                self.not_stored(asker);
            }
            Effect::Exposed(..) | Effect::Enabled(_) => {}
            Effect::PasswordSet(new, others) => {
                self.go_on(&others);
                self.refuse(new.origin, Reason::Unavailable);
            }
            Effect::Disabled { sessions, .. } | Effect::Compromised { sessions, .. } => {
                self.go_on(&sessions);
            }
        }
    }

    /// What is known about a command's orders could not be read: it is refused.
    fn unavailable(&mut self, command: Command) {
        match command {
            Command::Place(Placing { origin, .. })
            | Command::Cancel { origin, .. }
            | Command::Register { origin, .. }
            | Command::StartSession { origin, .. } => self.refuse(origin, Reason::Unavailable),
            Command::ChangePassword(new) => self.refuse(new.origin, Reason::Unavailable),
            Command::EndSessions { keys, asker } => {
                self.go_on(&keys);
                self.not_stored(asker);
            }
            Command::EndAllSessions { asker, .. } => self.not_stored(asker),
            Command::UseSessions(_) | Command::Expose { .. } => {}
        }
    }

    /// A settlement is durable: the books take it over, clients and workers are told.
    fn settled(
        &mut self,
        settlement: Arc<Settlement>,
        retrieved: Retrieved,
    ) -> Result<(), MasterError> {
        let head = settlement.head;
        let orders = self.books.apply(&settlement)?;
        self.trading.decided(settlement, orders);
        self.tell_outcomes();
        let step = self.assets.settled(retrieved, &self.books);
        self.workers.step(&step);
        self.workers.moved(head);
        if head.ended {
            warn!("the prices have come to their end: the market stands still from now on");
        }
        Ok(())
    }
}
