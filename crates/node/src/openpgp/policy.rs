//! Which keys may be used: all of what this project asks of an OpenPGP key is in this file.
//!
//! Of a [`Certificate`] (whose signatures are all verified and all by its owner) it chooses the key
//! that signs and the key that others encrypt to, at a given time. It reads no clock, and verifies
//! one kind of signature only: a signing subkey's own, which proves that it belongs here.
//!
//! The rules:
//! - **What counts** is the newest signature that is neither from the future nor expired itself:
//!   for the primary key among its direct-key signatures and the certifications of its user IDs
//!   that say anything about its use (key flags or an expiration time), for a subkey among its
//!   bindings. While a newer one stands, no older one is looked at.
//! - **Revoked** is final: whatever the reason given (superseded, retired, compromised), whenever it
//!   was made, and with SHA-1 too: that somebody could forge one more revocation is no danger. (MD5
//!   does not count, nor SHA-1 with Ed25519, which RFC 9580 forbids and the library does not
//!   verify.) A revoked user ID no longer says anything about the key. Two kinds of revocation are
//!   not known: by a designated revoker (a third party, whose key is not at hand) and of a direct-key
//!   signature. Remove such a key by hand.
//! - **Hash**: signatures that give something (flags, time, a binding) need SHA-256 or stronger. The
//!   newest signature is chosen first, so a weak one is a refusal and not a step back to an older.
//! - **Algorithms**: Ed25519, ECDSA and ECDH on NIST P-256, P-384 and P-521, X25519, and RSA from
//!   2048 bits. Nothing else: no DSA, no ElGamal, nothing unknown.
//! - **Flags**: a key signs only with the flag for it, and receives only with one of the two for
//!   encryption. A key that states no flags is for nothing.
//! - **Choice**: the newest usable subkey, and the primary key only where no subkey is usable; this
//!   is also what GnuPG takes.
//! - Invariant: a [`Usable`] names keys that pass all of it until [`Usable::valid_until`].

use std::cmp::Reverse;
use std::fmt;

use papertrader_core::time::WallTime;
use pgp::composed::SignedPublicSubKey;
use pgp::crypto::hash::HashAlgorithm;
use pgp::crypto::public_key::PublicKeyAlgorithm;
use pgp::packet::{PublicKey, PublicSubkey, Signature, SignatureType, SubpacketData};
use pgp::types::{
    EcdhPublicParams, EcdsaPublicParams, EddsaLegacyPublicParams, KeyDetails, PublicParams,
    SignedUser,
};

use super::{CLOCK_TOLERANCE, Certificate, Fingerprint, Utc, seconds, wall};

/// Fewest bits of an RSA key.
const MIN_RSA_BITS: usize = 2048;

/// The keys of a certificate that may be used at a time.
#[derive(Debug, Clone, Copy)]
pub struct Usable<'a> {
    pub(super) signing: Component<'a>,
    pub(super) encryption: Component<'a>,
    valid_until: Option<WallTime>,
}

impl Usable<'_> {
    /// The key whose signatures are taken.
    pub fn signing_key(&self) -> Fingerprint {
        self.signing.fingerprint()
    }

    /// The key that messages are encrypted to.
    pub fn encryption_key(&self) -> Fingerprint {
        self.encryption.fingerprint()
    }

    /// From when on this no longer holds: the first end of what it rests on. `None` if nothing in
    /// it ends.
    pub fn valid_until(&self) -> Option<WallTime> {
        self.valid_until
    }
}

/// Why a certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyProblem {
    /// The primary key is no good, so all of it is not.
    #[error("OpenPGP key {0} {1}")]
    Primary(Fingerprint, Fault),
    /// Nothing in it may sign. The list is what is wrong with each key that was meant to.
    #[error("OpenPGP key {} has no usable signing key: {}", .0, Faults(.1, "signing"))]
    NoSigningKey(Fingerprint, Vec<(Fingerprint, Fault)>),
    /// Nothing in it may be encrypted to. The list is what is wrong with each key that was meant to.
    #[error("OpenPGP key {} has no usable encryption key: {}", .0, Faults(.1, "encryption"))]
    NoEncryptionKey(Fingerprint, Vec<(Fingerprint, Fault)>),
    /// Of one's own key, the secret half of a key that is needed is not in the file.
    #[error(
        "the secret half of key {0} is not in the key file (it may be on a card or another \
         machine): export it with `gpg --export-secret-keys`"
    )]
    SecretMissing(Fingerprint),
}

/// What is wrong with one key of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Its owner revoked it.
    Revoked {
        /// When the revocation was made.
        on: WallTime,
    },
    /// Its time is over.
    Expired {
        /// Since when.
        since: WallTime,
    },
    /// It was made later than now, by more than [`CLOCK_TOLERANCE`].
    FromTheFuture {
        /// When it says that it was made.
        created: WallTime,
    },
    /// No valid signature of the primary key on itself says what it is for.
    NoSelfSignature,
    /// The signature that says what it is for has expired.
    SignatureExpired {
        /// Since when.
        since: WallTime,
    },
    /// The signature that says what it is for was made later than now.
    SignatureFromTheFuture {
        /// When it says that it was made.
        created: WallTime,
    },
    /// The signature that says what it is for uses a hash that can be forged.
    WeakHash(&'static str),
    /// A signing subkey that did not itself confirm that it belongs to the primary key.
    NotCrossCertified,
    /// Its algorithm, curve or length is not taken.
    Algorithm(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Revoked { on } => write!(f, "was revoked on {}", Utc(*on)),
            Fault::Expired { since } => write!(f, "expired on {}", Utc(*since)),
            Fault::FromTheFuture { created } => {
                write!(f, "is from the future: it was made on {}; is a clock wrong?", Utc(*created))
            }
            Fault::NoSelfSignature => write!(f, "has no valid signature of its own on its use"),
            Fault::SignatureExpired { since } => {
                write!(f, "is held by a signature that expired on {}", Utc(*since))
            }
            Fault::SignatureFromTheFuture { created } => write!(
                f,
                "is held by a signature from the future, made on {}; is a clock wrong?",
                Utc(*created)
            ),
            Fault::WeakHash(hash) => write!(
                f,
                "is held by a signature with {hash}, which can be forged: set its expiration anew \
                 with a current GnuPG, or make a new key"
            ),
            Fault::NotCrossCertified => {
                write!(f, "did not itself confirm that it belongs to the primary key")
            }
            Fault::Algorithm(name) => write!(
                f,
                "is {name}, which is not taken: use Ed25519, NIST P-256, P-384 or P-521, or RSA \
                 with at least {MIN_RSA_BITS} bits"
            ),
        }
    }
}

struct Faults<'a>(&'a [(Fingerprint, Fault)], &'static str);

impl fmt::Display for Faults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Faults(faults, purpose) = self;
        if faults.is_empty() {
            return write!(f, "no key in it is marked for {purpose}");
        }
        for (i, (key, fault)) in faults.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{key} {fault}")?;
        }
        Ok(())
    }
}

impl Certificate {
    /// The keys of this certificate that may be used at `now`. This module's rules decide.
    ///
    /// # Errors
    /// See [`KeyProblem`]: its words name the key and the cause.
    pub fn usable(&self, now: WallTime) -> Result<Usable<'_>, KeyProblem> {
        let whole = self.fingerprint();
        let now = seconds(now);
        let (statement, until) =
            self.primary(now).map_err(|fault| KeyProblem::Primary(whole, fault))?;
        let choose = |role| self.choose(role, statement, now);
        let signing = choose(Role::Sign).map_err(|f| KeyProblem::NoSigningKey(whole, f))?;
        let encryption =
            choose(Role::Encrypt).map_err(|f| KeyProblem::NoEncryptionKey(whole, f))?;
        let ends = [until, signing.until, encryption.until];
        Ok(Usable {
            signing: signing.key,
            encryption: encryption.key,
            valid_until: ends.into_iter().flatten().min().map(wall),
        })
    }

    /// Judges the primary key: the signature that says what it is for, and when it ends.
    fn primary(&self, now: i64) -> Result<(&Signature, Option<i64>), Fault> {
        let key = &self.key.primary_key;
        revoked(self.key.details.revocation_signatures.iter())?;
        sound(key, Role::Sign, now)?;
        let users = self.key.details.users.iter().filter(|user| !is_revoked(user));
        let statements = users
            .flat_map(|user| &user.signatures)
            .chain(&self.key.details.direct_signatures)
            .filter(|signature| says_something(signature));
        let statement = newest(statements, now)?.ok_or(Fault::NoSelfSignature)?;
        let until = lasting(statement, key, now)?;
        Ok((statement, until))
    }

    /// The key for a role, or what is wrong with each key that was meant for it.
    fn choose(
        &self,
        role: Role,
        statement: &Signature,
        now: i64,
    ) -> Result<Candidate<'_>, Vec<(Fingerprint, Fault)>> {
        let mut faults = Vec::new();
        let mut best: Option<Candidate<'_>> = None;
        for subkey in &self.key.public_subkeys {
            let component = Component::Subkey(&subkey.key);
            match self.subkey(subkey, role, now) {
                None => {}
                Some(Err(fault)) => faults.push((component.fingerprint(), fault)),
                Some(Ok(until)) => {
                    let candidate = Candidate { key: component, until };
                    if best.as_ref().is_none_or(|best| candidate.rank() > best.rank()) {
                        best = Some(candidate);
                    }
                }
            }
        }
        if let Some(best) = best {
            return Ok(best);
        }
        if role.flagged(statement) {
            let primary = &self.key.primary_key;
            match sound(primary, role, now) {
                Ok(()) => return Ok(Candidate { key: Component::Primary(primary), until: None }),
                Err(fault) => faults.push((self.fingerprint(), fault)),
            }
        }
        Err(faults)
    }

    /// Judges a subkey: until when it can be used. `None` if it is not meant for the role.
    fn subkey(
        &self,
        subkey: &SignedPublicSubKey,
        role: Role,
        now: i64,
    ) -> Option<Result<Option<i64>, Fault>> {
        let of_type =
            |typ| subkey.signatures.iter().filter(move |signature| signature.typ() == Some(typ));
        let bindings = || of_type(SignatureType::SubkeyBinding);
        let binding = newest(bindings(), now);
        let meant = match &binding {
            Ok(binding) => binding.is_some_and(|binding| role.flagged(binding)),
            Err(_) => bindings().any(|binding| role.flagged(binding)),
        };
        let judge = || {
            revoked(of_type(SignatureType::SubkeyRevocation))?;
            sound(&subkey.key, role, now)?;
            let binding = binding?.ok_or(Fault::NoSelfSignature)?;
            let mut until = lasting(binding, &subkey.key, now)?;
            if role == Role::Sign {
                let own = binding.embedded_signature().ok_or(Fault::NotCrossCertified)?;
                own.verify_primary_key_binding(&subkey.key, &self.key.primary_key)
                    .map_err(|_| Fault::NotCrossCertified)?;
                newest(std::iter::once(own), now)?.ok_or(Fault::NotCrossCertified)?;
                strong(own)?;
                until = earlier(until, end_of_signature(own));
            }
            Ok(until)
        };
        meant.then(judge)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Sign,
    Encrypt,
}

impl Role {
    /// Whether a signature gives its key this role.
    fn flagged(self, signature: &Signature) -> bool {
        let flags = signature.key_flags();
        match self {
            Role::Sign => flags.sign(),
            Role::Encrypt => flags.encrypt_comms() || flags.encrypt_storage(),
        }
    }
}

/// A primary key or a subkey.
#[derive(Debug, Clone, Copy)]
pub(super) enum Component<'a> {
    Primary(&'a PublicKey),
    Subkey(&'a PublicSubkey),
}

impl Component<'_> {
    pub(super) fn fingerprint(self) -> Fingerprint {
        let fingerprint = match self {
            Component::Primary(key) => Fingerprint::of(key),
            Component::Subkey(key) => Fingerprint::of(key),
        };
        // A certificate holds keys of version 4 only, and those have one.
        fingerprint.unwrap_or(Fingerprint::from_bytes([0; 20]))
    }

    fn created(self) -> u32 {
        match self {
            Component::Primary(key) => key.created_at().as_secs(),
            Component::Subkey(key) => key.created_at().as_secs(),
        }
    }
}

struct Candidate<'a> {
    key: Component<'a>,
    until: Option<i64>,
}

impl Candidate<'_> {
    /// The newest is taken; the fingerprint decides between twins, so that the order in which they
    /// are written does not.
    fn rank(&self) -> (u32, Fingerprint) {
        (self.key.created(), self.key.fingerprint())
    }
}

/// Fails if there is any of these revocations. The first is named.
fn revoked<'a>(revocations: impl Iterator<Item = &'a Signature>) -> Result<(), Fault> {
    match revocations.map(|r| r.created().map_or(0, |on| i64::from(on.as_secs()))).min() {
        Some(on) => Err(Fault::Revoked { on: wall(on) }),
        None => Ok(()),
    }
}

/// Judges what no signature can change: when a key was made and how.
fn sound(key: &impl KeyDetails, role: Role, now: i64) -> Result<(), Fault> {
    accepted(key, role).map_err(Fault::Algorithm)?;
    let created = i64::from(key.created_at().as_secs());
    if created > now + CLOCK_TOLERANCE {
        return Err(Fault::FromTheFuture { created: wall(created) });
    }
    Ok(())
}

/// Judges the signature that counts for a key: the end of what it gives.
fn lasting(signature: &Signature, key: &impl KeyDetails, now: i64) -> Result<Option<i64>, Fault> {
    strong(signature)?;
    let end = end_of_key(signature, key);
    match end {
        Some(since) if since <= now => Err(Fault::Expired { since: wall(since) }),
        _ => Ok(earlier(end, end_of_signature(signature))),
    }
}

/// Whether the owner took back that a user ID is his.
pub(super) fn is_revoked(user: &SignedUser) -> bool {
    user.signatures.iter().any(|s| s.typ() == Some(SignatureType::CertRevocation))
}

/// Whether a self-signature is about the use of the key at all: one that only names a revoker or a
/// preference does not replace one that is.
fn says_something(signature: &Signature) -> bool {
    signature.config().is_some_and(|config| {
        config.hashed_subpackets().any(|packet| {
            matches!(packet.data, SubpacketData::KeyFlags(_) | SubpacketData::KeyExpirationTime(_))
        })
    })
}

/// The newest signature that is neither from the future nor expired. If there are only such, what
/// is wrong with them; `None` if there is none.
fn newest<'a>(
    signatures: impl Iterator<Item = &'a Signature>,
    now: i64,
) -> Result<Option<&'a Signature>, Fault> {
    // Of two that were made in the same second the one that gives less counts.
    let rank = |signature: &Signature| {
        let lasts = signature.key_expiration_time().map_or(0, |span| span.as_secs());
        (signature.created(), Reverse(if lasts == 0 { u32::MAX } else { lasts }))
    };
    let mut best: Option<&Signature> = None;
    let mut fault = None;
    for signature in signatures {
        let Some(created) = signature.created().map(|at| i64::from(at.as_secs())) else {
            continue;
        };
        match end_of_signature(signature) {
            _ if created > now + CLOCK_TOLERANCE => {
                fault = Some(Fault::SignatureFromTheFuture { created: wall(created) });
            }
            Some(since) if since <= now => {
                fault = Some(Fault::SignatureExpired { since: wall(since) });
            }
            _ if best.is_none_or(|best| rank(signature) > rank(best)) => best = Some(signature),
            _ => {}
        }
    }
    match (best, fault) {
        (None, Some(fault)) => Err(fault),
        (best, _) => Ok(best),
    }
}

/// When a signature itself ends. It counts from its own creation.
pub(super) fn end_of_signature(signature: &Signature) -> Option<i64> {
    end(signature.created()?.as_secs(), signature.signature_expiration_time())
}

/// When a key ends by this signature. It counts from the creation of the key.
fn end_of_key(signature: &Signature, key: &impl KeyDetails) -> Option<i64> {
    end(key.created_at().as_secs(), signature.key_expiration_time())
}

/// Zero means "never" to OpenPGP.
fn end(from: u32, span: Option<pgp::types::Duration>) -> Option<i64> {
    let span = span.map_or(0, |span| span.as_secs());
    (span != 0).then_some(i64::from(from) + i64::from(span))
}

fn earlier(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    [a, b].into_iter().flatten().min()
}

/// Judges the hash of a signature that gives something.
pub(super) fn strong(signature: &Signature) -> Result<(), Fault> {
    use HashAlgorithm::{Md5, Ripemd160, Sha1, Sha3_256, Sha3_512, Sha224, Sha256, Sha384, Sha512};
    match signature.hash_alg() {
        Some(Sha256 | Sha384 | Sha512 | Sha3_256 | Sha3_512) => Ok(()),
        Some(Sha1) => Err(Fault::WeakHash("SHA-1")),
        Some(Sha224) => Err(Fault::WeakHash("SHA-224")),
        Some(Ripemd160) => Err(Fault::WeakHash("RIPEMD-160")),
        Some(Md5) => Err(Fault::WeakHash("MD5")),
        _ => Err(Fault::WeakHash("an unknown hash")),
    }
}

/// Whether a key's algorithm is taken for the role; if not, what it is.
fn accepted(key: &impl KeyDetails, role: Role) -> Result<(), String> {
    use PublicKeyAlgorithm::{ECDH, ECDSA, Ed25519, EdDSALegacy, RSA, RSAEncrypt, RSASign, X25519};
    let algorithm = key.algorithm();
    match (role, algorithm, key.public_params()) {
        (_, RSA, PublicParams::RSA(rsa))
        | (Role::Sign, RSASign, PublicParams::RSA(rsa))
        | (Role::Encrypt, RSAEncrypt, PublicParams::RSA(rsa)) => {
            let bits = rsa_bits(rsa);
            if bits >= MIN_RSA_BITS { Ok(()) } else { Err(format!("RSA with {bits} bits")) }
        }
        (Role::Sign, Ed25519, PublicParams::Ed25519(_))
        | (
            Role::Sign,
            EdDSALegacy,
            PublicParams::EdDSALegacy(EddsaLegacyPublicParams::Ed25519 { .. }),
        )
        | (
            Role::Sign,
            ECDSA,
            PublicParams::ECDSA(
                EcdsaPublicParams::P256 { .. }
                | EcdsaPublicParams::P384 { .. }
                | EcdsaPublicParams::P521 { .. },
            ),
        )
        | (Role::Encrypt, X25519, PublicParams::X25519(_))
        | (
            Role::Encrypt,
            ECDH,
            PublicParams::ECDH(
                EcdhPublicParams::Curve25519Legacy { .. }
                | EcdhPublicParams::P256 { .. }
                | EcdhPublicParams::P384 { .. }
                | EcdhPublicParams::P521 { .. },
            ),
        ) => Ok(()),
        (_, _, PublicParams::ECDSA(params)) => Err(format!("ECDSA on {}", params.curve().name())),
        (_, _, PublicParams::ECDH(params)) => Err(format!("ECDH on {}", params.curve().name())),
        _ => Err(format!("{algorithm:?}")),
    }
}

/// The length of the modulus, taken from its encoding: a big-endian count of bits, then the bits.
fn rsa_bits(params: &pgp::types::RsaPublicParams) -> usize {
    let mut encoded = Vec::new();
    match pgp::ser::Serialize::to_writer(params, &mut encoded) {
        Ok(()) if encoded.len() >= 2 => usize::from(u16::from_be_bytes([encoded[0], encoded[1]])),
        _ => 0,
    }
}
