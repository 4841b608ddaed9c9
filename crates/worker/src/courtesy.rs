//! Offering the processor to whoever waits for it: the system lets a thread that was woken wait for
//! milliseconds behind a busy one.
//!
//! An offer that is taken up costs the taker's whole slice, so a thread makes no other before it has
//! itself run for as long as the last one took.
//!
//! Invariant: a busy thread keeps half of its processor, whoever else runs on it and however often an
//! offer is due.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// The longest time that a thread makes no offer.
const LONGEST: Duration = Duration::from_millis(20);

/// The offers of one thread.
#[derive(Debug)]
pub(crate) struct Courtesy {
    /// When the next one may be made.
    next: Cell<Instant>,
}

impl Default for Courtesy {
    fn default() -> Courtesy {
        Courtesy { next: Cell::new(Instant::now()) }
    }
}

impl Courtesy {
    /// Lets others run, if it is time to.
    pub(crate) fn offer(&self) {
        self.offer_by(Instant::now, std::thread::yield_now);
    }

    fn offer_by(&self, now: impl Fn() -> Instant, give_way: impl FnOnce()) {
        let before = now();
        if before >= self.next.get() {
            give_way();
            let after = now();
            // The process may have been stopped meanwhile.
            self.next.set(after + (after - before).min(LONGEST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_runs_for_as_long_as_it_was_kept_waiting_before_it_gives_way_again() {
        let courtesy = Courtesy::default();
        let clock = Cell::new(courtesy.next.get());
        let offers = Cell::new(0);
        let work = |micros| clock.set(clock.get() + Duration::from_micros(micros));
        let offer = |kept_away| {
            courtesy.offer_by(
                || clock.get(),
                || {
                    offers.set(offers.get() + 1);
                    work(kept_away);
                },
            );
        };
        // Nobody takes it up: it can be made each time.
        offer(0);
        offer(0);
        assert_eq!(offers.get(), 2);
        offer(4_000);
        for _ in 0..79 {
            work(50);
            offer(4_000);
        }
        assert_eq!(offers.get(), 3);
        work(50);
        offer(4_000);
        assert_eq!(offers.get(), 4);
    }
}
