//! The cache's limits as its users set them, kept in the cache so that the next agent knows them.

use crate::rundir;
use serde::{Deserialize, Serialize};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

const NAME: &str = "limits.json";
const VERSION: u32 = 1;
/// Far above what is ever written: a file that is not ours is not read into memory.
const LEN_MAX: u64 = 4096;

/// What was asked for; nothing where nobody asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Most bytes on disk.
    pub(super) max: Option<u64>,
    /// Unused data goes after this long.
    pub(super) expire: Option<Duration>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    bytes_max: Option<u64>,
    expire_s: Option<u64>,
}

impl Limits {
    /// Reads the limits of a cache. A file that cannot be read or understood is no limits, and said
    /// so: a cache must open whatever happened to it.
    pub(super) fn load(cache: &Path) -> Self {
        let path = cache.join(NAME);
        match read(&path) {
            Ok(limits) => limits,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "limits unreadable: using the defaults until they are given again");
                Self::default()
            }
        }
    }

    /// Keeps the limits: whole or not at all, also after a power cut.
    pub(super) fn store(&self, cache: &Path) -> io::Result<()> {
        let stored = Stored {
            version: VERSION,
            bytes_max: self.max,
            expire_s: self.expire.map(|time| time.as_secs()),
        };
        rundir::replace_file(&cache.join(NAME), &serde_json::to_vec(&stored)?)
    }
}

fn read(path: &Path) -> io::Result<Limits> {
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let mut bytes = Vec::new();
    file.take(LEN_MAX).read_to_end(&mut bytes)?;
    let stored: Stored = serde_json::from_slice(&bytes)?;
    if stored.version != VERSION {
        let what = format!("version {}, this program knows {VERSION}", stored.version);
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(Limits {
        max: stored.bytes_max,
        expire: stored.expire_s.map(Duration::from_secs),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_back_as_they_were_stored() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Limits::load(dir.path()), Limits::default());
        let limits = Limits {
            max: Some(7),
            expire: Some(Duration::from_secs(60)),
        };
        limits.store(dir.path()).unwrap();
        assert_eq!(Limits::load(dir.path()), limits);
        assert!(!dir.path().join("limits.json.new").exists());
    }

    #[test]
    fn a_file_that_cannot_be_understood_is_no_limits() {
        let dir = tempfile::tempdir().unwrap();
        for text in [
            "",
            "{",
            "[]",
            r#"{"version":2,"bytes_max":1,"expire_s":null}"#,
            r#"{"version":1,"bytes_max":-1,"expire_s":null}"#,
            r#"{"version":1,"bytes_max":1,"expire_s":null,"more":1}"#,
        ] {
            std::fs::write(dir.path().join(NAME), text).unwrap();
            assert_eq!(Limits::load(dir.path()), Limits::default(), "{text}");
        }
    }
}
