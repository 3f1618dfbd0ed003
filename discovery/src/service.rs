//! The gRPC services: requests to the core, failures to status codes. No behaviour here.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use lamina_flist::Sha256Digest;
use lamina_proto::discovery::v1::service_discovery_server::{
    ServiceDiscovery, ServiceDiscoveryServer,
};
use lamina_proto::discovery::v1::{
    FindImageProviderRequest, FindImageProviderResponse, FindImageRequest, FindImageResponse,
    FindProviderRequest, FindProviderResponse, HeartbeatRequest, HeartbeatResponse,
    ResolveImageRequest, ResolveImageResponse, ServiceInstance,
};
use lamina_proto::lamina::v1::partials_server::{Partials, PartialsServer};
use lamina_proto::lamina::v1::placement_server::{Placement, PlacementServer};
use lamina_proto::lamina::v1::profiles_server::ProfilesServer;
use lamina_proto::lamina::v1::{
    FindHomesRequest, FindHomesResponse, FindPartialsRequest, FindPartialsResponse,
    FindUnknownRequest, FindUnknownResponse, GetProfileRequest, GetProfileResponse, Home,
    PartialHolder, PutPartialsRequest, PutPartialsResponse, PutProfileRequest, PutProfileResponse,
};
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Code, Request, Response, Status};

use crate::beat::{BadField, Beat};
use crate::change::{Change, keys};
use crate::clock::{Clock, Now};
pub use crate::identity::Identity;
use crate::identity::{Forged, asker};
use crate::image_key::{ImageKey, NamedImage};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::parts::{Part, Parts as NodeParts};
use crate::profiles::{ProfileLimits, Profiles};
use crate::ration::Rations;
use crate::registry::{Full, NoParts, Node, Registry};
use crate::resolve::{From as Source, ResolveError, Resolver};

/// Nodes that are named as homes of a layer where nobody says how many.
const HOMES: u32 = 4;
/// At most.
const HOMES_MAX: u32 = 8;
/// Layers that are wanted beside one; more than an image has.
pub(crate) const BESIDE_MAX: usize = 128;

/// A replica; clones are the same one.
#[derive(Clone)]
pub struct Service(Arc<Parts>);

struct Parts {
    registry: RwLock<Registry>,
    rations: Mutex<Rations>,
    profiles: Mutex<Profiles>,
    resolver: Resolver,
    identity: Identity,
    clock: Clock,
    metrics: Metrics,
}

impl Service {
    /// A replica that knows nobody yet.
    ///
    /// # Errors
    /// When its metrics cannot be made, which is a mistake of ours.
    pub fn new(
        limits: Limits,
        identity: Identity,
        resolver: Resolver,
        clock: Clock,
        version: &str,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self(Arc::new(Parts {
            rations: Mutex::new(Rations::new(limits.named_per_s)),
            registry: RwLock::new(Registry::new(limits, clock.now())),
            profiles: Mutex::new(Profiles::new(ProfileLimits::default())),
            resolver,
            identity,
            clock,
            metrics: Metrics::new(version)?,
        })))
    }

    /// All its services on a server.
    pub fn serve_on(&self, mut server: Server) -> Router {
        let request_bytes_max = self.read().limits().request_bytes_max;
        let discovery = ServiceDiscoveryServer::new(self.clone());
        server
            .add_service(discovery.max_decoding_message_size(request_bytes_max))
            .add_service(PlacementServer::new(self.clone()))
            .add_service(PartialsServer::new(self.clone()))
            .add_service(ProfilesServer::new(self.clone()))
    }

    /// Lets those go whose heartbeats stopped; to be called every second.
    pub fn tick(&self) {
        let now = self.0.clock.now();
        self.write().tick(now);
        self.rations().sweep(now.since);
    }

    /// Whether it has been told what there is.
    pub fn is_warm(&self) -> bool {
        self.read().is_warm(self.0.clock.now())
    }

    /// Its metrics as text.
    ///
    /// # Errors
    /// When they cannot be written as text.
    pub fn metrics(&self) -> Result<String, prometheus::Error> {
        // One lock at a time.
        let (profiles, is_warm) = (self.profiles().totals(), self.is_warm());
        self.0.metrics.look(&self.read(), is_warm, profiles);
        self.0.metrics.text()
    }

    fn read(&self) -> RwLockReadGuard<'_, Registry> {
        let registry = self.0.registry.read();
        registry.unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Registry> {
        let registry = self.0.registry.write();
        registry.unwrap_or_else(PoisonError::into_inner)
    }

    fn rations(&self) -> std::sync::MutexGuard<'_, Rations> {
        let rations = self.0.rations.lock();
        rations.unwrap_or_else(PoisonError::into_inner)
    }

    fn profiles(&self) -> std::sync::MutexGuard<'_, Profiles> {
        let profiles = self.0.profiles.lock();
        profiles.unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an answer and gives it its code.
    fn answer<T>(
        &self,
        method: &str,
        began: Instant,
        done: Result<T, Refusal>,
    ) -> Result<Response<T>, Status> {
        let code = done.as_ref().err().map_or(Code::Ok, Refusal::code);
        self.0.metrics.answered(method, code, began.elapsed());
        if let Err(error) = &done {
            tracing::debug!(method, ?code, %error, "call failed");
        }
        let refused = |error: Refusal| Status::new(error.code(), error.to_string());
        done.map(Response::new).map_err(refused)
    }

    fn beat(&self, request: &Request<HeartbeatRequest>) -> Result<HeartbeatResponse, Refusal> {
        let message = request.get_ref();
        self.0.identity.check(request, &message.node_id)?;
        let limits = self.read().limits().clone();
        let now = self.0.clock.now();
        let state = if message.since.is_empty() {
            let beat = Beat::parse(message, &limits)?;
            let state = beat.state.clone();
            self.write().beat(beat, now)?;
            state
        } else {
            let change = Change::parse(message, &limits)?;
            self.write().change(change, now)?
        };
        Ok(HeartbeatResponse {
            expires_in_seconds: i64::try_from(limits.ttl.as_secs()).unwrap_or(i64::MAX),
            state: state.as_bytes().to_vec(),
        })
    }

    /// Who holds what is named; with nothing named everybody.
    fn find(&self, image: &str, layer: &str, asker: u64) -> Result<Vec<ServiceInstance>, Refusal> {
        let layer = parse_layer(layer)?;
        let image = parse_image(image)?;
        let now = self.0.clock.now();
        let registry = self.read();
        let found = match (&image, &layer) {
            (None, None) => every(&registry),
            (Some(image), None) => about(&registry.with_image(image, asker), None, Some(image)),
            (None, Some(layer)) => {
                self.ration(layer, registry.holders(layer), now)?;
                about(&registry.with_layer(layer, asker), Some(layer), None)
            }
            (Some(image), Some(layer)) => {
                let both = registry.with_both(image, layer, asker);
                about(&both, Some(layer), Some(image))
            }
        };
        if found.is_empty() && !registry.is_warm(now) {
            // "Nobody" would send everybody to the registry.
            return Err(Refusal::NotWarm);
        }
        Ok(found)
    }

    /// Counts one more caller that is sent to the holders of a layer; nobody is sent to none.
    fn ration(&self, layer: &Sha256Digest, holders: usize, now: Now) -> Result<(), Refusal> {
        match holders == 0 || self.rations().take(layer, holders, now.since) {
            true => Ok(()),
            false => Err(Refusal::Rationed),
        }
    }

    fn homes(&self, request: &FindHomesRequest) -> Result<FindHomesResponse, Refusal> {
        let bad = |why: &str| BadField::new("layer_digest", why);
        let layer = parse_layer(&request.layer_digest)?.ok_or_else(|| bad("it is empty"))?;
        let count = match request.count {
            0 => HOMES,
            count if count <= HOMES_MAX => count,
            _ => return Err(BadField::new("count", "it is more than 8").into()),
        };
        let beside = keys(
            "beside",
            &request.beside,
            BESIDE_MAX,
            str::parse::<Sha256Digest>,
        )?;
        let now = self.0.clock.now();
        let registry = self.read();
        if !registry.is_warm(now) {
            // Replicas that know different nodes would name different ones.
            return Err(Refusal::NotWarm);
        }
        // As if the first of them held it: the others wait until it does. Once somebody holds it, callers are counted
        // where they are sent to the holders, and not twice.
        if registry.holders(&layer) == 0 {
            self.ration(&layer, 1, now)?;
        }
        let homes = registry.homes(&layer, &beside, count as usize);
        let told = |node: &&Node| Home {
            node_id: node.id().to_string(),
            endpoint: node.endpoint().to_owned(),
        };
        Ok(FindHomesResponse {
            homes: homes.iter().map(told).collect(),
        })
    }

    fn put_partials(
        &self,
        request: &Request<PutPartialsRequest>,
    ) -> Result<PutPartialsResponse, Refusal> {
        let message = request.get_ref();
        self.0.identity.check(request, &message.node_id)?;
        let parts = NodeParts::parse(message, self.read().limits())?;
        let now = self.0.clock.now();
        self.write().put_parts(parts, now)?;
        Ok(PutPartialsResponse {})
    }

    fn partials(&self, digest: &str, asker: u64) -> Result<FindPartialsResponse, Refusal> {
        let empty = || BadField::new("layer_digest", "it is empty");
        let layer = parse_layer(digest)?.ok_or_else(empty)?;
        let registry = self.read();
        let told = |(node, parts): (&Node, Vec<&Part>)| PartialHolder {
            node_id: node.id().to_string(),
            endpoint: node.endpoint().to_owned(),
            blobs: parts.into_iter().map(Part::told).collect(),
        };
        let holders = registry.with_parts(&layer, asker).into_iter();
        let holders = holders.map(told).collect();
        Ok(FindPartialsResponse { holders })
    }

    /// Of nodes alone, each by its own name: what it says steers what all of them fetch.
    fn put_profile(
        &self,
        request: Request<PutProfileRequest>,
    ) -> Result<PutProfileResponse, Refusal> {
        self.0
            .identity
            .check(&request, &request.get_ref().node_id)?;
        Ok(self.profiles().put(request.into_inner())?)
    }

    async fn resolve(&self, request: ResolveImageRequest) -> Result<ResolveImageResponse, Refusal> {
        let platform = [
            request.platform_os.as_str(),
            request.platform_arch.as_str(),
            request.platform_variant.as_str(),
        ];
        let image = NamedImage::new(&request.image, &request.tag, platform)
            .map_err(|error| BadField::new("image", error))?;
        let (answer, from) = self.0.resolver.resolve(&image, request.force_refresh).await;
        self.0.metrics.resolved(match from {
            Source::Memory => "memory",
            Source::Registry => "registry",
        });
        Ok(ResolveImageResponse::clone(&*answer?))
    }
}

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    BadField(#[from] BadField),
    #[error(transparent)]
    Forged(#[from] Forged),
    #[error(transparent)]
    Full(#[from] Full),
    #[error(transparent)]
    NoParts(#[from] NoParts),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(
        "this replica has just started and is still being told who holds what: ask another one, or soon again"
    )]
    NotWarm,
    #[error(
        "enough callers were sent to the holders of this layer for now: ask again soon, there will be more of them"
    )]
    Rationed,
}

impl Refusal {
    fn code(&self) -> Code {
        match self {
            Self::BadField(_) => Code::InvalidArgument,
            Self::Forged(Forged::OtherNode { .. }) => Code::PermissionDenied,
            Self::Forged(Forged::NoCertificate | Forged::Unreadable) => Code::Unauthenticated,
            Self::Full(_) | Self::NoParts(NoParts::Full(_)) | Self::Rationed => {
                Code::ResourceExhausted
            }
            Self::NoParts(NoParts::NotAlive) => Code::FailedPrecondition,
            Self::Resolve(error) => error.code,
            Self::NotWarm => Code::Unavailable,
        }
    }
}

fn parse_layer(text: &str) -> Result<Option<Sha256Digest>, BadField> {
    let parsed = (!text.is_empty()).then(|| text.parse()).transpose();
    parsed.map_err(|error| BadField::new("layer_digest", error))
}

fn parse_image(text: &str) -> Result<Option<ImageKey>, BadField> {
    let parsed = (!text.is_empty())
        .then(|| ImageKey::parse(text))
        .transpose();
    parsed.map_err(|error| BadField::new("image_key", error))
}

/// Every live service, with its lists if all of them fit into one answer.
fn every(registry: &Registry) -> Vec<ServiceInstance> {
    let bytes: usize = registry.every().map(Node::whole_bytes).sum();
    let fits = bytes <= registry.limits().answer_bytes_max;
    let told = |node: &Node| if fits { node.whole() } else { node.brief() };
    registry.every().map(told).collect()
}

fn about(
    nodes: &[&Node],
    layer: Option<&Sha256Digest>,
    image: Option<&ImageKey>,
) -> Vec<ServiceInstance> {
    nodes.iter().map(|node| node.about(layer, image)).collect()
}

#[tonic::async_trait]
impl ServiceDiscovery for Service {
    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let began = Instant::now();
        self.answer("Heartbeat", began, self.beat(&request))
    }

    async fn resolve_image(
        &self,
        request: Request<ResolveImageRequest>,
    ) -> Result<Response<ResolveImageResponse>, Status> {
        let began = Instant::now();
        let done = self.resolve(request.into_inner()).await;
        self.answer("ResolveImage", began, done)
    }

    async fn find_provider(
        &self,
        request: Request<FindProviderRequest>,
    ) -> Result<Response<FindProviderResponse>, Status> {
        let (began, asker) = (Instant::now(), asker(&request));
        let layer_digest = request.into_inner().layer_digest;
        let found = self.find("", &layer_digest, asker);
        let found = found.map(|services| FindProviderResponse {
            layer_digest,
            services,
        });
        self.answer("FindProvider", began, found)
    }

    async fn find_image_provider(
        &self,
        request: Request<FindImageProviderRequest>,
    ) -> Result<Response<FindImageProviderResponse>, Status> {
        let (began, asker) = (Instant::now(), asker(&request));
        let image_key = request.into_inner().image_key;
        let found = self.find(&image_key, "", asker);
        let found = found.map(|services| FindImageProviderResponse {
            image_key,
            services,
        });
        self.answer("FindImageProvider", began, found)
    }

    async fn find_image(
        &self,
        request: Request<FindImageRequest>,
    ) -> Result<Response<FindImageResponse>, Status> {
        let (began, asker) = (Instant::now(), asker(&request));
        let FindImageRequest {
            image_key,
            layer_digest,
        } = request.into_inner();
        let found = self.find(&image_key, &layer_digest, asker);
        let found = found.map(|services| FindImageResponse {
            image_key,
            services,
        });
        self.answer("FindImage", began, found)
    }
}

#[tonic::async_trait]
impl Placement for Service {
    async fn find_homes(
        &self,
        request: Request<FindHomesRequest>,
    ) -> Result<Response<FindHomesResponse>, Status> {
        let began = Instant::now();
        let done = self.homes(request.get_ref());
        self.answer("FindHomes", began, done)
    }
}

#[tonic::async_trait]
impl Partials for Service {
    async fn put_partials(
        &self,
        request: Request<PutPartialsRequest>,
    ) -> Result<Response<PutPartialsResponse>, Status> {
        let began = Instant::now();
        self.answer("PutPartials", began, Service::put_partials(self, &request))
    }

    async fn find_partials(
        &self,
        request: Request<FindPartialsRequest>,
    ) -> Result<Response<FindPartialsResponse>, Status> {
        let (began, asker) = (Instant::now(), asker(&request));
        let found = self.partials(&request.into_inner().layer_digest, asker);
        self.answer("FindPartials", began, found)
    }
}

#[tonic::async_trait]
impl lamina_proto::lamina::v1::profiles_server::Profiles for Service {
    async fn put_profile(
        &self,
        request: Request<PutProfileRequest>,
    ) -> Result<Response<PutProfileResponse>, Status> {
        let began = Instant::now();
        let done = Service::put_profile(self, request);
        self.answer("PutProfile", began, done)
    }

    async fn find_unknown(
        &self,
        request: Request<FindUnknownRequest>,
    ) -> Result<Response<FindUnknownResponse>, Status> {
        let began = Instant::now();
        let done = self.profiles().unknown(&request.get_ref().digests);
        self.answer("FindUnknown", began, done.map_err(Refusal::from))
    }

    async fn get_profile(
        &self,
        request: Request<GetProfileRequest>,
    ) -> Result<Response<GetProfileResponse>, Status> {
        let began = Instant::now();
        let GetProfileRequest { digest, entrypoint } = request.into_inner();
        let done = self.profiles().get(&digest, entrypoint);
        self.answer("GetProfile", began, done.map_err(Refusal::from))
    }
}
