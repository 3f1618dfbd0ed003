//! What others read from this node: so many at once, and none of them for ever.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};

use super::peer_service::Answers;

/// Bytes in one message.
const PIECE: u64 = 1 << 20;
/// Messages that wait for their reader.
const WAITING: usize = 4;
/// A reader that takes nothing for this long is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// The upload slots; clones are the same.
#[derive(Clone)]
pub struct Uploads(Arc<Semaphore>);

/// A slot, until it is dropped.
pub struct Upload(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

impl Uploads {
    /// So many at once.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Semaphore::new(max.max(1))))
    }

    /// A slot, if there is one now.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`: others have more time.
    pub fn begin(&self) -> Result<Upload, Status> {
        let busy = |_| {
            Status::new(
                Code::ResourceExhausted,
                "enough others are being served: ask another node, or soon again",
            )
        };
        let slot = Arc::clone(&self.0).try_acquire_owned();
        slot.map(Upload).map_err(busy)
    }
}

/// Bytes `start..end` of a file.
pub(super) struct Span {
    pub(super) file: Arc<File>,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// Sends a part of a file piece by piece, the last with `true`; `keep` lives until the end.
pub(super) fn send<T, K>(
    span: Span,
    upload: Upload,
    keep: K,
    message: impl Fn(u64, Bytes, bool) -> T + Send + 'static,
) -> Answers<T>
where
    T: Send + 'static,
    K: Send + 'static,
{
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let _kept = (upload, keep);
        if let Err(status) = pass_on(span, &sender, message).await {
            let _ = tokio::time::timeout(PATIENCE, sender.send(Err(status))).await;
        }
    });
    Box::pin(stream(receiver))
}

async fn pass_on<T>(
    span: Span,
    to: &Sender<Result<T, Status>>,
    message: impl Fn(u64, Bytes, bool) -> T,
) -> Result<(), Status> {
    let mut at = span.start;
    loop {
        let next = (at + PIECE).min(span.end);
        let bytes = read(Arc::clone(&span.file), at, next).await?;
        let is_last = next == span.end;
        let sent = to.send(Ok(message(at, bytes.into(), is_last)));
        match tokio::time::timeout(PATIENCE, sent).await {
            Ok(Ok(())) if !is_last => at = next,
            // The end, or a reader that is gone.
            Ok(_) => return Ok(()),
            Err(_) => {
                let what = format!("nothing was read for {PATIENCE:?}");
                return Err(Status::new(Code::DeadlineExceeded, what));
            }
        }
    }
}

async fn read(file: Arc<File>, start: u64, end: u64) -> Result<Vec<u8>, Status> {
    let done = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; (end - start) as usize];
        file.read_exact_at(&mut bytes, start)?;
        Ok::<_, std::io::Error>(bytes)
    });
    let failed = |error: &dyn std::fmt::Display| {
        Status::new(
            Code::DataLoss,
            format!("what is here cannot be read: {error}"),
        )
    };
    let done = done.await.map_err(|error| failed(&error))?;
    done.map_err(|error| failed(&error))
}

fn stream<T>(messages: Receiver<Result<T, Status>>) -> impl Stream<Item = Result<T, Status>> {
    futures::stream::unfold(messages, |mut messages| async {
        messages.recv().await.map(|message| (message, messages))
    })
}
