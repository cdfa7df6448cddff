//! Pierhead: Ingress YAML in, balanced traffic out.
//!
//! Two halves meet at one atomic pointer. The control half ([`sources`]) turns outside configuration into one immutable
//! [`model::Model`]; the data half ([`proxy`]) serves traffic from the [`routing::Snapshot`] that is built of it. A layer
//! uses only layers above it in this list; `tests/architecture.rs` holds the table.
//!
//! | Layer | What it does |
//! |---|---|
//! | [`matching`], [`filters`], [`balance`], [`telemetry`] | pure parts: data and the behaviour that belongs to it |
//! | [`model`] | what is wanted, free of Kubernetes and I/O |
//! | [`sources`] | Kubernetes API, manifest files and flags, compiled into the model |
//! | [`routing`] | the model, indexed and joined with live state |
//! | [`transport`] | connections to endpoints |
//! | [`health`] | probes endpoints and tells `routing` which are fit |
//! | [`explain`] | says why a request gets the answer it gets |
//! | [`proxy`], [`admin`] | serve traffic; tell operators about it |
//! | [`app`], [`cli`] | wire the halves together |

pub mod admin;
pub mod app;
pub mod balance;
pub mod cli;
pub mod explain;
pub mod filters;
pub mod health;
pub mod matching;
pub mod model;
pub mod proxy;
pub mod routing;
pub mod settings;
pub mod sources;
pub mod telemetry;
pub mod transport;
