//! A master that waits for another's end (docs/design/0004-standby.md): it looks at the database every
//! half second, answers the operator's status meanwhile, and does nothing else.
//!
//! What it finds there, and whether it may take the other's place, is the store's matter
//! ([`Standby::look`]). It has no port and loads nothing before.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use papertrader_node::clock::Clock;
use papertrader_node::shutdown::Shutdown;
use papertrader_node::{info, warn};
use papertrader_store::StoreError;
use papertrader_store::postgres::{Look, PostgresStore, Standby, Waiting};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::admin::books::Books;
use crate::admin::message::StandbyStatus;
use crate::admin::{AdminError, AdminReply, AdminRequest, AdminSocket};
use crate::driver::{Event, MasterError};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(500);
/// Requests of operators that wait to be answered.
const REQUESTS: usize = 16;

/// Waits until this process is the master; `None` if it is told to end before. `admin` is its data
/// directory, which it has locked. `waits` is told when it begins to wait, and for whom.
pub async fn wait(
    standby: Standby,
    admin: Option<&Path>,
    clock: &Clock,
    mut shutdown: Shutdown,
    mut waits: impl FnMut(&str),
) -> Result<Option<PostgresStore>, MasterError> {
    let socket = admin.map(AdminSocket::open).transpose()?.flatten().map(Arc::new);
    let (events, mut inbox) = mpsc::channel(REQUESTS);
    let books = Arc::new(Books::new(standby.location()));
    let accepting = socket.clone().map(|socket| {
        let (events, books) = (events.clone(), Arc::clone(&books));
        tokio::spawn(async move { socket.accept(events, books).await })
    });
    let mut state = State::new(clock);
    let mut looking = Box::pin(look(standby, Duration::ZERO));
    let result = loop {
        tokio::select! {
            () = shutdown.wait() => break Ok(None),
            Some(event) = inbox.recv() => {
                if let Event::Admin(request, answer) = event {
                    let _ = answer.send(state.answer(&request));
                }
            }
            looked = &mut looking => {
                let (standby, found) = match looked {
                    Ok(looked) => looked,
                    Err(error) => break Err(error),
                };
                match found {
                    Ok(Look::Taken(store)) => break Ok(Some(*store)),
                    Ok(Look::Waiting(waiting)) => state.waits(waiting, &mut waits),
                    Err(StoreError::Database(why)) => state.fails(why, &mut waits),
                    Err(error) => break Err(error.into()),
                }
                looking = Box::pin(look(standby, EVERY));
            }
        }
    };
    books.end();
    if let (Some(socket), Some(accepting)) = (socket, accepting) {
        accepting.abort();
        // A connection that is open is told that nobody answers any more.
        socket.remove();
    }
    if let Ok(Some(_)) = &result {
        info!("this master takes over");
    }
    result
}

/// Looks once, on a thread of its own: it blocks.
async fn look(
    mut standby: Standby,
    after: Duration,
) -> Result<(Standby, Result<Look, StoreError>), MasterError> {
    sleep(after).await;
    let looked = tokio::task::spawn_blocking(move || {
        let found = standby.look();
        (standby, found)
    });
    Ok(looked.await.map_err(std::io::Error::other)?)
}

/// What is told of it.
struct State<'c> {
    clock: &'c Clock,
    started: papertrader_core::time::WallTime,
    waiting: Option<Waiting>,
    problem: Option<String>,
}

impl<'c> State<'c> {
    fn new(clock: &'c Clock) -> State<'c> {
        State { clock, started: clock.now(), waiting: None, problem: None }
    }

    fn waits(&mut self, waiting: Waiting, waits: &mut impl FnMut(&str)) {
        if self.problem.take().is_some() {
            info!("the database can be asked again");
        }
        let is_new = self.waiting.as_ref().is_none_or(|before| before.holder != waiting.holder);
        if is_new {
            let holder = shown(&waiting.holder);
            info!(active = holder, "this master is a standby: it waits for the other's end");
            waits(holder);
        }
        self.waiting = Some(waiting);
    }

    fn fails(&mut self, why: String, waits: &mut impl FnMut(&str)) {
        if self.problem.is_none() {
            warn!(%why, "a standby cannot ask the database; trying again");
            if self.waiting.is_none() {
                // From the beginning, perhaps for an error in the configuration.
                waits(&format!("{}: {why}", shown("")));
            }
        }
        self.problem = Some(why);
    }

    fn answer(&self, request: &AdminRequest) -> AdminReply {
        let active = self.waiting.as_ref().map(|waiting| &waiting.holder);
        if !matches!(request, AdminRequest::Status {}) {
            let name = active.map_or("", String::as_str);
            return AdminError::Standby(shown(name).to_owned()).into();
        }
        let now = self.clock.now();
        let is_known = self.problem.is_none();
        AdminReply::Standby(StandbyStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: "standby".to_owned(),
            started: self.started.into(),
            uptime_seconds: now.0.saturating_sub(self.started.0) / 1_000_000_000,
            active: active.filter(|name| is_known && !name.is_empty()).cloned(),
            renewed_ms_ago: self
                .waiting
                .as_ref()
                .filter(|_| is_known)
                .map(|waiting| u64::try_from(waiting.age.as_millis()).unwrap_or(u64::MAX)),
            problem: self.problem.clone(),
        })
    }
}

/// The active master, in words.
fn shown(holder: &str) -> &str {
    if holder.is_empty() { "not known" } else { holder }
}

#[cfg(test)]
mod tests {
    use papertrader_core::time::WallTime;

    use super::*;

    fn status(state: &State<'_>) -> StandbyStatus {
        match state.answer(&AdminRequest::Status {}) {
            AdminReply::Standby(status) => status,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_known_any_more_is_not_told() {
        let clock = Clock::system(WallTime(0));
        let mut state = State::new(&clock);
        let mut told = Vec::new();
        let mut waits = |text: &str| told.push(text.to_owned());
        state.fails("no route".into(), &mut waits);
        let waiting = Waiting { holder: "east".into(), age: Duration::from_millis(1_300) };
        for _ in 0..2 {
            state.waits(waiting.clone(), &mut waits);
        }
        let known = status(&state);
        assert_eq!((known.active.as_deref(), known.renewed_ms_ago), (Some("east"), Some(1_300)));
        state.fails("no answer".into(), &mut waits);
        let unknown = status(&state);
        assert_eq!((unknown.active, unknown.renewed_ms_ago), (None, None));
        assert_eq!(unknown.problem.as_deref(), Some("no answer"));
        assert_eq!(told, ["not known: no route", "east"]);
        let refused = state.answer(&AdminRequest::ListWorkers {});
        assert!(matches!(refused, AdminReply::Refused(refusal) if refusal.text.contains("(east)")));
    }
}
