//! The real program: its servers as processes on loopback, its commands as a user types them.
//!
//! Every server picks a free port and keeps its data in a directory of the test. Processes are
//! ended by their IDs; what was not ended ends with the test.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod apart;
mod away;
mod books;
mod boot;
mod capture;
mod cli;
mod crash;
mod kill_loop;
mod life;
mod life_and_death;
mod logs;
mod place;
#[path = "../../../store/tests/postgres/server.rs"]
#[allow(dead_code, reason = "the store's own tests use all of it")]
mod postgres_server;
mod process;
mod push;
mod secrets;
mod standby;
mod trouble;
mod up;
