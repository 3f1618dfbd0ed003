//! The cluster as the kubeconfig names it, and reading objects from it. Nothing here writes.

use super::args::Place;
use super::fault::{Fault, Kind, chain, of_api};
use k8s_openapi::NamespaceResourceScope;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;

/// Name of the CSI driver.
pub(crate) const DRIVER: &str = "csi.lamina.dev";
/// The API server answers a question within this, or the verb gives up.
const ANSWER: Duration = Duration::from_secs(30);

/// A connected cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// Lamina's namespace.
    pub(crate) system: String,
    /// The person's namespace.
    pub(crate) namespace: String,
}

impl Cluster {
    /// Reads the kubeconfig; nothing is asked yet.
    pub(crate) async fn connect(place: &Place) -> Result<Self, Fault> {
        let mut config = config(place).await?;
        config.connect_timeout = Some(Duration::from_secs(10));
        let namespace = place
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| {
            let why = format!("the kubeconfig cannot be used: {}", chain(&error));
            Fault::new(Kind::Usage, why)
        })?;
        Ok(Self {
            client,
            system: place.system.clone(),
            namespace,
        })
    }

    /// Objects of Lamina's namespace with these labels.
    pub(crate) async fn in_system<K>(&self, labels: &str) -> Result<Vec<K>, Fault>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + DeserializeOwned + Debug,
    {
        let api = Api::<K>::namespaced(self.client.clone(), &self.system);
        let what = format!("{} in {}", K::plural(&()), self.system);
        list(&api, &what, &ListParams::default().labels(labels)).await
    }

    /// Every object of a kind.
    pub(crate) async fn all<K>(&self) -> Result<Vec<K>, Fault>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api = Api::<K>::all(self.client.clone());
        let what = format!("{} of the whole cluster", K::plural(&()));
        list(&api, &what, &ListParams::default()).await
    }
}

/// Objects that fit the parameters; `what` is for the message.
pub(crate) async fn list<K>(api: &Api<K>, what: &str, with: &ListParams) -> Result<Vec<K>, Fault>
where
    K: Clone + DeserializeOwned + Debug,
{
    in_time("list", what, api.list(with))
        .await
        .map(|list| list.items)
}

/// An object by name.
pub(crate) async fn get<K>(api: &Api<K>, what: &str, name: &str) -> Result<K, Fault>
where
    K: Clone + DeserializeOwned + Debug,
{
    in_time("get", what, api.get(name)).await
}

/// A question to the API server, with its deadline.
pub(crate) async fn in_time<T>(
    verb: &str,
    what: &str,
    asked: impl Future<Output = kube::Result<T>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(answer) => answer.map_err(|error| of_api(verb, what, &error)),
        Err(_) => Err(Fault::new(
            Kind::Timeout,
            format!(
                "{verb} {what}: the API server did not answer within {} s",
                ANSWER.as_secs()
            ),
        )),
    }
}

async fn config(place: &Place) -> Result<Config, Fault> {
    let options = KubeConfigOptions {
        context: place.context.clone(),
        ..KubeConfigOptions::default()
    };
    let bad = |error: &dyn std::error::Error| {
        let why = format!(
            "no cluster: {}; set KUBECONFIG or give --kubeconfig",
            chain(error)
        );
        Fault::new(Kind::Usage, why)
    };
    match (&place.kubeconfig, &place.context) {
        (Some(path), _) => {
            let file = Kubeconfig::read_from(path).map_err(|error| bad(&error))?;
            Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(|error| bad(&error))
        }
        (None, Some(_)) => Config::from_kubeconfig(&options)
            .await
            .map_err(|error| bad(&error)),
        (None, None) => Config::infer().await.map_err(|error| bad(&error)),
    }
}
