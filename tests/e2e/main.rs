//! Pierhead on a cluster with pods: installed by Helm, asked through its Service, rolled and upgraded under load.
//!
//! `make kind` and `make node` bring up the cluster and run this; it does not know which of the two it runs on. It needs
//! kubectl, helm and `KUBECONFIG`, the images `pierhead.test/pierhead:e2e` and `pierhead.test/demo-backend:e2e` on the
//! node, and reaches Services by a port of the node. Each test has a namespace, a release and an `IngressClass`
//! of its own.

#![allow(clippy::unwrap_used, reason = "a test that fails is a panic")]
#![allow(unreachable_pub, reason = "what the support modules share is public inside this target only")]

#[path = "../support/mod.rs"]
mod support;

mod cluster;
mod install;
mod load;
mod rollout;
