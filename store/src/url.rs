//! Store URLs: parsed once into a type that cannot be wrong.
//!
//! ```text
//! dir:///srv/packs                        a folder (also a plain path: /srv/packs, ./packs)
//! s3://bucket/prefix?endpoint=&region=    S3 and what speaks it
//! gs://bucket/prefix                      Google Cloud Storage
//! az://container/prefix?account=          Azure Blob Storage
//! http(s)://host/path                     read-only
//! oci://host/repository                   an OCI registry
//! ```
//! `USER:PASSWORD@` before the host and `?credentials=FILE` carry secrets. [`std::fmt::Display`] never
//! shows a password; [`StoreUrl::expose`] does, for the one caller that was told to keep it.

mod parse;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use url::Url;

/// Why a text is not a store URL. Texts in it are free of passwords.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreUrlError {
    /// Nothing there.
    #[error("empty store URL: expected one like dir:///srv/packs or s3://bucket/prefix")]
    Empty,
    /// No `scheme://`.
    #[error(
        "store URL {0:?} has no scheme: expected dir://, s3://, gs://, az://, http(s):// or oci://"
    )]
    NoScheme(String),
    /// A scheme no store has.
    #[error("unknown store scheme {0:?}: expected dir, s3, gs, az, http, https or oci")]
    UnknownScheme(String),
    /// Not a URL at all.
    #[error("store URL {url:?} cannot be parsed: {reason}")]
    Malformed {
        /// The URL, redacted.
        url: String,
        /// What the parser said.
        reason: String,
    },
    /// Bucket, container, host or repository is missing or misspelt.
    #[error("store URL {url:?}: {what}")]
    BadPlace {
        /// The URL, redacted.
        url: String,
        /// What is wrong, naming the part.
        what: String,
    },
    /// `?key=` this scheme does not have.
    #[error("store URL {url:?}: unknown option {option:?}; {scheme} has {valid}")]
    UnknownOption {
        /// The URL, redacted.
        url: String,
        /// The option.
        option: String,
        /// The URL's scheme.
        scheme: &'static str,
        /// The options there are.
        valid: String,
    },
    /// An option given twice or with a value that means nothing.
    #[error("store URL {url:?}: option {option:?} {what}")]
    BadOption {
        /// The URL, redacted.
        url: String,
        /// The option.
        option: String,
        /// What is wrong with it.
        what: String,
    },
    /// The part before `=` is not a range of first bytes.
    #[error("shard range {0:?} is not like 00-7f (two hex digits, first not above last)")]
    BadRange(String),
}

/// Which cloud an object store belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cloud {
    /// Amazon S3 and compatible servers.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
}

/// A bucket in an object store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BucketUrl {
    /// Whose protocol.
    pub cloud: Cloud,
    /// Bucket or container.
    pub bucket: String,
    /// Folder inside it, without slashes at the ends; may be empty.
    pub prefix: String,
    /// Server to talk to instead of the cloud's own.
    pub endpoint: Option<Url>,
    /// Region (S3).
    pub region: Option<String>,
    /// Storage account (Azure).
    pub account: Option<String>,
    /// Plain HTTP allowed to an endpoint that is not loopback.
    pub allow_http: bool,
    /// Send unsigned requests.
    pub anonymous: bool,
}

/// A repository in an OCI registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepositoryUrl {
    /// `host` or `host:port`.
    pub host: String,
    /// Repository, e.g. `team/packs`.
    pub repository: String,
    /// Plain HTTP allowed although the host is not loopback.
    pub insecure: bool,
}

impl RepositoryUrl {
    /// Whether the registry is on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let port = |(_, port): &(&str, &str)| port.bytes().all(|b| b.is_ascii_digit());
        let parts = self.host.rsplit_once(':').filter(port);
        is_loopback(parts.map_or(self.host.as_str(), |(host, _)| host))
    }
}

/// Where the objects are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// A folder, absolute.
    Dir(PathBuf),
    /// A bucket.
    Bucket(BucketUrl),
    /// A web folder, without user or query; the path has no slash at its end.
    Http(Url),
    /// A registry's repository.
    Oci(RepositoryUrl),
}

/// Secrets that came with a URL.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct UrlCredentials {
    /// User, access key id or account.
    pub user: Option<String>,
    /// Password, secret key or account key.
    pub password: Option<String>,
    /// File to read credentials from.
    pub file: Option<PathBuf>,
}

impl fmt::Debug for UrlCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UrlCredentials")
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("file", &self.file)
            .finish()
    }
}

/// A store's URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoreUrl {
    place: Place,
    credentials: UrlCredentials,
}

impl StoreUrl {
    /// A folder. A relative path is taken from the current directory.
    pub fn dir(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let root = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self {
            place: Place::Dir(root),
            credentials: UrlCredentials::default(),
        }
    }

    /// Where the objects are.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Secrets given in the URL.
    pub fn credentials(&self) -> &UrlCredentials {
        &self.credentials
    }

    /// Whether stores of this kind can be written to.
    pub fn writable(&self) -> bool {
        !matches!(self.place, Place::Http(_))
    }

    /// The same place without user, password and credentials file: what is written into a flist.
    #[must_use]
    pub fn strip_credentials(&self) -> Self {
        Self {
            place: self.place.clone(),
            credentials: UrlCredentials::default(),
        }
    }

    /// The whole URL, password included.
    pub fn expose(&self) -> String {
        self.render(
            self.credentials
                .password
                .as_deref()
                .map(parse::encode_userinfo),
        )
    }

    fn render(&self, password: Option<String>) -> String {
        let mut userinfo = String::new();
        if let Some(user) = &self.credentials.user {
            userinfo = parse::encode_userinfo(user);
            if let Some(password) = password {
                userinfo = format!("{userinfo}:{password}");
            }
            userinfo.push('@');
        }
        let mut query = parse::Query::default();
        let mut text = match &self.place {
            Place::Dir(root) => format!("dir://{}", parse::encode_path(root.as_os_str())),
            Place::Http(base) => {
                let (scheme, rest) = base.as_str().split_once("://").unwrap_or(("http", ""));
                format!("{scheme}://{userinfo}{}", rest.trim_end_matches('/'))
            }
            Place::Oci(repo) => {
                query.flag("insecure", repo.insecure);
                format!("oci://{userinfo}{}/{}", repo.host, repo.repository)
            }
            Place::Bucket(bucket) => {
                query.value(
                    "endpoint",
                    bucket
                        .endpoint
                        .as_ref()
                        .map(|url| url.as_str().trim_end_matches('/')),
                );
                query.value("region", bucket.region.as_deref());
                query.value("account", bucket.account.as_deref());
                query.flag("allow_http", bucket.allow_http);
                query.flag("anonymous", bucket.anonymous);
                let slash = if bucket.prefix.is_empty() { "" } else { "/" };
                let prefix = parse::encode_path(bucket.prefix.as_ref());
                format!(
                    "{}://{userinfo}{}{slash}{prefix}",
                    bucket.cloud.scheme(),
                    bucket.bucket
                )
            }
        };
        query.path("credentials", self.credentials.file.as_deref());
        text.push_str(&query.finish());
        text
    }
}

impl Cloud {
    fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(self.credentials.password.as_ref().map(|_| "***".to_owned())))
    }
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        parse::parse(text)
    }
}

/// Whether a host name or address means this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.to_ascii_lowercase().ends_with(".localhost")
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// `text` with anything that may be a password replaced.
pub fn redact(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + 3);
    // Whatever a password holds unencoded ('/', '?', '@'), it ends before the last '@'; so does one in
    // an option. The text may lose something harmless, but shows no part of a password.
    match text[start..].rfind('@') {
        Some(at) => format!("{}***{}", &text[..start], &text[start + at..]),
        None => text.to_owned(),
    }
}
