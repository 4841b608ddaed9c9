//! Balances and positions that are not in their tables yet (`docs/design/0007-behind.md`): which of
//! them a settlement writes, and how a start finds those that it has to add. The same for every
//! database.
//!
//! It writes nothing itself, and knows nothing of a position before it changes.
//!
//! Invariant: what is stored, with what is missing added, is what was committed. The values kept here
//! are those of the last settlement that changed them; whatever lies behind the [`Horizon`] is
//! stored.

use papertrader_core::account::{Account, Position};
use papertrader_core::ids::{AccountId, InstrumentId, OrderId};
use papertrader_core::money::{Cash, Quantity};
use papertrader_core::order::{OrderState, Side};
use papertrader_core::settle::Settlement;
use rustc_hash::FxHashSet;

use crate::StoreError;
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

/// What an account has in cash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Balance {
    pub(crate) account: AccountId,
    pub(crate) cash: Cash,
}

/// What an account has of an instrument; without units it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) account: AccountId,
    pub(crate) instrument: InstrumentId,
    pub(crate) quantity: Quantity,
    pub(crate) cost: Cash,
}

impl Holding {
    fn of(account: AccountId, after: &Account, instrument: InstrumentId) -> Holding {
        let none = (Quantity::ZERO, Cash::ZERO);
        let (quantity, cost) =
            after.position(instrument).map_or(none, |position| (position.quantity, position.cost));
        Holding { account, instrument, quantity, cost }
    }
}

/// Rows that are found by a key.
trait Keyed: Copy {
    type Key: Ord;

    fn key(&self) -> Self::Key;

    fn account(&self) -> AccountId;
}

impl Keyed for Balance {
    type Key = AccountId;

    fn key(&self) -> AccountId {
        self.account
    }

    fn account(&self) -> AccountId {
        self.account
    }
}

impl Keyed for Holding {
    type Key = (AccountId, InstrumentId);

    fn key(&self) -> (AccountId, InstrumentId) {
        (self.account, self.instrument)
    }

    fn account(&self) -> AccountId {
        self.account
    }
}

/// What is not in its table yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Behind {
    /// By account.
    balances: Vec<Balance>,
    /// By account and instrument.
    holdings: Vec<Holding>,
    horizon: Horizon,
    /// The horizon once the round is over.
    next: Horizon,
    /// The last account that the round has come to.
    reached: u32,
}

/// What a settlement writes, and what is behind after it.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) balances: Vec<Balance>,
    pub(crate) holdings: Vec<Holding>,
    pub(crate) behind: Behind,
}

impl Behind {
    /// What a start finds: the rows by their keys. The round begins with it.
    fn found(
        balances: Vec<Balance>,
        holdings: Vec<Holding>,
        horizon: Horizon,
        now: Horizon,
    ) -> Behind {
        Behind { balances, holdings, horizon, next: now, reached: 0 }
    }

    pub(crate) fn horizon(&self) -> Horizon {
        self.horizon
    }

    /// Takes in what a settlement changes. `accounts` is how many there are, `last_order` the last
    /// order there is.
    pub(crate) fn settle(
        &self,
        settlement: &Settlement,
        accounts: u32,
        last_order: OrderId,
        pace: Pace,
    ) -> Step {
        let (balances, holdings) = changed(settlement);
        let balances = merged(&self.balances, balances);
        let holdings = merged(&self.holdings, holdings);
        let at_once = self.at_once(settlement);
        let reached = self.reach(&balances, settlement.decisions.len(), accounts, pace);
        let is_due = |account: AccountId| {
            (account.0 > self.reached && account.0 <= reached) || at_once.contains(&account)
        };
        let all = balances.len() <= pace.at_least;
        let (write_balances, balances) = parted(balances, |account| all || is_due(account));
        let (write_holdings, holdings) = parted(holdings, |account| all || is_due(account));
        let snapshot = settlement.head.snapshot;
        let now = Horizon { snapshot, generation: generation(last_order) };
        let (horizon, next, reached) = if balances.is_empty() && holdings.is_empty() {
            (now, now, 0)
        } else if reached >= accounts {
            (self.next, now, 0)
        } else {
            (self.horizon, self.next, reached)
        };
        Step {
            balances: write_balances,
            holdings: write_holdings,
            behind: Behind { balances, holdings, horizon, next, reached },
        }
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
    fn reach(&self, balances: &[Balance], decided: usize, accounts: u32, pace: Pace) -> u32 {
        let part = u128::from(accounts) * decided as u128;
        let part = part.div_ceil(u128::from(pace.round.max(1)));
        let by_part = u128::from(self.reached).saturating_add(part).min(u128::from(accounts));
        let ahead = balances.partition_point(|balance| balance.account.0 <= self.reached);
        let by_number = match pace.at_least.checked_sub(1) {
            None => 0,
            Some(last) => balances.get(ahead + last).map_or(accounts, |balance| balance.account.0),
        };
        u32::try_from(by_part).unwrap_or(accounts).max(by_number)
    }
}

/// What a settlement changes, by the keys.
fn changed(settlement: &Settlement) -> (Vec<Balance>, Vec<Holding>) {
    let changes = &settlement.accounts;
    let mut balances = Vec::with_capacity(changes.len());
    let mut holdings = Vec::with_capacity(changes.len());
    for change in changes {
        balances.push(Balance { account: change.id, cash: change.after.cash });
        let holding = |instrument| Holding::of(change.id, &change.after, instrument);
        holdings.extend(change.positions.iter().copied().map(holding));
    }
    in_order(&mut balances);
    in_order(&mut holdings);
    (balances, holdings)
}

/// Sorts rows by their keys; of two with one key the later one counts.
fn in_order<R: Keyed>(rows: &mut Vec<R>) {
    if rows.is_sorted_by(|a, b| a.key() < b.key()) {
        return;
    }
    rows.reverse();
    rows.sort_by_key(R::key);
    rows.dedup_by_key(|row| row.key());
}

/// Both, by the keys: of two rows with one key the new one counts.
fn merged<R: Keyed>(old: &[R], new: Vec<R>) -> Vec<R> {
    if old.is_empty() {
        return new;
    }
    let mut all = Vec::with_capacity(old.len() + new.len());
    let mut old = old.iter().copied().peekable();
    for row in new {
        while let Some(before) = old.next_if(|before| before.key() < row.key()) {
            all.push(before);
        }
        old.next_if(|before| before.key() == row.key());
        all.push(row);
    }
    all.extend(old);
    all
}

/// Those of the accounts that are meant, and the others.
fn parted<R: Keyed>(rows: Vec<R>, is_due: impl Fn(AccountId) -> bool) -> (Vec<R>, Vec<R>) {
    rows.into_iter().partition(|row| is_due(row.account()))
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
    let mut missing = missing(ask, written, horizon)?;
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
    let (mut balances, mut holdings) = (Vec::<Balance>::new(), Vec::with_capacity(missing.len()));
    for part in &missing {
        let Some(account) = accounts.get_mut(part.account) else { continue };
        let id = AccountId(part.account as u32 + 1);
        add(id, account, part)?;
        let balance = Balance { account: id, cash: account.cash };
        match balances.last_mut() {
            Some(last) if last.account == id => *last = balance,
            _ => balances.push(balance),
        }
        holdings.push(Holding::of(id, account, part.instrument));
    }
    Ok(Behind::found(balances, holdings, horizon, now))
}

fn missing(ask: &dyn Ask, written: &[u64], horizon: Horizon) -> Result<Vec<Missing>, StoreError> {
    let sql =
        "SELECT c.id, c.account, c.snapshot, o.side, o.instrument, c.quantity, c.amount, c.basis
               FROM outcome c JOIN order_ o ON o.id = c.id
               WHERE c.generation >= ?1 AND c.snapshot > ?2 AND c.state = 1";
    let values = [horizon.generation.cast_signed().into(), horizon.snapshot.cast_signed().into()];
    let mut missing = Vec::new();
    ask.for_each(sql, &values, &mut |row| {
        let row = Reading::new(row, "outcome", 1);
        let account = (row.account(1)?.0 as usize).wrapping_sub(1);
        let Some(written) = written.get(account) else {
            return Err(row.corrupt("there is no such account"));
        };
        if row.number::<u64>(2)? <= *written {
            return Ok(());
        }
        let side = row.side(3)?;
        let (quantity, amount) = (row.natural(5)?, i128::from(row.natural(6)?));
        let (units, basis) = (i128::from(quantity), i128::from(row.natural(7)?));
        let instrument = row.instrument(4)?;
        missing.push(match side {
            Side::Buy => Missing { account, instrument, cash: -amount, units, cost: amount },
            Side::Sell => {
                Missing { account, instrument, cash: amount, units: -units, cost: -basis }
            }
        });
        Ok(())
    })?;
    Ok(missing)
}

/// Adds what is missing to an account.
fn add(id: AccountId, account: &mut Account, part: &Missing) -> Result<(), StoreError> {
    let instrument = part.instrument;
    let sum = |stored: i64, missing: i128| i64::try_from(i128::from(stored) + missing).ok();
    let corrupt = |row: String| {
        StoreError::Corrupt(format!("table {row}: what its entries add to it is too large"))
    };
    let cash = sum(account.cash.cents(), part.cash);
    account.cash =
        cash.map(Cash::from_cents).ok_or_else(|| corrupt(format!("balance, row {id}")))?;
    let positions = &mut account.positions;
    let place = positions.binary_search_by_key(&instrument, |position| position.instrument);
    let (units, cost) = match place {
        Ok(place) => (positions[place].quantity.raw(), positions[place].cost.cents()),
        Err(_) => (0, 0),
    };
    let (Some(units), Some(cost)) = (sum(units, part.units), sum(cost, part.cost)) else {
        return Err(corrupt(format!("position, row {id}, {instrument}")));
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use papertrader_core::books::Head;
    use papertrader_core::ledger::{JournalEntry, NamedAccounts};
    use papertrader_core::money::Price;
    use papertrader_core::order::Fill;
    use papertrader_core::settle::{AccountChange, Decision};
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
            snapshot: papertrader_core::ids::SnapshotNumber(snapshot),
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
            positions: vec![InstrumentId(1)],
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

    fn written(step: &Step) -> Vec<u32> {
        let accounts: Vec<u32> = step.balances.iter().map(|balance| balance.account.0).collect();
        assert!(step.holdings.iter().map(|holding| holding.account.0).eq(accounts.iter().copied()));
        accounts
    }

    fn horizon(snapshot: u64, generation: u64) -> Horizon {
        Horizon { snapshot, generation }
    }

    const ALL: [(u32, u64); 4] = [(1, 1), (2, 2), (3, 3), (4, 4)];

    #[test]
    fn a_round_comes_to_every_account_once_and_then_the_horizon_moves() {
        let pace = Pace { round: 8, at_least: 0 };
        let mut behind = Behind::default();
        let mut steps = Vec::new();
        for snapshot in 1..=6 {
            let step = behind.settle(&settlement(snapshot, &ALL), 4, OrderId(4), pace);
            steps.push((written(&step), step.behind.horizon().snapshot));
            // What is written is what the account has now.
            let cash = Cash::from_cents(1_000 - snapshot as i64);
            assert!(step.balances.iter().all(|balance| balance.cash == cash));
            behind = step.behind;
        }
        // The first round was over at the second settlement: the books began with it. All that was
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
        let step = Behind::default().settle(&settlement(1, &ALL), 4, OrderId(4), pace);
        assert_eq!(written(&step), [1, 2, 3]);
        assert_eq!(step.behind.horizon(), horizon(0, 0));
        let step = step.behind.settle(&settlement(2, &[(1, 5)]), 4, OrderId(5), pace);
        assert_eq!(written(&step), [1, 4]);
        let cash: Vec<i64> = step.balances.iter().map(|balance| balance.cash.cents()).collect();
        assert_eq!(cash, [998, 999], "each as it was changed last");
        assert_eq!(step.behind.horizon(), horizon(2, 0));
        // With nothing to do the rest is written too.
        let slow = Pace { at_least: 1, ..pace };
        let mut behind = Behind::default().settle(&settlement(1, &ALL), 4, OrderId(4), slow).behind;
        for _ in 0..3 {
            behind = behind.settle(&settlement(2, &[]), 4, OrderId(4), slow).behind;
        }
        assert_eq!(
            behind,
            Behind { horizon: horizon(2, 0), next: horizon(2, 0), ..Behind::default() }
        );
    }

    #[test]
    fn an_old_order_and_a_split_are_written_at_once() {
        let pace = Pace { round: 4, at_least: 0 };
        let new = 3 << GENERATION_BITS;
        let step = Behind::default().settle(&settlement(1, &ALL), 4, OrderId(new), pace);
        assert_eq!(
            step.behind,
            Behind { horizon: horizon(1, 3), next: horizon(1, 3), ..Behind::default() }
        );
        let slow = Pace { round: u64::MAX, at_least: 0 };
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
        let step = step.behind.settle(&second, 4, OrderId(new + 2), slow);
        assert_eq!(written(&step), [1, 2, 3]);
        assert_eq!(step.behind.horizon(), horizon(1, 3));
    }

    #[test]
    fn a_position_that_was_sold_is_written_as_none() {
        let mut sold = settlement(1, &ALL);
        sold.accounts[0].after.positions.clear();
        let step = Behind::default().settle(&sold, 4, OrderId(4), Pace::default());
        assert_eq!(written(&step), [1, 2, 3, 4]);
        assert!(step.holdings[0].quantity.is_zero() && !step.holdings[1].quantity.is_zero());
    }

    #[test]
    fn of_two_rows_with_one_key_the_later_one_counts() {
        let balance =
            |account, cents| Balance { account: AccountId(account), cash: Cash::from_cents(cents) };
        let mut rows = vec![balance(2, 1), balance(1, 2), balance(2, 3)];
        in_order(&mut rows);
        assert_eq!(rows, [balance(1, 2), balance(2, 3)]);
        let merged = merged(&[balance(1, 7), balance(3, 8), balance(9, 9)], rows);
        assert_eq!(merged, [balance(1, 2), balance(2, 3), balance(3, 8), balance(9, 9)]);
    }
}
