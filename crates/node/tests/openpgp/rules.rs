//! The rules for keys: each case is a key that GnuPG made, and the cause that is named.

use papertrader_core::time::WallTime;
use papertrader_node::openpgp::{Certificate, Fault, KeyProblem};

use pgp::composed::{Deserializable, SignedPublicKey};
use pgp::ser::Serialize;

use super::gpg::{DAY, Gpg, Key, T0, at};

fn problem(gpg: &Gpg, key: Key, now: WallTime) -> KeyProblem {
    gpg.certificate(key).usable(now).unwrap_err()
}

/// All that its owner ever said of a key: GnuPG itself keeps the newest only.
fn merged(one: &Certificate, other: &Certificate) -> Certificate {
    let [mut one, other] =
        [one, other].map(|key| SignedPublicKey::from_bytes(key.to_bytes()).unwrap());
    one.details.users[0].signatures.extend(other.details.users[0].signatures.clone());
    let mut bytes = Vec::new();
    one.to_writer(&mut bytes).unwrap();
    Certificate::parse(&bytes).unwrap()
}

fn no_signing_key(key: Key, faults: &[(Key, Fault)]) -> KeyProblem {
    let faults = faults.iter().map(|(key, fault)| (key.fingerprint, fault.clone())).collect();
    KeyProblem::NoSigningKey(key.fingerprint, faults)
}

fn no_encryption_key(key: Key, faults: &[(Key, Fault)]) -> KeyProblem {
    let faults = faults.iter().map(|(key, fault)| (key.fingerprint, fault.clone())).collect();
    KeyProblem::NoEncryptionKey(key.fingerprint, faults)
}

#[test]
fn an_expired_primary_key() {
    let gpg = Gpg::new();
    let key = gpg.make("ed25519", "cert,sign", "seconds=864000");
    gpg.add(key, "cv25519", "encr", "never");
    let end = at(10 * DAY);
    let certificate = gpg.certificate(key);
    let usable = certificate.usable(at(10 * DAY - 1)).unwrap();
    assert_eq!(usable.valid_until(), Some(end));
    let expired = KeyProblem::Primary(key.fingerprint, Fault::Expired { since: end });
    assert_eq!(problem(&gpg, key, end), expired);
    assert_eq!(problem(&gpg, key, at(400 * DAY)), expired);
    assert_eq!(
        expired.to_string(),
        format!("OpenPGP key {} expired on 2023-11-24 22:13:20 UTC", key.fingerprint)
    );
}

#[test]
fn an_expiration_that_its_owner_moved() {
    let mut gpg = Gpg::new();
    let key = gpg.make("ed25519", "cert,sign", "seconds=864000");
    gpg.add(key, "cv25519", "encr", "never");
    let before = gpg.certificate(key);
    let name = key.fingerprint.to_string();

    gpg.clock(5 * DAY).run(&["--quick-set-expire", &name, "seconds=2592000"], b"");
    let longer = gpg.certificate(key);
    assert!(longer.usable(at(20 * DAY)).is_ok());
    assert!(before.usable(at(20 * DAY)).is_err());
    assert!(merged(&longer, &before).usable(at(20 * DAY)).is_ok());

    gpg.clock(6 * DAY).run(&["--quick-set-expire", &name, "seconds=86400"], b"");
    // The newer one counts, not the longer one, in whatever order they are.
    let shorter = gpg.certificate(key);
    let expired = KeyProblem::Primary(key.fingerprint, Fault::Expired { since: at(7 * DAY) });
    for certificate in [merged(&longer, &shorter), merged(&shorter, &longer), shorter] {
        assert_eq!(certificate.usable(at(8 * DAY)).unwrap_err(), expired);
    }

    gpg.clock(6 * DAY + 1).run(&["--quick-set-expire", &name, "never"], b"");
    assert_eq!(gpg.certificate(key).usable(at(999 * DAY)).unwrap().valid_until(), None);
}

#[test]
fn a_revoked_primary_key() {
    let gpg = Gpg::new();
    let key = gpg.make_usual();
    assert!(gpg.certificate(key).usable(at(0)).is_ok());
    gpg.revoke(key);
    let revoked = KeyProblem::Primary(key.fingerprint, Fault::Revoked { on: at(0) });
    assert_eq!(problem(&gpg, key, at(0)), revoked);
    // A revocation holds whatever the clock says, and is not lost on the way.
    assert_eq!(problem(&gpg, key, at(-DAY)), revoked);
    let passed_on = Certificate::parse(gpg.certificate(key).to_bytes()).unwrap();
    assert_eq!(passed_on.usable(at(0)).unwrap_err(), revoked);
}

#[test]
fn a_revoked_signing_subkey() {
    let mut gpg = Gpg::new();
    let key = gpg.make("ed25519", "cert", "never");
    let first = gpg.add(key, "ed25519", "sign", "never");
    gpg.add(key, "cv25519", "encr", "never");
    gpg.clock(DAY).revoke_subkey(key, 1);
    let revoked = (first, Fault::Revoked { on: at(DAY) });
    let problem = problem(&gpg, key, at(DAY));
    assert_eq!(problem, no_signing_key(key, &[revoked]));
    assert_eq!(
        problem.to_string(),
        format!(
            "OpenPGP key {} has no usable signing key: {} was revoked on 2023-11-15 22:13:20 UTC",
            key.fingerprint, first.fingerprint
        )
    );
    let second = gpg.add(key, "ed25519", "sign", "never");
    let certificate = gpg.certificate(key);
    assert_eq!(certificate.usable(at(DAY)).unwrap().signing_key(), second.fingerprint);
}

#[test]
fn a_revoked_encryption_subkey() {
    let mut gpg = Gpg::new();
    let key = gpg.make("ed25519", "cert,sign", "never");
    let subkey = gpg.add(key, "cv25519", "encr", "never");
    gpg.clock(DAY).revoke_subkey(key, 1);
    let revoked = (subkey, Fault::Revoked { on: at(DAY) });
    assert_eq!(problem(&gpg, key, at(2 * DAY)), no_encryption_key(key, &[revoked]));
}

#[test]
fn expired_subkeys() {
    let gpg = Gpg::new();
    let key = gpg.make("ed25519", "cert", "never");
    let signing = gpg.add(key, "ed25519", "sign", "seconds=172800");
    let encryption = gpg.add(key, "cv25519", "encr", "seconds=86400");
    let certificate = gpg.certificate(key);
    assert_eq!(certificate.usable(at(DAY - 1)).unwrap().valid_until(), Some(at(DAY)));
    let expired = (encryption, Fault::Expired { since: at(DAY) });
    assert_eq!(problem(&gpg, key, at(DAY)), no_encryption_key(key, &[expired]));
    let expired = (signing, Fault::Expired { since: at(2 * DAY) });
    assert_eq!(problem(&gpg, key, at(2 * DAY)), no_signing_key(key, &[expired]));
}

#[test]
fn an_expired_encryption_subkey_beside_a_newer_one() {
    let mut gpg = Gpg::new();
    let key = gpg.make("ed25519", "cert,sign", "never");
    gpg.add(key, "cv25519", "encr", "seconds=86400");
    let newer = gpg.clock(DAY).add(key, "cv25519", "encr", "seconds=864000");
    let certificate = gpg.certificate(key);
    let usable = certificate.usable(at(2 * DAY)).unwrap();
    assert_eq!(usable.encryption_key(), newer.fingerprint);
    assert_eq!(usable.valid_until(), Some(at(11 * DAY)));
    assert_eq!(usable.signing_key(), key.fingerprint);
}

#[test]
fn keys_without_the_flag() {
    let gpg = Gpg::new();
    let certifies = gpg.make("ed25519", "cert", "never");
    gpg.add(certifies, "cv25519", "encr", "never");
    let problem_of = |key| problem(&gpg, key, at(0));
    assert_eq!(problem_of(certifies), no_signing_key(certifies, &[]));
    let signs = gpg.make("ed25519", "cert,sign", "never");
    assert_eq!(problem_of(signs), no_encryption_key(signs, &[]));
    assert_eq!(
        problem_of(signs).to_string(),
        format!(
            "OpenPGP key {} has no usable encryption key: no key in it is marked for encryption",
            signs.fingerprint
        )
    );
    // Authentication is neither.
    let authenticates = gpg.make("ed25519", "cert,auth", "never");
    gpg.add(authenticates, "ed25519", "auth", "never");
    assert_eq!(problem_of(authenticates), no_signing_key(authenticates, &[]));
}

#[test]
fn algorithms_that_are_not_taken() {
    let gpg = Gpg::new();
    let algorithm = |name: &str| Fault::Algorithm(name.to_owned());
    let primary = |kind: &str, name: &str| {
        let key = gpg.make(kind, "cert,sign", "never");
        gpg.add(key, "cv25519", "encr", "never");
        let expected = KeyProblem::Primary(key.fingerprint, algorithm(name));
        assert_eq!(problem(&gpg, key, at(0)), expected);
    };
    primary("dsa1024", "DSA");
    primary("rsa1024", "RSA with 1024 bits");
    primary("secp256k1", "ECDSA on secp256k1");
    primary("brainpoolP256r1", "ECDSA on brainpoolP256r1");

    let key = gpg.make("ed25519", "cert,sign", "never");
    let faults = [
        (gpg.add(key, "elg1024", "encr", "never"), algorithm("ElgamalEncrypt")),
        (gpg.add(key, "rsa1024", "encr", "never"), algorithm("RSA with 1024 bits")),
    ];
    assert_eq!(problem(&gpg, key, at(0)), no_encryption_key(key, &faults));
    gpg.add(key, "rsa2048", "encr", "never");
    assert!(gpg.certificate(key).usable(at(0)).is_ok());
}

#[test]
fn a_key_from_the_future() {
    let gpg = Gpg::new();
    let key = gpg.make_usual();
    // Two clocks may be ten minutes apart.
    assert!(gpg.certificate(key).usable(at(-600)).is_ok());
    let future = KeyProblem::Primary(key.fingerprint, Fault::FromTheFuture { created: at(0) });
    assert_eq!(problem(&gpg, key, at(-601)), future);
}

#[test]
fn signatures_from_the_future_do_not_count_yet() {
    let mut gpg = Gpg::new();
    let key = gpg.make("ed25519", "cert,sign", "seconds=864000");
    gpg.add(key, "cv25519", "encr", "never");
    let name = key.fingerprint.to_string();
    let before = gpg.certificate(key);
    gpg.clock(5 * DAY).run(&["--quick-set-expire", &name, "never"], b"");
    let after = gpg.certificate(key);
    let future = Fault::SignatureFromTheFuture { created: at(5 * DAY) };
    let problem = after.usable(at(DAY)).unwrap_err();
    assert_eq!(problem, KeyProblem::Primary(key.fingerprint, future));
    let certificate = merged(&before, &after);
    assert_eq!(certificate.usable(at(DAY)).unwrap().valid_until(), Some(at(10 * DAY)));
    assert_eq!(certificate.usable(at(5 * DAY)).unwrap().valid_until(), None);
}

#[test]
fn self_signatures_with_sha1() {
    let mut gpg = Gpg::new();
    let sha1 = Fault::WeakHash("SHA-1");
    let key = gpg.make("rsa2048", "cert,sign,encr", "never");
    let name = key.fingerprint.to_string();
    let strong = gpg.certificate(key);
    let weakly = ["--cert-digest-algo", "SHA1", "--quick-set-expire", &name, "seconds=864000"];
    gpg.clock(DAY).run(&weakly, b"");
    // The older, stronger one is not gone back to: it has no end.
    let refused = KeyProblem::Primary(key.fingerprint, sha1.clone());
    let weak = gpg.certificate(key);
    for certificate in [merged(&strong, &weak), weak] {
        assert_eq!(certificate.usable(at(DAY)).unwrap_err(), refused);
    }

    let key = gpg.make("rsa2048", "cert,sign", "never");
    let weakly = ["--cert-digest-algo", "SHA1", "--quick-add-key", &key.fingerprint.to_string()];
    gpg.run(&[&weakly[..], &["cv25519", "encr", "never"]].concat(), b"");
    match problem(&gpg, key, at(DAY)) {
        KeyProblem::NoEncryptionKey(_, faults) => assert_eq!(faults[0].1, sha1),
        other => panic!("{other}"),
    }

    // A revocation with it counts all the same.
    let weakly = ["--cert-digest-algo", "SHA1", "--command-fd", "0", "--edit-key"];
    let key = gpg.make("rsa2048", "cert,sign,encr", "never");
    assert!(gpg.certificate(key).usable(at(DAY)).is_ok());
    let name = key.fingerprint.to_string();
    gpg.run(&[&weakly[..], &[&name]].concat(), b"revkey\ny\n0\n\ny\nsave\n");
    let revoked = KeyProblem::Primary(key.fingerprint, Fault::Revoked { on: at(DAY) });
    assert_eq!(problem(&gpg, key, at(DAY)), revoked);

    // With Ed25519 a hash that short makes no signature at all.
    let weakly = ["--cert-digest-algo", "SHA1", "--quick-gen-key", "short"];
    gpg.run(&[&weakly[..], &["ed25519", "cert,sign", "never"]].concat(), b"");
    let exported = gpg.run(&["--export", "short"], b"");
    let problem = Certificate::parse(&exported).unwrap().usable(at(DAY)).unwrap_err();
    assert!(matches!(problem, KeyProblem::Primary(_, Fault::NoSelfSignature)), "{problem}");
}

#[test]
fn a_revoked_user_id_says_nothing() {
    let mut gpg = Gpg::new();
    let key = gpg.make_usual();
    let name = key.fingerprint.to_string();
    gpg.clock(DAY).run(&["--quick-add-uid", &name, "other"], b"");
    gpg.run(&["--quick-revoke-uid", &name, "peer <peer@test>"], b"");
    let certificate = gpg.certificate(key);
    assert_eq!(certificate.user_id(), "other");
    assert!(certificate.usable(at(DAY)).is_ok());
    // Before the other was made, nothing that counts had been said.
    let nothing = Fault::SignatureFromTheFuture { created: at(DAY) };
    let problem = certificate.usable(at(0)).unwrap_err();
    assert_eq!(problem, KeyProblem::Primary(key.fingerprint, nothing));
    assert!(problem.to_string().contains("made on 2023-11-15"), "{problem} {T0}");
}
