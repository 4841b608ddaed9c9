//! Price bars, their resolutions and the windows of the getAssetValue… instructions.
//!
//! A bar covers the half-open time `[start, start + resolution)`. Merging is the only way bars are
//! rolled up: the first open, the highest high, the lowest low, the last close, the summed volume.

use crate::money::{Price, Volume};
use crate::time::{DAY, Date, MarketTime, SECOND};

/// How much time one bar covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Resolution {
    /// One update interval of market time (specification 2.3.4).
    Interval = 0,
    /// One hour.
    Hour = 1,
    /// One UTC day.
    Day = 2,
    /// One calendar month in UTC.
    Month = 3,
}

impl Resolution {
    /// All resolutions, finest first.
    pub const ALL: [Resolution; 4] =
        [Resolution::Interval, Resolution::Hour, Resolution::Day, Resolution::Month];

    /// From the number on the wire and in the store.
    pub fn from_number(number: u8) -> Option<Resolution> {
        Resolution::ALL.get(usize::from(number)).copied()
    }

    /// The name used as an instruction's argument.
    pub fn name(self) -> &'static str {
        match self {
            Resolution::Interval => "interval",
            Resolution::Hour => "hour",
            Resolution::Day => "day",
            Resolution::Month => "month",
        }
    }

    /// From its name.
    pub fn from_name(name: &str) -> Option<Resolution> {
        Resolution::ALL.into_iter().find(|r| r.name() == name)
    }

    /// The start of the bar of this resolution that contains `time`. An interval bar starts where
    /// its source says, so for it this is `time` itself.
    pub fn start_of(self, time: MarketTime) -> MarketTime {
        match self {
            Resolution::Interval => time,
            Resolution::Hour => time.plus_nanos(-time.0.rem_euclid(3_600 * SECOND)),
            Resolution::Day => time.day_start(),
            Resolution::Month => Date::of(time).first_of_month().start(),
        }
    }
}

/// Open, high, low, close and volume over `[start, start + resolution)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// The first instant that the bar covers.
    pub start: MarketTime,
    /// The first price.
    pub open: Price,
    /// The highest price.
    pub high: Price,
    /// The lowest price.
    pub low: Price,
    /// The last price (so far).
    pub close: Price,
    /// The volume traded (so far).
    pub volume: Volume,
}

impl Bar {
    /// This bar extended by what came after it.
    #[must_use]
    pub fn merged(self, later: &Bar) -> Bar {
        Bar {
            start: self.start,
            open: self.open,
            high: self.high.max(later.high),
            low: self.low.min(later.low),
            close: later.close,
            volume: self.volume.plus(later.volume),
        }
    }

    /// `low <= open, close <= high`.
    pub fn is_consistent(&self) -> bool {
        let within = |p: Price| self.low <= p && p <= self.high;
        within(self.open) && within(self.close)
    }
}

/// Rolls bars, in order of time, up to a coarser resolution.
pub fn roll_up(bars: &[Bar], resolution: Resolution) -> Vec<Bar> {
    let mut rolled: Vec<Bar> = Vec::new();
    for bar in bars {
        let start = resolution.start_of(bar.start);
        match rolled.last_mut() {
            Some(last) if last.start == start => *last = last.merged(bar),
            _ => rolled.push(Bar { start, ..*bar }),
        }
    }
    rolled
}

/// A half-open span of market time and the resolution of the bars wanted from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// Resolution of the bars.
    pub resolution: Resolution,
    /// The first instant inside.
    pub from: MarketTime,
    /// The first instant after.
    pub to: MarketTime,
}

impl Window {
    /// getAssetValueDay: the date's 24 hours, at the update interval.
    pub fn day(date: Date) -> Window {
        Window { resolution: Resolution::Interval, from: date.start(), to: date.end() }
    }

    /// getAssetValueWeek: daily bars of the seven days that end with the date.
    pub fn week(date: Date) -> Window {
        Window {
            resolution: Resolution::Day,
            from: date.start().plus_nanos(-6 * DAY),
            to: date.end(),
        }
    }

    /// getAssetValueMonth: daily bars of the month that ends with the date (from the day after
    /// the same day of the month before).
    pub fn month(date: Date) -> Window {
        Window { resolution: Resolution::Day, from: date.months_before(1).end(), to: date.end() }
    }

    /// getAssetValueYear: monthly bars of the date's month, up to and with the date, and of the
    /// eleven months before it.
    pub fn year(date: Date) -> Window {
        Window {
            resolution: Resolution::Month,
            from: date.months_before(11).first_of_month().start(),
            to: date.end(),
        }
    }

    /// getAssetValueAllTime: all monthly bars.
    pub fn all_time() -> Window {
        Window {
            resolution: Resolution::Month,
            from: MarketTime(i64::MIN),
            to: MarketTime(i64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> Date {
        Date::parse(text).unwrap()
    }

    #[test]
    fn windows_are_half_open_and_end_with_the_date() {
        let d = date("2005-03-31");
        assert_eq!(Window::day(d).from, d.start());
        assert_eq!(Window::day(d).to, date("2005-04-01").start());
        assert_eq!(Window::week(d).from, date("2005-03-25").start());
        assert_eq!(Window::month(d).from, date("2005-03-01").start());
        assert_eq!(Window::month(date("2005-03-15")).from, date("2005-02-16").start());
        assert_eq!(Window::year(d).from, date("2004-04-01").start());
        assert_eq!(Window::year(date("2005-12-01")).from, date("2005-01-01").start());
    }

    #[test]
    fn rolling_up_keeps_the_extremes_and_the_ends() {
        let price = |n: i64| Price::from_raw(n).unwrap();
        let bar = |start: &str, o, h, l, c, v| Bar {
            start: date(start).start(),
            open: price(o),
            high: price(h),
            low: price(l),
            close: price(c),
            volume: Volume::from_raw(v),
        };
        let days = [
            bar("2005-01-28", 10, 12, 9, 11, 5),
            bar("2005-01-31", 11, 20, 11, 12, 6),
            bar("2005-02-01", 12, 13, 1, 2, 7),
        ];
        let months = roll_up(&days, Resolution::Month);
        assert_eq!(
            months,
            [bar("2005-01-01", 10, 20, 9, 12, 11), bar("2005-02-01", 12, 13, 1, 2, 7)]
        );
    }
}
