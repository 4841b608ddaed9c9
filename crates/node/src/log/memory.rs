//! The entries in memory, and their way to the file.
//!
//! It does not format fields and knows nothing of `tracing`. Invariants: at most the configured
//! number of entries is held, whatever the disk does (specification 2.3.3, 3.1.4); with a file,
//! every entry is in the file, is still to be written, or is counted as lost.

use std::collections::VecDeque;
use std::io;

use super::entry::{LogEntry, now};
use super::file::LogFile;

/// The newest entries. The last `unwritten` of them are not in the file yet.
#[derive(Debug)]
pub(super) struct Memory {
    entries: VecDeque<LogEntry>,
    unwritten: usize,
    limit: usize,
    file: Option<LogFile>,
    /// Entries that were dropped since the file was last written.
    lost: u64,
    lost_in_all: u64,
    failing: bool,
}

impl Memory {
    /// Empty; `limit` is at least 1.
    pub(super) fn new(limit: usize, file: Option<LogFile>) -> Memory {
        let limit = limit.max(1);
        let entries = VecDeque::new();
        Memory { entries, unwritten: 0, limit, file, lost: 0, lost_in_all: 0, failing: false }
    }

    /// Takes an entry. When that fills the memory, everything goes to the file; if the disk
    /// refuses, it is counted as lost, since nobody may wait for a disk and memory may not grow.
    pub(super) fn push(&mut self, entry: LogEntry) {
        if self.entries.len() >= self.limit {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
        if self.file.is_none() {
            return;
        }
        self.unwritten += 1;
        if self.unwritten >= self.limit && self.write().is_err() {
            self.lost += self.unwritten as u64;
            self.lost_in_all += self.unwritten as u64;
            self.unwritten = 0;
        }
    }

    /// Writes what is not in the file yet, in one write. What the disk refuses stays in memory.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if self.unwritten == 0 && self.lost == 0 {
            return Ok(());
        }
        let mut batch = String::new();
        if self.lost > 0 {
            about_lost(self.lost).write_line(&mut batch);
        }
        for entry in self.entries.iter().skip(self.entries.len() - self.unwritten) {
            entry.write_line(&mut batch);
        }
        let written = file.append(batch.as_bytes());
        match &written {
            Ok(()) => {
                self.unwritten = 0;
                self.lost = 0;
                self.failing = false;
            }
            Err(error) if !self.failing => {
                self.failing = true;
                super::complain(&format!(
                    "the log file {} cannot be written, entries will be lost: {error}",
                    file.path().display()
                ));
            }
            Err(_) => {}
        }
        written
    }

    /// The last `count` entries, oldest first, written or not.
    pub(super) fn recent(&self, count: usize) -> Vec<LogEntry> {
        self.entries.iter().skip(self.entries.len().saturating_sub(count)).cloned().collect()
    }

    /// How many entries were lost since the start.
    pub(super) fn lost_in_all(&self) -> u64 {
        self.lost_in_all
    }
}

fn about_lost(count: u64) -> LogEntry {
    LogEntry {
        at: now(),
        level: tracing::Level::WARN,
        target: module_path!().into(),
        file: Some(file!().into()),
        function: crate::function!().into(),
        line: Some(line!()),
        message: "entries before this one were lost: the log file could not be written".into(),
        fields: vec![("lost".into(), count.to_string())],
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::entry::tests::entry;
    use super::*;
    use proptest::prelude::*;

    fn memory(limit: usize, path: &Path) -> Memory {
        Memory::new(limit, Some(LogFile::open(path.to_owned(), 0, 1).unwrap()))
    }

    fn lines(path: &Path) -> Vec<String> {
        fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn full_memory_goes_to_the_file_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut memory = memory(3, &path);
        memory.push(entry("a"));
        memory.push(entry("b"));
        assert_eq!(lines(&path).len(), 0);
        memory.push(entry("c"));
        assert_eq!(lines(&path).len(), 3);
        memory.push(entry("d"));
        assert_eq!(lines(&path).len(), 3);
        let recent: Vec<_> = memory.recent(2).into_iter().map(|entry| entry.message).collect();
        assert_eq!(recent, ["c", "d"]);
        assert_eq!(memory.recent(99).len(), 3);
    }

    #[test]
    fn a_failing_disk_costs_entries_and_says_how_many() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        let path = inner.join("log");
        fs::create_dir(&inner).unwrap();
        let mut memory = memory(2, &path);
        fs::remove_dir_all(&inner).unwrap();
        for message in ["a", "b", "c", "d", "e"] {
            memory.push(entry(message));
        }
        memory.write().unwrap_err();
        assert_eq!(memory.lost_in_all(), 4, "`e` may still be written");
        fs::create_dir(&inner).unwrap();
        memory.write().unwrap();
        memory.write().unwrap();
        let lines = lines(&path);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains(" WARN ") && lines[0].ends_with(" lost=4"), "{lines:?}");
        assert!(lines[1].ends_with(" e"), "{lines:?}");
    }

    #[test]
    fn without_a_file_the_oldest_go_and_none_counts_as_lost() {
        let mut memory = Memory::new(2, None);
        for message in ["a", "b", "c"] {
            memory.push(entry(message));
        }
        memory.write().unwrap();
        let recent: Vec<_> = memory.recent(9).into_iter().map(|entry| entry.message).collect();
        assert_eq!(recent, ["b", "c"]);
        assert_eq!(memory.lost_in_all(), 0);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push,
        Flush,
        Break,
        Mend,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => Just(Step::Push),
            1 => Just(Step::Flush),
            1 => Just(Step::Break),
            1 => Just(Step::Mend),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn memory_never_exceeds_its_size_and_no_entry_is_unaccounted_for(
            limit in 1usize..8,
            steps in prop::collection::vec(step(), 0..80),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let (inner, away) = (dir.path().join("inner"), dir.path().join("away"));
            let path = inner.join("log");
            fs::create_dir(&inner).unwrap();
            let mut memory = memory(limit, &path);
            let mut pushed = 0u64;
            for step in steps {
                match step {
                    Step::Push => {
                        memory.push(entry(&format!("number {pushed}")));
                        pushed += 1;
                    }
                    Step::Flush => { let _ = memory.write(); }
                    Step::Break => if inner.exists() { fs::rename(&inner, &away).unwrap(); }
                    Step::Mend => if away.exists() { fs::rename(&away, &inner).unwrap(); }
                }
                prop_assert!(memory.entries.len() <= limit);
                prop_assert!(memory.unwritten <= memory.entries.len());
            }
            if away.exists() {
                fs::rename(&away, &inner).unwrap();
            }
            memory.write().unwrap();
            let lines = lines(&path);
            let numbers: Vec<u64> = lines
                .iter()
                .filter_map(|line| line.rsplit_once(" number ")?.1.parse().ok())
                .collect();
            let told: u64 = lines
                .iter()
                .filter_map(|line| line.rsplit_once(" lost=")?.1.parse::<u64>().ok())
                .sum();
            prop_assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
            prop_assert_eq!(numbers.len() as u64 + memory.lost_in_all(), pushed);
            prop_assert_eq!(told, memory.lost_in_all());
        }
    }
}
