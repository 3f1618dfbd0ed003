//! The library against a registry in this process.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use lamina_image::manifest::sha256;
use lamina_proto::lamina::v1::source::From as SourceFrom;
use lamina_proto::lamina::v1::{ArchiveSource, FlistSource, ImageSource, PullPolicy};
use lamina_store::{ObjectKey, open_flist};

use super::*;
use crate::test_registry::{Server, noise, tar};

type Outcome = Result<Have, EnsureErrorKind>;

fn config(dir: &Path, store: &Path) -> LibraryConfig {
    LibraryConfig {
        dir: dir.to_owned(),
        stores: vec![format!("dir://{}", store.display())],
        insecure_registries: Vec::new(),
        layers: None,
        limits: LibraryLimits::default(),
    }
}

fn image_source(reference: String, pull: PullPolicy, config: &str) -> Source {
    Source {
        from: Some(SourceFrom::Image(ImageSource {
            reference,
            platform: String::new(),
            pull_policy: pull.into(),
            docker_config_json: config.as_bytes().to_vec(),
        })),
    }
}

fn archive_source(url: String, sha256: String) -> Source {
    Source {
        from: Some(SourceFrom::Archive(ArchiveSource { url, sha256 })),
    }
}

async fn ensure(library: &Library, source: Source) -> Outcome {
    let done = library.ensure(source, &[], |_, _, _| {}).await;
    done.map_err(|error| {
        eprintln!("{}", crate::chain(&error));
        error.kind()
    })
}

async fn pull(library: &Library, reference: String, pull: PullPolicy) -> Outcome {
    ensure(library, image_source(reference, pull, "")).await
}

const GETS: &str = "GET /v2/a/b/blobs/";

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_convert_once_and_other_nodes_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    server.push(
        "t",
        &[tar("a", &noise(1, 300_000)), tar("b", &noise(2, 100_000))],
    );
    let store = dir.path().join("store");
    let one = Library::open(config(&dir.path().join("one"), &store)).unwrap();
    let callers = (0..20).map(|_| pull(&one, server.image(":t"), PullPolicy::IfNotPresent));
    let all = futures::future::join_all(callers).await;
    let digests: HashSet<String> = all
        .into_iter()
        .map(|have| have.unwrap().info.digest)
        .collect();
    assert_eq!(digests.len(), 1);
    // A config and two layers.
    assert_eq!(server.count(GETS), 3);

    let two = Library::open(config(&dir.path().join("two"), &store)).unwrap();
    let have = pull(&two, server.image(":t"), PullPolicy::Always)
        .await
        .unwrap();
    assert_eq!(server.count(GETS), 3, "taken from the shared store");
    assert!(!have.was_here);
    let again = pull(&two, server.image(":t"), PullPolicy::Always).await;
    assert!(again.unwrap().was_here);
    assert!(digests.contains(&have.info.digest));
    assert_eq!(
        open_flist(&have.flist).unwrap().digest().to_string(),
        have.info.digest
    );
    assert_eq!(
        (have.info.entries, have.info.bytes, have.info.layers),
        (2, 400_000, 2)
    );
    assert_eq!(have.info.reference, server.image(":t"));
    assert!(have.info.bytes_stored > 0 && have.info.image_config.contains("rootfs"));
    assert_eq!(two.list().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_when_its_callers_leave() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    server.push("t", &[tar("a", &noise(1, 300_000))]);
    let library = Library::open(config(&dir.path().join("l"), &dir.path().join("s"))).unwrap();
    server.content.lock().unwrap().stalled = true;
    let caller = {
        let (library, image) = (Arc::clone(&library), server.image(":t"));
        tokio::spawn(async move { pull(&library, image, PullPolicy::Always).await.is_ok() })
    };
    let begun = async {
        while server.count(GETS) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), begun)
        .await
        .unwrap();
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    server.content.lock().unwrap().stalled = false;
    let done = async {
        while library.list().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), done)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_policies_decide_when_a_moved_tag_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let library = Library::open(config(&dir.path().join("l"), &dir.path().join("s"))).unwrap();
    let image = || server.image(":t");
    let never = pull(&library, image(), PullPolicy::Never).await;
    assert_eq!(never.unwrap_err(), EnsureErrorKind::NotFound);
    let absent = pull(&library, image(), PullPolicy::IfNotPresent).await;
    assert_eq!(absent.unwrap_err(), EnsureErrorKind::NotFound);

    let old = server.push("t", &[tar("a", &noise(1, 5000))]);
    let first = pull(&library, image(), PullPolicy::IfNotPresent)
        .await
        .unwrap();
    assert_eq!(first.info.manifest, old);
    let new = server.push("t", &[tar("a", &noise(2, 5000))]);
    for policy in [
        PullPolicy::IfNotPresent,
        PullPolicy::Unspecified,
        PullPolicy::Never,
    ] {
        let have = pull(&library, image(), policy).await.unwrap();
        assert_eq!(have.info.manifest, old, "{policy:?}");
    }
    let always = pull(&library, image(), PullPolicy::Always).await.unwrap();
    assert_eq!(always.info.manifest, new);
    let never = pull(&library, image(), PullPolicy::Never).await.unwrap();
    assert_eq!(never.info.manifest, new);
    let pinned = pull(
        &library,
        server.image(&format!("@{old}")),
        PullPolicy::IfNotPresent,
    )
    .await;
    assert_eq!(pinned.unwrap().info.digest, first.info.digest);
    server.push("latest", &[tar("a", &noise(2, 5000))]);
    let latest = pull(&library, server.image(""), PullPolicy::Unspecified)
        .await
        .unwrap();
    assert_eq!(latest.info.manifest, new);
    let again = server.push("latest", &[tar("a", &noise(3, 5000))]);
    let latest = pull(&library, server.image(""), PullPolicy::Unspecified)
        .await
        .unwrap();
    assert_eq!(
        latest.info.manifest, again,
        "no tag is asked for every time"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_is_for_those_whom_the_registry_lets_see_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let old = server.push("t", &[tar("a", &noise(1, 5000))]);
    // base64 of u:p
    server.content.lock().unwrap().authorization = Some("Basic dTpw".to_owned());
    let library = Library::open(config(&dir.path().join("l"), &dir.path().join("s"))).unwrap();
    let as_user = |password: &str, pull| {
        let login = serde_json::json!({ "username": "u", "password": password });
        let host = server.address.to_string();
        let config = serde_json::json!({ "auths": { host: login } }).to_string();
        image_source(server.image(":t"), pull, &config)
    };
    let have = ensure(&library, as_user("p", PullPolicy::IfNotPresent))
        .await
        .unwrap();
    assert_eq!(have.info.manifest, old);
    for policy in [
        PullPolicy::IfNotPresent,
        PullPolicy::Never,
        PullPolicy::Always,
    ] {
        let nobody = pull(&library, server.image(":t"), policy).await;
        assert_eq!(
            nobody.unwrap_err(),
            EnsureErrorKind::PermissionDenied,
            "{policy:?}"
        );
        let wrong = ensure(&library, as_user("q", policy)).await;
        assert_eq!(
            wrong.unwrap_err(),
            EnsureErrorKind::PermissionDenied,
            "{policy:?}"
        );
        ensure(&library, as_user("p", policy)).await.unwrap();
    }
    // Nothing of the password is on disk.
    for entry in std::fs::read_dir(dir.path().join("l/refs")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(
            !text.contains("password") && !text.contains("dTpw"),
            "{text}"
        );
    }
    // Made public: anybody, and from then on without asking.
    server.content.lock().unwrap().authorization = None;
    pull(&library, server.image(":t"), PullPolicy::IfNotPresent)
        .await
        .unwrap();
    server.content.lock().unwrap().authorization = Some("Basic dTpw".to_owned());
    pull(&library, server.image(":t"), PullPolicy::IfNotPresent)
        .await
        .unwrap();
}

/// An index of anybody's could name any manifest, and its flist was given if it was on the node.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_gives_no_image_that_its_registry_does_not_have() {
    let dir = tempfile::tempdir().unwrap();
    let (theirs, hostile) = (Server::start(), Server::start());
    let private = theirs.push("t", &[tar("a", &noise(1, 5000))]);
    // base64 of u:p
    theirs.content.lock().unwrap().authorization = Some("Basic dTpw".to_owned());
    let library = Library::open(config(&dir.path().join("l"), &dir.path().join("s"))).unwrap();
    let host = theirs.address.to_string();
    let login = serde_json::json!({ "auths": { host: { "username": "u", "password": "p" } } });
    let source = image_source(theirs.image(":t"), PullPolicy::Always, &login.to_string());
    let have = ensure(&library, source).await.unwrap();
    assert_eq!(have.info.manifest, private);
    hostile.push_index("t", &private);
    for policy in [
        PullPolicy::Always,
        PullPolicy::IfNotPresent,
        PullPolicy::Never,
    ] {
        let stolen = pull(&library, hostile.image(":t"), policy).await;
        assert_eq!(stolen.unwrap_err(), EnsureErrorKind::NotFound, "{policy:?}");
    }
    // One that has it gives it.
    let own = hostile.push("own", &[tar("a", &noise(2, 5000))]);
    hostile.push_index("t", &own);
    let have = pull(&library, hostile.image(":t"), PullPolicy::Always).await;
    assert_eq!(have.unwrap().info.manifest, own);
}

#[test]
fn a_library_killed_half_way_opens_again_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    server.push("t", &[tar("a", &noise(1, 300_000))]);
    server.content.lock().unwrap().stalled = true;
    let config = config(&dir.path().join("l"), &dir.path().join("s"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let library = Library::open(config.clone()).unwrap();
        let again = Library::open(config.clone()).unwrap_err();
        assert_eq!(again.kind(), EnsureErrorKind::FailedPrecondition);
        let source = image_source(server.image(":t"), PullPolicy::Always, "");
        let waiting = library.ensure(source, &[], |_, _, _| {});
        let begun = async {
            while server.count(GETS) < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = waiting => panic!("the layer never ends"),
            () = begun => {}
        }
    });
    runtime.shutdown_background();
    for left in ["tmp/7", "records/.tmpX", &format!("{}.fl", "ab".repeat(32))] {
        std::fs::write(config.dir.join(left), b"half").unwrap();
    }
    server.content.lock().unwrap().stalled = false;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let opened = async {
            loop {
                // The old tasks let go of the lock when their threads notice.
                match Library::open(config.clone()) {
                    Ok(library) => break library,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let library = tokio::time::timeout(Duration::from_secs(60), opened)
            .await
            .unwrap();
        assert!(!config.dir.join("tmp/7").exists() && !config.dir.join("records/.tmpX").exists());
        assert_eq!(library.list().len(), 0);
        let have = pull(&library, server.image(":t"), PullPolicy::Always)
            .await
            .unwrap();
        assert_eq!(have.info.bytes, 300_000);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_checked_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let (plain, zeros) = (tar("f", &noise(1, 50_000)), tar("z", &vec![0; 4 << 20]));
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&zeros).unwrap();
    let files = [
        ("/a.tar", plain.clone()),
        ("/bomb.tar.gz", bomb.finish().unwrap()),
        ("/no", noise(3, 4000)),
    ];
    let files = files.map(|(name, bytes)| (name.to_owned(), bytes));
    server.content.lock().unwrap().files.extend(files);
    let url = |path: &str| format!("http://{}{path}", server.address);
    let mut config = config(&dir.path().join("l"), &dir.path().join("s"));
    config.limits.image.ratio_floor_bytes = 1 << 20;
    config.limits.image.ratio_max = 50;
    let library = Library::open(config).unwrap();

    let hex = hex::encode(sha256(&plain).as_bytes());
    let good = ensure(&library, archive_source(url("/a.tar"), hex.clone()))
        .await
        .unwrap();
    assert_eq!((good.info.bytes, good.info.entries), (50_000, 1));
    assert_eq!(
        (good.info.image_config.as_str(), good.info.manifest.as_str()),
        ("", "")
    );
    assert_eq!(good.info.reference, url("/a.tar"));
    ensure(&library, archive_source(url("/a.tar"), hex))
        .await
        .unwrap();
    assert_eq!(server.count("GET /a.tar"), 1, "known by its digest");
    let unchecked = ensure(
        &library,
        archive_source(url("/a.tar?token=x"), String::new()),
    )
    .await;
    assert_eq!(unchecked.unwrap_err(), EnsureErrorKind::NotFound);

    let wrong = ensure(&library, archive_source(url("/a.tar"), "ab".repeat(32))).await;
    assert_eq!(wrong.unwrap_err(), EnsureErrorKind::DataLoss);
    let bomb = ensure(&library, archive_source(url("/bomb.tar.gz"), String::new())).await;
    assert_eq!(bomb.unwrap_err(), EnsureErrorKind::ResourceExhausted);
    let no_tar = ensure(&library, archive_source(url("/no"), String::new())).await;
    assert_eq!(no_tar.unwrap_err(), EnsureErrorKind::InvalidArgument);
    for bad in ["file:///etc/passwd", "ftp://x/y", ""] {
        let refused = ensure(&library, archive_source(bad.to_owned(), String::new())).await;
        assert_eq!(
            refused.unwrap_err(),
            EnsureErrorKind::InvalidArgument,
            "{bad}"
        );
    }
    assert_eq!(library.list().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flist_is_found_by_its_digest_or_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    server.push("t", &[tar("a", &noise(1, 5000))]);
    let store = dir.path().join("s");
    let one = Library::open(config(&dir.path().join("one"), &store)).unwrap();
    let made = pull(&one, server.image(":t"), PullPolicy::Always)
        .await
        .unwrap();
    let fallback = |tag: &str| ImageSource {
        reference: server.image(tag),
        ..ImageSource::default()
    };
    let by_digest = |digest: &str, image: Option<ImageSource>| Source {
        from: Some(SourceFrom::Flist(FlistSource {
            digest: digest.to_owned(),
            image,
            ..FlistSource::default()
        })),
    };
    let gets = server.count(GETS);
    let two = Library::open(config(&dir.path().join("two"), &store)).unwrap();
    let have = ensure(&two, by_digest(&made.info.digest, None))
        .await
        .unwrap();
    assert_eq!(
        (have.info.digest, server.count(GETS)),
        (made.info.digest.clone(), gets)
    );

    let unknown = "ab".repeat(32);
    let none = ensure(&two, by_digest(&unknown, None)).await;
    assert_eq!(none.unwrap_err(), EnsureErrorKind::NotFound);
    let other = ensure(&two, by_digest(&unknown, Some(fallback(":t")))).await;
    assert_eq!(
        other.unwrap_err(),
        EnsureErrorKind::NotFound,
        "gone, not damaged"
    );
    let bad = ensure(&two, by_digest("zz", None)).await;
    assert_eq!(bad.unwrap_err(), EnsureErrorKind::InvalidArgument);

    // The store lost everything; the same stores and image give the same flist.
    std::fs::remove_dir_all(&store).unwrap();
    let three = Library::open(config(&dir.path().join("three"), &store)).unwrap();
    let again = ensure(&three, by_digest(&made.info.digest, Some(fallback(":t"))))
        .await
        .unwrap();
    assert_eq!(again.info.digest, made.info.digest);
}

/// It was read, and pulled, as the image of whoever had asked for it before.
#[tokio::test(flavor = "multi_thread")]
async fn a_flist_is_told_by_the_name_that_its_caller_gave() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    server.push("t", &[tar("a", &noise(1, 5000))]);
    let store = dir.path().join("s");
    let one = Library::open(config(&dir.path().join("one"), &store)).unwrap();
    let theirs = pull(&one, server.image(":t"), PullPolicy::Always).await;
    let theirs = theirs.unwrap();
    let mine = format!("localhost:{}/a/b:t", server.address.port());
    let source = || Source {
        from: Some(SourceFrom::Flist(FlistSource {
            digest: theirs.info.digest.clone(),
            image: Some(ImageSource {
                reference: mine.clone(),
                ..ImageSource::default()
            }),
            ..FlistSource::default()
        })),
    };
    let two = Library::open(config(&dir.path().join("two"), &store)).unwrap();
    for library in [&one, &two] {
        let have = ensure(library, source()).await.unwrap();
        assert_eq!(have.info.reference, mine);
        assert!(have.image().unwrap().starts_with("localhost:"));
    }
    assert_eq!(one.list()[0].reference, server.image(":t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn forgetting_keeps_what_others_use() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let (base, a, b) = (
        tar("base", &noise(1, 300_000)),
        tar("a", &noise(2, 90_000)),
        tar("b", &noise(3, 90_000)),
    );
    server.push("a", &[base.clone(), a]);
    server.push("b", &[base, b]);
    let config = config(&dir.path().join("l"), &dir.path().join("s"));
    let library = Library::open(config.clone()).unwrap();
    let first = pull(&library, server.image(":a"), PullPolicy::Always)
        .await
        .unwrap();
    let second = pull(&library, server.image(":b"), PullPolicy::Always)
        .await
        .unwrap();
    let gone: FlistDigest = first.info.digest.parse().unwrap();
    let held = library.forget(gone, true, &[]).await.unwrap_err();
    assert_eq!(held.kind(), EnsureErrorKind::FailedPrecondition);
    drop(first);
    let freed = library.forget(gone, true, &[]).await.unwrap();
    assert!((90_000..300_000).contains(&freed), "{freed}");
    assert_eq!(library.list().len(), 1);
    let set = Stores::open(&config.stores, UrlTrust::User).unwrap().set;
    for pack in open_flist(&second.flist).unwrap().packs() {
        assert!(set.has(&ObjectKey::Pack(pack.id), pack.len).await.unwrap());
    }
    let gone = set.get(&ObjectKey::Flist(gone)).await.unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
    let never = pull(&library, server.image(":a"), PullPolicy::Never).await;
    assert_eq!(never.unwrap_err(), EnsureErrorKind::NotFound);
    pull(&library, server.image(":a"), PullPolicy::IfNotPresent)
        .await
        .unwrap();
}

/// A publish that began while a flist's packs were being deleted was given the flist, and mounted nothing.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_flist_that_is_being_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    server.push("t", &[tar("a", &noise(1, 5000))]);
    let library = Library::open(config(&dir.path().join("l"), &dir.path().join("s"))).unwrap();
    let have = pull(&library, server.image(":t"), PullPolicy::Always).await;
    let have = have.unwrap();
    let digest: FlistDigest = have.info.digest.parse().unwrap();
    let begun = library.inner.shelf.begin_forgetting(digest).unwrap_err();
    assert_eq!(begun.kind(), EnsureErrorKind::FailedPrecondition);
    let flist = open_flist(&have.flist).unwrap();
    let card = Card::checked(&flist).unwrap();
    drop(have);
    // Whoever made it holds it for a moment longer than who asked for it.
    let end = std::time::Instant::now() + Duration::from_secs(60);
    let going = loop {
        match library.inner.shelf.begin_forgetting(digest) {
            Ok(going) => break going,
            Err(error) => assert!(std::time::Instant::now() < end, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    let by_digest = || Source {
        from: Some(SourceFrom::Flist(FlistSource {
            digest: digest.to_string(),
            ..FlistSource::default()
        })),
    };
    let by_name = || image_source(server.image(":t"), PullPolicy::Always, "");
    for source in [by_digest(), by_name()] {
        let refused = ensure(&library, source).await;
        assert_eq!(refused.unwrap_err(), EnsureErrorKind::Aborted);
    }
    let twice = library.forget(digest, true, &[]).await.unwrap_err();
    assert_eq!(twice.kind(), EnsureErrorKind::Aborted);
    let again = library.inner.shelf.put(&flist, card).unwrap_err();
    assert_eq!(again.kind(), EnsureErrorKind::Aborted);
    // Given up.
    drop(going);
    for source in [by_digest(), by_name()] {
        assert!(ensure(&library, source).await.unwrap().was_here);
    }
    library.forget(digest, true, &[]).await.unwrap();
    let absent = ensure(&library, by_digest()).await;
    assert_eq!(absent.unwrap_err(), EnsureErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_recently_used_flist_goes_first_and_a_held_one_never() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let mut config = config(&dir.path().join("l"), &dir.path().join("s"));
    config.limits.flists_max = 2;
    let library = Library::open(config).unwrap();
    for (tag, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        server.push(tag, &[tar(tag, &noise(seed, 5000))]);
    }
    let held = pull(&library, server.image(":a"), PullPolicy::Always)
        .await
        .unwrap();
    pull(&library, server.image(":b"), PullPolicy::Always)
        .await
        .unwrap();
    pull(&library, server.image(":c"), PullPolicy::Always)
        .await
        .unwrap();
    let left: Vec<String> = library
        .list()
        .into_iter()
        .map(|info| info.reference)
        .collect();
    assert_eq!(left, [server.image(":a"), server.image(":c")]);
    assert!(held.flist.exists());
    let gets = server.count(GETS);
    pull(&library, server.image(":b"), PullPolicy::Always)
        .await
        .unwrap();
    assert_eq!(server.count(GETS), gets, "evicted here, still in the store");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_a_cluster_make_the_same_flist_of_layers_read_once() {
    use crate::layers::tests::support::{Node, discovery, know_each_other};
    let server = Server::start();
    let layers = [tar("a", &noise(1, 300_000)), tar("b", &noise(2, 300_000))];
    server.push("t", &layers);
    let (service, at) = discovery();
    let nodes: Vec<Node> = (0..3)
        .map(|n| Node::start(&format!("node-{n}"), at.at, &server))
        .collect();
    know_each_other(&service, nodes.len()).await;
    let dir = tempfile::tempdir().unwrap();
    let library = |(n, node): (usize, &Node)| {
        let [library, store] =
            ["library", "store"].map(|name| dir.path().join(format!("{name}-{n}")));
        let config = LibraryConfig {
            layers: Some(node.store.clone()),
            ..config(&library, &store)
        };
        Library::open(config).unwrap()
    };
    let libraries: Vec<_> = nodes.iter().enumerate().map(library).collect();
    let pulls = libraries.iter().cycle().take(12);
    let pulls = pulls.map(|library| pull(library, server.image(":t"), PullPolicy::IfNotPresent));
    let mut digests = HashSet::new();
    for have in futures::future::join_all(pulls).await {
        let have = have.unwrap();
        let flist = open_flist(&have.flist).unwrap();
        assert!(flist.meta().stores.is_empty(), "its data is in no store");
        assert_eq!(flist.meta().provenance.layers.len(), 2);
        digests.insert(have.info.digest);
    }
    assert_eq!(digests.len(), 1);
    for layer in &layers {
        let asked = format!("GET /v2/a/b/blobs/{}", sha256(layer));
        assert_eq!(server.count(&asked), 1);
    }
    // By another name of its registry it is the same, and named stores get it.
    let port = server.address.port();
    let fresh = library((nodes.len(), &nodes[2]));
    let other = pull(
        &fresh,
        format!("localhost:{port}/a/b:t"),
        PullPolicy::Always,
    );
    assert!(digests.contains(&other.await.unwrap().info.digest));
    let named = [format!("dir://{}", dir.path().join("named").display())];
    let source = image_source(server.image(":t"), PullPolicy::IfNotPresent, "");
    let published = libraries[0].ensure(source, &named, |_, _, _| {}).await;
    assert_eq!(published.unwrap().info.stores, named);
    assert!(dir.path().join("named/flists").exists());
    // An image that is known needs neither discovery nor other nodes.
    drop((at, nodes));
    let again = pull(&libraries[1], server.image(":t"), PullPolicy::IfNotPresent).await;
    assert!(again.unwrap().was_here);
}
