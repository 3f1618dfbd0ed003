//! The lead: of several operators, one works.
//!
//! What always holds: work goes on only while the lease is held, and ends before another one can take it; who is told to
//! stop gives it back when its work has ended, so that the next one starts at once and not when the lease runs out.
//!
//! Who elects learns of a lost lease only from an API server that answers. So the lease is looked at beside the work, too,
//! and the work ends when nothing shows in time that it was renewed.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube_lease_manager::LeaseManagerBuilder;
use tokio::time::{Instant, sleep, timeout};

/// Name of the lease.
const NAME: &str = "lamina-operator";
/// After so long without a sign of life, another one leads.
const SECONDS: u64 = 15;
/// How much earlier it is renewed: soon enough to be tried again before the work ends.
const GRACE_SECONDS: u64 = 10;
/// How long after it was renewed the work ends: earlier than another one leads, whose clock may be a little ahead.
const SURE: Duration = Duration::from_secs(10);
/// How often it is looked at, and how long one look may take.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_secs(2);
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
    let leases = Api::namespaced(client.clone(), &lease.namespace);
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
            why = doubt(&leases, &lease.identity) => {
                anyhow::bail!("{why}: ending, so that nothing is done twice")
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

/// Ends when another one may lead, and says why.
async fn doubt(leases: &Api<LeaseObject>, identity: &str) -> &'static str {
    let mut sure_until = Instant::now() + SURE;
    loop {
        let rest = sure_until.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return "the lease was not renewed in time";
        }
        match timeout(rest.min(LOOK), leases.get_opt(NAME)).await {
            Ok(Ok(lease)) => match sure_for(lease.as_ref(), identity, Timestamp::now()) {
                Some(rest) => sure_until = Instant::now() + rest,
                None => return "another one has the lease",
            },
            Ok(Err(error)) => tracing::warn!(%error, "look at the lease"),
            Err(_) => tracing::warn!("look at the lease: the API server does not answer"),
        }
        let rest = sure_until.saturating_duration_since(Instant::now());
        sleep(rest.min(LOOK_EVERY)).await;
    }
}

/// For how long nobody else leads; none where somebody else may hold it already.
fn sure_for(lease: Option<&LeaseObject>, identity: &str, now: Timestamp) -> Option<Duration> {
    let spec = lease?.spec.as_ref()?;
    let is_ours = spec.holder_identity.as_deref() == Some(identity);
    // Written by our own clock.
    let renewed = spec.renew_time.as_ref().filter(|_| is_ours)?.0;
    let passed = Duration::try_from(now.duration_since(renewed)).unwrap_or_default();
    Some(SURE.saturating_sub(passed))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

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

    #[expect(clippy::needless_pass_by_value, reason = "reads well with json!")]
    fn object(spec: Value) -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": NAME, "namespace": "lamina-system", "resourceVersion": "1" },
            "spec": spec,
        })
    }

    /// The lease as this one has just got it.
    fn held_by(identity: &str) -> Value {
        let now = Timestamp::now().to_string();
        object(json!({
            "holderIdentity": identity, "leaseDurationSeconds": SECONDS,
            "acquireTime": now, "renewTime": now,
        }))
    }

    /// A lease that nobody holds, until somebody asks.
    fn free() -> (FakeApi, Lease) {
        let api = FakeApi::default();
        api.answer(LEASE, object(json!({})));
        api.after(&format!("PATCH {LEASE}"), LEASE, held_by("one"));
        let lease = Lease {
            namespace: "lamina-system".into(),
            identity: "one".into(),
        };
        (api, lease)
    }

    /// How the work of who leads ends when this happens to the lease.
    async fn ended_by(happens: impl FnOnce(&FakeApi)) -> String {
        let (api, lease) = free();
        let work = async {
            happens(&api);
            std::future::pending::<()>().await;
        };
        let never = std::future::pending();
        let ended = hold(api.ctx().client, lease, work, never).await;
        ended.unwrap_err().to_string()
    }

    // A leader that was cut off from the API server went on for ever, beside its successor.
    #[tokio::test(start_paused = true)]
    async fn who_cannot_reach_the_api_server_ends_its_work_before_another_one_leads() {
        let begun = Instant::now();
        let why = ended_by(FakeApi::fall_silent).await;
        assert!(why.contains("not renewed in time"), "{why}");
        assert!(begun.elapsed() < Duration::from_secs(SECONDS) + RELEASE);
        assert!(SURE < Duration::from_secs(SECONDS));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_hold_the_lease_any_more_ends_its_work() {
        let why = ended_by(|api| api.answer(LEASE, held_by("two"))).await;
        assert!(why.contains("another one has the lease"), "{why}");
    }

    #[test]
    fn the_lead_is_sure_for_a_while_after_it_was_renewed() {
        let lease: LeaseObject = serde_json::from_value(held_by("one")).unwrap();
        let renewed = lease.spec.as_ref().unwrap().renew_time.clone().unwrap().0;
        let after = |seconds| {
            let now = renewed.checked_add(Duration::from_secs(seconds)).unwrap();
            sure_for(Some(&lease), "one", now)
        };
        assert_eq!(after(0), Some(SURE));
        assert_eq!(after(4), Some(Duration::from_secs(6)));
        assert_eq!(after(11), Some(Duration::ZERO));
        assert_eq!(sure_for(Some(&lease), "two", renewed), None);
        assert_eq!(sure_for(None, "one", renewed), None);
    }

    #[tokio::test]
    async fn who_is_told_to_stop_ends_its_work_and_gives_the_lease_back() {
        let (api, lease) = free();
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
