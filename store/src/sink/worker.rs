//! The parallel part: hash a chunk, decide whether it must be stored, compress it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender};
use lamina_flist::{ChunkId, Codec};

use super::gate::Gate;
use crate::chunk_index::ChunkIndex;
use crate::codec::Encoder;

/// A chunk to look at.
pub(super) struct Job {
    pub(super) seq: u64,
    pub(super) plain: Vec<u8>,
}

/// A chunk ready for a pack; holds credits for `len` bytes.
pub(super) struct Stored {
    pub(super) bytes: Vec<u8>,
    pub(super) codec: Codec,
}

/// What became of a job. Exactly one outcome per distinct unknown chunk carries the stored bytes,
/// whichever worker met it first.
pub(super) struct Outcome {
    pub(super) seq: u64,
    pub(super) id: ChunkId,
    pub(super) len: u32,
    pub(super) stored: Option<Stored>,
}

pub(super) struct Shared {
    index: Arc<ChunkIndex>,
    gate: Arc<Gate>,
    level: i32,
    claimed: Mutex<HashSet<ChunkId>>,
}

impl Shared {
    pub(super) fn new(index: Arc<ChunkIndex>, gate: Arc<Gate>, level: i32) -> Self {
        Self {
            index,
            gate,
            level,
            claimed: Mutex::default(),
        }
    }

    /// Runs until the queue ends or the sink has failed.
    pub(super) fn run(&self, queue: &Receiver<Job>, outcomes: &Sender<Outcome>) {
        let _on_panic = FailOnPanic(&self.gate);
        let Ok(mut encoder) = Encoder::new(self.level) else {
            tracing::error!(level = self.level, "zstd refuses this level");
            self.gate.fail();
            return;
        };
        for job in queue {
            if self.gate.failed() || outcomes.send(self.look_at(job, &mut encoder)).is_err() {
                return;
            }
        }
    }

    fn look_at(&self, job: Job, encoder: &mut Encoder) -> Outcome {
        let Job { seq, plain } = job;
        let (id, len) = (ChunkId::of(&plain), plain.len() as u32);
        let known = self
            .index
            .find(&id)
            .is_some_and(|known| known.entry.len == len);
        let ours = !known
            && self
                .claimed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id);
        let stored = if ours {
            Some(match encoder.compress(&plain) {
                Some(bytes) => Stored {
                    bytes,
                    codec: Codec::Zstd,
                },
                None => Stored {
                    bytes: plain,
                    codec: Codec::Raw,
                },
            })
        } else {
            self.gate.give(plain.len());
            None
        };
        Outcome {
            seq,
            id,
            len,
            stored,
        }
    }
}

/// A panicking worker would leave the assembler waiting and pushers blocked.
struct FailOnPanic<'a>(&'a Gate);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail();
        }
    }
}
