//! The mode choice, as a table.

use super::*;

fn finding(name: &str, found: bool) -> Finding {
    Finding {
        found,
        tested: "in a table".to_owned(),
        means: String::new(),
        fix: (!found).then(|| format!("get {name}")),
        error: None,
    }
}

/// Features by the five that decide.
fn features([erofs, file_backed, loops, on_loop, fuse]: [bool; 5]) -> Features {
    let any = || finding("x", false);
    Features {
        kernel: "0".to_owned(),
        erofs: finding("erofs", erofs),
        erofs_file_backed: finding("file-backed", file_backed),
        loop_devices: finding("loop", loops),
        erofs_loop: finding("erofs-loop", on_loop),
        fuse: finding("fuse", fuse),
        fuse_offer: None,
        fuse_resend: any(),
        fuse_passthrough: any(),
        fuse_max_pages: any(),
        fuse_uring: any(),
        fuse_abort: any(),
        overlay: any(),
        overlay_volatile: any(),
        overlay_xino: any(),
        overlay_userxattr: any(),
        overlay_fd_layers: any(),
        overlay_tmpfs_upper: any(),
        user_namespaces: any(),
        fanotify_pre_content: any(),
        cgroup_v1: any(),
        cgroup_v2: any(),
    }
}

#[test]
fn the_fastest_mode_that_works_is_chosen() {
    const T: bool = true;
    const F: bool = false;
    let table = [
        // erofs, on files, loop, on loop, fuse -> auto, erofs, erofs-loop, fuse
        ([T, T, T, T, T], Some(Mode::Erofs), T, T, T),
        ([T, T, F, F, T], Some(Mode::Erofs), T, F, T),
        ([T, F, T, T, T], Some(Mode::ErofsLoop), F, T, T),
        ([T, F, T, T, F], Some(Mode::ErofsLoop), F, T, F),
        ([T, F, T, F, T], Some(Mode::Fuse), F, F, T),
        ([T, F, F, F, T], Some(Mode::Fuse), F, F, T),
        ([F, F, T, F, T], Some(Mode::Fuse), F, F, T),
        ([F, F, F, F, T], Some(Mode::Fuse), F, F, T),
        ([F, F, F, F, F], None, F, F, F),
        ([T, F, F, F, F], None, F, F, F),
    ];
    for (has, auto, erofs, on_loop, fuse) in table {
        let features = features(has);
        let chosen = choose_mode(ModeRequest::Auto, &features);
        assert_eq!(chosen.as_ref().ok().copied(), auto, "{has:?}");
        for (mode, works) in [
            (Mode::Erofs, erofs),
            (Mode::ErofsLoop, on_loop),
            (Mode::Fuse, fuse),
        ] {
            let chosen = choose_mode(ModeRequest::Only(mode), &features);
            assert_eq!(chosen.is_ok(), works, "{mode} with {has:?}");
            if let Ok(chosen) = chosen {
                assert_eq!(chosen, mode, "a requested mode is never replaced");
            }
        }
    }
}

#[test]
fn a_refusal_names_what_is_missing_and_a_fix() {
    let features = features([true, false, false, false, false]);
    let error = choose_mode(ModeRequest::Only(Mode::ErofsLoop), &features).expect_err("no loop");
    assert_eq!(
        error.to_string(),
        "mode erofs-loop does not work here: loop devices, erofs on loop devices missing (get loop)"
    );
    let error = choose_mode(ModeRequest::Auto, &features).expect_err("nothing works");
    assert_eq!(
        error.to_string(),
        "no mount mode works here: fuse missing (get fuse)"
    );
}

#[test]
fn features_survive_json() {
    let features = features([true, false, true, true, true]);
    let json = serde_json::to_string(&features).expect("serialised");
    assert_eq!(
        serde_json::from_str::<Features>(&json).expect("parsed"),
        features
    );
    assert_eq!(features.list().len(), 20);
}

#[test]
fn probing_this_kernel_contradicts_nothing_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let features = probe(dir.path()).expect("probed");
    println!(
        "{}",
        serde_json::to_string_pretty(&features).expect("serialised")
    );
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("listed").collect();
    assert!(left.is_empty(), "{left:?}");
    if features.erofs_file_backed.found || features.erofs_loop.found {
        assert!(features.erofs.found);
    }
    if features.erofs_loop.found {
        assert!(features.loop_devices.found);
    }
    assert_eq!(features.fuse.found, features.fuse_offer.is_some());
    for (name, finding) in features.list() {
        assert_eq!(
            finding.found,
            finding.error.is_none(),
            "{name}: {finding:?}"
        );
        assert!(
            !finding.means.is_empty() && !finding.tested.is_empty(),
            "{name}"
        );
    }
    // Everything overlayfs may offer rests on overlayfs.
    if !features.overlay.found {
        assert!(!features.overlay_volatile.found && !features.overlay_fd_layers.found);
    }
}
