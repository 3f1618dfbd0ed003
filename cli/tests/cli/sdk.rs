//! Python programs, ours and other people's, against a proxy, an afslet and a registry.

use crate::afslet::support::Afslet;
use crate::exec::Cluster;
use crate::node::images::server::Server;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// A layer of busybox under all of its names.
fn layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut directory = |path: &str, mode| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        tar.append_data(&mut header, path, &[][..]).unwrap();
    };
    directory("bin", 0o755);
    directory("etc", 0o755);
    directory("tmp", 0o1777);
    let mut put = |path: &str, bytes: &[u8], mode| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes).unwrap();
    };
    let busybox = std::fs::read("/bin/busybox").unwrap();
    put("bin/busybox", &busybox, 0o755);
    put("etc/passwd", b"root:x:0:0::/:/bin/sh\n", 0o644);
    put("etc/removed", b"by a test\n", 0o644);
    let listed = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for name in String::from_utf8(listed.stdout).unwrap().lines() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        if name != "busybox" {
            tar.append_link(&mut header, format!("bin/{name}"), "busybox")
                .unwrap();
        }
    }
    tar.into_inner().unwrap()
}

/// A layer that no other image has.
fn layer_of(tag: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(tag.len() as u64);
    tar.append_data(&mut header, "etc/image", tag.as_bytes())
        .unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn python_clients_run_commands_through_a_proxy_and_on_a_node() {
    let server = Server::start();
    let layer = layer();
    let said = json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]});
    let tags = (1..=20).map(|tag| tag.to_string());
    let push = |tag: String| server.push_saying(&tag, &[layer.clone(), layer_of(&tag)], &said);
    let digests: BTreeSet<String> = tags.map(push).collect();
    assert_eq!(digests.len(), 20, "{digests:?}");
    // More processors than there are: what is waited for here is not their speed.
    let limits = ["--warm", "0", "--cpu", "16", "--memory", "4096"];
    let cluster = Cluster::before(Afslet::new(&limits));
    let servers = format!("{} {}", cluster.at, cluster.afslet.listen);
    let python = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk/python/dev.py"))
        .arg("live")
        .env("LAMINA_TEST_SERVERS", servers)
        .env("LAMINA_TEST_IMAGE", server.image(""))
        .env("LAMINA_TEST_STORE", cluster.afslet.machine.store())
        .output()
        .unwrap();
    let [out, error] =
        [python.stdout, python.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(
        python.status.success(),
        "{out}\n{error}\n{}\n{}",
        cluster.proxy_log(),
        cluster.afslet.logs()
    );
    println!("{out}");
    assert!(cluster.afslet.images() >= digests.len(), "{out}");
    cluster.afslet.assert_nothing_left();
}
