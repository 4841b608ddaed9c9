//! Bytes that were changed, cut or made up: never a panic, never a success that is another.

use papertrader_node::openpgp::{Certificate, Identity, open, seal};
use proptest::prelude::*;

use super::gpg::{CONTENT, DAY, Gpg, at};

#[test]
fn a_changed_message_is_never_taken() {
    let gpg = Gpg::new();
    let nist = gpg.make("nistp256", "cert,sign", "never");
    gpg.add(nist, "nistp256", "encr", "never");
    let rsa = gpg.make("rsa2048", "cert,sign,encr", "never");
    let sender = Identity::generate("sender", at(0)).unwrap();
    let receivers =
        [Identity::generate("receiver", at(0)).unwrap(), gpg.identity(nist), gpg.identity(rsa)];
    for (i, receiver) in receivers.iter().enumerate() {
        let message = seal(&sender, receiver.certificate(), CONTENT, at(0)).unwrap();
        let opened = |bytes: &[u8]| open(receiver, sender.certificate(), bytes, at(0));
        assert_eq!(opened(&message).unwrap(), CONTENT);
        for position in 0..message.len() {
            // Every bit of what is not protected by the MDC for the usual key, and of each byte one.
            let bits = if i == 0 && position < 160 { 0..8 } else { position % 8..position % 8 + 1 };
            for bit in bits {
                let mut changed = message.clone();
                changed[position] ^= 1 << bit;
                assert!(opened(&changed).is_err(), "receiver {i}: byte {position}, bit {bit}");
            }
        }
        for length in (0..message.len()).step_by(if i == 0 { 1 } else { 7 }) {
            assert!(opened(&message[..length]).is_err(), "receiver {i}: {length} bytes");
        }
    }
}

#[test]
fn a_changed_certificate_never_gives_more() {
    let gpg = Gpg::new();
    let key = gpg.make("ed25519", "cert,sign", "seconds=864000");
    gpg.add(key, "cv25519", "encr", "seconds=432000");
    gpg.add(key, "ed25519", "sign", "seconds=432000");
    let honest = gpg.certificate(key);
    let expected = honest.usable(at(DAY)).unwrap();
    for position in 0..honest.to_bytes().len() {
        for bit in 0..8 {
            let mut changed = honest.to_bytes().to_vec();
            changed[position] ^= 1 << bit;
            let Ok(changed) = Certificate::parse(&changed) else { continue };
            let Ok(usable) = changed.usable(at(DAY)) else { continue };
            let place = format!("byte {position}, bit {bit}");
            assert_eq!(changed.fingerprint(), honest.fingerprint(), "{place}");
            assert_eq!(usable.encryption_key(), expected.encryption_key(), "{place}");
            // A change can take the signing subkey away; the primary key then signs.
            if usable.signing_key() == expected.signing_key() {
                assert_eq!(usable.valid_until(), expected.valid_until(), "{place}");
            } else {
                assert_eq!(usable.signing_key(), key.fingerprint, "{place}");
            }
        }
    }
    for length in 0..honest.to_bytes().len() {
        if let Ok(cut) = Certificate::parse(&honest.to_bytes()[..length]) {
            assert_eq!(cut.fingerprint(), honest.fingerprint());
        }
    }
}

fn identity() -> Identity {
    Identity::generate("receiver", at(0)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = Certificate::parse(&bytes);
        let _ = Identity::load(&bytes, None);
        thread_local!(static IDENTITY: Identity = identity());
        IDENTITY.with(|identity| {
            assert!(open(identity, identity.certificate(), &bytes, at(0)).is_err());
        });
    }

    /// Bytes that start like packets and armor get further than those that are arbitrary.
    #[test]
    fn packets_of_arbitrary_content_never_panic(
        parts in prop::collection::vec(
            (any::<u8>(), prop::collection::vec(any::<u8>(), 0..120), any::<bool>()), 1..6),
    ) {
        let mut packets = Vec::new();
        for (tag, content, known) in parts {
            packets.extend([0xc0 | (tag & 0x3f), content.len() as u8 + 6]);
            let version = if tag % 3 == 0 { 3 } else { 4 };
            let algorithms = [1u8, 3, 16, 17, 18, 19, 22, 25, 27];
            let algorithm = algorithms[usize::from(tag) % algorithms.len()];
            packets.extend(if known { [version, 0x65, 0, 0, 0, algorithm] } else { [tag; 6] });
            packets.extend(content);
        }
        let _ = Certificate::parse(&packets);
        packets[0] = 0xc6;
        let _ = Certificate::parse(&packets);
        packets[0] = 0xc5;
        let _ = Identity::load(&packets, None);
        packets[0] = 0xc1;
        let armored = format!("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n{packets:?}\n-----END");
        let _ = Certificate::parse(armored.as_bytes());
        thread_local!(static IDENTITY: Identity = identity());
        IDENTITY.with(|identity| {
            assert!(open(identity, identity.certificate(), &packets, at(0)).is_err());
        });
    }
}
