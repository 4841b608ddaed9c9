//! Counts that are forgotten step by step, and tables of them that do not grow.
//!
//! A count is kept as the moment at which all of it is forgotten: a charge moves that moment by one
//! step, and so the number that counts now follows from the time alone.
//!
//! Invariant: a table holds at most so many counts; when it is full, the one that would be forgotten
//! first gives way.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use papertrader_core::time::WallTime;

use super::{Backoff, Rate};

/// Doublings of a delay, and failures beyond the free ones that are counted, at most.
const DOUBLINGS: u32 = 32;

/// Something that is counted and forgotten step by step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    /// When all is forgotten: each charge moves it by one step.
    pub(super) clear_at: WallTime,
    /// The last charge.
    last: WallTime,
}

/// What one charge does to a count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// In nanoseconds.
    step: i64,
    /// More charges than these are not counted.
    most: u32,
}

impl Cost {
    pub(super) fn charge(self, count: Option<Count>, now: WallTime) -> Option<Count> {
        let from = count.map_or(now, |count| count.clear_at.max(now));
        let most = now.plus_nanos(self.step.saturating_mul(i64::from(self.most)));
        let clear_at = from.plus_nanos(self.step).min(most);
        (clear_at > now).then_some(Count { clear_at, last: now })
    }

    pub(super) fn give_back(self, count: Count, now: WallTime) -> Option<Count> {
        let clear_at = count.clear_at.plus_nanos(-self.step);
        (clear_at > now).then_some(Count { clear_at, ..count })
    }
}

impl Backoff {
    pub(super) fn cost(self) -> Cost {
        Cost { step: nanos(self.forget), most: self.free.saturating_add(DOUBLINGS) }
    }

    /// How long an attempt must still wait, in nanoseconds; not at all if it is not positive.
    pub(super) fn wait(self, count: Option<Count>, now: WallTime) -> i64 {
        let Some(count) = count else { return 0 };
        let left = count.clear_at.0.saturating_sub(now.0).max(0).unsigned_abs();
        let failures = left.div_ceil(nanos(self.forget).max(1).unsigned_abs());
        let Some(beyond) = failures.checked_sub(u64::from(self.free)) else { return 0 };
        let doublings = u32::try_from(beyond).unwrap_or(DOUBLINGS).min(DOUBLINGS);
        let delay = self.first.saturating_mul(1 << doublings.min(31)).min(self.longest);
        count.last.plus_nanos(nanos(delay)).0.saturating_sub(now.0)
    }
}

impl Rate {
    pub(super) fn cost(self) -> Cost {
        Cost { step: nanos(self.every), most: self.burst }
    }

    /// How long an attempt must still wait, in nanoseconds; not at all if it is not positive.
    pub(super) fn wait(self, count: Option<Count>, now: WallTime) -> i64 {
        let level = count.map_or(0, |count| count.clear_at.0.saturating_sub(now.0).max(0));
        let step = nanos(self.every);
        // The level that leaves room for one more.
        level.saturating_sub(step.saturating_mul(i64::from(self.burst) - 1))
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Counts under keyed hashes, at most so many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) counts: HashMap<u64, Count>,
    pub(super) by_end: BTreeSet<(WallTime, u64)>,
    most: usize,
}

impl Table {
    pub(super) fn new(most: usize) -> Table {
        Table { counts: HashMap::new(), by_end: BTreeSet::new(), most: most.max(1) }
    }

    pub(super) fn get(&self, key: u64, now: WallTime) -> Option<Count> {
        self.counts.get(&key).copied().filter(|count| count.clear_at > now)
    }

    pub(super) fn charge(&mut self, key: u64, cost: Cost, now: WallTime) {
        let charged = cost.charge(self.get(key, now), now);
        self.clear(key);
        if let Some(count) = charged {
            if self.counts.len() >= self.most
                && let Some((_, first)) = self.by_end.pop_first()
            {
                self.counts.remove(&first);
            }
            self.put(key, count);
        }
    }

    pub(super) fn give_back(&mut self, key: u64, cost: Cost, now: WallTime) {
        if let Some(count) = self.counts.get(&key).copied() {
            self.clear(key);
            if let Some(count) = cost.give_back(count, now) {
                self.put(key, count);
            }
        }
    }

    fn put(&mut self, key: u64, count: Count) {
        self.by_end.insert((count.clear_at, key));
        self.counts.insert(key, count);
    }

    pub(super) fn clear(&mut self, key: u64) {
        if let Some(count) = self.counts.remove(&key) {
            self.by_end.remove(&(count.clear_at, key));
        }
    }
}
