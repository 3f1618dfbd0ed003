//! The first process of a sandbox: sets it up, runs the command, and is its pid 1.
//!
//! It is a copy of the spawner, in namespaces of its own, with all capabilities over them and none over the host
//! until [`confine`](crate::confine) has taken them away; only then does the command's process begin.
//!
//! What always holds: nothing of the image runs before everything is taken away; when the init ends, the kernel ends
//! all that runs in the sandbox; it ends with its supervisor and with the spawner.

mod command;
mod root;
mod serve;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use nix::sys::signal::SigSet;
use rustix::fs::{Gid, Uid};

use crate::confine::{self, Filter};
use crate::spawner::{Failed, Step};
use crate::spec::{SPEC_MAX, Spec};
use crate::sys;
use crate::wire::{self, FromSandbox, ToInit};

/// Is the init of a sandbox; gives the code to exit with, which nobody looks at.
pub(crate) fn run(control: BorrowedFd<'_>, own_network: bool, filter: &Filter) -> i32 {
    // The copy of the spawner's socket goes away, too: who listens to the supervisor is the spawner alone.
    let Ok(control) = sys::process::close_all_but(control) else {
        return 1;
    };
    if confine::end_with_spawner().is_err() {
        return 1;
    }
    sys::process::default_signals();
    // Waited for by descriptor; a pid 1 that has no handlers is sent no signal but from outside anyway.
    if SigSet::all().thread_block().is_err() {
        return 1;
    }
    // Once its ids have names.
    let Ok(Some((ToInit::GetReady, _))) = wire::receive(&control) else {
        return 0;
    };
    let ahead = match get_ready(own_network) {
        Ok(ahead) => ahead,
        Err(failed) => return tell(&control, failed),
    };
    match wire::receive(&control) {
        Ok(Some((ToInit::Start, fds))) => match start(&control, fds, ahead, filter) {
            Ok(command) => serve::until_end(&control, command),
            Err(failed) => tell(&control, failed),
        },
        // Nobody wants it any more.
        _ => 0,
    }
}

fn tell(control: &OwnedFd, failed: Failed) -> i32 {
    failed.tell(control.as_fd());
    1
}

/// Everything that is the same for all roots and commands.
fn get_ready(own_network: bool) -> Result<root::Ahead, Failed> {
    prefer_to_be_killed();
    become_root()?;
    nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP).step("make the cgroup namespace")?;
    if own_network {
        sys::net::loopback_up().step("bring the loopback up")?;
    }
    root::Ahead::make()
}

/// What the supervisor handed over.
struct Given {
    spec: Spec,
    root: OwnedFd,
    /// Input, output, error; none with a terminal.
    standard: Option<[OwnedFd; 3]>,
}

fn given(fds: Vec<OwnedFd>) -> Result<Given, Failed> {
    let mut fds = fds.into_iter();
    let (Some(spec), Some(root)) = (fds.next(), fds.next()) else {
        return Err(std::io::Error::other("descriptors are missing")).step("take the order");
    };
    let mut bytes = Vec::new();
    let read = File::from(spec).take(SPEC_MAX).read_to_end(&mut bytes);
    read.step("read what to run")?;
    let spec = postcard::from_bytes(&bytes)
        .map_err(std::io::Error::other)
        .step("understand what to run")?;
    let standard: Vec<OwnedFd> = fds.collect();
    Ok(Given {
        spec,
        root,
        standard: standard.try_into().ok(),
    })
}

fn start(
    control: &OwnedFd,
    fds: Vec<OwnedFd>,
    ahead: root::Ahead,
    filter: &Filter,
) -> Result<command::Command, Failed> {
    let Given {
        spec,
        root,
        standard,
    } = given(fds)?;
    let program = command::Program::new(&spec)?;
    root::enter(root.as_fd(), &ahead, &spec)?;
    drop((root, ahead));
    rustix::system::sethostname(spec.hostname.as_bytes()).step("set the host name")?;
    let standard = match (spec.terminal, standard) {
        (Some(size), _) => command::Standard::terminal(size)?,
        (None, Some(files)) => command::Standard::Files(files),
        (None, None) => {
            return Err(std::io::Error::other("no standard files")).step("take the order");
        }
    };
    root::go_to(&spec.directory)?;
    confine::confine(&spec, filter)?;
    let command = command::Command::spawn(&program, standard)?;
    let fds: Vec<BorrowedFd<'_>> = command.master().into_iter().collect();
    wire::send(control, &FromSandbox::Started, &fds).step("report the start")?;
    Ok(command)
}

/// Whoever is short of memory takes it from sandboxes first. Not worth failing for.
fn prefer_to_be_killed() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
}

/// Root of the new user namespace; until now this process's ids have no name there.
fn become_root() -> Result<(), Failed> {
    rustix::thread::set_thread_groups(&[]).step("leave the host's groups")?;
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid).step("leave the host's group")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).step("leave the host's user")?;
    confine::end_with_spawner()
}
