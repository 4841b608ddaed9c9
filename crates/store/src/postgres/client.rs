//! A connection: one thread asks and waits, each time for a limited time.
//!
//! The protocol is spoken by tokio-postgres on a runtime of this connection's own, which runs only
//! while something is waited for. A server that does not answer in time, a COMMIT included, is
//! noticed here; its own limits (`statement_timeout`) do not cover the COMMIT.
//!
//! Invariant: after an answer that did not come, or a connection that was lost, nothing more is
//! asked of it ([`Client::is_lost`]).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{BorrowToSql, ToSql, Type};
use tokio_postgres::{Row, Statement};

use super::address::Address;
use super::failure::Failure;
use crate::StoreError;
use crate::read::Each;

/// Rows that are taken from an answer at once.
const ROWS: usize = 1_024;
/// How long closing may take.
const CLOSING: Duration = Duration::from_secs(5);

/// A connection to the server.
pub(super) struct Client {
    /// `None` only while it is dropped.
    inner: Option<Inner>,
    /// Prepared once each.
    statements: RefCell<HashMap<String, Statement>>,
    /// How long an answer may take; `None` for as long as the connection is alive.
    limit: Cell<Option<Duration>>,
    is_lost: Cell<bool>,
}

struct Inner {
    runtime: Runtime,
    client: tokio_postgres::Client,
    connection: JoinHandle<()>,
}

impl Client {
    /// Connects.
    pub(super) fn connect(address: &Address) -> Result<Client, StoreError> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| StoreError::Database(error.to_string()))?;
        // The server's own limit comes first.
        let limit = address.answer * 5 / 4;
        let connecting = address.config.connect(address.tls.clone());
        let connected = run(&runtime, async move {
            match tokio::time::timeout(limit, connecting).await {
                Ok(connected) => connected.map_err(Failure::from),
                Err(_) => Err(Failure::late(limit)),
            }
        });
        let (client, connection) = match connected {
            Ok(connected) => connected,
            Err(failure) => {
                runtime.shutdown_background();
                return Err(failure.into());
            }
        };
        let connection = runtime.spawn(async move {
            // What ends it is told to whoever asks next.
            let _ = connection.await;
        });
        Ok(Client {
            inner: Some(Inner { runtime, client, connection }),
            statements: RefCell::default(),
            limit: Cell::new(Some(limit)),
            is_lost: Cell::new(false),
        })
    }

    /// Whether it cannot be used any more.
    pub(super) fn is_lost(&self) -> bool {
        let closed = |inner: &Inner| inner.client.is_closed();
        self.is_lost.get() || self.inner.as_ref().is_none_or(closed)
    }

    /// Waits for answers as long as the connection is alive, for questions that read all there is.
    pub(super) fn wait_for_ever(&self) -> Patience<'_> {
        Patience { client: self, before: self.limit.replace(None) }
    }

    /// Executes statements without parameters.
    pub(super) fn batch(&self, sql: &str) -> Result<(), Failure> {
        let inner = self.inner()?;
        self.wait(inner, inner.client.batch_execute(sql))
    }

    /// Executes a statement; returns how many rows it changed.
    pub(super) fn execute<P>(&self, sql: &str, values: &[P]) -> Result<u64, Failure>
    where
        P: BorrowToSql + Sync,
    {
        let inner = self.inner()?;
        let statement = self.prepare(sql)?;
        let values = values.iter().map(BorrowToSql::borrow_to_sql);
        self.wait(inner, inner.client.execute_raw(&statement, values))
    }

    /// Hands each row of a query to a function, in pieces that bound what is held in memory.
    pub(super) fn for_each<P>(
        &self,
        sql: &str,
        values: &[P],
        each: &mut Each<'_>,
    ) -> Result<(), StoreError>
    where
        P: BorrowToSql + Sync,
    {
        let inner = self.inner()?;
        let statement = self.prepare(sql)?;
        let values = values.iter().map(BorrowToSql::borrow_to_sql);
        let mut stream = Box::pin(self.wait(inner, inner.client.query_raw(&statement, values))?);
        loop {
            let some = self.wait(inner, async {
                let mut some: Vec<Row> = Vec::new();
                while some.len() < ROWS
                    && let Some(row) = stream.next().await
                {
                    some.push(row?);
                }
                Ok(some)
            })?;
            for row in &some {
                each(row)?;
            }
            if some.len() < ROWS {
                return Ok(());
            }
        }
    }

    /// Copies rows into a table; returns how many.
    pub(super) fn copy<R>(
        &self,
        sql: &str,
        types: &[Type],
        rows: impl Iterator<Item = R> + Send,
    ) -> Result<u64, Failure>
    where
        R: IntoIterator + Send,
        R::IntoIter: ExactSizeIterator + Send,
        R::Item: BorrowToSql + Send,
    {
        let inner = self.inner()?;
        let statement = self.prepare(sql)?;
        self.wait(inner, async {
            let mut writer =
                pin!(BinaryCopyInWriter::new(inner.client.copy_in(&statement).await?, types));
            for row in rows {
                writer.as_mut().write_raw(row).await?;
            }
            writer.finish().await
        })
    }

    fn inner(&self) -> Result<&Inner, Failure> {
        self.inner.as_ref().filter(|_| !self.is_lost.get()).ok_or_else(Failure::lost)
    }

    /// A statement, prepared once.
    pub(super) fn prepare(&self, sql: &str) -> Result<Statement, Failure> {
        if let Some(statement) = self.statements.borrow().get(sql) {
            return Ok(statement.clone());
        }
        let inner = self.inner()?;
        // Parameters are written ?1 where the statement is the same for every database.
        let statement = self.wait(inner, inner.client.prepare(&sql.replace('?', "$")))?;
        self.statements.borrow_mut().insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    fn wait<T: Send>(
        &self,
        inner: &Inner,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>> + Send,
    ) -> Result<T, Failure> {
        let limit = self.limit.get();
        let answer = run(&inner.runtime, async move {
            let Some(limit) = limit else { return answer.await.map_err(Failure::from) };
            match tokio::time::timeout(limit, answer).await {
                Ok(answer) => answer.map_err(Failure::from),
                Err(_) => Err(Failure::late(limit)),
            }
        });
        if answer.as_ref().is_err_and(Failure::is_lost) {
            self.is_lost.set(true);
        }
        answer
    }
}

/// Runs a future to its end. On a thread that runs a runtime already, another thread does it.
fn run<T: Send>(runtime: &Runtime, future: impl Future<Output = T> + Send) -> T {
    if Handle::try_current().is_err() {
        return runtime.block_on(future);
    }
    std::thread::scope(|scope| match scope.spawn(|| runtime.block_on(future)).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

impl Drop for Client {
    /// Gives up what the connection holds, where it still can, and says goodbye.
    fn drop(&mut self) {
        let is_lost = self.is_lost();
        let Some(Inner { runtime, client, connection }) = self.inner.take() else { return };
        if !is_lost {
            run(&runtime, async {
                let closing = async {
                    // The server learns of the end after this returns: locks are free before.
                    let _ = client.batch_execute("SELECT pg_advisory_unlock_all()").await;
                    drop(client);
                    let _ = connection.await;
                };
                let _ = tokio::time::timeout(CLOSING, closing).await;
            });
        }
        runtime.shutdown_background();
    }
}

/// While it lives, answers may take any time.
pub(super) struct Patience<'c> {
    client: &'c Client,
    before: Option<Duration>,
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        self.client.limit.set(self.before);
    }
}

/// No parameters.
pub(super) const NONE: &[&(dyn ToSql + Sync)] = &[];
