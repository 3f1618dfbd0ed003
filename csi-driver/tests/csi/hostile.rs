//! Ids, paths and attributes that want to reach elsewhere: refused with the right code, and nothing of them
//! reaches the node server.

use tonic::Code;

use crate::driver::{Driver, publish, unpublish};

#[tokio::test]
async fn nothing_hostile_reaches_the_node() {
    let mut driver = Driver::start(&[]).await;
    let huge = "a".repeat(10 << 10);
    let path = format!("/k/{huge}");
    for (id, target) in [
        ("", "/k/a"),
        ("..", "/k/a"),
        ("../../etc", "/k/a"),
        ("a/b", "/k/a"),
        ("a\0b", "/k/a"),
        (huge.as_str(), "/k/a"),
        ("v", ""),
        ("v", "/"),
        ("v", "relative"),
        ("v", "/k/../etc"),
        ("v", "/k/./a"),
        ("v", "/k/a\0b"),
        ("v", path.as_str()),
    ] {
        let status = driver
            .node
            .node_publish_volume(publish(id, target))
            .await
            .unwrap_err();
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "{id:.20?} {target:.20?}"
        );
        assert!(status.message().len() < 500, "{status}");
        let status = driver
            .node
            .node_unpublish_volume(unpublish(id, target))
            .await
            .unwrap_err();
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "{id:.20?} {target:.20?}"
        );
    }
    let million = "a".repeat(1 << 20);
    for (key, value) in [
        ("lamina.dev/flist", "x"),
        ("unknown", "x"),
        ("mountOptions", "suid,dev"),
        ("upperdir", "/etc"),
        ("subPath", "../../etc"),
        ("subPath", million.as_str()),
        ("overlaySize", "1Gi"),
        ("mode", "rwx"),
        (million.as_str(), "x"),
    ] {
        let mut ask = publish("v", "/k/a");
        ask.volume_context.insert(key.into(), value.into());
        let status = driver.node.node_publish_volume(ask).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{key:.40} {status}");
        assert!(status.message().len() < 1000, "{key:.40}");
    }
    let mut named = publish("v", "/k/a");
    named.volume_context = [("lamina.dev/flist".into(), "name".into())].into();
    let status = driver.node.node_publish_volume(named).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let mut secret = publish("v", "/k/a");
    secret
        .secrets
        .insert(".dockerconfigjson".into(), "hunter2".into());
    let status = driver.node.node_publish_volume(secret).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(!status.message().contains("hunter2"));
    let mut large = publish("v", "/k/a");
    large
        .volume_context
        .insert("csi.storage.k8s.io/x".into(), "a".repeat(5 << 20));
    assert!(driver.node.node_publish_volume(large).await.is_err());
    let model = driver.fake.model.lock().unwrap();
    assert_eq!((model.publishes, model.volumes.len()), (0, 0));
}
