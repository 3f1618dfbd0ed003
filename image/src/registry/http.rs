//! One GET: redirects followed by hand, retries with back-off.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, HeaderName, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, Method, Response, StatusCode};
use url::{Host, Origin, Url};

use super::auth::Authorizer;
use super::{BoxError, RegistryError, RegistryOptions};

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

/// Where requests may end up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The server is this machine: anywhere.
    Local,
    /// The server may be anywhere; where it leads is neither by its text nor by its name this machine.
    Remote,
    /// Nor is the server.
    Guarded,
}

/// Resolves names to addresses that are not this machine's, except those of whom we were told to speak to.
struct Guarded {
    trusted: Vec<String>,
}

impl Guarded {
    /// Proxies may be on this machine, and so may this server.
    fn new(server: Option<&str>) -> Self {
        let variables = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
        let variables = variables.into_iter().map(str::to_owned);
        let proxies = variables
            .flat_map(|name| [name.to_lowercase(), name])
            .filter_map(|name| std::env::var(name).ok())
            .filter_map(|proxy| host_of(&proxy));
        let server = server.map(str::to_lowercase);
        Self {
            trusted: proxies.chain(server).collect(),
        }
    }
}

/// The host of a proxy, which may be written without `http://`.
fn host_of(proxy: &str) -> Option<String> {
    let url = match proxy.contains("://") {
        true => Url::parse(proxy),
        false => Url::parse(&format!("http://{proxy}")),
    };
    Some(url.ok()?.host_str()?.to_lowercase())
}

impl reqwest::dns::Resolve for Guarded {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let is_trusted = self.trusted.contains(&name.as_str().to_lowercase());
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let usable: Vec<_> = found
                .filter(|at| is_trusted || !is_local(at.ip()))
                .collect();
            if usable.is_empty() {
                let why = format!("{} leads to this machine", name.as_str());
                return Err(std::io::Error::other(why).into());
            }
            Ok(Box::new(usable.into_iter()) as reqwest::dns::Addrs)
        })
    }
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
        reach: Reach,
    ) -> Result<Self, RegistryError> {
        let loopback = reach == Reach::Local;
        let mut builder = Client::builder()
            .user_agent(concat!("lamina/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.read_timeout);
        let server = parse_url(base, base)?;
        let guarded = match reach {
            Reach::Local => None,
            Reach::Remote => Some(Guarded::new(server.host_str())),
            Reach::Guarded => Some(Guarded::new(None)),
        };
        builder = match guarded {
            Some(guarded) => builder.dns_resolver(Arc::new(guarded)),
            None => builder.no_proxy(),
        };
        let broken = |source: reqwest::Error| RegistryError::Transport {
            url: base.to_owned(),
            attempts: 0,
            source: source.into(),
        };
        let client = builder.build().map_err(broken)?;
        Ok(Self {
            client,
            origin: server.origin(),
            loopback,
            options,
            authorizer,
        })
    }

    /// Asks for `url` and reads the answer with `read`, trying again while that
    /// may help.
    pub(super) async fn retried<T>(
        &self,
        method: Method,
        url: &str,
        headers: &[(HeaderName, String)],
        read: impl AsyncFn(Response) -> Result<T, Failure>,
    ) -> Result<T, RegistryError> {
        let mut attempt = 1;
        loop {
            let result = match self.once(&method, url, headers).await {
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
                    self.pause(attempt, wait, error).await?;
                }
            }
            attempt += 1;
        }
    }

    /// Waits before try `attempt + 1`, at least as long as the server asked for.
    ///
    /// # Errors
    /// When that is longer than is waited for here: asking too early makes it longer for everybody, and whoever wants the
    /// answer knows better whether to come back then. `error` is what came of this try.
    pub(super) async fn pause(
        &self,
        attempt: u32,
        asked: Option<Duration>,
        error: RegistryError,
    ) -> Result<(), RegistryError> {
        let asked = asked.unwrap_or_default();
        if asked > self.options.backoff_max {
            return Err(not_before(error, asked));
        }
        let doubled = self
            .options
            .backoff
            .saturating_mul(1 << (attempt - 1).min(16));
        // Half of it at random, so that many nodes do not come back at once.
        let wait = doubled / 2 + (doubled / 2).mul_f64(unit_random());
        tokio::time::sleep(wait.min(self.options.backoff_max).max(asked)).await;
        Ok(())
    }

    /// One request with redirects and, once, a fresh token. Only the registry itself is answered who we are: where a
    /// redirect led to could ask for its credentials on behalf of any realm.
    pub(super) async fn once(
        &self,
        method: &Method,
        url: &str,
        headers: &[(HeaderName, String)],
    ) -> Result<Response, Failure> {
        let mut response = self.follow(method, url, headers).await?;
        let is_ours = response.url().origin() == self.origin;
        if is_ours && response.status() == StatusCode::UNAUTHORIZED {
            let challenge = response
                .headers()
                .get_all(WWW_AUTHENTICATE)
                .iter()
                .filter_map(|v| v.to_str().ok())
                .collect::<Vec<_>>()
                .join(", ");
            self.authorizer.answer(self, url, &challenge).await?;
            response = self.follow(method, url, headers).await?;
        }
        judge(response, url)
    }

    async fn follow(
        &self,
        method: &Method,
        url: &str,
        headers: &[(HeaderName, String)],
    ) -> Result<Response, Failure> {
        let mut at = parse_url(url, url)?;
        for _ in 0..=REDIRECTS_MAX {
            let authorization = match at.origin() == self.origin {
                true => self.authorizer.header().await,
                false => None,
            };
            let response = self.send(method, &at, url, headers, authorization).await?;
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
        method: &Method,
        at: &Url,
        url: &str,
        headers: &[(HeaderName, String)],
        authorization: Option<String>,
    ) -> Result<Response, Failure> {
        let mut request = self.client.request(method.clone(), at.clone());
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
        if is_this_machine(next) {
            Err("its target is this machine")
        } else {
            Ok(())
        }
    }
}

/// Whether a URL's host says that it is this machine or its metadata service.
pub(super) fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => is_local(ip.into()),
        Some(Host::Ipv6(ip)) => is_local(ip.into()),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => true,
    }
}

/// Whether an address is this machine's or its metadata service's.
pub(super) fn is_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
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
    let day: u64 = parts
        .next()?
        .parse()
        .ok()
        .filter(|day| (1..=31).contains(day))?;
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
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    let since_1970 = days.checked_sub(719_468)? * 86_400 + seconds;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since_1970))
}

pub(super) fn transport(url: &str, error: reqwest::Error) -> Failure {
    let again = !error.is_builder();
    // The URL may be a signed one; ours names the request.
    match unanswered(url, error.without_url()) {
        Failure::Again(_, error) if !again => Failure::Final(error),
        failure => failure,
    }
}

/// No answer of use came, and may the next time.
pub(super) fn unanswered(url: &str, why: impl Into<BoxError>) -> Failure {
    let error = RegistryError::Transport {
        url: url.to_owned(),
        attempts: 1,
        source: why.into(),
    };
    Failure::Again(None, error)
}

pub(super) fn parse_url(text: &str, url: &str) -> Result<Url, RegistryError> {
    Url::parse(text).map_err(|_| RegistryError::Protocol {
        url: url.to_owned(),
        why: "not a URL",
    })
}

fn not_before(error: RegistryError, wait: Duration) -> RegistryError {
    match error {
        RegistryError::RateLimited { url, .. } => RegistryError::NotBefore {
            url,
            status: StatusCode::TOO_MANY_REQUESTS.as_u16(),
            wait,
        },
        RegistryError::Status { url, status } => RegistryError::NotBefore { url, status, wait },
        other => other,
    }
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

    fn fetcher(reach: Reach) -> Fetcher {
        let nobody = Authorizer::new(super::super::Credentials::Anonymous, String::new());
        Fetcher::new("https://a.io/x", RegistryOptions::default(), nobody, reach)
            .ok()
            .unwrap()
    }

    #[test]
    fn redirects_never_lead_from_outside_to_this_machine() {
        let hop = |reach, from: &str, to: &str| {
            let (from, to) = (Url::parse(from).unwrap(), Url::parse(to).unwrap());
            fetcher(reach).check_hop(&from, &to)
        };
        for here in [
            "http://169.254.169.254/latest",
            "http://127.0.0.1:1/x",
            "http://[::1]/x",
            "http://[fe80::1]/x",
            "http://[::ffff:169.254.169.254]/x",
            "http://0.0.0.0/x",
            "http://localhost/x",
            "http://a.localhost/x",
        ] {
            for reach in [Reach::Remote, Reach::Guarded] {
                assert!(hop(reach, "http://b.io/", here).is_err(), "{here}");
            }
            assert!(
                hop(Reach::Local, "http://127.0.0.1/", here).is_ok(),
                "{here}"
            );
        }
        assert!(hop(Reach::Guarded, "https://b.io/", "http://c.io/").is_err());
        assert!(hop(Reach::Guarded, "https://b.io/", "https://10.0.0.1/").is_ok());
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_asked_only_if_it_was_given_to_us() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!(
            "http://localhost:{}/x",
            listener.local_addr().unwrap().port()
        );
        let (parsed, nobody) = (Url::parse(&url).unwrap(), || {
            Authorizer::new(super::super::Credentials::Anonymous, String::new())
        });
        let impatient = RegistryOptions {
            read_timeout: Duration::from_millis(200),
            ..RegistryOptions::default()
        };
        for (server, reach, is_asked) in [
            ("http://a.io/x", Reach::Remote, false),
            ("http://a.io/x", Reach::Guarded, false),
            (url.as_str(), Reach::Guarded, false),
            (url.as_str(), Reach::Remote, true),
        ] {
            let fetcher = Fetcher::new(server, impatient.clone(), nobody(), reach);
            let fetcher = fetcher.ok().unwrap();
            // It says nothing, in any case.
            let sent = fetcher.send(&Method::GET, &parsed, &url, &[], None).await;
            assert!(sent.is_err());
            assert_eq!(listener.accept().is_ok(), is_asked, "{server} {reach:?}");
        }
    }

    #[test]
    fn proxies_are_known_by_their_hosts() {
        for (proxy, host) in [
            ("http://Proxy.local:3128", Some("proxy.local")),
            ("socks5h://me:secret@localhost:1080/", Some("localhost")),
            ("localhost:3128", Some("localhost")),
            ("", None),
        ] {
            assert_eq!(host_of(proxy).as_deref(), host, "{proxy}");
        }
    }

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
            "Sat, 0 Nov 2026 15:00:00 GMT",
            "Sat, 32 Nov 2026 15:00:00 GMT",
            // More days than a time can hold: adding them panicked.
            "Sat, 110000000000000 Nov 2026 15:00:00 GMT",
        ] {
            assert_eq!(http_date(bad), None, "{bad}");
        }
    }
}
