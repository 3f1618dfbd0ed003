//! A file from any web server, as a stream for a blocking reader.
//!
//! The server is not trusted and neither is who named it: redirects are followed as for registries, and,
//! unless the URL itself is this machine's, no redirect and no name leads to this machine or its metadata
//! service. A transfer that breaks off is an error: without a digest nobody could tell that the rest
//! belongs to the same file.

use reqwest::{Method, Response};
use tokio::runtime::Handle;
use url::Url;

use super::auth::Authorizer;
use super::blob::BlobReader;
use super::body::Body;
use super::credentials::Credentials;
use super::http::{Fetcher, Reach, is_local, is_this_machine, parse_url};
use super::{RegistryError, RegistryOptions};

/// A download that has begun.
pub struct Download {
    /// The bytes; blocks, for threads.
    pub reader: BlobReader,
    /// How many, if the server says.
    pub len: Option<u64>,
    /// The URL as it may be shown: no password and no signed query.
    pub shown: String,
}

/// Begins to fetch `url`, of which at most `max` bytes are read.
///
/// # Errors
/// When it is no http(s) URL, or the server does not give it.
pub async fn download(
    url: &str,
    max: u64,
    options: &RegistryOptions,
    handle: &Handle,
) -> Result<Download, RegistryError> {
    let parsed = parse_url(url, "the archive's URL")?;
    let shown = without_secrets(&parsed);
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(RegistryError::Protocol {
            url: shown,
            why: "neither http nor https",
        });
    }
    let reach = match is_this_machine(&parsed) || resolves_here(&parsed).await {
        true => Reach::Local,
        false => Reach::Guarded,
    };
    let nobody = Authorizer::new(Credentials::Anonymous, String::new());
    let fetcher = Fetcher::new(&shown, options.clone(), nobody, reach)?;
    let response = fetcher
        .retried(Method::GET, url, &[], async |response: Response| {
            Ok(response)
        })
        .await
        .map_err(|error| error.about(&shown))?;
    let len = response.content_length();
    if len.is_some_and(|len| len > max) {
        return Err(RegistryError::TooLong { url: shown, max });
    }
    let body = Body::new(response, options);
    let reader = BlobReader::of_body(body, shown.clone(), max, handle);
    Ok(Download { reader, len, shown })
}

/// The URL as it may be shown and recorded.
fn without_secrets(url: &Url) -> String {
    let mut url = url.clone();
    // These fail only where there is no host, hence nothing to hide.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// What cannot be resolved is not here; the request will say so.
async fn resolves_here(url: &Url) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    match tokio::net::lookup_host((host.trim_matches(['[', ']']), 0)).await {
        Ok(mut found) => found.any(|at| is_local(at.ip())),
        Err(_) => false,
    }
}
