//! Certificates by server name: exact, then one-label wildcard, then that of rules without host, then the default.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;

use crate::{
    matching::{HostPattern, RequestHost},
    model::{Certificate, Model},
};

type Map = HashMap<Box<str>, Option<Arc<Certificate>>, RandomState>;

/// Finds the certificate for a server name.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    /// Every host that has routes or TLS; None for those without a certificate of their own.
    exact: Map,
    wildcard: Map,
    /// For hosts that only rules without host take: nobody else's host is shown it.
    any: Option<Arc<Certificate>>,
    default: Option<Arc<Certificate>>,
}

impl Certificates {
    /// Indexes the certificates of a model.
    pub(super) fn build(model: &Model) -> Self {
        let mut index = Self { default: model.default_certificate.clone(), ..Self::default() };
        let with_routes = model.hosts.keys().map(|pattern| (pattern, &None));
        for (pattern, certificate) in with_routes.chain(&model.certificates) {
            let slot = match pattern {
                HostPattern::Exact(name) => index.exact.entry(name.clone()).or_default(),
                HostPattern::Wildcard(suffix) => index.wildcard.entry(suffix.clone()).or_default(),
                HostPattern::Any => &mut index.any,
            };
            if certificate.is_some() {
                slot.clone_from(certificate);
            }
        }
        index
    }

    /// The certificate for a server name, or for a client that names none; None means the one we sign ourselves.
    pub fn find(&self, host: Option<&RequestHost<'_>>) -> Option<&Arc<Certificate>> {
        let exact = host.and_then(|host| self.exact.get(host.as_str()));
        let wildcard = host.and_then(|host| self.wildcard.get(host.wildcard_suffix()?));
        let own = exact.and_then(Option::as_ref).or_else(|| wildcard.and_then(Option::as_ref));
        let any = if exact.or(wildcard).is_some() { None } else { self.any.as_ref() };
        own.or(any).or(self.default.as_ref())
    }

    /// Whether a connection that named `sni` may carry requests for `host`: the same certificate speaks for both.
    ///
    /// RFC 9110 §7.4: a request that reached the wrong server is refused as misdirected.
    pub fn same_domain(&self, sni: Option<&RequestHost<'_>>, host: &RequestHost<'_>) -> bool {
        sni == Some(host) || self.find(sni) == self.find(Some(host))
    }
}

#[cfg(test)]
mod tests {
    use rustls::{crypto::aws_lc_rs, pki_types::PrivatePkcs8KeyDer, sign::CertifiedKey};

    use super::*;
    use crate::model::Origin;

    fn certificate(name: &str) -> Arc<Certificate> {
        let pair = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der()).into();
        let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
        let key = Arc::new(CertifiedKey::new(vec![pair.cert.der().clone()], key));
        Arc::new(Certificate { origin: Origin::new("Secret", "shop", name), names: Vec::new(), not_after: 0, key })
    }

    #[test]
    fn the_strongest_certificate_that_is_meant_for_a_host_is_found() {
        let mut model = Model { default_certificate: Some(certificate("default")), ..Model::default() };
        for host in ["routed.example", "deep.wild.example", ""] {
            model.hosts.insert(host.parse().unwrap(), crate::model::Host::default());
        }
        for (host, own) in [("own.example", Some("own")), ("bare.example", None), ("", Some("any"))] {
            model.certificates.insert(host.parse().unwrap(), own.map(certificate));
        }
        model.certificates.insert("*.wild.example".parse().unwrap(), Some(certificate("wild")));
        let index = Certificates::build(&model);
        for (host, expected) in [
            (Some("own.example"), "own"),
            (Some("x.wild.example"), "wild"),
            (Some("deep.wild.example"), "wild"),
            (Some("bare.example"), "default"),
            (Some("routed.example"), "default"),
            (Some("unknown.example"), "any"),
            (None, "any"),
        ] {
            let host = host.map(|host| RequestHost::parse(host).unwrap());
            let found = index.find(host.as_ref()).unwrap();
            assert_eq!(&*found.origin.name, expected, "{host:?}");
        }
        let of = |name| RequestHost::parse(name).unwrap();
        assert!(index.same_domain(Some(&of("bare.example")), &of("routed.example")), "both show the default");
        assert!(!index.same_domain(Some(&of("own.example")), &of("bare.example")));
        assert!(!index.same_domain(None, &of("own.example")));
    }
}
