//! TLS towards endpoints: who is trusted, which name is asked for, and what we show of ourselves.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::SingleCertAndKey,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Transport;
use crate::model::{EndpointTls, Protocol, Verification};

/// How connections are secured.
#[derive(Debug)]
pub(super) enum Security {
    /// Not at all.
    Plain,
    /// By TLS.
    Tls(Client),
    /// As nobody can now, and why: nothing is sent.
    Impossible(&'static str),
}

/// Our side of handshakes.
#[derive(Debug)]
pub(super) struct Client {
    config: Arc<ClientConfig>,
    /// Name sent and verified; None for the address, which is neither.
    name: Option<ServerName<'static>>,
}

impl Client {
    pub(super) async fn handshake(&self, address: IpAddr, stream: TcpStream) -> io::Result<Transport> {
        let name = self.name.clone().unwrap_or_else(|| ServerName::from(address));
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await?;
        Ok(Transport::Tls(Box::new(stream.into())))
    }
}

/// How endpoints that speak `protocol` are secured. Verification means TLS, whatever the protocol says.
pub(super) fn security(tls: &EndpointTls, protocol: Protocol) -> Security {
    let client = match tls {
        EndpointTls::Unavailable => Err("what its policy names for it is not there"),
        EndpointTls::Unverified if !protocol.is_tls() => return Security::Plain,
        EndpointTls::Unverified => Ok(Client { config: unverified(protocol), name: None }),
        EndpointTls::Verified(verification) => verified(verification, protocol),
    };
    client.map_or_else(Security::Impossible, Security::Tls)
}

fn alpn(protocol: Protocol) -> Vec<Vec<u8>> {
    vec![if protocol.is_http2() { b"h2".to_vec() } else { b"http/1.1".to_vec() }]
}

/// The one of its kind: nothing in it depends on the backend.
fn unverified(protocol: Protocol) -> Arc<ClientConfig> {
    static HTTP1: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| build(Protocol::Https));
    static HTTP2: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| build(Protocol::H2));
    fn build(protocol: Protocol) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(aws_lc_rs::default_provider())))
            .with_no_client_auth();
        config.alpn_protocols = alpn(protocol);
        config.enable_sni = false; // the name of the endpoint's certificate is not known
        Arc::new(config)
    }
    Arc::clone(if protocol.is_http2() { &HTTP2 } else { &HTTP1 })
}

fn verified(verification: &Verification, protocol: Protocol) -> Result<Client, &'static str> {
    let authorities = verification.authorities.as_ref().map_or_else(
        || Arc::clone(&SYSTEM_AUTHORITIES),
        |given| {
            let mut authorities = RootCertStore::empty();
            authorities.add_parsable_certificates(given.iter().cloned());
            Arc::new(authorities)
        },
    );
    let chain = WebPkiServerVerifier::builder(authorities).build();
    let chain = chain.map_err(|_| "no certification authority is known")?;
    let builder = ClientConfig::builder();
    let builder = if verification.subject_alt_names.is_empty() {
        builder.with_webpki_verifier(chain)
    } else {
        let names = verification.subject_alt_names.clone();
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName { chain, names }))
    };
    let mut config = match &verification.client_certificate {
        Some(certificate) => {
            let own = SingleCertAndKey::from(Arc::clone(&certificate.key));
            builder.with_client_cert_resolver(Arc::new(own))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn(protocol);
    Ok(Client { config: Arc::new(config), name: Some(verification.hostname.clone()) })
}

/// The certification authorities that the system trusts, read once.
static SYSTEM_AUTHORITIES: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    let mut authorities = RootCertStore::empty();
    let (known, unreadable) = authorities.add_parsable_certificates(found.certs);
    tracing::debug!(known, unreadable, errors = ?found.errors, "certification authorities of the system read");
    if known == 0 {
        tracing::warn!("the system has no certification authority: policies that use them reach no endpoint");
    }
    Arc::new(authorities)
});

/// Wants one of several names in place of the one that is asked for.
#[derive(Debug)]
struct AnyName {
    chain: Arc<WebPkiServerVerifier>,
    names: Vec<ServerName<'static>>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let mut verdict = Err(TlsError::InvalidCertificate(CertificateError::NotValidForName));
        for name in &self.names {
            verdict = self.chain.verify_server_cert(end_entity, intermediates, name, ocsp_response, now);
            let other_name = matches!(
                verdict,
                Err(TlsError::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
                ))
            );
            if !other_name {
                break;
            }
        }
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
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
