//! One layer of an image -> a file of its own, self-contained, without stores.
//!
//! ```text
//! <dir>/<sha256 of the layer at its source>.afslyr   tree, tables and packs
//! <dir>/<the same>.rec                               its record: the same without packs
//! ```
//! The result depends on the layer alone, so that every node that converts it has the same bytes. Each file appears
//! under its name only when complete and checked, the record first; what is under any other name was being written.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use lamina_flist::Sha256Digest;
use lamina_store::{ChunkIndex, PackTarget};
use rustix::fs::FallocateFlags;
use tokio::runtime::Handle;

use super::layer::{Streamed, Work};
use super::layer_record::LayerRecord;
use super::record::{self, Embedded};
use super::{CancelOnDrop, ConvertError, ConvertOptions, LayerFailure, RecordError};
use crate::progress::Progress;
use crate::source::{SourceImage, SourceLayer};

/// Of the packs, what is on the disk twice while they move behind the layer's head.
const MOVE_BYTES: u64 = 32 << 20;

/// Who says whether a layer may take more of the disk.
pub trait Room: Send + Sync {
    /// Takes `bytes` more before they are written.
    ///
    /// # Errors
    /// When there is no room for them: `StorageFull` or `QuotaExceeded`.
    fn take(&self, bytes: u64) -> io::Result<()>;
}

/// As much as the disk has.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllRoom;

impl Room for AllRoom {
    fn take(&self, _bytes: u64) -> io::Result<()> {
        Ok(())
    }
}

/// A directory of layer files.
#[derive(Clone)]
pub struct LayerDir {
    dir: PathBuf,
    room: Arc<dyn Room>,
}

impl LayerDir {
    /// The layers in `dir`, which is made when needed.
    pub fn new(dir: impl Into<PathBuf>, room: Arc<dyn Room>) -> Self {
        let dir = dir.into();
        Self { dir, room }
    }

    /// Where a layer's file is.
    pub fn file(&self, layer: &Sha256Digest) -> PathBuf {
        self.path(layer, "afslyr")
    }

    /// Where a layer's record is.
    pub fn record(&self, layer: &Sha256Digest) -> PathBuf {
        self.path(layer, "rec")
    }

    fn path(&self, layer: &Sha256Digest, extension: &str) -> PathBuf {
        let name = hex::encode(layer.as_bytes());
        self.dir.join(format!("{name}.{extension}"))
    }
}

/// A layer on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFile {
    /// Its digest at its source; its diff id where that has none.
    pub digest: Sha256Digest,
    /// The layer.
    pub file: PathBuf,
    /// Bytes of it.
    pub bytes: u64,
    /// Its record.
    pub record: PathBuf,
    /// Bytes of that.
    pub record_bytes: u64,
}

/// Converts layer `index` of `image` to a file in `layers`, replacing one that is there. Ends with its caller: what
/// is dropped leaves nothing.
///
/// # Errors
/// When the layer cannot be had, is not what the image says, or there is no room for it.
pub async fn convert_layer(
    image: &Arc<SourceImage>,
    index: usize,
    layers: &LayerDir,
    options: &ConvertOptions,
    progress: Arc<dyn Progress>,
) -> Result<LayerFile, ConvertError> {
    let guard = CancelOnDrop(Arc::new(AtomicBool::new(false)));
    let job = FileJob {
        image: Arc::clone(image),
        index,
        layers: layers.clone(),
        work: Work {
            options: options.clone(),
            progress,
            handle: Handle::current(),
            cancel: Arc::clone(&guard.0),
        },
    };
    let done = tokio::task::spawn_blocking(move || job.run()).await;
    done.unwrap_or(Err(LayerFailure::Cancelled))
        .map_err(|source| ConvertError::Layer {
            index,
            diff_id: image.layers[index].diff_id,
            source,
        })
}

struct FileJob {
    image: Arc<SourceImage>,
    index: usize,
    layers: LayerDir,
    work: Work,
}

impl FileJob {
    fn run(&self) -> Result<LayerFile, LayerFailure> {
        let layer = &self.image.layers[self.index];
        let digest = layer.digest.unwrap_or(layer.diff_id);
        let path = self.layers.file(&digest);
        let failed = |source| RecordError::Write {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(&self.layers.dir).map_err(failed)?;
        let mut packs = tempfile::tempfile_in(&self.layers.dir).map_err(failed)?;
        let done = self.stream(layer, packs.try_clone().map_err(failed)?)?;
        let record = LayerRecord::of(done.placed, digest, Some(layer.diff_id));
        let record_path = self.layers.record(&digest);
        let record_bytes = self.write_record(&record, &record_path)?;
        let bytes = self.write_file(&record, &path, &mut packs)?;
        self.work.progress.layer_done(self.index, false);
        Ok(LayerFile {
            digest,
            file: path,
            bytes,
            record: record_path,
            record_bytes,
        })
    }

    fn stream(&self, layer: &SourceLayer, packs: File) -> Result<Streamed, LayerFailure> {
        let image = &self.image;
        let input = image.open_layer(self.index, &self.work.handle);
        let input = input.map_err(LayerFailure::Open)?;
        let packs = Metered {
            file: packs,
            room: Arc::clone(&self.layers.room),
        };
        let target = PackTarget::Embedded(Box::new(io::BufWriter::with_capacity(1 << 20, packs)));
        let none = Arc::new(ChunkIndex::empty());
        self.work.run(self.index, input, layer.into(), target, none)
    }

    fn write_record(&self, record: &LayerRecord, path: &Path) -> Result<u64, RecordError> {
        let head = record.head(path, None)?;
        self.take(head.bytes.len() + head.tail.len(), path)?;
        record::write_head(path, &head, |_| Ok(()))
    }

    fn write_file(
        &self,
        record: &LayerRecord,
        path: &Path,
        packs: &mut File,
    ) -> Result<u64, RecordError> {
        let embedded = Embedded::measure(packs).map_err(|source| RecordError::Write {
            path: path.to_owned(),
            source,
        })?;
        let head = record.head(path, Some(embedded.packs()))?;
        self.take(head.bytes.len() + head.tail.len(), path)?;
        record::write_head(path, &head, |file| move_all(packs, file))
    }

    fn take(&self, bytes: usize, path: &Path) -> Result<(), RecordError> {
        let taken = self.layers.room.take(bytes as u64);
        taken.map_err(|source| RecordError::Write {
            path: path.to_owned(),
            source,
        })
    }
}

/// Asks for room before it writes.
struct Metered {
    file: File,
    room: Arc<dyn Room>,
}

impl Write for Metered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room.take(bytes.len() as u64)?;
        // All of it: what was taken is what is written.
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Moves everything of `from` behind what is in `to`, giving the disk back on the way.
fn move_all(from: &mut File, to: &mut File) -> io::Result<()> {
    from.seek(SeekFrom::Start(0))?;
    let mut at = 0;
    loop {
        let moved = io::copy(&mut (&*from).take(MOVE_BYTES), to)?;
        if moved == 0 {
            return Ok(());
        }
        // A file system that cannot do it has both for a moment.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _ = rustix::fs::fallocate(&*from, flags, at, moved);
        at += moved;
    }
}
