//! TLS 1.3 as both servers use it: a certificate, made here or the operator's, and connections.
//!
//! Whoever connects knows the certificate by its fingerprint: names and authorities play no part
//! between master and worker. Invariant: no TLS below 1.3, no resumption and no early data, so that
//! every connection has keying material of its own and nothing in it can be replayed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use papertrader_protocol::Fingerprint;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, SignatureScheme,
    StreamOwned,
};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::private_file;

/// What clients of either server offer (RFC 7301).
pub const CLIENT_PROTOCOL: &[u8] = b"papertrader/1";
/// What a worker offers to the master.
pub const LINK_PROTOCOL: &[u8] = b"papertrader-link/1";

/// The largest certificate or key file that is read.
const MAX_FILE: u64 = 256 * 1024;

/// The server's end of a TLS connection.
pub type ServerStream<S> = tokio_rustls::server::TlsStream<S>;
/// The client's end of a TLS connection.
pub type ClientStream<S> = tokio_rustls::client::TlsStream<S>;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("cannot use {path}: {error}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} holds no usable {what}: {problem}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// `certificate` or `private key`, in PEM form.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Certificate and key cannot be used together.
    #[error("the certificate {path} cannot be used: {problem}")]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// A server's certificate with its key. The key never prints itself.
#[derive(Clone)]
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    config: Arc<ServerConfig>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate({})", self.fingerprint())
    }
}

impl Certificate {
    /// The operator's: a PEM file with the certificate (its chain may follow), and one with its
    /// private key. `protocols` is what connections may be for.
    pub fn configured(
        certificate: &Path,
        key: &Path,
        protocols: &[&[u8]],
    ) -> Result<Certificate, TlsError> {
        let chain = CertificateDer::pem_slice_iter(&read(certificate)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| content(certificate, "certificate", &error))?;
        if chain.is_empty() {
            return Err(content(certificate, "certificate", &"there is none in it"));
        }
        let secret = PrivateKeyDer::from_pem_slice(&read(key)?)
            .map_err(|error| content(key, "private key", &error))?;
        let pair = |error: rustls::Error| TlsError::Pair {
            path: certificate.to_owned(),
            problem: error.to_string(),
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(pair)?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), secret)
            .map_err(pair)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Certificate { chain, config: Arc::new(config) })
    }

    /// A self-made one in `directory` (`tls-certificate.pem`, `tls-key.pem`), made when it is not
    /// there. Its names say nothing: it is known by its fingerprint.
    pub fn self_made(directory: &Path, protocols: &[&[u8]]) -> Result<Certificate, TlsError> {
        let certificate = directory.join("tls-certificate.pem");
        let key = directory.join("tls-key.pem");
        if !certificate.exists() {
            let failed = |error: rcgen::Error| TlsError::Pair {
                path: certificate.clone(),
                problem: error.to_string(),
            };
            let pair = rcgen::KeyPair::generate().map_err(failed)?;
            let mut parameters =
                rcgen::CertificateParams::new(vec!["papertrader".to_owned()]).map_err(failed)?;
            let mut name = rcgen::DistinguishedName::new();
            name.push(rcgen::DnType::CommonName, "papertrader");
            parameters.distinguished_name = name;
            let made = parameters.self_signed(&pair).map_err(failed)?;
            // The certificate last: when it is there, its key is.
            write_secret(&key, pair.serialize_pem().as_bytes())?;
            write_secret(&certificate, made.pem().as_bytes())?;
        }
        Certificate::configured(&certificate, &key, protocols)
    }

    /// By which those who connect know it.
    pub fn fingerprint(&self) -> Fingerprint {
        // It was made with one certificate at least.
        self.chain.first().map_or(Fingerprint([0; 32]), fingerprint_of)
    }

    /// The server's side of a handshake. Dropping the future gives it up. Whoever wants none of the
    /// protocols that this certificate is for, or does not say what it wants, is an error of kind
    /// `InvalidData`.
    pub async fn accept<S>(&self, stream: S) -> io::Result<ServerStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = TlsAcceptor::from(Arc::clone(&self.config)).accept(stream).await?;
        // A wrong name was refused in the handshake; to TLS it is no fault to offer none.
        if !self.config.alpn_protocols.is_empty() && stream.get_ref().1.alpn_protocol().is_none() {
            let problem = "the other end did not say what it wants (ALPN)";
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        Ok(stream)
    }
}

/// The client's side of a handshake with a server that is known by its certificate's fingerprint.
/// A server with another certificate is an error of kind `InvalidData`, before anything was sent
/// to it.
pub async fn connect<S>(
    stream: S,
    expected: Fingerprint,
    protocol: &[u8],
) -> io::Result<ClientStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = client_config(expected, &[protocol])?;
    TlsConnector::from(Arc::new(config)).connect(nobody()?, stream).await
}

/// TLS to a server, for those who wait for it themselves.
pub type BlockingStream<S> = StreamOwned<ClientConnection, S>;

/// The same as [`connect`] without a runtime: blocks until the server has proved its certificate.
pub fn connect_blocking<S: io::Read + io::Write>(
    mut stream: S,
    expected: Fingerprint,
    protocol: &[u8],
) -> io::Result<BlockingStream<S>> {
    let config = client_config(expected, &[protocol])?;
    let mut connection =
        ClientConnection::new(Arc::new(config), nobody()?).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(connection, stream))
}

fn client_config(expected: Fingerprint, protocols: &[&[u8]]) -> io::Result<ClientConfig> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { expected, algorithms }))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config.enable_sni = false;
    Ok(config)
}

/// Not sent, not checked: the fingerprint says who it is.
fn nobody() -> io::Result<ServerName<'static>> {
    ServerName::try_from("papertrader").map_err(io::Error::other)
}

/// The SHA-256 of a certificate in DER form.
pub fn fingerprint_of(certificate: &CertificateDer<'_>) -> Fingerprint {
    Fingerprint(Sha256::digest(certificate.as_ref()).into())
}

/// Knows a server by its certificate, and nothing else.
#[derive(Debug)]
struct Pinned {
    expected: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let seen = fingerprint_of(end_entity);
        if seen == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General(format!(
                "its certificate is {seen}, not the configured {}",
                self.expected
            )))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read;
    let failed = |error| TlsError::File { path: path.to_owned(), error };
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

fn write_secret(path: &Path, text: &[u8]) -> Result<(), TlsError> {
    let failed = |error| TlsError::File { path: path.to_owned(), error };
    private_file::write(path, text).map_err(failed)
}

fn content(path: &Path, what: &'static str, problem: &dyn std::fmt::Display) -> TlsError {
    TlsError::Content { path: path.to_owned(), what, problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_self_made_certificate_stays_and_is_known_by_its_fingerprint() {
        let directory = tempfile::tempdir().unwrap();
        let made = Certificate::self_made(directory.path(), &[LINK_PROTOCOL]).unwrap();
        let again = Certificate::self_made(directory.path(), &[LINK_PROTOCOL]).unwrap();
        assert_eq!(made.fingerprint(), again.fingerprint());
        let (client, server) = duplex(64 * 1024);
        let served = tokio::spawn(async move {
            let mut stream = again.accept(server).await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
            let exported: [u8; 32] =
                stream.get_ref().1.export_keying_material([0; 32], b"label", None).unwrap();
            exported
        });
        let mut stream = connect(client, made.fingerprint(), LINK_PROTOCOL).await.unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"hello");
        let exported: [u8; 32] =
            stream.get_ref().1.export_keying_material([0; 32], b"label", None).unwrap();
        assert_eq!(exported, served.await.unwrap());
    }

    #[tokio::test]
    async fn another_certificate_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let made = Certificate::self_made(directory.path(), &[LINK_PROTOCOL]).unwrap();
        let (client, server) = duplex(64 * 1024);
        let served = tokio::spawn(async move { made.accept(server).await.map(drop) });
        let error = connect(client, Fingerprint([7; 32]), LINK_PROTOCOL).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("not the configured 0707"), "{error}");
        served.await.unwrap().unwrap_err();
    }

    #[tokio::test]
    async fn who_does_not_say_what_it_wants_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        type Names = &'static [&'static [u8]];
        let cases: [(Names, Names, bool); 4] = [
            (&[LINK_PROTOCOL, CLIENT_PROTOCOL], &[], false),
            (&[LINK_PROTOCOL, CLIENT_PROTOCOL], &[b"other"], false),
            (&[LINK_PROTOCOL, CLIENT_PROTOCOL], &[b"other", CLIENT_PROTOCOL], true),
            (&[], &[], true),
        ];
        for (taken, offered, is_taken) in cases {
            let made = Certificate::self_made(directory.path(), taken).unwrap();
            let config = client_config(made.fingerprint(), offered).unwrap();
            let (client, server) = duplex(64 * 1024);
            let served = tokio::spawn(async move { made.accept(server).await });
            let connector = TlsConnector::from(Arc::new(config));
            let connected = connector.connect(nobody().unwrap(), client).await;
            let served = served.await.unwrap();
            assert_eq!(served.is_ok(), is_taken, "{offered:?}");
            match served {
                Ok(_) => drop(connected.unwrap()),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}"),
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn nothing_that_lies_there_gets_at_the_key() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let (key, near) = (directory.path().join("tls-key.pem"), directory.path().join("victim"));
        std::fs::write(&near, "untouched").unwrap();
        std::os::unix::fs::symlink(&near, directory.path().join("tls-key.new")).unwrap();
        std::os::unix::fs::symlink(&near, &key).unwrap();
        Certificate::self_made(directory.path(), &[]).unwrap();
        assert_eq!(std::fs::read(&near).unwrap(), b"untouched");
        let written = std::fs::symlink_metadata(&key).unwrap();
        assert!(written.is_file());
        assert_eq!(written.permissions().mode() & 0o777, 0o600);
    }

    #[cfg(unix)]
    #[test]
    fn the_key_is_its_owners_alone_and_never_printed() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let made = Certificate::self_made(directory.path(), &[]).unwrap();
        let key = directory.path().join("tls-key.pem");
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(format!("{made:?}"), format!("Certificate({})", made.fingerprint()));
        std::fs::write(&key, "nonsense").unwrap();
        let error = Certificate::self_made(directory.path(), &[]).unwrap_err();
        assert!(matches!(error, TlsError::Content { what: "private key", .. }), "{error}");
    }
}
