//! `doctor`: what this machine can do, the mount mode chosen and why, limits, fixes.

use crate::args;
use crate::output::{self, Show};
use anyhow::{Context, Result};
use lamina_mount::probe::{self, Features, Mode, ModeRequest};
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Serialize)]
struct Report {
    kernel: String,
    mode: Option<Mode>,
    why: String,
    cache: CacheReport,
    limits: Limits,
    features: Features,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct CacheReport {
    dir: PathBuf,
    file_system: String,
    bytes_free: u64,
    instances_running: usize,
}

#[derive(Serialize)]
struct Limits {
    open_files: u64,
    loop_devices: String,
    effective_uid: u32,
}

impl Show for Report {
    fn table(&self) -> String {
        let mode = self
            .mode
            .map_or_else(|| "none".to_owned(), |mode| mode.to_string());
        let head = output::pairs(&[
            ("kernel", self.kernel.clone()),
            ("mount mode", format!("{mode}: {}", self.why)),
            (
                "cache",
                format!("{} on {}", self.cache.dir.display(), self.cache.file_system),
            ),
            ("free there", output::size(self.cache.bytes_free)),
            (
                "instances running",
                self.cache.instances_running.to_string(),
            ),
            ("open files allowed", self.limits.open_files.to_string()),
            ("loop devices", self.limits.loop_devices.clone()),
        ]);
        let rows: Vec<_> = self
            .features
            .list()
            .into_iter()
            .map(|(name, finding)| {
                let found = if finding.found { "yes" } else { "no" };
                let fix = finding
                    .fix
                    .as_ref()
                    .map(|fix| format!(" Fix: {fix}"))
                    .unwrap_or_default();
                [
                    name.to_owned(),
                    found.to_owned(),
                    format!("{}{fix}", finding.means),
                ]
            })
            .collect();
        let features = output::columns(["FEATURE", "FOUND", "MEANS"], &rows);
        let problems = match self.problems.is_empty() {
            true => "no problems found".to_owned(),
            false => format!("problems:\n- {}", self.problems.join("\n- ")),
        };
        format!("{head}\n\n{features}\n\n{problems}")
    }
}

pub(crate) fn doctor(args: &args::Doctor) -> Result<()> {
    let cache = &args.instance.cache;
    std::fs::create_dir_all(cache)
        .with_context(|| format!("make the cache directory {}", cache.display()))?;
    let features = probe::probe(cache).context("probe the kernel")?;
    let chosen = probe::choose_mode(ModeRequest::Auto, &features);
    let (mode, why) = match &chosen {
        Ok(mode) => (Some(*mode), reason(*mode, &features)),
        Err(error) => (None, error.to_string()),
    };
    let stat = rustix::fs::statvfs(cache).context("ask for free space")?;
    let running = lamina_nodeagent::instance::Instance::all(&args.instance.run_dir)?
        .iter()
        .filter(|instance| crate::daemon::is_running(instance))
        .count();
    let mut report = Report {
        kernel: features.kernel.clone(),
        mode,
        why,
        cache: CacheReport {
            dir: cache.clone(),
            file_system: file_system(cache),
            bytes_free: stat.f_bavail * stat.f_frsize,
            instances_running: running,
        },
        limits: limits(),
        features,
        problems: Vec::new(),
    };
    report.problems = problems(&report);
    output::print(&report, args.output.output)
}

fn reason(mode: Mode, features: &Features) -> String {
    match mode {
        Mode::Erofs => "EROFS on plain files works; native speed".to_owned(),
        Mode::ErofsLoop => {
            format!(
                "EROFS on loop devices works; on plain files: {}",
                features.erofs_file_backed.means
            )
        }
        Mode::Fuse => format!("only FUSE works; EROFS: {}", features.erofs.means),
    }
}

fn file_system(path: &Path) -> String {
    let table = lamina_mount::unmount::mountinfo::MountTable::read();
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let found = table.ok().and_then(|table| {
        path.ancestors()
            .find_map(|dir| table.on(dir).map(|entry| entry.fs_type.clone()))
    });
    found.unwrap_or_else(|| "an unknown file system".to_owned())
}

fn limits() -> Limits {
    let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let max_loop = std::fs::read_to_string("/sys/module/loop/parameters/max_loop");
    let loop_devices = match max_loop.as_deref().map(str::trim) {
        Ok("0") | Err(_) => "as many as needed".to_owned(),
        Ok(count) => format!("{count} made at start, more as needed"),
    };
    Limits {
        open_files: open_files.current.unwrap_or(u64::MAX),
        loop_devices,
        effective_uid: rustix::process::geteuid().as_raw(),
    }
}

/// What a user should do something about.
fn problems(report: &Report) -> Vec<String> {
    let mut found = Vec::new();
    if report.limits.effective_uid != 0 {
        found.push(
            "not root: mounting needs CAP_SYS_ADMIN; packing and converting do not".to_owned(),
        );
    }
    if report.mode.is_none() {
        found.push(format!("flists cannot be mounted: {}", report.why));
    }
    if !report.features.fuse_resend.found {
        found.push(format!(
            "a killed mount daemon is noticed: {}",
            report.features.fuse_resend.means
        ));
    }
    if report.cache.bytes_free < 1 << 30 {
        found.push(format!(
            "less than 1 GiB is free in {}",
            report.cache.dir.display()
        ));
    }
    if report.cache.file_system == "tmpfs" {
        found.push("the cache is in memory: use a directory on a disk".to_owned());
    }
    if report.limits.open_files < 1024 {
        found.push("fewer than 1,024 open files are allowed: raise `ulimit -n`".to_owned());
    }
    found
}
