//! Records of an image's layers, from wherever they are: what its flist is made of, without its data.
//!
//! A record comes from the shelf, from the records kept of layers whose data is elsewhere, from a node that holds the
//! layer, from the home that pulls it for all, and last from a pull of our own. One that comes from a node is checked
//! as any flist before it is kept.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use lamina_discovery::choose::Outcome;
use lamina_flist::Sha256Digest;
use lamina_image::SourceImage;
use lamina_image::convert::LayerRecord;
use lamina_proto::lamina::v1::ReadRecordRequest;
use lamina_proto::lamina::v1::layers_client::LayersClient;
use tonic::transport::Channel;

use super::cluster::Homes;
use super::copy::{STALL, check_speed};
use super::flight::blocking;
use super::home::Home;
use super::layerstore::{Inner, Layerstore, digest_of, sought};
use super::peers::PeerError;
use super::shelf::{HeldLayer, RECORDS};
use super::wanted::WantedImage;
use super::{EnsureError, EnsureErrorKind, disk};

/// Records of one image that are fetched at once.
const RECORDS_AT_ONCE: usize = 8;
/// The largest record: a layer of some millions of files.
const RECORD_MAX: usize = 1 << 30;
/// Bytes of records kept of layers that are elsewhere.
const KEPT_BYTES_MAX: u64 = 1 << 30;
/// Times that a record is looked for, which others may evict before it is read.
const TRIES: usize = 3;

/// Where a record is on disk.
#[derive(Debug, Clone)]
pub(super) struct RecordAt {
    path: PathBuf,
    /// Keeps it, if it is on the shelf.
    _held: Option<HeldLayer>,
}

impl Layerstore {
    /// The records of all layers of an image, lowest first. What it begins goes on when the caller is gone.
    ///
    /// # Errors
    /// What the registry answers when nobody has a layer; `ResourceExhausted` when it does not fit here then.
    pub async fn records(
        &self,
        image: &Arc<SourceImage>,
        wanted: &WantedImage,
        progress: impl Fn(usize),
    ) -> Result<Vec<LayerRecord>, EnsureError> {
        let mut fetching = futures::stream::iter(0..image.layers.len())
            .map(|index| async move { (index, self.record(image, index, wanted).await) })
            .buffer_unordered(RECORDS_AT_ONCE);
        let mut records: Vec<Option<LayerRecord>> = image.layers.iter().map(|_| None).collect();
        while let Some((index, record)) = fetching.next().await {
            records[index] = Some(record?);
            progress(index);
        }
        let all: Option<Vec<LayerRecord>> = records.into_iter().collect();
        all.ok_or_else(|| gone(image, 0))
    }

    async fn record(
        &self,
        image: &Arc<SourceImage>,
        index: usize,
        wanted: &WantedImage,
    ) -> Result<LayerRecord, EnsureError> {
        let digest = digest_of(image, index);
        for _ in 0..TRIES {
            let at = self.inner.record_at(image, index, wanted).await?;
            let read = blocking(move || Ok((LayerRecord::open(&at.path), at))).await?;
            match read {
                (Ok(record), _) if record.origin().digest == digest => return Ok(record),
                (read, at) => {
                    let error = read.err();
                    if let Some(failed) = error.as_ref().and_then(|e| disk::failure(e)) {
                        let what = format!("read {}", at.path.display());
                        return Err(EnsureError::disk(what, failed));
                    }
                    let why = error.map_or_else(String::new, |error| crate::chain(&error));
                    tracing::warn!(path = %at.path.display(), why, "forgetting a record that cannot be used");
                    let _ = disk::remove(&at.path);
                }
            }
        }
        Err(gone(image, index))
    }
}

fn gone(image: &SourceImage, index: usize) -> EnsureError {
    let what = format!(
        "the record of layer {index} of {} goes as often as it comes: call again",
        image.reference
    );
    EnsureError::new(EnsureErrorKind::Aborted, what)
}

impl Inner {
    /// Clears what a killed process left, and what is too much.
    pub(super) fn clear_records(&self) -> Result<(), EnsureError> {
        let dir = self.shelf.sub(RECORDS);
        let cleared = disk::clear(&dir).and_then(|()| self.prune_records());
        cleared.map_err(|error| EnsureError::disk(format!("clear {}", dir.display()), error))
    }

    fn prune_records(&self) -> std::io::Result<()> {
        disk::prune(&self.shelf.sub(RECORDS), usize::MAX, KEPT_BYTES_MAX)
    }

    /// Has a layer's record on disk; one piece of work however many ask.
    async fn record_at(
        self: &Arc<Self>,
        image: &Arc<SourceImage>,
        index: usize,
        wanted: &WantedImage,
    ) -> Result<RecordAt, EnsureError> {
        let digest = digest_of(image, index);
        if let Some(here) = self.record_here(&digest)? {
            return Ok(here);
        }
        let fetch = || {
            let (inner, image, wanted) = (Arc::clone(self), Arc::clone(image), wanted.clone());
            async move { inner.fetch_record(&image, index, &wanted).await }
        };
        self.records.each(&digest.to_string(), fetch).await
    }

    fn record_here(&self, digest: &Sha256Digest) -> Result<Option<RecordAt>, EnsureError> {
        if let Some((_, held)) = self.shelf.record(digest)? {
            let path = held.file.with_extension("rec");
            return Ok(Some(RecordAt {
                path,
                _held: Some(held),
            }));
        }
        let path = self.kept_path(digest);
        Ok(path.exists().then(|| {
            disk::touch(&path);
            RecordAt { path, _held: None }
        }))
    }

    fn kept_path(&self, digest: &Sha256Digest) -> PathBuf {
        let name = hex::encode(digest.as_bytes());
        self.shelf.sub(RECORDS).join(format!("{name}.rec"))
    }

    async fn fetch_record(
        self: &Arc<Self>,
        image: &Arc<SourceImage>,
        index: usize,
        wanted: &WantedImage,
    ) -> Result<RecordAt, EnsureError> {
        let digest = digest_of(image, index);
        if let Some(here) = self.record_here(&digest)? {
            return Ok(here);
        }
        let homes = self.homes(wanted);
        if let Some(bytes) = self.seek_record(image, index, wanted, homes).await {
            return self.keep_record(&digest, bytes).await;
        }
        let failed = match self.pulled(image, index, wanted).await {
            Ok(held) => {
                return Ok(RecordAt {
                    path: held.file.with_extension("rec"),
                    _held: Some(held),
                });
            }
            Err(error) => error,
        };
        // Another node may have room, or reach the registry.
        if homes == Homes::All && is_ours(&failed) {
            let found = self.seek_record(image, index, wanted, Homes::Others);
            if let Some(bytes) = found.await {
                return self.keep_record(&digest, bytes).await;
            }
        }
        Err(failed)
    }

    async fn seek_record(
        &self,
        image: &Arc<SourceImage>,
        index: usize,
        wanted: &WantedImage,
        homes: Homes,
    ) -> Option<Bytes> {
        let digest = digest_of(image, index);
        let home = Home::new(image, index, wanted);
        let (ask, pull) = (
            |channel| read(channel, digest),
            |channel| home.pull(channel),
        );
        let cluster = self.cluster.as_ref()?;
        let found = cluster
            .seek(&sought(image, index, homes), ask, pull)
            .await?;
        self.counts.records.fetch_add(1, Ordering::Relaxed);
        Some(found)
    }

    async fn keep_record(
        self: &Arc<Self>,
        digest: &Sha256Digest,
        bytes: Bytes,
    ) -> Result<RecordAt, EnsureError> {
        let (inner, path) = (Arc::clone(self), self.kept_path(digest));
        blocking(move || {
            let failed = |error| EnsureError::disk(format!("write {}", path.display()), error);
            disk::write(&path, &bytes).map_err(failed)?;
            inner.prune_records().map_err(failed)?;
            Ok(RecordAt { path, _held: None })
        })
        .await
    }
}

/// Whether a pull failed for reasons of this node's.
fn is_ours(error: &EnsureError) -> bool {
    matches!(
        error.kind(),
        EnsureErrorKind::ResourceExhausted
            | EnsureErrorKind::Unavailable
            | EnsureErrorKind::DeadlineExceeded
            | EnsureErrorKind::Internal
    )
}

/// A record from another node, checked as a whole.
async fn read(channel: Channel, digest: Sha256Digest) -> Result<Bytes, PeerError> {
    let request = ReadRecordRequest {
        layer_digest: digest.to_string(),
    };
    let mut client = LayersClient::new(channel);
    let begun = tokio::time::timeout(STALL, client.read_record(request)).await;
    let mut pieces = begun.map_err(|_| PeerError::late(STALL))??.into_inner();
    let (began, mut bytes) = (Instant::now(), BytesMut::new());
    loop {
        let piece = tokio::time::timeout(STALL, pieces.message()).await;
        let Some(piece) = piece.map_err(|_| PeerError::late(STALL))?? else {
            break;
        };
        if bytes.len() + piece.data.len() > RECORD_MAX {
            return Err(PeerError::new(Outcome::Wrong, "its record never ends"));
        }
        bytes.extend_from_slice(&piece.data);
        check_speed(bytes.len() as u64, began.elapsed())?;
    }
    check(bytes.freeze(), digest).await
}

async fn check(bytes: Bytes, digest: Sha256Digest) -> Result<Bytes, PeerError> {
    let checked = tokio::task::spawn_blocking(move || {
        let record = LayerRecord::parse(bytes.clone());
        let record = record.map_err(|error| PeerError::wrong(&error))?;
        match record.origin().digest == digest {
            true => Ok(bytes),
            false => Err(PeerError::new(
                Outcome::Wrong,
                "it sent another layer's record",
            )),
        }
    });
    let cut_off = |_| PeerError::late(Duration::ZERO);
    checked.await.map_err(cut_off)?
}
