//! `prefetch`: an image's data on nodes before anybody asks for it.

use super::args::Prefetch;
use super::cluster::Cluster;
use super::fault::{Fault, Kind, of_node};
use super::node::{Nodes, Server};
use super::tree;
use crate::output::{self, Show};
use anyhow::Result;
use futures::StreamExt as _;
use lamina_proto::lamina::v1::{EnsureProgress, EnsureRequest, FlistInfo, Source, Warm};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Nodes at once: they draw on the same stores.
const AT_ONCE: usize = 4;

#[derive(Debug, Serialize)]
struct Report {
    nodes: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    node: String,
    digest: String,
    bytes_local: u64,
    bytes: u64,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Show for Report {
    fn table(&self) -> String {
        let rows: Vec<_> = self
            .nodes
            .iter()
            .map(|one| match &one.problem {
                Some(problem) => [
                    one.node.clone(),
                    "-".into(),
                    "-".into(),
                    format!("{:.1} s", one.seconds),
                    problem.clone(),
                ],
                None => [
                    one.node.clone(),
                    output::size(one.bytes_local),
                    output::size(one.bytes),
                    format!("{:.1} s", one.seconds),
                    format!("flist {}", one.digest.chars().take(12).collect::<String>()),
                ],
            })
            .collect();
        output::columns(["NODE", "LOCAL", "SIZE", "TOOK", "RESULT"], &rows)
    }
}

pub(crate) async fn prefetch(cluster: &Cluster, args: &Prefetch) -> Result<()> {
    let source = tree::source(cluster, &args.image, &args.pull).await?;
    let nodes = Nodes::find(cluster).await?;
    let warm = match args.profile {
        true => Warm::Profile,
        false => Warm::All,
    };
    let servers = nodes.ready(&args.nodes)?;
    let work = servers
        .iter()
        .map(|server| timed(&nodes, server, &source, warm, args.timeout));
    let done: Vec<_> = futures::stream::iter(work)
        .buffered(AT_ONCE)
        .collect()
        .await;
    let failed = done.iter().find_map(|(_, result)| result.clone().err());
    output::print(&report(&servers, done), args.output.output)?;
    failed.map_or(Ok(()), |fault| Err(fault.into()))
}

async fn timed(
    nodes: &Nodes,
    server: &Server,
    source: &Source,
    warm: Warm,
    deadline: Duration,
) -> (Duration, Result<FlistInfo, Fault>) {
    let began = Instant::now();
    let result = match tokio::time::timeout(deadline, ensure(nodes, server, source, warm)).await {
        Ok(result) => result,
        Err(_) => Err(Fault::new(
            Kind::Timeout,
            format!("node {} is not done yet; it goes on", server.node),
        )),
    };
    (began.elapsed(), result)
}

async fn ensure(
    nodes: &Nodes,
    server: &Server,
    source: &Source,
    warm: Warm,
) -> Result<FlistInfo, Fault> {
    let failed = |status: tonic::Status| of_node(&server.node, "bring the data here", &status);
    let mut node = nodes.dial(server).await?;
    let request = EnsureRequest {
        source: Some(source.clone()),
        warm: warm.into(),
        ..EnsureRequest::default()
    };
    let mut progress = node
        .client
        .ensure(request)
        .await
        .map_err(failed)?
        .into_inner();
    while let Some(step) = progress.next().await {
        let step = step.map_err(failed)?;
        tracing::info!("{}", told(&server.node, &step));
        if let Some(done) = step.done {
            return Ok(done);
        }
    }
    Err(Fault::unavailable(format!(
        "node {} ended without a result; ask again",
        server.node
    )))
}

/// A line of progress, shown with `-v`.
fn told(node: &str, step: &EnsureProgress) -> String {
    let done = output::size(step.bytes_done);
    match step.bytes_total {
        0 => format!("{node}: {}: {done}", step.phase),
        total => format!("{node}: {}: {done} of {}", step.phase, output::size(total)),
    }
}

fn report(servers: &[Server], done: Vec<(Duration, Result<FlistInfo, Fault>)>) -> Report {
    let lines = servers.iter().zip(done).map(|(server, (took, result))| {
        let problem = result.as_ref().err().map(ToString::to_string);
        let flist = result.unwrap_or_default();
        Line {
            node: server.node.clone(),
            digest: flist.digest,
            bytes_local: flist.bytes_local,
            bytes: flist.bytes,
            seconds: took.as_secs_f64(),
            problem,
        }
    });
    Report {
        nodes: lines.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_a_line_with_its_result() {
        let server = |node: &str| Server {
            node: node.to_owned(),
            pod: String::new(),
            ready: true,
        };
        let flist = FlistInfo {
            digest: "ab".repeat(32),
            bytes: 2 << 20,
            bytes_local: 2 << 20,
            ..FlistInfo::default()
        };
        let took = Duration::from_millis(1500);
        let done = vec![(took, Ok(flist)), (took, Err(Fault::unavailable("gone")))];
        assert_eq!(
            output::unindented(&report(&[server("n1"), server("n2")], done).table()),
            "\
NODE  LOCAL     SIZE      TOOK   RESULT
n1    2.00 MiB  2.00 MiB  1.5 s  flist abababababab
n2    -         -         1.5 s  gone"
        );
    }

    #[test]
    fn progress_without_a_total_shows_none() {
        let step = EnsureProgress {
            phase: "convert".into(),
            bytes_done: 1024,
            ..EnsureProgress::default()
        };
        assert_eq!(told("n1", &step), "n1: convert: 1.00 KiB");
    }
}
