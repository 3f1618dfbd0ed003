//! Flists as objects in stores: published, fetched, asked for their packs.
//!
//! A published flist is a root for garbage collection, so its packs stay as long as it does.

use lamina_flist::{Flist, FlistDigest, PackRecord};

use crate::api::Store;
use crate::error::{ErrorKind, Result, StoreError};
use crate::key::{ObjectKey, ObjectKind};
use crate::set::StoreSet;

/// Puts a flist into the stores, under its digest.
///
/// # Errors
/// An owner does not take it.
pub async fn publish_flist(set: &StoreSet, flist: &Flist) -> Result<ObjectKey> {
    let key = ObjectKey::Flist(flist.digest());
    set.put(&key, flist.as_bytes().clone()).await?;
    Ok(key)
}

/// A published flist, every byte checked against its digest. Its structure is not: before it is mounted,
/// call [`Flist::check`].
///
/// # Errors
/// No replica has it whole.
pub async fn fetch_flist(set: &StoreSet, digest: FlistDigest) -> Result<Flist> {
    let key = ObjectKey::Flist(digest);
    let bytes = set.get(&key).await?;
    Flist::parse(bytes).map_err(|e| {
        StoreError::new(ErrorKind::Corrupt, "read", "every store")
            .key(&key)
            .source(e)
    })
}

/// The pack table of a flist published in one store, checked.
pub(crate) async fn packs_of(store: &dyn Store, digest: FlistDigest) -> Result<Vec<PackRecord>> {
    let key = ObjectKey::Flist(digest);
    let bytes = store.get(&key, ObjectKind::Flist.len_max()).await?;
    let corrupt = || StoreError::new(ErrorKind::Corrupt, "read", store.name()).key(&key);
    let flist = Flist::parse(bytes).map_err(|e| corrupt().source(e))?;
    flist.verify_sections().map_err(|e| corrupt().source(e))?;
    if flist.digest() != digest {
        return Err(corrupt().detail("it is another flist"));
    }
    Ok(flist.packs().collect())
}
