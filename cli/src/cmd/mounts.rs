//! `mounts`: what every instance has mounted, also one that does not answer.

use super::mount::{QUESTION_TIMEOUT, instances};
use crate::output::{self, Show};
use crate::tiers::{self, Tiers};
use crate::{args, daemon};
use anyhow::{Context, Result, bail};
use lamina_nodeagent::agent::offline::{self, RecordedTarget};
use lamina_nodeagent::api::{
    Answer, CacheInfo, CallError, MountInfo, MountState, MountsCall, Request,
};
use lamina_nodeagent::instance::Instance;
use serde::Serialize;

#[derive(Serialize)]
struct MountList {
    mounts: Vec<MountInfo>,
    caches: Vec<CacheInfo>,
    /// Which table.
    #[serde(skip)]
    tiers: bool,
}

impl Show for MountList {
    fn table(&self) -> String {
        let mounts = match self.tiers {
            true => self.tiers_table(),
            false => self.mounts_table(),
        };
        let caches: Vec<_> = self.caches.iter().map(cache_line).collect();
        let notes: Vec<String> = self.mounts.iter().map(notes).collect();
        let notes = notes.concat();
        format!("{mounts}{notes}\n\n{}", caches.join("\n"))
    }
}

impl MountList {
    fn mounts_table(&self) -> String {
        let rows: Vec<_> = self.mounts.iter().map(mount_row).collect();
        output::columns(
            [
                "TARGET", "STATE", "MODE", "ACCESS", "LOCAL", "OF", "FETCHED", "PEERS", "READS",
                "HITS", "FAILED", "PROFILE", "FLIST",
            ],
            &rows,
        )
    }

    fn tiers_table(&self) -> String {
        let rows: Vec<_> = self.mounts.iter().map(tiers_row).collect();
        let [page, read, disk, peer, store, registry, prefetched, used] = tiers::HEADER;
        let header = [
            "TARGET", page, read, disk, peer, store, registry, prefetched, used, "PROFILE",
        ];
        format!("{}\n\n{}", output::columns(header, &rows), tiers::LEGEND)
    }
}

fn tiers_row(info: &MountInfo) -> [String; 10] {
    let [page, read, disk, peer, store, registry, prefetched, used] = Tiers::from(info).row();
    [
        info.target.display().to_string(),
        page,
        read,
        disk,
        peer,
        store,
        registry,
        prefetched,
        used,
        info.profile.clone(),
    ]
}

fn mount_row(info: &MountInfo) -> [String; 13] {
    [
        info.target.display().to_string(),
        match info.state {
            MountState::Mounted => "mounted",
            MountState::Degraded => "degraded",
            MountState::Detached => "detached",
        }
        .to_owned(),
        info.mode.clone(),
        if info.upper.is_some() { "rw" } else { "ro" }.to_owned(),
        output::size(info.bytes_local),
        output::size(info.bytes_total),
        output::size(info.bytes_fetched),
        output::size(info.bytes_from_peers),
        info.reads.to_string(),
        output::percent(info.reads_local, info.reads),
        info.reads_failed.to_string(),
        info.profile.clone(),
        info.flist.display().to_string(),
    ]
}

/// Lines below the table on what is wrong with a mount.
fn notes(info: &MountInfo) -> String {
    let target = info.target.display();
    let said = [("", &info.note), ("last error: ", &info.last_error)];
    let lines = said.iter().filter(|(_, text)| !text.is_empty());
    let lines: Vec<String> = lines
        .map(|(what, text)| format!("\n{target}: {what}{text}"))
        .collect();
    lines.concat()
}

fn cache_line(cache: &CacheInfo) -> String {
    let dir = cache.dir.display();
    format!(
        "cache {dir}: {} of {}",
        output::size(cache.bytes),
        output::size(cache.bytes_max)
    )
}

/// Lists what can be known, then fails if an instance with mounts did not answer.
pub(crate) fn mounts(args: &args::Mounts) -> Result<()> {
    let mut list = MountList {
        mounts: Vec::new(),
        caches: Vec::new(),
        tiers: args.tiers,
    };
    // Whoever reads it by machine gets all there is.
    let resident = args.tiers || args.output.output != args::Format::Table;
    let question = Request::Mounts(MountsCall { resident });
    let mut unanswered = None;
    for instance in instances(&args.instance.run_dir)? {
        match daemon::ask(&instance, &question, QUESTION_TIMEOUT) {
            Ok(Some(Answer::Mounts { mounts, cache })) => {
                list.mounts.extend(mounts);
                list.caches.push(cache);
            }
            Ok(Some(_)) => bail!("the agent gave an answer of another kind"),
            Ok(None) => {
                let left = left_behind(&instance)?;
                if !left.is_empty() {
                    unanswered = Some(no_daemons(&instance));
                    list.mounts.extend(left);
                }
            }
            Err(error) => {
                list.mounts.extend(left_behind(&instance)?);
                unanswered = Some(error);
            }
        }
    }
    output::print(&list, args.output.output)?;
    unanswered.map_or(Ok(()), |error| Err(error).context("list the mounts"))
}

/// The mounts of an instance that cannot say anything about them.
fn left_behind(instance: &Instance) -> Result<Vec<MountInfo>> {
    let recorded = offline::recorded_targets(instance)?.into_iter();
    Ok(recorded
        .filter(RecordedTarget::is_mounted)
        .map(|target| target.info())
        .collect())
}

fn no_daemons(instance: &Instance) -> CallError {
    CallError::NoAgent {
        path: instance.api_socket(),
        source: std::io::Error::other("no daemon of the instance runs"),
    }
}
