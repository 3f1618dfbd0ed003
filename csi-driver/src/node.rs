//! The Node service: CSI calls of kubelet, checked and passed on to the node server.
//!
//! Nothing is kept here; what is mounted is known by the node server. A volume is not staged: each publish is
//! one mount, and mounts of one flist share everything already.

use std::{collections::HashMap, sync::Arc};

use kube::Client;
use lamina_proto::{
    csi::v1::{
        NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest,
        NodeGetInfoResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
        NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability,
        NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, Topology, VolumeCondition,
        VolumeUsage, node_server,
        node_service_capability::{self, Rpc, rpc},
        volume_usage::Unit,
    },
    lamina::v1::{
        FlistSource, GetVolumeStatsRequest, ImageSource, OverlayMedium, Pod, PublishRequest,
        Source, UnpublishRequest, Usage, source,
    },
};
use tonic::{Code, Request, Response, Status};

use crate::{
    agent::Agent,
    attributes::{Attributes, FLIST, FlistRef, From, IMAGE, Mode},
    calls::Calls,
    capability::{self, Use},
    deadline::Deadline,
    events::{self, Events, Subject},
    flists,
    secrets::PullSecret,
    starts::{Start, Starts},
    volume::{Target, VolumeId},
};

/// A label that every Linux node has anyway, so that nothing is left on nodes: volumes can be used on all
/// of them.
const TOPOLOGY: (&str, &str) = ("kubernetes.io/os", "linux");

/// Characters of a refused source that are shown.
const SOURCE_MAX: usize = 200;

/// The service.
#[derive(Clone)]
pub struct Node {
    /// Name of the node, as the cluster has it.
    pub name: String,
    /// The node server.
    pub agent: Agent,
    /// Who is told.
    pub events: Events,
    /// The cluster, for Flist objects.
    pub cluster: Option<Client>,
    /// What is under way.
    pub calls: Arc<Calls>,
    /// Pods that start.
    pub starts: Starts,
}

/// A publish call that passed every check.
struct Publish {
    id: VolumeId,
    target: Target,
    attributes: Attributes,
    usage: Use,
    read_only: bool,
    secret: PullSecret,
    pod: Pod,
}

#[tonic::async_trait]
impl node_server::Node for Node {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let request = request.into_inner();
        let publish =
            Publish::check(&request).inspect_err(|status| self.refuse(&request, status))?;
        let mut keys = vec![publish.id.on_node(&publish.target)];
        if publish.usage.alone {
            keys.push(publish.id.to_string());
        }
        keys.dedup();
        let node = self.clone();
        let work = async move { node.publish(publish, deadline).await };
        self.calls.run(keys, deadline, work).await?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let request = request.into_inner();
        let id = VolumeId::parse(&request.volume_id).map_err(refused)?;
        let target = Target::parse(&request.target_path).map_err(refused)?;
        let key = id.on_node(&target);
        let ask = UnpublishRequest {
            volume_id: key.clone(),
            target: target.as_str().to_owned(),
        };
        let node = self.clone();
        let work = async move {
            let (volume, target) = (&ask.volume_id, &ask.target);
            node.starts
                .end(volume, target, &node.agent, &node.events)
                .await;
            node.agent.unpublish(deadline, ask).await
        };
        self.calls.run(vec![key], deadline, work).await?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let request = request.into_inner();
        if request.volume_path.is_empty() {
            return Err(Status::invalid_argument("the volume path is missing"));
        }
        let id = VolumeId::parse(&request.volume_id).map_err(refused)?;
        let target = Target::parse(&request.volume_path)
            .map_err(|why| Status::not_found(format!("volume {id} is not mounted there: {why}")))?;
        let ask = GetVolumeStatsRequest {
            volume_id: id.on_node(&target),
            target: target.as_str().to_owned(),
        };
        let stats = self.agent.stats(deadline, ask).await?;
        let usages = [(stats.bytes, Unit::Bytes), (stats.inodes, Unit::Inodes)];
        Ok(Response::new(NodeGetVolumeStatsResponse {
            usage: usages
                .into_iter()
                .filter_map(|(usage, unit)| usage.map(|usage| amount(usage, unit)))
                .collect(),
            volume_condition: Some(VolumeCondition {
                abnormal: stats.abnormal,
                message: stats.condition,
            }),
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let can = [
            rpc::Type::GetVolumeStats,
            rpc::Type::VolumeCondition,
            rpc::Type::SingleNodeMultiWriter,
        ];
        let capabilities = can.map(|kind| NodeServiceCapability {
            r#type: Some(node_service_capability::Type::Rpc(Rpc {
                r#type: kind.into(),
            })),
        });
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: capabilities.into(),
        }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        let (label, value) = TOPOLOGY;
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.name.clone(),
            max_volumes_per_node: 0,
            accessible_topology: Some(Topology {
                segments: [(label.to_owned(), value.to_owned())].into(),
            }),
        }))
    }
}

impl Publish {
    fn check(request: &NodePublishVolumeRequest) -> Result<Self, Status> {
        let id = VolumeId::parse(&request.volume_id).map_err(refused)?;
        let target = Target::parse(&request.target_path).map_err(refused)?;
        let capability = request.volume_capability.as_ref();
        // What is wrong with the capability by itself is said before what is wrong with the attributes.
        capability::check(capability, Mode::Ro).map_err(refused)?;
        let attributes = Attributes::parse(&request.volume_context).map_err(refused)?;
        let usage = capability::check(capability, attributes.mode).map_err(refused)?;
        let image = match &attributes.from {
            From::Image(image) => Some(image.as_str()),
            From::Flist(_) => None,
        };
        Ok(Self {
            secret: PullSecret::parse(&request.secrets, image).map_err(refused)?,
            pod: pod(&request.volume_context),
            read_only: request.readonly,
            id,
            target,
            attributes,
            usage,
        })
    }

    /// The node's request, once the source is known.
    fn ask(&self, source: Source, stores: Vec<String>) -> PublishRequest {
        let (writable, overlay_bytes_max, medium) = match self.attributes.mode {
            Mode::Rw {
                overlay_bytes_max,
                medium,
            } if self.usage.writes && !self.read_only => (true, overlay_bytes_max, medium),
            _ => (false, 0, OverlayMedium::Unspecified),
        };
        PublishRequest {
            volume_id: self.id.on_node(&self.target),
            target: self.target.as_str().to_owned(),
            source: Some(source),
            writable,
            overlay_bytes_max,
            overlay_medium: medium.into(),
            sub_path: self.attributes.sub_path.clone(),
            prefetch: self.attributes.prefetch.into(),
            pod: Some(self.pod.clone()),
            stores,
        }
    }
}

impl Node {
    /// Tells the pod why its volume is not even tried: kubelet's own event does not name the driver.
    fn refuse(&self, request: &NodePublishVolumeRequest, status: &Status) {
        let given = |key: &str| request.volume_context.get(key).map(String::as_str);
        let source = given(IMAGE).or_else(|| given(FLIST)).unwrap_or("a volume");
        tracing::warn!(volume = shown(&request.volume_id), code = ?status.code(), why = status.message(), "refused");
        if let Some(on) = Subject::pod(&pod(&request.volume_context)) {
            self.events
                .say(events::failed(on, &shown(source), status.message()));
        }
    }

    async fn publish(&self, publish: Publish, deadline: Deadline) -> Result<(), Status> {
        let (subject, source) = (
            Subject::pod(&publish.pod),
            publish.attributes.source().to_owned(),
        );
        let published = self.mount(&publish, deadline).await;
        if let Err(status) = &published {
            tracing::warn!(volume = %publish.id, code = ?status.code(), why = status.message(), "not mounted");
        }
        match (subject, published) {
            (None, published) => published.map(drop),
            (Some(on), Ok(response)) => {
                self.events
                    .say(events::mounted(on.clone(), &source, &response));
                let start = Start {
                    volume: publish.id.on_node(&publish.target),
                    target: publish.target.as_str().to_owned(),
                    source,
                    on,
                };
                let (agent, events) = (self.agent.clone(), self.events.clone());
                self.starts.follow(start, agent, events);
                Ok(())
            }
            (Some(on), Err(status)) => {
                // Work that goes on is no failure, and kubelet asks again within seconds.
                if status.code() != Code::Aborted {
                    self.events
                        .say(events::failed(on, &source, status.message()));
                }
                Err(status)
            }
        }
    }

    async fn mount(
        &self,
        publish: &Publish,
        deadline: Deadline,
    ) -> Result<lamina_proto::lamina::v1::PublishResponse, Status> {
        if publish.usage.alone {
            self.alone(publish, deadline).await?;
        }
        let source = self.source(publish, deadline).await?;
        let response = self
            .agent
            .publish(deadline, publish.ask(source, Vec::new()))
            .await?;
        tracing::info!(volume = %publish.id, source = publish.attributes.source(), target = publish.target.as_str(),
            took_us = response.took_us, mode = response.mode, "mounted");
        Ok(response)
    }

    async fn source(&self, publish: &Publish, deadline: Deadline) -> Result<Source, Status> {
        let attributes = &publish.attributes;
        let credentials = |image: ImageSource| ImageSource {
            pull_policy: attributes.pull_policy.into(),
            docker_config_json: publish.secret.clone().into_bytes(),
            ..image
        };
        let from = match &attributes.from {
            From::Image(reference) => source::From::Image(credentials(ImageSource {
                reference: reference.clone(),
                platform: attributes.platform.clone(),
                ..ImageSource::default()
            })),
            From::Flist(flist) => {
                let flist = self.flist(publish, flist, deadline).await?;
                source::From::Flist(FlistSource {
                    image: flist.image.map(credentials),
                    ..flist
                })
            }
        };
        Ok(Source { from: Some(from) })
    }

    async fn flist(
        &self,
        publish: &Publish,
        flist: &FlistRef,
        deadline: Deadline,
    ) -> Result<FlistSource, Status> {
        match (flist, &self.cluster) {
            (FlistRef::Digest(digest), _) => Ok(flists::by_digest(digest.clone())),
            (FlistRef::Name(name), Some(client)) if !publish.pod.namespace.is_empty() => {
                flists::read(client, &publish.pod.namespace, name, deadline).await
            }
            (FlistRef::Name(name), _) => Err(flists::no_cluster(&publish.id, name)),
        }
    }

    /// Refuses a second target of a volume that only one pod may use.
    async fn alone(&self, publish: &Publish, deadline: Deadline) -> Result<(), Status> {
        let (here, prefix) = (
            publish.id.on_node(&publish.target),
            publish.id.node_prefix(),
        );
        let volumes = self.agent.volumes(deadline).await?;
        let other = volumes
            .iter()
            .find(|v| v.volume_id != here && v.volume_id.starts_with(&prefix));
        match other {
            None => Ok(()),
            Some(other) => Err(Status::failed_precondition(format!(
                "volume {} is for one pod at a time (ReadWriteOncePod) and is mounted at {} already",
                publish.id, other.target
            ))),
        }
    }
}

/// The pod that kubelet says the volume is for.
fn pod(context: &HashMap<String, String>) -> Pod {
    let get = |key: &str| {
        let value = context.get(&format!("csi.storage.k8s.io/pod.{key}"));
        value
            .filter(|v| v.len() <= 253)
            .cloned()
            .unwrap_or_default()
    };
    Pod {
        namespace: get("namespace"),
        name: get("name"),
        uid: get("uid"),
    }
}

/// What nobody has checked yet, fit for a sentence.
fn shown(text: &str) -> String {
    let plain = text.chars().filter(|c| !c.is_control());
    plain.take(SOURCE_MAX).collect()
}

fn refused(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

fn amount(usage: Usage, unit: Unit) -> VolumeUsage {
    let n = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    VolumeUsage {
        total: n(usage.total),
        used: n(usage.used),
        available: n(usage.available),
        unit: unit.into(),
    }
}

#[cfg(test)]
mod tests {
    use lamina_proto::csi::v1::VolumeCapability;
    use lamina_proto::csi::v1::node_server::Node as _;
    use lamina_proto::csi::v1::volume_capability::{AccessMode, AccessType, MountVolume};

    use super::*;

    /// `volume_context` of a pod's inline volume, as kubelet sends it.
    fn context(given: &[(&str, &str)]) -> HashMap<String, String> {
        let pod = [
            ("csi.storage.k8s.io/pod.name", "web"),
            ("csi.storage.k8s.io/pod.namespace", "shop"),
            ("csi.storage.k8s.io/pod.uid", "u"),
        ];
        let all = pod.iter().chain(given);
        all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[tokio::test]
    async fn a_volume_whose_attributes_are_wrong_says_so_on_its_pod() {
        let (events, mut notes) = Events::heard();
        let node = Node {
            name: "n".into(),
            agent: Agent::new("/nowhere".into()),
            events,
            cluster: None,
            calls: Arc::new(Calls::default()),
            starts: Starts::default(),
        };
        let capability = VolumeCapability {
            access_mode: Some(AccessMode { mode: 1 }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        };
        let ask = NodePublishVolumeRequest {
            volume_id: "csi-1".into(),
            target_path: "/var/lib/kubelet/pods/u/volumes/v/mount".into(),
            volume_capability: Some(capability),
            volume_context: context(&[(IMAGE, "python:3.13"), ("subpath", "usr")]),
            ..NodePublishVolumeRequest::default()
        };
        let status = node
            .node_publish_volume(Request::new(ask))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let note = notes.try_recv().unwrap();
        assert_eq!(
            (note.reason, note.on.name.as_str()),
            ("MountLaminaFailed", "web")
        );
        assert!(note.warning);
        assert!(
            note.text.starts_with("Could not mount python:3.13: ") && note.text.contains("subPath"),
            "{}",
            note.text
        );
    }
}
