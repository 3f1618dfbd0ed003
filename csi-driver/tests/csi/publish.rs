//! Mounting and unmounting, what reaches the node server, and what becomes of its failures.

use lamina_proto::{
    csi::v1::{NodeGetVolumeStatsRequest, volume_capability::access_mode::Mode},
    lamina::v1::{OverlayMedium, PullPolicy, Warm, source::From},
};
use tonic::{Code, Request};

use crate::driver::{Driver, capability, publish, unpublish};

const AT: &str = "/var/lib/kubelet/pods/p/volumes/v/mount";

#[tokio::test]
async fn a_volume_reaches_the_node_as_its_attributes_say() {
    let mut driver = Driver::start(&[]).await;
    let id = format!("csi-{}", "a".repeat(64));
    let mut ask = publish(&id, &format!("{AT}/"));
    for (key, value) in [
        ("mode", "rw"),
        ("overlaySize", "512Mi"),
        ("overlayMedium", "disk"),
        ("subPath", "usr/lib"),
        ("prefetch", "all"),
        ("pullPolicy", "Always"),
        ("platform", "linux/arm64"),
        ("csi.storage.k8s.io/pod.name", "p"),
        ("csi.storage.k8s.io/pod.namespace", "ns"),
        ("csi.storage.k8s.io/pod.uid", "u"),
    ] {
        ask.volume_context.insert(key.into(), value.into());
    }
    ask.secrets
        .insert(".dockerconfigjson".into(), r#"{"auths":{}}"#.into());
    driver.node.node_publish_volume(ask.clone()).await.unwrap();
    let got = driver.fake.model.lock().unwrap().volumes[&id].clone();
    assert_eq!(
        (got.target.as_str(), got.sub_path.as_str()),
        (AT, "usr/lib")
    );
    assert_eq!((got.writable, got.overlay_bytes_max), (true, 512 << 20));
    assert_eq!(got.overlay_medium(), OverlayMedium::Disk);
    assert_eq!(got.prefetch(), Warm::All);
    assert_eq!(got.pod.unwrap().namespace, "ns");
    let Some(From::Image(image)) = got.source.unwrap().from else {
        panic!("no image")
    };
    assert_eq!(
        (image.reference.as_str(), image.platform.as_str()),
        ("python:3.13", "linux/arm64")
    );
    assert_eq!(image.pull_policy(), PullPolicy::Always);
    assert_eq!(image.docker_config_json, br#"{"auths":{}}"#);

    // A pod that mounts it read-only gets it so.
    ask.readonly = true;
    ask.target_path = format!("{AT}2");
    ask.volume_id = "static".into();
    driver.node.node_publish_volume(ask).await.unwrap();
    let model = driver.fake.model.lock().unwrap();
    assert!(
        model
            .volumes
            .values()
            .any(|v| !v.writable && v.overlay_bytes_max == 0)
    );
}

#[tokio::test]
async fn one_volume_in_two_pods_is_two_mounts() {
    let mut driver = Driver::start(&[]).await;
    for at in ["/k/a", "/k/b", "/k/a"] {
        driver
            .node
            .node_publish_volume(publish("pv", at))
            .await
            .unwrap();
    }
    assert_eq!(driver.fake.model.lock().unwrap().volumes.len(), 2);
    driver
        .node
        .node_unpublish_volume(unpublish("pv", "/k/a/"))
        .await
        .unwrap();
    let left: Vec<_> = driver
        .fake
        .model
        .lock()
        .unwrap()
        .volumes
        .values()
        .cloned()
        .collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].target, "/k/b");
}

#[tokio::test]
async fn a_volume_for_one_pod_is_refused_to_the_second() {
    let mut driver = Driver::start(&[]).await;
    let mut ask = publish("pv", "/k/a");
    ask.volume_capability = Some(capability(Mode::SingleNodeSingleWriter));
    driver.node.node_publish_volume(ask.clone()).await.unwrap();
    driver.node.node_publish_volume(ask.clone()).await.unwrap();
    ask.target_path = "/k/b".into();
    let refused = driver.node.node_publish_volume(ask).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("/k/a"), "{refused}");
}

#[tokio::test]
async fn work_that_outlasts_a_call_is_aborted_and_later_found_done() {
    let mut driver = Driver::start(&[]).await;
    let gate = driver.fake.gate.clone();
    gate.forget_permits(gate.available_permits());
    let mut ask = Request::new(publish("pv", "/k/a"));
    // Long enough that the margin for passing the answer on is more than a busy machine's hiccup.
    ask.set_timeout(std::time::Duration::from_secs(4));
    let late = driver.node.node_publish_volume(ask).await.unwrap_err();
    assert_eq!(late.code(), Code::Aborted, "{late}");
    gate.add_permits(8);
    loop {
        match driver.node.node_publish_volume(publish("pv", "/k/a")).await {
            Ok(_) => break,
            Err(status) => assert_eq!(status.code(), Code::Aborted, "{status}"),
        }
    }
    assert_eq!(driver.fake.model.lock().unwrap().volumes.len(), 1);
}

#[tokio::test]
async fn without_a_node_server_kubelet_is_told_to_come_again() {
    let mut driver = Driver::start(&[]).await;
    std::fs::remove_file(driver.dir.path().join("node.sock")).unwrap();
    let status = driver
        .node
        .node_publish_volume(publish("pv", "/k/a"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("lamina-node"), "{status}");
}

#[tokio::test]
async fn statistics_come_with_a_condition() {
    let mut driver = Driver::start(&[]).await;
    driver
        .node
        .node_publish_volume(publish("pv", "/k/a"))
        .await
        .unwrap();
    let ask = |path: &str| NodeGetVolumeStatsRequest {
        volume_id: "pv".into(),
        volume_path: path.into(),
        ..NodeGetVolumeStatsRequest::default()
    };
    let stats = driver
        .node
        .node_get_volume_stats(ask("/k/a"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(stats.usage.len(), 2);
    assert!(!stats.volume_condition.unwrap().message.is_empty());
    for path in ["/k/b", "some/path", "/k/../k/a"] {
        let status = driver
            .node
            .node_get_volume_stats(ask(path))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{path}");
    }
}

#[tokio::test]
async fn a_stop_leaves_no_socket() {
    let driver = Driver::start(&[]).await;
    let dir = driver.end().await;
    assert!(!dir.path().join("csi.sock").exists());
}
