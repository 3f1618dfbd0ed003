//! Sparse files in tar: the four encodings GNU tar writes, one checked map.
//!
//! Old GNU (`S` entries), PAX 0.0 and 0.1 (records) and PAX 1.0 (a text map in
//! front of the data). Whatever the encoding, [`check`] leaves segments that
//! are sorted, do not overlap, lie inside the file and use up the stored bytes
//! exactly. Source: GNU tar manual, "Storing Sparse Files".

use super::pax::{PaxSparse, decimal};

/// A run of stored bytes at its place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataSegment {
    /// Where the run starts in the file.
    pub offset: u64,
    /// Bytes in the run.
    pub len: u64,
}

/// Checks a map against the file's size and the bytes stored for it.
pub(crate) fn check(
    pairs: &[(u64, u64)],
    real_size: u64,
    stored_len: u64,
) -> Result<Vec<DataSegment>, &'static str> {
    let mut segments = Vec::with_capacity(pairs.len());
    let mut end = 0u64;
    let mut stored = 0u64;
    for &(offset, len) in pairs {
        if offset < end {
            return Err("sparse segments overlap or are out of order");
        }
        end = offset
            .checked_add(len)
            .ok_or("a sparse segment overflows")?;
        if end > real_size {
            return Err("a sparse segment ends past the file");
        }
        stored += len;
        if len > 0 {
            segments.push(DataSegment { offset, len });
        }
    }
    if stored != stored_len {
        return Err("the sparse map does not account for the stored bytes");
    }
    Ok(segments)
}

/// Old GNU pairs, read as signed numbers, must not be negative.
pub(crate) fn unsigned(pairs: &[(i128, i128)]) -> Result<Vec<(u64, u64)>, &'static str> {
    let number = |n: i128| u64::try_from(n).map_err(|_| "a sparse number is negative");
    pairs
        .iter()
        .map(|(a, b)| Ok((number(*a)?, number(*b)?)))
        .collect()
}

/// Where a PAX sparse file keeps its map.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PaxMap {
    /// In the records: pairs and real size.
    Records(Vec<(u64, u64)>, u64),
    /// In front of the data (1.0), with the real size.
    InData(u64),
}

/// Decides the PAX sparse version and decodes a map in records.
pub(crate) fn pax_map(sparse: &PaxSparse, segments_max: usize) -> Result<PaxMap, &'static str> {
    let real_size = sparse.realsize.ok_or("a sparse file has no real size")?;
    let numbers = match (sparse.major, sparse.minor) {
        (Some(1), Some(0)) => return Ok(PaxMap::InData(real_size)),
        (None | Some(0), None | Some(0 | 1)) => match &sparse.map {
            Some(_) if !sparse.numbers.is_empty() => return Err("two sparse maps"),
            Some(map) => map_numbers(map)?,
            None => sparse.numbers.clone(),
        },
        _ => return Err("an unknown sparse version"),
    };
    if numbers.len() / 2 > segments_max {
        return Err("too many sparse segments");
    }
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("a sparse map has an odd number of numbers");
    }
    if sparse.numblocks.is_some_and(|n| n != pairs.len() as u64) {
        return Err("a sparse map has another length than announced");
    }
    Ok(PaxMap::Records(
        pairs.iter().map(|p| (p[0], p[1])).collect(),
        real_size,
    ))
}

fn map_numbers(map: &[u8]) -> Result<Vec<u64>, &'static str> {
    if map.is_empty() {
        return Ok(Vec::new());
    }
    map.split(|b| *b == b',')
        .map(|n| decimal(n).ok_or("a sparse map holds no numbers"))
        .collect()
}

/// Decodes the text map of PAX 1.0 as its blocks arrive.
#[derive(Debug, Default)]
pub(crate) struct TextMap {
    line: Vec<u8>,
    wanted: Option<usize>,
    numbers: Vec<u64>,
}

impl TextMap {
    /// Takes one block; true when the map is complete (the rest of the block
    /// is padding).
    pub(crate) fn push(&mut self, block: &[u8], segments_max: usize) -> Result<bool, &'static str> {
        for b in block {
            if *b != b'\n' {
                if self.line.len() >= 20 {
                    return Err("a sparse map line is too long");
                }
                self.line.push(*b);
                continue;
            }
            let number = decimal(&self.line).ok_or("a sparse map line is no number")?;
            self.line.clear();
            self.take(number, segments_max)?;
            if self.is_complete() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn take(&mut self, number: u64, segments_max: usize) -> Result<(), &'static str> {
        if self.wanted.is_some() {
            self.numbers.push(number);
            return Ok(());
        }
        let count = usize::try_from(number).ok().filter(|n| *n <= segments_max);
        self.wanted = Some(count.ok_or("too many sparse segments")? * 2);
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.wanted == Some(self.numbers.len())
    }

    pub(crate) fn into_pairs(self) -> Vec<(u64, u64)> {
        self.numbers
            .as_chunks::<2>()
            .0
            .iter()
            .map(|p| (p[0], p[1]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_must_be_sorted_inside_and_complete() {
        assert_eq!(
            check(&[(0, 1), (5, 0)], 5, 1).unwrap(),
            [DataSegment { offset: 0, len: 1 }]
        );
        assert!(check(&[(4, 2), (5, 1)], 9, 3).is_err());
        assert!(check(&[(4, 2)], 5, 2).is_err());
        assert!(check(&[(u64::MAX, 2)], u64::MAX, 2).is_err());
        assert!(check(&[(0, 2)], 5, 3).is_err());
    }

    #[test]
    fn a_text_map_may_span_blocks() {
        let mut map = TextMap::default();
        assert!(!map.push(b"2\n10\n1", 8).unwrap());
        assert!(map.push(b"5\n40\n2\n\0\0\0", 8).unwrap());
        assert_eq!(map.into_pairs(), [(10, 15), (40, 2)]);
        assert!(TextMap::default().push(b"9\n", 8).is_err());
        assert!(TextMap::default().push(b"x\n", 8).is_err());
    }
}
