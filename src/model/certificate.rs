//! A certificate chain with its private key, ready to be served.

use std::{fmt, sync::Arc};

use rustls::sign::CertifiedKey;
use serde::{Serialize, ser::SerializeStruct};

use super::Origin;

/// A certificate chain and its key. The key is never printed or serialised.
#[derive(Clone)]
pub struct Certificate {
    /// The Secret it was read from.
    pub origin: Origin,
    /// DNS names and IP addresses the leaf is valid for, lower-cased and sorted.
    pub names: Vec<String>,
    /// End of the leaf's validity, in seconds since 1970-01-01T00:00:00Z.
    pub not_after: i64,
    /// Chain and signing key.
    pub key: Arc<CertifiedKey>,
}

impl PartialEq for Certificate {
    /// Equal when both come from the same object and hold the same chain (and so the same public key).
    fn eq(&self, other: &Self) -> bool {
        self.origin == other.origin && self.key.cert == other.key.cert
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("origin", &self.origin)
            .field("names", &self.names)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Serialize for Certificate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut certificate = serializer.serialize_struct("Certificate", 3)?;
        certificate.serialize_field("origin", &self.origin)?;
        certificate.serialize_field("names", &self.names)?;
        certificate.serialize_field("notAfter", &self.not_after)?;
        certificate.end()
    }
}
