//! Every `unsafe` of this crate: one file per family of system calls.
#![allow(unsafe_code)]

pub(crate) mod landlock;
pub(crate) mod mount;
pub(crate) mod net;
pub(crate) mod process;
pub(crate) mod tty;
