//! The kinds we define.

mod backend_policy;

pub use backend_policy::{
    AncestorRef, BackendPolicy, BackendPolicySpec, BackendPolicyStatus, PolicyAncestorStatus, TargetRef,
};
