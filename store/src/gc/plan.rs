//! The decision for one store. Pure.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use lamina_flist::{FlistDigest, IndexId, PackId};

use super::{GcOptions, GcRoots, StorePlan};
use crate::api::Listed;
use crate::chunk_index::Holdings;
use crate::index::{self, IndexedPack};
use crate::key::ObjectKey;
use crate::pointer::ImageKey;
use crate::spec::ShardRange;

/// Packs in a rewritten index: 4,096 packs of 8 MiB give an index of about 25 MiB.
const PACKS_PER_INDEX: usize = 4096;

/// What a store holds.
pub(super) struct Seen {
    pub(super) packs: Vec<Listed>,
    pub(super) flists: Vec<Listed>,
    pub(super) pointers: Vec<(ImageKey, Option<FlistDigest>)>,
    pub(super) holdings: Holdings,
}

pub(super) fn plan_store(
    name: &str,
    range: ShardRange,
    seen: Seen,
    roots: &GcRoots,
    options: &GcOptions,
    now: SystemTime,
) -> StorePlan {
    let only = options.only.as_ref();
    let mut plan = StorePlan {
        store: name.to_owned(),
        ..StorePlan::default()
    };
    let mut kept: HashSet<PackId> = HashSet::new();
    for found in &seen.packs {
        let ObjectKey::Pack(id) = found.key else {
            continue;
        };
        let spared = only.is_some_and(|only| !only.packs.contains(&id));
        let needed = spared || roots.packs.contains(&id);
        let young = is_young(found.modified, now, options.age_min);
        if needed || young {
            kept.insert(id);
            plan.kept_packs += 1;
            plan.young_packs += u64::from(!needed);
        } else {
            plan.packs.push(id);
            plan.bytes += found.len.unwrap_or(0);
        }
    }
    let owned = roots
        .packs
        .iter()
        .filter(|id| range.contains(id.as_bytes()[0]));
    plan.missing = owned.filter(|id| !kept.contains(id)).copied().collect();
    plan.missing.sort_unstable();
    let goes = |digest: &FlistDigest| match only {
        Some(only) => only.flist == *digest,
        None => !roots.flists.contains(digest),
    };
    plan.flists = seen
        .flists
        .iter()
        .filter_map(|found| match found.key {
            ObjectKey::Flist(digest) if goes(&digest) => Some(digest),
            _ => None,
        })
        .collect();
    plan.pointers = seen
        .pointers
        .iter()
        .filter(|(_, target)| target.as_ref().map_or(only.is_none(), goes))
        .map(|(key, _)| *key)
        .collect();
    rewrite_indexes(&mut plan, seen.holdings, &kept);
    plan
}

/// An age that is not known, or lies in the future, does not make a pack young.
fn is_young(modified: Option<SystemTime>, now: SystemTime, age_min: Duration) -> bool {
    modified
        .and_then(|then| now.duration_since(then).ok())
        .is_some_and(|age| age < age_min)
}

/// Replaces every index that lists a pack which goes or is gone.
fn rewrite_indexes(plan: &mut StorePlan, holdings: Holdings, kept: &HashSet<PackId>) {
    plan.old_indexes = holdings.damaged;
    let mut still_listed: HashSet<PackId> = HashSet::new();
    let mut moved: Vec<IndexedPack> = Vec::new();
    for (id, packs) in holdings.indexes {
        if packs.iter().all(|pack| kept.contains(&pack.record.id)) {
            still_listed.extend(packs.iter().map(|pack| pack.record.id));
            continue;
        }
        plan.old_indexes.push(id);
        moved.extend(
            packs
                .iter()
                .filter(|pack| kept.contains(&pack.record.id))
                .map(|pack| IndexedPack::clone(pack)),
        );
    }
    moved.retain(|pack| !still_listed.contains(&pack.record.id));
    moved.sort_by_key(|pack| pack.record.id);
    moved.dedup_by_key(|pack| pack.record.id);
    for some in moved.chunks(PACKS_PER_INDEX) {
        let bytes = index::encode(some);
        let id = IndexId::of(&bytes);
        // The same content as an index that is to go: then that one stays.
        plan.old_indexes.retain(|old| *old != id);
        plan.new_indexes.push((id, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_recent_past_is_young() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        let hour = Duration::from_hours(1);
        assert!(is_young(Some(now - Duration::from_mins(1)), now, hour));
        assert!(!is_young(Some(now - hour), now, hour));
        assert!(!is_young(None, now, hour));
        assert!(!is_young(Some(now + hour), now, hour));
        assert!(!is_young(Some(now), now, Duration::ZERO));
    }
}
