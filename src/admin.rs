//! The operator's port: liveness, readiness, metrics and the configuration in force. Never on a traffic port.
