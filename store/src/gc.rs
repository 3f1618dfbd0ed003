//! Garbage collection: removes packs that no kept flist needs.
//!
//! Mark: the packs of every kept flist, those given and those published in the stores. Sweep, per store:
//!
//! 1. pointers to flists that are not kept, then those flists are removed (their packs are about to go),
//! 2. new index objects are written for the packs that stay out of indexes that change,
//! 3. the changed indexes are removed,
//! 4. packs that are not needed are removed.
//!
//! Stopped at any point, every kept flist is whole, every index lists only packs that exist, and running
//! it again goes on. A pack of which one chunk is needed stays whole. Packs younger than
//! [`GcOptions::age_min`] stay, for the sake of writers at work; a writer that refers to an old pack which
//! is removed meanwhile notices when it finishes.

mod plan;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use lamina_flist::{Flist, FlistDigest, IndexId, PackId, PackRecord};

use crate::api::Store;
use crate::chunk_index::load_store;
use crate::error::Result;
use crate::key::{ObjectKey, ObjectKind};
use crate::pointer::{self, ImageKey};
use crate::set::StoreSet;

/// Deletes at the same time per store.
const PARALLEL: usize = 8;

/// What must stay.
#[derive(Debug, Clone, Default)]
pub struct GcRoots {
    pub(crate) packs: HashSet<PackId>,
    pub(crate) flists: HashSet<FlistDigest>,
}

impl GcRoots {
    /// Keeps a flist.
    pub fn keep_flist(&mut self, flist: &Flist) {
        self.keep(flist.digest(), flist.packs());
    }

    /// Keeps a flist by its name and its packs.
    pub fn keep(&mut self, digest: FlistDigest, packs: impl IntoIterator<Item = PackRecord>) {
        self.flists.insert(digest);
        self.packs.extend(packs.into_iter().map(|pack| pack.id));
    }
}

/// How to collect.
#[derive(Debug, Clone)]
pub struct GcOptions {
    /// Younger packs stay, where the store tells their age (registries do not).
    pub age_min: Duration,
    /// Flists published in the stores count as kept. If not, those not given are removed.
    pub keep_published: bool,
    /// Remove this flist and what only it needs, and nothing else.
    pub only: Option<Forgotten>,
}

/// A flist to remove from stores although it is published.
#[derive(Debug, Clone)]
pub struct Forgotten {
    pub(crate) flist: FlistDigest,
    pub(crate) packs: HashSet<PackId>,
}

impl Forgotten {
    /// Its name and its packs.
    pub fn new(flist: &Flist) -> Self {
        Self {
            flist: flist.digest(),
            packs: flist.packs().map(|pack| pack.id).collect(),
        }
    }
}

impl Default for GcOptions {
    fn default() -> Self {
        Self {
            age_min: Duration::from_hours(1),
            keep_published: true,
            only: None,
        }
    }
}

/// What would be done to one store.
#[derive(Debug, Clone, Default)]
pub struct StorePlan {
    /// The store, redacted.
    pub store: String,
    /// Packs that stay.
    pub kept_packs: u64,
    /// Packs that stay only because they are young.
    pub young_packs: u64,
    /// Packs to remove.
    pub packs: Vec<PackId>,
    /// Bytes that frees, as far as the store tells lengths.
    pub bytes: u64,
    /// Pointers to remove: their flist goes, or is gone.
    pub pointers: Vec<ImageKey>,
    /// Published flists to remove.
    pub flists: Vec<FlistDigest>,
    /// Index objects to write.
    pub new_indexes: Vec<(IndexId, Bytes)>,
    /// Index objects to remove.
    pub old_indexes: Vec<IndexId>,
    /// Packs that a kept flist needs from this store and that are not there.
    pub missing: Vec<PackId>,
}

/// What would be done: show it (dry run), then [`GcPlan::apply`] it.
#[derive(Debug, Clone, Default)]
pub struct GcPlan {
    /// One per store, in the order of the set.
    pub stores: Vec<StorePlan>,
}

impl GcPlan {
    /// Looks at every store; changes nothing. Any store that cannot be listed, and any published flist
    /// that cannot be read, is an error: what is not seen cannot be judged.
    ///
    /// # Errors
    /// As said: a store or a published flist that cannot be read.
    pub async fn make(set: &StoreSet, roots: &GcRoots, options: &GcOptions) -> Result<Self> {
        let mut roots = roots.clone();
        let stores: Vec<_> = set.stores().collect();
        // Before the flists: a flist is published before its pointer, so that of every pointer seen is too.
        let mut pointers = Vec::with_capacity(stores.len());
        for (_, store) in &stores {
            pointers.push(pointers_of(store.as_ref()).await?);
        }
        let forgotten = options.only.as_ref().map(|only| only.flist);
        if options.keep_published {
            for (_, store) in &stores {
                keep_published(store.as_ref(), &mut roots, forgotten).await?;
            }
        }
        let mut plans = Vec::with_capacity(stores.len());
        for ((range, store), pointers) in stores.into_iter().zip(pointers) {
            // Indexes first: a writer puts packs before their index, so every pack listed is then seen.
            let holdings = load_store(store.as_ref(), None).await?;
            let packs = store.list(ObjectKind::Pack).await?;
            let flists = store.list(ObjectKind::Flist).await?;
            let now = SystemTime::now();
            let seen = plan::Seen {
                packs,
                flists,
                pointers,
                holdings,
            };
            plans.push(plan::plan_store(
                store.name(),
                range,
                seen,
                &roots,
                options,
                now,
            ));
        }
        Ok(Self { stores: plans })
    }

    /// Does it. `set` must be the one it was made for.
    ///
    /// # Errors
    /// A store refuses a change; what was done before is sound, and may be done again.
    pub async fn apply(&self, set: &StoreSet) -> Result<()> {
        set.check_writable()?;
        for (plan, (_, store)) in self.stores.iter().zip(set.stores()) {
            plan.apply(store).await?;
        }
        Ok(())
    }
}

impl StorePlan {
    async fn apply(&self, store: Arc<dyn Store>) -> Result<()> {
        delete_all(&store, self.pointers.iter().map(|id| ObjectKey::Image(*id))).await?;
        delete_all(&store, self.flists.iter().map(|id| ObjectKey::Flist(*id))).await?;
        for (id, bytes) in &self.new_indexes {
            store.put(&ObjectKey::Index(*id), bytes.clone()).await?;
        }
        delete_all(
            &store,
            self.old_indexes.iter().map(|id| ObjectKey::Index(*id)),
        )
        .await?;
        delete_all(&store, self.packs.iter().map(|id| ObjectKey::Pack(*id))).await
    }
}

async fn delete_all(store: &Arc<dyn Store>, keys: impl Iterator<Item = ObjectKey>) -> Result<()> {
    let deletes = keys.map(|key| async move { store.delete(&key).await });
    stream::iter(deletes)
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
}

/// The pointers in a store and where they lead; nowhere if damaged.
async fn pointers_of(store: &dyn Store) -> Result<Vec<(ImageKey, Option<FlistDigest>)>> {
    let found = store.list(ObjectKind::Image).await?;
    let keys = found.into_iter().filter_map(|found| match found.key {
        ObjectKey::Image(key) => Some(key),
        _ => None,
    });
    let reads = keys.map(|key| async move {
        let target = pointer::target(store, &ObjectKey::Image(key)).await?;
        Ok((key, target))
    });
    stream::iter(reads)
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
}

/// Marks the flists published in a store. A flist is read whole, checked, and forgotten.
async fn keep_published(
    store: &dyn Store,
    roots: &mut GcRoots,
    but: Option<FlistDigest>,
) -> Result<()> {
    for found in store.list(ObjectKind::Flist).await? {
        let ObjectKey::Flist(digest) = found.key else {
            continue;
        };
        if roots.flists.contains(&digest) || but == Some(digest) {
            continue;
        }
        let packs = crate::flists::packs_of(store, digest).await?;
        roots.keep(digest, packs);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
