//! Proxies by their real servers, before afslets that do as a test tells them.

mod bench;
mod cable;
mod client;
mod fake;

mod choice;
mod faults;
mod hostile;
mod many;
mod names;
mod replicas;
mod secure;
mod status;
