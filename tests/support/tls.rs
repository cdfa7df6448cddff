//! TLS clients that take any certificate and tell which one they got, and certificates to serve.

use std::{net::SocketAddr, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::{ClientConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{soon, unverified::Unverified};

/// A self-signed certificate and its key.
pub struct Pair {
    certificate: rcgen::Certificate,
    /// Its key.
    pub key: rcgen::KeyPair,
}

impl Pair {
    /// A certificate for these names.
    pub fn new(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
        Self { certificate: cert, key: signing_key }
    }

    /// A `kubernetes.io/tls` Secret that holds it.
    pub fn secret(&self, name: &str) -> String {
        let certificate = BASE64_STANDARD.encode(self.certificate.pem());
        let key = BASE64_STANDARD.encode(self.key.serialize_pem());
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\ntype: \
             kubernetes.io/tls\ndata:\n  tls.crt: {certificate}\n  tls.key: {key}\n---\n"
        )
    }

    /// PEM files in a folder: the certificate and its key.
    pub fn files(&self, folder: &std::path::Path, name: &str) -> [String; 2] {
        [("crt", self.certificate.pem()), ("key", self.key.serialize_pem())].map(|(end, pem)| {
            let path = folder.join(format!("{name}.{end}"));
            std::fs::write(&path, pem).unwrap();
            path.to_str().unwrap().to_owned()
        })
    }

    /// The certificate, to compare.
    pub fn der(&self) -> &CertificateDer<'static> {
        self.certificate.der()
    }
}

/// A certification authority.
pub struct Authority(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for these names.
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issue_until(names, 4096)
    }

    /// A certificate for these names that was good until the year began.
    pub fn issue_until(&self, names: &[&str], year: i32) -> Pair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        Pair { certificate: params.signed_by(&key, &self.0).unwrap(), key }
    }

    /// Its certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A Secret that holds its certificate.
    pub fn secret(&self, name: &str) -> String {
        let pem = BASE64_STANDARD.encode(self.pem());
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\ntype: \
             kubernetes.io/tls\ndata: {{tls.crt: \"\", tls.key: \"\", ca.crt: {pem}}}\n---\n"
        )
    }

    /// A `ConfigMap` that holds its certificate.
    pub fn config_map(&self, name: &str) -> String {
        let pem = self.pem().replace('\n', "\n    ");
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\ndata:\n  ca.crt: |\n    \
             {pem}\n---\n"
        )
    }
}

/// What a server uses that shows this certificate and offers HTTP/2 and HTTP/1.1.
pub fn server(pair: &Pair) -> Arc<rustls::ServerConfig> {
    finish(server_builder(rustls::DEFAULT_VERSIONS).with_no_client_auth(), pair)
}

/// What a server uses that also demands a certificate of this authority, in one version of TLS.
pub fn demanding_server(
    pair: &Pair,
    of: &Authority,
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<rustls::ServerConfig> {
    let mut authorities = rustls::RootCertStore::empty();
    authorities.add(of.0.der().clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider);
    finish(server_builder(&[version]).with_client_cert_verifier(clients.build().unwrap()), pair)
}

fn server_builder(
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ConfigBuilder<rustls::ServerConfig, rustls::WantsVerifier> {
    rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
}

fn finish(
    builder: rustls::ConfigBuilder<rustls::ServerConfig, rustls::server::WantsServerCert>,
    Pair { certificate, key }: &Pair,
) -> Arc<rustls::ServerConfig> {
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Opens TLS with a server name and protocols to offer.
pub async fn connect(address: SocketAddr, name: &str, alpn: &[&str]) -> TlsStream<TcpStream> {
    soon("TLS handshake", try_connect(address, name, alpn)).await.unwrap()
}

/// Opens TLS, or tells why not.
pub async fn try_connect(address: SocketAddr, name: &str, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
    open(address, name, alpn, rustls::DEFAULT_VERSIONS).await
}

/// Opens TLS 1.2.
pub async fn connect_tls12(address: SocketAddr, name: &str) -> TlsStream<TcpStream> {
    soon("TLS 1.2 handshake", open(address, name, &[], &[&rustls::version::TLS12])).await.unwrap()
}

async fn open(
    address: SocketAddr,
    name: &str,
    alpn: &[&str],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// The certificate that the server showed.
pub fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}
