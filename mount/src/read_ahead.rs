//! How much the kernel reads beyond what a reader asked for, per file system.
//!
//! It also bounds the folios the page cache is filled with: after reads of 128 KiB (the kernel's default)
//! random reads and mapped pages of cached data cost a quarter to a half more than after large ones. A
//! disk often has its own, larger figure; a file system without a disk below it, such as EROFS over
//! files, gets the default, whatever its files lie on.
//!
//! The figure is an attribute of the file system's backing device information (`bdi`) in sysfs
//! (Documentation/ABI/testing/sysfs-class-bdi). Where a file system has no device number of its own
//! there, the kernel names it by its type and a number that nothing else shows: see [`Bdi::of_new`].

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const CLASS: &str = "/sys/class/bdi";

/// The backing device information of one file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bdi(String);

impl Bdi {
    /// Runs `make`, which makes a file system of type `fs` that has no device, and finds out which one
    /// is its own: the one that was not there before. `None` if that is not certain, because others
    /// made some, too, or sysfs cannot be read.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn of_new<T, E>(
        fs: &str,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, Option<Self>), E> {
        let before = of_type(fs);
        let made = make()?;
        let bdi = before.and_then(|before| {
            let after = of_type(fs)?;
            let mut new = after.difference(&before);
            match (new.next(), new.next()) {
                (Some(name), None) => Some(Self(name.clone())),
                _ => None,
            }
        });
        Ok((made, bdi))
    }

    /// Its read-ahead in KiB.
    ///
    /// # Errors
    /// When the file system is gone or sysfs cannot be read.
    pub fn read_ahead_kb(&self) -> io::Result<u32> {
        read(&self.attribute())
    }

    /// Sets its read-ahead in KiB: for files opened from now on.
    ///
    /// # Errors
    /// When the file system is gone, or sysfs is read-only as in most containers.
    pub fn set_read_ahead_kb(&self, kb: u32) -> io::Result<()> {
        std::fs::write(self.attribute(), kb.to_string())
    }

    fn attribute(&self) -> PathBuf {
        Path::new(CLASS).join(&self.0).join("read_ahead_kb")
    }
}

/// The read-ahead, in KiB, of the disk that holds `path`; `None` if no single disk does (btrfs, tmpfs,
/// network file systems) or sysfs cannot be read.
pub fn of_disk(path: &Path) -> Option<u32> {
    let device = path.metadata().ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let disk = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // A partition's directory lies in its disk's.
    let places = [disk.join("bdi"), disk.join("..").join("bdi")];
    places
        .iter()
        .find_map(|bdi| read(&bdi.join("read_ahead_kb")).ok())
}

fn read(attribute: &Path) -> io::Result<u32> {
    let text = std::fs::read_to_string(attribute)?;
    text.trim()
        .parse()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Names of those that belong to file systems of type `fs` without a device.
fn of_type(fs: &str) -> Option<BTreeSet<String>> {
    let listed = std::fs::read_dir(CLASS).ok()?;
    let names = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Some(names.filter(|name| is_of_type(name, fs)).collect())
}

/// The kernel's own form: `TYPE-NUMBER` (`super_setup_bdi` in fs/super.c).
fn is_of_type(name: &str, fs: &str) -> bool {
    name.strip_prefix(fs)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|number| number.parse::<u64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_type_are_told_from_others() {
        assert!(is_of_type("erofs-205936", "erofs"));
        for other in [
            "0:40",
            "erofs",
            "erofs-",
            "erofs-x",
            "overlay-3",
            "erofs2-3",
        ] {
            assert!(!is_of_type(other, "erofs"), "{other}");
        }
    }

    #[test]
    fn a_path_without_a_disk_has_no_figure() {
        assert_eq!(of_disk(Path::new("/proc")), None);
        assert_eq!(of_disk(Path::new("/no/such/path")), None);
    }
}
