//! Attacks from inside, as root of the sandbox: each script prints `ESCAPED` if it got what it wanted.

use crate::sandbox::{Bench, Outcome, Wish};
use lamina_runtime::spec::Identity;
use lamina_runtime::{Capability, Ended};

/// What is tried, and how. Whatever fails must fail with an error, not with a hang.
const SCRIPTS: &[(&str, &str)] = &[
    (
        "read the host's files through the root",
        "cat /../../../etc/hostname && echo ESCAPED",
    ),
    (
        "follow a link of the image out of it",
        "cat /etc/out && echo ESCAPED",
    ),
    (
        "reach the root of pid 1",
        "ls /proc/1/root/ && echo ESCAPED",
    ),
    (
        "read pid 1's environment",
        "cat /proc/1/environ && echo ESCAPED",
    ),
    (
        "read pid 1's memory",
        "head -c 1 /proc/1/mem && echo ESCAPED",
    ),
    (
        "read pid 1's program",
        "head -c 4 /proc/1/exe && echo ESCAPED",
    ),
    ("take pid 1's descriptors", "ls /proc/1/fd/ && echo ESCAPED"),
    (
        "find a descriptor that was inherited",
        "for fd in /proc/self/fd/*; do case ${fd##*/} in 0|1|2|3|10) ;; *) echo ESCAPED;; esac; done",
    ),
    (
        "overwrite the program that runs",
        "echo x > /proc/self/exe && echo ESCAPED",
    ),
    (
        "kill pid 1",
        "kill -9 1; sleep 0.1; kill -0 1 || echo ESCAPED",
    ),
    (
        "see processes of the host",
        "for p in /proc/[0-9]*; do [ ${p#/proc/} -gt 100 ] && echo ESCAPED; done",
    ),
    (
        "write a sysctl",
        "echo x > /proc/sys/kernel/hostname && echo ESCAPED",
    ),
    (
        "name a core handler",
        "echo '|/bin/sh' > /proc/sys/kernel/core_pattern && echo ESCAPED",
    ),
    (
        "press a magic key",
        "echo b > /proc/sysrq-trigger && echo ESCAPED",
    ),
    (
        "write to /sys",
        "touch /sys/x || echo 0 > /sys/devices/system/cpu/cpu1/online && echo ESCAPED",
    ),
    (
        "load a program for all by /sys",
        "ls /sys/kernel /sys/fs /sys/firmware && echo ESCAPED",
    ),
    (
        "read kernel memory",
        "[ $(head -c 1 /proc/kcore | wc -c) = 1 ] && echo ESCAPED",
    ),
    (
        "read the kernel's log",
        "dmesg && echo ESCAPED; head -c 1 /dev/kmsg && echo ESCAPED",
    ),
    (
        "read the kernel's keys",
        "[ $(wc -c < /proc/keys) = 0 ] || echo ESCAPED",
    ),
    (
        "mount something",
        "mkdir /m; mount -t tmpfs none /m && echo ESCAPED",
    ),
    (
        "bind something",
        "mkdir /m; mount -o bind /proc /m && echo ESCAPED",
    ),
    (
        "make /proc writable again",
        "mount -o remount,rw /proc/sys && echo ESCAPED",
    ),
    (
        "uncover /proc",
        "umount /proc/kcore && echo ESCAPED; umount /proc && echo ESCAPED",
    ),
    (
        "mount a cgroup hierarchy",
        "mkdir /m; mount -t cgroup2 none /m && echo ESCAPED; ls /sys/fs/cgroup && echo ESCAPED",
    ),
    (
        "mount debugfs",
        "mkdir /m; mount -t debugfs none /m && echo ESCAPED",
    ),
    (
        "change the root",
        "chroot /tmp /bin/true && echo ESCAPED; pivot_root / / && echo ESCAPED",
    ),
    ("leave the chroot", "mkdir /c; chroot /c && echo ESCAPED"),
    (
        "make a user namespace",
        "unshare -U /bin/true && echo ESCAPED",
    ),
    (
        "make a mount namespace",
        "unshare -m /bin/true && echo ESCAPED",
    ),
    (
        "make a network namespace",
        "unshare -n /bin/true && echo ESCAPED",
    ),
    (
        "enter the namespaces of pid 1",
        "nsenter -t 1 -m /bin/true && echo ESCAPED",
    ),
    (
        "make a device",
        "mknod /d b 8 0 && echo ESCAPED; mknod /dev/d c 1 1 && echo ESCAPED",
    ),
    (
        "use a disk that the image has",
        "head -c 1 /bin/disk && echo ESCAPED",
    ),
    (
        "use memory that the image has",
        "head -c 1 /bin/mem && echo ESCAPED",
    ),
    (
        "add a device where devices work",
        "touch /dev/x && echo ESCAPED; rm /dev/null && echo ESCAPED",
    ),
    (
        "change the time",
        "date -s 2001-01-01; [ $(date +%Y) = 2001 ] && echo ESCAPED",
    ),
    ("change the host's name", "hostname evil && echo ESCAPED"),
    (
        "be more important",
        "nice -n -10 true; renice -n -10 $$ && echo ESCAPED; chrt -f 50 true && echo ESCAPED",
    ),
    (
        "bear more than the limit",
        "ulimit -Hn 9999999 && echo ESCAPED; ulimit -c 100 && echo ESCAPED",
    ),
    (
        "change the interfaces",
        "ip link set lo down && echo ESCAPED; ip link add d type dummy && echo ESCAPED",
    ),
    (
        "listen to the wire",
        "arping -c 1 127.0.0.1 && echo ESCAPED",
    ),
    (
        "reach a network",
        "wget -T 2 -O - http://1.1.1.1/ && echo ESCAPED",
    ),
    (
        "find the host's sockets",
        "grep -q @ /proc/net/unix && echo ESCAPED",
    ),
    ("restart the machine", "reboot -f && echo ESCAPED"),
    (
        "add swap",
        "head -c 100000 /dev/zero > /s; mkswap /s; swapon /s && echo ESCAPED",
    ),
    ("load a module", "insmod /bin/busybox && echo ESCAPED"),
    (
        "keep a name in the host's hostname file",
        "echo evil > /etc/hostname; true",
    ),
    ("live on", "(setsid sleep 4711 &); true"),
];

/// What only capabilities over the sandbox's own allow.
const PRIVILEGED: &[(&str, &str)] = &[
    (
        "gain by a set-user-ID program",
        "cp /bin/busybox /mine; chmod 4755 /mine; chown 33 /mine && echo ESCAPED",
    ),
    (
        "become another user",
        "su web -c true && echo ESCAPED; setuidgid web true && echo ESCAPED",
    ),
];

fn assert_failed(what: &str, outcome: &Outcome) {
    assert!(!outcome.out.contains("ESCAPED"), "{what}: {outcome:?}");
    assert!(!outcome.timed_out, "{what} hangs: {outcome:?}");
    assert!(
        matches!(outcome.ended, Ended::Exited(_)),
        "{what}: {outcome:?}"
    );
}

#[test]
fn nothing_leads_out_of_a_sandbox() {
    let bench = Bench::new();
    let hostname = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    for (what, script) in SCRIPTS.iter().chain(PRIVILEGED) {
        assert_failed(what, &bench.sh(&Wish::default(), script));
    }
    assert_eq!(
        std::fs::read_to_string("/etc/hostname").unwrap_or_default(),
        hostname
    );
}

fn with_all_capabilities() -> Wish {
    Wish {
        capabilities: Capability::ALL.to_vec(),
        ..Wish::default()
    }
}

#[test]
fn nor_do_capabilities_lead_out() {
    let bench = Bench::new();
    for (what, script) in SCRIPTS {
        assert_failed(what, &bench.sh(&with_all_capabilities(), script));
    }
}

#[test]
fn capabilities_are_those_asked_for_and_over_the_sandbox_alone() {
    let bench = Bench::new();
    let script = "set -e; touch /f; chown 33:34 /f; stat -c %u:%g /f; cat /etc/shadow; \
        su web -c 'id -u; grep CapEff /proc/self/status'; grep -E '^(CapBnd|CapEff|NoNewPrivs)' /proc/self/status";
    let outcome = bench.sh(&with_all_capabilities(), script);
    // CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, KILL 5, SETGID 6, SETUID 7, NET_BIND_SERVICE 10, SETFCAP 31.
    let expected = "33:34\nsecret\n33\nCapEff:\t0000000000000000\n\
        CapEff:\t00000000800004fb\nCapBnd:\t00000000800004fb\nNoNewPrivs:\t1\n";
    assert_eq!(outcome.out, expected, "{outcome:?}");
    let web = Wish {
        user: Identity {
            uid: 33,
            gid: 34,
            groups: Vec::new(),
        },
        ..with_all_capabilities()
    };
    let outcome = bench.sh(&web, "grep -E '^Cap(Bnd|Eff|Prm)' /proc/self/status");
    let none = outcome
        .out
        .lines()
        .filter(|line| line.ends_with("\t0000000000000000"));
    assert_eq!(none.count(), 3, "{outcome:?}");
}

#[test]
fn every_privilege_is_gone() {
    let bench = Bench::new();
    let script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; cat /proc/self/uid_map";
    let outcome = bench.sh(&Wish::default(), script);
    let words: Vec<&str> = outcome.out.split_whitespace().collect();
    let none = "0000000000000000";
    let expected = [
        "CapInh:",
        none,
        "CapPrm:",
        none,
        "CapEff:",
        none,
        "CapBnd:",
        none,
        "CapAmb:",
        none,
        "NoNewPrivs:",
        "1",
        "Seccomp:",
        "2",
    ];
    assert_eq!(words[..14], expected, "{outcome:?}");
    let first: u32 = words[15].parse().unwrap();
    assert!(
        words[14] == "0" && first >= 0x7000_0000 && words[16] == "65536",
        "{outcome:?}"
    );
}

/// System calls that no shell makes, by number and arguments; all must be refused before they do anything.
#[cfg(target_arch = "x86_64")]
mod calls {
    use super::*;
    use std::process::Command;

    /// A program without a library: makes each call and prints those that did not fail.
    const SOURCE: &str = r#"
        #define _GNU_SOURCE
        #include <errno.h>
        #include <stdio.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        static char page[4096];
        static long fifth;
        static void call(const char *what, long number, long a, long b, long c, long d, int wanted) {
            errno = 0;
            long got = syscall(number, a, b, c, d, fifth, 0);
            if (got >= 0 || (errno != wanted && wanted)) printf("ESCAPED %s: %ld, errno %d\n", what, got, errno);
        }
        int main(void) {
            long p = (long)page;
            call("io_uring_setup", 425, 8, p, 0, 0, ENOSYS);
            call("bpf", SYS_bpf, 0, p, 64, 0, EPERM);
            call("userfaultfd", SYS_userfaultfd, 1, 0, 0, 0, ENOSYS);
            call("perf_event_open", SYS_perf_event_open, p, 0, -1, -1, EPERM);
            call("keyctl", SYS_keyctl, 0, -3, 1, 0, EPERM);
            call("add_key", SYS_add_key, (long)"user", (long)"x", p, 1, EPERM);
            call("request_key", SYS_request_key, (long)"user", (long)"x", 0, 0, EPERM);
            call("clone3", 435, p, 88, 0, 0, ENOSYS);
            call("clone of a user namespace", SYS_clone, 0x10000000 | 17, 0, 0, 0, EPERM);
            call("clone of a mount namespace", SYS_clone, 0x00020000 | 17, 0, 0, 0, EPERM);
            call("unshare", SYS_unshare, 0x10000000, 0, 0, 0, EPERM);
            call("setns", SYS_setns, 0, 0, 0, 0, EPERM);
            call("open_by_handle_at", SYS_open_by_handle_at, -100, p, 0, 0, EPERM);
            call("name_to_handle_at", SYS_name_to_handle_at, -100, (long)"/", p, p, EPERM);
            call("fsopen", 430, (long)"tmpfs", 0, 0, 0, EPERM);
            call("open_tree", 428, -100, (long)"/", 1, 0, EPERM);
            call("move_mount", 429, 0, p, 0, p, EPERM);
            call("mount_setattr", 442, -100, (long)"/", 0, p, EPERM);
            call("init_module", SYS_init_module, p, 1, p, 0, EPERM);
            call("kexec_load", SYS_kexec_load, 0, 0, 0, 0, EPERM);
            call("iopl", SYS_iopl, 3, 0, 0, 0, ENOSYS);
            call("ioperm", SYS_ioperm, 0, 1, 1, 0, ENOSYS);
            call("quotactl", SYS_quotactl, 0, 0, 0, 0, EPERM);
            call("fanotify_init", SYS_fanotify_init, 0, 0, 0, 0, EPERM);
            call("raw socket", SYS_socket, 2, 3, 1, 0, EPERM);
            call("packet socket", SYS_socket, 17, 3, 0, 0, EPERM);
            call("kernel crypto socket", SYS_socket, 38, 5, 0, 0, EPERM);
            call("vsock", SYS_socket, 40, 1, 0, 0, EPERM);
            call("audit netlink", SYS_socket, 16, 3, 9, 0, EPERM);
            call("typing into the terminal", SYS_ioctl, 0, 0x5412, p, 0, EPERM);
            call("personality", SYS_personality, 0x0400000, 0, 0, 0, EPERM);
            call("ptrace of pid 1", SYS_ptrace, 16, 1, 0, 0, EPERM);
            call("ptrace seize of pid 1", SYS_ptrace, 0x4206, 1, 0, 0, EPERM);
            long piece[2] = {p, 16};
            fifth = 1;
            call("process_vm_readv of pid 1", SYS_process_vm_readv, 1, (long)piece, 1, (long)piece, EPERM);
            fifth = 0;
            call("x32 getpid", 0x40000000 | SYS_getpid, 0, 0, 0, 0, ENOSYS);
            call("setuid", SYS_setuid, 33, 0, 0, 0, EPERM);
            call("setgroups", SYS_setgroups, 0, 0, 0, 0, EPERM);
            call("sethostname", SYS_sethostname, p, 1, 0, 0, EPERM);
            call("syslog", SYS_syslog, 3, p, 10, 0, EPERM);
            call("acct", SYS_acct, (long)"/x", 0, 0, 0, EPERM);
            call("swapoff", SYS_swapoff, (long)"/x", 0, 0, 0, EPERM);
            call("settimeofday", SYS_settimeofday, p, 0, 0, 0, EPERM);
            puts("done");
            return 0;
        }
    "#;

    fn compile(bench: &Bench, source: &str) {
        std::fs::write(bench.path("calls.c"), source).unwrap();
        let made = Command::new("cc")
            .args(["-static", "-o"])
            .arg(bench.path("image/bin/calls"))
            .arg(bench.path("calls.c"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    /// Connects to the abstract socket it is told.
    const CONNECT: &str = r#"
        #include <stdio.h>
        #include <string.h>
        #include <sys/socket.h>
        #include <sys/un.h>
        int main(int count, char **words) {
            struct sockaddr_un to = {AF_UNIX};
            strcpy(to.sun_path + 1, words[1]);
            int fd = socket(AF_UNIX, SOCK_STREAM, 0);
            int refused = connect(fd, (void *)&to, sizeof(to.sun_family) + 1 + strlen(words[1]));
            puts(refused ? "refused" : "ESCAPED");
            return 0;
        }
    "#;

    /// Container managers listen on such sockets and believe whoever reaches them.
    #[test]
    fn abstract_sockets_of_the_host_are_out_of_reach_on_its_network() {
        use std::os::linux::net::SocketAddrExt;
        let bench = Bench::new();
        compile(&bench, CONNECT);
        let name = format!("lamina-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
        for own_network in [true, false] {
            let wish = Wish {
                own_network,
                ..Wish::default()
            };
            let outcome = bench.run(&wish, &["calls", &name]);
            assert_eq!(outcome.out, "refused\n", "{outcome:?}");
        }
    }

    #[test]
    fn dangerous_calls_are_refused() {
        let bench = Bench::new();
        compile(&bench, SOURCE);
        let outcome = bench.run(&Wish::default(), &["calls"]);
        assert_eq!(outcome.out, "done\n", "{outcome:?}");
    }
}

#[test]
fn a_sandbox_does_not_see_another_one() {
    let bench = Bench::new();
    let other = bench.start("exec 3<>/dev/shm/secret; nc -l -p 4242 & sleep 1000");
    let script = "ls /dev/shm | grep secret && echo ESCAPED; nc -w 1 127.0.0.1 4242 && echo ESCAPED; \
                  ps | grep 'sleep 1000' | grep -v grep && echo ESCAPED; ipcs -m | grep 0x && echo ESCAPED; true";
    assert_failed("another sandbox", &bench.sh(&Wish::default(), script));
    drop(other);
}
