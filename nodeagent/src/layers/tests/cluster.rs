//! Several layerstores and discovery: one reading of the registry for all.

use std::sync::Arc;

use lamina_image::convert::{ConvertOptions, assemble_image};
use lamina_proto::discovery::v1::service_discovery_server::ServiceDiscovery as _;
use lamina_proto::discovery::v1::{FindImageProviderRequest, FindProviderRequest};
use tonic::Request;

use super::support::{
    Node, certificates, digest, discovery, discovery_with, docker_config, ensure, gets,
    know_each_other, ready, wanted,
};
use crate::layers::{Layerstore, Origin, WantedImage, WholeLayers as _};
use crate::test_registry::{Server, noise, tar};

const LAYERS: u64 = 4;

fn push(server: &Server) -> Vec<Vec<u8>> {
    let layers = (0..LAYERS).map(|n| tar(&format!("f{n}"), &noise(n, 400_000)));
    let layers: Vec<Vec<u8>> = layers.collect();
    server.push("t", &layers);
    layers
}

/// The image's flist, from records alone.
async fn flist(store: &Layerstore, image: &WantedImage) -> String {
    let source = store.resolve(image).await.unwrap();
    let records = store.records(&source, image, |_| {}).await.unwrap();
    let made = assemble_image(&source, records, &ConvertOptions::default()).unwrap();
    made.digest.to_string()
}

/// How many nodes discovery says hold a layer.
async fn holders(discovery: &lamina_discovery::service::Service, layer: &[u8]) -> usize {
    let request = FindProviderRequest {
        layer_digest: digest(layer).to_string(),
    };
    let found = discovery.find_provider(Request::new(request)).await;
    found.map_or(0, |found| found.into_inner().services.len())
}

/// Waits until discovery knows somebody who holds each of them.
async fn all_told(discovery: &lamina_discovery::service::Service, layers: &[Vec<u8>]) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    for (n, layer) in layers.iter().enumerate() {
        while holders(discovery, layer).await == 0 {
            assert!(
                std::time::Instant::now() < deadline,
                "layer {n} is not told"
            );
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_is_read_once_per_layer_for_all_nodes() {
    let server = Server::start();
    let layers = push(&server);
    let (service, at) = discovery();
    let nodes: Vec<Node> = (0..6)
        .map(|n| Node::start(&format!("node-{n}"), at.at, &server))
        .collect();
    know_each_other(&service, nodes.len()).await;
    let image = wanted(&server, ":t", "").await;
    // All at once, each several times.
    let starts = nodes
        .iter()
        .cycle()
        .take(30)
        .map(|node| flist(&node.store, &image));
    let flists = futures::future::join_all(starts).await;
    assert!(
        flists.iter().all(|flist| *flist == flists[0]),
        "the same flist on every node"
    );
    let reads: Vec<usize> = layers.iter().map(|layer| gets(&server, layer)).collect();
    assert_eq!(reads, [1; LAYERS as usize]);
    // Only homes have the data.
    for layer in &layers {
        let here = nodes
            .iter()
            .filter(|node| node.store.shelf().size(&digest(layer)).is_some());
        assert_eq!(here.count(), 1);
    }
    // Whole images travel between nodes as well.
    let pulls = nodes.iter().map(|node| ensure(&node.store, &image));
    for found in futures::future::join_all(pulls).await {
        assert_eq!(found.unwrap().layers.len(), LAYERS as usize);
    }
    let reads: Vec<usize> = layers.iter().map(|layer| gets(&server, layer)).collect();
    assert_eq!(reads, [1; LAYERS as usize]);
    for layer in &layers {
        let files = nodes.iter().map(|node| {
            let open = node.store.shelf().open(&digest(layer)).unwrap();
            open.flist.verify_sections().unwrap();
            open.flist.as_bytes().clone()
        });
        let files: Vec<_> = files.collect();
        assert!(
            files.iter().all(|file| *file == files[0]),
            "the same file on every node"
        );
        let copies = nodes.iter().filter(|node| {
            let open = node.store.shelf().open(&digest(layer)).unwrap();
            open.is_copied()
        });
        assert_eq!(copies.count(), nodes.len() - 1, "all but its home's");
    }
    // Nodes that never saw the registry's layers are found to have the image.
    let key = image.named.key().to_string();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let request = FindImageProviderRequest {
            image_key: key.clone(),
        };
        let found = service.find_image_provider(Request::new(request)).await;
        if found.is_ok_and(|found| found.into_inner().services.len() == nodes.len()) {
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "images are not reported"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_and_goes_is_told_at_once() {
    let server = Server::start();
    let layers = push(&server);
    // The regular heartbeat would come after an hour.
    let (service, at) = discovery_with(std::time::Duration::from_secs(3 * 3600));
    let node = Node::start("node", at.at, &server);
    know_each_other(&service, 1).await;
    let image = wanted(&server, ":t", "").await;
    ensure(&node.store, &image).await.unwrap();
    let told = async |count| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while holders(&service, &layers[0]).await != count {
            assert!(std::time::Instant::now() < deadline, "not told");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    told(1).await;
    node.store.shelf().prune(100.0);
    told(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_homes_and_holders_cost_nothing_but_another_try() {
    let server = Server::start();
    let layers = push(&server);
    let (service, at) = discovery();
    let mut nodes: Vec<Node> = (0..4)
        .map(|n| Node::start(&format!("node-{n}"), at.at, &server))
        .collect();
    know_each_other(&service, nodes.len()).await;
    let image = wanted(&server, ":t", "").await;
    // All but the last two are gone, and discovery has not noticed.
    nodes[0].cut_off();
    nodes[1].cut_off();
    let first = flist(&nodes[2].store, &image).await;
    // Whoever got it is lost, too.
    nodes[2].cut_off();
    let last = flist(&nodes[3].store, &image).await;
    assert_eq!(first, last);
    assert!(layers.iter().all(|layer| gets(&server, layer) <= 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_discovery_known_images_are_there_and_others_are_pulled() {
    let server = Server::start();
    let layers = push(&server);
    let (service, at) = discovery();
    let nodes: Vec<Node> = (0..2)
        .map(|n| Node::start(&format!("node-{n}"), at.at, &server))
        .collect();
    know_each_other(&service, nodes.len()).await;
    let image = wanted(&server, ":t", "").await;
    let known = flist(&nodes[0].store, &image).await;
    drop(at);
    assert_eq!(flist(&nodes[0].store, &image).await, known);
    let reads = || -> usize { layers.iter().map(|layer| gets(&server, layer)).sum() };
    assert_eq!(reads(), layers.len());
    let missing = layers.len() - nodes[1].store.shelf().layers().len();
    assert_eq!(flist(&nodes[1].store, &image).await, known);
    assert_eq!(reads(), layers.len() + missing, "pulled by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_of_a_node_are_not_taken() {
    let server = Server::start();
    let layers = push(&server);
    let (service, at) = discovery();
    let nodes: Vec<Node> = (0..2)
        .map(|n| Node::start(&format!("node-{n}"), at.at, &server))
        .collect();
    know_each_other(&service, nodes.len()).await;
    let image = wanted(&server, ":t", "").await;
    let held = nodes[0]
        .store
        .ensure(&image, None, Origin::Registry)
        .await
        .unwrap();
    // Behind its back: in the packs, which are checked by whoever takes them.
    for layer in &held.layers {
        let mut bytes = std::fs::read(&layer.held.file).unwrap();
        let at = bytes.len() - 1000;
        bytes[at] ^= 1;
        std::fs::write(&layer.held.file, bytes).unwrap();
    }
    all_told(&service, &layers).await;
    let found = ensure(&nodes[1].store, &image).await.unwrap();
    for layer in &found.layers {
        let open = nodes[1].store.shelf().open(&layer.held.digest).unwrap();
        open.flist.verify_sections().unwrap();
    }
    assert!(
        layers.iter().all(|layer| gets(&server, layer) == 2),
        "from the registry instead"
    );
}

/// A size that never fits failed the pull for good, and one that just fits evicted everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_a_node_merely_says_neither_fails_a_pull_nor_evicts() {
    const BYTES_MAX: u64 = 1 << 30;
    for said in [u64::MAX / 4, BYTES_MAX + 1, BYTES_MAX - 1] {
        let server = Server::start();
        let layers = push(&server);
        let before = [tar("before", &noise(99, 100_000))];
        server.push("before", &before);
        let (service, at) = discovery();
        let nodes: Vec<Node> = (0..2)
            .map(|n| Node::start(&format!("node-{n}"), at.at, &server))
            .collect();
        know_each_other(&service, nodes.len()).await;
        let own = wanted(&server, ":before", "").await;
        drop(ensure(&nodes[1].store, &own).await.unwrap());
        let image = wanted(&server, ":t", "").await;
        let liar = &nodes[0].store;
        let held = liar.ensure(&image, None, Origin::Registry).await.unwrap();
        all_told(&service, &layers).await;
        for layer in &held.layers {
            let mut ledger = liar.shelf().inner.ledger();
            ledger.hold(&layer.held.digest).unwrap().0.file_bytes = said;
        }
        drop(ensure(&nodes[1].store, &image).await.unwrap());
        assert!(
            layers.iter().all(|layer| gets(&server, layer) == 2),
            "from the registry instead"
        );
        let shelf = nodes[1].store.shelf();
        assert_eq!(shelf.bytes().1, BYTES_MAX);
        assert!(shelf.size(&digest(&before[0])).is_some(), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_room_has_the_image_all_the_same() {
    let server = Server::start();
    push(&server);
    let (service, at) = discovery();
    let large = Node::start("large", at.at, &server);
    let small = Node::start_with("small", at.at, &server, |config| {
        config.bytes_max = Some(100_000);
    });
    know_each_other(&service, 2).await;
    let image = wanted(&server, ":t", "").await;
    // Wherever the homes are: the one without room says so, and the other one pulls.
    let one = flist(&small.store, &image).await;
    assert_eq!(one, flist(&large.store, &image).await);
    ready("nothing is left of what did not fit", || {
        small.store.shelf().bytes().0 == 0
    })
    .await;
    assert!(small.dir.path().exists() && Arc::strong_count(&large.store.inner) >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_travel_to_the_home_by_tls_alone_and_stay_nowhere() {
    let server = Server::start();
    let layers = push(&server);
    // me:secret
    server.content.lock().unwrap().authorization = Some("Basic bWU6c2VjcmV0".into());
    let dir = tempfile::tempdir().unwrap();
    let tls = certificates(&dir.path().join("tls"));
    for (tls_dir, private) in [(Some(tls), true), (None, false)] {
        let (service, at) = discovery();
        let start = |n| {
            let name = format!("node-{n}");
            Node::start_as(&name, at.at, &server, |_| {}, tls_dir.clone())
        };
        let nodes: Vec<Node> = (0..3).map(start).collect();
        know_each_other(&service, nodes.len()).await;
        let before: usize = layers.iter().map(|layer| gets(&server, layer)).sum();
        let mine = wanted(&server, ":t", &docker_config(&server, "me", "secret")).await;
        let one = flist(&nodes[0].store, &mine).await;
        all_told(&service, &layers).await;
        assert_eq!(flist(&nodes[1].store, &mine).await, one);
        let after: usize = layers.iter().map(|layer| gets(&server, layer)).sum();
        assert_eq!(after - before, layers.len(), "each is read once");
        let is_here = |layer: &&Vec<u8>| nodes[0].store.shelf().size(&digest(layer)).is_some();
        let own = layers.iter().filter(is_here).count();
        assert!(
            private || own == layers.len(),
            "nobody else was told who asks"
        );
        let strangers = wanted(&server, ":t", "").await;
        for node in &nodes {
            assert!(ensure(&node.store, &strangers).await.is_err());
            let found = std::process::Command::new("grep")
                .args(["-rlaE", "bWU6c2VjcmV0|secret"])
                .arg(node.dir.path())
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&found.stdout), "");
        }
    }
}
