//! Images on so many nodes: before a discovery and layerstores that do as a test tells them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use lamina_proto::afsproxy::v1::afs_proxy_client::AfsProxyClient;
use lamina_proto::afsproxy::v1::{ReconcileImageReplicaRequest, ReconcileImageReplicaResponse};
use lamina_proto::discovery::v1 as ds;
use lamina_proto::discovery::v1::service_discovery_server::{
    ServiceDiscovery, ServiceDiscoveryServer,
};
use lamina_proto::layerstore::v1 as ls;
use lamina_proto::layerstore::v1::layer_store_server::{LayerStore, LayerStoreServer};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

use crate::bench::{Bench, config, until};
use crate::client::channel;

const KEY: &str = "registry.example/a|1|linux|amd64|";

/// A cluster: its nodes and what they hold.
#[derive(Clone, Default)]
struct Cluster(Arc<Mutex<BTreeMap<String, Node>>>);

#[derive(Clone)]
struct Node {
    at: SocketAddr,
    layers: Vec<String>,
    pulls: usize,
    refuses: Option<Code>,
}

impl Cluster {
    fn with(nodes: &[(&str, &[&str])]) -> Self {
        let this = Self::default();
        for (name, layers) in nodes {
            let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let node = Node {
                at: incoming.local_addr().unwrap(),
                layers: layers.iter().map(ToString::to_string).collect(),
                pulls: 0,
                refuses: None,
            };
            this.0.lock().unwrap().insert((*name).to_owned(), node);
            let store = Store(this.clone(), (*name).to_owned());
            let router = Server::builder().add_service(LayerStoreServer::new(store));
            tokio::spawn(router.serve_with_incoming(incoming));
        }
        this
    }

    /// A proxy that knows it.
    fn bench(&self) -> Bench {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut config = config(&[]);
        config.discovery = vec![incoming.local_addr().unwrap().to_string()];
        let router = Server::builder().add_service(ServiceDiscoveryServer::new(self.clone()));
        tokio::spawn(router.serve_with_incoming(incoming));
        Bench::start(config)
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Node)) {
        change(self.0.lock().unwrap().get_mut(name).unwrap());
    }

    fn pulls(&self) -> usize {
        self.0.lock().unwrap().values().map(|node| node.pulls).sum()
    }
}

#[tonic::async_trait]
impl ServiceDiscovery for Cluster {
    async fn heartbeat(
        &self,
        _: Request<ds::HeartbeatRequest>,
    ) -> Result<Response<ds::HeartbeatResponse>, Status> {
        Err(Status::unimplemented("a proxy is no node"))
    }

    async fn resolve_image(
        &self,
        request: Request<ds::ResolveImageRequest>,
    ) -> Result<Response<ds::ResolveImageResponse>, Status> {
        if request.into_inner().image != "registry.example/a" {
            return Err(Status::not_found("no such image"));
        }
        let layers = ["sha256:a", "sha256:b"].map(|digest| ds::ImageLayer {
            digest: digest.into(),
            ..ds::ImageLayer::default()
        });
        Ok(Response::new(ds::ResolveImageResponse {
            image_key: KEY.into(),
            layers: layers.into(),
            ..ds::ResolveImageResponse::default()
        }))
    }

    async fn find_provider(
        &self,
        _: Request<ds::FindProviderRequest>,
    ) -> Result<Response<ds::FindProviderResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn find_image_provider(
        &self,
        _: Request<ds::FindImageProviderRequest>,
    ) -> Result<Response<ds::FindImageProviderResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn find_image(
        &self,
        _: Request<ds::FindImageRequest>,
    ) -> Result<Response<ds::FindImageResponse>, Status> {
        let nodes = self.0.lock().unwrap();
        let services = nodes.iter().map(|(name, node)| ds::ServiceInstance {
            node_id: name.clone(),
            endpoint: node.at.to_string(),
            layer_digests: node.layers.clone(),
            layer_stats: vec![ds::LayerStat {
                digest: "sha256:a".into(),
                afs_size: 5,
            }],
            ..ds::ServiceInstance::default()
        });
        Ok(Response::new(ds::FindImageResponse {
            image_key: String::new(),
            services: services.collect(),
        }))
    }
}

/// One node's layerstore.
struct Store(Cluster, String);

macro_rules! not_asked {
    ($($name:ident: $asks:ident -> $tells:ident),*) => {
        $(fn $name<'a, 'b>(
            &'a self,
            _: Request<ls::$asks>,
        ) -> futures::future::BoxFuture<'b, Result<Response<ls::$tells>, Status>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Err(Status::unimplemented("not asked")) })
        })*
    };
}

#[tonic::async_trait]
impl LayerStore for Store {
    type ReadLayerStreamStream = tokio_stream::Pending<Result<ls::ReadLayerResponse, Status>>;

    async fn pull_image(
        &self,
        request: Request<ls::PullImageRequest>,
    ) -> Result<Response<ls::PullImageResponse>, Status> {
        assert_eq!(request.into_inner().tag, "1");
        let mut nodes = self.0.0.lock().unwrap();
        let node = nodes.get_mut(&self.1).unwrap();
        node.pulls += 1;
        if let Some(code) = node.refuses {
            return Err(Status::new(code, "the disk is full"));
        }
        node.layers = vec!["sha256:a".into(), "sha256:b".into()];
        let layers = node.layers.iter().map(|digest| ls::Layer {
            digest: digest.clone(),
            ..ls::Layer::default()
        });
        Ok(Response::new(ls::PullImageResponse {
            layers: layers.collect(),
            ..ls::PullImageResponse::default()
        }))
    }

    async fn read_layer_stream(
        &self,
        _: Request<ls::ReadLayerRequest>,
    ) -> Result<Response<Self::ReadLayerStreamStream>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    not_asked! {
        ensure_layers: EnsureLayersRequest -> EnsureLayersResponse,
        stat_layer: StatLayerRequest -> StatLayerResponse,
        has_layer: HasLayerRequest -> HasLayerResponse,
        has_image: HasImageRequest -> HasImageResponse,
        acquire_layer_lease: AcquireLayerLeaseRequest -> AcquireLayerLeaseResponse,
        renew_layer_lease: RenewLayerLeaseRequest -> RenewLayerLeaseResponse,
        release_layer_lease: ReleaseLayerLeaseRequest -> ReleaseLayerLeaseResponse,
        prune_cache: PruneCacheRequest -> PruneCacheResponse
    }
}

async fn reconcile(
    proxy: &Bench,
    image: &str,
    replica: i32,
) -> Result<ReconcileImageReplicaResponse, Status> {
    let mut client = AfsProxyClient::new(channel(proxy.at).await);
    let request = ReconcileImageReplicaRequest {
        image: image.into(),
        tag: "1".into(),
        replica,
        ..ReconcileImageReplicaRequest::default()
    };
    let done = client.reconcile_image_replica(request).await;
    done.map(Response::into_inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_nodes_pull_as_are_lacking_and_asking_again_does_nothing() {
    let cluster = Cluster::with(&[
        ("n1", &["sha256:a", "sha256:b"]),
        ("n2", &["sha256:b"]),
        ("n3", &[]),
        ("n4", &[]),
        ("n5", &[]),
    ]);
    let proxies = [cluster.bench(), cluster.bench()];
    for proxy in &proxies {
        let done = reconcile(proxy, "registry.example/a", 3).await.unwrap();
        assert_eq!((done.image_key.as_str(), done.current_replica), (KEY, 3));
        assert_eq!((done.requested_replica, done.ensured), (3, true));
        assert!(done.failures.is_empty());
        let digests: Vec<_> = done
            .layers
            .iter()
            .map(|layer| layer.digest.as_str())
            .collect();
        assert_eq!(digests, ["sha256:a", "sha256:b"]);
        for layer in &done.layers {
            assert_eq!(layer.instances.len(), 3);
            assert_eq!(
                (
                    layer.instances[0].node_id.as_str(),
                    layer.instances[1].node_id.as_str()
                ),
                ("n1", "n2")
            );
        }
        assert_eq!(cluster.pulls(), 2);
    }
    let fewer = reconcile(&proxies[0], "registry.example/a", 1)
        .await
        .unwrap();
    assert_eq!((fewer.current_replica, fewer.ensured), (3, true));
    let none = reconcile(&proxies[0], "registry.example/a", 0)
        .await
        .unwrap();
    assert_eq!((none.current_replica, none.ensured), (3, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_is_replaced_by_another_and_named() {
    let cluster = Cluster::with(&[("n1", &["sha256:a"]), ("n2", &[]), ("n3", &[])]);
    cluster.change("n1", |node| node.refuses = Some(Code::ResourceExhausted));
    let proxy = cluster.bench();
    let done = reconcile(&proxy, "registry.example/a", 2).await.unwrap();
    assert_eq!((done.current_replica, done.ensured), (2, true));
    assert_eq!(done.failures[0].source, "n1");
    assert!(done.failures[0].message.contains("the disk is full"));
    let more = reconcile(&proxy, "registry.example/a", 3).await.unwrap();
    assert_eq!((more.current_replica, more.ensured), (2, false));
    let none = reconcile(&proxy, "registry.example/a", 4)
        .await
        .unwrap_err();
    assert_eq!(none.code(), Code::ResourceExhausted);
    assert!(none.message().contains("there are 3"), "{none}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_and_what_discovery_says_is_told() {
    let cluster = Cluster::with(&[("n1", &[])]);
    let proxy = cluster.bench();
    for (image, replica, code) in [
        ("registry.example/a", -3, Code::InvalidArgument),
        ("A B", 1, Code::InvalidArgument),
        ("", 1, Code::InvalidArgument),
        ("registry.example/none", 1, Code::NotFound),
    ] {
        let refused = reconcile(&proxy, image, replica).await.unwrap_err();
        assert_eq!(refused.code(), code, "{image} {replica}: {refused}");
    }
    let alone = Bench::start(config(&[]));
    let refused = reconcile(&alone, "registry.example/a", 1)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layerstores_are_told_of_and_a_discovery_that_is_gone_is_an_error_among_the_rest() {
    let cluster = Cluster::with(&[("n1", &["sha256:a", "sha256:c"]), ("n2", &["sha256:a"])]);
    let proxy = cluster.bench();
    until("they are known", || {
        crate::status::overview(&proxy).contains("\"layerstore_instances\":2")
    })
    .await;
    let json = crate::status::overview(&proxy);
    assert!(json.contains("\"total_layers\":2"), "{json}");
    assert!(json.contains("\"cache_bytes\":5"), "{json}");
    let mut config = config(&[]);
    config.discovery = vec!["127.0.0.1:1".into()];
    let proxy = Bench::start(config);
    until("it is told", || {
        let json = crate::status::overview(&proxy);
        json.contains("\"source\":\"discovery\"")
    })
    .await;
}
