//! What a run changed, kept as a flist: another run runs on it, whatever has become of the node's own copy.

use super::support::{Afslet, Ran};
use lamina_proto::afsletpb::{DiffMode, EndReason, Keep, StartRequest};
use lamina_proto::lamina::v1::FlistSource;
use tonic::Code;

fn keep(stores: &[String]) -> Keep {
    Keep {
        stores: stores.to_vec(),
        base_stores: Vec::new(),
    }
}

/// On this flist.
fn on(start: StartRequest, digest: &str) -> StartRequest {
    let flist = FlistSource {
        digest: digest.to_owned(),
        ..FlistSource::default()
    };
    StartRequest {
        flist: Some(flist),
        ..start
    }
}

fn kept(ran: &Ran, afslet: &Afslet) -> String {
    let result = ran.result();
    assert!(result.success, "{ran:?}\n{}", afslet.logs());
    let flist = result.kept.as_ref();
    flist
        .unwrap_or_else(|| panic!("not kept: {ran:?}"))
        .digest
        .clone()
}

/// Flists that were published.
fn published(afslet: &Afslet) -> usize {
    let dir = afslet.machine.path("store/flists");
    let found = std::process::Command::new("find")
        .arg(dir)
        .args(["-type", "f"])
        .output()
        .unwrap();
    found.stdout.split(|byte| *byte == b'\n').count() - 1
}

#[test]
fn what_a_run_left_is_what_the_next_one_runs_on() {
    let mut afslet = Afslet::new(&["--warm", "0"]);
    let store = afslet.machine.store();
    let before = published(&afslet);
    let script =
        "echo one > /tmp/new; rm /etc/file; head -c 200000 /dev/urandom > /large; md5sum /large";
    let start = StartRequest {
        keep: Some(keep(std::slice::from_ref(&store))),
        diff: DiffMode::None.into(),
        ..afslet.sh(script)
    };
    let ran = afslet.run(start);
    let first = kept(&ran, &afslet);
    assert_eq!(ran.kinds, ["accepted", "log", "result", "done"]);
    let info = ran.result().kept.clone().unwrap();
    assert_eq!(info.stores, std::slice::from_ref(&store));
    assert!(info.entries > 0 && info.bytes > 200_000, "{info:?}");
    let sum = ran.out;
    // And on with that; the changes are sent, too.
    let script = "md5sum /large; cat /tmp/new; ls /etc/file; echo two > /tmp/new";
    let start = StartRequest {
        keep: Some(keep(std::slice::from_ref(&store))),
        ..on(afslet.sh(script), &first)
    };
    let ran = afslet.run(start);
    assert_eq!(ran.out, format!("{sum}one\n"));
    let second = kept(&ran, &afslet);
    assert!(ran.listing().contains("tmp/new"), "{ran:?}");
    assert_ne!(first, second);
    assert_eq!(published(&afslet), before + 2);
    // A node that has forgotten all of it has it from the store.
    afslet.kill();
    afslet.kill_node();
    std::fs::remove_dir_all(afslet.machine.path("state/images")).unwrap();
    afslet.start_node();
    afslet.start();
    let ran = afslet.run(on(afslet.sh("md5sum /large; cat /tmp/new"), &second));
    assert_eq!(ran.out, format!("{sum}two\n"), "{ran:?}\n{}", afslet.logs());
    let ran = afslet.run(afslet.sh("cat /etc/file; ls /large"));
    assert_eq!(ran.out, "kept\n");
    afslet.assert_nothing_left();
}

#[test]
fn what_fails_is_not_kept_and_what_cannot_be_kept_has_failed() {
    let afslet = Afslet::new(&["--warm", "0"]);
    let (store, before) = (afslet.machine.store(), published(&afslet));
    let start = |script: &str, stores: &[String]| StartRequest {
        keep: Some(keep(stores)),
        diff: DiffMode::None.into(),
        ..afslet.sh(script)
    };
    let ran = afslet.run(start("echo x > /x; exit 3", &[store]));
    let result = ran.result();
    assert_eq!((result.exit_code, result.kept.is_none()), (3, true));
    assert_eq!(result.reason, i32::from(EndReason::Exited));
    // A directory that is no store of the node is not written to, whoever asks.
    let elsewhere = format!("dir://{}", afslet.machine.path("elsewhere").display());
    let ran = afslet.run(start("echo x > /x", &[elsewhere]));
    let result = ran.result();
    assert_eq!(result.reason, i32::from(EndReason::NotKept), "{ran:?}");
    assert!(!result.success && result.exit_code == 0 && result.kept.is_none());
    for said in ["could not be kept", "no store of this node"] {
        assert!(result.error.contains(said), "{}", result.error);
    }
    assert!(!afslet.machine.path("elsewhere").exists());
    assert_eq!(published(&afslet), before);
    let status = afslet.status();
    assert_eq!((status.completed, status.failed), (2, 2));
    let ran = afslet.run(start("echo x", &[]));
    assert_eq!((ran.code(), ran.out.as_str()), (Code::InvalidArgument, ""));
    assert!(ran.said().contains("keep.stores"), "{}", ran.said());
    afslet.assert_nothing_left();
}
