//! Discovery as its callers see it: replicas over TCP, and ten thousand nodes in a simulation.

mod certificates;
mod changes;
mod cluster;
mod replica;
mod sim;
