//! Heartbeats that say what is other than before: between our own parts, and with others that do not know them.

use std::sync::{Arc, Mutex};

use lamina_discovery::Limits;
use lamina_discovery::service::Identity;
use lamina_proto::discovery::v1::service_discovery_client::ServiceDiscoveryClient;
use lamina_proto::discovery::v1::service_discovery_server::{
    ServiceDiscovery, ServiceDiscoveryServer,
};
use lamina_proto::discovery::v1::{
    FindImageProviderRequest, FindImageProviderResponse, FindImageRequest, FindImageResponse,
    FindProviderRequest, FindProviderResponse, HeartbeatRequest, HeartbeatResponse,
    ResolveImageRequest, ResolveImageResponse,
};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

use crate::replica::{Hands, Replica, client, digest, holds, service, until};

/// Takes heartbeats and keeps them; with `knows_states` it confirms as ours do, else as the public project's does.
#[derive(Clone, Default)]
struct Listener {
    knows_states: bool,
    heard: Arc<Mutex<Vec<HeartbeatRequest>>>,
}

impl Listener {
    fn serve(knows_states: bool) -> (Self, std::net::SocketAddr) {
        let this = Self {
            knows_states,
            ..Self::default()
        };
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let at = incoming.local_addr().unwrap();
        let serving = Server::builder().add_service(ServiceDiscoveryServer::new(this.clone()));
        tokio::spawn(serving.serve_with_incoming(incoming));
        (this, at)
    }

    fn heard(&self) -> Vec<HeartbeatRequest> {
        self.heard.lock().unwrap().clone()
    }
}

#[tonic::async_trait]
impl ServiceDiscovery for Listener {
    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let said = request.into_inner();
        let state = self.knows_states.then(|| said.state.clone());
        self.heard.lock().unwrap().push(said);
        Ok(Response::new(HeartbeatResponse {
            expires_in_seconds: 3,
            state: state.unwrap_or_default(),
        }))
    }

    async fn resolve_image(
        &self,
        _: Request<ResolveImageRequest>,
    ) -> Result<Response<ResolveImageResponse>, Status> {
        Err(Status::unimplemented("it only listens"))
    }

    async fn find_provider(
        &self,
        _: Request<FindProviderRequest>,
    ) -> Result<Response<FindProviderResponse>, Status> {
        Err(Status::unimplemented("it only listens"))
    }

    async fn find_image_provider(
        &self,
        _: Request<FindImageProviderRequest>,
    ) -> Result<Response<FindImageProviderResponse>, Status> {
        Err(Status::unimplemented("it only listens"))
    }

    async fn find_image(
        &self,
        _: Request<FindImageRequest>,
    ) -> Result<Response<FindImageResponse>, Status> {
        Err(Status::unimplemented("it only listens"))
    }
}

#[tokio::test]
async fn one_that_confirms_states_is_told_changes_alone() {
    let (listener, at) = Listener::serve(true);
    let node = client(&[at]);
    node.report(holds("a", [1, 2]));
    until("it is told everything", async || {
        listener.heard().len() == 1
    })
    .await;
    node.report(holds("a", [2, 3]));
    until("it is told the change", async || listener.heard().len() > 1).await;
    let heard = listener.heard();
    assert_eq!(heard[0].layer_digests.len(), 2);
    assert!(heard[0].since.is_empty());
    assert_eq!(heard[1].layer_digests, [digest(3).to_string()]);
    assert_eq!(heard[1].removed_layer_digests, [digest(1).to_string()]);
    assert_eq!(heard[1].since, heard[0].state);
}

#[tokio::test]
async fn one_that_does_not_is_always_told_everything() {
    let (listener, at) = Listener::serve(false);
    let node = client(&[at]);
    for number in 1..4 {
        node.report(holds("a", 0..number));
        let count = number as usize;
        until("it is told", async || listener.heard().len() >= count).await;
        let last = listener.heard().pop().unwrap();
        assert_eq!(last.layer_digests.len(), count);
        assert!(last.since.is_empty());
    }
}

#[tokio::test]
async fn a_replica_takes_changes_and_says_when_it_cannot() {
    let clock = Hands::default().clock();
    let replica = Replica::start(service(Limits::default(), Identity::Anyone, clock), None);
    let at = format!("http://{}", replica.at);
    let mut client = ServiceDiscoveryClient::connect(at).await.unwrap();
    let whole = HeartbeatRequest {
        state: vec![1],
        ..holds("a", [1, 2])
    };
    let change = HeartbeatRequest {
        since: vec![1],
        state: vec![2],
        removed_layer_digests: vec![digest(1).to_string()],
        ..holds("a", [3])
    };
    let told = client.heartbeat(change.clone()).await.unwrap().into_inner();
    assert!(told.state.is_empty(), "it does not know the node");
    let told = client.heartbeat(whole).await.unwrap().into_inner();
    assert_eq!(told.state, [1]);
    let told = client.heartbeat(change.clone()).await.unwrap().into_inner();
    assert_eq!(told.state, [2]);
    let told = client.heartbeat(change.clone()).await.unwrap().into_inner();
    assert_eq!(told.state, [2], "it was taken in before");
    let all = client
        .find_image(FindImageRequest::default())
        .await
        .unwrap();
    let held = &all.into_inner().services[0].layer_digests;
    assert_eq!(held, &[digest(2).to_string(), digest(3).to_string()]);
    for (field, bad) in [
        (
            "since: ",
            HeartbeatRequest {
                since: vec![0; 33],
                ..change.clone()
            },
        ),
        (
            "removed_layer_digests[0]: ",
            HeartbeatRequest {
                removed_layer_digests: vec!["x".into()],
                ..change.clone()
            },
        ),
        (
            "removed_layer_digests: ",
            HeartbeatRequest {
                removed_layer_digests: vec![digest(3).to_string()],
                ..change.clone()
            },
        ),
        (
            "removed_images[0]: ",
            HeartbeatRequest {
                removed_images: vec![String::new()],
                ..change.clone()
            },
        ),
    ] {
        let refused = client.heartbeat(bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{refused:?}");
    }
}
