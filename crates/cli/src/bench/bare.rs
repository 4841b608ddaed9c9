//! The bare statements of a settlement, executed on a second database with the content that the
//! store's own had before it: what SQLite itself takes for it. The values are put together before the
//! clock starts; nothing is looked up, checked or remembered.
//!
//! Which balances and positions are written is read from the store's database, after its settlement.
//!
//! Invariant: after it the second database holds what the store's own holds; the benchmark compares
//! both.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use papertrader_core::books::{Books, OpenOrder};
use papertrader_core::ids::OrderId;
use papertrader_core::order::OrderState;
use papertrader_core::settle::Settlement;
use papertrader_store::{Batch, order_hash};
use rusqlite::backup::Backup;
use rusqlite::{Connection, params};

use super::BenchError;

/// How long the copying of a log may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Copies a database, page by page, while its store is open.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), BenchError> {
    if to.exists() {
        std::fs::remove_file(to)?;
    }
    let source = Connection::open(from)?;
    let mut copy = Connection::open(to)?;
    Backup::new(&source, &mut copy)?.run_to_completion(i32::MAX, Duration::ZERO, None)?;
    copy.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    drop(copy);
    // Or it would be written to the disk while something is measured.
    std::fs::File::open(to)?.sync_all()?;
    Ok(())
}

/// The hashes under which open orders will be found.
pub(super) struct Hashes(HashMap<OrderId, i64>);

impl Hashes {
    /// Those of all orders that are open now.
    pub(super) fn of(books: &Books) -> Hashes {
        let hash = |open: &OpenOrder| {
            let request = &open.order.request;
            let hash = order_hash(request.account.0, request.client_order_id.as_str());
            (open.order.id, hash as i64)
        };
        Hashes(books.open_orders().map(hash).collect())
    }
}

/// Executes `settlement` on the database at `path`, which must hold the orders that it decides; the
/// database at `settled` holds what it has become there. `hashes` are those before it.
pub(super) fn settle(
    path: &Path,
    settled: &Path,
    hashes: &Hashes,
    settlement: &Settlement,
    batch: &Batch,
) -> Result<Duration, BenchError> {
    let rows = Rows::of(hashes, settlement, settled)?;
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -262144; PRAGMA wal_autocheckpoint = 0;",
    )?;
    connection.set_prepared_statement_cache_capacity(32);
    // What the store's own connection has in memory already.
    connection.query_row("SELECT sum(cash) FROM balance", [], |_| Ok(()))?;
    let generation = rows.outcomes.first().map_or(0, |row| row.generation);
    let sql = "SELECT sum(price) FROM outcome WHERE generation >= ?1";
    connection.query_row(sql, [generation], |_| Ok(()))?;
    let begun = Instant::now();
    connection.execute_batch("BEGIN IMMEDIATE")?;
    rows.write(&connection, settlement, batch)?;
    connection.execute_batch("COMMIT")?;
    Ok(begun.elapsed())
}

/// What is written, in the order of the tables.
struct Rows {
    outcomes: Vec<Outcome>,
    balances: Vec<(u32, i64, String)>,
    last_order: i64,
    folded: (i64, i64),
}

struct Outcome {
    generation: i64,
    account: u32,
    hash: i64,
    id: i64,
    quantity: i64,
    price: i64,
    amount: i64,
    basis: i64,
    snapshot: i64,
}

impl Rows {
    fn of(hashes: &Hashes, settlement: &Settlement, settled: &Path) -> Result<Rows, BenchError> {
        let mut outcomes = Vec::new();
        for decision in &settlement.decisions {
            let (Some(hash), OrderState::Filled(fill)) =
                (hashes.0.get(&decision.order), decision.state)
            else {
                return Err(BenchError::Wrong("an order was not filled".into()));
            };
            outcomes.push(Outcome {
                generation: (decision.order.0 >> 18) as i64,
                account: decision.account.0,
                hash: *hash,
                id: decision.order.0 as i64,
                quantity: fill.quantity.raw(),
                price: fill.price.raw(),
                amount: fill.amount.cents(),
                basis: fill.basis.cents(),
                snapshot: fill.snapshot.0 as i64,
            });
        }
        outcomes.sort_unstable_by_key(|row| (row.generation, row.account, row.hash, row.id));
        let last_order = outcomes.iter().map(|row| row.id).max().unwrap_or(0);
        let after = Connection::open(settled)?;
        // The store copies its log into the file beside: what is measured waits for the end of that.
        after.busy_timeout(PATIENCE)?;
        after.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(()))?;
        let snapshot = settlement.head.snapshot as i64;
        let balances = after
            .prepare(
                "SELECT account, cash, positions FROM balance WHERE snapshot = ?1
                 ORDER BY account",
            )?
            .query_map([snapshot], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        let sql = "SELECT folded_snapshot, folded_generation FROM meta";
        let folded = after.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Rows { outcomes, balances, last_order, folded })
    }

    fn write(
        &self,
        connection: &Connection,
        settlement: &Settlement,
        batch: &Batch,
    ) -> rusqlite::Result<()> {
        let (head, moment) = (&settlement.head, settlement.moment);
        connection.execute(
            "INSERT INTO snapshot (number, wall, market, day, last_action, ended)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                head.snapshot as i64,
                moment.wall.0,
                head.market.0,
                head.day,
                head.last_action as i64,
                head.ended
            ],
        )?;
        let mut insert = connection.prepare_cached(
            "INSERT INTO outcome
                (generation, account, hash, id, state, quantity, price, amount, basis, snapshot)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?;
        for row in &self.outcomes {
            insert.execute(params![
                row.generation,
                row.account,
                row.hash,
                row.id,
                1,
                row.quantity,
                row.price,
                row.amount,
                row.basis,
                row.snapshot
            ])?;
        }
        let mut update = connection.prepare_cached(
            "UPDATE balance SET cash = ?2, snapshot = ?3, positions = ?4 WHERE account = ?1",
        )?;
        for (account, cash, positions) in &self.balances {
            update.execute(params![account, cash, head.snapshot as i64, positions])?;
        }
        let mut put = connection.prepare_cached(
            "INSERT INTO price (instrument, price, time) VALUES (?1, ?2, ?3)
             ON CONFLICT (instrument) DO UPDATE SET price = excluded.price, time = excluded.time",
        )?;
        for (instrument, mark) in &settlement.marks {
            put.execute(params![instrument.0, mark.price.raw(), mark.time.0])?;
        }
        let mut put = connection.prepare_cached(
            "INSERT INTO named_account (name, instrument, amount) VALUES ('market', ?1, ?2)
             ON CONFLICT (name, instrument) DO UPDATE SET amount = excluded.amount
             WHERE amount <> excluded.amount",
        )?;
        put.execute(params![0, settlement.named.market.to_string()])?;
        for (instrument, amount) in &settlement.named.market_units {
            put.execute(params![instrument.0, amount.to_string()])?;
        }
        connection.execute(
            "UPDATE meta SET last_batch = ?1, last_wall = ?2, settled_order = ?3,
                    folded_snapshot = ?4, folded_generation = ?5",
            params![
                batch.number.0 as i64,
                batch.wall.0,
                self.last_order,
                self.folded.0,
                self.folded.1
            ],
        )?;
        Ok(())
    }
}
