//! `Job`: a command in a fresh root file system. Types only; nothing runs them yet.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::conditions;
use crate::text::{self, EnvVar, LocalName, rule};

/// A command run in a fresh root file system made of an image or a flist.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "lamina.dev",
    version = "v1alpha1",
    kind = "Job",
    plural = "jobs",
    shortname = "ljob",
    category = "lamina",
    namespaced,
    status = "JobStatus",
    derive = "PartialEq",
    doc = "A command run in a fresh root file system made of an image or a flist. Not acted upon by this version.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Exit", type_ = "integer", json_path = ".status.exitCode"),
    printcolumn(
        name = "Node",
        type_ = "string",
        json_path = ".status.node",
        priority = "1"
    ),
    printcolumn(name = "Duration", type_ = "string", json_path = ".status.duration"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule(
    "self.parallelism <= self.completions",
    "parallelism is at most completions",
)]))]
pub struct JobSpec {
    /// Root file system of the command.
    pub source: JobSource,
    /// Command and arguments; without it, those of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "text::arguments")]
    pub command: Vec<String>,
    /// Environment variables, over those of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "text::env")]
    pub env: Vec<EnvVar>,
    /// Files put into the root file system.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "files")]
    pub files: Vec<JobFile>,
    /// The most the command may use.
    #[serde(default)]
    pub resources: JobResources,
    /// Time after which it is ended.
    #[serde(default = "an_hour")]
    #[schemars(schema_with = "text::duration")]
    pub timeout: String,
    /// Runs at the same time.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 10_000))]
    pub parallelism: i32,
    /// Runs that must succeed.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100_000))]
    pub completions: i32,
    /// Times a failed run is tried again.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub retries: i32,
    /// Not admitted while this is true (Kueue sets it).
    #[serde(default)]
    pub suspend: bool,
    /// Keep what the command wrote.
    #[serde(default)]
    pub keep_diff: bool,
    /// Seconds after its end until the object is deleted; without it, it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<i32>,
}

fn an_hour() -> String {
    "1h".to_owned()
}

fn one() -> i32 {
    1
}

fn files(schemas: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "items": JobFile::json_schema(schemas),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["path"],
    })
}

fn content(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": 65536 })
}

/// Root file system of a job: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule(
    "has(self.image) != has(self.flist)",
    "a source is exactly one of image and flist",
)]))]
pub struct JobSource {
    /// Reference of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::image_reference")]
    pub image: Option<String>,
    /// Name of a `Flist` of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::object_name")]
    pub flist: Option<String>,
    /// Secrets of this namespace to pull the image with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "text::local_names")]
    pub pull_secrets: Vec<LocalName>,
}

/// A file put into the root file system, from exactly one of three places.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule(
    "[has(self.inline), has(self.configMap), has(self.secret)].filter(given, given).size() == 1",
    "a file's content is exactly one of inline, configMap and secret",
)]))]
pub struct JobFile {
    /// Absolute path in the root file system.
    #[schemars(schema_with = "text::inner_path")]
    pub path: String,
    /// Permission bits.
    #[serde(default = "mode")]
    #[schemars(range(min = 0, max = 0o7777))]
    pub mode: i32,
    /// The content itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "content")]
    pub inline: Option<String>,
    /// A key of a `ConfigMap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapFile>,
    /// A key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<NamedKey>,
}

fn mode() -> i32 {
    0o644
}

/// A key of a `ConfigMap`.
pub type ConfigMapFile = NamedKey;

/// A key of a named object of this namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamedKey {
    /// The object's name.
    #[schemars(schema_with = "text::object_name")]
    pub name: String,
    /// The key in it.
    #[schemars(schema_with = "text::short")]
    pub key: String,
}

/// The most a command may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobResources {
    /// Processors, such as `500m` or `2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::quantity")]
    pub cpu: Option<String>,
    /// Memory, such as `512Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::quantity")]
    pub memory: Option<String>,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JobPhase {
    /// Not admitted.
    Pending,
    /// Admitted, not started.
    Admitted,
    /// Running.
    Running,
    /// Ended.
    Finished,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JobOutcome {
    /// Exit code 0.
    Succeeded,
    /// Another exit code, or a signal.
    Failed,
    /// Ended for its time.
    TimedOut,
    /// Ended for its memory.
    OOMKilled,
    /// Ended because somebody asked.
    Cancelled,
}

/// What became of a `Job`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobStatus {
    /// `Admitted`, `Started` and `Finished`.
    #[serde(default)]
    #[schemars(schema_with = "conditions::list")]
    pub conditions: Vec<Condition>,
    /// Generation of the spec this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<JobPhase>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<JobOutcome>,
    /// Exit code of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Node it ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub node: Option<String>,
    /// When it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::time")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::time")]
    pub finished_at: Option<Time>,
    /// How long it ran, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub duration: Option<String>,
    /// What it used, by resource.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "text::resources")]
    pub usage: BTreeMap<String, String>,
    /// Last lines of its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::log_tail")]
    pub log_tail: Option<String>,
    /// Digest of what it wrote, if kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub diff: Option<String>,
}
