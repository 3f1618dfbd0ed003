//! Which stores a mounted flist is read from.
//!
//! Where it has none, or none that can be used, other nodes may still have its layers (docs/peers.md).

use crate::agent::failure::{Result, failure, of_store, refused};
use crate::agent::flists::Admitted;
use crate::agent::sources::layer_of;
use crate::api::{FailureKind, MountCall};
use lamina_store::{ChunkReader, ReadOptions, StoreOptions, StoreSet, StoreSpec, UrlTrust};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which stores a call wants a flist to be read from, and as whom: what must be the same for its reader to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Way(Arc<(Vec<String>, BTreeMap<String, String>)>);

impl Way {
    pub(crate) fn of(call: &MountCall) -> Self {
        Self(Arc::new((call.stores.clone(), call.store_env.clone())))
    }

    #[cfg(test)]
    pub(crate) fn to(store: &str) -> Self {
        Self(Arc::new((vec![store.to_owned()], BTreeMap::new())))
    }
}

/// A reader of the call's stores, or of the flist's own when the call names none. `None` where these cannot be read
/// and the cluster has the layers: `nodes` says whether it may be asked.
pub(crate) fn reader(
    admitted: &Admitted,
    call: &MountCall,
    nodes: bool,
) -> Result<Option<ChunkReader>> {
    let flist = &admitted.flist;
    let is_of_layers = (0..flist.blob_count()).all(|blob| layer_of(flist, blob).is_some());
    match of_stores(admitted, call) {
        Err(why) if nodes && is_of_layers && call.stores.is_empty() => {
            tracing::info!(digest = %flist.digest(), why = why.message, "reading from other nodes only");
            Ok(None)
        }
        reader => reader.map(Some),
    }
}

fn of_stores(admitted: &Admitted, call: &MountCall) -> Result<ChunkReader> {
    let named = &admitted.flist.meta().stores;
    let (urls, url_trust) = match call.stores.is_empty() {
        true => (named, UrlTrust::Flist),
        false => (&call.stores, UrlTrust::User),
    };
    if urls.is_empty() {
        let message = format!(
            "{} names no stores: give one with --store",
            call.flist.display()
        );
        return Err(refused(FailureKind::Invalid, message));
    }
    let specs = urls
        .iter()
        .map(|url| url.parse())
        .collect::<std::result::Result<Vec<StoreSpec>, _>>();
    let specs = specs.map_err(|error| failure(FailureKind::Invalid, &error))?;
    let defaults = StoreOptions::default();
    let options = StoreOptions {
        url_trust,
        environment: call.store_env.clone().into(),
        // Programs read on while a registry restarts; nobody sits waiting to correct an address.
        connect_budget: defaults.budget,
        ..defaults
    };
    let set =
        StoreSet::open(&specs, options).map_err(|error| failure(of_store(error.kind()), &error))?;
    Ok(ChunkReader::new(set, ReadOptions::default()))
}
