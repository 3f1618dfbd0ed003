//! Who we are to a registry: explicit, docker's config file, or its helpers.
//!
//! Owns the look-up order of docker: `credHelpers[host]`, then `credsStore`,
//! then `auths`. Secrets never appear in `Debug` or in errors.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A helper that takes longer waits for a person or is broken.
const HELPER_TIMEOUT: Duration = Duration::from_secs(15);
/// A helper's answer is one small JSON object.
const HELPER_ANSWER_MAX: u64 = 64 << 10;
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// Who to be.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody.
    #[default]
    Anonymous,
    /// A user.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// A refresh token for the registry's token server.
    IdentityToken(String),
}

impl Credentials {
    /// A docker config with these alone, for `host`: what another node needs to act for the same caller, and no
    /// more. Empty for nobody.
    pub fn to_docker_config(&self, host: &str) -> Vec<u8> {
        let auth = match self {
            Self::Anonymous => return Vec::new(),
            Self::Basic { username, password } => {
                serde_json::json!({ "username": username, "password": password })
            }
            Self::IdentityToken(token) => serde_json::json!({ "identitytoken": token }),
        };
        serde_json::json!({ "auths": { host: auth } })
            .to_string()
            .into_bytes()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Basic { username, .. } => write!(f, "Basic({username:?}, ***)"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(***)"),
        }
    }
}

/// Where credentials come from.
#[derive(Debug, Clone, Default)]
pub enum CredentialSource {
    /// Docker's config in its usual place, if there is one.
    #[default]
    DockerConfig,
    /// A config file in docker's format.
    File(PathBuf),
    /// These.
    Explicit(Credentials),
    /// A config's content from somebody who may not run programs here: its helpers are not asked.
    Given(GivenConfig),
}

/// The content of a docker config; kept in memory only.
#[derive(Clone)]
pub struct GivenConfig(Arc<[u8]>);

impl GivenConfig {
    /// Takes the JSON as it is; it is read when credentials are looked for.
    pub fn new(json: impl Into<Arc<[u8]>>) -> Self {
        Self(json.into())
    }

    fn find(&self, host: &str) -> Result<Credentials, CredentialError> {
        // The parser's message may quote what it stumbled over: it is dropped.
        let config: DockerConfig =
            serde_json::from_slice(&self.0).map_err(|_| CredentialError::MalformedGiven)?;
        match names(host).find_map(|name| config.auths.get(&name)) {
            Some(auth) => decode(auth).ok_or_else(|| CredentialError::BadGiven {
                host: host.to_owned(),
            }),
            None => Ok(Credentials::Anonymous),
        }
    }
}

impl fmt::Debug for GivenConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GivenConfig(***)")
    }
}

/// Why credentials cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no docker config.
    #[error("{path} is no docker config")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why; quotes no content.
        source: serde_json::Error,
    },
    /// An `auth` value is no base64 of `user:password`.
    #[error("{path}: the entry for {host} holds no user:password")]
    BadAuth {
        /// The file.
        path: PathBuf,
        /// Which entry.
        host: String,
    },
    /// The config given is none.
    #[error("the registry credentials given are no docker config.json")]
    MalformedGiven,
    /// An `auth` value of the config given is no base64 of `user:password`.
    #[error("the registry credentials given hold no user:password for {host}")]
    BadGiven {
        /// Which entry.
        host: String,
    },
    /// A helper's name is no name.
    #[error("credential helper {0:?}: not a valid name")]
    HelperName(String),
    /// A helper failed.
    #[error("credential helper {helper} for {host}: {why}")]
    Helper {
        /// The program.
        helper: String,
        /// The registry.
        host: String,
        /// How it failed.
        why: String,
    },
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, Auth>,
    #[serde(default)]
    cred_helpers: HashMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
struct Auth {
    /// base64 of `user:password`.
    #[serde(rename = "auth")]
    encoded: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl CredentialSource {
    /// The credentials for registry `host`.
    ///
    /// # Errors
    /// When a config or helper that should know fails.
    pub async fn find(&self, host: &str) -> Result<Credentials, CredentialError> {
        let path = match self {
            Self::Explicit(credentials) => return Ok(credentials.clone()),
            Self::Given(config) => return config.find(host),
            Self::File(path) => path.clone(),
            Self::DockerConfig => match default_config() {
                Some(path) if path.exists() => path,
                _ => return Ok(Credentials::Anonymous),
            },
        };
        let config = read_config(&path)?;
        let helper = names(host)
            .find_map(|name| config.cred_helpers.get(&name).cloned())
            .or(config.creds_store.filter(|s| !s.is_empty()));
        if let Some(helper) = helper {
            let found = ask_helper(&helper, helper_host(host)).await?;
            if found != Credentials::Anonymous {
                return Ok(found);
            }
        }
        match names(host).find_map(|name| config.auths.get(&name)) {
            Some(auth) => decode(auth).ok_or_else(|| CredentialError::BadAuth {
                path: path.clone(),
                host: host.to_owned(),
            }),
            None => Ok(Credentials::Anonymous),
        }
    }
}

fn default_config() -> Option<PathBuf> {
    let dir = match std::env::var_os("DOCKER_CONFIG") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    Some(dir.join("config.json"))
}

fn read_config(path: &Path) -> Result<DockerConfig, CredentialError> {
    let failed = |source| CredentialError::Read {
        path: path.to_owned(),
        source,
    };
    let bytes = crate::source::read_regular(path, CONFIG_BYTES_MAX).map_err(failed)?;
    serde_json::from_slice(&bytes).map_err(|source| CredentialError::Malformed {
        path: path.to_owned(),
        source,
    })
}

/// How docker configs spell a registry, exact name first.
fn names(host: &str) -> impl Iterator<Item = String> + use<> {
    let hub = [
        "https://index.docker.io/v1/",
        "index.docker.io",
        "registry-1.docker.io",
    ];
    let hub = hub
        .into_iter()
        .filter(|_| host == "docker.io")
        .map(str::to_owned);
    [
        host.to_owned(),
        format!("https://{host}"),
        format!("http://{host}"),
        format!("https://{host}/v1/"),
        format!("https://{host}/v2/"),
    ]
    .into_iter()
    .collect::<Vec<_>>()
    .into_iter()
    .chain(hub.collect::<Vec<_>>())
}

fn helper_host(host: &str) -> &str {
    if host == "docker.io" {
        "https://index.docker.io/v1/"
    } else {
        host
    }
}

fn decode(auth: &Auth) -> Option<Credentials> {
    if let Some(token) = auth.identitytoken.as_ref().filter(|t| !t.is_empty()) {
        return Some(Credentials::IdentityToken(token.clone()));
    }
    if let (Some(username), Some(password)) = (&auth.username, &auth.password) {
        return Some(Credentials::Basic {
            username: username.clone(),
            password: password.clone(),
        });
    }
    let Some(encoded) = auth.encoded.as_ref().filter(|a| !a.is_empty()) else {
        // `docker login` with a helper leaves an empty entry behind.
        return Some(Credentials::Anonymous);
    };
    let plain = base64::engine::general_purpose::STANDARD
        .decode(encoded.trim())
        .ok()?;
    let plain = String::from_utf8(plain).ok()?;
    let (username, password) = plain.trim_end_matches('\0').split_once(':')?;
    Some(Credentials::Basic {
        username: username.to_owned(),
        password: password.to_owned(),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

async fn ask_helper(helper: &str, host: &str) -> Result<Credentials, CredentialError> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if helper.is_empty() || !helper.bytes().all(valid) {
        return Err(CredentialError::HelperName(helper.to_owned()));
    }
    let helper = format!("docker-credential-{helper}");
    let failed = |why: String| CredentialError::Helper {
        helper: helper.clone(),
        host: host.to_owned(),
        why,
    };
    let (success, answer) = tokio::time::timeout(HELPER_TIMEOUT, run_helper(&helper, host))
        .await
        .map_err(|_| failed(format!("no answer within {HELPER_TIMEOUT:?}")))?
        .map_err(|e| failed(e.to_string()))?;
    if !success {
        let said = String::from_utf8_lossy(&answer);
        // The protocol's way to say that it has none.
        if said.contains("credentials not found") {
            return Ok(Credentials::Anonymous);
        }
        return Err(failed("it reported an error".to_owned()));
    }
    let answer: HelperAnswer = serde_json::from_slice(&answer)
        .map_err(|_| failed("its answer is no JSON with Username and Secret".to_owned()))?;
    Ok(if answer.username == "<token>" {
        Credentials::IdentityToken(answer.secret)
    } else {
        Credentials::Basic {
            username: answer.username,
            password: answer.secret,
        }
    })
}

async fn run_helper(helper: &str, host: &str) -> std::io::Result<(bool, Vec<u8>)> {
    let mut child = tokio::process::Command::new(helper)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input has said what it will anyway.
        let _ = stdin.write_all(host.as_bytes()).await;
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(HELPER_ANSWER_MAX)
            .read_to_end(&mut answer)
            .await?;
    }
    Ok((child.wait().await?.success(), answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn find(json: &str, host: &str) -> Result<Credentials, CredentialError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, json).unwrap();
        CredentialSource::File(path).find(host).await
    }

    fn basic(username: &str, password: &str) -> Credentials {
        Credentials::Basic {
            username: username.to_owned(),
            password: password.to_owned(),
        }
    }

    #[tokio::test]
    async fn auths_are_found_under_every_spelling() {
        let auth = base64::engine::general_purpose::STANDARD.encode("u:p:q");
        for (key, host) in [
            ("r.io", "r.io"),
            ("https://r.io", "r.io"),
            ("https://r.io/v2/", "r.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("localhost:5000", "localhost:5000"),
        ] {
            let json = format!(r#"{{"auths":{{"{key}":{{"auth":"{auth}"}}}}}}"#);
            assert_eq!(find(&json, host).await.unwrap(), basic("u", "p:q"), "{key}");
            assert_eq!(
                find(&json, "evil.io").await.unwrap(),
                Credentials::Anonymous
            );
        }
    }

    #[tokio::test]
    async fn a_config_given_by_a_guest_runs_no_helper_and_is_never_shown() {
        let given = |json: &str| CredentialSource::Given(GivenConfig::new(json.as_bytes()));
        let json = r#"{"auths":{"r.io":{"username":"u","password":"p"}},
            "credsStore":"lamina-test-no-such","credHelpers":{"r.io":"lamina-test-no-such"}}"#;
        assert_eq!(given(json).find("r.io").await.unwrap(), basic("u", "p"));
        let other = given(json).find("q.io").await.unwrap();
        assert_eq!(other, Credentials::Anonymous);
        assert!(!format!("{:?}", given(json)).contains("r.io"));
        let error = given(r#"{"auths":"secret"}"#)
            .find("r.io")
            .await
            .unwrap_err();
        assert!(!format!("{error:?} {error}").contains("secret"), "{error}");
    }

    #[tokio::test]
    async fn credentials_are_passed_on_for_their_registry_alone() {
        for known in [
            basic("u", "p:\"q"),
            Credentials::IdentityToken("t".to_owned()),
        ] {
            let config = GivenConfig::new(known.to_docker_config("r.io"));
            let given = CredentialSource::Given(config);
            assert_eq!(given.find("r.io").await.unwrap(), known);
            let other = given.find("q.io").await.unwrap();
            assert_eq!(other, Credentials::Anonymous);
        }
        assert!(Credentials::Anonymous.to_docker_config("r.io").is_empty());
    }

    #[tokio::test]
    async fn bad_configs_are_errors_that_quote_no_secret() {
        let json = r#"{"auths":{"r.io":{"auth":"c2VjcmV0"}}}"#;
        let error = find(json, "r.io").await.unwrap_err();
        assert!(matches!(error, CredentialError::BadAuth { .. }), "{error}");
        assert!(!format!("{error:?}").contains("secret"));
        assert!(matches!(
            find("{", "r.io").await,
            Err(CredentialError::Malformed { .. })
        ));
        let json = r#"{"credHelpers":{"r.io":"../../bin/sh"}}"#;
        assert!(matches!(
            find(json, "r.io").await,
            Err(CredentialError::HelperName(_))
        ));
        let json = r#"{"credsStore":"lamina-test-no-such"}"#;
        assert!(matches!(
            find(json, "r.io").await,
            Err(CredentialError::Helper { .. })
        ));
        assert!(!format!("{:?}", basic("u", "hidden")).contains("hidden"));
    }
}
