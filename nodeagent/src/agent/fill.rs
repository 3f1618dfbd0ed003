//! Answers the mount daemon: somebody reads data that is not local.

use crate::agent::fetch::{FetchError, Urgency};
use crate::agent::mounts::Agent;
use crate::fill::{FillFailure, FillFailureKind, FillHandler};
use lamina_flist::BlobId;
use lamina_mount::cache::CacheError;
use lamina_store::ErrorKind;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct Fills(pub(crate) Arc<Agent>);

impl FillHandler for Fills {
    async fn fill(
        &self,
        blob: BlobId,
        entries: Range<usize>,
        _limit: Duration,
    ) -> Result<(), FillFailure> {
        self.0.adopted().await;
        let Some(source) = self.0.sources.get(&blob) else {
            let message = format!("blob {blob} belongs to no mount of this agent");
            return Err(FillFailure::new(FillFailureKind::UnknownBlob, message));
        };
        let entries = source.clamp(entries);
        let (new, flying) = self.0.fetcher.look(&source, entries.clone());
        if !new.is_empty() {
            let (agent, source) = (Arc::clone(&self.0), Arc::clone(&source));
            // Beside the demand: following hints takes a moment.
            tokio::task::spawn_blocking(move || agent.expect_after(&source, &new));
        }
        if let Some(entry) = flying {
            self.0.expect_behind(&source, entry);
        }
        if let Some(ahead) = source.read_ahead(&entries) {
            let (fetcher, source) = (Arc::clone(&self.0.fetcher), Arc::clone(&source));
            // Its failure concerns nobody: whoever needs these bytes will ask, and be told.
            tokio::spawn(async move { fetcher.ensure(&source, ahead, Urgency::Follow).await });
        }
        self.0
            .fetcher
            .ensure(&source, entries, Urgency::Demand)
            .await
            .map_err(|error| {
                let message = crate::chain(&error);
                source.note_error(message.clone());
                FillFailure::new(kind_of(&error), message)
            })
    }
}

fn kind_of(error: &FetchError) -> FillFailureKind {
    match error {
        FetchError::Store { source, .. } if source.kind() == ErrorKind::Corrupt => {
            FillFailureKind::Integrity
        }
        FetchError::Store { .. } | FetchError::Nodes { .. } => FillFailureKind::Unavailable,
        FetchError::Cache { source, .. } => match source.as_ref() {
            CacheError::Full { .. } => FillFailureKind::NoSpace,
            _ => FillFailureKind::Internal,
        },
        FetchError::Late { .. } => FillFailureKind::Deadline,
        FetchError::NoRoom(_) => FillFailureKind::NoSpace,
        FetchError::Unplaced { .. } | FetchError::Closed { .. } | FetchError::Lost { .. } => {
            FillFailureKind::Internal
        }
    }
}
