//! `status`: afslets and layerstores, as a proxy sees them.

use super::{reach, runtime};
use crate::args::Format;
use crate::args::proxy::Status as Args;
use crate::output::{self, Show, columns, size};
use anyhow::Result;
use lamina_proto::afsproxy::v1::StatusRequest;
use lamina_proto::afsproxy::v1::afs_proxy_client::AfsProxyClient;
use lamina_proxy::Overview;
use serde::Serialize;

/// A node with very many layers is one message.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

#[derive(Serialize)]
#[serde(transparent)]
struct Shown(Overview);

pub(crate) fn status(args: &Args) -> Result<()> {
    let overview = runtime()?.block_on(ask(args))?;
    let format = if args.json {
        Format::Json
    } else {
        args.output.output
    };
    output::print(&Shown(overview), format)
}

async fn ask(args: &Args) -> Result<Overview> {
    let proxy = reach::connect(&args.reach).await?;
    let mut client =
        AfsProxyClient::new(proxy.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let request = StatusRequest {
        include_layerstores: true,
        include_afslets: true,
    };
    let asked = client.status(request).await;
    let mut messages = asked
        .map_err(|status| proxy.unanswered(&status))?
        .into_inner();
    let mut overview = Overview::default();
    while let Some(message) = messages
        .message()
        .await
        .map_err(|status| reach::refused(&status))?
    {
        if let Some(payload) = message.payload {
            overview.take(payload);
        }
    }
    Ok(overview)
}

impl Show for Shown {
    fn table(&self) -> String {
        let afslets: Vec<_> = self
            .0
            .afslets
            .iter()
            .map(|one| {
                [
                    named(&one.node_id),
                    one.endpoint.clone(),
                    one.state.clone(),
                    one.running_containers.to_string(),
                    format!("{}/{}", one.used_cpu_cores, one.limit_cpu_cores),
                    format!("{}/{}", mib(one.used_memory_mb), mib(one.limit_memory_mb)),
                ]
            })
            .collect();
        let mut parts = vec![columns(
            ["AFSLET", "ENDPOINT", "STATE", "RUNS", "CPU", "MEMORY"],
            &afslets,
        )];
        if !self.0.layerstores.is_empty() {
            parts.push(layerstores(&self.0));
        }
        let why = self.0.afslets.iter().filter(|one| !one.error.is_empty());
        let why = why.map(|one| format!("{}: {}", one.endpoint, one.error));
        let errors = self.0.errors.iter();
        let errors = errors.map(|error| format!("{}: {}", error.source, error.message));
        let errors: Vec<_> = why
            .chain(errors)
            .map(|line| output::printable(&line))
            .collect();
        if !errors.is_empty() {
            parts.push(errors.join("\n"));
        }
        parts.join("\n\n")
    }
}

fn layerstores(overview: &Overview) -> String {
    let rows: Vec<_> = overview
        .layerstores
        .iter()
        .map(|one| {
            [
                named(&one.node_id),
                one.endpoint.clone(),
                one.layers.to_string(),
                one.cached_images.len().to_string(),
                format!("{}/{}", bytes(one.cache_bytes), bytes(one.cache_max_bytes)),
            ]
        })
        .collect();
    columns(
        ["LAYERSTORE", "ENDPOINT", "LAYERS", "IMAGES", "BYTES"],
        &rows,
    )
}

fn named(name: &str) -> String {
    match name {
        "" => "-".to_owned(),
        name => name.to_owned(),
    }
}

fn bytes(count: i64) -> String {
    size(u64::try_from(count).unwrap_or(0))
}

fn mib(count: i64) -> String {
    size(u64::try_from(count).unwrap_or(0).saturating_mul(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamina_proxy::{AfsletView, Failure, Layerstore};

    #[test]
    fn the_table_has_afslets_layerstores_and_what_is_wrong() {
        let overview = Overview {
            afslets: vec![
                AfsletView {
                    endpoint: "10.0.0.1:7170".into(),
                    node_id: "n1".into(),
                    state: "open".into(),
                    running_containers: 2,
                    limit_cpu_cores: 8,
                    used_cpu_cores: 3,
                    limit_memory_mb: 2048,
                    used_memory_mb: 512,
                    ..AfsletView::default()
                },
                AfsletView {
                    endpoint: "10.0.0.2:7170".into(),
                    state: "unreachable".into(),
                    error: "refused\u{1b}[31m".into(),
                    ..AfsletView::default()
                },
            ],
            layerstores: vec![Layerstore {
                node_id: "n1".into(),
                endpoint: "10.0.0.1:7150".into(),
                layers: 7,
                cache_bytes: 3 << 20,
                cache_max_bytes: 1 << 30,
                ..Layerstore::default()
            }],
            errors: vec![Failure {
                source: "discovery".into(),
                message: "none answers".into(),
            }],
            ..Overview::default()
        };
        let table = output::unindented(&Shown(overview).table());
        let words: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            words[0],
            ["AFSLET", "ENDPOINT", "STATE", "RUNS", "CPU", "MEMORY"]
        );
        assert_eq!(
            words[1],
            [
                "n1",
                "10.0.0.1:7170",
                "open",
                "2",
                "3/8",
                "512",
                "MiB/2.00",
                "GiB"
            ]
        );
        assert_eq!(words[2][..3], ["-", "10.0.0.2:7170", "unreachable"]);
        assert_eq!(
            words[5],
            ["n1", "10.0.0.1:7150", "7", "0", "3.00", "MiB/1.00", "GiB"]
        );
        assert!(
            table.contains("10.0.0.2:7170: refused\\u{1b}[31m"),
            "{table}"
        );
        assert!(table.ends_with("discovery: none answers"), "{table}");
    }
}
