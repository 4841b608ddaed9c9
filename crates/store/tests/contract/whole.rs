//! Whole books: a backup is of one moment and of all that there is, it can be put back, and an export
//! has each line once.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use papertrader_core::ids::{AccountId, InstrumentId, OrderId};
use papertrader_core::ledger::JournalEntry;
use papertrader_core::money::Quantity;
use papertrader_core::order::{OrderRecord, OrderState, Side};
use papertrader_core::time::Moment;
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{
    Activity, CopyError, Cursor, Location, Progress, Restored, Store, StoreError,
};
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::contract::trading::Trading;
use crate::contract::{Backend, go_on, trade};

/// Makes a test of every case, on the backend that the expression makes.
#[macro_export]
macro_rules! whole_tests {
    ($backend:expr) => {
        #[test]
        fn a_backup_is_of_one_moment_and_can_be_put_back() {
            books::a_backup_is_of_one_moment_and_can_be_put_back(&$backend);
        }
        #[test]
        fn nothing_is_written_over_and_nothing_half_is_left() {
            books::nothing_is_written_over_and_nothing_half_is_left(&$backend);
        }
        #[test]
        fn an_export_has_all_that_an_account_did_once_and_in_order() {
            books::an_export_has_all_that_an_account_did_once_and_in_order(&$backend);
        }
    };
}

/// More than anybody can buy: refused at once.
const TOO_MUCH: Quantity = Quantity::from_raw(i64::MAX);

/// Wants to go on.
pub(crate) fn patient(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Every row of every table of a file, each table in the order of its rows.
pub(crate) fn all_rows(file: &Path) -> Vec<(String, Vec<Vec<Value>>)> {
    let raw = Connection::open(file).unwrap();
    let sql = "SELECT t.name, group_concat(c.name, ', ') FROM sqlite_schema t,
               pragma_table_info(t.name) c WHERE t.type = 'table' GROUP BY t.name ORDER BY t.name";
    let mut tables = raw.prepare(sql).unwrap();
    let tables = tables.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let tables: Vec<(String, String)> = tables.collect::<Result<_, _>>().unwrap();
    assert!(tables.len() >= 17, "{tables:?}");
    let rows = |(table, columns): (String, String)| {
        let sql = format!("SELECT {columns} FROM {table} ORDER BY {columns}");
        let mut statement = raw.prepare(&sql).unwrap();
        let wide = statement.column_count();
        let row = |row: &rusqlite::Row<'_>| (0..wide).map(|column| row.get(column)).collect();
        let rows = statement.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap();
        (table, rows)
    };
    tables.into_iter().map(rows).collect()
}

/// Restores a backup into a new file.
pub(crate) fn restore(backup: &Path, dir: &Path) -> Result<(PathBuf, Restored), CopyError> {
    std::fs::create_dir(dir).unwrap();
    let file = dir.join("restored.sqlite");
    let restored = Location::file(&file).restore(backup, dir, &mut patient)?;
    Ok((file, restored))
}

fn files(dir: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| name(entry).into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) fn a_backup_is_of_one_moment_and_can_be_put_back(backend: &dyn Backend) {
    let dir = tempfile::tempdir().unwrap();
    let backup = dir.path().join("backup");
    let mut store = backend.open("one");
    let mut trading = trade(&mut *store, 71, 120);
    let changes = vec![trading.start_session()];
    store.commit(&trading.batch_of(changes)).unwrap();
    store.commit(&trading.leave_orders_open()).unwrap();
    // The same story, which is not continued.
    let before = {
        let mut before = Trading::new(71);
        (0..120).for_each(|_| drop(before.next_batch()));
        let changes = vec![before.start_session()];
        before.batch_of(changes);
        before.leave_orders_open();
        before
    };
    let location = store.location();
    let mut looks = 0;
    let report = location.back_up(&backup, &mut |_| {
        // Trading goes on, from the first page or row on.
        looks += 1;
        if looks == 1 {
            go_on(&mut *store, &mut trading, 10);
        }
        ControlFlow::Continue(())
    });
    let report = report.unwrap();
    assert!(looks > 0);
    trading.assert_loaded(&store.load().unwrap());
    assert_eq!(report.orders, before.records.len() as u64);
    assert_eq!(report.cash + report.market + report.grants + report.fractions, 0);
    assert_eq!(files(dir.path()), ["backup"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    }

    // What is put back is the state of that moment, but for the sessions.
    let (file, restored) = restore(&backup, &dir.path().join("new")).unwrap();
    assert_eq!(restored.deployment, "one");
    assert_eq!(restored.last_batch.0, before.batch);
    assert_eq!(restored.report.orders, report.orders);
    let mut again = SqliteStore::open(&file, "never made").unwrap();
    let mut expected = before;
    expected.sessions.clear();
    expected.assert_loaded(&again.load().unwrap());
    assert_eq!(again.verify().unwrap(), []);
    // And it can be gone on with.
    go_on(&mut again, &mut expected, 20);
    expected.assert_loaded(&again.load().unwrap());
    drop(again);
    assert_eq!(files(&dir.path().join("new")), ["restored.sqlite"]);
}

pub(crate) fn nothing_is_written_over_and_nothing_half_is_left(backend: &dyn Backend) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = backend.open("one");
    trade(&mut *store, 72, 60);
    let location = store.location();
    let at = |name: &str| dir.path().join(name);
    // Whoever watches does not want to go on.
    let stopped = location.back_up(&at("stopped"), &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(CopyError::Store(StoreError::Stopped))), "{stopped:?}");
    let stopped = location.verify(&mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(StoreError::Stopped)), "{stopped:?}");
    assert_eq!(files(dir.path()), [] as [&str; 0]);
    // Names that are taken, or nowhere.
    std::fs::write(at("mine"), "mine").unwrap();
    let taken = location.back_up(&at("mine"), &mut patient);
    assert!(matches!(taken, Err(CopyError::Exists(_))), "{taken:?}");
    std::fs::write(at("cut.part"), "cut").unwrap();
    let cut = location.back_up(&at("cut"), &mut patient).unwrap_err();
    assert!(cut.to_string().contains("cut.part is there"), "{cut}");
    let nowhere = location.back_up(&at("nowhere/backup"), &mut patient);
    assert!(matches!(nowhere, Err(CopyError::File { .. })), "{nowhere:?}");
    assert_eq!(std::fs::read(at("mine")).unwrap(), b"mine");

    location.back_up(&at("backup"), &mut patient).unwrap();
    let before = all_rows(&at("backup"));
    // Books that somebody has an account in stay.
    let into = Location::file(&at("backup"));
    let refused = into.restore(&at("backup"), dir.path(), &mut patient).unwrap_err();
    assert!(matches!(refused, CopyError::NotEmpty { accounts: 1.., .. }), "{refused}");
    assert_eq!(all_rows(&at("backup")), before);
    // What is no backup, or a part of one, or was in use.
    std::fs::write(at("empty"), "").unwrap();
    let whole = std::fs::read(at("backup")).unwrap();
    std::fs::write(at("half"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(at("used"), &whole).unwrap();
    std::fs::write(at("used-wal"), "log").unwrap();
    std::fs::write(at("foreign"), "").unwrap();
    let foreign = Connection::open(at("foreign")).unwrap();
    foreign.execute_batch("CREATE TABLE recipe (name TEXT)").unwrap();
    drop(foreign);
    for name in ["empty", "half", "used", "mine", "foreign", "none"] {
        let new = dir.path().join(format!("{name}-dir"));
        let refused = restore(&at(name), &new).unwrap_err();
        let is_expected = match refused {
            CopyError::InUse(..) => name == "used",
            CopyError::File { .. } => name == "none",
            CopyError::Store(StoreError::Corrupt(_)) | CopyError::Wrong(_) => true,
            _ => false,
        };
        assert!(is_expected, "{name}: {refused:?}");
        assert_eq!(files(&new), [] as [&str; 0], "{name}");
    }
    // One that contradicts itself is not made, and not put back.
    let damaged = Connection::open(at("backup")).unwrap();
    damaged.execute("UPDATE balance SET granted = granted + 1", []).unwrap();
    drop(damaged);
    let wrong = restore(&at("backup"), &at("wrong")).unwrap_err();
    assert!(matches!(&wrong, CopyError::Wrong(report) if !report.mismatches.is_empty()));
    let wrong = Location::file(&at("backup")).back_up(&at("copy"), &mut patient);
    assert!(matches!(wrong, Err(CopyError::Wrong(_))));
    assert!(!at("copy").exists() && !at("copy.part").exists());
}

pub(crate) fn an_export_has_all_that_an_account_did_once_and_in_order(backend: &dyn Backend) {
    let mut store = backend.open("one");
    let mut trading = trade(&mut *store, 73, 200);
    store.commit(&trading.leave_orders_open()).unwrap();
    let mut exporter = store.location().exporter().unwrap();
    assert_eq!(exporter.account(&"nobody".parse().unwrap()).unwrap(), None);
    let loaded = store.load().unwrap();
    for (index, profile) in loaded.profiles.iter().enumerate() {
        let upper = profile.name.to_string().to_uppercase().parse().unwrap();
        let account = AccountId(index as u32 + 1);
        let found = exporter.account(&upper).unwrap();
        assert_eq!(found, Some((account, profile.name.clone())));
        for limit in [1, 3, 1_000_000] {
            let (mut lines, mut after) = (Vec::new(), Cursor::default());
            loop {
                let page = exporter.page(account, after, limit).unwrap();
                assert!(page.lines.len() == limit || !page.more);
                lines.extend(page.lines);
                after = page.next;
                if !page.more {
                    break;
                }
            }
            let orders: Vec<_> = trading
                .records
                .values()
                .filter(|record| record.order.request.account == account)
                .collect();
            let exported: Vec<_> = lines
                .iter()
                .filter_map(|line| match line {
                    Activity::Order(record, symbol) => {
                        let row =
                            &loaded.instruments[record.order.request.instrument.0 as usize - 1];
                        assert_eq!(*symbol, row.symbol);
                        Some(&**record)
                    }
                    Activity::Entry(..) => None,
                })
                .collect();
            assert_eq!(exported, orders);
            let entries: Vec<_> = lines
                .iter()
                .filter_map(|line| match line {
                    Activity::Entry(entry, moment, symbol) => {
                        let is_grant = matches!(entry, JournalEntry::Grant { .. });
                        assert_eq!(symbol.is_none(), is_grant);
                        Some((*entry, *moment))
                    }
                    Activity::Order(..) => None,
                })
                .collect();
            let of = |(entry, _): &&(JournalEntry, Moment)| entry.account() == account;
            let booked: Vec<_> = trading.journal.iter().filter(of).copied().collect();
            assert_eq!(entries, booked);
            let times: Vec<_> = lines
                .iter()
                .map(|line| match line {
                    Activity::Order(record, _) => record.order.received.wall,
                    Activity::Entry(_, moment, _) => moment.wall,
                })
                .collect();
            assert!(times.is_sorted(), "{times:?}");
        }
    }
    let is_open = |record: &OrderRecord| matches!(record.state, OrderState::Queued(_));
    assert!(trading.records.values().any(is_open));
    assert!(trading.records.len() > 300 && trading.records.contains_key(&OrderId(1)));

    // Of an account with many orders in one generation they are found in another way.
    let account = AccountId(1);
    for _ in 0..5 {
        let place = |_| trading.place(account, Side::Buy, InstrumentId(1), TOO_MUCH);
        let changes = (0..1_000).map(place).collect();
        store.commit(&trading.batch_of(changes)).unwrap();
    }
    let (mut orders, mut after) = (Vec::new(), Cursor::default());
    loop {
        let page = exporter.page(account, after, 700).unwrap();
        orders.extend(page.lines.iter().filter_map(|line| match line {
            Activity::Order(record, _) => Some(record.order.id),
            Activity::Entry(..) => None,
        }));
        after = page.next;
        if !page.more {
            break;
        }
    }
    let of = |record: &&OrderRecord| record.order.request.account == account;
    let all: Vec<OrderId> = trading.records.values().filter(of).map(|r| r.order.id).collect();
    assert!(all.len() > 5_000 && orders == all);
}
