//! `lamina-bench`: one measured loop per call, one line of JSON as its answer.
//!
//! The benchmarks in `bench/` decide what is measured, in which order and against what; here is
//! only what an interpreter would distort. Time is taken around the loop alone: opening files,
//! listing names and allocating buffers happen before.

mod discovery;
mod launcher;
mod measure;
mod node;
mod reads;
mod relay;
mod runs;
mod stall;
mod sys;
mod transfer;
mod tree;

use clap::{Parser, Subcommand};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Parser)]
#[command(name = "lamina-bench", about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Read a file once, each job its own part, in blocks
    Seq {
        path: PathBuf,
        #[arg(long, default_value_t = 131_072)]
        block: usize,
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Times the file is read
        #[arg(long, default_value_t = 1)]
        passes: usize,
    },
    /// Read blocks at random aligned places
    Random {
        path: PathBuf,
        #[arg(long, default_value_t = 4096)]
        block: usize,
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Reads of each job
        #[arg(long, default_value_t = 100_000)]
        count: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Map a file and touch pages at random
    Mmap {
        path: PathBuf,
        #[arg(long, default_value_t = 100_000)]
        count: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Open, read and close every regular file of at most 64 KiB
    Small {
        root: PathBuf,
        /// At most this many files, in name order
        #[arg(long, default_value_t = 5000)]
        count: usize,
    },
    /// List every directory and stat every entry
    Walk { root: PathBuf },
    /// Read every byte of every regular file, in walking order
    All { root: PathBuf },
    /// Read blocks at random places of random files, one after the other; percentiles of how long each took
    Latency {
        root: PathBuf,
        #[arg(long, default_value_t = 131_072)]
        block: usize,
        #[arg(long, default_value_t = 1000)]
        count: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Read random places until told to stop; report the longest wait and every error
    Stall {
        path: PathBuf,
        #[arg(long, default_value_t = 64)]
        jobs: usize,
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Forward TCP connections, every byte delivered this much later
    Relay {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        connect: SocketAddr,
        /// One-way delay, milliseconds
        #[arg(long, default_value_t = 5)]
        delay_ms: u64,
    },
    /// Publish an image by CSI on a Kubernetes node
    Publish(node::Publish),
    /// How long the volumes of a Kubernetes node took to be mounted, and what was fetched for them
    Volumes { socket: PathBuf },
    /// Heartbeats of many nodes and questions to a replica of discovery
    Discovery(discovery::Load),
    /// Make a Kubernetes node leave Lamina and remove what it has
    Leave {
        socket: PathBuf,
        /// Also when volumes are in use
        #[arg(long)]
        force: bool,
    },
    /// Read a layer from a node that serves without TLS
    Layer {
        at: SocketAddr,
        digest: String,
        #[arg(long, default_value_t = 1)]
        times: usize,
    },
    /// Send bytes over a plain TCP connection of this machine
    Tcp {
        bytes: u64,
        /// Bytes of each write and read
        #[arg(long, default_value_t = 1 << 20)]
        message: usize,
        /// Send this file, again and again, by sendfile
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Runs of one command, asked of an afslet or a proxy
    Execute(runs::Runs),
    /// Runs that go on until standard input ends
    Hold(runs::Hold),
    /// Afslets that run nothing and say they did, until standard input ends
    Idle {
        #[arg(required = true)]
        listen: Vec<SocketAddr>,
    },
    /// Start a command line again and again
    Spawn(launcher::Spawn),
    /// Start a program in an overlay, namespaces and cgroups of its own, and nothing more
    Launch(launcher::Launch),
    /// Mount an image on a node
    Mount(node::Mount),
    /// Undo that
    Unmount {
        #[arg(long)]
        socket: PathBuf,
        #[arg(long)]
        volume: String,
        #[arg(long)]
        target: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    let found: Value = match Cli::parse().command {
        Command::Execute(ask) => runs::execute(&ask)?,
        Command::Hold(ask) => runs::hold(&ask)?,
        Command::Idle { listen } => runs::serve_nothing(&listen)?,
        Command::Spawn(ask) => launcher::spawn(&ask)?,
        Command::Launch(ask) => launcher::launch(&ask)?,
        Command::Seq {
            path,
            block,
            jobs,
            passes,
        } => reads::sequential(&path, block, jobs, passes)?.into(),
        Command::Random {
            path,
            block,
            jobs,
            count,
            seed,
        } => reads::random(&path, block, jobs, count, seed)?.into(),
        Command::Mmap { path, count, seed } => reads::mapped(&path, count, seed)?.into(),
        Command::Small { root, count } => tree::small_files(&root, count)?.into(),
        Command::Walk { root } => tree::walk(&root)?.into(),
        Command::All { root } => tree::read_all(&root)?.into(),
        Command::Stall {
            path,
            jobs,
            seconds,
            seed,
        } => stall::longest_wait(&path, jobs, Duration::from_secs_f64(seconds), seed)?.into(),
        Command::Relay {
            listen,
            connect,
            delay_ms,
        } => {
            return relay::run(listen, connect, Duration::from_millis(delay_ms));
        }
        Command::Latency {
            root,
            block,
            count,
            seed,
        } => tree::latency(&root, block, count, seed)?,
        Command::Layer { at, digest, times } => transfer::layer(at, &digest, times)?.into(),
        Command::Tcp {
            bytes,
            message,
            file,
        } => transfer::tcp(bytes, message, file.as_deref())?.into(),
        Command::Publish(ask) => node::publish(&ask)?,
        Command::Volumes { socket } => node::volumes(&socket)?,
        Command::Discovery(load) => discovery::measure(&load)?,
        Command::Leave { socket, force } => node::leave(&socket, force)?,
        Command::Mount(ask) => node::mount(&ask)?,
        Command::Unmount {
            socket,
            volume,
            target,
        } => node::unmount(&socket, &volume, &target)?,
    };
    println!("{found}");
    Ok(())
}
