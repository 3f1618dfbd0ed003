//! Kubelet finds the driver, and refuses it.

use lamina_proto::pluginregistration::{
    InfoRequest, RegistrationStatus, registration_client::RegistrationClient,
};

use crate::driver::{Driver, connect_as_kubelet};

const ARGS: [&str; 4] = [
    "--registration-dir",
    "DIR/reg",
    "--kubelet-plugin-dir",
    "/plugins/x",
];

#[tokio::test]
async fn kubelet_is_told_where_the_driver_is() {
    let driver = Driver::start(&ARGS).await;
    let socket = driver.dir.path().join("reg/csi.lamina.dev@reg.sock");
    let mut kubelet = RegistrationClient::new(connect_as_kubelet(socket.clone()).await);
    let info = kubelet.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (info.r#type.as_str(), info.name.as_str()),
        ("CSIPlugin", "csi.lamina.dev")
    );
    assert_eq!(info.endpoint, "/plugins/x/csi.sock");
    assert_eq!(info.supported_versions, ["1.0.0"]);
    let taken = RegistrationStatus {
        plugin_registered: true,
        error: String::new(),
    };
    kubelet.notify_registration_status(taken).await.unwrap();
    drop(kubelet);
    let _dir = driver.end().await;
    assert!(!socket.exists());
}

#[tokio::test]
#[should_panic(expected = "kubelet refused the driver: no room")]
async fn a_refusal_ends_the_process_with_its_reason() {
    let driver = Driver::start(&ARGS).await;
    let socket = driver.dir.path().join("reg/csi.lamina.dev@reg.sock");
    let mut kubelet = RegistrationClient::new(connect_as_kubelet(socket).await);
    let refused = RegistrationStatus {
        plugin_registered: false,
        error: "no room".into(),
    };
    let _ = kubelet.notify_registration_status(refused).await;
    driver.ended().await.unwrap();
}
