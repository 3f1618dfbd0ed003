//! Requests to one repository: URLs, authorisation, where credentials may go.

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderName, LINK, LOCATION,
};
use reqwest::{Client, Method, Response, StatusCode};
use url::Url;

use super::auth::{Access, Authorizer};
use super::docker::DockerLogin;
use crate::backend::web;
use crate::error::{ErrorKind, Result, StoreError};
use crate::url::RepositoryUrl;

/// A request, repeatable: the first answer may only say how to log in.
#[derive(Clone)]
pub(super) struct Request {
    method: Method,
    target: Target,
    headers: Vec<(HeaderName, String)>,
    body: Option<Bytes>,
    access: Access,
}

#[derive(Clone)]
enum Target {
    /// Below `/v2/<repository>/`.
    Path(String),
    Url(Url),
}

impl Request {
    pub(super) fn new(method: Method, path: String) -> Self {
        Self {
            method,
            target: Target::Path(path),
            headers: Vec::new(),
            body: None,
            access: Access::Pull,
        }
    }

    pub(super) fn get(path: String) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn to(method: Method, url: Url) -> Self {
        Self {
            target: Target::Url(url),
            ..Self::new(method, String::new())
        }
    }

    pub(super) fn writing(mut self) -> Self {
        self.access = Access::Push;
        self
    }

    pub(super) fn deleting(mut self) -> Self {
        self.access = Access::Delete;
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn accept(self, media_type: &str) -> Self {
        self.header(ACCEPT, media_type.to_owned())
    }

    pub(super) fn body(mut self, media_type: &str, bytes: Bytes) -> Self {
        self.body = Some(bytes);
        self.header(CONTENT_TYPE, media_type.to_owned())
    }
}

/// One repository of one registry.
#[derive(Debug)]
pub(super) struct Registry {
    client: Client,
    /// `…/v2/<repository>/`
    root: Url,
    auth: Authorizer,
}

impl Registry {
    pub(super) fn new(
        repository: &RepositoryUrl,
        login: Option<DockerLogin>,
    ) -> std::result::Result<Self, BoxError> {
        // Docker Hub's API lives under another name than its images.
        let host = if repository.host == "docker.io" {
            "registry-1.docker.io"
        } else {
            &repository.host
        };
        let scheme = if repository.insecure || repository.is_loopback() {
            "http"
        } else {
            "https"
        };
        let root = Url::parse(&format!("{scheme}://{host}/v2/{}/", repository.repository))?;
        let client = web::client()?;
        let auth = Authorizer::new(login, &repository.repository);
        Ok(Self { client, root, auth })
    }

    pub(super) fn url(&self, path: &str) -> Url {
        self.root.join(path).expect("our own relative paths join")
    }

    /// Sends it, logging in once if the registry asks for that. Where a redirect led to, or an upload goes, may ask in
    /// vain: its challenge could name any realm.
    pub(super) async fn send(
        &self,
        request: Request,
        fail: impl Fn(ErrorKind) -> StoreError,
    ) -> Result<Response> {
        let used = self.auth.header(request.access);
        let response = self.try_once(&request, used.as_deref(), &fail).await?;
        let is_ours = response.url().origin() == self.root.origin();
        if !is_ours || response.status() != StatusCode::UNAUTHORIZED {
            return check(response, fail);
        }
        // The same answer again would be refused again.
        match self.auth.answer(&response, request.access, &fail).await? {
            Some(header) if used.as_ref() != Some(&header) => {
                check(self.try_once(&request, Some(&header), &fail).await?, fail)
            }
            _ => check(response, fail),
        }
    }

    async fn try_once(
        &self,
        request: &Request,
        authorization: Option<&str>,
        fail: impl Fn(ErrorKind) -> StoreError,
    ) -> Result<Response> {
        let url = match &request.target {
            Target::Path(path) => self.url(path),
            Target::Url(url) => url.clone(),
        };
        let ours = url.origin() == self.root.origin();
        let mut builder = self
            .client
            .request(request.method.clone(), url)
            .header(ACCEPT_ENCODING, "identity");
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        if let (true, Some(value)) = (ours, authorization) {
            builder = builder.header(AUTHORIZATION, value);
        }
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        builder.send().await.map_err(|e| web::no_answer(e, &fail))
    }

    /// Where to send the bytes of an upload just begun.
    pub(super) fn upload_url(begun: &Response, digest: &str) -> Option<Url> {
        let location = begun.headers().get(LOCATION)?.to_str().ok()?;
        let mut url = begun
            .url()
            .join(location)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))?;
        url.query_pairs_mut().append_pair("digest", digest);
        Some(url)
    }

    /// The next page of a listing: `Link: </v2/…>; rel="next"`, on this registry only.
    pub(super) fn next_page(&self, response: &Response) -> Option<Url> {
        let link = response.headers().get(LINK)?.to_str().ok()?;
        let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
        let url = response.url().join(target).ok()?;
        (rest.contains("next") && url.origin() == self.root.origin()).then_some(url)
    }
}

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn check(response: Response, fail: impl Fn(ErrorKind) -> StoreError) -> Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    Err(fail(web::kind_of_status(status)).detail(format!("the registry said {status}")))
}
