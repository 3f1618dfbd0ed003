//! Archives that GNU tar and Python write, listed by all three of us.

use std::io::BufReader;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::Path;
use std::process::Command;

use lamina_image::TarLimits;
use lamina_image::tar::{EntryKind, TarReader};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::disk::require_root;
use crate::images::noise;

/// One line per entry: path, kind, mode, owner, time, link, size and digest.
fn ours(archive: &Path) -> Vec<String> {
    let file = std::fs::File::open(archive).unwrap();
    let mut tar = TarReader::new(BufReader::new(file), TarLimits::default());
    let mut out = Vec::new();
    while let Some(entry) = tar.next_entry().unwrap() {
        let (kind, link, content) = match &entry.kind {
            EntryKind::File { size, sparse } => {
                let mut bytes = vec![0; *size as usize];
                let dense = vec![lamina_image::tar::DataSegment {
                    offset: 0,
                    len: *size,
                }];
                for segment in sparse.clone().unwrap_or(dense) {
                    let mut at = segment.offset as usize;
                    let end = at + segment.len as usize;
                    while at < end {
                        let data = tar.data().unwrap();
                        let n = data.len().min(end - at);
                        bytes[at..at + n].copy_from_slice(&data[..n]);
                        tar.consume(n);
                        at += n;
                    }
                }
                let digest = lamina_image::manifest::sha256(&bytes).to_string();
                ("file", Vec::new(), format!("{size} {}", &digest[7..]))
            }
            EntryKind::Directory => ("dir", Vec::new(), String::new()),
            EntryKind::Symlink(to) => ("sym", to.clone(), String::new()),
            EntryKind::HardLink(to) => ("hard", to.as_bytes().to_vec(), String::new()),
            EntryKind::CharDevice { major, minor } => {
                ("chr", Vec::new(), format!("{major}:{minor}"))
            }
            EntryKind::BlockDevice { major, minor } => {
                ("blk", Vec::new(), format!("{major}:{minor}"))
            }
            EntryKind::Fifo => ("fifo", Vec::new(), String::new()),
        };
        out.push(format!(
            "{} {kind} {:o} {}:{} {} {} {content}",
            hex::encode(entry.path.as_bytes()),
            entry.perm,
            entry.uid,
            entry.gid,
            entry.mtime.secs,
            hex::encode(link),
        ));
    }
    out
}

const PYTHON_LIST: &str = r#"
import hashlib, math, os, sys, tarfile
def clean(name):
    parts = [p for p in os.fsencode(name).split(b"/") if p not in (b"", b".")]
    return b"/".join(parts).hex()
t = tarfile.open(sys.argv[1], errors="surrogateescape")
for m in t:
    link = content = ""
    if m.isreg() or m.issparse():
        kind = "file"
        content = "%d %s" % (m.size, hashlib.sha256(t.extractfile(m).read()).hexdigest())
    elif m.isdir(): kind = "dir"
    elif m.issym(): kind, link = "sym", os.fsencode(m.linkname).hex()
    elif m.islnk(): kind, link = "hard", clean(m.linkname)
    elif m.ischr(): kind, content = "chr", "%d:%d" % (m.devmajor, m.devminor)
    elif m.isblk(): kind, content = "blk", "%d:%d" % (m.devmajor, m.devminor)
    else: kind = "fifo"
    print(clean(m.name), kind, "%o" % (m.mode & 0o7777), "%d:%d" % (m.uid, m.gid), math.floor(m.mtime), link, content)
"#;

const PYTHON_WRITE: &str = r#"
import sys, tarfile
form = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}[sys.argv[1]]
with tarfile.open(sys.argv[2], "w", format=form, errors="surrogateescape", encoding="utf-8") as t:
    t.add(sys.argv[3], arcname=sys.argv[4])
"#;

fn output(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn python(script: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg("-c").arg(script);
    command
}

/// Names that old formats cannot hold go below `new`.
fn populate(root: &Path) {
    let old = root.join("old");
    let new = root.join("new");
    std::fs::create_dir_all(old.join("sub/dir")).unwrap();
    std::fs::create_dir_all(&new).unwrap();
    std::fs::write(old.join("empty"), b"").unwrap();
    std::fs::write(old.join("sub/block"), noise(1, 512)).unwrap();
    std::fs::write(old.join("sub/more"), noise(2, 70_001)).unwrap();
    std::fs::hard_link(old.join("sub/more"), old.join("sub/twin")).unwrap();
    symlink("../empty", old.join("sub/link")).unwrap();
    let node = |name: &str, kind, device| {
        mknodat(
            CWD,
            old.join(name),
            kind,
            Mode::from_raw_mode(0o4640),
            device,
        )
        .unwrap();
    };
    node("fifo", FileType::Fifo, 0);
    node("chr", FileType::CharacterDevice, rustix::fs::makedev(5, 1));
    node("blk", FileType::BlockDevice, rustix::fs::makedev(8, 17));
    let long = "n".repeat(200);
    std::fs::create_dir_all(new.join(&long).join(&long)).unwrap();
    std::fs::write(new.join(&long).join("file"), b"long").unwrap();
    symlink(format!("/{long}/{long}"), new.join("long-link")).unwrap();
    std::fs::write(new.join("ünï — ☃"), b"text").unwrap();
    std::os::unix::fs::chown(new.join("ünï — ☃"), Some(3_000_000), Some(4_000_000_000)).unwrap();
    let sparse = std::fs::File::create(new.join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    // More runs than one header of the old format holds.
    for i in 0..30u64 {
        sparse.write_all_at(&noise(i, 100), i * 32_768 + 5).unwrap();
    }
}

#[test]
fn gnu_tar_and_python_list_the_same_entries() {
    require_root("gnu_tar_and_python_list_the_same_entries");
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    populate(&root);
    let archive = dir.path().join("a.tar");
    let tar = |args: &[&str], what: &str| {
        let mut command = Command::new("tar");
        command
            .arg("-C")
            .arg(&root)
            .arg("-cf")
            .arg(&archive)
            .args(args)
            .arg(what);
        output(&mut command);
    };
    let by_python = |format: &str, what: &str| {
        output(
            python(PYTHON_WRITE)
                .arg(format)
                .arg(&archive)
                .arg(root.join(what))
                .arg(what),
        );
    };
    let check = |name: &str, entries_min: usize| {
        let got = ours(&archive);
        assert!(got.len() >= entries_min, "{name}: {got:#?}");
        let listed = output(python(PYTHON_LIST).arg(&archive));
        let listed: Vec<&str> = listed.lines().collect();
        assert_eq!(got, listed, "{name}: we against Python");
        let names = output(
            Command::new("tar")
                .arg("-tf")
                .arg(&archive)
                .arg("--quoting-style=literal"),
        );
        let names: Vec<String> = names
            .lines()
            .map(|n| hex::encode(n.trim_start_matches("./").trim_end_matches('/')))
            .collect();
        let ours: Vec<&str> = got.iter().map(|l| l.split(' ').next().unwrap()).collect();
        assert_eq!(ours, names, "{name}: we against GNU tar");
    };
    for format in ["v7", "oldgnu", "gnu", "ustar", "posix"] {
        let format = format!("--format={format}");
        if format == "--format=v7" {
            // No devices in the oldest format.
            tar(&[&format], "old/sub");
            check(&format, 5);
        } else {
            tar(&[&format], "old");
            check(&format, 10);
        }
    }
    for args in [
        &["--format=gnu", "--sparse"][..],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
        &["--format=posix", "--xattrs", "--sparse"],
    ] {
        tar(args, ".");
        check(&args.join(" "), 18);
    }
    for (format, what) in [("ustar", "old"), ("gnu", "."), ("pax", ".")] {
        by_python(format, what);
        check(format, 10);
    }
}
