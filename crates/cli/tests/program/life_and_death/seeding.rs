//! Accounts with a session each, put into new books before the master starts: nothing waits for a
//! thousand passwords to be hashed. They have more cash than anybody spends.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use papertrader_core::ids::{AccountId, BatchNumber};
use papertrader_core::money::Cash;
use papertrader_core::time::{DAY, MarketTime, Moment, WallTime};
use papertrader_node::clock::Clock;
use papertrader_protocol::SessionId;
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{Batch, Change, NewAccount, Profile, SessionKey, Store, StoredSession};
use sha2::{Digest, Sha256};

use crate::kill_loop::trader::name;

const CASH: Cash = Cash::from_cents(1_000_000_000_000);

/// Makes the books in a data directory, and says the sessions of users 0, 1, 2…
pub(crate) fn seed(data: &Path, users: usize) -> Result<Vec<SessionId>, String> {
    let words = |error: &dyn std::error::Error| error.to_string();
    // The data directory is its owner's alone, and may be there already.
    let mut made = std::fs::DirBuilder::new();
    made.recursive(true).mode(0o700).create(data).map_err(|error| words(&error))?;
    let deployment = uuid::Uuid::new_v4().to_string();
    let file = data.join("papertrader.db");
    let mut store = SqliteStore::open(&file, &deployment).map_err(|error| words(&error))?;
    let clock = Clock::system(WallTime(0));
    let (mut sessions, mut changes) = (Vec::new(), Vec::new());
    for number in 0..users {
        let (now, session) = (clock.now(), SessionId::from_bytes(*uuid::Uuid::new_v4().as_bytes()));
        let account = AccountId(number as u32 + 1);
        changes.push(Change::OpenAccount(NewAccount {
            id: account,
            profile: Profile {
                name: name(number),
                email: format!("user-{number}@example.org").parse().expect("an email address"),
                pass_hash: None,
                password_due: false,
                since: now,
            },
            grant: CASH,
            moment: Moment { wall: now, market: MarketTime(0) },
        }));
        changes.push(Change::StartSession(StoredSession {
            // As the master looks it up.
            key: SessionKey(Sha256::digest(session.bytes()).into()),
            account,
            expires: now.plus_nanos(DAY),
            expirable: false,
            client: [127, 0, 0, 1].into(),
            started: now,
            used: now,
        }));
        sessions.push(session);
    }
    let batch = Batch { number: BatchNumber(1), wall: clock.now(), changes };
    store.commit(&batch).map_err(|error| words(&error))?;
    Ok(sessions)
}
