//! The bars that the last snapshots brought, by which answers about the past are brought up to date.
//!
//! Only of instruments whose past somebody asked for, and no more bytes than there is room for: the
//! oldest go first. A [`Past`] never changes; the next one shares what both hold.
//!
//! Invariant: of a watched instrument no bar is missing between a time that [`Past::since`] takes and
//! the present.

use std::collections::VecDeque;
use std::sync::Arc;

use papertrader_core::bar::{Bar, Resolution, Window};
use papertrader_core::time::MarketTime;
use rustc_hash::FxHashMap;

/// Snapshots that are kept at most: each new one shares all before it.
const MAX_STEPS: usize = 4_096;

/// What the last snapshots brought.
#[derive(Debug, Clone)]
pub(super) struct Past {
    /// What was before is not known.
    floor: MarketTime,
    /// Instruments whose bars are kept, by their place in the list, and what was before not.
    watched: Arc<FxHashMap<usize, MarketTime>>,
    steps: VecDeque<Arc<Step>>,
    bytes: usize,
    room: usize,
}

#[derive(Debug)]
struct Step {
    market: MarketTime,
    /// By ascending place.
    bars: Vec<(usize, Bar)>,
}

impl Step {
    fn bytes(&self) -> usize {
        size_of::<Step>() + self.bars.capacity() * size_of::<(usize, Bar)>()
    }

    fn find(&self, place: usize) -> Option<&Bar> {
        let at = self.bars.binary_search_by_key(&place, |(of, _)| *of).ok()?;
        self.bars.get(at).map(|(_, bar)| bar)
    }
}

impl Past {
    /// Begins at a market time, with room for so many bytes.
    pub(super) fn from(floor: MarketTime, room: usize) -> Past {
        Past { floor, watched: Arc::default(), steps: VecDeque::new(), bytes: 0, room }
    }

    /// The same instruments, without what the snapshots up to a market time brought.
    pub(super) fn cut(&self, floor: MarketTime) -> Past {
        let watched = Arc::clone(&self.watched);
        Past { floor, watched, steps: VecDeque::new(), bytes: 0, room: self.room }
    }

    /// Whether the bars of an instrument are kept.
    pub(super) fn watches(&self, place: usize) -> bool {
        self.watched.contains_key(&place)
    }

    /// With the bars of more instruments from now on.
    pub(super) fn watching(&self, more: &[usize], now: MarketTime) -> Past {
        let mut with = self.clone();
        if more.iter().any(|place| !self.watches(*place)) {
            let watched = Arc::make_mut(&mut with.watched);
            for place in more {
                watched.entry(*place).or_insert(now);
            }
        }
        with
    }

    /// With what one more snapshot brought to those that are watched.
    pub(super) fn with(mut self, market: MarketTime, mut bars: Vec<(usize, Bar)>) -> Past {
        bars.sort_unstable_by_key(|(place, _)| *place);
        bars.shrink_to_fit();
        let step = Step { market, bars };
        self.bytes += step.bytes();
        self.steps.push_back(Arc::new(step));
        while self.bytes > self.room || self.steps.len() > MAX_STEPS {
            let Some(oldest) = self.steps.pop_front() else { break };
            self.bytes -= oldest.bytes();
            self.floor = oldest.market;
        }
        self
    }

    /// What came to an instrument after a market time; `None` if that is not known.
    pub(super) fn since(
        &self,
        place: usize,
        market: MarketTime,
    ) -> Option<impl Iterator<Item = &Bar>> {
        let known = *self.watched.get(&place)?;
        if market < known.max(self.floor) {
            return None;
        }
        let first = self.steps.partition_point(|step| step.market <= market);
        Some(self.steps.range(first..).filter_map(move |step| step.find(place)))
    }
}

/// Extends the bars that a window holds by a new one, as the master does.
pub(super) fn extend(bars: &mut Vec<Bar>, window: &Window, new: &Bar) {
    let start = window.resolution.start_of(new.start);
    // The last month is made of the days that start before the end; other bars are whole.
    let within = match window.resolution {
        Resolution::Month => new.start.day_start(),
        _ => start,
    };
    if start < window.from || within >= window.to {
        return;
    }
    match bars.last_mut() {
        Some(last) if last.start == start => *last = last.merged(new),
        _ => bars.push(Bar { start, ..*new }),
    }
}

#[cfg(test)]
mod tests {
    use papertrader_core::money::{Price, Volume};

    use super::*;

    fn bar(start: i64) -> Bar {
        let price = Price::from_raw(start + 1).unwrap();
        let (volume, start) = (Volume::from_units(1), MarketTime(start));
        Bar { start, open: price, high: price, low: price, close: price, volume }
    }

    fn starts(past: &Past, place: usize, market: i64) -> Option<Vec<i64>> {
        let bars = past.since(place, MarketTime(market))?;
        Some(bars.map(|bar| bar.start.0).collect())
    }

    #[test]
    fn what_is_watched_is_known_from_then_on() {
        let past = Past::from(MarketTime(10), 1 << 20).watching(&[5], MarketTime(10));
        assert_eq!(starts(&past, 5, 10), Some(vec![]));
        let past = past.with(MarketTime(20), vec![(5, bar(10))]);
        let past = past.watching(&[5, 3], MarketTime(20));
        let past = past.with(MarketTime(30), vec![(5, bar(20)), (3, bar(20))]);
        let past = past.with(MarketTime(40), vec![(3, bar(30))]);
        assert_eq!(starts(&past, 5, 10), Some(vec![10, 20]));
        assert_eq!(starts(&past, 5, 20), Some(vec![20]));
        assert_eq!(starts(&past, 3, 20), Some(vec![20, 30]));
        assert_eq!(starts(&past, 3, 40), Some(vec![]));
        assert_eq!(starts(&past, 3, 19), None, "before it was watched");
        assert_eq!(starts(&past, 5, 9), None, "before the beginning");
        assert_eq!(starts(&past, 4, 40), None, "it is not watched");
        let cut = past.cut(MarketTime(50));
        assert_eq!(starts(&cut, 5, 40), None);
        assert_eq!(starts(&cut, 5, 50), Some(vec![]));
    }

    #[test]
    fn the_oldest_make_room() {
        let mut past = Past::from(MarketTime(0), 10_000).watching(&[1], MarketTime(0));
        for n in 0..1_000 {
            past = past.with(MarketTime(n + 1), vec![(1, bar(n))]);
            assert!(past.bytes <= 10_000);
        }
        assert_eq!(starts(&past, 1, 500), None);
        assert_eq!(starts(&past, 1, 990), Some((990..1_000).collect()));
    }
}
