//! A machine of one's own for a test: directories, the command, and an end that leaves nothing.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Longest wait for anything; far above what is ever needed, so that a hang is an error.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Directories for cache, run files, state, stores and mounts; torn down on drop, also after a panic.
pub(crate) struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("lamina-cli")
            .tempdir()
            .unwrap();
        for name in ["run", "state", "cache", "store"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    /// A path inside the machine.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory inside the machine, made.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// The store every test packs to.
    pub(crate) fn store(&self) -> String {
        format!("dir://{}", self.path("store").display())
    }

    /// Runs `lamina` and gives what came of it.
    pub(crate) fn run(&self, args: &[impl AsRef<OsStr>]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lamina"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("LAMINA_RUN_DIR", self.path("run"))
            .env("LAMINA_STATE_DIR", self.path("state"))
            .env("LAMINA_CACHE_DIR", self.path("cache"))
            .env_remove("RUST_LOG");
        command.output().unwrap()
    }

    /// Runs `lamina`, which must succeed; gives its standard output.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(
            output.status.success(),
            "lamina {args:?}: {}\n{}",
            text(&output.stderr),
            self.log()
        );
        text(&output.stdout)
    }

    /// Runs `lamina`, which must fail with this code; gives its standard error.
    pub(crate) fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let said = text(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(code),
            "lamina {args:?}: {said}\n{}",
            self.log()
        );
        assert!(!said.contains("panicked"), "lamina {args:?}: {said}");
        said
    }

    /// Result of a verb as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        let args: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        serde_json::from_str(&self.ok(&args)).unwrap()
    }

    /// What the daemons logged.
    pub(crate) fn log(&self) -> String {
        let logs = self
            .instances()
            .into_iter()
            .map(|dir| std::fs::read_to_string(dir.join("log")));
        logs.map(Result::unwrap_or_default).collect()
    }

    /// The instance directories.
    pub(crate) fn instances(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.path("run"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    /// Mount points below the machine, deepest last.
    pub(crate) fn mounted(&self) -> Vec<PathBuf> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(PathBuf::from);
        points
            .filter(|point| point.starts_with(self.dir.path()))
            .collect()
    }

    /// Processes that were started with a path of the machine among their arguments.
    pub(crate) fn daemons(&self) -> Vec<i32> {
        self.processes(&|_| true)
    }

    /// The process of a role (`holder`, `mountd`, `agent`).
    pub(crate) fn daemon(&self, role: &str) -> Option<i32> {
        self.processes(&|args| args.contains(&format!("--role\0{role}")))
            .first()
            .copied()
    }

    fn processes(&self, wanted: &dyn Fn(&str) -> bool) -> Vec<i32> {
        let mine = self.dir.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            let args = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let args = text(&args);
            if args.contains("mountd\0--role") && args.contains(&mine) && wanted(&args) {
                found.push(pid);
            }
        }
        found.sort_unstable();
        found
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        /// Looks in a row that found nothing: a daemon may be about to be started, or to mount.
        const QUIET: usize = 3;
        let mut quiet = 0;
        let _ = wait_until(|| {
            let (daemons, mounted) = (self.daemons(), self.mounted());
            for &pid in &daemons {
                kill(pid);
            }
            for point in mounted.iter().rev() {
                let _ = Command::new("umount").arg("-l").arg(point).output();
            }
            let found = !daemons.is_empty() || !mounted.is_empty();
            quiet = if found { 0 } else { quiet + 1 };
            std::thread::sleep(Duration::from_millis(20));
            quiet == QUIET
        });
    }
}

/// SIGKILL, by pid.
pub(crate) fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// Waits for a condition; `false` when the deadline passed first.
#[must_use]
pub(crate) fn wait_until(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What find(1) and md5sum(1) say of a tree: names, types, modes, owners, sizes, times, links, contents.
pub(crate) fn snapshot(dir: &Path) -> String {
    let script = r"find . -printf '%P|%y|%m|%U|%G|%n|%T@|%l|' \( -type f -printf '%s' -o -true \) -printf '\n' | sort
        find . -type f -print0 | sort -z | xargs -0 -r md5sum";
    let output = Command::new("sh")
        .arg("-c")
        .arg(script)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "snapshot of {}: {}",
        dir.display(),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// A tree with one of everything a test cares about; about 3 MB.
pub(crate) fn sample_tree(dir: &Path) {
    let script = r#"
        set -e
        mkdir -p a/b/c empty many
        printf 'hello\n' > a/hello; printf '' > a/nothing
        head -c 700000 /dev/urandom > a/b/random; yes lamina | head -c 2000000 > a/b/text
        ln -s ../hello a/b/link; ln a/hello a/b/c/hard; ln a/b/random hardrandom
        mkfifo fifo; mknod null c 1 3
        truncate -s 1M sparse; printf x | dd of=sparse bs=1 seek=600000 conv=notrunc status=none
        for i in $(seq 300); do echo "file $i" > many/$i; done
        chmod 4755 a/hello; chmod 1777 empty; chown 123:456 a/b/text
        touch -d '2001-02-03 04:05:06.789012345' a/b/text
        printf '\377\376bad' > "$(printf 'na\377me')"
        setfattr -n user.test -v value a/hello
    "#;
    let output = Command::new("bash")
        .arg("-c")
        .arg(script)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "sample tree: {}",
        text(&output.stderr)
    );
}
