//! Creating a connection: open the device, mount it, answer the real INIT,
//! clone the device.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fuser::InitFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, mount};

use super::protocol::{InitReply, InitRequest};
use crate::sys::fuse_dev;

/// The kernel sends INIT while mount(2) runs; longer than this means a kernel
/// that does not work.
const INIT_DEADLINE: Duration = Duration::from_secs(10);
/// Larger than any request without data, and above `FUSE_MIN_READ_BUFFER` (8192).
const INIT_BUFFER_LEN: usize = 64 * 1024;
/// Nothing is ever written to these file systems; the smallest value that
/// kernels take without complaint.
const MAX_WRITE_BYTES: u32 = 128 * 1024;

/// How a connection is set up; fixed for its life.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Shown as the device in mount tables.
    pub source: String,
    /// Descriptors made (the first one plus clones). Each has its own list of
    /// taken requests in the kernel.
    pub devices: usize,
    /// Largest read in pages of 4 KiB. 256 = 1 MiB is the kernel's bound
    /// without a sysctl.
    pub max_pages: u16,
    /// Asynchronous requests the kernel lets be under way (read-ahead, and all
    /// reads of directio EROFS). Beyond it even reads of present bytes queue
    /// behind those that wait for a fill, so it is as large as the number of
    /// fills that may wait.
    pub max_background: u16,
    /// Features asked for beside the ones every connection needs; those that
    /// the kernel lacks are dropped.
    pub extra_flags: InitFlags,
    /// More mount(2) flags beside `nodev,nosuid`.
    pub mount_flags: MountFlags,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            source: "lamina".into(),
            devices: 4,
            max_pages: 256,
            max_background: 16_384,
            extra_flags: InitFlags::empty(),
            mount_flags: MountFlags::RDONLY,
        }
    }
}

/// A mounted connection and all its descriptors. Dropping them all (here and
/// in the holder) ends it: reads then fail, they never return made-up bytes.
#[derive(Debug)]
pub struct FuseConnection {
    /// The device and its clones.
    pub devices: Vec<OwnedFd>,
    /// Whether the kernel can queue taken requests again (Linux 6.9): without
    /// it a killed server leaves readers waiting for ever.
    pub can_resend: bool,
}

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The device cannot be opened: no FUSE in this kernel, or no permission.
    #[error("open /dev/fuse")]
    Open(#[source] io::Error),
    /// mount(2) refused.
    #[error("mount FUSE at {path}")]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What mount(2) said.
        #[source]
        source: io::Error,
    },
    /// The kernel's first request did not come, or was not an INIT we know.
    #[error("FUSE handshake at {path}: {what}")]
    Init {
        /// The mount point.
        path: PathBuf,
        /// What was wrong.
        what: String,
    },
    /// A clone could not be made.
    #[error("clone /dev/fuse")]
    Clone(#[source] io::Error),
}

impl FuseConnection {
    /// Mounts a new connection at `target` (an existing directory) and answers
    /// its INIT.
    ///
    /// # Errors
    /// See [`HandshakeError`]; nothing stays mounted then.
    pub fn create(target: &Path, options: &ConnectOptions) -> Result<Self, HandshakeError> {
        let device = fuse_dev::open().map_err(HandshakeError::Open)?;
        mount_device(&device, target, options)?;
        let result = handshake(&device, target, options).and_then(|can_resend| {
            let mut devices = vec![device];
            for _ in 1..options.devices.max(1) {
                let clone = fuse_dev::clone(devices[0].as_fd()).map_err(HandshakeError::Clone)?;
                devices.push(clone);
            }
            Ok(Self {
                devices,
                can_resend,
            })
        });
        if result.is_err() {
            // Best effort: the error that led here is the one to report.
            let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
        }
        result
    }
}

fn mount_device(
    device: &OwnedFd,
    target: &Path,
    options: &ConnectOptions,
) -> Result<(), HandshakeError> {
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    let data = std::ffi::CString::new(data).expect("no NUL in mount options");
    mount(
        options.source.as_str(),
        target,
        "fuse.lamina",
        options.mount_flags | MountFlags::NODEV | MountFlags::NOSUID,
        data.as_c_str(),
    )
    .map_err(|errno| HandshakeError::Mount {
        path: target.to_owned(),
        source: errno.into(),
    })
}

/// Reads the INIT request and answers it; says whether resending works.
fn handshake(
    device: &OwnedFd,
    target: &Path,
    options: &ConnectOptions,
) -> Result<bool, HandshakeError> {
    let failed = |what: String| HandshakeError::Init {
        path: target.to_owned(),
        what,
    };
    wait_readable(device, INIT_DEADLINE).map_err(|error| failed(error.to_string()))?;
    let mut file = std::fs::File::from(
        device
            .try_clone()
            .map_err(|error| failed(error.to_string()))?,
    );
    let mut buffer = vec![0u8; INIT_BUFFER_LEN];
    let length = file
        .read(&mut buffer)
        .map_err(|error| failed(format!("read: {error}")))?;
    let request = InitRequest::parse(&buffer[..length])
        .ok_or_else(|| failed("the first request is not INIT".into()))?;
    if request.major != 7 || request.minor < 31 {
        return Err(failed(format!(
            "the kernel speaks FUSE {}.{}, at least 7.31 is needed",
            request.major, request.minor
        )));
    }
    let offered = InitFlags::from_bits_retain(request.flags);
    let flags = (required_flags() | options.extra_flags) & offered;
    let reply = InitReply {
        max_readahead: request.max_readahead,
        flags,
        max_background: options.max_background,
        max_write: MAX_WRITE_BYTES,
        max_pages: options.max_pages,
    };
    file.write_all(&reply.encode(request.unique))
        .map_err(|error| failed(format!("answer INIT: {error}")))?;
    Ok(flags.contains(InitFlags::FUSE_HAS_RESEND))
}

/// What every connection of ours wants. Without `ASYNC_DIO` a reader of a
/// directio EROFS mount cannot be killed while its request is taken; without
/// `HAS_RESEND` a restart loses the requests that were taken.
fn required_flags() -> InitFlags {
    InitFlags::FUSE_ASYNC_READ
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_BIG_WRITES
        | InitFlags::FUSE_MAX_PAGES
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_NO_OPEN_SUPPORT
        | InitFlags::FUSE_NO_OPENDIR_SUPPORT
        | InitFlags::FUSE_HAS_RESEND
        | InitFlags::FUSE_INIT_EXT
}

fn wait_readable(device: &OwnedFd, limit: Duration) -> io::Result<()> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(device, PollFlags::IN)];
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "no INIT came")),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
