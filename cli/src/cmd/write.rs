//! Getting file contents out of a flist: `cat`, `unpack`.

use super::explore::{find, open_checked, shown};
use super::pack::Shown;
use super::{runtime, stores};
use crate::output;
use crate::{args, exit};
use anyhow::{Context, Result, anyhow, bail};
use lamina_flist::{FileSpan, FileType, Flist, FollowSymlinks, Inode, SpanSource};
use lamina_image::unpack::{UnpackError, UnpackOptions};
use lamina_store::{ChunkReader, ChunkSource, ReadOptions, entries_within, part_within};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Chunks in memory at once while printing: at most 16 MiB.
const WINDOW: usize = 64;

pub(crate) fn cat(args: &args::Cat) -> Result<()> {
    let flist = open_checked(&args.flist)?;
    let inodes = args
        .paths
        .iter()
        .map(|path| regular(&flist, path).map(|inode| (path, inode)))
        .collect::<Result<Vec<_>>>()?;
    let runtime = runtime()?;
    let mut reader = None;
    for (path, inode) in inodes {
        for span in flist.file_map(&inode)? {
            print_span(args, &flist, &runtime, &mut reader, span)
                .with_context(|| format!("read {}", shown(path.as_bytes())))?;
        }
    }
    Ok(())
}

fn regular(flist: &Flist, path: &OsStr) -> Result<Inode> {
    let inode = find(flist, path, FollowSymlinks::Always)?;
    match inode.file_type() {
        FileType::File => Ok(inode),
        kind => bail!(exit::Usage(format!(
            "{} is no regular file but {}",
            shown(path.as_bytes()),
            named(kind)
        ))),
    }
}

fn named(kind: FileType) -> &'static str {
    match kind {
        FileType::File => "a file",
        FileType::Directory => "a directory",
        FileType::CharDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::Symlink => "a symbolic link",
    }
}

fn print_span(
    args: &args::Cat,
    flist: &Flist,
    runtime: &tokio::runtime::Runtime,
    reader: &mut Option<ChunkReader>,
    span: FileSpan,
) -> Result<()> {
    let (blob, offset) = match span.source {
        SpanSource::Inline(bytes) => return output::write_all(&bytes),
        SpanSource::Hole => return print_zeros(span.len),
        SpanSource::Blob { blob, offset } => (blob, offset),
    };
    if reader.is_none() {
        let set = stores::open_for(&args.flist, flist, &args.read)?;
        *reader = Some(ChunkReader::new(set, ReadOptions::default()));
    }
    let Some(reader) = reader else {
        bail!("no stores")
    };
    let range = offset..offset + span.len;
    let mut at = offset;
    for window in entries_within(flist, blob, &range).chunks(WINDOW) {
        let wanted = window
            .iter()
            .map(|entry| ChunkSource::of(flist, entry.chunk))
            .collect::<Option<Vec<_>>>()
            .context("the flist's tables do not say where a chunk is")?;
        let plain = runtime.block_on(reader.fetch(&wanted))?;
        for (entry, bytes) in window.iter().zip(plain) {
            print_zeros(entry.offset.saturating_sub(at))?;
            let part = part_within(entry, bytes.len(), &range);
            at = entry.offset + part.end as u64;
            output::write_all(&bytes[part])?;
        }
    }
    print_zeros(range.end - at)
}

fn print_zeros(mut count: u64) -> Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while count > 0 {
        let part = count.min(ZEROS.len() as u64);
        output::write_all(&ZEROS[..part as usize])?;
        count -= part;
    }
    Ok(())
}

/// Whether an unpacking that failed has left something.
fn begun(error: &UnpackError, dir: &Path) -> bool {
    let wrote = matches!(
        error,
        UnpackError::Io { .. } | UnpackError::Read { .. } | UnpackError::Cancelled
    );
    wrote && std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

pub(crate) fn unpack(args: &args::Unpack) -> Result<()> {
    let flist = open_checked(&args.flist)?;
    if args.dir.exists() && !args.dir.is_dir() {
        bail!(exit::Usage(format!(
            "{} is no directory",
            args.dir.display()
        )));
    }
    let set = match flist.pack_count() {
        // Everything is inside the flist; any store would do, none is asked.
        0 => stores::open(&["dir:///".to_owned()], &args.read.access)?.0,
        _ => stores::open_for(&args.flist, &flist, &args.read)?,
    };
    let options = UnpackOptions {
        into_existing: args.force,
        devices: !args.no_devices,
        setuid: !args.no_setuid,
        ..UnpackOptions::default()
    };
    let progress = Shown::new("unpacking");
    let runtime = runtime()?;
    let report = lamina_image::unpack::unpack(
        &flist,
        &set,
        &args.dir,
        &options,
        &progress,
        runtime.handle(),
    )
    .map_err(|error| match error {
        UnpackError::NotEmpty(dir) => anyhow!(exit::Usage(format!(
            "{} is not empty: name another directory, or add --force",
            dir.display()
        ))),
        error if begun(&error, &args.dir) => anyhow!(error).context(format!(
            "{} is incomplete now: remove it, or unpack again with --force",
            args.dir.display()
        )),
        error => error.into(),
    })
    .with_context(|| {
        format!(
            "unpack {} into {}",
            args.flist.display(),
            args.dir.display()
        )
    })?;
    drop(progress);
    for skipped in &report.skipped {
        eprintln!(
            "not permitted, left out: {} of {}",
            skipped.what,
            output::printable(&skipped.path.to_string_lossy())
        );
    }
    let line = format!(
        "{} entries, {}\n",
        report.entries,
        output::size(report.bytes)
    );
    output::write_all(line.as_bytes())
}
