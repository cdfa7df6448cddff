//! A route: which requests, and what happens to them.

use serde::Serialize;

use super::{BackendId, Origin};
use crate::{
    filters::Filter,
    matching::{HostPattern, PathPattern},
};

/// One rule of one object. Requests of `host` whose path matches go to `action`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// The object that declared it.
    pub origin: Origin,
    /// Field of the object, such as `spec.rules[0].http.paths[1]`.
    pub field: String,
    /// Hosts it applies to.
    pub host: HostPattern,
    /// Paths it applies to; None for a default backend, which takes what no path took.
    pub path: Option<PathPattern>,
    /// Applied in order before the action; each may answer by itself.
    pub filters: Vec<Filter>,
    /// What happens to the request.
    pub action: Action,
}

/// What happens to a request that a route has taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// It is sent to a backend of the same model.
    Forward(BackendId),
    /// It is answered 503, because of what its object says or lacks.
    Unavailable(Unavailable),
}

/// Why a route cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unavailable {
    /// The Service or its port does not exist or may not be used.
    BackendUnresolved,
    /// Something that protects the route cannot be honoured.
    Unprotected,
}
