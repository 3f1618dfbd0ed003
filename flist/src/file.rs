//! A flist file, opened in place.
//!
//! ```text
//! | header 1024 | tree (EROFS) … | blobs | chunks | packs | meta | profile | packs' bytes | hints |
//! ```
//!
//! Opening checks header and superblock and reads the metadata JSON; nothing
//! depends on the size of the tree. Nothing is trusted until
//! [`Flist::verify_sections`] (bytes are those the digest names) and
//! [`Flist::check`] (the tree is one the writer could have made) passed; the
//! accessors are safe, but not meaningful, on a flist that passed neither.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::blob::{BlobEntry, write_map};
use crate::builder::{Assembler, EmbeddedPacks, ExtraSection, FlistHead};
use crate::check::{self, Summary};
use crate::chunk::{ChunkRecord, PackRecord};
use crate::erofs::dirent::DirEntry;
use crate::erofs::inode::Inode;
use crate::erofs::superblock::{DeviceRange, Superblock, read_device};
use crate::erofs::view::{RawSource, ReadDir, TreeView};
use crate::erofs::{BLOBS_MAX, BLOCK_SIZE};
use crate::error::{BuildError, FlistError};
use crate::header::{HEADER_LEN, Header, Section, kind};
use crate::hints::Hints;
use crate::id::FlistDigest;
use crate::limits::Limits;
use crate::meta::FlistMeta;
use crate::profile::Profile;
use crate::tables::{BlobInfo, BlobTable, CHUNK, PACK, read_chunk, read_pack};
use crate::tree::Tree;

/// A run of a regular file and where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpan {
    /// First byte in the file.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Where they are.
    pub source: SpanSource,
}

/// Where a run's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpanSource {
    /// Here.
    Inline(Bytes),
    /// Zeros.
    Hole,
    /// In a blob.
    Blob {
        /// Index in the blob table.
        blob: u16,
        /// First byte in the blob.
        offset: u64,
    },
}

/// A flist. Cheap to clone; bytes may be an mmap (`Bytes::from_owner`).
#[derive(Debug, Clone)]
pub struct Flist {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bytes: Bytes,
    header: Header,
    superblock: Superblock,
    devices: Vec<DeviceRange>,
    meta: FlistMeta,
}

impl Flist {
    /// Opens a flist: header, superblock, device table and metadata are
    /// checked, the tree and the tables are not read.
    pub fn parse(bytes: Bytes) -> Result<Self, FlistError> {
        let header = Header::parse(&bytes)?;
        let superblock = Superblock::parse(&bytes)?;
        check_tree_section(&header, &superblock)?;
        check_record_size(&header, kind::CHUNKS, CHUNK)?;
        check_record_size(&header, kind::PACKS, PACK)?;
        let blobs = BlobTable::parse(section_bytes(&bytes, &header, kind::BLOBS))?;
        let devices = read_devices(&bytes, &superblock, &blobs)?;
        let meta = FlistMeta::parse(section_bytes(&bytes, &header, kind::META))?;
        let inner = Arc::new(Inner {
            bytes,
            header,
            superblock,
            devices,
            meta,
        });
        Ok(Self { inner })
    }

    /// The flist's name: the BLAKE3 of its header.
    pub fn digest(&self) -> FlistDigest {
        FlistDigest::of(&self.inner.bytes[..HEADER_LEN])
    }

    /// Whether this is one layer, not a whole file system.
    pub fn is_layer(&self) -> bool {
        self.inner.header.is_layer
    }

    /// The whole file.
    pub fn as_bytes(&self) -> &Bytes {
        &self.inner.bytes
    }

    /// Checks that every section's bytes are those the header names. Reads
    /// the whole file.
    pub fn verify_sections(&self) -> Result<(), FlistError> {
        self.verify(|_| true)
    }

    /// As [`Flist::verify_sections`] without embedded packs, which have
    /// digests of their own.
    pub fn verify_metadata(&self) -> Result<(), FlistError> {
        self.verify(|section| section.kind != kind::EMBEDDED)
    }

    fn verify(&self, wanted: impl Fn(&Section) -> bool) -> Result<(), FlistError> {
        for section in self.inner.header.sections.iter().filter(|s| wanted(s)) {
            let digest = blake3::hash(slice(&self.inner.bytes, section));
            if *digest.as_bytes() != section.digest {
                return Err(FlistError::SectionDigest(section.kind));
            }
        }
        Ok(())
    }

    /// Checks everything about the tree and the tables: afterwards the
    /// kernel's EROFS driver meets only what this crate's writer makes.
    /// Linear in the size of the file.
    pub fn check(&self, limits: &Limits) -> Result<Summary, FlistError> {
        check::check(self, limits)
    }

    // --- tree ---

    pub(crate) fn view(&self) -> TreeView<'_> {
        let end = self.inner.superblock.blocks as usize * BLOCK_SIZE;
        TreeView {
            bytes: &self.inner.bytes[..end],
            devices: &self.inner.devices,
        }
    }

    pub(crate) fn superblock(&self) -> &Superblock {
        &self.inner.superblock
    }

    /// Number of inodes, as the superblock says.
    pub fn entry_count(&self) -> u64 {
        self.inner.superblock.inodes
    }

    /// The root's nid.
    pub fn root_nid(&self) -> u64 {
        u64::from(self.inner.superblock.root_nid)
    }

    /// The root directory.
    pub fn root(&self) -> Result<Inode, FlistError> {
        self.inode(self.root_nid())
    }

    /// The inode with number `nid`.
    pub fn inode(&self, nid: u64) -> Result<Inode, FlistError> {
        self.view().inode(nid)
    }

    /// A directory's entries in byte order of names, without `.` and `..`.
    pub fn read_dir(&self, directory: &Inode) -> ReadDir<'_> {
        ReadDir::new(self.view(), *directory)
    }

    /// As [`Flist::read_dir`], from a [`ReadDir::position`] on.
    pub fn read_dir_from(
        &self,
        directory: &Inode,
        position: u64,
    ) -> Result<ReadDir<'_>, FlistError> {
        let mut entries = ReadDir::new(self.view(), *directory);
        entries.seek(position)?;
        Ok(entries)
    }

    /// Finds one entry; `.` and `..` too.
    pub fn lookup(
        &self,
        directory: &Inode,
        name: &[u8],
    ) -> Result<Option<DirEntry<'_>>, FlistError> {
        self.view().lookup(directory, name)
    }

    /// All extended attributes by full name.
    pub fn xattrs(&self, inode: &Inode) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, FlistError> {
        self.view().xattrs(inode)
    }

    /// A symlink's target.
    pub fn readlink(&self, inode: &Inode) -> Result<&[u8], FlistError> {
        self.view().readlink(inode)
    }

    /// The run of a regular file that contains byte `offset`; `None` at or
    /// past the end. A dense or inline file is one run.
    pub fn span_at(&self, inode: &Inode, offset: u64) -> Result<Option<FileSpan>, FlistError> {
        if offset >= inode.size {
            return Ok(None);
        }
        let raw = self.view().span_at(inode, offset)?;
        let source = match raw.source {
            RawSource::Hole => SpanSource::Hole,
            RawSource::Blob { blob, offset } => SpanSource::Blob { blob, offset },
            RawSource::Inline(at) => {
                let at = at as usize;
                SpanSource::Inline(self.inner.bytes.slice(at..at + raw.len as usize))
            }
        };
        Ok(Some(FileSpan {
            start: raw.start,
            len: raw.len,
            source,
        }))
    }

    /// All runs of a regular file, in order, without gaps; at most 65,536.
    pub fn file_map(&self, inode: &Inode) -> Result<Vec<FileSpan>, FlistError> {
        let mut spans = Vec::new();
        let mut at = 0;
        while let Some(span) = self.span_at(inode, at)? {
            at = span.start + span.len;
            spans.push(span);
        }
        Ok(spans)
    }

    /// The tree in memory.
    pub fn to_tree(&self) -> Result<Tree, FlistError> {
        crate::decode::to_tree(self)
    }

    // --- tables ---

    pub(crate) fn blob_table(&self) -> BlobTable<'_> {
        BlobTable::parse(self.section(kind::BLOBS)).expect("parsed before")
    }

    pub(crate) fn section(&self, kind: u32) -> &[u8] {
        section_bytes(&self.inner.bytes, &self.inner.header, kind)
    }

    pub(crate) fn section_if_present(&self, kind: u32) -> Option<&[u8]> {
        let section = self.inner.header.section(kind)?;
        Some(slice(&self.inner.bytes, section))
    }

    /// Number of blobs.
    pub fn blob_count(&self) -> usize {
        self.inner.devices.len()
    }

    /// Blob `index`.
    pub fn blob(&self, index: usize) -> Option<BlobInfo> {
        self.blob_table().get(index)
    }

    /// The entries of blob `index`; `None` if there is no such blob or its
    /// record reaches past the table.
    pub fn blob_entries(
        &self,
        index: usize,
    ) -> Option<impl ExactSizeIterator<Item = BlobEntry> + '_> {
        let table = self.blob_table();
        table.entries(&table.get(index)?)
    }

    /// The canonical map of blob `index`, whose BLAKE3 is the blob's id.
    pub fn blob_map_bytes(&self, index: usize) -> Result<Vec<u8>, FlistError> {
        let bad = FlistError::BadBlob(index as u32);
        let info = self.blob(index).ok_or(bad.clone())?;
        let entries = self.blob_entries(index).ok_or(bad.clone())?;
        let count = entries.len();
        let chunks = self.section(kind::CHUNKS);
        let entries = entries.map(|entry| {
            let chunk = read_chunk(chunks, entry.chunk as usize)?;
            Some((entry.offset, entry.len, chunk.id))
        });
        write_map(info.len, count, entries).ok_or(bad)
    }

    /// Number of chunk records.
    pub fn chunk_count(&self) -> usize {
        self.section(kind::CHUNKS).len() / CHUNK
    }

    /// Chunk record `index`; `None` if there is none or it is malformed.
    pub fn chunk(&self, index: u32) -> Option<ChunkRecord> {
        read_chunk(self.section(kind::CHUNKS), index as usize)
    }

    /// All chunk records; malformed ones are left out.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkRecord> + '_ {
        (0..self.chunk_count() as u32).filter_map(|index| self.chunk(index))
    }

    /// Number of pack records.
    pub fn pack_count(&self) -> usize {
        self.section(kind::PACKS).len() / PACK
    }

    /// Pack record `index`.
    pub fn pack(&self, index: u32) -> Option<PackRecord> {
        read_pack(self.section(kind::PACKS), index as usize)
    }

    /// All pack records.
    pub fn packs(&self) -> impl Iterator<Item = PackRecord> + '_ {
        (0..self.pack_count() as u32).filter_map(|index| self.pack(index))
    }

    /// Metadata.
    pub fn meta(&self) -> &FlistMeta {
        &self.inner.meta
    }

    /// The access profile, if there is one and it is well-formed.
    pub fn profile(&self) -> Option<Profile> {
        let section = self.inner.header.section(kind::PROFILE)?;
        Profile::parse(slice(&self.inner.bytes, section)).ok()
    }

    /// The hints, if there are any and their counts are right.
    pub fn hints(&self) -> Option<Hints> {
        let section = self.inner.header.section(kind::HINTS)?;
        let range = section.offset as usize..section.end() as usize;
        Hints::parse(self.inner.bytes.slice(range)).ok()
    }

    /// The bytes of all embedded packs; [`PackRecord::embedded_at`] counts
    /// from their start.
    pub fn embedded_packs(&self) -> Option<Bytes> {
        let section = self.inner.header.section(kind::EMBEDDED)?;
        let range = section.offset as usize..section.end() as usize;
        Some(self.inner.bytes.slice(range))
    }

    /// Where the embedded packs begin in the file.
    pub fn embedded_offset(&self) -> Option<u64> {
        let section = self.inner.header.section(kind::EMBEDDED);
        section.map(|section| section.offset)
    }

    /// Sections of kinds this version does not know.
    pub fn extra_sections(&self) -> Vec<ExtraSection> {
        let unknown = |section: &&Section| section.kind > kind::LAST_KNOWN;
        let sections = self.inner.header.sections.iter().filter(unknown);
        sections
            .map(|section| ExtraSection {
                kind: section.kind,
                bytes: slice(&self.inner.bytes, section).to_vec(),
            })
            .collect()
    }

    /// The same flist with other metadata and profile: tree, tables and hints
    /// stay byte for byte, unknown sections are kept. With embedded packs, the
    /// file is the head's bytes, the packs' and the head's tail.
    pub fn rewrite(
        &self,
        meta: &FlistMeta,
        profile: Option<&Profile>,
    ) -> Result<FlistHead, BuildError> {
        let embedded = self.inner.header.section(kind::EMBEDDED);
        let assembler = Assembler {
            is_layer: self.is_layer(),
            meta,
            profile: profile.map(Profile::write),
            hints: self.section_if_present(kind::HINTS).map(<[u8]>::to_vec),
            embedded: embedded.map(|section| EmbeddedPacks {
                len: section.len,
                digest: section.digest,
            }),
            extra: self.extra_sections(),
        };
        let tables = [kind::BLOBS, kind::CHUNKS, kind::PACKS];
        let tables = tables.map(|kind| (kind, self.section(kind).to_vec()));
        assembler.assemble(self.view().bytes.to_vec(), tables.to_vec())
    }
}

fn slice<'a>(bytes: &'a Bytes, section: &Section) -> &'a [u8] {
    // The header's check proved that every section is inside the file.
    &bytes[section.offset as usize..section.end() as usize]
}

fn section_bytes<'a>(bytes: &'a Bytes, header: &Header, kind: u32) -> &'a [u8] {
    header.section(kind).map_or(&[], |s| slice(bytes, s))
}

fn check_tree_section(header: &Header, superblock: &Superblock) -> Result<(), FlistError> {
    let tree = header.section(kind::TREE);
    let tree = tree.ok_or(FlistError::SectionMissing(kind::TREE))?;
    let (blocks, section) = (superblock.blocks, tree.len);
    if u64::from(blocks) * BLOCK_SIZE as u64 != tree.end() {
        return Err(FlistError::BlocksMismatch { blocks, section });
    }
    Ok(())
}

fn check_record_size(header: &Header, kind: u32, size: usize) -> Result<(), FlistError> {
    let len = header.section(kind).map_or(0, |s| s.len);
    let count = len / size as u64;
    if !len.is_multiple_of(size as u64) || u32::try_from(count).is_err() {
        return Err(FlistError::SectionLength(kind));
    }
    Ok(())
}

/// Reads the device table and checks it against the blob table: same number,
/// same ids, lengths, and consecutive addresses from the tree's end on.
fn read_devices(
    bytes: &[u8],
    superblock: &Superblock,
    blobs: &BlobTable<'_>,
) -> Result<Vec<DeviceRange>, FlistError> {
    let count = usize::from(superblock.devices);
    if count != blobs.len() || count > BLOBS_MAX {
        return Err(FlistError::DeviceMismatch(count as u32));
    }
    let mut expected = u64::from(superblock.blocks);
    let end = expected * BLOCK_SIZE as u64;
    if superblock.devices_end() as u64 > end {
        return Err(FlistError::Truncated("device table"));
    }
    let mut devices = Vec::with_capacity(count);
    for index in 0..count {
        let mismatch = FlistError::DeviceMismatch(index as u32);
        let blob = blobs.get(index).ok_or(mismatch.clone())?;
        let device = read_device(bytes, index, &blob.id);
        let (range, canonical) = device.ok_or(mismatch.clone())?;
        let same_len = u64::from(range.blocks) * BLOCK_SIZE as u64 == blob.len;
        let fits = expected + u64::from(range.blocks) < u64::from(u32::MAX);
        let valid = canonical && same_len && range.blocks > 0 && fits;
        if !valid || u64::from(range.first) != expected {
            return Err(mismatch);
        }
        expected += u64::from(range.blocks);
        devices.push(range);
    }
    Ok(devices)
}
