//! One request for chunks to one node: what it sends is verified as it arrives, and a node that sends too slowly is left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use lamina_discovery::NodeId;
use lamina_discovery::choose::Outcome;
use lamina_flist::{BlobId, ChunkId, Codec, Sha256Digest};
use lamina_proto::lamina::v1::layers_client::LayersClient;
use lamina_proto::lamina::v1::{Chunk, EntryRange, ReadChunksRequest, ReadChunksResponse};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::pull::Image;

/// Nothing for so long, and a node is left.
pub(super) const SILENCE: Duration = Duration::from_secs(2);
/// Slower than this on the whole counts as nothing, too, bytes per second: messages that drip in one by one would
/// otherwise never end.
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

/// Asks for entries, and hands chunks on until nobody wants more. The node may wait for what it is about to have.
pub(super) async fn ask(
    channel: Channel,
    want: &Want,
    entries: &[u32],
    wait: Duration,
    is_own: bool,
    give: &mpsc::Sender<Event>,
) -> Ended {
    let mut open: BTreeSet<u32> = entries.iter().copied().collect();
    let mut progress = Progress::new(wait);
    let request = ReadChunksRequest {
        layer_digest: want.layer.to_string(),
        blob: want.blob.as_bytes().to_vec(),
        entries: ranges(entries),
        wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
    };
    let mut client = LayersClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
    let mut pieces = 0;
    let outcome = async {
        let asked = timeout_at(progress.deadline(), client.read_chunks(request)).await;
        let mut messages = match asked {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return refused(&status),
            Err(_) => return Outcome::Failed,
        };
        loop {
            let message = match next(&mut messages, &progress).await {
                Ok(Some(message)) => message,
                Ok(None) => return progress.outcome(),
                Err(outcome) => return outcome,
            };
            let giver = match (is_own, message.layer_was_copied) {
                (false, _) => Giver::Peer,
                (true, true) => Giver::OwnCopy,
                (true, false) => Giver::OwnPull,
            };
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

async fn next(
    messages: &mut Streaming<ReadChunksResponse>,
    progress: &Progress,
) -> Result<Option<ReadChunksResponse>, Outcome> {
    match timeout_at(progress.deadline(), messages.message()).await {
        Ok(Ok(message)) => Ok(message),
        Ok(Err(status)) => Err(refused(&status)),
        Err(_) => Err(Outcome::Failed),
    }
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
    bytes: u64,
    /// What the node was asked to wait.
    wait: Duration,
}

impl Progress {
    fn new(wait: Duration) -> Self {
        let now = Instant::now();
        Self {
            began: now,
            last: now,
            first: None,
            bytes: 0,
            wait,
        }
    }

    /// When something more must have come.
    fn deadline(&self) -> Instant {
        let share = Duration::from_millis(self.bytes * 1000 / RATE_MIN);
        (self.last + SILENCE).min(self.began + SILENCE + share) + self.wait
    }

    fn came(&mut self, bytes: u32) {
        self.bytes += u64::from(bytes);
        self.first.get_or_insert_with(|| self.began.elapsed());
    }

    /// What taking a chunk took is not the node's fault.
    fn paused(&mut self, time: Duration) {
        self.began += time;
    }

    /// A node that gave nothing has done nothing wrong.
    fn outcome(&self) -> Outcome {
        self.first.map_or(Outcome::Dropped, Outcome::Good)
    }
}
