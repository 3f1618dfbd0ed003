//! The gRPC services, by their clients.

use lamina_proto::lamina::v1::ReadRecordRequest;
use lamina_proto::lamina::v1::layers_client::LayersClient;
use lamina_proto::layerstore::v1::layer_store_client::LayerStoreClient;
use lamina_proto::layerstore::v1::*;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::support::{Served, alone, config, digest, docker_config, serve};
use crate::layers::{LayersConfig, Layerstore};
use crate::test_registry::{Server, noise, tar};

struct Setup {
    server: Server,
    layers: Vec<Vec<u8>>,
    store: Layerstore,
    client: LayerStoreClient<Channel>,
    channel: Channel,
    _served: Served,
    _dir: tempfile::TempDir,
}

async fn setup(uploads_max: usize, bytes: usize) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let layers = vec![tar("a", &noise(1, bytes)), tar("b", &noise(2, 100_000))];
    server.push("t", &layers);
    let store = alone(LayersConfig {
        insecure_registries: vec![server.address.to_string()],
        uploads_max,
        ..config(dir.path())
    });
    let served = serve(&store);
    let channel = Channel::from_shared(format!("http://{}", served.at)).unwrap();
    let channel = channel.connect().await.unwrap();
    Setup {
        client: LayerStoreClient::new(channel.clone()),
        server,
        layers,
        store,
        channel,
        _served: served,
        _dir: dir,
    }
}

impl Setup {
    fn image(&self) -> String {
        format!("{}/a/b", self.server.address)
    }

    fn pull(&self) -> PullImageRequest {
        PullImageRequest {
            image: self.image(),
            tag: "t".into(),
            ..PullImageRequest::default()
        }
    }

    fn name(&self, n: usize) -> String {
        digest(&self.layers[n]).to_string()
    }

    async fn read(&mut self, n: usize, offset: i64, length: i32) -> Result<Vec<u8>, Status> {
        let request = ReadLayerRequest {
            digest: self.name(n),
            offset,
            length,
        };
        let mut pieces = self.client.read_layer_stream(request).await?.into_inner();
        let (mut bytes, mut ended) = (Vec::new(), false);
        while let Some(piece) = pieces.message().await? {
            assert!(!ended, "nothing follows the end");
            assert_eq!(piece.offset, offset + signed(bytes.len()));
            bytes.extend(piece.data);
            ended = piece.eof;
        }
        assert!(ended);
        Ok(bytes)
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap()
}

fn code<T>(result: Result<T, Status>) -> (Code, String) {
    let status = result.err().expect("a failure");
    (status.code(), status.message().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_looked_at_and_read() {
    let mut setup = setup(32, 3_000_000).await;
    let look = HasImageRequest {
        image: setup.image(),
        tag: "t".into(),
        ..HasImageRequest::default()
    };
    let before = setup
        .client
        .has_image(look.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (before.found, before.total_layers, before.missing_layers),
        (false, 2, 2)
    );
    let request = setup.pull();
    let pulled = setup
        .client
        .pull_image(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(pulled.resolved_repository, "a/b");
    assert!(pulled.resolved_reference.starts_with("sha256:"));
    assert_eq!(pulled.layers.len(), 2);
    for (layer, bytes) in pulled.layers.iter().zip(&setup.layers) {
        assert_eq!(layer.digest, digest(bytes).to_string());
        assert_eq!(layer.compressed_size, signed(bytes.len()));
        assert_eq!(
            std::fs::metadata(&layer.cache_path).unwrap().len(),
            layer.afs_size.cast_unsigned()
        );
        assert!(!layer.cached);
    }
    let again = setup.client.pull_image(request).await.unwrap().into_inner();
    assert!(again.layers.iter().all(|layer| layer.cached));
    let after = setup.client.has_image(look).await.unwrap().into_inner();
    assert_eq!((after.found, after.missing_layers), (true, 0));

    let name = setup.name(0);
    let has = HasLayerRequest {
        digest: name.clone(),
    };
    let has = setup.client.has_layer(has).await.unwrap().into_inner();
    let stat = StatLayerRequest {
        digest: name.clone(),
    };
    let stat = setup.client.stat_layer(stat).await.unwrap().into_inner();
    assert!(has.found && has.afs_size == stat.afs_size);
    let want = std::fs::read(&stat.cache_path).unwrap();
    assert_eq!(setup.read(0, 0, 0).await.unwrap(), want);
    assert_eq!(setup.read(0, 100, 5000).await.unwrap(), want[100..5100]);
    let end = signed(want.len());
    assert_eq!(
        setup.read(0, end - 3, 100).await.unwrap(),
        want[want.len() - 3..]
    );
    assert_eq!(setup.read(0, end, 0).await.unwrap(), b"");
    assert_eq!(code(setup.read(0, end + 1, 0).await).0, Code::OutOfRange);
    for (offset, length, field) in [(-1, 0, "offset"), (0, -1, "length")] {
        let (code, message) = code(setup.read(0, offset, length).await);
        assert!(
            code == Code::InvalidArgument && message.starts_with(field),
            "{message}"
        );
    }

    let mut peers = LayersClient::new(setup.channel.clone());
    let request = ReadRecordRequest { layer_digest: name };
    let mut pieces = peers.read_record(request).await.unwrap().into_inner();
    let mut record = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        record.extend(piece.data);
    }
    let path = std::path::Path::new(&stat.cache_path).with_extension("rec");
    assert_eq!(record, std::fs::read(path).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_have_the_codes_of_the_contract() {
    let mut setup = setup(32, 3_000_000).await;
    let absent = format!("sha256:{}", "0".repeat(64));
    let stat = StatLayerRequest {
        digest: absent.clone(),
    };
    assert_eq!(code(setup.client.stat_layer(stat).await).0, Code::NotFound);
    let has = HasLayerRequest {
        digest: absent.clone(),
    };
    let has = setup.client.has_layer(has).await.unwrap().into_inner();
    assert!(!has.found && has.afs_size == 0);
    let read = ReadLayerRequest {
        digest: absent.clone(),
        ..Default::default()
    };
    assert_eq!(
        code(setup.client.read_layer_stream(read).await).0,
        Code::NotFound
    );
    for digest in ["", "x", "sha256:00", "sha512:00"] {
        let stat = StatLayerRequest {
            digest: digest.into(),
        };
        let (code, message) = code(setup.client.stat_layer(stat).await);
        assert_eq!(code, Code::InvalidArgument);
        assert!(message.starts_with("digest"), "{message}");
    }
    for image in ["", "A B", "127.0.0.1:9/x", "localhost/x"] {
        let request = PullImageRequest {
            image: image.into(),
            ..setup.pull()
        };
        let (code, message) = code(setup.client.pull_image(request).await);
        assert_eq!(code, Code::InvalidArgument, "{image}: {message}");
        assert!(message.starts_with("image"), "{message}");
    }
    let gone = PullImageRequest {
        tag: "none".into(),
        ..setup.pull()
    };
    assert_eq!(code(setup.client.pull_image(gone).await).0, Code::NotFound);
    let wanted = |digest: String| EnsureLayersRequest {
        image: setup.image(),
        tag: "t".into(),
        layers: vec![Layer {
            digest,
            ..Layer::default()
        }],
        ..EnsureLayersRequest::default()
    };
    let (none, one) = (wanted(absent), wanted(setup.name(1)));
    assert_eq!(
        code(setup.client.ensure_layers(none).await).0,
        Code::NotFound
    );
    let ensured = setup
        .client
        .ensure_layers(one.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(ensured.layers.len(), 1);
    for percent in [0.0, -1.0, 100.5, f64::NAN, f64::INFINITY] {
        let (code, _) = code(
            setup
                .client
                .prune_cache(PruneCacheRequest { percent })
                .await,
        );
        assert_eq!(code, Code::InvalidArgument, "{percent}");
    }
    setup.server.content.lock().unwrap().authorization = Some("Basic bWU6c2VjcmV0".into());
    assert_eq!(
        code(setup.client.ensure_layers(one.clone()).await).0,
        Code::PermissionDenied
    );
    let mut request = Request::new(one.clone());
    let mine = docker_config(&setup.server, "me", "secret");
    let value = MetadataValue::from_bytes(mine.as_bytes());
    request
        .metadata_mut()
        .insert_bin("lamina-docker-config-bin", value);
    setup.client.ensure_layers(request).await.unwrap();
    let mut request = Request::new(one);
    let value = MetadataValue::from_bytes(b"no config");
    request
        .metadata_mut()
        .insert_bin("lamina-docker-config-bin", value);
    assert_eq!(
        code(setup.client.ensure_layers(request).await).0,
        Code::InvalidArgument
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_taken_renewed_and_given_back() {
    let mut setup = setup(32, 3_000_000).await;
    let request = setup.pull();
    setup.client.pull_image(request).await.unwrap();
    let digests = vec![setup.name(0)];
    let acquire = |digests: Vec<String>, ttl_ms| AcquireLayerLeaseRequest { digests, ttl_ms };
    let absent = format!("sha256:{}", "0".repeat(64));
    let refused = setup
        .client
        .acquire_layer_lease(acquire(vec![absent], 1000))
        .await;
    assert_eq!(code(refused).0, Code::NotFound);
    for bad in [acquire(Vec::new(), 1000), acquire(digests.clone(), 0)] {
        let refused = setup.client.acquire_layer_lease(bad).await;
        assert_eq!(code(refused).0, Code::InvalidArgument);
    }
    let taken = setup
        .client
        .acquire_layer_lease(acquire(digests.clone(), 600_000))
        .await;
    let taken = taken.unwrap().into_inner();
    assert_eq!((taken.lease_id.len(), &taken.digests), (32, &digests));
    let prune = PruneCacheRequest { percent: 100.0 };
    let pruned = setup.client.prune_cache(prune).await.unwrap().into_inner();
    assert_eq!(pruned.evicted_layers, 1);
    assert_eq!(
        pruned.before_bytes - pruned.after_bytes,
        pruned.reclaimed_bytes
    );
    assert!(
        setup
            .store
            .shelf()
            .size(&digest(&setup.layers[0]))
            .is_some()
    );
    let renew = RenewLayerLeaseRequest {
        lease_id: taken.lease_id.clone(),
        ttl_ms: 1_200_000,
    };
    let renewed = setup
        .client
        .renew_layer_lease(renew.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(renewed.digests, digests);
    assert!(renewed.expires_at_unix_ms > taken.expires_at_unix_ms);
    let release = ReleaseLayerLeaseRequest {
        lease_id: taken.lease_id,
    };
    for released in [true, false] {
        let told = setup
            .client
            .release_layer_lease(release.clone())
            .await
            .unwrap();
        assert_eq!(told.into_inner().released, released);
    }
    assert_eq!(
        code(setup.client.renew_layer_lease(renew).await).0,
        Code::NotFound
    );
    let pruned = setup.client.prune_cache(prune).await.unwrap().into_inner();
    assert_eq!((pruned.evicted_layers, pruned.after_bytes), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_readers_than_slots_are_sent_elsewhere() {
    // More than is under way.
    let mut setup = setup(1, 24_000_000).await;
    let request = setup.pull();
    setup.client.pull_image(request).await.unwrap();
    let request = ReadLayerRequest {
        digest: setup.name(0),
        ..Default::default()
    };
    // Not read to its end: more than what is under way is left.
    let mut slow = setup
        .client
        .read_layer_stream(request.clone())
        .await
        .unwrap()
        .into_inner();
    slow.message().await.unwrap().unwrap();
    let refused = setup.client.read_layer_stream(request.clone()).await;
    let (code, message) = code(refused);
    assert_eq!(code, Code::ResourceExhausted, "{message}");
    while slow.message().await.unwrap().is_some() {}
    drop(slow);
    super::support::ready("the slot is free", || {
        setup.store.inner.uploads.begin().is_ok()
    })
    .await;
    setup.client.read_layer_stream(request).await.unwrap();
}
