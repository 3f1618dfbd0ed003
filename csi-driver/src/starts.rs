//! What was fetched ahead of a pod's start, told on the pod once the start is over, or with the volume if that goes before.
//!
//! Always: told once. Best effort and bounded: a driver that ends meanwhile, or that has enough to tell, says nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lamina_proto::lamina::v1::Volume;
use tokio::task::AbortHandle;

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
/// The same while an unmount waits for it.
const ASK_AT_END: Duration = Duration::from_secs(2);

/// A volume whose pod starts.
#[derive(Debug, Clone)]
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

/// A volume as the node server calls it, and where it is.
type Key = (String, String);

/// Starts that go on, and what ends the waiting for their ends.
#[derive(Debug, Clone)]
pub struct Starts {
    known: Arc<Mutex<HashMap<Key, (Start, AbortHandle)>>>,
    over: Duration,
}

impl Default for Starts {
    fn default() -> Self {
        Self {
            known: Arc::default(),
            over: OVER,
        }
    }
}

impl Starts {
    /// Tells what was fetched ahead of a start when it is over.
    pub(crate) fn follow(&self, start: Start, agent: Agent, events: Events) {
        let key = (start.volume.clone(), start.target.clone());
        let mut known = self.known();
        if known.len() >= STARTS_MAX || known.contains_key(&key) {
            return;
        }
        let (starts, over) = (self.clone(), key.clone());
        let waiting = tokio::spawn(async move {
            tokio::time::sleep(starts.over).await;
            let start = starts.known().remove(&over);
            if let Some((start, _)) = start {
                tell(&start, &agent, &events, ASK).await;
            }
        });
        known.insert(key, (start, waiting.abort_handle()));
    }

    /// Tells it now, of a volume that is about to go.
    pub(crate) async fn end(&self, volume: &str, target: &str, agent: &Agent, events: &Events) {
        let key = (volume.to_owned(), target.to_owned());
        let ended = self.known().remove(&key);
        if let Some((start, waiting)) = ended {
            waiting.abort();
            tell(&start, agent, events, ASK_AT_END).await;
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, (Start, AbortHandle)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn tell(start: &Start, agent: &Agent, events: &Events, patience: Duration) {
    match agent.volumes(Deadline::after(patience)).await {
        Ok(volumes) => {
            if let Some(note) = note(start, &volumes) {
                events.say(note);
            }
        }
        Err(error) => tracing::debug!(%error, "ask what was fetched ahead of a start"),
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
    use lamina_proto::lamina::v1::{Pod, PublishRequest};

    use super::*;
    use crate::fake::Fake;

    fn start() -> Start {
        let pod = Pod {
            namespace: "shop".into(),
            name: "till".into(),
            uid: String::new(),
        };
        Start {
            volume: "v".into(),
            target: "/t".into(),
            source: "python:3.13".into(),
            on: Subject::pod(&pod).unwrap(),
        }
    }

    /// A node server that has the start's volume mounted, and has fetched something for it.
    fn fake(dir: &std::path::Path) -> (Fake, Agent) {
        let socket = dir.join("node.sock");
        let fake = Fake::start(socket.clone());
        let mut model = fake.model.lock().unwrap();
        let ask = PublishRequest {
            volume_id: "v".into(),
            target: "/t".into(),
            ..PublishRequest::default()
        };
        model.volumes.insert("v".into(), ask);
        model.bytes_prefetched = 4 << 20;
        drop(model);
        (fake, Agent::new(socket))
    }

    #[tokio::test]
    async fn a_volume_that_goes_before_its_start_is_over_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let (_fake, agent) = fake(dir.path());
        let (events, mut notes) = Events::heard();
        let starts = Starts::default();
        starts.follow(start(), agent.clone(), events.clone());
        // kubelet publishes again what is there.
        starts.follow(start(), agent.clone(), events.clone());
        starts.end("other", "/t", &agent, &events).await;
        assert!(notes.try_recv().is_err(), "another volume");
        for _ in 0..2 {
            starts.end("v", "/t", &agent, &events).await;
        }
        assert_eq!(notes.try_recv().unwrap().reason, "PrefetchedLamina");
        assert!(notes.try_recv().is_err(), "told once");
        assert!(starts.known().is_empty(), "nothing is waited for any more");
    }

    #[tokio::test]
    async fn a_start_that_was_told_is_not_told_again_with_the_end_of_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        let (_fake, agent) = fake(dir.path());
        let (events, mut notes) = Events::heard();
        let starts = Starts {
            over: Duration::from_millis(1),
            ..Starts::default()
        };
        starts.follow(start(), agent.clone(), events.clone());
        let told = tokio::time::timeout(Duration::from_secs(60), notes.recv());
        assert_eq!(told.await.unwrap().unwrap().reason, "PrefetchedLamina");
        starts.end("v", "/t", &agent, &events).await;
        assert!(notes.try_recv().is_err());
    }

    #[test]
    fn a_start_is_told_for_the_volume_that_is_still_there_if_something_was_fetched() {
        let start = start();
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
