//! The layerstore against a registry in this process.

mod cluster;
mod crash;
mod limits;
mod services;
pub(crate) mod support;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use lamina_image::convert::LayerRecord;
use lamina_image::manifest::sha256;

use super::*;
use crate::test_registry::{Server, noise, tar};
use support::{alone, config, digest, docker_config, ensure, gets, ready, wanted};

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_pulls_read_each_layer_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let layers: Vec<Vec<u8>> = (0..3)
        .map(|n| tar(&format!("f{n}"), &noise(n, 300_000)))
        .collect();
    server.push("t", &layers);
    let store = alone(config(dir.path()));
    let pulls = (0..100).map(|_| async {
        let image = wanted(&server, ":t", "").await;
        ensure(&store, &image).await
    });
    let all = futures::future::join_all(pulls).await;
    for found in all {
        let found = found.unwrap();
        let digests: Vec<_> = found.layers.iter().map(|layer| layer.held.digest).collect();
        assert_eq!(
            digests,
            layers.iter().map(|l| digest(l)).collect::<Vec<_>>()
        );
    }
    assert_eq!(
        layers.iter().map(|l| gets(&server, l)).collect::<Vec<_>>(),
        [1, 1, 1]
    );
    // And not again, by this process or the next.
    let image = wanted(&server, ":t", "").await;
    let again = ensure(&store, &image).await.unwrap();
    assert!(again.layers.iter().all(|layer| layer.cached));
    drop((store, again));
    let next = alone(config(dir.path()));
    let found = ensure(&next, &image).await.unwrap();
    assert!(found.layers.iter().all(|layer| layer.cached));
    assert_eq!(gets(&server, &layers[0]), 1);
    for layer in &found.layers {
        let open = next.shelf().open(&layer.held.digest).unwrap();
        open.flist.verify_sections().unwrap();
        let record = LayerRecord::of_flist(&open.flist).unwrap();
        assert_eq!(record.origin().digest, layer.held.digest);
        assert_eq!(open.flist.embedded_offset(), Some(open.packs_at));
    }
    assert_eq!(next.look(&image).await.unwrap().1, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_images_at_once_share_the_room_for_a_few() {
    const IMAGES: u64 = 100;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    for n in 0..IMAGES {
        let layer = tar(&format!("f{n}"), &noise(n, 100_000));
        server.push(&format!("t{n}"), &[layer]);
    }
    let store = alone(LayersConfig {
        bytes_max: Some(600_000),
        ..config(dir.path())
    });
    let pulls = (0..IMAGES).map(|n| {
        let (store, server) = (store.clone(), &server);
        async move {
            let image = wanted(server, &format!(":t{n}"), "").await;
            let found = ensure(&store, &image).await;
            // Let go of at once: what somebody holds stays.
            found.map(drop)
        }
    });
    let done = std::sync::atomic::AtomicBool::new(false);
    let watch = async {
        let mut looks = 0;
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            let (used, max) = store.shelf().bytes();
            assert!(used <= max, "{used} of {max}");
            looks += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        looks
    };
    let all = async {
        let all = futures::future::join_all(pulls).await;
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        all
    };
    let (all, looks) = tokio::join!(all, watch);
    assert!(looks > 0);
    let failed = all.iter().filter_map(|pulled| pulled.as_ref().err());
    for error in failed {
        let kind = error.kind();
        assert_eq!(kind, EnsureErrorKind::ResourceExhausted, "{error}");
    }
    assert!(all.iter().any(Result::is_ok), "nobody got anything");
    // What is left is whole layers and their records, and nothing else.
    let here = store.shelf().layers();
    assert!((1..=6).contains(&here.len()), "{}", here.len());
    let named = here.iter().flat_map(|(layer, _)| {
        let name = layer.to_string().replace("sha256:", "");
        [format!("{name}.afslyr"), format!("{name}.rec")]
    });
    let files = support::files(dir.path());
    assert_eq!(files, named.collect::<BTreeSet<_>>());
    let path = |name: &String| dir.path().join("layers").join(name);
    let sizes = files
        .iter()
        .map(|name| std::fs::metadata(path(name)).unwrap().len());
    let on_disk: u64 = sizes.sum();
    assert_eq!(store.shelf().bytes().0, on_disk, "no room is lost");
    for (layer, _) in &here {
        let open = store.shelf().open(layer).unwrap();
        open.flist.verify_sections().unwrap();
    }
    // And there is room for each of them again.
    for n in [0, IMAGES - 1] {
        let image = wanted(&server, &format!(":t{n}"), "").await;
        ensure(&store, &image).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_when_its_callers_leave() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let layer = tar("a", &noise(1, 300_000));
    server.push("t", std::slice::from_ref(&layer));
    let store = alone(config(dir.path()));
    let image = wanted(&server, ":t", "").await;
    server.content.lock().unwrap().stalled = true;
    let caller = {
        let store = store.clone();
        tokio::spawn(async move { ensure(&store, &image).await.is_ok() })
    };
    ready("the pull has begun", || gets(&server, &layer) == 1).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    server.content.lock().unwrap().stalled = false;
    ready("the layer is here", || {
        store.shelf().size(&digest(&layer)).is_some()
    })
    .await;
    assert_eq!(gets(&server, &layer), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_is_for_those_whom_the_registry_shows_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let layer = tar("a", &noise(1, 300_000));
    let manifest = server.push("t", std::slice::from_ref(&layer));
    // me:secret
    server.content.lock().unwrap().authorization = Some("Basic bWU6c2VjcmV0".into());
    let store = alone(config(dir.path()));
    let right = docker_config(&server, "me", "secret");
    let pinned = format!("@{manifest}");
    for selector in [":t", &pinned] {
        let mine = wanted(&server, selector, &right).await;
        ensure(&store, &mine).await.unwrap();
        for config in [String::new(), docker_config(&server, "me", "wrong")] {
            let others = wanted(&server, selector, &config).await;
            let refused = ensure(&store, &others).await.err().unwrap();
            assert_eq!(
                refused.kind(),
                EnsureErrorKind::PermissionDenied,
                "{selector}"
            );
            let text = crate::chain(&refused);
            assert!(
                !text.contains("wrong") && !text.contains("secret"),
                "{text}"
            );
            let looked = store.look(&others).await.err().unwrap();
            assert_eq!(looked.kind(), EnsureErrorKind::PermissionDenied);
        }
        ensure(&store, &mine).await.unwrap();
    }
    assert_eq!(gets(&server, &layer), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_leave_nothing_and_the_next_pull_helps() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    server.push("t", &[tar("a", &noise(1, 300_000))]);
    let store = alone(config(dir.path()));
    let image = wanted(&server, ":t", "").await;
    server.content.lock().unwrap().wrong = true;
    let refused = ensure(&store, &image).await.err().unwrap();
    assert_eq!(
        refused.kind(),
        EnsureErrorKind::DataLoss,
        "{}",
        crate::chain(&refused)
    );
    assert_eq!(support::files(dir.path()), BTreeSet::new());
    assert_eq!(store.shelf().bytes().0, 0);
    server.content.lock().unwrap().wrong = false;
    ensure(&store, &image).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_layers_of_the_image_are_given() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let (a, b) = (tar("a", &noise(1, 9000)), tar("b", &noise(2, 9000)));
    server.push("t", &[a.clone(), b.clone()]);
    let store = alone(config(dir.path()));
    let image = wanted(&server, ":t", "").await;
    let twice = [digest(&b), digest(&b)];
    let one = store.ensure(&image, Some(&twice), Origin::Anywhere).await;
    let one = one.unwrap();
    assert_eq!(one.layers.len(), 1);
    assert_eq!((gets(&server, &a), gets(&server, &b)), (0, 1));
    let none = [sha256(b"other")];
    let other = store.ensure(&image, Some(&none), Origin::Anywhere).await;
    assert_eq!(other.err().unwrap().kind(), EnsureErrorKind::NotFound);
    let missing = wanted(&server, ":none", "").await;
    let absent = ensure(&store, &missing).await.err().unwrap();
    assert_eq!(absent.kind(), EnsureErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layerstore_that_is_left_pulls_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let layer = tar("a", &noise(1, 300_000));
    server.push("t", std::slice::from_ref(&layer));
    let store = alone(config(dir.path()));
    let image = wanted(&server, ":t", "").await;
    server.content.lock().unwrap().stalled = true;
    let pulling = {
        let (store, image) = (store.clone(), image.clone());
        tokio::spawn(async move { ensure(&store, &image).await.map(|_| ()) })
    };
    ready("the pull has begun", || gets(&server, &layer) == 1).await;
    store.close(true);
    let called_off = pulling.await.unwrap().unwrap_err();
    assert_eq!(called_off.kind(), EnsureErrorKind::Aborted);
    tokio::time::timeout(Duration::from_secs(60), store.settled())
        .await
        .unwrap();
    let refused = ensure(&store, &image).await.err().unwrap();
    assert_eq!(refused.kind(), EnsureErrorKind::Aborted);
    server.content.lock().unwrap().stalled = false;
    store.close(false);
    ensure(&store, &image).await.unwrap();
    let names: HashSet<_> = store.shelf().layers().into_iter().collect();
    assert_eq!(names.len(), 1);
}
