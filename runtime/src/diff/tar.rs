//! Writing tar as container layers use it: ustar headers, PAX records where they do not suffice.
//!
//! Format: POSIX.1-2017 `pax`, sparse files as GNU tar's PAX format 1.0 (`tar` manual, "Storing Sparse Files").

use std::fmt::Write as _;
use std::io::{self, Write};

/// Unit of the format.
const BLOCK: usize = 512;
/// Largest number that eight octal digits minus their end can say: sizes and ids beyond it go into PAX records.
const SIZE_MAX: u64 = 0o777_7777_7777;
const ID_MAX: u32 = 0o777_7777;
const NAME_MAX: usize = 100;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
    Directory,
    Fifo,
}

/// Name and value, of an extended attribute or a record.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// One entry without its content.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    /// Names with their prefix.
    pub(super) xattrs: Vec<Pair>,
}

/// A run of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// An archive being written.
pub(super) struct Archive<W: Write> {
    out: W,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out }
    }

    /// An entry without content.
    pub(super) fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.head(entry, 0, Vec::new())
    }

    /// The head of a file; exactly `size` bytes and then [`pad`](Self::pad) follow.
    pub(super) fn file(&mut self, entry: &Entry, size: u64) -> io::Result<()> {
        self.head(entry, size, Vec::new())
    }

    /// The head of a file of which only some parts are stored; exactly these and then [`pad`](Self::pad) follow.
    /// Gives how many bytes are stored.
    pub(super) fn sparse_file(
        &mut self,
        entry: &Entry,
        size: u64,
        segments: &[Segment],
    ) -> io::Result<u64> {
        let mut map = format!("{}\n", segments.len());
        for segment in segments {
            let _ = write!(map, "{}\n{}\n", segment.offset, segment.length);
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(BLOCK), 0);
        let records = vec![
            (b"GNU.sparse.major".to_vec(), b"1".to_vec()),
            (b"GNU.sparse.minor".to_vec(), b"0".to_vec()),
            (b"GNU.sparse.name".to_vec(), entry.path.clone()),
            (
                b"GNU.sparse.realsize".to_vec(),
                size.to_string().into_bytes(),
            ),
        ];
        let stored = map.len() as u64 + segments.iter().map(|segment| segment.length).sum::<u64>();
        self.head(entry, stored, records)?;
        self.out.write_all(&map)?;
        Ok(stored)
    }

    /// Content.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// What fills the last block of a content of `size` bytes.
    pub(super) fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = (size % BLOCK as u64) as usize;
        let missing = (BLOCK - over) % BLOCK;
        self.out.write_all(&[0; BLOCK][..missing])
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }

    fn head(&mut self, entry: &Entry, size: u64, mut records: Vec<Pair>) -> io::Result<()> {
        let path = match entry.kind {
            Kind::Directory => [entry.path.as_slice(), b"/"].concat(),
            _ => entry.path.clone(),
        };
        let link: &[u8] = match &entry.kind {
            Kind::HardLink(target) | Kind::Symlink(target) => target,
            _ => b"",
        };
        if path.len() > NAME_MAX || !path.is_ascii() {
            records.push((b"path".to_vec(), path.clone()));
        }
        if link.len() > NAME_MAX || !link.is_ascii() {
            records.push((b"linkpath".to_vec(), link.to_vec()));
        }
        if size > SIZE_MAX {
            records.push((b"size".to_vec(), size.to_string().into_bytes()));
        }
        for (name, id) in [("uid", entry.uid), ("gid", entry.gid)] {
            if id > ID_MAX {
                records.push((name.into(), id.to_string().into_bytes()));
            }
        }
        let (seconds, nanos) = entry.mtime;
        if nanos != 0 || !(0..=SIZE_MAX.cast_signed()).contains(&seconds) {
            records.push((b"mtime".to_vec(), pax_time(seconds, nanos).into_bytes()));
        }
        for (name, value) in &entry.xattrs {
            records.push(([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone()));
        }
        if !records.is_empty() {
            let body: Vec<u8> = records
                .iter()
                .flat_map(|(key, value)| record(key, value))
                .collect();
            self.out.write_all(&header(
                b"PaxHeaders/x",
                b'x',
                0o644,
                (0, 0),
                body.len() as u64,
                0,
                b"",
                (0, 0),
            ))?;
            self.out.write_all(&body)?;
            self.pad(body.len() as u64)?;
        }
        let (flag, device) = match entry.kind {
            Kind::File => (b'0', (0, 0)),
            Kind::HardLink(_) => (b'1', (0, 0)),
            Kind::Symlink(_) => (b'2', (0, 0)),
            Kind::CharacterDevice(major, minor) => (b'3', (major, minor)),
            Kind::BlockDevice(major, minor) => (b'4', (major, minor)),
            Kind::Directory => (b'5', (0, 0)),
            Kind::Fifo => (b'6', (0, 0)),
        };
        let owner = (entry.uid, entry.gid);
        let mtime = seconds.max(0).cast_unsigned();
        let block = header(&path, flag, entry.mode, owner, size, mtime, link, device);
        self.out.write_all(&block)
    }
}

/// Times before 1970 have a fraction that goes the other way.
fn pax_time(seconds: i64, nanos: u32) -> String {
    match (seconds < 0, nanos) {
        (false, _) => format!("{seconds}.{nanos:09}"),
        (true, 0) => format!("{seconds}"),
        (true, nanos) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
    }
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

#[allow(
    clippy::too_many_arguments,
    reason = "the fields of a header, in their order"
)]
fn header(
    path: &[u8],
    flag: u8,
    mode: u32,
    (uid, gid): (u32, u32),
    size: u64,
    mtime: u64,
    link: &[u8],
    (major, minor): (u32, u32),
) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    text(&mut block[0..NAME_MAX], path);
    octal(&mut block[100..108], (mode & 0o7777).into());
    octal(&mut block[108..116], uid.min(ID_MAX).into());
    octal(&mut block[116..124], gid.min(ID_MAX).into());
    octal(&mut block[124..136], size.min(SIZE_MAX));
    octal(&mut block[136..148], mtime.min(SIZE_MAX));
    block[148..156].fill(b' ');
    block[156] = flag;
    text(&mut block[157..257], link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], major.into());
    octal(&mut block[337..345], minor.into());
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block
}

/// What does not fit is cut here and whole in a record.
fn text(field: &mut [u8], value: &[u8]) {
    let fits = value.len().min(field.len());
    field[..fits].copy_from_slice(&value[..fits]);
}

/// Digits to the field's end, where a NUL stays.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let shown = format!("{value:0digits$o}");
    field[..digits].copy_from_slice(&shown.as_bytes()[shown.len() - digits..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_their_own_length() {
        assert_eq!(record(b"path", b"x"), b"9 path=x\n");
        for length in [80, 85, 88, 89, 90, 95, 980, 990, 999] {
            let record = record(b"k", &vec![b'v'; length]);
            let said = std::str::from_utf8(&record)
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .to_owned();
            assert_eq!(said.parse(), Ok(record.len()), "{length}");
        }
    }

    #[test]
    fn times_before_1970_keep_their_fraction() {
        assert_eq!(pax_time(1, 5), "1.000000005");
        // 1.5 seconds before: -2 s + 0.5 s.
        assert_eq!(pax_time(-2, 500_000_000), "-1.500000000");
        assert_eq!(pax_time(-1, 750_000_000), "-0.250000000");
        assert_eq!(pax_time(-3, 0), "-3");
    }
}
