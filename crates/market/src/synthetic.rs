//! Any number of made-up instruments that trade around the clock and never end.
//!
//! A price is a function of (seed, instrument, time): the sum of hashed value noise over octaves
//! from one second to four years, so any time costs the same, whatever came before. It imitates no
//! real market; it exists for load, for tests and for a market that never closes.
//!
//! Invariants: prices are positive whole cents; the price at a time does not depend on the step;
//! coarser bars are the exact merge of the interval bars.

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::money::{Price, Volume};
use papertrader_core::snapshot::Mark;
use papertrader_core::time::{DAY, Date, MarketTime, SECOND};

use crate::noise::{extended, mix, unit};
use crate::source::{
    InstrumentKind, InstrumentSpec, PriceSource, SourceError, Step, StepPrice, check_step,
    is_usable,
};

/// The largest number of synthetic instruments.
pub const MAX_INSTRUMENTS: usize = 100_000;

/// How far history reaches back before the start, in nanoseconds.
const HISTORY: i64 = 30 * DAY;
/// The most interval bars that one answer from history may be made of.
const MAX_INTERVALS: i64 = 10_000_000;

/// Octaves of the noise; the period of octave n is 2ⁿ seconds.
const OCTAVES: usize = 28;
/// The amplitude of the slowest octave, about the change of the logarithm over four years. Each
/// faster octave has 1/√2 of the one before, as a random walk's has: the deviation over a year comes
/// to about a quarter of the price.
const SLOWEST_AMPLITUDE: f64 = 0.8;
/// Raw price units in a cent.
const CENT: i64 = 1_000_000;

const LABEL: &str = "synthetic prices, made up from a seed; no real market";

/// What a synthetic market can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyntheticConfig {
    /// How many instruments, 1 to [`MAX_INSTRUMENTS`].
    pub instruments: usize,
    /// Chooses all prices.
    pub seed: u64,
    /// The date at whose midnight UTC a fresh deployment begins; history reaches 30 days further
    /// back.
    pub start: Date,
    /// Market time between two steps, in nanoseconds: one second to one day.
    pub step: i64,
}

/// The price source that makes its prices up.
#[derive(Debug)]
pub struct Synthetic {
    config: SyntheticConfig,
    specs: Vec<InstrumentSpec>,
    shapes: Vec<Shape>,
    amplitudes: [f64; OCTAVES],
}

/// What distinguishes one instrument's prices.
#[derive(Debug, Clone, Copy)]
struct Shape {
    key: u64,
    /// The price around which it moves, in cents.
    base: f64,
    /// The mean volume, in units per second.
    rate: i64,
}

impl Synthetic {
    /// A synthetic market.
    pub fn new(config: SyntheticConfig) -> Result<Synthetic, SourceError> {
        check_step(config.step)?;
        if !is_usable(config.start) {
            return Err(SourceError::BadStart { start: config.start });
        }
        let instruments = config.instruments;
        if !(1..=MAX_INSTRUMENTS).contains(&instruments) {
            return Err(SourceError::BadInstrumentCount { instruments, max: MAX_INSTRUMENTS });
        }
        let specs = (1..=instruments).filter_map(spec).collect();
        let shapes = (1..=instruments as u64).map(|n| Shape::new(config.seed, n)).collect();
        let mut amplitudes = [0.0; OCTAVES];
        let mut amplitude = SLOWEST_AMPLITUDE;
        for octave in amplitudes.iter_mut().rev() {
            *octave = amplitude;
            amplitude /= std::f64::consts::SQRT_2;
        }
        Ok(Synthetic { config, specs, shapes, amplitudes })
    }

    /// What this market was told.
    pub fn config(&self) -> &SyntheticConfig {
        &self.config
    }

    fn anchor(&self) -> i64 {
        self.config.start.start().0
    }

    /// The time of a step; step 0 is at the start.
    fn step_time(&self, number: i64) -> Option<MarketTime> {
        let offset = number.checked_mul(self.config.step)?;
        self.anchor().checked_add(offset).map(MarketTime)
    }

    /// The last step at or before a time; negative before the start.
    fn step_at(&self, time: MarketTime) -> i64 {
        let offset = i128::from(time.0) - i128::from(self.anchor());
        // Steps are at least a second, so that the quotient fits.
        i64::try_from(offset.div_euclid(i128::from(self.config.step))).unwrap_or(i64::MAX)
    }

    /// The first step: the first whose bar lies within the history.
    fn first_step(&self) -> i64 {
        1 - HISTORY / self.config.step
    }

    /// The price of an instrument at a time, in cents.
    fn cents(&self, shape: &Shape, time: MarketTime) -> i64 {
        let mut logarithm = 0.0;
        let mut period = SECOND;
        for (octave, amplitude) in (0..).zip(self.amplitudes) {
            let key = mix(shape.key ^ octave);
            // Each octave and instrument has its own phase, so that they do not turn together.
            let shifted = time.0.saturating_add((key >> 1) as i64 % period);
            let cell = shifted.div_euclid(period) as u64;
            let at = shifted.rem_euclid(period) as f64 / period as f64;
            let lattice = |cell: u64| 2.0 * unit(extended(key, cell)) - 1.0;
            let (before, after) = (lattice(cell), lattice(cell.wrapping_add(1)));
            let eased = at * at * (3.0 - 2.0 * at);
            logarithm += amplitude * (before + (after - before) * eased);
            period *= 2;
        }
        // (1 + x/1024)^1024 is close to the exponential and always positive for the sums that the
        // amplitudes allow.
        let mut factor = 1.0 + logarithm / 1_024.0;
        for _ in 0..10 {
            factor *= factor;
        }
        ((shape.base * factor + 0.5) as i64).max(1)
    }

    /// The bar that ends with a step.
    fn bar(&self, index: usize, shape: &Shape, number: i64) -> Result<Bar, SourceError> {
        let out_of_range = || match self.specs.get(index) {
            Some(spec) => SourceError::PriceOutOfRange { symbol: spec.symbol },
            None => SourceError::UnknownInstrument { index },
        };
        let start = self.step_time(number - 1).ok_or_else(out_of_range)?;
        let third = self.config.step / 3;
        // The extremes are those of four points of the continuous path.
        let at = |nanos| self.cents(shape, start.plus_nanos(nanos));
        let cents = [at(0), at(third), at(2 * third), at(self.config.step)];
        let price =
            |cents: i64| cents.checked_mul(CENT).and_then(Price::from_raw).ok_or_else(out_of_range);
        let [open, _, _, close] = cents;
        Ok(Bar {
            start,
            open: price(open)?,
            high: price(cents.into_iter().max().unwrap_or(open))?,
            low: price(cents.into_iter().min().unwrap_or(open))?,
            close: price(close)?,
            volume: self.volume(shape, start),
        })
    }

    /// The volume of the interval that begins at `start`: half to one and a half times the mean.
    fn volume(&self, shape: &Shape, start: MarketTime) -> Volume {
        let percent = 50 + (extended(shape.key, start.0 as u64) % 101) as i64;
        // At most 10² units a second for 10⁵ seconds.
        let mean = shape.rate * (self.config.step / SECOND);
        Volume::from_units(mean * percent / 100)
    }
}

impl Shape {
    fn new(seed: u64, number: u64) -> Shape {
        let key = extended(seed, number);
        let height = unit(extended(key, 1));
        // From 5 to 500, more of them low than high.
        let base = 500.0 + 49_500.0 * height * height;
        let rate = 1 + (extended(key, 2) % 100) as i64;
        Shape { key, base, rate }
    }
}

/// `SYN0001` and so on; a number always fits a symbol.
fn spec(number: usize) -> Option<InstrumentSpec> {
    Some(InstrumentSpec {
        symbol: format!("SYN{number:04}").parse().ok()?,
        name: format!("Synthetic {number:04}"),
        kind: InstrumentKind::Synthetic,
    })
}

impl PriceSource for Synthetic {
    fn label(&self) -> &str {
        LABEL
    }

    fn instruments(&self) -> &[InstrumentSpec] {
        &self.specs
    }

    fn start(&self) -> MarketTime {
        self.config.start.start()
    }

    fn interval(&self) -> i64 {
        self.config.step
    }

    fn next(&self, after: MarketTime) -> Result<Option<Step>, SourceError> {
        let number = self.step_at(after).saturating_add(1).max(self.first_step());
        // The centuries that market time can express do end.
        let Some(time) = self.step_time(number) else { return Ok(None) };
        let price = |(index, shape)| -> Result<StepPrice, SourceError> {
            let bar = self.bar(index, shape, number)?;
            Ok(StepPrice { index, mark: Mark { price: bar.close, time }, bar })
        };
        Ok(Some(Step {
            time,
            market_open: true,
            ended: self.step_time(number.saturating_add(1)).is_none(),
            prices: self.shapes.iter().enumerate().map(price).collect::<Result<_, _>>()?,
            splits: Vec::new(),
        }))
    }

    fn history(
        &self,
        index: usize,
        resolution: Resolution,
        from: MarketTime,
        to: MarketTime,
    ) -> Result<Vec<Bar>, SourceError> {
        let shape = self.shapes.get(index).ok_or(SourceError::UnknownInstrument { index })?;
        // The bar of a step starts at the step before it.
        let first = self.step_at(from.plus_nanos(-1)).saturating_add(2).max(self.first_step());
        let last = self.step_at(to);
        // Interval bars are all kept, coarser ones only pass.
        let max = match resolution {
            Resolution::Interval => MAX_INTERVALS / 10,
            _ => MAX_INTERVALS,
        };
        if last.saturating_sub(first) >= max {
            return Err(SourceError::HistoryTooLong { max });
        }
        let mut bars: Vec<Bar> = Vec::new();
        for number in first..=last {
            let bar = self.bar(index, shape, number)?;
            let start = resolution.start_of(bar.start);
            match bars.last_mut() {
                Some(last) if last.start == start => *last = last.merged(&bar),
                _ => bars.push(Bar { start, ..bar }),
            }
        }
        bars.retain(|bar| bar.start >= from);
        Ok(bars)
    }

    fn splits(&self, _: usize, _: MarketTime, _: MarketTime) -> Vec<(MarketTime, u32, u32)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use papertrader_core::bar::roll_up;
    use proptest::prelude::*;

    fn config(step: i64) -> SyntheticConfig {
        let start = Date::parse("2020-01-15").unwrap();
        SyntheticConfig { instruments: 5, seed: 42, start, step }
    }

    fn market(step_seconds: i64) -> Synthetic {
        Synthetic::new(config(step_seconds * SECOND)).unwrap()
    }

    #[test]
    fn instruments_are_numbered_from_one() {
        let market = market(60);
        let symbols: Vec<_> = market.instruments().iter().map(|i| i.symbol.as_str()).collect();
        assert_eq!(symbols, ["SYN0001", "SYN0002", "SYN0003", "SYN0004", "SYN0005"]);
        assert!(market.instruments().iter().all(|i| i.kind == InstrumentKind::Synthetic));
    }

    #[test]
    fn impossible_configurations_are_refused() {
        let with = |change: fn(&mut SyntheticConfig)| {
            let mut config = config(SECOND);
            change(&mut config);
            Synthetic::new(config).unwrap_err()
        };
        let none = with(|c| c.instruments = 0);
        assert!(matches!(none, SourceError::BadInstrumentCount { .. }));
        let many = with(|c| c.instruments = MAX_INSTRUMENTS + 1);
        assert!(matches!(many, SourceError::BadInstrumentCount { .. }));
        assert!(matches!(with(|c| c.step = SECOND - 1), SourceError::BadStep { .. }));
        assert!(matches!(with(|c| c.step = i64::MIN), SourceError::BadStep { .. }));
        assert!(matches!(with(|c| c.step = DAY + 1), SourceError::BadStep { .. }));
        assert!(matches!(with(|c| c.start.year = 1), SourceError::BadStart { .. }));
    }

    #[test]
    fn steps_go_around_the_clock_and_join_up() {
        let market = market(1_800);
        let mut after = market.start();
        let mut before: Option<Step> = None;
        for number in 1..=200 {
            let step = market.next(after).unwrap().unwrap();
            assert_eq!(step.time, market.start().plus_nanos(number * 1_800 * SECOND));
            assert!(step.market_open && !step.ended && step.prices.len() == 5);
            for (index, price) in step.prices.iter().enumerate() {
                assert_eq!(price.index, index);
                assert_eq!(price.mark, Mark { price: price.bar.close, time: step.time });
                assert!(price.bar.is_consistent());
                assert_eq!(price.bar.start, after);
                assert_eq!(price.mark.price.raw() % CENT, 0);
                if let Some(before) = &before {
                    assert_eq!(price.bar.open, before.prices[index].mark.price);
                }
            }
            after = step.time;
            before = Some(step);
        }
    }

    #[test]
    fn prices_move_at_a_plausible_pace() {
        // The deviation of a daily change, of 300 days and five instruments.
        let market = market(3_600);
        let mut squares = 0.0;
        let mut count = 0.0;
        for shape in &market.shapes {
            for day in 0..300 {
                let at = |day| market.cents(shape, market.start().plus_nanos(day * DAY)) as f64;
                let change = (at(day + 1) - at(day)) / at(day);
                squares += change * change;
                count += 1.0;
            }
        }
        let deviation = f64::sqrt(squares / count);
        assert!((0.005..0.05).contains(&deviation), "{deviation}");
    }

    #[test]
    fn seeds_and_instruments_differ() {
        let closes = |seed| -> Vec<Price> {
            let config = SyntheticConfig { seed, ..config(SECOND) };
            let market = Synthetic::new(config).unwrap();
            let step = market.next(market.start()).unwrap().unwrap();
            step.prices.iter().map(|price| price.mark.price).collect()
        };
        assert_ne!(closes(1), closes(2));
        assert_eq!(closes(1), closes(1));
        let mut all = closes(1);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 5);
    }

    #[test]
    fn history_reaches_thirty_days_back_and_no_further() {
        let market = market(3_600);
        let all = |resolution| {
            let from = MarketTime(i64::MIN);
            market.history(0, resolution, from, market.start()).unwrap()
        };
        let days = all(Resolution::Day);
        assert_eq!(days.len(), 30);
        assert_eq!(days[0].start, market.start().plus_nanos(-30 * DAY));
        assert_eq!(all(Resolution::Interval).len(), 720);
        let months: Vec<_> = all(Resolution::Month).iter().map(|bar| Date::of(bar.start)).collect();
        assert_eq!(
            months.iter().map(Date::to_string).collect::<Vec<_>>(),
            ["2019-12-01", "2020-01-01"]
        );
        let from_the_first = market.history(
            0,
            Resolution::Month,
            Date::parse("2020-01-01").unwrap().start(),
            market.start(),
        );
        assert_eq!(from_the_first.unwrap(), all(Resolution::Month)[1..]);
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        let market = market(1);
        let first = market.next(MarketTime(i64::MIN)).unwrap().unwrap();
        assert_eq!(first.time, market.start().plus_nanos(SECOND - 30 * DAY));
        assert_eq!(market.next(MarketTime(i64::MAX)).unwrap(), None);
        let last = market.next(MarketTime(i64::MAX - SECOND)).unwrap().unwrap();
        assert!(last.ended);
        let (min, max) = (MarketTime(i64::MIN), MarketTime(i64::MAX));
        let all = market.history(0, Resolution::Month, min, max);
        assert!(matches!(all, Err(SourceError::HistoryTooLong { .. })));
        assert_eq!(market.history(0, Resolution::Month, max, min).unwrap(), []);
        let unknown = market.history(5, Resolution::Month, min, min);
        assert!(matches!(unknown, Err(SourceError::UnknownInstrument { index: 5 })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn history_is_what_the_steps_told_whenever_it_is_asked(
            index in 0usize..5, step in 600i64..80_000, from in -31 * 86_400i64..86_400,
            length in 0i64..10 * 86_400,
        ) {
            let market = market(step);
            let from = market.start().plus_nanos(from * SECOND);
            let to = from.plus_nanos(length * SECOND);
            let mut told = Vec::new();
            let mut after = from.plus_nanos(-DAY);
            while let Some(step) = market.next(after).unwrap().filter(|step| step.time <= to) {
                told.push(step.prices[index].bar);
                after = step.time;
            }
            told.retain(|bar| bar.start >= from);
            let intervals = market.history(index, Resolution::Interval, from, to).unwrap();
            prop_assert_eq!(&told, &intervals);
            // The coarser bars that start in the span are the merge of their intervals, all of
            // which start in the span too.
            for resolution in [Resolution::Hour, Resolution::Day, Resolution::Month] {
                let mut merged = roll_up(&intervals, resolution);
                merged.retain(|bar| bar.start >= from);
                prop_assert_eq!(market.history(index, resolution, from, to).unwrap(), merged);
            }
        }

        #[test]
        fn the_price_at_a_time_does_not_depend_on_the_step(n in 1i64..1000) {
            let (fine, coarse) = (market(60), market(3_600));
            let at = fine.start().plus_nanos(n * 3_600 * SECOND - 1);
            let a = fine.next(at).unwrap().unwrap();
            let b = coarse.next(at).unwrap().unwrap();
            prop_assert_eq!(a.time, b.time);
            for (a, b) in a.prices.iter().zip(&b.prices) {
                prop_assert_eq!(a.mark, b.mark);
            }
        }
    }
}
