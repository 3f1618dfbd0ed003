//! Every kind of store against a real server of its kind: the conformance suite, a whole pack and read
//! round trip, garbage collection, and what happens when the server goes away.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use lamina_flist::FlistDigest;
use lamina_store::{
    ChunkIndex, ChunkReader, ChunkSource, ErrorKind, GcOptions, GcPlan, GcRoots, LoadOptions,
    ObjectKind, PackOptions, PackSink, PackTarget, Packed, ReadOptions, Retry, Store, StoreOptions,
    StoreSet, StoreSpec, StoreUrl, backend, conformance, copy_packs, verify_flist, verify_stores,
};
use tokio::runtime::Handle;

use crate::gcs_front::GcsFront;
use crate::tools::{Server, tool};
use crate::web::azure_container;

/// Accounts that exist only in these servers (the Azure one is Azurite's published default).
const AZ_ACCOUNT: &str = "devstoreaccount1";
pub(crate) const AZ_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

fn s3() -> Server {
    let program = tool("s3");
    Server::start(|port, folder| {
        std::fs::create_dir_all(folder.join("data/bucket")).unwrap();
        let mut command = Command::new(&program);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command
            .args(["--access-key", "KEY", "--secret-key", "SEC/RET"])
            .arg(folder.join("data"));
        command
    })
}

fn s3_url(server: &Server, prefix: &str) -> String {
    format!(
        "s3://KEY:SEC%2FRET@bucket/{prefix}?endpoint={}&region=us-east-1",
        server.url()
    )
}

fn azurite() -> Server {
    let program = tool("azurite");
    let server = Server::start(|port, folder| {
        let mut command = Command::new(&program);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
        command
            .args(["--skipApiVersionCheck", "--disableTelemetry", "--location"])
            .arg(folder.join("data"));
        command
    });
    azure_container(server.port, AZ_ACCOUNT, AZ_KEY, "packs");
    server
}

fn az_url(server: &Server, prefix: &str) -> String {
    let key = AZ_KEY
        .replace('/', "%2F")
        .replace('+', "%2B")
        .replace('=', "%3D");
    format!(
        "az://{AZ_ACCOUNT}:{key}@packs/{prefix}?endpoint={}/{AZ_ACCOUNT}",
        server.url()
    )
}

fn gcs() -> Server {
    let program = tool("gcs");
    Server::start(|port, folder| {
        std::fs::create_dir_all(folder.join("data/bucket")).unwrap();
        let mut command = Command::new(&program);
        command.args([
            "-scheme",
            "http",
            "-host",
            "127.0.0.1",
            "-port",
            &port.to_string(),
            "-backend",
            "filesystem",
        ]);
        command
            .args([
                "-public-host",
                &format!("127.0.0.1:{port}"),
                "-filesystem-root",
            ])
            .arg(folder.join("data"));
        command
    })
}

fn gs_url(front: &GcsFront, prefix: &str) -> String {
    format!(
        "gs://bucket/{prefix}?endpoint=http://127.0.0.1:{}",
        front.port
    )
}

fn registry() -> Server {
    let program = tool("registry");
    Server::start(|port, folder| {
        let config = folder.join("config.yml");
        let data = folder.join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            data.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(&program);
        command
            .arg("serve")
            .arg(config)
            .env("OTEL_TRACES_EXPORTER", "none");
        command
    })
}

fn oci_url(server: &Server, prefix: &str) -> String {
    format!("oci://127.0.0.1:{}/lamina/{prefix}", server.port)
}

fn open(url: &str) -> Arc<dyn Store> {
    let url: StoreUrl = url.parse().unwrap();
    backend::open(&url, &StoreOptions::default()).unwrap()
}

fn set_of(urls: &[String]) -> StoreSet {
    let specs: Vec<StoreSpec> = urls.iter().map(|url| url.parse().unwrap()).collect();
    let options = StoreOptions {
        budget: Duration::from_secs(20),
        ..StoreOptions::default()
    };
    StoreSet::open(&specs, options).unwrap()
}

fn chunks(count: u32) -> Vec<Vec<u8>> {
    let noise = |n: u32| {
        let mut out = vec![0; 40_000 + (n * 7919) as usize % 160_000];
        blake3::Hasher::new()
            .update(&n.to_le_bytes())
            .finalize_xof()
            .fill(&mut out);
        out
    };
    let text = |n: u32| format!("line {n}\n").repeat(3000).into_bytes();
    (0..count)
        .map(|n| if n % 3 == 0 { text(n) } else { noise(n) })
        .collect()
}

async fn pack(set: &StoreSet, chunks: &[Vec<u8>]) -> Packed {
    let load = LoadOptions {
        cache: None,
        ..LoadOptions::default()
    };
    let index = ChunkIndex::load(set, &load).await.unwrap();
    let target = PackTarget::Stores(set.clone());
    let sink = PackSink::new(
        target,
        Arc::new(index),
        &PackOptions::default(),
        Handle::current(),
    )
    .unwrap();
    let chunks = chunks.to_vec();
    let work = move || {
        for chunk in chunks {
            sink.push(chunk)?;
        }
        sink.finish()
    };
    tokio::task::spawn_blocking(work).await.unwrap().unwrap()
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
    let plain = reader
        .fetch(&sources(packed))
        .await
        .unwrap_or_else(|e| panic!("{e}: {}", e.source));
    for (at, (read, chunk)) in plain.iter().zip(chunks).enumerate() {
        assert!(read == chunk, "chunk {at} differs");
    }
}

/// Everything a user does with one store.
async fn story(make_url: impl Fn(&str) -> String) {
    conformance::check(open(&make_url("conformance")).as_ref()).await;
    let wrapped = Retry::new(open(&make_url("wrapped")), StoreOptions::default());
    conformance::check(&wrapped).await;

    let set = set_of(&[make_url("story")]);
    let data = chunks(150);
    let packed = pack(&set, &data).await;
    assert!(packed.stats.new_packs >= 2, "{:?}", packed.stats);
    assert_reads_back(&set, &packed, &data).await;
    let again = pack(&set, &data).await;
    assert_eq!(
        (again.stats.new_packs, &again.chunks, &again.packs),
        (0, &packed.chunks, &packed.packs)
    );

    let report = verify_flist(&set, &packed.chunks, &packed.packs, &|_| ()).await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.packs, packed.packs.len() as u64);
    assert!(verify_stores(&set, &|_| ()).await.unwrap().is_clean());

    let folder = tempfile::tempdir().unwrap();
    let copy = set_of(&[folder.path().display().to_string()]);
    let load = LoadOptions {
        cache: None,
        ..LoadOptions::default()
    };
    let copied = copy_packs(&set, &copy, &packed.packs, &load, &|_| ())
        .await
        .unwrap();
    assert_eq!(copied.copied, packed.packs.len() as u64);
    assert_reads_back(&copy, &packed, &data).await;
    let resumed = copy_packs(&set, &copy, &packed.packs, &load, &|_| ())
        .await
        .unwrap();
    assert_eq!(
        (resumed.copied, resumed.skipped),
        (0, packed.packs.len() as u64)
    );
    let back = set_of(&[make_url("back")]);
    copy_packs(&copy, &back, &packed.packs, &load, &|_| ())
        .await
        .unwrap();
    assert_reads_back(&back, &packed, &data).await;

    let mut roots = GcRoots::default();
    roots.keep(FlistDigest::of(b"kept"), packed.packs[..1].iter().copied());
    let options = GcOptions {
        age_min: Duration::ZERO,
        ..GcOptions::default()
    };
    GcPlan::make(&set, &roots, &options)
        .await
        .unwrap()
        .apply(&set)
        .await
        .unwrap();
    let (_, store) = set.stores().next().unwrap();
    assert_eq!(store.list(ObjectKind::Pack).await.unwrap().len(), 1);
    let kept: Vec<_> = sources(&packed)
        .into_iter()
        .filter(|s| s.pack.id == packed.packs[0].id)
        .collect();
    ChunkReader::new(set, ReadOptions::default())
        .fetch(&kept)
        .await
        .unwrap();
}

/// The server is killed: readers use the other replica at once, and without one get an error in time.
async fn replica_story(server: Server, url: String) {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().display().to_string();
    let both = set_of(&[url.clone(), other]);
    let data = chunks(40);
    let packed = pack(&both, &data).await;
    assert_reads_back(&both, &packed, &data).await;
    drop(server);
    assert_reads_back(&both, &packed, &data).await;
    let options = StoreOptions {
        budget: Duration::from_secs(2),
        ..StoreOptions::default()
    };
    let alone = StoreSet::open(&[url.parse().unwrap()], options).unwrap();
    let error = ChunkReader::new(alone, ReadOptions::default())
        .fetch(&sources(&packed))
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout),
        "{error}: {}",
        error.source
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dir_on_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    story(|prefix| folder.path().join(prefix).display().to_string()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_with_s3s() {
    let server = s3();
    story(|prefix| s3_url(&server, prefix)).await;
    let wrong = s3_url(&server, "story").replace("SEC%2FRET", "WRONG");
    let error = open(&wrong).list(ObjectKind::Pack).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(!error.to_string().contains("WRONG"));
    let url = s3_url(&server, "replica");
    replica_story(server, url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn az_with_azurite() {
    let server = azurite();
    story(|prefix| az_url(&server, prefix)).await;
    let wrong = format!(
        "az://{AZ_ACCOUNT}:d3Jvbmc%3D@packs/story?endpoint={}/{AZ_ACCOUNT}",
        server.url()
    );
    let error = open(&wrong).list(ObjectKind::Pack).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let url = az_url(&server, "replica");
    replica_story(server, url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gs_with_fake_gcs_server() {
    let server = gcs();
    let front = GcsFront::start(server.port);
    story(|prefix| gs_url(&front, prefix)).await;
    let url = gs_url(&front, "replica");
    replica_story(server, url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oci_with_distribution() {
    let server = registry();
    story(|prefix| oci_url(&server, prefix)).await;
    let url = oci_url(&server, "replica");
    replica_story(server, url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_set_sharded_and_replicated_over_different_kinds() {
    let (s3, registry) = (s3(), registry());
    let folder = tempfile::tempdir().unwrap();
    let specs = [
        format!("00-7f={}", s3_url(&s3, "shard")),
        format!("80-ff={}", oci_url(&registry, "shard")),
        folder.path().display().to_string(),
    ];
    let set = set_of(&specs);
    let data = chunks(500);
    let packed = pack(&set, &data).await;
    assert_reads_back(&set_of(&specs[..2]), &packed, &data).await;
    assert_reads_back(&set_of(&specs[2..]), &packed, &data).await;
    let again = pack(&set, &data).await;
    assert_eq!(again.stats.new_chunks, 0);
    drop((s3, registry));
    assert_reads_back(&set, &packed, &data).await;
}
