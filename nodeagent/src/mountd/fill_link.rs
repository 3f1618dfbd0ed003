//! The connection to the agent: asks for missing entries, survives the agent.
//!
//! One thread, one poll(2), no thread per waiting read. Every request has a
//! deadline; it is answered by the agent, or by an error when the deadline
//! passes, whatever happens to the connection in between: when the agent dies,
//! what is unanswered is sent to its successor. Completions run on this thread
//! and do one pread and one write each.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lamina_flist::BlobId;
use lamina_mount::filler::{FillDone, FillError, Filler};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::fill::{FillReply, FillRequest};
use crate::wire::{self, FrameBuffer};

#[cfg(test)]
mod tests;

/// Requests waiting at most. The kernel has at most one synchronous read per
/// thread of every reader, so only a runaway reaches this.
const PENDING_MAX: usize = 16_384;
/// How soon to try a dead agent's socket again: doubled up to the second.
const RETRY_FIRST: Duration = Duration::from_millis(1);
const RETRY_MAX: Duration = Duration::from_millis(20);

/// The side that asks.
#[derive(Debug)]
pub(super) struct FillLink {
    inbox: Mutex<Vec<Pending>>,
    wake: OwnedFd,
    connected: AtomicBool,
    pending: AtomicUsize,
}

/// A request that was not answered yet.
struct Pending {
    blob: BlobId,
    entries: Range<usize>,
    began: Instant,
    deadline: Instant,
    done: FillDone,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.blob, self.entries)
    }
}

impl FillLink {
    /// Starts the thread that keeps the connection to the agent at `socket`.
    pub(super) fn start(socket: PathBuf) -> io::Result<Arc<Self>> {
        let link = Arc::new(Self {
            inbox: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            connected: AtomicBool::new(false),
            pending: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&link);
        std::thread::Builder::new()
            .name("fill-link".into())
            .spawn(move || Worker::new(shared, socket).run())?;
        Ok(link)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }
}

impl Filler for FillLink {
    fn start(&self, blob: &BlobId, entries: Range<usize>, deadline: Instant, done: FillDone) {
        if self.pending.fetch_add(1, Ordering::Relaxed) >= PENDING_MAX {
            self.pending.fetch_sub(1, Ordering::Relaxed);
            return done(Err(FillError::Overloaded));
        }
        let request = Pending {
            blob: *blob,
            entries,
            began: Instant::now(),
            deadline,
            done,
        };
        self.inbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(request);
        // The counter is full only if the worker is already due to wake.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// The thread's own state.
struct Worker {
    shared: Arc<FillLink>,
    socket: PathBuf,
    pending: BTreeMap<u64, Pending>,
    deadlines: BTreeSet<(Instant, u64)>,
    next_id: u64,
    line: Option<Line>,
    retry_at: Instant,
    retry_delay: Duration,
}

/// A connection that stands.
struct Line {
    stream: UnixStream,
    incoming: FrameBuffer,
    outgoing: Vec<u8>,
}

impl Worker {
    fn new(shared: Arc<FillLink>, socket: PathBuf) -> Self {
        Self {
            shared,
            socket,
            pending: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            next_id: 1,
            line: None,
            retry_at: Instant::now(),
            retry_delay: RETRY_FIRST,
        }
    }

    fn run(mut self) {
        loop {
            self.take_new();
            self.expire();
            self.connect_if_due();
            if let Err(error) = self.exchange() {
                self.hang_up(&error);
            }
            self.wait();
        }
    }

    /// Takes over what readers asked for since the last round.
    fn take_new(&mut self) {
        let mut counter = [0u8; 8];
        let _ = rustix::io::read(&self.shared.wake, &mut counter);
        let new = std::mem::take(
            &mut *self
                .shared
                .inbox
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for request in new {
            let id = self.next_id;
            self.next_id += 1;
            if let Some(line) = &mut self.line {
                line.ask(id, &request);
            }
            self.deadlines.insert((request.deadline, id));
            self.pending.insert(id, request);
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some((at, id)) = self.deadlines.first().copied()
            && at <= now
        {
            let waited = self.pending.get(&id).map(|request| now - request.began);
            self.finish(id, Err(FillError::Deadline(waited.unwrap_or_default())));
        }
    }

    /// Calls back, once.
    fn finish(&mut self, id: u64, outcome: Result<(), FillError>) {
        // Unknown: it expired before the answer came.
        let Some(request) = self.pending.remove(&id) else {
            return;
        };
        self.deadlines.remove(&(request.deadline, id));
        self.shared.pending.fetch_sub(1, Ordering::Relaxed);
        (request.done)(outcome);
    }

    fn connect_if_due(&mut self) {
        if self.line.is_some() || self.pending.is_empty() || self.retry_at > Instant::now() {
            return;
        }
        match Line::dial(&self.socket) {
            Ok(mut line) => {
                for (id, request) in &self.pending {
                    line.ask(*id, request);
                }
                tracing::info!(resent = self.pending.len(), "connected to the agent");
                self.line = Some(line);
                self.retry_delay = RETRY_FIRST;
                self.shared.connected.store(true, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::debug!(%error, "agent not there");
                self.retry_at = Instant::now() + self.retry_delay;
                self.retry_delay = (self.retry_delay * 2).min(RETRY_MAX);
            }
        }
    }

    /// Moves bytes both ways as far as they go and finishes what was answered.
    fn exchange(&mut self) -> anyhow::Result<()> {
        let Some(line) = &mut self.line else {
            return Ok(());
        };
        line.send()?;
        let more = line.receive()?;
        while let Some(reply) = self
            .line
            .as_mut()
            .map_or(Ok(None), |line| line.incoming.take::<FillReply>())?
        {
            let outcome = reply
                .outcome
                .map_err(|failure| FillError::Failed(failure.to_string()));
            self.finish(reply.id, outcome);
        }
        anyhow::ensure!(more, "the agent closed the connection");
        Ok(())
    }

    fn hang_up(&mut self, error: &anyhow::Error) {
        tracing::warn!(%error, waiting = self.pending.len(), "connection to the agent lost");
        self.line = None;
        self.retry_at = Instant::now();
        self.shared.connected.store(false, Ordering::Relaxed);
    }

    /// Sleeps until there is something to do: a new request, the agent, a
    /// deadline, or time to dial again.
    fn wait(&self) {
        let dial = (self.line.is_none() && !self.pending.is_empty()).then_some(self.retry_at);
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let timeout = dial.into_iter().chain(deadline).min().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec::try_from(left + Duration::from_micros(100)).expect("a short duration")
        });
        let mut fds = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        if let Some(line) = &self.line {
            let mut interest = PollFlags::IN;
            if !line.outgoing.is_empty() {
                interest |= PollFlags::OUT;
            }
            fds.push(PollFd::new(&line.stream, interest));
        }
        // EINTR and every other end of the wait mean the same: look again.
        let _ = poll(&mut fds, timeout.as_ref());
    }
}

impl Line {
    fn dial(socket: &std::path::Path) -> Result<Self, wire::WireError> {
        let failed = |source| wire::WireError::Connect {
            path: socket.to_owned(),
            source,
        };
        // A connect to a unix socket does not wait, except for a full backlog.
        let stream = UnixStream::connect(socket).map_err(failed)?;
        stream.set_nonblocking(true).map_err(failed)?;
        wire::check_peer(&stream)?;
        Ok(Self {
            stream,
            incoming: FrameBuffer::default(),
            outgoing: Vec::new(),
        })
    }

    fn ask(&mut self, id: u64, request: &Pending) {
        let left = request.deadline.saturating_duration_since(Instant::now());
        let message = FillRequest {
            id,
            blob: request.blob,
            first: request.entries.start as u32,
            count: request.entries.len() as u32,
            deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
        };
        self.outgoing
            .extend(wire::encode(&message).expect("a request is far below the bound"));
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => drop(self.outgoing.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what is there; `false` at the end of the connection.
    fn receive(&mut self) -> io::Result<bool> {
        let mut chunk = [0u8; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(length) => self.incoming.push(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
