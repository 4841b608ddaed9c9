//! Databases of earlier versions: opened, brought forward, and all that was in them still there.

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::ids::{
    AccountId, BatchNumber, InstrumentId, OrderId, SnapshotNumber, WorkerId,
};
use papertrader_core::money::{Cash, Price, Quantity};
use papertrader_core::order::{Fill, OrderRefusal, OrderState, WaitReason};
use papertrader_core::time::{MarketTime, Moment, WallTime};
use papertrader_store::{
    Batch, Boot, Change, Found, HistoryRow, PassHash, SessionKey, Store, WorkerRow,
};

use crate::File;
use crate::contract::trading::Trading;

/// What version 1 wrote: an account with its grant and a session, and a worker.
const ROWS_OF_1: &str = "
    INSERT INTO meta (one, deployment, last_batch, last_wall) VALUES (1, 'old', 4, 2000);
    INSERT INTO account (id, name, name_key, email, pass_hash, since, cash, granted, disabled)
    VALUES (1, 'Alice', 'alice', 'a@b', '$argon2id$old', 1000, 500, 500, 0);
    INSERT INTO journal (account, kind, quantity, cash, wall, market) VALUES (1, 1, 0, 500, 1000, 0);
    UPDATE named_account SET amount = '-500' WHERE name = 'grants';
    INSERT INTO session (key, account, expires, expirable, client, started)
    VALUES (zeroblob(32), 1, 9000, 1, '::1', 1500);
    INSERT INTO worker (id, name, allowed) VALUES (zeroblob(16), 'first', '127.0.0.1');";

#[test]
fn a_database_of_version_1_is_brought_forward_with_its_rows() {
    let file = File::new();
    let raw = file.raw();
    raw.execute_batch(include_str!("../../migrations/sqlite/0001_books.sql")).unwrap();
    raw.execute_batch(ROWS_OF_1).unwrap();
    raw.pragma_update(None, "application_id", 0x5054_5244).unwrap();
    raw.pragma_update(None, "user_version", 1).unwrap();
    drop(raw);

    let mut store = file.store();
    assert_eq!(store.verify().unwrap(), []);
    let loaded = store.load().unwrap();
    assert_eq!((loaded.deployment.as_str(), loaded.last_batch), ("old", BatchNumber(4)));
    let profile = &loaded.profiles[0];
    assert_eq!(profile.pass_hash, Some(PassHash("$argon2id$old".to_owned())));
    assert!(!profile.password_due);
    let session = &loaded.sessions[0];
    assert_eq!((session.started, session.used), (WallTime(1500), WallTime(1500)));
    let worker = WorkerRow {
        id: WorkerId([0; 16]),
        name: "first".to_owned(),
        allowed: "127.0.0.1".to_owned(),
        key: None,
        booted: None,
    };
    assert_eq!(loaded.workers, std::slice::from_ref(&worker));
    // Nobody knows what passed through whom.
    assert_eq!(loaded.exposures, [(AccountId(1), worker.id)]);
    assert_eq!(loaded.stolen_keys, Vec::<String>::new());

    // What is new can be written beside what is old.
    let booted = Some(Boot { until: Some(WallTime(5)), compromised: true });
    let worker = WorkerRow { key: Some(vec![1]), booted, ..worker };
    let alice = AccountId(1);
    let changes = vec![
        Change::RequirePassword(alice),
        Change::Expose { account: alice, worker: worker.id },
        Change::UseSessions(vec![(SessionKey([0; 32]), WallTime(2500))]),
        Change::PutWorker(worker.clone()),
    ];
    store.commit(&Batch { number: BatchNumber(5), wall: WallTime(3000), changes }).unwrap();
    drop(store);
    let loaded = file.store().load().unwrap();
    assert!(loaded.profiles[0].password_due);
    assert_eq!(loaded.sessions[0].used, WallTime(2500));
    assert_eq!(loaded.exposures, [(alice, worker.id)]);
    assert_eq!(loaded.workers, [worker]);
}

/// What version 2 wrote besides: an order of each kind. Alice bought 3 of 4 at 1.00; a split had made
/// 4 of what she had asked, which was 2.
const ORDERS_OF_2: &str = "
    INSERT INTO instrument (id, symbol, name, kind) VALUES (1, 'AAPL', 'Apple', 1);
    INSERT INTO snapshot (number, wall, market, day, last_action, ended)
    VALUES (1, 1100, 100, 1, 0, 0), (2, 1200, 200, 1, 1, 0);
    INSERT INTO price (instrument, price, time) VALUES (1, 100000000, 200);
    INSERT INTO order_ (id, account, client_order_id, side, instrument, quantity, asked, hold,
        received_wall, received_market, seen, day, worker, worker_time, worker_sequence, state,
        reason, fill_quantity, fill_price, fill_amount, fill_basis, fill_snapshot, decided_wall,
        decided_market)
    VALUES
        (1, 1, 'filled', 0, 1, 200000000, 100000000, 110, 1010, 10, 0, 1, zeroblob(16), 1009, 5, 1,
         NULL, 300000000, 100000000, 300, 300, 2, 1200, 200),
        (2, 1, 'refused', 0, 1, 1, 1, 0, 1020, 20, 0, 1, zeroblob(16), 1019, 6, 2,
         6, NULL, NULL, NULL, NULL, NULL, 1021, 20),
        (3, 1, 'refused-later', 0, 1, 5, 5, 7, 1030, 30, 0, 1, zeroblob(16), 1029, 7, 2,
         5, NULL, NULL, NULL, NULL, NULL, 1200, 200),
        (4, 1, 'cancelled', 0, 1, 5, 5, 7, 1040, 40, 0, 1, zeroblob(16), 1039, 8, 3,
         NULL, NULL, NULL, NULL, NULL, NULL, 1050, 40),
        (5, 1, 'expired', 0, 1, 5, 5, 7, 1050, 50, 0, 1, zeroblob(16), 1049, 9, 4,
         NULL, NULL, NULL, NULL, NULL, NULL, 1200, 200),
        (6, 1, 'waiting', 0, 1, 500000000, 400000000, 20, 1060, 60, 0, 1, zeroblob(16), 1059, 10, 0,
         1, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        (7, 1, 'queued', 0, 1, 500000000, 500000000, 30, 1270, 200, 2, 1, zeroblob(16), 1269, 11, 0,
         NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
    INSERT INTO cancel_mark (account, client_order_id, wall, market) VALUES (1, 'mark', 1080, 80);
    UPDATE account SET cash = 200;
    INSERT INTO position (account, instrument, quantity, cost) VALUES (1, 1, 300000000, 300);
    UPDATE named_account SET amount = '300' WHERE name = 'market';
    INSERT INTO named_account (name, instrument, amount) VALUES ('market', 1, '-300000000');";

#[test]
fn the_orders_of_version_2_are_all_there() {
    let file = File::new();
    let raw = file.raw();
    raw.execute_batch(include_str!("../../migrations/sqlite/0001_books.sql")).unwrap();
    raw.execute_batch(include_str!("../../migrations/sqlite/0002_lock.sql")).unwrap();
    raw.execute_batch(
        &ROWS_OF_1.replace(", started)", ", started, used)").replace("1500)", "1500, 1500)"),
    )
    .unwrap();
    raw.execute_batch(ORDERS_OF_2).unwrap();
    raw.pragma_update(None, "application_id", 0x5054_5244).unwrap();
    raw.pragma_update(None, "user_version", 2).unwrap();
    drop(raw);

    let mut store = file.store();
    assert_eq!(store.verify().unwrap(), []);
    let loaded = store.load().unwrap();
    assert_eq!(loaded.next_order, OrderId(8));
    let alice = AccountId(1);
    let account = loaded.books.account(alice).unwrap();
    let cents = Cash::from_cents;
    assert_eq!((account.cash, account.granted), (cents(200), cents(500)));
    assert_eq!((account.held_cash, account.open_orders), (cents(50), 2));
    assert_eq!(account.positions[0].quantity, Quantity::from_raw(300_000_000));

    let at = |wall, market| Some(Moment { wall: WallTime(wall), market: MarketTime(market) });
    let fill = Fill {
        quantity: Quantity::from_raw(300_000_000),
        price: Price::from_raw(100_000_000).unwrap(),
        amount: cents(300),
        basis: cents(300),
        snapshot: SnapshotNumber(2),
    };
    let rejected = OrderState::Rejected;
    // Number, asked at first and at last, state, when.
    let expected = [
        ("filled", 1, 100_000_000, 200_000_000, OrderState::Filled(fill), at(1200, 200)),
        ("refused", 2, 1, 1, rejected(OrderRefusal::InsufficientCash), at(1021, 20)),
        ("refused later", 3, 5, 5, rejected(OrderRefusal::OrderTooLarge), at(1200, 200)),
        ("cancelled", 4, 5, 5, OrderState::Cancelled, at(1050, 40)),
        ("expired", 5, 5, 5, OrderState::Expired, at(1200, 200)),
        (
            "waiting",
            6,
            400_000_000,
            500_000_000,
            OrderState::Queued(Some(WaitReason::MarketClosed)),
            None,
        ),
        ("queued", 7, 500_000_000, 500_000_000, OrderState::Queued(None), None),
    ];
    let key = |name: &str| (alice, name.replace(' ', "-").parse().unwrap());
    let mut reader = store.reader().unwrap();
    for (name, id, asked, quantity, state, decided) in expected {
        let found = store.find(&[key(name)]).unwrap().pop().unwrap();
        let Some(Found::Order(record)) = found else { panic!("{name}: {found:?}") };
        assert_eq!((record.order.id, record.state, record.decided), (OrderId(id), state, decided));
        assert_eq!(record.order.asked, Quantity::from_raw(asked), "{name}");
        assert_eq!(record.order.request.quantity, Quantity::from_raw(quantity), "{name}");
        assert_eq!(record.order.worker_sequence, id + 4);
        let (account, id) = key(name);
        assert_eq!(reader.order(account, &id).unwrap(), Some(Found::Order(record)));
    }
    assert_eq!(store.find(&[key("mark"), key("none")]).unwrap(), [Some(Found::Mark), None]);
    let ids = |orders: Vec<u64>| orders.into_iter().map(OrderId).collect::<Vec<_>>();
    let orders = reader.orders(alice, 10).unwrap();
    let listed: Vec<OrderId> = orders.iter().map(|record| record.order.id).collect();
    assert_eq!(listed, ids((1..=7).rev().collect()));
    let history = reader.history(alice, 10).unwrap();
    assert_eq!(history.len(), 6);
    assert!(matches!(&history[4], HistoryRow::Order(record) if record.order.id == OrderId(1)));

    // The open ones are settled as any other.
    let changes = vec![Change::CancelOrder { order: OrderId(6), moment: at(1300, 200).unwrap() }];
    store.commit(&Batch { number: BatchNumber(5), wall: WallTime(3000), changes }).unwrap();
    assert_eq!(store.verify().unwrap(), []);
}

#[test]
fn rows_of_interval_bars_from_before_there_were_chunks_are_read_too() {
    let file = File::new();
    let mut store = file.store();
    let mut trading = Trading::new(43);
    for _ in 0..200 {
        store.commit(&trading.next_batch()).unwrap();
    }
    let instrument = InstrumentId(1);
    let (least, most) = (MarketTime(i64::MIN), MarketTime(i64::MAX));
    let mut reader = store.reader().unwrap();
    let interval = Resolution::Interval;
    let settled = reader.bars(instrument, interval, least, most, usize::MAX).unwrap();
    // As the version before left them: one that a settlement went on with, and one from long before.
    let old = |start: MarketTime| Bar { start, close: settled[0].low, ..settled[0] };
    for bar in [old(MarketTime(1)), old(settled[0].start)] {
        let Bar { start, open, high, low, close, volume } = bar;
        file.raw()
            .execute(
                "INSERT INTO bar (instrument, resolution, start, open, high, low, close, volume)
                 VALUES (1, 0, ?1, ?2, ?3, ?4, ?5, ?6)",
                (start.0, open.raw(), high.raw(), low.raw(), close.raw(), volume.raw()),
            )
            .unwrap();
    }
    let read = reader.bars(instrument, interval, least, most, usize::MAX).unwrap();
    assert_eq!(read, [&[old(MarketTime(1))], &settled[..]].concat());
    let second = settled[0].start.plus_nanos(1);
    assert_eq!(reader.last_bar(instrument, interval, second).unwrap(), Some(settled[0]));
    let first = settled[0].start;
    let found = reader.last_bar(instrument, interval, first).unwrap();
    assert_eq!(found, Some(old(MarketTime(1))));
    assert_eq!(store.verify().unwrap(), []);
}
