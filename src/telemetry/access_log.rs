//! One line a request, never in its way.
