//! The keys of a server: its OpenPGP key and its TLS certificate, made at the first start or the
//! operator's own.
//!
//! Invariant: what is secret is written with mode 0600 from its creation on, never over a file that
//! is there, and never printed.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use papertrader_core::time::WallTime;
use papertrader_node::clock::Clock;
use papertrader_node::openpgp::{Certificate, Identity, IdentityError, Passphrase};
use papertrader_node::tls;
use serde::Deserialize;

use super::ServerError;
use crate::prompt;

/// The OpenPGP secret key that is made when none is configured.
const SECRET: &str = "openpgp-secret.asc";
/// Its public half, to hand out.
pub(super) const PUBLIC: &str = "openpgp-public.asc";
/// The largest key or passphrase file that is read.
const MAX_FILE: u64 = 64 * 1024;

/// `[openpgp]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OpenPgpSettings {
    pub(super) key: Option<PathBuf>,
    pub(super) passphrase_file: Option<PathBuf>,
}

/// `[tls]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlsSettings {
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

impl OpenPgpSettings {
    /// The configured key, else the one in `home`, which is made when it is not there; `user_id` is
    /// then what it is called. Relative paths begin at `base`.
    pub(super) fn identity(
        &self,
        base: &Path,
        home: &Path,
        user_id: &str,
    ) -> Result<Arc<Identity>, ServerError> {
        let own = home.join(SECRET);
        let file = match &self.key {
            Some(file) => base.join(file),
            None if !own.exists() => return own_identity(home, user_id),
            // It may be one of GnuPG's that was put there.
            None => own,
        };
        let text = read(&file)?;
        let failed = |error| ServerError::Key { path: file.display().to_string(), error };
        let passphrase = match &self.passphrase_file {
            Some(path) => first_line(&base.join(path))?,
            None => match Identity::load(&text, None) {
                Ok(identity) => return Ok(Arc::new(identity)),
                Err(IdentityError::PassphraseNeeded) if std::io::stdin().is_terminal() => {
                    let question = format!("Passphrase of {}: ", file.display());
                    prompt::secret(&question).map_err(|error| match error.kind() {
                        std::io::ErrorKind::Interrupted => ServerError::Interrupted,
                        _ => error.into(),
                    })?
                }
                Err(error) => return Err(failed(error)),
            },
        };
        let identity = Identity::load(&text, Passphrase::new(&passphrase).as_ref());
        Ok(Arc::new(identity.map_err(failed)?))
    }
}

impl TlsSettings {
    /// The configured certificate, else the self-made one in `home`, which is made when it is not
    /// there. Relative paths begin at `base`.
    pub(super) fn certificate(
        &self,
        base: &Path,
        home: &Path,
        protocols: &[&[u8]],
    ) -> Result<tls::Certificate, ServerError> {
        Ok(match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                tls::Certificate::configured(&base.join(certificate), &base.join(key), protocols)?
            }
            (None, None) => tls::Certificate::self_made(home, protocols)?,
            _ => {
                let problem = "needs both certificate and key, or neither".into();
                return Err(ServerError::Value { key: "[tls]", problem });
            }
        })
    }
}

/// The key in `home`, which is made when it is not there.
pub(super) fn own_identity(home: &Path, user_id: &str) -> Result<Arc<Identity>, ServerError> {
    let file = home.join(SECRET);
    let failed = |error| ServerError::Key { path: file.display().to_string(), error };
    if file.exists() {
        return Ok(Arc::new(Identity::load(&read(&file)?, None).map_err(failed)?));
    }
    let now = Clock::system(WallTime(0)).now();
    let identity = Identity::generate(user_id, now).map_err(failed)?;
    let secret = identity.to_armored_secret(None).map_err(failed)?;
    // The public half first: when the secret is there, it is complete.
    write_new(&home.join(PUBLIC), identity.certificate().to_armored().as_bytes(), true)?;
    write_new(&file, secret.as_bytes(), false)?;
    Ok(Arc::new(identity))
}

/// An OpenPGP public key in a file.
pub(super) fn public_key(file: &Path) -> Result<Certificate, ServerError> {
    let failed = |error: papertrader_node::openpgp::CertificateError| ServerError::PublicKey {
        path: file.display().to_string(),
        error,
    };
    Certificate::parse(&read(file)?).map_err(failed)
}

/// Writes a file that is its owner's alone, whole or not at all; `over` an older one or not.
pub(super) fn write_new(path: &Path, text: &[u8], over: bool) -> Result<(), ServerError> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => ServerError::Exists(path.display().to_string()),
        _ => ServerError::Write { path: path.display().to_string(), error },
    };
    // A name that nobody else has: a file or link that is there is never written through.
    let new = path.with_extension(format!("{}.new", uuid::Uuid::new_v4()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&new).map_err(failed)?;
    let written = file.write_all(text).and_then(|()| file.sync_all()).and_then(|()| {
        if over { std::fs::rename(&new, path) } else { std::fs::hard_link(&new, path) }
    });
    if !over || written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&new);
    }
    written.map_err(failed)
}

fn read(path: &Path) -> Result<Vec<u8>, ServerError> {
    let failed = |error| ServerError::Read { path: path.display().to_string(), error };
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

/// A passphrase: what stands before the end of the first line.
fn first_line(path: &Path) -> Result<String, ServerError> {
    let text = String::from_utf8_lossy(&read(path)?).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_key_in_the_place_of_the_own_one_is_unlocked_by_the_passphrase_file() {
        let home = tempfile::tempdir().unwrap();
        let now = Clock::system(WallTime(0)).now();
        let locked = Identity::generate("east", now).unwrap();
        let passphrase = Passphrase::new("long pass");
        let secret = locked.to_armored_secret(passphrase.as_ref()).unwrap();
        write_new(&home.path().join(SECRET), secret.as_bytes(), false).unwrap();
        std::fs::write(home.path().join("pass"), "long pass\n").unwrap();
        let load = |file: Option<&str>| {
            let passphrase_file = file.map(PathBuf::from);
            let settings = OpenPgpSettings { passphrase_file, ..OpenPgpSettings::default() };
            settings.identity(home.path(), home.path(), "another")
        };
        let loaded = load(Some("pass")).unwrap();
        assert_eq!(loaded.certificate().fingerprint(), locked.certificate().fingerprint());
        std::fs::write(home.path().join("pass"), "other\n").unwrap();
        let wrong = load(Some("pass")).unwrap_err();
        assert!(matches!(wrong, ServerError::Key { .. }), "{wrong}");
    }
}
