//! What a run changed, as a tar.gz that is made while it is sent: nothing of it is kept, and who does not read is
//! waited for.

use std::io::{self, Write};
use std::sync::Arc;

use lamina_mount::union::scratch::Scratch;
use lamina_proto::afsletpb::execute_response::Payload;
use lamina_proto::afsletpb::{Done, TarChunk, TarHeader};
use lamina_runtime::IdRange;
use lamina_runtime::diff::gzip::GzipWriter;
use lamina_runtime::diff::{self, Packed};
use lamina_runtime::network_files::NETWORK_FILES;
use tokio::sync::mpsc;

use crate::error::RunError;
use crate::outlet::Outlet;

/// Bytes of one frame.
const CHUNK: usize = 256 << 10;
/// Frames between who packs and who sends.
pub(crate) const AHEAD: usize = 2;
/// What the archive is called.
const NAME: &str = "diff.tar.gz";

/// Packs and sends; what to end the stream with.
///
/// # Errors
/// When the client is gone or does not read, or the changes cannot be read.
pub(crate) async fn send(
    root: Arc<Scratch>,
    ids: IdRange,
    host_network: bool,
    outlet: &Outlet,
) -> Result<Done, RunError> {
    let header = TarHeader {
        name: NAME.to_owned(),
    };
    outlet.send(Payload::TarHeader(header)).await?;
    let (sender, mut chunks) = mpsc::channel(AHEAD);
    let packing =
        tokio::task::spawn_blocking(move || pack(&root, ids, host_network, Chunks::new(sender)));
    let mut diff_bytes = 0;
    let mut sent = Ok(());
    while let Some(data) = chunks.recv().await {
        diff_bytes += data.len() as u64;
        sent = outlet.send(Payload::TarChunk(TarChunk { data })).await;
        if sent.is_err() {
            // Who packs sees it, and stops.
            break;
        }
    }
    drop(chunks);
    let packed = packing.await;
    sent?;
    let packed = packed.map_err(|error| RunError::internal("pack the changes", &error))?;
    let packed = packed.map_err(|error| RunError::internal("pack the changes", &*error))?;
    Ok(Done {
        diff_bytes: signed(diff_bytes),
        ..left_out(packed)
    })
}

/// What cannot be in a layer.
pub(crate) fn left_out(packed: Packed) -> Done {
    Done {
        diff_bytes: 0,
        left_out: signed(packed.left_out),
        left_out_names: packed.left_out_names,
    }
}

/// Packs for somebody who is not the client: the plain tar in pieces, and an empty piece once all of it was packed.
///
/// # Errors
/// When the changes cannot be read; `CANCELLED` when nobody takes them any more.
pub(crate) async fn hand_over(
    root: Arc<Scratch>,
    ids: IdRange,
    host_network: bool,
    pieces: mpsc::Sender<Vec<u8>>,
) -> Result<Packed, RunError> {
    let work = move || {
        let out = Chunks::new(pieces.clone());
        let (out, packed) = pack_plain(&root, ids, host_network, out)?;
        out.finish()?;
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        pieces.blocking_send(Vec::new()).map_err(gone)?;
        Ok::<_, Fault>(packed)
    };
    let packed = tokio::task::spawn_blocking(work).await;
    let packed = packed.map_err(|error| RunError::internal("pack the changes", &error))?;
    packed.map_err(|error| match nobody_takes(&*error) {
        true => RunError::cancelled(),
        false => RunError::internal("pack the changes", &*error),
    })
}

fn nobody_takes(error: &(dyn std::error::Error + 'static)) -> bool {
    let chain = std::iter::successors(Some(error), |error| error.source());
    let mut causes = chain.filter_map(|error| error.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

fn pack(root: &Scratch, ids: IdRange, host_network: bool, out: Chunks) -> Result<Packed, Fault> {
    let gzip = GzipWriter::new(out);
    let (gzip, packed) = pack_plain(root, ids, host_network, gzip)?;
    gzip.finish()?.finish()?;
    Ok(packed)
}

fn pack_plain<W: Write>(
    root: &Scratch,
    ids: IdRange,
    host_network: bool,
    out: W,
) -> Result<(W, Packed), Fault> {
    let mut made = root.not_in_image(&diff::MOUNT_POINTS)?;
    if host_network {
        made.extend(NETWORK_FILES.map(|path| path.trim_start_matches('/')));
    }
    Ok(diff::pack(root.changes(), root.image(), ids, &made, out)?)
}

/// Collects frames and hands them over; waits while there are enough.
struct Chunks {
    sender: mpsc::Sender<Vec<u8>>,
    chunk: Vec<u8>,
}

impl Chunks {
    fn new(sender: mpsc::Sender<Vec<u8>>) -> Self {
        Self {
            sender,
            chunk: Vec::new(),
        }
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let chunk = std::mem::take(&mut self.chunk);
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.sender.blocking_send(chunk).map_err(gone)
    }

    fn finish(mut self) -> io::Result<()> {
        match self.chunk.is_empty() {
            true => Ok(()),
            false => self.hand_over(),
        }
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..length]);
        if self.chunk.len() == CHUNK {
            self.hand_over()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_whole_and_the_last_one_is_what_is_left() {
        let (sender, mut chunks) = mpsc::channel(10);
        let mut out = Chunks::new(sender);
        out.write_all(&vec![1; CHUNK + 5]).unwrap();
        out.write_all(&vec![1; CHUNK]).unwrap();
        out.finish().unwrap();
        let mut sizes = Vec::new();
        while let Some(chunk) = chunks.blocking_recv() {
            sizes.push(chunk.len());
        }
        assert_eq!(sizes, [CHUNK, CHUNK, 5]);
    }

    #[test]
    fn who_packs_for_nobody_stops() {
        let (sender, chunks) = mpsc::channel(1);
        drop(chunks);
        let mut out = Chunks::new(sender);
        let stopped = out.write_all(&vec![1; CHUNK]).unwrap_err();
        assert_eq!(stopped.kind(), io::ErrorKind::BrokenPipe);
    }
}
