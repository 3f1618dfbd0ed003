//! What a sandbox changed, as the tar of an OCI layer: made outside of it, after its end.
//!
//! The upper directory was written by whoever ran inside. What always holds: no symbolic link is followed and no file
//! system left; nothing but a regular file is opened, so nothing can make us wait; holes of sparse files are not read;
//! what a name would mean as a whiteout is only what overlayfs itself left as one.

pub mod gzip;
mod tar;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat};
use rustix::io::Errno;

use crate::ids::IdRange;
use tar::{Archive, Entry, Kind, Pair, Segment};

/// Prefix of a name that removes one of the layer below, and the name that hides all of them
/// (<https://github.com/opencontainers/image-spec/blob/main/layer.md>).
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What overlayfs marks a directory with that hides the one below.
const OVERLAY_OPAQUE: &str = "trusted.overlay.opaque";
/// Deepest directory: as in flists.
const DEPTH_MAX: usize = 1024;
/// Longest path (`PATH_MAX`).
const PATH_MAX: usize = 4096;
/// Names of what was left out that are kept.
const NAMED_MAX: usize = 10;
/// What is copied at once.
const PIECE: usize = 256 << 10;
/// Parts of one sparse file; of what is more broken up, the smallest holes are stored as zeros.
const SEGMENTS_MAX: usize = 65_536;
/// Bytes of such zeros that a file may have beside as many as it has data; one with more is left out.
const ZEROS_MAX: u64 = 256 << 20;
/// Bytes of one file's attributes in the archive; what does not fit is left out.
const ATTRIBUTES_MAX: usize = 768 << 10;
/// What each has there beside its name and value.
const RECORD_MAX: usize = 32;

/// Directories that a sandbox needs to mount something on: an image that lacks one has it made.
pub const MOUNT_POINTS: [&str; 3] = ["proc", "dev", "sys"];

/// The changes cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// A file of the changes.
    #[error("{what} {} of the changes", path.display())]
    Read {
        /// What was tried.
        what: &'static str,
        /// Its path inside.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Where the archive goes.
    #[error("write the archive of changes")]
    Write(#[source] io::Error),
}

/// What was packed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Bytes of file data stored.
    pub bytes: u64,
    /// What a tar cannot say: sockets, names that would be whiteouts, paths too deep or long, files of too many holes, more
    /// attributes than fit. How many.
    pub left_out: u64,
    /// The first of them.
    pub left_out_names: Vec<String>,
}

/// Packs the upper directory `changes` as a tar.
///
/// `image` is the root of what lies below, with the same owners; `ids` are the sandbox's; `made` are paths that were made
/// to mount something on, which are no change while they are empty.
///
/// # Errors
/// [`DiffError`].
pub fn pack<W: Write>(
    changes: BorrowedFd<'_>,
    image: BorrowedFd<'_>,
    ids: IdRange,
    made: &[&str],
    out: W,
) -> Result<(W, Packed), DiffError> {
    let mut walk = Walk {
        archive: Archive::new(out),
        image,
        ids,
        made,
        links: HashMap::new(),
        packed: Packed::default(),
        piece: vec![0; PIECE],
    };
    walk.directory(changes, &mut Vec::new(), 0)?;
    let out = walk.archive.finish().map_err(DiffError::Write)?;
    Ok((out, walk.packed))
}

struct Walk<'a, W: Write> {
    archive: Archive<W>,
    image: BorrowedFd<'a>,
    ids: IdRange,
    made: &'a [&'a str],
    /// First paths of files with several names.
    links: HashMap<(u64, u64), Vec<u8>>,
    packed: Packed,
    piece: Vec<u8>,
}

type Result<T, E = DiffError> = std::result::Result<T, E>;

fn failed<E: Into<io::Error>>(what: &'static str, path: &[u8]) -> impl FnOnce(E) -> DiffError {
    let path = PathBuf::from(String::from_utf8_lossy(path).into_owned());
    move |source| DiffError::Read {
        what,
        path,
        source: source.into(),
    }
}

impl<W: Write> Walk<'_, W> {
    /// Everything in an open directory, in name order.
    fn directory(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<()> {
        for name in names(directory).map_err(failed("list", path))? {
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if path.len() > PATH_MAX || depth >= DEPTH_MAX || name.starts_with(WHITEOUT) {
                self.leave_out(path);
            } else {
                self.one(directory, &name, path, depth)?;
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn one(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<()> {
        let place = open(directory, name, OFlags::PATH).map_err(failed("open", path))?;
        let stat = rustix::fs::fstat(&place).map_err(failed("look at", path))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let (major, minor) = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        if kind == FileType::CharacterDevice && (major, minor) == (0, 0) {
            return self.whiteout(name, path);
        }
        let kind = match kind {
            FileType::Directory => {
                return self.subdirectory(directory, name, path, depth, &stat);
            }
            FileType::RegularFile => Kind::File,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&place, "", Vec::new());
                Kind::Symlink(target.map_err(failed("read the link", path))?.into_bytes())
            }
            FileType::CharacterDevice => Kind::CharacterDevice(major, minor),
            FileType::BlockDevice => Kind::BlockDevice(major, minor),
            FileType::Fifo => Kind::Fifo,
            _ => {
                self.leave_out(path);
                return Ok(());
            }
        };
        if stat.st_size == 0 && kind == Kind::File && self.was_made(path) {
            return Ok(());
        }
        let mut entry = self.entry_of(path, kind, &stat);
        if stat.st_nlink > 1 {
            let id = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&id) {
                entry.kind = Kind::HardLink(first.clone());
                return self.put(&entry);
            }
            // What was left out is no target of a link.
            if self.put_one(directory, name, entry, &stat)? {
                self.links.insert(id, path.clone());
            }
            return Ok(());
        }
        self.put_one(directory, name, entry, &stat).map(drop)
    }

    /// What is no directory; whether it is in the archive now.
    fn put_one(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        entry: Entry,
        stat: &Stat,
    ) -> Result<bool> {
        match entry.kind {
            Kind::File => self.file(directory, name, entry, stat),
            _ => self.put(&entry).map(|()| true),
        }
    }

    fn subdirectory(
        &mut self,
        above: BorrowedFd<'_>,
        name: &[u8],
        path: &mut Vec<u8>,
        depth: usize,
        stat: &Stat,
    ) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = open(above, name, flags).map_err(failed("open", path))?;
        if self.was_made(path) && names(directory.as_fd()).is_ok_and(|names| names.is_empty()) {
            return Ok(());
        }
        let mut entry = self.entry_of(path, Kind::Directory, stat);
        entry.xattrs = self.attributes(directory.as_fd(), path)?;
        self.put(&entry)?;
        let mut value = [0; 1];
        let opaque = rustix::fs::fgetxattr(&directory, OVERLAY_OPAQUE, &mut value);
        // New directories are marked, too.
        if opaque == Ok(1) && value == *b"y" && self.hides(path) {
            let path = [path, b"/".as_slice(), OPAQUE].concat();
            self.put(&marker(path))?;
        }
        self.directory(directory.as_fd(), path, depth + 1)
    }

    fn whiteout(&mut self, name: &[u8], path: &[u8]) -> Result<()> {
        let above = &path[..path.len() - name.len()];
        self.put(&marker([above, WHITEOUT, name].concat()))
    }

    fn file(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        mut entry: Entry,
        stat: &Stat,
    ) -> Result<bool> {
        let path = entry.path.clone();
        // It is a regular file; should it have become a FIFO, nobody is waited for.
        let file = open(directory, name, OFlags::RDONLY | OFlags::NONBLOCK)
            .map_err(failed("open", &path))?;
        let file = File::from(file);
        let found = rustix::fs::fstat(&file).map_err(failed("look at", &path))?;
        if (found.st_dev, found.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(failed("open", &path)(io::Error::other("it was replaced")));
        }
        let size = found.st_size.cast_unsigned();
        let parts = Parts::of(&file, size).map_err(failed("find holes of", &path))?;
        if parts.zeros > parts.data.max(ZEROS_MAX) {
            self.leave_out(&path);
            return Ok(false);
        }
        entry.xattrs = self.attributes(file.as_fd(), &path)?;
        self.packed.entries += 1;
        let segments = parts.segments;
        let is_whole = segments.iter().map(|one| one.length).sum::<u64>() == size;
        let stored = match is_whole {
            true => self.archive.file(&entry, size).map(|()| size),
            false => self.archive.sparse_file(&entry, size, &segments),
        };
        let stored = stored.map_err(DiffError::Write)?;
        for segment in segments {
            self.copy(&file, segment, &path)?;
        }
        self.archive.pad(stored).map_err(DiffError::Write)?;
        Ok(true)
    }

    /// As many bytes as were announced, whatever the file does meanwhile: zeros for those that are gone.
    fn copy(&mut self, file: &File, segment: Segment, path: &[u8]) -> Result<()> {
        let (mut offset, end) = (segment.offset, segment.offset + segment.length);
        while offset < end {
            let piece = &mut self.piece[..PIECE.min((end - offset) as usize)];
            let read = file.read_at(piece, offset).map_err(failed("read", path))?;
            let read = match read {
                0 => {
                    piece.fill(0);
                    piece.len()
                }
                read => read,
            };
            self.archive
                .write(&piece[..read])
                .map_err(DiffError::Write)?;
            offset += read as u64;
        }
        self.packed.bytes += segment.length;
        Ok(())
    }

    /// Attributes that users set, as many as fit.
    fn attributes(&mut self, file: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Pair>> {
        let (found, is_all) = user_xattrs(file).map_err(failed("read attributes of", path))?;
        if !is_all {
            self.leave_out(&[path, b" (attributes)"].concat());
        }
        Ok(found)
    }

    fn entry_of(&self, path: &[u8], kind: Kind, stat: &Stat) -> Entry {
        // Owners outside the range cannot be: whoever wrote had no others.
        let inside = |id| self.ids.to_inside(id).unwrap_or(0);
        Entry {
            path: path.to_vec(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid: inside(stat.st_uid),
            gid: inside(stat.st_gid),
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
            xattrs: Vec::new(),
        }
    }

    fn put(&mut self, entry: &Entry) -> Result<()> {
        self.packed.entries += 1;
        self.archive.entry(entry).map_err(DiffError::Write)
    }

    /// Whether the image has a directory there; what cannot be looked at is taken for one.
    fn hides(&self, path: &[u8]) -> bool {
        let found = open(self.image, path, OFlags::PATH | OFlags::DIRECTORY);
        !matches!(found, Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
    }

    fn was_made(&self, path: &[u8]) -> bool {
        self.made.iter().any(|made| made.as_bytes() == path)
    }

    fn leave_out(&mut self, path: &[u8]) {
        self.packed.left_out += 1;
        if self.packed.left_out_names.len() < NAMED_MAX {
            let name = String::from_utf8_lossy(path).into_owned();
            self.packed.left_out_names.push(name);
        }
    }
}

/// An empty file that says something by its name.
fn marker(path: Vec<u8>) -> Entry {
    Entry {
        path,
        kind: Kind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        xattrs: Vec::new(),
    }
}

fn open(directory: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve)
}

fn names(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// What of a file is stored.
struct Parts {
    /// At most [`SEGMENTS_MAX`].
    segments: Vec<Segment>,
    /// Bytes that are no holes.
    data: u64,
    /// Bytes of holes that are stored all the same.
    zeros: u64,
}

impl Parts {
    fn of(file: &File, size: u64) -> Result<Self, Errno> {
        let (mut found, mut data, mut at) = (Vec::new(), 0, 0);
        while at < size {
            let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(start) => start.min(size),
                // Nothing but a hole until the end.
                Err(Errno::NXIO) => break,
                Err(errno) => return Err(errno),
            };
            let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size);
            if end <= start {
                break;
            }
            let length = end - start;
            found.push(Segment {
                offset: start,
                length,
            });
            data += length;
            at = end;
            if found.len() >= 2 * SEGMENTS_MAX {
                found = with_fewer_holes(found, SEGMENTS_MAX);
            }
        }
        let segments = with_fewer_holes(found, SEGMENTS_MAX);
        let stored: u64 = segments.iter().map(|segment| segment.length).sum();
        Ok(Self {
            segments,
            data,
            zeros: stored - data,
        })
    }
}

/// At most `most` of these segments, in order, those with the smallest holes between them made one.
fn with_fewer_holes(segments: Vec<Segment>, most: usize) -> Vec<Segment> {
    let over = segments.len().saturating_sub(most);
    if over == 0 {
        return segments;
    }
    let hole = |pair: &[Segment]| pair[1].offset - pair[0].offset - pair[0].length;
    let mut holes: Vec<u64> = segments.windows(2).map(hole).collect();
    let (_, largest, _) = holes.select_nth_unstable(over - 1);
    let largest = *largest;
    let mut fewer: Vec<Segment> = Vec::with_capacity(most);
    for segment in segments {
        match fewer.last_mut() {
            Some(last) if segment.offset - last.offset - last.length <= largest => {
                last.length = segment.offset + segment.length - last.offset;
            }
            _ => fewer.push(segment),
        }
    }
    fewer
}

/// Attributes that users set, and whether these are all; others are the kernel's and overlayfs's own.
fn user_xattrs(file: BorrowedFd<'_>) -> Result<(Vec<Pair>, bool), Errno> {
    let mut names = vec![0_u8; 64 << 10];
    let length = match rustix::fs::flistxattr(file, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok((Vec::new(), true)),
        // The kernel cannot list that many names.
        Err(Errno::TOOBIG) => return Ok((Vec::new(), false)),
        Err(errno) => return Err(errno),
    };
    let (mut found, mut room, mut is_all) = (Vec::new(), ATTRIBUTES_MAX, true);
    let mut value = vec![0_u8; 64 << 10];
    for name in names[..length].split(|byte| *byte == 0) {
        // In a record `=` ends the name.
        if !name.starts_with(b"user.") || name.contains(&b'=') {
            continue;
        }
        let length = rustix::fs::fgetxattr(file, name, &mut value)?;
        let takes = name.len() + length + RECORD_MAX;
        if takes > room {
            is_all = false;
            continue;
        }
        room -= takes;
        found.push((name.to_vec(), value[..length].to_vec()));
    }
    found.sort_unstable();
    Ok((found, is_all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(offset: u64, length: u64) -> Segment {
        Segment { offset, length }
    }

    #[test]
    fn the_smallest_holes_are_given_up_first() {
        let many = vec![
            segment(0, 10),
            segment(20, 10),
            segment(1000, 5),
            segment(1006, 4),
            segment(5000, 1),
        ];
        assert_eq!(with_fewer_holes(many.clone(), 5), many);
        let fewer = with_fewer_holes(many.clone(), 3);
        assert_eq!(fewer, [segment(0, 30), segment(1000, 10), segment(5000, 1)]);
        let equal: Vec<_> = (0..100).map(|number| segment(number * 20, 10)).collect();
        assert!(with_fewer_holes(equal, 7).len() <= 7);
        assert_eq!(with_fewer_holes(many, 1), [segment(0, 5001)]);
    }

    #[test]
    fn zeros_between_far_pages_are_counted() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 40).unwrap();
        for number in 0..3 {
            file.write_at(&[1; 4096], number << 30).unwrap();
        }
        let parts = Parts::of(&file, 1 << 40).unwrap();
        assert_eq!((parts.data, parts.zeros), (3 * 4096, 0));
        let fewer = with_fewer_holes(parts.segments, 2);
        let stored: u64 = fewer.iter().map(|segment| segment.length).sum();
        assert!(stored - parts.data >= (1 << 30) - 4096, "{fewer:?}");
    }

    #[test]
    fn attributes_are_bounded_and_the_rest_is_named() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let file = File::open(&path).unwrap();
        let value = vec![7; 60 << 10];
        for number in 0..20 {
            let name = format!("user.{number:02}");
            match rustix::fs::fsetxattr(&file, name, &value, rustix::fs::XattrFlags::CREATE) {
                Ok(()) => {}
                // tmpfs has them since Linux 6.6.
                Err(Errno::NOTSUP) => return println!("skipped: no user attributes on tmpfs"),
                Err(errno) => panic!("{errno}"),
            }
        }
        let root = rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty());
        let root = root.unwrap();
        let ids = IdRange::of_slot(0).unwrap();
        let (tar, packed) = pack(root.as_fd(), root.as_fd(), ids, &[], Vec::new()).unwrap();
        assert!(tar.len() < (1 << 20), "{}", tar.len());
        assert!(tar.len() > 12 * value.len(), "{}", tar.len());
        assert_eq!(packed.left_out_names, ["file (attributes)"]);
    }
}
