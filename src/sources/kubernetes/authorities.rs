//! Certification authorities that policies name, kept between compilations.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::ByteString;
use kube::ResourceExt;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{Cluster, ObjectKey, secrets::TLS_TYPE};
use crate::{
    model::{Origin, ProblemKind},
    sources::policy::{CertificateReferenceKind, Judged},
};

/// The key that holds the authorities, as PEM.
const KEY: &str = "ca.crt";

type Place = (CertificateReferenceKind, ObjectKey);

/// Authorities by the object they come from, for objects that a policy names.
///
/// State between compilations: a bundle is parsed again only when its content changes, and one that becomes broken keeps
/// its last good authorities until its object is deleted.
#[derive(Clone, Debug, Default)]
pub(super) struct Authorities {
    entries: BTreeMap<Place, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    bundle: Result<Vec<u8>, String>,
    good: Option<Arc<[CertificateDer<'static>]>>,
    error: Option<String>,
}

impl Authorities {
    /// Takes in the objects as they are now.
    pub(super) fn update(&mut self, cluster: &Cluster) {
        let named = named(cluster);
        self.entries.retain(|place, _| named.contains(place));
        for place in named {
            let Some(bundle) = bundle(cluster, &place) else {
                self.entries.remove(&place);
                continue;
            };
            let held = self.entries.get(&place);
            if held.is_some_and(|held| held.bundle == bundle) {
                continue;
            }
            let (good, error) = match bundle.clone().and_then(|bundle| parse(&bundle)) {
                Ok(good) => (Some(good), None),
                Err(error) => (held.and_then(|held| held.good.clone()), Some(error)),
            };
            self.entries.insert(place, Entry { bundle, good, error });
        }
    }

    /// The authorities of an object, or the last good ones, and what is wrong with them.
    pub(super) fn judge(
        &self,
        kind: CertificateReferenceKind,
        key: ObjectKey,
    ) -> Judged<Arc<[CertificateDer<'static>]>> {
        let name = match kind {
            CertificateReferenceKind::ConfigMap => "ConfigMap",
            CertificateReferenceKind::Secret => "Secret",
        };
        let origin = Origin::new(name, key.0.as_str(), key.1.as_str());
        let Some(entry) = self.entries.get(&(kind, key)) else {
            let missing = match kind {
                CertificateReferenceKind::ConfigMap => ProblemKind::NotFound(origin),
                CertificateReferenceKind::Secret => ProblemKind::SecretNotFound(origin),
            };
            return (None, vec![missing]);
        };
        let broken = |error: &String| ProblemKind::InvalidCertificate { secret: origin, error: error.clone() };
        (entry.good.clone(), entry.error.as_ref().map(broken).into_iter().collect())
    }
}

fn named(cluster: &Cluster) -> BTreeSet<Place> {
    let of_policies = cluster.policies.iter().flat_map(|policy| {
        let namespace = policy.namespace().unwrap_or_default();
        let references = policy.spec.tls.iter().flat_map(|tls| &tls.ca_certificate_refs);
        references.map(move |reference| (reference.kind, (namespace.clone(), reference.name.clone())))
    });
    of_policies.collect()
}

/// The bundle as it is written, or why there is none; None when there is no such object.
fn bundle(cluster: &Cluster, (kind, key): &Place) -> Option<Result<Vec<u8>, String>> {
    let found = match kind {
        CertificateReferenceKind::ConfigMap => {
            let data = cluster.config_maps.get(key)?.data.as_ref();
            data.and_then(|data| data.get(KEY)).map(|text| text.as_bytes().to_vec())
        }
        CertificateReferenceKind::Secret => {
            let secret = cluster.secrets.get(key)?;
            if secret.type_.as_deref() != Some(TLS_TYPE) {
                return Some(Err(format!("its type is not {TLS_TYPE}")));
            }
            secret.data.as_ref().and_then(|data| data.get(KEY)).map(|ByteString(bytes)| bytes.clone())
        }
    };
    Some(found.ok_or_else(|| format!("it has no {KEY}")))
}

/// Authorities that can be verified by; one that cannot spoils the bundle.
fn parse(bundle: &[u8]) -> Result<Arc<[CertificateDer<'static>]>, String> {
    let authorities: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(bundle)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{KEY} is not PEM: {error}"))?;
    if authorities.is_empty() {
        return Err(format!("{KEY} holds no certificate"));
    }
    let mut roots = RootCertStore::empty();
    for (i, authority) in authorities.iter().enumerate() {
        let number = i + 1;
        roots
            .add(authority.clone())
            .map_err(|error| format!("certificate {number} of {KEY} is not usable as an authority: {error}"))?;
    }
    Ok(authorities.into())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;
    use crate::sources::kubernetes::Objects;

    fn cluster(bundle: Option<&str>) -> Cluster {
        let policy = json!({
            "metadata": {"name": "cart", "namespace": "shop"},
            "spec": {
                "targetRefs": [{"kind": "Service", "name": "cart"}],
                "tls": {"hostname": "a.example", "caCertificateRefs": [{"kind": "ConfigMap", "name": "ca"}]},
            },
            "apiVersion": "pierhead.dev/v1alpha1", "kind": "BackendPolicy",
        });
        let map = |text| -> ConfigMap {
            serde_json::from_value(json!({"metadata": {"name": "ca", "namespace": "shop"}, "data": {KEY: text}}))
                .unwrap()
        };
        Cluster::read(Objects {
            config_maps: bundle.map(|text| Arc::new(map(text))).into_iter().collect(),
            policies: vec![Arc::new(serde_json::from_value(policy).unwrap())],
            ..Objects::default()
        })
    }

    fn held(authorities: &Authorities) -> (Option<Arc<[CertificateDer<'static>]>>, Vec<&'static str>) {
        let (good, kinds) = authorities.judge(CertificateReferenceKind::ConfigMap, ("shop".into(), "ca".into()));
        (good, kinds.iter().map(ProblemKind::reason).collect())
    }

    #[test]
    fn a_broken_bundle_keeps_its_last_good_authorities_until_it_is_deleted() {
        let pem = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap().cert.pem();
        let mut authorities = Authorities::default();
        authorities.update(&cluster(None));
        assert_eq!(held(&authorities), (None, vec!["NotFound"]));
        authorities.update(&cluster(Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")));
        assert_eq!(held(&authorities), (None, vec!["InvalidCertificate"]));
        authorities.update(&cluster(Some(&pem)));
        let (good, problems) = held(&authorities);
        assert_eq!((good.clone().unwrap().len(), problems), (1, vec![]));
        authorities.update(&cluster(Some(&pem)));
        assert!(Arc::ptr_eq(good.as_ref().unwrap(), &held(&authorities).0.unwrap()), "it is not parsed again");
        authorities.update(&cluster(Some("no PEM")));
        assert_eq!(held(&authorities), (good, vec!["InvalidCertificate"]));
        authorities.update(&cluster(None));
        assert_eq!(held(&authorities), (None, vec!["NotFound"]));
    }
}
