//! `cleanup`: the chart's pre-delete hook. Lamina goes from nodes and namespace, and nothing is left waiting
//! for an operator that is gone.
//!
//! In this order: the operator stops, so that it makes nothing again; what runs commands ends, whose images are volumes of
//! nodes; every node ends what runs outside of pods; only then anything else is removed. While one node cannot be left,
//! nothing is, and the operator goes on: it makes again what runs commands.
//! What was done is done again without harm: a cleanup that failed is simply started anew.

mod leave;
mod operator;
mod pods;
mod release;
mod remove;
#[cfg(test)]
mod tests;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::Client;
use lamina_crds::{Flist, Image, Job};
use tokio::time::Instant;

use crate::context::Ctx;
use crate::metrics::Metrics;
use crate::nodes::Dial;

/// Waiting ends with the deadline; a call that is under way then may take so much longer.
const SLACK: Duration = Duration::from_secs(10);
/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes Lamina off the cluster.
///
/// # Errors
/// Names the nodes that could not be left (they have volumes mounted, say), and nothing is removed then; or
/// what is still there when `timeout` has passed.
pub async fn run(namespace: &str, timeout: Duration) -> Result<()> {
    let client = Client::try_default().await.context("find the API server")?;
    let metrics = Metrics::new().context("register metrics")?;
    let (namespace, identity) = (namespace.to_owned(), "cleanup".to_owned());
    let ctx = Ctx::new(client, namespace, identity, Dial::Mutual, metrics);
    clean(&ctx, timeout).await
}

async fn clean(ctx: &Ctx, timeout: Duration) -> Result<()> {
    let deadline = Deadline::after(timeout);
    let replicas = deadline
        .step("look at the operator", operator::replicas(ctx))
        .await?;
    if let Err(error) = leave(ctx, deadline).await {
        operator::go_on(ctx, replicas).await;
        return Err(error);
    }
    deadline
        .step("delete the workloads", remove::workloads(ctx))
        .await?;
    deadline
        .step("let go of images, flists and jobs", async {
            release::all::<Image>(&ctx.client).await?;
            release::all::<Flist>(&ctx.client).await?;
            release::all::<Job>(&ctx.client).await
        })
        .await?;
    deadline
        .step("see the pods end", pods::gone(ctx, &pods::MADE, deadline))
        .await?;
    deadline
        .step("delete secrets and leases", remove::leftovers(ctx))
        .await?;
    tracing::info!("done");
    Ok(())
}

async fn leave(ctx: &Ctx, deadline: Deadline) -> Result<()> {
    deadline
        .step("stop the operator", operator::stop(ctx, deadline))
        .await?;
    deadline
        .step("leave every node", leave::every(ctx, deadline))
        .await
}

/// When all of it must be done.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    at: Instant,
    given: Duration,
}

impl Deadline {
    fn after(given: Duration) -> Self {
        Self {
            at: Instant::now() + given,
            given,
        }
    }

    fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Does one part, and says so.
    async fn step<T>(self, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        tracing::info!("{what}");
        match tokio::time::timeout_at(self.at + SLACK, work).await {
            Ok(result) => result.with_context(|| format!("could not {what}")),
            Err(_) => bail!("could not {what} in {} s", self.given.as_secs()),
        }
    }
}
