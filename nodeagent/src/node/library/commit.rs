//! A flist of this node with changes over it, published: what a run leaves.

use std::io::Read;

use lamina_flist::Flist;
use lamina_image::convert::{CommitOptions, Committed, commit};
use lamina_proto::lamina::v1::FlistInfo;
use lamina_store::url::Place;
use lamina_store::{UrlTrust, open_flist, publish_flist};
use tokio::runtime::Handle;

use super::card::Card;
use super::make::checked;
use super::stores::Stores;
use super::{Have, Library};
use crate::layers::{EnsureError, EnsureErrorKind};

/// Where a commit goes: stores by their URLs, credentials included.
#[derive(Debug, Clone, Default)]
pub struct CommitPlaces {
    /// They get the flist and what is new in it.
    pub stores: Vec<String>,
    /// They hold what is below, and get the flist.
    pub base_stores: Vec<String>,
}

impl Library {
    /// Puts `changes`, the tar of a layer, over a flist of this node; gives the new flist and the bytes that were new.
    /// When the future is dropped, the end of `changes` ends the work.
    ///
    /// # Errors
    /// By kind, see [`EnsureErrorKind`]; nothing refers to what was stored then.
    pub async fn commit(
        &self,
        base: &Have,
        places: &CommitPlaces,
        changes: Box<dyn Read + Send>,
    ) -> Result<(FlistInfo, u64), EnsureError> {
        if places.stores.is_empty() {
            let what = "a commit needs a store for what is new";
            return Err(EnsureError::new(EnsureErrorKind::InvalidArgument, what));
        }
        let inner = &self.inner;
        let own = inner.stores(&[])?;
        let stores = writable(&own, &places.stores)?;
        let roots = match places.base_stores.is_empty() {
            true => None,
            false => Some(writable(&own, &places.base_stores)?),
        };
        let _turn = inner.queue.turn().await?;
        let _stores = inner.collecting.read().await;
        let place = inner.place(&stores).await?;
        let named = union(&[
            stores.shown(),
            roots.as_ref().map(Stores::shown).unwrap_or_default(),
            base.info.stores.clone(),
        ]);
        let options = CommitOptions {
            limits: inner.config.limits.image.clone(),
            store_urls: named.clone(),
            // Its layers may have to be pulled again, and what was put together of layers does not say from where.
            source: base.image().map(|_| base.info.reference.clone()),
            ..CommitOptions::default()
        };
        let (path, handle) = (base.flist.clone(), Handle::current());
        let work = move || {
            let below = open_flist(&path).map_err(|error| {
                let what = "open the flist below the changes";
                EnsureError::new(EnsureErrorKind::Internal, what).because(error)
            })?;
            let done = commit(&below, changes, &place, &options, &handle);
            done.map_err(|error| EnsureError::commit("put the changes over the flist", error))
        };
        let done = tokio::task::spawn_blocking(work).await;
        let done: Committed = done.map_err(|error| {
            EnsureError::new(EnsureErrorKind::Internal, "commit").because(error)
        })??;
        let new = done.packed.new_bytes;
        let flist = Flist::parse(done.flist.into());
        let flist = flist.map_err(|error| EnsureError::flist("read the flist just made", error))?;
        let (flist, card) = checked(flist).await?;
        for stores in std::iter::once(&stores).chain(&roots) {
            let published = publish_flist(&stores.set, &flist).await;
            published.map_err(|error| EnsureError::store("publish the flist", error))?;
        }
        let card = Card {
            stores: named,
            ..card
        };
        Ok((inner.shelf.put(&flist, card)?.card.info(), new))
    }
}

/// Stores that a run may have us write to: who runs something is not who may write into directories of the node, but for
/// those that are its stores.
fn writable(own: &Stores, urls: &[String]) -> Result<Stores, EnsureError> {
    let mut trust = UrlTrust::User;
    let mut specs = Vec::with_capacity(urls.len());
    for url in urls {
        if let Some(known) = own.named(std::slice::from_ref(url)) {
            specs.extend(known);
            continue;
        }
        let spec = Stores::parse(url)?;
        if matches!(spec.url.place(), Place::Dir(_)) {
            let what = format!(
                "the directory {} is no store of this node: name one that nodes have as theirs, or one elsewhere",
                spec.strip_credentials()
            );
            return Err(EnsureError::new(EnsureErrorKind::PermissionDenied, what));
        }
        trust = UrlTrust::Flist;
        specs.push(spec);
    }
    Stores::of(specs, trust)
}

/// Each once.
fn union(lists: &[Vec<String>]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for url in lists.iter().flatten() {
        if !all.contains(url) {
            all.push(url.clone());
        }
    }
    all
}
