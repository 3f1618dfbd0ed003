//! Flist objects, as far as a mount needs them: which digest, which stores, and what to convert when no
//! store has it. The only module that knows their shape.

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind},
};
use lamina_proto::lamina::v1::{ArchiveSource, FlistSource, ImageSource};
use serde_json::Value;
use tonic::Status;

use crate::volume::VolumeId;

/// Reads the Flist `name` of a pod's namespace.
///
/// # Errors
///
/// `NOT_FOUND` if there is none, UNAVAILABLE while it has no digest or the cluster does not answer.
pub async fn read(client: &Client, namespace: &str, name: &str) -> Result<FlistSource, Status> {
    let kind = GroupVersionKind::gvk("lamina.dev", "v1alpha1", "Flist");
    let api = ApiResource::from_gvk_with_plural(&kind, "flists");
    let flists: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &api);
    match flists.get_opt(name).await {
        Ok(Some(flist)) => source(namespace, name, &flist.data),
        Ok(None) => Err(Status::not_found(format!(
            "there is no Flist {name} in namespace {namespace}, where the pod is; a pod can use Flists of its own namespace only"
        ))),
        Err(error) => Err(Status::unavailable(format!(
            "the Flist {namespace}/{name} could not be read: {error}"
        ))),
    }
}

/// What an object says, as the node takes it.
fn source(namespace: &str, name: &str, flist: &Value) -> Result<FlistSource, Status> {
    let digest = flist["status"]["digest"].as_str().unwrap_or_default();
    if digest.is_empty() {
        return Err(not_ready(namespace, name, flist));
    }
    let from = &flist["spec"]["source"];
    Ok(FlistSource {
        digest: digest.to_owned(),
        // Those of the spec are names of Store objects, not URLs.
        stores: texts(&flist["status"]["stores"]),
        image: image(&from["image"]),
        archive: text(&from["archive"]["url"]).map(|url| ArchiveSource {
            url,
            sha256: text(&from["archive"]["sha256"]).unwrap_or_default(),
        }),
    })
}

/// An image is an object with a reference, or the reference alone.
fn image(image: &Value) -> Option<ImageSource> {
    let reference = text(image).or_else(|| text(&image["reference"]))?;
    Some(ImageSource {
        reference,
        platform: text(&image["platform"]).unwrap_or_default(),
        ..ImageSource::default()
    })
}

fn not_ready(namespace: &str, name: &str, flist: &Value) -> Status {
    let conditions = flist["status"]["conditions"].as_array();
    let said = conditions
        .into_iter()
        .flatten()
        .filter(|c| c["status"] == "False")
        .find_map(|c| text(&c["message"]))
        .map_or(String::new(), |said| format!(": {said}"));
    Status::unavailable(format!(
        "the Flist {namespace}/{name} is not ready yet{said}; the mount is tried again (`kubectl describe flist {name} -n {namespace}`)"
    ))
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|t| !t.is_empty()).map(str::to_owned)
}

fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(text)
        .collect()
}

/// A flist named by digest alone.
pub fn by_digest(digest: String) -> FlistSource {
    FlistSource {
        digest,
        ..FlistSource::default()
    }
}

/// Refusal where names of objects mean nothing.
pub fn no_cluster(id: &VolumeId, name: &str) -> Status {
    Status::failed_precondition(format!(
        "volume {id} names the Flist object {name}, but this driver has no cluster or does not know the pod: name the flist by its digest"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tonic::Code;

    use super::*;

    #[test]
    fn a_ready_flist_gives_digest_stores_and_fallback() {
        let flist = json!({
            "spec": {"source": {"image": {"reference": "a/b:c", "platform": "linux/arm64"}}, "stores": ["x"]},
            "status": {"digest": "00ff", "stores": ["s3://b"]},
        });
        let got = source("ns", "n", &flist).unwrap();
        assert_eq!(
            (got.digest.as_str(), got.stores),
            ("00ff", vec!["s3://b".to_owned()])
        );
        let image = got.image.unwrap();
        assert_eq!(
            (image.reference.as_str(), image.platform.as_str()),
            ("a/b:c", "linux/arm64")
        );
        let flist = json!({
            "spec": {"source": {"archive": {"url": "https://a", "sha256": "12"}}, "stores": ["x"]},
            "status": {"digest": "00ff"},
        });
        let got = source("ns", "n", &flist).unwrap();
        assert!(got.stores.is_empty());
        assert_eq!(got.archive.unwrap().sha256, "12");
    }

    #[test]
    fn a_flist_that_is_not_ready_says_why() {
        let flist = json!({"status": {"conditions": [
            {"type": "Ready", "status": "False", "message": "no such image"}]}});
        let status = source("ns", "n", &flist).unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(
            status.message().contains("not ready yet: no such image"),
            "{status}"
        );
    }
}
