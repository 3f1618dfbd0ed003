//! `--commit`: the image with what the command changed over it, as a flist.
//!
//! Everything that can be wrong with its name and its stores is said before the command runs. The data below stays in its
//! stores; the new flist names these, too.

use super::changes::Changes;
use super::source::Found;
use crate::args::run::Run;
use crate::cmd::out::Out;
use crate::cmd::pack::place;
use crate::cmd::{runtime, stores};
use crate::daemon;
use anyhow::{Context, Result, anyhow};
use lamina_flist::Flist;
use lamina_image::convert::{CommitError, CommitOptions, Committed, PackPlace, commit};
use lamina_runtime::diff::{DiffError, Packed};
use lamina_store::url::Place;
use lamina_store::{StoreSet, StoreSpec};
use std::io::{self, BufWriter, PipeReader, PipeWriter, Write as _};

/// How much of the changes is handed over at once.
const PIECE: usize = 256 << 10;

/// A commit that can be made.
pub(super) struct Commit<'a> {
    out: Out,
    base: &'a Flist,
    /// Where new data goes.
    set: StoreSet,
    options: CommitOptions,
}

impl<'a> Commit<'a> {
    /// What `--commit` asks for, if it does.
    pub(super) fn prepare(args: &Run, base: &'a Found) -> Result<Option<Self>> {
        let Some(out) = &args.commit else {
            return Ok(None);
        };
        let failed = || format!("commit to {}", out.display());
        let out = Out::new(out)?;
        let typed = match args.commit_stores.is_empty() {
            true => vec![own_store()?],
            false => args.commit_stores.clone(),
        };
        let (set, specs) = stores::open(&typed, &args.access).with_context(failed)?;
        set.check_writable().with_context(failed)?;
        let options = CommitOptions {
            store_urls: named(base_stores(args, &base.flist)?, &specs),
            ..CommitOptions::default()
        };
        Ok(Some(Self {
            out,
            base: &base.flist,
            set,
            options,
        }))
    }

    /// Makes it. Says nothing: what is written is the command's.
    pub(super) fn write(&self, changes: &Changes<'_>) -> Result<Packed> {
        self.make(changes)
            .with_context(|| format!("commit to {}", self.out.path().display()))
    }

    fn make(&self, changes: &Changes<'_>) -> Result<Packed> {
        let runtime = runtime()?;
        let place = runtime.block_on(place(&self.set))?;
        let (reader, writer) = io::pipe().context("make a pipe")?;
        let (packed, committed) = std::thread::scope(|scope| {
            let packing = scope.spawn(|| pack(changes, writer));
            let committed = self.over_base(reader, &place, runtime.handle());
            (packing.join(), committed)
        });
        let packed = packed.map_err(|_| anyhow!("the thread that packs the changes died"))?;
        let (packed, committed) = match (packed, committed) {
            (Ok(packed), Ok(committed)) => (packed, committed),
            // Who packs notices only that nobody takes it any more.
            (Err(DiffError::Write(_)) | Ok(_), Err(error)) => return Err(error.into()),
            (Err(error), _) => return Err(error.into()),
        };
        self.out.write(&[&committed.flist])?;
        Ok(packed)
    }

    fn over_base(
        &self,
        changes: PipeReader,
        place: &PackPlace,
        handle: &tokio::runtime::Handle,
    ) -> Result<Committed, CommitError> {
        commit(self.base, Box::new(changes), place, &self.options, handle)
    }
}

fn pack(changes: &Changes<'_>, writer: PipeWriter) -> Result<Packed, DiffError> {
    let out = BufWriter::with_capacity(PIECE, writer);
    let (mut out, packed) = changes.pack(out)?;
    out.flush().map_err(DiffError::Write)?;
    Ok(packed)
}

/// Where images that are run have their data, too.
fn own_store() -> Result<String> {
    let store = daemon::state_dir()?.join("store");
    std::fs::create_dir_all(&store).with_context(|| format!("make {}", store.display()))?;
    Ok(format!("dir://{}", store.display()))
}

/// The stores that the data below was read from.
fn base_stores(args: &Run, base: &Flist) -> Result<Vec<StoreSpec>> {
    if !args.stores.is_empty() {
        return stores::specs(&args.stores);
    }
    let own = &base.meta().stores;
    let parsed = own.iter().map(|store| store.parse());
    parsed
        .collect::<Result<_, _>>()
        .context("understand the stores that the flist names")
}

/// As the new flist names its stores, each once. Who reads asks one after the other, so those that answer at once
/// come first.
fn named(below: Vec<StoreSpec>, new: &[StoreSpec]) -> Vec<String> {
    let mut specs = below;
    specs.extend_from_slice(new);
    specs.sort_by_key(|spec| !matches!(spec.url.place(), Place::Dir(_)));
    let mut names = Vec::new();
    for name in stores::recorded(&specs, false) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_store_is_named_once_directories_first_and_without_passwords() {
        let spec = |text: &str| text.parse::<StoreSpec>().unwrap();
        let below = vec![spec("s3://user:word@bucket/a"), spec("dir:///a")];
        let new = [spec("dir:///b"), spec("dir:///a")];
        assert_eq!(
            named(below, &new),
            ["dir:///a", "dir:///b", "s3://bucket/a"]
        );
    }
}
