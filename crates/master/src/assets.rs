//! Assets data retrieval (specification 3.1.6): asks the price source at each interval, and keeps the
//! newest prices and bars. How workers are told is `pushes`'.
//!
//! The source is asked on a thread of its own; its answer comes back as an event. What a snapshot
//! changes here is applied only after its settlement is committed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::books::Books;
use papertrader_core::ids::{InstrumentId, SnapshotNumber};
use papertrader_core::names::Symbol;
use papertrader_core::snapshot::{PricePoint, Snapshot, Split};
use papertrader_core::time::MarketTime;
use papertrader_market::{self as market, InstrumentKind, PriceSource};
use papertrader_protocol::data::AssetKind;
use papertrader_protocol::link::LinkInstrument;
use papertrader_protocol::push::Tick;
use papertrader_store::{BarRow, Change, InstrumentRow, Loaded, StoreError, StoreReader};

use crate::bars::Current;
use crate::database::Guard;
use crate::driver::{Event, Events, MasterError};
use crate::pushes::{Pushes, Step};

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
    pushes: Pushes,
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
    /// Takes over what is stored; the poller's answers come as [`Event::Step`]. `sequence` is
    /// what workers know this start by.
    pub(crate) fn new(
        source: Arc<dyn PriceSource>,
        loaded: &Loaded,
        reader: &mut dyn StoreReader,
        sequence: u64,
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
        let head = loaded.books.head();
        restore_splits(source.as_ref(), &of_source, &mut current, head.market);
        let listed = instruments.iter().map(link_instrument).collect();
        let pushes = Pushes::new(sequence, listed, head, |id| {
            tick(&current, &loaded.books, InstrumentId(id))
        });
        Ok(Assets {
            source,
            instruments,
            by_symbol,
            of_source,
            in_source,
            current,
            pushes,
            poller,
            polling: false,
        })
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
    pub(crate) fn retrieve(&self, step: market::Step, number: SnapshotNumber) -> Retrieved {
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

    /// Takes a snapshot over after its settlement was committed. Returns what workers are told.
    pub(crate) fn settled(&mut self, retrieved: Retrieved, books: &Books) -> Step {
        let Retrieved { snapshot, current, .. } = retrieved;
        for (id, current) in current {
            if let Some(place) = self.current.get_mut(id.0 as usize - 1) {
                *place = current;
            }
        }
        let prices = snapshot.prices.iter().map(|price| (price.instrument, Some(price.bar)));
        let splits = snapshot.splits.iter().map(|split| (split.instrument, None));
        let mut changed: Vec<(InstrumentId, Option<Bar>)> = prices.chain(splits).collect();
        // Stable: a new price comes before the split, which then says no more.
        changed.sort_by_key(|(id, _)| *id);
        changed.dedup_by_key(|(id, _)| *id);
        let (current, marks) = (&self.current, books);
        let ticks =
            changed.into_iter().filter_map(|(id, bar)| Some((tick(current, marks, id)?, bar)));
        self.pushes.settled(books.head(), ticks)
    }

    /// What workers are told.
    pub(crate) fn pushes(&mut self) -> &mut Pushes {
        &mut self.pushes
    }
}

/// Today's splits changed yesterday's close, which is stored as it was traded.
fn restore_splits(
    source: &dyn PriceSource,
    of_source: &[InstrumentId],
    all: &mut [Current],
    market: MarketTime,
) {
    for (index, id) in of_source.iter().enumerate() {
        let Some(current) = all.get_mut(id.0 as usize - 1) else { continue };
        let Some(day) = current.newest(Resolution::Day).map(|bar| bar.start) else { continue };
        for split in source.splits(index, day, market.plus_nanos(1)) {
            current.split(split.1, split.2);
        }
    }
}

/// What an instrument shows, if it has a price.
fn tick(current: &[Current], books: &Books, id: InstrumentId) -> Option<Tick> {
    let mark = books.mark(id)?;
    let current = current.get((id.0 as usize).checked_sub(1)?)?;
    let day = current.newest(Resolution::Day)?;
    Some(Tick {
        instrument: id.0,
        price: mark.price,
        time: mark.time,
        day: day.start,
        open: day.open,
        high: day.high,
        low: day.low,
        volume: day.volume,
        previous_close: current.previous_close,
    })
}

fn link_instrument(row: &InstrumentRow) -> LinkInstrument {
    LinkInstrument {
        id: row.id.0,
        symbol: row.symbol,
        name: row.name.clone(),
        kind: match row.kind {
            2 => AssetKind::Synthetic,
            _ => AssetKind::Stock,
        },
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
