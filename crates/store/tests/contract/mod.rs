//! The contract suite: what every implementation of `Store` must do, whatever database it uses.
//!
//! A test file includes this module, gives a [`Backend`] and calls [`contract_tests!`], which makes
//! one test of each case. The cases know the trait only.

pub(crate) mod bars;
pub(crate) mod behind;
pub(crate) mod damage;
pub(crate) mod postings;
pub(crate) mod trading;

use papertrader_core::account::Position;
use papertrader_core::bar::Bar;
use papertrader_core::ids::{AccountId, BatchNumber, InstrumentId, OrderId, WorkerId};
use papertrader_core::money::{Cash, MAX_CASH, Quantity};
use papertrader_core::names::ClientOrderId;
use papertrader_core::order::{OrderRecord, OrderState, Side};
use papertrader_core::time::{MarketTime, SECOND, WallTime};
use papertrader_store::{
    BarRow, Batch, Boot, Change, CommitError, Found, HistoryRow, NewAccount, Pace, PassHash,
    Profile, SessionKey, Since, Store, WorkerRow,
};
use std::sync::Arc;
use trading::Trading;

/// One database, empty at first.
pub(crate) trait Backend {
    /// Opens it, with `deployment` as its deployment ID if it is new. What was opened before must
    /// have been dropped.
    fn open(&self, deployment: &str) -> Box<dyn Store> {
        self.open_at(deployment, Pace::default())
    }

    /// The same, for settlements that bring balances and positions forward at another pace.
    fn open_at(&self, deployment: &str, pace: Pace) -> Box<dyn Store>;

    /// What a statement counts, past the store.
    fn count(&self, sql: &str) -> i64;
}

/// Makes a test of every case, on the backend that the expression makes.
#[macro_export]
macro_rules! contract_tests {
    ($backend:expr) => {
        $crate::contract_tests!(@cases $backend;
            an_empty_database_loads_as_nothing,
            everything_written_is_loaded_again,
            every_kind_of_order_is_found_again,
            an_order_is_found_however_many_came_after_it,
            batches_follow_each_other,
            a_batch_that_contradicts_leaves_nothing,
            a_split_that_leaves_nothing_takes_the_cost_with_it,
            a_refused_order_closes_no_other,
            a_reader_gives_histories_newest_first,
            a_reader_gives_open_orders_before_others,
            a_reader_gives_what_was_placed_or_decided_since,
            a_reader_sees_what_was_committed_before_the_call,
            a_new_connection_sees_the_same,
            the_books_verify_after_any_trading,
            the_largest_values_are_kept,
            a_disabled_account_is_enabled_again,
            a_new_password_forgets_who_saw_the_old_one,
            the_last_use_of_a_session_never_goes_back,
            a_worker_keeps_all_that_is_known_of_it_until_it_is_removed,
        );
        #[test]
        fn a_reader_gives_bars_in_order_of_time() {
            contract::bars::a_reader_gives_bars_in_order_of_time(&$backend);
        }
        #[test]
        fn a_bar_that_comes_late_is_kept_beside_the_others() {
            contract::bars::a_bar_that_comes_late_is_kept_beside_the_others(&$backend);
        }
        #[test]
        fn what_is_behind_is_found_again() {
            contract::behind::what_is_behind_is_found_again(&$backend);
        }
        #[test]
        fn a_few_accounts_are_never_behind() {
            contract::behind::a_few_accounts_are_never_behind(&$backend);
        }
    };
    (@cases $backend:expr; $($case:ident),* $(,)?) => {
        $(
            #[test]
            fn $case() {
                contract::$case(&$backend);
            }
        )*
    };
}

/// Commits `batches` batches of a seed's story.
pub(crate) fn trade(store: &mut dyn Store, seed: u64, batches: u64) -> Trading {
    let mut trading = Trading::new(seed);
    go_on(store, &mut trading, batches);
    trading
}

pub(crate) fn go_on(store: &mut dyn Store, trading: &mut Trading, batches: u64) {
    for _ in 0..batches {
        let batch = trading.next_batch();
        store.commit(&batch).unwrap();
    }
}

fn assert_verified(store: &mut dyn Store) {
    assert_eq!(store.verify().unwrap(), []);
}

pub(crate) fn an_empty_database_loads_as_nothing(backend: &dyn Backend) {
    let mut store = backend.open("first");
    let loaded = store.load().unwrap();
    assert_eq!(loaded.deployment, "first");
    Trading::new(1).assert_loaded(&loaded);
    assert_eq!(store.last_batch().unwrap(), BatchNumber(0));
    assert_verified(&mut *store);
    let mut reader = store.reader().unwrap();
    assert_eq!(reader.history(AccountId(1), 10).unwrap(), []);
    assert_eq!(reader.orders(AccountId(1), 10).unwrap(), []);
    assert_eq!(reader.order(AccountId(1), &"a".parse().unwrap()).unwrap(), None);
    drop((reader, store));
    assert_eq!(backend.open("second").load().unwrap().deployment, "first");
}

pub(crate) fn everything_written_is_loaded_again(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let mut trading = Trading::new(11);
    for _ in 0..5 {
        go_on(&mut *store, &mut trading, 40);
        let batch = trading.leave_orders_open();
        store.commit(&batch).unwrap();
        trading.assert_loaded(&store.load().unwrap());
        drop(store);
        store = backend.open("one");
        trading.assert_loaded(&store.load().unwrap());
    }
    // The story must have had all of it, or the test shows nothing.
    assert!(trading.books.open_orders().any(|open| open.waiting.is_some()));
    assert!(trading.books.accounts().any(|(_, account)| account.disabled));
    assert!(trading.books.accounts().any(|(_, account)| account.positions.len() > 1));
    assert!(trading.books.named().fractions != 0);
    assert!(!trading.sessions.is_empty() && trading.workers.len() > 1);
    assert!(trading.sessions.values().any(|session| session.used > session.started));
    assert!(trading.profiles.iter().any(|profile| profile.password_due));
    assert!(trading.exposures.len() > 1);
    assert!(trading.workers.values().any(|worker| worker.booted.is_some()));
}

pub(crate) fn every_kind_of_order_is_found_again(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let mut trading = trade(&mut *store, 12, 150);
    let batch = trading.leave_orders_open();
    store.commit(&batch).unwrap();
    let kinds: std::collections::BTreeSet<&str> = trading.records.values().map(kind).collect();
    let all = ["cancelled", "expired", "filled", "queued", "rejected", "waiting"];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), all);

    let mut keys = vec![(AccountId(1), "nothing".parse().unwrap())];
    let mut expected = vec![None];
    for (account, id) in &trading.marks {
        keys.push((*account, id.clone()));
        expected.push(Some(Found::Mark));
    }
    // Newest first: the answers follow the questions, not the table.
    for record in trading.records.values().rev() {
        let request = &record.order.request;
        keys.push((request.account, request.client_order_id.clone()));
        expected.push(Some(Found::Order(record.clone())));
        // Another account's order under the same client order ID is not found.
        keys.push((AccountId(999), request.client_order_id.clone()));
        expected.push(None);
    }
    assert!(!trading.marks.is_empty());
    assert_eq!(store.find(&keys).unwrap(), expected);
    assert_eq!(store.find(&[]).unwrap(), []);
    let mut reader = store.reader().unwrap();
    for ((account, id), expected) in keys.iter().zip(&expected) {
        assert_eq!(reader.order(*account, id).unwrap(), *expected);
    }
}

pub(crate) fn an_order_is_found_however_many_came_after_it(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let mut trading = trade(&mut *store, 27, 1);
    let (alice, bob) = (AccountId(1), AccountId(2));
    let mut placed = Vec::new();
    // Numbers may be left out: here as many as a store may want to keep apart.
    for (n, number) in [100, (1 << 18) - 1, 1 << 18, (3 << 18) + 7, 1 << 32].into_iter().enumerate()
    {
        let account = if n == 3 { bob } else { alice };
        let too_much = Quantity::from_raw(i64::MAX);
        let placing = trading.place(account, Side::Buy, InstrumentId(1), too_much);
        let Change::PlaceOrder(mut record) = placing else { unreachable!() };
        assert!(matches!(record.state, OrderState::Rejected(_)));
        trading.records.remove(&record.order.id);
        record.order.id = OrderId(number);
        trading.records.insert(record.order.id, record.clone());
        store.commit(&trading.batch_of(vec![Change::PlaceOrder(record.clone())])).unwrap();
        placed.push(record);
    }
    let mut reader = store.reader().unwrap();
    for _ in 0..2 {
        for record in &placed {
            let key = (record.order.request.account, record.order.request.client_order_id.clone());
            let found = Some(Found::Order(record.clone()));
            assert_eq!(reader.order(key.0, &key.1).unwrap(), found);
            assert_eq!(store.find(&[key]).unwrap(), [found]);
            // Nor is it accepted again, also while the orders of the past are being read.
            let mut again = record.clone();
            again.order.id = OrderId((1 << 32) + 1);
            let wall = WallTime(trading.wall + 1);
            let changes = vec![Change::PlaceOrder(again)];
            let batch = Batch { number: BatchNumber(trading.batch + 1), wall, changes };
            assert_contradiction(store.commit(&batch), "client order ID");
        }
        store.reconnect().unwrap();
    }
    let ids = |orders: Vec<OrderRecord>| orders.iter().map(|r| r.order.id.0).collect::<Vec<_>>();
    assert_eq!(ids(reader.orders(alice, 3).unwrap()), [1 << 32, 1 << 18, (1 << 18) - 1]);
    assert_eq!(ids(reader.orders(bob, 1).unwrap()), [(3 << 18) + 7]);
    assert_eq!(store.load().unwrap().next_order, OrderId((1 << 32) + 1));
    assert_verified(&mut *store);
}

fn kind(record: &OrderRecord) -> &'static str {
    match record.state {
        OrderState::Queued(None) => "queued",
        OrderState::Queued(Some(_)) => "waiting",
        OrderState::Filled(_) => "filled",
        OrderState::Rejected(_) => "rejected",
        OrderState::Cancelled => "cancelled",
        OrderState::Expired => "expired",
    }
}

pub(crate) fn batches_follow_each_other(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let trading = trade(&mut *store, 13, 3);
    let later = WallTime(trading.wall + 1);
    for number in [0, 1, 2, 3, 5, u64::MAX] {
        let batch = Batch { number: BatchNumber(number), wall: later, changes: Vec::new() };
        assert_contradiction(store.commit(&batch), "batch");
    }
    for wall in [trading.wall, 0, i64::MIN] {
        let batch = Batch { number: BatchNumber(4), wall: WallTime(wall), changes: Vec::new() };
        assert_contradiction(store.commit(&batch), "wall time");
    }
    assert_eq!(store.last_batch().unwrap(), BatchNumber(3));
    trading.assert_loaded(&store.load().unwrap());
    let batch = Batch { number: BatchNumber(4), wall: later, changes: Vec::new() };
    store.commit(&batch).unwrap();
    assert_eq!(store.last_batch().unwrap(), BatchNumber(4));
    assert_eq!(store.load().unwrap().last_wall, later);
}

fn assert_contradiction(result: Result<(), CommitError>, words: &str) {
    match result {
        Err(CommitError::Contradiction(what)) => assert!(what.contains(words), "{what}"),
        other => panic!("expected a contradiction about {words:?}, got {other:?}"),
    }
}

pub(crate) fn a_batch_that_contradicts_leaves_nothing(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let trading = trade(&mut *store, 14, 60);
    let (control, bad) = contradictions(&trading);
    assert!(bad.len() > 20);
    // Good changes before the bad ones, on every table that a batch begins with.
    let batch_with = |changes: Vec<Change>| {
        let mut story = replay(14, 60);
        let mut all = vec![
            story.open_account(Cash::from_cents(5)),
            story.start_session(),
            story.put_worker(7, "seventh"),
            story.place(AccountId(1), Side::Buy, InstrumentId(1), Quantity::from_raw(1)),
            story.settle(SECOND, true, &[(InstrumentId(1), 1_000)], &[(InstrumentId(1), 3, 2)]),
        ];
        all.extend(changes);
        story.batch_of(all)
    };
    for (name, changes) in bad {
        match store.commit(&batch_with(changes)) {
            Err(CommitError::Contradiction(_)) => {}
            other => panic!("{name}: expected a contradiction, got {other:?}"),
        }
        trading.assert_loaded(&store.load().unwrap());
    }
    assert_verified(&mut *store);
    // It was not the good changes that failed, nor the settlement that the bad ones were made of.
    store.commit(&batch_with(control)).unwrap();
    assert_eq!(store.last_batch().unwrap(), BatchNumber(61));
}

fn replay(seed: u64, batches: u64) -> Trading {
    let mut trading = Trading::new(seed);
    for _ in 0..batches {
        trading.next_batch();
    }
    trading
}

/// Changes that do not fit what the story has stored, each with what it is; before them the
/// settlement that some of them are made of, which fits.
fn contradictions(trading: &Trading) -> (Vec<Change>, Vec<(&'static str, Vec<Change>)>) {
    let moment = papertrader_core::time::Moment {
        wall: WallTime(trading.wall + 100),
        market: trading.books.head().market,
    };
    let find = |wanted: &str| {
        trading.records.values().find(|record| kind(record) == wanted).unwrap().clone()
    };
    let filled = find("filled");
    let queued = trading.books.open_orders().next().unwrap().order.clone();
    let queued = trading.records[&queued.id].clone();
    let fresh = |change: &dyn Fn(&mut OrderRecord)| {
        let mut record = queued.clone();
        record.order.id = OrderId(10_000);
        record.order.request.client_order_id = "fresh".parse().unwrap();
        record.state = OrderState::Queued(None);
        change(&mut record);
        vec![Change::PlaceOrder(record)]
    };
    let account = |id: u32, name: &str| {
        let profile = Profile {
            name: name.parse().unwrap(),
            email: "a@b".parse().unwrap(),
            pass_hash: None,
            password_due: false,
            since: moment.wall,
        };
        vec![Change::OpenAccount(NewAccount {
            id: AccountId(id),
            profile,
            grant: Cash::ZERO,
            moment,
        })]
    };
    let next = trading.books.next_account().0 + 1;
    let disabled = trading.books.accounts().find(|(_, account)| account.disabled).unwrap().0;
    let mark = trading.marks.first().unwrap().clone();
    let cancel = |order| vec![Change::CancelOrder { order, moment }];
    let mark_of = |account, id: &ClientOrderId| {
        vec![Change::MarkCancelled { account, client_order_id: id.clone(), moment }]
    };
    // A settlement of the present state, changed so that it does not fit.
    let settlement = |change: &dyn Fn(&mut papertrader_core::settle::Settlement)| {
        let mut story = replay(14, 60);
        story.settle(SECOND, true, &[(InstrumentId(1), 1_000)], &[(InstrumentId(1), 3, 2)]);
        story.place(AccountId(1), Side::Buy, InstrumentId(1), Quantity::from_raw(1));
        let prices: Vec<_> = (1..=trading::INSTRUMENTS).map(|i| (InstrumentId(i), 999)).collect();
        let made = story.settle(SECOND, true, &prices, &[(InstrumentId(2), 2, 1)]);
        let Change::Settle { settlement, bars } = made else { unreachable!() };
        let mut settlement = Arc::unwrap_or_clone(settlement);
        assert!(!settlement.decisions.is_empty() && !settlement.accounts.is_empty());
        // Only what `change` leaves may fail: nothing of the changes before is decided here.
        settlement.decisions.retain(|decision| decision.order.0 <= queued.order.id.0);
        settlement.moment = moment;
        change(&mut settlement);
        vec![Change::Settle { settlement: settlement.into(), bars }]
    };
    let session = trading.sessions.values().next().unwrap().clone();
    let open_account = queued.order.request.account;
    let with_session = |change: &dyn Fn(&mut papertrader_store::StoredSession)| {
        let mut session = session.clone();
        change(&mut session);
        vec![Change::StartSession(session)]
    };
    let password = |account| {
        let pass_hash = PassHash("$argon2id$fresh".to_owned());
        Change::SetPassword { account, pass_hash, through: None }
    };
    let instrument = |id: u32, symbol: &str| {
        let mut row = trading.instruments[0].clone();
        row.id = InstrumentId(id);
        row.symbol = symbol.parse().unwrap();
        vec![Change::AddInstruments(vec![row])]
    };
    let (bar_key, bar) = trading.bars.first_key_value().unwrap();
    let (resolution, bar) = (bar_key.1, *bar);
    let control = settlement(&|_| {});
    let bad = vec![
        ("an account out of order", account(next + 1, "fresh")),
        ("an account that exists", account(1, "fresh")),
        ("a name that differs only in case", account(next, "tRADER-1")),
        ("disabling nobody", vec![Change::DisableAccount(AccountId(9_999))]),
        ("disabling with open orders", vec![Change::DisableAccount(open_account)]),
        ("disabling twice", vec![Change::DisableAccount(disabled)]),
        ("enabling nobody", vec![Change::EnableAccount(AccountId(9_999))]),
        ("enabling what is enabled", vec![Change::EnableAccount(AccountId(1))]),
        ("a password of nobody", vec![password(AccountId(9_999))]),
        ("a password that nobody must change", vec![Change::RequirePassword(AccountId(9_999))]),
        (
            "an exposure of nobody",
            vec![Change::Expose { account: AccountId(9_999), worker: WorkerId([1; 16]) }],
        ),
        ("removing no worker", vec![Change::RemoveWorker(WorkerId([9; 16]))]),
        ("a session twice", with_session(&|_| {})),
        (
            "a session of nobody",
            with_session(&|s| {
                s.key = SessionKey([1; 32]);
                s.account = AccountId(9_999);
            }),
        ),
        ("an end of no session", vec![Change::EndSession(SessionKey([2; 32]))]),
        ("an order twice", fresh(&|r| r.order.id = queued.order.id)),
        ("a client order ID twice", fresh(&|r| r.order.request = filled.order.request.clone())),
        ("a client order ID twice in one batch", {
            let mut changes = fresh(&|_| {});
            changes.extend(fresh(&|r| r.order.id = OrderId(10_001)));
            changes
        }),
        ("a mark of what is placed before it", {
            let mut changes = fresh(&|_| {});
            changes.extend(mark_of(open_account, &"fresh".parse().unwrap()));
            changes
        }),
        ("an order that is marked before it", {
            let mut changes = mark_of(open_account, &"fresh".parse().unwrap());
            changes.extend(fresh(&|_| {}));
            changes
        }),
        ("cancelling twice", [cancel(queued.order.id), cancel(queued.order.id)].concat()),
        (
            "an order that was cancelled before",
            fresh(&|r| {
                r.order.request.account = mark.0;
                r.order.request.client_order_id = mark.1.clone();
            }),
        ),
        ("an order of nobody", fresh(&|r| r.order.request.account = AccountId(9_999))),
        ("an order of nothing", fresh(&|r| r.order.request.instrument = InstrumentId(99))),
        (
            "an order that comes filled",
            fresh(&|r| {
                r.state = filled.state;
                r.decided = Some(moment);
            }),
        ),
        (
            "an order that comes cancelled",
            fresh(&|r| {
                r.state = OrderState::Cancelled;
                r.decided = Some(moment);
            }),
        ),
        ("an open order that is decided", fresh(&|r| r.decided = Some(moment))),
        ("an order number that is too large", fresh(&|r| r.order.id = OrderId(u64::MAX))),
        ("cancelling no order", cancel(OrderId(9_999))),
        ("cancelling a filled order", cancel(filled.order.id)),
        ("marking an order", mark_of(open_account, &queued.order.request.client_order_id)),
        ("marking twice", mark_of(mark.0, &mark.1)),
        ("marking for nobody", mark_of(AccountId(9_999), &"fresh".parse().unwrap())),
        ("an old snapshot", settlement(&|s| s.head.snapshot = 1)),
        ("deciding a filled order", settlement(&|s| s.decisions[0].order = filled.order.id)),
        ("deciding another's order", settlement(&|s| s.decisions[0].account = AccountId(9_999))),
        ("deciding twice", settlement(&|s| s.decisions.push(s.decisions[0]))),
        ("deciding nothing", settlement(&|s| s.decisions[0].state = OrderState::Queued(None))),
        (
            "a wait of a filled order",
            settlement(&|s| {
                s.waiting = vec![papertrader_core::settle::Waiting {
                    order: filled.order.id,
                    reason: None,
                }];
            }),
        ),
        (
            "a split of a filled order",
            settlement(&|s| {
                let (order, quantity) = (filled.order.id, Quantity::from_raw(1));
                s.rescaled = vec![papertrader_core::settle::Rescaled { order, quantity }];
            }),
        ),
        ("an account that is not there", settlement(&|s| s.accounts[0].id = AccountId(9_999))),
        ("negative cash", settlement(&|s| s.accounts[0].after.cash = Cash::from_cents(-1))),
        (
            "a position that was never there",
            settlement(&|s| {
                let positions = &mut s.accounts[0].after.positions;
                positions.push(Position { instrument: InstrumentId(98), ..positions[0] });
            }),
        ),
        (
            "positions out of order",
            settlement(&|s| {
                let positions = &mut s.accounts[0].after.positions;
                positions.insert(0, Position { instrument: InstrumentId(98), ..positions[0] });
            }),
        ),
        ("a price of nothing", settlement(&|s| s.marks[0].0 = InstrumentId(99))),
        (
            "a bar of nothing",
            vec![Change::PutBars(vec![BarRow { instrument: InstrumentId(99), resolution, bar }])],
        ),
        (
            "a bar that contradicts itself",
            vec![Change::PutBars(vec![BarRow {
                instrument: InstrumentId(1),
                resolution,
                bar: Bar { high: bar.low, low: bar.high, ..bar },
            }])],
        ),
        ("an instrument out of order", instrument(trading::INSTRUMENTS + 2, "FRESH")),
        ("a symbol twice", instrument(trading::INSTRUMENTS + 1, "SYM1")),
        (
            "a worker's name twice",
            vec![Change::PutWorker(WorkerRow {
                id: WorkerId([9; 16]),
                name: "seventh".to_owned(),
                allowed: String::new(),
                key: None,
                booted: None,
            })],
        ),
    ];
    (control, bad)
}

pub(crate) fn a_split_that_leaves_nothing_takes_the_cost_with_it(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let mut trading = trade(&mut *store, 15, 1);
    let (alice, what) = (AccountId(1), InstrumentId(1));
    let price = 100_000_000_000;
    let mut commit = |store: &mut dyn Store, changes: &dyn Fn(&mut Trading) -> Vec<Change>| {
        let changes = changes(&mut trading);
        let batch = trading.batch_of(changes);
        store.commit(&batch).unwrap();
        trading.assert_loaded(&store.load().unwrap());
        assert_verified(store);
        trading.books.account(alice).unwrap().clone()
    };
    commit(&mut *store, &|t| vec![t.settle(SECOND, true, &[(what, price)], &[])]);
    commit(&mut *store, &|t| {
        vec![
            t.place(alice, Side::Buy, what, Quantity::from_raw(9_000)),
            t.settle(SECOND, true, &[(what, price)], &[]),
        ]
    });
    let after = commit(&mut *store, &|t| {
        // An order that the same split leaves nothing of is refused; the shares are gone.
        vec![
            t.place(alice, Side::Sell, what, Quantity::from_raw(500)),
            t.settle(SECOND, true, &[(what, price)], &[(what, 1, 1_000_000)]),
        ]
    });
    assert_eq!(after.positions, []);
    // A new position starts from its own cost.
    let after = commit(&mut *store, &|t| {
        vec![
            t.place(alice, Side::Buy, what, Quantity::from_raw(100_000_000)),
            t.settle(SECOND, true, &[(what, price)], &[]),
        ]
    });
    assert_eq!(after.positions.len(), 1);
    assert_eq!(after.positions[0].cost, Cash::from_cents(100_000));
}

pub(crate) fn a_refused_order_closes_no_other(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let mut trading = trade(&mut *store, 28, 1);
    let (one, little) = (InstrumentId(1), Quantity::from_raw(1_000));
    let placed = trading.place(AccountId(1), Side::Buy, one, little);
    store.commit(&trading.batch_of(vec![placed])).unwrap();
    let too_much = Quantity::from_raw(i64::MAX);
    let refused = trading.place(AccountId(2), Side::Buy, one, too_much);
    store.commit(&trading.batch_of(vec![refused])).unwrap();
    let settled = trading.settle(SECOND, true, &[(one, 100_000_000)], &[]);
    store.commit(&trading.batch_of(vec![settled])).unwrap();
    let states: Vec<&str> = trading.records.values().map(kind).collect();
    assert_eq!(states, ["filled", "rejected"]);
    trading.assert_loaded(&store.load().unwrap());
    assert_verified(&mut *store);
}

pub(crate) fn a_reader_gives_histories_newest_first(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let trading = trade(&mut *store, 16, 200);
    let mut reader = store.reader().unwrap();
    for (account, _) in trading.books.accounts() {
        let mut expected: Vec<(WallTime, bool, HistoryRow)> = Vec::new();
        for record in trading.records.values() {
            if record.order.request.account == account && record.decided.is_some() {
                let row = HistoryRow::Order(record.clone());
                expected.push((record.order.received.wall, true, row));
            }
        }
        for (entry, moment) in &trading.journal {
            if entry.account() == account {
                expected.push((moment.wall, false, HistoryRow::Journal(*entry, *moment)));
            }
        }
        // Stable: entries of one settlement keep their order, and are turned round with the rest.
        expected.sort_by_key(|(wall, is_order, _)| (*wall, *is_order));
        let expected: Vec<_> = expected.into_iter().rev().map(|(_, _, row)| row).collect();
        for limit in [0, 1, 2, 7, expected.len(), expected.len() + 1, usize::MAX] {
            let history = reader.history(account, limit).unwrap();
            assert_eq!(history, expected[..limit.min(expected.len())]);
        }
    }
}

pub(crate) fn a_reader_gives_open_orders_before_others(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let trading = trade(&mut *store, 17, 200);
    let mut reader = store.reader().unwrap();
    let mut with_open = 0;
    for (account, _) in trading.books.accounts() {
        let (open, others): (Vec<_>, Vec<_>) = trading
            .records
            .values()
            .rev()
            .filter(|record| record.order.request.account == account)
            .cloned()
            .partition(|record| record.decided.is_none());
        with_open += usize::from(!open.is_empty());
        let count = open.len() + others.len();
        for limit in [0, 1, open.len(), open.len() + 3, count, usize::MAX] {
            let wanted = open.iter().chain(&others).take(limit);
            let mut expected: Vec<OrderRecord> = wanted.cloned().collect();
            expected.sort_by_key(|record| std::cmp::Reverse(record.order.id));
            assert_eq!(reader.orders(account, limit).unwrap(), expected);
        }
    }
    assert!(with_open > 1);
}

pub(crate) fn a_reader_gives_what_was_placed_or_decided_since(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let trading = trade(&mut *store, 19, 200);
    let mut reader = store.reader().unwrap();
    let records: Vec<&OrderRecord> = trading.records.values().collect();
    let walls: Vec<WallTime> =
        records.iter().filter_map(|it| it.decided.map(|at| at.wall)).collect();
    let mut decided_later = 0;
    for (account, _) in trading.books.accounts() {
        let own = || records.iter().filter(|it| it.order.request.account == account);
        for step in 0..12 {
            let placed = OrderId(records.len() as u64 * step / 12);
            let decided = walls[walls.len() * step as usize / 12];
            // As it was then, and as it is if nothing of it is known.
            let was_open = own().find(|it| it.decided.is_none_or(|at| at.wall > decided));
            let open = was_open.map_or(OrderId(placed.0 + 1), |it| it.order.id);
            for open in [OrderId(0), open] {
                let since = Since { placed, decided, open };
                let is_missed = |it: &&&OrderRecord| {
                    let is_later = it.decided.is_some_and(|at| at.wall > decided);
                    it.order.id > placed || (it.order.id >= open && is_later)
                };
                let expected: Vec<OrderRecord> =
                    own().filter(is_missed).map(|it| (*it).clone()).collect();
                let found = reader.orders_since(account, &since, usize::MAX).unwrap();
                assert_eq!(found, expected, "{since:?}");
                decided_later += expected.iter().filter(|it| it.order.id <= placed).count();
                let few = expected.len() / 2;
                let found = reader.orders_since(account, &since, few).unwrap();
                assert_eq!(found.len(), few);
                assert!(found.iter().all(|it| expected.contains(it)));
            }
        }
    }
    assert!(decided_later > 30, "{decided_later}");
}

pub(crate) fn a_reader_sees_what_was_committed_before_the_call(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let mut trading = Trading::new(19);
    let mut reader = store.reader().unwrap();
    for _ in 0..80 {
        go_on(&mut *store, &mut trading, 1);
        let Some(record) = trading.records.values().next_back() else { continue };
        let request = &record.order.request;
        let found = reader.order(request.account, &request.client_order_id).unwrap();
        assert_eq!(found, Some(Found::Order(record.clone())));
    }
    assert!(!trading.records.is_empty());
}

pub(crate) fn a_new_connection_sees_the_same(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let mut trading = trade(&mut *store, 20, 20);
    let mut reader = store.reader().unwrap();
    for _ in 0..3 {
        store.reconnect().unwrap();
        assert_eq!(store.last_batch().unwrap(), BatchNumber(trading.batch));
        trading.assert_loaded(&store.load().unwrap());
        go_on(&mut *store, &mut trading, 10);
    }
    trading.assert_loaded(&store.load().unwrap());
    // A reader from before goes on too.
    let record = trading.records.values().next_back().unwrap();
    let request = &record.order.request;
    let found = reader.order(request.account, &request.client_order_id).unwrap();
    assert_eq!(found, Some(Found::Order(record.clone())));
}

pub(crate) fn the_books_verify_after_any_trading(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let mut trading = Trading::new(21);
    for _ in 0..12 {
        go_on(&mut *store, &mut trading, 50);
        assert_verified(&mut *store);
    }
    let filled = trading.records.values().filter(|record| kind(record) == "filled").count();
    let splits = trading.journal.len() - trading.profiles.len();
    assert!(filled > 100 && splits > 20, "{filled} filled, {splits} splits");
}

pub(crate) fn the_largest_values_are_kept(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let mut trading = trade(&mut *store, 22, 1);
    // Together more than 64 bits hold.
    let mut changes = Vec::new();
    while trading.books.named().grants >= i128::from(i64::MIN) {
        changes.push(trading.open_account(MAX_CASH));
    }
    for (started, expires) in [(i64::MIN, i64::MAX), (0, i64::MIN)] {
        let Change::StartSession(mut session) = trading.start_session() else { unreachable!() };
        session.started = WallTime(started);
        session.expires = WallTime(expires);
        trading.sessions.insert(session.key, session.clone());
        changes.push(Change::StartSession(session));
    }
    let batch = trading.batch_of(changes);
    store.commit(&batch).unwrap();
    trading.assert_loaded(&store.load().unwrap());
    assert_verified(&mut *store);

    // The largest numbers that come from elsewhere: a worker's sequence, a corporate action.
    let placed =
        trading.place(AccountId(1), Side::Buy, InstrumentId(1), Quantity::from_raw(i64::MAX));
    let Change::PlaceOrder(mut record) = placed else { unreachable!() };
    record.order.worker_sequence = u64::MAX;
    record.order.received.market = MarketTime(i64::MIN);
    record.order.worker_time = WallTime(i64::MAX);
    record.order.day = u32::MAX;
    assert!(matches!(record.state, OrderState::Rejected(_)), "too large to be accepted");
    trading.records.insert(record.order.id, record.clone());
    let bought = trading.place(AccountId(1), Side::Buy, InstrumentId(1), Quantity::from_raw(5));
    let filled = trading.settle(SECOND, true, &[(InstrumentId(1), 2_000)], &[]);
    let settled = trading.settle(SECOND, true, &[], &[(InstrumentId(1), u32::MAX, 1)]);
    let Change::Settle { settlement, bars } = settled else { unreachable!() };
    let mut settlement = Arc::unwrap_or_clone(settlement);
    settlement.head.last_action = u64::MAX;
    trading.books.restore_head(settlement.head, settlement.named.clone());
    let settled = Change::Settle { settlement: settlement.into(), bars };
    let request = record.order.request.clone();
    let changes = vec![Change::PlaceOrder(record.clone()), bought, filled, settled];
    let batch = trading.batch_of(changes);
    store.commit(&batch).unwrap();
    trading.assert_loaded(&store.load().unwrap());
    let found = store.find(&[(request.account, request.client_order_id)]).unwrap();
    assert_eq!(found, [Some(Found::Order(record))]);
    let held = &trading.books.account(AccountId(1)).unwrap().positions;
    assert_eq!(held[0].quantity, Quantity::from_raw(5 * i64::from(u32::MAX)));
    assert_verified(&mut *store);
}

pub(crate) fn a_disabled_account_is_enabled_again(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let mut trading = trade(&mut *store, 23, 1);
    let alice = AccountId(1);
    trading.books.disable(alice).unwrap();
    let batch = trading.batch_of(vec![Change::DisableAccount(alice)]);
    store.commit(&batch).unwrap();
    trading.assert_loaded(&store.load().unwrap());
    trading.books.enable(alice).unwrap();
    let batch = trading.batch_of(vec![Change::EnableAccount(alice)]);
    store.commit(&batch).unwrap();
    trading.assert_loaded(&store.load().unwrap());
}

pub(crate) fn a_new_password_forgets_who_saw_the_old_one(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let mut trading = trade(&mut *store, 24, 1);
    let (alice, bob) = (AccountId(1), AccountId(2));
    let worker = |number| WorkerId([number; 16]);
    let mut commit = |changes: Vec<Change>| {
        store.commit(&trading.batch_of(changes)).unwrap();
        let loaded = store.load().unwrap();
        (loaded.profiles[0].clone(), loaded.exposures)
    };
    let expose = |account, number| Change::Expose { account, worker: worker(number) };
    let password = |text: &str, through: Option<u8>| Change::SetPassword {
        account: alice,
        pass_hash: PassHash(text.to_owned()),
        through: through.map(worker),
    };
    // Worker 9 is not registered: exposures outlive that.
    let all = [(alice, 1), (alice, 9), (bob, 1)].map(|(account, n)| (account, worker(n)));
    let changes = vec![expose(bob, 1), expose(alice, 9), expose(alice, 1), expose(alice, 9)];
    assert_eq!(commit(changes).1, all);
    assert_eq!(commit(vec![expose(alice, 1)]).1, all);

    let (profile, exposures) = commit(vec![Change::RequirePassword(alice)]);
    assert!(profile.password_due);
    assert_eq!(exposures, all);
    assert!(commit(vec![Change::RequirePassword(alice)]).0.password_due);
    // Through one of those that saw the old one, then through another, then through none.
    let (profile, exposures) = commit(vec![password("$new", Some(9))]);
    assert_eq!(profile.pass_hash, Some(PassHash("$new".to_owned())));
    assert!(!profile.password_due);
    assert_eq!(exposures, all[1..]);
    assert_eq!(commit(vec![password("$newer", Some(2))]).1, [(alice, worker(2)), all[2]]);
    assert_eq!(commit(vec![password("$newest", None)]).1, all[2..]);
}

pub(crate) fn the_last_use_of_a_session_never_goes_back(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let mut trading = trade(&mut *store, 25, 1);
    let (first, second) = (trading.start_session(), trading.start_session());
    let keys: Vec<SessionKey> = trading.sessions.keys().copied().collect();
    store.commit(&trading.batch_of(vec![first, second])).unwrap();
    let mut use_at = |used: &[(SessionKey, i64)]| {
        let used = used.iter().map(|(key, when)| (*key, WallTime(*when))).collect();
        store.commit(&trading.batch_of(vec![Change::UseSessions(used)])).unwrap();
        let loaded = store.load().unwrap();
        // The next batch must be later than all that is stored.
        trading.wall = loaded.last_wall.0;
        let used: Vec<i64> = loaded.sessions.iter().map(|session| session.used.0).collect();
        (used, loaded.last_wall.0)
    };
    let gone = SessionKey([0; 32]);
    let (used, last_wall) = use_at(&[(gone, 70_000), (keys[1], 60_000), (keys[0], 50_000)]);
    assert_eq!(used, [50_000, 60_000]);
    assert_eq!(last_wall, 70_000);
    assert_eq!(use_at(&[(keys[0], 49_999), (keys[1], 60_001)]).0, [50_000, 60_001]);
    assert_eq!(use_at(&[]).0, [50_000, 60_001]);
}

pub(crate) fn a_worker_keeps_all_that_is_known_of_it_until_it_is_removed(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let mut trading = trade(&mut *store, 26, 1);
    let id = WorkerId([5; 16]);
    let boot = |until, compromised| Some(Boot { until, compromised });
    let rows = [
        (Some(vec![0, 1, 255]), None),
        (Some(vec![7; 3_000]), boot(None, false)),
        (Some(vec![7; 3_000]), boot(Some(WallTime(i64::MIN)), true)),
        (None, boot(None, true)),
        (None, None),
    ];
    for (key, booted) in rows {
        let (name, allowed) = ("fifth".to_owned(), "::/0".to_owned());
        let row = WorkerRow { id, name, allowed, key, booted };
        trading.workers.insert(id, row.clone());
        store.commit(&trading.batch_of(vec![Change::PutWorker(row)])).unwrap();
        trading.assert_loaded(&store.load().unwrap());
    }
    // A stolen key stays stolen, told once or twice, whatever becomes of its worker.
    for fingerprint in ["B", "A", "B"] {
        let changes = vec![Change::KeyStolen(fingerprint.to_owned())];
        store.commit(&trading.batch_of(changes)).unwrap();
    }
    trading.workers.remove(&id);
    let removed = || vec![Change::RemoveWorker(id)];
    store.commit(&trading.batch_of(removed())).unwrap();
    trading.assert_loaded(&store.load().unwrap());
    assert_eq!(store.load().unwrap().stolen_keys, ["A", "B"]);
    assert_contradiction(store.commit(&trading.batch_of(removed())), "not registered");
}
