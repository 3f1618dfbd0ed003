//! The driver as kubelet meets it: gRPC on a Unix socket, before a model of the node server.

mod driver;
mod fake;

mod hostile;
mod publish;
mod registration;
mod sanity;
mod storm;
