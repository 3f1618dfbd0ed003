//! The calling thread's mount table, parsed from `/proc/thread-self/mountinfo`
//! (`proc_pid_mountinfo(5)`).
//!
//! The thread's table, not the process's: threads may live in mount namespaces
//! of their own. Reading it never touches a mounted file system, so it cannot
//! hang on a dead one.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Id, unique on the machine while the mount lives.
    pub id: u64,
    /// Id of the mount it sits on.
    pub parent: u64,
    /// Device of its files: major, minor.
    pub device: (u32, u32),
    /// Which directory of the file system is its root.
    pub root: PathBuf,
    /// Where it is.
    pub mount_point: PathBuf,
    /// Per-mount options, comma separated.
    pub options: String,
    /// Type, such as `erofs` or `fuse.lamina`.
    pub fs_type: String,
    /// What was mounted.
    pub source: PathBuf,
    /// File system options, comma separated.
    pub super_options: String,
}

/// One mount: its id, which another mount gets once this one is gone, and the device of its file
/// system, which makes a mistake unlikely then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountIdentity {
    /// Id, unique on the machine while the mount lives.
    pub id: u64,
    /// Device of its files: major, minor.
    pub device: (u32, u32),
}

impl MountEntry {
    /// Which mount this line is of.
    pub fn identity(&self) -> MountIdentity {
        MountIdentity {
            id: self.id,
            device: self.device,
        }
    }

    /// Whether it is served by a FUSE daemon.
    pub fn is_fuse(&self) -> bool {
        self.fs_type == "fuse" || self.fs_type == "fuseblk" || self.fs_type.starts_with("fuse.")
    }

    /// The value of a `key=value` file system option, unescaped.
    pub fn super_option(&self, key: &str) -> Option<PathBuf> {
        self.super_options.split(',').find_map(|option| {
            let (name, value) = option.split_once('=')?;
            (name == key).then(|| unescape(value.as_bytes()))
        })
    }
}

/// All mounts the calling thread can see, in mount order.
#[derive(Debug, Clone, Default)]
pub struct MountTable {
    entries: Vec<MountEntry>,
}

impl MountTable {
    /// Reads the table.
    ///
    /// # Errors
    /// When `/proc` is not there. Lines that cannot be parsed are left out.
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read("/proc/thread-self/mountinfo")?))
    }

    /// Parses the text of a `mountinfo` file.
    pub fn parse(text: &[u8]) -> Self {
        let lines = text.split(|byte| *byte == b'\n');
        Self {
            entries: lines.filter_map(parse_line).collect(),
        }
    }

    /// The entries in the kernel's order.
    pub fn entries(&self) -> &[MountEntry] {
        &self.entries
    }

    /// The topmost mount exactly on `target`, an absolute path without
    /// symbolic links.
    pub fn on(&self, target: &Path) -> Option<&MountEntry> {
        self.entries
            .iter()
            .rev()
            .find(|entry| entry.mount_point == target)
    }

    /// Every mount exactly on `target`, the topmost last.
    pub fn stack<'a>(
        &'a self,
        target: &'a Path,
    ) -> impl DoubleEndedIterator<Item = &'a MountEntry> {
        self.entries
            .iter()
            .filter(move |entry| entry.mount_point == target)
    }

    /// The mounts below `target`, not on it.
    pub fn below<'a>(&'a self, target: &'a Path) -> impl Iterator<Item = &'a MountEntry> {
        self.entries.iter().filter(move |entry| {
            entry.mount_point != target && entry.mount_point.starts_with(target)
        })
    }

    /// Upper directories of every overlayfs.
    pub fn overlay_uppers(&self) -> impl Iterator<Item = PathBuf> {
        self.entries
            .iter()
            .filter(|entry| entry.fs_type == "overlay")
            .filter_map(|entry| entry.super_option("upperdir"))
    }
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let root = unescape(fields.next()?);
    let mount_point = unescape(fields.next()?);
    let options = text(fields.next()?);
    fields.by_ref().find(|field| *field == b"-")?;
    Some(MountEntry {
        id,
        parent,
        device: (device.0.parse().ok()?, device.1.parse().ok()?),
        root,
        mount_point,
        options,
        fs_type: text(fields.next()?),
        source: unescape(fields.next()?),
        super_options: text(fields.next().unwrap_or_default()),
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// Space, tab, newline and backslash are written as `\ooo`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some(value) = octal(rest) {
            bytes.push(value);
            rest = &rest[4..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn octal(field: &[u8]) -> Option<u8> {
    let digits = field.strip_prefix(b"\\")?.get(..3)?;
    let value = digits.iter().try_fold(0_u32, |value, digit| {
        (b'0'..=b'7')
            .contains(digit)
            .then(|| value * 8 + u32::from(digit - b'0'))
    })?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        40 22 0:45 / /mnt/a\\040b ro,nosuid - erofs /x/y.fl ro,user_xattr\n\
        41 22 0:46 / /mnt/u rw master:1 propagate_from:2 - overlay lamina rw,lowerdir=/l,upperdir=/u\\134x/upper,workdir=/w\n\
        42 22 0:47 / /mnt/f rw - fuse.lamina lamina rw,user_id=0\n\
        garbage\n";

    #[test]
    fn fields_are_found_after_any_number_of_tags() {
        let table = MountTable::parse(TABLE);
        assert_eq!(table.entries().len(), 4);
        let overlay = table.on(Path::new("/mnt/u")).expect("listed");
        assert_eq!(overlay.device, (0, 46));
        assert_eq!(overlay.super_option("workdir"), Some("/w".into()));
        assert_eq!(overlay.super_option("volatile"), None);
        assert!(table.on(Path::new("/mnt/f")).expect("listed").is_fuse());
    }

    #[test]
    fn escapes_are_undone() {
        let table = MountTable::parse(TABLE);
        assert!(table.on(Path::new("/mnt/a b")).is_some());
        assert_eq!(
            table.overlay_uppers().collect::<Vec<_>>(),
            [PathBuf::from("/u\\x/upper")]
        );
    }

    #[test]
    fn the_topmost_of_stacked_mounts_wins() {
        let table = MountTable::parse(
            b"1 0 0:1 / /m rw - tmpfs a rw\n2 1 0:2 / /m rw - tmpfs b rw\n3 2 0:3 / /m/x rw - tmpfs c rw\n",
        );
        assert_eq!(table.on(Path::new("/m")).map(|entry| entry.id), Some(2));
        let below: Vec<u64> = table.below(Path::new("/m")).map(|entry| entry.id).collect();
        assert_eq!(below, [3]);
    }
}
