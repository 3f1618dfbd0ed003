//! A registry as far as pulling needs it: manifests, and blobs as streams.
//!
//! Plain reqwest instead of oci-client, which neither resumes a broken blob
//! nor obeys `Retry-After`, and follows redirects with its headers on.
//! Always: credentials go to the registry's own origin and to the token server
//! it names, never to where a redirect leads; https never becomes http; every
//! body is read against a bound and a lowest speed; every wait has a deadline
//! and every retry a budget.

mod auth;
mod blob;
mod body;
pub mod credentials;
mod download;
mod http;

use std::sync::Arc;
use std::time::Duration;

use lamina_flist::Sha256Digest;
use reqwest::Method;

use crate::layer::BoxError;
use crate::limits::Limits;
use crate::manifest::{MANIFEST_TYPES, ManifestError};
use crate::reference::ImageRef;
use auth::Authorizer;
pub use blob::BlobReader;
use body::read_document;
pub use credentials::{CredentialError, CredentialSource, Credentials, GivenConfig};
pub use download::{Download, download};
use http::{Fetcher, Reach};

/// How to talk to registries.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Who to be.
    pub credentials: CredentialSource,
    /// Speak plain http to this registry even if it is not this machine.
    pub insecure: bool,
    /// To connect.
    pub connect_timeout: Duration,
    /// Between two pieces of an answer.
    pub read_timeout: Duration,
    /// How long a body may trickle, waits between its pieces taken together; it is asked for anew then.
    pub slow_after: Duration,
    /// For the whole body of a manifest, a config or a token.
    pub document_timeout: Duration,
    /// Tries for one request, the first included.
    pub attempts: u32,
    /// Wait before the second try; doubles from there.
    pub backoff: Duration,
    /// Longest wait between tries. A server that wants to be left alone for longer (`Retry-After`) is not asked again:
    /// [`RegistryError::NotBefore`].
    pub backoff_max: Duration,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            credentials: CredentialSource::default(),
            insecure: false,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            slow_after: Duration::from_secs(60),
            // 7 MB on a line of 1 Mbit/s; they have kilobytes.
            document_timeout: Duration::from_secs(60),
            attempts: 6,
            backoff: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
        }
    }
}

/// Why a registry did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It has no such thing.
    #[error("{url}: not found")]
    NotFound {
        /// What was asked for.
        url: String,
    },
    /// It wants other credentials.
    #[error("{url}: access denied ({status})")]
    Denied {
        /// What was asked for.
        url: String,
        /// 401 or 403.
        status: u16,
    },
    /// It is overloaded and said so until the budget was used up.
    #[error("{url}: too many requests, {attempts} tries")]
    RateLimited {
        /// What was asked for.
        url: String,
        /// Tries made.
        attempts: u32,
    },
    /// It wants to be left alone for longer than is waited for.
    #[error("{url}: the server answered {status} and wants to be asked again in {} s, not before", .wait.as_secs())]
    NotBefore {
        /// What was asked for.
        url: String,
        /// The status code.
        status: u16,
        /// How long.
        wait: Duration,
    },
    /// It answered with another error.
    #[error("{url}: the server answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status code.
        status: u16,
    },
    /// It cannot be reached, stopped answering, or sends next to nothing.
    #[error("{url}: no usable answer after {attempts} tries")]
    Transport {
        /// What was asked for.
        url: String,
        /// Tries made.
        attempts: u32,
        /// The last failure.
        source: BoxError,
    },
    /// An answer without end, or longer than announced.
    #[error("{url}: the answer has more than {max} bytes")]
    TooLong {
        /// What was asked for.
        url: String,
        /// Bytes expected or allowed.
        max: u64,
    },
    /// It kept ending a blob early.
    #[error("{url}: ends at byte {have} of {size}, {attempts} tries")]
    Short {
        /// What was asked for.
        url: String,
        /// Bytes received.
        have: u64,
        /// Bytes announced.
        size: u64,
        /// Tries made.
        attempts: u32,
    },
    /// Its answer breaks the protocol.
    #[error("{url}: {why}")]
    Protocol {
        /// What was asked for.
        url: String,
        /// How.
        why: &'static str,
    },
    /// A redirect that is not followed.
    #[error("{url}: redirect refused: {why}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Why.
        why: &'static str,
    },
    /// Our side of the authentication.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// What it gave is not what was asked for.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl RegistryError {
    /// The same with another URL in its text, one without secrets.
    fn about(mut self, shown: &str) -> Self {
        match &mut self {
            Self::NotFound { url }
            | Self::Denied { url, .. }
            | Self::RateLimited { url, .. }
            | Self::NotBefore { url, .. }
            | Self::Status { url, .. }
            | Self::Transport { url, .. }
            | Self::TooLong { url, .. }
            | Self::Short { url, .. }
            | Self::Protocol { url, .. }
            | Self::Redirect { url, .. } => shown.clone_into(url),
            Self::Credentials(_) | Self::Manifest(_) => {}
        }
        self
    }
}

/// A manifest as served.
#[derive(Debug, Clone)]
pub struct Served {
    /// The document.
    pub bytes: Vec<u8>,
    /// What the server calls it.
    pub content_type: Option<String>,
}

/// One repository of one registry.
#[derive(Clone)]
pub struct Registry {
    fetcher: Arc<Fetcher>,
    base: String,
}

impl Registry {
    /// A client for `reference`'s repository; contacts nothing.
    ///
    /// # Errors
    /// When credentials or TLS cannot be set up.
    pub async fn open(
        reference: &ImageRef,
        options: &RegistryOptions,
    ) -> Result<Self, RegistryError> {
        let plain = options.insecure || reference.is_loopback();
        let scheme = if plain { "http" } else { "https" };
        let base = format!(
            "{scheme}://{}/v2/{}",
            reference.api_host(),
            reference.repository()
        );
        let credentials = options.credentials.find(reference.registry()).await?;
        let scope = format!("repository:{}:pull", reference.repository());
        let authorizer = Authorizer::new(credentials, scope);
        let reach = match reference.is_loopback() {
            true => Reach::Local,
            false => Reach::Remote,
        };
        let fetcher = Fetcher::new(&base, options.clone(), authorizer, reach)?;
        Ok(Self {
            fetcher: Arc::new(fetcher),
            base,
        })
    }

    /// The manifest or index for a tag or digest, unchecked.
    ///
    /// # Errors
    /// When the registry does not give it.
    pub async fn manifest(&self, selector: &str, limits: &Limits) -> Result<Served, RegistryError> {
        let url = format!("{}/manifests/{selector}", self.base);
        let accept = MANIFEST_TYPES.join(", ");
        let headers = vec![(reqwest::header::ACCEPT, accept)];
        let max = limits.manifest_bytes_max;
        self.fetcher
            .retried(
                Method::GET,
                &url,
                &headers,
                async |response: reqwest::Response| {
                    let content_type = response
                        .headers()
                        .get(reqwest::header::CONTENT_TYPE)
                        .and_then(|v| v.to_str().ok())
                        .map(str::to_owned);
                    Ok(Served {
                        bytes: read_document(response, &url, max, &self.fetcher.options).await?,
                        content_type,
                    })
                },
            )
            .await
    }

    /// The digest a tag or digest stands for, without fetching the manifest; `None` from a registry that
    /// does not say. Success also says that the caller's credentials may have it.
    ///
    /// # Errors
    /// When the registry refuses or has no such thing.
    pub async fn head(&self, selector: &str) -> Result<Option<Sha256Digest>, RegistryError> {
        let url = format!("{}/manifests/{selector}", self.base);
        let headers = vec![(reqwest::header::ACCEPT, MANIFEST_TYPES.join(", "))];
        self.fetcher
            .retried(
                Method::HEAD,
                &url,
                &headers,
                async |response: reqwest::Response| {
                    let digest = response.headers().get("docker-content-digest");
                    Ok(digest.and_then(|value| value.to_str().ok()?.parse().ok()))
                },
            )
            .await
    }

    /// A small blob whole; the caller checks it.
    ///
    /// # Errors
    /// When the registry does not give it, or gives more than `size` bytes.
    pub async fn small_blob(
        &self,
        digest: &lamina_flist::Sha256Digest,
        size: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let url = self.blob_url(digest);
        self.fetcher
            .retried(Method::GET, &url, &[], async |response| {
                read_document(response, &url, size, &self.fetcher.options).await
            })
            .await
    }

    /// A blob as a stream for a blocking reader; resumes by itself.
    pub fn blob(
        &self,
        digest: &lamina_flist::Sha256Digest,
        size: u64,
        handle: &tokio::runtime::Handle,
    ) -> BlobReader {
        BlobReader::start(
            Arc::clone(&self.fetcher),
            self.blob_url(digest),
            size,
            handle,
        )
    }

    fn blob_url(&self, digest: &lamina_flist::Sha256Digest) -> String {
        format!("{}/blobs/{digest}", self.base)
    }
}
