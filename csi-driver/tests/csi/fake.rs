//! A model of the node server: a map of what is mounted, with the contract's answers, that can be told to
//! work slowly, to answer ABORTED first, or to be gone.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
};

use futures::Stream;
use lamina_proto::lamina::v1::{
    CompareTreesRequest, CompareTreesResponse, EnsureProgress, EnsureRequest, FlistInfo,
    ForgetRequest, ForgetResponse, GetInfoRequest, GetInfoResponse, GetVolumeStatsRequest,
    GetVolumeStatsResponse, ListFlistsRequest, ListFlistsResponse, ListVolumesRequest,
    ListVolumesResponse, PublishRequest, PublishResponse, ReadTreeRequest, ReadTreeResponse,
    UnpublishRequest, UnpublishResponse, Usage, Volume,
    node_server::{Node, NodeServer},
};
use tokio::{net::UnixListener, sync::Semaphore, task::JoinHandle};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// What is mounted, and how the server behaves.
#[derive(Default)]
pub(crate) struct Model {
    /// By the node's volume id.
    pub(crate) volumes: BTreeMap<String, PublishRequest>,
    /// Calls that are yet to be answered ABORTED.
    pub(crate) aborts: u32,
    /// Makes the target directory, as the real one does.
    pub(crate) directories: bool,
    /// What was fetched for each volume before it was asked for.
    pub(crate) bytes_prefetched: u64,
    /// Requests to publish so far.
    pub(crate) publishes: u64,
}

/// A running fake.
pub(crate) struct Fake {
    /// Its state.
    pub(crate) model: Arc<Mutex<Model>>,
    /// Permits to publish; none: it works on without end.
    pub(crate) gate: Arc<Semaphore>,
    socket: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Fake {
    /// Serves at `socket`.
    pub(crate) fn start(socket: PathBuf) -> Self {
        let service = Service {
            model: Arc::default(),
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        };
        let (model, gate) = (service.model.clone(), service.gate.clone());
        let listener = UnixListener::bind(&socket).unwrap();
        let server = Server::builder().add_service(NodeServer::new(service));
        let task = tokio::spawn(async move {
            let _ = server
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await;
        });
        Self {
            model,
            gate,
            socket,
            task,
        }
    }
}

struct Service {
    model: Arc<Mutex<Model>>,
    gate: Arc<Semaphore>,
}

impl Model {
    fn abort(&mut self) -> Result<(), Status> {
        if self.aborts == 0 {
            return Ok(());
        }
        self.aborts -= 1;
        Err(Status::aborted("still being worked on"))
    }

    fn publish(&mut self, ask: PublishRequest) -> Result<(), Status> {
        self.publishes += 1;
        self.abort()?;
        match self.volumes.get(&ask.volume_id) {
            Some(there) if *there == ask => Ok(()),
            Some(_) => Err(Status::already_exists(
                "this volume id is mounted otherwise",
            )),
            None => {
                if self.directories {
                    std::fs::create_dir_all(&ask.target)?;
                }
                self.volumes.insert(ask.volume_id.clone(), ask);
                Ok(())
            }
        }
    }

    fn unpublish(&mut self, ask: &UnpublishRequest) -> Result<(), Status> {
        self.abort()?;
        if self.volumes.remove(&ask.volume_id).is_some() && self.directories {
            std::fs::remove_dir(&ask.target)?;
        }
        Ok(())
    }
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Node for Service {
    type EnsureStream = Streamed<EnsureProgress>;
    type ReadTreeStream = Streamed<ReadTreeResponse>;
    type CompareTreesStream = Streamed<CompareTreesResponse>;

    async fn get_info(
        &self,
        _: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        Ok(Response::new(GetInfoResponse::default()))
    }

    async fn publish(
        &self,
        ask: Request<PublishRequest>,
    ) -> Result<Response<PublishResponse>, Status> {
        let ask = ask.into_inner();
        let (model, gate) = (self.model.clone(), self.gate.clone());
        // Detached from the call, as the contract says.
        let work = tokio::spawn(async move {
            let _permit = gate.acquire().await;
            tokio::task::yield_now().await;
            model.lock().unwrap().publish(ask)
        });
        work.await
            .map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(PublishResponse {
            flist: Some(FlistInfo::default()),
            mode: "fuse".into(),
            took_us: 1,
            ensure_us: 0,
        }))
    }

    async fn unpublish(
        &self,
        ask: Request<UnpublishRequest>,
    ) -> Result<Response<UnpublishResponse>, Status> {
        tokio::task::yield_now().await;
        self.model.lock().unwrap().unpublish(&ask.into_inner())?;
        Ok(Response::new(UnpublishResponse {}))
    }

    async fn list_volumes(
        &self,
        _: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        let model = self.model.lock().unwrap();
        let volumes = model.volumes.values().map(|ask| Volume {
            volume_id: ask.volume_id.clone(),
            target: ask.target.clone(),
            bytes_prefetched: model.bytes_prefetched,
            ..Volume::default()
        });
        Ok(Response::new(ListVolumesResponse {
            volumes: volumes.collect(),
        }))
    }

    async fn get_volume_stats(
        &self,
        ask: Request<GetVolumeStatsRequest>,
    ) -> Result<Response<GetVolumeStatsResponse>, Status> {
        let ask = ask.into_inner();
        let model = self.model.lock().unwrap();
        let there = model
            .volumes
            .get(&ask.volume_id)
            .is_some_and(|v| v.target == ask.target);
        if !there {
            return Err(Status::not_found("this volume is not mounted there"));
        }
        Ok(Response::new(GetVolumeStatsResponse {
            bytes: Some(Usage {
                total: 3,
                used: 3,
                available: 0,
            }),
            inodes: Some(Usage {
                total: 2,
                used: 2,
                available: 0,
            }),
            abnormal: false,
            condition: "all data can be read".into(),
        }))
    }

    async fn ensure(
        &self,
        _: Request<EnsureRequest>,
    ) -> Result<Response<Self::EnsureStream>, Status> {
        Err(Status::unimplemented("not asked for by the driver"))
    }

    async fn list_flists(
        &self,
        _: Request<ListFlistsRequest>,
    ) -> Result<Response<ListFlistsResponse>, Status> {
        Err(Status::unimplemented("not asked for by the driver"))
    }

    async fn forget(&self, _: Request<ForgetRequest>) -> Result<Response<ForgetResponse>, Status> {
        Err(Status::unimplemented("not asked for by the driver"))
    }

    async fn read_tree(
        &self,
        _: Request<ReadTreeRequest>,
    ) -> Result<Response<Self::ReadTreeStream>, Status> {
        Err(Status::unimplemented("not asked for by the driver"))
    }

    async fn compare_trees(
        &self,
        _: Request<CompareTreesRequest>,
    ) -> Result<Response<Self::CompareTreesStream>, Status> {
        Err(Status::unimplemented("not asked for by the driver"))
    }
}
