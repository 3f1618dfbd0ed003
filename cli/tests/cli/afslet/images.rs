//! Runs on images of a registry: what the image says applies, tags are believed for a while, mounts are shared and few.

use super::support::{Afslet, Ran};
use crate::node::images::server::Server;
use lamina_proto::afsletpb::StartRequest;
use serde_json::json;
use tonic::Code;

/// `me:secret`, as HTTP's Basic scheme says it.
const BASIC: &str = "bWU6c2VjcmV0";

/// A layer with busybox and a file.
fn layer(word: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |path: &str, bytes: &[u8], mode| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes).unwrap();
    };
    put(
        "bin/busybox",
        &std::fs::read("/bin/busybox").unwrap(),
        0o755,
    );
    put("word", word.as_bytes(), 0o644);
    tar.into_inner().unwrap()
}

fn push(server: &Server, tag: &str, word: &str) -> String {
    let said = json!({
        "Entrypoint": ["/bin/busybox"], "Cmd": ["echo", "default"], "Env": ["X=image", "Y=image"],
        "WorkingDir": "/srv/app", "User": "33:34",
    });
    server.push_saying(tag, &[layer(word)], &said)
}

fn start(server: &Server, command: &[&str]) -> StartRequest {
    StartRequest {
        image: server.image(""),
        tag: "t".into(),
        command: command.iter().map(|&word| word.into()).collect(),
        cpu_cores: 1,
        memory_mb: 64,
        ..StartRequest::default()
    }
}

fn word(ran: &Ran) -> &str {
    assert!(ran.done.is_some(), "{ran:?}");
    &ran.out
}

#[test]
fn what_an_image_says_applies_and_tags_are_believed_until_asked_anew() {
    let server = Server::start();
    let first = push(&server, "t", "one");
    let afslet = Afslet::new(&["--warm", "1"]);
    let ran = afslet.run(start(&server, &[]));
    assert_eq!(ran.out, "default\n", "{ran:?}\n{}", afslet.logs());
    let asked = server.count("GET ");
    let script = "echo $X $Y $PWD $(/bin/busybox id -u) $(/bin/busybox id -g)";
    let ran = afslet.run(StartRequest {
        env: vec!["Y=mine".into()],
        ..start(&server, &["sh", "-c", script])
    });
    assert_eq!(word(&ran), "image mine /srv/app 33 34\n");
    let ran = afslet.run(StartRequest {
        entrypoint: vec!["/bin/busybox".into(), "printf".into()],
        user: "0".into(),
        ..start(&server, &["%s", "printed"])
    });
    assert_eq!(word(&ran), "printed");
    assert_eq!(server.count("GET "), asked, "a warm image asks nobody");

    push(&server, "t", "two");
    let cat = || start(&server, &["cat", "/word"]);
    assert_eq!(word(&afslet.run(cat())), "one");
    let anew = StartRequest {
        force_local_fetch: true,
        ..cat()
    };
    assert_eq!(word(&afslet.run(anew)), "two");
    assert_eq!(word(&afslet.run(cat())), "two");
    let pinned = StartRequest {
        tag: first,
        ..cat()
    };
    assert_eq!(word(&afslet.run(pinned)), "one");
    assert_eq!(afslet.images(), 2);
    let warm = afslet.status().warm_images;
    assert!(
        warm[0].contains("/a/b|sha256:") && warm[1].contains("/a/b|t|linux|"),
        "{warm:?}"
    );
    let unknown = StartRequest {
        tag: "no-such".into(),
        ..cat()
    };
    let ran = afslet.run(unknown);
    assert_eq!(ran.code(), Code::NotFound, "{ran:?}");
    afslet.assert_nothing_left_but(1);
}

#[test]
fn nobody_gets_an_image_that_the_registry_does_not_show_them() {
    let server = Server::start();
    push(&server, "t", "secret");
    server.content.lock().unwrap().authorization = Some(format!("Basic {BASIC}"));
    let afslet = Afslet::new(&["--warm", "0"]);
    let config = json!({"auths": {server.address.to_string(): {"auth": BASIC}}}).to_string();
    let mine = StartRequest {
        docker_config_json: config.into_bytes(),
        ..start(&server, &["cat", "/word"])
    };
    assert_eq!(word(&afslet.run(mine)), "secret");
    let ran = afslet.run(start(&server, &["cat", "/word"]));
    assert_eq!(ran.code(), Code::PermissionDenied, "{ran:?}");
    assert!(ran.accepted.is_none() && !ran.said().contains(BASIC));
}

#[test]
fn images_that_nobody_uses_are_few() {
    let server = Server::start();
    let afslet = Afslet::new(&["--warm", "0", "--images-max", "1"]);
    for tag in ["a", "b", "c"] {
        push(&server, tag, tag);
        let ran = afslet.run(StartRequest {
            tag: tag.into(),
            ..start(&server, &["cat", "/word"])
        });
        assert_eq!(word(&ran), tag);
    }
    assert!(
        crate::machine::wait_until(|| afslet.images() == 1),
        "{}",
        afslet.logs()
    );
    assert_eq!(afslet.status().warm_images.len(), 1);
    // What went is mounted again when it is wanted.
    let ran = afslet.run(StartRequest {
        tag: "a".into(),
        ..start(&server, &["cat", "/word"])
    });
    assert_eq!(word(&ran), "a");
}
