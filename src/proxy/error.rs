//! Everything that can go wrong with an exchange, and what the client, the log and the metrics are told of it.

use http::StatusCode;

use crate::{
    model::{RetryOn, Unavailable},
    routing::Unpickable,
    telemetry::Reason,
    transport::DialError,
};

/// Why an exchange did not end with the backend's response. The single place for status, label and retry rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request head or target is not valid.
    #[error("the request is not valid: {0}")]
    BadRequest(&'static str),
    /// The head did not arrive in time.
    #[error("the request head took too long to arrive")]
    HeadTimeout,
    /// The body stalled.
    #[error("the request body took too long to arrive")]
    BodyTimeout,
    /// The head or one field of it is over the limit.
    #[error("the request head is larger than this server accepts")]
    HeadTooLarge,
    /// The target is over the limit.
    #[error("the request target is longer than this server accepts")]
    TargetTooLong,
    /// The body is over the limit.
    #[error("the request body is larger than this server accepts")]
    BodyTooLarge,
    /// CONNECT or TRACE.
    #[error("this method is not allowed here")]
    MethodNotAllowed,
    /// The host belongs to another certificate than the connection showed.
    #[error("this connection is not for this host")]
    Misdirected,
    /// No route and no default backend.
    #[error("no route for this host and path")]
    NoRoute,
    /// The route's Service, port or protection cannot be honoured.
    #[error("the service behind this route is not available")]
    Unavailable(Unavailable),
    /// The backend has no endpoint.
    #[error("the service behind this route has no endpoint")]
    NoEndpoint,
    /// None of the backend's endpoints is fit.
    #[error("the service behind this route has no healthy endpoint")]
    NoneFit,
    /// The backend has as many requests in flight as its policy allows.
    #[error("the service behind this route is at its limit of requests")]
    BackendLimit,
    /// The request waited for its turn at the backend as long as the policy allows.
    #[error("the service behind this route is at its limit of requests, and no turn came in time")]
    PendingTimeout,
    /// This process has as many requests in flight as its settings allow.
    #[error("this server is at its limit of requests")]
    Overloaded,
    /// The endpoint's address is this process itself, or a name of what may not be an endpoint.
    #[error("the service behind this route points to where nothing is ever forwarded")]
    ForbiddenEndpoint,
    /// The connection to the endpoint was refused or failed.
    #[error("the service behind this route refused the connection")]
    ConnectFailed,
    /// The connection to the endpoint was not there in time.
    #[error("the service behind this route did not accept a connection in time")]
    ConnectTimeout,
    /// TLS with the endpoint failed.
    #[error("the service behind this route could not be reached securely")]
    UpstreamTls,
    /// The endpoint closed or reset the connection before the response head.
    #[error("the service behind this route closed the connection before it answered")]
    UpstreamReset,
    /// The endpoint said that it did not look at the request (RFC 9113 §8.7).
    #[error("the service behind this route refused the request")]
    StreamRefused,
    /// The endpoint has as many connections as its policy allows.
    #[error("the service behind this route is at its limit of connections")]
    ConnectionLimit,
    /// The endpoint's response head is not valid.
    #[error("the service behind this route sent an invalid response")]
    UpstreamMalformed,
    /// No response head in time.
    #[error("the service behind this route did not answer in time")]
    ResponseTimeout,
    /// One try took longer than it may.
    #[error("the service behind this route did not answer one attempt in time")]
    AttemptTimeout,
    /// The exchange took longer than it may.
    #[error("the request was not answered in the time it has")]
    RequestTimeout,
    /// The endpoint's response tells of an error of its own, which the policy keeps from the client.
    #[error("the service behind this route failed")]
    ServerError,
    /// The response broke off after its head.
    #[error("the response of the service behind this route was cut")]
    ResponseCut,
    /// The client went away.
    #[error("the client closed the connection")]
    ClientGone,
}

impl Error {
    /// What the client is answered.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::HeadTimeout | Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Unavailable(_)
            | Self::NoEndpoint
            | Self::NoneFit
            | Self::BackendLimit
            | Self::ConnectionLimit
            | Self::PendingTimeout
            | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::ForbiddenEndpoint
            | Self::ConnectFailed
            | Self::UpstreamTls
            | Self::UpstreamReset
            | Self::StreamRefused
            | Self::UpstreamMalformed
            | Self::ServerError
            | Self::ResponseCut => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::ResponseTimeout | Self::AttemptTimeout | Self::RequestTimeout => {
                StatusCode::GATEWAY_TIMEOUT
            }
            // nginx's code for it; it reaches the log and the metrics only.
            Self::ClientGone => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        }
    }

    /// What the access log and the metrics call it.
    pub fn reason(self) -> Reason {
        match self {
            Self::BadRequest(_) => Reason::BadRequest,
            Self::HeadTimeout => Reason::HeadTimeout,
            Self::BodyTimeout => Reason::BodyTimeout,
            Self::HeadTooLarge => Reason::HeadTooLarge,
            Self::TargetTooLong => Reason::TargetTooLong,
            Self::BodyTooLarge => Reason::BodyTooLarge,
            Self::MethodNotAllowed => Reason::MethodNotAllowed,
            Self::Misdirected => Reason::Misdirected,
            Self::NoRoute => Reason::NoRoute,
            Self::Unavailable(Unavailable::BackendUnresolved) => Reason::BackendUnresolved,
            Self::Unavailable(Unavailable::Unprotected) => Reason::Unprotected,
            Self::NoEndpoint => Reason::NoEndpoint,
            Self::NoneFit => Reason::NoneFit,
            Self::BackendLimit => Reason::BackendLimit,
            Self::PendingTimeout => Reason::PendingTimeout,
            Self::Overloaded => Reason::Overloaded,
            Self::ForbiddenEndpoint => Reason::ForbiddenEndpoint,
            Self::ConnectFailed => Reason::ConnectFailed,
            Self::ConnectTimeout => Reason::ConnectTimeout,
            Self::UpstreamTls => Reason::UpstreamTls,
            Self::UpstreamReset => Reason::UpstreamReset,
            Self::StreamRefused => Reason::StreamRefused,
            Self::ConnectionLimit => Reason::ConnectionLimit,
            Self::UpstreamMalformed => Reason::UpstreamMalformed,
            Self::ResponseTimeout => Reason::ResponseTimeout,
            Self::AttemptTimeout => Reason::AttemptTimeout,
            Self::RequestTimeout => Reason::RequestTimeout,
            Self::ServerError => Reason::ServerError,
            Self::ResponseCut => Reason::ResponseCut,
            Self::ClientGone => Reason::ClientGone,
        }
    }

    /// One word for the access log, metrics and the answer.
    pub fn label(self) -> &'static str {
        self.reason().label()
    }

    /// What a policy calls it when it says what is tried again; None for what never is.
    pub(super) fn retried_on(self) -> Option<RetryOn> {
        match self {
            Self::ForbiddenEndpoint
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::ConnectionLimit
            | Self::UpstreamTls => Some(RetryOn::ConnectFailure),
            Self::StreamRefused => Some(RetryOn::RefusedStream),
            Self::UpstreamReset | Self::ResponseTimeout | Self::AttemptTimeout => Some(RetryOn::Reset),
            _ => None,
        }
    }

    /// Whether it tells of the endpoint that was tried: not of the client, and not of limits of our own. For limits of
    /// time it depends on what the endpoint had of it.
    pub(super) fn is_of_endpoint(self) -> bool {
        matches!(
            self,
            Self::ConnectFailed
                | Self::ConnectTimeout
                | Self::UpstreamTls
                | Self::UpstreamReset
                | Self::UpstreamMalformed
                | Self::ResponseTimeout
        )
    }

    /// Whether an HTTP/1.1 connection ends with the answer: what follows such a request cannot be trusted either.
    pub(super) fn ends_connection(self) -> bool {
        matches!(
            self,
            Self::BadRequest(_)
                | Self::HeadTimeout
                | Self::HeadTooLarge
                | Self::TargetTooLong
                | Self::BodyTimeout
                | Self::BodyTooLarge
        )
    }

    /// Whether the client should come back: a `Retry-After` goes with the answer.
    pub(super) fn is_temporary(self) -> bool {
        self.status() == StatusCode::SERVICE_UNAVAILABLE
    }
}

impl From<Unpickable> for Error {
    fn from(why: Unpickable) -> Self {
        match why {
            Unpickable::NoEndpoint => Self::NoEndpoint,
            Unpickable::NoneFit => Self::NoneFit,
        }
    }
}

impl From<DialError> for Error {
    fn from(why: DialError) -> Self {
        match why {
            DialError::Unresolved(_) | DialError::Connect(_) => Self::ConnectFailed,
            DialError::Forbidden => Self::ForbiddenEndpoint,
            DialError::Exhausted(_) => Self::Overloaded,
            DialError::Tls(_) | DialError::Unverifiable(_) => Self::UpstreamTls,
        }
    }
}
