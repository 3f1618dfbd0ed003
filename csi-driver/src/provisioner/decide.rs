//! What is to be done about a claim, and about a `PersistentVolume`. Pure.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use lamina_proto::csi::v1::{
    CapacityRange, CreateVolumeRequest, VolumeCapability,
    volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode as Access},
};

use crate::{
    attributes::{Attributes, FLIST, IMAGE, SOURCE_KEYS, quantity},
    capability,
    identity::DRIVER,
};

/// Set by Kubernetes on claims whose class has an external provisioner, once it is that one's turn.
const PROVISIONER: [&str; 2] = [
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
];
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const CLASS_OLD: &str = "volume.beta.kubernetes.io/storage-class";
/// Of our annotations.
const PREFIX: &str = "lamina.dev/";
/// Set by us on `PersistentVolumes`.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Parameters of a class that are about the secret for pulling.
const SECRET_NAME: &str = "csi.storage.k8s.io/node-publish-secret-name";
const SECRET_NAMESPACE: &str = "csi.storage.k8s.io/node-publish-secret-namespace";

/// What is to be done about a claim.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Not ours, or done.
    Ignore,
    /// Ours, but its pod has no node yet.
    Wait,
    /// Ours, and impossible until somebody changes something; said on the claim.
    Refuse(String),
    /// Ours to provision.
    Provision(Box<Plan>),
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What the controller is asked for.
    pub request: CreateVolumeRequest,
    /// What the claim asks for, as it says it.
    pub storage: String,
    /// The secret for pulling: namespace and name.
    pub secret: Option<(String, String)>,
    /// What it shows, for events.
    pub source: String,
}

/// Whether a claim concerns this driver at all: what needs to be known before its class is read.
pub fn concerns_us(claim: &PersistentVolumeClaim) -> bool {
    let noted = PROVISIONER
        .iter()
        .filter_map(|key| annotation(claim, key))
        .any(|p| p == DRIVER);
    let bound = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_deref());
    noted && bound.is_none_or(str::is_empty) && claim.metadata.deletion_timestamp.is_none()
}

/// Name of a claim's class.
pub fn class_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let spec = claim.spec.as_ref()?;
    spec.storage_class_name
        .as_deref()
        .or_else(|| annotation(claim, CLASS_OLD))
}

/// Name of the `PersistentVolume` for a claim, and of the volume.
pub fn volume_name(claim: &PersistentVolumeClaim) -> Option<String> {
    claim.metadata.uid.as_ref().map(|uid| format!("pvc-{uid}"))
}

/// The claim of the same namespace that a claim is to show the same as, by its `dataSource`.
///
/// # Errors
///
/// A `dataSource` of another kind or namespace; says what is possible.
pub fn origin_of(claim: &PersistentVolumeClaim) -> Result<Option<&str>, String> {
    let Some(spec) = &claim.spec else {
        return Ok(None);
    };
    let (group, kind, name, namespace) = match (&spec.data_source_ref, &spec.data_source) {
        (Some(from), _) => (
            &from.api_group,
            &from.kind,
            &from.name,
            from.namespace.as_ref(),
        ),
        (None, Some(from)) => (&from.api_group, &from.kind, &from.name, None),
        (None, None) => return Ok(None),
    };
    let is_core = group.as_deref().is_none_or(str::is_empty);
    let is_near = namespace.is_none() || namespace == claim.metadata.namespace.as_ref();
    if is_core && is_near && kind == "PersistentVolumeClaim" {
        return Ok(Some(name));
    }
    Err(format!(
        "the dataSource is a {kind}{}: what a Lamina volume shows is said by {IMAGE} or {FLIST}, or by a \
         PersistentVolumeClaim of the same namespace as the dataSource",
        if is_near { "" } else { " of another namespace" }
    ))
}

/// What is to be done about `claim`, whose class and whose `PersistentVolume` are these; `origin` is the
/// `PersistentVolume` of its [`origin_of`].
pub fn decide(
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    volume: Option<&PersistentVolume>,
    origin: Option<&PersistentVolume>,
) -> Action {
    let Some(class) = class.filter(|class| class.provisioner == DRIVER) else {
        return Action::Ignore;
    };
    if !concerns_us(claim) || volume.is_some() {
        return Action::Ignore;
    }
    let late = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    if late && annotation(claim, SELECTED_NODE).is_none_or(str::is_empty) {
        return Action::Wait;
    }
    match plan(claim, class, origin) {
        Ok(plan) => Action::Provision(Box::new(plan)),
        Err(why) => Action::Refuse(why),
    }
}

fn plan(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    origin: Option<&PersistentVolume>,
) -> Result<Plan, String> {
    let spec = claim.spec.as_ref().ok_or("the claim says nothing")?;
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(
            "a Lamina volume is a directory, not a block device: use volumeMode: Filesystem".into(),
        );
    }
    if spec.selector.is_some() {
        return Err("a selector chooses among volumes that exist, but this class makes a new one: remove the selector".into());
    }
    let request = spec
        .resources
        .as_ref()
        .and_then(|r| r.requests.as_ref()?.get("storage"));
    let storage = request.map_or_else(|| "1Gi".to_owned(), |quantity| quantity.0.clone());
    let bytes = quantity::bytes(&storage).and_then(|n| i64::try_from(n).ok());
    let bytes = bytes.ok_or_else(|| format!("the size {storage} is not a quantity"))?;
    check_annotations(claim)?;
    let parameters = match origin_of(claim)? {
        None => parameters(claim, class),
        Some(name) => copied(name, origin, claim, class)?,
    };
    let attributes = Attributes::parse(&parameters).map_err(|error| {
        format!("{error} (in the StorageClass, or as an annotation of the claim)")
    })?;
    let options = class.mount_options.clone().unwrap_or_default();
    let modes = spec.access_modes.clone().unwrap_or_default();
    let capabilities = modes
        .iter()
        .map(|mode| use_of(mode, &options))
        .collect::<Result<Vec<_>, _>>()?;
    for capability in &capabilities {
        capability::check(Some(capability), attributes.mode).map_err(|error| error.to_string())?;
    }
    Ok(Plan {
        source: attributes.source().to_owned(),
        storage,
        secret: secret(claim, class),
        request: CreateVolumeRequest {
            name: volume_name(claim).ok_or("the claim has no uid")?,
            capacity_range: Some(CapacityRange {
                required_bytes: bytes,
                limit_bytes: 0,
            }),
            volume_capabilities: capabilities,
            parameters,
            ..CreateVolumeRequest::default()
        },
    })
}

/// A typing error must not show what the class says instead.
fn check_annotations(claim: &PersistentVolumeClaim) -> Result<(), String> {
    let annotations = claim.metadata.annotations.iter().flatten();
    let mut keys = annotations.map(|(key, _)| key.as_str());
    let unknown = keys.find(|key| key.starts_with(PREFIX) && ![IMAGE, FLIST].contains(key));
    unknown.map_or(Ok(()), |key| {
        Err(format!(
            "a claim has no annotation {key}: it may name {IMAGE} or {FLIST}; everything else is a parameter of the StorageClass"
        ))
    })
}

/// The class's parameters; a claim that names an image or a flist by annotation overrides what they show.
fn parameters(claim: &PersistentVolumeClaim, class: &StorageClass) -> HashMap<String, String> {
    let mut all: HashMap<_, _> = class
        .parameters
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    let own = [IMAGE, FLIST].map(|key| annotation(claim, key).map(|value| (key, value)));
    if own.iter().any(Option::is_some) {
        all.remove(IMAGE);
        all.remove(FLIST);
    }
    for (key, value) in own.into_iter().flatten() {
        all.insert(key.to_owned(), value.to_owned());
    }
    all
}

/// What another claim's volume shows, in the way that the class says.
fn copied(
    name: &str,
    origin: Option<&PersistentVolume>,
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
) -> Result<HashMap<String, String>, String> {
    if [IMAGE, FLIST]
        .iter()
        .any(|key| annotation(claim, key).is_some())
    {
        return Err(format!(
            "both a dataSource and an annotation say what to show: remove the dataSource, or {IMAGE} and {FLIST}"
        ));
    }
    let csi = origin.and_then(|volume| volume.spec.as_ref()?.csi.as_ref());
    let shown = csi.filter(|csi| csi.driver == DRIVER).ok_or_else(|| {
        format!("the dataSource, claim {name}, has no Lamina volume: name one that is bound to a volume of {DRIVER}")
    })?;
    let is_source = |key: &&String| SOURCE_KEYS.contains(&key.as_str());
    let own = class.parameters.iter().flatten();
    let how = own.filter(|(key, _)| !is_source(key));
    let what = shown.volume_attributes.iter().flatten();
    let all = how.chain(what.filter(|(key, _)| is_source(key)));
    Ok(all
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect())
}

fn use_of(mode: &str, options: &[String]) -> Result<VolumeCapability, String> {
    let mode = match mode {
        "ReadWriteOnce" => Access::SingleNodeMultiWriter,
        "ReadWriteOncePod" => Access::SingleNodeSingleWriter,
        "ReadOnlyMany" => Access::MultiNodeReaderOnly,
        "ReadWriteMany" => Access::MultiNodeMultiWriter,
        other => return Err(format!("access mode {other} is not known")),
    };
    Ok(VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume {
            mount_flags: options.to_vec(),
            ..MountVolume::default()
        })),
    })
}

/// The secret that the class names, with the claim's names filled in.
fn secret(claim: &PersistentVolumeClaim, class: &StorageClass) -> Option<(String, String)> {
    let own = claim.metadata.namespace.clone().unwrap_or_default();
    let fill = |text: &str| {
        text.replace("${pvc.namespace}", &own)
            .replace(
                "${pvc.name}",
                claim.metadata.name.as_deref().unwrap_or_default(),
            )
            .replace("${pv.name}", &volume_name(claim).unwrap_or_default())
    };
    let parameters: &BTreeMap<_, _> = class.parameters.as_ref()?;
    let name = fill(parameters.get(SECRET_NAME)?);
    let namespace = parameters
        .get(SECRET_NAMESPACE)
        .map_or_else(|| own.clone(), |n| fill(n));
    Some((namespace, name))
}

/// Whether a `PersistentVolume` says that it is this claim's.
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let bound = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    let uid = bound.and_then(|bound| bound.uid.as_ref());
    uid.is_some() && uid == claim.metadata.uid.as_ref()
}

/// Whether a `PersistentVolume` is ours to delete.
pub fn to_delete(volume: &PersistentVolume) -> bool {
    let ours = volume
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(PROVISIONED_BY));
    let spec = volume.spec.as_ref();
    let driver = spec
        .and_then(|s| s.csi.as_ref())
        .map(|csi| csi.driver.as_str());
    let policy = spec.and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
    ours.is_some_and(|by| by == DRIVER)
        && driver == Some(DRIVER)
        && policy == Some("Delete")
        && matches!(phase, Some("Released" | "Failed"))
        && volume.metadata.deletion_timestamp.is_none()
}

fn annotation<'a>(claim: &'a PersistentVolumeClaim, key: &str) -> Option<&'a str> {
    claim
        .metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}

#[cfg(test)]
mod tests;
