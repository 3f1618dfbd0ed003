//! A flist that is mounted: its one mount, its blobs, its access profile.

use crate::agent::ahead::{Ahead, Step};
use crate::agent::flists::Admitted;
use crate::agent::guide::Guide;
use crate::agent::prefetch;
use crate::agent::resident::Places;
use crate::agent::sources::Source;
use crate::api::{MountCall, MountInfo, MountState};
use crate::docker_config::DockerConfig;
use crate::mountd::Watch;
use lamina_flist::{BlobId, FlistDigest, Profile, ProfileSource};
use lamina_mount::blobfs::BlobStats;
use lamina_mount::probe::Mode;
use lamina_mount::read_ahead::Bdi;
use lamina_mount::union::UpperDirs;
use lamina_mount::unmount::mountinfo::MountIdentity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// A flist in use: one per digest, whatever the number of its mounts.
#[derive(Debug)]
pub(crate) struct LiveFlist {
    pub(crate) digest: FlistDigest,
    pub(crate) admitted: Admitted,
    pub(crate) sources: Vec<Arc<Source>>,
    pub(crate) mode: Mode,
    /// Where its one mount is; targets are bound or overlaid from here.
    pub(crate) mount_point: PathBuf,
    /// Blobs the mount daemon serves; the others were complete and are read by the kernel alone.
    pub(crate) served: Vec<BlobId>,
    /// Lives as long as its file system, which open files keep after every target is gone; `None`
    /// where the kernel could not be asked.
    pub(crate) watch: Option<Watch>,
    /// What sets the read-ahead of its mount, where that is known.
    pub(crate) bdi: Option<Bdi>,
    /// The profile that prefetch follows.
    pub(crate) profile: Option<Profile>,
    /// Whether it follows what starts on other nodes read.
    pub(crate) follows_others: AtomicBool,
    /// What is to be fetched before anybody asks.
    pub(crate) ahead: Arc<Ahead>,
    /// What files need, and how far that was followed.
    pub(crate) guide: Guide,
    /// When it was mounted, or found mounted.
    pub(crate) since: Instant,
    /// Whether its profile has been learnt.
    pub(crate) learned: AtomicBool,
    /// Where to look how much of it is in memory; `None` inside when that cannot be said.
    pub(crate) places: OnceLock<Option<Places>>,
}

impl LiveFlist {
    /// Bytes of all blobs, and of them on this machine.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let total = self.sources.iter().map(|source| source.bytes_total()).sum();
        let local = self.sources.iter().map(|source| source.bytes_local()).sum();
        (total, local)
    }

    /// Its layers are pulled with these credentials where nobody has them, for as long as somebody holds them.
    pub(crate) fn lend(&self, config: &Arc<DockerConfig>) {
        for source in &self.sources {
            source.lend(&self.digest, config);
        }
    }

    /// Plain bytes brought since the blobs were opened.
    pub(crate) fn bytes_fetched(&self) -> u64 {
        self.sources
            .iter()
            .map(|source| source.counts.bytes())
            .sum()
    }

    /// How many of its bytes the kernel has in memory, about; blocks.
    pub(crate) fn bytes_resident(&self) -> Option<u64> {
        let places = self.places.get_or_init(|| {
            let flist = &self.admitted.flist;
            let made = Places::of(flist);
            let failed = |error| tracing::warn!(flist = %self.digest, %error, "look for files");
            made.map_err(failed).ok()
        });
        let (total, _) = self.bytes();
        places.as_ref()?.resident(&self.mount_point, total)
    }

    /// What to bring because of a demand for entries of a blob: what their files need, in likely order
    /// of use, each file once; then dense places. `None` if the blob is another flist's.
    pub(crate) fn expected_after(&self, source: &Source, entries: &[u32]) -> Option<Vec<Step>> {
        let place = self.sources.iter().position(|held| held.id == source.id)?;
        let held = &self.sources[place];
        let mut steps = Vec::new();
        for &entry in entries {
            if self.guide.is_learnt(place as u16, entry) {
                continue;
            }
            let needed = self.guide.follow(place as u16, entry);
            steps.extend(prefetch::profile_steps(self, &needed));
            let dense = held.dense_around(entry).into_iter();
            steps.extend(dense.map(|range| (Arc::clone(held), range)));
        }
        Some(steps)
    }

    /// Places in the blob table of the blobs whose reads the mount daemon sees.
    pub(crate) fn places_served(&self) -> Vec<u16> {
        let served = self.sources.iter().zip(0u16..);
        let served = served.filter(|(source, _)| self.served.contains(&source.id));
        served.map(|(_, place)| place).collect()
    }

    /// Whether starts were seen here, or by whoever made the flist.
    pub(crate) fn is_started_before(&self) -> bool {
        self.profile_kind() == "recorded"
    }

    /// `recorded`, `shared`, `static` or `none`.
    pub(crate) fn profile_kind(&self) -> &'static str {
        if self.follows_others.load(Ordering::Relaxed) {
            return "shared";
        }
        match self.profile.as_ref().map(|profile| profile.source) {
            Some(ProfileSource::Recorded) => "recorded",
            Some(ProfileSource::Static) => "static",
            None => "none",
        }
    }
}

/// One target that shows a live flist.
#[derive(Debug)]
pub(crate) struct LiveMount {
    pub(crate) flist: Arc<LiveFlist>,
    pub(crate) extra: Extra,
    pub(crate) ready_us: AtomicU64,
    /// Keeps others from using the same UPPER for as long as its union lives.
    pub(crate) upper: Option<Arc<UpperDirs>>,
    /// Who mounted it, to the image's registry; nobody after an agent's restart, until it is mounted anew.
    pub(crate) docker_config: Option<Arc<DockerConfig>>,
}

impl LiveMount {
    /// What is left of it, see [`Extra::left`]; the lock on UPPER only if its union is.
    pub(crate) fn left(&self, extra: Extra) -> Self {
        Self {
            flist: Arc::clone(&self.flist),
            ready_us: self.ready_us.load(Ordering::Relaxed).into(),
            upper: self.upper.clone().filter(|_| extra.union.is_some()),
            docker_config: self.docker_config.clone(),
            extra,
        }
    }

    /// Its figures; `stats` are the mount daemon's, by blob.
    pub(crate) fn info(&self, stats: &BTreeMap<BlobId, BlobStats>) -> MountInfo {
        let live = &self.flist;
        let (bytes_total, bytes_local) = live.bytes();
        let mut info = MountInfo {
            target: self.extra.call.target.clone(),
            state: MountState::Mounted,
            flist: self.extra.call.flist.clone(),
            digest: live.digest.to_string(),
            mode: live.mode.to_string(),
            upper: self.extra.call.upper.clone(),
            upper_bytes_max: self.extra.call.upper_bytes_max,
            upper_medium: self.extra.call.upper_medium,
            sub_path: self.extra.call.sub_path.clone(),
            entries: live.admitted.flist.entry_count(),
            bytes_total,
            bytes_local,
            profile: live.profile_kind().to_owned(),
            ready_us: self.ready_us.load(Ordering::Relaxed),
            read_ahead_kb: live.bdi.as_ref().and_then(|bdi| bdi.read_ahead_kb().ok()),
            ..MountInfo::default()
        };
        let lasts = live.sources.iter().filter_map(|source| source.last_error());
        if let Some((_, last)) = lasts.max_by_key(|(at, _)| *at) {
            info.last_error = last;
        }
        for source in &live.sources {
            source.counts.add_to(&mut info);
            let (prefetched, used) = source.prefetched();
            info.bytes_prefetched += prefetched;
            info.bytes_prefetched_used += used;
            if let Some(stats) = stats.get(&source.id) {
                info.bytes_read += stats.bytes_local + stats.bytes_waited;
                info.bytes_read_local += stats.bytes_local;
                info.reads += stats.reads;
                info.reads_failed += stats.reads_failed;
                info.first_read_unix_ms = first(info.first_read_unix_ms, stats.first_read_unix_ms);
                info.reads_local += stats
                    .reads
                    .saturating_sub(stats.reads_waited + stats.reads_failed);
            }
        }
        info
    }
}

/// The earlier of two times, of which 0 is none.
fn first(one: u64, other: u64) -> u64 {
    match (one, other) {
        (0, only) | (only, 0) => only,
        both => both.0.min(both.1),
    }
}

/// What a successor of this agent must know of a mount beyond the mount daemon's own fields.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Extra {
    pub(crate) digest: FlistDigest,
    pub(crate) mode: Mode,
    pub(crate) call: MountCall,
    /// Which mount the target is.
    #[serde(default)]
    pub(crate) shown: Option<MountIdentity>,
    /// [`LiveFlist::watch`].
    #[serde(default)]
    pub(crate) watch: Option<Watch>,
    /// [`LiveFlist::mount_point`].
    #[serde(default)]
    pub(crate) mount_point: Option<PathBuf>,
    /// [`LiveFlist::bdi`].
    #[serde(default)]
    pub(crate) bdi: Option<Bdi>,
    /// A writable target's own file system, which open files keep after the target is gone, whatever
    /// other targets the flist has; `None` where the kernel could not be asked.
    #[serde(default)]
    pub(crate) union: Option<Watch>,
    /// Whether the target is gone, and only open files are left: of its union if it has one, else of
    /// the flist, whose last target it was.
    #[serde(default)]
    pub(crate) detached: bool,
}

impl Extra {
    const KEY: &str = "agent";

    /// Which file system a detached mount lives as long as.
    pub(crate) fn lives_by(&self) -> Option<Watch> {
        self.union.or(self.watch)
    }

    /// What is left of it when its target is gone, by the watches of what exists: its union, or else
    /// the flist.
    pub(crate) fn left(&self, watches: &[Watch]) -> Option<Self> {
        let exists = |watch: &Watch| watches.contains(watch);
        let union = self.union.filter(exists);
        let is_read = union.is_some() || self.watch.as_ref().is_some_and(exists);
        is_read.then(|| Self {
            union,
            detached: true,
            ..self.clone()
        })
    }

    /// As the mount daemon keeps it.
    pub(crate) fn encode(&self) -> std::collections::BTreeMap<String, String> {
        let text = serde_json::to_string(self).expect("plain data becomes JSON");
        [(Self::KEY.to_owned(), text)].into()
    }

    /// What an agent left with the mount daemon; `None` if it cannot be read.
    pub(crate) fn decode(extra: &std::collections::BTreeMap<String, String>) -> Option<Self> {
        serde_json::from_str(extra.get(Self::KEY)?).ok()
    }
}
