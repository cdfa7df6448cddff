//! How endpoints are verified, and how we show ourselves to them, when they are spoken to over TLS.

use std::{fmt, sync::Arc};

use rustls::pki_types::{CertificateDer, ServerName};
use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::Certificate;

/// How endpoints are verified when they are spoken to over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub enum EndpointTls {
    /// Not at all: any certificate will do, as where only `appProtocol` asks for TLS.
    #[default]
    Unverified,
    /// By their certificate.
    Verified(Arc<Verification>),
    /// A policy asks for verification that cannot be done, such as by a certificate that is not there. Requests are
    /// answered 503: nothing is ever sent unprotected.
    Unavailable,
}

/// What an endpoint's certificate must show, and what we show.
#[derive(Clone, PartialEq, Eq)]
pub struct Verification {
    /// Name sent in the handshake (SNI), and verified unless `subject_alt_names` says otherwise.
    pub hostname: ServerName<'static>,
    /// Names of which the certificate must have one, in place of `hostname`. Empty for none.
    pub subject_alt_names: Vec<ServerName<'static>>,
    /// Certification authorities. None means those of the system.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    /// Certificate that we show when asked.
    pub client_certificate: Option<Arc<Certificate>>,
}

impl fmt::Debug for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verification")
            .field("hostname", &self.hostname)
            .field("subject_alt_names", &self.subject_alt_names)
            .field("authorities", &self.authorities.as_ref().map(Vec::len))
            .field("client_certificate", &self.client_certificate)
            .finish()
    }
}

impl Serialize for Verification {
    /// Authorities are told by their number.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let alternatives: Vec<_> = self.subject_alt_names.iter().map(ServerName::to_str).collect();
        let mut fields = serializer.serialize_struct("Verification", 4)?;
        fields.serialize_field("hostname", &self.hostname.to_str())?;
        fields.serialize_field("subject_alt_names", &alternatives)?;
        fields.serialize_field("authorities", &self.authorities.as_ref().map(Vec::len))?;
        fields.serialize_field("client_certificate", &self.client_certificate)?;
        fields.end()
    }
}
