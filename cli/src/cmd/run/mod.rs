//! `run`: a command in a fresh, writable copy of an image, and nothing left of it afterwards.
//!
//! ```text
//!  image ──> flist ──agent──> mount (read-only) ──┐
//!  slot: user ids, directory, cgroup ─────────────┼──> root (union) ──> command <──> our standard files
//!  spawner ──> namespaces, waiting ───────────────┘
//! ```
//!
//! Whatever happens to this process, the command ends with it. What only a next run can take down, the mount and the
//! cgroup of a run that was killed, is found by its slot.

mod changes;
mod commit;
mod diff;
mod files;
mod leftovers;
mod rootfs;
mod source;
mod stop;
mod watch;

use self::stop::Stop;
use crate::args::run::{Net, Run, Scratch};
use crate::{daemon, exit};
use anyhow::{Context, Result, bail};
use changes::Changes;
use commit::Commit;
use files::Relay;
use lamina_mount::union::scratch::Scratch as Root;
use lamina_runtime::cgroup::{Cgroups, IoLimit, ResourceLimits};
use lamina_runtime::image::{ImageConfig, Wanted};
use lamina_runtime::slots::{self, Slot};
use lamina_runtime::spec::ProcessLimits;
use lamina_runtime::{Ended, Prepare, Spawner, Spec, network_files, user};
use rootfs::Mounted;
use std::ffi::OsStr;
use std::process::ExitCode;
use std::time::Instant;

/// By this argument the program knows that it is to be a spawner of sandboxes.
pub(super) const SPAWNER: &str = "sandbox-spawner";

/// Is the spawner, if that is what this process was started as: before threads, logs and the command line.
pub(crate) fn sandbox_spawner() -> Option<ExitCode> {
    (std::env::args_os().nth(1)? == SPAWNER).then(|| match lamina_runtime::spawner::serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: spawn sandboxes: {error}");
            ExitCode::FAILURE
        }
    })
}

pub(crate) fn run(args: &Run) -> Result<()> {
    let ended = run_to_end(args).with_context(|| exit::NotRun(args.image.clone()))?;
    match ended.exit_code() {
        0 => Ok(()),
        code => Err(exit::CommandEnded(code).into()),
    }
}

fn run_to_end(args: &Run) -> Result<Ended> {
    if args.net == Net::Host && !lamina_runtime::keeps_from_abstract_sockets() {
        eprintln!(
            "warning: this kernel does not keep commands on its network from abstract Unix sockets; Linux 6.12 does"
        );
    }
    check_io(args)?;
    if let Some(out) = &args.diff {
        diff::check(out, args.commit.as_deref())?;
    }
    let flist = source::flist(args)?;
    let commit = Commit::prepare(args, &flist)?;
    let image = ImageConfig::of_json(flist.image_config());
    let wanted = wanted(args);
    let argv = image.argv(&wanted)?;
    let program = argv.first().cloned().unwrap_or_default();
    let home = args.instance.run_dir.join("sandboxes");
    let cgroups = Cgroups::find()?;
    leftovers::sweep(&home, &args.instance.run_dir, &cgroups);
    let slot = slots::take(&home)?;
    let spawner = Spawner::start(&daemon::own_program()?, &[OsStr::new(SPAWNER)])?;
    let mounted = Mounted::new(args, &flist.path, &slot)?;
    // Its limits follow, some by the disk that its root is on.
    let cgroup = cgroups.create(&slot.cgroup_name(), &ResourceLimits::default())?;
    let prepared = spawner.prepare(&Prepare {
        ids: slot.ids(),
        own_network: args.net == Net::None,
        cgroup: Some(&cgroup),
    })?;
    let root = mounted.root(args, &slot, prepared.user_namespace())?;
    let limits = limits(args, &cgroups, &root)?;
    cgroups.check(&limits)?;
    cgroup.limit(&limits)?;
    let identity = args.user.as_deref().unwrap_or(&image.user);
    let user = user::find(root.root(), identity)?;
    let spec = Spec {
        limits: process_limits(args, &cgroups),
        ..spec(args, &image, &wanted, argv, user)
    };
    let began = Instant::now();
    let (relay, standard) = Relay::new(args)?;
    let running = prepared.start(&spec, root.root(), standard.as_ref())?;
    drop(standard);
    let stop = Stop::default();
    let deadline = args.limits.timeout.map(|time| began + time);
    let outcome = watch::watch(running, relay, deadline, &stop)?;
    let found = watch::Found {
        program: &program,
        used: cgroup.usage(),
        has_room: root.has_room().unwrap_or(true),
    };
    watch::explain(args, &outcome, &found);
    let kept = keep(args, commit.as_ref(), &root, &slot, &stop);
    match stop.asked() {
        Some(ended) if kept.is_err() => {
            eprintln!("error: ended by a signal: the changes are not kept");
            Ok(ended)
        }
        _ => kept.and(outcome.written).map(|()| outcome.ended),
    }
}

/// Keeps what was changed, as it was asked for.
fn keep(
    args: &Run,
    commit: Option<&Commit<'_>>,
    root: &Root,
    slot: &Slot,
    stop: &Stop,
) -> Result<()> {
    if args.diff.is_none() && commit.is_none() {
        return Ok(());
    }
    let changes = Changes::of(root, slot, args, stop)?;
    let diff = args.diff.as_deref().map(|out| diff::write(out, &changes));
    let diff = diff.transpose()?;
    let committed = commit.map(|commit| commit.write(&changes)).transpose()?;
    // Of one root, both leave out the same.
    if let Some(packed) = committed.or(diff) {
        changes::warn(&packed);
    }
    Ok(())
}

fn wanted(args: &Run) -> Wanted {
    let from_here = |entry: &String| match entry.contains('=') {
        true => Some(entry.clone()),
        false => std::env::var(entry)
            .ok()
            .map(|value| format!("{entry}={value}")),
    };
    Wanted {
        command: args.command.clone(),
        entrypoint: args.entrypoint.as_ref().map(|program| {
            let words = std::iter::once(program.clone());
            words.filter(|program| !program.is_empty()).collect()
        }),
        env: args.env.iter().filter_map(from_here).collect(),
    }
}

fn spec(
    args: &Run,
    image: &ImageConfig,
    wanted: &Wanted,
    argv: Vec<String>,
    user: user::User,
) -> Spec {
    let mut defaults = vec![("HOME", user.home.as_str()), ("HOSTNAME", &args.hostname)];
    let term = std::env::var("TERM").unwrap_or_else(|_| "xterm".to_owned());
    if args.tty {
        defaults.push(("TERM", &term));
    }
    let bytes = |list: Vec<String>| list.into_iter().map(String::into_bytes).collect();
    let directory = args.workdir.clone().or_else(|| image.directory.clone());
    Spec {
        argv: bytes(argv),
        env: bytes(image.env(wanted, &defaults)),
        directory: directory.unwrap_or_else(|| "/".to_owned()).into_bytes(),
        user: user.identity,
        capabilities: args.cap_add.concat(),
        hostname: args.hostname.clone(),
        terminal: args.tty.then(files::own_size),
        limits: ProcessLimits::default(),
        files: match args.net {
            Net::Host => network_files::of_host(),
            Net::None => Vec::new(),
        },
    }
}

/// Processes are bounded twice; the cgroup's bound, where there is one, is hit first, for it says so.
fn process_limits(args: &Run, cgroups: &Cgroups) -> ProcessLimits {
    let pids = args.limits.pids;
    ProcessLimits {
        processes_max: Some(match cgroups.has("pids") {
            true => pids * 2,
            false => pids,
        }),
        ..ProcessLimits::default()
    }
}

/// What everything in the sandbox may have together.
fn limits(args: &Run, cgroups: &Cgroups, root: &Root) -> Result<ResourceLimits> {
    let io = match (args.limits.io_read_bps, args.limits.io_write_bps) {
        (None, None) => None,
        (read_bps, write_bps) => Some(IoLimit {
            device: device_of(root)?,
            read_bps,
            write_bps,
        }),
    };
    Ok(ResourceLimits {
        cpu_millis: args.limits.cpus,
        memory_bytes: args.limits.memory,
        // A default nobody asked for is no reason not to run; each process has it as its own limit, too.
        pids: cgroups.has("pids").then_some(args.limits.pids),
        io,
    })
}

/// The block device that changes are written to.
fn device_of(root: &Root) -> Result<(u32, u32)> {
    let stat = rustix::fs::fstat(root.changes()).context("look at where changes are kept")?;
    Ok((
        rustix::fs::major(stat.st_dev),
        rustix::fs::minor(stat.st_dev),
    ))
}

/// Memory has no speed to be bounded.
fn check_io(args: &Run) -> Result<()> {
    let limits = &args.limits;
    let is_asked = limits.io_read_bps.is_some() || limits.io_write_bps.is_some();
    if is_asked && limits.scratch == Scratch::Memory {
        let why = "changes are kept in memory, whose speed cannot be bounded: give --scratch disk with it";
        bail!(exit::Usage(format!("--io-read-bps, --io-write-bps: {why}")));
    }
    Ok(())
}

/// Where changes are kept, as mounts name it.
fn medium(scratch: Scratch) -> lamina_mount::union::scratch::ScratchMedium {
    use lamina_mount::union::scratch::ScratchMedium;
    match scratch {
        Scratch::Memory => ScratchMedium::Memory,
        Scratch::Disk => ScratchMedium::Disk,
    }
}
