//! Several flists side by side: `diff`, `du`.

use super::explore::{open_checked, shown};
use crate::args;
use crate::output::{self, Show};
use anyhow::{Context, Result};
use lamina_flist::Flist;
use lamina_image::diff::{Change, Difference};
use serde::Serialize;

/// What differs between two flists.
#[derive(Serialize)]
pub(crate) struct DiffReport {
    pub(crate) differences: Vec<DiffLine>,
}

#[derive(Serialize)]
pub(crate) struct DiffLine {
    path: String,
    change: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aspects: Vec<String>,
}

impl DiffLine {
    /// Of paths as they are in flists.
    pub(crate) fn new(
        path: &[u8],
        change: &str,
        from: Option<&[u8]>,
        aspects: Vec<String>,
    ) -> Self {
        let absolute = |path| format!("/{}", shown(path));
        Self {
            path: absolute(path),
            change: change.to_owned(),
            from: from.map(absolute),
            aspects,
        }
    }
}

impl Show for DiffReport {
    fn table(&self) -> String {
        if self.differences.is_empty() {
            return "no differences".to_owned();
        }
        let lines: Vec<_> = self.differences.iter().map(diff_line).collect();
        lines.join("\n")
    }
}

fn diff_line(line: &DiffLine) -> String {
    let sign = match line.change.as_str() {
        "added" => '+',
        "removed" => '-',
        "renamed" => '>',
        _ => '~',
    };
    let from = line
        .from
        .as_ref()
        .map(|from| format!(" (was {from})"))
        .unwrap_or_default();
    let aspects = match line.aspects.is_empty() {
        true => String::new(),
        false => format!(" ({})", line.aspects.join(", ")),
    };
    format!("{sign} {}{from}{aspects}", line.path)
}

pub(crate) fn diff(args: &args::Diff) -> Result<()> {
    let (from, to) = (open_checked(&args.from)?, open_checked(&args.to)?);
    let found = lamina_image::diff::diff(&from, &to).context("compare the flists")?;
    let differences = found.iter().map(described).collect();
    output::print(&DiffReport { differences }, args.output.output)
}

fn described(difference: &Difference) -> DiffLine {
    let (from, aspects) = match &difference.change {
        Change::RenamedFrom(from) => (Some(from.as_slice()), Vec::new()),
        Change::Changed(aspects) => (None, aspects.clone()),
        Change::Added | Change::Removed => (None, Vec::new()),
    };
    let aspects = aspects.into_iter().map(|aspect| aspect.as_str().to_owned());
    let change = difference.change.as_str();
    DiffLine::new(&difference.path, change, from, aspects.collect())
}

#[derive(Serialize)]
struct DuReport {
    flists: Vec<DuLine>,
    total: DuTotal,
}

#[derive(Serialize)]
struct DuLine {
    flist: String,
    entries: u64,
    logical: u64,
    distinct: u64,
    stored: u64,
    shared: u64,
    flist_bytes: u64,
}

#[derive(Serialize)]
struct DuTotal {
    logical: u64,
    stored: u64,
}

impl Show for DuReport {
    fn table(&self) -> String {
        let rows: Vec<_> = self.flists.iter().map(du_row).collect();
        let header = [
            "FLIST",
            "ENTRIES",
            "LOGICAL",
            "DISTINCT",
            "STORED",
            "SHARED",
            "FLIST FILE",
        ];
        let (logical, stored) = (
            output::size(self.total.logical),
            output::size(self.total.stored),
        );
        format!(
            "{}\n\ntogether: {logical} in {stored} of stores",
            output::columns(header, &rows)
        )
    }
}

fn du_row(line: &DuLine) -> [String; 7] {
    [
        line.flist.clone(),
        line.entries.to_string(),
        output::size(line.logical),
        output::size(line.distinct),
        output::size(line.stored),
        output::size(line.shared),
        output::size(line.flist_bytes),
    ]
}

pub(crate) fn du(args: &args::Du) -> Result<()> {
    let flists = args
        .flists
        .iter()
        .map(|path| open_checked(path))
        .collect::<Result<Vec<_>>>()?;
    let mut lines = Vec::with_capacity(flists.len());
    for (place, (path, flist)) in args.flists.iter().zip(&flists).enumerate() {
        let others: Vec<Flist> = flists
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != place)
            .map(|(_, flist)| flist.clone())
            .collect();
        let usage = lamina_image::diff::usage(flist, &others)
            .with_context(|| format!("measure {}", path.display()))?;
        lines.push(DuLine {
            flist: path.display().to_string(),
            entries: usage.entries,
            logical: usage.logical,
            distinct: usage.distinct,
            stored: usage.stored,
            shared: usage.shared,
            flist_bytes: flist.as_bytes().len() as u64,
        });
    }
    let mut seen = std::collections::HashSet::new();
    let chunks = flists
        .iter()
        .flat_map(Flist::chunks)
        .filter(|chunk| seen.insert(chunk.id));
    let total = DuTotal {
        stored: chunks.map(|chunk| u64::from(chunk.stored_len)).sum(),
        logical: lines.iter().map(|line| line.logical).sum(),
    };
    output::print(
        &DuReport {
            flists: lines,
            total,
        },
        args.output.output,
    )
}
