//! Texts with a grammar: symbols, user names, email addresses, client order IDs.
//!
//! A value of these types is valid by construction. All are bounded.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// The longest symbol in bytes.
pub const MAX_SYMBOL: usize = 23;
/// The longest user name in characters (specification 2.4.1).
pub const MAX_USER_NAME: usize = 24;
/// The longest email address in characters (specification 2.4.1).
pub const MAX_EMAIL: usize = 321;
/// The longest client order ID in bytes.
pub const MAX_CLIENT_ORDER_ID: usize = 128;

/// Why a text is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A symbol is 1 to 23 capital letters, digits and `. - / ^ =`.
    #[error("a symbol is 1 to 23 capital letters, digits and . - / ^ =")]
    Symbol,
    /// A user name is 1 to 24 ASCII letters, digits, `_`, `-` and `.`.
    #[error("a user name is 1 to 24 letters, digits, '_', '-' and '.'")]
    UserName,
    /// An email address is `local@domain`, at most 321 characters, without spaces.
    #[error("an email address is local@domain, at most 321 characters, without spaces")]
    Email,
    /// A client order ID is 1 to 128 printable ASCII characters without spaces.
    #[error("a client order ID is 1 to 128 printable ASCII characters without spaces")]
    ClientOrderId,
}

/// The short name of an instrument, such as `AAPL` or `BTC/USD`. Small and copied freely.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Symbol {
    // Unused bytes are zero, so the derived order is that of the text.
    bytes: [u8; MAX_SYMBOL],
    len: u8,
}

impl Symbol {
    /// The text.
    pub fn as_str(&self) -> &str {
        // The bytes were ASCII when the value was made; the fallback cannot be reached.
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

// A table by symbol is asked with the bytes of a message as they came: what is in it is a symbol.
impl Borrow<[u8]> for Symbol {
    #[inline]
    fn borrow(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl Hash for Symbol {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        Borrow::<[u8]>::borrow(self).hash(state);
    }
}

impl FromStr for Symbol {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Symbol, NameError> {
        let allowed = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b".-/^=".contains(&b);
        if text.is_empty() || text.len() > MAX_SYMBOL || !text.bytes().all(allowed) {
            return Err(NameError::Symbol);
        }
        let mut bytes = [0; MAX_SYMBOL];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Symbol { bytes, len: text.len() as u8 })
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $error:expr, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<$name, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok($name(text.into())) } else { Err($error) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

text_type!(
    /// A user name as its owner writes it. Two names that differ only in case are the same user:
    /// compare [`UserName::key`].
    UserName,
    NameError::UserName,
    |text| {
        (1..=MAX_USER_NAME).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
    }
);

impl UserName {
    /// The name in lower case: what is unique, and what the password is salted with.
    pub fn key(&self) -> String {
        self.0.to_ascii_lowercase()
    }

    /// Whether this is its [`key`](UserName::key).
    pub fn has_key(&self, key: &str) -> bool {
        self.0.bytes().map(|byte| byte.to_ascii_lowercase()).eq(key.bytes())
    }
}

text_type!(
    /// An email address. Only its shape is checked; mail is what proves it.
    Email,
    NameError::Email,
    |text| {
        text.len() <= 4 * MAX_EMAIL
            && text.chars().count() <= MAX_EMAIL
            && !text.chars().any(|c| c.is_whitespace() || c.is_control())
            && text.rsplit_once('@').is_some_and(|(local, domain)| {
                !local.is_empty() && !domain.is_empty() && !local.contains('@')
            })
    }
);

text_type!(
    /// The client's own name for an order, unique within the account: the idempotency key.
    ClientOrderId,
    NameError::ClientOrderId,
    |text| {
        (1..=MAX_CLIENT_ORDER_ID).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols() {
        for good in ["A", "AAPL", "BRK.B", "BTC/USD", "^GSPC", "A2345678901234567890123"] {
            assert_eq!(good.parse::<Symbol>().unwrap().as_str(), good);
        }
        for bad in ["", "aapl", "A B", "A23456789012345678901234", "É", "A\0"] {
            assert_eq!(bad.parse::<Symbol>(), Err(NameError::Symbol), "{bad:?}");
        }
        assert!("A".parse::<Symbol>().unwrap() < "AA".parse::<Symbol>().unwrap());
    }

    #[test]
    fn user_names() {
        assert!("a".repeat(24).parse::<UserName>().is_ok());
        for bad in ["", &"a".repeat(25), "a b", "ä", "a@b"] {
            assert_eq!(bad.parse::<UserName>(), Err(NameError::UserName), "{bad:?}");
        }
        let alice: UserName = "Alice".parse().unwrap();
        assert_eq!(alice.key(), "alice");
        assert!(alice.has_key("alice"));
        for other in ["Alice", "alic", "alicea", ""] {
            assert!(!alice.has_key(other), "{other}");
        }
    }

    #[test]
    fn emails() {
        let longest = format!("{}@{}", "a".repeat(64), "b".repeat(256));
        assert_eq!(longest.chars().count(), 321);
        assert!(longest.parse::<Email>().is_ok());
        let too_long = format!("{longest}c");
        for bad in ["", "a", "@b", "a@", "a b@c", "a@b@c", &too_long] {
            assert_eq!(bad.parse::<Email>(), Err(NameError::Email), "{bad:?}");
        }
    }

    #[test]
    fn client_order_ids() {
        assert!("x".repeat(128).parse::<ClientOrderId>().is_ok());
        for bad in ["", &"x".repeat(129), "a b", "a\n", "é"] {
            assert!(bad.parse::<ClientOrderId>().is_err(), "{bad:?}");
        }
    }
}
