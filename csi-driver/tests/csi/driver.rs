//! A running driver, and calls as kubelet makes them.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use hyper_util::rt::TokioIo;
use lamina_csi::{args::Cli, run::run};
use lamina_proto::csi::v1::{
    NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability,
    node_client::NodeClient,
    volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
};
use tempfile::TempDir;
use tokio::{net::UnixStream, sync::oneshot, task::JoinHandle};
use tonic::transport::{Channel, Endpoint};

use crate::fake::Fake;

/// A driver in this process, its fake node server, and a client.
pub(crate) struct Driver {
    /// The node server.
    pub(crate) fake: Fake,
    /// As kubelet calls.
    pub(crate) node: NodeClient<Channel>,
    /// Ends with the driver.
    pub(crate) dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Driver {
    /// Starts one with further arguments; `DIR` in them is its directory.
    pub(crate) async fn start(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let fake = Fake::start(at("node.sock"));
        let mut line = vec!["lamina-csi".to_owned(), "node".into()];
        line.extend([
            "--endpoint".into(),
            format!("unix://{}", at("csi.sock").display()),
        ]);
        line.extend(["--agent".into(), at("node.sock").display().to_string()]);
        let root = dir.path().display().to_string();
        line.extend(more.iter().map(|arg| arg.replace("DIR", &root)));
        let (stop, stopped) = oneshot::channel();
        let end = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(run(Cli::parse_from(line).role, end));
        let node = NodeClient::new(connect(at("csi.sock")).await);
        Self {
            fake,
            node,
            dir,
            stop: Some(stop),
            task,
        }
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(self) -> anyhow::Result<()> {
        self.task.await?
    }

    /// Stops it as a signal does.
    pub(crate) async fn end(mut self) -> TempDir {
        drop(self.node);
        let _ = self.stop.take().map(|stop| stop.send(()));
        self.task.await.unwrap().unwrap();
        self.dir
    }
}

/// Connects to a socket as soon as it is there.
pub(crate) async fn connect(socket: PathBuf) -> Channel {
    connect_to(socket, Endpoint::from_static("http://csi")).await
}

/// As kubelet's plugin manager does: the authority of its calls is the percent-encoded path.
pub(crate) async fn connect_as_kubelet(socket: PathBuf) -> Channel {
    let authority = socket.to_str().unwrap().replace('/', "%2F");
    let endpoint: Endpoint = format!("http://{authority}").parse().unwrap();
    connect_to(socket, endpoint).await
}

async fn connect_to(socket: PathBuf, endpoint: Endpoint) -> Channel {
    let connecting = async {
        loop {
            let socket = socket.clone();
            let connector = tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            });
            if let Ok(channel) = endpoint.connect_with_connector(connector).await {
                return channel;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), connecting)
        .await
        .unwrap()
}

/// The capability that kubelet sends for inline volumes.
pub(crate) fn capability(mode: Mode) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}

/// A publish call of an image.
pub(crate) fn publish(id: &str, target: &str) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: id.into(),
        target_path: target.into(),
        volume_capability: Some(capability(Mode::SingleNodeWriter)),
        volume_context: [("lamina.dev/image".to_owned(), "python:3.13".to_owned())].into(),
        ..NodePublishVolumeRequest::default()
    }
}

/// Its counterpart.
pub(crate) fn unpublish(id: &str, target: &str) -> NodeUnpublishVolumeRequest {
    NodeUnpublishVolumeRequest {
        volume_id: id.into(),
        target_path: target.into(),
    }
}
