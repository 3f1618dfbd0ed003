//! `s3://`, `gs://`, `az://`: objects in a bucket, through `object_store`.
//!
//! `object_store` signs and speaks; deadlines and retries are ours ([`crate::Retry`], [`crate::StoreSet`]),
//! and so is the check that exactly the bytes asked for arrive.

mod connect;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutOptions,
};

use super::web::gather;
use crate::api::{LIST_MAX, Listed, PackRef, Store, check_range};
use crate::error::{ErrorKind, Result, StoreError};
use crate::key::{ObjectKey, ObjectKind};
use crate::options::StoreOptions;
use crate::retry::bounded;
use crate::url::{BucketUrl, StoreUrl};

/// A bucket, or a folder in one.
#[derive(Debug, Clone)]
pub struct BucketStore {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
    name: String,
    /// Said with errors when no credentials were found.
    hint: Option<&'static str>,
    page_timeout: Duration,
}

impl BucketStore {
    /// The store at `url`, whose place is `bucket`.
    pub(super) fn open(url: &StoreUrl, bucket: &BucketUrl, options: &StoreOptions) -> Result<Self> {
        let name = url.to_string();
        let connected = connect::connect(url.credentials(), bucket, options);
        let (inner, hint) =
            connected.map_err(|e| StoreError::new(ErrorKind::Invalid, "open", &name).source(e))?;
        let prefix = Path::parse(&bucket.prefix).map_err(|e| {
            StoreError::new(ErrorKind::Invalid, "open", &name)
                .detail("bad prefix")
                .source(e)
        })?;
        Ok(Self {
            inner,
            prefix,
            name,
            hint,
            page_timeout: options.page_timeout(),
        })
    }

    fn path(&self, key: &ObjectKey) -> Path {
        self.prefix
            .parts()
            .chain(Path::from(key.path()).parts())
            .collect()
    }

    fn error(
        &self,
        operation: &'static str,
        key: Option<&ObjectKey>,
        cause: &object_store::Error,
    ) -> StoreError {
        let kind = classify(cause);
        let mut error = StoreError::new(kind, operation, &self.name);
        if let Some(key) = key {
            error = error.key(key);
        }
        if let (Some(hint), ErrorKind::Denied | ErrorKind::Unavailable | ErrorKind::Timeout) =
            (self.hint, kind)
        {
            error = error.detail(hint);
        }
        if is_unreachable(cause) {
            error = error.unreachable();
        }
        error.source(steady(cause))
    }

    fn corrupt(&self, key: &ObjectKey, what: String) -> StoreError {
        StoreError::new(ErrorKind::Corrupt, "read", &self.name)
            .key(key)
            .detail(what)
    }

    /// The body, which must have exactly `len` bytes.
    async fn body(&self, key: &ObjectKey, result: GetResult, len: u64) -> Result<Bytes> {
        let stream = result
            .into_stream()
            .map_err(|e| self.error("read", Some(key), &e));
        gather(stream, len, |what| self.corrupt(key, what)).await
    }
}

#[async_trait]
impl Store for BucketStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn writable(&self) -> bool {
        true
    }

    async fn get(&self, key: &ObjectKey, len_max: u64) -> Result<Bytes> {
        let got = self
            .inner
            .get(&self.path(key))
            .await
            .map_err(|e| self.error("read", Some(key), &e))?;
        let len = got.meta.size;
        if len > len_max {
            return Err(self.corrupt(key, format!("{len} bytes, at most {len_max} expected")));
        }
        self.body(key, got, len).await
    }

    async fn get_range(&self, pack: &PackRef, range: Range<u64>) -> Result<Bytes> {
        check_range(&self.name, pack, &range)?;
        let key = pack.key();
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        let got = self.inner.get_opts(&self.path(&key), options).await;
        let got = got.map_err(|e| self.error("read", Some(&key), &e))?;
        if got.range != range || got.meta.size != pack.len {
            let (have, len) = (&got.range, got.meta.size);
            return Err(self.corrupt(
                &key,
                format!(
                    "bytes {have:?} of {len} instead of {range:?} of {}",
                    pack.len
                ),
            ));
        }
        self.body(&key, got, range.end - range.start).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<u64> {
        let meta = self.inner.head(&self.path(key)).await;
        Ok(meta.map_err(|e| self.error("look up", Some(key), &e))?.size)
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<()> {
        let done = self
            .inner
            .put_opts(&self.path(key), bytes.into(), PutOptions::default())
            .await;
        done.map(|_| ())
            .map_err(|e| self.error("write", Some(key), &e))
    }

    async fn list(&self, kind: ObjectKind) -> Result<Vec<Listed>> {
        let folder: Path = self
            .prefix
            .parts()
            .chain(Path::from(kind.folder()).parts())
            .collect();
        let mut found = Vec::new();
        let mut stream = self.inner.list(Some(&folder));
        loop {
            let next = async { Ok(stream.next().await) };
            let next = bounded(self.page_timeout, &self.name, "list", None, next).await?;
            let Some(meta) = next else { break };
            let meta = meta.map_err(|e| self.error("list", None, &e))?;
            if found.len() == LIST_MAX {
                let error = StoreError::new(ErrorKind::Invalid, "list", &self.name);
                return Err(error.detail("too many objects"));
            }
            found.extend(self.listed(&meta));
        }
        Ok(found)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        match self.inner.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.error("delete", Some(key), &e)),
        }
    }
}

impl BucketStore {
    fn listed(&self, meta: &ObjectMeta) -> Option<Listed> {
        let parts: Vec<_> = meta
            .location
            .prefix_match(&self.prefix)?
            .map(|part| part.as_ref().to_owned())
            .collect();
        let key = ObjectKey::from_path(&parts.join("/"))?;
        Some(Listed {
            key,
            len: Some(meta.size),
            modified: Some(meta.last_modified.into()),
        })
    }
}

/// What went wrong, in the same words each time: who keeps the last message must not see another one. `object_store`
/// says how long a request took.
fn steady(cause: &object_store::Error) -> String {
    let mut said = cause.to_string();
    let mut next = std::error::Error::source(cause);
    while let Some(cause) = next {
        let more = cause.to_string();
        if !said.contains(&more) {
            said = format!("{said}: {more}");
        }
        next = cause.source();
    }
    without_durations(&said)
}

fn without_durations(text: &str) -> String {
    let mut parts = text.split(" in ");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find([' ', ',', ';']).unwrap_or(part.len());
        let (word, rest) = part.split_at(end);
        let unit = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        if unit.len() < word.len() && ["ns", "µs", "ms", "s"].contains(&unit) {
            kept += rest;
        } else {
            kept = format!("{kept} in {part}");
        }
    }
    kept
}

/// What can be done about it. `object_store` keeps the HTTP status of other failures in the text only.
fn classify(error: &object_store::Error) -> ErrorKind {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => ErrorKind::NotFound,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => ErrorKind::Denied,
        E::InvalidPath { .. } | E::UnknownConfigurationKey { .. } => ErrorKind::Invalid,
        E::NotSupported { .. } | E::NotImplemented { .. } => ErrorKind::Unsupported,
        _ => classify_text(error),
    }
}

/// What kind of HTTP failure is behind it, if it is one.
fn http_kind(error: &object_store::Error) -> Option<HttpErrorKind> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if let Some(http) = e.downcast_ref::<HttpError>() {
            return Some(http.kind());
        }
        cause = e.source();
    }
    None
}

fn is_unreachable(error: &object_store::Error) -> bool {
    http_kind(error) == Some(HttpErrorKind::Connect)
}

fn classify_text(error: &object_store::Error) -> ErrorKind {
    match http_kind(error) {
        Some(HttpErrorKind::Timeout) => return ErrorKind::Timeout,
        Some(_) => return ErrorKind::Unavailable,
        None => {}
    }
    let text = error.to_string();
    let status = text
        .split_once("status code: ")
        .and_then(|(_, rest)| rest.get(..3)?.parse().ok());
    let full = ["QuotaExceeded", "StorageFull", "InsufficientStorage"]
        .iter()
        .any(|code| text.contains(code));
    match status.and_then(|code| reqwest::StatusCode::from_u16(code).ok()) {
        _ if full => ErrorKind::Full,
        Some(status) => super::web::kind_of_status(status),
        // The server's answer could not be made sense of: a Range ignored, a header missing.
        None if text.contains("range") || text.contains("Range") || text.contains("header") => {
            ErrorKind::Corrupt
        }
        None => ErrorKind::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_is_told_in_the_same_words() {
        let said =
            "Error performing GET http://h:1/x in 277.637µs - HTTP error: in short, after 3s in 2s";
        let kept = "Error performing GET http://h:1/x - HTTP error: in short, after 3s";
        assert_eq!(without_durations(said), kept);
        let other = "no place in the store, in µs, in 5 steps";
        assert_eq!(without_durations(other), other);
    }
}
