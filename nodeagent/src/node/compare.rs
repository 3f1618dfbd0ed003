//! What differs between two flists, for who does not have them.

use std::sync::Arc;
use std::time::Duration;

use lamina_flist::FlistError;
use lamina_image::diff::{Change, DiffError, DiffLimits, Difference, diff_within};
use lamina_proto::lamina::v1::{CompareTreesResponse, TreeDifference};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tonic::{Code, Status};

use super::error::NodeError;
use super::library::Have;

/// Differences in one message.
const BATCH: usize = 256;
/// Comparisons at once: each holds both trees in memory.
const AT_ONCE: usize = 1;
/// Those that wait for their turn, and how long.
const WAITING_MAX: usize = 16;
const TURN: Duration = Duration::from_secs(20);
/// How long a caller may take for a message.
const STALL: Duration = Duration::from_secs(5);
/// A quarter of a gibibyte for each side at most, of the node server's memory.
const LIMITS: DiffLimits = DiffLimits {
    entries_max: 400_000,
    path_bytes_max: 32 << 20,
};

type Tell = mpsc::Sender<Result<CompareTreesResponse, Status>>;

/// Lets only so many be compared at once.
pub(super) struct Comparing {
    turns: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Default for Comparing {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Semaphore::new(WAITING_MAX),
        }
    }
}

impl Comparing {
    /// Sends the differences, or why there are none; a caller that is gone, or does not read, ends that.
    pub(super) async fn send(&self, old: &Have, new: &Have, tell: Tell) {
        let sent = tokio::select! {
            sent = self.compare(old, new, &tell) => sent,
            () = tell.closed() => return,
        };
        if let Err(error) = sent {
            let _ = timeout(STALL, tell.send(Err(error.into()))).await;
        }
    }

    async fn compare(&self, old: &Have, new: &Have, tell: &Tell) -> Result<(), NodeError> {
        let turn = Arc::new(self.turn().await?);
        let (old, new) = (old.flist.clone(), new.flist.clone());
        // Also while nobody waits for it any more.
        let held = Arc::clone(&turn);
        let compared = tokio::task::spawn_blocking(move || {
            let _held = held;
            let open = |path: &std::path::Path| {
                lamina_store::open_flist(path).map_err(|error| {
                    NodeError::internal(&format!("read the flist {}", path.display()), &error)
                })
            };
            diff_within(&open(&old)?, &open(&new)?, &LIMITS).map_err(|error| not_compared(&error))
        });
        let found = compared
            .await
            .map_err(|error| NodeError::internal("compare flists", &error))??;
        for batch in found.chunks(BATCH) {
            let differences = batch.iter().map(told).collect();
            let message = CompareTreesResponse { differences };
            let sent = timeout(STALL, tell.send(Ok(message))).await;
            let late = |_| NodeError::new(Code::DeadlineExceeded, "the caller takes too long");
            // An error: it is gone.
            let _ = sent.map_err(late)?;
        }
        Ok(())
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, NodeError> {
        let busy = || {
            let why = "compare flists: others are compared now; try again in a moment";
            NodeError::new(Code::ResourceExhausted, why)
        };
        let _waiting = self.waiting.try_acquire().map_err(|_| busy())?;
        let turn = timeout(TURN, Arc::clone(&self.turns).acquire_owned()).await;
        let turn = turn.map_err(|_| busy())?;
        turn.map_err(|error| NodeError::internal("wait for a turn", &error))
    }
}

fn not_compared(error: &DiffError) -> NodeError {
    let why = crate::chain(error);
    if let DiffError::TooLarge(_) | DiffError::Flist(FlistError::Limit { .. }) = error {
        let message = format!(
            "the flists are too large to compare here: {why}; compare them with `lamina diff` where they are"
        );
        return NodeError::new(Code::FailedPrecondition, message);
    }
    NodeError::new(Code::DataLoss, format!("compare the flists: {why}"))
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
