//! Who a command runs as: the image's own `/etc/passwd` and `/etc/group`, read without ever leaving the image.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::ids::IDS_PER_SANDBOX;
use crate::spec::Identity;

/// Largest table read; an image with 100,000 accounts has one of 6 MiB.
const TABLE_MAX: u64 = 8 << 20;
/// Most groups of one user, the kernel's limit (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// The user asked for is none of the image's.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such name.
    #[error("the image has no user {0:?} in /etc/passwd; name one that it has, or give a number")]
    NoUser(String),
    /// No such name.
    #[error("the image has no group {0:?} in /etc/group; name one that it has, or give a number")]
    NoGroup(String),
    /// A number too large.
    #[error("id {0} is too large: those in a sandbox are below {IDS_PER_SANDBOX}")]
    TooLarge(u64),
    /// A table cannot be read.
    #[error("read {path} of the image")]
    Read {
        /// Which one.
        path: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// A user and where it is at home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its ids.
    pub identity: Identity,
    /// Its directory; `/` if the image does not say.
    pub home: String,
}

/// Finds `user[:group]`, names or numbers, as an image config has it; empty is root.
///
/// # Errors
/// [`UserError`].
pub fn find(root: BorrowedFd<'_>, wanted: &str) -> Result<User, UserError> {
    let passwd = table(root, "etc/passwd")?;
    let group = table(root, "etc/group")?;
    resolve(&passwd, &group, wanted)
}

/// A file of the image, empty if it has none. Links are followed as in a root file system of its own.
fn table(root: BorrowedFd<'_>, path: &'static str) -> Result<String, UserError> {
    let failed = |source| UserError::Read { path, source };
    // A FIFO in its place must not keep us waiting.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let file = match rustix::fs::openat2(root.as_fd(), path, flags, Mode::empty(), resolve) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(String::new()),
        Err(errno) => return Err(failed(errno.into())),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(TABLE_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn resolve(passwd: &str, group: &str, wanted: &str) -> Result<User, UserError> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (wanted, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let entry = account(passwd, user);
    let uid = match (entry, number(user)?) {
        (Some(entry), _) => entry.uid,
        (None, Some(uid)) => uid,
        (None, None) => return Err(UserError::NoUser(shown(user))),
    };
    let gid = match wanted_group {
        Some(name) => group_id(group, name)?,
        None => entry.map_or(0, |entry| entry.gid),
    };
    // As login does it: further groups only for whom no group was asked.
    let groups = match (entry, wanted_group) {
        (Some(entry), None) => groups_of(group, entry.name),
        _ => Vec::new(),
    };
    let all = [uid, gid].into_iter().chain(groups.iter().copied());
    for id in all {
        if id >= IDS_PER_SANDBOX {
            return Err(UserError::TooLarge(id.into()));
        }
    }
    let home = entry
        .map(|entry| entry.home)
        .filter(|home| home.starts_with('/'));
    Ok(User {
        identity: Identity { uid, gid, groups },
        home: home.unwrap_or("/").to_owned(),
    })
}

#[derive(Clone, Copy)]
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// By name first: an account may be called `1000`.
fn account<'a>(passwd: &'a str, wanted: &str) -> Option<Account<'a>> {
    let accounts = || {
        passwd.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            Some(Account {
                name: fields.first()?,
                uid: fields.get(2)?.parse().ok()?,
                gid: fields.get(3)?.parse().ok()?,
                home: fields.get(5).copied().unwrap_or("/"),
            })
        })
    };
    let by_number = || {
        wanted
            .parse()
            .ok()
            .and_then(|uid: u32| accounts().find(|found| found.uid == uid))
    };
    accounts()
        .find(|found| found.name == wanted)
        .or_else(by_number)
}

fn group_id(group: &str, wanted: &str) -> Result<u32, UserError> {
    let named = group.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next()? == wanted;
        is_it.then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    match named {
        Some(gid) => Ok(gid),
        None => number(wanted)?.ok_or_else(|| UserError::NoGroup(shown(wanted))),
    }
}

fn groups_of(group: &str, name: &str) -> Vec<u32> {
    let is_member = |line: &&str| {
        let members = line.split(':').nth(3).unwrap_or_default();
        members.split(',').any(|member| member == name)
    };
    let lines = group.lines().filter(is_member);
    lines
        .filter_map(|line| line.split(':').nth(2)?.parse().ok())
        .take(GROUPS_MAX)
        .collect()
}

fn number(text: &str) -> Result<Option<u32>, UserError> {
    match text.parse::<u64>() {
        Ok(id) => u32::try_from(id)
            .map(Some)
            .map_err(|_| UserError::TooLarge(id)),
        Err(_) => Ok(None),
    }
}

/// Names come from images and callers, who may write anything.
fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# no account\nweb:x:33:34::/srv:/bin/false\n\
                          big:x:70000:1::/:\n1000:x:5:6::/five:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nextra:x:50:root,web\nmore:x:51:web\n";

    fn found(wanted: &str) -> (u32, u32, Vec<u32>, String) {
        let user = resolve(PASSWD, GROUP, wanted).unwrap();
        let Identity { uid, gid, groups } = user.identity;
        (uid, gid, groups, user.home)
    }

    #[test]
    fn users_are_found_as_login_and_docker_find_them() {
        assert_eq!(found(""), (0, 0, vec![50], "/root".into()));
        assert_eq!(found("web"), (33, 34, vec![50, 51], "/srv".into()));
        assert_eq!(found("33"), (33, 34, vec![50, 51], "/srv".into()));
        assert_eq!(found("web:extra"), (33, 50, vec![], "/srv".into()));
        assert_eq!(found("7:8"), (7, 8, vec![], "/".into()));
        assert_eq!(found("1000"), (5, 6, vec![], "/five".into()));
    }

    #[test]
    fn what_is_not_there_or_too_large_is_named() {
        let refused = |wanted: &str| resolve(PASSWD, GROUP, wanted).unwrap_err().to_string();
        assert!(refused("nobody").contains("no user \"nobody\""));
        assert!(refused("0:nogroup").contains("no group \"nogroup\""));
        assert!(refused("big").contains("70000"));
        assert!(refused("65536").contains("65536"));
        assert!(refused("99999999999").contains("99999999999"));
    }

    #[test]
    fn tables_are_read_within_the_image_only() {
        let image = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(outside.path(), "evil:x:1:1::/:\n").unwrap();
        std::fs::create_dir(image.path().join("etc")).unwrap();
        std::os::unix::fs::symlink(outside.path(), image.path().join("etc/passwd")).unwrap();
        let root = File::open(image.path()).unwrap();
        assert!(matches!(
            find(root.as_fd(), "evil"),
            Err(UserError::NoUser(_))
        ));
        std::fs::remove_file(image.path().join("etc/passwd")).unwrap();
        nix::unistd::mkfifo(
            &image.path().join("etc/passwd"),
            nix::sys::stat::Mode::S_IRWXU,
        )
        .unwrap();
        assert_eq!(find(root.as_fd(), "").unwrap().identity.uid, 0);
    }
}
