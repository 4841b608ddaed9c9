//! Answers about the past and predictions, kept by memory size.
//!
//! It asks nobody: who misses something here asks the uplink, which makes one question of many.
//! Invariant: an answer that can change is given only while the snapshot at which it was asked for
//! is still the last one.

use bytes::Bytes;
use papertrader_core::names::Symbol;
use papertrader_protocol::request::{Request, Span};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::counters::Count;

/// What can be asked about the past of an asset, or about its future.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Question {
    Bars(Symbol, Span),
    Predicted(Symbol, u32),
}

impl Question {
    /// The question of a request, if it is one of these.
    pub(crate) fn of(request: &Request) -> Option<Question> {
        match request {
            Request::Bars(symbol, span) => Some(Question::Bars(*symbol, *span)),
            Request::Predicted(symbol, days) => Some(Question::Predicted(*symbol, *days)),
            _ => None,
        }
    }

    pub(crate) fn symbol(&self) -> Symbol {
        match self {
            Question::Bars(symbol, _) | Question::Predicted(symbol, _) => *symbol,
        }
    }
}

/// An answer of the master.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) data: Bytes,
    pub(crate) is_final: bool,
}

#[derive(Debug, Clone)]
struct Kept {
    answer: Answer,
    generation: u64,
}

#[derive(Debug, Clone)]
struct BySize;

impl Weighter<Question, Kept> for BySize {
    fn weight(&self, _: &Question, kept: &Kept) -> u64 {
        // What the entry itself takes, roughly, so that many small answers count too.
        kept.answer.data.len() as u64 + 256
    }
}

/// The answers.
#[derive(Debug)]
pub(crate) struct History {
    kept: Cache<Question, Kept, BySize>,
    /// Questions that were answered from here.
    pub(crate) hits: Count,
    /// Questions that the master had to answer: whoever asks it counts.
    pub(crate) misses: Count,
}

impl History {
    /// Keeps about `bytes` bytes.
    pub(crate) fn new(bytes: u64) -> History {
        let items = usize::try_from(bytes / 8_192).unwrap_or(usize::MAX).clamp(16, 1 << 20);
        let kept = Cache::with_weighter(items, bytes, BySize);
        History { kept, hits: Count::default(), misses: Count::default() }
    }

    /// The answer, if it is here and true for the snapshot `generation`.
    pub(crate) fn get(&self, question: &Question, generation: u64) -> Option<Answer> {
        let kept = self.kept.get(question)?;
        let is_true = kept.answer.is_final || kept.generation == generation;
        is_true.then(|| {
            self.hits.add_one();
            kept.answer
        })
    }

    /// Bytes of memory that the answers take.
    pub(crate) fn bytes(&self) -> u64 {
        self.kept.weight()
    }

    /// Keeps an answer that was asked for at snapshot `asked`, if it is still true at `now`.
    pub(crate) fn keep(&self, question: Question, answer: Answer, asked: u64, now: u64) {
        if answer.is_final || asked == now {
            self.kept.insert(question, Kept { answer, generation: asked });
        }
    }

    /// Forgets everything: it belongs to another deployment.
    pub(crate) fn clear(&self) {
        self.kept.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(n: u32) -> Question {
        Question::Predicted("AAPL".parse().unwrap(), n)
    }

    fn answer(size: usize, is_final: bool) -> Answer {
        Answer { data: Bytes::from(vec![0; size]), is_final }
    }

    #[test]
    fn what_can_change_is_true_for_one_snapshot() {
        let history = History::new(1 << 20);
        history.keep(question(1), answer(1, true), 4, 5);
        history.keep(question(2), answer(1, false), 5, 5);
        // The snapshot went on between question and answer.
        history.keep(question(3), answer(1, false), 4, 5);
        assert!(history.get(&question(1), 9).is_some());
        assert!(history.get(&question(2), 5).is_some());
        assert!(history.get(&question(2), 6).is_none());
        assert!(history.get(&question(3), 5).is_none());
        assert!(history.get(&question(3), 4).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let history = History::new(100_000);
        for n in 0..1_000 {
            history.keep(question(n), answer(1_000, true), 1, 1);
        }
        assert!(history.bytes() <= 100_000);
        assert!(history.get(&question(999), 1).is_some());
    }
}
