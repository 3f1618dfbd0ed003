//! `explain POD`: what became of a pod's volumes, in the order in which it happened.
//!
//! Times come from the pod's conditions, from events and from the node's records and counters of its volumes.

use super::args::Explain;
use super::cluster::{Cluster, DRIVER, get, list};
use super::fault::Fault;
use super::node::Nodes;
use super::objects::{event_time, pod_condition};
use super::status::noted;
use super::top::source;
use crate::output::{self, Show};
use anyhow::Result;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;
use lamina_proto::lamina::v1::Volume;
use serde::Serialize;
use std::time::Duration;

/// Events of these are about volumes, whoever says them.
const REASONS: [&str; 4] = [
    "FailedMount",
    "FailedScheduling",
    "FailedAttachVolume",
    "VolumeConditionAbnormal",
];

#[derive(Debug, Serialize)]
struct Report {
    pod: String,
    node: Option<String>,
    steps: Vec<Step>,
    /// What could not be found out, and what to know.
    notes: Vec<String>,
}

/// Something that happened, or holds now (no time).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Step {
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    /// Milliseconds since the pod was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    after_ms: Option<i64>,
    what: &'static str,
    detail: String,
}

impl Show for Report {
    fn table(&self) -> String {
        let rows: Vec<_> = self.steps.iter().map(row).collect();
        let node = self.node.as_deref().unwrap_or("no node yet");
        let head = output::printable(&format!("pod {} on {node}", self.pod));
        let steps = output::columns(["AT", "AFTER", "WHAT", "DETAIL"], &rows);
        let notes: Vec<String> = self
            .notes
            .iter()
            .map(|note| format!("\n- {}", output::printable(note)))
            .collect();
        match notes.is_empty() {
            true => format!("{head}\n\n{steps}"),
            false => format!("{head}\n\n{steps}\n\nnotes:{}", notes.concat()),
        }
    }
}

fn row(step: &Step) -> [String; 4] {
    let after = step.after_ms.map(|ms| {
        let after = Duration::from_millis(ms.max(0).unsigned_abs());
        format!("+{:.1} s", after.as_secs_f64())
    });
    [
        step.at.clone().unwrap_or_else(|| "now".to_owned()),
        after.unwrap_or_default(),
        step.what.to_owned(),
        step.detail.clone(),
    ]
}

pub(crate) async fn explain(cluster: &Cluster, args: &Explain) -> Result<()> {
    let namespace = &cluster.namespace;
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), namespace);
    let what = format!("pods {} in {namespace}", args.pod);
    let pod = get(&pods, &what, &args.pod).await?;
    let mut notes = Vec::new();
    let events = noted(&mut notes, events(cluster, &args.pod).await);
    let volumes = noted(&mut notes, volumes(cluster, &pod).await);
    let report = report(&pod, &events, &volumes, notes);
    output::print(&report, args.output.output)
}

async fn events(cluster: &Cluster, pod: &str) -> Result<Vec<Event>, Fault> {
    let api = Api::<Event>::namespaced(cluster.client.clone(), &cluster.namespace);
    let about = format!("involvedObject.kind=Pod,involvedObject.name={pod}");
    let what = format!("events in {}", cluster.namespace);
    list(&api, &what, &ListParams::default().fields(&about)).await
}

/// The pod's volumes, as its node has them.
async fn volumes(cluster: &Cluster, pod: &Pod) -> Result<Vec<Volume>, Fault> {
    let Some(node) = node_of(pod) else {
        return Ok(Vec::new());
    };
    let mut nodes = Nodes::find(cluster).await?;
    nodes.ready(std::slice::from_ref(&node))?;
    nodes.servers.retain(|server| server.node == node);
    let mut all = Vec::new();
    for asked in nodes.ask().await {
        all.extend(asked.answer?.volumes);
    }
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    all.retain(|volume| volume.pod.as_ref().is_some_and(|owner| owner.uid == uid));
    Ok(all)
}

fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone()
}

fn report(pod: &Pod, events: &[Event], volumes: &[Volume], mut notes: Vec<String>) -> Report {
    let born = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let mut dated = of_pod(pod);
    dated.extend(of_events(pod, events));
    if !events.iter().any(is_mount) {
        // Events are forgotten after an hour, the node's records are not.
        dated.extend(volumes.iter().filter_map(of_record));
    }
    dated.extend(volumes.iter().filter_map(of_first_read));
    dated.sort_by_key(|(at, what, _)| (at.as_second(), rank(what), *at));
    let mut steps: Vec<Step> = dated
        .into_iter()
        .map(|(at, what, detail)| Step {
            at: Some(clock(at)),
            after_ms: born.map(|born| at.as_millisecond() - born.as_millisecond()),
            what,
            detail,
        })
        .collect();
    steps.extend(volumes.iter().flat_map(of_now));
    notes.extend(remarks(pod, volumes, &notes));
    let name = |text: &Option<String>| text.clone().unwrap_or_default();
    Report {
        pod: format!(
            "{}/{}",
            name(&pod.metadata.namespace),
            name(&pod.metadata.name)
        ),
        node: node_of(pod),
        steps,
        notes,
    }
}

type Dated = (Timestamp, &'static str, String);

/// What comes first of what bears the same second: a pod's own times have no parts of it.
fn rank(what: &str) -> u8 {
    match what {
        "created" => 0,
        "scheduled" => 1,
        "started" => 3,
        "first read" => 4,
        "ready" => 5,
        "ended" => 6,
        _ => 2,
    }
}

fn of_pod(pod: &Pod) -> Vec<Dated> {
    let mut all = Vec::new();
    if let Some(born) = &pod.metadata.creation_timestamp {
        all.push((born.0, "created", String::new()));
    }
    let mut holds = |kind, what, detail: String| {
        if let Some((true, Some(at))) = pod_condition(pod, kind) {
            all.push((at, what, detail));
        }
    };
    holds(
        "PodScheduled",
        "scheduled",
        format!("on {}", node_of(pod).unwrap_or_default()),
    );
    holds("Ready", "ready", String::new());
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    for status in statuses.into_iter().flatten() {
        let state = status.state.clone().unwrap_or_default();
        let running = state.running.and_then(|running| running.started_at);
        let ended = state.terminated;
        let started = running.or_else(|| ended.as_ref().and_then(|ended| ended.started_at.clone()));
        if let Some(at) = started {
            all.push((at.0, "started", format!("container {}", status.name)));
        }
        if let Some((at, ended)) = ended.and_then(|ended| Some((ended.finished_at.clone()?, ended)))
        {
            all.push((
                at.0,
                "ended",
                format!("container {} with status {}", status.name, ended.exit_code),
            ));
        }
    }
    all
}

fn is_mount(event: &Event) -> bool {
    event.reason.as_deref() == Some("MountedLamina")
}

fn of_events(pod: &Pod, events: &[Event]) -> Vec<Dated> {
    let uid = pod.metadata.uid.as_deref();
    let said = events.iter().filter(|event| {
        // A pod of the same name may have been there before.
        let own =
            event.involved_object.uid.is_none() || event.involved_object.uid.as_deref() == uid;
        own && is_about_volumes(event)
    });
    said.filter_map(|event| {
        let warning = event.type_.as_deref() == Some("Warning");
        let what = match (is_mount(event), warning) {
            (true, _) => "mounted",
            (_, true) => "warning",
            _ => "event",
        };
        let text = event.message.clone().unwrap_or_default();
        Some((event_time(event)?, what, text))
    })
    .collect()
}

fn is_about_volumes(event: &Event) -> bool {
    let reason = event.reason.as_deref().unwrap_or_default();
    let by = event.reporting_component.as_deref().unwrap_or_default();
    reason.contains("Lamina") || by == DRIVER || REASONS.contains(&reason)
}

fn of_record(volume: &Volume) -> Option<Dated> {
    let at = Timestamp::from_millisecond(volume.published_unix_ms).ok()?;
    if volume.published_unix_ms == 0 {
        return None;
    }
    let how = match volume.ensure_us {
        0 => "it was on this node already".to_owned(),
        us => format!("{} of it to get it ready here", millis(us)),
    };
    let took = millis(volume.took_us);
    Some((
        at,
        "mounted",
        format!("{} in {took} ({how})", source(volume)),
    ))
}

/// How a volume is now: read or not, and how much of it is here.
fn of_now(volume: &Volume) -> Vec<Step> {
    let now = |what, detail| Step {
        at: None,
        after_ms: None,
        what,
        detail,
    };
    let name = source(volume);
    if volume.state == "mounting" && volume.last_error.is_empty() {
        return vec![now("mounting", format!("{name} is being mounted"))];
    }
    let read = match volume.reads {
        0 => format!(
            "{name}: no read came to the mount daemon: nothing was read, or the kernel had it all"
        ),
        reads => format!(
            "{name}: {} so far, {} without waiting, {} failed; {} fetched ({} as they travelled)",
            output::counted(reads, "read"),
            output::percent(volume.reads_local, reads),
            volume.reads_failed,
            output::size(volume.bytes_fetched),
            output::size(volume.bytes_transferred),
        ),
    };
    let (local, total) = (volume.bytes_local, volume.bytes_total);
    let here = format!(
        "{name}: {} of {} are on this node",
        output::size(local),
        output::size(total)
    );
    let mut steps = vec![
        now(
            if volume.reads == 0 {
                "not read"
            } else {
                "read"
            },
            read,
        ),
        match local >= total {
            true => now("warm", format!("{here}: no read needs a store")),
            false => now(
                "warming",
                format!("{here} ({})", output::percent(local, total)),
            ),
        },
    ];
    if volume.state != "mounted" || !volume.last_error.is_empty() {
        steps.push(now(
            "trouble",
            format!("{name} is {}: {}", volume.state, volume.last_error),
        ));
    }
    steps
}

/// What a person should know to read the steps.
fn remarks(pod: &Pod, volumes: &[Volume], notes: &[String]) -> Vec<String> {
    let mut said = Vec::new();
    let ours = declared(pod);
    if ours == 0 && volumes.is_empty() {
        said.push(format!(
            "the pod has no volume of {DRIVER}, unless a claim of it names one"
        ));
    } else if volumes.is_empty() && node_of(pod).is_some() && notes.is_empty() {
        said.push(
            "the node has no volume of this pod now: not mounted yet, or the pod has ended"
                .to_owned(),
        );
    }
    let others = |volume: &&Volume| volume.reads > 0 && of_first_read(volume).is_none();
    if let Some(volume) = volumes.iter().find(others) {
        said.push(format!(
            "{} was read by other pods of this node before this one; they share its counters",
            source(volume)
        ));
    }
    said
}

/// Inline volumes of the driver.
fn declared(pod: &Pod) -> usize {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let ours = volumes
        .into_iter()
        .flatten()
        .filter(|volume| volume.csi.as_ref().is_some_and(|csi| csi.driver == DRIVER));
    ours.count()
}

/// When a volume was first read, unless that was before it was mounted: volumes of one flist share their counters.
fn of_first_read(volume: &Volume) -> Option<Dated> {
    if volume.first_read_unix_ms < volume.published_unix_ms.max(1) {
        return None;
    }
    let at = Timestamp::from_millisecond(volume.first_read_unix_ms).ok()?;
    Some((at, "first read", source(volume)))
}

fn millis(us: u64) -> String {
    format!("{}.{} ms", us / 1000, us % 1000 / 100)
}

/// Time of the day in UTC; days are told by `after_ms`.
fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u1",
                "creationTimestamp": "2026-01-02T03:04:05Z",
            },
            "spec": {
                "nodeName": "n1", "containers": [],
                "volumes": [{ "name": "data", "csi": { "driver": "csi.lamina.dev" } }],
            },
            "status": {
                "conditions": [
                    { "type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z" },
                ],
                "containerStatuses": [{
                    "name": "main", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                    "state": { "running": { "startedAt": "2026-01-02T03:04:08Z" } },
                }],
            },
        }))
        .unwrap()
    }

    fn event(reason: &str, uid: &str, at: &str, message: &str) -> Event {
        serde_json::from_value(json!({
            "metadata": {},
            "involvedObject": { "kind": "Pod", "name": "web", "uid": uid },
            "reason": reason, "message": message, "type": "Normal",
            "eventTime": at,
        }))
        .unwrap()
    }

    fn volume() -> Volume {
        Volume {
            reference: "python:3.13".into(),
            state: "mounted".into(),
            bytes_total: 4 << 20,
            bytes_local: 1 << 20,
            bytes_fetched: 1 << 20,
            bytes_transferred: 512 << 10,
            reads: 10,
            reads_local: 9,
            published_unix_ms: 1_767_323_047_500,
            first_read_unix_ms: 1_767_323_049_250,
            took_us: 12_300,
            ..Volume::default()
        }
    }

    #[test]
    fn steps_are_told_in_the_order_in_which_they_happened() {
        let events = [
            event(
                "MountedLamina",
                "u1",
                "2026-01-02T03:04:08.500000Z",
                "Mounted python:3.13 in 12 ms",
            ),
            event(
                "MountedLamina",
                "u0",
                "2026-01-02T03:00:00.000000Z",
                "of the pod before",
            ),
            event(
                "Pulled",
                "u1",
                "2026-01-02T03:04:06.000000Z",
                "not about volumes",
            ),
        ];
        assert_eq!(
            output::unindented(&report(&pod(), &events, &[volume()], Vec::new()).table()),
            "\
pod shop/web on n1

AT             AFTER   WHAT        DETAIL
03:04:05.000Z  +0.0 s  created
03:04:05.000Z  +0.0 s  scheduled   on n1
03:04:08.500Z  +3.5 s  mounted     Mounted python:3.13 in 12 ms
03:04:08.000Z  +3.0 s  started     container main
03:04:09.250Z  +4.2 s  first read  python:3.13
now                    read        python:3.13: 10 reads so far, 90.0% without waiting, 0 failed; 1.00 MiB fetched (512 KiB as they travelled)
now                    warming     python:3.13: 1.00 MiB of 4.00 MiB are on this node (25.0%)"
        );
    }

    #[test]
    fn reads_before_the_mount_are_those_of_other_pods() {
        let shared = Volume {
            first_read_unix_ms: volume().published_unix_ms - 1,
            ..volume()
        };
        let report = report(&pod(), &[], &[shared], Vec::new());
        assert!(report.steps.iter().all(|step| step.what != "first read"));
        assert!(report.notes[0].contains("other pods"), "{:?}", report.notes);
    }

    #[test]
    fn a_forgotten_event_is_replaced_by_the_nodes_record() {
        let report = report(&pod(), &[], &[volume()], Vec::new());
        let mounted = report
            .steps
            .iter()
            .find(|step| step.what == "mounted")
            .unwrap();
        assert_eq!(
            mounted.detail,
            "python:3.13 in 12.3 ms (it was on this node already)"
        );
        assert_eq!(mounted.after_ms, Some(2500));
    }

    #[test]
    fn a_volume_that_is_all_here_is_warm_and_a_broken_one_says_why() {
        let broken = Volume {
            bytes_local: 4 << 20,
            state: "degraded".into(),
            last_error: "store gone".into(),
            ..volume()
        };
        let whats: Vec<&str> = of_now(&broken).iter().map(|step| step.what).collect();
        assert_eq!(whats, ["read", "warm", "trouble"]);
    }

    #[test]
    fn a_pod_without_volumes_is_told_so() {
        let mut bare = pod();
        bare.spec.as_mut().unwrap().volumes = None;
        let notes = report(&bare, &[], &[], Vec::new()).notes;
        assert!(
            notes[0].contains("has no volume of csi.lamina.dev"),
            "{notes:?}"
        );
    }
}
