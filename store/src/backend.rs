//! The stores: one kind per file, each an implementation of [`crate::Store`].

mod dir;
mod embedded;

use std::sync::Arc;

pub use dir::DirStore;
pub use embedded::EmbeddedStore;

use crate::api::Store;
use crate::error::Result;
use crate::options::StoreOptions;
use crate::url::{Place, StoreUrl};

/// The store a URL names. Nothing is contacted yet.
pub fn open(url: &StoreUrl, options: &StoreOptions) -> Result<Arc<dyn Store>> {
    let _ = options;
    Ok(match url.place() {
        Place::Dir(root) => Arc::new(DirStore::new(root)),
        _ => {
            return Err(crate::StoreError::new(
                crate::ErrorKind::Unsupported,
                "open",
                &url.to_string(),
            ));
        }
    })
}
