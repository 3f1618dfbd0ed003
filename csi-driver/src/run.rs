//! Wires a process: what its role serves, and when it ends.

use std::{future::Future, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use kube::{Client, Config};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    agent::Agent,
    args::{ControllerArgs, NodeArgs, Role, ServeArgs},
    calls::Calls,
    controller::Controller,
    events::Events,
    health,
    identity::Identity,
    ledger::Ledger,
    node::Node,
    provisioner,
    registration::Registration,
    server::{self, Services},
    starts::Starts,
};

/// How long the cluster may be silent: a net under the deadlines of what is asked. A watch of which there is no news is
/// silent for 290 s, and then ended by the cluster.
const SILENCE: Duration = Duration::from_secs(320);

/// Runs a role until `stop`.
///
/// # Errors
///
/// Whatever ends the process before it was told to.
pub async fn run(
    role: Role,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let (stopping, stopped) = watch::channel(false);
    tokio::spawn(async move {
        stop.await;
        let _ = stopping.send(true);
    });
    match role {
        Role::Node(args) => node(args, stopped).await,
        Role::Controller(args) => controller(args, stopped).await,
    }
}

async fn node(args: NodeArgs, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let cluster = cluster().await?;
    let agent = Agent::new(args.agent);
    let events = match &cluster {
        Some(client) => Events::start(client.clone(), args.node_name.clone()),
        None => Events::none(),
    };
    let services = Services {
        identity: Identity {
            controller: args.with_controller,
            agent: Some(agent.clone()),
        },
        node: Some(Node {
            name: args.node_name,
            agent,
            events,
            starts: Starts::default(),
            cluster: cluster.clone(),
            calls: Arc::new(Calls::default()),
        }),
        controller: args
            .with_controller
            .then(|| Controller::new(Ledger::new(cluster))),
    };
    probes(&args.serve).await?;
    let serving = server::serve(&args.serve.endpoint, services, ended(stop.clone()));
    let (Some(directory), Some(plugin)) = (args.registration_dir, args.kubelet_plugin_dir) else {
        return serving.await;
    };
    let name = args
        .serve
        .endpoint
        .file_name()
        .context("the endpoint has no file name")?;
    let (registration, refused) = Registration::new(plugin.join(name));
    let socket = Registration::socket(&directory);
    // `join` polls in order: the CSI socket is there before kubelet hears of it.
    let both = async {
        let registering = server::serve_registration(&socket, registration, ended(stop));
        tokio::try_join!(serving, registering).map(drop)
    };
    tokio::select! {
        both = both => both,
        Ok(why) = refused => bail!("kubelet refused the driver: {why}"),
    }
}

async fn controller(args: ControllerArgs, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let cluster = cluster().await?;
    let controller = Controller::new(Ledger::new(cluster.clone()));
    let services = Services {
        identity: Identity {
            controller: true,
            agent: None,
        },
        node: None,
        controller: Some(controller.clone()),
    };
    probes(&args.serve).await?;
    let serving = server::serve(&args.serve.endpoint, services, ended(stop.clone()));
    let client = match cluster {
        Some(client) if !args.no_provisioner => client,
        Some(_) => return serving.await,
        None if args.no_provisioner => return serving.await,
        None => bail!(
            "there is no cluster to provision in: run it in a pod, set KUBECONFIG, or give --no-provisioner"
        ),
    };
    let lease = provisioner::Lease {
        namespace: args.namespace,
        identity: args.identity,
    };
    let provisioning = provisioner::run(client, controller, lease, ended(stop));
    tokio::try_join!(serving, provisioning).map(drop)
}

/// The cluster this process is in, or that `KUBECONFIG` names; none is fine.
async fn cluster() -> anyhow::Result<Option<Client>> {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !set("KUBERNETES_SERVICE_HOST") && !set("KUBECONFIG") {
        tracing::info!("no cluster: no events, no Flist objects");
        return Ok(None);
    }
    let mut config = Config::infer()
        .await
        .context("configuration of the cluster's client")?;
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    Ok(Some(
        Client::try_from(config).context("the cluster's client")?,
    ))
}

async fn probes(args: &ServeArgs) -> anyhow::Result<()> {
    if let Some(address) = args.http {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("address for probes {address}"))?;
        tokio::spawn(health::serve(listener, args.endpoint.clone()));
    }
    Ok(())
}

async fn ended(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is an end too.
    let _ = stop.wait_for(|stop| *stop).await;
}
