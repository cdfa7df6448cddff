//! TLS towards clients and endpoints; the only file that knows rustls' traits.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::{matching::RequestHost, model::Protocol, routing::Live};

/// Chooses the certificate by the server name of the handshake, from the snapshot in force.
#[derive(Debug)]
struct ByServerName {
    live: Live,
    /// Shown where no certificate is known; signed by ourselves at start.
    own: Arc<CertifiedKey>,
}

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = hello.server_name().and_then(|name| RequestHost::parse(name).ok());
        let snapshot = self.live.load();
        let found = snapshot.certificates.find(host.as_ref());
        Some(found.map_or_else(|| Arc::clone(&self.own), |certificate| Arc::clone(&certificate.key)))
    }
}

/// What handshakes with clients use: TLS 1.2 and 1.3, `h2` and `http/1.1` by ALPN.
///
/// # Errors
/// When no self-signed certificate or ticket key can be made.
pub(super) fn server_config(live: Live) -> io::Result<Arc<ServerConfig>> {
    let own = Arc::new(self_signed().map_err(io::Error::other)?);
    let mut config =
        ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(ByServerName { live, own }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(io::Error::other)?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

fn self_signed() -> anyhow::Result<CertifiedKey> {
    let mut params = rcgen::CertificateParams::new(vec!["pierhead.invalid".to_owned()])?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "Pierhead default certificate");
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let signing = aws_lc_rs::sign::any_supported_type(&PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], signing))
}

/// What handshakes with endpoints use, by protocol.
#[derive(Debug)]
pub(super) struct ClientConfigs {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl ClientConfigs {
    pub(super) fn new() -> Self {
        let config = |alpn: &[u8]| {
            let mut config = ClientConfig::builder()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unverified(aws_lc_rs::default_provider())))
                .with_no_client_auth();
            config.alpn_protocols = vec![alpn.to_vec()];
            config.enable_sni = false; // the name of the endpoint's certificate is not known
            Arc::new(config)
        };
        Self { http1: config(b"http/1.1"), http2: config(b"h2") }
    }

    pub(super) fn of(&self, protocol: Protocol) -> Arc<ClientConfig> {
        Arc::clone(if protocol.is_http2() { &self.http2 } else { &self.http1 })
    }
}

/// Takes any certificate, as `appProtocol: https` without a policy asks for: pods have no name to verify.
#[derive(Debug)]
struct Unverified(CryptoProvider);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
