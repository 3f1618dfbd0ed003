//! `apply`: the chart's hook. Applies the objects of a file and waits for the `LaminaCluster` to be ready.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use lamina_crds::conditions::{find, holds};
use lamina_crds::{CLUSTER_NAME, LaminaCluster};
use serde_json::Value;

const PAUSE: Duration = Duration::from_secs(2);
/// Not the reconcilers': they never take back what the file says.
const MANAGER: &str = "lamina-apply";

/// Applies `file` and waits.
///
/// # Errors
/// Says which object could not be applied, or what is not ready when `timeout` has passed.
pub async fn run(file: &Path, timeout: Duration) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let objects = documents(&text).with_context(|| format!("parse {}", file.display()))?;
    let client = Client::try_default().await.context("find the API server")?;
    let mut last = String::from("nothing was applied yet");
    let work = async {
        for object in &objects {
            until_applied(&client, object, &mut last).await;
        }
        until_ready(&client, &mut last).await;
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(()) => Ok(()),
        Err(_) => bail!("not ready after {} s: {last}", timeout.as_secs()),
    }
}

fn documents(text: &str) -> Result<Vec<Value>> {
    text.split("\n---")
        .filter(|document| {
            document
                .lines()
                .any(|line| !line.trim().is_empty() && !line.starts_with('#'))
        })
        .map(|document| Ok(lamina_crds::from_yaml(document.trim_start_matches("---"))?))
        .collect()
}

/// Tries until the API server takes it: a new kind is served a little after its definition was.
async fn until_applied(client: &Client, object: &Value, last: &mut String) {
    while let Err(error) = apply(client, object).await {
        *last = format!("{error:#}");
        tracing::info!(%last, "trying again");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn apply(client: &Client, object: &Value) -> Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind, name) = (
        text(&object["apiVersion"]),
        text(&object["kind"]),
        text(&object["metadata"]["name"]),
    );
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let gvk = kube::api::GroupVersionKind::gvk(group, version, &kind);
    let api = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::from_gvk(&gvk));
    let params = PatchParams::apply(MANAGER).force();
    api.patch(&name, &params, &Patch::Apply(object))
        .await
        .with_context(|| format!("apply {kind} {name}"))?;
    Ok(())
}

async fn until_ready(client: &Client, last: &mut String) {
    let api = Api::<LaminaCluster>::all(client.clone());
    loop {
        match api.get(CLUSTER_NAME).await {
            Ok(cluster) if is_ready(&cluster) => return,
            Ok(cluster) => *last = told(&cluster),
            Err(error) => *last = format!("read LaminaCluster {CLUSTER_NAME}: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_ready(cluster: &LaminaCluster) -> bool {
    cluster.status.as_ref().is_some_and(|status| {
        status.observed_generation == cluster.metadata.generation
            && status.version.as_deref() == Some(crate::VERSION)
            && holds(&status.conditions, "Ready")
    })
}

fn told(cluster: &LaminaCluster) -> String {
    let status = cluster.status.as_ref();
    let ready = status.and_then(|status| find(&status.conditions, "Ready"));
    match ready {
        Some(ready) => format!("LaminaCluster {}: {}", cluster.name_any(), ready.message),
        None => "the operator has not looked at the LaminaCluster yet".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_documents_are_left_out() {
        let all = documents("---\nkind: A\n---\n# nothing\n---\nkind: B\n").unwrap();
        let kinds: Vec<_> = all
            .iter()
            .map(|one| one["kind"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["A", "B"]);
    }
}
