//! Prices inside a session, derived from the recorded daily bar.
//!
//! Only the open, high, low and close of a day are recorded; what lies between them is made up
//! here, and whoever shows it must say so. The path is a random one that passes through the four,
//! with the times of the extremes and everything between drawn from a key.
//!
//! Invariants: the increments merged are the daily bar exactly, volume included; no price leaves
//! `[low, high]` or the tick of the day; the minutes of the path do not depend on the step.

use papertrader_core::bar::Bar;
use papertrader_core::money::{Price, Volume};
use papertrader_core::time::MarketTime;

use crate::noise::Generator;
use crate::source::tick_of;

/// Pieces of the path that every step size shares: the minutes of a session of 6.5 hours.
const PIECES: usize = 390;
/// Halvings of a piece for steps shorter than it; 390 · 2⁶ pieces are shorter than a second.
const MAX_HALVINGS: u32 = 6;
/// The standard deviation of a whole session's path as a part of the day's range. The expected
/// range of a random walk is about 1.6 of its standard deviations.
const SPREAD: f64 = 0.6;

/// When one date trades.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session {
    /// The date's midnight UTC, which lies before `open` and less than a day before `close`.
    pub(crate) day: MarketTime,
    /// The opening, and the first step.
    pub(crate) open: MarketTime,
    /// The close, and the last step; later than `open`.
    pub(crate) close: MarketTime,
}

impl Session {
    /// The number of the last step; the first is 0.
    pub(crate) fn last_step(&self, step: i64) -> i64 {
        let length = self.close.0 - self.open.0;
        length / step + i64::from(length % step != 0)
    }

    /// The time of a step.
    pub(crate) fn step_time(&self, number: i64, step: i64) -> MarketTime {
        self.open.plus_nanos(number.saturating_mul(step)).min(self.close)
    }

    /// The first step later than `after`, if there is one.
    pub(crate) fn step_after(&self, after: MarketTime, step: i64) -> Option<i64> {
        if after >= self.close {
            None
        } else if after < self.open {
            Some(0)
        } else {
            Some((after.0 - self.open.0) / step + 1)
        }
    }
}

/// The increments of a day: the opening one without extent or volume, then one for each later step,
/// which starts at the time of the step before. `None` if the daily bar is inconsistent.
pub(crate) fn increments(key: u64, daily: &Bar, session: &Session, step: i64) -> Option<Vec<Bar>> {
    if !daily.is_consistent() || daily.volume < Volume::ZERO {
        return None;
    }
    let mut generator = Generator::new(key);
    let halvings = halvings_for(session, step);
    let volumes = CumulativeVolume::new(&mut generator, daily.volume, halvings);
    let path = path(&mut generator, daily, halvings)?;

    let pieces = (PIECES << halvings) as i128;
    let span = i128::from(session.close.0 - session.open.0);
    let node_at = |time: MarketTime| {
        usize::try_from(i128::from(time.0 - session.open.0) * pieces / span).ok()
    };

    let mut bars = Vec::new();
    bars.push(Bar {
        start: session.open,
        open: daily.open,
        high: daily.open,
        low: daily.open,
        close: daily.open,
        volume: Volume::ZERO,
    });
    let (mut start, mut first) = (session.open, 0);
    for number in 1..=session.last_step(step) {
        let time = session.step_time(number, step);
        let last = node_at(time)?;
        let piece = path.get(first..=last)?;
        let high = piece.iter().max()?;
        let low = piece.iter().min()?;
        bars.push(Bar {
            start,
            open: *piece.first()?,
            high: *high,
            low: *low,
            close: *piece.last()?,
            volume: volumes.between(first, last),
        });
        (start, first) = (time, last);
    }
    Some(bars)
}

/// How often the pieces must be halved to be no longer than the step.
fn halvings_for(session: &Session, step: i64) -> u32 {
    let piece = (session.close.0 - session.open.0) / PIECES as i64;
    (0..MAX_HALVINGS).find(|n| piece >> n <= step).unwrap_or(MAX_HALVINGS)
}

/// The price at each node, from the open (the first) to the close (the last).
fn path(generator: &mut Generator, daily: &Bar, halvings: u32) -> Option<Vec<Price>> {
    let tick = [daily.open, daily.high, daily.low, daily.close].map(tick_of).into_iter().min()?;
    let (low, high) = (daily.low.raw(), daily.high.raw());
    let ticks_above_low = |price: Price| ((price.raw() - low) / tick) as f64;
    let waypoints = waypoints(generator, daily);

    // The shape, in ticks above the low.
    let width = ticks_above_low(daily.high);
    let deviation = width * SPREAD / (PIECES as f64).sqrt();
    let mut shape = Vec::with_capacity((PIECES << halvings) + 1);
    shape.push(ticks_above_low(daily.open));
    for pair in waypoints.windows(2) {
        let [(from, start), (to, end)] = [pair.first()?, pair.last()?];
        let (mut at, target) = (ticks_above_low(*start), ticks_above_low(*end));
        for left in (1..=to - from).rev() {
            // The next point of a Brownian bridge that has `left` pieces to go.
            let left = left as f64;
            let spread = deviation * ((left - 1.0) / left).sqrt();
            at += (target - at) / left + spread * generator.normal();
            at = reflected(at, width);
            shape.push(at);
        }
    }
    let mut deviation = deviation;
    for _ in 0..halvings {
        // The middle of a Brownian bridge has half the deviation of its piece.
        let mut finer = Vec::with_capacity(shape.len() * 2);
        for pair in shape.windows(2) {
            let (a, b) = (*pair.first()?, *pair.last()?);
            let middle = (a + b) / 2.0 + deviation / 2.0 * generator.normal();
            finer.extend([a, reflected(middle, width)]);
        }
        finer.extend(shape.last());
        shape = finer;
        deviation /= std::f64::consts::SQRT_2;
    }

    let mut path = Vec::with_capacity(shape.len());
    for ticks in shape {
        // Rounds to the nearest; the conversion saturates and the clamp bounds it.
        let above = ((ticks + 0.5) as i64).saturating_mul(tick);
        path.push(Price::from_raw(low.saturating_add(above).clamp(low, high))?);
    }
    // What is recorded is exact whatever the shape was rounded to.
    for (node, price) in waypoints {
        *path.get_mut(node << halvings)? = price;
    }
    Some(path)
}

/// The nodes at which the path must have a recorded price, in order of time.
fn waypoints(generator: &mut Generator, daily: &Bar) -> Vec<(usize, Price)> {
    let inner = PIECES as u64 - 1;
    // Two different nodes, either of them the earlier one. Both are drawn whether or not they are
    // needed, so that the numbers that follow do not shift.
    let a = generator.below(inner);
    let b = (a + 1 + generator.below(inner - 1)) % inner;
    let mut waypoints = vec![(0, daily.open), (PIECES, daily.close)];
    if daily.high > daily.open.max(daily.close) {
        waypoints.push((a as usize + 1, daily.high));
    }
    if daily.low < daily.open.min(daily.close) {
        waypoints.push((b as usize + 1, daily.low));
    }
    waypoints.sort_unstable();
    waypoints
}

/// `at` mirrored at the ends of `[0, width]`, and clamped should one mirroring not suffice.
fn reflected(at: f64, width: f64) -> f64 {
    let inside = if at < 0.0 {
        -at
    } else if at > width {
        2.0 * width - at
    } else {
        at
    };
    inside.clamp(0.0, width)
}

/// The day's volume, spread over its pieces so that any cut into steps has the exact sum.
struct CumulativeVolume {
    /// The summed weight before each of the shared pieces, and of all.
    before: Vec<i128>,
    halvings: u32,
    /// The volume in `unit`s.
    total: i128,
    /// What is not divided further: a whole unit of the instrument where the volume is whole.
    unit: i64,
}

impl CumulativeVolume {
    fn new(generator: &mut Generator, volume: Volume, halvings: u32) -> CumulativeVolume {
        let whole = Volume::from_units(1).raw();
        let unit = if volume.raw() % whole == 0 { whole } else { 1 };
        let mut before = Vec::with_capacity(PIECES + 1);
        let mut sum: i128 = 0;
        for piece in 0..PIECES as i128 {
            before.push(sum);
            // Trading is thickest at the opening and the close.
            let edge = PIECES as i128 - 1;
            let from_middle = 2 * piece - edge;
            let thickness = 100 + 200 * from_middle * from_middle / (edge * edge);
            sum += thickness * i128::from(50 + generator.below(101));
        }
        before.push(sum);
        CumulativeVolume { before, halvings, total: i128::from(volume.raw() / unit), unit }
    }

    /// The volume from node `first` to node `last`.
    fn between(&self, first: usize, last: usize) -> Volume {
        let units = self.until(last) - self.until(first);
        Volume::from_raw(i64::try_from(units).unwrap_or(i64::MAX).saturating_mul(self.unit))
    }

    /// The units traded before a node, rounded down.
    fn until(&self, node: usize) -> i128 {
        let piece = node >> self.halvings;
        let part = (node - (piece << self.halvings)) as i128;
        let all = self.before.last().copied().unwrap_or(1);
        let before = self.before.get(piece).copied().unwrap_or(all);
        let after = self.before.get(piece + 1).copied().unwrap_or(all);
        let scaled = (before << self.halvings) + part * (after - before);
        self.total * scaled / (all << self.halvings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use papertrader_core::time::{DAY, SECOND};
    use proptest::prelude::*;

    const MINUTE: i64 = 60 * SECOND;

    fn session() -> Session {
        let day = MarketTime(20_000 * DAY);
        let open = day.plus_nanos(870 * MINUTE);
        Session { day, open, close: open.plus_nanos(390 * MINUTE) }
    }

    fn daily([open, high, low, close]: [i64; 4], volume: i64) -> Bar {
        let price = |raw| Price::from_raw(raw).unwrap();
        Bar {
            start: session().day,
            open: price(open),
            high: price(high),
            low: price(low),
            close: price(close),
            volume: Volume::from_raw(volume),
        }
    }

    fn merged(bars: &[Bar]) -> Bar {
        bars[1..].iter().fold(bars[0], |day, bar| day.merged(bar))
    }

    /// A daily bar of a given tick, with extremes that may coincide with open or close.
    fn any_daily() -> impl Strategy<Value = Bar> {
        let tick = prop_oneof![Just(1_000_000i64), Just(10_000), Just(1)];
        let ticks = prop_oneof![1i64..50, 1i64..100_000];
        let volume = prop_oneof![
            Just(0i64),
            (0i64..1_000_000_000).prop_map(|v| v * 100_000_000),
            0i64..i64::MAX
        ];
        (tick, prop::array::uniform4(ticks), volume, 0..4u8).prop_map(|(tick, t, volume, kind)| {
            let mut sorted = t.map(|t| t * tick);
            sorted.sort_unstable();
            let [low, a, b, high] = sorted;
            let ohlc = match kind {
                0 => [a, high, low, b],
                1 => [b, high, low, a],
                2 => [high, high, low, low],
                _ => [low, high, low, high],
            };
            daily(ohlc, volume)
        })
    }

    fn any_step() -> impl Strategy<Value = i64> {
        let seconds = prop_oneof![
            Just(1i64),
            Just(7),
            1i64..600,
            Just(1_800),
            Just(23_399),
            Just(23_400),
            Just(86_400)
        ];
        seconds.prop_map(|seconds| seconds * SECOND)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn increments_merge_to_the_daily_bar(
            daily in any_daily(), step in any_step(), key in any::<u64>()
        ) {
            let session = session();
            let bars = increments(key, &daily, &session, step).unwrap();
            prop_assert_eq!(bars.len() as i64, session.last_step(step) + 1);
            prop_assert_eq!(merged(&bars), Bar { start: session.open, ..daily });
            let tick = [daily.open, daily.high, daily.low, daily.close]
                .map(tick_of).into_iter().min().unwrap();
            for (i, bar) in bars.iter().enumerate() {
                prop_assert!(bar.is_consistent());
                prop_assert!(bar.volume >= Volume::ZERO);
                prop_assert!(daily.low <= bar.low && bar.high <= daily.high);
                for price in [bar.open, bar.high, bar.low, bar.close] {
                    prop_assert_eq!((price.raw() - daily.low.raw()) % tick, 0);
                }
                if i > 0 {
                    prop_assert_eq!(bar.open, bars[i - 1].close);
                    prop_assert_eq!(bar.start, session.step_time(i as i64 - 1, step));
                }
            }
        }

        #[test]
        fn the_minutes_do_not_depend_on_the_step(daily in any_daily(), key in any::<u64>()) {
            let session = session();
            let of = |step| increments(key, &daily, &session, step).unwrap();
            let (minutes, halves) = (of(MINUTE), of(30 * MINUTE));
            for (i, bar) in halves.iter().enumerate() {
                prop_assert_eq!(bar.close, minutes[i * 30].close);
            }
            let seconds = of(SECOND);
            for (i, bar) in minutes.iter().enumerate() {
                prop_assert_eq!(bar.close, seconds[i * 60].close);
            }
        }
    }

    #[test]
    fn open_and_close_alone_carry_the_whole_day() {
        let daily = daily([500, 900, 100, 300].map(|c| c * 1_000_000), 12_300_000_000);
        let bars = increments(1, &daily, &session(), DAY).unwrap();
        assert_eq!(bars.len(), 2);
        assert_eq!(bars[1], Bar { start: session().open, ..daily });
    }

    #[test]
    fn a_day_without_a_range_is_flat() {
        let daily = daily([5_000_000; 4], 0);
        let bars = increments(1, &daily, &session(), MINUTE).unwrap();
        assert!(bars.iter().all(|bar| bar.high == daily.open && bar.low == daily.open));
    }

    #[test]
    fn the_path_is_no_straight_line_and_differs_by_key() {
        let daily = daily([10_000, 11_000, 9_000, 10_500].map(|c| c * 1_000_000), 0);
        let closes = |key| -> Vec<i64> {
            let bars = increments(key, &daily, &session(), 30 * MINUTE).unwrap();
            bars.iter().map(|bar| bar.close.raw()).collect()
        };
        let one = closes(1);
        assert_ne!(one, closes(2));
        assert_eq!(one, closes(1));
        // No three steps in a row lie on a line.
        assert!(one.windows(3).filter(|w| w[2] - w[1] == w[1] - w[0]).count() <= 1, "{one:?}");
    }

    #[test]
    fn the_extremes_come_in_either_order_and_at_all_times() {
        let daily = daily([10_000, 11_000, 9_000, 10_000].map(|c| c * 1_000_000), 0);
        let mut high_first = 0;
        let mut hours = [false; 7];
        for key in 0..200 {
            let bars = increments(crate::noise::mix(key), &daily, &session(), 60 * MINUTE).unwrap();
            let high = bars.iter().position(|bar| bar.high == daily.high).unwrap();
            let low = bars.iter().position(|bar| bar.low == daily.low).unwrap();
            high_first += i32::from(high < low);
            hours[high - 1] = true;
        }
        assert!((50..150).contains(&high_first), "{high_first}");
        assert_eq!(hours, [true; 7]);
    }

    #[test]
    fn an_inconsistent_day_has_no_path() {
        assert_eq!(increments(1, &daily([5, 4, 3, 4], 0), &session(), MINUTE), None);
    }

    #[test]
    fn steps_are_counted_from_the_open_to_the_close() {
        let s = session();
        assert_eq!(s.last_step(30 * MINUTE), 13);
        assert_eq!(s.last_step(60 * MINUTE), 7);
        assert_eq!(s.last_step(DAY), 1);
        assert_eq!(s.step_time(7, 60 * MINUTE), s.close);
        assert_eq!(s.step_after(MarketTime(i64::MIN), MINUTE), Some(0));
        assert_eq!(s.step_after(s.open, MINUTE), Some(1));
        assert_eq!(s.step_after(s.open.plus_nanos(-1), MINUTE), Some(0));
        assert_eq!(s.step_after(s.close.plus_nanos(-1), 60 * MINUTE), Some(7));
        assert_eq!(s.step_after(s.close, MINUTE), None);
    }
}
