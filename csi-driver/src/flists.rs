//! Flist objects, as far as a mount needs them: which digest, which stores, and what to convert when no
//! store has it.

use kube::{Api, Client};
use lamina_crds::{Flist, FlistFrom, FlistSpec, FlistStatus, pinned};
use lamina_proto::lamina::v1::{ArchiveSource, FlistSource, ImageSource};
use tokio::time::timeout;
use tonic::Status;

use crate::{deadline::Deadline, volume::VolumeId};

/// Reads the Flist `name` of a pod's namespace.
///
/// # Errors
///
/// `NOT_FOUND` if there is none, UNAVAILABLE while it has no digest or the cluster does not answer in time.
pub async fn read(
    client: &Client,
    namespace: &str,
    name: &str,
    deadline: Deadline,
) -> Result<FlistSource, Status> {
    let flists: Api<Flist> = Api::namespaced(client.clone(), namespace);
    let asked = timeout(deadline.rest(), flists.get_opt(name)).await;
    let answer = asked.map_err(|_| {
        Status::unavailable(format!(
            "the Flist {namespace}/{name} could not be read in time: the cluster does not answer"
        ))
    })?;
    match answer {
        Ok(Some(flist)) => {
            let status = flist.status.unwrap_or_default();
            source(namespace, name, &flist.spec, status)
        }
        Ok(None) => Err(Status::not_found(format!(
            "there is no Flist {name} in namespace {namespace}, where the pod is; a pod can use Flists of its own namespace only"
        ))),
        Err(error) => Err(Status::unavailable(format!(
            "the Flist {namespace}/{name} could not be read: {error}"
        ))),
    }
}

/// What an object says, as the node takes it.
fn source(
    namespace: &str,
    name: &str,
    spec: &FlistSpec,
    status: FlistStatus,
) -> Result<FlistSource, Status> {
    let digest = status.digest.as_deref().unwrap_or_default();
    if digest.is_empty() {
        return Err(not_ready(namespace, name, &status));
    }
    let (image, archive) = match spec.source.from() {
        Some(FlistFrom::Image(from)) => {
            // What its tag named then: by now that may be another image, which is not this flist.
            let manifest = status.manifest.as_deref().unwrap_or_default();
            let image = ImageSource {
                reference: pinned(&from.reference, manifest),
                platform: from.platform.clone().unwrap_or_default(),
                ..ImageSource::default()
            };
            (Some(image), None)
        }
        Some(FlistFrom::Archive(from)) => {
            let archive = ArchiveSource {
                url: from.url.clone(),
                sha256: from.sha256.clone().unwrap_or_default(),
            };
            (None, Some(archive))
        }
        Some(FlistFrom::Pvc(_) | FlistFrom::Flist(_)) | None => (None, None),
    };
    Ok(FlistSource {
        digest: digest.to_owned(),
        // Those of the spec are names of Store objects, not URLs.
        stores: status.stores,
        image,
        archive,
    })
}

fn not_ready(namespace: &str, name: &str, status: &FlistStatus) -> Status {
    let mut unmet = status.conditions.iter().filter(|c| c.status == "False");
    let said = unmet
        .find(|condition| !condition.message.is_empty())
        .map_or(String::new(), |condition| {
            format!(": {}", condition.message)
        });
    Status::unavailable(format!(
        "the Flist {namespace}/{name} is not ready yet{said}; the mount is tried again (`kubectl describe flist {name} -n {namespace}`)"
    ))
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
    use std::{convert::Infallible, time::Duration};

    use kube::client::Body;
    use serde_json::{Value, json};
    use tonic::Code;

    use super::*;

    /// What the driver makes of an object, as the API server gives it.
    fn of(spec: &Value, status: &Value) -> Result<FlistSource, Status> {
        let flist: Flist = serde_json::from_value(json!({
            "apiVersion": "lamina.dev/v1alpha1", "kind": "Flist",
            "metadata": {"name": "n", "namespace": "ns"},
            "spec": spec, "status": status,
        }))
        .unwrap();
        source("ns", "n", &flist.spec, flist.status.unwrap_or_default())
    }

    #[test]
    fn a_ready_flist_gives_digest_stores_and_fallback() {
        let got = of(
            &json!({"source": {"image": {"reference": "a/b:c", "platform": "linux/arm64"}}, "stores": ["x"]}),
            &json!({"digest": "00ff", "stores": ["s3://b"]}),
        )
        .unwrap();
        assert_eq!(
            (got.digest.as_str(), got.stores),
            ("00ff", vec!["s3://b".to_owned()])
        );
        let image = got.image.unwrap();
        assert_eq!(
            (image.reference.as_str(), image.platform.as_str()),
            ("a/b:c", "linux/arm64")
        );
        let got = of(
            &json!({"source": {"archive": {"url": "https://a", "sha256": "12"}}, "stores": ["x"]}),
            &json!({"digest": "00ff"}),
        )
        .unwrap();
        assert!(got.stores.is_empty());
        assert_eq!(got.archive.unwrap().sha256, "12");
    }

    // A node that did not have it converted what the tag had moved to, and refused the result as another flist.
    #[test]
    fn the_fallback_is_the_image_that_the_tag_named_then() {
        let got = of(
            &json!({"source": {"image": {"reference": "host:5000/a/b:c"}}}),
            &json!({"digest": "00ff", "manifest": "sha256:aa"}),
        )
        .unwrap();
        assert_eq!(got.image.unwrap().reference, "host:5000/a/b@sha256:aa");
    }

    // It kept the volume's key for ever, and with it every later call for that volume.
    #[tokio::test]
    async fn a_cluster_that_does_not_answer_is_waited_for_as_long_as_the_caller_waits() {
        let never = tower::service_fn(|_| {
            std::future::pending::<Result<tonic::codegen::http::Response<Body>, Infallible>>()
        });
        let client = Client::new(never, "ns");
        let late = Deadline::after(Duration::ZERO);
        let status = read(&client, "ns", "n", late).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }

    #[test]
    fn a_flist_that_is_not_ready_says_why() {
        let conditions = json!([{
            "type": "Ready", "status": "False", "reason": "NotFound", "message": "no such image",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]);
        let spec = json!({"source": {"image": {"reference": "a"}}});
        let status = of(&spec, &json!({"conditions": conditions})).unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(
            status.message().contains("not ready yet: no such image"),
            "{status}"
        );
    }
}
