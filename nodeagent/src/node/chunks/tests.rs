//! Chunks asked for and taken in this process.

use super::*;
use crate::sample::{Sample, Shelf};
use futures::StreamExt as _;
use lamina_flist::{ChunkId, Codec};
use lamina_mount::cache::{BlobFile, Trust};
use lamina_proto::lamina::v1::{Chunk, EntryRange};
use std::collections::BTreeMap;
use std::sync::Mutex;
use tokio::runtime::Runtime;
use tonic::Code;

struct Scene {
    dir: tempfile::TempDir,
    runtime: Runtime,
    sample: Sample,
}

/// Brings nothing, or says that it does; and who was asked for what.
#[derive(Default)]
struct Agent {
    brings: bool,
    asked: Mutex<Vec<Vec<u32>>>,
}

impl Bring for Agent {
    fn bring(&self, _blob: &BlobId, entries: &[u32]) -> bool {
        self.asked.lock().unwrap().push(entries.to_vec());
        self.brings
    }
}

impl Scene {
    fn new() -> Self {
        let (dir, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
        let sample = Sample::make(dir.path(), 12, 300_000, runtime.handle());
        Self {
            dir,
            runtime,
            sample,
        }
    }

    fn cache(&self) -> CacheDir {
        CacheDir::new(self.dir.path().join("cache"))
    }

    fn chunks(&self, whole: Arc<dyn WholeLayers>, limits: ChunkLimits) -> Chunks {
        Chunks::new(whole, self.cache(), Arc::new(Agent::default()), limits)
    }

    fn request(&self, first: u32, count: u32) -> ReadChunksRequest {
        ReadChunksRequest {
            layer_digest: self.sample.layer.to_string(),
            blob: self.sample.blob.as_bytes().to_vec(),
            entries: vec![EntryRange { first, count }],
            wait_ms: 0,
        }
    }

    fn all(&self) -> ReadChunksRequest {
        self.request(0, self.sample.entries)
    }

    fn take(&self, chunks: &Chunks, request: &ReadChunksRequest) -> Result<Vec<Chunk>, Status> {
        self.runtime.block_on(async {
            let mut taken = Vec::new();
            let mut messages = chunks.read(request).await?;
            while let Some(message) = messages.next().await {
                let message = message?;
                let bytes: usize = message.chunks.iter().map(|c| c.stored.len()).sum();
                assert!(bytes <= 1 << 20 || message.chunks.len() == 1);
                taken.extend(message.chunks);
            }
            Ok(taken)
        })
    }

    /// The chunks as plain bytes, each checked.
    fn check(&self, chunks: Vec<Chunk>) -> BTreeMap<u32, bytes::Bytes> {
        let entries: Vec<_> = self.sample.flist.blob_entries(0).unwrap().collect();
        let plain = |chunk: Chunk| {
            let record = self
                .sample
                .flist
                .chunk(entries[chunk.entry as usize].chunk)
                .unwrap();
            let codec = Codec::from_u8(u8::try_from(chunk.codec).unwrap()).unwrap();
            let stored = chunk.stored;
            let plain = lamina_store::decode(&record.id, codec, &stored, record.len);
            (chunk.entry, plain.expect("what is served is right"))
        };
        chunks.into_iter().map(plain).collect()
    }

    /// Puts entries into the agent's cache.
    fn cached(&self, entries: impl IntoIterator<Item = u32>) -> BlobFile {
        let map = || self.sample.flist.blob_map_bytes(0).unwrap();
        let (dir, id) = (self.cache().blob_dir(&self.sample.blob), self.sample.blob);
        let file = BlobFile::open(&dir, &id, map, Trust::Closed).unwrap();
        for entry in entries {
            file.write_entry(entry as usize, &self.sample.plain(entry))
                .unwrap();
        }
        file
    }
}

#[test]
fn a_whole_layer_gives_every_chunk_as_it_is_stored() {
    let scene = Scene::new();
    let chunks = scene.chunks(Shelf::with(&scene.sample), ChunkLimits::default());
    let taken = scene.take(&chunks, &scene.all()).unwrap();
    let stored: usize = taken.iter().map(|chunk| chunk.stored.len()).sum();
    assert!(taken.iter().any(|c| c.codec == 0) && taken.iter().any(|c| c.codec == 1));
    assert_eq!(
        chunks.served().layer_bytes.load(Ordering::Relaxed),
        stored as u64
    );
    let plain = scene.check(taken);
    assert_eq!(plain.len() as u32, scene.sample.entries);
    let one = scene.take(&chunks, &scene.request(3, 1)).unwrap();
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].entry, 3);
}

#[test]
fn whoever_asks_hears_whether_the_layer_came_from_another_node() {
    let scene = Scene::new();
    let chunks = scene.chunks(Shelf::with(&scene.sample), ChunkLimits::default());
    let was_copied = || {
        let first = scene.runtime.block_on(async {
            let mut messages = chunks.read(&scene.request(0, 1)).await.unwrap();
            messages.next().await.unwrap().unwrap()
        });
        first.layer_was_copied
    };
    assert!(!was_copied(), "it was read from the registry");
    let file = Shelf::with(&scene.sample)
        .open(&scene.sample.layer)
        .unwrap();
    let copy = std::os::unix::fs::PermissionsExt::from_mode(0o1600);
    file.file.set_permissions(copy).unwrap();
    assert!(was_copied());
}

#[test]
fn the_agents_cache_gives_what_it_has_and_nothing_else() {
    let scene = Scene::new();
    let chunks = scene.chunks(Arc::new(Shelf::default()), ChunkLimits::default());
    assert!(
        scene.take(&chunks, &scene.all()).unwrap().is_empty(),
        "nothing yet"
    );
    let _file = scene.cached([1, 4, 5]);
    let taken = scene.check(scene.take(&chunks, &scene.all()).unwrap());
    assert_eq!(taken.keys().copied().collect::<Vec<_>>(), [1, 4, 5]);
    for (entry, plain) in taken {
        assert_eq!(ChunkId::of(&plain), ChunkId::of(&scene.sample.plain(entry)));
    }
    assert!(
        scene
            .take(&chunks, &scene.request(2, 2))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn entries_that_do_not_exist_are_refused_and_a_damaged_layer_is_said_to_be() {
    let scene = Scene::new();
    let whole = scene.chunks(Shelf::with(&scene.sample), ChunkLimits::default());
    let refused = scene.take(&whole, &scene.request(scene.sample.entries - 1, 2));
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let part = scene.chunks(Arc::new(Shelf::default()), ChunkLimits::default());
    let _file = scene.cached([0]);
    let refused = scene.take(&part, &scene.request(scene.sample.entries, 1));
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let path = scene.dir.path().join("layer.afslyr");
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(scene.sample.whole.packs_at).unwrap();
    let damaged = scene.take(&whole, &scene.all()).unwrap_err();
    assert_eq!(damaged.code(), Code::DataLoss);
}

#[test]
fn slots_bound_the_readers_and_a_reader_that_takes_nothing_loses_its_own() {
    let scene = Scene::new();
    let limits = ChunkLimits {
        slots: 1,
        stall: Duration::from_millis(100),
        ..ChunkLimits::default()
    };
    let chunks = scene.chunks(Shelf::with(&scene.sample), limits);
    scene.runtime.block_on(async {
        let mut idle = chunks.read(&scene.all()).await.unwrap();
        let refused = chunks.read(&scene.all()).await.err().unwrap();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let deadline = Instant::now() + Duration::from_secs(60);
        while chunks.served().stalled.load(Ordering::Relaxed) == 0 {
            assert!(Instant::now() < deadline, "the slot is never given back");
            tokio::task::yield_now().await;
        }
        let mut last = None;
        while let Some(message) = idle.next().await {
            let is_end = message.is_err();
            last = Some(message);
            if is_end {
                break;
            }
        }
        let last = last.unwrap().unwrap_err();
        assert_eq!(last.code(), Code::DeadlineExceeded);
    });
    // The slot is free a moment after the reader was told.
    let taken = std::iter::repeat_with(|| scene.take(&chunks, &scene.all()));
    let taken = taken.take(1000).find_map(Result::ok).unwrap();
    assert_eq!(scene.check(taken).len() as u32, scene.sample.entries);
}

#[test]
fn what_the_agent_is_about_to_have_is_waited_for_and_what_it_does_not_read_is_not() {
    let scene = Scene::new();
    let chunks = scene.chunks(Arc::new(Shelf::default()), ChunkLimits::default());
    let patient = ReadChunksRequest {
        wait_ms: 1000,
        ..scene.request(0, 3)
    };
    let began = std::time::Instant::now();
    assert!(scene.take(&chunks, &patient).unwrap().is_empty());
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "nobody reads it here"
    );
    let file = scene.cached([1]);
    scene.runtime.block_on(async {
        let mut messages = chunks.read(&patient).await.unwrap();
        let first = messages.next().await.unwrap().unwrap();
        assert_eq!(first.chunks[0].entry, 1);
        file.write_entry(2, &scene.sample.plain(2)).unwrap();
        let second = messages.next().await.unwrap().unwrap();
        assert_eq!(second.chunks[0].entry, 2);
        assert!(messages.next().await.is_none(), "entry 0 never came");
    });
}

#[test]
fn what_the_agent_fetches_for_others_is_waited_for_and_they_hear_that_it_comes() {
    let scene = Scene::new();
    let agent = Arc::new(Agent {
        brings: true,
        ..Agent::default()
    });
    let bring: Arc<dyn Bring> = Arc::clone(&agent) as _;
    let whole = Arc::new(Shelf::default());
    let chunks = Chunks::new(whole, scene.cache(), bring, ChunkLimits::default());
    let file = scene.cached([1]);
    let patient = ReadChunksRequest {
        wait_ms: 30_000,
        ..scene.request(0, 3)
    };
    scene.runtime.block_on(async {
        let mut messages = chunks.read(&patient).await.unwrap();
        let mut next = async || messages.next().await.map(|message| message.unwrap().chunks);
        assert_eq!(next().await.unwrap()[0].entry, 1);
        assert!(next().await.unwrap().is_empty(), "they are on their way");
        file.write_entry(0, &scene.sample.plain(0)).unwrap();
        file.write_entry(2, &scene.sample.plain(2)).unwrap();
        let mut came = Vec::new();
        while let Some(chunks) = next().await {
            came.extend(chunks.iter().map(|chunk| chunk.entry));
        }
        assert_eq!(came, [0, 2]);
    });
    assert_eq!(agent.asked.lock().unwrap()[0], [0, 2]);
    // Who does not wait is no reason to fetch.
    let asked = agent.asked.lock().unwrap().len();
    scene.take(&chunks, &scene.request(0, 8)).unwrap();
    assert_eq!(agent.asked.lock().unwrap().len(), asked);
}
