//! What an operator asks of a node beside file systems: how a store is, and to be left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lamina_proto::lamina::v1::node_care_server::NodeCare;
use lamina_proto::lamina::v1::{
    CheckStoreRequest, CheckStoreResponse, LeaveRequest, LeaveResponse,
};
use tonic::{Code, Request, Response, Status};

use super::Parts;
use super::daemons::{Daemons, blocking};
use super::error::NodeError;
use super::library;
use super::publish::Publisher;
use super::server::{Service, patience};
use super::source::stores_digest;
use super::sweep::Sweep;
use super::volumes::Record;

/// How long what is being published or converted may take to be called off.
const SETTLE_PATIENCE: Duration = Duration::from_secs(15);
/// Volumes named in a refusal.
const NAMED_MAX: usize = 4;

#[tonic::async_trait]
impl NodeCare for Service {
    async fn check_store(
        &self,
        request: Request<CheckStoreRequest>,
    ) -> Result<Response<CheckStoreResponse>, Status> {
        let (began, patience) = (Instant::now(), patience(&request));
        let looked = check_store(request.into_inner(), patience).await;
        self.answer("CheckStore", began, looked)
    }

    async fn leave(
        &self,
        request: Request<LeaveRequest>,
    ) -> Result<Response<LeaveResponse>, Status> {
        let (began, patience) = (Instant::now(), patience(&request));
        let leaving = Leaving {
            parts: self.parts.clone(),
            publisher: Arc::clone(&self.publisher),
        };
        let force = request.into_inner().force;
        // Not the caller's: half of it is no state to stay in.
        let job = tokio::spawn(async move { leaving.leave(force).await });
        let left = match tokio::time::timeout(patience, job).await {
            Ok(Ok(left)) => left,
            Ok(Err(error)) => Err(NodeError::internal("leave the node", &error)),
            Err(_) => Err(NodeError::unfinished("leaving the node")),
        };
        self.answer("Leave", began, left.map(|()| LeaveResponse {}))
    }
}

async fn check_store(
    request: CheckStoreRequest,
    patience: Duration,
) -> Result<CheckStoreResponse, NodeError> {
    stores_digest(std::slice::from_ref(&request.store))?;
    let looked = tokio::time::timeout(patience, library::look(&request.store)).await;
    let late = |_| {
        let message = "the store did not answer in time";
        NodeError::new(Code::DeadlineExceeded, message)
    };
    let held = looked.map_err(late)??;
    Ok(CheckStoreResponse {
        writable: held.writable,
        objects: held.objects.unwrap_or(0),
        bytes: held.bytes.unwrap_or(0),
        objects_known: held.objects.is_some(),
        bytes_known: held.bytes.is_some(),
        nothing_seen: !held.is_there,
    })
}

/// Taking Lamina off this node.
struct Leaving {
    parts: Parts,
    publisher: Arc<Publisher>,
}

impl Leaving {
    /// Refuses new work, ends the instance, removes its files. Until the instance has ended, a failure
    /// leaves the node as it was; after that only the rest is tried again.
    async fn leave(&self, force: bool) -> Result<(), NodeError> {
        let _alone = self.publisher.leaving().await;
        self.close(true);
        if let Err(error) = self.end(force).await {
            if !self.parts.daemons.is_over() {
                self.close(false);
            }
            return Err(error);
        }
        if let Some(layers) = self.parts.layers.clone() {
            // Others are told that nothing is here any more.
            let pruned = tokio::task::spawn_blocking(move || layers.store.shelf().prune(100.0));
            pruned
                .await
                .map_err(|error| NodeError::internal("clear the node's layers", &error))?;
        }
        let sweep = Sweep {
            state: self.parts.settings.state.clone(),
            run_dir: self.parts.settings.run_dir.clone(),
            kubelet_dir: self.parts.settings.kubelet_dir.clone(),
            instance: self.parts.daemons.dir().to_owned(),
            outside_pod: self.parts.settings.outside_pod,
        };
        let swept = tokio::task::spawn_blocking(move || sweep.run()).await;
        let failed = |text: String| NodeError::new(Code::Internal, text);
        swept
            .map_err(|error| NodeError::internal("clear the node", &error))?
            .map_err(|error| failed(format!("clear the node: {error:#}")))?;
        self.parts.volumes.clear();
        tracing::info!("this node was left; it serves no volumes until it is started again");
        Ok(())
    }

    fn close(&self, closed: bool) {
        self.publisher.close(closed);
        self.parts.library.close(closed);
        if let Some(layers) = &self.parts.layers {
            layers.store.close(closed);
        }
    }

    async fn end(&self, force: bool) -> Result<(), NodeError> {
        let used = self.publisher.in_use().await?;
        if !used.is_empty() && !force {
            let message = in_use(&used);
            return Err(NodeError::new(Code::FailedPrecondition, message));
        }
        self.publisher.settle(SETTLE_PATIENCE).await?;
        let settled = tokio::time::timeout(SETTLE_PATIENCE, self.parts.library.settled()).await;
        settled.map_err(|_| NodeError::unfinished("a conversion"))?;
        if let Some(layers) = &self.parts.layers {
            let settled = tokio::time::timeout(SETTLE_PATIENCE, layers.store.settled()).await;
            settled.map_err(|_| NodeError::unfinished("a pull"))?;
        }
        blocking(&self.parts.daemons, Daemons::end).await
    }
}

fn in_use(used: &[Record]) -> String {
    let name = |record: &Record| match record.pod.name.as_str() {
        "" => format!("volume {}", record.volume_id.as_str()),
        pod => format!("pod {}/{pod}", record.pod.namespace),
    };
    let mut names: Vec<String> = used.iter().map(name).collect();
    names.sort();
    names.dedup();
    let more = match names.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.truncate(NAMED_MAX);
    let names = names.join(", ");
    format!("volumes of this node are in use by {names}{more}: delete these pods first")
}
