//! Forged flists: each is refused, by the reason that is wrong with it.
//!
//! A forgery is a good flist with a few bytes changed and every checksum and
//! digest made right again, as an attacker would.

use std::ops::Range;

use bytes::Bytes;
use lamina_flist::blob::BlobMapError;
use lamina_flist::name::NameError;
use lamina_flist::{Flist, FlistError as E, FollowSymlinks, Limits, NodeKind, Tree};

use crate::support::{World, noise, xattrs};
use crate::whole::sample_builder;

/// A flist being forged.
#[derive(Clone)]
struct Forge {
    bytes: Vec<u8>,
    /// As it was before, to find things in.
    original: Flist,
}

impl Forge {
    fn of(bytes: Vec<u8>) -> Self {
        let original = Flist::parse(Bytes::from(bytes.clone())).unwrap();
        original.check(&Limits::default()).unwrap();
        Self { bytes, original }
    }

    fn sample() -> Self {
        Self::of(sample_builder().build().unwrap().bytes)
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn u16(self, at: usize, value: u16) -> Self {
        self.put(at, &value.to_le_bytes())
    }

    fn u32(self, at: usize, value: u32) -> Self {
        self.put(at, &value.to_le_bytes())
    }

    fn u64(self, at: usize, value: u64) -> Self {
        self.put(at, &value.to_le_bytes())
    }

    // --- where things are ---

    fn nid(&self, path: &str) -> u64 {
        let follow = FollowSymlinks::NotLast;
        self.original
            .resolve(path.as_bytes(), follow)
            .unwrap()
            .nid()
    }

    fn inode(&self, path: &str) -> usize {
        self.nid(path) as usize * 32
    }

    fn number(&self, at: usize, len: usize) -> u64 {
        let mut raw = [0; 8];
        raw[..len].copy_from_slice(&self.bytes[at..at + len]);
        u64::from_le_bytes(raw)
    }

    /// First byte after an inode's attributes.
    fn body(&self, path: &str) -> usize {
        let at = self.inode(path);
        match self.number(at + 2, 2) as usize {
            0 => at + 64,
            units => at + 64 + 12 + (units - 1) * 4,
        }
    }

    /// Where a small directory's entry is: its record, and its name.
    fn entry(&self, directory: &str, name: &str) -> (usize, Range<usize>) {
        let block = self.body(directory);
        let count = self.number(block + 8, 2) as usize / 12;
        let size = self.number(self.inode(directory) + 8, 8) as usize;
        let name_at = |i: usize| match i {
            i if i == count => block + size,
            i => block + self.number(block + i * 12 + 8, 2) as usize,
        };
        (0..count)
            .map(|i| (block + i * 12, name_at(i)..name_at(i + 1)))
            .find(|(_, range)| &self.bytes[range.clone()] == name.as_bytes())
            .unwrap()
    }

    fn rename(self, directory: &str, name: &str, new: &str) -> Self {
        let (_, range) = self.entry(directory, name);
        assert_eq!(name.len(), new.len());
        self.put(range.start, new.as_bytes())
    }

    /// Makes an entry name another inode, of type `kind`.
    fn point(self, directory: &str, name: &str, nid: u64, kind: u8) -> Self {
        let (record, _) = self.entry(directory, name);
        self.u64(record, nid).put(record + 10, &[kind])
    }

    fn section(&self, kind: u32) -> (usize, Range<usize>) {
        let record = (0..17).map(|i| 64 + i * 56);
        let record = record.filter(|&at| self.number(at, 4) == u64::from(kind));
        let record = record.max().unwrap();
        let start = self.number(record + 8, 8) as usize;
        (record, start..start + self.number(record + 16, 8) as usize)
    }

    fn table(&self, kind: u32) -> usize {
        self.section(kind).1.start
    }

    // --- making it look right ---

    fn seal_header(mut self) -> Self {
        let sum = crc32c::crc32c(&self.bytes[..1020]);
        self.bytes[1020..1024].copy_from_slice(&sum.to_le_bytes());
        self
    }

    fn seal_superblock(mut self) -> Self {
        self.bytes[1028..1032].fill(0);
        let sum = !crc32c::crc32c(&self.bytes[1024..4096]);
        self.u32(1028, sum)
    }

    fn seal(mut self) -> Self {
        self = self.seal_superblock();
        for i in 0..self.number(12, 4) as usize {
            let record = 64 + i * 56;
            let start = self.number(record + 8, 8) as usize;
            let end = start + self.number(record + 16, 8) as usize;
            let digest = *blake3::hash(&self.bytes[start..end]).as_bytes();
            self = self.put(record + 24, &digest);
        }
        self.seal_header()
    }

    // --- the verdict ---

    fn judge(self) -> E {
        let flist = match Flist::parse(Bytes::from(self.bytes)) {
            Ok(flist) => flist,
            Err(error) => return error,
        };
        use_everything(&flist);
        if let Err(error) = flist.verify_sections() {
            return error;
        }
        flist.check(&Limits::default()).unwrap_err()
    }

    fn sealed(self) -> E {
        self.seal().judge()
    }
}

fn use_everything_of_hints(flist: &Flist) {
    let Some(hints) = flist.hints() else { return };
    let probes = [0, 1, 2, 3, 1000, u32::MAX - 1, u32::MAX];
    for at in probes {
        let _ = (hints.ranges(at).count(), hints.needs(at).count());
        let _ = probes.map(|entry| hints.file_at(at as u16, entry));
    }
}

/// Calls every accessor on a flist nobody has checked; none may panic.
fn use_everything(flist: &Flist) {
    let _ = flist.to_tree();
    let _ = (
        flist.extra_sections(),
        flist.profile(),
        flist.embedded_packs(),
    );
    use_everything_of_hints(flist);
    let (chunks, packs) = (flist.chunks().count(), flist.packs().count());
    assert!(chunks <= flist.chunk_count() && packs <= flist.pack_count());
    for i in 0..flist.blob_count() {
        let _ = flist.blob_map_bytes(i);
        let _ = flist.blob_entries(i).map(Iterator::count);
    }
    let tree_slots = flist
        .blob(0)
        .map_or(0, |_| flist.as_bytes().len() as u64 / 32);
    for nid in (0..tree_slots).chain([u64::MAX, u64::MAX / 32]) {
        let Ok(inode) = flist.inode(nid) else {
            continue;
        };
        let _ = (flist.xattrs(&inode), flist.readlink(&inode));
        let _ = (flist.lookup(&inode, b"a"), flist.span_at(&inode, 5));
        let _ = flist.read_dir(&inode).take(1000).count();
        let _ = flist.span_at(&inode, u64::MAX - 1);
    }
    let _ = flist.resolve(b"dir/a/../../s/x/s-long", FollowSymlinks::Always);
}

#[test]
fn names_that_escape_or_confuse() {
    let forge = Forge::sample();
    let dir = forge.nid("dir");
    let bad = |reason| E::BadName {
        directory: dir,
        reason,
    };
    let rename = |name, new| forge.clone().rename("dir", name, new).sealed();
    assert_eq!(rename("inline", "inl/ne"), bad(NameError::Slash));
    assert_eq!(rename("inline", "inl\0ne"), bad(NameError::Nul));
    assert_eq!(rename("b", "a"), E::DuplicateName(dir));
    assert_eq!(rename("a", "z"), E::Unsorted(dir));
    assert_eq!(rename("a", "."), E::Unsorted(dir));
    // `.` twice: the second name of two, `..`, becomes `.` and a NUL.
    assert_eq!(rename("..", ".\0"), bad(NameError::Nul));
    // An empty first name: the first two begin at the same place.
    let block = forge.body("dir");
    let second = forge.number(block + 12 + 8, 2) as u16;
    let empty = forge.clone().u16(block + 12 + 8, second - 1).sealed();
    assert_eq!(empty, bad(NameError::Empty));
    // A last name that ends early.
    let short = rename("sparse", "spars\0");
    assert_eq!(short, E::BadDirectoryBlock(dir));
}

#[test]
fn names_longer_than_255_bytes() {
    let mut world = World::new(0);
    let dir = world.dir(Tree::ROOT, "d");
    world.file(dir, "a".repeat(200), 0, b"");
    world.file(dir, "b".repeat(200), 0, b"");
    let forge = Forge::of(world.finish().0.build().unwrap().bytes);
    let dir = forge.nid("d");
    // The second name begins 100 bytes later, so the first takes its bytes.
    let (record, range) = forge.entry("d", &"b".repeat(200));
    let at = forge.number(record + 8, 2) as u16 + 100;
    let error = forge
        .put(range.start, &[b'a'; 100])
        .u16(record + 8, at)
        .sealed();
    let reason = NameError::TooLong;
    assert_eq!(
        error,
        E::BadName {
            directory: dir,
            reason
        }
    );
}

#[test]
fn directories_that_are_not_a_tree() {
    let forge = Forge::sample();
    let (root, dir, big) = (forge.nid(""), forge.nid("dir"), forge.nid("big"));
    let point = |name, nid, kind| forge.clone().point("dir", name, nid, kind).sealed();
    assert_eq!(point("empty", dir, 2), E::DirectoryCycle(dir));
    assert_eq!(point("empty", root, 2), E::DirectoryCycle(root));
    assert_eq!(point("empty", big, 2), E::DirectoryLinkedTwice(big));
    assert_eq!(point("..", big, 2), E::WrongParent(dir));
    assert_eq!(point(".", root, 2), E::WrongSelf(dir));
    let file = forge.nid("fifo");
    assert_eq!(
        point("..", file, 5),
        E::EntryTypeMismatch {
            directory: dir,
            nid: file
        }
    );
    // The root is its own parent.
    let error = forge.clone().point("", "..", dir, 2).sealed();
    assert_eq!(error, E::WrongParent(root));
    // No `.`: a file of another directory has its place.
    let file = forge.nid("s");
    let error = forge
        .clone()
        .point("dir", ".", file, 7)
        .rename("dir", ".", "-");
    assert_eq!(error.sealed(), E::MissingDots(dir));
}

#[test]
fn entries_that_lie_about_their_inode() {
    let forge = Forge::sample();
    let (dir, empty) = (forge.nid("dir"), forge.nid("dir/empty"));
    let point = |nid, kind| forge.clone().point("dir", "empty", nid, kind).sealed();
    assert_eq!(
        point(empty, 2),
        E::EntryTypeMismatch {
            directory: dir,
            nid: empty
        }
    );
    for kind in [0, 8, 255] {
        assert_eq!(
            point(empty, kind),
            E::BadEntryType {
                directory: dir,
                kind
            }
        );
    }
    assert_eq!(point(u64::MAX, 1), E::NidOutOfRange(u64::MAX));
    assert_eq!(point(1 << 40, 1), E::NidOutOfRange(1 << 40));
    let end = forge.table(2) as u64 / 32;
    assert_eq!(point(end, 1), E::NidOutOfRange(end));
    assert_eq!(point(end - 1, 1), E::NidOutOfRange(end - 1));
    // Not an inode at all: our header, the second half of one.
    assert!(matches!(point(0, 1), E::UnsupportedInode { nid: 0, .. }));
    assert!(matches!(point(empty + 1, 1), E::UnsupportedInode { .. }));
    let (record, _) = forge.entry("dir", "empty");
    let error = forge.clone().put(record + 11, &[1]).sealed();
    assert_eq!(error, E::BadDirectoryBlock(dir));
}

#[test]
fn inodes_inside_other_things() {
    let forge = Forge::sample();
    let copy = |from: usize, to: usize, forge: Forge| {
        let inode = forge.bytes[from..from + 64].to_vec();
        forge.put(to, &inode).u32(to + 20, (to / 32) as u32)
    };
    // A second inode in the inline data of a file.
    let empty = forge.inode("dir/empty");
    let inside = forge.body("dir/inline") + 256;
    let forged = copy(empty, inside, forge.clone());
    let nid = (inside / 32) as u64;
    let error = forged.point("dir", "empty", nid, 1).sealed();
    assert!(matches!(error, E::Overlap { .. }), "{error}");
    // One in the header's place is nobody's.
    let forged = copy(empty, 512, forge.clone()).point("dir", "empty", 16, 1);
    assert!(matches!(
        forged.sealed(),
        E::HeaderReserved(512) | E::SectionFlags(_)
    ));
    let forged = copy(empty, 1152, forge).point("dir", "empty", 36, 1);
    assert!(matches!(forged.sealed(), E::DeviceMismatch(0)));
}

#[test]
fn an_inode_over_the_end_of_a_block() {
    let mut world = World::new(0);
    let dir = world.dir(Tree::ROOT, "d");
    world.file(dir, "f", 0, b"");
    world.add(Tree::ROOT, "y", NodeKind::Symlink(vec![b'x'; 4095]));
    world.add(Tree::ROOT, "z", NodeKind::Symlink(vec![b'x'; 4095]));
    let forge = Forge::of(world.finish().0.build().unwrap().bytes);
    // Into the end of one target and the start of the next.
    let at = forge.number(forge.inode("y") + 16, 4) as usize * 4096 + 4064;
    let nid = (at / 32) as u64;
    let inode = forge.bytes[forge.inode("d/f")..][..64].to_vec();
    let forged = forge.put(at, &inode).u32(at + 20, nid as u32);
    let error = forged.point("d", "f", nid, 1).sealed();
    assert_eq!(error, E::InodeCrossesBlock(nid));
}

#[test]
fn inode_fields_that_the_writer_never_writes() {
    let forge = Forge::sample();
    let (at, nid) = (forge.inode("dir/a"), forge.nid("dir/a"));
    let format = |value| forge.clone().u16(at, value).sealed();
    assert_eq!(format(0b0011), E::CompressedInode(nid));
    assert_eq!(format(0b0111), E::CompressedInode(nid));
    for value in [0b0000, 0b0100, 0b1000, 0b1011, 0b1_0001, 0xffff] {
        assert_eq!(format(value), E::UnsupportedInode { nid, format: value });
    }
    for mode in [0o644, 0o170_644, 0o030_644] {
        let error = forge.clone().u16(at + 4, mode).sealed();
        assert_eq!(error, E::BadMode { nid, mode });
    }
    let error = forge.clone().u32(at + 40, 1_000_000_000).sealed();
    assert_eq!(
        error,
        E::BadTime {
            nid,
            nanos: 1_000_000_000
        }
    );
    for reserved in [6, 7, 20, 48, 63] {
        let byte = forge.bytes[at + reserved] ^ 1;
        let error = forge.clone().put(at + reserved, &[byte]).sealed();
        assert_eq!(error, E::InodeReserved(nid), "byte {reserved}");
    }
    let error = forge.clone().u16(forge.inode("fifo") + 2, 1).sealed();
    assert_eq!(error, E::InodeReserved(forge.nid("fifo")));
}

#[test]
fn link_counts_that_are_wrong() {
    let forge = Forge::sample();
    let count = |path: &str, got| {
        let forged = forge.clone().u32(forge.inode(path) + 44, got);
        (forged.sealed(), forge.nid(path))
    };
    for (path, got, want) in [
        ("dir/a", 1, 2),
        ("dir/a", 3, 2),
        ("dir/empty", 2, 1),
        ("dir/empty", 0, 1),
        ("dir/empty", u32::MAX, 1),
        ("dir", 3, 2),
        ("dir", 1, 2),
        ("", 2, 4),
    ] {
        let (error, nid) = count(path, got);
        assert_eq!(error, E::BadNlink { nid, want, got }, "{path} {got}");
    }
    // Another name for a file that has one.
    let inline = forge.nid("dir/inline");
    let error = forge.clone().point("dir", "empty", inline, 1).sealed();
    let (want, got) = (2, 1);
    assert_eq!(
        error,
        E::BadNlink {
            nid: inline,
            want,
            got
        }
    );
}

#[test]
fn symlinks_with_bad_targets() {
    let forge = Forge::sample();
    let (at, nid) = (forge.inode("s"), forge.nid("s"));
    for size in [0, 4096, u64::MAX] {
        let error = forge.clone().u64(at + 8, size).sealed();
        assert_eq!(error, E::BadSymlink(nid), "{size}");
    }
    let error = forge.clone().put(forge.body("s") + 2, &[0]).sealed();
    assert_eq!(error, E::BadSymlink(nid));
}

#[test]
fn data_layouts_that_do_not_fit() {
    let forge = Forge::sample();
    let bad = |path: &str, field: usize, value: u32| {
        let error = forge.clone().u32(forge.inode(path) + field, value).sealed();
        (error, E::BadLayout(forge.nid(path)))
    };
    for (path, field, value) in [
        ("fifo", 8, 1),          // a pipe with a size
        ("fifo", 16, 1),         // or a start block
        ("char", 8, 1),          // a device with a size
        ("dir/empty", 16, 1),    // an empty file with blocks
        ("dir/inline", 8, 0),    // an empty inline file
        ("dir/inline", 8, 1025), // one too long to be inline
        ("dir/inline", 16, 1),   // or with blocks
        ("dir", 8, 0),           // an empty directory
        ("dir", 16, 1),          // a short directory with blocks
        ("s", 16, 1),
    ] {
        let (got, want) = bad(path, field, value);
        assert_eq!(got, want, "{path} {field} {value}");
    }
    // A short directory as whole blocks, a long one with a tail that is not.
    let layout = |path: &str, format| forge.clone().u16(forge.inode(path), format).sealed();
    assert_eq!(layout("dir", 0b0001), E::BadLayout(forge.nid("dir")));
    assert_eq!(layout("dir", 0b1001), E::BadLayout(forge.nid("dir")));
    assert_eq!(layout("s", 0b1001), E::BadLayout(forge.nid("s")));
    assert_eq!(layout("s-long", 0b0101), E::BadLayout(forge.nid("s-long")));
    assert_eq!(layout("fifo", 0b0101), E::BadLayout(forge.nid("fifo")));
}

#[test]
fn inline_data_over_the_end_of_a_block() {
    let forge = Forge::sample();
    let path = (0..300).map(|i| format!("big/{i:0100}"));
    let path = path
        .clone()
        .find(|path| forge.body(path) % 4096 > 3300)
        .unwrap();
    let error = forge.clone().u64(forge.inode(&path) + 8, 1024).sealed();
    assert_eq!(error, E::InlineCrossesBlock(forge.nid(&path)));
}

#[test]
fn extents_outside_their_blob() {
    let forge = Forge::sample();
    let (at, nid) = (forge.inode("dir/a"), forge.nid("dir/a"));
    let blocks = |i| (forge.original.blob(i).unwrap().len / 4096) as u32;
    let first = forge.number(1152 + 68, 4) as u32;
    let past = first + blocks(0) + blocks(1);
    // In the tree, behind the last blob, from one blob into the next.
    for start in [
        0,
        1,
        first - 1,
        first + 1,
        past - 1,
        past,
        u32::MAX - 1,
        u32::MAX,
    ] {
        let error = forge.clone().u32(at + 16, start).sealed();
        assert_eq!(error, E::DataOutOfRange(nid), "{start}");
    }
    let error = forge.clone().u64(at + 8, 1 << 50).sealed();
    assert_eq!(error, E::DataOutOfRange(nid));
    let error = forge.clone().u64(at + 8, u64::MAX).sealed();
    assert!(matches!(error, E::Limit { .. }), "{error}");
}

#[test]
fn directory_blocks_elsewhere() {
    let forge = Forge::sample();
    let (at, nid) = (forge.inode("big"), forge.nid("big"));
    for start in [u32::MAX, 1 << 20] {
        let error = forge.clone().u32(at + 16, start).sealed();
        assert_eq!(error, E::DataOutOfRange(nid));
    }
    // The header's block; one it shares with the long symlink.
    let error = forge.clone().u32(at + 16, 0).sealed();
    assert!(matches!(error, E::Overlap { .. }), "{error}");
    let shared = forge.number(forge.inode("s-long") + 16, 4) as u32;
    let error = forge.clone().u32(at + 16, shared).sealed();
    assert!(
        matches!(error, E::Overlap { .. } | E::DataOutOfRange(_)),
        "{error}"
    );
    let error = forge.clone().u64(at + 8, u64::MAX - 4095).sealed();
    assert!(
        matches!(error, E::DataOutOfRange(_) | E::BadLayout(_)),
        "{error}"
    );
    // First name offsets that are no multiple of 12, or outside.
    let block = forge.number(at + 16, 4) as usize * 4096;
    for offset in [0, 11, 13, 4096, 60_000] {
        let error = forge.clone().u16(block + 8, offset).sealed();
        assert_eq!(error, E::BadDirectoryBlock(nid), "{offset}");
    }
    // Names that go backwards.
    let error = forge.clone().u16(block + 12 + 8, 12).sealed();
    assert_eq!(error, E::BadDirectoryBlock(nid));
    // Something behind the last name of a block that is not the last.
    let count = forge.number(block + 8, 2) as usize / 12;
    let last = forge.number(block + (count - 1) * 12 + 8, 2) as usize;
    let after = block + last + 100 + 1;
    assert!(after < block + 4096);
    let error = forge.clone().put(after, b"x").sealed();
    assert_eq!(error, E::NonZeroPadding(after as u64));
}

#[test]
fn attributes_that_overrun_or_deceive() {
    let mut world = World::new(0);
    let dir = world.dir(Tree::ROOT, "d");
    world.tree.meta_mut(dir).xattrs =
        xattrs(&[("user.overlay.opaque", b"y"), ("user.z", b"12345")]);
    let forge = Forge::of(world.finish().0.build().unwrap().bytes);
    let (at, nid) = (forge.inode("d"), forge.nid("d"));
    let header = at + 64;
    let second = header + 12 + 4 + 14 + 1 + 1;
    assert_eq!(&forge.bytes[second..second + 5], &[1, 1, 5, 0, b'z']);
    let put = |at: usize, bytes: &[u8]| forge.clone().put(at, bytes).sealed();
    assert_eq!(put(header + 4, &[1]), E::SharedXattrs(nid));
    assert_eq!(put(header, &[1]), E::SharedXattrs(nid));
    assert_eq!(put(second + 2, &[200, 0]), E::XattrOverrun(nid));
    assert_eq!(put(second + 2, &[255, 255]), E::XattrOverrun(nid));
    assert_eq!(put(second, &[255]), E::XattrOverrun(nid));
    assert_eq!(put(at + 2, &[255, 255]), E::XattrOverrun(nid));
    for index in [0, 5, 7, 0x80, 0x81, 255] {
        assert_eq!(put(second + 1, &[index]), E::XattrName(nid), "{index}");
    }
    // An ACL's name has no suffix; NUL is in no name; `user.` alone is none.
    assert_eq!(put(second + 1, &[2]), E::XattrName(nid));
    assert_eq!(put(second + 4, &[0]), E::XattrName(nid));
    assert_eq!(put(second, &[0]), E::XattrName(nid));
    assert_eq!(put(second + 4, b"a"), E::XattrOrder(nid));
    assert_eq!(put(second + 10, &[1]), E::XattrPadding(nid));
}

#[test]
fn forged_overlay_attributes() {
    let mut world = World::new(0);
    let dir = world.dir(Tree::ROOT, "d");
    let file = world.file(Tree::ROOT, "f", 0, b"x");
    world.tree.meta_mut(dir).xattrs = xattrs(&[("user.overlay.opaque", b"y")]);
    world.tree.meta_mut(file).xattrs = xattrs(&[("user.overlay.redirect", b"/etc")]);
    let forge = Forge::of(world.finish().0.build().unwrap().bytes);
    let trusted = |path: &str| {
        let at = forge.inode(path) + 64 + 12 + 1;
        (forge.clone().put(at, &[4]).sealed(), forge.nid(path))
    };
    let (error, nid) = trusted("d");
    assert_eq!(error, E::LayerOnly(nid));
    let (error, nid) = trusted("f");
    assert_eq!(error, E::ReservedXattr(nid));
}

#[test]
fn sparse_files_with_bad_indexes() {
    let forge = Forge::sample();
    let (at, nid) = (forge.inode("dir/sparse"), forge.nid("dir/sparse"));
    for format in [0, 0x21, 0x3f, 0x40, 0x60, 0x1_0020] {
        let error = forge.clone().u32(at + 16, format).sealed();
        assert_eq!(error, E::BadChunkFormat { nid, format });
    }
    let indexes = forge.body("dir/sparse").next_multiple_of(8);
    let put = |index: usize, bytes: &[u8]| forge.clone().put(indexes + index * 8, bytes).sealed();
    let bad = |index| E::BadChunkIndex { nid, index };
    // Page 2 has data in blob 1; page 0 is a hole.
    assert_eq!(put(2, &[1]), bad(2));
    assert_eq!(put(2, &[0, 0, 0, 0]), bad(2));
    assert_eq!(put(2, &[0, 0, 9, 0]), bad(2));
    assert_eq!(put(0, &[0, 0, 2, 0]), bad(0));
    assert_eq!(put(3, &[0, 0, 1, 0]), bad(3), "two blobs in one file");
    let past = (forge.original.blob(1).unwrap().len / 4096) as u32;
    assert_eq!(
        put(2, &[&[0, 0, 2, 0][..], &past.to_le_bytes()].concat()),
        E::DataOutOfRange(nid)
    );
    // More indexes than the tree has bytes, and no size at all.
    let error = forge.clone().u64(at + 8, 1 << 28).sealed();
    assert_eq!(error, E::DataOutOfRange(nid));
    let error = forge.clone().u64(at + 8, u64::MAX).sealed();
    assert_eq!(error, E::BadLayout(nid));
}

#[test]
fn bytes_nobody_uses() {
    let forge = Forge::sample();
    let end = forge.table(2);
    let free = (1152 + 256..end).step_by(32).find(|&at| {
        forge.bytes[at..at + 32].iter().all(|&b| b == 0)
            && forge.clone().put(at + 5, b"x").sealed() == E::NonZeroPadding(at as u64 + 5)
    });
    assert!(free.is_some());
    // Behind the long symlink's target in its block.
    let block = forge.number(forge.inode("s-long") + 16, 4) as usize * 4096;
    let error = forge.clone().put(block + 4095, b"x").sealed();
    assert_eq!(error, E::NonZeroPadding(block as u64 + 4095));
}

#[test]
fn superblocks_of_other_file_systems() {
    let forge = Forge::sample();
    let put = |at: usize, bytes: &[u8]| forge.clone().put(1024 + at, bytes);
    assert_eq!(put(0, b"x").judge(), E::NotErofs);
    assert_eq!(put(20, b"x").judge(), E::SuperblockChecksum);
    for features in [0, 0x4, 0x8, 0xd, 0x1c, 0x8000_000c] {
        let error = put(80, &u32::to_le_bytes(features)).sealed();
        assert_eq!(error, E::UnsupportedFeatures(features));
    }
    // compat flags, block size, extension slots, build time, meta and xattr
    // addresses, volume name, compression, slot offset, directory block size,
    // xattr prefixes, packed inode, reserved.
    for at in [
        8, 12, 13, 24, 32, 40, 44, 64, 84, 88, 90, 91, 92, 96, 104, 127,
    ] {
        let byte = forge.bytes[1024 + at] ^ 4;
        assert_eq!(put(at, &[byte]).sealed(), E::UnsupportedSuperblock(at));
    }
    let inodes = forge.number(1024 + 16, 8);
    assert_eq!(
        put(16, &(inodes + 1).to_le_bytes()).sealed(),
        E::InodeCount {
            want: inodes + 1,
            got: inodes
        }
    );
    let error = put(36, &1u32.to_le_bytes()).sealed();
    assert!(matches!(error, E::BlocksMismatch { blocks: 1, .. }));
    let root = forge.nid("fifo") as u16;
    assert_eq!(put(14, &root.to_le_bytes()).sealed(), E::RootNotDirectory);
    assert!(matches!(
        put(14, &[0, 0]).sealed(),
        E::UnsupportedInode { nid: 0, .. }
    ));
}

#[test]
fn device_tables_that_are_not_the_blob_table() {
    let forge = Forge::sample();
    let slot = 1152;
    let number = |at: usize| forge.number(slot + at, 4) as u32;
    for (at, value) in [
        (64, number(64) + 1),
        (64, 0),
        (68, number(68) + 1),
        (68, 0),
        (72, 1),
    ] {
        let error = forge.clone().u32(slot + at, value).sealed();
        assert_eq!(error, E::DeviceMismatch(0), "{at} {value}");
    }
    let error = forge.clone().put(slot, b"not-hex").sealed();
    assert_eq!(error, E::DeviceMismatch(0));
    let error = forge.clone().u16(1024 + 86, 1).sealed();
    assert_eq!(error, E::DeviceMismatch(1));
    let error = forge.clone().u16(1024 + 86, u16::MAX).sealed();
    assert!(matches!(error, E::DeviceMismatch(_)));
    // Two devices in the other's place: the kernel would read wrong data.
    let slots = [
        &forge.bytes[slot + 128..slot + 256],
        &forge.bytes[slot..slot + 128],
    ]
    .concat();
    let error = forge.clone().put(slot, &slots).sealed();
    assert_eq!(error, E::DeviceMismatch(0));
}

#[test]
fn blob_tables_that_do_not_hold() {
    let forge = Forge::sample();
    let table = forge.table(2);
    let (blob, entries) = (table + 16, table + 16 + 2 * 56);
    let put = |at: usize, value: u64| forge.clone().u64(at, value).sealed();
    assert_eq!(put(table, 3), E::SectionLength(2));
    assert_eq!(put(table, u64::from(u32::MAX)), E::SectionLength(2));
    assert_eq!(put(table + 8, u64::MAX), E::SectionLength(2));
    assert!(matches!(
        put(table, 2 | 1 << 32),
        E::RecordReserved { kind: 2, .. }
    ));
    assert_eq!(put(blob + 40, 1), E::BadBlob(0));
    assert_eq!(put(blob + 48, u64::MAX), E::BadBlob(0));
    assert_eq!(put(blob + 56 + 40, 0), E::BadBlob(1));
    assert_eq!(put(blob + 32, 4097), E::DeviceMismatch(0));
    let map = |blob, reason| E::BadBlobMap { blob, reason };
    let last = forge.original.blob(0).unwrap().entries - 1;
    assert!(last > 0, "the sample's first file has several chunks");
    let at = entries + last as usize * 16;
    assert_eq!(
        put(at, u64::MAX),
        map(0, BlobMapError::OutOfBlob(last as u32))
    );
    assert_eq!(
        put(at, 1 << 20),
        map(0, BlobMapError::OutOfBlob(last as u32))
    );
    assert_eq!(put(at, 1), map(0, BlobMapError::Overlap(last as u32)));
    let chunk = forge.clone().u32(entries + 8, 1 << 30).sealed();
    assert_eq!(
        chunk,
        E::ChunkOutOfRange {
            blob: 0,
            chunk: 1 << 30
        }
    );
    let len = forge.clone().u32(entries + 12, 7).sealed();
    assert_eq!(len, E::EntryLength { blob: 0, chunk: 0 });
    // A blob's id is the digest of its map, whatever the device table says.
    let fake = [0xaa; 32];
    let both = forge
        .clone()
        .put(blob, &fake)
        .put(1152, "a".repeat(64).as_bytes());
    assert_eq!(both.sealed(), E::BlobIdMismatch(0));
}

#[test]
fn chunks_and_packs_that_do_not_hold() {
    let forge = Forge::sample();
    let (chunk, pack) = (forge.table(3), forge.table(4));
    let u32 = |at: usize, value: u32| forge.clone().u32(at, value).sealed();
    assert_eq!(u32(chunk, 1), E::BlobIdMismatch(0), "another id");
    assert_eq!(u32(chunk + 32, 1), E::PackOutOfRange { chunk: 0, pack: 1 });
    assert_eq!(u32(chunk + 36, u32::MAX), E::ChunkOutOfPack(0));
    assert_eq!(u32(chunk + 40, 1), E::BadChunk(0), "raw, but shorter");
    assert_eq!(u32(chunk + 44, 0), E::BadChunk(0));
    assert_eq!(u32(chunk + 44, 1 << 30), E::BadChunk(0));
    assert_eq!(u32(chunk + 48, 2), E::BadChunk(0), "codec");
    assert_eq!(u32(chunk + 52, 1), E::BadChunk(0), "reserved");
    let zstd = |stored: u32| forge.clone().put(chunk + 48, &[1]).u32(chunk + 40, stored);
    assert_eq!(zstd(0).sealed(), E::BadChunk(0));
    assert_eq!(zstd(1).sealed(), E::CompressionRatio(0));
    assert_eq!(zstd(1 << 20).sealed(), E::BadChunk(0));
    let u64 = |at: usize, value: u64| forge.clone().u64(at, value).sealed();
    assert_eq!(u64(pack + 64, 0), E::BadPack(0));
    assert!(matches!(u64(pack + 64, 10), E::ChunkOutOfPack(_)));
    assert_eq!(u64(pack + 72, 0), E::EmbeddedPackRange(0));
}

#[test]
fn embedded_packs_that_overlap_or_overrun() {
    let build = |ranges: &[(u64, u64)]| {
        let (mut builder, _) = World::new(0).finish();
        builder.is_layer = true;
        let digest = *blake3::hash(&[0; 100]).as_bytes();
        builder.embedded = Some(lamina_flist::EmbeddedPacks { len: 100, digest });
        for &(at, len) in ranges {
            builder.packs.push(lamina_flist::PackRecord {
                id: lamina_flist::PackId::of(b"x"),
                sha256: lamina_flist::Sha256Digest::from_bytes([0; 32]),
                len,
                embedded_at: Some(at),
            });
        }
        builder.build().map(|_| ()).map_err(|error| match error {
            lamina_flist::BuildError::BadTables(error) => error,
            other => panic!("{other}"),
        })
    };
    assert_eq!(build(&[(0, 60), (60, 40)]), Ok(()));
    assert_eq!(build(&[(0, 60), (59, 41)]), Err(E::EmbeddedPackRange(1)));
    assert_eq!(build(&[(0, 101)]), Err(E::EmbeddedPackRange(0)));
    assert_eq!(build(&[(u64::MAX - 1, 2)]), Err(E::EmbeddedPackRange(0)));
}

#[test]
fn profiles_of_other_blobs() {
    let forge = Forge::sample();
    let profile = forge.table(6);
    let u32 = |at: usize, value: u32| forge.clone().u32(profile + at, value).sealed();
    assert_eq!(u32(8, 2), E::ProfileRange(0));
    assert_eq!(u32(8, 1 << 16), E::RecordReserved { kind: 6, index: 0 });
    assert_eq!(u32(12, u32::MAX), E::ProfileRange(0));
    assert_eq!(u32(16, 0), E::ProfileRange(0));
    assert_eq!(u32(16, u32::MAX), E::ProfileRange(0));
    assert_eq!(u32(0, 7), E::RecordReserved { kind: 6, index: 0 });
    assert_eq!(u32(4, u32::MAX), E::SectionLength(6));
}

#[test]
fn hints_that_deceive() {
    let forge = Forge::sample();
    let hints = forge.table(8);
    let u32 = |at: usize, value: u32| forge.clone().u32(hints + at, value).sealed();
    let (files, ranges) = (16, 16 + 5 * 8);
    let order = ranges + 4 * 12;
    let edges = order + 4 * 4;
    for count in [0, 4, 8] {
        assert_eq!(u32(count, u32::MAX), E::SectionLength(8));
        assert_eq!(u32(count, 3), E::SectionLength(8));
    }
    assert_eq!(u32(12, 1), E::RecordReserved { kind: 8, index: 0 });
    for field in [0, 4] {
        assert_eq!(u32(files + field, 1), E::HintList(0));
        assert_eq!(u32(files + 8 + field, u32::MAX), E::HintList(2));
        assert_eq!(u32(files + 4 * 8 + field, 0), E::HintList(4));
        assert_eq!(u32(files + 4 * 8 + field, 99), E::HintList(4));
    }
    for (at, value) in [(0, 2), (0, 1 << 16), (4, 9), (4, u32::MAX), (8, 0), (8, 9)] {
        assert_eq!(u32(ranges + at, value), E::HintRange(0));
    }
    assert_eq!(u32(order, 4), E::HintOrder(0));
    assert_eq!(u32(order + 4, 2), E::HintOrder(1));
    assert_eq!(u32(order + 4, 0), E::HintOrder(2));
    assert_eq!(u32(edges, 4), E::HintEdge(0));
    assert_eq!(u32(edges + 16, u32::MAX), E::HintEdge(4));
    // Lists that nobody checked: every byte of them.
    for at in hints..forge.bytes.len() {
        let flist = Flist::parse(forge.clone().put(at, &[0xff]).bytes.into());
        use_everything_of_hints(&flist.unwrap());
    }
}

#[test]
fn headers_that_deceive() {
    let forge = Forge::sample();
    let judge = |forge: Forge| forge.seal_header().judge();
    assert_eq!(forge.clone().put(0, b"X").judge(), E::BadMagic);
    assert_eq!(forge.clone().u32(8, 2).judge(), E::UnsupportedVersion(2));
    assert_eq!(forge.clone().u32(16, 1).judge(), E::HeaderChecksum);
    assert_eq!(judge(forge.clone().u32(16, 2)), E::HeaderReserved(16));
    for at in [20, 32, 63, 1019] {
        assert_eq!(judge(forge.clone().put(at, &[1])), E::HeaderReserved(at));
    }
    let len = forge.bytes.len() as u64;
    assert_eq!(
        judge(forge.clone().u64(24, len + 1)),
        E::LengthMismatch {
            want: len + 1,
            got: len
        }
    );
    assert_eq!(judge(forge.clone().u32(12, 18)), E::TooManySections(18));
    assert_eq!(
        judge(forge.clone().u32(12, u32::MAX)),
        E::TooManySections(u32::MAX)
    );
    assert_eq!(judge(forge.clone().u32(12, 4)), E::SectionMissing(5));
    assert_eq!(judge(forge.clone().u32(12, 0)), E::SectionMissing(1));
    assert_eq!(judge(forge.clone().u32(12, 8)), E::SectionOrder(0));
}

#[test]
fn sections_that_deceive() {
    let forge = Forge::sample();
    let judge = |forge: Forge| forge.seal_header().judge();
    let (blobs, range) = forge.section(2);
    let (profile, _) = forge.section(6);
    let expected = range.start as u64;
    for offset in [0, 1024, expected - 1, expected + 1, u64::MAX] {
        assert_eq!(
            judge(forge.clone().u64(blobs + 8, offset)),
            E::SectionOffset {
                kind: 2,
                offset,
                expected
            }
        );
    }
    for len in [u64::MAX, u64::MAX - expected, forge.bytes.len() as u64] {
        assert_eq!(
            judge(forge.clone().u64(blobs + 16, len)),
            E::SectionPastEnd(2)
        );
    }
    assert_eq!(judge(forge.clone().u32(blobs, 1)), E::SectionOrder(1));
    assert_eq!(judge(forge.clone().u32(blobs, 0)), E::SectionOrder(0));
    assert_eq!(judge(forge.clone().u32(blobs + 4, 0)), E::SectionFlags(2));
    assert_eq!(judge(forge.clone().u32(blobs + 4, 3)), E::SectionFlags(2));
    assert_eq!(judge(forge.clone().u32(profile + 4, 1)), E::SectionFlags(6));
    assert_eq!(
        judge(forge.clone().put(blobs + 24, &[9])),
        E::SectionDigest(2)
    );
    // A kind nobody knows: refused if required, kept if not.
    let (hints, _) = forge.section(8);
    assert_eq!(judge(forge.clone().u32(hints + 4, 1)), E::SectionFlags(8));
    let unknown = forge.clone().u32(hints, 99);
    assert_eq!(
        judge(unknown.clone().u32(hints + 4, 1)),
        E::UnknownRequiredSection(99)
    );
    let flist = Flist::parse(unknown.seal_header().bytes.into()).unwrap();
    flist.verify_sections().unwrap();
    flist.check(&Limits::default()).unwrap();
    let extra = flist.extra_sections();
    assert_eq!((extra.len(), extra[0].kind), (1, 99));
    let kept = flist.rewrite(flist.meta(), None).unwrap();
    let kept = Flist::parse(kept.bytes.into()).unwrap();
    assert_eq!(kept.extra_sections(), extra);
    // Metadata that is no metadata.
    let meta = forge.table(5);
    assert!(matches!(
        forge.clone().put(meta, b"[").sealed(),
        E::BadMeta(_)
    ));
    assert!(matches!(forge.put(meta, b"\xff").sealed(), E::BadMeta(_)));
}

#[test]
fn limits_are_enforced_by_name() {
    let flist = Flist::parse(sample_builder().build().unwrap().bytes.into()).unwrap();
    let what = |limits: Limits| match flist.check(&limits).unwrap_err() {
        E::Limit { what, .. } => what,
        E::TooDeep(_) => "path",
        E::XattrTooLarge { .. } => "xattrs",
        other => panic!("{other}"),
    };
    let default = Limits::default;
    assert_eq!(
        what(Limits {
            entries_max: 100,
            ..default()
        }),
        "entries"
    );
    assert_eq!(
        what(Limits {
            depth_max: 1,
            ..default()
        }),
        "path"
    );
    assert_eq!(
        what(Limits {
            path_max: 90,
            ..default()
        }),
        "path"
    );
    assert_eq!(
        what(Limits {
            xattr_bytes_max: 5,
            ..default()
        }),
        "xattrs"
    );
    assert_eq!(
        what(Limits {
            file_size_max: 99_999,
            ..default()
        }),
        "bytes in a file"
    );
    assert_eq!(
        what(Limits {
            blobs_max: 1,
            ..default()
        }),
        "blobs"
    );
    assert_eq!(
        what(Limits {
            blob_len_max: 4096,
            ..default()
        }),
        "bytes in a blob"
    );
    assert_eq!(
        what(Limits {
            chunks_max: 1,
            ..default()
        }),
        "chunks"
    );
    assert_eq!(
        what(Limits {
            packs_max: 0,
            ..default()
        }),
        "packs"
    );
}

#[test]
fn random_damage_never_panics_and_always_ends() {
    let forge = Forge::sample();
    let tree_end = forge.table(2);
    let mut refused = 0;
    for round in 0..3000u64 {
        let dice = noise(round, 64);
        let mut forged = forge.clone();
        for i in 0..=usize::from(dice[0] % 6) {
            let word = u32::from_le_bytes(dice[4 + i * 8..8 + i * 8].try_into().unwrap());
            // Mostly the inodes and tables: file names are many and dull.
            let at = match word % 4 {
                0 => tree_end + (word / 4) as usize % (forged.bytes.len() - tree_end),
                1 => 1024 + (word / 4) as usize % 400,
                _ => 1400 + (word / 4) as usize % 20_000,
            };
            forged.bytes[at] = dice[9 + i * 8];
        }
        let forged = forged.seal();
        let Ok(flist) = Flist::parse(forged.bytes.into()) else {
            refused += 1;
            continue;
        };
        if round % 16 == 0 {
            use_everything(&flist);
        }
        let _ = flist.to_tree();
        refused += u32::from(flist.check(&Limits::default()).is_err());
    }
    // The rest hit file contents, times, owners or permissions.
    assert!(refused > 1000, "{refused}");
}

#[test]
fn builder_refuses_what_the_checker_would() {
    use lamina_flist::BuildError as B;
    let build = |kind: NodeKind| {
        let mut world = World::new(0);
        world.add(Tree::ROOT, "x", kind);
        world.finish().0.build().unwrap_err()
    };
    let path = || "/x".to_owned();
    assert_eq!(build(NodeKind::Symlink(vec![])), B::BadSymlink(path()));
    assert_eq!(
        build(NodeKind::Symlink(vec![b'x'; 4096])),
        B::BadSymlink(path())
    );
    assert_eq!(build(NodeKind::Symlink(vec![0])), B::BadSymlink(path()));
    assert_eq!(build(NodeKind::Whiteout), B::LayerOnly(path()));
    let device = lamina_flist::Device {
        major: 4096,
        minor: 0,
    };
    assert_eq!(build(NodeKind::CharDevice(device)), B::BadDevice(path()));
    let inline = lamina_flist::FileContent::inline(vec![0; 1025]);
    assert!(matches!(build(NodeKind::File(inline)), B::BadFile { .. }));
    let extent = lamina_flist::FileContent {
        size: 5000,
        data: lamina_flist::FileData::Extent(lamina_flist::Extent { blob: 0, offset: 0 }),
    };
    assert!(matches!(build(NodeKind::File(extent)), B::BadFile { .. }));
    for (name, want) in [
        ("system.foo", "name"),
        ("user.", "name"),
        ("foo", "name"),
        ("trusted.overlay.redirect", "reserved"),
        ("trusted.lamina.link", "reserved"),
    ] {
        let mut world = World::new(0);
        let file = world.file(Tree::ROOT, "x", 0, b"");
        world.tree.meta_mut(file).xattrs = xattrs(&[(name, b"y")]);
        let got = match world.finish().0.build().unwrap_err() {
            B::XattrName { .. } => "name",
            B::ReservedXattr { .. } => "reserved",
            other => panic!("{other}"),
        };
        assert_eq!(got, want, "{name}");
    }
    let mut world = World::new(0);
    let file = world.file(Tree::ROOT, "x", 0, b"");
    world.tree.meta_mut(file).xattrs = xattrs(&[("user.x", &vec![0; 65_536])]);
    let error = world.finish().0.build().unwrap_err();
    assert!(matches!(error, B::XattrTooLarge { .. }));
    let mut world = World::new(0);
    let huge = lamina_flist::BlobLayout {
        entries: vec![],
        len: 16 << 40,
    };
    world.file(Tree::ROOT, "x", 0, b"");
    let (mut builder, _) = world.finish();
    builder.limits.blob_len_max = u64::MAX;
    builder.blobs = vec![huge];
    assert_eq!(builder.build().unwrap_err(), B::AddressSpace);
}
