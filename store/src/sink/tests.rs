//! The sink against real folders: same result at any parallelism, deduplication, resume, embedding.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::*;
use crate::backend::EmbeddedStore;
use crate::chunk_index::LoadOptions;
use crate::reader::{ChunkReader, ChunkSource, ReadOptions};
use crate::{ObjectKind, ShardRange, StoreOptions, StoreSpec, StoreUrl};

/// Chunks of many kinds: text, noise, repeats. Fixed, so packs are the same in every run.
fn chunks(count: u32, seed: u8) -> Vec<Vec<u8>> {
    (0..count).map(|n| chunk(n, seed)).collect()
}

fn chunk(n: u32, seed: u8) -> Vec<u8> {
    let len = 1 + (n * 7919) as usize % 200_000;
    match n % 4 {
        0 => format!("line {n} of seed {seed}\n").repeat(len / 16 + 1),
        1 => {
            let mut out = vec![0; len];
            blake3::Hasher::new()
                .update(&[seed])
                .update(&n.to_le_bytes())
                .finalize_xof()
                .fill(&mut out);
            return out;
        }
        2 => "x".repeat(len % 5000 + 1),
        _ => return chunk(n - 3, seed),
    }
    .into_bytes()
}

fn dir_set(folders: &[&std::path::Path]) -> StoreSet {
    let specs: Vec<_> = folders
        .iter()
        .map(|folder| StoreSpec::all(StoreUrl::dir(folder)))
        .collect();
    StoreSet::open(&specs, StoreOptions::default()).unwrap()
}

fn no_cache() -> LoadOptions {
    LoadOptions {
        cache: None,
        ..LoadOptions::default()
    }
}

async fn pack(
    set: &StoreSet,
    index: ChunkIndex,
    threads: usize,
    chunks: Vec<Vec<u8>>,
) -> Result<Packed, SinkError> {
    let options = PackOptions {
        threads,
        ..PackOptions::default()
    };
    let target = PackTarget::Stores(set.clone());
    run(target, index, &options, chunks).await
}

async fn run(
    target: PackTarget,
    index: ChunkIndex,
    options: &PackOptions,
    chunks: Vec<Vec<u8>>,
) -> Result<Packed, SinkError> {
    let sink = PackSink::new(target, Arc::new(index), options, Handle::current())?;
    tokio::task::spawn_blocking(move || {
        for (at, chunk) in chunks.into_iter().enumerate() {
            assert_eq!(sink.push(chunk)?, at as u64);
        }
        sink.finish()
    })
    .await
    .unwrap()
}

fn sources(packed: &Packed) -> Vec<ChunkSource> {
    let source = |at: &u32| {
        let chunk = packed.chunks[*at as usize];
        ChunkSource {
            chunk,
            pack: packed.packs[chunk.pack as usize],
        }
    };
    packed.seq_to_chunk.iter().map(source).collect()
}

async fn assert_reads_back(set: &StoreSet, packed: &Packed, chunks: &[Vec<u8>]) {
    let reader = ChunkReader::new(set.clone(), ReadOptions::default());
    let plain = reader.fetch(&sources(packed)).await.unwrap();
    assert_eq!(plain.len(), chunks.len());
    for (at, (read, chunk)) in plain.iter().zip(chunks).enumerate() {
        assert!(read == chunk, "chunk {at} differs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn result_is_the_same_at_any_number_of_threads() {
    let chunks = chunks(400, 1);
    let mut results = Vec::new();
    for threads in [1, 2, 7] {
        let root = tempfile::tempdir().unwrap();
        let set = dir_set(&[root.path()]);
        let packed = pack(&set, ChunkIndex::empty(), threads, chunks.clone())
            .await
            .unwrap();
        assert_reads_back(&set, &packed, &chunks).await;
        results.push(packed);
    }
    assert!(results[0].packs.len() > 1);
    assert!(
        results[0].chunks.len() < chunks.len(),
        "repeats are stored once"
    );
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn second_run_writes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let set = dir_set(&[root.path()]);
    let chunks = chunks(200, 2);
    let first = pack(&set, ChunkIndex::empty(), 2, chunks.clone())
        .await
        .unwrap();
    let index = ChunkIndex::load(&set, &no_cache()).await.unwrap();
    assert_eq!(index.chunk_count(), first.chunks.len());
    let second = pack(&set, index, 2, chunks.clone()).await.unwrap();
    assert_eq!(second.stats.new_chunks, 0);
    assert_eq!(second.stats.new_packs, 0);
    assert_eq!(second.chunks, first.chunks);
    assert_eq!(second.packs, first.packs);
    assert_reads_back(&set, &second, &chunks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_of_an_interrupted_run_are_found_and_listed() {
    let root = tempfile::tempdir().unwrap();
    let set = dir_set(&[root.path()]);
    let chunks = chunks(400, 3);
    let first = pack(&set, ChunkIndex::empty(), 2, chunks.clone())
        .await
        .unwrap();
    // What a kill before the first index object leaves behind: packs, one of them torn by a bad disk.
    std::fs::remove_dir_all(root.path().join("index")).unwrap();
    let torn = root
        .path()
        .join(crate::ObjectKey::Pack(first.packs[0].id).path());
    let bytes = std::fs::read(&torn).unwrap();
    std::fs::write(&torn, &bytes[..bytes.len() / 2]).unwrap();

    let index = ChunkIndex::load(&set, &no_cache()).await.unwrap();
    assert_eq!(index.packs().len(), first.packs.len() - 1);
    let second = pack(&set, index, 2, chunks.clone()).await.unwrap();
    assert!(second.stats.new_chunks < first.stats.new_chunks);
    assert_reads_back(&set, &second, &chunks).await;
    let options = LoadOptions {
        adopt_max: 0,
        ..no_cache()
    };
    let listed = ChunkIndex::load(&set, &options).await.unwrap();
    assert_eq!(
        listed.chunk_count(),
        first.chunks.len(),
        "adopted packs are listed now"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_replica_gets_everything_and_a_removed_one_is_not_trusted() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let chunks = chunks(100, 4);
    let only_a = dir_set(&[a.path()]);
    pack(&only_a, ChunkIndex::empty(), 2, chunks.clone())
        .await
        .unwrap();
    let both = dir_set(&[a.path(), b.path()]);
    let index = ChunkIndex::load(&both, &no_cache()).await.unwrap();
    assert_eq!(
        index.chunk_count(),
        0,
        "what only one replica has does not count as stored"
    );
    let packed = pack(&both, index, 2, chunks.clone()).await.unwrap();
    assert_reads_back(&dir_set(&[b.path()]), &packed, &chunks).await;
    let index = ChunkIndex::load(&both, &no_cache()).await.unwrap();
    assert_eq!(index.chunk_count(), packed.chunks.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_shard_holds_and_lists_only_its_part() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let specs: Vec<StoreSpec> = [("00-7f", a.path()), ("80-ff", b.path())]
        .map(|(range, path)| StoreSpec {
            range: range.parse().unwrap(),
            url: StoreUrl::dir(path),
        })
        .into();
    let set = StoreSet::open(&specs, StoreOptions::default()).unwrap();
    let chunks = chunks(1600, 5);
    let packed = pack(&set, ChunkIndex::empty(), 2, chunks.clone())
        .await
        .unwrap();
    assert_reads_back(&set, &packed, &chunks).await;
    for (range, store) in set.stores() {
        let packs = store.list(ObjectKind::Pack).await.unwrap();
        assert!(!packs.is_empty());
        assert!(
            packs
                .iter()
                .all(|found| range.contains(found.key.shard_byte()))
        );
        let alone =
            StoreSet::from_stores(vec![(ShardRange::ALL, store)], StoreOptions::default()).unwrap();
        let index = ChunkIndex::load(
            &alone,
            &LoadOptions {
                adopt_max: 0,
                ..no_cache()
            },
        )
        .await
        .unwrap();
        assert_eq!(
            index.packs().len(),
            packs.len(),
            "each store describes exactly what it holds"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_removed_while_packing_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let set = dir_set(&[root.path()]);
    let chunks = chunks(60, 6);
    let first = pack(&set, ChunkIndex::empty(), 2, chunks.clone())
        .await
        .unwrap();
    let index = ChunkIndex::load(&set, &no_cache()).await.unwrap();
    std::fs::remove_file(
        root.path()
            .join(crate::ObjectKey::Pack(first.packs[0].id).path()),
    )
    .unwrap();
    let error = pack(&set, index, 2, chunks).await.unwrap_err();
    assert!(
        matches!(error, SinkError::Vanished(id) if id == first.packs[0].id),
        "{error}"
    );
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_packs_read_back_from_the_file_they_are_in() {
    let chunks = chunks(300, 7);
    let buffer = Buffer::default();
    let target = PackTarget::Embedded(Box::new(buffer.clone()));
    let packed = run(
        target,
        ChunkIndex::empty(),
        &PackOptions::default(),
        chunks.clone(),
    )
    .await
    .unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[0xee; 1000]).unwrap();
    file.write_all(&buffer.0.lock().unwrap()).unwrap();
    let store = EmbeddedStore::new(
        file.try_clone().unwrap(),
        "x.afslyr",
        1000,
        packed.packs.clone(),
    )
    .unwrap();
    let set = StoreSet::from_stores(
        vec![(ShardRange::ALL, Arc::new(store))],
        StoreOptions::default(),
    )
    .unwrap();
    assert_reads_back(&set, &packed, &chunks).await;
    file.set_len(5000).unwrap();
    assert!(EmbeddedStore::new(file, "x.afslyr", 1000, packed.packs.clone()).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_local_disk_ends_the_run_with_its_error() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::from_raw_os_error(28))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let sink = PackSink::new(
        PackTarget::Embedded(Box::new(Full)),
        Arc::new(ChunkIndex::empty()),
        &PackOptions::default(),
        Handle::current(),
    )
    .unwrap();
    let error = tokio::task::spawn_blocking(move || {
        // Pushing goes on until the failure is seen, never for ever.
        let noise = chunks(4000, 8).into_iter().filter(|c| c.len() > 100_000);
        let pushed = noise.map(|chunk| sink.push(chunk)).find(Result::is_err);
        assert!(matches!(pushed, Some(Err(SinkError::Aborted))));
        sink.finish().unwrap_err()
    })
    .await
    .unwrap();
    assert!(
        matches!(&error, SinkError::Io(e) if e.raw_os_error() == Some(28)),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_sink_stops_its_threads() {
    let root = tempfile::tempdir().unwrap();
    let target = PackTarget::Stores(dir_set(&[root.path()]));
    let sink = PackSink::new(
        target,
        Arc::new(ChunkIndex::empty()),
        &PackOptions::default(),
        Handle::current(),
    )
    .unwrap();
    let gate = Arc::downgrade(&sink.gate);
    sink.push(vec![1; 1000]).unwrap();
    tokio::task::spawn_blocking(move || drop(sink))
        .await
        .unwrap();
    assert!(
        gate.upgrade().is_none(),
        "no thread holds anything any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_no_flist_could_name_are_refused() {
    let target = PackTarget::Embedded(Box::new(Buffer::default()));
    let sink = PackSink::new(
        target,
        Arc::new(ChunkIndex::empty()),
        &PackOptions::default(),
        Handle::current(),
    )
    .unwrap();
    assert!(matches!(
        sink.push(Vec::new()),
        Err(SinkError::ChunkLength(0))
    ));
    assert!(matches!(
        sink.push(vec![0; CHUNK_MAX + 1]),
        Err(SinkError::ChunkLength(_))
    ));
    let packed = tokio::task::spawn_blocking(move || sink.finish())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(packed, Packed::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_byte_is_never_handed_out() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let set = dir_set(&[a.path(), b.path()]);
    let chunks = chunks(100, 9);
    let packed = pack(&set, ChunkIndex::empty(), 2, chunks.clone())
        .await
        .unwrap();
    // Both replicas are damaged, in different places: everything can still be read.
    let path = crate::ObjectKey::Pack(packed.packs[0].id).path();
    let flip = |root: &std::path::Path, chunk: usize| {
        let mut bytes = std::fs::read(root.join(&path)).unwrap();
        bytes[packed.chunks[chunk].offset as usize] ^= 0x10;
        std::fs::write(root.join(&path), bytes).unwrap();
    };
    flip(a.path(), 3);
    flip(b.path(), 5);
    assert_reads_back(&set, &packed, &chunks).await;
    // The same chunk damaged everywhere is an error that names it.
    flip(b.path(), 3);
    let reader = ChunkReader::new(set, ReadOptions::default());
    let error = reader.fetch(&sources(&packed)).await.unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Corrupt);
    assert_eq!(error.chunk, packed.chunks[3].id);
    assert_eq!(error.pack, packed.packs[0].id);
    let _: Bytes = reader
        .fetch(&sources(&packed)[1..2])
        .await
        .unwrap()
        .remove(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impossible_record_is_refused_before_anything_is_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let set = dir_set(&[root.path()]);
    let packed = pack(&set, ChunkIndex::empty(), 2, chunks(10, 10))
        .await
        .unwrap();
    let mut source = sources(&packed)[0];
    source.chunk.stored_len = u32::MAX;
    source.pack.len = u64::MAX;
    let reader = ChunkReader::new(set, ReadOptions::default());
    let error = reader.fetch(&[source]).await.unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Invalid);
}
