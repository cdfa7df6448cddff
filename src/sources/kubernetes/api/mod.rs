//! The kinds we define.

mod backend_policy;

pub use backend_policy::{
    BackendPolicy, BackendPolicySpec, BackendPolicyStatus, ParentReference, PolicyAncestorStatus, TargetRef,
};
