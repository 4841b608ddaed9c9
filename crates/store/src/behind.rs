//! Balances and positions that are not in their tables yet (`docs/design/0007-behind.md`): which of
//! them a settlement writes, and how a start finds those that it has to add. The same for every
//! database.
//!
//! It writes nothing itself.
//!
//! Invariant: what is stored, with what is missing added, is what was committed. The values kept here
//! are those of the last settlement that changed them; whatever lies behind the [`Horizon`] is
//! stored.

use std::borrow::Borrow;

use papertrader_core::account::{Account, Position};
use papertrader_core::ids::{AccountId, InstrumentId, OrderId};
use papertrader_core::money::{Cash, Quantity};
use papertrader_core::order::{OrderState, Side};
use papertrader_core::settle::{AccountChange, Settlement};
use rustc_hash::FxHashSet;

use crate::StoreError;
use crate::held::{self, Held};
use crate::index::generation;
use crate::read::Ask;
use crate::rows::Reading;

/// How far a settlement brings the tables forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Decided orders in whose time every account is written once, at the least.
    pub round: u64,
    /// Accounts that each settlement writes, at the least, if so many are behind.
    pub at_least: usize,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { round: 1 << 19, at_least: 256 }
    }
}

/// Only outcomes of later snapshots, and of orders not before this generation, may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Horizon {
    pub(crate) snapshot: u64,
    pub(crate) generation: u64,
}

/// What an account has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) account: AccountId,
    pub(crate) cash: Cash,
    pub(crate) held: Box<[Held]>,
}

impl Owned {
    fn of(id: AccountId, account: &Account) -> Owned {
        Owned { account: id, cash: account.cash, held: held::of(account) }
    }
}

/// What is not in its table yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Behind {
    /// By account.
    owned: Vec<Owned>,
    horizon: Horizon,
    /// The horizon once the round is over.
    next: Horizon,
    /// The last account that the round has come to.
    reached: u32,
    /// Fills behind the horizon that a start has read: with more than a round of them the next
    /// settlement writes all that is behind, or starts in quick succession would each read more.
    read: u64,
}

/// A balance as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BalanceRow {
    pub(crate) account: AccountId,
    pub(crate) cash: Cash,
    pub(crate) positions: String,
}

impl BalanceRow {
    fn of(owned: &Owned) -> BalanceRow {
        let positions = held::written(&owned.held);
        BalanceRow { account: owned.account, cash: owned.cash, positions }
    }
}

/// What a settlement does: what it writes, and what is behind after it.
#[derive(Debug)]
pub(crate) struct Step {
    /// By account.
    pub(crate) written: Vec<BalanceRow>,
    due: Due,
    /// What it leaves behind, by account.
    left: Vec<Owned>,
    pub(crate) horizon: Horizon,
    next: Horizon,
    reached: u32,
}

/// The accounts that a settlement writes.
#[derive(Debug)]
struct Due {
    all: bool,
    after: u32,
    to: u32,
    at_once: FxHashSet<AccountId>,
}

impl Due {
    fn has(&self, account: AccountId) -> bool {
        self.all
            || (account.0 > self.after && account.0 <= self.to)
            || self.at_once.contains(&account)
    }
}

impl Behind {
    /// What a settlement does to it. `accounts` is how many there are, `last_order` the last order
    /// there is.
    pub(crate) fn settle(
        &self,
        settlement: &Settlement,
        accounts: u32,
        last_order: OrderId,
        pace: Pace,
    ) -> Step {
        let changed = changed(settlement);
        let is_overdue = settlement.decisions.len() as u64 >= pace.round || self.read > pace.round;
        let due = Due {
            all: is_overdue || self.owned.len() + changed.len() <= pace.at_least,
            after: self.reached,
            to: self.reach(&changed, settlement.decisions.len(), accounts, pace),
            at_once: self.at_once(settlement),
        };
        let (now_due, left): (Vec<Owned>, Vec<Owned>) =
            changed.into_iter().partition(|owned| due.has(owned.account));
        let before = self.owned.iter().filter(|owned| due.has(owned.account));
        let written = merged(before, now_due.iter().collect());
        let written = written.into_iter().map(BalanceRow::of).collect();
        let snapshot = settlement.head.snapshot;
        let now = Horizon { snapshot, generation: generation(last_order) };
        let (horizon, next, reached) =
            if left.is_empty() && self.owned.iter().all(|owned| due.has(owned.account)) {
                (now, now, 0)
            } else if due.to >= accounts {
                (self.next, now, 0)
            } else {
                (self.horizon, self.next, due.to)
            };
        Step { written, due, left, horizon, next, reached }
    }

    /// Takes over what was committed.
    pub(crate) fn apply(&mut self, step: Step) {
        let Step { due, left, horizon, next, reached, .. } = step;
        let before = std::mem::take(&mut self.owned).into_iter();
        self.owned = merged(before.filter(|owned| !due.has(owned.account)), left);
        (self.horizon, self.next, self.reached) = (horizon, next, reached);
        self.read = 0;
    }

    /// The accounts that the next start would not bring right: what a split does is not an outcome,
    /// and outcomes of older orders are not looked for.
    fn at_once(&self, settlement: &Settlement) -> FxHashSet<AccountId> {
        let split = settlement.journal.iter().map(|entry| entry.account());
        let old = settlement.decisions.iter().filter(|decision| {
            matches!(decision.state, OrderState::Filled(_))
                && generation(decision.order) < self.next.generation
        });
        split.chain(old.map(|decision| decision.account)).collect()
    }

    /// The account to which this settlement comes.
    fn reach(&self, changed: &[Owned], decided: usize, accounts: u32, pace: Pace) -> u32 {
        let part = u128::from(accounts) * decided as u128;
        let part = part.div_ceil(u128::from(pace.round.max(1)));
        let by_part = u128::from(self.reached).saturating_add(part).min(u128::from(accounts));
        let ahead = |owned: &[Owned]| owned.partition_point(|o| o.account.0 <= self.reached);
        let mut before = self.owned[ahead(&self.owned)..].iter().map(|o| o.account.0).peekable();
        let mut changed = changed[ahead(changed)..].iter().map(|o| o.account.0).peekable();
        let mut by_number = self.reached;
        for _ in 0..pace.at_least {
            let first = match (before.peek(), changed.peek()) {
                (Some(before), Some(changed)) => *before.min(changed),
                (Some(account), None) | (None, Some(account)) => *account,
                // There are no more: then it comes to the last one there is.
                (None, None) => accounts,
            };
            before.next_if_eq(&first);
            changed.next_if_eq(&first);
            by_number = first;
        }
        u32::try_from(by_part).unwrap_or(accounts).max(by_number)
    }
}

/// What a settlement changes, by account.
fn changed(settlement: &Settlement) -> Vec<Owned> {
    let of = |change: &AccountChange| Owned::of(change.id, &change.after);
    let mut changed: Vec<Owned> = settlement.accounts.iter().map(of).collect();
    if !changed.is_sorted_by(|a, b| a.account < b.account) {
        // Of two for one account the later one counts.
        changed.reverse();
        changed.sort_by_key(|owned| owned.account);
        changed.dedup_by_key(|owned| owned.account);
    }
    changed
}

/// Both, by account: of two for one the new one counts.
fn merged<O: Borrow<Owned>>(old: impl Iterator<Item = O>, new: Vec<O>) -> Vec<O> {
    let mut all = Vec::with_capacity(old.size_hint().0 + new.len());
    let mut old = old.peekable();
    for row in new {
        let account = row.borrow().account;
        while let Some(before) = old.next_if(|before| before.borrow().account < account) {
            all.push(before);
        }
        old.next_if(|before| before.borrow().account == account);
        all.push(row);
    }
    all.extend(old);
    all
}

/// What fills move that are missing in the tables, of an account and an instrument.
struct Missing {
    account: usize,
    instrument: InstrumentId,
    cash: i128,
    units: i128,
    cost: i128,
}

/// Adds to the accounts, whose positions are those of the tables, what is missing there. `written`
/// has the snapshot of each account's row.
pub(crate) fn bring_forward(
    ask: &dyn Ask,
    accounts: &mut [Account],
    written: &[u64],
    horizon: Horizon,
    now: Horizon,
) -> Result<Behind, StoreError> {
    let (mut missing, read) = missing(ask, written, horizon)?;
    missing.sort_unstable_by_key(|part| (part.account, part.instrument));
    missing.dedup_by(|next, sum| {
        let is_same = (next.account, next.instrument) == (sum.account, sum.instrument);
        if is_same {
            sum.cash += next.cash;
            sum.units += next.units;
            sum.cost += next.cost;
        }
        is_same
    });
    let mut changed = Vec::new();
    for parts in missing.chunk_by(|a, b| a.account == b.account) {
        let Some(index) = parts.first().map(|part| part.account) else { continue };
        let Some(account) = accounts.get_mut(index) else { continue };
        let id = AccountId(index as u32 + 1);
        add(id, account, parts)?;
        changed.push(id);
    }
    let owned = |id: AccountId| Some(Owned::of(id, accounts.get(id.0 as usize - 1)?));
    let owned = changed.into_iter().filter_map(owned).collect();
    // The round begins with it.
    Ok(Behind { owned, horizon, next: now, reached: 0, read })
}

/// What is missing, and how many fills were read to find it.
fn missing(
    ask: &dyn Ask,
    written: &[u64],
    horizon: Horizon,
) -> Result<(Vec<Missing>, u64), StoreError> {
    let (fills, read) = fills(ask, written, horizon)?;
    let (Some(first), Some(last)) = (fills.first(), fills.last()) else {
        return Ok((Vec::new(), read));
    };
    // Both by order: to look for each order by itself takes several times as long.
    let sql = "SELECT id, side, instrument FROM order_ WHERE id BETWEEN ?1 AND ?2 ORDER BY id";
    let values = [first.order.cast_signed().into(), last.order.cast_signed().into()];
    let mut missing = Vec::with_capacity(fills.len());
    let mut fills = fills.iter().peekable();
    ask.for_each(sql, &values, &mut |row| {
        let row = Reading::new(row, "order_", 1);
        let order = row.number::<u64>(0)?;
        let Some(fill) = fills.next_if(|fill| fill.order <= order) else { return Ok(()) };
        if fill.order < order {
            return Err(without_order(fill.order));
        }
        let MissingFill { account, quantity, amount, basis, .. } = *fill;
        let instrument = row.instrument(2)?;
        missing.push(match row.side(1)? {
            Side::Buy => {
                Missing { account, instrument, cash: -amount, units: quantity, cost: amount }
            }
            Side::Sell => {
                Missing { account, instrument, cash: amount, units: -quantity, cost: -basis }
            }
        });
        Ok(())
    })?;
    match fills.next() {
        Some(fill) => Err(without_order(fill.order)),
        None => Ok((missing, read)),
    }
}

fn without_order(order: u64) -> StoreError {
    StoreError::Corrupt(format!("table outcome, row {order}: there is no such order"))
}

/// A fill that is missing in its account's balance.
struct MissingFill {
    order: u64,
    account: usize,
    quantity: i128,
    amount: i128,
    basis: i128,
}

/// The fills that are missing, by order, and how many were read to find them.
fn fills(
    ask: &dyn Ask,
    written: &[u64],
    horizon: Horizon,
) -> Result<(Vec<MissingFill>, u64), StoreError> {
    let sql = "SELECT id, account, snapshot, quantity, amount, basis FROM outcome
               WHERE generation >= ?1 AND snapshot > ?2 AND state = 1";
    let values = [horizon.generation.cast_signed().into(), horizon.snapshot.cast_signed().into()];
    let (mut fills, mut read) = (Vec::new(), 0);
    ask.for_each(sql, &values, &mut |row| {
        read += 1;
        let row = Reading::new(row, "outcome", 1);
        let account = (row.account(1)?.0 as usize).wrapping_sub(1);
        let Some(written) = written.get(account) else {
            return Err(row.corrupt("there is no such account"));
        };
        if row.number::<u64>(2)? > *written {
            fills.push(MissingFill {
                order: row.number(0)?,
                account,
                quantity: row.natural(3)?.into(),
                amount: row.natural(4)?.into(),
                basis: row.natural(5)?.into(),
            });
        }
        Ok(())
    })?;
    fills.sort_unstable_by_key(|fill| fill.order);
    Ok((fills, read))
}

/// Adds what is missing to an account, of each instrument a part.
fn add(id: AccountId, account: &mut Account, parts: &[Missing]) -> Result<(), StoreError> {
    let sum = |stored: i64, missing: i128| i64::try_from(i128::from(stored) + missing).ok();
    let corrupt = |row: String| {
        StoreError::Corrupt(format!("table {row}: what its entries add to it is too large"))
    };
    let cash = sum(account.cash.cents(), parts.iter().map(|part| part.cash).sum());
    account.cash =
        cash.map(Cash::from_cents).ok_or_else(|| corrupt(format!("balance, row {id}")))?;
    let positions = &mut account.positions;
    for part in parts {
        let instrument = part.instrument;
        let place = positions.binary_search_by_key(&instrument, |position| position.instrument);
        let (units, cost) = match place {
            Ok(place) => (positions[place].quantity.raw(), positions[place].cost.cents()),
            Err(_) => (0, 0),
        };
        let (Some(units), Some(cost)) = (sum(units, part.units), sum(cost, part.cost)) else {
            return Err(corrupt(format!("balance, row {id}: positions, {instrument}")));
        };
        let position = Position {
            instrument,
            quantity: Quantity::from_raw(units),
            held: Quantity::ZERO,
            cost: Cash::from_cents(cost),
        };
        match (place, units) {
            (Ok(place), 0) => drop(positions.remove(place)),
            (Err(_), 0) => {}
            (Ok(place), _) => positions[place] = position,
            (Err(place), _) => positions.insert(place, position),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use papertrader_core::books::Head;
    use papertrader_core::ids::SnapshotNumber;
    use papertrader_core::ledger::{JournalEntry, NamedAccounts};
    use papertrader_core::money::Price;
    use papertrader_core::order::Fill;
    use papertrader_core::settle::Decision;
    use papertrader_core::time::{MarketTime, Moment, WallTime};

    use super::*;
    use crate::index::GENERATION_BITS;

    /// A settlement in which each of these accounts buys with one of these orders, and then has one
    /// unit more and one cent less for each snapshot.
    fn settlement(snapshot: u64, fills: &[(u32, u64)]) -> Settlement {
        let quantity = Quantity::from_raw(snapshot as i64);
        let cost = Cash::from_cents(snapshot as i64);
        let position =
            Position { instrument: InstrumentId(1), quantity, held: Quantity::ZERO, cost };
        let moment = Moment { wall: WallTime(snapshot as i64), market: MarketTime(0) };
        let fill = Fill {
            quantity: Quantity::from_raw(1),
            price: Price::from_raw(1).unwrap(),
            amount: Cash::from_cents(1),
            basis: Cash::from_cents(1),
            snapshot: SnapshotNumber(snapshot),
        };
        let decision = |&(account, order): &(u32, u64)| Decision {
            order: OrderId(order),
            account: AccountId(account),
            side: Side::Buy,
            instrument: InstrumentId(1),
            state: OrderState::Filled(fill),
        };
        let change = |&(account, _): &(u32, u64)| AccountChange {
            id: AccountId(account),
            after: Account {
                cash: Cash::from_cents(1_000 - snapshot as i64),
                positions: vec![position],
                ..Account::default()
            },
        };
        Settlement {
            head: Head { snapshot, ..Head::default() },
            moment,
            decisions: fills.iter().map(decision).collect(),
            waiting: Vec::new(),
            rescaled: Vec::new(),
            journal: Vec::new(),
            accounts: fills.iter().map(change).collect(),
            marks: Vec::new(),
            named: NamedAccounts::default(),
        }
    }

    /// Settles four accounts, and says which are written, each with the snapshot that changed it last.
    fn written(
        behind: &mut Behind,
        settlement: &Settlement,
        last: u64,
        pace: Pace,
    ) -> Vec<(u32, i64)> {
        let step = behind.settle(settlement, 4, OrderId(last), pace);
        let written = step.written.iter();
        let written = written.map(|owned| (owned.account.0, 1_000 - owned.cash.cents())).collect();
        for row in &step.written {
            let positions = held::read(&row.positions).unwrap();
            assert_eq!(positions[0].quantity.raw(), 1_000 - row.cash.cents());
        }
        behind.apply(step);
        written
    }

    fn nothing(snapshot: u64, generation: u64) -> Behind {
        let now = Horizon { snapshot, generation };
        Behind { horizon: now, next: now, ..Behind::default() }
    }

    const ALL: [(u32, u64); 4] = [(1, 1), (2, 2), (3, 3), (4, 4)];

    #[test]
    fn a_round_comes_to_every_account_once_and_then_the_horizon_moves() {
        let pace = Pace { round: 8, at_least: 0 };
        let mut behind = Behind::default();
        let mut steps = Vec::new();
        for snapshot in 1..=6 {
            let written = written(&mut behind, &settlement(snapshot, &ALL), 4, pace);
            assert!(written.iter().all(|(_, of)| *of == snapshot as i64));
            let accounts: Vec<u32> = written.iter().map(|(account, _)| *account).collect();
            steps.push((accounts, behind.horizon.snapshot));
        }
        // The first round was over at the second settlement, and the books began with it. What was
        // behind after that one was written when the second round was over, and so on.
        let expected = [
            (vec![1, 2], 0),
            (vec![3, 4], 0),
            (vec![1, 2], 0),
            (vec![3, 4], 2),
            (vec![1, 2], 2),
            (vec![3, 4], 4),
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn so_many_are_written_at_least_and_if_that_is_all_nothing_is_behind() {
        let pace = Pace { round: u64::MAX, at_least: 3 };
        let mut behind = Behind::default();
        assert_eq!(written(&mut behind, &settlement(1, &ALL), 4, pace), [(1, 1), (2, 1), (3, 1)]);
        assert_eq!(behind.horizon, Horizon::default());
        // Each as it was changed last.
        let again = settlement(2, &[(1, 5)]);
        assert_eq!(written(&mut behind, &again, 5, pace), [(1, 2), (4, 1)]);
        assert_eq!(behind, nothing(2, 0));
        // With nothing to do what is left is written too.
        let slow = Pace { at_least: 1, ..pace };
        let mut behind = Behind::default();
        for (snapshot, account) in (1..).zip(1..=3) {
            let fills = if snapshot == 1 { &ALL[..] } else { &[] };
            assert_eq!(written(&mut behind, &settlement(snapshot, fills), 4, slow), [(account, 1)]);
            assert_ne!(behind.horizon.snapshot, snapshot);
        }
        assert_eq!(written(&mut behind, &settlement(4, &[]), 4, slow), [(4, 1)]);
        assert_eq!(behind, nothing(4, 0));
    }

    #[test]
    fn one_that_is_behind_and_changes_again_is_kept_once() {
        let pace = Pace { round: u64::MAX, at_least: 0 };
        let mut behind = Behind::default();
        assert_eq!(written(&mut behind, &settlement(1, &ALL), 4, pace), [(1, 1)]);
        let again = settlement(2, &[(3, 5), (1, 6)]);
        assert_eq!(written(&mut behind, &again, 6, pace), [(2, 1)]);
        let kept = |behind: &Behind| -> Vec<(u32, i64)> {
            behind.owned.iter().map(|o| (o.account.0, 1_000 - o.cash.cents())).collect()
        };
        assert_eq!(kept(&behind), [(1, 2), (3, 2), (4, 1)]);
        // A settlement that is not committed changes nothing.
        let before = behind.clone();
        let _ = behind.settle(&settlement(3, &ALL), 4, OrderId(6), Pace::default());
        assert_eq!(behind, before);
    }

    #[test]
    fn an_old_order_and_a_split_are_written_at_once() {
        let new = 3 << GENERATION_BITS;
        let mut behind = Behind::default();
        let first = settlement(1, &ALL);
        assert_eq!(written(&mut behind, &first, new, Pace { round: 4, at_least: 0 }).len(), 4);
        assert_eq!(behind, nothing(1, 3));
        // It reaches account 1. Order 5 is of an older generation, and 3 has a split.
        let fills = [(1, new), (2, 5), (3, new + 1), (4, new + 2)];
        let mut second = settlement(2, &fills);
        second.journal.push(JournalEntry::Split {
            account: AccountId(3),
            instrument: InstrumentId(1),
            action: 1,
            quantity: Quantity::from_raw(1),
            cash: Cash::ZERO,
        });
        let slow = Pace { round: u64::MAX, at_least: 0 };
        let now = written(&mut behind, &second, new + 2, slow);
        assert_eq!(now, [(1, 2), (2, 2), (3, 2)]);
        assert_eq!(behind.horizon, Horizon { snapshot: 1, generation: 3 });
        assert_eq!(behind.owned.len(), 1);
    }

    #[test]
    fn of_two_changes_of_one_account_the_later_one_counts() {
        let mut twice = settlement(1, &[(2, 1), (1, 2), (2, 3)]);
        twice.accounts[2].after.cash = Cash::from_cents(7);
        let changed = changed(&twice);
        let changed: Vec<_> = changed.iter().map(|o| (o.account.0, o.cash.cents())).collect();
        assert_eq!(changed, [(1, 999), (2, 7)]);
    }

    #[test]
    fn what_is_overdue_is_written_whole() {
        let pace = Pace { round: 4, at_least: 0 };
        // A settlement as large as a round, however far the round had come.
        let mut behind = Behind { reached: 3, ..Behind::default() };
        assert_eq!(written(&mut behind, &settlement(1, &ALL), 4, pace).len(), 4);
        assert_eq!(behind, nothing(1, 0));
        // The first settlement after a start that had much to read; the next one is as any other.
        let slow = Pace { round: 40, at_least: 0 };
        let step = behind.settle(&settlement(2, &ALL), 4, OrderId(4), slow);
        behind.apply(step);
        assert_eq!(behind.owned.len(), 3);
        behind.read = 41;
        assert_eq!(written(&mut behind, &settlement(3, &[(1, 5)]), 5, slow).len(), 4);
        assert_eq!(behind, nothing(3, 0));
        assert_eq!(written(&mut behind, &settlement(4, &ALL), 5, slow).len(), 1);
    }
}
