//! Load on a replica of discovery: many nodes with many layers, heartbeats and questions.
//!
//! Digests are made from numbers, so that no list of all of them is kept here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lamina_proto::discovery::v1::service_discovery_client::ServiceDiscoveryClient;
use lamina_proto::discovery::v1::{FindProviderRequest, HeartbeatRequest, LayerStat};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// Calls under way at once while load is made.
const AT_ONCE: u64 = 16;
/// Nodes that one caller speaks for.
const PREPARED: u64 = 8;
/// Most time for anything but the measured loops.
const DEADLINE: Duration = Duration::from_secs(600);

/// The load.
#[derive(clap::Args, Clone)]
pub(crate) struct Load {
    /// The replica, served without TLS
    #[arg(long)]
    at: SocketAddr,
    /// Its process, whose CPU time is counted
    #[arg(long)]
    pid: u32,
    /// Nodes that report
    #[arg(long, default_value_t = 10_000)]
    nodes: u64,
    /// Layers of each
    #[arg(long, default_value_t = 1000)]
    layers: u64,
    /// Layers there are
    #[arg(long, default_value_t = 20_000)]
    distinct: u64,
    /// How long each kind of load lasts
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

type Client = ServiceDiscoveryClient<Channel>;

/// Registers every node, then measures heartbeats that say nothing new, heartbeats that do, and questions.
pub(crate) fn measure(load: &Load) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let clients = Clients::connect(load.at).await?;
        let started = Instant::now();
        let registering = clients.every(load, load.nodes, heartbeat);
        let registered = tokio::time::timeout(DEADLINE, registering);
        registered.await.context("register the nodes in time")??;
        let registered_s = started.elapsed().as_secs_f64();
        let memory_mib = resident_mib(load.pid)?;
        let same = clients.heartbeats(load, false).await?;
        let changed = clients.heartbeats(load, true).await?;
        let questions = clients.questions(load).await?;
        Ok(json!({ "registered_s": registered_s, "memory_mib": memory_mib, "same": same, "changed": changed,
            "find_provider": questions }))
    })
}

/// Connections of a few clients, since one HTTP/2 connection is one task of the server.
struct Clients(Vec<Client>);

impl Clients {
    async fn connect(at: SocketAddr) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{at}"))?;
        let mut clients = Vec::new();
        for _ in 0..AT_ONCE {
            let channel = endpoint.connect().await.context("connect to the replica")?;
            clients.push(Client::new(channel));
        }
        Ok(Self(clients))
    }

    /// Sends `count` heartbeats, many at once; by number what each one says.
    async fn every(
        &self,
        load: &Load,
        count: u64,
        say: impl Fn(&Load, u64) -> HeartbeatRequest + Clone + Send + 'static,
    ) -> Result<()> {
        let next = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for client in &self.0 {
            let (mut client, next) = (client.clone(), Arc::clone(&next));
            let (load, say) = (load.clone(), say.clone());
            tasks.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return Ok::<_, anyhow::Error>(());
                    }
                    client.heartbeat(say(&load, number)).await?;
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Heartbeats of all nodes by turns for the load's time; `new`: each with another
    /// layer than the node's last one.
    async fn heartbeats(&self, load: &Load, new: bool) -> Result<Value> {
        let until = Instant::now() + Duration::from_secs_f64(load.seconds);
        let (cpu, started) = (cpu_seconds(load.pid)?, Instant::now());
        let sent = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for (first, client) in (0..).zip(&self.0) {
            let (mut client, sent, load) = (client.clone(), Arc::clone(&sent), load.clone());
            tasks.spawn(async move {
                // Made before: making one takes longer than sending it.
                let nodes = (0..PREPARED).map(|turn| (first + turn * AT_ONCE) % load.nodes);
                let mut messages: Vec<_> = nodes.map(|node| heartbeat(&load, node)).collect();
                for turn in 0.. {
                    if Instant::now() >= until {
                        break;
                    }
                    let message = &mut messages[turn % PREPARED as usize];
                    if new {
                        let other = digest(load.distinct + first + turn as u64 * AT_ONCE);
                        message.layer_digests[0].clone_from(&other);
                        message.layer_stats[0].digest = other;
                    }
                    client.heartbeat(message.clone()).await?;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, anyhow::Error>(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        let (seconds, cpu) = (
            started.elapsed().as_secs_f64(),
            cpu_seconds(load.pid)? - cpu,
        );
        let count = sent.load(Ordering::Relaxed);
        Ok(json!({ "count": count, "seconds": seconds, "cpu_seconds": cpu }))
    }

    /// One caller's questions, one after the other; every answer but "ask again" counts.
    async fn questions(&self, load: &Load) -> Result<Value> {
        let mut client = self.0[0].clone();
        let until = Instant::now() + Duration::from_secs_f64(load.seconds);
        let (mut took, mut rationed, mut number) = (Vec::new(), 0, 0);
        while Instant::now() < until {
            number += 1;
            let request = FindProviderRequest {
                layer_digest: digest(number * 7919 % load.distinct),
            };
            let started = Instant::now();
            match client.find_provider(request).await {
                Ok(found) => anyhow::ensure!(
                    !found.into_inner().services.is_empty(),
                    "nobody holds a layer"
                ),
                Err(status) if status.code() == Code::ResourceExhausted => rationed += 1,
                Err(status) => return Err(status.into()),
            }
            took.push(started.elapsed().as_secs_f64() * 1000.0);
        }
        took.sort_by(f64::total_cmp);
        let at = |percent: usize| took[(took.len() - 1) * percent / 100];
        Ok(
            json!({ "count": took.len(), "rationed": rationed, "p50_ms": at(50), "p99_ms": at(99), "max_ms": at(100) }),
        )
    }
}

fn node_id(number: u64) -> String {
    format!("node-{number:05}")
}

/// A layer's digest by its number.
fn digest(number: u64) -> String {
    format!(
        "sha256:{:016x}{number:048x}",
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    )
}

/// What node `number` holds.
fn heartbeat(load: &Load, number: u64) -> HeartbeatRequest {
    // Different sets that overlap: every layer has many holders.
    let layers: Vec<String> = (0..load.layers)
        .map(|layer| {
            digest((number * 37 + layer * (load.distinct / load.layers).max(1)) % load.distinct)
        })
        .collect();
    HeartbeatRequest {
        node_id: node_id(number),
        endpoint: format!(
            "10.{}.{}.{}:7150",
            number >> 16 & 255,
            number >> 8 & 255,
            number & 255
        ),
        layer_stats: layers
            .iter()
            .map(|digest| LayerStat {
                digest: digest.clone(),
                afs_size: 16 << 20,
            })
            .collect(),
        layer_digests: layers,
        cached_images: Vec::new(),
        cache_max_bytes: 1 << 40,
    }
}

/// User and system time of a process, seconds (`proc_pid_stat(5)`; ticks are hundredths).
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("read its CPU time")?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |at: usize| -> Option<f64> { after_name.split_whitespace().nth(at)?.parse().ok() };
    let (user, system) = ticks(11)
        .zip(ticks(12))
        .context("its CPU time is not there")?;
    Ok((user + system) / 100.0)
}

fn resident_mib(pid: u32) -> Result<f64> {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).context("read its memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .context("its memory is not there")?;
    Ok(kib / 1024.0)
}
