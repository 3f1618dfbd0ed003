//! Forgetting a flist, here and in its stores.

use std::sync::Arc;

use lamina_flist::FlistDigest;
use lamina_store::{Forgotten, GcOptions, GcPlan, GcRoots, open_flist};

use super::Inner;
use super::card::Card;
use super::flight::Teller;
use super::make::{have, is_absent};
use super::shelf::Going;
use super::stores::Stores;
use super::{Have, Phase};
use crate::layers::{EnsureError, EnsureErrorKind};

impl Inner {
    /// A flist from the stores onto the shelf.
    pub(super) async fn take(
        self: Arc<Self>,
        digest: FlistDigest,
        stores: Stores,
        teller: Teller,
    ) -> Result<Have, EnsureError> {
        teller.tell(Phase::Fetch, 0, 0);
        let (flist, card) = self.fetch(digest, &stores).await?;
        let card = Card {
            stores: stores.shown(),
            ..card
        };
        Ok(have(self.shelf.put(&flist, card)?, &stores, None))
    }

    pub(super) async fn forget(
        &self,
        digest: FlistDigest,
        delete_stored: bool,
        stores: &[String],
    ) -> Result<u64, EnsureError> {
        // From here on nobody gets it, to publish or to mount, until it is gone or the deleting has failed.
        let going = self.shelf.begin_forgetting(digest)?;
        let stored = match delete_stored {
            true => {
                let stores = self.stores(stores)?;
                self.delete_stored(digest, &going, &stores).await?
            }
            false => 0,
        };
        // Last: until then the flist says which packs are its own, so a failure can be tried again.
        Ok(stored + self.shelf.remove(&going)?)
    }

    async fn delete_stored(
        &self,
        digest: FlistDigest,
        going: &Going<'_>,
        stores: &Stores,
    ) -> Result<u64, EnsureError> {
        let Ok(_alone) = self.collecting.try_write() else {
            let what =
                format!("forget {digest}: something is being converted here: call again later");
            return Err(EnsureError::new(EnsureErrorKind::FailedPrecondition, what));
        };
        let flist = match self.shelf.last_look(going) {
            Some(flist) => flist,
            None => match self.fetch(digest, stores).await {
                Ok((flist, _)) => flist,
                Err(error) if is_absent(&error) => return Ok(0),
                Err(error) => return Err(error),
            },
        };
        let failed = |error| EnsureError::store(format!("delete {digest} from the stores"), error);
        let options = GcOptions {
            age_min: std::time::Duration::ZERO,
            only: Some(Forgotten::new(&flist)),
            ..GcOptions::default()
        };
        let plan = GcPlan::make(&stores.set, &self.others(digest), &options).await;
        let plan = plan.map_err(failed)?;
        plan.apply(&stores.set).await.map_err(failed)?;
        Ok(plan.stores.iter().map(|store| store.bytes).sum())
    }

    /// The other flists here, published or not.
    fn others(&self, but: FlistDigest) -> GcRoots {
        let mut roots = GcRoots::default();
        for digest in self.shelf.digests().into_iter().filter(|d| *d != but) {
            if let Ok(flist) = open_flist(self.shelf.path(&digest)) {
                roots.keep_flist(&flist);
            }
        }
        roots
    }
}
