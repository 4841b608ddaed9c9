//! Damage: any row that is changed past the program is named by verification, and what cannot be
//! understood is refused at loading.

use papertrader_store::{Store, StoreError};

use super::trading::Trading;

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
const HELD: &str = "account = (SELECT min(account) FROM position) AND instrument = \
                    (SELECT min(instrument) FROM position WHERE account = \
                    (SELECT min(account) FROM position))";

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
    (AtLoading, "account 1: cash is", "UPDATE balance SET cash = cash + 1 WHERE account = 1"),
    (
        AtLoading,
        "table account, row 1: cash is negative",
        "UPDATE balance SET cash = -1 WHERE account = 1",
    ),
    (
        ByVerifying,
        "account 1: granted is",
        "UPDATE balance SET granted = granted + 1 WHERE account = 1",
    ),
    (AtLoading, "table account, row 1: name", "UPDATE account SET name = '' WHERE id = 1"),
    (AtLoading, "table account, row 1: name_key", "UPDATE account SET name_key = 'x' WHERE id = 1"),
    (AtLoading, "table account, row 1: email", "UPDATE account SET email = 'x' WHERE id = 1"),
    (AtLoading, "table account, row 1: disabled", "UPDATE account SET disabled = 2 WHERE id = 1"),
    (ByVerifying, "table meta: last_wall", "UPDATE account SET since = {large} WHERE id = 1"),
    (AtLoading, "table account, row 3: account 2 is missing", "DELETE FROM account WHERE id = 2"),
    (AtLoading, "quantity is", "UPDATE position SET quantity = quantity + 1 WHERE {held}"),
    (ByVerifying, "cost is", "UPDATE position SET cost = cost + 1 WHERE {held}"),
    (AtLoading, "cost is negative", "UPDATE position SET cost = -1 WHERE {held}"),
    (AtLoading, "there is no position", "DELETE FROM position WHERE {held}"),
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
    (ByVerifying, "quantity is", "UPDATE outcome SET quantity = quantity + 1 WHERE id = {filled}"),
    (
        ByVerifying,
        "units of instrument",
        "UPDATE outcome SET quantity = quantity + 1 WHERE id = {filled}",
    ),
    (ByVerifying, "cost", "UPDATE outcome SET basis = basis + 1 WHERE id = {sale}"),
    (
        ByVerifying,
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
    (ByVerifying, "table waiting: it lacks order", "DELETE FROM waiting WHERE id = {waiting}"),
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
    (ByVerifying, "it lacks order", "DELETE FROM outcome WHERE id = {filled}"),
    (
        ByVerifying,
        "it belongs to nothing",
        "UPDATE outcome SET hash = hash - 1 WHERE id = {filled}",
    ),
    (ByVerifying, "it belongs to nothing", "UPDATE outcome SET generation = 7 WHERE id = {filled}"),
    (ByVerifying, "hash is not", "UPDATE order_ SET hash = hash - 1 WHERE id = {filled}"),
    (AtLoading, "cash is missing", "DELETE FROM balance WHERE account = 1"),
    (ByVerifying, "table balance, row 99: it belongs", "INSERT INTO balance VALUES (99, 0, 0)"),
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
    (ByVerifying, "named account grants", "UPDATE journal SET cash = cash + 1 WHERE id = {grant}"),
    (
        ByVerifying,
        "named account fractions",
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
        "named account market: cash",
        "UPDATE named_account SET amount = '7' WHERE name = 'market' AND instrument = 0",
    ),
    (
        AtLoading,
        "named account market: units of instrument 1",
        "UPDATE named_account SET amount = '7' WHERE name = 'market' AND instrument = 1",
    ),
    (
        AtLoading,
        "table named_account, row grants, 0: amount",
        "UPDATE named_account SET amount = 'x' WHERE name = 'grants'",
    ),
    (AtLoading, "table named_account", "DELETE FROM named_account WHERE name = 'fractions'"),
];

/// A database that can be damaged.
pub(crate) trait Damaged {
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
    let changes = vec![trading.start_session()];
    store.commit(&trading.batch_of(changes)).unwrap();
    store.commit(&trading.leave_orders_open()).unwrap();
    assert_eq!(store.verify().unwrap(), []);
}

/// That any changed row is named.
pub(crate) fn any_changed_row_is_named(database: &dyn Damaged) {
    let (one_byte, sixteen) = (database.bytes("01"), database.bytes(&"00".repeat(16)));
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
        ("{first_mark}", FIRST_MARK),
        ("{one_byte}", &one_byte),
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
