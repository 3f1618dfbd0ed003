//! The node server of this node, `lamina.v1.Node` on a Unix socket, as the driver calls it.
//!
//! Every call connects anew: a connection on a Unix socket costs microseconds, and no state can go stale
//! when the server is replaced under us. Its failures are translated to CSI codes here and nowhere else.

use std::{future::Future, io, path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use lamina_proto::lamina::v1::{
    GetInfoRequest, GetInfoResponse, GetVolumeStatsRequest, GetVolumeStatsResponse,
    ListVolumesRequest, PublishRequest, PublishResponse, UnpublishRequest, Volume,
    node_client::NodeClient,
};
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint},
};

use crate::deadline::Deadline;

/// Connecting to a socket of this machine takes no longer unless its owner hangs.
const CONNECT: Duration = Duration::from_secs(2);

/// The node server.
#[derive(Debug, Clone)]
pub struct Agent {
    socket: PathBuf,
}

/// What a failure means for the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// The node goes on with it.
    GoesOn,
    /// Nothing was begun.
    None,
}

impl Agent {
    /// The server behind this socket; whether it is there is seen at the first call.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// What the node is.
    ///
    /// # Errors
    ///
    /// CSI codes, as for every call here.
    pub async fn info(&self, deadline: Deadline) -> Result<GetInfoResponse, Status> {
        let call = |mut node: NodeClient<Channel>, r| async move { node.get_info(r).await };
        self.call(deadline, Work::None, GetInfoRequest {}, call)
            .await
    }

    /// Mounts.
    ///
    /// # Errors
    ///
    /// CSI codes; ABORTED while the node works on it.
    pub async fn publish(
        &self,
        deadline: Deadline,
        ask: PublishRequest,
    ) -> Result<PublishResponse, Status> {
        let call = |mut node: NodeClient<Channel>, r| async move { node.publish(r).await };
        self.call(deadline, Work::GoesOn, ask, call).await
    }

    /// Unmounts; what is not there is no failure.
    ///
    /// # Errors
    ///
    /// CSI codes; ABORTED while the node works on it.
    pub async fn unpublish(&self, deadline: Deadline, ask: UnpublishRequest) -> Result<(), Status> {
        let call = |mut node: NodeClient<Channel>, r| async move { node.unpublish(r).await };
        match self.call(deadline, Work::GoesOn, ask, call).await {
            Err(status) if status.code() != Code::NotFound => Err(status),
            _ => Ok(()),
        }
    }

    /// Sizes and condition of a volume.
    ///
    /// # Errors
    ///
    /// CSI codes.
    pub async fn stats(
        &self,
        deadline: Deadline,
        ask: GetVolumeStatsRequest,
    ) -> Result<GetVolumeStatsResponse, Status> {
        let call = |mut node: NodeClient<Channel>, r| async move { node.get_volume_stats(r).await };
        self.call(deadline, Work::None, ask, call).await
    }

    /// Every volume of the node.
    ///
    /// # Errors
    ///
    /// CSI codes.
    pub async fn volumes(&self, deadline: Deadline) -> Result<Vec<Volume>, Status> {
        let call = |mut node: NodeClient<Channel>, r| async move { node.list_volumes(r).await };
        let all = self
            .call(deadline, Work::None, ListVolumesRequest {}, call)
            .await?;
        Ok(all.volumes)
    }

    async fn call<A, B, F>(
        &self,
        deadline: Deadline,
        work: Work,
        ask: A,
        call: impl FnOnce(NodeClient<Channel>, Request<A>) -> F,
    ) -> Result<B, Status>
    where
        F: Future<Output = Result<Response<B>, Status>>,
    {
        let client = self.connect().await?;
        let rest = deadline.rest();
        let mut request = Request::new(ask);
        request.set_timeout(rest);
        match timeout(rest, call(client, request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(translate(&status, work)),
            Err(_) => Err(late(work)),
        }
    }

    async fn connect(&self) -> Result<NodeClient<Channel>, Status> {
        let stream = timeout(CONNECT, UnixStream::connect(&self.socket)).await;
        let stream = stream
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| self.unreachable(&error))?;
        let mut stream = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_| {
            let stream = stream.take().ok_or_else(|| io::Error::other("used"));
            std::future::ready(stream)
        });
        let endpoint = Endpoint::from_static("http://lamina-node").connect_timeout(CONNECT);
        let channel = endpoint.connect_with_connector(connector).await;
        let channel = channel.map_err(|error| self.unreachable(&io::Error::other(error)))?;
        Ok(NodeClient::new(channel))
    }

    fn unreachable(&self, error: &io::Error) -> Status {
        let what = match error.kind() {
            io::ErrorKind::NotFound => "is not there".into(),
            io::ErrorKind::ConnectionRefused => "is not answered".into(),
            io::ErrorKind::TimedOut => "is not answered in time".into(),
            _ => format!("cannot be used: {error}"),
        };
        Status::unavailable(format!(
            "Lamina's node server is not running: its socket {} {what}. The pod lamina-node of this node is starting or failing; this call is tried again",
            self.socket.display()
        ))
    }
}

/// The CSI code, and the words, for a failure of the node server.
fn translate(status: &Status, work: Work) -> Status {
    // Only failures of the connection have a source; those the server sent are words on the wire.
    let late_here = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled);
    if std::error::Error::source(status).is_some() && !late_here {
        return Status::unavailable(
            "Lamina's node server stopped while it worked on this; this call is tried again",
        );
    }
    let said = status.message();
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => late(work),
        Code::Unauthenticated => Status::permission_denied(said),
        Code::OutOfRange => Status::invalid_argument(said),
        Code::Unknown | Code::Ok => Status::internal(said),
        Code::Unimplemented => Status::failed_precondition(
            "Lamina's node server is older than lamina-csi; it is being upgraded, or needs to be",
        ),
        code => Status::new(code, said),
    }
}

fn late(work: Work) -> Status {
    match work {
        Work::GoesOn => {
            Status::aborted("the node is still working on it; the next call finds how far it is")
        }
        Work::None => Status::deadline_exceeded("Lamina's node server did not answer in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_node_become_csi_codes() {
        for (of_node, with_work, without) in [
            (
                Code::InvalidArgument,
                Code::InvalidArgument,
                Code::InvalidArgument,
            ),
            (Code::NotFound, Code::NotFound, Code::NotFound),
            (
                Code::PermissionDenied,
                Code::PermissionDenied,
                Code::PermissionDenied,
            ),
            (
                Code::Unauthenticated,
                Code::PermissionDenied,
                Code::PermissionDenied,
            ),
            (
                Code::AlreadyExists,
                Code::AlreadyExists,
                Code::AlreadyExists,
            ),
            (Code::Aborted, Code::Aborted, Code::Aborted),
            (Code::Unavailable, Code::Unavailable, Code::Unavailable),
            (
                Code::DeadlineExceeded,
                Code::Aborted,
                Code::DeadlineExceeded,
            ),
            (Code::Cancelled, Code::Aborted, Code::DeadlineExceeded),
            (Code::DataLoss, Code::DataLoss, Code::DataLoss),
            (
                Code::ResourceExhausted,
                Code::ResourceExhausted,
                Code::ResourceExhausted,
            ),
            (
                Code::FailedPrecondition,
                Code::FailedPrecondition,
                Code::FailedPrecondition,
            ),
            (
                Code::OutOfRange,
                Code::InvalidArgument,
                Code::InvalidArgument,
            ),
            (
                Code::Unimplemented,
                Code::FailedPrecondition,
                Code::FailedPrecondition,
            ),
            (Code::Internal, Code::Internal, Code::Internal),
            (Code::Unknown, Code::Internal, Code::Internal),
        ] {
            let status = Status::new(of_node, "said");
            assert_eq!(
                translate(&status, Work::GoesOn).code(),
                with_work,
                "{of_node:?}"
            );
            assert_eq!(
                translate(&status, Work::None).code(),
                without,
                "{of_node:?}"
            );
        }
        assert_eq!(
            translate(&Status::not_found("no such image"), Work::None).message(),
            "no such image"
        );
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_said_in_plain_words() {
        let agent = Agent::new("/nonexistent/node.sock".into());
        let status = agent.info(Deadline::after(CONNECT)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(
            status
                .message()
                .contains("/nonexistent/node.sock is not there"),
            "{status}"
        );
    }
}
