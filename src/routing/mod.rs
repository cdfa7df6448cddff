//! The model, indexed for lookup and joined with the live state that outlives it.
//!
//! A [`Snapshot`] is immutable but for the atomics in its pools. [`Live`] holds the one in force; nothing here waits.

mod certificates;
mod hosts;
mod live;
mod pool;
mod snapshot;

pub use certificates::Certificates;
pub use hosts::{HostRoutes, Hosts};
pub use live::{Live, Reader};
pub use pool::{EndpointState, Lease, Permit, Pool, Selection, Slot, Slots, Unpickable};
pub use snapshot::{Entry, Snapshot, Target};
