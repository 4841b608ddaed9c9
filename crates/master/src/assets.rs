//! Assets data retrieval (specification 3.1.6): asks the price source at each interval, keeps the
//! newest prices and bars, and makes the snapshots that workers are told.
//!
//! The source is asked on a thread of its own; its answer comes back as an event. What a snapshot
//! changes here is applied only after its settlement is committed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use papertrader_core::bar::Resolution;
use papertrader_core::books::Books;
use papertrader_core::ids::{InstrumentId, SnapshotNumber};
use papertrader_core::names::Symbol;
use papertrader_core::snapshot::{PricePoint, Snapshot, Split};
use papertrader_core::time::MarketTime;
use papertrader_market::{InstrumentKind, PriceSource, Step};
use papertrader_protocol::data::AssetKind;
use papertrader_protocol::link::{LinkInstrument, SnapshotPush, Tick};
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Header, Instruction, transfer};
use papertrader_store::{BarRow, Change, InstrumentRow, Loaded, StoreError, StoreReader};

use crate::bars::Current;
use crate::database::Guard;
use crate::driver::{Event, Events, MasterError};

/// The instruments and what is newest about each.
pub(crate) struct Assets {
    source: Arc<dyn PriceSource>,
    instruments: Arc<Vec<InstrumentRow>>,
    by_symbol: HashMap<Symbol, InstrumentId>,
    /// The deployment's number of the source's n-th instrument.
    of_source: Vec<InstrumentId>,
    /// The place of each instrument in the source's list, by number from 1.
    in_source: Vec<Option<usize>>,
    current: Vec<Current>,
    poller: Sender<MarketTime>,
    polling: bool,
}

/// A snapshot on its way to be settled, with what it does to the bars.
pub(crate) struct Retrieved {
    pub(crate) snapshot: Snapshot,
    pub(crate) rows: Vec<BarRow>,
    current: Vec<(InstrumentId, Current)>,
}

impl Assets {
    /// Takes over what is stored; the poller's answers come as [`Event::Step`].
    pub(crate) fn new(
        source: Arc<dyn PriceSource>,
        loaded: &Loaded,
        reader: &mut dyn StoreReader,
        events: Events,
    ) -> Result<Assets, MasterError> {
        let instruments = Arc::new(loaded.instruments.clone());
        let by_symbol: HashMap<Symbol, InstrumentId> =
            instruments.iter().map(|row| (row.symbol, row.id)).collect();
        let mut of_source = Vec::new();
        let mut in_source = vec![None; instruments.len()];
        for (index, spec) in source.instruments().iter().enumerate() {
            let missing = || StoreError::Corrupt(format!("{} was not stored", spec.symbol));
            let id = by_symbol.get(&spec.symbol).copied().ok_or_else(missing)?;
            of_source.push(id);
            if let Some(place) = in_source.get_mut(id.0 as usize - 1) {
                *place = Some(index);
            }
        }
        let mut current = Vec::with_capacity(instruments.len());
        for row in instruments.iter() {
            current.push(Current::restore(reader, row.id)?);
        }
        let (poller, inbox) = mpsc::channel();
        let asked = Arc::clone(&source);
        std::thread::Builder::new().name("retrieval".into()).spawn(move || {
            let guard = Guard { events, thread: "retrieval" };
            while let Ok(after) = inbox.recv() {
                if guard.events.blocking_send(Event::Step(asked.next(after))).is_err() {
                    return;
                }
            }
        })?;
        let mut assets = Assets {
            source,
            instruments,
            by_symbol,
            of_source,
            in_source,
            current,
            poller,
            polling: false,
        };
        assets.restore_splits(loaded.books.head().market);
        Ok(assets)
    }

    /// Today's splits changed yesterday's close, which is stored as it was traded.
    fn restore_splits(&mut self, market: MarketTime) {
        for (index, id) in self.of_source.iter().enumerate() {
            let Some(current) = self.current.get_mut(id.0 as usize - 1) else { continue };
            let Some(day) = current.newest(Resolution::Day).map(|bar| bar.start) else { continue };
            for split in self.source.splits(index, day, market.plus_nanos(1)) {
                current.split(split.1, split.2);
            }
        }
    }

    pub(crate) fn instruments(&self) -> &Arc<Vec<InstrumentRow>> {
        &self.instruments
    }

    pub(crate) fn source(&self) -> &Arc<dyn PriceSource> {
        &self.source
    }

    pub(crate) fn find(&self, symbol: Symbol) -> Option<InstrumentId> {
        self.by_symbol.get(&symbol).copied()
    }

    /// The place of an instrument in the source's list, if the source still has it.
    pub(crate) fn index_in_source(&self, id: InstrumentId) -> Option<usize> {
        *self.in_source.get((id.0 as usize).checked_sub(1)?)?
    }

    pub(crate) fn symbol(&self, id: InstrumentId) -> Option<Symbol> {
        symbol_of(&self.instruments, id)
    }

    pub(crate) fn current(&self, id: InstrumentId) -> Option<&Current> {
        self.current.get((id.0 as usize).checked_sub(1)?)
    }

    /// Asks the source for the step after `after`, unless it is still being asked.
    pub(crate) fn poll(&mut self, after: MarketTime) {
        if !self.polling {
            self.polling = self.poller.send(after).is_ok();
        }
    }

    /// The source has answered.
    pub(crate) fn polled(&mut self) {
        self.polling = false;
    }

    /// Makes a snapshot of what the source brought.
    pub(crate) fn retrieve(&self, step: Step, number: SnapshotNumber) -> Retrieved {
        let mut prices = Vec::with_capacity(step.prices.len());
        let mut rows = Vec::new();
        let mut current: Vec<(InstrumentId, Current)> = Vec::with_capacity(step.prices.len());
        for new in step.prices {
            let Some(instrument) = self.of_source.get(new.index).copied() else { continue };
            let Some(newest) = self.current(instrument) else { continue };
            let mut newest = newest.clone();
            rows.extend(newest.extend(instrument, &new.bar));
            current.push((instrument, newest));
            prices.push(PricePoint { instrument, mark: new.mark, bar: new.bar });
        }
        let mut splits = Vec::new();
        for split in step.splits {
            let Some(instrument) = self.of_source.get(split.index).copied() else { continue };
            match current.iter_mut().find(|(id, _)| *id == instrument) {
                Some((_, newest)) => newest.split(split.to, split.from),
                // No new price comes with it: only the close of the day before changes.
                None => {
                    let Some(newest) = self.current(instrument) else { continue };
                    let mut newest = newest.clone();
                    newest.split(split.to, split.from);
                    current.push((instrument, newest));
                }
            }
            let (number, to, from) = (split.number, split.to, split.from);
            splits.push(Split { number, instrument, to, from });
        }
        let snapshot = Snapshot {
            number,
            time: step.time,
            market_open: step.market_open,
            ended: step.ended,
            prices,
            splits,
        };
        Retrieved { snapshot, rows, current }
    }

    /// Takes a snapshot over after its settlement was committed. Returns the frames for workers.
    pub(crate) fn settled(&mut self, retrieved: Retrieved, books: &Books) -> Vec<u8> {
        let mut changed: Vec<InstrumentId> =
            retrieved.snapshot.splits.iter().map(|split| split.instrument).collect();
        for (id, current) in retrieved.current {
            changed.push(id);
            if let Some(place) = self.current.get_mut(id.0 as usize - 1) {
                *place = current;
            }
        }
        changed.sort_unstable();
        changed.dedup();
        self.push(books, Vec::new(), changed.into_iter())
    }

    /// The frames of a full snapshot.
    pub(crate) fn full_snapshot(&self, books: &Books) -> Vec<u8> {
        let instruments = self
            .instruments
            .iter()
            .map(|row| LinkInstrument {
                id: row.id.0,
                symbol: row.symbol,
                name: row.name.clone(),
                kind: match row.kind {
                    2 => AssetKind::Synthetic,
                    _ => AssetKind::Stock,
                },
            })
            .collect();
        self.push(books, instruments, self.instruments.iter().map(|row| row.id))
    }

    fn push(
        &self,
        books: &Books,
        instruments: Vec<LinkInstrument>,
        ids: impl Iterator<Item = InstrumentId>,
    ) -> Vec<u8> {
        let head = books.head();
        let ticks = ids.filter_map(|id| self.tick(books, id)).collect();
        let push = SnapshotPush {
            number: head.snapshot,
            market: head.market,
            ended: head.ended,
            instruments,
            ticks,
        };
        let instruction = Instruction::Snapshot;
        let header = Header::new(instruction.message_type(), instruction as u16, 0);
        let mut out = Vec::new();
        transfer::encode(header, &push.to_bytes(), &mut out);
        out
    }

    fn tick(&self, books: &Books, id: InstrumentId) -> Option<Tick> {
        let mark = books.mark(id)?;
        let current = self.current(id)?;
        let day = current.newest(Resolution::Day)?;
        Some(Tick {
            instrument: id.0,
            price: mark.price,
            time: mark.time,
            open: day.open,
            high: day.high,
            low: day.low,
            volume: day.volume,
            previous_close: current.previous_close,
        })
    }
}

/// The symbol of an instrument.
pub(crate) fn symbol_of(instruments: &[InstrumentRow], id: InstrumentId) -> Option<Symbol> {
    Some(instruments.get((id.0 as usize).checked_sub(1)?)?.symbol)
}

/// The number of an instrument's kind in the store and on the wire.
fn kind_number(kind: InstrumentKind) -> u8 {
    match kind {
        InstrumentKind::Stock => AssetKind::Stock as u8,
        InstrumentKind::Synthetic => AssetKind::Synthetic as u8,
    }
}

/// What must be stored before the first snapshot: instruments that are new, with the history that
/// the source has of them from before its start.
pub(crate) fn preparation(
    source: &dyn PriceSource,
    loaded: &Loaded,
) -> Result<Vec<Change>, MasterError> {
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    let market = loaded.books.head().market;
    let until = if market == MarketTime(0) { source.start() } else { market };
    let known: HashMap<Symbol, InstrumentId> =
        loaded.instruments.iter().map(|row| (row.symbol, row.id)).collect();
    for (index, spec) in source.instruments().iter().enumerate() {
        if known.contains_key(&spec.symbol) {
            continue;
        }
        let instrument = InstrumentId((loaded.instruments.len() + rows.len() + 1) as u32);
        rows.push(InstrumentRow {
            id: instrument,
            symbol: spec.symbol,
            name: spec.name.clone(),
            kind: kind_number(spec.kind),
        });
        for resolution in [Resolution::Day, Resolution::Month] {
            let history = source.history(index, resolution, MarketTime(i64::MIN), until)?;
            bars.extend(history.into_iter().map(|bar| BarRow { instrument, resolution, bar }));
        }
    }
    let mut changes = Vec::new();
    if !rows.is_empty() {
        changes.push(Change::AddInstruments(rows));
        changes.push(Change::PutBars(bars));
    }
    Ok(changes)
}
