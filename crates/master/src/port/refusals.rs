//! Which refusals of workers are written into the log: all, unless there are many.
//!
//! Of each subject the first [`FULL`] in a minute are written in full; what is left out is counted,
//! and the number is one line when the minute is over. Strangers together are one subject, each
//! registered worker is its own: whatever strangers do, its operator reads why it was refused. Pure:
//! time is an argument.
//!
//! Invariant: a subject gets [`FULL`] lines and one more a minute at most, and is forgotten when its
//! minute is over. There are no more subjects than twice the registered workers, and two.

use std::collections::BTreeMap;
use std::fmt;

use papertrader_core::time::{SECOND, WallTime};
use papertrader_node::link::Denied;

/// Refusals of one subject in a minute that are written in full.
const FULL: u32 = 20;
const MINUTE: i64 = 60 * SECOND;

/// Whom a refusal is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// Those who have not named a registered worker.
    Strangers,
    /// The master itself.
    Master,
    /// A registered worker, or somebody at one of its addresses.
    Worker(String),
    /// Somebody who names a registered worker from an address that it may not have.
    Elsewhere(String),
}

/// What becomes of a refusal in the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Noted {
    /// It is written.
    pub(crate) write: bool,
    /// To be written before it.
    pub(crate) left_out: Option<LeftOut>,
}

/// Refusals that were left out in a minute that is over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LeftOut {
    pub(crate) subject: Subject,
    pub(crate) number: u64,
}

/// The refusals of the present minute, which begins for each subject at its first.
#[derive(Debug, Default)]
pub(crate) struct Refusals(BTreeMap<Subject, Minute>);

#[derive(Debug)]
struct Minute {
    begun: WallTime,
    written: u32,
    left_out: u64,
}

impl Subject {
    pub(crate) fn of(denied: &Denied) -> Subject {
        match denied {
            Denied::UnknownWorker(_) | Denied::Protocol(_) | Denied::Ended(_) => Subject::Strangers,
            Denied::OwnKey(_) => Subject::Master,
            Denied::ForeignAddress(name, _) => Subject::Elsewhere(name.clone()),
            Denied::Booted(name)
            | Denied::NoKey(name)
            | Denied::Key(name, _)
            | Denied::Proof(name, _)
            | Denied::Statement(name, _)
            | Denied::Unproven(name, _) => Subject::Worker(name.clone()),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Strangers => f.write_str("strangers"),
            Subject::Master => f.write_str("the master's own key"),
            Subject::Worker(name) => write!(f, "worker {name}"),
            Subject::Elsewhere(name) => {
                write!(f, "worker {name}, from other addresses than its own")
            }
        }
    }
}

impl Refusals {
    /// Notes one more.
    pub(crate) fn note(&mut self, subject: Subject, now: WallTime) -> Noted {
        let before = self.0.get(&subject).filter(|minute| minute.is_over(now));
        let left_out = before.and_then(|minute| minute.left_out(&subject));
        if before.is_some() {
            self.0.remove(&subject);
        }
        let begun = Minute { begun: now, written: 0, left_out: 0 };
        let minute = self.0.entry(subject).or_insert(begun);
        let write = minute.written < FULL;
        match write {
            true => minute.written += 1,
            false => minute.left_out += 1,
        }
        Noted { write, left_out }
    }

    /// What was left out in minutes that are over; they are forgotten.
    pub(crate) fn over(&mut self, now: WallTime) -> Vec<LeftOut> {
        let mut over = Vec::new();
        self.0.retain(|subject, minute| {
            let is_over = minute.is_over(now);
            if is_over {
                over.extend(minute.left_out(subject));
            }
            !is_over
        });
        over
    }
}

impl Minute {
    fn is_over(&self, now: WallTime) -> bool {
        now.0.saturating_sub(self.begun.0) >= MINUTE
    }

    fn left_out(&self, subject: &Subject) -> Option<LeftOut> {
        let number = self.left_out;
        (number > 0).then(|| LeftOut { subject: subject.clone(), number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> WallTime {
        WallTime(1_000 * MINUTE + seconds * SECOND)
    }

    /// Notes so many of strangers: how many of them are written.
    fn written(refusals: &mut Refusals, number: u32, now: WallTime) -> usize {
        let noted = (0..number).map(|_| refusals.note(Subject::Strangers, now));
        noted.filter(|noted| noted.write).count()
    }

    #[test]
    fn the_first_in_a_minute_are_written_and_then_their_number() {
        let mut refusals = Refusals::default();
        assert_eq!(written(&mut refusals, 5, at(0)), 5);
        assert_eq!(written(&mut refusals, 1_000, at(30)), 15);
        assert_eq!(written(&mut refusals, 1_000, at(59)), 0);
        assert_eq!(refusals.over(at(59)), []);
        let left_out = Some(LeftOut { subject: Subject::Strangers, number: 1_985 });
        let noted = refusals.note(Subject::Strangers, at(60));
        assert_eq!(noted, Noted { write: true, left_out });
        // The number is said once, and a new minute has begun.
        assert_eq!(written(&mut refusals, 100, at(61)), 19);
        // Also if nobody comes any more.
        let over = refusals.over(at(120));
        assert_eq!(over, [LeftOut { subject: Subject::Strangers, number: 81 }]);
        assert!(refusals.0.is_empty());
        // Nothing was left out: nothing is said.
        assert_eq!(written(&mut refusals, 20, at(200)), 20);
        assert_eq!(refusals.note(Subject::Strangers, at(300)).left_out, None);
        assert_eq!(refusals.over(at(400)), []);
    }

    #[test]
    fn strangers_do_not_drown_a_registered_worker() {
        let mut refusals = Refusals::default();
        written(&mut refusals, 1_000, at(0));
        let name = || "east".to_owned();
        for _ in 0..100 {
            let foreign = Denied::ForeignAddress(name(), [192, 0, 2, 1].into());
            refusals.note(Subject::of(&foreign), at(1));
        }
        for denied in [Denied::Booted(name()), Denied::Statement(name(), "TLS session")] {
            assert!(refusals.note(Subject::of(&denied), at(2)).write, "{denied}");
        }
        assert!(refusals.note(Subject::of(&Denied::OwnKey("expired".into())), at(2)).write);
    }
}
