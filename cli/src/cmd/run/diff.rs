//! `--diff`: what the command changed, as a layer.

use super::changes::Changes;
use anyhow::{Context, Result, bail};
use lamina_runtime::diff::Packed;
use lamina_runtime::diff::gzip::GzipWriter;
use std::io::{BufWriter, Write as _};
use std::path::Path;

/// Says before anything runs that there is no place for it.
pub(super) fn check(out: &Path) -> Result<()> {
    let home = home(out);
    if out.file_name().is_none() || out.is_dir() || !home.is_dir() {
        bail!(crate::exit::Usage(format!(
            "write {}: name a file in a directory that is there",
            out.display()
        )));
    }
    Ok(())
}

/// Whole or not at all.
pub(super) fn write(out: &Path, changes: &Changes<'_>) -> Result<Packed> {
    let failed = || format!("write the changes to {}", out.display());
    let file = tempfile::NamedTempFile::new_in(home(out)).with_context(failed)?;
    let packed = {
        let gzip = GzipWriter::new(BufWriter::new(file.as_file()));
        let (gzip, packed) = changes.pack(gzip).with_context(failed)?;
        let mut buffered = gzip.finish().with_context(failed)?;
        buffered.flush().with_context(failed)?;
        packed
    };
    file.persist(out).with_context(failed)?;
    Ok(packed)
}

fn home(out: &Path) -> &Path {
    let home = out.parent().filter(|home| !home.as_os_str().is_empty());
    home.unwrap_or(Path::new("."))
}
