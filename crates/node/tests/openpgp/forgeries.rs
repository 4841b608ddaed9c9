//! Signatures that somebody else put on a key or a message.

use papertrader_node::openpgp::{
    Certificate, CertificateError, Fault, Identity, KeyProblem, OpenError, open,
};
use pgp::composed::{Deserializable, RawSessionKey, SignedPublicKey, SignedSecretKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::crypto::sym::SymmetricKeyAlgorithm;
use pgp::packet::{
    KeyFlags, OnePassSignature, PacketHeader, PacketTrait, PublicKeyEncryptedSessionKey, Signature,
    SignatureConfig, SignatureType, Subpacket, SubpacketData, SymEncryptedProtectedData, UserId,
};
use pgp::ser::Serialize;
use pgp::types::{
    Duration, EncryptionKey, EskType, KeyDetails, PacketHeaderVersion, Password, SignedUser, Tag,
    Timestamp,
};
use rand::rngs::OsRng;

use super::gpg::{CONTENT, DAY, Gpg, T0, at};

fn library_key(identity: &Identity) -> SignedSecretKey {
    SignedSecretKey::from_string(&identity.to_armored_secret(None).unwrap()).unwrap().0
}

fn bytes(key: &SignedPublicKey) -> Vec<u8> {
    let mut bytes = Vec::new();
    key.to_writer(&mut bytes).unwrap();
    bytes
}

/// A signature yet to be made that says it is by `issuer` and that the key may do everything.
fn claim(issuer: &impl KeyDetails, typ: SignatureType, at: i64) -> SignatureConfig {
    let mut flags = KeyFlags::default();
    flags.set_certify(true);
    flags.set_sign(true);
    flags.set_encrypt_comms(true);
    let mut config = SignatureConfig::v4(typ, issuer.algorithm(), HashAlgorithm::Sha256);
    config.hashed_subpackets = [
        SubpacketData::SignatureCreationTime(Timestamp::from_secs((T0 + at) as u32)),
        SubpacketData::IssuerFingerprint(issuer.fingerprint()),
        SubpacketData::KeyFlags(flags),
    ]
    .into_iter()
    .map(|data| Subpacket::regular(data).unwrap())
    .collect();
    config
}

/// Encrypts any packets to somebody, as anybody can.
fn encrypt(packets: &[u8], to: &Identity) -> Vec<u8> {
    let to = SignedPublicKey::from_bytes(to.certificate().to_bytes()).unwrap();
    let cipher = SymmetricKeyAlgorithm::AES256;
    let session = cipher.new_session_key(OsRng);
    let subkey = &to.public_subkeys[0];
    let mut message = Vec::new();
    PublicKeyEncryptedSessionKey::from_session_key_v3(OsRng, &session, cipher, subkey)
        .unwrap()
        .to_writer_with_header(&mut message)
        .unwrap();
    SymEncryptedProtectedData::encrypt_seipdv1(OsRng, cipher, session.as_ref(), packets)
        .unwrap()
        .to_writer_with_header(&mut message)
        .unwrap();
    message
}

fn packet(packet: &impl PacketTrait) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.to_writer_with_header(&mut bytes).unwrap();
    bytes
}

fn literal(content: &[u8]) -> Vec<u8> {
    [&[0xc0 | 11, content.len() as u8 + 6, b'b', 0, 0, 0, 0, 0][..], content].concat()
}

#[test]
fn nobody_signs_for_another() {
    let [alice, bob, mallory] =
        ["alice", "bob", "mallory"].map(|name| Identity::generate(name, at(0)).unwrap());
    let (alices, mallorys) = (library_key(&alice), library_key(&mallory));
    let opened = |packets: &[Vec<u8>]| {
        open(&bob, alice.certificate(), &encrypt(&packets.concat(), &bob), at(0))
    };
    // A signature that says it is alice's.
    let signature = |by: &SignedSecretKey, content: &[u8]| {
        let config = claim(&alices.primary_key, SignatureType::Binary, 0);
        config.sign(&by.primary_key, &Password::empty(), content).unwrap()
    };
    let announce = |hash| {
        let (algorithm, id) = (alices.algorithm(), alices.legacy_key_id());
        packet(&OnePassSignature::v3(SignatureType::Binary, hash, algorithm, id))
    };
    let announced = || announce(HashAlgorithm::Sha256);
    let genuine = || packet(&signature(&alices, CONTENT));
    let content = || literal(CONTENT);
    assert_eq!(opened(&[announced(), content(), genuine()]), Ok(CONTENT.to_vec()));

    let refused = |packets: &[Vec<u8>], error: OpenError| assert_eq!(opened(packets), Err(error));
    let by_mallory = packet(&signature(&mallorys, CONTENT));
    refused(&[announced(), content(), by_mallory], OpenError::BadSignature);
    refused(&[announced(), literal(b"other"), genuine()], OpenError::BadSignature);
    refused(&[announce(HashAlgorithm::Sha512), content(), genuine()], OpenError::BadSignature);
    // Other shapes of the same.
    refused(&[genuine(), content()], OpenError::Malformed);
    refused(&[announced(), content()], OpenError::Malformed);
    refused(&[announced(), content(), content()], OpenError::Malformed);
    refused(&[announced(), content(), genuine(), content()], OpenError::Malformed);
    refused(&[announced(), content(), genuine(), genuine()], OpenError::NotSignedOnce);
    refused(&[announced(), announced(), content(), genuine(), genuine()], OpenError::NotSignedOnce);
    refused(&[encrypt(&content(), &bob)], OpenError::Malformed);
    refused(&[], OpenError::Malformed);
    // A kind of packet that is not known (tag 60) is not skipped, and a tail is not ignored.
    refused(&[announced(), content(), genuine(), vec![0xc0 | 60, 0]], OpenError::Malformed);
    refused(&[announced(), content(), genuine(), vec![0xc2]], OpenError::Malformed);
    // A certification is alice's word too, but not on this.
    let config = claim(&alices.primary_key, SignatureType::Key, 0);
    let other_kind = config.sign_key(&alices.primary_key, &"".into(), alices.public_key()).unwrap();
    refused(&[announced(), content(), packet(&other_kind)], OpenError::BadSignature);
}

/// The owner's own words, such as GnuPG does not make them.
#[test]
fn what_an_owner_can_say() {
    let owner = library_key(&Identity::generate("owner", at(0)).unwrap());
    let (secret, none) = (&owner.primary_key, Password::empty());
    let primary = secret.public_key();
    let expiring = |mut config: SignatureConfig, seconds: u32| {
        let span = Duration::from_secs(seconds);
        config
            .hashed_subpackets
            .push(Subpacket::regular(SubpacketData::SignatureExpirationTime(span)).unwrap());
        config
    };
    let usable = |key: &SignedPublicKey, now| {
        let certificate = Certificate::parse(&bytes(key)).unwrap();
        certificate.usable(at(now)).map(|u| (u.encryption_key(), u.valid_until()))
    };

    // A newer statement that says nothing of the key's use replaces none that does.
    let mut key = owner.to_public_key();
    let mut silent = claim(primary, SignatureType::Key, 60);
    silent.hashed_subpackets.pop();
    key.details.direct_signatures = vec![silent.sign_key(secret, &none, primary).unwrap()];
    assert!(usable(&key, 120).is_ok());
    // One that says that the key is for nothing does.
    let mut useless = claim(primary, SignatureType::Key, 60);
    useless.hashed_subpackets.pop();
    let flags = Subpacket::regular(SubpacketData::KeyFlags(KeyFlags::default())).unwrap();
    useless.hashed_subpackets.push(flags);
    key.details.direct_signatures.push(useless.sign_key(secret, &none, primary).unwrap());
    let problem = usable(&key, 120).unwrap_err();
    assert!(matches!(problem, KeyProblem::NoSigningKey(_, faults) if faults.is_empty()));

    // A binding that ends, and a newer one that ends sooner: then the older counts again.
    let subkey = owner.secret_subkeys[0].key.public_key();
    let bind = |made, seconds| {
        let config = expiring(claim(primary, SignatureType::SubkeyBinding, made), seconds);
        config.sign_subkey_binding(secret, primary, &none, subkey).unwrap()
    };
    let mut key = owner.to_public_key();
    key.public_subkeys[0].signatures = vec![bind(10, 1000), bind(20, 100)];
    assert_eq!(usable(&key, 30).unwrap().1, Some(at(120)));
    assert_eq!(usable(&key, 120).unwrap().1, Some(at(1010)));
    match usable(&key, 1010).unwrap_err() {
        KeyProblem::NoEncryptionKey(_, faults) => {
            assert!(matches!(faults[0].1, Fault::SignatureExpired { .. }));
        }
        problem => panic!("{problem}"),
    }
}

#[test]
fn the_newest_of_several_keys_is_taken() {
    let mut gpg = Gpg::new();
    let key = gpg.make("ed25519", "cert,sign", "never");
    gpg.add(key, "cv25519", "encr", "never");
    let newest = gpg.clock(DAY).add(key, "cv25519", "encr", "never");
    let mut public = SignedPublicKey::from_bytes(gpg.certificate(key).to_bytes()).unwrap();
    for _ in 0..2 {
        let certificate = Certificate::parse(&bytes(&public)).unwrap();
        let chosen = certificate.usable(at(DAY)).unwrap().encryption_key();
        assert_eq!(chosen, newest.fingerprint);
        public.public_subkeys.reverse();
    }
}

#[test]
fn nobody_else_extends_revokes_or_adds() {
    let gpg = Gpg::new();
    let key = gpg.make("ed25519", "cert", "seconds=86400");
    gpg.add(key, "cv25519", "encr", "never");
    gpg.add(key, "ed25519", "sign", "never");
    let honest = gpg.certificate(key);
    let mallory = library_key(&Identity::generate("mallory", at(0)).unwrap());
    let (secret, none) = (&mallory.primary_key, Password::empty());

    let mut forged = SignedPublicKey::from_bytes(honest.to_bytes()).unwrap();
    let victim = forged.primary_key.clone();
    let user = forged.details.users[0].id.clone();
    // Each says that the victim made it.
    let longer = claim(&victim, SignatureType::CertPositive, 60);
    let longer = longer.sign_certification(secret, &victim, &none, Tag::UserId, &user).unwrap();
    forged.details.users[0].signatures.push(longer.clone());
    let direct = claim(&victim, SignatureType::Key, 60).sign_key(secret, &none, &victim).unwrap();
    forged.details.direct_signatures.push(direct);
    let revocation = claim(&victim, SignatureType::KeyRevocation, 60);
    let revocation = revocation.sign_key(secret, &none, &victim).unwrap();
    forged.details.revocation_signatures.push(revocation);
    for subkey in &mut forged.public_subkeys {
        let revocation = claim(&victim, SignatureType::SubkeyRevocation, 60);
        let revocation = revocation.sign_subkey_binding(secret, &victim, &none, &subkey.key);
        subkey.signatures.push(revocation.unwrap());
    }
    // Her own subkey and name, bound by her.
    let mut hers = mallory.to_public_key().public_subkeys[0].clone();
    let binding = claim(&victim, SignatureType::SubkeyBinding, 60);
    let binding = binding.sign_subkey_binding(secret, &victim, &none, &hers.key).unwrap();
    hers.signatures = vec![binding];
    forged.public_subkeys.push(hers);
    let name = UserId::from_str(PacketHeaderVersion::New, "the real one").unwrap();
    forged.details.users.insert(0, SignedUser::new(name, vec![longer]));

    let parsed = Certificate::parse(&bytes(&forged)).unwrap();
    assert_eq!(parsed, honest, "nothing of it is left");
    assert!(parsed.usable(at(60)).is_ok(), "the forged revocations do not count");
    let expired = KeyProblem::Primary(key.fingerprint, Fault::Expired { since: at(DAY) });
    assert_eq!(parsed.usable(at(DAY)).unwrap_err(), expired, "nor do the forged extensions");
}

#[test]
fn a_genuine_signature_cannot_be_moved() {
    let gpg = Gpg::new();
    let (key, revoked) = (gpg.make_usual(), gpg.make_usual());
    gpg.revoke(revoked);
    let mut moved = SignedPublicKey::from_bytes(gpg.certificate(key).to_bytes()).unwrap();
    let other = SignedPublicKey::from_bytes(gpg.certificate(revoked).to_bytes()).unwrap();
    // Another key's revocation and subkey.
    moved.details.revocation_signatures.extend(other.details.revocation_signatures);
    moved.public_subkeys.extend(other.public_subkeys);
    assert_eq!(Certificate::parse(&bytes(&moved)).unwrap(), gpg.certificate(key));
}

/// The owner of a key claims a signing key that is not his: only its owner could confirm that.
#[test]
fn a_signing_subkey_must_confirm_that_it_belongs() {
    let (owner, other) = (
        library_key(&Identity::generate("owner", at(0)).unwrap()),
        library_key(&Identity::generate("other", at(0)).unwrap()),
    );
    let none = Password::empty();
    let primary = owner.primary_key.public_key();
    // The other's primary key as a subkey of the owner.
    let mut encoded = Vec::new();
    other.primary_key.public_key().to_writer(&mut encoded).unwrap();
    let header = PacketHeader::new_fixed(Tag::PublicSubkey, encoded.len() as u32);
    let stolen = pgp::packet::PublicSubkey::try_from_reader(header, &encoded[..]).unwrap();
    let bind = |embedded: Option<Signature>| {
        let mut config = claim(primary, SignatureType::SubkeyBinding, 0);
        config.hashed_subpackets.extend(embedded.map(|signature| {
            Subpacket::regular(SubpacketData::EmbeddedSignature(Box::new(signature))).unwrap()
        }));
        let binding = config.sign_subkey_binding(&owner.primary_key, primary, &none, &stolen);
        let mut key = owner.to_public_key();
        // Only the claimed subkey may sign, or it would not be missed.
        let user = &mut key.details.users[0];
        let mut config = claim(primary, SignatureType::CertPositive, 0);
        config.hashed_subpackets.pop();
        let flags = Subpacket::regular(SubpacketData::KeyFlags(KeyFlags::default())).unwrap();
        config.hashed_subpackets.push(flags);
        let (secret, id) = (&owner.primary_key, user.id.clone());
        let plain = config.sign_certification(secret, primary, &none, Tag::UserId, &id).unwrap();
        user.signatures = vec![plain];
        let subkey = pgp::composed::SignedPublicSubKey::new(stolen.clone(), vec![binding.unwrap()]);
        key.public_subkeys.push(subkey);
        Certificate::parse(&bytes(&key)).unwrap()
    };
    // By nobody; by the owner instead of the subkey; by the subkey, but for a key of its own.
    let config = || claim(primary, SignatureType::KeyBinding, 0);
    let (owners, others) = (&owner.primary_key, &other.primary_key);
    let by_owner = config().sign_primary_key_binding(owners, &stolen, &none, primary).unwrap();
    let elsewhere = others.public_key();
    let for_other = config().sign_primary_key_binding(others, &stolen, &none, elsewhere).unwrap();
    for embedded in [None, Some(by_owner), Some(for_other)] {
        match bind(embedded).usable(at(0)).unwrap_err() {
            KeyProblem::NoSigningKey(_, faults) => {
                assert_eq!(faults[0].1, Fault::NotCrossCertified);
            }
            problem => panic!("{problem}"),
        }
    }
    let confirmed = config().sign_primary_key_binding(others, &stolen, &none, primary).unwrap();
    assert_eq!(bind(Some(confirmed)).usable(at(0)).unwrap().valid_until(), None);
    // A confirmation can end, too.
    let mut ends = config();
    let span = SubpacketData::SignatureExpirationTime(Duration::from_secs(50));
    ends.hashed_subpackets.push(Subpacket::regular(span).unwrap());
    let ends = ends.sign_primary_key_binding(others, &stolen, &none, primary).unwrap();
    assert_eq!(bind(Some(ends.clone())).usable(at(49)).unwrap().valid_until(), Some(at(50)));
    assert!(bind(Some(ends)).usable(at(50)).is_err());
}

#[test]
fn a_key_with_too_much_in_it() {
    let key = library_key(&Identity::generate("busy", at(0)).unwrap());
    let primary = key.primary_key.public_key();
    let with_users = |count: usize, length: usize| {
        let mut public = key.to_public_key();
        for number in 0..count {
            let name = format!("{number:0length$}");
            let id = UserId::from_str(PacketHeaderVersion::New, name).unwrap();
            let config = claim(primary, SignatureType::CertPositive, 0);
            let none = Password::empty();
            let certification =
                config.sign_certification(&key.primary_key, primary, &none, Tag::UserId, &id);
            public.details.users.push(SignedUser::new(id, vec![certification.unwrap()]));
        }
        Certificate::parse(&bytes(&public))
    };
    assert!(with_users(60, 10).is_ok());
    let error = with_users(40, 400).unwrap_err();
    assert!(matches!(error, CertificateError::TooLarge(_)), "{error}");
    assert!(error.to_string().contains("export-minimal"), "{error}");
    assert_eq!(with_users(130, 1).unwrap_err(), CertificateError::TooManyParts);

    let mut public = key.to_public_key();
    public.public_subkeys = vec![public.public_subkeys[0].clone(); 33];
    let error = Certificate::parse(&bytes(&public)).unwrap_err();
    assert_eq!(error, CertificateError::TooManyParts);
}

/// RSA lets anybody encrypt anything, such as no session key at all.
#[test]
fn a_session_key_that_is_none() {
    let gpg = Gpg::new();
    let key = gpg.make("rsa2048", "cert,sign,encr", "never");
    let identity = gpg.identity(key);
    let public = SignedPublicKey::from_bytes(identity.certificate().to_bytes()).unwrap();
    let rsa = public.primary_key;
    let session = RawSessionKey::from(vec![7; 32]);
    let cipher = SymmetricKeyAlgorithm::AES256;
    let data = SymEncryptedProtectedData::encrypt_seipdv1(OsRng, cipher, session.as_ref(), CONTENT);
    let data = data.unwrap();
    let attempt = |plain: &[u8]| {
        let values = rsa.encrypt(OsRng, plain, EskType::V3_4).unwrap();
        let mut body = vec![3];
        body.extend_from_slice(rsa.legacy_key_id().as_ref());
        body.push(rsa.algorithm().into());
        values.to_writer(&mut body).unwrap();
        let header = PacketHeader::new_fixed(Tag::PublicKeyEncryptedSessionKey, body.len() as u32);
        let packet = PublicKeyEncryptedSessionKey::try_from_reader(header, &body[..]).unwrap();
        let mut message = Vec::new();
        packet.to_writer_with_header(&mut message).unwrap();
        data.to_writer_with_header(&mut message).unwrap();
        open(&identity, identity.certificate(), &message, at(0)).unwrap_err()
    };
    let whole = |cipher: u8, length: usize, checksum: u16| {
        let mut plain = vec![cipher];
        plain.extend(vec![7; length]);
        plain.extend(checksum.to_be_bytes());
        plain
    };
    for plain in [
        vec![],
        vec![9],
        vec![9, 0],
        vec![9, 0, 0],
        whole(9, 16, 16 * 7),
        whole(9, 32, 32 * 7 + 1),
        whole(0, 32, 32 * 7),
        whole(255, 32, 32 * 7),
        whole(10, 32, 32 * 7),
    ] {
        assert_eq!(attempt(&plain), OpenError::NotDecrypted, "{plain:?}");
    }
    // The right one gets further: there is no letter in it.
    assert_eq!(attempt(&whole(9, 32, 32 * 7)), OpenError::Malformed);
}
