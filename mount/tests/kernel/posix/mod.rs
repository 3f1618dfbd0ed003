//! What programs see of a writable union, compared with what they see of the
//! same union over plain ext4: the same script runs on both, and every answer,
//! the resulting tree and the upper directory must be equal. So no failure is
//! ours that overlayfs over a disk does not have too.

#[rustfmt::skip] // a table: a case a line
mod cases;
pub(crate) mod fixture;
mod script;

use std::path::{Path, PathBuf};

use lamina_mount::probe::Mode;
use lamina_mount::union::{Lower, UnionOptions, UnionSpec, Upper, build};
use rustix::mount::UnmountFlags;

use crate::support::mounts::{Mounted, modes};
use crate::support::pack::pack;
use crate::support::snapshot::{Detail, assert_same, snapshot};
use crate::support::{Sandbox, features, sandbox, skip};
use cases::{Case, GROUPS};
use script::Machine;

/// Where a mode is known to differ, and why that is accepted. A case here must
/// differ: when it stops, the line goes.
const KNOWN: &[(Mode, &str, &str)] = &[(
    Mode::Erofs,
    "open: direct",
    "file-backed EROFS has no O_DIRECT for its own files (Linux 6.12 to 6.18)",
)];

fn run_groups(mode: Mode) {
    let sandbox = sandbox!();
    if !features().overlay.found {
        skip!("no overlayfs: {:?}", features().overlay.error);
    }
    if !modes().contains(&mode) {
        return; // modes() said why
    }
    let plain = sandbox.dir("plain");
    fixture::make(&plain);
    let packed = pack(&plain, &sandbox.path().join("packed"));
    let ours = Mounted::new(&packed, mode, &sandbox.path().join("ours"));
    let detail = Detail {
        mtime: true,
        ..Detail::default()
    };
    assert_same(
        "the trees",
        &snapshot(&plain, detail),
        &snapshot(ours.path(), detail),
    );

    let mut differing = Vec::new();
    let mut count = 0;
    for (group, cases) in GROUPS {
        for case in *cases {
            count += 1;
            let over_plain = outcome(&sandbox, &plain, case);
            let over_ours = outcome(&sandbox, ours.path(), case);
            let name = format!("{group}: {}", case.0);
            let known = KNOWN.iter().find(|(m, n, _)| *m == mode && *n == name);
            match (over_plain == over_ours, known) {
                (true, None) => {}
                (false, None) => differing.push(difference(&name, &over_plain, &over_ours)),
                (false, Some((_, _, why))) => println!("known: {name}: {why}"),
                (true, Some(_)) => differing.push(format!("{name}: no longer differs")),
            }
        }
    }
    println!("{count} cases over {mode} and over a directory");
    assert!(
        differing.is_empty(),
        "{} of {count} cases differ:\n{}",
        differing.len(),
        differing.join("\n")
    );
}

#[test]
fn a_union_over_erofs_behaves_as_over_a_directory() {
    run_groups(Mode::Erofs);
}

#[test]
fn a_union_over_loop_devices_behaves_as_over_a_directory() {
    run_groups(Mode::ErofsLoop);
}

#[test]
fn a_union_over_pure_fuse_behaves_as_over_a_directory() {
    run_groups(Mode::Fuse);
}

#[test]
fn there_are_enough_cases_and_their_names_are_unique() {
    let mut names: Vec<String> = GROUPS
        .iter()
        .flat_map(|(group, cases)| {
            cases
                .iter()
                .map(move |(name, _)| format!("{group}: {name}"))
        })
        .collect();
    let count = names.len();
    assert!(count >= 150, "{count} cases");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

/// Runs one case on a fresh union over `lower`.
fn outcome(sandbox: &Sandbox, lower: &Path, (_, script): &Case) -> Vec<String> {
    let target = sandbox.dir("union");
    let upper = sandbox.path().join("changes");
    let union = build(UnionSpec {
        lowers: vec![Lower::Path(lower)],
        upper: Some(Upper::Directory(upper.clone())),
        options: UnionOptions {
            volatile: true,
            ..UnionOptions::default()
        },
    })
    .expect("a union");
    let dirs = union.attach(&target).expect("attached");
    let mut lines: Vec<String> = Machine::run(&target, script)
        .lines()
        .map(str::to_owned)
        .collect();
    lines.extend(labelled("union", snapshot(&target, Detail::default())));
    drop(dirs);
    unmount(&target);
    let detail = Detail {
        overlay: true,
        ..Detail::default()
    };
    lines.extend(labelled("upper", snapshot(&upper.join("upper"), detail)));
    std::fs::remove_dir_all(&upper).expect("removing the upper");
    lines
}

fn labelled(label: &'static str, lines: Vec<String>) -> impl Iterator<Item = String> {
    lines.into_iter().map(move |line| format!("{label} {line}"))
}

fn unmount(target: &PathBuf) {
    // A flush of a closed file may hold the mount for a moment.
    for _ in 0..1000 {
        match rustix::mount::unmount(target, UnmountFlags::empty()) {
            Err(rustix::io::Errno::BUSY) => std::thread::yield_now(),
            other => return other.expect("unmounting the union"),
        }
    }
    panic!("the union stays busy");
}

fn difference(name: &str, plain: &[String], ours: &[String]) -> String {
    let only = |a: &[String], b: &[String], mark: char| -> String {
        let lines: Vec<String> = a
            .iter()
            .filter(|line| !b.contains(line))
            .take(6)
            .map(|line| format!("   {mark} {line}"))
            .collect();
        lines.join("\n")
    };
    format!(
        "{name}\n{}\n{}",
        only(plain, ours, '-'),
        only(ours, plain, '+')
    )
}
