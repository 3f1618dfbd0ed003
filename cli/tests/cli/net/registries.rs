//! A registry that is busy, lies, or leads elsewhere, and what a cluster makes of it: pulls end, with the right code;
//! nothing is left of those that failed; nobody else is shown credentials.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use tonic::Code;

use super::network::Place;
use super::nodes::{Cluster, Image, Node, Shape};
use super::readers::Readers;
use super::turn;
use crate::node::images::server::{Reply, Server};

/// `me:secret`, as HTTP's Basic scheme says it.
const BASIC: &str = "bWU6c2VjcmV0";
const HTTP: u16 = 80;
const STORAGE: u16 = 5000;

fn reply(head: &str, body: &[u8], is_endless: bool) -> Reply {
    Reply {
        head: head.to_owned(),
        body: body.to_vec(),
        is_endless,
    }
}

/// What is said instead to the `nth` request for a layer, from 0.
type Fault = Box<dyn Fn(usize) -> Option<Reply> + Send>;

fn first(times: usize, head: &'static str) -> Fault {
    Box::new(move |nth| (nth < times).then(|| reply(head, b"", false)))
}

fn always(head: &'static str) -> Fault {
    first(usize::MAX, head)
}

/// Its own services, and the cloud's that tells whoever asks what the machine may do.
fn own_services(place: &Place) -> Server {
    place.run("ip", "address add 169.254.169.254/32 dev lo");
    let everywhere = (Ipv4Addr::UNSPECIFIED, HTTP);
    Server::start_at(place.inside(move || TcpListener::bind(everywhere).unwrap()))
}

/// What there is of an image's layers on a node, whole or not.
fn layer_files(node: &Node) -> Vec<String> {
    let dir = node.machine.path("state/layers");
    let names = std::fs::read_dir(dir).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let own = ["images", "records", "lock"];
    names.filter(|name| !own.contains(&name.as_str())).collect()
}

#[test]
fn whatever_a_registry_does_pulls_end_well_or_leave_nothing() {
    let _turn = turn();
    let mut cluster = Cluster::start(Shape {
        nodes: 2,
        ..Shape::default()
    });
    let own: Vec<Server> = cluster
        .nodes
        .iter()
        .map(|node| own_services(&node.place))
        .collect();
    let storage_place = cluster.machine();
    let storage = Server::start_at(storage_place.listen(STORAGE));
    let registry = &cluster.registry.server;
    registry.content.lock().unwrap().authorization = Some(format!("Basic {BASIC}"));
    let me = format!(
        r#"{{"auths":{{"{}":{{"auth":"{BASIC}"}}}}}}"#,
        registry.address
    );

    let cut_then_another_range = |nth| match nth {
        0 => Some(reply("200 OK\r\nContent-Length: 201728", &[0; 1000], false)),
        _ => Some(reply(
            "206 Partial Content\r\nContent-Length: 10\r\nContent-Range: bytes 0-9/201728",
            &[0; 10],
            false,
        )),
    };
    let lies = |_| {
        Some(reply(
            "200 OK\r\nContent-Length: 201728",
            &vec![0; 201_728],
            false,
        ))
    };
    let endless = |_| Some(reply("200 OK", b"", true));
    let faults: [(&str, Fault, Code); 10] = [
        (
            "429",
            first(1, "429 X\r\nRetry-After: 2\r\nContent-Length: 0"),
            Code::Ok,
        ),
        ("500", first(3, "500 X\r\nContent-Length: 0"), Code::Ok),
        (
            "401",
            always("401 X\r\nContent-Length: 0"),
            Code::PermissionDenied,
        ),
        ("404", always("404 X\r\nContent-Length: 0"), Code::NotFound),
        (
            "another-range",
            Box::new(cut_then_another_range),
            Code::Unavailable,
        ),
        ("other-bytes", Box::new(lies), Code::DataLoss),
        ("endless", Box::new(endless), Code::ResourceExhausted),
        (
            "cloud",
            always("307 X\r\nLocation: http://169.254.169.254/a\r\nContent-Length: 0"),
            Code::PermissionDenied,
        ),
        (
            "machine",
            always("302 X\r\nLocation: http://127.0.0.1/a\r\nContent-Length: 0"),
            Code::PermissionDenied,
        ),
        (
            "in-circles",
            always("302 X\r\nLocation: /v2/a/b/blobs/again\r\nContent-Length: 0"),
            Code::PermissionDenied,
        ),
    ];
    let mut whole = 0;
    for (number, (tag, fault, code)) in faults.into_iter().enumerate() {
        let image = Image::push(registry, tag, 1, 200_000);
        let (path, mut nth) = (image.layers[0].clone(), 0);
        registry.content.lock().unwrap().instead = Some(Box::new(move |asked| {
            let is_it = asked.ends_with(&path) || asked.ends_with("again");
            nth += usize::from(is_it);
            is_it.then(|| fault(nth - 1)).flatten()
        }));
        let node = &cluster.nodes[number % 2];
        let began = Instant::now();
        let pulled = node.pull_as(&image, &me);
        let waited = began.elapsed() >= Duration::from_secs(2);
        assert!(waited || tag != "429", "as long as the registry asked for");
        let got = pulled
            .as_ref()
            .map_or_else(tonic::Status::code, |()| Code::Ok);
        assert_eq!(got, code, "{tag}: {pulled:?}");
        let files =
            |nodes: &[Node]| -> usize { nodes.iter().map(|node| layer_files(node).len()).sum() };
        if pulled.is_err() {
            let left = files(&cluster.nodes);
            assert_eq!(left, whole, "{tag}: something is left");
        }
        registry.content.lock().unwrap().instead = None;
        node.pull_as(&image, &me).unwrap();
        whole = files(&cluster.nodes);
        assert_eq!(
            node.pull_as(&image, "").unwrap_err().code(),
            Code::PermissionDenied,
            "{tag}"
        );
    }
    for own in &own {
        assert_eq!(
            own.count(""),
            0,
            "a registry has no say over a node's own services"
        );
    }

    // Where layers are kept elsewhere, they are fetched there, and credentials are not shown.
    let image = Image::push(registry, "elsewhere", 2, 200_000);
    Image::push(&storage, "elsewhere", 2, 200_000);
    let (layers, at) = (image.layers.clone(), storage.address);
    registry.content.lock().unwrap().instead = Some(Box::new(move |asked| {
        let is_layer = layers.iter().any(|layer| asked.ends_with(layer));
        let head = format!("307 X\r\nLocation: http://{at}{asked}\r\nContent-Length: 0");
        is_layer.then(|| reply(&head, b"", false))
    }));
    let before = registry.authorized();
    cluster.nodes[0].pull_as(&image, &me).unwrap();
    assert!(registry.authorized() > before);
    assert!(storage.count("GET /v2/a/b/blobs/") >= 2);
    assert_eq!(storage.authorized(), 0);
}

/// Every file below a directory that has this text in it, but for programs.
fn files_with(dir: &std::path::Path, text: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let seen = std::fs::symlink_metadata(&path).unwrap();
        if seen.is_dir() {
            found.extend(files_with(&path, text));
        } else if seen.is_file() && seen.len() < 8 << 20 {
            let bytes = std::fs::read(&path).unwrap();
            let has = bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes());
            found.extend(has.then_some(path));
        }
    }
    found
}

#[test]
fn a_private_image_is_read_on_when_nobody_holds_its_layers_any_more() {
    let _turn = turn();
    let cluster = Cluster::start(Shape {
        nodes: 3,
        ..Shape::default()
    });
    let server = &cluster.registry.server;
    server.content.lock().unwrap().authorization = Some(format!("Basic {BASIC}"));
    let me = format!(
        r#"{{"auths":{{"{}":{{"auth":"{BASIC}"}},"other.test":{{"auth":"b3RoZXI6b3RoZXI="}}}}}}"#,
        server.address
    );
    let image = cluster.registry.push("private", 2, 1 << 20);
    let [holder, reader, other] = [0, 1, 2].map(|number| &cluster.nodes[number]);
    holder.pull_as(&image, &me).unwrap();
    let root = reader.publish_as("v", &image, &me).unwrap();
    assert_eq!(cluster.registry.reads(&image), [1, 1]);
    // Who holds its layers, also as their homes, needs the room: only the registry is left.
    let gone: i32 = cluster.nodes.iter().map(Node::prune).sum();
    assert!(gone >= 2, "{gone}");
    for node in &cluster.nodes {
        assert_eq!(layer_files(node), [""; 0], "{}", node.name);
    }
    Readers::start(8, &[root], &image.files, 6).end();
    assert_eq!(cluster.fetched(&[1]).0, image.bytes());
    assert_eq!(
        cluster.registry.reads(&image),
        [2, 2],
        "once for all, again"
    );
    // What is here again is for those whom the registry shows it.
    for node in [holder, other] {
        let refused = node.publish("v", &image).unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        let refused = node.pull_as(&image, "").unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    }
    // Nothing of who asked is written down, or said.
    for node in &cluster.nodes {
        for secret in [BASIC, "\"secret\"", "b3RoZXI6b3RoZXI="] {
            for dir in ["state", "run"] {
                let found = files_with(&node.machine.path(dir), secret);
                assert!(found.is_empty(), "{}: {found:?}", node.name);
            }
            assert!(!node.log().contains(secret));
        }
    }
    reader.unpublish("v");
}
