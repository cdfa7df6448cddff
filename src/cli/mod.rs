//! The command line.

#[cfg(feature = "kubernetes")]
pub mod check;
#[cfg(feature = "kubernetes")]
pub mod crds;
