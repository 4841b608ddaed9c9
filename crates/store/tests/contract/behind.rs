//! Balances and positions that are behind the outcomes: at any pace, over generations of orders and
//! after any end, a start finds what was committed, and damage to what a start relies on is named.

use papertrader_store::{Pace, Store};

use super::trading::Trading;
use super::{Backend, assert_verified, damage::Damaged};

/// Nothing is written that need not be, but one account in each settlement that decides something.
const SLOWEST: Pace = Pace { round: u64::MAX, at_least: 0 };

/// Fills that are missing in the tables.
const MISSING: &str = "FROM outcome c JOIN balance b ON b.account = c.account CROSS JOIN meta m
                       WHERE c.state = 1 AND c.snapshot > b.snapshot
                       AND c.snapshot > m.folded_snapshot";

/// Orders so far apart that each second one begins a generation.
fn over_generations(seed: u64) -> Trading {
    let mut trading = Trading::new(seed);
    trading.stride = 1 << 17;
    trading
}

pub(crate) fn what_is_behind_is_found_again(backend: &dyn Backend) {
    let mut trading = over_generations(91);
    let paces = [
        SLOWEST,
        Pace { round: 40, at_least: 0 },
        Pace { round: u64::MAX, at_least: 2 },
        Pace { round: 7, at_least: 1 },
        Pace::default(),
    ];
    let (mut missing, mut of_older, mut current) = (0, 0, 0);
    let older = "AND c.generation < (SELECT max(generation) FROM outcome)";
    for round in 0..20 {
        let mut store = backend.open_at("one", paces[round % paces.len()]);
        trading.assert_loaded(&store.load().unwrap());
        for _ in 0..8 {
            store.commit(&trading.next_batch()).unwrap();
            // It compares what a start would load, too.
            assert_verified(&mut *store);
            let count = |sql: &str| backend.count(&format!("SELECT count(*) {sql}"));
            let now = count(MISSING);
            missing += now;
            of_older += count(&format!("{MISSING} {older}"));
            current += i64::from(now == 0);
        }
        if round % 3 == 0 {
            store.reconnect().unwrap();
            store.commit(&trading.next_batch()).unwrap();
        }
        trading.assert_loaded(&store.load().unwrap());
        store.commit(&trading.next_batch()).unwrap();
        trading.assert_loaded(&store.load().unwrap());
    }
    // Or the test shows nothing.
    assert!(missing > 200 && of_older > 40, "{missing} were missing, {of_older} of older orders");
    assert!(current > 10, "the tables were right {current} times");
    let generations = "FROM meta WHERE folded_generation > 3 AND folded_snapshot > 0";
    assert_eq!(backend.count(&format!("SELECT count(*) {generations}")), 1);
    assert!(trading.books.named().fractions != 0, "no split paid for fractions");
}

pub(crate) fn a_few_accounts_are_never_behind(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let mut trading = over_generations(92);
    for _ in 0..200 {
        store.commit(&trading.next_batch()).unwrap();
        assert_eq!(backend.count(&format!("SELECT count(*) {MISSING}")), 0);
    }
    assert_verified(&mut *store);
}

/// The pace at which [`prepare`] must be opened.
pub(crate) const PACE: Pace = SLOWEST;

/// Commits a story after which much is missing.
pub(crate) fn prepare(store: &mut dyn Store) {
    let mut trading = over_generations(93);
    for _ in 0..150 {
        store.commit(&trading.next_batch()).unwrap();
    }
    assert_verified(store);
}

pub(crate) fn damage_to_what_is_behind_is_named(database: &dyn Damaged) {
    let whose = format!("(SELECT min(c.account) {MISSING})");
    let written = "(SELECT min(b.account) FROM balance b JOIN outcome c ON c.account = b.account
                    CROSS JOIN meta m WHERE c.state = 1 AND c.snapshot <= b.snapshot
                    AND c.snapshot > m.folded_snapshot)";
    let last = "(SELECT max(number) FROM snapshot)";
    let largest = i64::MAX;
    let cases = [
        ("cash is", format!("UPDATE balance SET snapshot = {last} WHERE account = {whose}")),
        ("cash is", format!("UPDATE balance SET snapshot = 0 WHERE account = {written}")),
        ("its snapshot is later", format!("UPDATE balance SET snapshot = {last} + 1")),
        ("cash is", format!("UPDATE balance SET cash = cash + 1 WHERE account = {whose}")),
        ("cash is", format!("UPDATE meta SET folded_snapshot = {last}")),
        ("folded_snapshot is later", format!("UPDATE meta SET folded_snapshot = {last} + 1")),
        ("no start looks", "UPDATE meta SET folded_generation = settled_order / 262144".into()),
        (
            "folded_generation is later",
            "UPDATE meta SET folded_generation = settled_order / 262144 + 1".into(),
        ),
        (
            "amount is not price",
            format!(
                "UPDATE outcome SET amount = amount + 1 WHERE id = (SELECT max(c.id) {MISSING})"
            ),
        ),
        (
            "market, 0: cash is",
            format!(
                "UPDATE outcome SET amount = amount + 1 WHERE id = (SELECT max(c.id) {MISSING})"
            ),
        ),
        (
            "basis is not the share",
            format!(
                "UPDATE outcome SET basis = basis + 1 WHERE id = (SELECT max(c.id) {MISSING} AND
                 (SELECT side FROM order_ o WHERE o.id = c.id) = 1)"
            ),
        ),
        (
            "amount is not price",
            format!(
                "UPDATE outcome SET amount = {largest}, quantity = {largest}, basis = {largest}
                 WHERE id IN (SELECT c.id {MISSING})"
            ),
        ),
        (
            "cost of instrument",
            "UPDATE balance SET positions = replace(positions, ']]', '1]]')".into(),
        ),
    ];
    for (case, (words, sql)) in cases.iter().enumerate() {
        let (changed, mut store) = database.damage(case, sql);
        assert!(changed > 0, "{sql} changes nothing");
        let found = store.verify().unwrap();
        let named = found.iter().any(|mismatch| mismatch.what.contains(words));
        assert!(named, "{sql}\nwanted: {words}\nfound: {found:#?}");
        // Nobody else is blamed for it.
        let blamed =
            found.iter().filter(|mismatch| mismatch.what.contains("basis is not the share"));
        let expected = usize::from(words.starts_with("basis"));
        assert_eq!(blamed.count(), expected, "{sql}\nfound: {found:#?}");
    }
}
