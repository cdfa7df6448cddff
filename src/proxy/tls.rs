//! TLS towards clients.

use std::{io, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::PrivatePkcs8KeyDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::{matching::RequestHost, routing::Live};

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
