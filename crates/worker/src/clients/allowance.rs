//! How many requests a client may make just now: a bucket of one second's worth, refilled
//! steadily.
//!
//! It does not refuse: who has none left waits for the next. It is told the time and reads no
//! clock.

use std::time::Duration;

use tokio::time::Instant;

/// How much is waited for when the bucket is empty, so that a client at its limit costs some
/// hundred wakings a second and not one for each request.
const SIP: Duration = Duration::from_millis(10);

/// What one client has left.
#[derive(Debug)]
pub(super) struct Allowance {
    /// Nanoseconds that one request costs; 0 without a limit.
    cost: u64,
    most: u32,
    left: u32,
    /// Up to when it was refilled.
    filled: Instant,
}

impl Allowance {
    /// A full bucket; `per_second` 0 sets no limit.
    pub(super) fn new(per_second: u32, now: Instant) -> Allowance {
        let cost = 1_000_000_000_u64.checked_div(u64::from(per_second)).unwrap_or(0);
        Allowance { cost, most: per_second, left: per_second, filled: now }
    }

    /// Adds what has grown since.
    pub(super) fn refill(&mut self, now: Instant) {
        if self.left == self.most {
            self.filled = now;
            return;
        }
        let nanos = now.saturating_duration_since(self.filled).as_nanos();
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        let grown = nanos.checked_div(self.cost).unwrap_or(0);
        let room = self.most - self.left;
        match u32::try_from(grown) {
            Ok(grown) if grown < room => {
                self.left += grown;
                self.filled += Duration::from_nanos(u64::from(grown) * self.cost);
            }
            _ => {
                self.left = self.most;
                self.filled = now;
            }
        }
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.left == 0 && self.cost > 0
    }

    /// How many requests may be made at once.
    pub(super) fn left(&self) -> usize {
        if self.cost == 0 { usize::MAX } else { self.left as usize }
    }

    /// Requests are made.
    pub(super) fn spend(&mut self, requests: usize) {
        self.left = self.left.saturating_sub(u32::try_from(requests).unwrap_or(u32::MAX));
    }

    /// When an empty one is worth looking at again.
    pub(super) fn next(&self) -> Instant {
        self.filled + SIP.max(Duration::from_nanos(self.cost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seconds_worth_at_once_and_then_as_it_grows() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut allowance = Allowance::new(1_000, start);
        let mut spend = |millis| {
            allowance.refill(at(millis));
            let mut spent = 0;
            while !allowance.is_empty() {
                allowance.spend(1);
                spent += 1;
            }
            (spent, allowance.next())
        };
        assert_eq!(spend(0), (1_000, at(10)));
        assert_eq!(spend(0), (0, at(10)));
        assert_eq!(spend(10), (10, at(20)));
        assert_eq!(spend(500), (490, at(510)));
        // No more than a second's worth, however long it was quiet.
        assert_eq!(spend(100_000), (1_000, at(100_010)));
    }

    #[test]
    fn less_than_one_is_not_lost() {
        let start = Instant::now();
        let mut allowance = Allowance::new(1, start);
        allowance.spend(1);
        for millis in (100..1_000).step_by(100) {
            allowance.refill(start + Duration::from_millis(millis));
            assert!(allowance.is_empty());
        }
        assert_eq!(allowance.next(), start + Duration::from_secs(1));
        allowance.refill(start + Duration::from_secs(1));
        assert!(!allowance.is_empty());
    }

    #[test]
    fn without_a_limit_it_is_never_empty() {
        let mut allowance = Allowance::new(0, Instant::now());
        for _ in 0..3 {
            allowance.spend(1);
            allowance.refill(Instant::now());
            assert!(!allowance.is_empty());
        }
    }
}
