//! The fingerprint of a TLS certificate, as people compare it and the list of workers carries it.
//!
//! It is computed elsewhere; here is only its form.

use std::fmt;
use std::str::FromStr;

/// The SHA-256 of a certificate in DER form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

/// A text that is not a fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a certificate's fingerprint is the 64 hexadecimal digits of its SHA-256")]
pub struct NotAFingerprint;

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    /// Takes capital and small digits, with colons between the bytes or without.
    fn from_str(text: &str) -> Result<Fingerprint, NotAFingerprint> {
        let mut bytes = [0; 32];
        let digits: Vec<u8> = match text.len() {
            64 => text.bytes().collect(),
            95 if text.bytes().skip(2).step_by(3).all(|b| b == b':') => {
                let places = text.bytes().enumerate();
                places.filter(|(at, _)| at % 3 != 2).map(|(_, digit)| digit).collect()
            }
            _ => return Err(NotAFingerprint),
        };
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or(NotAFingerprint);
            *byte = (digit(0)? << 4 | digit(1)?) as u8;
        }
        Ok(Fingerprint(bytes))
    }
}

impl fmt::Display for Fingerprint {
    /// 64 small digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_usual_forms_are_read() {
        let bytes = std::array::from_fn(|n| n as u8 * 7);
        let plain = Fingerprint(bytes).to_string();
        assert_eq!(plain.len(), 64);
        assert_eq!(plain.parse(), Ok(Fingerprint(bytes)));
        assert_eq!(plain.to_uppercase().parse(), Ok(Fingerprint(bytes)));
        let pairs: Vec<&str> = (0..32).map(|n| &plain[n * 2..n * 2 + 2]).collect();
        assert_eq!(pairs.join(":").parse(), Ok(Fingerprint(bytes)));
        for bad in ["", "00", &pairs.join("-"), &"g".repeat(64), &"é".repeat(32), &plain[1..]] {
            assert_eq!(bad.parse::<Fingerprint>(), Err(NotAFingerprint), "{bad}");
        }
    }
}
