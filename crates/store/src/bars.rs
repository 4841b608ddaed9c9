//! How the bars of settlements are stored: on a tape, a row for each settlement, and bit by bit in
//! chunks, a row for some bars of one instrument and resolution (`docs/design/0010-bars.md`).
//!
//! A row for each bar lies on a page for each instrument, which a settlement would write all. The tape
//! is one row that is written at the end of its table; every 64 rows of it each instrument had its turn
//! to have its bars put into a chunk, and the row before those is deleted. What is on the tape alone is in memory
//! ([`Tails`]).
//!
//! It writes and reads no database. Invariant: every bar that was committed is in its instrument's
//! tail or in a chunk.

use std::collections::BTreeMap;

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::ids::InstrumentId;
use papertrader_core::money::{Price, Volume};
use papertrader_core::time::MarketTime;

use crate::BarRow;

/// Rows of the tape after which each instrument had its turn once. It is part of what is stored: it
/// never changes.
const PERIOD: u64 = 64;

/// Whether an instrument's bars up to and with this row of the tape are put into a chunk with it.
fn is_closed_by(instrument: InstrumentId, number: u64) -> bool {
    (u64::from(instrument.0) + number).is_multiple_of(PERIOD)
}

/// The rows of the tape that are there when this one is the last.
pub(crate) fn rows_up_to(last: u64) -> std::ops::RangeInclusive<u64> {
    last.saturating_sub(PERIOD - 2).max(1)..=last
}

/// Whose bars, and which.
pub(crate) type Series = (InstrumentId, Resolution);

fn series(row: &BarRow) -> Series {
    (row.instrument, row.resolution)
}

/// A bar comes after a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a bar of instrument {instrument} that starts at {} is earlier than its last one", start.0)]
pub(crate) struct OutOfOrder {
    instrument: InstrumentId,
    start: MarketTime,
}

/// What is on the tape and in no chunk.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    /// The last row of the tape; 0 before the first.
    number: u64,
    /// By [`place`], each in order of time.
    bars: Vec<Vec<Bar>>,
    /// The start of the last of each, or of the last that was there.
    last: Vec<MarketTime>,
}

/// The start of the last bar of a series that had none.
const NONE: MarketTime = MarketTime(i64::MIN);

/// Resolutions, and so series of an instrument.
const SERIES: usize = Resolution::ALL.len();

/// Where a series has its bars: instruments are numbered without gaps.
fn place((instrument, resolution): Series) -> usize {
    instrument.0 as usize * SERIES + resolution as usize
}

/// What a batch brings to them: one row of the tape, and what follows from it.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) number: u64,
    /// By resolution.
    taped: Vec<BarRow>,
}

impl Row {
    /// Whether there is nothing on it.
    pub(crate) fn is_empty(&self) -> bool {
        self.taped.is_empty()
    }

    /// The row itself, as it is stored.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        encode_row(&self.taped)
    }

    /// The row of the tape that is not needed any more: all of it is in chunks.
    pub(crate) fn over(&self) -> Option<u64> {
        self.number.checked_sub(PERIOD - 1).filter(|number| *number > 0)
    }
}

impl Tails {
    /// Takes over a row of the tape as it is stored; rows come in order, and `last` is the last of them.
    pub(crate) fn take(
        &mut self,
        last: u64,
        number: u64,
        taped: &[BarRow],
    ) -> Result<(), OutOfOrder> {
        // A row that ought not to be there any more is in chunks.
        let from = number.max(last.saturating_sub(PERIOD));
        let is_closed = |instrument| (from..=last).any(|by| is_closed_by(instrument, by));
        for row in taped.iter().filter(|row| !is_closed(row.instrument)) {
            self.add(row)?;
        }
        self.number = number;
        Ok(())
    }

    /// The bars of a series that are in no chunk.
    pub(crate) fn of(&self, series: Series) -> &[Bar] {
        self.bars.get(place(series)).map_or(&[], Vec::as_slice)
    }

    /// How many bars there are.
    pub(crate) fn count(&self) -> usize {
        self.bars.iter().map(Vec::len).sum()
    }

    /// The last bar of a series that is in a chunk starts here.
    pub(crate) fn put_last(&mut self, series: Series, start: MarketTime) {
        *place_of(&mut self.last, series, NONE) = start;
    }

    /// The row that a batch with these bars writes, and the bars that are not on it because they start
    /// before the last one of their series. Of two with the same start the later counts.
    pub(crate) fn row(&self, mut taped: Vec<BarRow>) -> (Row, Vec<BarRow>) {
        // Those of a resolution have the same start, nearly always.
        taped.sort_by_key(|row| row.resolution);
        let mut last = self.last.clone();
        let late = taped.extract_if(.., |row| follow(&mut last, row).is_err()).collect();
        (Row { number: self.number + 1, taped }, late)
    }

    /// The chunks that are written with a row: what they are of, and their bars.
    pub(crate) fn closed_by(&self, row: &Row) -> Vec<(Series, Vec<Bar>)> {
        let mut closed: BTreeMap<Series, Vec<Bar>> = BTreeMap::new();
        for instrument in self.closed_instruments(row.number) {
            for resolution in Resolution::ALL {
                let series = (instrument, resolution);
                let bars = self.of(series);
                if !bars.is_empty() {
                    closed.insert(series, bars.to_vec());
                }
            }
        }
        for row in row.taped.iter().filter(|bar| is_closed_by(bar.instrument, row.number)) {
            put(closed.entry(series(row)).or_default(), row.bar);
        }
        closed.into_iter().collect()
    }

    /// A row is committed, and the chunks that follow from it.
    pub(crate) fn apply(&mut self, row: Row) {
        self.number = row.number;
        for bar in &row.taped {
            // It was compared with these when the row was made.
            let _ = self.add(bar);
        }
        for instrument in self.closed_instruments(row.number) {
            for resolution in Resolution::ALL {
                if let Some(bars) = self.bars.get_mut(place((instrument, resolution))) {
                    *bars = Vec::new();
                }
            }
        }
    }

    /// The instruments that have bars here, or had some, and whose turn comes with a row.
    fn closed_instruments(&self, number: u64) -> impl Iterator<Item = InstrumentId> + use<> {
        let all = u32::try_from(self.bars.len().div_ceil(SERIES)).unwrap_or(u32::MAX);
        let first = (0..PERIOD as u32).find(|id| is_closed_by(InstrumentId(*id), number));
        (first.unwrap_or(0)..all).step_by(PERIOD as usize).map(InstrumentId)
    }

    fn add(&mut self, row: &BarRow) -> Result<(), OutOfOrder> {
        follow(&mut self.last, row)?;
        put(place_of(&mut self.bars, series(row), Vec::new()), row.bar);
        Ok(())
    }
}

/// Notes that this is the last bar of its series, if it is.
fn follow(last: &mut Vec<MarketTime>, row: &BarRow) -> Result<(), OutOfOrder> {
    let before = place_of(last, series(row), NONE);
    if row.bar.start < *before {
        return Err(OutOfOrder { instrument: row.instrument, start: row.bar.start });
    }
    *before = row.bar.start;
    Ok(())
}

/// What is noted of a series, made as `nothing` if it is not there.
fn place_of<T: Clone>(all: &mut Vec<T>, series: Series, nothing: T) -> &mut T {
    let place = place(series);
    if all.len() <= place {
        all.resize(place + 1, nothing);
    }
    &mut all[place]
}

/// Appends a bar, or replaces the last one if that has the same start.
fn put(bars: &mut Vec<Bar>, bar: Bar) {
    match bars.last_mut() {
        Some(last) if last.start == bar.start => *last = bar,
        _ => bars.push(bar),
    }
}

/// Appends bars that were stored after `bars`; of two with the same start the later counts.
pub(crate) fn extend(bars: &mut Vec<Bar>, more: impl IntoIterator<Item = Bar>) {
    for bar in more {
        // What another row has of the same time, and nothing else, is superseded.
        while bars.last().is_some_and(|last| last.start >= bar.start) {
            bars.pop();
        }
        bars.push(bar);
    }
}

/// Bytes that are no bars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its bars cannot be read")]
pub(crate) struct Malformed;

/// The first byte of both.
const FORMAT: u8 = 1;
/// A bar has no fewer bytes.
const LEAST: usize = 6;

/// Bits of a bar's first byte: what its numbers are counted in, and what is left out.
const CENTS: u8 = 1;
const UNITS: u8 = 2;
const SAME_STEP: u8 = 4;
/// Those that the coder knows; on the tape the next two say the resolution.
const CODED: u8 = CENTS | UNITS | SAME_STEP;
const RESOLUTION: u32 = CODED.count_ones();
/// In 10⁻⁸.
const CENT: i64 = 1_000_000;
const UNIT: i64 = 100_000_000;

fn encode_row(taped: &[BarRow]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + taped.len() * 12);
    out.push(FORMAT);
    put_number(taped.len() as u64, &mut out);
    let (mut coder, mut before) = (Coder::default(), 0);
    for BarRow { instrument, resolution, bar } in taped {
        put_signed(i64::from(instrument.0) - before, &mut out);
        before = i64::from(instrument.0);
        coder.put((*resolution as u8) << RESOLUTION, bar, &mut out);
    }
    out
}

/// The bars of a row of the tape.
pub(crate) fn decode_row(bytes: &[u8]) -> Result<Vec<BarRow>, Malformed> {
    let mut input = bytes;
    let count = head(&mut input)?;
    let mut taped = Vec::with_capacity(count);
    let (mut coder, mut before) = (Coder::default(), 0_i64);
    for _ in 0..count {
        before = before.checked_add(signed(&mut input)?).ok_or(Malformed)?;
        let instrument = InstrumentId(u32::try_from(before).map_err(|_| Malformed)?);
        let (kind, bar) = coder.bar(&mut input)?;
        let resolution = Resolution::from_number(kind >> RESOLUTION).ok_or(Malformed)?;
        taped.push(BarRow { instrument, resolution, bar });
    }
    if input.is_empty() { Ok(taped) } else { Err(Malformed) }
}

/// The bars of a chunk as they are stored.
pub(crate) fn encode_chunk(bars: &[Bar]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + bars.len() * 12);
    out.push(FORMAT);
    put_number(bars.len() as u64, &mut out);
    let mut coder = Coder::default();
    for bar in bars {
        coder.put(0, bar, &mut out);
    }
    out
}

/// The bars of a chunk, one or more, in order of time.
pub(crate) fn decode_chunk(bytes: &[u8]) -> Result<Vec<Bar>, Malformed> {
    let mut input = bytes;
    let count = head(&mut input)?;
    let mut bars: Vec<Bar> = Vec::with_capacity(count);
    let mut coder = Coder::default();
    for _ in 0..count {
        let (kind, bar) = coder.bar(&mut input)?;
        if kind & !CODED != 0 || bars.last().is_some_and(|last| last.start >= bar.start) {
            return Err(Malformed);
        }
        bars.push(bar);
    }
    if input.is_empty() && !bars.is_empty() { Ok(bars) } else { Err(Malformed) }
}

/// How many bars follow: no more than there are bytes for.
fn head(input: &mut &[u8]) -> Result<usize, Malformed> {
    if byte(input)? != FORMAT {
        return Err(Malformed);
    }
    let count = usize::try_from(number(input)?).map_err(|_| Malformed)?;
    if count > input.len() / LEAST { Err(Malformed) } else { Ok(count) }
}

/// Writes and reads each bar by how it differs from the one before.
#[derive(Debug, Default)]
struct Coder {
    start: i64,
    step: i64,
    close: i64,
}

impl Coder {
    /// `kind` is what the first byte says besides.
    fn put(&mut self, mut kind: u8, bar: &Bar, out: &mut Vec<u8>) {
        let Bar { start, open, high, low, close, volume } = *bar;
        let [open, high, low, close] = [open, high, low, close].map(Price::raw);
        // Prices are positive, so that these differences fit.
        let prices =
            [open - self.close, close - open, high - open.max(close), open.min(close) - low];
        let step = start.0.wrapping_sub(self.start);
        let volume = volume.raw();
        let cent = if prices.iter().all(|price| price % CENT == 0) {
            kind |= CENTS;
            CENT
        } else {
            1
        };
        let unit = if volume % UNIT == 0 {
            kind |= UNITS;
            UNIT
        } else {
            1
        };
        if step == self.step {
            kind |= SAME_STEP;
        }
        out.push(kind);
        if step != self.step {
            put_signed(step, out);
        }
        for price in prices {
            put_signed(price / cent, out);
        }
        put_signed(volume / unit, out);
        *self = Coder { start: start.0, step, close };
    }

    /// A bar, and its first byte.
    fn bar(&mut self, input: &mut &[u8]) -> Result<(u8, Bar), Malformed> {
        let kind = byte(input)?;
        let step = if kind & SAME_STEP != 0 { self.step } else { signed(input)? };
        let start = self.start.wrapping_add(step);
        let cent = if kind & CENTS != 0 { CENT } else { 1 };
        let mut price = || signed(input)?.checked_mul(cent).ok_or(Malformed);
        let [to_open, to_close, up, down] = [price()?, price()?, price()?, price()?];
        let sum = |a: i64, b: i64| a.checked_add(b).ok_or(Malformed);
        let open = sum(self.close, to_open)?;
        let close = sum(open, to_close)?;
        let high = sum(open.max(close), up)?;
        let low = open.min(close).checked_sub(down).ok_or(Malformed)?;
        let unit = if kind & UNITS != 0 { UNIT } else { 1 };
        let volume = signed(input)?.checked_mul(unit).ok_or(Malformed)?;
        *self = Coder { start, step, close };
        let price = |raw| Price::from_raw(raw).ok_or(Malformed);
        let bar = Bar {
            start: MarketTime(start),
            open: price(open)?,
            high: price(high)?,
            low: price(low)?,
            close: price(close)?,
            volume: Volume::from_raw(volume),
        };
        if bar.is_consistent() { Ok((kind, bar)) } else { Err(Malformed) }
    }
}

/// Seven bits a byte, the lowest first; the last byte has its highest bit clear.
fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Small ones of either sign have few bytes.
fn put_signed(number: i64, out: &mut Vec<u8>) {
    put_number((number.cast_unsigned() << 1) ^ (number >> 63).cast_unsigned(), out);
}

fn byte(input: &mut &[u8]) -> Result<u8, Malformed> {
    let (first, rest) = input.split_first().ok_or(Malformed)?;
    *input = rest;
    Ok(*first)
}

fn number(input: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let next = u64::from(byte(input)?);
        let bits = next & 0x7f;
        if bits << shift >> shift != bits {
            return Err(Malformed);
        }
        number |= bits << shift;
        if next < 0x80 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

fn signed(input: &mut &[u8]) -> Result<i64, Malformed> {
    let number = number(input)?;
    Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use papertrader_core::money::MAX_PRICE;
    use proptest::prelude::*;

    use super::*;

    fn price() -> impl Strategy<Value = i64> {
        prop_oneof![1..=MAX_PRICE.raw(), (1..100_000_i64).prop_map(|cents| cents * CENT)]
    }

    prop_compose! {
        fn bar()(
            start in any::<i64>(),
            mut prices in [price(), price(), price(), price()],
            flip: bool,
            volume in prop_oneof![any::<i64>(), (0..1_000_000_i64).prop_map(|units| units * UNIT)],
        ) -> Bar {
            prices.sort_unstable();
            let [low, a, b, high] = prices.map(|raw| Price::from_raw(raw).unwrap());
            let (open, close) = if flip { (a, b) } else { (b, a) };
            let (start, volume) = (MarketTime(start), Volume::from_raw(volume));
            Bar { start, open, high, low, close, volume }
        }
    }

    fn row() -> impl Strategy<Value = BarRow> {
        let instrument = any::<u32>().prop_map(InstrumentId);
        let resolution = (0..4_u8).prop_map(|number| Resolution::from_number(number).unwrap());
        (instrument, resolution, bar()).prop_map(|(instrument, resolution, bar)| BarRow {
            instrument,
            resolution,
            bar,
        })
    }

    fn of(instrument: u32, bar: Bar) -> BarRow {
        BarRow { instrument: InstrumentId(instrument), resolution: Resolution::Interval, bar }
    }

    fn plain(start: i64, cents: i64) -> Bar {
        let price = Price::from_raw(cents * CENT).unwrap();
        let volume = Volume::from_units(1_000);
        Bar { start: MarketTime(start), open: price, high: price, low: price, close: price, volume }
    }

    proptest! {
        #[test]
        fn what_is_stored_is_read_again(
            taped in prop::collection::vec(row(), 0..40),
        ) {
            prop_assert_eq!(decode_row(&encode_row(&taped)), Ok(taped.clone()));
            let bars: BTreeMap<MarketTime, Bar> =
                taped.into_iter().map(|row| (row.bar.start, row.bar)).collect();
            let bars: Vec<Bar> = bars.into_values().collect();
            let read = decode_chunk(&encode_chunk(&bars));
            prop_assert_eq!(read, if bars.is_empty() { Err(Malformed) } else { Ok(bars) });
        }

        #[test]
        fn no_bytes_make_it_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..100),
            count in 0..20_u8,
            is_ours: bool,
        ) {
            if is_ours && bytes.len() > 2 {
                (bytes[0], bytes[1]) = (FORMAT, count);
            }
            let _ = (decode_row(&bytes), decode_chunk(&bytes));
        }

        #[test]
        fn damage_is_seen_or_gives_consistent_bars(
            bars in prop::collection::vec(bar(), 1..10), at: prop::sample::Index, byte: u8,
        ) {
            let taped: Vec<BarRow> = bars.into_iter().map(|bar| of(1, bar)).collect();
            let mut bytes = encode_row(&taped);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            for row in decode_row(&bytes).unwrap_or_default() {
                prop_assert!(row.bar.is_consistent());
            }
            prop_assert!(decode_row(&bytes[..at]).is_err() || at == bytes.len());
        }

        /// The model keeps all bars in a map, and the rows and chunks as a database would.
        #[test]
        fn every_bar_is_in_a_chunk_or_a_tail_and_a_start_finds_the_same(
            settlements in prop::collection::vec(
                prop::collection::btree_map(
                    (1..200_u32, 0..4_u8), (any::<bool>(), 1..1_000_i64), 0..20,
                ),
                1..200,
            ),
        ) {
            let mut tails = Tails::default();
            let mut all: BTreeMap<Series, BTreeMap<i64, Bar>> = BTreeMap::new();
            let mut tape: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
            let mut chunks: BTreeMap<(Series, i64), Vec<u8>> = BTreeMap::new();
            for (now, changed) in settlements.into_iter().enumerate() {
                let mut taped = Vec::new();
                for ((instrument, resolution), (goes_on, cents)) in changed {
                    let resolution = Resolution::from_number(resolution).unwrap();
                    let instrument = InstrumentId(instrument);
                    let bars = all.entry((instrument, resolution)).or_default();
                    let last = bars.last_key_value().map(|(start, _)| *start);
                    let start = last.filter(|_| goes_on).unwrap_or(now as i64 * 60);
                    let bar = plain(start, cents);
                    bars.insert(start, bar);
                    taped.push(BarRow { instrument, resolution, bar });
                }
                let (row, late) = tails.row(taped);
                prop_assert!(late.is_empty());
                tape.insert(row.number, row.bytes());
                for (series, bars) in tails.closed_by(&row) {
                    chunks.insert((series, bars[0].start.0), encode_chunk(&bars));
                }
                if let Some(over) = row.over() {
                    prop_assert!(tape.remove(&over).is_some());
                }
                prop_assert!(tape.len() < PERIOD as usize);
                tails.apply(row);
            }
            let mut read = Tails::default();
            let last = tails.number;
            for (number, bytes) in &tape {
                read.take(last, *number, &decode_row(bytes).unwrap()).unwrap();
            }
            prop_assert_eq!(read.number, tails.number);
            let longest = read.bars.len().max(tails.bars.len());
            read.bars.resize(longest, Vec::new());
            tails.bars.resize(longest, Vec::new());
            prop_assert_eq!(&read.bars, &tails.bars);
            for (series, expected) in all {
                let mut bars = Vec::new();
                for (_, bytes) in chunks.range((series, i64::MIN)..=(series, i64::MAX)) {
                    extend(&mut bars, decode_chunk(bytes).unwrap());
                }
                extend(&mut bars, tails.of(series).iter().copied());
                prop_assert_eq!(bars, expected.into_values().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_bar_before_the_last_one_is_not_on_the_tape() {
        let mut tails = Tails::default();
        let (row, _) = tails.row(vec![of(1, plain(60, 100)), of(2, plain(120, 100))]);
        tails.apply(row);
        let late = |taped| tails.row(taped).1;
        assert_eq!(late(vec![of(1, plain(59, 1))]), [of(1, plain(59, 1))]);
        let twice = vec![of(1, plain(180, 1)), of(1, plain(61, 2)), of(1, plain(181, 3))];
        assert_eq!(late(twice), [of(1, plain(61, 2))]);
        let hour = BarRow { resolution: Resolution::Hour, ..of(1, plain(0, 1)) };
        assert_eq!(late(vec![of(1, plain(60, 2)), hour, of(2, plain(121, 2))]), []);
        tails.put_last((InstrumentId(9), Resolution::Interval), MarketTime(50));
        assert_eq!(tails.row(vec![of(9, plain(49, 1))]).1, [of(9, plain(49, 1))]);
        assert_eq!(tails.row(vec![of(9, plain(50, 1))]).1, []);
        let wrong = OutOfOrder { instrument: InstrumentId(9), start: MarketTime(49) };
        assert_eq!(tails.take(7, 7, &[of(9, plain(49, 1))]), Err(wrong));
    }

    #[test]
    fn a_bar_of_a_minute_takes_a_few_bytes() {
        let bars: Vec<Bar> = (0..64).map(|n| plain(n * 60_000_000_000, 10_000 + n % 7)).collect();
        assert!(encode_chunk(&bars).len() < 64 * 8 + 16);
    }

    #[test]
    fn what_is_stored_never_changes() {
        let bars = [plain(60_000_000_000, 10_000), plain(120_000_000_000, 10_001)];
        let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(encode_chunk(&bars)), "01020380e0ba84bf03a09c01000000d00f0702000000d00f");
        let taped = [of(3, bars[0]), BarRow { resolution: Resolution::Day, ..of(3, bars[1]) }];
        assert_eq!(hex(encode_row(&taped)), "0102060380e0ba84bf03a09c01000000d00f001702000000d00f");
    }
}
