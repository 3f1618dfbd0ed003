//! One GET: redirects followed by hand, retries with back-off, bounded bodies.

use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, HeaderName, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode};
use url::{Host, Origin, Url};

use super::auth::Authorizer;
use super::{RegistryError, RegistryOptions};

/// Hops; registries use one or two.
const REDIRECTS_MAX: usize = 8;

/// Sends requests for one registry.
pub(super) struct Fetcher {
    client: Client,
    origin: Origin,
    loopback: bool,
    pub(super) options: RegistryOptions,
    authorizer: Authorizer,
}

/// Why one try failed, and whether another may help.
pub(super) enum Failure {
    /// Give up.
    Final(RegistryError),
    /// Try again, not before this wait if there is one.
    Again(Option<Duration>, RegistryError),
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::Final(error)
    }
}

impl Fetcher {
    pub(super) fn new(
        base: &str,
        options: RegistryOptions,
        authorizer: Authorizer,
        loopback: bool,
    ) -> Result<Self, RegistryError> {
        let mut builder = Client::builder()
            .user_agent(concat!("lamina/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.read_timeout);
        if loopback {
            builder = builder.no_proxy();
        }
        let broken = |source| RegistryError::Transport {
            url: base.to_owned(),
            attempts: 0,
            source,
        };
        let client = builder.build().map_err(broken)?;
        let origin = parse_url(base, base)?.origin();
        Ok(Self {
            client,
            origin,
            loopback,
            options,
            authorizer,
        })
    }

    /// GETs `url` and reads the answer with `read`, trying again while that
    /// may help.
    pub(super) async fn retried<T>(
        &self,
        url: &str,
        headers: &[(HeaderName, String)],
        read: impl AsyncFn(Response) -> Result<T, Failure>,
    ) -> Result<T, RegistryError> {
        let mut attempt = 1;
        loop {
            let result = match self.once(url, headers).await {
                Ok(response) => read(response).await,
                Err(failure) => Err(failure),
            };
            match result {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(_, error)) if attempt >= self.options.attempts => {
                    return Err(with_attempts(error, attempt));
                }
                Err(Failure::Again(wait, error)) => {
                    tracing::debug!(%error, attempt, "retrying");
                    self.pause(attempt, wait).await;
                }
            }
            attempt += 1;
        }
    }

    /// Waits before try `attempt + 1`.
    pub(super) async fn pause(&self, attempt: u32, asked: Option<Duration>) {
        let doubled = self
            .options
            .backoff
            .saturating_mul(1 << (attempt - 1).min(16));
        // Half of it at random, so that many nodes do not come back at once.
        let wait = doubled / 2 + (doubled / 2).mul_f64(unit_random());
        let wait = wait
            .max(asked.unwrap_or_default())
            .min(self.options.backoff_max);
        tokio::time::sleep(wait).await;
    }

    /// One GET with redirects and, once, a fresh token.
    pub(super) async fn once(
        &self,
        url: &str,
        headers: &[(HeaderName, String)],
    ) -> Result<Response, Failure> {
        let mut response = self.follow(url, headers).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenge = response
                .headers()
                .get_all(WWW_AUTHENTICATE)
                .iter()
                .filter_map(|v| v.to_str().ok())
                .collect::<Vec<_>>()
                .join(", ");
            self.authorizer.answer(self, url, &challenge).await?;
            response = self.follow(url, headers).await?;
        }
        judge(response, url)
    }

    async fn follow(
        &self,
        url: &str,
        headers: &[(HeaderName, String)],
    ) -> Result<Response, Failure> {
        let mut at = parse_url(url, url)?;
        for _ in 0..=REDIRECTS_MAX {
            let authorization = match at.origin() == self.origin {
                true => self.authorizer.header().await,
                false => None,
            };
            let response = self.send(&at, url, headers, authorization).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            at = self.next_hop(&at, url, &response)?;
        }
        Err(RegistryError::Redirect {
            url: url.to_owned(),
            why: "too many of them",
        }
        .into())
    }

    /// One request as it is; `authorization` is the caller's decision.
    pub(super) async fn send(
        &self,
        at: &Url,
        url: &str,
        headers: &[(HeaderName, String)],
        authorization: Option<String>,
    ) -> Result<Response, Failure> {
        let mut request = self.client.get(at.clone());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.send().await.map_err(|e| transport(url, e))
    }

    /// POSTs a form to a token server.
    pub(super) async fn post_form(
        &self,
        at: &Url,
        form: &[(&str, &str)],
    ) -> Result<Response, Failure> {
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .finish();
        let request = self
            .client
            .post(at.clone())
            .header(
                reqwest::header::CONTENT_TYPE,
                "application/x-www-form-urlencoded",
            )
            .body(body);
        let response = request
            .send()
            .await
            .map_err(|e| transport(at.as_str(), e))?;
        judge(response, at.as_str())
    }

    /// Where a redirect leads, if it may.
    fn next_hop(&self, at: &Url, url: &str, response: &Response) -> Result<Url, RegistryError> {
        let refused = |why| RegistryError::Redirect {
            url: url.to_owned(),
            why,
        };
        let location = response
            .headers()
            .get(LOCATION)
            .and_then(|v| v.to_str().ok())
            .ok_or_else(|| refused("it has no target"))?;
        let next = at
            .join(location)
            .map_err(|_| refused("its target is no URL"))?;
        self.check_hop(at, &next).map_err(refused)?;
        Ok(next)
    }

    /// A registry may send us elsewhere, but not down to http and not, from
    /// outside, to this machine or its metadata service.
    pub(super) fn check_hop(&self, from: &Url, next: &Url) -> Result<(), &'static str> {
        match (from.scheme(), next.scheme()) {
            (_, "https") | ("http", "http") => {}
            ("https", "http") => return Err("from https to http"),
            _ => return Err("its target is neither http nor https"),
        }
        if self.loopback {
            return Ok(());
        }
        let local = match next.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
            Some(Host::Ipv6(ip)) => {
                ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified()
            }
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            None => true,
        };
        if local {
            Err("its target is this machine")
        } else {
            Ok(())
        }
    }
}

/// A status as a result.
pub(super) fn judge(response: Response, url: &str) -> Result<Response, Failure> {
    let status = response.status();
    let url = url.to_owned();
    match status {
        s if s.is_success() => Ok(response),
        StatusCode::NOT_FOUND => Err(RegistryError::NotFound { url }.into()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(RegistryError::Denied {
            url,
            status: status.as_u16(),
        }
        .into()),
        StatusCode::TOO_MANY_REQUESTS => {
            let wait = retry_after(&response);
            Err(Failure::Again(
                wait,
                RegistryError::RateLimited { url, attempts: 1 },
            ))
        }
        s if s.is_server_error() || s == StatusCode::REQUEST_TIMEOUT => {
            let wait = retry_after(&response);
            Err(Failure::Again(
                wait,
                RegistryError::Status {
                    url,
                    status: status.as_u16(),
                },
            ))
        }
        _ => Err(RegistryError::Status {
            url,
            status: status.as_u16(),
        }
        .into()),
    }
}

/// Seconds, or a date: `Sat, 21 Nov 2026 15:00:00 GMT`.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    http_date(value)?.duration_since(SystemTime::now()).ok()
}

fn http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut parts = text.split_once(", ")?.1.split(' ');
    let day: u64 = parts.next()?.parse().ok()?;
    let name = parts.next()?;
    let month = MONTHS
        .find(name)
        .filter(|at| name.len() == 3 && at % 3 == 0)? as u64
        / 3
        + 1;
    let year: u64 = parts
        .next()?
        .parse()
        .ok()
        .filter(|y| (1970..10_000).contains(y))?;
    let mut clock = parts.next()?.split(':').map(str::parse::<u64>);
    let mut next = || clock.next()?.ok().filter(|n| *n < 61);
    let seconds = next()? * 3600 + next()? * 60 + next()?;
    // Days from civil (Howard Hinnant): years start in March.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day.checked_sub(1)?;
    let days = days.checked_sub(719_468)?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400 + seconds))
}

/// A whole body of at most `max` bytes.
pub(super) async fn read_body(
    mut response: Response,
    url: &str,
    max: u64,
) -> Result<Vec<u8>, Failure> {
    let too_long = || RegistryError::TooLong {
        url: url.to_owned(),
        max,
    };
    if response.content_length().is_some_and(|n| n > max) {
        return Err(too_long().into());
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|e| transport(url, e))? {
        if (body.len() + piece.len()) as u64 > max {
            return Err(too_long().into());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

pub(super) fn transport(url: &str, error: reqwest::Error) -> Failure {
    let again = !error.is_builder();
    // The URL may be a signed one; ours names the request.
    let source = error.without_url();
    let error = RegistryError::Transport {
        url: url.to_owned(),
        attempts: 1,
        source,
    };
    if again {
        Failure::Again(None, error)
    } else {
        Failure::Final(error)
    }
}

pub(super) fn parse_url(text: &str, url: &str) -> Result<Url, RegistryError> {
    Url::parse(text).map_err(|_| RegistryError::Protocol {
        url: url.to_owned(),
        why: "not a URL",
    })
}

pub(super) fn with_attempts(error: RegistryError, attempts: u32) -> RegistryError {
    match error {
        RegistryError::RateLimited { url, .. } => RegistryError::RateLimited { url, attempts },
        RegistryError::Transport { url, source, .. } => RegistryError::Transport {
            url,
            attempts,
            source,
        },
        other => other,
    }
}

/// In [0, 1); only spreads retries, so the clock is random enough.
fn unit_random() -> f64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    f64::from(now.subsec_nanos().wrapping_mul(2_654_435_761) >> 8) / f64::from(1u32 << 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates_are_read() {
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:10 GMT"), Some(at(10)));
        assert_eq!(
            http_date("Tue, 29 Feb 2000 12:00:00 GMT"),
            Some(at(951_825_600))
        );
        assert_eq!(
            http_date("Sat, 21 Nov 2026 15:00:00 GMT"),
            Some(at(1_795_273_200))
        );
        for bad in [
            "",
            "now",
            "Sat, 21 Foo 2026 15:00:00 GMT",
            "Sat, x Nov 2026 1:0:0 GMT",
        ] {
            assert_eq!(http_date(bad), None, "{bad}");
        }
    }
}
