//! What is not a message: the wrong key, the wrong time, the wrong shape.

use papertrader_node::openpgp::{
    Fault, Identity, KeyProblem, MAX_MESSAGE, OpenError, SealError, open, seal,
};

use super::gpg::{CONTENT, DAY, Gpg, at};

fn generate(name: &str) -> Identity {
    Identity::generate(name, at(0)).unwrap()
}

#[test]
fn the_wrong_key() {
    let (alice, bob, mallory) = (generate("alice"), generate("bob"), generate("mallory"));
    let message = seal(&mallory, bob.certificate(), CONTENT, at(0)).unwrap();
    let error = open(&bob, alice.certificate(), &message, at(0)).unwrap_err();
    let signer = mallory.certificate().fingerprint().to_string();
    let expected = alice.certificate().fingerprint();
    assert_eq!(error, OpenError::WrongSigner { signer, expected });

    let error = open(&mallory, mallory.certificate(), &message, at(0)).unwrap_err();
    assert!(matches!(error, OpenError::NotForUs { .. }), "{error}");
}

#[test]
fn the_wrong_time() {
    let (alice, bob) = (generate("alice"), generate("bob"));
    let message = seal(&alice, bob.certificate(), CONTENT, at(1000)).unwrap();
    for (now, is_ok) in [(399, false), (400, true), (1600, true), (1601, false)] {
        let opened = open(&bob, alice.certificate(), &message, at(now));
        let wrong = OpenError::WrongTime { signed: at(1000), now: at(now) };
        assert_eq!(opened, if is_ok { Ok(CONTENT.to_vec()) } else { Err(wrong) });
    }
}

#[test]
fn keys_that_ended_seal_and_open_nothing() {
    let gpg = Gpg::new();
    let key = gpg.make("ed25519", "cert,sign", "seconds=86400");
    gpg.add(key, "cv25519", "encr", "never");
    let (theirs, ours) = (gpg.identity(key), generate("ours"));
    let peer = theirs.certificate();
    let early = seal(&theirs, ours.certificate(), CONTENT, at(DAY - 1)).unwrap();
    assert!(open(&ours, peer, &early, at(DAY - 1)).is_ok());

    let ended = KeyProblem::Primary(key.fingerprint, Fault::Expired { since: at(DAY) });
    let (public, late) = (ours.certificate(), at(DAY));
    assert_eq!(open(&ours, peer, &early, late), Err(OpenError::Peer(ended.clone())));
    assert_eq!(open(&theirs, public, &early, late), Err(OpenError::Own(ended.clone())));
    assert_eq!(seal(&theirs, public, b"", late), Err(SealError::Own(ended.clone())));
    assert_eq!(seal(&ours, peer, b"", late), Err(SealError::Peer(ended)));
}

#[test]
fn a_signature_by_another_key_of_the_same_owner() {
    let mut gpg = Gpg::new();
    let ours = generate("ours");
    gpg.import(&ours.certificate().to_armored());
    let to = ours.certificate().fingerprint();
    let key = gpg.make("ed25519", "cert,sign", "never");
    let revoked = gpg.add(key, "ed25519", "sign", "never");
    gpg.add(key, "cv25519", "encr", "never");
    let by_revoked = gpg.sign_and_encrypt(&format!("{}!", revoked.fingerprint), to, &[]);
    assert!(open(&ours, &gpg.certificate(key), &by_revoked, at(0)).is_ok());
    gpg.clock(60).revoke_subkey(key, 1);
    let current = gpg.add(key, "ed25519", "sign", "never");
    let by_primary = gpg.sign_and_encrypt(&format!("{}!", key.fingerprint), to, &[]);

    let certificate = gpg.certificate(key);
    for (message, signer) in [(by_revoked, revoked), (by_primary, key)] {
        let wrong = OpenError::WrongSigner {
            signer: signer.fingerprint.to_string(),
            expected: current.fingerprint,
        };
        assert_eq!(open(&ours, &certificate, &message, at(60)), Err(wrong));
    }
    let by_current = gpg.sign_and_encrypt(&key.fingerprint.to_string(), to, &[]);
    assert!(open(&ours, &certificate, &by_current, at(60)).is_ok());
}

#[test]
fn the_wrong_shape() {
    let gpg = Gpg::new();
    let (key, second) = (gpg.make_usual(), gpg.make_usual());
    let ours = generate("ours");
    gpg.import(&ours.certificate().to_armored());
    let to = ours.certificate().fingerprint();
    let (from, to_name) = (key.fingerprint.to_string(), to.to_string());
    let second = second.fingerprint.to_string();
    let peer = gpg.certificate(key);
    let signed = |more: &[&str]| gpg.sign_and_encrypt(&from, to, more);
    let opened = |message: &[u8], now| open(&ours, &peer, message, at(now));
    assert_eq!(opened(&signed(&[]), 0), Ok(CONTENT.to_vec()));

    let encrypted_only = gpg.run(&["-r", &to_name, "-z", "0", "--encrypt"], CONTENT);
    let signed_only = gpg.run(&["-u", &from, "-z", "0", "--sign"], CONTENT);
    let refused = [
        (signed(&["--compress-algo", "zlib", "-z", "6"]), OpenError::Compressed),
        (encrypted_only, OpenError::NotSignedOnce),
        (signed(&["-u", &second]), OpenError::NotSignedOnce),
        (signed_only, OpenError::Malformed),
        (signed(&["-r", &second]), OpenError::Malformed),
        (signed(&["--armor"]), OpenError::Malformed),
        (signed(&["--textmode"]), OpenError::BadSignature),
        (signed(&["--digest-algo", "SHA1"]), OpenError::WeakHash("SHA-1")),
        (signed(&["--cipher-algo", "3DES"]), OpenError::NotDecrypted),
        (Vec::new(), OpenError::Malformed),
        ([signed(&[]), signed(&[])].concat(), OpenError::Malformed),
        ([signed(&[]), vec![0xc2]].concat(), OpenError::Malformed),
        (vec![0; MAX_MESSAGE + 1], OpenError::TooLarge(MAX_MESSAGE + 1)),
    ];
    for (i, (message, error)) in refused.into_iter().enumerate() {
        assert_eq!(opened(&message, 0), Err(error), "case {i}");
    }
    let hidden = signed(&["--throw-keyids"]);
    assert!(matches!(opened(&hidden, 0), Err(OpenError::NotForUs { .. })));

    let passing = signed(&["--default-sig-expire", "seconds=60"]);
    assert!(opened(&passing, 59).is_ok());
    assert_eq!(opened(&passing, 60), Err(OpenError::SignatureExpired { since: at(60) }));
}

#[test]
fn data_without_integrity_protection() {
    let (alice, bob) = (generate("alice"), generate("bob"));
    let mut message = seal(&alice, bob.certificate(), CONTENT, at(0)).unwrap();
    // The second packet becomes one of encrypted data without any protection (tag 9), and then
    // GnuPG's own (tag 20): its first byte is enough.
    let second = 2 + usize::from(message[1]);
    assert_eq!(message[second], 0xc0 | 18);
    for tag in [9, 20] {
        message[second] = 0xc0 | tag;
        let error = open(&bob, alice.certificate(), &message, at(0)).unwrap_err();
        // GnuPG's has a header that does not fit, and is not read so far.
        let expected = [OpenError::Unprotected, OpenError::Malformed];
        assert!(expected.contains(&error), "{error}");
    }
    // The other version of the protected packet.
    message[second] = 0xc0 | 18;
    let version = second + 1 + if message[second + 1] < 192 { 1 } else { 2 };
    assert_eq!(message[version], 1);
    message[version] = 2;
    assert!(open(&bob, alice.certificate(), &message, at(0)).is_err());
}

#[test]
fn a_message_has_a_greatest_length() {
    let (alice, bob) = (generate("alice"), generate("bob"));
    let fits = vec![7; MAX_MESSAGE - 512];
    let message = seal(&alice, bob.certificate(), &fits, at(0)).unwrap();
    assert_eq!(open(&bob, alice.certificate(), &message, at(0)).unwrap(), fits);
    for length in [MAX_MESSAGE - 16, MAX_MESSAGE, MAX_MESSAGE + 1] {
        let error = seal(&alice, bob.certificate(), &vec![7; length], at(0)).unwrap_err();
        assert!(matches!(error, SealError::TooLarge(l) if l >= length), "{error}");
    }
}
