//! What verification finds: how much there is, what it adds up to, and every contradiction with the
//! row that it is about.
//!
//! Nothing is read here.

/// What a whole database holds, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Accounts that were compared.
    pub accounts: u64,
    /// Positions that were compared.
    pub positions: u64,
    /// Orders that were read.
    pub orders: u64,
    /// Outcomes that were read.
    pub outcomes: u64,
    /// Orders that were filled, among the outcomes.
    pub fills: u64,
    /// Journal entries that were read: grants, and what splits did.
    pub entries: u64,
    /// Settlements.
    pub snapshots: u64,
    /// Bars of prices.
    pub bars: u64,
    /// In cents, what the entries add up to for all traders; with the three below it is zero.
    pub cash: i128,
    /// The named account *market*.
    pub market: i128,
    /// The named account *grants*.
    pub grants: i128,
    /// The named account *fractions*.
    pub fractions: i128,
    /// What does not agree; empty if the books are right.
    pub mismatches: Vec<Mismatch>,
    /// How many more there are, of which nothing is kept.
    pub more: u64,
}

/// Rows that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// In which table; `None` if the database's own structure is broken.
    pub table: Option<String>,
    /// Whose row it is, where that can be told.
    pub account: Option<u32>,
    /// Which order it is about, where that can be told.
    pub order: Option<u64>,
    /// What does not agree, in words that name the row.
    pub what: String,
}

/// Tables whose rows are named by their order.
const BY_ORDER: [&str; 3] = ["order_", "outcome", "waiting"];
/// Tables whose rows are named by their account first.
const BY_ACCOUNT: [&str; 4] = ["account", "balance", "cancel_mark", "exposure"];

impl Mismatch {
    /// From words that begin with `table NAME, row KEY: `, as all that name a row do.
    pub(crate) fn new(what: String) -> Mismatch {
        let named = what.strip_prefix("table ");
        let table = named.and_then(|rest| rest.split([',', ':']).next()).map(str::to_owned);
        let row = named.and_then(|rest| rest.split_once(", row ")).map(|(_, rest)| rest);
        let key: Option<u64> = row.and_then(|rest| rest.split([',', ':']).next()?.parse().ok());
        let is_of = |tables: &[&str]| table.as_deref().is_some_and(|name| tables.contains(&name));
        let order = key.filter(|_| is_of(&BY_ORDER));
        let account = key.filter(|_| is_of(&BY_ACCOUNT)).and_then(|key| key.try_into().ok());
        Mismatch { table, account, order, what }
    }

    /// The same, of a row that is this account's.
    pub(crate) fn of(self, account: u32) -> Mismatch {
        let what = match self.account {
            Some(_) => self.what,
            None => format!("{} (account {account})", self.what),
        };
        Mismatch { account: Some(account), what, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_found_in_the_words() {
        let place = |words: &str| {
            let Mismatch { table, account, order, .. } = Mismatch::new(words.to_owned());
            (table.unwrap_or_default(), account, order)
        };
        assert_eq!(place("table order_, row 7: hash"), ("order_".into(), None, Some(7)));
        assert_eq!(place("table balance, row 3: cost"), ("balance".into(), Some(3), None));
        assert_eq!(place("table journal, row 5: cash"), ("journal".into(), None, None));
        assert_eq!(place("table meta: last_wall"), ("meta".into(), None, None));
        assert_eq!(place("the file: page 3"), (String::new(), None, None));
        let of = Mismatch::new("table order_, row 7: hash".to_owned()).of(4);
        assert_eq!(
            (of.account, of.what.as_str()),
            (Some(4), "table order_, row 7: hash (account 4)")
        );
    }
}
