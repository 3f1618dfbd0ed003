//! Volumes are created once, found again, and never mixed up.

use lamina_proto::csi::v1::{
    controller_server::Controller as _,
    volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode::Mode},
    volume_content_source::{SnapshotSource, Type, VolumeSource},
};
use tonic::Code;

use super::*;
use crate::attributes::IMAGE;

fn controller() -> Controller {
    Controller::new(Ledger::new(None))
}

fn capability(mode: Mode) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}

fn ask(name: &str, image: &str, bytes: i64) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.into(),
        capacity_range: Some(CapacityRange {
            required_bytes: bytes,
            limit_bytes: 0,
        }),
        volume_capabilities: vec![capability(Mode::SingleNodeWriter)],
        parameters: [(IMAGE.to_owned(), image.to_owned())].into(),
        ..CreateVolumeRequest::default()
    }
}

fn soon() -> Deadline {
    Deadline::after(std::time::Duration::from_secs(30))
}

async fn code(controller: &Controller, ask: CreateVolumeRequest) -> Code {
    controller
        .create(ask, soon())
        .await
        .map_or_else(|s| s.code(), |_| Code::Ok)
}

#[tokio::test]
async fn the_same_name_is_the_same_volume_or_refused() {
    let c = controller();
    let first = c.create(ask("n", "a", 1 << 20), soon()).await.unwrap();
    assert_eq!(
        c.create(ask("n", "a", 1 << 20), soon()).await.unwrap(),
        first
    );
    assert_eq!(code(&c, ask("n", "b", 1 << 20)).await, Code::AlreadyExists);
    assert_eq!(code(&c, ask("n", "a", 2 << 20)).await, Code::AlreadyExists);
    assert_ne!(
        c.create(ask("m", "a", 1 << 20), soon())
            .await
            .unwrap()
            .volume_id,
        first.volume_id
    );
    // Another process, or this one after a restart, gives the same volume.
    assert_eq!(
        controller()
            .create(ask("n", "a", 1 << 20), soon())
            .await
            .unwrap(),
        first
    );
    let gone = DeleteVolumeRequest {
        volume_id: first.volume_id,
        ..Default::default()
    };
    c.delete_volume(Request::new(gone)).await.unwrap();
    assert_eq!(code(&c, ask("n", "b", 1 << 20)).await, Code::Ok);
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let c = controller();
    let base = || ask("n", "a", 1);
    let snapshot = Type::Snapshot(SnapshotSource {
        snapshot_id: "s".into(),
    });
    let missing = Type::Volume(VolumeSource {
        volume_id: "v".into(),
    });
    let from = |origin| {
        Some(VolumeContentSource {
            r#type: Some(origin),
        })
    };
    let block = VolumeCapability {
        access_type: Some(AccessType::Block(BlockVolume {})),
        ..capability(Mode::SingleNodeWriter)
    };
    let mut rw = base();
    rw.parameters.insert("mode".into(), "rw".into());
    rw.volume_capabilities = vec![capability(Mode::MultiNodeMultiWriter)];
    let range = |required_bytes, limit_bytes| {
        Some(CapacityRange {
            required_bytes,
            limit_bytes,
        })
    };
    for (request, want) in [
        (
            CreateVolumeRequest {
                name: String::new(),
                ..base()
            },
            Code::InvalidArgument,
        ),
        (
            CreateVolumeRequest {
                name: "n".repeat(1 << 20),
                ..base()
            },
            Code::InvalidArgument,
        ),
        (
            CreateVolumeRequest {
                volume_capabilities: vec![],
                ..base()
            },
            Code::InvalidArgument,
        ),
        (
            CreateVolumeRequest {
                volume_capabilities: vec![block],
                ..base()
            },
            Code::InvalidArgument,
        ),
        (
            CreateVolumeRequest {
                parameters: std::collections::HashMap::default(),
                ..base()
            },
            Code::InvalidArgument,
        ),
        (
            CreateVolumeRequest {
                capacity_range: range(2, 1),
                ..base()
            },
            Code::OutOfRange,
        ),
        (
            CreateVolumeRequest {
                capacity_range: range(-2, 0),
                ..base()
            },
            Code::InvalidArgument,
        ),
        (
            CreateVolumeRequest {
                volume_content_source: from(snapshot),
                ..base()
            },
            Code::InvalidArgument,
        ),
        (
            CreateVolumeRequest {
                volume_content_source: from(missing),
                ..base()
            },
            Code::NotFound,
        ),
        (rw, Code::InvalidArgument),
    ] {
        let said = format!("{:.300?}", request.name.len());
        assert_eq!(code(&c, request).await, want, "{said}");
    }
}

#[tokio::test]
async fn a_copy_shows_what_its_origin_shows() {
    let c = controller();
    let first = c.create(ask("n", "a", 1), soon()).await.unwrap();
    let origin = Type::Volume(VolumeSource {
        volume_id: first.volume_id.clone(),
    });
    let copy = CreateVolumeRequest {
        volume_content_source: Some(VolumeContentSource {
            r#type: Some(origin),
        }),
        parameters: std::collections::HashMap::default(),
        ..ask("m", "", 1)
    };
    let copy = c.create(copy, soon()).await.unwrap();
    assert_eq!(copy.volume_context, first.volume_context);
    assert_ne!(copy.volume_id, first.volume_id);
    assert!(copy.content_source.is_some());
}

#[tokio::test]
async fn pages_hold_every_volume_once() {
    let c = controller();
    for n in 0..7 {
        c.create(ask(&format!("n{n}"), "a", 1), soon())
            .await
            .unwrap();
    }
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let ask = ListVolumesRequest {
            max_entries: 3,
            starting_token: token,
        };
        let page = c
            .list_volumes(Request::new(ask))
            .await
            .unwrap()
            .into_inner();
        seen.extend(
            page.entries
                .into_iter()
                .map(|e| e.volume.unwrap().volume_id),
        );
        token = page.next_token;
        if token.is_empty() {
            break;
        }
    }
    seen.dedup();
    assert_eq!(seen.len(), 7);
    let bad = ListVolumesRequest {
        max_entries: 0,
        starting_token: "invalid-token".into(),
    };
    assert_eq!(
        c.list_volumes(Request::new(bad)).await.unwrap_err().code(),
        Code::Aborted
    );
}

#[tokio::test]
async fn validation_answers_about_volumes_that_exist() {
    let c = controller();
    let volume = c.create(ask("n", "a", 1), soon()).await.unwrap();
    let ask = |id: &str, capability| ValidateVolumeCapabilitiesRequest {
        volume_id: id.into(),
        volume_capabilities: vec![capability],
        ..Default::default()
    };
    let good = ask(&volume.volume_id, capability(Mode::MultiNodeMultiWriter));
    let good = c
        .validate_volume_capabilities(Request::new(good))
        .await
        .unwrap();
    assert!(good.into_inner().confirmed.is_some());
    let bad = ask(&volume.volume_id, capability(Mode::Unknown));
    let bad = c
        .validate_volume_capabilities(Request::new(bad))
        .await
        .unwrap()
        .into_inner();
    assert!(bad.confirmed.is_none() && bad.message.contains("access mode"));
    let none = ask("fake-vol-id", capability(Mode::SingleNodeWriter));
    let none = c
        .validate_volume_capabilities(Request::new(none))
        .await
        .unwrap_err();
    assert_eq!(none.code(), Code::NotFound);
}
