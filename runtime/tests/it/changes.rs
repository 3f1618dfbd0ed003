//! Changes as a layer: what tar(1) reads from the archive, and what hostile ones do to whoever packs them.

use crate::sandbox::{Bench, Wish, patient, run_script};
use lamina_runtime::diff::{self, Packed};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A place among the changes, for what cannot be made inside.
fn among(changes: BorrowedFd<'_>, name: &str) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(changes.as_raw_fd().to_string())
        .join(name)
}

/// Puts a socket among the changes: the image has no program that makes one.
fn add_socket(changes: BorrowedFd<'_>) {
    drop(UnixListener::bind(among(changes, "socket")).unwrap());
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

/// A file with so many holes that it is left out is no target of a link either: the image may have another of that name.
#[test]
fn a_link_to_what_is_left_out_is_left_out_as_well() {
    const PAGES: u64 = 66_000;
    let bench = Bench::new();
    let wish = Wish {
        disk: 512 << 20,
        ..Wish::default()
    };
    let (root, ids) = run_script(&bench, &wish, "echo beside > /z");
    let full = File::create(among(root.changes(), "a")).unwrap();
    for page in 0..PAGES {
        full.write_all_at(&[7; 4096], page * 3 * 4096).unwrap();
    }
    std::fs::hard_link(among(root.changes(), "a"), among(root.changes(), "b")).unwrap();
    let (bytes, packed) = diff::pack(
        root.changes(),
        root.image(),
        ids,
        &diff::MOUNT_POINTS,
        Vec::new(),
    )
    .unwrap();
    assert_eq!((packed.entries, packed.left_out), (1, 2), "{packed:?}");
    std::fs::write(bench.path("diff.tar"), bytes).unwrap();
    let listing = tar(&bench, &["-tf", "diff.tar"]);
    assert_eq!(listing, "z\n");
}

#[test]
fn devices_are_metadata() {
    let bench = Bench::new();
    let (root, ids) = run_script(&bench, &Wish::default(), "echo beside > /z");
    let mode = Mode::from_raw_mode(0o640);
    // Endless if it were read, another one if it were opened, and the disk that machines are on.
    for (name, kind, device) in [
        ("dev-zero", FileType::CharacterDevice, makedev(1, 5)),
        ("dev-tty", FileType::CharacterDevice, makedev(5, 0)),
        ("dev-disk", FileType::BlockDevice, makedev(8, 0)),
    ] {
        mknodat(CWD, among(root.changes(), name), kind, mode, device).unwrap();
    }
    let (bytes, packed) = diff::pack(
        root.changes(),
        root.image(),
        ids,
        &diff::MOUNT_POINTS,
        Vec::new(),
    )
    .unwrap();
    std::fs::write(bench.path("diff.tar"), bytes).unwrap();
    let listing = tar(&bench, &["-tvf", "diff.tar", "--numeric-owner"]);
    for (kind, device, name) in [
        ("crw-r-----", "1,5", "dev-zero"),
        ("crw-r-----", "5,0", "dev-tty"),
        ("brw-r-----", "8,0", "dev-disk"),
    ] {
        let is_it = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words[0] == kind && words[2] == device && words.last() == Some(&name)
        };
        assert!(listing.lines().any(is_it), "{kind} {name}: {listing}");
    }
    has(&listing, "z");
    // Of all that, the bytes of one file.
    assert_eq!(
        (packed.bytes, packed.left_out),
        ("beside\n".len() as u64, 0)
    );
    assert_eq!(packed.entries, 4, "{listing}");
}

/// Takes an archive, and at every piece of it changes the files that it is made of.
struct Meddler {
    archive: Vec<u8>,
    at: PathBuf,
    pieces: u64,
}

/// What one that grows gets at every piece: more than a piece of the archive has, so that who follows it never ends.
const GROWTH: usize = 1 << 20;
/// No more than that, for the changes' sake: they have a size.
const GROWN_MAX: u64 = 32 << 20;

impl Meddler {
    fn file(&self, name: &str) -> File {
        let options = File::options().write(true).open(self.at.join(name));
        options.unwrap()
    }

    fn replace(&self, name: &str, make: impl FnOnce(&Path)) {
        let new = self.at.join("new");
        make(&new);
        std::fs::rename(new, self.at.join(name)).unwrap();
    }
}

impl Write for Meddler {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let grows = self.file("b-grows");
        let size = grows.metadata().unwrap().len();
        if size < GROWN_MAX {
            let more = vec![b'+'; GROWTH];
            grows.write_all_at(&more, size).unwrap();
        }
        // Not before it is being read.
        if self.archive.len() > 64 << 10 {
            self.file("a-shrinks").set_len(5).unwrap();
        }
        if self.pieces == 0 {
            self.replace("c-link", |new| symlink("/etc/passwd", new).unwrap());
            self.replace("d-pipe", |new| {
                mknodat(CWD, new, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
            });
            self.replace("e-file", |new| {
                std::fs::write(new, "another one\n").unwrap();
            });
        }
        self.pieces += 1;
        self.archive.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn files_that_change_while_they_are_read_make_a_whole_archive_and_an_end() {
    const SIZE: u64 = 3 << 20;
    let bench = Bench::new();
    let script = "yes a | head -c 3145728 > /a-shrinks; yes b | head -c 3145728 > /b-grows; \
                  for name in c-link d-pipe e-file; do echo old > /$name; done";
    let (root, ids) = run_script(&bench, &Wish::default(), script);
    let meddler = Meddler {
        archive: Vec::new(),
        at: among(root.changes(), ""),
        pieces: 0,
    };
    let began = Instant::now();
    let (meddler, packed) = diff::pack(
        root.changes(),
        root.image(),
        ids,
        &diff::MOUNT_POINTS,
        meddler,
    )
    .unwrap();
    assert!(began.elapsed() < patient(Duration::from_secs(50)));
    assert_eq!(meddler.file("a-shrinks").metadata().unwrap().len(), 5);
    assert_eq!(meddler.file("b-grows").metadata().unwrap().len(), GROWN_MAX);
    std::fs::write(bench.path("diff.tar"), meddler.archive).unwrap();
    let listing = tar(&bench, &["-tvf", "diff.tar", "--numeric-owner"]);
    assert_eq!((packed.entries, packed.left_out), (5, 0), "{listing}");
    assert!(packed.bytes < SIZE + GROWN_MAX, "{listing}");
    // As long as when it was begun: what is gone reads as zeros, what came later is not there.
    let shrunk = tar(&bench, &["-xOf", "diff.tar", "a-shrinks"]);
    assert_eq!(shrunk.len() as u64, SIZE);
    assert!(shrunk.starts_with("a\na\na") && shrunk.ends_with("\0\0"));
    assert_eq!(shrunk.trim_end_matches('\0').replace("a\n", "").trim(), "");
    has(&listing, "c-link -> /etc/passwd");
    assert!(
        listing
            .lines()
            .any(|line| line.starts_with('p') && line.ends_with(" d-pipe")),
        "{listing}"
    );
    assert_eq!(
        tar(&bench, &["-xOf", "diff.tar", "e-file"]),
        "another one\n"
    );
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
