//! Pull secrets of a namespace as one docker `config.json`.

use serde_json::{Map, Value, json};

/// Where a Secret of type `kubernetes.io/dockerconfigjson` has it.
pub const KEY: &str = ".dockerconfigjson";

/// A Secret that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Secret {0}: {KEY} is not JSON")]
pub struct NotJson(String);

/// The configurations of secrets, with their names, as one; empty without any. The first that knows a registry wins.
///
/// # Errors
/// [`NotJson`].
pub fn merged(configs: &[(String, Vec<u8>)]) -> Result<Vec<u8>, NotJson> {
    if configs.is_empty() {
        return Ok(Vec::new());
    }
    let mut auths = Map::new();
    for (name, bytes) in configs {
        let config: Value = serde_json::from_slice(bytes).map_err(|_| NotJson(name.clone()))?;
        for (registry, auth) in config["auths"].as_object().into_iter().flatten() {
            let known = auths.entry(registry.clone());
            known.or_insert_with(|| auth.clone());
        }
    }
    Ok(json!({ "auths": auths }).to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_secret_that_knows_a_registry_wins() {
        let secret = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_vec());
        let bytes = merged(&[
            secret("a", r#"{"auths":{"one":{"auth":"YQ=="}}}"#),
            secret(
                "b",
                r#"{"auths":{"one":{"auth":"Yg=="},"two":{"auth":"Yw=="}}}"#,
            ),
        ])
        .unwrap();
        let config: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(config["auths"]["one"]["auth"], "YQ==");
        assert_eq!(config["auths"]["two"]["auth"], "Yw==");
        let bad = merged(&[secret("c", "no")]).unwrap_err();
        assert_eq!(bad.to_string(), "Secret c: .dockerconfigjson is not JSON");
        assert!(merged(&[]).unwrap().is_empty());
    }
}
