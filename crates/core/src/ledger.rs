//! Double entry: what every change of money or shares does to both sides, and the check that the
//! sum over all postings is zero.
//!
//! Postings are derived, not stored: a filled order and a [`JournalEntry`] each hold both sides.
//! Besides the traders there are three named accounts: the *market* (the other side of every
//! fill), *grants* (where starting cash comes from) and *fractions* (which pays for what a split
//! cannot divide).

use rustc_hash::FxHashMap;

use crate::ids::{AccountId, InstrumentId};
use crate::money::{Cash, Quantity};
use crate::order::{Fill, Side};

/// A change of money or shares that is not a fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalEntry {
    /// Starting cash, from *grants*.
    Grant {
        /// To whom.
        account: AccountId,
        /// How much.
        cash: Cash,
    },
    /// What a split did to one holder.
    Split {
        /// The holder.
        account: AccountId,
        /// Of what.
        instrument: InstrumentId,
        /// The number of the corporate action.
        action: u64,
        /// Change of the position.
        quantity: Quantity,
        /// Paid by *fractions* for what could not be divided.
        cash: Cash,
    },
}

/// Who stands on one side of a posting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LedgerAccount {
    /// A person.
    Trader(AccountId),
    /// The other side of every fill.
    Market,
    /// The source of starting cash.
    Grants,
    /// Pays for fractions that a split leaves.
    Fractions,
}

/// What a posting moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Asset {
    /// Cash, in cents.
    Cash,
    /// Units of an instrument, in 10⁻⁸.
    Instrument(InstrumentId),
}

/// One side of a double entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posting {
    /// Whose balance changes.
    pub account: LedgerAccount,
    /// In what.
    pub asset: Asset,
    /// By how much, in the asset's integer unit.
    pub amount: i64,
}

/// Moves `amount` of `asset` from one account to another: two postings that sum to zero.
fn transfer(from: LedgerAccount, to: LedgerAccount, asset: Asset, amount: i64) -> [Posting; 2] {
    [Posting { account: from, asset, amount: -amount }, Posting { account: to, asset, amount }]
}

/// The postings of a fill.
pub fn fill_postings(
    account: AccountId,
    side: Side,
    instrument: InstrumentId,
    fill: &Fill,
) -> [Posting; 4] {
    let trader = LedgerAccount::Trader(account);
    let (payer, payee) = match side {
        Side::Buy => (trader, LedgerAccount::Market),
        Side::Sell => (LedgerAccount::Market, trader),
    };
    let [a, b] = transfer(payer, payee, Asset::Cash, fill.amount.cents());
    let [c, d] = transfer(payee, payer, Asset::Instrument(instrument), fill.quantity.raw());
    [a, b, c, d]
}

impl JournalEntry {
    /// The account it concerns.
    pub fn account(&self) -> AccountId {
        match *self {
            JournalEntry::Grant { account, .. } | JournalEntry::Split { account, .. } => account,
        }
    }

    /// Its postings.
    pub fn postings(&self) -> Vec<Posting> {
        match *self {
            JournalEntry::Grant { account, cash } => {
                let to = LedgerAccount::Trader(account);
                transfer(LedgerAccount::Grants, to, Asset::Cash, cash.cents()).into()
            }
            JournalEntry::Split { account, instrument, quantity, cash, .. } => {
                let to = LedgerAccount::Trader(account);
                let asset = Asset::Instrument(instrument);
                let mut postings =
                    Vec::from(transfer(LedgerAccount::Market, to, asset, quantity.raw()));
                postings.extend(transfer(LedgerAccount::Fractions, to, Asset::Cash, cash.cents()));
                postings
            }
        }
    }
}

/// A running sum of postings per account and asset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    by_account: FxHashMap<(LedgerAccount, Asset), i128>,
}

impl Sums {
    /// Adds postings.
    pub fn add(&mut self, postings: &[Posting]) {
        for posting in postings {
            let sum = self.by_account.entry((posting.account, posting.asset)).or_default();
            *sum += i128::from(posting.amount);
        }
    }

    /// Adds all of another sum.
    pub(crate) fn join(&mut self, other: &Sums) {
        for (key, amount) in &other.by_account {
            *self.by_account.entry(*key).or_default() += amount;
        }
    }

    /// The balance of one account in one asset.
    pub fn of(&self, account: LedgerAccount, asset: Asset) -> i128 {
        self.by_account.get(&(account, asset)).copied().unwrap_or(0)
    }

    /// Whether the postings sum to zero in every asset.
    pub fn balance(&self) -> bool {
        let mut totals: FxHashMap<Asset, i128> = FxHashMap::default();
        for ((_, asset), amount) in &self.by_account {
            *totals.entry(*asset).or_default() += amount;
        }
        totals.values().all(|total| *total == 0)
    }

    /// All balances that are not zero.
    pub fn iter(&self) -> impl Iterator<Item = (LedgerAccount, Asset, i128)> + '_ {
        self.by_account.iter().filter(|(_, n)| **n != 0).map(|((a, b), n)| (*a, *b, *n))
    }
}

/// The balances of the named accounts. Together with all traders' balances they sum to zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamedAccounts {
    /// Cash of *market*.
    pub market: i128,
    /// Cash of *grants*.
    pub grants: i128,
    /// Cash of *fractions*.
    pub fractions: i128,
    /// Units that *market* owes or owns, per instrument.
    pub market_units: FxHashMap<InstrumentId, i128>,
}

impl NamedAccounts {
    /// Adds what the postings did to the named accounts.
    pub fn add(&mut self, sums: &Sums) {
        for (account, asset, amount) in sums.iter() {
            match (account, asset) {
                (LedgerAccount::Market, Asset::Cash) => self.market += amount,
                (LedgerAccount::Grants, Asset::Cash) => self.grants += amount,
                (LedgerAccount::Fractions, Asset::Cash) => self.fractions += amount,
                (LedgerAccount::Market, Asset::Instrument(instrument)) => {
                    *self.market_units.entry(instrument).or_default() += amount;
                }
                _ => {}
            }
        }
    }

    /// All cash of the named accounts.
    pub fn cash(&self) -> i128 {
        self.market + self.grants + self.fractions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SnapshotNumber;
    use crate::money::Price;

    #[test]
    fn every_entry_sums_to_zero() {
        let account = AccountId(1);
        let instrument = InstrumentId(2);
        let fill = Fill {
            quantity: Quantity::from_raw(7),
            price: Price::from_raw(3).unwrap(),
            amount: Cash::from_cents(11),
            basis: Cash::from_cents(11),
            snapshot: SnapshotNumber(1),
        };
        let grant = JournalEntry::Grant { account, cash: Cash::from_cents(5) };
        let split = JournalEntry::Split {
            account,
            instrument,
            action: 1,
            quantity: Quantity::from_raw(-3),
            cash: Cash::from_cents(2),
        };
        let mut sums = Sums::default();
        sums.add(&fill_postings(account, Side::Buy, instrument, &fill));
        assert_eq!(sums.of(LedgerAccount::Trader(account), Asset::Cash), -11);
        assert_eq!(sums.of(LedgerAccount::Trader(account), Asset::Instrument(instrument)), 7);
        sums.add(&grant.postings());
        sums.add(&split.postings());
        assert!(sums.balance());
        sums.add(&fill_postings(account, Side::Sell, instrument, &fill)[..1]);
        assert!(!sums.balance());
    }
}
