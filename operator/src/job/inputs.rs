//! What a job names of other objects: pull secrets, its Flist, files from `ConfigMap`s and Secrets.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use lamina_crds::{Flist, Job, JobFile, JobSpec, NamedKey};
use lamina_proto::lamina::v1::{FlistSource, source::From};

use super::kept;
use super::order::{self, File, Inputs};
use crate::context::Ctx;
use crate::fault::Fault;
use crate::flist;
use crate::pull_secrets::docker_config;

/// Reads all of it.
pub(crate) async fn read(ctx: &Ctx, job: &Job) -> Result<Inputs, Fault> {
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let spec = &job.spec;
    let mut files = Vec::with_capacity(spec.files.len());
    for file in &spec.files {
        files.push(File {
            path: file.path.clone(),
            mode: u32::try_from(file.mode).unwrap_or(0),
            bytes: content(ctx, namespace, file).await?,
        });
        // At once: many files may be of one large object, and nobody counts what the others hold.
        order::fits(&files)?;
    }
    Ok(Inputs {
        docker_config: docker_config(ctx, namespace, &spec.source.pull_secrets).await?,
        flist: source(ctx, namespace, spec).await?,
        keep: kept::order(ctx, job).await?,
        files,
    })
}

async fn source(ctx: &Ctx, namespace: &str, spec: &JobSpec) -> Result<Option<FlistSource>, Fault> {
    let Some(name) = &spec.source.flist else {
        return Ok(None);
    };
    let api = Api::<Flist>::namespaced(ctx.client.clone(), namespace);
    let found = api.get_opt(name).await?;
    let found = found.ok_or_else(|| {
        let message = format!("there is no Flist {name} in namespace {namespace}");
        Fault::new("NoSuchFlist", message)
    })?;
    let status = found.status.clone().unwrap_or_default();
    let digest = status.digest.as_deref().unwrap_or_default();
    let Some(from) = found.spec.source.from().filter(|_| !digest.is_empty()) else {
        let message = format!("the Flist {name} is not ready yet");
        return Err(Fault::new("FlistNotReady", message));
    };
    let config = match from {
        lamina_crds::FlistFrom::Image(image) => {
            docker_config(ctx, namespace, &image.pull_secrets).await?
        }
        _ => Vec::new(),
    };
    match flist::again(from, digest, &status, &config, &status.stores) {
        From::Flist(flist) => Ok(Some(flist)),
        _ => Ok(None),
    }
}

async fn content(ctx: &Ctx, namespace: &str, file: &JobFile) -> Result<Vec<u8>, Fault> {
    if let Some(text) = &file.inline {
        return Ok(text.clone().into_bytes());
    }
    if let Some(named) = &file.config_map {
        let api = Api::<ConfigMap>::namespaced(ctx.client.clone(), namespace);
        let found = api.get_opt(&named.name).await?;
        let found =
            found.ok_or_else(|| missing("NoSuchConfigMap", "ConfigMap", named, namespace))?;
        let text = found.data.unwrap_or_default().remove(&named.key);
        let bytes = found.binary_data.unwrap_or_default().remove(&named.key);
        let all = text.map(String::into_bytes).or(bytes.map(|bytes| bytes.0));
        return all.ok_or_else(|| no_key("ConfigMap", named));
    }
    if let Some(named) = &file.secret {
        let api = Api::<Secret>::namespaced(ctx.client.clone(), namespace);
        let found = api.get_opt(&named.name).await?;
        let found = found.ok_or_else(|| missing("NoSuchSecret", "Secret", named, namespace))?;
        let bytes = found.data.unwrap_or_default().remove(&named.key);
        return bytes
            .map(|bytes| bytes.0)
            .ok_or_else(|| no_key("Secret", named));
    }
    let message = format!("files: {} has no content", file.path);
    Err(Fault::new("InvalidSpec", message))
}

fn missing(reason: &'static str, kind: &str, named: &NamedKey, namespace: &str) -> Fault {
    let message = format!("there is no {kind} {} in namespace {namespace}", named.name);
    Fault::new(reason, message)
}

fn no_key(kind: &str, named: &NamedKey) -> Fault {
    let message = format!("{kind} {} has no key {}", named.name, named.key);
    Fault::new("NoSuchKey", message)
}
