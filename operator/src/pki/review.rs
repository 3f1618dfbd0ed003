//! Which node a token speaks for: only the API server says so.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Api;
use kube::api::PostParams;

use super::{AUDIENCE, RESERVED};

/// Account of the pods that get certificates.
const ACCOUNT: &str = "lamina-node";
/// In a review, the node that the token's pod runs on (Kubernetes 1.30 or newer).
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// How long the API server may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Most bytes of a name in a cluster.
const NAME_MAX: usize = 253;

/// Why a token is none of a node's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// The API server does not accept it.
    #[error("the API server does not accept the token for {AUDIENCE}")]
    NotAccepted,
    /// It is somebody else's.
    #[error("certificates are for pods of {wanted} alone, and the token is of {found}")]
    OtherAccount {
        /// Who gets certificates.
        wanted: String,
        /// Whose it is.
        found: String,
    },
    /// It names no node, or none that can have a certificate.
    #[error(
        "the token does not say on which node its pod runs: it has to be one of a pod, of Kubernetes 1.30 or newer"
    )]
    NoNode,
    /// A name that means something else.
    #[error("the node is called {0:?}, which no node may be called")]
    BadName(String),
    /// The API server did not answer.
    #[error("the API server did not review the token: {0}")]
    Unavailable(String),
}

/// Asks the API server which node `token` speaks for.
pub(super) async fn node_of(
    client: &kube::Client,
    namespace: &str,
    token: &str,
) -> Result<String, Refused> {
    let review = TokenReview {
        spec: TokenReviewSpec {
            audiences: Some(vec![AUDIENCE.to_owned()]),
            token: token.to_owned(),
        },
        ..TokenReview::default()
    };
    let api = Api::<TokenReview>::all(client.clone());
    let params = PostParams::default();
    let answer = tokio::time::timeout(DEADLINE, api.create(&params, &review)).await;
    let answer = answer.map_err(|_| Refused::Unavailable("it did not answer in time".into()))?;
    let answer = answer.map_err(|error| Refused::Unavailable(error.to_string()))?;
    decide(&answer.status.unwrap_or_default(), namespace)
}

/// What a review means.
fn decide(status: &TokenReviewStatus, namespace: &str) -> Result<String, Refused> {
    // Without our audience in the answer, it was not looked at.
    let audiences = status.audiences.iter().flatten();
    let is_for_us = audiences.into_iter().any(|audience| audience == AUDIENCE);
    if status.authenticated != Some(true) || !is_for_us {
        return Err(Refused::NotAccepted);
    }
    let user = status.user.as_ref().ok_or(Refused::NotAccepted)?;
    let wanted = format!("system:serviceaccount:{namespace}:{ACCOUNT}");
    let found = user.username.clone().unwrap_or_default();
    if found != wanted {
        return Err(Refused::OtherAccount { wanted, found });
    }
    let named = user.extra.as_ref().and_then(|extra| extra.get(NODE_NAME));
    let [name] = named.map(Vec::as_slice).unwrap_or_default() else {
        return Err(Refused::NoNode);
    };
    match is_node_name(name) {
        true => Ok(name.clone()),
        false => Err(Refused::BadName(name.chars().take(NAME_MAX).collect())),
    }
}

/// A name as Kubernetes has them, and none that means more than a node.
fn is_node_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = label.as_bytes();
        let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner)
    };
    let means_more = name == RESERVED
        || name
            .strip_suffix(RESERVED)
            .is_some_and(|rest| rest.ends_with('.'));
    name.len() <= NAME_MAX && !means_more && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node() -> Value {
        json!({
            "authenticated": true,
            "audiences": ["lamina.dev"],
            "user": {
                "username": "system:serviceaccount:lamina-system:lamina-node",
                "extra": { "authentication.kubernetes.io/node-name": ["node-a"] },
            },
        })
    }

    fn decided(at: &str, value: Value) -> Result<String, Refused> {
        let mut status = node();
        *status.pointer_mut(at).unwrap() = value;
        decide(&serde_json::from_value(status).unwrap(), "lamina-system")
    }

    #[test]
    fn only_a_node_pods_token_speaks_for_its_node() {
        let user = |name: &str| decided("/user/username", json!(name)).unwrap_err();
        assert_eq!(decided("", node()).unwrap(), "node-a");
        assert_eq!(
            decided("/authenticated", json!(false)),
            Err(Refused::NotAccepted)
        );
        // A token for the API server itself, and an API server that does not know audiences.
        for audiences in [json!([]), json!(null), json!(["https://kubernetes"])] {
            assert_eq!(decided("/audiences", audiences), Err(Refused::NotAccepted));
        }
        for other in [
            "system:serviceaccount:lamina-system:lamina-csi",
            "system:serviceaccount:other:lamina-node",
            "system:serviceaccount:lamina-system:lamina-node:x",
            "system:node:node-a",
            "",
        ] {
            assert!(
                matches!(user(other), Refused::OtherAccount { .. }),
                "{other}"
            );
        }
        for extra in [
            json!({}),
            json!(null),
            json!({ "authentication.kubernetes.io/node-name": [] }),
            json!({ "authentication.kubernetes.io/node-name": ["a", "b"] }),
            json!({ "authentication.kubernetes.io/pod-name": ["node-a"] }),
        ] {
            assert_eq!(decided("/user/extra", extra), Err(Refused::NoNode));
        }
    }

    #[test]
    fn names_that_mean_more_than_a_node_are_no_nodes() {
        for (name, is_one) in [
            ("node-a", true),
            ("10.0.0.7", true),
            ("a.b.example.com", true),
            ("notlamina.internal", true),
            ("lamina.internal", false),
            ("client.lamina.internal", false),
            ("x.peer.lamina.internal", false),
            ("*.example.com", false),
            ("Node", false),
            ("", false),
            ("a..b", false),
            ("-a", false),
            ("a\0", false),
        ] {
            assert_eq!(is_node_name(name), is_one, "{name:?}");
        }
        assert!(!is_node_name(&"a".repeat(254)));
    }
}
