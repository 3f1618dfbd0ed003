//! Tests of the books: what goes, what stays, what is counted.

use super::*;
use lamina_flist::{BlobId, FlistDigest};
use lamina_mount::cache::{CacheError, Swept};
use std::sync::atomic::{AtomicU64, Ordering};

const MIB: u64 = 1 << 20;

struct Bench {
    dir: tempfile::TempDir,
    space: Arc<Space>,
}

impl Bench {
    fn flists(&self) -> PathBuf {
        self.dir.path().join("flists")
    }

    fn reopen(&mut self) {
        self.space = Arc::new(Space::open(self.dir.path()).unwrap());
    }

    fn used(&self) -> u64 {
        self.space.report().0
    }
}

fn write_aged(path: &Path, hours: u64) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, vec![1; MIB as usize]).unwrap();
    let used = SystemTime::now() - Duration::from_secs(3600 * hours);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(used).unwrap();
}

/// A cache of three 1 MiB blobs, `a` used longest ago.
fn bench() -> (Bench, [BlobId; 3]) {
    let dir = tempfile::tempdir().unwrap();
    let ids = [b"a", b"b", b"c"].map(|name| BlobId::of(name));
    for (age, id) in ids.iter().rev().enumerate() {
        let data = dir.path().join("blobs").join(id.to_string()).join("data");
        write_aged(&data, age as u64);
    }
    let space = Arc::new(Space::open(dir.path()).unwrap());
    (Bench { dir, space }, ids)
}

fn is_there(bench: &Bench, id: &BlobId) -> bool {
    bench.dir.path().join("blobs").join(id.to_string()).exists()
}

/// A blob in use: so many bytes that may go, and so many that somebody waits for.
#[derive(Debug)]
struct InUse {
    cold: AtomicU64,
    kept: bool,
    /// Where the same bytes are on disk.
    data: PathBuf,
}

impl InUse {
    fn watched(bench: &Bench, id: &BlobId, kept: bool) -> Arc<dyn Cold> {
        let blob: Arc<dyn Cold> = Arc::new(Self {
            cold: AtomicU64::new(MIB),
            kept,
            data: bench
                .dir
                .path()
                .join("blobs")
                .join(id.to_string())
                .join("data"),
        });
        bench.space.watch(&blob);
        blob
    }
}

impl Cold for InUse {
    fn sweep(&self, _from: usize, wanted: u64, press: Press) -> Result<Swept, CacheError> {
        let kept = self.kept && press == Press::Gently;
        let freed = match kept {
            true => 0,
            false => wanted
                .next_multiple_of(4096)
                .min(self.cold.load(Ordering::Relaxed)),
        };
        let left = self.cold.fetch_sub(freed, Ordering::Relaxed) - freed;
        std::fs::File::options()
            .write(true)
            .open(&self.data)
            .unwrap()
            .set_len(left)
            .unwrap();
        Ok(Swept {
            next: 1,
            freed,
            evicted: usize::from(freed > 0),
            kept: usize::from(kept),
        })
    }

    fn len(&self) -> usize {
        1
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

fn reserve(bench: &Bench, bytes: u64, urgency: Urgency) -> Result<Reservation, NoRoom> {
    runtime().block_on(bench.space.reserve(bytes, urgency))
}

#[test]
fn the_least_recently_used_blob_makes_room() {
    let (bench, [a, b, c]) = bench();
    bench
        .space
        .configure(Some(3 * MIB + MIB / 2), None)
        .unwrap();
    let reserved = bench.space.reserve_blocking(MIB);
    assert!(reserved.is_ok());
    assert_eq!(
        [&a, &b, &c].map(|id| is_there(&bench, id)),
        [false, true, true]
    );
}

#[test]
fn what_cannot_be_removed_does_not_keep_the_rest() {
    let (bench, [a, b, c]) = bench();
    // In the way of the removal.
    let in_the_way = bench.dir.path().join(format!("blobs/.evicted-{a}"));
    std::fs::write(&in_the_way, b"").unwrap();
    let max = 3 * MIB + MIB / 2;
    bench.space.configure(Some(max), None).unwrap();
    bench.space.reserve_blocking(MIB).unwrap();
    let there = |bench: &Bench| [&a, &b, &c].map(|id| is_there(bench, id));
    assert_eq!(there(&bench), [true, false, true]);
    bench.space.configure(None, Some(Duration::ZERO)).unwrap();
    assert_eq!(there(&bench), [true, false, false], "expired");
}

#[test]
fn a_removal_begun_before_is_finished() {
    let (bench, [a, b, _]) = bench();
    let begun = bench.dir.path().join(format!("blobs/.evicted-{a}"));
    std::fs::create_dir(&begun).unwrap();
    std::fs::write(begun.join("data"), b"rest").unwrap();
    let max = 3 * MIB + MIB / 2;
    bench.space.configure(Some(max), None).unwrap();
    bench.space.reserve_blocking(MIB).unwrap();
    assert_eq!([&a, &b].map(|id| is_there(&bench, id)), [false, true]);
    assert!(!begun.exists());
}

#[test]
fn leased_blobs_stay_and_new_data_is_refused_instead() {
    let (bench, ids) = bench();
    let _leases = ids.map(|id| bench.space.lease(Item::Blob(id)));
    let max = 3 * MIB + MIB / 2;
    bench.space.configure(Some(max), None).unwrap();
    let refused = bench.space.reserve_blocking(MIB).unwrap_err();
    assert_eq!(refused, NoRoom::Full { max });
    let refused = reserve(&bench, MIB, Urgency::Demand).unwrap_err();
    assert_eq!(refused, NoRoom::Full { max }, "nobody holds anything");
    assert!(ids.iter().all(|id| is_there(&bench, id)));
}

#[test]
fn what_can_never_fit_is_refused_with_both_figures() {
    let (bench, ids) = bench();
    let _leases = ids.map(|id| bench.space.lease(Item::Blob(id)));
    bench.space.configure(Some(4 * MIB), None).unwrap();
    let (needed, max) = (5 * MIB, 4 * MIB);
    let refused = reserve(&bench, needed, Urgency::Demand).unwrap_err();
    assert_eq!(refused, NoRoom::TooSmall { needed, max });
}

#[test]
fn cold_data_of_blobs_in_use_makes_room_for_readers_only() {
    let (bench, ids) = bench();
    let _leases = ids.map(|id| bench.space.lease(Item::Blob(id)));
    let _blobs = ids.map(|id| InUse::watched(&bench, &id, false));
    bench
        .space
        .configure(Some(3 * MIB + MIB / 2), None)
        .unwrap();
    assert!(reserve(&bench, MIB, Urgency::Ahead).is_err());
    assert!(
        reserve(&bench, MIB, Urgency::Follow).is_err(),
        "too much at once"
    );
    assert_eq!(bench.used(), 3 * MIB);
    drop(reserve(&bench, MIB / 4, Urgency::Follow).unwrap());
    let reserved = reserve(&bench, MIB, Urgency::Demand).unwrap();
    assert!(bench.used() <= 2 * MIB + MIB / 2);
    drop(reserved);
    bench.space.configure(Some(MIB), None).unwrap();
    assert!(bench.used() <= MIB, "a smaller bound is obeyed, too");
}

#[test]
fn a_reader_waits_for_what_others_hold_and_gets_it() {
    let (bench, ids) = bench();
    let _leases = ids.map(|id| bench.space.lease(Item::Blob(id)));
    bench.space.configure(Some(4 * MIB), None).unwrap();
    let held = bench.space.reserve_blocking(MIB).unwrap();
    runtime().block_on(async {
        let space = Arc::clone(&bench.space);
        let waiting = tokio::spawn(async move { space.reserve(MIB, Urgency::Demand).await });
        tokio::task::yield_now().await;
        drop(held);
        assert!(waiting.await.unwrap().is_ok());
    });
}

#[test]
fn what_a_reader_waits_for_is_no_reason_to_refuse_for_good() {
    let (bench, ids) = bench();
    let _leases = ids.map(|id| bench.space.lease(Item::Blob(id)));
    let _blob = InUse::watched(&bench, &ids[0], true);
    bench.space.configure(Some(3 * MIB), None).unwrap();
    let room = |press| bench.space.make_room(MIB / 2, press).unwrap();
    assert_eq!(room(Some(Press::Gently)), Room::Later);
    assert_eq!(room(None), Room::Never);
    let reserved = reserve(&bench, MIB / 2, Urgency::Demand);
    assert!(reserved.is_ok(), "what it holds goes if it takes too long");
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
    let _leases = ids.map(|id| bench.space.lease(Item::Blob(id)));
    bench
        .space
        .configure(Some(4 * MIB + MIB / 2), None)
        .unwrap();
    let first = bench.space.reserve_blocking(MIB);
    assert!(first.is_ok());
    assert!(bench.space.reserve_blocking(MIB).is_err());
    drop(first);
    assert!(bench.space.reserve_blocking(MIB).is_ok());
}

#[test]
fn bytes_that_land_are_counted_once() {
    let (bench, ids) = bench();
    let _leases = ids.map(|id| bench.space.lease(Item::Blob(id)));
    bench.space.configure(Some(5 * MIB), None).unwrap();
    let before = bench.used();
    let mut first = bench.space.reserve_blocking(MIB).unwrap();
    first.land(MIB / 2);
    first.land(MIB / 2);
    assert_eq!(bench.used(), before + MIB);
    // Landed, and not reserved any more: another MiB still fits.
    let second = bench.space.try_reserve(MIB);
    assert!(second.is_some());
    drop(first);
    assert_eq!(bench.space.books().reserved, MIB);
}

#[test]
fn expired_blobs_go_unless_leased() {
    let (bench, [a, b, c]) = bench();
    let lease = bench.space.lease(Item::Blob(a));
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
fn the_limits_outlive_the_agent() {
    let (mut bench, [a, ..]) = bench();
    let hour = Duration::from_secs(3600);
    bench.space.configure(Some(9 * MIB), None).unwrap();
    bench.space.configure(None, Some(hour)).unwrap();
    assert!(!is_there(&bench, &a));
    bench.reopen();
    let (_, max, expire) = bench.space.report();
    assert_eq!((max, expire), (9 * MIB, Some(hour)));
}

#[test]
fn copies_of_flists_count_and_go_when_nobody_uses_them() {
    let (mut bench, ids) = bench();
    let [used, unused] = [b"u", b"v"].map(|name| FlistDigest::of(name));
    for digest in [used, unused] {
        write_aged(&bench.flists().join(format!("{digest}.fl")), 5);
        std::fs::write(bench.flists().join(format!("{digest}.seal")), "{}").unwrap();
    }
    bench.reopen();
    assert!(bench.used() >= 5 * MIB, "{}", bench.used());
    let _leases = ids.map(|id| bench.space.lease(Item::Blob(id)));
    let _lease = bench.space.lease(Item::Flist(used));
    bench.space.configure(Some(3 * MIB), None).unwrap();
    let mut left: Vec<_> = std::fs::read_dir(bench.flists())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, [format!("{used}.fl"), format!("{used}.seal")]);
}

#[test]
fn what_a_killed_agent_left_half_done_is_removed_at_the_next_start() {
    let (mut bench, [a, ..]) = bench();
    let blobs = bench.dir.path().join("blobs");
    let doomed = blobs.join(format!(".evicted-{a}"));
    std::fs::rename(blobs.join(a.to_string()), doomed).unwrap();
    let digest = FlistDigest::of(b"u");
    let partial = bench.flists().join(format!(".{digest}.4711.tmp"));
    std::fs::write(&partial, "part of a flist").unwrap();
    let foreign = bench.flists().join("README");
    std::fs::write(&foreign, "somebody's").unwrap();
    bench.reopen();
    assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 2);
    assert!(!partial.exists());
    assert!(foreign.exists());
}
