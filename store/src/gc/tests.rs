//! Garbage collection against real folders, stopped at every step.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::backend::DirStore;
use crate::chunk_index::{ChunkIndex, LoadOptions};
use crate::conformance::sample_pack;
use crate::fault::{Fault, FaultStore};
use crate::index::IndexedPack;
use crate::pack::SealedPack;
use crate::sink::publish_index;
use crate::spec::ShardRange;
use crate::{ErrorKind, StoreOptions, StoreSpec, StoreUrl};

const NOW: GcOptions = GcOptions {
    age_min: Duration::ZERO,
    keep_published: true,
    only: None,
};

fn set_of(stores: Vec<Arc<dyn Store>>) -> StoreSet {
    let stores = stores
        .into_iter()
        .map(|store| (ShardRange::ALL, store))
        .collect();
    StoreSet::from_stores(stores, StoreOptions::default()).unwrap()
}

fn indexed(pack: &SealedPack) -> IndexedPack {
    IndexedPack {
        record: pack.record,
        entries: pack.entries.clone(),
    }
}

/// Twelve packs in three indexes of four; the last two packs are in none.
async fn fill(set: &StoreSet) -> Vec<SealedPack> {
    let packs: Vec<_> = (0..14).map(|n| sample_pack(n, 3000)).collect();
    for pack in &packs {
        set.put(&ObjectKey::Pack(pack.record.id), pack.bytes.clone())
            .await
            .unwrap();
    }
    for some in packs[..12].chunks(4) {
        let some: Vec<_> = some.iter().map(indexed).collect();
        publish_index(set, &some).await.unwrap();
    }
    packs
}

fn roots(packs: &[SealedPack], kept: &[usize]) -> GcRoots {
    let mut roots = GcRoots::default();
    roots.keep(
        FlistDigest::of(b"kept"),
        kept.iter().map(|n| packs[*n].record),
    );
    roots
}

/// Kept packs are there; what an index lists is there.
async fn assert_sound(root: &Path, packs: &[SealedPack], kept: &[usize]) {
    let store = DirStore::new(root);
    let there: BTreeSet<_> = store
        .list(ObjectKind::Pack)
        .await
        .unwrap()
        .into_iter()
        .map(|found| found.key)
        .collect();
    for n in kept {
        assert!(
            there.contains(&ObjectKey::Pack(packs[*n].record.id)),
            "kept pack {n} is gone"
        );
    }
    let listed = load_store(&store, None).await.unwrap();
    assert_eq!(listed.damaged, []);
    for id in listed.packs.keys() {
        assert!(
            there.contains(&ObjectKey::Pack(*id)),
            "an index lists pack {id}, which is gone"
        );
    }
}

const KEPT: [usize; 6] = [0, 1, 2, 3, 5, 12];

#[tokio::test]
async fn removes_exactly_what_no_kept_flist_needs() {
    let root = tempfile::tempdir().unwrap();
    let set = set_of(vec![Arc::new(DirStore::new(root.path()))]);
    let packs = fill(&set).await;
    let plan = GcPlan::make(&set, &roots(&packs, &KEPT), &NOW)
        .await
        .unwrap();
    let [store] = plan.stores.as_slice() else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (store.kept_packs, store.packs.len(), store.young_packs),
        (6, 8, 0)
    );
    assert_eq!(store.bytes, store.packs.len() as u64 * packs[0].record.len);
    assert_eq!(
        store.old_indexes.len(),
        2,
        "the index whose packs all stay is not touched"
    );
    assert_eq!(store.missing, []);
    assert_eq!(
        set.stores()
            .next()
            .unwrap()
            .1
            .list(ObjectKind::Pack)
            .await
            .unwrap()
            .len(),
        14,
        "a plan changes nothing"
    );

    plan.apply(&set).await.unwrap();
    assert_sound(root.path(), &packs, &KEPT).await;
    let index = ChunkIndex::load(
        &set,
        &LoadOptions {
            cache: None,
            adopt_max: 0,
        },
    )
    .await
    .unwrap();
    let listed: BTreeSet<_> = index.packs().iter().map(|pack| pack.record.id).collect();
    assert_eq!(
        listed,
        KEPT[..5].iter().map(|n| packs[*n].record.id).collect(),
        "kept packs stay listed"
    );

    let again = GcPlan::make(&set, &roots(&packs, &KEPT), &NOW)
        .await
        .unwrap();
    assert!(
        again.stores[0].packs.is_empty()
            && again.stores[0].old_indexes.is_empty()
            && again.stores[0].new_indexes.is_empty()
    );
}

#[tokio::test]
async fn stopped_at_any_step_it_leaves_the_store_sound_and_can_go_on() {
    let mut steps = 0;
    loop {
        let root = tempfile::tempdir().unwrap();
        let dir: Arc<dyn Store> = Arc::new(DirStore::new(root.path()));
        let packs = fill(&set_of(vec![Arc::clone(&dir)])).await;
        let faulty = FaultStore::new(Arc::clone(&dir), Fault::None);
        let set = set_of(vec![Arc::new(faulty.clone())]);
        let plan = GcPlan::make(&set, &roots(&packs, &KEPT), &NOW)
            .await
            .unwrap();
        faulty.set(Fault::StopAfterChanges(steps));
        let result = plan.apply(&set).await;
        assert_sound(root.path(), &packs, &KEPT).await;

        faulty.set(Fault::None);
        let rest = GcPlan::make(&set, &roots(&packs, &KEPT), &NOW)
            .await
            .unwrap();
        rest.apply(&set).await.unwrap();
        assert_sound(root.path(), &packs, &KEPT).await;
        assert_eq!(dir.list(ObjectKind::Pack).await.unwrap().len(), KEPT.len());
        let index = ChunkIndex::load(
            &set,
            &LoadOptions {
                cache: None,
                adopt_max: 0,
            },
        )
        .await
        .unwrap();
        assert_eq!(index.packs().len(), 5, "after a stop at step {steps}");
        if result.is_ok() {
            break;
        }
        steps += 1;
    }
    assert!(
        steps >= 11,
        "one new index, two old ones, eight packs: {steps}"
    );
}

#[tokio::test]
async fn young_packs_stay() {
    let root = tempfile::tempdir().unwrap();
    let set = set_of(vec![Arc::new(DirStore::new(root.path()))]);
    let packs = fill(&set).await;
    let plan = GcPlan::make(&set, &roots(&packs, &KEPT), &GcOptions::default())
        .await
        .unwrap();
    assert_eq!(
        (plan.stores[0].packs.len(), plan.stores[0].young_packs),
        (0, 8)
    );
}

#[tokio::test]
async fn a_store_that_cannot_be_seen_stops_everything() {
    let root = tempfile::tempdir().unwrap();
    let dir: Arc<dyn Store> = Arc::new(DirStore::new(root.path()));
    let packs = fill(&set_of(vec![Arc::clone(&dir)])).await;
    let faulty = FaultStore::new(Arc::clone(&dir), Fault::Denied);
    let error = GcPlan::make(
        &set_of(vec![dir, Arc::new(faulty)]),
        &roots(&packs, &KEPT),
        &NOW,
    )
    .await
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn missing_packs_are_reported_per_shard() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let specs: Vec<StoreSpec> = [("00-7f", a.path()), ("80-ff", b.path())]
        .map(|(range, path)| StoreSpec {
            range: range.parse().unwrap(),
            url: StoreUrl::dir(path),
        })
        .into();
    let set = StoreSet::open(&specs, StoreOptions::default()).unwrap();
    let packs: Vec<_> = (0..20).map(|n| sample_pack(n, 100)).collect();
    for pack in &packs[1..] {
        set.put(&ObjectKey::Pack(pack.record.id), pack.bytes.clone())
            .await
            .unwrap();
    }
    let all: Vec<usize> = (0..20).collect();
    let plan = GcPlan::make(&set, &roots(&packs, &all), &NOW)
        .await
        .unwrap();
    let missing: Vec<_> = plan
        .stores
        .iter()
        .flat_map(|store| store.missing.clone())
        .collect();
    assert_eq!(missing, [packs[0].record.id]);
    assert!(plan.stores.iter().all(|store| store.packs.is_empty()));
}

/// A flist without files that needs these packs.
fn flist_of(packs: &[&SealedPack]) -> Flist {
    let root = lamina_flist::Metadata {
        perm: 0o755,
        uid: 0,
        gid: 0,
        ..lamina_flist::Metadata::default()
    };
    let mut builder = lamina_flist::FlistBuilder::new(lamina_flist::Tree::new(root));
    let chunk = |(pack, sealed): (usize, &&SealedPack)| {
        let entry = sealed.entries[0];
        lamina_flist::ChunkRecord {
            id: entry.id,
            pack: pack as u32,
            offset: entry.offset,
            stored_len: entry.stored_len,
            len: entry.len,
            codec: entry.codec,
        }
    };
    builder.chunks = packs.iter().enumerate().map(chunk).collect();
    builder.packs = packs.iter().map(|pack| pack.record).collect();
    Flist::parse(builder.build().unwrap().bytes.into()).unwrap()
}

#[tokio::test]
async fn published_flists_keep_their_packs_until_told_otherwise() {
    let root = tempfile::tempdir().unwrap();
    let set = set_of(vec![Arc::new(DirStore::new(root.path()))]);
    let packs = fill(&set).await;
    let (one, two) = (flist_of(&[&packs[1]]), flist_of(&[&packs[6]]));
    crate::publish_flist(&set, &one).await.unwrap();
    crate::publish_flist(&set, &two).await.unwrap();
    assert_eq!(
        crate::fetch_flist(&set, one.digest())
            .await
            .unwrap()
            .as_bytes(),
        one.as_bytes()
    );

    let plan = GcPlan::make(&set, &GcRoots::default(), &NOW).await.unwrap();
    assert_eq!(
        (plan.stores[0].kept_packs, plan.stores[0].flists.len()),
        (2, 0)
    );
    plan.apply(&set).await.unwrap();
    assert_sound(root.path(), &packs, &[1, 6]).await;

    let mut only_one = GcRoots::default();
    only_one.keep_flist(&one);
    let options = GcOptions {
        keep_published: false,
        ..NOW
    };
    let plan = GcPlan::make(&set, &only_one, &options).await.unwrap();
    assert_eq!(plan.stores[0].flists, [two.digest()]);
    plan.apply(&set).await.unwrap();
    assert_sound(root.path(), &packs, &[1]).await;
    assert_eq!(
        crate::fetch_flist(&set, two.digest())
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn a_damaged_published_flist_stops_everything() {
    let root = tempfile::tempdir().unwrap();
    let set = set_of(vec![Arc::new(DirStore::new(root.path()))]);
    let packs = fill(&set).await;
    let flist = flist_of(&[&packs[1]]);
    let key = crate::publish_flist(&set, &flist).await.unwrap();
    let path = root.path().join(key.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = GcPlan::make(&set, &roots(&packs, &KEPT), &NOW)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

/// A flist of these packs and a pointer to it, both published.
async fn publish(set: &StoreSet, name: u8, packs: &[&SealedPack]) -> (Flist, ImageKey) {
    let flist = flist_of(packs);
    crate::publish_flist(set, &flist).await.unwrap();
    let pointer = crate::ImagePointer {
        flist: flist.digest(),
        manifest: lamina_flist::Sha256Digest::from_bytes([name; 32]),
        platform: "linux/amd64".to_owned(),
    };
    crate::publish_pointer(set, &pointer).await.unwrap();
    (flist, pointer.key())
}

async fn pointers(set: &StoreSet) -> BTreeSet<ObjectKey> {
    let mut found = BTreeSet::new();
    for (_, store) in set.stores() {
        let listed = store.list(ObjectKind::Image).await.unwrap();
        found.extend(listed.into_iter().map(|found| found.key));
    }
    found
}

#[tokio::test]
async fn pointers_go_and_stay_with_their_flist() {
    let root = tempfile::tempdir().unwrap();
    let set = set_of(vec![Arc::new(DirStore::new(root.path()))]);
    let packs = fill(&set).await;
    let (kept, pointer) = publish(&set, 1, &[&packs[0]]).await;
    let (_, other) = publish(&set, 2, &[&packs[1]]).await;
    let damaged = ObjectKey::Image(ImageKey::new(
        &lamina_flist::Sha256Digest::from_bytes([3; 32]),
        "linux/amd64",
    ));
    let (_, store) = set.stores().next().unwrap();
    store
        .put(&damaged, Bytes::from_static(b"{}"))
        .await
        .unwrap();

    let plan = GcPlan::make(&set, &GcRoots::default(), &NOW).await.unwrap();
    plan.apply(&set).await.unwrap();
    let both = [pointer, other].map(ObjectKey::Image);
    assert_eq!(pointers(&set).await, BTreeSet::from(both));

    let mut roots = GcRoots::default();
    roots.keep_flist(&kept);
    let options = GcOptions {
        keep_published: false,
        ..NOW
    };
    let plan = GcPlan::make(&set, &roots, &options).await.unwrap();
    plan.apply(&set).await.unwrap();
    assert_eq!(
        pointers(&set).await,
        BTreeSet::from([ObjectKey::Image(pointer)])
    );
}

#[tokio::test]
async fn forgetting_one_flist_leaves_what_others_and_nobody_use() {
    let root = tempfile::tempdir().unwrap();
    let set = set_of(vec![Arc::new(DirStore::new(root.path()))]);
    let packs = fill(&set).await;
    let (gone, _) = publish(&set, 1, &[&packs[0], &packs[1]]).await;
    let (_, other) = publish(&set, 2, &[&packs[1], &packs[2]]).await;
    let options = GcOptions {
        only: Some(Forgotten::new(&gone)),
        ..NOW
    };
    let plan = GcPlan::make(&set, &GcRoots::default(), &options)
        .await
        .unwrap();
    assert_eq!(plan.stores[0].packs, [packs[0].record.id]);
    assert_eq!(plan.stores[0].flists, [gone.digest()]);
    plan.apply(&set).await.unwrap();
    assert_eq!(
        pointers(&set).await,
        BTreeSet::from([ObjectKey::Image(other)])
    );
    let rest: Vec<usize> = (1..packs.len()).collect();
    assert_sound(root.path(), &packs, &rest).await;
}
