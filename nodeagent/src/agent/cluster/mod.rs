//! The cluster as a source of data: chunks from other nodes, layers from whoever pulls them for all (docs/peers.md).
//!
//! ```text
//! cluster.json ──> Member: who we are, discovery, connections (made anew when the file or the certificates change)
//!                    │
//!   entries of a blob ──> Read ──> Chooser: whom? ──> Ask: one request to one node ──> verified chunks
//!                    │      │ nobody                        │ wrong, slow, busy, gone: noted, others asked
//!                    │      ▼                               ▼
//!                    │    home pulls it ── our own layerstore pulls it       what is known of peers outlives Members
//! ```
//!
//! Always: what is handed out was verified by its chunk id here; every wait has a deadline; what is known of peers and
//! layers is bounded; without a cluster nothing of this is there.

mod ask;
mod choices;
mod known;
mod member;
mod peers;
mod pool;
mod profiles;
mod pull;
mod pulse;
mod swarm;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::api::PeerCounts;
use crate::cluster_file::ClusterFile;
pub(crate) use ask::{Giver, Piece, Want};
use choices::Choices;
use known::Known;
use member::Makings;
pub(crate) use member::Member;
pub(crate) use peers::How;
pub(crate) use profiles::told_range;
pub(crate) use pull::Image;

/// Between two looks at the file and the certificates.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// This machine's place in its cluster, if it has one.
pub(crate) struct Cluster {
    run_dir: Option<PathBuf>,
    member: watch::Sender<Option<Arc<Member>>>,
    choices: Arc<Choices>,
    known: Arc<Known>,
    looking: Mutex<()>,
}

impl Cluster {
    /// The one that the run directory's file says, from now on.
    pub(crate) fn open(run_dir: &Path) -> Arc<Self> {
        let cluster = Self::of(Some(run_dir.to_owned()));
        cluster.look();
        cluster
    }

    /// None, for ever.
    #[cfg(test)]
    pub(crate) fn none() -> Arc<Self> {
        Self::of(None)
    }

    fn of(run_dir: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self {
            run_dir,
            member: watch::Sender::new(None),
            choices: Arc::default(),
            known: Arc::default(),
            looking: Mutex::default(),
        })
    }

    /// Who we are in it; `None` outside of any.
    pub(crate) fn member(&self) -> Option<Arc<Member>> {
        self.member.borrow().clone()
    }

    /// Requests to other nodes so far.
    pub(crate) fn counts(&self) -> PeerCounts {
        self.choices.counts()
    }

    /// Looks at the file and the certificates again and again.
    pub(crate) async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look();
        }
    }

    /// Who we are in it, where that may have been said a moment ago: by a node that is just starting. Inside a runtime.
    pub(crate) fn member_now(&self) -> Option<Arc<Member>> {
        self.member().or_else(|| {
            self.look();
            self.member()
        })
    }

    /// What is there and cannot be used changes nothing: it may be half of a change.
    fn look(&self) {
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(run_dir) = &self.run_dir else {
            return;
        };
        let made = match ClusterFile::read(run_dir) {
            Ok(None) => None,
            Ok(Some(file)) => match Makings::of(file) {
                Ok(makings) if self.is_current(&makings) => return,
                Ok(makings) => match makings.make(&self.choices, &self.known) {
                    Ok(member) => Some(Arc::new(member)),
                    Err(error) => return warn(&error),
                },
                Err(error) => return warn(&error),
            },
            Err(error) => return warn(&error),
        };
        if made.is_none() && self.member.borrow().is_none() {
            return;
        }
        let node = made.as_ref().map(|member| member.node().to_string());
        tracing::info!(node, "this machine's place in its cluster");
        if let Some(before) = self.member.send_replace(made) {
            before.end();
        }
    }

    fn is_current(&self, makings: &Makings) -> bool {
        let member = self.member.borrow();
        member.as_ref().is_some_and(|member| member.is_of(makings))
    }
}

fn warn(error: &dyn std::error::Error) {
    let error = crate::chain(error);
    tracing::warn!(error, "look for this machine's place in its cluster");
}

#[cfg(test)]
mod tests;
