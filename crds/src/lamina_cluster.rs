//! `LaminaCluster`: which workloads run, from which image, where and with how much.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::conditions;
use crate::text::{self, EnvVar, LocalName};

/// Lamina in this cluster. There is one, named `default`; the chart makes it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "lamina.dev",
    version = "v1alpha1",
    kind = "LaminaCluster",
    plural = "laminaclusters",
    shortname = "lcl",
    category = "lamina",
    status = "LaminaClusterStatus",
    derive = "PartialEq",
    doc = "Lamina in this cluster: its workloads. There is one, named default; the chart makes it.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Nodes",
        type_ = "string",
        json_path = ".status.workloads[?(@.name==\"lamina-node\")].summary"
    ),
    printcolumn(
        name = "CSI",
        type_ = "string",
        json_path = ".status.workloads[?(@.name==\"lamina-csi\")].summary"
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.version",
        priority = "1"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = "1"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct LaminaClusterSpec {
    /// Container image with Lamina's binaries.
    #[schemars(schema_with = "text::image_reference")]
    pub image: String,
    /// When kubelet pulls it.
    #[serde(default)]
    pub image_pull_policy: ImagePullPolicy,
    /// Secrets of Lamina's namespace to pull it with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "text::local_names")]
    pub image_pull_secrets: Vec<LocalName>,
    /// `Store` objects used where an object names none. Without any, each node keeps its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "text::store_names")]
    pub stores: Vec<String>,
    /// Secret of Lamina's namespace with a CA (`tls.crt`, `tls.key`) that somebody else makes and renews, such as
    /// cert-manager. Without it the operator makes its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority_secret: Option<LocalName>,
    /// Key of a taint new nodes carry until volumes work on them; the operator takes it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub startup_taint: Option<String>,
    /// What runs on every node: the only privileged pod, and the CSI driver beside it.
    #[serde(default)]
    pub node: NodeSpec,
    /// The CSI driver's pods on every node.
    #[serde(default)]
    pub csi: Placement,
    /// The provisioner of volumes.
    #[serde(default)]
    pub controller: ControllerSpec,
    /// The cluster's memory of what its nodes hold: with it they read from each other before they ask a registry.
    #[serde(default)]
    pub discovery: DiscoverySpec,
    /// What runs commands for `Job` objects and clients, without pods of their own.
    #[serde(default)]
    pub execution: ExecutionSpec,
}

/// When kubelet pulls an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// If the node does not have it.
    #[default]
    IfNotPresent,
    /// At every start.
    Always,
    /// Never.
    Never,
}

impl ImagePullPolicy {
    /// As it is written in a pod.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IfNotPresent => "IfNotPresent",
            Self::Always => "Always",
            Self::Never => "Never",
        }
    }
}

/// What runs on every node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// Most bytes a node's cache may take. Without it, the smaller of 1 TB and 60 % of the free space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::quantity")]
    pub cache_bytes_max: Option<String>,
    /// Most bytes of image layers a node may keep for the cluster, beside its cache. Without it, the smaller of 1 TB and
    /// 60 % of the free space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::quantity")]
    pub layers_bytes_max: Option<String>,
    /// Registries (`host[:port]`) spoken to by plain HTTP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "text::short_list")]
    pub insecure_registries: Vec<String>,
    /// Directory of the kubelet on the nodes.
    #[serde(default = "kubelet_dir")]
    #[schemars(schema_with = "text::host_path")]
    pub kubelet_dir: String,
    /// What it logs.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Where it runs and with how much.
    #[serde(default)]
    pub placement: Placement,
}

impl Default for NodeSpec {
    fn default() -> Self {
        Self {
            cache_bytes_max: None,
            layers_bytes_max: None,
            insecure_registries: Vec::new(),
            kubelet_dir: kubelet_dir(),
            log_level: LogLevel::default(),
            placement: Placement::default(),
        }
    }
}

fn kubelet_dir() -> String {
    "/var/lib/kubelet".to_owned()
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what should be looked at.
    Warn,
    /// And what happens.
    #[default]
    Info,
    /// And how.
    Debug,
}

impl LogLevel {
    /// As it is written in the environment.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// The provisioner of volumes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControllerSpec {
    /// Pods of it; one leads. 0: an external-provisioner does its work.
    #[serde(default = "two")]
    #[schemars(range(min = 0, max = 5))]
    pub replicas: i32,
    /// Where it runs and with how much.
    #[serde(default)]
    pub placement: Placement,
}

impl Default for ControllerSpec {
    fn default() -> Self {
        Self {
            replicas: two(),
            placement: Placement::default(),
        }
    }
}

/// The cluster's memory of what its nodes hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiscoverySpec {
    /// Whether there is one. Without it every node is on its own.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Pods of it; each knows everything.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 5))]
    pub replicas: i32,
    /// A node is taken for dead this long after its last sign of life.
    #[serde(default = "ttl")]
    #[schemars(schema_with = "text::ttl")]
    pub ttl: String,
    /// Where it runs and with how much.
    #[serde(default)]
    pub placement: Placement,
}

impl Default for DiscoverySpec {
    fn default() -> Self {
        Self {
            enabled: yes(),
            replicas: two(),
            ttl: ttl(),
            placement: Placement::default(),
        }
    }
}

/// What runs commands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionSpec {
    /// Whether there is any. It runs whatever its clients ask for, on every node that `afslet` selects.
    #[serde(default)]
    pub enabled: bool,
    /// What runs commands on nodes.
    #[serde(default)]
    pub afslet: AfsletSpec,
    /// What finds a node for each.
    #[serde(default)]
    pub proxy: ProxySpec,
}

/// What runs commands on nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AfsletSpec {
    /// Processors of a node for commands. Without it, all that the pod sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub cpus: Option<i32>,
    /// Memory of a node for commands, what they write included. Without it, all of the node's: give less than the pod's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::quantity")]
    pub memory: Option<String>,
    /// Longest that a command may run.
    #[serde(default = "timeout_max")]
    #[schemars(schema_with = "text::duration")]
    pub timeout_max: String,
    /// Whether commands may ask for the network of their afslet's pod.
    #[serde(default)]
    pub allow_host_network: bool,
    /// Where it runs and with how much.
    #[serde(default)]
    pub placement: Placement,
}

impl Default for AfsletSpec {
    fn default() -> Self {
        Self {
            cpus: None,
            memory: None,
            timeout_max: timeout_max(),
            allow_host_network: false,
            placement: Placement::default(),
        }
    }
}

fn timeout_max() -> String {
    "1h".to_owned()
}

/// What finds a node for each command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxySpec {
    /// Pods of it; each serves everything.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 20))]
    pub replicas: i32,
    /// Where it runs and with how much.
    #[serde(default)]
    pub placement: Placement,
}

impl Default for ProxySpec {
    fn default() -> Self {
        Self {
            replicas: two(),
            placement: Placement::default(),
        }
    }
}

fn yes() -> bool {
    true
}

fn ttl() -> String {
    "30s".to_owned()
}

fn two() -> i32 {
    2
}

/// Where pods run and with how much.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// CPU, memory and the like each pod is sure to get.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "text::resources")]
    pub requests: BTreeMap<String, String>,
    /// The most it gets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "text::resources")]
    pub limits: BTreeMap<String, String>,
    /// Labels of the nodes it runs on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "text::node_selector")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints it runs in spite of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "tolerations")]
    pub tolerations: Vec<Toleration>,
    /// Priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::object_name")]
    pub priority_class_name: Option<String>,
    /// Labels added to its pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "text::labels")]
    pub pod_labels: BTreeMap<String, String>,
    /// Annotations added to its pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "text::labels")]
    pub pod_annotations: BTreeMap<String, String>,
    /// Environment variables added to its containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "text::env")]
    pub env: Vec<EnvVar>,
}

fn tolerations(schemas: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "items": Toleration::json_schema(schemas),
    })
}

/// A taint pods run in spite of, as in a pod's spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// The taint's key; without it, any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub key: Option<String>,
    /// `Exists` or `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,
    /// The taint's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub value: Option<String>,
    /// The taint's effect; without it, any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// How long `NoExecute` is borne.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// How a toleration compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TolerationOperator {
    /// Any value.
    Exists,
    /// This value.
    Equal,
}

/// What a taint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// Pods are not placed.
    NoSchedule,
    /// Pods are placed elsewhere if possible.
    PreferNoSchedule,
    /// Pods are ended.
    NoExecute,
}

/// What became of a `LaminaCluster`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LaminaClusterStatus {
    /// `Applied`, `CertificatesValid` and `Ready`.
    #[serde(default)]
    #[schemars(schema_with = "conditions::list")]
    pub conditions: Vec<Condition>,
    /// Generation of the spec this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Version of the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub version: Option<String>,
    /// Each workload's readiness.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "workloads")]
    pub workloads: Vec<WorkloadStatus>,
}

fn workloads(schemas: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": WorkloadStatus::json_schema(schemas),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    })
}

/// Readiness of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// Its name.
    #[schemars(schema_with = "text::short")]
    pub name: String,
    /// `DaemonSet` or `Deployment`.
    #[schemars(schema_with = "text::short")]
    pub kind: String,
    /// Pods there should be.
    pub desired: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// Pods of the current spec.
    pub updated: i32,
    /// `ready/desired`, for people.
    #[schemars(schema_with = "text::short")]
    pub summary: String,
}
