//! Certificates for scripted workers.

use std::sync::Arc;

use papertrader_protocol::Fingerprint;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};

/// The key and the certificate of a worker.
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    protocols: Vec<Vec<u8>>,
}

impl Identity {
    /// A new one, made by itself, for a name that nobody connects to.
    pub(crate) fn self_made() -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["papertrader.invalid".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Identity::of(certificate.der(), &key)
    }

    fn of(certificate: &CertificateDer<'_>, key: &KeyPair) -> Identity {
        Identity {
            certificate: certificate.clone().into_owned(),
            key: key.serialize_der(),
            protocols: vec![b"papertrader/1".to_vec()],
        }
    }

    /// Speaks only these protocols inside TLS.
    pub(crate) fn speaking(mut self, protocols: &[&str]) -> Identity {
        self.protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// Shows this certificate with the key of another one.
    pub(crate) fn with_key_of(mut self, other: &Identity) -> Identity {
        self.key = other.key.clone();
        self
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint(Sha256::digest(&self.certificate).into())
    }

    /// Does not look whether the key belongs to the certificate: that is the client's part.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(ring::default_provider());
        let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
        let key = provider.key_provider.load_private_key(key).unwrap();
        let shown = CertifiedKey::new(vec![self.certificate.clone()], key);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        config.alpn_protocols = self.protocols.clone();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Somebody who vouches for certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate in DER.
    pub(crate) fn root(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    /// The same as systems keep it.
    pub(crate) fn root_pem(&self) -> String {
        self.0.pem()
    }

    /// A new certificate for a host.
    pub(crate) fn vouch_for(&self, host: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity::of(certificate.der(), &key)
    }
}
