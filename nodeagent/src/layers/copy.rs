//! A whole layer from another node, checked before it is ours.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lamina_discovery::choose::Outcome;
use lamina_flist::{Flist, PackId, Sha256Digest};
use lamina_image::Limits;
use lamina_image::convert::{LayerRecord, Room as _};
use lamina_proto::layerstore::v1::layer_store_client::LayerStoreClient;
use lamina_proto::layerstore::v1::{ReadLayerRequest, StatLayerRequest};
use lamina_store::open_flist;
use tonic::transport::Channel;

use super::peers::PeerError;
use super::reservation::Reservation;
use super::shelf::{HeldLayer, LayerShelf};
use super::{EnsureError, disk};

/// For an answer that needs no work.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// Between two pieces.
pub(super) const STALL: Duration = Duration::from_secs(10);
/// A peer that sends less, for longer than [`SLOW_AFTER`], is as good as none.
const BYTES_PER_S_MIN: u64 = 256 << 10;
const SLOW_AFTER: Duration = Duration::from_secs(10);

/// What is known of a layer before anybody is asked for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    /// Bytes of it in the registry.
    compressed: u64,
    /// Most bytes of its file.
    file_max: u64,
}

impl Expected {
    /// Of a layer that has so many bytes in the registry.
    pub(super) fn of(compressed: u64, limits: &Limits) -> Self {
        let unpacked_max = compressed
            .saturating_mul(limits.ratio_max)
            .max(limits.ratio_floor_bytes)
            .min(limits.unpacked_bytes_max);
        Self {
            compressed,
            // As much again for what is said about its files.
            file_max: unpacked_max.saturating_mul(2),
        }
    }
}

/// Copies a layer. What fails here, and not there, is the inner error: no other peer would help.
pub(super) async fn layer(
    shelf: &LayerShelf,
    digest: Sha256Digest,
    expected: Expected,
    channel: Channel,
) -> Result<Result<HeldLayer, EnsureError>, PeerError> {
    let bytes = size(&digest, channel.clone()).await?;
    if bytes > expected.file_max {
        let text = format!("it says {bytes} bytes, which the layer cannot have");
        return Err(PeerError::new(Outcome::Wrong, text));
    }
    let what = format!("copy the layer {digest} from another node");
    // No more than a pull would: other layers do not go for a number that a peer says, but for bytes that came.
    let room = match shelf.reserve(bytes.min(expected.compressed)) {
        Ok(room) => room,
        Err(error) => return Ok(Err(EnsureError::room(what, error))),
    };
    let part = match Part::new(shelf, &digest) {
        Ok(part) => part,
        Err(error) => return Ok(Err(EnsureError::disk(what, error))),
    };
    let part = match fetch(&digest, bytes, channel, part, &room).await {
        Ok(part) => part,
        Err(Trouble::Peer(error)) => return Err(error),
        Err(Trouble::Disk(error)) => return Ok(Err(EnsureError::disk(what, error))),
    };
    let shelf = shelf.clone();
    let kept = tokio::task::spawn_blocking(move || keep(&shelf, &digest, part, &room)).await;
    match kept {
        Ok(Ok(held)) => Ok(Ok(held)),
        Ok(Err(Trouble::Peer(error))) => Err(error),
        Ok(Err(Trouble::Disk(error))) => Ok(Err(EnsureError::disk(what, error))),
        Err(_) => Err(PeerError::new(Outcome::Dropped, "the work was cut off")),
    }
}

enum Trouble {
    Peer(PeerError),
    Disk(std::io::Error),
}

/// More came than there is room for. That may be the peer's doing, which sends too much, or nobody's: others are asked,
/// and the registry.
fn no_room(error: &std::io::Error) -> Trouble {
    Trouble::Peer(PeerError::new(Outcome::Dropped, crate::chain(error)))
}

/// How large a layer is there.
async fn size(digest: &Sha256Digest, channel: Channel) -> Result<u64, PeerError> {
    let request = StatLayerRequest {
        digest: digest.to_string(),
    };
    let mut client = LayerStoreClient::new(channel);
    let asked = tokio::time::timeout(ASK_DEADLINE, client.stat_layer(request));
    let said = asked.await.map_err(|_| PeerError::late(ASK_DEADLINE))??;
    let bytes = u64::try_from(said.into_inner().afs_size).ok();
    let bytes = bytes.filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| PeerError::new(Outcome::Wrong, "it says a size that is none"))
}

async fn fetch(
    digest: &Sha256Digest,
    bytes: u64,
    channel: Channel,
    mut part: Part,
    room: &Reservation,
) -> Result<Part, Trouble> {
    let request = ReadLayerRequest {
        digest: digest.to_string(),
        offset: 0,
        length: 0,
    };
    let mut client = LayerStoreClient::new(channel);
    let late = || Trouble::Peer(PeerError::late(STALL));
    let begun = tokio::time::timeout(STALL, client.read_layer_stream(request)).await;
    let mut pieces = begun
        .map_err(|_| late())?
        .map_err(|status| Trouble::Peer(status.into()))?
        .into_inner();
    let (began, mut have) = (Instant::now(), 0);
    loop {
        let piece = tokio::time::timeout(STALL, pieces.message()).await;
        let piece = piece.map_err(|_| late())?;
        let piece = piece.map_err(|status| Trouble::Peer(status.into()))?;
        let Some(piece) = piece else {
            let text = format!("it ended at byte {have} of {bytes}");
            return Err(Trouble::Peer(PeerError::new(Outcome::Failed, text)));
        };
        let is_next = u64::try_from(piece.offset) == Ok(have);
        have += piece.data.len() as u64;
        if !is_next || have > bytes {
            let text = "it sent other pieces than asked for";
            return Err(Trouble::Peer(PeerError::new(Outcome::Wrong, text)));
        }
        room.take(piece.data.len() as u64)
            .map_err(|error| no_room(&error))?;
        part = part.write(piece.data).await.map_err(Trouble::Disk)?;
        if piece.eof && have == bytes {
            return Ok(part);
        }
        check_speed(have, began.elapsed()).map_err(Trouble::Peer)?;
    }
}

/// Pieces that come, but so slowly that they never end.
pub(super) fn check_speed(bytes: u64, took: Duration) -> Result<(), PeerError> {
    if took > SLOW_AFTER && bytes < BYTES_PER_S_MIN * took.as_secs() {
        let text = format!("it sent {bytes} bytes in {took:?}");
        return Err(PeerError::new(Outcome::Failed, text));
    }
    Ok(())
}

/// Checks all of a layer, and puts it on the shelf.
fn keep(
    shelf: &LayerShelf,
    digest: &Sha256Digest,
    part: Part,
    room: &Reservation,
) -> Result<HeldLayer, Trouble> {
    let wrong = |error: &dyn std::error::Error| Trouble::Peer(PeerError::wrong(error));
    let other = |text: &str| Trouble::Peer(PeerError::new(Outcome::Wrong, text));
    let flist = open_flist(&part.path).map_err(|error| wrong(&error))?;
    flist.verify_sections().map_err(|error| wrong(&error))?;
    let record = LayerRecord::of_flist(&flist).map_err(|error| wrong(&error))?;
    if record.origin().digest != *digest {
        return Err(other("it sent another layer"));
    }
    if !packs_are_sound(&flist) {
        return Err(other("its packs are not what they are called"));
    }
    let bytes = flist.as_bytes().len() as u64;
    drop(flist);
    let record = record.to_bytes().map_err(|error| wrong(&error))?;
    let files = shelf.files(std::sync::Arc::new(lamina_image::convert::AllRoom));
    room.take(record.len() as u64)
        .map_err(|error| no_room(&error))?;
    let written = disk::write(&files.record(digest), &record);
    written.map_err(Trouble::Disk)?;
    part.persist(&files.file(digest)).map_err(|error| {
        shelf.clear(digest);
        Trouble::Disk(error)
    })?;
    Ok(shelf.land(digest, (bytes, record.len() as u64), room))
}

fn packs_are_sound(flist: &Flist) -> bool {
    let packs = flist.embedded_packs().unwrap_or_default();
    let mut all = flist.packs();
    all.all(|pack| {
        let range = pack.embedded_at.and_then(|at| {
            let start = usize::try_from(at).ok()?;
            Some(start..start.checked_add(usize::try_from(pack.len).ok()?)?)
        });
        let bytes = range.and_then(|range| packs.get(range));
        bytes.is_some_and(|bytes| PackId::of(bytes) == pack.id)
    })
}

/// A file that is being written; gone unless it is kept.
struct Part {
    path: PathBuf,
    file: Option<File>,
    kept: bool,
}

impl Part {
    fn new(shelf: &LayerShelf, digest: &Sha256Digest) -> std::io::Result<Self> {
        let files = shelf.files(std::sync::Arc::new(lamina_image::convert::AllRoom));
        let (path, file) = disk::part_of(&files.file(digest))?;
        Ok(Self {
            path,
            file: Some(file),
            kept: false,
        })
    }

    /// Appends, on a thread.
    async fn write(self, bytes: Bytes) -> std::io::Result<Self> {
        let mut part = self;
        let written = tokio::task::spawn_blocking(move || {
            if let Some(file) = &mut part.file {
                file.write_all(&bytes)?;
            }
            Ok(part)
        });
        written
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }

    fn persist(mut self, path: &Path) -> std::io::Result<()> {
        if let Some(file) = self.file.take() {
            disk::mark_copy(&file)?;
            file.sync_all()?;
        }
        std::fs::rename(&self.path, path)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_has_no_more_bytes_than_a_conversion_would_give() {
        let limits = Limits {
            ratio_max: 10,
            ratio_floor_bytes: 1000,
            unpacked_bytes_max: 5000,
            ..Limits::default()
        };
        let most = |compressed| Expected::of(compressed, &limits).file_max;
        assert_eq!([1, 300, 1 << 60].map(most), [2000, 6000, 10_000]);
    }
}
