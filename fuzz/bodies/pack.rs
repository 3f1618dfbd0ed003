//! Packs and index objects from a store, as they are and with the pack's table
//! made to fit its checksum.

use lamina_store::{index, pack};

const TRAILER: usize = 48;
const ENTRY: usize = 48;

pub(crate) fn run(data: &[u8]) {
    entries(data);
    entries(&repaired(data));
    if let Ok(packs) = index::parse(data) {
        // Writing sorts and drops doubles: what was written reads back as itself.
        let bytes = index::encode(&packs);
        let again = index::parse(&bytes).expect("what was written");
        assert_eq!(index::encode(&again), bytes);
    }
}

fn repaired(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    let Some(trailer) = bytes.len().checked_sub(TRAILER) else {
        return bytes;
    };
    let count = bytes[trailer + 32..trailer + 36]
        .try_into()
        .expect("4 bytes");
    let table = (u32::from_le_bytes(count) as usize).saturating_mul(ENTRY);
    if let Some(start) = trailer.checked_sub(table) {
        let sum = blake3::hash(&bytes[start..trailer]);
        bytes[trailer..trailer + 32].copy_from_slice(sum.as_bytes());
    }
    bytes
}

fn entries(data: &[u8]) {
    let Ok(entries) = pack::parse_entries(data) else {
        return;
    };
    let mut at = 0;
    for entry in entries {
        assert_eq!(entry.offset, at, "chunks lie end to end");
        at += entry.stored_len;
        assert!(at as usize <= data.len());
    }
    assert_eq!(pack::record_of(data).len, data.len() as u64);
}
