//! As much of ELF as the dynamic loader looks at before a program runs.
//!
//! Program headers, the interpreter, needed libraries and search paths; read
//! in small pieces, every offset checked, counts bounded. 64- and 32-bit
//! little-endian files. Source: System V gABI, chapters 4 and 5.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The first bytes of every ELF file.
pub(super) const MAGIC: &[u8] = b"\x7fELF";

/// Program headers of a real file are a dozen.
const HEADERS_MAX: usize = 256;
/// Entries of a dynamic section; large ones have some dozens.
const DYNAMIC_MAX: usize = 4096;
const STRING_MAX: usize = 4096;
const NEEDED_MAX: usize = 512;

/// Before the code: headers, symbols and relocations of real files.
const HEAD_MAX: u64 = 4 << 20;
/// Where code comes first, the same is in front of it.
const HEAD_BEFORE_CODE: u64 = 2 << 20;
/// Read-only segments behind the code up to this size are the loader's too
/// (patchelf's); larger ones are the program's constants.
const TAIL_MAX: u64 = 256 << 10;
/// Bytes of a segment that may hold names the loader needs.
const WINDOW_MAX: u64 = 1 << 20;

/// What the loader needs to know of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Elf {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) interpreter: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) needed: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rpath: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) runpath: Option<String>,
    /// File ranges that are read or written while loading, in order.
    pub(super) loaded: Vec<Range<u64>>,
}

impl Elf {
    /// About how much memory it takes besides itself.
    pub(super) fn cost(&self) -> usize {
        let paths = [&self.interpreter, &self.rpath, &self.runpath];
        let paths = paths.into_iter().flatten().chain(&self.needed);
        paths.map(|p| p.len() + size_of::<String>()).sum::<usize>()
            + self.loaded.len() * size_of::<Range<u64>>()
    }
}

/// Reads `len` bytes at an offset, or fewer at the end; `None` if it cannot.
pub(super) type ReadAt<'a> = dyn FnMut(u64, usize) -> Option<Vec<u8>> + 'a;

#[derive(Clone, Copy)]
struct Segment {
    kind: u32,
    writable: bool,
    executable: bool,
    offset: u64,
    address: u64,
    len: u64,
}

/// Parses a file; `None` if it is no ELF file that could run here.
pub(super) fn parse(read: &mut ReadAt<'_>) -> Option<Elf> {
    let (wide, segments) = headers(read)?;
    let mut elf = Elf {
        loaded: loaded(&segments)?,
        ..Elf::default()
    };
    if let Some(segment) = segments.iter().find(|s| s.kind == PT_INTERP) {
        let bytes = read(segment.offset, (segment.len as usize).min(STRING_MAX))?;
        elf.interpreter = Some(until_nul(&bytes)?);
    }
    if let Some(dynamic) = segments.iter().find(|s| s.kind == PT_DYNAMIC) {
        read_dynamic(&mut elf, *dynamic, &segments, wide, read);
    }
    Some(elf)
}

/// Parts of a file, wherever they are, in which the dynamic section and
/// its strings may lie; in order.
pub(super) fn windows(read: &mut ReadAt<'_>) -> Vec<Range<u64>> {
    let (_, segments) = headers(read).unwrap_or_default();
    let candidates = segments.iter().filter(|s| match s.kind {
        PT_LOAD => !s.executable,
        kind => kind == PT_DYNAMIC || kind == PT_INTERP,
    });
    joined(candidates.map(|s| s.offset..s.offset.saturating_add(s.len.min(WINDOW_MAX))))
}

/// Where a file has constants and data, and no code; in order, each byte once.
pub(super) fn data(read: &mut ReadAt<'_>) -> Vec<Range<u64>> {
    let (_, segments) = headers(read).unwrap_or_default();
    let loads = segments.iter().filter(|s| s.kind == PT_LOAD);
    let data = loads.filter(|s| !s.executable);
    joined(data.map(|s| s.offset..s.offset.saturating_add(s.len)))
}

/// Ranges in order, those that meet made one.
fn joined(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = ranges.collect();
    ranges.sort_by_key(|range| (range.start, range.end));
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match out.last_mut().filter(|last| last.end >= range.start) {
            Some(last) => last.end = last.end.max(range.end),
            None => out.push(range),
        }
    }
    out
}

/// The ranges that loading touches: what is in front of the code, what is
/// written to, and small segments behind. `None` if nothing is loaded.
fn loaded(segments: &[Segment]) -> Option<Vec<Range<u64>>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut code_seen = false;
    for segment in segments.iter().filter(|s| s.kind == PT_LOAD && s.len > 0) {
        let max = match (segment.executable, segment.writable) {
            (true, _) if ranges.is_empty() => HEAD_BEFORE_CODE,
            (false, true) => u64::MAX,
            (false, false) if !code_seen => HEAD_MAX,
            (false, false) if segment.len <= TAIL_MAX => TAIL_MAX,
            _ => 0,
        };
        code_seen |= segment.executable;
        let end = segment.offset.checked_add(segment.len.min(max))?;
        if segment.offset < end {
            ranges.push(segment.offset..end);
        }
    }
    (!ranges.is_empty()).then_some(ranges)
}

/// Whether the file is 64-bit, and its program headers.
fn headers(read: &mut ReadAt<'_>) -> Option<(bool, Vec<Segment>)> {
    let head = read(0, 64)?;
    if !head.starts_with(MAGIC) || *head.get(5)? != 1 {
        return None;
    }
    let wide = match head.get(4)? {
        2 => true,
        1 => false,
        _ => return None,
    };
    Some((wide, segments(&head, wide, read)?))
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PF_X: u32 = 1;
const PF_W: u32 = 2;

fn segments(head: &[u8], wide: bool, read: &mut ReadAt<'_>) -> Option<Vec<Segment>> {
    let (offset, size, count) = if wide {
        (u64_at(head, 32)?, u16_at(head, 54)?, u16_at(head, 56)?)
    } else {
        (
            u64::from(u32_at(head, 28)?),
            u16_at(head, 42)?,
            u16_at(head, 44)?,
        )
    };
    let (size, count) = (usize::from(size), usize::from(count).min(HEADERS_MAX));
    if size < if wide { 56 } else { 32 } {
        return None;
    }
    let table = read(offset, size * count)?;
    table.chunks_exact(size).map(|h| segment(h, wide)).collect()
}

fn segment(h: &[u8], wide: bool) -> Option<Segment> {
    let word = |at| u32_at(h, at).map(u64::from);
    Some(if wide {
        Segment {
            kind: u32_at(h, 0)?,
            writable: u32_at(h, 4)? & PF_W != 0,
            executable: u32_at(h, 4)? & PF_X != 0,
            offset: u64_at(h, 8)?,
            address: u64_at(h, 16)?,
            len: u64_at(h, 32)?,
        }
    } else {
        Segment {
            kind: u32_at(h, 0)?,
            writable: u32_at(h, 24)? & PF_W != 0,
            executable: u32_at(h, 24)? & PF_X != 0,
            offset: word(4)?,
            address: word(8)?,
            len: word(16)?,
        }
    })
}

const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

fn read_dynamic(
    elf: &mut Elf,
    dynamic: Segment,
    segments: &[Segment],
    wide: bool,
    read: &mut ReadAt<'_>,
) -> Option<()> {
    let entry = if wide { 16 } else { 8 };
    let len = usize::try_from(dynamic.len).ok()?.min(DYNAMIC_MAX * entry);
    let table = read(dynamic.offset, len)?;
    let mut strings = None;
    let mut names = Vec::new();
    for raw in table.chunks_exact(entry) {
        let (tag, value) = if wide {
            (u64_at(raw, 0)?, u64_at(raw, 8)?)
        } else {
            (u64::from(u32_at(raw, 0)?), u64::from(u32_at(raw, 4)?))
        };
        match tag {
            0 => break,
            DT_STRTAB => strings = Some(value),
            DT_NEEDED | DT_RPATH | DT_RUNPATH if names.len() < NEEDED_MAX => {
                names.push((tag, value));
            }
            _ => {}
        }
    }
    let address = strings?;
    let load = segments.iter().find(|s| {
        s.kind == PT_LOAD && (s.address..s.address.saturating_add(s.len)).contains(&address)
    })?;
    let base = load.offset.checked_add(address - load.address)?;
    for (tag, at) in names {
        let bytes = read(base.checked_add(at)?, STRING_MAX)?;
        let name = until_nul(&bytes)?;
        match tag {
            DT_NEEDED => elf.needed.push(name),
            DT_RPATH => elf.rpath = Some(name),
            _ => elf.runpath = Some(name),
        }
    }
    Some(())
}

fn until_nul(bytes: &[u8]) -> Option<String> {
    let text = &bytes[..bytes.iter().position(|b| *b == 0)?];
    Some(String::from_utf8_lossy(text).into_owned())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_bytes(bytes: &[u8]) -> Option<Elf> {
        parse(&mut |at, len| {
            let start = usize::try_from(at).ok()?.min(bytes.len());
            Some(bytes[start..start.saturating_add(len).min(bytes.len())].to_vec())
        })
    }

    #[test]
    fn the_test_program_itself_is_understood() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let elf = parse_bytes(&own).unwrap();
        assert!(elf.interpreter.unwrap().starts_with('/'));
        assert!(
            elf.needed.iter().any(|n| n.starts_with("libc.so")),
            "{:?}",
            elf.needed
        );
        assert!(elf.loaded.len() > 1 && elf.loaded[0].start == 0);
    }

    #[test]
    fn loading_touches_what_is_around_the_code() {
        let segment = |flags: u32, offset: u64, len: u64| Segment {
            kind: PT_LOAD,
            writable: flags & PF_W != 0,
            executable: flags & PF_X != 0,
            offset,
            address: offset,
            len,
        };
        let mib = 1u64 << 20;
        // As linkers lay files out now, with what patchelf adds.
        let now = [
            segment(0, 0, mib),
            segment(PF_X, mib, 20 * mib),
            segment(0, 21 * mib, 2 * mib),
            segment(PF_W, 23 * mib, 3 * mib),
            segment(PF_W, 26 * mib, 0),
            segment(0, 27 * mib, 4096),
        ];
        let want = [0..mib, 23 * mib..26 * mib, 27 * mib..27 * mib + 4096];
        assert_eq!(loaded(&now).unwrap(), want);
        // As they did: headers and constants with the code.
        let before = [segment(PF_X, 0, 20 * mib), segment(PF_W, 20 * mib, 10)];
        let want = [0..HEAD_BEFORE_CODE, 20 * mib..20 * mib + 10];
        assert_eq!(loaded(&before).unwrap(), want);
        let huge = [segment(0, 0, 20 * mib), segment(PF_W, u64::MAX, 10)];
        assert_eq!(loaded(&huge[..1]).unwrap()[0], 0..HEAD_MAX);
        assert_eq!((loaded(&huge), loaded(&[])), (None, None));
    }

    #[test]
    fn data_that_many_segments_name_is_looked_through_once() {
        const SEGMENTS: u16 = 71;
        let mut bytes = MAGIC.to_vec();
        bytes.extend([2, 1]);
        bytes.resize(64, 0);
        bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&SEGMENTS.to_le_bytes());
        for number in 0..u64::from(SEGMENTS) {
            let offset = if number == 9 {
                50_000
            } else {
                100 + number % 3
            };
            let mut header = [0; 56];
            header[..4].copy_from_slice(&PT_LOAD.to_le_bytes());
            header[8..16].copy_from_slice(&offset.to_le_bytes());
            header[32..40].copy_from_slice(&9000u64.to_le_bytes());
            bytes.extend(header);
        }
        let found = data(&mut |at, len| Some(bytes[at as usize..at as usize + len].to_vec()));
        assert_eq!(found, [100..9102, 50_000..59_000]);
    }

    #[test]
    fn damaged_headers_never_panic() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let mut head = own[..own.len().min(4096)].to_vec();
        for at in 0..1024.min(head.len()) {
            for value in [0, 0x7f, 0xff] {
                let old = std::mem::replace(&mut head[at], value);
                let _ = parse_bytes(&head);
                head[at] = old;
            }
        }
        for len in 0..256 {
            let _ = parse_bytes(&own[..len]);
        }
        assert_eq!(parse_bytes(b"#!/bin/sh\n"), None);
    }
}
