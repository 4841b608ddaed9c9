//! Messages: signed by one key, encrypted to another, one exact shape.
//!
//! ```text
//! session key, encrypted to the receiver's encryption key       (PKESK version 3)
//! encrypted and integrity-protected data, AES, with MDC         (SEIPD version 1)
//!   announcement of one signature                               (one-pass signature version 3)
//!   the content, binary                                         (literal data)
//!   the signature by the sender's signing key                   (signature version 4)
//! ```
//!
//! Nothing else is taken: no compression, no second recipient, no second signature, nothing nested,
//! nothing around it, no armor. What is inside is released only after its integrity, the signer and
//! the time of the signature are checked. Who calls [`open`] must answer all of its errors alike.
//!
//! A message says nothing of whom it was meant for or when it was asked for: the content must (both
//! fingerprints and a nonce), and the caller must check it.

use papertrader_core::time::WallTime;
use pgp::composed::PlainSessionKey;
use pgp::crypto::Decryptor;
use pgp::crypto::sym::SymmetricKeyAlgorithm;
use pgp::packet::{
    OnePassSignature, Packet, PacketHeader, PacketTrait, PublicKeyEncryptedSessionKey, Signature,
    SignatureConfig, SignatureType, Subpacket, SubpacketData, SymEncryptedProtectedData,
};
use pgp::ser::Serialize;
use pgp::types::{
    DecryptionKey, EcdhPublicParams, EncryptionKey, EskType, Password, PkeskBytes,
    PlainSecretParams, PublicParams, Seipdv1ReadMode, SigningKey, Tag, VerifyingKey,
};
use rand::rngs::OsRng;

use super::certificate::may_be_by;
use super::identity::Secret;
use super::packets::{Unreadable, packets};
use super::policy::{Component, end_of_signature, strong};
use super::{
    CLOCK_TOLERANCE, Certificate, Fingerprint, Identity, KeyProblem, MAX_MESSAGE, Utc, seconds,
    timestamp, wall,
};

/// Why a message cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// One's own key may not be used.
    #[error("this side's own key cannot be used: {0}")]
    Own(KeyProblem),
    /// The receiver's key may not be used.
    #[error("the other side's key cannot be used: {0}")]
    Peer(KeyProblem),
    /// The message would be longer than [`MAX_MESSAGE`].
    #[error("the message would have {0} bytes, more than {MAX_MESSAGE}")]
    TooLarge(usize),
    /// The library could not sign or encrypt.
    #[error("the OpenPGP message cannot be made")]
    Library,
}

/// Why a message is not taken. The words are for one's own log, never for the sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// One's own key may not be used.
    #[error("this side's own key cannot be used: {0}")]
    Own(KeyProblem),
    /// The sender's key may not be used.
    #[error("the sender's key cannot be used: {0}")]
    Peer(KeyProblem),
    /// Longer than [`MAX_MESSAGE`].
    #[error("the message has {0} bytes, more than {MAX_MESSAGE}")]
    TooLarge(usize),
    /// Not OpenPGP, cut off, damaged, or not of the one shape.
    #[error("the message is not a signed and encrypted OpenPGP message")]
    Malformed,
    /// Encrypted without protection of its integrity, or with another than MDC.
    #[error("the message is encrypted without the integrity protection that is asked for (MDC)")]
    Unprotected,
    /// Encrypted to another key.
    #[error(
        "the message is encrypted to key {key}, not to this side's encryption key {expected}: has \
         the sender an old copy of this side's key?"
    )]
    NotForUs {
        /// The ID of the key that it is encrypted to, in hexadecimal.
        key: String,
        /// The key that it should be encrypted to.
        expected: Fingerprint,
    },
    /// Its session key or its data do not decrypt: damaged, or made by somebody without the key.
    #[error("the message does not decrypt: it was damaged or made with another key")]
    NotDecrypted,
    /// Its content is compressed.
    #[error("the message is compressed, which is not taken (`gpg --compress-algo none`)")]
    Compressed,
    /// It has no signature, or more than one.
    #[error("the message does not have exactly one signature")]
    NotSignedOnce,
    /// Signed by another key.
    #[error("the message is signed by key {signer}, not by the sender's signing key {expected}")]
    WrongSigner {
        /// The ID or fingerprint that the signature gives, in hexadecimal, or "unknown".
        signer: String,
        /// The key that should have signed it.
        expected: Fingerprint,
    },
    /// The signature does not verify.
    #[error("the signature on the message does not verify")]
    BadSignature,
    /// The signature's hash can be forged.
    #[error("the signature on the message uses {0}, which can be forged")]
    WeakHash(&'static str),
    /// The signature was made too long ago, or in the future.
    #[error(
        "the message was signed on {}, too far from now ({}): is a clock wrong?", Utc(*.signed),
        Utc(*.now)
    )]
    WrongTime {
        /// When it was signed, by its own words.
        signed: WallTime,
        /// When it was opened.
        now: WallTime,
    },
    /// The signature says that it no longer holds.
    #[error("the signature on the message expired on {}", Utc(*.since))]
    SignatureExpired {
        /// Since when.
        since: WallTime,
    },
}

/// Makes a message: `plain`, signed by `identity`, that only the owner of `to` can read.
///
/// # Errors
/// See [`SealError`]: both keys must be usable at `now`.
pub fn seal(
    identity: &Identity,
    to: &Certificate,
    plain: &[u8],
    now: WallTime,
) -> Result<Vec<u8>, SealError> {
    let own = identity.usable(now).map_err(SealError::Own)?;
    let peer = to.usable(now).map_err(SealError::Peer)?;
    if plain.len() > MAX_MESSAGE {
        return Err(SealError::TooLarge(plain.len()));
    }
    let key = own.signing_key();
    let secret = identity.secret(key).ok_or(SealError::Own(KeyProblem::SecretMissing(key)))?;
    let signed = match secret {
        Secret::Primary(key) => sign(key, plain, now),
        Secret::Subkey(key) => sign(key, plain, now),
    };
    let sealed = signed.and_then(|signed| match peer.encryption {
        Component::Primary(key) => encrypt(key, &signed),
        Component::Subkey(key) => encrypt(key, &signed),
    });
    let message = sealed.map_err(|_| SealError::Library)?;
    if message.len() > MAX_MESSAGE {
        return Err(SealError::TooLarge(message.len()));
    }
    Ok(message)
}

/// Takes a message: what the owner of `from` signed, within [`CLOCK_TOLERANCE`] of `now`, and
/// encrypted to `identity`.
///
/// # Errors
/// See [`OpenError`]. All of them must look the same to the sender.
pub fn open(
    identity: &Identity,
    from: &Certificate,
    message: &[u8],
    now: WallTime,
) -> Result<Vec<u8>, OpenError> {
    if message.len() > MAX_MESSAGE {
        return Err(OpenError::TooLarge(message.len()));
    }
    let own = identity.usable(now).map_err(OpenError::Own)?;
    let peer = from.usable(now).map_err(OpenError::Peer)?;
    let key = own.encryption_key();
    let secret = identity.secret(key).ok_or(OpenError::Own(KeyProblem::SecretMissing(key)))?;

    let (session, data) = envelope(message)?;
    let signed = match secret {
        Secret::Primary(secret) => decrypt(secret, key, &session, &data),
        Secret::Subkey(secret) => decrypt(secret, key, &session, &data),
    }?;
    let (content, signature) = letter(&signed)?;
    match peer.signing {
        Component::Primary(key) => check(key, peer.signing_key(), &signature, &content),
        Component::Subkey(key) => check(key, peer.signing_key(), &signature, &content),
    }?;
    let made = signature.created().ok_or(OpenError::BadSignature)?;
    let made = i64::from(made.as_secs());
    if (made - seconds(now)).abs() > CLOCK_TOLERANCE {
        return Err(OpenError::WrongTime { signed: wall(made), now });
    }
    match end_of_signature(&signature) {
        Some(since) if since <= seconds(now) => {
            Err(OpenError::SignatureExpired { since: wall(since) })
        }
        _ => Ok(content),
    }
}

/// The content with its signature around it.
fn sign<K: SigningKey>(key: &K, plain: &[u8], now: WallTime) -> pgp::errors::Result<Vec<u8>> {
    // The hash that fits the key: SHA-256, and more for the longer curves.
    let hash = key.hash_alg();
    let mut config = SignatureConfig::v4(SignatureType::Binary, key.algorithm(), hash);
    config.hashed_subpackets = vec![
        Subpacket::regular(SubpacketData::SignatureCreationTime(timestamp(now)))?,
        Subpacket::regular(SubpacketData::IssuerFingerprint(key.fingerprint()))?,
    ];
    config.unhashed_subpackets =
        vec![Subpacket::regular(SubpacketData::IssuerKeyId(key.legacy_key_id()))?];
    let signature = config.sign(key, &Password::empty(), plain)?;

    let mut out = Vec::new();
    OnePassSignature::v3(SignatureType::Binary, hash, key.algorithm(), key.legacy_key_id())
        .to_writer_with_header(&mut out)?;
    // Binary, no file name, no date.
    let about = [b'b', 0, 0, 0, 0, 0];
    PacketHeader::new_fixed(Tag::LiteralData, (about.len() + plain.len()) as u32)
        .to_writer(&mut out)?;
    out.extend_from_slice(&about);
    out.extend_from_slice(plain);
    signature.to_writer_with_header(&mut out)?;
    Ok(out)
}

fn encrypt<K: EncryptionKey>(key: &K, signed: &[u8]) -> pgp::errors::Result<Vec<u8>> {
    const CIPHER: SymmetricKeyAlgorithm = SymmetricKeyAlgorithm::AES256;
    let session = CIPHER.new_session_key(OsRng);
    let mut out = Vec::new();
    PublicKeyEncryptedSessionKey::from_session_key_v3(OsRng, &session, CIPHER, key)?
        .to_writer_with_header(&mut out)?;
    SymEncryptedProtectedData::encrypt_seipdv1(OsRng, CIPHER, session.as_ref(), signed)?
        .to_writer_with_header(&mut out)?;
    Ok(out)
}

/// Takes the two outer packets apart.
fn envelope(
    message: &[u8],
) -> Result<(PublicKeyEncryptedSessionKey, SymEncryptedProtectedData), OpenError> {
    let mut outer = Vec::with_capacity(2);
    for packet in packets(message) {
        match packet {
            Ok(packet) if outer.len() < 2 => outer.push(packet),
            Err(Unreadable::Unknown | Unreadable::Damaged) | Ok(_) => {
                return Err(OpenError::Malformed);
            }
        }
    }
    let mut outer = outer.into_iter();
    match (outer.next(), outer.next()) {
        (
            Some(Packet::PublicKeyEncryptedSessionKey(session)),
            Some(Packet::SymEncryptedProtectedData(data)),
        ) if data.version() == 1 => {
            // One encoding only: what was changed on the way is refused even if it means the same.
            let mut encoded = Vec::new();
            match session.to_writer_with_header(&mut encoded) {
                Ok(()) if message.starts_with(&encoded) => Ok((session, data)),
                _ => Err(OpenError::Malformed),
            }
        }
        (
            Some(Packet::PublicKeyEncryptedSessionKey(_)),
            Some(
                Packet::SymEncryptedData(_)
                | Packet::SymEncryptedProtectedData(_)
                | Packet::GnupgAeadData(_),
            ),
        ) => Err(OpenError::Unprotected),
        _ => Err(OpenError::Malformed),
    }
}

/// Takes the three inner packets apart: the content and its signature.
fn letter(signed: &[u8]) -> Result<(Vec<u8>, Signature), OpenError> {
    let mut inner = Vec::with_capacity(3);
    for packet in packets(signed) {
        match packet {
            Ok(Packet::CompressedData(_)) => return Err(OpenError::Compressed),
            Ok(packet) if inner.len() < 3 => inner.push(packet),
            Ok(Packet::Signature(_)) => return Err(OpenError::NotSignedOnce),
            Err(Unreadable::Unknown | Unreadable::Damaged) | Ok(_) => {
                return Err(OpenError::Malformed);
            }
        }
    }
    let mut inner = inner.into_iter();
    match (inner.next(), inner.next(), inner.next()) {
        (
            Some(Packet::OnePassSignature(announced)),
            Some(Packet::LiteralData(content)),
            Some(Packet::Signature(signature)),
        ) => {
            // Text would be hashed otherwise than it is given.
            if announced.typ() != SignatureType::Binary
                || announced.is_nested()
                || !announced.matches(&signature)
            {
                return Err(OpenError::BadSignature);
            }
            Ok((content.data().to_vec(), signature))
        }
        (Some(Packet::LiteralData(_)), None, None)
        | (Some(Packet::OnePassSignature(_)), Some(Packet::OnePassSignature(_)), _) => {
            Err(OpenError::NotSignedOnce)
        }
        _ => Err(OpenError::Malformed),
    }
}

/// Decrypts with one's own key: what is inside, its integrity checked.
fn decrypt<K: DecryptionKey + Unlocked>(
    secret: &K,
    fingerprint: Fingerprint,
    session: &PublicKeyEncryptedSessionKey,
    data: &SymEncryptedProtectedData,
) -> Result<Vec<u8>, OpenError> {
    let PublicKeyEncryptedSessionKey::V3 { id, pk_algo, values, .. } = session else {
        return Err(OpenError::Malformed);
    };
    if *id != secret.legacy_key_id() {
        let key = id.to_string().to_uppercase();
        return Err(OpenError::NotForUs { key, expected: fingerprint });
    }
    if *pk_algo != secret.algorithm() || !canonical(values, secret.public_params()) {
        return Err(OpenError::NotDecrypted);
    }
    let (cipher, key) = session_key(secret, values).ok_or(OpenError::NotDecrypted)?;
    use SymmetricKeyAlgorithm::{AES128, AES192, AES256};
    if !matches!(cipher, AES128 | AES192 | AES256) || key.len() != cipher.key_size() {
        return Err(OpenError::NotDecrypted);
    }
    // Nothing is released before the integrity of all of it is checked.
    let mode = Seipdv1ReadMode::CheckFirst { max_message_size: MAX_MESSAGE };
    data.decrypt(key.as_ref(), Some(cipher), mode).map_err(|_| OpenError::NotDecrypted)
}

fn session_key<K: DecryptionKey + Unlocked>(
    secret: &K,
    values: &PkeskBytes,
) -> Option<(SymmetricKeyAlgorithm, pgp::composed::RawSessionKey)> {
    let none = Password::empty();
    // The library panics on an empty session key, which RSA lets anybody send, so what RSA
    // decrypts is taken apart here: cipher, key, checksum.
    if let PkeskBytes::Rsa { mpi } = values {
        let plain = secret.with_secret(|secret| match secret {
            PlainSecretParams::RSA(secret) => secret.decrypt(mpi).ok(),
            _ => None,
        })?;
        let (cipher, rest) = plain.split_first()?;
        let (key, checksum) = rest.split_last_chunk::<2>()?;
        let sum = key.iter().fold(0u16, |sum, byte| sum.wrapping_add(u16::from(*byte)));
        return (sum.to_be_bytes() == *checksum).then(|| ((*cipher).into(), key.into()));
    }
    match secret.decrypt(&none, values, EskType::V3_4) {
        Ok(Ok(PlainSessionKey::V3_4 { sym_alg, ref key })) => Some((sym_alg, key.clone())),
        _ => None,
    }
}

/// A secret key that needs no passphrase.
trait Unlocked {
    fn with_secret<T>(&self, work: impl FnOnce(&PlainSecretParams) -> Option<T>) -> Option<T>;
}

impl Unlocked for pgp::packet::SecretKey {
    fn with_secret<T>(&self, work: impl FnOnce(&PlainSecretParams) -> Option<T>) -> Option<T> {
        self.unlock(&Password::empty(), |_, secret| Ok(work(secret))).ok()?.ok()?
    }
}

impl Unlocked for pgp::packet::SecretSubkey {
    fn with_secret<T>(&self, work: impl FnOnce(&PlainSecretParams) -> Option<T>) -> Option<T> {
        self.unlock(&Password::empty(), |_, secret| Ok(work(secret))).ok()?.ok()?
    }
}

/// Whether the sender's point on Curve25519 is written the one way. The library ignores its first
/// byte, and the curve its highest bit.
fn canonical(values: &PkeskBytes, key: &PublicParams) -> bool {
    match (values, key) {
        (
            PkeskBytes::Ecdh { public_point, .. },
            PublicParams::ECDH(EcdhPublicParams::Curve25519Legacy { .. }),
        ) => matches!(public_point.as_ref(), [0x40, .., last] if last & 0x80 == 0),
        _ => true,
    }
}

/// Checks that the sender's signing key, and no other, signed the content.
fn check(
    key: &impl VerifyingKey,
    expected: Fingerprint,
    signature: &Signature,
    content: &[u8],
) -> Result<(), OpenError> {
    if !may_be_by(signature, key) {
        let fingerprint = signature.issuer_fingerprint().first().map(|f| format!("{f:X}"));
        let id = || signature.issuer_key_id().first().map(|id| id.to_string().to_uppercase());
        let signer = fingerprint.or_else(id).unwrap_or_else(|| "unknown".to_owned());
        return Err(OpenError::WrongSigner { signer, expected });
    }
    if let Err(super::Fault::WeakHash(hash)) = strong(signature) {
        return Err(OpenError::WeakHash(hash));
    }
    signature.verify(key, content).map_err(|_| OpenError::BadSignature)
}
