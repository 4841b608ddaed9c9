//! The cache of orders on their way to the master (specification 4.7): an order stays here until
//! its outcome is known, or nobody here waits for it any more.
//!
//! It does not send or answer; it says what must be sent and what may be answered. Invariants:
//! orders are held by their stamp, so every sending is in order of time; "it will not happen" is
//! only said of an order of which not a byte was given to any link.
//!
//! ```text
//!              send              orderQueued             outcome
//!   waiting ─────────▶ sent ─────────────────▶ queued ─────────────▶ gone
//!      │ deadline,      │  ▲                     │  ▲
//!      ▼ no link        │  └─ new link, send ────┘  └─ new link, send (to hear the outcome)
//!  deadlinePassed       ▼ deadline
//!                  outcomeUnknown
//! ```
//!
//! With a link the deadline is a little later, and an order is `sent` at once.
//!
//! When the master refuses this worker there is no deadline to wait for: `unavailable` stands then
//! for `deadlinePassed`, and both are said at once.

use std::collections::{BTreeMap, BTreeSet};

use papertrader_core::time::WallTime;
use papertrader_protocol::instruction::Instruction;
use papertrader_protocol::{Reason, SessionId};

use super::{Ask, Route, Step};

/// An order of a client.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) ask: Ask,
    /// By this worker's clock.
    deadline: WallTime,
    /// On how many links it was sent.
    sent: u32,
    /// The master has it; what is awaited is its outcome.
    queued: bool,
}

/// What the master's answer to an order means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Pass it on as this step.
    Pass(Step),
    /// The client knows already.
    Silent,
    /// Say this instead: the answer speaks of this copy of the order, not of an earlier one.
    Instead(Step, Reason),
    /// The outcome cannot be heard any more.
    Forget,
}

/// All orders in the cache, in order of time.
#[derive(Debug, Default)]
pub(super) struct Orders {
    by_sequence: BTreeMap<u64, Order>,
    /// Those that are not queued. There may be any number of others, which are not looked through.
    unanswered: BTreeSet<u64>,
}

impl Orders {
    pub(super) fn len(&self) -> usize {
        self.by_sequence.len()
    }

    /// How many have no answer yet.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    pub(super) fn insert(&mut self, ask: Ask, deadline: WallTime) {
        let order = Order { deadline, sent: 0, queued: false, ask };
        self.unanswered.insert(order.ask.sequence);
        self.by_sequence.insert(order.ask.sequence, order);
    }

    /// The order to send now; from here on it counts as sent.
    pub(super) fn send(&mut self, sequence: u64) -> Option<&Order> {
        let order = self.by_sequence.get_mut(&sequence)?;
        order.sent += 1;
        Some(order)
    }

    /// What a new link must carry, in order of time. Orders that only wait for an outcome which
    /// nobody wants to hear are dropped.
    pub(super) fn take_up(&mut self) -> Vec<u64> {
        self.by_sequence.retain(|_, order| !(order.queued && order.ask.route.is_dead()));
        self.by_sequence.keys().copied().collect()
    }

    /// Drops what nobody waits for any more.
    pub(super) fn sweep(&mut self) {
        self.by_sequence.retain(|_, order| !(order.queued && order.ask.route.is_dead()));
    }

    /// The earliest deadline of an order that has no answer.
    pub(super) fn next_deadline(&self) -> Option<WallTime> {
        // Deadlines ascend with the stamps, so the first is the earliest.
        self.by_sequence.get(self.unanswered.first()?).map(|order| order.deadline)
    }

    /// Takes out the orders without an answer whose deadline has passed, with what to answer.
    pub(super) fn expire(&mut self, now: WallTime) -> Vec<(Ask, Reason)> {
        let is_due = |sequence: &&u64| {
            self.by_sequence.get(*sequence).is_none_or(|order| order.deadline <= now)
        };
        let due: Vec<u64> = self.unanswered.iter().take_while(is_due).copied().collect();
        let never = Reason::DeadlinePassed;
        due.into_iter().filter_map(|sequence| self.abandon(sequence, never)).collect()
    }

    /// Takes out all orders that have no answer, with what to answer: `never` if they were never
    /// sent.
    pub(super) fn abandon_all(&mut self, never: Reason) -> Vec<(Ask, Reason)> {
        let open: Vec<u64> = self.unanswered.iter().copied().collect();
        open.into_iter().filter_map(|sequence| self.abandon(sequence, never)).collect()
    }

    fn abandon(&mut self, sequence: u64, never: Reason) -> Option<(Ask, Reason)> {
        self.unanswered.remove(&sequence);
        let order = self.by_sequence.remove(&sequence)?;
        let reason = if order.sent == 0 { never } else { Reason::OutcomeUnknown };
        Some((order.ask, reason))
    }

    /// Judges a return of the master to an order; takes the order out when it is over. `refusal`
    /// is the reason of a failure return.
    pub(super) fn judge(
        &mut self,
        sequence: u64,
        instruction: Instruction,
        refusal: Option<Reason>,
    ) -> Option<Judged> {
        let order = self.by_sequence.get_mut(&sequence)?;
        let (route, asked) = (order.ask.route.clone(), order.ask.instruction);
        let session = order.ask.session;
        if instruction == Instruction::OrderQueued {
            let verdict = if order.queued { Verdict::Silent } else { Verdict::Pass(Step::First) };
            order.queued = true;
            self.unanswered.remove(&sequence);
            return Some(Judged { verdict, route, asked, session });
        }
        let earlier_copy = order.sent > 1;
        let unheard = refusal.is_some_and(|reason| !decides_the_order(reason));
        let verdict = match (order.queued, unheard) {
            // The order is durable: a refusal to talk about it changes nothing.
            (true, true) => Verdict::Forget,
            (true, false) => Verdict::Pass(Step::Outcome),
            (false, true) if earlier_copy => Verdict::Instead(Step::Only, Reason::OutcomeUnknown),
            (false, _) => Verdict::Pass(Step::Only),
        };
        self.unanswered.remove(&sequence);
        self.by_sequence.remove(&sequence);
        Some(Judged { verdict, route, asked, session })
    }
}

/// A judged return.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) verdict: Verdict,
    /// Whose order it was.
    pub(super) route: Route,
    /// What was asked.
    pub(super) asked: Instruction,
    /// Under which session.
    pub(super) session: SessionId,
}

/// Whether a refusal says what becomes of the order with this client order ID, or only that this
/// message was not listened to.
fn decides_the_order(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::SessionRequired
            | Reason::SessionUnknown
            | Reason::SessionExpired
            | Reason::PasswordChangeRequired
            | Reason::NotAuthorized
            | Reason::TooManyRequests
            | Reason::TooManyAttempts
            | Reason::Busy
            | Reason::Unavailable
            | Reason::ShuttingDown
            | Reason::OutcomeUnknown
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;

    fn ask(sequence: u64) -> Ask {
        let (connection, request) = (0, sequence);
        Ask {
            route: Route { thread: 0, connection, request, transfer: None, alive: Weak::new() },
            instruction: Instruction::PurchaseAsset,
            arguments: 3,
            data: Box::default(),
            session: SessionId::NONE,
            client: "127.0.0.1:1".parse().unwrap(),
            question: None,
            received_at: WallTime(sequence as i64),
            sequence,
        }
    }

    fn orders(sequences: &[u64]) -> Orders {
        let mut orders = Orders::default();
        for sequence in sequences {
            orders.insert(ask(*sequence), WallTime(*sequence as i64 + 10));
        }
        orders
    }

    fn verdict(orders: &mut Orders, instruction: Instruction, refusal: Option<Reason>) -> Verdict {
        orders.judge(1, instruction, refusal).unwrap().verdict
    }

    #[test]
    fn only_an_order_that_was_never_sent_will_not_happen() {
        let mut orders = orders(&[1, 2, 3]);
        orders.send(1);
        assert_eq!(orders.next_deadline(), Some(WallTime(11)));
        let expired = orders.expire(WallTime(12));
        let answers: Vec<_> = expired.iter().map(|(ask, why)| (ask.sequence, *why)).collect();
        assert_eq!(answers, [(1, Reason::OutcomeUnknown), (2, Reason::DeadlinePassed)]);
        assert_eq!(orders.take_up(), [3]);
    }

    #[test]
    fn the_queued_answer_passes_once_and_the_outcome_after_it() {
        use Instruction as I;
        let mut orders = orders(&[1]);
        orders.send(1);
        assert_eq!(verdict(&mut orders, I::OrderQueued, None), Verdict::Pass(Step::First));
        // Queued orders have no deadline here.
        assert!(orders.expire(WallTime(1_000)).is_empty());
        orders.send(1);
        assert_eq!(verdict(&mut orders, I::OrderQueued, None), Verdict::Silent);
        assert_eq!(verdict(&mut orders, I::PurchaseSuccess, None), Verdict::Pass(Step::Outcome));
        assert_eq!(orders.len(), 0);
    }

    #[test]
    fn a_refusal_to_listen_to_the_second_copy_says_nothing_of_the_first() {
        use Instruction as I;
        let unknown = Some(Reason::SessionUnknown);
        let password = Some(Reason::PasswordChangeRequired);
        let rate = Some(Reason::TooManyAttempts);
        let cash = Some(Reason::InsufficientCash);
        let cases = [
            (1, false, unknown, Verdict::Pass(Step::Only)),
            (2, false, unknown, Verdict::Instead(Step::Only, Reason::OutcomeUnknown)),
            (1, false, password, Verdict::Pass(Step::Only)),
            (2, false, password, Verdict::Instead(Step::Only, Reason::OutcomeUnknown)),
            (2, true, password, Verdict::Forget),
            (1, false, rate, Verdict::Pass(Step::Only)),
            (2, false, rate, Verdict::Instead(Step::Only, Reason::OutcomeUnknown)),
            (2, true, rate, Verdict::Forget),
            (2, false, cash, Verdict::Pass(Step::Only)),
            (2, false, Some(Reason::DeadlinePassed), Verdict::Pass(Step::Only)),
            (2, true, unknown, Verdict::Forget),
            (2, true, cash, Verdict::Pass(Step::Outcome)),
        ];
        for (links, queued, refusal, expected) in cases {
            let mut orders = orders(&[1]);
            for _ in 0..links {
                orders.send(1);
            }
            if queued {
                verdict(&mut orders, I::OrderQueued, None);
            }
            assert_eq!(verdict(&mut orders, I::PurchaseFail, refusal), expected, "{refusal:?}");
            assert_eq!(orders.len(), 0);
        }
    }
}
