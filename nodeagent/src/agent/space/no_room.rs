//! Why data is refused, and what to do about it.

use std::path::PathBuf;

/// Why there is no room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoRoom {
    #[error(
        "the cache is full and nothing in it can be dropped: raise --cache-size (now {max} bytes) or unmount something"
    )]
    Full { max: u64 },
    #[error(
        "the cache is full of what other readers wait for: raise --cache-size (now {max} bytes)"
    )]
    Taken { max: u64 },
    #[error("{needed} bytes are needed at once, and the cache may hold {max}: raise --cache-size")]
    TooSmall { needed: u64, max: u64 },
    #[error(
        "the disk of the cache {} is full (the cache has {used} bytes of the {max} it may) and nothing in the cache can be dropped: free space on that disk, unmount something, or put the cache elsewhere with --cache",
        .cache.display()
    )]
    DiskFull { cache: PathBuf, used: u64, max: u64 },
}
