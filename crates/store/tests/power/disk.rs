//! What a disk may hold when the power goes at a moment of a [`Recording`].
//!
//! The model:
//!
//! - What was written to a file is sure from the end of the first sync of that file that began after
//!   the write was done. `fsync` and `fdatasync` are the same here.
//! - Of what was written since, each piece of the file is as it was at some moment of its own: the disk
//!   writes when and in what order it likes. Pieces are pages of 4096 bytes or, torn, sectors of 512
//!   (a sector is whole: SQLite takes that for granted too).
//! - The file is as long as it was at some moment since. Where that is more than was sure to
//!   be there, a piece that was not written holds zeros or junk.
//! - Names are sure from the end of a sync of the directory. Until then each name is as it was
//!   at some moment of its own, whatever became of the others and of the file's content.
//! - `-shm` is never there.
//!
//! Not modelled: disks that lie about syncs (but see [`Disk::that_forgets`]), damage to
//! what was written long ago, and the directory itself, which is there from the beginning.
//!
//! Invariant: the same recording, moment and random numbers give the same files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::record::{Recording, What, overwrite};

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// A disk at a moment that only moves forward.
pub(crate) struct Disk<'a> {
    recording: &'a Recording,
    /// Whether syncs of files are obeyed.
    obeys: bool,
    /// How many operations have begun.
    begun: usize,
    /// The syncs that have begun and whose end is not reached.
    syncs: Vec<usize>,
    files: Vec<File>,
    /// The names that are sure, and the operations on names since.
    names: BTreeMap<String, usize>,
    renamed: Vec<usize>,
}

#[derive(Default)]
struct File {
    sure: Vec<u8>,
    /// The operations since, in order.
    since: Vec<usize>,
}

impl<'a> Disk<'a> {
    /// An honest one.
    pub(crate) fn new(recording: &'a Recording) -> Disk<'a> {
        Disk {
            recording,
            obeys: true,
            begun: 0,
            syncs: Vec::new(),
            files: recording.files.iter().map(|_| File::default()).collect(),
            names: BTreeMap::new(),
            renamed: Vec::new(),
        }
    }

    /// One for which no file was ever synced, as with `synchronous = OFF`. It keeps names.
    pub(crate) fn that_forgets(recording: &'a Recording) -> Disk<'a> {
        Disk { obeys: false, ..Disk::new(recording) }
    }

    /// Goes on to the moment before `moment`.
    pub(crate) fn advance(&mut self, moment: usize) {
        let recording = self.recording;
        while let Some(op) = recording.ops.get(self.begun).filter(|op| op.begun < moment) {
            match &op.what {
                What::Write { file, .. } | What::Truncate { file, .. } => {
                    self.files[*file].since.push(self.begun);
                }
                What::Create { .. } | What::Unlink { .. } => self.renamed.push(self.begun),
                What::SyncFile(_) | What::SyncDirectory => self.syncs.push(self.begun),
                What::Ack(_) | What::Nothing => {}
            }
            self.begun += 1;
        }
        let (mut done, left): (Vec<_>, Vec<_>) =
            self.syncs.drain(..).partition(|sync| recording.ops[*sync].ended < moment);
        self.syncs = left;
        done.sort_by_key(|sync| recording.ops[*sync].ended);
        for sync in done {
            self.sync(sync);
        }
    }

    fn sync(&mut self, sync: usize) {
        let ops = &self.recording.ops;
        let before = |op: &usize| ops[*op].ended < ops[sync].begun;
        match ops[sync].what {
            What::SyncFile(file) if self.obeys => {
                let file = &mut self.files[file];
                let (sure, since): (Vec<_>, Vec<_>) = file.since.drain(..).partition(before);
                file.since = since;
                for op in sure {
                    match &ops[op].what {
                        What::Write { at, data, .. } => overwrite(&mut file.sure, *at, data),
                        What::Truncate { len, .. } => file.sure.resize(*len, 0),
                        what => unreachable!("{what:?}"),
                    }
                }
            }
            What::SyncDirectory => {
                let (sure, since): (Vec<_>, Vec<_>) = self.renamed.drain(..).partition(before);
                self.renamed = since;
                for op in sure {
                    rename(&mut self.names, &ops[op].what);
                }
            }
            _ => {}
        }
    }

    /// The power goes: writes into the empty `directory` what a disk may then hold.
    pub(crate) fn cut(&self, directory: &Path, random: &mut Random) {
        for (name, file) in self.names_left(random) {
            std::fs::write(directory.join(name), self.content_left(file, random)).unwrap();
        }
    }

    fn names_left(&self, random: &mut Random) -> BTreeMap<String, usize> {
        let ops = &self.recording.ops;
        let name_of = |op: &usize| match &ops[*op].what {
            What::Create { name, .. } | What::Unlink { name } => name,
            what => unreachable!("{what:?}"),
        };
        let mut names = self.names.clone();
        let how = random.below(3);
        for name in self.renamed.iter().map(name_of).collect::<BTreeSet<_>>() {
            let of_name: Vec<usize> =
                self.renamed.iter().copied().filter(|op| name_of(op) == name).collect();
            let kept = match how {
                0 => 0,
                1 => of_name.len(),
                _ => random.below(of_name.len() + 1),
            };
            for op in &of_name[..kept] {
                rename(&mut names, &ops[*op].what);
            }
        }
        names
    }

    fn content_left(&self, file: usize, random: &mut Random) -> Vec<u8> {
        let File { sure, since } = &self.files[file];
        let ops = &self.recording.ops;
        // The length before each of the operations, and after the last.
        let mut lengths = vec![sure.len()];
        for op in since {
            let before = lengths[lengths.len() - 1];
            lengths.push(match &ops[*op].what {
                What::Write { at, data, .. } => before.max(at + data.len()),
                What::Truncate { len, .. } => *len,
                what => unreachable!("{what:?}"),
            });
        }
        let left = Left::choose(since.len(), lengths.iter().copied().max().unwrap_or(0), random);
        let mut content = sure.clone();
        content.resize(lengths.iter().copied().max().unwrap_or(0), 0);
        if random.below(2) == 0 {
            for bytes in content[sure.len()..].chunks_mut(8) {
                bytes.copy_from_slice(&random.next().to_le_bytes()[..bytes.len()]);
            }
        }
        for (n, op) in since.iter().enumerate() {
            let (from, to) = match &ops[*op].what {
                What::Write { at, data, .. } => (*at, at + data.len()),
                What::Truncate { len, .. } => (*len, content.len()),
                what => unreachable!("{what:?}"),
            };
            let mut at = from;
            while at < to {
                let end = to.min((at / SECTOR + 1) * SECTOR);
                if n < left.moment_of(at) {
                    match &ops[*op].what {
                        What::Write { data, .. } => {
                            content[at..end].copy_from_slice(&data[at - from..end - from]);
                        }
                        _ => content[at..end].fill(0),
                    }
                }
                at = end;
            }
        }
        content.truncate(lengths[left.length]);
        content
    }
}

fn rename(names: &mut BTreeMap<String, usize>, what: &What) {
    match what {
        What::Create { name, file } => drop(names.insert(name.clone(), *file)),
        What::Unlink { name } => drop(names.remove(name)),
        _ => {}
    }
}

/// How many of a file's operations since its last sync each of its pieces has seen.
struct Left {
    ops: usize,
    piece: usize,
    how: How,
    /// How many operations the length has seen.
    length: usize,
}

enum How {
    /// All pieces the same number: a disk that writes in order.
    InOrder(usize),
    /// Each piece all or nothing, by this salt.
    AllOrNothing(u64),
    /// Each piece some, by this salt.
    Some(u64),
    /// One piece this number, all others that one.
    But { piece: usize, this: usize, others: usize },
}

impl Left {
    fn choose(ops: usize, len: usize, random: &mut Random) -> Left {
        let piece = if random.below(2) == 0 { PAGE } else { SECTOR };
        let mut length = if random.below(2) == 0 { ops } else { random.below(ops + 1) };
        let how = match random.below(8) {
            n @ 0..3 => {
                length = [0, ops, random.below(ops + 1)][n];
                How::InOrder(length)
            }
            3 | 4 => How::AllOrNothing(random.next()),
            5 => How::Some(random.next()),
            n => {
                let others = if n == 6 { ops } else { 0 };
                let piece = random.below(len / piece + 1);
                How::But { piece, this: random.below(ops + 1), others }
            }
        };
        Left { ops, piece, how, length }
    }

    fn moment_of(&self, at: usize) -> usize {
        let piece = at / self.piece;
        let of_piece = |salt: u64, n: usize| Random(salt ^ (piece as u64) << 20).below(n);
        match self.how {
            How::InOrder(moment) => moment,
            How::AllOrNothing(salt) => of_piece(salt, 2) * self.ops,
            How::Some(salt) => of_piece(salt, self.ops + 1),
            How::But { piece: chosen, this, others } => {
                if piece == chosen {
                    this
                } else {
                    others
                }
            }
        }
    }
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}
