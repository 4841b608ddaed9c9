//! The two clocks, both in nanoseconds since 1970-01-01T00:00Z.
//!
//! [`WallTime`] says when something happened; [`MarketTime`] is the time of the prices, which in a
//! replay runs through the recorded years. They are different types so that one is never taken for
//! the other. This crate reads neither clock. Days are UTC days.

/// Nanoseconds in a second.
pub const SECOND: i64 = 1_000_000_000;
/// Nanoseconds in a UTC day (UTC days here have no leap seconds).
pub const DAY: i64 = 86_400 * SECOND;

/// When something happened, by the master's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WallTime(pub i64);

/// The time of a price, by the price source's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MarketTime(pub i64);

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Moment {
    /// When it happened.
    pub wall: WallTime,
    /// The market's time when it happened.
    pub market: MarketTime,
}

impl MarketTime {
    /// The first nanosecond of this time's UTC day.
    pub const fn day_start(self) -> MarketTime {
        MarketTime(self.0.saturating_sub(self.0.rem_euclid(DAY)))
    }

    /// The number of the UTC day, days since 1970-01-01.
    pub const fn day_number(self) -> i64 {
        self.0.div_euclid(DAY)
    }

    /// This time plus nanoseconds, saturating.
    pub const fn plus_nanos(self, nanos: i64) -> MarketTime {
        MarketTime(self.0.saturating_add(nanos))
    }
}

impl WallTime {
    /// This time plus nanoseconds, saturating.
    pub const fn plus_nanos(self, nanos: i64) -> WallTime {
        WallTime(self.0.saturating_add(nanos))
    }
}

/// A calendar date in UTC, for the windows of the getAssetValue… instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date {
    /// Year, 1 to 9999.
    pub year: i32,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day of the month, 1 to 31.
    pub day: u8,
}

impl Date {
    /// A date that exists, or `None`. Years 1 to 9999.
    pub fn new(year: i32, month: u8, day: u8) -> Option<Date> {
        let exists = (1..=9999).contains(&year)
            && (1..=12).contains(&month)
            && day >= 1
            && day <= days_in_month(year, month);
        exists.then_some(Date { year, month, day })
    }

    /// Reads exactly `YYYY-MM-DD`.
    pub fn parse(text: &str) -> Option<Date> {
        let bytes = text.as_bytes();
        let shape = bytes.len() == 10
            && bytes.iter().enumerate().all(|(i, b)| match i {
                4 | 7 => *b == b'-',
                _ => b.is_ascii_digit(),
            });
        if !shape {
            return None;
        }
        Date::new(text[0..4].parse().ok()?, text[5..7].parse().ok()?, text[8..10].parse().ok()?)
    }

    /// The UTC date of a market time.
    pub fn of(time: MarketTime) -> Date {
        // Days to civil date, by the era method of the proleptic Gregorian calendar.
        let days = time.day_number() + 719_468;
        let era = days.div_euclid(146_097);
        let of_era = days.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Date { year: year as i32, month: month as u8, day: day as u8 }
    }

    /// Midnight UTC at the start of this date.
    pub fn start(self) -> MarketTime {
        let year = i64::from(self.year) - i64::from(self.month <= 2);
        let era = year.div_euclid(400);
        let of_era = year.rem_euclid(400);
        let shifted = (i64::from(self.month) + 9) % 12;
        let of_year = (153 * shifted + 2) / 5 + i64::from(self.day) - 1;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
        MarketTime(days.saturating_mul(DAY))
    }

    /// Midnight UTC at the end of this date: the start of the next.
    pub fn end(self) -> MarketTime {
        self.start().plus_nanos(DAY)
    }

    /// The first day of this date's month.
    pub fn first_of_month(self) -> Date {
        Date { day: 1, ..self }
    }

    /// The same day `months` earlier, or that month's last day where it has fewer days.
    pub fn months_before(self, months: i32) -> Date {
        let index = self.year * 12 + i32::from(self.month) - 1 - months;
        let (year, month) = (index.div_euclid(12), (index.rem_euclid(12) + 1) as u8);
        Date { year, month, day: self.day.min(days_in_month(year, month)) }
    }
}

impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

fn days_in_month(year: i32, month: u8) -> u8 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_dates() {
        assert_eq!(Date::parse("1970-01-01").unwrap().start(), MarketTime(0));
        assert_eq!(Date::parse("2000-03-01").unwrap().start().0, 951_868_800 * SECOND);
        assert_eq!(Date::of(MarketTime(951_868_800 * SECOND - 1)).to_string(), "2000-02-29");
        for text in
            ["2001-02-29", "2000-13-01", "2000-00-01", "2000-1-01", "+000-01-01", "0000-01-01"]
        {
            assert_eq!(Date::parse(text), None, "{text}");
        }
        assert_eq!(Date::parse("2005-03-31").unwrap().months_before(1).to_string(), "2005-02-28");
        assert_eq!(Date::parse("2005-01-15").unwrap().months_before(12).to_string(), "2004-01-15");
    }

    proptest! {
        #[test]
        fn dates_round_trip(day in -100_000i64..100_000) {
            let start = MarketTime(day * DAY);
            let date = Date::of(start);
            prop_assert_eq!(date.start(), start);
            prop_assert_eq!(Date::of(MarketTime(start.0 + DAY - 1)), date);
            prop_assert_eq!(Date::parse(&date.to_string()), Some(date));
        }
    }
}
