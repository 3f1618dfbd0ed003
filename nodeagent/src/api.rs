//! What the command line asks of a node agent: the calls, their answers, and the client.
//!
//! One request and one answer per connection on `api.sock` of the instance's run directory, each a
//! little-endian `u32` length followed by that many bytes of JSON. JSON, so that a command line of
//! one version can talk to an agent of another: unknown fields are ignored, missing ones have
//! defaults.

pub use crate::docker_config::DockerConfig;
use lamina_flist::BlobId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest request or answer accepted, in bytes.
pub const FRAME_MAX: usize = 64 << 20;

/// A call to the node agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Request {
    /// Mount a flist; answers when the mount is ready.
    Mount(Box<MountCall>),
    /// Unmount a target.
    Umount(UmountCall),
    /// List this instance's mounts.
    Mounts(MountsCall),
    /// Fetch data of a mount ahead of use; answers when it is local.
    Prefetch(PrefetchCall),
    /// Fetch parts of a blob that mounts use, because other nodes wait for them here; answers at once.
    Bring(BringCall),
    /// Write profiles, seal what nobody uses, and end the agent and the mount daemon.
    /// Refused while mounts exist.
    Shutdown,
}

/// How the kernel is given a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum ModeRequest {
    /// The best this kernel supports.
    #[default]
    Auto,
    /// EROFS, file-backed.
    Erofs,
    /// EROFS over loop devices.
    ErofsLoop,
    /// FUSE for the whole tree.
    Fuse,
}

/// What holds the changes of a writable union that are bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Medium {
    /// Memory of the machine, as it is written.
    #[default]
    Memory,
    /// The disk of `upper`, all of the bound's size from the start.
    Disk,
}

impl Medium {
    /// As in `in memory`, `on disk`.
    pub fn place(self) -> &'static str {
        match self {
            Self::Memory => "in memory",
            Self::Disk => "on disk",
        }
    }
}

/// Arguments of [`Request::Mount`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MountCall {
    /// The flist file, absolute.
    pub flist: PathBuf,
    /// The directory to mount on, absolute.
    pub target: PathBuf,
    /// Directory that keeps the changes of a writable union, absolute; read-only without it.
    #[serde(default)]
    pub upper: Option<PathBuf>,
    /// Most bytes of changes: they are kept in a file system of this size instead, that is
    /// mounted on `upper` for a moment and ends with the union. Writes beyond it give `ENOSPC`.
    #[serde(default)]
    pub upper_bytes_max: Option<u64>,
    /// Where that file system is.
    #[serde(default)]
    pub upper_medium: Medium,
    /// Show this directory of the flist; its root without it. Symbolic links on the way are followed as
    /// in a root file system of its own: they never lead out.
    #[serde(default)]
    pub sub_path: Option<String>,
    /// The image it was made of, by digest, where its layers can be pulled; else what the flist says.
    #[serde(default)]
    pub image: Option<String>,
    /// Who may pull that image, if not everybody: for its registry alone. Held while it is mounted, and not put on record.
    #[serde(default, skip_serializing_if = "DockerConfig::is_empty")]
    pub docker_config: DockerConfig,
    /// Way of mounting.
    #[serde(default)]
    pub mode: ModeRequest,
    /// Stores to read from instead of the flist's own.
    #[serde(default)]
    pub stores: Vec<String>,
    /// Store credentials of the caller, as environment variables.
    #[serde(default)]
    pub store_env: BTreeMap<String, String>,
    /// New bound of the cache, bytes.
    #[serde(default)]
    pub cache_size: Option<u64>,
    /// New expiry of unused cache data, seconds.
    #[serde(default)]
    pub cache_expire_s: Option<u64>,
    /// Honour device files and setuid bits.
    #[serde(default)]
    pub trusted: bool,
    /// Prefetch along the access profile.
    #[serde(default)]
    pub prefetch: bool,
    /// Until when the caller waits, by [`clock_ms`]: then what was begun is undone.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
}

/// Milliseconds on a clock that every process of the machine shares and nobody sets.
pub fn clock_ms() -> u64 {
    crate::sys::monotonic_ms()
}

/// Arguments of [`Request::Umount`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UmountCall {
    /// The mounted directory, absolute.
    pub target: PathBuf,
    /// Detach although busy.
    #[serde(default)]
    pub force: bool,
    /// Deadline, milliseconds.
    pub timeout_ms: u64,
}

/// Arguments of [`Request::Mounts`].
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MountsCall {
    /// Look how much of each image the kernel has in memory, too: a few hundred system calls for each.
    pub resident: bool,
}

/// Arguments of [`Request::Prefetch`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PrefetchCall {
    /// The mounted directory, absolute.
    pub target: PathBuf,
    /// Paths inside the flist; empty means everything.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Only what the access profile names.
    #[serde(default)]
    pub profile: bool,
}

/// Arguments of [`Request::Bring`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BringCall {
    /// Which.
    pub blob: BlobId,
    /// Entries of its map; those that do not exist are left out.
    pub entries: Vec<u32>,
}

/// A good answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Of [`Request::Mount`].
    Mounted(Box<MountInfo>),
    /// Of [`Request::Mounts`].
    Mounts {
        /// Every mount of the instance, by target.
        mounts: Vec<MountInfo>,
        /// The instance's cache.
        cache: CacheInfo,
    },
    /// Of [`Request::Prefetch`].
    Prefetched {
        /// Bytes that were fetched, after decompression.
        bytes: u64,
    },
    /// Of [`Request::Bring`].
    Coming {
        /// Whether all of it is here or on its way.
        all: bool,
    },
    /// Of the calls that have nothing to say.
    Done,
}

/// What became of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountState {
    /// At its target, and served.
    #[default]
    Mounted,
    /// At its target, but missing data cannot be had; the note says why.
    Degraded,
    /// Not at its target any more, and served for those who still have files open.
    Detached,
}

/// One mount and what it did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MountInfo {
    /// Where it is mounted.
    pub target: PathBuf,
    /// Whether it is there and can be read.
    pub state: MountState,
    /// What is wrong with a mount that is not `mounted`, and what to do; in the answer of
    /// [`Request::Mount`] what looks wrong.
    pub note: String,
    /// The flist file given by the user.
    pub flist: PathBuf,
    /// The flist's digest, hex.
    pub digest: String,
    /// `erofs`, `erofs-loop` or `fuse`.
    pub mode: String,
    /// Upper directory of a writable union.
    pub upper: Option<PathBuf>,
    /// Most bytes of changes, when they end with the mount.
    pub upper_bytes_max: Option<u64>,
    /// Where they are then.
    pub upper_medium: Medium,
    /// The directory of the flist that is shown, unless its root.
    pub sub_path: Option<String>,
    /// Files, directories and other entries.
    pub entries: u64,
    /// File data of the image, bytes.
    pub bytes_total: u64,
    /// Of them on this machine.
    pub bytes_local: u64,
    /// Bytes brought by this instance for this image since it was mounted, after decompression.
    pub bytes_fetched: u64,
    /// Of them, those that other nodes gave.
    pub bytes_from_peers: u64,
    /// Of them, those read from the flist's stores.
    pub bytes_from_stores: u64,
    /// Of them, those of layers that this node read from their registry itself.
    pub bytes_from_registry: u64,
    /// Of what other nodes gave, what a reader waited for.
    pub bytes_waited_peers: u64,
    /// The same of stores.
    pub bytes_waited_stores: u64,
    /// The same of registries.
    pub bytes_waited_registry: u64,
    /// Bytes that travelled for that, compressed.
    pub bytes_transferred: u64,
    /// Reads that reached the mount daemon.
    pub reads: u64,
    /// Of them answered from local data without waiting.
    pub reads_local: u64,
    /// Reads that failed, with `EIO`.
    pub reads_failed: u64,
    /// When the first of the reads came, milliseconds since the Unix epoch; 0: none has come.
    pub first_read_unix_ms: u64,
    /// Bytes that reads were answered with, by the mount daemon: what was not in the kernel's memory.
    pub bytes_read: u64,
    /// Of them, those answered from local data without waiting.
    pub bytes_read_local: u64,
    /// Of the image's bytes, what the kernel has in memory now: an estimate ([`MountsCall::resident`]).
    pub bytes_resident: Option<u64>,
    /// Bytes that were fetched on a guess: along the profile, from hints, ahead of a reader.
    pub bytes_prefetched: u64,
    /// Of them, those that were read since.
    pub bytes_prefetched_used: u64,
    /// Why data could not be had the last time; empty when that has not happened to this agent.
    pub last_error: String,
    /// Chunks brought by prefetch before anybody asked.
    pub chunks_prefetched: u64,
    /// Chunks somebody had to wait for.
    pub chunks_demanded: u64,
    /// `recorded` (here), `shared` (by other nodes), `static` or `none`: the access profile in use.
    pub profile: String,
    /// Time the mount call took inside the agent, microseconds.
    pub ready_us: u64,
    /// How much the kernel reads ahead on this mount, KiB: its default while data is missing, the
    /// cache disk's own once all is local. None where the mount has no such figure of its own.
    pub read_ahead_kb: Option<u32>,
}

/// The node cache of an instance.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheInfo {
    /// Its directory.
    pub dir: PathBuf,
    /// Bytes on disk now.
    pub bytes: u64,
    /// Most bytes allowed.
    pub bytes_max: u64,
    /// Age after which unused data goes, seconds; none: never.
    pub expire_s: Option<u64>,
    /// What other nodes were asked for it.
    pub peers: PeerCounts,
}

/// Requests to other nodes for what is missing in the cache, since the agent was started, by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerCounts {
    /// With right bytes.
    pub good: u64,
    /// The node had no time.
    pub busy: u64,
    /// Without an answer, with a broken one, or too slowly.
    pub failed: u64,
    /// With bytes that are not what was asked for.
    pub wrong: u64,
    /// Before their end: another node was faster, or it had nothing of it.
    pub dropped: u64,
    /// Of all of them, those that were begun beside another one that was slow.
    pub hedges: u64,
}

/// What kind of failure a call met; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The caller asked for something impossible.
    Invalid,
    /// Flist, target or object does not exist.
    NotFound,
    /// Not permitted.
    Denied,
    /// Somebody is using it.
    Busy,
    /// A store or daemon cannot be reached.
    Unavailable,
    /// A deadline passed.
    Timeout,
    /// Bytes do not match their digest.
    Integrity,
    /// Disk, cache or another limit is full.
    Exhausted,
    /// Anything else.
    Other,
}

/// A refused or failed call.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// What was tried, where, and what to do.
    pub message: String,
}

/// Why a call got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The agent refused or failed.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The agent dies whenever it is started.
    #[error("the agent cannot start")]
    CannotStart(#[source] Failure),
    /// No agent listens there.
    #[error(
        "no lamina agent answers at {}; the log beside it may say why, `lamina mount` starts it again",
        .path.display()
    )]
    NoAgent {
        /// The socket tried.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The agent did not answer in time.
    #[error(
        "the agent at {} did not answer within {timeout:?}; the log beside it may say why, and \
         killing its process is safe: it is started again and finds its mounts",
        .path.display()
    )]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        timeout: Duration,
    },
    /// The conversation broke.
    #[error("talk to the agent at {}", .path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

/// Makes one call and waits for its answer.
///
/// While the agent restarts (connection refused or closed before an answer) the call is sent again
/// until `timeout` has passed: every call may be repeated without harm.
///
/// # Errors
/// See [`CallError`].
pub fn call(socket: &Path, request: &Request, timeout: Duration) -> Result<Answer, CallError> {
    call_starting(socket, request, timeout, || Ok(()))
}

/// As [`call`], doing `start` whenever nobody listens: to start the agent that will.
///
/// # Errors
/// See [`CallError`]; that of a failing `start`.
pub fn call_starting(
    socket: &Path,
    request: &Request,
    timeout: Duration,
    mut start: impl FnMut() -> Result<(), CallError>,
) -> Result<Answer, CallError> {
    let deadline = Instant::now() + timeout;
    let path = socket.to_owned();
    loop {
        let error = match call_once(socket, request, deadline) {
            Ok(answer) => return answer.map_err(CallError::Failed),
            Err(error) => error,
        };
        let late = Instant::now() >= deadline;
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                return Err(CallError::Timeout { path, timeout });
            }
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                if late {
                    return Err(CallError::NoAgent {
                        path,
                        source: error,
                    });
                }
                start()?;
            }
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
                if !late => {}
            _ => {
                return Err(CallError::Broken {
                    path,
                    source: error,
                });
            }
        }
        std::thread::sleep(RETRY);
    }
}

/// Between two tries: short beside a restart, long beside a connect.
const RETRY: Duration = Duration::from_millis(2);

fn call_once(
    socket: &Path,
    request: &Request,
    deadline: Instant,
) -> io::Result<Result<Answer, Failure>> {
    let mut stream = UnixStream::connect(socket)?;
    let left = deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))?;
    stream.set_write_timeout(Some(left))?;
    stream.write_all(&encode(request)?)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; checked_length(length)?];
    stream.read_exact(&mut body)?;
    decode(&body)
}

/// A message as it goes over the socket.
pub(crate) fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    if body.len() > FRAME_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "message too long",
        ));
    }
    let mut frame = (body.len() as u32).to_le_bytes().to_vec();
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// The length a frame announces, refused when out of bounds.
pub(crate) fn checked_length(length: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "frame longer than allowed",
        ));
    }
    Ok(length)
}

/// The message in a frame's body.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    Ok(serde_json::from_slice(body)?)
}
