//! The intake of SQLite: a second file beside the database, with a log of its own, so that a transaction
//! there and one here are written at the same time. It has the tables of the database; only
//! `order_` and the row of `meta` are used.
//!
//! Its log is not copied into the file while it has orders: it is short, and a copy that fails would
//! have to be noticed.

use std::path::{Path, PathBuf};

use papertrader_core::ids::{BatchNumber, OrderId};
use papertrader_core::order::Order;
use rusqlite::Connection;

use super::failure::{loses_data, of_read};
use super::{rows, schema};
use crate::index::OrderKey;
use crate::read;
use crate::rows::{SELECT_ORDER, order};
use crate::write::{self, Refused};
use crate::{CommitError, Intake, StoreError};

/// The file.
pub(super) struct IntakeFile {
    connection: Connection,
    path: String,
    /// The deployment of the database beside it.
    deployment: String,
    /// Why it keeps nothing more: what was written before may be gone.
    lost: Option<String>,
}

/// The intake of the database at `path`.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("intake.db")
}

/// How many orders are in the intake beside the database at `path` that it does not have.
pub(crate) fn left(path: &Path) -> Result<u64, StoreError> {
    let intake = beside(path);
    if !intake.exists() {
        return Ok(0);
    }
    let last = |connection: &Connection| {
        let sql = "SELECT coalesce(max(id), 0) FROM order_";
        connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(of_read)
    };
    let last = last(&schema::connect_reader(path).map_err(of_read)?)?;
    let intake = schema::connect_reader(&intake).map_err(of_read)?;
    let sql = "SELECT count(*) FROM order_ WHERE id > ?1";
    let count = intake.query_row(sql, [last], |row| row.get::<_, i64>(0)).map_err(of_read)?;
    Ok(count.cast_unsigned())
}

impl IntakeFile {
    /// Opens the intake of the database at `path`, made when it is missing.
    pub(super) fn open(path: &Path, deployment: &str) -> Result<IntakeFile, StoreError> {
        let path = beside(path);
        let connection = schema::open(&path, deployment).map_err(|error| match error {
            StoreError::Database(why) | StoreError::Corrupt(why) => {
                StoreError::Directory(format!("the orders' intake {}: {why}", path.display()))
            }
            error => error,
        })?;
        let (path, deployment) = (path.display().to_string(), deployment.to_owned());
        Ok(IntakeFile { connection, path, deployment, lost: None })
    }

    /// Executes `change` and what it does in one transaction. After a disk that failed to keep what
    /// was written nothing is done any more.
    fn change(
        &mut self,
        change: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<(), StoreError> {
        if let Some(why) = &self.lost {
            return Err(StoreError::Database(why.clone()));
        }
        let changed = self.connection.transaction().and_then(|transaction| {
            change(&transaction)?;
            transaction.commit()
        });
        self.note(changed)
    }

    fn note(&mut self, outcome: rusqlite::Result<()>) -> Result<(), StoreError> {
        if let Err(rusqlite::Error::SqliteFailure(failure, _)) = &outcome
            && loses_data(failure)
        {
            self.lost = outcome.as_ref().err().map(ToString::to_string);
        }
        outcome.map_err(of_read)
    }
}

impl Intake for IntakeFile {
    fn keep(&mut self, after: BatchNumber, orders: &[Order]) -> Result<(), StoreError> {
        let deployment = self.deployment.clone();
        let mut refused = None;
        let kept = self.change(|connection| {
            let mut writer = rows::Writer::new(connection);
            for order in orders {
                let request = &order.request;
                let key = OrderKey::new(request.account, &request.client_order_id);
                if let Err(Refused(error)) = write::order(&mut writer, order, key) {
                    refused = Some(error);
                    return Err(rusqlite::Error::ExecuteReturnedResults);
                }
            }
            // Whatever it was made beside: what it had was written, or was none.
            let sql = "UPDATE meta SET last_batch = ?1, deployment = ?2";
            let mut update = connection.prepare_cached(sql)?;
            update.execute(rusqlite::params![after.0.cast_signed(), deployment])?;
            Ok(())
        });
        match refused {
            Some(error @ CommitError::Disk(_)) => {
                self.lost = Some(error.to_string());
                Err(StoreError::Database(error.to_string()))
            }
            Some(error) => Err(StoreError::Database(error.to_string())),
            None => kept,
        }
    }

    fn kept(&mut self, next: OrderId, last: BatchNumber) -> Result<Vec<Order>, StoreError> {
        let transaction = self.connection.transaction().map_err(of_read)?;
        let sql = format!("{SELECT_ORDER} ORDER BY o.id");
        let mut orders = read::rows(&*transaction, &sql, &[], |row| order(row))?;
        let meta = read::meta(&*transaction)?;
        let is_ours = meta.deployment == self.deployment;
        if is_ours {
            orders.retain(|record| record.order.id >= next);
        }
        if !orders.is_empty() && (!is_ours || last < meta.last_batch) {
            return Err(StoreError::Directory(format!(
                "{} orders were promised that the database does not have, and it is not the one, or \
                 an older state of the one, that they were promised on. They stand in the file {}. If \
                 the database was restored on purpose, they are lost: move that file and those whose \
                 names begin as its name away",
                orders.len(),
                self.path
            )));
        }
        Ok(orders.into_iter().map(|record| record.order).collect())
    }

    fn forget(&mut self) -> Result<(), StoreError> {
        self.change(|connection| connection.execute("DELETE FROM order_", []).map(drop))?;
        // The log begins anew.
        let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
        let begun = self.connection.query_row(sql, [], |_| Ok(()));
        self.note(begun)
    }
}

#[cfg(test)]
mod tests {
    use papertrader_core::ids::{AccountId, InstrumentId, SnapshotNumber, WorkerId};
    use papertrader_core::money::{Cash, Quantity};
    use papertrader_core::order::{OrderRequest, Side};
    use papertrader_core::time::{MarketTime, Moment, WallTime};

    use super::*;

    fn order(id: u64) -> Order {
        let quantity = Quantity::from_raw(300_000_000 + id as i64);
        Order {
            id: OrderId(id),
            request: OrderRequest {
                account: AccountId(7),
                client_order_id: format!("order-{id}").parse().unwrap(),
                side: Side::Buy,
                instrument: InstrumentId(3),
                quantity,
            },
            asked: quantity,
            hold: Cash::from_cents(1_234),
            received: Moment { wall: WallTime(5), market: MarketTime(6) },
            seen: SnapshotNumber(8),
            day: 9,
            worker: WorkerId([1; 16]),
            worker_time: WallTime(10),
            worker_sequence: u64::MAX - id,
        }
    }

    #[test]
    fn orders_are_kept_until_they_are_forgotten_whoever_asks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("books.db");
        let open = || IntakeFile::open(&path, "deployment").unwrap();
        let mut intake = open();
        assert_eq!(intake.kept(OrderId(1), BatchNumber(0)).unwrap(), []);
        intake.keep(BatchNumber(4), &[order(2), order(3)]).unwrap();
        intake.keep(BatchNumber(4), &[order(4)]).unwrap();
        // A process that ended without a word has left it like this.
        std::mem::forget(intake);
        let mut intake = open();
        let all = [order(2), order(3), order(4)];
        assert_eq!(intake.kept(OrderId(1), BatchNumber(4)).unwrap(), all);
        // The first of them were written before it ended.
        assert_eq!(intake.kept(OrderId(4), BatchNumber(6)).unwrap(), all[2..]);
        intake.forget().unwrap();
        assert_eq!(open().kept(OrderId(1), BatchNumber(4)).unwrap(), []);
    }

    #[test]
    fn what_the_books_do_not_have_is_counted_beside_them() {
        use crate::{Location, Store};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("books.db");
        let location = Location::file(&path);
        let mut store = crate::sqlite::SqliteStore::open(&path, "deployment").unwrap();
        assert_eq!(location.accepted_beside().unwrap(), 0);
        let mut intake = store.intake().unwrap().unwrap();
        intake.keep(BatchNumber(0), &[order(1), order(2)]).unwrap();
        assert_eq!(location.accepted_beside().unwrap(), 2);
        intake.forget().unwrap();
        assert_eq!(location.accepted_beside().unwrap(), 0);
    }

    #[test]
    fn orders_that_are_kept_twice_are_not_kept_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let mut intake = IntakeFile::open(&dir.path().join("books.db"), "deployment").unwrap();
        intake.keep(BatchNumber(1), &[order(2)]).unwrap();
        assert!(intake.keep(BatchNumber(1), &[order(1), order(2)]).is_err());
        assert_eq!(intake.kept(OrderId(1), BatchNumber(1)).unwrap(), [order(2)]);
    }

    #[test]
    fn a_file_that_was_made_beside_another_database_is_this_ones_once_it_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("books.db");
        drop(IntakeFile::open(&path, "another").unwrap());
        let open = || IntakeFile::open(&path, "deployment").unwrap();
        let mut intake = open();
        assert_eq!(intake.kept(OrderId(1), BatchNumber(9)).unwrap(), []);
        intake.keep(BatchNumber(9), &[order(2)]).unwrap();
        assert_eq!(open().kept(OrderId(1), BatchNumber(9)).unwrap(), [order(2)]);
    }

    #[test]
    fn orders_of_other_or_later_books_are_not_taken_for_those_of_these() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("books.db");
        IntakeFile::open(&path, "deployment").unwrap().keep(BatchNumber(4), &[order(2)]).unwrap();
        let kept = |deployment: &str, next, last| {
            let mut intake = IntakeFile::open(&path, deployment).unwrap();
            intake.kept(OrderId(next), BatchNumber(last))
        };
        for (deployment, last) in [("another", 4), ("deployment", 3)] {
            match kept(deployment, 1, last) {
                Err(StoreError::Directory(why)) => {
                    assert!(why.contains("books.intake.db"), "{why}")
                }
                other => panic!("{other:?}"),
            }
        }
        // Whatever is written already asks for nothing, and what is another's is not passed over.
        assert_eq!(kept("deployment", 3, 3).unwrap(), []);
        assert!(kept("another", 3, 4).is_err());
    }
}
