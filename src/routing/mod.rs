//! The model, indexed for lookup and joined with the live state that outlives it.
//!
//! A [`Snapshot`] is immutable but for the atomics in its pools. [`Live`] holds the one in force; nothing here waits.

mod certificates;
mod hosts;
mod live;
mod pool;
mod scrape;
mod snapshot;

pub use certificates::Certificates;
pub use hosts::{HostRoutes, Hosts};
pub use live::{Live, Published, Reader};
pub use pool::{
    Admission, Certainty, EndpointState, Lease, Pending, Permit, Pool, Preview, Prospect, Selection, Slot, Slots,
    Unfit, Unpickable, client_hash,
};
pub use snapshot::{Entry, Site, Snapshot, Target, route_labels, same_port};
