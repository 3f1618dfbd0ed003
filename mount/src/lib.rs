//! Flist as a directory: EROFS on FUSE blobs, pure FUSE, writable union.
pub mod fscontext;
pub mod loopdev;
pub mod probe;
mod sys;
pub mod union;
pub mod unmount;
