//! Every kind of key that is taken, in both directions and with both programs.

use papertrader_core::time::{SECOND, WallTime};
use papertrader_node::openpgp::{
    Certificate, CertificateError, Identity, IdentityError, KeyProblem, NotAKey, Passphrase, open,
    seal,
};
use pgp::composed::{
    ArmorOptions, EncryptionCaps, KeyType, SecretKeyParamsBuilder, SubkeyParamsBuilder,
};
use rand::rngs::OsRng;

use super::gpg::{CONTENT, Gpg, Key, at};

/// All that a key made by GnuPG must be able to do.
fn works_in_every_direction(gpg: &Gpg, key: Key) {
    let now = at(0);
    let ours = Identity::generate("ours <ours@test>", now).unwrap();
    gpg.import(&ours.certificate().to_armored());
    let peer = gpg.certificate(key);
    assert_eq!(peer.fingerprint(), key.fingerprint);
    assert_eq!(peer.user_id(), "peer <peer@test>");
    assert_eq!(peer.usable(now).unwrap().valid_until(), None);

    // What we make GnuPG decrypts and verifies.
    let message = seal(&ours, &peer, CONTENT, now).unwrap();
    let output = gpg.try_run(&["--decrypt"], &message);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.stdout, CONTENT, "{words}");
    for status in ["GOODSIG", "GOODMDC", &format!("VALIDSIG {}", ours.certificate().fingerprint())]
    {
        assert!(words.contains(status), "{status}: {words}");
    }

    // What GnuPG makes we take.
    let message =
        gpg.sign_and_encrypt(&key.fingerprint.to_string(), ours.certificate().fingerprint(), &[]);
    assert_eq!(open(&ours, &peer, &message, now).unwrap(), CONTENT);

    // The same key, in our hands.
    let theirs = gpg.identity(key);
    assert_eq!(theirs.certificate(), &peer);
    assert!(theirs.usable(now).is_ok());
    let message = seal(&theirs, ours.certificate(), CONTENT, now).unwrap();
    assert_eq!(open(&ours, &peer, &message, now).unwrap(), CONTENT);
    let message = seal(&ours, &peer, CONTENT, now).unwrap();
    assert_eq!(open(&theirs, ours.certificate(), &message, now).unwrap(), CONTENT);
}

#[test]
fn ed25519() {
    let gpg = Gpg::new();
    works_in_every_direction(&gpg, gpg.make_usual());
}

#[test]
fn what_gpg_makes_by_default() {
    let gpg = Gpg::new();
    // RSA-3072 in GnuPG 2.2.
    works_in_every_direction(&gpg, gpg.make("default", "default", "never"));
}

#[test]
fn ed25519_with_a_passphrase_and_a_signing_subkey() {
    let gpg = Gpg::with_passphrase("correct horse");
    let key = gpg.make("ed25519", "cert", "never");
    gpg.add(key, "ed25519", "sign", "never");
    gpg.add(key, "cv25519", "encr", "never");
    let message_key = gpg.certificate(key).usable(at(0)).unwrap().signing_key();
    assert_ne!(message_key, key.fingerprint, "the subkey signs");

    let exported = gpg.export_secret(key);
    let load = |text| Identity::load(&exported, Passphrase::new(text).as_ref());
    assert_eq!(load("").unwrap_err(), IdentityError::PassphraseNeeded);
    assert_eq!(load("Correct horse").unwrap_err(), IdentityError::WrongPassphrase);
    let identity = load("correct horse").unwrap();
    let ours = Identity::generate("ours", at(0)).unwrap();
    let message = seal(&identity, ours.certificate(), CONTENT, at(0)).unwrap();
    assert_eq!(open(&ours, &gpg.certificate(key), &message, at(0)).unwrap(), CONTENT);
}

#[test]
fn nist_p256() {
    let gpg = Gpg::with_passphrase("a");
    let key = gpg.make("nistp256", "cert,sign", "never");
    gpg.add(key, "nistp256", "encr", "never");
    works_in_every_direction(&gpg, key);
}

#[test]
fn nist_p384_with_p521() {
    let gpg = Gpg::new();
    let key = gpg.make("nistp384", "cert,sign", "never");
    gpg.add(key, "nistp521", "encr", "never");
    works_in_every_direction(&gpg, key);
}

#[test]
fn rsa_3072_with_a_passphrase() {
    let gpg = Gpg::with_passphrase("b");
    let key = gpg.make("rsa3072", "cert,sign", "never");
    gpg.add(key, "rsa3072", "encr", "never");
    works_in_every_direction(&gpg, key);
}

/// The same curves under the numbers of RFC 9580, which GnuPG 2.2 does not know.
#[test]
fn ed25519_and_x25519_by_their_new_numbers() {
    let encryption = SubkeyParamsBuilder::default()
        .key_type(KeyType::X25519)
        .can_encrypt(EncryptionCaps::All)
        .build()
        .unwrap();
    let key = SecretKeyParamsBuilder::default()
        .key_type(KeyType::Ed25519)
        .can_certify(true)
        .can_sign(true)
        .primary_user_id("modern".to_owned())
        .subkey(encryption)
        .build()
        .unwrap()
        .generate(OsRng)
        .unwrap();
    let made = key.details.users[0].signatures[0].created().unwrap();
    let now = WallTime(i64::from(made.as_secs()) * SECOND);
    let text = key.to_armored_string(ArmorOptions::default()).unwrap();
    let identity = Identity::load(text.as_bytes(), None).unwrap();
    let message = seal(&identity, identity.certificate(), CONTENT, now).unwrap();
    assert_eq!(open(&identity, identity.certificate(), &message, now).unwrap(), CONTENT);
}

#[test]
fn gpg_uses_a_key_that_is_made_here() {
    let ours = Identity::generate("worker-1 <ops@test>", at(0)).unwrap();
    let fingerprint = ours.certificate().fingerprint();
    assert_eq!(ours.usable(at(0)).unwrap().valid_until(), None);
    for passphrase in ["", "open sesame"] {
        let gpg = Gpg::with_passphrase(passphrase);
        let peer = gpg.make_usual();
        let secret = ours.to_armored_secret(Passphrase::new(passphrase).as_ref()).unwrap();
        gpg.import(&secret);
        let message = gpg.sign_and_encrypt(&fingerprint.to_string(), peer.fingerprint, &[]);
        let identity = gpg.identity(peer);
        assert_eq!(open(&identity, ours.certificate(), &message, at(0)).unwrap(), CONTENT);
        let message = seal(&identity, ours.certificate(), CONTENT, at(0)).unwrap();
        assert_eq!(gpg.run(&["--decrypt"], &message), CONTENT);

        let back = Identity::load(secret.as_bytes(), Passphrase::new(passphrase).as_ref()).unwrap();
        assert_eq!(back.certificate(), ours.certificate());
        if !passphrase.is_empty() {
            let without = Identity::load(secret.as_bytes(), None).unwrap_err();
            assert_eq!(without, IdentityError::PassphraseNeeded);
        }
    }
}

#[test]
fn a_primary_key_that_is_kept_elsewhere_will_do_if_subkeys_do_the_work() {
    let gpg = Gpg::with_passphrase("c");
    let subkeys_only =
        |key: Key| gpg.run(&["--export-secret-subkeys", &key.fingerprint.to_string()], b"");
    let passphrase = Passphrase::new("c");

    let whole = gpg.make("ed25519", "cert", "never");
    gpg.add(whole, "ed25519", "sign", "never");
    gpg.add(whole, "cv25519", "encr", "never");
    let identity = Identity::load(&subkeys_only(whole), passphrase.as_ref()).unwrap();
    assert!(identity.usable(at(0)).is_ok());
    let ours = Identity::generate("ours", at(0)).unwrap();
    let message = seal(&identity, ours.certificate(), CONTENT, at(0)).unwrap();
    assert_eq!(open(&ours, &gpg.certificate(whole), &message, at(0)).unwrap(), CONTENT);
    // It can be written and read again.
    let again = identity.to_armored_secret(passphrase.as_ref()).unwrap();
    assert!(Identity::load(again.as_bytes(), passphrase.as_ref()).unwrap().usable(at(0)).is_ok());

    let primary_signs = gpg.make_usual();
    let identity = Identity::load(&subkeys_only(primary_signs), passphrase.as_ref()).unwrap();
    let missing = KeyProblem::SecretMissing(primary_signs.fingerprint);
    assert_eq!(identity.usable(at(0)).unwrap_err(), missing);

    let bare = gpg.make("ed25519", "sign", "never");
    let nothing = Identity::load(&subkeys_only(bare), passphrase.as_ref());
    assert_eq!(nothing.unwrap_err(), IdentityError::NothingSecret);
}

#[test]
fn what_is_no_key_is_named() {
    let gpg = Gpg::new();
    let (one, two) = (gpg.make_usual(), gpg.make_usual());
    let (public, secret) = (gpg.export(one), gpg.export_secret(one));
    let cause = |bytes: &[u8]| match Certificate::parse(bytes).unwrap_err() {
        CertificateError::NotAKey(cause) => cause,
        other => panic!("{other}"),
    };
    let armored = gpg.certificate(one).to_armored();
    assert_eq!(cause(b""), NotAKey::NotOpenPgp);
    assert_eq!(cause(b"ssh-ed25519 AAAA"), NotAKey::NotOpenPgp);
    assert_eq!(cause(&secret), NotAKey::Secret);
    assert_eq!(cause(&public[..public.len() - 1]), NotAKey::Damaged);
    assert_eq!(cause(&armored.as_bytes()[..400]), NotAKey::Damaged);
    assert_eq!(cause(&[public.clone(), gpg.export(two)].concat()), NotAKey::Several);
    assert_eq!(cause(armored.repeat(2).as_bytes()), NotAKey::Several);
    assert_eq!(cause(&[0x99; 64 * 1024 + 1]), NotAKey::TooLarge(64 * 1024 + 1));
    let signature = gpg.run(&["--detach-sign"], b"x");
    assert_eq!(cause(&signature), NotAKey::OtherData);
    let public_given = Identity::load(&public, None).unwrap_err();
    assert_eq!(public_given, IdentityError::NotAKey(NotAKey::Public));
    // And armored as well as binary is a key.
    assert_eq!(Certificate::parse(armored.as_bytes()), Certificate::parse(&public));
}

#[test]
fn a_certificate_holds_its_owners_words_only() {
    let gpg = Gpg::new();
    let (key, friend) = (gpg.make_usual(), gpg.make_usual());
    let plain = gpg.certificate(key);
    let (key_name, friend_name) = (key.fingerprint.to_string(), friend.fingerprint.to_string());
    gpg.run(&["-u", &friend_name, "--quick-sign-key", &key_name], b"");
    let exported = gpg.export(key);
    assert!(exported.len() > plain.to_bytes().len() + 60, "the friend's signature is exported");
    let reduced = Certificate::parse(&exported).unwrap();
    assert_eq!(reduced, plain);
    assert_eq!(Certificate::parse(reduced.to_bytes()).unwrap(), reduced);
    // GnuPG takes what is left of it.
    let other = Gpg::new();
    other.run(&["--import"], reduced.to_bytes());
    assert_eq!(other.certificate(key), reduced);
}

#[test]
fn a_new_keys_name_must_be_one() {
    for bad in ["", "two\nlines", &"x".repeat(121)] {
        assert_eq!(Identity::generate(bad, at(0)).unwrap_err(), IdentityError::UserId, "{bad}");
    }
}

#[test]
fn debugging_output_holds_no_secret() {
    let identity = Identity::generate("worker-1", at(0)).unwrap();
    let shown = format!("{identity:#?} {:?}", Passphrase::new("hunter2"));
    let public = identity.certificate();
    assert_eq!(
        shown,
        format!(
            "Identity(Certificate({} \"worker-1\"), ..) Some(Passphrase(..))",
            public.fingerprint()
        )
    );
}
