//! `afsletpb.Afslet` as a proxy serves it: runs are passed on, the status is that of all afslets together.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use lamina_proto::afsletpb::GetRuntimeStatusResponse;
use lamina_proto::broken::{self, Broken};
use lamina_proto::timeout;
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, BoxStream, Service, http};
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status, Streaming};

use crate::ask::Ask;
use crate::dispatch::{Dispatch, Wanted};
use crate::frame::{FRAME_MAX, Frames};
use crate::overview;
use crate::source::{Budget, Source, told};

/// The service; clones are the same one.
#[derive(Clone)]
pub(crate) struct Execute(Arc<Parts>);

struct Parts {
    dispatch: Dispatch,
    budget: Budget,
    turns: Arc<Semaphore>,
    version: String,
}

impl NamedService for Execute {
    const NAME: &'static str = "afsletpb.Afslet";
}

impl Execute {
    pub(crate) fn new(dispatch: Dispatch, budget: Budget, version: &str) -> Self {
        Self(Arc::new(Parts {
            turns: Arc::new(Semaphore::new(dispatch.limits.runs_max)),
            dispatch,
            budget,
            version: version.to_owned(),
        }))
    }

    /// Runs that there are.
    pub(crate) fn runs(&self) -> usize {
        let max = self.0.dispatch.limits.runs_max;
        max.saturating_sub(self.0.turns.available_permits())
    }

    /// Returns when there are none. While it waits, new ones find no turn.
    pub(crate) async fn over(&self) {
        let all = u32::try_from(self.0.dispatch.limits.runs_max).unwrap_or(u32::MAX);
        // Never closed.
        let _ = self.0.turns.acquire_many(all).await;
    }

    async fn execute(
        &self,
        request: Request<Streaming<Bytes>>,
        broken: Broken,
    ) -> Result<Response<BoxStream<Bytes>>, Status> {
        let Parts {
            dispatch,
            budget,
            turns,
            ..
        } = &*self.0;
        let began = Instant::now();
        let (metadata, _, mut client) = request.into_parts();
        let limits = &dispatch.limits;
        let deadline = timeout::of(&metadata).and_then(|within| began.checked_add(within));
        let longest = began + limits.accept_deadline;
        let until = deadline.map_or(longest, |deadline| deadline.min(longest));
        let reading = tokio::time::timeout(limits.start_deadline, client.message());
        let first = tokio::select! {
            biased;
            status = dispatch.phase.drained() => return Err(status),
            first = reading => first,
        };
        let first = first
            .map_err(|_| {
                Status::deadline_exceeded("the first frame, `start`, did not come in time")
            })?
            .map_err(|status| told(&status))?
            .ok_or_else(|| {
                Status::invalid_argument("there is no frame; a run begins with `start`")
            })?;
        let ask = Ask::parse(&first)?;
        let turn = Arc::clone(turns).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "this proxy has {} runs, which is all it takes: ask another one, or later",
                limits.runs_max
            ))
        })?;
        let source = Source::new(first, client, broken, budget)?;
        let wanted = Wanted {
            ask,
            source,
            metadata,
            until,
            deadline,
        };
        let placed = dispatch.place(&wanted).await;
        dispatch
            .metrics
            .placed(placed.as_ref().err(), began.elapsed());
        let answers =
            placed?.into_answers(dispatch.phase.clone(), Arc::clone(&dispatch.metrics), turn);
        Ok(Response::new(Box::pin(answers)))
    }

    fn status(&self) -> GetRuntimeStatusResponse {
        let known = self.0.dispatch.afslets.known();
        GetRuntimeStatusResponse {
            version: self.0.version.clone(),
            draining: self.0.dispatch.phase.is_draining(),
            ..overview::sums(&known)
        }
    }
}

impl Service<http::Request<Body>> for Execute {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(Frames).max_decoding_message_size(FRAME_MAX);
            Ok(match request.uri().path() {
                "/afsletpb.Afslet/Execute" => {
                    let (parts, body) = request.into_parts();
                    let (body, broken) = broken::watch(body);
                    let request = http::Request::from_parts(parts, body);
                    grpc.streaming(Run(this, broken), request).await
                }
                "/afsletpb.Afslet/GetRuntimeStatus" => grpc.unary(Look(this), request).await,
                path => Status::unimplemented(format!("there is no method {path}")).into_http(),
            })
        })
    }
}

/// A call of `Execute`.
struct Run(Execute, Broken);

impl Service<Request<Streaming<Bytes>>> for Run {
    type Response = Response<BoxStream<Bytes>>;
    type Error = Status;
    type Future = BoxFuture<Self::Response, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (execute, broken) = (self.0.clone(), self.1.clone());
        Box::pin(async move { execute.execute(request, broken).await })
    }
}

/// A call of `GetRuntimeStatus`.
struct Look(Execute);

impl Service<Request<Bytes>> for Look {
    type Response = Response<Bytes>;
    type Error = Status;
    type Future = std::future::Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        let status = self.0.status().encode_to_vec();
        std::future::ready(Ok(Response::new(status.into())))
    }
}
