//! Events on the objects people look at. One that cannot be written is logged, never a failure.

use kube::Resource;
use kube::runtime::events::{Event, EventType, Recorder};

/// Longest note the API server takes.
const NOTE_BYTES_MAX: usize = 1000;

/// Says on `object` that something happened.
pub(crate) async fn say<K>(
    recorder: &Recorder,
    object: &K,
    kind: EventType,
    reason: &str,
    note: &str,
) where
    K: Resource<DynamicType = ()>,
{
    let note: String = note.chars().take(NOTE_BYTES_MAX / 4).collect();
    let event = Event {
        type_: kind,
        reason: reason.to_owned(),
        note: Some(note),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, &object.object_ref(&())).await {
        tracing::warn!(%error, reason, "could not write an event");
    }
}
