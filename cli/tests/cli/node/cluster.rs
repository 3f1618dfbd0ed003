//! Nodes as processes of a cluster: discovery, two of them, and a registry that is read once.

use std::net::SocketAddr;

use super::images::server::{Server, noise, tar};
use super::*;
use lamina_proto::discovery::v1::FindProviderRequest;
use lamina_proto::discovery::v1::service_discovery_client::ServiceDiscoveryClient;
use lamina_proto::layerstore::v1::layer_store_client::LayerStoreClient;
use lamina_proto::layerstore::v1::{HasImageRequest, HasLayerRequest, PruneCacheRequest};

/// A replica of discovery; killed when dropped.
struct Discovery(Child, SocketAddr);

impl Discovery {
    fn start() -> Self {
        let at: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let child = Command::new(env!("CARGO_BIN_EXE_lamina"))
            // Short: it says that nobody holds something only after half of it.
            .args([
                "discovery",
                "--insecure",
                "--ttl",
                "3s",
                "--listen",
                &at.to_string(),
            ])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child, at)
    }

    /// Whether it knows two nodes, and is sure that nobody holds a layer: else each would read it for itself.
    fn knows_both(&self, runtime: &tokio::runtime::Runtime, layer: &str) -> bool {
        let (all, holders) = (self.nodes(runtime, ""), self.nodes(runtime, layer));
        all == Some(2) && holders.is_some()
    }

    /// How many nodes hold a layer, or there are, if it is sure of that.
    fn nodes(&self, runtime: &tokio::runtime::Runtime, layer: &str) -> Option<usize> {
        runtime.block_on(async {
            let at = format!("http://{}", self.1);
            let channel = Channel::from_shared(at).unwrap().connect().await.ok()?;
            let mut client = ServiceDiscoveryClient::new(channel);
            let asked = FindProviderRequest {
                layer_digest: layer.to_owned(),
            };
            let answer = client.find_provider(asked).await.ok()?;
            Some(answer.into_inner().services.len())
        })
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(name: &str, discovery: &Discovery, server: &Server) -> (Node, SocketAddr) {
    let at: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let (listen, found) = (at.to_string(), discovery.1.to_string());
    let registry = server.address.to_string();
    let node = Node::started_by(
        &[],
        &[
            "--node-name",
            name,
            "--discovery",
            &found,
            "--listen",
            &listen,
            "--endpoint",
            &listen,
            "--insecure",
            "--insecure-registry",
            &registry,
            "--layers-size",
            "1GiB",
        ],
    );
    (node, at)
}

fn source(server: &Server) -> api::Source {
    let image = api::ImageSource {
        reference: server.image(":t"),
        ..api::ImageSource::default()
    };
    api::Source {
        from: Some(api::source::From::Image(image)),
    }
}

fn ensure(node: &Node, server: &Server) -> String {
    ensure_kept(node, server, 0)
}

/// The same, keeping the layers.
fn ensure_kept(node: &Node, server: &Server, keep_layers_s: u32) -> String {
    let request = api::EnsureRequest {
        source: Some(source(server)),
        keep_layers_s,
        ..api::EnsureRequest::default()
    };
    let mut client = node.client().unwrap();
    node.runtime.block_on(async {
        let mut progress = client.ensure(request).await.unwrap().into_inner();
        loop {
            let told = progress
                .message()
                .await
                .unwrap()
                .expect("it ends with the flist");
            if let Some(done) = told.done {
                return done.digest;
            }
        }
    })
}

fn cat(node: &Node, server: &Server, path: &str) -> Result<Vec<u8>, tonic::Status> {
    let request = api::ReadTreeRequest {
        source: Some(source(server)),
        path: path.into(),
    };
    let parts = node.look(request)?.into_iter();
    let data = parts.filter_map(|part| match part.part? {
        api::read_tree_response::Part::Data(bytes) => Some(bytes),
        api::read_tree_response::Part::Entry(_) => None,
    });
    Ok(data.flatten().collect())
}

#[test]
fn an_image_is_read_from_its_registry_once_for_all_nodes() {
    let (server, discovery) = (Server::start(), Discovery::start());
    let layer = tar("data", &noise(1, 300_000));
    server.push("t", std::slice::from_ref(&layer));
    let (one, at) = start("one", &discovery, &server);
    let (two, _) = start("two", &discovery, &server);
    let digest = lamina_image::manifest::sha256(&layer).to_string();
    let file = |node: &Node| {
        let text = std::fs::read(node.machine.path("run/cluster.json")).ok()?;
        serde_json::from_slice::<serde_json::Value>(&text).ok()
    };
    assert!(wait_until(|| file(&one).is_some() && file(&two).is_some()));
    let file = file(&one).unwrap();
    assert_eq!(
        (&file["node"], &file["endpoint"]),
        (&"one".into(), &at.to_string().into())
    );
    assert_eq!(
        file["discovery"],
        serde_json::json!([discovery.1.to_string()])
    );

    assert!(wait_until(|| discovery.knows_both(&one.runtime, &digest)));
    let first = ensure(&one, &server);
    assert_eq!(ensure(&two, &server), first, "the same flist");
    assert_eq!(server.count(&format!("GET /v2/a/b/blobs/{digest}")), 1);

    // Data comes from whichever node has it.
    let mut origins = Vec::new();
    for node in [&one, &two] {
        // Who does not know that it has the layer itself asks whoever reads it.
        assert!(wait_until(
            || discovery.nodes(&one.runtime, &digest) == Some(1)
        ));
        let order = api::PublishRequest {
            source: Some(source(&server)),
            ..node.order("volume")
        };
        node.publish(&order).unwrap();
        let read = std::fs::read(node.target("volume").join("data")).unwrap();
        assert!(
            read == noise(1, 300_000),
            "the bytes of the registry's layer"
        );
        let volume = node.volumes().remove(0);
        assert_eq!(
            (volume.bytes_fetched, volume.bytes_from_stores),
            (300_000, 0)
        );
        origins.push((volume.bytes_from_peers, volume.bytes_from_registry));
        node.unpublish_order(&order);
    }
    origins.sort_unstable();
    assert_eq!(
        origins,
        [(0, 300_000), (300_000, 0)],
        "one of them read it from the registry, and gave it to the other"
    );
    let reads = server.count(&format!("GET /v2/a/b/blobs/{digest}"));
    assert_eq!(reads, 1, "for mounts as well");

    // A file can be looked at where no volume shows the image, and nothing of the look stays.
    assert!(cat(&two, &server, "/data").unwrap() == noise(1, 300_000));
    let missing = cat(&two, &server, "/missing").unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let mounts = || two.machine.json(&["mounts"])["mounts"].clone();
    assert!(
        wait_until(|| mounts() == serde_json::json!([])),
        "{}",
        mounts()
    );

    // Without TLS, TCP has the layers and nothing else.
    let (has, image, mounts) = one.runtime.block_on(async {
        let channel = Channel::from_shared(format!("http://{at}")).unwrap();
        let channel = channel.connect().await.unwrap();
        let mut layers = LayerStoreClient::new(channel.clone());
        let has = layers.has_layer(HasLayerRequest { digest }).await;
        let request = HasImageRequest {
            image: format!("{}/a/b", server.address),
            tag: "t".into(),
            ..HasImageRequest::default()
        };
        let image = layers.has_image(request).await.unwrap().into_inner();
        let mounts = NodeClient::new(channel)
            .get_info(api::GetInfoRequest {})
            .await;
        (has.is_ok(), image, mounts)
    });
    assert!(has);
    assert_eq!(
        (image.total_layers, image.found),
        (1, image.missing_layers == 0)
    );
    assert_eq!(mounts.unwrap_err().code(), Code::Unimplemented);
}

#[test]
fn a_replica_keeps_the_layers_of_its_image_until_it_is_forgotten() {
    let (server, discovery) = (Server::start(), Discovery::start());
    let layers: Vec<Vec<u8>> = (0..2)
        .map(|n| tar(&format!("data{n}"), &noise(n, 200_000)))
        .collect();
    server.push("t", &layers);
    let (home, _) = start("home", &discovery, &server);
    let (replica, at) = start("replica", &discovery, &server);
    let digests: Vec<String> = layers
        .iter()
        .map(|layer| lamina_image::manifest::sha256(layer).to_string())
        .collect();
    assert!(wait_until(
        || discovery.knows_both(&home.runtime, &digests[0])
    ));
    let flist = ensure(&home, &server);
    assert_eq!(ensure_kept(&replica, &server, 900), flist);
    let reads = || {
        let reads = digests.iter();
        let reads = reads.map(|digest| server.count(&format!("GET /v2/a/b/blobs/{digest}")));
        reads.collect::<Vec<usize>>()
    };
    assert_eq!(
        reads(),
        [1, 1],
        "the replica had them from the other node, or was the home"
    );
    let layers_of = |node: &Node, at: SocketAddr| {
        node.runtime.block_on(async {
            let channel = Channel::from_shared(format!("http://{at}")).unwrap();
            let mut client = LayerStoreClient::new(channel.connect().await.unwrap());
            client
                .prune_cache(PruneCacheRequest { percent: 100.0 })
                .await
                .unwrap();
            let mut here = 0;
            for digest in &digests {
                let digest = digest.clone();
                let has = client.has_layer(HasLayerRequest { digest }).await.unwrap();
                here += usize::from(has.into_inner().found);
            }
            here
        })
    };
    assert_eq!(layers_of(&replica, at), 2, "nothing takes them away");
    // Without the registry: what is here is kept on.
    server.content.lock().unwrap().authorization = Some("nobody's".into());
    assert_eq!(ensure_kept(&replica, &server, 900), flist);
    let forget = api::ForgetRequest {
        digest: flist,
        ..api::ForgetRequest::default()
    };
    let mut client = replica.client().unwrap();
    replica.runtime.block_on(client.forget(forget)).unwrap();
    assert_eq!(layers_of(&replica, at), 0);
}

#[test]
fn a_cluster_is_only_joined_with_all_that_it_takes() {
    let machine = Machine::new();
    let discovery = ["--discovery", "127.0.0.1:1"];
    let endpoint = ["--endpoint", "127.0.0.1:2"];
    let listen = ["--listen", "127.0.0.1:2"];
    for (words, why) in [
        (discovery.to_vec(), "--endpoint"),
        (endpoint.to_vec(), "--discovery"),
        ([discovery, endpoint].concat(), "--listen"),
        ([discovery, endpoint, listen].concat(), "--tls-dir"),
        (
            [discovery, ["--endpoint", "0.0.0.0:2"], listen].concat(),
            "--endpoint",
        ),
        (listen.to_vec(), "--tls-dir"),
        (vec!["--insecure"], "--discovery"),
    ] {
        let out = Command::new(env!("CARGO_BIN_EXE_lamina"))
            .args(["node", "--state"])
            .arg(machine.path("state"))
            .arg("--run-dir")
            .arg(machine.path("run"))
            .args(&words)
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(2), "{words:?}");
        assert!(
            text(&out.stderr).contains(why),
            "{words:?}: {}",
            text(&out.stderr)
        );
    }
}
