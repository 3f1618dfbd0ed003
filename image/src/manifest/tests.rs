//! Documents that are read, and those that are refused.

use super::*;

fn digest(fill: &str) -> String {
    format!("sha256:{}", fill.repeat(32))
}

fn descriptor(media_type: &str, fill: &str) -> serde_json::Value {
    serde_json::json!({ "mediaType": media_type, "digest": digest(fill), "size": 10 })
}

fn parse(json: &serde_json::Value) -> Result<Document, ManifestError> {
    parse_document(json.to_string().as_bytes(), None, &Limits::default())
}

fn manifest() -> serde_json::Value {
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(CONFIG_TYPES[0], "aa"),
        "layers": [descriptor(LAYER_TYPES[1], "bb")],
    })
}

#[test]
fn both_spellings_parse() {
    assert!(matches!(parse(&manifest()).unwrap(), Document::Manifest(m) if m.layers.len() == 1));
    let mut docker = manifest();
    docker["mediaType"] = DOCKER_MANIFEST.into();
    docker["config"]["mediaType"] = CONFIG_TYPES[1].into();
    docker["layers"][0]["mediaType"] = LAYER_TYPES[7].into();
    assert!(parse(&docker).is_ok());
}

#[test]
fn hostile_documents_are_refused_by_name() {
    type Edit = fn(&mut serde_json::Value);
    let cases: Vec<(Edit, &str)> = vec![
        (|m| m["schemaVersion"] = 1.into(), "schema version 1"),
        (|m| m["manifests"] = serde_json::json!([]), "ambiguous"),
        (|m| m["fsLayers"] = serde_json::json!([]), "schema 1"),
        (|m| m["mediaType"] = OCI_INDEX.into(), "calls itself"),
        (
            |m| m["layers"][0]["digest"] = "sha256:00".into(),
            "malformed",
        ),
        (
            |m| m["layers"][0]["digest"] = "sha512:00".into(),
            "malformed",
        ),
        (|m| m["layers"][0]["size"] = (-1).into(), "malformed"),
        (
            |m| m["layers"][0]["size"] = (1u64 << 60).into(),
            "layer has",
        ),
        (
            |m| m["config"]["size"] = (1u64 << 40).into(),
            "image config has",
        ),
        (
            |m| m["layers"][0]["mediaType"] = "application/x-evil".into(),
            "unsupported type",
        ),
        (
            |m| m["config"]["mediaType"] = "application/vnd.cncf.helm".into(),
            "not an image",
        ),
        (
            |m| m["layers"] = vec![m["layers"][0].clone(); 600].into(),
            "600 entries",
        ),
        (
            |m| drop(m.as_object_mut().unwrap().remove("config")),
            "ambiguous",
        ),
    ];
    for (edit, want) in cases {
        let mut json = manifest();
        edit(&mut json);
        let error = parse(&json).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    let twice = br#"{"schemaVersion":2,"schemaVersion":2}"#;
    assert!(parse_document(twice, None, &Limits::default()).is_err());
    let served = parse_document(
        manifest().to_string().as_bytes(),
        Some(DOCKER_MANIFEST),
        &Limits::default(),
    );
    assert!(matches!(served, Err(ManifestError::Ambiguous(_))));
    let deep = "[".repeat(100_000);
    assert!(parse_document(deep.as_bytes(), None, &Limits::default()).is_err());
}

#[test]
fn the_error_for_a_missing_platform_lists_what_there_is() {
    let mut manifests = Vec::new();
    for arch in ["arm64", "s390x", "unknown"] {
        let mut d = descriptor(OCI_MANIFEST, "aa");
        let os = if arch == "unknown" {
            "unknown"
        } else {
            "linux"
        };
        d["platform"] = serde_json::json!({ "os": os, "architecture": arch });
        manifests.push(d);
    }
    let json = serde_json::json!({ "schemaVersion": 2, "manifests": manifests });
    let Document::Index(index) = parse(&json).unwrap() else {
        panic!()
    };
    assert!(index.choose(&"linux/arm64".parse().unwrap()).is_ok());
    let error = index
        .choose(&"linux/amd64".parse().unwrap())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "no image for linux/amd64; there is: linux/arm64, linux/s390x"
    );
}

#[test]
fn configs_must_name_every_layer() {
    let json = serde_json::json!({
        "os": "linux", "architecture": "amd64", "config": { "Env": ["A=1"] },
        "rootfs": { "type": "layers", "diff_ids": [digest("cc")] },
    });
    let bytes = json.to_string();
    let config = parse_config(bytes.as_bytes(), 1, &Limits::default()).unwrap();
    assert_eq!(config.json, json);
    let error = parse_config(bytes.as_bytes(), 2, &Limits::default()).unwrap_err();
    assert!(matches!(
        error,
        ManifestError::LayerCount {
            diff_ids: 1,
            layers: 2
        }
    ));
    assert!(parse_config(b"{}", 0, &Limits::default()).is_err());
}
