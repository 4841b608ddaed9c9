//! Damage: any row that is changed past the program is named by verification, and what cannot be
//! understood is refused at loading.

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::ids::InstrumentId;
use papertrader_core::time::MarketTime;
use papertrader_store::{BarRow, Change, Store, StoreError};

use super::trading::{INSTRUMENTS, Trading};

/// Where the damage must be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    /// By verification, and loading refuses it too.
    AtLoading,
    /// By verification alone: loading does not read it, or cannot tell.
    ByVerifying,
}
use Seen::{AtLoading, ByVerifying};

const FILLED: &str = "(SELECT max(id) FROM outcome WHERE state = 1)";
const SALE: &str = "(SELECT max(id) FROM outcome WHERE state = 1 AND id IN \
                    (SELECT id FROM order_ WHERE side = 1))";
const QUEUED: &str = "(SELECT max(id) FROM order_ WHERE id NOT IN (SELECT id FROM outcome))";
const REFUSED: &str = "(SELECT max(id) FROM outcome WHERE state = 2 AND snapshot IS NULL)";
const WAITING: &str = "(SELECT max(id) FROM waiting)";
const SPLIT: &str = "(SELECT max(id) FROM journal WHERE kind = 2)";
const GRANT: &str = "(SELECT max(id) FROM journal WHERE kind = 1)";
const HELD: &str = "account = (SELECT min(account) FROM position)";

// The first position with one unit more, or one cent dearer: its numbers are long enough for that.
const MORE_UNITS: &str = "'[[' || (SELECT min(instrument) || ',' || (min(quantity) + 1) || ',' || \
                          min(cost) FROM position WHERE position.account = balance.account) || \
                          ']]'";
const DEARER: &str = "replace(positions, ']]', '1]]')";

const LAST_CHUNK: &str = "(instrument, resolution, first) = (SELECT instrument, resolution, first FROM bar_chunk \
                          ORDER BY instrument DESC, resolution DESC, first DESC LIMIT 1)";

const FIRST_MARK: &str = "(account, client_order_id) = \
                          (SELECT account, client_order_id FROM cancel_mark LIMIT 1)";

/// Where it is seen, a part of what names it, and the damage. `{…}` stands for a row or a value.
const DAMAGE: &[(Seen, &str, &str)] = &[
    (AtLoading, "table meta: its row is missing", "DELETE FROM meta"),
    (AtLoading, "table meta, row 1: last_batch", "UPDATE meta SET last_batch = -1"),
    (ByVerifying, "table meta: no batch was stored", "UPDATE meta SET last_batch = 0"),
    (ByVerifying, "table meta: last_wall is 0", "UPDATE meta SET last_wall = 0"),
    (
        AtLoading,
        "table instrument, row 2: symbol",
        "UPDATE instrument SET symbol = 'a b' WHERE id = 2",
    ),
    (AtLoading, "table instrument, row 2", "DELETE FROM instrument WHERE id = 1"),
    (AtLoading, "table instrument, row 1: kind", "UPDATE instrument SET kind = 256 WHERE id = 1"),
    (
        AtLoading,
        "table balance, row 1: cash is",
        "UPDATE balance SET cash = cash + 1 WHERE account = 1",
    ),
    (
        AtLoading,
        "table balance, row 1: cash is negative",
        "UPDATE balance SET cash = -1 WHERE account = 1",
    ),
    (
        ByVerifying,
        "table balance, row 1: granted is",
        "UPDATE balance SET granted = granted + 1 WHERE account = 1",
    ),
    (AtLoading, "table account, row 1: name", "UPDATE account SET name = '' WHERE id = 1"),
    (AtLoading, "table account, row 1: name_key", "UPDATE account SET name_key = 'x' WHERE id = 1"),
    (AtLoading, "table account, row 1: email", "UPDATE account SET email = 'x' WHERE id = 1"),
    (AtLoading, "table account, row 1: disabled", "UPDATE account SET disabled = 2 WHERE id = 1"),
    (ByVerifying, "table meta: last_wall", "UPDATE account SET since = {large} WHERE id = 1"),
    (AtLoading, "table account, row 3: account 2 is missing", "DELETE FROM account WHERE id = 2"),
    (
        AtLoading,
        "quantity of instrument",
        "UPDATE balance SET positions = {more_units} WHERE {held}",
    ),
    (ByVerifying, "cost of instrument", "UPDATE balance SET positions = {dearer} WHERE {held}"),
    (AtLoading, "cost is negative", "UPDATE balance SET positions = '[[1,1,-1]]' WHERE {held}"),
    (AtLoading, "not positive", "UPDATE balance SET positions = '[[1,0,1]]' WHERE {held}"),
    (AtLoading, "twice", "UPDATE balance SET positions = '[[1,1,1],[1,1,1]]' WHERE {held}"),
    (AtLoading, "not a list", "UPDATE balance SET positions = '[1,1,1]' WHERE {held}"),
    (AtLoading, "there is no position", "UPDATE balance SET positions = '[]' WHERE {held}"),
    (ByVerifying, "cash is", "UPDATE outcome SET amount = amount + 1 WHERE id = {filled}"),
    (
        ByVerifying,
        "amount is not price times quantity",
        "UPDATE outcome SET amount = amount + 1 WHERE id = {filled}",
    ),
    (
        ByVerifying,
        "amount is not price times quantity",
        "UPDATE outcome SET price = price * 2 WHERE id = {filled}",
    ),
    (ByVerifying, "price is not a price", "UPDATE outcome SET price = 0 WHERE id = {filled}"),
    (ByVerifying, "quantity of", "UPDATE outcome SET quantity = quantity + 1 WHERE id = {filled}"),
    (ByVerifying, "units is", "UPDATE outcome SET quantity = quantity + 1 WHERE id = {filled}"),
    (ByVerifying, "cost", "UPDATE outcome SET basis = basis + 1 WHERE id = {sale}"),
    (
        AtLoading,
        "snapshot 99999 is missing",
        "UPDATE outcome SET snapshot = 99999 WHERE id = {filled}",
    ),
    (ByVerifying, "cash is", "UPDATE order_ SET side = 1 - side WHERE id = {filled}"),
    (ByVerifying, "cash is", "UPDATE order_ SET account = 1 + account % 3 WHERE id = {filled}"),
    (
        ByVerifying,
        "entries add up",
        "UPDATE order_ SET instrument = 1 + instrument % 4 WHERE id = {filled}",
    ),
    (ByVerifying, "cash is", "UPDATE outcome SET state = 3 WHERE id = {filled}"),
    (ByVerifying, "cash is", "DELETE FROM order_ WHERE id = {filled}"),
    (ByVerifying, "state is not a known state", "UPDATE outcome SET state = 9 WHERE id = {filled}"),
    (
        ByVerifying,
        "reason is not a known reason",
        "UPDATE outcome SET reason = 77 WHERE id = {refused}",
    ),
    (
        ByVerifying,
        "table meta: last_wall",
        "UPDATE order_ SET received_wall = {large} WHERE id = {refused}",
    ),
    (
        AtLoading,
        "reason is not a known reason",
        "UPDATE waiting SET reason = 77 WHERE id = {waiting}",
    ),
    (AtLoading, "client_order_id", "UPDATE order_ SET client_order_id = 'a b' WHERE id = {queued}"),
    (
        AtLoading,
        "worker has the wrong length",
        "UPDATE order_ SET worker = {one_byte} WHERE id = {queued}",
    ),
    (AtLoading, "day is out of range", "UPDATE order_ SET day = -1 WHERE id = {queued}"),
    (AtLoading, "orders hold more cash", "UPDATE order_ SET hold = {large} WHERE id = {queued}"),
    (AtLoading, "an unknown account", "UPDATE order_ SET account = 9999 WHERE id = {queued}"),
    (
        AtLoading,
        "the order is decided",
        "INSERT INTO outcome (generation, account, hash, id, state, wall, market) \
         SELECT 0, account, hash, id, 3, 7, 7 FROM order_ WHERE id = {waiting}",
    ),
    (AtLoading, "settled_order", "UPDATE meta SET settled_order = -1"),
    (ByVerifying, "it lacks this order", "DELETE FROM waiting WHERE id = {waiting}"),
    (
        ByVerifying,
        "table waiting, row 99999: it belongs to nothing",
        "INSERT INTO waiting (id) VALUES (99999)",
    ),
    (
        ByVerifying,
        "table outcome, row 99999: it belongs to nothing",
        "INSERT INTO outcome (generation, account, hash, id, state, wall, market) \
         VALUES (0, 1, 2, 99999, 3, 7, 7)",
    ),
    (ByVerifying, "it lacks this order", "DELETE FROM outcome WHERE id = {filled}"),
    (
        ByVerifying,
        "it belongs to nothing",
        "UPDATE outcome SET hash = hash - 1 WHERE id = {filled}",
    ),
    (ByVerifying, "it belongs to nothing", "UPDATE outcome SET generation = 7 WHERE id = {filled}"),
    (ByVerifying, "hash is not", "UPDATE order_ SET hash = hash - 1 WHERE id = {filled}"),
    (
        AtLoading,
        "table balance, row 2: that of account 1 is missing before it",
        "DELETE FROM balance WHERE account = 1",
    ),
    (
        AtLoading,
        "table balance: that of account",
        "DELETE FROM balance WHERE account = (SELECT max(id) FROM account)",
    ),
    (
        AtLoading,
        "table balance, row 99: it belongs",
        "INSERT INTO balance VALUES (99, 0, 0, 0, '[]')",
    ),
    (ByVerifying, "amount", "UPDATE outcome SET amount = NULL WHERE id = {filled}"),
    (ByVerifying, "market", "UPDATE outcome SET market = NULL WHERE id = {refused}"),
    (ByVerifying, "a sale holds cash", "UPDATE order_ SET hold = 1 WHERE id = {sale}"),
    (
        ByVerifying,
        "table cancel_mark",
        "UPDATE cancel_mark SET client_order_id = 'a b' WHERE {first_mark}",
    ),
    (
        ByVerifying,
        "it marks what order",
        "INSERT INTO cancel_mark SELECT account, client_order_id, 0, 0 FROM order_ WHERE id = {filled}",
    ),
    (ByVerifying, "cash is", "UPDATE journal SET cash = cash + 1 WHERE id = {grant}"),
    (
        ByVerifying,
        "table named_account, row grants, 0: cash",
        "UPDATE journal SET cash = cash + 1 WHERE id = {grant}",
    ),
    (
        ByVerifying,
        "table named_account, row fractions, 0: cash",
        "UPDATE journal SET cash = cash + 1 WHERE id = {split}",
    ),
    (
        ByVerifying,
        "entries add up",
        "UPDATE journal SET quantity = quantity + 1 WHERE id = {split}",
    ),
    (ByVerifying, "cash is", "UPDATE journal SET account = 1 + account % 3 WHERE id = {grant}"),
    (ByVerifying, "entries add up", "DELETE FROM journal WHERE id = {split}"),
    (ByVerifying, "kind is not a known kind", "UPDATE journal SET kind = 3 WHERE id = {split}"),
    (
        ByVerifying,
        "snapshot 99999 is missing",
        "UPDATE journal SET snapshot = 99999 WHERE id = {split}",
    ),
    (
        AtLoading,
        "table session",
        "UPDATE session SET client = 'home' WHERE key = (SELECT key FROM session ORDER BY key DESC LIMIT 1)",
    ),
    (
        AtLoading,
        "key has the wrong length",
        "UPDATE session SET key = {one_byte} WHERE key = (SELECT key FROM session ORDER BY key DESC LIMIT 1)",
    ),
    (
        ByVerifying,
        "table session",
        "UPDATE session SET account = 9999 WHERE key = (SELECT key FROM session ORDER BY key DESC LIMIT 1)",
    ),
    (
        ByVerifying,
        "is missing",
        "DELETE FROM snapshot WHERE number = (SELECT snapshot FROM outcome WHERE id = {filled})",
    ),
    (
        ByVerifying,
        "market time goes back",
        "UPDATE snapshot SET market = {larger} WHERE number = 2",
    ),
    (
        AtLoading,
        "ended is neither",
        "UPDATE snapshot SET ended = 7 WHERE number = (SELECT max(number) FROM snapshot)",
    ),
    (AtLoading, "price is not a price", "UPDATE price SET price = 0 WHERE instrument = 1"),
    (ByVerifying, "table price, row 99", "UPDATE price SET instrument = 99 WHERE instrument = 1"),
    (
        ByVerifying,
        "the prices do not lie",
        "UPDATE bar SET high = low, close = low, open = low + 1 WHERE instrument = 1",
    ),
    (
        AtLoading,
        "table account, row 1: password_due",
        "UPDATE account SET password_due = 2 WHERE id = 1",
    ),
    (AtLoading, "table exposure", "INSERT INTO exposure (account, worker) VALUES (1, {one_byte})"),
    (
        ByVerifying,
        "table exposure",
        "INSERT INTO exposure (account, worker) VALUES (9999, {sixteen_bytes})",
    ),
    (AtLoading, "booted is neither", "UPDATE worker SET booted = 2"),
    (AtLoading, "it is not booted", "UPDATE worker SET booted = 0, booted_until = 1"),
    (AtLoading, "it is not booted", "UPDATE worker SET booted = 0, compromised = 1"),
    (
        AtLoading,
        "id has the wrong length",
        "UPDATE worker SET id = {one_byte} WHERE id = (SELECT id FROM worker ORDER BY id DESC LIMIT 1)",
    ),
    (
        AtLoading,
        "table named_account, row market, 0: cash",
        "UPDATE named_account SET amount = '7' WHERE name = 'market' AND instrument = 0",
    ),
    (
        AtLoading,
        "table named_account, row market, 1: units",
        "UPDATE named_account SET amount = '7' WHERE name = 'market' AND instrument = 1",
    ),
    (
        AtLoading,
        "table named_account, row grants, 0: amount",
        "UPDATE named_account SET amount = 'x' WHERE name = 'grants'",
    ),
    (AtLoading, "table named_account", "DELETE FROM named_account WHERE name = 'fractions'"),
    (
        ByVerifying,
        "table bar_tape: of 63 rows up to",
        "DELETE FROM bar_tape WHERE number = (SELECT min(number) FROM bar_tape)",
    ),
    (ByVerifying, "its bars cannot be read", "UPDATE bar_tape SET bars = {one_byte}"),
    (ByVerifying, "its bars cannot be read", "UPDATE bar_chunk SET bars = {one_byte}"),
    (
        ByVerifying,
        "its bars are of another time",
        "UPDATE bar_chunk SET first = first - 1 WHERE {last_chunk}",
    ),
    (
        ByVerifying,
        "it begins before the one before it ends",
        "INSERT INTO bar_chunk VALUES (1, 60000000000, 120000000000, 3, {two_bars}), \
         (1, 61000000000, 61000000000, 3, {bar_between})",
    ),
    (
        ByVerifying,
        "it names a row of instrument that is missing",
        "UPDATE bar_chunk SET instrument = 99 WHERE {last_chunk}",
    ),
];

/// Columns that may hold anything of their kind, without a contradiction to anything else that is
/// stored, each with the reason. All others are damaged by [`any_changed_column_is_named`].
const FREE: &[(&str, &str, &str)] = &[
    ("meta", "deployment", "any text is one; what it salts is a hash of a hash"),
    ("meta", "last_batch", "batches are not stored as such: only that there were any"),
    ("meta", "settled_order", "more than it was: then `waiting` has all open orders just the same"),
    ("instrument", "symbol", "a name"),
    ("instrument", "name", "a name"),
    ("instrument", "kind", "a property of its own"),
    ("account", "name", "a name; its copy in lower case is compared"),
    ("account", "email", "a name"),
    ("account", "pass_hash", "what it is the hash of is not stored"),
    ("account", "since", "a time of its own, earlier than the last one"),
    ("account", "password_due", "a decision of its own"),
    ("order_", "client_order_id", "a name; its hash is compared"),
    ("order_", "received_wall", "the only record of it, earlier than its outcome"),
    ("order_", "received_market", "the only record of it, earlier than its fill"),
    ("order_", "seen", "the only record of it, before its fill"),
    ("order_", "day", "the only record of it"),
    ("order_", "hold", "the price that it was made of is not stored"),
    ("order_", "worker", "a name"),
    ("order_", "worker_time", "what the worker said"),
    ("order_", "worker_sequence", "what the worker said"),
    ("outcome", "wall", "a time of its own, between others"),
    ("outcome", "market", "a time of its own, between others"),
    ("waiting", "reason", "the only record of it"),
    ("waiting", "quantity", "what splits made of it while it was open is not stored otherwise"),
    ("cancel_mark", "client_order_id", "a name"),
    ("cancel_mark", "wall", "a time of its own, earlier than the last one"),
    ("cancel_mark", "market", "a time of its own"),
    ("cancel_mark", "account", "whose name it marks is not stored otherwise"),
    ("journal", "id", "a number that only orders"),
    ("journal", "action", "a number of the price source's"),
    ("journal", "wall", "a time of its own, between others"),
    ("journal", "market", "a time of its own, earlier than the last one"),
    ("session", "key", "the hash of a secret"),
    ("session", "account", "the only record of it"),
    ("session", "expires", "a time of its own"),
    ("session", "expirable", "a decision of its own"),
    ("session", "client", "any address"),
    ("session", "started", "a time of its own"),
    ("session", "used", "a time of its own, later than its start"),
    ("snapshot", "wall", "a time of its own, between others"),
    ("snapshot", "market", "a time of its own, between others"),
    ("snapshot", "day", "a count of its own, between others"),
    ("snapshot", "last_action", "a number of the price source's"),
    ("snapshot", "ended", "what the price source said"),
    ("price", "price", "the price source's, until it says another"),
    ("price", "time", "the price source's, earlier than the last one"),
    ("price", "instrument", "a price of one instrument as good as of another"),
    ("bar", "start", "the price source's"),
    ("bar", "resolution", "the price source's"),
    ("bar", "open", "the price source's, between low and high"),
    ("bar", "high", "the price source's, above the others"),
    ("bar", "low", "the price source's, below the others"),
    ("bar", "close", "the price source's, between low and high"),
    ("bar", "volume", "the price source's"),
    ("worker", "id", "a name"),
    ("worker", "name", "a name"),
    ("worker", "allowed", "the operator's decision"),
    ("worker", "key", "opaque here: the registry reads it at each start"),
    ("worker", "booted", "the operator's decision"),
    ("worker", "booted_until", "the operator's decision"),
    ("worker", "compromised", "the operator's decision"),
    ("exposure", "worker", "it outlives the worker's registration"),
    ("exposure", "account", "the only record of it"),
    ("stolen_key", "fingerprint", "the only record of it"),
];

/// A database that can be damaged.
pub(crate) trait Damaged {
    /// Its tables with their columns, but for what numbers the schema: from its own list.
    fn columns(&self) -> Vec<(String, String)>;

    /// Opens a copy of what [`prepare`] made, after a statement that no constraint hindered. Returns how
    /// many rows it changed, too.
    fn damage(&self, case: usize, sql: &str) -> (u64, Box<dyn Store>);

    /// How bytes are written in SQL.
    fn bytes(&self, hexadecimal: &str) -> String;
}

/// Commits the story whose rows are damaged.
pub(crate) fn prepare(store: &mut dyn Store) {
    let mut trading = Trading::new(41);
    for _ in 0..200 {
        store.commit(&trading.next_batch()).unwrap();
    }
    let history = |instrument| BarRow {
        instrument: InstrumentId(instrument),
        resolution: Resolution::Day,
        bar: Bar { start: MarketTime(0), ..*trading.bars.values().next().unwrap() },
    };
    let history = (1..=INSTRUMENTS).map(history).collect();
    let changes = vec![trading.start_session(), Change::PutBars(history)];
    store.commit(&trading.batch_of(changes)).unwrap();
    store.commit(&trading.leave_orders_open()).unwrap();
    assert_eq!(store.verify().unwrap(), []);
}

/// That any changed row is named.
pub(crate) fn any_changed_row_is_named(database: &dyn Damaged) {
    let (one_byte, sixteen) = (database.bytes("01"), database.bytes(&"00".repeat(16)));
    let two_bars = database.bytes("01020380e0ba84bf03a09c01000000d00f0702000000d00f");
    let bar_between = database.bytes("010103808891bec603a09c01000000d00f");
    let (large, larger) = ((1_i64 << 60).to_string(), (1_i64 << 62).to_string());
    let places = [
        ("{filled}", FILLED),
        ("{sale}", SALE),
        ("{queued}", QUEUED),
        ("{refused}", REFUSED),
        ("{waiting}", WAITING),
        ("{split}", SPLIT),
        ("{grant}", GRANT),
        ("{held}", HELD),
        ("{more_units}", MORE_UNITS),
        ("{dearer}", DEARER),
        ("{first_mark}", FIRST_MARK),
        ("{last_chunk}", LAST_CHUNK),
        ("{one_byte}", &one_byte),
        ("{two_bars}", &two_bars),
        ("{bar_between}", &bar_between),
        ("{sixteen_bytes}", &sixteen),
        ("{large}", &large),
        ("{larger}", &larger),
    ];
    for (case, (seen, words, sql)) in DAMAGE.iter().enumerate() {
        let sql = places.iter().fold((*sql).to_owned(), |sql, (name, row)| sql.replace(name, row));
        let (changed, mut store) = database.damage(case, &sql);
        assert!(changed > 0, "{sql} changes nothing");
        let found = store.verify().unwrap();
        let named = found.iter().any(|mismatch| mismatch.what.contains(words));
        assert!(named, "{sql}\nwanted: {words}\nfound: {found:#?}");
        match (seen, store.load()) {
            (AtLoading, Err(StoreError::Corrupt(_))) | (ByVerifying, Ok(_)) => {}
            (_, Err(error)) => panic!("{sql}\n{seen:?}, but loading says: {error}"),
            (_, Ok(_)) => panic!("{sql}\n{seen:?}, but loading says nothing"),
        }
    }
}

/// That each table is damaged above, and each of its columns below or known to be free: a new one
/// cannot be forgotten.
pub(crate) fn any_changed_column_is_named(database: &dyn Damaged) {
    let columns = database.columns();
    assert!(columns.len() > 100, "{columns:?}");
    for (table, column, reason) in FREE {
        let is_there = columns.iter().any(|(t, c)| (t.as_str(), c.as_str()) == (*table, *column));
        assert!(is_there, "{table}.{column} is free ({reason}), but there is none");
    }
    let mut cases = DAMAGE.len();
    for (table, column) in &columns {
        let verbs = ["UPDATE", "DELETE FROM", "INSERT INTO"].map(|verb| format!("{verb} {table} "));
        let is_damage = |sql: &str| {
            verbs.iter().any(|verb| {
                sql.starts_with(verb.trim_end()) && {
                    let rest = &sql[verb.len() - 1..];
                    rest.is_empty() || rest.starts_with(' ')
                }
            })
        };
        assert!(
            DAMAGE.iter().any(|(_, _, sql)| is_damage(sql)) || table == "stolen_key",
            "table {table} is never damaged; say how verification sees it, or why it cannot"
        );
        if FREE.iter().any(|(t, c, _)| (*t, *c) == (table.as_str(), column.as_str())) {
            continue;
        }
        // One row of which the column says something: a filled order's, where there are such.
        let last = match table.as_str() {
            "order_" | "outcome" => format!("id = {FILLED}"),
            "waiting" => format!("id = {WAITING}"),
            "journal" => format!("id = {SPLIT}"),
            "named_account" => "name = 'market' AND instrument = 1".to_owned(),
            "snapshot" => {
                format!("number = (SELECT snapshot FROM outcome WHERE id = {FILLED})")
            }
            "bar" => "instrument = (SELECT max(instrument) FROM bar)".to_owned(),
            "meta" => "one = 1".to_owned(),
            "balance" => HELD.to_owned(),
            "price" => "instrument = 1".to_owned(),
            "bar_tape" => "number = (SELECT max(number) FROM bar_tape)".to_owned(),
            "bar_chunk" => LAST_CHUNK.to_owned(),
            _ => "id = 1".to_owned(),
        };
        let is_text = matches!(
            (table.as_str(), column.as_str()),
            ("account", "name_key") | ("named_account", "name" | "amount")
        );
        let changed = if is_text { format!("{column} || '-7'") } else { format!("{column} + 97") };
        let changed = match column.as_str() {
            "worker" | "key" | "bars" => database.bytes("01"),
            "positions" => "'[[1,1,1]]'".to_owned(),
            "state" => "3".to_owned(),
            "reason" | "asked" | "side" | "disabled" => format!("coalesce({column}, 0) + 1"),
            "last_wall" => "1".to_owned(),
            _ => changed,
        };
        let sql = format!("UPDATE {table} SET {column} = {changed} WHERE {last}");
        let (rows, mut store) = database.damage(cases, &sql);
        cases += 1;
        assert!(rows > 0, "{sql} changes nothing");
        let found = store.verify().unwrap();
        assert!(!found.is_empty(), "{sql}: nothing is found; is {table}.{column} free?");
        // It says where: the row, or one that contradicts it.
        assert!(found.iter().any(|mismatch| mismatch.table.is_some()), "{sql}: {found:#?}");
    }
}
