//! FUSE: a detached mount is made and the kernel's first request, `FUSE_INIT`,
//! is read from it. It carries everything the kernel offers. It is never
//! answered; closing the device ends the connection.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};

use super::Finding;
use crate::fscontext::{DetachedMount, FsContext};
use crate::unmount::fusectl::ConnectionId;

/// The kernel's offer: fields of `struct fuse_init_in` (`linux/fuse.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FuseOffer {
    /// Protocol version.
    pub major: u32,
    /// Protocol version.
    pub minor: u32,
    /// Most the kernel will read ahead, in bytes.
    pub readahead_bytes_max: u32,
    /// Capability bits; `flags2` in the upper half.
    pub flags: u64,
}

const MAX_PAGES: u64 = 1 << 22;
const INIT_EXT: u64 = 1 << 30;
const PASSTHROUGH: u64 = 1 << 37;
const HAS_RESEND: u64 = 1 << 39;
const OVER_IO_URING: u64 = 1 << 41;

/// `struct fuse_in_header` (40 bytes), then `fuse_init_in`.
const HEADER_BYTES: usize = 40;
/// The kernel refuses reads into smaller buffers than this.
const BUFFER_BYTES: usize = 8192 + 4096;
const OPCODE_INIT: u32 = 26;

pub(super) struct FuseProbe {
    offer: io::Result<FuseOffer>,
    abort: io::Result<()>,
}

pub(super) fn probe() -> FuseProbe {
    match connect() {
        Ok((device, mount)) => FuseProbe {
            offer: read_offer(&device),
            abort: abort(&mount),
        },
        Err(error) => FuseProbe {
            abort: Err(io::Error::from(io::ErrorKind::NotFound)),
            offer: Err(error),
        },
    }
}

fn connect() -> io::Result<(OwnedFd, DetachedMount)> {
    let device = crate::sys::fuse_dev::open()?;
    let mount = || {
        let context = FsContext::open("fuse")?;
        context.string("source", "lamina-probe")?;
        context.string("fd", device.as_raw_fd().to_string())?;
        context.string("rootmode", "40000")?;
        context.string("user_id", "0")?;
        context.string("group_id", "0")?;
        context.mount(MountAttrFlags::empty())
    };
    let mount = mount().map_err(io::Error::other)?;
    Ok((device, mount))
}

fn read_offer(device: &OwnedFd) -> io::Result<FuseOffer> {
    let mut fds = [PollFd::new(device, PollFlags::IN)];
    let deadline = Timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };
    if rustix::event::poll(&mut fds, Some(&deadline))? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the kernel sent no FUSE_INIT within 5 s",
        ));
    }
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    let len = rustix::io::read(device, &mut buffer)?;
    parse_offer(&buffer[..len])
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the first request is no INIT"))
}

fn parse_offer(request: &[u8]) -> Option<FuseOffer> {
    let word = |at: usize| -> Option<u32> {
        let bytes = request.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    if word(4)? != OPCODE_INIT {
        return None;
    }
    let mut flags = u64::from(word(HEADER_BYTES + 12)?);
    if flags & INIT_EXT != 0 {
        flags |= u64::from(word(HEADER_BYTES + 16)?) << 32;
    }
    Some(FuseOffer {
        major: word(HEADER_BYTES)?,
        minor: word(HEADER_BYTES + 4)?,
        readahead_bytes_max: word(HEADER_BYTES + 8)?,
        flags,
    })
}

fn abort(mount: &DetachedMount) -> io::Result<()> {
    // No sync: the daemon of this connection is nobody.
    let stat = rustix::fs::statx(
        mount.as_fd(),
        "",
        rustix::fs::AtFlags::EMPTY_PATH | rustix::fs::AtFlags::STATX_DONT_SYNC,
        rustix::fs::StatxFlags::TYPE,
    )?;
    ConnectionId::by_minor(stat.stx_dev_minor).abort()
}

/// What a kernel without the offer answers: nothing.
#[derive(Debug, thiserror::Error)]
#[error("not in the kernel's offer")]
struct NotOffered;

impl FuseProbe {
    pub(super) fn offer(&self) -> Option<FuseOffer> {
        self.offer.as_ref().ok().copied()
    }

    pub(super) fn available(&self) -> Finding {
        Finding::of(
            "mounting a FUSE file system and reading FUSE_INIT",
            self.offer.as_ref().map(|_| ()),
            "blobs can be filled on demand",
            "only images whose data is all local can be mounted",
            Some("load the fuse module, and give the container /dev/fuse"),
        )
    }

    fn offered(&self, flag: u64, with: &str, without: &str, fix: Option<&str>) -> Finding {
        let offered = self.offer().is_some_and(|offer| offer.flags & flag != 0);
        Finding::of(
            "the flags of FUSE_INIT",
            offered.then_some(()).ok_or(NotOffered),
            with,
            without,
            fix,
        )
    }

    pub(super) fn resend(&self) -> Finding {
        self.offered(
            HAS_RESEND,
            "a mount daemon that was killed is replaced without a failed read",
            "reads that a killed mount daemon had taken wait until the mount is aborted",
            Some("use Linux 6.9 or later"),
        )
    }

    pub(super) fn passthrough(&self) -> Finding {
        self.offered(
            PASSTHROUGH,
            "reads of complete blobs skip the mount daemon",
            "reads of complete blobs that were opened incomplete pass the mount daemon",
            Some("use Linux 6.9 or later with CONFIG_FUSE_PASSTHROUGH"),
        )
    }

    pub(super) fn max_pages(&self) -> Finding {
        self.offered(
            MAX_PAGES,
            "misses are read in requests of up to 1 MiB",
            "misses are read in requests of at most 128 KiB",
            Some("use Linux 4.20 or later"),
        )
    }

    pub(super) fn uring(&self) -> Finding {
        self.offered(
            OVER_IO_URING,
            "the kernel could speak FUSE over io_uring; not used yet",
            "no FUSE over io_uring; not used yet, nothing is lost",
            None,
        )
    }

    pub(super) fn abort(&self) -> Finding {
        Finding::of(
            "aborting the test connection through fusectl",
            self.abort.as_ref().copied(),
            "a mount whose daemon is gone for good can be taken down",
            "a mount whose daemon is gone for good can only be detached; its readers stay",
            Some("give the process CAP_SYS_ADMIN in the initial namespace"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_is_parsed_with_and_without_the_second_flags() {
        let mut request = vec![0_u8; HEADER_BYTES];
        request[4..8].copy_from_slice(&OPCODE_INIT.to_ne_bytes());
        for word in [7_u32, 36, 131_072, 0x0040_0001] {
            request.extend(word.to_ne_bytes());
        }
        let old = parse_offer(&request).expect("an old INIT");
        assert_eq!((old.major, old.minor, old.flags), (7, 36, 0x0040_0001));

        let flags = 0x4000_0000_u32;
        request[HEADER_BYTES + 12..].copy_from_slice(&flags.to_ne_bytes());
        assert_eq!(parse_offer(&request), None, "announced flags2 are missing");
        request.extend((1_u32 << 7).to_ne_bytes());
        let new = parse_offer(&request).expect("a new INIT");
        assert_eq!(new.flags & HAS_RESEND, HAS_RESEND);

        request[4] = 1;
        assert_eq!(parse_offer(&request), None, "not an INIT");
    }
}
