//! Calls to this node's `lamina node`: flists here, mounted, and unmounted again.

use std::path::Path;
use std::time::Duration;

use futures::{Stream, StreamExt};
use lamina_proto::lamina::v1::commit_request::Part;
use lamina_proto::lamina::v1::node_client::NodeClient;
use lamina_proto::lamina::v1::node_commit_client::NodeCommitClient;
use lamina_proto::lamina::v1::{
    CommitEnd, CommitRequest, CommitStart, EnsureRequest, FlistInfo, ListVolumesRequest,
    PublishRequest, Source, UnpublishRequest, Volume, Warm,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::error::RunError;

/// How long an image may take to be here and mounted: a large one is converted from its registry first.
const IMAGE_PATIENCE: Duration = Duration::from_secs(900);
/// How long a call may take that fetches nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a run's changes may take to be in their stores.
const COMMIT_PATIENCE: Duration = Duration::from_secs(900);
/// How long one call waits before it is made again.
const CALL_PATIENCE: Duration = Duration::from_secs(100);
/// Between two of the same, while the node works on the first.
const PAUSE: Duration = Duration::from_millis(200);
/// A node lists every volume of its pods.
const ANSWER_MAX: usize = 64 << 20;

/// A node's service on its Unix socket; connects when it is called.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    channel: Channel,
}

impl Node {
    /// The one behind `socket`.
    ///
    /// # Errors
    /// When the path is none that can be dialled.
    pub(crate) fn new(socket: &Path) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        Ok(Self {
            channel: endpoint.connect_lazy(),
        })
    }

    fn client(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    /// Has a source's flist here; what it is.
    pub(crate) async fn ensure(&self, source: &Source) -> Result<FlistInfo, RunError> {
        let request = EnsureRequest {
            source: Some(source.clone()),
            warm: Warm::None.into(),
            ..EnsureRequest::default()
        };
        let mut client = self.client();
        let asked = async move {
            let mut steps = client.ensure(request).await?.into_inner();
            while let Some(step) = steps.message().await? {
                if let Some(done) = step.done {
                    return Ok(done);
                }
            }
            Err(Status::unavailable("it ended its answer too early"))
        };
        let until = Instant::now() + IMAGE_PATIENCE;
        within(until, asked)
            .await
            .map_err(|status| failed("have the image here", &status))
    }

    /// Mounts a source at a directory; what it is.
    pub(crate) async fn publish(
        &self,
        volume_id: &str,
        target: &Path,
        source: Source,
    ) -> Result<FlistInfo, RunError> {
        let order = PublishRequest {
            volume_id: volume_id.to_owned(),
            target: target.display().to_string(),
            source: Some(source),
            prefetch: Warm::Profile.into(),
            ..PublishRequest::default()
        };
        let until = Instant::now() + IMAGE_PATIENCE;
        let published = again(until, || {
            let (mut client, order) = (self.client(), order.clone());
            async move { client.publish(timed(order)).await }
        });
        let published = published.await;
        let published = published.map_err(|status| failed("mount the image", &status))?;
        published.flist.ok_or_else(|| {
            RunError::unavailable("lamina node mounted the image and does not say what it is")
        })
    }

    /// Undoes it; one that is not there is no failure.
    pub(crate) async fn unpublish(&self, volume_id: &str, target: &str) -> Result<(), RunError> {
        let order = UnpublishRequest {
            volume_id: volume_id.to_owned(),
            target: target.to_owned(),
        };
        let undone = again(Instant::now() + PATIENCE, || {
            let (mut client, order) = (self.client(), order.clone());
            async move { client.unpublish(timed(order)).await }
        });
        let undone = undone.await.map(drop);
        undone.map_err(|status| failed("unmount an image", &status))
    }

    /// Has the changes that come in pieces, at last an empty one, put over a flist; what came of it.
    pub(crate) async fn commit(
        &self,
        start: CommitStart,
        pieces: mpsc::Receiver<Vec<u8>>,
    ) -> Result<FlistInfo, RunError> {
        let mut client = NodeCommitClient::new(self.channel.clone());
        let frames = frames(start, ReceiverStream::new(pieces));
        let until = Instant::now() + COMMIT_PATIENCE;
        let asked = within(until, async move { client.commit(frames).await }).await;
        let answer = asked.map_err(|status| failed("keep its changes", &status))?;
        answer.into_inner().flist.ok_or_else(|| {
            RunError::unavailable("lamina node kept the changes and does not say as what")
        })
    }

    /// What is mounted by this node.
    pub(crate) async fn volumes(&self) -> Result<Vec<Volume>, RunError> {
        let mut client = self.client();
        let asked = async move { client.list_volumes(ListVolumesRequest {}).await };
        let listed = within(Instant::now() + PATIENCE, asked).await;
        let listed = listed.map_err(|status| failed("list what is mounted", &status))?;
        Ok(listed.into_inner().volumes)
    }
}

/// The start, then every piece, an empty one as the end: where none came, the stream has no end either.
fn frames(
    start: CommitStart,
    pieces: impl Stream<Item = Vec<u8>>,
) -> impl Stream<Item = CommitRequest> {
    let part = |piece: Vec<u8>| match piece.is_empty() {
        true => Part::End(CommitEnd {}),
        false => Part::Data(piece),
    };
    let parts = futures::stream::iter([Part::Start(start)]).chain(pieces.map(part));
    parts.map(|part| CommitRequest { part: Some(part) })
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_PATIENCE);
    request
}

async fn within<T>(
    until: Instant,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded("lamina node did not answer in time");
    timeout_at(until, call).await.map_err(late)?
}

/// Calls until the node has done it: it goes on with what it has begun, and says `ABORTED` meanwhile.
async fn again<T, F>(until: Instant, call: impl Fn() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    loop {
        match within(until, call()).await {
            Err(status) if status.code() == Code::Aborted && Instant::now() < until => {
                sleep(PAUSE).await;
            }
            answer => return answer.map(tonic::Response::into_inner),
        }
    }
}

/// A node's failure as a caller's of a run: what no caller of a run can do anything about is `UNAVAILABLE`.
fn failed(what: &str, status: &Status) -> RunError {
    let code = match status.code() {
        code @ (Code::InvalidArgument
        | Code::NotFound
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::DeadlineExceeded
        | Code::DataLoss) => code,
        Code::Unauthenticated => Code::PermissionDenied,
        _ => Code::Unavailable,
    };
    let said: String = status.message().chars().take(2000).collect();
    RunError::new(code, format!("{what}: lamina node says: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_can_do_nothing_about_is_tried_elsewhere() {
        for (said, expected) in [
            (Code::NotFound, Code::NotFound),
            (Code::PermissionDenied, Code::PermissionDenied),
            (Code::Unauthenticated, Code::PermissionDenied),
            (Code::InvalidArgument, Code::InvalidArgument),
            (Code::FailedPrecondition, Code::Unavailable),
            (Code::Unimplemented, Code::Unavailable),
            (Code::Unknown, Code::Unavailable),
        ] {
            let failed = failed("x", &Status::new(said, "why"));
            assert_eq!(failed.code(), expected);
            assert!(failed.to_string().ends_with("says: why"));
        }
    }

    #[tokio::test]
    async fn what_is_being_worked_on_is_asked_for_again() {
        let calls = std::sync::atomic::AtomicUsize::new(0);
        let until = Instant::now() + PATIENCE;
        let answer = again(until, || async {
            match calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0 => Err(Status::aborted("working")),
                call => Ok(tonic::Response::new(call)),
            }
        });
        assert_eq!(answer.await.unwrap(), 1);
    }
}
