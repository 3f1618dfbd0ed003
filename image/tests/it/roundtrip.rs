//! Directory -> flist -> directory: nothing is lost, nothing outside touched.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lamina_flist::{Flist, FlistError};
use lamina_image::diff::{Aspect, Change, DiffError, DiffLimits, diff, diff_within, usage};
use lamina_image::pack::{PackDirError, PackDirOptions, PackedDir, pack_directory};
use lamina_image::progress::{Progress, Silent};
use lamina_image::unpack::{UnpackError, UnpackOptions, UnpackReport, unpack};
use lamina_store::StoreSet;
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat, utimensat};

use crate::convert::{hinted, python};
use crate::disk::{disk_listing, require_root};
use crate::images::{assert_same, listing, noise, store};

/// Something of everything a directory can hold.
fn populate(root: &Path) {
    let path = |name: &str| root.join(name);
    std::fs::create_dir_all(path("a/b/c")).unwrap();
    std::fs::create_dir(path("empty")).unwrap();
    std::fs::write(path("a/none"), b"").unwrap();
    std::fs::write(path("a/small"), noise(1, 1024)).unwrap();
    std::fs::write(path("a/larger"), noise(2, 1025)).unwrap();
    std::fs::write(path("a/b/big"), noise(3, 9_000_001)).unwrap();
    std::fs::write(path("a/b/same"), noise(3, 9_000_001)).unwrap();
    for i in 0..600 {
        std::fs::write(path(&format!("a/b/c/{i}")), noise(i, 3 * i as usize)).unwrap();
    }
    std::fs::write(path("a/run.py"), python("import module")).unwrap();
    std::fs::write(path("a/module.py"), python("")).unwrap();
    std::fs::hard_link(path("a/larger"), path("z-link")).unwrap();
    symlink("../../outside", path("a/up")).unwrap();
    symlink("/etc/passwd", path("abs")).unwrap();
    let sparse = std::fs::File::create(path("sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    sparse.write_all_at(b"middle", (20 << 20) + 5).unwrap();
    sparse.write_all_at(b"end", (50 << 20) - 3).unwrap();
    std::fs::File::create(path("holes-only"))
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let node = |name: &str, kind, device| {
        mknodat(CWD, path(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    };
    node("fifo", FileType::Fifo, 0);
    node("socket", FileType::Socket, 0);
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node(
        "disk",
        FileType::BlockDevice,
        rustix::fs::makedev(259, 70_000),
    );
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(path(name), key, value, XattrFlags::empty()).unwrap();
    };
    set("a/small", "user.text", b"value");
    set("a/larger", "user.binary", &noise(9, 300));
    set("a/b", "trusted.dir", b"1");
    set("abs", "trusted.link", b"1");
    set("fifo", "trusted.fifo", b"1");
    std::os::unix::fs::lchown(path("abs"), Some(7), Some(8)).unwrap();
    std::os::unix::fs::chown(path("a/small"), Some(70_000), Some(4_000_000_000)).unwrap();
    std::fs::set_permissions(path("a/small"), PermissionsExt::from_mode(0o6711)).unwrap();
    std::fs::set_permissions(path("empty"), PermissionsExt::from_mode(0o1777)).unwrap();
    // As setcap cap_net_raw+ep writes it; after the owner, which clears it.
    let cap = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    set("a/larger", "security.capability", cap);
    for (name, secs, nanos) in [("a/b/c/5", -5, 7), ("abs", 99, 1), ("a", 1, 999_999_999)] {
        let time = Timespec {
            tv_sec: secs,
            tv_nsec: nanos,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        utimensat(CWD, path(name), &times, flags).unwrap();
    }
}

struct Bench {
    dir: tempfile::TempDir,
    stores: StoreSet,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (stores, _) = store(&dir.path().join("store"));
        std::fs::create_dir(dir.path().join("in")).unwrap();
        Self { dir, stores }
    }

    fn input(&self) -> PathBuf {
        self.dir.path().join("in")
    }

    async fn pack(
        &self,
        edit: impl FnOnce(&mut PackDirOptions),
    ) -> Result<PackedDir, PackDirError> {
        let (_, place) = store(&self.dir.path().join("store"));
        let mut options = PackDirOptions::default();
        edit(&mut options);
        let input = self.input();
        let handle = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let progress: Arc<dyn Progress> = Arc::new(Silent);
            pack_directory(&input, &place, &options, &progress, &handle)
        })
        .await
        .unwrap()
    }

    async fn flist(&self) -> Flist {
        Flist::parse(Bytes::from(self.pack(|_| {}).await.unwrap().flist)).unwrap()
    }

    async fn unpack(&self, flist: &Flist, to: &str) -> Result<UnpackReport, UnpackError> {
        self.unpack_with(flist, to, UnpackOptions::default()).await
    }

    async fn unpack_with(
        &self,
        flist: &Flist,
        to: &str,
        options: UnpackOptions,
    ) -> Result<UnpackReport, UnpackError> {
        let (flist, stores, to) = (flist.clone(), self.stores.clone(), self.dir.path().join(to));
        let handle = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            unpack(&flist, &stores, &to, &options, &Silent, &handle)
        })
        .await
        .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_comes_back_as_it_was() {
    require_root("a_directory_comes_back_as_it_was");
    let bench = Bench::new();
    populate(&bench.input());
    let flist = bench.flist().await;
    let before = disk_listing(&bench.input());
    assert_same(&listing(&flist, &bench.stores).await, &before);
    let report = bench.unpack(&flist, "out").await.unwrap();
    assert_eq!(report.skipped_total, 0);
    let out = bench.dir.path().join("out");
    assert_same(&disk_listing(&out), &before);
    // Holes are holes again.
    for name in ["sparse", "holes-only"] {
        let blocks = |root: &Path| root.join(name).metadata().unwrap().blocks();
        assert!(blocks(&out) <= blocks(&bench.input()) + 64, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flist_does_not_depend_on_the_number_of_threads() {
    require_root("the_flist_does_not_depend_on_the_number_of_threads");
    let bench = Bench::new();
    populate(&bench.input());
    let mut digests = Vec::new();
    for threads in [1, 2, 7] {
        let packed = bench
            .pack(|o| (o.threads, o.pack.threads) = (threads, threads))
            .await;
        let packed = packed.unwrap();
        digests.push(packed.digest);
        let flist = Flist::parse(Bytes::from(packed.flist)).unwrap();
        assert_eq!(hinted(&flist, "a/run.py"), ["a/module.py"]);
    }
    assert!(digests.windows(2).all(|w| w[0] == w[1]), "{digests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_and_file_systems_are_left_out() {
    require_root("patterns_and_file_systems_are_left_out");
    let bench = Bench::new();
    for name in ["keep/x.py", "keep/x.pyc", "proc/y", "tmp/z"] {
        let path = bench.input().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"x").unwrap();
    }
    let mount = Mounted::tmpfs(&bench.input().join("proc"));
    std::fs::write(bench.input().join("proc/inside"), b"x").unwrap();
    let packed = bench.pack(|o| {
        o.one_file_system = true;
        o.exclude = vec!["*.pyc".parse().unwrap(), "/tmp".parse().unwrap()];
    });
    let packed = packed.await.unwrap();
    drop(mount);
    assert_eq!(packed.scan.excluded, 2);
    let flist = Flist::parse(Bytes::from(packed.flist)).unwrap();
    let paths: Vec<String> = listing(&flist, &bench.stores).await.into_keys().collect();
    assert_eq!(paths, ["", "keep", "keep/x.py", "proc"]);
}

/// A tmpfs, gone with this value.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path) -> Self {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", at, "tmpfs", flags, None::<&std::ffi::CStr>).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unpack_refuses_a_directory_in_use_unless_told() {
    require_root("unpack_refuses_a_directory_in_use_unless_told");
    let bench = Bench::new();
    std::fs::create_dir(bench.input().join("d")).unwrap();
    std::fs::write(bench.input().join("d/f"), noise(1, 5000)).unwrap();
    symlink("f", bench.input().join("d/l")).unwrap();
    let flist = bench.flist().await;
    // The directory holds links that lead out; they are replaced, not followed.
    let (out, canary) = (
        bench.dir.path().join("out"),
        bench.dir.path().join("canary"),
    );
    std::fs::create_dir_all(&canary).unwrap();
    std::fs::write(canary.join("f"), b"canary").unwrap();
    std::fs::create_dir(&out).unwrap();
    symlink(&canary, out.join("d")).unwrap();
    let error = bench.unpack(&flist, "out").await.unwrap_err();
    assert!(matches!(error, UnpackError::NotEmpty(_)), "{error}");
    let options = || UnpackOptions {
        into_existing: true,
        ..UnpackOptions::default()
    };
    bench.unpack_with(&flist, "out", options()).await.unwrap();
    assert_same(&disk_listing(&out), &disk_listing(&bench.input()));
    // Again over itself, with a link in a file's place.
    std::fs::remove_file(out.join("d/f")).unwrap();
    symlink(canary.join("f"), out.join("d/f")).unwrap();
    bench.unpack_with(&flist, "out", options()).await.unwrap();
    assert_same(&disk_listing(&out), &disk_listing(&bench.input()));
    assert_eq!(std::fs::read(canary.join("f")).unwrap(), b"canary");
    assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_are_named() {
    require_root("differences_are_named");
    let bench = Bench::new();
    let path = |name: &str| bench.input().join(name);
    for (name, seed) in [
        ("same", 1),
        ("edited", 2),
        ("gone", 3),
        ("moved", 4),
        ("mode", 5),
    ] {
        std::fs::write(path(name), noise(seed, 100_000)).unwrap();
    }
    symlink("a", path("link")).unwrap();
    let old = bench.flist().await;
    let times = |name: &str| {
        let meta = path(name).symlink_metadata().unwrap();
        let time = Timespec {
            tv_sec: meta.mtime(),
            tv_nsec: meta.mtime_nsec(),
        };
        Timestamps {
            last_access: time,
            last_modification: time,
        }
    };
    let kept = times("edited");
    std::fs::write(path("edited"), noise(6, 100_000)).unwrap();
    utimensat(CWD, path("edited"), &kept, rustix::fs::AtFlags::empty()).unwrap();
    std::fs::remove_file(path("gone")).unwrap();
    std::fs::rename(path("moved"), path("to")).unwrap();
    std::fs::set_permissions(path("mode"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::remove_file(path("link")).unwrap();
    std::fs::create_dir(path("link")).unwrap();
    std::fs::write(path("new"), b"").unwrap();
    let new = bench.flist().await;
    let got: Vec<String> = diff(&old, &new)
        .unwrap()
        .into_iter()
        .filter(|d| !d.path.is_empty())
        .map(|d| {
            let change = match d.change {
                Change::RenamedFrom(from) => format!("from {}", from.escape_ascii()),
                // A new directory has a new time and its own.
                Change::Changed(aspects) if aspects.contains(&Aspect::Type) => "Type".to_owned(),
                other => format!("{other:?}"),
            };
            format!("{} {change}", d.path.escape_ascii())
        })
        .collect();
    let want = [
        "edited Changed([Content])",
        "gone Removed",
        "link Type",
        "mode Changed([Mode])",
        "new Added",
        "to from moved",
    ];
    assert_eq!(got, want);
    assert!(diff(&new, &new).unwrap().is_empty());
    let within = |entries_max, path_bytes_max| {
        let limits = DiffLimits {
            entries_max,
            path_bytes_max,
        };
        diff_within(&old, &new, &limits)
    };
    assert_eq!(within(1000, 1000).unwrap(), diff(&old, &new).unwrap());
    assert!(matches!(within(1000, 8), Err(DiffError::TooLarge(8))));
    let too_many = within(2, 1000).unwrap_err();
    assert!(
        matches!(too_many, DiffError::Flist(FlistError::Limit { .. })),
        "{too_many}"
    );
    let sum = usage(&new, &[old]).unwrap();
    assert_eq!((sum.logical, sum.distinct), (400_000, 400_000));
    assert!(
        sum.shared > sum.stored / 2 && sum.shared < sum.stored,
        "{sum:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_named() {
    let bench = Bench::new();
    let missing = PackDirOptions::default();
    let (_, place) = store(&bench.dir.path().join("store"));
    let handle = tokio::runtime::Handle::current();
    let path = bench.input().join("missing");
    let error = tokio::task::spawn_blocking(move || {
        let progress: Arc<dyn Progress> = Arc::new(Silent);
        pack_directory(&path, &place, &missing, &progress, &handle).unwrap_err()
    });
    assert!(error.await.unwrap().to_string().contains("in/missing"));
    let name = std::ffi::OsStr::from_bytes(b"\xff\xfe-name");
    std::fs::write(bench.input().join(name), b"x").unwrap();
    let error = bench.pack(|o| o.entries_max = 0).await.unwrap_err();
    assert!(
        matches!(error, PackDirError::TooMany { max: 0, .. }),
        "{error}"
    );
    assert_eq!(bench.pack(|_| {}).await.unwrap().scan.entries, 1);
}
