//! File bytes -> chunks, in order, with a record of which file has which.
//!
//! Owns the splitter and the numbering of chunks. A file's chunks have
//! consecutive numbers, so a range of them describes a run of bytes.

use std::ops::Range;

use lamina_flist::{BLOCK, INLINE_MAX, Splitter};

use super::LayerError;

/// Takes chunks in order. Blocks while it is full: memory stays bounded.
pub trait ChunkSink {
    /// Takes the next chunk; numbers count from 0.
    ///
    /// # Errors
    /// When chunks cannot be stored any more.
    fn push(&mut self, chunk: Vec<u8>) -> Result<(), BoxError>;
}

/// Why a sink takes no more.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Keeps chunks in memory: for tests and for looking into a layer.
#[derive(Debug, Default)]
pub struct MemorySink {
    /// The chunks in order.
    pub chunks: Vec<Vec<u8>>,
}

impl ChunkSink for MemorySink {
    fn push(&mut self, chunk: Vec<u8>) -> Result<(), BoxError> {
        self.chunks.push(chunk);
        Ok(())
    }
}

/// Where a file's bytes went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pending {
    /// They are few, and here.
    Inline(Vec<u8>),
    /// In these chunks.
    Dense(Range<u32>),
    /// In runs of chunks, each starting on a page.
    Sparse(Vec<(u64, Range<u32>)>),
}

/// Writes one file after the other into a sink.
pub(crate) struct ContentWriter<'a, S: ?Sized> {
    sink: &'a mut S,
    splitter: Splitter,
    /// Plain length of every chunk so far.
    lens: Vec<u32>,
    run_start: u32,
}

impl<'a, S: ChunkSink + ?Sized> ContentWriter<'a, S> {
    pub(crate) fn new(sink: &'a mut S) -> Self {
        Self {
            sink,
            splitter: Splitter::new(),
            lens: Vec::new(),
            run_start: 0,
        }
    }

    /// Bytes of the current run.
    pub(crate) fn write(&mut self, data: &[u8]) -> Result<(), LayerError> {
        let Self {
            sink,
            splitter,
            lens,
            ..
        } = self;
        let mut failed = None;
        splitter.push(data, |chunk| emit(*sink, lens, &mut failed, chunk));
        failed.map_or(Ok(()), |e| Err(LayerError::Sink(e)))
    }

    /// Ends the run; gives its chunks.
    pub(crate) fn end_run(&mut self) -> Result<Range<u32>, LayerError> {
        let Self {
            sink,
            splitter,
            lens,
            ..
        } = self;
        let mut failed = None;
        splitter.finish(|chunk| emit(*sink, lens, &mut failed, chunk));
        if let Some(e) = failed {
            return Err(LayerError::Sink(e));
        }
        let end = self.lens.len() as u32;
        Ok(std::mem::replace(&mut self.run_start, end)..end)
    }

    /// Plain length of every chunk written.
    pub(crate) fn into_lens(self) -> Vec<u32> {
        self.lens
    }
}

fn emit<S: ChunkSink + ?Sized>(
    sink: &mut S,
    lens: &mut Vec<u32>,
    failed: &mut Option<BoxError>,
    chunk: &[u8],
) {
    if failed.is_some() {
        return;
    }
    match sink.push(chunk.to_vec()) {
        Ok(()) => lens.push(chunk.len() as u32),
        Err(e) => *failed = Some(e),
    }
}

/// Builds one file from the pieces of it that a source stores.
pub(crate) struct FileWriter<'w, 'a, S: ?Sized> {
    out: &'w mut ContentWriter<'a, S>,
    size: u64,
    inline: Option<Vec<u8>>,
    runs: Vec<(u64, Range<u32>)>,
    /// Start of the open run, and where its bytes end.
    open: Option<(u64, u64)>,
}

impl<'w, 'a, S: ChunkSink + ?Sized> FileWriter<'w, 'a, S> {
    /// A file of `size` bytes, all zero until written.
    pub(crate) fn new(out: &'w mut ContentWriter<'a, S>, size: u64) -> Self {
        let inline = (size <= INLINE_MAX).then(|| vec![0; size as usize]);
        Self {
            out,
            size,
            inline,
            runs: Vec::new(),
            open: None,
        }
    }

    /// Bytes at `offset`; offsets only grow, and end inside the file.
    pub(crate) fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), LayerError> {
        if let Some(inline) = &mut self.inline {
            inline[offset as usize..][..data.len()].copy_from_slice(data);
            return Ok(());
        }
        let start = offset / BLOCK * BLOCK;
        match self.open {
            Some((_, end)) if start <= end.next_multiple_of(BLOCK) => {
                self.zeros(offset - end)?;
            }
            _ => {
                self.close()?;
                self.open = Some((start, start));
                self.zeros(offset - start)?;
            }
        }
        self.out.write(data)?;
        self.advance(data.len() as u64);
        Ok(())
    }

    /// Fills less than two pages.
    fn zeros(&mut self, count: u64) -> Result<(), LayerError> {
        self.out.write(&[0; 2 * BLOCK as usize][..count as usize])?;
        self.advance(count);
        Ok(())
    }

    fn advance(&mut self, count: u64) {
        let (_, end) = self.open.as_mut().expect("a run is open");
        *end += count;
    }

    fn close(&mut self) -> Result<(), LayerError> {
        if let Some((start, _)) = self.open.take() {
            self.runs.push((start, self.out.end_run()?));
        }
        Ok(())
    }

    /// Ends the file.
    pub(crate) fn finish(mut self) -> Result<Pending, LayerError> {
        let whole = self
            .open
            .is_some_and(|(start, end)| start == 0 && end == self.size);
        self.close()?;
        if let Some(inline) = self.inline {
            return Ok(Pending::Inline(inline));
        }
        if whole && self.runs.len() == 1 {
            return Ok(Pending::Dense(self.runs[0].1.clone()));
        }
        Ok(Pending::Sparse(self.runs))
    }
}
