//! Certificates by server name: exact, then one-label wildcard, then the default.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;

use crate::{
    matching::{HostPattern, RequestHost},
    model::{Certificate, Model},
};

type Map = HashMap<Box<str>, Option<Arc<Certificate>>, RandomState>;

/// Finds the certificate for a server name.
#[derive(Debug, Default)]
pub struct Certificates {
    exact: Map,
    wildcard: Map,
    default: Option<Arc<Certificate>>,
}

impl Certificates {
    /// Indexes the certificates of a model.
    pub(super) fn build(model: &Model) -> Self {
        let mut index = Self { default: model.default_certificate.clone(), ..Self::default() };
        for (pattern, certificate) in &model.certificates {
            match pattern {
                HostPattern::Exact(name) => drop(index.exact.insert(name.clone(), certificate.clone())),
                HostPattern::Wildcard(suffix) => drop(index.wildcard.insert(suffix.clone(), certificate.clone())),
                HostPattern::Any => {
                    if let Some(certificate) = certificate {
                        index.default.get_or_insert_with(|| Arc::clone(certificate));
                    }
                }
            }
        }
        index
    }

    /// The certificate for a server name; None means the one we sign ourselves.
    pub fn find(&self, host: Option<&RequestHost<'_>>) -> Option<&Arc<Certificate>> {
        host.and_then(|host| self.own(host)).or(self.default.as_ref())
    }

    /// Whether a connection that named `sni` may carry requests for `host`: the same certificate speaks for both.
    ///
    /// RFC 9110 §7.4: a request that reached the wrong server is refused as misdirected.
    pub fn same_domain(&self, sni: Option<&RequestHost<'_>>, host: &RequestHost<'_>) -> bool {
        sni == Some(host) || self.find(sni) == self.find(Some(host))
    }

    fn own(&self, host: &RequestHost<'_>) -> Option<&Arc<Certificate>> {
        match self.exact.get(host.as_str()) {
            Some(certificate) => certificate.as_ref(),
            None => self.wildcard.get(host.wildcard_suffix()?)?.as_ref(),
        }
    }
}
