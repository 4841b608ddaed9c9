//! What workers are told of prices (`docs/design/0008-push.md`): each settlement as a step, made once
//! for all of them, and differences from any snapshot since the start, made when one is asked for.
//!
//! It knows no links and no books: what an instrument shows comes in as it was settled.
//! Invariant: what a worker shows that applied what is said here is what was settled.

use bytes::Bytes;
use papertrader_core::bar::Bar;
use papertrader_core::books::Head;
use papertrader_protocol::link::LinkInstrument;
use papertrader_protocol::push::{
    Gaps, PackedStep, PackedTick, SnapshotDifference, SnapshotPush, SnapshotStep, Tick,
};
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Header, Instruction, transfer};
use sha2::{Digest, Sha256};

/// Differences that are kept until the next snapshot, for those who ask for the same.
const KEPT: usize = 16;

/// What was told, and what is needed to tell the rest.
pub(crate) struct Pushes {
    sequence: u64,
    /// Which list of instruments it is.
    list: u64,
    instruments: Vec<LinkInstrument>,
    /// What each instrument shows, by its number.
    shown: Vec<Shown>,
    /// The snapshot at the start: differences are known from there on.
    first: u64,
    head: Head,
    /// The frames of the last step.
    step: Option<Step>,
    /// Frames of the differences that were asked for since: from where, and whether with the list.
    made: Vec<((u64, bool), Bytes)>,
}

/// The frames that bring a worker from one snapshot to the next.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) base: u64,
    pub(crate) number: u64,
    pub(crate) frames: Bytes,
}

#[derive(Debug, Clone, Copy)]
struct Shown {
    tick: Option<Tick>,
    /// The snapshot at which it changed last.
    changed: u64,
}

impl Pushes {
    /// Begins at a snapshot. `sequence` must be another one at each start of each master.
    pub(crate) fn new(
        sequence: u64,
        instruments: Vec<LinkInstrument>,
        head: Head,
        tick: impl Fn(u32) -> Option<Tick>,
    ) -> Pushes {
        let [first, ..] = *Sha256::digest(instruments.to_bytes()).as_chunks::<8>().0 else {
            unreachable!("a hash has 32 bytes")
        };
        let most = instruments.iter().map(|instrument| instrument.id).max().unwrap_or(0);
        let shown = |id| Shown { tick: tick(id), changed: head.snapshot };
        Pushes {
            sequence,
            // 0 is what a worker says that has none.
            list: u64::from_be_bytes(first).max(1),
            instruments,
            shown: (0..=most).map(shown).collect(),
            first: head.snapshot,
            head,
            step: None,
            made: Vec::new(),
        }
    }

    /// The number of the snapshot that all are told of.
    pub(crate) fn number(&self) -> u64 {
        self.head.snapshot
    }

    /// What a worker has that was told everything up to a snapshot.
    pub(crate) fn since(&self, number: u64) -> SnapshotDifference {
        SnapshotDifference { sequence: self.sequence, number, list: self.list }
    }

    /// A settlement: what changed, by ascending instrument, and the bar that each new price brought.
    pub(crate) fn settled(
        &mut self,
        head: Head,
        changed: impl Iterator<Item = (Tick, Option<Bar>)>,
    ) -> Step {
        let base = std::mem::replace(&mut self.head, head);
        self.made.clear();
        let mut gaps = Gaps::default();
        let mut steps = Vec::with_capacity(changed.size_hint().0);
        for (tick, bar) in changed {
            let Some(shown) = self.shown.get_mut(tick.instrument as usize) else { continue };
            let gap = gaps.before(tick.instrument);
            let before = shown.tick.replace(tick);
            shown.changed = head.snapshot;
            let times = (base.market, head.market);
            steps.push(PackedStep::of(gap, before.as_ref(), &tick, bar.as_ref(), times));
        }
        let step = SnapshotStep {
            sequence: self.sequence,
            number: head.snapshot,
            base: base.snapshot,
            market: head.market,
            ended: head.ended,
            steps,
        };
        let frames = frames(Instruction::SnapshotStep, &step);
        let step = Step { base: base.snapshot, number: head.snapshot, frames };
        self.step = Some(step.clone());
        step
    }

    /// The frames that bring a worker to the present snapshot.
    pub(crate) fn difference(&mut self, from: &SnapshotDifference) -> Bytes {
        let has_list = from.list == self.list;
        let is_known = from.sequence == self.sequence
            && has_list
            && (self.first..=self.head.snapshot).contains(&from.number);
        let base = if is_known { from.number } else { 0 };
        if let Some(step) = self.step.as_ref().filter(|step| is_known && step.base == base) {
            return step.frames.clone();
        }
        let key = (base, has_list);
        if let Some((_, frames)) = self.made.iter().find(|(made, _)| *made == key) {
            return frames.clone();
        }
        let wanted = self.shown.iter().filter(|shown| base == 0 || shown.changed > base);
        let ticks = wanted.filter_map(|shown| shown.tick.as_ref());
        let push = SnapshotPush {
            sequence: self.sequence,
            number: self.head.snapshot,
            base,
            market: self.head.market,
            ended: self.head.ended,
            list: self.list,
            instruments: if has_list { Vec::new() } else { self.instruments.clone() },
            ticks: PackedTick::all(ticks, self.head.market),
        };
        let frames = frames(Instruction::Snapshot, &push);
        if self.made.len() < KEPT {
            self.made.push((key, frames.clone()));
        }
        frames
    }
}

fn frames(instruction: Instruction, content: &impl Wire) -> Bytes {
    let header = Header::new(instruction.message_type(), instruction as u16, 0);
    let mut out = Vec::new();
    transfer::encode(header, &content.to_bytes(), &mut out);
    out.into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use papertrader_core::bar::Resolution;
    use papertrader_core::money::Price;
    use papertrader_core::time::{DAY, Date, MarketTime, SECOND};
    use papertrader_market::{PriceSource, Replay, ReplayConfig, Synthetic, SyntheticConfig};
    use papertrader_protocol::Frame;
    use papertrader_protocol::data::AssetKind;

    use super::*;
    use crate::bars::Current;

    fn instruments(count: u32) -> Vec<LinkInstrument> {
        let instrument = |id: u32| LinkInstrument {
            id,
            symbol: format!("S{id}").parse().unwrap(),
            name: String::new(),
            kind: AssetKind::Synthetic,
        };
        (1..=count).map(instrument).collect()
    }

    fn head(snapshot: u64, market: MarketTime) -> Head {
        Head { snapshot, market, ended: false, ..Head::default() }
    }

    fn data(mut frames: &[u8]) -> (Instruction, Vec<u8>) {
        let mut data = Vec::new();
        let mut instruction = None;
        while let Some((frame, used)) = Frame::decode(frames).unwrap() {
            instruction = Instruction::from_number(frame.header.instruction);
            data.extend_from_slice(frame.data);
            frames = &frames[used..];
        }
        (instruction.unwrap(), data)
    }

    /// What a worker shows, which applies whatever it is told.
    #[derive(Default)]
    struct Told {
        number: u64,
        market: MarketTime,
        shown: Vec<Option<Tick>>,
    }

    impl Told {
        fn hear(&mut self, frames: &[u8]) {
            match data(frames) {
                (Instruction::SnapshotStep, data) => {
                    let step = SnapshotStep::from_bytes(&data).unwrap();
                    assert_eq!(step.base, self.number);
                    for entry in step.entries() {
                        let (id, packed) = entry.unwrap();
                        let place = &mut self.shown[id as usize];
                        let times = (self.market, step.market);
                        *place = Some(packed.onto(id, place.as_ref(), times).unwrap().0);
                    }
                    (self.number, self.market) = (step.number, step.market);
                }
                (Instruction::Snapshot, data) => {
                    let push = SnapshotPush::from_bytes(&data).unwrap();
                    assert!(push.base == 0 || push.base == self.number);
                    if push.base == 0 {
                        self.shown.fill(None);
                    }
                    for tick in push.ticks() {
                        let tick = tick.unwrap();
                        self.shown[tick.instrument as usize] = Some(tick);
                    }
                    (self.number, self.market) = (push.number, push.market);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Settles the steps of a source, one by one.
    struct Market {
        source: Arc<dyn PriceSource>,
        current: Vec<Current>,
        pushes: Pushes,
        after: MarketTime,
    }

    impl Market {
        fn new(source: Arc<dyn PriceSource>, after: MarketTime) -> Market {
            let count = source.instruments().len();
            let pushes = Pushes::new(5, instruments(count as u32), head(0, after), |_| None);
            Market { source, current: vec![Current::default(); count], pushes, after }
        }

        /// The next step's frames, and how many instruments changed.
        fn step(&mut self) -> (Bytes, usize) {
            let step = self.source.next(self.after).unwrap().unwrap();
            self.after = step.time;
            let mut changed = Vec::new();
            for new in &step.prices {
                let current = &mut self.current[new.index];
                current.extend(papertrader_core::ids::InstrumentId(new.index as u32 + 1), &new.bar);
                for split in step.splits.iter().filter(|split| split.index == new.index) {
                    current.split(split.to, split.from);
                }
                let day = current.newest(Resolution::Day).unwrap();
                let tick = Tick {
                    instrument: new.index as u32 + 1,
                    price: new.mark.price,
                    time: new.mark.time,
                    day: day.start,
                    open: day.open,
                    high: day.high,
                    low: day.low,
                    volume: day.volume,
                    previous_close: current.previous_close,
                };
                changed.push((tick, Some(new.bar)));
            }
            let number = self.pushes.number() + 1;
            let count = changed.len();
            let step = self.pushes.settled(head(number, self.after), changed.into_iter());
            (step.frames, count)
        }

        fn shown(&self) -> Vec<Option<Tick>> {
            self.pushes.shown.iter().map(|shown| shown.tick).collect()
        }
    }

    fn synthetic(instruments: usize, step: i64) -> Market {
        let start = Date::parse("2005-01-31").unwrap();
        let config = SyntheticConfig { instruments, seed: 3, start, step };
        // Shortly before midnight, so that a day and a month begin while it is looked at.
        Market::new(Arc::new(Synthetic::new(config).unwrap()), start.end().plus_nanos(-5 * step))
    }

    fn replay() -> Market {
        let start = Date::parse("2005-02-25").unwrap();
        let config = ReplayConfig { start, ..ReplayConfig::default() };
        let source = Replay::bundled(config).unwrap();
        Market::new(Arc::new(source), start.start())
    }

    /// From the synthetic source over midnight, and from the replay over a weekend with a split.
    #[test]
    fn whoever_is_told_steps_or_differences_shows_what_was_settled() {
        for (mut market, steps) in [(synthetic(50, 60 * SECOND), 12), (replay(), 40)] {
            let told = || Told { shown: market.shown(), ..Told::default() };
            let (mut always, mut late, mut from_nothing) = (told(), told(), told());
            always.market = market.after;
            late.market = market.after;
            for n in 0..steps {
                let (frames, _) = market.step();
                always.hear(&frames);
                assert_eq!(always.shown, market.shown());
                if n % 5 == 4 {
                    let asked = market.pushes.since(late.number);
                    late.hear(&market.pushes.difference(&asked));
                    assert_eq!(late.shown, market.shown());
                }
                let nothing = SnapshotDifference { sequence: 0, number: 0, list: 0 };
                from_nothing.hear(&market.pushes.difference(&nothing));
                assert_eq!(from_nothing.shown, market.shown());
            }
        }
    }

    #[test]
    fn who_has_the_list_or_the_prices_is_not_told_them_again() {
        let mut market = synthetic(50, 60 * SECOND);
        market.step();
        let have = market.pushes.since(1);
        let said = |market: &mut Market, asked| {
            let (instruction, data) = data(&market.pushes.difference(&asked));
            assert_eq!(instruction, Instruction::Snapshot);
            SnapshotPush::from_bytes(&data).unwrap()
        };
        let nothing_new = said(&mut market, have.clone());
        assert_eq!((nothing_new.base, nothing_new.number), (1, 1));
        assert_eq!((nothing_new.instruments, nothing_new.ticks), (vec![], vec![]));
        let other_start = said(&mut market, SnapshotDifference { sequence: 4, ..have.clone() });
        assert_eq!((other_start.base, other_start.instruments.len()), (0, 0));
        assert_eq!(other_start.ticks.len(), 50);
        let other_list = said(&mut market, SnapshotDifference { list: 9, ..have.clone() });
        assert_eq!((other_list.base, other_list.instruments.len()), (0, 50));
        // It is ahead of this master, which is impossible.
        let ahead = said(&mut market, SnapshotDifference { number: 2, ..have.clone() });
        assert_eq!(ahead.base, 0);
        // Who is one behind gets what everybody got.
        let (frames, _) = market.step();
        assert_eq!(market.pushes.difference(&have), frames);
    }

    #[test]
    fn a_difference_holds_only_what_changed() {
        let (one, two) = (MarketTime(DAY), MarketTime(2 * DAY));
        let mut pushes = Pushes::new(1, instruments(3), head(7, one), |_| None);
        let price = Price::from_raw(5).unwrap();
        let bar = Bar {
            start: one,
            open: price,
            high: price,
            low: price,
            close: price,
            volume: papertrader_core::money::Volume::ZERO,
        };
        let tick = |instrument, market| {
            papertrader_protocol::push::predicted(instrument, None, &bar, market)
        };
        pushes.settled(head(8, one), [(tick(1, one), Some(bar))].into_iter());
        pushes.settled(head(9, two), [(tick(3, two), Some(bar))].into_iter());
        let changed = |pushes: &mut Pushes, number| {
            let (_, data) = data(&pushes.difference(&pushes.since(number)));
            let ticks: Vec<Tick> =
                SnapshotPush::from_bytes(&data).unwrap().ticks().map(Result::unwrap).collect();
            ticks.iter().map(|tick| tick.instrument).collect::<Vec<_>>()
        };
        assert_eq!(changed(&mut pushes, 7), [1, 3]);
        assert_eq!(changed(&mut pushes, 9), Vec::<u32>::new());
    }

    /// Whole frames with their headers; TLS adds 22 bytes to some 16 KiB.
    #[test]
    fn a_changed_instrument_takes_few_bytes() {
        let each = |frames: &[u8], changed: usize| frames.len() as f64 / changed as f64;
        // 10,000 instruments that all change, over midnight and the end of a month.
        let mut market = synthetic(10_000, SECOND);
        let (first, changed) = market.step();
        assert!(each(&first, changed) < 40.0, "first prices: {}", each(&first, changed));
        for _ in 0..9 {
            let (frames, changed) = market.step();
            assert_eq!(changed, 10_000);
            assert!(each(&frames, changed) < 12.0, "{}", each(&frames, changed));
        }
        let nothing = SnapshotDifference { list: market.pushes.list, sequence: 0, number: 0 };
        let whole = market.pushes.difference(&nothing);
        assert!(each(&whole, 10_000) < 24.0, "whole values: {}", each(&whole, 10_000));
        // Five stocks, whose frame's header is a large part: over a weekend, with a split.
        let mut market = replay();
        market.step();
        for n in 0..40 {
            let (frames, changed) = market.step();
            let data = frames.len() - papertrader_protocol::frame::HEADER - 37;
            assert!(data < 40 * changed, "step {n}: {data} bytes for {changed}");
        }
    }
}
