//! A baseline forecast of daily closes: a random walk with drift, with an interval.
//!
//! It assumes that the logarithm of the price takes independent steps of constant mean and
//! deviation, and estimates both from past closes. Real prices have fatter tails and changing
//! deviations, so the interval is too narrow when it matters most; it is a baseline, not advice.
//!
//! Invariants: `low <= expected <= high` at every point; nothing but the closes given is used.
//! Floating point is used throughout, since nothing is settled by a forecast.

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::money::{MAX_PRICE, Price};
use papertrader_core::time::MarketTime;

use crate::source::tick_of;

/// The fewest closes that a forecast is made from.
pub const MIN_CLOSES: usize = 30;
/// The furthest day forecast, in trading days: about a year.
pub const MAX_HORIZON: u32 = 252;
/// The model's name, as shown.
pub const MODEL: &str = "random walk with drift (baseline)";

/// How much of the probability the interval covers, in hundredths of a per cent.
const CONFIDENCE_BP: u32 = 9_500;
/// The quantile of the normal distribution at 97.5 %: two-sided 95 %.
const NORMAL_QUANTILE: f64 = 1.959_963_984_540_054;

/// What the next trading days may bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// The model, by name.
    pub model: &'static str,
    /// How many closes it was estimated from.
    pub based_on: u32,
    /// The probability, under the model, that a day's close is within its interval; in hundredths
    /// of a per cent (9,500 is 95 %).
    pub confidence_bp: u32,
    /// One point for each day, by ascending day.
    pub points: Vec<ForecastPoint>,
}

/// The forecast of one day's close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForecastPoint {
    /// Trading days after the last close, from 1.
    pub day: u32,
    /// The lower end of the interval.
    pub low: Price,
    /// The median: as likely to be exceeded as not.
    pub expected: Price,
    /// The upper end of the interval.
    pub high: Price,
}

/// Why there is no forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForecastError {
    /// Too little is known.
    #[error("a forecast needs {needed} daily closes; there are {found}")]
    TooFewCloses {
        /// How many there are.
        found: usize,
        /// How many it takes.
        needed: usize,
    },
    /// No days, or too many, were asked for.
    #[error("a forecast is for 1 to {max} trading days, not {asked}")]
    BadHorizon {
        /// The days asked for.
        asked: u32,
        /// The most days.
        max: u32,
    },
    /// The closes are not in ascending order of time.
    #[error("the closes of a forecast must be in order of time")]
    OutOfOrder,
}

/// Forecasts the closes of the next `horizon` trading days from the daily closes up to now, which
/// must be adjusted for splits ([`adjusted_closes`]) and in ascending order of time.
///
/// Each close counts as one trading day after the one before, whatever lies between them. Prices
/// are rounded to the last close's tick, the interval outwards.
pub fn forecast(
    daily_closes: &[(MarketTime, Price)],
    horizon: u32,
) -> Result<Forecast, ForecastError> {
    if !(1..=MAX_HORIZON).contains(&horizon) {
        return Err(ForecastError::BadHorizon { asked: horizon, max: MAX_HORIZON });
    }
    let found = daily_closes.len();
    let last = match daily_closes.last() {
        Some((_, last)) if found >= MIN_CLOSES => *last,
        _ => return Err(ForecastError::TooFewCloses { found, needed: MIN_CLOSES }),
    };
    if !daily_closes.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err(ForecastError::OutOfOrder);
    }

    let logarithms = daily_closes.iter().map(|(_, close)| (close.raw() as f64).ln());
    let later = logarithms.clone().skip(1);
    let returns: Vec<f64> = logarithms.zip(later).map(|(before, after)| after - before).collect();
    let count = returns.len() as f64;
    let drift = returns.iter().sum::<f64>() / count;
    let squares: f64 = returns.iter().map(|r| (r - drift) * (r - drift)).sum();
    let deviation = (squares / (count - 1.0)).sqrt();
    let quantile = student_quantile(count - 1.0);

    let point = |day: u32| {
        let days = f64::from(day);
        // The deviation of the sum of the days' steps, and that of the drift, which is estimated
        // too and counts once for every day.
        let spread = quantile * deviation * (days + days * days / count).sqrt();
        let center = drift * days;
        let at = |logarithm: f64| last.raw() as f64 * logarithm.exp();
        let expected = to_tick(at(center), last, f64::round);
        ForecastPoint {
            day,
            low: to_tick(at(center - spread), last, f64::floor).min(expected),
            expected,
            high: to_tick(at(center + spread), last, f64::ceil).max(expected),
        }
    };
    Ok(Forecast {
        model: MODEL,
        based_on: u32::try_from(found).unwrap_or(u32::MAX),
        confidence_bp: CONFIDENCE_BP,
        points: (1..=horizon).map(point).collect(),
    })
}

/// The closes of raw daily bars as if every split (when, units after, units before) had taken
/// effect before all of them, rounded to the nearest price that can be expressed.
///
/// Give only splits that have happened. A bar counts as before a split if it starts on an earlier
/// UTC day: the split's own day already trades at the new price.
pub fn adjusted_closes(
    bars: &[Bar],
    splits: &[(MarketTime, u32, u32)],
) -> Vec<(MarketTime, Price)> {
    let adjust = |bar: &Bar| {
        let later = |split: &&(MarketTime, u32, u32)| {
            let (time, to, from) = **split;
            to > 0 && from > 0 && bar.start < Resolution::Day.start_of(time)
        };
        let close = splits.iter().filter(later).fold(bar.close, |close, (_, to, from)| {
            let (to, from) = (i128::from(*to), i128::from(*from));
            let nearest = (i128::from(close.raw()) * from * 2 + to) / (to * 2);
            let bounded = nearest.clamp(1, i128::from(MAX_PRICE.raw()));
            i64::try_from(bounded).ok().and_then(Price::from_raw).unwrap_or(close)
        });
        (bar.start, close)
    };
    bars.iter().map(adjust).collect()
}

/// The 97.5 % quantile of Student's distribution, by the Cornish-Fisher expansion: within 0.001 for
/// the degrees of freedom that [`MIN_CLOSES`] allows.
fn student_quantile(freedom: f64) -> f64 {
    let z = NORMAL_QUANTILE;
    let (z3, z5) = (z * z * z, z * z * z * z * z);
    z + (z3 + z) / (4.0 * freedom) + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * freedom * freedom)
}

/// A price on the tick of `like`, within what a price can be.
fn to_tick(raw: f64, like: Price, round: fn(f64) -> f64) -> Price {
    let tick = tick_of(like);
    // An error of the last bits must not become a whole tick.
    let ticks = raw / tick as f64;
    let nearest = ticks.round();
    let ticks = if (ticks - nearest).abs() < 1e-6 { nearest } else { round(ticks) };
    // The conversion saturates.
    let bounded = (ticks as i64).clamp(1, MAX_PRICE.raw() / tick);
    Price::from_raw(bounded * tick).unwrap_or(like)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Generator;
    use papertrader_core::money::Volume;
    use papertrader_core::time::{DAY, Date};
    use proptest::prelude::*;

    fn closes(prices: impl IntoIterator<Item = i64>) -> Vec<(MarketTime, Price)> {
        let price = |raw| Price::from_raw(raw).unwrap();
        (0..).zip(prices).map(|(day, raw)| (MarketTime(day * DAY), price(raw))).collect()
    }

    #[test]
    fn a_constant_series_stays_constant() {
        for raw in [1, 100_000_000, 1_234_567_891, 4_212_340_000] {
            let forecast = forecast(&closes([raw; 40]), 20).unwrap();
            assert_eq!((forecast.based_on, forecast.confidence_bp), (40, 9_500));
            assert_eq!(forecast.model, "random walk with drift (baseline)");
            let days: Vec<u32> = forecast.points.iter().map(|p| p.day).collect();
            assert_eq!(days, (1..=20).collect::<Vec<u32>>());
            for p in forecast.points {
                assert_eq!([p.low, p.expected, p.high].map(Price::raw), [raw; 3]);
            }
        }
    }

    #[test]
    fn a_steady_growth_goes_on() {
        // Each close doubles the one before.
        let doubling = closes((0..30).map(|n| 1_000_000 << n));
        let points = forecast(&doubling, 3).unwrap().points;
        let expected: Vec<i64> = points.iter().map(|p| p.expected.raw()).collect();
        assert_eq!(expected, [30, 31, 32].map(|n| 1_000_000 << n));
    }

    #[test]
    fn too_few_closes_and_bad_horizons_are_refused() {
        let few = forecast(&closes([100; 29]), 1);
        assert_eq!(few, Err(ForecastError::TooFewCloses { found: 29, needed: 30 }));
        assert!(forecast(&closes([100; 30]), 1).is_ok());
        for asked in [0, 253] {
            let refused = forecast(&closes([100; 30]), asked);
            assert_eq!(refused, Err(ForecastError::BadHorizon { asked, max: 252 }));
        }
        let mut swapped = closes([100; 30]);
        swapped.swap(3, 4);
        assert_eq!(forecast(&swapped, 1), Err(ForecastError::OutOfOrder));
        swapped[3].0 = swapped[4].0;
        assert_eq!(forecast(&swapped, 1), Err(ForecastError::OutOfOrder));
    }

    #[test]
    fn the_quantile_is_that_of_the_tables() {
        for (freedom, table) in [(28.0, 2.0484), (60.0, 2.0003), (1e9, 1.95996)] {
            assert!((student_quantile(freedom) - table).abs() < 0.001, "{freedom}");
        }
    }

    #[test]
    fn the_interval_covers_what_it_says_of_a_random_walk() {
        let mut generator = Generator::new(2);
        let (mut inside, mut all) = (0, 0);
        for _ in 0..2_000 {
            let mut price = 1e10;
            let walk: Vec<i64> = (0..61)
                .map(|_| {
                    price *= 1.0 + 0.01 * generator.normal();
                    price as i64
                })
                .collect();
            let point = forecast(&closes(walk[..56].iter().copied()), 5).unwrap().points[4];
            inside += i32::from((point.low.raw()..=point.high.raw()).contains(&walk[60]));
            all += 1;
        }
        let covered = f64::from(inside) / f64::from(all);
        assert!((0.93..0.97).contains(&covered), "{covered}");
    }

    #[test]
    fn closes_before_a_split_are_adjusted_and_those_of_its_day_are_not() {
        let bar = |date: &str, raw| {
            let price = Price::from_raw(raw).unwrap();
            Bar {
                start: Date::parse(date).unwrap().start(),
                open: price,
                high: price,
                low: price,
                close: price,
                volume: Volume::ZERO,
            }
        };
        let bars = [bar("2005-02-25", 8_899), bar("2005-02-28", 4_486), bar("2005-03-01", 10)];
        let opening = |date: &str| Date::parse(date).unwrap().start().plus_nanos(DAY / 2);
        let adjusted = |splits: &[(MarketTime, u32, u32)]| -> Vec<i64> {
            adjusted_closes(&bars, splits).iter().map(|(_, close)| close.raw()).collect()
        };
        assert_eq!(adjusted(&[]), [8_899, 4_486, 10]);
        let first = (opening("2005-02-28"), 2, 1);
        assert_eq!(adjusted(&[first]), [4_450, 4_486, 10]);
        // Two splits multiply; a reverse split raises.
        assert_eq!(adjusted(&[first, (opening("2005-03-01"), 1, 10)]), [44_500, 44_860, 10]);
        // The least price is one unit of the last decimal.
        assert_eq!(adjusted(&[(opening("2005-03-02"), 1_000, 1)]), [9, 4, 1]);
        assert_eq!(adjusted_closes(&bars, &[])[0].0, bars[0].start);
    }

    proptest! {
        #[test]
        fn the_interval_contains_the_expected_and_widens(
            raws in prop::collection::vec(1i64..=MAX_PRICE.raw(), 30..60), horizon in 1u32..=252
        ) {
            let points = forecast(&closes(raws), horizon).unwrap().points;
            prop_assert_eq!(points.len() as u32, horizon);
            for p in points {
                prop_assert!(p.low <= p.expected && p.expected <= p.high);
            }
        }
    }
}
