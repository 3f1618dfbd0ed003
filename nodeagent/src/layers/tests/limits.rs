//! Space: bounds, eviction, leases, full disks.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::support::{alone, config, digest, ensure, files, gets, wanted};
use crate::layers::{EnsureErrorKind, LayersConfig, WholeLayers as _};
use crate::test_registry::{Server, noise, tar};

/// An image of one layer of about `bytes`, which do not compress.
fn push(server: &Server, tag: &str, seed: u64, bytes: usize) -> Vec<u8> {
    let layer = tar(tag, &noise(seed, bytes));
    server.push(tag, std::slice::from_ref(&layer));
    layer
}

fn bounded(dir: &Path, bytes_max: u64) -> LayersConfig {
    LayersConfig {
        bytes_max: Some(bytes_max),
        ..config(dir)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_never_fits_is_refused_before_anything_is_downloaded() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let layers = [tar("a", &noise(1, 300_000)), tar("b", &noise(2, 300_000))];
    server.push("t", &layers);
    let store = alone(bounded(dir.path(), 500_000));
    let image = wanted(&server, ":t", "").await;
    let refused = ensure(&store, &image).await.err().unwrap();
    assert_eq!(refused.kind(), EnsureErrorKind::ResourceExhausted);
    assert!(refused.to_string().contains("can never fit"), "{refused}");
    assert_eq!(
        (gets(&server, &layers[0]), gets(&server, &layers[1])),
        (0, 0)
    );
    assert_eq!(files(dir.path()), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_grows_beyond_the_bound_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let layer = push(&server, "t", 1, 300_000);
    // As stored it fits, as kept it does not.
    let store = alone(bounded(dir.path(), layer.len() as u64));
    let image = wanted(&server, ":t", "").await;
    let refused = ensure(&store, &image).await.err().unwrap();
    assert_eq!(refused.kind(), EnsureErrorKind::ResourceExhausted);
    assert_eq!(files(dir.path()), BTreeSet::new());
    assert_eq!(store.shelf().bytes().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_longest_ago_goes_unless_it_is_leased_or_read() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let tags = ["a", "b", "c", "d"];
    let layers: Vec<_> = tags
        .iter()
        .zip(1..)
        .map(|(t, n)| push(&server, t, n, 300_000))
        .collect();
    let store = alone(bounded(dir.path(), 800_000));
    let pull = async |tag: &str| {
        let image = wanted(&server, &format!(":{tag}"), "").await;
        ensure(&store, &image).await.map(|_| ())
    };
    let here = || -> Vec<&str> {
        let here = tags
            .iter()
            .zip(&layers)
            .filter(|(_, l)| store.shelf().size(&digest(l)).is_some());
        here.map(|(tag, _)| *tag).collect()
    };
    pull("a").await.unwrap();
    pull("b").await.unwrap();
    store.shelf().open(&digest(&layers[0])).unwrap();
    pull("c").await.unwrap();
    assert_eq!(here(), ["a", "c"]);
    let (used, max) = store.shelf().bytes();
    assert!(used <= max, "{used} of {max}");

    let leased = HashSet::from([digest(&layers[0])]);
    store
        .shelf()
        .lease("l".into(), leased, Duration::from_secs(600))
        .unwrap();
    let reading = store.shelf().open(&digest(&layers[2])).unwrap();
    let full = pull("d").await.unwrap_err();
    assert_eq!(full.kind(), EnsureErrorKind::ResourceExhausted);
    assert!(crate::chain(&full).contains("do not fit now"), "{full:?}");
    assert_eq!(here(), ["a", "c"]);
    drop(reading);
    pull("d").await.unwrap();
    assert_eq!(here(), ["a", "d"], "the lease outlives the reader");
    assert!(store.shelf().release("l"));
    let pruned = store.shelf().prune(100.0);
    assert_eq!((pruned.evicted, pruned.after), (2, 0));
    assert_eq!(files(dir.path()), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_bound_at_the_next_start_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let layers = [
        push(&server, "a", 1, 300_000),
        push(&server, "b", 2, 300_000),
    ];
    let store = alone(config(dir.path()));
    for tag in [":a", ":b"] {
        ensure(&store, &wanted(&server, tag, "").await)
            .await
            .unwrap();
    }
    drop(store);
    let store = alone(bounded(dir.path(), 400_000));
    assert!(store.shelf().size(&digest(&layers[0])).is_none());
    assert!(store.shelf().size(&digest(&layers[1])).is_some());
}

/// A small disk; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: &Path, size: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test mounts a file system: run it as root"
        );
        std::fs::create_dir_all(at).unwrap();
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        mount(
            "tmpfs",
            at,
            "tmpfs",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .unwrap();
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_evicts_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(&dir.path().join("disk"), "8m");
    let server = Server::start();
    for (tag, bytes) in [("small", 2 << 20), ("other", 2 << 20), ("large", 6 << 20)] {
        push(&server, tag, bytes, bytes as usize);
    }
    // The bound says nothing of the disk.
    let store = alone(config(&disk.0));
    let pull = async |tag: &str| {
        let image = wanted(&server, tag, "").await;
        ensure(&store, &image).await.map(|_| ())
    };
    pull(":small").await.unwrap();
    // Others fill what is left.
    let filler = disk.0.join("filler");
    std::fs::write(&filler, vec![1; 4 << 20]).unwrap();
    let full = pull(":large").await.unwrap_err();
    assert_eq!(full.kind(), EnsureErrorKind::ResourceExhausted, "{full:?}");
    pull(":other").await.unwrap();
    let (used, _) = store.shelf().bytes();
    assert!(used < 3 << 20, "one had to go: {used}");
    let names = files(&disk.0);
    assert_eq!(names.len(), 2, "{names:?}");
    std::fs::remove_file(&filler).unwrap();
    pull(":large").await.unwrap();
    drop(store);
    let store = alone(config(&disk.0));
    assert_eq!(store.shelf().layers().len(), 1);
}
