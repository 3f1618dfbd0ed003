//! Every `unsafe` of this crate: one file per family of system calls.
#![allow(unsafe_code)]

pub(crate) mod fuse_dev;
pub(crate) mod heap;
pub(crate) mod loopdev;
pub(crate) mod mount_attr;
pub(crate) mod probe;
pub(crate) mod shared_map;
