//! Load on a replica of discovery: many nodes with many layers, heartbeats and questions.
//!
//! Digests are made from numbers, so that no list of all of them is kept here.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lamina_proto::discovery::v1::service_discovery_client::ServiceDiscoveryClient;
use lamina_proto::discovery::v1::{FindProviderRequest, HeartbeatRequest, LayerStat};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// Calls under way at once while load is made.
const AT_ONCE: u64 = 16;
/// Nodes that one caller speaks for.
const PREPARED: u64 = 8;
/// Bytes of a question and of an answer that names 64 holders.
const PLAIN_QUESTION: usize = 128;
const PLAIN_ANSWER: usize = 12 << 10;
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

/// What heartbeats say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    /// As nodes of ours do: that nothing is other than before.
    Same,
    /// That one layer went and another one came.
    Change,
    /// All layers, as other clients of the protocol do.
    Whole,
}

/// Registers every node, then measures heartbeats of each kind, and questions.
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
        let same = clients.heartbeats(load, Says::Same).await?;
        let changed = clients.heartbeats(load, Says::Change).await?;
        let whole = clients.heartbeats(load, Says::Whole).await?;
        let questions = clients.questions(load).await?;
        Ok(json!({ "registered_s": registered_s, "memory_mib": memory_mib, "same": same, "changed": changed,
            "whole": whole, "find_provider": questions }))
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

    /// Heartbeats of some nodes by turns for the load's time.
    async fn heartbeats(&self, load: &Load, says: Says) -> Result<Value> {
        let until = Instant::now() + Duration::from_secs_f64(load.seconds);
        let (cpu, started) = (cpu_seconds(load.pid)?, Instant::now());
        let sent = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for (first, client) in (0..).zip(&self.0) {
            let (mut client, sent, load) = (client.clone(), Arc::clone(&sent), load.clone());
            tasks.spawn(async move {
                // Made before: making one takes longer than sending it.
                let nodes = (0..PREPARED).map(|turn| (first + turn * AT_ONCE) % load.nodes);
                let mut nodes: Vec<_> = nodes
                    .map(|node| Reporting::new(&load, node, says))
                    .collect();
                for turn in 0.. {
                    if Instant::now() >= until {
                        break;
                    }
                    let node = &mut nodes[turn % PREPARED as usize];
                    let message = node.next();
                    let state = message.state.clone();
                    let told = client.heartbeat(message).await?.into_inner();
                    anyhow::ensure!(told.state == state, "a heartbeat was not taken in");
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

    /// One caller's questions, one after the other; every answer but "ask again" counts. In turn with them as many bytes
    /// over plain TCP, from a thread that does nothing else: what this machine takes for any answer.
    async fn questions(&self, load: &Load) -> Result<Value> {
        let mut client = self.0[0].clone();
        let mut plain = Plain::start().await?;
        let until = Instant::now() + Duration::from_secs_f64(load.seconds);
        let (mut took, mut plain_took) = (Vec::new(), Vec::new());
        let (mut rationed, mut number) = (0, 0);
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
            took.push(started.elapsed());
            let started = Instant::now();
            plain.ask().await?;
            plain_took.push(started.elapsed());
        }
        Ok(
            json!({ "count": took.len(), "rationed": rationed, "asked": shares(took), "plain": shares(plain_took) }),
        )
    }
}

/// Of times, milliseconds.
fn shares(mut took: Vec<Duration>) -> Value {
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    json!({ "p50_ms": at(50), "p99_ms": at(99), "max_ms": at(100) })
}

/// Answers as long as those about a layer, over TCP and nothing else.
struct Plain(tokio::net::TcpStream);

impl Plain {
    async fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let at = listener.local_addr()?;
        // It ends with the connection.
        std::thread::spawn(move || -> std::io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            let answer = vec![7; PLAIN_ANSWER];
            loop {
                stream.read_exact(&mut [0; PLAIN_QUESTION])?;
                stream.write_all(&answer)?;
            }
        });
        let stream = tokio::net::TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    async fn ask(&mut self) -> Result<()> {
        self.0.write_all(&[7; PLAIN_QUESTION]).await?;
        self.0.read_exact(&mut [0; PLAIN_ANSWER]).await?;
        Ok(())
    }
}

/// A node that reports again and again.
struct Reporting {
    message: HeartbeatRequest,
    says: Says,
    layer: u64,
    other: u64,
}

impl Reporting {
    fn new(load: &Load, node: u64, says: Says) -> Self {
        let mut message = heartbeat(load, node);
        if says != Says::Whole {
            (message.layer_digests, message.layer_stats) = (Vec::new(), Vec::new());
            message.since.clone_from(&message.state);
        }
        let (layer, other) = (layer_number(load, node, 0), load.distinct + node);
        Self {
            message,
            says,
            layer,
            other,
        }
    }

    fn next(&mut self) -> HeartbeatRequest {
        if self.says == Says::Change {
            let message = &mut self.message;
            message.since.clone_from(&message.state);
            message.state = other_state(&message.state);
            message.removed_layer_digests = vec![digest(self.layer)];
            message.layer_digests = vec![digest(self.other)];
            message.layer_stats = vec![stat(digest(self.other))];
            std::mem::swap(&mut self.layer, &mut self.other);
        }
        self.message.clone()
    }
}

/// A state's name that was not used before it.
fn other_state(state: &[u8]) -> Vec<u8> {
    let mut next = state.to_vec();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            break;
        }
    }
    next
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

/// The number of a node's layer: different sets that overlap, so that every layer has many holders.
fn layer_number(load: &Load, node: u64, layer: u64) -> u64 {
    (node * 37 + layer * (load.distinct / load.layers).max(1)) % load.distinct
}

fn stat(digest: String) -> LayerStat {
    LayerStat {
        digest,
        afs_size: 16 << 20,
    }
}

/// All that node `number` holds.
fn heartbeat(load: &Load, number: u64) -> HeartbeatRequest {
    let layers = (0..load.layers).map(|layer| digest(layer_number(load, number, layer)));
    let layers: Vec<String> = layers.collect();
    HeartbeatRequest {
        node_id: node_id(number),
        endpoint: format!(
            "10.{}.{}.{}:7150",
            number >> 16 & 255,
            number >> 8 & 255,
            number & 255
        ),
        layer_stats: layers.iter().cloned().map(stat).collect(),
        layer_digests: layers,
        cache_max_bytes: 1 << 40,
        // As long as real ones are.
        state: vec![0; 16],
        ..HeartbeatRequest::default()
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
