//! What a batch writes, as rows: which columns of which table, and whether a row is new, takes the
//! place of another, changes one or deletes one. Each database makes its statements of it.
//!
//! It writes nothing itself. The migrations of each database have the same tables and columns.

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An integer of up to 64 bits.
    Big,
    /// An integer of up to 16 bits.
    Small,
    Text,
    Bytes,
}
use Kind::{Big, Bytes, Small, Text};

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// It is new: one with the same key is a contradiction.
    Insert,
    /// It takes the place of the one with the same key, if there is one.
    Put,
    /// As [`Verb::Put`], but one that says the same is not written.
    PutChanged,
    /// It changes the one with the same key, which must be there.
    Set,
    /// It changes the one with the same key, if that is there and its last column is less.
    Raise,
    /// It names the key of one that must be there and is deleted.
    Delete,
}

/// One way to write a table.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) table: &'static str,
    pub(crate) verb: Verb,
    /// How many columns, the first ones, are the key.
    pub(crate) key: usize,
    pub(crate) columns: &'static [(&'static str, Kind)],
}

impl Shape {
    /// The names of the columns.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.columns.iter().map(|(name, _)| *name)
    }

    /// The names of the key's columns, and of the others.
    pub(crate) fn split(&self) -> (Vec<&'static str>, Vec<&'static str>) {
        let mut key: Vec<_> = self.names().collect();
        let rest = key.split_off(self.key);
        (key, rest)
    }

    /// What follows a plain INSERT of it, so that it takes the place of another.
    pub(crate) fn on_conflict(&self) -> String {
        let (key, rest) = self.split();
        let (key, table) = (key.join(", "), self.table);
        if !matches!(self.verb, Verb::Put | Verb::PutChanged) {
            return String::new();
        }
        if rest.is_empty() {
            return format!("ON CONFLICT ({key}) DO NOTHING");
        }
        let set: Vec<String> =
            rest.iter().map(|name| format!("{name} = excluded.{name}")).collect();
        let mut sql = format!("ON CONFLICT ({key}) DO UPDATE SET {}", set.join(", "));
        if self.verb == Verb::PutChanged {
            let is_other = |name: &&str| format!("{table}.{name} <> excluded.{name}");
            let differs: Vec<String> = rest.iter().map(is_other).collect();
            sql.push_str(&format!(" WHERE {}", differs.join(" OR ")));
        }
        sql
    }
}

/// All ways in which a batch writes rows, parents before the rows that refer to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rows {
    Instrument,
    Account,
    Balance,
    Owned,
    Order,
    /// Of an order that a settlement filled as it was asked: nearly all.
    Fill,
    Outcome,
    CancelMark,
    /// Why an order waits, and what is asked now.
    Wait,
    /// What is asked now, whyever it waits.
    Rescale,
    WaitEnd,
    Journal,
    Price,
    NamedAccount,
    Bar,
    Tape,
    TapeEnd,
    Chunk,
    SessionStart,
    SessionUse,
    SessionEnd,
    Exposure,
}

impl Rows {
    /// How many ways there are.
    pub(crate) const COUNT: usize = Rows::Exposure as usize + 1;

    /// What it writes.
    pub(crate) fn shape(self) -> &'static Shape {
        &SHAPES[self as usize]
    }
}

const fn insert(table: &'static str, columns: &'static [(&'static str, Kind)]) -> Shape {
    Shape { table, verb: Verb::Insert, key: 1, columns }
}

const fn by_key(
    table: &'static str,
    verb: Verb,
    key: usize,
    columns: &'static [(&'static str, Kind)],
) -> Shape {
    Shape { table, verb, key, columns }
}

/// In the order of [`Rows`].
static SHAPES: [Shape; Rows::COUNT] = [
    insert("instrument", &[("id", Big), ("symbol", Text), ("name", Text), ("kind", Small)]),
    insert(
        "account",
        &[
            ("id", Big),
            ("name", Text),
            ("name_key", Text),
            ("email", Text),
            ("pass_hash", Text),
            ("since", Big),
            ("disabled", Small),
            ("password_due", Small),
        ],
    ),
    insert("balance", &[("account", Big), ("cash", Big), ("granted", Big)]),
    by_key(
        "balance",
        Verb::Set,
        1,
        &[("account", Big), ("cash", Big), ("snapshot", Big), ("positions", Text)],
    ),
    insert(
        "order_",
        &[
            ("id", Big),
            ("account", Big),
            ("client_order_id", Text),
            ("side", Small),
            ("instrument", Big),
            ("quantity", Big),
            ("hold", Big),
            ("received_wall", Big),
            ("received_market", Big),
            ("seen", Big),
            ("day", Big),
            ("worker", Bytes),
            ("worker_time", Big),
            ("worker_sequence", Big),
            ("hash", Big),
        ],
    ),
    by_key(
        "outcome",
        Verb::Insert,
        4,
        &[
            ("generation", Big),
            ("account", Big),
            ("hash", Big),
            ("id", Big),
            ("state", Small),
            ("quantity", Big),
            ("price", Big),
            ("amount", Big),
            ("basis", Big),
            ("snapshot", Big),
        ],
    ),
    by_key(
        "outcome",
        Verb::Insert,
        4,
        &[
            ("generation", Big),
            ("account", Big),
            ("hash", Big),
            ("id", Big),
            ("state", Small),
            ("reason", Small),
            ("asked", Big),
            ("quantity", Big),
            ("price", Big),
            ("amount", Big),
            ("basis", Big),
            ("snapshot", Big),
            ("wall", Big),
            ("market", Big),
        ],
    ),
    insert(
        "cancel_mark",
        &[("account", Big), ("client_order_id", Text), ("wall", Big), ("market", Big)],
    ),
    by_key("waiting", Verb::Put, 1, &[("id", Big), ("quantity", Big), ("reason", Small)]),
    by_key("waiting", Verb::Put, 1, &[("id", Big), ("quantity", Big)]),
    by_key("waiting", Verb::Delete, 1, &[("id", Big)]),
    insert(
        "journal",
        &[
            ("account", Big),
            ("kind", Small),
            ("instrument", Big),
            ("action", Big),
            ("snapshot", Big),
            ("quantity", Big),
            ("cash", Big),
            ("wall", Big),
            ("market", Big),
        ],
    ),
    by_key("price", Verb::Put, 1, &[("instrument", Big), ("price", Big), ("time", Big)]),
    by_key(
        "named_account",
        Verb::PutChanged,
        2,
        &[("name", Text), ("instrument", Big), ("amount", Text)],
    ),
    by_key(
        "bar",
        Verb::Put,
        3,
        &[
            ("instrument", Big),
            ("resolution", Small),
            ("start", Big),
            ("open", Big),
            ("high", Big),
            ("low", Big),
            ("close", Big),
            ("volume", Big),
        ],
    ),
    insert("bar_tape", &[("number", Big), ("bars", Bytes)]),
    by_key("bar_tape", Verb::Delete, 1, &[("number", Big)]),
    by_key(
        "bar_chunk",
        Verb::Put,
        3,
        &[
            ("instrument", Big),
            ("resolution", Small),
            ("first", Big),
            ("last", Big),
            ("bars", Bytes),
        ],
    ),
    insert(
        "session",
        &[
            ("key", Bytes),
            ("account", Big),
            ("expires", Big),
            ("expirable", Small),
            ("client", Text),
            ("started", Big),
            ("used", Big),
        ],
    ),
    by_key("session", Verb::Raise, 1, &[("key", Bytes), ("used", Big)]),
    by_key("session", Verb::Delete, 1, &[("key", Bytes)]),
    by_key("exposure", Verb::Put, 2, &[("account", Big), ("worker", Bytes)]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_rows_has_its_own_shape() {
        let shape = |rows: Rows| (rows.shape().table, rows.shape().verb);
        assert_eq!(shape(Rows::Instrument), ("instrument", Verb::Insert));
        assert_eq!(shape(Rows::Owned), ("balance", Verb::Set));
        assert_eq!(shape(Rows::Outcome), ("outcome", Verb::Insert));
        assert_eq!(shape(Rows::Rescale), ("waiting", Verb::Put));
        assert_eq!(shape(Rows::WaitEnd), ("waiting", Verb::Delete));
        assert_eq!(shape(Rows::Journal), ("journal", Verb::Insert));
        assert_eq!(shape(Rows::TapeEnd), ("bar_tape", Verb::Delete));
        assert_eq!(shape(Rows::NamedAccount), ("named_account", Verb::PutChanged));
        assert_eq!(shape(Rows::SessionUse), ("session", Verb::Raise));
        assert_eq!(shape(Rows::Exposure), ("exposure", Verb::Put));
    }

    #[test]
    fn a_row_that_takes_anothers_place_says_how() {
        assert_eq!(Rows::Order.shape().on_conflict(), "");
        assert_eq!(
            Rows::Exposure.shape().on_conflict(),
            "ON CONFLICT (account, worker) DO NOTHING"
        );
        assert_eq!(
            Rows::Rescale.shape().on_conflict(),
            "ON CONFLICT (id) DO UPDATE SET quantity = excluded.quantity"
        );
        assert_eq!(
            Rows::NamedAccount.shape().on_conflict(),
            "ON CONFLICT (name, instrument) DO UPDATE SET amount = excluded.amount \
             WHERE named_account.amount <> excluded.amount"
        );
    }
}
