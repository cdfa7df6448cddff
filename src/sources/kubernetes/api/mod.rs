//! The kinds we define.

mod backend_policy;
mod read;

pub use backend_policy::{
    BackendPolicy, BackendPolicySpec, BackendPolicyStatus, ParentReference, PolicyAncestorStatus, TargetRef,
};
pub(in crate::sources) use read::{StoredPolicy, lenient, parse, strict};
