//! Text to [`StoreUrl`] and the encodings both ways. Pure.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use url::Url;

use super::{
    BucketUrl, Cloud, Place, RepositoryUrl, StoreUrl, StoreUrlError, UrlCredentials, is_loopback,
    redact,
};

type Result<T> = std::result::Result<T, StoreUrlError>;

pub(super) fn parse(text: &str) -> Result<StoreUrl> {
    let text = text.trim();
    if text.is_empty() {
        return Err(StoreUrlError::Empty);
    }
    if text.chars().any(char::is_control) {
        let reason = "control characters".to_owned();
        return Err(StoreUrlError::Malformed {
            url: redact(text).escape_debug().to_string(),
            reason,
        });
    }
    if text == "." || text == ".." || ["/", "./", "../"].iter().any(|p| text.starts_with(p)) {
        return Ok(StoreUrl::dir(text));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(StoreUrlError::NoScheme(redact(text)));
    };
    match scheme.to_ascii_lowercase().as_str() {
        "dir" => parse_dir(text, rest),
        "s3" => parse_bucket(Parts::new(text)?, Cloud::S3),
        "gs" => parse_bucket(Parts::new(text)?, Cloud::Gs),
        "az" => parse_bucket(Parts::new(text)?, Cloud::Az),
        "http" | "https" => parse_http(Parts::new(text)?),
        "oci" => parse_oci(Parts::new(text)?),
        other => Err(StoreUrlError::UnknownScheme(redact(other))),
    }
}

/// A URL taken apart: every option must be taken before `done`.
struct Parts {
    text: String,
    url: Url,
    options: Vec<(String, String)>,
    credentials: UrlCredentials,
}

impl Parts {
    fn new(text: &str) -> Result<Self> {
        let malformed = |reason: String| StoreUrlError::Malformed {
            url: redact(text),
            reason,
        };
        let url = Url::parse(text).map_err(|e| malformed(e.to_string()))?;
        if url.fragment().is_some() {
            return Err(malformed("'#' must be written %23".into()));
        }
        let options: Vec<_> = url
            .query_pairs()
            .map(|(k, v)| (k.into_owned(), v.into_owned()))
            .collect();
        let mut credentials = UrlCredentials::default();
        if !url.username().is_empty() {
            credentials.user = Some(
                decode_text(url.username()).ok_or_else(|| malformed("user is not text".into()))?,
            );
        }
        if let Some(password) = url.password() {
            credentials.password = Some(
                decode_text(password).ok_or_else(|| malformed("password is not text".into()))?,
            );
        }
        if credentials.password.is_some() && credentials.user.is_none() {
            return Err(malformed("a password needs a user before it".into()));
        }
        let mut parts = Self {
            text: text.to_owned(),
            url,
            options,
            credentials,
        };
        parts.credentials.file = parts.take("credentials")?.map(PathBuf::from);
        Ok(parts)
    }

    fn bad_place(&self, what: impl Into<String>) -> StoreUrlError {
        StoreUrlError::BadPlace {
            url: redact(&self.text),
            what: what.into(),
        }
    }

    fn bad_option(&self, option: &str, what: impl Into<String>) -> StoreUrlError {
        StoreUrlError::BadOption {
            url: redact(&self.text),
            option: option.to_owned(),
            what: what.into(),
        }
    }

    fn take(&mut self, option: &str) -> Result<Option<String>> {
        let Some(at) = self.options.iter().position(|(k, _)| k == option) else {
            return Ok(None);
        };
        let (_, value) = self.options.remove(at);
        if self.options.iter().any(|(k, _)| k == option) {
            return Err(self.bad_option(option, "is given twice"));
        }
        if value.chars().any(char::is_control) {
            return Err(self.bad_option(option, "has control characters"));
        }
        if value.is_empty() {
            Ok(None)
        } else {
            Ok(Some(value))
        }
    }

    fn take_flag(&mut self, option: &str) -> Result<bool> {
        let present = self.options.iter().any(|(k, _)| k == option);
        match self.take(option)?.as_deref() {
            None => Ok(present), // "?insecure"
            Some("true" | "1" | "yes") => Ok(true),
            Some("false" | "0" | "no") => Ok(false),
            Some(_) => Err(self.bad_option(option, "must be true or false")),
        }
    }

    fn take_endpoint(&mut self, allow_http: bool) -> Result<Option<Url>> {
        let Some(value) = self.take("endpoint")? else {
            return Ok(None);
        };
        let fail = |what: &str| self.bad_option("endpoint", what);
        let url = Url::parse(&value).map_err(|e| fail(&format!("is not a URL: {e}")))?;
        let host = url.host_str().unwrap_or_default();
        if !matches!(url.scheme(), "http" | "https") || host.is_empty() {
            return Err(fail("must be http://host[:port] or https://host[:port]"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(fail(
                "must not hold credentials; put them before the bucket: s3://KEY:SECRET@bucket",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(fail("must not have '?' or '#'"));
        }
        if url.scheme() == "http" && !allow_http && !is_loopback(host) {
            return Err(fail(
                "is plain http: add allow_http=true to send data in the clear",
            ));
        }
        Ok(Some(url))
    }

    fn done(mut self, place: Place, scheme: &'static str, valid: &str) -> Result<StoreUrl> {
        match self.options.pop() {
            None => Ok(StoreUrl {
                place,
                credentials: self.credentials,
            }),
            Some((option, _)) => {
                let valid = if valid.is_empty() {
                    "credentials".into()
                } else {
                    format!("{valid}, credentials")
                };
                Err(StoreUrlError::UnknownOption {
                    url: redact(&self.text),
                    option: redact(&option),
                    scheme,
                    valid,
                })
            }
        }
    }
}

fn parse_dir(text: &str, rest: &str) -> Result<StoreUrl> {
    let bad = |what: &str| StoreUrlError::BadPlace {
        url: redact(text),
        what: what.to_owned(),
    };
    if rest.contains(['?', '#']) {
        return Err(bad(
            "dir:// has no options; write '?' and '#' in a path as %3F and %23",
        ));
    }
    let bytes = decode(rest).ok_or_else(|| bad("'%' must be followed by two hex digits"))?;
    if bytes.is_empty() {
        return Err(bad("the folder is missing: dir:///srv/packs"));
    }
    if bytes.contains(&0) {
        return Err(bad("a path cannot hold NUL"));
    }
    Ok(StoreUrl::dir(OsString::from_vec(bytes)))
}

fn parse_bucket(mut parts: Parts, cloud: Cloud) -> Result<StoreUrl> {
    let bucket = parts.url.host_str().unwrap_or_default().to_owned();
    if bucket.is_empty() {
        return Err(parts.bad_place("the bucket is missing"));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !bucket.chars().all(fits) || bucket.len() > 255 {
        return Err(parts.bad_place("a bucket is letters, digits, '.', '-' and '_'"));
    }
    if parts.url.port().is_some() {
        return Err(
            parts.bad_place("a bucket has no port; name a server with endpoint=http://host:port")
        );
    }
    let prefix = decode_text(parts.url.path().trim_matches('/'))
        .filter(|p| p.is_empty() || !p.split('/').any(|s| s.is_empty() || s == "." || s == ".."))
        .ok_or_else(|| {
            parts.bad_place("the prefix must be text without empty, '.' or '..' parts")
        })?;
    if prefix.chars().any(char::is_control) {
        return Err(parts.bad_place("the prefix has control characters"));
    }
    let allow_http = parts.take_flag("allow_http")?;
    let anonymous = parts.take_flag("anonymous")?;
    let endpoint = parts.take_endpoint(allow_http)?;
    let region = if cloud == Cloud::S3 {
        parts.take("region")?
    } else {
        None
    };
    let account = if cloud == Cloud::Az {
        parts.take("account")?
    } else {
        None
    };
    if cloud == Cloud::Gs && parts.credentials.user.is_some() {
        return Err(
            parts.bad_place("gs:// takes credentials=FILE (a service account key), not a user")
        );
    }
    let place = BucketUrl {
        cloud,
        bucket,
        prefix,
        endpoint,
        region,
        account,
        allow_http,
        anonymous,
    };
    let valid = match cloud {
        Cloud::S3 => "endpoint, region, allow_http, anonymous",
        Cloud::Gs => "endpoint, allow_http, anonymous",
        Cloud::Az => "account, endpoint, allow_http, anonymous",
    };
    parts.done(Place::Bucket(place), cloud.scheme(), valid)
}

fn parse_http(parts: Parts) -> Result<StoreUrl> {
    if parts.url.host_str().unwrap_or_default().is_empty() {
        return Err(parts.bad_place("the host is missing"));
    }
    let mut base = parts.url.clone();
    base.set_query(None);
    // Cannot fail: an http URL with a host always takes both.
    let _ = base.set_username("");
    let _ = base.set_password(None);
    let path = base.path().trim_end_matches('/').to_owned();
    base.set_path(&path);
    let scheme = if base.scheme() == "http" {
        "http"
    } else {
        "https"
    };
    parts.done(Place::Http(base), scheme, "")
}

fn parse_oci(mut parts: Parts) -> Result<StoreUrl> {
    let host = parts
        .url
        .host_str()
        .unwrap_or_default()
        .to_ascii_lowercase();
    if host.is_empty() {
        return Err(parts.bad_place("the registry is missing: oci://host[:port]/repository"));
    }
    let fits =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if !host.chars().all(fits) {
        return Err(parts.bad_place("the registry's host name has a character no host has"));
    }
    let repository = parts.url.path().trim_matches('/').to_owned();
    if !is_repository(&repository) {
        return Err(parts.bad_place(
            "the repository must be lower-case parts of letters, digits, '.', '_' and '-', with '/' between",
        ));
    }
    let insecure = parts.take_flag("insecure")?;
    let host = match parts.url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host,
    };
    parts.done(
        Place::Oci(RepositoryUrl {
            host,
            repository,
            insecure,
        }),
        "oci",
        "insecure",
    )
}

/// The grammar of the OCI distribution spec, "Pulling manifests".
fn is_repository(name: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let part_fits = |part: &str| {
        let bytes = part.as_bytes();
        let ends =
            bytes.first().is_some_and(|b| alnum(*b)) && bytes.last().is_some_and(|b| alnum(*b));
        ends && bytes
            .iter()
            .all(|b| alnum(*b) || matches!(b, b'.' | b'_' | b'-'))
            && !part.contains("..")
    };
    !name.is_empty() && name.len() <= 255 && name.split('/').all(part_fits)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let mut value = [0];
            hex::decode_to_slice(tail.get(..2)?, &mut value).ok()?;
            out.push(value[0]);
            rest = &tail[2..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    Some(out)
}

fn decode_text(text: &str) -> Option<String> {
    String::from_utf8(decode(text)?).ok()
}

fn encode(bytes: &[u8], plain: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') || plain(byte)
        {
            out.push(byte as char);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

pub(super) fn encode_userinfo(text: &str) -> String {
    encode(text.as_bytes(), |_| false)
}

pub(super) fn encode_path(path: &OsStr) -> String {
    encode(path.as_bytes(), |b| {
        matches!(b, b'/' | b'+' | b'=' | b',' | b':' | b'@')
    })
}

/// Builds `?a=b&c=true`, leaving out what is not set.
#[derive(Default)]
pub(super) struct Query(String);

impl Query {
    pub(super) fn value(&mut self, option: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.push(
                option,
                &encode(value.as_bytes(), |b| matches!(b, b'/' | b':')),
            );
        }
    }

    pub(super) fn flag(&mut self, option: &str, set: bool) {
        if set {
            self.push(option, "true");
        }
    }

    pub(super) fn path(&mut self, option: &str, path: Option<&Path>) {
        if let Some(path) = path {
            self.push(option, &encode(path.as_os_str().as_bytes(), |b| b == b'/'));
        }
    }

    fn push(&mut self, option: &str, encoded: &str) {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(option);
        self.0.push('=');
        self.0.push_str(encoded);
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}
