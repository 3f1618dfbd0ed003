//! The access profile: which blob ranges a start reads first, in order.
//!
//! ```text
//! u32 source (0 recorded, 1 static) | u32 range count
//! ranges, 12 bytes: u32 blob | u32 first entry of that blob | u32 entries
//! ```

use crate::error::FlistError;
use crate::header::kind;
use crate::le::{Fields, u32_at};

const HEADER: usize = 8;
const RANGE: usize = 12;

/// Where a profile comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProfileSource {
    /// Recorded at a mount.
    Recorded = 0,
    /// Computed from the files (entrypoint, libraries, imports).
    Static = 1,
}

/// A run of a blob's map entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProfileRange {
    /// Which blob.
    pub blob: u16,
    /// First entry, counted from the blob's first.
    pub first_entry: u32,
    /// Number of entries.
    pub count: u32,
}

/// What a start reads, in the order of first use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Where it comes from.
    pub source: ProfileSource,
    /// Ranges in the order of first use.
    pub ranges: Vec<ProfileRange>,
}

impl Profile {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER + self.ranges.len() * RANGE];
        let mut fields = Fields::new(&mut out);
        fields.u32(self.source as u32).u32(self.ranges.len() as u32);
        for range in &self.ranges {
            fields
                .u32(u32::from(range.blob))
                .u32(range.first_entry)
                .u32(range.count);
        }
        out
    }

    pub(crate) fn parse(section: &[u8]) -> Result<Self, FlistError> {
        let bad = || FlistError::SectionLength(kind::PROFILE);
        let count = u32_at(section, 4).ok_or_else(bad)? as usize;
        let reserved = |index| FlistError::RecordReserved {
            kind: kind::PROFILE,
            index,
        };
        let source = match u32_at(section, 0).ok_or_else(bad)? {
            0 => ProfileSource::Recorded,
            1 => ProfileSource::Static,
            _ => return Err(reserved(0)),
        };
        let raw = &section[HEADER..];
        if count.checked_mul(RANGE) != Some(raw.len()) {
            return Err(bad());
        }
        let range = |(index, raw): (u64, &[u8])| {
            let blob = u32_at(raw, 0).ok_or_else(bad)?;
            Ok(ProfileRange {
                blob: u16::try_from(blob).map_err(|_| reserved(index))?,
                first_entry: u32_at(raw, 4).ok_or_else(bad)?,
                count: u32_at(raw, 8).ok_or_else(bad)?,
            })
        };
        let ranges = (0..).zip(raw.chunks_exact(RANGE)).map(range);
        Ok(Self {
            source,
            ranges: ranges.collect::<Result<_, FlistError>>()?,
        })
    }
}
