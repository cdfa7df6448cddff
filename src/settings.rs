//! Settings of the whole process, composed of each layer's own.
