//! Kubelet's registration: kubelet finds our socket in its directory, asks who is there, and says whether
//! it took us. It does so again whenever it starts, and whenever the socket is made anew.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use lamina_proto::pluginregistration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse, registration_server,
};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use crate::identity::DRIVER;

/// What kubelet asks for the version of CSI.
const VERSION: &str = "1.0.0";

/// The service.
#[derive(Debug, Clone)]
pub struct Registration {
    endpoint: PathBuf,
    refused: Arc<Mutex<Option<oneshot::Sender<String>>>>,
}

impl Registration {
    /// For a driver whose socket kubelet sees as `endpoint`. The receiver gets kubelet's reason if it
    /// refuses us, which only another start can change.
    pub fn new(endpoint: PathBuf) -> (Self, oneshot::Receiver<String>) {
        let (refused, why) = oneshot::channel();
        let refused = Arc::new(Mutex::new(Some(refused)));
        (Self { endpoint, refused }, why)
    }

    /// Where the socket for kubelet belongs.
    ///
    /// The `@` matters: kubelet gives the socket's path, percent-encoded, as the `:authority` of its calls,
    /// and an HTTP/2 server that keeps to RFC 3986 section 3.2 takes percent signs only in front of an `@`
    /// (kubernetes issue 108254). grpc-go leaves that sign as it is.
    pub fn socket(directory: &Path) -> PathBuf {
        directory.join(format!("{DRIVER}@reg.sock"))
    }
}

#[tonic::async_trait]
impl registration_server::Registration for Registration {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".into(),
            name: DRIVER.into(),
            endpoint: self.endpoint.display().to_string(),
            supported_versions: vec![VERSION.into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            tracing::info!("kubelet registered the driver");
        } else {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(refused) = refused.take() {
                let _ = refused.send(status.error);
            }
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
