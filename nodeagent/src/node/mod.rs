//! The node as the cluster sees it: what `lamina node` serves.

pub mod library;
