//! The session ID as it travels: 128 random bits that never print themselves.

use std::fmt;
use std::str::FromStr;

use subtle::ConstantTimeEq;

/// A session ID. All zero means "no session". It is a secret: whoever knows it is its owner.
#[derive(Clone, Copy, Default)]
pub struct SessionId([u8; 16]);

impl PartialEq for SessionId {
    /// In constant time.
    #[inline]
    fn eq(&self, other: &SessionId) -> bool {
        // In two halves: byte by byte takes as long as the rest of an answer.
        let (mine, other) = (u128::from_ne_bytes(self.0), u128::from_ne_bytes(other.0));
        let is_low = (mine as u64).ct_eq(&(other as u64));
        (is_low & ((mine >> 64) as u64).ct_eq(&((other >> 64) as u64))).into()
    }
}

impl Eq for SessionId {}

impl std::hash::Hash for SessionId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl SessionId {
    /// No session.
    pub const NONE: SessionId = SessionId([0; 16]);

    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> SessionId {
        SessionId(bytes)
    }

    /// Its bytes.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        *self == SessionId::NONE
    }

    /// The 32 hexadecimal digits that the `sessionID` return carries. This reveals the secret.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The text is not 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session ID is 32 hexadecimal digits")]
pub struct NotASessionId;

impl FromStr for SessionId {
    type Err = NotASessionId;

    fn from_str(text: &str) -> Result<SessionId, NotASessionId> {
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return Err(NotASessionId);
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Ok(SessionId(bytes))
    }
}

fn hex_digit(digit: u8) -> Result<u8, NotASessionId> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(NotASessionId),
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_none() { "SessionId(none)" } else { "SessionId(secret)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_debug_is_silent() {
        let id = SessionId::from_bytes([0xab; 16]);
        assert_eq!(id.to_hex().parse(), Ok(id));
        assert_eq!(format!("{id:?}"), "SessionId(secret)");
        for bad in ["", "AB", &"AB".repeat(16), &"é".repeat(16)] {
            assert_eq!(bad.parse::<SessionId>(), Err(NotASessionId));
        }
    }
}
