//! How long each client takes after an event until a quote, and until an order, has succeeded that it
//! began after the event.
//!
//! Invariant: what began before an event counts for no later one.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longer than anything that works can take.
const LIMIT: Duration = Duration::from_secs(120);
/// What counts as too long.
pub(crate) const LONG: Duration = Duration::from_secs(3);

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Quote,
    Order,
}

/// Which event was the last when something began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Since(u64);

/// Measures all clients.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    clients: usize,
    inner: Mutex<Inner>,
    gone_on: Condvar,
}

#[derive(Debug)]
struct Inner {
    event: u64,
    at: Instant,
    /// By client.
    quotes: Vec<Option<Duration>>,
    orders: Vec<Option<Duration>>,
    missing: usize,
    all_quotes: usize,
    failed: BTreeMap<String, usize>,
}

/// What was measured at one event.
#[derive(Debug)]
pub(crate) struct Times {
    pub(crate) quotes: Column,
    pub(crate) orders: Column,
}

/// One kind's, in ascending order.
#[derive(Debug)]
pub(crate) struct Column(Vec<Duration>);

impl Stopwatch {
    pub(crate) fn new(clients: usize) -> Stopwatch {
        let inner = Inner {
            event: 0,
            at: Instant::now(),
            quotes: Vec::new(),
            orders: Vec::new(),
            missing: 0,
            all_quotes: 0,
            failed: BTreeMap::new(),
        };
        Stopwatch { clients, inner: Mutex::new(inner), gone_on: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event has happened: its times are counted from `at`.
    pub(crate) fn begin(&self, at: Instant) {
        let mut inner = self.lock();
        inner.event += 1;
        inner.at = at;
        inner.quotes = vec![None; self.clients];
        inner.orders = vec![None; self.clients];
        inner.missing = 2 * self.clients;
    }

    /// A client begins something.
    pub(crate) fn now(&self) -> Since {
        Since(self.lock().event)
    }

    /// What it began has succeeded.
    pub(crate) fn succeeded(&self, client: usize, kind: Kind, since: Since) {
        let mut inner = self.lock();
        inner.all_quotes += usize::from(kind == Kind::Quote);
        if Since(inner.event) != since || inner.event == 0 {
            return;
        }
        let took = inner.at.elapsed();
        let times = match kind {
            Kind::Quote => &mut inner.quotes,
            Kind::Order => &mut inner.orders,
        };
        if times[client].is_none() {
            times[client] = Some(took);
            inner.missing -= 1;
            if inner.missing == 0 {
                self.gone_on.notify_all();
            }
        }
    }

    /// A quote has not: what was said.
    pub(crate) fn failed(&self, words: String) {
        *self.lock().failed.entry(words).or_default() += 1;
    }

    /// Waits until every client has had both.
    pub(crate) fn all_have_gone_on(&self, event: &str) -> Result<Times, String> {
        let inner = self.lock();
        let (inner, waited) = self
            .gone_on
            .wait_timeout_while(inner, LIMIT, |inner| inner.missing > 0)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            let still = |times: &[Option<Duration>]| -> Vec<usize> {
                times.iter().enumerate().filter(|(_, it)| it.is_none()).map(|(n, _)| n).collect()
            };
            return Err(format!(
                "after '{event}' these clients have had no quote: {:?}; these no order: {:?}",
                still(&inner.quotes),
                still(&inner.orders)
            ));
        }
        let column = |times: &[Option<Duration>]| {
            let mut times: Vec<Duration> = times.iter().flatten().copied().collect();
            times.sort_unstable();
            Column(times)
        };
        Ok(Times { quotes: column(&inner.quotes), orders: column(&inner.orders) })
    }

    /// How many quotes have succeeded, and what was said of the others.
    pub(crate) fn quotes(&self) -> (usize, BTreeMap<String, usize>) {
        let inner = self.lock();
        (inner.all_quotes, inner.failed.clone())
    }
}

impl Column {
    /// The time that `percent` of the clients have not exceeded.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    /// How many took too long.
    pub(crate) fn long(&self) -> usize {
        self.0.iter().filter(|took| **took > LONG).count()
    }

    /// p50, p99, max in milliseconds, and how many took too long.
    pub(crate) fn columns(&self) -> String {
        let [p50, p99, max] = [50, 99, 100].map(|percent| self.percentile(percent).as_millis());
        format!("{p50:>6} {p99:>6} {max:>6} {:>5}", self.long())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_began_before_the_event_does_not_count() {
        let watch = Stopwatch::new(1);
        watch.begin(Instant::now());
        let before = watch.now();
        let at = Instant::now().checked_sub(Duration::from_secs(4)).unwrap();
        watch.begin(at);
        watch.succeeded(0, Kind::Quote, before);
        assert_eq!(watch.lock().missing, 2);
        let since = watch.now();
        watch.succeeded(0, Kind::Quote, since);
        watch.succeeded(0, Kind::Quote, since);
        watch.succeeded(0, Kind::Order, since);
        let times = watch.all_have_gone_on("an event").unwrap();
        assert_eq!((times.quotes.long(), times.orders.long()), (1, 1));
        assert!(times.quotes.percentile(50) >= Duration::from_secs(4));
        assert_eq!(watch.quotes().0, 3);
    }

    #[test]
    fn a_percentile_is_a_time_of_some_client() {
        let column = Column((1..=200).map(Duration::from_millis).collect());
        let millis = |percent| column.percentile(percent).as_millis();
        assert_eq!((millis(50), millis(99), millis(100)), (100, 198, 200));
        assert_eq!(Column(Vec::new()).percentile(99), Duration::ZERO);
    }
}
