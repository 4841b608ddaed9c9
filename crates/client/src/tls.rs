//! The TLS handshake: TLS 1.3 only, without resumption and early data, and the judgement of the
//! server's certificate ([`crate::Trust`] says the order).
//!
//! Nothing is remembered here. Invariant: a stream comes out only if the certificate was taken and
//! the server has proved its key; before that nothing but the handshake is sent.

use std::io;
use std::sync::{Arc, OnceLock};

use papertrader_protocol::Fingerprint;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error,
    PeerIncompatible, RootCertStore, SignatureScheme,
};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::address::Address;
use crate::trust::Roots;

/// The protocol that is offered inside TLS (ALPN).
const PROTOCOL: &[u8] = b"papertrader/1";

/// What is asked of one server's certificate.
#[derive(Debug)]
pub(crate) struct Policy {
    /// The one that is taken without anybody vouching for it.
    pub(crate) expected: Option<Fingerprint>,
    /// Whether any certificate is taken if none is expected.
    pub(crate) first_use: bool,
    /// Who may vouch for it, if anybody.
    pub(crate) roots: Option<Roots>,
}

/// Why a certificate was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Expected,
    Authority,
    FirstUse,
}

/// Why there is no stream.
#[derive(Debug)]
pub(crate) enum NoTls {
    /// The certificate was not taken.
    Certificate(Fingerprint),
    /// Something else, in words.
    Failed(String),
}

/// Makes TLS of a fresh TCP connection, and says what was seen and why it was taken.
pub(crate) async fn handshake(
    stream: TcpStream,
    address: &Address,
    policy: Policy,
) -> Result<(TlsStream<TcpStream>, Fingerprint, Verdict), NoTls> {
    let failed = |error: Error| NoTls::Failed(format!("TLS: {error}"));
    let Ok(name) = ServerName::try_from(address.host().to_owned()) else {
        return Err(NoTls::Failed("TLS: this host name cannot be in a certificate".to_owned()));
    };
    let provider = Arc::new(ring::default_provider());
    let judge =
        Arc::new(Judge { policy, provider: Arc::clone(&provider), judged: OnceLock::new() });
    let verifier: Arc<dyn ServerCertVerifier> = Arc::clone(&judge) as _;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    match (TlsConnector::from(Arc::new(config)).connect(name, stream).await, judge.judged.get()) {
        (Ok(stream), Some((seen, Some(verdict)))) => Ok((stream, *seen, *verdict)),
        (Err(_), Some((seen, None))) => Err(NoTls::Certificate(*seen)),
        (Err(error), _) => Err(NoTls::Failed(words(&error, address))),
        // A handshake cannot be finished without a certificate that was taken.
        (Ok(_), _) => Err(NoTls::Failed("TLS: the server has shown no certificate".to_owned())),
    }
}

/// What a user can do about a handshake that failed.
fn words(error: &io::Error, address: &Address) -> String {
    let plain = format!("if the operator chose plain TCP, say tcp://{}", address.place());
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(Error::InvalidMessage(_)) => format!("it does not speak TLS: {plain}"),
        Some(
            Error::PeerIncompatible(_) | Error::AlertReceived(AlertDescription::ProtocolVersion),
        ) => "it does not speak TLS 1.3, and nothing older is taken".to_owned(),
        Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            "it speaks TLS, but not the protocol of PaperTrader".to_owned()
        }
        Some(error) => format!("TLS: {error}"),
        None => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                // Nobody may talk a user out of TLS by closing connections.
                "it closed the connection: it takes no clients just now".to_owned()
            }
            _ => error.to_string(),
        },
    }
}

/// Judges the certificate of one handshake.
#[derive(Debug)]
struct Judge {
    policy: Policy,
    provider: Arc<CryptoProvider>,
    /// What was seen, and why it was taken, or `None` if it was not.
    judged: OnceLock<(Fingerprint, Option<Verdict>)>,
}

impl Judge {
    fn verdict(&self, seen: Fingerprint, is_valid: impl FnOnce() -> bool) -> Option<Verdict> {
        let policy = &self.policy;
        if policy.expected == Some(seen) {
            Some(Verdict::Expected)
        } else if is_valid() {
            Some(Verdict::Authority)
        } else if policy.first_use && policy.expected.is_none() {
            Some(Verdict::FirstUse)
        } else {
            None
        }
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seen = Fingerprint(Sha256::digest(end_entity).into());
        let verdict = self.verdict(seen, || {
            let Some(roots) = self.policy.roots.as_ref().map(store) else { return false };
            let provider = Arc::clone(&self.provider);
            // Without any root there is nobody who vouches.
            WebPkiServerVerifier::builder_with_provider(roots, provider).build().is_ok_and(|by| {
                by.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                    .is_ok()
            })
        });
        let _ = self.judged.set((seen, verdict));
        match verdict {
            Some(_) => Ok(ServerCertVerified::assertion()),
            None => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn store(roots: &Roots) -> Arc<RootCertStore> {
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    // What cannot be read vouches for nothing.
    let of = |certificates| {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(certificates);
        Arc::new(store)
    };
    match roots {
        Roots::System => {
            Arc::clone(SYSTEM.get_or_init(|| of(rustls_native_certs::load_native_certs().certs)))
        }
        Roots::These(roots) => of(roots.iter().cloned().map(CertificateDer::from).collect()),
    }
}
