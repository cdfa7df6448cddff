//! `--backend URL`: everything to these, without a single object.

use std::{collections::BTreeMap, net::IpAddr, str::FromStr, sync::Arc};

use http::Uri;

use crate::{
    matching::HostPattern,
    model::{
        Action, Address, Backend, BackendId, Builder, Certificate, Compiled, Endpoint, Origin, Policy, Problem,
        ProblemKind, Protocol, Route,
    },
};

/// One `--backend`: `http://`, `https://` or `h2c://` and a host, with an optional port and `#weight=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendUrl {
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Where it listens.
    pub address: Address,
    /// Its share relative to the others.
    pub weight: u16,
}

/// Why a `--backend` cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendUrlError {
    /// Not a URL with a scheme and a host.
    #[error("expected a URL such as http://10.0.0.1:8080")]
    NotAUrl,
    /// A scheme that is not spoken.
    #[error("unknown scheme {0:?}: expected http, https or h2c")]
    Scheme(String),
    /// A port that is not a number from 1 to 65535.
    #[error("expected a port from 1 to 65535")]
    Port,
    /// A fragment that is no weight.
    #[error("expected #weight= and a number from 0 to 65535")]
    Weight,
    /// User information, path or query, which would have no effect.
    #[error("expected nothing besides scheme, host, port and weight")]
    Excess,
    /// A host that is neither an IP address nor a DNS name.
    #[error("the host is neither an IP address nor a DNS name")]
    Host,
}

impl FromStr for BackendUrl {
    type Err = BackendUrlError;

    fn from_str(text: &str) -> Result<Self, BackendUrlError> {
        let (text, weight) = match text.split_once('#') {
            None => (text, 1),
            Some((text, fragment)) => {
                let weight = fragment.strip_prefix("weight=").and_then(|weight| weight.parse().ok());
                (text, weight.ok_or(BackendUrlError::Weight)?)
            }
        };
        let uri: Uri = text.parse().map_err(|_| BackendUrlError::NotAUrl)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(BackendUrlError::NotAUrl);
        };
        let (protocol, default_port) = match scheme {
            "http" => (Protocol::Http1, 80),
            "https" => (Protocol::Https, 443),
            "h2c" => (Protocol::H2c, 80),
            other => return Err(BackendUrlError::Scheme(other.to_owned())),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || text.contains('@') {
            return Err(BackendUrlError::Excess);
        }
        let host = authority.host();
        let port = match authority.as_str()[host.len()..].strip_prefix(':') {
            None => default_port,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(BackendUrlError::Port)?,
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let address = match bare.parse::<IpAddr>() {
            Ok(ip) => Address::Socket((ip, port).into()),
            // `Address::Name` never reaches loopback, and whoever starts us may well mean it.
            Err(_) if host.eq_ignore_ascii_case("localhost") => Address::Socket(([127, 0, 0, 1], port).into()),
            Err(_) => match host.parse() {
                Ok(HostPattern::Exact(name)) => Address::Name { host: Arc::from(name), port },
                _ => return Err(BackendUrlError::Host),
            },
        };
        Ok(Self { protocol, address, weight })
    }
}

/// What flags alone say: a backend with a route that takes every request to it, and a certificate for every host.
pub fn compile(urls: &[BackendUrl], certificate: Option<&Arc<Certificate>>) -> Compiled {
    let mut builder = Builder::new();
    add_backend(&mut builder, urls);
    if let Some(certificate) = certificate {
        builder.default_certificate(Arc::clone(certificate));
    }
    builder.finish()
}

/// One backend of all the URLs, and a route that takes every request to it. No URL adds nothing.
///
/// A backend has one protocol, that of the first URL; a URL of another one is left out with a problem. Of two URLs for one
/// address the first counts.
fn add_backend(builder: &mut Builder, urls: &[BackendUrl]) {
    let Some(first) = urls.first() else { return };
    let origin = Origin::new("Flag", "", "--backend");
    for url in urls.iter().filter(|url| url.protocol != first.protocol) {
        let expected = format!("the same scheme as {}", first.address);
        let kind = ProblemKind::InvalidValue { found: format!("{:?} {}", url.protocol, url.address), expected };
        builder.problem(Problem { origin: origin.clone(), field: String::new(), kind });
    }
    let same = urls.iter().filter(|url| url.protocol == first.protocol);
    let mut endpoints = BTreeMap::new();
    for BackendUrl { address, weight, .. } in same {
        let endpoint = || Endpoint { weight: *weight, ..Endpoint::new(address.clone()) };
        endpoints.entry(address).or_insert_with(endpoint);
    }
    let id = BackendId::new("", "flags", 0);
    builder.backend(Backend {
        id: id.clone(),
        protocol: first.protocol,
        endpoints: endpoints.into_values().collect(),
        client_ip_affinity: false,
        policy: Arc::new(Policy::default()),
    });
    builder.default_route(Route {
        origin,
        field: String::new(),
        host: HostPattern::Any,
        path: None,
        filters: Vec::new(),
        action: Action::Forward(id),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_with_the_default_port_of_their_scheme() {
        let cases = [
            ("http://10.0.0.1:8080", Ok((Protocol::Http1, "10.0.0.1:8080"))),
            ("http://10.0.0.1", Ok((Protocol::Http1, "10.0.0.1:80"))),
            ("https://cart.example/", Ok((Protocol::Https, "cart.example:443"))),
            ("h2c://[fd00::1]:9", Ok((Protocol::H2c, "[fd00::1]:9"))),
            ("http://localhost:1", Ok((Protocol::Http1, "127.0.0.1:1"))),
            ("10.0.0.1:80", Err(BackendUrlError::NotAUrl)),
            ("cart", Err(BackendUrlError::NotAUrl)),
            ("", Err(BackendUrlError::NotAUrl)),
            ("ftp://cart", Err(BackendUrlError::Scheme("ftp".into()))),
            ("http://cart:0", Err(BackendUrlError::Port)),
            ("http://cart:99999", Err(BackendUrlError::Port)),
            ("http://cart:", Err(BackendUrlError::Port)),
            ("http://cart/path", Err(BackendUrlError::Excess)),
            ("http://cart/?q", Err(BackendUrlError::Excess)),
            ("http://user@cart", Err(BackendUrlError::Excess)),
            ("http://10.0.0.1:80#weight=3", Ok((Protocol::Http1, "10.0.0.1:80"))),
            ("http://10.0.0.1#weight=70000", Err(BackendUrlError::Weight)),
            ("http://10.0.0.1#weight=", Err(BackendUrlError::Weight)),
            ("http://10.0.0.1#top", Err(BackendUrlError::Weight)),
            ("http://a_b", Err(BackendUrlError::Host)),
        ];
        for (text, expected) in cases {
            let read = text.parse::<BackendUrl>().map(|url| (url.protocol, url.address.to_string()));
            assert_eq!(read, expected.map(|(protocol, address)| (protocol, address.to_owned())), "{text}");
        }
    }

    #[test]
    fn all_urls_make_one_backend_that_takes_everything() {
        let urls = ["http://10.0.0.2#weight=3", "http://10.0.0.1", "http://10.0.0.2", "h2c://10.0.0.3"]
            .map(|u| u.parse().unwrap());
        let compiled = compile(&urls, None);
        let backend = compiled.model.backends.values().next().unwrap();
        let addresses: Vec<_> = backend.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1:80", "10.0.0.2:80"]);
        assert_eq!(backend.endpoints.iter().map(|endpoint| endpoint.weight).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(compiled.model.default.unwrap().action, Action::Forward(backend.id.clone()));
        assert_eq!(compiled.problems.len(), 1);
        assert_eq!(compile(&[], None), Compiled::default());
    }
}
