//! What an account owns and what its open orders hold.
//!
//! Invariants: cash, holds, quantities and cost bases are never negative; cash and quantities are
//! at most the largest accepted; `held_cash <= cash`; each position's `held <= quantity`;
//! positions are sorted by instrument and none is empty.

use crate::ids::InstrumentId;
use crate::money::{Cash, MAX_CASH, MAX_QUANTITY, Quantity};

/// An account's money and shares. Names and credentials are kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    /// All cash, held or not.
    pub cash: Cash,
    /// Cash that open buy orders hold.
    pub held_cash: Cash,
    /// All cash that was ever granted: what the return is measured against.
    pub granted: Cash,
    /// Positions by instrument, ascending.
    pub positions: Vec<Position>,
    /// How many orders are open.
    pub open_orders: u32,
    /// May not log in or trade.
    pub disabled: bool,
}

/// How much of one instrument an account owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Of what.
    pub instrument: InstrumentId,
    /// How much; positive.
    pub quantity: Quantity,
    /// How much of it open sell orders hold.
    pub held: Quantity,
    /// What was paid for it: the cost basis.
    pub cost: Cash,
}

impl Account {
    /// Cash that no open order holds.
    pub fn free_cash(&self) -> Option<Cash> {
        self.cash.minus(self.held_cash)
    }

    /// The position in an instrument, if there is one.
    pub fn position(&self, instrument: InstrumentId) -> Option<&Position> {
        let index = self.positions.binary_search_by_key(&instrument, |p| p.instrument).ok()?;
        self.positions.get(index)
    }

    pub(crate) fn position_mut(&mut self, instrument: InstrumentId) -> Option<&mut Position> {
        let index = self.positions.binary_search_by_key(&instrument, |p| p.instrument).ok()?;
        self.positions.get_mut(index)
    }

    /// The position in an instrument, made empty if there is none.
    pub(crate) fn position_or_new(&mut self, instrument: InstrumentId) -> &mut Position {
        let found = self.positions.binary_search_by_key(&instrument, |p| p.instrument);
        let index = match found {
            Ok(index) => index,
            Err(index) => {
                let (quantity, held, cost) = (Quantity::ZERO, Quantity::ZERO, Cash::ZERO);
                self.positions.insert(index, Position { instrument, quantity, held, cost });
                index
            }
        };
        &mut self.positions[index]
    }

    pub(crate) fn drop_empty_positions(&mut self) {
        self.positions.retain(|p| !p.quantity.is_zero());
    }

    /// Whether the invariants at the head of this file hold.
    pub fn is_sound(&self) -> bool {
        !self.cash.is_negative()
            && self.cash <= MAX_CASH
            && !self.held_cash.is_negative()
            && self.held_cash <= self.cash
            && self.positions.is_sorted_by(|a, b| a.instrument < b.instrument)
            && self.positions.iter().all(|p| {
                p.quantity > Quantity::ZERO
                    && p.quantity <= MAX_QUANTITY
                    && !p.held.is_negative()
                    && p.held <= p.quantity
                    && !p.cost.is_negative()
            })
    }
}
