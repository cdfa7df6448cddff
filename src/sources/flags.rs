//! `--backend URL`: everything to these, without a single object.
