//! Tests of cached blobs: writing, reading, and every way a blob's files can be
//! damaged while nobody looks.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use lamina_flist::{BlobId, ChunkId};
use proptest::prelude::*;

use super::*;

/// Three entries: 5000 bytes, 4096 bytes that share the second page with the
/// first, then padding to a page; a hole of one page; 100 bytes and padding.
const PLACES: [(u64, usize); 3] = [(0, 5000), (5000, 4096), (16384, 100)];
const BLOB_LEN: u64 = 20480;

fn content(entry: usize) -> Vec<u8> {
    let len = PLACES[entry].1;
    (0..len).map(|at| (at * 7 + entry * 31 + 1) as u8).collect()
}

fn map_bytes() -> Vec<u8> {
    let mut map = b"LAMMAP01".to_vec();
    map.extend((PLACES.len() as u32).to_le_bytes());
    map.extend(0u32.to_le_bytes());
    map.extend(BLOB_LEN.to_le_bytes());
    for (entry, (offset, len)) in PLACES.into_iter().enumerate() {
        map.extend(offset.to_le_bytes());
        map.extend((len as u32).to_le_bytes());
        map.extend(0u32.to_le_bytes());
        map.extend(ChunkId::of(&content(entry)).as_bytes());
    }
    map
}

/// A blob directory in a directory of its own.
struct Scene {
    _root: tempfile::TempDir,
    dir: PathBuf,
    id: BlobId,
}

impl Scene {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let id = BlobId::of(&map_bytes());
        let dir = CacheDir::new(root.path()).blob_dir(&id);
        Self {
            _root: root,
            dir,
            id,
        }
    }

    /// A test beside this one may be starting a process, which has our lock until it runs its program.
    fn open(&self, trust: Trust) -> BlobFile {
        let patience = std::time::Duration::from_secs(30);
        BlobFile::open_waiting(&self.dir, &self.id, map_bytes, trust, patience).unwrap()
    }

    /// A complete blob, closed cleanly.
    fn sealed() -> Self {
        let scene = Self::new();
        let blob = scene.open(Trust::Closed);
        for entry in 0..PLACES.len() {
            assert!(blob.write_entry(entry, &content(entry)).unwrap());
        }
        blob.seal().unwrap();
        scene
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

/// What must hold whatever happened to the files.
fn assert_only_true_bytes(blob: &BlobFile) {
    for (entry, (offset, len)) in PLACES.into_iter().enumerate() {
        if blob.is_present(entry..entry + 1) {
            let mut got = vec![0; len];
            blob.read_at(&mut got, offset).unwrap();
            assert_eq!(got, content(entry), "entry {entry}");
        }
    }
}

fn assert_refillable(blob: &BlobFile) {
    for entry in 0..PLACES.len() {
        blob.write_entry(entry, &content(entry)).unwrap();
    }
    assert!(blob.is_complete());
    assert_only_true_bytes(blob);
}

#[test]
fn a_reader_of_another_opening_sees_entries_as_they_are_written() {
    let scene = Scene::new();
    let blob = scene.open(Trust::Closed);
    let reader = BlobReader::open(&scene.dir, &scene.id, MapCheck::Identity).unwrap();
    assert_eq!(reader.missing(0..BLOB_LEN), Some(0..3));
    assert!(blob.write_entry(1, &content(1)).unwrap());
    assert_eq!(reader.missing(0..BLOB_LEN), Some(0..3));
    assert_eq!(reader.missing(5000..9096), None);
    assert_eq!(reader.missing(4096..8192), Some(0..1));
    assert_eq!(reader.progress(), (3, 1));
    let mut got = vec![0; 4096];
    assert_eq!(reader.try_read_at(&mut got, 5000).unwrap(), TryRead::Done);
    assert_eq!(got, content(1));
    assert!(!blob.write_entry(1, &content(1)).unwrap(), "written before");
}

#[test]
fn entries_are_read_one_by_one_and_for_others_without_a_trace() {
    let scene = Scene::new();
    let blob = scene.open(Trust::Closed);
    blob.write_entry(1, &content(1)).unwrap();
    let touched = || fs::read(scene.dir.join("touched")).unwrap();
    let before = touched();
    let open = || BlobReader::open(&scene.dir, &scene.id, MapCheck::Identity).unwrap();
    let reader = open().without_touching();
    assert_eq!(reader.entry_count(), PLACES.len());
    assert_eq!(reader.read_entry(1).unwrap(), Some(content(1)));
    for absent in [0, 2, 3, usize::MAX] {
        assert_eq!(reader.read_entry(absent).unwrap(), None, "{absent}");
    }
    assert_eq!(touched(), before);
    assert_eq!(open().read_entry(1).unwrap(), Some(content(1)));
    assert_ne!(touched(), before);
}

#[test]
fn wrong_bytes_are_refused_and_nothing_is_marked() {
    let scene = Scene::new();
    let blob = scene.open(Trust::Closed);
    let mut wrong = content(0);
    wrong[17] ^= 1;
    let refused = blob.write_entry(0, &wrong);
    assert!(matches!(
        refused,
        Err(CacheError::Mismatch { entry: 0, .. })
    ));
    let refused = blob.write_entry(0, &wrong[1..]);
    assert!(matches!(refused, Err(CacheError::Length { got: 4999, .. })));
    let refused = blob.write_entry(3, &wrong);
    assert!(matches!(refused, Err(CacheError::NoEntry { entry: 3, .. })));
    assert_eq!(blob.present_count(), 0);
}

#[test]
fn absent_bytes_cannot_be_read() {
    let scene = Scene::new();
    let blob = scene.open(Trust::Closed);
    blob.write_entry(0, &content(0)).unwrap();
    let mut page = [0; 4096];
    blob.read_at(&mut page, 0).unwrap();
    let absent = blob.read_at(&mut page, 4096);
    assert!(matches!(
        absent,
        Err(CacheError::Absent { start: 4096, .. })
    ));
    blob.read_at(&mut page, 12288).expect("a hole is zeros");
    assert_eq!(page, [0; 4096]);
    let past = blob.read_at(&mut page, BLOB_LEN - 1);
    assert!(matches!(past, Err(CacheError::Absent { .. })));
}

#[test]
fn a_sealed_blob_is_believed_and_an_unsealed_one_verified() {
    let scene = Scene::sealed();
    let report = scene.open(Trust::Closed).report();
    assert_eq!(report, OpenReport::default());
    // That opening was not sealed.
    let report = scene.open(Trust::Closed).report();
    assert_eq!((report.verified, report.cleared), (3, 0));
    let report = scene.open(Trust::SameBoot).report();
    assert_eq!(report.verified, 0);
}

#[test]
fn a_seal_of_another_boot_is_not_believed() {
    for trust in [Trust::Closed, Trust::SameBoot] {
        let scene = Scene::sealed();
        let path = scene.file("seal");
        let mut seal: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        seal["boot_id"] = "another".into();
        fs::write(&path, seal.to_string()).unwrap();
        assert_eq!(scene.open(trust).report().verified, 3);
    }
}

#[test]
fn a_flipped_byte_costs_its_entry_only() {
    let scene = Scene::sealed();
    flip(&scene.file("data"), 6000);
    let blob = scene.open(Trust::Closed);
    assert_eq!((blob.report().verified, blob.report().cleared), (3, 1));
    assert!(!blob.is_present(1..2));
    assert!(blob.is_present(0..1) && blob.is_present(2..3));
    assert_refillable(&blob);
}

#[test]
fn bytes_written_into_padding_are_zeroed_again() {
    let scene = Scene::sealed();
    for at in [9096, 12287, 13000, 16484, BLOB_LEN - 1] {
        flip(&scene.file("data"), at);
    }
    let blob = scene.open(Trust::Closed);
    assert_eq!(blob.report().cleared, 0);
    let mut padding = vec![1; 16384 - 9096];
    blob.read_at(&mut padding, 9096).unwrap();
    assert!(padding.iter().all(|byte| *byte == 0));
    let mut padding = vec![1; (BLOB_LEN - 16484) as usize];
    blob.read_at(&mut padding, 16484).unwrap();
    assert!(padding.iter().all(|byte| *byte == 0));
}

#[test]
fn files_of_a_wrong_length_are_replaced() {
    for (name, len) in [
        ("data", 100),
        ("data", BLOB_LEN + 1),
        ("present", 0),
        ("present", 9),
    ] {
        let scene = Scene::sealed();
        let file = OpenOptions::new()
            .write(true)
            .open(scene.file(name))
            .unwrap();
        file.set_len(len).unwrap();
        let blob = scene.open(Trust::SameBoot);
        assert!(blob.report().replaced >= 1, "{name} of {len} bytes");
        assert_eq!(blob.present_count(), 0, "{name} of {len} bytes");
        assert_refillable(&blob);
    }
}

#[test]
fn links_fifos_directories_and_missing_files_are_replaced_and_never_followed() {
    let outside = tempfile::tempdir().unwrap();
    let canary = outside.path().join("canary");
    fs::write(&canary, vec![7; BLOB_LEN as usize]).unwrap();
    let fifo = |path: &Path| {
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    };
    let link = |path: &Path| symlink(&canary, path).unwrap();
    let directory = |path: &Path| {
        fs::create_dir(path).unwrap();
        fs::write(path.join("inside"), b"x").unwrap();
    };
    let nothing = |_: &Path| {};
    let substitutes: [&dyn Fn(&Path); 4] = [&fifo, &link, &directory, &nothing];
    for name in ["map", "data", "present", "seal"] {
        for substitute in substitutes {
            let scene = Scene::sealed();
            fs::remove_file(scene.file(name)).unwrap();
            substitute(&scene.file(name));
            let blob = scene.open(Trust::Closed);
            assert_only_true_bytes(&blob);
            assert_refillable(&blob);
            let meta = fs::symlink_metadata(scene.file(name)).unwrap();
            assert!(meta.is_file(), "{name}");
        }
    }
    assert_eq!(fs::read(&canary).unwrap(), vec![7; BLOB_LEN as usize]);
}

#[test]
fn a_file_or_link_in_the_place_of_the_directory_is_replaced() {
    let scene = Scene::new();
    fs::create_dir_all(scene.dir.parent().unwrap()).unwrap();
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), &scene.dir).unwrap();
    assert_refillable(&scene.open(Trust::Closed));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_damaged_map_is_written_again_and_a_wrong_one_refused() {
    let scene = Scene::sealed();
    flip(&scene.file("map"), 30);
    let blob = scene.open(Trust::Closed);
    assert_eq!(blob.report().replaced, 1);
    assert!(blob.is_complete(), "the data was not touched");
    drop(blob);
    flip(&scene.file("map"), 30);
    let mut other = map_bytes();
    other[24] ^= 1;
    let refused = BlobFile::open(&scene.dir, &scene.id, || other, Trust::Closed);
    assert!(matches!(refused, Err(CacheError::WrongMap(_))));
    let reader = BlobReader::open(&scene.dir, &scene.id, MapCheck::Identity);
    assert!(matches!(reader, Err(CacheError::Damaged { .. })));
}

#[test]
fn stray_bits_past_the_last_entry_are_cleared() {
    let scene = Scene::sealed();
    flip(&scene.file("present"), 16 + 7);
    let blob = scene.open(Trust::Closed);
    assert_eq!(blob.present_count(), 3);
    assert!(blob.is_complete());
}

#[test]
fn a_second_writer_is_told_that_the_blob_is_busy() {
    let scene = Scene::new();
    let first = scene.open(Trust::Closed);
    let second = BlobFile::open(&scene.dir, &scene.id, map_bytes, Trust::Closed);
    assert!(matches!(second, Err(CacheError::Busy(id)) if id == scene.id));
    drop(first);
    scene.open(Trust::Closed);
}

#[test]
fn the_cache_lists_measures_and_removes_blobs() {
    let scene = Scene::sealed();
    let cache = CacheDir::new(scene.dir.parent().unwrap().parent().unwrap());
    fs::create_dir(cache.root().join("blobs/not-a-blob")).unwrap();
    assert_eq!(cache.list().unwrap(), [scene.id]);
    let bytes = cache.disk_bytes(&scene.id);
    assert!((12288..BLOB_LEN + 4096).contains(&bytes), "{bytes}");
    cache.remove(&scene.id).unwrap();
    cache.remove(&scene.id).unwrap();
    assert_eq!(cache.list().unwrap(), []);
    assert_eq!(CacheDir::new("/nonexistent/cache").list().unwrap(), []);
}

/// A tmpfs that is unmounted on drop.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(bytes: u32) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test mounts a tmpfs: run it as root"
        );
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, options.as_c_str()).unwrap();
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let detach = rustix::mount::UnmountFlags::DETACH;
        let _ = rustix::mount::unmount(self.0.path(), detach);
    }
}

#[test]
fn a_full_disk_is_a_named_error_and_marks_nothing() {
    let disk = SmallDisk::new(32 * 1024);
    let id = BlobId::of(&map_bytes());
    let dir = disk.0.path().join("blob");
    let blob = BlobFile::open(&dir, &id, map_bytes, Trust::Closed).unwrap();
    let hog = disk.0.path().join("hog");
    let _ = fs::write(&hog, vec![1; 32 * 1024]);
    let full = blob.write_entry(0, &content(0));
    assert!(matches!(full, Err(CacheError::Full { .. })), "{full:?}");
    assert_eq!(blob.present_count(), 0);
    fs::remove_file(&hog).unwrap();
    assert_refillable(&blob);
}

#[test]
fn a_blob_is_opened_again_on_a_full_disk_and_its_bitmaps_have_their_blocks() {
    let disk = SmallDisk::new(64 << 10);
    let id = BlobId::of(&map_bytes());
    let dir = CacheDir::new(disk.0.path()).blob_dir(&id);
    let open = || BlobFile::open(&dir, &id, map_bytes, Trust::SameBoot);
    let blob = open().unwrap();
    assert!(blob.write_entry(0, &content(0)).unwrap());
    drop(blob);
    let filler = fs::write(disk.0.path().join("filler"), vec![1; 64 << 10]);
    assert_eq!(filler.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    let blob = open().unwrap();
    assert_eq!(blob.report(), OpenReport::default());
    // Without blocks of their own these would kill the process (SIGBUS).
    blob.touched.set(0..3);
    blob.present.raise_generation();
    assert_only_true_bytes(&blob);
    let full = blob.write_entry(2, &content(2)).unwrap_err();
    assert!(full.is_disk_full(), "{full}");
}

#[test]
fn entries_written_by_many_threads_are_never_seen_half_written() {
    let scene = Scene::new();
    let blob = scene.open(Trust::Closed);
    let reader = BlobReader::open(&scene.dir, &scene.id, MapCheck::Identity).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for entry in 0..PLACES.len() {
                    blob.write_entry(entry, &content(entry)).unwrap();
                }
            });
        }
        for (entry, (offset, len)) in PLACES.into_iter().enumerate() {
            let reader = &reader;
            scope.spawn(move || {
                while reader.missing(offset..offset + len as u64).is_some() {
                    std::thread::yield_now();
                }
                let mut got = vec![0; len];
                assert_eq!(reader.try_read_at(&mut got, offset).unwrap(), TryRead::Done);
                assert_eq!(got, content(entry));
            });
        }
    });
    assert!(blob.is_complete());
}

#[derive(Debug, Clone)]
enum Damage {
    Flip(u64),
    Truncate(u64),
    Overwrite(Vec<u8>),
    Remove,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (0..BLOB_LEN).prop_map(Damage::Flip),
        (0..BLOB_LEN * 2).prop_map(Damage::Truncate),
        prop::collection::vec(any::<u8>(), 0..64).prop_map(Damage::Overwrite),
        Just(Damage::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_happens_to_the_files_only_true_bytes_are_present(
        damages in prop::collection::vec((0usize..4, damage()), 1..4)
    ) {
        let scene = Scene::sealed();
        for (file, damage) in damages {
            let path = scene.file(["map", "data", "present", "seal"][file]);
            match damage {
                Damage::Flip(at) => {
                    if let Ok(meta) = fs::metadata(&path) && at < meta.len() {
                        flip(&path, at);
                    }
                }
                Damage::Truncate(len) => {
                    if let Ok(file) = OpenOptions::new().write(true).open(&path) {
                        file.set_len(len).unwrap();
                    }
                }
                Damage::Overwrite(bytes) => fs::write(&path, bytes).unwrap(),
                Damage::Remove => {
                    let _ = fs::remove_file(&path);
                }
            }
        }
        let blob = scene.open(Trust::Closed);
        assert_only_true_bytes(&blob);
        assert_refillable(&blob);
        blob.seal().unwrap();
        drop(blob);
        prop_assert_eq!(scene.open(Trust::Closed).report(), OpenReport::default());
    }
}
