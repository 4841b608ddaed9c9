//! The lease on a database that several masters could use: one has it and renews it, the others wait
//! (docs/design/0004-standby.md).
//!
//! Only the terms stand here; PostgreSQL's own stand in `postgres/lease.rs`. A lease keeps nobody from
//! writing: that is the store's matter ([`crate::CommitError::TakenOver`]). It tells a living master
//! from a dead one, and a master until when it may believe what is in its memory.
//!
//! Invariant: whoever waits lets at least [`LEASE`] pass without a renewal before it takes a lease
//! from a holder that may live; whoever holds it counts from before the renewal was asked for.

use std::time::Duration;

use crate::StoreError;

/// How long a lease lasts that is not renewed.
pub const LEASE: Duration = Duration::from_secs(6);
/// How often it is renewed.
pub const RENEWAL: Duration = Duration::from_secs(2);

/// A lease that this process has.
pub trait Lease: Send {
    /// How long it lasts after a renewal was asked for.
    fn length(&self) -> Duration {
        LEASE
    }

    /// Says that this process lives. It takes little more than [`RENEWAL`], whatever the network does.
    ///
    /// [`StoreError::TakenOver`] says that it is another's now, for ever; after any other error it
    /// may be tried again.
    fn renew(&mut self) -> Result<(), StoreError>;
}
