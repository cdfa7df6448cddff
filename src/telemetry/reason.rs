//! The one-word reasons for which an exchange or an attempt does not end with a response of an endpoint.
//!
//! `proxy::Error` says which of them holds; here they only have a name for log and metrics, and a number to be counted by.

use serde::{Serialize, Serializer};

macro_rules! reasons {
    ($($name:ident $label:literal $meaning:literal)*) => {
        /// Why an exchange or an attempt did not end with a response of an endpoint.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $(#[doc = $meaning] $name,)*
        }

        impl Reason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// One word for the access log, metrics and the answer.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// What it means, in a sentence without a full stop.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)*
                }
            }
        }
    };
}

reasons! {
    BadRequest "bad_request" "The request head or target is not valid"
    HeadTimeout "head_timeout" "The request head did not arrive in time"
    BodyTimeout "body_timeout" "The request body stalled"
    HeadTooLarge "head_too_large" "The request head is over the limit"
    TargetTooLong "target_too_long" "The request target is over the limit"
    BodyTooLarge "body_too_large" "The request body is over the limit"
    MethodNotAllowed "method_not_allowed" "CONNECT or TRACE"
    Misdirected "misdirected" "The host belongs to another certificate than the connection showed"
    NoRoute "no_route" "No route and no default backend"
    BackendUnresolved "backend_unresolved" "The route's Service or port does not exist"
    Unprotected "unprotected" "The route's protection cannot be honoured"
    NoEndpoint "no_endpoint" "The backend has no endpoint"
    NoneFit "no_healthy_endpoint" "None of the backend's endpoints is fit"
    BackendLimit "backend_limit" "The backend has as many requests in flight as its policy allows"
    PendingTimeout "pending_timeout" "The request waited for its turn at the backend as long as the policy allows"
    Overloaded "overloaded" "This process has as many requests in flight as its settings allow, or is out of file descriptors"
    ForbiddenEndpoint "forbidden_endpoint" "The endpoint's address is this process itself, or nothing is ever sent there"
    ConnectFailed "connect_failed" "The connection to the endpoint was refused or failed"
    ConnectTimeout "connect_timeout" "The connection to the endpoint was not there in time"
    UpstreamTls "upstream_tls" "TLS with the endpoint failed"
    UpstreamReset "upstream_reset" "The endpoint closed or reset the connection before the response head"
    StreamRefused "stream_refused" "The endpoint said that it did not look at the request"
    ConnectionLimit "connection_limit" "The endpoint has as many connections as its policy allows"
    UpstreamMalformed "upstream_malformed" "The endpoint's response head is not valid"
    ResponseTimeout "response_timeout" "No response head in time"
    AttemptTimeout "attempt_timeout" "One attempt took longer than it may"
    RequestTimeout "request_timeout" "The exchange took longer than it may"
    ServerError "server_error" "The endpoint's response tells of an error, which the policy keeps from the client"
    ResponseCut "response_cut" "The response broke off after its head"
    ClientGone "client_gone" "The client closed the connection"
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_number() {
        for (number, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number, "{}", reason.label());
        }
    }
}
