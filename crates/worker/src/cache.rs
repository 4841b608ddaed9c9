//! The cache (specification 3.2.6): the prices of the last snapshot, and answers about the past.
//!
//! A [`Prices`] never changes: a new snapshot makes a new one, which replaces the old as a whole,
//! so every answer is of one snapshot. Answers are encoded once for each snapshot, as whole frames;
//! giving one is a look-up, a copy, and the request's number put into it.

pub(crate) mod history;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use papertrader_core::names::Symbol;
use papertrader_core::time::MarketTime;
use papertrader_protocol::Reason;
use papertrader_protocol::data::{AssetInfo, AssetLine, AssetList, AssetValue};
use papertrader_protocol::frame::HEADER;
use papertrader_protocol::link::{LinkInstrument, SnapshotPush, Tick};
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Header, Instruction, frame};
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::counters::Outgoing;

/// A snapshot that does not fit to what was before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SnapshotFault {
    #[error("snapshot {got} came after snapshot {have}")]
    NotAscending { have: u64, got: u64 },
    #[error("a snapshot has a price for instrument {0}, which is not known")]
    UnknownInstrument(u32),
    #[error("a snapshot has instrument {0} twice")]
    Twice(u32),
}

#[derive(Debug)]
struct Instruments {
    /// Above 0, and another for each list that this worker got.
    number: u64,
    /// By symbol.
    list: Vec<LinkInstrument>,
    by_symbol: FxHashMap<Symbol, usize>,
    by_id: HashMap<u32, usize>,
}

/// All prices of one snapshot.
#[derive(Debug)]
pub(crate) struct Prices {
    /// Counts the snapshots that this worker took, over all links: what is true only until the
    /// next snapshot is known by it.
    pub(crate) generation: u64,
    /// The market's time.
    pub(crate) market: MarketTime,
    number: u64,
    ended: bool,
    source: Arc<str>,
    instruments: Arc<Instruments>,
    ticks: Vec<Option<Tick>>,
    /// The generation that has changed each last.
    changed: Vec<u64>,
    values: Pieces,
    infos: Pieces,
    list: OnceLock<Bytes>,
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

/// Encoded answers, one after the other; an empty one is an instrument without a price.
#[derive(Debug, Default)]
struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Pieces {
    fn close(&mut self) {
        self.ends.push(self.bytes.len());
    }

    fn put(&mut self, answer: &impl Wire) {
        let instruction = Instruction::Data;
        let header = Header::new(instruction.message_type(), instruction as u16, 0);
        header.encode_with(&mut self.bytes, |out| answer.put(out));
    }

    #[inline]
    fn get(&self, index: usize) -> Option<Encoded<'_>> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied();
        let piece = self.bytes.get(start.unwrap_or(0)..end)?;
        (!piece.is_empty()).then_some(Encoded(piece))
    }
}

impl Prices {
    /// From a full snapshot. `source` says where prices come from.
    pub(crate) fn full(
        push: SnapshotPush,
        source: &str,
        generation: u64,
    ) -> Result<Prices, SnapshotFault> {
        let mut list = push.instruments;
        list.sort_by_key(|instrument| instrument.symbol);
        let mut by_symbol = FxHashMap::with_capacity_and_hasher(list.len(), FxBuildHasher);
        let mut by_id = HashMap::with_capacity(list.len());
        for (index, instrument) in list.iter().enumerate() {
            let twice = by_symbol.insert(instrument.symbol, index).is_some();
            if by_id.insert(instrument.id, index).is_some() || twice {
                return Err(SnapshotFault::Twice(instrument.id));
            }
        }
        let none = vec![None; list.len()];
        let instruments = Arc::new(Instruments { number: generation, list, by_symbol, by_id });
        let header = (push.number, push.market, push.ended);
        let before = (none, vec![0; instruments.list.len()]);
        Prices::build(instruments, before, push.ticks, header, source.into(), generation)
    }

    /// These prices, changed by what a later snapshot changed.
    pub(crate) fn merged(
        &self,
        push: SnapshotPush,
        generation: u64,
    ) -> Result<Prices, SnapshotFault> {
        if push.number <= self.number {
            return Err(SnapshotFault::NotAscending { have: self.number, got: push.number });
        }
        let instruments = Arc::clone(&self.instruments);
        let header = (push.number, push.market, push.ended);
        let source = Arc::clone(&self.source);
        let before = (self.ticks.clone(), self.changed.clone());
        Prices::build(instruments, before, push.ticks, header, source, generation)
    }

    fn build(
        instruments: Arc<Instruments>,
        (mut ticks, mut changed): (Vec<Option<Tick>>, Vec<u64>),
        new: Vec<Tick>,
        (number, market, ended): (u64, MarketTime, bool),
        source: Arc<str>,
        generation: u64,
    ) -> Result<Prices, SnapshotFault> {
        for tick in new {
            let index = instruments.by_id.get(&tick.instrument).copied().unwrap_or(usize::MAX);
            match (ticks.get_mut(index), changed.get_mut(index)) {
                (Some(place), Some(at)) => (*place, *at) = (Some(tick), generation),
                _ => return Err(SnapshotFault::UnknownInstrument(tick.instrument)),
            }
        }
        let mut values = Pieces::default();
        let mut infos = Pieces::default();
        for (instrument, tick) in instruments.list.iter().zip(&ticks) {
            if let Some(tick) = tick {
                values.put(&AssetValue {
                    symbol: instrument.symbol,
                    price: tick.price,
                    time: tick.time,
                    previous_close: tick.previous_close,
                    snapshot: number,
                    market,
                });
                infos.put(&AssetInfo {
                    symbol: instrument.symbol,
                    name: instrument.name.clone(),
                    kind: instrument.kind,
                    source: source.to_string(),
                    open: tick.open,
                    high: tick.high,
                    low: tick.low,
                    close: tick.price,
                    volume: tick.volume,
                    previous_close: tick.previous_close,
                    time: tick.time,
                    snapshot: number,
                    market,
                });
            }
            values.close();
            infos.close();
        }
        let list = OnceLock::new();
        Ok(Prices {
            generation,
            market,
            number,
            ended,
            source,
            instruments,
            ticks,
            changed,
            values,
            infos,
            list,
        })
    }

    /// The answer to `getAssetValueCurrent`.
    pub(crate) fn value(&self, symbol: Symbol) -> Result<Encoded<'_>, Reason> {
        self.values.get(self.index(symbol)?).ok_or(Reason::NoPrice)
    }

    /// [`Prices::value`] of the symbol in a message, if there is one; why not is for the long way to say.
    #[inline]
    pub(crate) fn value_of(&self, symbol: &[u8]) -> Option<Encoded<'_>> {
        self.values.get(*self.instruments.by_symbol.get(symbol)?)
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
        self.values.get(place as usize)?.0.get(HEADER..)
    }

    /// The answer to `getAssetInfo`.
    pub(crate) fn info(&self, symbol: Symbol) -> Result<Encoded<'_>, Reason> {
        self.infos.get(self.index(symbol)?).ok_or(Reason::NoPrice)
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
            let (market, snapshot, ended) = (self.market, self.number, self.ended);
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
    use papertrader_core::money::{Price, Volume};
    use papertrader_protocol::Frame;
    use papertrader_protocol::data::AssetKind;
    use papertrader_protocol::instruction::MessageType;

    use super::*;

    fn tick(instrument: u32, raw: i64) -> Tick {
        let price = Price::from_raw(raw).unwrap();
        Tick {
            instrument,
            price,
            time: MarketTime(raw),
            open: price,
            high: price,
            low: price,
            volume: Volume::from_raw(1),
            previous_close: None,
        }
    }

    fn push(number: u64, ticks: Vec<Tick>) -> SnapshotPush {
        let market = MarketTime(number as i64);
        SnapshotPush { number, market, ended: false, instruments: vec![], ticks }
    }

    fn first() -> Prices {
        let instrument = |id, symbol: &str| LinkInstrument {
            id,
            symbol: symbol.parse().unwrap(),
            name: format!("{symbol} Inc."),
            kind: AssetKind::Stock,
        };
        let instruments = vec![instrument(7, "MSFT"), instrument(3, "AAPL"), instrument(4, "NONE")];
        let full = SnapshotPush { instruments, ..push(5, vec![tick(7, 700), tick(3, 300)]) };
        Prices::full(full, "test", 1).unwrap()
    }

    /// What an answer to request 77 says.
    fn said<T: Wire>(answer: Encoded<'_>) -> T {
        let mut out = b"before".to_vec();
        answer.put(77, &mut out);
        let (frame, used) = Frame::decode(&out[6..]).unwrap().unwrap();
        assert_eq!((used, &out[..6]), (out.len() - 6, &b"before"[..]));
        let header = Header::new(MessageType::DataTransfer, Instruction::Data as u16, 77);
        assert_eq!(frame.header, header);
        T::from_bytes(frame.data).unwrap()
    }

    fn value(prices: &Prices, symbol: &str) -> Result<AssetValue, Reason> {
        prices.value(symbol.parse().unwrap()).map(said)
    }

    #[test]
    fn a_change_merges_and_every_answer_is_of_the_new_snapshot() {
        let old = first();
        let new = old.merged(push(6, vec![tick(3, 333)]), 2).unwrap();
        assert_eq!(value(&old, "AAPL").unwrap().price.raw(), 300);
        let (aapl, msft) = (value(&new, "AAPL").unwrap(), value(&new, "MSFT").unwrap());
        assert_eq!((aapl.price.raw(), aapl.snapshot), (333, 6));
        assert_eq!((msft.price.raw(), msft.snapshot, msft.market), (700, 6, MarketTime(6)));
        assert_eq!(value(&new, "NONE"), Err(Reason::NoPrice));
        assert_eq!(value(&new, "ELSE"), Err(Reason::UnknownAsset));
        let info: AssetInfo = said(new.info("AAPL".parse().unwrap()).unwrap());
        assert_eq!((info.name.as_str(), info.close.raw()), ("AAPL Inc.", 333));
        let list = AssetList::from_bytes(&new.list(&Outgoing::new(0))).unwrap();
        let symbols: Vec<&str> = list.assets.iter().map(|line| line.symbol.as_str()).collect();
        assert_eq!(symbols, ["AAPL", "MSFT", "NONE"]);
        assert_eq!(list.assets[2].price, None);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let old = first();
        let fault = old.merged(push(5, vec![]), 2).unwrap_err();
        assert_eq!(fault, SnapshotFault::NotAscending { have: 5, got: 5 });
        let fault = old.merged(push(6, vec![tick(9, 1)]), 2).unwrap_err();
        assert_eq!(fault, SnapshotFault::UnknownInstrument(9));
    }
}
