//! A layer's stored bytes -> its tar bytes, bounded.
//!
//! Owns the choice of codec (by the stream's first bytes, as containerd does:
//! media types lie) and the bounds on what comes out. A stream that expands
//! beyond its limits fails with [`BombError`] inside the `io::Error`.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::Limits;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// RFC 1952, one or more members.
    Gzip,
    /// RFC 8878, one or more frames.
    Zstd,
}

/// The stream expands further than allowed.
#[derive(Debug, thiserror::Error)]
pub enum BombError {
    /// Too many bytes.
    #[error("the layer expands to more than {max} bytes")]
    TooLarge {
        /// The limit.
        max: u64,
    },
    /// Too many bytes for what was read.
    #[error(
        "the layer expands more than {max}-fold; if it may, convert with a larger --decompression-ratio-max"
    )]
    Ratio {
        /// The limit.
        max: u64,
    },
}

/// A codec that images do not use.
#[derive(Debug, thiserror::Error)]
#[error("the layer is compressed with {0}, which OCI images do not use")]
pub struct UnsupportedCompression(&'static str);

/// Recognises the codec by the first bytes of a stream.
///
/// # Errors
/// For codecs that are known and not supported.
pub fn sniff(head: &[u8]) -> Result<Compression, UnsupportedCompression> {
    match head {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Err(UnsupportedCompression("bzip2")),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err(UnsupportedCompression("xz")),
        [0x5d, 0, 0, _, _, ..] => Err(UnsupportedCompression("lzma")),
        [0x04, 0x22, 0x4d, 0x18, ..] => Err(UnsupportedCompression("lz4")),
        _ => Ok(Compression::None),
    }
}

/// The plain bytes of `input`, whatever its codec.
///
/// # Errors
/// When the first bytes cannot be read or name an unsupported codec.
pub fn decompressed<'a>(
    input: impl Read + Send + 'a,
    limits: &Limits,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let taken = Arc::new(AtomicU64::new(0));
    let counted = Counted {
        input,
        taken: Arc::clone(&taken),
    };
    let mut input = BufReader::with_capacity(256 << 10, counted);
    // The longest magic that decides has 6 bytes; a short first read only
    // happens at the end of the stream, because `Counted` fills its buffer.
    let compression =
        sniff(input.fill_buf()?).map_err(|e| io::Error::new(io::ErrorKind::Unsupported, e))?;
    let plain: Box<dyn Read + Send + 'a> = match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(limits.zstd_window_log_max)?;
            Box::new(decoder)
        }
    };
    Ok(Box::new(Bounded {
        plain,
        taken,
        given: 0,
        bytes_max: limits.unpacked_bytes_max,
        ratio_max: limits.ratio_max,
        ratio_floor: limits.ratio_floor_bytes,
    }))
}

/// Counts compressed bytes, and fills the buffer it is given.
struct Counted<R> {
    input: R,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut have = 0;
        // A handful of bytes would be enough for `sniff`, whole buffers are
        // what the decoders like.
        while have < buf.len().min(64 << 10) {
            match self.input.read(&mut buf[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.taken.fetch_add(have as u64, Ordering::Relaxed);
        Ok(have)
    }
}

/// Stops a stream that gives more than it may.
struct Bounded<'a> {
    plain: Box<dyn Read + Send + 'a>,
    taken: Arc<AtomicU64>,
    given: u64,
    bytes_max: u64,
    ratio_max: u64,
    ratio_floor: u64,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.plain.read(buf)?;
        self.given += n as u64;
        if self.given > self.bytes_max {
            return Err(io::Error::other(BombError::TooLarge {
                max: self.bytes_max,
            }));
        }
        let allowed = self
            .taken
            .load(Ordering::Relaxed)
            .saturating_mul(self.ratio_max);
        if self.given > allowed.max(self.ratio_floor) {
            return Err(io::Error::other(BombError::Ratio {
                max: self.ratio_max,
            }));
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(data).unwrap();
        out.finish().unwrap()
    }

    fn all(input: &[u8], limits: &Limits) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompressed(input, limits)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn members_and_frames_are_read_one_after_the_other() {
        let limits = Limits::default();
        let two = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(all(&two, &limits).unwrap(), b"one two");
        let two = [
            zstd::encode_all(&b"one "[..], 3).unwrap(),
            // A skippable frame in between, as `pzstd` writes.
            b"\x50\x2a\x4d\x18\x02\0\0\0xx".to_vec(),
            zstd::encode_all(&b"two"[..], 3).unwrap(),
        ]
        .concat();
        assert_eq!(all(&two, &limits).unwrap(), b"one two");
        assert_eq!(all(b"plain", &limits).unwrap(), b"plain");
        assert_eq!(all(b"", &limits).unwrap(), b"");
    }

    #[test]
    fn every_truncation_of_a_compressed_stream_is_an_error() {
        let limits = Limits::default();
        for whole in [
            gzip(b"some bytes"),
            zstd::encode_all(&b"some bytes"[..], 3).unwrap(),
        ] {
            for len in 4..whole.len() {
                assert!(
                    all(&whole[..len], &limits).is_err(),
                    "{len} of {}",
                    whole.len()
                );
            }
        }
    }

    #[test]
    fn bombs_stop_at_the_limit() {
        let zeros = vec![0; 4 << 20];
        let limits = Limits {
            ratio_floor_bytes: 1 << 20,
            ratio_max: 50,
            ..Limits::default()
        };
        for bomb in [gzip(&zeros), zstd::encode_all(&zeros[..], 3).unwrap()] {
            let error = all(&bomb, &limits).unwrap_err();
            assert!(error.to_string().contains("50-fold"), "{error}");
        }
        let limits = Limits {
            unpacked_bytes_max: 1 << 20,
            ..Limits::default()
        };
        let error = all(&gzip(&zeros), &limits).unwrap_err();
        assert!(error.to_string().contains("1048576"), "{error}");
    }

    #[test]
    fn other_codecs_are_named() {
        let error = all(b"BZh91AY", &Limits::default()).unwrap_err();
        assert!(error.to_string().contains("bzip2"), "{error}");
        let error = all(b"\xfd7zXZ\0\0", &Limits::default()).unwrap_err();
        assert!(error.to_string().contains("xz"), "{error}");
    }
}
