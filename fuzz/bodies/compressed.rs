//! A layer's stored bytes: whatever their codec, what comes out is bounded.

use std::io::Read as _;

use bytes::Bytes;
use lamina_flist::{ChunkId, Codec};
use lamina_image::Limits;
use lamina_image::decompress::{decompressed, sniff};

const OUT_MAX: u64 = 1 << 20;
const RATIO_MAX: u64 = 100;
const RATIO_FLOOR: u64 = 64 << 10;

pub(crate) fn run(data: &[u8]) {
    let _ = sniff(data);
    let limits = Limits {
        unpacked_bytes_max: OUT_MAX,
        ratio_max: RATIO_MAX,
        ratio_floor_bytes: RATIO_FLOOR,
        zstd_window_log_max: 20,
        ..Limits::default()
    };
    if let Ok(mut plain) = decompressed(data, &limits) {
        let mut given = 0;
        let mut buffer = [0; 8192];
        while let Ok(n @ 1..) = plain.read(&mut buffer) {
            given += n as u64;
        }
        let allowed = (data.len() as u64 * RATIO_MAX).max(RATIO_FLOOR);
        assert!(given <= OUT_MAX.min(allowed), "{given} bytes came out");
    }
    chunk(data);
}

/// The same bytes as a stored chunk.
fn chunk(data: &[u8]) {
    let stored = Bytes::copy_from_slice(data);
    let id = ChunkId::of(data);
    let len = data.len() as u32;
    let raw = lamina_store::decode(&id, Codec::Raw, &stored, len);
    assert_eq!(raw.as_ref(), Ok(&stored));
    for len in [0, 1, 100, len, 256 << 10, u32::MAX] {
        if let Ok(plain) = lamina_store::decode(&id, Codec::Zstd, &stored, len) {
            assert_eq!(ChunkId::of(&plain), id);
        }
    }
}
