//! Where in a [`Recording`] the power may go: what is under way at which moment, and a choice of
//! moments that favours commits and checkpoints.
//!
//! It also tells which commits were acknowledged without a sync, for a sync is how it tells the parts
//! of a commit from each other.
//!
//! Invariant: a moment `m` is after all operations that began before `m`, and before all others.

use std::fmt;
use std::ops::Range;

use crate::disk::Random;
use crate::record::{Op, Recording, What};

pub(crate) const DATABASE: &str = "books.sqlite";
pub(crate) const LOG: &str = "books.sqlite-wal";

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A commit is written into the log.
    CommitWrites,
    /// It is written, and synced now.
    CommitSyncs,
    /// It is durable, and nobody was told: a COMMIT whose answer never arrives.
    CommitUnanswered,
    /// A checkpoint copies the log into the database.
    CheckpointCopies,
    /// It syncs the database.
    CheckpointSyncs,
    /// The log is begun anew after a checkpoint, until the first commit in it is acknowledged.
    LogRenewed,
    /// Anything else: the file is made, opened or closed.
    Else,
}

impl Kind {
    pub(crate) const ALL: [Kind; 7] = [
        Kind::CommitWrites,
        Kind::CommitSyncs,
        Kind::CommitUnanswered,
        Kind::CheckpointCopies,
        Kind::CheckpointSyncs,
        Kind::LogRenewed,
        Kind::Else,
    ];
}

/// What is under way when.
pub(crate) struct Moments {
    windows: Vec<(Kind, Range<usize>)>,
    /// How often the log was begun anew.
    pub(crate) renewals: usize,
    /// How often the log was copied, also when the database was closed.
    pub(crate) checkpoints: usize,
    /// Batches that were acknowledged although no sync had made them durable.
    pub(crate) unsynced: Vec<u64>,
}

impl Moments {
    pub(crate) fn of(recording: &Recording) -> Moments {
        let (mut windows, unsynced) = commits(recording);
        let checkpoints = checkpoints(recording);
        let count = |kind| checkpoints.iter().filter(|(found, _)| *found == kind).count();
        let (renewals, copies) = (count(Kind::LogRenewed), count(Kind::CheckpointSyncs));
        windows.extend(checkpoints);
        let mut covered: Vec<Range<usize>> =
            windows.iter().map(|(_, range)| range.clone()).collect();
        covered.sort_by_key(|range| range.start);
        let mut reached = 0;
        for range in covered {
            if reached < range.start {
                windows.push((Kind::Else, reached..range.start));
            }
            reached = reached.max(range.end);
        }
        windows.push((Kind::Else, reached..recording.end + 1));
        Moments { windows, renewals, checkpoints: copies, unsynced }
    }

    /// A moment of the kind that is `n`th's turn: of ten, four are in commits, four in checkpoints,
    /// one is in neither and one anywhere.
    pub(crate) fn choose(&self, n: usize, end: usize, random: &mut Random) -> usize {
        let kind = match n % 10 {
            0 | 1 => Kind::CommitWrites,
            2 => Kind::CommitSyncs,
            3 => Kind::CommitUnanswered,
            4 | 5 => Kind::CheckpointCopies,
            6 => Kind::CheckpointSyncs,
            7 => Kind::LogRenewed,
            8 => Kind::Else,
            _ => return random.below(end + 1),
        };
        let of_kind: Vec<_> = self.windows.iter().filter(|(found, _)| *found == kind).collect();
        if of_kind.is_empty() {
            return random.below(end + 1);
        }
        let (_, window) = of_kind[random.below(of_kind.len())];
        window.start + random.below(window.len())
    }

    /// What is under way at a moment.
    pub(crate) fn at(&self, moment: usize) -> Vec<Kind> {
        let here = self.windows.iter().filter(|(_, range)| range.contains(&moment));
        here.map(|(kind, _)| *kind).collect()
    }
}

impl fmt::Display for Moments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} checkpoints, the log begun anew {} times", self.checkpoints, self.renewals)
    }
}

fn written(recording: &Recording, op: &Op, name: &str) -> Option<(usize, usize)> {
    match &op.what {
        What::Write { file, at, .. } if recording.files[*file] == name => Some((*file, *at)),
        _ => None,
    }
}

/// The parts of each commit, and the batches that were not synced.
fn commits(recording: &Recording) -> (Vec<(Kind, Range<usize>)>, Vec<u64>) {
    let (mut windows, mut unsynced) = (Vec::new(), Vec::new());
    let mut writes: Vec<(&Op, usize)> = Vec::new();
    let mut syncs: Vec<(&Op, usize)> = Vec::new();
    let mut next = 1;
    for op in &recording.ops {
        if let Some((file, _)) = written(recording, op, LOG) {
            writes.push((op, file));
        }
        match op.what {
            What::SyncFile(file) => syncs.push((op, file)),
            What::Ack(number) => {
                assert_eq!(number, next, "the acknowledgements follow each other");
                next += 1;
                let (first, (last, file)) = (writes[0].0, writes[writes.len() - 1]);
                let sync = syncs.iter().find(|(sync, synced)| {
                    *synced == file && sync.begun > last.ended && sync.ended < op.begun
                });
                if let Some((sync, _)) = sync {
                    windows.push((Kind::CommitWrites, first.begun + 1..sync.begun + 1));
                    windows.push((Kind::CommitSyncs, sync.begun + 1..sync.ended + 1));
                    windows.push((Kind::CommitUnanswered, sync.ended + 1..op.begun + 1));
                } else {
                    windows.push((Kind::CommitWrites, first.begun + 1..op.begun + 1));
                    unsynced.push(number);
                }
                writes.clear();
                syncs.clear();
            }
            _ => {}
        }
    }
    (windows, unsynced)
}

/// The parts of each checkpoint.
fn checkpoints(recording: &Recording) -> Vec<(Kind, Range<usize>)> {
    let mut windows = Vec::new();
    let mut copying: Option<&Op> = None;
    let mut copied: Option<&Op> = None;
    let mut renewed = false;
    // Before there is a log, the database is written to make it.
    let logged = recording.ops.iter().skip_while(|op| written(recording, op, LOG).is_none());
    for op in logged {
        if written(recording, op, DATABASE).is_some() {
            copying = copying.or(Some(op));
            (copied, renewed) = (None, false);
        }
        match (&op.what, copying, copied) {
            (What::SyncFile(file), Some(first), _) if recording.files[*file] == DATABASE => {
                windows.push((Kind::CheckpointCopies, first.begun + 1..op.begun + 1));
                windows.push((Kind::CheckpointSyncs, op.begun + 1..op.ended + 1));
                (copying, copied) = (None, Some(op));
            }
            (What::Write { at: 0, .. }, _, Some(_)) => {
                renewed |= written(recording, op, LOG).is_some()
            }
            (What::Ack(_), _, Some(copy)) if renewed => {
                windows.push((Kind::LogRenewed, copy.ended + 1..op.begun + 1));
                copied = None;
            }
            _ => {}
        }
    }
    windows
}
