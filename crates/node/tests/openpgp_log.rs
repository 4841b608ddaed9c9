//! The library underneath writes secret keys to its log while it reads them. Ours do not get there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Mutex;

use papertrader_core::time::{SECOND, WallTime};
use papertrader_node::openpgp::{Identity, Passphrase, open, seal};
use pgp::composed::{Deserializable, SignedSecretKey};
use pgp::types::{PlainSecretParams, SecretParams};

struct Capture(Mutex<String>);

impl log::Log for Capture {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push_str(&format!("{}\n", record.args()));
    }

    fn flush(&self) {}
}

static LOG: Capture = Capture(Mutex::new(String::new()));

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn no_secret_is_written_to_the_log() {
    let now = WallTime(1_700_000_000 * SECOND);
    let identity = Identity::generate("worker-1", now).unwrap();
    let plain = identity.to_armored_secret(None).unwrap();
    let library_key = SignedSecretKey::from_string(&plain).unwrap().0;
    let SecretParams::Plain(secret) = library_key.primary_key.secret_params() else {
        panic!("it is not locked");
    };
    let PlainSecretParams::EdDSALegacy(pgp::crypto::eddsa_legacy::SecretKey::Ed25519(key)) = secret
    else {
        panic!("it is Ed25519");
    };
    let secret = hex(key.as_bytes());
    // As a number in a packet (RFC 4880, 3.2): without zeros in front.
    let secret = secret.trim_start_matches("00").to_owned();

    log::set_logger(&LOG).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let passphrase = Passphrase::new("hunter2-hunter2");
    let locked = identity.to_armored_secret(passphrase.as_ref()).unwrap();
    for (text, passphrase) in [(&plain, None), (&locked, passphrase.as_ref())] {
        let identity = Identity::load(text.as_bytes(), passphrase).unwrap();
        let message = seal(&identity, identity.certificate(), b"a secret of ours", now).unwrap();
        open(&identity, identity.certificate(), &message, now).unwrap();
    }
    let ours = std::mem::take(&mut *LOG.0.lock().unwrap());
    assert!(ours.contains("fixed packet"), "the library did write to the log");
    for forbidden in [&secret, "hunter2", "a secret of ours", &hex(b"a secret of ours")] {
        assert!(!ours.contains(forbidden), "{forbidden}");
    }

    // This is what is avoided. Once the library no longer does it, `packets::secret_key` can go.
    SignedSecretKey::from_string(&plain).unwrap();
    assert!(LOG.0.lock().unwrap().contains(&secret));
}
