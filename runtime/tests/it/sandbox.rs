//! A sandbox for a test: an image of busybox, a spawner, and what a script in it printed.

use lamina_mount::union::scratch::{Scratch, ScratchMedium, ScratchSpec};
use lamina_runtime::cgroup::{Cgroup, Cgroups, ResourceLimits, Usage};
use lamina_runtime::spec::{Identity, ProcessLimits};
use lamina_runtime::{
    Capability, Ended, IdRange, Prepare, Prepared, Running, Spawner, Spec, Standard,
};
use rustix::fs::CWD;
use std::fs::{File, Permissions};
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for a sandbox: far above what is ever needed, so that a hang is an error.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Longer where `LAMINA_TEST_SLOW` says by how much the machine is slower than most (an emulated one).
pub(crate) fn patient(time: Duration) -> Duration {
    let slow = std::env::var("LAMINA_TEST_SLOW").map_or(1, |times| times.parse().unwrap());
    time * slow
}
/// Tests run at once: each sandbox has ids and a cgroup of its own.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// An image and a spawner.
pub(crate) struct Bench {
    pub(crate) spawner: Spawner,
    dir: tempfile::TempDir,
}

/// How a test wants its sandbox.
#[derive(Clone)]
pub(crate) struct Wish {
    pub(crate) user: Identity,
    pub(crate) capabilities: Vec<Capability>,
    pub(crate) limits: ResourceLimits,
    pub(crate) disk: u64,
    pub(crate) timeout: Duration,
    pub(crate) own_network: bool,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            user: Identity::default(),
            capabilities: Vec::new(),
            limits: ResourceLimits {
                pids: Some(200),
                ..ResourceLimits::default()
            },
            disk: 64 << 20,
            timeout: patient(DEADLINE),
            own_network: true,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) ended: Ended,
    pub(crate) out: String,
    pub(crate) error: String,
    pub(crate) usage: Usage,
    pub(crate) timed_out: bool,
}

/// An image of busybox with what attackers like to find. No program is started for it: that takes long on some machines.
fn make_image(image: &Path) {
    use rustix::fs::{FileType, Mode, makedev, mknodat};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    let mode = |path: &str, mode| {
        std::fs::set_permissions(image.join(path), Permissions::from_mode(mode)).unwrap();
    };
    for dir in ["bin", "etc", "tmp", "home/web", "usr/lib"] {
        std::fs::create_dir_all(image.join(dir)).unwrap();
    }
    std::fs::copy("/bin/busybox", image.join("bin/busybox")).unwrap();
    let applets = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for name in String::from_utf8(applets.stdout).unwrap().lines() {
        let link = image.join("bin").join(name);
        if name != "busybox" {
            symlink("busybox", link).unwrap();
        }
    }
    let users = "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n";
    std::fs::write(image.join("etc/passwd"), users).unwrap();
    std::fs::write(image.join("etc/shadow"), "secret\n").unwrap();
    chown(image.join("home/web"), Some(33), Some(34)).unwrap();
    for (name, kind, device) in [
        ("bin/disk", FileType::BlockDevice, makedev(8, 0)),
        ("bin/mem", FileType::CharacterDevice, makedev(1, 1)),
    ] {
        mknodat(CWD, image.join(name), kind, Mode::empty(), device).unwrap();
        mode(name, 0o666);
    }
    for (path, bits) in [("tmp", 0o1777), ("etc/shadow", 0o600)] {
        mode(path, bits);
    }
    symlink("../../../../etc/hostname", image.join("etc/out")).unwrap();
}

impl Bench {
    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "sandboxes need root");
        let dir = tempfile::Builder::new()
            .prefix("lamina-runtime")
            .tempdir()
            .unwrap();
        let image = dir.path().join("image");
        std::fs::create_dir(&image).unwrap();
        make_image(&image);
        let program = Path::new(env!("CARGO_BIN_EXE_lamina-spawner"));
        let spawner = Spawner::start(program, &[]).unwrap();
        Self { spawner, dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn prepare(&self) -> Prepared {
        self.prepare_in(None, true)
    }

    fn prepare_in(&self, cgroup: Option<&Cgroup>, own_network: bool) -> Prepared {
        let ids = IdRange::of_slot(NUMBER.fetch_add(1, Ordering::Relaxed)).unwrap();
        let prepare = Prepare {
            ids,
            own_network,
            cgroup,
        };
        self.spawner.prepare(&prepare).unwrap()
    }

    pub(crate) fn root(&self, prepared: &Prepared, disk: u64) -> Scratch {
        let image = File::open(self.path("image")).unwrap();
        let at = tempfile::tempdir_in(self.dir.path()).unwrap();
        Scratch::build(&ScratchSpec {
            lower: image.as_fd(),
            user_namespace: prepared.user_namespace(),
            bytes_max: disk,
            files_max: 4096,
            medium: ScratchMedium::Memory,
            at: at.path(),
        })
        .unwrap()
    }

    /// Runs `sh -c SCRIPT` to its end.
    pub(crate) fn sh(&self, wish: &Wish, script: &str) -> Outcome {
        self.run(wish, &["/bin/sh", "-c", script])
    }

    pub(crate) fn run(&self, wish: &Wish, argv: &[&str]) -> Outcome {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("lamina-test-{}-{number}", std::process::id());
        let cgroup = Cgroups::find()
            .unwrap()
            .create(&name, &wish.limits)
            .unwrap();
        let prepared = self.prepare_in(Some(&cgroup), wish.own_network);
        let root = self.root(&prepared, wish.disk);
        let (standard, out, error) = pipes();
        let mut running = prepared
            .start(&spec(wish, argv), root.root(), Some(&standard))
            .unwrap();
        drop(standard);
        let (out, error) = (collect(out), collect(error));
        let ended = running.wait(Some(Instant::now() + wish.timeout)).unwrap();
        let timed_out = ended.is_none();
        running.kill();
        let ended = ended.or_else(|| running.wait(None).unwrap()).unwrap();
        let usage = cgroup.usage();
        cgroup.remove().unwrap();
        Outcome {
            ended,
            out: out.join().unwrap(),
            error: error.join().unwrap(),
            usage,
            timed_out,
        }
    }

    /// Starts without waiting; what it prints is lost.
    pub(crate) fn start(&self, script: &str) -> Running {
        let prepared = self.prepare();
        let root = self.root(&prepared, 16 << 20);
        let null = || {
            File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .unwrap()
                .into()
        };
        let standard = Standard {
            input: null(),
            output: null(),
            error: null(),
        };
        let argv = ["/bin/sh", "-c", script];
        prepared
            .start(&spec(&Wish::default(), &argv), root.root(), Some(&standard))
            .unwrap()
    }
}

/// Runs a script to its end and gives the root it had.
pub(crate) fn run_script(bench: &Bench, wish: &Wish, script: &str) -> (Scratch, IdRange) {
    let ids = IdRange::of_slot(NUMBER.fetch_add(1, Ordering::Relaxed)).unwrap();
    let prepare = Prepare {
        ids,
        own_network: true,
        cgroup: None,
    };
    let prepared = bench.spawner.prepare(&prepare).unwrap();
    let root = bench.root(&prepared, wish.disk);
    let (standard, out, error) = pipes();
    let spec = spec(wish, &["/bin/sh", "-c", script]);
    let mut running = prepared.start(&spec, root.root(), Some(&standard)).unwrap();
    drop(standard);
    let (out, error) = (collect(out), collect(error));
    let ended = running.wait(Some(Instant::now() + wish.timeout)).unwrap();
    let said = (out.join().unwrap(), error.join().unwrap());
    assert_eq!(ended, Some(Ended::Exited(0)), "{said:?}");
    (root, ids)
}

pub(crate) fn spec(wish: &Wish, argv: &[&str]) -> Spec {
    Spec {
        argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
        env: vec![b"PATH=/bin".to_vec(), b"HOME=/".to_vec()],
        directory: b"/".to_vec(),
        user: wish.user.clone(),
        capabilities: wish.capabilities.clone(),
        hostname: "box".to_owned(),
        terminal: None,
        limits: ProcessLimits::default(),
        files: Vec::new(),
    }
}

fn pipes() -> (Standard, PipeReader, PipeReader) {
    let (out, their_out) = io::pipe().unwrap();
    let (error, their_error) = io::pipe().unwrap();
    let standard = Standard {
        input: File::open("/dev/null").unwrap().into(),
        output: their_out.into(),
        error: their_error.into(),
    };
    (standard, out, error)
}

/// Reads to the end, keeps the first megabyte.
fn collect(mut from: PipeReader) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        from.by_ref().take(1 << 20).read_to_end(&mut kept).unwrap();
        io::copy(&mut from, &mut io::sink()).unwrap();
        String::from_utf8_lossy(&kept).into_owned()
    })
}
