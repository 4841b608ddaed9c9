//! What helps the master to promise orders while the store's writer is busy: knowing that a client order
//! ID is new ([`Sieve`]), and keeping orders durable beside the writer ([`Intake`],
//! `docs/design/0006-intake.md`).
//!
//! Neither is the truth: that are the tables, and a commit looks itself whether an ID is new.

use std::sync::RwLockReadGuard;

use papertrader_core::ids::{AccountId, BatchNumber, OrderId};
use papertrader_core::order::Order;

use crate::StoreError;
use crate::index::{Index, OrderKey};
use crate::read::SharedIndex;

/// Says of client order IDs that they are new, from memory and at once. Of what was committed it knows
/// all whose commit was reported.
pub struct Sieve {
    index: SharedIndex,
}

impl std::fmt::Debug for Sieve {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sieve")
    }
}

impl Sieve {
    pub(crate) fn new(index: &SharedIndex) -> Sieve {
        Sieve { index: SharedIndex::clone(index) }
    }

    /// False if something may be known under a client order ID, and while a batch is being taken over.
    /// `hash` is [`crate::order_hash`] of both.
    pub fn is_new(&self, account: AccountId, hash: u64) -> bool {
        let key = OrderKey { account, hash };
        let is_new = |index: RwLockReadGuard<'_, Index>| {
            !index.may_know(key) && index.open_with(key).next().is_none()
        };
        self.index.try_read().is_ok_and(is_new)
    }
}

/// Keeps orders durable that were judged good, beside the writer and before it writes them, so that
/// they can be promised while it is busy. Each is kept until it was written.
///
/// Invariant: from the return of [`Intake::keep`] on, [`Intake::kept`] has the orders after whatever
/// crash, until [`Intake::forget`].
pub trait Intake: Send {
    /// Makes orders durable, all or none; their IDs are above those that it has. `after` is the last
    /// batch that was committed when they were judged.
    fn keep(&mut self, after: BatchNumber, orders: &[Order]) -> Result<(), StoreError>;

    /// What a master that ended without writing them must write first: its orders from `next` on, by
    /// ID. `next` is the ID that the store would give next, `last` its last batch.
    ///
    /// Fails with [`StoreError::Directory`] if they are of other or of later books: these were put
    /// in the place of those that they belong to.
    fn kept(&mut self, next: OrderId, last: BatchNumber) -> Result<Vec<Order>, StoreError>;

    /// All that it has is written.
    fn forget(&mut self) -> Result<(), StoreError>;
}
