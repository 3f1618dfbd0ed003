//! Sandboxes of an afslet: places, cgroups and namespaces, some of them made ahead.
//!
//! ```text
//!  slot (ids, cgroup's name) ──> cgroup ──> spawner: namespaces ──> ready ──take──> run ──leave──> gone, slot free again
//! ```
//! What always holds: a slot is used by one sandbox at a time, and free again only after everything of that one is
//! gone; a spawner that died is replaced, and what it had made ahead is thrown away.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lamina_runtime::cgroup::{Cgroup, CgroupError, Cgroups, ResourceLimits, Usage};
use lamina_runtime::slots::{self, Slot, SlotError};
use lamina_runtime::{IdRange, Prepare, Prepared, Spawner, SpawnerError};
use rustix::mount::UnmountFlags;
use tokio::sync::Notify;

use crate::error::RunError;

/// How the spawner is started.
#[derive(Debug, Clone)]
pub struct SpawnerProgram {
    /// What is run.
    pub program: PathBuf,
    /// With what arguments.
    pub args: Vec<OsString>,
}

/// No sandbox can be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    #[error(transparent)]
    Slot(#[from] SlotError),
    #[error(transparent)]
    Spawner(#[from] SpawnerError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

impl From<SandboxError> for RunError {
    fn from(error: SandboxError) -> Self {
        // Another node may have what this one lacks.
        let why = crate::error::chain(&error);
        Self::unavailable(format!("make a sandbox: {why}"))
    }
}

/// The sandboxes of an afslet.
#[derive(Debug)]
pub(crate) struct Sandboxes {
    home: PathBuf,
    cgroups: Cgroups,
    program: SpawnerProgram,
    warm: usize,
    state: Mutex<State>,
    /// Sandboxes may have to be made ahead.
    taken: Notify,
    /// There is something to remove.
    left: Notify,
}

#[derive(Debug)]
struct State {
    spawner: Arc<Spawner>,
    free: Vec<Slot>,
    ready: VecDeque<Sandbox>,
    /// Of runs that are over: empty cgroups, and the slots whose names they have.
    left: VecDeque<Place>,
    closed: bool,
}

/// How many that may be; whose would be one more removes it himself.
const LEFT_MAX: usize = 64;

/// A sandbox that waits for what to run.
#[derive(Debug)]
pub(crate) struct Sandbox {
    prepared: Prepared,
    place: Place,
}

/// What of a sandbox is outside of its processes.
#[derive(Debug)]
pub(crate) struct Place {
    cgroup: Option<Cgroup>,
    slot: Option<Slot>,
    // It ends with its last sandbox.
    _spawner: Arc<Spawner>,
}

impl Sandboxes {
    /// Starts the spawner, and takes down what an earlier life left in `home`. `warm` sandboxes are to be kept ready.
    pub(crate) fn open(
        home: PathBuf,
        program: SpawnerProgram,
        warm: usize,
    ) -> anyhow::Result<Arc<Self>> {
        let cgroups = Cgroups::find_in_container()?;
        sweep(&home, &cgroups)?;
        let spawner = Arc::new(start(&program)?);
        let state = State {
            spawner,
            free: Vec::new(),
            ready: VecDeque::new(),
            left: VecDeque::new(),
            closed: false,
        };
        Ok(Arc::new(Self {
            home,
            cgroups,
            program,
            warm,
            state: Mutex::new(state),
            taken: Notify::new(),
            left: Notify::new(),
        }))
    }

    /// Whether this machine can keep such limits.
    pub(crate) fn check(&self, limits: &ResourceLimits) -> Result<(), CgroupError> {
        self.cgroups.check(limits)
    }

    /// Sandboxes that are ready.
    pub(crate) fn ready(&self) -> usize {
        self.state().ready.len()
    }

    /// A sandbox: one that is ready, else a new one. Blocks.
    pub(crate) fn take(&self, own_network: bool) -> Result<Sandbox, SandboxError> {
        while own_network && let Some(ready) = self.pop() {
            if ready.prepared.is_alive() {
                return Ok(ready);
            }
            let (prepared, place) = ready.into_parts();
            drop(prepared);
            self.give_back(place);
        }
        self.make(own_network)
    }

    /// Makes one. A spawner that is found dead is replaced once.
    fn make(&self, own_network: bool) -> Result<Sandbox, SandboxError> {
        let slot = self.state().free.pop();
        let slot = match slot {
            Some(slot) => slot,
            None => slots::take(&self.home)?,
        };
        let cgroup = self
            .cgroups
            .create(&slot.cgroup_name(), &ResourceLimits::default())?;
        let prepare = Prepare {
            ids: slot.ids(),
            own_network,
            cgroup: Some(&cgroup),
        };
        let spawner = Arc::clone(&self.state().spawner);
        let (spawner, prepared) = match spawner.prepare(&prepare) {
            Err(SpawnerError::Gone(error)) => {
                tracing::warn!(%error, "starting another spawner of sandboxes");
                let spawner = self.replace(&spawner)?;
                let prepared = spawner.prepare(&prepare)?;
                (spawner, prepared)
            }
            other => (spawner, other?),
        };
        Ok(Sandbox {
            prepared,
            place: Place {
                cgroup: Some(cgroup),
                slot: Some(slot),
                _spawner: spawner,
            },
        })
    }

    fn replace(&self, dead: &Arc<Spawner>) -> Result<Arc<Spawner>, SandboxError> {
        let mut state = self.state();
        if Arc::ptr_eq(&state.spawner, dead) {
            state.spawner = Arc::new(start(&self.program)?);
        }
        Ok(Arc::clone(&state.spawner))
    }

    fn pop(&self) -> Option<Sandbox> {
        self.state().ready.pop_front()
    }

    /// Has those that were taken made again: not while the start of a command would have to share the processors.
    pub(crate) fn refill(&self) {
        self.taken.notify_one();
    }

    /// Has what is left of a sandbox removed, whose processes are gone: removing an empty cgroup takes the kernel as long as a
    /// short command runs, and nobody has to wait for it. Blocks when there are too many.
    pub(crate) fn leave(&self, place: Place) {
        self.refill();
        if let Some(slot) = &place.slot {
            clear(slot);
        }
        let too_many = {
            let mut state = self.state();
            if state.closed || state.left.len() >= LEFT_MAX {
                Some(place)
            } else {
                state.left.push_back(place);
                None
            }
        };
        match too_many {
            Some(place) => self.give_back(place),
            None => self.left.notify_one(),
        }
    }

    /// Removes what was left, until [`close`](Self::close).
    pub(crate) async fn keep_clean(self: Arc<Self>) {
        loop {
            while let Some(place) = self.next_left() {
                let sandboxes = Arc::clone(&self);
                let removed = tokio::task::spawn_blocking(move || sandboxes.give_back(place));
                if removed.await.is_err() {
                    return;
                }
            }
            if self.state().closed {
                return;
            }
            self.left.notified().await;
        }
    }

    fn next_left(&self) -> Option<Place> {
        self.state().left.pop_front()
    }

    /// Removes what is left of a sandbox. Blocks.
    pub(crate) fn give_back(&self, mut place: Place) {
        self.refill();
        // The cgroup first: while it is there, so may be processes with the slot's ids.
        if !place.remove_cgroup() {
            // Nobody may have its ids while we live; the next life sweeps it.
            std::mem::forget(place.slot.take());
            return;
        }
        let Some(slot) = place.slot.take() else {
            return;
        };
        if clear(&slot) {
            let mut state = self.state();
            if !state.closed {
                state.free.push(slot);
            }
        }
    }

    /// Keeps sandboxes ready until the future is dropped.
    pub(crate) async fn keep_ready(self: Arc<Self>) {
        /// After a failure, which the next run sees as well.
        const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
        loop {
            while self.ready() < self.warm {
                let sandboxes = Arc::clone(&self);
                let made = tokio::task::spawn_blocking(move || sandboxes.make(true)).await;
                match made {
                    Ok(Ok(sandbox)) => self.put(sandbox),
                    Ok(Err(error)) => {
                        tracing::warn!("make a sandbox ahead: {}", crate::error::chain(&error));
                        tokio::time::sleep(PAUSE).await;
                    }
                    Err(_) => return,
                }
            }
            self.taken.notified().await;
        }
    }

    fn put(&self, sandbox: Sandbox) {
        let mut state = self.state();
        if !state.closed {
            state.ready.push_back(sandbox);
        }
    }

    /// Ends what is ready and gives every slot back. Blocks.
    pub(crate) fn close(&self) {
        let (ready, left, free) = {
            let mut state = self.state();
            state.closed = true;
            (
                std::mem::take(&mut state.ready),
                std::mem::take(&mut state.left),
                std::mem::take(&mut state.free),
            )
        };
        self.left.notify_one();
        drop((left, free));
        for Sandbox { prepared, place } in ready {
            drop(prepared);
            drop(place);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sandbox {
    /// Its processes, and the rest.
    pub(crate) fn into_parts(self) -> (Prepared, Place) {
        (self.prepared, self.place)
    }
}

impl Place {
    /// Its ids.
    pub(crate) fn ids(&self) -> Option<IdRange> {
        self.slot.as_ref().map(Slot::ids)
    }

    /// A directory of its own.
    pub(crate) fn dir(&self) -> Option<PathBuf> {
        self.slot.as_ref().map(|slot| slot.dir().to_owned())
    }

    /// Bounds it.
    pub(crate) fn limit(&self, limits: &ResourceLimits) -> Result<(), CgroupError> {
        self.cgroup
            .as_ref()
            .map_or(Ok(()), |cgroup| cgroup.limit(limits))
    }

    /// What it used.
    pub(crate) fn usage(&self) -> Usage {
        self.cgroup.as_ref().map(Cgroup::usage).unwrap_or_default()
    }

    /// `false` when processes in it do not die.
    fn remove_cgroup(&mut self) -> bool {
        let Some(cgroup) = self.cgroup.take() else {
            return true;
        };
        match cgroup.remove() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!("remove a sandbox's cgroup: {}", crate::error::chain(&error));
                false
            }
        }
    }
}

fn start(program: &SpawnerProgram) -> Result<Spawner, SpawnerError> {
    let args: Vec<_> = program.args.iter().map(OsString::as_os_str).collect();
    Spawner::start(&program.program, &args)
}

/// Takes away what was put into a slot's directory; `false` when it cannot be used again.
fn clear(slot: &Slot) -> bool {
    match std::fs::remove_dir(scratch_of(slot)) {
        Ok(()) => true,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Where a slot's mounts are for a moment.
fn scratch_of(slot: &Slot) -> PathBuf {
    slot.dir().join(SCRATCH)
}

/// Name of the directory in a slot's that mounts are on for a moment.
pub(crate) const SCRATCH: &str = "scratch";

/// Takes down what supervisors that were killed left in `home`: their processes ended with them.
fn sweep(home: &std::path::Path, cgroups: &Cgroups) -> Result<(), SlotError> {
    for slot in slots::abandoned(home)? {
        if let Err(error) = cgroups.sweep(&slot.cgroup_name()) {
            tracing::warn!(
                "remove the cgroup of an earlier run: {}",
                crate::error::chain(&error)
            );
        }
        // Attached for a moment only; most often there is none.
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        while rustix::mount::unmount(scratch_of(&slot), flags).is_ok() {}
        tracing::info!(slot = slot.number(), "took down what an earlier run left");
    }
    Ok(())
}
