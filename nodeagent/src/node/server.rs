//! The gRPC service: requests to calls, failures to status codes. No behaviour here.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::Stream;
use lamina_flist::FlistDigest;
use lamina_proto::lamina::v1::node_server::Node;
use lamina_proto::lamina::v1::{
    CompareTreesRequest, CompareTreesResponse, EnsureProgress, EnsureRequest, ForgetRequest,
    ForgetResponse, GetInfoRequest, GetInfoResponse, GetVolumeStatsRequest, GetVolumeStatsResponse,
    ListFlistsRequest, ListFlistsResponse, ListVolumesRequest, ListVolumesResponse, PublishRequest,
    PublishResponse, ReadTreeRequest, ReadTreeResponse, Source, UnpublishRequest,
    UnpublishResponse, Warm,
};
use lamina_proto::timeout;
use tokio::sync::mpsc;
use tonic::{Code, Request, Response, Status};

use super::compare::Comparing;
use super::error::NodeError;
use super::library::{Have, Phase};
use super::order::Order;
use super::publish::Publisher;
use super::source::{Named, stores_digest};
use super::target::Target;
use super::tree::Look;
use super::volumes::VolumeId;
use super::warm::Warming;
use super::{Parts, info, keep, publish, stats};

/// How long a caller that names no deadline is taken to wait.
const PATIENCE: Duration = Duration::from_secs(110);
/// Of the caller's time, what is left for the answer.
const ANSWER_SHARE: u32 = 10;
/// Answers of a stream that may wait for their reader.
const STREAM_BUFFER: usize = 16;

/// The service; clones are the same one.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) parts: Parts,
    pub(super) publisher: Arc<Publisher>,
    warming: Arc<Warming>,
    comparing: Arc<Comparing>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            publisher: Arc::new(Publisher::new(parts.clone())),
            warming: Arc::default(),
            comparing: Arc::default(),
            parts,
        }
    }

    /// Counts an answer and gives it its code.
    pub(super) fn answer<T>(
        &self,
        method: &str,
        began: Instant,
        done: Result<T, NodeError>,
    ) -> Result<Response<T>, Status> {
        let code = done.as_ref().err().map_or(Code::Ok, NodeError::code);
        self.parts.metrics.answered(method, code, began.elapsed());
        if let Err(error) = &done {
            tracing::info!(method, ?code, %error, "call failed");
        }
        done.map(Response::new).map_err(Status::from)
    }

    async fn ensure_now(
        &self,
        request: EnsureRequest,
        tell: mpsc::Sender<Result<EnsureProgress, Status>>,
    ) -> Result<(), NodeError> {
        self.publisher.check_open()?;
        let named = Named::parse(request.source)?;
        stores_digest(&request.stores)?;
        let warm = Warm::try_from(request.warm)
            .map_err(|_| NodeError::invalid("the warming asked for is not known"))?;
        let told = tell.clone();
        let progress = move |phase: Phase, bytes_done, bytes_total| {
            // A reader that is slow misses some; the last one counts.
            let _ = told.try_send(Ok(EnsureProgress {
                phase: phase.as_str().into(),
                bytes_done,
                bytes_total,
                done: None,
            }));
        };
        let (stores, asked) = (&request.stores, named.source.clone());
        let have = self
            .parts
            .library
            .ensure(named.source, stores, progress)
            .await?;
        if let (Some(layers), time @ 1..) = (&self.parts.layers, request.keep_layers_s) {
            let told = EnsureProgress {
                phase: "keep".into(),
                ..EnsureProgress::default()
            };
            let _ = tell.try_send(Ok(told));
            let time = Duration::from_secs(time.into());
            keep::keep(&layers.store, &asked, &have, time).await?;
        }
        let warming = |bytes_done, bytes_total| {
            let _ = tell.try_send(Ok(EnsureProgress {
                phase: "warm".into(),
                bytes_done,
                bytes_total,
                done: None,
            }));
        };
        let warmed = self.warming.warm(&self.parts, &have, warm, warming).await?;
        let mut info = have.info.clone();
        if let Some(mount) = warmed {
            info.bytes_local = publish::local(info.bytes, &mount);
        }
        let last = EnsureProgress {
            phase: "done".into(),
            bytes_done: have.info.bytes,
            bytes_total: have.info.bytes,
            done: Some(info),
        };
        // Who is gone does not need it.
        let _ = tell.send(Ok(last)).await;
        Ok(())
    }

    /// The flist of what somebody wants to look into.
    async fn have(&self, source: Option<Source>) -> Result<Have, NodeError> {
        self.publisher.check_open()?;
        let named = Named::parse(source)?;
        let ensured = self.parts.library.ensure(named.source, &[], |_, _, _| ());
        ensured.await.map_err(NodeError::from)
    }

    /// A volume and, where one is named, its target.
    fn volume(&self, id: &str, target: &str) -> Result<(VolumeId, Option<Target>), NodeError> {
        let id = VolumeId::parse(id)?;
        let target = match target {
            "" => None,
            text => Some(self.parts.targets.parse(text)?),
        };
        Ok((id, target))
    }

    async fn forget_now(&self, request: ForgetRequest) -> Result<ForgetResponse, NodeError> {
        if self.parts.daemons.is_over() {
            // Nothing of it is here any more, and shared stores are other nodes' to clean.
            self.publisher.check_open()?;
        }
        let digest: FlistDigest = request
            .digest
            .parse()
            .map_err(|_| NodeError::invalid("the flist's digest is not 64 hex digits"))?;
        stores_digest(&request.stores)?;
        let records = self.parts.volumes.all();
        let shown = records
            .iter()
            .find(|record| record.digest == request.digest);
        if let Some(record) = shown {
            self.parts.volumes.unwant(&request.digest);
            let message = format!("volume {} shows it", record.volume_id.as_str());
            return Err(NodeError::new(Code::FailedPrecondition, message));
        }
        if let Some(layers) = &self.parts.layers {
            keep::let_go(&layers.store, &request.digest);
        }
        let bytes_freed = self
            .parts
            .library
            .forget(digest, request.delete_stored, &request.stores)
            .await?;
        Ok(ForgetResponse { bytes_freed })
    }
}

/// How long the caller of a request waits, less what the answer takes.
pub(super) fn patience<T>(request: &Request<T>) -> Duration {
    let wanted = timeout::of(request.metadata()).unwrap_or(PATIENCE);
    wanted.min(PATIENCE) / ANSWER_SHARE * (ANSWER_SHARE - 1)
}

fn stream<T: Send + 'static>(answers: mpsc::Receiver<Result<T, Status>>) -> Answers<T> {
    Box::pin(futures::stream::unfold(answers, |mut answers| async {
        answers.recv().await.map(|answer| (answer, answers))
    }))
}

#[tonic::async_trait]
impl Node for Service {
    type EnsureStream = Answers<EnsureProgress>;
    type ReadTreeStream = Answers<ReadTreeResponse>;
    type CompareTreesStream = Answers<CompareTreesResponse>;

    async fn get_info(
        &self,
        _: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        let began = Instant::now();
        self.answer("GetInfo", began, info::get(&self.parts).await)
    }

    async fn ensure(
        &self,
        request: Request<EnsureRequest>,
    ) -> Result<Response<Self::EnsureStream>, Status> {
        let began = Instant::now();
        let (tell, told) = mpsc::channel(STREAM_BUFFER);
        let service = self.clone();
        // Not the caller's: it goes on when the caller is gone.
        tokio::spawn(async move {
            let done = service.ensure_now(request.into_inner(), tell.clone()).await;
            if let Err(status) = service.answer("Ensure", began, done) {
                let _ = tell.send(Err(status)).await;
            }
        });
        Ok(Response::new(stream(told)))
    }

    async fn publish(
        &self,
        request: Request<PublishRequest>,
    ) -> Result<Response<PublishResponse>, Status> {
        let (began, patience) = (Instant::now(), patience(&request));
        let done = match Order::parse(request.into_inner(), &self.parts.targets) {
            Ok(order) => self.publisher.publish(order, patience).await,
            Err(error) => Err(error),
        };
        self.answer("Publish", began, done)
    }

    async fn unpublish(
        &self,
        request: Request<UnpublishRequest>,
    ) -> Result<Response<UnpublishResponse>, Status> {
        let (began, patience) = (Instant::now(), patience(&request));
        let request = request.into_inner();
        let done = match self.volume(&request.volume_id, &request.target) {
            Ok((id, target)) => self.publisher.unpublish(&id, target, patience).await,
            Err(error) => Err(error),
        };
        self.answer("Unpublish", began, done.map(|()| UnpublishResponse {}))
    }

    async fn list_volumes(
        &self,
        _: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        let began = Instant::now();
        let volumes = stats::volumes(&self.parts).await;
        let listed = volumes.map(|volumes| ListVolumesResponse { volumes });
        self.answer("ListVolumes", began, listed)
    }

    async fn get_volume_stats(
        &self,
        request: Request<GetVolumeStatsRequest>,
    ) -> Result<Response<GetVolumeStatsResponse>, Status> {
        let began = Instant::now();
        let request = request.into_inner();
        let done = match self.volume(&request.volume_id, &request.target) {
            Ok((id, target)) => stats::usage(&self.parts, &id, target).await,
            Err(error) => Err(error),
        };
        self.answer("GetVolumeStats", began, done)
    }

    async fn list_flists(
        &self,
        _: Request<ListFlistsRequest>,
    ) -> Result<Response<ListFlistsResponse>, Status> {
        let began = Instant::now();
        let flists = stats::flists(&self.parts).await;
        let listed = flists.map(|flists| ListFlistsResponse { flists });
        self.answer("ListFlists", began, listed)
    }

    async fn forget(
        &self,
        request: Request<ForgetRequest>,
    ) -> Result<Response<ForgetResponse>, Status> {
        let began = Instant::now();
        let done = self.forget_now(request.into_inner()).await;
        self.answer("Forget", began, done)
    }

    async fn read_tree(
        &self,
        request: Request<ReadTreeRequest>,
    ) -> Result<Response<Self::ReadTreeStream>, Status> {
        let began = Instant::now();
        let request = request.into_inner();
        let (tell, told) = mpsc::channel(STREAM_BUFFER);
        let begun = self.have(request.source).await.map(|have| {
            let look = Look {
                parts: self.parts.clone(),
                warming: Arc::clone(&self.warming),
                have,
                path: request.path,
            };
            tokio::spawn(look.send(tell));
            stream(told)
        });
        self.answer("ReadTree", began, begun)
    }

    async fn compare_trees(
        &self,
        request: Request<CompareTreesRequest>,
    ) -> Result<Response<Self::CompareTreesStream>, Status> {
        let began = Instant::now();
        let CompareTreesRequest { old, new } = request.into_inner();
        let both = async { Ok((self.have(old).await?, self.have(new).await?)) };
        let (tell, told) = mpsc::channel(STREAM_BUFFER);
        let begun = both.await.map(|(old, new)| {
            let comparing = Arc::clone(&self.comparing);
            tokio::spawn(async move { comparing.send(&old, &new, tell).await });
            stream(told)
        });
        self.answer("CompareTrees", began, begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_deadline_is_read_and_bounded() {
        let mut request = Request::new(());
        assert_eq!(patience(&request), Duration::from_secs(99));
        request.set_timeout(Duration::from_secs(10));
        assert_eq!(patience(&request), Duration::from_secs(9));
        request.set_timeout(Duration::from_secs(3600));
        assert_eq!(patience(&request), Duration::from_secs(99));
    }
}
