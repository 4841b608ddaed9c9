//! Times: in the user's zone for people, RFC 3339 in UTC for programs.
//!
//! Days and months of the market are UTC days, so a date of a daily bar is never moved into
//! another zone.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use papertrader_core::time::{Date, MarketTime, WallTime};
use papertrader_master::admin::message::Stamp;

/// Something that counts nanoseconds since 1970.
pub(crate) trait Nanos: Copy {
    /// The count.
    fn nanos(self) -> i64;

    /// Its moment. Every 64-bit count of nanoseconds is in the calendar's range.
    fn timestamp(self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.nanos())).unwrap_or_default()
    }

    /// `2005-03-01T15:30:00Z`, with a fraction where there is one.
    fn rfc3339(self) -> String {
        self.timestamp().to_string()
    }

    /// `2005-03-01 16:30:00 CET` in the user's zone, or `2005-03-01 15:30:00 UTC`.
    fn local(self) -> String {
        self.shown("%Y-%m-%d %H:%M:%S %Z", TimeZone::system())
    }

    /// The same for a cell of a table; [`zone_line`] stands below the table.
    fn cell(self) -> String {
        self.shown("%Y-%m-%d %H:%M:%S", TimeZone::system())
    }

    /// In the given form and zone.
    fn shown(self, format: &str, zone: TimeZone) -> String {
        self.timestamp().to_zoned(zone).strftime(format).to_string()
    }
}

impl Nanos for WallTime {
    fn nanos(self) -> i64 {
        self.0
    }
}

impl Nanos for Stamp {
    fn nanos(self) -> i64 {
        self.0
    }
}

impl Nanos for MarketTime {
    fn nanos(self) -> i64 {
        self.0
    }
}

/// Says which times those in the table above are.
pub(crate) fn zone_line() -> String {
    format!("times are {}\n", zone_name(&TimeZone::system()))
}

fn zone_name(zone: &TimeZone) -> String {
    // A machine that knows no zone of its own shows UTC.
    let utc = ["UTC", "Etc/UTC"];
    match zone.iana_name() {
        None if !zone.is_unknown() => "in the zone of this machine".to_owned(),
        Some(name) if !utc.contains(&name) => format!("in {name}"),
        _ => "UTC".to_owned(),
    }
}

/// The UTC date of a market time.
pub(crate) fn market_date(time: MarketTime) -> Date {
    Date::of(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_named() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        for (zone, name) in [
            (TimeZone::UTC, "UTC"),
            (TimeZone::unknown(), "UTC"),
            (berlin, "in Europe/Berlin"),
            (TimeZone::fixed(jiff::tz::offset(1)), "in the zone of this machine"),
        ] {
            assert_eq!(zone_name(&zone), name);
        }
    }

    #[test]
    fn times_have_two_forms() {
        let time = MarketTime(1_109_691_000_000_000_000);
        assert_eq!(time.rfc3339(), "2005-03-01T15:30:00Z");
        assert_eq!(MarketTime(time.0 + 5).rfc3339(), "2005-03-01T15:30:00.000000005Z");
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        assert_eq!(time.shown("%Y-%m-%d %H:%M:%S", zone), "2005-03-01 16:30:00");
        assert_eq!(time.shown("%H:%M:%S %Z", TimeZone::UTC), "15:30:00 UTC");
        assert_eq!(WallTime(i64::MIN).rfc3339(), "1677-09-21T00:12:43.145224192Z");
    }
}
