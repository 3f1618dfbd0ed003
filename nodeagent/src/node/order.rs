//! What a publish call asks for, checked as a whole before anything is touched.

use std::path::PathBuf;

use lamina_proto::lamina::v1::{OverlayMedium, Pod, PublishRequest, Warm};

use super::error::NodeError;
use super::source::{Named, stores_digest};
use super::target::{Target, Targets};
use super::volumes::{Key, PodName, Record, VolumeId, What};
use crate::api::Medium;

/// Longest path inside a source.
const SUB_PATH_MAX: usize = 4095;
/// Longest name of a pod's that is kept.
const POD_TEXT_MAX: usize = 256;

/// A publish call that makes sense.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) key: Key,
    pub(super) target: Target,
    pub(super) named: Named,
    pub(super) stores: Vec<String>,
    pub(super) what: What,
    pub(super) warm: Warm,
    pub(super) pod: PodName,
}

impl Order {
    pub(super) fn parse(request: PublishRequest, targets: &Targets) -> Result<Self, NodeError> {
        let id = VolumeId::parse(&request.volume_id)?;
        let target = targets.parse(&request.target)?;
        let named = Named::parse(request.source)?;
        check_sub_path(&request.sub_path)?;
        let warm = Warm::try_from(request.prefetch)
            .map_err(|_| NodeError::invalid("the prefetch asked for is not known"))?;
        if request.overlay_bytes_max > 0 && !request.writable {
            return Err(NodeError::invalid(
                "a bound on changes for a volume that is not writable",
            ));
        }
        let overlay_medium = medium(request.overlay_medium, request.writable)?;
        let what = What {
            source: named.canonical.clone(),
            stores: stores_digest(&request.stores)?,
            writable: request.writable,
            overlay_bytes_max: request.overlay_bytes_max,
            overlay_medium,
            sub_path: request.sub_path,
        };
        let path: PathBuf = target.path().into();
        Ok(Self {
            key: Key { id, target: path },
            target,
            named,
            stores: request.stores,
            what,
            warm,
            pod: pod_name(request.pod.unwrap_or_default()),
        })
    }

    /// As it is written down before anything is mounted.
    pub(super) fn record(&self) -> Record {
        Record {
            volume_id: self.key.id.clone(),
            target: self.key.target.clone(),
            what: self.what.clone(),
            pod: self.pod.clone(),
            reference: self.named.reference.clone(),
            digest: String::new(),
            mode: String::new(),
            published_unix_ms: 0,
            took_us: 0,
            ensure_us: 0,
        }
    }
}

fn medium(asked: i32, writable: bool) -> Result<Medium, NodeError> {
    let medium = match OverlayMedium::try_from(asked) {
        Ok(OverlayMedium::Unspecified) => return Ok(Medium::default()),
        Ok(OverlayMedium::Memory) => Medium::Memory,
        Ok(OverlayMedium::Disk) => Medium::Disk,
        Err(_) => {
            return Err(NodeError::invalid("the medium of the changes is not known"));
        }
    };
    match writable {
        true => Ok(medium),
        false => Err(NodeError::invalid(
            "a medium of changes for a volume that is not writable",
        )),
    }
}

fn check_sub_path(path: &str) -> Result<(), NodeError> {
    let why = match path {
        long if long.len() > SUB_PATH_MAX => "is too long",
        nul if nul.contains('\0') => "has a NUL in it",
        up if up.split('/').any(|part| part == "..") => "has `..` in it",
        _ => return Ok(()),
    };
    let shown: String = path.chars().take(100).collect();
    Err(NodeError::invalid(format!("the sub-path {shown:?} {why}")))
}

fn pod_name(pod: Pod) -> PodName {
    let short = |text: String| text.chars().take(POD_TEXT_MAX).collect();
    PodName {
        namespace: short(pod.namespace),
        name: short(pod.name),
        uid: short(pod.uid),
    }
}
