//! How endpoints are spoken to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{Protocol, ProxyProtocol};

/// Names of the protocols.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "a description of each variant would turn the schema's enum into a oneOf")]
pub enum ProtocolName {
    HTTP1,
    H2C,
    HTTP2,
    GRPC,
}

impl ProtocolName {
    /// The protocol, where endpoints may or must be spoken to over TLS.
    pub(super) fn protocol(self, with_tls: bool) -> Protocol {
        match (self, with_tls) {
            (Self::HTTP1, false) => Protocol::Http1,
            (Self::HTTP1, true) => Protocol::Https,
            (Self::H2C | Self::GRPC, false) => Protocol::H2c,
            (Self::HTTP2, _) | (Self::H2C | Self::GRPC, true) => Protocol::H2,
        }
    }
}

/// Names of the versions of the PROXY protocol.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "a description of each variant would turn the schema's enum into a oneOf")]
pub enum ProxyProtocolName {
    V1,
    V2,
}

impl From<ProxyProtocolName> for ProxyProtocol {
    fn from(name: ProxyProtocolName) -> Self {
        match name {
            ProxyProtocolName::V1 => Self::V1,
            ProxyProtocolName::V2 => Self::V2,
        }
    }
}
