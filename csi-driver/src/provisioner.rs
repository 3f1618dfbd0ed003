//! Provisions volumes for claims and deletes those that were released: what the upstream sidecar
//! external-provisioner does, built in.
//!
//! Several processes may run it; the one that holds the lease works. All it does can be repeated: ids follow
//! from names, and objects that exist are left alone. [`decide`] says what is to be done; this module does it.

pub mod decide;
pub mod object;

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
    runtime::{
        Controller as Watcher,
        controller::Action as Next,
        reflector::{ObjectRef, Store},
        watcher::Config,
    },
};
use kube_lease_manager::LeaseManagerBuilder;
use thiserror::Error;

use crate::{
    controller::Controller,
    deadline::Deadline,
    events::{Events, Note, Subject},
    volume::VolumeId,
};
use decide::{Action, Plan};

/// Name of the lease.
const LEASE: &str = "lamina-provisioner";
const LEASE_SECONDS: u64 = 15;
const LEASE_GRACE_SECONDS: u64 = 5;
/// First wait after a failure; doubled at each further one.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// How long one claim or volume may take: the cluster answers within seconds, or what waits for it waits for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who elects, and as whom.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Namespace of the lease.
    pub namespace: String,
    /// This process.
    pub identity: String,
}

/// Why something is to be tried again.
#[derive(Debug, Error)]
enum Failure {
    #[error("the cluster did not do it")]
    Cluster(#[from] kube::Error),
    #[error("the cluster did not answer in time")]
    Late,
    #[error("{0}")]
    Create(String),
}

struct Work {
    client: Client,
    controller: Controller,
    events: Events,
    failures: Mutex<HashMap<String, u32>>,
}

/// Provisions while this process holds the lease, until `stop`.
///
/// # Errors
///
/// The lease cannot be made or read at the start; later failures are retried.
pub async fn run(
    client: Client,
    controller: Controller,
    lease: Lease,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let manager = LeaseManagerBuilder::new(client.clone(), LEASE)
        .with_namespace(&lease.namespace)
        .with_identity(&lease.identity)
        .with_duration(LEASE_SECONDS)
        .with_grace(LEASE_GRACE_SECONDS)
        .build()
        .await?;
    let (mut leading, electing) = manager.watch().await;
    let work = Arc::new(Work {
        events: Events::start(client.clone(), lease.identity),
        client,
        controller,
        failures: Mutex::default(),
    });
    tokio::pin!(stop);
    loop {
        let leads = *leading.borrow_and_update();
        tracing::info!(leads, "provisioner");
        let working = async {
            if leads {
                tokio::join!(Arc::clone(&work).provision(), Arc::clone(&work).delete());
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = working => {}
            changed = leading.changed() => changed?,
            () = &mut stop => break,
        }
    }
    drop(leading);
    electing.await??;
    Ok(())
}

impl Work {
    /// Watches claims, and classes for the claims that wait for one.
    async fn provision(self: Arc<Self>) {
        let watcher = Watcher::new(
            Api::<PersistentVolumeClaim>::all(self.client.clone()),
            Config::default(),
        );
        let claims = watcher.store();
        let classes = Api::<StorageClass>::all(self.client.clone());
        watcher
            .watches(classes, Config::default(), move |class| {
                claims_of(&claims, &class)
            })
            .run(
                |claim, work| in_time(PATIENCE, Self::claim(claim, work)),
                |claim, error, work| work.again(&*claim, error),
                self,
            )
            .for_each(|_| async {})
            .await;
    }

    /// Watches `PersistentVolumes`.
    async fn delete(self: Arc<Self>) {
        Watcher::new(
            Api::<PersistentVolume>::all(self.client.clone()),
            Config::default(),
        )
        .run(
            |volume, work| in_time(PATIENCE, Self::released(volume, work)),
            |volume, error, work| work.again(&*volume, error),
            self,
        )
        .for_each(|_| async {})
        .await;
    }

    async fn claim(claim: Arc<PersistentVolumeClaim>, work: Arc<Self>) -> Result<Next, Failure> {
        let (true, Some(name), Some(class)) = (
            decide::concerns_us(&claim),
            decide::volume_name(&claim),
            decide::class_of(&claim),
        ) else {
            return Ok(work.done(&*claim));
        };
        let classes = Api::<StorageClass>::all(work.client.clone());
        let volumes = Api::<PersistentVolume>::all(work.client.clone());
        let (class, volume) = (classes.get_opt(class).await?, volumes.get_opt(&name).await?);
        let origin = match &volume {
            None => work.origin(&claim).await?,
            Some(_) => None,
        };
        match decide::decide(&claim, class.as_ref(), volume.as_ref(), origin.as_ref()) {
            Action::Ignore | Action::Wait => {}
            Action::Refuse(why) => work.say(&claim, Err(&why)),
            Action::Provision(plan) => {
                let class = class.unwrap_or_default();
                if let Err(error) = work.make(&claim, &class, &plan, &volumes).await {
                    work.say(&claim, Err(&error.to_string()));
                    return Err(error);
                }
                work.say(&claim, Ok(&plan));
            }
        }
        Ok(work.done(&*claim))
    }

    /// The volume of the claim that a claim is to show the same as. What is wrong with a claim, its decision says.
    async fn origin(
        &self,
        claim: &PersistentVolumeClaim,
    ) -> Result<Option<PersistentVolume>, Failure> {
        let (Ok(Some(name)), Some(namespace)) = (
            decide::origin_of(claim),
            claim.metadata.namespace.as_deref(),
        ) else {
            return Ok(None);
        };
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace);
        let origin = claims.get_opt(name).await?;
        let volume = match &origin {
            Some(origin) => self.volume_of(origin).await?,
            None => None,
        };
        if volume.is_none() {
            let why = format!("the dataSource, claim {name}, is not there or has no volume yet");
            self.say(claim, Err(&why));
            return Err(Failure::Create(why));
        }
        Ok(volume)
    }

    /// The volume that is bound to a claim. A claim may name any: whose a volume is, only the volume says.
    async fn volume_of(
        &self,
        claim: &PersistentVolumeClaim,
    ) -> Result<Option<PersistentVolume>, Failure> {
        let spec = claim.spec.as_ref();
        let named = spec.and_then(|spec| spec.volume_name.as_deref());
        let Some(name) = named.filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let volumes = Api::<PersistentVolume>::all(self.client.clone());
        let found = volumes.get_opt(name).await?;
        Ok(found.filter(|volume| decide::is_bound_to(volume, claim)))
    }

    async fn make(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        plan: &Plan,
        volumes: &Api<PersistentVolume>,
    ) -> Result<(), Failure> {
        let deadline = Deadline::after(PATIENCE);
        let volume = self.controller.create(plan.request.clone(), deadline).await;
        let volume = volume.map_err(|status| Failure::Create(status.message().to_owned()))?;
        let object = object::persistent_volume(claim, class, plan, volume);
        match volumes.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            made => Ok(made.map(drop)?),
        }
    }

    async fn released(volume: Arc<PersistentVolume>, work: Arc<Self>) -> Result<Next, Failure> {
        if !decide::to_delete(&volume) {
            return Ok(work.done(&*volume));
        }
        let csi = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
        if let Some(id) = csi.and_then(|csi| VolumeId::parse(&csi.volume_handle).ok()) {
            work.controller.delete(&id);
        }
        // Exactly what was seen: not a namesake, and not one that was bound again.
        let seen = DeleteParams::default().preconditions(Preconditions {
            uid: volume.uid(),
            resource_version: volume.resource_version(),
        });
        let volumes = Api::<PersistentVolume>::all(work.client.clone());
        match volumes.delete(&volume.name_any(), &seen).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => drop(deleted?),
        }
        tracing::info!(volume = volume.name_any(), "deleted");
        Ok(work.done(&*volume))
    }

    fn say(&self, claim: &PersistentVolumeClaim, result: Result<&Plan, &str>) {
        let text = match result {
            Ok(plan) => format!("Made volume {} showing {}", plan.request.name, plan.source),
            Err(why) => format!("No volume could be made: {why}"),
        };
        tracing::info!(
            claim = claim.name_any(),
            namespace = claim.namespace(),
            "{text}"
        );
        self.events.say(Note {
            on: Subject {
                kind: "PersistentVolumeClaim",
                namespace: claim.namespace().unwrap_or_default(),
                name: claim.name_any(),
                uid: claim.uid().unwrap_or_default(),
            },
            warning: result.is_err(),
            reason: if result.is_ok() {
                "ProvisioningSucceeded"
            } else {
                "ProvisioningFailed"
            },
            action: "Provision".into(),
            text,
        });
    }

    fn done(&self, object: &impl Resource) -> Next {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(&object.uid().unwrap_or_default());
        Next::await_change()
    }

    fn again(&self, object: &impl Resource, error: &Failure) -> Next {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let times = failures
            .entry(object.uid().unwrap_or_default())
            .or_insert(0);
        *times += 1;
        let wait = RETRY
            .saturating_mul(1 << (*times - 1).min(16))
            .min(RETRY_MAX);
        tracing::warn!(
            object = object.name_any(),
            error = error as &dyn std::error::Error,
            ?wait,
            "tried again"
        );
        Next::requeue(wait)
    }
}

/// What is done within this time.
async fn in_time<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let done = tokio::time::timeout(patience, work).await;
    done.unwrap_or(Err(Failure::Late))
}

/// The waiting claims of a class.
fn claims_of(
    claims: &Store<PersistentVolumeClaim>,
    class: &StorageClass,
) -> Vec<ObjectRef<PersistentVolumeClaim>> {
    let name = class.name_any();
    claims
        .state()
        .iter()
        .filter(|claim| {
            decide::concerns_us(claim) && decide::class_of(claim) == Some(name.as_str())
        })
        .map(|claim| ObjectRef::from_obj(&**claim))
        .collect()
}

#[cfg(test)]
mod tests;
