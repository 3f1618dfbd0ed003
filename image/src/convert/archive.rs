//! One tar from a web server -> a flist, as an image of one layer would give, without an image config.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use lamina_flist::{FlistDigest, FlistMeta, LayerOrigin, Provenance, Sha256Digest};
use lamina_store::PackTarget;
use tokio::runtime::Handle;

use super::layer::{Streamed, Work};
use super::stream::Expected;
use super::{
    CancelOnDrop, ConvertError, ConvertOptions, LayerFailure, PackPlace, assemble, combine,
};
use crate::progress::Progress;
use crate::registry::{Download, download};
use crate::source::SourceError;

/// A tar, plain or compressed with gzip or zstd.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Where: http or https.
    pub url: String,
    /// Digest of its bytes; `None` is not checked.
    pub sha256: Option<Sha256Digest>,
}

/// A converted archive.
#[derive(Debug)]
pub struct ConvertedArchive {
    /// The flist's bytes.
    pub flist: Vec<u8>,
    /// Its digest.
    pub digest: FlistDigest,
    /// Digest of the archive's bytes.
    pub sha256: Sha256Digest,
    /// The archive's bytes.
    pub size: u64,
}

/// Converts an archive while it is downloaded.
///
/// # Errors
/// When it cannot be had, is not what its digest says, is over the limits, or cannot be stored.
pub async fn convert_archive(
    archive: &Archive,
    place: &PackPlace,
    options: &ConvertOptions,
    progress: Arc<dyn Progress>,
) -> Result<ConvertedArchive, ConvertError> {
    let stores = place.stores.clone().ok_or(ConvertError::NoTarget)?;
    let (handle, max) = (Handle::current(), options.limits.layer_bytes_max);
    let begun = download(&archive.url, max, &options.registry, &handle).await;
    let Download { reader, len, shown } = begun.map_err(SourceError::from)?;
    progress.layers(&[len.unwrap_or(0)]);
    let guard = CancelOnDrop(Arc::new(AtomicBool::new(false)));
    let work = Work {
        options: options.clone(),
        progress,
        handle,
        cancel: Arc::clone(&guard.0),
    };
    let expected = Expected {
        size: len,
        size_max: max,
        digest: archive.sha256,
        diff_id: None,
    };
    let index = Arc::clone(&place.index);
    let input = Box::new(reader);
    let done = tokio::task::spawn_blocking(move || {
        let done = work.run(0, input, expected, PackTarget::Stores(stores), index)?;
        work.progress.layer_done(0, false);
        Ok::<_, LayerFailure>(done)
    });
    let done = done.await.unwrap_or(Err(LayerFailure::Cancelled));
    let done = done.map_err(|source| ConvertError::Archive {
        url: shown.clone(),
        source,
    })?;
    let options = options.clone();
    tokio::task::spawn_blocking(move || build(shown, done, &options))
        .await
        .map_err(|_| ConvertError::Cancelled)?
}

fn build(
    url: String,
    done: Streamed,
    options: &ConvertOptions,
) -> Result<ConvertedArchive, ConvertError> {
    let Streamed { placed, seen, .. } = done;
    let sha256 = seen.digest.expect("an archive is hashed");
    let combined = combine::combine(vec![placed]);
    let mut provenance = Provenance::default();
    if options.provenance {
        provenance.source = Some(url);
        provenance.layers = vec![LayerOrigin {
            digest: sha256,
            diff_id: Some(seen.diff_id),
            blob: combined.blob_ids[0],
        }];
    }
    let meta = FlistMeta {
        stores: options.store_urls.clone(),
        tags: options.tags.clone(),
        provenance,
        ..FlistMeta::default()
    };
    let flist = assemble(combined, meta, options.profile)?;
    Ok(ConvertedArchive {
        digest: flist.digest,
        flist: flist.bytes,
        sha256,
        size: seen.size,
    })
}
