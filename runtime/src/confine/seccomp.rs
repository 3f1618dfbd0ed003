//! The seccomp filters: an allow-list, and what is refused in a way programs understand.
//!
//! ```text
//!   call ──> its number ──┬──> on no list: ENOSYS     "this kernel does not have it": programs do without
//!                         ├──> refused: EPERM
//!                         └──> allowed ──> refused by its arguments? ──yes──> EPERM
//! ```
//!
//! Both are compiled once, by the spawner. The kernel answers calls that are allowed whatever their arguments are from
//! a bitmap, without running either; it makes that by running each filter for every call there is whenever one is applied,
//! so the first one is a search tree: as a list it took 0.7 ms of each start.

use std::collections::BTreeMap;
use std::mem;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

use super::syscalls::{ALLOWED, REFUSED};
use crate::spawner::{Failed, Step};

/// What a sandbox's processes may ask of the kernel.
pub(crate) struct Filter {
    by_number: BpfProgram,
    by_arguments: BpfProgram,
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

impl Filter {
    pub(crate) fn build() -> Result<Self, Failed> {
        let build = || -> Result<Self, seccompiler::Error> {
            Ok(Self {
                by_number: by_number(),
                by_arguments: by_arguments()?,
            })
        };
        build()
            .map_err(std::io::Error::other)
            .step("compile the seccomp filter")
    }

    /// For this process and all it makes.
    pub(crate) fn apply(&self) -> Result<(), Failed> {
        for filter in [&self.by_number, &self.by_arguments] {
            seccompiler::apply_filter(filter)
                .map_err(std::io::Error::other)
                .step("apply the seccomp filter")?;
        }
        Ok(())
    }
}

/// Allowed with some arguments only.
const BY_ARGUMENTS: [i64; 4] = [
    libc::SYS_clone,
    libc::SYS_socket,
    libc::SYS_ioctl,
    libc::SYS_personality,
];

/// What a call with this number is answered: as seccomp's return values (`seccomp(2)`).
fn answer(call: i64) -> u32 {
    let errno = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
    match call {
        call if REFUSED.contains(&call) => errno(libc::EPERM),
        call if ALLOWED.contains(&call) || BY_ARGUMENTS.contains(&call) => libc::SECCOMP_RET_ALLOW,
        _ => errno(libc::ENOSYS),
    }
}

fn by_number() -> BpfProgram {
    let known = || ALLOWED.iter().chain(REFUSED).chain(&BY_ARGUMENTS);
    let past_last = known().max().map_or(0, |last| last + 1);
    // From which number on which answer is given.
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for call in 0..=past_last {
        let given = answer(call);
        if ranges.last().is_none_or(|(_, last)| *last != given) {
            ranges.push((call.cast_unsigned() as u32, given));
        }
    }
    let mut program = vec![
        load(mem::offset_of!(libc::seccomp_data, arch)),
        jump(libc::BPF_JEQ, AUDIT_ARCH, 1),
        finish(libc::SECCOMP_RET_KILL_PROCESS),
        load(mem::offset_of!(libc::seccomp_data, nr)),
    ];
    program.extend(tree(&ranges));
    program
}

/// What this program's calls are marked with (`linux/audit.h`): those of another one have other numbers.
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// Finds the range of the number that was loaded, each half without the other one's steps.
fn tree(ranges: &[(u32, u32)]) -> BpfProgram {
    match ranges {
        [] => Vec::new(),
        [(_, given)] => vec![finish(*given)],
        ranges => {
            let (below, above) = ranges.split_at(ranges.len() / 2);
            let (left, right) = (tree(below), tree(above));
            let mut program = vec![jump(libc::BPF_JGE, above[0].0, left.len())];
            program.extend(left);
            program.extend(right);
            program
        }
    }
}

fn load(offset: usize) -> sock_filter {
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset as u32, 0)
}

/// Passes over so many steps if it is so, over none if not.
fn jump(test: u32, value: u32, over: usize) -> sock_filter {
    step(libc::BPF_JMP | test | libc::BPF_K, value, over)
}

fn finish(answer: u32) -> sock_filter {
    step(libc::BPF_RET | libc::BPF_K, answer, 0)
}

fn step(code: u32, k: u32, over: usize) -> sock_filter {
    sock_filter {
        code: code as u16,
        // A test follows them all: the lists make no longer ones.
        jt: over as u8,
        jf: 0,
        k,
    }
}

fn by_arguments() -> Result<BpfProgram, seccompiler::Error> {
    let rules = Rules::from([
        (libc::SYS_clone, new_namespaces()?),
        (libc::SYS_socket, strange_sockets()?),
        (libc::SYS_ioctl, typing_for_others()?),
        (libc::SYS_personality, strange_personalities()?),
    ]);
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?.try_into()?)
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

    /// What the program says of a call, and after how many steps (`linux/filter.h`).
    fn run(program: &BpfProgram, arch: u32, call: u32) -> (u32, usize) {
        let (mut at, mut loaded, mut steps) = (0, 0, 0);
        loop {
            let step = &program[at];
            (at, steps) = (at + 1, steps + 1);
            let is_so = match u32::from(step.code) {
                0x20 if step.k == 0 => {
                    loaded = call;
                    continue;
                }
                0x20 if step.k == 4 => {
                    loaded = arch;
                    continue;
                }
                0x06 => return (step.k, steps),
                0x15 => loaded == step.k,
                0x35 => loaded >= step.k,
                code => panic!("{code:#x}"),
            };
            at += usize::from(if is_so { step.jt } else { step.jf });
        }
    }

    #[test]
    fn every_number_is_answered_as_the_lists_say_and_soon() {
        let program = by_number();
        for call in (0..2_000).chain([0x4000_0000, 0x4000_003b, u32::MAX]) {
            let (given, steps) = run(&program, AUDIT_ARCH, call);
            assert_eq!(given, answer(call.into()), "{call}");
            assert!(steps < 16, "{steps}");
        }
        assert_eq!(answer(libc::SYS_read), libc::SECCOMP_RET_ALLOW);
        assert_eq!(
            answer(libc::SYS_mount) & 0xffff,
            libc::EPERM.cast_unsigned()
        );
        assert_eq!(
            answer(libc::SYS_io_uring_setup) & 0xffff,
            libc::ENOSYS.cast_unsigned()
        );
        // Calls of another architecture.
        assert_eq!(
            run(&program, AUDIT_ARCH ^ 1, 0).0,
            libc::SECCOMP_RET_KILL_PROCESS
        );
    }

    #[test]
    fn filters_compile_and_no_call_is_both_allowed_and_refused() {
        assert!(Filter::build().is_ok());
        for call in REFUSED {
            assert!(!ALLOWED.contains(call), "{call}");
        }
    }
}
