//! The wire protocol of PaperTrader (specification section 4), without I/O and without async.
//!
//! [`frame`] is the message structure of 4.4; [`instruction`] is the one list of everything that
//! can be said; [`request`], [`returns`] and [`data`] give each instruction its typed content;
//! [`link`] holds what only master and worker say to each other; [`reason`] is every stable word
//! that a failure return can carry. `docs/protocol.md` says the same for people.
//!
//! Invariants: sizes are checked before memory is reserved; decoding consumes everything or
//! fails; no bytes make it panic.

pub mod args;
pub mod data;
pub mod fingerprint;
pub mod frame;
pub mod instruction;
pub mod link;
pub mod push;
pub mod reason;
pub mod request;
pub mod returns;
pub mod session;
pub mod transfer;
pub mod wire;

pub use fingerprint::Fingerprint;
pub use frame::{Frame, FrameError, Header};
pub use instruction::Instruction;
pub use reason::{Failure, Reason};
pub use request::Request;
pub use session::SessionId;
