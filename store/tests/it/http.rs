//! Packs behind web servers: a good one, Python's, and bad ones of every kind.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lamina_store::conformance::sample_pack;
use lamina_store::fault::MemoryStore;
use lamina_store::pack::SealedPack;
use lamina_store::{
    ChunkReader, ChunkSource, ErrorKind, ObjectKey, ObjectKind, PackRef, ReadOptions, ShardRange,
    Store, StoreOptions, StoreSet, StoreUrl, backend,
};

use crate::tools::Server;
use crate::web::{Body, Reply, Web};

fn open(url: &str) -> Arc<dyn Store> {
    let url: StoreUrl = url.parse().unwrap();
    backend::open(&url, &StoreOptions::default()).unwrap()
}

fn impatient() -> StoreOptions {
    let short = Duration::from_millis(600);
    StoreOptions {
        attempt_timeout: short,
        budget: 2 * short,
        hedge_after: short / 3,
        ..StoreOptions::default()
    }
}

fn set_of(stores: Vec<Arc<dyn Store>>) -> StoreSet {
    StoreSet::from_stores(
        stores.into_iter().map(|s| (ShardRange::ALL, s)).collect(),
        impatient(),
    )
    .unwrap()
}

fn key(pack: &SealedPack) -> ObjectKey {
    ObjectKey::Pack(pack.record.id)
}

fn sources(pack: &SealedPack) -> Vec<ChunkSource> {
    let source = |entry: &lamina_store::pack::PackEntry| {
        let (id, offset, stored_len, len, codec) = (
            entry.id,
            entry.offset,
            entry.stored_len,
            entry.len,
            entry.codec,
        );
        let chunk = lamina_flist::ChunkRecord {
            id,
            pack: 0,
            offset,
            stored_len,
            len,
            codec,
        };
        ChunkSource {
            chunk,
            pack: pack.record,
        }
    };
    pack.entries.iter().map(source).collect()
}

async fn fetch(store: Arc<dyn Store>, pack: &SealedPack) -> Result<Vec<Bytes>, ErrorKind> {
    let reader = ChunkReader::new(set_of(vec![store]), ReadOptions::default());
    reader.fetch(&sources(pack)).await.map_err(|e| e.kind())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_server_is_read_in_parts_with_its_login() {
    let pack = sample_pack(1, 300_000);
    let (path, bytes) = (
        format!("/deep/er/{}", key(&pack).path()),
        pack.bytes.clone(),
    );
    let web = Web::start(move |request| match request.header("authorization") {
        Some("Basic dXNlcjpwYXNz") if request.target == path => Reply::good(request, &bytes),
        Some(_) => Reply::new(404, ""),
        None => Reply::new(401, ""),
    });
    let store = open(&format!("http://user:pass@127.0.0.1:{}/deep/er/", web.port));
    assert_eq!(store.head(&key(&pack)).await.unwrap(), pack.record.len);
    assert_eq!(
        store.get(&key(&pack), pack.record.len).await.unwrap(),
        pack.bytes
    );
    let plain = fetch(Arc::clone(&store), &pack).await.unwrap();
    assert_eq!(plain.concat(), pack.bytes.slice(..300_000));
    let anonymous = open(&format!("{}/deep/er", web.url()));
    let error = anonymous.get(&key(&pack), 1 << 20).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let absent = ObjectKey::Pack(sample_pack(2, 10).record.id);
    assert_eq!(
        store.get(&absent, 100).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn writing_listing_and_deleting_are_not_supported() {
    let store = open("http://127.0.0.1:9/x");
    let pack = sample_pack(3, 10);
    assert!(!store.writable());
    assert_eq!(
        store
            .put(&key(&pack), pack.bytes.clone())
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Unsupported
    );
    assert_eq!(
        store.list(ObjectKind::Pack).await.unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    assert_eq!(
        store.delete(&key(&pack)).await.unwrap_err().kind(),
        ErrorKind::Unsupported
    );
}

/// Every way in which a server can answer wrongly, and what is said about it.
#[tokio::test(flavor = "multi_thread")]
async fn bad_answers_are_errors_with_the_right_kind_and_never_bytes() {
    type Answer = fn(&crate::web::Request, &[u8]) -> Reply;
    let table: [(&str, ErrorKind, Answer); 15] = [
        ("ignores Range", ErrorKind::Unsupported, |_, object| {
            Reply::new(200, object)
        }),
        (
            "ignores Range, cut to look right",
            ErrorKind::Unsupported,
            |_, object| Reply::new(200, &object[..200_000]),
        ),
        ("no Content-Range", ErrorKind::Corrupt, |r, object| {
            let (first, last) = r.range().unwrap();
            Reply::new(206, &object[first..=last])
        }),
        ("another range", ErrorKind::Corrupt, |r, object| {
            let (first, last) = r.range().unwrap();
            Reply::new(206, &object[first..=last]).header(
                "Content-Range",
                format!("bytes {}-{}/{}", first + 1, last + 1, object.len()),
            )
        }),
        ("another total", ErrorKind::Corrupt, |r, object| {
            let (first, last) = r.range().unwrap();
            Reply::new(206, &object[first..=last]).header(
                "Content-Range",
                format!("bytes {first}-{last}/{}", object.len() + 1),
            )
        }),
        ("fewer bytes", ErrorKind::Corrupt, |r, object| {
            let mut reply = Reply::good(r, object);
            reply.body = Body::Whole(object[..10].to_vec());
            reply
        }),
        ("more bytes", ErrorKind::Corrupt, |r, object| {
            let mut reply = Reply::good(r, object);
            reply.body = Body::Whole(object.repeat(2));
            reply
        }),
        ("endless", ErrorKind::Corrupt, |r, object| {
            Reply::good(r, object).body(Body::Endless)
        }),
        ("closes early", ErrorKind::Unavailable, |r, object| {
            let (first, last) = r.range().unwrap();
            Reply::good(r, object).body(Body::Claimed(
                last + 1 - first,
                object[first..last].to_vec(),
            ))
        }),
        ("zeros", ErrorKind::Corrupt, |r, object| {
            let (first, last) = r.range().unwrap();
            Reply::good(r, object).body(Body::Whole(vec![0; last + 1 - first]))
        }),
        ("compressed", ErrorKind::Corrupt, |r, object| {
            Reply::good(r, object).header("Content-Encoding", "gzip")
        }),
        ("hangs", ErrorKind::Timeout, |r, object| {
            Reply::good(r, object).body(Body::Hang)
        }),
        ("overloaded", ErrorKind::Unavailable, |_, _| {
            Reply::new(503, "")
        }),
        ("forbidden", ErrorKind::Denied, |_, _| Reply::new(403, "")),
        ("redirects to itself", ErrorKind::Invalid, |r, _| {
            Reply::new(302, "").header("Location", r.target.clone())
        }),
    ];
    let pack = sample_pack(4, 300_000);
    for (name, kind, answer) in table {
        let bytes = pack.bytes.clone();
        let web = Web::start(move |request| answer(request, &bytes));
        let start = Instant::now();
        // The whole allowance of a range of 300 kB is below two seconds and a half.
        assert_eq!(fetch(open(&web.url()), &pack).await, Err(kind), "{name}");
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "{name}: {:?}",
            start.elapsed()
        );

        let good: Arc<dyn Store> = Arc::new(MemoryStore::with([(key(&pack), pack.bytes.clone())]));
        let set = set_of(vec![open(&web.url()), good]);
        let plain = ChunkReader::new(set, ReadOptions::default())
            .fetch(&sources(&pack))
            .await
            .unwrap();
        assert!(
            plain.concat() == pack.bytes.slice(..300_000),
            "{name}: the other replica serves it"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_whole_objects_and_redirect_chains_are_cut() {
    let pack = sample_pack(5, 1000);
    let endless = Web::start(|_| Reply::new(200, "").body(Body::Endless));
    assert_eq!(
        open(&endless.url())
            .get(&key(&pack), 100_000)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Corrupt
    );
    let longer = Web::start(|_| Reply::new(200, vec![0; 5000]));
    assert_eq!(
        open(&longer.url())
            .get(&key(&pack), 4999)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Corrupt
    );
    let chain = Web::start(|request| {
        Reply::new(302, "").header("Location", format!("{}x", request.target))
    });
    assert_eq!(
        open(&chain.url())
            .get(&key(&pack), 4999)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Invalid
    );
    assert!(chain.seen().len() <= 7, "{} requests", chain.seen().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_never_follow_a_redirect_to_another_host() {
    let pack = sample_pack(6, 100_000);
    let bytes = pack.bytes.clone();
    let other = Web::start(move |request| Reply::good(request, &bytes));
    for host in ["127.0.0.1", "localhost"] {
        let place = format!("http://{host}:{}", other.port);
        let first = Web::start(move |request| {
            Reply::new(307, "").header("Location", format!("{place}{}", request.target))
        });
        let store = open(&format!("http://user:pass@127.0.0.1:{}", first.port));
        let plain = fetch(store, &pack).await.unwrap();
        assert_eq!(plain.concat(), pack.bytes.slice(..100_000));
        assert!(
            first
                .seen()
                .iter()
                .all(|request| request.header("authorization").is_some())
        );
    }
    assert!(!other.seen().is_empty());
    for request in other.seen() {
        assert_eq!(request.header("authorization"), None);
        assert_eq!(request.header("cookie"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn python_s_server_serves_whole_packs_but_its_lack_of_range_is_noticed() {
    let pack = sample_pack(7, 200_000);
    let server = Server::start(|port, folder: &Path| {
        let mut command = Command::new("python3");
        command
            .args([
                "-m",
                "http.server",
                "--bind",
                "127.0.0.1",
                &port.to_string(),
                "--directory",
            ])
            .arg(folder);
        command
    });
    let dir = open(&server.folder.path().display().to_string());
    dir.put(&key(&pack), pack.bytes.clone()).await.unwrap();
    let store = open(&server.url());
    assert_eq!(
        store.get(&key(&pack), pack.record.len).await.unwrap(),
        pack.bytes
    );
    let whole = PackRef::from(&pack.record);
    assert_eq!(
        store.get_range(&whole, 0..pack.record.len).await.unwrap(),
        pack.bytes
    );
    let error = store.get_range(&whole, 0..1000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("ignores Range"), "{error}");
}

/// Nobody listens: every kind of store says so, so that it is not waited for as for a server that is busy.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_is_told_from_a_server_that_cannot_serve_now() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let pack = sample_pack(8, 1000);
    for url in [
        format!("http://127.0.0.1:{port}/x"),
        format!("oci://127.0.0.1:{port}/x"),
        format!("s3://KEY:SECRET@bucket?endpoint=http://127.0.0.1:{port}"),
        format!("gs://bucket?endpoint=http://127.0.0.1:{port}&anonymous=true"),
        format!("az://account:a2V5@container?endpoint=http://127.0.0.1:{port}"),
    ] {
        let error = open(&url).get(&key(&pack), 1 << 20).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.is_unreachable(), "{error}");
        assert!(error.to_string().contains("cannot connect"), "{error}");
    }
    let busy = Web::start(|_| Reply::new(503, ""));
    for url in [
        busy.url(),
        format!("s3://KEY:SECRET@bucket?endpoint={}", busy.url()),
    ] {
        let error = open(&url).get(&key(&pack), 1 << 20).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(!error.is_unreachable(), "{error}");
    }
}

/// Servers that show no lists refuse the folder; only one that does not have it says "not found".
#[tokio::test]
async fn a_folder_that_is_not_found_is_told_from_one_that_is_not_shown() {
    for (status, is_there) in [
        (200, true),
        (403, true),
        (405, true),
        (404, false),
        (410, false),
    ] {
        let web = Web::start(move |_| Reply::new(status, ""));
        assert_eq!(
            open(&web.url()).is_there().await.unwrap(),
            is_there,
            "{status}"
        );
    }
    let web = Web::start(|_| Reply::new(503, ""));
    let error = open(&web.url()).is_there().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
