//! Calls to a Kubernetes node's services, as kubelet and the operator make them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use hyper_util::rt::TokioIo;
use lamina_proto::csi::v1::{
    NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability,
    node_client::NodeClient as CsiClient,
    volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
};
use lamina_proto::lamina::v1::source::From;
use lamina_proto::lamina::v1::{
    ForgetRequest, ImageSource, LeaveRequest, ListFlistsRequest, ListVolumesRequest,
    PublishRequest, Source, UnpublishRequest, Volume, Warm, node_care_client::NodeCareClient,
    node_client::NodeClient,
};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// What is published, and where.
#[derive(clap::Args)]
pub(crate) struct Publish {
    /// The driver's socket
    #[arg(long)]
    csi: PathBuf,
    /// The node server's socket
    #[arg(long)]
    node: PathBuf,
    /// Reference of the image
    #[arg(long)]
    image: String,
    /// Directory to mount on, below kubelet's
    #[arg(long)]
    target: PathBuf,
    #[arg(long, default_value_t = 1)]
    times: usize,
    /// Make the node forget the image's flist before each time, so that it comes from the store
    #[arg(long)]
    forget: bool,
}

/// Publishes and unpublishes again and again; the seconds of each.
pub(crate) fn publish(ask: &Publish) -> anyhow::Result<Value> {
    runtime()?.block_on(async {
        let mut csi = CsiClient::new(connect(&ask.csi).await?);
        let mut node = NodeClient::new(connect(&ask.node).await?);
        let (mut published, mut unpublished) = (Vec::new(), Vec::new());
        for number in 0..ask.times {
            if ask.forget {
                forget(&mut node, &ask.image).await?;
            }
            let id = format!("bench-{number}");
            published.push(publish_once(&mut csi, ask, &id).await?);
            let started = Instant::now();
            let end = NodeUnpublishVolumeRequest {
                volume_id: id,
                target_path: ask.target.display().to_string(),
            };
            csi.node_unpublish_volume(end).await.context("unpublish")?;
            unpublished.push(started.elapsed().as_secs_f64());
        }
        Ok(json!({ "publish": published, "unpublish": unpublished }))
    })
}

/// Until it is mounted, asking again while the node works on it, as kubelet does.
async fn publish_once(
    csi: &mut CsiClient<Channel>,
    ask: &Publish,
    id: &str,
) -> anyhow::Result<f64> {
    let call = NodePublishVolumeRequest {
        volume_id: id.to_owned(),
        target_path: ask.target.display().to_string(),
        volume_capability: Some(VolumeCapability {
            access_mode: Some(AccessMode {
                mode: Mode::SingleNodeWriter.into(),
            }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        }),
        // Always: the registry is asked what the tag stands for, as for an image nobody used here.
        volume_context: [
            ("lamina.dev/image".to_owned(), ask.image.clone()),
            ("pullPolicy".to_owned(), "Always".to_owned()),
        ]
        .into(),
        ..NodePublishVolumeRequest::default()
    };
    let started = Instant::now();
    loop {
        match csi.node_publish_volume(call.clone()).await {
            Ok(_) => return Ok(started.elapsed().as_secs_f64()),
            Err(status) if status.code() == Code::Aborted => {}
            Err(status) => bail!("publish {}: {status}", ask.image),
        }
    }
}

async fn forget(node: &mut NodeClient<Channel>, image: &str) -> anyhow::Result<()> {
    let listed = node.list_flists(ListFlistsRequest {}).await?.into_inner();
    let ours = listed
        .flists
        .into_iter()
        .filter(|flist| flist.reference == image);
    for flist in ours {
        let ask = ForgetRequest {
            digest: flist.digest,
            ..ForgetRequest::default()
        };
        node.forget(ask).await.context("forget")?;
    }
    Ok(())
}

/// How long each volume that a node shows took to be mounted, microseconds, and what was fetched for it.
pub(crate) fn volumes(socket: &Path) -> anyhow::Result<Value> {
    runtime()?.block_on(async {
        let mut node = NodeClient::new(connect(socket).await?);
        let listed = node.list_volumes(ListVolumesRequest {}).await?.into_inner();
        let of = |what: fn(&Volume) -> u64| listed.volumes.iter().map(what).collect::<Vec<_>>();
        Ok(json!({
            "took_us": of(|volume| volume.took_us),
            "fetched": of(|volume| volume.bytes_fetched),
            "transferred": of(|volume| volume.bytes_transferred),
        }))
    })
}

/// What is mounted on one node, as a volume.
#[derive(clap::Args)]
pub(crate) struct Mount {
    /// The node server's socket
    #[arg(long)]
    socket: PathBuf,
    /// Reference of the image
    #[arg(long)]
    image: String,
    #[arg(long)]
    volume: String,
    /// Directory to mount on, below kubelet's
    #[arg(long)]
    target: PathBuf,
}

/// Mounts an image; how long that took, and what it is.
pub(crate) fn mount(ask: &Mount) -> anyhow::Result<Value> {
    let call = PublishRequest {
        volume_id: ask.volume.clone(),
        target: ask.target.display().to_string(),
        source: Some(Source {
            from: Some(From::Image(ImageSource {
                reference: ask.image.clone(),
                ..ImageSource::default()
            })),
        }),
        prefetch: Warm::Profile.into(),
        ..PublishRequest::default()
    };
    runtime()?.block_on(async {
        let mut node = NodeClient::new(connect(&ask.socket).await?);
        let started = Instant::now();
        let published = loop {
            match node.publish(call.clone()).await {
                Ok(published) => break published.into_inner(),
                Err(status) if status.code() == Code::Aborted => {}
                Err(status) => bail!("mount {}: {status}", ask.image),
            }
        };
        let flist = published.flist.unwrap_or_default();
        Ok(json!({
            "seconds": started.elapsed().as_secs_f64(), "digest": flist.digest, "bytes": flist.bytes, "ensure_us": published.ensure_us,
        }))
    })
}

/// Undoes [`mount`].
pub(crate) fn unmount(socket: &Path, volume: &str, target: &Path) -> anyhow::Result<Value> {
    runtime()?.block_on(async {
        let mut node = NodeClient::new(connect(socket).await?);
        let call = UnpublishRequest {
            volume_id: volume.to_owned(),
            target: target.display().to_string(),
        };
        node.unpublish(call).await.context("unmount")?;
        Ok(json!({}))
    })
}

/// Makes a node leave: what it has is gone, and it serves nothing until its process is started again. `force`: also
/// what is in use.
pub(crate) fn leave(socket: &Path, force: bool) -> anyhow::Result<Value> {
    runtime()?.block_on(async {
        let mut care = NodeCareClient::new(connect(socket).await?);
        care.leave(LeaveRequest { force }).await.context("leave")?;
        Ok(json!({}))
    })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    Ok(built?)
}

async fn connect(socket: &Path) -> anyhow::Result<Channel> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://node")
        .connect_with_connector(connector)
        .await
        .with_context(|| format!("connect to {}", socket.display()))
}
