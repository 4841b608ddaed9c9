//! The keys of orders that were decided before the store was opened, read into a filter beside the
//! work: there may be tens of millions, and a start does not wait for them.
//!
//! It asks one generation of keys at a time, so that no long transaction holds the database up.
//! Invariant: until all were read the filter is not there, and every key may be one of them
//! ([`Index::may_know`]).

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use papertrader_core::ids::OrderId;

use crate::StoreError;
use crate::index::{Filter, GENERATION_BITS, Index, generation};
use crate::read::{self, Ask, Consistent, MarkKey};

/// So many orders, and so many marks, are read at once while the index is made.
const AT_ONCE: u64 = 1 << GENERATION_BITS;
/// Before a database is asked again that said no.
const AGAIN: Duration = Duration::from_secs(1);

/// Reads the keys of few orders into the index that is being made.
pub(crate) fn fill_if_few(index: &Index, ask: &dyn Ask) -> Result<(), StoreError> {
    if index.last_order > AT_ONCE {
        return Ok(());
    }
    let mut filter = Filter::default();
    let mut next = Some(Part::FIRST);
    while let Some(part) = next {
        if matches!(part, Part::Marks(Some(_))) {
            // There are many marks.
            return Ok(());
        }
        next = part.read(ask, index.last_order, &mut filter)?;
    }
    index.learn_past(filter);
    Ok(())
}

/// A thread that reads them. It is told to end when this is dropped.
pub(crate) struct Filling {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Filling {
    /// Begins it for an index that was just made, through a connection of its own.
    pub(crate) fn start<C: Consistent + 'static>(
        mut connection: C,
        index: &Index,
    ) -> Result<Filling, StoreError> {
        let (stop, stopped) = mpsc::channel();
        let (past, last) = (index.past(), index.last_order);
        let fill = move || {
            if let Some(filter) = fill(&mut connection, last, &stopped, AGAIN) {
                // It is set once only: an index has one of these.
                let _ = past.set(filter);
                tracing::info!(last_order = last, "the orders of the past are known");
            }
        };
        let thread = thread::Builder::new().name("store-past".to_owned()).spawn(fill);
        let thread = thread.map_err(|error| StoreError::Database(error.to_string()))?;
        Ok(Filling { stop: Some(stop), thread: Some(thread) })
    }

    /// Does not wait for its end: a server may be long in answering.
    pub(crate) fn abandon(mut self) {
        self.thread = None;
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported when it happened; without the filter all goes on.
            let _ = thread.join();
        }
    }
}

/// What is read in one transaction.
#[derive(Debug, Clone)]
enum Part {
    /// The first marks, or those after this one.
    Marks(Option<MarkKey>),
    Generation(u64),
}

impl Part {
    const FIRST: Part = Part::Marks(None);

    /// Adds it to the filter; what comes next.
    fn read(
        &self,
        ask: &dyn Ask,
        last_order: u64,
        filter: &mut Filter,
    ) -> Result<Option<Part>, StoreError> {
        Ok(match self {
            Part::Marks(after) => {
                let (hashes, last) = read::marks(ask, after.as_ref(), AT_ONCE as usize)?;
                let is_full = hashes.len() as u64 == AT_ONCE;
                hashes.into_iter().for_each(|hash| filter.insert(hash));
                let more = last.filter(|_| is_full);
                Some(more.map_or(Part::Generation(0), |last| Part::Marks(Some(last))))
            }
            Part::Generation(number) => {
                let hashes = read::decided_keys(ask, *number)?;
                hashes.into_iter().for_each(|hash| filter.insert(hash));
                let is_last = *number >= generation(OrderId(last_order));
                (!is_last).then_some(Part::Generation(number + 1))
            }
        })
    }
}

/// `None` when it is told to stop, or the database holds what cannot be read.
fn fill(
    connection: &mut impl Consistent,
    last_order: u64,
    stopped: &Receiver<()>,
    again: Duration,
) -> Option<Filter> {
    let mut filter = Filter::default();
    let mut next = Some(Part::FIRST);
    while let Some(part) = &next {
        if stopped.try_recv() == Err(TryRecvError::Disconnected) {
            return None;
        }
        // What is read in vain is read again: a key may stand in the filter twice.
        match connection.consistent(|ask| part.read(ask, last_order, &mut filter)) {
            Ok(after) => next = after,
            Err(error @ StoreError::Corrupt(_)) => {
                tracing::error!(
                    %error,
                    "the orders of the past cannot be read, and each new one is looked for in the \
                     database: see what `papertrader admin verify` says"
                );
                return None;
            }
            Err(error) => {
                tracing::warn!(%error, "the orders of the past cannot be read: trying again");
                if stopped.recv_timeout(again) == Err(RecvTimeoutError::Disconnected) {
                    return None;
                }
            }
        }
    }
    Some(filter)
}

#[cfg(test)]
mod tests {
    use papertrader_core::ids::AccountId;
    use rusqlite::Connection;

    use super::*;
    use crate::index::OrderKey;

    /// Three generations with two orders each, and a mark.
    fn database() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        let tables = "CREATE TABLE outcome (generation INTEGER, hash INTEGER);
                      CREATE TABLE cancel_mark (account INTEGER, client_order_id TEXT);
                      INSERT INTO outcome VALUES (0, 1), (0, -2), (1, 3), (1, 4), (2, 5), (2, 6);
                      INSERT INTO cancel_mark VALUES (7, 'a-mark')";
        connection.execute_batch(tables).unwrap();
        connection
    }

    const LAST: u64 = (2 << GENERATION_BITS) + 5;

    fn assert_complete(filter: &Filter) {
        let marked = OrderKey::new(AccountId(7), &"a-mark".parse().unwrap());
        for hash in [1, 2_u64.wrapping_neg(), 3, 4, 5, 6, marked.hash] {
            assert!(filter.may_have(hash), "{hash}");
        }
        assert!(!filter.may_have(1 << 40));
    }

    /// Says no to every second question.
    struct Moody(Connection, bool);

    impl Consistent for Moody {
        fn consistent<T>(
            &mut self,
            ask: impl FnMut(&dyn Ask) -> Result<T, StoreError>,
        ) -> Result<T, StoreError> {
            self.1 = !self.1;
            if self.1 { Err(StoreError::Database("no".into())) } else { self.0.consistent(ask) }
        }
    }

    #[test]
    fn all_keys_are_read_however_often_the_database_says_no() {
        let (stop, stopped) = mpsc::channel();
        let mut connection = Moody(database(), false);
        let filter = fill(&mut connection, LAST, &stopped, Duration::ZERO);
        assert_complete(&filter.expect("it was not told to stop"));
        drop(stop);
        assert!(fill(&mut connection, LAST, &stopped, AGAIN).is_none());
    }

    #[test]
    fn marks_are_read_in_pages_and_each_once() {
        let connection = database();
        let more = "INSERT INTO cancel_mark VALUES (7, 'b'), (7, 'A'), (6, 'z'), (8, 'a')";
        connection.execute_batch(more).unwrap();
        let (mut hashes, mut after) = (Vec::new(), None);
        loop {
            let (page, last) = read::marks(&connection, after.as_ref(), 2).unwrap();
            assert!(page.len() <= 2);
            hashes.extend(page);
            match last {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        let mut expected = [(6, "z"), (7, "A"), (7, "a-mark"), (7, "b"), (8, "a")]
            .map(|(account, id)| OrderKey::new(AccountId(account), &id.parse().unwrap()).hash);
        hashes.sort_unstable();
        expected.sort_unstable();
        assert_eq!(hashes, expected);
    }

    #[test]
    fn few_orders_are_known_at_once_and_many_later() {
        let connection = database();
        let few = Index::new(1, 1, AT_ONCE);
        fill_if_few(&few, &connection).unwrap();
        assert!(few.knows_past());

        let many = Index::new(1, 1, LAST);
        fill_if_few(&many, &connection).unwrap();
        assert!(!many.knows_past());
        let past = many.past();
        let filling = Filling::start(connection, &many).unwrap();
        assert_complete(past.wait());
        assert!(many.knows_past());
        drop(filling);
    }
}
