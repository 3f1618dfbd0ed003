//! Chunks for other nodes: what `lamina.v1.Layers/ReadChunks` answers (docs/peers.md).
//!
//! ```text
//! request ──> wanted (checked) ──> slot? ──no──> RESOURCE_EXHAUSTED: ask another node
//!                                   │ yes
//!                                   ▼
//!             found: a layer's file, else the agent's cache ──> messages ──> whoever asked, as fast as it takes them
//! ```
//!
//! Always: a slot ends with its request, and a request ends when its reader takes nothing for a while or takes too long
//! in all; a slot costs two messages of memory; nothing is written. What is sent is not verified here: whoever asked
//! does, and must.

mod found;
mod wanted;

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::Stream;
use lamina_flist::{BlobId, Sha256Digest};
use lamina_mount::cache::CacheDir;
use lamina_proto::lamina::v1::{ReadChunksRequest, ReadChunksResponse};
use tokio::sync::mpsc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use crate::layers::WholeLayers;
use found::Found;
use wanted::Wanted;

/// Stored bytes of a message, but for its last chunk: small enough that a reader sees progress although its line is slow,
/// or many read at once.
const MESSAGE_BYTES: usize = 64 << 10;

/// Longest wait for what nobody fetches.
const WAIT_IDLY_MAX: Duration = Duration::from_secs(1);
/// A reader that waits hears this often that what it waits for is on its way.
const SAY_EVERY: Duration = Duration::from_millis(500);
/// Between two times that the agent is told what others wait for: a fetch may have failed.
const BRING_EVERY: Duration = Duration::from_secs(2);

/// Between two looks for what the agent does not have yet: a fraction of a round trip to a registry, and of what was
/// waited already.
const POLL: Duration = Duration::from_millis(4);
const POLL_MAX: Duration = Duration::from_millis(30);

/// What readers may cost.
#[derive(Debug, Clone)]
pub struct ChunkLimits {
    /// Requests answered at once: enough for a dozen nodes that wait here for what this one is about to have.
    pub slots: usize,
    /// How long a reader may take nothing.
    pub stall: Duration,
    /// How long a request may take in all.
    pub whole: Duration,
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self {
            slots: 96,
            stall: Duration::from_secs(5),
            whole: Duration::from_secs(60),
        }
    }
}

/// What was given to other nodes.
#[derive(Debug, Default)]
pub struct Served {
    /// Stored bytes out of whole layers.
    pub layer_bytes: AtomicU64,
    /// Bytes out of the agent's cache.
    pub part_bytes: AtomicU64,
    /// Requests refused for want of a slot.
    pub refused: AtomicU64,
    /// Requests whose reader took too long.
    pub stalled: AtomicU64,
}

/// Whoever fetches what this node reads.
pub trait Bring: Send + Sync + 'static {
    /// Sees to it that entries of a blob come; says whether all of them do. Returns soon, and may block meanwhile.
    fn bring(&self, blob: &BlobId, entries: &[u32]) -> bool;
}

/// An answer.
pub type ChunkStream =
    Pin<Box<dyn Stream<Item = Result<ReadChunksResponse, Status>> + Send + 'static>>;

/// Serves chunks; clones are the same.
#[derive(Clone)]
pub struct Chunks(Arc<Parts>);

struct Parts {
    whole: Arc<dyn WholeLayers>,
    cache: CacheDir,
    bring: Arc<dyn Bring>,
    slots: Arc<Semaphore>,
    limits: ChunkLimits,
    served: Served,
}

impl Chunks {
    /// Out of whole layers, and what the agent has in its cache or brings.
    pub fn new(
        whole: Arc<dyn WholeLayers>,
        cache: CacheDir,
        bring: Arc<dyn Bring>,
        limits: ChunkLimits,
    ) -> Self {
        Self(Arc::new(Parts {
            whole,
            cache,
            bring,
            slots: Arc::new(Semaphore::new(limits.slots)),
            limits,
            served: Served::default(),
        }))
    }

    /// What was given so far.
    pub fn served(&self) -> &Served {
        &self.0.served
    }

    /// Answers a request.
    ///
    /// # Errors
    /// As `proto/lamina/v1/layers.proto` says.
    pub async fn read(&self, request: &ReadChunksRequest) -> Result<ChunkStream, Status> {
        let wanted = Wanted::parse(request)?;
        let Ok(slot) = Arc::clone(&self.0.slots).try_acquire_owned() else {
            self.0.served.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Status::resource_exhausted(
                "enough others are read from here now: ask another node, or soon again",
            ));
        };
        let parts = Arc::clone(&self.0);
        let (layer, blob, wait) = (wanted.layer, wanted.blob, wanted.wait);
        let looking = move || Found::look(parts.whole.as_ref(), &parts.cache, &wanted);
        let looked = tokio::task::spawn_blocking(looking).await;
        let found = looked.map_err(|_| Status::internal("looking was cut off"))??;
        let (sender, mut messages) = mpsc::channel(1);
        let ended = Arc::new(OnceLock::new());
        let sending = Sending {
            parts: Arc::clone(&self.0),
            layer,
            blob,
            wait,
            found: Arc::new(found),
            sender,
            ended: Arc::clone(&ended),
            _slot: slot,
        };
        tokio::spawn(sending.run());
        Ok(Box::pin(futures::stream::poll_fn(move |context| {
            messages.poll_recv(context).map(|message| {
                let last = || ended.get().cloned().map(Err);
                message.map(Ok).or_else(last)
            })
        })))
    }
}

/// One answer on its way; keeps its slot.
struct Sending {
    parts: Arc<Parts>,
    layer: Sha256Digest,
    blob: BlobId,
    /// For what the agent does not have yet.
    wait: Duration,
    found: Arc<Found>,
    sender: mpsc::Sender<ReadChunksResponse>,
    /// What the reader is told when it has taken all messages that there are.
    ended: Arc<OnceLock<Status>>,
    _slot: OwnedSemaphorePermit,
}

impl Sending {
    async fn run(self) {
        if let Err(status) = self.send().await {
            tracing::debug!(layer = %self.layer, %status, "sending chunks ended early");
            let _ = self.ended.set(status);
        }
    }

    async fn send(&self) -> Result<(), Status> {
        let began = Instant::now();
        let end = began + self.parts.limits.whole;
        let mut patience = end.min(began + self.wait.min(WAIT_IDLY_MAX));
        let (mut bring_at, mut say_at) = (began, began + SAY_EVERY);
        let mut is_coming = false;
        let mut open: Vec<usize> = (0..self.found.len()).collect();
        loop {
            let (here, absent): (Vec<usize>, Vec<usize>) =
                open.into_iter().partition(|at| self.found.has(*at));
            open = absent;
            if !here.is_empty() {
                self.send_these(here, end).await?;
                say_at = Instant::now() + SAY_EVERY;
            }
            let now = Instant::now();
            if open.is_empty() || now >= patience || self.sender.is_closed() {
                return Ok(());
            }
            if now >= bring_at {
                bring_at = now + BRING_EVERY;
                is_coming = self.bring(&open).await;
                if is_coming {
                    patience = end.min(began + self.wait);
                }
            }
            if is_coming && now >= say_at {
                say_at = now + SAY_EVERY;
                let nothing_yet = ReadChunksResponse::default();
                // A reader that has not even taken what was sent before need not hear it.
                let _ = self.sender.try_send(nothing_yet);
            }
            let pause = (began.elapsed() / 16).clamp(POLL, POLL_MAX);
            tokio::time::sleep(pause).await;
        }
    }

    /// Has the agent fetch what is not here; says whether it does.
    async fn bring(&self, open: &[usize]) -> bool {
        let entries: Vec<u32> = open.iter().map(|at| self.found.entry(*at)).collect();
        let (parts, blob) = (Arc::clone(&self.parts), self.blob);
        let asked = tokio::task::spawn_blocking(move || parts.bring.bring(&blob, &entries));
        asked.await.unwrap_or(false)
    }

    async fn send_these(&self, mut here: Vec<usize>, end: Instant) -> Result<(), Status> {
        while !here.is_empty() {
            let found = Arc::clone(&self.found);
            let read = tokio::task::spawn_blocking(move || message(&found, here)).await;
            let read = read.map_err(|_| Status::internal("reading was cut off"))?;
            let (message, rest) = read.map_err(|error| {
                tracing::warn!(layer = %self.layer, %error, "read chunks for another node");
                Status::data_loss("what is here of the layer cannot be read")
            })?;
            here = rest;
            if message.chunks.is_empty() {
                continue;
            }
            let bytes: usize = message.chunks.iter().map(|chunk| chunk.stored.len()).sum();
            let patience = end.min(Instant::now() + self.parts.limits.stall);
            match timeout_at(patience, self.sender.send(message)).await {
                Ok(Ok(())) => self.count(bytes as u64),
                // Whoever asked is gone.
                Ok(Err(_)) => return Ok(()),
                Err(_) => {
                    self.parts.served.stalled.fetch_add(1, Ordering::Relaxed);
                    return Err(Status::deadline_exceeded("the reader takes too long"));
                }
            }
        }
        Ok(())
    }

    fn count(&self, bytes: u64) {
        let served = &self.parts.served;
        let by = match self.found.is_layer() {
            true => &served.layer_bytes,
            false => &served.part_bytes,
        };
        by.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The first chunks of these places that make a message, and the other places.
fn message(found: &Found, here: Vec<usize>) -> std::io::Result<(ReadChunksResponse, Vec<usize>)> {
    let mut bytes = 0;
    let mut message = ReadChunksResponse {
        layer_was_copied: found.is_copied_layer(),
        ..ReadChunksResponse::default()
    };
    let mut places = here.into_iter();
    while bytes < MESSAGE_BYTES
        && let Some(at) = places.next()
    {
        if let Some(chunk) = found.read(at)? {
            bytes += chunk.stored.len();
            message.chunks.push(chunk);
        }
    }
    Ok((message, places.collect()))
}

#[cfg(test)]
mod tests;
