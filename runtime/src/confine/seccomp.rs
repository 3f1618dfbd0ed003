//! The seccomp filters: an allow-list, and what is refused in a way programs understand.
//!
//! ```text
//!   call ──> on the allow-list? ──no──> ENOSYS      "this kernel does not have it": programs do without
//!              │ yes
//!              └──> refused by its arguments or by name? ──yes──> EPERM
//! ```
//!
//! Both are compiled once, by the spawner. The kernel answers calls that are allowed whatever their arguments are from
//! a bitmap, without running either.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::syscalls::{ALLOWED, REFUSED};
use crate::spawner::{Failed, Step};

/// What a sandbox's processes may ask of the kernel.
pub(crate) struct Filter {
    allow: BpfProgram,
    refuse: BpfProgram,
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

impl Filter {
    pub(crate) fn build() -> Result<Self, Failed> {
        let build = || -> Result<Self, seccompiler::Error> {
            Ok(Self {
                allow: allow_list()?,
                refuse: refusals()?,
            })
        };
        build()
            .map_err(std::io::Error::other)
            .step("compile the seccomp filter")
    }

    /// For this process and all it makes. The filter added last decides between two refusals.
    pub(crate) fn apply(&self) -> Result<(), Failed> {
        for filter in [&self.allow, &self.refuse] {
            seccompiler::apply_filter(filter)
                .map_err(std::io::Error::other)
                .step("apply the seccomp filter")?;
        }
        Ok(())
    }
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, otherwise, matching, arch)?.try_into()?)
}

fn allow_list() -> Result<BpfProgram, seccompiler::Error> {
    // What is refused by name passes here, to be refused by the other one.
    let names = ALLOWED.iter().chain(REFUSED).copied();
    let arguments = [
        libc::SYS_clone,
        libc::SYS_socket,
        libc::SYS_ioctl,
        libc::SYS_personality,
    ];
    let rules = names
        .chain(arguments)
        .map(|call| (call, Vec::new()))
        .collect();
    let no_such_call = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    compile(rules, no_such_call, SeccompAction::Allow)
}

fn refusals() -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_clone, new_namespaces()?);
    rules.insert(libc::SYS_socket, strange_sockets()?);
    rules.insert(libc::SYS_ioctl, typing_for_others()?);
    rules.insert(libc::SYS_personality, strange_personalities()?);
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    compile(rules, SeccompAction::Allow, refused)
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, seccompiler::Error> {
    Ok(SeccompRule::new(conditions)?)
}

fn condition(argument: u8, op: Op, value: u64) -> Result<SeccompCondition, seccompiler::Error> {
    Ok(SeccompCondition::new(argument, Len::Dword, op, value)?)
}

/// A user namespace would give all capabilities in it, and with them most of the kernel to attack.
fn new_namespaces() -> Result<Vec<SeccompRule>, seccompiler::Error> {
    let namespaces = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWCGROUP,
    ];
    let one = |flag: libc::c_int| {
        let bit = u64::from(flag.cast_unsigned());
        rule(vec![condition(0, Op::MaskedEq(bit), bit)?])
    };
    namespaces.into_iter().map(one).collect()
}

/// Unix, IP and the netlink that tells of interfaces; everything else (vsock, raw packets, kernel crypto, …) is
/// seldom needed, little tested, or leads out.
fn strange_sockets() -> Result<Vec<SeccompRule>, seccompiler::Error> {
    let usual = [
        libc::AF_UNIX,
        libc::AF_INET,
        libc::AF_INET6,
        libc::AF_NETLINK,
    ];
    let not = |family: &libc::c_int| condition(0, Op::Ne, u64::from(family.cast_unsigned()));
    let families = rule(usual.iter().map(not).collect::<Result<_, _>>()?)?;
    let netlink = rule(vec![
        condition(0, Op::Eq, u64::from(libc::AF_NETLINK.cast_unsigned()))?,
        condition(2, Op::Ne, u64::from(libc::NETLINK_ROUTE.cast_unsigned()))?,
    ])?;
    Ok(vec![families, netlink])
}

/// Input put into a terminal as if it had been typed there.
fn typing_for_others() -> Result<Vec<SeccompRule>, seccompiler::Error> {
    /// `TIOCLINUX` pastes into the console.
    const TIOCLINUX: u64 = 0x541c;
    [libc::TIOCSTI, TIOCLINUX]
        .into_iter()
        .map(|command| rule(vec![condition(1, Op::Eq, command)?]))
        .collect()
}

/// Linux with or without a fixed address layout is usual (debuggers), and asking which; the rest emulates other systems
/// or makes all memory executable.
fn strange_personalities() -> Result<Vec<SeccompRule>, seccompiler::Error> {
    const LINUX: u64 = 0;
    const NO_RANDOMIZE: u64 = 0x004_0000;
    const ASK: u64 = 0xffff_ffff;
    let not = |value| condition(0, Op::Ne, value);
    let conditions = [LINUX, NO_RANDOMIZE, ASK].into_iter().map(not);
    Ok(vec![rule(conditions.collect::<Result<_, _>>()?)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_compile_and_no_call_is_both_allowed_and_refused() {
        assert!(Filter::build().is_ok());
        for call in REFUSED {
            assert!(!ALLOWED.contains(call), "{call}");
        }
    }
}
