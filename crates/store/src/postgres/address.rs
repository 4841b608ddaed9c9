//! Where the database is and how it is reached: the URL and TLS.
//!
//! `postgresql://USER:PASSWORD@HOST:PORT/DATABASE?KEY=VALUE&…`, with the keys of libpq, of which
//! these are read here:
//!
//! | `sslmode` | |
//! |---|---|
//! | `disable` | no TLS |
//! | `prefer` (if none is given) | TLS if the server has it; whose it is, is not checked |
//! | `require` | TLS or nothing; whose it is, is not checked: it helps against listeners only |
//! | `verify-full` | TLS with a certificate for this host, by one of the system's root certificates |
//!
//! `sslrootcert=FILE` (PEM) takes the place of the system's root certificates, and goes with
//! `verify-full` alone. `answer_timeout=SECONDS` (30) is how long the server may take for one
//! statement. Through a Unix socket there is no TLS.
//!
//! Invariant: the password is never shown, and no error repeats a part of the URL.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::StoreError;
use crate::lease::RENEWAL;

/// How long the server may take for a statement if the URL does not say.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// A connection on which nothing moves is probed after this time, and then as often.
const PROBE: Duration = Duration::from_secs(10);

/// A database server and how to reach it.
pub(crate) struct Address {
    pub(super) config: Config,
    pub(super) tls: MakeRustlsConnect,
    /// How long the server may take for a statement.
    pub(super) answer: Duration,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hosts = self.config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(path) => path.display().to_string(),
        });
        let hosts: Vec<String> = hosts.collect();
        write!(f, "{}/{}", hosts.join(","), self.config.get_dbname().unwrap_or("?"))
    }
}

impl Address {
    /// Reads a URL.
    pub(crate) fn new(url: &str) -> Result<Address, StoreError> {
        let (url, own) = take_own(url)?;
        let unreadable = || {
            wrong(
                "it cannot be read. It has the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE, \
                 and other signs than letters and digits in the password are written as %XX",
            )
        };
        if !url.starts_with("postgresql://") && !url.starts_with("postgres://") {
            return Err(unreadable());
        }
        // The parser's own words may repeat a part of a password.
        let mut config: Config = url.parse().map_err(|_| unreadable())?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(wrong("it names no host"));
        }
        let (mode, verifier) = match own.mode.as_deref() {
            Some("disable") => (SslMode::Disable, None),
            None | Some("prefer") => (SslMode::Prefer, None),
            Some("require") => (SslMode::Require, None),
            Some("verify-full") => (SslMode::Require, Some(roots(own.roots.as_deref())?)),
            Some(_) => {
                return Err(wrong("sslmode is none of disable, prefer, require and verify-full"));
            }
        };
        if own.roots.is_some() && verifier.is_none() {
            return Err(wrong("sslrootcert is of use only with sslmode=verify-full"));
        }
        config.ssl_mode(mode);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(PROBE * 3);
        }
        if config.get_keepalives_interval().is_none() {
            config.keepalives_idle(PROBE).keepalives_interval(PROBE).keepalives_retries(3);
        }
        if config.get_application_name().is_none() {
            config.application_name("papertrader");
        }
        let answer = own.answer.unwrap_or(ANSWER);
        Ok(Address { config, tls: MakeRustlsConnect::new(client_config(verifier)?), answer })
    }

    /// The same server, of which little is asked and an answer awaited at once.
    pub(super) fn impatient(&self) -> Address {
        let mut config = self.config.clone();
        config.connect_timeout(RENEWAL);
        Address { config, tls: self.tls.clone(), answer: RENEWAL }
    }
}

/// What of a URL is read here.
#[derive(Default)]
struct Own {
    mode: Option<String>,
    roots: Option<String>,
    answer: Option<Duration>,
}

/// Takes from a URL what is read here.
fn take_own(url: &str) -> Result<(String, Own), StoreError> {
    let mut own = Own::default();
    // A password may have a ? that is not written as %3F.
    let host = url.find('@').unwrap_or(0);
    let Some(at) = url[host..].find('?') else { return Ok((url.to_owned(), own)) };
    let (front, query) = (&url[..host + at], &url[host + at + 1..]);
    let mut others = Vec::new();
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("sslmode", value)) => own.mode = Some(value.to_owned()),
            Some(("sslrootcert", value)) => own.roots = Some(decoded(value)?),
            Some(("answer_timeout", value)) => {
                let seconds = value.parse().ok().filter(|seconds| (1..=86_400).contains(seconds));
                let seconds = seconds.ok_or_else(|| {
                    wrong("answer_timeout is no number of seconds from 1 to 86400")
                })?;
                own.answer = Some(Duration::from_secs(seconds));
            }
            _ => others.push(pair),
        }
    }
    if others.is_empty() {
        return Ok((front.to_owned(), own));
    }
    Ok((format!("{front}?{}", others.join("&")), own))
}

/// A value whose signs may be written as %XX.
fn decoded(value: &str) -> Result<String, StoreError> {
    let bad = || wrong("sslrootcert has a % that no two hexadecimal digits follow");
    let (mut bytes, mut rest) = (Vec::new(), value);
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        let digits = after.get(..2).ok_or_else(bad)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).map_err(|_| bad())
}

fn wrong(what: &str) -> StoreError {
    StoreError::Database(format!("the database's URL: {what}"))
}

/// The root certificates in a file, or the system's.
fn roots(file: Option<&str>) -> Result<RootCertStore, StoreError> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            return Err(StoreError::Database(
                "this system has no root certificates: name a file with sslrootcert".to_owned(),
            ));
        }
        return Ok(roots);
    };
    let unusable = |error: &dyn std::fmt::Display| {
        StoreError::Database(format!("the root certificates in {file} cannot be used: {error}"))
    };
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| unusable(&error))? {
        let certificate = certificate.map_err(|error| unusable(&error))?;
        roots.add(certificate).map_err(|error| unusable(&error))?;
    }
    if roots.is_empty() {
        return Err(unusable(&"there are none"));
    }
    Ok(roots)
}

fn client_config(roots: Option<RootCertStore>) -> Result<ClientConfig, StoreError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| StoreError::Database(error.to_string()))?;
    Ok(match roots {
        Some(roots) => builder.with_root_certificates(roots).with_no_client_auth(),
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth(),
    })
}

/// Takes any certificate: `prefer` and `require` promise no more.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_with_its_keys() {
        let url = "postgresql://me:se%40cret@db.example/books?sslmode=require&answer_timeout=7\
                   &connect_timeout=3";
        let address = Address::new(url).unwrap();
        assert_eq!(address.config.get_password(), Some(&b"se@cret"[..]));
        assert_eq!(address.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(address.answer, Duration::from_secs(7));
        assert_eq!(address.config.get_connect_timeout(), Some(&Duration::from_secs(3)));
        assert_eq!(format!("{address:?}"), "db.example/books");
        let address = Address::new("postgresql://me:w?sslmode=x@db/books?sslmode=disable").unwrap();
        assert_eq!(address.config.get_password(), Some(&b"w?sslmode=x"[..]));
        assert_eq!(address.config.get_ssl_mode(), SslMode::Disable);
        let address = Address::new("postgres://me@%2Frun%2Fpostgresql/books").unwrap();
        assert_eq!(address.config.get_ssl_mode(), SslMode::Prefer);
        assert_eq!(format!("{address:?}"), "/run/postgresql/books");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_without_the_password() {
        for (url, words) in [
            ("mysql://me:hunter2@db/books", "has the form"),
            ("host=db password=hunter2", "has the form"),
            ("postgresql://me:hunter2@db/books?hunter2=1", "has the form"),
            ("postgresql://me:hunter2@db:hunter2/books", "has the form"),
            ("postgresql://me:hunter2@db/books?sslmode=hunter2", "sslmode is none of"),
            ("postgresql://me:hunter2@db/books?sslrootcert=/x", "only with sslmode=verify-full"),
            ("postgresql://me:hunter2@db/books?answer_timeout=0", "seconds from 1"),
            ("postgresql://me:hunter2@db/b?sslmode=verify-full&sslrootcert=%2", "hexadecimal"),
            ("postgresql://me:hunter2@db/b?sslmode=verify-full&sslrootcert=/no/x", "/no/x cannot"),
            ("postgresql:///books?password=hunter2", "names no host"),
        ] {
            let error = Address::new(url).unwrap_err().to_string();
            assert!(error.contains(words), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
