//! What readers see when nobody can help them: errors in time, never zeros;
//! and how long they wait when somebody can.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lamina_mount::erofs::ErofsOptions;
use lamina_nodeagent::mountd::{ErrorKind, MountdError};
use rustix::process::Signal;

use crate::content;
use crate::image::{self, Image};
use crate::support::{Node, Setup, alone, eventually, kill, require_root, signal};

const IMAGE_BYTES: u64 = 48 << 20;
const NO_DELAY: std::ops::Range<u64> = 0..1;

/// A mounted image and its large files, none of which was read.
struct Mounted {
    node: Node,
    files: Vec<PathBuf>,
    image: Image,
    // Last: removed after the node is gone.
    _dir: tempfile::TempDir,
}

fn mounted(setup: &Setup) -> Mounted {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let image = image::build(dir.path(), IMAGE_BYTES);
    let mut node = Node::start(dir.path(), &image, setup);
    let root = node.mount(&image, ErofsOptions::default());
    let mut files = Vec::new();
    for dir in std::fs::read_dir(root).unwrap() {
        for file in std::fs::read_dir(dir.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if content::parse(&path).is_some_and(|(_, size)| size >= 256 * 1024) {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(files.len() >= 30, "only {} large files", files.len());
    Mounted {
        node,
        files,
        image,
        _dir: dir,
    }
}

/// Reads 4 KiB and compares; the error is the read's own.
fn read_page(path: &Path, offset: u64) -> io::Result<()> {
    let mut got = vec![0; 4096];
    File::open(path)?.read_exact_at(&mut got, offset)?;
    let (index, _) = content::parse(path).unwrap();
    let mut want = vec![0; 4096];
    content::fill(index, offset, &mut want);
    assert!(got == want, "wrong bytes in {} at {offset}", path.display());
    Ok(())
}

fn assert_eio(outcome: io::Result<()>) {
    let error = outcome.expect_err("missing bytes cannot be read");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
}

#[test]
fn without_an_agent_reads_fail_at_the_deadline_and_work_once_it_is_back() {
    let _alone = alone();
    let setup = Setup {
        fill_deadline: Duration::from_millis(300),
        agent_delay_ms: Some(NO_DELAY),
    };
    let scene = mounted(&setup);
    let (node, files) = (&scene.node, &scene.files);
    read_page(&files[0], 0).unwrap();
    // Stopped, not killed: it is there, takes requests and answers nothing.
    let agent = node.pid_of("agent");
    signal(agent, Signal::STOP);
    assert_eio(read_page(&files[1], 0));
    read_page(&files[0], 0).expect("cached pages need nobody");
    signal(agent, Signal::CONT);
    read_page(&files[1], 0).expect("the same mount, the same page, a second try");
}

#[test]
fn without_holder_and_daemon_reads_fail_and_cached_pages_stay() {
    let _alone = alone();
    let setup = Setup {
        fill_deadline: Duration::from_mins(1),
        agent_delay_ms: Some(NO_DELAY),
    };
    let scene = mounted(&setup);
    let (node, files) = (&scene.node, &scene.files);
    for file in &files[..5] {
        read_page(file, 0).unwrap();
    }
    let daemons = [node.pid_of("mountd"), node.pid_of("agent")];
    kill(node.holder_pid());
    eventually("the holder is gone", || {
        node.try_holder().is_none().then_some(())
    });
    for pid in daemons {
        kill(pid);
    }
    eventually("the daemons are gone", || {
        let gone = |pid: &u32| !Path::new(&format!("/proc/{pid}/fd/0")).exists();
        daemons.iter().all(gone).then_some(())
    });
    for file in &files[..5] {
        read_page(file, 0).expect("cached pages need nobody");
    }
    for file in &files[5..] {
        assert_eio(read_page(file, 128 * 1024));
    }
}

#[test]
fn the_mount_daemon_goes_on_without_its_holder_and_gives_its_descriptors_to_the_next() {
    let _alone = alone();
    let setup = Setup {
        fill_deadline: Duration::from_mins(1),
        agent_delay_ms: Some(NO_DELAY),
    };
    let mut scene = mounted(&setup);
    let files = &scene.files;
    let node = &mut scene.node;
    let (old_mountd, old_agent) = (node.pid_of("mountd"), node.pid_of("agent"));
    node.replace_holder(&scene.image, &setup);
    read_page(&files[0], 0).expect("served by a daemon without a holder");
    eventually("the next holder has the descriptors", || {
        let names = node.try_holder()?.list().ok()?;
        (names == ["alive", "blobfs"]).then_some(())
    });
    kill(old_agent);
    kill(old_mountd);
    for file in &files[1..] {
        read_page(file, 0).expect("served by the successor");
    }
    eventually("the successor is the new holder's child", || {
        (node.mountd().stats().unwrap().pid == node.pid_of("mountd")).then_some(())
    });
}

#[test]
fn a_read_waits_for_a_restart_and_not_longer() {
    let _alone = alone();
    let setup = Setup {
        fill_deadline: Duration::from_mins(1),
        agent_delay_ms: Some(NO_DELAY),
    };
    let scene = mounted(&setup);
    let (node, files) = (&scene.node, &scene.files);
    for victim in ["agent", "mountd"] {
        let mut stalls: Vec<Duration> = files
            .iter()
            .take(15)
            .enumerate()
            .map(|(round, file)| {
                let offset = if victim == "agent" { 0 } else { 128 * 1024 };
                let restarts = node.restarts_of(victim);
                kill(node.pid_of(victim));
                let began = Instant::now();
                read_page(file, offset).unwrap();
                let stall = began.elapsed();
                eventually("restarted", || {
                    (node.restarts_of(victim) > restarts).then_some(())
                });
                assert!(node.restarts_of(victim) > round as u64);
                stall
            })
            .collect();
        stalls.sort();
        eprintln!(
            "stall of a read of missing data after SIGKILL of the {victim}: median {:?}, worst {:?}",
            stalls[stalls.len() / 2],
            stalls[stalls.len() - 1]
        );
    }
}

#[test]
fn present_bytes_are_served_while_hundreds_of_reads_wait_for_missing_ones() {
    let _alone = alone();
    let setup = Setup {
        fill_deadline: Duration::from_mins(1),
        agent_delay_ms: Some(NO_DELAY),
    };
    let scene = mounted(&setup);
    let (node, files) = (&scene.node, &scene.files);
    let (present, missing) = files.split_first().unwrap();
    read_page(present, 0).unwrap();
    let agent = node.pid_of("agent");
    signal(agent, Signal::STOP);
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..400)
            .map(|reader| {
                let file = &missing[reader % missing.len()];
                let page = (reader / missing.len()) as u64;
                scope.spawn(move || read_page(file, page * 16 * 1024))
            })
            .collect();
        eventually("many reads wait", || {
            (node.mountd().stats().unwrap().fills_pending >= 100).then_some(())
        });
        for _ in 0..10 {
            let file = File::open(present).unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            read_page(present, 0).expect("present, so it needs no agent");
        }
        assert!(waiting.iter().any(|reader| !reader.is_finished()));
        signal(agent, Signal::CONT);
        for reader in waiting {
            reader.join().unwrap().expect("filled after all");
        }
    });
}

#[test]
fn an_aborted_connection_is_replaced_and_the_image_can_be_mounted_anew() {
    let _alone = alone();
    let setup = Setup {
        fill_deadline: Duration::from_mins(1),
        agent_delay_ms: Some(NO_DELAY),
    };
    let mut scene = mounted(&setup);
    let files = &scene.files;
    let node = &mut scene.node;
    let before = node.mountd().stats().unwrap().pid;
    read_page(&files[0], 0).unwrap();
    node.abort_blobfs();
    assert_eio(read_page(&files[1], 0));
    eventually("another mount daemon", || {
        let pid = node.mountd().stats().ok()?.pid;
        (pid != before).then_some(())
    });
    assert_eq!(
        node.mountd().list_blobs().unwrap(),
        [],
        "their nodes are gone"
    );
    node.unmount_all();
    node.mount(&scene.image, ErofsOptions::default());
    for file in files {
        read_page(file, 0).unwrap();
    }
}

#[test]
fn what_is_mounted_cannot_be_unregistered_or_shut_down_and_the_rest_can() {
    let _alone = alone();
    let setup = Setup {
        fill_deadline: Duration::from_mins(1),
        agent_delay_ms: Some(NO_DELAY),
    };
    let mut scene = mounted(&setup);
    let node = &mut scene.node;
    let ids: Vec<_> = scene.image.blobs.iter().map(|(id, _)| *id).collect();
    let mut mountd = node.mountd();
    let in_use = |outcome: Result<(), MountdError>| {
        matches!(
            outcome,
            Err(MountdError::Refused {
                kind: ErrorKind::InUse,
                ..
            })
        )
    };
    assert!(in_use(mountd.unregister(ids.clone())));
    assert!(in_use(mountd.shutdown(false)));
    let records = mountd.list_mounts().unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].blobs, ids);
    kill(node.pid_of("mountd"));
    let mut mountd = node.mountd();
    assert_eq!(mountd.list_mounts().unwrap(), records, "remembered");
    assert_eq!(mountd.list_blobs().unwrap().len(), ids.len());
    node.unmount_all();
    mountd.remove_mount_record(&records[0].id).unwrap();
    mountd.unregister(ids).unwrap();
    assert_eq!(mountd.list_blobs().unwrap(), []);
    mountd.shutdown(false).unwrap();
    eventually("it is not started again", || {
        let status = node.holder().status().unwrap();
        let mountd = status.into_iter().find(|child| child.name == "mountd")?;
        let ended = mountd
            .last_exit
            .is_some_and(|how| how.contains("status: 0"));
        (mountd.pid.is_none() && ended).then_some(())
    });
    assert!(!node.blobfs_is_mounted());
}

#[test]
fn a_tree_is_forgotten_once_it_is_unmounted_and_can_be_attached_again() {
    let _alone = alone();
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let image = image::build(dir.path(), 8 << 20);
    let setup = Setup {
        fill_deadline: Duration::from_mins(1),
        agent_delay_ms: Some(NO_DELAY),
    };
    let mut node = Node::start(dir.path(), &image, &setup);
    for _ in 0..2 {
        let root = node.mount_tree(&image);
        let shell = std::fs::read(root.join("bin/sh")).unwrap();
        assert!(shell == std::fs::read("/bin/sh").unwrap());
        let held = node.holder().list().unwrap();
        assert_eq!(
            held,
            ["alive", "blobfs", &format!("tree:{}", root.display())]
        );
        let ids: Vec<_> = image.blobs.iter().map(|(id, _)| *id).collect();
        let refused = node.mountd().unregister(ids);
        assert!(matches!(
            refused,
            Err(MountdError::Refused {
                kind: ErrorKind::InUse,
                ..
            })
        ));
        node.unmount_all();
        eventually("the holder lets go", || {
            (node.holder().list().unwrap() == ["alive", "blobfs"]).then_some(())
        });
        eventually("its blobs are free", || {
            let ids = image.blobs.iter().map(|(id, _)| *id).collect();
            node.mountd().unregister(ids).ok()
        });
    }
}

/// Once, the successor asked the mount whether it was dead while it held its descriptors itself and
/// answered nobody.
#[test]
fn a_tree_that_cannot_be_resumed_is_detached_and_its_readers_get_errors() {
    let _alone = alone();
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let image = image::build(dir.path(), 8 << 20);
    let setup = Setup {
        fill_deadline: Duration::from_mins(1),
        agent_delay_ms: Some(NO_DELAY),
    };
    let mut node = Node::start(dir.path(), &image, &setup);
    let root = node.mount_tree(&image);
    let inside = File::open(&root).unwrap();
    std::fs::write(&image.flist, b"damaged").unwrap();
    kill(node.pid_of("mountd"));
    assert_eq!(node.mountd().stats().unwrap().fills_pending, 0, "it serves");
    assert_eq!(node.holder().list().unwrap(), ["alive", "blobfs"]);
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0, "detached");
    let dead = rustix::fs::fstatfs(&inside).unwrap_err();
    assert_eq!(dead, rustix::io::Errno::NOTCONN);
}
