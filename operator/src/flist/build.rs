//! What nodes are asked for a `Flist`, and what their answers mean. No I/O.

use lamina_crds::{ArchiveFrom, FlistFrom, FlistStatus, ImageFrom, pinned, size};
use lamina_proto::lamina::v1::{
    ArchiveSource, EnsureRequest, FlistInfo, FlistSource, ImageSource, PullPolicy, Source,
    source::From,
};

/// A request for `source`.
pub(crate) fn request(source: From, warm: i32, stores: &[String]) -> EnsureRequest {
    EnsureRequest {
        source: Some(Source { from: Some(source) }),
        warm,
        stores: stores.to_vec(),
        ..EnsureRequest::default()
    }
}

/// The source the first time.
pub(crate) fn first(from: FlistFrom<'_>, docker_config: &[u8], stores: &[String]) -> From {
    match from {
        FlistFrom::Image(image) => From::Image(of_image(image, &image.reference, docker_config)),
        FlistFrom::Archive(archive) => From::Archive(of_archive(archive)),
        FlistFrom::Flist(given) => stored(given.digest.clone(), stores),
        FlistFrom::Pvc(_) => stored(String::new(), stores),
    }
}

/// A flist in stores.
pub(crate) fn stored(digest: String, stores: &[String]) -> From {
    From::Flist(FlistSource {
        digest,
        stores: stores.to_vec(),
        image: None,
        archive: None,
    })
}

/// The very same on another node: from stores, else made again.
pub(crate) fn again(
    from: FlistFrom<'_>,
    digest: &str,
    status: &FlistStatus,
    docker_config: &[u8],
    stores: &[String],
) -> From {
    let manifest = status.manifest.as_deref().unwrap_or_default();
    let (image, archive) = match from {
        FlistFrom::Image(image) => {
            let reference = pinned(&image.reference, manifest);
            (Some(of_image(image, &reference, docker_config)), None)
        }
        FlistFrom::Archive(archive) => (None, Some(of_archive(archive))),
        _ => (None, None),
    };
    From::Flist(FlistSource {
        digest: digest.to_owned(),
        stores: stores.to_vec(),
        image,
        archive,
    })
}

fn of_image(image: &ImageFrom, reference: &str, docker_config: &[u8]) -> ImageSource {
    ImageSource {
        reference: reference.to_owned(),
        platform: image.platform.clone().unwrap_or_default(),
        pull_policy: PullPolicy::IfNotPresent.into(),
        docker_config_json: docker_config.to_vec(),
    }
}

fn of_archive(archive: &ArchiveFrom) -> ArchiveSource {
    ArchiveSource {
        url: archive.url.clone(),
        sha256: archive.sha256.clone().unwrap_or_default(),
    }
}

/// Takes a node's answer into the status.
pub(crate) fn indexed(status: &mut FlistStatus, info: &FlistInfo) {
    let count = |number: u64| Some(i64::try_from(number).unwrap_or(i64::MAX));
    status.digest = Some(info.digest.clone());
    status.manifest = Some(info.manifest.clone()).filter(|manifest| !manifest.is_empty());
    status.entries = count(info.entries);
    status.bytes = count(info.bytes);
    status.size = Some(size(info.bytes));
    status.bytes_stored = count(info.bytes_stored);
    status.stores = info.stores.iter().take(64).cloned().collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_node_gets_the_same_image_by_digest() {
        let image = ImageFrom {
            reference: "alpine:3".into(),
            ..ImageFrom::default()
        };
        let status = FlistStatus {
            manifest: Some("sha256:aa".into()),
            ..FlistStatus::default()
        };
        let From::Flist(source) = again(FlistFrom::Image(&image), "f1", &status, b"{}", &[]) else {
            panic!("a flist");
        };
        assert_eq!(source.digest, "f1");
        assert_eq!(source.image.unwrap().reference, "alpine@sha256:aa");
    }
}
