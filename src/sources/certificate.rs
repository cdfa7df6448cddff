//! A certificate chain with its key, from PEM: of a Secret or of files.

use rustls::{
    Error, InconsistentKeys,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{extensions::GeneralName, prelude::FromDer};

use crate::model::{Certificate, Origin};

/// Reads chain and key, each with the name it goes by.
///
/// # Errors
/// What is wrong, for the reader. Nothing of the key is ever part of it.
pub fn read(
    origin: Origin,
    (chain_name, chain): (&str, &[u8]),
    (key_name, key): (&str, &[u8]),
) -> Result<Certificate, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{chain_name} is not PEM: {error}"))?;
    let Some(leaf) = chain.first() else { return Err(format!("{chain_name} holds no certificate")) };
    let (names, not_after) = describe(leaf).map_err(|error| format!("{chain_name}{error}"))?;
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("{key_name} holds no PEM private key: {error}"))?;
    let key = any_supported_type(&key).map_err(|error| format!("{key_name} is not usable: {error}"))?;
    let key = CertifiedKey::new(chain, key);
    if let Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) = key.keys_match() {
        return Err(format!("{key_name} does not belong to the first certificate of {chain_name}"));
    }
    Ok(Certificate { origin, names, not_after, key: std::sync::Arc::new(key) })
}

/// Names of the leaf and the end of its validity.
fn describe(leaf: &CertificateDer<'_>) -> Result<(Vec<String>, i64), String> {
    let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(leaf)
        .map_err(|error| format!(" is not an X.509 certificate: {error}"))?;
    let alternative = leaf.subject_alternative_name().map_err(|error| format!(": {error}"))?;
    let mut names: Vec<String> = alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => ip_text(bytes),
            _ => None,
        })
        .collect();
    names.sort();
    names.dedup();
    Ok((names, leaf.validity().not_after.timestamp()))
}

/// RFC 5280 §4.2.1.6: four octets are an IPv4 address, sixteen an IPv6 one.
fn ip_text(bytes: &[u8]) -> Option<String> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(octets).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|octets| std::net::Ipv6Addr::from(octets).to_string())
}
