//! Every stable word that a failure return can carry, with its words for people.
//!
//! A failure return has two arguments: the word, and a text. Programs decide on the word; a word
//! that was published is never given another meaning.

use papertrader_core::order::OrderRefusal;

macro_rules! reasons {
    ($($variant:ident $code:literal $text:literal;)*) => {
        /// Why something was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = $text] $variant,)*
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The stable word for programs.
            pub fn code(self) -> &'static str {
                match self { $(Reason::$variant => $code,)* }
            }

            /// Words for people, where there is nothing more precise to say.
            pub fn text(self) -> &'static str {
                match self { $(Reason::$variant => $text,)* }
            }

            /// From the stable word.
            pub fn from_code(code: &str) -> Option<Reason> {
                match code { $($code => Some(Reason::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    // What cannot be framed: the server says this and closes the connection.
    BadFrame "badFrame" "these bytes are not a message of this protocol";
    BadVersion "badVersion" "this version of the protocol is not spoken here";
    FrameTooLarge "frameTooLarge" "a message carries at most 16384 bytes of data";
    // What is refused before it is looked at.
    UnknownInstruction "unknownInstruction" "there is no such instruction";
    NotForClients "notForClients" "this instruction is not a client's to send";
    WrongState "wrongState" "this instruction does not belong to the present state of the connection";
    ArgumentCount "argumentCount" "wrong number of arguments";
    BadArguments "badArguments" "the arguments are not UTF-8 text separated by single spaces";
    TooManyRequests "tooManyRequests" "too many requests are waiting on this connection";
    // Sessions.
    SessionRequired "sessionRequired" "this instruction needs a session: log in first";
    SessionUnknown "sessionUnknown" "this session is not known here: log in again";
    SessionExpired "sessionExpired" "this session has expired: log in again";
    // Accounts.
    BadUserName "badUserName" "a user name is 1 to 24 letters, digits, '_', '-' and '.'";
    BadEmail "badEmail" "an email address is local@domain, at most 321 characters, without spaces";
    BadPasswordHash "badPasswordHash" "hashedPass is 64 lower-case hexadecimal digits";
    TooManyAttempts "tooManyAttempts" "too many attempts: wait before the next one";
    PasswordChangeRequired "passwordChangeRequired" "this account needs a new password before anything else";
    SamePassword "samePassword" "the new password is the old one";
    NameTaken "nameTaken" "this user name is taken";
    BadCredentials "badCredentials" "wrong user name or password";
    UnknownUser "unknownUser" "there is no such user";
    // Orders.
    BadSymbol "badSymbol" "a symbol is 1 to 23 capital letters, digits and . - / ^ =";
    UnknownAsset "unknownAsset" "there is no such asset";
    BadQuantity "badQuantity" "a quantity is a number above zero, at most 1000000000, with at most 8 decimals";
    BadClientOrderId "badClientOrderId" "a client order ID is 1 to 128 printable ASCII characters without spaces";
    ClientOrderIdConflict "clientOrderIdConflict" "this client order ID belongs to an order with other content";
    AccountDisabled "accountDisabled" "this account is disabled";
    MarketEnded "marketEnded" "the market has come to the end of its prices: there is no next price to fill at";
    NoPrice "noPrice" "this asset has no price yet";
    TooManyOpenOrders "tooManyOpenOrders" "too many open orders: wait for some to fill, or cancel them";
    OrderTooLarge "orderTooLarge" "this order is larger than the largest accepted amount";
    InsufficientCash "insufficientCash" "not enough cash that is not held by open orders";
    InsufficientShares "insufficientShares" "not enough shares that are not held by open orders";
    NothingLeft "nothingLeft" "a split left nothing of this order";
    OrderCancelled "orderCancelled" "this order was cancelled";
    OrderExpired "orderExpired" "this order waited too long for a price and expired";
    OrderNotFound "orderNotFound" "there is no order with this client order ID";
    OrderDone "orderDone" "this order is done and cannot be cancelled";
    DeadlinePassed "deadlinePassed" "the master could not be reached in time: this order will not happen";
    OutcomeUnknown "outcomeUnknown" "it is not known whether this was done: ask, or send it again (an order with the same client order ID)";
    // Data.
    BadDate "badDate" "a date is YYYY-MM-DD";
    BadRange "badRange" "from and to are dates (YYYY-MM-DD) or nanoseconds since 1970, from before to";
    BadResolution "badResolution" "a resolution is interval, hour, day or month";
    RangeTooLarge "rangeTooLarge" "this range holds more bars than one answer may carry: ask for less";
    FutureDate "futureDate" "this date is later than the market's";
    BadHorizon "badHorizon" "the number of days to predict is 1 to 60";
    NoForecast "noForecast" "there is too little history to predict from";
    BadCursor "badCursor" "a cursor is 0, or that of an event: three numbers with dots between them";
    BadState "badState" "a state is command or data";
    // The servers.
    TooManyConnections "tooManyConnections" "too many connections come from this address";
    Idle "idle" "nothing was said for too long";
    Busy "busy" "the server is busy: try again in a moment";
    Unavailable "unavailable" "the master cannot be reached just now: try again in a moment";
    ShuttingDown "shuttingDown" "the server is shutting down";
    NotAuthorized "notAuthorized" "not allowed";
}

impl From<OrderRefusal> for Reason {
    fn from(refusal: OrderRefusal) -> Reason {
        match refusal {
            OrderRefusal::AccountDisabled => Reason::AccountDisabled,
            OrderRefusal::MarketEnded => Reason::MarketEnded,
            OrderRefusal::NoPrice => Reason::NoPrice,
            OrderRefusal::TooManyOpenOrders => Reason::TooManyOpenOrders,
            OrderRefusal::OrderTooLarge => Reason::OrderTooLarge,
            OrderRefusal::InsufficientCash => Reason::InsufficientCash,
            OrderRefusal::InsufficientShares => Reason::InsufficientShares,
            OrderRefusal::NothingLeft => Reason::NothingLeft,
        }
    }
}

/// A refusal with words for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// The stable word.
    pub reason: Reason,
    /// The words.
    pub text: String,
}

impl Failure {
    /// A refusal with other words than the reason's own.
    pub fn new(reason: Reason, text: impl Into<String>) -> Failure {
        Failure { reason, text: text.into() }
    }
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Failure {
        Failure { reason, text: reason.text().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_words() {
        let codes: HashSet<&str> = Reason::ALL.iter().map(|r| r.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(reason.code().bytes().all(|b| b.is_ascii_alphabetic()));
            assert_eq!(Reason::from_code(reason.code()), Some(*reason));
        }
    }

    #[test]
    fn an_order_refusal_says_the_same_in_both_crates() {
        for refusal in OrderRefusal::ALL {
            assert_eq!(Reason::from(refusal).text(), refusal.to_string());
        }
    }
}
