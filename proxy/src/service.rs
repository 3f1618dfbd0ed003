//! `afsproxy.v1.AfsProxy`: what there is, and images on so many nodes.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, FuturesUnordered, StreamExt as _};
use lamina_discovery::client::{AskError, Client};
use lamina_discovery::image_key::NamedImage;
use lamina_discovery::node_id::check_endpoint;
use lamina_discovery::reason;
use lamina_proto::afsproxy::v1::afs_proxy_server::AfsProxy;
use lamina_proto::afsproxy::v1::status_response::Payload;
use lamina_proto::afsproxy::v1::{
    ReconcileImageReplicaRequest, ReconcileImageReplicaResponse, StatusError, StatusRequest,
    StatusResponse,
};
use lamina_proto::discovery::v1::{ResolveImageRequest, ServiceInstance};
use lamina_proto::layerstore::v1::PullImageRequest;
use lamina_proto::layerstore::v1::layer_store_client::LayerStoreClient;
use lamina_proto::timeout;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use crate::afslets::Afslets;
use crate::config::Limits;
use crate::dial::{Dialer, NODE};
use crate::guard::Guard;
use crate::metrics::Metrics;
use crate::overview::{Overview, items};
use crate::replicas::Placement;

/// How old may be what is told of layerstores: a list of all of them is long.
const STORES_AGE: Duration = Duration::from_secs(1);

/// The service; clones are the same one.
#[derive(Clone)]
pub(crate) struct Service(Arc<Parts>);

struct Parts {
    afslets: Arc<Afslets>,
    discovery: Option<Client>,
    dialer: Dialer,
    metrics: Arc<Metrics>,
    limits: Limits,
    /// Who may have images pulled.
    pullers: Guard,
    /// What was told last, and when.
    stores: Mutex<Option<(Instant, Vec<ServiceInstance>)>>,
}

impl Service {
    pub(crate) fn new(
        afslets: Arc<Afslets>,
        discovery: Option<Client>,
        dialer: Dialer,
        metrics: Arc<Metrics>,
        limits: Limits,
        pullers: Guard,
    ) -> Self {
        Self(Arc::new(Parts {
            afslets,
            discovery,
            dialer,
            metrics,
            limits,
            pullers,
            stores: Mutex::default(),
        }))
    }

    /// All there is.
    pub(crate) async fn overview(&self) -> Overview {
        let mut overview = Overview::default();
        for item in self.items(true, true).await {
            overview.take(item);
        }
        overview
    }

    async fn items(&self, with_layerstores: bool, with_afslets: bool) -> Vec<Payload> {
        let error = |source: &str, message: String| StatusError {
            source: source.to_owned(),
            message,
        };
        let own = self.0.afslets.errors();
        let mut errors: Vec<_> = own
            .into_iter()
            .map(|(name, why)| error(&name, why))
            .collect();
        let stores = match self.stores().await {
            Ok(stores) => stores,
            Err(why) => {
                errors.push(error("discovery", why));
                Vec::new()
            }
        };
        let known = self.0.afslets.known();
        items(&known, stores, errors, with_layerstores, with_afslets)
    }

    /// Every layerstore; none where there is no discovery. Asked once however many want to know.
    async fn stores(&self) -> Result<Vec<ServiceInstance>, String> {
        let Some(discovery) = &self.0.discovery else {
            return Ok(Vec::new());
        };
        let mut known = self.0.stores.lock().await;
        if let Some((at, stores)) = &*known
            && at.elapsed() < STORES_AGE
        {
            return Ok(stores.clone());
        }
        let stores = discovery.every().await.map_err(|error| error.to_string())?;
        *known = Some((Instant::now(), stores.clone()));
        Ok(stores)
    }

    async fn reconcile(
        &self,
        request: ReconcileImageReplicaRequest,
    ) -> Result<ReconcileImageReplicaResponse, Status> {
        let Ok(wanted) = usize::try_from(request.replica) else {
            let why = format!("replica: it is {}; give 0 or more", request.replica);
            return Err(Status::invalid_argument(why));
        };
        check_image(&request)?;
        let discovery = self.0.discovery.as_ref().ok_or_else(|| {
            Status::failed_precondition(
                "this proxy knows no discovery: start it with --discovery HOST:PORT",
            )
        })?;
        let resolved = discovery.resolve(ResolveImageRequest {
            image: request.image.clone(),
            tag: request.tag.clone(),
            platform_os: request.platform_os.clone(),
            platform_arch: request.platform_arch.clone(),
            platform_variant: request.platform_variant.clone(),
            force_refresh: false,
        });
        let resolved = resolved.await.map_err(|error| asked(&error))?;
        let services = discovery.every().await.map_err(|error| asked(&error))?;
        let layers = resolved.layers.into_iter().map(|layer| layer.digest);
        let mut placement = Placement::new(resolved.image_key.clone(), layers.collect(), services);
        if wanted > placement.nodes() {
            return Err(Status::resource_exhausted(format!(
                "replica: {wanted} nodes are asked for, and there are {}",
                placement.nodes()
            )));
        }
        let failures = self.pull(&mut placement, &request, wanted).await;
        let whole = placement.whole();
        Ok(ReconcileImageReplicaResponse {
            image_key: resolved.image_key,
            current_replica: i32::try_from(whole).unwrap_or(i32::MAX),
            requested_replica: request.replica,
            ensured: whole >= wanted,
            layers: placement.message(),
            failures,
        })
    }

    /// Asks nodes to pull, some at a time, until enough of them have all or none is left; those that could not.
    async fn pull(
        &self,
        placement: &mut Placement,
        image: &ReconcileImageReplicaRequest,
        wanted: usize,
    ) -> Vec<StatusError> {
        let mut candidates = placement.candidates().into_iter();
        let mut pulling = FuturesUnordered::new();
        let mut failures = Vec::new();
        loop {
            let lacking = wanted.saturating_sub(placement.whole());
            while pulling.len() < lacking.min(self.0.limits.pulls_max)
                && let Some((name, endpoint)) = candidates.next()
            {
                pulling.push(self.pull_at(name, endpoint, image));
            }
            let Some((name, pulled)) = pulling.next().await else {
                return failures;
            };
            let failed = match pulled {
                Ok(layers) => match placement.pulled(&name, layers) {
                    true => continue,
                    false => "it has other layers by this name: the tag has moved".to_owned(),
                },
                Err(why) => why,
            };
            tracing::warn!(node = %name, image = %image.image, why = %failed, "a node does not pull an image");
            failures.push(StatusError {
                source: name,
                message: failed,
            });
        }
    }

    async fn pull_at(
        &self,
        name: String,
        endpoint: String,
        image: &ReconcileImageReplicaRequest,
    ) -> (String, Result<Vec<String>, String>) {
        let pulled = self.pull_from(&endpoint, image).await;
        (name, pulled.map_err(|why| format!("{endpoint}: {why}")))
    }

    async fn pull_from(
        &self,
        endpoint: &str,
        image: &ReconcileImageReplicaRequest,
    ) -> Result<Vec<String>, String> {
        check_endpoint(endpoint).map_err(str::to_owned)?;
        let channel = self.0.dialer.dial(endpoint, NODE);
        let channel = channel.map_err(|error| error.to_string())?;
        self.0.metrics.pulled();
        let mut client = LayerStoreClient::new(channel);
        let pulled = client.pull_image(PullImageRequest {
            image: image.image.clone(),
            tag: image.tag.clone(),
            platform_os: image.platform_os.clone(),
            platform_arch: image.platform_arch.clone(),
            platform_variant: image.platform_variant.clone(),
            force_local_fetch: false,
        });
        let pulled = pulled.await.map_err(|status| reason(&status))?.into_inner();
        let digests = pulled.layers.into_iter().map(|layer| layer.digest);
        Ok(digests.collect())
    }
}

fn check_image(request: &ReconcileImageReplicaRequest) -> Result<(), Status> {
    let platform = [
        request.platform_os.as_str(),
        request.platform_arch.as_str(),
        request.platform_variant.as_str(),
    ];
    NamedImage::new(&request.image, &request.tag, platform)
        .map(|_| ())
        .map_err(|error| Status::invalid_argument(format!("image: {error}")))
}

/// What discovery says, to who asked us.
fn asked(error: &AskError) -> Status {
    match error {
        AskError::Refused(status) => Status::new(status.code(), status.message()),
        AskError::Unreachable { .. } | AskError::Tls(_) => Status::unavailable(error.to_string()),
    }
}

#[tonic::async_trait]
impl AfsProxy for Service {
    type StatusStream = BoxStream<StatusResponse>;

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<Self::StatusStream>, Status> {
        let wanted = request.into_inner();
        let items = self.items(wanted.include_layerstores, wanted.include_afslets);
        let messages = items.await.into_iter().map(|payload| {
            let payload = Some(payload);
            Ok(StatusResponse { payload })
        });
        Ok(Response::new(Box::pin(stream::iter(messages))))
    }

    async fn reconcile_image_replica(
        &self,
        request: Request<ReconcileImageReplicaRequest>,
    ) -> Result<Response<ReconcileImageReplicaResponse>, Status> {
        self.0.pullers.check(&request)?;
        let usual = self.0.limits.reconcile_deadline;
        let within = timeout::of(request.metadata()).map_or(usual, |within| within.min(usual));
        let reconciling = self.reconcile(request.into_inner());
        match tokio::time::timeout(within, reconciling).await {
            Ok(done) => done.map(Response::new),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "not enough nodes have the image within {within:?}; those that pull it go on: ask again"
            ))),
        }
    }
}
