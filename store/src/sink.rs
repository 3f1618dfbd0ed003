//! Chunks in, packs out: hashing and compression on all cores, order kept, memory bounded.
//!
//! ```text
//! push -> [credits: 16 MiB] -> workers: hash, known?, compress -> assembler: in push order -> packs
//!                                                                    | at most 3 uploads at once
//!                                                                    v
//!                                      stores, an index object every 32 packs   or   one local file
//! ```
//! The result depends only on the chunks pushed, their order, the level and the index snapshot: never on
//! the number of threads or on timing. A pack is listed in an index only after every owner has it, so an
//! interrupted run leaves nothing wrong, and its packs are found again by the next one.

mod assemble;
mod gate;
mod upload;
mod worker;

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use lamina_flist::chunk::CHUNK_MAX;
use lamina_flist::{ChunkRecord, PackRecord};
use tokio::runtime::Handle;

use crate::chunk_index::ChunkIndex;
use crate::error::StoreError;
use crate::set::StoreSet;
use gate::Gate;

pub(crate) use upload::publish_index;

/// An index object is written at least every this many packs (256 MiB): what an interruption can leave
/// unlisted is bounded by it.
pub const INDEX_EVERY: usize = 32;

/// Plain bytes between `push` and a pack. With one open pack and three being uploaded this keeps the whole
/// sink below 64 MiB.
const IN_FLIGHT_BYTES: usize = 16 << 20;

/// Where packs go.
pub enum PackTarget {
    /// To every owner in a set of stores.
    Stores(StoreSet),
    /// One after the other into a file or buffer; [`PackRecord::embedded_at`] counts from its start.
    Embedded(Box<dyn Write + Send>),
}

/// How to pack.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// zstd level. 3 is close to the network's speed and saves most of what higher levels do.
    pub level: i32,
    /// Threads that hash and compress.
    pub threads: usize,
}

impl Default for PackOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { level: 3, threads }
    }
}

/// Why packing failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// A chunk that no flist could name.
    #[error("a chunk of {0} bytes: must be 1 to {CHUNK_MAX}")]
    ChunkLength(usize),
    /// More chunks or packs than a flist can number.
    #[error("more than 2^32 chunks")]
    TooMany,
    /// The stores failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The local file failed, or a thread could not start.
    #[error("write packs to the local file")]
    Io(#[from] std::io::Error),
    /// Packs the result refers to were removed meanwhile (garbage collection): run again.
    #[error("pack {0} was removed from the stores while packing; run again")]
    Vanished(lamina_flist::PackId),
    /// It failed before; [`PackSink::finish`] says why.
    #[error("packing has already failed")]
    Aborted,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PackStats {
    /// Chunks pushed.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of distinct chunks that the stores had already.
    pub known_bytes: u64,
    /// Chunks that were new, and so written.
    pub new_chunks: u64,
    /// Their plain bytes.
    pub new_bytes: u64,
    /// Bytes they take in packs.
    pub stored_bytes: u64,
    /// Packs written.
    pub new_packs: u64,
}

/// The result of packing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// For each pushed chunk, in order, its position in `chunks`.
    pub seq_to_chunk: Vec<u32>,
    /// Distinct chunks in order of first push.
    pub chunks: Vec<ChunkRecord>,
    /// The packs they are in, in order of first use.
    pub packs: Vec<PackRecord>,
    /// Figures.
    pub stats: PackStats,
}

/// Takes chunks, writes packs. For threads that may block, never for async tasks; use `spawn_blocking`.
pub struct PackSink {
    jobs: Mutex<Option<(Sender<worker::Job>, u64)>>,
    gate: Arc<Gate>,
    threads: Vec<JoinHandle<()>>,
    assembler: Option<JoinHandle<Result<Packed, SinkError>>>,
}

impl PackSink {
    /// Starts the threads. `index` is what need not be written again; `handle` runs the uploads.
    ///
    /// # Errors
    /// A store is read-only, or a thread cannot start.
    pub fn new(
        target: PackTarget,
        index: Arc<ChunkIndex>,
        options: &PackOptions,
        handle: Handle,
    ) -> Result<Self, SinkError> {
        if let PackTarget::Stores(set) = &target {
            set.check_writable()?;
        }
        let gate = Arc::new(Gate::new(IN_FLIGHT_BYTES));
        // Both queues are bounded by the gate's credits.
        let (jobs, queue) = crossbeam_channel::unbounded();
        let (outcomes, arriving) = crossbeam_channel::unbounded();
        let shared = Arc::new(worker::Shared::new(
            Arc::clone(&index),
            Arc::clone(&gate),
            options.level,
        ));
        let mut sink = Self {
            jobs: Mutex::new(None),
            gate: Arc::clone(&gate),
            threads: Vec::new(),
            assembler: None,
        };
        for nth in 0..options.threads.max(1) {
            let (shared, queue, outcomes) = (Arc::clone(&shared), queue.clone(), outcomes.clone());
            let name = format!("lamina-pack-{nth}");
            let thread = std::thread::Builder::new().name(name);
            sink.threads
                .push(thread.spawn(move || shared.run(&queue, &outcomes))?);
        }
        drop((queue, outcomes)); // the threads' copies end the queues
        let output = assemble::Output::new(target, &index, &gate, handle);
        let assembler = std::thread::Builder::new().name("lamina-assemble".into());
        sink.assembler =
            Some(assembler.spawn(move || assemble::run(&arriving, index, &gate, output))?);
        *sink.jobs.lock().unwrap_or_else(PoisonError::into_inner) = Some((jobs, 0));
        Ok(sink)
    }

    /// Adds a chunk and returns its number: 0, 1, 2, … in the order of calls. Blocks while the queue is
    /// full.
    ///
    /// # Errors
    /// The chunk cannot be named by a flist, or packing has failed; then [`PackSink::finish`] says why.
    pub fn push(&self, chunk: Vec<u8>) -> Result<u64, SinkError> {
        if chunk.is_empty() || chunk.len() > CHUNK_MAX {
            return Err(SinkError::ChunkLength(chunk.len()));
        }
        if !self.gate.take(chunk.len()) {
            return Err(SinkError::Aborted);
        }
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let (queue, next) = jobs.as_mut().ok_or(SinkError::Aborted)?;
        let seq = *next;
        queue
            .send(worker::Job { seq, plain: chunk })
            .map_err(|_| SinkError::Aborted)?;
        *next += 1;
        Ok(seq)
    }

    /// Waits until everything is durable and listed.
    ///
    /// # Errors
    /// What made packing fail. Running it again goes on from what is durable.
    pub fn finish(mut self) -> Result<Packed, SinkError> {
        self.close();
        let assembler = self.assembler.take().expect("only finish and drop take it");
        let result = assembler.join().unwrap_or(Err(SinkError::Aborted));
        self.join_workers();
        result
    }

    fn close(&self) {
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    fn join_workers(&mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a panic there has already failed the assembler
        }
    }
}

impl Drop for PackSink {
    /// Abandons what is not written yet.
    fn drop(&mut self) {
        if self.assembler.is_some() {
            self.gate.fail();
        }
        self.close();
        if let Some(assembler) = self.assembler.take() {
            let _ = assembler.join();
        }
        self.join_workers();
    }
}

#[cfg(test)]
mod tests;
