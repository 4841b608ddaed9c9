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

/// Bytes of a position, mostly.
const USUAL: usize = 32;
/// The fewest bytes of a position: `[1,1,0]`.
const SHORTEST: usize = 7;

/// Positions as they are written.
pub(crate) fn written(held: &[Held]) -> String {
    let mut text = String::with_capacity(2 + USUAL * held.len());
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
    text
}

/// Reads positions; says what is wrong with one that no account can have.
///
/// It takes the one form that [`written`] gives: a start reads millions of them.
pub(crate) fn read(text: &str) -> Result<Vec<Position>, String> {
    let form = || "positions is not a list of instrument, quantity and cost".to_owned();
    let mut rest = Text(text.as_bytes());
    // Each position begins with a bracket, after that of the list.
    let count = text.bytes().filter(|byte| *byte == b'[').count().saturating_sub(1);
    if count > text.len() / SHORTEST {
        return Err(form());
    }
    let mut positions = Vec::<Position>::with_capacity(count);
    rest.take(b'[').ok_or_else(form)?;
    for n in 0..count {
        let (instrument, quantity, cost) = rest.triple(n > 0).ok_or_else(form)?;
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
    rest.take(b']').ok_or_else(form)?;
    if rest.0.is_empty() { Ok(positions) } else { Err(form()) }
}

/// What is still to be read.
struct Text<'a>(&'a [u8]);

impl Text<'_> {
    fn take(&mut self, byte: u8) -> Option<()> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        (*first == byte).then_some(())
    }

    fn number(&mut self) -> Option<i64> {
        let is_negative = self.0.first() == Some(&b'-');
        if is_negative {
            self.0 = &self.0[1..];
        }
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.0.split_at(digits);
        self.0 = rest;
        let add = |sum: i64, digit: &u8| {
            let digit = i64::from(digit - b'0');
            sum.checked_mul(10)?.checked_add(if is_negative { -digit } else { digit })
        };
        match number {
            // As JSON has it: no number but zero begins with it, and zero has no sign.
            [] | [b'0', _, ..] => None,
            [b'0'] if is_negative => None,
            _ => number.iter().try_fold(0, add),
        }
    }

    fn triple(&mut self, has_one_before: bool) -> Option<(u32, i64, i64)> {
        if has_one_before {
            self.take(b',')?;
        }
        self.take(b'[')?;
        let instrument = u32::try_from(self.number()?).ok()?;
        self.take(b',')?;
        let quantity = self.number()?;
        self.take(b',')?;
        let cost = self.number()?;
        self.take(b']')?;
        Some((instrument, quantity, cost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("[", "not a list"),
            ("]", "not a list"),
            ("[[", "not a list"),
            ("[[1,1,1]", "not a list"),
            ("[[1,1,1][2,1,1]]", "not a list"),
            ("[,[1,1,1]]", "not a list"),
            ("[[1,1,1],]", "not a list"),
            ("[[1,1,]]", "not a list"),
            ("[[1,1,--1]]", "not a list"),
            ("[[1,1,9223372036854775808]]", "not a list"),
            ("[[4294967296,1,1]]", "not a list"),
            ("[[1, 1, 1]]", "not a list"),
            ("[[01,1,1]]", "not a list"),
            ("[[1,007,1]]", "not a list"),
            ("[[1,1,-0]]", "not a list"),
            ("[[[[[[[[[[[[[[[[", "not a list"),
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
