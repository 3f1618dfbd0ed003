//! A node under test: its daemons, mounts and readers, all gone on drop.

use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use lamina_mount::cache::{BlobFile, CacheDir, CacheError, Trust};
use lamina_mount::erofs::{ErofsOptions, mount_erofs};
use lamina_nodeagent::holder::HolderClient;
use lamina_nodeagent::mountd::{BlobRegistration, MountRecord, MountdClient, TreeMount};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::image::Image;

/// Far beyond what anything here takes on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The program with the daemons' roles, built beside this test.
pub(crate) fn testnode() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples/testnode");
    assert!(
        path.exists(),
        "{} is missing: cargo build -p lamina-nodeagent --examples",
        path.display()
    );
    path
}

/// Fails loudly where these tests cannot run.
pub(crate) fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test mounts file systems: run it as root"
    );
}

/// These tests load the machine: one at a time.
pub(crate) fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits for a condition.
pub(crate) fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How a node is set up.
pub(crate) struct Setup {
    pub(crate) fill_deadline: Duration,
    /// The agent's delay per fill; without one there is no agent.
    pub(crate) agent_delay_ms: Option<Range<u64>>,
}

/// Daemons and mounts of one test.
pub(crate) struct Node {
    dir: PathBuf,
    holder: Child,
    mounts: Vec<PathBuf>,
    /// Children of a holder that was killed.
    orphans: Vec<u32>,
}

fn spawn_holder(dir: &Path, image: &Image, setup: &Setup) -> Child {
    spawn_holder_by(&[], dir, image, setup)
}

/// Starts the holder by way of another program, which gets it as its last arguments.
fn spawn_holder_by(by: &[&str], dir: &Path, image: &Image, setup: &Setup) -> Child {
    let program = testnode();
    let mut words = by.iter().map(OsStr::new).chain([program.as_os_str()]);
    let mut command = Command::new(words.next().expect("at least the holder"));
    command
        .args(words)
        .arg("holder")
        .arg(dir.join("run"))
        .arg(setup.fill_deadline.as_millis().to_string());
    if let Some(delay) = &setup.agent_delay_ms {
        command
            .arg(dir.join("cache"))
            .arg(&image.sources)
            .arg(delay.start.to_string())
            .arg(delay.end.to_string());
    }
    command.stdin(Stdio::null()).spawn().unwrap()
}

impl Node {
    /// Starts the daemons below `dir` and waits until they serve.
    pub(crate) fn start(dir: &Path, image: &Image, setup: &Setup) -> Self {
        Self::start_by(&[], dir, image, setup)
    }

    /// The same, with the daemons started by another program that ends by executing its arguments.
    pub(crate) fn start_by(by: &[&str], dir: &Path, image: &Image, setup: &Setup) -> Self {
        let node = Self {
            dir: dir.to_owned(),
            holder: spawn_holder_by(by, dir, image, setup),
            mounts: Vec::new(),
            orphans: Vec::new(),
        };
        node.mountd().ping().unwrap();
        node
    }

    /// Kills the holder, leaving its children, and starts another.
    pub(crate) fn replace_holder(&mut self, image: &Image, setup: &Setup) {
        self.orphans = vec![self.pid_of("mountd"), self.pid_of("agent")];
        self.holder.kill().unwrap();
        self.holder.wait().unwrap();
        self.holder = spawn_holder(&self.dir, image, setup);
        eventually("another holder", || self.try_holder());
    }

    pub(crate) fn try_holder(&self) -> Option<HolderClient> {
        HolderClient::connect(&self.run_dir()).ok()
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    pub(crate) fn cache(&self) -> CacheDir {
        CacheDir::new(self.dir.join("cache"))
    }

    pub(crate) fn mountd(&self) -> MountdClient {
        MountdClient::connect(&self.run_dir(), PATIENCE).expect("a mount daemon")
    }

    pub(crate) fn holder(&self) -> HolderClient {
        HolderClient::connect(&self.run_dir()).expect("a holder")
    }

    pub(crate) fn holder_pid(&self) -> u32 {
        self.holder.id()
    }

    /// The process of a child, once it runs.
    pub(crate) fn pid_of(&self, child: &str) -> u32 {
        eventually(child, || {
            let status = self.holder().status().unwrap();
            status.into_iter().find(|c| c.name == child)?.pid
        })
    }

    /// Has both daemons run by another program; why not, if it was given up.
    pub(crate) fn run_by(&self, program: &Path) -> Option<String> {
        let mut wanted = self.holder().programs().unwrap().children;
        for child in &mut wanted {
            child.argv[0] = program.into();
        }
        // The agent first.
        wanted.sort_by(|a, b| a.name.cmp(&b.name));
        self.holder().replace(&wanted).unwrap();
        eventually("the replacement is over", || {
            let programs = self.holder().programs().ok()?;
            (!programs.replacing).then_some(programs.given_up)
        })
    }

    pub(crate) fn restarts_of(&self, child: &str) -> u64 {
        let status = self.holder().status().unwrap();
        status
            .into_iter()
            .find(|c| c.name == child)
            .unwrap()
            .restarts
    }

    /// Creates the blobs in the cache and registers them; the device files.
    pub(crate) fn register(&self, image: &Image) -> Vec<PathBuf> {
        let mut wanted = Vec::new();
        for (id, map) in &image.blobs {
            let dir = self.cache().blob_dir(id);
            match BlobFile::open(&dir, id, || map.clone(), Trust::SameBoot) {
                // Closed at once: the agent is the one that writes.
                Ok(blob) => drop(blob),
                // It has it open already.
                Err(CacheError::Busy(_)) => {}
                Err(error) => panic!("{error}"),
            }
            wanted.push(BlobRegistration { id: *id, dir });
        }
        let registered = self.mountd().register_blobs(wanted).unwrap();
        registered.into_iter().map(|blob| blob.path).collect()
    }

    /// Mounts the image as a whole tree over FUSE.
    pub(crate) fn mount_tree(&mut self, image: &Image) -> PathBuf {
        self.register(image);
        let target = self.dir.join("tree");
        std::fs::create_dir_all(&target).unwrap();
        let tree = TreeMount {
            flist: image.flist.clone(),
            at: target.clone(),
            blobs: image.blobs.iter().map(|(id, _)| *id).collect(),
        };
        self.mounts.push(target.clone());
        self.mountd().mount_tree(tree.clone()).unwrap();
        self.mountd().mount_tree(tree).expect("harmless");
        target
    }

    /// Registers the blobs and mounts the image as EROFS.
    pub(crate) fn mount(&mut self, image: &Image, options: ErofsOptions) -> PathBuf {
        let devices = self.register(image);
        let mut mountd = self.mountd();
        let target = self.dir.join("mnt");
        std::fs::create_dir_all(&target).unwrap();
        mount_erofs(&image.flist, &devices, options)
            .unwrap()
            .attach(&target)
            .unwrap();
        self.mounts.push(target.clone());
        let record = MountRecord {
            id: "test".into(),
            flist: image.flist.clone(),
            target: target.clone(),
            mode: "erofs".into(),
            blobs: image.blobs.iter().map(|(id, _)| *id).collect(),
            extra: std::collections::BTreeMap::new(),
        };
        mountd.put_mount_record(record).unwrap();
        target
    }

    pub(crate) fn unmount_all(&mut self) {
        for target in self.mounts.drain(..).rev() {
            unmount(target, UnmountFlags::empty()).unwrap();
        }
    }

    /// What `umount -f` does: every request of the connection fails, for ever.
    pub(crate) fn abort_blobfs(&self) {
        // EBUSY: the EROFS mount uses it; the connection is gone all the same.
        let _ = unmount(self.run_dir().join("blobs"), UnmountFlags::FORCE);
    }

    pub(crate) fn blobfs_is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.contains(self.run_dir().join("blobs").to_str().unwrap())
    }

    /// An overlay with an empty upper above `lower`.
    pub(crate) fn overlay(&mut self, lower: &Path) -> PathBuf {
        let [upper, work, target] = ["upper", "work", "merged"].map(|name| self.dir.join(name));
        for dir in [&upper, &work, &target] {
            std::fs::create_dir_all(dir).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        let options = std::ffi::CString::new(options).unwrap();
        mount(
            "overlay",
            &target,
            "overlay",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .unwrap();
        self.mounts.push(target.clone());
        target
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for target in self.mounts.iter().rev() {
            let _ = unmount(target, UnmountFlags::DETACH);
        }
        let children = HolderClient::connect(&self.run_dir())
            .and_then(|holder| holder.status())
            .unwrap_or_default();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        for pid in children.iter().filter_map(|child| child.pid) {
            kill(pid);
        }
        for pid in &self.orphans {
            kill(*pid);
        }
        let _ = unmount(self.run_dir().join("blobs"), UnmountFlags::DETACH);
    }
}

/// SIGKILL to one process.
pub(crate) fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

/// A signal to one process; one that is gone already is as good.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).expect("a process id");
    let _ = kill_process(pid, signal);
}

/// Memory of a process in KiB: resident, and of that not shared with files.
pub(crate) fn memory_kib(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(0)
    };
    (field("VmRSS:"), field("RssAnon:"))
}

/// What a reader process reports.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Report {
    pub(crate) reads: u64,
    pub(crate) maps: u64,
    pub(crate) walks: u64,
    pub(crate) execs: u64,
    pub(crate) bytes: u64,
    pub(crate) failures: Vec<String>,
    pub(crate) worst_ms: u64,
}

/// Reader processes; killed on drop.
pub(crate) struct Readers {
    running: Vec<(Child, Option<ChildStdin>)>,
}

impl Readers {
    pub(crate) fn start(root: &Path, processes: u64, threads: u64, seed: u64) -> Self {
        let running = (0..processes)
            .map(|process| {
                let mut child = Command::new(testnode())
                    .arg("reader")
                    .arg(root)
                    .arg((seed * 100 + process).to_string())
                    .arg(threads.to_string())
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                let stdin = child.stdin.take();
                (child, stdin)
            })
            .collect();
        Self { running }
    }

    /// Ends them and sums up; a reader that was killed (SIGBUS) or does not end
    /// is a failure.
    pub(crate) fn finish(mut self) -> Report {
        let mut total = Report::default();
        for (_, stdin) in &mut self.running {
            stdin.take();
        }
        for (child, _) in &mut self.running {
            let status = eventually("readers end (none may hang)", || child.try_wait().unwrap());
            let mut text = String::new();
            std::io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut text).unwrap();
            match serde_json::from_str::<Report>(&text) {
                Ok(report) if status.success() => {
                    total.reads += report.reads;
                    total.maps += report.maps;
                    total.walks += report.walks;
                    total.execs += report.execs;
                    total.bytes += report.bytes;
                    total.worst_ms = total.worst_ms.max(report.worst_ms);
                    total.failures.extend(report.failures);
                }
                _ => total
                    .failures
                    .push(format!("a reader ended with {status}: {text}")),
            }
        }
        total
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        for (child, _) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
