//! `afslet`: running commands for the cluster.

use super::node::own_name;
use super::run::SPAWNER;
use crate::args::afslet::Afslet;
use crate::{daemon, exit};
use anyhow::{Context, Result, bail};
use lamina_afslet::{AfsletConfig, Limits, Security, SpawnerProgram};

pub(crate) fn afslet(args: Afslet) -> Result<()> {
    let security = security(&args)?;
    let limits = limits(&args)?;
    let config = AfsletConfig {
        listen: args.listen,
        security,
        http: args.metrics,
        node_socket: args.node_socket,
        volumes: args.volumes,
        run_dir: args.instance.run_dir,
        node: args.name.map_or_else(own_name, Ok)?,
        limits,
        warm: args.warm as usize,
        drain_timeout: args.drain_timeout,
        spawner: SpawnerProgram {
            program: daemon::own_program()?,
            args: vec![SPAWNER.into()],
        },
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    lamina_afslet::run(config).context("serve runs")
}

fn security(args: &Afslet) -> Result<Security> {
    match &args.tls_dir {
        Some(dir) => Ok(Security::Mutual(dir.clone())),
        None if args.insecure || args.listen.ip().is_loopback() => Ok(Security::None),
        None => bail!(exit::Usage(format!(
            "--listen {}: give --tls-dir, or --insecure to run commands for anybody who reaches it",
            args.listen
        ))),
    }
}

fn limits(args: &Afslet) -> Result<Limits> {
    Ok(Limits {
        cpu_cores: args.cpu.map_or_else(own_processors, Ok)?,
        memory_mb: args.memory.map_or_else(own_memory_mb, Ok)?,
        runs: args.runs_max as usize,
        disk_mb: args.disk_mb_max,
        pids: args.pids_max,
        timeout: args.timeout_max,
        log_bytes: args.log_bytes_max,
        images: args.images_max as usize,
        host_network: args.allow_host_network,
    })
}

fn own_processors() -> Result<u64> {
    let found = std::thread::available_parallelism().context("count processors; give --cpu")?;
    Ok(found.get() as u64)
}

fn own_memory_mb() -> Result<u64> {
    let table =
        std::fs::read_to_string("/proc/meminfo").context("read how much memory there is")?;
    memory_mb(&table).context("understand how much memory there is; give --memory")
}

/// Mebibytes, by `/proc/meminfo` (`proc_meminfo(5)`).
fn memory_mb(table: &str) -> Option<u64> {
    let line = table
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_the_kernel_says() {
        let table = "MemTotal:        8137020 kB\nMemFree:          121000 kB\n";
        assert_eq!(memory_mb(table), Some(7946));
        assert_eq!(memory_mb("MemFree: 1 kB\n"), None);
    }
}
