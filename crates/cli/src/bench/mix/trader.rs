//! The users of the mix: each connection is one user's until that one logs out, and then the next one's,
//! who goes on with a session that was stored before.
//!
//! Users trade the five instruments that they began with, as many units at a time as they have. Invariant: every
//! answer is the one to its request; what every hundredth says is looked at.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use papertrader_core::ids::AccountId;
use papertrader_core::names::Symbol;
use papertrader_protocol::data::{AssetValue, Portfolio, UserInfo};
use papertrader_protocol::returns::Return;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Frame, Instruction, SessionId};

use super::load::{Actor, Heard};
use super::operation::{MIX, Operation, choose};
use super::talk::{Answer, Talk};
use crate::bench::market::{OWNED, owned_by};
use crate::bench::order_id::put_id;
use crate::bench::prices::Expected;
use crate::bench::stream::Opened;
use crate::bench::{BenchError, wrong};

/// How many answers there are for each one that is looked at closely.
const EACH: u64 = 100;
/// Units of each of its instruments that an account begins with.
const UNITS: u32 = 100;
/// The most units of an order.
const MOST: u64 = 10;

/// What all connections share.
pub(super) struct World {
    symbols: Vec<Symbol>,
    /// In the order in which they are used.
    sessions: Vec<(AccountId, SessionId)>,
    used: Cell<usize>,
    /// Units that each account can sell.
    units: RefCell<Vec<[u32; OWNED as usize]>>,
    expected: RefCell<Expected>,
    start: Instant,
    /// The wall time of the start, in nanoseconds.
    start_wall: i64,
    pub(super) checked: Cell<u64>,
}

impl World {
    pub(super) fn new(
        symbols: Vec<Symbol>,
        sessions: Vec<(AccountId, SessionId)>,
        accounts: u32,
        expected: Expected,
        start_wall: i64,
    ) -> World {
        World {
            symbols,
            sessions,
            used: Cell::new(0),
            units: RefCell::new(vec![[UNITS; OWNED as usize]; accounts as usize + 1]),
            expected: RefCell::new(expected),
            start: Instant::now(),
            start_wall,
            checked: Cell::new(0),
        }
    }

    fn next_session(&self) -> Result<(AccountId, SessionId), BenchError> {
        let next = self.used.get();
        self.used.set(next + 1);
        self.sessions.get(next).copied().ok_or_else(|| {
            let problem = "is too long for the sessions that were stored before".into();
            BenchError::Option { name: "--time", problem }
        })
    }

    fn symbol(&self, account: AccountId, nth: usize) -> Result<Symbol, BenchError> {
        let count = u32::try_from(self.symbols.len()).unwrap_or(u32::MAX);
        let id = owned_by(account, nth as u64, count);
        self.symbols.get(id.0 as usize - 1).copied().ok_or_else(|| wrong("no such instrument"))
    }

    fn change(&self, account: AccountId, nth: usize, change: impl FnOnce(u32) -> u32) {
        let mut units = self.units.borrow_mut();
        if let Some(units) = units.get_mut(account.0 as usize).and_then(|all| all.get_mut(nth)) {
            *units = change(*units);
        }
    }
}

/// What is known of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    Sent,
    Queued,
    Filled,
    /// It was queued, and then not filled.
    Failed,
    /// It was never queued.
    Refused,
}

/// An order that was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) account: AccountId,
    /// Microseconds since the start.
    at: u32,
    nth: u8,
    units: u8,
    is_sale: bool,
    pub(super) known: Known,
}

/// The user of a connection.
pub(super) struct Trader {
    number: usize,
    world: Rc<World>,
    talk: Talk,
    account: AccountId,
    name: String,
    session: SessionId,
    operation: Operation,
    /// Whether the next session was asked for.
    is_entering: bool,
    refused: Option<String>,
    /// What the quote that is under way is of.
    quoted: usize,
    /// The number of the request for it, and of the last order.
    request: u64,
    pub(super) sent: Vec<Sent>,
    /// Orders without an outcome, by the number of their request.
    open: HashMap<u64, usize>,
    random: u64,
    heard: u64,
}

impl Trader {
    pub(super) fn new(number: usize, seed: u64, world: &Rc<World>) -> Trader {
        Trader {
            number,
            world: Rc::clone(world),
            talk: Talk::new(),
            account: AccountId(0),
            name: String::new(),
            session: SessionId::NONE,
            operation: Operation::Enter,
            is_entering: false,
            refused: None,
            quoted: 0,
            request: 0,
            sent: Vec::new(),
            open: HashMap::new(),
            random: (seed << 32 | number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            heard: 0,
        }
    }

    /// The client order ID of an order.
    pub(super) fn order_id(&self, index: usize) -> Option<String> {
        let mut id = Vec::new();
        put_id(self.world.start_wall, self.sent.get(index)?.at, self.number, index, &mut id);
        String::from_utf8(id).ok()
    }

    /// Buys something and waits for its outcome: from then on all instruments have prices, of which the
    /// books knew nothing at the start.
    pub(super) fn await_prices(
        &mut self,
        mut stream: Opened,
        patience: Duration,
    ) -> Result<(), BenchError> {
        let (mut out, mut input, until) = (Vec::new(), Vec::new(), Instant::now() + patience);
        self.enter(&mut out)?;
        loop {
            if !out.is_empty() {
                stream.write_all(&out)?;
                stream.flush()?;
                out.clear();
            }
            let mut more = [0; 4_096];
            let count = match stream.read(&mut more) {
                Ok(0) => return Err(wrong("the worker has closed a connection")),
                Ok(count) => count,
                // A socket waits no longer than for one answer.
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < until => 0,
                Err(error) => return Err(error.into()),
            };
            input.extend_from_slice(&more[..count]);
            while let Some((frame, used)) = Frame::decode(&input).map_err(wrong)? {
                let heard = self.hear(&frame, &mut out)?;
                input.drain(..used);
                match (heard, self.sent.last().map(|order| order.known)) {
                    (Heard::Done, None) => self.put_order(false, &mut out)?,
                    (Heard::More, Some(Known::Filled)) => return Ok(()),
                    (Heard::Refused(reason), _) => return Err(wrong(reason)),
                    (_, Some(Known::Failed)) => return Err(wrong("the first order failed")),
                    _ => {}
                }
            }
        }
    }

    fn enter(&mut self, out: &mut Vec<u8>) -> Result<(), BenchError> {
        (self.account, self.session) = self.world.next_session()?;
        self.name = format!("trader-{}", self.account);
        self.is_entering = true;
        self.talk.ask(self.session, Instruction::LoginSession, 0, &[], out);
        Ok(())
    }

    fn ask_about_user(&mut self, instruction: Instruction, out: &mut Vec<u8>) {
        self.talk.ask(self.session, instruction, 1, self.name.as_bytes(), out);
    }

    fn put_order(&mut self, is_sale: bool, out: &mut Vec<u8>) -> Result<(), BenchError> {
        let random = self.next_random();
        let units = (1 + (random >> 32) % MOST) as u32;
        let first = (random % OWNED) as usize;
        let world = Rc::clone(&self.world);
        let nth = {
            let has = world.units.borrow();
            let has = has.get(self.account.0 as usize).copied().unwrap_or_default();
            let mut all = (0..OWNED as usize).map(|next| (first + next) % OWNED as usize);
            // Who has too little of all of them is refused, and counted so.
            all.find(|nth| !is_sale || has[*nth] >= units).unwrap_or(first)
        };
        if is_sale {
            world.change(self.account, nth, |has| has.saturating_sub(units));
        }
        let index = self.sent.len();
        self.sent.push(Sent {
            account: self.account,
            at: u32::try_from(world.start.elapsed().as_micros()).unwrap_or(u32::MAX),
            nth: nth as u8,
            units: units as u8,
            is_sale,
            known: Known::Sent,
        });
        let symbol = world.symbol(self.account, nth)?;
        let id = self.order_id(index).ok_or_else(|| wrong("an order without an ID"))?;
        let data = format!("{symbol} {units} {id}");
        let instruction = if is_sale { Instruction::SellAsset } else { Instruction::PurchaseAsset };
        self.request = self.talk.ask(self.session, instruction, 3, data.as_bytes(), out);
        self.open.insert(self.request, index);
        Ok(())
    }

    /// Something that no request of now waits for: the outcome of an order.
    fn outcome(&mut self, frame: &Frame<'_>) -> Result<(), BenchError> {
        use Instruction as I;
        let heard = I::from_number(frame.header.instruction);
        let index = self.open.remove(&frame.header.request);
        let sent = index.and_then(|index| self.sent.get_mut(index));
        match (sent, heard) {
            (Some(sent), Some(I::PurchaseSuccess)) if !sent.is_sale => {
                sent.known = Known::Filled;
                let units = u32::from(sent.units);
                self.world.change(sent.account, sent.nth.into(), |has| has + units);
            }
            (Some(sent), Some(I::SellSuccess)) if sent.is_sale => sent.known = Known::Filled,
            (Some(sent), Some(I::PurchaseFail | I::SellFail)) => sent.known = Known::Failed,
            _ => {
                let heard = heard.map_or("?", I::name);
                let words = String::from_utf8_lossy(frame.data);
                return Err(wrong(format!("nobody waits for this {heard}: {words}")));
            }
        }
        Ok(())
    }

    /// Looks at what an answer says.
    fn check(&self, asked: Instruction, frame: &Frame<'_>) -> Result<(), BenchError> {
        use Instruction as I;
        let is_right = match asked {
            I::GetAssetValueCurrent => {
                let value = AssetValue::from_bytes(frame.data).map_err(wrong)?;
                let expected = self.world.expected.borrow_mut().price(self.quoted, value.time)?;
                let symbol = self.world.symbols.get(self.quoted).copied();
                Some(value.symbol) == symbol && Some(value.price) == expected
            }
            I::GetUserInfo => {
                let info = UserInfo::from_bytes(frame.data).map_err(wrong)?;
                info.name == self.name && info.private.is_some()
            }
            I::GetUserPortfolio => {
                let portfolio = Portfolio::from_bytes(frame.data).map_err(wrong)?;
                let mut own = Vec::new();
                for nth in 0..OWNED as usize {
                    own.push(self.world.symbol(self.account, nth)?);
                }
                let has = portfolio.private.map(|private| private.positions).unwrap_or_default();
                portfolio.name == self.name
                    && !has.is_empty()
                    && has.iter().all(|line| own.contains(&line.symbol))
            }
            I::PurchaseAsset | I::SellAsset => {
                let id = self.order_id(self.sent.len().saturating_sub(1));
                match Return::parse(frame).map_err(wrong)? {
                    Some(Return::OrderQueued(order)) => {
                        Some(order.client_order_id.to_string()) == id
                    }
                    _ => false,
                }
            }
            I::LoginSession => match Return::parse(frame).map_err(wrong)? {
                Some(Return::Session(grant)) => grant.name == self.name,
                // It follows by itself.
                _ => true,
            },
            _ => true,
        };
        self.world.checked.set(self.world.checked.get() + 1);
        if is_right {
            return Ok(());
        }
        Err(wrong(format!("a wrong answer to {} of {}", asked.name(), self.name)))
    }

    /// SplitMix64.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Actor for Trader {
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<Operation, BenchError> {
        use Instruction as I;
        self.operation =
            if self.session.is_none() { Operation::Enter } else { choose(MIX, self.next_random()) };
        match self.operation {
            Operation::Home => {
                self.ask_about_user(I::GetUserInfo, out);
                self.ask_about_user(I::GetUserPortfolio, out);
            }
            Operation::Quote => {
                let world = Rc::clone(&self.world);
                self.quoted = (self.next_random() % world.symbols.len().max(1) as u64) as usize;
                let symbol = world.symbols.get(self.quoted).map_or("", |symbol| symbol.as_str());
                let quote = I::GetAssetValueCurrent;
                self.talk.ask(self.session, quote, 1, symbol.as_bytes(), out);
            }
            Operation::Account => self.ask_about_user(I::GetUserInfo, out),
            Operation::Portfolio => self.ask_about_user(I::GetUserPortfolio, out),
            Operation::Buy => self.put_order(false, out)?,
            Operation::Sell => self.put_order(true, out)?,
            Operation::Logout => {
                self.talk.ask(self.session, I::Logout, 0, &[], out);
            }
            _ => self.enter(out)?,
        }
        Ok(self.operation)
    }

    fn hear(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<Heard, BenchError> {
        match self.talk.hear(frame)? {
            Answer::Other => {
                self.outcome(frame)?;
                return Ok(Heard::More);
            }
            Answer::Right(asked) => {
                self.heard += 1;
                if let Instruction::PurchaseAsset | Instruction::SellAsset = asked
                    && let Some(order) = self.sent.last_mut()
                {
                    order.known = Known::Queued;
                }
                if self.heard % EACH == 1 {
                    self.check(asked, frame)?;
                }
            }
            Answer::Refused(asked, code) => {
                if let Instruction::PurchaseAsset | Instruction::SellAsset = asked
                    && let Some(order) = self.sent.last_mut()
                {
                    order.known = Known::Refused;
                    self.open.remove(&self.request);
                }
                if asked == Instruction::LoginSession {
                    return Err(wrong(format!("a session that was stored is refused: {code}")));
                }
                self.refused.get_or_insert(code);
            }
        }
        if !self.talk.is_idle() {
            return Ok(Heard::More);
        }
        if self.operation == Operation::Logout && !self.is_entering {
            self.enter(out)?;
            return Ok(Heard::More);
        }
        self.is_entering = false;
        Ok(self.refused.take().map_or(Heard::Done, Heard::Refused))
    }
}
