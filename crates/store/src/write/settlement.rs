//! Writing a settlement: the outcomes of its orders, those that it leaves open, prices, and as much
//! of what accounts have as its turn comes to (`docs/design/0007-behind.md`).
//!
//! Invariant: that of the batch, whose transaction it is part of.

use std::panic::resume_unwind;
use std::thread::Builder;

use papertrader_core::books::Head;
use papertrader_core::ids::{InstrumentId, OrderId};
use papertrader_core::ledger::{JournalEntry, NamedAccounts};
use papertrader_core::money::Cash;
use papertrader_core::order::OrderState;
use papertrader_core::settle::{Decision, Settlement};
use papertrader_core::snapshot::Mark;
use papertrader_core::time::Moment;

use super::{Decided, GRANTS, MANY, OutcomeRow, Refused, Writer, Written};
use super::{contradiction, flag, order_number, signed};
use crate::behind::Step;
use crate::rows::{GRANT, SPLIT, Value};
use crate::shape::Rows;

impl Writer<'_> {
    /// Writes what became of an interval.
    pub(super) fn settle(&mut self, settlement: &Settlement) -> Written {
        let moment = settlement.moment;
        self.seen(moment.wall);
        self.snapshot(&settlement.head, moment)?;
        // A second settlement of the batch follows the first.
        if let Some(step) = self.step.take() {
            self.behind.get_or_insert_with(|| self.before.clone()).apply(step);
        }
        let behind = self.behind.take();
        let before = behind.as_ref().unwrap_or(self.before);
        let (accounts, pace) = (self.staged.accounts(), self.pace);
        let last_order = OrderId(self.staged.last_order());
        let forward = || before.settle(settlement, accounts, last_order, pace);
        let step = if settlement.accounts.len() < MANY {
            self.decide(&settlement.decisions, &settlement.head)?;
            forward()
        } else {
            // What is to be written is found out while the outcomes are written.
            std::thread::scope(|scope| {
                let other = Builder::new().spawn_scoped(scope, forward);
                self.decide(&settlement.decisions, &settlement.head)?;
                Ok::<_, Refused>(match other {
                    // A panic of it goes on here.
                    Ok(other) => other.join().unwrap_or_else(|panic| resume_unwind(panic)),
                    Err(_) => forward(),
                })
            })?
        };
        self.behind = behind;
        self.leave_open(settlement)?;
        self.accounts(settlement, step)?;
        self.journal(&settlement.journal, settlement.head.snapshot, moment)?;
        self.prices(&settlement.marks)?;
        self.all_named(&settlement.named);
        Ok(())
    }

    /// The orders that stay open: from now on each has a row in `waiting`.
    fn leave_open(&mut self, settlement: &Settlement) -> Written {
        // A split changes what is asked, and keeps why the order waits.
        for rescaled in &settlement.rescaled {
            self.open(rescaled.order, "is split")?;
            let quantity = rescaled.quantity.raw().into();
            self.write(Rows::Rescale, &[order_number(rescaled.order)?, quantity])?;
            self.staged.wait(rescaled.order, Some(rescaled.quantity));
        }
        for waiting in &settlement.waiting {
            let open = self.open(waiting.order, "waits")?;
            self.wait(waiting.order, open.asked, waiting.reason)?;
        }
        for order in self.staged.settle() {
            self.wait(order, None, None)?;
        }
        self.settled = Some(signed(self.staged.last_order(), "an order's number")?);
        Ok(())
    }

    fn snapshot(&mut self, head: &Head, moment: Moment) -> Written {
        let number = signed(head.snapshot, "a snapshot's number")?;
        let sql = "INSERT INTO snapshot (number, wall, market, day, last_action, ended)
                   SELECT CAST(?1 AS BIGINT), CAST(?2 AS BIGINT), CAST(?3 AS BIGINT),
                          CAST(?4 AS BIGINT), CAST(?5 AS BIGINT), CAST(?6 AS SMALLINT)
                   WHERE CAST(?1 AS BIGINT) > (SELECT coalesce(max(number), 0) FROM snapshot)";
        let values = [
            number.into(),
            moment.wall.0.into(),
            head.market.0.into(),
            head.day.into(),
            head.last_action.cast_signed().into(),
            flag(head.ended),
        ];
        self.one(sql, &values, || format!("snapshot {number} is not later than the last one"))
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
            rows.push(OutcomeRow { order, open, state: &decision.state });
        }
        self.outcomes(rows, decided)
    }

    /// What accounts have from now on. Only a part of it is written: what it follows from is.
    fn accounts(&mut self, settlement: &Settlement, step: Step) -> Written {
        for change in &settlement.accounts {
            self.known_account(change.id, "a balance")?;
            // By instrument: if the first and the last one are known all are.
            let held = &change.after.positions;
            if !held.is_sorted_by(|a, b| a.instrument < b.instrument) {
                let what = format!("the positions of account {} are not by instrument", change.id);
                return Err(contradiction(what));
            }
            for position in held.first().into_iter().chain(held.last()) {
                self.known_instrument(position.instrument, "a position")?;
            }
        }
        let snapshot = signed(settlement.head.snapshot, "a snapshot's number")?;
        for row in &step.written {
            let (account, cash) = (row.account.0.into(), row.cash.cents().into());
            let values = [account, cash, snapshot.into(), Value::Text(&row.positions)];
            self.write(Rows::Owned, &values)?;
        }
        self.step = Some(step);
        Ok(())
    }

    /// Writes grants or splits.
    pub(super) fn journal(
        &mut self,
        entries: &[JournalEntry],
        snapshot: u64,
        moment: Moment,
    ) -> Written {
        let snapshot = signed(snapshot, "a snapshot's number")?;
        for entry in entries {
            let (account, kind, split, quantity, cash): (_, _, _, i64, Cash) = match *entry {
                JournalEntry::Grant { account, cash } => {
                    (account, GRANT, [Value::Null; 3], 0, cash)
                }
                JournalEntry::Split { account, instrument, action, quantity, cash } => {
                    let action = action.cast_signed().into();
                    let split = [instrument.0.into(), action, snapshot.into()];
                    (account, SPLIT, split, quantity.raw(), cash)
                }
            };
            let values = [
                account.0.into(),
                kind.into(),
                split[0],
                split[1],
                split[2],
                quantity.into(),
                cash.cents().into(),
                moment.wall.0.into(),
                moment.market.0.into(),
            ];
            self.write(Rows::Journal, &values)?;
        }
        Ok(())
    }

    fn prices(&mut self, marks: &[(InstrumentId, Mark)]) -> Written {
        for (instrument, mark) in marks {
            self.known_instrument(*instrument, "a price")?;
            let values = [instrument.0.into(), mark.price.raw().into(), mark.time.0.into()];
            self.write(Rows::Price, &values)?;
        }
        Ok(())
    }

    fn all_named(&mut self, named: &NamedAccounts) {
        self.named.insert(("market", 0), named.market);
        self.named.insert(GRANTS, named.grants);
        self.named.insert(("fractions", 0), named.fractions);
        for (instrument, amount) in &named.market_units {
            self.named.insert(("market", instrument.0), *amount);
        }
    }
}
