//! What to fetch ahead: along a profile, or everything below some paths.

use crate::agent::ahead::Step;
use crate::agent::live::LiveFlist;
use lamina_flist::{FileType, Flist, FollowSymlinks, Inode, ProfileRange, SpanSource};
use std::sync::Arc;

/// The steps of a profile, in its order. Ranges that the flist does not have are left out: a profile
/// is a hint, whoever wrote it.
pub(crate) fn profile_steps<'a>(
    live: &LiveFlist,
    ranges: impl IntoIterator<Item = &'a ProfileRange>,
) -> Vec<Step> {
    let known = ranges.into_iter().filter_map(|range| {
        let source = live.sources.get(usize::from(range.blob))?;
        let end = range
            .first_entry
            .saturating_add(range.count)
            .min(source.entries());
        (range.first_entry < end).then(|| (Arc::clone(source), range.first_entry..end))
    });
    known.collect()
}

/// The steps that make everything below `paths` local; no paths means everything.
pub(crate) fn path_steps(live: &LiveFlist, paths: &[String]) -> Result<Vec<Step>, PathError> {
    if paths.is_empty() {
        let all = live
            .sources
            .iter()
            .map(|source| (Arc::clone(source), 0..source.entries()));
        return Ok(all.collect());
    }
    let flist = &live.admitted.flist;
    let mut steps = Vec::new();
    for path in paths {
        let failed = |source| PathError {
            path: path.clone(),
            source,
        };
        let inode = flist
            .resolve(path.as_bytes(), FollowSymlinks::Always)
            .map_err(failed)?;
        let mut open = vec![inode];
        while let Some(inode) = open.pop() {
            add_inode(flist, live, &inode, &mut open, &mut steps).map_err(failed)?;
        }
    }
    Ok(steps)
}

/// A path of a prefetch that is not in the flist.
#[derive(Debug, thiserror::Error)]
#[error("prefetch {path}")]
pub(crate) struct PathError {
    path: String,
    source: lamina_flist::FlistError,
}

fn add_inode(
    flist: &Flist,
    live: &LiveFlist,
    inode: &Inode,
    open: &mut Vec<Inode>,
    steps: &mut Vec<Step>,
) -> Result<(), lamina_flist::FlistError> {
    if inode.file_type() == FileType::Directory {
        for entry in flist.read_dir(inode) {
            let entry = entry?;
            if entry.name != b"." && entry.name != b".." {
                open.push(flist.inode(entry.nid)?);
            }
        }
        return Ok(());
    }
    if inode.file_type() != FileType::File {
        return Ok(());
    }
    for span in flist.file_map(inode)? {
        if let SpanSource::Blob { blob, offset } = span.source {
            let source = &live.sources[usize::from(blob)];
            let entries = source.file.map().overlapping(offset..offset + span.len);
            steps.push((Arc::clone(source), entries.start as u32..entries.end as u32));
        }
    }
    Ok(())
}
