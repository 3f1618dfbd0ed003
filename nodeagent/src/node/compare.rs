//! What differs between two flists, for who does not have them.

use std::sync::Arc;

use lamina_image::diff::{Change, DiffError, Difference, diff};
use lamina_proto::lamina::v1::{CompareTreesResponse, TreeDifference};
use tokio::sync::{Semaphore, mpsc};
use tonic::{Code, Status};

use super::error::NodeError;
use super::library::Have;

/// Differences in one message.
const BATCH: usize = 256;
/// Comparisons at once: each holds both trees in memory.
const AT_ONCE: usize = 2;

/// Lets only so many be compared at once.
pub(super) struct Comparing(Arc<Semaphore>);

impl Default for Comparing {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Comparing {
    /// Sends the differences; a caller that is gone ends that.
    pub(super) async fn send(
        &self,
        from: &Have,
        to: &Have,
        tell: mpsc::Sender<Result<CompareTreesResponse, Status>>,
    ) -> Result<(), NodeError> {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        let permit = permit.map_err(|error| NodeError::internal("wait for a turn", &error))?;
        let (from, to) = (from.flist.clone(), to.flist.clone());
        let compared = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let open = |path: &std::path::Path| {
                lamina_store::open_flist(path).map_err(|error| {
                    NodeError::internal(&format!("read the flist {}", path.display()), &error)
                })
            };
            diff(&open(&from)?, &open(&to)?).map_err(|error| damaged(&error))
        });
        let found = compared
            .await
            .map_err(|error| NodeError::internal("compare flists", &error))??;
        for batch in found.chunks(BATCH) {
            let differences = batch.iter().map(told).collect();
            let message = CompareTreesResponse { differences };
            if tell.send(Ok(message)).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

fn damaged(error: &DiffError) -> NodeError {
    let message = format!("compare the flists: {}", crate::chain(error));
    NodeError::new(Code::DataLoss, message)
}

fn told(difference: &Difference) -> TreeDifference {
    let (renamed_from, aspects) = match &difference.change {
        Change::RenamedFrom(from) => (from.clone(), Vec::new()),
        Change::Changed(aspects) => (Vec::new(), aspects.clone()),
        Change::Added | Change::Removed => (Vec::new(), Vec::new()),
    };
    let aspects = aspects.iter().map(|aspect| aspect.as_str().to_owned());
    TreeDifference {
        path: difference.path.clone(),
        change: difference.change.as_str().to_owned(),
        renamed_from,
        aspects: aspects.collect(),
    }
}
