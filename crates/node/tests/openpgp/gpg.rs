//! A GnuPG with a home of its own, whose clock stands where the test puts it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use papertrader_core::time::{SECOND, WallTime};
use papertrader_node::openpgp::{Certificate, Fingerprint, Identity, Passphrase};

/// When the tests' keys are made, in seconds since 1970: 2023-11-14 22:13:20 UTC.
pub(crate) const T0: i64 = 1_700_000_000;
pub(crate) const DAY: i64 = 86_400;

/// The time `seconds` after [`T0`].
pub(crate) fn at(seconds: i64) -> WallTime {
    WallTime((T0 + seconds) * SECOND)
}

pub(crate) struct Gpg {
    home: tempfile::TempDir,
    passphrase: String,
    /// Seconds after [`T0`].
    clock: i64,
}

impl Gpg {
    pub(crate) fn new() -> Gpg {
        Gpg::with_passphrase("")
    }

    pub(crate) fn with_passphrase(passphrase: &str) -> Gpg {
        // The agent's socket is in it, and its path must be short.
        let home = tempfile::Builder::new().prefix("pt").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o700)).unwrap();
        // By default a passphrase is made to cost a tenth of a second, and ten times that unoptimised.
        std::fs::write(home.path().join("gpg-agent.conf"), "s2k-count 65536\n").unwrap();
        Gpg { home, passphrase: passphrase.to_owned(), clock: 0 }
    }

    /// Sets the clock to `seconds` after [`T0`].
    pub(crate) fn clock(&mut self, seconds: i64) -> &mut Gpg {
        self.clock = seconds;
        self
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("GNUPGHOME", self.home.path()).env("LC_ALL", "C");
        command
    }

    /// Runs `gpg` and gives what it writes, whatever comes of it.
    pub(crate) fn try_run(&self, arguments: &[&str], input: &[u8]) -> Output {
        let clock = format!("{}!", T0 + self.clock);
        let mut child = self
            .command("gpg")
            .args(["--batch", "--no-tty", "--yes", "--status-fd", "2", "--trust-model", "always"])
            .args(["--pinentry-mode", "loopback", "--passphrase", &self.passphrase])
            .args(["--faked-system-time", &clock])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("these tests need GnuPG 2.2 as `gpg`: install the package gnupg");
        // A refusal may come before all of the input is read.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    /// Runs `gpg`, which must succeed, and gives what it writes to standard output.
    pub(crate) fn run(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let output = self.try_run(arguments, input);
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "gpg {arguments:?}: {words}");
        output.stdout
    }

    /// Makes a key, such as `("ed25519", "cert,sign", "never")`, and gives its fingerprint.
    pub(crate) fn make(&self, algorithm: &str, usage: &str, expires: &str) -> Key {
        let output =
            self.try_run(&["--quick-gen-key", "peer <peer@test>", algorithm, usage, expires], b"");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words}");
        let created = words.lines().find_map(|line| line.strip_prefix("[GNUPG:] KEY_CREATED "));
        let fingerprint = created.and_then(|line| line.split(' ').nth(1)).expect("KEY_CREATED");
        Key { fingerprint: fingerprint.parse().unwrap() }
    }

    /// Adds a subkey and gives its fingerprint.
    pub(crate) fn add(&self, key: Key, algorithm: &str, usage: &str, expires: &str) -> Key {
        let before = self.subkeys(key);
        let fingerprint = key.fingerprint.to_string();
        self.run(&["--quick-add-key", &fingerprint, algorithm, usage, expires], b"");
        let mut after = self.subkeys(key);
        after.retain(|fingerprint| !before.contains(fingerprint));
        Key { fingerprint: after[0] }
    }

    /// An Ed25519 key that certifies and signs, with a subkey to encrypt to, both without end.
    pub(crate) fn make_usual(&self) -> Key {
        let key = self.make("ed25519", "cert,sign", "never");
        self.add(key, "cv25519", "encr", "never");
        key
    }

    fn subkeys(&self, key: Key) -> Vec<Fingerprint> {
        let fingerprint = key.fingerprint.to_string();
        let listing = self.run(&["--with-colons", "--list-keys", &fingerprint], b"");
        let listing = String::from_utf8(listing).unwrap();
        let fingerprints = listing.lines().filter(|line| line.starts_with("fpr:"));
        fingerprints.skip(1).map(|line| line.split(':').nth(9).unwrap().parse().unwrap()).collect()
    }

    /// Revokes a subkey; 1 is the first.
    pub(crate) fn revoke_subkey(&self, key: Key, number: usize) {
        let commands = format!("key {number}\nrevkey\ny\n0\n\ny\nsave\n");
        let fingerprint = key.fingerprint.to_string();
        self.run(&["--command-fd", "0", "--edit-key", &fingerprint], commands.as_bytes());
    }

    /// Revokes the whole key by the certificate that GnuPG prepares for that day.
    pub(crate) fn revoke(&self, key: Key) {
        let file = self.home().join(format!("openpgp-revocs.d/{}.rev", key.fingerprint));
        let text = std::fs::read_to_string(file).unwrap().replace(":-----BEGIN", "-----BEGIN");
        self.run(&["--import"], text.as_bytes());
    }

    pub(crate) fn export(&self, key: Key) -> Vec<u8> {
        self.run(&["--export", &key.fingerprint.to_string()], b"")
    }

    pub(crate) fn certificate(&self, key: Key) -> Certificate {
        Certificate::parse(&self.export(key)).unwrap()
    }

    pub(crate) fn export_secret(&self, key: Key) -> Vec<u8> {
        self.run(&["--armor", "--export-secret-keys", &key.fingerprint.to_string()], b"")
    }

    pub(crate) fn identity(&self, key: Key) -> Identity {
        let passphrase = Passphrase::new(&self.passphrase);
        Identity::load(&self.export_secret(key), passphrase.as_ref()).unwrap()
    }

    pub(crate) fn import(&self, key: &str) {
        self.run(&["--import"], key.as_bytes());
    }

    /// Signs by `signer` (`FINGERPRINT` or, for exactly that subkey, `FINGERPRINT!`) and encrypts.
    pub(crate) fn sign_and_encrypt(&self, signer: &str, to: Fingerprint, more: &[&str]) -> Vec<u8> {
        let to = to.to_string();
        let mut arguments = vec!["--compress-algo", "none", "-u", signer, "-r", &to];
        arguments.extend_from_slice(more);
        arguments.extend_from_slice(&["--sign", "--encrypt"]);
        self.run(&arguments, CONTENT)
    }
}

/// What the messages say.
pub(crate) const CONTENT: &[u8] = b"nonce \x00\xff\r\n and more\n";

impl Drop for Gpg {
    fn drop(&mut self) {
        // Ends the agent of this home, and of no other.
        let _ = self.command("gpgconf").args(["--kill", "all"]).output();
    }
}

/// A key in GnuPG's keyring.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    pub(crate) fingerprint: Fingerprint,
}
