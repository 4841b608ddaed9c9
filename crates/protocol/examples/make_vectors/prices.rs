//! Prices on the link: whole values, steps, and what a worker says that it has.

use papertrader_protocol::push::*;

use super::*;

/// A price of the first day, with everything that can be said of it.
fn tick(instrument: u32) -> Tick {
    Tick {
        instrument,
        price: price("43.24"),
        time: MARKET,
        day: MARKET.day_start(),
        open: price("43.1"),
        high: price("44.025"),
        low: price("42.99"),
        volume: Volume::from_units(1_234_567),
        previous_close: Some(price("42.8")),
    }
}

pub(super) fn prices(v: &mut Vectors) {
    let instrument = |id, text| LinkInstrument {
        id,
        symbol: symbol(text),
        name: text.into(),
        kind: AssetKind::Stock,
    };
    let flat = Tick {
        instrument: u32::MAX,
        open: price("43.24"),
        high: price("43.24"),
        low: price("43.24"),
        volume: Volume::ZERO,
        previous_close: None,
        ..tick(0)
    };
    let odd = Tick {
        instrument: 7,
        price: Price::from_raw(1).expect("a price"),
        time: MarketTime(MARKET.0 - 1),
        day: MarketTime(MARKET.day_start().0 - 3 * DAY),
        open: Price::from_raw(100_000_000_000_000_000).expect("a price"),
        volume: Volume::from_raw(i64::MIN),
        ..tick(0)
    };
    let instruments =
        vec![instrument(1, "AAPL"), instrument(7, "OLD"), instrument(u32::MAX, "NEW")];
    let full = SnapshotPush {
        sequence: u64::MAX,
        number: 77,
        base: 0,
        market: MARKET,
        ended: false,
        list: 0x1234_5678_9abc_def0,
        instruments,
        ticks: PackedTick::all([tick(1), odd, flat].iter(), MARKET),
    };
    v.data("snapshot, everything", I::Snapshot, false, &full);
    let since = SnapshotPush {
        base: 70,
        instruments: vec![],
        ticks: PackedTick::all([tick(1)].iter(), MARKET),
        ..full.clone()
    };
    v.data("snapshot, what changed", I::Snapshot, false, &since);
    let nothing =
        SnapshotPush { base: 77, ended: true, instruments: vec![], ticks: vec![], ..full };
    v.data("snapshot, nothing", I::Snapshot, false, &nothing);
    steps(v);
    let have = SnapshotDifference { sequence: u64::MAX, number: 77, list: 5 };
    v.data("snapshotDifference", I::SnapshotDifference, false, &have);
    let nothing = SnapshotDifference { sequence: 0, number: 0, list: 0 };
    v.data("snapshotDifference of who has nothing", I::SnapshotDifference, false, &nothing);
    let step = |name, what, bytes: &[u8]| (name, what, bytes.to_vec());
    let head = [&[0; 32][..], &[0]].concat();
    for (name, what, rest) in [
        step("a step without a bar and without values", "badValue", &[0, 0, 0, 1, 0, 0x40]),
        step(
            "a step without a bar but with its price",
            "badValue",
            &[0, 0, 0, 1, 0, 0xc1, 0, 0, 0],
        ),
        step("values with a bit that means nothing", "badValue", &[0, 0, 0, 1, 0, 0x80, 0x80, 0]),
        step(
            "a number of eleven bytes",
            "badValue",
            &[&[0, 0, 0, 1, 0, 1][..], &[0xff; 11]].concat(),
        ),
        step("a number that ends early", "short", &[0, 0, 0, 1, 0, 1, 0x80]),
        step("steps with a huge count", "short", &[&[0xff; 4][..], &[0; 64]].concat()),
    ] {
        v.refused(name, "SnapshotStep", what, &[&head[..], &rest].concat());
    }
}

fn steps(v: &mut Vectors) {
    let base = MARKET;
    let market = MARKET.plus_nanos(60 * SECOND);
    let before = tick(1);
    let usual = Bar {
        start: base,
        open: before.price,
        high: price("43.3"),
        low: price("43.24"),
        close: price("43.27"),
        volume: Volume::from_units(1_200),
    };
    // Another day: the values follow from the bar.
    let day = MarketTime(MARKET.day_start().0 + DAY);
    let next = Bar { start: day, open: price("43.5"), volume: Volume::ZERO, ..usual };
    let next = Bar { high: price("43.5"), low: price("43.2"), ..next };
    let first = Bar { open: price("5.0001"), high: price("5.0001"), low: price("5"), ..usual };
    let first = Bar { close: price("5"), ..first };
    let mut gaps = Gaps::default();
    let mut entry = |instrument: u32, before: Option<&Tick>, now: &Tick, bar: Option<&Bar>| {
        PackedStep::of(gaps.before(instrument), before, now, bar, (base, market))
    };
    let of = |instrument| Tick { instrument, ..before };
    let (two, split) = (of(2), of(3));
    let halved = Tick { previous_close: Some(price("21.4")), ..split };
    let one_later = predicted(1, Some(&before), &usual, market);
    let next_day = predicted(2, Some(&two), &next, market);
    let steps = vec![
        entry(1, Some(&before), &one_later, Some(&usual)),
        entry(2, Some(&two), &next_day, Some(&next)),
        entry(3, Some(&split), &halved, None),
        entry(u32::MAX, None, &predicted(u32::MAX, None, &first, market), Some(&first)),
    ];
    let (sequence, number, ended) = (5, 78, false);
    let step = SnapshotStep { sequence, number, base: 77, market, ended, steps };
    v.data("snapshotStep", I::SnapshotStep, false, &step);
    let last = SnapshotStep { ended: true, steps: vec![], ..step };
    v.data("snapshotStep without a price", I::SnapshotStep, false, &last);
}
