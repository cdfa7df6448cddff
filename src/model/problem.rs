//! What was wrong with an object, told to whoever wrote it.
//!
//! A problem never stops compilation: the object loses the part that is wrong and nothing else.

use std::{fmt, net::IpAddr};

use serde::{Serialize, ser::SerializeStruct};

use super::Origin;

/// Something wrong with one field of one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The object that has to change.
    pub origin: Origin,
    /// Path of the field as Kubernetes writes it: `spec.rules[0].http.paths[1].backend`.
    pub field: String,
    /// What is wrong and what was expected.
    pub kind: ProblemKind,
}

/// What can be wrong. `Display` gives the sentence, [`ProblemKind::reason`] the one-word form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum ProblemKind {
    /// The object does not have the shape of its kind; it is ignored as a whole.
    #[error("not a valid object: {0}")]
    Malformed(String),
    /// A field holds something that is not a value of it.
    #[error("{found:?} is not valid: expected {expected}")]
    InvalidValue {
        /// What stands there.
        found: String,
        /// What should stand there.
        expected: String,
    },
    /// Another object claimed the same host and path first (older, then by namespace/name).
    #[error("{what} is already taken by {winner}, which is older or first by namespace/name")]
    Conflict {
        /// The claim, such as `host a.example Prefix /cart`.
        what: String,
        /// Who holds it.
        winner: Origin,
    },
    /// A Service, Secret, `ConfigMap` or class that does not exist.
    #[error("{0} not found")]
    NotFound(Origin),
    /// Objects that we may not read, so that nothing is known of them.
    #[error("objects of kind {kind} in namespace {namespace} may not be read: grant list and watch")]
    Forbidden {
        /// Their kind.
        kind: &'static str,
        /// Their namespace.
        namespace: String,
    },
    /// A Secret that does not exist, or is of a type that is never read.
    #[error("{0} not found among the Secrets of type kubernetes.io/tls, which are the only ones read")]
    SecretNotFound(Origin),
    /// The Service exists but has no such port.
    #[error("{service} has no port {port}; it has {existing}")]
    PortNotFound {
        /// The Service.
        service: Origin,
        /// Number or name that was asked for.
        port: String,
        /// What it has, for the reader.
        existing: String,
    },
    /// A Secret that is not a usable certificate and key. The last good one stays in use.
    #[error("{secret} is not usable: {error}")]
    InvalidCertificate {
        /// The Secret.
        secret: Origin,
        /// What is wrong with it.
        error: String,
    },
    /// The certificate is served but no name in it covers the host.
    #[error("the certificate of {secret} does not cover {host}; its names are {names}")]
    CertificateMismatch {
        /// The Secret.
        secret: Origin,
        /// The host of the Ingress.
        host: String,
        /// Names in the certificate.
        names: String,
    },
    /// The certificate is past its validity. It is served all the same.
    #[error("the certificate of {secret} expired at {not_after}")]
    CertificateExpired {
        /// The Secret.
        secret: Origin,
        /// End of its validity.
        not_after: String,
    },
    /// An endpoint address that must never be reached from a cluster source (CVE-2021-25740).
    #[error("endpoint address {0} is loopback, link-local, unspecified or multicast and is never used")]
    ForbiddenAddress(IpAddr),
    /// A Service of type `ExternalName` while the setting that allows it is off.
    #[error("{0} is of type ExternalName, which is off: start with --allow-external-name to permit it")]
    ExternalNameOff(Origin),
    /// A field that the kind does not have; it has no effect. An API server drops such fields by itself.
    #[error("unknown field: it has no effect")]
    UnknownField,
    /// An annotation nobody here knows; it has no effect.
    #[error("unknown annotation: it has no effect")]
    UnknownAnnotation,
    /// An annotation that is known elsewhere but has no effect here.
    #[error("this annotation has no effect here")]
    IgnoredAnnotation,
    /// An annotation that protects the route and cannot be honoured: the route answers 503.
    #[error(
        "this annotation protects the route and is not supported: the route answers 503 rather than being served without it"
    )]
    Unprotected,
    /// A part of an object that is understood but not supported.
    #[error("not supported: {0}")]
    Unsupported(String),
}

/// How much a problem takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Everything is served; something written has no effect.
    Warning,
    /// A part of what was written is not served as written.
    Error,
}

impl Severity {
    /// Its name in lower case, as in metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl ProblemKind {
    /// One word for Events, conditions and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "Malformed",
            Self::InvalidValue { .. } => "InvalidValue",
            Self::Conflict { .. } => "Conflict",
            Self::NotFound(_) | Self::SecretNotFound(_) => "NotFound",
            Self::Forbidden { .. } => "Forbidden",
            Self::PortNotFound { .. } => "PortNotFound",
            Self::InvalidCertificate { .. } => "InvalidCertificate",
            Self::CertificateMismatch { .. } => "CertificateMismatch",
            Self::CertificateExpired { .. } => "CertificateExpired",
            Self::ForbiddenAddress(_) => "ForbiddenAddress",
            Self::ExternalNameOff(_) => "ExternalNameOff",
            Self::UnknownField => "UnknownField",
            Self::UnknownAnnotation => "UnknownAnnotation",
            Self::IgnoredAnnotation => "IgnoredAnnotation",
            Self::Unprotected => "Unprotected",
            Self::Unsupported(_) => "Unsupported",
        }
    }

    /// Whether something is lost, or only without effect.
    pub fn severity(&self) -> Severity {
        match self {
            Self::UnknownField
            | Self::UnknownAnnotation
            | Self::IgnoredAnnotation
            | Self::CertificateMismatch { .. }
            | Self::CertificateExpired { .. } => Severity::Warning,
            _ => Severity::Error,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            write!(f, "{}: {}", self.origin, self.kind)
        } else {
            write!(f, "{}: {}: {}", self.origin, self.field, self.kind)
        }
    }
}

impl Serialize for Problem {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut problem = serializer.serialize_struct("Problem", 5)?;
        problem.serialize_field("origin", &self.origin)?;
        problem.serialize_field("field", &self.field)?;
        problem.serialize_field("reason", self.kind.reason())?;
        problem.serialize_field("severity", &self.kind.severity())?;
        problem.serialize_field("message", &self.kind.to_string())?;
        problem.end()
    }
}
