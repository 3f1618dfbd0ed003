//! The instance that mounts for this node: started from a copy of this program that outlives the pod,
//! found again by the next `lamina node`, and brought to its version without ending a mount.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lamina_flist::{BlobId, ChunkId};

use super::chunks::Bring;
use super::error::NodeError;
use crate::api::{
    self, Answer, BringCall, CacheInfo, CallError, FailureKind, MountInfo, MountState, MountsCall,
    Request, UmountCall,
};
use crate::holder::{ChildStatus, HolderClient};
use crate::instance::Instance;
use crate::launch::{self, Launch};

/// How long questions to the agent may take; it may have to be started first.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(15);
/// The same for those who only want to know how it is.
const GLANCE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an idle instance may take to end, and a busy one to be run by another program.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(90);
/// How long its processes may take to end: the holder gives each of them 10 s.
const END_PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The instance of this node.
#[derive(Debug)]
pub(super) struct Daemons {
    launch: Launch,
    instance: Instance,
    cache: PathBuf,
    warnings: Mutex<Vec<String>>,
    /// No instance is started any more.
    over: AtomicBool,
    /// Calls that may still start one.
    calls: AtomicUsize,
}

/// Where an instance is to be.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) state: PathBuf,
    pub(super) cache: PathBuf,
    pub(super) run_dir: PathBuf,
    pub(super) outside_pod: bool,
}

impl Bring for Daemons {
    fn bring(&self, blob: &BlobId, entries: &[u32]) -> bool {
        let call = Request::Bring(BringCall {
            blob: *blob,
            entries: entries.to_vec(),
        });
        let answer = api::call(&self.instance.api_socket(), &call, GLANCE_TIMEOUT);
        matches!(answer, Ok(Answer::Coming { all: true }))
    }
}

impl Daemons {
    /// Copies the program, and finds the instance or prepares its start.
    pub(super) fn open(place: &Place) -> Result<Self> {
        let program = install(&place.state.join("bin"))?;
        fs::create_dir_all(&place.cache)
            .with_context(|| format!("make the cache directory {}", place.cache.display()))?;
        let instance = Instance::of_cache(&place.run_dir, &place.cache)
            .context("resolve the cache directory")?;
        instance.check_sockets()?;
        instance
            .create(&place.cache)
            .with_context(|| format!("make {}", instance.dir().display()))?;
        let launch = Launch {
            program,
            state: place.state.clone(),
            linger: true,
            outside_pod: place.outside_pod,
        };
        Ok(Self {
            launch,
            instance,
            cache: place.cache.clone(),
            warnings: Mutex::default(),
            over: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
        })
    }

    /// Has the instance run, by this program. What keeps it from being brought to this version is a
    /// warning: it mounts and serves as it is.
    pub(super) fn start(&self) -> Result<(), NodeError> {
        if launch::is_running(&self.instance)
            && let Err(error) = self.upgrade()
        {
            let warning = format!("the mount daemons run by an older program: {error:#}");
            tracing::warn!(warning);
            self.warnings().push(warning);
        }
        self.ask(&Request::Mounts(MountsCall::default()))
            .map(drop)?;
        self.drop_old_programs();
        Ok(())
    }

    /// One call, starting what does not run; `timeout` is for its work.
    pub(super) fn call(&self, request: &Request, timeout: Duration) -> Result<Answer, CallError> {
        let _counted = Counted::new(&self.calls);
        let may_start = || !self.is_over();
        let (launch, instance) = (&self.launch, &self.instance);
        launch::call_while(&may_start, launch, instance, &self.cache, request, timeout)
    }

    /// Whether it was ended for good.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// The instance's directory.
    pub(super) fn dir(&self) -> &Path {
        self.instance.dir()
    }

    /// Unmounts everything, ends the instance, and starts none again. When a mount cannot be taken down,
    /// all goes on.
    pub(super) fn end(&self) -> Result<(), NodeError> {
        // Of an instance half of which is gone, first the rest: it finds what is mounted.
        if !self.is_over() {
            let (mounts, _) = self.mounts()?;
            for mount in mounts {
                self.unmount(mount)?;
            }
        }
        self.over.store(true, Ordering::SeqCst);
        self.end_processes()
            .inspect_err(|_| self.over.store(false, Ordering::SeqCst))
    }

    fn unmount(&self, mount: MountInfo) -> Result<(), NodeError> {
        if mount.state == MountState::Detached {
            return Ok(());
        }
        let call = Request::Umount(UmountCall {
            target: mount.target,
            force: true,
            timeout_ms: QUESTION_TIMEOUT.as_millis() as u64,
        });
        match self.call(&call, QUESTION_TIMEOUT) {
            Err(CallError::Failed(failure)) if failure.kind == FailureKind::NotFound => Ok(()),
            answer => Ok(answer.map(drop)?),
        }
    }

    fn end_processes(&self) -> Result<(), NodeError> {
        let end = Instant::now() + END_PATIENCE;
        let socket = self.instance.api_socket();
        // In order, if nobody reads any more; else the holder ends what serves those who do.
        let asked = api::call(&socket, &Request::Shutdown, GLANCE_TIMEOUT);
        while launch::is_running(&self.instance) || self.calls.load(Ordering::SeqCst) > 0 {
            if asked.is_err()
                && let Ok(holder) = HolderClient::connect(self.instance.dir())
            {
                // Said again, it is no other order.
                let _ = holder.shutdown();
            }
            if Instant::now() >= end {
                let message = format!("the mount daemons did not end within {END_PATIENCE:?}");
                return Err(NodeError::new(tonic::Code::DeadlineExceeded, message));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn ask(&self, request: &Request) -> Result<Answer, CallError> {
        self.call(request, QUESTION_TIMEOUT)
    }

    /// Every mount, and the cache.
    pub(super) fn mounts(&self) -> Result<(Vec<MountInfo>, CacheInfo), NodeError> {
        listed(self.ask(&Request::Mounts(MountsCall::default()))?)
    }

    /// The same, with what of them is in memory.
    pub(super) fn mounts_resident(&self) -> Result<(Vec<MountInfo>, CacheInfo), NodeError> {
        listed(self.ask(&Request::Mounts(MountsCall { resident: true }))?)
    }

    /// The same, if the agent answers at once.
    pub(super) fn glance(&self) -> Result<(Vec<MountInfo>, CacheInfo), NodeError> {
        let socket = self.instance.api_socket();
        let question = Request::Mounts(MountsCall::default());
        listed(api::call(&socket, &question, GLANCE_TIMEOUT)?)
    }

    /// The same, with what of them is in memory if that is known at once.
    pub(super) fn long_glance(&self) -> Result<(Vec<MountInfo>, CacheInfo), NodeError> {
        let socket = self.instance.api_socket();
        let question = Request::Mounts(MountsCall { resident: true });
        match api::call(&socket, &question, GLANCE_TIMEOUT) {
            Ok(answer) => listed(answer),
            Err(CallError::Timeout { .. }) => self.glance(),
            Err(error) => Err(error.into()),
        }
    }

    /// State of the processes; empty when the holder does not run.
    pub(super) fn children(&self) -> Vec<ChildStatus> {
        let asked = HolderClient::connect(self.instance.dir()).and_then(|holder| holder.status());
        asked.unwrap_or_default()
    }

    pub(super) fn warnings_now(&self) -> Vec<String> {
        self.warnings().clone()
    }

    fn warnings(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends an idle instance of another program, to be started anew; replaces the children of a busy one.
    fn upgrade(&self) -> Result<()> {
        let holder = HolderClient::connect(self.instance.dir())?;
        let wanted = self.launch.children(&self.instance, &self.cache);
        let now = holder
            .programs()
            .context("ask the holder, which is older than `lamina node`, what it runs")?;
        if now.children == wanted && !now.replacing {
            return Ok(());
        }
        tracing::info!("the instance is run by another program; bringing it to this one");
        match api::call(
            &self.instance.api_socket(),
            &Request::Shutdown,
            QUESTION_TIMEOUT,
        ) {
            Ok(_) => return self.wait_until_gone(),
            Err(CallError::Failed(failure)) if failure.kind == FailureKind::Busy => {}
            Err(error) => return Err(error).context("ask the agent to end"),
        }
        let mut order = wanted;
        // The agent first: the mount daemon's successor needs one that speaks its version.
        order.sort_by_key(|child| child.name != "agent");
        holder.replace(&order)?;
        let end = Instant::now() + UPGRADE_PATIENCE;
        loop {
            let now = holder.programs()?;
            if let Some(why) = now.given_up {
                bail!(why);
            }
            if !now.replacing {
                return Ok(());
            }
            if Instant::now() >= end {
                bail!("not replaced within {UPGRADE_PATIENCE:?}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn wait_until_gone(&self) -> Result<()> {
        let end = Instant::now() + UPGRADE_PATIENCE;
        while launch::is_running(&self.instance) {
            if Instant::now() >= end {
                bail!("the idle instance did not end within {UPGRADE_PATIENCE:?}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Removes copies that no process would be started from again.
    fn drop_old_programs(&self) {
        let mut kept: BTreeSet<OsString> = [self.launch.program.clone().into()].into();
        let Ok(programs) =
            HolderClient::connect(self.instance.dir()).and_then(|holder| holder.programs())
        else {
            return;
        };
        kept.extend(programs.children.into_iter().filter_map(|child| {
            let mut argv = child.argv.into_iter();
            argv.next()
        }));
        let Some(Ok(entries)) = self.launch.program.parent().map(fs::read_dir) else {
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if !kept.contains(path.as_os_str()) {
                tracing::info!(path = %path.display(), "removing an old copy of the program");
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// A call while it lives.
struct Counted<'c>(&'c AtomicUsize);

impl<'c> Counted<'c> {
    fn new(calls: &'c AtomicUsize) -> Self {
        calls.fetch_add(1, Ordering::SeqCst);
        Self(calls)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn listed(answer: Answer) -> Result<(Vec<MountInfo>, CacheInfo), NodeError> {
    match answer {
        Answer::Mounts { mounts, cache } => Ok((mounts, cache)),
        _ => Err(NodeError::new(
            tonic::Code::Internal,
            "the agent gave an answer of another kind",
        )),
    }
}

/// Copies this program below `dir`, named by its content; whole or not at all.
fn install(dir: &Path) -> Result<PathBuf> {
    let own = fs::read("/proc/self/exe").context("read this program's own file")?;
    let name = format!("lamina-{}", &ChunkId::of(&own).to_string()[..16]);
    let path = dir.join(name);
    if fs::metadata(&path).is_ok_and(|meta| meta.len() == own.len() as u64) {
        return Ok(path);
    }
    write_program(&path, &own)
        .with_context(|| format!("copy this program to {}", path.display()))?;
    Ok(path)
}

fn write_program(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    let staged = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o700)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&staged)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    // A file open for writing cannot be executed.
    drop(file);
    fs::rename(&staged, path)
}

/// Does blocking work of the daemons' for an async caller.
pub(super) async fn blocking<T, F>(daemons: &Arc<Daemons>, work: F) -> Result<T, NodeError>
where
    T: Send + 'static,
    F: FnOnce(&Daemons) -> Result<T, NodeError> + Send + 'static,
{
    let daemons = Arc::clone(daemons);
    let done = tokio::task::spawn_blocking(move || work(&daemons)).await;
    done.unwrap_or_else(|error| Err(NodeError::internal("do a call's work", &error)))
}
