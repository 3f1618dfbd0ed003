//! The lead: of several operators, one works.
//!
//! What always holds: work goes on only while the lease is held, and who is told to stop gives it back when its work
//! has ended, so that the next one starts at once and not when the lease runs out.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use kube_lease_manager::LeaseManagerBuilder;

/// Name of the lease.
const NAME: &str = "lamina-operator";
/// After so long without a sign of life, another one leads.
const SECONDS: u64 = 15;
/// How much earlier it is renewed.
const GRACE_SECONDS: u64 = 5;
/// How long giving it back may take: kubelet kills soon after.
const RELEASE: Duration = Duration::from_secs(5);

/// Who elects, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    /// Namespace of the lease.
    pub(crate) namespace: String,
    /// This process.
    pub(crate) identity: String,
}

/// Works while this process leads, until `stopped`.
///
/// # Errors
/// When the lease cannot be made, the lead is lost, or the work ends by itself.
pub(crate) async fn hold(
    client: kube::Client,
    lease: Lease,
    work: impl Future<Output = ()>,
    stopped: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    tokio::pin!(stopped);
    let made = LeaseManagerBuilder::new(client, NAME)
        .with_namespace(&lease.namespace)
        .with_identity(&lease.identity)
        .with_duration(SECONDS)
        .with_grace(GRACE_SECONDS)
        .build();
    let manager = tokio::select! {
        made = made => made.context("make the lease")?,
        stopped = &mut stopped => return stopped,
    };
    let (mut leading, electing) = manager.watch().await;
    let lead = async {
        let leads = leading.wait_for(|leads| *leads).await;
        leads.context("wait for the lead")?;
        tracing::info!(identity = lease.identity, "leading");
        tokio::select! {
            () = work => anyhow::bail!("the work ended"),
            lost = leading.wait_for(|leads| !*leads) => {
                lost.context("watch the lease")?;
                anyhow::bail!("lost the lead: ending, so that nothing is done twice")
            }
        }
    };
    let ended = tokio::select! {
        ended = lead => ended,
        stopped = &mut stopped => stopped,
    };
    // Its work is dropped; now another one may begin.
    drop(leading);
    match tokio::time::timeout(RELEASE, electing).await {
        Ok(Ok(Ok(_))) => tracing::info!("gave the lease back"),
        Ok(Ok(Err(error))) => tracing::warn!(%error, "give the lease back"),
        Ok(Err(error)) => tracing::warn!(%error, "give the lease back"),
        Err(_) => {
            tracing::warn!("the lease could not be given back in time: it runs out by itself");
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};
    use tokio::sync::oneshot;

    use super::*;
    use crate::cluster::testing::FakeApi;

    const LEASE: &str =
        "/apis/coordination.k8s.io/v1/namespaces/lamina-system/leases/lamina-operator";

    /// Says when it is dropped.
    struct Working(Arc<AtomicBool>);

    impl Drop for Working {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    /// Whether a write leaves the lease to others.
    fn gives_back(write: &Value) -> bool {
        write["spec"].get("holderIdentity") == Some(&Value::Null)
    }

    #[tokio::test]
    async fn who_is_told_to_stop_ends_its_work_and_gives_the_lease_back() {
        let api = FakeApi::default();
        let object = |spec: Value| {
            json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": { "name": NAME, "namespace": "lamina-system", "resourceVersion": "1" },
                "spec": spec,
            })
        };
        api.answer(LEASE, object(json!({})));
        let now = Timestamp::now().to_string();
        let held = object(json!({
            "holderIdentity": "one", "leaseDurationSeconds": SECONDS,
            "acquireTime": now, "renewTime": now,
        }));
        api.after(&format!("PATCH {LEASE}"), LEASE, held);
        let lease = Lease {
            namespace: "lamina-system".into(),
            identity: "one".into(),
        };
        let over = Arc::new(AtomicBool::new(false));
        let (begun, has_begun) = oneshot::channel();
        let working = Working(Arc::clone(&over));
        let work = async move {
            let _working = working;
            let _ = begun.send(());
            std::future::pending::<()>().await;
        };
        let stopped = async {
            has_begun.await.unwrap();
            assert!(!gives_back(&api.last_write(LEASE)));
            Ok(())
        };
        hold(api.ctx().client, lease, work, stopped).await.unwrap();
        assert!(over.load(Ordering::SeqCst));
        let last = api.last_write(LEASE);
        assert!(gives_back(&last), "{last}");
    }
}
