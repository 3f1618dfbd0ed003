//! `gc`: what no kept flist needs goes from stores.
//!
//! What is kept is found generously: a directory stands for every flist below it, whatever its name.

use super::explore::open_checked;
use super::out::is_flist;
use super::{runtime, stores};
use crate::output::{self, Show};
use crate::{args, exit};
use anyhow::{Context, Result, bail};
use lamina_store::{GcOptions, GcPlan, GcRoots, StorePlan, StoreSpec, url::Place};
use serde::Serialize;
use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

#[derive(Serialize)]
struct GcReport {
    deleted: bool,
    kept_flists: usize,
    other_files: u64,
    stores: Vec<GcStore>,
}

#[derive(Serialize)]
struct GcStore {
    store: String,
    kept_packs: u64,
    young_packs: u64,
    unneeded_packs: usize,
    unneeded_bytes: u64,
    unneeded_flists: usize,
    missing_packs: usize,
}

impl Show for GcReport {
    fn table(&self) -> String {
        let rows: Vec<_> = self.stores.iter().map(row).collect();
        let header = [
            "STORE", "KEPT", "YOUNG", "UNNEEDED", "BYTES", "FLISTS", "MISSING",
        ];
        let unneeded = |store: &GcStore| store.unneeded_packs + store.unneeded_flists > 0;
        let note = match (self.stores.iter().any(unneeded), self.deleted) {
            (false, _) => "there is nothing to delete",
            (true, true) => "deleted",
            (true, false) => "nothing was deleted: add --delete to do it",
        };
        let passed = match self.other_files {
            0 => String::new(),
            files => format!(", {} passed over", output::counted(files, "other file")),
        };
        format!(
            "{}\n\nkept for {}{passed}\n{note}",
            output::columns(header, &rows),
            output::counted(self.kept_flists as u64, "named flist")
        )
    }
}

fn row(store: &GcStore) -> [String; 7] {
    [
        store.store.clone(),
        store.kept_packs.to_string(),
        store.young_packs.to_string(),
        store.unneeded_packs.to_string(),
        output::size(store.unneeded_bytes),
        store.unneeded_flists.to_string(),
        store.missing_packs.to_string(),
    ]
}

pub(crate) fn gc(args: &args::Gc) -> Result<()> {
    let kept = Kept::find(&args.keep)?;
    let mut roots = GcRoots::default();
    for path in &kept.flists {
        let flist = open_checked(path)?;
        roots.keep(flist.digest(), flist.packs());
    }
    let (set, specs) = stores::open(&args.store.stores, &args.store.access)?;
    specs.iter().try_for_each(check_there)?;
    let options = GcOptions {
        age_min: args.grace,
        keep_published: !args.keep_none,
        ..GcOptions::default()
    };
    let plan = runtime()?.block_on(async {
        let plan = GcPlan::make(&set, &roots, &options)
            .await
            .context("look through the stores")?;
        if args.delete {
            plan.apply(&set)
                .await
                .context("delete what is not needed")?;
        }
        anyhow::Ok(plan)
    })?;
    output::print(
        &GcReport {
            deleted: args.delete,
            kept_flists: kept.flists.len(),
            other_files: kept.other_files,
            stores: plan.stores.iter().map(told).collect(),
        },
        args.output.output,
    )
}

fn told(plan: &StorePlan) -> GcStore {
    GcStore {
        store: plan.store.clone(),
        kept_packs: plan.kept_packs,
        young_packs: plan.young_packs,
        unneeded_packs: plan.packs.len(),
        unneeded_bytes: plan.bytes,
        unneeded_flists: plan.flists.len(),
        missing_packs: plan.missing.len(),
    }
}

/// Packing makes a folder that is missing; here it is a typing mistake.
fn check_there(spec: &StoreSpec) -> Result<()> {
    match spec.url.place() {
        Place::Dir(dir) if !dir.exists() => bail!(exit::NotFound(format!(
            "there is no store {}",
            dir.display()
        ))),
        _ => Ok(()),
    }
}

/// What `--keep` names.
#[derive(Default)]
struct Kept {
    flists: Vec<PathBuf>,
    /// Files in named directories that are no flists.
    other_files: u64,
    /// Directories looked through, by device and inode: links may lead in circles.
    seen: HashSet<(u64, u64)>,
}

impl Kept {
    /// Flist files named, and those below named directories. A directory without any is an error: it is
    /// more likely a typing mistake than a wish to keep nothing.
    fn find(named: &[PathBuf]) -> Result<Self> {
        let mut kept = Self::default();
        for path in named {
            if !path.is_dir() {
                kept.flists.push(path.clone());
                continue;
            }
            kept.seen.clear();
            let before = kept.flists.len();
            kept.below(path)?;
            if kept.flists.len() == before {
                bail!(exit::NotFound(format!(
                    "there is no flist in {} or below it",
                    path.display()
                )));
            }
        }
        Ok(kept)
    }

    fn below(&mut self, top: &Path) -> Result<()> {
        let mut open = vec![top.to_owned()];
        while let Some(dir) = open.pop() {
            let reading = || format!("look for flists in {}", dir.display());
            let found = std::fs::metadata(&dir).with_context(reading)?;
            if !self.seen.insert((found.dev(), found.ino())) {
                continue;
            }
            for entry in std::fs::read_dir(&dir).with_context(reading)? {
                let path = entry.with_context(reading)?.path();
                match std::fs::metadata(&path) {
                    Ok(found) if found.is_dir() => open.push(path),
                    Ok(found) => self.file(path, found.is_file())?,
                    // A link to nothing or to itself holds no flist; anything else may hide one.
                    Err(e) if path.is_symlink() && leads_nowhere(&e) => self.other_files += 1,
                    Err(e) => return Err(e).with_context(|| format!("look at {}", path.display())),
                }
            }
        }
        Ok(())
    }

    /// A file by that name whose first bytes are damaged counts as a flist: opening it will say so.
    fn file(&mut self, path: PathBuf, regular: bool) -> Result<()> {
        let named = path.extension().is_some_and(|extension| extension == "fl");
        let looking = || format!("look at {}", path.display());
        if named || (regular && is_flist(&path).with_context(looking)?) {
            self.flists.push(path);
        } else {
            self.other_files += 1;
        }
        Ok(())
    }
}

fn leads_nowhere(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound) || error.raw_os_error() == Some(libc::ELOOP)
}
