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
        "renice -n -10 $$ && echo ESCAPED; ionice -c 1 -n 0 true && echo ESCAPED",
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
    ("become another user", "su web -c true && echo ESCAPED"),
];

fn assert_failed(what: &str, outcome: &Outcome) {
    assert!(!outcome.out.contains("ESCAPED"), "{what}: {outcome:?}");
    assert!(!outcome.timed_out, "{what} hangs: {outcome:?}");
    // A program that the image lacks tries nothing.
    let is_tried = !outcome.error.contains("not found");
    assert!(is_tried, "{what} is not tried: {outcome:?}");
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

pub(crate) fn with_all_capabilities() -> Wish {
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
    let wish = Wish {
        user: web(),
        ..with_all_capabilities()
    };
    let outcome = bench.sh(&wish, "grep -E '^Cap(Bnd|Eff|Prm)' /proc/self/status");
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

fn web() -> Identity {
    Identity {
        uid: 33,
        gid: 34,
        groups: Vec::new(),
    }
}

/// System calls that no shell makes, by number and arguments; all must be refused before they do anything.
#[cfg(target_arch = "x86_64")]
mod calls {
    use super::*;
    use std::path::Path;
    use std::process::Command;

    /// Puts a program of `programs/` into the image: compiled now, or taken from where a machine without a compiler has it.
    fn install(bench: &Bench, name: &str) {
        let to = bench.path("image/bin").join(name);
        if let Some(compiled) = std::env::var_os("LAMINA_TEST_PROGRAMS") {
            std::fs::copy(Path::new(&compiled).join(name), to).unwrap();
            return;
        }
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/programs");
        let made = Command::new("cc")
            .args(["-static", "-o"])
            .args([to, sources.join(name).with_extension("c")])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    /// Container managers listen on such sockets and believe whoever reaches them. Older kernels cannot keep them away,
    /// which is said where the host's network is asked for.
    #[test]
    fn abstract_sockets_of_the_host_are_out_of_reach_on_its_network() {
        use std::os::linux::net::SocketAddrExt;
        let bench = Bench::new();
        install(&bench, "connect");
        let name = format!("lamina-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
        assert!(lamina_runtime::keeps_from_abstract_sockets() || is_before_6_12());
        for own_network in [true, false] {
            let wish = Wish {
                own_network,
                ..Wish::default()
            };
            let outcome = bench.run(&wish, &["connect", &name]);
            let is_kept = own_network || lamina_runtime::keeps_from_abstract_sockets();
            let expected = if is_kept { "refused\n" } else { "ESCAPED\n" };
            assert_eq!(outcome.out, expected, "{outcome:?}");
        }
    }

    fn is_before_6_12() -> bool {
        let release = rustix::system::uname()
            .release()
            .to_str()
            .unwrap()
            .to_owned();
        let mut numbers = release
            .split(['.', '-'])
            .map(|number| number.parse::<u32>().unwrap());
        let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
            panic!("a kernel of no version: {release}");
        };
        (major, minor) < (6, 12)
    }

    /// Not with busybox: it gives such a right back by itself before most of its applets.
    #[test]
    fn set_user_id_programs_of_root_give_nothing() {
        use std::os::unix::fs::PermissionsExt as _;
        let bench = Bench::new();
        install(&bench, "identity");
        let program = bench.path("image/bin/identity");
        // Both rights, owned by root: inside, too, as the script asserts.
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o6755)).unwrap();
        let of_web = "33 33 33, 34 34 34, 0\n";
        let wish = Wish {
            user: web(),
            ..Wish::default()
        };
        let look = "stat -c '%u:%g %a' /bin/identity; identity";
        let outcome = bench.sh(&wish, look);
        assert_eq!(outcome.out, format!("0:0 6755\n{of_web}"), "{outcome:?}");
        // One that root made in the same run, and another user calls.
        let make = "cp /bin/identity /mine; chmod 6755 /mine; stat -c '%u:%g %a' /mine; su web -c '/mine; /bin/identity'";
        let outcome = bench.sh(&with_all_capabilities(), make);
        let expected = format!("0:0 6755\n{of_web}{of_web}");
        assert_eq!(outcome.out, expected, "{outcome:?}");
    }

    #[test]
    fn dangerous_calls_are_refused() {
        let bench = Bench::new();
        install(&bench, "calls");
        let outcome = bench.run(&Wish::default(), &["calls"]);
        assert_eq!(outcome.out, "done\n", "{outcome:?}");
    }
}

#[test]
fn a_sandbox_does_not_see_another_one() {
    let bench = Bench::new();
    let other = bench.start("exec 3<>/dev/shm/secret; nc -l -p 4242 & sleep 1000");
    let script = "ls /dev/shm | grep secret && echo ESCAPED; nc -w 1 127.0.0.1 4242 && echo ESCAPED; \
                  ps | grep 'sleep 1000' | grep -v grep && echo ESCAPED; true";
    assert_failed("another sandbox", &bench.sh(&Wish::default(), script));
    drop(other);
}

#[test]
fn a_sandbox_has_namespaces_of_its_own() {
    let bench = Bench::new();
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
    let script = format!(
        "for kind in {}; do readlink /proc/self/ns/$kind; done",
        kinds.join(" ")
    );
    let outcome = bench.sh(&Wish::default(), &script);
    assert_eq!(outcome.out.lines().count(), kinds.len(), "{outcome:?}");
    let links = kinds.map(|kind| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap());
    let ours = links.map(|link| link.to_string_lossy().into_owned());
    for name in outcome.out.lines() {
        assert!(!ours.iter().any(|ours| ours == name), "{name} is ours");
    }
}
