//! A FUSE connection that outlives the process serving it.
//!
//! ```text
//!  create (once)                          resume (every start of the server)
//!  open /dev/fuse, mount(2)               descriptors from the holder
//!  real FUSE_INIT, answered by us         socketpair with a made-up FUSE_INIT
//!  FUSE_DEV_IOC_CLONE x n                 fuser::Session::from_fd(socket)
//!  -> FuseConnection -> holder            dup3(live descriptor -> socket's number)
//!                                         FUSE_NOTIFY_RESEND, session.run()
//! ```
//!
//! What always holds: the real INIT happens exactly once and before any
//! descriptor is handed out; the server never makes a clone of its own (a clone
//! that dies with the process fails the requests it had taken); the first start
//! and every later one take the same path, so resuming is not a special case.
//!
//! The kernel's side is described in `Documentation/filesystems/fuse/` and
//! `include/uapi/linux/fuse.h`; resending needs Linux 6.9.

mod connect;
mod protocol;
mod serve;

pub use connect::{ConnectOptions, FuseConnection, HandshakeError};
pub use serve::{ServeError, Serving, serve};
