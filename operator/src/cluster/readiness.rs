//! Whether the workloads are ready, as the status tells it.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::Api;
use lamina_crds::{LaminaCluster, WorkloadStatus};

use super::build::{discovery, execution};
use crate::context::Ctx;
use crate::fault::Fault;

pub(crate) async fn workloads(
    cluster: &LaminaCluster,
    ctx: &Ctx,
) -> Result<Vec<WorkloadStatus>, Fault> {
    let sets = Api::<DaemonSet>::namespaced(ctx.client.clone(), &ctx.namespace);
    let deployments = Api::<Deployment>::namespaced(ctx.client.clone(), &ctx.namespace);
    let mut all = Vec::new();
    let runs = cluster.spec.execution.enabled;
    let afslet = runs.then_some(execution::AFSLET);
    for name in ["lamina-node", "lamina-csi"].into_iter().chain(afslet) {
        all.push(of_set(name, sets.get_opt(name).await?.as_ref()));
    }
    let discovery = cluster.spec.discovery.enabled.then_some(discovery::NAME);
    let proxy = runs.then_some(execution::PROXY);
    let wanted = discovery.into_iter().chain(proxy);
    for name in ["lamina-controller"].into_iter().chain(wanted) {
        let found = deployments.get_opt(name).await?;
        all.push(of_deployment(name, found.as_ref()));
    }
    Ok(all)
}

fn of_set(name: &str, set: Option<&DaemonSet>) -> WorkloadStatus {
    let current = set.and_then(|set| {
        let status = set.status.as_ref()?;
        (status.observed_generation == set.metadata.generation).then_some(status)
    });
    // Until the controller has seen the spec, its numbers are of the one before.
    let Some(status) = current else {
        return told(name, "DaemonSet", -1, 0, 0);
    };
    told(
        name,
        "DaemonSet",
        status.desired_number_scheduled,
        status.number_ready,
        status.updated_number_scheduled.unwrap_or(0),
    )
}

fn of_deployment(name: &str, deployment: Option<&Deployment>) -> WorkloadStatus {
    let current = deployment.and_then(|deployment| {
        let status = deployment.status.as_ref()?;
        (status.observed_generation == deployment.metadata.generation)
            .then_some((deployment, status))
    });
    let Some((deployment, status)) = current else {
        return told(name, "Deployment", -1, 0, 0);
    };
    let desired = deployment.spec.replicas.unwrap_or(1);
    told(
        name,
        "Deployment",
        desired,
        status.ready_replicas.unwrap_or(0),
        status.updated_replicas.unwrap_or(0),
    )
}

fn told(name: &str, kind: &str, desired: i32, ready: i32, updated: i32) -> WorkloadStatus {
    let summary = match desired {
        -1 => "starting".to_owned(),
        desired => format!("{ready}/{desired}"),
    };
    WorkloadStatus {
        name: name.to_owned(),
        kind: kind.to_owned(),
        desired,
        ready,
        updated,
        summary,
    }
}

/// What is not ready, in a sentence; none if all is.
pub(crate) fn waiting(workloads: &[WorkloadStatus]) -> Option<String> {
    let late: Vec<String> = workloads
        .iter()
        .filter(|one| one.desired < 0 || one.ready < one.desired || one.updated < one.desired)
        .map(|one| match one.desired {
            -1 => format!("{} is starting", one.name),
            desired => format!(
                "{}: {} of {desired} pods are ready, {} are of this version",
                one.name, one.ready, one.updated
            ),
        })
        .collect();
    (!late.is_empty()).then(|| late.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_of_an_older_spec_do_not_count() {
        let set = |observed: i64| -> DaemonSet {
            serde_json::from_value(json!({
                "metadata": { "generation": 2 },
                "status": { "observedGeneration": observed, "currentNumberScheduled": 2, "numberMisscheduled": 0,
                    "desiredNumberScheduled": 2, "numberReady": 2, "updatedNumberScheduled": 2 },
            }))
            .unwrap()
        };
        assert_eq!(waiting(&[of_set("lamina-node", Some(&set(2)))]), None);
        let late = [
            of_set("lamina-node", Some(&set(1))),
            of_set("lamina-csi", None),
        ];
        assert_eq!(
            waiting(&late).unwrap(),
            "lamina-node is starting; lamina-csi is starting"
        );
    }
}
