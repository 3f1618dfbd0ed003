//! Where packs live: one trait, its stores, its wrappers.
