//! Tests of eviction: what goes, what stays, and that no reader ever takes a
//! hole for data, whichever process is killed when.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lamina_flist::{BlobId, ChunkId};

use crate::cache::{BlobFile, BlobReader, CacheDir, CacheError, MapCheck, Trust, TryRead};

const ENTRIES: usize = 64;

/// Neighbours share blocks, as chunks cut by content do; every ninth begins on
/// a block, as files do.
fn places() -> Vec<(u64, usize)> {
    let mut at = 0u64;
    (0..ENTRIES)
        .map(|entry| {
            if entry.is_multiple_of(9) {
                at = at.next_multiple_of(4096);
            }
            let len = 9000 + entry * 331;
            let place = (at, len);
            at += len as u64;
            place
        })
        .collect()
}

fn blob_len() -> u64 {
    let (at, len) = places()[ENTRIES - 1];
    (at + len as u64).next_multiple_of(4096)
}

/// Never zero.
fn byte(at: u64) -> u8 {
    (at % 251) as u8 + 1
}

fn content(entry: usize) -> Vec<u8> {
    let (offset, len) = places()[entry];
    (offset..offset + len as u64).map(byte).collect()
}

fn map_bytes() -> Vec<u8> {
    let mut map = b"LAMMAP01".to_vec();
    map.extend((ENTRIES as u32).to_le_bytes());
    map.extend(0u32.to_le_bytes());
    map.extend(blob_len().to_le_bytes());
    for (entry, (offset, len)) in places().into_iter().enumerate() {
        map.extend(offset.to_le_bytes());
        map.extend((len as u32).to_le_bytes());
        map.extend(0u32.to_le_bytes());
        map.extend(ChunkId::of(&content(entry)).as_bytes());
    }
    map
}

struct Scene {
    root: tempfile::TempDir,
    id: BlobId,
}

impl Scene {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let id = BlobId::of(&map_bytes());
        Self { root, id }
    }

    fn dir(&self) -> PathBuf {
        CacheDir::new(self.root.path()).blob_dir(&self.id)
    }

    /// A test beside this one may be starting a process, which has our lock until it runs its program.
    fn open(&self, trust: Trust) -> BlobFile {
        let patience = std::time::Duration::from_secs(30);
        BlobFile::open_waiting(&self.dir(), &self.id, map_bytes, trust, patience).unwrap()
    }

    fn filled() -> (Self, BlobFile) {
        let scene = Self::new();
        let blob = scene.open(Trust::Closed);
        for entry in 0..ENTRIES {
            blob.write_entry(entry, &content(entry)).unwrap();
        }
        (scene, blob)
    }

    fn reader(&self) -> BlobReader {
        BlobReader::open(&self.dir(), &self.id, MapCheck::Identity).unwrap()
    }

    fn disk_bytes(&self) -> u64 {
        CacheDir::new(self.root.path()).disk_bytes(&self.id)
    }
}

fn read(reader: &BlobReader, entry: usize) -> TryRead {
    let (offset, len) = places()[entry];
    let mut buffer = vec![0; len];
    let outcome = reader.try_read_at(&mut buffer, offset).unwrap();
    if outcome == TryRead::Done {
        assert!(buffer == content(entry), "wrong bytes in entry {entry}");
    }
    outcome
}

fn present(blob: &BlobFile) -> Vec<usize> {
    (0..ENTRIES)
        .filter(|&entry| blob.is_present(entry..entry + 1))
        .collect()
}

#[test]
fn what_was_read_gets_a_second_chance_and_the_rest_goes_first() {
    let (scene, blob) = Scene::filled();
    let reader = scene.reader();
    let kept = [3, 4, 40, 63];
    for entry in kept {
        assert_eq!(read(&reader, entry), TryRead::Done);
    }
    let swept = blob.evict_cold(0, u64::MAX, |_, _| true).unwrap();
    assert_eq!((swept.evicted, swept.next), (ENTRIES - 4, ENTRIES));
    assert_eq!(present(&blob), kept);
    for entry in kept {
        assert_eq!(read(&reader, entry), TryRead::Done);
    }
    blob.evict_cold(0, u64::MAX, |_, _| true).unwrap();
    assert_eq!(present(&blob), kept, "read again since");
    blob.evict_cold(0, u64::MAX, |_, _| true).unwrap();
    assert!(present(&blob).is_empty());
}

#[test]
fn what_somebody_waits_for_stays() {
    let (_scene, blob) = Scene::filled();
    let swept = blob.evict_cold(0, u64::MAX, |entry, _| entry != 7).unwrap();
    assert_eq!((swept.kept, present(&blob)), (1, vec![7]));
}

#[test]
fn eviction_stops_when_enough_is_free_and_goes_on_from_there() {
    let (scene, blob) = Scene::filled();
    let before = scene.disk_bytes();
    let swept = blob.evict_cold(10, 100_000, |_, _| true).unwrap();
    assert!((60_000..140_000).contains(&swept.freed), "{swept:?}");
    assert_eq!(before - scene.disk_bytes(), swept.freed);
    assert_eq!(present(&blob)[..10], (0..10).collect::<Vec<_>>());
    assert_eq!(swept.next, 10 + swept.evicted);
    assert_eq!(present(&blob)[10], swept.next);
}

#[test]
fn an_emptied_blob_takes_no_space_whatever_the_order_of_its_going() {
    let (scene, blob) = Scene::filled();
    for step in [2, 3, 1] {
        blob.evict_cold(0, u64::MAX, |entry, _| entry % step == 0)
            .unwrap();
    }
    assert!(present(&blob).is_empty());
    assert_eq!(scene.disk_bytes(), 0, "shared blocks are freed, too");
}

#[test]
fn a_reader_finds_evicted_entries_missing_in_a_new_generation() {
    let (scene, blob) = Scene::filled();
    let reader = scene.reader();
    let generation = reader.generation();
    assert_eq!(read(&reader, 5), TryRead::Done);
    blob.evict_cold(0, u64::MAX, |entry, _| entry == 6).unwrap();
    let TryRead::Missing {
        entries,
        generation: now,
    } = read(&reader, 6)
    else {
        panic!("read a hole");
    };
    assert_eq!(entries, 6..7);
    assert!(now > generation);
    blob.write_entry(6, &content(6)).unwrap();
    assert_eq!(read(&reader, 6), TryRead::Done);
}

#[test]
fn a_read_that_an_eviction_fell_into_is_not_believed() {
    let (scene, blob) = Scene::filled();
    let reader = scene.reader();
    let evict = || blob.evict_cold(0, u64::MAX, |entry, _| entry == 6).unwrap();
    let evicted = reader.try_read(5..7, || {
        evict();
        Ok(())
    });
    assert!(matches!(evicted, Ok(TryRead::Missing { entries, .. }) if entries == (6..7)));
    blob.write_entry(6, &content(6)).unwrap();
    let mut reads = 0;
    let refilled = reader.try_read(5..7, || {
        reads += 1;
        if reads == 1 {
            evict();
            blob.write_entry(6, &content(6)).unwrap();
        }
        Ok(())
    });
    assert_eq!((refilled.unwrap(), reads), (TryRead::Done, 2));
}

#[test]
fn a_blob_given_to_the_kernel_is_never_punched_in_this_boot() {
    let (scene, blob) = Scene::filled();
    assert!(blob.pin_if_complete().unwrap());
    let evicts_nothing = |blob: &BlobFile| {
        let swept = blob.evict_cold(0, u64::MAX, |_, _| true).unwrap();
        assert_eq!(swept.evicted, 0);
        assert!(blob.is_complete());
    };
    evicts_nothing(&blob);
    drop(blob);
    // Neither after a crash nor after a clean end.
    let blob = scene.open(Trust::SameBoot);
    evicts_nothing(&blob);
    blob.seal().unwrap();
    drop(blob);
    let blob = scene.open(Trust::Closed);
    assert_eq!(
        blob.report().verified,
        0,
        "the mark does not cost the trust"
    );
    evicts_nothing(&blob);
}

#[test]
fn an_incomplete_blob_is_not_pinned() {
    let (_scene, blob) = Scene::filled();
    blob.evict_cold(0, u64::MAX, |entry, _| entry == 0).unwrap();
    assert!(!blob.pin_if_complete().unwrap());
    let swept = blob.evict_cold(0, u64::MAX, |_, _| true).unwrap();
    assert_eq!(swept.evicted, ENTRIES - 1);
}

#[test]
fn a_pin_does_not_outlive_the_kernel_that_held_the_file() {
    let (scene, blob) = Scene::filled();
    blob.pin_if_complete().unwrap();
    blob.seal().unwrap();
    drop(blob);
    let path = scene.dir().join("seal");
    let text = std::fs::read(&path).unwrap();
    let mut seal: serde_json::Value = serde_json::from_slice(&text).unwrap();
    seal["boot_id"] = "another".into();
    std::fs::write(&path, seal.to_string()).unwrap();
    let blob = scene.open(Trust::Closed);
    assert!(!blob.is_pinned());
    let data = std::fs::metadata(scene.dir().join("data")).unwrap();
    assert_eq!(data.mode() & 0o7777, 0o600);
}

#[test]
fn bytes_a_killed_evictor_left_without_a_bit_are_freed() {
    let (scene, blob) = Scene::filled();
    for entry in 20..30 {
        blob.present.clear(entry);
    }
    let (before, generation) = (scene.disk_bytes(), scene.reader().generation());
    drop(blob);
    let blob = scene.open(Trust::SameBoot);
    assert!(before - scene.disk_bytes() > 10 * 9000);
    assert!(scene.reader().generation() > generation);
    assert_eq!(present(&blob).len(), ENTRIES - 10);
}

#[test]
fn a_bitmap_of_another_version_is_replaced_by_an_empty_one() {
    let (scene, blob) = Scene::filled();
    drop(blob);
    let path = scene.dir().join("present");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[7] = b'3';
    std::fs::write(&path, bytes).unwrap();
    assert!(BlobReader::open(&scene.dir(), &scene.id, MapCheck::Identity).is_err());
    let blob = scene.open(Trust::SameBoot);
    assert_eq!((blob.report().replaced, blob.present_count()), (2, 0));
}

#[test]
fn a_read_that_a_verification_fell_into_is_not_believed() {
    let (scene, mut blob) = Scene::filled();
    let reader = scene.reader();
    blob.data.write_all_at(&[0], places()[6].0 + 100).unwrap();
    let outcome = reader.try_read(5..7, || {
        blob.verify_present().unwrap();
        blob.free_absent();
        Ok(())
    });
    assert!(matches!(outcome, Ok(TryRead::Missing { entries, .. }) if entries == (6..7)));
}

#[test]
fn a_reader_keeps_its_bytes_when_the_bitmap_is_replaced() {
    for damage in [Some(9), None] {
        let (scene, blob) = Scene::filled();
        let reader = scene.reader();
        drop(blob);
        let path = scene.dir().join("present");
        std::fs::remove_file(&path).unwrap();
        if let Some(len) = damage {
            std::fs::write(&path, vec![7; len]).unwrap();
        }
        let blob = scene.open(Trust::SameBoot);
        assert!(present(&blob).is_empty());
        for entry in 0..ENTRIES {
            assert_eq!(read(&reader, entry), TryRead::Done);
        }
        assert_ne!(scene.reader().files(), reader.files(), "to be told apart");
    }
}

#[test]
fn a_hole_refused_for_the_moment_is_punched_with_the_next_eviction() {
    let (scene, mut blob) = Scene::filled();
    // Whose file is not open for writing.
    let read_only = std::fs::File::open(scene.dir().join("data")).unwrap();
    let writable = std::mem::replace(&mut blob.data, read_only);
    let refused = blob.evict_cold(0, u64::MAX, |entry, _| entry < 60);
    assert!(refused.is_err() && !blob.is_pinned());
    let before = scene.disk_bytes();
    blob.data = writable;
    let swept = blob.evict_cold(0, u64::MAX, |_, _| true).unwrap();
    assert_eq!((swept.evicted, swept.freed), (4, before));
    assert_eq!(scene.disk_bytes(), 0);
}

#[test]
fn only_a_file_system_without_holes_stops_eviction_for_good() {
    let error = |errno| {
        let source = std::io::Error::from_raw_os_error(errno);
        CacheError::io("punch a hole into", Path::new("data"), source)
    };
    assert!(super::is_unsupported(&error(libc::EOPNOTSUPP)));
    for errno in [libc::ENOSPC, libc::EIO, libc::EINTR, libc::ENOMEM] {
        assert!(!super::is_unsupported(&error(errno)), "{errno}");
    }
}

/// Where the child of the stress test finds its blob.
const CHILD_DIR: &str = "LAMINA_TEST_EVICTOR_DIR";
/// Kills of the evictor, and reads that found their bytes after each.
const KILLS: usize = 4;
const READS_PER_LIFE: u64 = 1000;
/// Generations it must get on in each of its lives, two with every eviction.
const EVICTIONS_PER_LIFE: u64 = 50;

#[test]
fn readers_never_see_a_hole_while_another_process_fills_evicts_and_is_killed() {
    let scene = Scene::new();
    drop(scene.open(Trust::Closed));
    let (good, ends) = (AtomicU64::new(0), AtomicBool::new(false));
    let reader = scene.reader();
    let begun = reader.generation();
    std::thread::scope(|scope| {
        for seed in 1..4u64 {
            let (reader, good, ends) = (&reader, &good, &ends);
            scope.spawn(move || read_until(reader, seed, good, ends));
        }
        let _ends = EndOnDrop(&ends);
        for life in 1..=KILLS as u64 {
            let _evictor = Evictor::start(&scene.dir());
            // Generous: an emulated machine on a busy one is a hundred times slower.
            let deadline = Instant::now() + Duration::from_mins(5);
            while good.load(Ordering::Relaxed) < life * READS_PER_LIFE
                || reader.generation() - begun < life * EVICTIONS_PER_LIFE
            {
                assert!(Instant::now() < deadline, "no progress");
                std::thread::yield_now();
            }
        }
    });
    // What `Trust::SameBoot` relies on: no kill left a bit that is not true.
    let report = scene.open(Trust::Closed).report();
    assert!(report.verified > 0, "{report:?}");
    assert_eq!(report.cleared, 0);
}

fn read_until(reader: &BlobReader, seed: u64, good: &AtomicU64, ends: &AtomicBool) {
    let mut random = seed;
    let expected: Vec<u8> = (0..blob_len()).map(byte).collect();
    let mut buffer = vec![0; expected.len()];
    while !ends.load(Ordering::Relaxed) {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        // One file of the blob: a long read, in which an eviction may fall.
        let first = (random >> 40) as usize % ENTRIES / 9 * 9;
        let last = (first + 8).min(ENTRIES - 1);
        let (start, end) = (
            places()[first].0,
            places()[last].0 + places()[last].1 as u64,
        );
        let buffer = &mut buffer[..(end - start) as usize];
        if reader.try_read_at(buffer, start).unwrap() == TryRead::Done {
            let expected = &expected[start as usize..end as usize];
            assert!(buffer == expected, "a hole or wrong bytes");
            good.fetch_add(1, Ordering::Relaxed);
        } else {
            std::thread::yield_now();
        }
    }
}

struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// This test program again, as the process that fills and evicts.
struct Evictor(Child);

impl Evictor {
    fn start(dir: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "cache::evict::tests::evictor"])
            .env(CHILD_DIR, dir)
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Evictor {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Not a test: what the stress test's other process does until it is killed.
#[test]
#[ignore = "run by readers_never_see_a_hole_while_another_process_fills_evicts_and_is_killed"]
fn evictor() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let id = BlobId::of(&map_bytes());
    let blob = BlobFile::open(Path::new(&dir), &id, map_bytes, Trust::SameBoot).unwrap();
    let contents: Vec<_> = (0..ENTRIES).map(content).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    for (entry, content) in contents.iter().enumerate() {
                        blob.write_entry(entry, content).unwrap();
                    }
                }
            });
        }
        let mut hand = 0;
        loop {
            let swept = blob.evict_cold(hand, 10_000, |_, _| true).unwrap();
            hand = swept.next % ENTRIES;
            std::thread::yield_now();
        }
    });
}
