//! The crate from outside: images in, flists out, and back to directories.

#[allow(dead_code)]
#[path = "../../src/tar/testing.rs"]
mod raw;

mod commit;
mod convert;
mod disk;
mod hostile;
mod images;
mod layer_files;
mod overlay;
mod registry;
mod roundtrip;
mod server;
mod tools;
