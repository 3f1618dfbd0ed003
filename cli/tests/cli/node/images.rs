//! Volumes of images and archives: from a registry in this process to a mount, through the service.

#[path = "../../../../nodeagent/src/test_registry.rs"]
pub(crate) mod server;

use super::*;
use server::{Server, noise, tar};

/// Layers' bytes are asked for by these.
const GETS: &str = "GET /v2/a/b/blobs/";
/// `me:secret`, as HTTP's Basic scheme says it.
const BASIC: &str = "bWU6c2VjcmV0";

fn image(server: &Server, docker_config_json: &str) -> api::Source {
    tagged(server, ":t", docker_config_json)
}

fn tagged(server: &Server, tag: &str, docker_config_json: &str) -> api::Source {
    let image = api::ImageSource {
        reference: server.image(tag),
        docker_config_json: docker_config_json.into(),
        pull_policy: api::PullPolicy::IfNotPresent.into(),
        ..api::ImageSource::default()
    };
    api::Source {
        from: Some(api::source::From::Image(image)),
    }
}

fn order(node: &Node, id: &str, source: &api::Source) -> api::PublishRequest {
    api::PublishRequest {
        source: Some(source.clone()),
        ..node.order(id)
    }
}

/// A server with an image of one file, and the file's bytes.
fn registry() -> (Server, Vec<u8>) {
    let (server, bytes) = (Server::start(), noise(1, 300_000));
    server.push("t", &[tar("data", &bytes)]);
    (server, bytes)
}

#[test]
fn an_image_is_converted_for_its_first_volume_and_local_for_the_next() {
    let (server, bytes) = registry();
    let node = Node::new();
    let first = order(&node, "first", &image(&server, ""));
    let published = node.publish(&first).unwrap();
    let flist = published.flist.unwrap();
    assert_eq!((flist.entries, flist.bytes), (1, 300_000));
    assert!(flist.manifest.starts_with("sha256:") && published.ensure_us > 0);
    assert_eq!(
        std::fs::read(node.target("first").join("data")).unwrap(),
        bytes
    );
    let asked = server.count(GETS);
    let second = order(&node, "second", &image(&server, ""));
    let again = node.publish(&second).unwrap();
    assert_eq!(again.flist.unwrap().digest, flist.digest);
    assert_eq!(server.count(GETS), asked, "no layer is fetched twice");
    assert_eq!(
        std::fs::read(node.target("second").join("data")).unwrap(),
        bytes
    );
    for order in [first, second] {
        node.unpublish_order(&order);
    }
    // What was converted is shown without the registry.
    drop(server);
    let third = api::PublishRequest {
        source: Some(api::Source {
            from: Some(api::source::From::Flist(api::FlistSource {
                digest: flist.digest,
                ..api::FlistSource::default()
            })),
        }),
        ..node.order("third")
    };
    node.publish(&third).unwrap();
    assert_eq!(
        std::fs::read(node.target("third").join("data")).unwrap(),
        bytes
    );
    node.unpublish_order(&third);
    assert!(node.is_clean());
}

#[test]
fn a_private_image_is_only_for_who_has_its_credentials_and_they_are_not_kept() {
    let (server, bytes) = registry();
    server.content.lock().unwrap().authorization = Some(format!("Basic {BASIC}"));
    let node = Node::new();
    let config = format!(
        r#"{{"auths":{{"{}":{{"auth":"{BASIC}"}}}}}}"#,
        server.address
    );
    let stranger = order(&node, "stranger", &image(&server, ""));
    assert_eq!(code(node.publish(&stranger)), Code::PermissionDenied);
    let owner = order(&node, "owner", &image(&server, &config));
    node.publish(&owner).unwrap();
    assert_eq!(
        std::fs::read(node.target("owner").join("data")).unwrap(),
        bytes
    );
    assert_eq!(
        code(node.publish(&stranger)),
        Code::PermissionDenied,
        "although the node has it"
    );
    assert!(!node.target("stranger").exists());
    let found = Command::new("grep")
        .args(["-rlaE", &format!("{BASIC}|me:secret")])
        .args([node.machine.path("state"), node.machine.path("store")])
        .args([node.machine.path("run"), node.machine.path("node.log")])
        .output()
        .unwrap();
    assert_eq!(text(&found.stdout), "", "credentials are nowhere");
    node.unpublish_order(&owner);
    assert!(node.is_clean());
}

#[test]
fn a_publish_that_converts_for_too_long_is_aborted_and_found_done_later() {
    let (server, bytes) = registry();
    server.content.lock().unwrap().stalled = true;
    let node = Node::new();
    let order = order(&node, "v", &image(&server, ""));
    for _ in ["begins it", "waits for it"] {
        let mut request = Request::new(order.clone());
        request.set_timeout(Duration::from_secs(5));
        let mut client = node.client().unwrap();
        let late = node.runtime.block_on(client.publish(request)).unwrap_err();
        assert_eq!(late.code(), Code::Aborted, "{late:?}");
    }
    let asked = server.count(GETS);
    server.content.lock().unwrap().stalled = false;
    node.publish(&order).unwrap();
    assert_eq!(server.count(GETS), asked, "the first call's work went on");
    assert_eq!(std::fs::read(node.target("v").join("data")).unwrap(), bytes);
    node.unpublish_order(&order);
    assert!(node.is_clean());
}

#[test]
fn unpublishing_or_leaving_calls_off_a_publish_that_converts() {
    let (server, _) = registry();
    server.content.lock().unwrap().stalled = true;
    let node = Node::new();
    for leaves in [false, true] {
        let order = order(&node, "v", &image(&server, ""));
        let publishing = std::thread::spawn({
            let (mut client, order) = (node.client().unwrap(), order.clone());
            let handle = node.runtime.handle().clone();
            move || handle.block_on(client.publish(order)).map(drop)
        });
        assert!(wait_until(|| !node.volumes().is_empty()));
        if leaves {
            let mut care = care(&node);
            let left = care.leave(api::LeaveRequest { force: true });
            node.runtime.block_on(left).unwrap();
        } else {
            node.unpublish_order(&order);
        }
        let called_off = publishing.join().unwrap().unwrap_err();
        assert_eq!(called_off.code(), Code::Aborted, "{called_off:?}");
        assert!(!node.target("v").exists());
    }
    assert_eq!(node.machine.daemons(), [] as [i32; 0]);
    server.content.lock().unwrap().stalled = false;
}

#[test]
fn an_archive_is_shown_if_it_is_the_one_that_was_named() {
    let server = Server::start();
    let bytes = noise(2, 100_000);
    let archive = tar("data", &bytes);
    let sha256 = lamina_image::manifest::sha256(&archive).to_string();
    let sha256 = sha256.trim_start_matches("sha256:").to_owned();
    let mut content = server.content.lock().unwrap();
    content.files.insert("/a.tar".into(), archive);
    drop(content);
    let node = Node::new();
    let source = |path: &str, sha256: &str| api::Source {
        from: Some(api::source::From::Archive(api::ArchiveSource {
            url: format!("http://{}/{path}", server.address),
            sha256: sha256.into(),
        })),
    };
    for (id, sha256) in [("unchecked", ""), ("checked", &sha256)] {
        let order = order(&node, id, &source("a.tar", sha256));
        node.publish(&order).unwrap();
        assert_eq!(std::fs::read(node.target(id).join("data")).unwrap(), bytes);
        node.unpublish_order(&order);
    }
    let wrong = order(&node, "wrong", &source("a.tar", &"0".repeat(64)));
    assert_eq!(code(node.publish(&wrong)), Code::DataLoss);
    let missing = order(&node, "missing", &source("none.tar", ""));
    assert_eq!(code(node.publish(&missing)), Code::NotFound);
    assert!(node.is_clean() && node.volumes().is_empty());
}

#[test]
fn stores_take_parts_of_the_names_and_their_passwords_are_in_no_log() {
    let stores = tempfile::tempdir().unwrap();
    let half = |range: &str| format!("{range}=dir://{}/{range}", stores.path().display());
    let (low, high) = (half("00-7f"), half("80-ff"));
    let (server, bytes) = registry();
    let node = Node::started_by(&[], &["--store", &low, "--store", &high]);
    let order = order(&node, "v", &image(&server, ""));
    node.publish(&order).unwrap();
    assert_eq!(std::fs::read(node.target("v").join("data")).unwrap(), bytes);
    // An image is a few objects, whose names begin with anything: of many, some are in each half.
    for number in 0..16 {
        let tag = format!("t{number}");
        server.push(&tag, &[tar("data", &noise(number, 1000))]);
        let more = tagged(&server, &format!(":{tag}"), "");
        node.publish(&self::order(&node, &tag, &more)).unwrap();
        node.unpublish_order(&self::order(&node, &tag, &more));
    }
    for range in ["00-7f", "80-ff"] {
        let written = std::fs::read_dir(stores.path().join(range)).unwrap();
        assert!(written.count() > 0, "{range}");
    }
    let closed = free_port();
    let secret = |range: &str| format!("{range}=http://me:hunter2@127.0.0.1:{closed}/x");
    let absent = api::FlistSource {
        digest: "0".repeat(64),
        stores: vec![secret("00-7f"), secret("80-ff")],
        ..api::FlistSource::default()
    };
    let absent = api::Source {
        from: Some(api::source::From::Flist(absent)),
    };
    let ensure = api::EnsureRequest {
        source: Some(absent.clone()),
        stores: vec![secret("00-7f"), secret("80-ff")],
        ..api::EnsureRequest::default()
    };
    let mut client = node.client().unwrap();
    let failed = node.runtime.block_on(async {
        let mut progress = client.ensure(ensure).await?.into_inner();
        while progress.message().await?.is_some() {}
        Ok::<_, Status>(())
    });
    let failed = failed.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable, "{failed:?}");
    let elsewhere = api::PublishRequest {
        source: Some(absent),
        stores: vec![secret("00-7f"), secret("80-ff")],
        ..node.order("w")
    };
    let refused = node.publish(&elsewhere).unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let log = std::fs::read_to_string(node.machine.path("node.log")).unwrap();
    let said = [failed.message(), refused.message(), &log].concat();
    assert!(
        said.contains("Ensure") && !said.contains("hunter2"),
        "{said}"
    );
    node.unpublish_order(&order);
}
