//! Reading recorded daily bars from CSV, and finding the splits in them.
//!
//! It is strict: a row that is not exactly what the header promises is an error that names the line
//! and what is wrong with it. Nothing is repaired, skipped or guessed.
//!
//! Invariants: each instrument's bars are consistent and in ascending order of date; prices never
//! pass through floating point.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};

use papertrader_core::bar::Bar;
use papertrader_core::money::{DecimalError, PRICE_SCALE, Price, Volume};
use papertrader_core::names::{NameError, Symbol};
use papertrader_core::time::Date;

use crate::source::{SourceError, is_usable};

/// What the first line must be.
const HEADER: &str = "Ticker,Date,Open,High,Low,Close,Volume,Adj Close";
/// The longest line read, in bytes, so that a broken file cannot fill the memory.
const MAX_LINE: usize = 256;

/// The splits that are recognised, as units after and units before. A dividend changes the adjusted
/// close as well, so only the ratios that companies use for splits count.
const SPLITS: [(u32, u32); 14] = [
    (2, 1),
    (3, 1),
    (3, 2),
    (4, 1),
    (5, 1),
    (7, 1),
    (10, 1),
    (1, 2),
    (1, 3),
    (2, 3),
    (1, 4),
    (1, 5),
    (1, 7),
    (1, 10),
];

/// What is wrong with a row of recorded prices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// Longer than any row can be.
    #[error("is longer than 256 bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("is not text")]
    NotText,
    /// Not as many values as the header has columns.
    #[error("has {found} values instead of 8")]
    Columns {
        /// How many values there are.
        found: usize,
    },
    /// The ticker is not a symbol.
    #[error("has no ticker: {0}")]
    Ticker(NameError),
    /// The date does not exist, is not written YYYY-MM-DD, or is not within 1900 to 2199.
    #[error("has no date of the form YYYY-MM-DD from 1900 to 2199")]
    Date,
    /// One of the prices is not a positive decimal number.
    #[error("has a value in \"{column}\" that {error}")]
    Price {
        /// The header of the column.
        column: &'static str,
        /// Why it is not a price.
        error: DecimalError,
    },
    /// The volume is not a whole number of units, or too large.
    #[error("has a volume that is not a whole number below 92 billion")]
    Volume,
    /// Open or close is not between low and high.
    #[error("has an open or close outside low to high")]
    Inconsistent,
    /// The date is not later than that of the ticker's row before.
    #[error("does not have a later date than the ticker's row before it")]
    NotLater,
}

/// All that is recorded of one instrument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// Its ticker.
    pub(crate) symbol: Symbol,
    /// Its daily bars by ascending date, starting at midnight UTC; not adjusted for splits.
    pub(crate) days: Vec<Bar>,
    /// Its splits by ascending date: the position in `days` of the first day after the split, units
    /// after, units before.
    pub(crate) splits: Vec<(usize, u32, u32)>,
}

/// A row of the file.
struct Row {
    symbol: Symbol,
    bar: Bar,
    adjusted_close: Price,
}

/// Reads all rows. The instruments come in order of their symbols.
pub(crate) fn read(mut reader: impl BufRead) -> Result<Vec<Recorded>, SourceError> {
    let mut line = Vec::with_capacity(MAX_LINE + 2);
    let wrong_header = || SourceError::Header { expected: HEADER };
    match next_line(&mut reader, &mut line)? {
        Some(Ok(HEADER)) => {}
        _ => return Err(wrong_header()),
    }

    let mut instruments: BTreeMap<Symbol, (Recorded, Price)> = BTreeMap::new();
    let mut number = 1;
    while let Some(text) = next_line(&mut reader, &mut line)? {
        number += 1;
        let at_line = |error| SourceError::Row { line: number, error };
        let row = text.and_then(parse_row).map_err(at_line)?;
        match instruments.get_mut(&row.symbol) {
            None => {
                let Row { symbol, bar, adjusted_close } = row;
                let recorded = Recorded { symbol, days: vec![bar], splits: Vec::new() };
                instruments.insert(symbol, (recorded, adjusted_close));
            }
            Some((recorded, adjusted_before)) => {
                if let Some(before) = recorded.days.last() {
                    if row.bar.start <= before.start {
                        return Err(at_line(RowError::NotLater));
                    }
                    if let Some((to, from)) = split_between(before, *adjusted_before, &row) {
                        recorded.splits.push((recorded.days.len(), to, from));
                    }
                }
                recorded.days.push(row.bar);
                *adjusted_before = row.adjusted_close;
            }
        }
    }
    if instruments.is_empty() {
        return Err(SourceError::NoRows);
    }
    Ok(instruments.into_values().map(|(recorded, _)| recorded).collect())
}

/// The next line without its end, or `None` at the end of the file.
fn next_line<'a>(
    reader: &mut impl BufRead,
    line: &'a mut Vec<u8>,
) -> Result<Option<Result<&'a str, RowError>>, SourceError> {
    line.clear();
    // One byte more than fits, and the line's end.
    if reader.by_ref().take(MAX_LINE as u64 + 2).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    let content = line.strip_suffix(b"\n").unwrap_or(line);
    let content = content.strip_suffix(b"\r").unwrap_or(content);
    if content.len() > MAX_LINE {
        return Ok(Some(Err(RowError::TooLong)));
    }
    Ok(Some(std::str::from_utf8(content).map_err(|_| RowError::NotText)))
}

fn parse_row(text: &str) -> Result<Row, RowError> {
    let found = text.split(',').count();
    let mut values = text.split(',');
    let mut value = || values.next().ok_or(RowError::Columns { found });
    let (ticker, date) = (value()?, value()?);
    let (open, high, low, close) = (value()?, value()?, value()?, value()?);
    let (volume, adjusted) = (value()?, value()?);
    if found != 8 {
        return Err(RowError::Columns { found });
    }
    let symbol = ticker.parse().map_err(RowError::Ticker)?;
    let date = Date::parse(date).filter(|date| is_usable(*date)).ok_or(RowError::Date)?;
    let price = |column, text: &str| {
        text.parse::<Price>().map_err(|error| RowError::Price { column, error })
    };
    let bar = Bar {
        start: date.start(),
        open: price("Open", open)?,
        high: price("High", high)?,
        low: price("Low", low)?,
        close: price("Close", close)?,
        volume: parse_volume(volume).ok_or(RowError::Volume)?,
    };
    if !bar.is_consistent() {
        return Err(RowError::Inconsistent);
    }
    let adjusted_close = price("Adj Close", shortened(adjusted))?;
    Ok(Row { symbol, bar, adjusted_close })
}

fn parse_volume(text: &str) -> Option<Volume> {
    // `parse` alone would accept a plus sign.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let units: i64 = text.parse().ok().filter(|_| digits)?;
    let volume = Volume::from_units(units);
    (volume.raw() / Volume::from_units(1).raw() == units).then_some(volume)
}

/// The adjusted close comes with more decimals than a price has. Only its ratio to the close is
/// used, so those that a price cannot hold are cut off, if they are digits.
fn shortened(text: &str) -> &str {
    let Some((whole, fraction)) = text.split_once('.') else { return text };
    let kept = PRICE_SCALE as usize;
    match fraction.get(kept..) {
        Some(rest) if rest.bytes().all(|b| b.is_ascii_digit()) => {
            text.get(..whole.len() + 1 + kept).unwrap_or(text)
        }
        _ => text,
    }
}

/// The split between two consecutive days of an instrument, if there was one: the ratio of close to
/// adjusted close fell by exactly a split's ratio, and the price itself moved about as much.
fn split_between(before: &Bar, adjusted_before: Price, row: &Row) -> Option<(u32, u32)> {
    let raw = |price: Price| i128::from(price.raw());
    // (close / adjusted) of the day before over that of this day, as a fraction. The largest price
    // is 10¹⁷, so that no product here exceeds 10³⁷.
    let numerator = raw(before.close) * raw(row.adjusted_close);
    let denominator = raw(adjusted_before) * raw(row.bar.close);
    SPLITS.into_iter().find(|(to, from)| {
        let (to, from) = (i128::from(*to), i128::from(*from));
        let off = (numerator * from - denominator * to).abs();
        let drop_off = (raw(row.bar.open) * to - raw(before.close) * from).abs();
        // Within 0.5 % and within 25 %.
        off.checked_mul(200).is_some_and(|off| off <= denominator * to)
            && drop_off * 4 <= raw(before.close) * from
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "AAPL,2000-03-01,118.56,132.06,118.5,130.31,9616100,4.186662803811";

    fn read_rows(rows: &[&str]) -> Result<Vec<Recorded>, SourceError> {
        read(format!("{HEADER}\n{}\n", rows.join("\n")).as_bytes())
    }

    /// The error of a second row that follows a good one, which is line 3.
    fn error_of(row: &str) -> RowError {
        match read_rows(&[GOOD, row]) {
            Err(SourceError::Row { line: 3, error }) => error,
            other => panic!("{row}: {other:?}"),
        }
    }

    #[test]
    fn a_row_is_read_exactly() {
        for end in ["\n", "\r\n", ""] {
            let text = format!("{HEADER}\n{GOOD}{end}");
            let all = read(text.as_bytes()).unwrap();
            assert_eq!(all.len(), 1);
            assert_eq!(all[0].symbol.as_str(), "AAPL");
            let bar = all[0].days[0];
            assert_eq!(bar.start, Date::parse("2000-03-01").unwrap().start());
            let prices = [bar.open, bar.high, bar.low, bar.close].map(|p| p.to_string());
            assert_eq!(prices, ["118.56", "132.06", "118.50", "130.31"]);
            assert_eq!(bar.volume.to_string(), "9616100");
        }
    }

    #[test]
    fn each_malformed_row_has_its_error() {
        use RowError as E;
        let price = |column, error| E::Price { column, error };
        let cases = [
            ("", E::Columns { found: 1 }),
            ("AAPL,2000-03-02,1,1,1,1,1", E::Columns { found: 7 }),
            ("AAPL,2000-03-02,1,1,1,1,1,1,1", E::Columns { found: 9 }),
            ("aapl,2000-03-02,1,1,1,1,1,1", E::Ticker(NameError::Symbol)),
            ("\"AAPL\",2000-03-02,1,1,1,1,1,1", E::Ticker(NameError::Symbol)),
            ("AAPL,2001-02-29,1,1,1,1,1,1", E::Date),
            ("AAPL,02/03/2000,1,1,1,1,1,1", E::Date),
            ("AAPL,1899-12-31,1,1,1,1,1,1", E::Date),
            ("AAPL,2200-01-01,1,1,1,1,1,1", E::Date),
            ("AAPL,2000-03-02,,1,1,1,1,1", price("Open", DecimalError::NotANumber)),
            ("AAPL,2000-03-02,0,1,1,1,1,1", price("Open", DecimalError::NotANumber)),
            ("AAPL,2000-03-02,1,-1,1,1,1,1", price("High", DecimalError::Negative)),
            ("AAPL,2000-03-02,1,1,1e0,1,1,1", price("Low", DecimalError::NotANumber)),
            (
                "AAPL,2000-03-02,1,1,1,1.000000001,1,1",
                price("Close", DecimalError::TooManyDecimals),
            ),
            ("AAPL,2000-03-02,1,1,1,NaN,1,1", price("Close", DecimalError::NotANumber)),
            ("AAPL,2000-03-02,1,1,1,1,1,", price("Adj Close", DecimalError::NotANumber)),
            (
                "AAPL,2000-03-02,1,1,1,1,1,0.00000000999",
                price("Adj Close", DecimalError::NotANumber),
            ),
            ("AAPL,2000-03-02,1,1,1,1,1,1.12345678x", price("Adj Close", DecimalError::NotANumber)),
            (
                "AAPL,2000-03-02,1,1,1,1,9999999999,1000000001",
                price("Adj Close", DecimalError::TooLarge),
            ),
            ("AAPL,2000-03-02,1,1,1,1,1.5,1", E::Volume),
            ("AAPL,2000-03-02,1,1,1,1,+1,1", E::Volume),
            ("AAPL,2000-03-02,1,1,1,1,,1", E::Volume),
            ("AAPL,2000-03-02,1,1,1,1,92233720369,1", E::Volume),
            ("AAPL,2000-03-02,3,2,1,1,1,1", E::Inconsistent),
            ("AAPL,2000-03-02,2,2,1,3,1,1", E::Inconsistent),
            ("AAPL,2000-03-02,1,1,2,1,1,1", E::Inconsistent),
            ("AAPL,2000-03-01,1,1,1,1,1,1", E::NotLater),
            ("AAPL,2000-02-29,1,1,1,1,1,1", E::NotLater),
        ];
        for (row, error) in cases {
            assert_eq!(error_of(row), error, "{row}");
        }
        assert_eq!(error_of(&"A".repeat(MAX_LINE + 1)), E::TooLong);
        assert_eq!(error_of(&"A".repeat(100_000)), E::TooLong);
        assert_eq!(error_of(&"A".repeat(MAX_LINE)), E::Columns { found: 1 });
        let not_text = [HEADER.as_bytes(), b"\n\xff\n"].concat();
        assert!(matches!(
            read(not_text.as_slice()),
            Err(SourceError::Row { line: 2, error: E::NotText })
        ));
    }

    #[test]
    fn errors_name_the_line_and_the_column() {
        let error = read_rows(&[GOOD, "AAPL,2000-03-02,1,-1,1,1,1,1"]).unwrap_err();
        assert_eq!(error.to_string(), "line 3 has a value in \"High\" that is negative");
    }

    #[test]
    fn a_file_needs_its_header_and_a_row() {
        for text in ["", "\n", GOOD, "Ticker,Date\n"] {
            assert!(matches!(read(text.as_bytes()), Err(SourceError::Header { .. })), "{text}");
        }
        assert!(matches!(read(HEADER.as_bytes()), Err(SourceError::NoRows)));
    }

    #[test]
    fn instruments_are_sorted_and_their_rows_may_be_mixed() {
        let all = read_rows(&[
            "B,2000-03-01,1,1,1,1,1,1",
            "A,2000-03-01,1,1,1,1,1,1",
            "B,2000-03-02,1,1,1,1,1,1",
        ])
        .unwrap();
        let found: Vec<_> = all.iter().map(|r| (r.symbol.as_str(), r.days.len())).collect();
        assert_eq!(found, [("A", 1), ("B", 2)]);
    }

    /// The splits found between a day that closed at 100.00 (adjusted 100.00) and one that opened
    /// and closed at `price`, adjusted `adjusted`.
    fn splits(price: &str, adjusted: &str) -> Vec<(usize, u32, u32)> {
        let second = format!("A,2000-03-02,{price},{price},{price},{price},1,{adjusted}");
        read_rows(&["A,2000-03-01,100,100,100,100,1,100", &second]).unwrap()[0].splits.clone()
    }

    #[test]
    fn every_ratio_of_a_split_is_found() {
        let cases = [
            ("50", 2, 1),
            ("33.33", 3, 1),
            ("66.67", 3, 2),
            ("25", 4, 1),
            ("20", 5, 1),
            ("14.2857", 7, 1),
            ("10", 10, 1),
            ("200", 1, 2),
            ("300", 1, 3),
            ("150", 2, 3),
            ("400", 1, 4),
            ("500", 1, 5),
            ("700", 1, 7),
            ("1000", 1, 10),
        ];
        for (price, to, from) in cases {
            assert_eq!(splits(price, "100"), [(1, to, from)], "{price}");
        }
    }

    #[test]
    fn what_only_resembles_a_split_is_none() {
        // A crash: the price halves and so does the adjusted close.
        assert_eq!(splits("50", "50"), []);
        // A dividend.
        assert_eq!(splits("90", "100"), []);
        // The adjustment says split, the price does not.
        assert_eq!(splits("100", "200"), []);
        // 0.5 % is the tolerance of the ratio.
        assert_eq!(splits("50", "100.4"), [(1, 2, 1)]);
        assert_eq!(splits("50", "100.6"), []);
        // 25 % is that of the price.
        assert_eq!(splits("62", "124"), [(1, 2, 1)]);
        assert_eq!(splits("63", "126"), []);
    }

    #[test]
    fn the_largest_prices_do_not_overflow() {
        let m = "1000000000";
        let rows = [
            format!("A,2000-03-01,{m},{m},{m},{m},1,0.00000001"),
            format!("A,2000-03-02,{m},{m},{m},{m},1,{m}"),
            format!("A,2000-03-03,{m},{m},{m},{m},1,0.00000001"),
        ];
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        assert_eq!(read_rows(&rows).unwrap()[0].splits, []);
    }
}
