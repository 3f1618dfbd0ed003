//! The first 1,024 bytes: what is where, and its digest.
//!
//! ```text
//! 0     magic "LAMINAFL"
//! 8     u32 version (1)
//! 12    u32 section count
//! 16    u32 flags (bit 0: this is one layer)
//! 20    u32 0
//! 24    u64 length of the file
//! 32    32 zero bytes
//! 64    section records, 56 bytes each:
//!       0   u32 kind
//!       4   u32 flags (bit 0: readers must know this kind)
//!       8   u64 offset
//!       16  u64 length
//!       24  [32] BLAKE3 of the section's bytes
//! …     zero
//! 1020  u32 CRC-32C of bytes 0..1020
//! ```
//!
//! Always: kinds strictly ascending; the tree begins at 1024 and every other
//! section where the one before ends; the last ends where the file ends. So
//! no byte of a flist is outside a digest.

use crate::error::FlistError;
use crate::le::{Fields, array, u32_at, u64_at};

/// Bytes of the header.
pub const HEADER_LEN: usize = 1024;
/// First bytes of a flist.
pub const MAGIC: &[u8; 8] = b"LAMINAFL";
/// The format's version.
pub const VERSION: u32 = 1;

const RECORDS: usize = 64;
const RECORD: usize = 56;
const CHECKSUM: usize = 1020;
const SECTIONS_MAX: usize = (CHECKSUM - RECORDS) / RECORD;
const FLAG_LAYER: u32 = 1;
const FLAG_REQUIRED: u32 = 1;

/// Section kinds this version knows.
pub(crate) mod kind {
    pub(crate) const TREE: u32 = 1;
    pub(crate) const BLOBS: u32 = 2;
    pub(crate) const CHUNKS: u32 = 3;
    pub(crate) const PACKS: u32 = 4;
    pub(crate) const META: u32 = 5;
    pub(crate) const PROFILE: u32 = 6;
    pub(crate) const EMBEDDED: u32 = 7;
    pub(crate) const HINTS: u32 = 8;
    pub(crate) const LAST_KNOWN: u32 = HINTS;
    /// Those every flist has.
    pub(crate) const NEEDED: [u32; 5] = [TREE, BLOBS, CHUNKS, PACKS, META];

    /// Whether readers must know the kind.
    pub(crate) fn is_required(kind: u32) -> bool {
        kind != PROFILE && kind != HINTS
    }
}

/// One section record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) kind: u32,
    pub(crate) required: bool,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) digest: [u8; 32],
}

impl Section {
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// A header that was checked completely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) is_layer: bool,
    pub(crate) sections: Vec<Section>,
}

impl Header {
    pub(crate) fn section(&self, kind: u32) -> Option<&Section> {
        self.sections.iter().find(|s| s.kind == kind)
    }

    pub(crate) fn file_len(&self) -> u64 {
        self.sections.last().map_or(HEADER_LEN as u64, Section::end)
    }

    /// Whether `count` sections fit a header.
    pub(crate) fn fits(count: usize) -> bool {
        count <= SECTIONS_MAX
    }

    pub(crate) fn write(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        Fields::new(&mut out)
            .put(MAGIC)
            .u32(VERSION)
            .u32(self.sections.len() as u32)
            .u32(u32::from(self.is_layer) * FLAG_LAYER)
            .u32(0)
            .u64(self.file_len());
        let records = out[RECORDS..CHECKSUM].chunks_exact_mut(RECORD);
        for (record, section) in records.zip(&self.sections) {
            Fields::new(record)
                .u32(section.kind)
                .u32(u32::from(section.required) * FLAG_REQUIRED)
                .u64(section.offset)
                .u64(section.len)
                .put(section.digest);
        }
        let sum = crc32c::crc32c(&out[..CHECKSUM]);
        out[CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    pub(crate) fn parse(file: &[u8]) -> Result<Self, FlistError> {
        let short = || FlistError::Truncated("header");
        if !file.starts_with(MAGIC) {
            let partial = MAGIC.starts_with(file);
            return Err(if partial {
                short()
            } else {
                FlistError::BadMagic
            });
        }
        let raw = file.get(..HEADER_LEN).ok_or_else(short)?;
        let version = u32_at(raw, 8).ok_or_else(short)?;
        if version != VERSION {
            return Err(FlistError::UnsupportedVersion(version));
        }
        let sum = u32_at(raw, CHECKSUM).ok_or_else(short)?;
        if sum != crc32c::crc32c(&raw[..CHECKSUM]) {
            return Err(FlistError::HeaderChecksum);
        }
        let header = Self::parse_fields(raw)?;
        header.check_order(file.len() as u64)?;
        let want = u64_at(raw, 24).ok_or_else(short)?;
        let got = file.len() as u64;
        if want != got || header.file_len() != got {
            return Err(FlistError::LengthMismatch { want, got });
        }
        // Reserved bytes: what is not a field is zero.
        let canonical = header.write();
        match (0..HEADER_LEN).find(|&at| canonical[at] != raw[at]) {
            Some(at) => Err(FlistError::HeaderReserved(at)),
            None => Ok(header),
        }
    }

    fn parse_fields(raw: &[u8]) -> Result<Self, FlistError> {
        let short = || FlistError::Truncated("header");
        let count = u32_at(raw, 12).ok_or_else(short)?;
        if count as usize > SECTIONS_MAX {
            return Err(FlistError::TooManySections(count));
        }
        let flags = u32_at(raw, 16).ok_or_else(short)?;
        if flags & !FLAG_LAYER != 0 {
            return Err(FlistError::HeaderReserved(16));
        }
        let sections = raw[RECORDS..].chunks_exact(RECORD).take(count as usize);
        Ok(Self {
            is_layer: flags & FLAG_LAYER != 0,
            sections: sections.map(parse_record).collect::<Result<_, _>>()?,
        })
    }

    fn check_order(&self, file_len: u64) -> Result<(), FlistError> {
        let mut expected = HEADER_LEN as u64;
        let mut previous = 0;
        for section in &self.sections {
            let Section { kind, offset, .. } = *section;
            if kind <= previous {
                return Err(FlistError::SectionOrder(kind));
            }
            if kind > kind::LAST_KNOWN && section.required {
                return Err(FlistError::UnknownRequiredSection(kind));
            }
            if kind <= kind::LAST_KNOWN && section.required != kind::is_required(kind) {
                return Err(FlistError::SectionFlags(kind));
            }
            if offset != expected {
                return Err(FlistError::SectionOffset {
                    kind,
                    offset,
                    expected,
                });
            }
            expected = offset
                .checked_add(section.len)
                .filter(|&end| end <= file_len)
                .ok_or(FlistError::SectionPastEnd(kind))?;
            previous = kind;
        }
        let missing = kind::NEEDED.iter().find(|&&k| self.section(k).is_none());
        match missing {
            Some(&kind) => Err(FlistError::SectionMissing(kind)),
            None => Ok(()),
        }
    }
}

fn parse_record(record: &[u8]) -> Result<Section, FlistError> {
    let short = || FlistError::Truncated("header");
    let kind = u32_at(record, 0).ok_or_else(short)?;
    let flags = u32_at(record, 4).ok_or_else(short)?;
    if flags & !FLAG_REQUIRED != 0 {
        return Err(FlistError::SectionFlags(kind));
    }
    Ok(Section {
        kind,
        required: flags & FLAG_REQUIRED != 0,
        offset: u64_at(record, 8).ok_or_else(short)?,
        len: u64_at(record, 16).ok_or_else(short)?,
        digest: array(record, 24).ok_or_else(short)?,
    })
}
