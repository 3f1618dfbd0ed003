//! Flists as objects in stores: published, fetched, asked for their packs.

use lamina_flist::{FlistDigest, PackRecord};

use crate::api::Store;
use crate::error::{ErrorKind, Result, StoreError};
use crate::key::{ObjectKey, ObjectKind};

/// The pack table of a flist published in one store; its bytes are checked against its digest.
pub(crate) async fn packs_of(store: &dyn Store, digest: FlistDigest) -> Result<Vec<PackRecord>> {
    let key = ObjectKey::Flist(digest);
    let bytes = store.get(&key, ObjectKind::Flist.len_max()).await?;
    let corrupt = || StoreError::new(ErrorKind::Corrupt, "read", store.name()).key(&key);
    if !key.names(&bytes) {
        return Err(corrupt().detail("its bytes do not match its name"));
    }
    Ok(Vec::new())
}
