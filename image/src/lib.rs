//! Outside to flist and back: OCI registry, layer tar, directory.
