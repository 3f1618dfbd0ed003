//! The Kubernetes vocabulary of Lamina: group `lamina.dev/v1alpha1`.
//!
//! Owns the types people write (`spec`) and read (`status`), their schemas with every limit, and the rules
//! for conditions. What always holds: every text, list and map in a schema is bounded, and every rule a
//! person can break says in plain words what to do instead. The YAML of the chart and
//! `docs/crd-reference.md` are generated from here; a test keeps them current.

#![allow(
    clippy::duplicated_attributes,
    reason = "every printer column has a type and a path of its own"
)]

pub mod conditions;
mod flist;
mod generate;
mod image;
mod job;
mod lamina_cluster;
pub mod pull_secrets;
mod reference;
pub mod schema;
mod size;
mod store;
pub mod text;
pub mod warm;

pub use flist::{
    ArchiveFrom, Flist, FlistFrom, FlistSource, FlistSpec, FlistStatus, ImageFrom, PvcFrom,
    StoredFrom,
};
pub use generate::{crds, from_yaml, yaml, yaml_of};
pub use image::{Image, ImageSpec, ImageStatus, pinned};
pub use job::{
    COMPLETIONS_MAX, ConfigMapFile, Job, JobFile, JobOutcome, JobPhase, JobResources, JobRun,
    JobSource, JobSpec, JobStatus, LOG_BYTES_MAX, NamedKey, RUN_LOG_BYTES_MAX, RUNS_MAX,
};
pub use lamina_cluster::{
    ControllerSpec, LaminaCluster, LaminaClusterSpec, LaminaClusterStatus, NodeSpec, Placement,
    Toleration, WorkloadStatus,
};
pub use reference::markdown;
pub use size::size;
pub use store::{SecretRef, Store, StoreSpec, StoreStatus};
pub use text::{EnvVar, LocalName};

/// API group of every kind.
pub const GROUP: &str = "lamina.dev";
/// The one version there is.
pub const VERSION: &str = "v1alpha1";
/// Finalizer of the objects whose deletion cleans up on nodes.
pub const FINALIZER: &str = "lamina.dev/cleanup";
/// Name of the only `LaminaCluster`.
pub const CLUSTER_NAME: &str = "default";
