//! Logging in: Basic, or a bearer token from the realm the registry names (distribution "token" spec).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Response;
use reqwest::header::WWW_AUTHENTICATE;
use serde::Deserialize;
use url::Url;

use super::docker::DockerLogin;
use crate::backend::web;
use crate::error::{ErrorKind, Result, StoreError};
use crate::url::is_loopback;

/// Tokens are a few KiB.
const TOKEN_LEN_MAX: u64 = 1 << 20;

/// What a request needs to be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Access {
    Pull,
    Push,
    Delete,
}

impl Access {
    fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
            Self::Delete => "pull,delete",
        }
    }
}

/// Knows the `Authorization` to send; learns it from the registry's challenges.
pub(super) struct Authorizer {
    login: Option<DockerLogin>,
    repository: String,
    headers: Mutex<HashMap<Access, String>>,
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorizer")
            .field("repository", &self.repository)
            .finish_non_exhaustive()
    }
}

/// What `WWW-Authenticate` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Authorizer {
    pub(super) fn new(login: Option<DockerLogin>, repository: &str) -> Self {
        Self {
            login,
            repository: repository.to_owned(),
            headers: Mutex::default(),
        }
    }

    pub(super) fn header(&self, access: Access) -> Option<String> {
        self.headers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&access)
            .cloned()
    }

    /// The header that answers a 401, if there is one to try.
    pub(super) async fn answer(
        &self,
        refused: &Response,
        access: Access,
        fail: impl Fn(ErrorKind) -> StoreError,
    ) -> Result<Option<String>> {
        let asked = refused
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .find_map(|v| parse(v.to_str().ok()?));
        let header = match (asked, &self.login) {
            (Some(Challenge::Basic), Some(DockerLogin::Password(user, password))) => {
                format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
            }
            (Some(Challenge::Bearer { realm, service }), _) => {
                format!(
                    "Bearer {}",
                    self.token(&realm, service, access, &fail).await?
                )
            }
            _ => return Ok(None),
        };
        let mut headers = self.headers.lock().unwrap_or_else(PoisonError::into_inner);
        headers.insert(access, header.clone());
        Ok(Some(header))
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
        access: Access,
        fail: impl Fn(ErrorKind) -> StoreError,
    ) -> Result<String> {
        let url = Url::parse(realm).ok().filter(may_receive_password);
        let mut url = url.ok_or_else(|| {
            fail(ErrorKind::Invalid).detail("the registry's token realm is not https")
        })?;
        // The login is for the realm that the registry names, and for nobody it leads to.
        let client = web::client_that_stays().map_err(|e| fail(ErrorKind::Invalid).source(e))?;
        let scope = format!("repository:{}:{}", self.repository, access.actions());
        let request = match &self.login {
            Some(DockerLogin::IdentityToken(token)) => {
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                form.append_pair("grant_type", "refresh_token")
                    .append_pair("refresh_token", token);
                form.append_pair("client_id", "lamina")
                    .append_pair("scope", &scope);
                form.append_pair("service", service.as_deref().unwrap_or_default());
                let form_type = "application/x-www-form-urlencoded";
                client
                    .post(url)
                    .header(reqwest::header::CONTENT_TYPE, form_type)
                    .body(form.finish())
            }
            login => {
                url.query_pairs_mut().append_pair("scope", &scope);
                if let Some(service) = &service {
                    url.query_pairs_mut().append_pair("service", service);
                }
                match login {
                    Some(DockerLogin::Password(user, password)) => {
                        client.get(url).basic_auth(user, Some(password))
                    }
                    _ => client.get(url),
                }
            }
        };
        let response = request.send().await.map_err(|e| web::no_answer(e, &fail))?;
        let status = response.status();
        if !status.is_success() {
            return Err(fail(web::kind_of_status(status))
                .detail(format!("the registry's token server said {status}")));
        }
        let bytes = web::whole(response, TOKEN_LEN_MAX, &fail).await?;
        let token: Token =
            serde_json::from_slice(&bytes).map_err(|e| fail(ErrorKind::Invalid).source(e))?;
        let token = token
            .token
            .or(token.access_token)
            .filter(|t| t.bytes().all(|b| b.is_ascii_graphic()));
        token.ok_or_else(|| {
            fail(ErrorKind::Invalid).detail("the registry's token server sent no token")
        })
    }
}

/// Passwords travel encrypted, or not at all beyond this machine.
fn may_receive_password(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && url.host_str().is_some_and(is_loopback))
}

/// Parses one challenge (RFC 9110, section 11.3).
fn parse(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut realm = None;
    let mut service = None;
    let mut rest = rest.trim();
    while let Some((name, tail)) = rest.split_once('=') {
        let (value, tail) = match tail.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => tail.split_once(',').unwrap_or((tail, "")),
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            _ => {}
        }
        rest = tail.trim_start_matches([',', ' ']);
    }
    Some(Challenge::Bearer {
        realm: realm?,
        service,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_understood() {
        assert_eq!(parse("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(parse("Negotiate"), None);
        assert_eq!(parse("Bearer service=\"x\""), None);
        let expected = Challenge::Bearer {
            realm: "https://auth.example/token".into(),
            service: Some("a, b".into()),
        };
        let text = "Bearer realm=\"https://auth.example/token\",service=\"a, b\",scope=\"repository:x:pull,push\"";
        assert_eq!(parse(text), Some(expected));
    }

    #[test]
    fn a_password_goes_to_https_or_this_machine_only() {
        let may = |url: &str| may_receive_password(&Url::parse(url).unwrap());
        assert!(may("https://auth.example/token"));
        assert!(may("http://127.0.0.1:5001/token"));
        assert!(!may("http://auth.example/token"));
        assert!(!may("ftp://auth.example/token"));
    }
}
