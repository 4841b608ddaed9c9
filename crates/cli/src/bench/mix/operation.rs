//! The operations of the DayTrader benchmark, and how often each is done.
//!
//! Of its hundred parts `register` 2 and `update` 4 cost a password hash each, and so does the log-in
//! that follows a logout: those are a line of their own, and the other 94 parts another.

use serde::Serialize;

/// What a user does at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Operation {
    /// Account summary and portfolio, asked for together.
    Home,
    /// The latest price of any instrument.
    Quote,
    /// Account summary.
    Account,
    /// Positions.
    Portfolio,
    /// An order, until it is durable.
    Buy,
    /// An order, until it is durable.
    Sell,
    /// The session ends, and another user goes on with a session that was there.
    Logout,
    /// A new account.
    Register,
    /// A log-in with a password.
    Login,
    /// A change of password.
    Update,
    /// The first session of a connection: not an operation of the mix.
    Enter,
}

/// Operations with the parts of all that each has.
pub(super) type Weights = [(Operation, u64)];

/// What needs no password.
pub(super) const MIX: &Weights = &[
    (Operation::Home, 20),
    (Operation::Quote, 40),
    (Operation::Account, 10),
    (Operation::Portfolio, 12),
    (Operation::Buy, 4),
    (Operation::Sell, 4),
    (Operation::Logout, 4),
];

/// What costs Argon2id hashes.
pub(super) const PASSWORDS: &Weights =
    &[(Operation::Register, 2), (Operation::Login, 4), (Operation::Update, 4)];

impl Operation {
    /// How many passwords the master hashes for it: a change looks at the old one first.
    pub(super) fn hashes(self) -> u64 {
        match self {
            Operation::Register | Operation::Login => 1,
            Operation::Update => 2,
            _ => 0,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Operation::Home => "home",
            Operation::Quote => "quote",
            Operation::Account => "account",
            Operation::Portfolio => "portfolio",
            Operation::Buy => "buy",
            Operation::Sell => "sell",
            Operation::Logout => "logout",
            Operation::Register => "register",
            Operation::Login => "login",
            Operation::Update => "update",
            Operation::Enter => "enter",
        }
    }
}

/// All parts together.
pub(super) fn parts(weights: &Weights) -> u64 {
    weights.iter().map(|(_, weight)| weight).sum()
}

/// The operation that a random number chooses.
pub(super) fn choose(weights: &Weights, random: u64) -> Operation {
    let mut left = random % parts(weights).max(1);
    for (operation, weight) in weights {
        match left.checked_sub(*weight) {
            None => return *operation,
            Some(rest) => left = rest,
        }
    }
    Operation::Enter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_is_chosen_as_often_as_it_has_parts() {
        for weights in [MIX, PASSWORDS] {
            let chosen: Vec<Operation> =
                (0..parts(weights)).map(|random| choose(weights, random)).collect();
            for (operation, weight) in weights {
                let count = chosen.iter().filter(|one| *one == operation).count();
                assert_eq!(count as u64, *weight, "{operation:?}");
            }
        }
        // With the log-in, which DayTrader counts as a part of the logout.
        assert_eq!(parts(MIX) + parts(PASSWORDS), 104);
    }
}
