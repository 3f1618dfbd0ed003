//! Events on the objects people look at. One that cannot be written is logged, never a failure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use kube::runtime::events::{Event, EventType, Recorder};
use lamina_crds::conditions::find;

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
    say_of(recorder, object, kind, reason, note, "Reconcile").await;
}

/// The same of what may happen to an object several times: the recorder counts events of one reason and action as
/// repetitions of the first, whose note is the only one to be read.
pub(crate) async fn say_of<K>(
    recorder: &Recorder,
    object: &K,
    kind: EventType,
    reason: &str,
    note: &str,
    action: &str,
) where
    K: Resource<DynamicType = ()>,
{
    let note: String = note.chars().take(NOTE_BYTES_MAX / 4).collect();
    let event = Event {
        type_: kind,
        reason: reason.to_owned(),
        note: Some(note),
        action: action.to_owned(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, &object.object_ref(&())).await {
        tracing::warn!(%error, reason, "could not write an event");
    }
}

/// Warns on `object` when it is not ready for another reason than before; that work goes on is none.
pub(crate) async fn warn_if_unready<K>(
    recorder: &Recorder,
    object: &K,
    old: &[Condition],
    new: &[Condition],
) where
    K: Resource<DynamicType = ()>,
{
    let Some(ready) = find(new, "Ready") else {
        return;
    };
    let moved = find(old, "Ready").is_none_or(|before| before.reason != ready.reason);
    if moved && ready.status == "False" && ready.reason != "Working" {
        let kind = EventType::Warning;
        say(recorder, object, kind, &ready.reason, &ready.message).await;
    }
}
