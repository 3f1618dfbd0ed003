//! The ordered part: outcomes in push order become chunk records and packs.

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam_channel::Receiver;
use lamina_flist::{ChunkId, ChunkRecord, PackId, PackRecord};
use tokio::runtime::Handle;

use super::gate::Gate;
use super::upload::{EmbeddedWriter, Uploads};
use super::worker::{Outcome, Stored};
use super::{PackTarget, Packed, SinkError};
use crate::chunk_index::ChunkIndex;
use crate::pack::PackBuilder;

/// Where sealed packs go; numbers are positions in the pack table.
pub(super) enum Output {
    Uploads(Uploads),
    Embedded(EmbeddedWriter),
}

impl Output {
    pub(super) fn new(
        target: PackTarget,
        index: &ChunkIndex,
        gate: &Arc<Gate>,
        handle: Handle,
    ) -> Self {
        match target {
            PackTarget::Stores(set) => {
                Self::Uploads(Uploads::new(set, index, Arc::clone(gate), handle))
            }
            PackTarget::Embedded(file) => Self::Embedded(EmbeddedWriter::new(file)),
        }
    }

    fn write(&mut self, slot: u32, pack: PackBuilder) -> Result<(), SinkError> {
        match self {
            Self::Uploads(uploads) => uploads.start(slot, pack),
            Self::Embedded(file) => file.write(slot, pack),
        }
    }

    /// The records of everything written.
    fn finish(self, referenced: &[PackRecord]) -> Result<Vec<(u32, PackRecord)>, SinkError> {
        match self {
            Self::Uploads(uploads) => uploads.finish(referenced),
            Self::Embedded(file) => file.finish(),
        }
    }
}

/// Runs until every outcome is placed, or something fails.
pub(super) fn run(
    arriving: &Receiver<Outcome>,
    index: Arc<ChunkIndex>,
    gate: &Arc<Gate>,
    output: Output,
) -> Result<Packed, SinkError> {
    let mut assembler = Assembler::new(index, Arc::clone(gate), output);
    let result = arriving
        .iter()
        .try_for_each(|outcome| assembler.take(outcome));
    let result = result.and_then(|()| assembler.finish());
    if result.is_err() {
        gate.fail(); // pushers and workers stop
    }
    result
}

struct Assembler {
    index: Arc<ChunkIndex>,
    gate: Arc<Gate>,
    output: Output,
    next: u64,
    /// Outcomes that arrived before an earlier one.
    waiting: HashMap<u64, (ChunkId, u32)>,
    /// Stored bytes whose chunk's first place in the order has not come yet.
    ready: HashMap<ChunkId, Stored>,
    placed: HashMap<ChunkId, u32>,
    known_packs: HashMap<PackId, u32>,
    open: Option<(u32, PackBuilder)>,
    /// `None`: being written.
    slots: Vec<Option<PackRecord>>,
    done: Packed,
}

impl Assembler {
    fn new(index: Arc<ChunkIndex>, gate: Arc<Gate>, output: Output) -> Self {
        Self {
            index,
            gate,
            output,
            next: 0,
            waiting: HashMap::new(),
            ready: HashMap::new(),
            placed: HashMap::new(),
            known_packs: HashMap::new(),
            open: None,
            slots: Vec::new(),
            done: Packed::default(),
        }
    }

    fn take(&mut self, outcome: Outcome) -> Result<(), SinkError> {
        if self.gate.failed() {
            return self.fail();
        }
        let Outcome {
            seq,
            id,
            len,
            stored,
        } = outcome;
        if let Some(stored) = stored {
            self.ready.insert(id, stored);
        }
        self.waiting.insert(seq, (id, len));
        while let Some(&(id, len)) = self.waiting.get(&self.next) {
            let Some(chunk) = self.place(id, len)? else {
                break; // another worker still compresses it
            };
            self.waiting.remove(&self.next);
            self.next += 1;
            self.done.seq_to_chunk.push(chunk);
            self.done.stats.chunks += 1;
            self.done.stats.bytes += u64::from(len);
        }
        Ok(())
    }

    /// The position of a chunk in the chunk table, adding it if it is the first of its kind.
    fn place(&mut self, id: ChunkId, len: u32) -> Result<Option<u32>, SinkError> {
        if let Some(chunk) = self.placed.get(&id) {
            return Ok(Some(*chunk));
        }
        let record = if let Some(stored) = self.ready.remove(&id) {
            self.gate.give(len as usize);
            self.store(id, len, &stored)?
        } else if let Some(record) = self.known(&id, len)? {
            self.done.stats.known_bytes += u64::from(len);
            record
        } else {
            return Ok(None);
        };
        let chunk = u32::try_from(self.done.chunks.len()).map_err(|_| SinkError::TooMany)?;
        self.done.chunks.push(record);
        self.placed.insert(id, chunk);
        Ok(Some(chunk))
    }

    fn known(&mut self, id: &ChunkId, len: u32) -> Result<Option<ChunkRecord>, SinkError> {
        let Some(known) = self.index.find(id).filter(|known| known.entry.len == len) else {
            return Ok(None);
        };
        let (record, entry) = (*known.pack, known.entry);
        let pack = if let Some(slot) = self.known_packs.get(&record.id) {
            *slot
        } else {
            let slot = new_slot(&mut self.slots, Some(record))?;
            self.known_packs.insert(record.id, slot);
            slot
        };
        let (offset, stored_len, codec) = (entry.offset, entry.stored_len, entry.codec);
        Ok(Some(ChunkRecord {
            id: *id,
            pack,
            offset,
            stored_len,
            len,
            codec,
        }))
    }

    fn store(&mut self, id: ChunkId, len: u32, stored: &Stored) -> Result<ChunkRecord, SinkError> {
        if self.open.is_none() {
            self.open = Some((new_slot(&mut self.slots, None)?, PackBuilder::default()));
        }
        let (pack, builder) = self.open.as_mut().expect("just opened");
        let pack = *pack;
        let entry = builder.push(id, &stored.bytes, len, stored.codec);
        let full = builder.is_full();
        let stats = &mut self.done.stats;
        stats.new_chunks += 1;
        stats.new_bytes += u64::from(len);
        stats.stored_bytes += u64::from(entry.stored_len);
        if full {
            self.seal()?;
        }
        let (offset, stored_len, codec) = (entry.offset, entry.stored_len, entry.codec);
        Ok(ChunkRecord {
            id,
            pack,
            offset,
            stored_len,
            len,
            codec,
        })
    }

    fn seal(&mut self) -> Result<(), SinkError> {
        if let Some((slot, pack)) = self.open.take() {
            self.output.write(slot, pack)?;
        }
        Ok(())
    }

    /// Why the gate failed is known to the uploads, if it was them.
    fn fail(&mut self) -> Result<(), SinkError> {
        match &mut self.output {
            Output::Uploads(uploads) => Err(uploads.failure()),
            Output::Embedded(_) => Err(SinkError::Aborted),
        }
    }

    fn finish(mut self) -> Result<Packed, SinkError> {
        if self.gate.failed() || !self.waiting.is_empty() {
            self.fail()?;
        }
        self.seal()?;
        let referenced: Vec<PackRecord> = self.slots.iter().flatten().copied().collect();
        let written = self.output.finish(&referenced)?;
        self.done.stats.new_packs = written.len() as u64;
        for (slot, record) in written {
            self.slots[slot as usize] = Some(record);
        }
        self.done.packs = self.slots.into_iter().flatten().collect();
        Ok(self.done)
    }
}

fn new_slot(
    slots: &mut Vec<Option<PackRecord>>,
    record: Option<PackRecord>,
) -> Result<u32, SinkError> {
    let slot = u32::try_from(slots.len()).map_err(|_| SinkError::TooMany)?;
    slots.push(record);
    Ok(slot)
}
