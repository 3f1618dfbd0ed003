//! The Identity service, and the names of the driver.

use lamina_proto::csi::v1::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, PluginCapability, ProbeRequest, ProbeResponse, identity_server,
    plugin_capability::{self, service},
};
use tonic::{Request, Response, Status};

use crate::{agent::Agent, deadline::Deadline};

/// The driver's name; objects in clusters refer to it, it never changes.
pub const DRIVER: &str = "csi.lamina.dev";

/// Who answers.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The controller service is served beside it.
    pub controller: bool,
    /// The node server it depends on, for the node role.
    pub agent: Option<Agent>,
}

#[tonic::async_trait]
impl identity_server::Identity for Identity {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: DRIVER.into(),
            vendor_version: env!("CARGO_PKG_VERSION").into(),
            manifest: std::collections::HashMap::new(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let service = |kind: service::Type| PluginCapability {
            r#type: Some(plugin_capability::Type::Service(
                plugin_capability::Service {
                    r#type: kind.into(),
                },
            )),
        };
        let controller = self
            .controller
            .then(|| service(service::Type::ControllerService));
        Ok(Response::new(GetPluginCapabilitiesResponse {
            capabilities: controller.into_iter().collect(),
        }))
    }

    async fn probe(
        &self,
        request: Request<ProbeRequest>,
    ) -> Result<Response<ProbeResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        // Ready means that volumes can be mounted; without that the driver still answers every call.
        let ready = match &self.agent {
            Some(agent) => agent.info(deadline).await.is_ok(),
            None => true,
        };
        Ok(Response::new(ProbeResponse { ready: Some(ready) }))
    }
}
