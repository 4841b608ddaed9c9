//! The fingerprint of a certificate as it travels and as people compare it: the SHA-256 of the
//! certificate's DER bytes.
//!
//! Nothing is hashed here. Invariant: it is written in one form only, 64 lower-case hexadecimal
//! digits, so that two of them can be compared as text.

use std::fmt;
use std::str::FromStr;

/// The SHA-256 of a certificate in DER. It is no secret: it is made to be shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    /// 64 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// The text is not a SHA-256 fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is the 64 hexadecimal digits of a SHA-256, with or without colons")]
pub struct NotAFingerprint;

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    /// 64 hexadecimal digits of either case, or the same with a colon between each two.
    fn from_str(text: &str) -> Result<Fingerprint, NotAFingerprint> {
        let text = text.as_bytes();
        let step = match text.len() {
            64 => 2,
            95 if text.iter().skip(2).step_by(3).all(|byte| *byte == b':') => 3,
            _ => return Err(NotAFingerprint),
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks(step)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Fingerprint(bytes))
    }
}

fn digit(digit: u8) -> Result<u8, NotAFingerprint> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(NotAFingerprint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read_and_one_is_written() {
        let mut bytes = [0; 32];
        bytes.iter_mut().enumerate().for_each(|(i, byte)| *byte = 0xe0 + i as u8);
        let fingerprint = Fingerprint(bytes);
        let text = fingerprint.to_string();
        assert!(text.starts_with("e0e1e2") && text.ends_with("fdfeff") && text.len() == 64);
        let pairs: Vec<&str> = (0..32).map(|i| &text[2 * i..2 * i + 2]).collect();
        let colons = pairs.join(":");
        for form in [&text, &text.to_uppercase(), &colons, &colons.to_uppercase()] {
            assert_eq!(form.parse(), Ok(fingerprint), "{form}");
        }
        assert_eq!(fingerprint.0, bytes);
    }

    #[test]
    fn what_is_no_fingerprint_is_refused() {
        let digits = "0a".repeat(32);
        let colons = ["0a"; 32].join(":");
        let bad = [
            String::new(),
            digits[1..].to_owned(),
            format!("{digits}0"),
            format!("g{}", &digits[1..]),
            format!("{}é", &digits[2..]),
            colons[1..].to_owned(),
            colons.replace(':', "-"),
            colons.replacen("0a:0a", ":0a0a", 1),
            format!("{colons}:"),
        ];
        for text in bad {
            assert_eq!(text.parse::<Fingerprint>(), Err(NotAFingerprint), "{text}");
        }
    }
}
