//! Loop devices.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use lamina_mount::loopdev::erofs::{BlobSlot, BlobSource, LoopMountError};
use lamina_mount::loopdev::{LoopDevice, LoopIo, is_bound};
use lamina_mount::probe::Mode;
use rustix::mount::UnmountFlags;

use crate::support::mounts::{Mounted, modes, slots};
use crate::support::pack::pack;
use crate::support::{features, sandbox, skip};

/// A device that clears itself does so shortly after its last close.
#[track_caller]
fn wait_until_free(path: &Path) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while is_bound(path).expect("asking the device") {
        assert!(Instant::now() < give_up, "{} stays bound", path.display());
        std::thread::yield_now();
    }
}

#[test]
fn a_device_shows_its_file_and_clears_itself() {
    let sandbox = sandbox!();
    if !features().loop_devices.found {
        skip!("no loop devices: {:?}", features().loop_devices.error);
    }
    let path = sandbox.path().join("file");
    std::fs::write(&path, vec![0x42; 16 * 4096]).expect("write");
    for io in [LoopIo::DirectIfPossible, LoopIo::Buffered] {
        let device =
            LoopDevice::attach(File::open(&path).expect("open").as_fd(), io).expect("bound");
        let node = device.path().to_owned();
        assert!(io == LoopIo::DirectIfPossible || !device.is_direct());
        let mut bytes = Vec::new();
        File::open(&node)
            .expect("open")
            .read_to_end(&mut bytes)
            .expect("read");
        assert_eq!(bytes, vec![0x42; 16 * 4096]);
        let write = std::fs::OpenOptions::new().write(true).open(&node);
        assert!(write.is_err() || std::io::Write::write(&mut write.expect("open"), b"x").is_err());
        drop(device);
        wait_until_free(&node);
    }
    let device = LoopDevice::attach(File::open(&path).expect("open").as_fd(), LoopIo::Buffered)
        .expect("bound");
    let node = device.path().to_owned();
    device.detach().expect("detached");
    wait_until_free(&node);
}

#[test]
fn many_threads_get_devices_of_their_own() {
    const THREADS: usize = 8;
    let sandbox = sandbox!();
    if !features().loop_devices.found {
        skip!("no loop devices: {:?}", features().loop_devices.error);
    }
    let start = Barrier::new(THREADS);
    let nodes: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|i| {
                let (start, path) = (&start, sandbox.path().join(format!("file{i}")));
                scope.spawn(move || {
                    std::fs::write(&path, vec![i as u8; 8192]).expect("write");
                    let file = File::open(&path).expect("open");
                    start.wait();
                    for _ in 0..5 {
                        let device =
                            LoopDevice::attach(file.as_fd(), LoopIo::Buffered).expect("bound");
                        let mut bytes = Vec::new();
                        File::open(device.path())
                            .expect("open")
                            .read_to_end(&mut bytes)
                            .expect("read");
                        assert_eq!(bytes, vec![i as u8; 8192], "{}", device.path().display());
                    }
                    LoopDevice::attach(file.as_fd(), LoopIo::Buffered).expect("bound")
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker"))
            .collect()
    });
    let mut paths: Vec<_> = nodes
        .iter()
        .map(|device| device.path().to_owned())
        .collect();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), THREADS, "no device is given twice");
    drop(nodes);
    for path in &paths {
        wait_until_free(path);
    }
}

#[test]
fn devices_of_a_mount_end_with_it() {
    let sandbox = sandbox!();
    if !modes().contains(&Mode::ErofsLoop) {
        return; // modes() said why
    }
    let source = sandbox.dir("source");
    std::fs::write(source.join("file"), vec![7; 100_000]).expect("write");
    let packed = pack(&source, &sandbox.path().join("packed"));
    let bound = || {
        let devices = std::fs::read_dir("/sys/block").expect("list");
        devices
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with("loop"))
            .filter(|name| {
                let backing = format!("/sys/block/{name}/loop/backing_file");
                std::fs::read_to_string(backing)
                    .is_ok_and(|file| Path::new(file.trim()).starts_with(sandbox.path()))
            })
            .map(|name| Path::new("/dev").join(name))
            .collect::<Vec<_>>()
    };
    let mounted = Mounted::new(&packed, Mode::ErofsLoop, &sandbox.path().join("mounted"));
    let devices = bound();
    assert_eq!(devices.len(), 1 + packed.blobs.len(), "{devices:?}");
    assert_eq!(
        std::fs::read(mounted.path().join("file")).expect("read"),
        vec![7; 100_000]
    );
    drop(mounted);
    for path in &devices {
        wait_until_free(path);
    }
}

#[test]
fn a_wrong_order_of_blobs_cannot_be_mounted_wrong() {
    let sandbox = sandbox!();
    if !modes().contains(&Mode::ErofsLoop) {
        return; // modes() said why
    }
    let source = sandbox.dir("source");
    std::fs::write(source.join("file"), vec![7; 100_000]).expect("write");
    let packed = pack(&source, &sandbox.path().join("packed"));
    let flist = File::open(&packed.flist_path).expect("the flist");
    let blob = File::open(&packed.blobs[0].1).expect("the blob");
    let decoy_path = sandbox.path().join("decoy");
    std::fs::write(&decoy_path, vec![0; 1 << 20]).expect("write");
    let decoy = File::open(&decoy_path).expect("the decoy");
    let decoy_id = lamina_flist::BlobId::of(b"decoy");
    let given = [
        BlobSource {
            id: decoy_id,
            file: decoy.as_fd(),
        },
        BlobSource {
            id: packed.blobs[0].0,
            file: blob.as_fd(),
        },
    ];
    let target = sandbox.dir("target");
    let io = LoopIo::Buffered;
    lamina_mount::loopdev::erofs::mount(flist.as_fd(), &slots(&packed), &given, io)
        .expect("mounted")
        .attach(&target)
        .expect("attached");
    assert_eq!(
        std::fs::read(target.join("file")).expect("read"),
        vec![7; 100_000]
    );
    rustix::mount::unmount(&target, UnmountFlags::empty()).expect("unmounting");

    let only_decoy = &given[..1];
    let error = lamina_mount::loopdev::erofs::mount(flist.as_fd(), &slots(&packed), only_decoy, io)
        .expect_err("the blob is missing");
    assert!(matches!(error, LoopMountError::MissingBlob(_)), "{error}");
    let slots = [BlobSlot {
        id: decoy_id,
        len: 2 << 20,
    }];
    let error = lamina_mount::loopdev::erofs::mount(flist.as_fd(), &slots, &given, io)
        .expect_err("the decoy is short");
    assert!(matches!(error, LoopMountError::ShortBlob { .. }), "{error}");
}
