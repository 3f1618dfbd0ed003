//! The fill protocol: the mount daemon asks the agent for missing entries.
//!
//! The mount daemon connects to `<run dir>/agent.sock` and sends
//! [`FillRequest`]s without waiting; the agent answers each with a
//! [`FillReply`] of the same id, in any order, once the entries are present in
//! the cached blob (data written, then bits set) or cannot be had. Bytes never
//! travel here. When the agent dies the mount daemon sends everything
//! unanswered again to its successor, until each request's deadline: so an
//! agent keeps no state about requests, and filling twice must be harmless.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lamina_flist::BlobId;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};

use crate::wire::{self, ACCEPT_PAUSE, FrameBuffer, Shortage};

/// Name of the agent's socket in the run directory.
pub const AGENT_SOCKET: &str = "agent.sock";
/// Fills under way for one connection; more wait in the socket.
const FILLS_MAX: usize = 4096;

/// "Make these entries present."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FillRequest {
    /// Chosen by the asker, unique among its unanswered requests.
    pub id: u64,
    /// Which blob.
    pub blob: BlobId,
    /// First map entry.
    pub first: u32,
    /// How many entries, at least one; some may be present already.
    pub count: u32,
    /// Time left; an answer after it is of no use.
    pub deadline_ms: u32,
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FillReply {
    /// The request's id.
    pub id: u64,
    /// Present now, or why not.
    pub outcome: Result<(), FillFailure>,
}

/// Why entries could not be made present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{kind:?}: {message}")]
pub struct FillFailure {
    /// What kind of failure.
    pub kind: FillFailureKind,
    /// In words, for the log.
    pub message: String,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FillFailureKind {
    /// The agent does not know the blob.
    UnknownBlob,
    /// No source could be reached.
    Unavailable,
    /// Every source gave wrong bytes.
    Integrity,
    /// The cache's disk is full.
    NoSpace,
    /// Out of time.
    Deadline,
    /// Anything else.
    Internal,
}

impl FillFailure {
    /// A failure of this kind.
    pub fn new(kind: FillFailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// What an agent implements.
pub trait FillHandler: Send + Sync + 'static {
    /// Makes the entries of the blob present within `limit`. May be asked for
    /// the same entries several times at once.
    fn fill(
        &self,
        blob: BlobId,
        entries: Range<usize>,
        limit: Duration,
    ) -> impl Future<Output = Result<(), FillFailure>> + Send;
}

/// Listens at `path`, in place of a socket left by a killed agent.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = wire::listen(path).map_err(io::Error::other)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Serves fill requests until the future is dropped.
///
/// # Errors
/// When the listener itself fails.
pub async fn serve<H: FillHandler>(listener: UnixListener, handler: Arc<H>) -> io::Result<()> {
    let mut shortage = Shortage::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                shortage.pass(error)?;
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(error) = wire::check_peer(&stream) {
            tracing::warn!(%error, "fill connection refused");
            continue;
        }
        let handler = Arc::clone(&handler);
        tokio::spawn(async move {
            if let Err(error) = converse(stream, handler).await {
                tracing::warn!(%error, "fill connection ended");
            }
        });
    }
}

async fn converse<H: FillHandler>(stream: UnixStream, handler: Arc<H>) -> anyhow::Result<()> {
    let (mut read, mut write) = stream.into_split();
    let (tell, mut told) = mpsc::channel::<FillReply>(FILLS_MAX);
    let writer = tokio::spawn(async move {
        while let Some(reply) = told.recv().await {
            let mut bytes = wire::encode(&reply)?;
            // Whatever else is ready goes out with the same write.
            while let Ok(more) = told.try_recv() {
                bytes.extend(wire::encode(&more)?);
            }
            write.write_all(&bytes).await?;
        }
        anyhow::Ok(())
    });
    let slots = Arc::new(Semaphore::new(FILLS_MAX));
    let mut frames = FrameBuffer::default();
    let mut chunk = vec![0u8; 16 * 1024];
    loop {
        let length = read.read(&mut chunk).await?;
        if length == 0 {
            break;
        }
        frames.push(&chunk[..length]);
        while let Some(request) = frames.take::<FillRequest>()? {
            let slot = Arc::clone(&slots).acquire_owned().await?;
            let (handler, tell) = (Arc::clone(&handler), tell.clone());
            tokio::spawn(async move {
                let reply = answer(handler.as_ref(), request).await;
                // The asker is gone: it will ask again on a new connection.
                let _ = tell.send(reply).await;
                drop(slot);
            });
        }
    }
    drop(tell);
    writer.await?
}

async fn answer<H: FillHandler>(handler: &H, request: FillRequest) -> FillReply {
    let limit = Duration::from_millis(u64::from(request.deadline_ms));
    let entries = request.first as usize..request.first as usize + request.count as usize;
    let filling = handler.fill(request.blob, entries, limit);
    let outcome = tokio::time::timeout(limit, filling)
        .await
        .unwrap_or_else(|_| {
            let message = format!("not filled within {limit:?}");
            Err(FillFailure::new(FillFailureKind::Deadline, message))
        });
    FillReply {
        id: request.id,
        outcome,
    }
}
