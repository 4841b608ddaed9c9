//! What is sent instead of a password.
//!
//! `hashedPass` = PBKDF2-HMAC-SHA-256 of the password's UTF-8 bytes, 600,000 rounds, 32 bytes,
//! written as 64 lower-case hexadecimal digits. The salt is the bytes of
//!
//! ```text
//! "papertrader-password-v1" 00 deploymentID 00 user name in ASCII lower case
//! ```
//!
//! where `00` is one zero byte and the deployment's ID is as `welcome` gives it. The password
//! itself is taken as it was typed: no normalisation, no trimming. It never leaves the machine.

use pbkdf2::pbkdf2_hmac;
use sha2::Sha256;

use papertrader_core::names::UserName;
use papertrader_protocol::request::HashedPass;

/// Rounds of PBKDF2. Part of the definition: a change would lock every user out.
pub const PASSWORD_ROUNDS: u32 = 600_000;

const LABEL: &str = "papertrader-password-v1";

/// A password as its owner typed it. Never prints itself.
#[derive(Clone)]
pub struct Password(String);

impl Password {
    /// Keeps the text as it is.
    pub fn new(text: impl Into<String>) -> Password {
        Password(text.into())
    }

    /// Whether it is empty: interfaces ask for something better.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The `hashedPass` of this password. It takes a large part of a second of processor time.
    pub fn hashed(&self, deployment: &str, name: &UserName) -> HashedPass {
        let salt = [LABEL.as_bytes(), deployment.as_bytes(), name.key().as_bytes()].join(&0);
        let mut hash = [0; 32];
        pbkdf2_hmac::<Sha256>(self.0.as_bytes(), &salt, PASSWORD_ROUNDS, &mut hash);
        let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        // 32 bytes are 64 lower-case digits, whatever the password is.
        HashedPass::parse(&digits).expect("64 hexadecimal digits")
    }
}

impl PartialEq for Password {
    /// For comparing what was typed twice; not in constant time, both texts are the user's own.
    fn eq(&self, other: &Password) -> bool {
        self.0 == other.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with Python: `hashlib.pbkdf2_hmac('sha256', password, salt, 600000, 32).hex()`.
    #[test]
    fn the_hash_is_the_one_of_another_implementation() {
        let hashed =
            Password::new("correct horse").hashed("0190f7a2-deployment", &"Alice".parse().unwrap());
        assert_eq!(
            hashed.reveal(),
            "2a65c2701575ca38e1c18653582a4fd3a3a760ca8b0c0dbdb1033736da0dd3f8"
        );
        let hashed = Password::new("pässwörd ☂").hashed("d", &"a.b-c_1".parse().unwrap());
        assert_eq!(
            hashed.reveal(),
            "e4a151e0503e21b4e9d862caf32bd43a6c6c6aa82bac622eba70d3990ec3f526"
        );
    }

    #[test]
    fn it_never_prints_itself() {
        assert_eq!(format!("{:?}", Password::new("hunter2")), "Password(secret)");
    }
}
