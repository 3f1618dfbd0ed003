//! Manifests, indexes and image configs: JSON somebody else wrote.

use lamina_image::manifest::{
    Document, MANIFEST_TYPES, check_content, check_digest, parse_config, parse_document, sha256,
};
use lamina_image::{Limits, Platform};

pub(crate) fn run(data: &[u8]) {
    let limits = Limits {
        layers_max: 8,
        index_entries_max: 8,
        ..Limits::default()
    };
    for served in [None, Some("application/json; charset=utf-8")]
        .into_iter()
        .chain(MANIFEST_TYPES.map(Some))
    {
        match parse_document(data, served, &limits) {
            Ok(Document::Index(index)) => {
                assert!(index.manifests.len() <= limits.index_entries_max);
                for wanted in ["linux/amd64", "linux/arm/v7", "windows/amd64"] {
                    let wanted: Platform = wanted.parse().expect("a platform");
                    if let Ok(descriptor) = index.choose(&wanted) {
                        let _ = check_content("manifest", descriptor, data);
                    }
                }
            }
            Ok(Document::Manifest(manifest)) => {
                assert!(manifest.layers.len() <= limits.layers_max);
                assert!(manifest.config.size <= limits.config_bytes_max);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    check_digest("document", &sha256(data), data).expect("its own digest");
    for layers in 0..3 {
        if let Ok(config) = parse_config(data, layers, &limits) {
            assert_eq!(
                (config.diff_ids.len(), config.digest),
                (layers, sha256(data))
            );
            let _ = config.platform.to_string().parse::<Platform>();
        }
    }
}
