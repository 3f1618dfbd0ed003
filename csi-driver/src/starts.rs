//! What was fetched ahead of a pod's start, told on the pod once the start is over.
//!
//! Best effort and bounded: a driver that ends meanwhile, or that has enough to tell, says nothing.

use std::{sync::Arc, time::Duration};

use lamina_proto::lamina::v1::Volume;
use tokio::sync::Semaphore;

use crate::{
    agent::Agent,
    deadline::Deadline,
    events::{self, Events, Note, Subject},
};

/// A little longer than a start is recorded (`docs/semantics.md`).
const OVER: Duration = Duration::from_secs(125);
/// Starts followed at once.
const STARTS_MAX: usize = 256;
/// How long the node server may take to answer.
const ASK: Duration = Duration::from_secs(10);

/// A volume whose pod starts.
pub(crate) struct Start {
    /// The volume as the node server calls it.
    pub(crate) volume: String,
    /// Where it is.
    pub(crate) target: String,
    /// What it was made of.
    pub(crate) source: String,
    /// Who is told.
    pub(crate) on: Subject,
}

/// Starts that go on.
#[derive(Debug, Clone)]
pub struct Starts(Arc<Semaphore>);

impl Default for Starts {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(STARTS_MAX)))
    }
}

impl Starts {
    /// Tells what was fetched ahead of a start when it is over.
    pub(crate) fn follow(&self, start: Start, agent: Agent, events: Events) {
        let Ok(slot) = Arc::clone(&self.0).try_acquire_owned() else {
            return;
        };
        tokio::spawn(async move {
            let _slot = slot;
            tokio::time::sleep(OVER).await;
            match agent.volumes(Deadline::after(ASK)).await {
                Ok(volumes) => {
                    if let Some(note) = note(&start, &volumes) {
                        events.say(note);
                    }
                }
                Err(error) => tracing::debug!(%error, "ask what was fetched ahead of a start"),
            }
        });
    }
}

/// What there is to say: nothing of a volume that is gone, or that nothing was fetched for.
fn note(start: &Start, volumes: &[Volume]) -> Option<Note> {
    let is_it = |one: &&Volume| one.volume_id == start.volume && one.target == start.target;
    let volume = volumes.iter().find(is_it)?;
    let something = volume.bytes_prefetched > 0;
    something.then(|| events::prefetched(start.on.clone(), &start.source, volume))
}

#[cfg(test)]
mod tests {
    use lamina_proto::lamina::v1::Pod;

    use super::*;

    #[test]
    fn a_start_is_told_for_the_volume_that_is_still_there_if_something_was_fetched() {
        let pod = Pod {
            namespace: "shop".into(),
            name: "till".into(),
            uid: String::new(),
        };
        let start = Start {
            volume: "v".into(),
            target: "/t".into(),
            source: "python:3.13".into(),
            on: Subject::pod(&pod).unwrap(),
        };
        let volume = |target: &str, bytes_prefetched: u64| Volume {
            volume_id: "v".into(),
            target: target.into(),
            profile: "shared".into(),
            bytes_prefetched,
            bytes_prefetched_used: 3 << 20,
            bytes_read: 100,
            bytes_read_local: 95,
            ..Volume::default()
        };
        assert_eq!(note(&start, &[volume("/other", 4 << 20)]), None);
        assert_eq!(note(&start, &[volume("/t", 0)]), None);
        let note = note(&start, &[volume("/other", 0), volume("/t", 4 << 20)]).unwrap();
        assert_eq!(note.reason, "PrefetchedLamina");
        assert_eq!(
            note.text,
            "Fetched 4.00 MiB of python:3.13 before it was asked for, along its shared profile: 75% of it was read in the \
             start, in which 95% of what was read did not wait"
        );
    }
}
