//! `Job`: a command in a fresh root file system, once or for every index.
//!
//! A run is one command with one index; a run that fails is tried again as another attempt. Attempts are numbered through
//! the whole job, and each is in the status before it begins: so who finds one there that nobody watches any more
//! knows that it may have run.

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
    doc = "A command run in a fresh root file system made of an image or a flist. No pod is made for it.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.reason",
        description = "Why it is in this phase, or how it ended"
    ),
    printcolumn(
        name = "Done",
        type_ = "string",
        json_path = ".status.summary",
        description = "Runs that succeeded, of those that shall"
    ),
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
#[schemars(extend("x-kubernetes-validations" = [
    rule("self.parallelism <= self.completions", "parallelism is at most completions"),
    rule("!has(self.diffStores) || self.keepDiff", "diffStores says where keepDiff keeps something; set keepDiff, too"),
]))]
pub struct JobSpec {
    /// Root file system of the command.
    pub source: JobSource,
    /// Command and arguments, in place of the image's entrypoint and command; without it, those of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "text::arguments")]
    pub command: Vec<String>,
    /// Directory it starts in; without it, as the image says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::inner_path")]
    pub working_dir: Option<String>,
    /// Environment variables, over those of the image. Every run has `JOB_COMPLETION_INDEX` (from 0) and
    /// `LAMINA_JOB_ATTEMPT` (from 1) beside them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "text::env")]
    pub env: Vec<EnvVar>,
    /// Files put into the root file system; together at most 8 MiB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "files")]
    pub files: Vec<JobFile>,
    /// The most the command may use, which is reserved for it.
    #[serde(default)]
    pub resources: JobResources,
    /// Time after which a run is ended.
    #[serde(default = "an_hour")]
    #[schemars(schema_with = "text::duration")]
    pub timeout: String,
    /// Runs at the same time.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256))]
    pub parallelism: i32,
    /// Runs that must succeed, one for each index.
    #[serde(default = "one")]
    #[schemars(schema_with = "completions")]
    pub completions: i32,
    /// Times failed runs are tried again, over all of them. Also a run of which nobody knows whether it ended, as when
    /// the operator was replaced, has failed.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub retries: i32,
    /// Not admitted while this is true; set while it runs, its runs are ended, and begin anew when it is false. A Job
    /// with the label `kueue.x-k8s.io/queue-name` is suspended when it is new, and started by Kueue.
    #[serde(default)]
    pub suspend: bool,
    /// Keep the root file system that a run which succeeds leaves: as the Flist `NAME-INDEX`, which belongs to the Job and
    /// is deleted with it. A run whose changes cannot be kept has failed.
    #[serde(default)]
    pub keep_diff: bool,
    /// `Store` objects that what is kept is published to; without any, those of the `LaminaCluster`. Only what a run wrote
    /// goes there; what it ran on stays where it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "text::store_names")]
    pub diff_stores: Vec<String>,
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

fn completions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "integer",
        "format": "int32",
        "minimum": 1,
        "maximum": COMPLETIONS_MAX,
        "x-kubernetes-validations": [rule(
            "self == oldSelf",
            "completions of a Job cannot be changed; make a new Job",
        )],
    })
}

fn index_set(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": 65536 })
}

fn runs(schemas: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": RUNS_MAX,
        "items": JobRun::json_schema(schemas),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["attempt"],
    })
}

fn run_log(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": RUN_LOG_BYTES_MAX })
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
#[schemars(extend("x-kubernetes-validations" = [
    rule("has(self.image) != has(self.flist)", "a source is exactly one of image and flist"),
    rule("self == oldSelf", "the source of a Job cannot be changed; make a new Job"),
]))]
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
    /// Processors, in whole ones: of `1500m` it is 2. Without it, 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::quantity")]
    pub cpu: Option<String>,
    /// Memory, such as `2Gi`, in whole mebibytes. Without it, `512Mi`.
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

/// How a run, and with its last one a job, ended.
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
    /// Nobody knows whether it ended.
    Lost,
}

impl JobOutcome {
    /// As it is written in the object.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::TimedOut => "TimedOut",
            Self::OOMKilled => "OOMKilled",
            Self::Cancelled => "Cancelled",
            Self::Lost => "Lost",
        }
    }
}

/// Indexes a job may have.
pub const COMPLETIONS_MAX: i32 = 10_000;
/// Attempts a status shows: those under way, and the last ones that ended.
pub const RUNS_MAX: usize = 320;
/// Bytes of a run's log that a status shows.
pub const RUN_LOG_BYTES_MAX: usize = 1024;
/// Bytes of the last run's log that a status shows.
pub const LOG_BYTES_MAX: usize = 16384;

/// One attempt of one index.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobRun {
    /// Number of the attempt within the job, from 1.
    pub attempt: i32,
    /// Whose, from 0.
    pub index: i32,
    /// How it ended; not there while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<JobOutcome>,
    /// Exit code of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Node it ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub node: Option<String>,
    /// Digest of the flist it began with: of what the image was then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub base: Option<String>,
    /// Flist of what it left, if kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub flist: Option<String>,
    /// When it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::time")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::time")]
    pub finished_at: Option<Time>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub message: Option<String>,
    /// Last lines of its output, where it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "run_log")]
    pub log_tail: Option<String>,
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
    /// Why it is there, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub reason: Option<String>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<JobOutcome>,
    /// Runs under way.
    #[serde(default)]
    pub active: i32,
    /// Runs that succeeded.
    #[serde(default)]
    pub succeeded: i32,
    /// Attempts that failed.
    #[serde(default)]
    pub failed: i32,
    /// `succeeded/completions`, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub summary: Option<String>,
    /// Attempts there were.
    #[serde(default)]
    pub attempts: i32,
    /// Indexes that succeeded, such as `0-4,7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "index_set")]
    pub succeeded_indexes: Option<String>,
    /// Every attempt that is under way, and the last ones that ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "runs")]
    pub runs: Vec<JobRun>,
    /// Exit code of the run that ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Node it ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub node: Option<String>,
    /// When the first run was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::time")]
    pub started_at: Option<Time>,
    /// When the job ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::time")]
    pub finished_at: Option<Time>,
    /// How long that took, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub duration: Option<String>,
    /// What the run that ended last used: `cpuSeconds`, `memoryPeak` (bytes).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "text::resources")]
    pub usage: BTreeMap<String, String>,
    /// Last lines of its output, both streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::log_tail")]
    pub log_tail: Option<String>,
    /// Flist of what the run that succeeded last left, if kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub diff: Option<String>,
}
