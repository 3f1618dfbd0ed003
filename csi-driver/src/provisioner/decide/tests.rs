//! Decisions by table.

use serde_json::{Value, json};

use super::*;

fn claim(change: impl FnOnce(&mut Value)) -> PersistentVolumeClaim {
    let mut claim = json!({
        "metadata": {
            "name": "data", "namespace": "ns", "uid": "0001",
            "annotations": {"volume.kubernetes.io/storage-provisioner": DRIVER},
        },
        "spec": {
            "storageClassName": "lamina",
            "accessModes": ["ReadOnlyMany"],
            "resources": {"requests": {"storage": "2Gi"}},
        },
    });
    change(&mut claim);
    serde_json::from_value(claim).unwrap()
}

fn class(change: impl FnOnce(&mut Value)) -> StorageClass {
    let mut class = json!({
        "metadata": {"name": "lamina"},
        "provisioner": DRIVER,
        "parameters": {IMAGE: "python:3.13"},
    });
    change(&mut class);
    serde_json::from_value(class).unwrap()
}

fn same<T>(_: &mut T) {}

fn annotate(key: &'static str, value: &'static str) -> impl FnOnce(&mut Value) {
    move |claim| claim["metadata"]["annotations"][key] = value.into()
}

fn provisioned(claim: &PersistentVolumeClaim, class: &StorageClass) -> Plan {
    match decide(claim, Some(class), None, None) {
        Action::Provision(plan) => *plan,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_claim_is_provisioned_as_it_asks() {
    let plan = provisioned(&claim(same), &class(same));
    assert_eq!(plan.request.name, "pvc-0001");
    assert_eq!(plan.request.capacity_range.unwrap().required_bytes, 2 << 30);
    assert_eq!(
        (plan.source.as_str(), plan.storage.as_str()),
        ("python:3.13", "2Gi")
    );
    assert_eq!(plan.secret, None);
}

#[test]
fn a_copy_shows_what_its_origin_shows_in_the_way_of_its_class() {
    let origin = json!({"spec": {"csi": {"driver": DRIVER, "volumeHandle": "v", "volumeAttributes": {
        FLIST: "models", "subPath": "small", "prefetch": "all",
    }}}});
    let origin: PersistentVolume = serde_json::from_value(origin).unwrap();
    let claim = claim(|c| {
        c["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "x"});
        c["spec"]["accessModes"] = json!(["ReadWriteOnce"]);
    });
    let class = class(|c| c["parameters"]["mode"] = "rw".into());
    let Action::Provision(plan) = decide(&claim, Some(&class), None, Some(&origin)) else {
        panic!("not provisioned");
    };
    let want = [(FLIST, "models"), ("subPath", "small"), ("mode", "rw")];
    let want = want.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(plan.request.parameters, want.into());
    assert_eq!(plan.source, "models");
}

#[test]
fn a_typing_error_in_an_annotation_is_refused() {
    for key in ["lamina.dev/imag", "lamina.dev/mode"] {
        match decide(&claim(annotate(key, "rw")), Some(&class(same)), None, None) {
            Action::Refuse(why) => assert!(why.contains(key) && why.contains(IMAGE), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_not_ours_or_done_is_left_alone() {
    let other = class(|c| c["provisioner"] = "other".into());
    let volume = PersistentVolume::default();
    let strange = claim(|c| c["metadata"]["annotations"] = json!({}));
    let bound = claim(|c| c["spec"]["volumeName"] = "pv".into());
    let going = claim(|c| c["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into());
    let (claim, class) = (claim(same), class(same));
    for (claim, class, volume) in [
        (&claim, None, None),
        (&claim, Some(&other), None),
        (&claim, Some(&class), Some(&volume)),
        (&strange, Some(&class), None),
        (&bound, Some(&class), None),
        (&going, Some(&class), None),
    ] {
        assert_eq!(decide(claim, class, volume, None), Action::Ignore);
    }
}

#[test]
fn waiting_for_a_consumer_ends_with_a_node() {
    let late = class(|c| c["volumeBindingMode"] = "WaitForFirstConsumer".into());
    assert_eq!(decide(&claim(same), Some(&late), None, None), Action::Wait);
    provisioned(&claim(annotate(SELECTED_NODE, "n1")), &late);
}

#[test]
fn an_annotation_overrides_what_the_class_shows() {
    let by_flist = claim(annotate(FLIST, "numpy"));
    assert_eq!(provisioned(&by_flist, &class(same)).source, "numpy");
    let empty = class(|c| c["parameters"] = Value::Null);
    let by_image = claim(annotate(IMAGE, "a:b"));
    assert_eq!(provisioned(&by_image, &empty).source, "a:b");
}

#[test]
fn secrets_of_the_class_are_filled_in() {
    let named = |namespace: Option<&'static str>| {
        class(move |c| {
            c["parameters"][SECRET_NAME] = "pull-${pvc.name}".into();
            if let Some(namespace) = namespace {
                c["parameters"][SECRET_NAMESPACE] = namespace.into();
            }
        })
    };
    for (namespace, want) in [
        (None, "ns"),
        (Some("${pvc.namespace}"), "ns"),
        (Some("x"), "x"),
    ] {
        let secret = provisioned(&claim(same), &named(namespace)).secret;
        assert_eq!(secret, Some((want.to_owned(), "pull-data".to_owned())));
    }
}

#[test]
fn impossible_claims_are_refused_in_plain_words() {
    type Change = Box<dyn FnOnce(&mut Value)>;
    let of = |change: fn(&mut Value)| -> Change { Box::new(change) };
    let cases: Vec<(Change, Change, &str)> = vec![
        (
            of(|c| c["spec"]["volumeMode"] = "Block".into()),
            of(same),
            "not a block device",
        ),
        (
            of(|c| c["spec"]["selector"] = json!({})),
            of(same),
            "remove the selector",
        ),
        (
            of(|c| c["spec"]["dataSource"] = json!({"kind": "VolumeSnapshot", "name": "x"})),
            of(same),
            "the dataSource is a VolumeSnapshot: ",
        ),
        (
            of(|c| {
                c["spec"]["dataSourceRef"] =
                    json!({"kind": "PersistentVolumeClaim", "name": "x", "namespace": "other"});
            }),
            of(same),
            "of another namespace",
        ),
        (
            of(|c| c["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "x"})),
            of(same),
            "claim x, has no Lamina volume",
        ),
        (
            of(|c| {
                c["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "x"});
                c["metadata"]["annotations"][FLIST] = "f".into();
            }),
            of(same),
            "both a dataSource and an annotation",
        ),
        (
            of(same),
            of(|c| c["parameters"] = json!({})),
            "nothing says what to mount",
        ),
        (
            of(same),
            of(|c| c["parameters"]["imag"] = "x".into()),
            "did you mean lamina.dev/image?",
        ),
        (
            of(same),
            of(|c| c["mountOptions"] = json!(["suid"])),
            "mount option",
        ),
        (
            of(|c| c["spec"]["accessModes"] = json!(["ReadWriteMany"])),
            of(|c| c["parameters"]["mode"] = "rw".into()),
            "cannot be shared between nodes",
        ),
        (
            of(|c| c["spec"]["accessModes"] = json!(["Any"])),
            of(same),
            "access mode Any",
        ),
        (
            of(|c| {
                c["metadata"]["annotations"][IMAGE] = "a".into();
                c["metadata"]["annotations"][FLIST] = "b".into();
            }),
            of(same),
            "both lamina.dev/image and lamina.dev/flist",
        ),
    ];
    for (change, change_class, said) in cases {
        match decide(&claim(change), Some(&class(change_class)), None, None) {
            Action::Refuse(why) => assert!(why.contains(said), "{why}"),
            other => panic!("{said}: {other:?}"),
        }
    }
}

#[test]
fn only_released_volumes_of_ours_are_deleted() {
    let volume = |change: fn(&mut Value)| {
        let mut volume = json!({
            "metadata": {"name": "pvc-1", "annotations": {PROVISIONED_BY: DRIVER}},
            "spec": {
                "csi": {"driver": DRIVER, "volumeHandle": "h"},
                "persistentVolumeReclaimPolicy": "Delete",
            },
            "status": {"phase": "Released"},
        });
        change(&mut volume);
        serde_json::from_value::<PersistentVolume>(volume).unwrap()
    };
    assert!(to_delete(&volume(|_| ())));
    for change in [
        (|v| v["metadata"]["annotations"] = json!({})) as fn(&mut Value),
        |v| v["spec"]["csi"]["driver"] = "other".into(),
        |v| v["spec"]["persistentVolumeReclaimPolicy"] = "Retain".into(),
        |v| v["status"]["phase"] = "Bound".into(),
        |v| v["status"]["phase"] = "Available".into(),
        |v| v["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(),
    ] {
        assert!(!to_delete(&volume(change)));
    }
}
