//! A certificate: somebody's OpenPGP public key, reduced to what its owner says about it.
//!
//! It keeps the primary key, the user IDs, the subkeys, and of the signatures only those that the
//! primary key itself made and that verify. Certifications by others, photographs and whatever was
//! forged or put in by somebody else are gone after [`Certificate::parse`]. It does not judge: an
//! expired, revoked or weak key is a certificate too (see `policy` for what may be used).
//!
//! Invariant: each signature in it is a cryptographically valid one by the primary key, and
//! [`Certificate::to_bytes`] is at most [`MAX_CERTIFICATE`] long.

use std::fmt;

use pgp::composed::{ArmorOptions, Deserializable, SignedPublicKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::ser::Serialize;
use pgp::types::{KeyDetails, Tag};

use super::packets::{self, Kind};
use super::policy::is_revoked;
use super::{Fingerprint, MAX_CERTIFICATE, NotAKey};

/// Most signatures of one key that are verified, so that reading it takes bounded time.
const MAX_SIGNATURES: usize = 128;
/// Most subkeys of one key.
const MAX_SUBKEYS: usize = 32;
/// Longest user ID that is shown, in characters.
const MAX_USER_ID: usize = 120;

/// Somebody's OpenPGP public key: a primary key with its user IDs and subkeys.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    pub(super) key: SignedPublicKey,
    fingerprint: Fingerprint,
    bytes: Vec<u8>,
}

/// Why a public key is not taken as a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is no public key.
    #[error(transparent)]
    NotAKey(#[from] NotAKey),
    /// It has more parts than anybody needs.
    #[error(
        "the OpenPGP key has more than {MAX_SUBKEYS} subkeys or {MAX_SIGNATURES} signatures of its \
         own: export less of it with `gpg --armor --export-options export-minimal --export NAME`, \
         or make a new key"
    )]
    TooManyParts,
    /// What is needed of it is more than [`MAX_CERTIFICATE`] bytes.
    #[error(
        "what is needed of the OpenPGP key has {0} bytes, more than {MAX_CERTIFICATE}: export less \
         of it with `gpg --armor --export-options export-minimal --export NAME`, delete old user \
         IDs and subkeys, or make a new key"
    )]
    TooLarge(usize),
}

impl Certificate {
    /// Reads one public key, armored or binary, as `gpg --export` writes it or as
    /// [`Certificate::to_bytes`] does.
    ///
    /// # Errors
    /// See [`CertificateError`]. A key that is expired, revoked or weak is not an error here.
    pub fn parse(bytes: &[u8]) -> Result<Certificate, CertificateError> {
        let packets = packets::key(bytes, Kind::Public)?;
        let key = SignedPublicKey::from_packets(packets.into_iter().map(Ok).peekable())
            .next()
            .and_then(Result::ok)
            .ok_or(NotAKey::Damaged)?;
        Certificate::reduce(key)
    }

    /// What the owner says about the key, without the rest.
    pub(super) fn reduce(mut key: SignedPublicKey) -> Result<Certificate, CertificateError> {
        let primary = &key.primary_key;
        let fingerprint = Fingerprint::of(primary).ok_or(NotAKey::OtherData)?;
        if key.public_subkeys.len() > MAX_SUBKEYS {
            return Err(CertificateError::TooManyParts);
        }
        let mut verified = 0;
        // Whether a signature stays: it may be one by the primary key, and it is.
        let mut keep = |signature: &Signature, verify: &dyn Fn() -> pgp::errors::Result<()>| {
            if !may_be_by(signature, primary) || !hash_means_something(signature) {
                return false;
            }
            verified += 1;
            verified <= MAX_SIGNATURES && verify().is_ok()
        };

        let details = &mut key.details;
        details.user_attributes.clear();
        details
            .revocation_signatures
            .retain(|signature| keep(signature, &|| signature.verify_key(primary)));
        details.direct_signatures.retain(|signature| {
            signature.typ() == Some(SignatureType::Key)
                && keep(signature, &|| signature.verify_key(primary))
        });
        for user in &mut details.users {
            let id = &user.id;
            user.signatures.retain(|signature| {
                keep(signature, &|| signature.verify_certification(primary, Tag::UserId, id))
            });
        }
        for subkey in &mut key.public_subkeys {
            let bound = &subkey.key;
            subkey.signatures.retain(|signature| {
                keep(signature, &|| signature.verify_subkey_binding(primary, bound))
            });
        }
        if verified > MAX_SIGNATURES {
            return Err(CertificateError::TooManyParts);
        }
        key.details.users.retain(|user| !user.signatures.is_empty());
        key.public_subkeys.retain(|subkey| {
            !subkey.signatures.is_empty() && Fingerprint::of(&subkey.key).is_some()
        });

        let mut bytes = Vec::new();
        key.to_writer(&mut bytes).map_err(|_| NotAKey::Damaged)?;
        if bytes.len() > MAX_CERTIFICATE {
            return Err(CertificateError::TooLarge(bytes.len()));
        }
        Ok(Certificate { key, fingerprint, bytes })
    }

    /// The fingerprint of the primary key: what identifies the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The user ID to show, such as `worker-1 <ops@example.org>`: of those that are not revoked the
    /// one marked as primary, else the first. At most 120 characters, none of them a control character. Empty if there is
    /// none. It is what the owner calls himself, no more.
    pub fn user_id(&self) -> String {
        let mut users = self.key.details.users.iter().filter(|user| !is_revoked(user));
        let user = users.clone().find(|user| user.is_primary()).or_else(|| users.next());
        let text = user.map(|user| String::from_utf8_lossy(user.id.id())).unwrap_or_default();
        let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        text.chars().map(shown).take(MAX_USER_ID).collect()
    }

    /// The certificate in binary. At most [`MAX_CERTIFICATE`] bytes.
    pub fn to_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The certificate as text, for a file or a mail.
    pub fn to_armored(&self) -> String {
        // It was written as bytes once already, and memory does not refuse a write.
        self.key.to_armored_string(ArmorOptions::default()).unwrap_or_default()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} {:?})", self.fingerprint, self.user_id())
    }
}

/// Whether a signature does not name another key as its maker. Names are hints: only verifying
/// tells.
pub(super) fn may_be_by(signature: &Signature, key: &impl KeyDetails) -> bool {
    let (ids, fingerprints) = (signature.issuer_key_id(), signature.issuer_fingerprint());
    (ids.is_empty() && fingerprints.is_empty())
        || ids.contains(&&key.legacy_key_id())
        || fingerprints.contains(&&key.fingerprint())
}

/// Whether a signature with this hash can be taken for its maker's word at all. That is less than
/// being strong (see `policy`): a revocation with SHA-1 still counts.
fn hash_means_something(signature: &Signature) -> bool {
    use HashAlgorithm::{Ripemd160, Sha1, Sha3_256, Sha3_512, Sha224, Sha256, Sha384, Sha512};
    matches!(
        signature.hash_alg(),
        Some(Sha1 | Ripemd160 | Sha224 | Sha256 | Sha384 | Sha512 | Sha3_256 | Sha3_512)
    )
}
