//! The gRPC service: streams to runs. No behaviour here.

use lamina_discovery::identity::admit;
use lamina_proto::afsletpb::afslet_server::{Afslet, AfsletServer};
use lamina_proto::afsletpb::{
    ExecuteRequest, ExecuteResponse, GetRuntimeStatusRequest, GetRuntimeStatusResponse,
};
use lamina_proto::broken::{Broken, Watched};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};

use crate::frames::CHUNK_MAX;
use crate::outcome::signed;
use crate::outlet::Outlet;
use crate::parts::Parts;
use crate::run::Run;

/// Largest frame: a chunk with what is around it.
const FRAME_MAX: usize = CHUNK_MAX + (64 << 10);
/// What a client may have on its way in one stream that is not read yet.
const STREAM_WINDOW: u32 = 256 << 10;
/// Streams of one connection beside those of runs: status calls, and runs that are refused.
const MORE_STREAMS: usize = 64;
/// In the certificates of those who may call.
const CLIENT: &str = "client.lamina.internal";
const PROXY: &str = "proxy.lamina.internal";

/// The service; clones are the same one.
#[derive(Clone)]
pub(crate) struct Service {
    parts: Parts,
}

impl Service {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts }
    }

    /// Serves on a server that asks clients for certificates.
    pub(crate) fn guarded(&self, server: Server) -> Router {
        let service = InterceptedService::new(self.server(), Guard);
        self.tuned(server).add_service(Watched(service))
    }

    /// Serves anybody.
    pub(crate) fn open(&self, server: Server) -> Router {
        self.tuned(server).add_service(Watched(self.server()))
    }

    fn server(&self) -> AfsletServer<Self> {
        AfsletServer::new(self.clone()).max_decoding_message_size(FRAME_MAX)
    }

    /// One connection may carry every run; no stream that waits takes the room of another.
    fn tuned(&self, server: Server) -> Server {
        let streams = self.parts.limits.runs.saturating_add(MORE_STREAMS);
        let streams = u32::try_from(streams).unwrap_or(u32::MAX);
        let window = STREAM_WINDOW
            .saturating_mul(streams)
            .min(i32::MAX.unsigned_abs());
        server
            .max_concurrent_streams(streams)
            .concurrency_limit_per_connection(streams as usize)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(window)
    }
}

#[tonic::async_trait]
impl Afslet for Service {
    type ExecuteStream = ReceiverStream<Result<ExecuteResponse, Status>>;

    async fn execute(
        &self,
        request: Request<Streaming<ExecuteRequest>>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        let (outlet, taken) = Outlet::new();
        let run = Run {
            parts: self.parts.clone(),
            broken: Broken::of(request.extensions()),
            frames: request.into_inner(),
            outlet,
        };
        tokio::spawn(run.go());
        Ok(Response::new(ReceiverStream::new(taken)))
    }

    async fn get_runtime_status(
        &self,
        _: Request<GetRuntimeStatusRequest>,
    ) -> Result<Response<GetRuntimeStatusResponse>, Status> {
        let parts = &self.parts;
        let (limits, used) = (&parts.limits, parts.admission.used());
        let (completed, failed) = parts.metrics.totals();
        Ok(Response::new(GetRuntimeStatusResponse {
            running_containers: signed(used.runs as u64),
            limit_cpu_cores: signed(limits.cpu_cores),
            limit_memory_mb: signed(limits.memory_mb),
            used_cpu_cores: signed(used.cpu_cores),
            used_memory_mb: signed(used.memory_mb),
            available_cpu_cores: signed(limits.cpu_cores - used.cpu_cores),
            available_memory_mb: signed(limits.memory_mb - used.memory_mb),
            node_id: parts.node.to_string(),
            version: parts.version.to_string(),
            draining: parts.drain.is_draining(),
            warm_images: parts.images.warm(),
            completed: signed(completed),
            failed: signed(failed),
        }))
    }
}

/// Lets through who has the certificate of a proxy or a client.
#[derive(Debug, Clone, Copy)]
struct Guard;

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        admit(&request, &[PROXY, CLIENT]).map(|()| request)
    }
}
