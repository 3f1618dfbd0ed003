//! Pull secrets: what a Kubernetes Secret holds, as a docker `config.json`. Pure.
//!
//! Values never reach a log or a message: `Debug` shows nothing of them and errors name keys only.

use std::{collections::HashMap, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use thiserror::Error;

const CONFIG: &str = ".dockerconfigjson";
const CONFIG_OLD: &str = ".dockercfg";
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// A docker `config.json`; empty when there is no secret.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct PullSecret(Vec<u8>);

impl fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "PullSecret(none)"
        } else {
            "PullSecret(…)"
        })
    }
}

/// Why a secret cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SecretError {
    /// It is there and is no configuration.
    #[error(
        "the pull secret's {0} is not the JSON of a docker configuration; make it with `kubectl create secret docker-registry`"
    )]
    NotJson(&'static str),
    /// Nothing in it is of use.
    #[error(
        "the pull secret has neither {CONFIG} nor username and password; make it with `kubectl create secret docker-registry`"
    )]
    NoKeys,
    /// One of the two is missing.
    #[error("the pull secret has a {there} but no {missing}")]
    Half {
        /// The key it has.
        there: &'static str,
        /// The key it lacks.
        missing: &'static str,
    },
}

impl PullSecret {
    /// Reads the secret of a call; `image` says which registry a bare name and password are for.
    ///
    /// # Errors
    ///
    /// A secret that is given and holds nothing of use.
    pub fn parse(
        given: &HashMap<String, String>,
        image: Option<&str>,
    ) -> Result<Self, SecretError> {
        let get = |key: &str| given.get(key).map(String::as_str);
        let auths = if given.is_empty() {
            return Ok(Self::default());
        } else if let Some(config) = get(CONFIG) {
            auths(config).ok_or(SecretError::NotJson(CONFIG))?
        } else if let Some(config) = get(CONFIG_OLD) {
            object(config).ok_or(SecretError::NotJson(CONFIG_OLD))?
        } else {
            basic(get("username"), get("password"), get("registry"), image)?
        };
        let auths: Map<_, _> = auths.into_iter().map(|(k, v)| (k, with_auth(v))).collect();
        Ok(Self(json!({ "auths": auths }).to_string().into_bytes()))
    }

    /// The configuration's bytes, for the node; empty: anonymous.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

fn object(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(text).ok()
}

fn auths(config: &str) -> Option<Map<String, Value>> {
    match object(config)?.remove("auths")? {
        Value::Object(auths) => Some(auths),
        _ => None,
    }
}

fn basic(
    user: Option<&str>,
    password: Option<&str>,
    registry: Option<&str>,
    image: Option<&str>,
) -> Result<Map<String, Value>, SecretError> {
    let half = |there, missing| SecretError::Half { there, missing };
    let entry = match (user, password) {
        (Some(user), Some(password)) => json!({"username": user, "password": password}),
        (Some(_), None) => return Err(half("username", "password")),
        (None, Some(_)) => return Err(half("password", "username")),
        (None, None) => return Err(SecretError::NoKeys),
    };
    let registry = registry.unwrap_or_else(|| image.map_or(DOCKER_HUB, registry_of));
    Ok(Map::from_iter([(registry.to_owned(), entry)]))
}

/// The registry of a reference: its first part if that looks like a host.
fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => match host {
            "docker.io" | "index.docker.io" => DOCKER_HUB,
            host => host,
        },
        _ => DOCKER_HUB,
    }
}

/// Entries may spell name and password out; readers look at `auth`.
fn with_auth(mut entry: Value) -> Value {
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    if text("auth").is_none_or(str::is_empty)
        && let (Some(user), Some(password)) = (text("username"), text("password"))
    {
        entry["auth"] = STANDARD.encode(format!("{user}:{password}")).into();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)], image: Option<&str>) -> Result<Value, SecretError> {
        let given = pairs
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect();
        let bytes = PullSecret::parse(&given, image)?.into_bytes();
        Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    #[test]
    fn no_secret_is_anonymous() {
        assert_eq!(parse(&[], None), Ok(Value::Null));
    }

    #[test]
    fn every_kind_becomes_a_docker_config() {
        let auth = json!({"username": "u", "password": "p", "auth": "dTpw"});
        let at = |host: &str| json!({"auths": {host: auth}});
        let spelled = r#"{"auths":{"r.io":{"username":"u","password":"p"}},"credsStore":"x"}"#;
        let old = r#"{"r.io":{"username":"u","password":"p"}}"#;
        let pair = [("username", "u"), ("password", "p")];
        assert_eq!(parse(&[(CONFIG, spelled)], None), Ok(at("r.io")));
        assert_eq!(parse(&[(CONFIG_OLD, old)], None), Ok(at("r.io")));
        assert_eq!(parse(&pair, Some("ghcr.io/a/b:c")), Ok(at("ghcr.io")));
        assert_eq!(
            parse(&pair, Some("localhost:5000/a")),
            Ok(at("localhost:5000"))
        );
        assert_eq!(parse(&pair, Some("library/python")), Ok(at(DOCKER_HUB)));
        assert_eq!(parse(&pair, Some("docker.io/a/b")), Ok(at(DOCKER_HUB)));
        let named = [pair[0], pair[1], ("registry", "q.io")];
        assert_eq!(parse(&named, Some("ghcr.io/a")), Ok(at("q.io")));
        let kept = r#"{"auths":{"r.io":{"auth":"eDp5"}}}"#;
        assert_eq!(
            parse(&[(CONFIG, kept)], None),
            Ok(serde_json::from_str(kept).unwrap())
        );
    }

    #[test]
    fn useless_secrets_are_refused_without_their_values() {
        for (pairs, want) in [
            (vec![(CONFIG, "hunter2")], SecretError::NotJson(CONFIG)),
            (
                vec![(CONFIG, r#"{"auths":"hunter2"}"#)],
                SecretError::NotJson(CONFIG),
            ),
            (vec![(CONFIG_OLD, "[]")], SecretError::NotJson(CONFIG_OLD)),
            (vec![("token", "hunter2")], SecretError::NoKeys),
            (
                vec![("username", "hunter2")],
                SecretError::Half {
                    there: "username",
                    missing: "password",
                },
            ),
            (
                vec![("password", "hunter2")],
                SecretError::Half {
                    there: "password",
                    missing: "username",
                },
            ),
        ] {
            let error = parse(&pairs, None).unwrap_err();
            assert_eq!(error, want);
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }

    #[test]
    fn debug_shows_nothing_of_a_secret() {
        let given = [("username", "u"), ("password", "hunter2")].map(|(k, v)| (k.into(), v.into()));
        let secret = PullSecret::parse(&given.into(), None).unwrap();
        assert_eq!(format!("{secret:?}"), "PullSecret(…)");
    }
}
