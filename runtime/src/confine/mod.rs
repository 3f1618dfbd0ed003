//! What is taken away from a sandbox's first process before it makes the command's: everything that can be.

mod seccomp;
mod syscalls;

use std::os::fd::AsFd;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{CapabilitySet, CapabilitySets};

pub(crate) use seccomp::Filter;

use crate::spawner::{Failed, Step};
use crate::spec::{Capability, Identity, ProcessLimits, Spec};
use crate::sys;

/// Becomes the command's user, without any privilege that could be used or regained.
pub(crate) fn confine(spec: &Spec, filter: &Filter) -> Result<(), Failed> {
    limit(spec.limits).step("set limits")?;
    // Whoever is not root inside has none, and cannot become root: there are no new privileges.
    let kept = match spec.user.uid {
        0 => of(&spec.capabilities),
        _ => CapabilitySet::empty(),
    };
    drop_bounding_set(kept).step("drop capabilities")?;
    become_user(&spec.user)?;
    drop_capabilities(kept).step("drop capabilities")?;
    // A copy of the spawner is nobody's business: not to be traced, not to be read in /proc.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("hide from tracers")?;
    end_with_spawner()?;
    rustix::thread::set_no_new_privs(true).step("forbid new privileges")?;
    second_wall().step("apply Landlock")?;
    filter.apply()
}

/// Landlock, where the kernel has it: says again what namespaces and the filter say, and on the host's network keeps
/// abstract sockets out of reach, which nothing else does.
fn second_wall() -> std::io::Result<()> {
    let Ok(version) = sys::landlock::version() else {
        return Ok(());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty())?;
    sys::landlock::restrict(version, root.as_fd())
}

/// Whether this kernel keeps sandboxes that share its network from abstract Unix sockets of others, on which container
/// managers and desktops listen and believe whoever reaches them: Linux 6.12 and later, with Landlock.
pub fn keeps_from_abstract_sockets() -> bool {
    sys::landlock::version().is_ok_and(|version| version >= sys::landlock::SCOPES_FROM)
}

/// Changing users forgets this, so it is said again after every change.
pub(crate) fn end_with_spawner() -> Result<(), Failed> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .step("end with the spawner")
}

fn become_user(user: &Identity) -> Result<(), Failed> {
    let step = || format!("become user {}:{}", user.uid, user.gid);
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_thread_groups(&groups).step(&step())?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).step(&step())?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).step(&step())
}

fn of(capabilities: &[Capability]) -> CapabilitySet {
    let bits = capabilities.iter().map(|capability| match capability {
        Capability::Chown => CapabilitySet::CHOWN,
        Capability::DacOverride => CapabilitySet::DAC_OVERRIDE,
        Capability::Fowner => CapabilitySet::FOWNER,
        Capability::Fsetid => CapabilitySet::FSETID,
        Capability::Kill => CapabilitySet::KILL,
        Capability::NetBindService => CapabilitySet::NET_BIND_SERVICE,
        Capability::Setfcap => CapabilitySet::SETFCAP,
        Capability::Setgid => CapabilitySet::SETGID,
        Capability::Setuid => CapabilitySet::SETUID,
    });
    bits.collect()
}

/// Also those this program does not know the names of.
fn drop_bounding_set(kept: CapabilitySet) -> rustix::io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Past the kernel's last one.
            Err(rustix::io::Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn drop_capabilities(kept: CapabilitySet) -> rustix::io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    let left = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, left)
}

/// Open files as programs expect them: select(2) can name 1,024.
const OPEN_FILES: u64 = 1_024;

fn limit(limits: ProcessLimits) -> rustix::io::Result<()> {
    let open_files = limits.open_files_max;
    lower(Resource::Nofile, OPEN_FILES.min(open_files), open_files)?;
    // Crashes are the command's own affair and leave nothing outside.
    lower(Resource::Core, 0, 0)?;
    // Kernel memory that no cgroup counts everywhere.
    lower(Resource::Sigpending, 4_096, 4_096)?;
    lower(Resource::Msgqueue, 819_200, 819_200)?;
    lower(Resource::Memlock, 8 << 20, 8 << 20)?;
    lower(Resource::Nice, 0, 0)?;
    lower(Resource::Rtprio, 0, 0)?;
    match limits.processes_max {
        Some(processes) => lower(Resource::Nproc, processes, processes),
        None => Ok(()),
    }
}

/// Never above what is allowed already.
fn lower(resource: Resource, soft: u64, hard: u64) -> rustix::io::Result<()> {
    let maximum = getrlimit(resource)
        .maximum
        .map_or(hard, |now| now.min(hard));
    let limit = Rlimit {
        current: Some(soft.min(maximum)),
        maximum: Some(maximum),
    };
    setrlimit(resource, limit)
}
