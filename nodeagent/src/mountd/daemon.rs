//! Wiring of the mount daemon: one function from configuration to end.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::{Receiver, Sender};
use lamina_mount::blobfs::{BlobFs, BlobFsOptions, BlobFsShell};
use lamina_mount::session::{ConnectOptions, FuseConnection, Serving, serve};
use nix::sys::signal::{SigSet, Signal};
use rustix::mount::{UnmountFlags, unmount};

use super::alive::Alive;
use super::blobs::Blobs;
use super::control::Control;
use super::fill_link::FillLink;
use super::held::Held;
use super::protocol::MOUNTD_SOCKET;
use super::state::State;
use super::trees::Trees;
use crate::fill::AGENT_SOCKET;
use crate::holder::HolderClient;
use crate::{rundir, wire};

/// Under which name the holder keeps the blob file system's descriptors.
const CONNECTION: &str = "blobfs";
/// Its directory in the run directory.
const MOUNT_POINT: &str = "blobs";
/// How long a predecessor may take to be gone.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(30);
/// How long the end waits for whoever looks at the blob file system. Mounts that use its files for
/// good keep it however long is waited; this is short against `STOP_DEADLINE` of the holder.
const BUSY_PATIENCE: Duration = Duration::from_millis(500);
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// How a mount daemon runs.
#[derive(Debug, Clone)]
pub struct MountdConfig {
    /// The instance's directory: sockets, state, the blob file system.
    pub run_dir: PathBuf,
    /// Its name among the holder's children.
    pub name: String,
    /// Longest time a read waits for missing bytes.
    pub fill_deadline: Duration,
    /// `/dev/fuse` descriptors, and threads on each of them.
    pub devices: usize,
    /// Threads on each descriptor.
    pub threads_per_device: usize,
}

impl MountdConfig {
    /// The defaults for a run directory.
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self {
            run_dir: run_dir.into(),
            name: "mountd".into(),
            fill_deadline: BlobFsOptions::default().fill_deadline,
            devices: 4,
            threads_per_device: 2,
        }
    }
}

/// Why the daemon ends.
enum End {
    /// It was asked to: SIGTERM, SIGINT or a Shutdown message.
    Asked,
    /// Its file system is gone (unmounted or aborted by somebody).
    Unmounted,
    /// Nobody can reach it any more; a successor makes another socket.
    Unreachable,
}

/// Serves until it is asked to end. A holder must be running.
///
/// # Errors
/// When it cannot start, or when its file system was taken from under it.
pub fn run(config: &MountdConfig) -> anyhow::Result<()> {
    let signals = block_signals()?;
    rundir::ensure(&config.run_dir)?;
    let _lock = rundir::lock_as_child(&config.run_dir, "mountd.lock", PREDECESSOR_PATIENCE)?;
    let holder = HolderClient::connect(&config.run_dir)?;
    let mount_point = config.run_dir.join(MOUNT_POINT);
    let mut state = State::load(&config.run_dir)?;
    let held = Held::new(&config.run_dir);
    let alive = Alive::open(&held)?;
    let adopted = held.adopt(CONNECTION)?;
    let resend = adopted.is_some();
    let devices = match adopted {
        Some(devices) => devices,
        None => connect(config, &held, &mount_point, &mut state)?,
    };
    let link = FillLink::start(config.run_dir.join(AGENT_SOCKET))?;
    let options = BlobFsOptions {
        fill_deadline: config.fill_deadline,
    };
    let fs = Arc::new(BlobFs::new(Arc::clone(&link) as _, options));
    let blobs = Blobs::restore(Arc::clone(&fs), state, &config.run_dir, &mount_point);
    let blobs = Arc::new(blobs);
    let shell = BlobFsShell(Arc::clone(&fs));
    let serving = serve(&devices, &shell, config.threads_per_device, resend)?;
    let trees = Trees {
        fs: Arc::clone(&fs),
        blobs: Arc::clone(&blobs),
        held: Arc::clone(&held),
        turn: Arc::default(),
    };
    trees.restore()?;
    let (tell, told) = crossbeam_channel::bounded(4);
    let (stop, stopped) = crossbeam_channel::bounded(1);
    let control = Control {
        blobs,
        trees,
        alive,
        fs,
        link,
        stop,
    };
    start_control(control, &config.run_dir, tell.clone())?;
    holder.ready(&config.name)?;
    start_watchers(tell, stopped, signals, serving)?;
    held.watch(holder)?;
    match told.recv().unwrap_or(End::Asked) {
        End::Asked => retire(&held, &mount_point),
        End::Unmounted => {
            held.remove(CONNECTION)?;
            anyhow::bail!("the blob file system was unmounted or aborted");
        }
        End::Unreachable => anyhow::bail!("the control socket was lost"),
    }
}

/// Makes the FUSE connection and gives its descriptors to the holder. Nothing
/// can be mounted on it before: the control socket is not open yet.
fn connect(
    config: &MountdConfig,
    held: &Held,
    mount_point: &Path,
    state: &mut State,
) -> anyhow::Result<Arc<Vec<OwnedFd>>> {
    detach_all(mount_point)?;
    std::fs::create_dir_all(mount_point).context("make the blob directory")?;
    // Node ids of a connection that is gone mean nothing; blobs are registered
    // again by whoever mounts.
    state.forget_blobs();
    state.store(&config.run_dir)?;
    let options = ConnectOptions {
        source: "lamina-blobs".into(),
        devices: config.devices,
        ..ConnectOptions::default()
    };
    let connection = FuseConnection::create(mount_point, &options)?;
    if !connection.can_resend {
        // Requests that a killed daemon had taken would never be answered. So
        // nobody else keeps the descriptors: the connection ends with this
        // process, and readers get EIO, not a hang.
        tracing::warn!("Linux before 6.9: mounts do not survive a kill of this daemon");
        return Ok(Arc::new(connection.devices));
    }
    Ok(held.put(CONNECTION, connection.devices)?)
}

fn start_control(control: Control, run_dir: &Path, tell: Sender<End>) -> anyhow::Result<()> {
    let listener = wire::listen(&run_dir.join(MOUNTD_SOCKET))?;
    std::thread::Builder::new()
        .name("control-accept".into())
        .spawn(move || {
            let _lost = OnDrop(tell);
            let handler = Arc::new(move |request| control.answer(request));
            if let Err(error) = wire::serve(&listener, &handler) {
                tracing::error!(%error, "control socket lost");
            }
        })?;
    Ok(())
}

/// Says that the control socket was lost, also when its thread panicked.
struct OnDrop(Sender<End>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.send(End::Unreachable);
    }
}

/// Three things end the daemon; each is waited for by its own thread.
fn start_watchers(
    tell: Sender<End>,
    stopped: Receiver<()>,
    signals: SigSet,
    serving: Serving,
) -> io::Result<()> {
    let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new()
            .name(name.into())
            .spawn(body)
            .map(drop)
    };
    let asked = tell.clone();
    spawn(
        "signals",
        Box::new(move || {
            if signals.wait().is_ok() {
                let _ = asked.send(End::Asked);
            }
        }),
    )?;
    let shutdown = tell.clone();
    spawn(
        "shutdown",
        Box::new(move || {
            if stopped.recv().is_ok() {
                let _ = shutdown.send(End::Asked);
            }
        }),
    )?;
    spawn(
        "serving",
        Box::new(move || {
            if let Err(error) = serving.join() {
                tracing::error!(%error, "serving ended");
            }
            let _ = tell.send(End::Unmounted);
        }),
    )
}

/// The end that was asked for. If EROFS mounts still use our files the unmount
/// is refused, and they keep what is cached.
fn retire(held: &Held, mount_point: &Path) -> anyhow::Result<()> {
    match unmount_unused(mount_point) {
        Ok(()) => tracing::info!("blob file system unmounted"),
        Err(errno) => tracing::warn!(%errno, "blob file system stays mounted"),
    }
    held.remove(CONNECTION)?;
    Ok(())
}

/// Asks again while it is busy: a mount that was just taken down, and a mount namespace that is made
/// or ends at that moment (a sandbox's), hold it for a few milliseconds.
fn unmount_unused(mount_point: &Path) -> rustix::io::Result<()> {
    let deadline = Instant::now() + BUSY_PATIENCE;
    loop {
        match unmount(mount_point, UnmountFlags::empty()) {
            Err(rustix::io::Errno::BUSY) if Instant::now() < deadline => {
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

/// Detaches whatever an earlier instance left there, however often it was
/// mounted.
fn detach_all(mount_point: &Path) -> anyhow::Result<()> {
    loop {
        match unmount(mount_point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(errno) => {
                return Err(anyhow::Error::from(errno).context("detach a stale blob file system"));
            }
        }
    }
}

/// Before any thread starts, so that all of them inherit it.
fn block_signals() -> anyhow::Result<SigSet> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    Ok(signals)
}
