//! Pull secrets of a namespace as one docker `config.json`.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use lamina_crds::LocalName;
use serde_json::{Map, Value, json};

use crate::context::Ctx;
use crate::fault::Fault;

const KEY: &str = ".dockerconfigjson";

/// The merged configuration; empty without secrets.
pub(crate) async fn docker_config(
    ctx: &Ctx,
    namespace: &str,
    names: &[LocalName],
) -> Result<Vec<u8>, Fault> {
    let api = Api::<Secret>::namespaced(ctx.client.clone(), namespace);
    let mut configs = Vec::with_capacity(names.len());
    for LocalName { name } in names {
        let secret = api.get_opt(name).await?.ok_or_else(|| {
            Fault::new(
                "NoSuchSecret",
                format!("there is no Secret {name} in namespace {namespace}"),
            )
        })?;
        let data = secret.data.unwrap_or_default();
        let bytes = data.get(KEY).ok_or_else(|| {
            Fault::new(
                "BadSecret",
                format!("Secret {name} is not a pull secret: it has no key {KEY}"),
            )
        })?;
        configs.push((name.clone(), bytes.0.clone()));
    }
    merged(&configs)
}

/// The first secret that knows a registry wins.
fn merged(configs: &[(String, Vec<u8>)]) -> Result<Vec<u8>, Fault> {
    if configs.is_empty() {
        return Ok(Vec::new());
    }
    let mut auths = Map::new();
    for (name, bytes) in configs {
        let config: Value = serde_json::from_slice(bytes)
            .map_err(|_| Fault::new("BadSecret", format!("Secret {name}: {KEY} is not JSON")))?;
        for (registry, auth) in config["auths"].as_object().into_iter().flatten() {
            auths
                .entry(registry.clone())
                .or_insert_with(|| auth.clone());
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
        assert_eq!(
            merged(&[secret("c", "no")]).unwrap_err().reason,
            "BadSecret"
        );
        assert!(merged(&[]).unwrap().is_empty());
    }
}
