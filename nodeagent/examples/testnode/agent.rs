//! An agent without a network: fills blobs from complete copies, slowly.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lamina_flist::BlobId;
use lamina_mount::cache::{BlobFile, CacheDir, Trust};
use lamina_nodeagent::fill::{self, AGENT_SOCKET, FillFailure, FillFailureKind, FillHandler};
use lamina_nodeagent::holder::HolderClient;
use lamina_nodeagent::rundir;

use crate::content::mix;

struct FakeAgent {
    cache: CacheDir,
    /// One file per blob, named by its id, with all its bytes.
    sources: PathBuf,
    delay_ms: Range<u64>,
    open: Mutex<HashMap<BlobId, Arc<Source>>>,
}

struct Source {
    blob: BlobFile,
    bytes: File,
}

pub(crate) fn run(
    run_dir: &Path,
    cache: PathBuf,
    sources: PathBuf,
    delay_ms: Range<u64>,
) -> anyhow::Result<()> {
    let _lock = rundir::lock(run_dir, "agent.lock", Duration::from_secs(30))?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(async {
            let listener = fill::listen(&run_dir.join(AGENT_SOCKET))?;
            let agent = FakeAgent {
                cache: CacheDir::new(cache),
                sources,
                delay_ms,
                open: Mutex::default(),
            };
            HolderClient::connect(run_dir)?.ready("agent")?;
            Ok(fill::serve(listener, Arc::new(agent)).await?)
        })
}

impl FillHandler for FakeAgent {
    async fn fill(
        &self,
        blob: BlobId,
        entries: Range<usize>,
        _limit: Duration,
    ) -> Result<(), FillFailure> {
        let internal = |error: anyhow::Error| {
            FillFailure::new(FillFailureKind::Internal, format!("{error:#}"))
        };
        let source = self.source(&blob).map_err(internal)?;
        let span = self.delay_ms.end.saturating_sub(self.delay_ms.start).max(1);
        let seed = u64::from(std::process::id()) << 32 ^ entries.start as u64;
        tokio::time::sleep(Duration::from_millis(
            self.delay_ms.start + mix(seed) % span,
        ))
        .await;
        tokio::task::spawn_blocking(move || write(&source, entries))
            .await
            .map_err(|error| internal(error.into()))?
            .map_err(internal)
    }
}

impl FakeAgent {
    fn source(&self, id: &BlobId) -> anyhow::Result<Arc<Source>> {
        let mut open = self.open.lock().expect("no panic under the lock");
        if let Some(source) = open.get(id) {
            return Ok(Arc::clone(source));
        }
        let blob = BlobFile::open(&self.cache.blob_dir(id), id, Vec::new, Trust::SameBoot)?;
        let bytes = File::open(self.sources.join(id.to_string()))?;
        let source = Arc::new(Source { blob, bytes });
        open.insert(*id, Arc::clone(&source));
        Ok(source)
    }
}

fn write(source: &Source, entries: Range<usize>) -> anyhow::Result<()> {
    for entry in entries {
        let place = source.blob.map().get(entry);
        let mut plain = vec![0; place.len as usize];
        source.bytes.read_exact_at(&mut plain, place.offset)?;
        source.blob.write_entry(entry, &plain)?;
    }
    Ok(())
}
