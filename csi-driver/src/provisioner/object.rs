//! The `PersistentVolume` for a volume. Pure.
//!
//! No node affinity, as every node can show it; and no finalizer, as nothing is behind it that would be left
//! over: an uninstalled Lamina never leaves an object that cannot be deleted.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{
            CSIPersistentVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim,
            PersistentVolumeSpec, SecretReference,
        },
        storage::v1::StorageClass,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::api::ObjectMeta;
use lamina_proto::csi::v1::Volume;

use super::decide::{PROVISIONED_BY, Plan, class_of};
use crate::identity::DRIVER;

/// The object that binds `claim` to `volume`.
pub fn persistent_volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    plan: &Plan,
    volume: Volume,
) -> PersistentVolume {
    let meta = &claim.metadata;
    let secret = plan
        .secret
        .clone()
        .map(|(namespace, name)| SecretReference {
            name: Some(name),
            namespace: Some(namespace),
        });
    let csi = CSIPersistentVolumeSource {
        driver: DRIVER.into(),
        volume_handle: volume.volume_id,
        volume_attributes: Some(volume.volume_context.into_iter().collect()),
        node_publish_secret_ref: secret,
        ..CSIPersistentVolumeSource::default()
    };
    let claim_ref = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..ObjectReference::default()
    };
    let policy = class
        .reclaim_policy
        .clone()
        .unwrap_or_else(|| "Delete".into());
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(plan.request.name.clone()),
            annotations: Some([(PROVISIONED_BY.to_owned(), DRIVER.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: claim
                .spec
                .as_ref()
                .and_then(|spec| spec.access_modes.clone()),
            capacity: Some(BTreeMap::from([(
                "storage".to_owned(),
                Quantity(plan.storage.clone()),
            )])),
            claim_ref: Some(claim_ref),
            csi: Some(csi),
            mount_options: class.mount_options.clone(),
            persistent_volume_reclaim_policy: Some(policy),
            storage_class_name: class_of(claim).map(str::to_owned),
            volume_mode: Some("Filesystem".into()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_object_says_all_that_a_mount_needs() {
        let claim = json!({
            "metadata": {"name": "c", "namespace": "ns", "uid": "u", "resourceVersion": "7"},
            "spec": {"accessModes": ["ReadOnlyMany"], "storageClassName": "lamina"},
        });
        let class = json!({"metadata": {"name": "lamina"}, "provisioner": DRIVER, "mountOptions": ["nodev"]});
        let plan = Plan {
            request: lamina_proto::csi::v1::CreateVolumeRequest {
                name: "pvc-u".into(),
                ..Default::default()
            },
            storage: "1Gi".into(),
            secret: Some(("ns".into(), "s".into())),
            source: "a".into(),
        };
        let volume = Volume {
            volume_id: "lamina-1".into(),
            volume_context: [("lamina.dev/image".to_owned(), "a".to_owned())].into(),
            ..Volume::default()
        };
        let (claim, class) = (
            serde_json::from_value(claim).unwrap(),
            serde_json::from_value(class).unwrap(),
        );
        let made = serde_json::to_value(persistent_volume(&claim, &class, &plan, volume)).unwrap();
        let want = json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "pvc-u", "annotations": {"pv.kubernetes.io/provisioned-by": DRIVER}},
            "spec": {
                "accessModes": ["ReadOnlyMany"],
                "capacity": {"storage": "1Gi"},
                "claimRef": {
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "c", "namespace": "ns",
                    "resourceVersion": "7", "uid": "u",
                },
                "csi": {
                    "driver": DRIVER, "volumeHandle": "lamina-1",
                    "volumeAttributes": {"lamina.dev/image": "a"},
                    "nodePublishSecretRef": {"name": "s", "namespace": "ns"},
                },
                "mountOptions": ["nodev"],
                "persistentVolumeReclaimPolicy": "Delete",
                "storageClassName": "lamina",
                "volumeMode": "Filesystem",
            },
        });
        assert_eq!(made, want);
    }
}
