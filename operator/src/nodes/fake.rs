//! A node server for tests: answers at once, hangs or refuses, and remembers what it was asked.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use lamina_proto::lamina::v1::node_care_server::{NodeCare, NodeCareServer};
use lamina_proto::lamina::v1::node_server::{Node, NodeServer};
use lamina_proto::lamina::v1::{
    CheckStoreRequest, CheckStoreResponse, CompareTreesRequest, CompareTreesResponse,
    EnsureProgress, EnsureRequest, FlistInfo, ForgetRequest, ForgetResponse, GetInfoRequest,
    GetInfoResponse, GetVolumeStatsRequest, GetVolumeStatsResponse, LeaveRequest, LeaveResponse,
    ListFlistsRequest, ListFlistsResponse, ListVolumesRequest, ListVolumesResponse, PublishRequest,
    PublishResponse, ReadTreeRequest, ReadTreeResponse, UnpublishRequest, UnpublishResponse,
    Volume,
};
use tokio_stream::Stream;
use tonic::transport::ServerTlsConfig;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

use super::{NodeClient, Place};

/// What the fake does and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) digest: String,
    pub(crate) hangs: bool,
    pub(crate) refuses: Option<Code>,
    pub(crate) ensured: Vec<EnsureRequest>,
    pub(crate) forgotten: Vec<ForgetRequest>,
    pub(crate) volumes: Vec<Volume>,
    /// The flist that a volume of it shows.
    pub(crate) shows: Option<String>,
    /// What it finds of a store.
    pub(crate) store: Option<CheckStoreResponse>,
    /// How often it was left.
    pub(crate) left: usize,
}

/// A running fake; ends when dropped.
pub(crate) struct FakeNode {
    pub(crate) place: Place,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl FakeNode {
    pub(crate) async fn start(name: &str) -> Self {
        Self::start_with(None, name).await
    }

    pub(crate) async fn start_with(tls: Option<ServerTlsConfig>, name: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let server = NodeServer::new(Served(Arc::clone(&state)));
        let care = NodeCareServer::new(Served(Arc::clone(&state)));
        let task = tokio::spawn(async move {
            let incoming = TcpIncoming::from(listener);
            let mut builder = tonic::transport::Server::builder();
            if let Some(tls) = tls {
                builder = builder.tls_config(tls).unwrap();
            }
            builder
                .add_service(server)
                .add_service(care)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        let place = Place {
            name: name.to_owned(),
            address,
            labels: [("node".to_owned(), name.to_owned())].into(),
        };
        Self { place, state, task }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) async fn client(&self) -> NodeClient {
        NodeClient::connect(format!("http://{}", self.place.address))
            .await
            .unwrap()
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Served(Arc<Mutex<State>>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Node for Served {
    type EnsureStream = Answers<EnsureProgress>;
    type ReadTreeStream = Answers<ReadTreeResponse>;
    type CompareTreesStream = Answers<CompareTreesResponse>;

    async fn ensure(
        &self,
        request: Request<EnsureRequest>,
    ) -> Result<Response<Self::EnsureStream>, Status> {
        let mut state = self.0.lock().unwrap();
        state.ensured.push(request.into_inner());
        if let Some(code) = state.refuses {
            return Err(Status::new(code, "refused"));
        }
        let working = EnsureProgress {
            phase: "convert".into(),
            bytes_done: 1024,
            bytes_total: 2048,
            done: None,
        };
        let done = EnsureProgress {
            phase: "done".into(),
            done: Some(FlistInfo {
                digest: state.digest.clone(),
                manifest: "sha256:aa".into(),
                bytes: 3000,
                bytes_stored: 1000,
                ..FlistInfo::default()
            }),
            ..EnsureProgress::default()
        };
        let first = tokio_stream::iter([Ok(working)]);
        if state.hangs {
            let never = futures::stream::pending();
            return Ok(Response::new(Box::pin(futures::StreamExt::chain(
                first, never,
            ))));
        }
        let last = tokio_stream::iter([Ok(done)]);
        Ok(Response::new(Box::pin(futures::StreamExt::chain(
            first, last,
        ))))
    }

    async fn forget(
        &self,
        request: Request<ForgetRequest>,
    ) -> Result<Response<ForgetResponse>, Status> {
        let mut state = self.0.lock().unwrap();
        let request = request.into_inner();
        if state.shows.as_ref() == Some(&request.digest) {
            return Err(Status::failed_precondition("a volume shows it"));
        }
        state.forgotten.push(request);
        match state.refuses {
            Some(code) => Err(Status::new(code, "refused")),
            None => Ok(Response::new(ForgetResponse { bytes_freed: 1 })),
        }
    }

    async fn read_tree(
        &self,
        _: Request<ReadTreeRequest>,
    ) -> Result<Response<Self::ReadTreeStream>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn compare_trees(
        &self,
        _: Request<CompareTreesRequest>,
    ) -> Result<Response<Self::CompareTreesStream>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn get_info(
        &self,
        _: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn publish(
        &self,
        _: Request<PublishRequest>,
    ) -> Result<Response<PublishResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn unpublish(
        &self,
        _: Request<UnpublishRequest>,
    ) -> Result<Response<UnpublishResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn list_volumes(
        &self,
        _: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        let volumes = self.0.lock().unwrap().volumes.clone();
        Ok(Response::new(ListVolumesResponse { volumes }))
    }

    async fn get_volume_stats(
        &self,
        _: Request<GetVolumeStatsRequest>,
    ) -> Result<Response<GetVolumeStatsResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn list_flists(
        &self,
        _: Request<ListFlistsRequest>,
    ) -> Result<Response<ListFlistsResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }
}

#[tonic::async_trait]
impl NodeCare for Served {
    async fn check_store(
        &self,
        _: Request<CheckStoreRequest>,
    ) -> Result<Response<CheckStoreResponse>, Status> {
        let found = self.0.lock().unwrap().store;
        found
            .map(Response::new)
            .ok_or_else(|| Status::unavailable("no store"))
    }

    async fn leave(&self, _: Request<LeaveRequest>) -> Result<Response<LeaveResponse>, Status> {
        let mut state = self.0.lock().unwrap();
        if let Some(code) = state.refuses {
            return Err(Status::new(code, "refused"));
        }
        state.left += 1;
        Ok(Response::new(LeaveResponse::default()))
    }
}
