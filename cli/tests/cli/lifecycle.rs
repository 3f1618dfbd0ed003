//! How mounts end, and what is left when something ends before them: readers behind a forced unmount,
//! foreign mounts on a target, daemons that hang or are gone.

use crate::machine::{Machine, kill, snapshot, wait_until};
use crate::mounts::packed;
use lamina_nodeagent::mountd::MountdClient;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// A command that must succeed.
fn sh(program: &str, args: &[&str], path: &Path) {
    let status = Command::new(program).args(args).arg(path).status().unwrap();
    assert!(status.success(), "{program} {args:?} {}", path.display());
}

fn restarted(machine: &Machine, role: &str) {
    let pid = machine.daemon(role).unwrap();
    kill(pid);
    let back = || machine.daemon(role).is_some_and(|now| now != pid);
    assert!(wait_until(back), "{}", machine.log());
}

/// Kills the holder first, so that nobody starts the others again.
fn kill_all(machine: &Machine) {
    for role in ["holder", "agent", "mountd"] {
        kill(machine.daemon(role).unwrap());
    }
    assert!(wait_until(|| machine.daemons().is_empty()));
}

fn states(machine: &Machine) -> Vec<String> {
    let listed = machine.json(&["mounts"]);
    let mounts = listed["mounts"].as_array().unwrap().iter();
    mounts
        .map(|mount| mount["state"].as_str().unwrap().to_owned())
        .collect()
}

fn read_all(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn ends_clean(machine: &Machine) {
    assert!(
        wait_until(|| machine.daemons().is_empty()),
        "{}",
        machine.log()
    );
    assert_eq!(machine.mounted(), Vec::<PathBuf>::new());
}

/// Once, readers behind a forced unmount got only what the kernel had cached: the agent closed the
/// flist's blobs at once. Now they are served until the last of them lets go.
fn left_behind(mount: &[&str], unmount: impl Fn(&Machine)) {
    let machine = packed();
    machine.dir("m");
    machine.ok(&[&["mount", "x.fl", "m", "--no-prefetch"], mount].concat());
    let random = File::open(machine.path("m/a/b/random")).unwrap();
    let text = File::open(machine.path("m/a/b/text")).unwrap();
    unmount(&machine);
    assert!(!machine.path("m/a").exists());
    let source = |name: &str| std::fs::read(machine.path("source").join(name)).unwrap();
    assert!(read_all(&random) == source("a/b/random"), "{mount:?}");
    assert!(
        wait_until(|| states(&machine) == ["detached"]),
        "{}",
        machine.log()
    );
    // Also by successors of the daemons.
    restarted(&machine, "agent");
    restarted(&machine, "mountd");
    let mut half = vec![0; 1_000_000];
    text.read_exact_at(&mut half, 0).unwrap();
    assert!(half == source("a/b/text")[..1_000_000], "{mount:?}");
    // Mounting it again is a mount of its own.
    machine.ok(&["mount", "x.fl", "m", "--no-prefetch"]);
    assert_eq!(
        snapshot(&machine.path("m")),
        snapshot(&machine.path("source"))
    );
    machine.ok(&["umount", "m"]);
    assert!(read_all(&text) == source("a/b/text"), "{mount:?}");
    assert_eq!(states(&machine), ["detached"], "{mount:?}");
    drop((random, text));
    ends_clean(&machine);
}

#[test]
fn readers_behind_a_forced_unmount_are_served_until_they_let_go() {
    let force = |machine: &Machine| drop(machine.ok(&["umount", "m", "--force"]));
    for mode in ["erofs", "erofs-loop", "fuse"] {
        left_behind(&["--mode", mode], force);
    }
}

#[test]
fn readers_behind_a_lazy_unmount_by_hand_are_served_too() {
    let lazily = |machine: &Machine| sh("umount", &["-l"], &machine.path("m"));
    left_behind(&[], lazily);
    left_behind(&["--rw", "upper"], lazily);
}

/// Once, an UPPER was free again as soon as its target was gone, if the flist had another target, or
/// its agent was another: two unions over one UPPER corrupt each other.
#[test]
fn an_upper_is_in_use_until_the_last_file_of_its_union_is_closed() {
    let machine = packed();
    for target in ["m", "n", "o"] {
        machine.dir(target);
    }
    machine.ok(&["mount", "x.fl", "m", "--rw", "upper-m"]);
    machine.ok(&["mount", "x.fl", "n", "--rw", "upper-n"]);
    let new = File::create(machine.path("m/new")).unwrap();
    machine.ok(&["umount", "m", "--force"]);
    for _ in 0..2 {
        assert_eq!(states(&machine), ["mounted", "detached"]);
        let said = machine.fails(2, &["mount", "x.fl", "o", "--rw", "upper-m"]);
        assert!(said.contains("in use by another union"), "{said}");
        restarted(&machine, "agent");
    }
    drop(new);
    machine.ok(&["mount", "x.fl", "o", "--rw", "upper-m"]);
    assert!(machine.path("o/new").exists());
    assert_eq!(states(&machine), ["mounted", "mounted"]);
    machine.ok(&["umount", "n"]);
    machine.ok(&["umount", "o"]);
    ends_clean(&machine);
}

#[test]
fn readers_of_a_flist_are_served_on_after_the_union_over_it_has_ended() {
    let machine = packed();
    machine.dir("m");
    machine.dir("n");
    machine.ok(&["mount", "x.fl", "m", "--no-prefetch"]);
    machine.ok(&["mount", "x.fl", "n", "--no-prefetch", "--rw", "upper"]);
    let text = File::open(machine.path("m/a/b/text")).unwrap();
    let new = File::create(machine.path("n/new")).unwrap();
    machine.ok(&["umount", "m", "--force"]);
    machine.ok(&["umount", "n", "--force"]);
    let upper = || machine.json(&["mounts"])["mounts"][0]["upper"].is_string();
    assert!(upper(), "kept with its union");
    drop(new);
    // The union is over: its UPPER is free.
    machine.ok(&["mount", "x.fl", "n", "--no-prefetch", "--rw", "upper"]);
    machine.ok(&["umount", "n"]);
    restarted(&machine, "agent");
    assert_eq!(states(&machine), ["detached"]);
    assert!(read_all(&text) == std::fs::read(machine.path("source/a/b/text")).unwrap());
    drop(text);
    ends_clean(&machine);
}

/// Once, a successor that found the record of the target beside that of the detached flist (its
/// predecessor was killed between writing one and removing the other) removed both, and the next
/// successor forgot the readers.
#[test]
fn readers_are_served_although_the_agent_died_while_it_noted_them() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m", "--no-prefetch"]);
    let run_dir = machine.instances().remove(0);
    let mountd = || MountdClient::connect(&run_dir, Duration::from_secs(20)).unwrap();
    let noted = mountd().list_mounts().unwrap().remove(0);
    let text = File::open(machine.path("m/a/b/text")).unwrap();
    machine.ok(&["umount", "m", "--force"]);
    mountd().put_mount_record(noted).unwrap();
    for _ in 0..2 {
        restarted(&machine, "agent");
        assert_eq!(states(&machine), ["detached"]);
    }
    assert_eq!(mountd().list_mounts().unwrap().len(), 1);
    assert!(read_all(&text) == std::fs::read(machine.path("source/a/b/text")).unwrap());
    drop(text);
    ends_clean(&machine);
}

#[test]
fn a_mount_shown_elsewhere_is_served_after_its_target_is_gone() {
    let machine = packed();
    machine.dir("m");
    let elsewhere = machine.dir("elsewhere");
    machine.ok(&["mount", "x.fl", "m", "--no-prefetch"]);
    sh(
        "mount",
        &["--bind", machine.path("m").to_str().unwrap()],
        &elsewhere,
    );
    machine.ok(&["umount", "m"]);
    assert_eq!(snapshot(&elsewhere), snapshot(&machine.path("source")));
    sh("umount", &[], &elsewhere);
    ends_clean(&machine);
}

#[test]
fn a_foreign_mount_on_a_target_is_not_taken_for_ours() {
    let machine = packed();
    let target = machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    sh("mount", &["-t", "tmpfs", "foreign"], &target);
    for agent in ["the same agent", "its successor"] {
        let said = machine.fails(1, &["umount", "m"]);
        assert!(said.contains("tmpfs of foreign"), "{agent}: {said}");
        let said = machine.fails(1, &["umount", "m", "--force"]);
        assert!(said.contains("tmpfs of foreign"), "{agent}: {said}");
        let said = machine.fails(1, &["mount", "x.fl", "m"]);
        assert!(said.contains("tmpfs of foreign"), "{agent}: {said}");
        assert_eq!(states(&machine), ["mounted"]);
        restarted(&machine, "agent");
    }
    sh("umount", &[], &target);
    assert_eq!(snapshot(&target), snapshot(&machine.path("source")));
    machine.ok(&["umount", "m"]);
    ends_clean(&machine);
}

#[test]
fn a_foreign_mount_in_place_of_ours_is_left_alone() {
    let machine = packed();
    let target = machine.dir("m");
    machine.dir("n");
    machine.ok(&["mount", "x.fl", "m"]);
    machine.ok(&["mount", "x.fl", "n"]);
    // While the agent cannot see it: ours goes, another one comes.
    let agent = machine.daemon("agent").unwrap();
    signal(agent, Signal::STOP);
    sh("umount", &[], &target);
    sh("mount", &["-t", "tmpfs", "foreign"], &target);
    signal(agent, Signal::CONT);
    assert!(
        wait_until(|| states(&machine).len() == 1),
        "{}",
        machine.log()
    );
    let said = machine.fails(3, &["umount", "m"]);
    assert!(said.contains("not mounted"), "{said}");
    assert!(machine.mounted().contains(&target));
    sh("umount", &[], &target);
    machine.ok(&["umount", "n"]);
    ends_clean(&machine);
}

#[test]
fn a_mount_below_a_target_is_named_and_stays() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    let below = machine.path("m/empty");
    sh("mount", &["-t", "tmpfs", "foreign"], &below);
    for force in [&["umount", "m"][..], &["umount", "m", "--force"]] {
        let said = machine.fails(1, force);
        assert!(said.contains("tmpfs of foreign"), "{said}");
    }
    sh("umount", &[], &below);
    machine.ok(&["umount", "m"]);
}

#[test]
fn an_agent_that_hangs_is_unavailable_not_unmounted() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    let agent = machine.daemon("agent").unwrap();
    signal(agent, Signal::STOP);
    let said = machine.fails(7, &["umount", "m", "--timeout", "1s"]);
    assert!(said.contains("did not answer"), "{said}");
    machine.fails(7, &["prefetch", "m", "--timeout", "1s"]);
    machine.fails(7, &["mounts"]);
    signal(agent, Signal::CONT);
    // The unmount was asked for: it was done just now, or is done by this call.
    let code = machine.run(&["umount", "m"]).status.code();
    assert!(matches!(code, Some(0 | 3)), "{code:?}");
    ends_clean(&machine);
}

#[test]
fn an_unmount_whose_answer_was_lost_is_done_when_asked_again() {
    let machine = packed();
    let target = machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    machine.dir("n");
    machine.ok(&["mount", "x.fl", "n"]);
    // As if the agent had been killed after umount(2), before anything else.
    let agent = machine.daemon("agent").unwrap();
    signal(agent, Signal::STOP);
    sh("umount", &[], &target);
    kill(agent);
    machine.ok(&["umount", "m"]);
    machine.fails(3, &["umount", "m"]);
    machine.ok(&["umount", "n"]);
    ends_clean(&machine);
}

#[test]
fn a_mount_survives_its_holder_and_can_be_unmounted() {
    let machine = packed();
    let expected = snapshot(&machine.path("source"));
    for dead in [
        &["holder"][..],
        &["holder", "mountd"],
        &["holder", "agent"],
        &["holder", "agent", "mountd"],
    ] {
        machine.dir("m");
        machine.ok(&["mount", "x.fl", "m"]);
        for role in dead {
            kill(machine.daemon(role).unwrap());
        }
        let gone = |machine: &Machine| machine.daemons().len() == 3 - dead.len();
        assert!(wait_until(|| gone(&machine)));
        machine.ok(&["umount", "m"]);
        assert!(!machine.path("m/a").exists(), "{dead:?}");
        machine.ok(&["mount", "x.fl", "m"]);
        assert_eq!(snapshot(&machine.path("m")), expected, "{dead:?}");
        machine.ok(&["umount", "m"]);
        ends_clean(&machine);
    }
}

/// Once, a mount daemon that waited for its predecessor took over after its holder had died, too, and
/// nobody was left to end it.
#[test]
fn daemons_that_waited_behind_others_do_not_outlive_their_holder() {
    let machine = packed();
    machine.dir("m");
    machine.dir("n");
    machine.ok(&["mount", "x.fl", "m"]);
    // The second holder's children wait for the first one's, which go on; then it dies as well.
    for daemons in [4, 4] {
        kill(machine.daemon("holder").unwrap());
        machine.ok(&["mount", "x.fl", "n"]);
        let all_wait = || machine.daemons().len() > daemons;
        assert!(wait_until(all_wait), "{}", machine.log());
        machine.ok(&["umount", "n"]);
    }
    kill(machine.daemon("holder").unwrap());
    machine.ok(&["umount", "m"]);
    ends_clean(&machine);
}

#[test]
fn a_mount_can_be_unmounted_although_its_daemons_cannot_start() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    kill_all(&machine);
    let (cache, away) = (machine.path("cache"), machine.path("away"));
    std::fs::rename(&cache, &away).unwrap();
    std::fs::write(&cache, "not a directory").unwrap();
    machine.ok(&["umount", "m", "--timeout", "1s"]);
    assert!(!machine.path("m/a").exists());
    // And once they can, nothing is left.
    std::fs::remove_file(&cache).unwrap();
    std::fs::rename(&away, &cache).unwrap();
    ends_clean(&machine);
}

#[test]
fn mounting_again_recovers_a_mount_whose_daemons_are_gone() {
    for mode in ["erofs", "fuse"] {
        let machine = packed();
        machine.dir("m");
        machine.dir("n");
        machine.ok(&["mount", "x.fl", "m", "--no-prefetch", "--mode", mode]);
        kill_all(&machine);
        let output = machine.run(&["mounts"]);
        assert_eq!(output.status.code(), Some(6), "{output:?}");
        assert!(
            String::from_utf8(output.stdout)
                .unwrap()
                .contains("degraded")
        );
        machine.ok(&["mount", "x.fl", "n", "--no-prefetch", "--mode", mode]);
        let mut found = states(&machine);
        found.sort();
        assert_eq!(found, ["degraded", "mounted"], "{mode}");
        restarted(&machine, "agent");
        machine.ok(&["mount", "x.fl", "m", "--no-prefetch", "--mode", mode]);
        assert_eq!(states(&machine), ["mounted", "mounted"], "{mode}");
        for target in ["m", "n"] {
            assert_eq!(
                snapshot(&machine.path(target)),
                snapshot(&machine.path("source"))
            );
            machine.ok(&["umount", target]);
        }
        ends_clean(&machine);
    }
}

#[test]
fn an_agent_notices_that_its_mounts_died_with_holder_and_mount_daemon() {
    for mode in ["erofs", "fuse"] {
        let machine = packed();
        machine.dir("m");
        let mount = ["mount", "x.fl", "m", "--no-prefetch", "--mode", mode];
        machine.ok(&mount);
        for role in ["holder", "mountd"] {
            kill(machine.daemon(role).unwrap());
        }
        assert!(wait_until(|| machine.daemons().len() == 1));
        machine.ok(&mount);
        assert_eq!(states(&machine), ["mounted"], "{mode}");
        assert_eq!(
            snapshot(&machine.path("m")),
            snapshot(&machine.path("source")),
            "{mode}"
        );
        machine.ok(&["umount", "m"]);
        ends_clean(&machine);
    }
}

#[test]
fn a_mount_that_cannot_be_adopted_stays_and_is_tried_again() {
    let machine = packed();
    let target = machine.dir("m");
    machine.ok(&["mount", "x.fl", "m", "--no-prefetch"]);
    let copies = machine.path("cache/flists");
    let away = machine.path("away");
    std::fs::rename(&copies, &away).unwrap();
    std::fs::create_dir(&copies).unwrap();
    restarted(&machine, "agent");
    assert_eq!(states(&machine), ["degraded"]);
    machine.fails(6, &["prefetch", "m"]);
    assert!(machine.mounted().contains(&target));
    std::fs::remove_dir(&copies).unwrap();
    std::fs::rename(&away, &copies).unwrap();
    assert!(
        wait_until(|| states(&machine) == ["mounted"]),
        "{}",
        machine.log()
    );
    assert_eq!(snapshot(&target), snapshot(&machine.path("source")));
    machine.ok(&["umount", "m"]);
    ends_clean(&machine);
}

#[test]
fn the_same_mount_asked_for_otherwise_is_busy_and_says_how_it_is() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m", "--mode", "erofs"]);
    machine.ok(&["mount", "x.fl", "m"]);
    let store = machine.store();
    let wanted: [(&[&str], &str); 4] = [
        (&["--trusted"], "without --trusted"),
        (&["--mode", "fuse"], "as erofs"),
        (&["--store", &store], "with the stores it names"),
        (&["--rw", "upper"], "read-only"),
    ];
    for (option, how) in wanted {
        let said = machine.fails(1, &[&["mount", "x.fl", "m"], option].concat());
        assert!(said.contains(how), "{option:?}: {said}");
    }
    machine.ok(&["umount", "m"]);
}

#[test]
fn a_mount_that_is_not_done_in_time_is_undone() {
    let machine = packed();
    machine.dir("m");
    machine.dir("n");
    machine.ok(&["mount", "x.fl", "n"]);
    // The agent sees the call only when its time is over.
    let agent = machine.daemon("agent").unwrap();
    signal(agent, Signal::STOP);
    let late = std::thread::scope(|scope| {
        let late = scope.spawn(|| machine.run(&["mount", "x.fl", "m", "--timeout", "1ms"]));
        assert!(wait_until(|| api_has_caller(&machine)));
        signal(agent, Signal::CONT);
        late.join().unwrap()
    });
    assert_eq!(late.status.code(), Some(7), "{late:?}");
    assert!(!machine.path("m/a").exists());
    assert_eq!(states(&machine), ["mounted"]);
    machine.ok(&["umount", "n"]);
    ends_clean(&machine);
}

/// Whether a call waits in the agent's socket, for so long that a time of 1 ms is over.
fn api_has_caller(machine: &Machine) -> bool {
    let mine = machine.path("").display().to_string();
    let table = std::fs::read_to_string("/proc/net/unix").unwrap();
    let ours = |line: &&str| line.contains(&mine) && line.ends_with("api.sock");
    // The listener, and one that is connected.
    table.lines().filter(ours).count() > 1
}
