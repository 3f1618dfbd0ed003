//! The gRPC services of the layerstore: requests to calls, failures to status codes. No behaviour here.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lamina_discovery::image_key::NamedImage;
use lamina_flist::Sha256Digest;
use lamina_proto::lamina::v1::{ReadRecordRequest, ReadRecordResponse};
use lamina_proto::layerstore::v1::layer_store_server::LayerStore;
use lamina_proto::layerstore::v1::{
    AcquireLayerLeaseRequest, AcquireLayerLeaseResponse, EnsureLayersRequest, EnsureLayersResponse,
    HasImageRequest, HasImageResponse, HasLayerRequest, HasLayerResponse, Layer, PruneCacheRequest,
    PruneCacheResponse, PullImageRequest, PullImageResponse, ReadLayerRequest, ReadLayerResponse,
    ReleaseLayerLeaseRequest, ReleaseLayerLeaseResponse, RenewLayerLeaseRequest,
    RenewLayerLeaseResponse, StatLayerRequest, StatLayerResponse,
};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use super::EnsureError;
use super::home::Asked;
use super::layerstore::{Ensured, EnsuredLayer, LAYERS_MAX, Layerstore, Origin};
use super::peer_service::Answers;
use super::report::signed;
use super::upload::{self, Span};
use super::wanted::WantedImage;

/// A lease lasts at least and at most.
const TTL_MIN_MS: i64 = 1;
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Longest lease id that is looked for.
const LEASE_ID_MAX: usize = 64;

/// `layerstore.v1.LayerStore`, and records of `lamina.v1.Layers`; clones are the same one.
#[derive(Clone)]
pub struct LayerService {
    store: Layerstore,
    reach: Reach,
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Processes of this machine: its own registries are meant by their loopback names.
    Local,
    /// Others: their loopback is not ours.
    Remote,
}

impl LayerService {
    /// Serves this layerstore.
    pub fn new(store: Layerstore, reach: Reach) -> Self {
        Self { store, reach }
    }

    /// The image that a call names, and who asks for it.
    async fn wanted(
        &self,
        image: &str,
        tag: &str,
        platform: [&str; 3],
        asked: Asked,
    ) -> Result<WantedImage, Status> {
        let bad = |error| Status::new(Code::InvalidArgument, format!("image: {error}"));
        // A digest pins it, whatever the tag.
        let tag = if image.contains('@') { "" } else { tag };
        let named = NamedImage::new(image, tag, platform).map_err(bad)?;
        let wanted = WantedImage::of(named, asked.docker_config).await;
        let wanted = wanted.map_err(|error| status("understand the request", &error))?;
        if self.reach == Reach::Remote && !wanted.is_shared(self.store.insecure()) {
            let why = "image: its registry is the caller's own machine: name it by an address that all nodes share";
            return Err(Status::new(Code::InvalidArgument, why));
        }
        Ok(wanted)
    }

    fn messages(found: &Ensured) -> Vec<Layer> {
        let layer = |layer: &EnsuredLayer| {
            let source = &found.image.layers[layer.index];
            Layer {
                digest: layer.held.digest.to_string(),
                media_type: source.media_type.clone().unwrap_or_default(),
                compressed_size: signed(source.size),
                afs_size: signed(layer.held.bytes),
                cache_path: layer.held.file.display().to_string(),
                cached: layer.cached,
            }
        };
        found.layers.iter().map(layer).collect()
    }

    /// Streams a layer's record.
    ///
    /// # Errors
    /// As `proto/lamina/v1/layers.proto` says.
    pub fn read_record(
        &self,
        request: &ReadRecordRequest,
    ) -> Result<Answers<ReadRecordResponse>, Status> {
        let layer = digest("layer_digest", &request.layer_digest)?;
        let upload = self.store.inner.uploads.begin()?;
        let shelf = self.store.shelf();
        let record = shelf.record(&layer);
        let record = record.map_err(|error| status("read a layer's record", &error))?;
        let (file, held) = record.ok_or_else(|| not_here(&layer))?;
        let end = file.metadata().map_err(|error| unreadable(&error))?.len();
        let span = Span {
            file: Arc::new(file),
            start: 0,
            end,
        };
        let message = |_, data, _| ReadRecordResponse { data };
        Ok(upload::send(span, upload, held, message))
    }
}

/// What a call names, in one form for all messages that have it.
macro_rules! wanted {
    ($self:ident, $request:expr, $asked:expr) => {{
        let platform = [
            $request.platform_os.as_str(),
            &$request.platform_arch,
            &$request.platform_variant,
        ];
        let wanted = $self.wanted(&$request.image, &$request.tag, platform, $asked);
        wanted.await
    }};
}

fn asked(metadata: &MetadataMap) -> Result<Asked, Status> {
    let bad = "the credentials in the call's metadata cannot be read";
    Asked::of(metadata).ok_or_else(|| Status::new(Code::InvalidArgument, bad))
}

fn digest(field: &str, text: &str) -> Result<Sha256Digest, Status> {
    let bad = |error| Status::new(Code::InvalidArgument, format!("{field}: {error}"));
    text.parse().map_err(bad)
}

fn not_here(layer: &Sha256Digest) -> Status {
    Status::new(Code::NotFound, format!("the layer {layer} is not here"))
}

fn unreadable(error: &std::io::Error) -> Status {
    Status::new(
        Code::DataLoss,
        format!("what is here cannot be read: {error}"),
    )
}

fn status(method: &str, error: &EnsureError) -> Status {
    let text = crate::chain(error);
    tracing::info!(method, kind = ?error.kind(), error = text, "call failed");
    Status::new(error.kind().code(), text)
}

/// A lease's time, checked.
fn ttl(ms: i64) -> Result<Duration, Status> {
    let asked = u64::try_from(ms).ok().map(Duration::from_millis);
    let fits = asked.filter(|ttl| ms >= TTL_MIN_MS && *ttl <= TTL_MAX);
    fits.ok_or_else(|| {
        let why = format!(
            "ttl_ms: {ms} is not between {TTL_MIN_MS} and {}",
            TTL_MAX.as_millis()
        );
        Status::new(Code::InvalidArgument, why)
    })
}

/// When it ends, milliseconds since 1970.
fn expiry(ttl: Duration) -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let ends = since.unwrap_or_default() + ttl;
    i64::try_from(ends.as_millis()).unwrap_or(i64::MAX)
}

fn texts(layers: impl IntoIterator<Item = Sha256Digest>) -> Vec<String> {
    let mut texts: Vec<String> = layers.into_iter().map(|layer| layer.to_string()).collect();
    texts.sort_unstable();
    texts
}

#[tonic::async_trait]
impl LayerStore for LayerService {
    type ReadLayerStreamStream = Answers<ReadLayerResponse>;

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        let asked = asked(request.metadata())?;
        let request = request.into_inner();
        let wanted = wanted!(self, request, asked)?;
        let origin = match request.force_local_fetch {
            true => Origin::Registry,
            false => Origin::Anywhere,
        };
        let found = self.store.ensure(&wanted, None, origin).await;
        let found = found.map_err(|error| status("PullImage", &error))?;
        let manifest = found.image.manifest_digest.map(|digest| digest.to_string());
        Ok(Response::new(PullImageResponse {
            resolved_registry: wanted.named.reference.registry().to_owned(),
            resolved_repository: wanted.named.reference.repository().to_owned(),
            resolved_reference: manifest.unwrap_or_default(),
            layers: Self::messages(&found),
        }))
    }

    async fn ensure_layers(
        &self,
        request: Request<EnsureLayersRequest>,
    ) -> Result<Response<EnsureLayersResponse>, Status> {
        let asked = asked(request.metadata())?;
        let request = request.into_inner();
        if request.layers.len() > LAYERS_MAX {
            let why = format!("layers: more than {LAYERS_MAX}");
            return Err(Status::new(Code::InvalidArgument, why));
        }
        let layers = request.layers.iter().enumerate();
        let layers =
            layers.map(|(index, layer)| digest(&format!("layers[{index}]"), &layer.digest));
        let layers: Vec<Sha256Digest> = layers.collect::<Result<_, _>>()?;
        let origin = match asked.as_home {
            true => Origin::Registry,
            false => Origin::Anywhere,
        };
        let wanted = wanted!(self, request, asked)?;
        let found = self.store.ensure(&wanted, Some(&layers), origin).await;
        let found = found.map_err(|error| status("EnsureLayers", &error))?;
        Ok(Response::new(EnsureLayersResponse {
            layers: Self::messages(&found),
        }))
    }

    async fn stat_layer(
        &self,
        request: Request<StatLayerRequest>,
    ) -> Result<Response<StatLayerResponse>, Status> {
        let layer = digest("digest", &request.into_inner().digest)?;
        let held = self.store.shelf().hold(&layer);
        let held = held.ok_or_else(|| not_here(&layer))?;
        Ok(Response::new(StatLayerResponse {
            digest: layer.to_string(),
            afs_size: signed(held.bytes),
            cache_path: held.file.display().to_string(),
        }))
    }

    async fn read_layer_stream(
        &self,
        request: Request<ReadLayerRequest>,
    ) -> Result<Response<Self::ReadLayerStreamStream>, Status> {
        let request = request.into_inner();
        let layer = digest("digest", &request.digest)?;
        let negative =
            |field: &str| Status::new(Code::InvalidArgument, format!("{field}: it is negative"));
        let start = u64::try_from(request.offset).map_err(|_| negative("offset"))?;
        let length = u64::try_from(request.length).map_err(|_| negative("length"))?;
        let upload = self.store.inner.uploads.begin()?;
        let shelf = self.store.shelf().clone();
        let opened = tokio::task::spawn_blocking(move || shelf.try_open(&layer)).await;
        let opened = opened.map_err(|_| Status::internal("opening was cut off"))?;
        let opened = opened.map_err(|error| status("open a layer", &error))?;
        let opened = opened.ok_or_else(|| not_here(&layer))?;
        let bytes = opened
            .file
            .metadata()
            .map_err(|error| unreadable(&error))?
            .len();
        if start > bytes {
            let why =
                format!("offset: {start} is past the end of the layer, which has {bytes} bytes");
            return Err(Status::new(Code::OutOfRange, why));
        }
        let end = match length {
            0 => bytes,
            length => bytes.min(start.saturating_add(length)),
        };
        let span = Span {
            file: Arc::clone(&opened.file),
            start,
            end,
        };
        let name = layer.to_string();
        let message = move |at, data, eof| ReadLayerResponse {
            digest: name.clone(),
            offset: signed(at),
            data,
            eof,
        };
        Ok(Response::new(upload::send(span, upload, opened, message)))
    }

    async fn has_layer(
        &self,
        request: Request<HasLayerRequest>,
    ) -> Result<Response<HasLayerResponse>, Status> {
        let layer = digest("digest", &request.into_inner().digest)?;
        let size = self.store.shelf().size(&layer);
        Ok(Response::new(HasLayerResponse {
            digest: layer.to_string(),
            found: size.is_some(),
            afs_size: size.map_or(0, signed),
        }))
    }

    async fn has_image(
        &self,
        request: Request<HasImageRequest>,
    ) -> Result<Response<HasImageResponse>, Status> {
        let asked = asked(request.metadata())?;
        let request = request.into_inner();
        let wanted = wanted!(self, request, asked)?;
        let looked = self.store.look(&wanted).await;
        let (image, here) = looked.map_err(|error| status("HasImage", &error))?;
        let total = image.layers.len();
        let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        Ok(Response::new(HasImageResponse {
            found: here == total,
            resolved_registry: wanted.named.reference.registry().to_owned(),
            resolved_repository: wanted.named.reference.repository().to_owned(),
            resolved_reference: image
                .manifest_digest
                .map(|digest| digest.to_string())
                .unwrap_or_default(),
            total_layers: count(total),
            missing_layers: count(total - here),
        }))
    }

    async fn acquire_layer_lease(
        &self,
        request: Request<AcquireLayerLeaseRequest>,
    ) -> Result<Response<AcquireLayerLeaseResponse>, Status> {
        let request = request.into_inner();
        let ttl = ttl(request.ttl_ms)?;
        if request.digests.is_empty() || request.digests.len() > LAYERS_MAX {
            let why = format!("digests: between 1 and {LAYERS_MAX} are leased at once");
            return Err(Status::new(Code::InvalidArgument, why));
        }
        let layers = request.digests.iter().enumerate();
        let layers = layers.map(|(index, text)| digest(&format!("digests[{index}]"), text));
        let layers: HashSet<Sha256Digest> = layers.collect::<Result<_, _>>()?;
        let id = super::random_bytes::<16>().map(hex::encode);
        let id = id.map_err(|error| status("AcquireLayerLease", &error))?;
        let digests = texts(layers.iter().copied());
        let taken = self.store.shelf().lease(id.clone(), layers, ttl);
        taken.map_err(|error| status("AcquireLayerLease", &error))?;
        Ok(Response::new(AcquireLayerLeaseResponse {
            lease_id: id,
            digests,
            expires_at_unix_ms: expiry(ttl),
        }))
    }

    async fn renew_layer_lease(
        &self,
        request: Request<RenewLayerLeaseRequest>,
    ) -> Result<Response<RenewLayerLeaseResponse>, Status> {
        let request = request.into_inner();
        let ttl = ttl(request.ttl_ms)?;
        let id = known_size(&request.lease_id)?;
        let layers = self.store.shelf().renew(id, ttl).ok_or_else(|| {
            Status::new(
                Code::NotFound,
                "there is no such lease any more: acquire another one",
            )
        })?;
        Ok(Response::new(RenewLayerLeaseResponse {
            digests: texts(layers),
            expires_at_unix_ms: expiry(ttl),
            lease_id: request.lease_id,
        }))
    }

    async fn release_layer_lease(
        &self,
        request: Request<ReleaseLayerLeaseRequest>,
    ) -> Result<Response<ReleaseLayerLeaseResponse>, Status> {
        let request = request.into_inner();
        let released = self.store.shelf().release(known_size(&request.lease_id)?);
        Ok(Response::new(ReleaseLayerLeaseResponse { released }))
    }

    async fn prune_cache(
        &self,
        request: Request<PruneCacheRequest>,
    ) -> Result<Response<PruneCacheResponse>, Status> {
        let percent = request.into_inner().percent;
        if !(percent > 0.0 && percent <= 100.0) {
            let why = format!("percent: {percent} is not above 0 and at most 100");
            return Err(Status::new(Code::InvalidArgument, why));
        }
        let shelf = self.store.shelf().clone();
        let pruned = tokio::task::spawn_blocking(move || shelf.prune(percent)).await;
        let pruned = pruned.map_err(|_| Status::internal("pruning was cut off"))?;
        Ok(Response::new(PruneCacheResponse {
            before_bytes: signed(pruned.before),
            after_bytes: signed(pruned.after),
            reclaimed_bytes: signed(pruned.before.saturating_sub(pruned.after)),
            evicted_layers: i32::try_from(pruned.evicted).unwrap_or(i32::MAX),
        }))
    }
}

fn known_size(id: &str) -> Result<&str, Status> {
    match id.len() <= LEASE_ID_MAX {
        true => Ok(id),
        false => Err(Status::new(
            Code::InvalidArgument,
            "lease_id: it is none of ours",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::EnsureErrorKind;

    #[test]
    fn every_kind_of_failure_has_the_code_that_the_contract_names() {
        for (kind, want) in [
            (EnsureErrorKind::InvalidArgument, Code::InvalidArgument),
            (EnsureErrorKind::NotFound, Code::NotFound),
            (EnsureErrorKind::PermissionDenied, Code::PermissionDenied),
            (EnsureErrorKind::Unavailable, Code::Unavailable),
            (EnsureErrorKind::DeadlineExceeded, Code::DeadlineExceeded),
            (EnsureErrorKind::DataLoss, Code::DataLoss),
            (EnsureErrorKind::ResourceExhausted, Code::ResourceExhausted),
            (EnsureErrorKind::Internal, Code::Internal),
        ] {
            let told = status("Test", &EnsureError::new(kind, "why"));
            assert_eq!((told.code(), told.message()), (want, "why"));
        }
    }

    #[test]
    fn a_lease_has_a_time_and_an_end() {
        for bad in [0, -1, i64::MIN, i64::MAX, 24 * 3_600_000 + 1] {
            assert_eq!(ttl(bad).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
        assert_eq!(ttl(1500).unwrap(), Duration::from_millis(1500));
        assert!(known_size(&"x".repeat(65)).is_err());
    }
}
