//! What the clients were told about each order, and what they may never be told.
//!
//! Invariant: an order has one number and at most one final state, for ever, whoever asks.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use papertrader_client::ClientError;
use papertrader_core::money::Quantity;
use papertrader_core::names::{ClientOrderId, Symbol};
use papertrader_core::order::Side;
use papertrader_protocol::Reason;
use papertrader_protocol::returns::FilledOrder;

/// Something that the kills are timed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// An order is about to be sent.
    Sent,
    /// A server has answered for it.
    Acknowledged,
    /// It has its outcome.
    Decided,
    /// It has its outcome, and was queued when it was answered for.
    Settled,
    /// A server has answered for one that was never sent before: it was written.
    Placed,
    /// A client was told that nothing is known of it: it may be there or not.
    Unknown,
}

/// What is asked for under an ID, always the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) user: usize,
    pub(crate) side: Side,
    pub(crate) symbol: Symbol,
    pub(crate) quantity: Quantity,
}

/// A final state, as a client hears of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Filled(FilledOrder),
    Refused(Reason),
}

/// All that was told about one order.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) content: Content,
    /// Its number, when it was acknowledged.
    pub(crate) number: Option<u64>,
    pub(crate) outcome: Option<Outcome>,
    /// Times that it was sent.
    pub(crate) sent: usize,
}

impl Told {
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.number.is_some() || self.outcome.is_some()
    }
}

/// What all clients know together.
#[derive(Debug, Default)]
pub(crate) struct Known {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    orders: HashMap<ClientOrderId, Told>,
    contradictions: Vec<String>,
    /// Answers that say nothing of the order.
    refused: BTreeMap<String, usize>,
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().orders.len()
    }

    /// All orders.
    pub(crate) fn orders(&self) -> HashMap<ClientOrderId, Told> {
        self.lock().orders.clone()
    }

    /// The contradictions so far, as an error.
    pub(crate) fn contradictions(&self) -> Result<(), String> {
        let inner = self.lock();
        if inner.contradictions.is_empty() { Ok(()) } else { Err(inner.contradictions.join("\n")) }
    }

    pub(crate) fn contradict(&self, problem: String) {
        self.lock().contradictions.push(problem);
    }

    /// Answers that say nothing of the order, by their words.
    pub(crate) fn refused(&self) -> BTreeMap<String, usize> {
        self.lock().refused.clone()
    }

    /// A client was told nothing of its order but this.
    pub(crate) fn unknown(&self, error: &ClientError) {
        let words = match error {
            ClientError::Refused(failure) => format!("{:?}", failure.reason),
            ClientError::ConnectionLost { .. } => "connection lost".to_owned(),
            ClientError::NoServer { .. } => "no server".to_owned(),
            _ => "outcome unknown".to_owned(),
        };
        *self.lock().refused.entry(words).or_default() += 1;
    }

    /// An order is about to be sent.
    pub(crate) fn sent(&self, id: &ClientOrderId, content: &Content) {
        let mut inner = self.lock();
        let told = inner.orders.entry(id.clone()).or_insert_with(|| Told {
            content: content.clone(),
            number: None,
            outcome: None,
            sent: 0,
        });
        told.sent += 1;
    }

    /// What was told about this one.
    pub(crate) fn told(&self, id: &ClientOrderId) -> Option<(ClientOrderId, Told)> {
        self.lock().orders.get(id).map(|told| (id.clone(), told.clone()))
    }

    /// An order of this user that may be asked about again, chosen by `random`.
    pub(crate) fn some_of(&self, user: usize, random: u64) -> Option<(ClientOrderId, Told)> {
        let inner = self.lock();
        let mut of_user: Vec<_> =
            inner.orders.iter().filter(|(_, told)| told.content.user == user).collect();
        // The map's own order is not the seed's.
        of_user.sort_unstable_by_key(|(id, _)| id.as_str());
        let index = random.checked_rem(of_user.len() as u64)?;
        of_user.get(index as usize).map(|(id, told)| ((*id).clone(), (*told).clone()))
    }

    /// It was queued under this number.
    pub(crate) fn queued(&self, id: &ClientOrderId, number: u64) {
        self.note(id, Some(number), None);
    }

    /// It is decided.
    pub(crate) fn decided(&self, id: &ClientOrderId, outcome: Outcome) {
        let number = match &outcome {
            Outcome::Filled(fill) => Some(fill.order),
            Outcome::Refused(_) => None,
        };
        self.note(id, number, Some(outcome));
    }

    fn note(&self, id: &ClientOrderId, number: Option<u64>, outcome: Option<Outcome>) {
        let mut inner = self.lock();
        let Some(told) = inner.orders.get_mut(id) else { return };
        let before = told.clone();
        told.number = told.number.or(number);
        if told.outcome.is_none() {
            told.outcome.clone_from(&outcome);
        }
        let same_number = number.is_none() || told.number == number;
        let same_outcome = outcome.is_none() || told.outcome == outcome;
        if !same_number || !same_outcome {
            inner.contradictions.push(format!(
                "{id} was told {before:?} at first, then number {number:?}, outcome {outcome:?}"
            ));
        }
    }
}

/// What a failure says about an order: its final state, that nothing is known, or what should not
/// have been said at all.
pub(crate) enum Meaning {
    Final(Reason),
    Nothing,
    Wrong,
}

pub(crate) fn meaning(error: &ClientError) -> Meaning {
    match error {
        ClientError::Refused(failure) => match failure.reason {
            Reason::AccountDisabled
            | Reason::MarketEnded
            | Reason::NoPrice
            | Reason::TooManyOpenOrders
            | Reason::OrderTooLarge
            | Reason::InsufficientCash
            | Reason::InsufficientShares
            | Reason::NothingLeft
            | Reason::OrderCancelled
            | Reason::OrderExpired => Meaning::Final(failure.reason),
            Reason::Busy
            | Reason::Unavailable
            | Reason::ShuttingDown
            | Reason::TooManyRequests
            | Reason::DeadlinePassed
            | Reason::OutcomeUnknown => Meaning::Nothing,
            _ => Meaning::Wrong,
        },
        ClientError::ConnectionLost { .. }
        | ClientError::NoServer { .. }
        | ClientError::OutcomeUnknown { .. } => Meaning::Nothing,
        ClientError::NotLoggedIn
        | ClientError::CertificateChanged { .. }
        | ClientError::CertificateUnknown { .. }
        | ClientError::Address { .. }
        | ClientError::Protocol { .. } => Meaning::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> (Known, ClientOrderId) {
        let (known, id) = (Known::default(), "a".parse().unwrap());
        let symbol = "AAPL".parse().unwrap();
        let content = Content { user: 0, side: Side::Buy, symbol, quantity: "1".parse().unwrap() };
        known.sent(&id, &content);
        (known, id)
    }

    #[test]
    fn the_same_answer_twice_is_no_contradiction() {
        let (known, id) = asked();
        known.queued(&id, 7);
        known.queued(&id, 7);
        known.decided(&id, Outcome::Refused(Reason::InsufficientCash));
        known.decided(&id, Outcome::Refused(Reason::InsufficientCash));
        known.contradictions().unwrap();
    }

    #[test]
    fn another_number_or_another_outcome_is_a_contradiction() {
        let (known, id) = asked();
        known.queued(&id, 7);
        known.queued(&id, 8);
        assert!(known.contradictions().unwrap_err().contains("number Some(8)"));
        let (known, id) = asked();
        known.decided(&id, Outcome::Refused(Reason::OrderCancelled));
        known.decided(&id, Outcome::Refused(Reason::InsufficientCash));
        assert!(known.contradictions().unwrap_err().contains("InsufficientCash"));
    }
}
