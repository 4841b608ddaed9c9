//! Answers about the past and predictions, kept by memory size.
//!
//! It asks nobody: who misses something here asks the uplink, which makes one question of many. An
//! answer about the past that reaches the present is brought up to date from what snapshots brought
//! since, when somebody asks for it. Invariant: an answer is given only if the master would give the
//! same at a snapshot that is not older than the one that the asker sees.

use bytes::Bytes;
use papertrader_core::bar::{Bar, Resolution, Window};
use papertrader_core::names::Symbol;
use papertrader_core::time::MarketTime;
use papertrader_protocol::data::Prediction;
use papertrader_protocol::request::{MAX_BARS, Request, Span};
use papertrader_protocol::wire::{Reader, Wire};
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, Weighter};

use super::{Prices, past};
use crate::counters::{Count, Outgoing};

/// Bytes of a bar in an answer.
const BAR: usize = 48;

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

    /// The market's time of an answer to it.
    fn time_of(&self, data: &[u8]) -> Option<MarketTime> {
        match self {
            Question::Bars(..) => {
                // What stands before it; the bars need not be looked at.
                let mut reader = Reader::new(data);
                Symbol::take(&mut reader).ok()?;
                Resolution::take(&mut reader).ok()?;
                i64::take(&mut reader).ok()?;
                MarketTime::take(&mut reader).ok()
            }
            Question::Predicted(..) => Some(Prediction::from_bytes(data).ok()?.market),
        }
    }
}

/// An answer of the master.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) data: Bytes,
    pub(crate) is_final: bool,
}

/// An answer, and when it is true. A final one is so for ever.
#[derive(Debug, Clone)]
struct Kept {
    answer: Answer,
    /// Which start of which master it is of.
    sequence: u64,
    market: MarketTime,
}

#[derive(Debug, Clone)]
struct BySize;

impl Weighter<Question, Kept> for BySize {
    fn weight(&self, _: &Question, kept: &Kept) -> u64 {
        // What the entry itself takes, roughly, so that many small answers count too.
        kept.answer.data.len() as u64 + 256
    }
}

/// Hands out what had to go, so that it is counted.
#[derive(Debug, Clone, Default)]
struct Leaving;

impl Lifecycle<Question, Kept> for Leaving {
    type RequestState = Vec<(Question, Kept)>;

    fn on_evict(&self, left: &mut Self::RequestState, question: Question, kept: Kept) {
        left.push((question, kept));
    }
}

/// The answers.
#[derive(Debug)]
pub(crate) struct History {
    kept: Cache<Question, Kept, BySize, DefaultHashBuilder, Leaving>,
    /// Questions that were answered from here.
    pub(crate) hits: Count,
    /// Questions that the master had to answer: whoever asks it counts.
    pub(crate) misses: Count,
    /// Answers that had to make room for others.
    pub(crate) evictions: Count,
}

impl History {
    /// Keeps about `bytes` bytes.
    pub(crate) fn new(bytes: u64) -> History {
        let items = usize::try_from(bytes / 8_192).unwrap_or(usize::MAX).clamp(16, 1 << 20);
        let kept = Cache::with(items, bytes, BySize, DefaultHashBuilder::default(), Leaving);
        let (hits, misses, evictions) = (Count::default(), Count::default(), Count::default());
        History { kept, hits, misses, evictions }
    }

    /// The answer, if it is here and true for `prices`, or can be made so.
    pub(crate) fn get(
        &self,
        question: &Question,
        prices: &Prices,
        outgoing: &Outgoing,
    ) -> Option<Answer> {
        let kept = self.kept.get(question)?;
        if !kept.answer.is_final {
            let fresh = fresh(question, &kept, prices, outgoing)?;
            if fresh.market > kept.market {
                self.put(*question, fresh.clone());
            }
            self.hits.add_one();
            return Some(fresh.answer);
        }
        self.hits.add_one();
        Some(kept.answer)
    }

    /// Takes an answer of the master: brings it up to date if that can be, and keeps it if it is true
    /// for `prices`. The market's time at which it is true; the last there is if it always is.
    pub(crate) fn take(
        &self,
        question: &Question,
        answer: Answer,
        prices: &Prices,
        outgoing: &Outgoing,
    ) -> (Answer, MarketTime) {
        let sequence = prices.have().sequence;
        if answer.is_final {
            let market = MarketTime(i64::MAX);
            self.put(*question, Kept { answer: answer.clone(), sequence, market });
            return (answer, market);
        }
        // What cannot be read is passed on, and not kept.
        let Some(market) = question.time_of(&answer.data) else {
            return (answer, MarketTime(i64::MAX));
        };
        let told = Kept { answer, sequence, market };
        match fresh(question, &told, prices, outgoing) {
            Some(fresh) => {
                self.put(*question, fresh.clone());
                (fresh.answer, fresh.market)
            }
            None => (told.answer, told.market),
        }
    }

    fn put(&self, question: Question, kept: Kept) {
        let mut left = Vec::new();
        self.kept.insert_with_lifecycle(question, kept, &mut left);
        // What it replaces has not left.
        for _ in left.iter().filter(|(of, _)| *of != question) {
            self.evictions.add_one();
        }
    }

    /// Bytes of memory that the answers take.
    pub(crate) fn bytes(&self) -> u64 {
        self.kept.weight()
    }

    /// Forgets everything: it belongs to another deployment.
    pub(crate) fn clear(&self) {
        self.kept.clear();
    }
}

/// An answer as the master gives it at `prices`, or at a later snapshot; `None` if that is not known.
fn fresh(question: &Question, kept: &Kept, prices: &Prices, outgoing: &Outgoing) -> Option<Kept> {
    let sequence = prices.have().sequence;
    if kept.sequence != sequence {
        return None;
    }
    if kept.market >= prices.market {
        return Some(kept.clone());
    }
    // A prediction rests on the last price, and is another one at each snapshot.
    let Question::Bars(symbol, span) = question else { return None };
    let window = span.window();
    let new = prices.since(*symbol, kept.market)?;
    let data = outgoing.share(extended(&kept.answer.data, &window, new, prices.market)?);
    // Bars of days that are over never change.
    let is_final = window.to <= prices.market.day_start();
    Some(Kept { answer: Answer { data, is_final }, sequence, market: prices.market })
}

/// The data of `Bars` at a later market time. Only its end is looked at: there may be many bars.
fn extended<'a>(
    data: &[u8],
    window: &Window,
    new: impl Iterator<Item = &'a Bar>,
    market: MarketTime,
) -> Option<Vec<u8>> {
    let mut reader = Reader::new(data);
    let at = |reader: &Reader<'_>| data.len() - reader.left();
    Symbol::take(&mut reader).ok()?;
    Resolution::take(&mut reader).ok()?;
    i64::take(&mut reader).ok()?;
    let market_at = at(&reader);
    MarketTime::take(&mut reader).ok()?;
    String::take(&mut reader).ok()?;
    let count_at = at(&reader);
    let count = u32::take(&mut reader).ok()? as usize;
    if count.checked_mul(BAR)? != reader.left() {
        return None;
    }
    // The last bar, and what follows it.
    let mut end = Vec::new();
    let kept = data.len().checked_sub(BAR.min(reader.left()))?;
    if count > 0 {
        end.push(Bar::from_bytes(data.get(kept..)?).ok()?);
    }
    new.for_each(|bar| past::extend(&mut end, window, bar));
    let count = count.saturating_sub(1) + end.len();
    if count > MAX_BARS {
        return None;
    }
    let mut extended = Vec::with_capacity(kept + end.len() * BAR);
    extended.extend_from_slice(data.get(..kept)?);
    end.iter().for_each(|bar| bar.put(&mut extended));
    let count = (count as u32).to_bytes();
    extended.get_mut(market_at..market_at + 8)?.copy_from_slice(&market.to_bytes());
    extended.get_mut(count_at..count_at + 4)?.copy_from_slice(&count);
    Some(extended)
}

#[cfg(test)]
mod tests {
    use papertrader_core::money::{Price, Volume};
    use papertrader_core::time::{DAY, SECOND};
    use papertrader_protocol::data::{AssetKind, Bars};
    use papertrader_protocol::link::LinkInstrument;
    use papertrader_protocol::push::{
        Gaps, PackedStep, PackedTick, SnapshotPush, SnapshotStep, predicted,
    };

    use super::*;
    use crate::cache::Setting;

    const SEQUENCE: u64 = 3;

    fn symbol() -> Symbol {
        "AAPL".parse().unwrap()
    }

    fn predicted_question(n: u32) -> Question {
        Question::Predicted(symbol(), n)
    }

    fn all_time() -> Question {
        Question::Bars(symbol(), Span::AllTime)
    }

    fn answer(data: Vec<u8>, is_final: bool) -> Answer {
        Answer { data: Bytes::from(data), is_final }
    }

    fn bar(start: MarketTime, raw: i64) -> Bar {
        let price = Price::from_raw(raw).unwrap();
        let volume = Volume::from_raw(1);
        Bar { start, open: price, high: price, low: price, close: price, volume }
    }

    fn bars(market: MarketTime, bars: Vec<Bar>) -> Bars {
        let (symbol, resolution, interval) = (symbol(), Resolution::Month, SECOND);
        Bars { symbol, resolution, interval, market, source: "test".into(), bars }
    }

    /// The first snapshot, of some market time.
    fn first(market: MarketTime) -> Prices {
        let instruments = vec![LinkInstrument {
            id: 1,
            symbol: symbol(),
            name: String::new(),
            kind: AssetKind::Stock,
        }];
        let ticks = [predicted(1, None, &bar(market, 5), market)];
        let push = SnapshotPush {
            sequence: SEQUENCE,
            number: 1,
            base: 0,
            market,
            ended: false,
            list: 1,
            instruments,
            ticks: PackedTick::all(ticks.iter(), market),
        };
        Prices::pushed(push, None, Setting { source: "test", room: 1 << 20 }).unwrap()
    }

    /// The next one, a second later, at this price.
    fn next(prices: &Prices, raw: i64, watch: &[Symbol]) -> Prices {
        let market = prices.market.plus_nanos(SECOND);
        let base = prices.have().number;
        let new = bar(prices.market, raw);
        let times = (prices.market, market);
        let old = prices.ticks[0].as_ref();
        let now = predicted(1, old, &new, market);
        let steps = vec![PackedStep::of(Gaps::default().before(1), old, &now, Some(&new), times)];
        let (sequence, number, ended) = (SEQUENCE, base + 1, false);
        let step = SnapshotStep { sequence, number, base, market, ended, steps };
        prices.stepped(&step, watch).unwrap()
    }

    #[test]
    fn a_window_that_reaches_the_present_is_brought_up_to_date() {
        let (history, outgoing) = (History::new(1 << 20), Outgoing::new(0));
        let start = MarketTime(31 * DAY - 2 * SECOND);
        let one = first(start);
        let month = Resolution::Month.start_of(start);
        let told = answer(bars(start, vec![bar(month, 5)]).to_bytes(), false);
        let (same, market) = history.take(&all_time(), told.clone(), &one, &outgoing);
        assert_eq!((same.data, market), (told.data, start));
        // Two more of this month, and one of the next.
        let two = next(&one, 7, &[symbol()]);
        let three = next(&two, 3, &[]);
        let four = next(&three, 4, &[]);
        let got = history.get(&all_time(), &four, &outgoing).unwrap();
        let january = Bar {
            high: Price::from_raw(7).unwrap(),
            low: Price::from_raw(3).unwrap(),
            close: Price::from_raw(3).unwrap(),
            volume: Volume::from_raw(3),
            ..bar(month, 5)
        };
        let expected = bars(four.market, vec![january, bar(MarketTime(31 * DAY), 4)]);
        assert_eq!(Bars::from_bytes(&got.data), Ok(expected));
        assert!(!got.is_final);
        // It is kept as it is now; what sees an older snapshot gets nothing older.
        let again = history.get(&all_time(), &two, &outgoing).unwrap();
        assert_eq!(again.data, got.data);
        assert_eq!((history.hits.get(), history.evictions.get()), (2, 0));
    }

    #[test]
    fn an_answer_becomes_final_when_its_days_are_over() {
        let (history, outgoing) = (History::new(1 << 20), Outgoing::new(0));
        let start = MarketTime(DAY - SECOND);
        let one = first(start);
        let day =
            Question::Bars(symbol(), Span::Bars(Resolution::Day, MarketTime(0), MarketTime(DAY)));
        let told = answer(bars(start, vec![bar(MarketTime(0), 5)]).to_bytes(), false);
        history.take(&day, told, &one, &outgoing);
        let two = next(&one, 6, &[symbol()]);
        let got = history.get(&day, &two, &outgoing).unwrap();
        assert!(got.is_final);
        let three = next(&two, 7, &[]);
        assert_eq!(history.get(&day, &three, &outgoing).unwrap().data, got.data);
    }

    #[test]
    fn what_cannot_be_brought_up_to_date_is_not_given() {
        let (history, outgoing) = (History::new(1 << 20), Outgoing::new(0));
        let start = MarketTime(DAY);
        let one = first(start);
        let told = answer(bars(start, vec![]).to_bytes(), false);
        history.take(&all_time(), told, &one, &outgoing);
        let forecast = Prediction {
            symbol: symbol(),
            model: String::new(),
            based_on: 1,
            confidence: 1,
            last: Price::from_raw(1).unwrap(),
            market: start,
            values: vec![],
        };
        let told = answer(forecast.to_bytes(), false);
        history.take(&predicted_question(5), told, &one, &outgoing);
        assert!(history.get(&predicted_question(5), &one, &outgoing).is_some());
        let unwatched = next(&one, 6, &[]);
        assert!(history.get(&all_time(), &unwatched, &outgoing).is_none());
        let watched = next(&one, 6, &[symbol()]);
        assert!(history.get(&all_time(), &watched, &outgoing).is_some());
        assert!(history.get(&predicted_question(5), &watched, &outgoing).is_none());
        // What cannot be read is passed on and not kept, unless it is final.
        let (passed, market) =
            history.take(&predicted_question(6), answer(vec![1], false), &one, &outgoing);
        assert_eq!((&passed.data[..], market), (&[1][..], MarketTime(i64::MAX)));
        assert!(history.get(&predicted_question(6), &one, &outgoing).is_none());
        history.take(&predicted_question(6), answer(vec![1], true), &one, &outgoing);
        assert!(history.get(&predicted_question(6), &watched, &outgoing).is_some());
    }

    #[test]
    fn memory_is_bounded_and_what_goes_is_counted() {
        let (history, outgoing, prices) =
            (History::new(100_000), Outgoing::new(0), first(MarketTime(1)));
        for n in 0..1_000 {
            history.take(&predicted_question(n), answer(vec![0; 1_000], true), &prices, &outgoing);
        }
        assert!(history.bytes() <= 100_000);
        let here = (0..1_000)
            .filter(|n| history.get(&predicted_question(*n), &prices, &outgoing).is_some())
            .count() as u64;
        assert_eq!(history.evictions.get(), 1_000 - here);
        // What is replaced has not gone.
        history.take(&predicted_question(999), answer(vec![0; 1_000], true), &prices, &outgoing);
        history.clear();
        assert_eq!(history.evictions.get(), 1_000 - here);
    }
}
