//! What the stores that speak HTTP share: the client, bounded bodies, and what a status means.

use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response, StatusCode};

use crate::error::{ErrorKind, Result, StoreError};

/// A server that does not even accept a connection in this time is down.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Redirects followed; registries use one, mirrors two.
const REDIRECTS_MAX: usize = 5;

/// A client that follows few redirects and none from https to http. `Authorization` is dropped by
/// `reqwest` where a redirect leaves the host.
pub(super) fn client() -> reqwest::Result<Client> {
    client_with(Policy::custom(follow))
}

/// A client that follows no redirect, for requests that carry a password. It takes some milliseconds to make.
pub(super) fn client_that_stays() -> reqwest::Result<Client> {
    client_with(Policy::none())
}

fn client_with(redirects: Policy) -> reqwest::Result<Client> {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(redirects)
        .user_agent(concat!("lamina/", env!("CARGO_PKG_VERSION")))
        .build()
}

fn follow(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let downgrade = attempt.url().scheme() != "https"
        && attempt.previous().iter().any(|url| url.scheme() == "https");
    if downgrade {
        attempt.error("redirect from https to http refused")
    } else if attempt.previous().len() > REDIRECTS_MAX {
        attempt.error("too many redirects")
    } else {
        attempt.follow()
    }
}

/// What a status that is not success means.
pub(super) fn kind_of_status(status: StatusCode) -> ErrorKind {
    match status.as_u16() {
        404 | 410 => ErrorKind::NotFound,
        401 | 403 | 407 => ErrorKind::Denied,
        405 | 501 | 505 => ErrorKind::Unsupported,
        413 | 507 => ErrorKind::Full,
        // The object is shorter than the range we know to be in it.
        416 => ErrorKind::Corrupt,
        408 | 409 | 425 | 429 | 500.. => ErrorKind::Unavailable,
        _ => ErrorKind::Invalid,
    }
}

/// A request that got no answer. The URL is in our error already, without its password.
pub(super) fn no_answer(
    cause: reqwest::Error,
    fail: impl Fn(ErrorKind) -> StoreError,
) -> StoreError {
    let error = fail(kind_of(&cause));
    let error = match cause.is_connect() && error.kind() == ErrorKind::Unavailable {
        true => error.unreachable(),
        false => error,
    };
    error.source(cause.without_url())
}

fn kind_of(error: &reqwest::Error) -> ErrorKind {
    if error.is_timeout() {
        ErrorKind::Timeout
    } else if error.is_redirect() || error.is_builder() {
        ErrorKind::Invalid
    } else {
        ErrorKind::Unavailable
    }
}

/// The body of a whole object, of at most `len_max` bytes.
pub(super) async fn whole(
    response: Response,
    len_max: u64,
    fail: impl Fn(ErrorKind) -> StoreError,
) -> Result<Bytes> {
    let corrupt = |what: String| fail(ErrorKind::Corrupt).detail(what);
    plain(response.headers()).map_err(corrupt)?;
    match content_length(response.headers()) {
        Some(len) if len > len_max => {
            Err(corrupt(format!("{len} bytes, at most {len_max} expected")))
        }
        Some(len) => gather(body(response, &fail), len, corrupt).await,
        None => gather_up_to(body(response, &fail), len_max, corrupt).await,
    }
}

/// The body of a range request, which must be exactly that range of an object of `total` bytes.
pub(super) async fn part(
    response: Response,
    range: &Range<u64>,
    total: u64,
    fail: impl Fn(ErrorKind) -> StoreError,
) -> Result<Bytes> {
    let corrupt = |what: String| fail(ErrorKind::Corrupt).detail(what);
    plain(response.headers()).map_err(corrupt)?;
    let len = range.end - range.start;
    let whole = len == total && response.status() == StatusCode::OK;
    if !whole {
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(fail(ErrorKind::Unsupported).detail("the server ignores Range requests"));
        }
        let expected = format!("bytes {}-{}/{total}", range.start, range.end - 1);
        let found = response
            .headers()
            .get(CONTENT_RANGE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("none");
        if !found.trim().eq_ignore_ascii_case(&expected) {
            return Err(corrupt(format!(
                "Content-Range {found:?} instead of {expected:?}"
            )));
        }
    }
    if let Some(found) = content_length(response.headers()).filter(|found| *found != len) {
        return Err(corrupt(format!("{found} bytes instead of {len}")));
    }
    gather(body(response, &fail), len, corrupt).await
}

fn body(
    response: Response,
    fail: impl Fn(ErrorKind) -> StoreError,
) -> impl Stream<Item = Result<Bytes>> {
    response
        .bytes_stream()
        .map_err(move |e| no_answer(e, &fail))
}

pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Packs are asked for as they are; a server that encodes them anyway changes their length.
fn plain(headers: &HeaderMap) -> Result<(), String> {
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => {
            Err(format!("unasked Content-Encoding {encoding:?}"))
        }
        _ => Ok(()),
    }
}

/// All of a stream that must hold exactly `len` bytes; stops reading as soon as it holds more.
pub(super) async fn gather(
    stream: impl Stream<Item = Result<Bytes>>,
    len: u64,
    corrupt: impl Fn(String) -> StoreError,
) -> Result<Bytes> {
    let bytes = gather_up_to(stream, len, &corrupt).await?;
    if bytes.len() as u64 == len {
        return Ok(bytes);
    }
    Err(corrupt(format!("{} bytes instead of {len}", bytes.len())))
}

async fn gather_up_to(
    stream: impl Stream<Item = Result<Bytes>>,
    max: u64,
    corrupt: impl Fn(String) -> StoreError,
) -> Result<Bytes> {
    let mut stream = std::pin::pin!(stream);
    let mut all = BytesMut::new();
    while let Some(more) = stream.next().await.transpose()? {
        if (all.len() + more.len()) as u64 > max {
            return Err(corrupt(format!("more than {max} bytes")));
        }
        all.extend_from_slice(&more);
    }
    Ok(all.freeze())
}
