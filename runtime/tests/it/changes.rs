//! Changes as a layer: what tar(1) reads from the archive, and what hostile ones do to whoever packs them.

use crate::sandbox::{Bench, Wish, patient, run_script};
use lamina_runtime::diff::{self, Packed};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Puts a socket among the changes: the image has no program that makes one.
fn add_socket(changes: BorrowedFd<'_>) {
    let path = format!("/proc/self/fd/{}/socket", changes.as_raw_fd());
    drop(UnixListener::bind(path).unwrap());
}

/// Runs a script, packs what it changed, and gives that with what `tar` lists.
fn packed(bench: &Bench, script: &str) -> (Packed, String) {
    let (root, ids) = run_script(bench, &Wish::default(), script);
    if script.contains(".wh.") {
        add_socket(root.changes());
    }
    let (bytes, packed) = diff::pack(
        root.changes(),
        root.image(),
        ids,
        &["proc", "dev", "sys"],
        Vec::new(),
    )
    .unwrap();
    std::fs::write(bench.path("diff.tar"), bytes).unwrap();
    (
        packed,
        tar(
            bench,
            &["-tvf", "diff.tar", "--numeric-owner", "--full-time"],
        ),
    )
}

fn tar(bench: &Bench, args: &[&str]) -> String {
    let read = Command::new("tar")
        .args(args)
        .current_dir(bench.path(""))
        .env("TZ", "UTC")
        .output()
        .unwrap();
    assert!(read.status.success() && read.stderr.is_empty(), "{read:?}");
    String::from_utf8_lossy(&read.stdout).into_owned()
}

fn has(listing: &str, line: &str) {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let found = listing.lines().any(|found| words(found).ends_with(line));
    assert!(found, "no {line:?} in\n{listing}");
}

#[test]
fn changes_become_a_layer() {
    let bench = Bench::new();
    let script = "echo new > /new; chmod 640 /new; ln /new /hard; ln -s /etc/passwd /link; mkfifo /fifo; \
                  rm /etc/passwd; rm -r /usr; mkdir /usr; echo x > /usr/x; mkdir -p /tmp/a/b; \
                  touch -d '2001-02-03 04:05:06' /new; echo long > /tmp/$(printf '%0150d' 7)";
    let (packed, listing) = packed(&bench, script);
    has(&listing, "0/0 4 2001-02-03 04:05:06 hard");
    has(&listing, "new link to hard");
    has(&listing, "link -> /etc/passwd");
    has(&listing, "etc/.wh.passwd");
    has(&listing, "usr/.wh..wh..opq");
    has(&listing, "usr/x");
    has(&listing, "tmp/a/b/");
    has(&listing, &format!("tmp/{:0150}", 7));
    assert!(
        listing
            .lines()
            .any(|line| line.starts_with('p') && line.ends_with(" fifo")),
        "{listing}"
    );
    assert!(
        !listing.contains(" proc") && !listing.contains(" dev") && !listing.contains(" sys"),
        "{listing}"
    );
    assert_eq!(packed.left_out, 0);
    assert_eq!(tar(&bench, &["-xOf", "diff.tar", "hard"]), "new\n");
}

#[test]
fn nothing_changed_is_an_empty_layer() {
    let bench = Bench::new();
    let (packed, listing) = packed(&bench, "true");
    assert_eq!((packed, listing.as_str()), (Packed::default(), ""));
}

#[test]
fn hostile_changes_are_metadata_and_hang_nobody() {
    let bench = Bench::new();
    let script = "ln -s / /root; ln -s ../../../../../etc /up; mkfifo /pipe; \
                  dd if=/dev/null of=/huge bs=1 seek=1099511627776 2>/dev/null; printf x | dd of=/huge bs=1 seek=5000000000 conv=notrunc 2>/dev/null; \
                  echo evil > /.wh.etc; echo evil > /.wh..wh..opq; mkdir /bin/d; mv /bin/d /bin/e";
    let began = Instant::now();
    let (packed, listing) = packed(&bench, script);
    assert!(began.elapsed() < patient(Duration::from_secs(50)));
    has(&listing, "root -> /");
    has(&listing, "up -> ../../../../../etc");
    assert!(listing.contains(" 1099511627776 "), "{listing}");
    assert!(
        !listing.contains(".wh.") && !listing.contains("passwd"),
        "{listing}"
    );
    assert_eq!(packed.left_out, 3, "{packed:?}");
    assert!(packed.bytes < 1 << 20, "{packed:?}");
    let size = std::fs::metadata(bench.path("diff.tar")).unwrap().len();
    assert!(size < 1 << 20, "{size}");
    assert!(Path::new("/etc/passwd").exists());
}

#[test]
fn owners_are_those_of_the_sandbox() {
    let bench = Bench::new();
    let wish = Wish {
        user: lamina_runtime::spec::Identity {
            uid: 33,
            gid: 34,
            groups: Vec::new(),
        },
        ..Wish::default()
    };
    let (root, ids) = run_script(&bench, &wish, "echo mine > /home/web/mine");
    let (bytes, _) = diff::pack(root.changes(), root.image(), ids, &[], Vec::new()).unwrap();
    std::fs::write(bench.path("diff.tar"), bytes).unwrap();
    let listing = tar(&bench, &["-tvf", "diff.tar", "--numeric-owner"]);
    let line = listing
        .lines()
        .find(|line| line.ends_with("home/web/mine"))
        .unwrap();
    assert!(line.contains(" 33/34 "), "{listing}");
}
