use super::*;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

/// A root with links that lead out of it, and what must not be touched beside it.
/// What the files may have.
const ROOM: u64 = 16 * PAGE;

struct Place {
    dir: tempfile::TempDir,
    placer: Placer,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root");
        for name in ["root/etc", "root/usr/bin", "outside"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("outside/file"), "untouched").unwrap();
        symlink(dir.path().join("outside"), path.join("absolute")).unwrap();
        symlink("../outside", path.join("relative")).unwrap();
        symlink("usr/bin", path.join("bin")).unwrap();
        symlink("loop", path.join("loop")).unwrap();
        std::fs::write(path.join("etc/file"), "image").unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
        let ids = IdRange::of_slot(7).unwrap();
        Self {
            placer: Placer::new(root, ids, ROOM),
            dir,
        }
    }

    fn put(&mut self, path: &str, kind: Kind, data: &[u8]) -> Result<()> {
        let names = path.split('/').filter(|name| !name.is_empty());
        let entry = Entry {
            names: names.map(str::to_owned).collect(),
            kind,
            mode: 0o640,
            uid: 3,
            gid: 4,
            mtime: Some(1_000_000_000),
        };
        let is_file = entry.kind == Kind::File;
        self.placer.apply(Step::Begin(entry))?;
        if is_file {
            self.placer.apply(Step::Data(data.to_vec()))?;
        }
        self.placer.apply(Step::End)
    }

    fn file(&mut self, path: &str, data: &str) -> Result<()> {
        self.put(path, Kind::File, data.as_bytes())
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap()
    }
}

#[test]
fn entries_have_their_owners_modes_and_times_and_parents_are_root_s() {
    let mut place = Place::new();
    place.file("a/b/c", "data").unwrap();
    place.put("d", Kind::Directory, &[]).unwrap();
    place
        .put("l", Kind::Symlink("/nowhere".into()), &[])
        .unwrap();
    assert_eq!(place.read("a/b/c"), "data");
    let first = IdRange::of_slot(7).unwrap().first();
    for (path, mode) in [("a/b/c", 0o640), ("d", 0o640), ("l", 0o777)] {
        let found = std::fs::symlink_metadata(place.path(path)).unwrap();
        assert_eq!((found.uid(), found.gid()), (first + 3, first + 4), "{path}");
        assert_eq!(found.mode() & 0o777, mode, "{path}");
        assert_eq!(found.mtime(), 1_000_000_000, "{path}");
    }
    let parent = std::fs::metadata(place.path("a/b")).unwrap();
    assert_eq!((parent.uid(), parent.mode() & 0o777), (first, 0o755));
}

#[test]
fn links_lead_nowhere_outside() {
    let mut place = Place::new();
    // Inside, these are paths that are not there.
    for path in ["absolute/file", "relative/file", "absolute/new/x"] {
        let refused = place.file(path, "evil").unwrap_err().of(path);
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
        assert!(
            refused.to_string().contains("leads to nothing"),
            "{refused}"
        );
    }
    let refused = place.file("loop/x", "evil").unwrap_err().of("loop/x");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    place
        .put("mine", Kind::Symlink("../../../../outside".into()), &[])
        .unwrap();
    place.file("mine/file", "evil").unwrap_err();
    let outside = place.dir.path().join("outside");
    assert_eq!(
        std::fs::read_to_string(outside.join("file")).unwrap(),
        "untouched"
    );
    assert_eq!(std::fs::read_dir(outside).unwrap().count(), 1);
    place.file("bin/tool", "tool").unwrap();
    assert_eq!(place.read("usr/bin/tool"), "tool");
    place.put("bin", Kind::Directory, &[]).unwrap();
    assert!(place.path("bin").is_symlink());
}

#[test]
fn what_is_there_is_replaced_and_never_written_through() {
    let mut place = Place::new();
    std::fs::hard_link(place.path("etc/file"), place.path("etc/other")).unwrap();
    place.file("etc/file", "new").unwrap();
    assert_eq!(
        (place.read("etc/file"), place.read("etc/other")),
        ("new".into(), "image".into())
    );
    place.file("absolute", "now a file").unwrap();
    assert_eq!(place.read("absolute"), "now a file");
    assert!(Path::new(&place.dir.path().join("outside/file")).exists());
    let refused = place.file("usr", "x").unwrap_err().of("usr").to_string();
    assert!(refused.contains("a directory is there"), "{refused}");
    let refused = place.put("etc/file", Kind::Directory, &[]).unwrap_err();
    assert!(refused.to_string().contains("something else"), "{refused}");
    let refused = place.file("etc/file/x", "").unwrap_err().of("etc/file/x");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
}

#[test]
fn data_is_bounded() {
    let mut place = Place::new();
    let large = "x".repeat((ROOM - 2 * PAGE) as usize);
    place.file("a", &large).unwrap();
    assert_eq!(place.placer.bytes(), ROOM - 2 * PAGE + INODE);
    let refused = place.file("b", &"x".repeat(5000)).unwrap_err().of("b");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let said = format!("{ROOM} bytes");
    assert!(refused.to_string().contains(&said), "{refused}");
}

#[test]
fn names_without_data_are_bounded_too() {
    let long = "x".repeat(SHORT_LINK);
    let kinds: [(Kind, &[u8], u64); 4] = [
        (Kind::File, b"", INODE),
        (Kind::File, b"x", INODE + PAGE),
        (Kind::Directory, b"", INODE),
        (Kind::Symlink(long), b"", INODE + PAGE),
    ];
    for (kind, data, each) in kinds {
        let mut place = Place::new();
        let mut put = |number| place.put(&format!("n{number}"), kind.clone(), data);
        let fit = ROOM / each;
        for number in 0..fit {
            put(number).unwrap();
        }
        let refused = put(fit).unwrap_err();
        assert!(matches!(refused, PlaceError::TooMuch(ROOM)), "{refused}");
    }
    // Directories on the way are made, too.
    let mut place = Place::new();
    place.put("a/b/c/d", Kind::Directory, &[]).unwrap();
    assert_eq!(place.placer.bytes(), 4 * INODE);
}
