//! A flist: every accessor on the bytes as they are, and once more with the
//! checksums made right, as an attacker would.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use lamina_flist::{
    BlobMap, FileType, Flist, FollowSymlinks, HEADER_LEN, Inode, Limits, SpanSource,
};

/// Directories and files looked into: an unchecked tree may have cycles.
const VISITS_MAX: usize = 500;
const BLOCK: usize = 4096;

pub(crate) fn run(data: &[u8]) {
    if let Ok(map) = BlobMap::parse(data) {
        read_map(&map);
    }
    read(data.to_vec());
    let mut repaired = data.to_vec();
    repair(&mut repaired);
    read(repaired);
}

/// Digests of all sections, then the superblock's and the header's checksum.
fn repair(bytes: &mut [u8]) {
    if bytes.len() < BLOCK {
        return;
    }
    let sum = crc32c::crc32c(&bytes[HEADER_LEN..HEADER_LEN + 4]);
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    let sum = !crc32c::crc32c_append(sum, &bytes[HEADER_LEN + 8..BLOCK]);
    bytes[HEADER_LEN + 4..HEADER_LEN + 8].copy_from_slice(&sum.to_le_bytes());
    for record in (64..HEADER_LEN - 60).step_by(56) {
        let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let (start, len) = (field(record + 8), field(record + 16));
        let section = usize::try_from(start)
            .ok()
            .zip(start.checked_add(len).and_then(|end| end.try_into().ok()))
            .filter(|(start, _): &(usize, usize)| *start >= HEADER_LEN)
            .and_then(|(start, end)| bytes.get(start..end));
        if let Some(digest) = section.map(blake3::hash) {
            bytes[record + 24..record + 56].copy_from_slice(digest.as_bytes());
        }
    }
    let sum = crc32c::crc32c(&bytes[..HEADER_LEN - 4]);
    bytes[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&sum.to_le_bytes());
}

fn read(bytes: Vec<u8>) {
    let Ok(flist) = Flist::parse(Bytes::from(bytes)) else {
        return;
    };
    let digests = flist.verify_sections();
    let checked = flist.check(&Limits::default());
    let limits = Limits {
        entries_max: 10,
        depth_max: 3,
        ..Limits::default()
    };
    let _ = flist.check(&limits);
    walk(&flist, checked.is_ok());
    tables(&flist, checked.is_ok());
    let tree = flist.to_tree();
    let _ = flist.rewrite(flist.meta(), flist.profile().as_ref());
    if checked.is_ok() && digests.is_ok() {
        assert!(tree.is_ok(), "checked, but: {:?}", tree.err());
    }
}

/// Looks at everything that can be reached from the root, each inode once.
fn walk(flist: &Flist, checked: bool) {
    let Ok(root) = flist.root() else {
        assert!(!checked, "checked, but without a root");
        return;
    };
    let mut seen = HashSet::from([root.nid()]);
    let mut queue = VecDeque::from([root]);
    while let Some(inode) = queue.pop_front() {
        look(flist, &inode, checked);
        if inode.file_type() != FileType::Directory {
            continue;
        }
        for entry in flist.read_dir(&inode).take(VISITS_MAX) {
            let Ok(entry) = entry else {
                assert!(!checked, "checked, but a directory cannot be read");
                break;
            };
            let found = flist.lookup(&inode, entry.name);
            assert!(!checked || found.is_ok_and(|found| found.is_some()));
            if let Ok(child) = flist.inode(entry.nid)
                && seen.len() < VISITS_MAX
                && seen.insert(entry.nid)
            {
                queue.push_back(child);
            }
        }
        let _ = flist
            .read_dir_from(&inode, inode.size() / 2)
            .map(Iterator::count);
    }
    for path in [&b"a/b/../c"[..], b"/", b"dir/link", b"link"] {
        let _ = flist.resolve(path, FollowSymlinks::Always);
        let _ = flist.resolve(path, FollowSymlinks::NotLast);
    }
}

fn look(flist: &Flist, inode: &Inode, checked: bool) {
    let xattrs = flist.xattrs(inode);
    let target = flist.readlink(inode);
    // Bounded by `span_at`: 65,536 runs, but not for what is no file.
    let map = match inode.file_type() {
        FileType::File => flist.file_map(inode),
        _ => flist.span_at(inode, inode.size() / 2).map(Vec::from_iter),
    };
    if !checked {
        return;
    }
    xattrs.expect("checked");
    if inode.file_type() == FileType::Symlink {
        target.expect("checked");
    }
    if inode.file_type() == FileType::File {
        let mut at = 0;
        for span in map.expect("checked") {
            assert_eq!(span.start, at, "runs follow each other");
            at += span.len;
            if let SpanSource::Blob { blob, offset } = span.source {
                let blob = flist.blob(usize::from(blob)).expect("checked");
                assert!(offset + span.len <= blob.len, "inside its blob");
            }
        }
        assert_eq!(at, inode.size());
    }
}

fn tables(flist: &Flist, checked: bool) {
    for index in 0..flist.blob_count().min(64) {
        let bytes = flist.blob_map_bytes(index);
        let entries = flist.blob_entries(index).map_or(0, Iterator::count);
        let map = bytes.ok().map(BlobMap::parse);
        if let Some(Ok(map)) = &map {
            assert_eq!(map.len(), entries);
            read_map(map);
        }
        if checked {
            let map = map.expect("checked").expect("checked");
            assert_eq!(Some(map.blob_id()), flist.blob(index).map(|blob| blob.id));
        }
    }
    hints(flist, checked);
    assert!(flist.chunks().count() <= flist.chunk_count());
    assert!(flist.packs().count() <= flist.pack_count());
    let _ = (
        flist.profile(),
        flist.extra_sections(),
        flist.embedded_packs(),
    );
}

fn hints(flist: &Flist, checked: bool) {
    let Some(hints) = flist.hints() else { return };
    for file in (0..hints.len() as u32).take(VISITS_MAX).chain([u32::MAX]) {
        for range in hints.ranges(file).take(VISITS_MAX) {
            let owner = hints.file_at(range.blob, range.first_entry);
            assert!(!checked || owner.is_some(), "checked, but in no file");
        }
        let mut needs = hints.needs(file).take(VISITS_MAX);
        assert!(!checked || needs.all(|need| (need as usize) < hints.len()));
    }
}

fn read_map<B: AsRef<[u8]>>(map: &BlobMap<B>) {
    for (index, entry) in map.iter().enumerate() {
        assert!(entry.end() <= map.blob_len());
        assert_eq!(map.overlapping(entry.offset..entry.end()), index..index + 1);
    }
    assert_eq!(map.overlapping(0..u64::MAX), 0..map.len());
}
