//! Tests of fetching against stores that misbehave.

use super::*;
use crate::agent::sources::Sources;
use crate::agent::stores::Way;
use futures::FutureExt;
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
    /// One whose fetches do not wait long for stores.
    fn hasty() -> Self {
        Self::new(Patience {
            another: Duration::from_millis(50),
            last: Duration::from_millis(500),
        })
    }

    fn new(patience: Patience) -> Self {
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
        Self {
            sources: Sources::new(cache, Arc::clone(&space)),
            fetcher: Fetcher::new(Arc::clone(&space), Cluster::none(), patience),
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
        self.open_flist(&self.flist(tag), store)
    }

    fn open_flist(&self, flist: &Flist, store: &str) -> Arc<Source> {
        let reader = ChunkReader::new(set(store), ReadOptions::default());
        let trust = |_: &BlobId| Trust::Closed;
        let mut opened = self
            .sources
            .open(flist, Some(&reader), &Way::to(store), None, trust)
            .unwrap();
        assert_eq!(opened.len(), 1);
        opened.remove(0)
    }

    /// A fetch that outlives what it borrows.
    fn ensure(
        &self,
        source: &Arc<Source>,
        entries: Range<u32>,
        urgency: Urgency,
    ) -> impl Future<Output = Result<(), FetchError>> + Send + use<> {
        let (fetcher, source) = (Arc::clone(&self.fetcher), Arc::clone(source));
        async move { fetcher.ensure(&source, entries, urgency).await }
    }

    fn demand(&self, source: &Arc<Source>) -> Result<(), FetchError> {
        let entries = 0..source.entries();
        self.runtime
            .block_on(self.ensure(source, entries, Urgency::Demand))
    }
}

fn set(url: &str) -> StoreSet {
    StoreSet::open(&[url.parse().unwrap()], StoreOptions::default()).unwrap()
}

#[test]
fn a_store_that_hangs_is_named_when_the_time_is_up() {
    let scene = Scene::hasty();
    let source = scene.open("a", &scene.hanging());
    let error = scene.demand(&source).unwrap_err();
    let FetchError::Late { stores, .. } = &error else {
        panic!("{error}");
    };
    assert!(stores.contains("127.0.0.1"), "{stores}");
}

#[test]
fn the_stores_of_another_flist_are_asked_when_the_first_ones_hang() {
    let scene = Scene::hasty();
    let source = scene.open("a", &scene.hanging());
    let same = scene.open("b", &scene.healthy());
    assert!(Arc::ptr_eq(&source, &same));
    scene.demand(&source).unwrap();
    assert!(source.file.is_complete());
}

#[test]
fn sets_of_stores_that_hang_do_not_keep_another_from_reading() {
    let scene = Scene::new(Patience::default());
    let hanging: Vec<_> = (0..12)
        .map(|at| {
            let source = scene.open(&at.to_string(), &format!("{}{at}/", scene.hanging()));
            source.providers().pop().unwrap()
        })
        .collect();
    let source = scene.open("healthy", &scene.healthy());
    for provider in &hanging {
        scene.sources.close(&provider.digest);
    }
    // As much as each may have asked for.
    let _held: Vec<_> = hanging
        .iter()
        .map(|provider| provider.lane.enter(u64::MAX).now_or_never())
        .collect();
    scene.demand(&source).unwrap();
}

#[test]
fn what_landed_is_what_is_counted_and_nothing_stays_reserved() {
    let scene = Scene::hasty();
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
fn waiting_for_room_is_part_of_the_time_of_a_batch() {
    let scene = Scene::hasty();
    let source = scene.open("a", &scene.healthy());
    scene.space.configure(Some(64 << 20), None).unwrap();
    let (used, max, _) = scene.space.report();
    let _others = scene.space.reserve_blocking(max - used).unwrap();
    let ensured = scene.ensure(&source, 0..source.entries(), Urgency::Demand);
    // Room itself is waited for for twice as long.
    let patience = Duration::from_secs(10);
    let outcome = scene
        .runtime
        .block_on(async { tokio::time::timeout(patience, ensured).await });
    let outcome = outcome.expect("within the time of the batch");
    let taken = NoRoom::Taken { max };
    assert!(
        matches!(&outcome, Err(FetchError::NoRoom(why)) if *why == taken),
        "{outcome:?}"
    );
}

#[test]
fn a_closed_blob_is_free_at_once_whatever_hangs() {
    let scene = Scene::new(Patience::default());
    let source = scene.open("a", &scene.hanging());
    let wanted: Vec<_> = [Urgency::Demand, Urgency::Ahead]
        .map(|urgency| scene.ensure(&source, 0..source.entries(), urgency))
        .into_iter()
        .map(|ensured| scene.runtime.spawn(ensured))
        .collect();
    drop(source);
    let _asked = scene.hanging.accept().unwrap();
    scene.sources.close(&scene.flist("a").digest());
    for ensured in wanted {
        let outcome = scene.runtime.block_on(ensured).unwrap();
        assert!(
            matches!(outcome, Err(FetchError::Closed { .. })),
            "{outcome:?}"
        );
    }
    let again = scene.open("a", &scene.healthy());
    scene.demand(&again).unwrap();
}

#[test]
fn a_demand_that_joined_a_fetch_ahead_does_not_fail_for_its_want_of_room() {
    let scene = Scene::new(Patience::default());
    let source = scene.open("a", &scene.healthy());
    let half = source.entries() / 2;
    let room: u64 = (0..half + 8).map(|e| source.entry_cost(e)).sum();
    let (used, ..) = scene.space.report();
    scene.space.configure(Some(used + room), None).unwrap();
    let ensure = |entries, urgency| scene.ensure(&source, entries, urgency);
    scene
        .runtime
        .block_on(ensure(0..half, Urgency::Ahead))
        .unwrap();
    let wanted = half..half + 16;
    let full = scene
        .runtime
        .block_on(ensure(wanted.clone(), Urgency::Ahead));
    assert!(matches!(full, Err(FetchError::NoRoom(_))), "{full:?}");
    scene.runtime.block_on(async {
        let mut ahead = std::pin::pin!(ensure(wanted.clone(), Urgency::Ahead));
        let mut demand = std::pin::pin!(ensure(wanted, Urgency::Demand));
        // The fetch ahead is claimed and kept from its store until the demand has joined it.
        let lane = source.lane().unwrap();
        let held = lane.enter(u64::MAX).await;
        assert!(futures::poll!(&mut ahead).is_pending());
        assert_eq!(scene.fetcher.flights.lock().unwrap().len(), 16);
        assert!(futures::poll!(&mut demand).is_pending());
        drop(held);
        let (ahead, demand) = tokio::join!(ahead, demand);
        assert!(matches!(ahead, Err(FetchError::NoRoom(_))), "{ahead:?}");
        demand.unwrap();
    });
    let (used_now, max, _) = scene.space.report();
    assert!(used_now <= max, "{used_now} of {max}");
}

#[test]
fn a_demand_does_not_fail_with_a_fetch_ahead_and_reads_from_stores_named_since() {
    let scene = Scene::new(Patience {
        another: Duration::from_millis(50),
        last: Duration::from_secs(2),
    });
    let flist = scene.flist("a");
    let source = scene.open_flist(&flist, &scene.hanging());
    let ensure = |urgency| scene.runtime.spawn(scene.ensure(&source, 0..1, urgency));
    let ahead = ensure(Urgency::Ahead);
    while scene.fetcher.flights.lock().unwrap().is_empty() {
        std::thread::yield_now();
    }
    // It joins the fetch ahead, which knows of one store that says nothing.
    let demand = ensure(Urgency::Demand);
    scene.open_flist(&flist, &scene.healthy());
    let ahead = scene.runtime.block_on(ahead).unwrap();
    assert!(matches!(ahead, Err(FetchError::Late { .. })), "{ahead:?}");
    scene.runtime.block_on(demand).unwrap().unwrap();
}

/// Counts the flights whenever it is woken.
struct Looks {
    fetcher: Arc<Fetcher>,
    seen: Mutex<Vec<usize>>,
}

impl std::task::Wake for Looks {
    fn wake(self: Arc<Self>) {
        let left = self.fetcher.flights.lock().unwrap().len();
        self.seen.lock().unwrap().push(left);
    }
}

/// Woken one by one, a demand that joined a fetch ahead spent all its tries on one failure of it.
#[test]
fn flights_that_fail_together_are_gone_before_anybody_hears() {
    let scene = Scene::hasty();
    let (blob, fetcher) = (BlobId::of(b"any"), Arc::clone(&scene.fetcher));
    let mut open = BTreeMap::new();
    let mut receivers = Vec::new();
    for entry in 0..3 {
        let (sender, receiver) = watch::channel(None);
        let mut flights = fetcher.flights.lock().unwrap();
        flights.insert((blob, entry), receiver.clone());
        open.insert(entry, sender);
        receivers.push(receiver);
    }
    let seen = Mutex::default();
    let looks = Arc::new(Looks { fetcher, seen });
    let waker = Arc::clone(&looks).into();
    let mut heard = std::pin::pin!(receivers[0].wait_for(Option::is_some));
    let mut context = std::task::Context::from_waker(&waker);
    assert!(heard.as_mut().poll(&mut context).is_pending());
    let fetcher = &scene.fetcher;
    let mut landing = Landing {
        fetcher,
        blob,
        open,
    };
    landing.all(&FetchError::Lost { blob });
    assert_eq!(*looks.seen.lock().unwrap(), [0]);
}
