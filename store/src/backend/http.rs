//! `http://`, `https://`: packs behind any web server that understands Range. Read-only, and without
//! listing.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, RANGE};
use reqwest::{Client, Method, RequestBuilder, Response};
use url::Url;

use super::web;
use crate::api::{Listed, PackRef, Store, check_range};
use crate::error::{ErrorKind, Result, StoreError};
use crate::key::{ObjectKey, ObjectKind};
use crate::options::UrlTrust;
use crate::url::StoreUrl;

/// A web folder.
#[derive(Debug, Clone)]
pub struct HttpStore {
    client: Client,
    base: Url,
    login: Option<(String, Option<String>)>,
    name: String,
}

impl HttpStore {
    /// The store at `url`, whose place is `base`. `credentials=FILE` holds one line `user:password`.
    pub(super) fn open(url: &StoreUrl, base: &Url, trust: UrlTrust) -> Result<Self> {
        let name = url.to_string();
        let invalid = || StoreError::new(ErrorKind::Invalid, "open", &name);
        let given = url.credentials();
        let mut login = given
            .user
            .clone()
            .map(|user| (user, given.password.clone()));
        if let Some(file) = &given.file {
            if trust == UrlTrust::Flist {
                return Err(
                    invalid().detail("a store URL in a flist may not name a credentials file")
                );
            }
            let text = std::fs::read_to_string(file)
                .map_err(|e| invalid().detail("read credentials file").source(e))?;
            let (user, password) = text
                .trim()
                .split_once(':')
                .ok_or_else(|| invalid().detail("the credentials file must hold user:password"))?;
            login = Some((user.to_owned(), Some(password.to_owned())));
        }
        let client = web::client().map_err(|e| invalid().source(e))?;
        Ok(Self {
            client,
            base: base.clone(),
            login,
            name,
        })
    }

    fn error(&self, kind: ErrorKind, operation: &'static str, key: &ObjectKey) -> StoreError {
        StoreError::new(kind, operation, &self.name).key(key)
    }

    fn request(&self, method: Method, key: &ObjectKey) -> RequestBuilder {
        self.request_path(method, &key.path())
    }

    /// A request for what is below the folder.
    fn request_path(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(&format!(
            "{}/{path}",
            self.base.path().trim_end_matches('/')
        ));
        let request = self
            .client
            .request(method, url)
            .header(ACCEPT_ENCODING, "identity");
        match &self.login {
            Some((user, password)) => request.basic_auth(user, password.as_ref()),
            None => request,
        }
    }

    async fn send(
        &self,
        request: RequestBuilder,
        operation: &'static str,
        key: &ObjectKey,
    ) -> Result<Response> {
        let response = request.send().await;
        let response =
            response.map_err(|e| web::no_answer(e, |kind| self.error(kind, operation, key)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        Err(self
            .error(web::kind_of_status(status), operation, key)
            .detail(format!("the server said {status}")))
    }

    fn read_only<T>(&self, operation: &'static str, why: &str) -> Result<T> {
        Err(StoreError::new(ErrorKind::Unsupported, operation, &self.name).detail(why))
    }
}

#[async_trait]
impl Store for HttpStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn writable(&self) -> bool {
        false
    }

    async fn get(&self, key: &ObjectKey, len_max: u64) -> Result<Bytes> {
        let response = self
            .send(self.request(Method::GET, key), "read", key)
            .await?;
        web::whole(response, len_max, |kind| self.error(kind, "read", key)).await
    }

    async fn get_range(&self, pack: &PackRef, range: Range<u64>) -> Result<Bytes> {
        check_range(&self.name, pack, &range)?;
        let key = pack.key();
        let wanted = format!("bytes={}-{}", range.start, range.end - 1);
        let response = self
            .send(
                self.request(Method::GET, &key).header(RANGE, wanted),
                "read",
                &key,
            )
            .await?;
        web::part(response, &range, pack.len, |kind| {
            self.error(kind, "read", &key)
        })
        .await
    }

    async fn head(&self, key: &ObjectKey) -> Result<u64> {
        let response = self
            .send(self.request(Method::HEAD, key), "look up", key)
            .await?;
        web::content_length(response.headers()).ok_or_else(|| {
            self.error(ErrorKind::Unsupported, "look up", key)
                .detail("the server tells no Content-Length")
        })
    }

    async fn put(&self, _: &ObjectKey, _: Bytes) -> Result<()> {
        self.read_only("write", "http stores are read-only")
    }

    async fn list(&self, _: ObjectKind) -> Result<Vec<Listed>> {
        self.read_only("list", "http stores cannot be listed")
    }

    /// The folder itself: servers that do not show what is in it refuse that, and say nothing of a missing one.
    async fn is_there(&self) -> Result<bool> {
        let fail = |kind| StoreError::new(kind, "look for", &self.name);
        let response = self.request_path(Method::HEAD, "").send().await;
        let status = response.map_err(|e| web::no_answer(e, fail))?.status();
        match web::kind_of_status(status) {
            _ if status.is_success() => Ok(true),
            ErrorKind::NotFound => Ok(false),
            ErrorKind::Denied | ErrorKind::Unsupported | ErrorKind::Invalid => Ok(true),
            kind => Err(fail(kind).detail(format!("the server said {status}"))),
        }
    }

    async fn delete(&self, _: &ObjectKey) -> Result<()> {
        self.read_only("delete", "http stores are read-only")
    }
}
