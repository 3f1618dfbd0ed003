//! Looking at a store from here.

use lamina_store::{ErrorKind, ObjectKind, StoreError, StoreSet, StoreSpec, UrlTrust};

use super::flight::on_thread;
use super::stores::Stores;
use crate::layers::EnsureError;

/// What a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holdings {
    /// Objects can be written.
    pub writable: bool,
    /// Objects in it.
    pub objects: u64,
    /// Bytes of those whose size its listing tells.
    pub bytes: u64,
}

/// Looks at one store, whatever part of the names it is for.
///
/// # Errors
/// A URL that makes no sense, and what the store answers.
pub async fn look(url: &str) -> Result<Holdings, EnsureError> {
    let spec = Stores::parse(url)?;
    // Alone it need not hold all names.
    let stores = Stores::of(vec![StoreSpec::all(spec.url)], UrlTrust::User)?;
    on_thread(move || async move {
        let what = || format!("look at the store {}", stores.shown().join(", "));
        let seen = seen(&stores.set).await;
        seen.map_err(|error| EnsureError::store(what(), error))
    })
    .await
}

async fn seen(set: &StoreSet) -> Result<Holdings, StoreError> {
    let mut held = Holdings {
        writable: set.check_writable().is_ok(),
        objects: 0,
        bytes: 0,
    };
    for (_, store) in set.stores() {
        for kind in ObjectKind::ALL {
            let listed = match store.list(kind).await {
                // It cannot be listed: whether it answers shows in a question for what it has not.
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    answers(store.as_ref()).await?;
                    break;
                }
                listed => listed?,
            };
            held.objects += listed.len() as u64;
            held.bytes += listed.iter().filter_map(|found| found.len).sum::<u64>();
        }
    }
    Ok(held)
}

async fn answers(store: &dyn lamina_store::Store) -> Result<(), StoreError> {
    let none = lamina_store::ObjectKey::Flist(lamina_flist::FlistDigest::of(b""));
    match store.head(&none).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
