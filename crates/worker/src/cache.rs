//! The cache (specification 3.2.6): the prices of the last snapshot, and answers about the past.
//!
//! A [`Prices`] never changes: a new snapshot makes a new one, which replaces the old as a whole,
//! so every answer is of one snapshot. Quotes are encoded once for each snapshot, as whole frames;
//! giving one is a look-up, a copy, and the request's number put into it. Other answers are made when
//! they are asked for.

pub(crate) mod history;
mod past;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use papertrader_core::bar::Bar;
use papertrader_core::names::Symbol;
use papertrader_core::time::MarketTime;
use papertrader_protocol::Reason;
use papertrader_protocol::data::{AssetInfo, AssetLine, AssetList, AssetValue};
use papertrader_protocol::frame::HEADER;
use papertrader_protocol::link::LinkInstrument;
use papertrader_protocol::push::{SnapshotDifference, SnapshotPush, SnapshotStep, Tick};
use papertrader_protocol::wire::{DecodeError, Wire};
use papertrader_protocol::{Header, Instruction, frame};
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::counters::Outgoing;
use past::Past;

/// A snapshot that does not fit to what was before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SnapshotFault {
    #[error("snapshot {got} came after snapshot {have}")]
    NotAscending { have: u64, got: u64 },
    #[error("a snapshot has a price for instrument {0}, which is not known")]
    UnknownInstrument(u32),
    #[error("a snapshot has instrument {0} twice")]
    Twice(u32),
    #[error("a snapshot is of a list of instruments that is not here")]
    NoInstruments,
    #[error("a snapshot is not as the protocol says: {0}")]
    Malformed(#[from] DecodeError),
}

#[derive(Debug)]
struct Instruments {
    /// Which list the master says it is.
    number: u64,
    /// By symbol.
    list: Vec<LinkInstrument>,
    by_symbol: FxHashMap<Symbol, usize>,
    by_id: FxHashMap<u32, usize>,
}

impl Instruments {
    fn new(number: u64, mut list: Vec<LinkInstrument>) -> Result<Instruments, SnapshotFault> {
        list.sort_by_key(|instrument| instrument.symbol);
        let mut by_symbol = FxHashMap::with_capacity_and_hasher(list.len(), FxBuildHasher);
        let mut by_id = FxHashMap::with_capacity_and_hasher(list.len(), FxBuildHasher);
        for (index, instrument) in list.iter().enumerate() {
            let twice = by_symbol.insert(instrument.symbol, index).is_some();
            if by_id.insert(instrument.id, index).is_some() || twice {
                return Err(SnapshotFault::Twice(instrument.id));
            }
        }
        Ok(Instruments { number, list, by_symbol, by_id })
    }

    fn index(&self, id: u32) -> Result<usize, SnapshotFault> {
        self.by_id.get(&id).copied().ok_or(SnapshotFault::UnknownInstrument(id))
    }
}

/// Which snapshot it is.
#[derive(Debug, Clone, Copy)]
struct Which {
    sequence: u64,
    number: u64,
    market: MarketTime,
    ended: bool,
}

/// All prices of one snapshot.
#[derive(Debug)]
pub(crate) struct Prices {
    /// Counts the snapshots that this worker took.
    pub(crate) generation: u64,
    /// The market's time.
    pub(crate) market: MarketTime,
    which: Which,
    source: Arc<str>,
    instruments: Arc<Instruments>,
    /// In the order of the list.
    ticks: Vec<Option<Tick>>,
    /// The generation that has changed each last.
    changed: Vec<u64>,
    values: Pieces,
    /// What was asked for of this snapshot.
    infos: Vec<OnceLock<Box<[u8]>>>,
    past: Past,
    list: OnceLock<Bytes>,
}

/// What is as it is for all snapshots of a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting<'a> {
    /// Where prices come from.
    pub(crate) source: &'a str,
    /// Bytes for the bars that the last snapshots brought.
    pub(crate) room: usize,
}

/// An answer as a whole frame that lacks its request number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encoded<'a>(&'a [u8]);

impl Encoded<'_> {
    /// Appends it as the answer to a request.
    #[inline]
    pub(crate) fn put(self, request: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(self.0);
        frame::set_request(&mut out[start..], request);
    }
}

fn put_data(answer: &impl Wire, request: u64, out: &mut Vec<u8>) {
    let instruction = Instruction::Data;
    let header = Header::new(instruction.message_type(), instruction as u16, request);
    header.encode_with(out, |out| answer.put(out));
}

/// Quotes of all instruments, one after the other; an empty one is an instrument without a price.
#[derive(Debug, Default)]
struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Pieces {
    fn close(&mut self) {
        self.ends.push(self.bytes.len());
    }

    #[inline]
    fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied();
        let piece = self.bytes.get(start.unwrap_or(0)..end)?;
        (!piece.is_empty()).then_some(piece)
    }

    /// Appends a quote that says the same at another snapshot: that stands at its end.
    fn put_again(&mut self, piece: &[u8], which: &Which) {
        self.bytes.extend_from_slice(piece);
        let end = self.bytes.len();
        self.bytes.truncate(end.saturating_sub(16));
        which.number.put(&mut self.bytes);
        which.market.put(&mut self.bytes);
    }
}

impl Prices {
    /// From whole values. `before` is what was here.
    pub(crate) fn pushed(
        push: SnapshotPush,
        before: Option<&Prices>,
        setting: Setting<'_>,
    ) -> Result<Prices, SnapshotFault> {
        let SnapshotPush { sequence, number, base, market, ended, .. } = push;
        let which = Which { sequence, number, market, ended };
        let known = before.filter(|before| before.instruments.number == push.list);
        if base != 0 && known.is_none() {
            // What it leaves out would be of other instruments.
            return Err(SnapshotFault::NoInstruments);
        }
        let instruments = match known {
            _ if !push.instruments.is_empty() => {
                Arc::new(Instruments::new(push.list, push.instruments.clone())?)
            }
            Some(before) => Arc::clone(&before.instruments),
            None => return Err(SnapshotFault::NoInstruments),
        };
        let count = instruments.list.len();
        let generation = before.map_or(1, |before| before.generation + 1);
        let (mut ticks, mut changed, old) = match before.filter(|_| base != 0) {
            Some(before) if before.ticks.len() == count => {
                before.check_next(&which)?;
                (before.ticks.clone(), before.changed.clone(), Some(&before.values))
            }
            _ => (vec![None; count], vec![0; count], None),
        };
        for tick in push.ticks() {
            let tick = tick?;
            let index = instruments.index(tick.instrument)?;
            // Every instrument has a place in each.
            if let (Some(place), Some(at)) = (ticks.get_mut(index), changed.get_mut(index)) {
                (*place, *at) = (Some(tick), generation);
            }
        }
        // What happened since is not known, unless nothing did.
        let past = match before.filter(|before| before.instruments.number == push.list) {
            Some(before) if base == number => before.past.clone(),
            Some(before) => before.past.cut(market),
            None => Past::from(market, setting.room),
        };
        let now = (ticks, changed, generation);
        Ok(Prices::build(instruments, now, old, which, setting.source.into(), past))
    }

    /// These prices, and what happened since. The past of `watch` is asked for.
    pub(crate) fn stepped(
        &self,
        step: &SnapshotStep,
        watch: &[Symbol],
    ) -> Result<Prices, SnapshotFault> {
        let SnapshotStep { sequence, number, market, ended, .. } = *step;
        let which = Which { sequence, number, market, ended };
        self.check_next(&which)?;
        let times = (self.market, market);
        let watch: Vec<usize> =
            watch.iter().filter_map(|symbol| self.index(*symbol).ok()).collect();
        let past = self.past.watching(&watch, self.market);
        let generation = self.generation + 1;
        let (mut ticks, mut changed) = (self.ticks.clone(), self.changed.clone());
        let mut bars: Vec<(usize, Bar)> = Vec::new();
        for entry in step.entries() {
            let (id, packed) = entry?;
            let index = self.instruments.index(id)?;
            if let (Some(place), Some(at)) = (ticks.get_mut(index), changed.get_mut(index)) {
                let (tick, bar) = packed.onto(id, place.as_ref(), times)?;
                (*place, *at) = (Some(tick), generation);
                bars.extend(bar.filter(|_| past.watches(index)).map(|bar| (index, bar)));
            }
        }
        let (instruments, source) = (Arc::clone(&self.instruments), Arc::clone(&self.source));
        let past = past.with(market, bars);
        let now = (ticks, changed, generation);
        Ok(Prices::build(instruments, now, Some(&self.values), which, source, past))
    }

    fn check_next(&self, which: &Which) -> Result<(), SnapshotFault> {
        if which.sequence == self.which.sequence && which.number < self.which.number {
            let (have, got) = (self.which.number, which.number);
            return Err(SnapshotFault::NotAscending { have, got });
        }
        Ok(())
    }

    /// `old` has the quotes before.
    fn build(
        instruments: Arc<Instruments>,
        (ticks, changed, generation): (Vec<Option<Tick>>, Vec<u64>, u64),
        old: Option<&Pieces>,
        which: Which,
        source: Arc<str>,
        past: Past,
    ) -> Prices {
        let mut values = Pieces::default();
        if let Some(old) = old {
            values.bytes.reserve(old.bytes.len());
            values.ends.reserve(old.ends.len());
        }
        let again = |index: usize| {
            if *changed.get(index)? == generation { None } else { old?.get(index) }
        };
        for (index, (instrument, tick)) in instruments.list.iter().zip(&ticks).enumerate() {
            if let Some(tick) = tick {
                match again(index) {
                    Some(piece) => values.put_again(piece, &which),
                    None => {
                        let value = AssetValue {
                            symbol: instrument.symbol,
                            price: tick.price,
                            time: tick.time,
                            previous_close: tick.previous_close,
                            snapshot: which.number,
                            market: which.market,
                        };
                        put_data(&value, 0, &mut values.bytes);
                    }
                }
            }
            values.close();
        }
        let (market, list) = (which.market, OnceLock::new());
        let infos = ticks.iter().map(|_| OnceLock::new()).collect();
        Prices {
            generation,
            market,
            which,
            source,
            instruments,
            ticks,
            changed,
            values,
            infos,
            past,
            list,
        }
    }

    /// What it is, as the master knows it.
    pub(crate) fn have(&self) -> SnapshotDifference {
        let Which { sequence, number, .. } = self.which;
        SnapshotDifference { sequence, number, list: self.instruments.number }
    }

    /// The bars that came to an asset after a market time; `None` if that is not known.
    pub(crate) fn since(
        &self,
        symbol: Symbol,
        market: MarketTime,
    ) -> Option<impl Iterator<Item = &Bar>> {
        self.past.since(self.index(symbol).ok()?, market)
    }

    /// The answer to `getAssetValueCurrent`.
    pub(crate) fn value(&self, symbol: Symbol) -> Result<Encoded<'_>, Reason> {
        self.values.get(self.index(symbol)?).map(Encoded).ok_or(Reason::NoPrice)
    }

    /// [`Prices::value`] of the symbol in a message, if there is one; why not is for the long way to say.
    #[inline]
    pub(crate) fn value_of(&self, symbol: &[u8]) -> Option<Encoded<'_>> {
        self.values.get(*self.instruments.by_symbol.get(symbol)?).map(Encoded)
    }

    /// Another for each list of assets: what [`Prices::place`] says is true of one of them.
    pub(crate) fn list_number(&self) -> u64 {
        self.instruments.number
    }

    /// How many assets there are.
    pub(crate) fn len(&self) -> usize {
        self.instruments.list.len()
    }

    /// Where an asset is in the list.
    pub(crate) fn place(&self, symbol: Symbol) -> Option<u32> {
        self.index(symbol).ok().and_then(|index| u32::try_from(index).ok())
    }

    /// The generation that has changed the asset at a place last; 0 if it has no price yet.
    pub(crate) fn changed(&self, place: u32) -> u64 {
        self.changed.get(place as usize).copied().unwrap_or(0)
    }

    /// The data of the answer to `getAssetValueCurrent` for the asset at a place.
    pub(crate) fn value_at(&self, place: u32) -> Option<&[u8]> {
        self.values.get(place as usize)?.get(HEADER..)
    }

    /// The answer to `getAssetInfo`: encoded when it is asked for the first time.
    pub(crate) fn info(&self, symbol: Symbol) -> Result<Encoded<'_>, Reason> {
        let index = self.index(symbol)?;
        let made = self.infos.get(index).ok_or(Reason::NoPrice)?;
        if let Some(made) = made.get() {
            return Ok(Encoded(made));
        }
        let info = self.make_info(symbol, index)?;
        Ok(Encoded(made.get_or_init(|| {
            let mut bytes = Vec::new();
            put_data(&info, 0, &mut bytes);
            bytes.into()
        })))
    }

    fn make_info(&self, symbol: Symbol, index: usize) -> Result<AssetInfo, Reason> {
        let (instrument, tick) = (self.instruments.list.get(index), self.ticks.get(index));
        let (Some(instrument), Some(Some(tick))) = (instrument, tick) else {
            return Err(Reason::NoPrice);
        };
        Ok(AssetInfo {
            symbol,
            name: instrument.name.clone(),
            kind: instrument.kind,
            source: self.source.to_string(),
            open: tick.open,
            high: tick.high,
            low: tick.low,
            close: tick.price,
            volume: tick.volume,
            previous_close: tick.previous_close,
            time: tick.time,
            snapshot: self.which.number,
            market: self.market,
        })
    }

    /// The answer to `getAssetList`.
    pub(crate) fn list(&self, outgoing: &Outgoing) -> Bytes {
        let encode = || {
            let lines = self.instruments.list.iter().zip(&self.ticks);
            let assets = lines.map(|(instrument, tick)| AssetLine {
                symbol: instrument.symbol,
                name: instrument.name.clone(),
                kind: instrument.kind,
                price: tick.as_ref().map(|tick| tick.price),
                time: tick.as_ref().map(|tick| tick.time),
                previous_close: tick.as_ref().and_then(|tick| tick.previous_close),
            });
            let (market, snapshot, ended) = (self.market, self.which.number, self.which.ended);
            let list = AssetList { market, snapshot, ended, assets: assets.collect() };
            outgoing.share(list.to_bytes())
        };
        self.list.get_or_init(encode).clone()
    }

    /// Whether there is such an asset.
    pub(crate) fn knows(&self, symbol: Symbol) -> bool {
        self.instruments.by_symbol.contains_key(&symbol)
    }

    fn index(&self, symbol: Symbol) -> Result<usize, Reason> {
        self.instruments.by_symbol.get(&symbol).copied().ok_or(Reason::UnknownAsset)
    }
}

#[cfg(test)]
mod tests {
    use papertrader_core::bar::Bar;
    use papertrader_core::money::{Price, Volume};
    use papertrader_protocol::Frame;
    use papertrader_protocol::data::AssetKind;
    use papertrader_protocol::instruction::MessageType;
    use papertrader_protocol::push::{Gaps, PackedStep, PackedTick};

    use super::*;

    const SETTING: Setting<'_> = Setting { source: "test", room: 1 << 20 };

    fn tick(instrument: u32, raw: i64) -> Tick {
        let price = Price::from_raw(raw).unwrap();
        Tick {
            instrument,
            price,
            time: MarketTime(raw),
            day: MarketTime(0),
            open: price,
            high: price,
            low: price,
            volume: Volume::from_raw(1),
            previous_close: None,
        }
    }

    fn push(number: u64, base: u64, ticks: &[Tick]) -> SnapshotPush {
        let market = MarketTime(number as i64);
        let ticks = PackedTick::all(ticks.iter(), market);
        let (sequence, ended, list, instruments) = (2, false, 9, vec![]);
        SnapshotPush { sequence, number, base, market, ended, list, instruments, ticks }
    }

    fn instruments() -> Vec<LinkInstrument> {
        let instrument = |id, symbol: &str| LinkInstrument {
            id,
            symbol: symbol.parse().unwrap(),
            name: format!("{symbol} Inc."),
            kind: AssetKind::Stock,
        };
        vec![instrument(7, "MSFT"), instrument(3, "AAPL"), instrument(4, "NONE")]
    }

    fn first() -> Prices {
        let instruments = instruments();
        let full = SnapshotPush { instruments, ..push(5, 0, &[tick(3, 300), tick(7, 700)]) };
        Prices::pushed(full, None, SETTING).unwrap()
    }

    /// A bar that ends at this price.
    fn step(number: u64, before: &Prices, id: u32, raw: i64) -> SnapshotStep {
        let market = MarketTime(number as i64);
        let close = Price::from_raw(raw).unwrap();
        let bar = Bar {
            start: before.market,
            open: close,
            high: close,
            low: close,
            close,
            volume: Volume::ZERO,
        };
        let old = before.instruments.index(id).ok().and_then(|index| before.ticks[index].as_ref());
        let now = papertrader_protocol::push::predicted(id, old, &bar, market);
        let gap = Gaps::default().before(id);
        let steps = vec![PackedStep::of(gap, old, &now, Some(&bar), (before.market, market))];
        SnapshotStep { sequence: 2, number, base: 5, market, ended: false, steps }
    }

    /// What an answer to request 77 says.
    fn said<T: Wire>(put: impl FnOnce(u64, &mut Vec<u8>)) -> T {
        let mut out = b"before".to_vec();
        put(77, &mut out);
        let (frame, used) = Frame::decode(&out[6..]).unwrap().unwrap();
        assert_eq!((used, &out[..6]), (out.len() - 6, &b"before"[..]));
        let header = Header::new(MessageType::DataTransfer, Instruction::Data as u16, 77);
        assert_eq!(frame.header, header);
        T::from_bytes(frame.data).unwrap()
    }

    fn value(prices: &Prices, symbol: &str) -> Result<AssetValue, Reason> {
        let answer = prices.value(symbol.parse().unwrap())?;
        Ok(said(|request, out| answer.put(request, out)))
    }

    fn info(prices: &Prices, symbol: &str) -> AssetInfo {
        let answer = prices.info(symbol.parse().unwrap()).unwrap();
        said(|request, out| answer.put(request, out))
    }

    #[test]
    fn a_change_merges_and_every_answer_is_of_the_new_snapshot() {
        let old = first();
        let stepped = old.stepped(&step(6, &old, 3, 333), &[]).unwrap();
        let pushed = Prices::pushed(push(6, 5, &[tick(3, 333)]), Some(&old), SETTING).unwrap();
        assert_eq!(value(&old, "AAPL").unwrap().price.raw(), 300);
        for new in [stepped, pushed] {
            let (aapl, msft) = (value(&new, "AAPL").unwrap(), value(&new, "MSFT").unwrap());
            assert_eq!((aapl.price.raw(), aapl.snapshot), (333, 6));
            assert_eq!((msft.price.raw(), msft.snapshot, msft.market), (700, 6, MarketTime(6)));
            assert_eq!(value(&new, "NONE"), Err(Reason::NoPrice));
            assert_eq!(value(&new, "ELSE"), Err(Reason::UnknownAsset));
            let aapl = info(&new, "AAPL");
            assert_eq!((aapl.name.as_str(), aapl.close.raw()), ("AAPL Inc.", 333));
            assert_eq!((aapl.snapshot, aapl.source.as_str()), (6, "test"));
            let list = AssetList::from_bytes(&new.list(&Outgoing::new(0))).unwrap();
            let symbols: Vec<&str> = list.assets.iter().map(|line| line.symbol.as_str()).collect();
            assert_eq!(symbols, ["AAPL", "MSFT", "NONE"]);
            assert_eq!(list.assets[2].price, None);
            assert_eq!(new.have(), SnapshotDifference { sequence: 2, number: 6, list: 9 });
        }
    }

    #[test]
    fn a_first_price_makes_room_for_itself() {
        let old = first();
        let new = old.stepped(&step(6, &old, 4, 444), &[]).unwrap();
        assert_eq!(value(&new, "NONE").unwrap().price.raw(), 444);
        assert_eq!(value(&new, "AAPL").unwrap().price.raw(), 300);
        assert_eq!(value(&new, "MSFT").unwrap().price.raw(), 700);
    }

    #[test]
    fn what_is_told_whole_replaces_everything_but_the_names() {
        let old = first();
        let new = Prices::pushed(push(6, 0, &[tick(4, 4)]), Some(&old), SETTING).unwrap();
        assert_eq!(value(&new, "AAPL"), Err(Reason::NoPrice));
        assert_eq!(value(&new, "NONE").unwrap().price.raw(), 4);
        assert_eq!(info(&new, "NONE").name, "NONE Inc.");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let old = first();
        let fault = |push| Prices::pushed(push, Some(&old), SETTING).unwrap_err();
        let expected = SnapshotFault::NotAscending { have: 5, got: 4 };
        assert_eq!(fault(push(4, 5, &[])), expected);
        assert_eq!(old.stepped(&step(4, &old, 3, 1), &[]).unwrap_err(), expected);
        let unknown = SnapshotFault::UnknownInstrument(9);
        assert_eq!(fault(push(6, 5, &[tick(9, 1)])), unknown);
        assert_eq!(old.stepped(&step(6, &old, 9, 1), &[]).unwrap_err(), unknown);
        let other_list = SnapshotPush { list: 8, ..push(6, 0, &[]) };
        assert_eq!(fault(other_list), SnapshotFault::NoInstruments);
        let mut instruments = instruments();
        instruments[1].id = 7;
        let twice = SnapshotPush { instruments, ..push(6, 0, &[]) };
        assert_eq!(fault(twice), SnapshotFault::Twice(7));
    }
}
