//! Several stores as one: sharded by the first byte of an object's name, replicated where ranges overlap.
//!
//! - A read asks the owners in the order given, those that lately failed last. It asks the next one when
//!   one fails or has not answered for [`StoreOptions::hedge_after`]; the first *verified* answer wins.
//! - A write goes to every owner and succeeds only when all of them have it; doing it again is cheap.
//! - An error comes only when no replica is left (and, for transient failures, the budget is spent).

mod member;

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::Instant;

use crate::api::{PackRef, Store, check_range};
use crate::backend;
use crate::error::{ErrorKind, Result, StoreError};
use crate::key::ObjectKey;
use crate::options::StoreOptions;
use crate::retry::{Backoff, bounded};
use crate::spec::{ShardRange, StoreSpec, first_gap};
use member::Member;

/// Sharded and replicated stores. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StoreSet {
    members: Arc<[Member]>,
    specs: Arc<[StoreSpec]>,
    options: Arc<StoreOptions>,
}

type Attempt<'a, T> = Pin<Box<dyn Future<Output = (usize, Result<T>)> + Send + 'a>>;

impl StoreSet {
    /// Opens the stores of these specs; nothing is contacted yet. Fails if a part of the hash space has
    /// no store.
    ///
    /// # Errors
    /// `Invalid`: no store, a gap in the ranges, or settings a client refuses.
    pub fn open(specs: &[StoreSpec], options: StoreOptions) -> Result<Self> {
        let opened: Result<Vec<_>> = specs
            .iter()
            .map(|spec| Ok((spec.range, backend::open(&spec.url, &options)?)))
            .collect();
        let mut set = Self::from_stores(opened?, options)?;
        set.specs = specs.into();
        Ok(set)
    }

    /// The same from stores already made (embedded packs, tests, another crate's store).
    ///
    /// # Errors
    /// `Invalid`: no store, or a gap in the ranges.
    pub fn from_stores(
        stores: Vec<(ShardRange, Arc<dyn Store>)>,
        options: StoreOptions,
    ) -> Result<Self> {
        let names: Vec<&str> = stores.iter().map(|(_, store)| store.name()).collect();
        let fail = |what: String| {
            StoreError::new(ErrorKind::Invalid, "open", &names.join(", ")).detail(what)
        };
        if stores.is_empty() {
            return Err(
                StoreError::new(ErrorKind::Invalid, "open", "(none)").detail("no store given")
            );
        }
        if let Some(byte) = first_gap(stores.iter().map(|(range, _)| range)) {
            return Err(fail(format!(
                "no store holds objects starting with {byte:02x}; ranges must cover 00-ff"
            )));
        }
        let members = stores
            .into_iter()
            .map(|(range, store)| Member::new(range, store, &options))
            .collect();
        Ok(Self {
            members,
            specs: Arc::new([]),
            options: Arc::new(options),
        })
    }

    /// This set with one more store, asked first.
    #[must_use]
    pub fn with_first(&self, store: Arc<dyn Store>) -> Self {
        let first = Member::new(ShardRange::ALL, store, &self.options);
        let members = std::iter::once(first)
            .chain(self.members.iter().cloned())
            .collect();
        Self {
            members,
            specs: Arc::clone(&self.specs),
            options: Arc::clone(&self.options),
        }
    }

    /// The specs it was opened with.
    pub fn specs(&self) -> &[StoreSpec] {
        &self.specs
    }

    /// Every store with its range, each operation bounded and retried.
    pub fn stores(&self) -> impl Iterator<Item = (ShardRange, Arc<dyn Store>)> {
        self.members
            .iter()
            .map(|member| (member.range, member.steady()))
    }

    /// Fails unless every store can be written to.
    ///
    /// # Errors
    /// `Unsupported`, naming the first read-only store.
    pub fn check_writable(&self) -> Result<()> {
        match self.members.iter().find(|member| !member.raw().writable()) {
            None => Ok(()),
            Some(member) => {
                let error = StoreError::new(ErrorKind::Unsupported, "write", member.raw().name());
                Err(error.detail("it is read-only"))
            }
        }
    }

    /// Bytes of a pack, not yet verified: prefer [`StoreSet::read`] or [`crate::ChunkReader`].
    ///
    /// # Errors
    /// As [`StoreSet::read`].
    pub async fn get_range(&self, pack: &PackRef, range: Range<u64>) -> Result<Bytes> {
        self.read(pack, range, Ok).await
    }

    /// Bytes of a pack made into something by `check`. Where `check` refuses them, the next replica is
    /// asked; its text says what is wrong.
    ///
    /// # Errors
    /// `Invalid` for a range that is empty or past the end; else that no replica is left, and why.
    pub async fn read<T, C>(&self, pack: &PackRef, range: Range<u64>, check: C) -> Result<T>
    where
        T: Send,
        C: Fn(Bytes) -> Result<T, String> + Send + Sync,
    {
        check_range("every store", pack, &range)?;
        let (key, len) = (pack.key(), range.end - range.start);
        self.first_good(&key, len, |store| {
            let (range, check) = (range.clone(), &check);
            async move {
                let bytes = store.get_range(pack, range).await?;
                if bytes.len() as u64 != len {
                    let error = StoreError::new(ErrorKind::Corrupt, "read", store.name()).key(&key);
                    return Err(error.detail(format!("{} bytes instead of {len}", bytes.len())));
                }
                check(bytes).map_err(|what| corrupt(store.name(), &key, what))
            }
        })
        .await
    }

    /// A whole object, verified against its name.
    ///
    /// # Errors
    /// No replica is left, and why.
    pub async fn get(&self, key: &ObjectKey) -> Result<Bytes> {
        let len_max = key.kind().len_max();
        // Its length is not known, so the time allowed is that of a pack.
        let expected = len_max.min(crate::pack::PACK_LEN_MAX);
        self.first_good(key, expected, |store| async move {
            let bytes = store.get(key, len_max).await?;
            if key.names(&bytes) {
                Ok(bytes)
            } else {
                Err(corrupt(
                    store.name(),
                    key,
                    format!("its {} bytes do not match its name", bytes.len()),
                ))
            }
        })
        .await
    }

    /// Writes an object to every owner that does not have it.
    ///
    /// # Errors
    /// The first owner that does not take it.
    pub async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<()> {
        debug_assert!(key.names(&bytes), "{key} does not name these bytes");
        let owners = self.owners(key.shard_byte()).map(|member| {
            let (store, bytes) = (member.steady(), bytes.clone());
            async move { put_once(store.as_ref(), key, bytes).await }
        });
        futures::future::try_join_all(owners).await.map(|_| ())
    }

    /// Whether every owner has the object, with the length given.
    ///
    /// # Errors
    /// An owner cannot be asked.
    pub async fn has(&self, key: &ObjectKey, len: u64) -> Result<bool> {
        let owners = self.owners(key.shard_byte()).map(|member| {
            let store = member.steady();
            async move { has_object(store.as_ref(), key, len).await }
        });
        Ok(futures::future::try_join_all(owners)
            .await?
            .into_iter()
            .all(|has| has))
    }

    fn owners(&self, byte: u8) -> impl Iterator<Item = &Member> {
        self.members
            .iter()
            .filter(move |member| member.range.contains(byte))
    }

    /// Rounds over all replicas until one gives a good answer or no retry can help.
    async fn first_good<'a, T, F>(
        &'a self,
        key: &ObjectKey,
        bytes: u64,
        attempt: impl Fn(Arc<dyn Store>) -> F + Send + Sync,
    ) -> Result<T>
    where
        T: Send + 'a,
        F: Future<Output = Result<T>> + Send,
    {
        let owners: Vec<&Member> = self.owners(key.shard_byte()).collect();
        let start = Instant::now();
        let mut backoff = Backoff::new(&self.options, bytes);
        let mut corrupt_rounds = 0;
        // Of each replica, what it said last in place of nothing.
        let mut before = BTreeMap::new();
        loop {
            // Asked before: a try may outlast the memory.
            let given_up: Vec<bool> = owners.iter().map(|o| o.health.is_given_up()).collect();
            let began = Instant::now();
            let failed = match self
                .round(&owners, key, bytes, backoff.limit(), &attempt)
                .await
            {
                Ok(value) => return Ok(value),
                Err(failed) => failed,
            };
            backoff.tried(began);
            // A wrong answer may be a proxy's hiccup: it gets a second look, not a third.
            corrupt_rounds += u32::from(failed.iter().any(|(_, e)| e.kind() == ErrorKind::Corrupt));
            let worth_it = failed.iter().filter(|(at, error)| match error.kind() {
                ErrorKind::Corrupt => corrupt_rounds == 1,
                kind => {
                    let over = given_up[*at] || owners[*at].health.is_given_up();
                    kind.is_transient() && !over
                }
            });
            if !backoff.pause(worth_it.map(|(_, error)| error)).await {
                for (at, _) in failed.iter().filter(|(_, e)| e.kind().is_transient()) {
                    owners[*at].health.give_up();
                }
                let said = |(at, error): (usize, StoreError)| error.after(before.get(&at));
                let errors = failed.into_iter().map(said).collect();
                return Err(no_replica_left(errors).key(key));
            }
            for (at, error) in failed.iter().filter(|(_, e)| e.kind().is_transient()) {
                owners[*at].health.tries_again(start, error);
            }
            let told = |(_, error): &(usize, StoreError)| error.kind() != ErrorKind::Timeout;
            before.extend(failed.into_iter().filter(told));
        }
    }

    /// Asks every replica once, hedged. An error comes with its owner's position.
    async fn round<T, F>(
        &self,
        owners: &[&Member],
        key: &ObjectKey,
        bytes: u64,
        limit: Duration,
        attempt: &(impl Fn(Arc<dyn Store>) -> F + Sync),
    ) -> Result<T, Vec<(usize, StoreError)>>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        let mut order: Vec<usize> = (0..owners.len()).collect();
        order.sort_by_key(|at| owners[*at].health.is_quarantined()); // stable: otherwise as given
        let health = |at: usize| &owners[order[at]].health;
        let start = |at: usize| -> Attempt<'_, T> {
            let store = owners[order[at]].raw();
            Box::pin(async move {
                let name = store.name().to_owned();
                (
                    at,
                    bounded(limit, &name, "read", Some(key), attempt(store)).await,
                )
            })
        };
        let mut running = FuturesUnordered::from_iter([start(0)]);
        let (mut next, mut errors) = (1, Vec::new());
        let hedge_after = StoreOptions::hedge_allow(self.options.hedge_after, bytes);
        loop {
            let hedge = tokio::time::sleep(hedge_after);
            tokio::select! {
                Some((at, result)) = running.next() => match result {
                    Ok(value) => {
                        // Whoever was asked earlier and has not answered is slow.
                        (0..at).for_each(|earlier| health(earlier).quarantine());
                        health(at).release();
                        return Ok(value);
                    }
                    Err(error) => {
                        health(at).note(&error);
                        errors.push((order[at], error));
                        if next < order.len() {
                            running.push(start(next));
                            next += 1;
                        } else if running.is_empty() {
                            return Err(errors);
                        }
                    }
                },
                () = hedge, if next < order.len() => {
                    running.push(start(next));
                    next += 1;
                }
            }
        }
    }
}

/// Writes unless the object is there: on resume, a look-up costs less than 8 MiB. What may change is
/// written in any case.
pub(crate) async fn put_once(store: &dyn Store, key: &ObjectKey, bytes: Bytes) -> Result<()> {
    if !key.kind().is_mutable() && has_object(store, key, bytes.len() as u64).await? {
        return Ok(());
    }
    store.put(key, bytes).await
}

pub(crate) async fn has_object(store: &dyn Store, key: &ObjectKey, len: u64) -> Result<bool> {
    match store.head(key).await {
        Ok(found) => Ok(found == len),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

fn corrupt(store: &str, key: &ObjectKey, what: String) -> StoreError {
    StoreError::new(ErrorKind::Corrupt, "read", store)
        .key(key)
        .detail(what)
}

/// One error for all replicas: the one that says most, naming the others.
fn no_replica_left(mut errors: Vec<StoreError>) -> StoreError {
    let rank = |kind: ErrorKind| match kind {
        ErrorKind::Corrupt => 0,
        ErrorKind::Denied => 1,
        ErrorKind::Unavailable => 2,
        ErrorKind::Timeout => 3,
        ErrorKind::NotFound => 5,
        _ => 4,
    };
    errors.sort_by_key(|error| rank(error.kind()));
    let others: Vec<String> = errors[1..]
        .iter()
        .map(|e| format!("{}: {}", e.store(), e.kind()))
        .collect();
    let first = errors.swap_remove(0);
    if others.is_empty() {
        first
    } else {
        first.and(&format!("no replica left; {}", others.join("; ")))
    }
}

#[cfg(test)]
mod tests;
