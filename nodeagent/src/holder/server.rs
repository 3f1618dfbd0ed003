//! The holder's loop: one thread, one poll(2).

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};
use rustix::process::Signal;

use super::protocol::{self, HOLDER_SOCKET, NAME_MAX, Reply, Request, page};
use super::replace::Replacement;
use super::supervise::{ChildSpec, Supervised};
use crate::wire::{self, ACCEPT_PAUSE, Shortage};

/// Connections served at once: the children and a status query or two.
const CLIENTS_MAX: usize = 16;
/// Connections not yet accepted.
const BACKLOG: i32 = 16;
/// A client that does not take its answer for this long is let go.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);
/// How long a child may take to end before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How a holder runs.
#[derive(Debug, Clone)]
pub struct HolderConfig {
    /// The instance's directory; made with mode 0700.
    pub run_dir: PathBuf,
    /// What to keep running, ended in reverse order.
    pub children: Vec<ChildSpec>,
}

/// Keeps descriptors and children until it is asked to end (SIGTERM, SIGINT or
/// a Shutdown message) or every child has ended with exit code 0.
///
/// # Errors
/// When another holder has the run directory, or the system refuses sockets.
pub fn run(config: HolderConfig) -> anyhow::Result<()> {
    crate::rundir::ensure(&config.run_dir)?;
    let _lock = crate::rundir::lock(&config.run_dir, "holder.lock", Duration::ZERO)?;
    let mut holder = Holder::new(config)?;
    holder.supervise()?;
    Ok(())
}

struct Holder {
    listener: OwnedFd,
    signals: SignalFd,
    clients: Vec<OwnedFd>,
    kept: BTreeMap<String, Vec<OwnedFd>>,
    children: Vec<Supervised>,
    stopping: Option<Stopping>,
    replacement: Replacement,
    shortage: Shortage,
}

/// Children end one after another, last one first.
struct Stopping {
    kill_at: Instant,
}

/// What a poll slot belongs to.
enum Source {
    Listener,
    Signals,
    Child,
    Client(usize),
}

impl Holder {
    fn new(config: HolderConfig) -> anyhow::Result<Self> {
        let path = config.run_dir.join(HOLDER_SOCKET);
        // A holder that died left its socket; the lock says nobody has it now.
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error.into());
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind(&listener, &SocketAddrUnix::new(&path)?)?;
        listen(&listener, BACKLOG)?;
        let mut mask = SigSet::empty();
        mask.add(NixSignal::SIGTERM);
        mask.add(NixSignal::SIGINT);
        mask.thread_block()?;
        Ok(Self {
            listener,
            signals: SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            clients: Vec::new(),
            kept: BTreeMap::new(),
            children: config.children.into_iter().map(Supervised::new).collect(),
            stopping: None,
            replacement: Replacement::default(),
            shortage: Shortage::default(),
        })
    }

    fn supervise(&mut self) -> io::Result<()> {
        loop {
            let now = Instant::now();
            let mut failed = None;
            for child in &mut self.children {
                if child.reap(now, self.stopping.is_some()) {
                    failed = Some(child.name().to_owned());
                }
            }
            if self.stopping.is_none() {
                let children = &mut self.children;
                self.replacement.drive(now, failed.as_deref(), children);
            }
            for child in &mut self.children {
                child.start_if_due(now);
            }
            if self.children.iter().all(Supervised::is_over) {
                return Ok(());
            }
            self.drive_stop(now);
            let ready = self.wait()?;
            self.handle(ready)?;
        }
    }

    /// Waits for anything to happen; the sources that are ready.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut sources = vec![Source::Listener, Source::Signals];
        let mut fds = vec![
            PollFd::new(&self.listener, PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        for pidfd in self.children.iter().filter_map(Supervised::pidfd) {
            sources.push(Source::Child);
            fds.push(PollFd::new(pidfd, PollFlags::IN));
        }
        for (index, client) in self.clients.iter().enumerate() {
            sources.push(Source::Client(index));
            fds.push(PollFd::new(client, PollFlags::IN));
        }
        let timeout = self.next_timer().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            // Rounded up: waking early would spin until the time is there.
            Timespec::try_from(left + Duration::from_millis(1)).expect("a short duration")
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(rustix::io::Errno::NOMEM) => {
                std::thread::sleep(ACCEPT_PAUSE);
                return Ok(Vec::new());
            }
            Err(errno) => return Err(errno.into()),
        }
        let ready = fds.iter().map(|fd| !fd.revents().is_empty());
        Ok(sources
            .into_iter()
            .zip(ready)
            .filter_map(|(source, ready)| ready.then_some(source))
            .collect())
    }

    fn next_timer(&self) -> Option<Instant> {
        let starts = self.children.iter().filter_map(Supervised::start_at);
        let kill = self.stopping.as_ref().map(|stopping| stopping.kill_at);
        starts.chain(kill).chain(self.replacement.look_at()).min()
    }

    fn handle(&mut self, ready: Vec<Source>) -> io::Result<()> {
        let mut gone = Vec::new();
        for source in ready {
            match source {
                // Reaped at the top of the loop.
                Source::Child => {}
                Source::Listener => self.accept(),
                Source::Signals => {
                    if self.signals.read_signal()?.is_some() {
                        self.begin_stop();
                    }
                }
                Source::Client(index) => {
                    if let Err(error) = self.serve(index) {
                        tracing::debug!(%error, "client gone");
                        gone.push(index);
                    }
                }
            }
        }
        for index in gone.into_iter().rev() {
            self.clients.swap_remove(index);
        }
        Ok(())
    }

    /// Takes a connection. Whatever fails here is never worth this process: a client that could not
    /// be taken waits in the socket, or connects again.
    fn accept(&mut self) {
        let client = match accept_with(&self.listener, SocketFlags::CLOEXEC) {
            Ok(client) => client,
            // Gone again before we took it.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED) => return,
            Err(errno) => {
                self.shortage.say(&errno.into());
                // It stays ready: without a pause this would spin.
                std::thread::sleep(ACCEPT_PAUSE);
                return;
            }
        };
        match wire::check_peer(&client) {
            Ok(()) if self.clients.len() < CLIENTS_MAX => {
                // One thread serves all: a client that takes no answers must not stop it.
                match set_socket_timeout(&client, Timeout::Send, Some(ANSWER_DEADLINE)) {
                    Ok(()) => self.clients.push(client),
                    Err(errno) => tracing::warn!(%errno, "connection let go"),
                }
            }
            Ok(()) => tracing::warn!("too many connections"),
            Err(error) => tracing::warn!(%error, "connection refused"),
        }
    }

    fn serve(&mut self, index: usize) -> io::Result<()> {
        let (request, fds) = protocol::receive::<Request>(self.clients[index].as_fd())?
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let (reply, out) = self.answer(request, fds);
        let kept = out.and_then(|name| self.kept.get(&name));
        let fds: Vec<BorrowedFd<'_>> = kept.into_iter().flatten().map(AsFd::as_fd).collect();
        protocol::send(self.clients[index].as_fd(), &reply, &fds)
    }

    /// The answer, and under which name the descriptors to send are kept.
    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> (Reply, Option<String>) {
        let reply = match request {
            Request::Put { name } if fds.is_empty() => {
                Reply::Refused(format!("no descriptors came with {name}"))
            }
            Request::Put { name } if name.len() > NAME_MAX => {
                Reply::Refused(format!("a name has more than {NAME_MAX} bytes"))
            }
            Request::Put { name } => {
                tracing::info!(name, count = fds.len(), "descriptors kept");
                self.kept.insert(name, fds);
                Reply::Done
            }
            Request::Get { name } if self.kept.contains_key(&name) => {
                return (Reply::Descriptors, Some(name));
            }
            Request::Get { .. } => Reply::NotFound,
            Request::Remove { name } => {
                self.kept.remove(&name);
                Reply::Done
            }
            Request::List => Reply::Names(page(self.kept.keys())),
            Request::ListAfter(name) => {
                let behind = (Bound::Excluded(name), Bound::Unbounded);
                Reply::Names(page(self.kept.range(behind).map(|(name, _)| name)))
            }
            Request::Ready { child } => {
                let found = self.children.iter_mut().find(|c| c.name() == child);
                found.map_or(Reply::NotFound, |child| {
                    child.said_ready();
                    Reply::Done
                })
            }
            Request::Status => {
                Reply::Children(self.children.iter().map(Supervised::status).collect())
            }
            Request::Replace(_) if self.stopping.is_some() => {
                Reply::Refused("the holder is ending".into())
            }
            Request::Replace(wanted) => self.replacement.begin(wanted, &self.children),
            Request::Programs => Reply::Programs(self.replacement.programs(&self.children)),
            Request::Shutdown => {
                self.begin_stop();
                Reply::Done
            }
        };
        (reply, None)
    }

    fn begin_stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        let kill_at = Instant::now() + STOP_DEADLINE;
        self.stopping = Some(Stopping { kill_at });
        for child in &mut self.children {
            if child.pidfd().is_none() {
                child.stop(Signal::TERM);
            }
        }
        self.stop_last(Signal::TERM);
    }

    /// Once the child that was told to end is gone, tells the next one; kills
    /// the one that does not end in time.
    fn drive_stop(&mut self, now: Instant) {
        let Some(stopping) = &mut self.stopping else {
            return;
        };
        if now >= stopping.kill_at {
            stopping.kill_at = now + STOP_DEADLINE;
            self.stop_last(Signal::KILL);
        } else {
            self.stop_last(Signal::TERM);
        }
    }

    fn stop_last(&mut self, signal: Signal) {
        if let Some(child) = self.children.iter_mut().rev().find(|c| !c.is_over()) {
            child.stop(signal);
        }
    }
}
