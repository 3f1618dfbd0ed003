//! Who keeps a mount busy.
//!
//! Looks at every process's working directory, root, executable, open files
//! and mapped files through the links in `/proc`, and asks each for the id of
//! the mount it is on (`statx` with `STATX_MNT_ID` and no sync, which never
//! asks a FUSE daemon). A mount id is one mount in one namespace, so a process
//! elsewhere that uses its own copy is not blamed. Bounded in processes, links
//! and names reported.

use std::fmt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, StatxFlags};

/// Holders named in an error; a person needs a few.
const HOLDERS_MAX: usize = 16;
/// Links looked at per process.
const LINKS_MAX: usize = 8192;
/// Processes looked at.
const PROCESSES_MAX: usize = 65_536;

/// One use of the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Its command name.
    pub command: String,
    /// `cwd`, `root`, `exe`, `fd/7` or `map_files/…`.
    pub link: String,
    /// Where the link leads.
    pub path: PathBuf,
}

/// The uses found, at most one per process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// The first ones.
    pub found: Vec<Holder>,
    /// Whether there may be more.
    pub more: bool,
}

impl Holders {
    /// Looks for holders of the mount with this id (see
    /// [`MountEntry::id`](super::mountinfo::MountEntry)).
    pub fn of_mount(mount_id: u64) -> Self {
        let mut holders = Self::default();
        let Ok(processes) = std::fs::read_dir("/proc") else {
            return holders;
        };
        let pids = processes
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        for pid in pids.take(PROCESSES_MAX) {
            if holders.found.len() == HOLDERS_MAX {
                holders.more = true;
                break;
            }
            holders.found.extend(first_use(pid, mount_id));
        }
        holders
    }
}

fn first_use(pid: u32, mount_id: u64) -> Option<Holder> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let fixed = ["cwd", "root", "exe"].map(str::to_owned).into_iter();
    let listed = ["fd", "map_files"].into_iter().flat_map(|directory| {
        std::fs::read_dir(process.join(directory))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(move |entry| Some(format!("{directory}/{}", entry.file_name().to_str()?)))
    });
    let link = fixed
        .chain(listed)
        .take(LINKS_MAX)
        .find(|link| is_on(&process.join(link), mount_id))?;
    let command = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
    Some(Holder {
        pid,
        command: command.trim_end().to_owned(),
        path: std::fs::read_link(process.join(&link)).unwrap_or_default(),
        link,
    })
}

fn is_on(link: &std::path::Path, mount_id: u64) -> bool {
    rustix::fs::statx(CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID)
        .is_ok_and(|stat| stat.stx_mnt_id == mount_id)
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, holder) in self.found.iter().enumerate() {
            let start = if i == 0 { " by " } else { ", " };
            write!(
                f,
                "{start}{} (process {}, {} {})",
                holder.command,
                holder.pid,
                holder.link,
                holder.path.display()
            )?;
        }
        if self.more {
            write!(f, " and others")?;
        }
        Ok(())
    }
}
