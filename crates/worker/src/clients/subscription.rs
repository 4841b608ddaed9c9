//! What one connection hears of prices without asking again (docs/design/0009-streams.md).
//!
//! Nothing is queued: it knows up to which snapshot everything was told, and where in its list it is.
//! Invariant: of each asset the client gets the newest value when there is room for it, and each value
//! that it gets is not older than the one before. (The same may come again if a list takes more than one
//! message, and prices change between them.)

use std::collections::BTreeSet;

use papertrader_core::names::Symbol;
use papertrader_core::time::WallTime;
use papertrader_protocol::request::{MAX_SUBSCRIBED, Symbols};
use papertrader_protocol::returns::Return;
use papertrader_protocol::{Header, Instruction, Reason, SessionId};

use super::outbox::Outbox;
use crate::auth::Attachment;
use crate::cache::Prices;

/// About how much data one frame carries.
const FRAME: usize = 8 * 1024;

/// The subscription of a connection.
#[derive(Debug)]
pub(super) struct Subscription {
    /// The request that made it, or changed it last.
    request: u64,
    session: SessionId,
    all: bool,
    symbols: BTreeSet<Symbol>,
    /// Where these are in the list of the worker, if it is not all of it, and of which list that is true.
    places: Vec<u32>,
    list: Option<u64>,
    /// All values that had changed up to this generation were told.
    told: u64,
    /// The generation at which the present pass began, and how far it is.
    pass: u64,
    at: usize,
}

/// Whether there is more to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Everything,
    /// The room was full.
    Some,
    /// It is over: its session is.
    Ended,
}

impl Subscription {
    /// To nothing yet.
    pub(super) fn new() -> Subscription {
        Subscription {
            request: 0,
            session: SessionId::NONE,
            all: false,
            symbols: BTreeSet::new(),
            places: Vec::new(),
            list: None,
            told: 0,
            pass: 0,
            at: 0,
        }
    }

    /// Adds assets, under a session. What was there before is told again: a client that asks anew
    /// wants to know where it stands.
    /// False if they are too many: then nothing is added.
    pub(super) fn add(&mut self, request: u64, session: SessionId, symbols: Symbols) -> bool {
        match symbols {
            Symbols::All => self.all = true,
            Symbols::These(symbols) => {
                let new = symbols.iter().filter(|symbol| !self.symbols.contains(*symbol)).count();
                if self.symbols.len() + new > MAX_SUBSCRIBED {
                    return false;
                }
                self.symbols.extend(symbols);
            }
        }
        (self.request, self.session) = (request, session);
        (self.list, self.told) = (None, 0);
        true
    }

    /// Takes assets out.
    pub(super) fn remove(&mut self, symbols: Symbols) {
        match symbols {
            Symbols::All => {
                self.all = false;
                self.symbols.clear();
            }
            Symbols::These(symbols) => {
                for symbol in symbols {
                    self.symbols.remove(&symbol);
                }
            }
        }
        self.list = None;
    }

    /// Whether nothing is subscribed to.
    pub(super) fn is_empty(&self) -> bool {
        !self.all && self.symbols.is_empty()
    }

    /// How many of the assets of a worker it is about.
    pub(super) fn count(&self, prices: &Prices) -> usize {
        if self.all { prices.len() } else { self.symbols.len() }
    }

    /// Tells what has changed, as long as `has_room`.
    pub(super) fn tell(
        &mut self,
        prices: &Prices,
        sessions: &[Attachment],
        now: WallTime,
        out: &mut Outbox,
        has_room: impl Fn(&Outbox) -> bool,
    ) -> Told {
        let used = sessions.iter().map(Attachment::session).find(|it| it.id() == self.session);
        if let Err(reason) = used.ok_or(Reason::SessionUnknown).and_then(|it| it.check(now)) {
            let refusal = Return::Failed(Instruction::SubscribeFail, reason.into());
            out.put(|out| refusal.put(self.request, out));
            return Told::Ended;
        }
        if self.list != Some(prices.list_number()) {
            self.find_places(prices);
        }
        let end = if self.all { prices.len() } else { self.places.len() };
        loop {
            if self.at == end {
                self.told = self.pass;
                if self.told == prices.generation {
                    return Told::Everything;
                }
                (self.pass, self.at) = (prices.generation, 0);
            }
            if !has_room(out) {
                return Told::Some;
            }
            if self.at == 0 {
                // It may have waited for room since it began.
                self.pass = prices.generation;
            }
            self.tell_some(prices, end, out);
        }
    }

    /// One frame at most, and the rest of the pass if it fits.
    fn tell_some(&mut self, prices: &Prices, end: usize, out: &mut Outbox) {
        let place = |at: usize| match self.all {
            true => u32::try_from(at).ok(),
            false => self.places.get(at).copied(),
        };
        let is_new = |place: &u32| prices.changed(*place) > self.told;
        let Some(first) = (self.at..end).find(|at| place(*at).as_ref().is_some_and(is_new)) else {
            self.at = end;
            return;
        };
        let mut at = first;
        let instruction = Instruction::AssetValues;
        let header = Header::new(instruction.message_type(), instruction as u16, self.request);
        out.put(|out| {
            header.encode_with(out, |out| {
                let (start, mut count) = (out.len(), 0_u32);
                out.extend_from_slice(&[0; 4]);
                while at < end && out.len() - start < FRAME {
                    let new = place(at).filter(is_new);
                    at += 1;
                    if let Some(value) = new.and_then(|place| prices.value_at(place)) {
                        out.extend_from_slice(value);
                        count += 1;
                    }
                }
                if let Some(place) = out.get_mut(start..start + 4) {
                    place.copy_from_slice(&count.to_be_bytes());
                }
            });
        });
        self.at = at;
    }

    fn find_places(&mut self, prices: &Prices) {
        self.places = match self.all {
            true => Vec::new(),
            false => self.symbols.iter().filter_map(|symbol| prices.place(*symbol)).collect(),
        };
        self.list = Some(prices.list_number());
        // The pass begins anew.
        (self.pass, self.at) = (prices.generation, 0);
    }
}
