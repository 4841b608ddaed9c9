//! Bars: that a reader gives those that were stored, wherever they stand, and in order of time.

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::ids::InstrumentId;
use papertrader_core::time::MarketTime;
use papertrader_store::{BarRow, Change, StoreReader};

use super::trading::{self, Trading};
use super::{Backend, assert_verified, go_on, trade};

pub(crate) fn a_reader_gives_bars_in_order_of_time(backend: &dyn Backend) {
    let mut store = backend.open("one");
    // So many that each instrument has had its bars put into chunks twice.
    let trading = trade(&mut *store, 18, 400);
    let mut reader = store.reader().unwrap();
    assert_bars(&mut *reader, &trading);
    drop((reader, store));
    let mut store = backend.open("one");
    let mut reader = store.reader().unwrap();
    assert_bars(&mut *reader, &trading);
    // History from the source is from before that: what was settled counts, and of history the last.
    let mut trading = trading;
    let ((instrument, resolution, start), settled) = trading.bars.pop_first().unwrap();
    let row = |bar| BarRow { instrument, resolution, bar };
    let low = Bar { close: settled.low, open: settled.low, ..settled };
    let early = |bar| Bar { start: MarketTime(start.0 - 1), ..bar };
    let rows = vec![row(low), row(early(low)), row(early(settled))];
    store.commit(&trading.batch_of(vec![Change::PutBars(rows)])).unwrap();
    let next = start.plus_nanos(1);
    let read = reader.bars(instrument, resolution, MarketTime(0), next, 9).unwrap();
    assert_eq!(read, [early(settled), settled]);
}

/// That the bars are those of the exchange, whatever part of them is asked for.
fn assert_bars(reader: &mut dyn StoreReader, trading: &Trading) {
    let (least, most) = (MarketTime(i64::MIN), MarketTime(i64::MAX));
    for id in 1..=trading::INSTRUMENTS {
        for resolution in Resolution::ALL {
            let instrument = InstrumentId(id);
            let keys = (instrument, resolution, least)..=(instrument, resolution, most);
            let all: Vec<Bar> = trading.bars.range(keys).map(|(_, bar)| *bar).collect();
            let mut read =
                |from, to, limit| reader.bars(instrument, resolution, from, to, limit).unwrap();
            assert_eq!(read(least, most, usize::MAX), all);
            if !matches!(resolution, Resolution::Interval | Resolution::Day) {
                assert_eq!(all, []);
                continue;
            }
            assert!(all.len() > 5);
            // The end is not inside, the start is.
            assert_eq!(read(all[1].start, all[4].start, 10), all[1..4]);
            assert_eq!(read(all[1].start, all[4].start, 2), all[1..3]);
            assert_eq!(read(all[1].start, all[1].start, 10), []);
            assert_eq!(read(all[4].start, all[1].start, 10), []);
            assert_eq!(read(least, most, 0), []);
            for (at, bar) in all.iter().enumerate() {
                let after = bar.start.plus_nanos(1);
                assert_eq!(read(bar.start, most, 70), all[at..all.len().min(at + 70)]);
                assert_eq!(read(after, most, 1), all[at + 1..all.len().min(at + 2)]);
            }
            for (at, bar) in all.iter().enumerate() {
                let mut last = |before| reader.last_bar(instrument, resolution, before).unwrap();
                assert_eq!(last(bar.start.plus_nanos(1)), Some(*bar));
                assert_eq!(last(bar.start), at.checked_sub(1).map(|at| all[at]));
            }
            assert!(resolution != Resolution::Interval || all.len() > 100);
        }
    }
}

/// The step of the source's time was changed between two starts: a bar begins before the last one.
pub(crate) fn a_bar_that_comes_late_is_kept_beside_the_others(backend: &dyn Backend) {
    let mut trading = trade(&mut *backend.open("one"), 20, 300);
    let (least, most) = (MarketTime(i64::MIN), MarketTime(i64::MAX));
    for round in 1..=4 {
        // Memory begins anew: of some instruments all bars are in chunks.
        let mut store = backend.open("one");
        let mut reader = store.reader().unwrap();
        let read = |reader: &mut dyn StoreReader, id, resolution| {
            reader.bars(InstrumentId(id), resolution, least, most, usize::MAX).unwrap()
        };
        let each = (1..=trading::INSTRUMENTS)
            .flat_map(|id| [Resolution::Interval, Resolution::Day].map(|it| (id, it)));
        let before: Vec<_> = each.map(|(id, it)| (id, it, read(&mut *reader, id, it))).collect();
        let Change::Settle { settlement, .. } = trading.settle_something() else { unreachable!() };
        let late =
            |all: &[Bar]| Bar { start: all[all.len() / 2].start.plus_nanos(round), ..all[0] };
        let row = |(id, resolution, all): &(u32, Resolution, Vec<Bar>)| BarRow {
            instrument: InstrumentId(*id),
            resolution: *resolution,
            bar: late(all),
        };
        let bars = before.iter().map(row).collect();
        store.commit(&trading.batch_of(vec![Change::Settle { settlement, bars }])).unwrap();
        for (id, resolution, mut all) in before {
            let bar = late(&all);
            all.insert(all.partition_point(|it| it.start < bar.start), bar);
            assert_eq!(read(&mut *reader, id, resolution), all);
            let last = reader.last_bar(InstrumentId(id), resolution, most).unwrap();
            assert_eq!(last, all.last().copied());
        }
        assert_verified(&mut *store);
        go_on(&mut *store, &mut trading, 20);
        assert_verified(&mut *store);
    }
}
