//! An identity: one's own OpenPGP secret key, made here or by GnuPG, unlocked in memory.
//!
//! It reads and writes no file and asks for no passphrase; both are handed in. It judges the key no
//! further than a certificate does (see `policy`). Invariant: the secret parts that it holds need no
//! passphrase; those that were not in the file are known to be missing. Nothing of it is printed.

use std::fmt;

use papertrader_core::time::WallTime;
use pgp::composed::{
    ArmorOptions, Deserializable, KeyType, SignedKeyDetails, SignedSecretKey, SignedSecretSubKey,
};
use pgp::crypto::ecc_curve::ECCCurve;
use pgp::crypto::hash::HashAlgorithm;
use pgp::crypto::sym::SymmetricKeyAlgorithm;
use pgp::packet::{
    Features, KeyFlags, PubKeyInner, PublicKey, PublicSubkey, SecretKey, SecretSubkey,
    SignatureConfig, SignatureType, Subpacket, SubpacketData, UserId,
};
use pgp::types::{
    CompressionAlgorithm, KeyDetails, KeyVersion, PacketHeaderVersion, Password, S2kParams,
    SecretParams, SignedUser, StringToKey, Tag, Timestamp,
};
use rand::rngs::OsRng;

use super::packets::{self, Kind};
use super::{Certificate, CertificateError, Fingerprint, KeyProblem, NotAKey, Usable, timestamp};

/// Longest user ID of a key that is made here, in bytes.
const MAX_USER_ID: usize = 120;

/// One's own secret key. Its debugging output names the public half only.
pub struct Identity {
    certificate: Certificate,
    secret: SignedSecretKey,
}

/// What unlocks a secret key. It never prints itself, and its memory is wiped.
pub struct Passphrase(Password);

impl Passphrase {
    /// Keeps the text as it is: no trimming. `None` if it is empty, which is no passphrase.
    pub fn new(text: &str) -> Option<Passphrase> {
        (!text.is_empty()).then(|| Passphrase(Password::from(text)))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// Why there is no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It is no secret key.
    #[error(transparent)]
    NotAKey(#[from] NotAKey),
    /// Its public half is not taken.
    #[error(transparent)]
    Certificate(CertificateError),
    /// The key is locked and no passphrase was given.
    #[error("the secret key is locked: its passphrase is needed")]
    PassphraseNeeded,
    /// The passphrase does not unlock the key.
    #[error("the passphrase does not unlock the secret key")]
    WrongPassphrase,
    /// There is nothing secret in it.
    #[error(
        "the key file holds no secret key, only references to a card or another machine: export \
         the key where it was made, with `gpg --export-secret-keys`"
    )]
    NothingSecret,
    /// The name for a new key cannot be a user ID.
    #[error("a key's name must have 1 to {MAX_USER_ID} bytes and no control characters")]
    UserId,
    /// The library refused to make or write a key.
    #[error("the OpenPGP key cannot be written")]
    Library,
}

impl From<CertificateError> for IdentityError {
    fn from(error: CertificateError) -> IdentityError {
        match error {
            CertificateError::NotAKey(error) => IdentityError::NotAKey(error),
            error => IdentityError::Certificate(error),
        }
    }
}

impl From<pgp::errors::Error> for IdentityError {
    fn from(_: pgp::errors::Error) -> IdentityError {
        IdentityError::Library
    }
}

impl Identity {
    /// Makes a key: Ed25519 for signing, Curve25519 for encryption, as GnuPG 2.2 knows them, that
    /// never expires. `user_id` is what it is called, such as `worker-1 <ops@example.org>`.
    ///
    /// # Errors
    /// [`IdentityError::UserId`] if the name will not do.
    pub fn generate(user_id: &str, now: WallTime) -> Result<Identity, IdentityError> {
        if user_id.is_empty()
            || user_id.len() > MAX_USER_ID
            || user_id.chars().any(char::is_control)
        {
            return Err(IdentityError::UserId);
        }
        let now = timestamp(now);
        let none = Password::empty();

        let (inner, secret) = material(KeyType::Ed25519Legacy, now)?;
        let primary = SecretKey::new(PublicKey::from_inner(inner)?, secret)?;
        let (inner, secret) = material(KeyType::ECDH(ECCCurve::Curve25519Legacy), now)?;
        let subkey = SecretSubkey::new(PublicSubkey::from_inner(inner)?, secret)?;

        let id = UserId::from_str(PacketHeaderVersion::New, user_id)?;
        let mut flags = KeyFlags::default();
        flags.set_certify(true);
        flags.set_sign(true);
        let mut features = Features::default();
        features.set_seipd_v1(true);
        let config = statement(
            &primary,
            SignatureType::CertPositive,
            now,
            flags,
            [
                SubpacketData::IsPrimary(true),
                SubpacketData::Features(features),
                SubpacketData::PreferredSymmetricAlgorithms(
                    [SymmetricKeyAlgorithm::AES256, SymmetricKeyAlgorithm::AES128]
                        .into_iter()
                        .collect(),
                ),
                SubpacketData::PreferredHashAlgorithms(
                    [HashAlgorithm::Sha512, HashAlgorithm::Sha256].into_iter().collect(),
                ),
                SubpacketData::PreferredCompressionAlgorithms(
                    [CompressionAlgorithm::Uncompressed].into_iter().collect(),
                ),
            ],
        )?;
        let certification =
            config.sign_certification(&primary, primary.public_key(), &none, Tag::UserId, &id)?;

        let mut flags = KeyFlags::default();
        flags.set_encrypt_comms(true);
        flags.set_encrypt_storage(true);
        let binding = statement(&primary, SignatureType::SubkeyBinding, now, flags, [])?
            .sign_subkey_binding(&primary, primary.public_key(), &none, subkey.public_key())?;

        let users = vec![SignedUser::new(id, vec![certification])];
        let details = SignedKeyDetails::new(Vec::new(), Vec::new(), users, Vec::new());
        let subkeys = vec![SignedSecretSubKey::new(subkey, vec![binding])];
        Identity::of(SignedSecretKey::new(primary, details, Vec::new(), subkeys))
    }

    /// Reads a secret key, armored or binary, as `gpg --export-secret-keys` or
    /// [`Identity::to_armored_secret`] writes it, and unlocks it. A passphrase that a key does not
    /// need is not looked at. A key whose primary half is kept elsewhere (what `gpg
    /// --export-secret-subkeys` writes) will do if a subkey signs and one decrypts.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn load(bytes: &[u8], passphrase: Option<&Passphrase>) -> Result<Identity, IdentityError> {
        let packets = packets::key(bytes, Kind::Secret)?;
        let mut key = SignedSecretKey::from_packets(packets.into_iter().map(Ok).peekable())
            .next()
            .and_then(Result::ok)
            .ok_or(NotAKey::Damaged)?;
        if let Some(unlocked) = unlock(key.primary_key.secret_params(), passphrase, |password| {
            let mut key = key.primary_key.clone();
            key.remove_password(password).map(|()| key.secret_params().clone())
        })? {
            key.primary_key = SecretKey::new(key.primary_key.public_key().clone(), unlocked)?;
        }
        for subkey in &mut key.secret_subkeys {
            if let Some(unlocked) = unlock(subkey.key.secret_params(), passphrase, |password| {
                let mut key = subkey.key.clone();
                key.remove_password(password).map(|()| key.secret_params().clone())
            })? {
                subkey.key = SecretSubkey::new(subkey.key.public_key().clone(), unlocked)?;
            }
        }
        Identity::of(key)
    }

    fn of(secret: SignedSecretKey) -> Result<Identity, IdentityError> {
        let nothing = secret.primary_key.secret_params().is_encrypted()
            && secret.secret_subkeys.iter().all(|key| key.key.secret_params().is_encrypted());
        if nothing {
            return Err(IdentityError::NothingSecret);
        }
        let certificate = Certificate::reduce(secret.to_public_key())?;
        Ok(Identity { certificate, secret })
    }

    /// The public half.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// As [`Certificate::usable`], and the secret halves are there.
    ///
    /// # Errors
    /// See [`KeyProblem`].
    pub fn usable(&self, now: WallTime) -> Result<Usable<'_>, KeyProblem> {
        let usable = self.certificate.usable(now)?;
        for key in [usable.signing_key(), usable.encryption_key()] {
            self.secret(key).ok_or(KeyProblem::SecretMissing(key))?;
        }
        Ok(usable)
    }

    /// The secret key as text, locked with the passphrase if there is one. It is for a file that
    /// nobody else can read (mode 0600) and for nothing else. Parts that are kept elsewhere stay
    /// references.
    ///
    /// # Errors
    /// [`IdentityError::Library`] if the library cannot write it, which is not known to happen.
    pub fn to_armored_secret(
        &self,
        passphrase: Option<&Passphrase>,
    ) -> Result<String, IdentityError> {
        let mut secret = self.secret.clone();
        if let Some(Passphrase(password)) = passphrase {
            let key = &mut secret.primary_key;
            if !key.secret_params().is_encrypted() {
                key.set_password(OsRng, password)?;
                *key = SecretKey::new(key.public_key().clone(), key.secret_params().clone())?;
            }
            for SignedSecretSubKey { key, .. } in &mut secret.secret_subkeys {
                if !key.secret_params().is_encrypted() {
                    key.set_password(OsRng, password)?;
                    *key =
                        SecretSubkey::new(key.public_key().clone(), key.secret_params().clone())?;
                }
            }
        }
        Ok(secret.to_armored_string(ArmorOptions::default())?)
    }

    /// The secret half of one of the certificate's keys, if it is there.
    pub(super) fn secret(&self, fingerprint: Fingerprint) -> Option<Secret<'_>> {
        let primary = &self.secret.primary_key;
        let found = if Fingerprint::of(primary) == Some(fingerprint) {
            Secret::Primary(primary)
        } else {
            self.secret
                .secret_subkeys
                .iter()
                .find(|subkey| Fingerprint::of(&subkey.key) == Some(fingerprint))
                .map(|subkey| Secret::Subkey(&subkey.key))?
        };
        let params = match found {
            Secret::Primary(key) => key.secret_params(),
            Secret::Subkey(key) => key.secret_params(),
        };
        (!params.is_encrypted()).then_some(found)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?}, ..)", self.certificate)
    }
}

/// The unlocked secret half of a primary key or a subkey.
#[derive(Clone, Copy)]
pub(super) enum Secret<'a> {
    Primary(&'a SecretKey),
    Subkey(&'a SecretSubkey),
}

/// New key material. Encryption keys and signing keys differ only in `kind`.
fn material(
    kind: KeyType,
    now: Timestamp,
) -> Result<(PubKeyInner, SecretParams), pgp::errors::Error> {
    let algorithm = kind.to_alg();
    let (public, secret) = kind.generate(OsRng)?;
    Ok((PubKeyInner::new(KeyVersion::V4, algorithm, now, None, public)?, secret))
}

/// A signature, yet to be made, by which a key says what it or its subkey is for.
fn statement<const N: usize>(
    primary: &SecretKey,
    typ: SignatureType,
    now: Timestamp,
    flags: KeyFlags,
    more: [SubpacketData; N],
) -> Result<SignatureConfig, pgp::errors::Error> {
    let mut config = SignatureConfig::v4(typ, primary.algorithm(), HashAlgorithm::Sha512);
    let first = [
        SubpacketData::SignatureCreationTime(now),
        SubpacketData::IssuerFingerprint(primary.fingerprint()),
        SubpacketData::KeyFlags(flags),
    ];
    config.hashed_subpackets =
        first.into_iter().chain(more).map(Subpacket::regular).collect::<Result<_, _>>()?;
    config.unhashed_subpackets =
        vec![Subpacket::regular(SubpacketData::IssuerKeyId(primary.legacy_key_id()))?];
    Ok(config)
}

/// Unlocks secret parameters. `None` if they need no unlocking or are a reference to elsewhere.
fn unlock(
    params: &SecretParams,
    passphrase: Option<&Passphrase>,
    with: impl FnOnce(&Password) -> Result<SecretParams, pgp::errors::Error>,
) -> Result<Option<SecretParams>, IdentityError> {
    let SecretParams::Encrypted(locked) = params else { return Ok(None) };
    match locked.string_to_key_params() {
        // GnuPG's mark for "not here" and "on a card" is a private kind of string-to-key.
        S2kParams::Cfb { s2k: StringToKey::Private { .. }, .. }
        | S2kParams::MalleableCfb { s2k: StringToKey::Private { .. }, .. } => return Ok(None),
        _ => {}
    }
    let Passphrase(password) = passphrase.ok_or(IdentityError::PassphraseNeeded)?;
    // The only other cause is damage, and to whoever types the passphrase that looks the same.
    with(password).map(Some).map_err(|_| IdentityError::WrongPassphrase)
}
