//! Certificates on both sides.

use std::path::PathBuf;

use lamina_discovery::tls::Certificates;
use lamina_proto::afsletpb::GetRuntimeStatusRequest;
use lamina_proto::afsletpb::afslet_client::AfsletClient;
use lamina_proto::afsproxy::v1::afs_proxy_client::AfsProxyClient;
use lamina_proto::afsproxy::v1::{ReconcileImageReplicaRequest, StatusRequest};
use lamina_proxy::Security;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Server};

use crate::bench::{Bench, config};
use crate::client::{execute_on, start};
use crate::fake::Fake;

struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            dir: tempfile::tempdir().unwrap(),
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    fn issue(&self, names: &[&str]) -> PathBuf {
        let dir = self.dir.path().join(names.join("-"));
        std::fs::create_dir_all(&dir).unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(dir.join("tls.crt"), certificate.pem()).unwrap();
        std::fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
        std::fs::write(dir.join("ca.crt"), &self.pem).unwrap();
        dir
    }

    fn certificates(&self, names: &[&str]) -> Certificates {
        Certificates::read(&self.issue(names)).unwrap()
    }

    /// A caller with these names, of a server that must be a proxy.
    async fn call(
        &self,
        proxy: &Bench,
        names: &[&str],
    ) -> Result<Channel, tonic::transport::Error> {
        let tls = self.certificates(names).client("proxy.lamina.internal");
        let endpoint = Endpoint::from_shared(format!("https://{}", proxy.at))?;
        endpoint.tls_config(tls)?.connect().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_are_clients_by_their_certificates_and_afslets_are_afslets() {
    let authority = Authority::new();
    let server = |name: &str| {
        let certificates = authority.certificates(&[name]);
        Server::builder().tls_config(certificates.server()).unwrap()
    };
    let afslet = Fake::secured("n1", 4, 400, server("afslet.lamina.internal")).await;
    // It has a certificate of the authority, and is none.
    let other = Fake::secured("n2", 64, 6400, server("node.lamina.internal")).await;
    let mut config = config(&[&afslet, &other]);
    let own = authority.issue(&["proxy.lamina.internal", "client.lamina.internal"]);
    config.security = Security::Mutual(own);
    let proxy = Bench::start(config);
    let client = authority
        .call(&proxy, &["client.lamina.internal"])
        .await
        .unwrap();
    for _ in 0..4 {
        let told = execute_on(client.clone(), start(1, 1), Vec::new()).await;
        assert_eq!(
            (told.is_done(), told.node()),
            (true, Some("n1")),
            "{told:?}"
        );
    }
    let peer = authority
        .call(&proxy, &["n7", "peer.lamina.internal"])
        .await
        .unwrap();
    let told = execute_on(peer.clone(), start(1, 1), Vec::new()).await;
    assert_eq!(told.status().code(), Code::PermissionDenied);
    assert!(told.status().message().contains("n7"), "{told:?}");
    let mut status = AfsletClient::new(peer.clone());
    let refused = status.get_runtime_status(GetRuntimeStatusRequest {}).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let mut status = AfsProxyClient::new(peer);
    let refused = status.status(StatusRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let user = authority
        .call(&proxy, &["user.lamina.internal"])
        .await
        .unwrap();
    let told = execute_on(user.clone(), start(1, 1), Vec::new()).await;
    assert!(told.is_done(), "{told:?}");
    let mut user = AfsProxyClient::new(user);
    user.status(StatusRequest::default()).await.unwrap();
    let wanted = ReconcileImageReplicaRequest::default();
    let refused = user.reconcile_image_replica(wanted.clone()).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let refused = AfsProxyClient::new(client)
        .reconcile_image_replica(wanted)
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let stranger = Authority::new();
    let refused = stranger.call(&proxy, &["client.lamina.internal"]).await;
    assert!(refused.is_err());
    afslet.see(|seen| assert_eq!(seen.offered, 5));
    other.see(|seen| assert_eq!(seen.offered, 0));
}
