//! The limit on orders and cancellations of one account: each is written, so that without it one
//! user could fill the disk.
//!
//! What is refused is not charged, and nothing of it is kept: the client order ID stays free.

use papertrader_core::ids::AccountId;
use papertrader_core::time::{SECOND, WallTime};
use papertrader_protocol::{Failure, Reason};

use super::count::Table;
use super::{Limits, Rate};

/// What each account has brought of late.
#[derive(Debug)]
pub(crate) struct OrderRate {
    rate: Rate,
    accounts: Table,
    refused: u64,
}

/// An account brings too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many orders: try again in {seconds} s")]
pub(crate) struct TooManyOrders {
    /// Rounded up.
    seconds: u64,
}

impl From<TooManyOrders> for Failure {
    fn from(refused: TooManyOrders) -> Failure {
        Failure::new(Reason::TooManyAttempts, refused.to_string())
    }
}

impl OrderRate {
    pub(crate) fn new(limits: &Limits) -> OrderRate {
        let accounts = Table::new(limits.tracked);
        OrderRate { rate: limits.orders_account, accounts, refused: 0 }
    }

    /// Charges an order or a cancellation, or says when to try again.
    pub(crate) fn charge(
        &mut self,
        account: AccountId,
        now: WallTime,
    ) -> Result<(), TooManyOrders> {
        let key = u64::from(account.0);
        let wait = self.rate.wait(self.accounts.get(key, now), now);
        if wait > 0 {
            self.refused += 1;
            let seconds = wait.unsigned_abs().div_ceil(SECOND.unsigned_abs());
            return Err(TooManyOrders { seconds });
        }
        self.accounts.charge(key, self.rate.cost(), now);
        Ok(())
    }

    /// How many were refused since the master's start.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ALICE: AccountId = AccountId(1);
    const BOB: AccountId = AccountId(2);

    fn limited(burst: u32, every: Duration, tracked: usize) -> OrderRate {
        let orders_account = Rate { burst, every };
        OrderRate::new(&Limits { orders_account, tracked, ..Limits::default() })
    }

    /// How many of these are taken.
    fn taken(rate: &mut OrderRate, account: AccountId, number: u32, now: WallTime) -> usize {
        (0..number).filter(|_| rate.charge(account, now).is_ok()).count()
    }

    #[test]
    fn an_account_has_a_burst_and_then_one_at_each_interval() {
        let mut rate = limited(10, Duration::from_secs(2), 100);
        let now = WallTime(0);
        assert_eq!(taken(&mut rate, ALICE, 100, now), 10);
        assert_eq!(rate.charge(ALICE, now), Err(TooManyOrders { seconds: 2 }));
        assert_eq!(rate.refused(), 91);
        // Another has its own, and what was refused was not charged.
        assert_eq!(taken(&mut rate, BOB, 5, now), 5);
        let later = now.plus_nanos(2 * SECOND);
        assert_eq!(taken(&mut rate, ALICE, 100, later), 1);
        assert_eq!(taken(&mut rate, ALICE, 100, later.plus_nanos(1_000 * SECOND)), 10);
    }

    #[test]
    fn an_interval_of_zero_is_no_limit_and_a_burst_of_zero_is_none_at_all() {
        let mut rate = limited(1, Duration::ZERO, 100);
        assert_eq!(taken(&mut rate, ALICE, 10_000, WallTime(0)), 10_000);
        let mut rate = limited(0, Duration::from_secs(1), 100);
        assert_eq!(taken(&mut rate, ALICE, 10, WallTime(0)), 0);
    }

    #[test]
    fn accounts_are_kept_up_to_a_bound() {
        let mut rate = limited(3, Duration::from_secs(1), 10);
        assert_eq!(taken(&mut rate, ALICE, 5, WallTime(0)), 3);
        for account in 2..1_000 {
            assert_eq!(taken(&mut rate, AccountId(account), 1, WallTime(0)), 1);
        }
        assert_eq!(rate.accounts.counts.len(), 10);
        // Whoever has brought most is forgotten last.
        assert_eq!(taken(&mut rate, ALICE, 1, WallTime(0)), 0);
    }

    #[test]
    fn the_words_say_when_to_try_again() {
        let failure = Failure::from(TooManyOrders { seconds: 3 });
        assert_eq!(failure.reason, Reason::TooManyAttempts);
        assert_eq!(failure.text, "too many orders: try again in 3 s");
    }
}
