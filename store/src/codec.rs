//! Plain chunk bytes to stored ones and back, verified.

use std::cell::RefCell;

use bytes::Bytes;
use lamina_flist::{ChunkId, Codec};

/// Stored compressed only if that saves at least 1/32 (3 %): less is not worth decompressing for.
const SAVING_SHIFT: u32 = 5;

/// Why stored bytes are not the chunk they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// Not a zstd frame of the right length.
    #[error("does not decompress to its length")]
    Decompress,
    /// Raw bytes of another length.
    #[error("has another length")]
    Length,
    /// Other bytes than the id names.
    #[error("does not match its id")]
    Digest,
}

/// Compresses chunks; one per thread.
pub(crate) struct Encoder(zstd::bulk::Compressor<'static>);

impl Encoder {
    pub(crate) fn new(level: i32) -> std::io::Result<Self> {
        Ok(Self(zstd::bulk::Compressor::new(level)?))
    }

    /// `None`: store it raw.
    pub(crate) fn compress(&mut self, plain: &[u8]) -> Option<Vec<u8>> {
        let limit = plain.len() - (plain.len() >> SAVING_SHIFT).max(1);
        // The bound stops zstd as soon as it does not pay.
        let mut out = Vec::with_capacity(limit);
        match self.0.compress_to_buffer(plain, &mut out) {
            Ok(_) if out.len() <= limit => {
                out.shrink_to_fit();
                Some(out)
            }
            _ => None,
        }
    }
}

thread_local! {
    static DECODER: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The plain bytes of a stored chunk, checked against `id`. `len` bounds the memory used.
///
/// # Errors
/// The bytes are not that chunk.
pub fn decode(id: &ChunkId, codec: Codec, stored: &Bytes, len: u32) -> Result<Bytes, ChunkError> {
    let plain = match codec {
        Codec::Raw if stored.len() == len as usize => stored.clone(),
        Codec::Raw => return Err(ChunkError::Length),
        Codec::Zstd => decompress(stored, len as usize)
            .ok_or(ChunkError::Decompress)?
            .into(),
    };
    if ChunkId::of(&plain) == *id {
        Ok(plain)
    } else {
        Err(ChunkError::Digest)
    }
}

fn decompress(stored: &[u8], len: usize) -> Option<Vec<u8>> {
    if len > lamina_flist::chunk::CHUNK_MAX {
        return None;
    }
    DECODER.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Decompressor::new().ok();
        }
        let plain = slot.as_mut()?.decompress(stored, len).ok()?;
        (plain.len() == len).then_some(plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new()
            .update(b"noise")
            .finalize_xof()
            .fill(&mut out);
        out
    }

    #[test]
    fn compressible_data_comes_back_and_noise_stays_raw() {
        let mut encoder = Encoder::new(3).unwrap();
        let text = b"all work and no play ".repeat(1000);
        let stored = encoder.compress(&text).unwrap();
        assert!(stored.len() < text.len() / 10);
        let plain = decode(
            &ChunkId::of(&text),
            Codec::Zstd,
            &stored.into(),
            text.len() as u32,
        )
        .unwrap();
        assert_eq!(plain, text);
        assert_eq!(encoder.compress(&noise(100_000)), None);
        assert_eq!(encoder.compress(b"x"), None);
    }

    #[test]
    fn wrong_bytes_lengths_and_bombs_are_errors() {
        let text = vec![7u8; 100_000];
        let id = ChunkId::of(&text);
        let stored: Bytes = Encoder::new(3).unwrap().compress(&text).unwrap().into();
        assert_eq!(
            decode(&id, Codec::Zstd, &stored, 99_999),
            Err(ChunkError::Decompress)
        );
        assert_eq!(
            decode(&id, Codec::Zstd, &stored, 100_001),
            Err(ChunkError::Decompress)
        );
        assert_eq!(
            decode(&id, Codec::Zstd, &stored, u32::MAX),
            Err(ChunkError::Decompress)
        );
        assert_eq!(
            decode(&id, Codec::Raw, &stored, 100_000),
            Err(ChunkError::Length)
        );
        assert_eq!(
            decode(&ChunkId::of(b"other"), Codec::Zstd, &stored, 100_000),
            Err(ChunkError::Digest)
        );
        assert_eq!(
            decode(&id, Codec::Zstd, &stored.slice(..5), 100_000),
            Err(ChunkError::Decompress)
        );
    }
}
