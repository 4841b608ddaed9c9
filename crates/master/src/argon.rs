//! Argon2id over a client's hash, with memory that is kept between hashes: an allocator from which the
//! 19 MiB come anew each time keeps several times as much.
//!
//! It decides nothing. A stored hash names its own parameters. All that there are have today's: who
//! changes these must hash anew at the next right log-in, or the time that one takes would tell
//! old accounts from unknown names.

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::password_hash::{Error, try_generate_salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use papertrader_store::PassHash;

/// The most memory that a hash may ask for, in blocks of 1 KiB: 256 MiB. Today's ask for 19.
const MOST_BLOCKS: usize = 256 * 1024;

/// The most passes over it. Today's make two.
const MOST_PASSES: u32 = 64;

/// Argon2id and its memory.
#[derive(Default)]
pub(crate) struct Argon {
    memory: Vec<Block>,
}

impl Argon {
    /// Hashes a new password, with a salt of its own.
    pub(crate) fn hash(&mut self, pass: &[u8]) -> Result<PassHash, Error> {
        let salt = Salt::new(&try_generate_salt()?)?;
        let (algorithm, version) = (Algorithm::Argon2id, Version::V0x13);
        let argon2 = Argon2::new(algorithm, version, Params::default());
        let hash = PasswordHash {
            algorithm: algorithm.ident(),
            version: Some(version.into()),
            params: ParamsString::try_from(argon2.params())?,
            hash: Some(self.output(&argon2, pass, &salt, Params::DEFAULT_OUTPUT_LEN)?),
            salt: Some(salt),
        };
        Ok(PassHash(hash.to_string()))
    }

    /// Whether a password is that of a stored hash; compared in constant time.
    pub(crate) fn is_right(&mut self, pass: &[u8], against: &PassHash) -> Result<bool, Error> {
        let stored = PasswordHash::new(&against.0)?;
        let (Some(salt), Some(expected)) = (&stored.salt, &stored.hash) else {
            return Err(Error::PasswordInvalid);
        };
        let version = stored.version.map(Version::try_from).transpose()?.unwrap_or_default();
        let algorithm = Algorithm::try_from(stored.algorithm.as_str())?;
        let argon2 = Argon2::new(algorithm, version, Params::try_from(&stored)?);
        Ok(self.output(&argon2, pass, salt, expected.len())? == *expected)
    }

    fn output(
        &mut self,
        argon2: &Argon2<'_>,
        pass: &[u8],
        salt: &[u8],
        length: usize,
    ) -> Result<Output, Error> {
        let blocks = argon2.params().block_count();
        if blocks > MOST_BLOCKS || argon2.params().t_cost() > MOST_PASSES {
            return Err(Error::ParamsInvalid);
        }
        if let Some(more) = blocks.checked_sub(self.memory.len()) {
            self.memory.try_reserve_exact(more).map_err(|_| Error::OutOfMemory)?;
            self.memory.resize(blocks, Block::new());
        }
        let mut buffer = [0; Output::MAX_LENGTH];
        let out = buffer.get_mut(..length).ok_or(Error::OutputSize)?;
        argon2.hash_password_into_with_memory(pass, salt, out, &mut self.memory)?;
        Ok(Output::new(out)?)
    }
}

#[cfg(test)]
mod tests {
    use argon2::{PasswordHasher, PasswordVerifier};

    use super::*;

    #[test]
    fn what_it_hashes_the_library_verifies_and_the_other_way_round() {
        let mut argon = Argon::default();
        let hash = argon.hash(b"the client's hash").unwrap();
        assert!(hash.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.0);
        let library = Argon2::default();
        library.verify_password(b"the client's hash", hash.0.as_str()).unwrap();
        // Parameters of another time, between two hashes in the same memory.
        let older = Params::new(64, 3, 2, Some(20)).unwrap();
        let older = Argon2::new(Algorithm::Argon2id, Version::V0x13, older);
        let older = PassHash(older.hash_password(b"another").unwrap().to_string());
        for (pass, against, is_right) in [
            (&b"the client's hash"[..], &hash, true),
            (b"another", &older, true),
            (b"another", &hash, false),
            (b"the client's hash", &older, false),
            (b"the client's hash", &hash, true),
        ] {
            assert_eq!(argon.is_right(pass, against), Ok(is_right));
        }
        assert_eq!(argon.memory.len(), Params::default().block_count());
    }

    #[test]
    fn what_is_no_hash_is_an_error() {
        for text in [
            "",
            "no hash",
            "$argon2id$v=19$m=19456,t=2,p=1",
            "$scrypt$ln=1$c2FsdHNhbHQ$aGFzaA",
            // Terabytes.
            "$argon2id$v=19$m=4294967295,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        ] {
            let stored = PassHash(text.to_owned());
            assert!(Argon::default().is_right(b"any", &stored).is_err(), "{text}");
        }
    }
}
