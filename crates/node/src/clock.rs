//! Wall time that never goes back.
//!
//! Invariant: every reading is later than every reading before it and than the floor that the
//! clock was made with, whatever the machine's clock does.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use papertrader_core::time::WallTime;

/// A clock. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct Clock {
    last: Arc<AtomicI64>,
}

impl Clock {
    /// The machine's clock, but later than `floor`.
    pub fn system(floor: WallTime) -> Clock {
        Clock { last: Arc::new(AtomicI64::new(floor.0)) }
    }

    /// Makes every later reading later than `floor`.
    pub fn raise(&self, floor: WallTime) {
        self.last.fetch_max(floor.0, Ordering::Relaxed);
    }

    /// Now, for comparing only: not before any reading, but not a reading of its own. It writes nothing
    /// that other threads read.
    pub fn glance(&self) -> WallTime {
        WallTime(machine().max(self.last.load(Ordering::Relaxed)))
    }

    /// Now: at least one nanosecond after the reading before.
    pub fn now(&self) -> WallTime {
        let machine = machine();
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let now = machine.max(last.saturating_add(1));
            match self.last.compare_exchange_weak(last, now, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return WallTime(now),
                Err(other) => last = other,
            }
        }
    }
}

fn machine() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_from_the_floor_even_if_the_machine_is_behind() {
        let floor = WallTime(i64::MAX / 2);
        let clock = Clock::system(floor);
        let first = clock.now();
        assert_eq!(first, WallTime(floor.0 + 1));
        assert_eq!(clock.glance(), first);
        assert!(clock.clone().now() > first);
    }
}
