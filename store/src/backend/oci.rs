//! `oci://`: objects as artifacts in a registry (OCI distribution spec 1.1).
//!
//! ```text
//! tag pack-<hex>  ->  manifest (artifactType application/vnd.lamina.pack.v1)
//!                       config: the empty blob "{}"
//!                       layers: [ the pack's bytes, by their sha256 ]
//! ```
//! Packs are read straight from their blob, since a flist knows the sha256; the tagged manifest keeps the
//! registry's garbage collection away and makes packs listable. Indexes, flists and pointers are the same
//! with `index-<hex>`, `flist-<hex>` and `image-<hex>`; writing a pointer again moves its tag.

mod auth;
mod docker;
mod manifest;
mod wire;

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lamina_flist::Sha256Digest;
use reqwest::Method;
use reqwest::header::RANGE;
use url::Url;

pub use docker::{DockerLogin, docker_login};

use super::web;
use crate::api::{LIST_MAX, Listed, PackRef, Store, check_range};
use crate::error::{ErrorKind, Result, StoreError};
use crate::key::{ObjectKey, ObjectKind};
use crate::options::{StoreOptions, UrlTrust};
use crate::retry::bounded;
use crate::url::{RepositoryUrl, StoreUrl, UrlCredentials};
use manifest::{Artifact, EMPTY, MANIFEST_LEN_MAX, MANIFEST_TYPE, TagList};
use wire::Registry;

/// A repository in a registry.
#[derive(Debug)]
pub struct OciStore {
    registry: Registry,
    name: String,
    page_timeout: Duration,
}

impl OciStore {
    /// The store at `url`, whose place is `repository`.
    pub(super) fn open(
        url: &StoreUrl,
        repository: &RepositoryUrl,
        options: &StoreOptions,
    ) -> Result<Self> {
        let name = url.to_string();
        let invalid = || StoreError::new(ErrorKind::Invalid, "open", &name);
        let given = url.credentials();
        if options.url_trust == UrlTrust::Flist && given.file.is_some() {
            return Err(invalid().detail("a store URL in a flist may not name a credentials file"));
        }
        let login = login(given, repository, options)
            .map_err(|e| invalid().detail("read the docker config").source(e))?;
        let registry = Registry::new(repository, login).map_err(|e| invalid().source(e))?;
        Ok(Self {
            registry,
            name,
            page_timeout: options.page_timeout(),
        })
    }

    fn error(&self, kind: ErrorKind, operation: &'static str, key: &ObjectKey) -> StoreError {
        StoreError::new(kind, operation, &self.name).key(key)
    }

    /// The artifact a tag names.
    async fn artifact(
        &self,
        key: &ObjectKey,
        operation: &'static str,
    ) -> Result<(Artifact, Bytes)> {
        let request = wire::Request::get(format!("manifests/{}", key.tag())).accept(MANIFEST_TYPE);
        let response = self
            .registry
            .send(request, |kind| self.error(kind, operation, key))
            .await?;
        let bytes = web::whole(response, MANIFEST_LEN_MAX, |kind| {
            self.error(kind, operation, key)
        })
        .await?;
        let artifact = Artifact::parse(&bytes).ok_or_else(|| {
            self.error(ErrorKind::Corrupt, operation, key)
                .detail("its manifest is not one of ours")
        })?;
        Ok((artifact, bytes))
    }

    /// One page of the tags, and where the next one is; `None` for a repository that does not exist.
    async fn page(&self, url: Url) -> Result<Option<(TagList, Option<Url>)>> {
        let fail = |kind| StoreError::new(kind, "list", &self.name);
        let request = wire::Request::to(Method::GET, url);
        let response = match self.registry.send(request, fail).await {
            Ok(response) => response,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let next = self.registry.next_page(&response);
        let bytes = web::whole(response, manifest::TAGS_LEN_MAX, fail).await?;
        let tags =
            serde_json::from_slice(&bytes).map_err(|e| fail(ErrorKind::Corrupt).source(e))?;
        Ok(Some((tags, next)))
    }

    async fn blob_exists(&self, digest: &Sha256Digest, len: u64, key: &ObjectKey) -> Result<bool> {
        let request = wire::Request::new(Method::HEAD, format!("blobs/{digest}")).writing();
        match self
            .registry
            .send(request, |kind| self.error(kind, "write", key))
            .await
        {
            Ok(response) => {
                Ok(web::content_length(response.headers()).is_none_or(|found| found == len))
            }
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn put_blob(&self, bytes: Bytes, digest: &Sha256Digest, key: &ObjectKey) -> Result<()> {
        if self.blob_exists(digest, bytes.len() as u64, key).await? {
            return Ok(());
        }
        let fail = |kind| self.error(kind, "write", key);
        let begun = self
            .registry
            .send(
                wire::Request::new(Method::POST, "blobs/uploads/".into()).writing(),
                fail,
            )
            .await?;
        let place = Registry::upload_url(&begun, &digest.to_string());
        let place = place.ok_or_else(|| {
            fail(ErrorKind::Invalid).detail("the registry gave no upload location")
        })?;
        let request = wire::Request::to(Method::PUT, place)
            .writing()
            .body("application/octet-stream", bytes);
        self.registry.send(request, fail).await.map(|_| ())
    }
}

/// Credentials: the URL, `credentials=FILE` (a docker config), else the docker config of the user. A flist that wants
/// plain HTTP beyond this machine gets none of the user's: anybody on the way would read them.
fn login(
    given: &UrlCredentials,
    repository: &RepositoryUrl,
    options: &StoreOptions,
) -> std::io::Result<Option<DockerLogin>> {
    if let (Some(user), Some(password)) = (&given.user, &given.password) {
        let own = DockerLogin::Password(user.clone(), password.clone());
        return Ok(Some(own));
    }
    let is_readable = repository.insecure && !repository.is_loopback();
    if options.url_trust == UrlTrust::Flist && is_readable {
        return Ok(None);
    }
    docker_login(
        given.file.as_deref(),
        &repository.host,
        &options.environment,
    )
}

#[async_trait]
impl Store for OciStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn writable(&self) -> bool {
        true
    }

    async fn get(&self, key: &ObjectKey, len_max: u64) -> Result<Bytes> {
        let (artifact, _) = self.artifact(key, "read").await?;
        if artifact.len > len_max {
            let detail = format!("{} bytes, at most {len_max} expected", artifact.len);
            return Err(self.error(ErrorKind::Corrupt, "read", key).detail(detail));
        }
        let request = wire::Request::get(format!("blobs/{}", artifact.digest));
        let response = self
            .registry
            .send(request, |kind| self.error(kind, "read", key))
            .await?;
        let bytes =
            web::whole(response, artifact.len, |kind| self.error(kind, "read", key)).await?;
        if bytes.len() as u64 != artifact.len {
            let detail = format!("{} bytes instead of {}", bytes.len(), artifact.len);
            return Err(self.error(ErrorKind::Corrupt, "read", key).detail(detail));
        }
        Ok(bytes)
    }

    async fn get_range(&self, pack: &PackRef, range: Range<u64>) -> Result<Bytes> {
        check_range(&self.name, pack, &range)?;
        let key = pack.key();
        let digest = match pack.sha256 {
            Some(digest) => digest,
            None => self.artifact(&key, "read").await?.0.digest,
        };
        let request = wire::Request::get(format!("blobs/{digest}"))
            .header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        let response = self
            .registry
            .send(request, |kind| self.error(kind, "read", &key))
            .await?;
        web::part(response, &range, pack.len, |kind| {
            self.error(kind, "read", &key)
        })
        .await
    }

    async fn head(&self, key: &ObjectKey) -> Result<u64> {
        Ok(self.artifact(key, "look up").await?.0.len)
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<()> {
        let artifact = Artifact {
            digest: crate::pack::sha256(&bytes),
            len: bytes.len() as u64,
        };
        self.put_blob(bytes, &artifact.digest, key).await?;
        self.put_blob(Bytes::from_static(EMPTY), &crate::pack::sha256(EMPTY), key)
            .await?;
        // The tag comes last: what is listed is complete.
        let request = wire::Request::new(Method::PUT, format!("manifests/{}", key.tag()))
            .writing()
            .body(MANIFEST_TYPE, artifact.render(key.kind()).into());
        self.registry
            .send(request, |kind| self.error(kind, "write", key))
            .await
            .map(|_| ())
    }

    async fn list(&self, kind: ObjectKind) -> Result<Vec<Listed>> {
        let fail = |kind| StoreError::new(kind, "list", &self.name);
        let mut found = Vec::new();
        let mut next = Some(self.registry.url("tags/list?n=1000"));
        let mut seen = std::collections::HashSet::new();
        while let Some(url) = next {
            if !seen.insert(url.to_string()) || found.len() > LIST_MAX {
                return Err(
                    fail(ErrorKind::Corrupt).detail("the registry's list of tags never ends")
                );
            }
            let page = self.page(url);
            let page = bounded(self.page_timeout, &self.name, "list", None, page).await?;
            let Some((tags, following)) = page else {
                break; // nothing was ever pushed
            };
            next = following;
            let keys = tags
                .tags
                .iter()
                .flatten()
                .filter_map(|tag| ObjectKey::from_tag(tag));
            found.extend(keys.filter(|key| key.kind() == kind).map(|key| Listed {
                key,
                len: None,
                modified: None,
            }));
        }
        Ok(found)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        let bytes = match self.artifact(key, "delete").await {
            Ok((_, bytes)) => bytes,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        let digest = crate::pack::sha256(&bytes);
        let request = wire::Request::new(Method::DELETE, format!("manifests/{digest}")).deleting();
        match self
            .registry
            .send(request, |kind| self.error(kind, "delete", key))
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) if error.kind() == ErrorKind::Unsupported => Err(error.detail(
                "the registry does not allow deletes (distribution: storage.delete.enabled)",
            )),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::url::Place;

    #[test]
    fn a_flist_cannot_have_the_docker_login_sent_in_the_clear() {
        let folder = tempfile::tempdir().unwrap();
        let entry = r#"{"username": "u", "password": "p"}"#;
        let config = format!(
            r#"{{"auths": {{"reg.example:5000": {entry}, "127.0.0.1:5000": {entry}, "[::1]:5000": {entry}}}}}"#
        );
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let folder = folder.path().to_str().unwrap().to_owned();
        let vars = BTreeMap::from([("DOCKER_CONFIG".to_owned(), folder)]);
        let user = |url: &str, url_trust| {
            let url: StoreUrl = url.parse().unwrap();
            let Place::Oci(repository) = url.place() else {
                panic!("{url} is no registry")
            };
            let options = StoreOptions {
                url_trust,
                environment: vars.clone().into(),
                ..StoreOptions::default()
            };
            match login(url.credentials(), repository, &options).unwrap() {
                Some(DockerLogin::Password(user, _)) => Some(user),
                _ => None,
            }
        };
        let plain = "oci://reg.example:5000/packs?insecure=true";
        assert_eq!(user(plain, UrlTrust::Flist), None);
        assert_eq!(user(plain, UrlTrust::User).as_deref(), Some("u"));
        for url in [
            "oci://reg.example:5000/packs",
            "oci://127.0.0.1:5000/packs?insecure=true",
            "oci://[::1]:5000/packs?insecure=true",
        ] {
            assert_eq!(user(url, UrlTrust::Flist).as_deref(), Some("u"), "{url}");
        }
        // What the flist brings along itself is its author's to give away.
        let own = "oci://me:pw@reg.example:5000/packs?insecure=true";
        assert_eq!(user(own, UrlTrust::Flist).as_deref(), Some("me"));
    }
}
