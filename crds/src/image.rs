//! `Image`: an image of a registry, converted and kept ready on nodes.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions;
use crate::text::{self, LocalName};
use crate::warm::{self, Replicas, Warm};

/// An image of a registry, converted into a flist, put into stores and kept ready on nodes.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "lamina.dev",
    version = "v1alpha1",
    kind = "Image",
    plural = "images",
    shortname = "limg",
    category = "lamina",
    namespaced,
    status = "ImageStatus",
    derive = "PartialEq",
    doc = "An image of a registry, converted into a flist, put into stores and kept ready on nodes.",
    printcolumn(name = "Reference", type_ = "string", json_path = ".spec.reference"),
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
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size"),
    printcolumn(
        name = "Nodes",
        type_ = "string",
        json_path = ".status.nodesSummary",
        description = "Nodes that hold its data, of those that shall"
    ),
    printcolumn(
        name = "Flist",
        type_ = "string",
        json_path = ".status.flist",
        priority = "1"
    ),
    printcolumn(
        name = "Dedup",
        type_ = "string",
        json_path = ".status.dedupRatio",
        priority = "1"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// Reference of the image, such as `python:3.13`. A digest pins it.
    #[schemars(schema_with = "text::image_reference")]
    pub reference: String,
    /// `os/arch[/variant]` to take; without it, that of the node that converts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::platform")]
    pub platform: Option<String>,
    /// Secrets of this namespace (type `kubernetes.io/dockerconfigjson`) to pull with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "text::local_names")]
    pub pull_secrets: Vec<LocalName>,
    /// When the tag is looked up: `Once`, or again after this time, such as `10m`.
    #[serde(default = "once")]
    #[schemars(schema_with = "text::resolve")]
    pub resolve: String,
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
    /// `Store` objects it is published to; without any, those of the `LaminaCluster`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "text::store_names")]
    pub stores: Vec<String>,
}

fn once() -> String {
    "Once".to_owned()
}

/// What became of an `Image`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// `Resolved`, `Converted`, `Replicated` and `Ready`.
    #[serde(default)]
    #[schemars(schema_with = "conditions::list")]
    pub conditions: Vec<Condition>,
    /// Generation of the spec this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Digest of the image's manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub digest: Option<String>,
    /// Digest of the flist it became: what `lamina.dev/flist` takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub flist: Option<String>,
    /// Layers of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<i32>,
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
    /// `bytes` divided by `bytesStored`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::short")]
    pub dedup_ratio: Option<String>,
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
    /// Flists that the reference named before, until nothing shows them any more and they are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "text::short_list")]
    pub retired: Vec<String>,
    /// When the reference was last resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::time")]
    pub resolved_at: Option<Time>,
}

/// `reference` by the digest of its manifest instead of by tag; as it is where the digest is not known.
pub fn pinned(reference: &str, manifest: &str) -> String {
    if manifest.is_empty() {
        return reference.to_owned();
    }
    let name = reference.split('@').next().unwrap_or_default();
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let end = name[last..]
        .find(':')
        .map_or(name.len(), |colon| last + colon);
    format!("{}@{manifest}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_pinned_whatever_its_form() {
        for (reference, expected) in [
            ("python", "python@sha256:aa"),
            ("python:3.13", "python@sha256:aa"),
            ("host:5000/a/b", "host:5000/a/b@sha256:aa"),
            ("host:5000/a/b:tag", "host:5000/a/b@sha256:aa"),
            ("a/b:tag@sha256:bb", "a/b@sha256:aa"),
        ] {
            assert_eq!(pinned(reference, "sha256:aa"), expected);
        }
        assert_eq!(pinned("python:3.13", ""), "python:3.13");
    }
}
