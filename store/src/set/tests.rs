//! A set whose replicas misbehave: bounded waits, the other replica is used, never a wrong byte.
//!
//! Time is tokio's paused clock, so waits are exact and cost nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::backend::EmbeddedStore;
use crate::conformance::sample_pack;
use crate::fault::{Fault, FaultStore};
use crate::pack::SealedPack;

/// A store in memory without threads, so that the paused clock never runs ahead of it.
fn memory(pack: &SealedPack) -> Arc<dyn Store> {
    Arc::new(crate::fault::MemoryStore::with([(
        ObjectKey::Pack(pack.record.id),
        pack.bytes.clone(),
    )]))
}

fn faulty(pack: &SealedPack, fault: Fault) -> FaultStore {
    FaultStore::new(memory(pack), fault)
}

fn set_of(stores: &[&FaultStore]) -> StoreSet {
    let stores = stores
        .iter()
        .map(|s| (ShardRange::ALL, Arc::new((*s).clone()) as Arc<dyn Store>))
        .collect();
    StoreSet::from_stores(stores, StoreOptions::default()).unwrap()
}

/// A verified read, as the chunk reader does it.
async fn read(set: &StoreSet, pack: &SealedPack) -> Result<Bytes> {
    let entry = pack.entries[0];
    let check = |bytes: Bytes| {
        crate::codec::decode(&entry.id, entry.codec, &bytes, entry.len).map_err(|e| e.to_string())
    };
    set.read(
        &PackRef::from(&pack.record),
        0..u64::from(entry.stored_len),
        check,
    )
    .await
}

const BAD: [Fault; 9] = [
    Fault::Down,
    Fault::Refused,
    Fault::Hang,
    Fault::Slow(Duration::from_hours(1)),
    Fault::Short,
    Fault::Zeros,
    Fault::Flip,
    Fault::Denied,
    Fault::Flaky,
];

#[tokio::test(start_paused = true)]
async fn one_good_replica_is_enough_whatever_the_other_does() {
    let pack = sample_pack(1, 100_000);
    for fault in BAD {
        for good_first in [false, true] {
            let (bad, good) = (faulty(&pack, fault), faulty(&pack, Fault::None));
            let set = if good_first {
                set_of(&[&good, &bad])
            } else {
                set_of(&[&bad, &good])
            };
            let start = Instant::now();
            let bytes = read(&set, &pack)
                .await
                .unwrap_or_else(|e| panic!("{fault:?}: {e}"));
            assert!(
                bytes == pack.bytes.slice(..100_000),
                "{fault:?}: wrong bytes"
            );
            assert!(
                start.elapsed() <= Duration::from_secs(2),
                "{fault:?}: waited {:?}",
                start.elapsed()
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_good_replica_is_an_error_within_the_budget_and_never_bytes() {
    let pack = sample_pack(2, 100_000);
    for (fault, kind) in [
        (Fault::Down, ErrorKind::Unavailable),
        (Fault::Hang, ErrorKind::Timeout),
        (Fault::Short, ErrorKind::Corrupt),
        (Fault::Zeros, ErrorKind::Corrupt),
        (Fault::Flip, ErrorKind::Corrupt),
        (Fault::Denied, ErrorKind::Denied),
    ] {
        let (a, b) = (faulty(&pack, fault), faulty(&pack, fault));
        let start = Instant::now();
        let error = read(&set_of(&[&a, &b]), &pack).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{fault:?}: {error}");
        assert_eq!(error.object(), Some(&ObjectKey::Pack(pack.record.id)));
        assert!(error.to_string().contains("no replica left"), "{error}");
        let budget = StoreOptions::default().budget + Duration::from_secs(2);
        assert!(
            start.elapsed() <= budget,
            "{fault:?}: {:?}",
            start.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_flaky_single_store_is_retried() {
    let pack = sample_pack(3, 1000);
    let store = faulty(&pack, Fault::Flaky);
    assert!(read(&set_of(&[&store]), &pack).await.is_ok());
    assert_eq!(store.reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_waited_for_in_vain_is_asked_once_by_everything_after() {
    let pack = sample_pack(8, 1000);
    let key = ObjectKey::Pack(pack.record.id);
    for fault in [Fault::Refused, Fault::Down, Fault::Hang] {
        let store = faulty(&pack, fault);
        let set = set_of(&[&store]);
        read(&set, &pack).await.unwrap_err();
        let tries = store.requests();
        assert!(tries > 1, "{fault:?}: retried");
        read(&set, &pack).await.unwrap_err();
        set.get(&key).await.unwrap_err();
        set.has(&key, pack.record.len).await.unwrap_err();
        set.put(&key, pack.bytes.clone()).await.unwrap_err();
        let (_, steady) = set.stores().next().unwrap();
        steady.list(crate::ObjectKind::Index).await.unwrap_err();
        assert_eq!(store.requests(), tries + 5, "{fault:?}");
        store.set(Fault::None);
        read(&set, &pack).await.unwrap();
        store.set(Fault::Flaky);
        for _ in 0..4 {
            read(&set, &pack)
                .await
                .expect("trusted and waited for again");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn size_prolongs_tries_but_not_the_wait_for_a_store_that_is_down() {
    let options = StoreOptions::default();
    for (fault, budget) in [
        (Fault::Refused, options.connect_budget),
        (Fault::Down, options.budget),
    ] {
        let store = FaultStore::new(Arc::new(crate::fault::MemoryStore::default()), fault);
        let steady = crate::Retry::new(Arc::new(store), options.clone());
        let start = Instant::now();
        let error = steady.list(crate::ObjectKind::Pack).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let waited = start.elapsed();
        assert!(
            budget / 3 * 2 < waited && waited < budget,
            "{fault:?}: {waited:?}"
        );
    }
}

/// Once, who waited for a store that had said what was wrong was told of the last wait alone.
#[tokio::test(start_paused = true)]
async fn a_time_out_says_what_was_wrong_before() {
    let pack = sample_pack(9, 1000);
    let (store, other) = (faulty(&pack, Fault::Down), faulty(&pack, Fault::Down));
    let set = set_of(&[&store]);
    let steady = crate::Retry::new(Arc::new(other.clone()), StoreOptions::default());
    let later = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        store.set(Fault::Hang);
        other.set(Fault::Hang);
    };
    let listed = steady.list(crate::ObjectKind::Pack);
    let (read, listed, ()) = tokio::join!(read(&set, &pack), listed, later);
    for error in [read.unwrap_err(), listed.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Timeout);
        let said = error.to_string();
        assert!(said.contains("before: store unavailable"), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_replica_refusing_connections_does_not_shorten_the_wait_for_the_other() {
    let pack = sample_pack(9, 1000);
    let (refused, down) = (faulty(&pack, Fault::Refused), faulty(&pack, Fault::Down));
    let set = set_of(&[&refused, &down]);
    let later = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        down.set(Fault::None);
    };
    let (bytes, ()) = tokio::join!(read(&set, &pack), later);
    assert!(bytes.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_is_used_again() {
    let pack = sample_pack(4, 1000);
    let store = faulty(&pack, Fault::Down);
    let set = set_of(&[&store]);
    let later = async {
        tokio::time::sleep(Duration::from_secs(8)).await;
        store.set(Fault::None);
    };
    let (bytes, ()) = tokio::join!(read(&set, &pack), later);
    assert!(bytes.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_bad_replica_is_asked_last_for_a_while_and_then_tried_again() {
    let pack = sample_pack(5, 1000);
    for fault in [Fault::Hang, Fault::Down, Fault::Zeros] {
        let (bad, good) = (faulty(&pack, fault), faulty(&pack, Fault::None));
        let set = set_of(&[&bad, &good]);
        read(&set, &pack).await.unwrap();
        let start = Instant::now();
        for _ in 0..100 {
            read(&set, &pack).await.unwrap();
        }
        assert_eq!(bad.reads(), 1, "{fault:?}: left alone after its failure");
        assert_eq!(
            start.elapsed(),
            Duration::ZERO,
            "{fault:?}: and costs nothing"
        );
        bad.set(Fault::None);
        tokio::time::advance(StoreOptions::default().quarantine + Duration::from_secs(1)).await;
        read(&set, &pack).await.unwrap();
        assert_eq!(bad.reads(), 2, "{fault:?}: first again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_reaches_every_owner_or_fails_naming_the_one_it_did_not() {
    let pack = sample_pack(6, 1000);
    let key = ObjectKey::Pack(pack.record.id);
    let empty = || FaultStore::new(Arc::new(crate::fault::MemoryStore::default()), Fault::None);
    let (a, b) = (empty(), empty());
    let set = set_of(&[&a, &b]);
    b.set(Fault::Full);
    assert_eq!(
        set.put(&key, pack.bytes.clone()).await.unwrap_err().kind(),
        ErrorKind::Full
    );
    assert!(!set.has(&key, pack.record.len).await.unwrap());
    b.set(Fault::Flaky);
    set.put(&key, pack.bytes.clone()).await.unwrap();
    b.set(Fault::None);
    assert!(set.has(&key, pack.record.len).await.unwrap());
    assert!(!set.has(&key, pack.record.len + 1).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_whole_object_is_checked_against_its_name() {
    let pack = sample_pack(7, 1000);
    let key = ObjectKey::Pack(pack.record.id);
    let (bad, good) = (faulty(&pack, Fault::Flip), faulty(&pack, Fault::None));
    assert_eq!(set_of(&[&bad, &good]).get(&key).await.unwrap(), pack.bytes);
    assert_eq!(
        set_of(&[&bad]).get(&key).await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

#[test]
fn a_gap_in_the_hash_space_and_no_store_at_all_are_refused() {
    let spec: StoreSpec = "00-7f=dir:///a".parse().unwrap();
    let error = StoreSet::open(&[spec], StoreOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("starting with 80"), "{error}");
    assert_eq!(
        StoreSet::open(&[], StoreOptions::default())
            .unwrap_err()
            .kind(),
        ErrorKind::Invalid
    );
}

#[test]
fn read_only_stores_are_found_out_before_work_starts() {
    let file = tempfile::tempfile().unwrap();
    let store = EmbeddedStore::new(file, "x", 0, []).unwrap();
    let set = StoreSet::from_stores(
        vec![(ShardRange::ALL, Arc::new(store))],
        StoreOptions::default(),
    )
    .unwrap();
    assert_eq!(
        set.check_writable().unwrap_err().kind(),
        ErrorKind::Unsupported
    );
}
