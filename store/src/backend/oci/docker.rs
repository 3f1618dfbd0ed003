//! Registry logins from a docker `config.json`.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::options::Environment;

/// How to log in to a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum DockerLogin {
    /// User and password.
    Password(String, String),
    /// A refresh token (`OAuth2`).
    IdentityToken(String),
}

impl std::fmt::Debug for DockerLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password(user, _) => write!(f, "Password({user:?}, ***)"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(***)"),
        }
    }
}

#[derive(Deserialize, Default)]
struct Config {
    #[serde(default)]
    auths: HashMap<String, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// The login for `host` in `file`, or in `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`. A
/// missing file means none, unless it was named. Credential helpers are not run.
///
/// # Errors
/// The file named, or one that is there, cannot be read or is no JSON.
pub fn docker_login(
    file: Option<&Path>,
    host: &str,
    env: &Environment,
) -> io::Result<Option<DockerLogin>> {
    let Some(path) = file.map(Path::to_owned).or_else(|| default_config(env)) else {
        return Ok(None);
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound && file.is_none() => return Ok(None),
        Err(e) => return Err(e),
    };
    let config: Config = serde_json::from_str(&text)?;
    Ok(find(&config, host))
}

fn default_config(env: &Environment) -> Option<PathBuf> {
    let folder = env
        .var("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env.var("HOME")?).join(".docker")))?;
    Some(folder.join("config.json"))
}

fn find(config: &Config, host: &str) -> Option<DockerLogin> {
    // Docker Hub is written as the URL of its first API.
    let hub = matches!(
        host,
        "docker.io" | "index.docker.io" | "registry-1.docker.io"
    );
    let entry = config.auths.iter().find(|(name, _)| {
        let bare = name
            .trim_start_matches("https://")
            .trim_start_matches("http://");
        let bare = bare.split('/').next().unwrap_or(bare);
        bare == host || (hub && matches!(bare, "docker.io" | "index.docker.io"))
    });
    let (_, entry) = entry?;
    if !entry.identitytoken.is_empty() {
        return Some(DockerLogin::IdentityToken(entry.identitytoken.clone()));
    }
    if !entry.username.is_empty() {
        return Some(DockerLogin::Password(
            entry.username.clone(),
            entry.password.clone(),
        ));
    }
    let decoded = String::from_utf8(STANDARD.decode(entry.auth.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some(DockerLogin::Password(
        user.to_owned(),
        password.trim_end_matches('\0').to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_entry_of_this_very_host_is_used() {
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
            "reg.example:5000": {"username": "u", "password": "p"},
            "token.example": {"identitytoken": "t"}}}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        let password =
            |user: &str, pass: &str| Some(DockerLogin::Password(user.into(), pass.into()));
        assert_eq!(find(&config, "docker.io"), password("hub", "pw"));
        assert_eq!(find(&config, "reg.example:5000"), password("u", "p"));
        assert_eq!(
            find(&config, "token.example"),
            Some(DockerLogin::IdentityToken("t".into()))
        );
        assert_eq!(find(&config, "reg.example"), None);
        assert_eq!(find(&config, "reg.example:5000.evil.example"), None);
    }
}
