//! Writing a batch's changes inside the open transaction.
//!
//! Nothing here begins, commits or rolls back. Every change must find exactly what it expects: an
//! update that changes no row, or a row that is already there, is a contradiction and fails the
//! whole batch. What the index knows of orders, accounts and instruments is asked there, not in the
//! database.

use papertrader_core::books::Head;
use papertrader_core::ids::{AccountId, InstrumentId, OrderId, WorkerId};
use papertrader_core::ledger::{JournalEntry, NamedAccounts};
use papertrader_core::money::Quantity;
use papertrader_core::names::ClientOrderId;
use papertrader_core::order::{OrderRecord, OrderState, WaitReason};
use papertrader_core::settle::{AccountChange, Decision, Settlement};
use papertrader_core::snapshot::Mark;
use papertrader_core::time::{Moment, WallTime};
use rusqlite::types::Value;
use rusqlite::{CachedStatement, Connection, Params, params};

use super::failure::WriteError;
use super::read;
use super::rows::{CANCELLED, EXPIRED, FILLED, GRANT, REJECTED, SPLIT, side_number};
use crate::index::{Changes, Index, Open, OrderKey, Staged, generation};
use crate::{
    BarRow, Batch, Change, Found, InstrumentRow, NewAccount, PassHash, SessionKey, StoreError,
    StoredSession, WorkerRow,
};

type Written = Result<(), WriteError>;

/// Writes a whole batch: checks its number and time, then makes its changes in order. Returns what
/// the index takes over when it is committed.
pub(super) fn batch(
    connection: &Connection,
    index: &Index,
    batch: &Batch,
) -> Result<Changes, WriteError> {
    let (last, wall): (i64, i64) = connection
        .prepare_cached("SELECT last_batch, last_wall FROM meta")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let number = signed(batch.number.0, "the batch's number")?;
    if last.checked_add(1) != Some(number) {
        return Err(contradiction(format!(
            "batch {number} does not follow batch {last}, the last one stored"
        )));
    }
    if batch.wall.0 <= wall {
        return Err(contradiction(format!(
            "batch {number} is not later than what is stored: its wall time {} is not above {wall}",
            batch.wall.0
        )));
    }
    let mut writer = Writer { connection, wall: batch.wall, staged: Staged::new(index) };
    for change in &batch.changes {
        writer.change(change)?;
    }
    let mut update =
        connection.prepare_cached("UPDATE meta SET last_batch = ?1, last_wall = ?2")?;
    one(&mut update, params![number, writer.wall.0], || "the meta row is missing".to_owned())?;
    Ok(writer.staged.into_changes())
}

struct Writer<'c> {
    connection: &'c Connection,
    /// The latest wall time seen.
    wall: WallTime,
    staged: Staged<'c>,
}

/// The outcome of an order, as its row has it.
struct OutcomeRow {
    order: OrderId,
    open: Open,
    state: OrderState,
    decided: Decided,
}

/// When an order got its outcome.
#[derive(Clone, Copy)]
enum Decided {
    /// With this snapshot's settlement.
    Settled(i64),
    At(Moment),
}

impl<'c> Writer<'c> {
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
            Change::EndSession(key) => self.end_session(*key),
            Change::PlaceOrder(record) => self.place_order(record),
            Change::CancelOrder { order, moment } => self.cancel_order(*order, *moment),
            Change::MarkCancelled { account, client_order_id, moment } => {
                self.mark_cancelled(*account, client_order_id, *moment)
            }
            Change::Settle { settlement, bars } => {
                self.settle(settlement)?;
                self.put_bars(bars)
            }
            Change::PutBars(bars) => self.put_bars(bars),
            Change::AddInstruments(instruments) => self.add_instruments(instruments),
            Change::PutWorker(worker) => self.put_worker(worker),
            Change::RemoveWorker(worker) => self.remove_worker(*worker),
            Change::KeyStolen(fingerprint) => self.key_stolen(fingerprint),
        }
    }

    fn prepare(&self, sql: &str) -> Result<CachedStatement<'c>, WriteError> {
        Ok(self.connection.prepare_cached(sql)?)
    }

    fn seen(&mut self, wall: WallTime) {
        self.wall = self.wall.max(wall);
    }

    // Accounts and sessions.

    fn open_account(&mut self, new: &NewAccount) -> Written {
        self.seen(new.moment.wall);
        self.seen(new.profile.since);
        follows("account", new.id.0, self.staged.accounts())?;
        let profile = &new.profile;
        let cash = new.grant.cents();
        self.prepare(
            "INSERT INTO account
                (id, name, name_key, email, pass_hash, since, disabled, password_due)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7)",
        )?
        .execute(params![
            new.id.0,
            profile.name.as_str(),
            profile.name.key(),
            profile.email.as_str(),
            profile.pass_hash.as_ref().map(|hash| &hash.0),
            profile.since.0,
            profile.password_due,
        ])?;
        self.prepare("INSERT INTO balance (account, cash, granted) VALUES (?1, ?2, ?2)")?
            .execute(params![new.id.0, cash])?;
        self.staged.account_opened();
        let entry = JournalEntry::Grant { account: new.id, cash: new.grant };
        self.journal(&[entry], 0, new.moment)?;
        let granted: String = self
            .prepare("SELECT amount FROM named_account WHERE name = 'grants' AND instrument = 0")?
            .query_row([], |row| row.get(0))?;
        let granted: i128 = granted.parse().map_err(|_| {
            contradiction(format!("named account grants holds {granted:?}, which is no amount"))
        })?;
        let after = granted
            .checked_sub(i128::from(cash))
            .ok_or_else(|| contradiction("the named account grants overflows".to_owned()))?;
        self.named("grants", 0, after)
    }

    fn disable_account(&mut self, account: AccountId) -> Written {
        let open = self.staged.count_open(account);
        if open > 0 {
            return Err(contradiction(format!(
                "account {account} is disabled with {open} open orders"
            )));
        }
        let mut update =
            self.prepare("UPDATE account SET disabled = 1 WHERE id = ?1 AND disabled = 0")?;
        one(&mut update, [account.0], || {
            format!("account {account} is unknown or already disabled")
        })
    }

    fn enable_account(&mut self, account: AccountId) -> Written {
        let mut update =
            self.prepare("UPDATE account SET disabled = 0 WHERE id = ?1 AND disabled = 1")?;
        one(&mut update, [account.0], || format!("account {account} is unknown or not disabled"))
    }

    fn set_password(
        &mut self,
        account: AccountId,
        pass_hash: &PassHash,
        through: Option<WorkerId>,
    ) -> Written {
        let mut update =
            self.prepare("UPDATE account SET pass_hash = ?2, password_due = 0 WHERE id = ?1")?;
        one(&mut update, params![account.0, pass_hash.0], || {
            format!("account {account} gets a password but is unknown")
        })?;
        self.prepare("DELETE FROM exposure WHERE account = ?1")?.execute([account.0])?;
        through.map_or(Ok(()), |worker| self.expose(account, worker))
    }

    fn require_password(&mut self, account: AccountId) -> Written {
        let mut update = self.prepare("UPDATE account SET password_due = 1 WHERE id = ?1")?;
        one(&mut update, [account.0], || {
            format!("account {account} is to change its password but is unknown")
        })
    }

    fn expose(&self, account: AccountId, worker: WorkerId) -> Written {
        self.prepare(
            "INSERT INTO exposure (account, worker) VALUES (?1, ?2)
             ON CONFLICT (account, worker) DO NOTHING",
        )?
        .execute(params![account.0, worker.0.as_slice()])?;
        Ok(())
    }

    fn use_sessions(&mut self, used: &[(SessionKey, WallTime)]) -> Written {
        if let Some(latest) = used.iter().map(|(_, when)| *when).max() {
            self.seen(latest);
        }
        let mut update = self.prepare("UPDATE session SET used = max(used, ?2) WHERE key = ?1")?;
        for (key, when) in used {
            update.execute(params![key.0.as_slice(), when.0])?;
        }
        Ok(())
    }

    fn start_session(&mut self, session: &StoredSession) -> Written {
        self.seen(session.started);
        self.seen(session.used);
        self.prepare(
            "INSERT INTO session (key, account, expires, expirable, client, started, used)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            session.key.0.as_slice(),
            session.account.0,
            session.expires.0,
            session.expirable,
            session.client.to_string(),
            session.started.0,
            session.used.0,
        ])?;
        Ok(())
    }

    fn end_session(&mut self, key: SessionKey) -> Written {
        let mut delete = self.prepare("DELETE FROM session WHERE key = ?1")?;
        one(&mut delete, [key.0.as_slice()], || "a session that ends is not stored".to_owned())
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
        let number = signed(id.0, "an order's number")?;
        if !self.staged.has_account(request.account) {
            return Err(contradiction(format!("order {id} is of an unknown account")));
        }
        if !self.staged.has_instrument(request.instrument) {
            return Err(contradiction(format!("order {id} is of an unknown instrument")));
        }
        let key = OrderKey::new(request.account, &request.client_order_id);
        if let Some(found) = self.find(key, &request.client_order_id)? {
            let other = match found {
                Found::Order(other) => format!("that order {} has", other.order.id),
                Found::Mark => "that was cancelled before".to_owned(),
            };
            return Err(contradiction(format!("order {id} has a client order ID {other}")));
        }
        self.prepare(
            "INSERT INTO order_
                (id, account, client_order_id, side, instrument, quantity, hold, received_wall,
                 received_market, seen, day, worker, worker_time, worker_sequence)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        )?
        .execute(params![
            number,
            request.account.0,
            request.client_order_id.as_str(),
            side_number(request.side),
            request.instrument.0,
            order.asked.raw(),
            order.hold.cents(),
            order.received.wall.0,
            order.received.market.0,
            signed(order.seen.0, "a snapshot's number")?,
            order.day,
            order.worker.0.as_slice(),
            order.worker_time.0,
            order.worker_sequence.cast_signed(),
        ])?;
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
                self.outcomes(vec![OutcomeRow { order: id, open, state: record.state, decided }])
            }
            _ => Err(contradiction(format!("order {id} is placed with a later state"))),
        }
    }

    fn cancel_order(&mut self, order: OrderId, moment: Moment) -> Written {
        self.seen(moment.wall);
        let open = self.open(order, "is cancelled")?;
        let (state, decided) = (OrderState::Cancelled, Decided::At(moment));
        self.outcomes(vec![OutcomeRow { order, open, state, decided }])
    }

    fn mark_cancelled(
        &mut self,
        account: AccountId,
        client_order_id: &ClientOrderId,
        moment: Moment,
    ) -> Written {
        self.seen(moment.wall);
        let key = OrderKey::new(account, client_order_id);
        if self.find(key, client_order_id)?.is_some() {
            return Err(contradiction(format!(
                "account {account} marks a client order ID as cancelled that is known"
            )));
        }
        self.prepare(
            "INSERT INTO cancel_mark (account, client_order_id, wall, market)
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            account.0,
            client_order_id.as_str(),
            moment.wall.0,
            moment.market.0
        ])?;
        self.staged.mark(key);
        Ok(())
    }

    /// What is known under a client order ID, this batch included.
    fn find(&self, key: OrderKey, id: &ClientOrderId) -> Result<Option<Found>, WriteError> {
        let found = read::find_recent(self.connection, self.staged.recent_with(key), id).and_then(
            |found| match found {
                None if self.staged.may_know(key) => read::find_known(self.connection, key, id),
                found => Ok(found),
            },
        );
        found.map_err(|error| match error {
            StoreError::Corrupt(what) => contradiction(what),
            error => WriteError::Unreadable(error.to_string()),
        })
    }

    fn open(&self, order: OrderId, what: &str) -> Result<Open, WriteError> {
        let open = self.staged.open(order);
        open.ok_or_else(|| contradiction(format!("order {order} {what} but is not open")))
    }

    /// Notes what became of open orders.
    fn outcomes(&mut self, mut rows: Vec<OutcomeRow>) -> Written {
        // In the order of the tables, so that they grow at their ends.
        rows.sort_unstable_by_key(|row| row.order);
        let mut insert = self.prepare(
            "INSERT INTO outcome
                (id, state, reason, asked, quantity, price, amount, basis, snapshot, wall, market)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?;
        for row in &rows {
            let (state, reason, fill) = match row.state {
                OrderState::Filled(fill) => (FILLED, None, Some(fill)),
                OrderState::Rejected(refusal) => (REJECTED, Some(refusal as u8), None),
                OrderState::Cancelled => (CANCELLED, None, None),
                OrderState::Expired => (EXPIRED, None, None),
                OrderState::Queued(_) => {
                    let what = format!("order {} is decided and left open", row.order);
                    return Err(contradiction(what));
                }
            };
            let (snapshot, moment) = match row.decided {
                Decided::Settled(snapshot) => (Some(snapshot), None),
                Decided::At(moment) => (None, Some(moment)),
            };
            insert.execute(params![
                signed(row.order.0, "an order's number")?,
                state,
                reason,
                row.open.asked.map(Quantity::raw),
                fill.map(|fill| fill.quantity.raw()),
                fill.map(|fill| fill.price.raw()),
                fill.map(|fill| fill.amount.cents()),
                fill.map(|fill| fill.basis.cents()),
                snapshot,
                moment.map(|moment| moment.wall.0),
                moment.map(|moment| moment.market.0),
            ])?;
        }
        let mut stay = self.prepare("DELETE FROM waiting WHERE id = ?1")?;
        for row in rows.iter().filter(|row| row.open.waits) {
            let id = signed(row.order.0, "an order's number")?;
            one(&mut stay, [id], || format!("order {} does not wait, but should", row.order))?;
        }
        for row in &rows {
            self.staged.close(row.order);
        }
        rows.sort_unstable_by_key(|row| (generation(row.order), row.open.key, row.order));
        let mut insert = self.prepare(
            "INSERT INTO order_key (generation, account, hash, id) VALUES (?1, ?2, ?3, ?4)",
        )?;
        for row in &rows {
            let (generation, id) = (generation(row.order).cast_signed(), row.order.0.cast_signed());
            let OrderKey { account, hash } = row.open.key;
            insert.execute(params![generation, account.0, hash.cast_signed(), id])?;
        }
        Ok(())
    }

    /// Notes that an open order waits, and what is asked now if that was changed.
    fn wait(
        &mut self,
        order: OrderId,
        asked: Option<Quantity>,
        reason: Option<WaitReason>,
    ) -> Written {
        self.prepare(
            "INSERT INTO waiting (id, quantity, reason) VALUES (?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET quantity = excluded.quantity, reason = excluded.reason",
        )?
        .execute(params![
            signed(order.0, "an order's number")?,
            asked.map(Quantity::raw),
            reason.map(|reason| reason as u8),
        ])?;
        self.staged.wait(order, asked);
        Ok(())
    }

    // Settlement.

    fn settle(&mut self, settlement: &Settlement) -> Written {
        let moment = settlement.moment;
        self.seen(moment.wall);
        self.snapshot(&settlement.head, moment)?;
        self.decide(&settlement.decisions, &settlement.head)?;
        self.leave_open(settlement)?;
        self.accounts(&settlement.accounts)?;
        self.journal(&settlement.journal, settlement.head.snapshot, moment)?;
        self.prices(&settlement.marks)?;
        self.all_named(&settlement.named)
    }

    /// The orders that stay open: from now on each has a row in `waiting`.
    fn leave_open(&mut self, settlement: &Settlement) -> Written {
        // A split changes what is asked, and keeps why the order waits.
        let mut update = self.prepare(
            "INSERT INTO waiting (id, quantity) VALUES (?1, ?2)
             ON CONFLICT (id) DO UPDATE SET quantity = excluded.quantity",
        )?;
        for rescaled in &settlement.rescaled {
            self.open(rescaled.order, "is split")?;
            let id = signed(rescaled.order.0, "an order's number")?;
            update.execute(params![id, rescaled.quantity.raw()])?;
            self.staged.wait(rescaled.order, Some(rescaled.quantity));
        }
        for waiting in &settlement.waiting {
            let open = self.open(waiting.order, "waits")?;
            self.wait(waiting.order, open.asked, waiting.reason)?;
        }
        for order in self.staged.settle() {
            self.wait(order, None, None)?;
        }
        let last = signed(self.staged.last_order(), "an order's number")?;
        self.prepare("UPDATE meta SET settled_order = ?1")?.execute([last])?;
        Ok(())
    }

    fn snapshot(&self, head: &Head, moment: Moment) -> Written {
        let number = signed(head.snapshot, "a snapshot's number")?;
        let mut insert = self.prepare(
            "INSERT INTO snapshot (number, wall, market, day, last_action, ended)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6
             WHERE ?1 > (SELECT coalesce(max(number), 0) FROM snapshot)",
        )?;
        let values = params![
            number,
            moment.wall.0,
            head.market.0,
            head.day,
            head.last_action.cast_signed(),
            head.ended,
        ];
        one(&mut insert, values, || format!("snapshot {number} is not later than the last one"))
    }

    fn decide(&mut self, decisions: &[Decision], head: &Head) -> Written {
        let decided = Decided::Settled(signed(head.snapshot, "a snapshot's number")?);
        let mut rows = Vec::with_capacity(decisions.len());
        for decision in decisions {
            let order = decision.order;
            let open = self.open(order, "is decided")?;
            let is_same = open.key.account == decision.account
                && open.side == decision.side
                && open.instrument == decision.instrument;
            let fits = match decision.state {
                OrderState::Filled(fill) => fill.snapshot.0 == head.snapshot,
                OrderState::Rejected(_) | OrderState::Expired => true,
                OrderState::Cancelled | OrderState::Queued(_) => false,
            };
            if !is_same || !fits {
                let what = format!("order {order} is decided but is another's, or not by this");
                return Err(contradiction(what));
            }
            rows.push(OutcomeRow { order, open, state: decision.state, decided });
        }
        self.outcomes(rows)
    }

    fn accounts(&self, changes: &[AccountChange]) -> Written {
        let mut cash = self.prepare("UPDATE balance SET cash = ?2 WHERE account = ?1")?;
        let mut put = self.prepare(
            "INSERT INTO position (account, instrument, quantity, cost) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (account, instrument)
             DO UPDATE SET quantity = excluded.quantity, cost = excluded.cost",
        )?;
        let mut delete =
            self.prepare("DELETE FROM position WHERE account = ?1 AND instrument = ?2")?;
        for change in changes {
            let account = change.id;
            one(&mut cash, params![account.0, change.after.cash.cents()], || {
                format!("account {account} is settled but is not stored")
            })?;
            for instrument in &change.positions {
                match change.after.position(*instrument) {
                    Some(position) => {
                        let (quantity, cost) = (position.quantity.raw(), position.cost.cents());
                        put.execute(params![account.0, instrument.0, quantity, cost])?;
                    }
                    None => one(&mut delete, params![account.0, instrument.0], || {
                        format!("account {account} loses a position in {instrument} it has not")
                    })?,
                }
            }
        }
        Ok(())
    }

    fn journal(&self, entries: &[JournalEntry], snapshot: u64, moment: Moment) -> Written {
        let mut insert = self.prepare(
            "INSERT INTO journal
                (account, kind, instrument, action, snapshot, quantity, cash, wall, market)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?;
        let (wall, market) = (moment.wall.0, moment.market.0);
        let snapshot = signed(snapshot, "a snapshot's number")?;
        for entry in entries {
            match *entry {
                JournalEntry::Grant { account, cash } => {
                    let none = Value::Null;
                    let cash = cash.cents();
                    insert.execute(params![
                        account.0, GRANT, none, none, none, 0, cash, wall, market
                    ])?;
                }
                JournalEntry::Split { account, instrument, action, quantity, cash } => {
                    insert.execute(params![
                        account.0,
                        SPLIT,
                        instrument.0,
                        action.cast_signed(),
                        snapshot,
                        quantity.raw(),
                        cash.cents(),
                        wall,
                        market,
                    ])?;
                }
            }
        }
        Ok(())
    }

    fn prices(&self, marks: &[(InstrumentId, Mark)]) -> Written {
        let mut put = self.prepare(
            "INSERT INTO price (instrument, price, time) VALUES (?1, ?2, ?3)
             ON CONFLICT (instrument) DO UPDATE SET price = excluded.price, time = excluded.time",
        )?;
        for (instrument, mark) in marks {
            put.execute(params![instrument.0, mark.price.raw(), mark.time.0])?;
        }
        Ok(())
    }

    fn all_named(&self, named: &NamedAccounts) -> Written {
        self.named("market", 0, named.market)?;
        self.named("grants", 0, named.grants)?;
        self.named("fractions", 0, named.fractions)?;
        for (instrument, amount) in &named.market_units {
            self.named("market", instrument.0, *amount)?;
        }
        Ok(())
    }

    /// Sets what a named account holds of an instrument, or of cash (0). An amount that is as
    /// before is not written.
    fn named(&self, name: &str, instrument: u32, amount: i128) -> Written {
        self.prepare(
            "INSERT INTO named_account (name, instrument, amount) VALUES (?1, ?2, ?3)
             ON CONFLICT (name, instrument) DO UPDATE SET amount = excluded.amount
             WHERE amount <> excluded.amount",
        )?
        .execute(params![name, instrument, amount.to_string()])?;
        Ok(())
    }

    // Instruments, bars and workers.

    fn put_bars(&self, bars: &[BarRow]) -> Written {
        let mut put = self.prepare(
            "INSERT INTO bar (instrument, resolution, start, open, high, low, close, volume)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (instrument, resolution, start) DO UPDATE SET open = excluded.open,
                high = excluded.high, low = excluded.low, close = excluded.close,
                volume = excluded.volume",
        )?;
        for BarRow { instrument, resolution, bar } in bars {
            put.execute(params![
                instrument.0,
                *resolution as u8,
                bar.start.0,
                bar.open.raw(),
                bar.high.raw(),
                bar.low.raw(),
                bar.close.raw(),
                bar.volume.raw(),
            ])?;
        }
        Ok(())
    }

    fn add_instruments(&mut self, instruments: &[InstrumentRow]) -> Written {
        let mut insert = self
            .prepare("INSERT INTO instrument (id, symbol, name, kind) VALUES (?1, ?2, ?3, ?4)")?;
        for row in instruments {
            follows("instrument", row.id.0, self.staged.instruments())?;
            insert.execute(params![row.id.0, row.symbol.as_str(), row.name, row.kind])?;
            self.staged.instrument_added();
        }
        Ok(())
    }

    fn put_worker(&self, worker: &WorkerRow) -> Written {
        self.prepare(
            "INSERT INTO worker (id, name, allowed, key, booted, booted_until, compromised)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, allowed = excluded.allowed,
                key = excluded.key, booted = excluded.booted,
                booted_until = excluded.booted_until, compromised = excluded.compromised",
        )?
        .execute(params![
            worker.id.0.as_slice(),
            worker.name,
            worker.allowed,
            worker.key,
            worker.booted.is_some(),
            worker.booted.and_then(|boot| boot.until).map(|until| until.0),
            worker.booted.is_some_and(|boot| boot.compromised),
        ])?;
        Ok(())
    }

    fn remove_worker(&mut self, worker: WorkerId) -> Written {
        let mut delete = self.prepare("DELETE FROM worker WHERE id = ?1")?;
        one(&mut delete, [worker.0.as_slice()], || format!("worker {worker} is not registered"))
    }

    fn key_stolen(&self, fingerprint: &str) -> Written {
        let sql = "INSERT INTO stolen_key (fingerprint) VALUES (?1) ON CONFLICT DO NOTHING";
        self.prepare(sql)?.execute([fingerprint])?;
        Ok(())
    }
}

/// That an ID is one more than the table's last.
fn follows(table: &str, id: u32, last: u32) -> Written {
    if Some(id) == last.checked_add(1) {
        return Ok(());
    }
    Err(contradiction(format!("{table} {id} does not follow {table} {last}, the last one")))
}

/// Executes a statement that must change exactly one row.
fn one(
    statement: &mut CachedStatement<'_>,
    values: impl Params,
    otherwise: impl FnOnce() -> String,
) -> Written {
    match statement.execute(values)? {
        1 => Ok(()),
        _ => Err(contradiction(otherwise())),
    }
}

fn contradiction(what: String) -> WriteError {
    WriteError::Contradiction(what)
}

/// The number as SQL has it.
fn signed(number: u64, what: &str) -> Result<i64, WriteError> {
    i64::try_from(number).map_err(|_| contradiction(format!("{what} is too large: {number}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_sql_cannot_hold_are_refused() {
        let largest = i64::MAX as u64;
        assert_eq!(signed(largest, "it").ok(), Some(i64::MAX));
        assert!(matches!(
            signed(largest + 1, "it"),
            Err(WriteError::Contradiction(what)) if what.contains("it is too large")
        ));
    }
}
