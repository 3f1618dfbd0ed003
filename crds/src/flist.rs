//! `Flist`: a directory tree from an image, an archive, a claim or a store, as one immutable flist.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions;
use crate::text::{self, LocalName, rule};
use crate::warm::{self, Replicas, Warm};

/// A directory tree kept as a flist: every pod can mount it by this object's name.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "lamina.dev",
    version = "v1alpha1",
    kind = "Flist",
    plural = "flists",
    shortname = "lfl",
    category = "lamina",
    namespaced,
    status = "FlistStatus",
    derive = "PartialEq",
    doc = "A directory tree kept as a flist: every pod of its namespace can mount it by this object's name.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Entries", type_ = "integer", json_path = ".status.entries"),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size"),
    printcolumn(
        name = "Digest",
        type_ = "string",
        json_path = ".status.digest",
        priority = "1"
    ),
    printcolumn(
        name = "Nodes",
        type_ = "string",
        json_path = ".status.nodesSummary",
        priority = "1"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct FlistSpec {
    /// What it is made from.
    pub source: FlistSource,
    /// `Store` objects it is published to; without any, those of the `LaminaCluster`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "text::store_names")]
    pub stores: Vec<String>,
    /// Nodes that hold its data before anybody asks: a number, or `All`. Without it, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "warm::replicas")]
    pub replicas: Option<Replicas>,
    /// Labels of the nodes that may convert and hold it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "text::node_selector")]
    pub node_selector: BTreeMap<String, String>,
    /// How much of the data the replicas hold.
    #[serde(default)]
    pub warm: Warm,
}

/// What a flist is made from: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule(
        "[has(self.image), has(self.archive), has(self.pvc), has(self.flist)].filter(given, given).size() == 1",
        "a source is exactly one of image, archive, pvc and flist",
    ),
    rule("self == oldSelf", "the source of a Flist cannot be changed; make a new Flist"),
]))]
pub struct FlistSource {
    /// An image of a registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageFrom>,
    /// An archive on the web.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveFrom>,
    /// A directory of a volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc: Option<PvcFrom>,
    /// A flist that is in a store already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flist: Option<StoredFrom>,
}

/// The one source that was given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FlistFrom<'a> {
    /// An image of a registry.
    Image(&'a ImageFrom),
    /// An archive on the web.
    Archive(&'a ArchiveFrom),
    /// A directory of a volume.
    Pvc(&'a PvcFrom),
    /// A flist in a store.
    Flist(&'a StoredFrom),
}

impl FlistSource {
    /// The source, if exactly one was given (the schema sees to that).
    pub fn from(&self) -> Option<FlistFrom<'_>> {
        match (&self.image, &self.archive, &self.pvc, &self.flist) {
            (Some(image), None, None, None) => Some(FlistFrom::Image(image)),
            (None, Some(archive), None, None) => Some(FlistFrom::Archive(archive)),
            (None, None, Some(pvc), None) => Some(FlistFrom::Pvc(pvc)),
            (None, None, None, Some(flist)) => Some(FlistFrom::Flist(flist)),
            _ => None,
        }
    }
}

/// An image as a source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageFrom {
    /// Reference of the image; a tag is resolved once.
    #[schemars(schema_with = "text::image_reference")]
    pub reference: String,
    /// `os/arch[/variant]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::platform")]
    pub platform: Option<String>,
    /// Secrets of this namespace (type `kubernetes.io/dockerconfigjson`) to pull with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "text::local_names")]
    pub pull_secrets: Vec<LocalName>,
}

/// An archive as a source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveFrom {
    /// `http(s)://` URL of a tar, tar.gz or tar.zst.
    #[schemars(schema_with = "text::archive_url")]
    pub url: String,
    /// SHA-256 of the archive, hex; without it, whatever the server sends is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::sha256")]
    pub sha256: Option<String>,
}

/// A directory of a volume as a source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PvcFrom {
    /// Name of the `PersistentVolumeClaim`, in this namespace.
    #[schemars(schema_with = "text::object_name")]
    pub claim_name: String,
    /// Directory inside, relative; without it, all of the volume.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "text::volume_path")]
    pub path: String,
}

/// A stored flist as a source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoredFrom {
    /// Its digest: 64 hex digits.
    #[schemars(schema_with = "text::flist_digest")]
    pub digest: String,
}

/// What became of a `Flist`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlistStatus {
    /// `Indexed`, `Available` and `Ready`.
    #[serde(default)]
    #[schemars(schema_with = "conditions::list")]
    pub conditions: Vec<Condition>,
    /// Generation of the spec this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The flist's digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub digest: Option<String>,
    /// Digest of the image's manifest, if it came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub manifest: Option<String>,
    /// Files, directories and links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<i64>,
    /// Bytes of its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// Bytes of its files, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub size: Option<String>,
    /// Bytes it takes in a store: compressed, without duplicates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_stored: Option<i64>,
    /// Nodes that hold its data.
    #[serde(default)]
    pub nodes_warm: i32,
    /// Nodes that shall.
    #[serde(default)]
    pub nodes_wanted: i32,
    /// `nodesWarm/nodesWanted`, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub nodes_summary: Option<String>,
    /// Names of the nodes that hold it, at most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "text::node_names")]
    pub nodes: Vec<String>,
    /// Stores that hold it, without credentials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "text::short_list")]
    pub stores: Vec<String>,
}
