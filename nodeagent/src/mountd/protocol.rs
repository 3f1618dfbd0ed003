//! Control messages of the mount daemon, and their client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lamina_flist::{BlobId, ProfileRange};
use lamina_mount::blobfs::BlobStats;
use serde::{Deserialize, Serialize};

use crate::wire::{Client, WireError};

/// Name of the control socket in the run directory.
pub const MOUNTD_SOCKET: &str = "mountd.sock";

/// A blob to serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRegistration {
    /// Its id.
    pub id: BlobId,
    /// Its directory in the cache, opened by its writer before.
    pub dir: PathBuf,
}

/// A blob that is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisteredBlob {
    /// Its id.
    pub id: BlobId,
    /// Its directory in the cache.
    pub dir: PathBuf,
    /// The file to give to EROFS as a device.
    pub path: PathBuf,
}

/// What is mounted, as the mount daemon remembers it for whoever comes after
/// the agent that mounted it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// Unique name of the mount.
    pub id: String,
    /// The flist mounted.
    pub flist: PathBuf,
    /// Where.
    pub target: PathBuf,
    /// How (`erofs`, `erofs-loop`, `fuse`).
    pub mode: String,
    /// Its blobs in table order; they stay registered as long as the record.
    pub blobs: Vec<BlobId>,
    /// Anything else the agent wants to find again.
    pub extra: BTreeMap<String, String>,
}

impl MountRecord {
    const DEAD: &str = "dead";

    /// Whether nobody can answer this mount's reads any more: the connection it was mounted over
    /// ended with all of its daemons. Only mounting again helps.
    pub fn is_dead(&self) -> bool {
        self.extra.contains_key(Self::DEAD)
    }

    /// Its connection has ended. A mount that needs none lives on.
    pub(super) fn bury(&mut self) {
        if !self.blobs.is_empty() || self.mode == "fuse" {
            self.blobs.clear();
            self.extra.insert(Self::DEAD.to_owned(), String::new());
        }
    }
}

/// A flist served as a whole tree over FUSE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeMount {
    /// The flist, checked before.
    pub flist: PathBuf,
    /// The directory it is mounted on.
    pub at: PathBuf,
    /// Its blobs in table order, all of them registered.
    pub blobs: Vec<BlobId>,
}

/// A watched file system; see [`MountdClient::watch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Number of the watch.
    pub id: i32,
    /// Device of the file system.
    pub device: u32,
}

impl Watch {
    /// Major and minor of the device, as the mount table has them.
    pub fn device_numbers(&self) -> (u32, u32) {
        // The kernel's own layout (linux/kdev_t.h), not that of stat(2).
        (self.device >> 20, self.device & 0xf_ffff)
    }
}

/// Counters of the daemon since it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountdStats {
    /// Its process.
    pub pid: u32,
    /// Whether the connection to the agent stands.
    pub agent_connected: bool,
    /// Fills asked for and not answered yet.
    pub fills_pending: u64,
    /// Per blob, by id.
    pub blobs: BTreeMap<BlobId, BlobStats>,
}

/// What the daemon can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Request {
    Ping,
    RegisterBlobs(Vec<BlobRegistration>),
    Unregister(Vec<BlobId>),
    ListBlobs,
    ListMounts,
    PutMountRecord(MountRecord),
    RemoveMountRecord { id: String },
    MountTree(TreeMount),
    Watch { at: PathBuf },
    ListWatches,
    Stats,
    RecordTouches { name: String, blobs: Vec<BlobId> },
    Touches { name: String },
    ForgetTouches { name: String },
    Shutdown { force: bool },
}

/// A [`ProfileRange`] on the wire: blob, first entry, entries.
pub(super) type Touched = (u16, u32, u32);

/// What it answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Reply {
    Done,
    Blobs(Vec<RegisteredBlob>),
    Mounts(Vec<MountRecord>),
    Watches(Vec<Watch>),
    Stats(MountdStats),
    Touches(Option<Vec<Touched>>),
    Failed { kind: ErrorKind, message: String },
}

/// What kind of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    /// A mount record needs it.
    InUse,
    /// There is no such blob or record.
    NotFound,
    /// The blob's files are not what they must be.
    Damaged,
    /// The daemon could not write its state, or something else broke.
    Internal,
}

/// A call to the mount daemon failed.
#[derive(Debug, thiserror::Error)]
pub enum MountdError {
    /// It could not be talked to.
    #[error("talk to the mount daemon")]
    Wire(#[from] WireError),
    /// It refused.
    #[error("the mount daemon refused: {message}")]
    Refused {
        /// What kind of refusal.
        kind: ErrorKind,
        /// In words.
        message: String,
    },
    /// It answered something else than was asked.
    #[error("unexpected answer of the mount daemon")]
    Unexpected,
}

/// How long any call may take: registering hashes blob maps, nothing is slow.
const CALL_DEADLINE: Duration = Duration::from_secs(20);

/// A connection to the mount daemon. Blocking: from async code use
/// `spawn_blocking`. After an error, connect again.
///
/// A daemon that is killed meanwhile is waited for again: what was asked may
/// have been done, and doing it again is harmless.
#[derive(Debug)]
pub struct MountdClient {
    client: Client,
    run_dir: PathBuf,
    patience: Duration,
}

impl MountdClient {
    /// Connects to the mount daemon of a run directory, waiting up to
    /// `patience` for one that is being restarted.
    ///
    /// # Errors
    /// [`MountdError::Wire`].
    pub fn connect(run_dir: &Path, patience: Duration) -> Result<Self, MountdError> {
        /// Short beside any restart, long beside a connect.
        const RETRY: Duration = Duration::from_millis(5);
        let path = run_dir.join(MOUNTD_SOCKET);
        let end = Instant::now() + patience;
        loop {
            // A daemon that is being killed may still have taken the connect:
            // only an answer proves that it is there.
            let answered = Client::connect(&path, CALL_DEADLINE).and_then(|mut client| {
                let _pong: Reply = client.call(&Request::Ping)?;
                Ok(client)
            });
            match answered {
                Err(WireError::Connect { .. } | WireError::Io(_) | WireError::Closed)
                    if Instant::now() < end =>
                {
                    std::thread::sleep(RETRY);
                }
                Err(error) => return Err(error.into()),
                Ok(client) => {
                    return Ok(Self {
                        client,
                        run_dir: run_dir.to_owned(),
                        patience,
                    });
                }
            }
        }
    }

    /// Asks whether it is there.
    ///
    /// # Errors
    /// See [`MountdError`]; so for every call.
    pub fn ping(&mut self) -> Result<(), MountdError> {
        self.done(&Request::Ping)
    }

    /// Serves blobs; those it serves already keep their node, and are opened
    /// again if their data file was replaced. In the order given.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`]: none of them was added then.
    pub fn register_blobs(
        &mut self,
        blobs: Vec<BlobRegistration>,
    ) -> Result<Vec<RegisteredBlob>, MountdError> {
        self.blobs(&Request::RegisterBlobs(blobs))
    }

    /// Stops serving blobs. Unknown ones are ignored.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] if a mount record names one: none is removed then.
    pub fn unregister(&mut self, blobs: Vec<BlobId>) -> Result<(), MountdError> {
        self.done(&Request::Unregister(blobs))
    }

    /// The blobs served.
    ///
    /// # Errors
    /// See [`MountdError`].
    pub fn list_blobs(&mut self) -> Result<Vec<RegisteredBlob>, MountdError> {
        self.blobs(&Request::ListBlobs)
    }

    /// The mount records.
    ///
    /// # Errors
    /// See [`MountdError`].
    pub fn list_mounts(&mut self) -> Result<Vec<MountRecord>, MountdError> {
        match self.call(&Request::ListMounts)? {
            Reply::Mounts(mounts) => Ok(mounts),
            _ => Err(MountdError::Unexpected),
        }
    }

    /// Adds a mount record, or replaces the one with its id.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if one of its blobs is not registered.
    pub fn put_mount_record(&mut self, record: MountRecord) -> Result<(), MountdError> {
        self.done(&Request::PutMountRecord(record))
    }

    /// Forgets a mount record; unknown ones are ignored.
    ///
    /// # Errors
    /// See [`MountdError`].
    pub fn remove_mount_record(&mut self, id: &str) -> Result<(), MountdError> {
        self.done(&Request::RemoveMountRecord { id: id.to_owned() })
    }

    /// Mounts a flist over FUSE at an existing directory; doing it again is
    /// harmless. It is served until it is unmounted.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if one of its blobs is not registered,
    /// [`ErrorKind::Damaged`] if the flist cannot be opened.
    pub fn mount_tree(&mut self, tree: TreeMount) -> Result<(), MountdError> {
        self.done(&Request::MountTree(tree))
    }

    /// Watches the file system mounted at `at` until it ends: not when it is unmounted there, but
    /// when nobody uses it any more, wherever.
    ///
    /// # Errors
    /// See [`MountdError`].
    pub fn watch(&mut self, at: &Path) -> Result<Watch, MountdError> {
        let at = at.to_owned();
        let watches = self.watches(&Request::Watch { at })?;
        watches.first().copied().ok_or(MountdError::Unexpected)
    }

    /// The watches whose file systems exist.
    ///
    /// # Errors
    /// See [`MountdError`].
    pub fn list_watches(&mut self) -> Result<Vec<Watch>, MountdError> {
        self.watches(&Request::ListWatches)
    }

    /// Counters.
    ///
    /// # Errors
    /// See [`MountdError`].
    pub fn stats(&mut self) -> Result<MountdStats, MountdError> {
        match self.call(&Request::Stats)? {
            Reply::Stats(stats) => Ok(stats),
            _ => Err(MountdError::Unexpected),
        }
    }

    /// Records in which order entries of blobs are first read from now on, under a name; begins anew if
    /// there is such a recording. A daemon that is killed forgets it.
    ///
    /// # Errors
    /// See [`MountdError`].
    pub fn record_touches(&mut self, name: &str, blobs: Vec<BlobId>) -> Result<(), MountdError> {
        let name = name.to_owned();
        self.done(&Request::RecordTouches { name, blobs })
    }

    /// What was recorded so far, blobs numbered as they were given; `None` without such a recording.
    ///
    /// # Errors
    /// See [`MountdError`].
    pub fn touches(&mut self, name: &str) -> Result<Option<Vec<ProfileRange>>, MountdError> {
        let name = name.to_owned();
        let Reply::Touches(touched) = self.call(&Request::Touches { name })? else {
            return Err(MountdError::Unexpected);
        };
        let range = |(blob, first_entry, count)| ProfileRange {
            blob,
            first_entry,
            count,
        };
        Ok(touched.map(|ranges| ranges.into_iter().map(range).collect()))
    }

    /// Ends a recording; unknown ones are ignored.
    ///
    /// # Errors
    /// See [`MountdError`].
    pub fn forget_touches(&mut self, name: &str) -> Result<(), MountdError> {
        let name = name.to_owned();
        self.done(&Request::ForgetTouches { name })
    }

    /// Ends the daemon for good: its file system is unmounted, its exit code 0.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] while there are mount records, unless `force`.
    pub fn shutdown(&mut self, force: bool) -> Result<(), MountdError> {
        self.done(&Request::Shutdown { force })
    }

    fn done(&mut self, request: &Request) -> Result<(), MountdError> {
        match self.call(request)? {
            Reply::Done => Ok(()),
            _ => Err(MountdError::Unexpected),
        }
    }

    fn blobs(&mut self, request: &Request) -> Result<Vec<RegisteredBlob>, MountdError> {
        match self.call(request)? {
            Reply::Blobs(blobs) => Ok(blobs),
            _ => Err(MountdError::Unexpected),
        }
    }

    fn watches(&mut self, request: &Request) -> Result<Vec<Watch>, MountdError> {
        match self.call(request)? {
            Reply::Watches(watches) => Ok(watches),
            _ => Err(MountdError::Unexpected),
        }
    }

    fn call(&mut self, request: &Request) -> Result<Reply, MountdError> {
        let end = Instant::now() + self.patience;
        let mut answer = self.client.call(request);
        while was_cut_off(&answer) && Instant::now() < end && may_repeat(request) {
            *self = Self::connect(&self.run_dir, self.patience)?;
            answer = self.client.call(request);
        }
        match answer? {
            Reply::Failed { kind, message } => Err(MountdError::Refused { kind, message }),
            reply => Ok(reply),
        }
    }
}

/// Whether the other side went away, not: was too slow.
fn was_cut_off(answer: &Result<Reply, WireError>) -> bool {
    use std::io::ErrorKind as K;
    match answer {
        Err(WireError::Closed) => true,
        Err(WireError::Io(error)) => matches!(
            error.kind(),
            K::BrokenPipe | K::ConnectionReset | K::UnexpectedEof
        ),
        _ => false,
    }
}

/// A daemon that was told to end is not to be waited for.
fn may_repeat(request: &Request) -> bool {
    !matches!(request, Request::Shutdown { .. })
}
