//! The queue in front of a few threads, in which each worker has a line of its own.
//!
//! The lines take turns, so that a worker's job waits for one of each other worker's, not for all of
//! them. When all places are taken, whoever has the longest line gives its latest job up for
//! somebody with a shorter one; the caller says `busy` to whoever has none left.
//!
//! Invariant: at most so many jobs wait as there are places, and no worker is without a place while
//! another has more than its part.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use papertrader_core::ids::WorkerId;

/// The lines of all workers.
pub(crate) struct Lines<T> {
    waiting: Mutex<Waiting<T>>,
    more: Condvar,
    places: usize,
}

struct Waiting<T> {
    /// Those in which somebody waits; whose turn is next comes first.
    lines: VecDeque<(WorkerId, VecDeque<T>)>,
    count: usize,
    is_closed: bool,
}

impl<T> Lines<T> {
    /// With so many places, at least one.
    pub(crate) fn new(places: usize) -> Lines<T> {
        let waiting = Waiting { lines: VecDeque::new(), count: 0, is_closed: false };
        Lines { waiting: Mutex::new(waiting), more: Condvar::new(), places: places.max(1) }
    }

    /// Adds a worker's job. Returns the job that has no place: this one, or the latest of another
    /// worker.
    pub(crate) fn add(&self, worker: WorkerId, job: T) -> Option<T> {
        let mut waiting = self.lock();
        let mut left = None;
        if waiting.count >= self.places {
            let own = waiting.lines.iter().find(|(of, _)| *of == worker);
            let own = own.map_or(0, |(_, line)| line.len());
            let longest = waiting.lines.iter_mut().max_by_key(|(_, line)| line.len());
            match longest.filter(|(_, line)| line.len() > own + 1) {
                // Its line is not empty by this: it is at least two long.
                Some((_, line)) => left = line.pop_back(),
                None => return Some(job),
            }
            waiting.count -= 1;
        }
        match waiting.lines.iter_mut().find(|(of, _)| *of == worker) {
            Some((_, line)) => line.push_back(job),
            None => waiting.lines.push_back((worker, VecDeque::from([job]))),
        }
        waiting.count += 1;
        drop(waiting);
        self.more.notify_one();
        left
    }

    /// Waits for the next job; `None` once the lines are closed.
    pub(crate) fn next(&self) -> Option<T> {
        let mut waiting = self.lock();
        loop {
            if waiting.is_closed {
                return None;
            }
            if let Some((worker, mut line)) = waiting.lines.pop_front() {
                let job = line.pop_front();
                if !line.is_empty() {
                    waiting.lines.push_back((worker, line));
                }
                if job.is_some() {
                    waiting.count -= 1;
                    return job;
                }
                continue;
            }
            waiting = self.more.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the waiting: what is in the lines is not done any more.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.more.notify_all();
    }

    /// The critical sections only move values: a panic cannot leave them half done.
    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(byte: u8) -> WorkerId {
        WorkerId([byte; 16])
    }

    fn drained(lines: &Lines<&'static str>, count: usize) -> Vec<&'static str> {
        (0..count).map(|_| lines.next().unwrap()).collect()
    }

    #[test]
    fn workers_take_turns_and_each_line_keeps_its_order() {
        let lines = Lines::new(10);
        for (of, job) in [(1, "a1"), (1, "a2"), (1, "a3"), (2, "b1"), (3, "c1"), (2, "b2")] {
            assert_eq!(lines.add(worker(of), job), None);
        }
        assert_eq!(drained(&lines, 2), ["a1", "b1"]);
        assert_eq!(lines.add(worker(4), "d1"), None);
        assert_eq!(drained(&lines, 5), ["c1", "a2", "b2", "d1", "a3"]);
    }

    #[test]
    fn one_alone_has_all_places_and_others_find_theirs_all_the_same() {
        let lines = Lines::new(4);
        for job in ["a1", "a2", "a3", "a4"] {
            assert_eq!(lines.add(worker(1), job), None);
        }
        assert_eq!(lines.add(worker(1), "a5"), Some("a5"));
        // The latest of the longest line gives way.
        assert_eq!(lines.add(worker(2), "b1"), Some("a4"));
        assert_eq!(lines.add(worker(2), "b2"), Some("a3"));
        // Equals have equal parts, and none gives way to another.
        assert_eq!(lines.add(worker(2), "b3"), Some("b3"));
        assert_eq!(lines.add(worker(3), "c1"), Some("b2"));
        assert_eq!(lines.add(worker(3), "c2"), Some("c2"));
        assert_eq!(drained(&lines, 4), ["a1", "b1", "c1", "a2"]);
        // There is room again.
        assert_eq!(lines.add(worker(1), "a6"), None);
        assert_eq!(drained(&lines, 1), ["a6"]);
    }

    #[test]
    fn who_waits_is_woken_by_a_job_and_by_the_end() {
        let lines = Lines::new(1);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| (lines.next(), lines.next()));
            lines.add(worker(1), "job");
            let second = scope.spawn(|| lines.next());
            // The one job is taken by either.
            lines.close();
            let ((first, then), other) = (waiting.join().unwrap(), second.join().unwrap());
            assert_eq!(then, None);
            assert!([first, other].iter().flatten().count() <= 1);
        });
        assert_eq!(lines.next(), None);
    }
}
