//! Starting a program again and again: by a command line, and as barely as a sandbox can be made.

use std::ffi::CString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, execve, pipe, pivot_root};
use serde_json::{Value, json};

use crate::sys;

/// A command line, timed from outside.
#[derive(clap::Args)]
pub(crate) struct Spawn {
    #[arg(long, default_value_t = 100)]
    count: usize,
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

/// The least that gives a program a root file system, namespaces and limits of its own.
#[derive(clap::Args)]
pub(crate) struct Launch {
    /// Tree below the overlay
    #[arg(long)]
    lower: PathBuf,
    #[arg(long, default_value_t = 100)]
    count: usize,
    /// A network namespace, too
    #[arg(long)]
    network: bool,
    program: PathBuf,
}

/// Milliseconds of each.
pub(crate) fn spawn(ask: &Spawn) -> Result<Value> {
    let mut command = Command::new(&ask.command[0]);
    command.args(&ask.command[1..]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    times(ask.count, || {
        let status = command.status().context("start the command")?;
        ensure!(status.success(), "the command ended with {status}");
        Ok(())
    })
}

/// Milliseconds of each.
pub(crate) fn launch(ask: &Launch) -> Result<Value> {
    let mut flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    flags |= libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
    if ask.network {
        flags |= libc::CLONE_NEWNET;
    }
    let groups = Groups::find()?;
    times(ask.count, || once(ask, flags, &groups))
}

fn times(count: usize, mut work: impl FnMut() -> Result<()>) -> Result<Value> {
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        work()?;
        all.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(json!({ "ms": all }))
}

fn once(ask: &Launch, flags: libc::c_int, groups: &Groups) -> Result<()> {
    groups.make()?;
    let (wait, go) = pipe()?;
    let child = match sys::clone(flags)? {
        0 => {
            drop(go);
            // The parent writes a byte once this process has ids and limits.
            let may = nix::unistd::read(&wait, &mut [0]) == Ok(1);
            let why = if may { become_program(ask).err() } else { None };
            eprintln!("the bare launcher's child failed: {why:?}");
            sys::exit(125)
        }
        pid => pid,
    };
    fs::write(format!("/proc/{child}/uid_map"), "0 0 4294967295")?;
    fs::write(format!("/proc/{child}/gid_map"), "0 0 4294967295")?;
    groups.add(child)?;
    fs::File::from(go).write_all(b"g")?;
    let ended = waitpid(Pid::from_raw(child), None)?;
    ensure!(
        matches!(ended, WaitStatus::Exited(_, 0)),
        "the program ended with {ended:?}"
    );
    groups.remove()
}

/// In the new namespaces: the overlay becomes the root, and this process the program.
fn become_program(ask: &Launch) -> nix::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(
        Some("tmpfs"),
        "/tmp",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=64m"),
    )?;
    for name in ["/tmp/upper", "/tmp/work", "/tmp/root"] {
        nix::unistd::mkdir(name, nix::sys::stat::Mode::S_IRWXU)?;
    }
    let lower = ask.lower.display();
    let options = format!("lowerdir={lower},upperdir=/tmp/upper,workdir=/tmp/work,volatile");
    let flags = MsFlags::empty();
    mount(
        Some("overlay"),
        "/tmp/root",
        Some("overlay"),
        flags,
        Some(options.as_str()),
    )?;
    chdir("/tmp/root")?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    let program = CString::new(ask.program.as_os_str().as_bytes()).expect("a path without NUL");
    execve(&program, &[&program], &[] as &[&CString]).map(|_| ())
}

/// A group of its own in each hierarchy, with a limit in each.
struct Groups(Vec<(PathBuf, &'static str, &'static str)>);

impl Groups {
    /// Of cgroup v2 where it has the controllers, else of v1.
    fn find() -> Result<Self> {
        let top = Path::new("/sys/fs/cgroup");
        let name = format!("lamina-bench-{}", std::process::id());
        if top.join("cgroup.controllers").exists() {
            let group = top.join(name);
            return Ok(Self(vec![
                (group.clone(), "memory.max", "67108864"),
                (group.clone(), "pids.max", "64"),
                (group, "cpu.max", "100000 100000"),
            ]));
        }
        let groups = [
            ("memory", "memory.limit_in_bytes", "67108864"),
            ("pids", "pids.max", "64"),
            ("cpu", "cpu.cfs_quota_us", "100000"),
        ];
        let groups = groups.map(|(of, file, limit)| (top.join(of).join(&name), file, limit));
        ensure!(
            groups
                .iter()
                .all(|(path, ..)| path.parent().is_some_and(Path::exists)),
            "this machine has no cgroup hierarchies for memory, pids and cpu"
        );
        Ok(Self(groups.into()))
    }

    fn make(&self) -> Result<()> {
        for (path, file, limit) in &self.0 {
            match fs::create_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| format!("make {}", path.display()));
                }
                _ => fs::write(path.join(file), limit).context("set a limit")?,
            }
        }
        Ok(())
    }

    fn add(&self, pid: i32) -> Result<()> {
        for (path, ..) in &self.0 {
            fs::write(path.join("cgroup.procs"), pid.to_string()).context("join a cgroup")?;
        }
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        for (path, ..) in &self.0 {
            match fs::remove_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
