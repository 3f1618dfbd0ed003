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
    /// Objects in it; none where it cannot be listed.
    pub objects: Option<u64>,
    /// Bytes of them; none unless its listing tells every size.
    pub bytes: Option<u64>,
    /// Something shows that objects are kept there.
    pub is_there: bool,
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
        objects: Some(0),
        bytes: Some(0),
        is_there: true,
    };
    for (_, store) in set.stores() {
        for kind in ObjectKind::ALL {
            let listed = match store.list(kind).await {
                // It cannot be listed: whether it answers shows in a question for what it has not.
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    answers(store.as_ref()).await?;
                    held.is_there &= store.is_there().await?;
                    (held.objects, held.bytes) = (None, None);
                    break;
                }
                listed => listed?,
            };
            held.objects = held.objects.map(|sum| sum + listed.len() as u64);
            let bytes: Option<u64> = listed.iter().map(|found| found.len).sum();
            held.bytes = held.bytes.zip(bytes).map(|(sum, more)| sum + more);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_registry::Server;

    #[tokio::test]
    async fn a_web_folder_that_is_not_found_may_be_no_store() {
        let server = Server::start();
        let files = |path: &str| (path.to_owned(), b"a page".to_vec());
        server
            .content
            .lock()
            .unwrap()
            .files
            .extend([files("/packs/")]);
        for (folder, is_there) in [("packs", true), ("typo", false)] {
            let url = format!("http://{}/{folder}", server.address);
            let held = look(&url).await.unwrap();
            assert_eq!(held.is_there, is_there, "{folder}");
            assert_eq!((held.objects, held.bytes), (None, None));
        }
    }

    #[tokio::test]
    async fn what_a_directory_holds_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("dir://{}", dir.path().display());
        let held = look(&url).await.unwrap();
        assert_eq!((held.objects, held.bytes), (Some(0), Some(0)));
        assert!(held.is_there && held.writable);
    }
}
