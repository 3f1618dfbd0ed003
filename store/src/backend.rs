//! The stores: one kind per file, each an implementation of [`crate::Store`].

mod bucket;
mod dir;
mod embedded;
mod http;
mod oci;
mod web;

use std::sync::Arc;

pub use bucket::BucketStore;
pub use dir::DirStore;
pub use embedded::EmbeddedStore;
pub use http::HttpStore;
pub use oci::{DockerLogin, OciStore, docker_login};

use crate::api::Store;
use crate::error::Result;
use crate::options::StoreOptions;
use crate::url::{Place, StoreUrl};

/// The store a URL names. Nothing is contacted yet; credentials are looked up.
///
/// # Errors
/// `Invalid`: a credentials file is unreadable or not allowed, or the client refuses the settings.
pub fn open(url: &StoreUrl, options: &StoreOptions) -> Result<Arc<dyn Store>> {
    let trust = options.url_trust;
    Ok(match url.place() {
        Place::Dir(root) => Arc::new(DirStore::new(root)),
        Place::Bucket(bucket) => Arc::new(BucketStore::open(url, bucket, options)?),
        Place::Http(base) => Arc::new(HttpStore::open(url, base, trust)?),
        Place::Oci(repository) => Arc::new(OciStore::open(url, repository, options)?),
    })
}
