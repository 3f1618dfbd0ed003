//! Writing statuses: server-side apply, only when something changed.

use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use lamina_crds::conditions::{self, Said, State};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::MANAGER;
use crate::fault::Fault;

/// Replaces the status of the object.
pub(crate) async fn write<K, S>(api: &Api<K>, name: &str, status: &S) -> Result<(), Fault>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    S: Serialize,
{
    write_at(api, name, None, status).await
}

/// The same; with a version, only if the object still has it.
pub(crate) async fn write_at<K, S>(
    api: &Api<K>,
    name: &str,
    version: Option<String>,
    status: &S,
) -> Result<(), Fault>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    S: Serialize,
{
    let mut patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name },
        "status": status,
    });
    if let Some(version) = version {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    let params = PatchParams::apply(MANAGER).force();
    api.patch_status(name, &params, &Patch::Apply(&patch))
        .await?;
    Ok(())
}

/// Conditions of one object while it is reconciled.
pub(crate) struct Conditions<'a> {
    pub(crate) all: &'a mut Vec<Condition>,
    pub(crate) generation: Option<i64>,
    pub(crate) now: Timestamp,
}

impl Conditions<'_> {
    /// This holds.
    pub(crate) fn yes(
        &mut self,
        kind: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.set(Said::new(kind, true, reason, message));
    }

    /// Nobody can tell whether this holds.
    pub(crate) fn unknown(
        &mut self,
        kind: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.set(Said::new(kind, State::Unknown, reason, message));
    }

    /// This does not hold, for this fault.
    pub(crate) fn no(&mut self, kind: &'static str, fault: &Fault) {
        self.set(Said::new(kind, State::False, fault.reason, &*fault.message));
    }

    fn set(&mut self, said: Said) {
        conditions::set(self.all, said, self.generation, self.now);
    }
}
