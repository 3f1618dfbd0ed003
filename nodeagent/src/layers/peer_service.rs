//! `lamina.v1.Layers`: what nodes read from each other.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use lamina_proto::lamina::v1::layers_server::Layers;
use lamina_proto::lamina::v1::{
    ReadChunksRequest, ReadChunksResponse, ReadRecordRequest, ReadRecordResponse,
};
use tonic::{Request, Response, Status};

use super::service::LayerService;

/// An answer in pieces.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Whoever gives chunks of blobs to other nodes.
#[tonic::async_trait]
pub trait ServeChunks: Send + Sync + 'static {
    /// Answers a request, as `proto/lamina/v1/layers.proto` says.
    async fn read_chunks(
        &self,
        request: ReadChunksRequest,
    ) -> Result<Answers<ReadChunksResponse>, Status>;
}

/// For a layerstore without an agent: no chunk is here, which is no failure.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoChunks;

#[tonic::async_trait]
impl ServeChunks for NoChunks {
    async fn read_chunks(
        &self,
        _request: ReadChunksRequest,
    ) -> Result<Answers<ReadChunksResponse>, Status> {
        Ok(Box::pin(futures::stream::empty()))
    }
}

/// The service; clones are the same one.
#[derive(Clone)]
pub struct PeerService {
    layers: LayerService,
    chunks: Arc<dyn ServeChunks>,
}

impl PeerService {
    /// Serves these layers' records, and those chunks.
    pub fn new(layers: LayerService, chunks: Arc<dyn ServeChunks>) -> Self {
        Self { layers, chunks }
    }
}

#[tonic::async_trait]
impl Layers for PeerService {
    type ReadRecordStream = Answers<ReadRecordResponse>;
    type ReadChunksStream = Answers<ReadChunksResponse>;

    async fn read_record(
        &self,
        request: Request<ReadRecordRequest>,
    ) -> Result<Response<Self::ReadRecordStream>, Status> {
        let answers = self.layers.read_record(request.get_ref())?;
        Ok(Response::new(answers))
    }

    async fn read_chunks(
        &self,
        request: Request<ReadChunksRequest>,
    ) -> Result<Response<Self::ReadChunksStream>, Status> {
        let answers = self.chunks.read_chunks(request.into_inner()).await?;
        Ok(Response::new(answers))
    }
}
