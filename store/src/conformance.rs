//! The tests every store and every wrapper passes. Public, so that a store in another crate runs them too.
//!
//! Each check panics with what went wrong. A store must be empty and writable, and its own.

use bytes::Bytes;
use lamina_flist::{ChunkId, Codec, FlistDigest, IndexId, PackId, Sha256Digest};

use crate::api::{PackRef, Store};
use crate::error::ErrorKind;
use crate::key::{ObjectKey, ObjectKind};
use crate::pack::{PackBuilder, SealedPack};
use crate::pointer::ImagePointer;

/// Runs all checks.
pub async fn check(store: &dyn Store) {
    empty_store_has_nothing(store).await;
    objects_come_back_whole_and_in_parts(store).await;
    writing_again_is_fine(store).await;
    wrong_ranges_and_lengths_are_refused(store).await;
    the_last_pointer_written_counts(store).await;
    listing_finds_each_kind(store).await;
    deleted_objects_are_gone(store).await;
}

/// A pack of some noise, different for each `seed`.
pub fn sample_pack(seed: u64, len: usize) -> SealedPack {
    let mut noise = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut noise);
    let mut pack = PackBuilder::default();
    for chunk in noise.chunks(100_000) {
        pack.push(ChunkId::of(chunk), chunk, chunk.len() as u32, Codec::Raw);
    }
    pack.seal()
}

async fn empty_store_has_nothing(store: &dyn Store) {
    let absent = ObjectKey::Pack(PackId::of(b"absent"));
    let pack = PackRef {
        id: PackId::of(b"absent"),
        len: 100,
        sha256: None,
    };
    for kind in ObjectKind::ALL {
        assert_eq!(store.list(kind).await.unwrap(), [], "{kind:?}");
    }
    assert_eq!(
        store.head(&absent).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        store.get(&absent, 100).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let error = store.get_range(&pack, 0..10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(error.object(), Some(&absent), "errors name the object");
    assert_eq!(error.store(), store.name(), "errors name the store");
    store.delete(&absent).await.unwrap();
}

async fn objects_come_back_whole_and_in_parts(store: &dyn Store) {
    let pack = sample_pack(1, 300_000);
    let key = ObjectKey::Pack(pack.record.id);
    store.put(&key, pack.bytes.clone()).await.unwrap();
    assert_eq!(store.head(&key).await.unwrap(), pack.record.len);
    assert_eq!(store.get(&key, pack.record.len).await.unwrap(), pack.bytes);
    let known = PackRef::from(&pack.record);
    let len = pack.record.len;
    for pack_ref in [
        known,
        PackRef {
            sha256: None,
            ..known
        },
    ] {
        for range in [0..1, 0..len, len - 1..len, 4095..4097, 100_000..250_000] {
            let part = store.get_range(&pack_ref, range.clone()).await.unwrap();
            assert!(
                part == pack.bytes.slice(range.start as usize..range.end as usize),
                "{range:?}"
            );
        }
    }
    let many = (0..16u64).map(|n| store.get_range(&known, n * 1000..n * 1000 + 777));
    for (n, part) in futures::future::join_all(many)
        .await
        .into_iter()
        .enumerate()
    {
        assert!(
            part.unwrap() == pack.bytes.slice(n * 1000..n * 1000 + 777),
            "parallel read {n}"
        );
    }
}

async fn writing_again_is_fine(store: &dyn Store) {
    let pack = sample_pack(2, 1000);
    let key = ObjectKey::Pack(pack.record.id);
    store.put(&key, pack.bytes.clone()).await.unwrap();
    store.put(&key, pack.bytes.clone()).await.unwrap();
    let at_once = (0..4).map(|_| store.put(&key, pack.bytes.clone()));
    futures::future::try_join_all(at_once).await.unwrap();
    assert_eq!(store.get(&key, 10_000).await.unwrap(), pack.bytes);
}

async fn wrong_ranges_and_lengths_are_refused(store: &dyn Store) {
    let pack = sample_pack(3, 5000);
    let key = ObjectKey::Pack(pack.record.id);
    store.put(&key, pack.bytes.clone()).await.unwrap();
    let known = PackRef::from(&pack.record);
    let len = pack.record.len;
    #[expect(clippy::reversed_empty_ranges, reason = "that is the mistake tested")]
    for range in [5..5, 6..5, 0..len + 1, len..len + 1, u64::MAX - 1..u64::MAX] {
        assert_eq!(
            store
                .get_range(&known, range.clone())
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::Invalid,
            "{range:?}"
        );
    }
    assert_eq!(
        store.get(&key, len - 1).await.unwrap_err().kind(),
        ErrorKind::Corrupt,
        "longer than allowed"
    );
    // A record that promises more than there is: never filled up with anything.
    let longer = PackRef {
        len: len + 1000,
        ..known
    };
    for range in [0..100, len - 10..len + 10, len + 1..len + 100] {
        let error = store.get_range(&longer, range.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{range:?}: {error}");
    }
}

/// A pointer that leads to the flist of this name.
pub fn sample_pointer(flist: &[u8]) -> ImagePointer {
    ImagePointer {
        flist: FlistDigest::of(flist),
        manifest: Sha256Digest::from_bytes([5; 32]),
        platform: "linux/amd64".to_owned(),
    }
}

async fn the_last_pointer_written_counts(store: &dyn Store) {
    // Of equal length: a store that looks whether something of that length is there would keep the first.
    let (first, second) = (sample_pointer(b"first"), sample_pointer(b"second"));
    let key = ObjectKey::Image(first.key());
    store.put(&key, first.to_bytes()).await.unwrap();
    store.put(&key, second.to_bytes()).await.unwrap();
    assert_eq!(store.get(&key, 4096).await.unwrap(), second.to_bytes());
    store.put(&key, first.to_bytes()).await.unwrap();
    assert_eq!(store.get(&key, 4096).await.unwrap(), first.to_bytes());
    assert_eq!(store.list(ObjectKind::Image).await.unwrap().len(), 1);
}

async fn listing_finds_each_kind(store: &dyn Store) {
    let pack = sample_pack(4, 100);
    let index = Bytes::from_static(b"index object");
    let mut flist = vec![7u8; 2000];
    flist.extend_from_slice(b"the rest");
    let keys = [
        ObjectKey::Pack(pack.record.id),
        ObjectKey::Index(IndexId::of(&index)),
        ObjectKey::Flist(FlistDigest::of(&flist[..1024])),
        ObjectKey::Image(sample_pointer(b"x").key()),
    ];
    let pointer = sample_pointer(b"x").to_bytes();
    for (key, bytes) in keys.iter().zip([pack.bytes, index, flist.into(), pointer]) {
        store.put(key, bytes.clone()).await.unwrap();
        assert_eq!(store.get(key, 10_000).await.unwrap(), bytes, "{key}");
        let listed = store.list(key.kind()).await.unwrap();
        assert!(listed.iter().all(|found| found.key.kind() == key.kind()));
        let found = listed
            .iter()
            .find(|found| found.key == *key)
            .expect("it is listed");
        assert!(
            found.len.is_none_or(|len| len == bytes.len() as u64),
            "{key}"
        );
    }
}

async fn deleted_objects_are_gone(store: &dyn Store) {
    for kind in ObjectKind::ALL {
        for found in store.list(kind).await.unwrap() {
            store.delete(&found.key).await.unwrap();
            store.delete(&found.key).await.unwrap();
            assert_eq!(
                store.head(&found.key).await.unwrap_err().kind(),
                ErrorKind::NotFound
            );
        }
        assert_eq!(store.list(kind).await.unwrap(), [], "{kind:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::check;
    use crate::fault::{Fault, FaultStore, MemoryStore};
    use crate::{Retry, StoreOptions};

    #[tokio::test]
    async fn the_test_stores_conform_themselves() {
        check(&MemoryStore::default()).await;
        check(&FaultStore::new(
            Arc::new(MemoryStore::default()),
            Fault::None,
        ))
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn retries_hide_a_flaky_store_completely() {
        let flaky = FaultStore::new(Arc::new(MemoryStore::default()), Fault::Flaky);
        check(&Retry::new(Arc::new(flaky), StoreOptions::default())).await;
    }
}
