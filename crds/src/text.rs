//! Texts of the objects: one schema function per kind of text, so that a limit and its message are
//! written once.
//!
//! Formats are checked by CEL rules instead of `pattern`, because a rule can say what is wrong in words.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One CEL rule and what it says when broken.
pub fn rule(rule: &str, message: &str) -> Value {
    json!({ "rule": rule, "message": message })
}

fn text(max_len: u32, rules: &[Value]) -> Schema {
    let mut schema = json_schema!({ "type": "string", "maxLength": max_len });
    if !rules.is_empty() {
        schema.insert("x-kubernetes-validations".into(), json!(rules));
    }
    schema
}

/// Free text of at most 256 bytes.
pub fn short(_: &mut SchemaGenerator) -> Schema {
    text(256, &[])
}

/// Free text of at most 4 KiB.
pub fn long(_: &mut SchemaGenerator) -> Schema {
    text(4096, &[])
}

/// The last lines of a log.
pub fn log_tail(_: &mut SchemaGenerator) -> Schema {
    text(16384, &[])
}

/// A point in time, RFC 3339.
pub fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

/// Reference of an image in a registry.
pub fn image_reference(_: &mut SchemaGenerator) -> Schema {
    text(
        512,
        &[rule(
            "self.matches('^([a-zA-Z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9._-]*)?(@sha256:[a-f0-9]{64})?$')",
            "not an image reference; expected one like python:3.13 or registry.example.com/team/app@sha256:… (64 hex digits)",
        )],
    )
}

/// `os/arch[/variant]`.
pub fn platform(_: &mut SchemaGenerator) -> Schema {
    text(
        64,
        &[rule(
            "self.matches('^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9.]+)?$')",
            "not a platform; expected os/arch[/variant], such as linux/amd64 or linux/arm/v7",
        )],
    )
}

/// `Once` or an interval.
pub fn resolve(_: &mut SchemaGenerator) -> Schema {
    text(
        16,
        &[rule(
            "self == 'Once' || (self.matches('^[0-9]{1,6}(s|m|h)$') && duration(self) >= duration('30s'))",
            "resolve is Once or an interval of at least 30s, such as 10m or 24h",
        )],
    )
}

/// A length of time in whole seconds, minutes or hours.
pub fn duration(_: &mut SchemaGenerator) -> Schema {
    text(
        16,
        &[rule(
            "self.matches('^[0-9]{1,6}(s|m|h)$')",
            "not a length of time; expected a whole number with s, m or h, such as 90s or 2h",
        )],
    )
}

/// How long a node may be silent: it sends a sign of life each second at most.
pub fn ttl(_: &mut SchemaGenerator) -> Schema {
    text(
        16,
        &[rule(
            "self.matches('^[0-9]{1,5}(s|m)$') && duration(self) >= duration('3s')",
            "ttl is at least 3s: a whole number with s or m, such as 30s or 2m",
        )],
    )
}

/// BLAKE3 digest of a flist.
pub fn flist_digest(_: &mut SchemaGenerator) -> Schema {
    text(
        64,
        &[rule(
            "self.matches('^[0-9a-f]{64}$')",
            "not a flist digest; expected 64 lower-case hex digits",
        )],
    )
}

/// SHA-256 of an archive.
pub fn sha256(_: &mut SchemaGenerator) -> Schema {
    text(
        64,
        &[rule(
            "self.matches('^[0-9a-f]{64}$')",
            "not a SHA-256; expected 64 lower-case hex digits",
        )],
    )
}

/// URL of an archive.
pub fn archive_url(_: &mut SchemaGenerator) -> Schema {
    text(
        2048,
        &[
            rule(
                "self.matches('^https?://[^/ ]+/[^ ]+$')",
                "not an archive URL; expected http:// or https:// with a host and a path to a tar, tar.gz or tar.zst",
            ),
            rule(
                "!self.matches('^[a-z]+://[^/]*@')",
                "an archive URL must not contain a user or password: objects are readable by many",
            ),
        ],
    )
}

/// URL of a store.
pub fn store_url(_: &mut SchemaGenerator) -> Schema {
    text(
        2048,
        &[
            rule(
                "self.matches('^(dir|s3|gs|az|http|https|oci)://[^ ]+$')",
                "not a store URL; expected dir://, s3://, gs://, az://, http(s):// or oci:// and a place, such as s3://bucket/prefix",
            ),
            rule(
                "!self.startsWith('dir://') || self.startsWith('dir:///')",
                "dir:// takes an absolute path, such as dir:///var/lib/packs",
            ),
            rule(
                "!self.matches('^[a-z0-9]+://[^/]*@')",
                "a store URL must not contain a user or password; put them into a Secret and name it in secretRef",
            ),
        ],
    )
}

/// Hash-prefix range of a store.
pub fn shard_range(_: &mut SchemaGenerator) -> Schema {
    text(
        5,
        &[rule(
            "self.matches('^[0-9a-f]{2}-[0-9a-f]{2}$') && self.substring(0, 2) <= self.substring(3, 5)",
            "not a shard range; expected two hex digits, a dash and two more that are not lower, such as 00-7f",
        )],
    )
}

/// Name of another Kubernetes object.
pub fn object_name(_: &mut SchemaGenerator) -> Schema {
    text(
        253,
        &[rule(
            "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
            "not a name of a Kubernetes object; expected lower-case letters, digits, - and .",
        )],
    )
}

/// Path inside a volume, relative to its root.
pub fn volume_path(_: &mut SchemaGenerator) -> Schema {
    text(
        4096,
        &[rule(
            "!self.startsWith('/') && !self.matches('(^|/)[.][.](/|$)')",
            "a path inside the volume: relative, without ..",
        )],
    )
}

/// Absolute path on a node.
pub fn host_path(_: &mut SchemaGenerator) -> Schema {
    text(
        1024,
        &[rule(
            "self.matches('^/[^:]*$') && !self.matches('(^|/)[.][.](/|$)')",
            "expected an absolute path without .. and :",
        )],
    )
}

/// Absolute path inside a job's root file system.
pub fn inner_path(_: &mut SchemaGenerator) -> Schema {
    text(
        4096,
        &[rule(
            "self.startsWith('/') && !self.matches('(^|/)[.][.](/|$)')",
            "expected an absolute path without ..",
        )],
    )
}

/// A Kubernetes quantity above zero.
pub fn quantity(_: &mut SchemaGenerator) -> Schema {
    text(
        32,
        &[rule(
            "isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
            "not an amount above zero; expected one like 500m, 2, 512Mi or 20Gi",
        )],
    )
}

/// Resource names and amounts.
pub fn resources(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": { "type": "string", "maxLength": 32 },
        "x-kubernetes-validations": [rule(
            "self.all(key, key.size() <= 317 && isQuantity(self[key]))",
            "not an amount; expected one like 500m, 2, 512Mi or 20Gi",
        )]
    })
}

/// Labels a node must have.
pub fn node_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "x-kubernetes-validations": [rule(
                "self.matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$')",
                "not a label's value, so no node has it; expected letters, digits, - _ and ., beginning and ending with a letter or digit",
            )]
        },
        // What a key may hold is for the operator to say: of a key's length the API server knows no limit, and would
        // refuse a costlier rule.
        "x-kubernetes-validations": [rule(
            "self.all(key, key.size() <= 317)",
            "a label's name has at most 317 bytes",
        )]
    })
}

/// Labels or annotations to put on pods.
pub fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": { "type": "string", "maxLength": 4096 },
        "x-kubernetes-validations": [rule(
            "self.all(key, key.size() <= 317)",
            "a label's name has at most 317 bytes",
        )]
    })
}

/// Arguments of a command.
pub fn arguments(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 256,
        "items": { "type": "string", "maxLength": 8192 },
    })
}

/// Names of nodes.
pub fn node_names(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 256,
        "items": { "type": "string", "maxLength": 253 },
    })
}

/// Texts shown in a status.
pub fn short_list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "items": { "type": "string", "maxLength": 2048 },
    })
}

/// Names of `Store` objects.
pub fn store_names(schemas: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 8,
        "items": object_name(schemas),
        "x-kubernetes-list-type": "set",
    })
}

/// A list of references by name.
pub fn local_names(schemas: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 8,
        "items": LocalName::json_schema(schemas),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    })
}

/// Environment variables.
pub fn env(schemas: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 128,
        "items": EnvVar::json_schema(schemas),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    })
}

fn env_name(_: &mut SchemaGenerator) -> Schema {
    text(
        256,
        &[rule(
            "self.matches('^[A-Za-z_][A-Za-z0-9_]*$')",
            "not a variable's name; expected letters, digits and _, not starting with a digit",
        )],
    )
}

fn env_value(_: &mut SchemaGenerator) -> Schema {
    text(32768, &[])
}

/// An object of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalName {
    /// Its name.
    #[schemars(schema_with = "object_name")]
    pub name: String,
}

/// One environment variable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Its name.
    #[schemars(schema_with = "env_name")]
    pub name: String,
    /// Its value.
    #[serde(default)]
    #[schemars(schema_with = "env_value")]
    pub value: String,
}
