//! One request for chunks to one node: what it sends is verified as it arrives, and a node that sends too slowly is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lamina_discovery::NodeId;
use lamina_discovery::choose::Outcome;
use lamina_flist::{BlobId, ChunkId, Codec, Sha256Digest};
use lamina_proto::lamina::v1::layers_client::LayersClient;
use lamina_proto::lamina::v1::{Chunk, EntryRange, ReadChunksRequest};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::pull::Image;
use super::pulse::Pulse;

/// Nothing for so long, for any request, and a node is left: while a reader waits, and while nobody does. Cables that
/// are full are silent, too, for some.
pub(super) const SILENCE: Duration = Duration::from_secs(2);
const SILENCE_AHEAD: Duration = Duration::from_secs(6);
/// A node that waits for what it is about to have says so more often.
pub(super) const SILENCE_WAITING: Duration = Duration::from_millis(1500);
/// The same for one request to a node that answers others.
const SILENCE_ALONE: Duration = Duration::from_secs(15);
/// Slower than this, all requests together, counts as nothing, too, bytes per second: messages that drip in one by one
/// would otherwise never end.
const RATE_MIN: u64 = 128 << 10;
/// A message has 1 MiB of chunks at most.
const MESSAGE_MAX: usize = (1 << 20) + (64 << 10);

/// Chunks of a blob of a layer, and how they are known.
#[derive(Debug)]
pub(crate) struct Want {
    pub(crate) layer: Sha256Digest,
    pub(crate) blob: BlobId,
    /// What to have pulled, if nobody has the layer.
    pub(crate) image: Image,
    /// By entry: id and length.
    pub(crate) chunks: BTreeMap<u32, (ChunkId, u32)>,
}

/// A chunk that came and is what it must be.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) entry: u32,
    pub(crate) plain: Bytes,
    /// Bytes that it travelled as.
    pub(crate) stored_len: u32,
    /// Who gave it.
    pub(crate) giver: Giver,
}

/// Who gave a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Giver {
    /// Another node.
    Peer,
    /// Our own layerstore, of a layer that another node gave it.
    OwnCopy,
    /// Our own layerstore, of a layer that it read from the registry.
    OwnPull,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    /// Chunks that came.
    pub(super) pieces: usize,
}

/// What a request tells.
#[derive(Debug)]
pub(super) enum Event {
    /// A chunk came.
    Piece(Piece),
    /// It has ended.
    Ended(NodeId, Ended),
}

/// Who is asked, and how.
pub(super) struct Asked {
    pub(super) channel: Channel,
    pub(super) pulse: Arc<Pulse>,
    /// Our own layerstore.
    pub(super) is_own: bool,
    /// A reader waits.
    pub(super) is_demand: bool,
    /// The node may wait so long for what it is about to have.
    pub(super) wait: Duration,
}

/// Asks for entries, and hands chunks on until nobody wants more.
pub(super) async fn ask(
    asked: Asked,
    want: &Want,
    entries: &[u32],
    give: &mpsc::Sender<Event>,
) -> Ended {
    let Asked {
        channel,
        pulse,
        is_own,
        is_demand,
        wait,
    } = asked;
    let mut open: BTreeSet<u32> = entries.iter().copied().collect();
    let silence = if is_demand { SILENCE } else { SILENCE_AHEAD };
    let mut progress = Progress::new(silence, wait, pulse);
    let request = ReadChunksRequest {
        layer_digest: want.layer.to_string(),
        blob: want.blob.as_bytes().to_vec(),
        entries: ranges(entries),
        wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
    };
    let mut client = LayersClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
    let mut pieces = 0;
    let outcome = async {
        let mut messages = match progress.in_time(client.read_chunks(request)).await {
            Some(Ok(answer)) => answer.into_inner(),
            Some(Err(status)) => return refused(&status),
            None => return Outcome::Failed,
        };
        loop {
            let coming = progress.in_time(messages.message());
            let message = tokio::select! {
                message = coming => message,
                () = give.closed(), if !wait.is_zero() => return progress.left(),
            };
            let message = match message {
                Some(Ok(Some(message))) => message,
                Some(Ok(None)) => return progress.outcome(),
                Some(Err(status)) => return refused(&status),
                None => return Outcome::Failed,
            };
            let giver = match (is_own, message.layer_was_copied) {
                (false, _) => Giver::Peer,
                (true, true) => Giver::OwnCopy,
                (true, false) => Giver::OwnPull,
            };
            // One without chunks says that they are on their way.
            progress.pulse.beat(0);
            for chunk in message.chunks {
                let Some(piece) = verified(want, &mut open, &chunk, giver) else {
                    return Outcome::Wrong;
                };
                progress.came(piece.stored_len);
                pieces += 1;
                let giving = Instant::now();
                if give.send(Event::Piece(piece)).await.is_err() {
                    return progress.outcome();
                }
                progress.paused(giving.elapsed());
            }
            progress.last = Instant::now();
        }
    };
    let outcome = outcome.await;
    Ended { outcome, pieces }
}

/// The chunk, if it was asked for, did not come before, and is what it must be.
fn verified(want: &Want, open: &mut BTreeSet<u32>, chunk: &Chunk, giver: Giver) -> Option<Piece> {
    if !open.remove(&chunk.entry) {
        return None;
    }
    let (id, len) = want.chunks.get(&chunk.entry)?;
    let codec = Codec::from_u8(u8::try_from(chunk.codec).ok()?)?;
    let stored_len = u32::try_from(chunk.stored.len()).ok()?;
    let plain = lamina_store::decode(id, codec, &chunk.stored, *len).ok()?;
    Some(Piece {
        entry: chunk.entry,
        plain,
        stored_len,
        giver,
    })
}

fn refused(status: &Status) -> Outcome {
    match status.code() {
        Code::ResourceExhausted => Outcome::Busy,
        // An honest node that lost its copy says so: another one has it.
        Code::NotFound => Outcome::Dropped,
        _ => Outcome::Failed,
    }
}

/// Ascending entries as runs.
fn ranges(entries: &[u32]) -> Vec<EntryRange> {
    let mut ranges: Vec<EntryRange> = Vec::new();
    for &entry in entries {
        match ranges.last_mut() {
            Some(last) if last.first + last.count == entry => last.count += 1,
            _ => ranges.push(EntryRange {
                first: entry,
                count: 1,
            }),
        }
    }
    ranges
}

/// How far an answer has come.
struct Progress {
    began: Instant,
    last: Instant,
    first: Option<Duration>,
    /// What comes from the node, and what had come before.
    pulse: Arc<Pulse>,
    before: u64,
    silence: Duration,
    /// What the node was asked to wait.
    wait: Duration,
}

impl Progress {
    fn new(silence: Duration, wait: Duration, pulse: Arc<Pulse>) -> Self {
        let now = Instant::now();
        Self {
            began: now,
            last: now,
            first: None,
            before: pulse.bytes(),
            pulse,
            silence,
            wait,
        }
    }

    /// When something more must have come.
    fn deadline(&self) -> Instant {
        let bytes = self.pulse.bytes().saturating_sub(self.before);
        let share = Duration::from_millis(bytes * 1000 / RATE_MIN);
        let last = self.last.max(self.pulse.last());
        let silence = (last + self.silence).min(self.last + SILENCE_ALONE);
        match self.wait.is_zero() {
            true => silence.min(self.began + self.silence + share),
            // It waits itself, but says so.
            false => silence,
        }
    }

    /// What comes of it, unless the node is silent or slow meanwhile.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let deadline = self.deadline();
            if let Ok(done) = timeout_at(deadline, work.as_mut()).await {
                return Some(done);
            }
            if self.deadline() <= deadline {
                return None;
            }
        }
    }

    fn came(&mut self, bytes: u32) {
        self.pulse.beat(bytes);
        self.first.get_or_insert_with(|| self.began.elapsed());
    }

    /// What taking a chunk took is not the node's fault.
    fn paused(&mut self, time: Duration) {
        self.began += time;
    }

    /// Nobody waits any more for a node that was to wait for what it is about to have.
    fn left(&self) -> Outcome {
        let last = self.last.max(self.pulse.last());
        match last.elapsed() < SILENCE_WAITING {
            true => self.outcome(),
            false => Outcome::Failed,
        }
    }

    /// A node that gave nothing has done nothing wrong.
    fn outcome(&self) -> Outcome {
        self.first.map_or(Outcome::Dropped, Outcome::Good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_serves_others_is_slow_and_not_silent() {
        let pulse = Arc::new(Pulse::new());
        let progress = Progress::new(SILENCE, Duration::ZERO, Arc::clone(&pulse));
        let silent = progress.deadline();
        assert_eq!(silent, progress.began + SILENCE);
        std::thread::sleep(Duration::from_millis(2));
        pulse.beat(1 << 20);
        assert!(progress.deadline() > silent, "bytes of another request");
        assert!(progress.deadline() <= progress.last + SILENCE_ALONE);
        let trickling = Progress::new(SILENCE, Duration::ZERO, Arc::clone(&pulse));
        pulse.beat(1);
        assert_eq!(trickling.deadline(), trickling.began + SILENCE);
    }

    #[test]
    fn who_is_left_while_it_says_that_it_waits_has_not_failed() {
        let pulse = Arc::new(Pulse::new());
        let wait = Duration::from_secs(20);
        let mut progress = Progress::new(SILENCE_AHEAD, wait, Arc::clone(&pulse));
        assert_eq!(progress.left(), Outcome::Dropped);
        progress.came(10);
        assert!(matches!(progress.left(), Outcome::Good(_)));
    }
}
