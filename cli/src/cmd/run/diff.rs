//! `--diff`: what the command changed, as a layer.

use crate::args::run::{Net, Run};
use crate::output;
use anyhow::{Context, Result, bail};
use lamina_mount::union::scratch::Scratch;
use lamina_runtime::diff::gzip::GzipWriter;
use lamina_runtime::diff::{self, Packed};
use lamina_runtime::network_files::NETWORK_FILES;
use lamina_runtime::slots::Slot;
use std::io::{BufWriter, Write as _};
use std::path::Path;

/// Says before anything runs that there is no place for it.
pub(super) fn check(out: &Path) -> Result<()> {
    let home = home(out);
    if out.file_name().is_none() || !home.is_dir() {
        bail!(crate::exit::Usage(format!(
            "write {}: name a file in a directory that is there",
            out.display()
        )));
    }
    Ok(())
}

/// Whole or not at all.
pub(super) fn write(out: &Path, root: &Scratch, slot: &Slot, args: &Run) -> Result<()> {
    let failed = || format!("write the changes to {}", out.display());
    let mut made = root
        .not_in_image(&diff::MOUNT_POINTS)
        .with_context(failed)?;
    if args.net == Net::Host {
        made.extend(NETWORK_FILES.map(|path| path.trim_start_matches('/')));
    }
    let file = tempfile::NamedTempFile::new_in(home(out)).with_context(failed)?;
    let packed = {
        let gzip = GzipWriter::new(BufWriter::new(file.as_file()));
        let (gzip, packed) = diff::pack(root.changes(), root.image(), slot.ids(), &made, gzip)
            .with_context(failed)?;
        let mut buffered = gzip.finish().with_context(failed)?;
        buffered.flush().with_context(failed)?;
        packed
    };
    file.persist(out).with_context(failed)?;
    warn(&packed);
    Ok(())
}

fn home(out: &Path) -> &Path {
    let home = out.parent().filter(|home| !home.as_os_str().is_empty());
    home.unwrap_or(Path::new("."))
}

fn warn(packed: &Packed) {
    if packed.left_out > 0 {
        let names = output::printable(&packed.left_out_names.join(", "));
        eprintln!(
            "warning: {} cannot be in a layer and were left out: {names}",
            output::counted(packed.left_out, "change")
        );
    }
}
