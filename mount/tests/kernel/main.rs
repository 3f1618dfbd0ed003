//! Tests of the mount crate against the running kernel: unions, loop devices,
//! unmounting, the three mount modes, POSIX behaviour, leaks.
//!
//! They need root. Each test makes a mount namespace of its own, so nothing it
//! mounts can be seen or left behind; what a kernel lacks is found by probing
//! and skipped with a line that starts with `SKIP`. The binary can be linked
//! statically and run alone on another kernel; `LAMINA_TEST_DIR` says where to
//! work then (a directory on a disk file system).

mod disk_uppers;
mod loops;
mod modes;
mod posix;
mod rounds;
mod support;
mod sys;
mod treefs;
mod treefs_core;
mod unions;
mod unmounts;
