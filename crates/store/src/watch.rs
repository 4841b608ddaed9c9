//! Following work that reads or writes whole books: how far it is, and whether it shall go on.
//!
//! Nothing here reads by itself: [`Watched`] passes questions on to a connection, and counts.

use std::cell::RefCell;
use std::ops::{ControlFlow, Range};

use papertrader_core::ids::{AccountId, OrderId};
use papertrader_core::order::OrderRecord;

use crate::StoreError;
use crate::read::{Ask, Each};
use crate::rows::Value;

/// Rows between two looks at the watch.
const STEP: u64 = 1 << 14;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// The books are read and compared.
    Verifying,
    /// The books are copied.
    Copying,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// At what.
    pub doing: Doing,
    /// Rows, or pages of a file.
    pub done: u64,
    /// Of how many, where that is known.
    pub of: Option<u64>,
}

/// Told how far it is, now and then; says whether it shall go on.
pub type Watch<'w> = dyn FnMut(Progress) -> ControlFlow<()> + 'w;

/// Tells a watch, which may end the work.
pub(crate) fn tell(watch: &mut Watch<'_>, progress: Progress) -> Result<(), StoreError> {
    match watch(progress) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(StoreError::Stopped),
    }
}

/// A connection whose answers are counted.
pub(crate) struct Watched<'a, 'w> {
    ask: &'a dyn Ask,
    doing: Doing,
    seen: RefCell<(u64, &'a mut Watch<'w>)>,
}

impl<'a, 'w> Watched<'a, 'w> {
    pub(crate) fn new(ask: &'a dyn Ask, doing: Doing, watch: &'a mut Watch<'w>) -> Self {
        Watched { ask, doing, seen: RefCell::new((0, watch)) }
    }

    fn count(&self) -> Result<(), StoreError> {
        let (rows, watch) = &mut *self.seen.borrow_mut();
        *rows += 1;
        // The first row tells that it has begun.
        if *rows % STEP != 1 {
            return Ok(());
        }
        tell(watch, Progress { doing: self.doing, done: *rows, of: None })
    }
}

impl Ask for Watched<'_, '_> {
    fn for_each(
        &self,
        sql: &str,
        values: &[Value<'_>],
        each: &mut Each<'_>,
    ) -> Result<(), StoreError> {
        self.ask.for_each(sql, values, &mut |row| {
            self.count()?;
            each(row)
        })
    }

    fn keys(
        &self,
        generations: Range<u64>,
        account: AccountId,
        hash: Option<u64>,
        limit: usize,
    ) -> Result<Vec<OrderId>, StoreError> {
        self.ask.keys(generations, account, hash, limit)
    }

    fn orders(&self, ids: &[OrderId]) -> Result<Vec<OrderRecord>, StoreError> {
        self.ask.orders(ids)
    }

    fn structure(&self) -> Result<Vec<String>, StoreError> {
        self.ask.structure()
    }
}
