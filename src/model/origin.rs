//! Who caused something: the object a route, certificate, policy or problem comes from.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

/// The object that something in the model comes from.
///
/// Written `Kind namespace/name`, or `Kind name` for what has no namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// Kubernetes kind, such as `Ingress`; `Flag` for a command line option.
    pub kind: &'static str,
    /// Namespace; empty for objects without one.
    pub namespace: Arc<str>,
    /// Name of the object.
    pub name: Arc<str>,
}

impl Origin {
    /// An object of `kind` in `namespace` (empty for none).
    pub fn new(kind: &'static str, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
