//! Daemons when the system has no descriptors left for them.

use crate::machine::{Machine, snapshot, wait_until};
use crate::mounts::packed;
use lamina_nodeagent::fill::AGENT_SOCKET;
use lamina_nodeagent::holder::HOLDER_SOCKET;
use lamina_nodeagent::instance::Instance;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A daemon that cannot open anything more while this lives.
struct Starved {
    pid: Pid,
    before: Rlimit,
}

impl Starved {
    fn new(pid: i32) -> Self {
        let open: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let lowest_free = (0..1 << 20).find(|fd: &u64| !open.contains(&fd.to_string()));
        let pid = Pid::from_raw(pid).unwrap();
        let set = |limit| prlimit(Some(pid), Resource::Nofile, limit).unwrap();
        let before = set(Rlimit {
            current: lowest_free,
            // Inherited: theirs is ours.
            maximum: getrlimit(Resource::Nofile).maximum,
        });
        Self { pid, before }
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        let _ = prlimit(Some(self.pid), Resource::Nofile, self.before);
    }
}

fn dial(path: &Path, kind: SocketType) -> OwnedFd {
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

/// How often a daemon said that it cannot accept.
fn complaints(machine: &Machine) -> usize {
    machine.log().matches("cannot be accepted").count()
}

/// Once, one ENFILE, whoever caused it, ended the holder and with it every mount; or the agent, and
/// with it the fetches under way.
#[test]
fn a_daemon_without_descriptors_to_spare_goes_on_when_it_has_some_again() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m", "--no-prefetch"]);
    let run_dir: PathBuf = machine.instances().remove(0);
    let api = Instance::at(run_dir.clone()).api_socket();
    let daemons = machine.daemons();
    for (role, socket, kind) in [
        ("holder", run_dir.join(HOLDER_SOCKET), SocketType::SEQPACKET),
        ("agent", run_dir.join(AGENT_SOCKET), SocketType::STREAM),
        ("agent", api, SocketType::STREAM),
    ] {
        let before = complaints(&machine);
        let starved = Starved::new(machine.daemon(role).unwrap());
        // The kernel takes them; more than what the daemon may close meanwhile.
        let waiting: Vec<OwnedFd> = (0..8).map(|_| dial(&socket, kind)).collect();
        let noticed = || complaints(&machine) > before || machine.daemons() != daemons;
        assert!(wait_until(noticed), "{role}: {}", machine.log());
        drop(starved);
        drop(waiting);
        assert_eq!(machine.daemons(), daemons, "{role}: {}", machine.log());
    }
    machine.ok(&["mounts"]);
    let expected = snapshot(&machine.path("source"));
    assert_eq!(snapshot(&machine.path("m")), expected);
    machine.ok(&["umount", "m"]);
    assert!(wait_until(|| machine.daemons().is_empty()));
}
