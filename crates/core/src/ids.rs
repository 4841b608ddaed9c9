//! Identifiers. Each is its own type, so that one is never taken for another.

use std::fmt;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// An account. Numbered from 1 without gaps and never reused, so that it can index an array.
    AccountId(u32)
);
number_id!(
    /// An instrument of this deployment. Numbered from 1 without gaps and never reused.
    InstrumentId(u32)
);
number_id!(
    /// An order, in the order of acceptance, from 1.
    OrderId(u64)
);
number_id!(
    /// A price snapshot, from 1; each settlement has one.
    SnapshotNumber(u64)
);
number_id!(
    /// A batch written to the store in one SQL transaction, from 1.
    BatchNumber(u64)
);

/// A worker's UUID (specification 4.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WorkerId(pub [u8; 16]);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
