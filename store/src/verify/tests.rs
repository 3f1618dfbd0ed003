//! Verifying stores that are down, and stores of which one object is.

use std::ops::Range;

use async_trait::async_trait;

use super::*;
use crate::api::{Listed, PackRef};
use crate::conformance::sample_pack;
use crate::fault::{Fault, FaultStore, MemoryStore};
use crate::options::StoreOptions;
use crate::pack::SealedPack;
use crate::spec::ShardRange;

fn packs() -> Vec<SealedPack> {
    (0..20).map(|seed| sample_pack(seed, 1000)).collect()
}

fn memory(packs: &[SealedPack]) -> MemoryStore {
    let object = |pack: &SealedPack| (ObjectKey::Pack(pack.record.id), pack.bytes.clone());
    MemoryStore::with(packs.iter().map(object))
}

async fn verify(store: Arc<dyn Store>, packs: &[SealedPack]) -> VerifyReport {
    let stores = vec![(ShardRange::ALL, store)];
    let set = StoreSet::from_stores(stores, StoreOptions::default()).unwrap();
    let records: Vec<_> = packs.iter().map(|pack| pack.record).collect();
    verify_flist(&set, &[], &records, &|_| ()).await
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_is_left_after_the_first_packs() {
    let packs = packs();
    for fault in [Fault::Refused, Fault::Down, Fault::Hang] {
        let store = FaultStore::new(Arc::new(memory(&packs)), fault);
        let report = verify(Arc::new(store.clone()), &packs).await;
        assert_eq!((report.packs, report.unread), (0, 19), "{fault:?}");
        let said: Vec<_> = report
            .problems
            .iter()
            .map(|p| p.error.to_string())
            .collect();
        assert_eq!(said.len(), 2, "{fault:?}: {said:?}");
        assert!(said[1].contains("at memory"), "{fault:?}: {said:?}");
        assert!(
            said[1].contains("19 of its 20 packs were not read"),
            "{said:?}"
        );
        // Some tries of as many packs as are read at the same time, and one look at the next.
        assert!(
            store.reads() < 40 * PARALLEL as u64,
            "{fault:?}: {}",
            store.reads()
        );
        assert_eq!(store.requests() - store.reads(), 1, "{fault:?}");
    }
}

/// Says of one object that it cannot serve it now, always: a disk with a bad spot.
#[derive(Debug)]
struct OneBad(MemoryStore, ObjectKey);

#[async_trait]
impl Store for OneBad {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn writable(&self) -> bool {
        self.0.writable()
    }

    async fn get(&self, key: &ObjectKey, len_max: u64) -> Result<Bytes> {
        if *key == self.1 {
            return Err(StoreError::new(ErrorKind::Unavailable, "read", self.name()).key(key));
        }
        self.0.get(key, len_max).await
    }

    async fn get_range(&self, pack: &PackRef, range: Range<u64>) -> Result<Bytes> {
        self.0.get_range(pack, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<u64> {
        self.0.head(key).await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<()> {
        self.0.put(key, bytes).await
    }

    async fn list(&self, kind: ObjectKind) -> Result<Vec<Listed>> {
        self.0.list(kind).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.0.delete(key).await
    }
}

#[tokio::test(start_paused = true)]
async fn one_object_that_cannot_be_served_does_not_end_it() {
    let packs = packs();
    let bad = ObjectKey::Pack(packs[7].record.id);
    let report = verify(Arc::new(OneBad(memory(&packs), bad)), &packs).await;
    assert_eq!((report.packs, report.unread), (19, 0));
    assert_eq!(report.problem_count, 1);
    assert_eq!(report.problems[0].error.object(), Some(&bad));
}
