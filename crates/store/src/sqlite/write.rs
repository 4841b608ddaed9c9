//! Writing a batch's changes inside the open transaction.
//!
//! Nothing here begins, commits or rolls back. Every change must find exactly what it expects: an
//! update that changes no row, or a row that is already there, is a contradiction and fails the
//! whole batch.

use papertrader_core::books::Head;
use papertrader_core::ids::{AccountId, InstrumentId, OrderId, WorkerId};
use papertrader_core::ledger::{JournalEntry, NamedAccounts};
use papertrader_core::names::ClientOrderId;
use papertrader_core::order::{OrderRecord, OrderState};
use papertrader_core::settle::{AccountChange, Decision, Settlement};
use papertrader_core::snapshot::Mark;
use papertrader_core::time::{Moment, WallTime};
use rusqlite::types::Value;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, params};

use super::failure::WriteError;
use super::rows::{CANCELLED, EXPIRED, FILLED, GRANT, QUEUED, REJECTED, SPLIT, side_number};
use crate::{
    BarRow, Batch, Change, InstrumentRow, NewAccount, PassHash, SessionKey, StoredSession,
    WorkerRow,
};

type Written = Result<(), WriteError>;

/// Writes a whole batch: checks its number and time, then makes its changes in order.
pub(super) fn batch(connection: &Connection, batch: &Batch) -> Written {
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
    let mut writer = Writer { connection, wall: batch.wall };
    for change in &batch.changes {
        writer.change(change)?;
    }
    let mut update =
        connection.prepare_cached("UPDATE meta SET last_batch = ?1, last_wall = ?2")?;
    one(&mut update, params![number, writer.wall.0], || "the meta row is missing".to_owned())
}

struct Writer<'c> {
    connection: &'c Connection,
    /// The latest wall time seen.
    wall: WallTime,
}

impl Writer<'_> {
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

    fn prepare(&self, sql: &str) -> Result<CachedStatement<'_>, WriteError> {
        Ok(self.connection.prepare_cached(sql)?)
    }

    fn seen(&mut self, wall: WallTime) {
        self.wall = self.wall.max(wall);
    }

    // Accounts and sessions.

    fn open_account(&mut self, new: &NewAccount) -> Written {
        self.seen(new.moment.wall);
        self.seen(new.profile.since);
        self.follows("account", new.id.0)?;
        let profile = &new.profile;
        let cash = new.grant.cents();
        self.prepare(
            "INSERT INTO account
                (id, name, name_key, email, pass_hash, since, cash, granted, disabled,
                 password_due)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, 0, ?8)",
        )?
        .execute(params![
            new.id.0,
            profile.name.as_str(),
            profile.name.key(),
            profile.email.as_str(),
            profile.pass_hash.as_ref().map(|hash| &hash.0),
            profile.since.0,
            cash,
            profile.password_due,
        ])?;
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
        let mut update = self.prepare(
            "UPDATE account SET disabled = 1 WHERE id = ?1 AND disabled = 0
             AND NOT EXISTS (SELECT 1 FROM order_ WHERE account = ?1 AND state = 0)",
        )?;
        one(&mut update, [account.0], || {
            format!("account {account} is unknown, already disabled, or still has open orders")
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
        let id = order.id;
        let (state, reason) = match record.state {
            OrderState::Queued(waiting) => (QUEUED, waiting.map(|reason| reason as u8)),
            OrderState::Rejected(refusal) => (REJECTED, Some(refusal as u8)),
            _ => return Err(contradiction(format!("order {id} is placed with a later state"))),
        };
        self.seen(order.received.wall);
        if let Some(decided) = record.decided {
            self.seen(decided.wall);
        }
        let request = &order.request;
        let mut insert = self.prepare(
            "INSERT INTO order_
                (id, account, client_order_id, side, instrument, quantity, asked, hold,
                 received_wall, received_market, seen, day, worker, worker_time, worker_sequence,
                 state, reason, decided_wall, decided_market)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
                    ?18, ?19
             WHERE NOT EXISTS
                (SELECT 1 FROM cancel_mark WHERE account = ?2 AND client_order_id = ?3)",
        )?;
        let values = params![
            signed(id.0, "an order's number")?,
            request.account.0,
            request.client_order_id.as_str(),
            side_number(request.side),
            request.instrument.0,
            request.quantity.raw(),
            order.asked.raw(),
            order.hold.cents(),
            order.received.wall.0,
            order.received.market.0,
            signed(order.seen.0, "a snapshot's number")?,
            order.day,
            order.worker.0.as_slice(),
            order.worker_time.0,
            order.worker_sequence.cast_signed(),
            state,
            reason,
            record.decided.map(|moment| moment.wall.0),
            record.decided.map(|moment| moment.market.0),
        ];
        one(&mut insert, values, || {
            format!("order {id} has a client order ID that was cancelled before")
        })
    }

    fn cancel_order(&mut self, order: OrderId, moment: Moment) -> Written {
        self.seen(moment.wall);
        let mut update = self.prepare(
            "UPDATE order_ SET state = ?2, reason = NULL, decided_wall = ?3, decided_market = ?4
             WHERE id = ?1 AND state = 0",
        )?;
        let id = signed(order.0, "an order's number")?;
        one(&mut update, params![id, CANCELLED, moment.wall.0, moment.market.0], || {
            format!("order {order} is cancelled but is not open")
        })
    }

    fn mark_cancelled(
        &mut self,
        account: AccountId,
        client_order_id: &ClientOrderId,
        moment: Moment,
    ) -> Written {
        self.seen(moment.wall);
        let mut insert = self.prepare(
            "INSERT INTO cancel_mark (account, client_order_id, wall, market)
             SELECT ?1, ?2, ?3, ?4
             WHERE NOT EXISTS
                (SELECT 1 FROM order_ WHERE account = ?1 AND client_order_id = ?2)",
        )?;
        let values = params![account.0, client_order_id.as_str(), moment.wall.0, moment.market.0];
        one(&mut insert, values, || {
            format!("account {account} marks a client order ID as cancelled that has an order")
        })
    }

    // Settlement.

    fn settle(&mut self, settlement: &Settlement) -> Written {
        let moment = settlement.moment;
        self.seen(moment.wall);
        self.snapshot(&settlement.head, moment)?;
        self.decide(&settlement.decisions, moment)?;
        let mut update =
            self.prepare("UPDATE order_ SET reason = ?2 WHERE id = ?1 AND state = 0")?;
        for waiting in &settlement.waiting {
            let id = signed(waiting.order.0, "an order's number")?;
            let reason = waiting.reason.map(|reason| reason as u8);
            one(&mut update, params![id, reason], || {
                format!("order {} waits but is not open", waiting.order)
            })?;
        }
        let mut update =
            self.prepare("UPDATE order_ SET quantity = ?2 WHERE id = ?1 AND state = 0")?;
        for rescaled in &settlement.rescaled {
            let id = signed(rescaled.order.0, "an order's number")?;
            one(&mut update, params![id, rescaled.quantity.raw()], || {
                format!("order {} is split but is not open", rescaled.order)
            })?;
        }
        self.accounts(&settlement.accounts)?;
        self.journal(&settlement.journal, settlement.head.snapshot, moment)?;
        self.prices(&settlement.marks)?;
        self.all_named(&settlement.named)
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

    fn decide(&self, decisions: &[Decision], moment: Moment) -> Written {
        let mut fill = self.prepare(
            "UPDATE order_ SET state = ?5, reason = NULL, fill_quantity = ?6, fill_price = ?7,
                fill_amount = ?8, fill_basis = ?9, fill_snapshot = ?10, decided_wall = ?11,
                decided_market = ?12
             WHERE id = ?1 AND state = 0 AND account = ?2 AND side = ?3 AND instrument = ?4",
        )?;
        let mut refuse = self.prepare(
            "UPDATE order_ SET state = ?5, reason = ?6, decided_wall = ?7, decided_market = ?8
             WHERE id = ?1 AND state = 0 AND account = ?2 AND side = ?3 AND instrument = ?4",
        )?;
        for decision in decisions {
            let order = decision.order;
            let id = signed(order.0, "an order's number")?;
            let (account, instrument) = (decision.account.0, decision.instrument.0);
            let side = side_number(decision.side);
            let (wall, market) = (moment.wall.0, moment.market.0);
            let wrong = || format!("order {order} is decided but is not open, or is another's");
            let (state, reason) = match decision.state {
                OrderState::Filled(done) => {
                    let values = params![
                        id,
                        account,
                        side,
                        instrument,
                        FILLED,
                        done.quantity.raw(),
                        done.price.raw(),
                        done.amount.cents(),
                        done.basis.cents(),
                        signed(done.snapshot.0, "a snapshot's number")?,
                        wall,
                        market,
                    ];
                    one(&mut fill, values, wrong)?;
                    continue;
                }
                OrderState::Rejected(refusal) => (REJECTED, Some(refusal as u8)),
                OrderState::Expired => (EXPIRED, None),
                OrderState::Cancelled | OrderState::Queued(_) => {
                    let what = format!("a settlement decides order {order} but leaves it open");
                    return Err(contradiction(what));
                }
            };
            let values = params![id, account, side, instrument, state, reason, wall, market];
            one(&mut refuse, values, wrong)?;
        }
        Ok(())
    }

    fn accounts(&self, changes: &[AccountChange]) -> Written {
        let mut cash = self.prepare("UPDATE account SET cash = ?2 WHERE id = ?1")?;
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

    fn add_instruments(&self, instruments: &[InstrumentRow]) -> Written {
        let mut insert = self
            .prepare("INSERT INTO instrument (id, symbol, name, kind) VALUES (?1, ?2, ?3, ?4)")?;
        for row in instruments {
            self.follows("instrument", row.id.0)?;
            insert.execute(params![row.id.0, row.symbol.as_str(), row.name, row.kind])?;
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

    /// That an ID is one more than the table's last.
    fn follows(&self, table: &str, id: u32) -> Written {
        let sql = format!("SELECT coalesce(max(id), 0) FROM {table}");
        let last: i64 =
            self.prepare(&sql)?.query_row([], |row| row.get(0)).optional()?.unwrap_or(0);
        if i64::from(id) == last + 1 {
            return Ok(());
        }
        Err(contradiction(format!("{table} {id} does not follow {table} {last}, the last one")))
    }
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
