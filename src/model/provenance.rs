//! Where the parts of a model come from, and what did not get into it: for those who ask why.
//!
//! Nothing here has an effect on traffic, and it stands in no golden file.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{BackendId, Origin, Place};
use crate::matching::{HostPattern, PathPattern};

/// Where the parts of a model come from, and what did not get into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Where objects stand that were read from files.
    pub places: BTreeMap<Origin, Place>,
    /// When objects were created that have rules or policies, in seconds since 1970.
    pub created: BTreeMap<Origin, i64>,
    /// Rules that became no route.
    pub lost: Vec<Lost>,
    /// Where the settings of each backend come from.
    pub settings: BTreeMap<BackendId, SettingsOrigin>,
}

/// A rule that became no route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The object that has it.
    pub origin: Origin,
    /// Field of the object.
    pub field: String,
    /// Hosts it would apply to.
    pub host: HostPattern,
    /// Paths it would apply to; None for a default backend.
    pub path: Option<PathPattern>,
    /// Why it is none.
    pub why: Loss,
}

/// Why a rule became no route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// This object claimed the same host and path first.
    Conflict(Origin),
    /// Its object is of this class, which is not ours.
    OtherClass(String),
    /// Its object names no class, and no default class is ours.
    NoClass,
    /// Its object only adds to the routes of another one, which is not supported.
    Canary,
}

/// Where the settings of a backend come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingsOrigin {
    /// The policy in force.
    pub policy: Option<Origin>,
    /// Fields below its `spec` that are in force and differ from their defaults, with the blocks that hold them.
    pub fields: Arc<BTreeSet<String>>,
    /// What `appProtocol` of the Service port says, where it says anything.
    pub app_protocol: Option<String>,
    /// The `EndpointSlices` that its endpoints are read from.
    pub slices: Vec<Origin>,
}
