//! Prices on the link: one settlement as a step from the one before, or whole values.
//!
//! A step says what happened: the bar that a new price brought. Today's values follow from it and
//! from what was before, as [`predicted`] says for both ends; an entry has whole values where they do
//! not. Nothing here keeps prices or knows who has which.
//!
//! Invariant: what was encoded against the same values comes out again exactly; no bytes panic, and
//! memory grows only with bytes that were read.

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::money::{Price, Volume};
use papertrader_core::time::MarketTime;

use crate::link::LinkInstrument;
use crate::wire::{DecodeError, Reader, Wire, wire_struct};

/// What a worker shows of an instrument: its price, and today so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// The instrument's number.
    pub instrument: u32,
    /// The latest price.
    pub price: Price,
    /// When it was made.
    pub time: MarketTime,
    /// The start of the day that the following are of.
    pub day: MarketTime,
    /// Its first price.
    pub open: Price,
    /// Its highest so far.
    pub high: Price,
    /// Its lowest so far.
    pub low: Price,
    /// Its volume so far.
    pub volume: Volume,
    /// The last price of the market day before, adjusted for a split today.
    pub previous_close: Option<Price>,
}

wire_struct! {
    /// `snapshot`: the answer to `snapshotDifference`.
    pub struct SnapshotPush {
        /// Which start of which master the numbers count from.
        sequence: u64,
        /// The snapshot's number.
        number: u64,
        /// Those that changed since the snapshot of this number follow; 0 for all that have a price.
        base: u64,
        /// The market's time.
        market: MarketTime,
        /// Whether the prices have come to their end.
        ended: bool,
        /// Which list of instruments it is.
        list: u64,
        /// The instruments, or none if the worker has this list.
        instruments: Vec<LinkInstrument>,
        /// Values, by ascending instrument.
        ticks: Vec<PackedTick>,
    }
}

wire_struct! {
    /// `snapshotStep`: what a settlement brought.
    pub struct SnapshotStep {
        /// Which start of which master the numbers count from.
        sequence: u64,
        /// The snapshot's number.
        number: u64,
        /// The number of the snapshot that it follows.
        base: u64,
        /// The market's time.
        market: MarketTime,
        /// Whether the prices have come to their end.
        ended: bool,
        /// What changed, by ascending instrument.
        steps: Vec<PackedStep>,
    }
}

wire_struct! {
    /// `snapshotDifference`: what the worker has; zeros for nothing.
    pub struct SnapshotDifference {
        /// The `sequence` of its last snapshot.
        sequence: u64,
        /// The number of its last snapshot.
        number: u64,
        /// Which list of instruments it has.
        list: u64,
    }
}

/// Whole values of one instrument, as they stand on the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedTick {
    /// How many numbers of instruments are passed over since the entry before.
    pub gap: u32,
    /// The values.
    pub values: PackedValues,
}

/// Whole values, as they stand on the link. What the mask does not name is 0 here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackedValues {
    /// Which of the following are there, by the bits from `time` on.
    pub mask: u8,
    /// The price.
    pub price: i64,
    /// The market's time less the time of the price; else they are the same.
    pub time: i64,
    /// The start of the day of that time less the start of the day; else they are the same.
    pub day: i64,
    /// The price less the open; else they are the same.
    pub open: i64,
    /// The high less the price; else they are the same.
    pub high: i64,
    /// The price less the low; else they are the same.
    pub low: i64,
    /// The volume; else none.
    pub volume: i64,
    /// The price less the close before; else there is none.
    pub previous_close: i64,
}

/// What happened to one instrument, as it stands on the link. What the mask does not name is 0 here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackedStep {
    /// How many numbers of instruments are passed over since the entry before.
    pub gap: u32,
    /// Which of the following are there; see the constants of this type.
    pub mask: u8,
    /// The bar's close less the price before; else they are the same.
    pub price: i64,
    /// The bar's close less its open; else it opened at the price before.
    pub open: i64,
    /// Its high less the higher of open and close; else they are the same.
    pub high: i64,
    /// The lower of open and close less its low; else they are the same.
    pub low: i64,
    /// Its volume; else none.
    pub volume: i64,
    /// The market's time less its start; else it starts at the market's time of the base.
    pub start: i64,
    /// The values, where they are not those that follow.
    pub values: Option<Box<PackedValues>>,
}

/// Counts instruments by their gaps. They must ascend.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gaps {
    next: u64,
}

impl Gaps {
    /// The gap before an instrument, which must be above the one before it.
    pub fn before(&mut self, instrument: u32) -> u32 {
        let gap = u64::from(instrument).saturating_sub(self.next);
        self.next = u64::from(instrument) + 1;
        // It is at most an instrument's number.
        gap as u32
    }

    /// The instrument after a gap.
    pub fn after(&mut self, gap: u32) -> Result<u32, DecodeError> {
        let instrument = u32::try_from(self.next + u64::from(gap));
        let instrument = instrument.map_err(|_| DecodeError::Value("an instrument"))?;
        self.next = u64::from(instrument) + 1;
        Ok(instrument)
    }
}

/// What an instrument shows after a bar, unless something else happened as well.
pub fn predicted(instrument: u32, before: Option<&Tick>, bar: &Bar, market: MarketTime) -> Tick {
    let day = Resolution::Day.start_of(bar.start);
    let new = Tick {
        instrument,
        price: bar.close,
        time: market,
        day,
        open: bar.open,
        high: bar.high,
        low: bar.low,
        volume: bar.volume,
        previous_close: None,
    };
    match before {
        Some(before) if before.day == day => Tick {
            open: before.open,
            high: before.high.max(bar.high),
            low: before.low.min(bar.low),
            volume: before.volume.plus(bar.volume),
            previous_close: before.previous_close,
            ..new
        },
        _ => Tick { previous_close: before.map(|before| before.price), ..new },
    }
}

impl PackedTick {
    /// Entries of ticks, which must ascend by instrument.
    pub fn all<'a>(ticks: impl Iterator<Item = &'a Tick>, market: MarketTime) -> Vec<PackedTick> {
        let mut gaps = Gaps::default();
        let packed = |tick: &Tick| PackedTick {
            gap: gaps.before(tick.instrument),
            values: PackedValues::of(tick, market),
        };
        ticks.map(packed).collect()
    }
}

impl SnapshotPush {
    /// The values.
    pub fn ticks(&self) -> impl Iterator<Item = Result<Tick, DecodeError>> {
        let mut gaps = Gaps::default();
        self.ticks.iter().map(move |packed| {
            let instrument = gaps.after(packed.gap)?;
            packed.values.tick(instrument, self.market)
        })
    }
}

impl SnapshotStep {
    /// The entries with their instruments.
    pub fn entries(&self) -> impl Iterator<Item = Result<(u32, &PackedStep), DecodeError>> {
        let mut gaps = Gaps::default();
        self.steps.iter().map(move |step| Ok((gaps.after(step.gap)?, step)))
    }
}

impl PackedValues {
    const TIME: u8 = 1;
    const DAY: u8 = 1 << 1;
    const OPEN: u8 = 1 << 2;
    const HIGH: u8 = 1 << 3;
    const LOW: u8 = 1 << 4;
    const VOLUME: u8 = 1 << 5;
    const PREVIOUS_CLOSE: u8 = 1 << 6;

    /// The values of a tick in a snapshot of this market time.
    pub fn of(tick: &Tick, market: MarketTime) -> PackedValues {
        let price = tick.price.raw();
        let mut packed = PackedValues { price, ..PackedValues::default() };
        let mut mask = 0;
        let mut differs = |bit, from: i64, to: i64| {
            let difference = from.wrapping_sub(to);
            mask |= if difference == 0 { 0 } else { bit };
            difference
        };
        packed.time = differs(Self::TIME, market.0, tick.time.0);
        packed.day = differs(Self::DAY, tick.time.day_start().0, tick.day.0);
        packed.open = differs(Self::OPEN, price, tick.open.raw());
        packed.high = differs(Self::HIGH, tick.high.raw(), price);
        packed.low = differs(Self::LOW, price, tick.low.raw());
        packed.volume = differs(Self::VOLUME, tick.volume.raw(), 0);
        if let Some(close) = tick.previous_close {
            packed.previous_close = price.wrapping_sub(close.raw());
            mask |= Self::PREVIOUS_CLOSE;
        }
        packed.mask = mask;
        packed
    }

    /// The tick again.
    pub fn tick(&self, instrument: u32, market: MarketTime) -> Result<Tick, DecodeError> {
        let time = MarketTime(market.0.wrapping_sub(self.time));
        let has_previous = self.mask & Self::PREVIOUS_CLOSE != 0;
        Ok(Tick {
            instrument,
            price: price(self.price)?,
            time,
            day: MarketTime(time.day_start().0.wrapping_sub(self.day)),
            open: price(self.price.wrapping_sub(self.open))?,
            high: price(self.price.wrapping_add(self.high))?,
            low: price(self.price.wrapping_sub(self.low))?,
            volume: Volume::from_raw(self.volume),
            previous_close: has_previous
                .then(|| price(self.price.wrapping_sub(self.previous_close)))
                .transpose()?,
        })
    }

    fn fields(&mut self) -> [(u8, &mut i64); 7] {
        [
            (Self::TIME, &mut self.time),
            (Self::DAY, &mut self.day),
            (Self::OPEN, &mut self.open),
            (Self::HIGH, &mut self.high),
            (Self::LOW, &mut self.low),
            (Self::VOLUME, &mut self.volume),
            (Self::PREVIOUS_CLOSE, &mut self.previous_close),
        ]
    }
}

impl PackedStep {
    /// The price differs.
    pub const PRICE: u8 = 1;
    /// The bar opened elsewhere than at the price before.
    pub const OPEN: u8 = 1 << 1;
    /// Its high is not at its ends.
    pub const HIGH: u8 = 1 << 2;
    /// Its low is not at its ends.
    pub const LOW: u8 = 1 << 3;
    /// It has a volume.
    pub const VOLUME: u8 = 1 << 4;
    /// It does not start at the base.
    pub const START: u8 = 1 << 5;
    /// There is no bar, only values.
    pub const NO_BAR: u8 = 1 << 6;
    /// There are values.
    pub const VALUES: u8 = 1 << 7;

    /// The entry of an instrument that showed `before` and shows `now`, in the snapshot of time
    /// `market` that follows the one of time `base`. `bar` is what its new price brought.
    pub fn of(
        gap: u32,
        before: Option<&Tick>,
        now: &Tick,
        bar: Option<&Bar>,
        (base, market): (MarketTime, MarketTime),
    ) -> PackedStep {
        let mut packed = PackedStep { gap, ..PackedStep::default() };
        let values = || Some(Box::new(PackedValues::of(now, market)));
        let Some(bar) = bar else {
            packed.mask = Self::NO_BAR | Self::VALUES;
            packed.values = values();
            return packed;
        };
        let last = before.map_or(0, |before| before.price.raw());
        let (open, close) = (bar.open.raw(), bar.close.raw());
        let mut mask = 0;
        let mut differs = |bit, from: i64, to: i64| {
            let difference = from.wrapping_sub(to);
            mask |= if difference == 0 { 0 } else { bit };
            difference
        };
        packed.price = differs(Self::PRICE, close, last);
        packed.high = differs(Self::HIGH, bar.high.raw(), open.max(close));
        packed.low = differs(Self::LOW, open.min(close), bar.low.raw());
        packed.volume = differs(Self::VOLUME, bar.volume.raw(), 0);
        if open != last {
            packed.open = close.wrapping_sub(open);
            mask |= Self::OPEN;
        }
        if bar.start != base {
            packed.start = market.0.wrapping_sub(bar.start.0);
            mask |= Self::START;
        }
        if predicted(now.instrument, before, bar, market) != *now {
            packed.values = values();
            mask |= Self::VALUES;
        }
        packed.mask = mask;
        packed
    }

    /// What the instrument shows now, and the bar that its new price brought; of the arguments of
    /// [`PackedStep::of`].
    pub fn onto(
        &self,
        instrument: u32,
        before: Option<&Tick>,
        (base, market): (MarketTime, MarketTime),
    ) -> Result<(Tick, Option<Bar>), DecodeError> {
        let values = self.values.as_ref().map(|values| values.tick(instrument, market));
        let values = values.transpose()?;
        if self.mask & Self::NO_BAR != 0 {
            let tick = values.ok_or(DecodeError::Value("a step without a bar"))?;
            return Ok((tick, None));
        }
        let last = before.map_or(0, |before| before.price.raw());
        let close = last.wrapping_add(self.price);
        let has = |bit: u8| self.mask & bit != 0;
        let open = if has(Self::OPEN) { close.wrapping_sub(self.open) } else { last };
        let start = if has(Self::START) { market.0.wrapping_sub(self.start) } else { base.0 };
        let bar = Bar {
            start: MarketTime(start),
            open: price(open)?,
            high: price(open.max(close).wrapping_add(self.high))?,
            low: price(open.min(close).wrapping_sub(self.low))?,
            close: price(close)?,
            volume: Volume::from_raw(self.volume),
        };
        let tick = values.unwrap_or_else(|| predicted(instrument, before, &bar, market));
        Ok((tick, Some(bar)))
    }

    fn fields(&mut self) -> [(u8, &mut i64); 6] {
        [
            (Self::PRICE, &mut self.price),
            (Self::OPEN, &mut self.open),
            (Self::HIGH, &mut self.high),
            (Self::LOW, &mut self.low),
            (Self::VOLUME, &mut self.volume),
            (Self::START, &mut self.start),
        ]
    }
}

fn price(raw: i64) -> Result<Price, DecodeError> {
    Price::from_raw(raw).ok_or(DecodeError::Value("a price"))
}

impl Wire for PackedTick {
    fn put(&self, out: &mut Vec<u8>) {
        put_count(self.gap, out);
        self.values.put(out);
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(PackedTick { gap: take_count(reader)?, values: PackedValues::take(reader)? })
    }
}

impl Wire for PackedValues {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.mask);
        put_number(self.price, out);
        for (bit, field) in self.clone().fields() {
            if self.mask & bit != 0 {
                put_number(*field, out);
            }
        }
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mask = u8::take(reader)?;
        if mask & 1 << 7 != 0 {
            return Err(DecodeError::Value("a mask"));
        }
        let price = take_number(reader)?;
        let mut values = PackedValues { mask, price, ..PackedValues::default() };
        for (bit, field) in values.fields() {
            if mask & bit != 0 {
                *field = take_number(reader)?;
            }
        }
        Ok(values)
    }
}

impl Wire for PackedStep {
    fn put(&self, out: &mut Vec<u8>) {
        put_count(self.gap, out);
        out.push(self.mask);
        let fields = [self.price, self.open, self.high, self.low, self.volume, self.start];
        for (at, field) in fields.into_iter().enumerate() {
            if self.mask & 1 << at != 0 {
                put_number(field, out);
            }
        }
        if let Some(values) = &self.values {
            values.put(out);
        }
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let gap = take_count(reader)?;
        let mask = u8::take(reader)?;
        // Without a bar there are values and nothing else.
        if mask & Self::NO_BAR != 0 && mask != Self::NO_BAR | Self::VALUES {
            return Err(DecodeError::Value("a mask"));
        }
        let mut step = PackedStep { gap, mask, ..PackedStep::default() };
        for (bit, field) in step.fields() {
            if mask & bit != 0 {
                *field = take_number(reader)?;
            }
        }
        if mask & Self::VALUES != 0 {
            step.values = Some(Box::new(PackedValues::take(reader)?));
        }
        Ok(step)
    }
}

/// What a number is divided by where nothing is left over: a cent of a price.
const SHORT: i64 = 1_000_000;

/// Seven bits a byte, the lowest first; the highest bit of a byte says that another follows.
fn put_bits(mut bits: u128, out: &mut Vec<u8>) {
    while bits > 0x7f {
        out.push(bits as u8 | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}

fn take_bits(reader: &mut Reader<'_>, most: u32) -> Result<u128, DecodeError> {
    let mut bits = 0;
    for at in 0..most {
        let byte = u8::take(reader)?;
        bits |= u128::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(bits);
        }
    }
    Err(DecodeError::Value("a number"))
}

fn put_count(count: u32, out: &mut Vec<u8>) {
    put_bits(count.into(), out);
}

fn take_count(reader: &mut Reader<'_>) -> Result<u32, DecodeError> {
    u32::try_from(take_bits(reader, 5)?).map_err(|_| DecodeError::Value("a count"))
}

fn put_number(number: i64, out: &mut Vec<u8>) {
    let is_whole = number % SHORT == 0;
    let number = if is_whole { number / SHORT } else { number };
    let zigzag = (number << 1 ^ number >> 63) as u64;
    put_bits(u128::from(zigzag) << 1 | u128::from(!is_whole), out);
}

fn take_number(reader: &mut Reader<'_>) -> Result<i64, DecodeError> {
    let bits = take_bits(reader, 10)?;
    let bad = DecodeError::Value("a number");
    let zigzag = u64::try_from(bits >> 1).map_err(|_| bad)?;
    let number = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
    if bits & 1 == 1 { Ok(number) } else { number.checked_mul(SHORT).ok_or(bad) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use papertrader_core::time::DAY;
    use proptest::prelude::*;

    fn at(raw: i64) -> Price {
        Price::from_raw(raw).unwrap()
    }

    fn number() -> impl Strategy<Value = i64> {
        prop_oneof![any::<i64>(), -1_000..1_000i64, (-1_000..1_000i64).prop_map(|n| n * SHORT)]
    }

    fn a_price() -> impl Strategy<Value = Price> {
        // Whole cents, odd ones, and the ends of the range.
        prop_oneof![
            (1..100_000i64).prop_map(|cents| at(cents * 1_000_000)),
            (1..100_000_000_000_000_000i64).prop_map(at),
            Just(at(1)),
            Just(at(100_000_000_000_000_000)),
        ]
    }

    fn a_time() -> impl Strategy<Value = MarketTime> {
        prop_oneof![any::<i64>(), (0..100 * DAY), (0..20i64).prop_map(|n| n * DAY)]
            .prop_map(MarketTime)
    }

    fn a_bar() -> impl Strategy<Value = Bar> {
        (a_time(), a_price(), a_price(), a_price(), a_price(), number()).prop_map(
            |(start, open, high, low, close, volume)| {
                let volume = Volume::from_raw(volume);
                Bar { start, open, high, low, close, volume }
            },
        )
    }

    fn a_tick() -> impl Strategy<Value = Tick> {
        let rest = (a_time(), a_time(), number(), proptest::option::of(a_price()));
        ([a_price(), a_price(), a_price(), a_price()], rest).prop_map(
            |([price, open, high, low], (time, day, volume, previous_close))| {
                let volume = Volume::from_raw(volume);
                let instrument = 1;
                Tick { instrument, price, time, day, open, high, low, volume, previous_close }
            },
        )
    }

    /// What may happen to an instrument in a snapshot.
    #[derive(Debug, Clone)]
    enum Happens {
        /// A bar, and what it is foretold to do.
        Bar(Bar),
        /// A bar after the price before, later by so many nanoseconds of its start than the base.
        Usual { change: i64, higher: i64, lower: i64, volume: i64 },
        /// Anything, with a bar or without.
        Anything(Option<Bar>, Tick),
    }

    fn happens() -> impl Strategy<Value = Happens> {
        let usual = (-10_000..10_000i64, 0..100i64, 0..100i64, number());
        prop_oneof![
            4 => usual.prop_map(|(change, higher, lower, volume)| {
                Happens::Usual { change, higher, lower, volume }
            }),
            1 => a_bar().prop_map(Happens::Bar),
            1 => (proptest::option::of(a_bar()), a_tick())
                .prop_map(|(bar, tick)| Happens::Anything(bar, tick)),
        ]
    }

    proptest! {
        #[test]
        fn numbers_and_counts_come_out_again(number in number(), count in any::<u32>()) {
            let mut bytes = Vec::new();
            put_number(number, &mut bytes);
            put_count(count, &mut bytes);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(take_number(&mut reader), Ok(number));
            prop_assert_eq!(take_count(&mut reader), Ok(count));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        /// Over days, with first prices, falling volumes and whatever else a source may say.
        #[test]
        fn a_sequence_of_snapshots_comes_out_exactly(
            snapshots in prop::collection::vec(
                (prop::collection::vec(proptest::option::weighted(0.8, happens()), 5), 1..2 * DAY),
                1..12,
            ),
            first in number(),
        ) {
            let ids = [1, 2, 7, 300, u32::MAX];
            let mut told: Vec<Option<Tick>> = vec![None; 5];
            let mut held = told.clone();
            let mut base = MarketTime(first);
            for (number, (changes, later)) in (2..).zip(snapshots) {
                let market = base.plus_nanos(later);
                let mut gaps = Gaps::default();
                let (mut steps, mut bars) = (Vec::new(), Vec::new());
                for ((id, change), place) in ids.into_iter().zip(changes).zip(&mut told) {
                    let Some(change) = change else { continue };
                    let (bar, now) = match change {
                        Happens::Anything(bar, tick) => (bar, Tick { instrument: id, ..tick }),
                        Happens::Bar(bar) => {
                            (Some(bar), predicted(id, place.as_ref(), &bar, market))
                        }
                        Happens::Usual { change, higher, lower, volume } => {
                            let open = place.map_or(at(5_000_000_000), |tick| tick.price);
                            let limited = |raw: i64| at(raw.clamp(1, 100_000_000_000_000_000));
                            let close = limited(open.raw() + change * 1_000_000);
                            let bar = Bar {
                                start: base,
                                open,
                                high: limited(open.max(close).raw() + higher * 1_000_000),
                                low: limited(open.min(close).raw() - lower * 1_000_000),
                                close,
                                volume: Volume::from_raw(volume),
                            };
                            (Some(bar), predicted(id, place.as_ref(), &bar, market))
                        }
                    };
                    let gap = gaps.before(id);
                    let times = (base, market);
                    steps.push(PackedStep::of(gap, place.as_ref(), &now, bar.as_ref(), times));
                    bars.push(bar);
                    *place = Some(now);
                }
                let (sequence, ended) = (1, false);
                let step =
                    SnapshotStep { sequence, number, base: number - 1, market, ended, steps };
                let read = SnapshotStep::from_bytes(&step.to_bytes()).unwrap();
                prop_assert_eq!(&read, &step);
                let mut heard = Vec::new();
                for entry in read.entries() {
                    let (id, packed) = entry.unwrap();
                    let place = ids.iter().position(|known| *known == id).unwrap();
                    let before = held[place].as_ref();
                    let (tick, bar) = packed.onto(id, before, (base, market)).unwrap();
                    held[place] = Some(tick);
                    heard.push(bar);
                }
                prop_assert_eq!(&held, &told);
                prop_assert_eq!(heard, bars);
                // And whole, for who has nothing.
                let ticks = PackedTick::all(told.iter().flatten(), market);
                let whole = SnapshotPush {
                    sequence, number, base: 0, market, ended, list: 3, instruments: vec![], ticks,
                };
                let read = SnapshotPush::from_bytes(&whole.to_bytes()).unwrap();
                prop_assert_eq!(&read, &whole);
                let ticks: Result<Vec<Tick>, _> = read.ticks().collect();
                prop_assert_eq!(ticks.unwrap(), told.iter().flatten().copied().collect::<Vec<_>>());
                base = market;
            }
        }

        #[test]
        fn no_bytes_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            before in proptest::option::of(a_tick()),
            base in any::<i64>(),
        ) {
            if let Ok(push) = SnapshotPush::from_bytes(&bytes) {
                push.ticks().for_each(drop);
            }
            // Without its head, most of which any bytes are.
            let mut step = vec![0; 32];
            step.push(1);
            step.extend((bytes.len() as u32 / 4).to_be_bytes());
            step.extend(&bytes);
            let mut reader = Reader::new(&step);
            if let Ok(step) = SnapshotStep::take(&mut reader) {
                for (id, packed) in step.entries().flatten() {
                    let times = (MarketTime(base), step.market);
                    let _ = packed.onto(id, before.as_ref(), times);
                }
            }
            let _ = SnapshotDifference::from_bytes(&bytes);
        }
    }

    #[test]
    fn a_count_that_the_bytes_cannot_hold_is_refused() {
        let mut bytes = vec![0; 33];
        bytes.extend(u32::MAX.to_be_bytes());
        bytes.extend([0; 100]);
        assert_eq!(SnapshotStep::from_bytes(&bytes), Err(DecodeError::Short));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        let step = |mask, rest: &[u8]| PackedStep::from_bytes(&[&[0, mask], rest].concat());
        assert_eq!(step(PackedStep::NO_BAR, &[]), Err(DecodeError::Value("a mask")));
        assert_eq!(step(PackedStep::NO_BAR | 0x81, &[0; 9]), Err(DecodeError::Value("a mask")));
        // The price before was none, and still is.
        let none = step(0, &[]).unwrap();
        let times = (MarketTime(0), MarketTime(1));
        assert_eq!(none.onto(1, None, times), Err(DecodeError::Value("a price")));
        assert_eq!(PackedValues::from_bytes(&[0x80, 0]), Err(DecodeError::Value("a mask")));
        let mut long = Reader::new(&[0xff; 11]);
        assert_eq!(take_number(&mut long), Err(DecodeError::Value("a number")));
        let mut gaps = Gaps::default();
        assert_eq!(gaps.after(u32::MAX), Ok(u32::MAX));
        assert_eq!(gaps.after(0), Err(DecodeError::Value("an instrument")));
    }
}
