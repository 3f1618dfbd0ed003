//! The few FUSE messages that are ours to read and write: INIT on the real
//! device, INIT as `fuser` wants to see it, and RESEND.
//!
//! Byte layouts: `struct fuse_in_header` (40 bytes), `fuse_init_in` (64),
//! `fuse_out_header` (16), `fuse_init_out` (64) of `linux/fuse.h`; native
//! endianness.

use fuser::InitFlags;

/// Protocol version spoken: the one of the `fuser` release in use, and new
/// enough for every flag below.
const MAJOR: u32 = 7;
const MINOR: u32 = 40;
const OPCODE_INIT: u32 = 26;
const NOTIFY_RESEND: u32 = 7;

/// Length of a `FUSE_INIT` request: header and `fuse_init_in`.
pub(super) const INIT_REQUEST_LEN: usize = 40 + 64;

/// What the kernel said in its INIT request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InitRequest {
    pub(super) unique: u64,
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) max_readahead: u32,
    pub(super) flags: u64,
}

/// What we answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct InitReply {
    pub(super) max_readahead: u32,
    pub(super) flags: InitFlags,
    pub(super) max_background: u16,
    pub(super) max_write: u32,
    pub(super) max_pages: u16,
}

impl InitRequest {
    /// Parses a request read from the device; `None` if it is not an INIT.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if u32_at(bytes, 4)? != OPCODE_INIT {
            return None;
        }
        let low = u64::from(u32_at(bytes, 40 + 12)?);
        let high = u64::from(u32_at(bytes, 40 + 16).unwrap_or(0));
        let extended = low & InitFlags::FUSE_INIT_EXT.bits() != 0;
        Some(Self {
            unique: u64::from(u32_at(bytes, 8)?) | u64::from(u32_at(bytes, 12)?) << 32,
            major: u32_at(bytes, 40)?,
            minor: u32_at(bytes, 44)?,
            max_readahead: u32_at(bytes, 48)?,
            flags: if extended { low | high << 32 } else { low },
        })
    }
}

impl InitReply {
    /// The bytes of the answer to the request `unique`.
    pub(super) fn encode(&self, unique: u64) -> Vec<u8> {
        let flags = (self.flags | InitFlags::FUSE_INIT_EXT).bits();
        let mut out = Vec::with_capacity(80);
        push_u32(&mut out, 80);
        push_u32(&mut out, 0);
        out.extend_from_slice(&unique.to_ne_bytes());
        push_u32(&mut out, MAJOR);
        push_u32(&mut out, MINOR);
        push_u32(&mut out, self.max_readahead);
        push_u32(&mut out, flags as u32);
        out.extend_from_slice(&self.max_background.to_ne_bytes());
        let congestion = (u32::from(self.max_background) * 3 / 4) as u16;
        out.extend_from_slice(&congestion.to_ne_bytes());
        push_u32(&mut out, self.max_write);
        push_u32(&mut out, 1); // time granularity: 1 ns
        out.extend_from_slice(&self.max_pages.to_ne_bytes());
        out.extend_from_slice(&0u16.to_ne_bytes());
        push_u32(&mut out, (flags >> 32) as u32);
        out.resize(80, 0);
        out
    }
}

/// An INIT request that makes `fuser` believe its connection just began. What
/// it negotiates goes nowhere: the real connection was set up long ago.
pub(super) fn synthetic_init() -> [u8; INIT_REQUEST_LEN] {
    let mut out = Vec::with_capacity(INIT_REQUEST_LEN);
    push_u32(&mut out, INIT_REQUEST_LEN as u32);
    push_u32(&mut out, OPCODE_INIT);
    out.extend_from_slice(&1u64.to_ne_bytes());
    out.resize(40, 0);
    push_u32(&mut out, MAJOR);
    push_u32(&mut out, MINOR);
    push_u32(&mut out, 128 * 1024);
    let mut fixed = [0u8; INIT_REQUEST_LEN];
    fixed[..out.len()].copy_from_slice(&out);
    fixed
}

/// `FUSE_NOTIFY_RESEND`: the kernel queues again every request that was taken
/// and not answered (`struct fuse_out_header` with the code in `error`).
pub(super) fn resend() -> [u8; 16] {
    let mut out = [0u8; 16];
    out[0..4].copy_from_slice(&16u32.to_ne_bytes());
    out[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    out
}

fn push_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_ne_bytes());
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_synthetic_init_reads_back_as_an_init() {
        let request = InitRequest::parse(&synthetic_init()).expect("an INIT");
        assert_eq!((request.major, request.minor), (MAJOR, MINOR));
        assert_eq!(request.unique, 1);
        assert_eq!(request.max_readahead, 128 * 1024);
        assert_eq!(request.flags, 0);
    }

    #[test]
    fn other_requests_are_not_taken_for_an_init() {
        let mut bytes = synthetic_init();
        bytes[4] = 15;
        assert_eq!(InitRequest::parse(&bytes), None);
        assert_eq!(InitRequest::parse(&bytes[..7]), None);
    }

    #[test]
    fn the_reply_carries_flags_in_both_halves() {
        let reply = InitReply {
            max_readahead: 4096,
            flags: InitFlags::FUSE_ASYNC_READ | InitFlags::FUSE_HAS_RESEND,
            max_background: 64,
            max_write: 131_072,
            max_pages: 256,
        }
        .encode(9);
        assert_eq!(reply.len(), 80);
        assert_eq!(u32_at(&reply, 16 + 12), Some(1 | 1 << 30));
        assert_eq!(u32_at(&reply, 16 + 32), Some(1 << 7));
    }
}
