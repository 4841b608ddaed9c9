//! What an account owns, in one column of its balance: `[[instrument,quantity,cost],…]`, by instrument,
//! without spaces. As JSON, any database can read it (the view `position` does).
//!
//! Invariant: what is written is read as the same; what no account can have is refused.

use papertrader_core::account::{Account, Position};
use papertrader_core::ids::InstrumentId;
use papertrader_core::money::{Cash, Quantity};

/// A position as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) instrument: InstrumentId,
    pub(crate) quantity: Quantity,
    pub(crate) cost: Cash,
}

/// All positions of an account.
pub(crate) fn of(account: &Account) -> Box<[Held]> {
    let held = |position: &Position| Held {
        instrument: position.instrument,
        quantity: position.quantity,
        cost: position.cost,
    };
    account.positions.iter().map(held).collect()
}

/// Writes positions over what is in `text`.
pub(crate) fn write(held: &[Held], text: &mut String) {
    text.clear();
    text.push('[');
    for (n, held) in held.iter().enumerate() {
        if n > 0 {
            text.push(',');
        }
        let mut number = itoa::Buffer::new();
        text.push('[');
        text.push_str(number.format(held.instrument.0));
        text.push(',');
        text.push_str(number.format(held.quantity.raw()));
        text.push(',');
        text.push_str(number.format(held.cost.cents()));
        text.push(']');
    }
    text.push(']');
}

/// Reads positions; says what is wrong with one that no account can have.
pub(crate) fn read(text: &str) -> Result<Vec<Position>, String> {
    let read = || "positions is not a list of instrument, quantity and cost".to_owned();
    let rows: Vec<(u32, i64, i64)> = serde_json::from_str(text).map_err(|_| read())?;
    let mut positions = Vec::<Position>::with_capacity(rows.len());
    for (instrument, quantity, cost) in rows {
        if positions.last().is_some_and(|before| before.instrument.0 >= instrument) {
            return Err(format!("positions has {instrument} twice, or not in its place"));
        }
        if quantity <= 0 {
            return Err(format!("of instrument {instrument} the quantity is not positive"));
        }
        if cost < 0 {
            return Err(format!("of instrument {instrument} the cost is negative"));
        }
        positions.push(Position {
            instrument: InstrumentId(instrument),
            quantity: Quantity::from_raw(quantity),
            held: Quantity::ZERO,
            cost: Cash::from_cents(cost),
        });
    }
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(held: &[Held]) -> String {
        let mut text = "what was there before".to_owned();
        write(held, &mut text);
        text
    }

    #[test]
    fn what_is_written_is_read_again() {
        assert_eq!(written(&[]), "[]");
        assert_eq!(read("[]"), Ok(Vec::new()));
        let held = |instrument, quantity, cost| Held {
            instrument: InstrumentId(instrument),
            quantity: Quantity::from_raw(quantity),
            cost: Cash::from_cents(cost),
        };
        let all = [held(1, 1, 0), held(2, i64::MAX, i64::MAX), held(u32::MAX, 100_000_000, 5)];
        let text = written(&all);
        let largest = i64::MAX;
        assert_eq!(text, format!("[[1,1,0],[2,{largest},{largest}],[4294967295,100000000,5]]"));
        let account = Account { positions: read(&text).unwrap(), ..Account::default() };
        assert_eq!(*of(&account), all);
    }

    #[test]
    fn what_no_account_has_is_refused() {
        for (text, words) in [
            ("", "not a list"),
            ("[[1,1]]", "not a list"),
            ("[[1,1,1,1]]", "not a list"),
            ("[[1,1.5,1]]", "not a list"),
            ("[[-1,1,1]]", "not a list"),
            ("[[1,9223372036854775808,1]]", "not a list"),
            ("[[1,1,1]] x", "not a list"),
            ("[[2,1,1],[2,1,1]]", "twice"),
            ("[[2,1,1],[1,1,1]]", "not in its place"),
            ("[[1,0,0]]", "not positive"),
            ("[[1,-1,0]]", "not positive"),
            ("[[1,1,-1]]", "negative"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
