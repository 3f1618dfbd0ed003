//! What nodes are asked for an `Image`, and what their answers mean. No I/O.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use lamina_crds::{Image, ImageStatus, pinned, size};
use lamina_proto::lamina::v1::{
    EnsureRequest, FlistInfo, FlistSource, ImageSource, PullPolicy, Source, source::From,
};

use crate::fault::Fault;
use crate::warming::{amount, keep_s};

/// Flists of before that are remembered: of a tag that moves faster than volumes end, the oldest stay on nodes.
const RETIRED_MAX: usize = 32;

/// Whether the reference has to be resolved and converted now.
pub(crate) fn is_due(image: &Image, status: &ImageStatus, now: Timestamp) -> bool {
    if status.flist.is_none() || status.observed_generation != image.metadata.generation {
        return true;
    }
    let Some(interval) = interval(&image.spec.resolve) else {
        return false;
    };
    status.resolved_at.as_ref().is_none_or(|last| {
        let passed = now.as_second().saturating_sub(last.0.as_second());
        u64::try_from(passed).is_ok_and(|passed| passed >= interval.as_secs())
    })
}

/// The time of `resolve`; none for `Once`.
pub(crate) fn interval(resolve: &str) -> Option<Duration> {
    let unit = match resolve.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return None,
    };
    let number: u64 = resolve[..resolve.len() - 1].parse().ok()?;
    Some(Duration::from_secs(number.saturating_mul(unit).max(30)))
}

/// When to look again.
pub(crate) fn next_look(image: &Image, most: Duration) -> Duration {
    interval(&image.spec.resolve).map_or(most, |interval| interval.min(most))
}

/// Resolve and convert.
pub(crate) fn convert(image: &Image, docker_config: &[u8], stores: &[String]) -> EnsureRequest {
    EnsureRequest {
        source: Some(Source {
            from: Some(From::Image(ImageSource {
                reference: image.spec.reference.clone(),
                platform: image.spec.platform.clone().unwrap_or_default(),
                pull_policy: PullPolicy::Always.into(),
                docker_config_json: docker_config.to_vec(),
            })),
        }),
        stores: stores.to_vec(),
        ..EnsureRequest::default()
    }
}

/// Have what was converted, the very same.
pub(crate) fn warm(
    image: &Image,
    status: &ImageStatus,
    docker_config: &[u8],
    stores: &[String],
) -> EnsureRequest {
    let manifest = status.digest.clone().unwrap_or_default();
    let fallback = ImageSource {
        reference: pinned(&image.spec.reference, &manifest),
        platform: image.spec.platform.clone().unwrap_or_default(),
        pull_policy: PullPolicy::IfNotPresent.into(),
        docker_config_json: docker_config.to_vec(),
    };
    EnsureRequest {
        source: Some(Source {
            from: Some(From::Flist(FlistSource {
                digest: status.flist.clone().unwrap_or_default(),
                stores: stores.to_vec(),
                image: Some(fallback),
                archive: None,
            })),
        }),
        warm: amount(image.spec.warm),
        stores: stores.to_vec(),
        keep_layers_s: keep_s(image.spec.warm),
    }
}

/// Takes a node's answer into the status.
pub(crate) fn converted(status: &mut ImageStatus, info: &FlistInfo, now: Timestamp) {
    let count = |number: u64| Some(i64::try_from(number).unwrap_or(i64::MAX));
    retire(status, &info.digest);
    status.digest = Some(info.manifest.clone());
    status.flist = Some(info.digest.clone());
    status.layers = i32::try_from(info.layers).ok();
    status.entries = count(info.entries);
    status.bytes = count(info.bytes);
    status.size = Some(size(info.bytes));
    status.bytes_stored = count(info.bytes_stored);
    status.dedup_ratio = ratio(info.bytes, info.bytes_stored);
    status.stores = info.stores.iter().take(64).cloned().collect();
    status.resolved_at = Some(Time(now));
}

/// Notes what the reference named until now, if that was another flist.
fn retire(status: &mut ImageStatus, new: &str) {
    let before = status.flist.take().filter(|before| before != new);
    let retired = &mut status.retired;
    // A tag that went back names again what it named before.
    retired.retain(|old| old != new && Some(old) != before.as_ref());
    retired.extend(before);
    let more = retired.len().saturating_sub(RETIRED_MAX);
    retired.drain(..more);
}

/// `2.41`; none if nothing is stored.
fn ratio(bytes: u64, stored: u64) -> Option<String> {
    let hundredths = bytes.checked_mul(100)?.checked_div(stored)?;
    Some(format!("{}.{:02}", hundredths / 100, hundredths % 100))
}

/// Conditions that do not hold when the conversion stopped at `fault`.
pub(crate) fn unreached(fault: &Fault) -> &'static [&'static str] {
    match fault.reason {
        // It was resolved, or nobody knows.
        "DamagedData" | "NoSpace" | "NodeFailed" => &["Converted", "Ready"],
        _ => &["Resolved", "Converted", "Ready"],
    }
}
