//! What is asked of each server, and what its answers must be: quotes of a worker, values of a Redis,
//! and bytes of the same sizes from a server that only sends them back.
//!
//! Invariant: an answer that is not the one to the oldest open question of its connection is an
//! error. What a quote says is looked up at every hundredth, and computed a second time.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::rc::Rc;

use papertrader_core::names::Symbol;
use papertrader_protocol::data::AssetValue;
use papertrader_protocol::frame::{HEADER, glance, set_request};
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Frame, Header, Instruction, SessionId};

use crate::bench::prices::Expected;
use crate::bench::{BenchError, wrong};

/// How many answers there are for each one that is looked at closely.
const EACH: u64 = 100;
/// Bytes of a key and of its value in Redis: a value is about as long as a quote.
const KEY: usize = 16;
const VALUE: usize = 48;
const REDIS_REPLY: usize = 5 + VALUE + 2;

/// One connection's questions and answers.
pub(super) trait Talk {
    /// Appends the next question.
    fn ask(&mut self, out: &mut Vec<u8>);

    /// Takes the answer at the start of `input`, and says how long it is; `None` if it is not whole.
    fn hear(&mut self, input: &[u8]) -> Result<Option<usize>, BenchError>;
}

/// Which of `count` things a connection asks for in its question `number`.
fn choice(seed: u64, number: u64, count: usize) -> usize {
    let mut mixed = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    // The high bits are spread over `count`.
    ((u128::from(mixed ^ (mixed >> 31)) * count as u128) >> 64) as usize
}

/// Asks a worker for quotes, under a session.
pub(super) struct Quotes {
    seed: u64,
    symbols: Rc<[Symbol]>,
    /// The header of a question with no data.
    header: Vec<u8>,
    asked: u64,
    heard: u64,
    /// The snapshot of the last answer that was looked at.
    snapshot: u64,
    /// How many different snapshots were seen.
    pub(super) snapshots: u64,
    pub(super) checked: u64,
    expected: Rc<RefCell<Expected>>,
}

impl Quotes {
    pub(super) fn new(
        seed: u64,
        symbols: Rc<[Symbol]>,
        session: SessionId,
        expected: Rc<RefCell<Expected>>,
    ) -> Quotes {
        let instruction = Instruction::GetAssetValueCurrent;
        let mut header = Header::new(instruction.message_type(), instruction as u16, 0);
        header.argument_count = 1;
        header.session = session;
        let mut encoded = Vec::with_capacity(HEADER);
        header.encode(&[], &mut encoded);
        Quotes {
            seed,
            symbols,
            header: encoded,
            asked: 0,
            heard: 0,
            snapshot: 0,
            snapshots: 0,
            checked: 0,
            expected,
        }
    }

    fn check(&mut self, data: &[u8]) -> Result<(), BenchError> {
        let index = choice(self.seed, self.heard, self.symbols.len());
        let symbol = self.symbols.get(index).copied();
        let value = AssetValue::from_bytes(data).map_err(wrong)?;
        let expected = self.expected.borrow_mut().price(index, value.time)?;
        if Some(value.symbol) != symbol || Some(value.price) != expected {
            return Err(wrong(format!("a wrong quote: {value:?} for {symbol:?} at {expected:?}")));
        }
        if value.snapshot < self.snapshot {
            return Err(wrong("a quote of an earlier snapshot than the one before it"));
        }
        self.snapshots += u64::from(value.snapshot > self.snapshot);
        self.snapshot = value.snapshot;
        self.checked += 1;
        Ok(())
    }
}

impl Talk for Quotes {
    fn ask(&mut self, out: &mut Vec<u8>) {
        self.asked += 1;
        let index = choice(self.seed, self.asked, self.symbols.len());
        let symbol: &[u8] = self.symbols.get(index).map_or(&[], Borrow::borrow);
        let start = out.len();
        out.extend_from_slice(&self.header);
        out.extend_from_slice(symbol);
        // As Header::encode has it, which makes the rest anew each time.
        out[start + 4..start + 8].copy_from_slice(&(symbol.len() as u32).to_be_bytes());
        set_request(&mut out[start..], self.asked);
    }

    fn hear(&mut self, input: &[u8]) -> Result<Option<usize>, BenchError> {
        let data = Instruction::Data;
        let Some(answer) = glance(input, data.message_type(), data as u16, 0) else {
            // It may not be whole.
            let Some((frame, _)) = Frame::decode(input).map_err(wrong)? else { return Ok(None) };
            let words = String::from_utf8_lossy(frame.data);
            return Err(wrong(format!(
                "{} to question {}: {words}",
                frame.header.instruction,
                self.heard + 1
            )));
        };
        self.heard += 1;
        if answer.request != self.heard {
            return Err(wrong(format!("not the answer to question {}", self.heard)));
        }
        if self.heard % EACH == 1 {
            self.check(answer.data)?;
        }
        Ok(Some(answer.used))
    }
}

/// Asks a Redis for values that [`fill_redis`] has put there.
pub(super) struct Values {
    seed: u64,
    keys: usize,
    asked: u64,
    heard: u64,
}

impl Values {
    pub(super) fn new(seed: u64, keys: usize) -> Values {
        Values { seed, keys, asked: 0, heard: 0 }
    }
}

fn put_key(index: usize, out: &mut Vec<u8>) {
    let mut key = *b"key:000000000000";
    let mut left = index;
    for digit in key.iter_mut().rev().take(KEY - 4) {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
    out.extend_from_slice(&key);
}

fn put_value(index: usize, out: &mut Vec<u8>) {
    let end = out.len() + VALUE;
    put_key(index, out);
    out.resize(end, b'.');
}

/// The commands that put the values of so many keys there.
pub(super) fn fill_redis(keys: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for index in 0..keys {
        out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$16\r\n");
        put_key(index, &mut out);
        out.extend_from_slice(b"\r\n$48\r\n");
        put_value(index, &mut out);
        out.extend_from_slice(b"\r\n");
    }
    out
}

impl Talk for Values {
    fn ask(&mut self, out: &mut Vec<u8>) {
        self.asked += 1;
        out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n$16\r\n");
        put_key(choice(self.seed, self.asked, self.keys), out);
        out.extend_from_slice(b"\r\n");
    }

    fn hear(&mut self, input: &[u8]) -> Result<Option<usize>, BenchError> {
        let Some(reply) = input.get(..REDIS_REPLY) else {
            let is_other = !b"$48\r\n".starts_with(&input[..input.len().min(5)]);
            return if is_other { Err(not_redis(input)) } else { Ok(None) };
        };
        self.heard += 1;
        if !reply.starts_with(b"$48\r\n") {
            return Err(not_redis(reply));
        }
        if self.heard % EACH == 1 {
            let mut expected = Vec::with_capacity(VALUE);
            put_value(choice(self.seed, self.heard, self.keys), &mut expected);
            if reply.get(5..5 + VALUE) != Some(&expected[..]) {
                return Err(wrong("Redis gave another value"));
            }
        }
        Ok(Some(REDIS_REPLY))
    }
}

fn not_redis(input: &[u8]) -> BenchError {
    wrong(format!("Redis said: {}", String::from_utf8_lossy(&input[..input.len().min(80)])))
}

/// Bytes of a question and an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) question: usize,
    pub(super) answer: usize,
}

/// Asks a server that sends eight bytes back and adds as many as an answer has.
pub(super) struct Echoes {
    sizes: Sizes,
    asked: u64,
    heard: u64,
}

impl Echoes {
    pub(super) fn new(sizes: Sizes) -> Echoes {
        Echoes { sizes, asked: 0, heard: 0 }
    }
}

impl Talk for Echoes {
    fn ask(&mut self, out: &mut Vec<u8>) {
        self.asked += 1;
        let end = out.len() + self.sizes.question;
        out.extend_from_slice(&self.asked.to_be_bytes());
        out.resize(end, 0);
    }

    fn hear(&mut self, input: &[u8]) -> Result<Option<usize>, BenchError> {
        let Some(reply) = input.get(..self.sizes.answer) else { return Ok(None) };
        self.heard += 1;
        if !reply.starts_with(&self.heard.to_be_bytes()) {
            return Err(wrong("an echo that is none"));
        }
        Ok(Some(self.sizes.answer))
    }
}

#[cfg(test)]
mod tests {
    use papertrader_core::money::Price;
    use papertrader_core::time::MarketTime;
    use papertrader_market::PriceSource;

    use super::*;
    use crate::bench::deployment;

    fn quotes() -> (Quotes, Expected) {
        let expected = || Expected::new(deployment::source(10).unwrap());
        let specs = expected();
        let symbols = specs.source.instruments().iter().map(|spec| spec.symbol).collect();
        let shared = Rc::new(RefCell::new(expected()));
        (Quotes::new(1, symbols, SessionId::from_bytes([1; 16]), shared), specs)
    }

    fn answer(quotes: &Quotes, expected: &mut Expected, number: u64, change: i64) -> Vec<u8> {
        let index = choice(quotes.seed, number, quotes.symbols.len());
        let time = MarketTime(expected.source.start().0 + expected.source.interval());
        let price = expected.price(index, time).unwrap().unwrap();
        let value = AssetValue {
            symbol: quotes.symbols[index],
            price: Price::from_raw(price.raw() + change).unwrap(),
            time,
            previous_close: None,
            snapshot: 3,
            market: time,
        };
        let mut out = Vec::new();
        let instruction = Instruction::Data;
        let header = Header::new(instruction.message_type(), instruction as u16, number);
        header.encode(&value.to_bytes(), &mut out);
        out
    }

    #[test]
    fn a_quote_must_be_the_answer_and_right() {
        let (mut quotes, mut expected) = quotes();
        let right = answer(&quotes, &mut expected, 1, 0);
        assert_eq!(quotes.hear(&right[..right.len() - 1]).unwrap(), None);
        assert_eq!(quotes.hear(&right).unwrap(), Some(right.len()));
        assert_eq!((quotes.checked, quotes.snapshots), (1, 1));
        let late = answer(&quotes, &mut expected, 3, 0);
        assert!(quotes.hear(&late).is_err(), "the answer to another question");
        let (mut quotes, mut expected) = self::quotes();
        let wrong = answer(&quotes, &mut expected, 1, 1);
        assert!(quotes.hear(&wrong).is_err(), "another price");
    }

    #[test]
    fn a_redis_must_give_the_value_of_the_key() {
        let mut values = Values::new(7, 500);
        let mut asked = Vec::new();
        values.ask(&mut asked);
        let index = choice(7, 1, 500);
        let mut reply = b"$48\r\n".to_vec();
        put_value(index, &mut reply);
        reply.extend_from_slice(b"\r\n");
        assert_eq!(values.hear(&reply[..9]).unwrap(), None);
        assert_eq!(values.hear(&reply).unwrap(), Some(REDIS_REPLY));
        assert!(asked.ends_with(&[&reply[5..5 + KEY], b"\r\n"].concat()));
        assert!(Values::new(7, 500).hear(b"$-1\r\n").is_err());
        let mut other = b"$48\r\n".to_vec();
        put_value(index + 1, &mut other);
        other.extend_from_slice(b"\r\n");
        assert!(Values::new(7, 500).hear(&other).is_err());
    }

    #[test]
    fn an_echo_must_be_of_its_question() {
        let mut echoes = Echoes::new(Sizes { question: 47, answer: 90 });
        let mut asked = Vec::new();
        echoes.ask(&mut asked);
        assert_eq!(asked.len(), 47);
        let mut reply = asked[..8].to_vec();
        reply.resize(90, 0);
        assert_eq!(echoes.hear(&reply).unwrap(), Some(90));
        assert!(echoes.hear(&reply).is_err());
    }
}
