//! OpenPGP keys and messages against the real GnuPG 2.2: what it makes we take, what we make it
//! takes, and what its owner ended is refused with the right cause.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod forgeries;
mod gpg;
mod keys;
mod messages;
mod robustness;
mod rules;
