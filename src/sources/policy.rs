//! The policy block that users write, shared by the CRD and manifest files.
