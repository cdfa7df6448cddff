//! TLS to endpoints: how they are verified, and what we show them.

use std::sync::Arc;

use kube::KubeSchema;
use rustls::pki_types::{CertificateDer, ServerName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Refusals;
use crate::model::{Certificate, EndpointTls, ProblemKind, Verification};

/// Most entries of each list.
const MAX: usize = 8;
/// A DNS name without a wildcard.
const DNS_NAME: &str = r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$";
/// What the pattern of a DNS name takes and certificates do not: a last label of digits, as IP addresses have.
const NUMBER_LAST: &str = "(^|[.])[0-9]+$";
const NO_ADDRESS: &str = "must be a DNS name, not an IP address";

/// Speaks to endpoints over TLS and verifies them. While that cannot be done as written, such as when an authority is
/// missing, requests are answered 503: nothing is sent unprotected.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// DNS name that is sent to endpoints (SNI), and that their certificate must have unless `subjectAltNames` says
    /// otherwise. Not an IP address.
    #[schemars(length(min = 1, max = 253), extend("pattern" = DNS_NAME, "x-kubernetes-validations" = [{
        "rule": format!("!self.matches('{NUMBER_LAST}')"),
        "message": NO_ADDRESS,
    }]))]
    pub hostname: String,
    /// Certification authorities, of which one must have signed the certificate: a `ConfigMap` or a Secret of type
    /// kubernetes.io/tls in the namespace of the policy, by its key `ca.crt`. Default: the authorities of the system.
    #[serde(default)]
    #[schemars(length(max = MAX))]
    pub ca_certificate_refs: Vec<CertificateReference>,
    /// Certificate that we show when endpoints ask for one: a Secret of type kubernetes.io/tls in the namespace of the
    /// policy. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Reference")]
    pub client_certificate_ref: Option<Reference>,
    /// DNS names of which the certificate must have one, in place of `hostname`. Default: `hostname`.
    #[serde(default)]
    #[schemars(
        length(max = MAX),
        inner(length(min = 1, max = 253), regex(pattern = DNS_NAME)),
        extend("x-kubernetes-validations" = [{
            "rule": format!("!self.exists(name, name.matches('{NUMBER_LAST}'))"),
            "message": NO_ADDRESS,
        }])
    )]
    pub subject_alt_names: Vec<String>,
}

/// Names an object that holds certification authorities.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateReference {
    /// API group: "" for both kinds.
    #[serde(default)]
    #[schemars(length(max = 0))]
    pub group: String,
    /// `ConfigMap` or Secret.
    pub kind: CertificateReferenceKind,
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Kinds that hold certification authorities.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "a description of each variant would turn the schema's enum into a oneOf")]
pub enum CertificateReferenceKind {
    ConfigMap,
    Secret,
}

/// Names a Secret.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reference {
    /// API group: "" for Secrets.
    #[serde(default)]
    #[schemars(length(max = 0))]
    pub group: String,
    /// Secret.
    #[serde(default)]
    pub kind: ReferenceKind,
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Kinds that hold a certificate with its key.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "a description of each variant would turn the schema's enum into a oneOf")]
pub enum ReferenceKind {
    #[default]
    Secret,
}

/// What a value is, and what is wrong with it all the same.
pub(in crate::sources) type Judged<T> = (Option<T>, Vec<ProblemKind>);

/// Follows the references of one policy.
pub(in crate::sources) trait References {
    /// Certification authorities, or the last good ones.
    fn authorities(&self, kind: CertificateReferenceKind, name: &str) -> Judged<Arc<[CertificateDer<'static>]>>;

    /// A certificate with its key, or the last good one.
    fn certificate(&self, secret: &str) -> Judged<Arc<Certificate>>;
}

/// A part of the block that cannot be had; it has been told.
struct Refused;

impl Tls {
    /// Unavailable as soon as one part is refused: what is left would verify less than what was meant.
    pub(super) fn convert(&self, references: &impl References, refusals: &mut Refusals) -> EndpointTls {
        // Each part before the first refusal ends it, so that every one is told.
        let hostname = server_name("tls.hostname", &self.hostname, refusals);
        let authorities = self.authorities(references, refusals);
        let client_certificate = self.client_certificate(references, refusals);
        let names = self.subject_alt_names(refusals);
        let verification = || {
            Ok::<_, Refused>(Verification {
                hostname: hostname?,
                subject_alt_names: names?,
                authorities: authorities?,
                client_certificate: client_certificate?,
            })
        };
        verification().map_or(EndpointTls::Unavailable, |verification| EndpointTls::Verified(Arc::new(verification)))
    }

    fn subject_alt_names(&self, refusals: &mut Refusals) -> Result<Vec<ServerName<'static>>, Refused> {
        let list = refusals.list("tls.subjectAltNames", &self.subject_alt_names, MAX).ok_or(Refused)?;
        let names = list.iter().enumerate();
        let names: Vec<_> =
            names.map(|(i, name)| server_name(&format!("tls.subjectAltNames[{i}]"), name, refusals)).collect();
        names.into_iter().collect()
    }

    /// None for those of the system.
    fn authorities(
        &self,
        references: &impl References,
        refusals: &mut Refusals,
    ) -> Result<Option<Vec<CertificateDer<'static>>>, Refused> {
        let list = refusals.list("tls.caCertificateRefs", &self.ca_certificate_refs, MAX).ok_or(Refused)?;
        let mut all = Ok(Vec::new());
        for (i, reference) in list.iter().enumerate() {
            let field = format!("tls.caCertificateRefs[{i}]");
            if !reference.group.is_empty() {
                refusals.refuse(format!("{field}.group"), &reference.group, "an empty group");
                all = Err(Refused);
                continue;
            }
            let (found, kinds) = references.authorities(reference.kind, &reference.name);
            for kind in kinds {
                refusals.tell(format!("{field}.name"), kind);
            }
            match (&mut all, found) {
                (Ok(all), Some(found)) => all.extend(found.iter().cloned()),
                _ => all = Err(Refused),
            }
        }
        all.map(|all| (!self.ca_certificate_refs.is_empty()).then_some(all))
    }

    /// None where none is asked for.
    fn client_certificate(
        &self,
        references: &impl References,
        refusals: &mut Refusals,
    ) -> Result<Option<Arc<Certificate>>, Refused> {
        let Some(reference) = &self.client_certificate_ref else { return Ok(None) };
        if !reference.group.is_empty() {
            refusals.refuse("tls.clientCertificateRef.group", &reference.group, "an empty group");
            return Err(Refused);
        }
        let (found, kinds) = references.certificate(&reference.name);
        for kind in kinds {
            refusals.tell("tls.clientCertificateRef.name", kind);
        }
        found.map(Some).ok_or(Refused)
    }
}

fn server_name(field: &str, text: &str, refusals: &mut Refusals) -> Result<ServerName<'static>, Refused> {
    if let Ok(name @ ServerName::DnsName(_)) = ServerName::try_from(text.to_owned()) {
        return Ok(name);
    }
    refusals.refuse(field, text, "a DNS name without a wildcard");
    Err(Refused)
}
