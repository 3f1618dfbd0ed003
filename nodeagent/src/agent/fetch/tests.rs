//! Tests of fetching against stores that misbehave.

use super::*;
use crate::agent::sources::Sources;
use lamina_flist::Flist;
use lamina_image::convert::PackPlace;
use lamina_image::pack::{PackDirOptions, pack_directory};
use lamina_image::progress::{Progress, Silent};
use lamina_mount::cache::{CacheDir, Trust};
use lamina_store::{ChunkIndex, ChunkReader, ReadOptions, StoreOptions, StoreSet};
use std::net::TcpListener;
use tokio::runtime::Runtime;

/// Files of the packed directory, which do not compress.
const FILES: u32 = 40;
const FILE_BYTES: u32 = 8_000;

/// A packed directory, its store, and an agent's fetching parts.
struct Scene {
    dir: tempfile::TempDir,
    runtime: Runtime,
    /// Takes connections and never answers.
    hanging: TcpListener,
    sources: Sources,
    fetcher: Arc<Fetcher>,
    space: Arc<Space>,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("files");
        std::fs::create_dir(&files).unwrap();
        for file in 0..FILES {
            let words =
                (0..FILE_BYTES / 4).map(|at| (at * FILES + file).wrapping_mul(2_654_435_761));
            let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
            std::fs::write(files.join(file.to_string()), bytes).unwrap();
        }
        let space = Arc::new(Space::open(&dir.path().join("cache")).unwrap());
        let cache = CacheDir::new(dir.path().join("cache"));
        let moment = Duration::from_millis(50);
        let patience = Patience {
            another: moment,
            last: moment,
        };
        Self {
            sources: Sources::new(cache, Arc::clone(&space)),
            fetcher: Fetcher::new(Arc::clone(&space), patience),
            runtime: Runtime::new().unwrap(),
            hanging: TcpListener::bind("127.0.0.1:0").unwrap(),
            space,
            dir,
        }
    }

    /// The packed directory; `tag` makes it another flist of the same blob.
    fn flist(&self, tag: &str) -> Flist {
        let place = PackPlace {
            stores: Some(set(&self.healthy())),
            index: Arc::new(ChunkIndex::default()),
        };
        let options = PackDirOptions {
            tags: [("tag".to_owned(), tag.to_owned())].into(),
            ..PackDirOptions::default()
        };
        let progress: Arc<dyn Progress> = Arc::new(Silent);
        let files = self.dir.path().join("files");
        let packed = pack_directory(&files, &place, &options, &progress, self.runtime.handle());
        Flist::parse(packed.unwrap().flist.into()).unwrap()
    }

    fn healthy(&self) -> String {
        format!("dir://{}", self.dir.path().join("store").display())
    }

    fn hanging(&self) -> String {
        format!("http://{}/", self.hanging.local_addr().unwrap())
    }

    /// Opens the flist's only blob, to be read from a store.
    fn open(&self, tag: &str, store: &str) -> Arc<Source> {
        let reader = ChunkReader::new(set(store), ReadOptions::default());
        let trust = |_: &BlobId| Trust::Closed;
        let mut opened = self.sources.open(&self.flist(tag), &reader, trust).unwrap();
        assert_eq!(opened.len(), 1);
        opened.remove(0)
    }

    fn demand(&self, source: &Arc<Source>) -> Result<(), FetchError> {
        let entries = 0..source.entries();
        let fetched = self.fetcher.ensure(source, entries, Urgency::Demand);
        self.runtime.block_on(fetched)
    }
}

fn set(url: &str) -> StoreSet {
    StoreSet::open(&[url.parse().unwrap()], StoreOptions::default()).unwrap()
}

#[test]
fn a_store_that_hangs_is_named_when_the_time_is_up() {
    let scene = Scene::new();
    let source = scene.open("a", &scene.hanging());
    let error = scene.demand(&source).unwrap_err();
    let FetchError::Late { stores, .. } = &error else {
        panic!("{error}");
    };
    assert!(stores.contains("127.0.0.1"), "{stores}");
}

#[test]
fn the_stores_of_another_flist_are_asked_when_the_first_ones_hang() {
    let scene = Scene::new();
    let source = scene.open("a", &scene.hanging());
    let same = scene.open("b", &scene.healthy());
    assert!(Arc::ptr_eq(&source, &same));
    scene.demand(&source).unwrap();
    assert!(source.file.is_complete());
}

#[test]
fn what_landed_is_what_is_counted_and_nothing_stays_reserved() {
    let scene = Scene::new();
    let source = scene.open("a", &scene.healthy());
    let max = 64 << 20;
    scene.space.configure(Some(max), None).unwrap();
    let (before, ..) = scene.space.report();
    scene.demand(&source).unwrap();
    let cost: u64 = (0..source.entries()).map(|e| source.entry_cost(e)).sum();
    let (used, ..) = scene.space.report();
    assert_eq!(used - before, cost);
    drop(
        scene
            .space
            .reserve_blocking(max - used)
            .expect("all the rest"),
    );
}

#[test]
fn a_demand_that_joined_a_fetch_ahead_does_not_fail_for_its_want_of_room() {
    let scene = Scene::new();
    let source = scene.open("a", &scene.healthy());
    let half = source.entries() / 2;
    let room: u64 = (0..half + 8).map(|e| source.entry_cost(e)).sum();
    let (used, ..) = scene.space.report();
    scene.space.configure(Some(used + room), None).unwrap();
    let ensure = |entries, urgency| {
        let (fetcher, source) = (Arc::clone(&scene.fetcher), Arc::clone(&source));
        async move { fetcher.ensure(&source, entries, urgency).await }
    };
    scene
        .runtime
        .block_on(ensure(0..half, Urgency::Ahead))
        .unwrap();
    let full = scene
        .runtime
        .block_on(ensure(half..half + 16, Urgency::Ahead));
    assert!(matches!(full, Err(FetchError::NoRoom(_))), "{full:?}");
    scene.runtime.block_on(async {
        let ahead = tokio::spawn(ensure(half..half + 16, Urgency::Ahead));
        let demand = tokio::spawn(ensure(half..half + 16, Urgency::Demand));
        demand.await.unwrap().unwrap();
        let _ = ahead.await;
    });
    let (used_now, max, _) = scene.space.report();
    assert!(used_now <= max, "{used_now} of {max}");
}
