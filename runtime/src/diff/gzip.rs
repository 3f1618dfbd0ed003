//! One gzip member (RFC 1952) that compresses what can be compressed and copies what cannot.
//!
//! Changes are often wheels, model weights, archives: DEFLATE takes eight times as long to find that nothing can be
//! gained there as copying takes. So each piece is looked at first, and one that looks like noise becomes stored blocks
//! (RFC 1951, 3.2.4), which every reader of gzip knows.
//!
//! ```text
//!  header │ blocks of the compressor … sync │ stored … │ blocks of the compressor, begun anew … │ CRC, length
//! ```
//! What always holds: before stored blocks the compressor was flushed to a byte's end; after them it begins anew, since
//! the distances of its matches must not reach over bytes that it never saw.

use std::io::{self, Write};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// No name, no time, fastest algorithm, Unix (RFC 1952, 2.3).
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 3];
/// What is looked at and written at once.
const PIECE: usize = 128 << 10;
/// Longest stored block (RFC 1951, 3.2.4).
const STORED_MAX: usize = 65_535;
/// Places of a piece that are looked at.
const SAMPLES: usize = 4096;
/// Bits per byte from which on a sample looks like noise, which has 7.95 in samples of that size; text has 5, programs 6.
const NOISE_BITS: f64 = 7.8;
/// Less is not worth looking at.
const LOOKED_AT_MIN: usize = 16 << 10;

/// Writes gzip to another writer. To be [finished](Self::finish).
pub struct GzipWriter<W> {
    out: W,
    compress: Compress,
    /// The compressor has begun blocks that are not at a byte's end.
    is_open: bool,
    piece: Vec<u8>,
    packed: Vec<u8>,
    crc: Crc,
}

impl<W: Write> GzipWriter<W> {
    /// Begins.
    pub fn new(out: W) -> Self {
        Self {
            out,
            compress: Compress::new(Compression::fast(), false),
            is_open: false,
            piece: Vec::with_capacity(PIECE),
            packed: HEADER.to_vec(),
            crc: Crc::new(),
        }
    }

    /// Ends it; what was written to.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.write_piece()?;
        self.deflate(&[], FlushCompress::Finish)?;
        self.packed.extend(self.crc.sum().to_le_bytes());
        self.packed.extend(self.crc.amount().to_le_bytes());
        self.hand_over()?;
        Ok(self.out)
    }

    fn write_piece(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        self.crc.update(&piece);
        if looks_like_noise(&piece) {
            self.store(&piece)?;
        } else if !piece.is_empty() {
            self.is_open = true;
            self.deflate(&piece, FlushCompress::None)?;
        }
        self.piece = piece;
        self.piece.clear();
        self.hand_over()
    }

    fn store(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.is_open {
            self.deflate(&[], FlushCompress::Sync)?;
            self.compress.reset();
            self.is_open = false;
        }
        for block in piece.chunks(STORED_MAX) {
            let length = u16::try_from(block.len()).expect("a block of this size");
            self.packed.push(0);
            self.packed.extend(length.to_le_bytes());
            self.packed.extend((!length).to_le_bytes());
            self.hand_over()?;
            self.out.write_all(block)?;
        }
        Ok(())
    }

    fn deflate(&mut self, mut bytes: &[u8], flush: FlushCompress) -> io::Result<()> {
        loop {
            self.packed.reserve(PIECE);
            let (read, room) = (self.compress.total_in(), self.packed.capacity());
            let status = self
                .compress
                .compress_vec(bytes, &mut self.packed, flush)
                .map_err(io::Error::other)?;
            let read = usize::try_from(self.compress.total_in() - read).unwrap_or(usize::MAX);
            bytes = bytes.get(read..).unwrap_or_default();
            let is_over = match flush {
                FlushCompress::Finish => status == Status::StreamEnd,
                // With room left, nothing is held back (zlib's manual on deflate()).
                _ => bytes.is_empty() && self.packed.len() < room,
            };
            if is_over {
                return Ok(());
            }
        }
    }

    fn hand_over(&mut self) -> io::Result<()> {
        self.out.write_all(&self.packed)?;
        self.packed.clear();
        Ok(())
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..length]);
        if self.piece.len() == PIECE {
            self.write_piece()?;
        }
        Ok(length)
    }

    /// Nothing: what is not full yet is written with what follows.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// By the entropy of some of its bytes (Shannon 1948).
fn looks_like_noise(piece: &[u8]) -> bool {
    if piece.len() < LOOKED_AT_MIN {
        return false;
    }
    // An odd step, so that records of even sizes show all of their bytes.
    let step = (piece.len() / SAMPLES) | 1;
    let (mut counts, mut total) = ([0_u32; 256], 0.0);
    for byte in piece.iter().step_by(step) {
        counts[usize::from(*byte)] += 1;
        total += 1.0;
    }
    let bits = |count: &u32| {
        let part = f64::from(*count) / total;
        -part * part.log2()
    };
    let seen = counts.iter().filter(|count| **count > 0);
    seen.map(bits).sum::<f64>() > NOISE_BITS
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..length).map(next).collect()
    }

    fn text(length: usize) -> Vec<u8> {
        let lines = (0..).flat_map(|number| format!("line {number}: all is well\n").into_bytes());
        lines.take(length).collect()
    }

    fn packed(parts: &[&[u8]]) -> Vec<u8> {
        let mut gzip = GzipWriter::new(Vec::new());
        for part in parts {
            gzip.write_all(part).unwrap();
        }
        gzip.finish().unwrap()
    }

    /// By a reader that knows one member only, and checks what is at its end.
    fn unpacked(gzip: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut reader = flate2::read::GzDecoder::new(gzip);
        reader.read_to_end(&mut out).unwrap();
        assert!(reader.into_inner().is_empty(), "there is one member");
        out
    }

    #[test]
    fn whatever_is_written_is_read_again() {
        let (noise, text) = (noise(700_001), text(900_003));
        let mixed: &[&[u8]] = &[
            &noise[..300_000],
            &text,
            &noise,
            &text[..5],
            &noise[..7],
            &text,
        ];
        for parts in [
            &[] as &[&[u8]],
            &[&text[..1]],
            &[&text],
            &[&noise],
            &[&noise[..PIECE]],
            &[&noise[..=PIECE]],
            mixed,
        ] {
            assert!(unpacked(&packed(parts)) == parts.concat());
        }
    }

    #[test]
    fn text_is_compressed_and_noise_hardly_grows() {
        let (noise, text) = (noise(4 << 20), text(4 << 20));
        assert!(packed(&[&text]).len() < text.len() / 4);
        let more = packed(&[&noise]).len() - noise.len();
        assert!(more < 1000, "{more}");
    }

    /// A match may not reach over what was stored: the same text before and after noise.
    #[test]
    fn text_after_noise_does_not_refer_to_text_before() {
        let (noise, text) = (noise(PIECE), text(PIECE));
        let parts: Vec<&[u8]> = [&text[..], &noise[..]].repeat(8);
        assert!(unpacked(&packed(&parts)) == parts.concat());
    }
}
