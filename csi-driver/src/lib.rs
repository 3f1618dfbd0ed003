//! Lamina's CSI driver: calls of the Container Storage Interface, translated to the node server; and the
//! provisioner of its volumes.
//!
//! ```text
//! kubelet ──CSI──> node ──lamina.v1.Node──> node server (mounts)
//!                  attributes, volume, capability, secrets: pure
//!
//! PersistentVolumeClaim ──watch──> provisioner ──> controller ──> PersistentVolume
//! ```
//!
//! It keeps nothing: what is mounted is known by the node server, what exists by the cluster.

pub mod agent;
pub mod args;
pub mod attributes;
pub mod calls;
pub mod capability;
pub mod controller;
pub mod deadline;
pub mod events;
#[cfg(test)]
#[path = "../tests/csi/fake.rs"]
#[allow(dead_code, reason = "of what the other tests need")]
mod fake;
pub mod flists;
pub mod health;
pub mod identity;
pub mod ledger;
pub mod node;
pub mod provisioner;
pub mod registration;
pub mod run;
pub mod secrets;
pub mod server;
pub mod socket;
pub mod starts;
pub mod volume;
