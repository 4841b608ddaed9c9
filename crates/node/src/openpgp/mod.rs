//! OpenPGP keys and messages: how master and worker prove who they are (specification 4.1).
//!
//! A [`Certificate`] is somebody's public key, an [`Identity`] is one's own secret key. [`seal`]
//! makes a message that is signed by the one and encrypted to the other; [`open`] takes it. Nothing
//! here does I/O or reads a clock: `now` comes in. Randomness is the operating system's.
//!
//! The library underneath (rPGP) checks signatures and nothing else: to it an expired, a revoked
//! and a 512-bit key are as good as any. What is accepted is therefore decided here, in one place,
//! [`Certificate::usable`], and no message is made or taken with a key that has not passed it.
//! What comes from outside has a cap before it is read ([`MAX_KEY_FILE`], [`MAX_MESSAGE`]), and the
//! number of signatures that are verified for one key has one too.
//!
//! Keys and messages are of version 4, as GnuPG 2.2 makes and reads them. A key that
//! [`Identity::generate`] makes is Ed25519 with Curve25519.
//!
//! # RSA
//! RUSTSEC-2023-0071 ("Marvin"): the RSA implementation below does not decrypt in constant time, so
//! somebody who may send very many messages and measure the answers exactly could in theory decrypt
//! one message or forge one signature. Keys made here are never RSA; RSA keys are taken because
//! operators bring them. What lessens the risk: only allowed addresses get to [`open`], a message
//! is opened once per connection, and whoever uses it must answer every [`OpenError`] alike (cut the
//! link, say nothing). Whoever can choose should take Ed25519.
//!
//! # What the library writes to its log
//! While rPGP reads a secret key it writes the bytes to its log at level debug. Secret keys are
//! therefore never given to that part of it (see `packets`).

mod certificate;
mod identity;
mod message;
mod packets;
mod policy;

use std::fmt;
use std::str::FromStr;

use papertrader_core::time::{Date, MarketTime, SECOND, WallTime};

pub use certificate::{Certificate, CertificateError};
pub use identity::{Identity, IdentityError, Passphrase};
pub use message::{OpenError, SealError, open, seal};
pub use packets::NotAKey;
pub use policy::{Fault, KeyProblem, Usable};

/// Longest key file that is read, in bytes.
pub const MAX_KEY_FILE: usize = 64 * 1024;
/// Longest certificate, in bytes as [`Certificate::to_bytes`] gives it.
pub const MAX_CERTIFICATE: usize = 12 * 1024;
/// Longest message, in bytes.
pub const MAX_MESSAGE: usize = 16 * 1024;
/// How far two clocks may be apart, in seconds: a message may be this old, and it, a key or a
/// signature on a key may be this far in the future.
pub const CLOCK_TOLERANCE: i64 = 600;

/// What identifies a key: the 20 bytes of a version 4 fingerprint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 20]);

/// A text that is no fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a fingerprint: 40 hexadecimal digits, as `gpg --fingerprint` shows them")]
pub struct NotAFingerprint(String);

impl Fingerprint {
    /// The fingerprint of these bytes.
    pub const fn from_bytes(bytes: [u8; 20]) -> Fingerprint {
        Fingerprint(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// That of a key of the library. `None` if the key is not of version 4.
    fn of(key: &impl pgp::types::KeyDetails) -> Option<Fingerprint> {
        match key.fingerprint() {
            pgp::types::Fingerprint::V4(bytes) => Some(Fingerprint(bytes)),
            _ => None,
        }
    }
}

/// Forty upper-case hexadecimal digits.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    /// Reads 40 hexadecimal digits of either case; spaces between them do not count.
    fn from_str(text: &str) -> Result<Fingerprint, NotAFingerprint> {
        let bad = || NotAFingerprint(text.chars().take(60).collect());
        let mut digits = text.chars().filter(|c| *c != ' ').map(|c| c.to_digit(16));
        let mut bytes = [0; 20];
        for byte in &mut bytes {
            let mut digit = || digits.next().flatten().ok_or_else(bad);
            *byte = (digit()? * 16 + digit()?) as u8;
        }
        if digits.next().is_some() { Err(bad()) } else { Ok(Fingerprint(bytes)) }
    }
}

/// Whole seconds of a time: OpenPGP knows no smaller part.
fn seconds(time: WallTime) -> i64 {
    time.0.div_euclid(SECOND)
}

/// The time of `seconds` since 1970.
fn wall(seconds: i64) -> WallTime {
    WallTime(seconds.saturating_mul(SECOND))
}

/// `now` as OpenPGP writes it. Times that it cannot write (before 1970, after 2106) become the
/// nearest that it can.
fn timestamp(now: WallTime) -> pgp::types::Timestamp {
    let seconds = seconds(now).clamp(0, i64::from(u32::MAX));
    pgp::types::Timestamp::from_secs(seconds as u32)
}

/// A time as people read it, such as `2026-07-01 09:30:00 UTC`.
struct Utc(WallTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_day = seconds(self.0).rem_euclid(86_400);
        let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        write!(f, "{} {hour:02}:{minute:02}:{second:02} UTC", Date::of(MarketTime(self.0.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_gpg_shows_it() {
        let shown = "D8A9 6D6C 0C51 8C0A 5B16  5C17 9C1D 7F2C 0A5F 11E2";
        let plain = shown.replace(' ', "");
        let fingerprint: Fingerprint = shown.parse().unwrap();
        assert_eq!(fingerprint.to_string(), plain);
        assert_eq!(plain.to_lowercase().parse(), Ok(fingerprint));
        for bad in ["", &plain[1..], &format!("{plain}0"), &plain.replace('D', "G")] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_written_for_people() {
        assert_eq!(Utc(WallTime(951_782_400 * SECOND)).to_string(), "2000-02-29 00:00:00 UTC");
        assert_eq!(Utc(WallTime(951_868_799 * SECOND + 5)).to_string(), "2000-02-29 23:59:59 UTC");
    }
}
