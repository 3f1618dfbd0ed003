//! `--diff`: what the command changed, as a layer.

use super::changes::Changes;
use crate::cmd::out;
use crate::exit;
use anyhow::{Context, Result, bail};
use lamina_runtime::diff::Packed;
use lamina_runtime::diff::gzip::GzipWriter;
use std::io::{BufWriter, Write as _};
use std::path::Path;

/// Says before anything runs that there is no place for it, or that the flist goes there, too.
pub(super) fn check(out: &Path, commit: Option<&Path>) -> Result<()> {
    if commit.is_some_and(|commit| out::is_same(out, commit)) {
        let out = out.display();
        bail!(exit::Usage(format!(
            "--diff and --commit both name {out}: the layer and the flist are two files"
        )));
    }
    out::of_changes(out).map(drop)
}

/// Whole or not at all.
pub(super) fn write(out: &Path, changes: &Changes<'_>) -> Result<Packed> {
    let failed = || format!("write the changes to {}", out.display());
    let target = out::of_changes(out)?;
    let file = tempfile::NamedTempFile::new_in(out::folder(&target)).with_context(failed)?;
    let packed = {
        let gzip = GzipWriter::new(BufWriter::new(file.as_file()));
        let (gzip, packed) = changes.pack(gzip).with_context(failed)?;
        let mut buffered = gzip.finish().with_context(failed)?;
        buffered.flush().with_context(failed)?;
        packed
    };
    file.persist(&target).with_context(failed)?;
    Ok(packed)
}
