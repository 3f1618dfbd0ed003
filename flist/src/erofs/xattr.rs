//! Inline extended attributes, right after their inode.
//!
//! ```text
//! header, 12 bytes: u32 name filter (0: unused) | u8 shared count 0 | 7 zero
//! entries, each padded to 4 bytes:
//!   u8 length of the name's suffix | u8 prefix number | u16 value length
//!   suffix | value
//! ```

use std::collections::BTreeMap;

use crate::error::FlistError;
use crate::le::u16_at;

const HEADER: usize = 12;
const ENTRY: usize = 4;
/// Longest value: its length is 16 bits on disk.
pub(crate) const VALUE_MAX: usize = 65_535;

/// Overlayfs' own attributes: forging them would change what a union shows.
pub(crate) const OVERLAY_PREFIX: &[u8] = b"trusted.overlay.";
/// Ours.
pub(crate) const LAMINA_PREFIX: &[u8] = b"trusted.lamina.";
/// On a directory of a layer: hides the layers below.
pub(crate) const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// On a directory of a layer: the layer names only its entries.
pub(crate) const IMPLICIT: &[u8] = b"trusted.lamina.implicit";
/// On a symlink of a layer: it is a hard link to that path.
pub(crate) const LINK_TO: &[u8] = b"trusted.lamina.link";
/// Value of those above.
pub(crate) const YES: &[u8] = b"y";

/// Whether users may not set this attribute in a flist.
pub(crate) fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(OVERLAY_PREFIX) || name.starts_with(LAMINA_PREFIX)
}

/// EROFS' prefix numbers; the two ACL names are whole.
const PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// Prefix number and suffix of a full name, if EROFS can hold it.
pub(crate) fn split_name(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|&(index, prefix)| {
        let suffix = name.strip_prefix(prefix)?;
        let whole = matches!(index, 2 | 3);
        let valid = whole == suffix.is_empty() && suffix.len() <= 255 && !suffix.contains(&0);
        valid.then_some((index, suffix))
    })
}

fn prefix(index: u8) -> Option<&'static [u8]> {
    let found = PREFIXES.iter().find(|(number, _)| *number == index);
    found.map(|&(_, prefix)| prefix)
}

/// Bytes of the attributes on disk, 0 if there are none; a multiple of 4.
pub(crate) fn encoded_len(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> usize {
    if xattrs.is_empty() {
        return 0;
    }
    let entry = |(name, value): (&Vec<u8>, &Vec<u8>)| {
        let suffix = split_name(name).map_or(0, |(_, suffix)| suffix.len());
        (ENTRY + suffix + value.len()).next_multiple_of(4)
    };
    HEADER + xattrs.iter().map(entry).sum::<usize>()
}

/// Writes the attributes (checked before) at the start of `out`.
pub(crate) fn write(out: &mut [u8], xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) {
    let mut at = HEADER;
    for (name, value) in xattrs {
        let (index, suffix) = split_name(name).expect("checked by the layout");
        out[at] = suffix.len() as u8;
        out[at + 1] = index;
        out[at + 2..at + 4].copy_from_slice(&(value.len() as u16).to_le_bytes());
        at += ENTRY;
        out[at..at + suffix.len()].copy_from_slice(suffix);
        at += suffix.len();
        out[at..at + value.len()].copy_from_slice(value);
        at = (at + value.len()).next_multiple_of(4);
    }
}

/// Reads the attributes in `raw`, the whole xattr area of inode `nid`.
///
/// Strict: full names ascending, padding zero, nothing left over.
pub(crate) fn read(raw: &[u8], nid: u64) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, FlistError> {
    let mut xattrs = BTreeMap::new();
    if raw.is_empty() {
        return Ok(xattrs);
    }
    let overrun = || FlistError::XattrOverrun(nid);
    let header = raw.get(..HEADER).ok_or_else(overrun)?;
    if header.iter().any(|&b| b != 0) {
        return Err(FlistError::SharedXattrs(nid));
    }
    let mut rest = &raw[HEADER..];
    let mut previous: Vec<u8> = Vec::new();
    while !rest.is_empty() {
        let (name, value, len) = read_entry(rest, nid)?;
        if name <= previous {
            return Err(FlistError::XattrOrder(nid));
        }
        let padded = len.next_multiple_of(4);
        let padding = rest.get(len..padded).ok_or_else(overrun)?;
        if padding.iter().any(|&b| b != 0) {
            return Err(FlistError::XattrPadding(nid));
        }
        rest = &rest[padded..];
        previous.clone_from(&name);
        xattrs.insert(name, value.to_vec());
    }
    Ok(xattrs)
}

fn read_entry(rest: &[u8], nid: u64) -> Result<(Vec<u8>, &[u8], usize), FlistError> {
    let overrun = || FlistError::XattrOverrun(nid);
    let suffix_len = usize::from(*rest.first().ok_or_else(overrun)?);
    let index = *rest.get(1).ok_or_else(overrun)?;
    let value_len = usize::from(u16_at(rest, 2).ok_or_else(overrun)?);
    let value_at = ENTRY + suffix_len;
    let end = value_at + value_len;
    let suffix = rest.get(ENTRY..value_at).ok_or_else(overrun)?;
    let value = rest.get(value_at..end).ok_or_else(overrun)?;
    let bad_name = FlistError::XattrName(nid);
    let prefix = prefix(index).ok_or(bad_name.clone())?;
    let name = [prefix, suffix].concat();
    // Also refuses empty suffixes, NUL and ACL names with a suffix.
    if split_name(&name) != Some((index, suffix)) {
        return Err(bad_name);
    }
    Ok((name, value, end))
}
