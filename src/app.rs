//! Wires the tasks of `serve`; owns the order of start and shutdown.
