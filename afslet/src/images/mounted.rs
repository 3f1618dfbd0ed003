//! One mounted image, and the right to use it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lamina_proto::lamina::v1::FlistInfo;
use lamina_runtime::image::ImageConfig;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};

use crate::error::RunError;

/// A mounted image.
#[derive(Debug)]
pub(crate) struct Mounted {
    volume_id: String,
    target: PathBuf,
    digest: String,
    config: ImageConfig,
    users: AtomicUsize,
}

impl Mounted {
    pub(super) fn new(volume_id: String, target: PathBuf, info: FlistInfo) -> Self {
        let config = serde_json::from_str(&info.image_config).unwrap_or_default();
        Self {
            volume_id,
            target,
            digest: info.digest,
            config: ImageConfig::of_json(&config),
            users: AtomicUsize::new(0),
        }
    }

    pub(super) fn volume_id(&self) -> &str {
        &self.volume_id
    }

    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Of its flist, hex.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// What it says about its command.
    pub(crate) fn config(&self) -> &ImageConfig {
        &self.config
    }

    pub(super) fn is_idle(&self) -> bool {
        self.users.load(Ordering::Acquire) == 0
    }

    /// Its root directory.
    pub(super) fn open(&self) -> Result<OwnedFd, RunError> {
        let gone = |why: &str| {
            let at = self.target.display();
            RunError::unavailable(format!("the image's mount at {at} {why}"))
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, &self.target, flags, Mode::empty());
        let opened = opened.map_err(|errno| gone(&format!("cannot be opened: {errno}")))?;
        // Of what the kernel knows: who answers for the mount may be about to be started again.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found = rustix::fs::statx(&opened, "", flags, StatxFlags::TYPE);
        let found = found.map_err(|errno| gone(&format!("does not answer: {errno}")))?;
        match found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            true => Ok(opened),
            false => Err(gone("is gone")),
        }
    }
}

/// The right to use a mounted image: it stays while this lives.
pub(crate) struct Lease {
    mounted: Arc<Mounted>,
    given_back: Box<dyn Fn() + Send + Sync>,
}

impl Lease {
    pub(super) fn new(
        mounted: Arc<Mounted>,
        given_back: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        mounted.users.fetch_add(1, Ordering::AcqRel);
        Self {
            mounted,
            given_back: Box::new(given_back),
        }
    }

    /// The image.
    pub(crate) fn mounted(&self) -> &Arc<Mounted> {
        &self.mounted
    }

    /// Whether it is there.
    pub(super) fn check(&self) -> Result<(), RunError> {
        self.mounted.open().map(drop)
    }

    /// Its root directory.
    ///
    /// # Errors
    /// When somebody unmounted it.
    pub(crate) fn open(&self) -> Result<OwnedFd, RunError> {
        self.mounted.open()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.mounted.users.fetch_sub(1, Ordering::AcqRel);
        (self.given_back)();
    }
}
