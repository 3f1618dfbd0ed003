//! Tests of the blob file system without a kernel.

use std::ops::Range;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use lamina_flist::{BlobId, ChunkId};

use super::*;
use crate::cache::{BlobFile, BlobReader, CacheDir, MapCheck, Trust};
use crate::filler::{FillDone, FillError, Filler};

const INO: u64 = 2;
const ENTRY: usize = 4096;
const ENTRIES: usize = 8;
/// The last page is padding.
const BLOB_LEN: u64 = (ENTRY * (ENTRIES + 1)) as u64;

fn content(entry: usize) -> Vec<u8> {
    vec![entry as u8 + 1; ENTRY]
}

fn map_bytes() -> Vec<u8> {
    let mut map = b"LAMMAP01".to_vec();
    map.extend((ENTRIES as u32).to_le_bytes());
    map.extend(0u32.to_le_bytes());
    map.extend(BLOB_LEN.to_le_bytes());
    for entry in 0..ENTRIES {
        map.extend(((entry * ENTRY) as u64).to_le_bytes());
        map.extend((ENTRY as u32).to_le_bytes());
        map.extend(0u32.to_le_bytes());
        map.extend(ChunkId::of(&content(entry)).as_bytes());
    }
    map
}

/// A filler that fills nothing until the test says so.
#[derive(Default)]
struct Patient(Mutex<Vec<(Range<usize>, FillDone)>>);

impl Filler for Patient {
    fn start(&self, _blob: &BlobId, entries: Range<usize>, _deadline: Instant, done: FillDone) {
        self.0.lock().unwrap().push((entries, done));
    }
}

struct Scene {
    _root: tempfile::TempDir,
    fs: BlobFs,
    filler: Arc<Patient>,
    blob: BlobFile,
}

impl Scene {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let id = BlobId::of(&map_bytes());
        let dir = CacheDir::new(root.path()).blob_dir(&id);
        let blob = BlobFile::open(&dir, &id, map_bytes, Trust::Closed).unwrap();
        let filler = Arc::new(Patient::default());
        let fs = BlobFs::new(Arc::clone(&filler) as _, BlobFsOptions::default());
        fs.insert(
            INO,
            BlobReader::open(&dir, &id, MapCheck::Identity).unwrap(),
        );
        Self {
            _root: root,
            fs,
            filler,
            blob,
        }
    }

    fn write(&self, entries: Range<usize>) {
        for entry in entries {
            self.blob.write_entry(entry, &content(entry)).unwrap();
        }
    }

    /// Begins a read; its outcome comes through the channel.
    fn read(&self, offset: u64, size: u32) -> Receiver<Result<Vec<u8>, ReadError>> {
        let (tell, told) = mpsc::channel();
        self.fs.read_at(INO, offset, size, move |outcome| {
            tell.send(outcome.map(<[u8]>::to_vec)).unwrap();
        });
        told
    }

    fn next_fill(&self) -> (Range<usize>, FillDone) {
        self.filler.0.lock().unwrap().remove(0)
    }

    fn stats(&self) -> BlobStats {
        self.fs.stats()[0].1
    }
}

#[test]
fn present_bytes_are_answered_at_once() {
    let scene = Scene::new();
    scene.write(0..2);
    let bytes = scene.read(4000, 200).try_recv().unwrap().unwrap();
    assert_eq!(bytes, [[1; 96].as_slice(), &[2; 104]].concat());
    assert!(scene.filler.0.lock().unwrap().is_empty());
    assert_eq!((scene.stats().reads, scene.stats().bytes_local), (1, 200));
    let first = scene.stats().first_read_unix_ms;
    scene.read(0, 1).try_recv().unwrap().unwrap();
    assert_eq!(scene.stats().reads, 2);
    assert!(first > 0 && scene.stats().first_read_unix_ms == first);
}

#[test]
fn missing_bytes_are_asked_for_once_and_exactly_and_answered_when_filled() {
    let scene = Scene::new();
    scene.write(0..1);
    scene.write(3..4);
    let told = scene.read(0, 4 * ENTRY as u32);
    assert!(told.try_recv().is_err(), "must wait");
    let (entries, done) = scene.next_fill();
    assert_eq!(entries, 1..3);
    scene.write(entries);
    done(Ok(()));
    let bytes = told.try_recv().unwrap().unwrap();
    assert_eq!(
        bytes,
        [content(0), content(1), content(2), content(3)].concat()
    );
    let stats = scene.stats();
    assert_eq!(
        (stats.reads_waited, stats.bytes_waited),
        (1, 4 * ENTRY as u64)
    );
    assert_eq!((stats.entries, stats.entries_present), (8, 4));
}

#[test]
fn present_bytes_do_not_wait_behind_missing_ones() {
    let scene = Scene::new();
    scene.write(7..8);
    let waiting: Vec<_> = (0..1000).map(|_| scene.read(0, 4096)).collect();
    let bytes = scene.read(7 * ENTRY as u64, 4096).try_recv().unwrap();
    assert_eq!(bytes.unwrap(), content(7));
    scene.write(0..1);
    for told in waiting {
        scene.next_fill().1(Ok(()));
        assert_eq!(told.try_recv().unwrap().unwrap(), content(0));
    }
}

#[test]
fn a_failed_fill_is_an_error_and_a_second_try_works() {
    let scene = Scene::new();
    let told = scene.read(0, 100);
    scene.next_fill().1(Err(FillError::Failed("no route".into())));
    let error = told.try_recv().unwrap().unwrap_err();
    assert!(matches!(error, ReadError::Fill { .. }), "{error}");
    let told = scene.read(0, 100);
    scene.write(0..1);
    scene.next_fill().1(Ok(()));
    assert_eq!(told.try_recv().unwrap().unwrap(), [1; 100]);
    assert_eq!(scene.stats().reads_failed, 1);
}

#[test]
fn a_filler_that_lies_yields_an_error_and_no_zeros() {
    let scene = Scene::new();
    let told = scene.read(0, 2 * ENTRY as u32);
    scene.write(0..1);
    scene.next_fill().1(Ok(()));
    let error = told.try_recv().unwrap().unwrap_err();
    let ReadError::Fill { source, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(source, FillError::NotFilled(1..2));
}

#[test]
fn what_was_evicted_before_it_could_be_read_is_asked_for_again() {
    let scene = Scene::new();
    let told = scene.read(0, 2 * ENTRY as u32);
    let (entries, done) = scene.next_fill();
    scene.write(entries);
    let swept = scene.blob.evict_cold(1, 1, |_, _| true).unwrap();
    assert_eq!(swept.evicted, 1);
    done(Ok(()));
    assert!(told.try_recv().is_err(), "must wait");
    let (entries, done) = scene.next_fill();
    assert_eq!(entries, 1..2);
    scene.write(entries);
    done(Ok(()));
    let bytes = told.try_recv().unwrap().unwrap();
    assert_eq!(bytes, [content(0), content(1)].concat());
    assert_eq!(scene.stats().reads_failed, 0);
}

#[test]
fn what_an_eviction_under_way_took_is_asked_for_again() {
    let scene = Scene::new();
    let told = scene.read(0, ENTRY as u32);
    let (entries, done) = scene.next_fill();
    scene.write(entries);
    // The evictor has got no further than the bits.
    scene.blob.withdraw(&[0]);
    done(Ok(()));
    assert!(told.try_recv().is_err(), "must wait");
    let (entries, done) = scene.next_fill();
    scene.write(entries);
    done(Ok(()));
    assert_eq!(told.try_recv().unwrap().unwrap(), content(0));
}

#[test]
fn padding_is_zeros_and_reads_end_with_the_blob() {
    let scene = Scene::new();
    let padding = (ENTRIES * ENTRY) as u64;
    let bytes = scene.read(padding, 4096).try_recv().unwrap().unwrap();
    assert_eq!(bytes, [0; 4096]);
    let bytes = scene.read(BLOB_LEN - 10, 4096).try_recv().unwrap().unwrap();
    assert_eq!(bytes, [0; 10]);
    let bytes = scene.read(BLOB_LEN + 10, 4096).try_recv().unwrap().unwrap();
    assert!(bytes.is_empty());
    let bytes = scene.read(u64::MAX, 4096).try_recv().unwrap().unwrap();
    assert!(bytes.is_empty());
}

#[test]
fn an_unknown_node_is_an_error_and_a_removed_blob_too() {
    let scene = Scene::new();
    scene.write(0..8);
    scene.fs.remove(INO);
    let error = scene.read(0, 1).try_recv().unwrap().unwrap_err();
    assert!(matches!(error, ReadError::NoBlob(INO)));
    assert_eq!(scene.fs.attributes(INO), None);
}

#[test]
fn names_are_blob_ids_and_nothing_else() {
    let scene = Scene::new();
    let name = scene.blob.id().to_string();
    let found = scene.fs.lookup(name.as_bytes()).unwrap();
    assert_eq!(
        (found.ino, found.size, found.is_dir),
        (INO, BLOB_LEN, false)
    );
    assert_eq!(scene.fs.attributes(INO), Some(found));
    assert!(scene.fs.attributes(ROOT_INO).unwrap().is_dir);
    assert_eq!(scene.fs.list(), [(INO, name.clone())]);
    for wrong in ["", ".", "..", &name[1..], &name.to_uppercase(), "\u{fffd}"] {
        assert_eq!(scene.fs.lookup(wrong.as_bytes()), None, "{wrong}");
    }
    assert_eq!(scene.fs.lookup(&[0xff; 64]), None);
}

#[test]
fn a_filler_waited_for_tells_what_it_told() {
    struct Eager;
    impl Filler for Eager {
        fn start(&self, _: &BlobId, entries: Range<usize>, _: Instant, done: FillDone) {
            std::thread::spawn(move || done(Err(FillError::NotFilled(entries))));
        }
    }
    let outcome = Eager.fill(&BlobId::of(b""), 3..5, Instant::now());
    assert_eq!(outcome, Err(FillError::NotFilled(3..5)));
}
