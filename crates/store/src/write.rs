//! Writing a batch's changes inside the open transaction: what must hold, and which rows that gives.
//! The same for every database: each gives [`Tables`].
//!
//! Nothing here begins, commits or rolls back. Every change must find exactly what it expects: an
//! update that changes no row, or a row that is already there, is a contradiction and fails the
//! whole batch. What the index knows of orders, accounts and instruments is asked there, not in the
//! database.

mod bars;
mod settlement;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Builder};

use papertrader_core::ids::{AccountId, BatchNumber, InstrumentId, OrderId, WorkerId};
use papertrader_core::ledger::JournalEntry;
use papertrader_core::money::Quantity;
use papertrader_core::names::ClientOrderId;
use papertrader_core::order::{Order, OrderRecord, OrderState, WaitReason};
use papertrader_core::time::{Moment, WallTime};

use crate::behind::{Behind, Pace, Step};
use crate::index::{Changes, Index, Open, OrderKey, Staged, generation};
use crate::read::{self, Ask, SharedIndex};
use crate::rows::{CANCELLED, EXPIRED, FILLED, REJECTED, Value, side_number};
use crate::shape::Rows;
use crate::{
    BarRow, Batch, Change, CommitError, Found, InstrumentRow, NewAccount, PassHash, SessionKey,
    StoreError, StoredSession, WorkerRow,
};

/// Why a batch is not written, before its COMMIT. Each database says here what its errors mean.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) CommitError);

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Refused {
        Refused(match error {
            StoreError::Corrupt(what) => CommitError::Contradiction(what),
            error => CommitError::NotStored(error.to_string()),
        })
    }
}

/// The named account that grants come from.
const GRANTS: (&str, u32) = ("grants", 0);

pub(crate) type Written<T = ()> = Result<T, Refused>;

/// The tables, inside an open transaction.
pub(crate) trait Tables {
    /// The number of the last batch and the latest wall time. Nobody else changes them until the
    /// transaction ends.
    fn last(&mut self) -> Written<(i64, i64)>;

    /// Writes a row, now or with others later; the result is as if now.
    fn write(&mut self, rows: Rows, values: &[Value<'_>]) -> Written;

    /// Executes a statement now, after all that was written. Parameters are written `?1`, `?2`, ….
    /// Returns how many rows it changed.
    fn change(&mut self, sql: &str, values: &[Value<'_>]) -> Written<u64>;

    /// Where questions are asked that see all that was written.
    fn ask(&mut self) -> Written<&dyn Ask>;
}

/// With so many orders or accounts a second thread is worth its while.
const MANY: usize = 4096;

/// What memory takes over when a batch is committed.
#[derive(Debug)]
pub(crate) struct Committed {
    changes: Changes,
    behind: Option<Behind>,
    step: Option<Step>,
}

impl Committed {
    /// Takes it over as this batch. `behind` says after which batch it was what is behind: what was
    /// read later has this batch in it.
    pub(crate) fn apply(
        self,
        number: BatchNumber,
        index: &SharedIndex,
        behind: &mut Option<(BatchNumber, Behind)>,
    ) {
        let Committed { changes, behind: nearly, step } = self;
        let is_large = changes.closed() >= MANY;
        let changes = Mutex::new(Some(changes));
        // Done once, by whichever thread comes first.
        let learn = || {
            let changes = changes.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(changes) = changes {
                index.write().unwrap_or_else(PoisonError::into_inner).apply(changes);
            }
        };
        let forward = || {
            let Some((last, behind)) = behind.as_mut().filter(|(last, _)| last.0 + 1 == number.0)
            else {
                return;
            };
            *last = number;
            if let Some(nearly) = nearly {
                *behind = nearly;
            }
            if let Some(step) = step {
                behind.apply(step);
            }
        };
        thread::scope(|scope| {
            if is_large {
                // Without another thread this one does all of it.
                let _ = Builder::new().spawn_scoped(scope, learn);
            }
            forward();
            learn();
        });
    }
}

/// Writes a whole batch: checks its number and time, then makes its changes in order.
pub(crate) fn batch(
    tables: &mut dyn Tables,
    index: &Index,
    behind: &Behind,
    pace: Pace,
    batch: &Batch,
) -> Result<Committed, CommitError> {
    let mut writer = Writer {
        tables,
        wall: batch.wall,
        staged: Staged::new(index),
        before: behind,
        behind: None,
        step: None,
        pace,
        named: BTreeMap::new(),
        taped: Vec::new(),
        settled: None,
    };
    match writer.batch(batch) {
        Ok(()) => {
            let Writer { staged, behind, step, .. } = writer;
            Ok(Committed { changes: staged.into_changes(), behind, step })
        }
        Err(Refused(error)) => Err(error),
    }
}

struct Writer<'t> {
    tables: &'t mut dyn Tables,
    /// The latest wall time seen.
    wall: WallTime,
    staged: Staged<'t>,
    /// What was behind before the batch.
    before: &'t Behind,
    /// What is behind after all settlements of the batch but the last, if there are several.
    behind: Option<Behind>,
    /// What the last one does to it.
    step: Option<Step>,
    pace: Pace,
    /// What named accounts hold from now on, of an instrument or of cash (0): written at the end.
    named: BTreeMap<(&'static str, u32), i128>,
    /// The bars of the batch's settlements: written at the end, as one row.
    taped: Vec<BarRow>,
    /// The last order at the last settlement of the batch.
    settled: Option<i64>,
}

/// What an order's row says of its outcome.
struct OutcomeRow<'s> {
    order: OrderId,
    open: Open,
    state: &'s OrderState,
}

impl OutcomeRow<'_> {
    /// Its place in the table.
    fn place(&self) -> (u64, AccountId, i64, OrderId) {
        let OrderKey { account, hash } = self.open.key;
        (generation(self.order), account, hash.cast_signed(), self.order)
    }
}

/// Puts rows into the table's order: each of its pages is looked for once. A settlement has them by
/// account, so that little is left to be sorted.
fn by_place(rows: &mut [OutcomeRow<'_>]) {
    let of = |row: &OutcomeRow<'_>| generation(row.order);
    if !rows.is_sorted_by_key(of) {
        rows.sort_by_key(of);
    }
    let same = |a: &OutcomeRow<'_>, b: &OutcomeRow<'_>| {
        of(a) == of(b) && a.open.key.account == b.open.key.account
    };
    for rows in rows.chunk_by_mut(same) {
        rows.sort_unstable_by_key(OutcomeRow::place);
    }
    if !rows.is_sorted_by_key(OutcomeRow::place) {
        rows.sort_unstable_by_key(OutcomeRow::place);
    }
}

/// When an order got its outcome.
#[derive(Clone, Copy)]
enum Decided {
    /// With this snapshot's settlement.
    Settled(i64),
    At(Moment),
}

impl Writer<'_> {
    fn batch(&mut self, batch: &Batch) -> Written {
        let (last, wall) = self.tables.last()?;
        let number = signed(batch.number.0, "the batch's number")?;
        if last.checked_add(1) != Some(number) {
            return Err(contradiction(format!(
                "batch {number} does not follow batch {last}, the last one stored"
            )));
        }
        if batch.wall.0 <= wall {
            return Err(contradiction(format!(
                "batch {number} is not later than what is stored: its wall time {} is not above \
                 {wall}",
                batch.wall.0
            )));
        }
        for change in &batch.changes {
            self.change(change)?;
        }
        for ((name, instrument), amount) in std::mem::take(&mut self.named) {
            let amount = amount.to_string();
            let values = [Value::Text(name), instrument.into(), Value::Text(&amount)];
            self.write(Rows::NamedAccount, &values)?;
        }
        self.tape()?;
        // Two writers never both find the number that they follow.
        let sql = "UPDATE meta SET last_batch = ?1, last_wall = ?2,
                          settled_order = coalesce(?3, settled_order),
                          folded_snapshot = coalesce(?5, folded_snapshot),
                          folded_generation = coalesce(?6, folded_generation)
                   WHERE last_batch = ?4";
        let horizon = self.step.as_ref().map(|step| step.horizon);
        let values = [
            number.into(),
            self.wall.0.into(),
            Value::optional(self.settled),
            last.into(),
            Value::optional(horizon.map(|horizon| horizon.snapshot.cast_signed())),
            Value::optional(horizon.map(|horizon| horizon.generation.cast_signed())),
        ];
        self.one(sql, &values, || format!("another batch than {last} is the last one"))
    }

    fn change(&mut self, change: &Change) -> Written {
        match change {
            Change::OpenAccount(account) => self.open_account(account),
            Change::DisableAccount(account) => self.disable_account(*account),
            Change::EnableAccount(account) => self.enable_account(*account),
            Change::SetPassword { account, pass_hash, through } => {
                self.set_password(*account, pass_hash, *through)
            }
            Change::RequirePassword(account) => self.require_password(*account),
            Change::Expose { account, worker } => self.expose(*account, *worker),
            Change::UseSessions(used) => self.use_sessions(used),
            Change::StartSession(session) => self.start_session(session),
            Change::EndSession(key) => self.write(Rows::SessionEnd, &[Value::Bytes(&key.0)]),
            Change::PlaceOrder(record) => self.place_order(record),
            Change::CancelOrder { order, moment } => self.cancel_order(*order, *moment),
            Change::MarkCancelled { account, client_order_id, moment } => {
                self.mark_cancelled(*account, client_order_id, *moment)
            }
            Change::Settle { settlement, bars } => {
                self.settle(settlement)?;
                self.gather_bars(bars)
            }
            Change::PutBars(bars) => self.put_bars(bars),
            Change::AddInstruments(instruments) => self.add_instruments(instruments),
            Change::PutWorker(worker) => self.put_worker(worker),
            Change::RemoveWorker(worker) => self.remove_worker(*worker),
            Change::KeyStolen(fingerprint) => self.key_stolen(fingerprint),
        }
    }

    fn write(&mut self, rows: Rows, values: &[Value<'_>]) -> Written {
        self.tables.write(rows, values)
    }

    /// Executes a statement that must change exactly one row.
    fn one(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        otherwise: impl FnOnce() -> String,
    ) -> Written {
        match self.tables.change(sql, values)? {
            1 => Ok(()),
            _ => Err(contradiction(otherwise())),
        }
    }

    fn seen(&mut self, wall: WallTime) {
        self.wall = self.wall.max(wall);
    }

    fn known_account(&self, account: AccountId, what: &str) -> Written {
        if self.staged.has_account(account) {
            return Ok(());
        }
        Err(contradiction(format!("{what} is of account {account}, which is unknown")))
    }

    fn known_instrument(&self, instrument: InstrumentId, what: &str) -> Written {
        if self.staged.has_instrument(instrument) {
            return Ok(());
        }
        Err(contradiction(format!("{what} is of instrument {instrument}, which is unknown")))
    }

    // Accounts and sessions.

    fn open_account(&mut self, new: &NewAccount) -> Written {
        self.seen(new.moment.wall);
        self.seen(new.profile.since);
        follows("account", new.id.0, self.staged.accounts())?;
        let profile = &new.profile;
        let cash = new.grant.cents();
        let name_key = profile.name.key();
        let values = [
            new.id.0.into(),
            Value::Text(profile.name.as_str()),
            Value::Text(&name_key),
            Value::Text(profile.email.as_str()),
            profile.pass_hash.as_ref().map_or(Value::Null, |hash| Value::Text(&hash.0)),
            profile.since.0.into(),
            flag(false),
            flag(profile.password_due),
        ];
        self.write(Rows::Account, &values)?;
        self.write(Rows::Balance, &[new.id.0.into(), cash.into(), cash.into()])?;
        self.staged.account_opened();
        let entry = JournalEntry::Grant { account: new.id, cash: new.grant };
        self.journal(&[entry], 0, new.moment)?;
        let granted = self.granted()?.checked_sub(i128::from(cash));
        let granted = granted
            .ok_or_else(|| contradiction("the named account grants overflows".to_owned()))?;
        self.named.insert(GRANTS, granted);
        Ok(())
    }

    /// What the named account grants holds.
    fn granted(&mut self) -> Written<i128> {
        match self.named.get(&GRANTS) {
            Some(granted) => Ok(*granted),
            None => Ok(read::named_accounts(self.tables.ask()?)?.grants),
        }
    }

    fn disable_account(&mut self, account: AccountId) -> Written {
        let open = self.staged.count_open(account);
        if open > 0 {
            return Err(contradiction(format!(
                "account {account} is disabled with {open} open orders"
            )));
        }
        let sql = "UPDATE account SET disabled = 1 WHERE id = ?1 AND disabled = 0";
        self.one(sql, &[account.0.into()], || {
            format!("account {account} is unknown or already disabled")
        })
    }

    fn enable_account(&mut self, account: AccountId) -> Written {
        let sql = "UPDATE account SET disabled = 0 WHERE id = ?1 AND disabled = 1";
        self.one(sql, &[account.0.into()], || {
            format!("account {account} is unknown or not disabled")
        })
    }

    fn set_password(
        &mut self,
        account: AccountId,
        pass_hash: &PassHash,
        through: Option<WorkerId>,
    ) -> Written {
        let sql = "UPDATE account SET pass_hash = ?2, password_due = 0 WHERE id = ?1";
        self.one(sql, &[account.0.into(), Value::Text(&pass_hash.0)], || {
            format!("account {account} gets a password but is unknown")
        })?;
        self.tables.change("DELETE FROM exposure WHERE account = ?1", &[account.0.into()])?;
        through.map_or(Ok(()), |worker| self.expose(account, worker))
    }

    fn require_password(&mut self, account: AccountId) -> Written {
        let sql = "UPDATE account SET password_due = 1 WHERE id = ?1";
        self.one(sql, &[account.0.into()], || {
            format!("account {account} is to change its password but is unknown")
        })
    }

    fn expose(&mut self, account: AccountId, worker: WorkerId) -> Written {
        self.known_account(account, "an exposure")?;
        self.write(Rows::Exposure, &[account.0.into(), Value::Bytes(&worker.0)])
    }

    fn use_sessions(&mut self, used: &[(SessionKey, WallTime)]) -> Written {
        if let Some(latest) = used.iter().map(|(_, when)| *when).max() {
            self.seen(latest);
        }
        for (key, when) in used {
            self.write(Rows::SessionUse, &[Value::Bytes(&key.0), when.0.into()])?;
        }
        Ok(())
    }

    fn start_session(&mut self, session: &StoredSession) -> Written {
        self.seen(session.started);
        self.seen(session.used);
        self.known_account(session.account, "a session")?;
        let client = session.client.to_string();
        let values = [
            Value::Bytes(&session.key.0),
            session.account.0.into(),
            session.expires.0.into(),
            flag(session.expirable),
            Value::Text(&client),
            session.started.0.into(),
            session.used.0.into(),
        ];
        self.write(Rows::SessionStart, &values)
    }

    // Orders.

    fn place_order(&mut self, record: &OrderRecord) -> Written {
        let order = &record.order;
        let request = &order.request;
        let id = order.id;
        self.seen(order.received.wall);
        if id.0 <= self.staged.last_order() {
            return Err(contradiction(format!("order {id} does not follow the last one")));
        }
        self.known_account(request.account, "an order")?;
        self.known_instrument(request.instrument, "an order")?;
        let key = OrderKey::new(request.account, &request.client_order_id);
        if let Some(found) = self.find(key, &request.client_order_id)? {
            let other = match found {
                Found::Order(other) => format!("that order {} has", other.order.id),
                Found::Mark => "that was cancelled before".to_owned(),
            };
            return Err(contradiction(format!("order {id} has a client order ID {other}")));
        }
        self::order(self.tables, order, key)?;
        let open = Open::new(order);
        match (record.state, record.decided) {
            (OrderState::Queued(reason), None) => {
                self.staged.place(id, key, Some(open));
                let asked = (request.quantity != order.asked).then_some(request.quantity);
                if reason.is_some() || asked.is_some() {
                    self.wait(id, asked, reason)?;
                }
                Ok(())
            }
            (OrderState::Rejected(_), Some(moment)) => {
                self.seen(moment.wall);
                self.staged.place(id, key, None);
                let decided = Decided::At(moment);
                // It was never open: nothing is closed.
                self.outcome(&OutcomeRow { order: id, open, state: &record.state }, decided)
            }
            _ => Err(contradiction(format!("order {id} is placed with a later state"))),
        }
    }

    fn cancel_order(&mut self, order: OrderId, moment: Moment) -> Written {
        self.seen(moment.wall);
        let open = self.open(order, "is cancelled")?;
        let (state, decided) = (OrderState::Cancelled, Decided::At(moment));
        self.outcomes(vec![OutcomeRow { order, open, state: &state }], decided)
    }

    fn mark_cancelled(
        &mut self,
        account: AccountId,
        client_order_id: &ClientOrderId,
        moment: Moment,
    ) -> Written {
        self.seen(moment.wall);
        self.known_account(account, "a client order ID")?;
        let key = OrderKey::new(account, client_order_id);
        if self.find(key, client_order_id)?.is_some() {
            return Err(contradiction(format!(
                "account {account} marks a client order ID as cancelled that is known"
            )));
        }
        let id = Value::Text(client_order_id.as_str());
        let values = [account.0.into(), id, moment.wall.0.into(), moment.market.0.into()];
        self.write(Rows::CancelMark, &values)?;
        self.staged.mark(key);
        Ok(())
    }

    /// What is known under a client order ID, this batch included. Mostly the index knows that it is
    /// nothing.
    fn find(&mut self, key: OrderKey, id: &ClientOrderId) -> Written<Option<Found>> {
        let recent: Vec<OrderId> = self.staged.recent_with(key).collect();
        if !recent.is_empty()
            && let Some(found) = read::find_recent(self.tables.ask()?, &recent, id)?
        {
            return Ok(Some(found));
        }
        if self.staged.may_know(key) {
            return Ok(read::find_known(self.tables.ask()?, key, id)?);
        }
        Ok(None)
    }

    fn open(&self, order: OrderId, what: &str) -> Written<Open> {
        let open = self.staged.open(order);
        open.ok_or_else(|| contradiction(format!("order {order} {what} but is not open")))
    }

    /// Notes what became of open orders.
    fn outcomes(&mut self, mut rows: Vec<OutcomeRow<'_>>, decided: Decided) -> Written {
        by_place(&mut rows);
        self.staged.expect_closed(rows.len());
        for row in &rows {
            self.outcome(row, decided)?;
            if row.open.waits {
                self.write(Rows::WaitEnd, &[order_number(row.order)?])?;
            }
            self.staged.close(row.order);
        }
        Ok(())
    }

    fn outcome(&mut self, row: &OutcomeRow<'_>, decided: Decided) -> Written {
        let (state, reason, fill) = match *row.state {
            OrderState::Filled(fill) => (FILLED, None, Some(fill)),
            OrderState::Rejected(refusal) => (REJECTED, Some(refusal as u8), None),
            OrderState::Cancelled => (CANCELLED, None, None),
            OrderState::Expired => (EXPIRED, None, None),
            OrderState::Queued(_) => {
                let what = format!("order {} is decided and left open", row.order);
                return Err(contradiction(what));
            }
        };
        let (snapshot, moment) = match decided {
            Decided::Settled(snapshot) => (Some(snapshot), None),
            Decided::At(moment) => (None, Some(moment)),
        };
        let OrderKey { account, hash } = row.open.key;
        let generation = generation(row.order).cast_signed().into();
        let (account, hash) = (account.0.into(), hash.cast_signed().into());
        let order = order_number(row.order)?;
        if let (Some(fill), Some(snapshot), None) = (fill, snapshot, row.open.asked) {
            let values = [
                generation,
                account,
                hash,
                order,
                state.into(),
                fill.quantity.raw().into(),
                fill.price.raw().into(),
                fill.amount.cents().into(),
                fill.basis.cents().into(),
                snapshot.into(),
            ];
            return self.write(Rows::Fill, &values);
        }
        let values = [
            generation,
            account,
            hash,
            order,
            state.into(),
            Value::optional(reason.map(i64::from)),
            Value::optional(row.open.asked.map(Quantity::raw)),
            Value::optional(fill.map(|fill| fill.quantity.raw())),
            Value::optional(fill.map(|fill| fill.price.raw())),
            Value::optional(fill.map(|fill| fill.amount.cents())),
            Value::optional(fill.map(|fill| fill.basis.cents())),
            Value::optional(snapshot),
            Value::optional(moment.map(|moment| moment.wall.0)),
            Value::optional(moment.map(|moment| moment.market.0)),
        ];
        self.write(Rows::Outcome, &values)
    }

    /// Notes that an open order waits, and what is asked now if that was changed.
    fn wait(
        &mut self,
        order: OrderId,
        asked: Option<Quantity>,
        reason: Option<WaitReason>,
    ) -> Written {
        let quantity = Value::optional(asked.map(Quantity::raw));
        let reason = Value::optional(reason.map(|reason| i64::from(reason as u8)));
        self.write(Rows::Wait, &[order_number(order)?, quantity, reason])?;
        self.staged.wait(order, asked);
        Ok(())
    }

    // Instruments and workers.

    fn add_instruments(&mut self, instruments: &[InstrumentRow]) -> Written {
        for row in instruments {
            follows("instrument", row.id.0, self.staged.instruments())?;
            let (symbol, name) = (Value::Text(row.symbol.as_str()), Value::Text(&row.name));
            let kind = i64::from(row.kind).into();
            self.write(Rows::Instrument, &[row.id.0.into(), symbol, name, kind])?;
            self.staged.instrument_added();
        }
        Ok(())
    }

    fn put_worker(&mut self, worker: &WorkerRow) -> Written {
        let sql = "INSERT INTO worker (id, name, allowed, key, booted, booted_until, compromised)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, allowed = excluded.allowed,
                key = excluded.key, booted = excluded.booted,
                booted_until = excluded.booted_until, compromised = excluded.compromised";
        let until = worker.booted.and_then(|boot| boot.until);
        let values = [
            Value::Bytes(&worker.id.0),
            Value::Text(&worker.name),
            Value::Text(&worker.allowed),
            worker.key.as_deref().map_or(Value::Null, Value::Bytes),
            flag(worker.booted.is_some()),
            Value::optional(until.map(|until| until.0)),
            flag(worker.booted.is_some_and(|boot| boot.compromised)),
        ];
        self.tables.change(sql, &values)?;
        Ok(())
    }

    fn remove_worker(&mut self, worker: WorkerId) -> Written {
        self.one("DELETE FROM worker WHERE id = ?1", &[Value::Bytes(&worker.0)], || {
            format!("worker {worker} is not registered")
        })
    }

    fn key_stolen(&mut self, fingerprint: &str) -> Written {
        let sql = "INSERT INTO stolen_key (fingerprint) VALUES (?1) ON CONFLICT DO NOTHING";
        self.tables.change(sql, &[Value::Text(fingerprint)])?;
        Ok(())
    }
}

/// Writes the row of an order: what was asked.
pub(crate) fn order(tables: &mut dyn Tables, order: &Order, key: OrderKey) -> Written {
    let request = &order.request;
    let values = [
        order_number(order.id)?,
        request.account.0.into(),
        Value::Text(request.client_order_id.as_str()),
        side_number(request.side).into(),
        request.instrument.0.into(),
        order.asked.raw().into(),
        order.hold.cents().into(),
        order.received.wall.0.into(),
        order.received.market.0.into(),
        signed(order.seen.0, "a snapshot's number")?.into(),
        order.day.into(),
        Value::Bytes(&order.worker.0),
        order.worker_time.0.into(),
        order.worker_sequence.cast_signed().into(),
        key.hash.cast_signed().into(),
    ];
    tables.write(Rows::Order, &values)
}

/// That an ID is one more than the table's last.
fn follows(table: &str, id: u32, last: u32) -> Written {
    if Some(id) == last.checked_add(1) {
        return Ok(());
    }
    Err(contradiction(format!("{table} {id} does not follow {table} {last}, the last one")))
}

/// The error that a change does not fit what is stored.
pub(crate) fn contradiction(what: String) -> Refused {
    Refused(CommitError::Contradiction(what))
}

/// The number as SQL has it.
fn signed(number: u64, what: &str) -> Written<i64> {
    i64::try_from(number).map_err(|_| contradiction(format!("{what} is too large: {number}")))
}

fn order_number(order: OrderId) -> Written<Value<'static>> {
    signed(order.0, "an order's number").map(Value::Integer)
}

fn flag(is_set: bool) -> Value<'static> {
    Value::Integer(i64::from(is_set))
}

#[cfg(test)]
mod tests {
    use papertrader_core::order::Side;

    use super::*;
    use crate::index::GENERATION_BITS;

    #[test]
    fn numbers_that_sql_cannot_hold_are_refused() {
        let largest = i64::MAX as u64;
        assert_eq!(signed(largest, "it").ok(), Some(i64::MAX));
        assert!(matches!(
            signed(largest + 1, "it"),
            Err(Refused(CommitError::Contradiction(what))) if what.contains("it is too large")
        ));
    }

    #[test]
    fn rows_are_put_into_the_order_of_the_table_however_they_come() {
        let row = |account: u32, hash: u64, order: u64| OutcomeRow {
            order: OrderId(order),
            open: Open {
                key: OrderKey { account: AccountId(account), hash },
                side: Side::Buy,
                instrument: InstrumentId(1),
                waits: false,
                asked: None,
            },
            state: &OrderState::Expired,
        };
        let later = 1 << GENERATION_BITS;
        let cases = [
            vec![(1, 9, 5), (1, 3, 7), (2, 1, 6), (2, u64::MAX, 8)],
            vec![(1, 9, 5), (1, 3, later), (1, 2, 6), (2, 1, later + 1), (2, 4, 7)],
            vec![(2, 1, 6), (1, 9, 5), (2, 3, 7), (1, 9, 4), (1, 1, later)],
            Vec::new(),
        ];
        for case in cases {
            let mut rows: Vec<_> = case.iter().map(|(a, h, o)| row(*a, *h, *o)).collect();
            let mut places: Vec<_> = rows.iter().map(OutcomeRow::place).collect();
            by_place(&mut rows);
            places.sort_unstable();
            assert_eq!(rows.iter().map(OutcomeRow::place).collect::<Vec<_>>(), places);
        }
    }
}
