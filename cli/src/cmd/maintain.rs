//! Keeping flists and stores: `clone`, `config`, `verify`.

use super::explore::{open, open_checked};
use super::out::Out;
use super::{runtime, stores};
use crate::output::{self, Show};
use crate::progress::Bar;
use crate::{args, exit};
use anyhow::{Context, Result, bail};
use lamina_flist::{Flist, FlistMeta};
use lamina_store::{ErrorKind, LoadOptions, StoreSet};
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) fn clone(args: &args::Clone) -> Result<()> {
    let flist = open_checked(&args.flist)?;
    let out = args.out.as_deref().map(Out::new).transpose()?;
    let read = args::ReadAccess {
        stores: args.from.clone(),
        access: args.to.access.clone(),
    };
    let from = stores::open_for(&args.flist, &flist, &read)?;
    let (to, specs) = stores::open(&args.to.stores, &args.to.access)?;
    let packs: Vec<_> = flist.packs().collect();
    let total = packs.iter().map(|pack| pack.len).sum();
    let (bar, done) = (Bar::bytes("copying packs"), AtomicU64::new(0));
    let progress = |bytes| {
        bar.set(
            done.fetch_add(bytes, Ordering::Relaxed) + bytes,
            Some(total),
        );
    };
    let report = runtime()?
        .block_on(lamina_store::copy_packs(
            &from,
            &to,
            &packs,
            &LoadOptions::default(),
            &progress,
        ))
        .context("copy packs")?;
    drop(bar);
    if let Some(out) = &out {
        let meta = FlistMeta {
            stores: stores::recorded(&specs, args.keep_credentials),
            ..flist.meta().clone()
        };
        rewrite(&args.flist, &flist, &meta, out)?;
    }
    let copied = output::size(report.bytes);
    let line = format!(
        "copied {} packs ({copied}), {} were there\n",
        report.copied, report.skipped
    );
    output::write_all(line.as_bytes())
}

#[derive(Serialize)]
struct ConfigView<'a> {
    stores: &'a [String],
    tags: &'a std::collections::BTreeMap<String, String>,
    image: Option<&'a serde_json::Value>,
}

impl Show for ConfigView<'_> {
    fn table(&self) -> String {
        let mut rows: Vec<_> = self
            .stores
            .iter()
            .map(|store| ("store", store.clone()))
            .collect();
        rows.extend(
            self.tags
                .iter()
                .map(|(key, value)| ("tag", format!("{key}={value}"))),
        );
        if self.image.is_some() {
            rows.push(("image config", "present; -o json shows it".to_owned()));
        }
        output::pairs(&rows)
    }
}

pub(crate) fn config(args: &args::Config) -> Result<()> {
    let flist = open(&args.flist)?;
    let out = Out::new(args.out.as_ref().unwrap_or(&args.flist));
    let mut meta = flist.meta().clone();
    let before = meta.clone();
    for tag in &args.set_tag {
        let (key, value) = parse_tag(tag)?;
        meta.tags.insert(key, value);
    }
    for key in &args.remove_tag {
        if meta.tags.remove(key).is_none() {
            bail!(exit::NotFound(format!("the flist has no tag `{key}`")));
        }
    }
    let added = stores::specs(&args.add_store)?;
    for store in stores::recorded(&added, args.keep_credentials) {
        if !meta.stores.contains(&store) {
            meta.stores.push(store);
        }
    }
    for store in &args.remove_store {
        let store = stores::absolute(store)?;
        let place = meta.stores.iter().position(|known| *known == store);
        let Some(place) = place else {
            let known = meta.stores.join(", ");
            bail!(exit::NotFound(format!(
                "the flist names no store `{store}`; it names: {known}"
            )));
        };
        meta.stores.remove(place);
    }
    if meta != before || args.out.is_some() {
        rewrite(&args.flist, &flist, &meta, &out?)?;
    }
    let view = ConfigView {
        stores: &meta.stores,
        tags: &meta.tags,
        image: meta.image.as_ref(),
    };
    output::print(&view, args.output.output)
}

/// `KEY=VALUE` as typed.
pub(crate) fn parse_tag(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => bail!(exit::Usage(format!("tag `{text}`: expected KEY=VALUE"))),
    }
}

/// Writes a flist with other metadata.
fn rewrite(path: &Path, flist: &Flist, meta: &FlistMeta, out: &Out) -> Result<()> {
    let head = flist
        .rewrite(meta, flist.profile().as_ref())
        .with_context(|| format!("rewrite {}", path.display()))?;
    let mut parts: Vec<&[u8]> = vec![&head.bytes];
    let embedded = flist.embedded_packs();
    parts.extend(embedded.as_deref());
    parts.push(&head.tail);
    out.write(&parts)
}

#[derive(Serialize)]
struct Verification {
    /// Whether packs were looked at, not only the flist.
    data: bool,
    entries: u64,
    packs: u64,
    chunks: u64,
    bytes: u64,
    problems: Vec<String>,
    /// Whether all of them are stores that could not be asked.
    #[serde(skip)]
    only_unreachable: bool,
}

impl Show for Verification {
    fn table(&self) -> String {
        let mut rows = vec![
            ("entries", self.entries.to_string()),
            (
                "packs read",
                format!("{} ({})", self.packs, output::size(self.bytes)),
            ),
            ("chunks checked", self.chunks.to_string()),
        ];
        rows.extend(
            self.problems
                .iter()
                .map(|problem| ("problem", problem.clone())),
        );
        if self.problems.is_empty() {
            let result = match self.data {
                true => "everything matches",
                false => "the flist is sound; no pack was looked at (--no-data)",
            };
            rows.push(("result", result.to_owned()));
        }
        output::pairs(&rows)
    }
}

pub(crate) fn verify(args: &args::Verify) -> Result<()> {
    let flist = open(&args.flist)?;
    let summary = flist
        .verify_sections()
        .and_then(|()| flist.check(&lamina_flist::Limits::default()))
        .with_context(|| format!("check flist {}", args.flist.display()))?;
    let mut result = Verification {
        data: !args.no_data,
        entries: summary.entries,
        packs: 0,
        chunks: 0,
        bytes: 0,
        problems: Vec::new(),
        only_unreachable: false,
    };
    if !args.no_data && flist.pack_count() > 0 {
        let set = stores::open_for(&args.flist, &flist, &args.read)?;
        verify_data(&flist, &set, &mut result)?;
    }
    let problems = result.problems.len();
    output::print(&result, args.output.output)?;
    if problems > 0 {
        let problems = output::counted(problems as u64, "problem");
        if result.only_unreachable {
            bail!(exit::Unreachable(format!(
                "{problems}: stores could not be asked; what could be read is right"
            )));
        }
        bail!(exit::Damaged(format!("{problems} found")));
    }
    Ok(())
}

fn verify_data(flist: &Flist, set: &StoreSet, result: &mut Verification) -> Result<()> {
    let (chunks, packs): (Vec<_>, Vec<_>) = (flist.chunks().collect(), flist.packs().collect());
    let copies: u64 = packs
        .iter()
        .map(|pack| {
            pack.len
                * set
                    .stores()
                    .filter(|(range, _)| range.contains(pack.id.as_bytes()[0]))
                    .count() as u64
        })
        .sum();
    let (bar, done) = (Bar::bytes("verifying"), AtomicU64::new(0));
    let progress = |bytes| {
        bar.set(
            done.fetch_add(bytes, Ordering::Relaxed) + bytes,
            Some(copies),
        );
    };
    let report = runtime()?.block_on(lamina_store::verify_flist(set, &chunks, &packs, &progress));
    result.packs = report.packs;
    result.chunks = report.chunks;
    result.bytes = report.bytes;
    let text =
        |problem: &lamina_store::Problem| format!("{:#}", anyhow::anyhow!("{}", problem.error));
    result.problems = report.problems.iter().map(text).collect();
    result.only_unreachable = report.problems.iter().all(|problem| {
        let kind = problem.error.kind();
        matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout)
    });
    let untold = report.problem_count - report.problems.len() as u64;
    if untold > 0 {
        result.problems.push(format!("{untold} more problems"));
    }
    Ok(())
}
