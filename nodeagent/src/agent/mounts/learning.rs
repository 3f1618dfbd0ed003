//! Learning what a start reads, and fetching it ahead next time (design, section 8).
//!
//! The mount daemon notes first reads for a while after a flist was mounted; what it noted becomes the
//! flist's profile when the last mount ends, or now and then while it lives. All of it is best effort:
//! a lost profile costs time, never correctness.

use super::Agent;
use crate::agent::failure::{Result, failure, refused};
use crate::agent::live::{LiveFlist, LiveMount};
use crate::agent::sources::Source;
use crate::agent::{ahead::Ahead, prefetch};
use crate::api::{BringCall, FailureKind, MountCall, PrefetchCall};
use crate::mountd::{MountdClient, MountdError};
use lamina_flist::ProfileRange;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What is read later than this after mounting is no start any more.
const RECORD_FOR: Duration = Duration::from_secs(120);

impl Agent {
    /// Fetches ahead; answers with the plain bytes brought.
    pub(crate) async fn prefetch(self: &Arc<Self>, call: PrefetchCall) -> Result<u64> {
        self.adopted().await;
        let _busy = self.busy();
        let mount = self.mounts().get(&call.target).cloned();
        let Some(mount) = mount else {
            return Err(self.why_not_served(&call.target));
        };
        let live = Arc::clone(&mount.flist);
        let steps = tokio::task::spawn_blocking(move || match (&live.profile, call.profile) {
            (Some(profile), true) => Ok(prefetch::profile_steps(&live, &profile.ranges)),
            (None, true) => Ok(Vec::new()),
            (_, false) => prefetch::path_steps(&live, &call.paths),
        });
        let steps = steps
            .await
            .map_err(|_| refused(FailureKind::Other, "the call was cut off; see the log"))?
            .map_err(|error| failure(FailureKind::NotFound, &error))?;
        let live = &mount.flist;
        let before = live.bytes_fetched();
        let brought = Ahead::of(steps).drain(&self.fetcher).await;
        brought.map_err(|error| failure(error.kind(), &error))?;
        self.pace_all().await;
        Ok(live.bytes_fetched() - before)
    }

    /// Sees to it that what other nodes wait for here comes; says whether all of it does. Of a blob that is not mounted
    /// nothing is fetched.
    pub(crate) fn bring_for_others(&self, call: &BringCall) -> bool {
        let Some(source) = self.sources.get(&call.blob) else {
            return false;
        };
        let _runtime = self.runtime.enter();
        self.fetcher.bring_for_others(&source, &call.entries)
    }

    /// Starts following the profile of a flist that was just mounted.
    pub(super) fn start_prefetch(&self, live: &Arc<LiveFlist>, call: &MountCall) {
        if !call.prefetch {
            return;
        }
        if let Some(profile) = &live.profile {
            let _runtime = self.runtime.enter();
            let steps = prefetch::profile_steps(live, &profile.ranges);
            live.ahead.later(steps, &self.fetcher);
        }
        if !live.is_started_before() {
            self.follow_others(live);
        }
    }

    /// Asks what starts on other nodes read, and follows that instead of what was computed. Nobody waits for it.
    fn follow_others(&self, live: &Arc<LiveFlist>) {
        let Some(member) = self.fetcher.member() else {
            return;
        };
        let (live, fetcher) = (Arc::clone(live), Arc::clone(&self.fetcher));
        self.runtime.spawn(async move {
            let ranges = member.profile(&live.digest).await;
            let steps = prefetch::profile_steps(&live, &ranges);
            if !steps.is_empty() && !live.sources.iter().any(|source| source.is_closed()) {
                live.follows_others.store(true, Ordering::Relaxed);
                live.ahead.instead(steps, &fetcher);
            }
        });
    }

    /// A reader waits for an entry that is on its way already: where much is read in one place, what is behind it is begun
    /// before the reader gets there.
    pub(crate) fn expect_behind(&self, source: &Arc<Source>, entry: u32) {
        let Some(range) = source.dense_behind(entry) else {
            return;
        };
        let live = self.flists(|mount| mount.extra.call.prefetch);
        let holds = |live: &Arc<LiveFlist>| live.sources.iter().any(|held| held.id == source.id);
        if let Some(live) = live.into_iter().find(holds) {
            let _runtime = self.runtime.enter();
            let steps = vec![(Arc::clone(source), range)];
            live.ahead.later(steps, &self.fetcher);
        }
    }

    /// Tells other nodes what a start read that is over.
    fn tell_others(&self, live: &LiveFlist, start: Vec<ProfileRange>, watched: Vec<u16>) {
        if let Some(member) = self.fetcher.member() {
            let digest = live.digest;
            let tell = async move { member.tell_profile(&digest, &start, &watched).await };
            self.runtime.spawn(tell);
        }
    }

    /// A reader waits for entries of a blob that nobody had asked for: what the files they belong to need
    /// comes next, then what is around them, where much is read in one place.
    pub(crate) fn expect_after(&self, source: &Arc<Source>, entries: &[u32]) {
        let live = self.flists(|mount| mount.extra.call.prefetch);
        let _runtime = self.runtime.enter();
        for live in live {
            if let Some(steps) = live.expected_after(source, entries) {
                live.ahead.sooner(steps, &self.fetcher);
            }
        }
    }

    /// Starts recording a flist that is about to be mounted.
    pub(super) fn record(mountd: &mut MountdClient, live: &LiveFlist) {
        let blobs = live.sources.iter().map(|source| source.id).collect();
        if let Err(error) = mountd.record_touches(&live.digest.to_string(), blobs) {
            tracing::warn!(%error, "record an access profile");
        }
    }

    /// Keeps what was recorded so far, of every mount.
    pub(crate) fn save_profiles(&self) {
        for live in self.flists(|_| true) {
            self.save_profile(&live, false);
        }
    }

    /// The flists of these mounts, each once however many targets show it.
    fn flists(&self, wanted: impl Fn(&LiveMount) -> bool) -> Vec<Arc<LiveFlist>> {
        let mounts = self.mounts();
        let wanted = mounts.values().filter(|mount| wanted(mount));
        let flists: BTreeMap<_, _> = wanted
            .map(|mount| (mount.flist.digest, Arc::clone(&mount.flist)))
            .collect();
        flists.into_values().collect()
    }

    /// Keeps what was recorded of a flist; ends the recording when its start is over or it goes.
    pub(super) fn save_profile(&self, live: &LiveFlist, last: bool) {
        if live.learned.load(Ordering::Relaxed) {
            return;
        }
        let over = last || live.since + RECORD_FOR < Instant::now();
        let name = live.digest.to_string();
        let taken = self.mountd().and_then(|mut mountd| {
            let taken = mountd.touches(&name).and_then(|touched| {
                if over {
                    mountd.forget_touches(&name)?;
                }
                Ok(touched)
            });
            taken.map_err(|error: MountdError| failure(FailureKind::Unavailable, &error))
        });
        let saved = match taken {
            Ok(Some(ranges)) if !ranges.is_empty() => {
                let seen = over.then(|| live.places_served());
                let learnt = self.profiles.learn(&live.digest, &ranges, seen.as_deref());
                if let Some(watched) = seen {
                    self.tell_others(live, ranges, watched);
                }
                learnt
            }
            Ok(_) => Ok(()),
            Err(error) => return tracing::warn!(%error, "read the recorded touches"),
        };
        if let Err(error) = saved {
            tracing::warn!(%error, "keep an access profile");
        }
        live.learned.store(over, Ordering::Relaxed);
    }
}
