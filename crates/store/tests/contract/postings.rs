//! The view of postings, which the program itself never reads, is the double entry.

use papertrader_core::ids::{AccountId, InstrumentId};
use papertrader_core::ledger::{Asset, LedgerAccount, Posting, fill_postings};
use papertrader_core::order::OrderState;

use super::{Backend, trade};

/// A row of the view of postings: account, named account, instrument and amount.
pub(crate) type PostingRow = (Option<i64>, Option<String>, Option<i64>, i64);

/// That the rows of a database's view of postings are the double entry. `ask` gives them, after a
/// story's batches.
pub(crate) fn the_view_of_postings_is_the_double_entry(
    backend: &dyn Backend,
    ask: impl Fn(&str) -> Vec<PostingRow>,
) {
    let mut store = backend.open("one");
    let trading = trade(&mut *store, 31, 300);
    let mut expected: Vec<Posting> = Vec::new();
    for record in trading.records.values() {
        if let OrderState::Filled(fill) = &record.state {
            let request = &record.order.request;
            let (account, instrument) = (request.account, request.instrument);
            expected.extend(fill_postings(account, request.side, instrument, fill));
        }
    }
    for (entry, _) in &trading.journal {
        expected.extend(entry.postings());
    }
    assert!(expected.len() > 500);
    let posting = |(account, named, instrument, amount): PostingRow| {
        let account = match (account, named.as_deref()) {
            (Some(id), None) => LedgerAccount::Trader(AccountId(id as u32)),
            (None, Some("market")) => LedgerAccount::Market,
            (None, Some("grants")) => LedgerAccount::Grants,
            (None, Some("fractions")) => LedgerAccount::Fractions,
            other => panic!("a posting of {other:?}"),
        };
        let asset = instrument.map_or(Asset::Cash, |id| Asset::Instrument(InstrumentId(id as u32)));
        Posting { account, asset, amount }
    };
    let rows = ask("SELECT account, named, instrument, amount FROM posting");
    let mut found: Vec<Posting> = rows.into_iter().map(posting).collect();
    let key = |posting: &Posting| (posting.account, posting.asset, posting.amount);
    found.sort_by_key(key);
    expected.sort_by_key(key);
    assert_eq!(found, expected);
    // Each entry for itself sums to zero in each asset.
    let sql = "SELECT CAST(NULL AS BIGINT), source, source_id, CAST(sum(amount) AS BIGINT)
               FROM posting GROUP BY source, source_id, instrument HAVING sum(amount) <> 0";
    assert_eq!(ask(sql), []);
}
