//! Flist as a directory: EROFS on FUSE blobs, pure FUSE, writable union.
pub mod blobfs;
pub mod cache;
pub mod erofs;
pub mod filler;
pub mod fscontext;
pub mod loopdev;
pub mod probe;
pub mod read_ahead;
pub mod session;
mod sys;
pub mod treefs;
pub mod union;
pub mod unmount;
