//! The tar stream: header blocks, extensions and data, front to back.
//!
//! Owns the precedence of names and sizes (PAX over GNU over ustar) and the
//! refusal of archives that readers would understand differently: two
//! extension headers of one kind, PAX and GNU names that disagree, a header
//! after a lone zero block. Follows Go's `archive/tar` where tools differ,
//! because that is what containerd and docker read layers with. Memory: one
//! extension block; data passes through the caller's reader.

use std::io::{BufRead, ErrorKind};

use lamina_flist::Timestamp;

use super::header::{BLOCK, BadNumber, Header, sparse_pairs};
use super::pax::{self, Pax};
use super::sparse::{self, DataSegment, PaxMap, TextMap};
use super::{Entry, EntryKind, EntryPath, TarError};
use crate::limits::TarLimits;

/// Reads entries of a tar stream; the data of an entry is read, or skipped,
/// before the next.
pub struct TarReader<R> {
    input: R,
    limits: TarLimits,
    offset: u64,
    data_left: u64,
    padding: u64,
    entries: u64,
    sparse_segments: u64,
    ended: bool,
}

/// What stood before an entry's own header.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    gnu_name: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
}

impl<R: BufRead> TarReader<R> {
    /// Reads from `input`, which starts at the first header.
    pub fn new(input: R, limits: TarLimits) -> Self {
        Self {
            input,
            limits,
            offset: 0,
            data_left: 0,
            padding: 0,
            entries: 0,
            sparse_segments: 0,
            ended: false,
        }
    }

    /// Bytes taken from the stream so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Stored bytes of the current entry not read yet.
    pub fn data_left(&self) -> u64 {
        self.data_left
    }

    /// Gives the stream back, for whatever follows the archive.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// The next entry, or `None` at the end of the archive.
    ///
    /// # Errors
    /// On anything that is not a well-formed archive within the limits.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip(self.data_left)?;
            self.skip(self.padding)?;
            (self.data_left, self.padding) = (0, 0);
            let at = self.offset;
            let Some(block) = self.header_block()? else {
                if extensions.is_empty() {
                    return Ok(None);
                }
                return Err(TarError::DanglingExtension { offset: at });
            };
            let header = Header(&block);
            match header.typeflag() {
                b'x' | b'X' => extensions.set_pax(&self.extension(&header, at)?, at)?,
                b'L' => extensions.set_gnu_name(self.extension(&header, at)?, at)?,
                b'K' => extensions.set_gnu_link(self.extension(&header, at)?, at)?,
                // Validated and otherwise ignored, as containerd and docker do.
                b'g' => {
                    let data = self.extension(&header, at)?;
                    pax::parse(&data).map_err(|why| TarError::BadPax { offset: at, why })?;
                }
                // A volume label has no counterpart in a file system.
                b'V' => {}
                _ => return self.entry(&header, extensions, at).map(Some),
            }
        }
    }

    /// Stored bytes of the current entry that can be had without a copy;
    /// empty at its end. Follow with [`Self::consume`].
    ///
    /// # Errors
    /// When the stream fails or ends inside the entry.
    pub fn data(&mut self) -> Result<&[u8], TarError> {
        if self.data_left == 0 {
            return Ok(&[]);
        }
        let offset = self.offset;
        let left = usize::try_from(self.data_left).unwrap_or(usize::MAX);
        let buf = fill(&mut self.input).map_err(|source| TarError::Io { offset, source })?;
        if buf.is_empty() {
            return Err(TarError::Truncated {
                offset,
                what: "file data",
            });
        }
        Ok(&buf[..buf.len().min(left)])
    }

    /// Marks `n` bytes of [`Self::data`] as used.
    pub fn consume(&mut self, n: usize) {
        self.input.consume(n);
        self.offset += n as u64;
        self.data_left -= n as u64;
    }

    /// A header block, or `None` at the end: two zero blocks, or no bytes.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let at = self.offset;
        let Some(block) = self.block("a header")? else {
            self.ended = true;
            return Ok(None);
        };
        if Header(&block).is_zero() {
            self.ended = true;
            return match self.block("the end marker")? {
                Some(second) if !Header(&second).is_zero() => {
                    Err(TarError::LoneZeroBlock { offset: at })
                }
                _ => Ok(None),
            };
        }
        if !Header(&block).checksum_fits() {
            return Err(TarError::BadChecksum { offset: at });
        }
        Ok(Some(block))
    }

    /// 512 bytes, or `None` when not even one is left.
    fn block(&mut self, what: &'static str) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            let offset = self.offset;
            let buf = fill(&mut self.input).map_err(|source| TarError::Io { offset, source })?;
            if buf.is_empty() {
                return match have {
                    0 => Ok(None),
                    _ => Err(TarError::Truncated { offset, what }),
                };
            }
            let n = buf.len().min(BLOCK - have);
            block[have..have + n].copy_from_slice(&buf[..n]);
            self.input.consume(n);
            self.offset += n as u64;
            have += n;
        }
        Ok(Some(block))
    }

    fn skip(&mut self, mut count: u64) -> Result<(), TarError> {
        while count > 0 {
            let offset = self.offset;
            let buf = fill(&mut self.input).map_err(|source| TarError::Io { offset, source })?;
            if buf.is_empty() {
                return Err(TarError::Truncated {
                    offset,
                    what: "file data",
                });
            }
            let n = usize::try_from(count).unwrap_or(usize::MAX).min(buf.len());
            self.input.consume(n);
            self.offset += n as u64;
            count -= n as u64;
        }
        Ok(())
    }

    /// Sets up the data of the entry with this header.
    fn start_data(&mut self, size: u64) {
        self.data_left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// The whole data of an extension entry.
    fn extension(&mut self, header: &Header<'_>, at: u64) -> Result<Vec<u8>, TarError> {
        let size = size_of(header, at)?;
        if size > self.limits.extension_bytes_max {
            return Err(TarError::ExtensionTooLarge {
                offset: at,
                bytes: size,
                max: self.limits.extension_bytes_max,
            });
        }
        self.start_data(size);
        let mut data = Vec::with_capacity(size as usize);
        while self.data_left > 0 {
            let buf = self.data()?;
            data.extend_from_slice(buf);
            let n = buf.len();
            self.consume(n);
        }
        Ok(data)
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        extensions: Extensions,
        at: u64,
    ) -> Result<Entry, TarError> {
        self.entries += 1;
        if self.entries > self.limits.entries_max {
            return Err(TarError::TooManyEntries {
                max: self.limits.entries_max,
            });
        }
        let number = |r: Result<i128, BadNumber>| {
            r.map_err(|BadNumber(field)| TarError::BadNumber { offset: at, field })
        };
        let raw_name = extensions.name(header, at)?;
        let link = extensions.link(header, at)?;
        let pax = extensions.pax.unwrap_or_default();
        let mode = number(header.mode())?;
        let mtime = number(header.mtime())?;
        let uid = match pax.uid {
            Some(uid) => i128::from(uid),
            None => number(header.uid())?,
        };
        let gid = match pax.gid {
            Some(gid) => i128::from(gid),
            None => number(header.gid())?,
        };
        let id = |id: i128, field| {
            u32::try_from(id).map_err(|_| TarError::OutOfRange { offset: at, field })
        };
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => Timestamp {
                secs: i64::try_from(mtime).unwrap_or(0),
                nanos: 0,
            },
        };
        self.check_xattrs(&pax, at)?;
        let path = self.path(pax.sparse.name.as_deref().unwrap_or(&raw_name), at)?;
        let kind = self.kind(header, &raw_name, link, &pax, at)?;
        Ok(Entry {
            offset: at,
            path,
            kind,
            perm: u16::try_from(mode & 0o7777).unwrap_or_default(),
            uid: id(uid, "uid")?,
            gid: id(gid, "gid")?,
            mtime,
            xattrs: pax.xattrs,
        })
    }

    fn path(&self, raw: &[u8], at: u64) -> Result<EntryPath, TarError> {
        EntryPath::parse(raw, &self.limits).map_err(|source| TarError::Path {
            offset: at,
            name: String::from_utf8_lossy(&raw[..raw.len().min(256)]).into_owned(),
            source,
        })
    }

    fn check_xattrs(&self, pax: &Pax, at: u64) -> Result<(), TarError> {
        let total: usize = pax.xattrs.iter().map(|(k, v)| k.len() + v.len()).sum();
        let largest = pax.xattrs.values().map(Vec::len).max().unwrap_or(0);
        if largest > self.limits.xattr_value_max || total > self.limits.xattr_total_max {
            return Err(TarError::XattrsTooLarge { offset: at });
        }
        Ok(())
    }

    fn kind(
        &mut self,
        header: &Header<'_>,
        raw_name: &[u8],
        link: Vec<u8>,
        pax: &Pax,
        at: u64,
    ) -> Result<EntryKind, TarError> {
        let device = || -> Result<(u32, u32), TarError> {
            let (major, minor) = header
                .device()
                .map_err(|BadNumber(field)| TarError::BadNumber { offset: at, field })?;
            let checked = |n: i128, bits: u32, field| {
                let number = u32::try_from(n).ok().filter(|n| n >> bits == 0);
                number.ok_or(TarError::OutOfRange { offset: at, field })
            };
            // What the kernel's device numbers hold.
            Ok((
                checked(major, 12, "devmajor")?,
                checked(minor, 20, "devminor")?,
            ))
        };
        Ok(match header.typeflag() {
            // Before ustar a directory was a regular file with a slash.
            0 if raw_name.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' => self.regular(header, pax, at)?,
            b'S' => self.old_gnu_sparse(header, pax, at)?,
            b'5' => EntryKind::Directory,
            // A GNU dump directory carries a list of names as data.
            b'D' => {
                let stored = self.stored_len(header, pax, at)?;
                self.start_data(stored);
                EntryKind::Directory
            }
            b'1' => EntryKind::HardLink(self.link_path(&link, at)?),
            b'2' => EntryKind::Symlink(self.symlink_target(link, at)?),
            b'3' => device().map(|(major, minor)| EntryKind::CharDevice { major, minor })?,
            b'4' => device().map(|(major, minor)| EntryKind::BlockDevice { major, minor })?,
            b'6' => EntryKind::Fifo,
            other => {
                return Err(TarError::UnknownType {
                    offset: at,
                    typeflag: other,
                });
            }
        })
    }

    fn link_path(&self, link: &[u8], at: u64) -> Result<EntryPath, TarError> {
        EntryPath::parse(link, &self.limits)
            .map_err(|source| TarError::LinkPath { offset: at, source })
    }

    fn symlink_target(&self, link: Vec<u8>, at: u64) -> Result<Vec<u8>, TarError> {
        match link.len() {
            0 => Err(TarError::BadSymlink {
                offset: at,
                why: "its target is empty",
            }),
            n if n >= self.limits.path_bytes_max => Err(TarError::BadSymlink {
                offset: at,
                why: "its target is too long",
            }),
            _ => Ok(link),
        }
    }

    fn regular(&mut self, header: &Header<'_>, pax: &Pax, at: u64) -> Result<EntryKind, TarError> {
        let stored = self.stored_len(header, pax, at)?;
        self.start_data(stored);
        if !pax.sparse.is_present() {
            return self.file(stored, None, at);
        }
        let bad = |why| TarError::BadSparse { offset: at, why };
        let (pairs, real_size) =
            match sparse::pax_map(&pax.sparse, self.limits.sparse_segments_max).map_err(bad)? {
                PaxMap::Records(pairs, real_size) => (pairs, real_size),
                PaxMap::InData(real_size) => (self.text_map(at)?, real_size),
            };
        let segments = sparse::check(&pairs, real_size, self.data_left).map_err(bad)?;
        self.file(real_size, Some(segments), at)
    }

    /// The map of PAX sparse 1.0: whole blocks in front of the data.
    fn text_map(&mut self, at: u64) -> Result<Vec<(u64, u64)>, TarError> {
        let bad = |why| TarError::BadSparse { offset: at, why };
        let mut map = TextMap::default();
        loop {
            let left = self
                .data_left
                .checked_sub(BLOCK as u64)
                .ok_or_else(|| bad("the sparse map does not end"))?;
            let truncated = TarError::Truncated {
                offset: self.offset,
                what: "a sparse map",
            };
            let block = self.block("a sparse map")?.ok_or(truncated)?;
            self.data_left = left;
            if map
                .push(&block, self.limits.sparse_segments_max)
                .map_err(bad)?
            {
                return Ok(map.into_pairs());
            }
        }
    }

    fn old_gnu_sparse(
        &mut self,
        header: &Header<'_>,
        pax: &Pax,
        at: u64,
    ) -> Result<EntryKind, TarError> {
        let number = |BadNumber(field)| TarError::BadNumber { offset: at, field };
        let bad = |why| TarError::BadSparse { offset: at, why };
        let stored = self.stored_len(header, pax, at)?;
        let (mut pairs, mut extended, real_size) = header.gnu_sparse().map_err(number)?;
        while extended {
            let truncated = TarError::Truncated {
                offset: self.offset,
                what: "a sparse map",
            };
            let block = self.block("a sparse map")?.ok_or(truncated)?;
            pairs.extend(sparse_pairs(&block[..504]).map_err(number)?);
            if pairs.len() > self.limits.sparse_segments_max {
                return Err(bad("too many sparse segments"));
            }
            extended = block[504] != 0;
        }
        self.start_data(stored);
        let real_size = u64::try_from(real_size).map_err(|_| bad("the real size is negative"))?;
        let pairs = sparse::unsigned(&pairs).map_err(bad)?;
        let segments = sparse::check(&pairs, real_size, stored).map_err(bad)?;
        self.file(real_size, Some(segments), at)
    }

    fn file(
        &mut self,
        size: u64,
        sparse: Option<Vec<DataSegment>>,
        at: u64,
    ) -> Result<EntryKind, TarError> {
        self.check_file_bytes(size, at)?;
        self.sparse_segments += sparse.as_ref().map_or(0, Vec::len) as u64;
        let max = self.limits.sparse_segments_total_max;
        if self.sparse_segments > max {
            return Err(TarError::TooManySparseSegments { max });
        }
        Ok(EntryKind::File { size, sparse })
    }

    /// Bytes of an entry's data in the stream. A PAX size may be any number, so it is bounded before it is counted with.
    fn stored_len(&self, header: &Header<'_>, pax: &Pax, at: u64) -> Result<u64, TarError> {
        let stored = pax.size.map_or_else(|| size_of(header, at), Ok)?;
        self.check_file_bytes(stored, at)?;
        Ok(stored)
    }

    fn check_file_bytes(&self, bytes: u64, at: u64) -> Result<(), TarError> {
        let max = self.limits.file_bytes_max;
        match bytes > max {
            true => Err(TarError::FileTooLarge {
                offset: at,
                bytes,
                max,
            }),
            false => Ok(()),
        }
    }
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.gnu_name.is_none() && self.gnu_link.is_none()
    }

    fn set_pax(&mut self, data: &[u8], at: u64) -> Result<(), TarError> {
        let pax = pax::parse(data).map_err(|why| TarError::BadPax { offset: at, why })?;
        set_once(&mut self.pax, pax, at)
    }

    fn set_gnu_name(&mut self, data: Vec<u8>, at: u64) -> Result<(), TarError> {
        set_once(&mut self.gnu_name, trimmed(data), at)
    }

    fn set_gnu_link(&mut self, data: Vec<u8>, at: u64) -> Result<(), TarError> {
        set_once(&mut self.gnu_link, trimmed(data), at)
    }

    fn name(&self, header: &Header<'_>, at: u64) -> Result<Vec<u8>, TarError> {
        let pax = self.pax.as_ref().and_then(|p| p.path.as_ref());
        one_of(pax, self.gnu_name.as_ref(), || header.name(), "path", at)
    }

    fn link(&self, header: &Header<'_>, at: u64) -> Result<Vec<u8>, TarError> {
        let pax = self.pax.as_ref().and_then(|p| p.linkpath.as_ref());
        one_of(
            pax,
            self.gnu_link.as_ref(),
            || header.linkname(),
            "linkpath",
            at,
        )
    }
}

/// Readers disagree on which of two extension headers counts.
fn set_once<T>(slot: &mut Option<T>, value: T, at: u64) -> Result<(), TarError> {
    if slot.replace(value).is_some() {
        return Err(TarError::RepeatedExtension { offset: at });
    }
    Ok(())
}

/// Readers disagree on whether PAX or GNU wins, so they must agree.
fn one_of(
    pax: Option<&Vec<u8>>,
    gnu: Option<&Vec<u8>>,
    ustar: impl Fn() -> Vec<u8>,
    field: &'static str,
    at: u64,
) -> Result<Vec<u8>, TarError> {
    match (pax, gnu) {
        (Some(a), Some(b)) if a != b => Err(TarError::ConflictingNames { offset: at, field }),
        (Some(name), _) | (None, Some(name)) => Ok(name.clone()),
        (None, None) => Ok(ustar()),
    }
}

/// A GNU long name ends at its first NUL.
fn trimmed(mut data: Vec<u8>) -> Vec<u8> {
    if let Some(end) = data.iter().position(|b| *b == 0) {
        data.truncate(end);
    }
    data
}

fn size_of(header: &Header<'_>, at: u64) -> Result<u64, TarError> {
    let size = header
        .size()
        .map_err(|BadNumber(field)| TarError::BadNumber { offset: at, field })?;
    u64::try_from(size).map_err(|_| TarError::OutOfRange {
        offset: at,
        field: "size",
    })
}

/// `fill_buf` that rides out interrupted calls.
fn fill<R: BufRead>(input: &mut R) -> std::io::Result<&[u8]> {
    loop {
        match input.fill_buf() {
            Ok(_) => break,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    // A second call hands out what the first one buffered.
    input.fill_buf()
}
