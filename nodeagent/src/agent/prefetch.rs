//! Fetching before anybody asks: along a profile, or everything below some paths.

use crate::agent::fetch::{FetchError, Fetcher, Urgency};
use crate::agent::live::LiveFlist;
use crate::agent::sources::Source;
use futures::{StreamExt, TryStreamExt};
use lamina_flist::{FileType, Flist, FollowSymlinks, Inode, Profile, SpanSource};
use std::ops::Range;
use std::sync::Arc;

/// Entries asked for at once: about 1 MiB, what a demand read may have to wait behind.
const STEP_ENTRIES: u32 = 16;
/// Steps under way: keeps a link with a long round trip busy.
const STEPS_MAX: usize = 6;

/// A run of entries of one blob.
pub(crate) type Step = (Arc<Source>, Range<u32>);

/// The steps of a profile, in its order. Ranges that the flist does not have are left out: a profile
/// is a hint, whoever wrote it.
pub(crate) fn profile_steps(live: &LiveFlist, profile: &Profile) -> Vec<Step> {
    let known = profile.ranges.iter().filter_map(|range| {
        let source = live.sources.get(usize::from(range.blob))?;
        let end = range
            .first_entry
            .saturating_add(range.count)
            .min(source.entries());
        (range.first_entry < end).then(|| (Arc::clone(source), range.first_entry..end))
    });
    known.flat_map(cut).collect()
}

/// The steps that make everything below `paths` local; no paths means everything.
pub(crate) fn path_steps(live: &LiveFlist, paths: &[String]) -> Result<Vec<Step>, PathError> {
    if paths.is_empty() {
        let all = live
            .sources
            .iter()
            .map(|source| (Arc::clone(source), 0..source.entries()));
        return Ok(all.flat_map(cut).collect());
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
    Ok(steps.into_iter().flat_map(cut).collect())
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

fn cut((source, entries): Step) -> impl Iterator<Item = Step> {
    let starts = entries.clone().step_by(STEP_ENTRIES as usize);
    starts.map(move |start| {
        (
            Arc::clone(&source),
            start..start.saturating_add(STEP_ENTRIES).min(entries.end),
        )
    })
}

/// Takes the steps, several at a time, pausing while a reader waits on demand.
pub(crate) async fn walk(fetcher: Arc<Fetcher>, steps: Vec<Step>) -> Result<(), FetchError> {
    futures::stream::iter(steps)
        .map(|(source, entries)| {
            let fetcher = Arc::clone(&fetcher);
            async move {
                if source
                    .file
                    .missing(entries.start as usize..entries.end as usize)
                    .is_none()
                {
                    return Ok(());
                }
                if let Some(lane) = source.lane() {
                    lane.quiet().await;
                }
                fetcher.ensure(&source, entries, Urgency::Ahead).await
            }
        })
        .buffered(STEPS_MAX)
        .try_for_each(|()| async { Ok(()) })
        .await
}
