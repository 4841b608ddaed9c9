//! The replay of the bundled prices, through the public interface: that the derived steps are the
//! recorded days, that nothing is told early, and that it can be resumed anywhere.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read;

use papertrader_core::bar::{Bar, Resolution, roll_up};
use papertrader_core::money::Volume;
use papertrader_core::time::{DAY, Date, MarketTime, SECOND};
use papertrader_market::{PriceSource, Replay, ReplayConfig, SourceError, Step, adjusted_closes};
use proptest::prelude::*;

const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const ALWAYS: MarketTime = MarketTime(i64::MIN);
const NEVER: MarketTime = MarketTime(i64::MAX);

fn date(text: &str) -> Date {
    Date::parse(text).unwrap()
}

/// A time in UTC, `2005-01-03 14:30`.
fn utc(text: &str) -> MarketTime {
    let (day, clock) = text.split_once(' ').unwrap();
    let (hours, minutes) = clock.split_once(':').unwrap();
    let minutes = hours.parse::<i64>().unwrap() * 60 + minutes.parse::<i64>().unwrap();
    date(day).start().plus_nanos(minutes * MINUTE)
}

/// A replay of the whole file.
fn bundled(step: i64) -> Replay {
    Replay::bundled(ReplayConfig { start: date("2000-03-01"), step, seed: 3 }).unwrap()
}

fn csv() -> String {
    let file = include_bytes!("../../../data/stocks-daily-2000-2013.csv.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(file.as_slice()).read_to_string(&mut text).unwrap();
    text
}

/// A replay of the rows that `keep` accepts by their date.
fn replay_of(csv: &str, config: ReplayConfig, keep: impl Fn(&str) -> bool) -> Replay {
    let kept = |(number, line): &(usize, &str)| {
        *number == 0 || keep(line.split(',').nth(1).unwrap_or_default())
    };
    let rows: Vec<&str> = csv.lines().enumerate().filter(kept).map(|(_, line)| line).collect();
    Replay::from_csv(rows.join("\n").as_bytes(), config).unwrap()
}

fn index_of(replay: &Replay, symbol: &str) -> usize {
    replay.instruments().iter().position(|i| i.symbol.as_str() == symbol).unwrap()
}

/// Steps through everything that is later than `after` and before `to`.
fn steps(replay: &Replay, mut after: MarketTime, to: MarketTime) -> Vec<Step> {
    let mut all = Vec::new();
    while let Some(step) = replay.next(after).unwrap().filter(|step| step.time < to) {
        assert!(step.time > after, "market time goes forward");
        after = step.time;
        all.push(step);
    }
    all
}

/// The daily bars as the file has them, read here once more, without the crate's own reader.
fn recorded_days(csv: &str, symbol: &str) -> Vec<Bar> {
    let rows = csv.lines().filter(|line| line.split(',').next() == Some(symbol));
    rows.map(|row| {
        let values: Vec<&str> = row.split(',').collect();
        Bar {
            start: date(values[1]).start(),
            open: values[2].parse().unwrap(),
            high: values[3].parse().unwrap(),
            low: values[4].parse().unwrap(),
            close: values[5].parse().unwrap(),
            volume: Volume::from_units(values[6].parse().unwrap()),
        }
    })
    .collect()
}

#[test]
fn the_increments_of_every_day_merge_to_the_recorded_bar() {
    let csv = csv();
    for step in [30 * MINUTE, 7 * HOUR] {
        let replay = bundled(step);
        let mut told: Vec<Vec<Bar>> = vec![Vec::new(); replay.instruments().len()];
        let mut count = 0;
        let all = steps(&replay, ALWAYS, NEVER);
        for step in &all {
            count += 1;
            assert!(step.market_open);
            assert_eq!(step.ended, count == all.len());
            for price in &step.prices {
                assert!(price.bar.is_consistent());
                assert_eq!(price.mark.price, price.bar.close);
                assert_eq!(price.mark.time, step.time);
                told[price.index].push(price.bar);
            }
        }
        let per_session = if step == 7 * HOUR { 2 } else { 14 };
        assert_eq!(all.len(), 3_270 * per_session);
        for (index, told) in told.iter().enumerate() {
            let symbol = replay.instruments()[index].symbol;
            let recorded = recorded_days(&csv, symbol.as_str());
            assert_eq!(roll_up(told, Resolution::Day), recorded, "{symbol}");
            let days = replay.history(index, Resolution::Day, ALWAYS, NEVER).unwrap();
            assert_eq!(days, recorded, "{symbol}");
            let months = replay.history(index, Resolution::Month, ALWAYS, NEVER).unwrap();
            assert_eq!(months, roll_up(&recorded, Resolution::Month), "{symbol}");
        }
    }
}

#[test]
fn the_increments_of_fine_steps_merge_too() {
    // Ten seconds are finer than the minutes that all steps share.
    let csv = csv();
    let replay = bundled(10 * SECOND);
    let index = index_of(&replay, "IBM");
    for day in recorded_days(&csv, "IBM").iter().step_by(400) {
        let steps = steps(&replay, day.start, day.start.plus_nanos(DAY));
        assert_eq!(steps.len(), 2_341);
        let of_index = |step: &Step| step.prices.iter().find(|p| p.index == index).map(|p| p.bar);
        let told: Vec<Bar> = steps.iter().filter_map(of_index).collect();
        assert_eq!(roll_up(&told, Resolution::Day), [*day]);
    }
}

#[test]
fn instruments_are_listed_by_name() {
    let replay = bundled(HOUR);
    let listed: Vec<_> =
        replay.instruments().iter().map(|i| (i.symbol.as_str(), i.name.as_str())).collect();
    assert_eq!(
        listed,
        [
            ("AAPL", "Apple Inc."),
            ("FB", "Facebook, Inc."),
            ("GOOG", "Google Inc."),
            ("IBM", "International Business Machines"),
            ("MSFT", "Microsoft Corporation"),
        ]
    );
}

#[test]
fn the_splits_are_exactly_those_that_happened() {
    let replay = bundled(HOUR);
    let expected = [
        (1, "AAPL", utc("2000-06-21 13:30"), 2, 1),
        (2, "MSFT", utc("2003-02-18 14:30"), 2, 1),
        (3, "AAPL", utc("2005-02-28 14:30"), 2, 1),
    ];
    let mut found = Vec::new();
    for step in steps(&replay, ALWAYS, NEVER) {
        for split in &step.splits {
            let symbol = replay.instruments()[split.index].symbol.to_string();
            found.push((split.number, symbol, step.time, split.to, split.from));
        }
    }
    let expected_texts =
        expected.map(|(n, symbol, t, to, from)| (n, symbol.to_owned(), t, to, from));
    assert_eq!(found, expected_texts);

    let apple = index_of(&replay, "AAPL");
    let both = [(expected[0].2, 2, 1), (expected[2].2, 2, 1)];
    assert_eq!(replay.splits(apple, ALWAYS, NEVER), both);
    assert_eq!(replay.splits(apple, both[0].0, both[1].0), both[..1]);
    assert_eq!(replay.splits(apple, both[0].0.plus_nanos(1), NEVER), both[1..]);
    assert_eq!(replay.splits(99, ALWAYS, NEVER), []);
}

#[test]
fn a_split_comes_with_its_opening_step_only() {
    let replay = bundled(HOUR);
    let opening = utc("2005-02-28 14:30");
    for after in [opening.plus_nanos(-1), utc("2005-02-25 21:00"), utc("2005-02-27 00:00")] {
        let step = replay.next(after).unwrap().unwrap();
        assert_eq!((step.time, step.splits.len()), (opening, 1));
    }
    assert_eq!(replay.next(opening).unwrap().unwrap().splits, []);
    assert_eq!(replay.next(utc("2005-02-25 20:59")).unwrap().unwrap().splits, []);
}

#[test]
fn adjusted_closes_do_not_jump_at_a_split() {
    let replay = bundled(HOUR);
    let apple = index_of(&replay, "AAPL");
    let to = date("2005-03-05").start();
    let bars = replay.history(apple, Resolution::Day, date("2005-01-03").start(), to).unwrap();
    let closes = adjusted_closes(&bars, &replay.splits(apple, ALWAYS, to));
    let change = |pair: &[(MarketTime, papertrader_core::money::Price)]| {
        pair[1].1.raw() as f64 / pair[0].1.raw() as f64 - 1.0
    };
    assert!(closes.windows(2).all(|pair| change(pair).abs() < 0.15));
    // The close of 2005-02-25 was 88.99.
    let before = closes.iter().find(|(time, _)| *time == date("2005-02-25").start()).unwrap();
    assert_eq!(before.1.to_string(), "44.495");
}

#[test]
fn sessions_follow_new_yorks_clock() {
    let replay = bundled(7 * HOUR);
    let cases = [
        ("2005-01-03", "14:30", "21:00"),
        ("2005-07-01", "13:30", "20:00"),
        // In 2006 summer time ran from the first Sunday of April to the last of October.
        ("2006-03-31", "14:30", "21:00"),
        ("2006-04-03", "13:30", "20:00"),
        ("2006-10-27", "13:30", "20:00"),
        ("2006-10-30", "14:30", "21:00"),
        // From 2007 on, from the second Sunday of March to the first of November.
        ("2007-03-09", "14:30", "21:00"),
        ("2007-03-12", "13:30", "20:00"),
        ("2007-11-02", "13:30", "20:00"),
        ("2007-11-05", "14:30", "21:00"),
    ];
    for (day, open, close) in cases {
        let steps = steps(&replay, date(day).start(), date(day).end());
        let times: Vec<MarketTime> = steps.iter().map(|step| step.time).collect();
        assert_eq!(times, [utc(&format!("{day} {open}")), utc(&format!("{day} {close}"))], "{day}");
    }
}

#[test]
fn steps_run_from_the_open_to_the_close_and_jump_over_closed_days() {
    let replay = bundled(2 * HOUR);
    // From Friday's last steps over the weekend and Martin Luther King Day.
    let times: Vec<MarketTime> = steps(&replay, utc("2005-01-14 19:00"), utc("2005-01-18 21:01"))
        .iter()
        .map(|step| step.time)
        .collect();
    let expected = [
        "2005-01-14 20:30",
        "2005-01-14 21:00",
        "2005-01-18 14:30",
        "2005-01-18 16:30",
        "2005-01-18 18:30",
        "2005-01-18 20:30",
        "2005-01-18 21:00",
    ];
    assert_eq!(times, expected.map(utc));
}

#[test]
fn the_opening_step_is_the_recorded_open_alone() {
    let replay = bundled(30 * MINUTE);
    let apple = index_of(&replay, "AAPL");
    let steps = steps(&replay, date("2000-03-01").start(), utc("2000-03-01 15:01"));
    let bars: Vec<Bar> = steps.iter().map(|step| step.prices[apple].bar).collect();
    assert_eq!(bars.len(), 2);
    let open = "118.56".parse().unwrap();
    let start = utc("2000-03-01 14:30");
    let opening = Bar { start, open, high: open, low: open, close: open, volume: Volume::ZERO };
    assert_eq!(bars[0], opening);
    assert_eq!((bars[1].start, bars[1].open), (start, open));
    assert!(bars[1].volume > Volume::ZERO);
}

#[test]
fn a_fresh_deployment_begins_before_the_first_session_of_its_start() {
    let replay = Replay::bundled(ReplayConfig::default()).unwrap();
    let first = replay.next(replay.start()).unwrap().unwrap();
    assert_eq!(first.time, utc("2005-01-03 14:30"));
    // The history before it ends with the year before.
    let last = |resolution| {
        replay.history(0, resolution, ALWAYS, replay.start()).unwrap().last().unwrap().start
    };
    assert_eq!(last(Resolution::Day), date("2004-12-31").start());
    assert_eq!(last(Resolution::Interval), utc("2004-12-31 20:30"));
}

#[test]
fn an_instrument_has_no_price_before_its_first() {
    let replay = bundled(7 * HOUR);
    for (symbol, listed) in [("GOOG", "2004-08-19"), ("FB", "2012-05-18")] {
        let index = index_of(&replay, symbol);
        let listed = date(listed);
        for step in steps(&replay, ALWAYS, listed.start()) {
            assert!(step.prices.iter().all(|price| price.index != index));
        }
        let first = replay.next(listed.start()).unwrap().unwrap();
        assert!(first.prices.iter().any(|price| price.index == index));
        for resolution in Resolution::ALL {
            // Up to the opening nothing, and one nanosecond later the opening price.
            let until = |to| replay.history(index, resolution, ALWAYS, to).unwrap();
            assert_eq!(until(first.time), []);
            let opening = until(first.time.plus_nanos(1));
            assert_eq!(opening.len(), 1);
            assert_eq!(opening[0].open, opening[0].close);
            assert_eq!(opening[0].volume, Volume::ZERO);
        }
    }
}

#[test]
fn an_instrument_without_a_row_is_absent_from_that_session() {
    let csv = csv();
    let config = ReplayConfig { start: date("2000-03-01"), ..ReplayConfig::default() };
    let without = csv.lines().filter(|line| !line.starts_with("IBM,2000-03-02"));
    let text: Vec<&str> = without.collect();
    let replay = Replay::from_csv(text.join("\n").as_bytes(), config).unwrap();
    let ibm = index_of(&replay, "IBM");
    let of_day = steps(&replay, date("2000-03-02").start(), date("2000-03-03").start());
    assert_eq!(of_day.len(), 14);
    assert!(of_day.iter().all(|s| s.prices.len() == 2 && s.prices.iter().all(|p| p.index != ibm)));
    let next = replay.next(date("2000-03-03").start()).unwrap().unwrap();
    assert!(next.prices.iter().any(|p| p.index == ibm));
}

#[test]
fn the_data_ends_once() {
    let replay = bundled(30 * MINUTE);
    let last = replay.next(utc("2013-03-01 20:59")).unwrap().unwrap();
    assert_eq!(last.time, utc("2013-03-01 21:00"));
    assert!(last.ended);
    assert!(!replay.next(utc("2013-03-01 20:29")).unwrap().unwrap().ended);
    assert_eq!(replay.next(last.time).unwrap(), None);
    assert_eq!(replay.next(NEVER).unwrap(), None);
}

#[test]
fn impossible_configurations_and_questions_are_refused() {
    let refused = |start: &str, step| {
        Replay::bundled(ReplayConfig { start: date(start), step, seed: 0 }).unwrap_err()
    };
    for step in [0, -1, i64::MIN, SECOND - 1, DAY + 1, i64::MAX] {
        assert!(matches!(refused("2005-01-03", step), SourceError::BadStep { .. }), "{step}");
    }
    let late = refused("2013-03-02", HOUR);
    assert_eq!(late.to_string(), "the start 2013-03-02 is after the last recorded date 2013-03-01");
    assert!(matches!(refused("0001-01-01", HOUR), SourceError::BadStart { .. }));
    assert!(matches!(refused("9999-12-31", HOUR), SourceError::BadStart { .. }));
    let answer = bundled(HOUR).history(5, Resolution::Day, ALWAYS, NEVER);
    assert!(matches!(answer, Err(SourceError::UnknownInstrument { index: 5 })));
}

#[test]
fn more_history_than_memory_should_hold_is_refused() {
    let replay = bundled(SECOND);
    for resolution in [Resolution::Interval, Resolution::Hour] {
        let all = replay.history(0, resolution, ALWAYS, NEVER);
        assert!(matches!(all, Err(SourceError::HistoryTooLong { .. })), "{resolution:?}");
    }
    let days = replay.history(0, Resolution::Day, ALWAYS, NEVER).unwrap();
    assert_eq!(days.len(), 3_270);
    let (from, to) = (date("2005-01-03").start(), date("2005-01-04").start());
    assert_eq!(replay.history(0, Resolution::Interval, from, to).unwrap().len(), 23_400);
}

#[test]
fn another_seed_gives_other_paths_of_the_same_days() {
    let with = |seed| Replay::bundled(ReplayConfig { seed, ..ReplayConfig::default() }).unwrap();
    let bars = |replay: &Replay, resolution| {
        let (from, to) = (date("2005-01-03").start(), date("2005-02-01").start());
        replay.history(0, resolution, from, to).unwrap()
    };
    let (one, two) = (with(1), with(2));
    assert_ne!(bars(&one, Resolution::Interval), bars(&two, Resolution::Interval));
    assert_eq!(bars(&one, Resolution::Day), bars(&two, Resolution::Day));
}

/// The times of history asked for: around a random day of the file, on and off the steps.
fn any_time() -> impl Strategy<Value = MarketTime> {
    let day = date("2000-03-01").start().day_number()..date("2013-03-02").start().day_number();
    let within = prop_oneof![
        (26i64..44).prop_map(|half_hours| half_hours * 30 * MINUTE),
        (26i64..44).prop_map(|half_hours| half_hours * 30 * MINUTE + 1),
        0..DAY,
    ];
    (day, within).prop_map(|(day, within)| MarketTime(day * DAY + within))
}

#[test]
fn history_does_not_know_later_days() {
    let csv = csv();
    let config = ReplayConfig { start: date("2000-03-01"), ..ReplayConfig::default() };
    let whole = replay_of(&csv, config, |_| true);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(12));
    let outcome = runner.run(&(any_time(), 0..5usize), |(to, index)| {
        let last = Date::of(to).to_string();
        let cut = replay_of(&csv, config, |day| day <= last.as_str());
        let symbol = whole.instruments()[index].symbol;
        let in_cut = cut.instruments().iter().position(|i| i.symbol == symbol);
        let from = to.plus_nanos(-400 * DAY);
        for resolution in Resolution::ALL {
            let full = whole.history(index, resolution, from, to).unwrap();
            let known = match in_cut {
                Some(index) => cut.history(index, resolution, from, to).unwrap(),
                None => Vec::new(),
            };
            prop_assert_eq!(&full, &known);
            prop_assert!(full.iter().all(|bar| from <= bar.start && bar.start < to));
        }
        let known = in_cut.map(|index| cut.splits(index, ALWAYS, to)).unwrap_or_default();
        prop_assert_eq!(whole.splits(index, ALWAYS, to), known);
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn a_cut_days_history_is_what_its_steps_told() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(60));
    let step_sizes = prop_oneof![Just(30 * MINUTE), Just(45 * MINUTE), Just(7 * HOUR)];
    let replays = [30 * MINUTE, 45 * MINUTE, 7 * HOUR].map(bundled);
    let any_case = (any_time(), 0..5usize, step_sizes, 0..40 * DAY);
    let outcome = runner.run(&any_case, |(to, index, size, length)| {
        let replay = replays.iter().find(|replay| replay.config().step == size).unwrap();
        let from = to.plus_nanos(-length);
        let stepped = Replay::bundled(*replay.config()).unwrap();
        let mut told: Vec<Bar> = Vec::new();
        // From the start of the month, so that a day's or month's bar is whole.
        let first = Date::of(from).first_of_month().start().plus_nanos(-1);
        for step in steps(&stepped, first, to.plus_nanos(1)) {
            // An opening increment at `to` itself has nothing before `to`.
            let of_index = step.prices.iter().find(|price| price.index == index);
            told.extend(of_index.map(|price| price.bar).filter(|bar| bar.start < to));
        }
        for resolution in Resolution::ALL {
            let mut expected = roll_up(&told, resolution);
            expected.retain(|bar| bar.start >= from);
            prop_assert_eq!(
                replay.history(index, resolution, from, to).unwrap(),
                expected,
                "{:?}",
                resolution
            );
        }
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn a_resumed_replay_goes_on_as_the_continuous_one() {
    let continuous = bundled(45 * MINUTE);
    let (from, to) = (utc("2005-02-10 00:00"), utc("2005-04-20 00:00"));
    let all = steps(&continuous, from, to);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(30));
    let any_after = (from.0..all.last().unwrap().time.0, any::<bool>());
    let outcome = runner.run(&any_after, |(after, on_a_step)| {
        let expected = all.iter().position(|step| step.time.0 > after).unwrap();
        let after = match expected.checked_sub(1).filter(|_| on_a_step) {
            Some(before) => all[before].time,
            None => MarketTime(after),
        };
        // Fresh, and after a question about another time.
        let resumed = bundled(45 * MINUTE);
        let fresh = resumed.next(after).unwrap();
        prop_assert_eq!(fresh.as_ref(), Some(&all[expected]));
        resumed.next(utc("2010-01-04 15:00")).unwrap();
        let again = resumed.next(after).unwrap();
        prop_assert_eq!(again.as_ref(), Some(&all[expected]));
        Ok(())
    });
    outcome.unwrap();
}
