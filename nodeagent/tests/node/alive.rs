//! A watched file system is known to exist for exactly as long as anybody uses it, whoever is killed
//! meanwhile.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::image;
use crate::support::{Node, Setup, alone, eventually, kill, require_root};

fn tmpfs(at: &Path) {
    std::fs::create_dir_all(at).unwrap();
    mount("test", at, "tmpfs", MountFlags::empty(), None).unwrap();
}

#[test]
fn a_detached_file_system_is_alive_until_its_last_file_is_closed() {
    require_root();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let image = image::build(dir.path(), 48 << 20);
    let setup = Setup {
        fill_deadline: Duration::from_secs(30),
        agent_delay_ms: None,
    };
    let node = Node::start(dir.path(), &image, &setup);
    let at = dir.path().join("watched");
    tmpfs(&at);
    let held = File::create(at.join("file")).unwrap();
    let watch = node.mountd().watch(&at).unwrap();
    assert_eq!(node.mountd().watch(&at).unwrap(), watch);
    unmount(&at, UnmountFlags::DETACH).unwrap();
    let first = node.pid_of("mountd");
    kill(first);
    eventually("a successor", || {
        (node.pid_of("mountd") != first).then_some(())
    });
    assert_eq!(node.mountd().list_watches().unwrap(), [watch]);
    // Another one in the same place is another one.
    tmpfs(&at);
    let second = node.mountd().watch(&at).unwrap();
    assert_ne!(second, watch);
    drop(held);
    assert_eq!(node.mountd().list_watches().unwrap(), [second]);
    unmount(&at, UnmountFlags::empty()).unwrap();
    assert_eq!(node.mountd().list_watches().unwrap(), []);
}

#[test]
fn a_client_goes_on_when_the_mount_daemon_is_killed_between_two_calls() {
    require_root();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let image = image::build(dir.path(), 48 << 20);
    let setup = Setup {
        fill_deadline: Duration::from_secs(30),
        agent_delay_ms: None,
    };
    let node = Node::start(dir.path(), &image, &setup);
    let mut mountd = node.mountd();
    for _ in 0..5 {
        let before = mountd.stats().unwrap().pid;
        kill(before);
        eventually("an answer of its successor", || {
            (mountd.stats().unwrap().pid != before).then_some(())
        });
    }
}

/// Once, a mount daemon that could not watch did not start, and readers waited for it.
#[test]
fn where_nothing_can_be_watched_the_mount_daemon_serves_all_the_same() {
    require_root();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let image = image::build(dir.path(), 48 << 20);
    let setup = Setup {
        fill_deadline: Duration::from_secs(30),
        agent_delay_ms: None,
    };
    // The limit of a user namespace of its own concerns nobody else.
    let without_inotify = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-ec",
        "echo 0 > /proc/sys/user/max_inotify_instances; exec \"$@\"",
        "sh",
    ];
    let node = Node::start_by(&without_inotify, dir.path(), &image, &setup);
    let refused = node.mountd().watch(dir.path()).expect_err("no descriptor");
    assert!(refused.to_string().contains("watch"), "{refused}");
    assert_eq!(node.mountd().list_watches().unwrap(), []);
    assert_eq!(node.register(&image).len(), image.blobs.len());
}
