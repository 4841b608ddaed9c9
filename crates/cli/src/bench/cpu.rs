//! How much processor time a process has used, in all and by the names of its threads.
//!
//! Linux only: elsewhere nothing is known. Threads that have ended count for their process alone.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::deployment::Deployment;

/// Ticks in a second, as Linux says them to programs on all machines that this runs on.
const TICKS: f64 = 100.0;

/// What was used, in seconds.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Used {
    pub(super) seconds: f64,
    pub(super) threads: BTreeMap<String, f64>,
}

impl Used {
    /// By a process since it started.
    pub(super) fn by(process: u32) -> Option<Used> {
        let home = Path::new("/proc").join(process.to_string());
        let (_, seconds) = stat(&home)?;
        let mut threads = BTreeMap::new();
        for thread in std::fs::read_dir(home.join("task")).ok()?.flatten() {
            if let Some((name, seconds)) = stat(&thread.path()) {
                *threads.entry(name).or_default() += seconds;
            }
        }
        Some(Used { seconds, threads })
    }

    /// What was used since `before`, threads of some weight only.
    pub(super) fn since(mut self, before: &Used) -> Used {
        self.seconds -= before.seconds;
        for (name, seconds) in &mut self.threads {
            *seconds -= before.threads.get(name).copied().unwrap_or(0.0);
        }
        self.threads.retain(|_, seconds| *seconds >= 0.05);
        self
    }
}

/// Seconds of processor time.
#[derive(Debug, Serialize)]
pub(super) struct Processors {
    pub(super) master: Used,
    pub(super) worker: Used,
    pub(super) load: Used,
}

impl Processors {
    /// By the servers, and by this program, which is the load.
    pub(super) fn used(deployment: &Deployment) -> Option<Processors> {
        Some(Processors {
            master: Used::by(deployment.master_process)?,
            worker: Used::by(deployment.worker_process)?,
            load: Used::by(std::process::id())?,
        })
    }

    pub(super) fn since(self, before: &Processors) -> Processors {
        Processors {
            master: self.master.since(&before.master),
            worker: self.worker.since(&before.worker),
            load: self.load.since(&before.load),
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (name, used) in
            [("master", &self.master), ("worker", &self.worker), ("load", &self.load)]
        {
            text += &format!("  processor, {name}: {:.2} s", used.seconds);
            let mut threads: Vec<_> = used.threads.iter().collect();
            threads.sort_by(|a, b| b.1.total_cmp(a.1));
            let threads = threads.iter().map(|(name, time)| format!("{name} {time:.2}"));
            text += &format!(" ({})\n", threads.collect::<Vec<_>>().join(", "));
        }
        text
    }
}

/// The name and the seconds in the file `stat` of a process or thread.
fn stat(home: &Path) -> Option<(String, f64)> {
    parse(&std::fs::read_to_string(home.join("stat")).ok()?)
}

fn parse(text: &str) -> Option<(String, f64)> {
    // The name stands in brackets and may hold anything, brackets too.
    let (start, rest) = text.rsplit_once(") ")?;
    let (_, name) = start.split_once(" (")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((name.to_owned(), (user + system) as f64 / TICKS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_brackets() {
        let text = "7 (a) b (c)) S 1 7 7 0 -1 4194560 10 0 0 0 150 25 0 0 20 0 1 0 5 1000 20";
        assert_eq!(parse(text), Some(("a) b (c)".to_owned(), 1.75)));
        assert_eq!(parse("7 (a"), None);
    }
}
