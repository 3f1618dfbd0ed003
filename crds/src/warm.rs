//! On how many nodes data is kept ready, and how much of it.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::text::rule;

/// How many nodes hold the data before anybody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Replicas {
    /// This many of those the selector admits.
    Count(i32),
    /// Every node the selector admits.
    Every(All),
}

/// The word `All`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum All {
    /// Every node.
    All,
}

impl Replicas {
    /// How many of `nodes` nodes are meant.
    pub fn of(self, nodes: usize) -> usize {
        match self {
            Self::Count(count) => usize::try_from(count).unwrap_or(0).min(nodes),
            Self::Every(All::All) => nodes,
        }
    }
}

/// Schema of [`Replicas`].
pub fn replicas(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "maxLength": 8,
        "x-kubernetes-validations": [rule(
            "type(self) == int ? (self >= 0 && self <= 10000) : self == 'All'",
            "replicas is a number of nodes from 0 to 10000, or All",
        )]
    })
}

/// How much of the data a warm node holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Warm {
    /// What the access profile names: what its users read first.
    Profile,
    /// All of it.
    #[default]
    All,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_read_numbers_and_the_word_all() {
        let count: Replicas = serde_json::from_str("3").unwrap();
        let all: Replicas = serde_json::from_str("\"All\"").unwrap();
        assert_eq!(count.of(2), 2);
        assert_eq!(count.of(9), 3);
        assert_eq!(all.of(9), 9);
        assert!(serde_json::from_str::<Replicas>("\"some\"").is_err());
        assert_eq!(serde_json::to_string(&all).unwrap(), "\"All\"");
    }
}
