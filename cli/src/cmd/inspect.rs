//! `inspect`: what a flist is, without looking into its tree.

use super::explore::open;
use crate::args;
use crate::output::{self, Show};
use anyhow::Result;
use serde::Serialize;

#[derive(Serialize)]
struct Inspection {
    digest: String,
    file_bytes: u64,
    entries: u64,
    blobs: Vec<BlobLine>,
    data_bytes: u64,
    chunks: usize,
    packs: usize,
    stored_bytes: u64,
    profile: Option<String>,
    hints: Option<HintCounts>,
    #[serde(flatten)]
    meta: lamina_flist::FlistMeta,
}

/// How many files are known to need how many others.
#[derive(Serialize)]
struct HintCounts {
    files: usize,
    edges: usize,
}

#[derive(Serialize)]
struct BlobLine {
    id: String,
    bytes: u64,
    chunks: u64,
}

impl Show for Inspection {
    fn table(&self) -> String {
        let mut rows = vec![
            ("digest", self.digest.clone()),
            ("flist file", output::size(self.file_bytes)),
            ("entries", self.entries.to_string()),
            ("file data", output::size(self.data_bytes)),
            (
                "stored",
                format!(
                    "{} in {} packs",
                    output::size(self.stored_bytes),
                    self.packs
                ),
            ),
            ("chunks", self.chunks.to_string()),
            ("blobs", self.blobs.len().to_string()),
            (
                "profile",
                self.profile.clone().unwrap_or_else(|| "none".to_owned()),
            ),
            (
                "hints",
                self.hints.as_ref().map_or_else(
                    || "none".to_owned(),
                    |hints| format!("{} files, {} needs", hints.files, hints.edges),
                ),
            ),
        ];
        rows.extend(
            self.meta
                .stores
                .iter()
                .map(|store| ("store", store.clone())),
        );
        rows.extend(
            self.meta
                .tags
                .iter()
                .map(|(key, value)| ("tag", format!("{key}={value}"))),
        );
        rows.extend(image_rows(self.meta.image.as_ref()));
        output::pairs(&rows)
    }
}

/// The parts of an OCI image configuration people look for.
fn image_rows(image: Option<&serde_json::Value>) -> Vec<(&'static str, String)> {
    let Some(image) = image else {
        return Vec::new();
    };
    let config = &image["config"];
    let fields = [
        (
            "platform",
            joined(
                &[&image["os"], &image["architecture"], &image["variant"]],
                "/",
            ),
        ),
        ("entrypoint", words(&config["Entrypoint"])),
        ("cmd", words(&config["Cmd"])),
        ("workdir", words(&config["WorkingDir"])),
        ("user", words(&config["User"])),
        ("env", words(&config["Env"])),
    ];
    fields
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

fn joined(parts: &[&serde_json::Value], by: &str) -> String {
    let parts: Vec<&str> = parts.iter().filter_map(|part| part.as_str()).collect();
    parts.join(by)
}

fn words(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Array(items) => joined(&items.iter().collect::<Vec<_>>(), " "),
        other => other.as_str().unwrap_or_default().to_owned(),
    }
}

pub(crate) fn inspect(args: &args::Inspect) -> Result<()> {
    let flist = open(&args.flist)?;
    let blobs: Vec<BlobLine> = (0..flist.blob_count())
        .filter_map(|index| flist.blob(index))
        .map(|blob| BlobLine {
            id: blob.id.to_string(),
            bytes: blob.len,
            chunks: blob.entries,
        })
        .collect();
    let inspection = Inspection {
        digest: flist.digest().to_string(),
        file_bytes: flist.as_bytes().len() as u64,
        entries: flist.entry_count(),
        data_bytes: blobs.iter().map(|blob| blob.bytes).sum(),
        blobs,
        chunks: flist.chunk_count(),
        packs: flist.pack_count(),
        stored_bytes: flist
            .chunks()
            .map(|chunk| u64::from(chunk.stored_len))
            .sum(),
        profile: flist
            .profile()
            .map(|profile| format!("{:?}", profile.source).to_lowercase()),
        hints: flist.hints().map(|hints| HintCounts {
            files: hints.len(),
            edges: hints.edge_count(),
        }),
        meta: flist.meta().clone(),
    };
    output::print(&inspection, args.output.output)
}
