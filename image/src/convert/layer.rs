//! One layer, on a thread of its own: stream -> tree and packs -> record.

use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use lamina_flist::PackRecord;
use lamina_store::{ChunkIndex, ObjectKey, PackSink, PackStats, PackTarget, Packed, StoreSet};
use tokio::runtime::Handle;

use super::record::{self, Embedded};
use super::stream::{Expected, LayerStream, Seen};
use super::{ConvertOptions, ConvertedLayer, LayerFailure, PackPlace, RecordError};
use crate::layer::{
    BoxError, ChunkSink, LayerDraft, LayerError, LayerStats, PlacedLayer, place_content,
    place_scans, read_layer,
};
use crate::progress::Progress;
use crate::source::{SourceImage, SourceLayer};

/// Everything a layer thread needs.
#[derive(Clone)]
pub(super) struct LayerJob {
    pub(super) image: Arc<SourceImage>,
    pub(super) place: PackPlace,
    pub(super) work: Work,
}

/// How any tar is packed, a layer's or an archive's.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) options: ConvertOptions,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) handle: Handle,
    pub(super) cancel: Arc<AtomicBool>,
}

/// A tar in packs.
pub(super) struct Streamed {
    pub(super) placed: PlacedLayer,
    pub(super) stats: LayerStats,
    pub(super) packed: PackStats,
    pub(super) seen: Seen,
}

type Outcome = (PlacedLayer, ConvertedLayer);

impl LayerJob {
    /// Converts layer `index`, or finds that it was.
    pub(super) fn run(&self, index: usize) -> Result<Outcome, LayerFailure> {
        let layer = &self.image.layers[index];
        let outcome = match self.reusable(layer)? {
            Some((placed, file)) => (
                placed,
                converted(
                    layer,
                    LayerStats::default(),
                    PackStats::default(),
                    true,
                    file,
                ),
            ),
            None => match &self.work.options.layers_dir {
                None => self.to_stores(index)?,
                Some(dir) => self.to_file(index, dir)?,
            },
        };
        self.work.progress.layer_done(index, outcome.1.reused);
        Ok(outcome)
    }

    /// The layer as an earlier run left it, if all of it is still there.
    fn reusable(
        &self,
        layer: &SourceLayer,
    ) -> Result<Option<(PlacedLayer, Option<PathBuf>)>, LayerFailure> {
        let file = self
            .work
            .options
            .layers_dir
            .as_ref()
            .map(|d| record::layer_path(d, layer));
        let Some(path) = file.clone().or_else(|| self.record_path(layer)) else {
            return Ok(None);
        };
        let Some(placed) = record::read(&path) else {
            return Ok(None);
        };
        if let Some(stores) = &self.place.stores
            && !self.all_there(stores, &placed.packs)?
        {
            return Ok(None);
        }
        Ok(Some((placed, file)))
    }

    fn all_there(&self, stores: &StoreSet, packs: &[PackRecord]) -> Result<bool, LayerFailure> {
        for pack in packs {
            let key = ObjectKey::Pack(pack.id);
            if !self.work.handle.block_on(stores.has(&key, pack.len))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A record stands for a layer *and* how it was packed.
    fn record_path(&self, layer: &SourceLayer) -> Option<PathBuf> {
        let dir = self.work.options.records.as_ref()?;
        Some(record::record_path(
            dir,
            layer,
            self.work.options.pack.level,
        ))
    }

    fn to_stores(&self, index: usize) -> Result<Outcome, LayerFailure> {
        let layer = &self.image.layers[index];
        let stores = self
            .place
            .stores
            .clone()
            .expect("checked when the conversion began");
        let target = PackTarget::Stores(stores);
        let (placed, stats, packed) = self.stream(index, target, Arc::clone(&self.place.index))?;
        if let Some(path) = self.record_path(layer) {
            record::write(&path, &placed, None)?;
        }
        Ok((placed, converted(layer, stats, packed, false, None)))
    }

    /// Packs go into the layer file, which must hold them all, and from there
    /// to the stores.
    fn to_file(&self, index: usize, dir: &Path) -> Result<Outcome, LayerFailure> {
        let layer = &self.image.layers[index];
        let path = record::layer_path(dir, layer);
        let failed = |source| RecordError::Write {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let mut packs = tempfile::tempfile_in(dir).map_err(failed)?;
        let copy = packs.try_clone().map_err(failed)?;
        let target = PackTarget::Embedded(Box::new(io::BufWriter::with_capacity(1 << 20, copy)));
        let index_of_none = Arc::new(ChunkIndex::empty());
        let (placed, stats, packed) = self.stream(index, target, index_of_none)?;
        let embedded = Embedded::measure(&mut packs).map_err(failed)?;
        record::write(&path, &placed, Some(embedded))?;
        if let Some(stores) = &self.place.stores {
            self.upload(stores, &placed.packs, &mut packs, &path)?;
        }
        Ok((placed, converted(layer, stats, packed, false, Some(path))))
    }

    fn upload(
        &self,
        stores: &StoreSet,
        records: &[PackRecord],
        packs: &mut std::fs::File,
        path: &Path,
    ) -> Result<(), LayerFailure> {
        for pack in records {
            let key = ObjectKey::Pack(pack.id);
            if self.work.handle.block_on(stores.has(&key, pack.len))? {
                continue;
            }
            let mut bytes = vec![0; pack.len as usize];
            packs
                .seek(SeekFrom::Start(pack.embedded_at.unwrap_or_default()))
                .and_then(|_| packs.read_exact(&mut bytes))
                .map_err(|source| RecordError::Write {
                    path: path.to_owned(),
                    source,
                })?;
            self.work
                .handle
                .block_on(stores.put(&key, Bytes::from(bytes)))?;
        }
        Ok(())
    }

    fn stream(
        &self,
        index: usize,
        target: PackTarget,
        known: Arc<ChunkIndex>,
    ) -> Result<(PlacedLayer, LayerStats, PackStats), LayerFailure> {
        let layer = &self.image.layers[index];
        let input = self
            .image
            .open_layer(index, &self.work.handle)
            .map_err(LayerFailure::Open)?;
        let done = self.work.run(index, input, layer.into(), target, known)?;
        Ok((done.placed, done.stats, done.packed))
    }
}

impl Work {
    /// Packs the tar in `input`, which must be what is expected.
    pub(super) fn run(
        &self,
        index: usize,
        input: Box<dyn Read + Send>,
        expected: Expected,
        target: PackTarget,
        known: Arc<ChunkIndex>,
    ) -> Result<Streamed, LayerFailure> {
        let input = Box::new(Cancellable {
            input,
            cancel: Arc::clone(&self.cancel),
        });
        let on_bytes = |n| self.progress.layer_bytes(index, n);
        let mut stream = LayerStream::open(input, expected, &self.options.limits, on_bytes)?;
        let sink = PackSink::new(target, known, &self.options.pack, self.handle.clone())?;
        let mut sink = SinkAdapter(sink);
        let mut told = 0;
        let draft = read_layer(
            &mut stream,
            &self.options.limits.tar,
            &mut sink,
            |entries| {
                // Telling costs more than reading a small entry.
                if entries - told >= 1000 {
                    self.progress.advanced(entries - told, 0);
                    told = entries;
                }
            },
        );
        let draft = match draft {
            Ok(draft) => draft,
            Err(error) => return Err(self.why(error, sink, &stream)),
        };
        self.progress.advanced(draft.stats.entries - told, 0);
        let seen = stream.finish()?;
        let packed = sink.0.finish()?;
        place(draft, packed, seen)
    }

    /// The first cause: a sink that takes no more knows it better, and bytes
    /// that are not the layer's explain whatever was wrong with them.
    fn why(&self, error: LayerError, sink: SinkAdapter, stream: &LayerStream<'_>) -> LayerFailure {
        if self.cancel.load(Ordering::Relaxed) {
            return LayerFailure::Cancelled;
        }
        match error {
            LayerError::Sink(_) => match sink.0.finish() {
                Err(cause) => cause.into(),
                Ok(_) => error.into(),
            },
            other => stream
                .blame()
                .map_or_else(|| other.into(), LayerFailure::Stream),
        }
    }
}

fn place(draft: LayerDraft, packed: Packed, seen: Seen) -> Result<Streamed, LayerFailure> {
    let LayerDraft {
        mut tree,
        files,
        scans,
        chunk_lens,
        stats,
    } = draft;
    let blob = place_content(&mut tree, files, &chunk_lens, &packed.seq_to_chunk)?;
    let scans = place_scans(&tree, scans);
    let Packed {
        chunks,
        packs,
        stats: pack_stats,
        ..
    } = packed;
    Ok(Streamed {
        placed: PlacedLayer {
            tree,
            blob,
            chunks,
            packs,
            scans,
        },
        stats,
        packed: pack_stats,
        seen,
    })
}

fn converted(
    layer: &SourceLayer,
    stats: LayerStats,
    packed: PackStats,
    reused: bool,
    file: Option<PathBuf>,
) -> ConvertedLayer {
    ConvertedLayer {
        diff_id: layer.diff_id,
        size: layer.size,
        stats,
        packed,
        reused,
        file,
    }
}

struct SinkAdapter(PackSink);

impl ChunkSink for SinkAdapter {
    fn push(&mut self, chunk: Vec<u8>) -> Result<(), BoxError> {
        self.0.push(chunk).map(|_| ()).map_err(Into::into)
    }
}

/// Ends a stream when the conversion is given up.
struct Cancellable {
    input: Box<dyn Read + Send>,
    cancel: Arc<AtomicBool>,
}

impl Read for Cancellable {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(io::Error::other("cancelled"));
        }
        self.input.read(buf)
    }
}

/// Copies everything from the start of `from`.
pub(super) fn copy_all(from: &mut std::fs::File, to: &mut impl Write) -> io::Result<u64> {
    from.seek(SeekFrom::Start(0))?;
    io::copy(from, to)
}
