//! The recorded prices as the file has them, read without any of the program's own code for it,
//! and the times of its sessions.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::GzDecoder;
use jiff::civil;
use papertrader_core::bar::Bar;
use papertrader_core::money::{Price, Volume};
use papertrader_core::time::MarketTime;

/// A row: a day of one symbol.
pub(crate) struct Row {
    pub(crate) date: civil::Date,
    pub(crate) bar: Bar,
}

/// All rows by symbol, in order of date.
pub(crate) struct File(pub(crate) BTreeMap<String, Vec<Row>>);

impl File {
    pub(crate) fn read() -> File {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/stocks-daily-2000-2013.csv.gz");
        let mut text = String::new();
        GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
        let mut rows: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        for line in text.lines().skip(1) {
            let cells: Vec<&str> = line.split(',').collect();
            let date: civil::Date = cells[1].parse().unwrap();
            let bar = Bar {
                start: midnight(date),
                open: price(cells[2]),
                high: price(cells[3]),
                low: price(cells[4]),
                close: price(cells[5]),
                volume: Volume::from_raw(scaled(cells[6])),
            };
            rows.entry(cells[0].to_owned()).or_default().push(Row { date, bar });
        }
        File(rows)
    }

    pub(crate) fn rows(&self, symbol: &str) -> &[Row] {
        &self.0[symbol]
    }

    /// The row of one date.
    pub(crate) fn row(&self, symbol: &str, date: civil::Date) -> Option<&Row> {
        self.rows(symbol).iter().find(|row| row.date == date)
    }
}

/// A date's first instant in UTC.
pub(crate) fn midnight(date: civil::Date) -> MarketTime {
    at(date, 0, 0, "UTC")
}

/// When the session of a date opens and closes in New York.
pub(crate) fn session(date: civil::Date) -> (MarketTime, MarketTime) {
    (at(date, 9, 30, "America/New_York"), at(date, 16, 0, "America/New_York"))
}

/// The UTC date of a market time.
pub(crate) fn date_of(time: MarketTime) -> civil::Date {
    let stamp = jiff::Timestamp::from_nanosecond(i128::from(time.0)).unwrap();
    stamp.to_zoned(jiff::tz::TimeZone::UTC).date()
}

fn at(date: civil::Date, hour: i8, minute: i8, zone: &str) -> MarketTime {
    let zoned = date.at(hour, minute, 0, 0).in_tz(zone).unwrap();
    MarketTime(i64::try_from(zoned.timestamp().as_nanosecond()).unwrap())
}

fn price(text: &str) -> Price {
    Price::from_raw(scaled(text)).unwrap()
}

/// A decimal number in units of 10⁻⁸.
fn scaled(text: &str) -> i64 {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    assert!(part.len() <= 8, "{text}");
    format!("{whole}{part:0<8}").parse().unwrap()
}
