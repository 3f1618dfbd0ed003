//! `pack`: a directory becomes a flist and packs in stores.

use super::maintain::parse_tag;
use super::out::Out;
use super::{runtime, stores};
use crate::args;
use crate::output;
use crate::progress::Bar;
use anyhow::{Context, Result};
use lamina_image::convert::PackPlace;
use lamina_image::pack::{PackDirOptions, pack_directory};
use lamina_image::progress::Progress;
use lamina_store::{ChunkIndex, LoadOptions, PackOptions, PackStats, StoreSet};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) fn pack(args: &args::Pack) -> Result<()> {
    let tags = tags(&args.tuning)?;
    let out = Out::new(&args.out)?;
    let (set, specs) = stores::open(&args.store.stores, &args.store.access)?;
    let runtime = runtime()?;
    let place = runtime.block_on(place(&set))?;
    let options = PackDirOptions {
        pack: pack_options(&args.tuning),
        one_file_system: args.one_file_system,
        store_urls: stores::recorded(&specs, args.tuning.keep_credentials),
        tags,
        ..PackDirOptions::default()
    };
    let progress: Arc<dyn Progress> = Arc::new(Shown::new("packing"));
    let packed = pack_directory(&args.dir, &place, &options, &progress, runtime.handle())
        .with_context(|| format!("pack {}", args.dir.display()))?;
    drop(progress);
    finish(&runtime, &set, &out, &packed.flist, args.publish)?;
    output::write_all(summary(&args.out, &packed.digest.to_string(), &[&packed.packed]).as_bytes())
}

/// Where packs go, and what is there already.
pub(crate) async fn place(set: &StoreSet) -> Result<PackPlace> {
    set.check_writable()?;
    let index = ChunkIndex::load(set, &LoadOptions::default())
        .await
        .context("load the stores' indexes")?;
    Ok(PackPlace {
        stores: Some(set.clone()),
        index: Arc::new(index),
    })
}

pub(crate) fn pack_options(tuning: &args::PackTuning) -> PackOptions {
    let defaults = PackOptions::default();
    PackOptions {
        level: tuning.level,
        threads: tuning.threads.unwrap_or(defaults.threads),
    }
}

pub(crate) fn tags(tuning: &args::PackTuning) -> Result<BTreeMap<String, String>> {
    tuning.tags.iter().map(|tag| parse_tag(tag)).collect()
}

/// Writes the flist and, if asked, uploads it beside its packs.
pub(crate) fn finish(
    runtime: &tokio::runtime::Runtime,
    set: &StoreSet,
    out: &Out,
    flist: &[u8],
    publish: bool,
) -> Result<()> {
    out.write(&[flist])?;
    if publish {
        let flist = super::explore::open(out.path())?;
        runtime
            .block_on(lamina_store::publish_flist(set, &flist))
            .with_context(|| format!("publish {}", out.path().display()))?;
    }
    Ok(())
}

/// One line of what came of it.
pub(crate) fn summary(out: &Path, digest: &str, stats: &[&PackStats]) -> String {
    let sum = |of: fn(&PackStats) -> u64| stats.iter().map(|stats| of(stats)).sum::<u64>();
    let (bytes, known, new) = (
        sum(|s| s.bytes),
        sum(|s| s.known_bytes),
        sum(|s| s.new_bytes),
    );
    format!(
        "{} {digest}\n{} of file data, {} in the stores before, {} repeated in it, {} stored\n",
        out.display(),
        output::size(bytes),
        output::size(known),
        output::size(bytes.saturating_sub(known + new)),
        output::size(sum(|s| s.stored_bytes))
    )
}

/// Progress of packing and converting as one bar of bytes.
pub(crate) struct Shown {
    bar: Bar,
    total: Mutex<Option<u64>>,
    done: AtomicU64,
}

impl Shown {
    pub(crate) fn new(what: &str) -> Self {
        Self {
            bar: Bar::bytes(what),
            total: Mutex::new(None),
            done: AtomicU64::new(0),
        }
    }

    fn set_total(&self, total: u64) {
        if let Ok(mut known) = self.total.lock() {
            *known = Some(total);
        }
    }

    fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.bar
            .set(done, self.total.lock().ok().and_then(|total| *total));
    }
}

impl Progress for Shown {
    fn layers(&self, sizes: &[u64]) {
        self.set_total(sizes.iter().sum());
    }

    fn layer_bytes(&self, _index: usize, bytes: u64) {
        self.add(bytes);
    }

    fn total(&self, _entries: u64, bytes: u64) {
        self.set_total(bytes);
    }

    fn advanced(&self, _entries: u64, bytes: u64) {
        self.add(bytes);
    }
}
