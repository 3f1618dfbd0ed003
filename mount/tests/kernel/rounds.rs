//! Ten thousand rounds of mounting and unmounting leave nothing behind: no
//! mount, descriptor, loop device or thread, and no memory that grows.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lamina_mount::erofs::{ErofsOptions, mount_erofs};
use lamina_mount::probe::Mode;
use lamina_mount::union::{Lower, UnionOptions, UnionSpec, Upper, build};
use lamina_mount::unmount::mountinfo::MountTable;
use lamina_mount::unmount::{UnmountOptions, Unmounted, unmount};

use crate::support::mounts::{Mounted, modes};
use crate::support::pack::{Packed, pack};
use crate::support::{Sandbox, features, patient, sandbox, skip, test_name};

/// What a round may leave behind.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Left {
    mounts: usize,
    descriptors: usize,
    threads: usize,
    loops: usize,
}

impl Left {
    /// Nothing more than `before`: a thread that was still ending then may be
    /// gone now.
    fn is_within(&self, before: &Self) -> bool {
        self.mounts <= before.mounts
            && self.descriptors <= before.descriptors
            && self.threads <= before.threads
            && self.loops <= before.loops
    }

    /// Of this process, which other tests share: so mounts and threads are
    /// those of this test's namespace, and the rest is told apart by where it
    /// leads.
    fn now(sandbox: &Sandbox) -> Self {
        let leads_here = |link: PathBuf| {
            std::fs::read_link(link).is_ok_and(|path| path.starts_with(sandbox.path()))
        };
        // Contexts and detached mounts lead nowhere, so all are counted where
        // nobody else opens any.
        let alone = std::env::var_os(ALONE).is_some();
        let table = MountTable::read().expect("the mount table");
        let own = std::fs::read_link("/proc/thread-self/ns/mnt").expect("procfs");
        let entries = |path: &str| std::fs::read_dir(path).into_iter().flatten().flatten();
        Self {
            // Others may disappear while we count: removing a directory
            // elsewhere takes our copies of what is mounted on it with it.
            mounts: table.below(sandbox.path()).count(),
            descriptors: entries("/proc/self/fd")
                .filter(|e| alone || leads_here(e.path()))
                .count(),
            threads: entries("/proc/self/task")
                .filter_map(|task| std::fs::read_link(task.path().join("ns/mnt")).ok())
                .filter(|namespace| *namespace == own)
                .count(),
            loops: entries("/sys/block")
                .filter_map(|e| std::fs::read_to_string(e.path().join("loop/backing_file")).ok())
                .filter(|file| Path::new(file.trim()).starts_with(sandbox.path()))
                .count(),
        }
    }
}

/// Kernel and process memory in KiB: our own pages, and the kernel's slabs
/// that it cannot take back.
fn memory_kib() -> (u64, u64) {
    let field = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).expect("procfs");
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(0)
    };
    (
        field("/proc/self/status", "RssAnon:"),
        field("/proc/meminfo", "SUnreclaim:"),
    )
}

fn packed(sandbox: &Sandbox) -> Packed {
    let source = sandbox.dir("source");
    std::fs::write(source.join("file"), vec![5; 50_000]).expect("write");
    std::fs::create_dir(source.join("dir")).expect("mkdir");
    pack(&source, &sandbox.path().join("packed"))
}

#[track_caller]
fn take_down(target: &Path) {
    let options = UnmountOptions {
        busy_grace: Duration::from_secs(5),
        ..UnmountOptions::default()
    };
    assert_eq!(
        unmount(target, &options).expect("unmounting"),
        Unmounted::Clean
    );
}

/// Directories of one worker.
struct Places {
    image: PathBuf,
    target: PathBuf,
    upper: PathBuf,
}

/// One image with a union on it, used a little, taken down.
fn round(packed: &Packed, places: &Places) {
    let devices: Vec<PathBuf> = packed.blobs.iter().map(|(_, path)| path.clone()).collect();
    mount_erofs(&packed.flist_path, &devices, ErofsOptions::default())
        .expect("mounting")
        .attach(&places.image)
        .expect("attaching");
    let union = build(UnionSpec {
        lowers: vec![Lower::Path(&places.image)],
        upper: Some(Upper::Directory(places.upper.clone())),
        options: UnionOptions {
            volatile: true,
            ..UnionOptions::default()
        },
    });
    let dirs = union
        .expect("a union")
        .attach(&places.target)
        .expect("attaching");
    let mut byte = [0; 1];
    std::fs::write(places.target.join("written"), "x").expect("write");
    let file = std::fs::File::open(places.target.join("file")).expect("open");
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, 40_000).expect("read");
    assert_eq!(byte, [5]);
    drop((file, dirs));
    take_down(&places.target);
    take_down(&places.image);
}

/// Workers side by side: a round is mostly waiting for the kernel.
const WORKERS: usize = 8;

/// Set in a process that runs one test alone.
const ALONE: &str = "LAMINA_TEST_ALONE";

#[test]
fn ten_thousand_rounds_of_image_and_union_leak_nothing() {
    if std::env::var_os(ALONE).is_none() {
        return run_alone(); // memory is measured, which other tests use too
    }
    let sandbox = sandbox!();
    if !features().overlay.found || !features().overlay_volatile.found {
        skip!("no overlayfs: {:?}", features().overlay.error);
    }
    if !modes().contains(&Mode::Erofs) {
        return; // modes() said why
    }
    let packed = packed(&sandbox);
    let places: Vec<Places> = (0..WORKERS)
        .map(|worker| Places {
            image: sandbox.dir(&format!("image-{worker}")),
            target: sandbox.dir(&format!("target-{worker}")),
            upper: sandbox.path().join(format!("upper-{worker}")),
        })
        .collect();
    let run = |count: usize| {
        std::thread::scope(|scope| {
            for places in &places {
                let packed = &packed;
                scope.spawn(move || (0..count / WORKERS).for_each(|_| round(packed, places)));
            }
        });
    };
    let count = patient(10_000);
    run(count / 10);
    let left = Left::now(&sandbox);
    let (ours, kernel) = memory_kib();
    let start = Instant::now();
    run(count - count / 10);
    let took = start.elapsed();
    let now = settled(&sandbox, &left);
    assert!(now.is_within(&left), "{now:?} after {left:?}");
    let (ours_now, kernel_now) = memory_kib();
    println!(
        "{count} rounds, {took:?}; memory {ours} -> {ours_now} KiB, \
         unreclaimable {kernel} -> {kernel_now} KiB"
    );
    assert!(
        ours_now < ours + 8 * 1024,
        "our memory grew from {ours} to {ours_now} KiB"
    );
    // A leak of one superblock (a few KiB) a round would be tens of MiB; other
    // work on the machine moves this number too.
    let per_round = kernel_now.saturating_sub(kernel) / count as u64;
    assert!(
        per_round < 16,
        "the kernel's memory grew by {per_round} KiB a round"
    );
}

/// This test again, as the only one of a process.
fn run_alone() {
    let status = std::process::Command::new(std::env::current_exe().expect("our path"))
        .args(["--exact", &test_name(), "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .status()
        .expect("starting the test");
    assert!(status.success(), "{status}");
}

#[test]
fn rounds_over_loop_devices_leak_nothing() {
    let sandbox = sandbox!();
    if !modes().contains(&Mode::ErofsLoop) {
        return; // modes() said why
    }
    let packed = packed(&sandbox);
    let target = sandbox.path().join("target");
    leak_check(&sandbox, patient(10_000) / 50, || {
        let mounted = Mounted::new(&packed, Mode::ErofsLoop, &target);
        assert_eq!(
            std::fs::read(mounted.path().join("file"))
                .expect("read")
                .len(),
            50_000
        );
    });
}

#[test]
fn rounds_of_pure_fuse_leak_nothing() {
    let sandbox = sandbox!();
    if !modes().contains(&Mode::Fuse) {
        return; // modes() said why
    }
    let packed = packed(&sandbox);
    let target = sandbox.path().join("target");
    leak_check(&sandbox, patient(10_000) / 50, || {
        let mounted = Mounted::new(&packed, Mode::Fuse, &target);
        assert_eq!(
            std::fs::read(mounted.path().join("file"))
                .expect("read")
                .len(),
            50_000
        );
    });
}

fn leak_check(sandbox: &Sandbox, count: usize, mut round: impl FnMut()) {
    let before = Left::now(sandbox);
    for _ in 0..count {
        round();
    }
    let now = settled(sandbox, &before);
    assert!(
        now.is_within(&before),
        "{now:?} after {before:?} and {count} rounds"
    );
}

/// Loop devices clear themselves and threads end shortly after: waits for
/// that, with a limit.
fn settled(sandbox: &Sandbox, expected: &Left) -> Left {
    let give_up = Instant::now() + Duration::from_secs(20);
    loop {
        let left = Left::now(sandbox);
        if left.is_within(expected) || Instant::now() > give_up {
            return left;
        }
        std::thread::yield_now();
    }
}
