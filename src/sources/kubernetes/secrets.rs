//! TLS Secrets: certificates with their keys, kept between compilations.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::ResourceExt;
use rustls::pki_types::CertificateDer;

use super::{Cluster, ObjectKey, authorities::Authorities, cluster::Unread};
use crate::{
    model::{Certificate, Origin, ProblemKind},
    sources::{
        certificate,
        policy::{CertificateReferenceKind, Judged, References},
    },
};

/// The only type of Secret that is read.
pub(super) const TLS_TYPE: &str = "kubernetes.io/tls";

/// Certificates by the Secret they come from, and the certification authorities that policies name.
///
/// State between compilations: a Secret is parsed again only when its content changes, and one that becomes broken keeps
/// its last good certificate until it is deleted.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    entries: BTreeMap<ObjectKey, Entry>,
    authorities: Authorities,
    unread: Unread,
    /// Seconds since 1970-01-01T00:00:00Z at the last update.
    now: i64,
}

#[derive(Clone, Debug)]
struct Entry {
    secret: Arc<Secret>,
    good: Option<Arc<Certificate>>,
    error: Option<String>,
}

impl Certificates {
    /// Knows no Secret yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the objects as they are now.
    pub fn update(&mut self, cluster: &Cluster) {
        self.authorities.update(cluster);
        self.unread.clone_from(&cluster.unread);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.entries.retain(|key, _| cluster.secrets.contains_key(key));
        for (key, secret) in &cluster.secrets {
            let held = self.entries.get(key);
            if held.is_some_and(|entry| same_content(&entry.secret, secret)) {
                continue;
            }
            let (good, error) = match read(secret) {
                Ok(certificate) => (Some(Arc::new(certificate)), None),
                Err(error) => (held.and_then(|entry| entry.good.clone()), Some(error)),
            };
            self.entries.insert(key.clone(), Entry { secret: Arc::clone(secret), good, error });
        }
    }

    /// What policies of a namespace may refer to.
    pub(super) fn of<'a>(&'a self, namespace: &'a str) -> impl References + 'a {
        OfNamespace { certificates: self, namespace }
    }

    /// What is wrong when objects of this kind may not be read in this namespace.
    fn unread(&self, kind: &'static str, namespace: &str) -> Option<ProblemKind> {
        self.unread.has(kind, namespace).then(|| ProblemKind::Forbidden { kind, namespace: namespace.to_owned() })
    }

    /// The certificate to serve for a Secret (its own, or the last good one), and what is wrong with it.
    pub(super) fn judge(&self, key: &ObjectKey) -> (Option<&Arc<Certificate>>, Vec<ProblemKind>) {
        let secret = Origin::new("Secret", key.0.as_str(), key.1.as_str());
        let Some(entry) = self.entries.get(key) else {
            let missing = self.unread("Secret", &key.0).unwrap_or(ProblemKind::SecretNotFound(secret));
            return (None, vec![missing]);
        };
        let mut kinds = Vec::new();
        if let Some(error) = &entry.error {
            kinds.push(ProblemKind::InvalidCertificate { secret: secret.clone(), error: error.clone() });
        }
        if let Some(certificate) = entry.good.as_ref().filter(|certificate| certificate.not_after < self.now) {
            let not_after = k8s_openapi::jiff::Timestamp::from_second(certificate.not_after)
                .map_or_else(|_| certificate.not_after.to_string(), |time| time.to_string());
            kinds.push(ProblemKind::CertificateExpired { secret, not_after });
        }
        (entry.good.as_ref(), kinds)
    }
}

/// References go to objects of one namespace.
struct OfNamespace<'a> {
    certificates: &'a Certificates,
    namespace: &'a str,
}

impl References for OfNamespace<'_> {
    fn authorities(&self, kind: CertificateReferenceKind, name: &str) -> Judged<Arc<[CertificateDer<'static>]>> {
        let kind_name = match kind {
            CertificateReferenceKind::ConfigMap => "ConfigMap",
            CertificateReferenceKind::Secret => "Secret",
        };
        let (found, mut kinds) =
            self.certificates.authorities.judge(kind, (self.namespace.to_owned(), name.to_owned()));
        if let (None, Some(forbidden)) = (&found, self.certificates.unread(kind_name, self.namespace)) {
            kinds = vec![forbidden];
        }
        (found, kinds)
    }

    fn certificate(&self, secret: &str) -> Judged<Arc<Certificate>> {
        let (certificate, kinds) = self.certificates.judge(&(self.namespace.to_owned(), secret.to_owned()));
        (certificate.cloned(), kinds)
    }
}

fn same_content(a: &Arc<Secret>, b: &Arc<Secret>) -> bool {
    Arc::ptr_eq(a, b) || (a.data == b.data && a.type_ == b.type_)
}

/// Reads chain and key, or says what is wrong with them. Nothing of the key is ever part of the message.
fn read(secret: &Secret) -> Result<Certificate, String> {
    if secret.type_.as_deref() != Some(TLS_TYPE) {
        let found = secret.type_.as_deref().unwrap_or("none");
        return Err(format!("its type is {found:?}, and only {TLS_TYPE} is read"));
    }
    let part = |name: &str| match secret.data.as_ref().and_then(|data| data.get(name)) {
        Some(ByteString(bytes)) if !bytes.is_empty() => Ok(bytes.as_slice()),
        _ => Err(format!("it has no {name}")),
    };
    let origin = Origin::new("Secret", secret.namespace().unwrap_or_default(), secret.name_any());
    certificate::read(origin, ("tls.crt", part("tls.crt")?), ("tls.key", part("tls.key")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::kubernetes::Objects;

    fn pair(name: &str) -> (String, String) {
        let key = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        (key.cert.pem(), key.signing_key.serialize_pem())
    }

    fn cluster(secrets: &[(&str, &str)]) -> Cluster {
        let data = secrets.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec())));
        let secret = Secret {
            metadata: kube::core::ObjectMeta {
                namespace: Some("shop".into()),
                name: Some("pair".into()),
                ..Default::default()
            },
            type_: Some(TLS_TYPE.into()),
            data: Some(data.collect()),
            ..Secret::default()
        };
        Cluster::read(Objects { secrets: vec![Arc::new(secret)], ..Objects::default() })
    }

    fn held(certificates: &Certificates) -> (Option<Arc<Certificate>>, Vec<&'static str>) {
        let (certificate, kinds) = certificates.judge(&("shop".into(), "pair".into()));
        (certificate.cloned(), kinds.iter().map(ProblemKind::reason).collect())
    }

    #[test]
    fn a_broken_secret_keeps_its_last_good_certificate_until_it_is_deleted() {
        let ((chain, key), (other_chain, other_key)) = (pair("A.example"), pair("b.example"));
        let mut certificates = Certificates::new();
        certificates.update(&cluster(&[("tls.crt", &chain), ("tls.key", &key)]));
        let (first, problems) = held(&certificates);
        assert_eq!((first.clone().unwrap().names.clone(), problems), (vec!["a.example".to_owned()], vec![]));

        certificates.update(&cluster(&[("tls.crt", &chain), ("tls.key", &other_key)]));
        assert_eq!(held(&certificates), (first, vec!["InvalidCertificate"]));

        certificates.update(&cluster(&[("tls.crt", &other_chain), ("tls.key", &other_key)]));
        let (second, problems) = held(&certificates);
        assert_eq!((second.unwrap().names.clone(), problems), (vec!["b.example".to_owned()], vec![]));

        certificates.update(&Cluster::default());
        assert_eq!(held(&certificates), (None, vec!["NotFound"]));
        certificates.update(&cluster(&[("tls.crt", "broken")]));
        assert_eq!(held(&certificates), (None, vec!["InvalidCertificate"]));
    }

    #[test]
    fn an_unchanged_secret_is_not_parsed_again() {
        let (chain, key) = pair("a.example");
        let mut certificates = Certificates::new();
        certificates.update(&cluster(&[("tls.crt", &chain), ("tls.key", &key)]));
        let first = held(&certificates).0.unwrap();
        certificates.update(&cluster(&[("tls.crt", &chain), ("tls.key", &key)]));
        assert!(Arc::ptr_eq(&first, &held(&certificates).0.unwrap()));
    }
}
