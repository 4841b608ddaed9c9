//! Durable work: how commands and snapshots become batches, and batches become memory.
//!
//! Work stands in one queue in order of arrival. Commands that wait together form one batch: the
//! client order IDs that it asks about are looked up, then each command is judged in order, seeing
//! those before it, and all is written in one SQL transaction. A snapshot's settlement is a batch
//! of its own, and so is a change of the operator's (`admin`). When a batch is durable its effects are taken, in order; when it is not stored,
//! nothing was changed and nothing has to be undone.

use std::collections::HashSet;
use std::time::Duration;

use papertrader_core::books::InFlight;
use papertrader_core::ids::{AccountId, BatchNumber, OrderId};
use papertrader_core::names::{ClientOrderId, Email, UserName};
use papertrader_core::order::OrderRecord;
use papertrader_core::settle::{Settlement, settle};
use papertrader_core::time::{Moment, WallTime};
use papertrader_node::{error, warn};
use papertrader_protocol::link::SessionEnded;
use papertrader_protocol::returns::{Return, SessionGrant};
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Failure, Header, Instruction, Reason, SessionId};
use papertrader_store::{Batch, Change, NewAccount, PassHash, Profile, SessionKey, StoredSession};

use crate::admin::changes::Administering;
use crate::admin::{AdminRequest, Answer};
use crate::assets::Retrieved;
use crate::database::{Done, Job};
use crate::driver::{Driver, Event, MasterError};
use crate::trading::{Known, Placing};
use crate::workers::Origin;

/// Commands that one batch holds at most.
const BATCH: usize = 10_000;
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
    Cancel { origin: Origin, account: AccountId, client_order_id: ClientOrderId },
    Register { origin: Origin, name: UserName, email: Email, pass_hash: PassHash },
    StartSession { origin: Origin, account: AccountId, expirable: bool },
    EndSession { key: SessionKey, origin: Option<Origin> },
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
    Ended(SessionKey, Option<Origin>),
}

/// What the writer is doing.
pub(crate) enum Writing {
    Nothing,
    /// Looking up the client order IDs of these commands.
    Finding(Vec<Command>, Vec<(AccountId, ClientOrderId)>),
    /// Writing a batch of commands with these effects.
    Committing(Vec<Effect>),
    /// Writing a change of the operator's.
    Administering(Box<Administering>),
    /// Writing a settlement.
    Settling(Box<Settlement>, Box<Retrieved>),
    /// A settlement could not be written: it is tried again.
    Waiting(Box<Retrieved>),
}

/// A batch of commands while it is judged.
pub(crate) struct Judging {
    /// When it is judged.
    pub(crate) now: WallTime,
    /// What is known under the client order IDs that it asks about.
    pub(crate) known: Known,
    /// What its own orders hold.
    pub(crate) in_flight: InFlight,
    /// What is to be written.
    pub(crate) changes: Vec<Change>,
    /// What is to be done afterwards.
    pub(crate) effects: Vec<Effect>,
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
        while !self.writing.is_busy() {
            match self.queue.pop_front() {
                None => return Ok(()),
                Some(Work::Settle(retrieved)) => self.settle(retrieved)?,
                Some(Work::Admin(request, answer)) => self.administer(*request, answer)?,
                Some(Work::Command(first)) => {
                    let mut commands = vec![first];
                    while commands.len() < BATCH
                        && matches!(self.queue.front(), Some(Work::Command(_)))
                    {
                        if let Some(Work::Command(next)) = self.queue.pop_front() {
                            commands.push(next);
                        }
                    }
                    self.find(commands)?;
                }
            }
        }
        Ok(())
    }

    /// A settlement that could not be written is next again.
    pub(crate) fn retry(&mut self) {
        match std::mem::replace(&mut self.writing, Writing::Nothing) {
            Writing::Waiting(retrieved) => self.queue.push_front(Work::Settle(retrieved)),
            other => self.writing = other,
        }
    }

    fn settle(&mut self, retrieved: Box<Retrieved>) -> Result<(), MasterError> {
        let now = self.clock.now();
        let settlement = settle(&self.books, &retrieved.snapshot, now, &self.config.rules)?;
        let bars = retrieved.rows.clone();
        let changes = vec![Change::Settle { settlement: settlement.clone(), bars }];
        self.commit(changes, now);
        self.writing = Writing::Settling(Box::new(settlement), retrieved);
        Ok(())
    }

    /// The first half of a batch of commands: looks up the client order IDs that memory does not
    /// know.
    fn find(&mut self, commands: Vec<Command>) -> Result<(), MasterError> {
        let mut keys: Vec<(AccountId, ClientOrderId)> = Vec::new();
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
        keys.sort_unstable();
        keys.dedup();
        self.writer.submit(Job::Find(keys.clone()));
        self.writing = Writing::Finding(commands, keys);
        Ok(())
    }

    /// The second half: judges the commands in order and writes what they change.
    fn judge(&mut self, commands: Vec<Command>, known: Known) -> Result<(), MasterError> {
        let now = self.clock.now();
        let mut judging = Judging {
            now,
            known,
            in_flight: InFlight::default(),
            changes: Vec::new(),
            effects: Vec::new(),
        };
        let mut next_account = self.books.next_account();
        let mut names: HashSet<String> = HashSet::new();
        for command in commands {
            match command {
                Command::Place(placing) => self.judge_order(placing, &mut judging),
                Command::Cancel { origin, account, client_order_id } => {
                    self.judge_cancel(origin, account, client_order_id, &mut judging);
                }
                Command::Register { origin, name, email, pass_hash } => {
                    let taken = self.accounts.find(&name).is_some();
                    if taken || !names.insert(name.key()) {
                        judging.effects.push(Effect::Refuse(origin, Reason::NameTaken.into()));
                        continue;
                    }
                    let profile = Profile {
                        name,
                        email,
                        pass_hash: Some(pass_hash),
                        password_due: false,
                        since: now,
                    };
                    let moment = Moment { wall: now, market: self.books.head().market };
                    let grant = self.config.starting_cash;
                    let account = NewAccount { id: next_account, profile, grant, moment };
                    next_account = AccountId(next_account.0 + 1);
                    judging.changes.push(Change::OpenAccount(account.clone()));
                    judging.effects.push(Effect::Opened(Box::new(account), origin));
                }
                Command::StartSession { origin, account, expirable } => {
                    let mut bytes = [0; 16];
                    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
                    let id = SessionId::from_bytes(bytes);
                    let life = self.config.session_lifetime.as_nanos();
                    let life = i64::try_from(life).unwrap_or(i64::MAX);
                    let session = StoredSession {
                        key: crate::accounts::session_key(&id),
                        account,
                        expires: now.plus_nanos(life),
                        expirable,
                        client: origin.client.ip(),
                        started: now,
                        used: now,
                    };
                    judging.changes.push(Change::StartSession(session.clone()));
                    judging.effects.push(Effect::Started(id, Box::new(session), origin));
                }
                Command::EndSession { key, origin } => {
                    judging.changes.push(Change::EndSession(key));
                    judging.effects.push(Effect::Ended(key, origin));
                }
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
        self.writer.submit(Job::Commit(Box::new(Batch { number, wall, changes })));
    }

    /// The writer has finished.
    pub(crate) fn written(&mut self, done: Done) -> Result<(), MasterError> {
        let writing = std::mem::replace(&mut self.writing, Writing::Nothing);
        match (writing, done) {
            (_, Done::Fatal(why)) => return Err(MasterError::Writing(why)),
            (Writing::Finding(commands, keys), Done::Found(found)) => {
                let known = keys.into_iter().zip(found);
                let known = known.filter_map(|(key, found)| Some((key, found?))).collect();
                self.judge(commands, known)?;
            }
            (Writing::Committing(effects), Done::Committed) => {
                self.last_batch.0 += 1;
                self.take_effect(effects)?;
            }
            (Writing::Administering(change), Done::Committed) => {
                self.last_batch.0 += 1;
                self.administered(*change)?;
            }
            (Writing::Settling(settlement, retrieved), Done::Committed) => {
                self.last_batch.0 += 1;
                self.settled(&settlement, *retrieved)?;
            }
            (Writing::Finding(commands, _), Done::Failed(why)) => {
                error!(%why, commands = commands.len(), "the store cannot be read: refusing");
                for command in commands {
                    self.unavailable(&command);
                }
            }
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
            (Writing::Settling(_, retrieved), Done::Failed(why)) => {
                error!(%why, "a settlement was not stored: it is tried again");
                self.writing = Writing::Waiting(retrieved);
                let events = self.events.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(RETRY).await;
                    let _ = events.send(Event::Retry).await;
                });
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
                Effect::Opened(account, origin) => {
                    self.books.open_account(account.grant)?;
                    let name = account.profile.name.to_string();
                    self.accounts.opened(account.id, account.profile);
                    self.answer(origin, &Return::Registered(name));
                }
                Effect::Started(id, session, origin) => {
                    let (account, expires) = (session.account, session.expires);
                    if self.workers.link(origin.link).is_some() {
                        self.accounts.started(id, *session, origin.link);
                    } else {
                        // Nobody was told its ID: it ends like any session without a connection.
                        self.accounts.started_unheard(*session, self.clock.now());
                    }
                    let name = self.accounts.profile(account).map(|p| p.name.to_string());
                    let name = name.unwrap_or_default();
                    let grant = SessionGrant { session: id, expires, name };
                    self.answer(origin, &Return::Session(grant));
                }
                Effect::Ended(key, origin) => {
                    if let Some((session, links)) = self.accounts.ended(key) {
                        let instruction = Instruction::SessionEnded;
                        let header = Header::new(instruction.message_type(), instruction as u16, 0);
                        let data = SessionEnded { session }.to_bytes();
                        for link in links {
                            self.workers.say(link, |out| header.encode(&data, out));
                        }
                    }
                    if let Some(origin) = origin {
                        self.answer(origin, &Return::LoggedOut);
                    }
                }
            }
        }
        Ok(())
    }

    /// A batch was not stored: whoever asked for something is told so.
    pub(crate) fn undone(&mut self, effect: Effect) {
        let origin = match effect {
            Effect::Answer(origin, _)
            | Effect::Refuse(origin, _)
            | Effect::Present(_, origin)
            | Effect::Placed(_, origin)
            | Effect::Cancelled(_, origin, _)
            | Effect::Opened(_, origin)
            | Effect::Started(_, _, origin) => Some(origin),
            Effect::Ended(key, origin) => {
                self.accounts.end_failed(key);
                origin
            }
        };
        if let Some(origin) = origin {
            self.refuse(origin, Reason::Unavailable);
        }
    }

    fn unavailable(&mut self, command: &Command) {
        let origin = match command {
            Command::Place(placing) => Some(placing.origin),
            Command::Cancel { origin, .. }
            | Command::Register { origin, .. }
            | Command::StartSession { origin, .. } => Some(*origin),
            Command::EndSession { key, origin } => {
                self.accounts.end_failed(*key);
                *origin
            }
        };
        if let Some(origin) = origin {
            self.refuse(origin, Reason::Unavailable);
        }
    }

    /// A settlement is durable: the books take it over, clients and workers are told.
    fn settled(
        &mut self,
        settlement: &Settlement,
        retrieved: Retrieved,
    ) -> Result<(), MasterError> {
        self.tell_outcomes(settlement);
        self.books.apply(settlement)?;
        let push = self.assets.settled(retrieved, &self.books);
        self.workers.say_to_all(&push);
        self.workers.moved(settlement.head);
        if settlement.head.ended {
            warn!("the prices have come to their end: the market stands still from now on");
        }
        Ok(())
    }
}
