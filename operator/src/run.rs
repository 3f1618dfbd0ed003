//! Wires the process: leads or waits, and runs the reconcilers while it leads.

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DynamicObject;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Resource, ResourceExt};
use lamina_crds::{Flist, Image, Job, LaminaCluster, Store};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};

use crate::context::Ctx;
use crate::fault::{Again, Fault};
use crate::lease::{self, Lease};
use crate::metrics::Metrics;
use crate::nodes::{self, Dial};
use crate::retry::{What, about};
use crate::{cluster, flist, http, image, job, pki, store};

/// Objects of a kind reconciled at once.
const CONCURRENCY: u16 = 16;
/// Runs that end within this time are looked at together.
const ENDS_TOGETHER: Duration = Duration::from_millis(200);
/// The longest one reconciliation may take.
const DEADLINE: Duration = Duration::from_secs(300);

/// What the process is given.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// Lamina's namespace.
    pub namespace: String,
    /// Where metrics and health are served.
    pub http: SocketAddr,
    /// Where nodes ask for certificates.
    pub certificates: SocketAddr,
    /// Name among several.
    pub identity: String,
    /// `HOST:PORT` of the proxy that finds nodes for the runs of jobs; without it, the Service of Lamina's namespace.
    pub proxy: Option<String>,
    /// Whether jobs of queues get a Workload each, and run while Kueue admits it.
    pub kueue: bool,
}

/// Runs until told to stop, or until the lead is lost: then it ends, and its successor starts afresh.
///
/// # Errors
/// When the API server cannot be reached at all, or a port is taken.
pub async fn run(config: RunConfig) -> anyhow::Result<()> {
    let client = kube::Client::try_default()
        .await
        .context("find the API server")?;
    let metrics = Metrics::new().context("register metrics")?;
    let lease = Lease {
        namespace: config.namespace.clone(),
        identity: config.identity.clone(),
    };
    let namespace = config.namespace.clone();
    let counted = metrics.certificates.clone();
    let signing = pki::serve(config.certificates, client.clone(), &namespace, counted);
    let mut ctx = Ctx::new(
        client.clone(),
        config.namespace,
        config.identity,
        Dial::Mutual,
        metrics.clone(),
    );
    if let Some(proxy) = config.proxy {
        ctx.proxy = proxy;
    }
    ctx.kueue = config.kueue;
    let ctx = Arc::new(ctx);
    let leading = {
        let metrics = metrics.clone();
        async move {
            metrics.leader.set(1);
            Box::pin(controllers(ctx)).await;
        }
    };
    tokio::select! {
        result = http::serve(config.http, metrics.clone()) => result.context("serve metrics"),
        // Every replica does, whoever leads: a node must not wait for an election.
        result = signing => result,
        result = lease::hold(client, lease, leading, stopped()) => {
            metrics.leader.set(0);
            result
        }
    }
}

async fn stopped() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("wait for a signal")?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        result = tokio::signal::ctrl_c() => result.context("wait for a signal"),
    }
}

async fn controllers(ctx: Arc<Ctx>) {
    let client = || ctx.client.clone();
    let all = watcher::Config::default();
    let own = |component: &str| {
        let label = "app.kubernetes.io/managed-by=lamina-operator";
        tracing::debug!(component, "watching");
        watcher::Config::default().labels(label)
    };
    let clusters = Controller::new(Api::<LaminaCluster>::all(client()), all.clone())
        .owns(
            Api::<DaemonSet>::namespaced(client(), &ctx.namespace),
            own("sets"),
        )
        .owns(
            Api::<Deployment>::namespaced(client(), &ctx.namespace),
            own("deployments"),
        );
    // Nodes that come, go or change their labels: told to every kind that is kept on nodes or asks them.
    let (told, heard) = watch::channel(());
    let images = Controller::new(Api::<Image>::all(client()), all.clone());
    let flists = Controller::new(Api::<Flist>::all(client()), all.clone()).owns(
        Api::<Pod>::all(client()),
        watcher::Config::default().labels("app.kubernetes.io/component=pack"),
    );
    let stores = Controller::new(Api::<Store>::all(client()), all.clone());
    let jobs = Controller::new(Api::<Job>::all(client()), all);
    let jobs = jobs.reconcile_all_on(ends(ctx.runs.news()));
    // With the lead, the runs end.
    let _leading = ctx.runs.while_leading();
    let images = images.reconcile_all_on(news(heard.clone()));
    let flists = flists.reconcile_all_on(news(heard.clone()));
    let stores = stores.reconcile_all_on(news(heard.clone()));
    tokio::join!(
        nodes::watch(client(), &ctx.namespace, || {
            ctx.attempts.wake();
            told.send_replace(());
        }),
        workloads(&ctx),
        drive(clusters, &ctx, |object, ctx| async move {
            cluster::step(&object, &ctx).await
        }),
        drive(images, &ctx, |object, ctx| async move {
            image::step(&object, &ctx).await
        }),
        drive(flists, &ctx, |object, ctx| async move {
            flist::step(&object, &ctx).await
        }),
        drive(stores, &ctx, |object, ctx| async move {
            store::step(&object, &ctx).await
        }),
        drive(jobs, &ctx, |object, ctx| async move {
            job::step(&object, &ctx).await
        }),
    );
}

/// Has jobs looked at when Kueue says something of their Workloads.
async fn workloads(ctx: &Ctx) {
    if !ctx.kueue {
        return;
    }
    let kind = job::queue::resource();
    let all = Api::<DynamicObject>::all_with(ctx.client.clone(), &kind);
    let ours = watcher::Config::default().labels(job::queue::OURS);
    let changes = watcher(all, ours).default_backoff().applied_objects();
    changes
        .for_each(|change| async {
            match change {
                Ok(workload) => {
                    if let Some(uid) = job::queue::owner(&workload) {
                        ctx.runs.look_again(&uid);
                    }
                }
                // Jobs are looked at from time to time, and say so themselves.
                Err(error) => tracing::debug!(%error, "watching Workloads"),
            }
        })
        .await;
}

/// Once for all that was told since the last look.
fn news(heard: watch::Receiver<()>) -> impl Stream<Item = ()> {
    futures::stream::unfold(heard, |mut heard| async {
        heard.changed().await.ok()?;
        Some(((), heard))
    })
}

/// Once for all runs that ended shortly after one another.
fn ends(news: Arc<Notify>) -> impl Stream<Item = ()> {
    futures::stream::unfold(news, |news| async {
        news.notified().await;
        tokio::time::sleep(ENDS_TOGETHER).await;
        Some(((), news))
    })
}

async fn drive<K, F>(
    controller: Controller<K>,
    ctx: &Arc<Ctx>,
    step: impl Fn(Arc<K>, Arc<Ctx>) -> F + Copy + Send + 'static,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Debug + Unpin,
    F: Future<Output = Result<Duration, Fault>> + Send + 'static,
{
    let config = Config::default().concurrency(CONCURRENCY);
    controller
        .with_config(config)
        .run(
            move |object: Arc<K>, ctx: Arc<Ctx>| guarded(object, ctx, step),
            |_, error: &Infallible, _| match *error {},
            Arc::clone(ctx),
        )
        .for_each(|result| async {
            if let Err(error) = result {
                tracing::warn!(kind = %K::kind(&()), %error, "watching");
            }
        })
        .await;
}

/// One step, within its deadline, counted, and with the pause before the next; none while what failed rests.
async fn guarded<K, F>(
    object: Arc<K>,
    ctx: Arc<Ctx>,
    step: impl Fn(Arc<K>, Arc<Ctx>) -> F,
) -> Result<Action, Infallible>
where
    K: Resource<DynamicType = ()>,
    F: Future<Output = Result<Duration, Fault>>,
{
    let kind = K::kind(&()).into_owned();
    let uid = object.uid().unwrap_or_default();
    let what = What::of(&*object);
    if let Some(rest) = ctx.attempts.rest(&uid, what) {
        return Ok(Action::requeue(rest));
    }
    let name = ObjectRef::from_obj(&*object);
    let begun = Instant::now();
    let result = tokio::time::timeout(DEADLINE, step(object, Arc::clone(&ctx)))
        .await
        .unwrap_or_else(|_| Err(Fault::new("Timeout", "it took too long")));
    ctx.metrics
        .seconds
        .with_label_values(&[&kind])
        .observe(begun.elapsed().as_secs_f64());
    let (word, pause) = match result {
        Ok(pause) => {
            ctx.attempts.forget(&uid);
            ("ok", about(pause))
        }
        Err(Fault {
            again: Again::Soon(pause),
            message,
            ..
        }) => {
            tracing::debug!(%name, message, "at work");
            ("working", about(pause))
        }
        Err(fault) => {
            tracing::warn!(%name, reason = fault.reason, message = fault.message, "not ready");
            ("error", ctx.attempts.failed(&uid, what))
        }
    };
    ctx.metrics
        .reconciles
        .with_label_values(&[kind.as_str(), word])
        .inc();
    Ok(Action::requeue(pause))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::cluster::testing::FakeApi;

    fn object(generation: i64) -> Arc<Store> {
        let store = json!({
            "apiVersion": "lamina.dev/v1alpha1", "kind": "Store",
            "metadata": { "name": "s", "uid": "u1", "generation": generation },
            "spec": { "url": "s3://bucket" },
        });
        Arc::new(serde_json::from_value(store).unwrap())
    }

    // The reason of a failure differed each time: writing it down was a change of the object, after which it was tried again
    // at once, without an end.
    #[tokio::test(start_paused = true)]
    async fn what_failed_is_not_tried_again_for_its_own_change_before_its_pause_is_over() {
        let ctx = Arc::new(FakeApi::default().ctx());
        let tries = AtomicUsize::new(0);
        let look = async |object: Arc<Store>| {
            let step = |_, _| async {
                tries.fetch_add(1, Ordering::SeqCst);
                Err(Fault::new("Unavailable", "no"))
            };
            let result = guarded(object, Arc::clone(&ctx), step).await;
            assert!(result.is_ok());
            tries.load(Ordering::SeqCst)
        };
        assert_eq!(look(object(1)).await, 1);
        assert_eq!(look(object(1)).await, 1, "it rests");
        assert_eq!(look(object(2)).await, 2, "somebody changed it");
        ctx.attempts.wake();
        assert_eq!(look(object(2)).await, 3, "nodes came");
        tokio::time::advance(Duration::from_secs(300)).await;
        assert_eq!(look(object(2)).await, 4);
    }
}
