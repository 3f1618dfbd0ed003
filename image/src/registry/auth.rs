//! `401` -> a header that is let in: basic, or a bearer token.
//!
//! Source: distribution "Token Authentication Specification". The token server
//! is named by the registry; it gets this registry's credentials and no other.

use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::RegistryError;
use super::body::read_document;
use super::credentials::Credentials;
use super::http::{Failure, Fetcher, judge, parse_url};

/// Tokens of some clouds have several KiB.
const ANSWER_MAX: u64 = 1 << 20;

pub(super) struct Authorizer {
    credentials: Credentials,
    scope: String,
    header: Mutex<Option<String>>,
}

/// `scheme key="value", ...`
#[derive(Debug, Default, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: Option<String>,
    scope: Option<String>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Authorizer {
    pub(super) fn new(credentials: Credentials, scope: String) -> Self {
        Self {
            credentials,
            scope,
            header: Mutex::new(None),
        }
    }

    /// What to send to the registry's own origin.
    pub(super) async fn header(&self) -> Option<String> {
        self.header.lock().await.clone()
    }

    /// Answers a challenge; afterwards [`Self::header`] is what it asked for.
    pub(super) async fn answer(
        &self,
        fetcher: &Fetcher,
        url: &str,
        challenge: &str,
    ) -> Result<(), Failure> {
        let denied = || RegistryError::Denied {
            url: url.to_owned(),
            status: 401,
        };
        let header = if let Some(bearer) = parse_challenge(challenge, "bearer") {
            format!("Bearer {}", self.token(fetcher, url, &bearer).await?)
        } else if let (Some(_), Credentials::Basic { .. }) =
            (parse_challenge(challenge, "basic"), &self.credentials)
        {
            self.basic().ok_or_else(denied)?
        } else {
            return Err(denied().into());
        };
        *self.header.lock().await = Some(header);
        Ok(())
    }

    fn basic(&self) -> Option<String> {
        use base64::Engine as _;
        let Credentials::Basic { username, password } = &self.credentials else {
            return None;
        };
        let pair = format!("{username}:{password}");
        Some(format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(pair)
        ))
    }

    async fn token(
        &self,
        fetcher: &Fetcher,
        url: &str,
        challenge: &Challenge,
    ) -> Result<String, Failure> {
        let mut realm = parse_url(&challenge.realm, url)?;
        fetcher
            .check_hop(&parse_url(url, url)?, &realm)
            .map_err(|why| RegistryError::Redirect {
                url: url.to_owned(),
                why,
            })?;
        let service = challenge.service.as_deref().unwrap_or_default();
        let scope = challenge.scope.as_deref().unwrap_or(&self.scope);
        let response = if let Credentials::IdentityToken(token) = &self.credentials {
            let form = [
                ("grant_type", "refresh_token"),
                ("client_id", "lamina"),
                ("refresh_token", token),
                ("service", service),
                ("scope", scope),
            ];
            fetcher.post_form(&realm, &form).await?
        } else {
            realm
                .query_pairs_mut()
                .append_pair("service", service)
                .append_pair("scope", scope);
            let response = fetcher
                .send(&reqwest::Method::GET, &realm, url, &[], self.basic())
                .await?;
            judge(response, &without_query(&realm))?
        };
        let body = read_document(response, url, ANSWER_MAX, &fetcher.options).await?;
        let broken = || RegistryError::Protocol {
            url: without_query(&realm),
            why: "the token server's answer holds no token",
        };
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| broken())?;
        let token = answer.token.or(answer.access_token).ok_or_else(broken)?;
        // It becomes a header; what is no header would make the request fail oddly.
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(broken().into());
        }
        Ok(token)
    }
}

fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

/// The parameters of the challenge of this scheme, if it is there.
fn parse_challenge(text: &str, scheme: &str) -> Option<Challenge> {
    let lower = text.to_ascii_lowercase();
    let at = lower.find(&format!("{scheme} "))?;
    let mut rest = &text[at + scheme.len() + 1..];
    let mut challenge = Challenge::default();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        let Some((key, after)) = rest.split_once('=') else {
            break;
        };
        let key = key.trim().to_ascii_lowercase();
        // The next scheme begins: its name is followed by a space.
        if key.is_empty() || key.contains(' ') {
            break;
        }
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        match key.as_str() {
            "realm" => value.clone_into(&mut challenge.realm),
            "service" => challenge.service = Some(value.to_owned()),
            "scope" => challenge.scope = Some(value.to_owned()),
            _ => {}
        }
        rest = after;
    }
    Some(challenge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_taken_apart() {
        let text = r#"Bearer realm="https://a.io/token?x=1",service="r.io",scope="repository:a,b:pull,push""#;
        let want = Challenge {
            realm: "https://a.io/token?x=1".to_owned(),
            service: Some("r.io".to_owned()),
            scope: Some("repository:a,b:pull,push".to_owned()),
        };
        assert_eq!(parse_challenge(text, "bearer"), Some(want));
        let both = r#"Basic realm="b", Bearer realm="t""#;
        assert_eq!(parse_challenge(both, "basic").unwrap().realm, "b");
        assert_eq!(parse_challenge(both, "bearer").unwrap().realm, "t");
        assert_eq!(parse_challenge("Negotiate", "basic"), None);
        assert_eq!(parse_challenge(r#"Bearer realm="open"#, "bearer"), None);
    }
}
