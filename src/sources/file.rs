//! Manifest files: the YAML of `kubectl apply`, served without a cluster.
