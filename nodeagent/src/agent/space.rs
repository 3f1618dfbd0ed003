//! The cache's bound: what may come in, what has to go.
//!
//! Always holds: the bytes on disk plus the bytes reserved for what is being fetched stay below the
//! bound, or new data is refused. Leased blobs (those of live mounts) are never evicted; the others
//! go by age of last use, and once they have not been used for longer than the expiry.

use lamina_flist::BlobId;
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

/// Part of the free space a cache takes when nobody says how much: design, section 6.
const DEFAULT_SHARE: (u64, u64) = (60, 100);
/// Bound of the default: one terabyte, as above.
const DEFAULT_MAX: u64 = 1_000_000_000_000;

/// The cache's books.
#[derive(Debug)]
pub(crate) struct Space {
    blobs: PathBuf,
    books: Mutex<Books>,
}

#[derive(Debug)]
struct Books {
    used: u64,
    reserved: u64,
    max: u64,
    expire: Option<Duration>,
    leases: HashMap<BlobId, usize>,
}

/// Room kept for data under way; given back on drop.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    space: &'a Space,
    bytes: u64,
}

/// Protection of a blob from eviction, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Lease {
    space: std::sync::Arc<Space>,
    blob: BlobId,
}

impl Space {
    /// Opens the books of `<cache>/blobs`, counting what is there.
    pub(crate) fn open(cache: &Path) -> io::Result<Self> {
        let blobs = cache.join("blobs");
        std::fs::create_dir_all(&blobs)?;
        remove_half_evicted(&blobs)?;
        let used = scan(&blobs)?.iter().map(|blob| blob.bytes).sum();
        let books = Books {
            used,
            reserved: 0,
            max: default_max(cache, used)?,
            expire: None,
            leases: HashMap::new(),
        };
        Ok(Self {
            blobs,
            books: Mutex::new(books),
        })
    }

    /// Sets the bound and the expiry, where given, and makes the cache obey them.
    pub(crate) fn configure(&self, max: Option<u64>, expire: Option<Duration>) -> io::Result<()> {
        let mut books = self.books();
        books.max = max.unwrap_or(books.max);
        books.expire = expire.or(books.expire);
        self.expire(&mut books)?;
        self.make_room(&mut books, 0)
    }

    /// Bytes on disk, the bound, and the expiry.
    pub(crate) fn report(&self) -> (u64, u64, Option<Duration>) {
        let books = self.books();
        (books.used, books.max, books.expire)
    }

    /// Keeps `bytes` free for data about to arrive, evicting what nobody uses; `None` when the
    /// bound cannot be kept.
    pub(crate) fn reserve(&self, bytes: u64) -> Option<Reservation<'_>> {
        let mut books = self.books();
        if books.used + books.reserved + bytes > books.max
            && let Err(error) = self.make_room(&mut books, bytes)
        {
            tracing::warn!(%error, "evict from the cache");
        }
        if books.used + books.reserved + bytes > books.max {
            return None;
        }
        books.reserved += bytes;
        Some(Reservation { space: self, bytes })
    }

    /// Counts bytes that arrived on disk.
    pub(crate) fn add_used(&self, bytes: u64) {
        self.books().used += bytes;
    }

    /// Protects a blob; take the lease before opening the blob's files.
    pub(crate) fn lease(self: &std::sync::Arc<Self>, blob: BlobId) -> Lease {
        *self.books().leases.entry(blob).or_insert(0) += 1;
        Lease {
            space: std::sync::Arc::clone(self),
            blob,
        }
    }

    /// Drops unleased data unused for longer than the expiry. To be called now and then.
    pub(crate) fn expire_now(&self) -> io::Result<()> {
        self.expire(&mut self.books())
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().expect("no panic while keeping books")
    }

    fn expire(&self, books: &mut Books) -> io::Result<()> {
        let Some(expire) = books.expire else {
            return Ok(());
        };
        let now = SystemTime::now();
        for blob in scan(&self.blobs)? {
            let age = now.duration_since(blob.last_used).unwrap_or_default();
            if age > expire && !books.leases.contains_key(&blob.id) {
                self.evict(books, &blob)?;
            }
        }
        Ok(())
    }

    fn make_room(&self, books: &mut Books, bytes: u64) -> io::Result<()> {
        let mut found = scan(&self.blobs)?;
        books.used = found.iter().map(|blob| blob.bytes).sum();
        found.retain(|blob| !books.leases.contains_key(&blob.id));
        found.sort_by_key(|blob| blob.last_used);
        for blob in found {
            if books.used + books.reserved + bytes <= books.max {
                break;
            }
            self.evict(books, &blob)?;
        }
        Ok(())
    }

    /// Renames before deleting, so that a crash in between leaves no half blob under its name.
    fn evict(&self, books: &mut Books, blob: &OnDisk) -> io::Result<()> {
        let doomed = self.blobs.join(format!("{EVICTED}{}", blob.id));
        std::fs::rename(self.blobs.join(blob.id.to_string()), &doomed)?;
        std::fs::remove_dir_all(&doomed)?;
        books.used = books.used.saturating_sub(blob.bytes);
        tracing::info!(blob = %blob.id, bytes = blob.bytes, "evicted from the cache");
        Ok(())
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.space.books().reserved -= self.bytes;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut books = self.space.books();
        if let Some(count) = books.leases.get_mut(&self.blob) {
            *count -= 1;
            if *count == 0 {
                books.leases.remove(&self.blob);
            }
        }
    }
}

const EVICTED: &str = ".evicted-";

#[derive(Debug)]
struct OnDisk {
    id: BlobId,
    bytes: u64,
    last_used: SystemTime,
}

/// Blobs of the directory; what is not named like a blob is not ours and stays.
fn scan(blobs: &Path) -> io::Result<Vec<OnDisk>> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(blobs) {
        // Somebody emptied the cache while nothing was mounted: it is made again with the next blob.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| BlobId::from_str(name).ok()) else {
            continue;
        };
        let (bytes, last_used) = match measure(&entry.path()) {
            // Gone meanwhile, or no blob of ours for all its name.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                continue;
            }
            other => other?,
        };
        found.push(OnDisk {
            id,
            bytes,
            last_used,
        });
    }
    Ok(found)
}

/// Bytes allocated below a blob's directory, and when any of its files last changed.
fn measure(dir: &Path) -> io::Result<(u64, SystemTime)> {
    let mut bytes = 0;
    let mut last_used = SystemTime::UNIX_EPOCH;
    for entry in std::fs::read_dir(dir)? {
        let meta = match entry?.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        bytes += meta.blocks() * 512;
        last_used = last_used.max(meta.modified()?);
    }
    Ok((bytes, last_used))
}

fn remove_half_evicted(blobs: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(blobs)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(EVICTED) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn default_max(cache: &Path, used: u64) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(cache)?;
    let free = stat
        .f_bavail
        .saturating_mul(stat.f_frsize)
        .saturating_add(used);
    Ok((free / DEFAULT_SHARE.1 * DEFAULT_SHARE.0).min(DEFAULT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const MIB: u64 = 1 << 20;

    struct Bench {
        dir: tempfile::TempDir,
        space: Arc<Space>,
    }

    /// A cache of three 1 MiB blobs, `a` used longest ago.
    fn bench() -> (Bench, [BlobId; 3]) {
        let dir = tempfile::tempdir().unwrap();
        let ids = [b"a", b"b", b"c"].map(|name| BlobId::of(name));
        for (age, id) in ids.iter().rev().enumerate() {
            let blob = dir.path().join("blobs").join(id.to_string());
            std::fs::create_dir_all(&blob).unwrap();
            let data = blob.join("data");
            std::fs::write(&data, vec![1; MIB as usize]).unwrap();
            let used = SystemTime::now() - Duration::from_secs(3600 * age as u64);
            std::fs::File::options()
                .write(true)
                .open(&data)
                .unwrap()
                .set_modified(used)
                .unwrap();
        }
        let space = Arc::new(Space::open(dir.path()).unwrap());
        (Bench { dir, space }, ids)
    }

    fn is_there(bench: &Bench, id: &BlobId) -> bool {
        bench.dir.path().join("blobs").join(id.to_string()).exists()
    }

    #[test]
    fn the_least_recently_used_blob_makes_room() {
        let (bench, [a, b, c]) = bench();
        bench
            .space
            .configure(Some(3 * MIB + MIB / 2), None)
            .unwrap();
        let reserved = bench.space.reserve(MIB);
        assert!(reserved.is_some());
        assert_eq!(
            [&a, &b, &c].map(|id| is_there(&bench, id)),
            [false, true, true]
        );
    }

    #[test]
    fn leased_blobs_stay_and_new_data_is_refused_instead() {
        let (bench, ids) = bench();
        let _leases = ids.map(|id| bench.space.lease(id));
        bench
            .space
            .configure(Some(3 * MIB + MIB / 2), None)
            .unwrap();
        assert!(bench.space.reserve(MIB).is_none());
        assert!(ids.iter().all(|id| is_there(&bench, id)));
    }

    #[test]
    fn a_smaller_bound_is_obeyed_at_once() {
        let (bench, [a, b, c]) = bench();
        bench.space.configure(Some(MIB + MIB / 2), None).unwrap();
        assert_eq!(
            [&a, &b, &c].map(|id| is_there(&bench, id)),
            [false, false, true]
        );
    }

    #[test]
    fn reservations_count_until_they_are_dropped() {
        let (bench, ids) = bench();
        let _leases = ids.map(|id| bench.space.lease(id));
        bench
            .space
            .configure(Some(4 * MIB + MIB / 2), None)
            .unwrap();
        let first = bench.space.reserve(MIB);
        assert!(first.is_some());
        assert!(bench.space.reserve(MIB).is_none());
        drop(first);
        assert!(bench.space.reserve(MIB).is_some());
    }

    #[test]
    fn expired_blobs_go_unless_leased() {
        let (bench, [a, b, c]) = bench();
        let lease = bench.space.lease(a);
        bench
            .space
            .configure(None, Some(Duration::from_secs(1800)))
            .unwrap();
        assert_eq!(
            [&a, &b, &c].map(|id| is_there(&bench, id)),
            [true, false, true]
        );
        drop(lease);
        bench.space.expire_now().unwrap();
        assert!(!is_there(&bench, &a));
    }

    #[test]
    fn a_half_evicted_blob_is_removed_at_the_next_start() {
        let (bench, [a, ..]) = bench();
        let blobs = bench.dir.path().join("blobs");
        std::fs::rename(
            blobs.join(a.to_string()),
            blobs.join(format!("{EVICTED}{a}")),
        )
        .unwrap();
        Space::open(bench.dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 2);
    }
}
