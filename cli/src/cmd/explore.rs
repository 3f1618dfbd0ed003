//! Looking into flists without mounting: `tree`, `ls`, and what other verbs need for it.

use crate::args;
use crate::exit;
use crate::output::{self, Show};
use anyhow::{Context, Result};
use lamina_flist::{Device, FileType, Flist, FlistError, FollowSymlinks, Inode};
use lamina_store::open_flist;
use serde::Serialize;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Opens a flist a user named.
pub(crate) fn open(path: &Path) -> Result<Flist> {
    Ok(open_flist(path)?)
}

/// Opens a flist and checks it as a whole: before anything walks a tree a stranger wrote.
pub(crate) fn open_checked(path: &Path) -> Result<Flist> {
    let flist = open(path)?;
    flist
        .verify_sections()
        .and_then(|()| flist.check(&lamina_flist::Limits::default()).map(drop))
        .with_context(|| format!("check flist {}", path.display()))?;
    Ok(flist)
}

/// Text of a name from a flist, safe for a terminal: control bytes and broken UTF-8 escaped.
pub(crate) fn shown(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for part in name.utf8_chunks() {
        text.push_str(&output::printable(part.valid()));
        for byte in part.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The inode at a path a user typed; names in a flist are bytes, so any will do.
pub(crate) fn find(flist: &Flist, path: &OsStr, follow: FollowSymlinks) -> Result<Inode> {
    let path = path.as_bytes();
    flist.resolve(path, follow).map_err(|error| match error {
        FlistError::NotFound => {
            exit::NotFound(format!("{} is not in the flist", shown(path))).into()
        }
        error => anyhow::Error::new(error).context(format!("look up {}", shown(path))),
    })
}

/// Entries of a directory in name order, without `.` and `..`.
fn children(flist: &Flist, directory: &Inode) -> Result<Vec<(Vec<u8>, Inode)>> {
    let mut found = Vec::new();
    for entry in flist.read_dir(directory) {
        let entry = entry?;
        if entry.name != b"." && entry.name != b".." {
            found.push((entry.name.to_vec(), flist.inode(entry.nid)?));
        }
    }
    Ok(found)
}

pub(crate) fn tree(args: &args::Tree) -> Result<()> {
    let flist = open_checked(&args.flist)?;
    let root = find(&flist, &args.path, FollowSymlinks::Always)?;
    let mut counts = (0u64, 0u64);
    output::write_all(format!("{}\n", shown(args.path.as_bytes())).as_bytes())?;
    draw(
        &flist,
        &root,
        "",
        args.depth.unwrap_or(usize::MAX),
        &mut counts,
    )?;
    let (directories, files) = counts;
    output::write_all(format!("\n{directories} directories, {files} files\n").as_bytes())
}

fn draw(
    flist: &Flist,
    directory: &Inode,
    indent: &str,
    depth: usize,
    counts: &mut (u64, u64),
) -> Result<()> {
    if depth == 0 || directory.file_type() != FileType::Directory {
        return Ok(());
    }
    let entries = children(flist, directory)?;
    let last = entries.len().saturating_sub(1);
    for (place, (name, inode)) in entries.iter().enumerate() {
        let (branch, below) = if place == last {
            ("└── ", "    ")
        } else {
            ("├── ", "│   ")
        };
        let arrow = match inode.file_type() {
            FileType::Symlink => format!(" -> {}", shown(flist.readlink(inode)?)),
            _ => String::new(),
        };
        output::write_all(format!("{indent}{branch}{}{arrow}\n", shown(name)).as_bytes())?;
        if inode.file_type() == FileType::Directory {
            counts.0 += 1;
            draw(flist, inode, &format!("{indent}{below}"), depth - 1, counts)?;
        } else {
            counts.1 += 1;
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Listing {
    #[serde(skip)]
    long: bool,
    entries: Vec<ListedEntry>,
}

#[derive(Serialize)]
struct ListedEntry {
    path: String,
    mode: String,
    links: u32,
    uid: u32,
    gid: u32,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    mtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl Show for Listing {
    fn table(&self) -> String {
        if !self.long {
            return self
                .entries
                .iter()
                .map(|entry| entry.path.as_str())
                .collect::<Vec<_>>()
                .join("\n");
        }
        let rows: Vec<_> = self.entries.iter().map(long_row).collect();
        output::columns(
            ["MODE", "LINKS", "UID", "GID", "SIZE", "MODIFIED", "NAME"],
            &rows,
        )
    }
}

fn long_row(entry: &ListedEntry) -> [String; 7] {
    let target = entry
        .target
        .as_ref()
        .map(|target| format!(" -> {target}"))
        .unwrap_or_default();
    [
        entry.mode.clone(),
        entry.links.to_string(),
        entry.uid.to_string(),
        entry.gid.to_string(),
        entry
            .device
            .clone()
            .unwrap_or_else(|| entry.size.to_string()),
        entry.mtime.clone(),
        format!("{}{target}", entry.path),
    ]
}

pub(crate) fn ls(args: &args::Ls) -> Result<()> {
    let flist = open_checked(&args.flist)?;
    let inode = find(&flist, &args.path, FollowSymlinks::Always)?;
    let mut entries = Vec::new();
    if inode.file_type() == FileType::Directory {
        let mut open = vec![(String::new(), inode)];
        while let Some((prefix, directory)) = open.pop() {
            let mut below = Vec::new();
            for (name, inode) in children(&flist, &directory)? {
                let path = format!("{prefix}{}", shown(&name));
                entries.push(listed(&flist, path.clone(), &inode)?);
                if args.recursive && inode.file_type() == FileType::Directory {
                    below.push((format!("{path}/"), inode));
                }
            }
            open.extend(below.into_iter().rev());
        }
    } else {
        entries.push(listed(&flist, shown(args.path.as_bytes()), &inode)?);
    }
    output::print(
        &Listing {
            long: args.long,
            entries,
        },
        args.output.output,
    )
}

fn listed(flist: &Flist, path: String, inode: &Inode) -> Result<ListedEntry> {
    let target = match inode.file_type() {
        FileType::Symlink => Some(shown(flist.readlink(inode)?)),
        _ => None,
    };
    let device = inode
        .device()
        .map(|Device { major, minor }| format!("{major},{minor}"));
    Ok(ListedEntry {
        path,
        mode: mode_text(inode.mode()),
        links: inode.nlink(),
        uid: inode.uid(),
        gid: inode.gid(),
        size: inode.size(),
        device,
        mtime: time_text(inode.mtime().secs),
        target,
    })
}

/// `drwxr-xr-x`, as ls(1) writes an `st_mode`.
pub(crate) fn mode_text(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        0o120_000 => 'l',
        _ => '-',
    };
    let perm = mode & 0o7777;
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = perm >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (perm & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Seconds since 1970 as `YYYY-MM-DD hh:mm:ss` in UTC (days-to-civil, Howard Hinnant's algorithm
/// `civil_from_days`).
pub(crate) fn time_text(secs: i64) -> String {
    let (days, second) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    let shifted = i128::from(days) + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    let year = year_of_era + era * 400 + i128::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(time_text(0), "1970-01-01 00:00:00");
        assert_eq!(time_text(951_827_696), "2000-02-29 12:34:56");
        assert_eq!(time_text(-1), "1969-12-31 23:59:59");
    }

    #[test]
    fn modes_are_written_as_ls_does() {
        assert_eq!(mode_text(0o041_777), "drwxrwxrwt");
        assert_eq!(mode_text(0o104_755), "-rwsr-xr-x");
        assert_eq!(mode_text(0o102_640), "-rw-r-S---");
        assert_eq!(mode_text(0o120_777), "lrwxrwxrwx");
        assert_eq!(mode_text(0o020_666), "crw-rw-rw-");
    }

    #[test]
    fn names_cannot_drive_a_terminal() {
        assert_eq!(shown(b"plain \xc3\xa9"), "plain \u{e9}");
        assert_eq!(shown(b"\x1b[2J\xff"), "\\u{1b}[2J\\xff");
    }
}
