//! What happened to a pod's volumes, as events on the pod: best effort, never waited for, bounded in number
//! and rate. Without a cluster nothing is said.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use lamina_crds::size;
use lamina_proto::lamina::v1::{Pod, PublishResponse, Volume};
use tokio::{sync::mpsc, time};

use crate::identity::DRIVER;

/// Events waiting to be sent; more are dropped.
const QUEUE: usize = 256;
/// Time between two events of a node, as an average bound: 600 a minute.
const PACE: Duration = Duration::from_millis(100);
/// Longest time one event is worth.
const SEND: Duration = Duration::from_secs(5);
/// Longest note the API takes.
const NOTE_MAX: usize = 1000;
const ACTION_MAX: usize = 120;

/// Where events go.
#[derive(Debug, Clone, Default)]
pub struct Events(Option<mpsc::Sender<Note>>);

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// On what.
    pub on: Subject,
    /// Something a person may have to act on.
    pub warning: bool,
    /// `CamelCase`, for machines.
    pub reason: &'static str,
    /// What was done to which volume; events that differ in it are not merged.
    pub action: String,
    /// A sentence.
    pub text: String,
}

/// The object an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// `Pod` or `PersistentVolumeClaim`.
    pub kind: &'static str,
    /// Namespace of the object.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl Events {
    /// Starts the sender.
    pub fn start(client: Client, instance: String) -> Self {
        let (queue, notes) = mpsc::channel(QUEUE);
        let reporter = Reporter {
            controller: DRIVER.into(),
            instance: Some(instance),
        };
        tokio::spawn(send(Recorder::new(client, reporter), notes));
        Self(Some(queue))
    }

    /// Nobody is told.
    pub fn none() -> Self {
        Self::default()
    }

    /// What is said is handed to a test.
    #[cfg(test)]
    pub(crate) fn heard() -> (Self, mpsc::Receiver<Note>) {
        let (queue, notes) = mpsc::channel(QUEUE);
        (Self(Some(queue)), notes)
    }

    /// Says it, if there is room.
    pub fn say(&self, note: Note) {
        if let Some(queue) = &self.0 {
            // A full queue drops the event: mounts matter more than words about them.
            let _ = queue.try_send(note);
        }
    }
}

async fn send(recorder: Recorder, mut notes: mpsc::Receiver<Note>) {
    let mut pace = time::interval(PACE);
    pace.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    while let Some(note) = notes.recv().await {
        pace.tick().await;
        let event = Event {
            type_: if note.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: note.reason.into(),
            note: Some(cut(&note.text, NOTE_MAX)),
            action: cut(&note.action, ACTION_MAX),
            secondary: None,
        };
        let on = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some(note.on.kind.into()),
            namespace: Some(note.on.namespace),
            name: Some(note.on.name),
            uid: Some(note.on.uid).filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        };
        match time::timeout(SEND, recorder.publish(&event, &on)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "an event could not be sent"),
            Err(_) => tracing::debug!("an event could not be sent in time"),
        }
    }
}

impl Subject {
    /// The pod of a call, if kubelet said which.
    pub fn pod(pod: &Pod) -> Option<Self> {
        (!pod.name.is_empty() && !pod.namespace.is_empty()).then(|| Self {
            kind: "Pod",
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        })
    }
}

/// What was mounted, how big, how much was here, how long it took.
pub fn mounted(on: Subject, source: &str, response: &PublishResponse) -> Note {
    let flist = response.flist.clone().unwrap_or_default();
    let local = (flist.bytes_local.min(flist.bytes) * 100).checked_div(flist.bytes);
    let how = match response.ensure_us {
        0 => "it was on this node already".to_owned(),
        us => format!("{} of it to get the image ready here", millis(us)),
    };
    Note {
        on,
        warning: false,
        reason: "MountedLamina",
        action: format!("Mount {source}"),
        text: format!(
            "Mounted {source} in {} ({how}): {} in {} files and directories, {}% local, the rest comes when it is read",
            millis(response.took_us),
            size(flist.bytes),
            flist.entries,
            local.unwrap_or(100),
        ),
    }
}

/// What was fetched ahead of a start, and whether it was of use.
pub fn prefetched(on: Subject, source: &str, volume: &Volume) -> Note {
    let percent = |part: u64, whole: u64| (part.min(whole) * 100).checked_div(whole);
    let along = match volume.profile.as_str() {
        "" | "none" => "along what its files need".to_owned(),
        kind => format!("along its {kind} profile"),
    };
    let used = percent(volume.bytes_prefetched_used, volume.bytes_prefetched);
    let local = percent(volume.bytes_read_local, volume.bytes_read);
    Note {
        on,
        warning: false,
        reason: "PrefetchedLamina",
        action: format!("Prefetch {source}"),
        text: format!(
            "Fetched {} of {source} before it was asked for, {along}: {}% of it was read in the start, in which {}% of \
             what was read did not wait",
            size(volume.bytes_prefetched),
            used.unwrap_or(0),
            local.unwrap_or(100),
        ),
    }
}

/// Why a mount failed.
pub fn failed(on: Subject, source: &str, why: &str) -> Note {
    Note {
        on,
        warning: true,
        reason: "MountLaminaFailed",
        action: format!("Mount {source}"),
        text: format!("Could not mount {source}: {why}"),
    }
}

fn millis(us: u64) -> String {
    match us {
        0..10_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        10_000..10_000_000 => format!("{} ms", us / 1000),
        _ => format!("{} s", us / 1_000_000),
    }
}

fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let end = (0..=max - 3).rev().find(|&i| text.is_char_boundary(i));
    format!("{}…", &text[..end.unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use lamina_proto::lamina::v1::FlistInfo;

    use super::*;

    #[test]
    fn a_mount_is_told_in_one_sentence() {
        let pod = Pod {
            namespace: "ns".into(),
            name: "p".into(),
            uid: "u".into(),
        };
        let response = PublishResponse {
            flist: Some(FlistInfo {
                bytes: 3 << 29,
                bytes_local: 3 << 27,
                entries: 7,
                ..FlistInfo::default()
            }),
            mode: "erofs".into(),
            took_us: 42_345,
            ensure_us: 0,
        };
        let note = mounted(Subject::pod(&pod).unwrap(), "python:3.13", &response);
        assert_eq!(
            note.text,
            "Mounted python:3.13 in 42 ms (it was on this node already): 1.50 GiB in 7 files and directories, 25% local, the rest comes when it is read"
        );
        assert_eq!(Subject::pod(&Pod::default()), None);
    }

    #[test]
    fn times_are_short() {
        for (us, want) in [
            (0, "0.0 ms"),
            (1234, "1.2 ms"),
            (42_345, "42 ms"),
            (12_000_000, "12 s"),
        ] {
            assert_eq!(millis(us), want);
        }
    }

    #[test]
    fn long_notes_are_cut_at_a_character() {
        let long = "ä".repeat(2000);
        assert!(cut(&long, NOTE_MAX).len() <= NOTE_MAX);
        assert!(cut(&long, NOTE_MAX).ends_with('…'));
    }
}
