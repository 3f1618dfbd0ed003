//! Writable volumes whose changes are on disk.

use lamina_mount::union::{self, Lower, UnionOptions, UnionSpec, Upper};

use super::*;

/// The loop devices whose file is in the machine's directory.
fn disks(node: &Node) -> Vec<PathBuf> {
    let home = node.machine.path("state").display().to_string();
    let devices = std::fs::read_dir("/sys/block").unwrap().flatten();
    let is_ours = |device: &PathBuf| {
        let file = std::fs::read_to_string(device.join("loop/backing_file"));
        file.is_ok_and(|file| file.starts_with(&home))
    };
    devices.map(|entry| entry.path()).filter(is_ours).collect()
}

#[test]
fn changes_on_disk_are_bounded_survive_kills_and_leave_nothing() {
    let node = Node::new();
    if !Path::new("/dev/loop-control").exists() {
        eprintln!("SKIP changes_on_disk…: no loop devices");
        return;
    }
    let order = api::PublishRequest {
        writable: true,
        overlay_bytes_max: 64 << 20,
        overlay_medium: api::OverlayMedium::Disk.into(),
        ..node.order("rw")
    };
    node.publish(&order).unwrap();
    assert_eq!(disks(&node).len(), 1);
    let target = PathBuf::from(&order.target);
    std::fs::write(target.join("a/hello"), "changed").unwrap();
    std::fs::write(target.join("new"), vec![7; 32 << 20]).unwrap();
    let big = std::fs::write(target.join("big"), vec![7; 64 << 20]).unwrap_err();
    assert_eq!(big.raw_os_error(), Some(libc::ENOSPC));
    std::fs::remove_file(target.join("big")).unwrap();
    let bytes = node.usage(&order).bytes.unwrap();
    assert!((64 << 20..66 << 20).contains(&bytes.total), "{bytes:?}");
    // Nobody else sees it, and it needs none of the daemons.
    assert!(
        node.machine
            .mounted()
            .iter()
            .all(|p| !p.starts_with(node.machine.path("state")))
    );
    for daemon in ["agent", "mountd"] {
        let before = node.machine.daemon(daemon).unwrap();
        kill(before);
        let is_back = || node.machine.daemon(daemon).is_some_and(|pid| pid != before);
        assert!(wait_until(is_back), "{daemon}");
    }
    assert_eq!(std::fs::read(target.join("a/hello")).unwrap(), b"changed");
    assert_eq!(
        std::fs::read(target.join("new")).unwrap(),
        vec![7; 32 << 20]
    );
    assert_eq!(code(node.publish(&order)), Code::Ok);
    // The same volume in memory is another one.
    let other = api::PublishRequest {
        overlay_medium: api::OverlayMedium::Memory.into(),
        ..order.clone()
    };
    assert_eq!(code(node.publish(&other)), Code::AlreadyExists);
    node.unpublish_order(&order);
    assert!(wait_until(|| disks(&node).is_empty()));
    assert!(node.is_clean());
}

#[test]
fn changes_that_the_disk_has_no_room_for_are_refused() {
    let node = Node::new();
    let order = api::PublishRequest {
        writable: true,
        overlay_bytes_max: 14 << 40,
        overlay_medium: api::OverlayMedium::Disk.into(),
        ..node.order("huge")
    };
    let refused = node.publish(&order).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("has no room for"), "{refused}");
    let read_only = api::PublishRequest {
        writable: false,
        overlay_bytes_max: 0,
        ..order
    };
    assert_eq!(code(node.publish(&read_only)), Code::InvalidArgument);
    assert!(disks(&node).is_empty() && node.is_clean());
}

/// An agent that dies between mounting the file system and giving it to the union.
#[test]
fn what_a_killed_agent_left_is_taken_down_by_the_next() {
    let node = Node::new();
    let at = node.machine.dir("state/volumes/left.upper");
    let lower = node.machine.dir("lower");
    let spec = UnionSpec {
        lowers: vec![Lower::Path(&lower)],
        upper: Some(Upper::Disk {
            at,
            bytes_max: 1 << 20,
        }),
        options: UnionOptions::default(),
    };
    drop(union::build(spec).unwrap());
    assert!(!node.is_clean());
    assert_eq!(disks(&node).len(), 1);
    kill(node.machine.daemon("agent").unwrap());
    assert!(wait_until(|| node.is_clean() && disks(&node).is_empty()));
}
